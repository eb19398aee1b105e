"""What every model is to its user: a scikit-learn estimator with a run folder. Fields are the constructor, the command line's
flags and `run.json` at once; a named model (`vaekit.estimators`) says which parts and which objective it stands for.
"""

from __future__ import annotations

import copy
import importlib.util
import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import validate_data
from torch import Tensor, nn

from vaekit.data.columns import SCALINGS, Columns, Header, places_of, scaling_problem
from vaekit.data.frames import frame_library, table_header
from vaekit.data.given import as_array, as_whole
from vaekit.data.images import (
    DARK,
    Images,
    Rows,
    brightest,
    check_array,
    check_labels,
    darkness,
    fingerprint,
    hold_out,
    in_channels,
    is_mapped,
    label_column,
    listed,
    no_labels,
)
from vaekit.estimators.fields import Fields
from vaekit.hub import draw_samples, push_to_hub
from vaekit.messages import check_number, filled, nearest
from vaekit.models.autoencoder import Autoencoder
from vaekit.models.objectives import Elbo, distortion_and_rate
from vaekit.parts.latents import GaussianLatent
from vaekit.parts.likelihoods import LIKELIHOODS, Likelihood, make_likelihood
from vaekit.parts.networks import ARCHITECTURES, make_networks
from vaekit.parts.priors import StandardNormalPrior
from vaekit.parts.quantizers import VectorQuantizer
from vaekit.recorded import Recorded, count_parameters
from vaekit.second_stage import SecondStage
from vaekit.state import undisturbed, unwarned, warn
from vaekit.training.checkpoint import RunFolder, objective_state
from vaekit.training.compiled import pays
from vaekit.training.events import LOGS, Events
from vaekit.training.loop import (
    Data,
    Mapped,
    Objective,
    affordable,
    best_epoch,
    check_time_budget,
    make_optimizer,
    out_of_patience,
    start_clock,
    to_input,
    train,
)
from vaekit.training.plan import SCHEDULES, Plan, describe_place
from vaekit.training.progress import Lines
from vaekit.world import FEWEST, MOST, PRECISIONS, check_random_state, derive_seed, pick_device, samples_at_once, seeded

SCORE_SEED = 2023  # of the fixed noise in score_samples
ROWS = 64  # a table is taken to the module in multiples of these


