"""Objectives: from a Trace to named Terms. Each is called as `objective(trace, step)`; `tensors.total` sums the terms."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vaekit.parts.latents import Trace
from vaekit.ranks import gathered
from vaekit.tensors import Term, gaussian_log_prob, log_mean_exp
from vaekit.world import current_part


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

    beta: Tensor

    def __init__(self, *, epsilon: float, ascent: float = 0.02, beta: float = 1.0):
        super().__init__()
        if not 0 < epsilon < math.inf:
            raise ValueError(f"epsilon must be > 0 nats, got {epsilon}")
        if not 0 <= beta < math.inf:
            raise ValueError(f"beta must be a number >= 0, got {beta}")
        self.epsilon, self.ascent = epsilon, ascent
        self.register_buffer("beta", torch.tensor(float(beta)))
        self.seen = torch.zeros(())  # of the mean rate of a batch, in the parts so far

    def forward(self, trace: Trace, step: int) -> dict[str, Term]:
        """The terms of a trace, the rate weighted by beta; in training mode beta then takes its step."""
        distortion, rate = distortion_and_rate(trace)
        beta, part = self.beta, current_part()
        if self.training and part is None:
            self._ascend(rate.detach().mean())
        elif self.training and part is not None:
            self.seen = self.seen.to(rate) + part.share * rate.detach().mean()
        return {"distortion": Term(distortion), "rate": Term(rate, beta), **trace.penalties}

    def unsettled(self) -> list[Tensor]:
        """What is to be added up over ranks, in place, before `settle`."""
        return [self.seen]

    def settle(self) -> None:
        """The step of a batch that was looked at in parts: by its mean rate."""
        self._ascend(self.seen)
        self.seen = torch.zeros_like(self.seen)

    def _ascend(self, rate: Tensor) -> None:
        # A new tensor: a compiled backward pass reads the one before, and would see what is written into it.
        self.beta = (self.beta + self.ascent * (1 + self.beta) * (rate / self.epsilon - 1)).clamp(min=0)


def log_weights(trace: Trace) -> Tensor:
    """(S, B) log of the importance weights p(x, z) / q(z|x) of the draws, in nats."""
    return -(trace.nll + torch.stack(list(trace.rates.values())).sum(0))


@dataclass(frozen=True)
class Iwae:
    """The importance-weighted bound -log 1/k sum_i p(x, z_i) / q(z_i|x) (Burda, Grosse & Salakhutdinov 2016, equation 8),
    over the k draws that the trace holds; one draw's is the ELBO, and has its rate in closed form where it is known.

    elbo_steps: steps, the first ones, that are to have one draw each: they cost a fraction of the others, and are as good
        until the posteriors are nearly what they can be.
    Terms: distortion and rate, averages over the draws, and `tightening` <= 0, what the bound gains over their ELBO.
    """

    elbo_steps: int = 0

    def __post_init__(self):
        if not self.elbo_steps >= 0:
            raise ValueError(f"elbo_steps must be >= 0, got {self.elbo_steps}")

    def draws(self, step: int) -> int | None:
        """How many draws the trace of a `step` is to hold; None for as many as the module has by itself."""
        return 1 if step < self.elbo_steps else None

    def __call__(self, trace: Trace, step: int) -> dict[str, Term]:
        distortion, rate = distortion_and_rate(trace)
        tightening = torch.zeros_like(rate)
        if len(trace.nll) > 1:
            weights, rate = log_weights(trace), torch.stack(list(trace.rates.values())).sum(0).mean(0)
            tightening = weights.mean(0) - log_mean_exp(weights)
        return {"distortion": Term(distortion), "rate": Term(rate), "tightening": Term(tightening), **trace.penalties}


@dataclass(frozen=True)
class BetaTc:
    """The ELBO with its rate taken apart into mutual information, total correlation and the latents' own KLs, each weighted
    (Chen, Li, Grosse & Duvenaud 2018, equations 2 and 4); weights of 1 are the ELBO.

    n: images in the data set: q(z), an average over all of them, is estimated from the batch by the paper's minibatch
    stratified sampling (appendix C.2). The batch is that of all ranks; where it is looked at in several rounds, that of one.
    alpha, beta, gamma: weights, >= 0, of `mutual_information` KL[q(z, n) || q(z) p(n)], `total_correlation`
    KL[q(z) || prod q(z_j)] and `dimension_kl` sum_j KL[q(z_j) || p(z_j)], whose sum is the rate. The terms are the rate,
    in closed form where it is known, and its three parts with what their weights exceed 1 by.
    warmup: steps over which the weights of all of them rise linearly from 0.
    """

    n: int
    alpha: float = 1.0
    beta: float = 6.0
    gamma: float = 1.0
    warmup: int = 0

    def __post_init__(self):
        for name in ("alpha", "beta", "gamma"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a number >= 0, got {getattr(self, name)}")
        if self.n < 1 or not self.warmup >= 0:
            raise ValueError(f"n must be >= 1 image and warmup >= 0 steps, got {self.n} and {self.warmup}")

    def __call__(self, trace: Trace, step: int) -> dict[str, Term]:
        (draw,) = trace.draws
        if draw.moments is None:
            raise ValueError("the total correlation is of Gaussian latents; these have no mean and variance")
        moments, place = gathered(torch.stack(draw.moments, dim=1), current_part())
        mean, log_var = moments.unbind(1)  # (B, D), of all ranks
        batch, here = len(mean), draw.z.shape[1]
        log_p = draw.log_q - trace.rates["z"]  # (S, b), of the b images here
        pairs = gaussian_log_prob(draw.z[:, :, None], mean, log_var)  # (S, b, B, D): log q(z_ij | x_l)
        log_share = _stratified(max(self.n, batch), batch)[place : place + here].log().to(mean)
        log_q_z = (pairs.sum(-1) + log_share).logsumexp(2)  # (S, b)
        log_q_each = (pairs + log_share[:, :, None]).logsumexp(2).sum(-1)
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        distortion, rate = distortion_and_rate(trace)
        return {
            "distortion": Term(distortion),
            "rate": Term(rate, warm),
            "mutual_information": Term((draw.log_q - log_q_z).mean(0), warm * (self.alpha - 1)),
            "total_correlation": Term((log_q_z - log_q_each).mean(0), warm * (self.beta - 1)),
            "dimension_kl": Term((log_q_each - log_p).mean(0), warm * (self.gamma - 1)),
            **trace.penalties,
        }


def _stratified(n: int, batch: int) -> Tensor:
    """(B, B) what share of the data set's n images each image of the batch stands for, seen from each; rows sum to 1: itself
    for one, one other for the n - B + 1 that are left over, and the rest evenly.
    """
    if batch == 1:
        return torch.ones(1, 1)
    others = batch - 1
    shares = torch.full((batch, batch), 1 / others)
    shares.fill_diagonal_(1 / n)
    rows = torch.arange(batch)
    shares[rows, (rows + 1) % batch] = (n - others) / (n * others)
    return shares
