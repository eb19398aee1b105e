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
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vaekit.data.cache import cache_dir, decoded, files_key
from vaekit.data.datasets import is_saved, read_datasets
from vaekit.data.images import (
    BINARIZE,
    FEWEST,
    PARTS,
    Decoding,
    Images,
    binarized,
    check_array,
    check_labels,
    fingerprint,
    listed,
    split_indices,
)
from vaekit.data.readers import (
    IMAGE_SUFFIXES,
    check_decoding,
    folder_labels,
    list_images,
    read_idx,
    read_labels,
    read_npy,
    read_npz,
)
from vaekit.data.sprites import is_dsprites, read_dsprites, sprites
from vaekit.messages import check_number, first_line, nearest
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
    labels=None,
    skip_bad: bool = False,
    binarize: str = "none",
) -> Images:
    """The part `split` of a data set: "train", "validation", "test", or "all".

    name_or_path: digits, mnist, fashion-mnist, sprites (20,000 of them); a folder of images with a sub-folder per class,
        or of the four idx files; a .npy, .npz (`x`, `y`) or idx file, or that of dSprites (20,000 of its images); or a glob
        of images. A folder with `train/` and `test/` in it (and perhaps `val/`, which stands in for a missing `test/`)
        comes with its split. Where the library `datasets` is installed also what it saved to a folder, Parquet files of
        images, and hf:OWNER/NAME, which it downloads.
    split_seed: data without a published test part is split 80/10/10 by this seed, stratified by class.
    resize: side in pixels that image files are brought to, and sprites drawn at (None: 64); other data is read as it is.
    fit: how image files are brought to `resize`: "crop" scales the shorter side and cuts the centre, "pad" scales the longer
        side and fills the rest with the background.
    background: the colour behind transparent pixels and around padded images ("white", "black", "#ff8800"), or "keep": alpha
        is a fourth channel.
    labels: a table (CSV) of files and labels for image files, instead of sub-folders; images that it does not name are left
        out. For a .npy file of images, the .npy file of their labels.
    skip_bad: leaves out image files that can't be read, rather than to refuse the data.
    binarize: "fixed" draws each pixel black or white once, by a seed that is always the same; "dynamic" does so for the other
        parts and leaves the training images grey, to be drawn anew in each epoch (Burda et al. 2016's protocol for MNIST).

    Image files are decoded once and kept in the cache; images that take more than 64 MiB stay in a memory-mapped file, and so
    do those of a .npy file. Raises FileNotFoundError for a path that isn't there, ValueError for data that can't be used, and
    ConnectionError where a built-in set can't be downloaded; all say why.
    """
    if split not in (*PARTS, "all"):
        raise ValueError(f"split must be one of {', '.join(PARTS)} or all, got {split!r}")
    if binarize not in BINARIZE:
        raise ValueError(f"binarize must be one of {', '.join(BINARIZE)}, got {binarize!r}")
    whole, published = open_whole(name_or_path, Decoding(resize, fit, background), labels=labels, skip_bad=skip_bad)
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
    name_or_path, decoding: Decoding, *, labels=None, skip_bad: bool = False
) -> tuple[Images, dict[str, slice] | None]:
    """A whole data set, and where its published parts lie in it (None where it has none); arguments as of `open_data`."""
    check_number("resize", decoding.resize, whole=True, above=0)
    check_decoding(decoding)
    name, resize = str(name_or_path), decoding.resize
    whole, published = _open_whole(name, decoding, None if labels is None else Path(labels), skip_bad)
    if resize is not None and whole.image_shape[:2] != (resize, resize):
        raise ValueError(f"{whole.name} has samples of shape {whole.image_shape}; only image files can be resized")
    return whole, published


