"""Two-dimensional latent spaces, a function each: vectors or decoded images in, a matplotlib Figure out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from vaekit.pictures.fonts import shortened
from vaekit.pictures.sheets import shown_images
from vaekit.pictures.style import (
    CLASSES,
    DPI,
    MARKERS,
    SERIES,
    canvas,
    centres,
    class_colours,
    new_figure,
    number,
    place,
    styled,
    text_width,
    tile,
)

MARGIN, LINE, CELL, FULL = 12, 34, 76, 1320  # output pixels: margin, line of text, image, widest picture


@styled
def latent_space(
    spaces: Mapping[str, tuple[np.ndarray, np.ndarray | None]],
    classes: Sequence[str] = (),
    *,
    codebooks: Mapping[str, np.ndarray] | None = None,
    axis_names: Mapping[str, tuple[str, str]] | None = None,
) -> Figure:
    """2-D latent spaces coloured by class: a panel each, one legend.

    spaces: name -> (Z (N, 2), y (N,) indices of `classes`, or None).
    codebooks: name -> (K, 2) code vectors to mark.
    axis_names: name -> its two axis labels, where they aren't z1 and z2.
    Up to 3 points in 1000 at each edge may lie outside the frame.
    """
    colours, names = np.array(class_colours(len(classes))), [shortened(name) for name in classes]
    columns = min(len(spaces), 2)
    rows = math.ceil(len(spaces) / columns)
    entries = [*names, *(["code vectors"] if codebooks else [])]
    lines = 19 * rows  # of the legend
    beside = math.ceil(len(entries) / lines) * (text_width(entries, 8) + 70) / DPI
    figure = new_figure(3.6 * columns + beside, 3.5 * rows)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (name, (z, y)) in zip(panels, spaces.items(), strict=False):
        z = _check_space(name, z, y, len(classes))
        look = {"s": float(np.clip(6000 / len(z), 3, 14)), "alpha": 0.6, "linewidths": 0}
        order = np.random.default_rng(0).permutation(len(z))  # so that no class hides the others
        if y is None:
            axes.scatter(*z.T, color=SERIES[0], **look)
        else:
            for turn, marker in enumerate(MARKERS):
                part = order[y[order] // len(CLASSES) == turn]
                axes.scatter(*z[part].T, c=colours[y[part]], marker=marker, **look)
        if codebooks and name in codebooks:
            axes.scatter(*codebooks[name].T, marker="x", s=22, c="black", linewidths=1)
        first, second = (axis_names or {}).get(name, ("z1", "z2"))
        axes.set(title=name, xlabel=first, ylabel=second)
        low, high = np.percentile(z, [0.3, 99.7], axis=0)
        middle, half = (low + high) / 2, 0.56 * (high - low).max() or 1.0  # one scale for both axes
        axes.set(xlim=(middle[0] - half, middle[0] + half), ylim=(middle[1] - half, middle[1] + half), box_aspect=1)
        if y is not None and name not in (codebooks or {}):
            _name_clusters(axes, (z - middle + half) / (2 * half), y, names, colours)
    for axes in panels[len(spaces) :]:
        axes.remove()
    handles = [
        Line2D([], [], ls="", marker=MARKERS[i // len(CLASSES)], color=colour, label=label)
        for i, (colour, label) in enumerate(zip(colours, names, strict=True))
    ]
    if codebooks:
        handles.append(Line2D([], [], ls="", marker="x", color="black", label="code vectors"))
    if handles:
        figure.legend(handles=handles, loc="outside right center", fontsize=8, ncols=math.ceil(len(handles) / lines))
    return figure


def _check_space(name: str, z: np.ndarray, y: np.ndarray | None, n_classes: int) -> np.ndarray:
    z, known = np.asarray(z), min(n_classes, len(CLASSES) * len(MARKERS))
    if z.ndim != 2 or z.shape[1] != 2 or not len(z):
        raise ValueError(f"the latent space of {name!r} must be (N, 2), got {z.shape}")
    if y is not None and (y.shape != (len(z),) or y.min() < 0 or y.max() >= known):
        raise ValueError(f"the labels of {name!r} must be ({len(z)},) indices below {known}, got {y.shape}")
    return z


def _name_clusters(axes: Axes, z: np.ndarray, y: np.ndarray, names: Sequence[str], colours: np.ndarray) -> None:
    """Writes classes' names beside their points, with a line to their medians, so that colour isn't the only way to tell.

    z (N, 2): in shares of the axes. A name lies on no point and on no other name; one that has no room near its class is left
    out, and where many classes share a place, there are no clusters to name.
    """
    medians: dict[int, np.ndarray] = {}
    for index in np.unique(y):
        median = np.median(z[y == index], axis=0)
        if all(np.linalg.norm(median - other) > 0.05 for other in medians.values()):
            medians[index] = median
    if len(medians) < 0.7 * len(np.unique(y)):
        return
    cells, side = 90, 400  # cells along the axes, whose length in output pixels is at least about this
    taken = np.histogram2d(*z.T, bins=cells, range=[[0, 1], [0, 1]])[0] > 0  # (across, up)
    named = np.zeros_like(taken)
    for index, median in medians.items():
        wide = math.ceil(cells * (text_width([names[index]], 8, "bold") + 8) / side)
        high = math.ceil(cells * 26 / side)
        below = np.pad(taken, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
        free = np.argwhere(below[wide:, high:] + below[:-wide, :-high] == below[:-wide, high:] + below[wide:, :-high])
        middles = free + np.array([wide, high]) / 2
        distances = np.linalg.norm(middles / cells - median, axis=1)
        near = np.flatnonzero(distances < 0.2)
        for spot in near[distances[near].argsort()][:200]:
            (left, bottom), middle = free[spot], middles[spot]
            line = np.clip(np.linspace(median * cells, middle, 30).astype(int), 0, cells - 1)
            if not named[*line.T].any():
                taken[left : left + wide, bottom : bottom + high] = named[
                    left : left + wide, bottom : bottom + high
                ] = True
                axes.annotate(
                    names[index], tuple(median), tuple(middle / cells), xycoords="axes fraction",
                    textcoords="axes fraction", ha="center", va="center", fontsize=8, fontweight="bold",
                    arrowprops={"arrowstyle": "-", "color": colours[index], "shrinkA": 0, "shrinkB": 0},
                )  # fmt: skip
                taken[*line.T] = True
                break


@styled
def manifold(images: np.ndarray, low: float, high: float, *, title: str = "") -> Figure:
    """The decoded plane: images (R, C, H, W, c), row 0 at z2 = high, column 0 at z1 = low."""
    pixels = shown_images(images, dims=5)
    rows, columns, height, width, _ = pixels.shape
    scale = max(1, round(840 / (columns * width)))
    sheet = tile(pixels, scale, gutter=0)
    left, top = 90, MARGIN + LINE
    figure = canvas(left + sheet.shape[1] + MARGIN, top + len(sheet) + 80)
    axes = place(figure, sheet, left, top)
    axes.tick_params(length=3)
    for axis, count, size in ((axes.xaxis, columns, width), (axes.yaxis, rows, height)):
        places = centres(count, size * scale, 0)
        values = np.linspace(low, high, count) if count > 1 else np.array([(low + high) / 2])
        shown = [v for v in MaxNLocator(8).tick_values(low, high) if values[0] <= v <= values[-1]]
        if axis is axes.yaxis:
            places = places[::-1]  # z2 grows upwards
        axis.set_ticks(np.interp(shown, values, places), [number(value, ".1f") for value in shown])
    axes.set(xlabel="z1", ylabel="z2", title=title)
    return figure
