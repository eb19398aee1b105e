"""Priors p(z): what the codes are before any image is seen."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from vaekit.parts.causal import CausalNetwork, generate, log_prob
from vaekit.parts.networks import MLP
from vaekit.tensors import gaussian_kl, gaussian_log_prob


class Prior(nn.Module):
    """p(code). A kind says `log_prob` and `sample`.

    code_shape: of a code, (D,) or (h, w). n_classes: of labels that it knows; 0 ignores them.
    gives_images: whether its draws look like codes of images. choices: what `sample` takes besides, such as "top_k".
    """

    code_shape: tuple[int, ...]
    class_shares: Tensor  # (n_classes,) of one that knows labels
    n_classes = 0
    gives_images = True
    choices: tuple[str, ...] = ()

    def log_prob(self, code: Tensor, y: Tensor | None = None) -> Tensor:
        """(N, *code), y (N,) or None -> (N,) nats."""
        raise NotImplementedError

    def sample(self, n: int, y: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        """(n, *code) draws."""
        raise NotImplementedError

    def kl(self, mean: Tensor, log_var: Tensor) -> Tensor | None:
        """(B,) nats KL[N(mean, exp(log_var)) || p] of posteriors (B, D); None where no closed form is known."""
        return None

    def describe(self) -> str:
        """In a table's words."""
        raise NotImplementedError


