"""Cached sampling draws the same codes as running the whole network for each position, at least 60 times faster.

The report's gated PixelCNN, 15 layers of 128, untrained, 512 values, 100 images; the transformer beside it. Pairs of runs
from one seed, taken in turn. At 28x28 the naive sampler's time is extrapolated from single passes, one for each position.
"""

import argparse
import statistics
import time

import torch

from benchmarks.harness import Findings, progress
from vaekit.parts.causal import CausalTransformer, GatedPixelCNN, generate

VALUES, IMAGES = 512, 100


def run(argv):
    parser = argparse.ArgumentParser(prog="python -m benchmarks sampling")
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args(argv).rounds
    rows, ratios = [], {}
    for label, make in (
        ("gated PixelCNN 15 x 128", lambda grid: GatedPixelCNN(n_values=VALUES, grid=grid, channels=128, layers=15)),
        ("transformer 4 x 128", lambda grid: CausalTransformer(n_values=VALUES, grid=grid, channels=128, layers=4)),
    ):
        for grid in ((7, 7), (28, 28)):
            torch.manual_seed(0)
            network = make(grid).eval()
            whole = grid == (7, 7)
            pairs, same = [], []
            for turn in range(rounds + 1):  # the first warms up
                cached, ours = timed(lambda network=network: generate(network, IMAGES), turn)
                if whole:
                    naive, theirs = timed(lambda network=network: generate(network, IMAGES, cached=False), turn)
                    same.append((cached == naive).double().mean().item())
                else:
                    codes = cached
                    _, one = timed(lambda network=network, codes=codes: network(codes), turn)
                    theirs = one * grid[0] * grid[1]
                if turn:
                    pairs.append((ours, theirs))
                progress(f"{label} {grid}: cached {ours:.2f} s, naive {theirs:.1f} s")
            ratios[label, grid] = statistics.median(theirs / ours for ours, theirs in pairs)
            rows.append(
                [
                    label,
                    f"{grid[0]}x{grid[1]}",
                    f"{statistics.median(ours for ours, _ in pairs):.2f}",
                    f"{statistics.median(theirs for _, theirs in pairs):.1f}" + ("" if whole else " (extrapolated)"),
                    f"{ratios[label, grid]:.0f}",
                    f"{min(same):.2%}" if whole else "",
                ]
            )
    text = (
        f"Medians of {rounds} pairs, {IMAGES} images. The PixelCNN's ratio at 7x7 is "
        f"{ratios['gated PixelCNN 15 x 128', (7, 7)]:.0f} (claimed: 60). Codes can differ only where a random number falls "
        "between two values to within float32's rounding."
    )
    return Findings(["network", "grid", "cached, s", "naive, s", "times faster", "codes that agree"], rows, text)


@torch.no_grad()
def timed(action, seed):
    torch.manual_seed(seed)
    started = time.perf_counter()
    result = action()
    return result, time.perf_counter() - started
