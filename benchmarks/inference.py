"""Fitted models encode, reconstruct, sample and score at least as fast as a plain torch loop, in memory that is bounded.

Random 28x28 images of 8 bits, models of one epoch on 1,000 of them; the two forms taken in turn. The plain loop runs the same
module in eval mode on batches of 100, each converted by itself, and records gradients, as a loop does that says nothing of
them. Scores are of 8 draws for both (of one in the plain loop where the latent is a quantizer, whose draws are all the same),
and of a tenth of the images. Memory is the peak of what is resident in a process of its own, beyond images, model and result;
Linux only.
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import clone

from benchmarks.harness import HERE, Findings, interleave, median_ratio, progress
from vaekit import VAE, VQVAE, load
from vaekit.estimators.base import Estimator
from vaekit.models.objectives import distortion_and_rate

MODELS = {
    "VAE": VAE(epochs=1, random_state=0),
    "VAE, wang2023": VAE(architecture="wang2023", epochs=1, random_state=0),
    "VQ-VAE, wang2023": VQVAE(architecture="wang2023", epochs=1, random_state=0),
}
METHODS = ("encode", "reconstruct", "sample", "score")
PLAIN_BATCH, DRAWS = 100, 8


def run(argv):
    parser = argparse.ArgumentParser(prog="python -m benchmarks inference")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--more", type=int, default=60_000, help="images for the second look at the memory")
    options = parser.parse_args(argv)
    x = random_images(options.images)
    rows, ratios = [], {}
    with tempfile.TemporaryDirectory() as temporary:
        for name, unfitted in MODELS.items():
            model = clone(unfitted)
            folder = Path(temporary) / name
            model.fit(random_images(1000)).save(folder)
            for method in METHODS:
                forms: dict[str, Callable[[], Any]] = {
                    "ours": partial(ours, model, method, x),
                    "plain": partial(plain, model, method, x),
                }
                seconds = interleave(forms, options.rounds)
                ratios[name, method] = median_ratio(seconds["plain"], seconds["ours"])
                count = scored(method, len(x))
                rows.append(
                    [
                        name,
                        method,
                        *(f"{count / statistics.median(seconds[form]):,.0f}" for form in forms),
                        f"{ratios[name, method]:.2f}",
                        difference(forms) if method in ("encode", "reconstruct") else "",
                        *(f"{extra_memory(folder, method, n):.0f}" for n in (options.images, options.more)),
                    ]
                )
                progress(str(rows[-1]))
    slowest = min(ratios, key=ratios.__getitem__)
    most = max(rows, key=lambda row: float(row[-1]))
    text = (
        f"Medians of {options.rounds} rounds, {options.images:,} images. At the least, {slowest[1]} of the {slowest[0]} is "
        f"{ratios[slowest]:.2f} times as fast as the plain loop. The most memory for {options.more:,} images is {most[-1]} MB, "
        f"by {most[1]} of the {most[0]}, which takes {most[-2]} MB for {options.images:,}."
    )
    columns = [
        "model",
        "method",
        "images / s",
        "plain, images / s",
        "times as fast",
        "largest difference",
        f"MB for {options.images:,}",
        f"MB for {options.more:,}",
    ]
    return Findings(columns, rows, text)


def random_images(count: int) -> np.ndarray:
    """(count, 28, 28) uint8."""
    return np.random.default_rng(0).integers(0, 256, (count, 28, 28), dtype=np.uint8)


def scored(method: str, count: int) -> int:
    """How many of `count` images a method is given: a score is of many draws, and gets a tenth."""
    return max(1, count // 10) if method == "score" else count


def ours(model: Estimator, method: str, x: np.ndarray) -> np.ndarray:
    if method == "sample":
        return model.sample(len(x), prior="plain", random_state=0)
    call = {"encode": model.encode, "reconstruct": model.reconstruct, "score": model.score_samples}[method]
    return call(x[: scored(method, len(x))])


def plain(model: Estimator, method: str, x: np.ndarray) -> np.ndarray:
    """What `ours` gives, by a loop over the module."""
    module, count = model.with_prior("plain").eval(), scored(method, len(x))
    draws = 1 if isinstance(model, VQVAE) else DRAWS

    def pixels(images: torch.Tensor) -> torch.Tensor:
        return images.mul(255).round().to(torch.uint8)[:, 0]

    steps: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "encode": module.encode,
        "reconstruct": lambda batch: pixels(module.reconstruct(batch)),
        "sample": lambda batch: pixels(module.sample(len(batch))),
        "score": lambda batch: -torch.stack(distortion_and_rate(module(batch, samples=draws))).sum(0),
    }
    parts = []
    for start in range(0, count, PLAIN_BATCH):
        batch = torch.from_numpy(x[start : min(count, start + PLAIN_BATCH)]).float().div(255).unsqueeze(1)
        parts.append(steps[method](batch).detach().numpy())
    return np.concatenate(parts)


def difference(forms: dict[str, Callable[[], Any]]) -> str:
    """The largest difference between two results: of latents, of codes or of grey levels."""
    a, b = (action().astype(np.float64) for action in forms.values())
    return f"{np.abs(a - b).max():.1g}"


def extra_memory(folder: Path, method: str, count: int) -> float:
    """MB that a method takes in a new process for `count` images, see `measure_memory`."""
    code = "import sys; from benchmarks.inference import measure_memory; print(measure_memory(*sys.argv[1:]))"
    command = [sys.executable, "-c", code, str(folder), method, str(count)]
    return float(subprocess.run(command, check=True, cwd=HERE.parent, stdout=subprocess.PIPE, text=True).stdout)


def measure_memory(folder: str, method: str, count: str) -> float:
    """Peak of the resident memory in MB while the method runs, beyond what is resident before and beyond its result."""
    model, x = load(folder), random_images(int(count))
    ours(model, method, x[:100])  # libraries load and set up what they need once
    # getrusage would count the peak of the process that this one was started from, too.
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    result = ours(model, method, x)
    return status("VmHWM") - before - result.nbytes / 2**20


def status(name: str) -> float:
    """A size in MB that Linux knows of this process."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024
