"""What a model makes of a set that fits no memory, in shards: the same as in one file, whole or not there, gone on with."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
from PIL import Image
from sklearn.datasets import load_digits, load_wine

import vaekit
import vaekit.shards
from vaekit.cli import main
from vaekit.data import open_data
from vaekit.shards import fingerprints, read_index
from vaekit.training.guard import TrainingFailed

TINY = {"architecture": "mlp", "width": 16, "latent_dim": 3, "epochs": 2, "random_state": 0, "device": "cpu"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A VAE, a CVAE, a VQ-VAE and a VAE of a table, each a run folder."""
    root = tmp_path_factory.mktemp("runs")
    x, y = load_digits(return_X_y=True)
    images = (x[:300].reshape(-1, 8, 8) / 16 * 255).astype(np.uint8)
    for name, kind in {"vae": vaekit.VAE, "cvae": vaekit.CVAE}.items():
        kind(**TINY).fit(images, y[:300] if name == "cvae" else None).save(root / name)
    tokens = {key: value for key, value in TINY.items() if key != "latent_dim"}
    vaekit.VQVAE(**tokens, n_codes=8).fit(images).save(root / "vqvae")
    load_wine(as_frame=True).data.to_csv(root / "wine.csv", index=False)
    vaekit.VAE(**TINY).fit_images(open_data(str(root / "wine.csv"), "train")).save(root / "table")
    return {name: str(root / name) for name in ("vae", "cvae", "vqvae", "table")} | {"wine": str(root / "wine.csv")}


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> str:
    file = tmp_path_factory.mktemp("images") / "x.npz"
    x, y = load_digits(return_X_y=True)
    np.savez(file, x=(x[:250].reshape(-1, 8, 8) / 16 * 255).astype(np.uint8), y=y[:250])
    return str(file)


def run(*arguments) -> None:
    main([str(argument) for argument in arguments])


def shards(folder: Path, form: str = "parquet") -> list[Path]:
    return sorted(folder.glob(f"shard-*.{form}"))


@pytest.mark.parametrize("name", ["vae", "cvae", "vqvae"])
@pytest.mark.parametrize("form", ["parquet", "npy"])
def test_shards_hold_what_one_file_does(name, form, runs, images, tmp_path):
    asked = ["encode", runs[name], "--data", images, "--split", "all"]
    run(*asked, "--out", tmp_path / "z.parquet")
    run(*asked, "--out", tmp_path / "z", "--shards", form, "--shard-size", 70, "--jobs", 1)
    whole = pd.read_parquet(tmp_path / "z.parquet")
    codes = [column for column in whole if column.startswith("z")]
    assert len(shards(tmp_path / "z", form)) == 4
    if form == "parquet":
        found = pd.read_parquet(tmp_path / "z")
    else:
        tables = [pd.read_csv(path, dtype={"label": str}) for path in shards(tmp_path / "z", "csv")]
        found = pd.concat(tables, ignore_index=True)
        arrays = [np.load(path) for path in shards(tmp_path / "z", "npy")]
        assert all(array.shape[1:] == vaekit.load(runs[name]).fitted_.code_shape for array in arrays)
        flat = np.concatenate(arrays).reshape(250, -1)
        found = pd.concat([found, pd.DataFrame(flat, columns=codes)], axis=1)
    assert found["row"].tolist() == list(range(250))
    assert found["label"].astype(str).tolist() == whole["label"].tolist()
    assert found["split"].tolist() == whole["split"].tolist()
    np.testing.assert_allclose(found[codes], whole[codes], rtol=1e-4, atol=1e-5)
    with np.load(images) as held:
        assert found["fingerprint"].tolist() == fingerprints(held["x"]).tolist()
    index = read_index(str(tmp_path / "z"))
    assert index["finished"] and index["n"] == 250
    assert [tmp_path / "z" / shard for shard in index["shards"]] == shards(tmp_path / "z", form)


