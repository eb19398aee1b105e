"""With few labelled images, samples of a VAE that saw the other images without labels help a classifier more than a CVAE's do.

MNIST, 10 to 100 labelled images per class. The classifier is one fixed small CNN, 600 steps of 64; with samples, half of
each batch is of them, 500 per class. The CVAE is trained on the labelled images alone. The VAE is trained once on all 60,000
training images without their labels, and gets a prior of each class from the latents of the labelled ones. Classical
augmentation: random shifts of up to a tenth of the side, rotations of up to 15 degrees, sizes of 0.9 to 1.1. Nothing was
chosen on test images.
"""

import argparse
import json
import math

import numpy as np

from benchmarks import harness
from benchmarks.harness import HERE, Findings, progress, trained
from vaekit import CVAE
from vaekit.data import open_data
from vaekit.evaluation.augmentation import BATCH_SIZE, REAL, STEPS, augmentation_gain, summarise
from vaekit.fitted_prior import own_weights
from vaekit.owned import write_atomically
from vaekit.pictures import charts
from vaekit.pictures.style import save
from vaekit.training.checkpoint import digest

PER_CLASS = (10, 20, 50, 100)
SAMPLES = 500  # per class
CLASSICAL = f"{REAL}, augmented"
CONDITIONAL, SEMI_SUPERVISED = "CVAE", "semi-supervised VAE"


def run(argv):
    parser = argparse.ArgumentParser(prog="python -m benchmarks augmentation")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--per-class", type=int, nargs="+", default=PER_CLASS)
    parser.add_argument(
        "--budget-minutes", type=float, default=45, help="of fitting, sampling and classifying, all told"
    )
    parser.add_argument("--figure", default=HERE.parent / "docs" / "augmentation.png")
    arguments = parser.parse_args(argv)
    train, test = open_data("mnist", "train"), open_data("mnist", "test")
    vae = trained("defaults/VAE-sigma-learned-seed0", "vae", train, random_state=0, epochs=11)
    asked = np.repeat(np.arange(len(train.classes)), SAMPLES)

    def conditional(x, y, seed):
        return CVAE(random_state=seed).fit(x, y).sample(len(asked), asked, random_state=seed), asked

    def semi_supervised(x, y, seed):
        vae.fit_prior(x, y, validation_fraction=0, random_state=seed)
        return vae.sample(len(asked), asked, random_state=seed), asked

    path = harness.OUT / "augmentation" / "records.jsonl"
    records = _kept(path, _protocol(train, vae))
    minutes = sum(record["seconds"] for record in records) / 60
    coming = augmentation_gain(
        {CONDITIONAL: conditional, SEMI_SUPERVISED: semi_supervised},
        train,
        test,
        per_class=arguments.per_class,
        draws=arguments.draws,
        done=records,
    )
    with open(path, "a") as writing:
        while not _spent(records, minutes, arguments.budget_minutes) and (record := next(coming, None)):
            record["commit"] = harness._commit()
            writing.write(json.dumps(record) + "\n")
            writing.flush()
            records.append(record)
            minutes += record["seconds"] / 60
            progress(
                f"draw {record['draw']}, {record['per_class']} per class, {record['arm']}: {record['accuracy']:.2%} "
                f"({minutes:.1f} minutes in all)"
            )
    records = [r for r in records if r["draw"] < arguments.draws and r["per_class"] in arguments.per_class]
    gains = sorted(summarise(records), key=lambda gain: gain.per_class)
    arms = {arm: [gain for gain in gains if gain.arm == arm] for arm in dict.fromkeys(gain.arm for gain in gains)}
    lines = {arm: [(g.per_class, g.accuracy, g.low, g.high) for g in found] for arm, found in arms.items()}
    save(charts.augmentation_gain(lines), arguments.figure)
    rows = [
        [arm, g.per_class, g.draws, _shown(*g[3:6]), "" if arm == REAL else _shown(*g[7:10], "+.2f")]
        for arm, found in arms.items()
        for g in found
    ]
    planned = len(arguments.per_class) * arguments.draws * len(arms)
    text = (
        f"Accuracy on the {len(test):,} test images: means over the draws of the labelled images, with 95 % intervals by "
        f"Student's t. {_verdict(records)} Against real images alone, draw by draw: {_effects(records)}. Against classical "
        f"augmentation, which moves the samples too where there are any: {_effects(records, CLASSICAL)}. Classification "
        "accuracy score, of a training on samples alone, in %: "
        + "; ".join(
            f"{name} " + ", ".join(f"{100 * g.accuracy:.1f} at {g.per_class}" for g in arms[f"{name} alone"])
            for name in (CONDITIONAL, SEMI_SUPERVISED)
        )
        + f". {len(records)} of {planned} trainings in {minutes:.0f} minutes of a budget of {arguments.budget_minutes:g}, the "
        f"VAE's not counted, by {', '.join(sorted({record['commit'] for record in records}))}."
    )
    return Findings(["trained on", "labelled per class", "draws", "accuracy, %", "gain over real, points"], rows, text)


