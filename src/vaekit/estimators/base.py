"""What every model is to its user: fields, `fit`, and a `Fitted` that calls are passed on to. A named model says which parts
and which objective it stands for.
"""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from vaekit.data.arrays import given_images
from vaekit.data.augment import read_augment
from vaekit.data.checks import check_array, check_labels, no_labels
from vaekit.data.columns import SCALINGS, Header
from vaekit.data.format import Format, index_labels
from vaekit.data.frames import table_header
from vaekit.data.images import Images
from vaekit.estimators.face import Face
from vaekit.estimators.fields import Fields
from vaekit.estimators.fitting import Fitting, fit_more, read_run
from vaekit.messages import check_number, filled, nearest
from vaekit.models.autoencoder import Autoencoder
from vaekit.models.objectives import Elbo
from vaekit.parts.latents import GaussianLatent
from vaekit.parts.likelihoods import LIKELIHOODS, Likelihood, make_likelihood
from vaekit.parts.networks import ARCHITECTURES, DENSE, PICTURE, grid_of, make_networks
from vaekit.parts.priors import StandardNormalPrior
from vaekit.ranks import from_first, is_first
from vaekit.second_stage import fit_prior_to
from vaekit.state import undisturbed, unwarned
from vaekit.training.checkpoint import RunFolder, by_first
from vaekit.training.compiled import by_default
from vaekit.training.events import LOGS, Events
from vaekit.training.plan import OPTIMIZERS, SCHEDULES, Plan, check_time_budget, steps_per_epoch
from vaekit.training.step import Objective
from vaekit.world import PRECISIONS, check_random_state, derive_seed, gains_by_bfloat16, pick_device, seeded

GRID_WIDTH = 4  # latents of a cell
WEIGHT_DECAY = {False: 1.0, True: 0.5}  # by Muon, of FEW pictures or fewer: whether latents or codes are a grid
FEW = 5000
MANY = 64  # latents, for which a linear map is enough


