"""Sprites: white shapes on black, of which every factor is known; drawn here, or read from the published file of dSprites
(Matthey, Higgins, Hassabis & Lerchner 2017).

Both have the same grid of factors: 3 shapes, 6 scales, 40 rotations, 32 columns, 32 rows: 737,280 images.
"""

from __future__ import annotations

import warnings
import zipfile
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import IO

import numpy as np

from vaekit.data.images import Images, fingerprint
from vaekit.messages import check_number, first_line

SHAPES = ("square", "ellipse", "heart")
NAMES = ("shape", "scale", "rotation", "x", "y")
SIZES = (3, 6, 40, 32, 32)
COUNT = prod(SIZES)
SIDE = 64  # pixels of the published images; lengths below are in these
FIRST = 16.5  # x and y of the first column and row of centres; each step is one pixel
HALF_SIDE = 10.88  # of the largest square. No size of any shape puts its edge on the middle of a pixel.
HALF_AXES = (14.08, 7.68)  # of the largest ellipse
HEART = 11.52  # unit of the largest heart's curve
HEART_CENTROID = 0.29346  # of the curve, in its unit, above its origin
SPRITES = 20_000  # images of the generated set, and those taken from the file of dSprites
CHUNK = 512  # images drawn, or read, at a time


@dataclass(frozen=True, eq=False)
class Factors:
    """What the images of a set were made from, a row an image.

    values: (N, F) int64, column f in 0..sizes[f] - 1. names, sizes: of the F factors.
    """

    values: np.ndarray
    names: tuple[str, ...] = NAMES
    sizes: tuple[int, ...] = SIZES

    def __len__(self) -> int:
        return len(self.values)

    def take(self, indices) -> Factors:
        """The rows at `indices`, as `Images.take`."""
        return replace(self, values=self.values[indices])


def sprites(n: int, seed: int = 0, size: int = SIDE) -> tuple[Images, Factors]:
    """n different points of the factor grid, drawn by `seed`, in random order: images (n, size, size, 1) of 0 and 255, their
    shapes as labels, and their factors.

    Different factors may look the same: a square repeats each quarter of a turn, an ellipse each half.
    """
    check_number("seed", seed, whole=True)
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or not 1 <= n <= COUNT:
        raise ValueError(f"n must be a whole number from 1 to the {COUNT} points of the factor grid, got {n!r}")
    chosen = np.random.default_rng(seed).choice(COUNT, n, replace=False)
    values = np.stack(np.unravel_index(chosen, SIZES), axis=1).astype(np.int64)
    return _with_labels(draw(values, size), Factors(values), "sprites")


def draw(values, size: int = SIDE) -> np.ndarray:
    """Factors (N, 5) -> images (N, size, size, 1) uint8: 255 where a pixel's middle lies in the shape, else 0.

    scale: from half to the whole of the largest size, evenly. rotation: by 2 pi / 40 a step, counter-clockwise; the 40
    published ones include 0 and 2 pi, which are one. x, y: the shape's centroid, a 64th of the side a step to the right, and
    downwards.
    """
    values = np.asarray(values)
    if values.ndim != 2 or values.shape[1] != len(SIZES) or values.dtype.kind not in "iu":
        raise ValueError(
            f"values must be integers of shape (N, {len(SIZES)}), got {values.dtype} of shape {values.shape}"
        )
    _check_range(values, "values")
    check_number("size", size, whole=True, above=7)
    images = np.empty((len(values), size, size, 1), np.uint8)
    for start in range(0, len(values), CHUNK):
        images[start : start + CHUNK, :, :, 0] = _inside(values[start : start + CHUNK], size)
    images *= 255
    return images


def _inside(values: np.ndarray, size: int) -> np.ndarray:
    """(B, size, size) whether the middle of each pixel lies in the shape."""
    shape, scale, rotation, x, y = (column[:, None, None] for column in values.T)
    middles = ((np.arange(size) + 0.5) * (SIDE / size)).astype(np.float32)
    right = middles - (FIRST + x).astype(np.float32)  # (B, 1, size)
    up = (FIRST + y).astype(np.float32) - middles[:, None]  # (B, size, 1)
    angle, shrunk = 2 * np.pi * rotation / SIZES[2], 0.5 + 0.5 * scale / (SIZES[1] - 1)
    cos, sin = ((part / shrunk).astype(np.float32) for part in (np.cos(angle), np.sin(angle)))
    u, v = right * cos + up * sin, up * cos - right * sin  # (B, size, size) in the shape's own axes
    inside = np.empty(u.shape, bool)
    for index, within in enumerate((_in_square, _in_ellipse, _in_heart)):
        chosen = shape[:, 0, 0] == index
        inside[chosen] = within(u[chosen], v[chosen])
    return inside


def _in_square(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(u), np.abs(v)) <= HALF_SIDE


