"""Image files as one memory-mapped array: decoded once, by several threads, and kept in the user's cache.

    decoded/KEY/pixels        (N, H, W, C) uint8, nothing else
    decoded/KEY/facts.json    shape, fingerprint, and what the files were

KEY is a digest of the files' places, sizes, times and labels, of how they are decoded, and by which decoders. An entry is
written in a folder with a temporary name and renamed when it is whole; of two processes that write the same one, the later
takes the other's.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import math
import os
import re
import sys
import tempfile
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vaekit.data.decoding import Decoding, ImageFiles, SizesDiffer, decode
from vaekit.data.images import fingerprint
from vaekit.data.kinds import HEAD, formats, head_of, words_for
from vaekit.data.mapped import CHUNK, MAPPED_FROM
from vaekit.data.pixels import WHOLE, find_white, with_channels
from vaekit.messages import first_line, listed
from vaekit.owned import claim, discard
from vaekit.state import warn

VERSION = 2  # of what `decode` makes of a file, and of the entries
BATCH = 16  # files that a thread decodes in one go
THREADS = os.cpu_count() or 1  # that decode
IN_FLIGHT = 2**28  # bytes of decoded images that wait to be written
MOST_SIZES = 20  # that are told apart in the facts
ENTRY = re.compile(r"[0-9a-f]{64}|[0-9a-f]{16}\.\w+\.tmp")  # the names of entries, and of those that are being written
KEEP_DAYS = 30  # that an entry is kept without being used
FLAGS = ("cut", "lost", "pages", "deep")  # of `Seen`, which are counted
SAY_EVERY = 10.0  # seconds between two lines about a long decoding


class Decoded(NamedTuple):
    """x: (N, H, W, C) uint8. y: (N,) or None. bad: which of the sources could not be read, and are not in x and y. white: the
    value of white that was found, or None. notes: what a person should be told.
    """

    x: np.ndarray
    y: np.ndarray | None
    fingerprint: str
    bad: list[int]
    files: ImageFiles
    white: int | None
    notes: tuple[str, ...]


def cache_dir() -> Path:
    """Where downloads, decoded images and judges are kept: $VAEKIT_CACHE, or vaekit/ in the user's cache folder."""
    if own := os.environ.get("VAEKIT_CACHE"):  # an empty one is none, and not the folder one is in
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vaekit"


def ahead(function: Callable, items: Iterable, *, workers: int | None = None, depth: int = 8) -> Iterator:
    """function(item) for each item, in order, worked out by threads up to `depth` items before it is asked for."""
    with ThreadPoolExecutor(workers) as pool:
        waiting = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > depth:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def files_key(folder: Path, names: Iterable[str]) -> str:
    """A digest of where the files are, their names, sizes and times of change; the second of the times can't be set by those
    who unpack archives.
    """
    sha = hashlib.sha256(os.fsencode(f"{folder.resolve()}\n"))
    for name in names:
        found = os.stat(folder / name)
        sha.update(os.fsencode(f"{name}\0{found.st_size}\0{found.st_mtime_ns}\0{found.st_ctime_ns}\n"))
    return sha.hexdigest()


