"""From an estimator's fields and its data to a `Fitted`: at once, in a run folder that is gone on with, or by one more pass."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import asdict, replace

import numpy as np
import torch
from torch import Tensor, nn

from vaekit import __version__
from vaekit.data.augment import read_augment
from vaekit.data.doubts import warn_of, warn_of_greys
from vaekit.data.format import Format
from vaekit.data.images import Images
from vaekit.data.splits import held_out
from vaekit.estimators.resuming import check_resumable, find_goal, recorded_plan, same_fields
from vaekit.fitted import Fitted
from vaekit.messages import filled, first_line
from vaekit.parts.likelihoods import make_likelihood
from vaekit.ranks import check_alike, check_enough_images, from_first, size
from vaekit.recorded import Record, config_of, facts_of, read_facts
from vaekit.state import warn
from vaekit.training.checkpoint import RunFolder, objective_state
from vaekit.training.compiled import pays
from vaekit.training.course import Course
from vaekit.training.optimizers import make_optimizer
from vaekit.training.plan import (
    Plan,
    best_epoch,
    describe_place,
    out_of_patience,
    read_plan,
    start_clock,
    steps_per_epoch,
)
from vaekit.training.rebuilt import check_finite, rebuilt
from vaekit.training.state import check_notes, history_so_far
from vaekit.training.step import Objective
from vaekit.world import check_random_state, derive_seed, pick_device


class Fitting:
    """One training of an `estimator` on `images`, as they were `given`, in the folder `run` or none: see
    `Estimator.fit_images`.

    recorded: run.json of the run that is gone on with, None of a new one. is_done: nothing is to be done about that.
    """

    def __init__(
        self,
        estimator,
        images: Images,
        given,
        seed: int,
        *,
        validation: Images | None = None,
        run: RunFolder | None = None,
        resume: bool = False,
        same_epochs: bool = False,
        time_budget: float | None = None,
    ):
        self.estimator, self.run = estimator, run
        check_alike(_common(estimator, images, validation))
        self.recorded = check_resumable(estimator, run, images, resume) if run and run.started else None
        self.seed = self.recorded["seed"] if self.recorded else seed
        self.format = Format.of(images, given, scaling=estimator.scaling, conditional=estimator.conditional)
        self.images, self.validation = images, validation
        if estimator.early_stopping and validation is None:
            # A conditional model has to see every class.
            how = {"seed": derive_seed(self.seed, "validation"), "by_class": estimator.conditional}
            self.images, self.validation = held_out(images, estimator.validation_fraction, **how)
        self.resolved = from_first(lambda: estimator.resolve(self.format, len(self.images)))
        self.is_done = False
        check_enough_images(min(filled(self.filled_in.batch_size), len(self.images)), estimator.accumulate)
        if run and self.recorded:
            self.resolved = same_fields(estimator, self.resolved, run, self.recorded, self.images, same_epochs)
            with run.locked():
                run.tidy()
            free = time_budget is None and not same_epochs
            self.at, self.goal = find_goal(estimator, run, self.recorded, self.per_epoch, free=free)
            self.is_done = run.finished and self.goal == self.at
        self.time_budget = time_budget

    @property
    def filled_in(self):
        """The estimator, its fields filled in."""
        return self.estimator.filled_in(self.resolved)

    @property
    def per_epoch(self) -> int:
        """Steps in an epoch."""
        return steps_per_epoch(len(self.images), self.filled_in.batch_size)

    def train(self) -> Fitted:
        """Trains, and writes what it came to into the folder."""
        estimator, run, name = self.estimator, self.run, type(self.estimator).__name__
        device = pick_device(estimator.device)
        data = self.format.data(self.images, device, name, augment=read_augment(estimator.augment))
        held = None if self.validation is None else self.format.data(self.validation, device, name)
        likelihood = filled(self.filled_in.likelihood)
        warn_of(self.images, likelihood, binary=make_likelihood(likelihood).binary, scaling=estimator.scaling)
        self.opened = self.images.opened()
        self.module = self.filled_in.make_module(self.format, self.seed).to(device)
        self.course = Course(
            module=self.module,
            data=data,
            make=self._make,
            seed=self.seed,
            compiles=lambda steps: pays(self.filled_in.architecture, steps),
            validation=held,
            folder=run,
            deadline=start_clock(self.time_budget),
            title=f"{name} seed {self.seed}",
            verbose=estimator.verbose,
        )
        with run.locked() if run else nullcontext():
            if run and self.recorded:
                self._go_on(run, self.recorded)
            elif run and run.started:
                raise ValueError(f"{run.path} was begun by another process meanwhile; choose another folder")
            else:
                self._begin()
            self._warn_of_first_epochs()
            history = self.course.run()
            done, plan = history[-1]["step"], filled(self.course.plan)
            whole = done == filled(self.filled_in.epochs) * self.per_epoch
            because = "plan" if whole else "patience" if out_of_patience(plan, history) else "budget"
            self.facts["ended"] = {"step": done, "because": because}
            state = objective_state(_state(self.course.objective))
            fitted = Fitted(self.module, self.format, replace(self._record(), history=history, objective=state))
            if run:
                run.start(fitted.config())
                run.finish(self.module.state_dict(), state)
        return fitted

    def _make(self, steps: int) -> tuple[Objective, Plan]:
        """Objective and plan of so many steps; of others than the epochs', with the fields that this changes."""
        if steps != filled(self.filled_in.epochs) * self.per_epoch and not self.recorded:
            self.resolved = from_first(lambda: self.estimator.resolve(self.format, len(self.images), steps=steps))
        return _objective_and_plan(self.filled_in, steps, self.seed, self.per_epoch, self.module)

    def _begin(self) -> None:
        self.course.begin(filled(self.filled_in.epochs) * self.per_epoch)
        self.facts = facts_of(self.opened, self.seed, self.course.data.x.device, filled(self.course.plan))
        if self.run:
            self._write()

    def _go_on(self, run: RunFolder, recorded: dict) -> None:
        """As the run was planned, or from where it is by a plan of its own, which run.json then records. A finished run becomes
        one that can be gone on with.
        """
        course, finished = self.course, run.finished
        before = replace(recorded_plan(run, recorded), accumulate=self.estimator.accumulate)
        anew = filled(self.filled_in.warmup_steps) if finished else None
        why = course.go_on(before, self.at, self.goal, finished=finished, anew=anew)
        self.facts = facts_of(self.opened, self.seed, course.data.x.device, before)
        self.facts["earlier_plans"] = recorded.get("earlier_plans", [])
        if why is not None:
            self._change_plan(before, why)
            self._write()
        if finished:
            history = run.history()
            best = best_epoch(filled(course.plan), history) if filled(course.plan).patience is not None else None
            removed = ", ".join(run.reopen(_state(course.objective), history, best))
            course.say(
                "a finished run keeps no moments of its optimizer, which begin anew"
                + (f"; removed, since its weights change: {removed}" if removed else "")
            )

    def _change_plan(self, before: Plan, why: str) -> None:
        """The course's plan is another than `before`, for the reason `why`."""
        course, plan = self.course, filled(self.course.plan)
        # A rise of the rate's weight that was to be a part of the training stays one, and so do one draw's epochs.
        shorter = self.estimator.resolve(self.format, len(self.images), steps=plan.steps)
        for name in ("rate_warmup_epochs", "elbo_epochs"):
            if (epochs := self.resolved.get(name)) is not None:
                self.resolved[name] = min(epochs, shorter[name])
        course.objective, fresh = self._make(plan.steps)
        course.plan = replace(plan, patience_from=fresh.patience_from)
        here, there = describe_place(self.at, plan.steps, self.per_epoch).split(" of ")
        course.say(f"a new schedule from {here} on, to its end at epoch {there}{f': {why}' if why else ''}")
        self.facts["plan"] = asdict(course.plan)
        self.facts["earlier_plans"] = [*self.facts["earlier_plans"], asdict(before)]

    def _warn_of_first_epochs(self) -> None:
        ready, steps = self.filled_in, filled(self.course.plan).steps
        if (first := ready.unsettled_epochs) and first * self.per_epoch >= steps:
            warn(
                f"the training ends at epoch {steps / self.per_epoch:g} and {ready.first_epochs} is {first:g}: it never comes "
                "to its own objective; lower the one, or train for longer"
            )

    def _record(self) -> Record:
        estimator = self.estimator
        return Record(type(estimator).__name__, estimator.settings(), self.resolved, self.facts, [])

    def _write(self) -> None:
        filled(self.run).start(config_of(self._record(), self.format, self.module))


