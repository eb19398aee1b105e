"""Whose file is it: whatever folder a command is pointed at, it changes and removes only what vaekit itself has made."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.marks import quick
from vaekit import VAE, VQVAE, load
from vaekit.cli import main
from vaekit.data import open_data
from vaekit.owned import LOCK, MARK, check_file, check_folder, claim, discard, kind_of, locked, write_atomically
from vaekit.training.checkpoint import NAMES, RunFolder

LONG_AGO = 1_000_000_000
# Names that vaekit gives to files of its own, in one place or another, and names that anybody may give.
NAMED_LIKE_OURS = (
    *NAMES, "index.html", "results.json", "sweep.json", "sweep.png", "export.json", "README.md", "encoder.onnx", ".lock",
    LOCK, ".weights.safetensors.1.tmp", ".run.json.0123456789abcdef.tmp", "figures/samples.png", "runs/vae-seed0/run.json",
    "runs/vae-seed0/weights.safetensors", "prior/run.json", "prior/photo.png", "tensorboard/events", "facts.json", "pixels",
)  # fmt: skip
ANYBODYS = ("photo.png", "holiday.jpg", "notes.txt", ".hidden", ".x.tmp", "x.npz", "a b/ü.png", "empty/")
CONTENTS = (b"", b"mine", b"{}", b'{"format": 1}', b'{"class": "VAE"}', b"\x89PNG\r\n", b"vaekit\n")


def foreign(folder: Path, names, content: bytes = b"mine") -> None:
    """Files of somebody else's, as old as can be; a name that ends in / is an empty folder, one with -> a link."""
    for name in names:
        path = folder / name.rstrip("/")
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.write_bytes(content)
    for path in sorted(folder.rglob("*"), reverse=True):
        os.utime(path, (LONG_AGO, LONG_AGO), follow_symlinks=False)
    os.utime(folder, (LONG_AGO, LONG_AGO))


def seen(folder: Path, *, times_of_folders: bool = True) -> dict:
    """Everything below `folder`: contents, kinds, modes and time stamps."""
    found = {}
    for path in [folder, *folder.rglob("*")]:
        stat = path.lstat()
        what = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else "folder"
        when = stat.st_mtime_ns if times_of_folders or path.is_file() or path.is_symlink() else None
        found[str(path.relative_to(folder))] = (what, stat.st_mode, when)
    return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory, digits) -> Path:
    """A VAE's and a VQ-VAE's run, a labelled .npz, latents, and a folder of pictures; not to be changed."""
    root = tmp_path_factory.mktemp("owned")
    x, y = digits
    np.savez(root / "digits.npz", x=x[:120], y=y[:120])
    for i in range(100):
        path = root / "photos" / f"class {y[i]}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(x[i, ..., 0]).save(path)
    quick = {"architecture": "mlp", "epochs": 1, "random_state": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        images = open_data(str(root / "digits.npz"))
        model = VAE(latent_dim=2, **quick).fit_images(images, folder=str(root / "vae"))
        VQVAE(**quick).fit_images(images, folder=str(root / "vqvae"))
    np.save(root / "z.npy", model.encode(x[:4]))
    return root


def exit_code(*arguments) -> int:
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return stop.code or 0
    return 0


QUICK = ["--architecture", "mlp", "--epochs", "1"]
INTO_A_FOLDER = {  # commands whose --out is a folder that they write several files into
    "train": lambda runs, out: ["train", "vae", "--data", runs / "digits.npz", "--out", out, *QUICK],
    "train --resume": lambda runs, out: [
        "train",
        "vae",
        "--data",
        runs / "digits.npz",
        "--out",
        out,
        *QUICK,
        "--resume",
    ],
    "compare": lambda runs, out: ["compare", "--data", runs / "digits.npz", "--out", out, *QUICK, "--models", "vae"],
    "sweep": lambda runs, out: ["sweep", "--data", runs / "digits.npz", "--out", out, *QUICK, "--latent-dim", "2"],
    "sample": lambda runs, out: ["sample", runs / "vae", "--out", f"{out}/", "-n", "2"],
    "decode": lambda runs, out: ["decode", runs / "vae", "--codes", runs / "z.npy", "--out", f"{out}/"],
    "reconstruct": lambda runs, out: ["reconstruct", runs / "vae", "--data", runs / "digits.npz", "--out", f"{out}/"],
    "export": lambda runs, out: ["export", runs / "vae", "--out", out],
}
INTO_A_FILE = {  # and those that write one file, with the endings that it may have
    "sample": lambda runs, out: ["sample", runs / "vae", "--out", out, "-n", "2"],
    "encode": lambda runs, out: ["encode", runs / "vae", "--data", runs / "digits.npz", "--out", out],
    "decode": lambda runs, out: ["decode", runs / "vae", "--codes", runs / "z.npy", "--out", out],
    "reconstruct": lambda runs, out: ["reconstruct", runs / "vae", "--data", runs / "digits.npz", "--out", out],
    "data": lambda runs, out: ["data", runs / "digits.npz", "--picture", out],
}
ENDINGS = {"encode": (".npy", ".npz"), "data": (".png",)}


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    command=st.sampled_from(sorted(INTO_A_FOLDER)),
    names=st.lists(st.sampled_from((*NAMED_LIKE_OURS, *ANYBODYS)), min_size=1, max_size=6, unique=True),
    content=st.sampled_from(CONTENTS),
    through_a_link=st.booleans(),
)
def test_a_folder_with_anything_foreign_in_it_is_refused_and_left_as_it_is(
    runs, command, names, content, through_a_link
):
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / "theirs"
        foreign(out, names, content)
        given = out
        if through_a_link:
            given = Path(temporary) / "link"
            given.symlink_to(out)
        before = seen(Path(temporary))
        assert exit_code(*INTO_A_FOLDER[command](runs, given)) == 2
        assert seen(Path(temporary)) == before


