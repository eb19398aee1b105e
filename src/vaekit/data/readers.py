"""Readers: one file format each, from a path to arrays. Every error names the file and what is wrong with it."""

from __future__ import annotations

import csv
import gzip
import io
import math
import os
import struct
import warnings
import zipfile
import zlib
from collections import Counter
from pathlib import Path
from typing import Literal

import numpy as np

from vaekit.data.images import MAPPED_FROM, Decoding, listed
from vaekit.messages import filled, first_line

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
FITS = ("crop", "pad")
FILE_COLUMNS = ("file_name", "filename", "file", "path", "image", "image_id", "id")
LABEL_COLUMNS = ("label", "labels", "class", "category", "target", "y")
MAX_PIXELS = 64_000_000  # per image; more is refused before it is decoded
MOST_UNPACKED = 2**30  # bytes that a packed file may unpack to, or MOST_TIMES its own size, where that is more
MOST_TIMES = 200  # real images pack to a 2nd or a 20th of their size, zeros to a 1000th
ORIGIN = {"names": ("file", "U"), "rows": ("row", "i"), "split": ("split", "U")}  # of a .npz file: column, kind of type
_MEMBERS = ("x", "y", "x.npy", "y.npy")  # of a .npz file
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
    """A .npz file with `x` and, where there are labels, `y` -> x, y."""
    arrays = _load_numpy(path)
    if "x" not in arrays:
        found = ", ".join(filter(None, arrays)) or "none with a name"
        raise ValueError(f"{path} must hold an array named x (and y for labels); its arrays: {found}")
    return filled(arrays["x"]), arrays.get("y")


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


def _load_numpy(path: Path, mmap_mode: Literal["c"] | None = None) -> dict[str, np.ndarray | None]:
    """The arrays of a numpy file by name, "" for the one in a .npy file; only x and y of a .npz file are read."""
    check_file(path)
    check_unpacked(path, _unpacked(path))
    try:
        with open(path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers that are odd; what comes of them is looked at
            # A mapped array needs a name, and does not close what it is given.
            loaded = np.load(path if mmap_mode else file, mmap_mode=mmap_mode, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return {"": loaded}
            return {key: loaded[key] if key in ("x", "y") else None for key in loaded.files}
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


def _unpacked(path: Path) -> int:
    """Bytes that x and y of a .npz file take by what it says; 0 for another file, or a damaged one, which numpy tells."""
    try:
        with zipfile.ZipFile(path) as archive:
            return sum(info.file_size for info in archive.infolist() if info.filename in _MEMBERS)
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


def list_images(folder: Path) -> tuple[list[str], int]:
    """The image files below `folder` by their paths in it (a/b.png), sorted, and how many other files were passed over
    (hidden ones included). Links to folders are followed, each folder once.
    """
    names, passed, visited = [], 0, set()
    for base, folders, files in os.walk(folder, followlinks=True):
        visited.add(os.path.realpath(base))
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and name != "__MACOSX" and os.path.realpath(f"{base}/{name}") not in visited
        )
        below = Path(base).relative_to(folder).as_posix()
        for name in sorted(files):
            if name.startswith(".") or os.path.splitext(name)[1].lower() not in IMAGE_SUFFIXES:
                passed += 1
            else:
                names.append(name if below == "." else f"{below}/{name}")
    return names, passed


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


def check_decoding(decoding: Decoding) -> None:
    """Raises ValueError for a fit or a background that is not known, or a size too small."""
    from PIL import ImageColor

    if decoding.resize is not None and decoding.resize < 2:
        raise ValueError(f"resize must be at least 2 pixels, got {decoding.resize}")
    if decoding.fit not in FITS:
        raise ValueError(f"fit must be one of {', '.join(FITS)}, got {decoding.fit!r}")
    if decoding.background == "keep":
        return
    try:
        ImageColor.getrgb(decoding.background)
    except ValueError:
        raise ValueError(
            f"background must be keep, or a colour such as white, black or #ff8800, got {decoding.background!r}"
        ) from None


def decode(source: str | Path | bytes, decoding: Decoding) -> tuple[np.ndarray, str, str]:
    """An image file, or its bytes -> pixels (H, W, C) uint8, its size as it came ("640x480") and its mode.

    C is 1 for grey, 3 for colour, 4 for colour with alpha that is kept. Rotation by EXIF is applied, 16-bit grey scaled to 8
    bits, and of an animation the first picture taken. Raises whatever a decoder raises on hostile bytes.
    """
    from PIL import Image, ImageColor, ImageOps

    if not isinstance(source, bytes) and not os.path.isfile(source):
        raise ValueError("no file")  # a pipe would be waited for
    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width}x{image.height} pixels; at most {MAX_PIXELS // 10**6} megapixels are read")
        image.load()
        image = ImageOps.exif_transpose(image)
    size, mode = f"{image.width}x{image.height}", image.mode
    if image.mode == "F":
        raise ValueError("floating-point pixels, whose scale is not known; save such images as a .npy array")
    if image.mode.startswith("I"):  # I;16, or I where the format has no narrower name for 16 bits
        values = np.array(image, dtype=np.int32)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"pixels from {values.min()} to {values.max()}; grey images have 8 or 16 bits")
        values += 128
        values //= 257  # to the nearest; in place, since this may be 64 million pixels
        image = Image.fromarray(values.astype(np.uint8))
    keep = decoding.background == "keep"
    clear = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
    padded = decoding.resize is not None and decoding.fit == "pad" and image.width != image.height
    ground = (0, 0, 0, 0) if keep else ImageColor.getrgb(decoding.background)[:3]
    shown = clear or padded  # whether anything of the background is
    if shown and keep:
        colours = "RGBA"
    elif shown and len(set(ground)) > 1:
        colours = "RGB"
    else:
        colours = "L" if image.mode in ("1", "L", "LA") else "RGB"
    if clear:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        if not keep:
            image = Image.alpha_composite(Image.new("RGBA", image.size, (*ground, 255)), image)
    image = image if image.mode == colours else image.convert(colours)
    if decoding.resize is not None:
        side = decoding.resize
        if decoding.fit == "pad":
            scale = side / max(image.size)
            inner = image.resize([max(1, round(scale * length)) for length in image.size], Image.Resampling.LANCZOS)
            image = Image.new(colours, (side, side), ground[0] if colours == "L" else ground)
            image.paste(inner, ((side - inner.width) // 2, (side - inner.height) // 2))
        else:
            image = ImageOps.fit(image, (side, side), Image.Resampling.LANCZOS)
    pixels = np.asarray(image)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels, size, mode


def with_channels(x: np.ndarray, channels: int) -> np.ndarray:
    """x (..., 1), (..., 3) or (..., 4) with more channels: grey is repeated over three, and what has no alpha is opaque."""
    if x.shape[-1] == channels:
        return x
    colours = np.broadcast_to(x, (*x.shape[:-1], 3))
    opaque = np.full((*x.shape[:-1], channels - 3), 255, np.uint8)
    return np.concatenate([colours, opaque], axis=-1)
