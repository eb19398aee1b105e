"""Readers: one file format each, from a path to arrays. Every error names the file and what is wrong with it."""

from __future__ import annotations

import csv
import gzip
import io
import math
import os
import re
import struct
import warnings
import zipfile
import zlib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from vaekit.data.images import COLOURS, LUMA, MAPPED_FROM, WHOLE, Decoding, listed
from vaekit.data.kinds import formats
from vaekit.messages import check_number, filled, first_line

if TYPE_CHECKING:
    from PIL import Image

FITS = ("crop", "pad")
FILE_COLUMNS = ("file_name", "filename", "file", "path", "image", "image_id", "id")
LABEL_COLUMNS = ("label", "labels", "class", "category", "target", "y")
MAX_PIXELS = 64_000_000  # per image; more is refused before it is decoded
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


def check_decoding(decoding: Decoding) -> None:
    """Raises ValueError for a fit, a background, a colour or a white that is not known, or a size too small."""
    from PIL import ImageColor

    if decoding.resize is not None and decoding.resize < 2:
        raise ValueError(f"resize must be at least 2 pixels, got {decoding.resize}")
    if decoding.fit not in FITS:
        raise ValueError(f"fit must be one of {', '.join(FITS)}, got {decoding.fit!r}")
    if decoding.colour is not None and decoding.colour not in COLOURS:
        raise ValueError(f"colour must be one of {', '.join(COLOURS)}, got {decoding.colour!r}")
    check_number("white", decoding.white, whole=True, above=0)
    if decoding.white is not None and decoding.white > WHOLE:
        raise ValueError(f"white must be at most {WHOLE}, the largest value of 16 bits, got {decoding.white}")
    if decoding.background == "keep":
        return
    try:
        ImageColor.getrgb(decoding.background)
    except ValueError:
        raise ValueError(
            f"background must be keep, or a colour such as white, black or #ff8800, got {decoding.background!r}"
        ) from None


class Seen(NamedTuple):
    """What `decode` saw of an image file beside its pixels.

    wide: the largest value of a file with more than 8 bits whose white isn't known by its format, else None. narrow: that of
    another where `white` is to be found. cut: whether values above white were cut to it. lost: whether colours were made grey.
    pages: whether there are more pictures in the file. deep: whether its colours have 16 bits, of which Pillow reads 8.
    """

    wide: int | None = None
    narrow: int = 255
    cut: bool = False
    lost: bool = False
    pages: bool = False
    deep: bool = False


