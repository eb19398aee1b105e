"""Vectors of small pictures are learned by Muon in half the passes: no worse than by Adam in all of them.

scikit-learn's digits (8x8), the 5,000 digits of `mnist-5k`, and the first 1,000 and 20,000 of MNIST, by default VAEs and CVAEs,
and by such with `optimizer="adam"`, whose defaults are Adam's in all else. Claimed: on no set is the mean ELBO of new images
more than a nat lower than Adam's, and on 5,000 digits or more it is at least 50 nats higher. Seconds are of a fit, and upper
bounds where other programs ran beside it.
"""

import argparse
import statistics
import time
from functools import partial

from benchmarks.harness import Findings, mean_std, measured, progress
from vaekit.data import open_data
from vaekit.evaluation.likelihood import evaluate
from vaekit.registry import MODELS

SETS = (("digits", None), ("mnist", 1000), ("mnist-5k", None), ("mnist", 20_000))  # and how many of them, None for all


def run(argv):
    parser = argparse.ArgumentParser(prog="python -m benchmarks small_pictures")
    parser.add_argument("--seeds", type=int, default=3)
    seeds = parser.parse_args(argv).seeds
    rows, ahead = [], {}
    for data, count in SETS:
        train, test = (open_data(data, split=split) for split in ("train", "test"))
        train = train.take(range(count or len(train)))
        for name in ("vae", "cvae"):
            means = {}
            for optimizer in ("adam", None):
                label = f"{name}-{data}-{len(train)}-{optimizer or 'default'}"
                found = [
                    measured(f"small_pictures/{label}-seed{seed}", partial(fitted, name, train, test, optimizer, seed))
                    for seed in range(seeds)
                ]
                means[optimizer] = statistics.fmean(one["elbo"] for one in found)
                rows.append(
                    [
                        MODELS[name].label,
                        f"{data}, {len(train):,}",
                        found[0]["optimizer"],
                        found[0]["epochs"],
                        *(mean_std([one[key] for one in found], form) for key, form in COLUMNS.items()),
                    ]
                )
            ahead[len(train), data, name] = means[None] - means["adam"]
    least = min(ahead.values())
    of_many = min(gain for (n, _, _), gain in ahead.items() if n > 2000)
    text = (
        f"{seeds} seed(s). Muon's mean ELBO is ahead of Adam's by {least:.1f} nats at least (claimed: -1), and by "
        f"{of_many:.1f} at least where there are more than 2,000 images (claimed: 50)."
    )
    return Findings(["model", "images", "optimizer", "epochs", "ELBO, nats", "MSE", "rate, nats", "s"], rows, text)


COLUMNS = {"elbo": ".1f", "mse": ".5f", "rate": ".1f", "seconds": ".0f"}


def fitted(name, train, test, optimizer, seed) -> dict:
    started = time.perf_counter()
    model = MODELS[name].estimator()(optimizer=optimizer, random_state=seed).fit_images(train)
    seconds = time.perf_counter() - started
    fields, found = model.fitted_.fields, evaluate(model.model_, model.fitted_.data(test))
    progress(
        f"{name} on {len(train):,} by {fields['optimizer']}, seed {seed}: ELBO {found['elbo']:.1f}, {seconds:.0f} s"
    )
    kept = {"optimizer": fields["optimizer"], "epochs": fields["epochs"], "seconds": seconds}
    return kept | {key: found[key] for key in ("elbo", "mse", "rate")}
