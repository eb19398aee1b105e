"""What comes out can be traced to what went in: names of files, rows and parts in what `encode`, `decode`, `reconstruct` and
`score` write.
"""

import csv
import itertools
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.test_cli import assert_refused, done, run
from vaekit import CVAE, VAE, VQVAE, open_data
from vaekit.cli import output
from vaekit.data.images import PARTS
from vaekit.data.readers import read_origin
from vaekit.data.splits import split_indices, spread
from vaekit.evaluation.likelihood import tail_shares
from vaekit.files import load

ODD = [
    "a,b.png",
    "=1+1.png",
    'quo"te.png',
    "line\nbreak.png",
    "tab\there.jpg",
    "zwölf 十二.png",
    " first.png",
    "plain.png",
]
if sys.platform == "linux":
    ODD.append(os.fsdecode(b"caf\xe9.png"))  # Latin-1 of an old disk


def table(path) -> list[dict]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t" if str(path).endswith(".tsv") else ","))


def written(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "backslashreplace")


@pytest.fixture(scope="module")
def photos(digits, tmp_path_factory) -> Path:
    """60 digits of two classes in two sub-folders, under names of all kinds."""
    folder = tmp_path_factory.mktemp("photos")
    x, y = digits
    for label in (0, 1):
        images = x[y == label][:30]
        (folder / f"class {label}").mkdir()
        names = itertools.islice(itertools.chain(ODD, (f"{i:03d}.png" for i in itertools.count())), len(images))
        for name, image in zip(names, images, strict=True):
            Image.fromarray(image[..., 0]).save(folder / f"class {label}" / name, quality=100)
    return folder


