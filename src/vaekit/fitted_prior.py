"""A prior that was fitted to a trained model: what it is, how it was found, and its file beside the model's weights."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from vaekit import __version__
from vaekit.messages import first_line
from vaekit.models.autoencoder import Autoencoder
from vaekit.parts.priors import LearnedPrior
from vaekit.training.checkpoint import CLOCK, digest, read_tensors, write_tensors
from vaekit.training.kinds import check_settings, describe_settings, make_prior
from vaekit.training.rebuilt import check_finite, rebuilt
from vaekit.training.settings import PriorSettings

WORSE = 0.1  # of the plain prior's rate, or a nat: by more a fitted prior is far worse than that one


@dataclass(frozen=True, eq=False)
class FittedPrior:
    """classes: the labels that it knows, as they were given, or None. history: a record per epoch, `rate` in nats per image.
    facts: rates of held-out images under it and under simpler priors, and which images these were.
    """

    module: LearnedPrior
    settings: PriorSettings
    classes: np.ndarray | None
    history: list[dict]
    facts: dict

    @property
    def name(self) -> str:
        """Such as "GMM, per class"."""
        return describe_settings(self.settings, 0 if self.classes is None else len(self.classes))

    def is_worse(self, plain) -> bool:
        """Whether it is so much worse on held-out images than the `plain` prior of the training that this one stays in use.
        Where the draws of the plain one are noise, such as uniform codes, no prior is worse.
        """
        if not plain.gives_images:
            return False
        before, now = (self.facts.get(name, 0.0) for name in ("plain_rate", "validation_rate"))
        return now - before > max(1.0, WORSE * before)

    def write(self, path: Path, model: Autoencoder) -> None:
        """Writes it, with what `model` it is of; what the clock said stays out of it, so that equal priors are equal files."""
        state = {
            "settings": asdict(self.settings),
            "identity": identity(model, self.classes),
            "history": [{k: v for k, v in record.items() if k not in CLOCK} for record in self.history],
            "facts": self.facts,
            "version": __version__,
        }
        write_tensors(path, self.module.state_dict(), state)


def identity(model: Autoencoder, classes) -> dict:
    """What a prior has to have in common with the `model` of which it is, with the prior of its training."""
    latent, shape = model.latent, model.prior.code_shape
    state = {name: tensor.cpu().contiguous() for name, tensor in own_weights(model).items()}
    return {
        "n_codes": latent.n_codes if latent.discrete else None,
        "grid": list(shape) if latent.discrete else None,
        "latent_dim": None if latent.discrete else latent.width,
        "classes": None if classes is None else np.asarray(classes).tolist(),
        "weights": digest(state, {}),
    }


def own_weights(model: Autoencoder) -> dict[str, torch.Tensor]:
    """A model's state without a prior, which has a file of its own where it is learned."""
    return {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("prior.")}


def read_prior(path: Path, model: Autoencoder, classes: np.ndarray | None) -> FittedPrior:
    """The prior in the file `path`, for `model`, which has the prior of its training. classes: of a conditional model.

    Raises ValueError where it is damaged, or was fitted to the codes of another model or to other classes.
    """
    tensors, state = read_tensors(path)
    try:
        settings, theirs = PriorSettings(**state["settings"]), state["identity"]
        theirs = {key: theirs[key] for key in ("n_codes", "grid", "latent_dim", "classes", "weights")}
        history, facts = state["history"], state["facts"]
        if not (isinstance(history, list) and isinstance(facts, dict)):
            raise TypeError("its history is no list, or its facts are no JSON object")
        rates = [facts.get(name, 0.0) for name in ("plain_rate", "validation_rate")]
        if not all(type(rate) in (int, float) and math.isfinite(rate) for rate in rates):
            raise TypeError("its rates are no numbers")
        known = None if theirs["classes"] is None else np.asarray(theirs["classes"])
        if known is not None and (known.ndim != 1 or known.dtype.kind not in "biufU" or not len(known)):
            raise TypeError("its classes are no list of labels")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged, or from another vaekit ({error})") from None
    _check_fits(path, identity(model, theirs["classes"] if classes is None else classes), theirs)
    n_classes = 0 if known is None else len(known)
    try:
        check_settings(settings)
        if settings.layers is not None and settings.layers > len(tensors):
            raise ValueError(f"{settings.layers} layers and {len(tensors)} tensors")
        learned, difference = rebuilt(lambda: make_prior(settings, model, n_classes), tensors)
    except (ArithmeticError, AttributeError, LookupError, TypeError, RuntimeError, ValueError) as error:
        raise ValueError(f"{path} is damaged, or from another vaekit ({first_line(error)})") from None
    if difference:
        raise ValueError(f"{path} is damaged, or from another vaekit ({difference})")
    check_finite(path, tensors)
    shares = tensors["class_shares"]
    if (shares < 0).any() or not math.isclose(shares.sum().item(), 1, abs_tol=1e-4):
        raise ValueError(f"{path} is damaged: class_shares must be shares that sum to 1")
    learned.load_state_dict(tensors)
    return FittedPrior(learned.eval(), settings, known, history, facts)


def _check_fits(path: Path, mine: dict, theirs: dict) -> None:
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
