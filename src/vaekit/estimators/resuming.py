"""Whether an estimator can go on with the run in a folder, and how far."""

from __future__ import annotations

import json
from dataclasses import fields

from vaekit.data.images import Images
from vaekit.messages import first_line
from vaekit.recorded import check_ended
from vaekit.training.checkpoint import RunFolder
from vaekit.training.plan import Plan, out_of_patience, read_plan


def check_resumable(estimator, run: RunFolder, images: Images, resume: bool) -> dict:
    """run.json of `run`. Raises ValueError where `estimator` can't go on with it on `images`."""
    recorded = run.model_config()
    if not resume:
        raise ValueError(f"{run.path} already holds a run: add --resume to go on with it, or choose another folder")
    if recorded["class"] != type(estimator).__name__:
        raise ValueError(f"{run.path} holds a {recorded['class']}, not a {type(estimator).__name__}")
    if recorded["data"]["fingerprint"] != images.fingerprint or recorded["data"]["split"] != images.split:
        raise ValueError(f"{run.path} was trained on other data ({recorded['data']['name']}); train into a new folder")
    if recorded["data"]["split_seed"] != images.split_seed:
        raise ValueError(
            f"{run.path} was trained on the split of split_seed {recorded['data']['split_seed']}, not of "
            f"{images.split_seed}; train into a new folder"
        )
    return recorded


def recorded_plan(run: RunFolder, recorded: dict) -> Plan:
    """The plan that `run` follows."""
    try:
        check_ended(recorded)
        return read_plan(recorded["plan"])
    except (LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{run.config_file} is damaged: {first_line(error)}") from None


def same_fields(estimator, resolved: dict, run: RunFolder, recorded: dict, images: Images, same_epochs: bool) -> dict:
    """The fields that `run` filled in, for those in `resolved`. Raises ValueError where the fields, filled in, differ from
    those of the run. A field that the run's vaekit did not know yet may have its default only. The epochs may be others, or not
    be said, unless `same_epochs`: see `find_goal`.
    """
    asked = json.loads(json.dumps(estimator.settings()))
    resolved = resolved | {name: value for name, value in recorded["resolved"].items() if name in resolved}
    mine, theirs = {**asked, **resolved}, {**recorded["fields"], **recorded["resolved"]}
    for field in fields(estimator):
        if field.name not in theirs:
            theirs[field.name] = mine[field.name] if asked[field.name] == field.default else field.default
    if "precision" in resolved:  # not asked for: older runs, whose default it was, say float32 as if it had been
        resolved["precision"] = mine["precision"] = theirs["precision"]
    free = ("verbose", "device", "compile", "accumulate", *(() if same_epochs else ("epochs",)))
    changed = [name for name in mine if name not in free and mine[name] != theirs[name]]
    if changed:
        differences = ", ".join(f"{name} {theirs[name]} -> {mine[name]}" for name in changed)
        raise ValueError(f"{run.path} can't be resumed with other settings ({differences}); train into a new folder")
    if "epochs" in resolved:
        resolved["epochs"] = theirs["epochs"]
    try:
        estimator.filled_in(resolved).check(images)
    except (ArithmeticError, AttributeError, LookupError, TypeError, RuntimeError, ValueError) as error:
        raise ValueError(f"{run.config_file} is damaged, or from another vaekit: {first_line(error)}") from None
    return resolved


def find_goal(estimator, run: RunFolder, recorded: dict, per_epoch: int, *, free: bool) -> tuple[int, int]:
    """The step that a run is at, and the one to train it to. That is the end of the epochs that are asked for, or as it was
    planned where none are; an end that came before by patience stays one, and so does any unless `free`.
    Raises ValueError where more has been done than is asked for.
    """
    plan, history = recorded_plan(run, recorded), run.history()
    if run.finished:
        done = history[-1]["step"] if history else plan.steps
    else:
        done = run.checkpoint_step(plan.steps)
    before = {**recorded["fields"], **recorded["resolved"]}["epochs"]
    patient = run.finished and out_of_patience(plan, history)
    if estimator.epochs is None or (estimator.epochs == before and (patient or not free)):
        begun = done == plan.turn < plan.steps  # gone on with, and killed before anything was done
        return done, plan.steps if begun or not run.finished else done
    goal = estimator.epochs * per_epoch
    if goal < done:
        at = f"{round(done / per_epoch, 1):g}"
        remedy = "" if run.finished else ", or end it where it is with --finish"
        raise ValueError(
            f"{run.path} has done {at} epochs already, got epochs={estimator.epochs}: ask for more to go on with it{remedy}"
        )
    if run.finished and goal > done and not history:
        raise ValueError(f"{run.path} has no log.jsonl, which says what its training did; train into a new folder")
    return done, goal