@pytest.mark.parametrize("command", sorted(INTO_A_FOLDER))
def test_files_and_links_in_the_way_of_a_folder_are_told_in_a_sentence(runs, tmp_path, capsys, command):
    foreign(tmp_path / "theirs", ["file", "folder/x"])
    (tmp_path / "theirs" / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "theirs" / "round").symlink_to(tmp_path / "theirs" / "round")
    before = seen(tmp_path)
    for way, words in (
        ("file", "a file"),
        ("file/below", "file is a file, and no folder"),
        ("dangling", "a link to nothing"),
        ("dangling/below", "dangling is a link to nothing, and no folder"),
        ("round", "link"),
        ("n" * 300, "file name too long"),
    ):
        assert exit_code(*INTO_A_FOLDER[command](runs, tmp_path / "theirs" / way)) == 2, way
        said = capsys.readouterr().err
        assert words in said and "Errno" not in said and str(tmp_path / "theirs") in said, (way, said)
        assert len([line for line in said.splitlines() if not line.startswith("vaekit: decoded")]) == 1
    assert seen(tmp_path) == before


@pytest.mark.parametrize("command", quick(sorted(INTO_A_FILE), *(INTO_A_FILE.keys() - {"data"})))
def test_a_file_that_exists_is_replaced_only_where_the_user_says_so(runs, tmp_path, capsys, command):
    for ending in ENDINGS.get(command, (".png", ".npy", ".npz")):
        out = tmp_path / f"x{ending}"
        foreign(tmp_path, [out.name])
        before = seen(tmp_path)
        assert exit_code(*INTO_A_FILE[command](runs, out)) == 2
        assert f"{out} exists" in capsys.readouterr().err and seen(tmp_path) == before
        assert exit_code(*INTO_A_FILE[command](runs, out), "--overwrite") == 0
        assert out.read_bytes() != b"mine" and sorted(tmp_path.iterdir()) == [out]
        target = tmp_path / "target"
        target.write_bytes(b"mine")
        out.unlink()
        out.symlink_to(target)
        assert exit_code(*INTO_A_FILE[command](runs, out), "--overwrite") == 0
        assert target.read_bytes() == b"mine" and not out.is_symlink(), "a link is replaced, not followed"
        for path in (target, out):
            path.unlink()
        out.mkdir()
        assert exit_code(*INTO_A_FILE[command](runs, out), "--overwrite") == 2
        assert f"{out} is a folder" in capsys.readouterr().err
        out.rmdir()


def test_a_place_beside_what_is_read_is_no_part_of_it(tmp_path):
    """Though its name begins alike."""
    (tmp_path / "photos").mkdir()
    for beside in ("photos.npy", "photos 2/x.npy"):
        check_file(tmp_path / beside, inputs=[tmp_path / "photos"])
    with pytest.raises(ValueError, match=r"lies in .*photos, and would be taken for a part of it"):
        check_file(tmp_path / "photos" / "x.npy", inputs=[tmp_path / "photos"])


