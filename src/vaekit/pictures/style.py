"""One look for every picture: colours told apart by colour-blind readers too, quiet axes, exact pixels."""

from __future__ import annotations

import io
import os
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Okabe & Ito (2008) for a few series; Paul Tol's "muted" scheme (2021) for up to ten classes.
SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
CLASSES = (
    "#332288", "#88CCEE", "#117733", "#DDCC77", "#CC6677", "#882255", "#44AA99", "#999933", "#AA4499", "#777777",
)  # fmt: skip
ERROR_MAP = "magma"
DPI = 150
_RC = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
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


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of `width` x `height` inches in the house style."""
    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        return figure


def styled(function):
    """Runs a drawing function under the house style, whatever the caller's matplotlib is set to."""

    def drawn(*args, **kwargs):
        with matplotlib.rc_context(_RC):
            return function(*args, **kwargs)

    drawn.__name__, drawn.__doc__, drawn.__wrapped__ = function.__name__, function.__doc__, function
    return drawn


def class_colours(n: int) -> list:
    """n colours for n classes; past ten they are spread over a perceptually even scale."""
    if n <= len(CLASSES):
        return list(CLASSES[:n])
    return list(matplotlib.colormaps["viridis"](np.linspace(0, 1, n)))


def as_pixels(images: np.ndarray) -> np.ndarray:
    """(..., C) images, uint8 or floats in [0, 1] -> (..., 3 or 4) uint8."""
    images = np.asarray(images)
    if images.dtype != np.uint8:
        images = np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8)
    channels = images.shape[-1]
    if channels == 1:
        return np.repeat(images, 3, axis=-1)
    return images[..., :1].repeat(3, axis=-1) if channels == 2 else images


def tile(images: np.ndarray, gap: int = 1, fill: int = 255) -> np.ndarray:
    """(R, K, H, W, C) images -> one picture (R*(H+gap)-gap, K*(W+gap)-gap, 3 or 4) with thin gutters."""
    pixels = as_pixels(images)
    rows, columns, height, width, channels = pixels.shape
    sheet = np.full((rows, height + gap, columns, width + gap, channels), fill, np.uint8)
    sheet[:, :height, :, :width] = pixels.transpose(0, 2, 1, 3, 4)
    sheet = sheet.reshape(rows * (height + gap), columns * (width + gap), channels)
    return sheet[: sheet.shape[0] - gap, : sheet.shape[1] - gap]


def show_sheet(axes, sheet: np.ndarray) -> None:
    """Draws a picture with its pixels exact and no axes around it."""
    axes.imshow(sheet, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    axes.spines[:].set_visible(False)


def png(figure: Figure) -> bytes:
    """The figure as a PNG file's bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def save(figure: Figure, path: str | os.PathLike) -> Path:
    """Writes the figure as a PNG under a temporary name and renames it."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(png(figure))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
