"""Advice on the two numbers everyone asks for: a grid of latent_dim and beta, the rate-distortion curve, and what to take.

Each point is a run folder under OUT/runs, and what was measured of it is kept in OUT/sweep.json, so that an interrupted sweep
goes on where it was.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vaekit import __version__
from vaekit.data import Images, open_data
from vaekit.data.opening import inputs_of, other_than_default
from vaekit.data.splits import split_indices
from vaekit.evaluation.generation import FEWEST, get_judge, measure_samples, pick_features
from vaekit.evaluation.likelihood import evaluate
from vaekit.evaluation.representation import can_probe, measure_representation
from vaekit.jobs.executors import Executor, Failed, failure, run_jobs, workers
from vaekit.messages import filled, in_rows
from vaekit.owned import check_folder, locked, write_atomically
from vaekit.pictures import charts
from vaekit.pictures.style import save
from vaekit.registry import MODELS
from vaekit.report.advice import Advice, advise
from vaekit.state import undisturbed
from vaekit.threads import cores
from vaekit.training.plan import check_time_budget, start_clock
from vaekit.world import pick_device

MEASURED = ("images", "draws", "mse", "distortion", "rate", "elbo", "elbo_se", "active_units", "aggregate_kl_at_least")
SAMPLES = 2000  # that are compared with held-out images, at most
PROBED = 5000  # training images that a probe learns from, at most
SEED = 2023  # of what is measured
TRAINING = 0.75  # of a time budget; the rest is for measuring

Say = Callable[[str], None]


@dataclass(frozen=True)
class Grid:
    """A sweep's settings: what every worker process is told, and what sweep.json is compared with when it goes on."""

    data: str
    latent_dims: tuple[int, ...]
    betas: tuple[float, ...]
    seeds: tuple[int, ...]
    epochs: int | None
    architecture: str | None
    likelihood: str | None
    device: str
    how: dict

    def open(self) -> tuple[Images, Images]:
        """The images to train on, and those to measure on: the validation part, or a tenth of the training images where the
        data comes without one. Nothing is chosen on test images.
        """
        train = open_data(self.data, "train", **self.how)
        if train.split_seed is not None:
            return train, open_data(self.data, "validation", **self.how)
        parts = split_indices(train.y, len(train), self.how.get("split_seed", 0))
        kept = np.sort(np.concatenate([parts["train"], parts["test"]]))
        return train.take(kept), train.take(parts["validation"])


class Point(NamedTuple):
    latent_dim: int
    beta: float
    seed: int

    @property
    def folder(self) -> str:
        return f"latent{self.latent_dim}-beta{self.beta:g}-seed{self.seed}"


@undisturbed
def sweep(
    data: str,
    out: str,
    *,
    latent_dims: Sequence[int] = (2, 4, 8, 16, 32),
    betas: Sequence[float] = (0.5, 1.0, 2.0, 4.0),
    seeds: int = 1,
    random_state: int = 0,
    epochs: int | None = None,
    architecture: str | None = None,
    likelihood: str | None = None,
    device: str = "auto",
    jobs: int | None = None,
    executor: Executor | None = None,
    time_budget: float | None = None,
    say: Say = print,
    **how,
) -> dict:
    """Trains a beta-VAE for each latent_dim, beta and seed, and measures each on held-out images; writes out/sweep.json and
    out/sweep.png. Returns what sweep.json holds: `points`, a record each, and `advice`, see `advise`.

    epochs, architecture, likelihood: as for a model; None lets it choose. how: keywords of `open_data`, such as resize.
    jobs: trainings at once; None is one a core, at most 8, and one on a GPU. Points that were measured before are kept and
    count too, unfinished trainings go on; other settings in `out` raise ValueError.
    executor: runs the trainings instead of processes of this machine, and has `submit` as in `concurrent.futures`; `jobs` None
    hands it all of them. Its workers need vaekit, and the same files at the same places. A training whose worker is lost is
    tried again where it was, up to 3 times in all.
    time_budget: seconds for all of it, shared out evenly over the points that are to be trained, so that these compare; with an
    `executor` it needs `jobs`.
    Points that fail are named as they do, and once all others are measured raise TrainingFailed, or ValueError where what they
    were given is wrong.
    """
    check_time_budget(time_budget)
    if executor is not None and time_budget is not None and jobs is None:
        raise ValueError("a time budget with an executor needs jobs: how many trainings it does at once")
    deadline = start_clock(time_budget)
    grid = Grid(
        data=data,
        latent_dims=tuple(sorted(set(latent_dims))),
        betas=tuple(sorted(set(map(float, betas)))),
        seeds=tuple(range(random_state, random_state + seeds)),
        epochs=epochs,
        architecture=architecture,
        likelihood=likelihood,
        device=device,
        how=other_than_default(how),
    )
    if not grid.latent_dims or not grid.betas:
        raise ValueError("a sweep needs at least one latent_dim and one beta")
    folder = Path(out)
    check_folder(folder, "sweep", inputs=inputs_of(data, how.get("labels")))
    train, held = grid.open()
    points = [Point(d, beta, seed) for seed in grid.seeds for d in grid.latent_dims for beta in grid.betas]
    for point in points:
        _model(grid, point).check(train)
    with locked(folder, "sweep"):
        return _sweep(grid, points, train, held, folder, (jobs, executor), deadline, say)


