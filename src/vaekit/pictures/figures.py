"""The figures, a function each: arrays in, a matplotlib Figure out.

Images are (N, H, W, C), uint8 or floats in [0, 1], C = 1, 3 or 4. Pictures of images show exact
pixels: each pixel of the data, or of a large image reduced, is a square of whole output pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from vaekit.pictures.fonts import shortened
from vaekit.pictures.style import (
    CLASSES,
    DPI,
    ERROR_MAP,
    GUTTER,
    MARKERS,
    SERIES,
    as_pixels,
    canvas,
    centres,
    class_colours,
    new_figure,
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
Records = Sequence[Mapping[str, float]]
_TERM_UNITS = {"commitment": "squared distance", "codebook": "squared distance", "codes_used": "codes"}
_TERMS = ("objective", "distortion", "rate", "commitment", "codebook", "codes_used")


def _shown(images: np.ndarray, name: str = "images", dims: int = 4) -> np.ndarray:
    return reduced(as_pixels(images, name, dims), LARGEST)


@styled
def training_curves(histories: Mapping[str, Records]) -> Figure:
    """Training curves: a column a model, a panel a term against epochs; validation dashed. Nats per image.

    histories: model name -> epoch records, as `history_` holds them.
    """
    if not histories or not all(histories.values()):
        raise ValueError("training_curves needs at least one epoch of at least one model")
    terms = [term for term in _TERMS if any(term in records[-1] for records in histories.values())]
    figure = new_figure(2.6 * len(histories) + 0.6, 1.5 * len(terms) + 0.4)
    panels = figure.subplots(len(terms), len(histories), squeeze=False, sharex="col")
    for column, (name, records) in enumerate(histories.items()):
        epochs = [record["epoch"] for record in records]
        for row, term in enumerate(terms):
            axes = panels[row, column]
            if term not in records[-1]:
                axes.set_visible(False)
                continue
            marker = "o" if len(epochs) < 3 else None
            axes.plot(epochs, [r[term] for r in records], color=SERIES[row], marker=marker, label="training")
            if f"validation_{term}" in records[-1]:
                values = [r[f"validation_{term}"] for r in records]
                axes.plot(epochs, values, color=SERIES[row], ls="--", marker=marker, label="validation")
                axes.legend(fontsize=7)
            if term in ("objective", "distortion"):
                _clip_start(axes, [r[term] for r in records])
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
            axes.tick_params(labelbottom=True)
            if column == 0 or term not in next(iter(histories.values()))[-1]:
                axes.set_ylabel(f"{term.replace('_', ' ')}\n({_TERM_UNITS.get(term, 'nats')})")
            if row == 0:
                axes.set_title(name)
        last = max(row for row, term in enumerate(terms) if term in records[-1])
        panels[last, column].set_xlabel("epoch")
    return figure


def _clip_start(axes, values: Sequence[float]) -> None:
    """Keeps a wild first epoch from flattening the rest of the curve."""
    tail = np.asarray(values[len(values) // 5 :], dtype=float)
    span = max(np.ptp(tail), 1e-9 + 0.01 * abs(tail).max())
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, tail.min() - 0.4 * span), min(high, tail.max() + 0.9 * span))


@styled
def curve(x: Sequence[float], ys: Mapping[str, Sequence[float]], *, xlabel: str, ylabel: str, title: str) -> Figure:
    """Quantities against a setting, such as the loss against the latent dimension: a panel each, x shared."""
    for name, values in ys.items():
        if len(values) != len(x):
            raise ValueError(f"curve: {name!r} must have a value per x ({len(x)}), got {len(values)}")
    figure = new_figure(3.1 * len(ys) + 0.4, 2.9)
    panels = figure.subplots(1, len(ys), squeeze=False)[0]
    for index, (axes, (name, values)) in enumerate(zip(panels, ys.items(), strict=True)):
        axes.plot(x, values, color=SERIES[index % len(SERIES)], marker="o", ms=4)
        axes.set(title=name, xlabel=xlabel, ylabel=ylabel)
        axes.set_xticks(list(x))
        axes.tick_params(axis="x", labelsize=8)
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=11)
    return figure


@styled
def rate_distortion(models: Mapping[str, Sequence[tuple[float, float]]]) -> Figure:
    """Points (rate, distortion) in nats per image, a mark a run, over lines of equal ELBO (Alemi et al. 2018)."""
    figure = new_figure(6.2, 4.4)
    axes = figure.subplots()
    points = np.array([point for runs in models.values() for point in runs], dtype=float)
    for index, (name, runs) in enumerate(models.items()):
        rates, distortions = zip(*runs, strict=True)
        axes.plot(
            rates,
            distortions,
            MARKERS[index % len(MARKERS)],
            ms=8,
            alpha=0.85,
            color=SERIES[index % len(SERIES)],
            label=name,
        )
    low, high = points.min(0), points.max(0)
    room = np.maximum(0.12 * (high - low), 0.5)
    left, right = low[0] - room[0], high[0] + room[0]
    bottom, top = low[1] - room[1], high[1] + room[1]
    axes.set(xlim=(left, right), ylim=(bottom, top))
    for elbo in MaxNLocator(7).tick_values(-(right + top), -(left + bottom)):
        axes.plot([left, right], [-elbo - left, -elbo - right], color="#bbbbbb", lw=0.8, ls="--", zorder=0)
        place = max(left, -elbo - top)  # where the line enters from above, or from the left
        if place < right - 0.1 * (right - left) and bottom < -elbo - place:
            axes.annotate(
                _number(elbo, ".0f"), (place, -elbo - place), xytext=(3, -9), textcoords="offset points",
                fontsize=7, color="#888888", clip_on=True,
            )  # fmt: skip
    axes.set(
        xlabel="rate, nats per image (test)", ylabel="distortion, nats per image (test)", title="Rate and distortion"
    )
    axes.legend(frameon=True, framealpha=1, edgecolor="none")
    return figure


@styled
def sweep(points: Sequence[Mapping[str, float]], *, chosen: tuple[int, float] | None, sample: str = "image") -> Figure:
    """A grid of latent_dim and beta: the rate-distortion plane, a line a latent_dim; and against latent_dim, a line a beta, the
    ELBO, active units, and where there are labels what a linear probe reads. Means over seeds, bars from least to most.

    points: records with latent_dim, beta, rate, distortion, elbo, active_units and perhaps probe_accuracy, probe_accuracy_pca,
        one a seed. chosen: the latent_dim and beta that are marked, None for none. sample: what nats are per.
    """
    widths, betas = (sorted({point[key] for point in points}) for key in ("latent_dim", "beta"))
    panels = {"elbo": ("ELBO", f"nats per {sample}"), "active_units": ("active latents", "of all")}
    if "probe_accuracy" in points[0]:
        panels["probe_accuracy"] = ("linear probe", "classes right")
    figure = new_figure(4.4 + 3.1 * len(panels), 3.6)
    plane, *rest = figure.subplots(1, 1 + len(panels), width_ratios=[1.4, *[1] * len(panels)])

    def values(key: str, width: float, beta: float) -> list[float]:
        return [p[key] for p in points if (p["latent_dim"], p["beta"]) == (width, beta)]

    for width, colour in zip(widths, _ordered(len(widths)), strict=True):
        line = [
            [np.mean(values(key, width, beta)) for beta in betas if values(key, width, beta)]
            for key in ("rate", "distortion")
        ]
        plane.plot(*line, marker="o", ms=4, color=colour, label=f"{width}")
    if chosen is not None:
        plane.plot(
            np.mean(values("rate", *chosen)),
            np.mean(values("distortion", *chosen)),
            "*",
            ms=15,
            color=SERIES[1],
            label="advised",
        )
    plane.set(title="Rate and distortion", xlabel=f"rate, nats per {sample}", ylabel=f"distortion, nats per {sample}")
    plane.legend(title="latent_dim", fontsize=8)
    for axes, (key, (title, unit)) in zip(rest, panels.items(), strict=True):
        for beta, colour in zip(betas, _ordered(len(betas)), strict=True):
            found = {width: values(key, width, beta) for width in widths if values(key, width, beta)}
            middle = np.array([np.mean(runs) for runs in found.values()])
            spread = np.abs(np.array([[min(runs), max(runs)] for runs in found.values()]).T - middle)
            axes.errorbar(list(found), middle, spread, marker="o", ms=4, capsize=2, color=colour, label=f"{beta:g}")
        if key == "active_units":
            axes.plot(widths, widths, color="#bbbbbb", ls="--", lw=0.8, zorder=0)
        if key == "probe_accuracy":
            pca = [np.mean([p["probe_accuracy_pca"] for p in points if p["latent_dim"] == width]) for width in widths]
            axes.plot(widths, pca, color="#888888", ls="--", lw=1, zorder=0, label="PCA")
        axes.set(title=title, xlabel="latent_dim", ylabel=unit, xscale="log")
        axes.set_xticks(widths, [str(width) for width in widths])
        axes.minorticks_off()
    rest[-1].legend(title="beta", fontsize=8)
    return figure


def _ordered(n: int) -> list[tuple[float, ...]]:
    """Colours of a few values in order, dark to light, told apart by colour-blind readers too."""
    return [matplotlib.colormaps["viridis"](place) for place in np.linspace(0.0, 0.85, n)]


@styled
def image_grid(images: np.ndarray, *, columns: int = 8, title: str | None = None) -> Figure:
    """Images side by side in rows of `columns`; missing ones at the end stay white."""
    pixels = _shown(images)
    return _sheets({title or "": tile_rows(pixels, columns, zoom(pixels, CELL))})


@styled
def sample_sheets(samples: Mapping[str, np.ndarray], *, columns: int = 8) -> Figure:
    """Samples of several models beside each other, a sheet each."""
    if not samples:
        raise ValueError("sample_sheets needs the samples of at least one model")
    pixels = {name: _shown(images, f"samples of {name!r}") for name, images in samples.items()}
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
        pixels = [_shown(images, f"samples of {name!r}")[: rows * columns] for name, images in sheets.items()]
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
def labelled_rows(rows: Mapping[str, np.ndarray], *, title: str = "") -> Figure:
    """Images in rows, a label before each: a class a row, or the same things under different settings, column by column.

    Rows may be of different lengths; those of more than `ACROSS` images go on in the next line.
    """
    if not rows:
        raise ValueError("labelled_rows needs at least one row of images")
    pixels = [_shown(images, f"images of {label!r}") for label, images in rows.items()]
    labels = [shortened(label) for label in rows]
    side = text_width(labels) + 2 * MARGIN
    columns = min(max(map(len, pixels)), ACROSS)
    scale = zoom(pixels[0], min(CELL, (FULL - side) // columns))
    sheets = [tile_rows(images, columns, scale) for images in pixels]
    width = max(max(sheet.shape[1] for sheet in sheets), text_width([title], 10, "bold"))
    top = MARGIN + (LINE if title else 0)
    figure = canvas(side + width + MARGIN, top + sum(len(sheet) + GUTTER for sheet in sheets) + MARGIN)
    for row, (label, sheet) in enumerate(zip(labels, sheets, strict=True)):
        axes = place(figure, sheet, side, top)
        axes.set_yticks([len(sheet) / 2], [label])
        if row == 0:
            axes.set_title(title)
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
    pixels = _shown(images, dims=5)
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
        axis.set_ticks(np.interp(shown, values, places), [_number(value, ".1f") for value in shown])
    axes.set(xlabel="z1", ylabel="z2", title=title)
    return figure


def _number(value: float, form: str) -> str:
    """Formatted with a true minus sign, and no sign on a zero."""
    return format(round(float(value), 6) + 0.0, form).replace("-", "\N{MINUS SIGN}")


@styled
def traversals(panels: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]) -> Figure:
    """One row per latent, only that latent moving, models side by side.

    panels: name -> (images (D, S, H, W, C), kl (D,) nats, index (D,) from 0, its values (S,)),
    rows in the order to show. Latents are labelled from 1.
    """
    parts = []
    for name, (images, kl, index, values) in panels.items():
        pixels = _shown(images, f"traversals of {name!r}", dims=5)
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
        texts = [_number(value, "+.1f" if abs(value) > 1e-6 else ".1f") for value in values]
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
    pixels = _shown(images, dims=5)
    if pixels.shape[1] != len(classes):
        raise ValueError(f"by_class needs a column per class ({len(classes)}), got {pixels.shape[1]}")
    names = [shortened(name) for name in classes]
    beside = 8 if chosen is not None else 0
    cell, scale = pixels.shape[3], zoom(pixels, min(CELL, FULL // (len(names) + beside)))
    sheet = tile(pixels, scale)
    names_height = _heading_height(names, cell * scale)
    top = MARGIN + LINE + names_height
    pad = (names_height + 4) * 72 / DPI  # points
    second = tile_rows(_shown(chosen, "chosen"), beside, scale) if chosen is not None else sheet[:0, :0]
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
def codes(originals: np.ndarray, rebuilt: np.ndarray, code_maps: np.ndarray, usage: np.ndarray) -> Figure:
    """A VQ-VAE's codes: inputs, code maps (N, h, w) as colours, outputs; below, usage (K,) by rank."""
    truth, decoded = _shown(originals, "originals"), _shown(rebuilt, "reconstructions")
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
    wide, top = max(sheets[0].shape[1], 640), MARGIN + 3 * step + 56
    figure = canvas(side + wide + MARGIN, top + chart + 80)
    for row, (label, sheet) in enumerate(zip(labels, sheets, strict=True)):
        place(figure, sheet, side, MARGIN + row * step).set_yticks([len(sheet) / 2], [label])
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
        _shown(np.asarray(images)[order], name) for images, name in ((samples, "samples"), (nearest, "training images"))
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


