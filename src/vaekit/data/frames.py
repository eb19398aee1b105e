"""Data frames of pandas and polars as tables of numbers, and what is said of a column that is none, wherever it comes from."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from decimal import Decimal
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from vaekit.data.columns import FRAMES, KINDS, Header, array_header

MOST_NAMED = 5  # columns that a message names
ENCODE = "encode it as columns of 0 and 1 (one-hot), or leave it out"


class Cells(NamedTuple):
    """A column as it was read. kind: numpy's name of its type. values: (N,) float64, NaN where one is missing. strange: what
    it holds in place of numbers, with what to do, or None.
    """

    name: str | int
    kind: str
    values: np.ndarray
    strange: str | None = None


def frame_library(X) -> str | None:
    """Whose data frame X is, "pandas" or "polars", or None; neither is imported for it."""
    for library in FRAMES:
        module = sys.modules.get(library)
        if module is not None and isinstance(X, module.DataFrame):
            return library
    return None


def table_header(X) -> Header | None:
    """The header of an array or data frame (N, D), None of what is no table."""
    if (library := frame_library(X)) is None:
        x = X if hasattr(X, "dtype") else np.asarray(X)
        return array_header(x) if x.ndim == 2 else None
    read = _read(library)
    found = [read(name, column) for name, column in zip(_names(X), _columns(X, library), strict=True)]
    return Header(tuple(cells.name for cells in found), tuple(cells.kind for cells in found), library)


def frame_values(X, name: str = "X") -> np.ndarray:
    """The numbers (N, D) of a data frame. Raises ValueError that names the columns that hold no numbers, or lack some."""
    library = frame_library(X)
    read = _read(library)
    found = [read(column, values) for column, values in zip(_names(X), _columns(X, library), strict=True)]
    if not found or not len(X):
        return np.empty((len(X), len(found)))
    refuse_strange(found, name)
    x = np.stack([cells.values for cells in found], axis=1)
    return x.astype(np.float32) if {cells.kind for cells in found} <= {"float16", "float32"} else x


def refuse_strange(found: Sequence[Cells], name: str, remedy: str = "") -> None:
    """Raises ValueError where a column of the table `name` is no finite numbers: which, what it holds, and what to do."""
    doubled = [cells.name for i, cells in enumerate(found) if cells.name in {other.name for other in found[:i]}]
    if doubled:
        raise ValueError(f"{name} has more than one column {doubled[0]!r}; rename or drop all but one")
    said = [f"column {cells.name!r} {problem}" for cells in found if (problem := _problem(cells))]
    if said:
        more = f"; and {len(said) - MOST_NAMED} more columns" if len(said) > MOST_NAMED else ""
        raise ValueError(f"{name} is no table of finite numbers: {'; '.join(said[:MOST_NAMED])}{more}{remedy}")


def not_finite(values: np.ndarray) -> str | None:
    """What is wrong with a column (N,) that holds NaN or infinity, and what to do; None where it holds neither."""
    bad = ~np.isfinite(values)
    if not bad.any():
        return None
    missing = np.isnan(values)
    if missing.all():
        return "has no values at all: leave it out"
    first, n = int(np.flatnonzero(bad)[0]), len(values)
    if missing.any():
        return (
            f"lacks {missing.sum()} of {n} values (NaN; first in row {int(np.flatnonzero(missing)[0])}): fill them in, such as "
            "by the column's median, or drop such rows"
        )
    return f"holds infinity {bad.sum()} times (first in row {first}): replace it, or drop such rows"


def words_problem(what: str, example: Any, row: int) -> str:
    """What is wrong with a column of `what`, such as text, of which `example` stands in `row`, and what to do."""
    remedy = "turn it into a number, such as days since a date, or leave it out" if what == "dates" else ENCODE
    if what == "text" and _is_number(example):
        what, remedy = "numbers written as text", "make numbers of it"
    return f"holds {what} ({str(example)[:40]!r} in row {row}): {remedy}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _problem(cells: Cells) -> str | None:
    return cells.strange or not_finite(cells.values)


def _names(X) -> list[str | int]:
    names = [name.item() if isinstance(name, np.generic) else name for name in X.columns]
    return [name if type(name) in (str, int) else str(name) for name in names]


def _columns(X, library: str | None) -> list:
    return [X.iloc[:, i] for i in range(X.shape[1])] if library == "pandas" else X.get_columns()


def _read(library: str | None) -> Callable[[str | int, Any], Cells]:
    return _read_pandas if library == "pandas" else _read_polars


def _read_pandas(name: str | int, column) -> Cells:
    dtype = column.dtype
    kind = getattr(dtype, "kind", "O")
    if kind in "biuf" and not hasattr(dtype, "categories"):
        plain = np.dtype(getattr(dtype, "numpy_dtype", getattr(dtype, "subtype", dtype))).name
        return _numbers(name, plain, column.to_numpy(dtype=np.float64, na_value=np.nan))
    here = ~column.isna().to_numpy()
    if not here.any():
        return Cells(name, "float64", np.full(len(column), np.nan))
    row = int(np.flatnonzero(here)[0])
    if hasattr(dtype, "categories"):
        return _words(name, "categories", column.iloc[row], row)
    if kind in "mM":
        return _words(name, "dates", column.iloc[row], row)
    return _objects(name, column.tolist(), here)


def _read_polars(name: str | int, column) -> Cells:
    import polars

    dtype, here = column.dtype, ~column.is_null().to_numpy()
    if dtype.is_numeric() or dtype == polars.Boolean:
        plain = "bool" if dtype == polars.Boolean else str(dtype).lower()
        return _numbers(name, plain, column.cast(polars.Float64).to_numpy())
    if not here.any():
        return Cells(name, "float64", np.full(len(column), np.nan))
    row = int(np.flatnonzero(here)[0])
    if dtype.is_temporal():
        return _words(name, "dates", column[row], row)
    if dtype in (polars.Categorical, polars.Enum):
        return _words(name, "categories", column[row], row)
    return _objects(name, column.to_list(), here)


def _objects(name: str | int, values: list, here: np.ndarray) -> Cells:
    """A column of Python objects: numbers of any kind, or a look at the first that is none."""
    for row in np.flatnonzero(here):
        if not isinstance(values[row], (Real, Decimal, np.bool_)):
            what = "text" if isinstance(values[row], str) else f"values of type {type(values[row]).__name__}"
            if hasattr(values[row], "isoformat"):
                what = "dates"
            return _words(name, what, values[row], int(row))
    numbers = [float(value) if known else np.nan for value, known in zip(values, here, strict=True)]
    return Cells(name, "float64", np.array(numbers))


def _numbers(name: str | int, kind: str, values: np.ndarray) -> Cells:
    return Cells(name, kind if kind in KINDS else "float64", values)


def _words(name: str | int, what: str, example: Any, row: int) -> Cells:
    return Cells(name, "float64", np.empty(0), words_problem(what, example, row))
