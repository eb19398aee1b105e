"""The second stage of an estimator: a prior fitted to the latents or codes of the trained model, kept beside its weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from sklearn.exceptions import NotFittedError
from torch import Tensor, nn

from vaekit import __version__
from vaekit.data.images import Images, check_labels, fingerprint
from vaekit.messages import check_number, first_line
from vaekit.models.autoencoder import Autoencoder
from vaekit.parts.priors import AutoregressivePrior, StandardNormalPrior, UniformPrior
from vaekit.state import undisturbed
from vaekit.training.checkpoint import CLOCK, RunFolder, check_finite, digest, mismatch, read_tensors, write_tensors
from vaekit.training.loop import check_time_budget, start_clock
from vaekit.training.prior import PriorSettings, describe_prior, fit_prior, make_prior, parts_of
from vaekit.world import MOST, check_random_state, seeded

WORSE = 0.1  # of the plain prior's rate, or a nat: by more a fitted prior is far worse than that one


class SecondStage:
    """What `Estimator` can do once it is fitted: fit a prior, save and load it, and say which prior is in use."""

    # What it needs of the estimator.
    conditional: ClassVar[bool]
    latent_dim: int
    verbose: bool
    model_: Autoencoder
    device_: torch.device
    image_shape_: tuple[int, ...]
    classes_: np.ndarray
    facts_: dict
    on_device: Callable
    sampling_classes: Callable
    _check_fitted: Callable
    _check_input: Callable
    _check_latents: Callable
    _label_index: Callable

    @undisturbed
    def fit_prior(self, X, y=None, *, time_budget: float | None = None, **settings):
        """Fits a prior to the latents or codes of X, which `sample` and the ELBO then use unless it is far worse than the
        plain one (`prior_is_worse`). Returns self.

        y: labels make the prior class-conditional, p(z|y); a conditional model needs them.
        time_budget: seconds the fitting may take; it is made shorter to fit, and ends where it is when they are over.
        settings: the fields of `PriorSettings`, such as prior="flow", epochs=20, layers=15, channels=128.
        Afterwards: `prior_history_` (a record per epoch: `rate` in nats per image), `prior_facts_` (rates of held-out images
        under it and under simpler priors), `prior_settings_`, `prior_classes_`.
        """
        x = self._check_input(X)
        labels, classes = (None, ()) if y is None else check_labels(y, len(x))
        return self.fit_prior_images(
            Images(x, labels, classes, "array", fingerprint(x, labels)),
            PriorSettings(**settings),
            time_budget=time_budget,
        )

    @undisturbed
    def fit_prior_images(
        self,
        images: Images,
        settings: PriorSettings,
        *,
        folder: str | None = None,
        time_budget: float | None = None,
    ):
        """`fit_prior` on `images`, by class where they have labels: what `vaekit fit-prior` calls. Returns self.

        folder: the model's run folder; the prior is written there, a prior before it replaced, and a training that was
        interrupted gone on with.
        time_budget: seconds, of this call.
        """
        self._check_fitted()
        check_time_budget(time_budget)
        deadline = start_clock(time_budget)
        if folder and not RunFolder(folder).finished:
            raise ValueError(
                f"{folder} holds no finished run, and a prior is fitted to weights that stay as they are: train the run to its "
                "end, or end it where it is with `vaekit train ... --finish`"
            )
        if images.x.shape[1:] != self.image_shape_:
            raise ValueError(
                f"{images.name} has samples of shape {images.x.shape[1:]}, but the model was fitted on {self.image_shape_}"
            )
        data = self.on_device(images, self.device_)
        labels, classes = data.y, self.classes_ if self.conditional else None
        if not self.conditional and images.y is not None:
            labels, classes = torch.from_numpy(images.y).to(self.device_), np.asarray(images.classes)
        n_classes = 0 if classes is None else len(classes)
        plain = self.with_prior("plain")
        seed = self.facts_["seed"] if settings.random_state is None else check_random_state(settings.random_state)
        resolved = settings.resolve(
            codes=hasattr(plain.prior, "grid"),
            n=len(images),
            latent_dim=getattr(plain.latent, "latent_dim", 0),
            n_classes=n_classes,
            device=self.device_,
        )
        named = () if classes is None else list(classes)
        parts = parts_of(len(images), labels, resolved, classes=named, seed=seed, components=settings.components)
        # What a half-trained prior must have in common with this one to be gone on with.
        identity = {
            "settings": asdict(resolved),
            "seed": seed,
            "data": images.fingerprint,
            "images": len(images),
            **self._prior_identity(classes),
        }
        with RunFolder(folder).locked() if folder else nullcontext():
            stage = stage_of(folder) if folder else None
            if stage:
                if stage.path.exists() and not _is_of(stage, identity):
                    stage.discard()
                if not stage.started:
                    stage.start({"identity": identity})
            try:
                learned, history, found = fit_prior(
                    plain,
                    data,
                    labels,
                    resolved,
                    classes=named,
                    parts=parts,
                    seed=seed,
                    folder=stage,
                    deadline=deadline,
                    verbose=self.verbose,
                )
            except ValueError:
                if stage:
                    stage.discard()
                raise
            facts = {
                **found,
                "images": len(images),
                "data": images.name,
                "fingerprint": images.fingerprint,
                "seed": seed,
            }
            self._attach_prior(learned, resolved, classes, history, facts)
            if stage:
                self._save_prior(RunFolder(folder))
                stage.discard()
        return self

    @undisturbed
    def prior_log_prob(self, codes, y=None) -> np.ndarray:
        """Codes as `encode` gives them -> (N,) log p(code), or log p(code|y), in nats under the fitted prior, or where there
        is none under the one of the training.
        """
        self._check_fitted()
        z = self._as_codes(codes)
        index = self._label_index(y, len(z), self.sampling_classes("fitted"))
        prior = self.with_prior("fitted" if self.has_prior else None).prior
        with torch.inference_mode():
            parts = [
                prior.log_prob(
                    z[start : start + MOST].to(self.device_),
                    None if index is None else index[start : start + MOST].to(self.device_),
                ).cpu()
                for start in range(0, len(z), MOST)
            ]
        return torch.cat(parts).numpy()

    @undisturbed
    def load_prior(self, path):
        """Attaches the prior in the file `path` (a run's prior.safetensors). Returns self.

        Raises ValueError where it was fitted to the codes of another model, another codebook or latent width, or to other
        classes.
        """
        self._check_fitted()
        tensors, state = read_tensors(Path(path))
        try:
            settings, identity = PriorSettings(**state["settings"]), state["identity"]
            identity = {key: identity[key] for key in ("n_codes", "grid", "latent_dim", "classes", "weights")}
            history, facts = state["history"], state["facts"]
            if not (isinstance(history, list) and isinstance(facts, dict)):
                raise TypeError("its history is no list, or its facts are no JSON object")
            rates = [facts.get(name, 0.0) for name in ("plain_rate", "validation_rate")]
            if not all(type(rate) in (int, float) and math.isfinite(rate) for rate in rates):
                raise TypeError("its rates are no numbers")
            classes = None if identity["classes"] is None else np.asarray(identity["classes"])
            if classes is not None and (classes.ndim != 1 or classes.dtype.kind not in "biufU" or not len(classes)):
                raise TypeError("its classes are no list of labels")
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is damaged, or from another vaekit ({error})") from None
        self._check_prior_fits(path, identity)
        plain, n_classes = self.with_prior("plain"), 0 if classes is None else len(classes)
        try:
            settings.check()
            if settings.layers is not None and settings.layers > len(tensors):
                raise ValueError(f"{settings.layers} layers and {len(tensors)} tensors")
            with torch.device("meta"):
                difference = mismatch(tensors, make_prior(settings, plain, n_classes))
        except (ArithmeticError, AttributeError, LookupError, TypeError, RuntimeError, ValueError) as error:
            raise ValueError(f"{path} is damaged, or from another vaekit ({first_line(error)})") from None
        if difference:
            raise ValueError(f"{path} is damaged, or from another vaekit ({difference})")
        check_finite(Path(path), tensors)
        shares = tensors["class_shares"]
        if (shares < 0).any() or not math.isclose(shares.sum().item(), 1, abs_tol=1e-4):
            raise ValueError(f"{path} is damaged: class_shares must be shares that sum to 1")
        with seeded(0):  # what is drawn is replaced
            learned = make_prior(settings, plain, n_classes)
        learned.load_state_dict(tensors)
        self._attach_prior(learned.to(self.device_).eval(), settings, classes, history, facts)
        return self

    @property
    def has_prior(self) -> bool:
        """Whether a prior has been fitted since `fit`."""
        return hasattr(self, "prior_settings_")

    @property
    def prior_is_worse(self) -> bool:
        """Whether the fitted prior is so much worse on held-out images than the one of the training that this one stays in use,
        and the fitted one is for who asks for it, or for one of its classes. Uniform codes are noise: no prior is worse.
        """
        if not self.has_prior or hasattr(self._fitted_prior, "grid"):
            return False
        plain, fitted = (self.prior_facts_.get(name, 0.0) for name in ("plain_rate", "validation_rate"))
        return fitted - plain > max(1.0, WORSE * plain)

    @property
    def other_prior(self) -> list[str]:
        """The flags of `vaekit fit-prior` that would do better where the fitted prior is worse: one for all classes, with more
        images to learn from, or else another kind.
        """
        of_all = [] if self.conditional else ["--no-per-class"]
        if of_all and self.prior_classes_ is not None:
            return of_all
        return [*of_all, "--prior", "gmm" if self.prior_settings_.prior == "flow" else "flow"]

    @property
    def can_sample(self) -> bool:
        """Whether the prior in use gives samples: codes drawn uniformly give noise."""
        return not isinstance(self.model_.prior, UniformPrior)

    @property
    def prior_name(self) -> str:
        """The prior in use, such as "N(0, I)", "uniform" or "GMM, per class"."""
        if not self.has_prior or self.prior_is_worse:
            return "N(0, I)" if self.can_sample else "uniform"
        return self.fitted_prior_name

    @property
    def fitted_prior_name(self) -> str:
        """The prior that was fitted, in use or not."""
        return describe_prior(self.prior_settings_, 0 if self.prior_classes_ is None else len(self.prior_classes_))

    def _forget_prior(self) -> None:
        for name in ("_fitted_prior", "prior_settings_", "prior_classes_", "prior_history_", "prior_facts_"):
            self.__dict__.pop(name, None)

    def _attach_prior(self, learned: nn.Module, settings, classes, history: list[dict], facts: dict) -> None:
        self._fitted_prior, self.prior_settings_, self.prior_classes_ = learned, settings, classes
        self.prior_history_, self.prior_facts_ = history, facts
        self.model_.prior = self._plain_prior().to(self.device_).eval() if self.prior_is_worse else learned

    @undisturbed
    def with_prior(self, prior: str | None) -> Autoencoder:
        """The module with its prior in use (None), the one of its training ("plain") or the "fitted" one; weights are shared.
        Raises ValueError where none is fitted.
        """
        if prior not in (None, "plain", "fitted"):
            raise ValueError(f"prior must be None, 'plain' or 'fitted', got {prior!r}")
        if prior is None:
            return self.model_
        if prior == "fitted" and not self.has_prior:
            raise ValueError("no prior is fitted yet: run `vaekit fit-prior RUN --data DATA`, or call fit_prior(X, y)")
        module = copy.copy(self.model_)
        module._modules = dict(self.model_._modules)
        module.prior = self._fitted_prior if prior == "fitted" else self._plain_prior().to(self.device_).eval()
        return module

    def _plain_prior(self) -> nn.Module:
        return StandardNormalPrior(latent_dim=self.latent_dim)

    def _as_codes(self, codes) -> Tensor:
        """What `encode` gives, checked, as the prior takes it."""
        return self._check_latents(codes, self.latent_dim)

    def _check_has_samples(self, prior: str | None) -> None:
        if prior is None and not self.can_sample:
            raise NotFittedError(
                "a VQ-VAE can't be sampled before it has a prior of its codes: run `vaekit fit-prior RUN --data DATA`, or "
                "call fit_prior(X, y); prior='plain' (--plain-prior) draws the codes uniformly, which gives noise"
            )

    def _check_choices(self, prior: nn.Module, temperature: float, top_k, top_p) -> dict:
        if not temperature > 0:
            raise ValueError(f"temperature must be > 0, got {temperature}")
        if top_k is None and top_p is None:
            return {}
        if not isinstance(prior, AutoregressivePrior):
            raise ValueError("top_k and top_p need an autoregressive prior over codes; this model's prior has none")
        check_number("top_k", top_k, whole=True, above=0)
        if top_p is not None and not 0 < top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {top_p}")
        return {"top_k": top_k, "top_p": top_p}

    def _weights(self) -> dict[str, Tensor]:
        """The module's state without a learned prior, which has a file of its own."""
        state = self.model_.state_dict()
        return {name: tensor for name, tensor in state.items() if not name.startswith("prior.")}

    def _prior_identity(self, classes) -> dict:
        """What a prior has to have in common with the model it is attached to."""
        plain = self.with_prior("plain")
        weights = {name: tensor.cpu().contiguous() for name, tensor in self._weights().items()}
        return {
            "n_codes": getattr(plain.prior, "n_codes", None),
            "grid": list(plain.prior.grid) if hasattr(plain.prior, "grid") else None,
            "latent_dim": getattr(plain.latent, "latent_dim", None),
            "classes": None if classes is None else np.asarray(classes).tolist(),
            "weights": digest(weights, {}),
        }

    def _check_prior_fits(self, path, theirs: dict) -> None:
        mine = self._prior_identity(self.classes_ if self.conditional else theirs["classes"])
        for key, what in (
            ("n_codes", "codebook size"),
            ("grid", "code grid"),
            ("latent_dim", "latent_dim"),
            ("classes", "classes"),
        ):
            if mine[key] != theirs[key]:
                raise ValueError(
                    f"{path} holds a prior for another {what}: {theirs[key]}, and the model has {mine[key]}; fit one for "
                    "this model with `vaekit fit-prior`"
                )
        if mine["weights"] != theirs["weights"]:
            raise ValueError(
                f"{path} holds a prior fitted to the codes of another model (its weights differ from this one's); fit one "
                "for this model with `vaekit fit-prior`"
            )

    def _save_prior(self, run: RunFolder) -> None:
        """Writes prior.safetensors; what the clock said stays out of it, so that equal priors are equal files."""
        state = {
            "settings": asdict(self.prior_settings_),
            "identity": self._prior_identity(self.prior_classes_),
            "history": [{k: v for k, v in record.items() if k not in CLOCK} for record in self.prior_history_],
            "facts": self.prior_facts_,
            "version": __version__,
        }
        write_tensors(run.prior_file, self._fitted_prior.state_dict(), state)


def stage_of(folder: str | Path) -> RunFolder:
    """The folder of a second stage of the run in `folder`, while it lasts; ValueError where something else stands there."""
    stage = RunFolder(Path(folder) / "prior", kind="prior")
    stage.check(through_links=False)
    return stage


def _is_of(stage: RunFolder, identity: dict) -> bool:
    """Whether the folder of a second stage is of this one; a damaged one is of none."""
    try:
        return stage.config().get("identity") == identity
    except ValueError:
        return False
