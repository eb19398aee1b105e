"""The main job: train models on the same data, evaluate them alike, and write the report that compares them.

Each (model, seed) is a run folder under REPORT/runs, so that an interrupted comparison goes on where it was.
"""

from __future__ import annotations

import json
import platform
import shlex
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

from vaekit import __version__
from vaekit.data import Images, open_data
from vaekit.data.opening import inputs_of, opening_flags
from vaekit.evaluation.generation import get_judge
from vaekit.evaluation.likelihood import evaluate
from vaekit.fitted import Fitted
from vaekit.jobs.executors import Executor, workers
from vaekit.messages import check_number, filled
from vaekit.owned import check_folder, locked, remove_temporaries, write_atomically
from vaekit.registry import MODELS
from vaekit.report.doctor import examine
from vaekit.report.entry import Compared
from vaekit.report.figures import draw
from vaekit.report.living import RUNS, living_figures, living_run
from vaekit.report.measure import PER_CLASS, measure_run
from vaekit.report.page import write_page
from vaekit.report.trainings import Say, Training, Trainings, make
from vaekit.state import undisturbed
from vaekit.training.guard import TrainingFailed
from vaekit.training.plan import check_time_budget, start_clock
from vaekit.training.progress import describe_seconds

LATENT_DIMS = (2, 4, 8, 16)
BETAS = (1.0, 2.0, 4.0, 8.0)

PLANAR, SWEEP = 0.5, 0.25  # epochs of the models in two dimensions, and of the sweeps, in parts of the others'


@dataclass(frozen=True)
class Asked:
    """What `compare` was asked for: its arguments."""

    data: str
    out: str
    models: Sequence[str]
    seeds: int
    random_state: int
    epochs: int | None
    architecture: str | None
    sweeps: bool
    priors: bool
    device: str
    time_budget: float | None
    command: str
    verbose: bool
    how: dict

    @property
    def common(self) -> dict:
        """Fields of every model."""
        names = ("architecture", "device", "verbose", "epochs")
        return {name: getattr(self, name) for name in names}

    def command_for(self, models: Sequence[str]) -> str:
        """What was typed, or would do the same for `models` on the command line."""
        if self.command:
            return self.command
        words = ["vaekit", "compare", "--data", self.data, "--out", self.out, "--models", ",".join(models)]
        words += ["--seeds", self.seeds, "--random-state", self.random_state]
        words += ["--epochs", self.epochs] if self.epochs is not None else []
        words += ["--architecture", self.architecture] if self.architecture is not None else []
        words += ["--sweeps"] if self.sweeps else []
        words += [] if self.priors else ["--no-priors"]
        words += ["--time-budget", self.time_budget] if self.time_budget is not None else []
        return shlex.join([*map(str, words), *opening_flags(self.how)])


@undisturbed
def compare(
    data: str,
    out: str,
    *,
    models: Sequence[str] = ("vae", "bvae", "cvae", "vqvae"),
    seeds: int = 1,
    random_state: int = 0,
    epochs: int | None = None,
    architecture: str | None = None,
    sweeps: bool = False,
    priors: bool = True,
    device: str = "auto",
    time_budget: float | None = None,
    executor: Executor | None = None,
    jobs: int | None = None,
    command: str = "",
    verbose: bool = True,
    say: Say = print,
    **how,
) -> dict:
    """Trains `models` with `seeds` seeds each on `data`, and writes out/index.html, results.json and figures/.

    epochs, architecture: for all models; None lets each model choose. sweeps: also the loss against the latent
    dimension and against beta (one seed, a quarter of the epochs). priors: also a prior for the latents or codes of each
    model, per class where there are labels. how: keywords of `open_data`, such as resize. Returns what results.json holds.
    time_budget: seconds for all of it. Half of them are for what is still to be trained, alike for each model, and what one
    leaves over goes to the rest; a part is for priors, and the rest for measuring and drawing, which take what they take.
    jobs: trainings at once, in processes that share this machine's cores, which takes less time for small models; None trains
    one after another, here. What is measured and drawn is so here.
    executor: runs the trainings and the fits of priors instead, and has `submit` as in `concurrent.futures`; `jobs` None hands
    it all of them. Its workers need vaekit, and the same files at the same places. One whose worker is lost is tried again
    where it was, up to 3 times in all. A time budget needs `jobs` then.
    Runs that are finished under `out` are kept, unfinished ones go on; other settings there raise ValueError.
    A prior that can't be fitted and a training that fails are left out, which the output and the protocol say; it raises
    TrainingFailed where no model is left.
    """
    check_time_budget(time_budget)
    check_number("jobs", jobs, whole=True, above=0)
    if executor is not None and time_budget is not None and jobs is None:
        raise ValueError("a time budget with an executor needs jobs: how many trainings it does at once")
    started, deadline = datetime.now(UTC), start_clock(time_budget)
    check_folder(Path(out), "report", inputs=inputs_of(data, how.get("labels")))
    train, test = (open_data(data, split, **how) for split in ("train", "test"))
    _check_drawable(train, data)
    models = _with_labels_or_without(models, train, data, say)
    asked = Asked(
        data, out, models, seeds, random_state, epochs, architecture, sweeps, priors, device, time_budget, command, verbose, how
    )  # fmt: skip
    for name in models:  # before the judge, which takes its time
        make(name, random_state, asked.common).check(train)
    with locked(Path(out), "report"):
        return _compare(asked, train, test, (started, deadline), (executor, jobs), say)


