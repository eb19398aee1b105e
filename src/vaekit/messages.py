"""Words that error messages share."""

import difflib
import math
import numbers
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint at the known word that looks most like `word`: " (did you mean 'x'?)", or nothing."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {near[0]!r}?)" if near else ""


def check_number(name: str, value, *, whole: bool = False, above: float | None = None) -> None:
    """Raises ValueError unless `value` is None, or a finite number > `above` (>= 0 where that is None)."""
    if value is None:
        return
    kind = numbers.Integral if whole else numbers.Real
    fits = not isinstance(value, bool) and isinstance(value, kind) and math.isfinite(value)
    if not fits or not (value >= 0 if above is None else value > above):
        wanted = f"{'a whole number' if whole else 'a number'} {'>= 0' if above is None else f'> {above}'}"
        raise ValueError(f"{name} must be {wanted}, got {value!r}")
