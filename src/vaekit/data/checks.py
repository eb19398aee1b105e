"""The checks at the door: what users give as images and labels, made arrays as vaekit stores them, or refused in words."""

from __future__ import annotations

import math

import numpy as np

from vaekit.data.frames import frame_library, frame_values, not_finite
from vaekit.data.given import as_array, as_whole, refuse_unread
from vaekit.data.images import Images
from vaekit.data.mapped import Rows, chunks
from vaekit.data.pixels import WHOLE, brightest, find_white
from vaekit.messages import listed
from vaekit.state import warn


def check_array(X, name: str = "X", *, white: int | None = None) -> np.ndarray:
    """Images or a table as vaekit stores them. A copy is made only where the type has to change.

    Images (N, H, W) or (N, H, W, C), C from 1 to 4: integers in 0..255 -> uint8, booleans -> 0 and 255, floats in [0, 1] ->
    float32; the result is (N, H, W, C). Three axes are always read as grey images.
    Tables (N, D): any finite reals -> floating point; data frames of pandas and polars are tables.
    white: the value of white in integers that are 0 and 1 alone, 1 or 255; None takes them for black and white, and warns.
    Raises ValueError that names the array, what was expected and what was found.
    """
    if isinstance(X, Rows):
        return X  # type: ignore[return-value]  # cut from an array that was checked
    if isinstance(X, Images):
        raise ValueError(
            f"{name} is a data set of vaekit: pass its arrays, {name}.x and {name}.y, or call fit_images({name})"
        )
    x = _numbers(X, name)
    if x.ndim not in (2, 3, 4):
        raise ValueError(
            f"{name} must be images (N, H, W) or (N, H, W, C) or a table (N, D), got {x.ndim} axes. Reshape your data"
        )
    if len(x) == 0:
        raise ValueError(f"Found array with 0 sample(s) in {name} (shape={x.shape}) while a minimum of 1 is required.")
    if x.dtype.kind == "f":
        _check_finite(x, name)
    if x.ndim == 2:
        if x.shape[1] == 0:
            raise ValueError(
                f"{name}: Found array with 0 feature(s) (shape={x.shape}) while a minimum of 1 is required."
            )
        return x if x.dtype in (np.float32, np.float64) else x.astype(np.float64)
    return _pixels(_with_channel_axis(x, name), name, white)


def _numbers(X, name: str) -> np.ndarray:
    """`X` as an array of booleans, integers or floats, of any shape."""
    refuse_unread(X, name)
    x = frame_values(X, name) if frame_library(X) else as_array(X, name)
    if x.dtype.kind == "O":
        try:
            x = x.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name} must hold numbers, got objects ({error})") from None
    if x.dtype.kind == "c":
        raise ValueError(f"Complex data not supported: {name} has dtype {x.dtype}")
    if x.dtype.kind not in "biuf":
        fields = f" with the fields {', '.join(x.dtype.names)}: stack those that are numbers" if x.dtype.names else ""
        raise ValueError(f"{name} must hold numbers, got dtype {x.dtype}{fields}")
    return x


def _with_channel_axis(x: np.ndarray, name: str) -> np.ndarray:
    """Images (N, H, W) or (N, H, W, C) as (N, H, W, C), of 1 to 4 channels and at least 2x2 pixels."""
    if x.ndim == 3 and x.shape[2] in (3, 4) and min(x.shape[:2]) >= 8:
        warn(
            f"{name} of shape {x.shape} is read as {len(x)} grey images of {x.shape[1]}x{x.shape[2]} pixels; if it is one "
            f"picture in colour, pass a batch: {name}[None]"
        )
    x = x[..., None] if x.ndim == 3 else x
    if not 1 <= x.shape[3] <= 4:
        raise ValueError(
            f"{name} has {x.shape[3]} channels; images are (N, H, W, C) with 1 to 4, the channels last "
            f"(for (N, C, H, W) use {name}.transpose(0, 2, 3, 1))"
        )
    if min(x.shape[1:3]) < 2:
        raise ValueError(f"{name} has images of {x.shape[1]}x{x.shape[2]} pixels; at least 2x2 are needed")
    return x


def _pixels(x: np.ndarray, name: str, white: int | None) -> np.ndarray:
    """Images of booleans or integers as uint8, of floats as float32 in [0, 1]."""
    if x.dtype.kind == "b":
        return x.astype(np.uint8) * np.uint8(255)
    if x.dtype.kind in "iu":
        if x.dtype != np.uint8:
            low, high = x.min(), x.max()
            if low < 0 or high > (1 if x.dtype == np.int8 else 255):
                raise ValueError(
                    f"{name} has integer pixels from {low} to {high}; 8-bit images are 0 to 255{_remedy(name, low, high)}"
                )
            x = x.astype(np.uint8)
        return _black_and_white(x, name, white)
    low, high = x.min(), x.max()
    if low < 0 or high > 1:
        raise ValueError(
            f"{name} has float pixels from {low:.4g} to {high:.4g}; floats must be in [0, 1]{_remedy(name, low, high)}"
        )
    return x.astype(np.float32, copy=False)


