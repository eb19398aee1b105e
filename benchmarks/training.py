"""A training step of the report's VAE on the CPU: at least 1.25 times pythae's images per second over 10 epochs.

MNIST, batch 100, Adam, float32, the same initial weights, batches and loss (lambda times the negative ELBO); epochs of all
are taken in turn in one process. pythae is its BaseTrainer with the report's layers; "plain loop" is a loop written by hand
on images in memory; vaekit trains as it does by default (compiled, from 6,000 steps on) and with `compile=False`.
"""

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from unittest import mock

import torch

from benchmarks._peers import PlainLoop, Pythae, as_floats, test_loss, untrained
from benchmarks.harness import Findings, median_ratio, progress
from vaekit import VAE
from vaekit.data import open_data
from vaekit.data.batches import Data
from vaekit.estimators.fitting import Fitting


@dataclass(frozen=True)
class InTurns(Data):
    """Data at whose epochs the others have theirs first."""

    others: dict = field(default_factory=dict, kw_only=True)
    seconds: dict = field(default_factory=dict, kw_only=True)

    def batches(self, indices):
        order = torch.cat(list(indices))
        for name, epoch in self.others.items():
            started = time.perf_counter()
            epoch(order)
            self.seconds.setdefault(name, []).append(time.perf_counter() - started)
        progress(", ".join(f"{name} {values[-1]:.1f} s" for name, values in self.seconds.items()))
        return super().batches(indices)


def in_turns(others: dict, seconds: dict) -> type[Fitting]:
    """A fitting as it is, on data that lets others have their turn."""

    class InTurnsFitting(Fitting):
        def data(self, images, device):
            data = super().data(images, device)
            return InTurns(data.x, data.y, others=others, seconds=seconds)

    return InTurnsFitting


def run(argv):
    parser = argparse.ArgumentParser(prog="python -m benchmarks training")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--images", type=int, default=60000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    train, test = (open_data("mnist", split=split) for split in ("train", "test"))
    train = train.take(range(arguments.images))
    x, held = as_floats(train), as_floats(test)
    pythae = Pythae("vae", untrained("vae", train, arguments.seed), x)
    plain = PlainLoop(untrained("vae", train, arguments.seed), x)
    eager = VAE(architecture="wang2023", random_state=arguments.seed, compile=False)
    ours = VAE(architecture="wang2023", random_state=arguments.seed, epochs=arguments.epochs, compile=True)
    others = {
        "pythae": pythae.epoch,
        "plain loop": plain.epoch,
        "vaekit, not compiled": lambda order: eager.partial_fit(train.x),
    }
    seconds = {}
    ours_in_turns = mock.patch("vaekit.estimators.base.Fitting", in_turns(others, seconds))
    with tempfile.TemporaryDirectory() as empty, ours_in_turns:  # compiling is timed as a first run has it
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = empty
        ours.fit_images(train)
    seconds |= {"vaekit": [record["seconds"] for record in ours.history_]}
    warm_up = seconds["vaekit"][0] - statistics.median(seconds["vaekit"][1:])
    # The first epoch holds everybody's warm-up; for vaekit the compilation, shown apart.
    steady = {name: values[1:] for name, values in seconds.items()}
    images = len(train) // 100 * 100
    losses = {
        "pythae": pythae.test_loss(held),
        "vaekit, not compiled": test_loss(eager, held),
        "vaekit": test_loss(ours, held),
    }
    rows = [
        [
            name,
            f"{statistics.median(values):.2f}",
            f"{min(values):.2f} to {max(values):.2f}",
            f"{images / statistics.median(values):,.0f}",
            f"{median_ratio(steady['pythae'], values):.2f}",
            f"{sum(seconds['pythae']) / sum(seconds[name]):.2f}",
            f"{losses[name]:.2f}" if name in losses else "",
        ]
        for name, values in steady.items()
    ]
    ratio = median_ratio(steady["pythae"], steady["vaekit"])
    whole = sum(seconds["pythae"]) / sum(seconds["vaekit"])
    gained = statistics.median(steady["vaekit, not compiled"]) - statistics.median(steady["vaekit"])
    text = (
        f"Medians of {len(steady['vaekit'])} epochs after the first, in turns, batch 100, {torch.get_num_threads()} threads. "
        f"vaekit trains {ratio:.2f} times as many images a second as pythae (claimed: 1.25; aimed at: 1.5). Compiling took "
        f"{warm_up:.1f} s once, which the step earns back in {warm_up / gained:.1f} epochs; with it, {arguments.epochs} epochs "
        f"are {whole:.2f} times faster than pythae's. Losses are of the test images after the last epoch, from one seed: they "
        "differ since noise is drawn in another order."
    )
    columns = [
        "trainer",
        "s / epoch",
        "range",
        "images / s",
        "times pythae",
        f"times pythae, {arguments.epochs} epochs with warm-up",
        "test loss",
    ]
    return Findings(columns, rows, text)
