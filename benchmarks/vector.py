"""What limits one vector of latents on people's pictures: its width, the number of pictures, or the time?

The icons of `icons`, as there; a VAE by default, and the same with one thing changed: its width, the pictures that it learns
from (a random quarter, in as many steps), the epochs, augmentation. A grid of latents stands below, by its defaults.
"""

import argparse

import numpy as np

from benchmarks.harness import Findings, progress, trained
from benchmarks.icons import PLACE, open_icons, seams
from vaekit.evaluation.likelihood import evaluate
from vaekit.messages import filled

WIDTHS, PART, CHANGES = (16, 64, 256), 4, "shift,flip,colour"


def run(argv):
    parser = argparse.ArgumentParser(prog="python -m benchmarks vector")
    parser.add_argument("--icons", default=PLACE, help="the package's folder of sizes")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(argv)
    train, test = open_icons(asked.icons)
    kept = np.random.default_rng(0).permutation(len(train))
    rows = []

    def row(label: str, folder: str, part: int = 1, **fields) -> dict:
        some = train.take(np.sort(kept[: len(train) // part]))
        model = trained(f"{folder}-seed{asked.seed}", "vae", some, random_state=asked.seed, **fields)
        module = model.with_prior("plain")  # `pictures` has fitted others
        ours, theirs = (evaluate(module, model.fitted_.data(images)) for images in (some, test))
        seconds = sum(record["seconds"] for record in model.history_)
        rows.append(
            [
                label,
                f"{theirs['mse']:.5f}",
                f"{ours['mse']:.5f}",
                f"{theirs['elbo']:,.0f}",
                f"{ours['elbo']:,.0f}",
                f"{theirs['rate']:.0f}",
                f"{seams(model.reconstruct(test.x)):.3f}",
                f"{seconds:.0f}",
            ]
        )
        progress(f"{label}: MSE {theirs['mse']:.5f}, {seconds:.0f} s")
        return model.fitted_.fields

    default = row("the default", "pictures/vector")  # which `pictures` trains, too
    for latents in WIDTHS:
        how = {"latent_dim": latents, "width": default["width"]}  # which the number of latents would decide
        row(f"{latents} latents, not {default['latent_dim']}", f"vector/latents-{latents}", **how)
    epochs, batch_size = filled(default["epochs"]), default["batch_size"]
    row(f"1/{PART} of the pictures", f"vector/part-{PART}", PART, epochs=PART * epochs, batch_size=batch_size)
    row("half the epochs", "vector/half", epochs=epochs // 2)
    row(f"augmented by {CHANGES}", "vector/augmented", augment=CHANGES)
    row("a grid of latents", "pictures/grid", grid=True)
    row(f"a grid, augmented by {CHANGES}", "vector/grid-augmented", grid=True, augment=CHANGES)
    text = (
        f"{len(train):,} icons to train on, {len(test):,} held out; seed {asked.seed}; the training icons are measured as they "
        f"are. Where training and held-out icons part, it is pictures that are too few, which width does not make up for."
    )
    columns = ["VAE", "MSE, held out", "MSE, training", "ELBO, held out", "ELBO, training", "rate, nats", "seams", "s"]
    return Findings(columns, rows, text)