@pytest.mark.parametrize("link", ["the same", "a link", "a hard link", "through a linked folder", "relative"])
def test_what_is_read_is_never_written(runs, tmp_path, tmp_path_factory, monkeypatch, capsys, link):
    shutil.copy(runs / "digits.npz", tmp_path / "x.npz")
    shutil.copy(runs / "z.npy", tmp_path / "z.npy")

    def other(path: Path) -> Path:
        if link == "a link":
            (path.parent / f"link-{path.name}").symlink_to(path)
            return path.parent / f"link-{path.name}"
        if link == "a hard link":
            os.link(path, path.parent / f"hard-{path.name}")
            return path.parent / f"hard-{path.name}"
        if link == "through a linked folder":
            place = tmp_path_factory.mktemp("elsewhere") / "linked"
            place.symlink_to(path.parent)
            return place / path.name
        if link == "relative":
            monkeypatch.chdir(path.parent)
            return Path(path.name)
        return path

    outs = {name: other(tmp_path / name) for name in ("x.npz", "z.npy")}
    before = seen(tmp_path)
    for command in (
        ["encode", runs / "vae", "--data", tmp_path / "x.npz", "--out", outs["x.npz"]],
        ["reconstruct", runs / "vae", "--data", tmp_path / "x.npz", "--out", outs["x.npz"]],
        ["reconstruct", runs / "vae", "--data", outs["x.npz"], "--out", tmp_path / "x.npz"],
        ["decode", runs / "vae", "--codes", tmp_path / "z.npy", "--out", outs["z.npy"]],
    ):
        assert exit_code(*command, "--overwrite") == 2
        assert "is what is read" in capsys.readouterr().err
        assert seen(tmp_path) == before


def test_nothing_is_written_into_a_folder_of_images(runs, tmp_path, capsys):
    photos = shutil.copytree(runs / "photos", tmp_path / "photos")
    (tmp_path / "link").symlink_to(photos)
    before = seen(photos)
    commands = [make(runs, photos / "out") for make in INTO_A_FOLDER.values()]
    commands += [make(runs, tmp_path / "link" / "sheet.png") for name, make in INTO_A_FILE.items() if name != "encode"]
    for command in commands:
        if "--data" in command:
            command[command.index("--data") + 1] = photos
        elif command[0] == "data":
            command[1] = photos
        else:
            continue  # a command that reads no images
        assert exit_code(*command) == 2
        assert "lies in" in capsys.readouterr().err
    pattern = str(photos / "*" / "*.png")
    first = next(iter(sorted(photos.rglob("*.png"))))
    assert exit_code("data", pattern, "--picture", first, "--overwrite") == 2
    assert "is what is read" in capsys.readouterr().err
    assert seen(photos) == before


FOLDERS_OF_THE_CACHE = ("decoded", "images", "judges", "mnist", "inception", "")


@pytest.mark.parametrize("place", quick(FOLDERS_OF_THE_CACHE, "decoded", ""))
def test_a_cache_that_holds_other_things_loses_nothing(runs, tmp_path, monkeypatch, capfd, place):
    cache, temporary = tmp_path / "cache", tmp_path / "tmp"
    key = "0" * 64
    names = (
        *ANYBODYS[:-1],
        *NAMED_LIKE_OURS,
        f"{key}/pixels",
        f"{key}/photo.png",
        f"{'0' * 16}.abc.tmp/pixels",
        "old.tmp/x",
    )
    foreign(cache / place, names)
    foreign(temporary, names)
    monkeypatch.setenv("VAEKIT_CACHE", str(cache))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    before = [seen(folder, times_of_folders=False) for folder in (cache, temporary)]
    assert exit_code("data", runs / "photos") == 0
    if place == "judges":
        assert (
            exit_code("compare", "--data", runs / "photos", "--out", tmp_path / "report", *QUICK, "--models", "vae")
            == 0
        )
    for folder, was in zip((cache, temporary), before, strict=True):
        now = seen(folder, times_of_folders=False)
        assert {name: now.get(name) for name in was} == was
    if place in ("decoded", "judges"):
        assert "is not empty, and no cache of vaekit" in capfd.readouterr().err
        assert not (cache / place / MARK).exists()