@styled
def augmentation_gain(arms: Mapping[str, Sequence[tuple[int, float, float, float]]]) -> Figure:
    """Accuracy against labelled images per class: a line and the band of its interval for each arm.

    arms: name -> (labelled images per class, accuracy, low and high end of its interval), shares; NaN where there is no
    interval.
    """
    if not arms or not all(arms.values()):
        raise ValueError("augmentation_gain needs at least one point of at least one arm")
    figure = new_figure(8.4, 4.4)
    axes = figure.subplots()
    for index, (name, points) in enumerate(arms.items()):
        number, *shares = np.array(sorted(points), dtype=float).T
        accuracy, low, high = (100 * share for share in shares)
        look: dict[str, Any] = {"color": SERIES[index % len(SERIES)], "marker": MARKERS[index % len(MARKERS)]}
        axes.plot(number, accuracy, ms=4, lw=1.4, ls="-" if index < len(SERIES) else "--", label=name, **look)
        axes.fill_between(number, low, high, color=look["color"], alpha=0.15, linewidth=0)
    ticks = sorted({point[0] for points in arms.values() for point in points})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set(
        title="Samples as augmentation: mean accuracy and its 95 % interval",
        xlabel="labelled images per class",
        ylabel="accuracy on test images (%)",
    )
    figure.legend(loc="outside right center", fontsize=8)
    return figure