class StandardNormalPrior(Prior):
    """p(z) = N(0, I) over latent vectors (N, D). It ignores labels: p(z|y) = p(z)."""

    anchor: Tensor

    def __init__(self, *, latent_dim: int):
        super().__init__()
        self.latent_dim, self.code_shape = latent_dim, (latent_dim,)
        self.register_buffer("anchor", torch.zeros(()), persistent=False)  # tells which device to sample on

    def log_prob(self, code: Tensor, y: Tensor | None = None) -> Tensor:
        """(..., D) -> (...) nats."""
        return gaussian_log_prob(code).sum(-1)

    def kl(self, mean: Tensor, log_var: Tensor) -> Tensor:
        """(B,) nats; see `tensors.gaussian_kl`."""
        return gaussian_kl(mean, log_var).sum(-1)

    def describe(self) -> str:
        """ "N(0, I)"."""
        return "N(0, I)"

    def sample(self, n: int, y: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        """(n, D) draws; temperature scales the standard deviation."""
        return temperature * torch.randn(n, self.latent_dim, device=self.anchor.device, dtype=self.anchor.dtype)


class UniformPrior(Prior):
    """p(code) = K^-(h*w) over code grids (N, h, w): the rate of a VQ-VAE before a prior is fitted."""

    gives_images = False
    anchor: Tensor

    def __init__(self, *, n_codes: int, grid: tuple[int, int]):
        super().__init__()
        self.n_codes, self.code_shape = n_codes, (grid[0], grid[1])
        self.register_buffer("anchor", torch.zeros(()), persistent=False)

    def log_prob(self, code: Tensor, y: Tensor | None = None) -> Tensor:
        """(..., h, w) -> (...) nats: the constant -h*w*log K."""
        nats = -math.prod(self.code_shape) * math.log(self.n_codes)
        return torch.full(code.shape[:-2], nats, device=code.device, dtype=self.anchor.dtype)

    def sample(self, n: int, y: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        """(n, h, w) int64 draws; temperature changes nothing, since every code is equally likely."""
        return torch.randint(self.n_codes, (n, *self.code_shape), device=self.anchor.device)

    def describe(self) -> str:
        """ "uniform"."""
        return "uniform"


class LearnedPrior(Prior):
    """A prior fitted to the codes of a trained model: p(code|y) for each class, or p(code) where n_classes is 0.

    Without labels a class-conditional prior stands for the mixture p(code) = sum_y p(y) p(code|y); with n_classes=0 labels
    are ignored. A subclass says `_log_prob` and `_sample`, with the labels given or None.
    """

    _log_prob: Callable[[Tensor, Tensor | None], Tensor]
    _sample: Callable[..., Tensor]

    def __init__(self, *, n_classes: int = 0):
        super().__init__()
        self.n_classes = n_classes
        self.register_buffer("class_shares", torch.full((max(1, n_classes),), 1 / max(1, n_classes)))

    def log_prob(self, code: Tensor, y: Tensor | None = None) -> Tensor:
        """(N, *code), y (N,) or None -> (N,) nats."""
        if not self.n_classes:
            return self._log_prob(code, None)
        if y is not None:
            return self._log_prob(code, y)
        joint = [
            self._log_prob(code, torch.full((len(code),), label, device=code.device)) + share.log()
            for label, share in enumerate(self.class_shares)
        ]
        return torch.stack(joint).logsumexp(0)

    def sample(self, n: int, y: Tensor | None = None, temperature: float = 1.0, **choices) -> Tensor:
        """(n, *code) draws; y (n,) labels, None draws them by their shares. For `choices` see the subclass."""
        if not self.n_classes:
            y = None
        elif y is None:
            y = torch.multinomial(self.class_shares, n, replacement=True)
        return self._sample(n, y, temperature, **choices)


class MixturePrior(LearnedPrior):
    """A mixture of Gaussians over z (N, D) for each class, with full covariances.

    log_weights (G, M), means (G, M, D) and precision_cholesky (G, M, D, D), P with precision P P^T as in scikit-learn, for
    G classes (1 without) of M components each. It stands for a GMM and, with diagonal P, for a VampPrior (Tomczak & Welling
    2018): the components are then the posteriors of its pseudo-inputs.
    """

    log_weights: Tensor
    means: Tensor
    precision_cholesky: Tensor

    def __init__(self, *, latent_dim: int, components: int, n_classes: int = 0):
        super().__init__(n_classes=n_classes)
        groups = max(1, n_classes)
        self.latent_dim, self.code_shape, self.components = latent_dim, (latent_dim,), components
        self.register_buffer("log_weights", torch.full((groups, components), -math.log(components)))
        self.register_buffer("means", torch.zeros(groups, components, latent_dim))
        self.register_buffer("precision_cholesky", torch.eye(latent_dim).repeat(groups, components, 1, 1))

    def _log_prob(self, code: Tensor, y: Tensor | None) -> Tensor:
        if y is None:
            return self._of_group(code, 0)
        found = self._of_group(code, 0)
        for label in range(1, self.n_classes):  # all for all: which labels there are would have to leave the device
            found = torch.where(y == label, self._of_group(code, label), found)
        return found

    def _of_group(self, z: Tensor, group: int) -> Tensor:
        cholesky, means = self.precision_cholesky[group], self.means[group]
        whitened = torch.einsum("nd,mde->nme", z, cholesky) - torch.einsum("md,mde->me", means, cholesky)
        log_det = cholesky.diagonal(dim1=-2, dim2=-1).log().sum(-1)  # (M,)
        return (gaussian_log_prob(whitened).sum(-1) + log_det + self.log_weights[group]).logsumexp(1)

    def _sample(self, n: int, y: Tensor | None, temperature: float) -> Tensor:
        """temperature scales each component's standard deviations."""
        group = torch.zeros(n, dtype=torch.int64, device=self.means.device) if y is None else y
        component = torch.multinomial(self.log_weights.exp()[group], 1)[:, 0]
        noise = torch.randn(n, self.latent_dim, 1, device=self.means.device, dtype=self.means.dtype)
        transposed = self.precision_cholesky[group, component].mT
        offset = torch.linalg.solve_triangular(transposed, noise, upper=False)[..., 0]
        return self.means[group, component] + temperature * offset


class FlowPrior(LearnedPrior):
    """A normalising flow over z (N, D), D >= 2: affine couplings (Dinh, Sohl-Dickstein & Bengio 2017, section 3) on
    standardised z, the dimensions shuffled between them. Labels enter every coupling's network.
    """

    location: Tensor
    scale: Tensor
    orders: Tensor

    def __init__(self, *, latent_dim: int, layers: int = 8, channels: int = 64, n_classes: int = 0):
        super().__init__(n_classes=n_classes)
        if latent_dim < 2:
            raise ValueError(f"a flow couples dimensions: it needs latent_dim >= 2, got {latent_dim}")
        self.latent_dim, self.code_shape, self.kept = latent_dim, (latent_dim,), latent_dim // 2
        self.register_buffer("location", torch.zeros(latent_dim))
        self.register_buffer("scale", torch.ones(latent_dim))
        self.register_buffer("orders", torch.stack([torch.randperm(latent_dim) for _ in range(layers)]))
        couplings = [
            MLP(
                in_features=self.kept,
                hidden=(channels, channels),
                out_features=2 * (latent_dim - self.kept),
                n_classes=n_classes,
            )
            for _ in range(layers)
        ]
        for coupling in couplings:
            nn.init.zeros_(coupling.head.weight)
            nn.init.zeros_(coupling.head.bias)
        self.couplings = nn.ModuleList(couplings)

    def _coupling(self, network: nn.Module, kept: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        shift, log_scale = network(kept, y).chunk(2, dim=1)
        return shift, 2 * torch.tanh(log_scale / 2)  # bounded, so that no step can blow a dimension up

    def _log_prob(self, code: Tensor, y: Tensor | None) -> Tensor:
        h = (code - self.location) / self.scale
        log_det = -self.scale.log().sum().expand(len(code))
        for network, order in zip(self.couplings, self.orders, strict=True):
            kept, moved = h[:, order].split([self.kept, self.latent_dim - self.kept], dim=1)
            shift, log_scale = self._coupling(network, kept, y)
            h = torch.cat([kept, (moved - shift) * torch.exp(-log_scale)], dim=1)
            log_det = log_det - log_scale.sum(1)
        return gaussian_log_prob(h).sum(1) + log_det

    def _sample(self, n: int, y: Tensor | None, temperature: float) -> Tensor:
        """temperature scales the standard deviation of the base distribution."""
        noise = torch.randn(n, self.latent_dim, device=self.scale.device, dtype=self.scale.dtype)
        return self.transport(temperature * noise, y)

    def transport(self, noise: Tensor, y: Tensor | None = None) -> Tensor:
        """noise (N, D) from N(0, I) -> z (N, D): the couplings backwards."""
        h = noise
        for network, back in reversed(list(zip(self.couplings, self.orders.argsort(1), strict=True))):
            kept, moved = h.split([self.kept, self.latent_dim - self.kept], dim=1)
            shift, log_scale = self._coupling(network, kept, y)
            h = torch.cat([kept, moved * torch.exp(log_scale) + shift], dim=1)[:, back]
        return self.location + self.scale * h


class AutoregressivePrior(LearnedPrior):
    """p(code) over grids (N, h, w) of n_codes values by a causal network (`vaekit.parts.causal`), position by position."""

    choices = ("top_k", "top_p")
    most = 2**24  # logits at once outside training: 64 MB

    def __init__(self, network: CausalNetwork):
        super().__init__(n_classes=network.n_classes)
        self.network = network
        self.n_codes, self.code_shape = network.n_values, network.grid

    def _log_prob(self, code: Tensor, y: Tensor | None) -> Tensor:
        at_once = len(code) if self.training else max(1, self.most // (self.n_codes * math.prod(self.code_shape)))
        labels = [None] * len(code.split(at_once)) if y is None else y.split(at_once)
        return torch.cat([log_prob(self.network, *part) for part in zip(code.split(at_once), labels, strict=True)])

    def _sample(self, n: int, y: Tensor | None, temperature: float, **choices) -> Tensor:
        """temperature, top_k, top_p, given and known as in `causal.generate`."""
        return generate(self.network, n, y, temperature=temperature, **choices)
