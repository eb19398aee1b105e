"""Whether memory stays flat from ten thousand to a million images that are encoded in shards.

`vaekit encode --shards parquet` of a default convolutional VAE, in processes of one thread, on a .npy file of MNIST's training
images again and again, each with noise of its own. Memory is what all processes of the command hold together and share with no
file (RssAnon of /proc, looked at twenty times a second), at most: the pages of a mapped file, which the system takes back when
it needs them, are not among it.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.harness import OUT, Findings
from vaekit import VAE, open_data
from vaekit.files import load

CHUNK = 10_000


def run(argv):
    parser = argparse.ArgumentParser(prog="python -m benchmarks shards")
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args(argv)
    train, folder = open_data("mnist", "train"), OUT / "shards" / "vae"
    if not folder.exists():
        VAE(epochs=1, random_state=0, device="cpu").fit_images(train.take(np.arange(6000)), folder=str(folder))
    rows = []
    with tempfile.TemporaryDirectory() as home:
        for n in options.images:
            data = write_images(Path(home) / f"{n}.npy", train.x[..., 0], n)
            for jobs in options.jobs:
                out = Path(home) / f"{n}-{jobs}"
                command = ["encode", str(folder), "--data", str(data), "--split", "all", "--out", str(out)]
                seconds, peak = watched([*command, "--shards", "parquet", "--shard-size", "5000", "--jobs", str(jobs)])
                size = sum(file.stat().st_size for file in out.glob("shard-*")) / 2**20
                shards = len(list(out.glob("shard-*")))
                rows.append(
                    [f"{n:,}", jobs, shards, round(seconds, 1), f"{n / seconds:,.0f}", round(peak), round(size, 1)]
                )
            data.unlink()
    columns = ["images", "processes", "shards", "s", "images/s", "memory, MiB at most", "written, MiB"]
    parameters = load(folder).n_parameters_
    growth = [
        f"{last[5] / first[5]:.2f} times with {jobs} process(es)"
        for jobs in options.jobs
        for first, *_, last in [[row for row in rows if row[1] == jobs]]
    ]
    text = (
        f"A VAE of {parameters:,} parameters. From {rows[0][0]} to {rows[-1][0]} images memory is {', '.join(growth)}. Seconds "
        "are of the whole command: it imports, reads the file once for its fingerprint, and encodes."
    )
    return Findings(columns, rows, text)


def write_images(path: Path, x: np.ndarray, n: int) -> Path:
    """n images of 28 by 28 in a .npy file, no two of them alike."""
    file = np.lib.format.open_memmap(path, "w+", np.uint8, (n, *x.shape[1:]))
    rng = np.random.default_rng(0)
    for start in range(0, n, CHUNK):
        index = np.arange(start, min(n, start + CHUNK)) % len(x)
        file[start : start + CHUNK] = x[index] ^ rng.integers(0, 8, (len(index), *x.shape[1:]), np.uint8)
    file.flush()
    return path


def watched(arguments: list[str]) -> tuple[float, float]:
    """Seconds that the command line takes, and the most memory of its own that all its processes hold, in MiB."""
    started, peak = time.monotonic(), 0.0
    with subprocess.Popen([sys.executable, "-m", "vaekit", *arguments], env=one_thread()) as process:
        while process.poll() is None:
            peak = max(peak, sum(map(anonymous, [process.pid, *children_of(process.pid)])))
            time.sleep(0.05)
    if process.returncode:
        raise RuntimeError(f"exit code {process.returncode} of {arguments}")
    return time.monotonic() - started, peak


def one_thread() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"}


def children_of(pid: int) -> list[int]:
    """And theirs."""
    try:
        found = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []
    return found + [grandchild for child in found for grandchild in children_of(child)]


def anonymous(pid: int) -> float:
    """RssAnon of a process, in MiB; 0 of one that has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return sum(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))
