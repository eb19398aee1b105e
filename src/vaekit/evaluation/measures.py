"""What is measured of a model, as tables, pages and cards show it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

CONFIDENCE = 0.95
LABEL_GIVEN = ", label given"  # at the end of a likelihood's words: log p(x|y) is no rival of log p(x)


class Column(NamedTuple):
    """A column of the table: key in results.json, heading, unit, number format, and which end is better ("" for neither)."""

    key: str
    heading: str
    unit: str
    form: str
    better: str


COLUMNS = (
    Column("parameters", "parameters", "", ",.0f", "low"),
    Column("seconds", "training", "seconds", ",.1f", "low"),
    Column("images_per_second", "speed", "images/s", ",.0f", "high"),
    Column("mse", "test MSE", "per pixel", ".5f", "low"),
    Column("distortion", "distortion", "nats/image", ",.2f", "low"),
    Column("rate_plain", "plain rate", "nats/image", ",.2f", ""),
    Column("rate", "rate", "nats/image", ",.2f", ""),
    Column("elbo", "ELBO", "nats/image", ",.2f", "high"),
    Column("nll", "NLL", "nats/image", ",.2f", "low"),
    Column("bits_per_dim", "bits/dim", "", ".3f", "low"),
)
QUALITY_COLUMNS = (
    Column("ssim", "SSIM", "", ".3f", "high"),
    Column("probe_accuracy", "linear probe", "latents", ".1%", "high"),
    Column("knn_accuracy", "5-NN", "latents", ".1%", "high"),
    Column("kmeans_ari", "k-means", "ARI", ".2f", "high"),
    Column("active_units", "active latents", "", ".1f", ""),
    Column("codes_used_share", "codes in use", "", ".1%", "high"),
    Column("frechet", "Frechet", "samples", ",.2f", "low"),
    Column("precision", "precision", "samples", ".2f", "high"),
    Column("recall", "recall", "samples", ".2f", "high"),
    Column("coverage", "coverage", "samples", ".2f", "high"),
    Column("class_consistency", "as asked", "samples", ".1%", "high"),
)


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The mean of independent values, and the ends of its 95 % interval by Student's t; NaN where there are too few values."""
    import numpy as np

    if not len(values):
        return math.nan, math.nan, math.nan
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, math.nan, math.nan
    from scipy.stats import t

    half = float(t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return mean, mean - half, mean + half
