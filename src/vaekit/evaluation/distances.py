"""How far apart two sets of features are: the Frechet and kernel distances, precision, recall, density and coverage.

Features are (N, F), a row an image, of any network or none. They are worked with in float64 on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import fmean, stdev
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vaekit.state import undisturbed

ENTRIES = 2**21  # of a block of a distance matrix: 16 MiB


class PrecisionRecall(NamedTuple):
    """precision, recall: shares in [0, 1]. density: >= 0, about 1 for equal distributions. coverage: a share in [0, 1]."""

    precision: float
    recall: float
    density: float
    coverage: float


@undisturbed
def frechet_distance(features, other) -> float:
    """Frechet distance between two sets of features (N, F) and (M, F), >= 0: |m - m'|^2 + tr(C + C' - 2 (C C')^1/2) of their
    means and covariances (Heusel et al. 2017, eq. 6, there of an Inception network's features: FID).

    It falls with the number of images even between draws of one distribution: compare equal numbers, and say what real
    against real gives.
    """
    features, other = _check_pair(features, other)
    means = [part.mean(0) for part in (features, other)]
    covariances = [part.T.cov().view(features.shape[1], -1) for part in (features, other)]
    # tr (A B)^1/2 is the sum of the roots of the eigenvalues of A^1/2 B A^1/2, which is symmetric.
    values, vectors = torch.linalg.eigh(covariances[0])
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ covariances[1] @ root).clamp(min=0).sqrt().sum()
    distance = (means[0] - means[1]).square().sum() + covariances[0].trace() + covariances[1].trace() - 2 * cross
    return max(distance.item(), 0.0)


@undisturbed
def kernel_distance(
    features, other, *, seed: int = 0, subsets: int = 100, size: int | None = None
) -> tuple[float, float]:
    """Kernel distance (KID) between two sets of features (N, F) and (M, F), and its standard error.

    The mean over random subsets, drawn by `seed`, of the unbiased squared maximum mean discrepancy under the kernel
    k(a, b) = (a'b / F + 1)^3 (Binkowski et al. 2018, section 4). Unbiased: its expectation doesn't depend on the number of
    images, and is 0 between draws of one distribution, where the figure is negative as often as not.
    size: images of each set in a subset; None is 1,000 as in the paper, or half of the smaller set where that is less.
    Subsets overlap, so their spread alone would understate the error. With n images in the smaller set, the standard error is
    (size / (n - size))^1/2 times their standard deviation: the delete-d jackknife (Shao & Wu 1989), d = n - size. It is NaN for
    one subset, or for subsets of all n.
    """
    features, other = _check_pair(features, other)
    fewest = min(len(features), len(other))
    size = min(1000, fewest // 2) if size is None else size
    if not 2 <= size <= fewest or subsets < 1:
        raise ValueError(
            f"the kernel distance needs subsets >= 1 and a size from 2 to the rows of the smaller set ({fewest}), got "
            f"{subsets} subsets of {size}"
        )
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(subsets):
        found.append(_squared_discrepancy(*(part[rng.permutation(len(part))[:size]] for part in (features, other))))
    if subsets == 1 or size == fewest:
        return fmean(found), math.nan
    return fmean(found), (size / (fewest - size)) ** 0.5 * stdev(found)


def _squared_discrepancy(x: Tensor, y: Tensor) -> float:
    """The unbiased estimate of MMD^2 between (n, F) and (n, F) (Gretton et al. 2012, lemma 6)."""
    n = len(x)
    within, between = 0.0, _cubed(x, y).mean().item()
    for part in (x, y):
        kernel = _cubed(part, part)
        within += (kernel.sum() - kernel.trace()).item()
    return within / (n * (n - 1)) - 2 * between


def _cubed(a: Tensor, b: Tensor) -> Tensor:
    """(n, m) polynomial kernel of rows (n, F) and (m, F)."""
    return (a @ b.T).div_(a.shape[1]).add_(1).pow_(3)


@undisturbed
def precision_recall_density_coverage(real, fake, k: int = 5) -> PrecisionRecall:
    """How `fake` features (M, F) lie among `real` ones (N, F), each point in a ball that reaches its k-th nearest neighbour of
    its own set.

    precision: the share of fake points in a real point's ball; recall: the share of real points in a fake point's ball
    (Kynkäänniemi et al. 2019, eq. 1-2). density: the number of real balls a fake point is in, over k, its mean; coverage: the
    share of real points with a fake point in their ball (Naeem et al. 2020, eq. 3-4). All depend on N, M and k: compare equal
    numbers.
    """
    real, fake = _check_pair(real, fake)
    if not 1 <= k < min(len(real), len(fake)):
        raise ValueError(
            f"k must be from 1 to one less than the rows of both sets, {len(real)} and {len(fake)}, got {k}"
        )
    real_radii, fake_radii = _radii(real, k), _radii(fake, k)
    precise = torch.zeros(len(fake), dtype=torch.bool)
    recalled = covered = balls = 0
    for rows, distances in _blocks(real, fake):
        inside = distances < real_radii[rows, None]
        precise |= inside.any(0)
        balls += inside.sum().item()
        covered += inside.any(1).sum().item()
        recalled += (distances < fake_radii).any(1).sum().item()
    return PrecisionRecall(
        precise.double().mean().item(), recalled / len(real), balls / (k * len(fake)), covered / len(real)
    )


def _radii(points: Tensor, k: int) -> Tensor:
    """(N,) squared distance of each point to its k-th nearest other point."""
    nearest = [distances.topk(k + 1, largest=False).values for _, distances in _blocks(points, points)]
    return torch.cat(nearest)[:, k]  # the nearest of all is the point itself


def _blocks(points: Tensor, other: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Rows of the matrix (N, M) of squared distances, a block at a time: each is overwritten by the next."""
    norms, other_norms = points.square().sum(1, keepdim=True), other.square().sum(1)
    step = min(len(points), max(1, ENTRIES // len(other)))
    block = points.new_empty(step, len(other))  # one, because the heap is left in holes by many
    for start in range(0, len(points), step):
        rows = slice(start, min(start + step, len(points)))
        distances = torch.addmm(other_norms, points[rows], other.T, alpha=-2, out=block[: rows.stop - start])
        yield rows, distances.add_(norms[rows])


def _check_pair(features, other) -> tuple[Tensor, Tensor]:
    """Both sets as float64 tensors on the CPU. ValueError unless they are finite (N, F) and (M, F), N and M at least 2."""
    first, second = (torch.as_tensor(part).detach().to("cpu", torch.float64) for part in (features, other))
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1] or 0 in first.shape:
        raise ValueError(f"features must be (N, F) and (M, F), got {tuple(first.shape)} and {tuple(second.shape)}")
    if min(len(first), len(second)) < 2:
        raise ValueError(
            f"a distance needs at least 2 rows of features in each set, got {len(first)} and {len(second)}"
        )
    if not (first.isfinite().all() and second.isfinite().all()):
        raise ValueError("features must be finite, got NaN or infinity")
    return first, second
