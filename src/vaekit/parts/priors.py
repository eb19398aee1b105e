"""Priors p(z): what the codes are before any image is seen."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from vaekit.parts.causal import CausalNetwork, generate, log_prob
from vaekit.parts.graphs import Graph, code_input, label_input
from vaekit.parts.networks import MLP
from vaekit.tensors import gaussian_kl, gaussian_log_prob
from vaekit.world import seeded


class Prior(nn.Module):
    """p(code). A kind says `log_prob` and `sample`.

    code_shape: of a code, (D,) or (h, w). n_classes: of labels that it knows; 0 ignores them.
    gives_images: whether its draws look like codes of images. exact: whether `log_prob` is the density, and not a noisy
    estimate of a bound, of which no importance weights can be made. choices: what `sample` takes besides, such as "top_k"; one
    that takes "given" and "known" draws the rest of a grid of codes.
    """

    code_shape: tuple[int, ...]
    class_shares: Tensor  # (n_classes,) of one that knows labels
    n_classes = 0
    gives_images = True
    exact = True
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

    def shares(self, codes: Tensor, cell: int, y: Tensor | None = None) -> Tensor | None:
        """codes (h, w), a cell in raster order, y (1,) or None -> (K,) p(code of the cell | those of the cells before it[, y]);
        None of a prior that does not tell.
        """
        return None

    def graph(self) -> Graph | None:
        """What samples it without PyTorch; None of N(0, I) and of uniform codes, which need none. Either "prior", of `noise`
        (N, D) from N(0, I) and whatever else it names, uniform in [0, 1) (N,), which gives codes; or "prior_step", of `codes`
        (N, h, w), which gives the logits (N, h, w, K) of each given those before it, or of `x` (N, D) at a time `t` (N,), which
        carries it on (see `MatchingPrior.graph`). Labels y come last, where it knows any.

        Raises ValueError for a kind that has not said.
        """
        raise ValueError(
            f"a {type(self).__name__} can't be exported: it has no `graph`, which samples it without PyTorch"
        )

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

    def graph(self) -> None:
        """None: see `Prior.graph`."""

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

    def graph(self) -> None:
        """None: see `Prior.graph`."""

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

    def graph(self) -> Graph:
        """noise (N, D), u (N,) -> z (N, D)."""
        u = {"u": "uniform draws in [0, 1), which pick the component"}
        return _noise_graph(self, _MixtureGraph(self), u, self._noise)

    def _noise(self, n: int, *y: Tensor) -> tuple[Tensor, Tensor]:
        """The draws that `sample` makes of n samples, as noise and u, in the middle of the component's interval."""
        weights = self.log_weights.exp()[y[0] if y else torch.zeros(n, dtype=torch.int64)]
        component = torch.multinomial(weights, 1)
        noise = torch.randn(n, self.latent_dim)
        shares = weights.double() / weights.double().sum(1, keepdim=True)
        u = (shares.cumsum(1) - 0.5 * shares).gather(1, component)[:, 0]
        return noise, u.float()


class _MixtureGraph(nn.Module):
    """noise (N, D) ~ N(0, I) and u (N,) uniform in [0, 1), which picks the component -> z (N, D)."""

    means: Tensor
    factor: Tensor
    ends: Tensor

    def __init__(self, prior: MixturePrior):
        super().__init__()
        self.register_buffer("means", prior.means)
        # (G, M, D, D): the covariance's factor, P^-T of a precision P P^T.
        self.register_buffer("factor", torch.linalg.inv(prior.precision_cholesky.double()).mT.float().contiguous())
        weights = prior.log_weights.double().exp()
        # (G, M - 1): a component begins where the ones before it end.
        self.register_buffer("ends", (weights / weights.sum(1, keepdim=True)).cumsum(1)[:, :-1].float())

    def forward(self, noise: Tensor, u: Tensor, y: Tensor | None = None) -> Tensor:
        group = torch.zeros_like(u, dtype=torch.int64) if y is None else y
        component = (u[:, None] >= self.ends[group]).sum(1)
        offset = (self.factor[group, component] @ noise[:, :, None])[..., 0]
        return self.means[group, component] + offset


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

    def graph(self) -> Graph:
        """noise (N, D) -> z (N, D)."""
        return _noise_graph(self, _FlowGraph(self), {}, lambda n, *y: (torch.randn(n, self.latent_dim),))


