"""`Images`, the one form data takes, with the checks at the door, the splits and a description of what is in it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from vaekit.data.columns import Header, array_header, scaling_problem
from vaekit.data.frames import frame_library, frame_values, not_finite

PARTS = ("train", "validation", "test")
BINARIZE = ("none", "fixed", "dynamic")
BINARIZE_SEED = 0
MAPPED_FROM = 2**26  # bytes from which images stay in a memory-mapped file; fewer are read into memory
CHUNK = 2**24  # bytes of a data set that are looked at together, so that one larger than memory can be described


class Decoding(NamedTuple):
    """How image files become pixels of one size and one number of channels.

    resize: side in pixels, or None to leave them. fit: "crop" (the shorter side is scaled to `resize`, and the centre cut) or
    "pad" (the longer side is, and the rest filled with the background). background: what shows through transparent pixels, a
    colour that Pillow knows ("white", "#ff8800"), or "keep": alpha becomes the fourth channel.
    """

    resize: int | None = None
    fit: str = "crop"
    background: str = "white"


class ImageFiles(NamedTuple):
    """What image files were before they became an array.

    sizes: "640x480" (width first) -> how many; modes: Pillow's names, "RGB", "L", "RGBA", ... -> how many; unreadable: name and
    reason of each file that was left out; decoding: how the others were brought to one shape.
    """

    sizes: dict[str, int]
    modes: dict[str, int]
    unreadable: tuple[str, ...]
    decoding: Decoding


class Rows:
    """Some rows of a memory-mapped array of images, read when they are asked for: a part of a data set that memory need not
    hold. Indexing it gives arrays; `np.asarray` reads all of it into memory.
    """

    def __init__(self, source: np.ndarray, index: np.ndarray):
        self.source, self.index = source, index
        self.shape, self.dtype, self.ndim = (len(index), *source.shape[1:]), source.dtype, source.ndim

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key) -> np.ndarray:
        return self.source[self.index[key]]

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self[:].astype(dtype or self.dtype, copy=False)

    def take(self, key) -> Rows:
        return Rows(self.source, self.index[key])


def is_mapped(x) -> bool:
    """Whether `x` lies in a file and not in memory: a memory-mapped array, a view of one, or `Rows` of one."""
    while isinstance(x, np.ndarray):
        if isinstance(x, np.memmap):
            return True
        x = x.base
    return isinstance(x, Rows)


@dataclass(frozen=True, eq=False)
class Images:
    """A data set, or a part of one.

    x: (N, H, W, C) uint8, or float32 in [0, 1]; or (N, D) floats: a table of vectors. Large sets of images are memory-mapped,
        and parts of them `Rows`.
    y: (N,) int64 indices into `classes`, or None.
    fingerprint: SHA-256 of the whole data set this was cut from, before any split.
    split: "train", "validation", "test" or "all"; split_seed: None where the split is the published one.
    notes: what a person should be told, such as files that were passed over.
    binarize: "none"; "fixed", black or white pixels drawn once; "dynamic", pixels that training draws anew in each epoch, with
        the intensity as the probability of white.
    factors: (N, F) int64, what each image was made from, where that is known.
    files: what the image files were, for data that came as such.
    header: what the columns of a table were, where that is known.
    """

    x: np.ndarray
    y: np.ndarray | None
    classes: tuple[str, ...]
    name: str
    fingerprint: str = ""
    split: str = "all"
    split_seed: int | None = None
    notes: tuple[str, ...] = ()
    binarize: str = "none"
    factors: np.ndarray | None = None
    files: ImageFiles | None = None
    header: Header | None = None

    def __len__(self) -> int:
        return len(self.x)

    @property
    def is_table(self) -> bool:
        """Whether these are vectors, not images."""
        return self.x.ndim == 2

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(H, W, C), or (D,) for a table."""
        return self.x.shape[1:]

    def take(self, indices) -> Images:
        """The images at `indices`; of memory-mapped images nothing is read yet, unless those at the indices are few."""
        parts = {
            name: None if part is None else part[indices] for name, part in (("y", self.y), ("factors", self.factors))
        }
        return replace(self, x=_take(self.x, indices), **parts)


def _take(x, indices):
    if isinstance(x, Rows):
        part = x.take(indices)
    elif isinstance(indices, slice) or not is_mapped(x):
        return x[indices]
    else:
        part = Rows(x, np.arange(len(x))[indices])
    return part if math.prod(part.shape) * part.dtype.itemsize > CHUNK else part[:]


