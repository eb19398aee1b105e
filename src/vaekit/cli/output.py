"""What the commands leave: tables on a terminal, and files of images and arrays."""

from __future__ import annotations

import io
import itertools
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vaekit.data import Images
from vaekit.data.readers import ORIGIN
from vaekit.data.splits import evenly
from vaekit.data.tables import TABLE_SUFFIXES, as_text, load_pyarrow, write_table
from vaekit.evaluation.measures import QUALITY_COLUMNS
from vaekit.messages import in_rows
from vaekit.owned import check_file, check_new_folder, write_atomically
from vaekit.report.page import findings, quality, summarise, used_columns
from vaekit.report.verdict import Group

LISTED = 20  # words of a list on a terminal
SHEET_CLASSES, SHEET_SIDE = 100, 96  # of a contact sheet: classes, and pixels of an image's side, at most
SAMPLE_SUFFIXES = (".png", ".npy", ".npz", *TABLE_SUFFIXES)
Origin = Mapping[str, np.ndarray]  # what samples were: columns `file` or `row`, `split`, ...


def print_table(title: str, rows: dict) -> None:
    """Names and values as a two-column table; class names are data, whatever brackets they hold."""
    table = Table(title=Text(title), show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for key, value in rows.items():
        table.add_row(Text(key), Text(plain(value)))
    Console().print(table)


def worded(facts: dict) -> dict:
    """Facts by the words of their keys."""
    return {key.replace("_", " "): value for key, value in facts.items()}


def print_verdict(title: str, groups: Sequence[Group], *, rows: bool = False) -> None:
    """What an evaluation says, group after group: its headline, + what is good about it and ! what is bad, and its numbers.
    rows: of those of a table, which has no images.
    """
    console = Console()
    console.print(Text(title, style="bold"), soft_wrap=True)
    for group in groups:
        said = [
            f"{group.name}: {group.headline}",
            *(f"{'+' if good else '!'} {words}" for good, words in group.remarks),
        ]
        console.print()
        for line in said:
            console.print(Text(in_rows(line, rows)), soft_wrap=True)
        table = Table(show_header=False)
        for name, value in group.rows.items():
            table.add_row(Text(in_rows(name, rows), style="bold"), Text(in_rows(value, rows)))
        console.print(table)


def print_points(title: str, points: list[dict]) -> None:
    """A sweep's points, one a line."""
    forms = {
        "latent_dim": "d",
        "beta": "g",
        "seed": "d",
        "rate": ".2f",
        "distortion": ".2f",
        "elbo": ".2f",
        "mse": ".5f",
        "active_units": "d",
        "probe_accuracy": ".1%",
        "frechet": ".2f",
        "seconds": ".1f",
    }
    forms = {key: form for key, form in forms.items() if key in points[0]}
    rows = [[format(point[key], form) for key, form in forms.items()] for point in points]
    _print_columns(Text(title), [key.replace("_", " ") for key in forms], rows, width=120)


def print_comparison(models: list[dict]) -> None:
    """The report's tables, and what they show in words."""
    tables = []
    for likelihood, rows in summarise(models).items():
        columns = used_columns([entry for entry in models if entry["likelihood"] == likelihood])
        tables.append((f"likelihood: {likelihood}", rows, columns))
    if columns := used_columns(models, QUALITY_COLUMNS):
        tables.append(("reconstructions, latents and samples", quality(models), columns))
    for title, rows, columns in tables:
        headings = ["model", *(f"{column.heading}\n{column.unit}" for column in columns)]
        cells = [[row.label, *(row.cells[c.key].text if c.key in row.cells else "" for c in columns)] for row in rows]
        _print_columns(title, headings, cells, width=170)
    print("\n".join(findings(models)))


def _print_columns(title: str | Text, headings: list[str], rows: list[list[str]], width: int) -> None:
    """A table of numbers, whose lines of up to `width` characters are not broken on a narrower terminal."""
    table = Table(title=title, title_justify="left")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for row in rows:
        table.add_row(*map(Text, row))
    Console(width=max(Console().width, width)).print(table)


def print_lowest(columns: dict[str, np.ndarray], by: str, n: int = 10) -> None:
    """The n samples of the lowest `by`, a line each."""
    lowest = np.argsort(columns[by], kind="stable")[:n]
    cells = [[plain(value) for value in column[lowest].tolist()] for column in columns.values()]
    shown = [[_in_one_line(cell) for cell in row] for row in zip(*cells, strict=True)]
    _print_columns("", [name.replace("_", " ") for name in columns], shown, width=120)


def _in_one_line(text: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def plain(value) -> str:
    """A value in words, numbers to six digits."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return _some([plain(item) for item in value])
    if isinstance(value, dict):
        return _some([f"{key}: {plain(item)}" for key, item in value.items()])
    return str(value)


def _some(words: list[str]) -> str:
    """The first of many words, and how many more there are; JSON has them all."""
    more = f", and {len(words) - LISTED:,} more" if len(words) > LISTED else ""
    return ", ".join(words[:LISTED]) + more


def check_out(out: str, *kinds: str, inputs: Sequence[str] = (), overwrite: bool = False) -> None:
    """Raises ValueError unless `out` is a file of one of these kinds that may be written, or a new or empty folder: a name with
    another ending is a file that we can't write.
    """
    suffix = Path(out).suffix
    if out.endswith(kinds):
        check_file(out, inputs=inputs, overwrite=overwrite)
    elif suffix and not out.endswith("/") and not Path(out).is_dir():
        raise ValueError(f"--out must end in {', '.join(kinds)}, or be a folder (with a / at its end), got {out!r}")
    else:
        check_new_folder(out, inputs=inputs)


def check_table(out: str) -> None:
    """Before the work that a missing library would make useless."""
    if out.endswith(".parquet"):
        load_pyarrow(out)


def write_array(
    out: str, x: np.ndarray, y: np.ndarray | None = None, origin: Mapping[str, np.ndarray] | None = None
) -> None:
    """`x` as .npy, or as .npz, with the labels `y` where there are any, and what the samples were: `names` of files or `rows`,
    and `split`.
    """
    buffer = io.BytesIO()
    if out.endswith(".npz"):
        more = {} if y is None else {"y": y}
        more |= {
            name: np.asarray(origin[column]) for name, (column, _) in ORIGIN.items() if origin and column in origin
        }
        more = {name: array.astype(str) if array.dtype == object else array for name, array in more.items()}
        np.savez_compressed(buffer, x=x, **more)  # pyright: ignore[reportArgumentType]  (none is named allow_pickle)
    else:
        np.save(buffer, x)
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, buffer.getvalue())


def write_columns(out: str, columns: Mapping[Any, np.ndarray]) -> None:
    """Columns (N,) by name as .csv, .tsv (.gz, too) or .parquet."""
    plain = {name: as_text(column) if column.dtype.kind in "OU" else column for name, column in columns.items()}
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, write_table(Path(out), plain))


def write_rows(out: str, model, rows, y: np.ndarray | None = None, origin: Origin | None = None) -> None:
    """Rows of a table, as `sample` and `reconstruct` of its model give them, as `out` is named, their labels beside them."""
    header = model.format.columns.header
    if out.endswith(TABLE_SUFFIXES):
        columns = model.format.columns.cells(np.asarray(rows, np.float64))
        if y is not None and any(isinstance(name, str) for name in columns):
            columns[header.label or "label"] = np.asarray(y)
        write_columns(out, columns)
    elif out.endswith((".npy", ".npz")):
        write_array(out, np.asarray(rows), y, origin)
    else:
        raise ValueError(
            f"rows of a table are no images; choose an --out that ends in .npy, .npz, {', '.join(TABLE_SUFFIXES)}"
        )


def write_samples(out: str, model, samples, labels: np.ndarray | None = None, *, origin: Origin | None = None) -> None:
    """Samples of a model, images or rows of a table, as `out` is named; origin: what they were."""
    if model.format.is_table:
        write_rows(out, model, samples, labels, origin)
    elif out.endswith(TABLE_SUFFIXES):
        raise ValueError(
            f"images are no rows of a table: --out must end in .png, .npy or .npz, or be a folder, got {out!r}"
        )
    else:
        write_images(out, samples, labels, origin=origin)


def write_images(
    out: str, images: np.ndarray, labels: np.ndarray | None = None, *, origin: Origin | None = None
) -> None:
    """Images (N, H, W[, C]) as a picture of a grid, a row a class where there are several, as an array (.npz with the labels),
    or as a folder, as `out` is named.

    origin: what they were, whose names they keep; None counts them, in a folder per class where there are labels.
    """
    if out.endswith(".png"):
        from vaekit.pictures.fonts import shortened
        from vaekit.pictures.sheets import image_grid, labelled_rows
        from vaekit.pictures.style import save

        images = images[..., None] if images.ndim == 3 else images
        classes = [] if labels is None else list(dict.fromkeys(labels.tolist()))
        if labels is None or len(classes) == 1:
            figure = image_grid(images, title=f"class {shortened(classes[0])}" if classes else None)
        else:
            figure = labelled_rows({str(name): images[labels == name] for name in sorted(classes)})
        save(figure, out)
    elif out.endswith((".npy", ".npz")):
        write_array(out, images, labels, origin)
    else:
        _write_folder(Path(out), images, _places_by_class(labels, len(images)) if not origin else _places(origin))


def write_contact_sheet(out: str, images: Images) -> None:
    """Ten images of each class, or 64 images where there are none; of very many classes some, and how many are left out."""
    from vaekit.pictures.sheets import image_grid, labelled_rows
    from vaekit.pictures.style import as_pixels, reduced, save

    if images.is_table:
        raise ValueError(f"{images.name} is a table of vectors; a contact sheet is of images")
    order = np.random.default_rng(0).permutation(len(images))

    def shown(index: np.ndarray) -> np.ndarray:
        return reduced(as_pixels(images.x[np.sort(index)]), SHEET_SIDE)

    if images.y is None:
        title = f"{min(64, len(images))} of {len(images):,} images"
        figure = image_grid(shown(order[:64]), title=title)
    else:
        present = np.unique(images.y)
        some = present[evenly(len(present), SHEET_CLASSES)]
        rows = {str(images.classes[i]): shown(order[images.y[order] == i][:10]) for i in some}
        left_out = f"{len(some)} of {len(present):,} classes, {len(present) - len(some):,} left out"
        classes = left_out if len(some) < len(present) else f"all {len(present)} classes"
        figure = labelled_rows(rows, title=f"{classes}; up to 10 images of each")
    save(figure, out)


def _places_by_class(labels: np.ndarray | None, n: int) -> list[str]:
    """000000.png and so on, in a sub-folder per class when there are labels: what `open_data` reads back."""
    if labels is None:
        return [f"{index:06d}.png" for index in range(n)]
    for name in sorted(set(map(str, labels))):
        if not name or name.startswith((".", "__MACOSX")) or "/" in name or "\\" in name:
            raise ValueError(f"class {name!r} can't be the name of a folder; choose an --out that ends in .npz")
    return [f"{label}/{index:06d}.png" for index, label in enumerate(labels)]


def _places(origin: Mapping[str, np.ndarray]) -> list[str]:
    """Where the images that were these files, or rows, go: by the same names, as .png. Of two that would share one, be it by
    case alone, one keeps its old ending before the new one. ValueError for a name that leads out of a folder.
    """
    if "file" in origin:
        names = [str(name) for name in origin["file"]]
    else:
        names = [f"{row:06d}" for row in origin["row"].tolist()]
        if len(set(names)) < len(names):  # each part has rows of its own
            names = [f"{split}/{name}" for split, name in zip(origin["split"], names, strict=True)]
    taken, places = set(), [""] * len(names)
    for name in names:
        path = PurePath(name)
        if not path.name or path.is_absolute() or path.drive or ".." in path.parts or "\0" in name:
            raise ValueError(f"{name!r} can't be the name of a file in --out; choose one that ends in .npz")
        taken |= {str(folder).casefold() for folder in path.parents}
    # Those that can keep their name come first.
    for index in sorted(range(len(names)), key=lambda index: not names[index].endswith(".png")):
        stem, suffix = os.path.splitext(names[index])
        stem = stem if any(map(str.isalpha, suffix)) else names[index]  # 7.0001 is no ending
        numbered = (f"{names[index]}.{count}.png" for count in itertools.count(2))
        for place in itertools.chain([f"{stem}.png", f"{names[index]}.png"], numbered):
            if (key := str(PurePath(place)).casefold()) not in taken:
                break
        taken.add(key)
        places[index] = place
    return places


def _write_folder(folder: Path, images: np.ndarray, places: list[str]) -> None:
    """PNG files at `places` in the folder. All of them or none."""
    from PIL import Image

    from vaekit.pictures.style import as_pixels

    if images.ndim < 3:
        raise ValueError("tables can't be written as images; choose an --out that ends in .npy")
    folder = check_new_folder(folder)
    grey = images.ndim == 3 or images.shape[-1] == 1
    pixels = as_pixels(images.reshape(*images.shape[:3], -1))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent) as temporary:
        whole = Path(temporary) / "images"
        for base in {os.path.dirname(place) for place in places}:
            (whole / base).mkdir(parents=True, exist_ok=True)
        for place, image in zip(places, pixels, strict=True):
            Image.fromarray(image[..., 0] if grey else image).save(whole / place)
        whole.replace(folder)
