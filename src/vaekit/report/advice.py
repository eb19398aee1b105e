"""Which latent_dim and beta of a sweep to take for what, and why, or why none can be advised."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

ELBOW = 0.05  # of the ELBO's span over the grid: a larger latent space has to gain more than that

EXPLAIN = "explain images, compress, tell anomalies"
SAMPLE = "sample from N(0, I), without a fitted prior"
TELL_APART = "tell classes apart from latents"


class Advice(NamedTuple):
    """A choice of the grid for one purpose, with its reason in a sentence; None and the reason why there is none."""

    purpose: str
    latent_dim: int | None
    beta: float | None
    reason: str


def advise(points: Sequence[dict]) -> list[Advice]:
    """What to take of a sweep's points, for each purpose that was measured; the first is the advice in general. Where the
    points don't warrant any, latent_dim and beta are None, and the reason says why, and what would help.

    To explain images: the smallest latent_dim whose best ELBO lies within 5 % of the ELBO's span over the latent_dims from the
    best of all (or within the spread of the seeds), and its best beta. For sampling from N(0, I): the least Frechet
    distance, or without labels the least that the aggregate posterior is away from the prior. For telling classes apart: the
    best linear probe, and among those within a standard error of it the lowest rate. A point that is collapsed, that uses no
    latent, is never advised; nothing is where most are.
    """
    means = _over_seeds(points)
    used = [point for point in means if point["active_units"] > 0]
    purposes = {EXPLAIN: _to_explain, SAMPLE: _to_sample}
    if "probe_accuracy" in means[0]:
        purposes[TELL_APART] = _to_tell_apart
    if 2 * len(used) < len(means):
        why = (
            f"{len(means) - len(used)} of {len(means)} points are collapsed, their latents carry nothing: train longer "
            "(--epochs), or with smaller betas"
        )
        return [Advice(purpose, None, None, why) for purpose in purposes]
    found = []
    for purpose, choose in purposes.items():
        pick, reason = choose(means, used)
        chosen = (None, None) if pick is None else (pick["latent_dim"], pick["beta"])
        found.append(Advice(purpose, *chosen, reason))
    return found


Choice = tuple[dict | None, str]  # a point, if any, and the reason


def _to_explain(means: list[dict], used: list[dict]) -> Choice:
    top, least = (pick(means, key=lambda point: point["elbo"]) for pick in (max, min))
    error = math.hypot(*(point.get("elbo_se", 0.0) for point in (top, least)))
    if len(means) > 1 and top["elbo"] - least["elbo"] <= error:
        return None, (
            f"all ELBOs lie within {top['elbo'] - least['elbo']:.1f} nats, and their difference has a standard error of "
            f"{error:.1f}: train longer (--epochs), or try latent_dims and betas that are further apart"
        )
    if top["active_units"] == 0:
        return None, f"the best ELBO, {top['elbo']:.1f} nats, is of a point that is collapsed: train longer (--epochs)"
    by_width: dict[int, dict] = {}
    for point in used:
        best = by_width.setdefault(point["latent_dim"], point)
        by_width[point["latent_dim"]] = max(best, point, key=lambda p: p["elbo"])
    elbos = {d: point["elbo"] for d, point in sorted(by_width.items())}
    best = max(elbos.values())
    slack = max(ELBOW * (best - min(elbos.values())), max(point["elbo_sd"] for point in by_width.values()))
    width = min(d for d, elbo in elbos.items() if elbo >= best - slack)
    chosen, widest = by_width[width], max(elbos)
    if width < widest:
        more = f"from {width} to {widest} latents it gains {elbos[widest] - elbos[width]:+.1f} nats"
    elif len(elbos) > 1:
        more = "it still rises at the end of the grid: try wider ones"
    else:
        more = "no other latent_dim was tried"
    active = f"{chosen['active_units']:.0f} of {width} latents active"
    return chosen, f"ELBO {chosen['elbo']:.1f} nats per image, {active}; {more}"


def _to_sample(means: list[dict], used: list[dict]) -> Choice:
    if "frechet" not in means[0]:
        pick = min(used, key=lambda p: p["aggregate_kl_at_least"])
        return (
            pick,
            f"the latents of images lie nearest to N(0, I): {pick['aggregate_kl_at_least']:.2f} nats away, or more",
        )
    pick = min(used, key=lambda p: p["frechet"])
    distance, floor = pick["frechet"], pick["frechet_floor"]
    if floor >= distance:
        return None, (
            f"as many real images have a Frechet distance of {floor:.2f} themselves, and samples of {distance:.2f}: these are "
            "too few images to tell good samples by; more would do"
        )
    return pick, f"least Frechet distance of samples, {distance:.2f}; as many real images {floor:.2f}"


def _to_tell_apart(means: list[dict], used: list[dict]) -> Choice:
    top = max(used, key=lambda p: p["probe_accuracy"])
    enough = [p for p in used if p["probe_accuracy"] >= top["probe_accuracy"] - top["probe_accuracy_se"]]
    pick = min(enough, key=lambda p: p["rate"])
    return pick, (
        f"a linear probe reads {pick['probe_accuracy']:.1%} (best {top['probe_accuracy']:.1%} ± "
        f"{top['probe_accuracy_se']:.1%}; as many principal components {pick['probe_accuracy_pca']:.1%}) at a rate of "
        f"{pick['rate']:.1f} nats"
    )


def _over_seeds(points: Sequence[dict]) -> list[dict]:
    """The points averaged over seeds, with the ELBO's standard deviation over them, 0 of one seed."""
    groups: dict[tuple[int, float], list[dict]] = {}
    for point in points:
        groups.setdefault((point["latent_dim"], point["beta"]), []).append(point)
    means = []
    for runs in groups.values():
        mean = {key: statistics.fmean(run[key] for run in runs) for key in runs[0]}
        deviation = statistics.stdev(run["elbo"] for run in runs) if len(runs) > 1 else 0.0
        means.append(mean | {"latent_dim": runs[0]["latent_dim"], "elbo_sd": deviation})
    return means
