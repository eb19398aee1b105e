"""How unlike normal samples a sample is to a trained model, by several scores. The density of latents sees what is strange in
kind, the reconstruction what the decoder can't express; a mixture over both sees each error beside its neighbours' (Zong et al.
2018, "Deep Autoencoding Gaussian Mixture Model").
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np

from vaekit.fitted import Fitted
from vaekit.messages import nearest
from vaekit.state import undisturbed
from vaekit.threads import alone
from vaekit.world import derive_seed

COMPONENTS = 20  # of a mixture, where there are enough samples
STARTS, MANY = 5, 5000  # mixtures that are averaged, each from a start of its own; of many samples one tells as much
PER_PARAMETER = 3  # samples of a component for each dimension, at least
LEAST_VARIANCE = 0.01  # of a component, in any direction: latents are about as wide as N(0, I)
FOLDS = 5
DRAWS = 50  # of the importance-weighted likelihood
LEAST_ERROR = 1e-8


def _latents(fitted: Fitted, x, y) -> np.ndarray:
    return fitted.transform(x, y).astype(np.float64)


def _latents_and_error(fitted: Fitted, x, y) -> np.ndarray:
    return np.column_stack([_latents(fitted, x, y), np.log(fitted.squared_errors(x, y) + LEAST_ERROR)])


# By name: what needs no normal samples, and whose density under a mixture over those of normal samples is the score.
PLAIN: dict[str, Callable] = {
    "elbo": lambda fitted, x, y: fitted.score_samples(x, y),
    "importance_weighted": lambda fitted, x, y: fitted.score_samples(x, y, DRAWS, weighted=True),
    "reconstruction": lambda fitted, x, y: -fitted.squared_errors(x, y),
}
DENSITIES: dict[str, Callable] = {"combined": _latents_and_error, "latent": _latents}
WORDS = {
    "combined": "log-density of latents and reconstruction error together, in nats",
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
        of Gaussians; latent, of the latent mean alone; reconstruction, minus the squared error; elbo, in nats; or
        importance_weighted, the likelihood by 50 draws in nats, which the ELBO is below.
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
    def fit(self, fitted: Fitted, x, y=None, *, seed: int = 0) -> np.ndarray:
        """Learns from normal samples, at least two, and returns their scores (N,), each by a mixture that has not seen it."""
        if not self.learns:
            return self(fitted, x, y)
        features = DENSITIES[self.name](fitted, x, y)
        if len(features) < 2:
            raise ValueError(f"score {self.name!r} learns from at least 2 normal samples, got {len(features)}")
        self.shift, self.scale = np.zeros(features.shape[1]), np.ones(features.shape[1])
        if self.name == "combined":  # the error's unit becomes its deviation; latents have theirs
            self.shift[-1], self.scale[-1] = features[:, -1].mean(), features[:, -1].std() or 1.0
        features = (features - self.shift) / self.scale
        seed = derive_seed(seed, "anomalies") % 2**31
        self.mixtures = _mixtures(features, seed)
        folds = np.random.default_rng(seed).permutation(len(features)) % min(FOLDS, len(features))
        scores = np.empty(len(features))
        for fold in np.unique(folds):
            scores[folds == fold] = _log_density(_mixtures(features[folds != fold], seed), features[folds == fold])
        return scores

    @undisturbed
    def __call__(self, fitted: Fitted, x, y=None) -> np.ndarray:
        """(N,) scores. y: labels, of a conditional model; without them it infers them."""
        if not self.learns:
            return PLAIN[self.name](fitted, x, y)
        return _log_density(self.mixtures, (DENSITIES[self.name](fitted, x, y) - self.shift) / self.scale)


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


def _log_density(mixtures: list, features: np.ndarray) -> np.ndarray:
    """(N,) log of the mean density of `mixtures` at (N, D) features."""
    return np.logaddexp.reduce([mixture.score_samples(features) for mixture in mixtures]) - np.log(len(mixtures))