@pytest.fixture(scope="module")
def npz(digits, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("npz") / "digits.npz"
    np.savez(path, x=digits[0][:200], y=digits[1][:200])
    return path


@pytest.fixture(scope="module")
def runs(photos, npz, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    quick = {"architecture": "mlp", "width": 16, "epochs": 2, "random_state": 0}
    VAE(**quick).fit_images(open_data(photos), folder=str(folder / "vae"))
    CVAE(**quick).fit_images(open_data(npz), folder=str(folder / "cvae"))
    VQVAE(n_codes=8, code_dim=2, **quick).fit_images(open_data(npz), folder=str(folder / "vqvae"))
    return {name: folder / name for name in ("vae", "cvae", "vqvae")}


# ---- what `Images` knows -----------------------------------------------------------------------------------------


def test_a_folders_images_know_their_files_through_every_split(photos):
    whole = open_data(photos, "all")
    assert sorted(whole.names) == sorted(str(path.relative_to(photos)) for path in photos.rglob("*.*"))
    for place, part in enumerate(PARTS):
        images = open_data(photos, part)
        assert list(images.names) == list(whole.names[whole.part_of == place])
        for name, x, y in zip(images.names, images.x, images.y, strict=True):
            if name.endswith(".png"):
                assert np.array_equal(np.asarray(Image.open(photos / name)), x[..., 0])
            assert name.startswith(images.classes[y])
        assert set(images.origin()["split"]) == {part}
    assert list(whole.take([3, 1]).names) == list(whole.names[[3, 1]])
    assert list(whole.origin()) == ["file", "label", "split"]


def test_an_arrays_images_know_their_rows(npz, digits):
    whole = open_data(npz, "all")
    where = split_indices(whole.y, 200, 0)
    for part in PARTS:
        images = open_data(npz, part)
        assert images.origin()["row"].tolist() == where[part].tolist()
        assert np.array_equal(images.x, digits[0][images.origin()["row"]])
    assert whole.origin()["row"].tolist() == list(range(200))
    assert [PARTS[place] for place in whole.part_of] == whole.origin()["split"].tolist()
    assert open_data(npz, "test").take(slice(2, 4)).origin()["row"].tolist() == where["test"][2:4].tolist()


def test_rows_of_published_parts_are_counted_in_each(tmp_path, digits):
    from vaekit.data.arrays import IDX_FILES

    for name, array in zip(
        IDX_FILES, (digits[0][:20, ..., 0], digits[1][:20], digits[0][20:26, ..., 0], digits[1][20:26]), strict=True
    ):
        array = array.astype(np.uint8)
        head = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
        (tmp_path / name).write_bytes(head + array.tobytes())
    whole = open_data(tmp_path, "all")
    assert whole.origin()["row"].tolist() == [*range(20), *range(6)]
    assert whole.origin()["split"].tolist() == ["train"] * 20 + ["test"] * 6
    assert open_data(tmp_path, "test").origin()["row"].tolist() == list(range(6))


def test_too_few_samples_to_split_are_all(tmp_path):
    np.save(tmp_path / "few.npy", np.zeros((4, 8, 8), np.uint8))
    assert set(open_data(tmp_path / "few.npy", "all").origin()["split"]) == {"all"}


def test_files_that_cannot_be_read_leave_the_others_their_names(tmp_path):
    for i in range(12):
        Image.fromarray(np.full((8, 8), 20 * i, np.uint8)).save(tmp_path / f"{i:02d}.png")
    (tmp_path / "03.png").write_bytes(b"none")
    images = open_data(tmp_path, "all", skip_bad=True)
    assert list(images.names) == [f"{i:02d}.png" for i in range(12) if i != 3]
    assert [int(name[:2]) * 20 for name in images.names] == images.x[:, 0, 0, 0].tolist()


def test_images_of_a_pattern_have_names_in_the_folder_they_share(photos):
    names = open_data(f"{photos}/*/0*.png", "all").names
    assert "class 0/000.png" in names and "class 1/010.png" in names


def test_parquet_has_rows(tmp_path, digits):
    datasets = pytest.importorskip("datasets")
    images = [Image.fromarray(image[..., 0]) for image in digits[0][:12]]
    datasets.Dataset.from_dict({"image": images}).cast_column("image", datasets.Image()).to_parquet(
        str(tmp_path / "x.parquet")
    )
    assert open_data(tmp_path / "x.parquet", "all").origin()["row"].tolist() == list(range(12))


# ---- encode and decode -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet"])
def test_a_table_of_latents_tells_each_images_file(runs, photos, tmp_path, suffix):
    out = tmp_path / f"z.{suffix}"
    done("encode", runs["vae"], "--data", photos, "--split", "all", "--out", out)
    images, model = open_data(photos, "all"), load(runs["vae"])
    if suffix == "parquet":
        rows = pytest.importorskip("pyarrow.parquet").read_table(out).to_pylist()
    else:
        rows = table(out)
    assert list(rows[0]) == ["file", "label", "split", *(f"z{i}" for i in range(10))]
    assert [row["file"] for row in rows] == [written(name) for name in images.names]
    assert [row["label"] for row in rows] == [images.classes[y] for y in images.y]
    assert [row["split"] for row in rows] == [PARTS[place] for place in images.part_of]
    codes = np.array([[row[f"z{i}"] for i in range(10)] for row in rows], np.float32)
    assert np.array_equal(codes, model.encode(images.x))


def test_an_archive_of_latents_does_too_and_decoding_keeps_it(runs, photos, tmp_path):
    done("encode", runs["vae"], "--data", photos, "--out", tmp_path / "z.npz")
    images = open_data(photos, "test")
    with np.load(tmp_path / "z.npz", allow_pickle=False) as found:
        assert sorted(found.files) == ["names", "split", "x", "y"]
        assert list(found["names"]) == list(images.names) and set(found["split"]) == {"test"}
        assert list(found["y"]) == [images.classes[y] for y in images.y]
    done("decode", runs["vae"], "--codes", tmp_path / "z.npz", "--out", tmp_path / "again.npz")
    assert list(read_origin(tmp_path / "again.npz", len(images))["file"]) == list(images.names)
    done("decode", runs["vae"], "--codes", tmp_path / "z.npz", "--out", tmp_path / "decoded/")
    expected = {os.path.splitext(name)[0] + ".png" for name in images.names}
    assert {str(path.relative_to(tmp_path / "decoded")) for path in (tmp_path / "decoded").rglob("*.png")} == expected


def test_codes_of_an_array_have_row_numbers(runs, npz, tmp_path):
    done("encode", runs["vqvae"], "--data", npz, "--out", tmp_path / "z.npz")
    done("encode", runs["vqvae"], "--data", npz, "--out", tmp_path / "z.csv")
    images = open_data(npz, "test")
    with np.load(tmp_path / "z.npz") as found:
        assert found["rows"].tolist() == images.rows.tolist() and "names" not in found
        codes = found["x"].reshape(len(images), -1)
    rows = table(tmp_path / "z.csv")
    assert [int(row["row"]) for row in rows] == images.rows.tolist()
    assert [[int(row[f"z{i}"]) for i in range(codes.shape[1])] for row in rows] == codes.tolist()


@pytest.mark.parametrize("name", ["../x.png", "/tmp/x.png", "a/../../x.png", "", ".."])
def test_names_that_lead_out_of_the_folder_are_refused(runs, tmp_path, name):
    np.savez(tmp_path / "z.npz", x=np.zeros((2, 10), np.float32), names=np.array(["a.png", name]))
    result = run("decode", runs["vae"], "--codes", tmp_path / "z.npz", "--out", tmp_path / "out/")
    assert_refused(result, repr(name), "can't be the name of a file")
    assert not (tmp_path / "out").exists()


def test_arrays_that_are_no_names_are_left_aside(runs, tmp_path):
    np.savez(tmp_path / "z.npz", x=np.zeros((2, 10), np.float32), names=np.arange(2), rows=np.zeros((2, 2), int))
    done("decode", runs["vae"], "--codes", tmp_path / "z.npz", "--out", tmp_path / "out/")
    assert sorted(os.listdir(tmp_path / "out")) == ["000000.png", "000001.png"]


# ---- reconstruct -------------------------------------------------------------------------------------------------


def test_reconstructions_keep_the_names_of_the_files(runs, photos, tmp_path):
    done("reconstruct", runs["vae"], "--data", photos, "--out", tmp_path / "out/")
    images = open_data(photos, "test")
    rebuilt = load(runs["vae"]).reconstruct(images.x)
    for name, image in zip(images.names, rebuilt, strict=True):
        file = tmp_path / "out" / (os.path.splitext(name)[0] + ".png")
        assert np.array_equal(np.asarray(Image.open(file)), image[..., 0])
    assert open_data(tmp_path / "out", "all").classes == images.classes
    done("reconstruct", runs["vae"], "--data", photos, "--out", tmp_path / "out.npz")
    assert list(read_origin(tmp_path / "out.npz", len(images))["file"]) == list(images.names)
    assert np.array_equal(open_data(tmp_path / "out.npz", "all").y, images.y)


def test_reconstructions_of_an_array_have_its_row_numbers(runs, npz, tmp_path):
    done("reconstruct", runs["cvae"], "--data", npz, "-n", 3, "--out", tmp_path / "out/")
    images = open_data(npz, "test")
    rows = images.rows[spread(images, 3)]
    assert sorted(os.listdir(tmp_path / "out")) == sorted(f"{row:06d}.png" for row in rows)


def places(*names: str) -> list[str]:
    return output._places({"file": np.array(names, dtype=object)})


def test_names_that_would_share_a_file_stay_apart():
    assert places("a.jpg", "a.png", "b/c.JPG") == ["a.jpg.png", "a.png", "b/c.png"]
    assert places("A.jpg", "a.gif") == ["A.png", "a.gif.png"]  # one file where case is not looked at
    assert places("img.0001", "img.0002", "plain") == ["img.0001.png", "img.0002.png", "plain.png"]
    assert places("a.jpg", "a.png/b.jpg") == ["a.jpg.png", "a.png/b.png"]  # a folder by that name
    assert places("x.png", "x.png") == ["x.png", "x.png.png"]
    rows = {"row": np.array([0, 1, 0]), "split": np.array(["train", "train", "test"])}
    assert output._places(rows) == ["train/000000.png", "train/000001.png", "test/000000.png"]


CLOSE = [
    f"{folder}{name}{end}"
    for folder in ("", "b/")
    for name in "aA"
    for end in ("", ".png", ".PNG", ".jpg", ".png.png", ".jpg.png")
]


@given(st.lists(st.sampled_from(CLOSE), min_size=1, max_size=12))
@settings(max_examples=50, deadline=None)
def test_files_never_meet(names):
    found = places(*names)
    assert len({place.casefold() for place in found}) == len(names) and all(place.endswith(".png") for place in found)
    assert [os.path.dirname(place) for place in found] == [os.path.dirname(name) for name in names]


# ---- tables of results -------------------------------------------------------------------------------------------


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1), min_size=1))
@settings(max_examples=30, deadline=None)
def test_any_name_reads_back(tmp_path_factory, names):
    out = tmp_path_factory.mktemp("any") / "x.csv"
    output.write_columns(str(out), {"file": np.array(names, dtype=object), "n": np.arange(len(names))})
    assert [row["file"] for row in table(out)] == names


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numbers_read_back_as_they_were(tmp_path, dtype):
    values = np.concatenate(
        [np.random.default_rng(0).normal(size=100) * 10.0 ** np.arange(-20, 30, 0.5), [0, 1e-30]]
    ).astype(dtype)
    output.write_columns(str(tmp_path / "x.csv"), {"x": values})
    assert np.array_equal(np.array([row["x"] for row in table(tmp_path / "x.csv")], dtype), values)


