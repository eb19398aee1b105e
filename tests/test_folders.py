"""Other people's folders: whatever a photo tool writes, labels in a table, unreadable files, and what is told of them."""

import io
import json
import shlex
import sys
import tarfile
import types
import uuid
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.marks import quick
from vaekit import VAE, VQVAE, load
from vaekit.cli import main
from vaekit.data import Images, describe, open_data, open_whole
from vaekit.data.decoding import Decoding
from vaekit.data.images import PARTS

RED, BLUE = (255, 0, 0), (0, 0, 255)


def grey(n: int, h: int = 8, w: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, h, w), dtype=np.uint8)


def save(path: Path, pixels: np.ndarray | Image.Image, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)
    return path


@pytest.fixture
def classes(tmp_path) -> Path:
    """Forty 8x8 images in the sub-folders cat and dog, cats dark and dogs bright; one more file of each is no image."""
    for i, pixels in enumerate(grey(40)):
        save(tmp_path / "photos" / ("dog" if i % 2 else "cat") / f"{i:02}.png", pixels // 2 + (128 if i % 2 else 0))
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name / "00bad.png").write_bytes(b"GIF89a and then nothing")
    return tmp_path / "photos"


# Pixels


def test_palettes_ink_and_animations(tmp_path):
    stripes = np.repeat([[RED, BLUE]], 8, axis=0).repeat(4, axis=1).astype(np.uint8)  # red left, blue right
    palette = Image.fromarray(stripes).quantize(2)
    save(tmp_path / "0.png", palette)
    save(tmp_path / "1.tiff", Image.fromarray(stripes).convert("CMYK"))
    save(tmp_path / "2.gif", palette, save_all=True, append_images=[Image.new("P", (8, 8))], duration=9)
    save(tmp_path / "3.jpg", Image.fromarray(stripes).convert("CMYK"), quality=98)
    x = open_data(tmp_path, "all").x.astype(int)
    assert x.shape == (4, 8, 8, 3)
    assert abs(x[:, :, :3] - RED).max() < 30 and abs(x[:, :, 5:] - BLUE).max() < 30
    assert (x[:3] == stripes).all()


@pytest.mark.parametrize(
    ("background", "expected"),
    [
        ("white", [[255, 255, 255], [200, 178, 128]]),
        ("black", [[0, 0, 0], [72, 50, 0]]),
        ("#0000ff", [[0, 0, 255], [72, 50, 128]]),
        ("keep", [[0, 0, 0, 0], [145, 100, 0, 127]]),
    ],
)
def test_what_shows_through_transparent_pixels_is_stated(tmp_path, background, expected):
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[4:] = (145, 100, 0, 127)
    save(tmp_path / "0.png", pixels)
    x = open_data(tmp_path, "all", background=background).x
    assert abs(x[0, [0, 4], 0].astype(int) - expected).max() <= 1


def test_kept_alpha_is_opaque_where_a_file_has_none(tmp_path):
    save(tmp_path / "0.png", np.full((8, 8), 60, np.uint8))
    save(tmp_path / "1.png", np.full((8, 8, 3), (9, 8, 7), np.uint8))
    save(tmp_path / "2.png", Image.new("LA", (8, 8), (50, 20)))
    clear = Image.new("P", (8, 8), 0)
    clear.putpalette([1, 2, 3] * 256)
    save(tmp_path / "3.png", clear, transparency=0)
    x = open_data(tmp_path, "all", background="keep").x
    assert x[:, 3, 3].tolist() == [[60, 60, 60, 255], [9, 8, 7, 255], [50, 50, 50, 20], [1, 2, 3, 0]]
    assert open_data(tmp_path, "all").x[:, 3, 3].tolist()[3] == [255, 255, 255]