class Estimator(Recorded, SecondStage, Fields, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """What every model shares. Images are uint8, or floats in [0, 1], of shape (N, H, W) or (N, H, W, C); tables are
    (N, D) finite reals, standardised inside, in arrays or in data frames of pandas or polars. After `fit`: `model_` (the
    nn.Module), `history_` (a record per epoch), `n_parameters_`, `image_shape_`, `columns_` (of a table), `resolved_` (the
    fields whose None was filled in, and with what).
    """

    conditional: ClassVar[bool] = False
    _class_elbos: ClassVar[Callable[..., np.ndarray]]  # of conditional models

    # ---- what a named model says -------------------------------------------------------------------------------

    def _make_objective(self, steps_per_epoch: int) -> Objective:
        """The objective; called with the fields resolved."""
        return self._elbo_objective(1.0, steps_per_epoch)

    def _elbo_objective(self, beta: float, steps_per_epoch: int) -> Elbo:
        return Elbo(beta=beta, warmup=round(filled(self.rate_warmup_epochs) * steps_per_epoch))

    def _defaults(self, *, wang2023: bool) -> dict:
        """Values for the model's own fields that are None."""
        return {}

    def _balanced_beta(self) -> float:
        """A beta for inputs of this size: distortion grows with the number of values, so a constant would mean less and
        less. Measured on 8x8 and 28x28 digits, where it leaves 1 to 2 nats a latent.
        """
        return max(1.0, math.sqrt(math.prod(self.image_shape_)) / 2.8)

    def build(self, shape: tuple[int, int, int], *, n_classes: int = 0, images: bool = True) -> Autoencoder:
        """The untrained module for inputs of `shape` (C, H, W): every published model is a choice of parts here."""
        likelihood = self._build_likelihood(images)
        latent = GaussianLatent(latent_dim=self.latent_dim)
        networks = make_networks(
            filled(self.architecture),
            shape,
            features=latent.features,
            latent_dim=self.latent_dim,
            out_channels=likelihood.channels(shape[0]),
            n_classes=n_classes,
            hidden=self._hidden(),
        )
        return Autoencoder(
            encoder=networks.encoder,
            latent=latent,
            decoder=networks.decoder,
            prior=StandardNormalPrior(latent_dim=self.latent_dim),
            likelihood=likelihood,
            n_classes=n_classes,
            images=images,
        )

    def _hidden(self) -> tuple[int, int]:
        """Widths of the mlp's hidden layers; a run that knows no width is from before it was a field."""
        width = self.width or 512
        return (width, max(1, width // 2))

    def _build_likelihood(self, images: bool) -> Likelihood:
        # The report's decoder ends in a ReLU of its own.
        bounded = images and self.architecture != "wang2023"
        return make_likelihood(filled(self.likelihood), variance=self.likelihood_variance, bounded=bounded)

    # ---- fitting -----------------------------------------------------------------------------------------------

    @undisturbed
    def fit(self, X, y=None):
        """Trains on X; `y` is ignored unless the model is conditional, and then compulsory. Returns self.

        Raises ValueError for data or fields that don't fit, TrainingFailed when a number stops being finite.
        """
        x = check_array(X)
        labels, classes = (None, ()) if y is None or not self.conditional else check_labels(y, len(x))
        self._check_names(X, reset=True)
        self._x_layout = _layout(X, _white(X))
        return self._fit(Images(x, labels, classes, "array", fingerprint(x, labels), header=table_header(X)))

    @undisturbed
    def partial_fit(self, X, y=None, classes=None):
        """One more pass over X with the weights there are; where nothing is fitted yet, it starts as `fit` on this X would.
        Returns self.

        classes: for a conditional model, all labels that will ever come; the first call needs them where its y lacks some.
        The pass is in batches of the same size, `batch_size` or a little less, which leave out fewer rows than there are
        batches. Standardisation, classes and the fields that are None are the first call's. The learning rate stays at its
        peak, whatever `schedule` says. `history_` goes on by a record a call; a fitted prior is forgotten, since the codes
        have changed. Adam's moments go on from call to call, and start anew after `fit` and `load`.
        Raises ValueError for data of another shape, labels that the first call did not know, and early stopping.
        """
        if self.early_stopping:
            raise ValueError("partial_fit can't stop early, since it has no end: set early_stopping=False, or call fit")
        start = not hasattr(self, "n_parameters_")
        x = check_array(X) if start else self._check_input(X)
        images = Images(x, None, (), "array", header=table_header(X))
        if self.conditional and y is not None:
            known = (check_labels(y, len(x)) if classes is None else check_labels(classes, len(classes), "classes"))[1]
            if not start and classes is not None and list(known) != self.classes_.tolist():
                raise ValueError(f"classes must be the first call's, {self.classes_.tolist()}, got {list(known)}")
            index = self._label_index(y, len(x), known if start else None)
            images = replace(images, y=filled(index).numpy(), classes=known if start else tuple(self.classes_.tolist()))
        self.check(images)
        if start:
            self._check_names(X, reset=True)
            self._x_layout = _layout(X, _white(X))
            self._take_in(images)
            seed, seen, self.history_ = check_random_state(self.random_state), 0, []
            self.resolved_ = self._resolve(len(images), table=images.is_table)
            self._warn_about_columns(images)
            self.model_ = self._make_module(seed).to(pick_device(self.device))
        else:
            seed, seen = self.facts_["seed"], self.facts_["data"]["images"]
            if self.conditional:
                counts = seen * self.class_frequencies_ + np.bincount(filled(images.y), minlength=len(self.classes_))
                self.class_frequencies_ = counts / counts.sum()
            if self.has_prior:
                self.model_ = self.with_prior("plain")
                self._forget_prior()
        resolved = self.filled_in()
        self._warn_about_likelihood(filled(resolved.likelihood), images)
        batch_size = len(x) // math.ceil(len(x) / filled(resolved.batch_size))
        per_epoch = len(x) // batch_size
        last = self.history_[-1] if self.history_ else {"epoch": 0, "step": 0, "seconds_total": 0.0}
        objective, plan = resolved._course(
            last["step"] + per_epoch,
            derive_seed(seed, "partial_fit", last["step"]),
            self.history_[0]["step"] if self.history_ else per_epoch,
            self.device_,
        )
        plan = replace(
            plan,
            batch_size=batch_size,
            schedule="constant",
            warmup=resolved.warmup_steps,
            first=last["step"],
            compile=bool(self.compile),  # a single pass is too short for it, unless it is asked for
        )
        objective, adam = getattr(self, "_trainer", None) or (objective, None)
        adam = adam or make_optimizer(self.model_, plan)
        (record,) = train(
            self.model_,
            objective,
            self.on_device(images, self.device_),
            plan,
            adam=adam,
            title=f"{type(self).__name__} seed {seed}",
            verbose=self.verbose,
        )
        record["epoch"] += last["epoch"]
        record["seconds_total"] += last["seconds_total"]
        self.history_ = [*self.history_, record]
        self._trainer = objective, adam
        self.facts_ = self._facts(images, seed, self.device_, plan)
        self.facts_["data"]["images"] += seen
        self.n_parameters_ = count_parameters(self.model_)
        return self

    @undisturbed
    def fit_images(
        self,
        images: Images,
        *,
        validation: Images | None = None,
        folder: str | None = None,
        resume: bool = False,
        same_epochs: bool = False,
        time_budget: float | None = None,
        log: str | None = None,
    ):
        """Trains on `images`, in a run folder when `folder` is given: what `vaekit train` calls. Returns self.

        validation: held-out images; with early stopping and without them, `validation_fraction` of `images` is held out.
        resume: goes on from the folder's last checkpoint; without it a folder that holds a run is refused. `epochs` may be
            others than the run's: it then ends after these, a finished one goes on beyond its end, and what was made of its
            weights (a fitted prior, evaluation.json) is removed. The learning rate follows a new schedule from there on.
        same_epochs: other epochs than the run's are refused, and a finished run is left as it is.
        time_budget: seconds, of this call. A run that would take longer, by an estimate from a few steps, is made shorter, and
            ends where it is when they are over.
        log: "tensorboard" keeps the folder's log in folder/tensorboard, too.
        """
        if log is not None and log not in LOGS:
            raise ValueError(f"log must be None or one of {', '.join(LOGS)}, got {log!r}{nearest(str(log), LOGS)}")
        if log is not None and folder is None:
            raise ValueError(f"log={log!r} needs a run folder: give folder, too")
        if self.conditional and images.y is None:
            raise ValueError(no_labels(images, type(self).__name__))
        self._check_names(images, reset=True)
        self._x_layout = _layout(images.x, 255 if images.x.dtype == np.uint8 else None)
        events = Events(Path(folder) / log) if folder and log else None
        run = RunFolder(folder, events) if folder else None
        return self._fit(
            images, validation=validation, run=run, resume=resume, same_epochs=same_epochs, time_budget=time_budget
        )

    def _fit(self, images: Images, *, validation=None, run=None, resume=False, same_epochs=False, time_budget=None):
        if run:
            run.check()
        self.check(images)
        seed = check_random_state(self.random_state)
        check_time_budget(time_budget)
        recorded = self._check_resumable(run, images, resume) if run and run.started else None
        if recorded:
            seed = recorded["seed"]
        self._take_in(images)
        images, validation = self._hold_out(images, validation, seed)
        self.resolved_ = self._resolve(len(images), table=images.is_table)
        if run and recorded:
            self._check_same_fields(run, recorded, images, same_epochs)
            with run.locked():
                run.tidy()
            free = time_budget is None and not same_epochs
            at, goal = self._goal(run, recorded, self.steps_per_epoch(len(images)), free=free)
            if run.finished and goal == at:
                return self.restore(run, recorded)
        device = pick_device(self.device)
        data = self.on_device(images, device)
        held = None if validation is None else self.on_device(validation, device)
        self._warn_about_likelihood(filled(self.filled_in().likelihood), images)
        self._warn_about_scale(images)
        self._warn_about_columns(images)
        self._forget_prior()
        self.unfinished_ = None
        self.model_ = self._make_module(seed).to(device)
        deadline = start_clock(time_budget)
        with run.locked() if run else nullcontext():
            if run and recorded:
                objective, plan = self._go_on(run, recorded, images, data, at, goal, deadline)
            elif run and run.started:
                raise ValueError(f"{run.path} was begun by another process meanwhile; choose another folder")
            else:
                objective, plan = self._begin(images, data, seed, deadline)
                if run:
                    run.start(self._config())
            self.history_ = train(
                self.model_,
                objective,
                data,
                plan,
                validation=held,
                folder=run,
                deadline=deadline,
                title=self._title,
                verbose=self.verbose,
            )
            done, asked = self.history_[-1]["step"], filled(self.filled_in().epochs) * self.steps_per_epoch(len(data))
            patient = out_of_patience(plan, self.history_)
            because = "plan" if done == asked else "patience" if patient else "budget"
            self.facts_["ended"] = {"step": done, "because": because}
            self._trainer = objective, None
            self._objective_state = objective_state(_state(objective))
            self.n_parameters_ = count_parameters(self.model_)
            if run:
                run.start(self._config())
                run.finish(self.model_.state_dict(), self._objective_state)
        if run and run.events:
            run.events.show(self._pictures(images), step=self.history_[-1]["step"])
        return self

    def _begin(self, images: Images, data: Data, seed: int, deadline: float | None) -> tuple[Objective, Plan]:
        """Objective and plan of a new training, which `deadline` may make shorter than its epochs."""
        per_epoch, device = self.steps_per_epoch(len(data)), self.device_
        epochs = filled(self.filled_in().epochs)
        objective, plan = self.filled_in()._course(epochs * per_epoch, seed, per_epoch, device)
        self.facts_ = self._facts(images, seed, device, plan)
        if deadline is not None:
            with seeded(derive_seed(seed, "rehearsal")):
                fits = affordable(self.model_, objective, data, plan, deadline)
            if fits < plan.steps:
                self._say(f"the time budget is enough for {fits:,} of {plan.steps:,} steps")
                self.resolved_ = self._resolve(len(data), table=images.is_table, steps=fits)
                objective, plan = self.filled_in()._course(fits, seed, per_epoch, device)
                self.facts_["plan"] = asdict(plan)
        return objective, plan

    def _go_on(
        self, run: RunFolder, recorded: dict, images: Images, data: Data, at: int, goal: int, deadline: float | None
    ) -> tuple[Objective, Plan]:
        """Objective and plan of the training in `run`, which is at the step `at` and is to end at `goal`: as it was planned, or
        from `at` on by a plan of its own, which run.json then records. A finished run becomes one that can be gone on with.
        """
        finished, plan, per_epoch = run.finished, self._recorded_plan(run, recorded), self.steps_per_epoch(len(data))
        seed, before = recorded["seed"], plan
        self.facts_ = self._facts(images, seed, self.device_, plan)
        objective, _ = self.filled_in()._course(goal, seed, per_epoch, self.device_)
        anew = filled(self.filled_in().warmup_steps) if finished else None
        if finished or goal != plan.steps:
            plan = before.towards(goal, at, anew=anew)
        why = ""
        if deadline is not None and at < goal:
            with seeded(derive_seed(seed, "rehearsal")):
                fits = affordable(self.model_, objective, data, plan, deadline)
            if fits < goal - at:
                plan = before.towards(at + fits, at, anew=anew)
                plan = replace(plan, compile=plan.compile and pays(filled(self.filled_in().architecture), fits))
                why = f": the time budget is enough for {fits:,} of {goal - at:,} steps"
        if plan != before:
            # A rise of the rate's weight that was to be a part of the training stays one.
            kept = self.resolved_
            shorter = self._resolve(len(data), table=images.is_table, steps=plan.steps)
            rise = {name: min(kept[name], shorter[name]) for name in ("rate_warmup_epochs",) if name in kept}
            self.resolved_ = kept | rise
            objective, fresh = self.filled_in()._course(plan.steps, seed, per_epoch, self.device_)
            plan = replace(plan, patience_from=fresh.patience_from)
            here, there = describe_place(at, plan.steps, per_epoch).split(" of ")
            self._say(f"a new schedule from {here} on, to its end at epoch {there}{why}")
        self.facts_["earlier_plans"] = recorded.get("earlier_plans", [])
        if plan != before:
            self.facts_["plan"] = asdict(plan)
            self.facts_["earlier_plans"] = [*self.facts_["earlier_plans"], asdict(before)]
            run.start(self._config())
        if finished:
            history = run.history()
            best = best_epoch(plan, history) if plan.patience is not None else None
            removed = ", ".join(run.reopen(_state(objective), history, best))
            self._say(
                "a finished run keeps no moments of its optimizer, which begin anew"
                + (f"; removed, since its weights change: {removed}" if removed else "")
            )
        return objective, plan

    @property
    def _title(self) -> str:
        return f"{type(self).__name__} seed {self.facts_['seed']}"

    def _say(self, text: str) -> None:
        if self.verbose:
            Lines(self._title, 0).say(text)

    def describe_end(self) -> str:
        """How far the training came, of the epochs that were asked for: "epoch 18 of 50"."""
        per_epoch = self.steps_per_epoch(self.facts_["data"]["images"])
        return describe_place(self.history_[-1]["step"], filled(self.filled_in().epochs) * per_epoch, per_epoch)

    def steps_per_epoch(self, n: int) -> int:
        """Steps in an epoch of n images."""
        return max(1, n // min(filled(self.filled_in().batch_size), n))

    def _take_in(self, images: Images) -> None:
        """What the data says of itself: shape, a table's standardisation, the classes and how frequent they are."""
        self.image_shape_ = tuple(images.x.shape[1:])
        self.__dict__.pop("n_features_in_", None)
        self.__dict__.pop("columns_", None)
        if images.is_table:
            self.n_features_in_ = images.x.shape[1]
            self.columns_ = Columns.fit(images.x, images.header, self.scaling)
        if self.conditional:
            self.classes_ = np.asarray(images.classes)
            self.class_frequencies_ = np.bincount(filled(images.y), minlength=len(images.classes)) / len(images)

    def _facts(self, images: Images, seed: int, device: torch.device, plan: Plan) -> dict:
        """What run.json says of a training beside the fields."""
        return {
            "seed": seed,
            "device": str(device),
            "threads": torch.get_num_threads(),
            "processor": torch.backends.cpu.get_cpu_capability(),
            "torch": torch.__version__,
            "data": {
                "name": images.name,
                "fingerprint": images.fingerprint,
                "split": images.split,
                "split_seed": images.split_seed,
                "binarize": images.binarize,
                "decoding": _decoding(images),
                "skip_bad": images.files is not None and images.files.skip_bad,
                "labels": None if images.files is None else images.files.labels,
                "images": len(images),
            },
            "plan": asdict(plan),
            "earlier_plans": [],
        }

    @undisturbed
    def check(self, images: Images) -> None:
        """Raises ValueError where a field has no meaningful value, or asks for what `images` can't give."""
        if self.random_state is not None:  # which draws from numpy's global state: once, where the seed is needed
            check_random_state(self.random_state)
        for field in fields(self):
            if getattr(self, field.name) is None and field.default is not None:
                raise ValueError(f"{field.name} must not be None")
        for name in ("latent_dim", "width", "epochs", "batch_size", "n_iter_no_change"):
            check_number(name, getattr(self, name), whole=True, above=0)
        for name in ("learning_rate", "gradient_clip", "likelihood_variance"):
            check_number(name, getattr(self, name), above=0)
        check_number("warmup_steps", self.warmup_steps, whole=True)
        check_number("rate_warmup_epochs", self.rate_warmup_epochs)
        for name, known in (
            ("architecture", ARCHITECTURES),
            ("likelihood", LIKELIHOODS),
            ("scaling", SCALINGS),
            ("schedule", SCHEDULES),
            ("precision", tuple(PRECISIONS)),
        ):
            value = getattr(self, name)
            if value is not None and value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}{nearest(str(value), known)}")
        if self.compile not in (None, True, False):
            raise ValueError(f"compile must be None, True or False, got {self.compile!r}")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(f"validation_fraction must be between 0 and 1, got {self.validation_fraction}")
        if self.conditional and images.y is None:
            raise ValueError(
                f"{type(self).__name__} is conditional: it requires y to be passed, but the target y is None"
            )
        if images.is_table and self.architecture not in (None, "mlp"):
            raise ValueError(f"architecture {self.architecture!r} is for images; tables need 'mlp'")
        if self.scaling != "standard" and not images.is_table:
            raise ValueError(f"scaling {self.scaling!r} is for the columns of tables; images need 'standard'")
        if self.width is not None and self.architecture != "mlp" and not images.is_table:
            raise ValueError(f"width={self.width} is the mlp's: it needs architecture 'mlp', got {self.architecture!r}")
        if images.is_table and self.likelihood not in (None, "gaussian", "gaussian_fixed"):
            raise ValueError(f"likelihood {self.likelihood!r} is for images; tables need 'gaussian'")
        probe = copy.copy(self)
        probe.image_shape_, probe.classes_ = tuple(images.x.shape[1:]), np.asarray(images.classes)
        with unwarned(), torch.device("meta"):
            probe.resolved_ = probe._resolve(len(images), table=images.is_table)
            probe._make_module(0)

    def _pictures(self, images: Images) -> dict:
        """Figures of what a training came to, by name: ten reconstructions, and samples where the model has some."""
        from vaekit.pictures.figures import reconstructions

        if images.is_table or images.image_shape[2] == 2:
            return {}
        some = images.take(np.arange(min(10, len(images))))
        x, labels = np.asarray(some.x), np.asarray(some.classes)[some.y] if self.conditional else None
        pictures = {"reconstructions": reconstructions(x, {type(self).__name__: self.reconstruct(x, labels)})}
        samples = draw_samples(self)
        return pictures | ({"samples": samples} if samples else {})

    def _course(self, steps: int, seed: int, per_epoch: int, device: torch.device) -> tuple[Objective, Plan]:
        """Objective and plan of a training of `steps` steps; called with the fields resolved."""
        objective = self._make_objective(per_epoch)
        if isinstance(objective, nn.Module):
            objective.to(device)
        return objective, self._plan(steps, seed, per_epoch)

    def _resolve(self, n: int, *, table: bool, steps: int | None = None) -> dict:
        """The fields that are None, filled in for n images; steps: of a run that is shorter or longer than its epochs say."""
        wang2023 = self.architecture == "wang2023"
        batch_size = self.batch_size or (100 if wang2023 else 128 if n >= 5000 else 64)
        per_epoch = max(1, n // batch_size)
        epochs = self.epochs or (50 if wang2023 else max(12, min(max(50, 1000 // per_epoch), 6000 // per_epoch)))
        steps = steps or epochs * per_epoch
        mlp = table or self.architecture == "mlp"
        defaults = {
            "architecture": "mlp" if table else "conv",
            # A few hundred rows are learned by heart by a wider one, and the sigma learned with them is then far too small.
            "width": (128 if table and n < 1000 else 512) if mlp else None,
            "likelihood": "gaussian_fixed" if wang2023 else "gaussian",
            "epochs": epochs,
            "batch_size": batch_size,
            "learning_rate": 0.005 if wang2023 else 0.004 if n >= 5000 else 0.002,
            "schedule": "constant" if wang2023 else "cosine",
            # Shorter rises were measured to end, for some seeds, in a decoder that is black everywhere and stays so.
            "warmup_steps": 0 if wang2023 else min(200, steps // 5),
            "rate_warmup_epochs": 0.0 if wang2023 else min(0.1 * steps, 500) / per_epoch,
            "compile": pays(self.architecture or ("mlp" if table else "conv"), steps),
            **self._defaults(wang2023=wang2023),
        }
        return {name: value for name, value in defaults.items() if getattr(self, name) is None}

    def filled_in(self):
        """After `fit`: a copy of this estimator whose fields are all filled in."""
        return type(self)(**{**{f.name: getattr(self, f.name) for f in fields(self)}, **self.resolved_})

    def _plan(self, steps: int, seed: int, per_epoch: int) -> Plan:
        return Plan(
            steps=steps,
            batch_size=filled(self.batch_size),
            learning_rate=filled(self.learning_rate),
            schedule=filled(self.schedule),
            warmup=min(filled(self.warmup_steps), steps),
            # A shorter memory of squared gradients than Adam's usual one: measured to learn faster in a few epochs.
            betas=(0.9, 0.999) if self.architecture == "wang2023" else (0.9, 0.99),
            gradient_clip=self.gradient_clip,
            patience=self.n_iter_no_change if self.early_stopping else None,
            patience_from=round(filled(self.rate_warmup_epochs) * per_epoch) if self.early_stopping else 0,
            precision=self.precision,
            compile=bool(self.compile),  # whatever counts as one: run.json holds a true or false
            seed=seed,
        )

    def _make_module(self, seed: int) -> Autoencoder:
        n_classes = len(self.classes_) if self.conditional else 0
        with seeded(derive_seed(seed, "weights")):
            module = self.filled_in().build(
                self._module_shape(), n_classes=n_classes, images=len(self.image_shape_) == 3
            )
        return module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  (torch declares no such form)

    def _module_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the module's inputs; a table's rows are (1, 1, D)."""
        if len(self.image_shape_) == 1:
            return 1, 1, self.image_shape_[0]
        height, width, channels = self.image_shape_
        return channels, height, width

    def _hold_out(self, images: Images, validation: Images | None, seed: int) -> tuple[Images, Images | None]:
        if validation is not None or not self.early_stopping:
            return images, validation
        # A conditional model has to see every class.
        kept, held = hold_out(
            len(images),
            self.validation_fraction,
            derive_seed(seed, "validation"),
            images.y if self.conditional else None,
        )
        asked = max(1, round(self.validation_fraction * len(images)))
        if asked >= len(images):
            raise ValueError(f"early stopping holds out {asked} of {len(images)} images: too few are left to train on")
        if not len(held):
            raise ValueError(
                f"early stopping holds images out, and {images.name} has one image of each class: train without it"
            )
        return images.take(np.sort(kept)), images.take(np.sort(held))

    @undisturbed
    def on_device(self, images: Images, device: torch.device) -> Data:
        """`images` as the module wants them, on `device`; tables standardised, labels for conditional models only. Images in a
        memory-mapped file stay there, and their batches are taken to the device.
        """
        self._check_names(images, reset=False)
        labels = None
        if self.conditional:
            if images.y is None:
                raise ValueError(no_labels(images, type(self).__name__))
            labels = filled(self._label_index(np.asarray(images.classes)[images.y], len(images))).to(device)
        mapped = is_mapped(images.x) and not images.is_table
        x = Mapped(images.x, device) if mapped else self._stored(np.asarray(images.x)).to(device)
        log_det = torch.from_numpy(self.log_det(images.x)) if images.is_table else None
        return Data(x, labels, dynamic=images.binarize == "dynamic", log_det=log_det)

    def _stored(self, x: np.ndarray) -> Tensor:
        """(N, H, W, C) images, or a table as standardised images (N, 1, D, 1)."""
        if x.ndim == 2:
            x = self.columns_.inputs(x)[:, None, :, None]
        return torch.from_numpy(np.require(x, requirements=("C", "W")))

    def _warn_about_likelihood(self, likelihood: str, images: Images) -> None:
        if likelihood == "bernoulli" and images.binarize == "none":
            top = 255 if images.x.dtype == np.uint8 else 1
            part = images.x[:1000]
            if not np.isin(part, (0, top)).all():
                warn(
                    "likelihood 'bernoulli' is a probability for black-and-white pixels only; these are grey, so its nats "
                    "are a cross-entropy and no likelihood: use 'gaussian' or 'discretized_logistic'"
                )

    def _warn_about_scale(self, images: Images) -> None:
        if images.is_table:
            return
        top = 255 if images.x.dtype == np.uint8 else 1
        if words := darkness(brightest(images.x, top / DARK + 1e-9), top):
            warn(f"images are {words}")

    def _warn_about_columns(self, images: Images) -> None:
        if images.is_table and self.scaling == "standard" and (badly := scaling_problem(images.x, images.header)):
            warn(f"{images.name} has columns that are {badly}")

    # ---- using a fitted model ----------------------------------------------------------------------------------

    @undisturbed
    def transform(self, X, y=None) -> np.ndarray:
        """X -> (N, latent_dim) posterior means."""
        return self.encode(X, y)

    @undisturbed
    def inverse_transform(self, Z, y=None) -> np.ndarray:
        """Z as `transform` gives it -> decoded images (the mean of p(x|z)) in the layout and dtype family of fit's X; a table
        as the data frame or array that fit's X was, as `sample` says.
        """
        return self._in_form(self._decode(self._as_latents(Z), y), self._frame, index=_index(Z))

    @undisturbed
    def reconstruct(self, X, y=None) -> np.ndarray:
        """inverse_transform(transform(X)): through the posterior mean, or the nearest codes. A data frame comes back as one."""
        y = self._labels_or_inferred(X, y)
        rebuilt = self._decode(self._as_latents(self.transform(X, y)), y)
        return self._in_form(rebuilt, frame_library(X), index=_index(X))

    @undisturbed
    def encode(self, X, y=None) -> np.ndarray:
        """X -> the mode of q(z|x): (N, latent_dim) float, or code indices (N, h, w) int64 of a VQ-VAE."""
        y = self._labels_or_inferred(X, y)
        codes = self._map(lambda x, y: self.model_.encode(x, y), X, y)
        if not np.isfinite(codes).all():
            raise ValueError("latents became NaN or infinite: the weights of this model are too large; train it again")
        return codes

    @undisturbed
    def decode(self, codes, y=None) -> np.ndarray:
        """Codes as `encode` gives them -> images."""
        return self.inverse_transform(codes, y)

    @undisturbed
    def sample(
        self,
        n: int = 1,
        y=None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        random_state=None,
        prior: str | None = None,
        clip: bool = False,
    ):
        """n new images: decoded draws from the prior, in the layout and dtype family of fit's X. A model of a table gives rows,
        in a data frame of the same library and column names where fit's X was one, else in an array. Columns of integers are
        rounded, those of 0 and 1 or booleans to one of the two, and constant ones are what they were.

        y: one label or n of them, for conditional models and class-conditional priors; None draws labels as frequent as in
            training.
        temperature: scales the spread of the prior, > 0. top_k (>= 1), top_p (in (0, 1]): for priors over codes only.
        prior: None is the fitted one where there is one; one that is far worse on held-out images than the one the model was
            trained with (`prior_is_worse`) only where y asks for its classes. "plain" and "fitted" ask for one or the other.
        clip: brings the values of each column of a table into the range seen in training.
        Raises NotFittedError for a VQ-VAE that has no fitted prior, ValueError for what doesn't fit.
        """
        self._check_fitted()
        self._check_has_samples(prior)
        if clip and len(self.image_shape_) == 3:
            raise ValueError("clip is for tables, whose columns have a range; images are in theirs already")
        by_class = self.sampling_classes() is None and self.sampling_classes("fitted") is not None
        if prior is None and y is not None and by_class:
            prior = "fitted"
        module = self.with_prior(prior)
        choices = self._check_choices(module.prior, temperature, top_k, top_p)
        if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
            raise ValueError(f"n must be a whole number >= 1, got {n!r}")
        seed = check_random_state(random_state)
        if self.conditional and y is None:
            y = np.random.default_rng(seed).choice(self.classes_, size=n, p=self.class_frequencies_)
        index = self._label_index(y, n, self.sampling_classes(prior))
        with seeded(seed), torch.inference_mode():
            parts = []
            for start in range(0, n, MOST):
                stop = min(n, start + MOST)
                labels = None if index is None else index[start:stop].to(self.device_)
                codes = module.prior.sample(stop - start, labels, temperature, **choices)
                for chosen, count in self._blocks(len(codes)):
                    known = labels[chosen] if labels is not None and self.conditional else None
                    parts.append(self._as_given(module.decode(codes[chosen], known)[:count].cpu()))
        return self._in_form(np.concatenate(parts), self._frame, clip=clip)

    def sampling_classes(self, prior: str | None = None) -> np.ndarray | None:
        """The labels that `sample` can be asked for: of a conditional model, or of its class-conditional prior. prior: as in
        `sample`.
        """
        if self.conditional:
            return self.classes_
        unused = prior == "plain" or (prior is None and self.prior_is_worse)
        return None if unused else getattr(self, "prior_classes_", None)

    def sampling_shares(self, prior: str | None = None) -> np.ndarray:
        """How frequent each of `sampling_classes` was in training; sums to 1."""
        if self.conditional:
            return self.class_frequencies_
        shares = self.with_prior("fitted").prior.class_shares.cpu().double().numpy()
        return shares / shares.sum()

    @undisturbed
    def score_samples(self, X, y=None, n_draws: int = 8) -> np.ndarray:
        """(N,) ELBO in nats per sample, a lower bound of log p(x): `n_draws` fixed noise vectors, the same for every
        image, so it is a function of the image. Conditional models without y sum over the classes: log sum_y p(y) p(x|y).
        Tables count the standardisation's Jacobian, so nats are in the original units.
        """
        self._check_fitted()
        if self.conditional and y is None:
            joint = self._class_elbos(X, n_draws) + np.log(np.maximum(self.class_frequencies_, 1e-300))
            return np.logaddexp.reduce(joint, axis=1)
        return self._elbo(X, y, n_draws)

    @undisturbed
    def score(self, X, y=None) -> float:
        """The mean of `score_samples`: ELBO in nats per sample; higher is better."""
        return float(np.mean(self.score_samples(X, y)))

    @undisturbed
    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = False,
        license: str | None = None,
        evaluation: dict | str | None = None,
        commit_message: str | None = None,
        token: str | None = None,
    ) -> str:
        """Uploads the model to `repo_id`, "user/name", on the Hugging Face Hub as a run folder with a model card, which
        `load("hf://user/name")` reads: see `vaekit.hub.push_to_hub`. Returns the web address of the commit.
        """
        return push_to_hub(
            self,
            repo_id,
            private=private,
            license=license,
            evaluation=evaluation,
            commit_message=commit_message,
            token=token,
        )

    # ---- inside ------------------------------------------------------------------------------------------------

    @property
    def device_(self) -> torch.device:
        """Where the fitted module lives."""
        return next(self.model_.parameters()).device

    @undisturbed
    def log_det(self, x: np.ndarray) -> np.ndarray:
        """(N,) log-determinant of a table's scaling at its rows x: what the nats of their density lose in its own units; 0 for
        images.
        """
        return self.columns_.log_det(x) if len(self.image_shape_) == 1 else np.zeros(len(x))

    def _check_fitted(self) -> None:
        if not hasattr(self, "n_parameters_"):
            raise NotFittedError(f"this {type(self).__name__} is not fitted yet: call fit first")

    @property
    def _n_features_out(self) -> int:
        """Columns that `transform` gives, which `get_feature_names_out` names."""
        return self.model_.latent.latent_dim

    def _check_names(self, X, *, reset: bool) -> None:
        """Takes the column names of a data frame into `feature_names_in_`, or compares them, as scikit-learn does. `Images`
        know theirs; of an array among them nothing is known and nothing said.
        """
        if not isinstance(X, Images):
            validate_data(self, X, reset=reset, skip_check_array=True, ensure_2d=False)  # pyright: ignore[reportArgumentType]
            return
        if reset:
            validate_data(self, X.x, reset=True, skip_check_array=True, ensure_2d=False)  # pyright: ignore[reportArgumentType]
            self._take_names(X.header)
        elif hasattr(self, "columns_") and X.header is not None:
            names, known = X.header.names, self.columns_.header.names
            if names is not None and known is not None and places_of(known, names, X.name) != list(range(len(names))):
                raise ValueError(f"{X.name} has the model's columns in another order: {listed(list(map(str, names)))}")

    def _take_names(self, header: Header | None) -> None:
        if header is not None and header.names is not None and all(isinstance(name, str) for name in header.names):
            self.feature_names_in_ = np.asarray(header.names, dtype=object)

    def _check_input(self, X) -> np.ndarray:
        self._check_fitted()
        self._check_names(X, reset=False)
        if isinstance(X, Images):
            return X.x
        if getattr(X, "shape", None) in (self.image_shape_, self.image_shape_[:2]) and len(self.image_shape_) == 3:
            raise ValueError(
                f"X has the shape {X.shape} of a single image, and the model takes several: of one make a batch, X[None]"
            )
        white = self._x_layout["white"]
        x = check_array(X, white=white)
        if white == 255 and x.ndim == 4 and x.dtype == np.uint8 and brightest(x, 2) == 1:
            warn(
                "X holds the integers 0 and 1 alone, and they are taken for 0 and 1 of 255, as the model was fitted on 8-bit "
                "images: if 1 is white, pass X * 255, or booleans"
            )
        return x if x.shape[1:] == self.image_shape_ else self._in_shape(x)

    def _in_shape(self, x: np.ndarray) -> np.ndarray:
        """x, which has another shape than fit's images, with their channels where nothing is lost by it. Raises ValueError for
        anything else, with what would do.
        """
        shape, found = self.image_shape_, x.shape[1:]
        same = math.prod(found) == math.prod(shape)
        if len(shape) == 1:
            features = found[0] if x.ndim == 2 else found
            raise ValueError(
                f"X has {features} features, but {type(self).__name__} is expecting {shape[0]} features as input"
                + ("; pass X.reshape(len(X), -1)" if same and x.ndim > 2 else "")
            )
        remedy = ""
        if x.ndim == 2 and same:
            remedy = f"; pass X.reshape(-1, {', '.join(map(str, shape))})"
        elif x.ndim == 4 and found[:2] == shape[:2]:
            converted, lost = in_channels(x, shape[2])
            if not lost and converted.shape[1:] == shape:
                return converted
            weights = "X[..., :3] @ [0.299, 0.587, 0.114]" + (" / 255" if x.dtype == np.uint8 else "")
            remedy = {
                "colours": f", which would lose their colours: {weights} makes them grey",
                "transparency": ", which would lose their transparency: X[..., :3] leaves it out",
            }.get(lost, "")
        raise ValueError(f"X has images of shape {found}, but the model was fitted on {shape}{remedy}")

    def _label_index(self, y, n: int, classes=None) -> Tensor | None:
        """Labels as the user gives them (one, or n) -> (n,) int64 indices of `classes`, by default the model's; None where
        there are no classes.
        """
        if classes is None and self.conditional:
            classes = self.classes_
        if classes is None or y is None:
            return None
        y = np.full(n, y) if np.ndim(y) == 0 else label_column(y, n)
        if y.dtype.kind == "f" and (whole := as_whole(y)) is not None:
            y = whole  # as `fit` takes them
        known = {str(label): index for index, label in enumerate(classes)}
        names = [str(label) for label in y.tolist()]
        unknown = sorted(set(names) - set(known))
        if unknown:
            raise ValueError(f"unknown label {unknown[0]!r}; the model knows {', '.join(known)}")
        return torch.tensor([known[name] for name in names], dtype=torch.int64)

    def _labels_or_inferred(self, X, y):
        return y

    def _map(self, function, X, y) -> np.ndarray:
        """function(x, y) over batches on the device, in eval mode -> numpy, concatenated."""
        return self._over(function, self._check_input(X), y)

    def _over(self, function, x: np.ndarray, y) -> np.ndarray:
        """`_map` of an x that has been checked."""
        index = self._label_index(y, len(x))
        parts = []
        with torch.inference_mode():
            for chosen, count in self._blocks(len(x)):
                batch = to_input(self._stored(x[chosen]).to(self.device_))
                labels = None if index is None else index[chosen].to(self.device_)
                parts.append(function(batch, labels)[:count].cpu())
        return torch.cat(parts).numpy()

    def _blocks(self, n: int) -> Iterator[tuple[slice | np.ndarray, int]]:
        """Which of n samples go to the module at once, and how many of them count. A table's rows are filled up to a
        multiple of ROWS with rows that don't: a matrix product rounds a row by the shape of its batch, so that without them
        the same row gave another result in another batch (by 1e-6 or so). Images are left as they are: a single one would
        cost as much as 64.
        """
        images, size = len(self.image_shape_) == 3, MOST
        if images and n > FEWEST:
            label = torch.zeros(1, dtype=torch.int64, device=self.device_) if self.conditional else None
            size = samples_at_once(self.model_, torch.zeros(1, *self._module_shape(), device=self.device_), label)
        for start in range(0, n, size):
            stop = min(n, start + size)
            if images:
                yield slice(start, stop), stop - start
            else:
                yield np.resize(np.arange(start, stop), -(-(stop - start) // ROWS) * ROWS), stop - start

    def _as_latents(self, Z) -> Tensor:
        """User's latents -> decoder inputs (N, D[, h, w])."""
        return self._check_latents(Z, self.latent_dim)

    def _check_latents(self, Z, width: int) -> Tensor:
        """(N, width) finite numbers as a float tensor, or ValueError."""
        Z = as_array(Z, "latents")
        if Z.ndim != 2 or Z.shape[1] != width or Z.dtype.kind not in "fiu":
            raise ValueError(f"latents must be numbers of shape (N, {width}), got {Z.dtype} of shape {Z.shape}")
        if not np.isfinite(Z).all():
            raise ValueError("latents must be finite, got NaN or infinity")
        return torch.from_numpy(Z.astype(np.float32))

    def _decode(self, z: Tensor, y) -> np.ndarray:
        self._check_fitted()
        index = self._label_index(y, len(z))
        if self.conditional and index is None:
            raise ValueError(f"{type(self).__name__} is conditional: decoding needs labels y")
        parts = []
        with torch.inference_mode():
            for chosen, count in self._blocks(len(z)):
                labels = None if index is None else index[chosen].to(self.device_)
                decoded = self.model_.decode_embedded(z[chosen].to(self.device_), labels)
                parts.append(self._as_given(decoded[:count].cpu()))
        return np.concatenate(parts)

    def _as_given(self, x: Tensor) -> np.ndarray:
        """(N, C, H, W) decoded -> the layout and dtype family of fit's X; of a table (N, D) float64 in its own units."""
        out = x.permute(0, 2, 3, 1).contiguous().numpy()
        if not np.isfinite(out).all():
            raise ValueError(
                "decoded images hold NaN or infinity: the latents, or the weights of this model, are too large"
            )
        if len(self.image_shape_) == 1:
            return self.columns_.restore(out[:, 0, :, 0])
        if not self._x_layout["channel_axis"]:
            out = out[..., 0]
        return np.rint(out * self._x_layout["white"]).astype(np.uint8) if self._x_layout["eight_bit"] else out

    def in_pixels(self):
        """This estimator, or where images come back from it as 0 and 1, one from which they come as 0 to 255, for pictures."""
        other = copy.copy(self)
        other._x_layout = {**self._x_layout, "white": 255 if self._x_layout["eight_bit"] else None}
        return other

    def _in_form(self, x: np.ndarray, frame: str | None = None, *, index=None, clip: bool = False):
        """What `_as_given` gave, as it goes to the user: images are, rows of a table take the form of their columns."""
        if len(self.image_shape_) == 3:
            return x
        return self.columns_.given(self.columns_.settled(x, within=clip), frame, index)

    @property
    def _frame(self) -> str | None:
        """The library of the data frame that fit's X was; None where that is not installed here."""
        frame = self.columns_.header.frame if len(self.image_shape_) == 1 else None
        if frame is not None and importlib.util.find_spec(frame) is None:
            warn(
                f"this model was fitted on a data frame of {frame}, which is not installed here: its rows come in an array"
            )
            return None
        return frame

    def _elbo(self, X, y, n_draws: int) -> np.ndarray:
        model = self.model_
        n_draws = 1 if isinstance(model.latent, VectorQuantizer) else n_draws  # of a quantizer all are the same

        def elbo(x: Tensor, labels: Tensor | None) -> Tensor:
            with seeded(SCORE_SEED):
                h = model.encoder(x, labels)
                draws = [torch.stack(distortion_and_rate(model.trace(h, x, labels))).sum(0) for _ in range(n_draws)]
            return -torch.stack(draws).mean(0)

        x = self._check_input(X)
        return self._over(elbo, x, y).astype(np.float64) - self.log_det(x)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


def _state(objective: Objective) -> dict[str, Tensor]:
    """What an objective has learned; {} of one that learns nothing."""
    return objective.state_dict() if isinstance(objective, nn.Module) else {}


def _index(X):
    """The index of a pandas frame, None of anything else."""
    return X.index if frame_library(X) == "pandas" else None


def _layout(X, white: int | None) -> dict:
    """How images came, so that they go back the same way: with a channel axis or not, as integers up to `white` or floats."""
    X = X if isinstance(X, Rows) else as_array(X)
    return {"channel_axis": X.ndim == 4, "eight_bit": X.dtype.kind in "iub" and X.ndim > 2, "white": white}


def _white(X) -> int | None:
    """What is white in the integers of `X`: 1 where there are 0 and 1 alone, or booleans, else 255; None for floats."""
    x = as_array(X)
    if x.dtype.kind not in "iub" or x.ndim < 3:
        return None
    return 1 if x.dtype.kind == "b" or brightest(x, 2) == 1 else 255


def _decoding(images: Images) -> dict | None:
    """How `images` became what they are, for run.json: what differs from the defaults of those before, and the white found."""
    asked = {} if images.files is None else images.files.decoding._asdict()
    known = asked | ({} if images.white is None else {"white": images.white})
    return {name: value for name, value in known.items() if value is not None or name == "resize"} or None
