"""What can go wrong in a training, in words: numbers that are not finite, want of memory, a signal to stop."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from vaekit.data.batches import Data
from vaekit.ranks import NEVER, earliest, greatest, size
from vaekit.training.plan import Plan
from vaekit.training.step import Objective, rehearse

CHECK_EVERY = 50  # steps between looks at the device: non-finite terms, the clock, a request to stop
ROLLBACKS = 3  # times that a training goes back, with half the learning rate, before it gives up


class TrainingFailed(RuntimeError):
    """Training stopped on a non-finite number, or for want of memory; the message says where, and what to try."""


def find_failure(bad: Tensor, names: list[str], modules: nn.Module, step: int, plan: Plan) -> str | None:
    """What is no longer finite, since when and what to try; None where all is well. A gradient can be non-finite where every
    term is finite; it then shows in the weights, before they are saved.
    """
    steps = dict(zip([*names, "objective"], earliest(bad).tolist(), strict=True))
    failed = {name: first for name, first in steps.items() if first < NEVER}
    if failed:
        first = min(failed.values())
        culprits, when = ", ".join(name for name, place in failed.items() if place == first), f"at step {first}"
    elif not torch.stack([value.isfinite().all() for value in modules.state_dict().values()]).all():
        first, culprits, when = step - 1, "the weights", f"within {CHECK_EVERY} steps before step {step}"
    else:
        return None
    return (
        f"{culprits} became non-finite {when}. Try a lower learning rate (it was {plan.learning_rate_at(first):.2g}; try "
        f"{plan.learning_rate / 3:.2g}) or a gradient clip (--gradient-clip 100)"
        f"{', or precision float32' if plan.precision != 'float32' else ''}"
    )


@contextmanager
def enough_memory(module: nn.Module, objective: Objective, data: Data, plan: Plan) -> Iterator[None]:
    """Makes a want of the device's memory in the block a TrainingFailed that says which batches do."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise TrainingFailed(_too_large(module, objective, data, plan)) from None


def _too_large(module: nn.Module, objective: Objective, data: Data, plan: Plan) -> str:
    """What to say when a step doesn't fit into the device's memory: in how many rounds, twice as many each time, it does."""
    batch, rounds = min(plan.batch_size, len(data)), 2 * plan.accumulate
    while size() * rounds <= batch:
        try:
            rehearse(module, objective, data, replace(plan, accumulate=rounds))
        except torch.OutOfMemoryError:
            rounds *= 2
        else:
            return (
                f"training stopped: a batch of {plan.batch_size} does not fit into memory; it does in {rounds} rounds, which "
                f"come to the same (--accumulate {rounds}), or take --batch-size {batch // rounds}"
            )
    return "training stopped: not even a batch of one fits into memory; choose a smaller model or smaller images"


class Stop:
    """Whether a signal asked for an end, and the exception that then follows."""

    def __init__(self):
        self.signal = 0  # that has come to this rank
        self.agreed = 0  # that all ranks know of, and obey
        self.last: int | None = None  # the step of the last look, when that was, and the step of the next one
        self.since, self.next = time.monotonic(), 0

    def look(self, late: bool, step: int) -> tuple[bool, bool]:
        """Whether a signal has asked any rank for an end, and whether any is `late`. Ranks look together: as asking takes them
        time, about once a second, at a step that they agree upon.
        """
        if self.last is not None and self.last <= step < self.next:  # one that has gone back is before the last look
            return False, False
        now, wait = time.monotonic(), 1
        if size() > 1 and self.last is not None and step > self.last:
            wait = min(CHECK_EVERY, int((step - self.last) / max(1e-9, now - self.since)) + 1)
        self.since = now
        self.agreed, any_late, wait = greatest(self.signal, late, wait)
        self.last, self.next = step, step + wait
        return bool(self.agreed), bool(any_late)

    def agree(self) -> None:
        """Makes a signal that has come to any rank one that all obey."""
        (self.agreed,) = greatest(self.signal)

    def obey(self) -> None:
        """Raises what follows from the signal that was agreed upon: one that has come since waits for the next look."""
        if self.agreed == signal.SIGINT:
            raise KeyboardInterrupt
        if self.agreed:
            raise SystemExit(128 + self.agreed)


@contextmanager
def deferred_signals(*, enabled: bool) -> Iterator[Stop]:
    """Holds Ctrl-C and SIGTERM until a step is whole, so that the checkpoint they cause is one that can be resumed."""
    stop = Stop()
    if not enabled or threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number, frame):
        stop.signal = number

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    stop.agree()  # upon what was asked for after the last step
    stop.obey()
