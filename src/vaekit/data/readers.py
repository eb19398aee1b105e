"""Readers: one file format each, from a path to arrays. Every error names the file and what is wrong with it."""

from __future__ import annotations

import gzip
import math
import os
import struct
import zipfile
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
MAX_PIXELS = 64_000_000  # per image; more is refused before it is decoded
_IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: Path) -> np.ndarray:
    """An idx file (MNIST's format), gzipped or not -> the array it holds."""
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
            chunks, found = [], 0
            # Read in pieces and no further than the header says: neither a false header nor a bomb takes memory.
            while found <= expected and (chunk := file.read(min(1 << 24, expected + 1 - found))):
                chunks.append(chunk)
                found += len(chunk)
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise ValueError(f"{path} is truncated or damaged ({error})") from None
    if found != expected:
        more = "more" if found > expected else f"only {found}"
        raise ValueError(f"{path} is damaged: its header {shape} promises {expected} bytes, it holds {more}")
    array = np.frombuffer(bytearray().join(chunks), dtype).reshape(shape)  # a bytearray, so that it can be written to
    return array.astype(dtype.newbyteorder("="), copy=False)


def read_npy(path: Path) -> np.ndarray:
    """A .npy file of numbers -> its array."""
    arrays = _load_numpy(path)
    if "" not in arrays:
        raise ValueError(f"{path} is an archive of several arrays; rename it to .npz")
    return arrays[""]


def read_npz(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """A .npz file with `x` and, where there are labels, `y` -> x, y."""
    arrays = _load_numpy(path)
    if "x" not in arrays:
        found = ", ".join(filter(None, arrays)) or "none with a name"
        raise ValueError(f"{path} must hold an array named x (and y for labels); its arrays: {found}")
    return arrays["x"], arrays.get("y")


def _load_numpy(path: Path) -> dict[str, np.ndarray | None]:
    """The arrays of a numpy file by name, "" for the one in a .npy file; only x and y of a .npz file are read."""
    try:
        with open(path, "rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return {"": loaded}
            return {key: loaded[key] if key in ("x", "y") else None for key in loaded.files}
    except FileNotFoundError:
        raise
    except MemoryError:
        raise ValueError(f"{path} is damaged or too large: its header promises more than fits in memory") from None
    except (ValueError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        if "pickle" in str(error).lower():
            message = f"{path} holds Python objects or is no numpy file; save a plain array of numbers instead"
        else:
            message = f"{path} is truncated or damaged ({error})"
        raise ValueError(message) from None


def list_images(folder: Path) -> tuple[list[Path], int]:
    """The image files below `folder`, sorted, and how many other files were passed over (hidden ones included)."""
    files, passed = [], 0
    for base, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        for name in sorted(names):
            if name.startswith(".") or Path(name).suffix.lower() not in IMAGE_SUFFIXES:
                passed += 1
            else:
                files.append(Path(base) / name)
    return files, passed


def read_folder(
    folder: Path, resize: int | None = None
) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...], tuple[str, ...]]:
    """A folder of images -> x (N, H, W, C) uint8, labels or None, class names, notes.

    Each sub-folder that holds images is a class, files deeper down belong to it; a flat folder has no labels.
    """
    files, passed = list_images(folder)
    if not files:
        raise ValueError(f"{folder} holds no images (looked for {', '.join(IMAGE_SUFFIXES)})")
    notes = (f"files that are hidden or no images, passed over: {passed}",) if passed else ()
    owners = [file.relative_to(folder).parts[0] if file.parent != folder else None for file in files]
    classes = tuple(sorted({owner for owner in owners if owner is not None}))
    loose = owners.count(None)
    if classes and loose:
        raise ValueError(
            f"{folder} mixes {loose} loose images with class sub-folders ({', '.join(classes[:3])}, ...); "
            "put every image in a class folder, or all in one folder without classes"
        )
    x = read_images(files, resize)
    return x, np.array([classes.index(owner) for owner in owners]) if classes else None, classes, notes


def read_images(files: list[Path], resize: int | None = None) -> np.ndarray:
    """Image files -> (N, H, W, C) uint8: C is 1 when all are grey, else 3.

    Rotation by EXIF is applied, transparency laid over white, 16-bit grey scaled to 8 bits, and of an animation the
    first picture taken. resize=k scales the shorter side to k pixels and cuts the k x k centre. Raises ValueError
    naming unreadable files, or the sizes when they differ.
    """
    if resize is not None and resize < 2:
        raise ValueError(f"resize must be at least 2 pixels, got {resize}")
    failures: list[str] = []

    def decode(file: Path) -> np.ndarray | None:
        try:
            return _decode(file, resize)
        except Exception as error:  # whatever a decoder raises on hostile bytes is this file's fault
            failures.append(f"{file} ({str(error).splitlines()[0] if str(error) else type(error).__name__})")
            return None

    with ThreadPoolExecutor() as pool:
        decoded = list(pool.map(decode, files))
    if failures:
        listed = "; ".join(sorted(failures)[:5])
        raise ValueError(f"{len(failures)} of {len(files)} images can't be read: {listed}")
    sizes = Counter(image.shape[:2] for image in decoded)
    if len(sizes) > 1:
        common = ", ".join(f"{w}x{h} ({count})" for (h, w), count in sizes.most_common(4))
        raise ValueError(f"images come in {len(sizes)} sizes: {common}; bring them to one with --resize 64")
    return np.stack(same_channels(decoded))


def same_channels(arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Arrays (..., 1) or (..., 3) with one channel count: grey is repeated over three channels where any has colour."""
    channels = max(array.shape[-1] for array in arrays)
    return [array if array.shape[-1] == channels else np.repeat(array, channels, axis=-1) for array in arrays]


def _decode(file: Path, resize: int | None) -> np.ndarray:
    from PIL import Image, ImageOps

    with Image.open(file) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width}x{image.height} pixels; at most {MAX_PIXELS // 10**6} megapixels are read")
        image.load()
        image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError("floating-point pixels, whose scale is not known; save such images as a .npy array")
    if image.mode.startswith("I"):  # I;16, or I where the format has no narrower name for 16 bits
        values = np.asarray(image, dtype=np.float64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"pixels from {values.min():.0f} to {values.max():.0f}; grey images have 8 or 16 bits")
        image = Image.fromarray((values / 257).round().astype(np.uint8))
    colours = "L" if image.mode in ("1", "L", "LA") else "RGB"
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert(colours)
    if resize is not None:
        image = ImageOps.fit(image, (resize, resize), Image.Resampling.LANCZOS)
    pixels = np.asarray(image)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels
