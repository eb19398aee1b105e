"""Tables of numbers from files: CSV with commas, semicolons or tabs, gzipped or not, and Parquet."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from vaekit.data.columns import Header, places_of
from vaekit.data.frames import Cells, refuse_strange, words_problem
from vaekit.data.given import as_whole
from vaekit.data.readers import LABEL_COLUMNS, check_file, check_unpacked
from vaekit.messages import first_line, listed, nearest

TEXT_SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
TABLE_SUFFIXES = (*TEXT_SUFFIXES, ".parquet")
DELIMITERS = "\t;,"
AT_ONCE = 10_000  # rows of text that are turned into numbers together
LONGEST = 2**26  # characters in a line
MOST_CLASSES = 20  # that a column of whole numbers may hold to be taken for labels by its name alone
_MISSING = {"", "na", "n/a", "nan", "null", "none", "nil", "?", "-", "."}
_TRUTH = {"true": 1.0, "false": 0.0}
_DATE = re.compile(r"\d{4}[-/.]\d{1,2}([-/.]\d{1,2})?\b|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}\b|\d{1,2}:\d{2}")
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+(e[+-]?\d+)?", re.IGNORECASE)
_NUMBER_IN_PRINT = re.compile(r"\W*\d[\d.,'\s]*\W*")


class TableFile(NamedTuple):
    """x: (N, D) float64, or float32 where all columns are. labels: (N,), or None. notes: what a person should be told."""

    x: np.ndarray
    labels: np.ndarray | None
    header: Header
    notes: tuple[str, ...]


def is_table_file(path: Path) -> bool:
    """Whether the name is that of a table of numbers; of a Parquet file, whether no column of it holds images."""
    if path.name.lower().endswith(TEXT_SUFFIXES):
        return True
    return path.suffix.lower() == ".parquet" and path.is_file() and _holds_no_bytes(path)


def read_table(
    path: Path, *, labels: str | None = None, drop: str | Sequence[str] = (), columns: Sequence | None = None
) -> TableFile:
    """The table of numbers in a file, and its labels.

    labels: the column of labels. None takes one that is called label, class, target, ... if there is one such, of text or of a
        few whole numbers. drop: columns to leave out, as names or as one text with commas.
    columns: those to take, in this order, as a model was trained on them; others are left out, and `labels` may be missing.
    Raises ValueError that names the columns that are not of finite numbers, those that are missing, and what to do.
    """
    read = _read_parquet if path.suffix.lower() == ".parquet" else _read_text
    found, notes = read(path, {*LABEL_COLUMNS, labels})
    if not found:
        raise ValueError(f"{path} has no rows of numbers")
    named = found[0].cells.name is not None
    dropped = tuple(name.strip() for name in drop.split(",") if name.strip()) if isinstance(drop, str) else tuple(drop)
    names: list = [column.cells.name for column in found]
    for flag, asked in (("drop", dropped), ("labels", (labels,) if labels and columns is None else ())):
        for name in asked:
            if not named:
                raise ValueError(f"{path} names no columns in its first row, so that --{flag} {name} can't be found")
            if name not in names:
                raise ValueError(f"{path} has no column {name!r}{nearest(name, names)}; it has {listed(names)}")
    kept = [column for column in found if column.cells.name not in dropped]
    label = _label_column(kept, labels, columns) if named else None
    if label is not None:
        kept.remove(label)
    if label is not None and labels is None:
        notes = (
            *notes,
            f"labels are taken from column {label.cells.name!r} of {path}; --drop {label.cells.name} leaves it out",
        )
    if columns is not None and named:
        names: list = [column.cells.name for column in kept]
        places = places_of(columns, names, str(path), others=True)
        if extra := [name for name in names if name not in columns]:
            notes = (*notes, f"columns of {path} that the model was not trained on, left out: {listed(extra)}")
        if places != sorted(places):
            notes = (*notes, f"{path} has the model's columns in another order; they are taken by name")
        kept = [kept[place] for place in places]
    elif columns is not None:
        notes = (*notes, f"{path} does not name its columns; they are taken in their order")
    cells = [column.cells for column in kept]
    if not cells:
        raise ValueError(f"{path} has no columns of numbers left beside its labels")
    header_names = tuple(str(each.name) for each in cells) if named else None
    # A column of a file without names is called by its place.
    shown = cells if named else [each._replace(name=i) for i, each in enumerate(cells)]
    words = next((each.name for each in shown if each.strange is not None), "NAME")
    remedy = f"; --labels {words} takes a column as the labels, --drop NAME,NAME leaves some out"
    refuse_strange(shown, str(path), remedy)
    kinds = tuple(each.kind for each in cells)
    x = np.stack([each.values for each in cells], axis=1)
    x = x.astype(np.float32) if set(kinds) <= {"float16", "float32"} else x
    header = Header(header_names, kinds, None, None if label is None else str(label.cells.name), dropped)
    return TableFile(x, None if label is None else label.labels(path), header, notes)


@dataclass(eq=False)
class _Column:
    """A column that was read. raw: its cells as text, where it may be of labels and is not of numbers."""

    cells: Cells
    raw: list | None = None

    def labels(self, path: Path) -> np.ndarray:
        """(N,) whole numbers, numbers or text. Raises ValueError where one is missing."""
        values, name = self.cells.values, self.cells.name
        words = self.cells.strange is not None or self.cells.kind == "bool"
        raw = np.array([cell.strip() for cell in self.raw or ()])
        missing = np.isin(np.char.lower(raw), [*_MISSING]) if words else np.isnan(values)
        if missing.any():
            raise ValueError(
                f"{path}: column {name!r}, the labels, is empty in {missing.sum()} rows (first in row "
                f"{int(np.flatnonzero(missing)[0])}); fill it in, or leave out such rows"
            )
        if words:
            return raw
        return values if (whole := as_whole(values)) is None else whole


def _label_column(columns: list[_Column], labels: str | None, wanted: Sequence | None) -> _Column | None:
    by_name: dict[Any, _Column] = {column.cells.name: column for column in columns}
    if labels is not None and labels in by_name:
        return by_name[labels]
    lower = {name.lower() for name in by_name}
    likely = [name for name in by_name if name.lower() in LABEL_COLUMNS and name not in (wanted or ())]
    if labels is not None or len(likely) != 1 or (likely[0].lower() == "y" and "x" in lower):
        return None
    column = by_name[likely[0]]
    whole = column.cells.strange is None and column.cells.kind not in ("float32", "float64")
    few = whole and len(np.unique(column.cells.values)) <= MOST_CLASSES
    words = column.cells.strange is not None and column.raw is not None and not _DATE.match(str(column.raw[0]))
    return column if few or words else None


# ---- text ------------------------------------------------------------------------------------------------------------


@dataclass
class _Text:
    """A column of text on its way to numbers."""

    keep: bool
    parts: list[np.ndarray] = field(default_factory=list)
    raw: list[str] = field(default_factory=list)
    strange: str | None = None
    whole: bool = True
    truth: bool = True
    commas: bool = False

    def add(self, cells: Sequence[str], start: int, decimal_commas: bool) -> None:
        """More cells, the first of which stands in row `start`."""
        if self.keep:
            self.raw += cells
        if self.strange is not None:
            return
        try:
            values = np.fromiter(map(float, cells), np.float64, len(cells))
            self.truth = False
        except ValueError:
            values = self._one_by_one(cells, start, decimal_commas)
        self.parts.append(values)
        if self.whole:
            self.whole = not re.search("[.,einEIN]", "".join(cells)) or self.truth

    def _one_by_one(self, cells: Sequence[str], start: int, decimal_commas: bool) -> np.ndarray:
        values = np.full(len(cells), np.nan)
        for row, cell in enumerate(cells):
            text = cell.strip()
            if text.lower() in _MISSING:
                continue
            if self.truth and text.lower() in _TRUTH:
                values[row] = _TRUTH[text.lower()]
                continue
            self.truth = False
            comma = decimal_commas and _DECIMAL_COMMA.fullmatch(text)
            try:
                values[row] = float(text.replace(",", ".") if comma else text)
                self.commas |= bool(comma)
            except ValueError:
                self.strange = self.strange or _not_a_number(text, start + row)
                break
        return values

    def column(self, name: str | None) -> _Column:
        values = np.concatenate(self.parts) if self.strange is None else np.empty(0)
        kind = "bool" if self.truth else "int64" if self.whole else "float64"
        if np.isnan(values).any():
            kind = "float64"
        return _Column(Cells(name, kind, values, self.strange), self.raw if self.keep else None)  # type: ignore[arg-type]


def _not_a_number(text: str, row: int) -> str:
    if _DATE.match(text):
        return words_problem("dates", text, row)
    if _NUMBER_IN_PRINT.fullmatch(text):
        return (
            f"holds {text[:40]!r} (in row {row}): write plain numbers such as 1234.5, without units or thousands marks"
        )
    return words_problem("text", text, row)


def _read_text(path: Path, keep: set) -> tuple[list[_Column], tuple[str, ...]]:
    check_file(path)
    opener = gzip.open if path.suffix.lower() == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            return _parse(path, _lines(path, file), keep)
    except (UnicodeDecodeError, csv.Error, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is no table in UTF-8, or is damaged ({first_line(error)})") from None


def _lines(path: Path, file: IO) -> Iterator[str]:
    """The lines of a text file, none of them endless, and no more than a packed file of its size may hold."""
    read, packed = 0, path.suffix.lower() == ".gz"
    while line := file.readline(LONGEST):
        read += len(line)
        if len(line) == LONGEST and not line.endswith("\n"):
            raise ValueError(f"{path} has a line of more than {LONGEST // 2**20} MB; it is no table")
        if packed:
            check_unpacked(path, read)
        if line.strip():
            yield line


def _parse(path: Path, lines: Iterator[str], keep: set) -> tuple[list[_Column], tuple[str, ...]]:
    first = list(itertools.islice(lines, 20))
    delimiter = "\t" if ".tsv" in path.name.lower() else _delimiter(first)
    rows = csv.reader(itertools.chain(first, lines), delimiter=delimiter)
    head = next(rows, None)
    if head is None:
        raise ValueError(f"{path} is empty")
    commas = delimiter != ","
    notes, counted = [], [str(place) for place in range(len(head))]
    if head == counted != ["0"]:  # as a data frame whose columns had no names is written
        notes.append(f"the first row of {path}, {head[0]} to {head[-1]}, is taken for the names of its columns")
    if head != counted and all(_reads_as_number(cell, commas) for cell in head):
        names, pending = None, [head]
    else:
        names, pending = [cell.strip() for cell in head], []
    columns = [_Text(names is not None and bool({name, name.lower()} & keep)) for name in names or head]
    start = 0
    while chunk := [*pending, *itertools.islice(rows, AT_ONCE - len(pending))]:
        pending = []
        for row in chunk:
            if len(row) != len(head):
                raise ValueError(
                    f"{path} has {len(row)} cells in one row and {len(head)} in its first (delimiter {delimiter!r}, up to line "
                    f"{rows.line_num}): {', '.join(row)[:60]!r}"
                )
        for column, cells in zip(columns, zip(*chunk, strict=True), strict=True):
            column.add(cells, start, commas)
        start += len(chunk)
    if read := [str(name) for name, column in zip(names or range(len(head)), columns, strict=True) if column.commas]:
        notes.append(f"decimal commas of {path} are read as points, in columns {listed(read)}")
    if not start:
        return [], tuple(notes)
    found = [column.column(name) for column, name in zip(columns, names or [None] * len(head), strict=True)]
    return _without_index(path, found, notes) if names is not None else (found, tuple(notes))


def _without_index(path: Path, columns: list[_Column], notes: list[str]) -> tuple[list[_Column], tuple[str, ...]]:
    """The columns but for those without a name that only count the rows, or are empty; the others get one."""
    kept = []
    for place, column in enumerate(columns):
        values, name = column.cells.values, str(column.cells.name)
        with np.errstate(invalid="ignore", over="ignore"):  # of infinities, and of the largest numbers
            steps = np.diff(values)
        counts = column.cells.strange is None and ((steps == 1).all() or np.isnan(values).all())
        if (name == "" and counts) or name.startswith("__index_level_"):
            notes.append(f"a column of {path} without a name, which counts the rows or is empty, is left out")
            continue
        kept.append(_Column(column.cells._replace(name=name or f"column {place}"), column.raw))
    return kept, tuple(notes)


def _delimiter(lines: list[str]) -> str:
    """The one that cuts all of the lines into the same number of cells, more than one; else the most frequent."""
    for delimiter in DELIMITERS:
        widths = {len(row) for row in csv.reader(lines, delimiter=delimiter)}
        if len(widths) == 1 and widths != {1}:
            return delimiter
    return max(",;\t", key=lines[0].count) if lines else ","


def _reads_as_number(cell: str, decimal_commas: bool) -> bool:
    text = cell.strip()
    try:
        float(text.replace(",", ".") if decimal_commas and _DECIMAL_COMMA.fullmatch(text) else text)
    except ValueError:
        return False
    return text.lower() not in _MISSING


def load_pyarrow(out: str, instead: str = ".csv"):
    """The library that writes .parquet; ValueError where it isn't installed, with what to write `instead`."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise ValueError(
            f"{out} needs the library pyarrow: pip install 'vaekit[datasets]', or write {instead}"
        ) from None
    return pyarrow


