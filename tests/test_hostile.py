"""Malformed inputs: a sample of the campaign in `benchmarks/hostile.py`, and one test for each fault that it found."""

import gzip
import json
import os
import shutil
import struct
import sys
import tracemalloc
import weakref
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from vaekit import VAE, load, open_data
from vaekit.cli import main
from vaekit.data import cache, describe, description, mapped
from vaekit.data.images import Images
from vaekit.data.readers import read_idx, read_npy, read_npz
from vaekit.data.sprites import read_dsprites
from vaekit.owned import claim
from vaekit.training.checkpoint import read_tensors, write_tensors

if sys.platform != "linux":
    pytest.skip("memory is measured as Linux does", allow_module_level=True)

from benchmarks import _damage, hostile

QUICK = {"latent_dim": 2, "architecture": "mlp", "epochs": 1, "batch_size": 16, "random_state": 0, "device": "cpu"}


def refusal(capsys, *argv) -> str:
    """The one line that the command line refuses with."""
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in argv])
    said = capsys.readouterr().err
    assert end.value.code == 2 and said.count("\n") == 1 and said.startswith("vaekit: "), said
    assert len(said) < 700
    return said


def grey(folder, *sides, name="{}.png") -> None:
    folder.mkdir(exist_ok=True)
    for i, side in enumerate(sides):
        Image.fromarray(np.full((side, side), i, np.uint8)).save(folder / name.format(i))


# The campaign


@pytest.mark.slow
def test_a_sample_of_the_campaign_has_no_failure():
    kinds = tuple(kind for kind in hostile.KINDS if kind != "bombs")
    outcomes = hostile.campaign(72, seed=1, kinds=kinds)
    assert [outcome for outcome in outcomes if hostile.failed(outcome)] == []
    verdicts = Counter(outcome.verdict for outcome in outcomes)
    assert len(outcomes) >= 72 and verdicts["refused"] > len(outcomes) / 2 and verdicts["accepted"] > 3
    assert {outcome.kind for outcome in outcomes} == set(kinds)


def ends(act, check=lambda out: None) -> str:
    case = hostile.Case(act, ("x.npy",), check)
    with hostile.captured() as read:
        code, error = hostile.exit_of(case.act)
    return hostile.verdict(case, code, error, *read())


def fails(*lines: str, code: int = 2):
    def act():
        for line in lines:
            os.write(2, f"{line}\n".encode())
        raise SystemExit(code)

    return act


def test_the_campaign_sees_what_is_wrong():
    assert ends(lambda: None) == "accepted"
    assert ends(lambda: None, lambda out: True) == "refused"
    assert ends(fails("vaekit: x.npy is damaged")) == "refused"
    assert ends(fails("vaekit: damaged")).startswith("names no file")
    assert ends(fails("vaekit: x.npy", "vaekit: twice")).startswith("exit 2")
    assert ends(fails("vaekit: x.npy", code=3)).startswith("exit 3")
    assert ends(fails("UserWarning: x", "vaekit: x.npy")).startswith("spilled")
    assert ends(lambda: os.write(2, b"a library in C\n")).startswith("spilled")
    assert ends(lambda: {}["x"]).startswith("traceback: KeyError at test_hostile.py")
    assert ends(lambda: None, lambda out: json.loads("{")).startswith("accepted, but JSONDecodeError")
    outcome = hostile.Outcome("npy", 0, "", "refused", 0.1, 10)
    assert not hostile.failed(outcome)
    assert hostile.failed(outcome._replace(seconds=99)) and hostile.failed(outcome._replace(megabytes=9999))


def test_an_input_is_the_same_when_it_is_made_again():
    data = _damage.npy_of(np.zeros((24, 8, 8), np.uint8))
    made = [_damage.spoilt(data, np.random.default_rng([0, i % 20]), _damage.NPY) for i in range(40)]
    assert made[:20] == made[20:] and len(set(made)) > 15


# What it found: arrays


