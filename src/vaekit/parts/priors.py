"""Priors p(z): what the codes are before any image is seen."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vaekit.tensors import gaussian_log_prob


class StandardNormalPrior(nn.Module):
    """p(z) = N(0, I) over latent vectors (N, D). It ignores labels: p(z|y) = p(z)."""

    def __init__(self, *, latent_dim: int):
        super().__init__()
        self.latent_dim = latent_dim
        self.register_buffer("anchor", torch.zeros(()), persistent=False)  # tells which device to sample on

    def log_prob(self, code: Tensor, y: Tensor | None = None) -> Tensor:
        """(..., D) -> (...) nats."""
        return gaussian_log_prob(code).sum(-1)

    def sample(self, n: int, y: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        """(n, D) draws; temperature scales the standard deviation."""
        return temperature * torch.randn(n, self.latent_dim, device=self.anchor.device)


class UniformPrior(nn.Module):
    """p(code) = K^-(h*w) over code grids (N, h, w): the rate of a VQ-VAE before a prior is fitted."""

    def __init__(self, *, n_codes: int, grid: tuple[int, int]):
        super().__init__()
        self.n_codes, self.grid = n_codes, tuple(grid)
        self.register_buffer("anchor", torch.zeros(()), persistent=False)

    def log_prob(self, code: Tensor, y: Tensor | None = None) -> Tensor:
        """(..., h, w) -> (...) nats: the constant -h*w*log K."""
        nats = -math.prod(self.grid) * math.log(self.n_codes)
        return torch.full(code.shape[:-2], nats, device=code.device)

    def sample(self, n: int, y: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        """(n, h, w) int64 draws; temperature changes nothing, since every code is equally likely."""
        return torch.randint(self.n_codes, (n, *self.grid), device=self.anchor.device)
