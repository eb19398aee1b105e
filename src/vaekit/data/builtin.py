"""`open_data`: from a name or a path to `Images`. Built-in sets come from scikit-learn, the disk, or several mirrors."""

from __future__ import annotations

import glob
import gzip
import hashlib
import http.client
import inspect
import os
import urllib.request
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vaekit.data.cache import cache_dir, decoded, files_key
from vaekit.data.datasets import is_saved, read_datasets
from vaekit.data.frames import table_header
from vaekit.data.images import (
    BINARIZE,
    COLOURS,
    FEWEST,
    PARTS,
    WHOLE,
    Decoding,
    Images,
    binarized,
    brightest,
    check_array,
    check_labels,
    chunks,
    find_white,
    fingerprint,
    in_channels,
    label_column,
    listed,
    split_indices,
)
from vaekit.data.kinds import USUAL, is_picture, kind_of, list_images, passed_over
from vaekit.data.readers import (
    check_decoding,
    folder_labels,
    read_idx,
    read_labels,
    read_npy,
    read_npz_parts,
)
from vaekit.data.sprites import is_dsprites, read_dsprites, sprites
from vaekit.data.tables import TABLE_SUFFIXES, is_table_file, read_table
from vaekit.messages import check_number, first_line, nearest, nearest_path
from vaekit.owned import remove_temporaries, write_atomically
from vaekit.state import undisturbed


class IdxSet(NamedTuple):
    """A published set of four idx files: class names, mirrors, and each file's SHA-256 (unpacked, or as served)."""

    classes: tuple[str, ...]
    mirrors: tuple[str, ...]
    unpacked: bool
    sha256: dict[str, str]


IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
IDX_SETS = {
    "mnist": IdxSet(
        tuple("0123456789"),
        ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
        True,
        {
            "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
    ),
    "fashion-mnist": IdxSet(
        ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"),
        (
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
        ),
        False,
        {
            "train-images-idx3-ubyte": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "train-labels-idx1-ubyte": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "t10k-images-idx3-ubyte": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "t10k-labels-idx1-ubyte": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        },
    ),
}
NAMES = ("digits", *IDX_SETS, "sprites")
SPRITES = 20_000  # images of the generated set, and those taken from the file of dSprites


@undisturbed
def open_data(
    name_or_path,
    split: str = "train",
    *,
    split_seed: int = 0,
    resize: int | None = None,
    fit: str = "crop",
    background: str = "white",
    colour: str | None = None,
    white: int | None = None,
    labels=None,
    skip_bad: bool = False,
    binarize: str = "none",
    drop=(),
    columns=None,
) -> Images:
    """The part `split` of a data set: "train", "validation", "test", or "all".

    name_or_path: digits, mnist, fashion-mnist, sprites (20,000 of them); a folder of images with a sub-folder per class,
        or of the four idx files; a .npy, .npz (`x`, `y`) or idx file, or that of dSprites (20,000 of its images); or a glob
        of images. A folder with `train/` and `test/` in it (and perhaps `val/`, which stands in for a missing `test/`)
        comes with its split. Where the library `datasets` is installed also what it saved to a folder, Parquet files of
        images, and hf:OWNER/NAME, which it downloads. A .csv or .tsv file (.gz, too) or a Parquet file of numbers is a table.
    split_seed: data without a published test part is split 80/10/10 by this seed, stratified by class.
    resize: side in pixels that image files are brought to, and sprites drawn at (None: 64); other data is read as it is.
    fit: how image files are brought to `resize`: "crop" scales the shorter side and cuts the centre, "pad" scales the longer
        side and fills the rest with the background.
    background: the colour behind transparent pixels and around padded images ("white", "black", "#ff8800"), or "keep": alpha
        is a fourth channel.
    colour: "grey", "rgb" or "rgba", what images are made, whatever they are; None leaves arrays as they are, and gives image
        files the fewest channels that hold all of them.
    white: the value of white in integer pixels (and in floats above 1); larger ones are cut to it. None finds it: 1 where there
        are 0 and 1 alone, 255 for other 8-bit images, else the least 2^k - 1 that no value exceeds, such as 4095 for 12 bits.
    labels: a table (CSV) of files and labels for image files, instead of sub-folders; images that it does not name are left
        out. For a .npy file of images, the .npy file of their labels. Of a table, its column of labels; None takes one called
        label, class, target, ..., where there is one such, of text or of a few whole numbers.
    skip_bad: leaves out image files that can't be read, rather than to refuse the data.
    binarize: "fixed" draws each pixel black or white once, by a seed that is always the same; "dynamic" does so for the other
        parts and leaves the training images grey, to be drawn anew in each epoch (Burda et al. 2016's protocol for MNIST).
    drop: columns of a table to leave out, as names or as one text with commas.
    columns: of a table that names its columns: those to take, in this order, whatever else it has.

    Image files are decoded once and kept in the cache; images that take more than 64 MiB stay in a memory-mapped file, and so
    do those of a .npy file. Raises FileNotFoundError for a path that isn't there, ValueError for data that can't be used, and
    ConnectionError where a built-in set can't be downloaded; all say why.
    """
    if split not in (*PARTS, "all"):
        raise ValueError(f"split must be one of {', '.join(PARTS)} or all, got {split!r}")
    if binarize not in BINARIZE:
        raise ValueError(f"binarize must be one of {', '.join(BINARIZE)}, got {binarize!r}")
    whole, published = open_whole(
        name_or_path,
        Decoding(resize, fit, background, colour, white),
        labels=labels,
        skip_bad=skip_bad,
        drop=drop,
        columns=columns,
    )
    check_number("split_seed", split_seed, whole=True)
    if binarize != "none":
        if whole.is_table:
            raise ValueError(f"{whole.name} is a table of vectors; only images can be binarised")
        mark = hashlib.sha256(f"{whole.fingerprint} {binarize}".encode()).hexdigest()
        grey = binarize == "dynamic" and split == "train"
        whole = replace(whole, binarize="dynamic") if grey else binarized(whole)
        whole = replace(whole, fingerprint=mark)
    if split == "all":
        enough = published or len(whole) >= FEWEST
        return replace(whole, part_of=_part_of(whole, published, split_seed)) if enough else whole
    parts = published or split_indices(whole.y, len(whole), split_seed)
    if split not in parts:
        raise ValueError(
            f"{whole.name} comes with {' and '.join(parts)} parts and no {split!r} part; with --early-stopping, "
            "training holds out validation images of its own"
        )
    return replace(whole.take(parts[split]), split=split, split_seed=None if published else split_seed)


def _part_of(whole: Images, published: dict[str, slice] | None, split_seed: int) -> np.ndarray:
    """(N,) int8 places in PARTS."""
    part_of = np.zeros(len(whole), np.int8)
    for part, where in (published or split_indices(whole.y, len(whole), split_seed)).items():
        part_of[where] = PARTS.index(part)
    return part_of


def inputs_of(name_or_path, labels=None) -> list[str]:
    """The places among the arguments of `open_data` that are read, and so never written: none of a set known by its name."""
    name = str(name_or_path)
    return [*([] if name in NAMES or name.startswith("hf:") else [name]), *([] if labels is None else [str(labels)])]


def opening_flags(how: Mapping) -> list[str]:
    """Keywords of `open_data` as flags of the command line; those that have their default are left out."""
    defaults, words = inspect.signature(open_data).parameters, []
    for name, value in how.items():
        if value != defaults[name].default:
            words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return words


@undisturbed
def open_whole(
    name_or_path, decoding: Decoding, *, labels=None, skip_bad: bool = False, drop=(), columns=None
) -> tuple[Images, dict[str, slice] | None]:
    """A whole data set, and where its published parts lie in it (None where it has none); arguments as of `open_data`."""
    check_number("resize", decoding.resize, whole=True, above=0)
    check_decoding(decoding)
    name, resize = str(name_or_path), decoding.resize
    if is_table_file(Path(name)):
        whole, published = _open_table(Path(name), labels, drop, columns), None
    elif drop:
        raise ValueError(f"{name} is no table with columns to drop; tables are {', '.join(TABLE_SUFFIXES)} files")
    else:
        whole, published = _open_whole(name, decoding, None if labels is None else Path(labels), skip_bad)
    if resize is not None and whole.image_shape[:2] != (resize, resize):
        raise ValueError(f"{whole.name} has samples of shape {whole.image_shape}; only image files can be resized")
    if decoding.colour is not None and whole.files is None and not whole.is_table:
        channels = len(COLOURS[decoding.colour])
        x, lost = in_channels(np.asarray(whole.x), channels)
        if x.shape[3] != channels:
            raise ValueError(f"{whole.name} has images of 2 channels, which can't be made {decoding.colour}")
        notes = (f"images have lost their {lost}, since they were made {decoding.colour}",) if lost else ()
        whole = replace(whole, x=x, notes=whole.notes + notes)
    return whole, published


def _open_whole(
    name: str, decoding: Decoding, labels: Path | None, skip_bad: bool
) -> tuple[Images, dict[str, slice] | None]:
    path = Path(name)
    if labels is not None and not labels.is_file():
        raise FileNotFoundError(f"no labels at {labels}{nearest_path(labels)}")
    if name in NAMES:
        if labels is not None:
            raise ValueError(f"{name} comes with its labels; a table of labels is for image files")
        return _open_known(name, decoding.resize)
    if labels is None and (name.startswith("hf:") or is_saved(path) or (path.suffix == ".parquet" and path.is_file())):
        return _open_datasets(name, [path] if path.suffix == ".parquet" else None, decoding, skip_bad)
    if path.is_dir() and not _has_idx_files(path):
        return _open_folder(path, decoding, labels, skip_bad)
    if not path.exists() and glob.has_magic(name):
        matches = sorted(glob.glob(name, recursive=True))
        matches = [file for file in matches if not os.path.isdir(file)]
        files = [file for file in matches if is_picture(file)]
        passed = Counter(kind_of(file) for file in set(matches) - set(files))
        if not files:
            found = f": there are {passed_over(passed)}" if passed else nearest_path(path)
            raise FileNotFoundError(f"no image files match {name!r}{found}")
        return _open_files(
            Path(),
            files,
            None,
            None,
            labels=labels,
            decoding=decoding,
            skip_bad=skip_bad,
            name=name,
            notes=_passed(passed),
        )
    if labels is not None and path.suffix.lower() == ".npy" and path.is_file():
        return _labelled(read_npy(path), read_npy(labels), str(path), decoding.white), None
    if labels is not None:
        raise ValueError(
            f"{name} can't be given labels; a table of labels is for image files, a .npy of them for a .npy"
        )
    if path.is_dir():
        return _idx_parts(path, None, path.name, decoding.white)
    if path.is_file():
        return _open_file(path, decoding.white)
    if path.suffix or len(path.parts) > 1:
        raise FileNotFoundError(f"no data at {name!r}: there is no such file or folder{nearest_path(path)}")
    hint = nearest(name, NAMES) or nearest_path(path)
    raise ValueError(f"unknown data {name!r}{hint}; known are {', '.join(NAMES)}, else it must be a file or folder")


def _open_table(path: Path, labels, drop, columns) -> Images:
    if not path.exists():
        raise FileNotFoundError(f"no data at {str(path)!r}: there is no such file or folder")
    found = read_table(path, labels=None if labels is None else str(labels), drop=drop, columns=columns)
    return replace(_labelled(found.x, found.labels, str(path)), header=found.header, notes=found.notes)


def _open_known(name: str, resize: int | None) -> tuple[Images, dict[str, slice] | None]:
    if name == "digits":
        from sklearn.datasets import load_digits

        pixels, labels = (np.asarray(array) for array in load_digits(return_X_y=True))
        x = np.rint(pixels.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
        return _images(x, labels.astype(np.int64), tuple("0123456789"), name), None
    if name == "sprites":
        return sprites(SPRITES, size=resize or 64)[0], None
    return _idx_parts(_find_idx_set(name), IDX_SETS[name].classes, name)


def _images(x, y: np.ndarray | None, classes: tuple[str, ...], name: str) -> Images:
    header, x = table_header(x), check_array(x, name, white=255)
    return Images(x, y, classes, name, fingerprint(x, y), header=header)


def _labelled(x, y, name: str, white: int | None = None) -> Images:
    """An array of a file, with its labels, as `Images`."""
    x, white, notes = _in_8_bits(x, name, white)
    index, classes = (None, ()) if y is None else check_labels(y, len(x) if x.ndim else 0, f"{name}: y")
    return replace(_images(x, index, tuple(map(str, classes)), name), white=white, notes=notes)


def _in_8_bits(x: np.ndarray, name: str, white: int | None) -> tuple[np.ndarray, int | None, tuple[str, ...]]:
    """Images of integers as uint8 in which `white` has become 255, the white that was found where it is none of these types'
    largest, and notes. Tables and floats in [0, 1] stay as they are; whatever can't be images is left for `check_array`.
    """
    if x.ndim not in (3, 4) or x.dtype.kind not in "iuf" or not x.size:
        return x, None, ()
    if x.dtype.kind == "f":
        low, high = x.min(), x.max()
        if white is None or not (low >= 0 and 1 < high < np.inf) or (white == WHOLE and high <= 255):
            return x, None, ()
        return np.minimum(x / np.float32(white), 1).astype(np.float32), white, _cut(high, white)
    if x.dtype == np.uint8:
        high = brightest(x, 256 if (white or 255) < 255 else 2)
        top = min(white, 255) if white else find_white(int(high))
    else:
        low, high = int(x.min()), int(x.max())
        if low < 0 or high > WHOLE or (x.dtype == np.int8 and white is None and high > 1):
            return x, None, ()
        small = white == WHOLE and high <= 255 and x.dtype.itemsize > 2  # of such integers 65535 is not the largest
        top = find_white(high) if white is None else 255 if small else white
    if top == 255 and x.dtype == np.uint8:
        return x, None, ()
    out = np.empty(x.shape, np.uint8)
    for start, part in chunks(x):
        out[start : start + len(part)] = (np.minimum(part.astype(np.int32), top) * 255 + top // 2) // top
    notes = _cut(high, top)
    if white is None and top == 1:
        notes = ("pixels are 0 and 1 alone: taken for black and white (--white 255 takes them for 8-bit values)",)
    elif white is None and top > 255:
        notes = (
            f"pixels have values up to {high:g}: {top} is taken for white (--white {WHOLE}, or another, says otherwise)",
        )
    return out, None if top == 255 else top, notes


def _cut(high: float, white: int) -> tuple[str, ...]:
    return (
        (f"there are values up to {high:g}: those above {white}, the value of white, are cut to it",)
        if high > white
        else ()
    )


def _open_file(path: Path, white: int | None) -> tuple[Images, dict[str, slice] | None]:
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return _labelled(read_npy(path), None, str(path), white), None
    if suffix == ".npz" and is_dsprites(path):
        return read_dsprites(path, SPRITES)[0], None
    if suffix == ".npz":
        return _open_npz(path, white)
    if "idx" in path.name or suffix == ".gz":
        return _labelled(read_idx(path), None, str(path), white), None
    if is_picture(str(path)):
        raise ValueError(f"{path} is one image; give its folder, or a pattern such as '{path.parent / '*'}{suffix}'")
    raise ValueError(
        f"{path} is of no known kind, {kind_of(str(path))}: a data file is .npy, .npz or idx, a table "
        f"{', '.join(TABLE_SUFFIXES)}"
    )


def _open_npz(path: Path, white: int | None) -> tuple[Images, dict[str, slice] | None]:
    """A .npz file, and its published parts where it has them."""
    parts = read_npz_parts(path)
    if len(parts) == 1:
        (x, y), places = next(iter(parts.values())), None
    else:
        if "test" not in parts and "validation" in parts:
            parts["test"] = parts.pop("validation")
        shapes = {part: x.shape[1:] for part, (x, _) in parts.items()}
        if len(set(shapes.values())) > 1 or len({y is None for _, y in parts.values()}) > 1:
            found = ", ".join(f"{part} {shape}" for part, shape in shapes.items())
            raise ValueError(f"{path}: its parts must have one shape, and all or none of them labels, got {found}")
        x = np.concatenate([x for x, _ in parts.values()])
        y = (
            None
            if any(y is None for _, y in parts.values())
            else np.concatenate([label_column(y, len(x), f"{path}: y") for x, y in parts.values()])
        )
        ends = np.cumsum([len(x) for x, _ in parts.values()]).tolist()
        places = {part: slice(end - len(parts[part][0]), end) for part, end in zip(parts, ends, strict=True)}
    return _labelled(x, y, str(path), white), places


def _passed(kinds: Counter[str]) -> tuple[str, ...]:
    return (
        (f"files that are hidden or no images, passed over: {kinds.total()} ({passed_over(kinds)})",) if kinds else ()
    )


def _open_folder(
    path: Path, decoding: Decoding, labels: Path | None, skip_bad: bool
) -> tuple[Images, dict[str, slice] | None]:
    """A folder of images, and its published parts where it has `train/` and `test/` or `val/`."""
    options = {"train": ("train",), "test": ("test",), "validation": ("validation", "val", "valid")}
    found = {part: path / name for part, names in options.items() for name in names if (path / name).is_dir()}
    if "test" not in found and "validation" in found:
        found["test"] = found.pop("validation")
    published = {"train", "test"} <= set(found)
    names, owners, part_of, passed = [], [], [], Counter()
    for part, folder in (found if published else {"": path}).items():
        own, other = list_images(folder)
        if not own:
            if tables := sorted(path.rglob("*.parquet")):
                return _open_datasets(str(path), tables, decoding, skip_bad)
            there = f"; there are {passed_over(other)}" if other else ""
            raise ValueError(
                f"{folder} holds no images (looked for {', '.join(USUAL)}, and into files of other names){there}"
            )
        owners.append(folder_labels(own, folder) if labels is None else None)
        names += [f"{folder.name}/{name}" for name in own] if published else own
        part_of += [part] * len(own)
        passed += other
    if any(owners) and not all(owners):
        raise ValueError(f"some parts of {path} have class sub-folders and some have none")
    return _open_files(
        path,
        names,
        [owner for own in owners for owner in own] if all(owners) else None,
        part_of if published else None,
        labels=labels,
        decoding=decoding,
        skip_bad=skip_bad,
        notes=_passed(passed),
    )


def _open_files(
    folder: Path,
    names: list[str],
    owners: list[str] | None,
    part_of: list[str] | None,
    *,
    labels: Path | None,
    decoding: Decoding,
    skip_bad: bool,
    name: str = "",
    notes: tuple[str, ...] = (),
) -> tuple[Images, dict[str, slice] | None]:
    """The image files `names` in `folder`, with their classes, or the table of labels that has them, and their parts."""
    classes: np.ndarray | None = None if owners is None else np.array(owners)
    if labels is not None:
        read, more = read_labels(labels, names)
        kept = [i for i, label in enumerate(read) if label is not None]
        names, classes = [names[i] for i in kept], np.array([read[i] for i in kept])
        part_of = part_of and [part_of[i] for i in kept]
        notes += more
        if np.char.isdecimal(classes).all() and np.char.str_len(classes).max() < 19:
            classes = classes.astype(np.int64)  # so that 10 comes after 9
    base = os.path.commonpath([os.path.dirname(name) for name in names]) if name else ""
    images, parts = _from_files(
        names,
        [os.path.relpath(file, base) for file in names] if base else names,
        lambda: (f"{folder / name}" for name in names),
        classes,
        part_of,
        key=files_key(folder, names),
        decoding=decoding,
        skip_bad=skip_bad,
        name=name or str(folder),
        notes=notes,
    )
    files = None if images.files is None or labels is None else images.files._replace(labels=str(labels))
    return replace(images, files=files or images.files), parts


def _open_datasets(
    name: str, tables: list[Path] | None, decoding: Decoding, skip_bad: bool
) -> tuple[Images, dict[str, slice] | None]:
    """What the library `datasets` reads, its splits as parts."""
    found = read_datasets(name, tables)
    part_of = [part for part in found.parts for _ in range(len(found.parts[part]))]
    rows = np.concatenate([np.arange(len(table)) for table in found.parts.values()])
    return _from_files(
        [f"{name} {part} row {row}" for part, row in zip(part_of, rows, strict=True)],
        rows,
        found.sources,
        found.labels,
        part_of if {"train", "test"} <= set(found.parts) else None,
        key=found.key,
        decoding=decoding,
        skip_bad=skip_bad,
        name=name,
    )


def _from_files(
    names: list[str],
    origins: list[str] | np.ndarray,
    sources: Callable[[], Iterable[str | bytes]],
    labels: np.ndarray | None,
    part_of: list[str] | None,
    *,
    key: str,
    decoding: Decoding,
    skip_bad: bool,
    name: str,
    notes: tuple[str, ...] = (),
) -> tuple[Images, dict[str, slice] | None]:
    """Image files, or their bytes, as `Images`, and where the parts lie in it; the files of a part follow each other. names are
    for messages; origins are the files, or int64 rows.
    """
    y, classes = (None, ()) if labels is None else check_labels(labels, len(names), f"{name}: labels")
    found = decoded(names, sources, y, count=len(names), key=key, decoding=decoding)
    unreadable = list(found.files.unreadable)
    if unreadable and not skip_bad:
        raise ValueError(
            f"{len(unreadable)} of {len(names)} images can't be read: {listed(unreadable)}; --skip-bad goes on without them"
        )
    images = Images(
        check_array(found.x, name, white=255),
        found.y,
        tuple(str(label) for label in classes),
        name,
        found.fingerprint,
        notes=notes + found.notes,
        files=found.files._replace(skip_bad=skip_bad),
        white=found.white if decoding.white is None else decoding.white,
    )
    if isinstance(origins, np.ndarray):
        images = replace(images, rows=np.delete(origins, found.bad))
    else:
        images = replace(images, names=np.delete(np.array(origins, dtype=object), found.bad))
    if part_of is None:
        return images, None
    left = np.delete(np.array(part_of), found.bad)
    where = {part: np.flatnonzero(left == part) for part in dict.fromkeys(part_of)}
    if empty := [part for part, places in where.items() if not len(places)]:
        raise ValueError(f"the part {empty[0]} of {name} has no image that can be used")
    return images, {part: slice(int(places[0]), int(places[-1]) + 1) for part, places in where.items()}


def _has_idx_files(folder: Path) -> bool:
    return all(any((folder / (name + suffix)).exists() for suffix in ("", ".gz")) for name in IDX_FILES)


def _idx_parts(
    folder: Path, classes: tuple[str, ...] | None, name: str, white: int | None = None
) -> tuple[Images, dict[str, slice]]:
    arrays = []
    for file in IDX_FILES:
        packed = folder / f"{file}.gz"
        arrays.append(read_idx(packed if packed.exists() else folder / file))
    train_x, train_y, test_x, test_y = arrays
    for part, x, y in (("train", train_x, train_y), ("test", test_x, test_y)):
        if x.ndim != 3 or y.shape != (len(x),):
            raise ValueError(f"{folder}: the {part} files don't fit, images {x.shape} and labels {y.shape}")
    if train_x.shape[1:] != test_x.shape[1:]:
        raise ValueError(f"{folder}: train images are {train_x.shape[1:]}, test images {test_x.shape[1:]}")
    y = np.concatenate([train_y, test_y]).astype(np.int64)
    if classes is None:
        y, found = check_labels(y, len(y), f"{folder}: labels")
        classes = tuple(str(label) for label in found)
    elif y.min() < 0 or y.max() >= len(classes):
        raise ValueError(f"{folder}: labels from {y.min()} to {y.max()}, expected 0 to {len(classes) - 1}")
    x, white, notes = _in_8_bits(np.concatenate([train_x, test_x])[..., None], name, white)
    rows = np.concatenate([np.arange(len(train_x)), np.arange(len(test_x))])
    images = replace(_images(x, y, classes, name), white=white, notes=notes, rows=rows)
    return images, {"train": slice(0, len(train_x)), "test": slice(len(train_x), None)}


def _find_idx_set(name: str) -> Path:
    """The folder that holds a published set's four files: the user's, the cache, or the cache after a download."""
    cached = cache_dir() / name
    own = [Path(os.environ["VAEKIT_DATA"]) / name] if "VAEKIT_DATA" in os.environ else []
    for folder in (*own, cached):
        if _has_idx_files(folder):
            return folder
    download_idx_set(IDX_SETS[name], cached)
    return cached


def download_idx_set(published: IdxSet, folder: Path) -> None:
    """Fetches the four files into `folder`, each from the first mirror that serves it with the right SHA-256.

    Raises ConnectionError, with every mirror's failure and where to put the files by hand, when none does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    remove_temporaries(folder, [f"{file}.gz" for file in IDX_FILES], days=1)
    for file in IDX_FILES:
        target = folder / f"{file}.gz"
        if target.exists():
            continue
        failures = []
        for mirror in published.mirrors:
            try:
                with urllib.request.urlopen(f"{mirror}{file}.gz", timeout=30) as response:
                    data = response.read()
                found = hashlib.sha256(gzip.decompress(data) if published.unpacked else data).hexdigest()
            except (OSError, EOFError, zlib.error, http.client.HTTPException) as error:
                failures.append(f"{mirror}: {first_line(error)}")
                continue
            if found == published.sha256[file]:
                write_atomically(target, data)
                break
            failures.append(f"{mirror}: wrong SHA-256 ({found[:12]}...)")
        else:
            raise ConnectionError(
                f"{file}.gz could not be downloaded ({'; '.join(failures)}). Put the four files {', '.join(IDX_FILES)} "
                f"(.gz) into {folder}, or into a folder {folder.name}/ under $VAEKIT_DATA"
            )
