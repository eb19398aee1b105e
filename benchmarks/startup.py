"""`vaekit --help` takes at most 3 times as long as an interpreter that imports numpy; `import vaekit` imports nothing heavy.

Processes of their own, taken in turn, each from its start to its end, with the files in the system's cache. Heavy are torch,
scikit-learn, scipy and matplotlib.
"""

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.harness import Findings, interleave, median_ratio

BARE = 'python -c "import numpy"'
COMMANDS = {
    BARE: ["-c", "import numpy"],
    'python -c "import vaekit"': ["-c", "import vaekit"],
    "vaekit --version": ["-m", "vaekit", "--version"],
    "vaekit --help": ["-m", "vaekit", "--help"],
    "vaekit train --help": ["-m", "vaekit", "train", "--help"],
    "vaekit train vae --help": ["-m", "vaekit", "train", "vae", "--help"],
}
HEAVY = ("torch", "sklearn", "scipy", "matplotlib")


def run(argv):
    parser = argparse.ArgumentParser(prog="python -m benchmarks startup")
    parser.add_argument("--rounds", type=int, default=11)
    rounds = parser.parse_args(argv).rounds
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
    text = (
        f"Medians of {rounds} rounds. `vaekit --help` takes {ratio:.2f} times as long as an interpreter that imports numpy "
        f"(claimed: at most 3). `import vaekit` imports {' and '.join(heavy) or 'nothing heavy'}."
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