def test_equal_samples_have_equal_fingerprints_and_others_have_not():
    x = np.random.default_rng(0).integers(0, 255, (50, 4, 4, 3), np.uint8)
    again = fingerprints(np.concatenate([x, x[:7]]))
    assert again[:7].tolist() == again[50:].tolist()
    assert len(set(again)) == 50


def test_reconstructions_are_lists_with_their_shape_and_arrays(runs, images, tmp_path):
    asked = ["reconstruct", runs["vae"], "--data", images, "--split", "test"]
    run(*asked, "--out", tmp_path / "x.npy")
    whole = np.load(tmp_path / "x.npy")
    run(*asked, "--out", tmp_path / "p", "--shards", "parquet", "--shard-size", 10, "--jobs", 1)
    run(*asked, "--out", tmp_path / "n", "--shards", "npy", "--shard-size", 10, "--jobs", 1)
    np.testing.assert_array_equal(np.concatenate([np.load(path) for path in shards(tmp_path / "n", "npy")]), whole)
    table = pyarrow.parquet.read_table(shards(tmp_path / "p")[0])
    shape = json.loads(table.schema.metadata[b"shape"])
    flat = table["x"].combine_chunks().flatten().to_numpy()
    np.testing.assert_array_equal(flat.reshape(-1, *shape), whole[:10])
    assert flat.dtype == whole.dtype == np.uint8
    run(*asked, "--out", tmp_path / "few", "--shards", "npy", "-n", 12, "--jobs", 1)
    assert len(np.load(shards(tmp_path / "few", "npy")[0])) == 12


def test_rows_of_a_table_keep_their_columns(runs, tmp_path):
    asked = ["reconstruct", runs["table"], "--data", runs["wine"], "--split", "all"]
    run(*asked, "--out", tmp_path / "x.csv")
    run(*asked, "--out", tmp_path / "x", "--shards", "parquet", "--shard-size", 50, "--jobs", 1)
    whole, found = pd.read_csv(tmp_path / "x.csv"), pd.read_parquet(tmp_path / "x")
    np.testing.assert_allclose(found[whole.columns], whole, rtol=1e-5)
    assert {"row", "split", "fingerprint"} <= set(found)


def test_scores_in_shards_are_those_of_one_file(runs, images, tmp_path, capsys):
    asked = ["score", runs["vae"], "--data", images, "--reference", images, "--share", "0.05"]
    run(*asked, "--out", tmp_path / "s.parquet")
    run(*asked, "--out", tmp_path / "s", "--shards", "parquet", "--shard-size", 100, "--jobs", 1)
    whole, found = pd.read_parquet(tmp_path / "s.parquet"), pd.read_parquet(tmp_path / "s")
    np.testing.assert_allclose(found["combined"], whole["combined"], rtol=1e-3, atol=0.05)
    assert abs(found["anomaly"].sum() - whole["anomaly"].sum()) <= 2
    assert "of the reference" in capsys.readouterr().out
    run(*asked, "--out", tmp_path / "n", "--shards", "npy", "--shard-size", 100, "--jobs", 1)
    np.testing.assert_array_equal(
        np.concatenate([np.load(path) for path in shards(tmp_path / "n", "npy")]), found["combined"].to_numpy()
    )


@pytest.mark.slow
def test_samples_in_shards_go_by_their_seed_whoever_makes_them(runs, tmp_path, capsys):
    asked = ["sample", runs["cvae"], "-n", 30, "--per-class", "--shards", "npy", "--shard-size", 70]
    run(*asked, "--random-state", 5, "--jobs", 1, "--out", tmp_path / "a")
    run(*asked, "--random-state", 5, "--jobs", 2, "--out", tmp_path / "b")
    run(*asked, "--random-state", 6, "--jobs", 1, "--out", tmp_path / "c")
    a, b, c = (np.concatenate([np.load(path) for path in shards(tmp_path / name, "npy")]) for name in "abc")
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()
    labels = pd.concat([pd.read_csv(path) for path in shards(tmp_path / "a", "csv")])["label"]
    assert labels.value_counts().tolist() == [30] * 10
    asked = [
        "sample",
        runs["vae"],
        "-n",
        50,
        "--shards",
        "npy",
        "--shard-size",
        20,
        "--jobs",
        1,
        "--out",
        tmp_path / "d",
    ]
    run(*asked)
    d = np.concatenate([np.load(path) for path in shards(tmp_path / "d", "npy")])
    assert len(np.unique(d.reshape(50, -1), axis=0)) == 50, "shards are not copies of each other"
    second = shards(tmp_path / "d", "npy")[1]
    before = second.read_bytes()
    second.unlink()
    run(*asked)
    assert second.read_bytes() == before, "a seed that was drawn is kept"


