"""The one training loop. It knows a module, an objective and a data set; it knows no model's name.

`module(x, y)` is handed to `objective(..., step)`, which returns named Terms; their sum is minimised. Learning rate,
batch order and noise are functions of (seed, epoch, step), so a resumed run equals an unbroken one, bit for bit on
the CPU.
"""

from __future__ import annotations

import math
import time
from contextlib import closing, nullcontext

import torch
from torch import Tensor, nn

from vaekit.data.batches import Data
from vaekit.messages import filled
from vaekit.ranks import alike, check_enough_images, greatest, is_first, parts_of_batch, summed
from vaekit.tensors import Term
from vaekit.threads import using
from vaekit.training.checkpoint import RunFolder
from vaekit.training.guard import CHECK_EVERY, ROLLBACKS, TrainingFailed, deferred_signals, enough_memory, find_failure
from vaekit.training.plan import Plan, describe_place, out_of_patience, steps_per_epoch
from vaekit.training.progress import Lines, reporting, roughly
from vaekit.training.state import State
from vaekit.training.step import Objective, Step, rehearse
from vaekit.world import derive_seed, drawing, stream

CHECKPOINT_SECONDS = 60.0  # the longest that a long epoch goes without a checkpoint


def train(
    module: nn.Module,
    objective: Objective,
    data: Data,
    plan: Plan,
    *,
    validation: Data | None = None,
    folder: RunFolder | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    deadline: float | None = None,
    title: str = "training",
    verbose: bool = False,
) -> list[dict]:
    """Trains `module` in place and returns its history: one record per epoch, every term's mean over its images.

    optimizer: that of the training that this one goes on with, from `make_optimizer`; None starts anew.
    deadline: a reading of `time.monotonic`; once it is past, the training ends where it is, after one step at least.
    With a `folder`, it goes on from the newest checkpoint there, appends to its log and checkpoints as it goes.
    When a term or a weight stops being finite, it goes back to the end of the last epoch, or to the checkpoint it began with,
    and on with half the learning rate, at most 3 times; records from then on count these as `rollbacks`. Then it raises
    TrainingFailed, the last checkpoint still being good; and so it does where the device's memory is too small.
    In a process group of torch's, all ranks call this with the same arguments, and the `folder` as `by_first` gives it.
    """
    check_enough_images(min(plan.batch_size, len(data)), plan.accumulate)
    run = _Training(module, objective, data, plan, validation, folder, optimizer, deadline)
    state = run.state
    with (
        stream,
        using(plan.threads),
        reporting(
            title, steps=plan.steps, done=state.step, epochs=run.epochs, verbose=verbose and is_first()
        ) as report,
        deferred_signals(enabled=folder is not None) as stop,
        closing(folder) if folder else nullcontext(),
    ):
        run.begin(report)
        step = Step(module, objective, state.optimizer, plan, data.x.device, run.parts, report.say)
        if step.compiled and state.step < plan.steps:
            report.say("compiling the training step, which takes up to a minute")
        while state.step < plan.steps and not run.over:
            epoch = run.epoch or run.begin_epoch()
            with enough_memory(module, objective, data, plan):
                terms, loss = step(epoch.batches, state.step, state.learning_rate_share)
            state.add(terms, loss, run.share)
            report.step()
            asked, run.late = stop.look(run.past_deadline(), state.step)
            ends = run.ends_epoch()
            if not (ends or asked or state.step % CHECK_EVERY == 0):
                continue
            if run.went_back(list(terms)):
                continue
            if ends:
                run.end_epoch(terms)
            run.keep(terms, ends, at_once=asked)
            stop.obey()
        run.end()
    return state.history


class _Epoch:
    """The rest of an epoch: its batches, in an order of its own, and the clock of its steps."""

    def __init__(self, number: int, batches, seconds_before: float):
        self.number, self.batches = number, batches
        self._before, self.clock = seconds_before, time.perf_counter()

    @property
    def seconds(self) -> float:
        """Of its steps, whole sessions of it that were broken off included."""
        return self._before + time.perf_counter() - self.clock