def decoded(
    names: Iterable[str],
    sources: Callable[[], Iterable[str | bytes]],
    y: np.ndarray | None,
    *,
    count: int,
    key: str,
    decoding: Decoding,
) -> Decoded:
    """`count` image files (paths, or their bytes) as one array, from the cache or decoded now; in memory where it is small.

    names: for messages. sources: gives them, twice where the value of white has to be found first. y: (count,) labels. key:
    what tells these sources from others. Files that can't be read are left out.
    Raises ValueError where none can be, or where they differ in size.
    """
    whole = hashlib.sha256(
        f"{VERSION} {key} {decoding!r} {sorted(formats())} ".encode() + (b"" if y is None else y.tobytes())
    ).hexdigest()
    entry = cache_dir() / "decoded" / whole
    found = _read(entry)
    if found is None:
        temporary, kept = _temporary(entry)
        try:
            facts = _decode_all(zip(names, sources(), strict=True), count, decoding, temporary / "pixels")
            if decoding.white is None and (white := _white(facts)) is not None:
                brighter = decoding._replace(white=white)
                again = _decode_all(zip(names, sources(), strict=True), count, brighter, temporary / "pixels")
                facts = again | {"white": white, "wide": facts["wide"]}
            x = np.memmap(temporary / "pixels", np.uint8, "r", shape=tuple(facts["shape"]))
            facts["fingerprint"] = fingerprint(x, y if y is None else np.delete(y, facts["bad"]))
            (temporary / "facts.json").write_text(json.dumps(facts))
            if kept:
                found = _rename(temporary, entry)
            found = found or _read(temporary)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            more = "the images' pixels are kept there, and VAEKIT_CACHE names another folder for them"
            raise OSError(error.errno, f"{error.strerror}; {more}", str(temporary)) from None
        finally:
            _remove(temporary)
    assert found is not None, "an entry that was written can be read"
    x, facts = found
    files = ImageFiles(facts["sizes"], facts["modes"], tuple(facts["unreadable"]), decoding)
    return Decoded(
        x,
        y if y is None else np.delete(y, facts["bad"]),
        facts["fingerprint"],
        facts["bad"],
        files,
        facts["white"],
        tuple(_notes(facts, decoding)),
    )


def _white(facts: dict) -> int | None:
    """The value of white that the files as a whole have; None where it is the largest that their bits can hold."""
    wide, narrow = facts["wide"], facts["narrow"]
    if wide is None:
        return 1 if narrow == 1 else None
    high = max(wide, narrow or 0)
    white = 1 if high == 1 else max(255, find_white(wide))
    return None if white == WHOLE or high == 0 else white


def _notes(facts: dict, decoding: Decoding) -> list[str]:
    """What a person should be told of how files became pixels: what was found out, and what was lost."""
    notes, white = [], facts["white"]
    if white == 1:
        notes.append("pixels are 0 and 1 alone: taken for black and white (--white 255 takes them for 8-bit values)")
    elif white is not None:
        notes.append(
            f"grey images of 16 bits have values up to {facts['wide']}: {white} is taken for white (--white {WHOLE}, or "
            "another, says otherwise)"
        )
    counts = facts["counts"]
    told = {
        "cut": f"images with values above {white or decoding.white}, the value of white, cut to it: {{}}",
        "lost": "colour images made grey: {}",
        "pages": "files with more than one picture (animations, pages), of which the first was taken: {}",
        "deep": "colour images of 16 bits, of which only the upper 8 are read (save them as .npy to keep all): {}",
    }
    return notes + [words.format(counts[name]) for name, words in told.items() if counts[name]]


def _read(entry: Path) -> tuple[np.ndarray, dict] | None:
    """Pixels and facts of an entry; None where there is none, or not a whole one."""
    try:
        facts = json.loads((entry / "facts.json").read_text())
        # A file that is too short is a ValueError. "c": torch wants arrays that may be written to; this one's file never is.
        x = np.memmap(entry / "pixels", np.uint8, "c", shape=tuple(facts["shape"]))
        os.utime(entry)
        _check_facts(facts, x)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
        return None
    return (x if x.nbytes > MAPPED_FROM else np.array(x)), facts


def _check_facts(facts: dict, x: np.ndarray) -> None:
    """Raises ValueError or TypeError for facts of an entry that a disk, or somebody, has changed."""
    if x.ndim != 4 or not x.size or not 1 <= x.shape[3] <= 4 or type(facts["fingerprint"]) is not str:
        raise ValueError("no images")
    for name, kind in (("bad", int), ("unreadable", str)):
        if type(facts[name]) is not list or not all(type(entry) is kind for entry in facts[name]):
            raise TypeError(f"{name} is no list")
    if not all(facts[name] is None or type(facts[name]) is int for name in ("white", "wide")):
        raise TypeError("white is no number")
    for name in ("sizes", "modes", "counts"):
        if not all(type(count) is int for count in facts[name].values()):
            raise TypeError(f"{name} does not count")


