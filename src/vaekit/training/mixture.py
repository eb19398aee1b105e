"""A mixture of Gaussians fitted to posterior draws: scikit-learn's, kept wide enough where images are few."""

from __future__ import annotations

import time
import warnings

import numpy as np
import torch

from vaekit.parts.priors import MixturePrior
from vaekit.threads import alone
from vaekit.training.rates import Codes, posterior_draw

MOST_FOR_GMM = 50_000  # latents that the mixture is fitted to
LEAST_VARIANCE = 1e-3  # of a component of it, in any direction


def fit_gmm(prior: MixturePrior, data: Codes, seed: int, deadline: float | None = None) -> None:
    """scikit-learn's mixture, full covariances, on one posterior draw per image; one mixture for each class.

    Each covariance counts D + 1 images of the pooled one, that of all components, besides its own: n images that are fewer
    than latents span n - 1 directions, and samples would stay in them. A class with too few images for a mixture is one
    Gaussian, which leans on the covariance within all classes. In no direction is what is leant on narrower than posteriors
    are, whose draws the codes are.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    z, (centres, log_vars) = posterior_draw(data.x)[0].cpu().double().numpy(), data.x.cpu().double().chunk(2, dim=1)
    labels = np.zeros(len(z), dtype=int) if data.y is None else data.y.cpu().numpy()
    members = [np.flatnonzero(labels == label) for label in range(max(1, prior.n_classes))]
    few = np.array([len(own) < max(2, prior.components) for own in members])
    counts, scatters, within = [], [], []  # (G, M), (G, M, D, D), (G, D, D)
    for index, own in enumerate(members):
        group = z[own]
        within.append(len(group) * np.cov(group.T, bias=True).reshape(2 * z.shape[1:]))
        if few[index]:  # its mean is that of the posteriors, which a draw of one image would blur
            prior.means[index] = centres[own].mean(0)
            counts.append(np.full(prior.components, len(group) - 1.0))
            scatters.append(np.broadcast_to(within[-1], (prior.components, *within[-1].shape)))
            continue
        if len(group) > MOST_FOR_GMM:
            group = group[np.random.default_rng(seed).permutation(len(group))[:MOST_FOR_GMM]]
        with warnings.catch_warnings(), alone():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the held-out rate tells how good it is
            mixture = GaussianMixture(
                prior.components, covariance_type="full", reg_covar=LEAST_VARIANCE, max_iter=100, random_state=seed
            )
            iterate(mixture, group, deadline)
        weights = np.asarray(mixture.weights_)
        prior.log_weights[index] = torch.from_numpy(np.log(np.maximum(weights, 1e-12)))
        prior.means[index] = torch.from_numpy(np.asarray(mixture.means_))
        counts.append(len(group) * weights)
        scatters.append(counts[-1][:, None, None] * mixture.covariances_)
    n, scatter, extra = np.stack(counts)[..., None, None], np.stack(scatters), prior.latent_dim + 1
    pooled = np.empty((len(members), 1, *scatter.shape[2:]))
    pooled[few] = sum(within) / max(1, len(z) - len(members))
    pooled[~few] = scatter[~few].sum((0, 1)) / max(1.0, n[~few].sum())
    if prior.n_classes or len(z) <= prior.latent_dim:
        variance = np.maximum(log_vars.exp().mean(0).numpy(), LEAST_VARIANCE)
        pooled = np.stack([[at_least(matrix, variance) for matrix in matrices] for matrices in pooled])
    cholesky = np.linalg.cholesky((scatter + extra * pooled) / (n + extra))
    prior.precision_cholesky.copy_(torch.from_numpy(np.linalg.inv(cholesky)).mT)


def at_least(covariance: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """`covariance` (D, D), made as wide as the diagonal one of `variance` (D,) in directions where it is narrower."""
    scale = np.sqrt(variance)
    values, vectors = np.linalg.eigh(covariance / np.outer(scale, scale))
    if values.min() >= 1:
        return covariance
    root = scale[:, None] * vectors * np.sqrt(np.maximum(values, 1))
    return root @ root.T


def iterate(mixture, z: np.ndarray, deadline: float | None) -> None:
    """`mixture.fit(z)`, iteration by iteration where a `deadline`, a reading of `time.monotonic`, may cut it short."""
    if deadline is None:
        mixture.fit(z)
        return
    most = mixture.max_iter
    mixture.set_params(max_iter=1, warm_start=True)
    for _ in range(most):
        mixture.fit(z)
        if mixture.converged_ or time.monotonic() >= deadline:
            break