class _Training:
    """What `train` does between steps: epochs, records, going back, checkpoints."""

    def __init__(self, module, objective, data, plan, validation, folder, optimizer, deadline):
        self.module, self.objective, self.data, self.plan = module, objective, data, plan
        self.validation, self.folder, self.deadline = validation, folder, deadline
        self.batch_size = min(plan.batch_size, len(data))
        self.parts = parts_of_batch(self.batch_size, plan.accumulate)
        self.share = (self.parts[-1].stop - self.parts[0].start) / self.batch_size  # of each batch, that this rank has
        self.per_epoch = steps_per_epoch(len(data), plan.batch_size)
        self.epochs = math.ceil((plan.steps - plan.first) / self.per_epoch)
        self.state = State(module, objective, plan, data.x.device, optimizer)
        self.saved = folder.load_checkpoint() if folder else None
        if self.saved:
            self.state.resume(self.saved)
        if folder:
            folder.write_log(self.state.history)
        self.epoch: _Epoch | None = None
        self.late, self.over = False, out_of_patience(plan, self.state.history)

    def begin(self, report: Lines) -> None:
        """What comes before the first step: a data-dependent start, and word of how long it will take."""
        state, plan, data = self.state, self.plan, self.data
        self.report = report
        if self.saved and state.step < plan.steps:
            report.say(f"Going on from {describe_place(state.step, plan.steps, self.per_epoch)}")
        if state.step == 0:
            with drawing(derive_seed(plan.seed, "prime")):
                _prime(self.module, data, plan)
        left = plan.steps - state.step
        if left and report.verbose and self.deadline is None:  # which is held, whatever a rehearsal says
            with drawing(derive_seed(plan.seed, "rehearsal")):
                seconds = rehearse(self.module, self.objective, data, plan, state.step) * left
            at_most = "at most" if plan.compile else "about"
            report.say(f"{left:,} steps of {self.batch_size}, {at_most} {roughly(seconds)} here")
        alike(state.modules)  # what was drawn or measured here may differ from another machine's by rounding
        self.good = self.saved or state.snapshot()
        self.last_saved, self.checkpoint_cost = time.monotonic(), 0.0
        state.modules.train()

    def begin_epoch(self) -> _Epoch:
        """The epoch that the next step is of, from that step on."""
        state = self.state
        number, place = divmod(state.step - self.plan.first, self.per_epoch)
        order = _order(self.plan.seed, number, len(self.data), self.data.x.device)[: self.per_epoch * self.batch_size]
        state.sums = state.sums if place else None
        batches = self.data.batches(
            [index[part.start : part.stop] for index in order.split(self.batch_size)[place:] for part in self.parts]
        )
        self.epoch = _Epoch(number + 1, batches, state.sums.seconds if state.sums else 0.0)
        return self.epoch

    def past_deadline(self) -> bool:
        """By this rank's clock."""
        return self.deadline is not None and time.monotonic() >= self.deadline

    def ends_epoch(self) -> bool:
        """Whether the step just done was the last of its epoch, or of all."""
        step = self.state.step
        return (step - self.plan.first) % self.per_epoch == 0 or step == self.plan.steps or self.late

    def went_back(self, names: list[str]) -> bool:
        """Whether a number of the terms `names` is no longer finite; the training is then back at the last good state."""
        state = self.state
        failure = find_failure(filled(state.first_bad), names, state.modules, state.step, self.plan)
        if failure is None:
            return False
        if state.rollbacks == ROLLBACKS:
            raise TrainingFailed(f"training stopped, having gone back {ROLLBACKS} times: {failure}")
        state.rollbacks += 1
        state.restore(self.good)
        self.epoch = None
        if self.folder:
            self.folder.write_log(state.history)
        times = f"{state.rollbacks} of {ROLLBACKS} times"
        self.report.say(f"{failure}: back to step {state.step} with the learning rate halved, {times}")
        self.report.at(state.step)
        return True

    def end_epoch(self, terms: dict[str, Term]) -> None:
        """Writes the epoch's record, and takes note of a state to go back to."""
        state, plan = self.state, self.plan
        record = self._record(terms)
        compare = self.validation is not None and state.step >= plan.patience_from
        if self.validation is not None:
            record |= validate(state.modules, self.module, self.objective, self.validation, plan)
        state.close_epoch(record, compare)
        record["seconds_total"] = state.seconds_total
        self.over = self.late or out_of_patience(plan, state.history)
        if self.folder:
            self.folder.append(record)
        self.report.epoch(record)
        self.good = state.snapshot()

    def keep(self, terms: dict[str, Term], ends: bool, *, at_once: bool) -> None:
        """Writes a checkpoint where one is due, or `at_once`; an epoch that `ends` is over."""
        epoch, state = self.epoch, self.state
        assert epoch is not None
        if ends:
            self.epoch = None
        elif state.sums:
            state.sums.seconds = epoch.seconds
        if self.folder is None:
            return
        since = time.monotonic() - self.last_saved
        (due,) = greatest(is_first() and since > (20 * self.checkpoint_cost if ends else CHECKPOINT_SECONDS))
        if not (due or at_once):
            return
        started = time.monotonic()
        tensors, notes = self.good if ends else state.snapshot()
        spent = {"seconds_total": state.seconds_total}
        if not ends:  # the epoch so far, for who looks at the run as it stands
            notes = notes | {"record": self._record(terms) | spent}
        self.folder.save_checkpoint(tensors, notes | spent | {"rollbacks": state.rollbacks})
        self.last_saved = time.monotonic()
        self.checkpoint_cost = self.last_saved - started
        epoch.clock += self.checkpoint_cost  # an epoch's seconds are those of its steps

    def end(self) -> None:
        """After the last step: the best weights where these are kept."""
        state, plan = self.state, self.plan
        if self.late and state.step < plan.steps:
            place = describe_place(state.step, plan.steps, self.per_epoch)
            self.report.say(f"the time budget is over: it ends at {place}")
        if plan.patience is not None and state.best is not None:
            self.module.load_state_dict(state.best.weights)
            self.report.say(f"kept the weights of epoch {state.best.epoch}, the best on held-out data")
        state.modules.eval()

    def _record(self, terms: dict[str, Term]) -> dict:
        """Of the epoch so far: every term's mean, the weights of the terms, what the module measures, and the clock."""
        state, plan, epoch = self.state, self.plan, self.epoch
        assert state.sums is not None and epoch is not None
        state.sums.seconds = epoch.seconds
        means = (summed(state.sums.values) / state.sums.count).tolist()
        record = {"epoch": epoch.number, "step": state.step, "objective": means[-1]}
        record |= dict(zip(terms, means, strict=False))
        record |= {f"{name}_weight": float(term.weight) for name, term in terms.items() if name != "distortion"}
        if measures := getattr(self.module, "measures", None):
            record |= measures()
        record["learning_rate"] = plan.learning_rate_at(state.step - 1) * state.learning_rate_share
        record |= {"rollbacks": state.rollbacks} if state.rollbacks else {}
        record["seconds"] = state.sums.seconds
        record["images_per_second"] = state.sums.count * self.batch_size / max(state.sums.seconds, 1e-9)
        return record