class Estimator(Fields, Face):
    """What every model shares. Images are uint8, or floats in [0, 1], of shape (N, H, W) or (N, H, W, C); tables are
    (N, D) finite reals, standardised inside, in arrays or in data frames of pandas or polars. After `fit`: `fitted_` (what the
    training left), and of it `model_` (the nn.Module), `history_` (a record per epoch), `n_parameters_`, `image_shape_`,
    `columns_` (of a table), `resolved_` (the fields whose None was filled in, and with what).
    """

    conditional: ClassVar[bool] = False
    discrete: ClassVar[bool] = False  # whether codes are indices, and `latent_dim` has no part in them
    rate_weight: ClassVar[str | None] = None  # the field that weighs the rate
    muon_from: ClassVar[int] = 0  # pixels of a picture's shorter side, from which that is the optimizer
    adam_rate: ClassVar[float] = 0.004  # the peak learning rate of Adam, for FEW or more
    warms_rate: ClassVar[bool] = True  # whether the rate's weight can rise from 0
    first_epochs: ClassVar[str] = "rate_warmup_epochs"  # the field that says how many are trained by another objective

    # ---- what a named model says -------------------------------------------------------------------------------

    def make_objective(self, steps_per_epoch: int) -> Objective:
        """The objective; called with the fields resolved."""
        return self.elbo(1.0, steps_per_epoch)

    def elbo(self, beta: float, steps_per_epoch: int) -> Elbo:
        """The ELBO with its rate weighted by `beta`, which rises over `rate_warmup_epochs`."""
        return Elbo(beta=beta, warmup=round(filled(self.rate_warmup_epochs) * steps_per_epoch))

    @property
    def unsettled_epochs(self) -> float:
        """Epochs, the first ones, with another objective than the last: whose weight of the rate still rises."""
        return getattr(self, self.first_epochs) or 0.0  # None in a run from before there was the field

    def defaults(self, *, wang2023: bool, shape: tuple[int, ...], epochs: float) -> dict:
        """Values for fields that are None, for samples of `shape` and a training of so many epochs, where they are not those of
        every model.
        """
        return {}

    def build(self, shape: tuple[int, int, int], *, n_classes: int = 0, images: bool = True) -> Autoencoder:
        """The untrained module for inputs of `shape` (C, H, W): every published model is a choice of parts here."""
        likelihood, latent_dim = self.build_likelihood(images).of(shape), self.latent_dim or self._latent_dim(shape)
        width = latent_dim // self._cells(shape)
        networks = make_networks(
            filled(self.architecture),
            shape,
            features=2 * width,
            latent_dim=width,
            out_channels=likelihood.channels(shape[0]),
            spatial=self.grid,
            n_classes=n_classes,
            hidden=self.hidden,
            dense=DENSE if self.width is None else self.width,
        )
        return Autoencoder(
            encoder=networks.encoder,
            latent=GaussianLatent(latent_dim=latent_dim, grid=networks.grid),
            decoder=networks.decoder,
            prior=StandardNormalPrior(latent_dim=latent_dim),
            likelihood=likelihood,
            n_classes=n_classes,
            images=images,
        )

    def _cells(self, shape: tuple[int, int, int]) -> int:
        """How many vectors z is of for inputs of `shape` (C, H, W): one, or those of a grid."""
        return math.prod(grid_of(self.architecture or "conv", shape)) if self.grid else 1

    @property
    def hidden(self) -> tuple[int, int]:
        """Widths of the mlp's hidden layers; a run that knows no width is from before it was a field."""
        width = self.width or 512
        return (width, max(1, width // 2))

    def build_likelihood(self, images: bool) -> Likelihood:
        """The likelihood that `likelihood` names. The report's decoder ends in a ReLU of its own."""
        bounded = images and self.architecture != "wang2023"
        return make_likelihood(filled(self.likelihood), variance=self.likelihood_variance, bounded=bounded)

    # ---- fitting -----------------------------------------------------------------------------------------------

    @undisturbed
    def fit(self, X, y=None):
        """Trains on X; `y` is ignored unless the model is conditional, and then compulsory. Returns self.

        Raises ValueError for data or fields that don't fit, TrainingFailed when a number stops being finite.
        """
        images = given_images(X, y if self.conditional else None)
        self._take_names(X)
        return self._fit(images, X)

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
        self._take_names(images.x)
        self._take_header(images.header)
        events = Events(Path(folder) / log) if folder and log and is_first() else None
        run = by_first(RunFolder(folder, events)) if folder else None
        how = {"validation": validation, "resume": resume, "same_epochs": same_epochs, "time_budget": time_budget}
        return self._fit(images, images, run=run, **how)

    @undisturbed
    def partial_fit(self, X, y=None, classes=None):
        """One more pass over X with the weights there are; where nothing is fitted yet, it starts as `fit` on this X would.
        Returns self.

        classes: for a conditional model, all labels that will ever come; the first call needs them where its y lacks some.
        The pass is in batches of the same size, `batch_size` or a little less, which leave out fewer rows than there are
        batches. Standardisation, classes and the fields that are None are the first call's. The learning rate stays at its
        peak, whatever `schedule` says. `history_` goes on by a record a call; a fitted prior is forgotten, since the codes
        have changed. The optimizer's moments go on from call to call, and start anew after `fit` and `load`.
        Raises ValueError for data of another shape, labels that the first call did not know, and early stopping.
        """
        if self.early_stopping:
            raise ValueError("partial_fit can't stop early, since it has no end: set early_stopping=False, or call fit")
        fitted = self.fitted_ if self.__sklearn_is_fitted__() else None
        x = check_array(X) if fitted is None else self._asked(X).format.check(X, type(self).__name__)
        images = Images(x, None, (), "array", header=table_header(X))
        if self.conditional and y is not None:
            known = (check_labels(y, len(x)) if classes is None else check_labels(classes, len(classes), "classes"))[1]
            if fitted is not None and classes is not None and list(known) != self.classes_.tolist():
                raise ValueError(f"classes must be the first call's, {self.classes_.tolist()}, got {list(known)}")
            known = known if fitted is None else tuple(self.classes_.tolist())
            index = filled(index_labels(y, len(x), known)).numpy()
            images = Images(x, index, known, "array", header=images.header)
        self.check(images)
        if fitted is None:
            self._take_names(X)
        self.fitted_, self._trainer = fit_more(self, images, X, fitted, getattr(self, "_trainer", None))
        return self

    def _fit(self, images: Images, given, *, run: RunFolder | None = None, validation=None, time_budget=None, **how):
        if run:
            run.check()
        self.check(images)
        seed = from_first(lambda: check_random_state(self.random_state))
        check_time_budget(time_budget)
        how |= {"validation": validation, "run": run, "time_budget": time_budget}
        fitting = Fitting(self, images, given, seed, **how)
        if fitting.is_done:
            return self.restore(filled(run), filled(fitting.recorded))
        self.fitted_ = fitting.train()
        self._trainer = fitting.course.objective, None
        if run and run.events:
            run.events.show(self._pictures(images), step=self.history_[-1]["step"])
        return self

    @undisturbed
    def fit_prior_images(
        self, images: Images, settings, *, folder: str | None = None, time_budget: float | None = None
    ):
        """`fit_prior` on `images`, by class where they have labels: see `second_stage.fit_prior_to`. Returns self."""
        how = {"folder": folder, "time_budget": time_budget, "verbose": self.verbose}
        fit_prior_to(self._ready(), images, settings, **how)
        return self

    def _pictures(self, images: Images) -> dict:
        """Figures of what a training came to, by name: ten reconstructions, and samples where the model has some."""
        from vaekit.hub import draw_samples
        from vaekit.pictures.sheets import reconstructions

        if images.is_table or images.image_shape[2] == 2:
            return {}
        some = images.take(np.arange(min(10, len(images))))
        x, labels = np.asarray(some.x), np.asarray(some.classes)[some.y] if self.conditional else None
        pictures = {"reconstructions": reconstructions(x, {type(self).__name__: self.reconstruct(x, labels)})}
        samples = draw_samples(self.fitted_)
        return pictures | ({"samples": samples} if samples else {})

    @undisturbed
    def restore(self, run: RunFolder, config: dict, *, prior: bool = True):
        """Becomes the run in `run`, with its fitted prior where there is one and unless `prior` is False. One that is not
        finished is taken as of its last checkpoint, and its record's `unfinished` says where that is: "epoch 18 of 50".
        """
        self.fitted_ = read_run(self, run, config)
        self.__dict__.pop("_trainer", None)
        if (columns := self.fitted_.format.columns) is not None:
            self._take_header(columns.header)
        if prior and run.prior_file.exists():
            self.load_prior(run.prior_file)
        return self

    def _take_header(self, header: Header | None) -> None:
        """The names of a table's columns as `feature_names_in_`."""
        if header is not None and header.names is not None and all(isinstance(name, str) for name in header.names):
            self.feature_names_in_ = np.asarray(header.names, dtype=object)

    # ---- fields ------------------------------------------------------------------------------------------------

    @undisturbed
    def check(self, images: Images) -> None:
        """Raises ValueError where `check_fields` does, or where no network can be made for `images`."""
        self.check_fields(images)
        classes = np.asarray(images.classes) if self.conditional else None
        format = Format(tuple(images.x.shape[1:]), classes=classes)
        with unwarned(), torch.device("meta"):
            self.filled_in(self.resolve(format, len(images))).make_module(format, 0)

    @undisturbed
    def check_fields(self, images: Images) -> None:
        """Raises ValueError where a field has no meaningful value, or asks for what `images` can't give."""
        self._check_values()
        if self.conditional and images.y is None:
            raise ValueError(
                f"{type(self).__name__} is conditional: it requires y to be passed, but the target y is None"
            )
        if images.is_table and self.architecture not in (None, "mlp"):
            raise ValueError(f"architecture {self.architecture!r} is for images; tables need 'mlp'")
        if self.grid:
            self._check_grid(images)
        if self.scaling != "standard" and not images.is_table:
            raise ValueError(f"scaling {self.scaling!r} is for the columns of tables; images need 'standard'")
        if self.width is not None and not images.is_table and not self._has_width:
            raise ValueError(
                f"width={self.width} is that of the mlp's layers, or of the one between convolutions and a vector of latents; "
                f"{type(self).__name__} has none with architecture={self.architecture!r} and grid={self.grid}"
            )
        if images.is_table or self.architecture == "mlp":
            check_number("width", self.width, whole=True, above=0)
        if images.is_table and self.likelihood is not None and not make_likelihood(self.likelihood).reals:
            raise ValueError(f"likelihood {self.likelihood!r} is for images; tables need 'gaussian'")
        if images.is_table and self.augment is not None:
            raise ValueError(f"augment={self.augment!r} is for images, and this is a table")
        if not images.is_table and self.likelihood == "gaussian_columns":
            raise ValueError(f"likelihood {self.likelihood!r} is for tables; images need 'gaussian'")

    def _check_grid(self, images: Images) -> None:
        if self.discrete:
            raise ValueError("grid is for Gaussian latents; a VQ-VAE's codes are a grid anyway")
        if images.is_table or self.architecture not in (None, "conv", "resnet"):
            what = "tables" if images.is_table else f"architecture {self.architecture!r}"
            raise ValueError(f"grid is for pictures and the architectures conv and resnet; got {what}")
        cells = self._cells(Format(images.image_shape).module_shape)
        if self.latent_dim is not None and self.latent_dim % cells:
            raise ValueError(
                f"latent_dim must be a multiple of the {cells} cells of the grid for images of this size, got {self.latent_dim}"
            )

    def _check_values(self) -> None:
        if self.random_state is not None:  # which draws from numpy's global state: once, where the seed is needed
            check_random_state(self.random_state)
        for field in fields(self):
            if getattr(self, field.name) is None and field.default is not None:
                raise ValueError(f"{field.name} must not be None")
        for name in ("latent_dim", "epochs", "batch_size", "accumulate", "n_iter_no_change"):
            check_number(name, getattr(self, name), whole=True, above=0)
        for name in ("learning_rate", "gradient_clip", "likelihood_variance"):
            check_number(name, getattr(self, name), above=0)
        for name in ("width", "warmup_steps"):
            check_number(name, getattr(self, name), whole=True)
        for name in ("rate_warmup_epochs", "weight_decay"):
            check_number(name, getattr(self, name))
        for name, known in (
            ("architecture", ARCHITECTURES),
            ("likelihood", LIKELIHOODS),
            ("scaling", SCALINGS),
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("precision", tuple(PRECISIONS)),
        ):
            value = getattr(self, name)
            if value is not None and value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}{nearest(str(value), known)}")
        read_augment(self.augment)
        if self.compile not in (None, True, False):
            raise ValueError(f"compile must be None, True or False, got {self.compile!r}")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(f"validation_fraction must be between 0 and 1, got {self.validation_fraction}")

    def resolve(self, format: Format, n: int, *, steps: int | None = None) -> dict:
        """The fields that are None, filled in for n samples of `format`; steps: of a run that is shorter or longer than its
        epochs say. Raises ValueError where its steps would turn weights over.
        """
        wang2023 = self.architecture == "wang2023"
        table = format.is_table
        batch_size = self.batch_size or (100 if wang2023 else 128 if n >= FEW else 64)
        per_epoch = steps_per_epoch(n, batch_size)
        optimizer = self.optimizer_for(format.shape)
        muon = optimizer == "muon"
        epochs = self.epochs or (50 if wang2023 else self._passes(format.shape, per_epoch, muon=muon))
        steps = steps or epochs * per_epoch
        peak = 0.01 if muon else 0.002 if n < FEW else self.adam_rate
        defaults = {
            "latent_dim": self._latent_dim(format.module_shape),
            "architecture": "mlp" if table else "conv",
            "width": self._width(format, n),
            "likelihood": "gaussian_fixed" if wang2023 else "gaussian_columns" if table else "gaussian",
            "epochs": epochs,
            "batch_size": batch_size,
            "optimizer": optimizer,
            "learning_rate": 0.005 if wang2023 else peak,
            # The fewer pictures there are, the more is learned by heart without.
            "weight_decay": round(WEIGHT_DECAY[self.grid or self.discrete] * min(1.0, FEW / n), 3) if muon else 0.0,
            "schedule": "constant" if wang2023 else "linear" if muon else "cosine",
            # Shorter rises of Adam's were measured to end, for some seeds, in a decoder that is black everywhere and stays so.
            "warmup_steps": 0 if wang2023 else min(200, steps // (50 if muon and not self.discrete else 5)),
            "rate_warmup_epochs": 0.0 if wang2023 else min(0.1 * steps, 500) / per_epoch,
            "compile": by_default(self.architecture or ("mlp" if table else "conv"), steps, self.device),
            "precision": self._precision(format.shape, n),
            **self.defaults(wang2023=wang2023, shape=format.shape, epochs=steps / per_epoch),
        }
        rate = self.learning_rate or defaults["learning_rate"]
        decay = defaults["weight_decay"] if self.weight_decay is None else self.weight_decay
        if decay * rate >= 1:
            raise ValueError(
                f"weight_decay must be below 1 / learning_rate, here {1 / rate:g}, or a step turns weights over; got {decay:g}"
            )
        return {name: value for name, value in defaults.items() if getattr(self, name) is None}

    def _passes(self, shape: tuple[int, ...], per_epoch: int, *, muon: bool) -> int:
        """Epochs that samples of `shape` are learned in, of so many steps each."""
        # Muon soon learns what there is in small pictures, and what comes after that by heart, the sooner the fewer they are.
        soon = muon and self._convolves(shape) and min(shape[:2]) < PICTURE and not (self.discrete or self.grid)
        passes = min(max(50, (300 if soon else 1000) // per_epoch), 6000 // per_epoch)
        if self.grid:
            return max(4, passes // 3)  # what is local repeats within a picture
        return max(12, passes // 2 if soon else passes)

    def _latent_dim(self, shape: tuple[int, int, int]) -> int:
        """For inputs of `shape` (C, H, W): what pictures hold grows with their size; digits and tables, of which a person asks
        for few numbers, get few.
        """
        if self.grid:
            return GRID_WIDTH * self._cells(shape)
        if min(shape[1:]) < PICTURE:
            return 10
        return 2 ** round(math.log2(min(256, max(16, math.prod(shape) / 48))))

    @property
    def _has_width(self) -> bool:
        """Whether images go through layers whose width can be chosen."""
        return self.architecture == "mlp" or not (self.architecture == "wang2023" or self.grid or self.discrete)

    def _width(self, format: Format, n: int) -> int | None:
        """For n samples of `format`. Many latents of a picture were measured to be better without a layer before them, few
        with one.
        """
        if format.is_table or self.architecture == "mlp":
            # A few hundred rows are learned by heart by a wider one, and the sigma learned with them is then far too small.
            return 128 if format.is_table and n < 1000 else 512
        if not self._has_width:
            return None
        many = (self.latent_dim or self._latent_dim(format.module_shape)) >= MANY
        return 0 if many and min(format.shape[:2]) >= PICTURE else DENSE

    def _precision(self, shape: tuple[int, ...], n: int) -> str:
        """For n samples of `shape`. A few small pictures are soon learned in either."""
        large = n >= FEW or min(shape[:2]) >= PICTURE
        gains = large and self._convolves(shape) and gains_by_bfloat16(pick_device(self.device))
        return "bfloat16" if gains else "float32"

    def _convolves(self, shape: tuple[int, ...]) -> bool:
        """Whether samples of `shape` go through our own convolutional networks."""
        return len(shape) == 3 and self.architecture in (None, "conv", "resnet")

    def optimizer_for(self, shape: tuple[int, ...]) -> str:
        """The optimizer for samples of `shape`. Muon learns pictures in less time; the mlp's wide matrices cost it more than it
        gains.
        """
        return self.optimizer or ("muon" if self._convolves(shape) and min(shape[:2]) >= self.muon_from else "adam")

    def filled_in(self, resolved: dict | None = None):
        """A copy of this estimator whose fields are all filled in: by `resolved`, or after `fit` by what it filled in."""
        resolved = self.fitted_.record.resolved if resolved is None else resolved
        if empty := [name for name, value in resolved.items() if value is None and name != "width"]:
            raise ValueError(f"{empty[0]} is not filled in")  # not all networks have a width
        return type(self)(**{**{f.name: getattr(self, f.name) for f in fields(self)}, **resolved})

    def settings(self) -> dict:
        """The fields as JSON-able values."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values = {name: value.item() if isinstance(value, np.generic) else value for name, value in values.items()}
        values["random_state"] = values["random_state"] if isinstance(values["random_state"], int) else None
        return values

    def make_plan(self, steps: int, seed: int, per_epoch: int) -> Plan:
        """The plan of a training of `steps` steps; called with the fields resolved."""
        return Plan(
            steps=steps,
            batch_size=filled(self.batch_size),
            learning_rate=filled(self.learning_rate),
            accumulate=self.accumulate,
            optimizer=filled(self.optimizer),
            schedule=filled(self.schedule),
            warmup=min(filled(self.warmup_steps), steps),
            # A shorter memory of squared gradients than Adam's usual one: measured to learn faster in a few epochs.
            betas=(0.9, 0.999) if self.architecture == "wang2023" else (0.9, 0.99),
            weight_decay=filled(self.weight_decay),
            gradient_clip=self.gradient_clip,
            patience=self.n_iter_no_change if self.early_stopping else None,
            patience_from=round(self.unsettled_epochs * per_epoch) if self.early_stopping else 0,
            precision=filled(self.precision),
            compile=bool(self.compile),  # whatever counts as one: run.json holds a true or false
            seed=seed,
        )

    def make_module(self, format: Format, seed: int) -> Autoencoder:
        """The untrained module for data of `format`; called with the fields resolved."""
        n_classes = 0 if format.classes is None else len(format.classes)
        with seeded(derive_seed(seed, "weights")):
            module = self.build(format.module_shape, n_classes=n_classes, images=not format.is_table)
        return module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  (torch declares no such form)


def balanced_beta(shape: tuple[int, ...]) -> float:
    """A beta for inputs of this size: distortion grows with the number of values, so a constant would mean less and
    less. Measured on 8x8 and 28x28 digits, where it leaves 1 to 2 nats a latent.
    """
    return max(1.0, math.sqrt(math.prod(shape)) / 2.8)
