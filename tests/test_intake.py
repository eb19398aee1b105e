"""What people bring: values of any scale, pictures of any format, grey or colour, and things that are no array at all."""

import io
import json
import subprocess
import sys
import types
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader, Dataset, TensorDataset

from vaekit import CVAE, VAE, load, open_data
from vaekit.cli import main
from vaekit.data import check_array, kinds
from vaekit.data.checks import check_arrays, check_labels
from vaekit.data.decoding import Decoding, decode
from vaekit.data.pixels import find_white
from vaekit.data.readers import read_npz_parts
from vaekit.evaluation.representation import reconstruction_quality

QUICK = ("--architecture", "mlp", "--latent-dim", 2, "--width", 8, "--epochs", 1, "--device", "cpu")


def masks(n: int = 20, seed: int = 0) -> np.ndarray:
    """(n, 8, 8) integers 0 and 1."""
    return np.random.default_rng(seed).integers(0, 2, (n, 8, 8))


def grey(n: int = 20, high: int = 255, dtype=np.uint8, seed: int = 0) -> np.ndarray:
    """(n, 8, 8) integers from 0 to `high`, both of them there."""
    x = np.random.default_rng(seed).integers(0, high + 1, (n, 8, 8), dtype=np.int64)
    x[0, 0, :2] = 0, high
    return x.astype(dtype)


def tiny(cls=VAE, **fields):
    return cls(architecture="mlp", latent_dim=2, width=8, epochs=1, random_state=0, device="cpu", **fields)


def save(path: Path, image, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return path


def run(*arguments) -> None:
    main([str(argument) for argument in arguments])


def refusal(capsys, *arguments) -> str:
    with pytest.raises(SystemExit) as stopped:
        run(*arguments)
    assert stopped.value.code == 2
    return capsys.readouterr().err


# The value of white: arrays


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int32, np.int64, np.uint64])
def test_integers_0_and_1_alone_are_black_and_white(dtype):
    with pytest.warns(UserWarning, match="X holds the integers 0 and 1 alone: they are taken for black and white"):
        x = check_array(masks().astype(dtype))
    assert (x[..., 0] == masks() * 255).all() and x.dtype == np.uint8