def test_only_missing_shards_are_made(runs, images, tmp_path, monkeypatch):
    asked = ["encode", runs["vae"], "--data", images, "--split", "all", "--shards", "parquet", "--jobs", 1]
    asked += ["--out", tmp_path / "z"]
    run(*asked, "--shard-size", 60)
    wholes = [path.read_bytes() for path in shards(tmp_path / "z")]
    shards(tmp_path / "z")[2].unlink()
    made, real = [], vaekit.shards.write_shard
    monkeypatch.setattr(vaekit.shards, "write_shard", lambda path, found: (made.append(path.name), real(path, found)))
    run(*asked)
    assert made == ["shard-00002.parquet"], "of the size that the others have"
    assert [path.read_bytes() for path in shards(tmp_path / "z")] == wholes


def test_a_shard_that_fails_is_named_and_the_others_are_kept(runs, images, tmp_path, monkeypatch, capsys):
    real = vaekit.shards.write_shard

    def some(path, made):
        if path.name == "shard-00001.npy":
            raise TrainingFailed("it is cursed")
        real(path, made)

    monkeypatch.setattr(vaekit.shards, "write_shard", some)
    asked = ["encode", runs["vae"], "--data", images, "--shards", "npy", "--shard-size", 10, "--jobs", 1]
    with pytest.raises(SystemExit) as stop:
        run(*asked, "--out", tmp_path / "z")
    assert stop.value.code == 1
    said = capsys.readouterr().err
    assert "shard-00001.npy failed: it is cursed" in said
    assert "1 of 3 shards failed: shard-00001.npy (it is cursed)" in said
    assert len(shards(tmp_path / "z", "npy")) == 2
    assert not read_index(str(tmp_path / "z"))["finished"]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (["--split", "train"], "split"),
        (["--shard-size", "20"], "rows"),
        (["--shards", "npy"], "form"),
        (["--data", "digits"], "fingerprint"),
    ],
)
def test_a_folder_holds_one_set(change, what, runs, images, tmp_path, capsys):
    asked = ["encode", runs["vae"], "--data", images, "--split", "all", "--shards", "parquet", "--jobs", 1]
    asked += ["--out", tmp_path / "z"]
    run(*asked)
    for flag, value in zip(change[::2], change[1::2], strict=True):
        if flag in asked:
            asked[asked.index(flag) + 1] = value
        else:
            asked += [flag, value]
    with pytest.raises(SystemExit) as stop:
        run(*asked)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "holds other shards" in said and what in said


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--jobs", "2"], "--jobs is for shards"),
        (["--shard-size", "2"], "--shard-size is for shards"),
        (["--cluster", "auto"], "--cluster is for shards"),
        (["--shards", "npy", "--shard-size", "0"], "shard_size"),
        (["--shards", "npy", "--jobs", "0"], "jobs"),
        (["--shards", "csv"], "shards"),
        (["--shards", "npy"], "--out must be a folder for shards"),
    ],
)
def test_wrong_flags_end_with_2(given, said, runs, images, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        run("encode", runs["vae"], "--data", images, "--out", tmp_path / "z.npy", *given)
    assert stop.value.code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "z.npy").exists()


