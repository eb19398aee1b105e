"""What kinds of priors can be fitted to a trained model, and what their settings are filled in with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from vaekit.data.batches import Data
from vaekit.messages import check_number, filled, nearest
from vaekit.models.autoencoder import Autoencoder
from vaekit.parts.causal import CausalTransformer, GatedPixelCNN, start_alike
from vaekit.parts.matching import MatchingPrior
from vaekit.parts.priors import AutoregressivePrior, FlowPrior, LearnedPrior, MixturePrior
from vaekit.tensors import Term
from vaekit.training.compiled import by_default
from vaekit.training.mixture import fit_gmm
from vaekit.training.plan import OPTIMIZERS, steps_per_epoch
from vaekit.training.rates import (
    CodeRate,
    LatentRate,
    MatchingRate,
    Rate,
    VampRate,
    encode,
    matching_term,
    rate_term,
)
from vaekit.training.settings import PriorSettings
from vaekit.world import PRECISIONS, derive_seed, fast_bfloat16


class Kind(NamedTuple):
    """A kind of prior that can be fitted: by the loop, which minimises what `rate` makes, or by `fit` at once.

    of_codes: for codes, or for Gaussian latents. make: the unfitted prior, of resolved settings, for a trained model. term: the
    objective that is made of what `rate` gives.
    The rest is what is filled in for settings that are None. steps, epochs: about so many steps, in so many epochs at most.
    muon: what of it is otherwise by Muon, which is the optimizer from a grid of `muon_from` places on. layers: from 5,000
    images on, and below. few: a network learns the codes of fewer images with dropout. components: of (images in a class,
    latent_dim, whether there are classes).
    """

    label: str
    of_codes: bool
    make: Callable[[PriorSettings, Autoencoder, int], LearnedPrior]
    rate: Callable[[LearnedPrior, Stage], Rate] = lambda prior, stage: LatentRate(prior)
    term: Callable[[Tensor, int], dict[str, Term]] = rate_term
    fit: Callable[..., None] | None = None
    steps: int = 7000
    epochs: int = 20
    learning_rate: float = 0.002
    muon: Mapping[str, float] = MappingProxyType({})
    muon_from: float = math.inf
    layers: tuple[int | None, int | None] = (None, None)
    channels: int | None = None
    few: int = 5000
    components: Callable[[int, int, bool], int | None] = lambda images, latent_dim, classes: None


class Stage(NamedTuple):
    """What a second stage has to do with: the trained model, its data, the labels that the prior knows (N,), the images that it
    is trained on, by index, and its settings.
    """

    model: Autoencoder
    data: Data
    labels: Tensor | None
    kept: Tensor
    settings: PriorSettings
    seed: int


def _make_mixture(settings: PriorSettings, model: Autoencoder, n_classes: int) -> MixturePrior:
    return MixturePrior(latent_dim=model.latent.width, components=filled(settings.components), n_classes=n_classes)


def _make_flow(settings: PriorSettings, model: Autoencoder, n_classes: int) -> FlowPrior:
    layers, channels = filled(settings.layers), filled(settings.channels)
    return FlowPrior(latent_dim=model.latent.width, layers=layers, channels=channels, n_classes=n_classes)


def _make_matching(settings: PriorSettings, model: Autoencoder, n_classes: int) -> MatchingPrior:
    layers, channels = filled(settings.layers), filled(settings.channels)
    return MatchingPrior(shape=model.latent.shape, layers=layers, channels=channels, n_classes=n_classes)


def _make_autoregressive(network: type) -> Callable[[PriorSettings, Autoencoder, int], AutoregressivePrior]:
    def make(settings: PriorSettings, model: Autoencoder, n_classes: int) -> AutoregressivePrior:
        return AutoregressivePrior(
            network(
                n_values=model.latent.n_codes,
                grid=model.prior.code_shape,
                channels=filled(settings.channels),
                layers=filled(settings.layers),
                dropout=filled(settings.dropout),
                n_classes=n_classes,
            )
        )

    return make


def _code_rate(prior: LearnedPrior, stage: Stage) -> CodeRate:
    assert isinstance(prior, AutoregressivePrior)
    start_alike(prior.network, stage.model.latent.vectors().detach())
    return CodeRate(prior)


def _flow_rate(prior: LearnedPrior, stage: Stage) -> LatentRate:
    _standardise(prior, stage)
    return LatentRate(prior)


def _matching_rate(prior: LearnedPrior, stage: Stage) -> MatchingRate:
    assert isinstance(prior, MatchingPrior)
    _standardise(prior, stage)
    return MatchingRate(prior)


def _standardise(prior: LearnedPrior, stage: Stage) -> None:
    """A flow, of either kind, starts from the moments of the latents."""
    assert isinstance(prior, FlowPrior | MatchingPrior)
    data, kept = stage.data, stage.kept
    moments = encode(stage.model, replace(data, x=data.x[kept], y=None if data.y is None else data.y[kept]))
    mean, log_var = moments.chunk(2, dim=1)
    prior.location.copy_(mean.mean(0))
    prior.scale.copy_((mean.var(0, unbiased=False) + log_var.exp().mean(0)).sqrt())


def _vamp_rate(prior: LearnedPrior, stage: Stage) -> VampRate:
    """A VampPrior starts from images of the data, `components` of each class."""
    assert isinstance(prior, MixturePrior)
    kept, labels, components = stage.kept, stage.labels, prior.components
    generator = torch.Generator().manual_seed(derive_seed(stage.seed, "pseudo"))
    order = kept[torch.randperm(len(kept), generator=generator)]
    if prior.n_classes:
        groups = [order[filled(labels)[order] == label] for label in range(prior.n_classes)]
        chosen = torch.cat([_first(group, components) for group in groups])
        pseudo_labels = torch.arange(prior.n_classes, device=kept.device).repeat_interleave(components)
    else:
        chosen, pseudo_labels = _first(order, components), None
    images, _ = stage.data.batch(chosen)
    return VampRate(prior, stage.model, images.contiguous(), pseudo_labels)


def _first(index: Tensor, n: int) -> Tensor:
    """The first n, from the start again where there are fewer."""
    return index.repeat(-(-n // len(index)))[:n]


KINDS = {
    "gmm": Kind(
        "GMM",
        False,
        _make_mixture,
        fit=fit_gmm,
        epochs=1,
        components=lambda images, latent_dim, classes: max(
            1, min(20 if classes else 100, images // (20 * (latent_dim + 1)))
        ),
    ),
    "vamp": Kind(
        "VampPrior",
        False,
        _make_mixture,
        _vamp_rate,
        steps=400,
        learning_rate=0.01,
        components=lambda images, latent_dim, classes: min(images, 50 if classes else 200),
    ),
    "flow": Kind("flow", False, _make_flow, _flow_rate, steps=4000, epochs=100, layers=(8, 8), channels=64),
    "matching": Kind(
        "flow matching",
        False,
        _make_matching,
        _matching_rate,
        matching_term,
        steps=1200,
        epochs=100,
        learning_rate=0.001,
        muon={"learning_rate": 0.005},
        muon_from=2,
        layers=(2, 2),
        channels=64,
    ),
    "pixelcnn": Kind(
        "PixelCNN",
        True,
        _make_autoregressive(GatedPixelCNN),
        _code_rate,
        learning_rate=0.003,
        muon={"learning_rate": 0.005, "steps": 3000},
        muon_from=64,
        few=30_000,
        layers=(6, 4),
        channels=64,
    ),
    "transformer": Kind(
        "transformer",
        True,
        _make_autoregressive(CausalTransformer),
        _code_rate,
        layers=(4, 3),
        channels=128,
    ),
}


def make_prior(settings: PriorSettings, model: Autoencoder, n_classes: int) -> LearnedPrior:
    """The unfitted prior that resolved `settings` name, for the codes of `model`."""
    return KINDS[filled(settings.prior)].make(settings, model, n_classes)


def places_of(model: Autoencoder) -> int:
    """Of how many places the codes or latents of `model` are: 1 for a vector."""
    return math.prod(model.prior.code_shape if model.latent.discrete else model.latent.shape[1:])


def check_settings(settings: PriorSettings) -> None:
    """Raises ValueError where a field has no meaningful value for any model or data."""
    if settings.prior is not None and settings.prior not in KINDS:
        raise ValueError(
            f"prior must be one of {', '.join(KINDS)}, got {settings.prior!r}{nearest(str(settings.prior), KINDS)}"
        )
    for field in ("components", "layers", "channels", "epochs", "batch_size", "accumulate"):
        check_number(field, getattr(settings, field), whole=True, above=0)
    check_number("learning_rate", settings.learning_rate, above=0)
    if settings.optimizer is not None and settings.optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {settings.optimizer!r}")
    for field in ("dropout", "validation_fraction"):
        value = getattr(settings, field)
        if value is not None and not 0 <= value < 1:
            raise ValueError(f"{field} must be in [0, 1), got {value!r}")
    if settings.precision is not None and settings.precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {settings.precision!r}")
    if settings.compile is not None and type(settings.compile) is not bool:
        raise ValueError(f"compile must be None, True or False, got {settings.compile!r}")


def resolve_settings(
    settings: PriorSettings,
    *,
    codes: bool,
    n: int,
    latent_dim: int,
    n_classes: int,
    device: torch.device,
    places: int = 1,
) -> PriorSettings:
    """`settings` with every None filled in, for `n` images. places: of the codes or latents, see `places_of`. Raises ValueError
    for what can't be.
    """
    check_settings(settings)
    fitting = [name for name, kind in KINDS.items() if kind.of_codes == codes]
    grid = not codes and places > 1
    name = settings.prior or ("pixelcnn" if codes else "matching" if grid else "gmm")
    if name not in fitting:
        what = "codes" if codes else "Gaussian latents"
        raise ValueError(f"prior {name!r} does not fit {what}; choose {' or '.join(fitting)}")
    kind, small = KINDS[name], n < 5000
    optimizer = settings.optimizer or ("muon" if places >= kind.muon_from else "adam")
    if optimizer == "muon":
        kind = kind._replace(**kind.muon)
    batch_size = min(settings.batch_size or (64 if codes or grid else 128), n)
    per_epoch = steps_per_epoch(n, batch_size)
    epochs = settings.epochs or max(1, min(kind.epochs, kind.steps // per_epoch))
    defaults = {
        "prior": name,
        "components": kind.components(n // max(1, n_classes), latent_dim, n_classes > 0),
        "layers": kind.layers[small],
        "channels": kind.channels,
        "dropout": (0.5 if n < kind.few else 0.0) if codes else None,
        "epochs": epochs,
        "batch_size": batch_size,
        "optimizer": optimizer,
        "learning_rate": kind.learning_rate,
        "precision": "bfloat16" if codes and not small and fast_bfloat16(device) else "float32",
        "compile": by_default(name, epochs * per_epoch, device.type),
    }
    return replace(settings, **{key: value for key, value in defaults.items() if getattr(settings, key) is None})


def describe_settings(settings: PriorSettings, n_classes: int) -> str:
    """Of resolved settings, in a table's words, such as "PixelCNN, per class"."""
    return KINDS[filled(settings.prior)].label + (", per class" if n_classes else "")
