"""What decides a training's weights besides module, objective and data, and how it changes where it is to end elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from vaekit.messages import check_number, filled
from vaekit.world import PRECISIONS

SCHEDULES = ("cosine", "linear", "constant")
OPTIMIZERS = ("adam", "muon")


@dataclass(frozen=True)
class Plan:
    """JSON-able: run.json records it, and a training that goes on follows it, so that it ends as an unbroken one.

    steps: optimizer steps in all. batch_size: images per step. learning_rate: the peak of the schedule.
    accumulate: rounds in which the images of a step are looked at, so that fewer are in memory at once.
    optimizer: "adam" or "muon", see `training/optimizers.py`. betas: Adam's, also of what Muon leaves to it.
    schedule: "linear" or "cosine" (both to zero at `steps`) or "constant", after `warmup` steps of linear rise.
    half: whether Muon multiplies large matrices in bfloat16.
    weight_decay: of the weights of linear and convolutional layers, by how much of themselves they shrink in a step, in parts
        of its learning rate.
    gradient_clip: the largest norm of the whole gradient, or None.
    compile: whether the module's passes are compiled, which changes results by rounding alone.
    threads: of the processor, no more than it gives; None is as many. They change results by rounding alone.
    first: steps done before this training, by an earlier one that it goes on with.
    patience: epochs without a better validation objective before an early stop, or None; epochs that end before the step
        `patience_from` don't count, since there the objective is not yet the one asked for.
    turn: the step at which the schedule begins, rise included, at `height` times the peak: see `towards`.
    """

    steps: int
    batch_size: int
    learning_rate: float
    accumulate: int = 1
    schedule: str = "cosine"
    warmup: int = 0
    optimizer: str = "adam"
    half: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    gradient_clip: float | None = None
    patience: int | None = None
    patience_from: int = 0
    precision: str = "float32"
    compile: bool = False
    threads: int | None = None
    seed: int = 0
    first: int = 0
    turn: int = 0
    height: float = 1.0

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of step first, first + 1, ..., steps - 1."""
        warm = min(1.0, (max(0, step - self.turn) + 1) / self.warmup) if self.warmup else 1.0
        return self.learning_rate * warm * (1.0 if self.schedule == "constant" else self._height_at(step))

    def _height_at(self, step: int) -> float:
        """Of what falls to zero, in parts of the peak."""
        return self.height * _fallen(self.schedule, max(0, step - self.turn), self.steps - self.turn)

    def towards(self, steps: int, at: int, *, anew: int | None = None) -> Plan:
        """This plan, made to end after `steps` steps from the step `at` on. The learning rate begins there where it is, or
        where that of a training of `steps` steps would be if that is higher, and falls to zero at the new end.

        anew: steps of linear rise, for an optimizer whose moments begin at nothing; None is for one that goes on.
        """
        left = (steps - at) // 5  # no rise takes more of what is left
        if anew is None and at < self.turn + self.warmup:  # nothing but a part of the rise has been done
            return replace(self, steps=steps, warmup=min(self.warmup, at - self.turn + left))
        height = max(self._height_at(at), _fallen(self.schedule, at, steps))
        return replace(self, steps=steps, turn=at, height=height, warmup=min(anew or 0, left))


def _fallen(schedule: str, step: int, steps: int) -> float:
    """From 1 at step 0 to 0 at `steps`: in a straight line, or in half a wave."""
    share = step / max(1, steps)
    return 1 - share if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * share))


class Budget:
    """Seconds that several trainings share: what one leaves over goes to those after it.

    weights: of all of them, such as their numbers of epochs. deadline: a reading of `time.monotonic` that none is to pass; None
    is no budget at all.
    """

    def __init__(self, seconds: float, weights: Iterable[float], deadline: float | None):
        self.seconds, self.left, self.deadline = seconds, sum(weights), deadline

    @contextmanager
    def share(self, weight: float) -> Iterator[float | None]:
        """What the next training may take; it is never nothing, so that each is trained a little."""
        began = time.monotonic()
        if self.deadline is None or not weight:
            yield None
            return
        try:
            yield max(0.001, min(self.seconds * weight / self.left, self.deadline - began))
        finally:
            self.seconds -= time.monotonic() - began
            self.left -= weight


def read_plan(found: dict) -> Plan:
    """The plan that `dataclasses.asdict` made of one. Raises ValueError for what a training can't follow."""
    try:
        plan, fractions = Plan(**{**found, "betas": tuple(found["betas"])}), ("learning_rate", "height", "weight_decay")
        for name in (
            "steps",
            "batch_size",
            "accumulate",
            "warmup",
            "patience_from",
            "seed",
            "first",
            "turn",
            *fractions,
        ):
            filled(getattr(plan, name))
            low = 0 if name in ("steps", "batch_size", "accumulate", "learning_rate") else None
            check_number(name, getattr(plan, name), whole=name not in fractions, above=low)
        check_number("patience", plan.patience, whole=True)
        check_number("threads", plan.threads, whole=True, above=0)
        check_number("gradient_clip", plan.gradient_clip, above=0)
        if len(plan.betas) != 2 or not all(0 <= beta < 1 for beta in plan.betas):
            raise ValueError(f"betas {plan.betas!r:.40}")
        for name in ("compile", "half"):
            if type(getattr(plan, name)) is not bool:
                raise ValueError(f"{name} {getattr(plan, name)!r:.40}")
        for name, known in (("precision", tuple(PRECISIONS)), ("schedule", SCHEDULES), ("optimizer", OPTIMIZERS)):
            if getattr(plan, name) not in known:
                raise ValueError(f"{name} {getattr(plan, name)!r:.40}")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"its plan is none ({error})") from None
    return plan


def start_clock(time_budget: float | None) -> float | None:
    """The deadline of a training that may take `time_budget` seconds from now on: a reading of `time.monotonic`."""
    if time_budget is None:
        return None
    import torch._dynamo  # noqa: F401  (the first optimizer of a process does, which takes seconds that are no training's)

    return time.monotonic() + time_budget


def check_time_budget(time_budget: float | None) -> None:
    """Raises ValueError for what is no time."""
    if time_budget is not None and not 0 < time_budget < math.inf:
        raise ValueError(f"time_budget must be a number of seconds > 0, got {time_budget}")


def steps_per_epoch(n: int, batch_size: int) -> int:
    """Steps in an epoch of n images: a last, smaller batch is left out, and fewer images than a batch are one."""
    return max(1, n // min(batch_size, n))


def describe_place(step: int, steps: int, per_epoch: int) -> str:
    """How far a training of `steps` steps is: "epoch 18 of 50", with a decimal within an epoch."""
    return f"epoch {round(step / per_epoch, 1):g} of {round(steps / per_epoch, 1):g}"


def best_epoch(plan: Plan, history: list[dict]) -> dict | None:
    """The record of the epoch with the best validation objective, of those that count."""
    counted = [
        record for record in history if record["step"] >= plan.patience_from and "validation_objective" in record
    ]
    return min(counted, key=lambda record: record["validation_objective"], default=None)


def out_of_patience(plan: Plan, history: list[dict]) -> bool:
    """Whether too many epochs since the plan's turn have not been better than the best."""
    if plan.patience is None or (best := best_epoch(plan, history)) is None:
        return False
    return sum(record["step"] > max(best["step"], plan.turn) for record in history) >= plan.patience