@pytest.mark.parametrize(
    "header",
    [
        b"(((",
        b"'''",
        b"{'descr': '|u1', 'fortran_order': False, 'shape': (24.0, 8, 8)}",
        b"{'descr': '|u1', 'fortran_order': False, 'shape': (24, 8, 8)" + b" " * 20_000 + b"}",
        b"-" * 9000 + b"1",
    ],
    ids=lambda header: repr(header[-12:]),
)
def test_a_header_that_is_no_python_is_refused(tmp_path, capsys, header):
    data = _damage.npy_with(header, bytes(1536))
    (tmp_path / "x.npy").write_bytes(data)
    (tmp_path / "x.npz").write_bytes(_damage.zip_of({"x.npy": data}))
    whole = {"imgs": np.zeros((3, 64, 64), np.uint8), "latents_classes": np.zeros((3, 6), np.int64)}
    members = _damage.members_of(_damage.npz_of(whole, packed=True))
    (tmp_path / "sprites.npz").write_bytes(_damage.zip_of({**members, "imgs.npy": data}))
    for name in ("x.npy", "x.npz", "sprites.npz"):
        assert name in refusal(capsys, "data", tmp_path / name)


def test_a_warning_of_numpy_is_not_said_beside_the_answer(tmp_path, recwarn):
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (24L, 8L, 8L)}\n"
    (tmp_path / "x.npy").write_bytes(_damage.npy_with(header, bytes(1536)))
    assert read_npy(tmp_path / "x.npy").shape == (24, 8, 8)
    assert not recwarn.list


def test_an_archive_whose_places_are_impossible_is_refused(tmp_path):
    arrays = {"imgs": np.zeros((3, 64, 64), np.uint8), "latents_classes": np.zeros((3, 6), np.int64)}
    data = _damage.npz_of(arrays, packed=False)
    for removed in range(1, 60):  # the places in the directory then lie before the beginning
        (tmp_path / "x.npz").write_bytes(data[removed:])
        with pytest.raises(ValueError, match=r"x\.npz"):
            read_dsprites(tmp_path / "x.npz")


@pytest.mark.parametrize("name", ["x", "y"])
def test_an_archive_that_is_a_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch, name):
    monkeypatch.setattr("vaekit.data.readers.MOST_UNPACKED", 2**22)
    (tmp_path / "x.npz").write_bytes(_damage.zip_bomb(name, 8, True))
    tracemalloc.start()
    for read in (read_npz, read_npy):
        with pytest.raises(ValueError, match=r"x\.npz would unpack to 0\.00781 GB, \d+ times its size"):
            read(tmp_path / "x.npz")
    assert tracemalloc.get_traced_memory()[1] < 2**21
    tracemalloc.stop()
    (tmp_path / "x.npz").write_bytes(_damage.npz_of({"x": np.zeros((3, 1024, 1024), np.uint8)}, packed=True))
    assert read_npz(tmp_path / "x.npz")[0].nbytes == 3 * 2**20


def test_a_large_archive_of_real_images_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("vaekit.data.readers.MOST_UNPACKED", 1000)
    x = np.random.default_rng(0).integers(0, 4, (100, 8, 8), dtype=np.uint8)
    np.savez_compressed(tmp_path / "x.npz", x=x)
    np.testing.assert_array_equal(read_npz(tmp_path / "x.npz")[0], x)


def test_a_packed_idx_file_that_is_a_bomb_is_refused(tmp_path):
    (tmp_path / "x-idx3-ubyte.gz").write_bytes(gzip.compress(struct.pack(">HBBIII", 0, 8, 3, 4096, 1024, 1024)))
    with pytest.raises(ValueError, match=r"x-idx3-ubyte\.gz would unpack to 4 GB"):
        read_idx(tmp_path / "x-idx3-ubyte.gz")


def test_an_array_without_features_is_named(tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.zeros((24, 0)))
    assert "x.npy: Found array with 0 feature(s)" in refusal(capsys, "data", tmp_path / "x.npy")


# What it found: things that are no files


def test_pipes_are_not_waited_for(tmp_path, capsys):
    grey(tmp_path / "pictures", 8, 8)
    os.mkfifo(tmp_path / "pictures" / "p.png")
    with pytest.raises(ValueError, match=r"1 of 3 images can't be read: p\.png \(no file\)"):
        open_data(tmp_path / "pictures", "all")
    assert len(open_data(tmp_path / "pictures", "all", skip_bad=True)) == 2
    with pytest.raises(ValueError, match=r"p\.png \(no file\)"):
        open_data(tmp_path / "pictures" / "*.png", "all")
    for name in ("x.npy", "x.npz", "x-idx3-ubyte", "evaluation.json"):
        os.mkfifo(tmp_path / name)
    for read, name in ((read_npy, "x.npy"), (read_npz, "x.npz"), (read_idx, "x-idx3-ubyte")):
        with pytest.raises(ValueError, match=f"{name} is no file"):
            read(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"x\.npy"):
        open_data(tmp_path / "x.npy", "all")
    claim(tmp_path / "sweep", "sweep")
    os.mkfifo(tmp_path / "sweep" / "sweep.json")
    sweep = hostile._sweep("digits", str(tmp_path / "sweep"))
    assert "sweep.json is no file" in refusal(capsys, *sweep)