def test_files_put_into_folders_of_ours_stay(runs, tmp_path, monkeypatch):
    """In a run, a report, a cache entry: what is not one of our names is left alone, whatever the command."""
    monkeypatch.setenv("VAEKIT_CACHE", str(tmp_path / "cache"))
    run = Path(shutil.copytree(runs / "vqvae", tmp_path / "run"))
    claim(run / "prior", "prior")
    mine = [run / name for name in ("photo.png", ".x.tmp", ".lock", "prior/photo.png", ".weights.safetensors.1.tmp")]
    open_data(str(runs / "photos"))
    (entry,) = (path for path in (tmp_path / "cache" / "decoded").iterdir() if len(path.name) == 64)
    for old in (entry, entry / "pixels", entry / "facts.json"):
        os.utime(old, (LONG_AGO, LONG_AGO))
    mine.append(entry / "photo.png")
    for path in mine:
        foreign(path.parent, [path.name]) if path.parent == entry else path.write_bytes(b"mine")
        os.utime(path, (LONG_AGO, LONG_AGO))
    os.utime(entry, (LONG_AGO, LONG_AGO))
    data = ["--data", runs / "digits.npz"]
    assert exit_code("fit-prior", run, *data, "--layers", "1", "--channels", "8", "--epochs", "1") == 0
    assert exit_code("evaluate", run, *data, "--no-judge") == 0
    assert exit_code("train", "vqvae", *data, "--out", run, *QUICK, "--random-state", "0", "--resume") == 0
    open_data(str(runs / "photos"), resize=4)  # decodes, and so tidies
    assert all(path.read_bytes() == b"mine" and path.stat().st_mtime == LONG_AGO for path in mine)
    assert not (run / "prior" / "run.json").exists() and load(run).has_prior


def test_a_second_stage_does_not_take_a_folder_that_stands_there(runs, tmp_path, capsys):
    for kind in ("folder", "link", "file", "another run"):
        run = Path(shutil.copytree(runs / "vqvae", tmp_path / kind))
        place, elsewhere = run / "prior", tmp_path / f"{kind} elsewhere"
        if kind == "folder":
            foreign(place, ["photo.png", "run.json", "checkpoint.safetensors"])
        elif kind == "link":
            elsewhere.mkdir()
            place.symlink_to(elsewhere)
        elif kind == "file":
            place.write_bytes(b"mine")
        else:
            shutil.copytree(runs / "vae", place)
        before = seen(run)
        assert exit_code("fit-prior", run, "--data", runs / "digits.npz") == 2
        assert str(place) in capsys.readouterr().err and seen(run) == before


def test_a_folder_of_another_kind_is_no_place_for_a_run_or_a_report(runs, tmp_path, capsys):
    for kind in ("run", "report", "sweep", "cache"):
        claim(tmp_path / kind, kind)
    for kind in ("run", "report", "sweep", "cache"):
        for command, wanted in (("train", "run"), ("compare", "report"), ("sweep", "sweep")):
            if wanted != kind:
                before = seen(tmp_path)
                assert exit_code(*INTO_A_FOLDER[command](runs, tmp_path / kind)) == 2
                assert f"holds a {kind} of vaekit" in capsys.readouterr().err and seen(tmp_path) == before


def test_runs_without_a_mark_are_known_by_what_they_hold(runs, tmp_path):
    """Those of a vaekit that set no marks, and those copied without hidden files."""
    run = Path(shutil.copytree(runs / "vae", tmp_path / "run"))
    for name in (MARK, LOCK):
        (run / name).unlink()
    assert kind_of(run) == "run"
    check_folder(run, "run")
    for text in ('{"format": 1}', '{"name": "a run of another tool", "format": 1}', "[]", "{", "", "\xff"):
        (run / "run.json").write_text(text, encoding="latin-1")
        assert kind_of(run) is None
        with pytest.raises(ValueError, match=r"is not empty, and no run of vaekit"):
            check_folder(run, "run")
    for name, content in (
        ("results.json", {"data": 1, "protocol": 2, "models": 3}),
        ("sweep.json", {"vaekit": 1, "grid": 2, "points": 3}),
    ):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_text(json.dumps(content))
        assert kind_of(folder) == {"results.json": "report", "sweep.json": "sweep"}[name]