@settings(max_examples=20, deadline=None)
@given(
    st.integers(2, 40), st.integers(2, 40), st.integers(4, 24), st.sampled_from(["white", "black", "#808080", "red"])
)
def test_padding_shows_the_whole_image_amid_the_background(tmp_path_factory, height, width, side, background):
    folder = tmp_path_factory.mktemp("pad")
    save(folder / "0.png", np.full((height, width), 100, np.uint8))
    x = open_data(folder, "all", resize=side, fit="pad", background=background).x[0]
    longest = max(height, width)
    inside = [max(1, round(length / longest * side)) for length in (height, width)]
    assert x.shape[:2] == (side, side)
    found = (x == 100).all(-1)
    assert (found.any(1).sum(), found.any(0).sum()) == tuple(inside)
    around = {"white": [255], "black": [0], "#808080": [128], "red": [255, 0, 0]}[background]
    assert (x[~found] == around).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fit": "stretch"}, "fit must be one of crop, pad, got 'stretch'"),
        ({"background": "whit"}, "background must be keep, or a colour such as white, black or #ff8800, got 'whit'"),
        ({"labels": "nowhere.csv"}, "no labels at nowhere.csv"),
    ],
)
def test_other_options_are_refused(classes, options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        open_data(classes, **options)


def test_links_to_folders_are_followed_and_circles_are_not(tmp_path, classes):
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "cat").symlink_to(classes / "cat")
    (tmp_path / "linked" / "dog").symlink_to(classes / "dog")
    (classes / "dog" / "round").symlink_to(tmp_path / "linked")
    images = open_data(tmp_path / "linked", "all", skip_bad=True)
    assert np.bincount(images.y).tolist() == [20, 20]


# Files that can't be read


def test_unreadable_files_are_left_out_with_their_labels(classes):
    with pytest.raises(ValueError, match=r"2 of 42 images can't be read: cat/00bad\.png .*--skip-bad goes on"):
        open_data(classes)
    images = open_data(classes, "all", skip_bad=True)
    assert len(images) == 40 and [name.split()[0] for name in images.files.unreadable] == [
        "cat/00bad.png",
        "dog/00bad.png",
    ]
    assert (images.y == (images.x.min((1, 2, 3)) >= 128)).all()
    assert np.bincount(images.y).tolist() == [20, 20]


def test_unreadable_files_of_a_published_part_move_no_border(tmp_path):
    for part, count, shade in (("train", 12, 10), ("test", 5, 200)):
        for i in range(count):
            save(tmp_path / part / f"{i}.png", np.full((8, 8), shade + i, np.uint8))
    (tmp_path / "train" / "3.png").write_text("")
    (tmp_path / "test" / "0.png").write_text("")
    train, test = (open_data(tmp_path, part, skip_bad=True) for part in ("train", "test"))
    assert sorted(set(train.x.ravel().tolist())) == sorted({*range(10, 22)} - {13})
    assert sorted(set(test.x.ravel().tolist())) == [201, 202, 203, 204]
    for i in range(1, 5):
        (tmp_path / "test" / f"{i}.png").write_text("")
    with pytest.raises(ValueError, match=r"the part test of .* has no image that can be used"):
        open_data(tmp_path, "train", skip_bad=True)


def test_a_folder_without_one_readable_image(tmp_path):
    (tmp_path / "a.png").write_text("")
    with pytest.raises(ValueError, match=r"none of the 1 images can be read: a\.png"):
        open_data(tmp_path, skip_bad=True)


# A table of labels


def labelled(tmp_path, table: str, names: tuple[str, ...] = ("a.png", "b.png", "sub/c.png")) -> Images:
    for i, name in enumerate(names):
        save(tmp_path / "photos" / name, np.full((8, 8), 10 * i, np.uint8))
    (tmp_path / "labels.csv").write_text(table)
    return open_data(tmp_path / "photos", "all", labels=tmp_path / "labels.csv")


@pytest.mark.parametrize(
    "table",
    [
        "a.png,9\nb.png,10\nsub/c.png,9\n",
        "a,9\r\nb,10\r\nc,9\r\n",
        "picture;what\nsub/c.png;9\nb.png;10\na.png;9\n",
        "\ufeffid\tage\tlabel\na\t3\t9\n./sub/c.png\t4\t9\nb\t5\t10\n\n",
        'age,Category,File_Name\n"1,5",9,a.png\n2,10,b.png\n3, 9,c.png\n',
    ],
)
def test_tables_of_labels_come_in_many_forms(tmp_path, table):
    images = labelled(tmp_path, table)
    assert images.classes == ("9", "10")  # numbers, in their order
    assert images.y.tolist() == [0, 1, 0] and images.x[:, 0, 0, 0].tolist() == [0, 10, 20]
    assert images.notes == ()


