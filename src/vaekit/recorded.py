"""An estimator's run.json: written, read back into an estimator, and held against one that asks to go on with its run."""

from __future__ import annotations

import itertools
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
from vaekit.messages import check_number, filled, first_line
from vaekit.models.autoencoder import Autoencoder
from vaekit.state import undisturbed
from vaekit.training.checkpoint import RunFolder, check_finite, is_record, mismatch
from vaekit.training.loop import SCHEDULES, Plan
from vaekit.world import PRECISIONS, pick_device

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
    has_prior: bool
    filled_in: Callable[[], Any]
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
        run.write(self._config(), self.history_, self._weights())
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
            plan = Plan(**{**recorded["plan"], "betas": tuple(recorded["plan"]["betas"])})
            for name in ("steps", "batch_size", "warmup", "patience_from", "seed", "first", "learning_rate"):
                filled(getattr(plan, name))
                low = 0 if name in ("steps", "batch_size", "learning_rate") else None
                check_number(name, getattr(plan, name), whole=name != "learning_rate", above=low)
            check_number("patience", plan.patience, whole=True)
            check_number("gradient_clip", plan.gradient_clip, above=0)
            if len(plan.betas) != 2 or not all(0 <= beta < 1 for beta in plan.betas):
                raise ValueError(f"betas {plan.betas!r:.40}")
            if (
                type(plan.compile) is not bool
                or plan.precision not in tuple(PRECISIONS)
                or plan.schedule not in SCHEDULES
            ):
                raise ValueError(
                    f"precision {plan.precision!r:.40}, schedule {plan.schedule!r:.40}, compile {plan.compile!r:.40}"
                )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{run.config_file} is damaged: its plan is none ({error})") from None
        return plan

    def _check_same_fields(self, run: RunFolder, recorded: dict) -> None:
        """Raises ValueError where the fields, filled in, differ from those of the run. A field that the run's vaekit did not
        know yet may have its default only.
        """
        asked = json.loads(json.dumps(self.settings()))
        mine, theirs = {**asked, **self.resolved_}, {**recorded["fields"], **recorded["resolved"]}
        for field in fields(self):
            if field.name not in theirs:
                theirs[field.name] = mine[field.name] if asked[field.name] == field.default else field.default
        changed = [name for name in mine if name not in ("verbose", "device", "compile") and mine[name] != theirs[name]]
        if changed:
            differences = ", ".join(f"{name} {theirs[name]} -> {mine[name]}" for name in changed)
            raise ValueError(
                f"{run.path} can't be resumed with other settings ({differences}); train into a new folder"
            )

    @undisturbed
    def restore(self, run: RunFolder, config: dict, *, prior: bool = True):
        """Becomes the finished run in `run`, with its fitted prior where there is one and unless `prior` is False."""
        tensors, _ = run.weights()
        try:
            self._take_over(config)
            with torch.device("meta"):
                difference = mismatch(tensors, self._make_module(0))
        except (ArithmeticError, AttributeError, LookupError, TypeError, RuntimeError, ValueError) as error:
            raise ValueError(f"{run.config_file} is damaged, or from another vaekit: {first_line(error)}") from None
        if difference:
            raise ValueError(f"{run.path} is damaged: run.json and the weights do not fit together ({difference})")
        check_finite(run.weights_file, tensors)
        self.model_ = self._make_module(0)
        self.model_.load_state_dict(tensors)
        self.model_.to(pick_device(self.device)).eval()
        self.__dict__.pop("_trainer", None)
        self.history_ = list(itertools.takewhile(is_record, run.log()))
        self.n_parameters_ = count_parameters(self.model_)
        self._forget_prior()
        if prior and run.prior_file.exists():
            self.load_prior(run.prior_file)
        return self

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
        self.image_shape_, self.resolved_, self._x_layout = tuple(shape), config["resolved"], layout
        known = ("seed", "device", "threads", "processor", "torch", "data", "plan")
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


def count_parameters(module: Autoencoder) -> int:
    """Trainable parameters of encoder, latent and decoder; a codebook counts however it is trained."""
    parts = (module.encoder, module.latent, module.decoder)
    count = sum(p.numel() for part in parts for p in part.parameters() if p.requires_grad)
    codebook = getattr(module.latent, "codebook", None)
    return count + (codebook.numel() if codebook is not None and not isinstance(codebook, nn.Parameter) else 0)
