"""What the page's living figures are made of: sprites (many images in one PNG) and numbers, ready for JSON.

`script/` draws them. Sizes are kept small, since all of it is inlined: a sprite holds at most about `ROOM` bytes of pixels.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from PIL import Image

from vaekit.data import Images
from vaekit.data.splits import evenly, spread
from vaekit.evaluation.measures import COLUMNS, QUALITY_COLUMNS
from vaekit.fitted import Fitted
from vaekit.pictures.style import (
    CLASSES,
    ERROR_MAP,
    MARKERS,
    SERIES,
    as_pixels,
    class_colours,
    dark_colour,
    reduced,
    tile,
)
from vaekit.registry import MODELS
from vaekit.report.measure import label_names
from vaekit.report.page import png_url

SIDE, SMALL_SIDE = 64, 32  # pixels: no image is larger, and none of the many in a map or a traversal
ROOM = 1_200_000  # bytes of pixels in a sprite
RUNS = 24  # of which the page holds samples, reconstructions and traversals
INPUTS, SAMPLES, POINTS = 20, 64, 1500
TRAVERSED = 16  # latents of a model that are shown one by one
REACH, STEPS = 2.5, 21  # a traversal's range in standard deviations of the prior, and its images
GRID = 24  # decoded images along a side of a map
MOST_CLASSES = len(CLASSES) * len(MARKERS)  # that a scatter plot can tell apart
MOST_DECODED = 20  # classes for which a conditional model's plane is decoded
_TERMS = ("objective", "distortion", "rate")


def living_run(model: Fitted, entry: Mapping, test: Images) -> dict:
    """One run up close: its numbers, training curves, samples, reconstructions of `chosen_inputs`, and traversal.

    entry: the run's line of results.json.
    """
    inputs = test.take(spread(test, INPUTS))
    rebuilt = model.reconstruct(inputs.x, label_names(model, inputs))
    top = 255.0 if test.x.dtype == np.uint8 else 1.0
    errors = np.square((rebuilt.astype(np.float64) - inputs.x) / top).mean((1, 2, 3))
    count = int(np.clip(ROOM // 6 // image_bytes(test, SIDE), 16, SAMPLES))
    samples = model.sample(SAMPLES, random_state=entry["seed"], prior=None if model.has_prior else "plain")
    numbers = [
        [column.heading, format(entry[column.key], column.form).replace("-", "\N{MINUS SIGN}"), column.unit]
        for column in (*COLUMNS, *QUALITY_COLUMNS)
        if entry.get(column.key) is not None
    ]
    terms = {
        term: [float(f"{record[term]:.5g}") for record in model.history]
        for term in _TERMS
        if all(term in record for record in model.history)
    }
    return {
        "label": entry["label"],
        "seed": entry["seed"],
        "prior": entry["prior"],
        "numbers": numbers,
        "epochs": [record["epoch"] for record in model.history],
        "terms": terms,
        "samples": sprite(samples[:count]),
        "rebuilt": sprite(rebuilt),
        "errors": [round(float(error), 6) for error in errors],
        "traversal": _traversal(model, entry["kl_per_latent"], test) if "kl_per_latent" in entry else None,
    }


def living_figures(runs: Sequence[dict], planar: Mapping[str, Fitted], test: Images) -> dict:
    """All that the page's script needs, from `living_run`'s results, the models of two latents, and the test images."""
    inputs = spread(test, INPUTS)
    n = min(POINTS, len(test), max(200, ROOM // image_bytes(test, SMALL_SIDE)))
    part = test.take(np.sort(np.random.default_rng(0).permutation(len(test))[:n]))
    y = part.y if len(test.classes) <= MOST_CLASSES else None
    heat = matplotlib.colormaps[ERROR_MAP](np.arange(256), bytes=True)[:, :3]
    names, colours = ([""], [SERIES[0]]) if y is None else (test.classes, class_colours(len(test.classes)))
    return {
        "classes": [
            {"name": str(name), "colour": colour, "dark": dark_colour(colour), "marker": MARKERS[index // len(CLASSES)]}
            for index, (name, colour) in enumerate(zip(names, colours, strict=True))
        ],
        "uncoloured": len(test.classes) if test.y is not None and y is None else 0,
        "image": list(test.x.shape[1:3]),
        "heat": heat.tolist(),
        "runs": list(runs),
        "inputs": {
            "sprite": sprite(test.x[inputs]),
            "names": None if test.y is None else [str(test.classes[label]) for label in test.y[inputs]],
        },
        "points": {"sprite": sprite(part.x, SMALL_SIDE), "y": None if y is None else y.tolist()},
        "maps": [_map(MODELS[name].label, model, part) for name, model in planar.items()],
    }


def traverse(
    model: Fitted, test: Images, kl: Sequence[float], steps: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The first test image with one latent moved at a time: images (D, steps, H, W, C), nats (D,), latents (D,) from 0,
    their values (steps,); the latent of the largest KL first, and at most TRAVERSED of them.
    """
    order = np.argsort(-np.asarray(kl))[:TRAVERSED]
    values = np.linspace(-REACH, REACH, steps)
    first = test.take(np.arange(1))
    names = label_names(model, first)
    base = model.transform(first.x, names)[0]
    z = np.tile(base, (len(order), steps, 1))
    for row, latent in enumerate(order):
        z[row, :, latent] = values
    images = model.inverse_transform(z.reshape(-1, len(base)), None if names is None else names[0])
    return images.reshape(len(order), steps, *images.shape[1:]), np.asarray(kl)[order], order, values


