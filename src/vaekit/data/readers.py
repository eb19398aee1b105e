"""Readers: one file format each, from a path to arrays. Every error names the file and what is wrong with it."""

from __future__ import annotations

import csv
import gzip
import math
import os
import re
import struct
import warnings
import zipfile
import zlib
from collections import Counter
from pathlib import Path
from typing import Literal

import numpy as np

from vaekit.data.mapped import MAPPED_FROM
from vaekit.messages import filled, first_line, listed

FILE_COLUMNS = ("file_name", "filename", "file", "path", "image", "image_id", "id")
LABEL_COLUMNS = ("label", "labels", "class", "category", "target", "y")
MOST_UNPACKED = 2**30  # bytes that a packed file may unpack to, or MOST_TIMES its own size, where that is more
MOST_TIMES = 200  # real images pack to a 2nd or a 20th of their size, zeros to a 1000th
X_NAMES = (
    "x",
    "images",
    "image",
    "imgs",
    "img",
    "data",
    "features",
    "samples",
    "pixels",
)  # of arrays in a .npz file
Y_NAMES = ("y", *LABEL_COLUMNS, "targets", "classes", "class_labels")
PART_NAMES = {"train": "train", "training": "train", "test": "test", "val": "validation", "valid": "validation"}
PART_NAMES["validation"] = "validation"
ORIGIN = {"names": ("file", "U"), "rows": ("row", "i"), "split": ("split", "U")}  # of a .npz file: column, kind of type
_IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: Path) -> np.ndarray:
    """An idx file (MNIST's format), gzipped or not -> the array it holds."""
    check_file(path)
    with open(path, "rb") as file:
        opener = gzip.open if file.read(2) == b"\x1f\x8b" else open
    try:
        with opener(path, "rb") as file:
            head = file.read(4)
            if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _IDX_TYPES or not 1 <= head[3] <= 8:
                raise ValueError(f"{path} is not an idx file: it starts with {head.hex() or 'nothing'}")
            shape = struct.unpack(f">{head[3]}I", file.read(4 * head[3]))
            dtype = np.dtype(_IDX_TYPES[head[2]])
            expected = math.prod(shape) * dtype.itemsize
            if expected == 0:
                raise ValueError(f"{path} is empty: its header says {shape}")
            if opener is gzip.open:
                check_unpacked(path, expected)
            data = bytearray()  # so that the array can be written to
            # Read in pieces and no further than the header says: neither a false header nor a bomb takes memory.
            while len(data) <= expected and (chunk := file.read(min(1 << 24, expected + 1 - len(data)))):
                data += chunk
    except (OSError, EOFError, MemoryError, zlib.error, struct.error) as error:
        raise ValueError(f"{path} is truncated or damaged ({first_line(error)})") from None
    if len(data) != expected:
        more = "more" if len(data) > expected else f"only {len(data)}"
        raise ValueError(f"{path} is damaged: its header {shape} promises {expected} bytes, it holds {more}")
    array = np.frombuffer(data, dtype).reshape(shape)
    return array.astype(dtype.newbyteorder("="), copy=False)


def read_npy(path: Path) -> np.ndarray:
    """A .npy file of numbers -> its array; one of many images is memory-mapped."""
    if path.stat().st_size > MAPPED_FROM:
        mapped = _load_numpy(path, mmap_mode="c").get("")
        if mapped is not None and mapped.ndim > 2 and mapped.flags.c_contiguous:
            return mapped
    arrays = _load_numpy(path)
    if "" not in arrays:
        raise ValueError(f"{path} is an archive of several arrays; rename it to .npz")
    return filled(arrays[""])


