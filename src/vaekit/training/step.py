"""One step of the optimizer, and how long it takes: what compiling stands around."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from vaekit.data.batches import Data
from vaekit.ranks import Part, add_up, apart, size
from vaekit.tensors import Term, total
from vaekit.threads import choices, fastest, using
from vaekit.training.compiled import compiled
from vaekit.training.optimizers import gains_by_half, make_optimizer
from vaekit.training.plan import Plan
from vaekit.world import autocast, derive_seed, drawing

REHEARSAL_STEPS, REHEARSAL_SECONDS = 4, 2.0  # fewer steps where they take longer

Objective = Callable[[Any, int], dict[str, Term]]


class Step:
    """`module(x, y)` of a batch, the terms that `objective` makes of it, and a step of `optimizer` down their sum.

    Its noise is a function of the plan's seed and the step. The batch is that of all ranks, and may be looked at in several
    rounds; `parts` are this rank's of it. say: is told where the step can't be compiled.
    """

    def __init__(
        self,
        module: nn.Module,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        plan: Plan,
        device: torch.device,
        parts: list[Part],
        say: Callable[[str], None],
    ):
        self.module, self.objective, self.optimizer, self.plan, self.device = module, objective, optimizer, plan, device
        self.parts = parts
        crosses = size() > 1 and any(getattr(part, "asks_ranks", False) for part in module.modules())
        # A compiled pass takes module and part for what they are at the first call, and so would every round.
        self.compiled = plan.compile and device.type in ("cpu", "cuda") and not crosses and len(parts) == 1
        self.forward = compiled(module, say) if self.compiled else module
        self.parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def __call__(
        self, batches: Iterator[tuple[Tensor, Tensor | None]], step: int, share: float
    ) -> tuple[dict[str, Term], Tensor]:
        """The next of `batches`, one for each of the parts, at `step`, by a `share` of the learning rate -> the terms of this
        rank's images, and the mean loss of these, which are no longer needed for a gradient.
        """
        plan, found, losses, asked = self.plan, [], [], draws_at(self.objective, step)
        for part in self.parts:
            with drawing(derive_seed(plan.seed, "noise", step), part), autocast(self.device, plan.precision):
                x, y = next(batches)
                terms = self.objective(self.forward(x, y, *asked), step)
            loss = total(terms)
            if part is self.parts[0]:
                self.optimizer.zero_grad(set_to_none=True)
            (loss if part.is_whole else part.share * loss).backward()
            found.append(terms)
            losses.append(loss.detach())
        self._settle()
        if plan.gradient_clip is not None:
            nn.utils.clip_grad_norm_(self.parameters, plan.gradient_clip)
        for group in self.optimizer.param_groups:
            group["lr"] = plan.learning_rate_at(step) * share
        self.optimizer.step()
        return _of_all(found, losses)

    def _settle(self) -> None:
        """What the parts of a batch come to, on all ranks: gradients, and what module and objective have seen."""
        learners: list[Any] = [learner for learner in (self.module, self.objective) if hasattr(learner, "settle")]
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        add_up(gradients + [tensor for learner in learners for tensor in learner.unsettled()])
        for learner in learners:
            learner.settle()


def draws_at(objective: Any, step: int) -> tuple[int, ...]:
    """What the module is called with at `step` beside a batch: the draws, where `objective` says how many."""
    draws = objective.draws(step) if hasattr(objective, "draws") else None
    return () if draws is None else (draws,)


def _of_all(found: list[dict[str, Term]], losses: list[Tensor]) -> tuple[dict[str, Term], Tensor]:
    """The terms of several rounds as one's, and the mean of their losses."""
    if len(found) == 1:
        return found[0], losses[0]
    terms = {
        name: term._replace(value=torch.cat([terms[name].value.detach() for terms in found]))
        for name, term in found[-1].items()
    }
    counts = losses[0].new_tensor([len(next(iter(terms.values())).value) for terms in found])
    return terms, (torch.stack(losses) * counts).sum() / counts.sum()


def affordable(module: nn.Module, objective: Objective, data: Data, plan: Plan, deadline: float, since: int = 0) -> int:
    """Steps from the step `since` on that can be done before `deadline`, a reading of `time.monotonic`, by a rehearsal; one at
    least. A tenth of the time is kept for what is no step.
    """
    seconds = rehearse(module, objective, data, plan, since)
    return max(1, int(0.9 * (deadline - time.monotonic()) / seconds))


def estimate(module: nn.Module, objective: Objective, data: Data, plan: Plan) -> float:
    """Seconds that a training by `plan` takes here and now, on the threads that it would take, by a few steps that are thrown
    away; about so many, and at most where it is compiled.
    """
    plan = replace(plan, half=gains_by_half(plan, data.x.device))
    with using(pick_threads(module, objective, data, plan)):
        return rehearse(module, objective, data, plan, plan.first) * (plan.steps - plan.first)


def rehearse(module: nn.Module, objective: Objective, data: Data, plan: Plan, since: int = 0) -> float:
    """Seconds per step, the mean of those from the step `since` on, from a few of `trial_step`."""
    left = plan.steps - since
    early = max(0, min(getattr(objective, "elbo_steps", 0) - since, left))
    seconds = _seconds(trial_step(module, objective, data, plan, at=plan.steps))
    if not early:
        return seconds
    return seconds + early / left * (_seconds(trial_step(module, objective, data, plan, at=since)) - seconds)


def _seconds(step: Callable[[], None]) -> float:
    times = []
    for _ in range(REHEARSAL_STEPS):
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
        if sum(times) > REHEARSAL_SECONDS:
            break
    return sorted(times)[len(times) // 2]


def pick_threads(module: nn.Module, objective: Objective, data: Data, plan: Plan) -> int | None:
    """The plan's threads: those that a few steps are fastest on, where the processor does a training that takes long. None is
    those that there are; so it is where ranks share the machine.
    """
    if data.x.device.type != "cpu" or size() > 1 or len(choices()) == 1:
        return None
    return fastest(trial_step(module, objective, data, plan), plan.steps - plan.first)


def trial_step(module: nn.Module, objective: Objective, data: Data, plan: Plan, *, at: int = 0) -> Callable[[], None]:
    """A step of a copy that is thrown away, as the one `at` this number, on as many images as this rank has of a batch; the
    module is left as it was.
    """
    module, objective = copy.deepcopy(module).train(), copy.deepcopy(objective)
    optimizer = make_optimizer(module, replace(plan, learning_rate=0.0))
    batch_size = math.ceil(min(plan.batch_size, len(data)) / (plan.accumulate * size()))

    def step() -> None:
        with apart():
            optimizer.zero_grad(set_to_none=True)
            for _ in range(plan.accumulate):
                x, y = data.batch(torch.randint(len(data), (batch_size,), device=data.x.device))
                with autocast(data.x.device, plan.precision):
                    loss = total(objective(module(x, y, *draws_at(objective, at)), at))
                loss.backward()
            optimizer.step()
            loss.item()

    return step
