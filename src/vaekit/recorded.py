"""An estimator's run.json: written, read back into an estimator, and held against one that asks to go on with its run."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from vaekit import __version__
from vaekit.data.columns import Columns, check_numbers
from vaekit.data.images import BINARIZE, Decoding, Images
from vaekit.data.readers import check_decoding
from vaekit.messages import check_number, first_line
from vaekit.models.autoencoder import Autoencoder
from vaekit.state import undisturbed
from vaekit.training.checkpoint import RunFolder, check_finite, mismatch
from vaekit.training.loop import check_notes, history_so_far, out_of_patience
from vaekit.training.plan import Plan, describe_place, read_plan
from vaekit.world import pick_device

# What a training ended by: its plan, patience, its time budget, being told to; "checkpoint" is of one that has not.
ENDINGS = ("plan", "patience", "budget", "finish", "checkpoint")

# What runs of earlier versions don't say of their data.
DATA_DEFAULTS = {"binarize": "none", "decoding": None, "skip_bad": False, "labels": None}


class Recorded:
    """What `Estimator` can do with a run folder: be saved, become the run that is there, or say why it can't go on with it."""

    # What it needs of the estimator.
    __dataclass_fields__: ClassVar[dict]
    conditional: ClassVar[bool]
    device: str
    model_: Autoencoder
    resolved_: dict
    facts_: dict
    history_: list[dict]
    epochs: int | None
    unfinished_: str | None = None  # how far the run is that this was loaded from, where that is not finished
    _objective_state: dict = {}  # noqa: RUF012
    has_prior: bool
    filled_in: Callable[[], Any]
    steps_per_epoch: Callable[[int], int]
    load_prior: Callable
    _x_layout: dict
    columns_: Columns
    _take_names: Callable
    _check_fitted: Callable
    _make_module: Callable[[int], Autoencoder]
    _weights: Callable
    _save_prior: Callable
    _forget_prior: Callable

    @undisturbed
    def save(self, path) -> None:
        """Writes a run folder: run.json, log.jsonl, weights.safetensors, and prior.safetensors where a prior is fitted.
        Raises ValueError where a run is already.
        """
        self._check_fitted()
        run = RunFolder(path)
        if run.started:
            raise ValueError(f"{path} already holds a run; choose another folder")
        run.write(self._config(), self.history_, self._weights(), self._objective_state)
        if self.has_prior:
            self._save_prior(run)

    def settings(self) -> dict:
        """The fields as JSON-able values."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values = {name: value.item() if isinstance(value, np.generic) else value for name, value in values.items()}
        values["random_state"] = values["random_state"] if isinstance(values["random_state"], int) else None
        return values

    def _config(self) -> dict:
        """run.json: all that rebuilds this estimator around its weights, and where they came from."""
        names = ("classes", "class_frequencies") if self.conditional else ()
        return {
            "class": type(self).__name__,
            "fields": self.settings(),
            "resolved": self.resolved_,
            "version": __version__,
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
            "image_shape": list(self.image_shape_),
            "layout": self._x_layout,
            "table": self.columns_.to_json() if len(self.image_shape_) == 1 else None,
            **{name: getattr(self, f"{name}_").tolist() for name in names},
            "parameters": count_parameters(self.model_),
            **self.facts_,
        }

    def _check_resumable(self, run: RunFolder, images: Images, resume: bool) -> dict:
        recorded = run.model_config()
        if not resume:
            raise ValueError(f"{run.path} already holds a run: add --resume to go on with it, or choose another folder")
        if recorded["class"] != type(self).__name__:
            raise ValueError(f"{run.path} holds a {recorded['class']}, not a {type(self).__name__}")
        if recorded["data"]["fingerprint"] != images.fingerprint or recorded["data"]["split"] != images.split:
            raise ValueError(
                f"{run.path} was trained on other data ({recorded['data']['name']}); train into a new folder"
            )
        if recorded["data"]["split_seed"] != images.split_seed:
            raise ValueError(
                f"{run.path} was trained on the split of split_seed {recorded['data']['split_seed']}, not of "
                f"{images.split_seed}; train into a new folder"
            )
        return recorded

    def _recorded_plan(self, run: RunFolder, recorded: dict) -> Plan:
        try:
            _check_ended(recorded)
            return read_plan(recorded["plan"])
        except (LookupError, TypeError, ValueError) as error:
            raise ValueError(f"{run.config_file} is damaged: {first_line(error)}") from None

    def _check_same_fields(self, run: RunFolder, recorded: dict, images: Images, same_epochs: bool) -> None:
        """Raises ValueError where the fields, filled in, differ from those of the run; what it filled in then is taken over. A
        field that the run's vaekit did not know yet may have its default only. The epochs may be others, or not be said,
        unless `same_epochs`: see `_goal`.
        """
        asked = json.loads(json.dumps(self.settings()))
        self.resolved_ |= {name: value for name, value in recorded["resolved"].items() if name in self.resolved_}
        mine, theirs = {**asked, **self.resolved_}, {**recorded["fields"], **recorded["resolved"]}
        for field in fields(self):
            if field.name not in theirs:
                theirs[field.name] = mine[field.name] if asked[field.name] == field.default else field.default
        free = ("verbose", "device", "compile", *(() if same_epochs else ("epochs",)))
        changed = [name for name in mine if name not in free and mine[name] != theirs[name]]
        if changed:
            differences = ", ".join(f"{name} {theirs[name]} -> {mine[name]}" for name in changed)
            raise ValueError(
                f"{run.path} can't be resumed with other settings ({differences}); train into a new folder"
            )
        if "epochs" in self.resolved_:
            self.resolved_["epochs"] = theirs["epochs"]
        try:
            self.filled_in().check(images)
        except (ArithmeticError, AttributeError, LookupError, TypeError, RuntimeError, ValueError) as error:
            raise ValueError(f"{run.config_file} is damaged, or from another vaekit: {first_line(error)}") from None

    def _goal(self, run: RunFolder, recorded: dict, per_epoch: int, *, free: bool) -> tuple[int, int]:
        """The step that a run is at, and the one to train it to. That is the end of the epochs that are asked for, or as it was
        planned where none are; an end that came before by patience stays one, and so does any unless `free`.
        Raises ValueError where more has been done than is asked for.
        """
        plan, history = self._recorded_plan(run, recorded), run.history()
        if run.finished:
            done = history[-1]["step"] if history else plan.steps
        else:
            done = run.checkpoint_step(plan.steps)
        before = {**recorded["fields"], **recorded["resolved"]}["epochs"]
        patient = run.finished and out_of_patience(plan, history)
        if self.epochs is None or (self.epochs == before and (patient or not free)):
            begun = done == plan.turn < plan.steps  # gone on with, and killed before anything was done
            return done, plan.steps if begun or not run.finished else done
        goal = self.epochs * per_epoch
        if goal < done:
            at = f"{round(done / per_epoch, 1):g}"
            remedy = "" if run.finished else ", or end it where it is with --finish"
            raise ValueError(
                f"{run.path} has done {at} epochs already, got epochs={self.epochs}: ask for more to go on with it{remedy}"
            )
        if run.finished and goal > done and not history:
            raise ValueError(f"{run.path} has no log.jsonl, which says what its training did; train into a new folder")
        return done, goal

    @undisturbed
    def restore(self, run: RunFolder, config: dict, *, prior: bool = True):
        """Becomes the run in `run`, with its fitted prior where there is one and unless `prior` is False. One that is not
        finished is taken as of its last checkpoint, and `unfinished_` says where that is: "epoch 18 of 50".
        """
        tensors, self._objective_state, notes = run.weights()
        self.unfinished_ = None
        try:
            self._take_over(config)
            with torch.device("meta"):
                difference = mismatch(tensors, self._make_module(0))
            if notes:
                plan = read_plan(config["plan"])
                check_notes({"rollbacks": 0, **notes}, plan)
                self.unfinished_ = describe_place(
                    notes["step"], plan.steps, self.steps_per_epoch(config["data"]["images"])
                )
                self.facts_["ended"] = {"step": notes["step"], "because": "checkpoint"}
        except (ArithmeticError, AttributeError, LookupError, TypeError, RuntimeError, ValueError) as error:
            raise ValueError(f"{run.config_file} is damaged, or from another vaekit: {first_line(error)}") from None
        if difference:
            raise ValueError(f"{run.path} is damaged: run.json and the weights do not fit together ({difference})")
        check_finite(run.weights_file if notes is None else run.checkpoint_file, tensors)
        self.model_ = self._make_module(0)
        self.model_.load_state_dict(tensors)
        self.model_.to(pick_device(self.device)).eval()
        self.__dict__.pop("_trainer", None)
        self.history_ = run.history() if notes is None else history_so_far(notes)
        self.n_parameters_ = count_parameters(self.model_)
        self._forget_prior()
        if prior and run.prior_file.exists():
            self.load_prior(run.prior_file)
        return self

    @property
    def ended_by(self) -> str | None:
        """What the training ended by, one of ENDINGS; None of an earlier version's, which does not say."""
        return (self.facts_.get("ended") or {}).get("because")

    @undisturbed
    def end(self, run: RunFolder) -> None:
        """Makes the unfinished `run`, which this is as `restore` left it, a finished one, with the weights that are here."""
        self.facts_["ended"]["because"] = "finish"
        run.write_log(self.history_)
        run.start(self._config())
        run.finish(self.model_.state_dict(), self._objective_state)
        self.unfinished_ = None

    def _take_over(self, config: dict) -> None:
        """What run.json says of a fitted model, held against what `fit` would have written."""
        shape, layout = config["image_shape"], dict(config["layout"])
        if len(shape) not in (1, 3) or not all(type(side) is int and side > 0 for side in shape):
            raise ValueError(f"image_shape must be [height, width, channels] or [columns], got {shape!r:.80}")
        layout.setdefault("white", 255 if layout.get("eight_bit") else None)  # runs of earlier versions lack it
        if (
            set(layout) != {"channel_axis", "eight_bit", "white"}
            or not all(type(layout[name]) is bool for name in ("channel_axis", "eight_bit"))
            or layout["white"] not in ((1, 255) if layout["eight_bit"] else (None,))
            or type(layout["white"]) is bool
        ):
            raise ValueError(f"layout must say channel_axis, eight_bit and white, got {layout!r:.80}")
        _check_opened(config["data"])
        _check_ended(config)
        self.image_shape_, self.resolved_, self._x_layout = tuple(shape), config["resolved"], layout
        known = ("seed", "device", "threads", "processor", "torch", "data", "plan", "earlier_plans", "ended")
        self.facts_ = {key: config[key] for key in known if key in config}
        # In the order of the file; runs of earlier versions have not all entries.
        self.facts_["data"] = config["data"] | {
            name: value for name, value in DATA_DEFAULTS.items() if name not in config["data"]
        }
        if len(shape) == 1:
            self.columns_ = Columns.from_json(config["table"], shape[0])
            self.n_features_in_ = shape[0]
            self._take_names(self.columns_.header)
        if self.conditional:
            classes = config["classes"]
            self.classes_ = np.asarray(classes)
            plain = self.classes_.ndim == 1 and self.classes_.dtype.kind in "biufU"
            if not plain or not 0 < len(set(classes)) == len(classes):
                raise ValueError(f"classes must be different labels, got {classes!r:.80}")
            self.class_frequencies_ = check_numbers("class_frequencies", config["class_frequencies"], len(classes))
            if (self.class_frequencies_ < 0).any() or not math.isclose(self.class_frequencies_.sum(), 1, abs_tol=1e-6):
                raise ValueError("class_frequencies must be shares that sum to 1")
        # The fields as they are when they come from a user; the array takes no memory, whatever its shape.
        x = np.broadcast_to(np.zeros((), np.float64 if len(shape) == 1 else np.uint8), (1, *shape))
        labels = np.zeros(1, np.int64) if self.conditional else None
        self.filled_in().check(Images(x, labels, tuple(map(str, getattr(self, "classes_", ()))), "run.json"))


def _check_opened(data: dict) -> None:
    """Raises ValueError where what run.json says of how its data was opened is not what `open_data` takes."""
    if data.get("binarize", "none") not in BINARIZE:
        raise ValueError(f"binarize must be one of {', '.join(BINARIZE)}, got {data['binarize']!r:.80}")
    check_number("split_seed", data["split_seed"], whole=True)
    if type(data.get("skip_bad", False)) is not bool or type(data.get("labels")) not in (str, type(None)):
        raise ValueError("skip_bad must be true or false, and labels the name of a file")
    decoding = data.get("decoding")
    if decoding is not None:
        check_number("resize", Decoding(**decoding).resize, whole=True, above=0)
        check_decoding(Decoding(**decoding))


def _check_ended(config: dict) -> None:
    """Raises ValueError where what run.json says of the end of a training, and of plans before the last, is no such thing. Runs
    that have not ended, and those of earlier versions, say nothing.
    """
    plans = config.get("earlier_plans", [])
    if type(plans) is not list:
        raise ValueError(f"earlier_plans must be a list, got {plans!r:.80}")
    for plan in plans:
        read_plan(plan)
    ended = config.get("ended")
    if ended is not None and (type(ended["step"]) is not int or ended["because"] not in ENDINGS):
        raise ValueError(f"ended must say at which step, and one of {', '.join(ENDINGS)}, got {ended!r:.80}")


def count_parameters(module: Autoencoder) -> int:
    """Trainable parameters of encoder, latent and decoder; a codebook counts however it is trained."""
    parts = (module.encoder, module.latent, module.decoder)
    count = sum(p.numel() for part in parts for p in part.parameters() if p.requires_grad)
    codebook = getattr(module.latent, "codebook", None)
    return count + (codebook.numel() if codebook is not None and not isinstance(codebook, nn.Parameter) else 0)
