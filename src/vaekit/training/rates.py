"""Rates of a trained model's codes, E[log q(z|x) - log p(z|y)] in nats per image, as modules that the loop trains: for a
quantizer, whose q is certain, that is -log p(code).
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vaekit.data.batches import Data
from vaekit.models.autoencoder import Autoencoder
from vaekit.parts.matching import MatchingPrior
from vaekit.parts.priors import MixturePrior, Prior
from vaekit.ranks import check_enough_images, gathered, parts_of_batch
from vaekit.tensors import Term, gaussian_log_prob
from vaekit.threads import paced
from vaekit.world import drawn, seeded

AVERAGED = 0.998  # of the average of a velocity field that each step leaves as it is


@dataclass(frozen=True)
class Codes(Data):
    """What a prior is trained on: codes (N, h, w) int64, or posterior moments (N, 2D), mean and log-variance."""

    x: Tensor

    def batch(self, index: Tensor | slice) -> tuple[Tensor, Tensor | None]:
        return self.x[index], None if self.y is None else self.y[index]


@torch.no_grad()
def encode(model: Autoencoder, data: Data) -> Tensor:
    """Codes (N, h, w) int64, or moments (N, 2D), of all images, the model in eval mode. Ranks share the work."""
    model.eval()
    found = []
    size = data.at_once(model)
    check_enough_images(len(data), 1)
    (part,) = parts_of_batch(len(data))
    with seeded(0):  # a latent draws, though only its moments are wanted
        for start in paced(range(part.start, part.stop, size)):
            x, y = data.batch(slice(start, min(start + size, part.stop)))
            draw = model.latent(model.encoder(x, y))
            if draw.moments is None and not model.latent.discrete:
                raise ValueError(
                    "a prior is fitted to codes, or to posteriors with a mean and a variance; this model's latent has neither"
                )
            found.append(draw.mode if draw.moments is None else torch.cat(draw.moments, dim=1))
    return gathered(torch.cat(found), part)[0]


def rate_term(nats: Tensor, step: int) -> dict[str, Term]:
    """The objective of the second stage."""
    return {"rate": Term(nats)}


def matching_term(errors: Tensor, step: int) -> dict[str, Term]:
    """The objective of a second stage that learns velocities: a squared error, not nats."""
    return {"matching": Term(errors, unit="sq")}


class Rate(nn.Module):
    """What is known of the latents of B images -> (B,) nats under `prior`."""

    def __init__(self, prior: Prior):
        super().__init__()
        self.prior = prior

    def pack(self) -> None:
        """Writes what was learned beside the prior into it, at the end."""


class CodeRate(Rate):
    """Codes (B, h, w) -> (B,) nats, the rate of a certain q."""

    def forward(self, codes: Tensor, y: Tensor | None = None) -> Tensor:
        return -self.prior.log_prob(codes, y)


class LatentRate(Rate):
    """Moments (B, 2D) -> (B,) nats at one draw z ~ q(z|x): log q(z|x) - log p(z|y)."""

    def forward(self, moments: Tensor, y: Tensor | None = None) -> Tensor:
        z, log_q = posterior_draw(moments)
        return log_q - self.prior.log_prob(z, y)


class VampRate(Rate):
    """As `LatentRate`, for a VampPrior (Tomczak & Welling 2018, equation 9): a mixture of the posteriors of pseudo-inputs,
    images that are learned while the encoder stays as it is.
    """

    prior: MixturePrior

    def __init__(self, prior: MixturePrior, model: Autoencoder, pseudo_inputs: Tensor, labels: Tensor | None):
        super().__init__(prior)
        self.images = model.images
        self._frozen = [copy.deepcopy(model).eval().requires_grad_(False)]  # in a list: its weights are not saved here
        self.pseudo_inputs = nn.Parameter(pseudo_inputs)  # (G * M, C, H, W)
        self.register_buffer("pseudo_labels", labels)

    def _components(self) -> tuple[Tensor, Tensor]:
        """Means and log-variances (G, M, D)."""
        model = self._frozen[0]
        x = self.pseudo_inputs.clamp(0, 1) if self.images else self.pseudo_inputs
        mean, log_var = model.latent(model.encoder(x, self.pseudo_labels if model.n_classes else None)).moments
        shape = self.prior.means.shape
        return mean.view(shape), log_var.view(shape)

    def forward(self, moments: Tensor, y: Tensor | None = None) -> Tensor:
        z, log_q = posterior_draw(moments)
        means, log_vars = self._components()
        group = torch.zeros(len(z), dtype=torch.int64, device=z.device) if y is None else y
        log_p = gaussian_log_prob(z[:, None], means[group], log_vars[group]).sum(-1)  # (B, M)
        return log_q - log_p.logsumexp(1) + math.log(self.prior.components)

    @torch.no_grad()
    def pack(self) -> None:
        """Writes the components into the prior."""
        with seeded(0):  # as in `encode`
            means, log_vars = self._components()
        self.prior.means.copy_(means)
        self.prior.precision_cholesky.copy_(torch.diag_embed(torch.exp(-0.5 * log_vars)))


class MatchingRate(Rate):
    """Moments (B, 2D) -> (B,) squared errors of a velocity field at draws z ~ q(z|x), not nats. The field that learns stands
    here; that of the prior, which samples and by which an epoch is chosen, is its moving average.
    """

    prior: MatchingPrior
    steps: Tensor

    def __init__(self, prior: MatchingPrior):
        super().__init__(prior)
        self.field = copy.deepcopy(prior.field)
        prior.field.requires_grad_(False)
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, moments: Tensor, y: Tensor | None = None) -> Tensor:
        z, _ = posterior_draw(moments)
        return self.prior.error(self.field if self.training else self.prior.field, z, y)

    def unsettled(self) -> list[Tensor]:
        """Nothing: see `Autoencoder.unsettled`."""
        return []

    @torch.no_grad()
    def settle(self) -> None:
        """Moves the average, over a tenth of the steps so far and over 1 / (1 - AVERAGED) of them at most."""
        share = (9 / (10 + self.steps)).clamp(min=1 - AVERAGED)
        for average, now in zip(self.prior.field.parameters(), self.field.parameters(), strict=True):
            average.lerp_(now, share)
        self.steps += 1


def posterior_draw(moments: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 2D) -> a draw z (B, D) and log q(z|x) (B,) nats."""
    mean, log_var = moments.chunk(2, dim=1)
    plain = drawn(lambda n: torch.randn(n, *mean.shape[1:], device=mean.device, dtype=mean.dtype), len(mean))
    z = mean + plain * torch.exp(0.5 * log_var)
    return z, gaussian_log_prob(z, mean, log_var).sum(1)


def mean_rate(rate: nn.Module, data: Codes) -> float:
    total, size = 0.0, data.at_once(rate)
    for start in paced(range(0, len(data), size)):
        total += rate(*data.batch(slice(start, start + size))).double().sum().item()
    return total / len(data)


def simpler_rates(model: Autoencoder, train_part: Codes, held_part: Codes) -> dict[str, float]:
    """Rates of the held-out images under what a fitted prior has to beat: `plain_rate` is that of N(0, I) or of the uniform
    prior; `position_rate` that of the frequencies of the codes at each position, counted in the training part.
    """
    if not model.latent.discrete:
        return {"plain_rate": mean_rate(LatentRate(model.prior), held_part)}
    codes, held = train_part.x.flatten(1), held_part.x.flatten(1)
    k, positions = model.latent.n_codes, codes.shape[1]
    cell = torch.arange(positions, device=codes.device) * k
    counts = torch.bincount((codes + cell).flatten(), minlength=k * positions).double().view(positions, k) + 1
    nats = -(counts / counts.sum(1, keepdim=True)).log().flatten()[held + cell].sum(1)
    return {"plain_rate": positions * math.log(k), "position_rate": nats.mean().item()}