def _check_drawable(train: Images, data: str) -> None:
    if train.is_table:
        raise ValueError(
            f"{data} is a table of vectors; `vaekit compare` draws images. Train on it with `vaekit train`"
        )
    if train.image_shape[2] == 2:
        raise ValueError(f"{data} has images of 2 channels, which can't be drawn; train on it with `vaekit train`")


def _with_labels_or_without(models: Sequence[str], train: Images, data: str, say: Say) -> list[str]:
    """Those of `models` that can be trained on `train`, with labels or without."""
    free = [name for name in models if not MODELS[name].estimator().conditional]
    if train.y is not None or len(free) == len(models):
        return list(models)
    say(f"{data} has no labels: conditional models are left out")
    if not free:
        raise ValueError(f"{data} has no labels, and every model asked for is conditional")
    return free


def _compare(
    asked: Asked,
    train: Images,
    test: Images,
    when: tuple[datetime, float | None],
    work: tuple[Executor | None, int | None],
    say: Say,
) -> dict:
    """Trains, measures, draws and writes; what `compare` returns."""
    folder, (started, deadline), (executor, jobs) = Path(asked.out), when, work
    remove_temporaries(folder / "figures")
    judge = get_judge(train, test, verbose=asked.verbose) if train.y is not None else (None, None)
    trainings = Trainings(
        folder / "runs",
        train,
        asked.common,
        todo=_trainings(asked.models, asked.seeds, asked.random_state, asked.sweeps),
        priors=len(asked.models) * asked.seeds,
        deadline=deadline,
        say=say,
    )
    with workers(jobs or 1) if executor is None else nullcontext(executor) as hands:
        if executor is not None or (jobs or 1) > 1:
            trainings.hand_out(hands, jobs, asked.data, asked.how, priors=asked.priors)
    first, entries, closer = _measure_each(asked, trainings, test, judge, say)
    doctor = _doctor(asked, first, entries, train, test)
    planar = _in_two_dimensions(trainings, list(first))
    sweeps = _sweep(trainings, test, list(first)) if asked.sweeps else {}
    say("drawing")
    pictures = draw(Compared(first, planar, sweeps, entries, test, asked.random_state), folder / "figures")
    notes = _notes(judge[1], sweeps, train, trainings)
    results = {
        "data": _describe_data(train, test),
        "protocol": _protocol(asked, first, entries, started, notes),
        "models": entries,
        "doctor": doctor,
        "sweeps": sweeps,
    }
    write_atomically(folder / "results.json", json.dumps(results, indent=1) + "\n")
    write_page(folder / "index.html", results, pictures, living_figures(closer, planar, test))
    return results


def _trainings(models: Sequence[str], seeds: int, first: int, sweeps: bool) -> list[Training]:
    """All trainings of a comparison."""
    found = [Training(f"{name}-seed{seed}", name, seed) for seed in range(first, first + seeds) for name in models]
    found += [Training(f"{name}-d2", name, first, PLANAR, {"latent_dim": 2}) for name in _with_a_vector(models)]
    return found + [
        Training(f"{folder}-{value}", name, first, SWEEP, {field: value})
        for field, folder, name, values in _swept()
        if sweeps and name in models
        for value in values
    ]


def _with_a_vector(models: Sequence[str]) -> list[str]:
    """Those of `models` that can be trained with two latents."""
    return [name for name in models if not MODELS[name].estimator().discrete]


def _swept() -> list[tuple[str, str, str, Sequence]]:
    """The report's two sweeps: the field, the beginning of the folders' names, the model, the field's values."""
    return [("latent_dim", "sweep-latent", "vae", LATENT_DIMS), ("beta", "sweep-beta", "bvae", BETAS)]


