"""Words that error messages share."""

import difflib
import math
import numbers
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint at the known word that looks most like `word`: " (did you mean 'x'?)", or nothing."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {near[0]!r}?)" if near else ""


def nearest_path(path) -> str:
    """A hint at what a path that isn't there may have meant: the name that looks most like the part of it that is missing."""
    path = Path(path)
    missing = next((part for part in [*reversed(path.parents), path] if not part.exists()), None)
    if missing is None or not missing.parent.is_dir():
        return ""
    try:
        names = [entry.name for entry in missing.parent.iterdir()]
    except OSError:
        return ""
    near = difflib.get_close_matches(missing.name, names, n=1, cutoff=0.6)
    return f" (did you mean {str(missing.parent / near[0] / path.relative_to(missing))!r}?)" if near else ""


def check_number(name: str, value, *, whole: bool = False, above: float | None = None) -> None:
    """Raises ValueError unless `value` is None, or a finite number > `above` (>= 0 where that is None)."""
    if value is None:
        return
    kind = numbers.Integral if whole else numbers.Real
    fits = not isinstance(value, bool) and isinstance(value, kind) and math.isfinite(value)
    low = 0 if above is None else above
    if not fits or not (value > low or (above is None and value == low)):  # pyright: ignore[reportOperatorIssue]
        wanted = f"{'a whole number' if whole else 'a number'} {'>= 0' if above is None else f'> {above}'}"
        raise ValueError(f"{name} must be {wanted}, got {value!r}")


def in_rows(text: str, rows: bool = True) -> str:
    """A sentence on images as one on the rows of a table and their values; as it is where these are no `rows`."""
    for word, other in ((r"\ban image", "a row"), (r"\bimage", "row"), (r"\bpixel", "value")):
        text = re.sub(word, other, text) if rows else text
    return text


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    said = in_words(error) if isinstance(error, OSError) else str(error)
    return next((line.strip() for line in said.splitlines() if line.strip()), type(error).__name__)


def in_words(error: OSError) -> str:
    """What an error of the system says, as a sentence without its number: "x/y.png: no space left on device"."""
    if error.errno is None or error.strerror is None:
        return str(error)
    said = error.strerror[:1].lower() + error.strerror[1:]
    return said if error.filename is None else f"{os.fsdecode(error.filename)}: {said}"


def listed(names: list[str], most: int = 5) -> str:
    """The first few of `names`, and how many more there are."""
    more = f"; and {len(names) - most} more" if len(names) > most else ""
    return "; ".join(names[:most]) + more


def filled(value: T | None) -> T:
    """`value`, which may be None in general but is known by now: a field that has been filled in, labels that are there."""
    if value is None:
        raise TypeError("a value that should be known by now is None")
    return value
