"""Models of a grid of discrete codes."""

from __future__ import annotations

import math

import numpy as np
import torch
from sklearn.exceptions import NotFittedError
from torch import Tensor

from vaekit.data.given import as_array
from vaekit.data.images import Images
from vaekit.estimators.base import Estimator
from vaekit.estimators.fields import VQVAEFields
from vaekit.messages import check_number, filled
from vaekit.models.autoencoder import Autoencoder
from vaekit.parts.networks import make_networks
from vaekit.parts.priors import UniformPrior
from vaekit.parts.quantizers import VectorQuantizer
from vaekit.state import undisturbed, warn
from vaekit.world import MOST, check_random_state, seeded


class VQVAE(VQVAEFields, Estimator):
    """VQ-VAE (van den Oord, Vinyals & Kavukcuoglu 2017): a grid of discrete codes, uniform prior. `latent_dim` has no
    part in it: the latent is h x w codes out of `n_codes`, each a vector of `code_dim`.
    """

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