def _check_finite(x: np.ndarray, name: str) -> None:
    """Raises ValueError that names the first sample with NaN or infinity, and of a table every column that has some."""
    for start, part in chunks(x):
        if np.isfinite(part).all():
            continue
        bad = start + np.argwhere(~np.isfinite(part.reshape(len(part), -1)).all(1))[0, 0]
        found = f"{name} holds NaN or infinity (first in sample {bad})"
        if x.ndim != 2:
            raise ValueError(f"{found}; clean or drop such samples")
        said = [f"column {i} {problem}" for i in range(x.shape[1]) if (problem := not_finite(x[:, i]))]
        raise ValueError(f"{found}: {listed(said)}")


def _remedy(name: str, low, high) -> str:
    """How pixels from `low` to `high` come to be floats in [0, 1], for the end of a sentence."""
    if low < 0:
        if low >= -1 and high <= 1:
            return f"; rescale them first: ({name} + 1) / 2 where they are from -1 to 1"
        if low >= -128 and high <= 127:
            return f"; rescale them first: ({name} + 128.0) / 255 where these are bytes with a sign"
        return "; rescale them first, by the same numbers for all data"
    if high > 255:
        white = find_white(math.ceil(high))
        bits = f"; divide by the value of white: {name} / {white}"
        return bits + ("" if white == WHOLE else f" for {white.bit_length()} bits, {name} / {WHOLE} for 16")
    other = math.ceil(high)
    return f"; divide by 255: {name} / 255" + (f", or if {other} is white: {name} / {other}" if other < 255 else "")


def _black_and_white(x: np.ndarray, name: str, white: int | None) -> np.ndarray:
    """uint8 images; the values 0 and 1 as 0 and 255 where there are no others and `white` is 1, or None, which is said."""
    if white == 255 or brightest(x, 2) != 1:
        return x
    if white is None:
        warn(
            f"{name} holds the integers 0 and 1 alone: they are taken for black and white (floats, {name} / 255, would be "
            "all but black)"
        )
    return x * np.uint8(255)


def check_arrays(**sets) -> list[np.ndarray]:
    """Several arrays as `check_array` has them, of one scale: 0 and 1 are black and white where all integers are these."""
    arrays = {name: x if isinstance(x, Rows) else as_array(x, name) for name, x in sets.items()}
    whole = any(x.dtype.kind in "iu" and x.ndim > 2 and len(x) and brightest(x, 2) > 1 for x in arrays.values())
    return [check_array(arrays[name], name, white=255 if whole else None) for name in sets]


def check_labels(y, n: int, name: str = "y") -> tuple[np.ndarray, tuple]:
    """Labels of any kind, one per image -> ((n,) int64 indices, the sorted classes). ValueError where they don't fit."""
    y = label_column(y, n, name)
    if y.dtype.kind == "S":
        y = np.char.decode(y, "utf-8", "replace")
    if y.dtype.kind == "f":
        if not np.isfinite(y).all():
            raise ValueError(f"{name} holds NaN or infinity; every image needs a label")
        if not (y == np.floor(y)).all():
            fraction = y[y != np.floor(y)][0]
            raise ValueError(f"Unknown label type: {name} holds fractions such as {fraction}; labels are classes")
        y = y if (whole := as_whole(y)) is None else whole
    if y.dtype.kind == "O" and any(value is None or (isinstance(value, float) and np.isnan(value)) for value in y):
        raise ValueError(f"{name} holds None or NaN; every image needs a label")
    try:
        classes, index = np.unique(y, return_inverse=True)
    except TypeError:
        raise ValueError(f"{name} mixes labels of different types") from None
    return index.astype(np.int64), tuple(classes.tolist())


def label_column(y, n: int, name: str = "y") -> np.ndarray:
    """Labels (n,), or (n, 1), as one axis. ValueError where there are not n of them."""
    y = as_array(y, name)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise ValueError(
            f"{name} must be one label per image, of shape ({n},), got shape {y.shape}{_one_label(y, name)}"
        )
    if len(y) != n:
        raise ValueError(f"{name} has {len(y)} labels for {n} images")
    return y


def _one_label(y: np.ndarray, name: str) -> str:
    """How labels in several columns come to be one, for the end of a sentence."""
    if y.ndim != 2 or y.dtype.kind not in "biuf" or not np.isin(y, (0, 1)).all():
        return ""
    if (y.sum(1) == 1).all():
        return f"; these are one-hot: pass {name}.argmax(1)"
    return f"; these are several labels at once: pass one of their columns, such as {name}[:, 0], or number their combinations"


def no_labels(images: Images, model: str) -> str:
    """What to do about images without labels, for a conditional model."""
    return (
        f"{images.name} has no labels, and a {model} requires your images to be labelled: give each class a sub-folder, or a "
        "table of files and labels with --labels (beside x.npy, y.npy; in an .npz, an array y)"
    )
