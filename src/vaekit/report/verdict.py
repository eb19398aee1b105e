"""What the numbers of an evaluation say: in groups, each with a headline, and what is good or bad about it.

A remark holds a number against what it is to be held against: its error, real images, principal components, chance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from vaekit.evaluation.measures import LABEL_GIVEN
from vaekit.training.progress import describe_seconds

SHARP, BLURRED = 0.9, 0.6  # of SSIM
OFF = 0.1  # of the rate, or a nat, between the latents' places and the prior's
USED = 0.5  # of a codebook
LEAK = 0.2  # of the way from chance to certainty, that a probe of a conditional model's latents comes
NEAR, FAR = 2.0, 5.0  # times the Frechet distance of real images
VARIED = 0.7  # of the coverage that real images have
ASKED = 0.9  # of the share of real images that the judge takes for their class
COPIED = 3.0  # times the share of held-out images that are near copies of training images


class Remark(NamedTuple):
    """good: whether that is well."""

    good: bool
    words: str


class Group(NamedTuple):
    """Numbers of an evaluation on one thing: `rows` by their words, what each is held against included."""

    name: str
    headline: str
    remarks: list[Remark]
    rows: dict[str, str]


def verdict(entry: Mapping[str, Any]) -> list[Group]:
    """The groups of what `vaekit.report.measure.measure_run` found that there are numbers for."""
    groups = []
    for name, (keys, say) in GROUPS.items():
        if rows := _rows(entry, keys):
            headline, *remarks = say(entry)
            groups.append(Group(name, headline, remarks, rows))
    return groups


def _rows(entry: Mapping[str, Any], keys: Mapping[str, str]) -> dict[str, str]:
    """The words for each number of `keys`, with its standard error and what stands beside it."""
    rows = {}
    for key, form in keys.items():
        value = entry.get(key)
        if value is None:
            continue
        text = _text(value, form)
        if (error := entry.get(f"{key}_se")) is not None:
            text += f" ± {_text(error, form)}"
        beside = [
            f"{_text(entry[f'{key}{suffix}'], form)} {words}"
            for suffix, words in BESIDE.items()
            if f"{key}{suffix}" in entry
        ]
        rows[key.replace("_", " ")] = text + (f" ({', '.join(beside)})" if beside else "")
    return rows


BESIDE = {
    "_floor": "of real images",
    "_pca": "of as many principal components",
    "_pixels": "of pixels",
    "_plain": "under the plain prior",
    "_held_out": "of held-out images",
}
"""What stands beside a number in the evaluation, by the end of its key."""


def _text(value: Any, form: str) -> str:
    return str(value) if isinstance(value, str) else format(value, form or ",").replace("-", "\N{MINUS SIGN}")


def _cost(entry: Mapping[str, Any]) -> Iterator:
    yield (
        f"{entry['parameters']:,} parameters, {describe_seconds(entry['seconds'])} of training, "
        f"{entry['images_per_second']:,.0f} images a second"
    )


def _likelihood(entry: Mapping[str, Any]) -> Iterator:
    yield (
        f"ELBO {_text(entry['elbo'], ',.2f')} nats per image: distortion {_text(entry['distortion'], ',.2f')}, rate "
        f"{_text(entry['rate'], ',.2f')} under {entry['prior']}"
    )
    if "rate_plain" in entry and entry["prior"] != "N(0, I)" and entry["prior"] != "uniform":
        saved = entry["rate_plain"] - entry["rate"]
        words = f"{abs(saved):.2f} nats {'less' if saved >= 0 else 'more'} than under the prior of the training"
        yield Remark(saved >= 0, f"the fitted prior makes the code {words}")
    elif "aggregate_kl_at_least" in entry:
        apart, rate = entry["aggregate_kl_at_least"], entry["rate"]
        good = apart <= max(1.0, OFF * rate)
        words = "lie as N(0, I) does" if good else "lie elsewhere than N(0, I), where samples are drawn: fit a prior"
        yield Remark(good, f"images' latents {words}, at least {apart:.2f} nats apart")
    elif entry["prior"] == "uniform":
        yield Remark(False, "no prior is fitted: uniform codes decode to noise, and are the longest code there is")
    if "nll" in entry:
        loose = -entry["elbo"] - entry["nll"]
        yield Remark(
            loose < max(1.0, OFF * entry["rate"]), f"the ELBO is {loose:.2f} nats below log p(x), by its estimate"
        )


def _reconstruction(entry: Mapping[str, Any]) -> Iterator:
    more = f", SSIM {entry['ssim']:.3f}, PSNR {entry['psnr']:.1f} dB" if "ssim" in entry else ""
    yield f"mean squared error {entry['mse']:.5f} per pixel{more}"
    if "ssim" in entry and not BLURRED <= entry["ssim"] < SHARP:
        good = entry["ssim"] >= SHARP
        yield Remark(
            good, f"SSIM is {'near 1: structure is kept' if good else f'below {BLURRED}: fine structure is lost'}"
        )


def _latents(entry: Mapping[str, Any]) -> Iterator:
    if "n_codes" in entry:
        share = entry["codes_used_share"]
        yield f"{entry['codes_used']:.0f} of {entry['n_codes']} codes in use, perplexity {entry['perplexity']:.1f}"
        yield Remark(
            share >= USED, f"{share:.0%} of the codebook {'is in use' if share >= USED else 'alone is in use'}"
        )
    else:
        yield f"{entry['active_units']} of {entry['latent_dim']} latents active"
        yield Remark(entry["collapse"].startswith("none"), f"posterior collapse: {entry['collapse']}")
    if "probe_accuracy" in entry:
        yield _of_probe(entry)


def _of_probe(entry: Mapping[str, Any]) -> Remark:
    """What latents tell of the class: of a model that is given the label they are better without."""
    found, pca, chance = entry["probe_accuracy"], entry["probe_accuracy_pca"], entry["chance"]
    told = f"a linear probe tells the class of {found:.1%} of images from them"
    if entry["likelihood"].endswith(LABEL_GIVEN):
        good = found <= chance + LEAK * (1 - chance)
        return Remark(
            good, f"{told}, {'little' if good else 'though that is for the label to say'} (chance {chance:.1%})"
        )
    error = math.hypot(entry["probe_accuracy_se"], entry["probe_accuracy_pca_se"])
    words = "as much as" if abs(found - pca) <= 2 * error else "more than" if found > pca else "less than"
    return Remark(
        found >= pca - 2 * error, f"{told}, {words} from principal components ({pca:.1%}; chance {chance:.1%})"
    )


def _samples(entry: Mapping[str, Any]) -> Iterator:
    parts = []
    if "frechet" in entry:
        parts.append(f"Frechet distance {entry['frechet']:,.2f}, of real images {entry['frechet_floor']:,.2f}")
    if "class_consistency" in entry:
        parts.append(f"{entry['class_consistency']:.1%} of the class asked for")
    yield "; ".join(parts)
    if "frechet" in entry:
        times = entry["frechet"] / max(entry["frechet_floor"], 1e-9)
        near = (
            "near real images"
            if times <= NEAR
            else "far from real images"
            if times > FAR
            else "not far from real images"
        )
        yield Remark(times <= FAR, f"they are {near}: {times:.1f} times as far from test images as training images are")
        least = VARIED * entry["coverage_floor"]
        words = "as varied as" if entry["coverage"] >= least else "less varied than"
        yield Remark(
            entry["coverage"] >= least,
            f"they are {words} real images: near {entry['coverage']:.0%} of these, of which training images reach "
            f"{entry['coverage_floor']:.0%}",
        )
    if "class_consistency" in entry:
        seen = ASKED * (entry.get("judge_accuracy") or 1.0)
        good = entry["class_consistency"] >= seen
        yield Remark(good, f"the judge sees the class asked for in {'most' if good else 'too few'} of them")
    if "copies_share" in entry:
        good = entry["copies_share"] <= COPIED * max(entry["copies_share_held_out"], 0.01)
        words = "no more than images that it never saw" if good else "training images are learned by heart"
        yield Remark(good, f"{entry['copies_share']:.1%} are near copies of training images: {words}")


GROUPS: dict[str, tuple[Mapping[str, str], Callable[[Mapping[str, Any]], Iterator]]] = {
    "reconstructions": ({"mse": ".6g", "psnr": ".2f", "ssim": ".4f"}, _reconstruction),
    "samples": (
        {
            "frechet": ",.2f",
            "kernel": ".4g",
            "precision": ".2f",
            "recall": ".2f",
            "density": ".2f",
            "coverage": ".2f",
            "class_consistency": ".1%",
            "copies_share": ".1%",
            "classification_accuracy_score": ".1%",
        },
        _samples,
    ),
    "likelihood": (
        {
            "likelihood": "",
            "elbo": ".6g",
            "distortion": ".6g",
            "rate": ".6g",
            "nll": ".6g",
            "bits_per_dim": ".3f",
            "bits_per_dim_nll": ".3f",
            "aggregate_kl_at_least": ".2f",
        },
        _likelihood,
    ),
    "latents": (
        {
            "active_units": "d",
            "codes_used": ".0f",
            "perplexity": ".1f",
            "probe_accuracy": ".1%",
            "knn_accuracy": ".1%",
            "kmeans_ari": ".2f",
            "independence_linear_above_chance": ".1%",
            "independence_nonlinear_above_chance": ".1%",
            "mig": ".3f",
            "dci_disentanglement": ".3f",
            "dci_completeness": ".3f",
            "sap": ".3f",
            "factorvae_score": ".1%",
            "betavae_score": ".1%",
        },
        _latents,
    ),
    "cost": (
        {"parameters": ",", "seconds": ",.1f", "seconds_total": ",.1f", "images_per_second": ",.0f"},
        _cost,
    ),
}
"""By name, the numbers that are shown of each group and how, and what says its headline, then its remarks."""