def test_a_claim_that_was_cut_short_is_no_ones(tmp_path, monkeypatch):
    """Killed between making the folder and marking it, a command can be run again."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / f"..vaekit.{'0' * 16}.tmp").write_text("vaek")
    with locked(folder, "run"):
        assert kind_of(folder) == "run" and sorted(os.listdir(folder)) == [MARK, LOCK]
    (folder / MARK).unlink()
    (folder / MARK).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="is not empty"):
        claim(folder, "run")
    assert not (tmp_path / "elsewhere").exists()


def test_discarding_leaves_what_is_not_ours(tmp_path):
    folder = claim(tmp_path / "run" / "prior", "prior")
    (folder / "run.json").write_text("{}")
    (folder / "photo.png").write_bytes(b"mine")
    discard(folder, NAMES)
    assert sorted(os.listdir(folder)) == [MARK, "photo.png"]
    (tmp_path / "link").symlink_to(folder)
    discard(tmp_path / "link", ["photo.png"])
    assert sorted(os.listdir(folder)) == [MARK, "photo.png"]
    (folder / "photo.png").unlink()
    discard(folder, NAMES)
    assert not folder.exists()


def test_a_file_that_is_written_never_takes_another_ones_temporary_name(tmp_path, monkeypatch):
    monkeypatch.setattr("vaekit.owned.secrets.token_hex", lambda n: "0" * 16)
    (tmp_path / f".x.{'0' * 16}.tmp").write_bytes(b"mine")
    with pytest.raises(OSError, match="File exists"):
        write_atomically(tmp_path / "x", b"new")
    assert (tmp_path / f".x.{'0' * 16}.tmp").read_bytes() == b"mine" and not (tmp_path / "x").exists()


def test_a_log_that_is_a_link_is_not_written_through(runs, tmp_path):
    run = Path(shutil.copytree(runs / "vae", tmp_path / "run"))
    for name in ("weights.safetensors", "log.jsonl"):
        (run / name).unlink()
    (tmp_path / "diary").write_bytes(b"mine\n")
    (run / "log.jsonl").symlink_to(tmp_path / "diary")
    data = ["--data", runs / "digits.npz"]
    fields = ["--latent-dim", "2", *QUICK, "--random-state", "0"]
    assert exit_code("train", "vae", *data, "--out", run, *fields, "--resume") == 0
    assert (tmp_path / "diary").read_bytes() == b"mine\n" and len(RunFolder(run).log()) == 1


def test_two_processes_never_hold_one_lock(tmp_path):
    """Many take and leave it at once; a file is only ever there once."""
    code = (
        "import os, sys, time; from vaekit.owned import locked\nheld = 0\n"
        "until = time.monotonic() + 3\n"
        "while time.monotonic() < until:\n"
        "    try:\n"
        "        with locked(sys.argv[1], 'run'):\n"
        "            os.close(os.open(sys.argv[1] + '/held', os.O_CREAT | os.O_EXCL)); time.sleep(0.001)\n"
        "            os.unlink(sys.argv[1] + '/held'); held += 1\n"
        "    except ValueError as error:\n"
        "        assert 'written by another process' in str(error), error\n"
        "print(held)\n"
    )
    claim(tmp_path / "run", "run")
    workers = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    counts = [int(worker.communicate(timeout=120)[0]) for worker in workers]
    assert all(worker.returncode == 0 for worker in workers) and sum(counts) > 10


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_within_an_import_that_swallows_everything_still_ends_the_command(tmp_path, number, code):
    (tmp_path / "swallows.py").write_text(
        "import time\nfor _ in range(20):\n    try:\n        time.sleep(0.05)\n    except BaseException:\n        pass\n"
    )
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\nfrom vaekit import cli\n"
        "def run(*_):\n    print('importing', flush=True)\n    import swallows\n"
        "    print('imported', flush=True)\n    import time; time.sleep(60)\n"
        "cli._run = run\ncli.main(['data', 'digits'])\n"
    )
    worker = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert worker.stdout is not None and worker.stdout.readline() == "importing\n"
    time.sleep(0.2)
    worker.send_signal(number)
    _, said = worker.communicate(timeout=30)
    assert worker.returncode == code and said.startswith("vaekit: stopped;") and "Traceback" not in said


def test_a_signal_after_the_last_step_is_not_lost(tmp_path, monkeypatch, digits):
    from vaekit.training import loop

    real = loop.deferred_signals

    class Late:
        def __init__(self, **how):
            self.context = real(**how)

        def __enter__(self):
            return self.context.__enter__()

        def __exit__(self, *error):
            signal.raise_signal(signal.SIGINT)
            return self.context.__exit__(*error)

    monkeypatch.setattr(loop, "deferred_signals", Late)
    images = open_data("digits").take(np.arange(100))
    with pytest.raises(KeyboardInterrupt):
        VAE(architecture="mlp", epochs=1).fit_images(images, folder=str(tmp_path / "run"))
    assert threading.current_thread() is threading.main_thread()
    monkeypatch.undo()
    VAE(architecture="mlp", epochs=1).fit_images(images, folder=str(tmp_path / "run"), resume=True)
    assert RunFolder(tmp_path / "run").finished


def test_checks_change_nothing(tmp_path):
    foreign(tmp_path / "theirs", ANYBODYS)
    before = seen(tmp_path)
    check_folder(tmp_path / "new" / "run", "run")
    check_file(tmp_path / "new" / "x.npy", inputs=[tmp_path / "theirs" / "x.npz", "digits"])
    check_file(tmp_path / "theirs" / "x.npz", overwrite=True)
    assert seen(tmp_path) == before
