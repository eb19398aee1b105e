"""The comparison as one self-contained HTML file, and the table behind it."""

from __future__ import annotations

import base64
import json
import math
import statistics
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from vaekit.training.progress import describe_seconds
from vaekit.world import write_atomically


class Picture(NamedTuple):
    """A figure of the page: its PNG file, a title, one sentence on what to look for, and a text for who can't see it."""

    file: Path
    title: str
    text: str
    alt: str


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
    Column("bits_per_dim", "bits/dim", "", ".3f", "low"),
    Column("class_consistency", "class as asked", "of samples", ".1%", "high"),
    Column("codes_used_share", "codes in use", "test set", ".1%", "high"),
    Column("active_units", "active latents", "", ".1f", ""),
)


class Cell(NamedTuple):
    """Mean over seeds, sample standard deviation (None for one seed), and whether it is the best of its group."""

    mean: float
    std: float | None
    best: bool
    text: str


class Row(NamedTuple):
    label: str
    seeds: int
    cells: dict[str, Cell]


def summarise(models: Sequence[dict]) -> dict[str, list[Row]]:
    """The entries of results.json's "models" -> likelihood -> a Row per model, mean and standard deviation over seeds.

    ELBOs of different likelihoods do not compare, so each likelihood is a group of its own.
    """
    groups: dict[str, dict[str, list[dict]]] = {}
    for entry in models:
        groups.setdefault(entry["likelihood"], {}).setdefault(entry["label"], []).append(entry)
    return {likelihood: _rows(entries) for likelihood, entries in groups.items()}


def _rows(entries: dict[str, list[dict]]) -> list[Row]:
    means: dict[str, dict[str, float]] = {}
    for column in COLUMNS:
        for label, runs in entries.items():
            values = [run[column.key] for run in runs if run.get(column.key) is not None]
            if values:
                means.setdefault(column.key, {})[label] = statistics.fmean(values)
    rows = []
    for label, runs in entries.items():
        cells = {}
        for column in COLUMNS:
            if label not in means.get(column.key, {}):
                continue
            values = [run[column.key] for run in runs if run.get(column.key) is not None]
            std = statistics.stdev(values) if len(values) > 1 else None
            mean, rivals = means[column.key][label], means[column.key].values()
            winner = {"low": min(rivals), "high": max(rivals), "": None}[column.better]
            text = format(mean, column.form) + (f" ± {format(std, column.form)}" if std else "")
            text = text.replace("-", "\N{MINUS SIGN}")
            cells[column.key] = Cell(mean, std, winner == mean and len(rivals) > 1, text)
        rows.append(Row(label, len(runs), cells))
    return rows


def used_columns(models: Sequence[dict]) -> list[Column]:
    """The columns for which at least one model has a number."""
    return [column for column in COLUMNS if any(entry.get(column.key) is not None for entry in models)]


def findings(models: Sequence[dict]) -> list[str]:
    """What the numbers say, in sentences: who reconstructs best, who is fastest, who is smallest, who explains best."""
    sentences = []
    rows = [row for group in summarise(models).values() for row in group]
    if len(rows) < 2:
        return sentences
    best, second = sorted(rows, key=lambda row: row.cells["mse"].mean)[:2]
    (mean, std), (next_mean, next_std) = (
        (row.cells["mse"].mean, row.cells["mse"].std or 0.0) for row in (best, second)
    )
    if next_mean - mean > math.hypot(std, next_std):
        sentences.append(
            f"{best.label} reconstructs best: test MSE {best.cells['mse'].text} per pixel, {1 - mean / next_mean:.0%} below "
            f"{second.label}."
        )
    else:
        sentences.append(
            f"{best.label} and {second.label} reconstruct best, level within the spread of the seeds: test MSE "
            f"{best.cells['mse'].text} and {second.cells['mse'].text} per pixel."
        )
    fastest, slowest = (pick(rows, key=lambda row: row.cells["seconds"].mean) for pick in (min, max))
    sentences.append(
        f"{fastest.label} trained in the least time ({describe_seconds(fastest.cells['seconds'].mean)}), {slowest.label} "
        f"in the most ({describe_seconds(slowest.cells['seconds'].mean)})."
    )
    fewest = min((row.cells["parameters"] for row in rows), key=lambda cell: cell.mean)
    smallest = [row.label for row in rows if row.cells["parameters"].mean == fewest.mean]
    sentences.append(f"Fewest parameters: {' and '.join(smallest)} ({fewest.text}).")
    for likelihood, group in summarise(models).items():
        if len(group) > 1:
            top = max(group, key=lambda row: row.cells["elbo"].mean)
            sentences.append(f"Highest ELBO under {likelihood}: {top.label}, {top.cells['elbo'].text} nats per image.")
    changed = [
        f"{row.label} {row.cells['rate_plain'].text} to {row.cells['rate'].text}"
        for row in rows
        if "rate_plain" in row.cells
    ]
    if changed:
        sentences.append(f"Rates under the plain and the fitted prior, nats per image: {', '.join(changed)}.")
    judged = [
        f"{row.cells['class_consistency'].text} of {row.label}'s" for row in rows if "class_consistency" in row.cells
    ]
    if judged:
        sentences.append(f"Samples judged to be of the class asked for: {', '.join(judged)}.")
    return sentences


def write_page(path: Path, results: dict, pictures: Sequence[Picture]) -> Path:
    """Writes index.html: findings, table, figures inlined, protocol. One file, no scripts, nothing fetched."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vaekit.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    inlined = [(picture, *_inline(picture.file)) for picture in pictures]
    html = environment.get_template("page.html.j2").render(
        results=results,
        data=results["data"],
        protocol=results["protocol"],
        groups=summarise(results["models"]),
        columns=used_columns(results["models"]),
        fitted=sorted({(entry["label"], entry["prior"]) for entry in results["models"] if "prior" in entry}),
        findings=findings(results["models"]),
        pictures=inlined,
        pretty=lambda value: json.dumps(value, indent=1),
    )
    write_atomically(path, html)
    return path


def _inline(file: Path) -> tuple[str, int, int]:
    """A PNG file as a data URL, with its width and height in pixels, which its header holds in bytes 16 to 23."""
    content = file.read_bytes()
    width, height = struct.unpack(">II", content[16:24])
    return f"data:image/png;base64,{base64.b64encode(content).decode()}", width, height
