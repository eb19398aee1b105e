"""The one training loop. It knows a module, an objective and a data set; it knows no model's name.

`module(x, y)` is handed to `objective(..., step)`, which returns named Terms; their sum is minimised. Learning rate,
batch order and noise are functions of (seed, epoch, step), so a resumed run equals an unbroken one, bit for bit on
the CPU.
"""

from __future__ import annotations

import copy
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vaekit.data.cache import ahead
from vaekit.data.images import Rows
from vaekit.messages import first_line
from vaekit.tensors import total
from vaekit.training.checkpoint import RunFolder, is_record, mismatch
from vaekit.training.compiled import compiled
from vaekit.training.plan import Plan, describe_place
from vaekit.training.progress import describe_seconds, reporting
from vaekit.world import autocast, derive_seed, drawing, samples_at_once, seeded, stream

CHECK_EVERY = 50  # steps between looks at the device: non-finite terms, the clock, a request to stop
CHECKPOINT_SECONDS = 60.0  # the longest that a long epoch goes without a checkpoint
REHEARSAL_STEPS, REHEARSAL_SECONDS = 4, 2.0  # fewer steps where they take longer
ROLLBACKS = 3  # times that a training goes back, with half the learning rate, before it gives up


class TrainingFailed(RuntimeError):
    """Training stopped on a non-finite number, or for want of memory; the message says where, and what to try."""


class Mapped:
    """Memory-mapped images (N, H, W, C) for `Data`: what is asked for is read from the file and taken to the device."""

    def __init__(self, rows: np.ndarray | Rows, device: torch.device):
        self.rows, self.device, self.shape = rows, device, rows.shape

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Tensor | slice | int) -> Tensor:
        return torch.tensor(self.rows[index.cpu().numpy() if isinstance(index, Tensor) else index], device=self.device)


@dataclass(frozen=True)
class Data:
    """A data set on the device: x (N, H, W, C) uint8 or float, y (N,) int64 or None; or x in a file, from which batches are
    taken to the device. dynamic: pixels are probabilities of white, and drawn anew whenever they are looked at. log_det: (N,)
    float64 on the CPU, nats that a density loses where x stands for values in other units, such as a table's.
    """

    x: Tensor | Mapped
    y: Tensor | None = None
    dynamic: bool = field(default=False, kw_only=True)
    log_det: Tensor | None = field(default=None, kw_only=True)

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, index: Tensor | slice) -> tuple[Tensor, Tensor | None]:
        """Images (B, C, H, W) as floats in [0, 1] and their labels (B,)."""
        return self._finished(self.x[index], index)

    def at_once(self, module: nn.Module) -> int:
        """How many of them go through `module`, in eval mode, together; see `samples_at_once`."""
        with seeded(0):
            return samples_at_once(module, *self.batch(slice(0, 1)))

    def batches(self, indices: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor | None]]:
        """`batch` of each of `indices`; images in a file are read a few batches ahead, by a thread of their own."""
        if not isinstance(self.x, Mapped):
            yield from map(self.batch, indices)
            return
        read = ahead(self.x.__getitem__, indices, workers=1, depth=4)
        for x, index in zip(read, indices, strict=True):
            yield self._finished(x, index)

    def _finished(self, x: Tensor, index: Tensor | slice) -> tuple[Tensor, Tensor | None]:
        x = to_input(x)
        return torch.bernoulli(x) if self.dynamic else x, None if self.y is None else self.y[index]


def to_input(x: Tensor) -> Tensor:
    """(B, H, W, C) stored images -> (B, C, H, W) floats; 8-bit values are scaled to [0, 1]. No copy but the scaling."""
    x = x.permute(0, 3, 1, 2)
    return x.float().div_(255) if x.dtype == torch.uint8 else x


Objective = Callable[[Any, int], dict]