def _open_whole(
    name: str, decoding: Decoding, labels: Path | None, skip_bad: bool
) -> tuple[Images, dict[str, slice] | None]:
    path = Path(name)
    if labels is not None and not labels.is_file():
        raise FileNotFoundError(f"no labels at {labels}")
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
        files = [file for file in matches if Path(file).suffix.lower() in IMAGE_SUFFIXES]
        if not files:
            raise FileNotFoundError(f"no image files match {name!r}")
        return _open_files(Path(), files, None, None, labels=labels, decoding=decoding, skip_bad=skip_bad, name=name)
    if labels is not None and path.suffix.lower() == ".npy" and path.is_file():
        return _labelled(read_npy(path), read_npy(labels), str(path)), None
    if labels is not None:
        raise ValueError(
            f"{name} can't be given labels; a table of labels is for image files, a .npy of them for a .npy"
        )
    if path.is_dir():
        return _idx_parts(path, None, path.name)
    if path.is_file():
        return _open_file(path), None
    if path.suffix or len(path.parts) > 1:
        raise FileNotFoundError(f"no data at {name!r}: there is no such file or folder")
    raise ValueError(
        f"unknown data {name!r}{nearest(name, NAMES)}; known are {', '.join(NAMES)}, else it must be a file or folder"
    )


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
    x = check_array(x, name)
    return Images(x, y, classes, name, fingerprint(x, y))


def _labelled(x, y, name: str) -> Images:
    x = check_array(x, name)
    if y is None:
        return _images(x, None, (), name)
    index, classes = check_labels(y, len(x), f"{name}: y")
    return _images(x, index, tuple(str(label) for label in classes), name)


def _open_file(path: Path) -> Images:
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return _labelled(read_npy(path), None, str(path))
    if suffix == ".npz" and is_dsprites(path):
        return read_dsprites(path, SPRITES)[0]
    if suffix == ".npz":
        return _labelled(*read_npz(path), str(path))
    if "idx" in path.name or suffix == ".gz":
        return _labelled(read_idx(path), None, str(path))
    if suffix in IMAGE_SUFFIXES:
        raise ValueError(f"{path} is one image; give its folder, or a pattern such as '{path.parent / '*'}{suffix}'")
    raise ValueError(f"{path} is of no known kind: a data file is .npy, .npz or idx")


def _open_folder(
    path: Path, decoding: Decoding, labels: Path | None, skip_bad: bool
) -> tuple[Images, dict[str, slice] | None]:
    """A folder of images, and its published parts where it has `train/` and `test/` or `val/`."""
    options = {"train": ("train",), "test": ("test",), "validation": ("validation", "val", "valid")}
    found = {part: path / name for part, names in options.items() for name in names if (path / name).is_dir()}
    if "test" not in found and "validation" in found:
        found["test"] = found.pop("validation")
    published = {"train", "test"} <= set(found)
    names, owners, part_of, passed = [], [], [], 0
    for part, folder in (found if published else {"": path}).items():
        own, other = list_images(folder)
        if not own:
            if tables := sorted(path.rglob("*.parquet")):
                return _open_datasets(str(path), tables, decoding, skip_bad)
            raise ValueError(f"{folder} holds no images (looked for {', '.join(IMAGE_SUFFIXES)})")
        owners.append(folder_labels(own, folder) if labels is None else None)
        names += [f"{folder.name}/{name}" for name in own] if published else own
        part_of += [part] * len(own)
        passed += other
    if any(owners) and not all(owners):
        raise ValueError(f"some parts of {path} have class sub-folders and some have none")
    notes = (f"files that are hidden or no images, passed over: {passed}",) if passed else ()
    return _open_files(
        path,
        names,
        [owner for own in owners for owner in own] if all(owners) else None,
        part_of if published else None,
        labels=labels,
        decoding=decoding,
        skip_bad=skip_bad,
        notes=notes,
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
        if np.char.isdecimal(classes).all():
            classes = classes.astype(np.int64)  # so that 10 comes after 9
    base = os.path.commonpath([os.path.dirname(name) for name in names]) if name else ""
    return _from_files(
        names,
        [os.path.relpath(file, base) for file in names] if base else names,
        (f"{folder / name}" for name in names),
        classes,
        part_of,
        key=files_key(folder, names),
        decoding=decoding,
        skip_bad=skip_bad,
        name=name or str(folder),
        notes=notes,
    )


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
        found.sources(),
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
    sources: Iterable[str | bytes],
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
        check_array(found.x, name),
        found.y,
        tuple(str(label) for label in classes),
        name,
        found.fingerprint,
        notes=notes,
        files=found.files,
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


def _idx_parts(folder: Path, classes: tuple[str, ...] | None, name: str) -> tuple[Images, dict[str, slice]]:
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
    images = _images(np.concatenate([train_x, test_x])[..., None], y, classes, name)
    images = replace(images, rows=np.concatenate([np.arange(len(train_x)), np.arange(len(test_x))]))
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
