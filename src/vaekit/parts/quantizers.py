"""Vector quantisation (van den Oord, Vinyals & Kavukcuoglu 2017): each latent vector becomes the nearest of K codes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaekit.parts.latents import Draw
from vaekit.tensors import Term, straight_through

CHUNK = 4096  # vectors compared at once: bounds the memory of the distance matrix at CHUNK x K


def nearest_code(vectors: Tensor, codebook: Tensor) -> Tensor:
    """(N, D) vectors and (K, D) codebook -> (N,) int64 index of the nearest code in Euclidean distance.

    One matrix product and an argmin per chunk, so that memory does not grow with N * K: see `code_scores`.
    """
    return torch.cat([code_scores(part, codebook).argmin(1) for part in vectors.split(CHUNK)])


def code_scores(vectors: Tensor, codebook: Tensor) -> Tensor:
    """(N, D) vectors and (K, D) codebook -> (N, K), which over the codes has the order of the Euclidean distance: ||e||^2 / 2
    - v.e. Both are taken about the codebook's mean, since a large offset that all share would drown their differences.
    """
    centre = codebook.mean(0)
    codebook = codebook - centre
    return torch.addmm(0.5 * codebook.square().sum(1), vectors - centre, codebook.t(), alpha=-1.0)


def kmeans(vectors: Tensor, k: int, iterations: int = 10) -> Tensor:
    """(N, D) vectors, N >= k -> (k, D) centres: Lloyd's algorithm from k random vectors; empty clusters start again."""
    centres = vectors[torch.randperm(len(vectors), device=vectors.device)[:k]].clone()
    for _ in range(iterations):
        index = nearest_code(vectors, centres)
        counts = torch.bincount(index, minlength=k).to(vectors)
        sums = torch.zeros_like(centres).index_add_(0, index, vectors)
        fresh = vectors[torch.randint(len(vectors), (k,), device=vectors.device)]
        centres = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], fresh)
    return centres


def usage(counts: Tensor) -> dict[str, float]:
    """(K,) how often each code was used -> `codes_used`, and `perplexity` = exp(entropy), at most K when all are equal."""
    counts = counts.cpu()  # not every device has float64
    shares = counts.double() / counts.sum().clamp(min=1)
    return {
        "codes_used": int((counts > 0).sum()),
        "perplexity": torch.special.entr(shares).sum().exp().item(),
    }


class VectorQuantizer(nn.Module):
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
    counts: Tensor

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
        super().__init__()
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
        self.n_codes, self.features = n_codes, code_dim
        self.codebook_weight, self.commitment = codebook_weight, commitment
        self.ema, self.init, self.revive = ema, init, revive
        codebook = torch.empty(n_codes, code_dim).uniform_(-1 / n_codes, 1 / n_codes)
        if ema is None:
            self.codebook = nn.Parameter(codebook)
        else:
            self.register_buffer("codebook", codebook)
            self.register_buffer("ema_sums", codebook / n_codes)
        self.register_buffer("shares", torch.full((n_codes,), 1 / n_codes))  # moving share of vectors
        self.register_buffer("counts", torch.zeros(n_codes))  # vectors per code since `counts` was last cleared

    @torch.no_grad()
    def prime(self, h: Tensor) -> None:
        """Starts the codebook from encoder outputs h (N, D, h, w), before the first step (unless init="uniform")."""
        if self.init == "uniform":
            return
        vectors = h.movedim(1, -1).reshape(-1, self.features).float()
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
        z_e = h.float()
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
            self._follow(vectors.detach(), index)
        code = index.view(batch, height, width)
        return Draw(
            z.expand(samples, *z.shape),
            code.expand(samples, *code.shape),
            code,
            torch.zeros(samples, batch, device=h.device),
            None,
            penalties,
        )

    @torch.no_grad()
    def _follow(self, vectors: Tensor, index: Tensor) -> None:
        """Counts usage, moves an EMA codebook, and revives dead codes; no value leaves the device."""
        counts = torch.bincount(index, minlength=self.n_codes).to(vectors.dtype)
        self.counts += counts
        step = 1 - (self.ema if self.ema is not None else 0.99)
        self.shares.lerp_(counts / len(vectors), step)
        if self.ema is not None:
            sums = torch.zeros_like(self.ema_sums).index_add_(0, index, vectors)
            self.ema_sums.lerp_(sums / len(vectors), step)
        if self.revive > 0:
            dead = (self.shares < self.revive / self.n_codes)[:, None]
            fresh = vectors[torch.randint(len(vectors), (self.n_codes,), device=vectors.device)]
            share = torch.full_like(self.shares, 1 / self.n_codes)
            self.shares.copy_(torch.where(dead[:, 0], share, self.shares))
            if self.ema is not None:
                self.ema_sums.copy_(torch.where(dead, fresh / self.n_codes, self.ema_sums))
            else:
                self.codebook.data.copy_(torch.where(dead, fresh, self.codebook))
        if self.ema is not None:
            self.codebook.copy_(self.ema_sums / self.shares.clamp(min=1e-8)[:, None])

    def embed(self, code: Tensor) -> Tensor:
        """(N, h, w) indices -> (N, D, h, w) codebook vectors."""
        return F.embedding(code, self.codebook).movedim(-1, 1)