def test_images_without_a_label_are_left_out_and_told(tmp_path):
    images = labelled(tmp_path, "a.png,yes\nzz.png,no\nc.png,no\nb.png,\n")
    assert images.classes == ("no", "yes") and images.y.tolist() == [1, 0]
    assert images.x[:, 0, 0, 0].tolist() == [0, 20]
    assert "left out: 1" in images.notes[0] and "name no image: 1 (zz.png)" in images.notes[1]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("", "no table of labels"),
        ("a.png,1,2\nb.png,1\n", "different numbers of cells"),
        ("when,what,how\na.png,b,c\n", "has columns when, what, how; one of file_name, .* must name the file"),
        ("zz.png,1\nyy.png,1\n", r"a label for none of the 3 images: its rows name yy\.png.*images are .*a\.png"),
        ("a.png,1\na,2\n", r"gives a\.png two labels, '1' and '2'"),
    ],
)
def test_tables_that_can_not_be_used(tmp_path, table, message):
    with pytest.raises(ValueError, match=message):
        labelled(tmp_path, table)


def test_a_name_that_two_files_have_names_neither(tmp_path):
    with pytest.raises(ValueError, match="a label for none"):
        labelled(tmp_path, "a.png,1\n", ("one/a.png", "two/a.png"))


def test_labels_of_arrays_and_of_sets_that_have_them(tmp_path, classes):
    np.save(tmp_path / "x.npy", grey(4))
    np.save(tmp_path / "y.npy", np.array(["b", "a", "a", "b"]))
    images = open_data(tmp_path / "x.npy", "all", labels=tmp_path / "y.npy")
    assert (images.classes, images.y.tolist()) == (("a", "b"), [1, 0, 0, 1])
    with pytest.raises(ValueError, match="digits comes with its labels"):
        open_data("digits", labels=tmp_path / "y.npy")
    np.savez(tmp_path / "x.npz", x=grey(4))
    with pytest.raises(ValueError, match=r"x\.npz can't be given labels"):
        open_data(tmp_path / "x.npz", labels=tmp_path / "y.npy")


# What is told before training


