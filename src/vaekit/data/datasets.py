"""Images that the library `datasets` (Hugging Face) reads: shards of Parquet and WebDataset (.tar), on this machine or wherever
fsspec reaches, folders it saved, and sets it downloads.
"""

from __future__ import annotations

import glob
import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vaekit.data.readers import LABEL_COLUMNS
from vaekit.messages import first_line

SHARDS = {".parquet": "parquet", ".tar": "webdataset"}  # endings, and what `datasets` calls their kind
ORDER = ("train", "test", "validation")
TAR_KEY, TAR_LABEL = (
    "__key__",
    "cls",
)  # columns of a WebDataset: what files of a sample share, and the content of its .cls
BATCH = 256  # rows that are read together


class Tables(NamedTuple):
    """parts: name -> table of rows. column: that of images. labels: of all rows, or None. key: tells the data from others."""

    parts: dict[str, Any]
    column: str
    labels: np.ndarray | None
    key: str

    def sources(self) -> Iterator[str | bytes]:
        """The image of each row: the bytes of a file, or its path."""
        for table in self.parts.values():
            for start in range(0, len(table), BATCH):
                for cell in table[start : start + BATCH][self.column]:
                    found = cell if isinstance(cell, bytes) else (cell or {}).get("bytes") or (cell or {}).get("path")
                    yield found or b""  # which no decoder takes for an image


def is_remote(name: str) -> bool:
    """Whether `name` is a place that fsspec is to reach, such as s3://bucket/train-*.tar."""
    return re.match(r"[a-z][a-z0-9+.-]*://", name) is not None


def find_shards(name: str) -> list[str]:
    """The shards that `name` is, or that match it as a pattern, or lie in it on another machine; none where it is none of it.

    Raises ValueError for a place of which fsspec knows nothing or that holds other files, FileNotFoundError where nothing is,
    ConnectionError where it isn't reached.
    """
    if is_remote(name):
        return _find_remote(name)
    found = [name] if os.path.isfile(name) else sorted(glob.glob(name, recursive=True)) if glob.has_magic(name) else []
    return found if found and all(os.path.splitext(file)[1] in SHARDS for file in found) else []


def _find_remote(name: str) -> list[str]:
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise ValueError(f"{name} needs the extra `datasets`: pip install 'vaekit[datasets]'") from None
    try:
        there, path = url_to_fs(name)
        found = there.glob(path) if glob.has_magic(path) else there.find(path)
    except (ImportError, ValueError) as error:  # no such protocol, or the library for it is missing
        raise ValueError(f"{name} can't be read: {first_line(error)}") from None
    except FileNotFoundError:
        found = []
    except Exception as error:  # every file system has errors of its own
        raise ConnectionError(f"{name} can't be reached: {first_line(error)}") from None
    if not found:
        raise FileNotFoundError(f"no data at {name!r}")
    shards = sorted(there.unstrip_protocol(file) for file in found if os.path.splitext(file)[1] in SHARDS)
    if not shards:
        raise ValueError(f"{name} has no shards of images ({', '.join(SHARDS)}), but {os.path.basename(found[0])}")
    return shards


def is_saved(path: Path) -> bool:
    """Whether the folder is one that `datasets` saved."""
    return any((path / name).is_file() for name in ("dataset_dict.json", "dataset_info.json"))


def read_datasets(name: str, shards: Sequence[str | Path] | None) -> Tables:
    """The rows of `shards`, of the saved folder `name`, or of hf:OWNER/NAME.

    Raises ValueError where the library isn't installed, or where no column holds images.
    """
    try:
        import datasets  # type: ignore[import-not-found]
    except ImportError:
        raise ValueError(f"{name} needs the extra `datasets`: pip install 'vaekit[datasets]'") from None
    if shards is not None:
        kinds = {os.path.splitext(shard)[1] for shard in shards}
        if len(kinds) > 1:
            raise ValueError(f"{name} has shards of two kinds, {' and '.join(sorted(kinds))}: say which with a pattern")
        files: dict[str, list[str]] = {}
        for shard in map(str, shards):
            word = re.match(r"(train|test|val)", shard.rsplit("/", 1)[-1])
            files.setdefault({"val": "validation"}.get(word[1], word[1]) if word else "train", []).append(shard)
        found = _from_shards(datasets, name, SHARDS[kinds.pop()], files)
    elif name.startswith("hf:"):
        found = datasets.load_dataset(name.removeprefix("hf:"))
    else:
        found = datasets.load_from_disk(name)
    parts: dict[str, Any] = (
        {str(part): table for part, table in found.items()} if isinstance(found, dict) else {"all": found}
    )
    parts = {part: parts[part] for part in sorted(parts, key=lambda part: (*ORDER, part).index(part))}
    if "test" not in parts and "validation" in parts:
        parts["test"] = parts.pop("validation")
    features = next(iter(parts.values())).features
    column = _image_column(features, datasets.Image, name)
    labels = next((known for known in (*LABEL_COLUMNS, TAR_LABEL) if known in features), None)
    if isinstance(features[column], datasets.Image):
        parts = {part: table.cast_column(column, datasets.Image(decode=False)) for part, table in parts.items()}
    key = " ".join([column, *(f"{part} {table._fingerprint}" for part, table in parts.items())])
    return Tables(parts, column, None if labels is None else _labels(parts, labels), key)


def _from_shards(datasets, name: str, kind: str, files: dict[str, list[str]]):
    """The tables in shards of a kind; ValueError that names them where they are damaged, which the library logs besides."""
    logger = logging.getLogger("datasets")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        return datasets.load_dataset(kind, data_files=files)
    except Exception as error:  # whatever the library raises on hostile bytes
        what = "Parquet file" if kind == "parquet" else "WebDataset"
        raise ValueError(f"{name} is damaged, or no {what} of images ({first_line(error)})") from None
    finally:
        logger.setLevel(level)


def _image_column(features, image: type, name: str) -> str:
    """The column of images: one that says so, else one of bytes, alone or beside a path."""
    for column, feature in features.items():
        inner = feature.get("bytes") if isinstance(feature, dict) else feature
        if isinstance(feature, image) or getattr(inner, "dtype", None) in ("binary", "large_binary"):
            return column
    raise ValueError(f"{name} has no column of images or of their bytes; its columns are {', '.join(features)}")


def _labels(parts: dict[str, Any], column: str) -> np.ndarray:
    """The labels of all rows, as names where the data has names for them."""
    labels = np.concatenate([np.asarray(table[column]) for table in parts.values()])
    names = getattr(next(iter(parts.values())).features[column], "names", None)
    return labels if names is None else np.asarray(names)[labels]
