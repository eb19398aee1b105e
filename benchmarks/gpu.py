"""A graphics card finds what the CPU finds, in one call of at most nine minutes: and how fast?

In order: models trained on the card and looked at by the CPU; the tests that need one; the report's VAE, 50 epochs of MNIST in
batches of 100, as by default, in bfloat16 and compiled (steps captured as graphs); the time to 7.37, the test loss that pythae
reaches in 20 epochs (`quality`); the lookup of codes by product and by the Triton kernel; cached sampling. Beside them the
card's ceilings: a copy in its memory and products of large matrices. A part that fails says why, and the others go on; what
the time is not enough for is left out.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks._peers import as_floats, test_loss
from benchmarks.harness import Findings, progress
from vaekit import load
from vaekit.data import Images, open_data
from vaekit.messages import first_line
from vaekit.parts.causal import GatedPixelCNN, generate
from vaekit.parts.quantizers import nearest_code
from vaekit.registry import MODELS
from vaekit.tensors import total

TARGET = 7.37  # pythae's test loss after 20 epochs
MINUTES = 9.0


class Card:
    """The device, its clock, and the rows of what was found on it."""

    def __init__(self, name: str, minutes: float):
        self.device, self.rows = torch.device(name), []
        self.end = time.monotonic() + 60 * minutes

    def wait(self) -> None:
        """Until it has done what it was told."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], object]) -> float:
        """Of one call, everything on the device included."""
        self.wait()
        started = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - started

    def repeated(self, work: Callable[[], object], times: int = 10) -> float:
        """Seconds of a call, after one that is not counted."""
        work()
        return self.seconds(lambda: [work() for _ in range(times)]) / times

    def say(self, part: str, what: str, value: object) -> None:
        self.rows.append([part, what, value])
        progress(f"{part}: {what}: {value}")

    def does(self, part: str, work: Callable[[], None]) -> None:
        """One of the parts, unless the time is over."""
        if time.monotonic() > self.end:
            self.say(part, "left out", "the time was over")
            return
        try:
            work()
        except Exception as error:
            self.say(part, "failed", f"{type(error).__name__}: {first_line(error)}")

    def say_memory(self, part: str, what: str) -> None:
        """MiB at most since it was last asked."""
        if self.device.type == "cuda":
            self.say(part, f"{what}memory, MiB", round(torch.cuda.max_memory_allocated() / 2**20))
            torch.cuda.reset_peak_memory_stats()


def run(argv):
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu")
    parser.add_argument("--device", default="cuda", help="cpu rehearses what a card is asked")
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--images", type=int, default=60000)
    parser.add_argument("--epochs", type=int, default=50, help="of the report's VAE")
    asked = parser.parse_args(argv)
    card = Card(asked.device, asked.minutes)
    train, test = open_data("mnist", "train").take(range(asked.images)), open_data("mnist", "test")
    card.does("ceilings", lambda: ceilings(card))
    card.does("agreement", lambda: agreement(card, train, test))
    card.does("tests", lambda: tests(card))
    for label, fields in (("float32", {}), ("bfloat16", {"precision": "bfloat16"}), ("captured", {"compile": True})):
        card.does(
            f"training, {label}", lambda label=label, fields=fields: training(card, label, fields, train, test, asked)
        )
    card.does("quality", lambda: quality(card, train, test))
    card.does("lookup", lambda: lookup(card))
    card.does("sampling", lambda: sampling(card))
    name = torch.cuda.get_device_name() if card.device.type == "cuda" else "the CPU"
    failed = [row[0] for row in card.rows if row[1] == "failed"]
    text = (
        f"On {name}; {len(train):,} images, {asked.epochs} epochs of the report's VAE (aimed at: 50 epochs in 5 s). "
        + (f"Failed: {', '.join(failed)}." if failed else "No part failed.")
    )
    return Findings(["part", "what", "value"], card.rows, text)


def ceilings(card: Card) -> None:
    """What the card can do at most, of which the rest is a share."""
    side = 8192 if card.device.type == "cuda" else 512
    a = torch.randn(side, side, device=card.device)
    card.say("ceilings", "copy, GB/s", round(2 * a.nbytes / card.repeated(a.clone) / 1e9, 1))
    for dtype in (torch.float32, torch.bfloat16):
        b = a.to(dtype)
        flops = 2 * side**3 / card.repeated(lambda b=b: b @ b)
        card.say("ceilings", f"product in {str(dtype).removeprefix('torch.')}, TFLOP/s", round(flops / 1e12, 2))


