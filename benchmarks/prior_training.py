"""The PixelCNN of the report's size trains at least 1.6 times faster than its plain masked form, with the same mathematics.

15 layers of 128 channels, K=10 codes on a grid of 7x7, batches of 100 random codes; training steps taken in turn, from the
same initial weights. "Masked" has full kernels that are multiplied by a mask in each step: 3x3 and 1x3 as in the paper, or 3x3
in both stacks, which has as many parameters as the report's notebook (10.8 million with a first layer of its own). Its
optimizer is plain Adam. "vaekit" is the network with its fused Adam as `fit_prior` trains it, whose default is bfloat16 where
the processor has it, and compiled from 4,500 steps on. All clip the gradient. Compiling is not part of a step's time.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.harness import Findings, interleave, median_ratio, progress
from vaekit.parts.causal import GatedPixelCNN, gate
from vaekit.parts.priors import AutoregressivePrior
from vaekit.tensors import Term, total
from vaekit.training.compiled import compiled
from vaekit.training.optimizers import make_optimizer
from vaekit.training.plan import Plan
from vaekit.training.rates import CodeRate
from vaekit.world import autocast, fast_bfloat16

CPU = torch.device("cpu")
# As `vaekit.training.prior` plans it; the rate is the peak's share at the first step of a warm-up over 100.
PLAN = Plan(steps=1, batch_size=100, learning_rate=3e-5, betas=(0.9, 0.99), gradient_clip=10.0)


class MaskedConv2d(nn.Conv2d):
    """A convolution whose kernel is full, and multiplied by a mask in each forward pass.

    live: the convolution of the taps that the mask lets through; missing: how many rows and columns it lacks, (left, right,
        top, bottom), which are filled with ones, so that a mask that let them through would be seen.
    """

    mask: torch.Tensor

    def __init__(self, live: nn.Conv2d, missing: tuple[int, int, int, int]):
        weight, mask = F.pad(live.weight.detach(), missing, value=1.0), F.pad(torch.ones_like(live.weight), missing)
        kernel = (weight.shape[2], weight.shape[3])
        super().__init__(weight.shape[1], len(weight), kernel, padding=(kernel[0] // 2, kernel[1] // 2))
        assert self.bias is not None and live.bias is not None
        self.weight.data.copy_(weight)
        self.bias.data.copy_(live.bias)
        self.register_buffer("mask", mask)

    def forward(self, input):
        return F.conv2d(input, self.weight * self.mask, self.bias, padding=self.padding)


class Masked(nn.Module):
    """A copy of a gated PixelCNN with masked kernels, square ones in both stacks or 3x3 and 1x3: codes -> logits."""

    def __init__(self, network: GatedPixelCNN, *, square: bool):
        super().__init__()
        self.network = copy.deepcopy(network)
        self.n_values, self.grid, self.n_classes = network.n_values, network.grid, network.n_classes
        for layer in self.network.layers:
            reach = layer.reach
            layer.down = MaskedConv2d(layer.down, (0, 0, 0, reach))
            layer.right = MaskedConv2d(layer.right, (0, reach, reach, reach) if square else (0, reach, 0, 0))

    def forward(self, codes, y=None):
        network = self.network
        embedded = network.embedding(codes).movedim(-1, 1)
        vertical = F.pad(embedded, (0, 0, 1, 0))[:, :, :-1] + network.place
        horizontal = F.pad(embedded, (1, 0))[..., :-1] + network.place
        for layer in network.layers:
            below = layer.down(vertical)
            beside = layer.right(horizontal) + layer.link(below)
            vertical, horizontal = vertical + gate(below), horizontal + layer.out(gate(beside))
        return network.logits(F.silu(network.hidden(F.silu(horizontal))))


def run(argv):
    parser = argparse.ArgumentParser(prog="python -m benchmarks prior_training")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=15)
    parser.add_argument("--channels", type=int, default=128)
    parser.add_argument("--batch", type=int, default=100, help="grids of codes in a step")
    options = parser.parse_args(argv)
    torch.manual_seed(0)
    network = GatedPixelCNN(n_values=10, grid=(7, 7), channels=options.channels, layers=options.layers)
    codes = torch.randint(10, (options.batch, 7, 7))

    precisions = ["float32", "bfloat16"] if fast_bfloat16(CPU) else ["float32"]
    ours = {
        f"vaekit, {precision}{way}": AutoregressivePrior(copy.deepcopy(network))
        for precision in precisions
        for way in ("", ", compiled")
    }
    masked = {
        "masked, 3x3 and 1x3": AutoregressivePrior(Masked(network, square=False)),
        "masked, 3x3 and 3x3": AutoregressivePrior(Masked(network, square=True)),
    }
    priors = {**masked, **ours}
    steps: dict[str, Callable[[], Any]] = {}
    for name, prior in priors.items():
        optimizer = (
            make_optimizer(prior, PLAN)
            if name in ours
            else torch.optim.Adam(prior.parameters(), lr=PLAN.learning_rate, betas=PLAN.betas)
        )
        precision = "bfloat16" if "bfloat16" in name else "float32"
        rate = CodeRate(prior.train())
        forward = compiled(rate, progress) if "compiled" in name else rate
        steps[name] = partial(step, prior, forward, optimizer, codes, precision)
    losses, gradients = {}, {}
    for name in priors:
        started = time.perf_counter()
        losses[name] = [steps[name]()]
        progress(f"{name}: {time.perf_counter() - started:.1f} s for the first step")
        gradients[name] = live_gradients(priors[name])
        losses[name].append(steps[name]())
    reference = "vaekit, float32"
    progress(f"{reference}: losses of two steps {losses[reference]}")
    seconds = interleave(steps, options.rounds)
    rows = []
    for name, prior in priors.items():
        rows.append(
            [
                name,
                sum(parameter.numel() for parameter in prior.parameters()),
                f"{1000 * statistics.median(seconds[name]):.0f}",
                *(f"{median_ratio(seconds[slow], seconds[name]):.2f}" for slow in masked),
                f"{max(map(relative, losses[name], losses[reference])):.1e}",
                f"{max(map(difference, gradients[name], gradients[reference])):.1e}",
            ]
        )
    ratios = {name: [median_ratio(seconds[slow], seconds[name]) for slow in masked] for name in ours}
    found = " and ".join(f"{name} is {few:.2f} and {many:.2f} times as fast" for name, (few, many) in ratios.items())
    text = (
        f"Medians of {options.rounds} rounds, batches of {options.batch}. A step of {found} as that of the paper's and of the "
        "notebook's masked form (claimed: 1.6). The last two columns are against vaekit in float32: the largest relative "
        "difference of the losses of two steps, the second after an update, and of the gradients of the first, each tensor's "
        "by its own largest value, masked taps left out."
    )
    columns = [
        "form",
        "parameters",
        "ms / step",
        *(f"times as fast as {name}" for name in masked),
        "difference of losses",
        "difference of gradients",
    ]
    return Findings(columns, rows, text)


def step(
    prior: AutoregressivePrior,
    rate: Callable[[torch.Tensor], torch.Tensor],
    optimizer: torch.optim.Optimizer,
    codes: torch.Tensor,
    precision: str,
) -> float:
    """One training step; the loss before it, nats per grid. rate: codes -> nats under `prior`, compiled or not."""
    with autocast(CPU, precision):
        terms = {"rate": Term(rate(codes))}
    loss = total(terms)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(prior.parameters(), PLAN.gradient_clip)
    optimizer.step()
    return loss.item()


def live_gradients(prior: AutoregressivePrior) -> list[torch.Tensor]:
    """Gradients of all parameters in one order; of masked kernels, those of the taps that are let through."""
    masks = {f"{name}.weight": layer.mask for name, layer in prior.named_modules() if isinstance(layer, MaskedConv2d)}
    found = {}
    for name, parameter in prior.named_parameters():
        gradient = parameter.grad
        assert gradient is not None
        if name in masks:
            assert not gradient[masks[name] == 0].any(), "a masked tap has a gradient"
            gradient = gradient[masks[name] == 1]
        found[name.replace("network.", "")] = gradient.flatten().clone()
    return [found[name] for name in sorted(found)]


def relative(ours: float, theirs: float) -> float:
    return abs(ours - theirs) / abs(theirs)


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()