@torch.no_grad()
def validate(state: nn.Module, module: nn.Module, objective: Objective, data: Data, plan: Plan) -> dict[str, float]:
    """Every term's mean over the validation images in eval mode, and their weighted sum, as `validation_...`.

    The weights of the terms are those of the last step, so that the sums of different epochs compare.
    """
    state.eval()
    sums: dict[str, Tensor] = {}
    size = data.at_once(module)
    for start in range(0, len(data), size):
        (part,) = parts_of_batch(min(size, len(data) - start))
        with drawing(derive_seed(plan.seed, "validation"), part):
            x, y = data.batch(slice(start + part.start, start + part.stop))
            terms = objective(module(x, y), plan.steps)
        for name, term in terms.items():
            value = term.value.sum().float()
            sums[name] = sums.get(name, 0.0) + value
            sums["objective"] = sums.get("objective", 0.0) + term.weight * value
    state.train()
    values = summed(torch.stack(list(sums.values()))).tolist()
    return {f"validation_{name}": value / len(data) for name, value in zip(sums, values, strict=True)}


def _prime(module: nn.Module, data: Data, plan: Plan) -> None:
    """Data-dependent initialisation on a few thousand images, for modules that have one."""
    if prime := getattr(module, "prime", None):
        module.train()
        with torch.no_grad():
            prime(*data.batch(_order(plan.seed, 0, len(data), data.x.device)[:2000]))


def _order(seed: int, epoch: int, n: int, device: torch.device) -> Tensor:
    """The permutation of the images in an epoch; drawn on the CPU, so that it is the same on every device."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "order", epoch))
    return torch.randperm(n, generator=generator).to(device)