class _FlowGraph(nn.Module):
    """noise (N, D) ~ N(0, I) -> z (N, D)."""

    def __init__(self, prior: FlowPrior):
        super().__init__()
        self.prior = prior

    def forward(self, noise: Tensor, y: Tensor | None = None) -> Tensor:
        return self.prior.transport(noise, y)


def _noise_graph(
    prior: LearnedPrior, module: nn.Module, uniform: dict[str, str], draws: Callable[..., tuple[Tensor, ...]]
) -> Graph:
    """The graph of a prior that `module` samples of noise and the `uniform` inputs. draws: (n[, y]) -> those of `sample`."""
    labels, label = label_input(prior.n_classes)

    def inputs(n: int, *y: Tensor) -> tuple[Tensor, ...]:
        with seeded(n):
            return *draws(n, *y), *y

    def sampled(noise: Tensor, *rest: Tensor) -> tuple[Tensor]:
        y = rest[len(uniform)] if labels else None
        with seeded(len(noise)):
            return (prior.sample(len(noise), y),)

    return Graph(
        "prior",
        "noise to latents of the fitted prior",
        type(prior).__name__,
        module,
        {"noise": "draws from N(0, I), times a temperature where one is wanted", **uniform, **labels},
        {"z": "latents, for the decoder"},
        lambda n, rng: [inputs(n, *label(n, rng))],
        sampled,
    )


class AutoregressivePrior(LearnedPrior):
    """p(code) over grids (N, h, w) of n_codes values by a causal network (`vaekit.parts.causal`), position by position."""

    choices = ("top_k", "top_p", "given", "known")
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

    def shares(self, codes: Tensor, cell: int, y: Tensor | None = None) -> Tensor:
        """See `Prior.shares`; without y, over the classes that the cells before leave likely."""
        if y is None and self.n_classes:
            y = torch.arange(self.n_classes, device=codes.device)
        codes = codes.expand(1 if y is None else len(y), *codes.shape)
        log_p = self.network(codes, y).float().log_softmax(1).flatten(2)  # (classes, K, h*w)
        before = log_p.gather(1, codes.flatten(1)[:, None])[:, 0, :cell].sum(1)
        if len(log_p) > 1:
            before = before + self.class_shares.log()
        return (before.softmax(0)[:, None] * log_p[:, :, cell].exp()).sum(0)

    def graph(self) -> Graph:
        """codes (N, h, w) -> logits (N, h, w, K)."""
        labels, label = label_input(self.n_classes)

        def draw(n: int, rng: np.random.Generator) -> list[tuple[Tensor, ...]]:
            return [(torch.from_numpy(rng.integers(self.n_codes, size=(n, *self.code_shape))), *label(n, rng))]

        return Graph(
            "prior_step",
            "one step of sampling: the codes so far to the logits of every position, each of which looks at the codes "
            "before it in raster order; draw the code at hand from its own, and go on to the next",
            type(self).__name__,
            _StepGraph(self),
            {**code_input(self.n_codes), **labels},
            {"logits": "log-probabilities of each position's codes, up to a constant"},
            draw,
            lambda codes, *y: (self.network(codes, *y).movedim(1, -1),),
        )


class _StepGraph(nn.Module):
    """codes (N, h, w) -> logits (N, h, w, K)."""

    def __init__(self, prior: AutoregressivePrior):
        super().__init__()
        self.network = prior.network

    def forward(self, codes: Tensor, y: Tensor | None = None) -> Tensor:
        return self.network(codes, y).movedim(1, -1)
