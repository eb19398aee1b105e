"""The figures, a function each: arrays in, a matplotlib Figure out. Images are (N, H, W, C), uint8 or floats in [0, 1]."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vaekit.pictures.style import (
    CLASSES,
    ERROR_MAP,
    SERIES,
    as_pixels,
    class_colours,
    new_figure,
    show_sheet,
    styled,
    tile,
)

Records = Sequence[Mapping[str, float]]
_TERM_UNITS = {"commitment": "squared distance", "codebook": "squared distance", "codes_used": "codes"}
_TERMS = ("objective", "distortion", "rate", "commitment", "codebook", "codes_used")


@styled
def training_curves(histories: Mapping[str, Records]) -> Figure:
    """Training curves: a column a model, a panel a term against epochs; validation dashed. Nats per image.

    histories: model name -> epoch records, as `history_` holds them.
    """
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
            axes.plot(epochs, [r[term] for r in records], color=SERIES[row], marker="o" if len(epochs) < 3 else None, label="training")
            if f"validation_{term}" in records[-1]:
                axes.plot(epochs, [r[f"validation_{term}"] for r in records], color=SERIES[row], ls="--", label="validation")
                axes.legend(fontsize=7)
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
    figure = new_figure(3.1 * len(ys) + 0.4, 2.9)
    for index, (axes, (name, values)) in enumerate(zip(figure.subplots(1, len(ys), squeeze=False)[0], ys.items(), strict=True)):
        axes.plot(x, values, color=SERIES[index], marker="o", ms=4)
        axes.set(title=name, xlabel=xlabel, ylabel=ylabel)
        axes.set_xticks(list(x))
        axes.tick_params(axis="x", labelsize=8)
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=11)
    return figure


@styled
def image_grid(images: np.ndarray, *, columns: int = 8, title: str | None = None) -> Figure:
    """Images side by side in rows of `columns`; missing ones at the end stay white."""
    images = as_pixels(images)
    rows = math.ceil(len(images) / columns)
    blank = np.full((rows * columns - len(images), *images.shape[1:]), 255, np.uint8)
    sheet = tile(np.concatenate([images, blank]).reshape(rows, columns, *images.shape[1:]))
    width = 0.5 * columns
    figure = new_figure(width, width * sheet.shape[0] / sheet.shape[1] + (0.3 if title else 0))
    axes = figure.subplots()
    show_sheet(axes, sheet)
    if title:
        axes.set_title(title)
    return figure


@styled
def sample_sheets(samples: Mapping[str, np.ndarray], *, columns: int = 8) -> Figure:
    """Samples of several models beside each other, a sheet each."""
    figure = None
    for index, (name, images) in enumerate(samples.items()):
        rows = len(images) // columns
        sheet = tile(as_pixels(images[: rows * columns]).reshape(rows, columns, *images.shape[1:-1], -1))
        if figure is None:
            figure = new_figure(3.1 * len(samples), 3.1 * sheet.shape[0] / sheet.shape[1] + 0.3)
            panels = figure.subplots(1, len(samples), squeeze=False)[0]
        show_sheet(panels[index], sheet)
        panels[index].set_title(name)
    return figure


@styled
def latent_space(
    spaces: Mapping[str, tuple[np.ndarray, np.ndarray | None]],
    classes: Sequence[str],
    *,
    codebooks: Mapping[str, np.ndarray] | None = None,
    axis_names: Mapping[str, tuple[str, str]] | None = None,
) -> Figure:
    """2-D latent spaces coloured by class. spaces: name -> (Z (N, 2), y (N,) or None); codebooks: name -> (K, 2)."""
    colours = class_colours(len(classes))
    columns = min(len(spaces), 2)
    rows = math.ceil(len(spaces) / columns)
    figure = new_figure(3.8 * columns + 0.8, 3.5 * rows)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (name, (z, y)) in zip(panels, spaces.items(), strict=False):
        size = float(np.clip(6000 / max(len(z), 1), 1.5, 14))
        shuffled = np.random.default_rng(0).permutation(len(z))
        point = [CLASSES[0] if y is None else colours[y[i]] for i in shuffled]
        axes.scatter(z[shuffled, 0], z[shuffled, 1], s=size, c=point, alpha=0.6, linewidths=0, rasterized=True)
        if codebooks and name in codebooks:
            book = codebooks[name]
            axes.scatter(book[:, 0], book[:, 1], marker="x", s=22, c="black", linewidths=1, label="codebook")
            axes.legend(loc="best", fontsize=7)
        elif y is not None:
            _name_clusters(axes, z, y, classes, colours)
        first, second = (axis_names or {}).get(name, ("z1", "z2"))
        axes.set(title=name, xlabel=first, ylabel=second)
        low, high = np.percentile(z, [0.3, 99.7], axis=0)
        margin = 0.06 * (high - low) + 1e-6
        axes.set(xlim=(low[0] - margin[0], high[0] + margin[0]), ylim=(low[1] - margin[1], high[1] + margin[1]))
    for axes in panels[len(spaces) :]:
        axes.set_visible(False)
    if classes and any(y is not None for _, y in spaces.values()):
        handles = [
            matplotlib.lines.Line2D([], [], ls="", marker="o", color=colour, label=str(label))
            for colour, label in zip(colours, classes, strict=True)
        ]
        figure.legend(handles=handles, loc="outside right center", title="class", ncols=math.ceil(len(classes) / 20))
    return figure


def _name_clusters(axes, z, y, classes, colours) -> None:
    """Writes each class's name at its median, so that colour isn't the only way to tell."""
    for index, label in enumerate(classes[:20]):
        if (y == index).any():
            place = np.median(z[y == index], axis=0)
            axes.text(
                *place, str(label), ha="center", va="center", fontsize=8, fontweight="bold",
                bbox={"boxstyle": "round,pad=0.15", "fc": "white", "ec": colours[index], "alpha": 0.85},
            )  # fmt: skip


@styled
def manifold(images: np.ndarray, low: float, high: float, *, title: str = "") -> Figure:
    """The decoded plane: images (R, R, H, W, C), row 0 at z2 = high, column 0 at z1 = low."""
    figure = new_figure(5.6, 5.6)
    axes = figure.subplots()
    sheet = tile(images, gap=0)
    step = (high - low) / (len(images) - 1) / 2
    axes.imshow(
        sheet, interpolation="nearest", extent=(low - step, high + step, low - step, high + step), aspect="equal"
    )
    axes.grid(False)
    axes.set(xlabel="z1", ylabel="z2", title=title)
    return figure


@styled
def traversals(panels: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]) -> Figure:
    """One row per latent, only that latent moving, models side by side.

    panels: name -> (images (D, S, H, W, C), kl (D,) nats, index (D,) of the latent, shifts (S,)), rows already ordered.
    """
    rows = max(len(images) for images, *_ in panels.values())
    steps = max(images.shape[1] for images, *_ in panels.values())
    figure = new_figure((0.42 * steps + 1.2) * len(panels), 0.42 * rows + 0.9)
    for axes, (name, (images, kl, index, shifts)) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        sheet = tile(images)
        show_sheet(axes, sheet)
        height, width = images.shape[2] + 1, images.shape[3] + 1
        axes.set_yticks(
            [height * (row + 0.5) - 1 for row in range(len(images))],
            [f"z{i + 1}  {nats:.2f} nats" for i, nats in zip(index, kl, strict=True)],
        )
        axes.set_xticks([width * (i + 0.5) - 1 for i in range(len(shifts))], [f"{shift:+.1f}" for shift in shifts])
        axes.tick_params(length=0, labelsize=7)
        axes.set(title=name, xlabel="value of the latent that moves (prior standard deviations)")
    return figure


@styled
def by_class(images: np.ndarray, classes: Sequence[str], *, title: str, chosen: np.ndarray | None = None, chosen_title: str = "") -> Figure:
    """Samples by class: images (R, n_classes, H, W, C), a column a class; beside them a sheet of one `chosen` class."""
    sheet = tile(images)
    columns = images.shape[1]
    figure = new_figure(0.46 * columns + (4.0 if chosen is not None else 0.3), 0.46 * len(images) + 0.7)
    if chosen is not None:
        axes, beside = figure.subplots(1, 2, width_ratios=(columns, 8))
        side = math.isqrt(len(chosen))
        show_sheet(beside, tile(as_pixels(chosen[: side * side]).reshape(side, side, *chosen.shape[1:-1], -1)))
        beside.set_title(chosen_title)
    else:
        axes = figure.subplots()
    show_sheet(axes, sheet)
    width = images.shape[3] + 1
    labels = [str(name) if len(str(name)) <= 10 else f"{str(name)[:9]}." for name in classes]
    axes.set_xticks([width * (i + 0.5) - 1 for i in range(columns)], labels, rotation=0 if columns <= 12 else 90)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set_title(title)
    return figure


@styled
def reconstructions(originals: np.ndarray, models: Mapping[str, np.ndarray]) -> Figure:
    """The same inputs through every model: originals on top, then each model's images above its absolute errors.

    Errors share one scale, in units of intensity (0 to 1); rows carry the mean squared error of the images shown.
    """
    truth = _unit(originals)
    rebuilt = {name: _unit(images) for name, images in models.items()}
    errors = {name: np.abs(images - truth).mean(-1) for name, images in rebuilt.items()}
    top = max(float(error.max()) for error in errors.values()) or 1.0
    rows, labels = [as_pixels(originals)], ["input"]
    scale = matplotlib.colormaps[ERROR_MAP]
    channels = rows[0].shape[-1]
    for name, images in rebuilt.items():
        painted = np.rint(scale(errors[name] / top)[..., :3] * 255).astype(np.uint8)
        if channels == 4:
            painted = np.concatenate([painted, np.full((*painted.shape[:-1], 1), 255, np.uint8)], axis=-1)
        rows += [as_pixels(models[name]), painted]
        labels += [f"{name}\nMSE {np.square(images - truth).mean():.4f}", "error"]
    sheet = tile(np.stack(rows))
    figure = new_figure(0.5 * len(originals) + 1.9, 0.5 * len(rows) + 0.4)
    axes = figure.subplots()
    show_sheet(axes, sheet)
    height = originals.shape[1] + 1
    axes.set_yticks([height * (row + 0.5) - 1 for row in range(len(rows))], labels)
    axes.tick_params(length=0, labelsize=8)
    colours = matplotlib.cm.ScalarMappable(Normalize(0, top), scale)
    figure.colorbar(colours, ax=axes, label="absolute error (intensity, 0 to 1)", shrink=0.7, pad=0.01)
    return figure


def _unit(images: np.ndarray) -> np.ndarray:
    return images / 255.0 if images.dtype == np.uint8 else np.asarray(images, dtype=float)


@styled
def codes(originals: np.ndarray, rebuilt: np.ndarray, code_maps: np.ndarray, usage: np.ndarray) -> Figure:
    """A VQ-VAE's codes: inputs, their code maps (N, h, w) as colours, reconstructions; below, usage (K,) by rank."""
    used = int((usage > 0).sum())
    shares = usage / max(usage.sum(), 1)
    perplexity = float(np.exp(-np.sum(shares[shares > 0] * np.log(shares[shares > 0]))))
    # Indices are names, not amounts: a fixed shuffle gives neighbours in the codebook unlike colours.
    palette = matplotlib.colormaps["turbo"](np.random.default_rng(0).permutation(len(usage)) / max(len(usage) - 1, 1))
    height, width = originals.shape[1:3]
    maps = np.rint(palette[code_maps][..., :3] * 255).astype(np.uint8)
    maps = maps[:, (np.arange(height) * maps.shape[1]) // height][:, :, (np.arange(width) * maps.shape[2]) // width]
    figure = new_figure(0.62 * len(originals) + 1.0, 4.4)
    axes, below = figure.subplots(2, 1, height_ratios=(3, 2))
    rows = [as_pixels(originals)[..., :3], maps, as_pixels(rebuilt)[..., :3]]
    show_sheet(axes, tile(np.stack(rows)))
    axes.set_yticks([(height + 1) * (row + 0.5) - 1 for row in range(3)], ["input", "codes", "decoded"])
    axes.tick_params(length=0)
    axes.set_title(f"code maps of {code_maps.shape[1]}x{code_maps.shape[2]} codes")
    below.bar(np.arange(len(usage)), 100 * np.sort(shares)[::-1], width=1.0, color=SERIES[0], linewidth=0)
    below.axhline(100 / len(usage), color=SERIES[1], lw=1, ls="--", label="all codes equally often")
    below.legend(fontsize=8)
    below.set(
        title=f"{used} of {len(usage)} codes in use ({used / len(usage):.0%}), perplexity {perplexity:.1f}",
        xlabel="code, most used first",
        ylabel="share of positions (%)",
        xlim=(-0.5, len(usage) - 0.5),
    )
    return figure
