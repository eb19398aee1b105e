"""Processes that train one model together, each in a process group of its own, with a limit in time."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

LIMIT = 300  # seconds


class Ranks:
    """`count` processes of `arguments`, one thread each, which meet on this machine."""

    def __init__(self, count: int, arguments: list[str]):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = str(free.getsockname()[1])
        place = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": str(count), "OMP_NUM_THREADS": "1"}
        self.processes = [
            subprocess.Popen(
                [sys.executable, *arguments],
                env=os.environ | place | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            for rank in range(count)
        ]

    def end(self) -> list[tuple[int, str]]:
        """Exit code and errors of each; RuntimeError where one is not done in time."""

        def one(process: subprocess.Popen) -> tuple[int, str]:
            try:
                _, said = process.communicate(timeout=LIMIT)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                raise RuntimeError(f"a rank has not ended within {LIMIT} s") from None
            return process.returncode, said

        with ThreadPoolExecutor() as threads:
            return list(threads.map(one, self.processes))


def train_together(count: int, out: Path, arguments: list[str]) -> None:
    """`vaekit train` in so many processes; RuntimeError where one of them fails."""
    for code, said in Ranks(count, ["-m", "vaekit", "train", *arguments, "--out", str(out)]).end():
        if code:
            raise RuntimeError(f"exit code {code}: {said[-500:]}")