def test_a_model_of_integers_0_and_1_is_one_of_booleans_and_remembers_the_scale(tmp_path):
    settings = {"likelihood": "bernoulli"}
    with pytest.warns(UserWarning, match="black and white") as said:
        model = tiny(**settings).fit(masks())
    assert not any("are grey" in str(warning.message) for warning in said)
    flags = tiny(**settings).fit(masks() == 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what fit decided is not guessed, nor said, again
        assert model.score(masks()) == flags.score(masks() == 1) == flags.score(masks()) == model.score(masks() * 255)
        assert model.score(masks()) < -20
        dark = np.zeros((3, 8, 8), int)
        dark[0, 0, 0] = 1
        model.save(tmp_path / "run")
        for same in (model, load(tmp_path / "run")):
            np.testing.assert_array_equal(same.transform(dark), flags.transform(dark == 1))
            for out in (same.sample(9, random_state=0), same.reconstruct(masks())):
                assert out.dtype == np.uint8 and np.isin(out, (0, 1)).all() and out.any()
    np.testing.assert_array_equal(model.sample(9, random_state=0), flags.sample(9, random_state=0))
    run("sample", tmp_path / "run", "--out", tmp_path / "x.npy", "-n", 9, "--random-state", 0)
    assert np.load(tmp_path / "x.npy").max() > 1  # what pictures are made of


def test_black_pictures_do_not_change_the_scale_of_an_8_bit_model():
    model = tiny().fit(grey())
    dark = np.zeros((3, 8, 8), np.uint8)
    dark[0, 0, 0] = 1
    with pytest.warns(UserWarning, match=r"taken for 0 and 1 of 255.*pass X \* 255, or booleans"):
        found = model.transform(dark)
    np.testing.assert_array_equal(found, tiny().fit(grey()).transform(dark.astype(np.float32) / 255))


def test_runs_of_before_take_0_and_1_as_they_did(tmp_path):
    tiny().fit(grey()).save(tmp_path / "run")
    config = json.loads((tmp_path / "run" / "run.json").read_text())
    del config["layout"]["white"], config["data"]["skip_bad"], config["data"]["labels"]
    (tmp_path / "run" / "run.json").write_text(json.dumps(config))
    model = load(tmp_path / "run")
    assert model.fitted_.format.white == 255 and model.sample(3).dtype == np.uint8
    for white in (True, 7, "1", None):
        config["layout"]["white"] = white
        (tmp_path / "run" / "run.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match="layout must say channel_axis, eight_bit and white"):
            load(tmp_path / "run")


@pytest.mark.parametrize(
    ("x", "remedy"),
    [
        (grey(high=16).astype(float), r"divide by 255: X / 255, or if 16 is white: X / 16"),
        (grey().astype(np.float32), r"divide by 255: X / 255"),
        (
            grey(high=4095, dtype=np.uint16),
            r"from 0 to 4095; 8-bit images are 0 to 255; divide by .*: X / 4095 for 12 bits",
        ),
        (grey(high=65535, dtype=np.uint16), r"divide by the value of white: X / 65535$"),
        (grey(high=1000, dtype=float), r"X / 1023 for 10 bits, X / 65535 for 16"),
        (grey(high=127, dtype=np.int8), r"from 0 to 127; .*divide by 255: X / 255, or if 127 is white: X / 127"),
        (grey().astype(float) / 127.5 - 1, r"rescale them first: \(X \+ 1\) / 2 where they are from -1 to 1"),
        ((grey().astype(int) - 128).astype(np.int8), r"\(X \+ 128\.0\) / 255 where these are bytes with a sign"),
    ],
)
def test_other_scales_are_refused_with_what_to_divide_by(x, remedy):
    with pytest.raises(ValueError, match=remedy):
        check_array(x)


@pytest.mark.parametrize("x", [grey(high=16), grey(high=63), grey().astype(float) / 255 / 255])
def test_dark_images_are_said_to_be_dark_at_fit(x):
    with pytest.warns(UserWarning, match=f"very dark: no value above {x.max():.3g} of .*divide by it"):
        tiny().fit(x)


def test_several_sets_have_one_scale():
    x, black = masks(), np.zeros((20, 8, 8), int)
    black[0, 0, 0] = 1
    assert [part.max() for part in check_arrays(x=grey(), black=black)] == [255, 1]
    with pytest.warns(UserWarning):
        assert [part.max() for part in check_arrays(x=x, black=black)] == [255, 255]
        psnr = -10 * np.log10((x != black).mean((1, 2))).mean()
        assert reconstruction_quality(x, black)["psnr"] == pytest.approx(psnr)


@pytest.mark.parametrize("shape", [(20, 8, 8), (20, 3), (20,)])
def test_masked_values_are_no_data(shape):
    x = np.ma.masked_array(np.random.default_rng(0).random(shape), fill_value=1e20)
    plain = np.asarray(x.data)
    if len(shape) > 1:
        np.testing.assert_array_equal(check_array(x).reshape(shape), plain.astype(check_array(plain).dtype))
    x[3] = np.ma.masked
    said = rf"has {x.mask.sum()} masked values, which are no data; drop such samples"
    if len(shape) == 1:
        with pytest.raises(ValueError, match=f"y {said}"):
            check_labels(x, 20)
        return
    model = tiny().fit(plain)
    for door in (tiny().fit, model.transform, model.score_samples, lambda x: model.partial_fit(list(x))):
        with pytest.raises(ValueError, match=f"X {said}.*X.filled"):
            door(x)


def test_masked_latents_are_no_data():
    model = tiny().fit(grey())
    with pytest.raises(ValueError, match="latents has 1 masked values"):
        model.inverse_transform(np.ma.masked_array([[0.0, 1.0]], [[True, False]]))


# The value of white: files


def write_array(folder: Path, kind: str, x: np.ndarray) -> Path:
    """`x` in a file of this kind, below `folder`."""
    path = folder / f"x.{kind}"
    if kind == "npy":
        np.save(path, x)
    elif kind == "npz":
        np.savez(path, x=x)
    elif kind == "idx":
        code = {"uint8": 8, "int16": 11, "int32": 12}[x.dtype.name]
        head = bytes([0, 0, code, x.ndim]) + np.array(x.shape, ">u4").tobytes()
        (path := folder / "x-idx3").write_bytes(head + x.astype(x.dtype.newbyteorder(">")).tobytes())
    elif kind == "parquet":
        import datasets

        rows = [{"bytes": picture(image, "PNG"), "path": None} for image in x]
        datasets.Dataset.from_list([{"image": row} for row in rows]).to_parquet(str(path))
    else:
        for i, image in enumerate(x):
            save(folder / "pictures" / f"{i:03}.{kind}", image)
        path = folder / "pictures"
    return path


def picture(image: np.ndarray, form: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, form)
    return buffer.getvalue()


WAYS = [("npy", np.int64), ("npz", np.uint8), ("idx", np.uint8), ("parquet", np.uint8)]
WAYS += [("png", np.uint8), ("bmp", np.uint8), ("pgm", np.uint8), ("tiff", np.uint16)]


@pytest.mark.parametrize(("kind", "dtype"), WAYS)
def test_masks_of_0_and_1_are_black_and_white_in_every_file(tmp_path, kind, dtype):
    if kind == "parquet":
        pytest.importorskip("datasets")
    images = open_data(write_array(tmp_path, kind, masks().astype(dtype)), "all")
    assert sorted(image.tobytes() for image in images.x) == sorted(
        (m * 255).astype(np.uint8).tobytes() for m in masks()
    )
    assert images.white == 1 and any("0 and 1 alone: taken for black and white" in note for note in images.notes)


WIDE = [
    ("npy", np.uint16),
    ("npz", np.int64),
    ("idx", np.int16),
    ("png", np.uint16),
    ("tiff", np.uint16),
    ("pgm", np.uint16),
]


@pytest.mark.parametrize(("kind", "dtype"), WIDE)
def test_12_bits_in_16_have_one_white_for_all(tmp_path, capsys, kind, dtype):
    x = grey(high=4000, dtype=dtype)
    x[1:] //= 20  # a file alone would look as if it had 8 bits
    path = write_array(tmp_path, kind, x)
    images = open_data(path, "all")
    expected = np.rint(x * (255 / 4095)).astype(np.uint8)
    assert abs(images.x[..., 0].astype(int) - expected).max() == 0
    assert images.white == 4095 and "4095 is taken for white" in images.notes[0] and "4000" in images.notes[0]
    whole = open_data(path, "all", white=65535)
    assert whole.x.max() == round(4000 / 257) and whole.white in (None, 65535)
    cut = open_data(path, "all", white=1023)
    assert (cut.x[..., 0] == np.rint(np.minimum(x, 1023) * (255 / 1023))).all() and "cut to it" in cut.notes[0]
    run("data", path, "--no-times")
    assert "4095 is taken for white" in capsys.readouterr().out.replace("\n", " ")


def test_a_run_reads_every_later_folder_by_its_own_white(tmp_path, capsys):
    x = grey(high=4000, dtype=np.uint16)
    write_array(tmp_path, "png", x)
    run("train", "vae", "--data", tmp_path / "pictures", "--out", tmp_path / "run", *QUICK)
    assert "4095 is taken for white" in capsys.readouterr().err
    model = load(tmp_path / "run")
    assert model.facts_["data"]["decoding"]["white"] == 4095
    (tmp_path / "later").mkdir()
    later = write_array(tmp_path / "later", "png", x // 20)  # darker: alone it would be taken for 8 bits
    run("encode", tmp_path / "run", "--data", later, "--split", "all", "--overwrite", "--out", tmp_path / "z.npy")
    np.testing.assert_array_equal(
        np.load(tmp_path / "z.npy"), model.transform(np.rint(x // 20 * (255 / 4095)).astype(np.uint8))
    )
    capsys.readouterr()
    brighter = write_array(tmp_path / "later", "tiff", x + 1000)
    for path in brighter.glob("*.png"):
        path.unlink()
    run("encode", tmp_path / "run", "--data", brighter, "--split", "all", "--overwrite", "--out", tmp_path / "z.npy")
    assert "images with values above 4095, the value of white, cut to it: 20" in capsys.readouterr().err


def test_a_run_of_8_bits_does_not_stretch_a_black_folder(tmp_path, capsys):
    run("train", "vae", "--data", write_array(tmp_path, "png", grey()), "--out", tmp_path / "run", *QUICK)
    (tmp_path / "later").mkdir()
    dark = masks().astype(np.uint8)
    for kind in ("png", "npy"):
        later = write_array(tmp_path / "later", kind, dark)
        run("encode", tmp_path / "run", "--data", later, "--split", "all", "--overwrite", "--out", tmp_path / "z.npy")
        expected = load(tmp_path / "run").transform(dark.astype(np.float32) / 255)
        np.testing.assert_allclose(np.load(tmp_path / "z.npy"), expected, atol=1e-6)


def test_white_can_be_said(tmp_path, capsys):
    small = write_array(tmp_path, "png", grey(high=16))
    assert open_data(small, "all").x.max() == 16
    assert (open_data(small, "all", white=16).x[..., 0] == np.rint(grey(high=16) * (255 / 16))).all()
    np.save(tmp_path / "f.npy", grey().astype(float))
    assert np.allclose(open_data(tmp_path / "f.npy", "all", white=255).x[..., 0], grey() / 255)
    for white, words in ((0, "white must be a whole number > 0"), (70000, "white must be at most 65535")):
        assert words in refusal(capsys, "data", small, "--white", white)


@given(st.integers(2, 65535), st.integers(0, 65535))
@settings(max_examples=50, deadline=None)
def test_16_bits_become_8_to_the_nearest(white, value):
    buffer = io.BytesIO()
    Image.fromarray(np.full((2, 2), value, np.uint16)).save(buffer, "PNG")
    pixels, size, mode, seen = decode(buffer.getvalue(), Decoding(white=white))
    assert abs(pixels.astype(float) - min(value, white) * 255 / white).max() <= 0.5
    assert (size, mode, seen.wide, seen.cut) == ("2x2", "I;16", value, value > white)


def test_the_white_that_is_found():
    assert [find_white(high) for high in (0, 1, 2, 255, 256, 1023, 1024, 4095, 65535)] == [
        255, 1, 255, 255, 511, 1023, 2047, 4095, 65535,
    ]  # fmt: skip


# Pictures


@pytest.mark.parametrize(
    "suffix", ["pgm", "ppm", "jp2", "tga", "ico", "dds", "pcx", "qoi", "sgi", "im", "PGM", "happy", ""]
)
def test_pictures_are_read_whatever_they_are_called(tmp_path, suffix):
    form = {"happy": "gif", "": "png", "jp2": "jpeg2000", "pgm": "ppm", "PGM": "ppm"}.get(suffix, suffix)
    square = Image.new("RGB", (16, 16), (200, 40, 90))
    for i in range(3):
        path = tmp_path / f"{i}.{suffix}".rstrip(".")
        if form == "dds":
            square.save(path, form)
        else:
            square.save(path, form, **({"sizes": [(16, 16)]} if form == "ico" else {}))
    images = open_data(tmp_path, "all")
    assert images.x.shape == (3, 16, 16, 3) and abs(images.x.astype(int) - (200, 40, 90)).max() <= 6
    with pytest.raises(ValueError, match="is one image; give its folder"):
        open_data(tmp_path / f"0.{suffix}".rstrip("."))
    if suffix:
        assert len(open_data(str(tmp_path / f"*.{suffix}"), "all")) == 3


def test_what_is_passed_over_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(kinds, "formats", lambda: tuple(name for name in ALL_FORMATS if name != "AVIF"))
    kinds._told_by_content.cache_clear()
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
    there = {
        "a.txt": b"words",
        "b.txt": b"",
        "c.svg": b"<svg/>",
        "d.heic": heic,
        "e": heic,
        "f.mp4": b"\0\0\0\x18ftypmp42\0\0\0\0",
        "g.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "h.avif": b"\0\0\0\x1cftypavif\0\0\0\0",
        "i.nef": b"II*\0",
        "j.zip": b"PK\3\4",
        ".k": b"",
    }
    for name, content in there.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"holds no images \(looked for \.png, .*there are .*1 \.mp4 \(a video\)"):
        open_data(tmp_path)
    for i in range(2):
        save(tmp_path / f"{i}.png", grey(1)[0])
    (note,) = open_data(tmp_path, "all").notes
    assert note.startswith("files that are hidden or no images, passed over: 11 (")
    for words in (
        "1 .txt",
        "1 .txt (empty)",
        "1 .svg (not a raster)",
        "1 .heic (HEIC: `pip install pillow-heif` reads it)",
        "1 without a suffix (HEIC: `pip install pillow-heif` reads it)",
        "1 .mp4 (a video)",
    ):
        assert words in note
    run("data", tmp_path, "--no-times")
    assert "passed over: 11" in capsys.readouterr().out
    kinds._told_by_content.cache_clear()


ALL_FORMATS = kinds.formats()


def test_words_for_what_is_no_picture():
    for name, head, words in [
        ("x.jpg", b"<!DOCTYPE html><html>", "a web page"),
        ("x.png", b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        ("x.png", b'<?xml version="1.0"?>\n<svg width="1">', "not a raster"),
        ("x.jpg", b"\0\0\0\x18ftypheic\0\0\0\0", "pip install pillow-heif"),
        ("x.jpg", b"\0\0\0\x18ftypqt  \0\0\0\0", "a video"),
        ("x.cr2", b"II*\0\x10\0\0\0CR", "a camera's raw data"),
        ("x", b"%PDF-1.4", "not a raster"),
    ]:
        assert words in kinds.words_for(name, head), name


def test_a_picture_that_is_none_says_what_it_is(tmp_path):
    save(tmp_path / "0.png", grey(1)[0])
    (tmp_path / "1.jpg").write_bytes(b"<!DOCTYPE html><html>gone</html>")
    with pytest.raises(ValueError, match=r"1\.jpg \(not an image but a web page\)"):
        open_data(tmp_path)


def test_no_program_is_run_for_a_file(tmp_path, monkeypatch):
    """Pillow draws EPS with Ghostscript, whatever the file is called."""
    monkeypatch.setattr(subprocess, "check_call", lambda *_, **__: pytest.fail("a program was started"))
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a program was started"))
    save(tmp_path / "0.png", grey(1)[0])
    for name in ("1.eps", "2.png", "3"):
        (tmp_path / name).write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n")
    with pytest.raises(ValueError, match=r"2\.png \(not an image but not a raster\)|2\.png \(not a raster\)"):
        open_data(tmp_path)


def test_a_decoder_that_is_installed_is_used(tmp_path, monkeypatch):
    """pillow-heif in miniature: what registers itself is asked, by suffix and by content."""

    class Heic(Image.Image):
        pass

    def opened(file, _):
        file.seek(24)
        return Image.open(io.BytesIO(file.read()))

    def register():
        Image.register_open("HEIF", opened, lambda head: head[4:12] == b"ftypheic")
        Image.register_extension("HEIF", ".heic")

    before = dict(Image.OPEN), list(Image.ID), dict(Image.EXTENSION)
    monkeypatch.setitem(sys.modules, "pillow_heif", types.SimpleNamespace(register_heif_opener=register))
    kinds.formats.cache_clear(), kinds._told_by_content.cache_clear()
    try:
        for i, name in enumerate(("0.heic", "1")):
            (tmp_path / name).write_bytes(b"\0\0\0\x18ftypheic".ljust(24, b"\0") + picture(grey(2)[i], "PNG"))
        assert (open_data(tmp_path, "all").x[..., 0] == grey(2)).all()
    finally:
        monkeypatch.undo()
        Image.OPEN.clear(), Image.OPEN.update(before[0])
        Image.ID[:] = before[1]
        Image.EXTENSION.clear(), Image.EXTENSION.update(before[2])
        kinds.formats.cache_clear(), kinds._told_by_content.cache_clear()


Image.init()
SUFFIX = {form: suffix for suffix, form in reversed(Image.EXTENSION.items())}


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(sorted(set(Image.SAVE) - {"PDF", "EPS"})),
    st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"]),
    st.sampled_from(["own", "none", "odd"]),
)
def test_any_picture_that_pillow_opens_is_read_or_named(tmp_path_factory, form, mode, called):
    folder = tmp_path_factory.mktemp("any")
    suffix = {"own": SUFFIX.get(form, ""), "none": "", "odd": ".data"}[called]
    path = save(folder / "always.png", grey(1, 200)[0]).with_name(f"x{suffix}")
    try:
        Image.new(mode, (8, 8), 1).save(path, form)
        with Image.open(path) as image:
            image.load()
    except Exception:
        return  # Pillow itself can't
    try:
        images = open_data(folder, "all", skip_bad=True)
    except ValueError as error:
        assert path.name in str(error) or "sizes" in str(error)
        return
    named = [name for name in images.files.unreadable if name.startswith(path.name)]
    passed = [note for note in images.notes if (suffix or "without a suffix") in note]
    assert len(images) == 2 or named or passed


def test_files_of_several_pictures_are_told(tmp_path):
    frames = [Image.fromarray(image) for image in grey(3)]
    for form in ("gif", "tiff", "webp"):
        frames[0].save(tmp_path / f"x.{form}", save_all=True, append_images=frames[1:])
    save(tmp_path / "y.gif", grey(1)[0])
    images = open_data(tmp_path, "all")
    assert len(images) == 4 and any(
        "more than one picture (animations, pages), of which the first was taken: 3" in n for n in images.notes
    )


# Grey or colour


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Path:
    """A run trained on grey and colour files together, `--skip-bad` and `--labels`, in run/."""
    folder = tmp_path_factory.mktemp("mixed")
    colour = np.random.default_rng(1).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    for i in range(20):
        save(folder / "both" / f"{i:02}.png", colour[i] if i % 2 else grey()[i])
        save(folder / "grey" / f"{i:02}.png", grey()[i])
        save(folder / "colour" / f"{i:02}.png", colour[i])
    (folder / "both" / "bad.png").write_bytes(b"bad")
    (folder / "grey" / "bad.png").write_bytes(b"bad")
    (folder / "labels.csv").write_text("".join(f"{i:02}.png,{i % 2}\n" for i in range(20)))
    given = ("--data", folder / "both", "--skip-bad", "--labels", folder / "labels.csv")
    run("train", "cvae", *given, "--out", folder / "run", *QUICK)
    run("train", "vae", "--data", folder / "grey", "--skip-bad", "--out", folder / "grey run", *QUICK)
    return folder


def test_a_run_remembers_what_its_files_became(mixed, tmp_path, capsys):
    model = load(mixed / "run")
    assert model.image_shape_ == (8, 8, 3)
    assert model.facts_["data"]["skip_bad"] and model.facts_["data"]["labels"] == str(mixed / "labels.csv")
    run("encode", mixed / "run", "--data", mixed / "grey", "--split", "all", "--overwrite", "--out", tmp_path / "z.npy")
    assert "images that can't be read, left out: 1 (bad.png" in capsys.readouterr().err
    np.testing.assert_allclose(np.load(tmp_path / "z.npy"), model.transform(grey()), atol=1e-6)
    run("reconstruct", mixed / "run", "--data", mixed / "grey", "--out", tmp_path / "x.npy")
    assert np.load(tmp_path / "x.npy").shape[1:] == (8, 8, 3)
    run("doctor", mixed / "run")  # with its own labels, which evaluating a CVAE needs
    run("evaluate", mixed / "run", "--data", mixed / "both", "--no-judge")
    run("evaluate", mixed / "grey run", "--data", mixed / "grey", "--no-judge")


def test_what_is_lost_is_said_and_a_flag_forces_it(mixed, tmp_path, capsys):
    run(
        "encode",
        mixed / "grey run",
        "--data",
        mixed / "colour",
        "--split",
        "all",
        "--overwrite",
        "--out",
        tmp_path / "z.npy",
    )
    assert "colour images made grey: 20" in capsys.readouterr().err
    x = open_data(mixed / "colour", "all", colour="grey").x
    assert x.shape == (20, 8, 8, 1)
    expected = open_data(mixed / "colour", "all").x @ [0.299, 0.587, 0.114]
    assert abs(x[..., 0] - expected).max() <= 1
    assert open_data(mixed / "grey", "all", colour="rgba", skip_bad=True).x[0, 0, 0].tolist() == [
        *[grey()[0, 0, 0]] * 3,
        255,
    ]
    run("train", "vae", "--data", mixed / "colour", "--colour", "grey", "--out", tmp_path / "run", *QUICK)
    model = load(tmp_path / "run")
    assert model.image_shape_ == (8, 8, 1) and model.facts_["data"]["decoding"]["colour"] == "grey"
    np.save(tmp_path / "colour.npy", open_data(mixed / "colour", "all").x)
    capsys.readouterr()
    run(
        "encode",
        tmp_path / "run",
        "--data",
        tmp_path / "colour.npy",
        "--split",
        "all",
        "--overwrite",
        "--out",
        tmp_path / "z.npy",
    )
    assert "images have lost their colours, since they were made grey" in capsys.readouterr().err


def test_arrays_become_grey_as_pictures_do(tmp_path):
    colour = np.random.default_rng(2).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    for i, image in enumerate(colour):
        save(tmp_path / "pictures" / f"{i}.png", image)
    np.save(tmp_path / "array.npy", colour)
    pictures, array = (open_data(tmp_path / name, "all", colour="grey").x for name in ("pictures", "array.npy"))
    assert array.shape == (4, 8, 8, 1)
    assert np.abs(array.astype(int) - pictures).max() <= 1


def test_another_size_is_advised_the_runs_own(mixed, tmp_path, capsys):
    for i in range(12):
        save(tmp_path / "large" / f"{i}.png", np.full((16, 16), i, np.uint8))
        save(tmp_path / "many" / f"{i}.png", np.full((16, 16 + i), i, np.uint8))
    for folder in ("large", "many"):
        assert "--resize 8 " in refusal(capsys, "encode", mixed / "run", "--data", tmp_path / folder, "--out", "z.npy")
    run("encode", mixed / "run", "--data", tmp_path / "many", "--resize", 8, "--out", tmp_path / "z.npy")


def test_arrays_of_other_channels(mixed):
    colour, flat = load(mixed / "run"), load(mixed / "grey run")
    x = grey()
    three = np.repeat(x[..., None], 3, axis=3)
    four = np.concatenate([three, np.full_like(three[..., :1], 255)], axis=3)
    for other in (x, x[..., None], four, four / 255):
        np.testing.assert_allclose(colour.transform(other), colour.transform(three), atol=1e-5)
    for other in (three, four):
        np.testing.assert_allclose(flat.transform(other), flat.transform(x), atol=1e-6)
    three[0, 0, 0] = 1, 2, 3
    with pytest.raises(
        ValueError, match=r"would lose their colours: X\[\.\.\., :3\] @ \[0\.299, 0\.587, 0\.114\] / 255"
    ):
        flat.transform(three)
    four[0, 0, 0, 3] = 7
    with pytest.raises(ValueError, match=r"would lose their transparency: X\[\.\.\., :3\] leaves it out"):
        colour.transform(four)


# Things that are no array


class Pairs(Dataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        return np.zeros((8, 8)), 0


PILLOW = [Image.fromarray(image) for image in grey(3)]
TENSORS = TensorDataset(torch.zeros(3, 8, 8))


@pytest.mark.parametrize(
    ("X", "words"),
    [
        (TENSORS, r"X is a TensorDataset; pass its tensors: X\.tensors\[0\], and as y X\.tensors\[1\]"),
        (DataLoader(TENSORS), r"X is a DataLoader; pass the images in one array: torch\.cat"),
        (Pairs(), r"X is a Dataset of torch; pass the images in one array: np\.stack"),
        (PILLOW, r"X is a list of Pillow's pictures; pass an array: np\.stack"),
        (PILLOW[0], r"X is one picture of Pillow; pass a batch"),
        (["a/b.png", "c.png"], r"got text, such as 'a/b\.png': to read files, pass open_data"),
        ([Path("a.png")], r"got text, such as 'a\.png'"),
        ("folder", r"got text, such as 'folder': to read files, pass open_data"),
        (iter([1]), r"X is an iterator; pass an array: np\.stack\(list\(X\)\)"),
        (torch.zeros(3, 3, 8, 8), r"the channels last: X\.permute\(0, 2, 3, 1\)$"),
        (torch.zeros(3, 3, 8, 8, device="meta"), r"tensor on meta; .* pass X\.permute\(0, 2, 3, 1\)\.cpu\(\)"),
        (torch.zeros(3, 8, 8, device="meta"), r"pass X\.cpu\(\)"),
        (open_data("digits", "test"), r"pass its arrays, X\.x and X\.y, or call fit_images\(X\)"),
    ],
)
def test_what_is_no_array_is_told_what_to_do(X, words):
    with pytest.raises(ValueError, match=words):
        tiny().fit(X)


def test_tensors_are_arrays():
    x = torch.rand(20, 8, 8)
    model = tiny().fit(x)
    given = [x.clone().requires_grad_(), list(x), x.to_sparse(), x.double()]
    for other in given:
        np.testing.assert_allclose(model.transform(other), model.transform(x.numpy()), atol=1e-6)
    y = torch.arange(20) % 2
    assert tiny(CVAE).fit(x, y).classes_.tolist() == [0, 1]
    assert model.transform(x.bfloat16()).shape == (20, 2)


FRAMES = {"pandas": pd.DataFrame, "polars": pl.DataFrame}


@pytest.mark.parametrize("library", FRAMES)
@pytest.mark.parametrize(
    ("column", "words"),
    [
        (["Rome", "Oslo", "Rome"], r"column 'b' holds text \('Rome' in row 0\): encode it as columns of 0 and 1"),
        ([1.0, None, 3.0], r"column 'b' lacks 1 of 3 values \(NaN; first in row 1\): fill them in"),
        ([None, None, None], r"column 'b' has no values at all: leave it out"),
        (pd.date_range("2026-01-01", periods=3).to_list(), r"column 'b' holds dates .*days since a date"),
    ],
    ids=["text", "missing", "nothing", "dates"],
)
def test_a_column_that_is_no_numbers_is_named(library, column, words):
    with pytest.raises(ValueError, match=words):
        tiny().fit(FRAMES[library]({"a": [1.0, 2.0, 4.0], "b": column}))


def test_an_empty_column_of_an_array_is_named():
    x = np.random.default_rng(0).random((9, 3))
    x[:, 2] = np.nan
    with pytest.raises(ValueError, match=r"column 2 has no values at all: leave it out"):
        tiny().fit(x)


def test_labels_in_columns_are_told_to_be_one():
    with pytest.raises(ValueError, match=r"got shape \(20, 2\); these are one-hot: pass y\.argmax\(1\)"):
        tiny(CVAE).fit(grey(), np.eye(2)[np.arange(20) % 2])
    with pytest.raises(ValueError, match=r"several labels at once: pass one of their columns, such as y\[:, 0\]"):
        tiny(CVAE).fit(grey(), np.ones((20, 2), int))


def test_one_image_is_made_a_batch():
    flat, colour = tiny().fit(grey()), tiny().fit(np.repeat(grey()[..., None], 3, axis=3))
    for model, x in ((flat, grey()[0]), (flat, grey()[0][..., None]), (colour, np.zeros((8, 8, 3), np.uint8))):
        with pytest.raises(ValueError, match=r"of one make a batch, X\[None\]"):
            model.transform(x)
    with pytest.raises(ValueError, match=r"pass X\.reshape\(-1, 8, 8, 1\)"):
        flat.transform(np.zeros((5, 64)))
    with pytest.warns(UserWarning, match=r"read as 16 grey images of 16x3 pixels; if it is one picture .*X\[None\]"):
        check_array(np.zeros((16, 16, 3), np.uint8))


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (("images", "labels"), {"": ("images", "labels")}),
        (("arr_0", "arr_1"), {"": ("arr_0", "arr_1")}),
        (("faces",), {"": ("faces", None)}),
        (("X", "Y"), {"": ("X", "Y")}),
        (("x_train", "y_train", "x_test", "y_test"), {"train": ("x_train", "y_train"), "test": ("x_test", "y_test")}),
        (("train_images", "train_labels"), {"": ("train_images", "train_labels")}),
        (
            ("train_images", "val_images", "test_images", "train_labels", "val_labels", "test_labels"),
            {
                "train": ("train_images", "train_labels"),
                "test": ("test_images", "test_labels"),
                "validation": ("val_images", "val_labels"),
            },
        ),
        (("left", "right"), None),
        (("images", "data"), None),
    ],
)
def test_arrays_of_other_names_are_taken_where_they_are_clear(tmp_path, names, found):
    arrays = {}
    for i, name in enumerate(names):
        labels = "y" in name.lower() or "labels" in name or name == "arr_1"
        arrays[name] = np.full(12, i) if labels else np.full((12, 8, 8), i, np.uint8)
    np.savez(tmp_path / "d.npz", **arrays)
    if found is None:
        with pytest.raises(ValueError, match=rf"must hold an array named x .*: {names[0]} \(12, 8, 8\), {names[1]}"):
            read_npz_parts(tmp_path / "d.npz")
        return
    parts = read_npz_parts(tmp_path / "d.npz")
    assert list(parts) == list(found)
    for part, (x, y) in found.items():
        np.testing.assert_array_equal(parts[part][0], arrays[x])
        assert (parts[part][1] is None) if y is None else (parts[part][1] == arrays[y]).all()
    if "test" in found:
        assert (open_data(tmp_path / "d.npz", "test").x == arrays[found["test"][0]][0, 0, 0]).all()


def test_unlabelled_pictures_for_a_conditional_model(mixed, tmp_path, capsys):
    said = refusal(capsys, "train", "cvae", "--data", mixed / "colour", "--out", tmp_path / "run", *QUICK)
    assert "has no labels" in said and "sub-folder" in said and "--labels" in said and "target y" not in said
    with pytest.raises(ValueError, match="requires y to be passed, but the target y is None"):
        tiny(CVAE).fit(grey())


def test_a_mistyped_path_is_told_the_nearest(mixed, tmp_path, capsys):
    for wrong, right in (("colur", "colour"), ("colur/x", "colour/x"), ("colur/*.png", "colour/*.png")):
        assert f"did you mean '{mixed / right}'?" in refusal(capsys, "data", mixed / wrong)
    assert f"did you mean '{mixed / 'run'}'?" in refusal(capsys, "sample", mixed / "rum", "--out", tmp_path / "x.npy")
    assert f"did you mean '{mixed / 'labels.csv'}'?" in refusal(
        capsys, "data", mixed / "colour", "--labels", mixed / "label.csv"
    )
    assert "did you mean" not in refusal(capsys, "data", tmp_path / "nothing" / "like.npy")


def test_a_member_of_an_archive_that_is_no_array_is_told(tmp_path):
    for name in ("x", "y"):
        np.savez(
            tmp_path / "a.npz",
            **{other: np.zeros((12, 4, 4)) if other == "x" else np.arange(12) for other in "xy" if other != name},
        )
        with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
            archive.writestr(f"{name}.npy", b"no array")
        with pytest.raises(ValueError, match=rf"a\.npz is truncated or damaged \({name} is no array\)"):
            open_data(tmp_path / "a.npz", "all")
