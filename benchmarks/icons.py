"""Muon learns people's pictures better than Adam in no more time: some 2,900 colour icons, of 48x48, by default models.

The icons are those of 32, 48 and 64 pixels of Debian's package oxygen-icon-theme, without its links, in their ten folders, as
`--resize 48 --fit pad --skip-bad` makes them; a tenth of them is measured. Adam has its default epochs, or those given; Muon
as many as take it about as long. Seams are the mean step between neighbouring pixels across every fourth column and row of the
reconstructions, over that elsewhere.
"""

import argparse
import shutil
import statistics
from pathlib import Path

import numpy as np

from benchmarks.harness import OUT, Findings, mean_std, progress, trained
from vaekit.data import Images, open_data
from vaekit.evaluation.likelihood import evaluate
from vaekit.registry import MODELS

PLACE = "/usr/share/icons/oxygen/base"
SIZES = ("32x32", "48x48", "64x64")
EPOCHS = {"vae": {"adam": 50, "muon": 36}, "vqvae": {"adam": 12, "muon": 12}}
PATCH = 4  # the side of what the last layer makes by itself


def gather(source: Path, folder: Path) -> None:
    """Copies the icons of `source` into a folder for each of their contexts."""
    for size in SIZES:
        for file in sorted((source / size).rglob("*.png")):
            if not file.is_symlink():
                place = folder / file.parent.name / f"{size}-{file.name}"
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, place)


def open_icons(source: str) -> tuple[Images, Images]:
    """The icons of the package's folder of sizes to train on, and those held out."""
    if not Path(source, SIZES[0]).is_dir():
        raise ValueError(f"--icons {source} has no folder {SIZES[0]}: install oxygen-icon-theme, or say where it is")
    folder = OUT / "icons" / "data"
    if not folder.exists():
        whole = folder.with_name("data.tmp")
        shutil.rmtree(whole, ignore_errors=True)
        gather(Path(source), whole)
        whole.rename(folder)
    train, test = (open_data(str(folder), split, resize=48, fit="pad", skip_bad=True) for split in ("train", "test"))
    return train, test


def seams(images: np.ndarray) -> float:
    """(N, H, W, C) -> the mean step across the borders of patches over that elsewhere: 1 where there are none."""
    ratios = []
    for steps in steps_of(images):
        border = np.arange(len(steps)) % PATCH == PATCH - 1
        ratios.append(steps[border].mean() / steps[~border].mean())
    return statistics.fmean(ratios)


def steps_of(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, H, W, C) -> the mean steps between neighbouring rows (H - 1,), and columns (W - 1,)."""
    x = images.astype(float)
    return np.abs(np.diff(x, axis=1)).mean((0, 2, 3)), np.abs(np.diff(x, axis=2)).mean((0, 1, 3))


def run(argv):
    parser = argparse.ArgumentParser(prog="python -m benchmarks icons")
    parser.add_argument("--icons", default=PLACE, help="the package's folder of sizes")
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args(argv)
    train, test = open_icons(asked.icons)
    found, rows = {}, []
    for name, epochs in EPOCHS.items():
        for seed in range(asked.seeds):
            for optimizer, passes in epochs.items():
                how = {"optimizer": optimizer, "epochs": passes, "random_state": seed}
                model = trained(f"icons/{name}-{optimizer}-seed{seed}", name, train, **how)
                result = evaluate(model.model_, model.fitted_.data(test))
                result["seams"] = seams(model.reconstruct(test.x))
                result["seconds"] = sum(record["seconds"] for record in model.history_)
                found.setdefault((name, optimizer), []).append(result)
                progress(f"{name} {optimizer} seed {seed}: MSE {result['mse']:.5f}, {result['seconds']:.0f} s")
        for optimizer, passes in epochs.items():
            results = found[name, optimizer]
            columns = (("mse", ".5f"), ("elbo", ",.0f"), ("seams", ".2f"), ("seconds", ".0f"))
            rows.append(
                [MODELS[name].label, optimizer, passes]
                + [mean_std([result[key] for result in results], form) for key, form in columns]
            )

    def ratio(name: str, key: str) -> float:
        means = [statistics.fmean(result[key] for result in found[name, optimizer]) for optimizer in ("muon", "adam")]
        return means[0] / means[1]

    text = (
        f"{len(train):,} icons to train on, {len(test):,} others measured, whose own seams are {seams(test.x):.2f}; "
        f"{asked.seeds} seed(s). "
        + "; ".join(
            f"the {MODELS[name].label} by Muon has {ratio(name, 'mse'):.2f} times Adam's MSE in {ratio(name, 'seconds'):.2f} "
            "times its time"
            for name in EPOCHS
        )
        + "."
    )
    return Findings(["model", "optimizer", "epochs", "test MSE", "test ELBO, nats", "seams", "training, s"], rows, text)
