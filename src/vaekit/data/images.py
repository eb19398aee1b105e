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
from vaekit.data.given import as_array, as_whole, refuse_unread
from vaekit.state import undisturbed, warn

PARTS = ("train", "validation", "test")
FEWEST = 10  # samples that can be split
BINARIZE = ("none", "fixed", "dynamic")
BINARIZE_SEED = 0
MAPPED_FROM = 2**26  # bytes from which images stay in a memory-mapped file; fewer are read into memory
WHOLE = 65535  # as `white`: the largest value of 8 or 16 bits
COLOURS = {"grey": "L", "rgb": "RGB", "rgba": "RGBA"}  # Pillow's names
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue in grey, as Pillow has it (ITU-R 601-2)
DARK = 4  # images whose brightest value is this part of white, or less, are dark
CHUNK = 2**24  # bytes of a data set that are looked at together, so that one larger than memory can be described


class Decoding(NamedTuple):
    """How image files become pixels of one size and one number of channels.

    resize: side in pixels, or None to leave them. fit: "crop" (the shorter side is scaled to `resize`, and the centre cut) or
    "pad" (the longer side is, and the rest filled with the background). background: what shows through transparent pixels, a
    colour that Pillow knows ("white", "#ff8800"), or "keep": alpha becomes the fourth channel. colour: "grey", "rgb", "rgba",
    or None for the least that holds what all files hold. white: the value of white in integer pixels, or None to find it (see
    `find_white`); WHOLE is the largest value that a file's bits can hold, and of 8 bits none is larger than 255.
    """

    resize: int | None = None
    fit: str = "crop"
    background: str = "white"
    colour: str | None = None
    white: int | None = None


class ImageFiles(NamedTuple):
    """What image files were before they became an array.

    sizes: "640x480" (width first) -> how many; modes: Pillow's names, "RGB", "L", "RGBA", ... -> how many; unreadable: name and
    reason of each file that was left out; decoding: how the others were brought to one shape; skip_bad: whether files that
    can't be read may be left out; labels: the path of the table that has the labels.
    """

    sizes: dict[str, int]
    modes: dict[str, int]
    unreadable: tuple[str, ...]
    decoding: Decoding
    skip_bad: bool = False
    labels: str | None = None


class SizesDiffer(ValueError):
    """Image files of several sizes. found: which; side: what they could be brought to; first: a file of another size."""

    def __init__(self, found: str, first: str, side: int = 64):
        super().__init__(found, first, side)
        self.found, self.first, self.side = found, first, side

    def __str__(self) -> str:
        return f"{self.found}; bring them to one with --resize {self.side} (the first of another size is {self.first})"


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
    white: the value of white in the integers that these were, where it was found, or said, to be another than the largest.
    header: what the columns of a table were, where that is known.
    names: (N,) strings, the files that the images are of, by their paths in the folder; None where they were no files.
    rows: (N,) int64, which row of its array, table or published part each sample is; None where it is 0 to N - 1.
    part_of: (N,) int8 places in PARTS, the part that each sample of a whole data set is in; None for a part, and where there
        are too few to be split.
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
    white: int | None = None
    header: Header | None = None
    names: np.ndarray | None = None
    rows: np.ndarray | None = None
    part_of: np.ndarray | None = None

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
        parts = {name: getattr(self, name) for name in ("y", "factors", "names", "part_of")}
        parts["rows"] = np.arange(len(self)) if self.names is None and self.rows is None else self.rows
        taken = {name: None if part is None else part[indices] for name, part in parts.items()}
        return replace(self, x=_take(self.x, indices), **taken)

    def origin(self) -> dict[str, np.ndarray]:
        """Columns (N,) that tell each sample: `file`, or `row` where they were no files, `label` where there are labels, and
        `split`.
        """
        rows = np.arange(len(self)) if self.rows is None else self.rows
        columns = {"row": rows} if self.names is None else {"file": self.names}
        if self.y is not None:
            columns["label"] = np.asarray(self.classes)[self.y]
        columns["split"] = np.full(len(self), self.split) if self.part_of is None else np.asarray(PARTS)[self.part_of]
        return columns


def _take(x, indices):
    if isinstance(x, Rows):
        part = x.take(indices)
    elif isinstance(indices, slice) or not is_mapped(x):
        return x[indices]
    else:
        part = Rows(x, np.arange(len(x))[indices])
    return part if math.prod(part.shape) * part.dtype.itemsize > CHUNK else part[:]


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


def brightest(x: np.ndarray | Rows, enough: float) -> float:
    """The largest value of x, looked for until one is `enough`, so that usual images take no time."""
    high = 0.0
    for _, part in chunks(x):
        high = max(high, float(part.max()))
        if high >= enough:
            break
    return high


def find_white(high: int) -> int:
    """The value of white in integer pixels up to `high`: 1 where they are 0 and 1 alone, else the least of 255, 511, 1023, ...
    that is no smaller.
    """
    return 1 if high == 1 else 2 ** max(8, int(high).bit_length()) - 1


