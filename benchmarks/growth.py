"""Cost grows as the work does: seconds of training per pixel, per image and per code do not rise with how many there are.

The default VAE and VQ-VAE on random images in memory, training steps of all sizes taken in turn. A slope is that of log(seconds
per unit of work) against log(units): 0 where the cost is in proportion to the work, below 0 where a part of it is fixed, above
where it rises faster. Draws results/growth.png.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator, StrMethodFormatter

from benchmarks.harness import RECORDS, Findings, interleave, progress
from vaekit import VAE, VQVAE
from vaekit.data.batches import Data
from vaekit.estimators.base import Estimator
from vaekit.models.objectives import Elbo
from vaekit.pictures.style import MARKERS, SERIES, new_figure, save, styled
from vaekit.tensors import total
from vaekit.training.optimizers import make_optimizer
from vaekit.training.plan import Plan

SECONDS = 0.3  # that a turn takes, if it is of more than one step
FEW = 128  # images that make a model before its steps are timed: as many codes as K is at most


class Series(NamedTuple):
    """What was measured along one axis. units: of work, ascending; rates: images per second."""

    title: str
    label: str  # of the units
    units: list[int]
    rates: list[float]
    in_an_image: bool  # whether an image has so many of the units; else they are images

    def slopes(self) -> tuple[float, float]:
        """Of log(seconds per unit of work) against log(units): fitted to all, and the steepest between neighbours."""
        seconds = 1 / np.array(self.rates) / (self.units if self.in_an_image else 1)
        x, y = np.log(self.units), np.log(seconds)
        return float(np.polyfit(x, y, 1)[0]), float((np.diff(y) / np.diff(x)).max())


def run(argv):
    parser = argparse.ArgumentParser(prog="python -m benchmarks growth")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sides", type=int, nargs="+", default=[8, 16, 32, 64, 128])
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 32, 64, 128, 256, 512, 1024])
    parser.add_argument("--codes", type=int, nargs="+", default=[16, 64, 256, 1024, 4096])
    parser.add_argument("--images", type=int, nargs="+", default=[1_000, 10_000, 100_000, 500_000])
    parser.add_argument("--plot", type=Path, default=RECORDS / "growth.png")
    options = parser.parse_args(argv)
    many = images(max(options.images), 28, 1)

    def measured(title: str, label: str, trainings: dict, *, in_an_image: bool) -> Series:
        series = Series(title, label, list(trainings), images_per_second(trainings, options.rounds), in_an_image)
        progress(f"{title}: {listed(series.rates)} images/s for {listed(series.units)} {label}")
        return series

    sizes = {
        channels: measured(
            f"VAE, image size, {channels} channel{'s' * (channels > 1)}",
            "pixels in an image",
            {side**2: training(VAE(), images(FEW, side, channels), 64) for side in options.sides},
            in_an_image=True,
        )
        for channels in (1, 3)
    }
    largest = max(options.sides) ** 2
    colours = Series(
        f"VAE, channels of {largest} pixels",
        "values",
        [largest, 3 * largest],
        [s.rates[-1] for s in sizes.values()],
        True,
    )
    batches = measured(
        "VAE, batch",
        "images in a step",
        {batch: training(VAE(), many, batch) for batch in options.batches},
        in_an_image=False,
    )
    codes = measured(
        "VQ-VAE, codebook",
        "codes",
        {k: training(VQVAE(n_codes=k), many, 128) for k in options.codes},
        in_an_image=True,
    )
    counts = measured(
        "VAE, data set",
        "images in memory",
        {count: training(VAE(), many[:count], 128) for count in options.images},
        in_an_image=False,
    )
    every = [*sizes.values(), colours, batches, codes, counts]
    save(draw([list(sizes.values()), [batches], [codes], [counts]]), options.plot)
    rows = [
        [
            series.title,
            f"{series.units[0]:,} to {series.units[-1]:,} {series.label}",
            listed(series.rates),
            *(f"{slope:+.2f}" for slope in series.slopes()),
        ]
        for series in every
    ]
    worst = max(every, key=lambda series: series.slopes()[0])
    steepest = max(every, key=lambda series: series.slopes()[1])
    text = (
        f"Medians of {options.rounds} rounds. The largest slope of seconds per unit of work is {worst.slopes()[0]:+.2f} "
        f"({worst.title}), and {steepest.slopes()[1]:+.2f} between two neighbours ({steepest.title}); at 0 the cost is in "
        "proportion to the work.\n\n![Images per second against image size, batch, codebook and data set](results/growth.png)"
    )
    columns = ["axis", "from, to", "images / s", "slope", "steepest between neighbours"]
    return Findings(columns, rows, text)


def images(count: int, side: int, channels: int) -> np.ndarray:
    """(count, side, side, channels) uint8, random."""
    return np.random.default_rng(0).integers(0, 256, (count, side, side, channels), dtype=np.uint8)


def training(model: Estimator, x: np.ndarray, batch: int) -> tuple[Callable[[], None], int]:
    """An action that trains the default network of `model` for a few steps of `batch` random images of x, and on how many
    images in all.
    """
    torch.manual_seed(0)
    module = model.set_params(epochs=1, random_state=0).fit(x[:FEW]).model_.train()
    data, objective = Data(torch.from_numpy(x)), Elbo()
    optimizer = make_optimizer(module, Plan(steps=1, batch_size=batch, learning_rate=1e-3))

    def steps(count: int) -> None:
        for _ in range(count):
            chosen, _ = data.batch(torch.randint(len(data), (batch,)))
            loss = total(objective(module(chosen), 0))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    steps(1)
    started = time.perf_counter()
    steps(1)
    count = max(1, round(SECONDS / (time.perf_counter() - started)))
    return partial(steps, count), count * batch


def images_per_second(trainings: dict[int, tuple[Callable[[], None], int]], rounds: int) -> list[float]:
    seconds = interleave({str(units): action for units, (action, _) in trainings.items()}, rounds)
    return [count / statistics.median(seconds[str(units)]) for units, (_, count) in trainings.items()]


def listed(values) -> str:
    return ", ".join(f"{value:,.0f}" for value in values)


@styled
def draw(panels: list[list[Series]]) -> Figure:
    """A panel an axis: images per second against units of work; dashed where cost in proportion to the work would be."""
    figure = new_figure(8.0, 5.6)
    for axes, every in zip(figure.subplots(2, 2).flat, panels, strict=True):
        for series, colour, marker in zip(every, SERIES, MARKERS, strict=False):
            axes.plot(series.units, series.rates, color=colour, marker=marker, markersize=4)
        low, high = min(min(series.rates) for series in every), max(max(series.rates) for series in every)
        for series in every:
            units = np.array(series.units)
            proportional = series.rates[-1] * (units[-1] / units if series.in_an_image else np.ones(len(units)))
            axes.plot(units, proportional, color="#777777", linestyle="--", linewidth=1, zorder=1)
        title, _, rest = every[0].title.partition(", ")
        axes.set(xscale="log", yscale="log", xlabel=every[0].label, ylabel="images per second")
        axes.set_ylim(low / 2, high * 2)
        axes.set_title(f"{title}: {rest.partition(', ')[0]}")
        axes.xaxis.set_major_locator(FixedLocator(every[0].units))
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        for side in (axes.xaxis, axes.yaxis):
            side.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
            side.set_minor_locator(NullLocator())
        labels = [series.title.rpartition(", ")[2] for series in every] if len(every) > 1 else ["measured"]
        axes.legend(axes.lines[: len(every) + 1], [*labels, "in proportion"], loc="lower left")
    return figure
