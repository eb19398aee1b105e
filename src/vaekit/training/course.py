"""The course of a training: begun, or gone on with, by a plan that fits the time there is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

from vaekit.data.batches import Data
from vaekit.ranks import from_first, is_first
from vaekit.threads import using
from vaekit.training.checkpoint import RunFolder
from vaekit.training.loop import train
from vaekit.training.optimizers import gains_by_half
from vaekit.training.plan import Plan
from vaekit.training.progress import Lines
from vaekit.training.step import Objective, affordable, pick_threads
from vaekit.world import derive_seed, seeded


@dataclass(kw_only=True)
class Course:
    """What is trained, on what, and until when; `begin`, or `go_on`, finds the objective and the plan that `run` follows.

    make: objective and plan of a training of so many steps. seed: of the rehearsal.
    compiles: whether a training of so many steps is long enough to be compiled. deadline: a reading of `time.monotonic`.
    optimizer: of the training that this one goes on with; None starts anew. The rest is as in `train`.
    """

    module: nn.Module
    data: Data
    make: Callable[[int], tuple[Objective, Plan]]
    seed: int
    compiles: Callable[[int], bool] = lambda steps: False
    validation: Data | None = None
    folder: RunFolder | None = None
    optimizer: torch.optim.Optimizer | None = None
    deadline: float | None = None
    title: str = "training"
    verbose: bool = False

    objective: Objective | None = None
    plan: Plan | None = None

    def begin(self, steps: int) -> None:
        """A new training of `steps` steps, or of as many as the time is enough for."""
        self.objective, self.plan = self._made(steps)
        with seeded(derive_seed(self.seed, "threads")):
            threads = pick_threads(self.module, self.objective, self.data, self.plan)
        if threads is not None and threads < torch.get_num_threads():
            self.say(f"{threads} of {torch.get_num_threads()} threads, which is faster here and now")
        with using(threads):
            fits = self._fitting(self.objective, self.plan, steps)
        if fits < steps:
            self.say(f"the time budget is enough for {fits:,} of {steps:,} steps")
            self.objective, self.plan = self._made(fits)
        self.plan = replace(self.plan, threads=threads)

    def _made(self, steps: int) -> tuple[Objective, Plan]:
        """What `make` makes, with what is faster on the first rank's processor."""
        objective, plan = self.make(steps)
        return objective, replace(plan, half=from_first(lambda: gains_by_half(plan, self.data.x.device)))

    def go_on(self, before: Plan, at: int, goal: int, *, finished: bool = False, anew: int | None = None) -> str | None:
        """A training by the plan `before` that is at the step `at` and is to end at `goal`: as it was planned, or from `at` on
        by a plan of its own, which see `Plan.towards`. Returns None where it is the plan before, else why it is not, in words
        that end a sentence.

        finished: it has come to an end already, and begins a new schedule wherever it is to end. anew: as in `Plan.towards`.
        """
        self.objective, _ = self.make(goal)
        self.plan = before.towards(goal, at, anew=anew) if finished or goal != before.steps else before
        why, left = "", goal - at
        with using(self.plan.threads):
            fits = self._fitting(self.objective, self.plan, left) if left else left
        if fits < left:
            self.plan = before.towards(at + fits, at, anew=anew)
            self.plan = replace(self.plan, compile=self.plan.compile and self.compiles(fits))
            why = f"the time budget is enough for {fits:,} of {left:,} steps"
        return None if self.plan == before else why

    def run(self) -> list[dict]:
        """Trains, and returns a record per epoch."""
        assert self.objective is not None and self.plan is not None
        return train(
            self.module,
            self.objective,
            self.data,
            self.plan,
            validation=self.validation,
            folder=self.folder,
            optimizer=self.optimizer,
            deadline=self.deadline,
            title=self.title,
            verbose=self.verbose,
        )

    def say(self, text: str) -> None:
        """A line on standard error, where lines are wanted."""
        if self.verbose and is_first():
            Lines(self.title, 0).say(text)

    def _fitting(self, objective: Objective, plan: Plan, steps: int) -> int:
        """How many of `steps` steps, the last ones of the plan, can be done before the deadline."""
        if self.deadline is None:
            return steps
        deadline = self.deadline
        with seeded(derive_seed(self.seed, "rehearsal")):
            rest = plan.steps - steps
            return min(steps, from_first(lambda: affordable(self.module, objective, self.data, plan, deadline, rest)))
