"""The trainings of a comparison: a run folder each, which go on where they were, share a time budget, and fail apart."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from vaekit.data import Images
from vaekit.fitted import Fitted
from vaekit.messages import first_line
from vaekit.registry import MODELS
from vaekit.second_stage import fit_prior_to, stage_of
from vaekit.training.checkpoint import RunFolder
from vaekit.training.guard import TrainingFailed
from vaekit.training.plan import Budget
from vaekit.training.settings import PriorSettings

# Of a time budget: for trainings and for priors; the rest is for measuring and drawing.
TRAINING, PRIORS = 0.5, 0.15

Say = Callable[[str], None]


class Trainings:
    """Trainings on `train`, in folders under `folder`. common: fields of every model.

    todo: of each folder its share of the time until `deadline`, a reading of `time.monotonic`; None is no budget. Those that
    are finished have none. priors: how many are to be fitted.
    shortened, left_out: what the budget ended, and what failed, each in a few words.
    """

    def __init__(
        self,
        folder: Path,
        train: Images,
        common: Mapping,
        *,
        todo: Sequence[tuple[str, float]],
        priors: int,
        deadline: float | None,
        say: Say,
    ):
        self.folder, self.train, self.common, self.say = folder, train, common, say
        self.shortened: list[str] = []
        self.left_out: list[str] = []
        seconds = 0.0 if deadline is None else max(0.0, deadline - time.monotonic())
        weights = [weight for path, weight in todo if not RunFolder(folder / path).finished]
        self.budget = Budget(TRAINING * seconds, weights, deadline)
        self.budget_of_priors = Budget(PRIORS * seconds, [1.0] * priors, deadline)

    def run(self, folder: str, name: str, seed: int, *, weight: float = 1.0, **settings) -> Fitted | None:
        """The model called `name`, trained; None where its training failed, which then is said."""
        path, model = self.folder / folder, make(name, seed, {**self.common, **settings})
        with self.budget.share(0.0 if RunFolder(path).finished else weight) as seconds:
            try:
                model.fit_images(self.train, folder=str(path), resume=True, same_epochs=True, time_budget=seconds)
            except TrainingFailed as error:
                self._leave_out(folder, error)
                return None
        fitted = model.fitted_
        if fitted.ended_by == "budget":
            self.shortened.append(f"{folder} ({fitted.describe_end()})")
            self.say(f"{folder}: ended by the time budget, {fitted.describe_end()}")
        return fitted

    def fit_prior(self, folder: str, fitted: Fitted, *, wanted: bool) -> None:
        """Gives `fitted`, which was trained in `folder`, a prior where that is wanted and none is there."""
        path = self.folder / folder
        stage = stage_of(path)
        with self.budget_of_priors.share(1.0) as seconds:
            if wanted and not fitted.has_prior:
                how_long = {"time_budget": seconds, "verbose": self.common["verbose"]}
                try:
                    fit_prior_to(fitted, self.train, PriorSettings(), folder=str(path), **how_long)
                except (ValueError, TrainingFailed) as error:
                    self._leave_out(f"the prior of {folder}", error)
        stage.discard()  # of a process that was killed having fitted it

    def _leave_out(self, what: str, error: Exception) -> None:
        self.left_out.append(f"{what} ({first_line(error)})")
        self.say(f"left out: {self.left_out[-1]}")


def make(name: str, seed: int, settings: Mapping):
    """The estimator called `name` on the command line, not yet fitted."""
    return MODELS[name].estimator()(**settings, random_state=seed)
