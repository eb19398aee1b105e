"""Is a CVAE's latent independent of the class? Probes of z on MNIST's test images, their labels given, against chance.

The default CVAE, the report's, and a VAE, which has no label, for contrast. Two codes an image: the posterior mean, and a draw
from q(z|x, y), which is what the decoder is trained on and what has p(z) as its prior. 5-fold cross-validated probes.
"""

import argparse
from typing import NamedTuple

from benchmarks.harness import Findings, mean_std, progress, trained
from vaekit.data import open_data
from vaekit.evaluation.likelihood import posterior
from vaekit.evaluation.representation import class_independence

ERRORS = 2  # standard errors above chance up to which a probe is at chance


class Model(NamedTuple):
    folder: str
    name: str
    fields: dict


MODELS = {
    "CVAE, default": Model("conditional/cvae", "cvae", {"epochs": 11}),
    "CVAE, wang2023 (scalar condition)": Model(
        "wang2023/runs/cvae", "cvae", {"epochs": 10, "architecture": "wang2023"}
    ),
    "VAE, default": Model("defaults/VAE-sigma-learned", "vae", {"epochs": 11}),
}
PROBES = {"linear": "linear probe", "nonlinear": "nonlinear probe"}
CODES = {"means": "of means", "draws": "of draws"}


def run(argv):
    parser = argparse.ArgumentParser(prog="python -m benchmarks independence")
    parser.add_argument("--seeds", type=int, default=3)
    seeds = range(parser.parse_args(argv).seeds)
    train, test = open_data("mnist", "train"), open_data("mnist", "test")
    found = {}
    for label, model in MODELS.items():
        for seed in seeds:
            estimator = trained(f"{model.folder}-seed{seed}", model.name, train, random_state=seed, **model.fields)
            found.setdefault(label, []).append(measure(estimator, test, seed))
            progress(f"{label}, seed {seed}: {found[label][-1]}")
    return report(found)


def measure(estimator, images, seed):
    """What the probes find in the posterior means of `images`, and in one draw each: "means" and "draws" -> figures."""
    codes = posterior(estimator.model_, estimator.fitted_.data(images), seed=seed)
    return {name: class_independence(z.numpy(), images.y, seed=seed) for name, z in zip(CODES, codes, strict=True)}


def report(found):
    """Findings of label -> what `measure` gave for each seed."""
    rows = [
        [
            label,
            *(
                mean_std([100 * accuracy(run, codes, probe) for run in runs], ".1f")
                for codes in CODES
                for probe in PROBES
            ),
            f"{100 * runs[0]['means']['chance']:.1f}",
        ]
        for label, runs in found.items()
    ]
    conditional = {label: runs for label, runs in found.items() if label.startswith("CVAE")}
    independent = [label for label, runs in conditional.items() if all(map(at_chance, runs))]
    dependent = {
        label: max(100 * accuracy(run, "draws", probe) for run in runs for probe in PROBES)
        for label, runs in conditional.items()
        if label not in independent
    }
    first = next(iter(found.values()))
    text = (
        f"Shares right in %, over {len(first)} seed(s), of {first[0]['means']['samples']:,} images. Chance is to name the most "
        f"frequent class always; a probe is at chance if it is at most {ERRORS} standard errors above that."
    )
    if independent:
        text += f" Neither probe tells the class from draws of {' or '.join(independent)}, in any seed."
    if dependent:
        text += " z is NOT independent of the class: in the worst seed the better probe is right about "
        text += " and ".join(f"{share:.1f} % of draws of the {label}" for label, share in dependent.items())
        text += (
            ". The prior is the same for every class, p(z|y) = p(z), but only the rate draws each class's aggregate posterior "
            "q(z|y) to it, and distortion is weighed against that. A sample of a class starts from p(z), and so at times where "
            "the decoder has seen other classes' images only."
        )
    text += (
        " Means may tell more than draws, which are what the decoder is given: a latent that is all but unused may have the "
        "class in its mean, hidden in its draws. No probe at chance proves independence."
    )
    columns = [f"{probe} {codes}, %" for codes in CODES.values() for probe in PROBES.values()]
    return Findings(["model", *columns, "chance, %"], rows, text)


def accuracy(run, codes, probe):
    return run[codes][f"{probe}_accuracy"]


def at_chance(run):
    """Whether both probes of draws are."""
    return all(
        run["draws"][f"{probe}_above_chance"] <= ERRORS * run["draws"][f"{probe}_above_chance_se"] for probe in PROBES
    )
