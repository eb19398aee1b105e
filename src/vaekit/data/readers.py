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
    opener = gzip.open if Path(path).read_bytes()[:2] == b"\x1f\x8b" else open
    try:
        with opener(path, "rb") as file:
            head = file.read(4)
            if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _IDX_TYPES or head[3] == 0:
                raise ValueError(f"{path} is not an idx file: it starts with {head.hex() or 'nothing'}")
            shape = struct.unpack(f">{head[3]}I", file.read(4 * head[3]))
            dtype = np.dtype(_IDX_TYPES[head[2]])
            expected = math.prod(shape) * dtype.itemsize
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
    array = np.frombuffer(b"".join(chunks), dtype).reshape(shape)
    return array.astype(dtype.newbyteorder("="), copy=False)


def read_npy(path: Path) -> np.ndarray:
    """A .npy file of numbers -> its array."""
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(_numpy_problem(path, error)) from None


def read_npz(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """A .npz file with `x` and, where there are labels, `y`."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            if "x" not in archive.files:
                raise ValueError(f"{path} must hold an array named x (and y for labels), got {', '.join(archive.files)}")
            return archive["x"], archive["y"] if "y" in archive.files else None
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(_numpy_problem(path, error)) from None
    except ValueError as error:
        raise ValueError(str(error) if str(path) in str(error) else _numpy_problem(path, error)) from None


def _numpy_problem(path: Path, error: Exception) -> str:
    if "pickle" in str(error).lower():
        return f"{path} holds Python objects or is no numpy file; save a plain array of numbers instead"
    return f"{path} is truncated or damaged ({error})"


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


def read_folder(folder: Path, resize: int | None = None) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...], tuple[str, ...]]:
    """A folder of images -> x (N, H, W, C) uint8, labels or None, class names, notes.

    Each sub-folder that holds images is a class, files deeper down belong to it; a flat folder has no labels.
    """
    files, passed = list_images(folder)
    if not files:
        raise ValueError(f"{folder} holds no images (looked for {', '.join(IMAGE_SUFFIXES)})")
    notes = (f"{passed} files that are no images were passed over",) if passed else ()
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

    Rotation by EXIF is applied, transparency laid over white, 16-bit grey scaled to 8 bits. resize=k scales the shorter
    side to k pixels and cuts the k x k centre. Raises ValueError naming unreadable files, or the sizes when they differ.
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
    if any(image.shape[2] == 3 for image in decoded):
        decoded = [np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image for image in decoded]
    return np.stack(decoded)


def _decode(file: Path, resize: int | None) -> np.ndarray:
    from PIL import Image, ImageOps

    with Image.open(file) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width}x{image.height} pixels; at most {MAX_PIXELS // 10**6} megapixels are read")
        image.load()
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        image = Image.fromarray(np.clip(values / 257 if values.max() > 255 else values, 0, 255).round().astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    elif image.mode not in ("L", "RGB"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    if resize is not None:
        image = ImageOps.fit(image, (resize, resize), Image.Resampling.LANCZOS)
    pixels = np.asarray(image)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels
