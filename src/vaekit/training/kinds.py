"""What kinds of priors can be fitted to a trained model, and the settings of one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from vaekit.data.batches import Data
from vaekit.messages import check_number, filled, nearest
from vaekit.models.autoencoder import Autoencoder
from vaekit.parts.causal import CausalTransformer, GatedPixelCNN, start_alike
from vaekit.parts.priors import AutoregressivePrior, FlowPrior, LearnedPrior, MixturePrior
from vaekit.training.compiled import pays
from vaekit.training.mixture import fit_gmm
from vaekit.training.rates import CodeRate, LatentRate, Rate, VampRate, encode
from vaekit.world import PRECISIONS, derive_seed, fast_bfloat16


@dataclass(frozen=True, kw_only=True)
class PriorSettings:
    """What kind of prior, and how it is trained. A field that is None is filled in for the model and the data."""

    prior: str | None = None
    """gmm, vamp or flow for Gaussian latents; pixelcnn or transformer for codes. By default gmm, or pixelcnn."""
    components: int | None = None
    """Of a gmm or vamp, for each class; by default as many as the data can tell: 20 images per number in a component, at
    most 100 (20 with classes), and one for a class with fewer images than that gives; 200 (50 with classes) for vamp, whose
    components are narrow."""
    layers: int | None = None
    """Depth: by default 8 of a flow, 6 of a pixelcnn and 4 of a transformer (4 and 3 below 5,000 images). The report's PixelCNN
    has 15."""
    channels: int | None = None
    """Width: by default 64 of a flow and a pixelcnn, 128 of a transformer. The report's PixelCNN has 128."""
    dropout: float | None = None
    """Of a pixelcnn or transformer; by default 0, or 0.5 below 5,000 images."""
    epochs: int | None = None
    """Passes over the images; by default about 7,000 steps, at most 20 epochs (flow: 4,000, 100; vamp: 400, 20)."""
    batch_size: int | None = None
    """Images per step; by default 64 for codes, 128 for latents."""
    learning_rate: float | None = None
    """Adam's peak learning rate, cosine to zero; by default 0.003 (pixelcnn), 0.002 (transformer, flow) or 0.01 (vamp)."""
    validation_fraction: float = 0.05
    """Share of the images held out, of each class alike, whose rate chooses the epoch that is kept and is reported. With 0, or
    one image of each class, those trained on stand for them."""
    precision: str | None = None
    """float32 or bfloat16; by default bfloat16 for codes of 5,000 images or more where the processor has it in hardware."""
    compile: bool | None = None
    """Compile the training step, which changes results by rounding alone; by default for a pixelcnn from 4,500 steps on."""
    random_state: int | None = None
    """Seed of everything random; by default the model's own."""

    def check(self) -> None:
        """Raises ValueError where a field has no meaningful value for any model or data."""
        if self.prior is not None and self.prior not in KINDS:
            raise ValueError(
                f"prior must be one of {', '.join(KINDS)}, got {self.prior!r}{nearest(str(self.prior), KINDS)}"
            )
        for field in ("components", "layers", "channels", "epochs", "batch_size"):
            check_number(field, getattr(self, field), whole=True, above=0)
        check_number("learning_rate", self.learning_rate, above=0)
        for field in ("dropout", "validation_fraction"):
            value = getattr(self, field)
            if value is not None and not 0 <= value < 1:
                raise ValueError(f"{field} must be in [0, 1), got {value!r}")
        if self.precision is not None and self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        if self.compile is not None and type(self.compile) is not bool:
            raise ValueError(f"compile must be None, True or False, got {self.compile!r}")

    def resolve(self, *, codes: bool, n: int, latent_dim: int, n_classes: int, device: torch.device) -> PriorSettings:
        """These settings with every None filled in, for `n` images. Raises ValueError for what can't be."""
        self.check()
        fitting = [name for name, kind in KINDS.items() if kind.of_codes == codes]
        name = self.prior or ("pixelcnn" if codes else "gmm")
        if name not in fitting:
            what = "codes" if codes else "Gaussian latents"
            raise ValueError(f"prior {name!r} does not fit {what}; choose {' or '.join(fitting)}")
        kind, small = KINDS[name], n < 5000
        batch_size = min(self.batch_size or (64 if codes else 128), n)
        per_epoch = max(1, n // batch_size)
        epochs = self.epochs or max(1, min(kind.epochs, kind.steps // per_epoch))
        defaults = {
            "prior": name,
            "components": kind.components(n // max(1, n_classes), latent_dim, n_classes > 0),
            "layers": kind.layers[small],
            "channels": kind.channels,
            "dropout": (0.5 if small else 0.0) if codes else None,
            "epochs": epochs,
            "batch_size": batch_size,
            "learning_rate": kind.learning_rate,
            "precision": "bfloat16" if codes and not small and fast_bfloat16(device) else "float32",
            "compile": pays(name, epochs * per_epoch),
        }
        return replace(self, **{key: value for key, value in defaults.items() if getattr(self, key) is None})

    def describe(self, n_classes: int) -> str:
        """Of resolved settings, in a table's words, such as "PixelCNN, per class"."""
        return KINDS[filled(self.prior)].label + (", per class" if n_classes else "")


class Kind(NamedTuple):
    """A kind of prior that can be fitted: by the loop, which minimises what `rate` makes, or by `fit` at once.

    of_codes: for codes, or for Gaussian latents. make: the unfitted prior, of resolved settings, for a trained model.
    The rest is what is filled in for settings that are None. steps, epochs: about so many steps, in so many epochs at most.
    layers: from 5,000 images on, and below. components: of (images in a class, latent_dim, whether there are classes).
    """

    label: str
    of_codes: bool
    make: Callable[[PriorSettings, Autoencoder, int], LearnedPrior]
    rate: Callable[[LearnedPrior, Stage], Rate] = lambda prior, stage: LatentRate(prior)
    fit: Callable[..., None] | None = None
    steps: int = 7000
    epochs: int = 20
    learning_rate: float = 0.002
    layers: tuple[int | None, int | None] = (None, None)
    channels: int | None = None
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
    """A flow starts from the moments of the latents."""
    assert isinstance(prior, FlowPrior)
    data, kept = stage.data, stage.kept
    moments = encode(stage.model, replace(data, x=data.x[kept], y=None if data.y is None else data.y[kept]))
    mean, log_var = moments.chunk(2, dim=1)
    prior.location.copy_(mean.mean(0))
    prior.scale.copy_((mean.var(0, unbiased=False) + log_var.exp().mean(0)).sqrt())
    return LatentRate(prior)


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
    "pixelcnn": Kind(
        "PixelCNN",
        True,
        _make_autoregressive(GatedPixelCNN),
        _code_rate,
        learning_rate=0.003,
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