def read_npz(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """A .npz file of images (or codes) and, where there are any, labels -> x, y; of one with parts, those of the first."""
    return next(iter(read_npz_parts(path).values()))


def read_npz_parts(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    """A .npz file -> x and y of its parts: "train", "test", "validation", or "" where there are none.

    Arrays are known by their names, x and y before all, or X_NAMES and Y_NAMES, with the name of a part before or after; else
    the only array is x, and of two the one with an axis is y. Raises ValueError, with a list of what is there, for anything
    less clear.
    """
    shapes = _shapes(path)
    chosen = _choose(shapes)
    if chosen is None:
        found = ", ".join(f"{key} {shape}" for key, shape in shapes.items() if key) or "none with a name"
        raise ValueError(f"{path} must hold an array named x (and y for labels); its arrays: {found}")
    wanted = tuple(key for pair in chosen.values() for key in pair if key is not None)
    arrays = _load_numpy(path, wanted=wanted)
    for key in wanted:
        if not isinstance(arrays.get(key), np.ndarray):  # numpy hands over a member of another kind as its bytes
            raise ValueError(f"{path} is truncated or damaged ({key or 'a member without a name'} is no array)")
    return {part: (filled(arrays[x]), None if y is None else arrays[y]) for part, (x, y) in chosen.items()}


def read_origin(path: Path, n: int) -> dict[str, np.ndarray]:
    """What `encode` writes into a .npz file of n samples besides x and y: a column `file` or `row`, and `split`. Arrays of
    these names that are something else are left aside.
    """
    found = {}
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {info.filename: info.file_size for info in archive.infolist()}
        with np.load(path, allow_pickle=False) as arrays:
            for name, (column, kind) in ORIGIN.items():
                if name in arrays.files:
                    check_unpacked(path, sizes[f"{name}.npy"])
                    values = arrays[name]
                    if values.shape == (n,) and values.dtype.kind == kind:
                        found[column] = values
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is truncated or damaged ({first_line(error)})") from None
    return found


def _choose(shapes: dict[str, tuple[int, ...] | None]) -> dict[str, tuple[str, str | None]] | None:
    """Which arrays are x and y of each part, by their names and shapes; None where that isn't clear."""
    if "x" in shapes:
        return {"": ("x", "y" if "y" in shapes else None)}
    found: dict[str, dict[str, str]] = {}
    for key in shapes:
        words = [word for word in re.split(r"[^a-z]+", key.lower()) if word]
        part = next((PART_NAMES[word] for word in words if word in PART_NAMES), "")
        rest = "_".join(word for word in words if word not in PART_NAMES)
        kind = "x" if rest in X_NAMES else "y" if rest in Y_NAMES else None
        if kind is not None and found.setdefault(part, {}).setdefault(kind, key) != key:
            return None
    parts = {part: (names["x"], names.get("y")) for part, names in found.items() if "x" in names}
    if len(parts) == 1 and "" not in parts and len(shapes) <= 2:
        parts = {"": next(iter(parts.values()))}
    if parts and ("" in parts) == (len(parts) == 1):
        order = ["", *dict.fromkeys(PART_NAMES.values())]
        return {part: parts[part] for part in sorted(parts, key=order.index)}
    many = [key for key, shape in shapes.items() if shape is not None and len(shape) > 1]
    flat = [key for key, shape in shapes.items() if shape is not None and len(shape) == 1]
    if parts or len(many) != 1 or len(many) + len(flat) != len(shapes) or len(flat) > 1:
        return None
    return {"": (many[0], flat[0] if flat and shapes[flat[0]] == filled(shapes[many[0]])[:1] else None)}


def _shapes(path: Path) -> dict[str, tuple[int, ...] | None]:
    """The names of a .npz file's arrays, and their shapes by their headers; None for what has no header, or a damaged one."""
    check_file(path)
    shapes: dict[str, tuple[int, ...] | None] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                key = name.removesuffix(".npy")
                try:
                    with archive.open(name) as file, warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        read = {
                            (1, 0): np.lib.format.read_array_header_1_0,
                            (2, 0): np.lib.format.read_array_header_2_0,
                        }
                        shapes[key] = read[np.lib.format.read_magic(file)](file)[0]
                except Exception:  # numpy reads a header as Python's text, and raises whatever that raises
                    shapes[key] = None
    except FileNotFoundError:
        raise
    except Exception:
        return dict.fromkeys(("x",))  # no archive: what numpy says of it is said
    return shapes


def _load_numpy(
    path: Path, mmap_mode: Literal["c"] | None = None, wanted: tuple[str, ...] = ("x", "y")
) -> dict[str, np.ndarray | None]:
    """The arrays of a numpy file by name, "" for the one in a .npy file; only those `wanted` of a .npz file are read."""
    check_file(path)
    check_unpacked(path, _unpacked(path, wanted))
    try:
        with open(path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers that are odd; what comes of them is looked at
            # A mapped array needs a name, and does not close what it is given.
            loaded = np.load(path if mmap_mode else file, mmap_mode=mmap_mode, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return {"": loaded}
            return {key: loaded[key] if key in wanted else None for key in loaded.files}
    except FileNotFoundError:
        raise
    except MemoryError:
        raise ValueError(f"{path} is damaged or too large: its header promises more than fits in memory") from None
    except Exception as error:  # numpy reads a header as Python's text, and raises whatever that raises
        if "pickle" in str(error).lower() and "header" not in str(error).lower():
            message = f"{path} holds Python objects or is no numpy file; save a plain array of numbers instead"
        else:
            message = f"{path} is truncated or damaged ({first_line(error)})"
        raise ValueError(message) from None


def _unpacked(path: Path, wanted: tuple[str, ...]) -> int:
    """Bytes that these arrays of a .npz file take by what it says; 0 for another file, or a damaged one, which numpy tells."""
    try:
        with zipfile.ZipFile(path) as archive:
            return sum(info.file_size for info in archive.infolist() if info.filename.removesuffix(".npy") in wanted)
    except Exception:
        return 0


def check_unpacked(path: Path, size: int) -> None:
    """Raises ValueError where the file would unpack to more bytes than a real one of its size: it is a bomb."""
    packed = path.stat().st_size
    if size > max(MOST_UNPACKED, MOST_TIMES * packed):
        raise ValueError(
            f"{path} would unpack to {size / 2**30:.3g} GB, {size / max(1, packed):.0f} times its size; more than "
            f"{MOST_UNPACKED // 2**30} GB is read up to {MOST_TIMES} times (an array in a .npy file may be of any size)"
        )


def check_file(path: Path) -> None:
    """Raises ValueError for what exists and is no file: a pipe would be waited for, a device read for ever."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is no file")


def folder_labels(names: list[str], folder: Path) -> list[str] | None:
    """The class of each of the files `names` in `folder`: each sub-folder is one, files deeper down belong to it; a flat
    folder has none.
    """
    owners = [name.split("/", 1)[0] for name in names if "/" in name]
    if owners and len(owners) < len(names):
        first = ", ".join(sorted(set(owners))[:3])
        raise ValueError(
            f"{folder} mixes {len(names) - len(owners)} loose images with class sub-folders ({first}, ...); "
            "put every image in a class folder, or all in one folder without classes"
        )
    return owners or None


def read_labels(path: Path, names: list[str]) -> tuple[list[str | None], tuple[str, ...]]:
    """The label of each of the image files `names`, None where it has none, and notes, from a table: CSV, with commas,
    semicolons or tabs.

    A row names a file by its path in the folder, its name, or its name without the ending. The first row may say which
    column is which: FILE_COLUMNS and LABEL_COLUMNS are known, else there must be two columns, file and label.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            rows = [[cell.strip() for cell in row] for row in csv.reader(file, delimiter=max(",;\t", key=first.count))]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no table of labels in UTF-8 ({error})") from None
    rows, places = [row for row in rows if any(row)], _places(names)
    if not rows or len({len(row) for row in rows}) > 1:
        raise ValueError(f"{path} is no table of labels: its rows have different numbers of cells, or there are none")
    head = [cell.lower() for cell in rows[0]]
    file_at, label_at = (
        next((head.index(name) for name in known if name in head), None) for known in (FILE_COLUMNS, LABEL_COLUMNS)
    )
    if file_at is not None and label_at is not None:
        rows = rows[1:]
    elif len(head) == 2:
        rows = rows if _plain(rows[0][0]) in places else rows[1:]
        file_at, label_at = 0, 1
    else:
        shown = ", ".join(map(_shown, rows[0][:5])) + (", ..." if len(rows[0]) > 5 else "")
        raise ValueError(
            f"{path} has columns {shown}; one of {', '.join(FILE_COLUMNS)} must name the file and one of "
            f"{', '.join(LABEL_COLUMNS)} the label, or there must be just these two columns"
        )
    labels: list[str | None] = [None] * len(names)
    strange = []
    for row in rows:
        place, label = places.get(_plain(row[file_at])), row[label_at] or None
        if place is None:
            strange.append(_shown(row[file_at]))
        elif labels[place] not in (None, label):
            raise ValueError(f"{path} gives {names[place]} two labels, {labels[place]!r:.50} and {label!r:.50}")
        else:
            labels[place] = label
    missing = labels.count(None)
    if missing == len(names):
        raise ValueError(
            f"{path} has a label for none of the {len(names)} images: its rows name {listed(strange, 3) or 'nothing'}; the "
            f"images are {listed(names, 3)}"
        )
    notes = [f"images without a label in {path}, left out: {missing}"] if missing else []
    notes += [f"rows of {path} that name no image: {len(strange)} ({listed(strange, 3)})"] if strange else []
    return labels, tuple(notes)


def _shown(cell: str) -> str:
    """A cell in a message: a stray quote may have made one of half the file."""
    return " ".join(cell[:50].split())


def _plain(name: str) -> str:
    return name.replace("\\", "/").removeprefix("./")


def _places(names: list[str]) -> dict[str, int]:
    """Where each file stands in `names`: by path, by name, and by either without the ending, where only one file has it."""
    stems = [os.path.splitext(name)[0] for name in names]
    places: dict[str, int] = {}
    for forms in (names, [os.path.basename(name) for name in names], stems, [os.path.basename(stem) for stem in stems]):
        counts = Counter(forms)
        for place, form in enumerate(forms):
            if counts[form] == 1:
                places.setdefault(form, place)
    return places