def agreement(card: Card, train: Images, test: Images) -> None:
    """Trains each model a little on the card; the CPU then makes the same of new images, from the folder it was saved in."""
    few, new = train.take(range(min(len(train), 2560))), test.take(range(256))
    for model in MODELS.values():
        with tempfile.TemporaryDirectory() as folder:
            fields = {"epochs": 2, "random_state": 0, "device": str(card.device)}
            there = model.estimator()(**fields).fit_images(few, folder=str(Path(folder, "run")))
            here = load(Path(folder, "run"))
            here.fitted_.module.to("cpu")
        labels = (new.y,) if there.conditional else ()
        ours, theirs = (found.reconstruct(new.x, *labels).astype(float) for found in (there, here))
        apart = np.abs(ours - theirs)
        card.say("agreement", f"{model.label}: reconstructions of card and CPU, of 255", f"at most {apart.max():.0f}")
        fall = there.history_[0]["objective"] - there.history_[-1]["objective"]
        card.say("agreement", f"{model.label}: fall of the objective in the second epoch, nats", round(fall, 2))


def tests(card: Card) -> None:
    """Those of the suite that a card is needed for."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests", "-k", "on_a_gpu"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    card.say("tests", "those of a GPU", ended.stdout.strip().splitlines()[-1])


def training(card: Card, label: str, fields: dict, train: Images, test: Images, asked) -> None:
    """The report's VAE at the report's batch and rate."""
    part = f"training, {label}"
    model = MODELS["vae"].estimator()(
        architecture="wang2023",
        epochs=asked.epochs,
        random_state=0,
        device=str(card.device),
        **{"compile": False, **fields},
    )
    seconds = card.seconds(lambda: model.fit_images(train))
    first, steps = model.history_[0]["seconds"], [record["seconds"] for record in model.history_[1:]] or [np.nan]
    card.say(part, f"{asked.epochs} epochs, s", round(seconds, 2))
    card.say(part, "first epoch, s", round(first, 2))
    card.say(part, "images/s after it", round(len(train) / float(np.median(steps))))
    card.say_memory(part, "")
    model.fitted_.module.to("cpu")
    card.say(part, "test loss", round(test_loss(model, as_floats(test)), 3))
    with FlopCounterMode(display=False) as counted:
        x = as_floats(test)[:100].requires_grad_()
        total(model.filled_in().make_objective(1)(model.model_.train()(x), 0)).backward()
    rate = counted.get_total_flops() / 100 * len(train) / float(np.median(steps))
    card.say(part, "TFLOP/s of its products", round(rate / 1e12, 3))


def quality(card: Card, train: Images, test: Images) -> None:
    """The fewest epochs of the default VAE that reach the target, and what they take."""
    for epochs in range(1, 8):
        fields = {"likelihood": "gaussian_fixed", "epochs": epochs, "random_state": 0, "device": str(card.device)}
        model = MODELS["vae"].estimator()(**fields)
        seconds = card.seconds(lambda model=model: model.fit_images(train))
        model.fitted_.module.to("cpu")
        if (loss := test_loss(model, as_floats(test))) <= TARGET:
            break
        if time.monotonic() > card.end:
            break
    card.say("quality", f"epochs to a test loss of {TARGET}", f"{epochs} ({loss:.2f})")
    card.say("quality", "s", round(seconds, 2))


def lookup(card: Card) -> None:
    """The nearest of 512 and 4,096 codes, by chunks of products and by the kernel, which is asked for."""
    if "VAEKIT_TRITON" in os.environ:
        raise ValueError("the kernel is measured beside the product: unset VAEKIT_TRITON")
    n = 1_000_000 if card.device.type == "cuda" else 10_000
    for k in (512, 4096):
        vectors, codes = torch.randn(n, 64, device=card.device), torch.randn(k, 64, device=card.device)
        product = card.repeated(lambda vectors=vectors, codes=codes: vectors @ codes.T, 3)
        plain = card.repeated(lambda vectors=vectors, codes=codes: nearest_code(vectors, codes), 3)
        card.say("lookup", f"K = {k}: by product, times the product alone", round(plain / product, 2))
        if card.device.type == "cuda" and importlib.util.find_spec("triton"):
            from vaekit.parts.nearest import nearest_code_by_kernel

            kernel = card.repeated(lambda v=vectors, c=codes: nearest_code_by_kernel(v, c), 3)
            card.say("lookup", f"K = {k}: by kernel, times the product alone", round(kernel / product, 2))
            differ = (nearest_code_by_kernel(vectors, codes) != nearest_code(vectors, codes)).sum().item()
            card.say("lookup", f"K = {k}: indices that differ", differ)
        card.say_memory("lookup", f"K = {k}: ")


def sampling(card: Card) -> None:
    """100 grids of codes by the report's PixelCNN, each position once."""
    for grid in ((7, 7), (28, 28)) if card.device.type == "cuda" else ((7, 7),):
        network = GatedPixelCNN(n_values=512, grid=grid, channels=128, layers=15).to(card.device).eval()
        seconds = card.seconds(lambda network=network: generate(network, 100, None))
        card.say("sampling", f"100 grids of {grid[0]}x{grid[1]}, s", round(seconds, 2))
