"""A table's columns: what they were when they came, how they become what a module sees, and the way back.

Everything here is float64: a module's float32 is far too coarse for columns such as 1e6 + z.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from vaekit.messages import nearest

SCALINGS = ("standard", "log", "robust", "auto")
KINDS = (
    "bool",
    *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)),
    "float16",
    "float32",
    "float64",
)
FRAMES = ("pandas", "polars")
# Of the spacing of floating-point numbers at a column's values: what a chain of dozens of operations leaves of a constant. A
# column that spans no more than this is constant up to rounding, and its standard deviation is noise.
ROUNDING = 64
FURTHEST = 1e15  # standard deviations, as which more count: their squares have to fit in float32
LOWEST, LARGEST = np.finfo(np.float64).smallest_subnormal, np.finfo(np.float64).max
NORMAL_QUARTILES = 1.349  # standard deviations between the quartiles of a normal distribution
OUTLYING = 10.0  # times that the standard deviation exceeds what the quartiles say, from which a few values make it
ENOUGH = 100_000  # rows, from which quartiles are known well enough for advice
LEAST_RATIO = 1.01  # of a column's largest value to its least, below which its logarithm is as good as linear


class Header(NamedTuple):
    """What the columns of a table were.

    names: None where they had none. kinds: of each column, numpy's name of its type (`KINDS`). frame: the library of the data
    frame it came in, "pandas" or "polars", or None. label: the column that was taken as the labels. dropped: those left out.
    """

    names: tuple[str | int, ...] | None
    kinds: tuple[str, ...]
    frame: str | None = None
    label: str | None = None
    dropped: tuple[str, ...] = ()


def column_names(header: Header | None, width: int) -> list[str]:
    """The columns in messages: 'age', or column 3, counted from 0."""
    if header is None or header.names is None:
        return [f"column {i}" for i in range(width)]
    return [repr(name) for name in header.names]


@dataclass(frozen=True, eq=False)
class Columns:
    """D columns as they were seen in a fit. A value x becomes u, its logarithm where `scalings` says "log", or
    asinh((x - centre) / width) where it says "robust", and u becomes z = (u - mean) / scale, of mean 0 and variance 1.

    constant: columns that are constant up to rounding. Their scale is the value itself, or 1, so that another value is a modest
    anomaly, in any unit; and since they have no density, they add nothing to `log_det`.
    low, high: the range seen, None of runs that did not note it.
    """

    header: Header
    scalings: tuple[str, ...]
    centre: np.ndarray
    width: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    constant: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None

    @classmethod
    def fit(cls, x: np.ndarray, header: Header | None = None, scaling: str = "standard") -> Columns:
        """The columns of a finite table x (N, D). scaling: one of `SCALINGS`. "log" is for columns of positive numbers,
        "robust" for all but those of two values, "auto" chooses for each column; where one isn't for a column, that is
        standardised as it is.
        """
        header = header or array_header(x)
        low, high = x.min(0).astype(np.float64), x.max(0).astype(np.float64)
        constant = _constant(low, high, x.dtype, header.kinds)
        scalings = ["standard"] * x.shape[1]
        if scaling == "auto":
            scalings = advised_scalings(x)
        elif scaling != "standard":
            fits = positive(low, high) if scaling == "log" else ~_two_valued(x, low, high)
            scalings = [scaling if fit else "standard" for fit in fits]
        scalings = tuple("standard" if still else each for each, still in zip(scalings, constant, strict=True))
        centre, width = np.zeros(x.shape[1]), np.ones(x.shape[1])
        if (robust := _where(scalings, "robust")).any():
            part = x[:, robust].astype(np.float64)
            middle, spread = _middle(part)
            # No narrower than this, so that no value is too many widths away to be told.
            furthest = 2 * np.maximum(high[robust] / 2 - middle / 2, middle / 2 - low[robust] / 2).clip(0, LARGEST / 2)
            spread = np.where(spread > 0, spread, _moments(part)[1])
            centre[robust], width[robust] = middle, np.maximum(spread, 1e-100 * furthest)
        columns = cls(header, scalings, centre, width, np.zeros(x.shape[1]), np.ones(x.shape[1]), constant, low, high)
        mean, deviation = _moments(columns._unscaled(x))
        middle = low / 2 + high / 2
        value = np.maximum(np.abs(low), np.abs(high))
        mean = np.where(constant, np.where(low == high, low, middle), mean)
        scale = np.where(constant, np.where(value > 0, value, 1.0), deviation)
        return cls(header, scalings, centre, width, mean, np.maximum(scale, LOWEST), constant, low, high)

    # ---- in and out ----------------------------------------------------------------------------------------------

    def standardise(self, x: np.ndarray) -> np.ndarray:
        """x (N, D) in its own units -> z (N, D) float64. Raises ValueError where a column whose logarithm is taken holds a
        number that is not positive.
        """
        return _less(self._unscaled(x), self.mean, self.scale)

    def inputs(self, x: np.ndarray) -> np.ndarray:
        """x (N, D) in its own units -> z (N, D) float32, as a module takes it: at most `FURTHEST` from 0."""
        return self.standardise(x).clip(-FURTHEST, FURTHEST).astype(np.float32)

    def restore(self, z: np.ndarray) -> np.ndarray:
        """z (N, D) -> x (N, D) float64 in its own units: what `standardise` makes z of. Finite for every finite z."""
        x = _more(z.astype(np.float64), self.mean, self.scale)
        for name, chosen in (("log", _where(self.scalings, "log")), ("robust", _where(self.scalings, "robust"))):
            if not chosen.any():
                continue
            with np.errstate(over="ignore", under="ignore"):
                if name == "log":
                    x[:, chosen] = np.exp(x[:, chosen]).clip(LOWEST, LARGEST)
                else:
                    tails = np.sinh(x[:, chosen]).clip(-LARGEST, LARGEST)
                    x[:, chosen] = _more(tails, self.centre[chosen], self.width[chosen])
        return x

    def log_det(self, x: np.ndarray) -> np.ndarray:
        """(N,) log |dx/dz| of each row: log p(x) = log p(z) - log_det(x)."""
        total = np.full(len(x), np.log(self.scale[~self.constant]).sum())
        if any(scaling != "standard" for scaling in self.scalings):
            u, robust = self._unscaled(x), _where(self.scalings, "robust")
            total += u[:, _where(self.scalings, "log")].sum(1)
            total += (np.log(self.width[robust]) + np.logaddexp(u[:, robust], -u[:, robust]) - math.log(2)).sum(1)
        return total

    def settled(self, x: np.ndarray, *, within: bool = False) -> np.ndarray:
        """x (N, D) float64 as values that the columns can have: constant columns are, integers are whole and in the range of
        their type, and columns of two neighbouring integers, such as 0 and 1, hold no others. within: all values are brought
        into the range seen in the fit.
        """
        x = np.where(self.constant, self.mean, x)
        kinds = np.array([np.dtype(kind).kind for kind in self.header.kinds])
        whole = np.isin(kinds, ("b", "i", "u"))
        x[:, whole] = np.rint(x[:, whole])
        bounds = np.array([_bounds(np.dtype(kind)) for kind in self.header.kinds]).T
        x = x.clip(*bounds)
        if self.low is None or self.high is None:
            if within:
                raise ValueError(
                    "the range of the columns is not known: this run is of an earlier vaekit; train it anew"
                )
            return x
        near = np.full(len(whole), True) if within else whole & (self.high <= self.low + 1)
        return x.clip(np.where(near, self.low, -np.inf), np.where(near, self.high, np.inf))

    def given(self, x: np.ndarray, frame: str | None = None, index=None) -> Any:
        """x (N, D), `settled`, in the form it came in: a data frame of the library `frame`, its columns named and typed as they
        were, or an array of a type that holds all of them. index: of the rows of a pandas frame.
        """
        if frame is None:
            return x.astype(np.result_type(*self.header.kinds))
        cells = self.cells(x)
        if frame == "pandas":
            import pandas

            return pandas.DataFrame(cells, index=index)
        import polars

        return polars.DataFrame({str(name): column for name, column in cells.items()})

    def cells(self, x: np.ndarray) -> dict[str | int, np.ndarray]:
        """x (N, D), `settled`, column by column: names, or places where there are none, and values (N,) of their types."""
        names = self.header.names or range(x.shape[1])
        return {name: column.astype(kind) for name, column, kind in zip(names, x.T, self.header.kinds, strict=True)}

    def _unscaled(self, x: np.ndarray) -> np.ndarray:
        """x (N, D) -> u (N, D) float64, before the mean is taken off."""
        u = x.astype(np.float64)
        log, robust = _where(self.scalings, "log"), _where(self.scalings, "robust")
        if log.any():
            if not (u[:, log] > 0).all():
                row, place = np.argwhere(~(u[:, log] > 0))[0]
                name = np.array(column_names(self.header, x.shape[1]))[log][place]
                raise ValueError(
                    f"{name} holds {u[:, log][row, place]:g} in row {row}: the model was trained on its logarithm, which only "
                    "positive numbers have; train with another scaling"
                )
            u[:, log] = np.log(u[:, log])
        if robust.any():
            u[:, robust] = np.arcsinh(_less(u[:, robust], self.centre[robust], self.width[robust]))
        return u

    # ---- run.json ------------------------------------------------------------------------------------------------

    def to_json(self) -> dict:
        """The entry `table` of a run.json."""
        arrays = {name: getattr(self, name) for name in ("mean", "scale", "constant", "centre", "width", "low", "high")}
        return {
            **{name: None if array is None else array.tolist() for name, array in arrays.items()},
            "scalings": list(self.scalings),
            "columns": None if self.header.names is None else list(self.header.names),
            "kinds": list(self.header.kinds),
            "frame": self.header.frame,
            "label": self.header.label,
            "dropped": list(self.header.dropped),
        }

    @classmethod
    def from_json(cls, entry: dict, width: int) -> Columns:
        """What `to_json` wrote, or a vaekit that knew mean, scale and names only, whose tables came back as float32. Raises
        ValueError where the entry is not of `width` columns.
        """
        known = {
            **{"constant": [False] * width, "centre": [0.0] * width, "width": [1.0] * width, "low": None, "high": None},
            **{"scalings": ["standard"] * width, "columns": None, "kinds": ["float32"] * width},
            **{"frame": None, "label": None, "dropped": []},
            **entry,
        }
        numbers = {}
        for name in ("mean", "scale", "centre", "width", "low", "high"):
            values = known[name]
            numbers[name] = None if values is None and name in ("low", "high") else check_numbers(name, values, width)
        for name in ("scale", "width"):
            if not (numbers[name] > 0).all():
                raise ValueError(f"{name} must be positive")
        names = known["columns"]
        header = Header(
            None if names is None else _words("columns", names, width, "names", lambda _: _are_names(names)),
            _words("kinds", known["kinds"], width, f"of {', '.join(KINDS)}", KINDS.__contains__),
            known["frame"],
            known["label"],
            _words("dropped", known["dropped"], len(known["dropped"]), "names", lambda each: type(each) is str),
        )
        if (numbers["low"] is None) != (numbers["high"] is None) or (
            numbers["low"] is not None and not (numbers["low"] <= numbers["high"]).all()
        ):
            raise ValueError("low must be at most high")
        if header.names is not None and len(set(header.names)) < width:
            raise ValueError(f"columns must differ, got {header.names!r:.80}")
        if header.frame not in (None, *FRAMES) or not isinstance(header.label, (str, type(None))):
            raise ValueError(f"frame and label must be names, got {header.frame!r:.40} and {header.label!r:.40}")
        return cls(
            header,
            _words("scalings", known["scalings"], width, f"of {', '.join(SCALINGS[:-1])}", SCALINGS[:-1].__contains__),
            constant=np.array(_words("constant", known["constant"], width, "truth values", lambda v: type(v) is bool)),
            **numbers,
        )


def array_header(X) -> Header:
    """The header of an array, or of a list of rows, (N, D)."""
    x = X if hasattr(X, "dtype") else np.asarray(X)
    return Header(None, (x.dtype.name if x.dtype.name in KINDS else "float64",) * x.shape[1])


def places_of(wanted: Sequence, names: Sequence, name: str, *, others: bool = False) -> list[int]:
    """Where the columns `wanted` stand among the `names` of the table `name`. Raises ValueError that names those that are
    missing, or are not wanted, unless there may be `others`.
    """
    missing = [each for each in wanted if each not in names]
    if missing:
        near = nearest(str(missing[0]), [str(each) for each in names if each not in wanted])
        raise ValueError(f"{name} lacks {_named(missing)} of the model{near}; it has {_named(names)}")
    if not others and (extra := [each for each in names if each not in wanted]):
        raise ValueError(f"{name} has {_named(extra)}, which the model was not trained on; leave out such columns")
    return [list(names).index(each) for each in wanted]


def _named(names: Sequence) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"column{'s' if len(names) > 1 else ''} {', '.join(map(repr, names[:5]))}{more}"


def positive(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """(D,) whether the logarithm of a column, of which these are the least and the largest value, says more than itself."""
    return (low > 0) & (high / LEAST_RATIO > low)


def advised_scalings(x: np.ndarray) -> list[str]:
    """For each column of a finite table x (N, D) the scaling that suits it. "standard" suits most, and "log" a positive one
    that is so skewed that its standard deviation exceeds its mean: by it alone, values below 0 would be nothing special.
    "robust" suits one of any sign in which a few values make the standard deviation, and the others are all but one.
    """
    low, high = x.min(0).astype(np.float64), x.max(0).astype(np.float64)
    mean, deviation = _moments(x.astype(np.float64))
    spread = _middle(x[:: max(1, len(x) // ENOUGH)].astype(np.float64))[1]
    skewed = (low >= 0) & (deviation > mean)
    outlying = (spread > 0) & (deviation / OUTLYING > spread)
    found = np.where(skewed & positive(low, high), "log", np.where(outlying, "robust", "standard"))
    return np.where(_two_valued(x, low, high), "standard", found).tolist()


def scaling_problem(x: np.ndarray, header: Header | None) -> str | None:
    """A sentence on the columns of a finite table x (N, D) that their mean and standard deviation describe badly, or None."""
    advised = advised_scalings(x)
    places = [place for place, scaling in enumerate(advised) if scaling != "standard"]
    if not places:
        return None
    names, found = column_names(header, x.shape[1]), []
    for place in places[:5]:
        column = x[:, place].astype(np.float64)
        median, deviation = np.median(column), _moments(column[:, None])[1][0]
        found.append(
            f"{names[place]} ({column.min():.3g} to {column.max():.3g}, median {median:.3g}, standard deviation "
            f"{deviation:.3g}; {advised[place]})"
        )
    more = f" and {len(places) - 5} more" if len(places) > 5 else ""
    return (
        f"skewed, or with values far from the others: {', '.join(found)}{more}. Their mean and standard deviation say little "
        "of most of their values, and samples fall where there is no data, such as below 0: scaling='auto' (--scaling auto) "
        "takes a positive column's logarithm and draws in the tails of others"
    )


def _constant(low: np.ndarray, high: np.ndarray, dtype: np.dtype, kinds: Sequence[str]) -> np.ndarray:
    spacing = np.finfo(dtype if dtype.kind == "f" else np.float64).eps
    with np.errstate(under="ignore"):
        rounding = (high / 2 - low / 2) <= ROUNDING * spacing * (np.maximum(np.abs(low), np.abs(high)) / 2)
    floats = np.array([np.dtype(kind).kind == "f" for kind in kinds])
    return (low == high) | (rounding & floats)  # integers are not rounded


def _two_valued(x: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """(D,) whether a column holds its least and its largest value only."""
    return ((x == low) | (x == high)).all(0)


def _where(scalings: Sequence[str], scaling: str) -> np.ndarray:
    return np.array([each == scaling for each in scalings])


def _unit(mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """(D,) exponents of powers of two, in whose units neither is too large or too small for sums and products."""
    return np.frexp(np.maximum(np.abs(mean), scale))[1]


def _less(x: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """(x - mean) / scale, without overflow on the way; powers of two change no digit."""
    unit = _unit(mean, scale)
    with np.errstate(over="ignore"):
        z = (np.ldexp(x, -unit) - np.ldexp(mean, -unit)) / np.ldexp(scale, -unit)
    return z.clip(-LARGEST, LARGEST)


def _more(z: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """z * scale + mean, without overflow on the way and at most the largest number."""
    unit = _unit(mean, scale)
    with np.errstate(over="ignore"):
        x = np.ldexp(z * np.ldexp(scale, -unit) + np.ldexp(mean, -unit), unit)
    return x.clip(-LARGEST, LARGEST)


def _moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means and standard deviations (D,) of x (N, D) float64, without overflow of squares."""
    unit = np.frexp(np.abs(x).max(0))[1]
    small = np.ldexp(x, -unit)
    return np.ldexp(small.mean(0), unit), np.ldexp(small.std(0), unit)