def test_names_that_are_no_text_are_read_and_those_of_two_lines_are_told_in_one(tmp_path, capsys):
    grey(tmp_path / "a\udcff", 8, 8, name="{}\udc80.png")
    assert len(open_data(tmp_path / "a\udcff", "all")) == 2
    folder = tmp_path / "a\nb\x1b[31m"
    folder.mkdir()
    (folder / "x.npy").write_bytes(b"x")
    assert r"a\nb\x1b[31m/x.npy" in refusal(capsys, "data", folder / "x.npy")


# What it found: images


def test_few_large_images_are_in_memory_together(tmp_path, monkeypatch):
    grey(tmp_path / "pictures", *[16] * 60)
    alive, most, decode = weakref.WeakSet(), [], cache.decode

    class Pixels(np.ndarray):
        __hash__ = object.__hash__  # type: ignore[assignment]

    def counted(*arguments):
        pixels, *facts = decode(*arguments)
        pixels = pixels.copy().view(Pixels)
        alive.add(pixels)
        most.append(len(alive))
        return pixels, *facts

    monkeypatch.setattr(cache, "decode", counted)
    open_data(tmp_path / "pictures", "all")
    assert max(most) >= 16
    most.clear()
    monkeypatch.setattr(cache, "IN_FLIGHT", 1)
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / "pictures" / "0.png")
    open_data(tmp_path / "pictures", "all")
    assert max(most) <= 5


def test_images_of_other_sizes_are_not_kept_and_one_is_named(tmp_path, monkeypatch):
    grey(tmp_path / "pictures", 8, *[256] * 40)
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"2 sizes: 256x256 \(40\), 8x8 \(1\).*the first of another size is 1\.png"):
        open_data(tmp_path / "pictures", "all")
    assert tracemalloc.get_traced_memory()[1] < 20 * 256 * 256
    tracemalloc.stop()


def test_describing_large_images_takes_the_memory_of_a_few(monkeypatch):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2, (100, 256, 256, 1), dtype=np.uint8) * np.uint8(255)
    whole = Images(x, None, (), "x")
    known = describe(whole)
    monkeypatch.setattr(mapped, "CHUNK", 2**12)
    monkeypatch.setattr(description, "CHUNK", 2**12)
    tracemalloc.start()
    assert describe(whole) == known
    assert tracemalloc.get_traced_memory()[1] < 20 * x[0].nbytes
    tracemalloc.stop()
    assert known["binary"] and known["range"] == [0, 255]
    x[99, 255, 255] = 7
    assert not describe(whole)["binary"]


def test_sixteen_bits_become_the_nearest_of_eight(tmp_path):
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    (tmp_path / "p").mkdir()
    Image.fromarray(values).save(tmp_path / "p" / "x.png")
    np.testing.assert_array_equal(open_data(tmp_path / "p", "all").x[0, :, :, 0], np.round(values / 257))


# What it found: tables of labels, the cache


def test_a_stray_quote_does_not_put_the_file_into_the_message(tmp_path, capsys):
    grey(tmp_path / "pictures", 8, 8)
    rows = "".join(f"{i}.png,3,bee\n" for i in range(1000))
    for head in ('id;"size;class\n', "one;" + "x" * 10**5 + ";three\n", ";" * 10**5 + "\n"):
        (tmp_path / "labels.csv").write_text(head + rows.replace(",", ";"))
        assert "labels.csv" in refusal(capsys, "data", tmp_path / "pictures", "--labels", tmp_path / "labels.csv")


@pytest.mark.parametrize(
    "facts",
    [
        b"[" * 100_000,
        b"3",
        b"{}",
        {"bad": 3},
        {"unreadable": [1]},
        {"sizes": {"8x8": "x"}},
        {"modes": []},
        {"shape": [2, 64]},
        {"shape": [2, 2**70]},
        {"fingerprint": None},
    ],
)
def test_a_damaged_entry_of_the_cache_is_made_anew(tmp_path, monkeypatch, facts):
    monkeypatch.setenv("VAEKIT_CACHE", str(tmp_path / "cache"))
    grey(tmp_path / "pictures", 8, 8)
    known = open_data(tmp_path / "pictures", "all")
    (file,) = (tmp_path / "cache").rglob("facts.json")
    whole = json.loads(file.read_bytes())
    file.write_bytes(facts if isinstance(facts, bytes) else json.dumps(whole | facts).encode())
    again = open_data(tmp_path / "pictures", "all")
    np.testing.assert_array_equal(again.x, known.x)
    assert (again.fingerprint, again.files) == (known.fingerprint, known.files)
    assert json.loads(file.read_bytes()) == whole