def decode(source: str | Path | bytes, decoding: Decoding) -> tuple[np.ndarray, str, str, Seen]:
    """An image file, or its bytes -> pixels (H, W, C) uint8, its size as it came ("640x480"), its mode, and more of it.

    C is 1 for grey, 3 for colour, 4 for colour with alpha that is kept, or what `decoding` says. Rotation by EXIF is applied,
    grey of more than 8 bits scaled to 8, and of an animation the first picture taken. Raises whatever a decoder raises on
    hostile bytes.
    """
    from PIL import Image, ImageColor, ImageOps

    if not isinstance(source, bytes) and not os.path.isfile(source):
        raise ValueError("no file")  # a pipe would be waited for
    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=formats()) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width}x{image.height} pixels; at most {MAX_PIXELS // 10**6} megapixels are read")
        # The layers of a PSD are in its picture, and further pictures of an MPO are a camera's own.
        pages = image.format not in ("MPO", "PSD") and getattr(image, "is_animated", False)
        deep = image.mode in ("RGB", "RGBA", "LA") and any(";16" in str(tile[3]) for tile in image.tile)
        # Pillow has brought these to 16 bits by the largest value that the file says it could have.
        known = image.format == "JPEG2000" or (image.format == "PPM" and image.tile[0][0] != "raw")
        lossless = image.format not in ("JPEG", "MPO")  # others may be masks of 0 and 1
        image.load()
        image = ImageOps.exif_transpose(image)
    size, mode, seen = f"{image.width}x{image.height}", image.mode, Seen(pages=pages, deep=deep)
    white = decoding.white or WHOLE
    if image.mode == "F":
        raise ValueError("floating-point pixels, whose scale is not known; save such images as a .npy array")
    if image.mode.startswith("I"):  # I;16, or I where the format has no narrower name for 16 bits
        image, high = _to_8_bits(image, WHOLE if known else white)
        seen = seen._replace(wide=None if known else high, cut=not known and high > white)
    keep = (decoding.colour or {"keep": "rgba"}.get(decoding.background)) == "rgba"
    ground = (0, 0, 0, 0) if keep else ImageColor.getrgb(decoding.background.replace("keep", "white"))[:3]
    clear = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
    padded = decoding.resize is not None and decoding.fit == "pad" and image.width != image.height
    shown = clear or padded  # whether anything of the background is
    if decoding.colour is not None:
        colours = COLOURS[decoding.colour]
    elif shown and keep:
        colours = "RGBA"
    elif shown and len(set(ground)) > 1:
        colours = "RGB"
    else:
        colours = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    if clear:
        image = image.convert({"RGBa": "RGBA", "La": "LA"}.get(image.mode, image.mode)).convert("RGBA")
    elif image.mode not in ("L", "RGB"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    if white < 255 and seen.wide is None and not known and mode != "1":
        image, cut = _stretched(image, white)
        seen = seen._replace(cut=cut)
    if clear and not keep:
        image = Image.alpha_composite(Image.new("RGBA", image.size, (*ground, 255)), image)
    if colours == "L" and image.mode != "L":
        grey = image.convert("L")
        seen = seen._replace(lost=decoding.colour is not None and _coloured(image))
        image, ground = grey, [round(float(np.dot(ground[:3], LUMA)))]
    image = image if image.mode == colours else image.convert(colours)
    whole = image
    if decoding.resize is not None:
        side = decoding.resize
        if decoding.fit == "pad":
            scale = side / max(image.size)
            inner = image.resize([max(1, round(scale * length)) for length in image.size], Image.Resampling.LANCZOS)
            image = Image.new(colours, (side, side), ground[0] if colours == "L" else tuple(ground))
            image.paste(inner, ((side - inner.width) // 2, (side - inner.height) // 2))
        else:
            image = ImageOps.fit(image, (side, side), Image.Resampling.LANCZOS)
    pixels = np.asarray(image)
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    if decoding.white is None and seen.wide is None and lossless:
        high = 0 if padded else int(pixels[..., :3].max())  # far faster than a look at all of a large image
        seen = seen._replace(narrow=high if high > 1 else _brightest(whole))
    return pixels, size, mode, seen


def _coloured(image: Image.Image) -> bool:
    """Whether an image RGB or RGBA has colours that aren't grey."""
    pixels = np.asarray(image)
    return bool((pixels[..., :1] != pixels[..., 1:3]).any())


def _to_8_bits(image: Image.Image, white: int) -> tuple[Image.Image, int]:
    """A grey image of more than 8 bits as one of 8, in which `white` is 255, and its largest value as it came."""
    from PIL import Image

    values = np.array(image, dtype=np.int32)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > WHOLE:
        raise ValueError(f"pixels from {low} to {high}; grey images have 8 or 16 bits")
    np.minimum(values, white, out=values)
    values *= 255  # in place, since this may be 64 million pixels
    values += white // 2
    values //= white
    return Image.fromarray(values.astype(np.uint8)), high


def _stretched(image: Image.Image, white: int) -> tuple[Image.Image, bool]:
    """An image L, RGB or RGBA in which `white` has become 255, alpha aside; and whether there were larger values."""
    bands = len(image.getbands())
    scale = [min(255, (value * 255 + white // 2) // white) for value in range(256)]
    table = scale * min(3, bands) + list(range(256)) * (bands == 4)
    return image.point(table), _brightest(image) > white


def _brightest(image: Image.Image) -> int:
    """The largest value of an image L, RGB or RGBA, alpha aside."""
    return int(np.max([image.getchannel(band).getextrema() for band in image.getbands()[:3]]))