def _temporary(entry: Path) -> tuple[Path, bool]:
    """A new folder to write an entry in, and whether it lies in the cache: one that can't be written to, or that holds what is
    not ours, is done without.
    """
    try:
        claim(entry.parent, "cache")
        _tidy(entry.parent)
        return Path(tempfile.mkdtemp(prefix=f"{entry.name[:16]}.", suffix=".tmp", dir=entry.parent)), True
    except OSError:
        return Path(tempfile.mkdtemp(prefix="vaekit.")), False
    except ValueError as error:
        warn(f"decoded images are not kept for the next time: {error}")
        return Path(tempfile.mkdtemp(prefix="vaekit.")), False


def _rename(temporary: Path, entry: Path) -> tuple[np.ndarray, dict] | None:
    """Makes `temporary` the entry, unless another process has made it meanwhile; then that one is taken."""
    for _ in range(2):
        with contextlib.suppress(OSError):
            temporary.rename(entry)
        if (found := _read(entry)) is not None:
            return found
        _remove(entry)  # a damaged one stood in the way
    return None


def _tidy(folder: Path) -> None:
    """Removes the entries that killed processes left a day ago or more, and those that have not been used for long."""
    for entry in folder.iterdir():
        if entry.is_symlink() or not ENTRY.fullmatch(entry.name):
            continue
        try:
            newest = max(path.stat().st_mtime for path in (entry, *entry.iterdir()))
        except OSError:
            continue  # another process has just removed it
        days = (time.time() - newest) / 86400
        if days > (1 if entry.suffix == ".tmp" else KEEP_DAYS):
            _remove(entry)


def _remove(entry: Path) -> None:
    """Removes the files of an entry, and its folder unless somebody else has put something into it."""
    discard(entry, ("pixels", "facts.json"))


def _decode_all(sources: Iterable[tuple[str, str | bytes]], count: int, decoding: Decoding, path: Path) -> dict:
    """Decodes (name, source) pairs into the file `path` -> the entry's facts, without the fingerprint."""
    done, said = 0, time.monotonic()
    with open(path, "w+b") as file, warnings.catch_warnings():
        # What Pillow says of odd metadata names no file, and large images are refused by a limit of our own.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        written = _Written(file)
        for batch in _attempts(sources, decoding):
            for place, attempt in enumerate(batch, done):
                written.add(place, *attempt)
            done += len(batch)
            if time.monotonic() - said > SAY_EVERY:
                said = time.monotonic()
                print(f"vaekit: {done:,} of {count:,} images decoded", file=sys.stderr, flush=True)
        file.flush()
        os.fsync(file.fileno())
    return written.facts(count)