def check_array(X, name: str = "X") -> np.ndarray:
    """Images or a table as vaekit stores them. A copy is made only where the type has to change.

    Images (N, H, W) or (N, H, W, C), C from 1 to 4: 8-bit or other integers in 0..255 -> uint8, booleans -> 0 and 255,
    floats in [0, 1] -> float32; the result is (N, H, W, C). Three axes are always read as grey images.
    Tables (N, D): any finite reals -> floating point; data frames of pandas and polars are tables.
    Raises ValueError that names the array, what was expected and what was found.
    """
    if isinstance(X, Rows):
        return X  # type: ignore[return-value]  # cut from an array that was checked
    if hasattr(X, "toarray"):
        raise ValueError(f"{name} is a sparse matrix; pass a dense array: {name}.toarray()")
    if type(X).__name__ == "LazyFrame":
        raise ValueError(f"{name} is a lazy frame; pass what it collects: {name}.collect()")
    try:
        x = frame_values(X, name) if frame_library(X) else np.asarray(X)
    except ValueError:
        if frame_library(X):
            raise
        raise ValueError(f"{name} must be one array of numbers; its samples differ in size") from None
    if x.dtype.kind == "O":
        try:
            x = x.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name} must hold numbers, got objects ({error})") from None
    if x.dtype.kind == "c":
        raise ValueError(f"Complex data not supported: {name} has dtype {x.dtype}")
    if x.dtype.kind not in "biuf":
        raise ValueError(f"{name} must hold numbers, got dtype {x.dtype}")
    if x.ndim not in (2, 3, 4):
        raise ValueError(
            f"{name} must be images (N, H, W) or (N, H, W, C) or a table (N, D), got {x.ndim} axes. Reshape your data"
        )
    if len(x) == 0:
        raise ValueError(f"Found array with 0 sample(s) in {name} (shape={x.shape}) while a minimum of 1 is required.")
    if x.dtype.kind == "f":
        for start, part in chunks(x):
            if not np.isfinite(part).all():
                bad = start + np.argwhere(~np.isfinite(part.reshape(len(part), -1)).all(1))[0, 0]
                found = f"{name} holds NaN or infinity (first in sample {bad})"
                if x.ndim != 2:
                    raise ValueError(f"{found}; clean or drop such samples")
                said = [f"column {i} {problem}" for i in range(x.shape[1]) if (problem := not_finite(x[:, i]))]
                raise ValueError(f"{found}: {listed(said)}")
    if x.ndim == 2:
        if x.shape[1] == 0:
            raise ValueError(
                f"{name}: Found array with 0 feature(s) (shape={x.shape}) while a minimum of 1 is required."
            )
        return x if x.dtype in (np.float32, np.float64) else x.astype(np.float64)
    x = x[..., None] if x.ndim == 3 else x
    if not 1 <= x.shape[3] <= 4:
        raise ValueError(
            f"{name} has {x.shape[3]} channels; images are (N, H, W, C) with 1 to 4, the channels last "
            f"(for (N, C, H, W) use {name}.transpose(0, 2, 3, 1))"
        )
    if min(x.shape[1:3]) < 2:
        raise ValueError(f"{name} has images of {x.shape[1]}x{x.shape[2]} pixels; at least 2x2 are needed")
    if x.dtype == np.uint8:
        return x
    if x.dtype.kind == "b":
        return x.astype(np.uint8) * np.uint8(255)
    low, high = x.min(), x.max()
    if x.dtype.kind in "iu":
        if low < 0 or high > 255:
            raise ValueError(f"{name} has integer pixels from {low} to {high}; 8-bit images are 0 to 255")
        return x.astype(np.uint8)
    if low < 0 or high > 1:
        advice = f"; divide by 255: {name} / 255" if low >= 0 and high <= 255 else "; rescale them first"
        raise ValueError(f"{name} has float pixels from {low:.4g} to {high:.4g}; floats must be in [0, 1]{advice}")
    return x.astype(np.float32, copy=False)


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
        y = y.astype(np.int64)
    if y.dtype.kind == "O" and any(value is None or (isinstance(value, float) and np.isnan(value)) for value in y):
        raise ValueError(f"{name} holds None or NaN; every image needs a label")
    try:
        classes, index = np.unique(y, return_inverse=True)
    except TypeError:
        raise ValueError(f"{name} mixes labels of different types") from None
    return index.astype(np.int64), tuple(classes.tolist())


def label_column(y, n: int, name: str = "y") -> np.ndarray:
    """Labels (n,), or (n, 1), as one axis. ValueError where there are not n of them."""
    y = np.asarray(y)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise ValueError(f"{name} must be one label per image, of shape ({n},), got shape {y.shape}")
    if len(y) != n:
        raise ValueError(f"{name} has {len(y)} labels for {n} images")
    return y


