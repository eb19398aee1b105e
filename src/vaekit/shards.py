"""What a model makes of each sample of a set that fits no memory, in shards: files of a folder, each whole or not there, so
that what was broken off goes on with those that are missing.

    _index.json          what was made, by which model, of which data; `finished` once every shard is there
    shard-00000.parquet  columns file (or row), label, split and fingerprint of each sample, and what was made of it
or  shard-00000.npy      what was made, and in shard-00000.csv the other columns

Readers of a folder of Parquet files pass over names that begin with an underscore, or a dot.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from vaekit import __version__
from vaekit.data.images import Images
from vaekit.data.tables import as_text, load_pyarrow, write_table
from vaekit.fitted import Fitted
from vaekit.jobs.cluster import Cluster
from vaekit.jobs.executors import Failed, cores, failure, run_jobs, workers
from vaekit.messages import listed
from vaekit.owned import check_folder, locked, write_atomically
from vaekit.training.checkpoint import digest
from vaekit.training.progress import counting

INDEX = "_index.json"
FORMS = ("parquet", "npy")
PLACES = (
    "run",
    "data",
)  # of the facts, which may be called otherwise from elsewhere: weights and fingerprint tell them
MOST_ROWS, MOST_BYTES = 10_000, 2**26  # of a shard, where nobody says how many
MOST_AT_ONCE = 8  # processes, where nobody says how many


class Made(NamedTuple):
    """What was made of some samples: `array` (N, ...), and the same as columns (N,) by name for a table, or None where they are
    images, which are lists there. origin: columns (N,) that tell the samples.
    """

    array: np.ndarray
    columns: Mapping[Any, np.ndarray] | None
    origin: Mapping[Any, np.ndarray]


class Begun(NamedTuple):
    """Work that a worker has begun: `make(start, stop)` of the samples 0 to n - 1. facts: what these shards come from, in JSON.
    sample_bytes: what a sample takes in memory, about. device: where the model is.
    """

    n: int
    make: Callable[[int, int], Made]
    facts: dict
    sample_bytes: int
    device: str


class Work(Protocol):
    """What is to be made, in a few words that any process can be told; `begin` loads the model and opens the data there."""

    def begin(self) -> Begun: ...


class Layout(NamedTuple):
    """The shards of a folder: their samples, form and number."""

    folder: str
    n: int
    rows: int
    form: str

    @property
    def count(self) -> int:
        return math.ceil(self.n / self.rows)

    def place(self, number: int) -> Path:
        """Where a shard stands once it is whole."""
        digits = max(5, len(str(self.count - 1)))  # so that names sort as numbers do
        return Path(self.folder) / f"shard-{number:0{digits}d}.{self.form}"


def write_shards(
    out: str,
    work: Work,
    *,
    form: str = "parquet",
    rows: int | None = None,
    jobs: int | None = None,
    cluster: Cluster | None = None,
    inputs: list[str] | tuple[str, ...] = (),
) -> Layout:
    """Writes what `work` makes into the folder `out`, in shards of so many `rows` (None: what 64 MiB hold, 10,000 at most), by
    `jobs` processes (None: one a core, at most 8; one on a GPU), or on a Ray `cluster` by Ray Data, whose machines need vaekit,
    and the same files at the same places. Each worker loads the model once.

    Shards that are there are kept. Raises ValueError where they come from something else, or one can't be made for what it was
    given, and TrainingFailed for other reasons, once all others are made.
    """
    if form not in FORMS:
        raise ValueError(f"shards must be one of {', '.join(FORMS)}, got {form!r}")
    if form == "parquet":
        load_pyarrow("a shard of Parquet", "npy")
    check_folder(out, "set of shards", inputs=inputs)
    begun = work.begin()
    rows = rows or read_index(out).get("rows") or max(1, min(MOST_ROWS, MOST_BYTES // begun.sample_bytes))
    layout = Layout(out, begun.n, rows, form)
    with locked(out, "set of shards"):
        facts = json.loads(json.dumps({**begun.facts, "n": layout.n, "rows": layout.rows, "form": layout.form}))
        _check_same(layout, facts)
        _write_index(layout, facts, finished=False)
        missing = [number for number in range(layout.count) if not layout.place(number).exists()]
        most = cluster.at_once if cluster else min(cores(), MOST_AT_ONCE) if begun.device == "cpu" else 1
        at_once = max(1, min(jobs or most, len(missing)))
        _BEGUN[_key(layout, facts)] = begun  # for this process, where it is the one
        failed = {}
        try:
            with counting(Path(out).name, "shards", done=layout.count - len(missing), total=layout.count) as report:
                for number, found in _made(layout, work, facts, missing, at_once, cluster):
                    if isinstance(found, Failed):
                        failed[layout.place(number).name] = found
                        report.say(f"{layout.place(number).name} failed: {found.why}")
                    report.step()
        finally:
            _BEGUN.clear()
        if failed:
            raise failure("shards", failed, len(missing))
        _write_index(layout, facts, finished=True)
    return layout


def _made(
    layout: Layout, work: Work, facts: dict, missing: list[int], at_once: int, cluster: Cluster | None
) -> Iterator[tuple[int, Any]]:
    """Number and outcome of each missing shard, as they are made."""
    if not missing:
        return
    if cluster is not None:
        yield from cluster.map(_make, (layout, work, facts), missing, at_once)
        return
    with workers(at_once) as hands:
        yield from run_jobs(hands, missing, lambda number, _: (_make, layout, work, facts, number), at_once)


_BEGUN: dict[str, Begun] = {}  # what this process has loaded and opened, once


def _key(layout: Layout, facts: dict) -> str:
    return f"{Path(layout.folder).absolute()} {json.dumps(facts)}"


def _make(layout: Layout, work: Work, facts: dict, number: int) -> None:
    """Makes a shard, and writes it."""
    key = _key(layout, facts)
    if key not in _BEGUN:
        begun = work.begin()
        _check_unchanged(facts, begun.facts)
        _BEGUN.clear()
        _BEGUN[key] = begun
    start = number * layout.rows
    made = _BEGUN[key].make(start, min(layout.n, start + layout.rows))
    write_shard(layout.place(number), made)


def write_shard(path: Path, made: Made) -> None:
    """A shard as its place says: the columns first, so that a .npy is there once all is."""
    if path.suffix == ".npy":
        write_atomically(path.with_suffix(".csv"), write_table(path.with_suffix(".csv"), _texts(made.origin)))
        buffer = io.BytesIO()
        np.save(buffer, made.array)
        write_atomically(path, buffer.getvalue())
        return
    pyarrow, columns = load_pyarrow(str(path)), dict(made.columns or {})
    found = {name: column for name, column in _texts(made.origin).items() if name not in columns} | columns
    if made.columns is None:
        flat = np.ascontiguousarray(made.array).reshape(-1)
        found["x"] = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(flat), math.prod(made.array.shape[1:]))
    table = pyarrow.table({str(name): column for name, column in found.items()})
    shape = json.dumps(made.array.shape[1:])
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), "shape": shape})
    buffer = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table, buffer)
    write_atomically(path, buffer.getvalue().to_pybytes())


def _texts(columns: Mapping[Any, np.ndarray]) -> dict[Any, np.ndarray]:
    return {name: as_text(column) if column.dtype.kind in "OU" else column for name, column in columns.items()}


def read_index(folder: str) -> dict:
    """What _index.json of a folder of shards says; nothing where there is none. ValueError where it is damaged."""
    file = Path(folder) / INDEX
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if type(found["rows"]) is not int or found["rows"] < 1 or found["form"] not in FORMS:
            raise ValueError(f"shards of {found['rows']!r:.40} rows as {found['form']!r:.40}")
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"{file} is damaged ({error!s:.200}); write into a new folder") from None
    return found


def _check_same(layout: Layout, facts: dict) -> None:
    """Raises ValueError where the folder holds shards that come from something else."""
    before = read_index(layout.folder)
    changed = [name for name in facts if before and name not in PLACES and before.get(name) != facts[name]]
    if changed:
        names = ", ".join(f"{name} {before.get(name)!s:.60} -> {facts[name]!s:.60}" for name in changed)
        raise ValueError(f"{layout.folder} holds other shards ({names}); choose a new folder")


def _check_unchanged(facts: dict, here: dict) -> None:
    """Raises ValueError where a worker finds another model, or other data, than the process that sent it."""
    here = json.loads(json.dumps(here))
    changed = [name for name in here if name not in PLACES and here[name] != facts[name]]
    if changed:
        raise ValueError(
            f"a worker finds another {listed(changed)} than the command it works for: are its files the same?"
        )


def _write_index(layout: Layout, facts: dict, *, finished: bool) -> None:
    names = [layout.place(number).name for number in range(layout.count)] if finished else []
    index = {"vaekit": __version__, **facts, "finished": finished, "shards": names}
    write_atomically(Path(layout.folder) / INDEX, json.dumps(index, indent=1) + "\n")


# ---- what is made -----------------------------------------------------------------------------------------------------


def map_images(
    images: Images, model: Fitted, make: Callable[[Images], tuple[np.ndarray, Mapping | None]], facts: dict
) -> Begun:
    """Work on each of `images`: make(part) gives the array, and the columns, of a part of them."""

    def made(start: int, stop: int) -> Made:
        part = images.take(slice(start, stop))
        part = replace(part, x=np.asarray(part.x))
        return Made(*make(part), part.origin() | {"fingerprint": fingerprints(part.x)})

    data = {"data": images.name, "fingerprint": images.fingerprint, "split": images.split}
    return begun_with(model, len(images), made, {**facts, **data, "split_seed": images.split_seed})


def begun_with(model: Fitted, n: int, make: Callable[[int, int], Made], facts: dict) -> Begun:
    """Work of a `model`, whose weights, and those of its prior in use, are among the facts."""
    weights = digest(model.module.state_dict(), {"model": model.name})
    sample_bytes = 8 * (math.prod(model.format.shape) + math.prod(model.code_shape))
    return Begun(n, make, {**facts, "model": model.name, "weights": weights}, sample_bytes, model.device.type)


def fingerprints(x: np.ndarray) -> np.ndarray:
    """(N,) the first 32 hexadecimal digits of the SHA-256 of each sample's values: equal ones are equal."""
    rows = np.ascontiguousarray(x).reshape(len(x), -1)
    return np.array([hashlib.sha256(row.data).hexdigest()[:32] for row in rows], dtype=object)
