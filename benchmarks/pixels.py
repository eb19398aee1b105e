"""A check of the code: the gated PixelCNN on MNIST's pixels, dynamically binarised, in a stated budget.

A published gated PixelCNN reaches about 81.5 nats with dynamic binarisation (van den Oord et al. 2016 and the work that
followed it); a small one of ours, 4 layers of 32 with 7x7 kernels, comes how near? One seed.
"""

import argparse
import time
from dataclasses import dataclass

import torch
from torch import nn

from benchmarks.harness import OUT, Findings
from vaekit.data import open_data
from vaekit.data.batches import Data
from vaekit.parts.causal import GatedPixelCNN, log_prob
from vaekit.tensors import Term
from vaekit.training.checkpoint import RunFolder
from vaekit.training.loop import train
from vaekit.training.plan import Plan
from vaekit.world import seeded


@dataclass(frozen=True)
class Binarised(Data):
    """Images whose pixels are drawn anew each time from Bernoulli(intensity): (B, H, W) int64."""

    def batch(self, index):
        return torch.bernoulli(self.x[index, :, :, 0].float() / 255).long(), None


class Nats(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x, y=None):
        return -log_prob(self.network, x)


def run(argv):
    parser = argparse.ArgumentParser(prog="python -m benchmarks pixels")
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--kernel", type=int, default=7)
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args(argv)
    data, test = (Binarised(torch.from_numpy(open_data("mnist", split).x)) for split in ("train", "test"))
    sizes = {"channels": options.channels, "layers": options.layers, "kernel": options.kernel}
    with seeded(0):
        module = Nats(GatedPixelCNN(n_values=2, grid=(28, 28), **sizes))
    plan = Plan(
        steps=options.epochs * (len(data) // 32),
        batch_size=32,
        learning_rate=2e-3,
        warmup=200,
        betas=(0.9, 0.99),
        gradient_clip=100.0,
    )
    folder = RunFolder(OUT / "pixels" / "-".join(f"{name}{value}" for name, value in vars(options).items()))
    folder.start({"plan": str(plan)})
    history = train(
        module, lambda nats, step: {"nll": Term(nats)}, data, plan, folder=folder, title="pixels", verbose=True
    )
    started = time.perf_counter()
    with seeded(0), torch.no_grad():
        nats = torch.cat([module(*test.batch(slice(start, start + 250))) for start in range(0, len(test), 250)])
    seconds = sum(record["seconds"] for record in history)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    error = nats.std().item() / len(nats) ** 0.5
    rows = [
        [
            f"{options.layers} layers of {options.channels}, kernel {options.kernel}",
            parameters,
            options.epochs,
            round(seconds),
            f"{history[-1]['nll']:.2f}",
            f"{nats.mean():.2f} ± {error:.2f}",
        ]
    ]
    text = (
        f"Nats per image of the {len(test):,} test images, each binarised once, ± standard error over images; evaluated in "
        f"{time.perf_counter() - started:.0f} s. {nats.mean() - 81.5:+.1f} nats from the published 81.5."
    )
    return Findings(
        ["network", "parameters", "epochs", "training, s", "NLL, last epoch of training", "NLL, test"], rows, text
    )
