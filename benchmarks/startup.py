"""`vaekit --help` takes at most 3 times as long as an interpreter that imports numpy; `import vaekit` imports nothing heavy.

Processes of their own, taken in turn, each from its start to its end, with the files in the system's cache. Heavy are torch and
its compiler, scikit-learn, scipy and matplotlib. `vaekit sample` draws 16 digits by a VAE and its mixture, and writes a
picture: at most 3 seconds, and no compiler.
"""

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.harness import OUT, Findings, interleave, median_ratio, trained
from vaekit.data import open_data
from vaekit.training.settings import PriorSettings

BARE = 'python -c "import numpy"'
COMMANDS = {
    BARE: ["-c", "import numpy"],
    'python -c "import vaekit"': ["-c", "import vaekit"],
    "vaekit --version": ["-m", "vaekit", "--version"],
    "vaekit --help": ["-m", "vaekit", "--help"],
    "vaekit train --help": ["-m", "vaekit", "train", "--help"],
    "vaekit train vae --help": ["-m", "vaekit", "train", "vae", "--help"],
    'python -c "import torch, sklearn.base"': ["-c", "import torch, sklearn.base"],
    "vaekit sample RUN --n 16 --out PICTURE": [
        *("-m", "vaekit", "sample", str(OUT / "startup" / "run"), "--n", "16"),
        *("--out", str(OUT / "startup" / "samples.png"), "--overwrite"),
    ],
}
HEAVY = ("torch", "torch._dynamo", "sklearn", "scipy", "matplotlib")


def run(argv):
    parser = argparse.ArgumentParser(prog="python -m benchmarks startup")
    parser.add_argument("--rounds", type=int, default=11)
    rounds = parser.parse_args(argv).rounds
    digits = open_data("digits", "train")
    model = trained("startup/run", "vae", digits, epochs=1, random_state=0)
    if not model.has_prior:
        model.fit_prior_images(digits, PriorSettings(), folder=str(OUT / "startup" / "run"))
    actions: dict[str, Callable[[], Any]] = {name: partial(finished, words) for name, words in COMMANDS.items()}
    seconds = interleave(actions, rounds)
    rows = [
        [
            name,
            f"{statistics.median(taken):.3f}",
            f"{median_ratio(taken, seconds[BARE]):.2f}",
            ", ".join(imported(COMMANDS[name])) or "none",
        ]
        for name, taken in seconds.items()
    ]
    ratio = median_ratio(seconds["vaekit --help"], seconds[BARE])
    heavy = imported(COMMANDS['python -c "import vaekit"'])
    sampling = statistics.median(seconds["vaekit sample RUN --n 16 --out PICTURE"])
    text = (
        f"Medians of {rounds} rounds. `vaekit --help` takes {ratio:.2f} times as long as an interpreter that imports numpy "
        f"(claimed: at most 3). `import vaekit` imports {' and '.join(heavy) or 'nothing heavy'}. `vaekit "
        f"sample` takes {sampling:.1f} s (asked: 3)."
    )
    return Findings(["command", "seconds", "times numpy's", "heavy libraries imported"], rows, text)


def finished(arguments: list[str]) -> str:
    """What the interpreter said on standard error; raises CalledProcessError where it failed."""
    command = [sys.executable, *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True).stderr


def imported(arguments: list[str]) -> list[str]:
    """Which of HEAVY the interpreter imports with these arguments."""
    names = {line.rpartition("|")[2].strip() for line in finished(["-X", "importtime", *arguments]).splitlines()}
    return [name for name in HEAVY if name in names]