# ---- score -------------------------------------------------------------------------------------------------------


def test_tail_shares_by_hand():
    assert tail_shares([0.0, 1.0, 2.5, 9.0, -np.inf, np.nan], [1.0, 2.0, 3.0, 4.0]).tolist() == [0, 0.25, 0.5, 1, 0, 0]


def test_scores_of_the_runs_own_data_are_of_its_test_part(runs, photos, tmp_path):
    shown = done("score", runs["vae"], "--data", photos, "--score", "elbo", "--share", 0.2, "--out", tmp_path / "s.csv")
    images, model, rows = open_data(photos, "test"), load(runs["vae"]), table(tmp_path / "s.csv")
    assert list(rows[0]) == ["file", "label", "split", "elbo", "tail_share", "anomaly"]
    assert [row["file"] for row in rows] == [written(name) for name in images.names]
    elbo = np.array([float(row["elbo"]) for row in rows])
    assert np.array_equal(elbo, model.score_samples(images.x))
    reference = model.score_samples(open_data(photos, "validation").x)  # 6 images are enough to tell a fifth
    shares = np.array([(reference <= value).mean() for value in elbo])
    assert np.array_equal([float(row["tail_share"]) for row in rows], shares)
    assert [row["anomaly"] for row in rows] == [str(share < 0.2) for share in shares]
    assert f"6 of {photos} (validation)" in shown.out and str(tmp_path / "s.csv") in shown.out
    done("score", runs["vae"], "--data", photos, "--split", "all", "--out", tmp_path / "all.csv")
    assert [row["split"] for row in table(tmp_path / "all.csv")] == open_data(photos, "all").origin()["split"].tolist()


