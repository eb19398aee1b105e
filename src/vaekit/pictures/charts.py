"""Curves and points, a function each: numbers in, a matplotlib Figure out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vaekit.pictures.style import (
    MARKERS,
    SERIES,
    new_figure,
    number,
    styled,
)

Records = Sequence[Mapping[str, float]]
_TERM_UNITS = {"commitment": "squared distance", "codebook": "squared distance", "codes_used": "codes"}
_TERMS = ("objective", "distortion", "rate", "commitment", "codebook", "codes_used")


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
                number(elbo, ".0f"), (place, -elbo - place), xytext=(3, -9), textcoords="offset points",
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
