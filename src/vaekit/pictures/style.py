"""One look for every picture: colours told apart by colour-blind readers too, quiet axes, exact pixels."""

from __future__ import annotations

import contextlib
import functools
import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.image import AxesImage
from matplotlib.textpath import TextPath
from PIL import Image

from vaekit.owned import write_atomically
from vaekit.pictures.fonts import families, legible, quiet

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
DARK = ("#14171a", "#e6e9ec")  # ground and ink of a dark page, as its style sheet has them
_RC: dict[Any, Any] = {
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


@contextlib.contextmanager
def house_style():
    """Matplotlib's settings are those of this house, with the fonts that the names so far need."""
    with matplotlib.rc_context({**_RC, "font.family": families()}), quiet():
        yield


def new_figure(
    width: float, height: float, *, layout: Literal["constrained", "tight"] | None = "constrained"
) -> Figure:
    """An empty figure of `width` x `height` inches in the house style."""
    with house_style():
        figure = Figure(figsize=(width, height), dpi=DPI, layout=layout)
        FigureCanvasAgg(figure)
        return figure


def styled(function):
    """Runs a drawing function under the house style, whatever the caller's matplotlib is set to and whatever script the names
    among its arguments are in.
    """

    @functools.wraps(function)
    def drawn(*args, **kwargs):
        args, kwargs = legible(args), legible(kwargs)
        with house_style():
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


def reduced(pixels: np.ndarray, side: int) -> np.ndarray:
    """(..., H, W, 3) uint8 -> the same, H and W at most `side`, by a whole factor: means of blocks."""
    *rest, height, width, _ = pixels.shape
    factor = math.ceil(max(height, width) / side)
    if factor == 1:
        return pixels
    edges = ((0, -height % factor), (0, -width % factor), (0, 0))
    pixels = np.pad(pixels, (*[(0, 0)] * len(rest), *edges), mode="edge")
    blocks = pixels.reshape(*rest, -1, factor, pixels.shape[-2] // factor, factor, 3)
    return np.rint(blocks.mean((-4, -2))).astype(np.uint8)


def zoom(pixels: np.ndarray, target: int) -> int:
    """Output pixels per image pixel, at least 1, that bring the longer side of images (..., H, W, 3) nearest to `target`."""
    return max(1, round(target / max(pixels.shape[-3:-1])))


def tile(pixels: np.ndarray, scale: int = 1, gutter: int = GUTTER) -> np.ndarray:
    """(R, K, H, W, 3 or 4) uint8 -> one (h, w, 4) picture: each pixel a square of `scale`, gutters transparent."""
    rows, _, height, _, _ = pixels.shape
    cells = _opaque(pixels).repeat(scale, axis=2).repeat(scale, axis=3)
    cells = np.pad(cells, ((0, 0), (0, 0), (0, gutter), (0, gutter), (0, 0)))
    sheet = cells.transpose(0, 2, 1, 3, 4).reshape(rows * (height * scale + gutter), -1, 4)  # (h, w, 4)
    return sheet[: len(sheet) - gutter, : sheet.shape[1] - gutter]


def _opaque(pixels: np.ndarray) -> np.ndarray:
    if pixels.shape[-1] == 4:
        return pixels
    return np.concatenate([pixels, np.full((*pixels.shape[:-1], 1), 255, np.uint8)], axis=-1)


def tile_rows(pixels: np.ndarray, columns: int, scale: int = 1) -> np.ndarray:
    """(N, H, W, 3) uint8 -> one picture: rows of `columns` in reading order, what is missing transparent."""
    columns, pixels = min(columns, len(pixels)), _opaque(pixels)
    blank = np.zeros((-len(pixels) % columns, *pixels.shape[1:]), np.uint8)
    return tile(np.concatenate([pixels, blank]).reshape(-1, columns, *pixels.shape[1:]), scale)


def centres(count: int, size: int, gutter: int = GUTTER) -> np.ndarray:
    """(count,) where the middles of cells of `size` output pixels lie along a sheet's side."""
    return np.arange(count) * (size + gutter) + size / 2


def canvas(width: float, height: float) -> Figure:
    """An empty figure of `width` x `height` output pixels, for `place`."""
    return new_figure(width / DPI, height / DPI, layout=None)


def place(figure: Figure, sheet: np.ndarray, left: int, top: int) -> Axes:
    """Axes showing (h, w, 3 or 4) with exact pixels, `left` and `top` output pixels from the figure's corner."""
    height, width = sheet.shape[:2]
    across, down = figure.get_size_inches() * DPI
    axes = figure.add_axes((left / across, 1 - (top + height) / down, width / across, height / down))
    axes.imshow(sheet, interpolation="nearest", aspect="auto", extent=(0, width, height, 0))
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=8)
    return axes


def text_width(texts: Sequence[str], size: float = 8, weight: str = "normal") -> int:
    """Width in output pixels of the widest line of `texts` at a font size in points."""
    lines = [line for text in texts for line in text.split("\n") if line.strip()]
    with house_style():
        font = FontProperties(weight=weight)
        points = max((np.ptp(TextPath((0, 0), line, size=size, prop=font).vertices[:, 0]) for line in lines), default=0)
    return round(points * DPI / 72)


def save(figure: Figure, path: str | os.PathLike) -> Path:
    """Writes the figure as a PNG under a temporary name and renames it; folders on the way are made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with house_style():  # ticks are made when a figure is drawn
        figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]  # type: ignore[attr-defined]
    # Half as large, where colours are few enough.
    write_atomically(path, _png(*(_indexed(pixels, 256) or [pixels])))
    return path


def on_dark(figure: Figure, file: Path) -> bytes:
    """A PNG to lie over the one that `save` made of the figure where the page is dark: light ink on a dark ground, and holes
    where images are, which look the same on any ground.
    """
    with Image.open(file) as image:
        pixels = np.array(image.convert("RGB"))
    holes = np.zeros(pixels.shape[:2], bool)
    for sheet in figure.findobj(AxesImage):
        box = sheet.axes.get_window_extent()
        left, top = round(box.x0), round(len(holes) - box.y1)
        shown = np.asarray(sheet.get_array())
        part = holes[top : top + shown.shape[0], left : left + shown.shape[1]]
        part |= shown[..., 3] == 255 if shown.shape[-1] == 4 else True
    pixels[holes] = 255
    index, colours = _indexed(pixels, 255) or _quantised(pixels, 255)
    flipped = _lit(
        colours + (255.0 - colours.max(1, keepdims=True) - colours.min(1, keepdims=True))
    )  # lightness, not hue
    ground, ink = (np.array(to_rgb(colour)) * 255 for colour in DARK)
    index[holes] = len(colours)
    dark = np.rint(ground + flipped * ((ink - ground) / 255))
    return _png(index, np.concatenate([dark, [ground]]), transparency=len(colours))


def _lit(colours: np.ndarray) -> np.ndarray:
    """Colours (K, 3) whose lightness was turned over, of which those that were light before, and so would be all but lost on
    a dark ground, are made lighter; greys are not.
    """
    low, high = colours.min(1, keepdims=True), colours.max(1, keepdims=True)
    lightness = np.maximum((low + high) / 510, 1e-9)
    colourful = (high - low) / 255 > 0.4 * lightness
    return colours * np.where(colourful, np.clip(0.65 / lightness, 1.0, 1.75), 1.0)


def _indexed(pixels: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray] | None:
    """(H, W, 3) uint8 -> (H, W) uint8 indices of at most so many colours (K, 3), or None where there are more."""
    counted = Image.fromarray(pixels).getcolors(most)
    if counted is None:
        return None
    colours = np.array(sorted(colour for _, colour in counted), dtype=np.uint32)
    red, green, blue = (pixels[..., channel].astype(np.uint32) for channel in range(3))
    order = colours @ np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)
    return np.searchsorted(order, red << 16 | green << 8 | blue).astype(np.uint8), colours


def _quantised(pixels: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """The same with the colours that are nearest to all of them."""
    image = Image.fromarray(pixels).quantize(most)
    return np.array(image), np.array(image.getpalette(), dtype=np.uint32).reshape(-1, 3)


def _png(pixels: np.ndarray, colours: np.ndarray | None = None, **more) -> bytes:
    """(H, W, 3) uint8, or (H, W) indices of colours (K, 3), as a PNG."""
    image, file = Image.fromarray(pixels), io.BytesIO()
    if colours is not None:
        image.putpalette(colours.astype(np.uint8).tobytes())
    image.save(file, "PNG", dpi=(DPI, DPI), **more)
    return file.getvalue()


def dark_colour(colour: str) -> str:
    """A colour that is told apart on a dark ground: a dark one turned light, of the same hue."""
    rgb = np.array(to_rgb(colour))
    low, high = rgb.min(), rgb.max()
    return to_hex(rgb + 1 - low - high) if low + high < 0.75 else colour.lower()


def number(value: float, form: str) -> str:
    """Formatted with a true minus sign, and no sign on a zero."""
    return format(round(float(value), 6) + 0.0, form).replace("-", "\N{MINUS SIGN}")
