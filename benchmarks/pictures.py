"""A grid of Gaussian latents and flow matching make a few thousand pictures into new ones: icons of 48x48, by the defaults.

The icons of `icons`, a tenth of them held out. A VAE and a CVAE of one vector, a VQ-VAE, and a VAE of a grid of latents, each
with its default prior, by class: a mixture, a PixelCNN, flow matching. Frechet distances are in the features of the judge,
between samples, as many of each class as are held out, or reconstructions, and the held-out icons; "real" is that of as many
training icons. Seams, of reconstructions and of samples, are the steps between neighbouring rows and columns over those of the
held-out icons at the same place: where patches of four pixels meet, over elsewhere (medians), so that 1 is none, whatever real
pictures have at such places. A sample's nearest training icon is in the judge's features; the ratio is to that of a held-out
icon: far below 1, samples would be copies. The sheet has held-out icons, what the models make of them, and samples, the grid's
by guidance 2.
"""

import argparse
import io
import math
import statistics
from collections import defaultdict
from functools import partial

import numpy as np
import torch
from PIL import Image

from benchmarks.harness import OUT, RECORDS, Findings, mean_std, measured, progress, trained
from benchmarks.icons import PATCH, PLACE, open_icons, steps_of
from vaekit.data import Images
from vaekit.data.pixels import with_channels
from vaekit.evaluation.distances import frechet_distance
from vaekit.evaluation.generation import get_judge
from vaekit.evaluation.likelihood import evaluate
from vaekit.owned import write_atomically
from vaekit.pictures.style import tile
from vaekit.training.settings import PriorSettings

SHOWN = 12  # pictures in a row of the sheet
ARMS = (  # label, folder, model and fields
    ("VAE, a vector", "vector", "vae", {}),
    ("CVAE, a vector", "cvae", "cvae", {}),
    ("VQ-VAE", "vqvae", "vqvae", {}),
    ("VAE, a grid", "grid", "vae", {"grid": True}),
)
COLUMNS = {
    "MSE": ".5f",
    "ELBO, nats": ",.0f",
    "seams": ".3f",
    "seams, samples": ".3f",
    "training, s": ",.0f",
    "prior, s": ",.0f",
    "reconstructions": ".1f",
    "samples": ".1f",
    "guidance 2": ".1f",
    "as asked, %": ".0f",
    "nearest": ".2f",
}


def run(argv):
    parser = argparse.ArgumentParser(prog="python -m benchmarks pictures")
    parser.add_argument("--icons", default=PLACE, help="the package's folder of sizes")
    parser.add_argument("--seeds", type=int, default=1)
    asked = parser.parse_args(argv)
    return measure("pictures", *open_icons(asked.icons), seeds=asked.seeds)


def measure(name: str, train: Images, test: Images, *, seeds: int) -> Findings:
    """What the models of ARMS come to on `train` and `test`, whose runs are kept in the folder `name`, as the sheet is."""
    judge, accuracy = get_judge(train, test, verbose=True)
    rng = np.random.default_rng(0)
    others = train.x[np.concatenate([rng.choice(np.flatnonzero(train.y == c), n) for c, n in enumerate(counts(test))])]
    features = {"test": judge.embed(test.x), "train": judge.embed(train.x)}
    real = frechet_distance(judge.embed(others), features["test"])
    sheets = defaultdict(list)

    def one(arm: tuple, seed: int) -> dict:
        _, folder, model, fields = arm
        values, sheet = one_run(f"{name}/{folder}-seed{seed}", model, fields, train, test, judge, features, seed)
        sheets[seed] += sheet
        return {**values, "real": real}

    def kept_or_now(arm: tuple, seed: int) -> dict:
        found = measured(f"{name}/{arm[1]}-seed{seed}", partial(one, arm, seed))
        if not math.isclose(found["real"], real, rel_tol=0.01):
            raise ValueError(
                f"a run of {name} was measured by another judge, whose features are others: begin without --go-on"
            )
        return found

    rows = []
    for arm in ARMS:
        found = [kept_or_now(arm, seed) for seed in range(seeds)]
        values = {key: [each[key] for each in found if each[key] is not None] for key in COLUMNS}
        rows.append([arm[0], *(mean_std(values[key], COLUMNS[key]) if values[key] else "" for key in COLUMNS)])
    # A sheet shows all models of one seed: where some were kept from an earlier call, it stays as that call drew it.
    if whole := [sheet for sheet in sheets.values() if len(sheet) == 2 * len(ARMS)]:
        save(name, np.stack([test.x[spread(test)], *whole[0]]))
    text = (
        f"{len(train):,} pictures to train on, {len(test):,} held out, {seeds} seed(s). Frechet distance of reconstructions, "
        f"of samples by class, and of samples by guidance 2, which flow matching alone has; real pictures of training: "
        f"{real:.1f}, and their seams {seams(others, test.x):.3f}. The judge labels {accuracy:.0%} of the held-out pictures "
        f"right; 'as asked' is of samples by guidance 2 where there are such. Sheet: held-out pictures; of each model their "
        f"reconstructions, then samples.\n\n![Held-out pictures, and what the models make of them, reconstructed "
        f"and sampled](results/{name}.png)"
    )
    return Findings(["model", *COLUMNS], rows, text)


