"""The command line as a user meets it: what each command leaves behind, and what it says and returns when it can't."""

import contextlib
import dataclasses
import errno
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

import vaekit
from tests.marks import quick
from vaekit.cli import COMMANDS, main
from vaekit.data import open_data
from vaekit.files import load
from vaekit.owned import LOCK, MARK
from vaekit.registry import MODELS
from vaekit.training.checkpoint import RunFolder, read_tensors

CLASSES = ("one", "two", "zero")  # in the order that open_data has them
QUICK = ("--architecture", "mlp", "--epochs", "2", "--random-state", "0")
PER_CLASS = 20


class Done(NamedTuple):
    code: int
    out: str
    err: str


def run(*arguments) -> Done:
    """`vaekit ARGUMENTS` in this process; an exception other than SystemExit would be a user's traceback, and fails."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code if end.code is not None else 0
    assert "Traceback" not in err.getvalue()
    return Done(code, out.getvalue(), err.getvalue())


def done(*arguments) -> Done:
    """The same for a command that must succeed."""
    result = run(*arguments)
    assert result.code == 0, result.err
    return result


def assert_refused(result: Done, *words: str) -> None:
    """Exit code 2 and one line on standard error that says what is wrong."""
    assert result.code == 2 and not result.out.strip(), result
    assert result.err.startswith("vaekit: ") and result.err.count("\n") == 1, result.err
    for word in words:
        assert word in result.err


def assert_failed(result: Done, *words: str) -> None:
    """Exit code 1 and a last line that says why."""
    assert result.code == 1, result
    last = result.err.splitlines()[-1]
    assert last.startswith("vaekit: ")
    for word in words:
        assert word in last


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file below a folder, its bytes and when it was written."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def leftovers(folder: Path) -> list[Path]:
    """Temporary files that a command should have taken away."""
    return [path for path in folder.rglob("*") if ".tmp" in path.name or ".new." in path.name]


def weights(run_folder: Path) -> dict[str, np.ndarray]:
    tensors, _ = read_tensors(Path(run_folder) / "weights.safetensors")
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def assert_same_weights(first: Path, second: Path) -> None:
    mine, other = weights(first), weights(second)
    assert mine.keys() == other.keys()
    assert all(np.array_equal(mine[name], other[name]) for name in mine)


@pytest.fixture(scope="module")
def some_digits(digits) -> tuple[np.ndarray, np.ndarray]:
    """60 digits: twenty each of 0, 1 and 2."""
    x, y = digits
    chosen = np.concatenate([np.flatnonzero(y == digit)[:PER_CLASS] for digit in range(3)])
    return x[chosen], y[chosen]


@pytest.fixture(scope="module")
def photos(some_digits, tmp_path_factory) -> Path:
    """The same digits as a folder of PNG files, a sub-folder per class."""
    folder = tmp_path_factory.mktemp("photos")
    names = {0: "zero", 1: "one", 2: "two"}
    for index, (image, label) in enumerate(zip(*some_digits, strict=True)):
        target = folder / names[int(label)] / f"{index:03d}.png"
        target.parent.mkdir(exist_ok=True)
        Image.fromarray(image[..., 0]).save(target)
    return folder


@pytest.fixture(scope="module")
def npz(some_digits, tmp_path_factory) -> Path:
    """The same digits, labelled, as floats in a .npz file."""
    path = tmp_path_factory.mktemp("arrays") / "digits.npz"
    np.savez(path, x=(some_digits[0] / 255).astype(np.float32), y=some_digits[1])
    return path


@pytest.fixture(scope="module")
def unlabelled(some_digits, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("arrays") / "unlabelled.npy"
    np.save(path, some_digits[0])
    return path


@pytest.fixture(scope="module")
def runs(photos, tmp_path_factory) -> dict[str, Path]:
    """Each of the four models, trained on the photos."""
    folder = tmp_path_factory.mktemp("runs")
    for name in MODELS:
        done("train", name, "--data", photos, "--out", folder / name, *QUICK)
    return {name: folder / name for name in MODELS}


# ---- usage


def test_no_arguments_show_the_overview_and_are_wrong_usage():
    result = run()
    assert result.code == 2 and result.out == run("--help").out


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_lists_every_command_and_every_model(flag):
    result = done(flag)
    assert not result.err
    for name in (*COMMANDS, *MODELS):
        assert re.search(rf"^  {name}\b", result.out, re.MULTILINE), name


def test_the_version_is_the_packages():
    assert done("--version").out == f"vaekit {vaekit.__version__}\n"


@pytest.mark.parametrize("command", [(name,) for name in COMMANDS] + [("train", name) for name in MODELS])
def test_every_command_and_every_model_has_help(command):
    result = done(*command, "--help")
    assert result.out.startswith(f"usage: vaekit {' '.join(command)}") and not result.err


def test_training_no_model_names_the_models_and_is_wrong_usage():
    result = run("train")
    assert all(name in result.out + result.err for name in MODELS)
    assert result.code == 2


@pytest.mark.parametrize("name", MODELS)
def test_every_field_of_a_model_is_a_flag_with_words(name):
    shown = done("train", name, "--help").out
    for field in dataclasses.fields(MODELS[name].estimator()):
        assert re.search(rf"(?<![\w-])--{field.name.replace('_', '-')}(?![\w-])", shown), field.name


def test_flags_become_the_fields_of_the_run(npz, tmp_path):
    done("train", "bvae", "--data", npz, "--out", tmp_path / "run", *QUICK, "--latent-dim", 3, "--beta", 2,
         "--learning-rate", "0.01", "--batch-size", 16, "--schedule", "constant")  # fmt: skip
    config = json.loads((tmp_path / "run" / "run.json").read_text())
    given = {"latent_dim": 3, "beta": 2.0, "learning_rate": 0.01, "batch_size": 16, "schedule": "constant",
             "architecture": "mlp", "epochs": 2, "random_state": 0}  # fmt: skip
    assert config["class"] == "BetaVAE" and given.items() <= config["fields"].items()
    assert config["plan"]["learning_rate"] == 0.01 and config["plan"]["steps"] == 2 * (48 // 16)


@pytest.mark.parametrize(
    "arguments, hint",
    [
        (("trian",), "'train'"),
        (("train", "vea"), "'vae'"),
        (("train", "vq-vae"), "'vqvae'"),
        (("data", "digitz"), "'digits'"),
        (("data", "fashion"), "'fashion-mnist'"),
        (("compare", "--models", "vae,cave", "--data", "digits", "--out", "report"), "'cvae'"),
    ],
)
def test_a_misspelt_name_gets_the_nearest_one(arguments, hint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_refused(run(*arguments), f"did you mean {hint}")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments, word",
    [
        (("--epochz", "2"), "--epochz"),
        (("--epochs", "abc"), "--epochs"),
        (("--latent-dim", "2.5"), "--latent-dim"),
        (("--latent-dim",), "--latent-dim"),
        (("stray",), "stray"),
    ],
)
def test_unknown_flags_and_values_that_are_no_numbers_are_wrong_usage(npz, tmp_path, arguments, word):
    result = run("train", "vae", "--data", npz, "--out", tmp_path / "run", *arguments)
    assert result.code == 2 and word in result.err and not result.out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "command", ["data", "fit-prior", "sample", "encode", "decode", "reconstruct", "evaluate", "compare"]
)
def test_commands_without_what_they_need_are_wrong_usage(command):
    result = run(command)
    assert result.code == 2 and "required" in result.err.lower()


@pytest.mark.parametrize(
    "model, arguments, word",
    [
        ("vae", ("--epochs", 0), "epochs"),
        ("vae", ("--latent-dim", -1), "latent_dim"),
        ("vae", ("--batch-size", 0), "batch_size"),
        ("vae", ("--learning-rate", "nan"), "learning_rate"),
        ("vae", ("--architecture", "transformer"), "architecture"),
        ("vae", ("--likelihood", "gausian"), "likelihood"),
        ("vae", ("--schedule", "triangle"), "schedule"),
        ("vae", ("--precision", "float8"), "precision"),
        ("vae", ("--device", "abacus"), "abacus"),
        ("vae", ("--random-state", -1), "random_state"),
        ("vae", ("--split-seed", -1), "split_seed"),
        ("vae", ("--time-budget", -1), "time_budget"),
        ("vae", ("--warmup-steps", -3), "warmup_steps"),
        ("vae", ("--rate-warmup-epochs", -3), "rate_warmup_epochs"),
        ("vae", ("--early-stopping", "--n-iter-no-change", 0), "n_iter_no_change"),
        ("bvae", ("--beta", "-1"), "beta"),
        ("bvae", ("--beta", 2, "--epsilon", 20), "epsilon"),
        ("vqvae", ("--n-codes", 0), "n_codes"),
        ("vqvae", ("--code-dim", 0), "code_dim"),
        ("vqvae", ("--commitment", -1), "commitment"),
        ("vqvae", ("--codebook-init", "zeros"), "zeros"),
    ],
)
def test_values_that_make_no_sense_are_refused_by_name_and_leave_no_run(npz, tmp_path, model, arguments, word):
    quick = ("--architecture", "mlp", "--epochs", 1, "--random-state", 0)
    result = run("train", model, "--data", npz, "--out", tmp_path / "run", *quick, *arguments)
    assert_refused(result)
    assert word in result.err.replace("-", "_")
    assert not (tmp_path / "run").exists()  # else the same line, put right, would be told that a run is already there


# ---- data


def test_data_says_what_is_in_the_digits():
    shown = done("data", "digits").out
    for word in ("1797", "uint8", "gaussian", "nothing wrong"):
        assert word in shown
    times, commands = shown.split("training takes here, about:\n")[1].split("to see new images in a minute:")
    assert re.findall(r"^  (\w+) +\d+ (?:s|min)", times, re.MULTILINE) == list(MODELS) and "its prior" in times
    quick, best = commands.split("for the best new images:")
    assert "train cvae --data digits --time-budget 60 " in quick and "sample runs/quick --per-class" in quick
    assert all(f"vaekit {command} " in best for command in ("train cvae", "fit-prior runs/best", "sample runs/best"))


def test_data_as_json_is_only_json():
    facts = json.loads(done("data", "digits", "--json", "--no-times").out)
    assert facts["count"] == 1797 and facts["shape"] == [8, 8, 1] and facts["problems"] == []
    assert facts["classes"]["0"] == 178 and len(facts["classes"]) == 10


def test_data_of_a_folder_counts_its_classes_and_says_what_is_wrong(photos, tmp_path):
    folder = shutil.copytree(photos, tmp_path / "photos")
    shutil.copy(folder / "one" / "020.png", folder / "one" / "copy.png")
    (folder / "notes.txt").write_text("not an image")
    facts = json.loads(done("data", folder, "--json", "--no-times").out)
    assert facts["classes"] == {"one": PER_CLASS + 1, "two": PER_CLASS, "zero": PER_CLASS} and facts["duplicates"] == 1
    shown = done("data", folder, "--no-times").out
    assert "duplicate" in shown and "passed over: 1" in shown and "only 61" in shown


def test_data_of_mixed_sizes_can_be_resized(photos, tmp_path):
    folder = shutil.copytree(photos, tmp_path / "photos")
    Image.new("L", (20, 30)).save(folder / "one" / "large.png")
    facts = json.loads(done("data", folder, "--json", "--no-times", "--resize", 12).out)
    assert facts["shape"] == [12, 12, 1] and facts["count"] == 3 * PER_CLASS + 1


def png(folder: Path, name: str = "0.png", size: tuple[int, int] = (8, 8)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.arange(size[0] * size[1], dtype=np.uint8).reshape(size[1], size[0])).save(folder / name)
    return folder / name


def unreadable(folder: Path) -> Path:
    png(folder)
    (folder / "1.png").write_text("no image at all")
    return folder


def truncated(folder: Path) -> Path:
    png(folder)
    content = png(folder, "1.png", (64, 64)).read_bytes()
    (folder / "1.png").write_bytes(content[: len(content) // 2])
    return folder


def mixed(folder: Path) -> Path:
    png(folder)
    png(folder, "1.png", (9, 8))
    return folder


def saved(name: str, **arrays):
    """A maker of one .npy or .npz file."""

    def make(folder: Path) -> Path:
        folder.mkdir()
        if name.endswith(".npy"):
            np.save(folder / name, arrays["x"], allow_pickle=True)
        else:
            np.savez(folder / name, **arrays)
        return folder / name

    return make


def text(folder: Path) -> Path:
    folder.mkdir()
    (folder / "data.xyz").write_text("1,2,3")
    return folder / "data.xyz"


def empty(folder: Path) -> Path:
    folder.mkdir()
    return folder


def cut_short(folder: Path) -> Path:
    path = saved("cut.npz", x=np.zeros((20, 8, 8)))(folder)
    path.write_bytes(path.read_bytes()[:-200])
    return path


NAN = np.full((20, 8, 8), 0.5)
NAN[3, 2, 1] = np.nan
BAD_DATA = {
    "a path that is not there": (lambda folder: folder / "nowhere", "no such file or folder"),
    "an empty folder": (empty, "no images"),
    "an unreadable image": (unreadable, "1.png"),
    "a truncated image": (truncated, "1.png"),
    "images of two sizes": (mixed, "--resize"),
    "a single image": (png, "folder"),
    "a file of another kind": (text, "data.xyz"),
    "a damaged archive": (cut_short, "cut.npz"),
    "NaN in a .npy file": (saved("x.npy", x=NAN), "sample 3"),
    "NaN in a .npz file": (saved("x.npz", x=NAN), "sample 3"),
    "0 to 255 as floats": (saved("x.npy", x=np.full((20, 8, 8), 200.0)), "255"),
    "negative pixels": (saved("x.npz", x=np.full((20, 8, 8), -1)), "-1"),
    "too few labels": (saved("x.npz", x=np.zeros((20, 8, 8)), y=np.arange(19)), "19 labels for 20"),
    "NaN for a label": (saved("x.npz", x=np.zeros((20, 8, 8)), y=np.full(20, np.nan)), "label"),
    "an archive without x": (saved("x.npz", left=np.zeros((20, 8, 8)), right=np.zeros((20, 8, 8))), "left"),
    "Python objects": (saved("x.npy", x=np.array([{}, {}])), "objects"),
}


@pytest.mark.parametrize("kind", BAD_DATA)
def test_data_that_can_not_be_used_is_refused_in_one_line(kind, tmp_path):
    make, word = BAD_DATA[kind]
    path = make(tmp_path / "data")
    if kind in ("an unreadable image", "a truncated image"):  # told, and left out of the description
        assert word in done("data", path, "--no-times").out
    else:
        assert_refused(run("data", path, "--no-times"), word)
    assert_refused(run("train", "vae", "--data", path, "--out", tmp_path / "run", *QUICK), word)
    assert not (tmp_path / "run").exists()


def test_too_few_images_to_split_are_refused(tmp_path):
    np.save(tmp_path / "nine.npy", np.zeros((9, 8, 8), np.uint8))
    assert_refused(run("train", "vae", "--data", tmp_path / "nine.npy", "--out", tmp_path / "run", *QUICK), "10")


# ---- train


@pytest.mark.parametrize("name", MODELS)
def test_training_leaves_a_finished_run(runs, name):
    config = json.loads((runs[name] / "run.json").read_text())
    assert config["class"] == MODELS[name].name and config["version"] == vaekit.__version__
    records = [json.loads(line) for line in (runs[name] / "log.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == [1, 2]
    assert {path.name for path in runs[name].iterdir()} == {MARK, LOCK, "log.jsonl", "run.json", "weights.safetensors"}
    model = load(runs[name])
    assert model.image_shape_ == (8, 8, 1) and model.n_parameters_ == config["parameters"]


def test_a_warning_is_one_plain_line(tmp_path):
    np.savez(tmp_path / "few.npz", x=np.random.default_rng(0).integers(0, 256, (12, 8, 8), dtype=np.uint8))
    with contextlib.redirect_stderr(io.StringIO()) as shown, warnings.catch_warnings():
        warnings.simplefilter("default")
        main(["train", "vqvae", "--data", str(tmp_path / "few.npz"), "--out", str(tmp_path / "run"), "--epochs", "1"])
    lowered = [line for line in shown.getvalue().splitlines() if "n_codes lowered" in line]
    assert lowered == ["vaekit: n_codes lowered from 256 to 160: there are no more training vectors"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_terminal_gets_a_bar_with_the_time_left_and_every_term(npz, tmp_path):
    import pty

    ours, theirs = pty.openpty()
    shown = []

    def read():
        with contextlib.suppress(OSError):  # how a pseudo-terminal says that its other end is closed
            while part := os.read(ours, 4096):
                shown.append(part)

    reader = threading.Thread(target=read)
    reader.start()
    with os.fdopen(theirs, "w") as terminal, contextlib.redirect_stderr(terminal):
        main(["train", "vae", "--data", str(npz), "--out", str(tmp_path / "run"), *QUICK])
    reader.join()
    os.close(ours)
    for word in ("left", "steps of", "epoch 2/2", "distortion", "rate"):
        assert word in b"".join(shown).decode()


def test_training_reports_on_stderr_and_sums_up_on_stdout(npz, tmp_path):
    result = done("train", "vae", "--data", npz, "--out", tmp_path / "run", *QUICK)
    assert "epoch 2/2" in result.err and "rate" in result.err
    assert str(tmp_path / "run") in result.out and "epoch 2/2" not in result.out


def test_files_that_were_passed_over_are_mentioned(photos, tmp_path):
    folder = shutil.copytree(photos, tmp_path / "photos")
    (folder / "one" / "notes.txt").write_text("not an image")
    assert "passed over: 1" in done("train", "cvae", "--data", folder, "--out", tmp_path / "run", *QUICK).err


def test_the_random_state_decides_the_weights(npz, tmp_path):
    quick = ("--data", npz, "--architecture", "mlp", "--epochs", 1)
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        done("train", "vae", *quick, "--out", tmp_path / name, "--random-state", seed)
    assert_same_weights(tmp_path / "a", tmp_path / "b")
    with pytest.raises(AssertionError):
        assert_same_weights(tmp_path / "a", tmp_path / "c")


def test_an_existing_run_is_refused_without_resume_and_left_as_it_is(runs, photos):
    before = snapshot(runs["vae"])
    assert_refused(run("train", "vae", "--data", photos, "--out", runs["vae"], *QUICK), "--resume")
    assert snapshot(runs["vae"]) == before


def test_resuming_a_finished_run_changes_nothing(runs, photos, monkeypatch):
    def train(*_, **__):
        raise AssertionError("a finished run was trained again")

    before = snapshot(runs["vqvae"])
    monkeypatch.setattr("vaekit.training.course.train", train)
    done("train", "vqvae", "--data", photos, "--out", runs["vqvae"], *QUICK, "--resume")
    assert snapshot(runs["vqvae"]) == before


def test_resuming_where_there_is_no_run_starts_one(runs, photos, tmp_path):
    done("train", "vae", "--data", photos, "--out", tmp_path / "deep" / "run", *QUICK, "--resume")
    assert_same_weights(tmp_path / "deep" / "run", runs["vae"])


def test_resuming_as_something_else_is_refused_and_says_what_differs(runs, photos, npz):
    before = snapshot(runs["vae"])
    go_on = ("--data", photos, "--out", runs["vae"], "--resume")
    assert_refused(run("train", "vae", *go_on, *QUICK, "--latent-dim", 3), "latent_dim 10 -> 3")
    assert_refused(run("train", "bvae", *go_on, *QUICK), "VAE", "BetaVAE")
    assert_refused(run("train", "vae", "--data", npz, *go_on[2:], *QUICK), "other data")
    assert snapshot(runs["vae"]) == before


def test_resuming_on_another_split_is_refused_since_it_would_train_on_what_was_held_out(runs, photos):
    go_on = ("--data", photos, "--out", runs["vae"], "--resume", *QUICK)
    assert_refused(run("train", "vae", *go_on, "--split-seed", 1), "split")


def test_ctrl_c_leaves_a_run_that_goes_on_to_the_same_weights(npz, tmp_path, monkeypatch):
    arguments = ("train", "vae", "--data", npz, "--architecture", "mlp", "--epochs", 5, "--random-state", 0, "--out")
    done(*arguments, tmp_path / "unbroken")
    append = RunFolder.append

    def interrupt(folder, record):
        append(folder, record)
        if record["epoch"] == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "append", interrupt)
        result = run(*arguments, tmp_path / "broken")
    assert result.code == 130 and "--resume" in result.err.splitlines()[-1]
    done("sample", tmp_path / "broken", "--out", tmp_path / "x.npy")  # as of its last checkpoint
    done(*arguments, tmp_path / "broken", "--resume")
    assert_same_weights(tmp_path / "broken", tmp_path / "unbroken")
    assert [record["epoch"] for record in RunFolder(tmp_path / "broken").log()] == [1, 2, 3, 4, 5]


def test_ctrl_c_outside_training_is_130_in_one_line(monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("vaekit.data.open_whole", interrupt)
    result = run("data", "digits")
    assert result.code == 130 and result.err.startswith("vaekit: ") and result.err.count("\n") == 1


def test_training_that_blows_up_fails_with_advice(npz, tmp_path):
    result = run("train", "vae", "--data", npz, "--out", tmp_path / "run", *QUICK[:2], "--epochs", 20,
                 "--learning-rate", "1e12")  # fmt: skip
    assert_failed(result, "non-finite", "learning rate")


def test_a_time_budget_shortens_the_run(npz, tmp_path):
    done("train", "vae", "--data", npz, "--out", tmp_path / "run", "--architecture", "mlp", "--epochs", 10**6,
         "--time-budget", "0.2")  # fmt: skip
    assert RunFolder(tmp_path / "run").log()[-1]["step"] < 10**6


def test_early_stopping_watches_held_out_images(npz, tmp_path):
    done("train", "vae", "--data", npz, "--out", tmp_path / "run", *QUICK, "--early-stopping")
    assert all("validation_objective" in record for record in RunFolder(tmp_path / "run").log())


def test_a_conditional_model_without_labels_is_refused(unlabelled, tmp_path):
    result = run("train", "cvae", "--data", unlabelled, "--out", tmp_path / "run", *QUICK)
    assert_refused(result, "requires y")
    assert not (tmp_path / "run").exists()


def test_a_table_of_numbers_is_trained_sampled_and_evaluated(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "table.npy", rng.normal(7, 2, (50, 4)))
    done("train", "vae", "--data", tmp_path / "table.npy", "--out", tmp_path / "run", "--epochs", 1)
    done("sample", tmp_path / "run", "-n", 5, "--out", tmp_path / "x.npy")
    assert np.load(tmp_path / "x.npy").shape == (5, 4)
    done("evaluate", tmp_path / "run", "--data", tmp_path / "table.npy")
    assert_refused(run("sample", tmp_path / "run", "--out", tmp_path / "folder"), ".npy")


# ---- fit-prior


def test_a_vqvae_without_a_prior_says_what_to_run(own, tmp_path):
    assert_refused(run("sample", own["vqvae"], "--out", tmp_path / "x.png"), "vaekit fit-prior", "--plain-prior")
    assert not list(tmp_path.glob("x.*"))


def test_a_fitted_prior_gives_samples_by_class_and_the_rate_of_the_evaluation(own, photos, tmp_path):
    done("evaluate", own["vqvae"], "--data", photos)
    before = json.loads((own["vqvae"] / "evaluation.json").read_text())
    result = done("fit-prior", own["vqvae"], "--data", photos, "--epochs", 2, "--layers", 1, "--channels", 8)
    assert "PixelCNN, per class" in result.out and "held-out images" in result.out
    assert set(os.listdir(own["vqvae"])) == {
        *(MARK, LOCK, "run.json", "log.jsonl", "weights.safetensors", "prior.safetensors", "evaluation.json")
    }
    label = CLASSES[0]
    done("sample", own["vqvae"], "-n", 5, "--label", label, "--top-p", 0.9, "--out", tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as file:
        assert file["x"].shape == (5, 8, 8, 1) and set(file["y"]) == {label}
    done("sample", own["vqvae"], "-n", 2, "--per-class", "--out", tmp_path / "more")
    assert open_data(tmp_path / "more", "all").classes == tuple(sorted(CLASSES))
    done("evaluate", own["vqvae"], "--data", photos)
    after = json.loads((own["vqvae"] / "evaluation.json").read_text())
    assert (before["prior"], after["prior"]) == ("uniform", "PixelCNN, per class")
    assert after["rate_plain"] == pytest.approx(before["rate"]) and after["rate"] != pytest.approx(before["rate"])
    assert after["distortion"] == pytest.approx(before["distortion"])
    assert "class_consistency" in after


def test_a_prior_of_all_classes_together_takes_no_label(own, photos, tmp_path):
    result = done("fit-prior", own["vae"], "--data", photos, "--no-per-class", "--prior", "gmm")
    assert "GMM, in" in result.out
    assert_refused(run("sample", own["vae"], "--label", CLASSES[0], "--out", tmp_path / "x.npy"), "unconditional")
    assert_refused(run("fit-prior", own["cvae"], "--data", photos, "--no-per-class"), "conditional", "--no-per-class")


@pytest.mark.parametrize(
    "name, flags, words",
    [
        ("vae", ("--prior", "gnm"), ("gnm", "did you mean 'gmm'?")),
        ("vae", ("--prior", "pixelcnn"), ("does not fit Gaussian latents", "gmm")),
        ("vqvae", ("--prior", "flow"), ("does not fit codes", "pixelcnn")),
        ("vqvae", ("--layers", 0), ("layers", "> 0")),
        ("vae", ("--validation-fraction", 1.5), ("validation_fraction", "1.5")),
    ],
)
def test_a_prior_that_does_not_fit_is_refused(own, photos, name, flags, words):
    before = snapshot(own[name])
    assert_refused(run("fit-prior", own[name], "--data", photos, *flags), *words)
    assert snapshot(own[name]) == before


def test_a_prior_of_another_model_is_refused(own, photos, tmp_path):
    done("fit-prior", own["vae"], "--data", photos)
    shutil.copy(own["vae"] / "prior.safetensors", own["bvae"] / "prior.safetensors")
    shutil.copy(own["vae"] / "prior.safetensors", own["vqvae"] / "prior.safetensors")
    for name, words in (("bvae", "the codes of another model"), ("vqvae", "another codebook size")):
        assert_refused(run("sample", own[name], "--out", tmp_path / "x.npy"), words, "vaekit fit-prior")
    done("fit-prior", own["bvae"], "--data", photos)
    done("sample", own["bvae"], "--out", tmp_path / "x.npy")


# ---- sample


def test_a_grid_of_samples_is_a_picture(runs, tmp_path):
    result = done("sample", runs["vae"], "-n", 6, "--out", tmp_path / "deep" / "grid.png")
    with Image.open(tmp_path / "deep" / "grid.png") as image:
        assert image.size[0] > 6 * 8 and len(image.convert("L").getcolors()) > 2
    assert "6 samples" in result.out and os.listdir(tmp_path / "deep") == ["grid.png"]


def test_samples_come_in_the_layout_of_the_training_images(runs, npz, tmp_path):
    done("sample", runs["vae"], "-n", 5, "--out", tmp_path / "x.npy")
    x = np.load(tmp_path / "x.npy")
    assert x.shape == (5, 8, 8, 1) and x.dtype == np.uint8
    done("train", "vae", "--data", npz, "--out", tmp_path / "floats", *QUICK)
    done("sample", tmp_path / "floats", "--n", 5, "--out", tmp_path / "f.npy")
    floats = np.load(tmp_path / "f.npy")
    assert floats.dtype == np.float32 and floats.min() >= 0 and floats.max() <= 1


@pytest.mark.parametrize("name", MODELS)
def test_sixty_four_samples_unless_told_otherwise(runs, tmp_path, name):
    done("sample", runs[name], "--plain-prior", "--out", tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as file:
        assert len(file["x"]) == 64 and ("y" in file) == (name == "cvae")


def test_samples_in_a_folder_are_images_that_open(runs, tmp_path):
    done("sample", runs["vqvae"], "-n", 12, "--plain-prior", "--out", tmp_path / "more", "--random-state", 1)
    done("sample", runs["vqvae"], "-n", 12, "--plain-prior", "--out", tmp_path / "x.npy", "--random-state", 1)
    images = open_data(tmp_path / "more", "all")
    assert images.y is None and np.array_equal(images.x, np.load(tmp_path / "x.npy"))


def test_the_random_state_decides_the_samples(runs, tmp_path):
    for name, extra in (("a", ("--random-state", 3)), ("b", ("--random-state", 3)), ("c", ()), ("d", ())):
        done("sample", runs["cvae"], "-n", 8, "--out", tmp_path / f"{name}.npz", *extra)
    a, b, c, d = (dict(np.load(tmp_path / f"{name}.npz")) for name in "abcd")
    assert np.array_equal(a["x"], b["x"]) and np.array_equal(a["y"], b["y"])
    assert not np.array_equal(c["x"], d["x"])


def test_a_label_is_asked_for_by_name(runs, tmp_path):
    done("sample", runs["cvae"], "-n", 4, "--label", "two", "--out", tmp_path / "x.npz", "--random-state", 0)
    with np.load(tmp_path / "x.npz") as file:
        assert file["y"].tolist() == ["two"] * 4
        assert np.array_equal(file["x"], load(runs["cvae"]).sample(4, "two", random_state=0))


def test_samples_per_class_are_a_labelled_folder_to_train_on(runs, photos, tmp_path):
    more = tmp_path / "more"
    done("sample", runs["cvae"], "--per-class", "-n", 7, "--out", more, "--random-state", 0)
    made = open_data(more, "all")
    assert made.classes == CLASSES and made.image_shape == (8, 8, 1)
    assert np.bincount(made.y).tolist() == [7, 7, 7]
    expected = load(runs["cvae"]).sample(21, np.repeat(CLASSES, 7), random_state=0)
    assert np.array_equal(made.x, expected)
    for folder in photos.iterdir():  # real and new images together
        shutil.copytree(folder, more / folder.name, dirs_exist_ok=True)
    facts = json.loads(done("data", more, "--json", "--no-times").out)
    assert facts["classes"] == dict.fromkeys(CLASSES, PER_CLASS + 7)
    done("train", "cvae", "--data", more, "--out", tmp_path / "run", *QUICK)
    assert load(tmp_path / "run").classes_.tolist() == list(CLASSES)


def test_samples_per_class_in_one_file_have_their_labels(runs, tmp_path):
    done("sample", runs["cvae"], "--per-class", "-n", 3, "--out", tmp_path / "x.npz")
    made = open_data(tmp_path / "x.npz", "all")
    assert made.classes == CLASSES and np.bincount(made.y).tolist() == [3, 3, 3]
    done("sample", runs["cvae"], "--per-class", "-n", 3, "--out", tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 500


@pytest.mark.parametrize("label", ["n/a", "../up", ".hidden"])
def test_class_names_that_are_no_folder_names_come_back_whole_or_are_refused(some_digits, tmp_path, label):
    x, y = some_digits
    np.savez(tmp_path / "odd.npz", x=x, y=np.array([label, "plain"])[(y > 0).astype(int)])
    done("train", "cvae", "--data", tmp_path / "odd.npz", "--out", tmp_path / "run", *QUICK)
    before = {path.name for path in tmp_path.iterdir()}
    result = run("sample", tmp_path / "run", "--per-class", "-n", 2, "--out", tmp_path / "more")
    assert {path.name for path in tmp_path.iterdir()} <= before | {"more"}  # nothing beside the folder that was named
    if result.code == 0:
        made = open_data(tmp_path / "more", "all")
        assert made.classes == tuple(sorted([label, "plain"])) and len(made) == 4
    else:
        assert_refused(result, label)


def test_samples_never_mix_with_what_a_folder_holds(runs, photos, tmp_path):
    folder = shutil.copytree(photos, tmp_path / "photos")
    before = snapshot(folder)
    assert_refused(run("sample", runs["cvae"], "--per-class", "--out", folder), "not an empty folder")
    assert snapshot(folder) == before
    (tmp_path / "empty").mkdir()
    done("sample", runs["vae"], "-n", 2, "--out", tmp_path / "empty")


@pytest.mark.parametrize("flags", [("--label", "two"), ("--per-class",)])
@pytest.mark.parametrize("name", ["vae", "bvae", "vqvae"])
def test_a_label_needs_a_conditional_model(runs, tmp_path, name, flags):
    assert_refused(run("sample", runs[name], *flags, "--out", tmp_path / "x.npy"), "unconditional", "CVAE")


@pytest.mark.parametrize(
    "flags, words",
    [
        (("--label", "three"), ("'three'", *CLASSES)),
        (("--label", "two", "--per-class"), ("not both",)),
        (("-n", 0), ("n must be", "0")),
        (("-n", -1, "--label", "two"), ("n must be", "-1")),
        (("-n", -1, "--per-class"), ("n must be", "-1")),
        (("--temperature", 0), ("temperature",)),
        (("--temperature", "nan"), ("temperature",)),
        (("--random-state", -1), ("random",)),
    ],
)
def test_samples_that_make_no_sense_are_refused(runs, tmp_path, flags, words):
    assert_refused(run("sample", runs["cvae"], "--out", tmp_path / "x.npy", *flags), *words)
    assert not any(tmp_path.iterdir())


# ---- encode, decode, reconstruct


@pytest.mark.parametrize("name", ["vae", "bvae", "vqvae"])
def test_decoding_what_was_encoded_is_reconstructing(runs, photos, tmp_path, name):
    data = ("--data", photos, "--split", "all")
    done("encode", runs[name], *data, "--out", tmp_path / "z.npy")
    codes, model, images = np.load(tmp_path / "z.npy"), load(runs[name]), open_data(photos, "all")
    assert np.array_equal(codes, model.encode(images.x))
    assert codes.dtype == (np.int64 if name == "vqvae" else np.float32) and len(codes) == 60
    done("decode", runs[name], "--codes", tmp_path / "z.npy", "--out", tmp_path / "decoded.npy")
    done("reconstruct", runs[name], *data, "--out", tmp_path / "rebuilt.npy")
    rebuilt = np.load(tmp_path / "rebuilt.npy")
    assert np.array_equal(np.load(tmp_path / "decoded.npy"), rebuilt) and rebuilt.shape == (60, 8, 8, 1)


def test_a_conditional_model_decodes_as_the_class_asked_for(runs, photos, tmp_path):
    done("encode", runs["cvae"], "--data", photos, "--out", tmp_path / "z.npz")
    decode = ("decode", runs["cvae"], "--codes", tmp_path / "z.npz", "--out")
    done(*decode, tmp_path / "x.npy", "--label", "two")
    codes = np.load(tmp_path / "z.npz")["x"]
    assert np.array_equal(np.load(tmp_path / "x.npy"), load(runs["cvae"]).decode(codes, "two"))
    assert_refused(run(*decode, tmp_path / "y.npy"), "--label")
    assert_refused(run(*decode, tmp_path / "y.npy", "--label", "three"), "'three'", *CLASSES)


def test_decoding_as_a_class_needs_a_conditional_model(runs, photos, tmp_path):
    done("encode", runs["vae"], "--data", photos, "--out", tmp_path / "z.npy")
    decode = ("decode", runs["vae"], "--codes", tmp_path / "z.npy", "--out", tmp_path / "x.npy")
    assert_refused(run(*decode, "--label", "two"), "unconditional")


def test_latents_keep_the_labels_of_their_images(runs, photos, some_digits, tmp_path):
    done("encode", runs["vae"], "--data", photos, "--split", "all", "--out", tmp_path / "z.npz")
    images = open_data(photos, "all")
    with np.load(tmp_path / "z.npz") as file:
        assert file["y"].astype(str).tolist() == [images.classes[index] for index in images.y]
    x, y = some_digits  # and labels that are numbers stay those numbers
    np.savez(tmp_path / "from7.npz", x=x, y=y + 7)
    done("encode", runs["vae"], "--data", tmp_path / "from7.npz", "--split", "all", "--out", tmp_path / "z7.npz")
    with np.load(tmp_path / "z7.npz") as file:
        assert file["y"].astype(str).tolist() == (y + 7).astype(str).tolist()


def test_the_held_out_part_is_encoded_unless_told_otherwise(runs, photos, tmp_path):
    for split, count in (("train", 48), ("validation", 6), ("test", 6), ("all", 60)):
        done("encode", runs["vae"], "--data", photos, "--split", split, "--out", tmp_path / f"{split}.npy")
        assert len(np.load(tmp_path / f"{split}.npy")) == count
    done("encode", runs["vae"], "--data", photos, "--out", tmp_path / "default.npy")
    assert np.array_equal(np.load(tmp_path / "default.npy"), np.load(tmp_path / "test.npy"))
    result = run("encode", runs["vae"], "--data", photos, "--split", "tset", "--out", tmp_path / "x.npy")
    assert result.code == 2 and "--split" in result.err


@pytest.mark.parametrize("name", MODELS)
def test_reconstructions_are_drawn_below_the_images(runs, photos, tmp_path, name):
    done("reconstruct", runs[name], "--data", photos, "--out", tmp_path / "r.png", "-n", 3)
    with Image.open(tmp_path / "r.png") as image:
        assert len(image.convert("L").getcolors()) > 2


def test_reconstructions_are_also_written_as_images_and_decodings_too(runs, photos, tmp_path):
    done("reconstruct", runs["vae"], "--data", photos, "--out", tmp_path / "rebuilt", "-n", 4)
    assert len(open_data(tmp_path / "rebuilt", "all")) == 4
    done("encode", runs["vae"], "--data", photos, "--out", tmp_path / "z.npy")
    done("decode", runs["vae"], "--codes", tmp_path / "z.npy", "--out", tmp_path / "decoded")
    assert len(open_data(tmp_path / "decoded", "all")) == 6
    done("decode", runs["vae"], "--codes", tmp_path / "z.npy", "--out", tmp_path / "decoded.png")
    assert (tmp_path / "decoded.png").stat().st_size > 500


def test_a_conditional_model_infers_the_labels_that_data_lacks(runs, unlabelled, tmp_path):
    done("encode", runs["cvae"], "--data", unlabelled, "--out", tmp_path / "z.npz")
    done("reconstruct", runs["cvae"], "--data", unlabelled, "--out", tmp_path / "x.npy")
    with np.load(tmp_path / "z.npz") as file:
        assert file["x"].shape == (6, 10) and "y" not in file


@pytest.mark.parametrize("name, codes", [("vae", np.zeros((3, 4))), ("vqvae", np.zeros((3, 10))), ("vae", NAN)])
def test_codes_of_another_model_are_refused(runs, tmp_path, name, codes):
    np.save(tmp_path / "z.npy", codes)
    result = run("decode", runs[name], "--codes", tmp_path / "z.npy", "--out", tmp_path / "x.npy")
    assert_refused(result, "shape")
    assert not (tmp_path / "x.npy").exists()


def test_latents_that_are_not_finite_are_refused(runs, tmp_path):
    np.save(tmp_path / "z.npy", np.full((2, 10), np.nan))
    result = run("decode", runs["vae"], "--codes", tmp_path / "z.npy", "--out", tmp_path / "x.npy")
    assert_refused(result, "NaN")


def test_codes_that_are_not_there_are_refused(runs, tmp_path):
    result = run("decode", runs["vae"], "--codes", tmp_path / "z.npy", "--out", tmp_path / "x.npy")
    assert_refused(result, str(tmp_path / "z.npy"))


@pytest.mark.parametrize("suffix", [".txt", ".png", ""])
def test_latents_are_written_as_npy_or_npz_only(runs, photos, tmp_path, suffix):
    assert_refused(run("encode", runs["vae"], "--data", photos, "--out", tmp_path / f"z{suffix}"), ".npy", ".npz")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".jpg", ".csv"])
def test_a_file_of_another_kind_does_not_become_a_folder(runs, tmp_path, suffix):
    assert_refused(run("sample", runs["vae"], "-n", 2, "--out", tmp_path / f"x{suffix}"), suffix)
    assert not any(tmp_path.iterdir())


# ---- evaluate


def evaluation(run_folder: Path) -> dict:
    return json.loads((run_folder / "evaluation.json").read_text())


@pytest.fixture
def own(runs, tmp_path) -> dict[str, Path]:
    """Copies of the trained runs that a test may change."""
    return {name: shutil.copytree(folder, tmp_path / "own" / name) for name, folder in runs.items()}


@pytest.mark.parametrize("name", quick(MODELS, "vae", "cvae", "vqvae"))
def test_evaluating_prints_what_it_writes(own, photos, name):
    shown = done("evaluate", own[name], "--data", photos).out
    found = evaluation(own[name])
    for key in ("mse", "distortion", "rate", "elbo"):
        number = f"{found[key]:.6g}".replace("-", "\N{MINUS SIGN}")
        assert re.search(rf"\b{key} .*{re.escape(number)}", shown), key
    assert f"{found['parameters']:,}" in shown and f"all numbers are in {own[name]}/evaluation.json" in shown
    assert found["elbo"] == pytest.approx(-(found["distortion"] + found["rate"]), rel=1e-9)
    assert found["images"] == 6 and found["split"] == "test" and found["parameters"] == load(own[name]).n_parameters_
    assert ("class_consistency" in found) == (name == "cvae")
    done("evaluate", own[name], "--data", photos)
    assert evaluation(own[name]) == found


def test_the_judge_can_be_left_out(own, photos):
    done("evaluate", own["cvae"], "--data", photos, "--no-judge")
    assert "class_consistency" not in evaluation(own["cvae"])


def test_evaluation_is_on_images_that_were_held_out_whatever_the_seed_given(npz, tmp_path):
    done("train", "vae", "--data", npz, "--out", tmp_path / "run", *QUICK, "--split-seed", 3)
    model = load(tmp_path / "run")

    def mse(split: str, seed: int) -> float:
        x = open_data(npz, split, split_seed=seed).x
        return float(np.square(model.reconstruct(x) - x).mean())

    assert not {mse("train", 3), mse("test", 0), mse("test", 4)} & {mse("test", 3)}
    for extra in ((), ("--split-seed", 3), ("--split-seed", 4)):
        done("evaluate", tmp_path / "run", "--data", npz, *extra)
        assert evaluation(tmp_path / "run")["mse"] == pytest.approx(mse("test", 3), rel=1e-5)
    done("evaluate", tmp_path / "run", "--data", npz, "--split", "train")
    assert evaluation(tmp_path / "run")["mse"] == pytest.approx(mse("train", 3), rel=1e-5)


@pytest.mark.parametrize("command", ["evaluate", "encode", "reconstruct"])
def test_images_of_another_size_are_refused(own, tmp_path, command):
    np.save(tmp_path / "large.npy", np.zeros((20, 9, 9), np.uint8))
    out = () if command == "evaluate" else ("--out", tmp_path / "x.npy")
    for name in ("vae", "cvae"):
        result = run(command, own[name], "--data", tmp_path / "large.npy", *out)
        assert_refused(result, "(9, 9, 1)", "(8, 8, 1)")
    assert not (own["vae"] / "evaluation.json").exists()


def test_a_conditional_model_is_evaluated_by_class_names_not_by_their_order(own, some_digits, tmp_path):
    x, y = some_digits
    names = np.array(["zero", "one", "two"])[y]
    np.savez(tmp_path / "some.npz", x=x[y > 1], y=names[y > 1])  # only class two, which is the second of the model's
    done("evaluate", own["cvae"], "--data", tmp_path / "some.npz", "--no-judge", "--split", "all")
    rebuilt = load(own["cvae"]).reconstruct(x[y > 1], names[y > 1])
    by_hand = np.square((rebuilt.astype(float) - x[y > 1]) / 255).mean()
    # Rebuilt pixels are rounded to 8 bits here, which the evaluation's are not.
    assert evaluation(own["cvae"])["mse"] == pytest.approx(by_hand, rel=2e-3)


def test_a_conditional_model_refuses_classes_it_does_not_know(own, npz):
    result = run("evaluate", own["cvae"], "--data", npz, "--no-judge")  # labels 0, 1, 2
    assert_refused(result, "label")
    assert not (own["cvae"] / "evaluation.json").exists()


@pytest.mark.parametrize("flag", ["--judge", "--no-judge"])
def test_a_conditional_model_without_labels_is_not_evaluated(own, unlabelled, flag):
    assert_refused(run("evaluate", own["cvae"], "--data", unlabelled, flag), "label")


# ---- runs that can't be read


def newer(folder: Path) -> None:
    config = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**config, "format": 99, "version": "9.9.9"}))


def without(key: str):
    def damage(folder: Path) -> None:
        config = json.loads((folder / "run.json").read_text())
        del config[key]
        (folder / "run.json").write_text(json.dumps(config))

    return damage


def cut_weights(folder: Path) -> None:
    content = (folder / "weights.safetensors").read_bytes()
    (folder / "weights.safetensors").write_bytes(content[: len(content) // 2])


def flip_weights(folder: Path) -> None:
    content = bytearray((folder / "weights.safetensors").read_bytes())
    content[-5] ^= 1
    (folder / "weights.safetensors").write_bytes(content)


def other_width(folder: Path) -> None:
    config = json.loads((folder / "run.json").read_text())
    config["resolved"]["latent_dim"] = 3
    (folder / "run.json").write_text(json.dumps(config))


DAMAGE = {
    "of a newer version": (newer, ("newer", "9.9.9", "upgrade")),
    "with truncated weights": (cut_weights, ("weights.safetensors", "damaged")),
    "with one bit turned": (flip_weights, ("weights.safetensors", "damaged")),
    "without weights": (lambda folder: (folder / "weights.safetensors").unlink(), ("not finished",)),
    "without run.json": (lambda folder: (folder / "run.json").unlink(), ("not a run folder",)),
    "with a run.json that is no JSON": (lambda folder: (folder / "run.json").write_text("{"), ("damaged",)),
    "with an empty run.json": (lambda folder: (folder / "run.json").write_text("{}"), ("damaged",)),
    "without its class": (without("class"), ("damaged",)),
    "without its plan": (without("plan"), ("damaged",)),
    "with weights of another size": (other_width, ("damaged",)),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_run_is_refused_in_one_line(own, photos, tmp_path, kind):
    damage, words = DAMAGE[kind]
    damage(own["vae"])
    before = snapshot(own["vae"])
    assert_refused(run("sample", own["vae"], "--out", tmp_path / "x.npy"), *words, str(own["vae"]))
    assert_refused(run("evaluate", own["vae"], "--data", photos), *words, str(own["vae"]))
    assert snapshot(own["vae"]) == before


def test_a_run_without_its_log_still_samples_and_is_evaluated_or_refused(own, photos, tmp_path):
    (own["vae"] / "log.jsonl").unlink()
    done("sample", own["vae"], "--out", tmp_path / "x.npy")
    result = run("evaluate", own["vae"], "--data", photos)
    if result.code:
        assert_refused(result, "log.jsonl")


@pytest.mark.parametrize("command", ["sample", "encode", "reconstruct", "decode", "evaluate"])
def test_a_run_that_is_not_there_is_refused_in_one_line(photos, tmp_path, command):
    np.save(tmp_path / "z.npy", np.zeros((2, 10)))
    flags = {"sample": (), "decode": ("--codes", tmp_path / "z.npy")}.get(command, ("--data", photos))
    out = () if command == "evaluate" else ("--out", tmp_path / "x.npy")
    assert_refused(run(command, tmp_path / "nowhere", *flags, *out), "no run folder", str(tmp_path / "nowhere"))
    assert_refused(run(command, photos, *flags, *out), "not a run folder")
    assert not (photos / "evaluation.json").exists()


# ---- the machine's faults


def no_space(*_) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def full_disk(monkeypatch):
    """From here on nothing reaches the disk."""
    return lambda: monkeypatch.setattr(os, "fsync", no_space)


@pytest.mark.parametrize("command", ["encode", "reconstruct", "sample"])
def test_a_full_disk_loses_no_output_and_leaves_no_temporary_file(own, photos, tmp_path, full_disk, command):
    out = tmp_path / "out" / "x.npy"
    data = () if command == "sample" else ("--data", photos)
    done(command, own["vae"], *data, "--out", out)
    before = snapshot(tmp_path)
    full_disk()
    assert_failed(run(command, own["vae"], *data, "--out", out, "--overwrite"), os.strerror(errno.ENOSPC).lower())
    assert snapshot(tmp_path) == before


def test_a_full_disk_loses_no_evaluation(own, photos, full_disk):
    done("evaluate", own["vae"], "--data", photos)
    before = snapshot(own["vae"])
    full_disk()
    assert_failed(run("evaluate", own["vae"], "--data", photos, "--split", "all"), os.strerror(errno.ENOSPC).lower())
    assert snapshot(own["vae"]) == before


def test_a_disk_that_is_full_from_the_start_leaves_nothing_behind(npz, tmp_path, full_disk):
    full_disk()
    assert_failed(
        run("train", "vae", "--data", npz, "--out", tmp_path / "run", *QUICK), os.strerror(errno.ENOSPC).lower()
    )
    assert not snapshot(tmp_path)


def test_training_that_filled_the_disk_goes_on_when_there_is_room(npz, tmp_path, monkeypatch):
    arguments = ("train", "vae", "--data", npz, "--architecture", "mlp", "--epochs", 4, "--random-state", 0, "--out")
    done(*arguments, tmp_path / "unbroken")
    fsync, calls = os.fsync, []

    def fills(descriptor):
        calls.append(descriptor)
        return fsync(descriptor) if len(calls) <= 3 else no_space()

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fills)
        result = run(*arguments, tmp_path / "run")
    assert_failed(result, os.strerror(errno.ENOSPC).lower())
    assert not leftovers(tmp_path)
    done(*arguments, tmp_path / "run", "--resume")
    assert_same_weights(tmp_path / "run", tmp_path / "unbroken")


@contextlib.contextmanager
def small_files():
    """No file can grow beyond a few bytes: pictures, too, meet a disk that is full."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("command", ["sample", "reconstruct"])