def fingerprint(x: np.ndarray, y: np.ndarray | None) -> str:
    """SHA-256 over types, shapes and bytes of images and labels."""
    sha = hashlib.sha256()
    for part in (x, y):
        if part is not None:
            sha.update(f"{part.dtype} {part.shape}".encode())
            sha.update(np.ascontiguousarray(part).view(np.uint8).data)
    return sha.hexdigest()


def binarized(images: Images) -> Images:
    """`images` with each pixel black or white, drawn with its intensity as the probability of white, once by a fixed seed."""
    shares = images.x if images.x.dtype != np.uint8 else images.x.astype(np.float32) / 255
    white = np.random.default_rng(BINARIZE_SEED).random(shares.shape, dtype=np.float32) < shares
    return replace(images, x=white.astype(np.uint8) * np.uint8(255), binarize="fixed")


def split_indices(y: np.ndarray | None, n: int, seed: int) -> dict[str, np.ndarray]:
    """80 % train, 10 % validation, 10 % test: disjoint, covering, sorted, and stratified where there are labels.

    Images are dealt from a shuffled order, class after class, in a fixed rhythm of ten; so every class is split as
    evenly as its size allows. A class of one image goes to train, which so knows every class; where fewer than ten
    images are left beside those, labels are not looked at. ValueError for fewer than ten images.
    """
    if n < 10:
        raise ValueError(f"{n} samples are too few to split into train, validation and test; at least 10 are needed")
    order = np.random.default_rng(seed).permutation(n)
    place = np.arange(n) % 10
    if y is not None:
        alone = np.bincount(y)[y] == 1
        if n - alone.sum() >= 10:
            order = order[np.lexsort((y[order], alone[order]))]  # those alone in their class at the end
            place[n - alone.sum() :] = 0
    dealt = {"train": (place != 4) & (place != 9), "validation": place == 4, "test": place == 9}
    return {part: np.sort(order[chosen]) for part, chosen in dealt.items()}