def darkness(high: float, top: float) -> str:
    """What is to be said of images whose brightest value is `high`, where white is `top`; "" where that is nothing odd."""
    if high <= 0 or high * DARK > top:
        return ""
    return (
        f"very dark: no value above {high:.3g} of {top:g}; is the scale right? If {high:.3g} is white, divide by it (X / "
        f"{high:.3g}), or say so with --white {high:.3g}"
    )


def with_channels(x: np.ndarray, channels: int) -> np.ndarray:
    """x (..., 1), (..., 3) or (..., 4) with more channels: grey is repeated over three, and what has no alpha is opaque."""
    if x.shape[-1] == channels:
        return x
    colours = np.broadcast_to(x, (*x.shape[:-1], 3))
    opaque = np.full((*x.shape[:-1], channels - 3), 255 if x.dtype == np.uint8 else 1, x.dtype)
    return np.concatenate([colours, opaque], axis=-1)


def in_channels(x: np.ndarray, channels: int) -> tuple[np.ndarray, str]:
    """x (N, H, W, C) with `channels` channels, 1, 3 or 4, and what was lost by it, "" where that is nothing."""
    if x.shape[3] == channels or 2 in (x.shape[3], channels):
        return x, ""
    if x.shape[3] < channels:
        return with_channels(x, channels), ""
    lost, opaque = "", 255 if x.dtype == np.uint8 else 1
    if x.shape[3] == 4:
        lost = "" if (x[..., 3] == opaque).all() else "transparency"
        x = x[..., :3]
    if channels == 1:
        if not ((x[..., 0] == x[..., 1]) & (x[..., 0] == x[..., 2])).all():
            lost = "colours"
            grey = x @ np.array(LUMA, np.float32)
            return (np.rint(grey) if x.dtype == np.uint8 else np.clip(grey, 0, 1)).astype(x.dtype)[..., None], lost
        x = x[..., :1]
    return np.ascontiguousarray(x), lost


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
    if n < FEWEST:
        raise ValueError(
            f"{n} samples are too few to split into train, validation and test; at least {FEWEST} are needed"
        )
    order = np.random.default_rng(seed).permutation(n)
    place = np.arange(n) % 10
    if y is not None:
        alone = np.bincount(y)[y] == 1
        if n - alone.sum() >= 10:
            order = order[np.lexsort((y[order], alone[order]))]  # those alone in their class at the end
            place[n - alone.sum() :] = 0
    dealt = {"train": (place != 4) & (place != 9), "validation": place == 4, "test": place == 9}
    return {part: np.sort(order[chosen]) for part, chosen in dealt.items()}


def hold_out(n: int, fraction: float, seed: int, y: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Indices of n images that are trained on, and of those held out, a `fraction` of them and one at least; in random order.

    y: (N,) labels as indices. With them the images held out are spread over the classes, and each class keeps one; so fewer
    are held out where classes are small, and none where each has one image.
    """
    rng = np.random.default_rng(seed)
    order, held = rng.permutation(n), max(1, round(fraction * n))
    if y is None:
        held = min(held, n - 1)
        return order[held:], order[:held]
    order = order[np.argsort(y[order], kind="stable")]  # class after class, drawn within each
    free = order[1:][y[order[1:]] == y[order[:-1]]]  # all but one of each class
    held = min(held, len(free))
    start = int(rng.integers(max(1, len(free))))
    out = free[(start + np.arange(held) * len(free) // max(1, held)) % max(1, len(free))]
    return rng.permutation(np.setdiff1d(order, out)), rng.permutation(out)


def evenly(n: int, most: int) -> np.ndarray:
    """Indices of `most` of n things, evenly spaced from the first to the last; of all where there are no more."""
    return np.unique(np.linspace(0, n - 1, min(most, n)).round().astype(int))


def spread(images: Images, n: int) -> np.ndarray:
    """Indices of n images as examples, or of all if fewer; the same every time.

    With labels: one drawn of each class, class after class, then another of each; where a round can't hold all classes, those
    in it are evenly spaced. Without labels, n drawn of all, in their order.
    """
    order = np.random.default_rng(0).permutation(len(images))
    if images.y is None:
        return np.sort(order[:n])
    order = order[np.argsort(images.y[order], kind="stable")]  # class after class, drawn within each
    y = images.y[order]
    turn = np.arange(len(y)) - np.searchsorted(y, y)  # 0 for the first drawn of each class
    chosen: list[int] = []
    for one_of_each in (order[turn == t] for t in range(turn.max() + 1)):
        if len(chosen) < n:
            chosen += one_of_each[evenly(len(one_of_each), n - len(chosen))].tolist()
    return np.array(chosen)


def chunks(x: np.ndarray | Rows) -> Iterator[tuple[int, np.ndarray]]:
    """Consecutive parts of x, and where each starts; small enough to be copied whatever the size of x."""
    step = max(1, CHUNK // max(1, math.prod(x.shape[1:]) * x.dtype.itemsize))
    for start in range(0, len(x), step):
        yield start, x[start : start + step]


@undisturbed
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
        if dark := darkness(facts["range"][1], top):
            problems.append(dark)
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
