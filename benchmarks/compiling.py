"""Where the training step is compiled by default, it gains at least what compiling costs.

The default networks on random 28x28 images, rows of 32 columns, or codes, in the batches and the precision of a training on
60,000 of them; plain and compiled steps in turn. Compiling starts from an empty cache, in this process for one network after
another, so that the first bears what the compiler itself needs to load. "Pays from" is that time divided by what a step gains;
"compiled from" is the default.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.harness import Findings, interleave, progress
from vaekit import VAE, VQVAE
from vaekit.data import Images
from vaekit.data.format import Format
from vaekit.estimators.base import Estimator
from vaekit.messages import filled
from vaekit.models.autoencoder import Autoencoder
from vaekit.models.objectives import Elbo
from vaekit.parts.causal import GatedPixelCNN
from vaekit.parts.priors import AutoregressivePrior
from vaekit.tensors import Term, total
from vaekit.training.compiled import PAYS_FROM, compiled
from vaekit.training.optimizers import make_optimizer
from vaekit.training.plan import Plan
from vaekit.training.rates import CodeRate
from vaekit.world import autocast, fast_bfloat16

CPU = torch.device("cpu")
IMAGES = 60_000
PLAN = Plan(steps=1, batch_size=1, learning_rate=1e-4)
SECONDS = 0.5  # that a turn takes, about


def run(argv):
    parser = argparse.ArgumentParser(prog="python -m benchmarks compiling")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args(argv)
    rows, fails = [], []
    for name, (network, make, x, precision) in networks().items():
        torch.manual_seed(0)
        plain, other = make().train(), make().train()
        with tempfile.TemporaryDirectory() as empty:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = empty
            started = time.perf_counter()
            step = stepper(other, compiled(other, progress), x, precision)
            step(1)
            cost = time.perf_counter() - started
        steps = {"plain": stepper(plain, plain, x, precision), "compiled": step}
        steps["plain"](2)
        started = time.perf_counter()
        steps["plain"](5)
        turn = max(1, round(SECONDS * 5 / (time.perf_counter() - started)))
        seconds = interleave({form: partial(action, turn) for form, action in steps.items()}, options.rounds)
        each = {form: statistics.median(values) / turn for form, values in seconds.items()}
        gain, default = each["plain"] - each["compiled"], PAYS_FROM.get(network)
        pays = cost / gain if gain > 0 else float("inf")
        if default is not None and pays > default:
            fails.append(name)
        rows.append(
            [
                name,
                f"{1000 * each['plain']:.1f}",
                f"{1000 * each['compiled']:.1f}",
                f"{each['plain'] / each['compiled']:.2f}",
                f"{cost:.1f}",
                f"{pays:,.0f}" if gain > 0 else "never",
                "never" if default is None else f"{default:,}",
            ]
        )
        progress(str(rows[-1]))
    verdict = f"It does not for {' and '.join(fails)}." if fails else "It does for all."
    text = f"Medians of {options.rounds} rounds, {torch.get_num_threads()} threads. {verdict}"
    columns = ["network", "ms / step", "compiled", "times as fast", "compiling, s", "pays from, steps", "compiled from"]
    return Findings(columns, rows, text)


def networks() -> dict[str, tuple[str, Callable[[], nn.Module], Tensor, str]]:
    """What is trained -> its name for `pays`, how to make it, a batch, and the precision."""

    def ready(estimator: Any, x: np.ndarray) -> tuple[Any, Callable[[], Autoencoder]]:
        images = Images(x, None, (), "random")
        format = Format.of(images, images, scaling="standard", conditional=False)
        filled_in = estimator.filled_in(estimator.resolve(format, IMAGES))
        return filled_in, lambda: filled_in.make_module(format, 0)

    def pixelcnn():
        return CodeRate(AutoregressivePrior(GatedPixelCNN(n_values=10, grid=(7, 7))))

    rng = np.random.default_rng(0)
    pixels, values = rng.random((128, 28, 28, 1), np.float32), rng.standard_normal((128, 32), np.float32)
    images, rows = torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.from_numpy(values).view(128, 1, 1, 32)
    codes, precision = torch.randint(10, (64, 7, 7)), "bfloat16" if fast_bfloat16(CPU) else "float32"

    def case(kind: type[Estimator], architecture: str) -> tuple:
        estimator, make = ready(kind(architecture=architecture), pixels)
        network = "vqvae" if isinstance(estimator, VQVAE) else architecture
        return network, make, images[: filled(estimator.batch_size)], filled(estimator.precision)

    return {
        "VAE, wang2023": case(VAE, "wang2023"),
        "VQ-VAE, wang2023": case(VQVAE, "wang2023"),
        "VAE, conv": case(VAE, "conv"),
        "VQ-VAE, conv": case(VQVAE, "conv"),
        "VAE, mlp": case(VAE, "mlp"),
        "VAE, mlp on a table": ("mlp", ready(VAE(), values)[1], rows, "float32"),
        "VAE, resnet": case(VAE, "resnet"),
        f"PixelCNN, {precision}": ("pixelcnn", pixelcnn, codes, precision),
    }


def stepper(module: nn.Module, forward: Callable, x: Tensor, precision: str) -> Callable[[int], None]:
    """A function that trains `module` by so many steps on the batch x."""
    optimizer, objective = make_optimizer(module, PLAN), Elbo()

    def steps(count: int) -> None:
        for _ in range(count):
            with autocast(CPU, precision):
                out = forward(x, None)
                terms = {"rate": Term(out)} if isinstance(out, Tensor) else objective(out, 1)
            loss = total(terms)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    return steps