# What it found: what runs and sweeps leave


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    np.save(folder / "x.npy", np.random.default_rng(0).integers(0, 256, (24, 8, 8), dtype=np.uint8))
    main(hostile._sweep(str(folder / "x.npy"), str(folder / "out")))
    return folder, (folder / "out" / "sweep.json").read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        lambda results: results["points"][0].update(elbo="x"),
        lambda results: results["points"][0].update(elbo=float("nan")),
        lambda results: results["points"][0].update(latent_dim=1.0),
        lambda results: results["points"][1].pop("rate"),
        lambda results: results.update(points=[{}]),
        lambda results: results.update(points=3),
        lambda results: results["grid"].pop("epochs"),
        lambda results: results.update(grid=[]),
        lambda results: results.update(data=None),
    ],
)
def test_a_sweep_goes_on_from_nothing_that_it_has_not_measured(swept, capsys, change):
    folder, whole = swept
    results = json.loads(whole)
    change(results)
    (folder / "out" / "sweep.json").write_text(json.dumps(results))
    assert "sweep.json is damaged" in refusal(capsys, *hostile._sweep(str(folder / "x.npy"), str(folder / "out")))


def test_a_sweep_goes_on_once_its_record_is_whole_again(swept, capsys):
    folder, whole = swept
    (folder / "out" / "sweep.json").write_bytes(b"[" * 100_000)
    assert "sweep.json is damaged" in refusal(capsys, *hostile._sweep(str(folder / "x.npy"), str(folder / "out")))
    (folder / "out" / "sweep.json").write_bytes(whole)
    main(hostile._sweep(str(folder / "x.npy"), str(folder / "out")))
    assert json.loads((folder / "out" / "sweep.json").read_bytes())["points"] == json.loads(whole)["points"]


@pytest.mark.parametrize(
    "change", [{"split": 3}, {"prior": None}, {"elbo": "x"}, {"mse": [1]}, {"rate": {}}, b"[" * 100_000]
)
def test_an_evaluation_that_is_none_is_not_told_in_the_card(tmp_path, change):
    from vaekit.hub import write_repository

    x = np.random.default_rng(0).integers(0, 256, (24, 8, 8), dtype=np.uint8)
    model = VAE(**QUICK).fit(x)
    whole = {"parameters": model.n_parameters_, "split": "test", "prior": "N(0, I)", "likelihood": "gaussian"}
    whole |= {"test_fingerprint": "f", "elbo": -1.0, "mse": 0.5}
    (tmp_path / "evaluation.json").write_text(json.dumps(whole))
    write_repository(model.fitted_, tmp_path / "whole", evaluation=tmp_path)
    text = change if isinstance(change, bytes) else json.dumps(whole | change).encode()
    (tmp_path / "evaluation.json").write_bytes(text)
    with pytest.raises(ValueError, match=r"evaluation\.json is damaged"):
        write_repository(model.fitted_, tmp_path / "card", evaluation=tmp_path)
    assert not (tmp_path / "card").exists()


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """What `benchmarks/hostile.py` prepares."""
    folder = tmp_path_factory.mktemp("seeds") / "seeds"
    hostile.prepare(folder)
    return folder


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensors, state: tensors.pop("optimizer.0.exp_avg_sq"), "optimizer's state of parameter 0"),
        (
            lambda tensors, state: tensors.update({"optimizer.0.exp_avg": torch.zeros(3)}),
            "optimizer's state of parameter",
        ),
        (lambda tensors, state: state.update(step={}), "step is {}"),
        (lambda tensors, state: state.update(step=99), "step is 99"),
        (lambda tensors, state: state.update(step=-1), "step is -1"),
        (lambda tensors, state: state.update(rollbacks="x"), "rollbacks is 'x'"),
        (lambda tensors, state: state.update(rollbacks=10**9), "times gone back"),
        (lambda tensors, state: state.update(seconds_total=[]), "seconds_total is"),
        (lambda tensors, state: state.update(history=[{}]), "history"),
        (lambda tensors, state: state.update(history=3), "not iterable"),
        (lambda tensors, state: state.update(best_epoch=1, best_value=0.5), "best weights do not fit"),
    ],
)
def test_a_checkpoint_with_the_right_checksum_is_looked_at(stopped, tmp_path, capsys, change, words):
    run = shutil.copytree(stopped / "runs" / "stopped", tmp_path / "run")
    tensors, state = read_tensors(run / hostile.CHECKPOINT)
    change(tensors, state)
    write_tensors(run / hostile.CHECKPOINT, tensors, state)
    said = refusal(capsys, *hostile._resume(stopped, run))
    assert "checkpoint is of another model, or damaged" in said and words in said