def test_a_full_disk_loses_no_picture(runs, photos, tmp_path, command):
    data = () if command == "sample" else ("--data", photos)
    done(command, runs["vae"], *data, "--out", tmp_path / "x.png")
    before = snapshot(tmp_path)
    with small_files():
        result = run(command, runs["vae"], *data, "--out", tmp_path / "x.png", "--overwrite")
    assert_failed(result)
    assert snapshot(tmp_path) == before


def test_a_full_disk_leaves_no_half_images_in_a_folder(runs, tmp_path):
    with small_files():
        result = run("sample", runs["cvae"], "--per-class", "-n", 2, "--out", tmp_path / "more")
    assert_failed(result)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_fails_in_one_line(runs, photos, npz, tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o555)
    try:
        for name in ("x.npy", "x.png", "more"):
            assert_failed(run("sample", runs["vae"], "-n", 2, "--out", folder / name), str(folder))
        assert_failed(run("train", "vae", "--data", npz, "--out", folder / "run", *QUICK), str(folder))
    finally:
        folder.chmod(0o755)
    assert not any(folder.iterdir())


@pytest.mark.parametrize("name", ["x.npy", "x.png", "folder"])
def test_a_file_where_a_folder_should_be_is_the_command_lines_fault(runs, tmp_path, name):
    (tmp_path / "file").write_text("precious")
    assert_refused(run("sample", runs["vae"], "-n", 2, "--out", tmp_path / "file" / name), str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "precious"


def test_a_run_is_not_made_over_a_file(npz, tmp_path):
    (tmp_path / "file").write_text("precious")
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        assert_refused(run("train", "vae", "--data", npz, "--out", out, *QUICK), str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "precious"


def test_an_array_is_not_written_over_a_folder(runs, tmp_path):
    (tmp_path / "x.npy").mkdir()
    assert_refused(run("sample", runs["vae"], "-n", 2, "--out", tmp_path / "x.npy"), str(tmp_path / "x.npy"))
    assert not leftovers(tmp_path)


# ---- as a process of its own


def process(*arguments) -> Done:
    command = [sys.executable, "-m", "vaekit", *map(str, arguments)]
    finished = subprocess.run(command, capture_output=True, text=True)
    return Done(finished.returncode, finished.stdout, finished.stderr)


def test_as_a_process_it_prints_and_returns_the_same():
    assert process("--version") == Done(0, f"vaekit {vaekit.__version__}\n", "")
    assert process() == run()
    assert process("trian") == run("trian")


def test_as_a_process_it_refuses_in_one_line(tmp_path):
    assert_refused(process("data", tmp_path / "nowhere"), str(tmp_path / "nowhere"))


def test_a_reader_that_has_seen_enough_gets_no_traceback():
    with subprocess.Popen(
        [sys.executable, "-m", "vaekit", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1
