"""Time to the report's quality: vaekit's default network needs at most a twentieth of the time that pythae needs.

The quality is the test value of the report's own loss (1/2 squared error + 0.098 KL; for the VQ-VAE squared error + squared
distances of codes) that its network has after 50 epochs on MNIST, batch 100, Adam at 0.005, trained by pythae; pythae's time is
that to the first epoch with this value. vaekit trains its default network, of no more parameters, on the same loss
(`likelihood="gaussian_fixed"`, whose variance is 0.098, and for the VQ-VAE the report's codes, K=10, D=2, on 7x7), all else as
by default, with the fewest epochs that get there in each of three seeds. Fits are taken in turn with pythae's epochs.
"""

import argparse
import math
import statistics
import time

import torch

from benchmarks._peers import Pythae, as_floats, test_loss, untrained
from benchmarks.harness import Findings, progress
from vaekit.data import open_data
from vaekit.registry import MODELS

EPOCHS, FITS = 50, 3
CODES = {"vae": {}, "vqvae": {"n_codes": 10, "code_dim": 2}}


def run(argv, name="vae"):
    parser = argparse.ArgumentParser(prog="python -m benchmarks quality")
    parser.add_argument("--images", type=int, default=60000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=1, help="epochs that vaekit is tried with first")
    arguments = parser.parse_args(argv)
    train, test = (open_data("mnist", split=split) for split in ("train", "test"))
    train = train.take(range(arguments.images))
    x, held = as_floats(train), as_floats(test)
    module = untrained(name, train, arguments.seed)
    peer, theirs = Pythae(name, module, x), [(math.inf, 0.0)]
    ours = {}  # epochs -> losses and seconds of fits

    def fit(epochs):
        found = ours.setdefault(epochs, [])
        fields = {"likelihood": "gaussian_fixed", "epochs": epochs, "random_state": len(found), **CODES[name]}
        started = time.perf_counter()
        model = MODELS[name].estimator()(**fields).fit_images(train)
        found.append((time.perf_counter() - started, test_loss(model, held)))
        progress(f"{name}: vaekit {found[-1][1]:.3f} after {epochs} epochs, {found[-1][0]:.1f} s")
        return model

    for epoch in range(EPOCHS):
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(arguments.seed + epoch))
        started = time.perf_counter()
        peer.epoch(order)
        seconds = time.perf_counter() - started
        theirs.append((peer.test_loss(held), theirs[-1][1] + seconds))
        progress(f"{name}: pythae {theirs[-1][0]:.3f} after {epoch + 1} epochs, {theirs[-1][1]:.0f} s")
        if (epoch + 1) % (EPOCHS // (FITS + 1)) == 0 and len(ours.get(arguments.first, ())) < FITS:
            model = fit(arguments.first)
    target = theirs[-1][0]
    reached = next(epoch for epoch, (loss, _) in enumerate(theirs) if loss <= target)
    epochs = arguments.first
    while max(loss for _, loss in ours[epochs]) > target:
        epochs += 1
        for _ in range(FITS):
            model = fit(epochs)
    seconds = statistics.median(seconds for seconds, _ in ours[epochs])
    losses = [loss for _, loss in ours[epochs]]
    row = [
        MODELS[name].label,
        f"{target:.2f}",
        f"{module.n_parameters:,}",
        reached,
        f"{theirs[reached][1]:.0f}",
        f"{model.n_parameters_:,}",
        epochs,
        f"{seconds:.1f}",
        f"{statistics.fmean(losses):.2f} (worst {max(losses):.2f})",
        f"{theirs[reached][1] / seconds:.1f}",
    ]
    columns = [
        "model",
        f"pythae's loss after {EPOCHS} epochs",
        "parameters",
        "its epochs to it",
        "s",
        "vaekit's parameters",
        "epochs",
        "s (median)",
        "loss",
        "times faster",
    ]
    text = (
        "Seconds are of training alone: pythae's without its evaluations, vaekit's of whole fits, of which there are "
        f"{FITS}, each of another seed; {torch.get_num_threads()} threads. Claimed: 20 times faster. Losses are "
        "of one draw per test image."
    )
    return Findings(columns, [row], text)