def _spent(records, minutes, budget):
    """Whether to stop; never before the arms of one draw of the labelled images are complete, so that they compare."""
    return minutes >= budget and bool(records) and records[-1]["arm"] == f"{SEMI_SUPERVISED} alone"


def _verdict(records):
    """Whether the claim holds: the semi-supervised samples gain over real images alone, and over the CVAE's samples."""
    semi = f"{REAL} + {SEMI_SUPERVISED}"
    over_real, over_conditional = (
        [gain for gain in summarise(records, baseline=baseline) if gain.arm == semi]
        for baseline in (REAL, f"{REAL} + {CONDITIONAL}")
    )
    holds = all(gain.gain_low > 0 for gain in over_real + over_conditional)
    return (
        f"The claim {'holds' if holds else 'does NOT hold'}: the intervals of the gain of semi-supervised samples over real "
        f"images alone, at {_listed(over_real)}, and over the CVAE's samples, at {_listed(over_conditional)}, "
        f"{'are' if holds else 'are not all'} above 0."
    )


def _effects(records, baseline=REAL):
    """In words, for each arm that has all that the baseline has: at which sizes the interval of its paired gain is above 0,
    below it, or holds it.
    """
    effects = {}
    for gain in summarise(records, baseline=baseline):
        if gain.arm == baseline or (baseline == CLASSICAL and not gain.arm.endswith(", augmented")):
            continue
        effect = "helps" if gain.gain_low > 0 else "hurts" if gain.gain_high < 0 else "makes no sure difference"
        effects.setdefault(gain.arm, {}).setdefault(effect, []).append(gain)
    return "; ".join(
        f"{arm!r} " + ", ".join(f"{effect} at {_listed(found)}" for effect, found in by_effect.items())
        for arm, by_effect in effects.items()
    )


def _listed(gains):
    return ", ".join(f"{gain.per_class} ({100 * gain.gain:+.2f} points)" for gain in gains)


def _shown(mean, low, high, form=".2f"):
    half = "" if math.isnan(low) else f" ± {100 * (high - low) / 2:.2f}"
    return format(100 * mean, form) + half


def _protocol(train, vae):
    """What all kept records must have in common."""
    return {
        "data": train.fingerprint,
        "samples per class": SAMPLES,
        "steps": STEPS,
        "batch size": BATCH_SIZE,
        "vae": digest({name: tensor.cpu().contiguous() for name, tensor in own_weights(vae.model_).items()}, {}),
    }


def _kept(path, protocol):
    """The records of an interrupted run, after a first line that says how they were made; ValueError for another protocol."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps({"protocol": protocol}) + "\n")
    whole = path.read_text().rpartition("\n")[0]  # a line that was cut off is measured again
    write_atomically(path, whole + "\n")
    first, *records = map(json.loads, whole.splitlines())
    if first["protocol"] != protocol:
        raise ValueError(f"{path} holds records of another protocol: {first['protocol']}; remove it to start afresh")
    return records