def test_parts_and_copies_across_them_are_counted():
    x = grey(40)[..., None]
    x[30] = x[1]  # across parts
    x[3] = x[2]  # within one
    images = Images(x, np.arange(40) % 2, ("a", "b"), "forty")
    parts = {"train": np.arange(30), "validation": np.arange(30, 35), "test": slice(35, 40)}
    facts = describe(images, parts)
    assert (facts["duplicates"], facts["duplicates_across_parts"]) == (2, 1)
    assert [facts["parts"][part]["count"] for part in PARTS] == [30, 5, 5]
    assert facts["parts"]["test"]["classes"] == {"a": 2, "b": 3}
    assert any("1 of these images are in more than one part" in problem for problem in facts["problems"])
    assert describe(images, {"train": slice(0, 40)})["duplicates_across_parts"] == 0


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 50), st.integers(1, 400), st.sampled_from([np.uint8, np.float32]))
def test_data_is_described_the_same_in_pieces_of_any_size(n, chunk, dtype):
    x = (
        grey(n, 3, 2, seed=n)[..., None]
        if dtype == np.uint8
        else (grey(n, 3, 2, seed=n)[..., None] / 255).astype(dtype)
    )
    x[n // 2 :: 3] = x[0]
    images = Images(x, None, (), "x")
    whole = describe(images)
    with pytest.MonkeyPatch.context() as patch:
        for module in ("mapped", "description"):
            patch.setattr(f"vaekit.data.{module}.CHUNK", chunk)
        pieces = describe(images)
    assert pieces.pop("mean") == pytest.approx(whole.pop("mean")) and pieces == whole
    assert whole["range"] == [x.min(), x.max()] and whole["duplicates"] == n - len(np.unique(x, axis=0))


def test_data_tells_of_a_folder_before_training(classes, tmp_path, capsys):
    (classes / "cat" / "01copy.png").write_bytes((classes / "cat" / "02.png").read_bytes())
    sheet = tmp_path / "new" / "sheet.png"
    main(["data", str(classes), "--json", "--no-times", "--resize", "6", "--picture", str(sheet)])
    facts = json.loads(capsys.readouterr().out)
    assert [name.split()[0] for name in facts["unreadable"]] == ["cat/00bad.png", "dog/00bad.png"]
    assert (facts["sizes"], facts["modes"], facts["shape"]) == ({"8x8": 41}, {"L": 41}, [6, 6, 1])
    assert sum(part["count"] for part in facts["parts"].values()) == facts["count"] == 41
    assert facts["duplicates"] == 1
    first = facts["suggestions"][0]["commands"][0]
    assert first.startswith("vaekit train cvae --data") and "--skip-bad --resize 6" in first
    with Image.open(sheet) as picture:
        brightness = np.asarray(picture.convert("L"))
    assert brightness.shape[1] > brightness.shape[0] > 100  # two rows of ten
    main(["data", str(classes), "--no-times"])
    shown = capsys.readouterr().out
    for word in (
        "2 files can't be read: cat/00bad.png",
        "train part",
        "validation part",
        "test part",
        "to see new images in a minute:",
    ):
        assert word in shown


def test_the_suggested_command_works(classes, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["data", "photos", "--json", "--no-times", "--fit", "pad", "--resize", "9", "--background", "black"])
    commands = [shlex.split(line) for line in json.loads(capsys.readouterr().out)["suggestions"][0]["commands"]]
    assert [command[:2] for command in commands] == [["vaekit", "train"], ["vaekit", "sample"]]
    main([*commands[0][1:], "--epochs", "1"])
    main(commands[1][1:])
    assert Path("runs/quick.png").exists()
    model = load("runs/quick")
    assert model.image_shape_ == (9, 9, 1)
    assert model.facts_["data"]["decoding"] == {"resize": 9, "fit": "pad", "background": "black"}
    # What was done to the images then is done again without being said.
    main(["encode", "runs/quick", "--data", "photos", "--skip-bad", "--split", "all", "--out", "z.npy"])
    whole, _ = open_whole("photos", Decoding(9, "pad", "black"), skip_bad=True)
    np.testing.assert_allclose(np.load("z.npy"), model.encode(whole.x, np.asarray(whole.classes)[whole.y]), atol=1e-5)


def test_contact_sheets_of_unlabelled_images_and_of_tables(tmp_path, capsys):
    np.save(tmp_path / "x.npy", grey(30, 300, 200))
    main(["data", str(tmp_path / "x.npy"), "--no-times", "--picture", str(tmp_path / "sheet.png")])
    assert f"the contact sheet: {tmp_path / 'sheet.png'}" in capsys.readouterr().out
    assert max(Image.open(tmp_path / "sheet.png").size) < 2000
    np.save(tmp_path / "table.npy", np.zeros((30, 4)))
    for data, out, word in (
        ("table.npy", "s.png", "a table of vectors"),
        ("x.npy", "s.jpg", "--picture must end in .png"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["data", str(tmp_path / data), "--picture", str(tmp_path / out)])
        assert stopped.value.code == 2 and word in capsys.readouterr().err


# Any shape


@pytest.mark.parametrize(
    ("shape", "model", "architecture"),
    quick(
        [
            *(
                (shape, model, None)
                for shape in ((28, 20, 1), (30, 45, 3), (64, 64, 4), (9, 8, 2))
                for model in (VAE, VQVAE)
            ),
            ((28, 20, 1), VAE, "resnet"),
            ((9, 30, 3), VQVAE, "resnet"),
            ((30, 45, 3), VQVAE, "mlp"),
        ],
        ((28, 20, 1), VAE, None),
        ((9, 8, 2), VQVAE, None),
        ((30, 45, 3), VQVAE, "mlp"),
    ),
)
def test_networks_of_any_shape_learn_to_reconstruct(shape, model, architecture):
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]]
    centres = np.random.default_rng(0).uniform(0.2, 0.8, (32, 2)) * shape[:2]
    blobs = np.exp(-((rows - centres[:, 0, None, None]) ** 2 + (columns - centres[:, 1, None, None]) ** 2) / 20)
    x = (255 * blobs[..., None] * np.linspace(1, 0.5, shape[2])).astype(np.uint8)
    fitted = model(architecture=architecture, epochs=3, batch_size=8, random_state=0).fit(x)
    losses = [record["distortion"] for record in fitted.history_]
    assert losses[-1] < losses[1] < losses[0]
    rebuilt = fitted.reconstruct(x[:5])
    assert (rebuilt.shape, rebuilt.dtype) == ((5, *shape), np.uint8)


