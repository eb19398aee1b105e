"""Objectives: from a Trace to named Terms. Each is called as `objective(trace, step)`; `tensors.total` sums the terms."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vaekit.parts.latents import Trace
from vaekit.tensors import Term


def distortion_and_rate(trace: Trace) -> tuple[Tensor, Tensor]:
    """(B,) nats each: E[-log p(x|z)] over the draws, and KL[q(z|x) || p(z)], in closed form where it is known."""
    groups = [trace.kls.get(name, rate.mean(0)) for name, rate in trace.rates.items()]
    return trace.nll.mean(0), torch.stack(groups).sum(0)


@dataclass(frozen=True)
class Elbo:
    """-ELBO = distortion + rate (Kingma & Welling 2014, equation 3), the rate weighted by beta (Higgins et al. 2017).

    beta: >= 0; 1 is the VAE.
    warmup: steps over which the weight of the rate rises linearly from 0 to beta; 0 starts at beta.
    """

    beta: float = 1.0
    warmup: int = 0

    def __post_init__(self):
        if not 0 <= self.beta < math.inf:
            raise ValueError(f"beta must be a number >= 0, got {self.beta}")
        if not self.warmup >= 0:
            raise ValueError(f"warmup must be >= 0 steps, got {self.warmup}")

    def __call__(self, trace: Trace, step: int) -> dict[str, Term]:
        distortion, rate = distortion_and_rate(trace)
        beta = self.beta * min(1.0, (step + 1) / self.warmup) if self.warmup else self.beta
        return {"distortion": Term(distortion), "rate": Term(rate, beta), **trace.penalties}


class ConstrainedElbo(nn.Module):
    """The beta-VAE as a constrained problem: the least distortion with a rate of at most `epsilon` nats.

    beta is the Lagrange multiplier of E[log p(x|z)] - beta (KL - epsilon) (Higgins et al. 2017, equation 2), learned
    by projected dual ascent: beta <- max(0, beta + ascent (1 + beta) (KL / epsilon - 1)) after each batch in training mode.
    The violation is taken relative to epsilon and the step grows with beta, so that one `ascent` serves targets and data of
    any size. The constant beta * epsilon moves no weight and is left out of the terms.
    """

    def __init__(self, *, epsilon: float, ascent: float = 0.02, beta: float = 1.0):
        super().__init__()
        if not 0 < epsilon < math.inf:
            raise ValueError(f"epsilon must be > 0 nats, got {epsilon}")
        if not 0 <= beta < math.inf:
            raise ValueError(f"beta must be a number >= 0, got {beta}")
        self.epsilon, self.ascent = epsilon, ascent
        self.register_buffer("beta", torch.tensor(float(beta)))

    def forward(self, trace: Trace, step: int) -> dict[str, Term]:
        distortion, rate = distortion_and_rate(trace)
        beta = self.beta.clone()
        if self.training:
            with torch.no_grad():
                self.beta.add_(self.ascent * (1 + self.beta) * (rate.mean() / self.epsilon - 1)).clamp_(min=0)
        return {"distortion": Term(distortion), "rate": Term(rate, beta), **trace.penalties}
