"""What the commands leave: tables on a terminal, and files of images and arrays."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vaekit.data import Images
from vaekit.data.images import evenly
from vaekit.report.page import QUALITY_COLUMNS, findings, quality, summarise, used_columns
from vaekit.world import write_atomically

LISTED = 20  # words of a list on a terminal


def print_table(title: str, rows: dict) -> None:
    """Names and values as a two-column table; class names are data, whatever brackets they hold."""
    table = Table(title=Text(title), show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for key, value in rows.items():
        table.add_row(Text(key.replace("_", " ")), Text(plain(value)))
    Console().print(table)


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
        table.add_row(*row)
    Console(width=max(Console().width, width)).print(table)


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


def check_kind(out: str, *kinds: str) -> None:
    """A file of a known kind, or a folder: a name with another ending is a file that we can't write."""
    suffix = Path(out).suffix
    if suffix and suffix not in kinds and not out.endswith("/") and not Path(out).is_dir():
        raise ValueError(f"--out must end in {', '.join(kinds)}, or be a folder (with a / at its end), got {out!r}")


def write_array(out: str, x: np.ndarray, y: np.ndarray | None = None) -> None:
    """`x` as .npy, or as .npz, with the labels `y` where there are any."""
    buffer = io.BytesIO()
    if out.endswith(".npz"):
        labels = {} if y is None else {"y": y}
        np.savez_compressed(buffer, x=x, **labels)  # pyright: ignore[reportArgumentType]  (none is named allow_pickle)
    else:
        np.save(buffer, x)
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, buffer.getvalue())


def write_images(out: str, images: np.ndarray, labels: np.ndarray | None = None) -> None:
    """Images (N, H, W[, C]) as a picture of a grid, a row a class where there are several, as an array (.npz with the labels),
    or as a folder, as `out` is named.
    """
    if out.endswith(".png"):
        from vaekit.pictures.figures import image_grid, labelled_rows
        from vaekit.pictures.fonts import shortened
        from vaekit.pictures.style import save

        images = images[..., None] if images.ndim == 3 else images
        classes = [] if labels is None else list(dict.fromkeys(labels.tolist()))
        if labels is None or len(classes) == 1:
            figure = image_grid(images, title=f"class {shortened(classes[0])}" if classes else None)
        else:
            figure = labelled_rows({str(name): images[labels == name] for name in sorted(classes)})
        save(figure, out)
    elif out.endswith((".npy", ".npz")):
        write_array(out, images, labels)
    else:
        _write_folder(Path(out), images, labels)


def write_contact_sheet(out: str, images: Images) -> None:
    """Ten images of each of up to 40 classes, or 64 images where there are none; large ones are thinned out."""
    from vaekit.pictures.figures import image_grid, labelled_rows
    from vaekit.pictures.style import save

    if images.is_table:
        raise ValueError(f"{images.name} is a table of vectors; a contact sheet is of images")
    thin = -(-max(images.image_shape[:2]) // 96)
    order = np.random.default_rng(0).permutation(len(images))

    def shown(index: np.ndarray) -> np.ndarray:
        return images.x[np.sort(index)][:, ::thin, ::thin]

    if images.y is None:
        title = f"{min(64, len(images))} of {len(images):,} images"
        figure = image_grid(shown(order[:64]), title=title)
    else:
        present = np.unique(images.y)
        some = present[evenly(len(present), 40)]
        rows = {str(images.classes[i]): shown(order[images.y[order] == i][:10]) for i in some}
        classes = f"{len(some)} of {len(present):,} classes" if len(some) < len(present) else "all classes"
        figure = labelled_rows(rows, title=f"{classes}, up to 10 images of each")
    save(figure, out)


def _write_folder(folder: Path, images: np.ndarray, labels: np.ndarray | None) -> None:
    """PNG files, in a sub-folder per class when there are labels: what `open_data` reads back. All of them or none."""
    from PIL import Image

    from vaekit.pictures.style import as_pixels

    if images.ndim < 3:
        raise ValueError("tables can't be written as images; choose an --out that ends in .npy")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is not an empty folder")
    names = [""] * len(images) if labels is None else [str(label) for label in labels]
    for name in sorted(set(names)):
        if labels is not None and (not name or name.startswith((".", "__MACOSX")) or "/" in name or "\\" in name):
            raise ValueError(f"class {name!r} can't be the name of a folder; choose an --out that ends in .npz")
    grey = images.ndim == 3 or images.shape[-1] == 1
    pixels = as_pixels(images.reshape(*images.shape[:3], -1))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent) as temporary:
        whole = Path(temporary) / "images"
        for name in {"", *names}:
            (whole / name).mkdir(parents=True, exist_ok=True)
        for index, (name, image) in enumerate(zip(names, pixels, strict=True)):
            Image.fromarray(image[..., 0] if grey else image).save(whole / name / f"{index:06d}.png")
        whole.replace(folder)
