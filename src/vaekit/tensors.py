"""The formulas that every floor above shares, each once: densities, divergences, units.

Shapes: S draws, B images, N any batch, D latent width. Everything is in nats per image unless it says otherwise.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

LOG_2PI = math.log(2 * math.pi)


class Term(NamedTuple):
    """One named part of an objective: the only currency of loss.

    value: (B,) unweighted, one number per image.
    weight: what the objective multiplies its batch mean with (beta, commitment, ...); a number, or a detached scalar.
    unit: "nats", or "sq" for a squared distance.
    """

    value: Tensor
    weight: float | Tensor = 1.0
    unit: str = "nats"


def total(terms: dict[str, Term]) -> Tensor:
    """The scalar to minimise: the sum over terms of weight * mean(value). The only place a loss is summed."""
    return torch.stack([term.weight * term.value.mean() for term in terms.values()]).sum()


def gaussian_log_prob(x: Tensor, mean: Tensor | float = 0.0, log_var: Tensor | float = 0.0) -> Tensor:
    """Elementwise log N(x; mean, exp(log_var)) in nats, in the broadcast shape of the arguments."""
    log_var = torch.as_tensor(log_var, dtype=x.dtype, device=x.device)
    return -0.5 * (LOG_2PI + log_var + (x - mean).square() * torch.exp(-log_var))


def gaussian_kl(mean: Tensor, log_var: Tensor) -> Tensor:
    """Elementwise KL[N(mean, exp(log_var)) || N(0, 1)] in nats (Kingma & Welling 2014, appendix B).

    Sum it over the last axis for the KL of a diagonal Gaussian: 1/2 (tr sigma^2 + mu'mu - d - log det sigma^2).
    """
    return 0.5 * (mean.square() + log_var.exp() - 1.0 - log_var)


def widened(x: Tensor) -> Tensor:
    """What autocast has made narrower as float32; float64 stays what it is."""
    return x if x.dtype == torch.float64 else x.float()


def log_mean_exp(x: Tensor, dim: int = 0) -> Tensor:
    """log(mean(exp(x))) along `dim`, without overflow."""
    return torch.logsumexp(x, dim) - math.log(x.shape[dim])


def straight_through(z: Tensor, quantised: Tensor) -> Tensor:
    """`quantised` in the forward pass, the gradient of `z` in the backward one (van den Oord et al. 2017, section 3.2)."""
    return z + (quantised - z).detach()


def bits_per_dim(nats: float, dimensions: int) -> float:
    """Nats per image as bits per dimension; meaningful for discrete likelihoods only."""
    return nats / (dimensions * math.log(2))
