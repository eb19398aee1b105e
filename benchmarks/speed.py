"""An epoch of vaekit's default networks takes no longer than the report's networks, whose 10 epochs buy 11 of ours.

Training steps of the eight models on random 28x28 images in memory, interleaved, at each model's own batch size; per image.
"""

import argparse
import statistics

import numpy as np

from benchmarks.harness import Findings, interleave, median_ratio
from vaekit.registry import MODELS

IMAGES = 6400  # a whole number of batches of 100 and of 128
EPOCH = 60000


def run(argv):
    parser = argparse.ArgumentParser(prog="python -m benchmarks speed")
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args(argv).rounds
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (IMAGES, 28, 28), dtype=np.uint8), rng.integers(0, 10, IMAGES)

    def action(name, architecture):
        return lambda: MODELS[name].estimator()(architecture=architecture, epochs=1, random_state=0).fit(x, y)

    names = [(name, architecture) for name in MODELS for architecture in (None, "wang2023")]
    seconds = interleave({key: action(*key) for key in names}, rounds)
    rows = [
        [
            MODELS[name].label,
            *(f"{statistics.median(seconds[name, a]) / IMAGES * EPOCH:.1f}" for a in (None, "wang2023")),
            f"{1.1 * median_ratio(seconds[name, None], seconds[name, 'wang2023']):.2f}",
        ]
        for name in MODELS
    ]
    vq_to_vae = median_ratio(seconds["vqvae", "wang2023"], seconds["vae", "wang2023"])
    text = (
        f"Medians of {rounds} interleaved rounds; a ratio of 1 or less holds the claim. Seconds are of whole fits, network "
        f"making and k-means included. An epoch of the report's VQ-VAE takes {vq_to_vae:.1f} times as long as its VAE's."
    )
    columns = [
        "model",
        "default, s / 60,000 images",
        "wang2023, s / 60,000 images",
        "11 epochs of ours / 10 of wang2023",
    ]
    return Findings(columns, rows, text)