# What the library `datasets` reads


class Feature(types.SimpleNamespace):
    pass


class Table:
    """As much of a datasets.Dataset as is used: rows, columns, features."""

    def __init__(self, columns, features, fingerprint="f"):
        self.columns, self.features, self._fingerprint = columns, features, fingerprint

    def __len__(self):
        return len(next(iter(self.columns.values())))

    def __getitem__(self, key):
        return self.columns[key] if isinstance(key, str) else {name: c[key] for name, c in self.columns.items()}

    def cast_column(self, column, feature):
        assert feature.decode is False
        return self


@pytest.fixture
def library(monkeypatch, tmp_path):
    """A stand-in for `datasets` that serves 12 training rows and 3 of validation, whatever it is asked for."""

    def png(value):
        return save(tmp_path / "png" / f"{value}.png", np.full((8, 8), value, np.uint8)).read_bytes()

    def table(values):
        cells = [{"bytes": png(value), "path": None} for value in values]
        cells[-1] = {"bytes": None, "path": str(tmp_path / "png" / f"{values[-1]}.png")}
        features = {"label": Feature(names=["odd", "even"]), "photo": fake.Image()}
        return Table({"label": [value % 2 for value in values], "photo": cells}, features)

    fake = types.ModuleType("datasets")
    fake.Image = type("Image", (), {"__init__": lambda self, decode=True: setattr(self, "decode", decode)})
    fake.asked = []
    fake.load_dataset = lambda *words, **more: (
        fake.asked.append((words, more))
        or {
            "validation": table([100, 101, 102]),
            "train": table(list(range(12))),
        }
    )
    fake.load_from_disk = lambda path: table(list(range(20, 40)))
    monkeypatch.setitem(sys.modules, "datasets", fake)
    return fake


def test_rows_of_images_with_their_published_parts(library):
    train, test = (open_data("hf:someone/things", part) for part in ("train", "test"))
    assert library.asked[0] == (("someone/things",), {})
    assert train.x[:, 0, 0, 0].tolist() == list(range(12)) and test.x[:, 0, 0, 0].tolist() == [100, 101, 102]
    assert [train.classes[i] for i in train.y[:3]] == ["odd", "even", "odd"]
    assert (test.split_seed, test.name) == (None, "hf:someone/things")


def test_saved_sets_and_parquet_files_are_recognised(library, tmp_path):
    saved = tmp_path / "saved"
    saved.mkdir()
    (saved / "dataset_info.json").write_text("{}")
    assert len(open_data(saved, "all")) == 20
    (tmp_path / "tables" / "data").mkdir(parents=True)
    for name in ("train-0.parquet", "val-0.parquet", "more.parquet"):
        (tmp_path / "tables" / "data" / name).write_text("")
    open_data(tmp_path / "tables", "all")
    files = library.asked[-1][1]["data_files"]
    assert {part: [Path(file).name for file in found] for part, found in files.items()} == {
        "train": ["more.parquet", "train-0.parquet"],
        "validation": ["val-0.parquet"],
    }


def test_without_the_library_or_without_images_the_message_says_so(monkeypatch, library, tmp_path):
    library.load_from_disk = lambda path: Table({"a": [1, 2], "b": [1, 2]}, {"a": Feature(), "b": Feature()})
    (tmp_path / "dataset_info.json").write_text("{}")
    with pytest.raises(ValueError, match="no column of images or of their bytes; its columns are a, b"):
        open_data(tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match="hf:a/b needs the extra `datasets`: pip install"):
        open_data("hf:a/b")