def _common(estimator, images: Images, validation: Images | None) -> dict:
    """What ranks that train together have in common."""
    if size() == 1:
        return {}
    data = {"data": images.fingerprint, "validation": None if validation is None else validation.fingerprint}
    known = {"model": type(estimator).__name__, "vaekit": __version__, "torch": torch.__version__, **data}
    return known | {name: value for name, value in estimator.settings().items() if name not in ("device", "verbose")}


def fit_more(estimator, images: Images, given, fitted: Fitted | None, trainer: tuple | None) -> tuple[Fitted, tuple]:
    """`partial_fit`: one more pass over `images`, of which the labels' classes are those of `fitted`, None of a first pass.
    trainer: objective and optimizer of the pass before. Returns what it came to, and the trainer of the next one.
    """
    name = type(estimator).__name__
    check_alike(_common(estimator, images, None))
    if fitted is None:
        seed = from_first(lambda: check_random_state(estimator.random_state))
        format = Format.of(images, given, scaling=estimator.scaling, conditional=estimator.conditional)
        resolved = from_first(lambda: estimator.resolve(format, len(images)))
        module = estimator.filled_in(resolved).make_module(format, seed).to(pick_device(estimator.device))
        history, seen = [], 0
    else:
        seed, seen, history = fitted.facts["seed"], fitted.facts["data"]["images"], fitted.history
        resolved, module = fitted.record.resolved, fitted.with_prior("plain" if fitted.has_prior else None)
        format = fitted.format if images.y is None else fitted.format.counted(images.y, seen)
    likelihood = filled(estimator.filled_in(resolved).likelihood)
    binary = make_likelihood(likelihood).binary
    if fitted is None:
        warn_of(images, likelihood, binary=binary, scaling=estimator.scaling)
    else:
        warn_of_greys(images, likelihood, binary=binary)
    course = _pass_over(estimator, images, format, resolved, module, seed, history, trainer)
    (record,) = course.run()
    last = history[-1] if history else {"epoch": 0, "seconds_total": 0.0}
    record["epoch"] += last["epoch"]
    record["seconds_total"] += last["seconds_total"]
    facts = facts_of(images.opened(), seed, course.data.x.device, filled(course.plan))
    facts["data"]["images"] += seen
    state = objective_state(_state(course.objective))
    known = Record(name, estimator.settings(), resolved, facts, [*history, record], state)
    return Fitted(module, format, known), (course.objective, course.optimizer)


