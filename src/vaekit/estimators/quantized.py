"""Models of a grid of discrete codes."""

from __future__ import annotations

import math
from typing import ClassVar

import torch

from vaekit.completion import complete
from vaekit.data.format import Format
from vaekit.data.images import Images
from vaekit.estimators.base import Estimator
from vaekit.estimators.fields import VQVAEFields
from vaekit.messages import check_number, filled
from vaekit.models.autoencoder import Autoencoder
from vaekit.parts.networks import SMALL, make_networks
from vaekit.parts.priors import UniformPrior
from vaekit.parts.quantizers import VectorQuantizer
from vaekit.state import undisturbed, warn


class VQVAE(VQVAEFields, Estimator):
    """VQ-VAE (van den Oord, Vinyals & Kavukcuoglu 2017): a grid of discrete codes, uniform prior. `latent_dim` has no
    part in it: the latent is h x w codes out of `n_codes`, each a vector of `code_dim`.
    """

    discrete: ClassVar[bool] = True
    muon_from: ClassVar[int] = SMALL
    adam_rate: ClassVar[float] = 0.002  # at twice that the encoder outruns the moving averages and the codes collapse

    def check_fields(self, images: Images) -> None:
        super().check_fields(images)
        for name in ("n_codes", "code_dim"):
            check_number(name, getattr(self, name), whole=True, above=0)
        for name in ("commitment", "codebook_weight", "ema", "revive"):
            check_number(name, getattr(self, name))

    def defaults(self, *, wang2023: bool, shape: tuple[int, ...], epochs: float) -> dict:
        defaults: dict = {"compile": False}  # its wide convolutions gain next to nothing: see benchmarks/compiling.py
        if wang2023:
            return defaults | {"n_codes": 10, "code_dim": 2, "ema": 0.0, "codebook_init": "uniform", "revive": 0.0}
        return defaults | {"n_codes": 256, "code_dim": 16, "ema": 0.99, "codebook_init": "kmeans", "revive": 0.1}

    def resolve(self, format: Format, n: int, *, steps: int | None = None) -> dict:
        """As for every model, and no more codes than there are training vectors."""
        resolved = super().resolve(format, n, steps=steps)
        filled_in = self.filled_in(resolved)
        with torch.device("meta"):
            grid = filled_in.build(format.module_shape, images=not format.is_table).prior.code_shape
        vectors, asked = n * math.prod(grid), filled(filled_in.n_codes)
        if vectors < asked:
            warn(f"n_codes lowered from {asked} to {vectors}: there are no more training vectors")
            resolved["n_codes"] = vectors
        return resolved

    def build(self, shape: tuple[int, int, int], *, n_classes: int = 0, images: bool = True) -> Autoencoder:
        likelihood = self.build_likelihood(images).of(shape)
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
            hidden=self.hidden,
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
    def complete(
        self,
        X,
        known,
        y=None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        random_state=None,
    ):
        """X with what is not known drawn anew by the fitted prior, in the layout of fit's X: the given part as the model
        reconstructs it, the rest as it could be.

        known: (H, W) booleans, True where pixels of X are given; the others are not looked at. A code is kept where all of
            its pixels are known. Codes are drawn in raster order, each knowing those before it: best for upper parts.
        y, temperature, top_k, top_p, random_state: as in `sample`.
        """
        return complete(self._asked(X), X, known, y, temperature, top_k, top_p, random_state)
