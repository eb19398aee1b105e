"""The comparison as one self-contained HTML file, and the table behind it."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import statistics
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from vaekit.evaluation.measures import COLUMNS, LABEL_GIVEN, QUALITY_COLUMNS, Column
from vaekit.owned import write_atomically
from vaekit.training.progress import describe_seconds


class Picture(NamedTuple):
    """A figure of the page: its PNG file, a title, one sentence on what to look for, a text for who can't see it, and what lies
    over the file's pixels on a dark page, a PNG from `vaekit.pictures.style.on_dark`.
    """

    file: Path
    title: str
    text: str
    alt: str
    dark: bytes = b""


TIMES = ("seconds", "images_per_second")  # of one run, they say little of a model


class Cell(NamedTuple):
    """Mean over seeds, sample standard deviation (None for one seed), whether it alone is the best of its group, and how the
    mean, and mean and deviation, are printed.
    """

    mean: float
    std: float | None
    best: bool
    printed: str
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


def quality(models: Sequence[dict]) -> list[Row]:
    """The same for the second table, whose figures compare whatever the likelihood."""
    by_label: dict[str, list[dict]] = {}
    for entry in models:
        by_label.setdefault(entry["label"], []).append(entry)
    return _rows(by_label)


def references(models: Sequence[dict]) -> list[str]:
    """What the second table's figures are to be held against: PCA and pixels, and real images in the samples' place."""
    sentences = []
    probed = [entry for entry in models if "probe_accuracy_pca" in entry]
    if probed:
        widths = {entry["pca_width"]: entry for entry in probed}
        pca = ", ".join(f"{entry['probe_accuracy_pca']:.1%} of {width}" for width, entry in sorted(widths.items()))
        first = probed[0]
        sentences.append(
            f"A linear probe of as many principal components of the images gets {pca} components, one of their pixels "
            f"{first['probe_accuracy_pixels']:.1%}; 5 neighbours in pixels {first['knn_accuracy_pixels']:.1%}. Probes learn "
            f"from {first['probe_train']:,} training images and are asked of {first['probe_test']:,} test images."
        )
    judged = [entry for entry in models if "frechet_floor" in entry]
    if judged:
        first = judged[0]
        floors = ", ".join(f"{name} {first[f'{name}_floor']:.2f}" for name in ("precision", "recall", "coverage"))
        sentences.append(
            f"Samples are compared with {first['real']:,} test images, {first['samples']:,} of each model; as many real "
            f"training images in their place get Frechet {first['frechet_floor']:.2f}, {floors}: the best to be expected. "
            f"Measured in {first['features']}."
        )
    weighed = [entry for entry in models if "nll_k" in entry]
    if weighed:
        first = weighed[0]
        sentences.append(
            f"NLL: importance-weighted, {first['nll_k']} draws, {first['nll_images']:,} test images; a VQ-VAE's code is "
            "certain, and its NLL is bounded by the ELBO alone."
        )
    return sentences


def _rows(entries: dict[str, list[dict]]) -> list[Row]:
    means: dict[str, dict[str, float]] = {}
    for column in (*COLUMNS, *QUALITY_COLUMNS):
        for label, runs in entries.items():
            values = [run[column.key] for run in runs if run.get(column.key) is not None]
            if values:
                means.setdefault(column.key, {})[label] = statistics.fmean(values)
    rows = []
    for label, runs in entries.items():
        cells = {}
        for column in (*COLUMNS, *QUALITY_COLUMNS):
            if label not in means.get(column.key, {}):
                continue
            values = [run[column.key] for run in runs if run.get(column.key) is not None]
            std = statistics.stdev(values) if len(values) > 1 else None
            mean, rivals = means[column.key][label], means[column.key].values()
            winner = {"low": min(rivals), "high": max(rivals), "": None}[column.better]
            printed = [format(rival, column.form) for rival in rivals]
            text = format(mean, column.form)
            best = winner == mean and len(printed) > 1 and printed.count(text) == 1
            if column.key in TIMES and min(map(len, entries.values())) < 2:
                best = False
            shown = [
                part.replace("-", "\N{MINUS SIGN}") for part in (text, f"{text} ± {std:{column.form}}" if std else text)
            ]
            cells[column.key] = Cell(mean, std, best, *shown)
        rows.append(Row(label, len(runs), cells))
    return rows


def used_columns(models: Sequence[dict], columns: Sequence[Column] = COLUMNS) -> list[Column]:
    """Those of `columns` for which at least one model has a number."""
    return [column for column in columns if any(entry.get(column.key) is not None for entry in models)]


def findings(models: Sequence[dict]) -> list[str]:
    """What the numbers say, in sentences: who reconstructs best, who is smallest, who explains best; and who is fastest, where
    several seeds were timed.
    """
    sentences = []
    rows = [row for group in summarise(models).values() for row in group]
    if len(rows) < 2:
        return sentences
    if any(row.seeds == 1 for row in rows):
        sentences.append("One seed is one draw: what is close here may turn with another; --seeds 3 says by how much.")
    best, *level = leaders = _leaders(rows, "mse", min)
    if level:
        names, values, how = _told(leaders, "mse")
        sentences.append(f"{names} reconstruct best{how}: test MSE {values} per pixel.")
    else:
        second = min((row for row in rows if row is not best), key=lambda row: row.cells["mse"].mean)
        share = 1 - best.cells["mse"].mean / second.cells["mse"].mean
        sentences.append(
            f"{best.label} reconstructs best: test MSE {best.cells['mse'].text} per pixel, {share:.0%} below {second.label}."
        )
    timed = [row for row in rows if row.seeds > 1]  # how long one run took depends on what else the machine did
    if timed:
        fastest, slowest = (_leaders(timed, "seconds", pick) for pick in (min, max))
        if len(fastest) == len(slowest) == 1 and fastest != slowest:
            (low, high) = (describe_seconds(row.cells["seconds"].mean) for (row,) in (fastest, slowest))
            sentences.append(
                f"{fastest[0].label} trained in the least time ({low}), {slowest[0].label} in the most ({high})."
            )
    fewest = min((row.cells["parameters"] for row in rows), key=lambda cell: cell.mean)
    smallest = [row.label for row in rows if row.cells["parameters"].mean == fewest.mean]
    if len(smallest) < len(rows):
        sentences.append(f"Fewest parameters: {joined(smallest)} ({fewest.text}).")
    for likelihood, group in summarise(models).items():
        if len(group) > 1:
            names, values, how = _told(_leaders(group, "elbo", max), "elbo")
            sentences.append(f"Highest ELBO under {likelihood}: {names}{how}, {values} nats per image.")
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
    given = [
        row.label
        for likelihood, group in summarise(models).items()
        for row in group
        if likelihood.endswith(LABEL_GIVEN)
    ]
    return sentences + _quality_findings(rows, [row for row in rows if row.label not in given])


def _leaders(rows: Sequence[Row], key: str, pick: Callable) -> list[Row]:
    """The best row, and those level with it: printed alike, or no further away than the seeds of the two spread."""
    best = pick(rows, key=lambda row: row.cells[key].mean)
    top = best.cells[key]

    def level(cell: Cell) -> bool:
        return cell.printed == top.printed or abs(cell.mean - top.mean) <= math.hypot(cell.std or 0.0, top.std or 0.0)

    return [best, *(row for row in rows if row is not best and level(row.cells[key]))]


def _told(leaders: Sequence[Row], key: str) -> tuple[str, str, str]:
    """Names and values of the best, and in which way they are level, where they are several."""
    how = "" if len(leaders) == 1 else ", level"
    if how and any(row.cells[key].std is not None for row in leaders):
        how += " within the spread of the seeds"
    return joined([row.label for row in leaders]), joined([row.cells[key].text for row in leaders]), how


def joined(words: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _quality_findings(rows: Sequence[Row], untold: Sequence[Row]) -> list[str]:
    """Whose latents tell most of the class, of those that are `untold` it, and whose samples are nearest to real images."""
    sentences = []
    for key, text, pick, among in (
        (
            "probe_accuracy",
            "A linear probe reads the class best from the latents of {label}: {value} of test images.",
            max,
            untold,
        ),
        ("frechet", "Nearest to real images, by Frechet distance: samples of {label}, {value}.", min, rows),
    ):
        measured = [row for row in among if key in row.cells]
        if len(measured) > 1:
            names, values, how = _told(_leaders(measured, key, pick), key)
            sentences.append(text.format(label=names + how, value=values))
    return sentences


def _script() -> str:
    """What makes the report answer to the hand, from the files in script/, in one function. Everything there is built as text
    and canvas, never from HTML, so that names in the data stay names.
    """
    folder = Path(__file__).parent / "script"
    parts = [(folder / f"{name}.js").read_text("utf-8") for name in ("base", "map", "runs", "start")]
    return '"use strict";\n(() => {\n' + "\n".join(parts) + "})();\n"


def write_page(path: Path, results: dict, pictures: Sequence[Picture], living: dict | None = None) -> Path:
    """Writes index.html: findings, table, figures inlined, protocol. One file that fetches nothing.

    living: what `vaekit.report.living` gives: the page's script then makes figures that answer to the hand; in print and
    without scripts the still ones are there.
    """
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vaekit.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    inlined = [(picture, *_inline(picture.file)) for picture in pictures]
    style, script = (Path(__file__).parent / "living.css").read_text("utf-8"), _script()
    html = environment.get_template("page.html.j2").render(
        results=results,
        data=results["data"],
        protocol=results["protocol"],
        groups=summarise(results["models"]),
        columns=used_columns(results["models"]),
        quality=quality(results["models"]),
        quality_columns=used_columns(results["models"], QUALITY_COLUMNS),
        references=references(results["models"]),
        fitted=sorted({(entry["label"], entry["prior"]) for entry in results["models"] if "prior" in entry}),
        findings=findings(results["models"]),
        pictures=inlined,
        png_url=png_url,
        pretty=lambda value: json.dumps(value, indent=1),
        living=Markup(embeddable(living)) if living else "",
        runs_shown=len(living["runs"]) if living else 0,
        style=Markup(style),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    write_atomically(path, html)
    return path


def _inline(file: Path) -> tuple[str, int, int]:
    """A PNG file as a data URL, with its width and height in pixels, which its header holds in bytes 16 to 23."""
    content = file.read_bytes()
    width, height = struct.unpack(">II", content[16:24])
    return png_url(content), width, height


def png_url(content: bytes) -> str:
    """A PNG as a data URL."""
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def embeddable(value) -> str:
    """JSON that can stand inside a script element: whatever names the data holds, it neither ends it nor starts another."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)  # ASCII
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