def train(
    module: nn.Module,
    objective: Objective,
    data: Data,
    plan: Plan,
    *,
    validation: Data | None = None,
    folder: RunFolder | None = None,
    adam: torch.optim.Adam | None = None,
    deadline: float | None = None,
    title: str = "training",
    verbose: bool = False,
) -> list[dict]:
    """Trains `module` in place and returns its history: one record per epoch, every term's mean over its images.

    adam: the optimizer of the training that this one goes on with, from `make_optimizer`; None starts anew.
    deadline: a reading of `time.monotonic`; once it is past, the training ends where it is, after one step at least.
    With a `folder`, it goes on from the newest checkpoint there, appends to its log and checkpoints as it goes.
    When a term or a weight stops being finite, it goes back to the end of the last epoch, or to the checkpoint it began with,
    and on with half the learning rate, at most 3 times; records from then on count these as `rollbacks`. Then it raises
    TrainingFailed, the last checkpoint still being good; and so it does where the device's memory is too small.
    """
    device = data.x.device
    batch_size = min(plan.batch_size, len(data))
    per_epoch = max(1, len(data) // batch_size)
    epochs = math.ceil((plan.steps - plan.first) / per_epoch)
    state = nn.ModuleDict({"model": module})
    if isinstance(objective, nn.Module):
        state["objective"] = objective.to(device)
    optimizer = adam or make_optimizer(state, plan)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    step, sums, bad, best, history, rollbacks = plan.first, None, None, None, [], 0
    before, clock = 0.0, time.perf_counter()  # seconds of the sessions before this one, and when this one began
    saved = folder.load_checkpoint() if folder else None
    if saved:
        try:
            step, sums, best, history = _restore(saved, state, optimizer, device)
            before, rollbacks = saved[1]["seconds_total"], saved[1].get("rollbacks", 0)
            check_notes({"rollbacks": 0, **saved[1]}, plan)
        except (LookupError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"the checkpoint is of another model, or damaged ({first_line(error)}); start again in a new folder"
            ) from None
    if folder:
        folder.write_log(history)
    with (
        stream,
        reporting(title, steps=plan.steps, done=step, epochs=epochs, verbose=verbose) as report,
        _deferred_signals(enabled=folder is not None) as stop,
        closing(folder) if folder else nullcontext(),
    ):
        if saved and step < plan.steps:
            report.say(f"Going on from {describe_place(step, plan.steps, per_epoch)}")
        if step == 0:
            with drawing(derive_seed(plan.seed, "prime")):
                _prime(module, data, plan)
        if step < plan.steps and verbose and deadline is None:  # which is held, whatever a rehearsal says
            with drawing(derive_seed(plan.seed, "rehearsal")):
                seconds = rehearse(module, objective, data, plan) * (plan.steps - step)
            report.say(f"{plan.steps - step} steps of {batch_size} to go, about {describe_seconds(seconds)}")
        good = saved or _snapshot(state, optimizer, step, sums, best, history)
        last_saved, checkpoint_cost, epoch_clock = time.monotonic(), 0.0, time.perf_counter()
        state.train()
        forward = compiled(module, report.say) if plan.compile and device.type in ("cpu", "cuda") else module
        if forward is not module and step < plan.steps:
            report.say("compiling the training step, which takes up to a minute")
        late, over = False, out_of_patience(plan, history)
        while step < plan.steps and not over:
            epoch, place = divmod(step - plan.first, per_epoch)
            if place == 0 or sums is None or saved:
                order = _order(plan.seed, epoch, len(data), device)[: per_epoch * batch_size]
                batches = data.batches(order.split(batch_size)[place:])
                sums = sums if place else None
                saved = None
                seconds_before = sums["seconds"] if sums else 0.0
                epoch_clock = time.perf_counter()
            try:
                with drawing(derive_seed(plan.seed, "noise", step)), autocast(device, plan.precision):
                    x, y = next(batches)
                    terms = objective(forward(x, y), step)
                loss = total(terms)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                if plan.gradient_clip is not None:
                    nn.utils.clip_grad_norm_(parameters, plan.gradient_clip)
                for group in optimizer.param_groups:
                    group["lr"] = plan.learning_rate_at(step) * 0.5**rollbacks
                optimizer.step()
            except torch.OutOfMemoryError:
                raise TrainingFailed(_too_large(module, objective, data, plan)) from None

            # Everything below stays on the device until a look is due.
            values = torch.stack([term.value.detach().mean().float() for term in terms.values()] + [loss.detach()])
            if sums is None or sums["values"].shape != values.shape:
                sums = {"values": torch.zeros_like(values), "count": 0, "seconds": 0.0}
            sums["values"] += values
            sums["count"] += 1
            first_bad = torch.where(values.isfinite(), -1, step)
            bad = first_bad if bad is None else torch.where(bad >= 0, bad, first_bad)
            step += 1
            report.step()

            late = deadline is not None and time.monotonic() >= deadline
            end_of_epoch = (step - plan.first) % per_epoch == 0 or step == plan.steps or late
            if not (end_of_epoch or stop.requested or step % CHECK_EVERY == 0):
                continue
            if failure := _find_failure(bad, list(terms), state, step, plan):
                if rollbacks == ROLLBACKS:
                    raise TrainingFailed(f"training stopped, having gone back {ROLLBACKS} times: {failure}")
                rollbacks += 1
                step, sums, best, history = _restore(good, state, optimizer, device)
                saved, bad = good, None
                if folder:
                    folder.write_log(history)
                report.say(
                    f"{failure}: back to step {step} with the learning rate halved, {rollbacks} of {ROLLBACKS} times"
                )
                report.at(step)
                continue
            sums["seconds"] = seconds_before + time.perf_counter() - epoch_clock
            if end_of_epoch:
                record = _record(epoch + 1, step, terms, sums, batch_size, plan, module, rollbacks)
                sums = None
                if validation is not None:
                    record |= validate(state, module, objective, validation, plan)
                    if step >= plan.patience_from:
                        best = _better(best, record, module)
                record["seconds_total"] = before + time.perf_counter() - clock
                history.append(record)
                over = late or out_of_patience(plan, history)
                if folder:
                    folder.append(record)
                report.epoch(record)
                good = _snapshot(state, optimizer, step, sums, best, history)
            since = time.monotonic() - last_saved
            due = since > (20 * checkpoint_cost if end_of_epoch else CHECKPOINT_SECONDS)
            if folder and (due or stop.requested):
                started = time.monotonic()
                tensors, notes = good if end_of_epoch else _snapshot(state, optimizer, step, sums, best, history)
                spent = {"seconds_total": before + time.perf_counter() - clock}
                if sums:  # the epoch so far, for who looks at the run as it stands
                    record = _record(epoch + 1, step, terms, sums, batch_size, plan, module, rollbacks) | spent
                    notes = notes | {"record": record}
                folder.save_checkpoint(tensors, notes | spent | {"rollbacks": rollbacks})
                last_saved = time.monotonic()
                checkpoint_cost = last_saved - started
                epoch_clock += checkpoint_cost  # an epoch's seconds are those of its steps
            stop.obey()
        if late and step < plan.steps:
            report.say(f"the time budget is over: it ends at {describe_place(step, plan.steps, per_epoch)}")
        if plan.patience is not None and best is not None:
            module.load_state_dict(best["weights"])
            report.say(f"kept the weights of epoch {best['epoch']}, the best on held-out data")
    state.eval()
    return history


def make_optimizer(module: nn.Module, plan: Plan) -> torch.optim.Adam:
    """Adam over the trainable parameters of `module`."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    device = parameters[0].device
    return torch.optim.Adam(parameters, lr=plan.learning_rate, betas=plan.betas, fused=device.type != "mps")


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


def affordable(module: nn.Module, objective: Objective, data: Data, plan: Plan, deadline: float) -> int:
    """Steps that can be done before `deadline`, a reading of `time.monotonic`, by a rehearsal; one at least. A tenth of the
    time is kept for what is no step.
    """
    seconds = rehearse(module, objective, data, plan)
    return max(1, int(0.9 * (deadline - time.monotonic()) / seconds))


def rehearse(module: nn.Module, objective: Objective, data: Data, plan: Plan) -> float:
    """Seconds per step, from a few steps on a copy that is thrown away; the module itself is left as it was."""
    module, objective = copy.deepcopy(module).train(), copy.deepcopy(objective)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.0)
    batch_size, times = min(plan.batch_size, len(data)), []
    for _ in range(REHEARSAL_STEPS):
        started = time.perf_counter()
        x, y = data.batch(torch.randint(len(data), (batch_size,), device=data.x.device))
        with autocast(data.x.device, plan.precision):
            loss = total(objective(module(x, y), 0))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        loss.item()
        times.append(time.perf_counter() - started)
        if sum(times) > REHEARSAL_SECONDS:
            break
    return sorted(times)[len(times) // 2]


@torch.no_grad()
def validate(state: nn.Module, module: nn.Module, objective: Objective, data: Data, plan: Plan) -> dict[str, float]:
    """Every term's mean over the validation images in eval mode, and their weighted sum, as `validation_...`.

    The weights of the terms are those of the last step, so that the sums of different epochs compare.
    """
    state.eval()
    sums: dict[str, Tensor] = {}
    size = data.at_once(module)
    for start in range(0, len(data), size):
        with drawing(derive_seed(plan.seed, "validation")):
            x, y = data.batch(slice(start, start + size))
            terms = objective(module(x, y), plan.steps)
        for name, term in terms.items():
            value = term.value.sum().float()
            sums[name] = sums.get(name, 0.0) + value
            sums["objective"] = sums.get("objective", 0.0) + term.weight * value
    state.train()
    return {f"validation_{name}": float(value) / len(data) for name, value in sums.items()}


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


def _record(
    epoch: int, step: int, terms: dict, sums: dict, batch_size: int, plan: Plan, module: nn.Module, rollbacks: int
) -> dict:
    means = (sums["values"] / sums["count"]).tolist()
    record = {"epoch": epoch, "step": step, "objective": means[-1]}
    record |= dict(zip(terms, means, strict=False))
    record |= {f"{name}_weight": float(term.weight) for name, term in terms.items() if name != "distortion"}
    if measures := getattr(module, "measures", None):
        record |= measures()
    record["learning_rate"] = plan.learning_rate_at(step - 1) * 0.5**rollbacks
    record |= {"rollbacks": rollbacks} if rollbacks else {}
    record["seconds"] = sums["seconds"]
    record["images_per_second"] = sums["count"] * batch_size / max(sums["seconds"], 1e-9)
    return record


def _find_failure(bad: Tensor, names: list[str], state: nn.Module, step: int, plan: Plan) -> str | None:
    """What is no longer finite, since when and what to try; None where all is well. A gradient can be non-finite where every
    term is finite; it then shows in the weights, before they are saved.
    """
    steps = dict(zip([*names, "objective"], bad.tolist(), strict=True))
    failed = {name: first for name, first in steps.items() if first >= 0}
    if failed:
        first = min(failed.values())
        culprits, when = ", ".join(name for name, place in failed.items() if place == first), f"at step {first}"
    elif not torch.stack([value.isfinite().all() for value in state.state_dict().values()]).all():
        first, culprits, when = step - 1, "the weights", f"within {CHECK_EVERY} steps before step {step}"
    else:
        return None
    return (
        f"{culprits} became non-finite {when}. Try a lower learning rate (it was {plan.learning_rate_at(first):.2g}; try "
        f"{plan.learning_rate / 3:.2g}) or a gradient clip (--gradient-clip 100)"
        f"{', or precision float32' if plan.precision != 'float32' else ''}"
    )


def _too_large(module: nn.Module, objective: Objective, data: Data, plan: Plan) -> str:
    """What to say when a step doesn't fit into the device's memory: the largest half, quarter, ... of the batch that does."""
    size = min(plan.batch_size, len(data)) // 2
    while size:
        try:
            rehearse(module, objective, data, replace(plan, batch_size=size))
        except torch.OutOfMemoryError:
            size //= 2
        else:
            return f"training stopped: a batch of {plan.batch_size} does not fit into memory; --batch-size {size} does"
    return "training stopped: not even a batch of one fits into memory; choose a smaller model or smaller images"


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


def _better(best: dict | None, record: dict, module: nn.Module) -> dict:
    """The best epoch by validation objective so far, with a copy of its weights."""
    value = record["validation_objective"]
    if best is not None and not value < best["value"]:
        return best
    weights = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    return {"epoch": record["epoch"], "value": value, "weights": weights}


def _snapshot(
    state, optimizer, step: int, sums: dict | None, best: dict | None, history: list[dict]
) -> tuple[dict, dict]:
    """All that a training is made of at `step`, as tensors that later steps leave alone, and JSON-able notes."""
    tensors = {f"state.{name}": tensor.detach().clone() for name, tensor in state.state_dict().items()}
    for index, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value).clone() for name, value in slots.items()}
    notes = {"step": step, "history": list(history)}
    if sums:
        tensors["sums"] = sums["values"].clone()
        notes |= {"count": sums["count"], "seconds": sums["seconds"]}
    if best:
        tensors |= {f"best.{name}": tensor for name, tensor in best["weights"].items()}
        notes |= {"best_epoch": best["epoch"], "best_value": best["value"]}
    return tensors, notes


def _restore(saved, state, optimizer, device) -> tuple[int, dict | None, dict | None, list[dict]]:
    tensors, notes = saved

    def part(prefix: str) -> dict[str, Tensor]:
        return {name[len(prefix) :]: t.to(device) for name, t in tensors.items() if name.startswith(prefix)}

    state.load_state_dict(part("state."))
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    slots: dict[int, dict[str, Tensor]] = {}
    for name, tensor in part("optimizer.").items():
        index, slot = int(name.split(".", 1)[0]), name.split(".", 1)[1]
        # A file holds plain rows; the fused step wants moments laid out in memory as their parameter is.
        shaped = tensor.shape == parameters[index].shape
        slots.setdefault(index, {})[slot] = (
            torch.empty_like(parameters[index]).copy_(tensor) if shaped else tensor.clone()
        )
    for index, found in slots.items():
        shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
        moment = tuple(parameters[index].shape)
        if shapes != {"step": (), "exp_avg": moment, "exp_avg_sq": moment}:
            raise ValueError(f"the optimizer's state of parameter {index} does not fit")
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    sums = best = None
    if "sums" in tensors:
        sums = {"values": tensors["sums"].to(device, copy=True), "count": notes["count"], "seconds": notes["seconds"]}
    if "best_epoch" in notes:
        best = {"epoch": notes["best_epoch"], "value": notes["best_value"], "weights": part("best.")}
        if difference := mismatch(best["weights"], state["model"]):
            raise ValueError(f"the best weights do not fit: {difference}")
    return notes["step"], sums, best, list(notes["history"])


def history_so_far(notes: dict) -> list[dict]:
    """The records in a checkpoint's notes, that of an epoch which was not over then among them."""
    return [*notes["history"], *([notes["record"]] if "record" in notes else [])]


def check_notes(notes: dict, plan: Plan) -> None:
    """Raises ValueError where the notes of a checkpoint are not those of a training by `plan`."""
    numbers = {"step": (int,), "rollbacks": (int,), "seconds_total": (int, float)}
    numbers |= {"count": (int,), "seconds": (int, float)} if "count" in notes else {}
    numbers |= {"best_epoch": (int,), "best_value": (int, float)} if "best_epoch" in notes else {}
    for name, kinds in numbers.items():
        if type(notes[name]) not in kinds:
            raise ValueError(f"{name} is {notes[name]!r:.40}")
    if not plan.first <= notes["step"] <= plan.steps or not 0 <= notes["rollbacks"] <= ROLLBACKS:
        raise ValueError(f"step {notes['step']} of {plan.steps}, {notes['rollbacks']} times gone back")
    if not all(map(is_record, history_so_far(notes))) or (notes["step"] == plan.steps and not notes["history"]):
        raise ValueError("its history is none")


class _Stop:
    """Whether a signal asked for an end, and the exception that then follows."""

    def __init__(self):
        self.signal: int | None = None

    @property
    def requested(self) -> bool:
        return self.signal is not None

    def obey(self) -> None:
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self.signal is not None:
            raise SystemExit(128 + self.signal)


@contextmanager
def _deferred_signals(*, enabled: bool) -> Iterator[_Stop]:
    """Holds Ctrl-C and SIGTERM until a step is whole, so that the checkpoint they cause is one that can be resumed."""
    stop = _Stop()
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
    stop.obey()  # what was asked for after the last step
