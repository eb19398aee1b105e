"""The named models: each adds its fields to `Estimator` and says which parts and objective they stand for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from sklearn.exceptions import NotFittedError
from torch import Tensor

from vaekit.data.given import as_array
from vaekit.data.images import Images
from vaekit.estimator import Estimator
from vaekit.messages import check_number, filled
from vaekit.models.autoencoder import Autoencoder
from vaekit.models.objectives import BetaTc, ConstrainedElbo, Iwae
from vaekit.parts.networks import make_networks
from vaekit.parts.priors import UniformPrior
from vaekit.parts.quantizers import VectorQuantizer
from vaekit.state import undisturbed, warn
from vaekit.world import MOST, check_random_state, seeded


@dataclass(kw_only=True, repr=False, eq=False)
class VAE(Estimator):
    """Variational autoencoder (Kingma & Welling 2014): Gaussian latent, standard normal prior, the ELBO."""


@dataclass(kw_only=True, repr=False, eq=False)
class BetaVAE(Estimator):
    """beta-VAE (Higgins et al. 2017): the rate weighted by beta, or held at `epsilon` nats with beta learned."""

    beta: float | None = None
    """Weight of the rate, >= 0; None is sqrt(values per image) / 2.8: 2.9 for 8x8, 10 for 28x28 (1.5 for wang2023, as in
    the report)."""
    epsilon: float | None = None
    """Target of the rate in nats per image: beta becomes its Lagrange multiplier, starting at 1. None keeps beta fixed."""

    def _defaults(self, *, wang2023: bool) -> dict:
        if self.epsilon is not None:
            return {"rate_warmup_epochs": 0.0}  # the multiplier finds its own way up
        return {"beta": 1.5 if wang2023 else self._balanced_beta()}

    def _make_objective(self, steps_per_epoch: int):
        if self.epsilon is not None:
            return ConstrainedElbo(epsilon=self.epsilon)
        return self._elbo_objective(filled(self.beta), steps_per_epoch)

    def check(self, images: Images) -> None:
        super().check(images)
        if self.epsilon is not None and self.early_stopping:
            raise ValueError(
                "early_stopping compares the objectives of epochs, which a beta learned for epsilon changes: give one of them"
            )
        if self.epsilon is not None and self.beta is not None:
            raise ValueError(
                f"give beta or epsilon, not both: epsilon={self.epsilon} learns beta, got beta={self.beta}"
            )
        check_number("beta", self.beta)
        check_number("epsilon", self.epsilon, above=0)


@dataclass(kw_only=True, repr=False, eq=False)
class CVAE(Estimator):
    """Conditional VAE (Sohn, Lee & Yan 2015), p(z|c) = p(z): labels enter every block of encoder and decoder.

    Without y, a fitted model infers it: `transform` and `reconstruct` use the class with the highest ELBO,
    `score_samples` sums over classes, `predict` and `predict_proba` give the class posterior. After `fit`: `classes_`.
    """

    beta: float | None = None
    """Weight of the rate, >= 0; None is sqrt(values per image) / 2.8: 2.9 for 8x8, 10 for 28x28 (1 for wang2023, as in the
    report). Above 1, since samples come from the prior: the less z tells beyond the label, the surer is a sample's class."""

    conditional: ClassVar[bool] = True

    def _defaults(self, *, wang2023: bool) -> dict:
        return {"beta": 1.0 if wang2023 else self._balanced_beta()}

    def _make_objective(self, steps_per_epoch: int):
        return self._elbo_objective(filled(self.beta), steps_per_epoch)

    def check(self, images: Images) -> None:
        super().check(images)
        check_number("beta", self.beta)

    @undisturbed
    def predict(self, X) -> np.ndarray:
        """(N,) the most probable class of each image under p(y|x), by the ELBOs of the classes."""
        self._check_fitted()
        return self.classes_[self.predict_proba(X).argmax(1)]

    @undisturbed
    def predict_proba(self, X, n_draws: int = 4) -> np.ndarray:
        """(N, n_classes) p(y|x) from p(y) exp(ELBO(x|y)), normalised."""
        self._check_fitted()
        joint = self._class_elbos(X, n_draws) + np.log(np.maximum(self.class_frequencies_, 1e-300))
        joint -= joint.max(1, keepdims=True)
        probabilities = np.exp(joint)
        return probabilities / probabilities.sum(1, keepdims=True)

    def _class_elbos(self, X, n_draws: int) -> np.ndarray:
        """(N, n_classes) ELBO of log p(x|y) in nats for each class y."""
        return np.stack([self._elbo(X, label, n_draws) for label in self.classes_], axis=1)

    def _labels_or_inferred(self, X, y):
        return self.predict(X) if y is None else y

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags


@dataclass(kw_only=True, repr=False, eq=False)
class IWAE(Estimator):
    """Importance-weighted autoencoder (Burda, Grosse & Salakhutdinov 2016): a VAE trained with the tighter bound of `k` draws.
    Its ELBO in tables and `score_samples` is that of one draw, as for every model; `vaekit evaluate` has the NLL of many.
    """

    k: int = 5
    """Importance-weighted draws per image, >= 1; the decoder works k times. 1 is the VAE."""

    def check(self, images: Images) -> None:
        super().check(images)
        check_number("k", self.k, whole=True, above=0)
        if self.rate_warmup_epochs:
            raise ValueError(
                f"an IWAE has no rate_warmup_epochs, since its bound has no weight on the rate; got {self.rate_warmup_epochs}"
            )

    def build(self, shape: tuple[int, int, int], *, n_classes: int = 0, images: bool = True) -> Autoencoder:
        module = super().build(shape, n_classes=n_classes, images=images)
        module.samples = self.k
        return module

    def _defaults(self, *, wang2023: bool) -> dict:
        return {"rate_warmup_epochs": 0.0}

    def _make_objective(self, steps_per_epoch: int) -> Iwae:
        return Iwae()


@dataclass(kw_only=True, repr=False, eq=False)
class BetaTCVAE(Estimator):
    """beta-TCVAE (Chen, Li, Grosse & Duvenaud 2018): of the rate, only the total correlation of the latents is weighted."""

    alpha: float = 1.0
    """Weight of the mutual information of image and latents, >= 0."""
    beta: float = 6.0
    """Weight of the total correlation, >= 0; 6 is the paper's."""
    gamma: float = 1.0
    """Weight of the latents' own KLs from the prior, >= 0."""

    def check(self, images: Images) -> None:
        super().check(images)
        for name in ("alpha", "beta", "gamma"):
            check_number(name, getattr(self, name))

    def _make_objective(self, steps_per_epoch: int) -> BetaTc:
        # Epochs leave out the last, smaller batch, and so does the number of images.
        return BetaTc(
            n=steps_per_epoch * filled(self.batch_size),
            alpha=self.alpha,
            beta=self.beta,
            gamma=self.gamma,
            warmup=round(filled(self.rate_warmup_epochs) * steps_per_epoch),
        )


