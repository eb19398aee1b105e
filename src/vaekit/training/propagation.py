"""Labels of few samples carried over to their neighbours, where these lie near each other in a latent space (Zhou et al. 2004,
"Learning with Local and Global Consistency"), each class with as much mass as the others (Zhu, Ghahramani & Lafferty 2003).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

NEIGHBOURS = 10
STAY = 0.01  # of a label's mass at each step, that stays where it was given
STEPS = 100
ROWS = 500  # of the table of distances, at once


def propagate(features: np.ndarray, y: np.ndarray, n_classes: int) -> np.ndarray:
    """Features (N, D) and labels (N,), indices of classes or -1 where there is none -> (N, n_classes) shares, which sum to 1.

    A sample that no labelled one reaches has equal shares.
    """
    graph = _graph(*_neighbours(torch.from_numpy(np.ascontiguousarray(features, np.float32))))
    given = np.zeros((len(y), n_classes))
    given[y >= 0, y[y >= 0]] = 1
    mass = given
    for _ in range(STEPS):
        mass = (1 - STAY) * (graph @ mass) + STAY * given
    mass = mass / np.maximum(mass.sum(0), 1e-300)
    whole = mass.sum(1, keepdims=True)
    return np.where(whole > 0, mass / np.maximum(whole, 1e-300), 1 / n_classes)


def _neighbours(x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(N, D) -> indices and squared distances (N, K) of the nearest others."""
    squares, count = x.square().sum(1), min(NEIGHBOURS, len(x) - 1)
    indices, distances = [], []
    for start in range(0, len(x), ROWS):
        part = x[start : start + ROWS]
        table = part.square().sum(1, keepdim=True) + squares - 2 * part @ x.T
        table[torch.arange(len(part)), start + torch.arange(len(part))] = torch.inf
        nearest = table.topk(count, largest=False)
        indices.append(nearest.indices)
        distances.append(nearest.values)
    return torch.cat(indices).numpy(), torch.cat(distances).clamp(min=0).double().numpy()


def _graph(indices: np.ndarray, distances: np.ndarray):
    """The symmetric, normalised graph (N, N): weights fall with the distance, in units of that to the furthest neighbour."""
    from scipy import sparse

    n, count = indices.shape
    weights = np.exp(-4 * distances / np.maximum(distances[:, -1:], 1e-12))
    places = (np.repeat(np.arange(n), count), indices.ravel())
    graph = sparse.csr_matrix((weights.ravel(), places), shape=(n, n))
    graph = (graph + graph.T) / 2
    scale = sparse.diags(1 / np.sqrt(np.asarray(graph.sum(1)).ravel()))
    return (scale @ graph @ scale).tocsr()