def chunks(x: np.ndarray | Rows) -> Iterator[tuple[int, np.ndarray]]:
    """Consecutive parts of x, and where each starts; small enough to be copied whatever the size of x."""
    step = max(1, CHUNK // max(1, math.prod(x.shape[1:]) * x.dtype.itemsize))
    for start in range(0, len(x), step):
        yield start, x[start : start + step]


def describe(images: Images, parts: Mapping[str, np.ndarray | slice] | None = None) -> dict:
    """What is in a data set, JSON-able, with `problems`: what is wrong with it, in plain words.

    parts: where the parts of its split lie. The data is read in pieces, so it may be larger than memory.
    """
    x, n = images.x, len(images)
    top = 255 if x.dtype == np.uint8 else 1
    seen = _survey(x)
    facts: dict = {
        "name": images.name,
        "split": images.split,
        "count": n,
        "shape": list(images.image_shape),
        "dtype": str(x.dtype),
        "range": [seen.low, seen.high],
        "mean": seen.mean,
        "fingerprint": images.fingerprint,
    }
    if images.is_table:
        del facts["range"], facts["mean"]  # of columns in units of their own
        facts["columns"] = _column_facts(images)
    problems = list(images.notes)
    if images.files is not None:
        facts |= {"sizes": images.files.sizes, "modes": images.files.modes}
        unreadable = list(images.files.unreadable)
        if unreadable:
            facts["unreadable"] = unreadable
            problems.append(f"{len(unreadable)} files can't be read: {listed(unreadable)}; train with --skip-bad")
    if n < 500:
        blur = "" if images.is_table else "blurred reconstructions and "
        problems.append(f"only {n} samples: expect {blur}overfitting")
    copies = n - len(np.unique(seen.digests))
    facts["duplicates"] = copies
    if copies:
        problems.append(f"{copies} exact duplicates: copies in train and test make scores too good")
    if parts is not None:
        facts["parts"] = {part: _part_facts(images, where) for part, where in parts.items()}
        facts["duplicates_across_parts"] = across = _copies_across(seen.digests, parts)
        if across:
            problems.append(f"{across} of these images are in more than one part of the split")
    if seen.constant_samples:
        problems.append(f"{seen.constant_samples} constant samples (every value the same)")
    facts["constant_values_share"] = seen.constant_values
    if seen.constant_values > 0.5:
        problems.append(f"{seen.constant_values:.0%} of the {'columns' if images.is_table else 'pixels'} never change")
    if images.is_table and (badly := scaling_problem(np.asarray(x), images.header)):
        problems.append(f"columns that are {badly}")
    if not images.is_table:
        facts["binary"] = _is_binary(x[:1000] if isinstance(x, np.ndarray) else x.take(slice(1000)), top)
        facts["suggested_likelihood"] = "bernoulli" if facts["binary"] else "gaussian"
        if facts["range"][1] <= top / 8:
            problems.append(f"very dark: no value above {facts['range'][1]:.3g} of {top}; is the scale right?")
    if images.y is not None:
        facts["classes"] = counts = _class_counts(images.y, images.classes)
        present = [count for count in counts.values() if count]
        if max(present) > 10 * min(present):
            problems.append(f"imbalanced: the largest class has {max(present)} samples, the smallest {min(present)}")
        if len(present) < 2:
            problems.append("only one class: labels say nothing")
    facts["suggested_model"], facts["suggested_flags"] = _suggestion(images, facts)
    facts["problems"] = problems
    return facts


def listed(names: list[str], most: int = 5) -> str:
    """The first few of `names`, and how many more there are."""
    more = f"; and {len(names) - most} more" if len(names) > most else ""
    return "; ".join(names[:most]) + more


def _column_facts(images: Images) -> dict[str, str]:
    """What is in each column of a table, in words."""
    header = images.header or array_header(images.x)
    names = header.names or range(len(header.kinds))
    return {
        str(name): f"{kind}, {column.min():.6g} to {column.max():.6g}, mean {column.mean(dtype=np.float64):.6g}"
        for name, kind, column in zip(names, header.kinds, images.x.T, strict=True)
    }


class _Survey(NamedTuple):
    """What one reading of a data set finds. digests: (N,) uint64, equal for equal samples."""

    low: float
    high: float
    mean: float
    digests: np.ndarray
    constant_samples: int
    constant_values: float


def _survey(x: np.ndarray | Rows) -> _Survey:
    low, high = x[0].flatten(), x[0].flatten()
    total, constant, digests = 0.0, 0, np.empty(len(x), np.uint64)
    for start, part in chunks(x):
        rows = np.ascontiguousarray(part.reshape(len(part), -1))
        np.minimum(low, rows.min(0), out=low)
        np.maximum(high, rows.max(0), out=high)
        total += float(rows.mean(dtype=np.float64)) * len(rows)
        constant += int((rows.min(1) == rows.max(1)).sum())
        for i, row in enumerate(rows, start):
            digests[i] = int.from_bytes(hashlib.blake2b(row, digest_size=8).digest(), "little")
    return _Survey(float(low.min()), float(high.max()), total / len(x), digests, constant, float((low == high).mean()))


def _is_binary(x: np.ndarray | Rows, top: int) -> bool:
    """Whether every value is 0 or `top`; looked at in pieces, since a single image may have 64 million pixels."""
    for _, part in chunks(x):
        flat = part.reshape(-1)
        for start in range(0, len(flat), CHUNK):
            piece = flat[start : start + CHUNK]
            if not ((piece == 0) | (piece == top)).all():
                return False
    return True


def _copies_across(digests: np.ndarray, parts: Mapping[str, np.ndarray | slice]) -> int:
    """How many different samples lie in more than one part."""
    found = np.concatenate([np.unique(digests[where]) for where in parts.values()])
    return int((np.unique(found, return_counts=True)[1] > 1).sum())


def _part_facts(images: Images, where: np.ndarray | slice) -> dict:
    facts: dict = {"count": len(np.arange(len(images))[where])}
    return facts if images.y is None else facts | {"classes": _class_counts(images.y[where], images.classes)}


def _class_counts(y: np.ndarray, classes: tuple[str, ...]) -> dict[str, int]:
    counts = np.bincount(y, minlength=len(classes))
    return {str(name): int(count) for name, count in zip(classes, counts, strict=True)}


def _suggestion(images: Images, facts: dict) -> tuple[str, list[str]]:
    """A model to begin with, and its flags: rules of thumb, which a comparison on the data itself overrules."""
    present = [count for count in facts.get("classes", {}).values() if count]
    model = "cvae" if len(present) > 1 and min(present) >= 20 else "vae"
    if images.is_table:
        return model, ["--scaling", "auto"] if scaling_problem(np.asarray(images.x), images.header) else []
    values, flags = math.prod(images.image_shape), []
    if model == "vae" and values > 48 * 48 and min(images.image_shape[:2]) >= 16:
        model = "vqvae"  # a grid of codes keeps what one short vector blurs
    elif values > 28 * 28:
        flags += ["--latent-dim", "32"]
    if facts["binary"]:
        flags += ["--likelihood", "bernoulli"]
    if len(images) < 2000:
        flags.append("--early-stopping")
    if images.files is not None and images.files.unreadable:
        flags.append("--skip-bad")
    if images.files is not None and images.files.decoding.resize is None and min(images.image_shape[:2]) > 128:
        flags += ["--resize", "64"]
    return model, flags