def _traversal(model: Fitted, kl: Sequence[float], test: Images) -> dict:
    images, nats, latents, values = traverse(model, test, kl, STEPS)
    rows = int(np.clip(ROOM // 3 // (STEPS * image_bytes(test, SMALL_SIDE)), 4, 16))
    return {
        "sprite": sprite(images[:rows].reshape(-1, *images.shape[2:]), SMALL_SIDE),
        "latents": [int(latent) + 1 for latent in latents[:rows]],
        "nats": [round(float(value), 3) for value in nats[:rows]],
        "values": [round(float(value), 3) for value in values],
    }


def _map(label: str, model: Fitted, part: Images) -> dict:
    """A plane of two latents: where the images of `part` lie in it, and what it decodes to, for each class of a conditional
    model. Decoded row by row, from the upper left; a decoded image stands for the middle of its cell.
    """
    z = model.transform(part.x, label_names(model, part))
    low, high = np.percentile(z, [0.3, 99.7], axis=0)
    middle, half = (low + high) / 2, 0.56 * (high - low).max() or 1.0  # one scale for both axes
    labels, classes = [None], model.format.classes
    if classes is not None:
        labels = [classes[index] for index in evenly(len(classes), MOST_DECODED)]
    steps = int(np.clip(math.sqrt(ROOM / (len(labels) * image_bytes(part, SMALL_SIDE))), 5, GRID))
    places = ((np.arange(steps) + 0.5) / steps * 2 - 1) * half
    plane = np.stack(np.meshgrid(middle[0] + places, middle[1] + places[::-1]), axis=-1).reshape(-1, 2)
    return {
        "label": label,
        "low": [round(float(value), 4) for value in middle - half],
        "high": [round(float(value), 4) for value in middle + half],
        "steps": steps,
        "labels": None if classes is None else [str(name) for name in labels],
        "classes": 0 if classes is None else len(classes),
        "sprites": [sprite(model.inverse_transform(plane, name), SMALL_SIDE) for name in labels],
        "z": np.round(z.astype(np.float64), 3).tolist(),
    }


def image_bytes(images: Images, side: int) -> int:
    """Bytes of one of `images` in a sprite of images of at most `side` pixels."""
    height, width, channels = images.x.shape[1:]
    factor = math.ceil(max(height, width) / side)
    return math.ceil(height / factor) * math.ceil(width / factor) * min(channels, 3)


def sprite(images: np.ndarray, side: int = SIDE) -> dict:
    """(N, H, W, C) uint8, or floats in [0, 1] -> one PNG in which they stand row by row, as a data URL, and their measures.

    Images larger than `side` are brought below it by a whole factor: means of blocks.
    """
    pixels = reduced(as_pixels(images), side)
    count, height, width, _ = pixels.shape
    columns = math.ceil(math.sqrt(count * height / width))
    blank = np.zeros((-count % columns, *pixels.shape[1:]), np.uint8)
    sheet = tile(np.concatenate([pixels, blank]).reshape(-1, columns, *pixels.shape[1:]), gutter=0)
    file = io.BytesIO()
    Image.fromarray(sheet[..., 0] if images.shape[-1] == 1 else sheet[..., :3]).save(file, "PNG", optimize=True)
    return {"src": png_url(file.getvalue()), "count": count, "columns": columns, "width": width, "height": height}