@pytest.mark.parametrize("shares", [[0.0, 0.0, 0.0], [2.0, -1.0, 0.0], [1.0, 1.0, 1.0]])
def test_a_priors_shares_of_the_classes_are_looked_at(stopped, tmp_path, capsys, shares):
    run = shutil.copytree(stopped / "runs" / "vqvae", tmp_path / "run")
    tensors, state = read_tensors(run / "prior.safetensors")
    write_tensors(run / "prior.safetensors", {**tensors, "class_shares": torch.tensor(shares)}, state)
    assert "prior.safetensors is damaged: class_shares" in refusal(capsys, "sample", run, "--out", tmp_path / "x.npy")


@pytest.mark.parametrize(
    "plan",
    [
        *(
            {"batch_size": -1},
            {"batch_size": None},
            {"seed": ""},
            {"steps": 10**400},
            {"learning_rate": "x"},
            {"warmup": 0.5},
        ),
        *({"betas": [0.9]}, {"betas": [0.9, 1.0]}, {"betas": ["x", 0.9]}, {"betas": 3}, {"patience": []}, {"more": 1}),
        *(
            {"gradient_clip": -1.0},
            {"weight_decay": -1.0},
            {"weight_decay": None},
            {"precision": []},
            {"precision": "x"},
            {"schedule": {}},
            {"first": -1},
        ),
    ],
)
def test_a_recorded_plan_is_looked_at(stopped, tmp_path, capsys, plan):
    run = shutil.copytree(stopped / "runs" / "stopped", tmp_path / "run")
    config = json.loads((run / "run.json").read_text())
    config["plan"] |= plan
    (run / "run.json").write_text(json.dumps(config))
    assert "run.json is damaged" in refusal(capsys, *hostile._resume(stopped, run))


def test_weights_that_overflow_are_told(stopped, tmp_path, capsys):
    run = shutil.copytree(stopped / "runs" / "vae", tmp_path / "run")
    tensors, state = read_tensors(run / hostile.WEIGHTS)
    for part, words in (("encoder.", "latents became NaN"), ("decoder.", "decoded images hold NaN")):
        huge = {name: t * 1e36 if name.startswith(part) and t.is_floating_point() else t for name, t in tensors.items()}
        write_tensors(run / hostile.WEIGHTS, huge, state)
        argv = ["reconstruct", run, "--data", stopped / "x.npy", "--out", tmp_path / "out.npy"]
        assert words in refusal(capsys, *argv)
        assert not (tmp_path / "out.npy").exists()


@pytest.mark.parametrize(
    "record", [{"seconds": {}}, {"objective": "x"}, {"seconds": float("nan")}, {"step": 10**400}, {"rate": None}]
)
def test_a_history_ends_before_a_record_that_is_none(stopped, tmp_path, capsys, record):
    run = shutil.copytree(stopped / "runs" / "vae", tmp_path / "run")
    whole = json.loads((run / "log.jsonl").read_text())
    (run / "log.jsonl").write_text("".join(json.dumps(part) + "\n" for part in (whole, {**whole, **record}, whole)))
    assert load(run).history_ == [whole]
    del whole["seconds"]
    (run / "log.jsonl").write_text(json.dumps(whole))
    assert load(run).history_ == []
    assert "has no log.jsonl" in refusal(capsys, "doctor", run, "--data", stopped / "x.npy")


@pytest.mark.parametrize(
    "data", [{"binarize": "x" * 9999}, {"split_seed": -1}, {"decoding": 3}, {"decoding": {"resize": "x"}}]
)
def test_how_data_was_opened_is_looked_at(stopped, tmp_path, capsys, data):
    run = shutil.copytree(stopped / "runs" / "vae", tmp_path / "run")
    config = json.loads((run / "run.json").read_text())
    config["data"] |= data
    (run / "run.json").write_text(json.dumps(config))
    said = refusal(capsys, "encode", run, "--data", stopped / "x.npy", "--out", tmp_path / "z.npy")
    assert "run.json is damaged" in said