def _sweep(
    grid: Grid,
    points: list[Point],
    train: Images,
    held: Images,
    folder: Path,
    work: tuple[int | None, Executor | None],
    deadline: float | None,
    say: Say,
) -> dict:
    """Trains and measures what is not in the folder yet; what `sweep` returns."""
    records = _measured_before(folder / "sweep.json", grid, train)
    if train.y is not None and not train.is_table:
        get_judge(train, held)  # trained once, here, and not by each process
    missing = [point for point in points if point.folder not in records]
    at_once, executor = _at_once(grid, len(missing), *work), work[1]
    if missing:
        say(f"{len(missing)} of {len(points)} trainings to go, {at_once} at a time")

    def keep(point: Point, record: dict, place: str | None) -> None:
        records[point.folder] = record
        _write(folder / "sweep.json", grid, train, held, records)
        say(
            f"{len(records)}/{len(points)}: latent_dim {point.latent_dim}, beta {point.beta:g}, seed {point.seed}: "
            f"ELBO {record['elbo']:.2f}, rate {record['rate']:.2f}, {record['active_units']} active"
            + (f"; ended by the time budget, {place}" if place else "")
        )

    shares, failed = Shares(len(missing), at_once, deadline), {}

    def job(point: Point, left: int) -> tuple:
        return _train_and_measure, grid, point, str(folder), shares.next(left)

    with workers(at_once) if executor is None else nullcontext(executor) as hands:
        for point, found in run_jobs(hands, missing, job, at_once):
            if isinstance(found, Failed):
                failed[point.folder] = found
                say(f"{point.folder} failed: {found.why}")
            else:
                keep(point, *found)
    if failed:
        raise failure("trainings", failed, len(missing))
    results = _write(folder / "sweep.json", grid, train, held, records, finished=True)
    chosen = results["advice"][0]
    picture = charts.sweep(
        results["points"],
        chosen=None if chosen["latent_dim"] is None else (chosen["latent_dim"], chosen["beta"]),
        sample=in_rows("image", train.is_table),
    )
    save(picture, folder / "sweep.png")
    return results


def _at_once(grid: Grid, missing: int, jobs: int | None, executor: Executor | None) -> int:
    """How many trainings there are at once, of those that are missing."""
    if executor is not None:
        at_once = jobs or missing
    else:
        at_once = jobs or (min(cores(), 8) if pick_device(grid.device).type == "cpu" else 1)
    return max(1, min(at_once, missing))


class Shares:
    """Of the time until `deadline`, what each of `missing` trainings gets, `at_once` of them at a time: seconds, or None where
    there is no deadline.
    """

    def __init__(self, missing: int, at_once: int, deadline: float | None):
        self.at_once, self.deadline = at_once, deadline
        self.alike = self._even(max(1, missing))

    def next(self, left: int) -> float | None:
        """What the next of `left` trainings gets: what every point gets, so that points compare; less only where measuring took
        more than was kept for it.
        """
        return None if self.alike is None else min(self.alike, filled(self._even(left)))

    def _even(self, left: int) -> float | None:
        if self.deadline is None:
            return None
        return max(0.001, TRAINING * (self.deadline - time.monotonic()) / math.ceil(left / self.at_once))


def _worded(advice: Advice, train: Images) -> Advice:
    """Of a table's rows, where `train` has such."""
    words = {name: in_rows(getattr(advice, name), train.is_table) for name in ("purpose", "reason")}
    return advice._replace(**words)


