"""Data's way from what was given to the report, drawn from the code: a box a function, an arrow a value that one returns and a
later one takes, both read off their annotations.
"""

from __future__ import annotations

import html
import inspect
import re
import typing
from pathlib import Path

import sources

import vaekit

SOURCE = Path(vaekit.__file__).parents[1]
WAY = [
    "vaekit.data.opening.open_data",
    "vaekit.data.format.Format.of",
    "vaekit.data.format.Format.data",
    "vaekit.estimators.base.Estimator.make_module",
    "vaekit.models.autoencoder.Autoencoder.forward",
    "vaekit.models.objectives.Elbo.__call__",
    "vaekit.tensors.total",
    "vaekit.estimators.fitting.Fitting.train",
    "vaekit.report.measure.measure_run",
    "vaekit.report.entry.Compared",
    "vaekit.report.figures.draw",
    "vaekit.report.page.write_page",
]
WIDTH, BOX, STEP, LEFT, TOP = 560, 50, 78, 10, 10  # of a box, from one to the next, and the margins


class Stop(typing.NamedTuple):
    """A function on the way: its name, where it is, and the names of the types that it takes and gives."""

    name: str
    place: str
    takes: set[str]
    gives: set[str]


class Arrow(typing.NamedTuple):
    """A value of type `what`, from one stop to another, by their places on the way."""

    start: int
    end: int
    what: str


def stops() -> list[Stop]:
    """The way, read off the code."""
    found = []
    for name in WAY:
        function = sources.found(name)
        takes, gives = _taken(function), {name.rsplit(".")[-1]}
        if not inspect.isclass(function):
            gives = _types(inspect.signature(function).return_annotation)
            owner = name.rpartition(".")[0]
            if owner.rpartition(".")[2][0].isupper():  # a method takes what it is of, which was made of something
                takes |= {owner.rpartition(".")[2]} | _taken(sources.found(owner))
        _, line = inspect.getsourcelines(function)
        place = f"{sources.file_of(name).relative_to(SOURCE)}, line {line}"
        found.append(Stop(name.removeprefix("vaekit."), place, takes, gives))
    return found


def _taken(function) -> set[str]:
    """The types in the annotations of what a function, or a class, is called with."""
    return set().union(*(_types(each.annotation) for each in inspect.signature(function).parameters.values()))


def arrows(way: list[Stop]) -> list[Arrow]:
    """What goes where: each value to all who take it, unless another has made a new one of its type on the way."""
    found = []
    for start, stop in enumerate(way):
        for what in sorted(stop.gives):
            for end in range(start + 1, len(way)):
                if what in way[end].takes:
                    found.append(Arrow(start, end, what))
                if what in way[end].gives:
                    break
    return found


def _types(annotation) -> set[str]:
    """The names of our own types, and of Tensor, in an annotation."""
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    return {
        name
        for name in re.findall(r"[A-Z]\w+", text)
        if name not in ("None", "Path", "Iterator", "Mapping", "Sequence")
    }


def draw_way() -> str:
    """The way as an SVG: short arrows on the left go to the next stop, arcs on the right to later ones."""
    way = stops()
    parts, lanes = [], {}
    for index, stop in enumerate(way):
        top = TOP + index * STEP
        parts.append(f'<rect x="{LEFT}" y="{top}" width="{WIDTH}" height="{BOX}" rx="6"/>')
        parts.append(f'<text x="{LEFT + 14}" y="{top + 21}" class="name">{html.escape(stop.name)}</text>')
        parts.append(f'<text x="{LEFT + 14}" y="{top + 40}" class="place">{html.escape(stop.place)}</text>')
    together: dict[tuple[int, int], list[str]] = {}
    for start, end, what in arrows(way):
        together.setdefault((start, end), []).append(what)
    for (start, end), names in together.items():
        below, above = TOP + start * STEP + BOX, TOP + end * STEP
        words = html.escape(", ".join(names))
        if end == start + 1:
            parts.append(f'<path d="M{LEFT + 40} {below} V{above - 2}" marker-end="url(#head)"/>')
            parts.append(f'<text x="{LEFT + 52}" y="{(below + above) / 2 + 4}" class="what">{words}</text>')
            continue
        lane = next(n for n in range(len(way)) if all(end <= a or start >= b for a, b in lanes.get(n, [])))
        lanes.setdefault(lane, []).append((start, end))
        x, right = LEFT + WIDTH + 26 + 74 * lane, LEFT + WIDTH
        y, last = below - 14, above + 14
        parts.append(f'<path d="M{right} {y} H{x} V{last} H{right + 3}" marker-end="url(#head)"/>')
        parts.append(f'<text x="{x + 5}" y="{y + 16}" class="what">{words}</text>')
    width = LEFT + WIDTH + 30 + 74 * max(1, len(lanes))
    height = 2 * TOP + (len(way) - 1) * STEP + BOX
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">\n'
        "<style>rect,path{fill:none;stroke:#4a5568;stroke-width:1.3} rect{fill:#f5f7fa}"
        " text{font-family:sans-serif;fill:#1a202c} .name{font:600 15px monospace}"
        " .place{font-size:12px;fill:#4a5568} .what{font-size:13px;fill:#2b6cb0}</style>\n"
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 L8 4 L0 8 z" style="fill:#4a5568"/></marker></defs>\n' + "\n".join(parts) + "\n</svg>\n"
    )
