"""Vector quantisation (van den Oord, Vinyals & Kavukcuoglu 2017): each latent vector becomes the nearest of K codes."""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaekit.messages import first_line
from vaekit.parts.latents import Draw, Latent
from vaekit.state import warn
from vaekit.tensors import Term, straight_through, widened
from vaekit.world import current_part

CHUNK = 4096  # vectors compared at once, at most
SCORES = 2**21  # held at once on a CPU: few enough for its caches, enough that threads seldom wait for each other
GROUP = 16  # codes whose scores are compared as one vector operation


def nearest_code(vectors: Tensor, codebook: Tensor) -> Tensor:
    """(N, D) vectors and (K, D) codebook -> (N,) int64 index of the nearest code in Euclidean distance; of equals the lowest.

    The argmin of `code_scores`, in chunks, so that memory does not grow with N * K; on a CUDA GPU, with
    VAEKIT_TRITON=1, one Triton kernel that keeps no scores at all. Autocast does not reach into it: vectors rounded to bfloat16
    have other neighbours.
    """
    return _nearest_code(vectors, codebook)


# One operator to `torch.compile`, whose graph would otherwise grow with the number of chunks.
@torch.library.custom_op("vaekit::nearest_code", mutates_args=(), schema="(Tensor vectors, Tensor codebook) -> Tensor")
def _nearest_code(vectors: Tensor, codebook: Tensor) -> Tensor:
    fused = _kernel(vectors.device) if vectors.dtype == torch.float32 else None
    return (fused or _nearest_code_by_product)(vectors, codebook)


@_nearest_code.register_fake
def _(vectors: Tensor, codebook: Tensor) -> Tensor:
    return vectors.new_empty(len(vectors), dtype=torch.int64)


@functools.cache
def _kernel(device: torch.device) -> Callable[[Tensor, Tensor], Tensor] | None:
    """The Triton kernel, where VAEKIT_TRITON=1 asks for it, it runs on `device`, and finds what the plain form finds; warns
    where a GPU's does not.
    """
    if device.type != "cuda" or os.environ.get("VAEKIT_TRITON") != "1" or importlib.util.find_spec("triton") is None:
        return None
    try:
        from vaekit.parts.nearest import nearest_code_by_kernel

        table = torch.arange(101.0, device=device)[:, None] * torch.arange(1.0, 41.0, device=device)
        vectors, half = table % 7 - 3, table % 5 - 2  # whole numbers: products are exact, and there are ties
        codebook = torch.cat([half, -half])
        if torch.equal(nearest_code_by_kernel(vectors, codebook), _nearest_code_by_product(vectors, codebook)):
            return nearest_code_by_kernel
        reason = "its results differ"
    except Exception as error:  # for want of a compiler, or on a GPU that Triton does not know
        reason = first_line(error)
    warn(f"codes are looked up without the Triton kernel, which fails on {device}: {reason}")
    return None


def code_scores(vectors: Tensor, codebook: Tensor) -> Tensor:
    """(N, D) vectors and (K, D) codebook -> (N, K), which over the codes has the order of the Euclidean distance: ||e||^2 / 2
    - v.e. Both are taken about the codebook's mean, since a large offset that all share would drown their differences.
    """
    centre, weight, bias = _score_terms(codebook)
    return torch.addmm(bias, vectors - centre, weight)


