"""`Images`, the one form data takes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np

from vaekit.data.columns import Header
from vaekit.data.decoding import ImageFiles
from vaekit.data.mapped import take

PARTS = ("train", "validation", "test")
BINARIZE = ("none", "fixed", "dynamic")
BINARIZE_SEED = 0


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
        parts = {name: getattr(self, name) for name in ("y", "factors", "names", "part_of", "rows")}
        taken = {name: None if part is None else part[indices] for name, part in parts.items()}
        if self.names is None and self.rows is None:  # of a slice only the part is counted, however many there are
            whole = range(len(self))
            taken["rows"] = np.array(whole[indices]) if isinstance(indices, slice) else np.arange(len(whole))[indices]
        return replace(self, x=take(self.x, indices), **taken)

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

    def opened(self) -> dict:
        """What these are and how they were opened, for run.json: all that opens them again. `decoding` has what differs from
        the defaults, and the white found.
        """
        asked = {} if self.files is None else self.files.decoding._asdict()
        known = asked | ({} if self.white is None else {"white": self.white})
        return {
            "name": self.name,
            "fingerprint": self.fingerprint,
            "split": self.split,
            "split_seed": self.split_seed,
            "binarize": self.binarize,
            "decoding": {name: value for name, value in known.items() if value is not None or name == "resize"} or None,
            "skip_bad": self.files is not None and self.files.skip_bad,
            "labels": None if self.files is None else self.files.labels,
            "images": len(self),
        }


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
