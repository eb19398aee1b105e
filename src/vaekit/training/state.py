"""All that a training is made of between two steps: what a checkpoint holds, and what a failure goes back to."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vaekit.messages import first_line
from vaekit.ranks import NEVER, is_first, summed
from vaekit.tensors import Term
from vaekit.training.checkpoint import is_record
from vaekit.training.guard import ROLLBACKS
from vaekit.training.optimizers import ADAM_KEEPS, make_optimizer
from vaekit.training.plan import Plan
from vaekit.training.rebuilt import mismatch
from vaekit.training.step import Objective


@dataclass
class Sums:
    """Of an epoch so far: of each term's batch means and of the loss (n + 1,), over `count` batches that took `seconds`. Ranks
    have a part of `values` each, which add up.
    """

    values: Tensor
    count: int = 0
    seconds: float = 0.0


class Best(NamedTuple):
    """The best epoch by validation objective so far, with a copy of its weights."""

    epoch: int
    value: float
    weights: dict[str, Tensor]


class State:
    """A training at `step`: the modules that learn, their optimizer, the sums of the epoch, the records of those before it, and
    how often it has gone back (`rollbacks`).
    """

    def __init__(
        self,
        module: nn.Module,
        objective: Objective,
        plan: Plan,
        device: torch.device,
        optimizer: torch.optim.Optimizer | None,
    ):
        self.module, self.plan, self.device = module, plan, device
        self.modules = nn.ModuleDict({"model": module})
        if isinstance(objective, nn.Module):
            self.modules["objective"] = objective.to(device)
        self.optimizer = optimizer or make_optimizer(self.modules, plan)
        self.step, self.rollbacks = plan.first, 0
        self.sums: Sums | None = None
        self.best: Best | None = None
        self.history: list[dict] = []
        self.first_bad: Tensor | None = None  # steps at which terms and loss were first not finite, on the device
        self._before, self._clock = 0.0, time.perf_counter()  # seconds of earlier sessions, and when this one began

    @property
    def seconds_total(self) -> float:
        """Of all sessions."""
        return self._before + time.perf_counter() - self._clock

    @property
    def learning_rate_share(self) -> float:
        """Of the plan's learning rate: it is halved each time that the training goes back."""
        return 0.5**self.rollbacks

    def add(self, terms: dict[str, Term], loss: Tensor, share: float) -> None:
        """Takes in what a step came to on this rank, for a `share` of the batch; nothing leaves the device."""
        values = torch.stack([term.value.detach().mean().float() for term in terms.values()] + [loss.float()])
        values = values if share == 1 else values * share
        if self.sums is None or self.sums.values.shape != values.shape:
            self.sums = Sums(torch.zeros_like(values))
        self.sums.values += values
        self.sums.count += 1
        first = torch.where(values.isfinite(), NEVER, self.step)
        self.first_bad = first if self.first_bad is None else torch.minimum(self.first_bad, first)
        self.step += 1

    def close_epoch(self, record: dict, compare: bool) -> None:
        """The epoch is over, and `record` what it came to. compare: whether its validation objective counts."""
        if compare and (self.best is None or record["validation_objective"] < self.best.value):
            weights = {name: tensor.detach().clone() for name, tensor in self.module.state_dict().items()}
            self.best = Best(record["epoch"], record["validation_objective"], weights)
        self.sums = None
        self.history.append(record)

    def snapshot(self) -> tuple[dict[str, Tensor], dict]:
        """All of it, as tensors that later steps leave alone, and JSON-able notes."""
        tensors = {f"state.{name}": tensor.detach().clone() for name, tensor in self.modules.state_dict().items()}
        for index, slots in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value).clone() for name, value in slots.items()}
        notes = {"step": self.step, "history": list(self.history)}
        if self.sums:
            tensors["sums"] = summed(self.sums.values).clone()
            notes |= {"count": self.sums.count, "seconds": self.sums.seconds}
        if self.best:
            tensors |= {f"best.{name}": tensor for name, tensor in self.best.weights.items()}
            notes |= {"best_epoch": self.best.epoch, "best_value": self.best.value}
        return tensors, notes

    def restore(self, saved: tuple[dict[str, Tensor], dict]) -> None:
        """Becomes what `snapshot` gave, but for the rollbacks."""
        tensors, notes = saved
        self.modules.load_state_dict(self._part(tensors, "state."))
        self._restore_optimizer(self._part(tensors, "optimizer."))
        self.sums = self.best = self.first_bad = None
        if "sums" in tensors:
            values = tensors["sums"].to(self.device, copy=True)
            self.sums = Sums(values if is_first() else values.zero_(), notes["count"], notes["seconds"])
        if "best_epoch" in notes:
            self.best = Best(notes["best_epoch"], notes["best_value"], self._part(tensors, "best."))
            if difference := mismatch(self.best.weights, self.module):
                raise ValueError(f"the best weights do not fit: {difference}")
        self.step, self.history = notes["step"], list(notes["history"])

    def resume(self, saved: tuple[dict[str, Tensor], dict]) -> None:
        """Becomes the training in a checkpoint. Raises ValueError for one that is not of it."""
        try:
            self.restore(saved)
            notes = {"rollbacks": 0, **saved[1]}
            self._before, self.rollbacks = notes["seconds_total"], notes["rollbacks"]
            check_notes(notes, self.plan)
        except (LookupError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"the checkpoint is of another model, or damaged ({first_line(error)}); start again in a new folder"
            ) from None

    def _part(self, tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
        return {name[len(prefix) :]: t.to(self.device) for name, t in tensors.items() if name.startswith(prefix)}

    def _restore_optimizer(self, tensors: dict[str, Tensor]) -> None:
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        slots: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            index, slot = int(name.split(".", 1)[0]), name.split(".", 1)[1]
            # A file holds plain rows; the fused step wants moments laid out in memory as their parameter is.
            shaped = tensor.shape == parameters[index].shape
            slots.setdefault(index, {})[slot] = (
                torch.empty_like(parameters[index]).copy_(tensor) if shaped else tensor.clone()
            )
        keeps = [group.get("keeps", ADAM_KEEPS) for group in self.optimizer.param_groups for _ in group["params"]]
        for index, found in slots.items():
            shapes = {name: tensor.shape for name, tensor in found.items()}
            if shapes != {name: () if name == "step" else parameters[index].shape for name in keeps[index]}:
                raise ValueError(f"the optimizer's state of parameter {index} does not fit")
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": slots, "param_groups": groups})


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