def seams(images: np.ndarray, real: np.ndarray) -> float:
    """(N, H, W, C) each -> by how much more the images step where patches meet than the real ones do: 1 is none."""
    ratios = []
    for steps, theirs in zip(steps_of(images), steps_of(real), strict=True):
        border = np.arange(len(steps)) % PATCH == PATCH - 1
        counted = theirs > theirs.mean() / 20  # of a margin nothing can be said
        beside = steps / np.where(counted, theirs, 1)
        ratios.append(np.median(beside[border & counted]) / np.median(beside[~border & counted]))
    return statistics.fmean(ratios)


def counts(test) -> np.ndarray:
    """How many held-out pictures each class has."""
    return np.bincount(test.y, minlength=len(test.classes))


def spread(test) -> np.ndarray:
    """Pictures for the sheet, drawn over all classes."""
    return np.linspace(0, len(test) - 1, SHOWN).astype(int)


def one_run(
    folder: str, name: str, fields: dict, train, test, judge, features, seed: int
) -> tuple[dict, list[np.ndarray]]:
    """A model and its prior, by default settings: what they come to, and their rows of the sheet."""
    model = trained(folder, name, train, random_state=seed, **fields)
    seconds = OUT / f"{folder}.prior-seconds"  # a prior's file does not hold them
    if not model.has_prior:
        model.fit_prior_images(train, PriorSettings(), folder=str(OUT / folder))
        write_atomically(seconds, str(sum(record.get("seconds", 0.0) for record in model.prior_history_)))
    result = evaluate(model.with_prior("plain"), model.fitted_.data(test))
    labels = np.asarray(test.classes)[test.y]
    rebuilt = model.reconstruct(test.x, labels if model.conditional else None)
    asked = {"random_state": seed, "prior": "fitted"}
    plain = model.sample(len(test), labels, **asked)
    guided = model.sample(len(test), labels, guidance=2.0, **asked) if model.grid else plain
    progress(f"{folder}: MSE {result['mse']:.5f}")

    def distance(x) -> float:
        return frechet_distance(judge.embed(x), features["test"])

    near = torch.cdist(judge.embed(guided), features["train"]).amin(1).mean()
    values = {
        "MSE": result["mse"],
        "ELBO, nats": result["elbo"],
        "seams": seams(rebuilt, test.x),
        "seams, samples": seams(guided, test.x),
        "training, s": sum(record["seconds"] for record in model.history_),
        "prior, s": float(seconds.read_text()),
        "reconstructions": distance(rebuilt),
        "samples": distance(plain),
        "guidance 2": distance(guided) if model.grid else None,
        "as asked, %": 100 * float((judge.classify(torch.from_numpy(guided)).numpy() == test.y).mean()),
        "nearest": float(near / torch.cdist(features["test"], features["train"]).amin(1).mean()),
    }
    return values, [x[spread(test)] for x in (rebuilt, guided)]


def save(name: str, rows: np.ndarray) -> None:
    """The sheet: (rows, SHOWN, H, W, C) at twice its size."""
    file = io.BytesIO()
    sheet = Image.fromarray(tile(with_channels(rows, max(3, rows.shape[-1])), 2))
    white = Image.new("RGBA", sheet.size, "white")
    Image.alpha_composite(white, sheet).convert("RGB").quantize(256).save(file, "PNG", optimize=True)
    write_atomically(RECORDS / f"{name}.png", file.getvalue())
