"""Image files as `Images`: a folder of them, a list, or those that the library `datasets` reads."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from vaekit.data.cache import decoded, files_key
from vaekit.data.checks import check_array, check_labels
from vaekit.data.datasets import read_datasets
from vaekit.data.decoding import Decoding
from vaekit.data.images import Images
from vaekit.data.kinds import USUAL, is_picture, kind_of, list_images, passed_over
from vaekit.data.readers import folder_labels, read_labels
from vaekit.messages import listed, nearest_path


def open_matches(
    pattern: str, decoding: Decoding, labels: Path | None, skip_bad: bool
) -> tuple[Images, dict[str, slice] | None]:
    """The image files that match a pattern of the shell."""
    matches = sorted(glob.glob(pattern, recursive=True))
    matches = [file for file in matches if not os.path.isdir(file)]
    files = [file for file in matches if is_picture(file)]
    passed = Counter(kind_of(file) for file in set(matches) - set(files))
    if not files:
        found = f": there are {passed_over(passed)}" if passed else nearest_path(pattern)
        raise FileNotFoundError(f"no image files match {pattern!r}{found}")
    return _open_files(
        Path(),
        files,
        None,
        None,
        labels=labels,
        decoding=decoding,
        skip_bad=skip_bad,
        name=pattern,
        notes=_passed(passed),
    )


def _passed(kinds: Counter[str]) -> tuple[str, ...]:
    return (
        (f"files that are hidden or no images, passed over: {kinds.total()} ({passed_over(kinds)})",) if kinds else ()
    )


def open_folder(
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
            if shards := sorted(path.rglob("*.parquet")) or sorted(path.rglob("*.tar")):
                return open_datasets(str(path), shards, decoding, skip_bad)
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


def open_datasets(
    name: str, shards: Sequence[str | Path] | None, decoding: Decoding, skip_bad: bool
) -> tuple[Images, dict[str, slice] | None]:
    """What the library `datasets` reads, its splits as parts."""
    found = read_datasets(name, shards)
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
