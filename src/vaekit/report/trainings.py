"""The trainings of a comparison: a run folder each, which go on where they were, share a time budget, and fail apart."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vaekit.data import Images, open_data
from vaekit.files import load
from vaekit.fitted import Fitted
from vaekit.jobs.executors import Executor, Failed, run_jobs
from vaekit.messages import filled, first_line
from vaekit.registry import MODELS
from vaekit.second_stage import fit_prior_to, stage_of
from vaekit.training.checkpoint import RunFolder
from vaekit.training.guard import TrainingFailed
from vaekit.training.plan import Budget
from vaekit.training.settings import PriorSettings

# Of a time budget: for trainings and for priors; the rest is for measuring and drawing.
TRAINING, PRIORS = 0.5, 0.15

Say = Callable[[str], None]


class Training(NamedTuple):
    """One of them, in the folder of this name: a model, its seed, and fields that it has alone. share: its epochs, as a part of
    those that whole trainings have.
    """

    folder: str
    name: str
    seed: int
    share: float = 1.0
    fields: Mapping[str, Any] = {}


class Trainings:
    """Trainings on `train`, in folders under `folder`. common: fields of every model.

    todo: all of them, which share the time until `deadline`, a reading of `time.monotonic`; None is no budget. Those that
    are finished have none. priors: how many are to be fitted.
    shortened, left_out: what the budget ended, in a few words each, and what failed, and why.
    """

    def __init__(
        self,
        folder: Path,
        train: Images,
        common: Mapping,
        *,
        todo: Sequence[Training],
        priors: int,
        deadline: float | None,
        say: Say,
    ):
        self.folder, self.train, self.common, self.say = folder, train, common, say
        self.todo, self.deadline = todo, deadline
        self.shortened: list[str] = []
        self.left_out: dict[str, str] = {}
        self.epochs: int | None = common["epochs"]  # of a whole training; where models choose, once there is one
        self.seconds = 0.0 if deadline is None else max(0.0, deadline - time.monotonic())
        self.budget = Budget(TRAINING * self.seconds, [training.share for training in self.unfinished], deadline)
        self.budget_of_priors = Budget(PRIORS * self.seconds, [1.0] * priors, deadline)

    @property
    def unfinished(self) -> list[Training]:
        """Those that are still to be trained."""
        return [training for training in self.todo if not RunFolder(self.folder / training.folder).finished]

    def run(self, training: Training) -> Fitted | None:
        """The model, trained; None where its training failed, which then is said."""
        if training.folder in self.left_out:
            return None
        path, fields = self.folder / training.folder, {**self.common, **training.fields}
        if training.share < 1:
            fields["epochs"] = self.epochs_of(training.share)
        model = make(training.name, training.seed, fields)
        with self.budget.share(0.0 if RunFolder(path).finished else training.share) as seconds:
            try:
                model.fit_images(self.train, folder=str(path), resume=True, same_epochs=True, time_budget=seconds)
            except TrainingFailed as error:
                self._leave_out(training.folder, first_line(error))
                return None
        folder, fitted = training.folder, model.fitted_
        if training.share == 1:
            self.epochs = self.epochs or fitted.fields["epochs"]
        if fitted.ended_by == "budget":
            self.shortened.append(f"{folder} ({fitted.describe_end()})")
            self.say(f"{folder}: ended by the time budget, {fitted.describe_end()}")
        return fitted

    def fit_prior(self, folder: str, fitted: Fitted, *, wanted: bool) -> None:
        """Gives `fitted`, which was trained in `folder`, a prior where that is wanted and none is there."""
        path = self.folder / folder
        stage = stage_of(path)
        wanted = wanted and prior_of(folder) not in self.left_out
        with self.budget_of_priors.share(1.0) as seconds:
            if wanted and not fitted.has_prior:
                how_long = {"time_budget": seconds, "verbose": self.common["verbose"]}
                try:
                    fit_prior_to(fitted, self.train, PriorSettings(), folder=str(path), **how_long)
                except (ValueError, TrainingFailed) as error:
                    self._leave_out(prior_of(folder), first_line(error))
        stage.discard()  # of a process that was killed having fitted it

    def epochs_of(self, share: float) -> int:
        """Of a training with so much of those of a whole one, of which one is done."""
        return max(1, int(filled(self.epochs) * share))

    def hand_out(self, executor: Executor, jobs: int | None, data: str, how: Mapping, *, priors: bool) -> None:
        """Has what is unfinished trained by `executor`, `jobs` at once, and whole ones given their priors, so that `run` and
        `fit_prior` find them, or that they have failed. data, how: what `train` was opened by. jobs: None is all of them.
        """
        unit = self._unit(jobs)
        # The longest first: whole ones, and of these those of codes, whose priors take the longest.
        todo = sorted(self.unfinished, key=lambda one: (-one.share, not MODELS[one.name].estimator().discrete))
        whole = [one for one in todo if one.share == 1]
        if not todo:
            return
        self.say(f"{len(todo)} trainings to go, {jobs or len(todo)} at a time")
        for part in [todo] if self._find_epochs() else [whole, todo[len(whole) :]]:
            if not part or not (part[0].share == 1 or self._find_epochs()):  # by which shorter ones go
                continue

            def job(training: Training, left: int) -> tuple:
                seconds = unit and (TRAINING * unit * training.share, PRIORS * unit)
                return _train_apart, data, how, self.folder, training, self.common, self.epochs, priors, seconds

            for done, (training, found) in enumerate(run_jobs(executor, part, job, jobs or len(part)), 1):
                failures = {training.folder: found.why} if isinstance(found, Failed) else found
                for what, why in failures.items():
                    self._leave_out(what, why)
                if training.folder not in failures:
                    self.say(f"{training.folder} is trained, {done} of {len(part)}")

    def _unit(self, jobs: int | None) -> float | None:
        """Of the time budget, the seconds of a whole training, its prior and what is made of it, with so many at once."""
        if self.deadline is None:
            return None
        kinds = Counter(training.share for training in self.unfinished)
        return self.seconds / max(1.0, sum(share * math.ceil(n / filled(jobs)) for share, n in kinds.items()))

    def _find_epochs(self) -> bool:
        """Whether a whole training is there, by which shorter ones go."""
        for training in self.todo:
            if self.epochs is None and training.share == 1 and RunFolder(self.folder / training.folder).finished:
                self.epochs = load(self.folder / training.folder).fitted_.fields["epochs"]
        return self.epochs is not None

    def _leave_out(self, what: str, why: str) -> None:
        self.left_out[what] = why
        self.say(f"left out: {what} ({why})")


def _train_apart(
    data: str,
    how: Mapping,
    folder: Path,
    training: Training,
    common: Mapping,
    epochs: int | None,
    priors: bool,
    seconds: tuple[float, float] | None,
) -> dict[str, str]:
    """A training of a comparison, and its prior, as a job: what failed, and why."""
    train = open_data(data, "train", **how)
    alone = Trainings(
        folder, train, {**common, "verbose": False}, todo=[training], priors=1, deadline=None, say=lambda _: None
    )
    alone.epochs = epochs
    if seconds:
        deadline = time.monotonic() + sum(seconds)
        alone.budget = Budget(seconds[0], [training.share], deadline)
        alone.budget_of_priors = Budget(seconds[1], [1.0], deadline)
    fitted = alone.run(training)
    if fitted and training.share == 1:
        alone.fit_prior(training.folder, fitted, wanted=priors)
    return alone.left_out


def prior_of(folder: str) -> str:
    """What is said of it."""
    return f"the prior of {folder}"


def make(name: str, seed: int, settings: Mapping):
    """The estimator called `name` on the command line, not yet fitted."""
    return MODELS[name].estimator()(**settings, random_state=seed)
