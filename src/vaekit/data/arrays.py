"""Arrays as `Images`: given in Python, or in .npy, .npz and idx files, and the white that their integers have."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from vaekit.data.checks import check_array, check_labels, label_column
from vaekit.data.frames import table_header
from vaekit.data.images import Images, fingerprint
from vaekit.data.kinds import is_picture, kind_of
from vaekit.data.mapped import chunks
from vaekit.data.pixels import WHOLE, brightest, find_white
from vaekit.data.readers import read_idx, read_npy, read_npz_parts
from vaekit.data.sprites import SPRITES, is_dsprites, read_dsprites
from vaekit.data.tables import TABLE_SUFFIXES

IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def given_images(X, y=None) -> Images:
    """What a user gives in Python as `Images`: X (N, H, W), (N, H, W, C) or (N, D), and labels y (N,) of any kind, or None.
    Raises ValueError as `check_array` and `check_labels` do.
    """
    x = check_array(X)
    index, classes = (None, ()) if y is None else check_labels(y, len(x))
    return Images(x, index, classes, "array", fingerprint(x, index), header=table_header(X))


def images_of(x, y: np.ndarray | None, classes: tuple[str, ...], name: str) -> Images:
    """An array whose white is 255, with labels as indices, as `Images`."""
    header, x = table_header(x), check_array(x, name, white=255)
    return Images(x, y, classes, name, fingerprint(x, y), header=header)


def labelled(x, y, name: str, white: int | None = None) -> Images:
    """An array of a file, with its labels, as `Images`."""
    x, white, notes = _in_8_bits(x, name, white)
    index, classes = (None, ()) if y is None else check_labels(y, len(x) if x.ndim else 0, f"{name}: y")
    return replace(images_of(x, index, tuple(map(str, classes)), name), white=white, notes=notes)


def _in_8_bits(x: np.ndarray, name: str, white: int | None) -> tuple[np.ndarray, int | None, tuple[str, ...]]:
    """Images of integers as uint8 in which `white` has become 255, the white that was found where it is none of these types'
    largest, and notes. Tables and floats in [0, 1] stay as they are; whatever can't be images is left for `check_array`.
    """
    if x.ndim not in (3, 4) or x.dtype.kind not in "iuf" or not x.size:
        return x, None, ()
    if x.dtype.kind == "f":
        low, high = x.min(), x.max()
        if white is None or not (low >= 0 and 1 < high < np.inf) or (white == WHOLE and high <= 255):
            return x, None, ()
        return np.minimum(x / np.float32(white), 1).astype(np.float32), white, _cut(high, white)
    if x.dtype == np.uint8:
        high = brightest(x, 256 if (white or 255) < 255 else 2)
        top = min(white, 255) if white else find_white(int(high))
    else:
        low, high = int(x.min()), int(x.max())
        if low < 0 or high > WHOLE or (x.dtype == np.int8 and white is None and high > 1):
            return x, None, ()
        small = white == WHOLE and high <= 255 and x.dtype.itemsize > 2  # of such integers 65535 is not the largest
        top = find_white(high) if white is None else 255 if small else white
    if top == 255 and x.dtype == np.uint8:
        return x, None, ()
    out = np.empty(x.shape, np.uint8)
    for start, part in chunks(x):
        out[start : start + len(part)] = (np.minimum(part.astype(np.int32), top) * 255 + top // 2) // top
    notes = _cut(high, top)
    if white is None and top == 1:
        notes = ("pixels are 0 and 1 alone: taken for black and white (--white 255 takes them for 8-bit values)",)
    elif white is None and top > 255:
        notes = (
            f"pixels have values up to {high:g}: {top} is taken for white (--white {WHOLE}, or another, says otherwise)",
        )
    return out, None if top == 255 else top, notes


def _cut(high: float, white: int) -> tuple[str, ...]:
    return (
        (f"there are values up to {high:g}: those above {white}, the value of white, are cut to it",)
        if high > white
        else ()
    )


def open_file(path: Path, white: int | None) -> tuple[Images, dict[str, slice] | None]:
    """A file of arrays, and its published parts where it has them."""
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return labelled(read_npy(path), None, str(path), white), None
    if suffix == ".npz" and is_dsprites(path):
        return read_dsprites(path, SPRITES)[0], None
    if suffix == ".npz":
        return _open_npz(path, white)
    if "idx" in path.name or suffix == ".gz":
        return labelled(read_idx(path), None, str(path), white), None
    if is_picture(str(path)):
        raise ValueError(f"{path} is one image; give its folder, or a pattern such as '{path.parent / '*'}{suffix}'")
    raise ValueError(
        f"{path} is of no known kind, {kind_of(str(path))}: a data file is .npy, .npz or idx, a table "
        f"{', '.join(TABLE_SUFFIXES)}"
    )


def _open_npz(path: Path, white: int | None) -> tuple[Images, dict[str, slice] | None]:
    """A .npz file, and its published parts where it has them."""
    parts = read_npz_parts(path)
    if len(parts) == 1:
        (x, y), places = next(iter(parts.values())), None
    else:
        if "test" not in parts and "validation" in parts:
            parts["test"] = parts.pop("validation")
        shapes = {part: x.shape[1:] for part, (x, _) in parts.items()}
        if len(set(shapes.values())) > 1 or len({y is None for _, y in parts.values()}) > 1:
            found = ", ".join(f"{part} {shape}" for part, shape in shapes.items())
            raise ValueError(f"{path}: its parts must have one shape, and all or none of them labels, got {found}")
        x = np.concatenate([x for x, _ in parts.values()])
        y = (
            None
            if any(y is None for _, y in parts.values())
            else np.concatenate([label_column(y, len(x), f"{path}: y") for x, y in parts.values()])
        )
        ends = np.cumsum([len(x) for x, _ in parts.values()]).tolist()
        places = {part: slice(end - len(parts[part][0]), end) for part, end in zip(parts, ends, strict=True)}
    return labelled(x, y, str(path), white), places


def has_idx_files(folder: Path) -> bool:
    """Whether the folder holds a set of four idx files."""
    return all(any((folder / (name + suffix)).exists() for suffix in ("", ".gz")) for name in IDX_FILES)


def idx_parts(
    folder: Path, classes: tuple[str, ...] | None, name: str, white: int | None = None
) -> tuple[Images, dict[str, slice]]:
    """A set of four idx files, and its two parts. classes: None where the labels themselves are the classes' names."""
    arrays = []
    for file in IDX_FILES:
        packed = folder / f"{file}.gz"
        arrays.append(read_idx(packed if packed.exists() else folder / file))
    train_x, train_y, test_x, test_y = arrays
    for part, x, y in (("train", train_x, train_y), ("test", test_x, test_y)):
        if x.ndim != 3 or y.shape != (len(x),):
            raise ValueError(f"{folder}: the {part} files don't fit, images {x.shape} and labels {y.shape}")
    if train_x.shape[1:] != test_x.shape[1:]:
        raise ValueError(f"{folder}: train images are {train_x.shape[1:]}, test images {test_x.shape[1:]}")
    y = np.concatenate([train_y, test_y]).astype(np.int64)
    if classes is None:
        y, found = check_labels(y, len(y), f"{folder}: labels")
        classes = tuple(str(label) for label in found)
    elif y.min() < 0 or y.max() >= len(classes):
        raise ValueError(f"{folder}: labels from {y.min()} to {y.max()}, expected 0 to {len(classes) - 1}")
    x, white, notes = _in_8_bits(np.concatenate([train_x, test_x])[..., None], name, white)
    rows = np.concatenate([np.arange(len(train_x)), np.arange(len(test_x))])
    images = replace(images_of(x, y, classes, name), white=white, notes=notes, rows=rows)
    return images, {"train": slice(0, len(train_x)), "test": slice(len(train_x), None)}
