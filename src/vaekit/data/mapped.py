"""Arrays larger than memory: those that stay in their file, some rows of one, and any array in pieces."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

MAPPED_FROM = 2**26  # bytes from which images stay in a memory-mapped file; fewer are read into memory
CHUNK = 2**24  # bytes of a data set that are looked at together, so that one larger than memory can be described


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


def take(x, indices):
    """x[indices]; of what is mapped `Rows`, read only where they are few."""
    if isinstance(x, Rows):
        part = x.take(indices)
    elif isinstance(indices, slice) or not is_mapped(x):
        return x[indices]
    else:
        part = Rows(x, np.arange(len(x))[indices])
    return part if math.prod(part.shape) * part.dtype.itemsize > CHUNK else part[:]


def chunks(x: np.ndarray | Rows) -> Iterator[tuple[int, np.ndarray]]:
    """Consecutive parts of x, and where each starts; small enough to be copied whatever the size of x."""
    step = max(1, CHUNK // max(1, math.prod(x.shape[1:]) * x.dtype.itemsize))
    for start in range(0, len(x), step):
        yield start, x[start : start + step]
