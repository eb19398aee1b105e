"""Processes that train one model together, each in a process group of its own, with a limit in time."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

# The command line with a checkpoint at every look, and steps that take so many seconds more, as a larger model's would.
SLOWLY = """
import sys, time
from vaekit.training import loop, step
loop.CHECKPOINT_SECONDS, loop.CHECK_EVERY = 0.0, 5
plain = step.Step.__call__
def slow(self, *given):
    time.sleep(float(sys.argv[1]))
    return plain(self, *given)
step.Step.__call__ = slow
from vaekit.cli import main
main(sys.argv[2:])
"""


class Ended(NamedTuple):
    """How a process ended, and what it had to say."""

    code: int
    out: str
    err: str


class Ranks:
    """A process for each of `arguments`, what Python is given in it, of one thread; they meet on this machine."""

    def __init__(self, *arguments: list[str]):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = str(free.getsockname()[1])
        place = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": str(len(arguments))}
        self.processes = [
            subprocess.Popen(
                [sys.executable, *given],
                env=os.environ | place | {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            for rank, given in enumerate(arguments)
        ]

    def end(self, limit: float = 300) -> list[Ended]:
        """Of each; TimeoutError, and all killed, where one is not done in `limit` seconds."""

        def one(process: subprocess.Popen) -> Ended:
            try:
                out, err = process.communicate(timeout=limit)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise TimeoutError(f"a rank has not ended within {limit} s: {process.communicate()}") from None
            return Ended(process.returncode, out, err)

        with ThreadPoolExecutor() as threads:
            return list(threads.map(one, self.processes))


def train_together(count: int, out: Path, arguments: list[str]) -> None:
    """`vaekit train` in so many processes; RuntimeError where one of them fails."""
    for ended in Ranks(*[["-m", "vaekit", "train", *arguments, "--out", str(out)]] * count).end():
        if ended.code:
            raise RuntimeError(f"exit code {ended.code}: {ended.err[-500:]}")
