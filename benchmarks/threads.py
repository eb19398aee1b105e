"""Beside other programs a training takes at most 1.3 times what one thread takes; on a quiet machine no more than all of them.

The default VAE on random 28x28 images, and its codes of more of them: on one thread, on all, and on the number that vaekit
chooses, in turn; first with nothing else on the machine, then with a process for each core that does nothing but count.
"""

import argparse
import multiprocessing
import os
import statistics
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from benchmarks.harness import Findings, interleave, median_ratio, progress
from vaekit import VAE, threads

IMAGES, EPOCHS, ENCODED = 6400, 3, 60_000
FORMS = ("one thread", "all threads", "chosen")


def count() -> None:
    """Never ends."""
    while True:
        pass


@contextmanager
def company(processes: int) -> Iterator[None]:
    """So many processes that want a core each."""
    others = [multiprocessing.get_context("spawn").Process(target=count, daemon=True) for _ in range(processes)]
    for other in others:
        other.start()
    try:
        yield
    finally:
        for other in others:
            other.kill()


@contextmanager
def told(form: str) -> Iterator[None]:
    """The number of threads of `form`, as a user says it; what is chosen nobody says."""
    before = torch.get_num_threads()
    if form == "one thread":
        torch.set_num_threads(1)
    elif form == "all threads":
        os.environ["OMP_NUM_THREADS"] = str(before)
    try:
        yield
    finally:
        os.environ.pop("OMP_NUM_THREADS", None)
        torch.set_num_threads(before)


def run(argv):
    parser = argparse.ArgumentParser(prog="python -m benchmarks threads")
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args(argv).rounds
    if "OMP_NUM_THREADS" in os.environ:
        raise ValueError("OMP_NUM_THREADS says how many threads: unset it, so that there is a choice")
    x = np.random.default_rng(0).integers(0, 256, (IMAGES, 28, 28, 1), dtype=np.uint8)
    many = np.resize(x, (ENCODED, 28, 28, 1))
    fitted = VAE(epochs=1, random_state=0).fit(x[:256])
    chosen = []

    def train(form):
        with told(form):
            model = VAE(epochs=EPOCHS, compile=False, random_state=0).fit(x)
        if form == "chosen":
            chosen.append(model.fitted_.facts["threads"])

    def encode(form):
        with told(form):
            fitted.transform(many)

    rows, said = [], []
    for machine, others in (("quiet", 0), ("busy", threads.cores())):
        with company(others):
            for label, work in ((f"{EPOCHS} epochs of {IMAGES:,}", train), (f"codes of {ENCODED:,}", encode)):
                chosen.clear()
                seconds = interleave({form: lambda form=form, work=work: work(form) for form in FORMS}, rounds)
                against = {form: median_ratio(seconds["chosen"], seconds[form]) for form in FORMS[:2]}
                rows.append(
                    [machine, label]
                    + [f"{statistics.median(seconds[form]):.1f}" for form in FORMS]
                    + [f"{against[form]:.2f}" for form in FORMS[:2]]
                    + [", ".join(map(str, chosen))]
                )
                progress(" | ".join(rows[-1]))
                said.append(
                    f"{machine}, {label}: {against['one thread']:.2f} of one thread's, {against['all threads']:.2f} of all"
                )
    text = (
        f"Medians of {rounds} rounds after one that is not counted, {threads.cores()} cores. Time of what is chosen: "
        f"{'; '.join(said)}. Claimed: at most 1.3 of one thread's beside others, and of all threads' on a quiet machine 1."
    )
    columns = ["machine", "work", *(f"{form}, s" for form in FORMS), "chosen / one", "chosen / all", "threads chosen"]
    return Findings(columns, rows, text)
