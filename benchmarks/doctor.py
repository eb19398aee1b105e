"""The doctor on full-size runs: every fault on digits with the default networks, what its own command makes of it, and what
it says of the healthy runs.
"""

import argparse
import shlex

from benchmarks.harness import OUT, Findings, progress
from vaekit.cli import main
from vaekit.data import open_data
from vaekit.files import load
from vaekit.report.doctor import examine

HEALTHY = ("vae", "bvae", "cvae", "vqvae")
FAULTS = {
    "posterior collapse": "bvae --beta 20",
    "dead codes": "vqvae --ema 0.9 --codebook-init uniform --revive 0 --n-codes 512",
    "overfitting": "vae --epochs 400",
    "underfitting": "vae --epochs 3",
    "learning rate": "vae --learning-rate 0.1",
    "likelihood": "vae --likelihood gaussian_fixed",
    "latent dimension": "vae --latent-dim 2",
    "prior": "vae --latent-dim 64",
    "conditioning": "cvae --beta 0.02",
}


def run(argv):
    argparse.ArgumentParser(prog="python -m benchmarks doctor").parse_args(argv)
    rows = []
    for words in HEALTHY:
        wrong = [d for d in diagnoses(train(words)).values() if d.wrong]
        said = "; ".join(f"{d.name}: {d.words} ({d.evidence})" for d in wrong) or "nothing"
        rows.append([f"`{words}`", "healthy", said, "", ""])
        progress(f"{words}: {said}")
    mended = 0
    for check, words in FAULTS.items():
        folder = train(words)
        before = diagnoses(folder)[check]
        cure = shlex.split(before.cure) if before.cure else []
        if cure and cure[1] == "train":
            folder = train(shlex.join(strip(cure[2:])))
        elif cure:
            main(cure[1:])
        after = diagnoses(folder)[check]
        mended += before.wrong and not after.wrong
        shown = shlex.join(strip(cure[2:])) if cure[1:2] == ["train"] else "vaekit fit-prior"
        rows.append(
            [f"`{words}`", check, before.evidence if before.wrong else "NOT FOUND", f"`{shown}`", after.evidence]
        )
        progress(f"{check}: found {before.wrong}, mended {not after.wrong}")
    columns = ["training", "fault", "found, with its evidence", "command that mends it", "evidence afterwards"]
    return Findings(
        columns, rows, f"{mended} of {len(FAULTS)} faults found and mended by the command the doctor gave. One seed."
    )


def train(words):
    """The run folder of a training on digits, from its words on the command line; gone on with where it was interrupted."""
    folder = OUT / "doctor" / words.replace(" ", "_").replace("--", "")
    main(["train", *shlex.split(words), "--data", "digits", "--out", str(folder), "--random-state", "0", "--resume"])
    return folder


def strip(words):
    """A command's words without data, folder and seed, which `train` adds."""
    gone = {
        i
        for flag in ("--data", "--out", "--random-state")
        if flag in words
        for i in (words.index(flag), words.index(flag) + 1)
    }
    return [word for i, word in enumerate(words) if i not in gone]


def diagnoses(folder):
    model = load(folder)
    train_part, test = open_data("digits", "train"), open_data("digits", "test")
    return {found.name: found for found in examine(model.fitted_, train_part, test, folder=str(folder), data="digits")}
