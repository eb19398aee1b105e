"""Images that the library `datasets` (Hugging Face) reads: Parquet files, folders it saved, and sets it downloads."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vaekit.data.readers import LABEL_COLUMNS
from vaekit.messages import first_line

ORDER = ("train", "test", "validation")
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


def is_saved(path: Path) -> bool:
    """Whether the folder is one that `datasets` saved."""
    return any((path / name).is_file() for name in ("dataset_dict.json", "dataset_info.json"))


def read_datasets(name: str, tables: list[Path] | None) -> Tables:
    """The rows of Parquet files `tables`, of the saved folder `name`, or of hf:OWNER/NAME.

    Raises ValueError where the library isn't installed, or where no column holds images.
    """
    try:
        import datasets  # type: ignore[import-not-found]
    except ImportError:
        raise ValueError(f"{name} needs the extra `datasets`: pip install 'vaekit[datasets]'") from None
    if tables is not None:
        files: dict[str, list[str]] = {}
        for table in tables:
            word = re.match(r"(train|test|val)", table.name)
            files.setdefault({"val": "validation"}.get(word[1], word[1]) if word else "train", []).append(str(table))
        found = _from_parquet(datasets, name, files)
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
    labels = next((known for known in LABEL_COLUMNS if known in features), None)
    if isinstance(features[column], datasets.Image):
        parts = {part: table.cast_column(column, datasets.Image(decode=False)) for part, table in parts.items()}
    key = " ".join([column, *(f"{part} {table._fingerprint}" for part, table in parts.items())])
    return Tables(parts, column, None if labels is None else _labels(parts, labels), key)


def _from_parquet(datasets, name: str, files: dict[str, list[str]]):
    """The tables in Parquet files; ValueError that names them where they are damaged, which the library logs besides."""
    logger = logging.getLogger("datasets")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        return datasets.load_dataset("parquet", data_files=files)
    except Exception as error:  # whatever the library raises on hostile bytes
        raise ValueError(f"{name} is damaged, or no Parquet file of images ({first_line(error)})") from None
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
