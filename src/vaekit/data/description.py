"""What is in a data set, and what is wrong with it: `describe`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from vaekit.data.advice import suggestions
from vaekit.data.columns import array_header, scaling_problem
from vaekit.data.images import Images
from vaekit.data.mapped import CHUNK, Rows, chunks
from vaekit.data.pixels import darkness
from vaekit.messages import listed
from vaekit.state import undisturbed


@undisturbed
def describe(images: Images, parts: Mapping[str, np.ndarray | slice] | None = None) -> dict:
    """What is in a data set, JSON-able, with `problems`: what is wrong with it, in plain words.

    parts: where the parts of its split lie. The data is read in pieces, so it may be larger than memory.
    """
    x = images.x
    seen = _survey(x)
    facts: dict = {
        "name": images.name,
        "split": images.split,
        "count": len(images),
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
    if len(images) < 500:
        blur = "" if images.is_table else "blurred reconstructions and "
        problems.append(f"only {len(images)} samples: expect {blur}overfitting")
    _tell_copies(images, seen, parts, facts, problems)
    if seen.constant_samples:
        problems.append(f"{seen.constant_samples} constant samples (every value the same)")
    facts["constant_values_share"] = seen.constant_values
    if seen.constant_values > 0.5:
        problems.append(f"{seen.constant_values:.0%} of the {'columns' if images.is_table else 'pixels'} never change")
    if images.is_table and (badly := scaling_problem(np.asarray(x), images.header)):
        problems.append(f"columns that are {badly}")
    if not images.is_table:
        top = 255 if x.dtype == np.uint8 else 1
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
    facts["suggestions"] = [
        {**suggestion._asdict(), "flags": suggestion.flags} for suggestion in suggestions(images, facts)
    ]
    facts["problems"] = problems
    return facts


def _tell_copies(
    images: Images, seen: _Survey, parts: Mapping[str, np.ndarray | slice] | None, facts: dict, problems: list[str]
) -> None:
    """Adds to facts and problems how many samples are alike, in the whole and across its parts, and what those parts are."""
    facts["duplicates"] = copies = len(images) - len(np.unique(seen.digests))
    if copies:
        problems.append(f"{copies} exact duplicates: copies in train and test make scores too good")
    if parts is not None:
        facts["parts"] = {part: _part_facts(images, where) for part, where in parts.items()}
        facts["duplicates_across_parts"] = across = _copies_across(seen.digests, parts)
        if across:
            problems.append(f"{across} of these images are in more than one part of the split")


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
