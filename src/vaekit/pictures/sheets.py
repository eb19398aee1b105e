"""Images side by side, a function each: arrays in, a matplotlib Figure out.

Images are (N, H, W, C), uint8 or floats in [0, 1], C = 1, 3 or 4. Pictures of images show exact
pixels: each pixel of the data, or of a large image reduced, is a square of whole output pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vaekit.pictures.fonts import shortened
from vaekit.pictures.style import (
    DPI,
    ERROR_MAP,
    GUTTER,
    SERIES,
    as_pixels,
    canvas,
    centres,
    number,
    place,
    reduced,
    styled,
    text_width,
    tile,
    tile_rows,
    zoom,
)

MARGIN, LINE, CELL, FULL = 12, 34, 76, 1320  # output pixels: margin, line of text, image, widest picture
ACROSS = 50  # images in a line of labelled rows
LARGEST = 128  # pixels of an image's side; larger ones are reduced by a whole factor


def shown_images(images: np.ndarray, name: str = "images", dims: int = 4) -> np.ndarray:
    return reduced(as_pixels(images, name, dims), LARGEST)


@styled
def image_grid(images: np.ndarray, *, columns: int = 8, title: str | None = None) -> Figure:
    """Images side by side in rows of `columns`; missing ones at the end stay white."""
    pixels = shown_images(images)
    return _sheets({title or "": tile_rows(pixels, columns, zoom(pixels, CELL))})


@styled
def sample_sheets(samples: Mapping[str, np.ndarray], *, columns: int = 8) -> Figure:
    """Samples of several models beside each other, a sheet each."""
    if not samples:
        raise ValueError("sample_sheets needs the samples of at least one model")
    pixels = {name: shown_images(images, f"samples of {name!r}") for name, images in samples.items()}
    room = min(CELL, FULL // (len(samples) * columns))
    return _sheets({name: tile_rows(images, columns, zoom(images, room)) for name, images in pixels.items()})


@styled
def rows_of_sheets(groups: Mapping[str, Mapping[str, np.ndarray]], *, rows: int, columns: int = 8) -> Figure:
    """Samples of the same models under several settings: a row of sheets a setting, `rows` x `columns` images a sheet."""
    if not groups or len({len(sheets) for sheets in groups.values()}) != 1:
        raise ValueError("rows_of_sheets needs groups of equally many sheets, at least one")
    width = len(next(iter(groups.values())))
    room = min(CELL, FULL // (width * columns))
    lines = []
    for sheets in groups.values():
        pixels = [shown_images(images, f"samples of {name!r}")[: rows * columns] for name, images in sheets.items()]
        lines.append([tile_rows(images, columns, zoom(images, room)) for images in pixels])
    steps = [max(line[c].shape[1] for line in lines) for c in range(width)]
    steps = [
        max(step, text_width([list(sheets)[c] for sheets in groups.values()], 10, "bold")) + 2 * MARGIN
        for c, step in enumerate(steps)
    ]
    side = text_width(list(groups), 9) + 2 * MARGIN
    heights = [max(len(sheet) for sheet in line) + MARGIN + LINE for line in lines]
    figure = canvas(side + sum(steps), sum(heights) + MARGIN)
    top = MARGIN + LINE
    for (group, sheets), line, height in zip(groups.items(), lines, heights, strict=True):
        left = side
        for index, (name, sheet, step) in enumerate(zip(sheets, line, steps, strict=True)):
            axes = place(figure, sheet, left, top)
            axes.set_title(name)
            if index == 0:
                axes.set_yticks([len(sheet) / 2], [group])
            left += step
        top += height
    return figure


@styled
def overview(
    originals: np.ndarray,
    models: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    names: Sequence[str] | None = None,
    asked: bool = False,
) -> Figure:
    """Models at a glance: inputs on top, and a row a model of their reconstructions, with as many samples beside them.

    models: name -> (reconstructions, samples), each (N, H, W, C) as the originals. names: what the inputs are, such as their
    classes; asked: whether the samples below a name are of that class, too.
    """
    truth = shown_images(originals, "originals")
    parts = {name: [shown_images(images, f"images of {name!r}") for images in pair] for name, pair in models.items()}
    for name, pair in parts.items():
        if any(pixels.shape != truth.shape for pixels in pair):
            raise ValueError(f"overview needs as many images of {name!r} as originals, {len(truth)}, all of one shape")
    headings = [shortened(name) for name in names or ()]
    side, gap = text_width(list(parts)) + 2 * MARGIN, 4 * MARGIN
    scale = zoom(truth, min(CELL, (FULL - side - gap) // (2 * len(truth))))
    rebuilt, sampled = (np.stack([pair[which] for pair in parts.values()]) for which in (0, 1))
    sheet, beside = tile(np.concatenate([truth[None], rebuilt]), scale), tile(sampled, scale)
    cell_height, cell_width = truth.shape[1] * scale, truth.shape[2] * scale
    above = _heading_height(headings, cell_width) if headings else 0
    below = cell_height + GUTTER  # the inputs' row, beside which there is none
    titles = ("inputs and reconstructions", f"samples{' of the same classes' if asked else ''}")
    width = max(sheet.shape[1], text_width(titles, 10, "bold"))
    top = MARGIN + LINE + above
    figure = canvas(side + 2 * width + gap + MARGIN, top + len(sheet) + MARGIN)
    left = place(figure, sheet, side, top)
    left.set_yticks(centres(1 + len(parts), cell_height), ["input", *parts])
    right = place(figure, beside, side + width + gap, top + below)
    for axes, title, lower, named in ((left, titles[0], 0, True), (right, titles[1], below, asked)):
        if headings and named:
            _head_columns(axes, headings, cell_width)
        axes.set_title(title, y=1, pad=(lower + (above + 4 if above else MARGIN)) * 72 / DPI)
    return figure


@styled
def labelled_rows(rows: Mapping[str, np.ndarray], *, title: str = "", names: Sequence[str] | None = None) -> Figure:
    """Images in rows, a label before each: a class a row, or the same things under different settings, column by column.

    Rows may be of different lengths; those of more than `ACROSS` images go on in the next line. names: what the columns are,
    such as their classes.
    """
    if not rows:
        raise ValueError("labelled_rows needs at least one row of images")
    pixels = [shown_images(images, f"images of {label!r}") for label, images in rows.items()]
    labels = [shortened(label) for label in rows]
    side = text_width(labels) + 2 * MARGIN
    columns = min(max(map(len, pixels)), ACROSS)
    scale = zoom(pixels[0], min(CELL, (FULL - side) // columns))
    sheets = [tile_rows(images, columns, scale) for images in pixels]
    width = max(max(sheet.shape[1] for sheet in sheets), text_width([title], 10, "bold"))
    headings, cell = [shortened(name) for name in names or ()], pixels[0].shape[2] * scale
    above = _heading_height(headings, cell) if headings else 0
    top = MARGIN + (LINE if title else 0) + above
    figure = canvas(side + width + MARGIN, top + sum(len(sheet) + GUTTER for sheet in sheets) + MARGIN)
    for row, (label, sheet) in enumerate(zip(labels, sheets, strict=True)):
        axes = place(figure, sheet, side, top)
        axes.set_yticks([len(sheet) / 2], [label])
        if row == 0:
            if headings:
                _head_columns(axes, headings, cell)
            axes.set_title(title, y=1, pad=(above + 4 if above else MARGIN) * 72 / DPI)
        top += len(sheet) + GUTTER
    return figure


def _sheets(sheets: Mapping[str, np.ndarray]) -> Figure:
    """Pictures in a row, each below its title."""
    top = MARGIN + (LINE if any(sheets) else 0)
    widths = [max(sheet.shape[1], text_width([title], 10, "bold")) + 2 * MARGIN for title, sheet in sheets.items()]
    figure = canvas(sum(widths), top + max(len(sheet) for sheet in sheets.values()) + MARGIN)
    left = MARGIN
    for (title, sheet), width in zip(sheets.items(), widths, strict=True):
        place(figure, sheet, left, top).set_title(title)
        left += width
    return figure


@styled
def traversals(panels: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]) -> Figure:
    """One row per latent, only that latent moving, models side by side.

    panels: name -> (images (D, S, H, W, C), kl (D,) nats, index (D,) from 0, its values (S,)),
    rows in the order to show. Latents are labelled from 1.
    """
    parts = []
    for name, (images, kl, index, values) in panels.items():
        pixels = shown_images(images, f"traversals of {name!r}", dims=5)
        if (len(kl), len(index), len(values)) != (len(pixels), len(pixels), pixels.shape[1]):
            raise ValueError(
                f"traversals of {name!r}: {len(pixels)} rows and {pixels.shape[1]} columns of images, "
                f"but {len(kl)} KLs, {len(index)} indices and {len(values)} values"
            )
        labels = [f"z{i + 1}  {nats:.2f} nats" for i, nats in zip(index, kl, strict=True)]
        parts.append((name, pixels, labels, values))
    side = max(text_width(labels) for _, _, labels, _ in parts) + 2 * MARGIN
    room = min(60, (FULL // len(parts) - side) // max(pixels.shape[1] for _, pixels, _, _ in parts))
    sheets = [tile(pixels, zoom(pixels, room)) for _, pixels, _, _ in parts]
    top = MARGIN + LINE
    xlabel = "value of the latent that moves"
    widths = [max(sheet.shape[1], text_width([xlabel], 9)) + MARGIN for sheet in sheets]
    figure = canvas(sum(widths) + side * len(sheets), top + max(map(len, sheets)) + 80)
    left = side
    for (name, pixels, labels, values), sheet, width in zip(parts, sheets, widths, strict=True):
        axes = place(figure, sheet, left, top)
        scale = zoom(pixels, room)
        cell = pixels.shape[3] * scale
        texts = [number(value, "+.1f" if abs(value) > 1e-6 else ".1f") for value in values]
        step = math.ceil((text_width(texts) + 6) / (cell + GUTTER))
        shown = slice(len(values) // 2 % step, None, step)  # the middle column keeps its label
        axes.set_yticks(centres(len(labels), pixels.shape[2] * scale), labels)
        axes.set_xticks(centres(len(values), cell)[shown], texts[shown])
        axes.set(title=name, xlabel=xlabel)
        left += width + side
    return figure


@styled
def by_class(
    images: np.ndarray,
    classes: Sequence[str],
    *,
    title: str,
    chosen: np.ndarray | None = None,
    chosen_title: str = "",
) -> Figure:
    """Samples by class, a column a class: images (R, n_classes, H, W, C).

    Beside them, where given, a sheet of samples of one class: chosen (N, H, W, C).
    """
    pixels = shown_images(images, dims=5)
    if pixels.shape[1] != len(classes):
        raise ValueError(f"by_class needs a column per class ({len(classes)}), got {pixels.shape[1]}")
    names = [shortened(name) for name in classes]
    beside = 8 if chosen is not None else 0
    cell, scale = pixels.shape[3], zoom(pixels, min(CELL, FULL // (len(names) + beside)))
    sheet = tile(pixels, scale)
    names_height = _heading_height(names, cell * scale)
    top = MARGIN + LINE + names_height
    pad = (names_height + 4) * 72 / DPI  # points
    second = tile_rows(shown_images(chosen, "chosen"), beside, scale) if chosen is not None else sheet[:0, :0]
    width = max(sheet.shape[1], text_width([title], 10, "bold")) + 4 * MARGIN
    figure = canvas(
        MARGIN + width + max(second.shape[1], text_width([chosen_title], 10, "bold")) + MARGIN,
        top + max(len(sheet), len(second)) + MARGIN,
    )
    axes = place(figure, sheet, MARGIN, top)
    _head_columns(axes, names, cell * scale)
    axes.set_title(title, y=1, pad=pad)
    if chosen is not None:
        place(figure, second, MARGIN + width, top).set_title(chosen_title, y=1, pad=pad)
    return figure


def _heading_height(names: Sequence[str], cell: int) -> int:
    """Output pixels that the names take above columns of `cell` output pixels."""
    return 14 + (text_width(names, 9) if _upright(names, cell) else 20)


def _upright(names: Sequence[str], cell: int) -> bool:
    return text_width(names, 9) + 4 > cell


def _head_columns(axes: Axes, names: Sequence[str], cell: int) -> None:
    """Writes a name above each column, upright where they are too long."""
    axes.xaxis.tick_top()
    axes.set_xticks(centres(len(names), cell), names, size=9, rotation=90 if _upright(names, cell) else 0)


@styled
def reconstructions(
    originals: np.ndarray, models: Mapping[str, np.ndarray], *, names: Sequence[str] | None = None
) -> Figure:
    """The same inputs through every model: originals on top, then each model's images above their errors.

    Errors are absolute, of intensities from 0 to 1, on one scale; rows carry the mean squared error shown. names: what the
    inputs are, such as their classes.
    """
    truth = as_pixels(originals, "originals")
    rebuilt = {name: as_pixels(images, f"reconstructions of {name!r}") for name, images in models.items()}
    for name, pixels in rebuilt.items():
        if pixels.shape != truth.shape:
            raise ValueError(
                f"reconstructions of {name!r} must be {truth.shape[:3]} like the originals, got {pixels.shape[:3]}"
            )
    differences = {name: (pixels / 255.0) - truth / 255.0 for name, pixels in rebuilt.items()}
    errors = {name: np.abs(difference).mean(-1) for name, difference in differences.items()}
    limit = max((error.max() for error in errors.values()), default=0.0) or 1.0
    heat = ScalarMappable(Normalize(0, limit), matplotlib.colormaps[ERROR_MAP])
    rows = [("input", truth)]
    for name, pixels in rebuilt.items():
        rows.append((f"{name}\nMSE {np.square(differences[name]).mean():.4f}", pixels))
        rows.append(("error", np.asarray(heat.cmap(heat.norm(errors[name]), bytes=True))[..., :3]))
    side = text_width([label for label, _ in rows]) + 2 * MARGIN
    shown = [reduced(pixels, LARGEST) for _, pixels in rows]
    scale = zoom(truth, min(CELL, (FULL - side) // len(truth)))
    sheets = [tile(pixels[None], scale) for pixels in shown]
    height, width = sheets[0].shape[:2]
    gaps = np.array([0] + [GUTTER if label == "error" else 2 * MARGIN for label, _ in rows[1:]])
    headings = [shortened(name) for name in names or ()]
    cell = shown[0].shape[2] * scale
    above = _heading_height(headings, cell) if headings else 0
    tops = MARGIN + above + np.cumsum(gaps) + height * np.arange(len(rows))
    figure = canvas(side + width + 110, max(tops[-1] + height + MARGIN, 320))
    for row, ((label, _), sheet, top) in enumerate(zip(rows, sheets, tops, strict=True)):
        axes = place(figure, sheet, side, top)
        axes.set_yticks([height / 2], [label])
        if row == 0 and headings:
            _head_columns(axes, headings, cell)
    shades = np.asarray(heat.cmap(np.linspace(1, 0, 280), bytes=True))[:, None, :3].repeat(14, 1)  # (280, 14, 3)
    bar = place(figure, shades, side + width + 14, 20)
    bar.yaxis.tick_right()
    ticks = [value for value in MaxNLocator(6).tick_values(0, limit) if 0 <= value <= limit]
    bar.set_yticks([280 * (1 - value / limit) for value in ticks], [f"{value:g}" for value in ticks])
    bar.tick_params(length=3)
    bar.yaxis.set_label_position("right")
    bar.set_ylabel("absolute error", size=8)
    return figure


@styled
def codes(
    originals: np.ndarray,
    rebuilt: np.ndarray,
    code_maps: np.ndarray,
    usage: np.ndarray,
    *,
    names: Sequence[str] | None = None,
) -> Figure:
    """A VQ-VAE's codes: inputs, code maps (N, h, w) as colours, outputs; below, usage (K,) by rank. names: what the inputs are,
    such as their classes.
    """
    truth, decoded = shown_images(originals, "originals"), shown_images(rebuilt, "reconstructions")
    code_maps, usage = np.asarray(code_maps), np.asarray(usage)
    if decoded.shape != truth.shape or code_maps.ndim != 3 or len(code_maps) != len(truth):
        raise ValueError(
            f"codes needs originals, reconstructions and code maps (N, h, w) of the same N, "
            f"got {truth.shape[:3]}, {decoded.shape[:3]} and {code_maps.shape}"
        )
    if usage.ndim != 1 or not usage.sum() or code_maps.max() >= len(usage):
        raise ValueError(f"usage must be (K,) counts, not all 0, K above the largest code, {code_maps.max()}")
    used = int((usage > 0).sum())
    shares = usage / usage.sum()
    perplexity = float(np.exp(-np.sum(shares[shares > 0] * np.log(shares[shares > 0]))))
    count, height, width, _ = truth.shape
    labels = ["input", "codes", "decoded"]
    side = text_width(labels) + 3 * MARGIN
    scale = zoom(truth, min(CELL, (FULL - side) // count))
    # Indices are names, not amounts: a fixed shuffle gives neighbours in the codebook unlike colours.
    order = np.random.default_rng(0).permutation(len(usage)) / max(len(usage) - 1, 1)
    palette = matplotlib.colormaps["turbo"](order, bytes=True)[:, :3]
    down = np.arange(height * scale) * code_maps.shape[1] // (height * scale)  # the cell of each output pixel
    across = np.arange(width * scale) * code_maps.shape[2] // (width * scale)
    maps = palette[code_maps[:, down][:, :, across]]
    sheets = [tile(truth[None], scale), tile(maps[None]), tile(decoded[None], scale)]
    step, chart = len(sheets[0]) + 2 * GUTTER, 250
    headings = [shortened(name) for name in names or ()]
    first = MARGIN + (_heading_height(headings, width * scale) if headings else 0)
    wide, top = max(sheets[0].shape[1], 640), first + 3 * step + 56
    figure = canvas(side + wide + MARGIN, top + chart + 80)
    for row, (label, sheet) in enumerate(zip(labels, sheets, strict=True)):
        axes = place(figure, sheet, side, first + row * step)
        axes.set_yticks([len(sheet) / 2], [label])
        if row == 0 and headings:
            _head_columns(axes, headings, width * scale)
    full, tall = figure.bbox.size
    below = figure.add_axes((side / full, 1 - (top + chart) / tall, wide / full, chart / tall))
    below.bar(np.arange(1, len(usage) + 1), 100 * np.sort(shares)[::-1], width=1.0, color=SERIES[0], linewidth=0)
    below.axhline(100 / len(usage), color=SERIES[1], lw=1, ls="--", label="all codes equally often")
    below.legend(fontsize=8)
    below.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    below.set(
        title=f"{used} of {len(usage)} codes in use ({used / len(usage):.0%}), perplexity {perplexity:.1f}",
        xlabel="code, most used first",
        ylabel="share of positions (%)",
        xlim=(0.5, len(usage) + 0.5),
    )
    return figure


@styled
def neighbours(
    samples: np.ndarray,
    nearest: np.ndarray,
    distances: np.ndarray | Sequence[float],
    *,
    rows: int = 2,
    columns: int = 8,
) -> Figure:
    """Samples above their nearest training images, the least distant first: `rows` x `columns` pairs, or all if fewer.

    samples, nearest: (N, H, W, C). distances: (N,) root mean squared differences per pixel of intensities from 0 to 1.
    """
    distances = np.asarray(distances, dtype=float)
    if not len(samples) == len(nearest) == len(distances):
        raise ValueError(
            f"neighbours needs a training image and a distance per sample, got {len(samples)} samples, "
            f"{len(nearest)} training images and {len(distances)} distances"
        )
    order = np.argsort(distances, kind="stable")[: rows * columns]
    above, below = (
        shown_images(np.asarray(images)[order], name)
        for images, name in ((samples, "samples"), (nearest, "training images"))
    )
    if above.shape != below.shape:
        raise ValueError(f"neighbours needs images of one shape, got {above.shape[1:3]} and {below.shape[1:3]}")
    labels, texts = ["sample", "nearest"], [f"{distances[index]:.3f}" for index in order]
    side, count = text_width(labels) + 2 * MARGIN, min(columns, len(order))
    scale = zoom(above, max(min(CELL, (FULL - side) // count), text_width(texts) + 6))
    sheets = [
        tile(np.stack([above[start : start + columns], below[start : start + columns]]), scale)
        for start in range(0, len(order), columns)
    ]
    title = "RMS difference per pixel to the nearest training image"
    height, width = sheets[0].shape[:2]
    cell_height, cell_width = above.shape[1] * scale, above.shape[2] * scale
    top, step = MARGIN + LINE, height + LINE + MARGIN
    figure = canvas(side + max(width, text_width([title], 10, "bold")) + MARGIN, top + len(sheets) * step + MARGIN)
    for row, sheet in enumerate(sheets):
        axes = place(figure, sheet, side, top + row * step)
        axes.set_yticks(centres(2, cell_height), labels)
        shown = texts[row * columns : (row + 1) * columns]
        axes.set_xticks(centres(len(shown), cell_width), shown)
        if row == 0:
            axes.set_title(title)
    return figure