def _in_ellipse(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return (u / HALF_AXES[0]) ** 2 + (v / HALF_AXES[1]) ** 2 <= 1


def _in_heart(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The curve (u^2 + v^2 - 1)^3 = u^2 v^3."""
    u, v = u / HEART, v / HEART + HEART_CENTROID
    squares = u * u
    excess = squares + v * v - 1
    return excess * excess * excess <= squares * v * v * v


def is_dsprites(path: Path) -> bool:
    """Whether `path` is a zip file that holds the arrays of dSprites."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {"imgs.npy", "latents_classes.npy"} <= set(archive.namelist())
    except Exception:  # whatever it raises on a crafted archive
        return False


def read_dsprites(path, n: int | None = None, seed: int = 0) -> tuple[Images, Factors]:
    """The published .npz file of dSprites: images (N, 64, 64, 1) of 0 and 255, shapes as labels, and factors without the
    colour, which is constant. Its pickled `metadata` is never read.

    n: a random part of that many images, by `seed`, in the file's order, or all where there are no more; the file is read in
        pieces, so that memory holds little more than those. None is all of them: 3 GB.
    Raises FileNotFoundError, and ValueError for a file that is damaged or of another format.
    """
    check_number("n", n, whole=True, above=0)
    check_number("seed", seed, whole=True)
    try:
        with zipfile.ZipFile(path) as archive:
            missing = [name for name in ("imgs", "latents_classes") if f"{name}.npy" not in archive.namelist()]
            if missing:
                found = ", ".join(name.removesuffix(".npy") for name in archive.namelist()) or "none"
                raise ValueError(f"{path} must hold the arrays imgs and latents_classes; its arrays: {found}")
            with archive.open("latents_classes.npy") as file:
                values = _read_factors(file, path)
            chosen = np.arange(len(values))
            if n is not None and n < len(values):
                chosen = np.sort(np.random.default_rng(seed).choice(len(values), n, replace=False))
            with archive.open("imgs.npy") as file:
                x = _read_images(file, chosen, len(values), path)
    except FileNotFoundError:
        raise
    except Exception as error:  # zipfile raises all kinds of it, ValueErrors that name no file among them
        if isinstance(error, ValueError) and str(path) in str(error):
            raise
        raise ValueError(f"{path} is truncated or damaged ({first_line(error)})") from None
    images, factors = _with_labels(x, Factors(values[chosen]), str(path))
    return replace(images, rows=chosen), factors


def _read_factors(file: IO[bytes], path) -> np.ndarray:
    """(N, 5) int64 from the member with the classes (N, 6), whose first column is the colour."""
    shape, dtype = _read_header(file, "latents_classes", path)
    if len(shape) != 2 or shape[0] == 0 or shape[1] != 1 + len(SIZES) or dtype.kind not in "iu":
        raise ValueError(
            f"{path}: latents_classes must be integers of shape (N, {1 + len(SIZES)}), got {dtype} of shape {shape}"
        )
    if shape[0] > COUNT:
        raise ValueError(f"{path}: latents_classes has {shape[0]} rows; dSprites has {COUNT}")
    values = np.frombuffer(_read_exactly(file, prod(shape) * dtype.itemsize, path), dtype).reshape(shape)
    if (values[:, 0] != 0).any():
        raise ValueError(
            f"{path}: the first column of latents_classes, the colour, must be 0, got {values[:, 0].max()}"
        )
    _check_range(values[:, 1:], f"{path}: latents_classes")
    return values[:, 1:].astype(np.int64)


def _read_images(file: IO[bytes], chosen: np.ndarray, n: int, path) -> np.ndarray:
    """The images at the sorted indices `chosen`, (len(chosen), 64, 64, 1) of 0 and 255, out of the n of the member."""
    shape, dtype = _read_header(file, "imgs", path)
    if shape != (n, SIDE, SIDE) or dtype != np.uint8:
        raise ValueError(f"{path}: imgs must be uint8 of shape {(n, SIDE, SIDE)}, got {dtype} of shape {shape}")
    images = np.empty((len(chosen), SIDE, SIDE, 1), np.uint8)
    for start in range(0, n, CHUNK):
        rows = min(CHUNK, n - start)
        piece = np.frombuffer(_read_exactly(file, rows * SIDE**2, path), np.uint8).reshape(rows, SIDE, SIDE, 1)
        if piece.max() > 1:
            raise ValueError(f"{path}: imgs must hold 0 and 1, got {piece.max()}")
        first, last = np.searchsorted(chosen, (start, start + rows))
        images[first:last] = piece[chosen[first:last] - start]
    if file.read(1):  # and at the end of the member its checksum is looked at
        raise ValueError(f"{path} is damaged: imgs goes on after its {n} images")
    images *= 255
    return images


def _read_header(file: IO[bytes], name: str, path) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of the array that follows in `file`."""
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers that are odd; what comes of them is looked at
            shape, fortran_order, dtype = read(file)
    except Exception as error:  # numpy reads a header as Python's text, and raises whatever that raises
        raise ValueError(f"{path}: {name} is no array in numpy's format ({first_line(error)})") from None
    if fortran_order or dtype.hasobject:
        raise ValueError(f"{path}: {name} must be a plain array in C order, got {dtype}, Fortran order {fortran_order}")
    return shape, dtype


def _read_exactly(file: IO[bytes], count: int, path) -> bytes:
    data = file.read(count)
    if len(data) < count:
        raise ValueError(f"{path} is truncated: an array ends {count - len(data)} bytes early")
    return data


def _check_range(values: np.ndarray, name: str) -> None:
    """Raises ValueError unless every column of (N, 5) lies in its factor's range."""
    for factor, size, column in zip(NAMES, SIZES, values.T, strict=True):
        if len(column) and not 0 <= column.min() <= column.max() < size:
            raise ValueError(f"{name}: {factor} must be in 0..{size - 1}, got {column.min()}..{column.max()}")


def _with_labels(x: np.ndarray, factors: Factors, name: str) -> tuple[Images, Factors]:
    y = factors.values[:, 0].copy()
    return Images(x, y, SHAPES, name, fingerprint(x, y), factors=factors.values), factors