def test_what_is_no_digit_stands_out(digits, tmp_path):
    x, y = (array[:1000] for array in digits)
    np.savez(tmp_path / "digits.npz", x=x, y=y)
    model = VAE(architecture="mlp", width=64, epochs=10, random_state=0)
    model.fit_images(open_data(tmp_path / "digits.npz"), folder=str(tmp_path / "run"))
    new = x[:40].copy()
    strange = [4, 17, 30]
    new[strange] = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1))
    np.save(tmp_path / "new.npy", new)
    shown = done("score", tmp_path / "run", "--data", tmp_path / "new.npy", "--out", tmp_path / "s.csv")
    rows = table(tmp_path / "s.csv")
    assert len(rows) == 40 and list(rows[0]) == ["row", "split", "combined", "tail_share", "anomaly"]
    assert [int(row["row"]) for row in rows if row["anomaly"] == "True"] == strange
    assert sorted(rows, key=lambda row: float(row["combined"]))[0]["row"] in {"4", "17", "30"}
    assert f"3 are lower than all but 1 % of the reference, 100 of {tmp_path / 'digits.npz'} (validation)" in " ".join(
        shown.out.split()
    )


def test_a_conditional_model_scores_by_the_label_where_it_knows_it(runs, npz, digits, tmp_path):
    model, images = load(runs["cvae"]), open_data(npz, "test")
    done("score", runs["cvae"], "--data", npz, "--score", "elbo", "--out", tmp_path / "known.csv")
    names = np.asarray(images.classes)[images.y]
    found = [float(row["elbo"]) for row in table(tmp_path / "known.csv")]
    assert np.array_equal(found, model.score_samples(images.x, names))
    for name, arrays in {"none": {}, "others": {"y": np.array(["new", "old"] * 10)}}.items():
        np.savez(tmp_path / f"{name}.npz", x=digits[0][:20], **arrays)
        new = ("--data", tmp_path / f"{name}.npz", "--out", tmp_path / f"{name}.csv")
        done("score", runs["cvae"], "--score", "elbo", *new)
        found = [float(row["elbo"]) for row in table(tmp_path / f"{name}.csv")]
        assert np.array_equal(found, model.score_samples(digits[0][:20]))