def _measure_each(
    asked: Asked, trainings: Trainings, test: Images, judge: tuple, say: Say
) -> tuple[dict[str, Fitted], list[dict], list[dict]]:
    """Every model with every seed trained, given a prior and measured: the first run of each model, by name, an entry of
    results.json for each run, and some of these up close, whole seeds only.
    """
    entries, first, closer, baselines = [], {}, [], {}
    for training in trainings.todo:
        folder, name, seed, share, _ = training
        fitted = trainings.run(training) if share == 1 else None
        if fitted is None:
            continue
        label = MODELS[name].label
        first.setdefault(name, fitted)
        trainings.fit_prior(folder, fitted, wanted=asked.priors)
        path, (judges, accuracy) = trainings.folder / folder, judge
        how = {"judge": judges, "judge_accuracy": accuracy, "baselines": baselines}
        entry = measure_run(fitted, trainings.train, test, path, **how)
        entries.append({"name": name, "label": label, "seed": seed, **entry})
        if seed - asked.random_state < max(1, RUNS // len(asked.models)):
            closer.append(living_run(fitted, entries[-1], test))
        took = describe_seconds(entry["seconds"])
        say(f"{label} seed {seed}: test MSE {entry['mse']:.5f}, ELBO {entry['elbo']:.2f} nats, {took}")
    if not first:
        raise TrainingFailed(f"no model could be trained: {_reasons(trainings)}")
    return {name: first[name] for name in asked.models if name in first}, entries, closer


def _doctor(
    asked: Asked, first: dict[str, Fitted], entries: Sequence[dict], train: Images, test: Images
) -> dict[str, list[dict]]:
    """What the doctor says of the first run of each model."""
    found = {}
    for name, fitted in first.items():
        seed = next(entry["seed"] for entry in entries if entry["name"] == name)
        folder = str(Path(asked.out) / "runs" / f"{name}-seed{seed}")
        diagnoses = examine(fitted, train, test, folder=folder, data=asked.data, how=asked.how)
        found[MODELS[name].label] = [diagnosis._asdict() for diagnosis in diagnoses]
    return found


def _in_two_dimensions(trainings: Trainings, models: Sequence[str]) -> dict[str, Fitted]:
    """The models of a latent vector, trained anew with two latents."""
    found = {}
    for training in trainings.todo:
        fitted = trainings.run(training) if training.share == PLANAR and training.name in models else None
        if fitted and fitted.z_shape == (2,):
            found[training.name] = fitted
    return found


def _sweep(trainings: Trainings, test: Images, models: Sequence[str]) -> dict:
    """Loss against latent dimension (VAE) and beta (beta-VAE): the report's two sweeps, as numbers for results.json."""
    found: dict = {"epochs": trainings.epochs_of(SWEEP)}
    for training in trainings.todo:
        fitted = trainings.run(training) if training.share == SWEEP and training.name in models else None
        if fitted:
            result = evaluate(fitted.module, fitted.data(test), draws=2)
            ((field, value),) = training.fields.items()
            point = {"value": value, **{key: result[key] for key in ("mse", "distortion", "rate", "elbo")}}
            found.setdefault(field, []).append(point)
    return found


def _reasons(trainings: Trainings) -> str:
    return "; ".join(f"{what} ({why})" for what, why in trainings.left_out.items())


def _describe_data(train: Images, test: Images) -> dict:
    return {
        "name": train.name,
        "fingerprint": train.fingerprint,
        "train": len(train),
        "test": len(test),
        "image_shape": list(train.image_shape),
        "classes": list(train.classes),
        "split_seed": train.split_seed,
    }


def _protocol(
    asked: Asked, first: dict[str, Fitted], entries: Sequence[dict], started: datetime, notes: list[str]
) -> dict:
    """How the results came to be."""
    fitted = {MODELS[name].label: model for name, model in first.items()}
    return {
        "command": asked.command_for(list(first)),
        "vaekit": __version__,
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "device": next(iter(first.values())).facts["device"],
        "date": started.isoformat(timespec="seconds"),
        "seeds": asked.seeds,
        "posterior draws": entries[0]["draws"],
        "notes": notes,
        "models": {label: {**model.record.fields, **model.record.resolved} for label, model in fitted.items()},
        "priors": {label: asdict(filled(model.prior).settings) for label, model in fitted.items() if model.has_prior},
    }


def _notes(judge_accuracy: float | None, sweep_results: dict, train: Images, trainings: Trainings) -> list[str]:
    notes = [
        "The 2-D latent spaces and the manifold are of models with latent_dim=2, trained for "
        f"{trainings.epochs_of(PLANAR)} epochs."
    ]
    if judge_accuracy is not None:
        notes.append(
            f"The judge is a small CNN trained on the same training images; it labels {judge_accuracy:.2%} of the test images "
            f"right. It saw {PER_CLASS} samples per class."
        )
    if sweep_results:
        notes.append(f"The sweeps train one seed for {sweep_results['epochs']} epochs each.")
    if train.split_seed is not None:
        notes.append("The 10 % validation part was not used.")
    if trainings.shortened:
        notes.append(
            f"Trainings that a time budget ended before all epochs were done: {', '.join(trainings.shortened)}."
        )
    if trainings.left_out:
        notes.append(f"Left out, since it could not be trained: {_reasons(trainings)}.")
    return notes