def as_text(column: np.ndarray) -> np.ndarray:
    """Names as text that any reader takes: of the name of a file that is no UTF-8, those bytes are written out, as in \\xe9."""
    return np.array([os.fsencode(text).decode("utf-8", "backslashreplace") for text in map(str, column)], dtype=object)


def write_table(path: Path, columns: dict[str | int, np.ndarray]) -> bytes:
    """The columns (N,) as the file at `path` is to hold them, which `read_table` reads back; whole numbers for names are places
    of columns without one.
    """
    if path.suffix.lower() == ".parquet":
        pyarrow = load_pyarrow(str(path))
        buffer = pyarrow.BufferOutputStream()
        table = pyarrow.table({str(name): column for name, column in columns.items()})
        pyarrow.parquet.write_table(table, buffer)
        return buffer.getvalue().to_pybytes()
    text = io.StringIO(newline="")
    # It quotes what holds the end of a line as it writes it, and so no carriage return.
    words = [column.tolist() for column in columns.values() if column.dtype.kind in "OU"]
    returns = any("\r" in str(cell) for cells in (columns, *words) for cell in cells)
    writer = csv.writer(
        text,
        delimiter="\t" if ".tsv" in path.name.lower() else ",",
        lineterminator="\n",
        quoting=csv.QUOTE_NONNUMERIC if returns else csv.QUOTE_MINIMAL,
    )
    if any(isinstance(name, str) for name in columns):
        writer.writerow(columns)
    # The shortest text that reads back as the same number of its type.
    short = [column.astype(str) if column.dtype in (np.float16, np.float32) else column for column in columns.values()]
    writer.writerows(zip(*(column.tolist() for column in short), strict=True))
    data = text.getvalue().encode()
    return gzip.compress(data, mtime=0) if path.suffix.lower() == ".gz" else data