def _score_terms(codebook: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(K, D) -> the codebook's mean (D,), and weight (D, K), bias (K,) that make scores of a vector less that mean."""
    centre = codebook.mean(0)
    codebook = codebook - centre
    return centre, -codebook.t(), 0.5 * codebook.square().sum(1)


def _nearest_code_by_product(vectors: Tensor, codebook: Tensor) -> Tensor:
    """One matrix product a chunk, with the bias as one more dimension, and its least column in two steps.

    An argmin along K takes longer than the product. So column g of row r of a (GROUP, K / GROUP) table holds the score of
    code GROUP * g + r: a minimum over rows, vector by vector, leaves one value a group, the least of these tells the group, and
    GROUP scores are left to look at. What fills the last group up is the last code once more.
    """
    (n, d), k = vectors.shape, len(codebook)
    groups = -(-k // GROUP)
    order = torch.arange(GROUP * groups, device=vectors.device).clamp(max=k - 1).view(groups, GROUP).t().flatten()
    centre, weight, bias = _score_terms(codebook)
    weight = torch.cat([weight, bias[None]])[:, order]  # (D + 1, K')
    chunk = min(CHUNK, max(1, SCORES // len(order))) if vectors.device.type == "cpu" else CHUNK
    chunk = min(chunk, max(1, n))
    centred = vectors.new_ones(chunk, d + 1)
    scores = vectors.new_empty(chunk, len(order))
    index = torch.empty(n, dtype=torch.int64, device=vectors.device)
    for part, found in zip(vectors.split(chunk), index.split(chunk), strict=True):
        m = len(part)
        torch.sub(part, centre, out=centred[:m, :d])
        table = torch.mm(centred[:m], weight, out=scores[:m]).view(m, GROUP, groups)  # autocast leaves `out` alone
        group = table.amin(1).min(1).indices  # on a CPU twice as fast as argmin
        within = table.gather(2, group[:, None, None].expand(m, GROUP, 1))[:, :, 0].min(1).indices
        torch.add(within, group, alpha=GROUP, out=found)
    return index.clamp_(max=k - 1)  # a copy of the last code may have been rounded otherwise


def kmeans(vectors: Tensor, k: int, iterations: int = 10) -> Tensor:
    """(N, D) vectors, N >= k -> (k, D) centres: Lloyd's algorithm from k random vectors; empty clusters start again."""
    centres = vectors[torch.randperm(len(vectors), device=vectors.device)[:k]].clone()
    for _ in range(iterations):
        index = nearest_code(vectors, centres)
        counts = count(index, k)
        sums = torch.zeros_like(centres).index_add_(0, index, vectors)
        fresh = vectors[torch.randint(len(vectors), (k,), device=vectors.device)]
        centres = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], fresh)
    return centres


def count(index: Tensor, k: int) -> Tensor:
    """(N,) indices below k -> (k,) int32 how often each occurs. A GPU's `bincount` would wait, to look for the largest."""
    ones = torch.ones_like(index, dtype=torch.int32)
    return torch.zeros(k, dtype=torch.int32, device=index.device).index_add_(0, index, ones)


def usage(counts: Tensor) -> dict[str, float]:
    """(K,) how often each code was used -> `codes_used`, and `perplexity` = exp(entropy), at most K when all are equal."""
    counts = counts.cpu()  # not every device has float64
    shares = counts.double() / counts.sum().clamp(min=1)
    return {
        "codes_used": int((counts > 0).sum()),
        "perplexity": torch.special.entr(shares).sum().exp().item(),
    }


class Quantizer(Latent):
    """A latent of codes: at each of h*w places one of `n_codes`, each of which stands for a vector. A kind says `forward`,
    which counts in `counts` what it uses in training, and `vectors`.
    """

    discrete = True
    counts: Tensor

    def __init__(self, *, n_codes: int, features: int, width: int):
        super().__init__()
        self.n_codes, self.features, self.width = n_codes, features, width
        self.register_buffer("counts", torch.zeros(n_codes))  # vectors per code since `counts` was last cleared

    def embed(self, code: Tensor) -> Tensor:
        """(N, h, w) indices -> (N, D, h, w) their vectors."""
        return F.embedding(code, self.vectors()).movedim(-1, 1)

    def nearest(self, z: Tensor) -> Tensor:
        """(N, D, h, w) -> (N, h, w) the indices of the vectors nearest to them."""
        flat = z.movedim(1, -1)
        return nearest_code(flat.reshape(-1, self.width), self.vectors().detach()).view(flat.shape[:-1])

    @torch.no_grad()
    def usage(self) -> dict[str, float]:
        """`codes_used` and `perplexity` of what was used in training since the last call."""
        found = usage(self.counts)
        self.counts.zero_()
        return found


class Seen(NamedTuple):
    """What the vectors of a batch, or of a part of it, come to: how many have each code (K,), their sums (K, D) where an EMA
    wants them, some of them to move dead codes to (K, D), where these are moved; and how many vectors the whole batch has.
    """

    counts: Tensor
    sums: Tensor | None
    fresh: Tensor | None
    total: int

    def plus(self, other: Seen) -> Seen:
        """Of two parts of a batch together."""

        def add(a: Tensor | None, b: Tensor | None) -> Tensor | None:
            return None if a is None or b is None else a + b

        return Seen(self.counts + other.counts, add(self.sums, other.sums), add(self.fresh, other.fresh), self.total)


def _rows_here(vectors: Tensor, index: Tensor) -> Tensor:
    """(N, D), (K,) -> (K, D) the vectors at an index that is here, 0 to N - 1, and zeros for the others."""
    here = (index >= 0) & (index < len(vectors))
    if not len(vectors):
        return vectors.new_zeros(len(index), vectors.shape[1])
    return torch.where(here[:, None], vectors[index.clamp(0, len(vectors) - 1)], 0)


class VectorQuantizer(Quantizer):
    """Replaces each of the h*w vectors of the encoder's output by its nearest of K codebook vectors.

    n_codes, code_dim: K and D.
    codebook_weight, commitment: alpha and beta of the loss
        ||x - decoder(...)||^2 + alpha ||sg(z_e) - z_q||^2 + beta ||sg(z_q) - z_e||^2   (the paper's equation 3);
        both terms are squared distances per image, summed over positions and dimensions.
    ema: None learns the codebook by gradient; a decay in (0, 1) by moving averages of the vectors assigned to each
        code (the paper's appendix A.1), and then there is no codebook term.
    init: "uniform" in [-1/K, 1/K], "data" (random encoder outputs) or "kmeans" of encoder outputs, at `prime`.
    revive: a code whose moving share of the vectors falls below revive / K is moved to a vector of the current batch;
        0 leaves dead codes dead.
    """

    codebook: Tensor
    ema_sums: Tensor
    shares: Tensor

    def __init__(
        self,
        *,
        n_codes: int,
        code_dim: int,
        codebook_weight: float = 1.0,
        commitment: float = 0.25,
        ema: float | None = None,
        init: str = "kmeans",
        revive: float = 0.1,
    ):
        if n_codes < 2 or code_dim < 1:
            raise ValueError(f"n_codes must be >= 2 and code_dim >= 1, got {n_codes} and {code_dim}")
        if ema is not None and not 0 < ema < 1:
            raise ValueError(f"ema must be None or in (0, 1), got {ema}")
        if min(codebook_weight, commitment, revive) < 0:
            raise ValueError(
                f"codebook_weight, commitment and revive must be >= 0, got {codebook_weight}, {commitment} and {revive}"
            )
        if init not in ("uniform", "data", "kmeans"):
            raise ValueError(f"codebook init must be uniform, data or kmeans, got {init!r}")
        super().__init__(n_codes=n_codes, features=code_dim, width=code_dim)
        self.codebook_weight, self.commitment = codebook_weight, commitment
        self.ema, self.init, self.revive = ema, init, revive
        codebook = torch.empty(n_codes, code_dim).uniform_(-1 / n_codes, 1 / n_codes)
        if ema is None:
            self.codebook = nn.Parameter(codebook)
        else:
            self.register_buffer("codebook", codebook)
            self.register_buffer("ema_sums", codebook / n_codes)
        self.register_buffer("shares", torch.full((n_codes,), 1 / n_codes))  # moving share of vectors
        self.seen: Seen | None = None  # of a batch, in the parts so far

    def vectors(self) -> Tensor:
        """(K, D) the codebook."""
        return self.codebook

    def traced(self, h: Tensor) -> Tensor:
        """(N, D, h, w) -> (N, h, w) the nearest codes. Not by `nearest_code`, whose number of chunks would fix N."""
        scores = code_scores(h.movedim(1, -1).flatten(0, -2), self.codebook)
        return scores.argmin(1).view(-1, *h.shape[2:])

    def as_near(self, h: Tensor, code: Tensor, mode: Tensor, tolerance: float) -> Tensor:
        """(N, D, h, w) and codes (N, h, w), twice -> (N, h, w); tolerance: of the squared lengths of vectors and codebook."""
        centre = self.codebook.mean(0)
        vectors, codebook = (h.movedim(1, -1) - centre).double(), (self.codebook - centre).double()
        slack = tolerance * (vectors.square().sum(-1) + codebook.square().sum(1).max())

        def distance(code: Tensor) -> Tensor:
            return (vectors - codebook[code]).square().sum(-1)

        return distance(code) - distance(mode) <= slack

    @property
    def n_parameters(self) -> int:
        """K * D: a codebook counts however it is learned."""
        return self.codebook.numel()

    @torch.no_grad()
    def prime(self, h: Tensor) -> None:
        """Starts the codebook from encoder outputs h (N, D, h, w), before the first step (unless init="uniform")."""
        if self.init == "uniform":
            return
        vectors = widened(h).movedim(1, -1).reshape(-1, self.features)
        if len(vectors) < self.n_codes:  # fewer vectors than codes: repeat them, a little apart
            vectors = vectors.repeat(-(-self.n_codes // len(vectors)), 1)
            vectors = vectors + 1e-3 * vectors.std().clamp(min=1e-3) * torch.randn_like(vectors)
        picked = torch.randperm(len(vectors), device=vectors.device)[: 64 * self.n_codes]
        vectors = vectors[picked]
        self.codebook.data.copy_(kmeans(vectors, self.n_codes) if self.init == "kmeans" else vectors[: self.n_codes])
        if self.ema is not None:
            self.ema_sums.copy_(self.codebook * self.shares[:, None])

    def forward(self, h: Tensor, samples: int = 1) -> Draw:
        """h (B, D, h, w) -> Draw; quantisation is deterministic, so `samples` draws are the same."""
        batch, dim, height, width = h.shape
        z_e = widened(h)
        vectors = z_e.movedim(1, -1).reshape(-1, dim)  # (B*h*w, D)
        index = nearest_code(vectors.detach(), self.codebook.detach())
        quantised = F.embedding(index, self.codebook)  # (B*h*w, D)
        z_q = quantised.view(batch, height, width, dim).movedim(-1, 1)

        def distance(a: Tensor, b: Tensor) -> Tensor:
            return (a - b).square().flatten(1).sum(1)  # (B,)

        penalties = {"commitment": Term(distance(z_e, z_q.detach()), self.commitment, "sq")}
        if self.ema is None:
            penalties["codebook"] = Term(distance(z_e.detach(), z_q), self.codebook_weight, "sq")
        z = straight_through(z_e, z_q)
        if self.training:
            self._follow(vectors.detach(), index, batch)
        code = index.view(batch, height, width)
        return Draw(
            z.expand(samples, *z.shape),
            code.expand(samples, *code.shape),
            code,
            z_e.new_zeros(samples, batch),
            None,
            penalties,
        )

    @torch.no_grad()
    def _follow(self, vectors: Tensor, index: Tensor, images: int) -> None:
        """Takes in vectors (N, D) of `images` images, and the indices (N,) of their codes: at once, or of a part of a batch in
        `settle`. No value leaves the device.
        """
        part, each = current_part(), len(vectors) // max(1, images)
        total = len(vectors) if part is None else part.total * each
        counts = count(index, self.n_codes).to(vectors.dtype)
        sums = fresh = None
        if self.ema is not None:
            sums = torch.zeros_like(self.ema_sums).index_add_(0, index, vectors)
        if self.revive > 0:
            chosen = torch.randint(total, (self.n_codes,), device=vectors.device)
            here = None if part is None or part.is_whole else part.start * each
            fresh = vectors[chosen] if here is None else _rows_here(vectors, chosen - here)
        seen = Seen(counts, sums, fresh, total)
        if part is None:
            self._move(seen)
        else:
            self.seen = seen if self.seen is None else self.seen.plus(seen)

    def unsettled(self) -> list[Tensor]:
        return [] if self.seen is None else [tensor for tensor in self.seen[:3] if tensor is not None]

    @torch.no_grad()
    def settle(self) -> None:
        """What `forward` does at once where nobody looks at a batch in parts: by what all of its vectors come to."""
        if self.seen is not None:
            self._move(self.seen)
            self.seen = None

    def _move(self, seen: Seen) -> None:
        """Counts usage, moves an EMA codebook, and revives dead codes."""
        counts, sums, fresh, total = seen
        self.counts += counts
        step = 1 - (self.ema if self.ema is not None else 0.99)
        self.shares.lerp_(counts / total, step)
        if sums is not None:
            self.ema_sums.lerp_(sums / total, step)
        if fresh is not None:
            dead = (self.shares < self.revive / self.n_codes)[:, None]
            share = torch.full_like(self.shares, 1 / self.n_codes)
            self.shares.copy_(torch.where(dead[:, 0], share, self.shares))
            if self.ema is not None:
                self.ema_sums.copy_(torch.where(dead, fresh / self.n_codes, self.ema_sums))
            else:
                self.codebook.data.copy_(torch.where(dead, fresh, self.codebook))
        if self.ema is not None:
            self.codebook.copy_(self.ema_sums / self.shares.clamp(min=1e-8)[:, None])