def test_a_vqvae_is_scored_before_and_after_it_has_a_prior(runs, npz, tmp_path):
    model, images = load(runs["vqvae"]), open_data(npz, "test")
    done("score", runs["vqvae"], "--data", npz, "--out", tmp_path / "plain.csv")
    model.fit_prior(images.x, images.y, layers=1, channels=8, epochs=1).save(tmp_path / "with prior")
    done("score", tmp_path / "with prior", "--data", npz, "--out", tmp_path / "fitted.parquet")
    plain = [float(row["elbo"]) for row in table(tmp_path / "plain.csv")]
    fitted = pytest.importorskip("pyarrow.parquet").read_table(tmp_path / "fitted.parquet").column("elbo").to_pylist()
    assert np.array_equal(plain, load(runs["vqvae"]).score_samples(images.x))
    assert np.array_equal(fitted, model.score_samples(images.x)) and fitted != plain


def test_rows_of_a_table_are_scored(tmp_path):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(400, 3)) * [1, 10, 100]
    np.save(tmp_path / "rows.npy", rows)
    VAE(latent_dim=2, epochs=20, random_state=0).fit_images(
        open_data(tmp_path / "rows.npy"), folder=str(tmp_path / "run")
    )
    np.save(tmp_path / "new.npy", np.concatenate([rows[:3], [[50, 0, 0]]]))
    done("score", tmp_path / "run", "--data", tmp_path / "new.npy", "--out", tmp_path / "s.csv")
    assert [row["anomaly"] for row in table(tmp_path / "s.csv")][3] == "True"


def test_without_the_training_data_a_reference_is_asked_for(runs, digits, tmp_path):
    np.save(tmp_path / "train.npy", digits[0][:60])
    VAE(architecture="mlp", width=8, epochs=1, random_state=0).fit_images(
        open_data(tmp_path / "train.npy"), folder=str(tmp_path / "run")
    )
    np.save(tmp_path / "new.npy", digits[0][60:80])
    score = ("score", tmp_path / "run", "--data", tmp_path / "new.npy", "--out", tmp_path / "s.csv")
    np.save(tmp_path / "train.npy", digits[0][1:61])
    assert_refused(run(*score), "has changed", "--reference")
    (tmp_path / "train.npy").unlink()
    assert_refused(run(*score), "can't be opened", "train.npy", "--reference")
    np.save(tmp_path / "good.npy", digits[0][100:150])
    assert f"50 of {tmp_path / 'good.npy'} (all)" in " ".join(
        done(*score, "--reference", tmp_path / "good.npy").out.split()
    )
    fitted = VAE(architecture="mlp", width=8, epochs=1).fit(digits[0][:60])
    fitted.save(tmp_path / "array")
    assert_refused(
        run("score", tmp_path / "array", *score[2:-1], tmp_path / "t.csv"), "fitted on an array", "--reference"
    )


def test_wrong_asking_is_refused_before_any_work(runs, npz, photos, tmp_path):
    score = ("score", runs["cvae"], "--data", npz)
    assert_refused(run(*score, "--out", tmp_path / "s.txt"), "--out", ".csv", ".parquet")
    for share in (0, 1, -0.5, "nan"):
        assert_refused(run(*score, "--share", share, "--out", tmp_path / "s.csv"), "share")
    assert_refused(run("score", runs["cvae"], "--data", tmp_path / "none", "--out", tmp_path / "s.csv"), "none")
    (tmp_path / "s.csv").write_text("mine")
    assert_refused(run(*score, "--out", tmp_path / "s.csv"), "s.csv")
    assert (tmp_path / "s.csv").read_text() == "mine"
    np.save(tmp_path / "large.npy", np.zeros((20, 9, 9), np.uint8))
    assert_refused(
        run("score", runs["cvae"], "--data", tmp_path / "large.npy", "--out", tmp_path / "l.csv"), "(9, 9, 1)"
    )
    assert_refused(run("encode", runs["cvae"], "--data", npz, "--out", tmp_path / "z.txt"), ".npz", ".csv")


def test_parquet_without_its_library_names_it(runs, npz, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    for command in ("encode", "score"):
        result = run(command, runs["cvae"], "--data", npz, "--out", tmp_path / "z.parquet")
        assert_refused(result, "pyarrow", "vaekit[datasets]")
