"""A folder of colour JPEGs trains in one command, and a set larger than memory takes no more private memory than a small one.

32x32 cuttings of scikit-learn's two sample photographs, flipped and recoloured, in ten class folders: `vaekit train vae --data
FOLDER` in a process of its own, with an empty cache and then with a filled one; first of few images, then of ten times as many.
Private memory is the peak of Linux's RssAnon, looked at 50 times a second, torch and its libraries included.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.harness import Findings, progress
from vaekit.data.cache import cache_dir, decoded, files_key
from vaekit.data.decoding import Decoding
from vaekit.data.kinds import list_images

CLASSES = 10
SIDE = 32


def run(argv):
    parser = argparse.ArgumentParser(prog="python -m benchmarks photos")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument(
        "--more", type=int, default=None, help="images of the larger set; ten times --images by default"
    )
    parser.add_argument("--seconds", type=float, default=30.0, help="that each training may take")
    options = parser.parse_args(argv)
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["VAEKIT_CACHE"] = str(Path(temporary) / "cache")
        for count in (options.images, options.more or 10 * options.images):
            folder = Path(temporary) / "photos"
            make_photos(folder, count)
            progress(f"{count} images made")
            rate = decoding_rate(folder)
            shutil.rmtree(cache_dir() / "images")
            for cache in ("empty", "filled"):
                command = [
                    "vaekit",
                    "train",
                    "vae",
                    "--data",
                    str(folder),
                    "--out",
                    str(Path(temporary) / "run" / cache),
                ]
                rows.append([count, cache, *measured(command, options.seconds), rate if cache == "empty" else ""])
                progress(str(rows[-1]))
            shutil.rmtree(folder)
            shutil.rmtree(Path(temporary) / "run")
            shutil.rmtree(cache_dir() / "images")
    worst, pixels = max(row[4] for row in rows), rows[-1][0] * 3 * SIDE**2 / 2**20
    text = (
        f"At most {worst:,.0f} MB of private memory for up to {rows[-1][0]:,} images, which are {pixels:,.0f} MB of pixels. Of "
        f"{rows[0][0]:,} images the first step comes {rows[0][2]:.1f} s after the command with an empty cache, and "
        f"{rows[1][2]:.1f} s after it when they have been decoded; importing torch and scikit-learn is part of that."
    )
    columns = ["images", "cache", "s to first step", "peak resident, MB", "peak private, MB", "decoded / s"]
    return Findings(columns, rows, text)


def make_photos(folder: Path, count: int) -> None:
    """`count` JPEGs of 32x32 pixels in ten class folders: a class is a photograph and one of five recolourings."""
    from sklearn.datasets import load_sample_images

    photographs, rng = load_sample_images().images, np.random.default_rng(0)
    orders = [(0, 1, 2), (1, 2, 0), (2, 0, 1), (0, 2, 1), (2, 1, 0)]
    for i in range(count):
        kind = i % CLASSES
        photograph = photographs[kind % 2]
        size = int(rng.integers(SIDE, 4 * SIDE))
        top, left = (int(rng.integers(0, length - size)) for length in photograph.shape[:2])
        cutting = Image.fromarray(photograph[top : top + size, left : left + size][..., orders[kind // 2]])
        if rng.random() < 0.5:
            cutting = cutting.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        path = folder / f"class{kind}" / f"{i:07}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        cutting.resize((SIDE, SIDE), Image.Resampling.BILINEAR).save(path, quality=90)


def decoding_rate(folder: Path) -> float:
    """Image files per second from the folder into the cache, their listing included."""
    started = time.perf_counter()
    names, _ = list_images(folder)
    sources = (f"{folder}/{name}" for name in names)
    decoded(names, lambda: sources, None, count=len(names), key=files_key(folder, names), decoding=Decoding())
    return len(names) / (time.perf_counter() - started)


def measured(command: list[str], seconds: float) -> tuple[float, float, float]:
    """Runs a training: seconds to its first step, and the peaks of resident and of private memory in MB.

    The first step is when the training says how long it will take, which is after a few steps of rehearsal.
    """
    started, first, peaks = time.perf_counter(), None, {"VmHWM": 0, "RssAnon": 0}
    words = [sys.executable, "-m", *command, "--time-budget", str(seconds), "--random-state", "0"]
    said = Path(tempfile.mkdtemp()) / "said"
    with open(said, "w") as out, subprocess.Popen(words, stderr=out, stdout=out) as process:
        while process.poll() is None:
            for name in peaks:
                try:
                    found = re.search(rf"{name}:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())
                except OSError:
                    found = None  # it has just ended
                peaks[name] = max(peaks[name], int(found[1]) if found else 0)
            if first is None and "images to go" in said.read_text():
                first = time.perf_counter() - started
            time.sleep(0.02)
    text = said.read_text()
    shutil.rmtree(said.parent)
    if process.returncode or first is None:
        raise RuntimeError(f"{' '.join(words)} failed:\n{text[-2000:]}")
    return first, peaks["VmHWM"] / 1024, peaks["RssAnon"] / 1024
