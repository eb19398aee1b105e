"""A training by two processes that is killed at any moment, one of them or both, ends as the unbroken one, bit for bit.

A VQ-VAE on scikit-learn's digits, with a checkpoint at every look. At a moment drawn uniformly over an unbroken training the
first rank, the other one, or both get kill -9; those that are left must end by themselves, and the same command with --resume
goes on, until it comes to its end.
"""

import argparse
import os
import random
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import torch
from safetensors.torch import load_file

from benchmarks._ranks import SLOWLY, Ranks
from benchmarks.harness import OUT, Findings

WHOM = {"the first": [0], "the other": [1], "both": [0, 1]}


def run(argv):
    parser = argparse.ArgumentParser(prog="python -m benchmarks ranks_killed")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    draw, home = random.Random(options.seed), OUT / "ranks_killed"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    started = time.monotonic()
    assert all(ended.code == 0 for ended in Ranks(*[command(home / "unbroken")] * 2).end())
    took = time.monotonic() - started
    expected = load_file(home / "unbroken" / "weights.safetensors")
    found = {whom: Counter() for whom in WHOM}
    kills = runs = 0
    while kills < options.kills:
        out, runs = home / f"run{runs}", runs + 1
        while not (out / "weights.safetensors").exists():
            ranks, whom = Ranks(*[command(out)] * 2), draw.choice(list(WHOM)) if kills < options.kills else None
            if whom:
                time.sleep(draw.uniform(0, took))
                killed = [rank for rank in WHOM[whom] if ranks.processes[rank].poll() is None]
                for rank in killed:
                    os.kill(ranks.processes[rank].pid, signal.SIGKILL)
                moment = time.monotonic()
                codes = [ended.code for ended in ranks.end()]
                if killed:
                    kills += 1
                    found[whom]["kills"] += 1
                    found[whom]["longest"] = max(found[whom]["longest"], time.monotonic() - moment)
                    found[whom]["others ended"] += all(code in (0, 1, -signal.SIGKILL) for code in codes)
            else:
                assert all(ended.code == 0 for ended in ranks.end())
        same = all(torch.equal(value, expected[name]) for name, value in load_file(out / "weights.safetensors").items())
        assert same and not left_over(out), out
    columns = [
        "killed",
        "times",
        "the rest ended by itself",
        "longest until then, s",
        "runs that differ from the unbroken one",
    ]
    rows = [[whom, each["kills"], each["others ended"], round(each["longest"], 1), 0] for whom, each in found.items()]
    return Findings(
        columns, rows, f"{runs} runs were killed {kills} times; each ended bit for bit as the unbroken one."
    )


def command(out: Path) -> list[str]:
    flags = f"--data digits --out {out} --resume --epochs 4 --batch-size 64 --n-codes 16 --random-state 0"
    return ["-c", SLOWLY, "0.05", "train", "vqvae", *flags.split(), "--architecture", "mlp", "--device", "cpu"]


def left_over(out: Path) -> list[str]:
    """What a finished run has no use for."""
    return [file.name for file in out.iterdir() if file.name.startswith("checkpoint") or file.suffix == ".tmp"]