class _Written:
    """The pixels of images, written one after another into `file` with as many channels as any of them has; and what is to be
    told of the image files.
    """

    def __init__(self, file):
        self.file, self.shape, self.other = file, None, None  # (H, W, C); other: the first file of another size
        self.sizes, self.modes, self.shapes, self.counts = Counter(), Counter(), Counter(), Counter()
        self.wide, self.narrow = None, None
        self.bad, self.unreadable = [], []

    def add(self, place: int, name: str, pixels: np.ndarray | None, *facts) -> None:
        """The image file at `place` among the sources, as `_attempt` has it."""
        if pixels is None:
            self.bad.append(place)
            self.unreadable.append(facts[0])
            return
        size, mode, seen = facts
        self.sizes[size] += 1
        self.modes[mode] += 1
        self.counts.update(flag for flag in FLAGS if getattr(seen, flag))
        if seen.wide is None:
            self.narrow = max(self.narrow or 0, seen.narrow)
        else:
            self.wide = max(self.wide or 0, seen.wide)
        self.shapes[pixels.shape[:2]] += 1
        self.shape = self.shape or pixels.shape
        if len(self.shapes) > 1:
            self.other = self.other or name
            return  # only the sizes are of interest any more
        if pixels.shape[2] > self.shape[2]:
            _widen(self.file, self.shape, pixels.shape[2])
            self.shape = pixels.shape
        self.file.write(np.ascontiguousarray(with_channels(pixels, self.shape[2])).data)

    def facts(self, count: int) -> dict:
        """The facts of the entry. Raises ValueError where none of `count` files is an image, or where they differ in size."""
        if self.shape is None:
            raise ValueError(f"none of the {count} images can be read: {listed(self.unreadable)}")
        if len(self.shapes) > 1:
            common = ", ".join(f"{w}x{h} ({number})" for (h, w), number in self.shapes.most_common(4))
            raise SizesDiffer(f"images come in {len(self.shapes)} sizes: {common}", str(self.other))
        told = dict(self.sizes.most_common(MOST_SIZES))
        if len(self.sizes) > MOST_SIZES:
            told[f"{len(self.sizes) - MOST_SIZES} other sizes"] = self.sizes.total() - sum(told.values())
        return {
            "shape": [self.sizes.total(), *self.shape],
            "sizes": told,
            "modes": dict(self.modes.most_common()),
            "bad": self.bad,
            "unreadable": self.unreadable,
            "white": None,
            "wide": self.wide,
            "narrow": self.narrow,
            "counts": {flag: self.counts[flag] for flag in FLAGS},
        }


def _attempts(sources: Iterable[tuple[str, str | bytes]], decoding: Decoding) -> Iterator[list[tuple]]:
    """(name, source) pairs decoded, in order and in batches: the name, and what `_attempt` makes of the source. Of an image of
    another size than the first there is only its size.
    """
    # Up to the first that can be read, which says how many may be in memory together.
    sources, first, size, side = iter(sources), [], 1, None
    for name, source in sources:
        first.append((name, *_attempt(name, source, decoding)))
        if (pixels := first[-1][1]) is not None:
            size, side = pixels.nbytes, pixels.shape[:2]
            break
    together = max(1, min(BATCH, IN_FLIGHT // (4 * size)))
    depth = max(1, min(2 * THREADS, IN_FLIGHT // (size * together) - 2))  # and one being decoded, and one being written

    def decode_batch(batch: tuple[tuple[str, str | bytes], ...]) -> list[tuple]:
        found = []
        for name, source in batch:
            pixels, *facts = _attempt(name, source, decoding)
            if pixels is not None and pixels.shape[:2] != side:
                pixels = np.broadcast_to(np.uint8(0), pixels.shape)  # only its size is of interest
            found.append((name, pixels, *facts))
        return found

    yield first
    yield from ahead(decode_batch, _batches(sources, together), workers=THREADS, depth=depth)


def _attempt(name: str, source: str | bytes, decoding: Decoding) -> tuple:
    """What `decode` makes of one file, or None and why it can't be read."""
    try:
        return decode(source, decoding)
    except Exception as error:  # whatever a decoder raises on hostile bytes is this file's fault
        reason = first_line(error)
        if reason.startswith("cannot identify"):
            words = words_for(name, source[:HEAD] if isinstance(source, bytes) else head_of(source))
            reason = f"not an image but {words}" if words else "not an image"
        return None, f"{name} ({reason})"


def _widen(file, shape: tuple[int, int, int], channels: int) -> None:
    """Gives the images (H, W, C) written so far more channels, from the last to the first, in place."""
    size, wide = math.prod(shape), math.prod(shape[:2]) * channels
    count = file.tell() // size
    step = max(1, CHUNK // wide)
    for start in reversed(range(0, count, step)):
        number = min(step, count - start)
        file.seek(start * size)
        part = np.frombuffer(file.read(number * size), np.uint8).reshape(number, *shape)
        file.seek(start * wide)
        file.write(with_channels(part, channels).tobytes())
    file.seek(count * wide)


def _batches(items: Iterable, size: int) -> Iterator[tuple]:
    iterator = iter(items)
    while batch := tuple(itertools.islice(iterator, size)):
        yield batch
