"""The one model shape: encoder, latent, prior, decoder and likelihood, put together. VAE, CVAE and VQ-VAE are choices."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vaekit.parts.latents import Draw, Latent, Trace
from vaekit.parts.likelihoods import Likelihood
from vaekit.parts.priors import Prior
from vaekit.tensors import Term, widened


class Autoencoder(nn.Module):
    """x -> encoder -> latent -> decoder -> p(x|z), with a prior on the latent's code.

    Images are x (B, C, H, W) floats in [0, 1] (or standardised tables, with images=False), labels y (B,) int64. Parts
    are handed in already built: see `vaekit.parts`. n_classes > 0 makes y compulsory, 0 forbids it.
    samples: draws per image where `forward` isn't told, such as in training.
    """

    def __init__(
        self,
        *,
        encoder: nn.Module,
        latent: Latent,
        decoder: nn.Module,
        prior: Prior,
        likelihood: Likelihood,
        n_classes: int = 0,
        images: bool = True,
        samples: int = 1,
    ):
        super().__init__()
        self.encoder, self.latent, self.decoder = encoder, latent, decoder
        self.prior, self.likelihood = prior, likelihood
        self.n_classes, self.images, self.samples = n_classes, images, samples

    def forward(self, x: Tensor, y: Tensor | None = None, samples: int | None = None) -> Trace:
        """x (B, C, H, W), y (B,) -> the Trace of `samples` draws per image."""
        self._check_labels(y)
        return self.trace(self.encoder(x, y), x, y, samples or self.samples)

    def trace(self, h: Tensor, x: Tensor, y: Tensor | None = None, samples: int = 1) -> Trace:
        """The rest of `forward`, from what the encoder has made of x and y: further draws need no further encoding."""
        draw = self.latent(h, samples)
        batch = len(x)
        flat = draw.z.flatten(0, 1)  # (S*B, D[, h, w])
        if samples > 1:
            repeat = [samples] + [1] * (x.dim() - 1)
            x, y = x.repeat(repeat), None if y is None else y.repeat(samples)
        out = widened(self.decoder(flat, y))
        scale = self.likelihood.penalty_scale() if draw.penalties else 1.0  # that of the nats, which may then follow x
        nll = -self.likelihood.log_prob(out, x).view(samples, batch)
        log_p = self.prior.log_prob(draw.code.flatten(0, 1), y).view(samples, batch)
        penalties = {name: Term(term.value, term.weight * scale, term.unit) for name, term in draw.penalties.items()}
        return Trace(nll, {"z": draw.log_q - log_p}, self._closed_form(draw), (draw,), penalties)

    def _closed_form(self, draw: Draw) -> dict[str, Tensor]:
        kl = self.prior.kl(*draw.moments) if draw.moments else None
        return {} if kl is None else {"z": kl}

    def _check_labels(self, y: Tensor | None) -> None:
        if self.n_classes and y is None:
            raise ValueError("this model is conditional: it needs labels y")
        if not self.n_classes and y is not None:
            raise ValueError("this model is unconditional: it takes no labels y")

    def encode(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """x (B, C, H, W) -> the mode of q(z|x): posterior means (B, D), or code indices (B, h, w) int64."""
        self._check_labels(y)
        return self.latent(self.encoder(x, y), 0).mode  # no draws: they would take random numbers from the caller

    def decode(self, code: Tensor, y: Tensor | None = None) -> Tensor:
        """Codes (N, D) or (N, h, w) -> the mean of p(x|z), (N, C, H, W); in [0, 1] for images."""
        return self.decode_embedded(self.latent.embed(code), y)

    def decode_embedded(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Decoder inputs (N, D[, h, w]) -> the mean of p(x|z), (N, C, H, W), without snapping to a codebook."""
        self._check_labels(y)
        mean = self.likelihood.mean(widened(self.decoder(z, y)))
        return mean.clamp(0, 1) if self.images else mean

    def reconstruct(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """x -> decode(encode(x)), (B, C, H, W)."""
        return self.decode(self.encode(x, y), y)

    def sample(self, n: int, y: Tensor | None = None, temperature: float = 1.0, **choices) -> Tensor:
        """(n, C, H, W) means of p(x|z) for z from the prior; y (n,) when the model or its prior knows classes. `choices`
        are the prior's own, such as top_k.
        """
        if not self.prior.n_classes:
            self._check_labels(y)
        code = self.prior.sample(n, y, temperature, **choices)
        return self.decode(code, y if self.n_classes else None)

    def prime(self, x: Tensor, y: Tensor | None = None) -> None:
        """Data-dependent initialisation from x (N, C, H, W), before the first step: learned variance, the decoder's output,
        codebook. A decoder that starts at grey is driven to black or white in the first steps, and where a sigmoid then
        saturates it stays there: measured in two of three seeds of the VQ-VAE on MNIST.
        """
        if prime := getattr(self.decoder, "prime", None):
            prime(self.likelihood.start(x))
        self.likelihood.prime(x)
        self.latent.prime(self.encoder(x, y))

    def unsettled(self) -> list[Tensor]:
        """What is to be added up over ranks, in place, before `settle`."""
        return self.latent.unsettled() + self.likelihood.unsettled()

    def settle(self) -> None:
        """Takes in what a batch came to that was looked at in parts: see `vaekit.ranks.Part`."""
        self.latent.settle()
        self.likelihood.settle()

    @torch.no_grad()
    def measures(self) -> dict[str, float]:
        """What is worth a line in the log at the end of an epoch: sigma, and codebook usage since the last call."""
        return self.likelihood.usage() | self.latent.usage()

    @property
    def n_parameters(self) -> int:
        """Trainable numbers of encoder, latent and decoder; a codebook counts however it is trained."""
        networks = [p for part in (self.encoder, self.decoder) for p in part.parameters() if p.requires_grad]
        return sum(parameter.numel() for parameter in networks) + self.latent.n_parameters
