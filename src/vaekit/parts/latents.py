"""What stands between encoder and decoder: the draw of z and the bookkeeping an objective needs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vaekit.tensors import Term, gaussian_log_prob, widened
from vaekit.world import drawn


class Draw(NamedTuple):
    """What a latent returns for B images and S draws. `*code` is (D,) or a grid (h, w)."""

    z: Tensor  # (S, B, D[, h, w]) differentiable decoder input
    code: Tensor  # (S, B, *code) what the prior models: z itself, or int64 indices
    mode: Tensor  # (B, *code) posterior mean, or nearest index
    log_q: Tensor  # (S, B) nats; 0 for a quantizer
    moments: tuple[Tensor, Tensor] | None  # mean, log_var (B, D)
    penalties: dict[str, Term]  # {} or commitment, codebook


class Trace(NamedTuple):
    """One pass x -> z -> x of B images and S draws: all that an objective sees."""

    nll: Tensor  # (S, B) nats, -log p(x|z, y)
    rates: dict[str, Tensor]  # latent group -> (S, B) nats at the draw: log q(z|x) - log p(z)
    kls: dict[str, Tensor]  # latent group -> (B,) nats, closed form where known
    draws: tuple[Draw, ...]
    penalties: dict[str, Term]


class Latent(nn.Module):
    """What stands between encoder and decoder. A kind says `forward(h, samples)`, which gives the Draw: of 0 samples only the
    mode is wanted, and no random number is drawn. Where its code is no decoder input it says the rest, too.

    features: channels that it wants of the encoder. width: of a decoder input, D. shape: (D,), or (C, h, w) of a grid whose
    decoder input is the vector that it makes flat; () where codes are indices.
    discrete: codes are indices, and the draws of an image are all alike: see `vaekit.parts.quantizers.Quantizer`.
    independent: whether each image has noise of its own in eval mode, too; see `independent_noise`.
    """

    features: int
    width: int
    shape: tuple[int, ...] = ()
    discrete = False
    independent = False
    n_codes: int  # of a discrete one

    def embed(self, code: Tensor) -> Tensor:
        """(N, *code) -> decoder inputs (N, D[, h, w])."""
        return code

    def nearest(self, z: Tensor) -> Tensor:
        """Decoder inputs (N, D[, h, w]) -> the codes nearest to them, (N, *code)."""
        return z

    def traced(self, h: Tensor) -> Tensor:
        """Encoder outputs h (N, ...) -> their modes (N, *code), in operations that make a graph for any N."""
        return self(h, 0).mode

    def as_near(self, h: Tensor, code: Tensor, mode: Tensor, tolerance: float) -> Tensor:
        """Encoder outputs h, and two codes of each -> booleans, where `code` is as good as the `mode` but for rounding.
        tolerance: as a share of what is compared.
        """
        return code == mode

    def prime(self, h: Tensor) -> None:
        """Data-dependent initialisation from encoder outputs h, before the first step."""

    def unsettled(self) -> list[Tensor]:
        """What is to be added up over ranks, in place, before `settle`."""
        return []

    def settle(self) -> None:
        """Takes in what a batch came to that was looked at in parts, once all of them have been: see `vaekit.ranks.Part`."""

    def vectors(self) -> Tensor:
        """(K, D) decoder inputs of the codes of a discrete latent."""
        raise NotImplementedError

    def usage(self) -> dict[str, float]:
        """What is worth a line in the log at the end of an epoch, since the last call."""
        return {}

    @property
    def n_parameters(self) -> int:
        """Numbers that are learned, by gradient or otherwise."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)


class GaussianLatent(Latent):
    """q(z|x) = N(mean, diag exp(log_var)), drawn by reparameterisation (Kingma & Welling 2014, section 2.4).

    In training mode every image has noise of its own. In eval mode one noise vector per draw serves all images, so
    that under a fixed seed the result is a function of the image, whatever stands beside it in a batch; an average over
    images then shares the error of that one vector, which `independent_noise` avoids.

    grid: (h, w) of latents that are each of a place; the vector is then a grid (C, h, w) made flat.
    """

    def __init__(self, *, latent_dim: int, grid: tuple[int, int] | None = None):
        super().__init__()
        if latent_dim < 1:
            raise ValueError(f"latent_dim must be >= 1, got {latent_dim}")
        self.latent_dim = self.width = latent_dim
        self.shape = (latent_dim,) if grid is None else (latent_dim // math.prod(grid), *grid)
        self.features = 2 * latent_dim

    def forward(self, h: Tensor, samples: int = 1) -> Draw:
        """h (B, 2D), mean and log-variance side by side, or a grid of them (B, 2C, h, w) -> Draw of `samples` draws."""
        mean, log_var = widened(h).flatten(1).chunk(2, dim=1)
        # Beyond these the posterior is a point or a plane to float32; the clamp keeps exp() finite.
        log_var = log_var.clamp(-20.0, 10.0)

        def noise_for(images: int) -> Tensor:
            return torch.randn(samples, images, self.latent_dim, device=mean.device, dtype=mean.dtype)

        noise = drawn(noise_for, len(mean), dim=1) if self.training or self.independent else noise_for(1)
        z = mean + torch.exp(0.5 * log_var) * noise  # (S, B, D)
        log_q = gaussian_log_prob(z, mean, log_var).sum(-1)
        return Draw(z, z, mean, log_q, (mean, log_var), {})


@contextmanager
def independent_noise(model: nn.Module) -> Iterator[None]:
    """Inside the block what draws noise in `model` gives every image noise of its own in eval mode too."""
    noisy: list[Any] = [part for part in model.modules() if hasattr(part, "independent")]
    for part in noisy:
        part.independent = True
    try:
        yield
    finally:
        for part in noisy:
            part.independent = False