def _middle(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Medians of x (N, D) float64, and what the standard deviation of normal numbers with such quartiles would be, (D,)."""
    first, median, third = np.quantile(x / 2, (0.25, 0.5, 0.75), axis=0)
    return 2 * median, (third - first) / (NORMAL_QUARTILES / 2)


def _bounds(dtype: np.dtype) -> tuple[float, float]:
    """The least and the largest number of a type that float64 holds."""
    if dtype.kind == "b":
        return 0.0, 1.0
    if dtype.kind == "f":
        return float(np.finfo(dtype).min), float(np.finfo(dtype).max)
    most = np.iinfo(dtype).max
    return float(np.iinfo(dtype).min), float(most) if float(most) <= most else math.nextafter(float(most), 0.0)


def check_numbers(name: str, values, n: int) -> np.ndarray:
    """`values` as (n,) finite floats, or ValueError."""
    found = np.asarray(values)
    if found.shape != (n,) or found.dtype.kind not in "if" or not np.isfinite(found).all():
        raise ValueError(f"{name} must be {n} numbers, got {values!r:.80}")
    return found.astype(np.float64)


def _words(name: str, values, n: int, what: str, known: Callable[[Any], bool]) -> tuple:
    """`values` as a tuple of n `what`, each of which is `known`, or ValueError."""
    if type(values) is not list or len(values) != n or not all(map(known, values)):
        raise ValueError(f"{name} must be {n} {what}, got {values!r:.80}")
    return tuple(values)


def _are_names(values) -> bool:
    """Whether these are names of columns, all of them text or all whole numbers."""
    return type(values) is list and {type(value) for value in values} in ({str}, {int})