@dataclass(kw_only=True, repr=False, eq=False)
class VQVAE(Estimator):
    """VQ-VAE (van den Oord, Vinyals & Kavukcuoglu 2017): a grid of discrete codes, uniform prior. `latent_dim` has no
    part in it: the latent is h x w codes out of `n_codes`, each a vector of `code_dim`.
    """

    n_codes: int | None = None
    """K, the size of the codebook; None is 256 (10 for wang2023). Lowered to the number of training vectors."""
    code_dim: int | None = None
    """D, the width of a codebook vector; None is 16 (2 for wang2023)."""
    commitment: float = 0.25
    """beta, the weight of ||sg(z_q) - z_e||^2."""
    codebook_weight: float = 1.0
    """alpha, the weight of ||sg(z_e) - z_q||^2; has no part with EMA."""
    ema: float | None = None
    """Decay of the codebook's moving averages; 0 learns it by gradient. None is 0.99 (0 for wang2023)."""
    codebook_init: str | None = None
    """kmeans, data (random encoder outputs) or uniform; None is kmeans (uniform for wang2023)."""
    revive: float | None = None
    """Codes used less than this share of their fair part are moved to data; 0 never. None is 0.1 (0 for wang2023)."""

    def check(self, images: Images) -> None:
        super().check(images)
        for name in ("n_codes", "code_dim"):
            check_number(name, getattr(self, name), whole=True, above=0)
        for name in ("commitment", "codebook_weight", "ema", "revive"):
            check_number(name, getattr(self, name))

    def _defaults(self, *, wang2023: bool) -> dict:
        defaults: dict = {"compile": False}  # its wide convolutions gain next to nothing: see benchmarks/compiling.py
        if wang2023:
            return defaults | {"n_codes": 10, "code_dim": 2, "ema": 0.0, "codebook_init": "uniform", "revive": 0.0}
        # At twice this learning rate the encoder outruns the moving averages and the codes collapse.
        return defaults | {
            "n_codes": 256,
            "code_dim": 16,
            "ema": 0.99,
            "codebook_init": "kmeans",
            "revive": 0.1,
            "learning_rate": 0.002,
        }

    def _resolve(self, n: int, *, table: bool, steps: int | None = None) -> dict:
        self.resolved_ = super()._resolve(n, table=table, steps=steps)
        with torch.device("meta"):
            height, width = self.filled_in().build(self._module_shape(), images=not table).prior.grid
        vectors, asked = n * height * width, self.filled_in().n_codes
        if vectors < asked:
            warn(f"n_codes lowered from {asked} to {vectors}: there are no more training vectors")
            self.resolved_["n_codes"] = vectors
        return self.resolved_

    def build(self, shape: tuple[int, int, int], *, n_classes: int = 0, images: bool = True) -> Autoencoder:
        likelihood = self._build_likelihood(images)
        latent = VectorQuantizer(
            n_codes=filled(self.n_codes),
            code_dim=filled(self.code_dim),
            codebook_weight=self.codebook_weight,
            commitment=self.commitment,
            ema=self.ema or None,
            init=filled(self.codebook_init),
            revive=filled(self.revive),
        )
        networks = make_networks(
            filled(self.architecture),
            shape,
            features=latent.features,
            latent_dim=filled(self.code_dim),
            out_channels=likelihood.channels(shape[0]),
            spatial=True,
            n_classes=n_classes,
            hidden=self._hidden(),
        )
        return Autoencoder(
            encoder=networks.encoder,
            latent=latent,
            decoder=networks.decoder,
            prior=UniformPrior(n_codes=filled(self.n_codes), grid=filled(networks.grid)),
            likelihood=likelihood,
            n_classes=n_classes,
            images=images,
        )

    @undisturbed
    def transform(self, X, y=None) -> np.ndarray:
        """X -> (N, h*w*D) quantised vectors, position by position."""
        return self._map(
            lambda x, y: self.model_.latent.embed(self.model_.encode(x, y)).movedim(1, -1).flatten(1), X, y
        )

    @undisturbed
    def complete(
        self,
        X,
        known,
        y=None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        random_state=None,
    ) -> np.ndarray:
        """X with what is not known drawn anew by the fitted prior, in the layout of fit's X: the given part as the model
        reconstructs it, the rest as it could be.

        known: (H, W) booleans, True where pixels of X are given; the others are not looked at. A code is kept where all of
            its pixels are known. Codes are drawn in raster order, each knowing those before it: best for upper parts.
        y, temperature, top_k, top_p, random_state: as in `sample`.
        """
        x = self._check_input(X)
        known = as_array(known, "known")
        if len(self.image_shape_) != 3 or known.shape != self.image_shape_[:2] or known.dtype != bool:
            raise ValueError(
                f"known must be booleans of shape {self.image_shape_[:2]}, got {known.dtype} of shape {known.shape}"
            )
        if self.filled_in().architecture == "mlp":
            raise ValueError(
                "the codes of an 'mlp' have no place in the image, so that no part of it can be kept: use 'conv'"
            )
        if not self.has_prior:
            raise NotFittedError("completing needs a prior of the codes: call fit_prior first")
        choices = self._check_choices(self.model_.prior, temperature, top_k, top_p)
        # Not a look at what is hidden: it is taken out before encoding, and filled with the average of the given part.
        average = x[:, known].mean(1) if known.any() else np.zeros((len(x), x.shape[-1]))
        filled = np.where(known[:, :, None], x, average[:, None, None].astype(x.dtype))
        codes = torch.from_numpy(self.encode(filled))
        kept = torch.from_numpy(_whole_cells(known, self.model_.prior.grid))
        index = self._label_index(y, len(x), self.sampling_classes())
        drawn = []
        with seeded(check_random_state(random_state)), torch.inference_mode():
            for start in range(0, len(x), MOST):
                part = codes[start : start + MOST].to(self.device_)
                labels = None if index is None else index[start : start + MOST].to(self.device_)
                drawn.append(
                    self.model_.prior.sample(
                        len(part), labels, temperature, given=part, known=kept.to(self.device_), **choices
                    ).cpu()
                )
        return self.decode(torch.cat(drawn).numpy())

    @property
    def _n_features_out(self) -> int:
        return math.prod(self.model_.prior.grid) * self.model_.latent.features

    def _plain_prior(self) -> UniformPrior:
        return UniformPrior(n_codes=self.model_.latent.n_codes, grid=self.model_.prior.grid)

    @undisturbed
    def decode(self, codes, y=None) -> np.ndarray:
        """(N, h, w) code indices in [0, n_codes) -> images."""
        index = self._as_codes(codes).to(self.device_)
        with torch.inference_mode():
            z = self.model_.latent.embed(index)
        return self._in_form(self._decode(z, y), self._frame)

    def _as_codes(self, codes) -> Tensor:
        self._check_fitted()
        grid, k = self.model_.prior.grid, self.model_.latent.n_codes
        codes = as_array(codes, "codes")
        if codes.dtype.kind not in "iu" or codes.shape[1:] != grid:
            raise ValueError(
                f"codes must be integers of shape (N, {grid[0]}, {grid[1]}), got {codes.dtype} of shape {codes.shape}"
            )
        if codes.size and not (codes.min() >= 0 and codes.max() < k):
            raise ValueError(f"codes must be in 0..{k - 1}, got {codes.min()}..{codes.max()}")
        return torch.from_numpy(codes.astype(np.int64))

    def _as_latents(self, Z) -> Tensor:
        self._check_fitted()
        height, width = self.model_.prior.grid
        dim = self.model_.latent.features
        return self._check_latents(Z, height * width * dim).view(-1, height, width, dim).movedim(-1, 1)


def _whole_cells(known: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """(H, W) -> (h, w): whether all pixels of a cell are known. Networks halve, rounding up: a cell's side is a power of 2."""
    halvings = [
        next(n for n in range(32) if -(-side // 2**n) <= cells) for side, cells in zip(known.shape, grid, strict=True)
    ]
    rows, columns = (np.arange(side) // 2**n for side, n in zip(known.shape, halvings, strict=True))
    whole = np.ones(grid, dtype=bool)
    np.logical_and.at(whole, (rows[:, None], columns[None]), known)
    return whole


MODELS = {"vae": VAE, "bvae": BetaVAE, "cvae": CVAE, "vqvae": VQVAE, "iwae": IWAE, "btcvae": BetaTCVAE}
LABELS = {
    "vae": "VAE",
    "bvae": "beta-VAE",
    "cvae": "CVAE",
    "vqvae": "VQ-VAE",
    "iwae": "IWAE",
    "btcvae": "beta-TCVAE",
}