def test_folders_of_others_are_not_written(runs, images, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    for out in (tmp_path / "mine", Path(runs["vae"]), Path(images)):
        before = sorted(out.parent.rglob("*"))
        with pytest.raises(SystemExit) as stop:
            run("encode", runs["vae"], "--data", images, "--out", out, "--shards", "npy")
        assert stop.value.code == 2
        assert sorted(out.parent.rglob("*")) == before
    capsys.readouterr()
    run("encode", runs["vae"], "--data", images, "--out", tmp_path / "z", "--shards", "npy", "--jobs", 1)
    (tmp_path / "z" / "_index.json").write_text("{")
    with pytest.raises(SystemExit) as stop:
        run("encode", runs["vae"], "--data", images, "--out", tmp_path / "z", "--shards", "npy")
    assert stop.value.code == 2
    assert "_index.json is damaged" in capsys.readouterr().err


def test_what_cannot_be_sampled_is_said_before_anything_is_written(runs, tmp_path, capsys):
    for given, said in (
        ([runs["vqvae"]], "before it has a prior"),
        ([runs["vae"], "--per-class"], "unconditional"),
        ([runs["cvae"], "--label", "11"], "11"),
        ([runs["vae"], "--top-k", "3"], "top_k"),
        ([runs["vae"], "--temperature", "0"], "temperature"),
    ):
        with pytest.raises(SystemExit) as stop:
            run("sample", *given, "--out", tmp_path / "x", "--shards", "npy")
        assert stop.value.code == 2
        assert said in capsys.readouterr().err
        assert not (tmp_path / "x").exists()


def test_the_same_model_and_data_by_other_names_go_on(runs, images, tmp_path, monkeypatch):
    asked = ["--split", "all", "--shards", "npy", "--shard-size", 100, "--jobs", 1, "--out", tmp_path / "z"]
    run("encode", runs["vae"], "--data", images, *asked)
    shards(tmp_path / "z", "npy")[0].unlink()
    monkeypatch.chdir(Path(runs["vae"]).parent)
    run("encode", "vae", "--data", os.path.relpath(images), *asked)
    assert len(shards(tmp_path / "z", "npy")) == 3


@pytest.mark.slow
def test_a_process_that_is_killed_is_said_and_the_command_goes_on(runs, images, tmp_path, monkeypatch, capsys):
    asked = ["encode", runs["vae"], "--data", images, "--split", "all", "--shards", "npy", "--shard-size", "20"]
    command = [*asked, "--jobs", "2", "--out", str(tmp_path / "z")]
    process = subprocess.Popen([sys.executable, "-m", "vaekit", *command], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 100
    while not shards(tmp_path / "z", "npy"):
        assert process.poll() is None and time.monotonic() < deadline
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        workers = [child for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
        if len(workers) == 2:
            break
        time.sleep(0.02)
    os.kill(int(workers[0]), signal.SIGKILL)
    _, said = process.communicate(timeout=100)
    assert process.returncode == 1, said
    assert "a process was killed" in said and "--jobs" in said and "Traceback" not in said
    run(*command)
    assert read_index(str(tmp_path / "z"))["finished"]


def test_a_worker_that_finds_other_data_makes_nothing(runs, images, tmp_path, monkeypatch):
    asked = [
        "encode",
        runs["vae"],
        "--data",
        images,
        "--split",
        "all",
        "--shards",
        "npy",
        "--shard-size",
        100,
        "--jobs",
        1,
    ]
    sent, real = [], vaekit.shards._make
    monkeypatch.setattr(vaekit.shards, "_make", lambda *given: (sent.append(given), real(*given)))
    run(*asked, "--out", tmp_path / "z")
    layout, work, facts, number = sent[0]
    layout.place(number).unlink()
    for _ in range(2):
        with pytest.raises(ValueError, match="a worker finds another fingerprint than the command it works for"):
            real(layout, work, facts | {"fingerprint": "of other data"}, number)
    assert not layout.place(number).exists()
    real(layout, work, facts, number)
    assert layout.place(number).exists()


def test_image_files_keep_their_names(runs, tmp_path):
    for number, image in enumerate(load_digits().images[:30]):
        (tmp_path / "photos" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.rint(image * 15).astype(np.uint8)).save(tmp_path / f"photos/{'ab'[number % 2]}/{number}.png")
    asked = ["encode", runs["vae"], "--data", tmp_path / "photos", "--split", "all", "--shards", "parquet"]
    run(*asked, "--shard-size", 8, "--jobs", 1, "--out", tmp_path / "z")
    found = pd.read_parquet(tmp_path / "z")
    assert sorted(found["file"]) == sorted(f"{'ab'[n % 2]}/{n}.png" for n in range(30))
    assert found["label"].tolist() == [name[0] for name in found["file"]]


SLOWLY = """
import sys, time, vaekit.shards
from vaekit.cli import main
real = vaekit.shards.write_shard
def slow(*given):
    real(*given)
    time.sleep(0.2)
vaekit.shards.write_shard = slow
main(sys.argv[1:])
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.slow
def test_a_job_that_is_killed_leaves_whole_shards_and_goes_on(number, runs, images, tmp_path):
    asked = ["encode", runs["vae"], "--data", images, "--split", "all", "--shards", "parquet", "--shard-size", "20"]
    run(*asked, "--jobs", 1, "--out", tmp_path / "unbroken")
    command = [*asked, "--jobs", "1", "--out", str(tmp_path / "z")]
    process = subprocess.Popen([sys.executable, "-c", SLOWLY, *command], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while len(shards(tmp_path / "z")) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == (-9 if number == signal.SIGKILL else 128 + number), said
    assert len(shards(tmp_path / "z")) < 13
    run(*command)
    for whole in shards(tmp_path / "unbroken"):
        assert (tmp_path / "z" / whole.name).read_bytes() == whole.read_bytes()
    assert not list((tmp_path / "z").glob(".*.tmp"))


@pytest.mark.slow
def test_processes_make_the_same_shards(runs, images, tmp_path):
    asked = ["encode", runs["vqvae"], "--data", images, "--split", "all", "--shards", "parquet", "--shard-size", 40]
    run(*asked, "--jobs", 1, "--out", tmp_path / "one")
    run(*asked, "--jobs", 2, "--out", tmp_path / "two")
    for path in shards(tmp_path / "one"):
        assert (tmp_path / "two" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.slow
def test_ray_data_makes_the_same_shards_though_a_worker_is_killed(runs, tmp_path):
    ray = pytest.importorskip("ray")
    x = np.random.default_rng(0).integers(0, 255, (200_000, 8, 8), np.uint8)
    np.save(tmp_path / "x.npy", x)
    asked = ["encode", runs["vae"], "--data", tmp_path / "x.npy", "--split", "all", "--shards", "parquet"]
    asked += ["--shard-size", 5000]
    run(*asked, "--jobs", 1, "--out", tmp_path / "one")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        command = [
            str(word)
            for word in (*asked, "--out", tmp_path / "ray", "--cluster", ray.get_runtime_context().gcs_address)
        ]
        process = subprocess.Popen([sys.executable, "-m", "vaekit", *command], stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 120
        while len(shards(tmp_path / "ray")) < 4:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        found = subprocess.run(["pgrep", "-f", "ray::.*MapBatches"], capture_output=True, text=True).stdout.split()
        assert len(found) == 2, "two actors"
        os.kill(int(found[0]), signal.SIGKILL)
        _, said = process.communicate(timeout=240)
        assert process.returncode == 0, said
    finally:
        ray.shutdown()
    assert len(shards(tmp_path / "ray")) == 40
    for path in shards(tmp_path / "one"):
        one, other = pd.read_parquet(path), pd.read_parquet(tmp_path / "ray" / path.name)
        assert one.columns.tolist() == other.columns.tolist()
        assert one["fingerprint"].equals(other["fingerprint"])
        np.testing.assert_allclose(one.filter(regex="^z"), other.filter(regex="^z"), rtol=1e-4, atol=1e-6)