def test_the_library_itself(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf"))
    rows = {"image": [Image.fromarray(pixels) for pixels in grey(30)], "label": [i % 3 for i in range(30)]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["x", "y", "z"])})
    made = datasets.Dataset.from_dict(rows, features=features)
    made.save_to_disk(tmp_path / "saved")
    made.to_parquet(tmp_path / "rows.parquet")
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "train.parquet").write_bytes((tmp_path / "rows.parquet").read_bytes())
    bare = {"picture": [cell["bytes"] for cell in made.cast_column("image", datasets.Image(decode=False))["image"]]}
    datasets.Dataset.from_dict(bare).to_parquet(tmp_path / "raw" / "test.parquet")
    for path in (tmp_path / "saved", tmp_path / "rows.parquet"):
        images = open_data(path, "all")
        assert (images.x[..., 0] == grey(30)).all() and images.classes == ("x", "y", "z")
        assert images.y.tolist() == [i % 3 for i in range(30)]
    (tmp_path / "raw" / "train.parquet").write_bytes((tmp_path / "raw" / "test.parquet").read_bytes())
    assert (open_data(tmp_path / "raw", "test").x[..., 0] == grey(30)).all()


@pytest.fixture
def tars(tmp_path, monkeypatch) -> Path:
    """WebDataset shards: two of 12 training images, and one of 6 test images, a .cls file beside each."""
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf"))
    folder = tmp_path / "shards"
    folder.mkdir()
    for shard, numbers in {"train-0": range(6), "train-1": range(6, 12), "test-0": range(12, 18)}.items():
        with tarfile.open(folder / f"{shard}.tar", "w") as tar:
            for number in numbers:
                picture = io.BytesIO()
                Image.fromarray(np.full((8, 8), 10 * number, np.uint8)).save(picture, "PNG")
                for suffix, content in (("png", picture.getvalue()), ("cls", str(number % 3).encode())):
                    member = tarfile.TarInfo(f"{number:04d}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return folder


def check_shards(train, test) -> None:
    assert train.x[:, 0, 0, 0].tolist() == [10 * n for n in range(12)]
    assert test.x[:, 0, 0, 0].tolist() == [10 * n for n in range(12, 18)]
    assert [train.classes[i] for i in train.y] == [str(n % 3) for n in range(12)]
    assert test.split_seed is None, "the published parts"


def test_shards_of_tar_files_are_read_with_their_parts(tars):
    for name in (tars, f"{tars}/*.tar", f"file://{tars}/*.tar"):
        check_shards(*(open_data(name, part) for part in ("train", "test")))
    assert len(open_data(tars / "train-1.tar", "all")) == 6


def test_shards_are_read_from_where_fsspec_reaches(tars):
    fsspec = pytest.importorskip("fsspec")
    memory, bucket = fsspec.filesystem("memory"), uuid.uuid4().hex  # since the library keeps what it once has read
    for file in tars.iterdir():
        memory.pipe(f"/{bucket}/{file.name}", file.read_bytes())
    memory.pipe("/other/readme.txt", b"nothing")
    check_shards(*(open_data(f"memory://{bucket}", part) for part in ("train", "test")))
    check_shards(*(open_data(f"memory://{bucket}/t*.tar", part) for part in ("train", "test")))
    with pytest.raises(FileNotFoundError, match=f"no data at 'memory://{bucket}/none-"):
        open_data(f"memory://{bucket}/none-*.tar")
    with pytest.raises(ValueError, match=r"memory://other has no shards of images .*, but readme.txt"):
        open_data("memory://other")
    with pytest.raises(ValueError, match="nosuch://bucket can't be read: Protocol not known"):
        open_data("nosuch://bucket")
    with pytest.raises(ValueError, match="comes with its labels"):
        open_data(f"memory://{bucket}", labels=str(tars / "train-0.tar"))


def test_damaged_and_mixed_shards_are_named(tars):
    (tars / "train-2.tar").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"train-2.tar is damaged, or no WebDataset of images"):
        open_data(tars / "train-2.tar")
    (tars / "x.parquet").write_bytes(b"")
    with pytest.raises(ValueError, match=r"has shards of two kinds, .parquet and .tar"):
        open_data(f"{tars}/*")