def _pass_over(estimator, images, format, resolved, module, seed, history, trainer) -> Course:
    """The course of one pass, with the learning rate at its peak: all batches are of one size."""
    name, n = type(estimator).__name__, len(images)
    ready = estimator.filled_in(resolved)
    batch_size = n // math.ceil(n / filled(ready.batch_size))
    per_epoch, first = n // batch_size, history[-1]["step"] if history else 0
    steps, seed_here = first + per_epoch, derive_seed(seed, "partial_fit", first)
    objective, plan = _objective_and_plan(ready, steps, seed_here, history[0]["step"] if history else per_epoch, module)
    plan = replace(
        plan,
        batch_size=batch_size,
        schedule="constant",
        warmup=ready.warmup_steps,
        first=first,
        compile=bool(estimator.compile),  # a single pass is too short for it, unless it is asked for
    )
    objective, optimizer = trainer or (objective, None)
    course = Course(
        module=module,
        data=format.data(images, next(module.parameters()).device, name, augment=read_augment(estimator.augment)),
        make=lambda steps: (objective, plan),
        seed=seed,
        optimizer=optimizer,
        title=f"{name} seed {seed}",
        verbose=estimator.verbose,
    )
    course.begin(steps)
    course.optimizer = optimizer or make_optimizer(module, filled(course.plan))  # which the next pass goes on with
    return course


def read_run(estimator, run: RunFolder, config: dict) -> Fitted:
    """The model in `run`, as its run.json `config` and its weights have it, for an `estimator` of its class and fields."""
    tensors, objective, notes = run.weights()
    unfinished = None
    try:
        format, facts, resolved = _read_config(estimator, config)
        ready = estimator.filled_in(resolved)
        module, difference = rebuilt(lambda: ready.make_module(format, 0), tensors)
        if notes:
            plan = read_plan(config["plan"])
            check_notes({"rollbacks": 0, **notes}, plan)
            per_epoch = steps_per_epoch(config["data"]["images"], filled(ready.batch_size))
            unfinished = describe_place(notes["step"], plan.steps, per_epoch)
            facts["ended"] = {"step": notes["step"], "because": "checkpoint"}
    except (ArithmeticError, AttributeError, LookupError, TypeError, RuntimeError, ValueError) as error:
        raise ValueError(f"{run.config_file} is damaged, or from another vaekit: {first_line(error)}") from None
    if difference:
        raise ValueError(
            f"{run.path} is damaged, or from another vaekit: run.json and the weights do not fit together ({difference})"
        )
    check_finite(run.weights_file if notes is None else run.checkpoint_file, tensors)
    module.load_state_dict(tensors)
    history = run.history() if notes is None else history_so_far(notes)
    record = Record(type(estimator).__name__, estimator.settings(), resolved, facts, history, objective, unfinished)
    return Fitted(module.to(pick_device(estimator.device)), format, record)


def _read_config(estimator, config: dict) -> tuple[Format, dict, dict]:
    """Format, facts and resolved fields of a run.json, held against what `fit` would have written."""
    format, facts = Format.from_json(config, conditional=estimator.conditional), read_facts(config)
    # The fields as they are when they come from a user; the array takes no memory, whatever its shape.
    x = np.broadcast_to(np.zeros((), np.float64 if format.is_table else np.uint8), (1, *format.shape))
    labels = np.zeros(1, np.int64) if estimator.conditional else None
    classes = () if format.classes is None else tuple(map(str, format.classes))
    estimator.filled_in(config["resolved"]).check_fields(Images(x, labels, classes, "run.json"))
    return format, facts, config["resolved"]


def _objective_and_plan(ready, steps: int, seed: int, per_epoch: int, module: nn.Module) -> tuple[Objective, Plan]:
    """Of a training of `steps` steps of the estimator `ready`, whose fields are filled in."""
    objective = ready.make_objective(per_epoch)
    if isinstance(objective, nn.Module):
        objective.to(next(module.parameters()).device)
    return objective, ready.make_plan(steps, seed, per_epoch)


def _state(objective) -> dict[str, Tensor]:
    """What an objective has learned; {} of one that learns nothing."""
    return objective.state_dict() if isinstance(objective, nn.Module) else {}
