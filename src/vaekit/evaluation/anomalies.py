"""How unlike normal samples a sample is to a trained model, by several scores. The density of latents sees what is strange in
kind, the reconstruction what the decoder can't express; a mixture over both sees each error beside its neighbours' (Zong et al.
2018, "Deep Autoencoding Gaussian Mixture Model"). A density of the sample itself, of its principal components, errs elsewhere
than one of latents, so that the sum of both logarithms is better than either.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from vaekit.data.splits import evenly
from vaekit.fitted import Fitted
from vaekit.messages import nearest
from vaekit.state import undisturbed
from vaekit.threads import alone
from vaekit.world import derive_seed

COMPONENTS = 20  # of a mixture, where there are enough samples, and of a sample, where it has as many values
STARTS = 5  # mixtures that are averaged, each from a start of its own
MANY = 5000  # samples: from so many on one mixture tells as much, and components need no more
PER_PARAMETER = 3  # samples of a component for each dimension, at least
LEAST_VARIANCE = 0.01  # of a component, in any direction: latents are about as wide as N(0, I)
FOLDS = 5
FEWEST = 3  # samples: a mixture needs two, and each is scored by one that has not seen it
DRAWS = 50  # of the importance-weighted likelihood
LEAST_ERROR = 1e-8


class _Encoded(NamedTuple):
    """Latent means and, where that has a `deviation`, the logarithm of the squared error in units of it, as wide as latents."""

    mean: float = 0.0
    deviation: float | None = None

    def __call__(self, fitted: Fitted, x, y) -> np.ndarray:
        latents = fitted.transform(x, y).astype(np.float64)
        if self.deviation is None:
            return latents
        errors = np.log(fitted.squared_errors(x, y) + LEAST_ERROR)
        return np.column_stack([latents, (errors - self.mean) / self.deviation])


class _Components(NamedTuple):
    """Principal components, `basis` (values of a sample, K), less their `mean` (K,), all by one unit, `deviation`."""

    basis: np.ndarray
    mean: np.ndarray
    deviation: float

    def __call__(self, fitted: Fitted, x, y) -> np.ndarray:
        return (fitted.inputs(x, self.basis) - self.mean) / self.deviation


def _encoded(fitted: Fitted, x, y, seed: int) -> tuple[_Encoded, np.ndarray]:
    view = _Encoded()
    return view, view(fitted, x, y)


def _encoded_with_errors(fitted: Fitted, x, y, seed: int) -> tuple[_Encoded, np.ndarray]:
    found = _Encoded(deviation=1.0)(fitted, x, y)
    mean, deviation = found[:, -1].mean(), found[:, -1].std() or 1.0
    found[:, -1] = (found[:, -1] - mean) / deviation
    return _Encoded(mean, deviation), found


def _components(fitted: Fitted, x, y, seed: int) -> tuple[_Components, np.ndarray]:
    """Those of normal samples, of which some thousands tell them."""
    from sklearn.decomposition import PCA

    x = fitted.format.check(x, fitted.name)
    some = fitted.inputs(x[evenly(len(x), MANY)])
    with alone():
        found = PCA(min(COMPONENTS, *some.shape), random_state=seed).fit(some)
    basis = np.asarray(found.components_).T
    view = _Components(basis, found.mean_ @ basis, np.sqrt(found.explained_variance_.mean()) or 1.0)
    return view, view(fitted, x, y)


# By name: what needs no normal samples; and what learns from normal samples how samples become vectors, and makes theirs. The
# density of each kind of vectors, under a mixture over those of normal samples, is a part of the score.
PLAIN: dict[str, Callable] = {
    "elbo": lambda fitted, x, y: fitted.score_samples(x, y),
    "importance_weighted": lambda fitted, x, y: fitted.score_samples(x, y, DRAWS, weighted=True),
    "reconstruction": lambda fitted, x, y: -fitted.squared_errors(x, y),
}
DENSITIES: dict[str, tuple[Callable, ...]] = {
    "combined": (_encoded_with_errors, _components),
    "latent": (_encoded,),
}
WORDS = {
    "combined": "log-densities of latents and reconstruction error, and of principal components, in nats",
    "latent": "log-density of latents, in nats",
    "reconstruction": "minus the squared error",
    "elbo": "ELBO in nats, a bound of log p(x)",
    "importance_weighted": f"log p(x) in nats, by {DRAWS} draws",
}
SCORES = tuple(WORDS)


def default_score(fitted: Fitted) -> str:
    """ "combined", or "elbo" for a model of codes."""
    return "elbo" if fitted.discrete else "combined"


class AnomalyScore:
    """Scores of samples, the higher the more like `fit`'s they are; what it learned from these is in here, the model is not.

    name: combined, the log-density of latent mean and logarithm of the reconstruction's squared error together under a mixture
        of Gaussians, plus that of the sample's first 20 principal components under another; latent, of the latent mean alone;
        reconstruction, minus the squared error; elbo, in nats; or importance_weighted, the likelihood by 50 draws in nats,
        which the ELBO is below.
    Raises ValueError for other names, for a density of latents of a model that has codes, and for importance weights under a
        prior that is not `exact`.
    """

    def __init__(self, fitted: Fitted, name: str | None = None):
        name = name or default_score(fitted)
        if name not in SCORES:
            raise ValueError(f"score must be one of {', '.join(SCORES)}, got {name!r}{nearest(str(name), SCORES)}")
        if fitted.discrete and (name in DENSITIES or name == "importance_weighted"):
            raise ValueError(f"score {name!r} is for Gaussian latents, and a {fitted.name} has codes: elbo fits")
        if name == "importance_weighted" and not fitted.module.prior.exact:
            raise ValueError(
                f"score {name!r} needs a prior whose density is known, not {fitted.prior_name}'s: elbo fits"
            )
        self.name = name

    @property
    def learns(self) -> bool:
        """Whether it has to `fit` normal samples."""
        return self.name in DENSITIES

    @property
    def words(self) -> str:
        """What the scores are."""
        return WORDS[self.name]

    @undisturbed
    def learn(self, fitted: Fitted, x, y=None, *, seed: int = 0) -> tuple[np.ndarray, ...]:
        """Learns from normal samples, at least three; returns the vectors (N, D) that their densities are of."""
        if not self.learns:
            return ()
        if len(x) < FEWEST:
            raise ValueError(f"score {self.name!r} learns from at least {FEWEST} normal samples, got {len(x)}")
        self.seed = derive_seed(seed, "anomalies") % 2**31
        self.views, features = zip(*(find(fitted, x, y, self.seed) for find in DENSITIES[self.name]), strict=True)
        self.mixtures = [_mixtures(part, self.seed) for part in features]
        return features

    @undisturbed
    def fit(self, fitted: Fitted, x, y=None, *, seed: int = 0) -> np.ndarray:
        """Learns from normal samples, at least three, and returns their scores (N,), each by a mixture that has not seen it."""
        features = self.learn(fitted, x, y, seed=seed)
        if not features:
            return self(fitted, x, y)
        folds = np.random.default_rng(self.seed).permutation(len(x)) % min(FOLDS, len(x))
        scores = np.empty(len(x))
        for fold in np.unique(folds):
            held = folds == fold
            others = [_mixtures(part[~held], self.seed) for part in features]
            scores[held] = _log_density(others, [part[held] for part in features])
        return scores

    @undisturbed
    def __call__(self, fitted: Fitted, x, y=None) -> np.ndarray:
        """(N,) scores. y: labels, of a conditional model; without them it infers them."""
        if not self.learns:
            return PLAIN[self.name](fitted, x, y)
        return _log_density(self.mixtures, [view(fitted, x, y) for view in self.views])


def _mixtures(features: np.ndarray, seed: int) -> list:
    """scikit-learn's mixtures of full covariances, of as many components as (N, D) samples are enough for. Where a mixture ends
    depends on its start, the more the fewer samples there are; the average of several is a density, too.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    components = max(1, min(COMPONENTS, len(features) // (PER_PARAMETER * (features.shape[1] + 1))))
    starts = STARTS if components > 1 and len(features) < MANY else 1
    with warnings.catch_warnings(), alone():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return [
            GaussianMixture(components, reg_covar=LEAST_VARIANCE, random_state=seed + start).fit(features)
            for start in range(starts)
        ]


def _log_density(mixtures: list[list], features: Sequence[np.ndarray]) -> np.ndarray:
    """(N,) log of the mean density of the `mixtures` of each of the (N, D) features, summed over these."""
    each = [
        np.logaddexp.reduce([mixture.score_samples(part) for mixture in those]) - np.log(len(those))
        for those, part in zip(mixtures, features, strict=True)
    ]
    return np.sum(each, axis=0)
