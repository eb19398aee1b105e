"""One look for every picture: colours told apart by colour-blind readers too, quiet axes, exact pixels."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath

from vaekit.owned import write_with

# Okabe & Ito (2008) for a few series; Paul Tol's "muted" scheme (2021) for up to ten classes.
SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
CLASSES = (
    "#332288", "#88CCEE", "#117733", "#DDCC77",
    "#CC6677", "#882255", "#44AA99", "#999933", "#AA4499", "#777777",
)  # fmt: skip
ERROR_MAP = "magma"
MARKERS = "o^sDvPX*<>"  # a turn of the ten colours each: told apart up to 100 classes
DPI = 150
GUTTER = 5  # output pixels between two images
_RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.parse_math": False,  # class names are data: a dollar sign in one is a dollar sign
    "text.usetex": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.labelcolor": "#222222",
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "legend.frameon": False,
    "figure.facecolor": "white",
}


def new_figure(
    width: float, height: float, *, layout: Literal["constrained", "tight"] | None = "constrained"
) -> Figure:
    """An empty figure of `width` x `height` inches in the house style."""
    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(width, height), dpi=DPI, layout=layout)
        FigureCanvasAgg(figure)
        return figure


def styled(function):
    """Runs a drawing function under the house style, whatever the caller's matplotlib is set to."""

    @functools.wraps(function)
    def drawn(*args, **kwargs):
        with matplotlib.rc_context(_RC):
            return function(*args, **kwargs)

    return drawn


def class_colours(n: int) -> list[str]:
    """A colour per class: ten, then the same ten again, for which a plot turns to the next of `MARKERS`."""
    return [CLASSES[i % len(CLASSES)] for i in range(n)]


def as_pixels(images: np.ndarray, name: str = "images", dims: int = 4) -> np.ndarray:
    """(..., H, W, C) uint8, or floats (clipped to [0, 1]) -> (..., H, W, 3) uint8, transparency over white.

    Raises ValueError for other ranks than `dims`, no image, C other than 1, 3 and 4, and values not finite.
    """
    images = np.asarray(images)
    if images.ndim != dims or 0 in images.shape or images.shape[-1] not in (1, 3, 4):
        shape = {4: "(N, H, W, C)", 5: "(rows, columns, H, W, C)"}[dims]
        raise ValueError(f"{name} must be {shape} with C = 1, 3 or 4 and none of them 0, got {images.shape}")
    if images.dtype != np.uint8:
        if not np.isfinite(images).all():
            raise ValueError(f"{name} must be finite, got NaN or infinity")
        images = np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8)
    if images.shape[-1] == 4:
        opacity = images[..., 3:] / 255
        images = np.rint(images[..., :3] * opacity + 255 * (1 - opacity)).astype(np.uint8)
    return np.broadcast_to(images, (*images.shape[:-1], 3))


def zoom(size: int, target: int) -> int:
    """Output pixels per image pixel, at least 1, that bring `size` image pixels nearest to `target`."""
    return max(1, round(target / size))


def tile(pixels: np.ndarray, scale: int = 1, gutter: int = GUTTER) -> np.ndarray:
    """(R, K, H, W, 3) uint8 -> one (h, w, 3) picture: each pixel a square of `scale`, white gutters."""
    rows, _, height, _, _ = pixels.shape
    cells = pixels.repeat(scale, axis=2).repeat(scale, axis=3)
    cells = np.pad(cells, ((0, 0), (0, 0), (0, gutter), (0, gutter), (0, 0)), constant_values=255)
    sheet = cells.transpose(0, 2, 1, 3, 4).reshape(rows * (height * scale + gutter), -1, 3)  # (h, w, 3)
    return sheet[: len(sheet) - gutter, : sheet.shape[1] - gutter]


def tile_rows(pixels: np.ndarray, columns: int, scale: int = 1) -> np.ndarray:
    """(N, H, W, 3) uint8 -> one picture: rows of `columns` in reading order, what is missing white."""
    columns = min(columns, len(pixels))
    blank = np.full((-len(pixels) % columns, *pixels.shape[1:]), 255, np.uint8)
    return tile(np.concatenate([pixels, blank]).reshape(-1, columns, *pixels.shape[1:]), scale)


def centres(count: int, size: int, gutter: int = GUTTER) -> np.ndarray:
    """(count,) where the middles of cells of `size` output pixels lie along a sheet's side."""
    return np.arange(count) * (size + gutter) + size / 2


def canvas(width: float, height: float) -> Figure:
    """An empty figure of `width` x `height` output pixels, for `place`."""
    return new_figure(width / DPI, height / DPI, layout=None)


def place(figure: Figure, sheet: np.ndarray, left: int, top: int) -> Axes:
    """Axes showing (h, w, 3) with exact pixels, `left` and `top` output pixels from the figure's corner."""
    height, width = sheet.shape[:2]
    across, down = figure.get_size_inches() * DPI
    axes = figure.add_axes((left / across, 1 - (top + height) / down, width / across, height / down))
    axes.imshow(sheet, interpolation="nearest", aspect="auto", extent=(0, width, height, 0))
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=8)
    return axes


def text_width(texts: Sequence[str], size: float = 8) -> int:
    """Width in output pixels of the widest line of `texts` at a font size in points."""
    lines = [line for text in texts for line in text.split("\n") if line.strip()]
    with matplotlib.rc_context(_RC):
        points = max((TextPath((0, 0), line, size=size).get_extents().width for line in lines), default=0)
    return round(points * DPI / 72)


def save(figure: Figure, path: str | os.PathLike) -> Path:
    """Writes the figure as a PNG under a temporary name and renames it; folders on the way are made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(_RC):  # ticks are made when a figure is drawn
        write_with(path, lambda file: figure.savefig(file, format="png", dpi=DPI, facecolor="white"))
    return path