def _model(grid: Grid, point: Point):
    return MODELS["bvae"].estimator()(
        latent_dim=point.latent_dim,
        beta=point.beta,
        epochs=grid.epochs,
        architecture=grid.architecture,
        likelihood=grid.likelihood,
        random_state=point.seed,
        device=grid.device,
    )


def _train_and_measure(grid: Grid, point: Point, out: str, seconds: float | None) -> tuple[dict, str | None]:
    """One point of the grid, in its run folder, trained for so many seconds: its record in sweep.json, and how far it came
    where the time ended it.
    """
    train, held = grid.open()
    folder = str(Path(out) / "runs" / point.folder)
    model = (
        _model(grid, point).fit_images(train, folder=folder, resume=True, same_epochs=True, time_budget=seconds).fitted_
    )
    place = model.describe_end() if model.ended_by == "budget" else None
    found = evaluate(model.module, model.data(held))
    record = {**point._asdict(), **{name: found[name] for name in MEASURED}}
    record["seconds"] = sum(epoch["seconds"] for epoch in model.history)
    some = train.take(np.sort(np.random.default_rng(SEED).permutation(len(train))[:PROBED]))
    if held.y is None or some.y is None or not can_probe(some.y):
        return record, place
    codes, known = model.transform(held), model.transform(some)
    probes = measure_representation(known, some.y, codes, held.y, train_x=some.x, x=held.x, seed=SEED)
    record |= {key: probes[key] for key in ("probe_accuracy", "probe_accuracy_se", "probe_accuracy_pca", "probe_train")}
    n = min(SAMPLES, len(held), len(some))
    if not train.is_table and n >= FEWEST:
        judge, _ = get_judge(train, held)
        embed, _ = pick_features(judge)
        samples = model.sample(n, random_state=SEED)
        distances = measure_samples(embed, samples.reshape(n, *held.image_shape), held.x, some.x[:n], seed=SEED)
        record |= {key: distances[key] for key in ("frechet", "frechet_floor", "samples")}
    return record, place


def _measured_before(file: Path, grid: Grid, train: Images) -> dict[str, dict]:
    """The records of a sweep that is gone on with, by their runs' folders; its grid may have grown."""
    if not file.exists():
        return {}
    if not file.is_file():
        raise ValueError(f"{file} is no file; sweep into a new folder")
    mine = json.loads(json.dumps(vars(grid)))
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
        theirs, fingerprint = {name: results["grid"][name] for name in mine}, results["data"]["fingerprint"]
        theirs["how"] = other_than_default(theirs["how"])
        for record in results["points"]:
            _check_record(record, results["points"][0])
        records = {Point(p["latent_dim"], p["beta"], p["seed"]).folder: p for p in results["points"]}
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{file} is damaged ({error!s:.200}); sweep into a new folder") from None
    if fingerprint != train.fingerprint:
        raise ValueError(f"{file.parent} holds a sweep on other data ({theirs['data']}); sweep into a new folder")
    free = ("latent_dims", "betas", "seeds", "data", "device")
    changed = [
        f"{name} {theirs[name]} -> {mine[name]}" for name in mine if name not in free and mine[name] != theirs[name]
    ]
    if changed:
        raise ValueError(
            f"{file.parent} can't be gone on with other settings ({', '.join(changed)}); sweep into a new folder"
        )
    return records


def _check_record(record: dict, first: dict) -> None:
    """Raises ValueError unless `record` is one of a point, measured as the `first` was."""
    if record.keys() != first.keys() or not {*Point._fields, *MEASURED, "seconds"} <= record.keys():
        raise ValueError("a point lacks some of its measures")
    for name, value in record.items():
        kinds = (int,) if name in ("latent_dim", "seed", "active_units") else (int, float)
        if type(value) not in kinds or not math.isfinite(value):
            raise ValueError(f"{name} of a point is {value!r:.40}")


def _write(
    file: Path, grid: Grid, train: Images, held: Images, records: dict[str, dict], finished: bool = False
) -> dict:
    points = sorted(records.values(), key=lambda p: (p["latent_dim"], p["beta"], p["seed"]))
    results = {
        "vaekit": __version__,
        "data": {
            "name": train.name,
            "fingerprint": train.fingerprint,
            "train": len(train),
            "held_out": len(held),
            "table": train.is_table,
        },
        "grid": vars(grid),
        "points": points,
        "advice": [_worded(advice, train)._asdict() for advice in advise(points)] if finished else [],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, json.dumps(results, indent=1) + "\n")
    return results