# ---- Parquet ---------------------------------------------------------------------------------------------------------


def _holds_no_bytes(path: Path) -> bool:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        return False  # `read_datasets` says what to install
    try:
        schema = parquet.read_schema(path)
    except (ValueError, OSError, pyarrow.ArrowException):
        return True  # `_read_parquet` says what is wrong with it
    return not any(_is_nested(kind) for kind in schema.types)


def _is_nested(kind) -> bool:
    import pyarrow

    types = pyarrow.types
    return any(
        check(kind) for check in (types.is_binary, types.is_large_binary, types.is_struct, types.is_fixed_size_binary)
    )


def _read_parquet(path: Path, keep: set) -> tuple[list[_Column], tuple[str, ...]]:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except (ValueError, OSError, pyarrow.ArrowException) as error:
        raise ValueError(f"{path} is damaged, or no Parquet file ({first_line(error)})") from None
    types, columns = pyarrow.types, []
    plain = {"halffloat": "float16", "float": "float32", "double": "float64"}
    for name, column in zip(table.column_names, table.columns, strict=True):
        kind = column.type
        if any(check(kind) for check in (types.is_boolean, types.is_integer, types.is_floating, types.is_decimal)):
            numbers = column.cast("uint8") if types.is_boolean(kind) else column
            values = numbers.cast("float64", safe=False).to_numpy()
            word = plain.get(str(kind), str(kind) if not types.is_decimal(kind) else "float64")
            columns.append(_Column(Cells(name, "float64" if column.null_count else word, values)))
            continue
        cells = column.to_pylist()
        row = next((i for i, cell in enumerate(cells) if cell is not None), None)
        if row is None:
            columns.append(_Column(Cells(name, "float64", np.full(len(cells), np.nan))))
            continue
        text = isinstance(cells[row], str)
        what = "dates" if types.is_temporal(kind) else "text" if text else f"values of type {kind}"
        strange = words_problem(what, cells[row], row)
        raw = ["" if cell is None else str(cell) for cell in cells] if {name, name.lower()} & keep else None
        columns.append(_Column(Cells(name, "float64", np.empty(0), strange), raw))
    return _without_index(path, columns, [])
