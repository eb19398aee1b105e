"""A trained model as a detector of outliers, in scikit-learn's sense."""

from __future__ import annotations

from typing import cast

import numpy as np
from sklearn.base import BaseEstimator, OutlierMixin, clone
from sklearn.exceptions import NotFittedError

from vaekit.estimators.base import Estimator
from vaekit.estimators.gaussian import VAE
from vaekit.evaluation.anomalies import AnomalyScore
from vaekit.state import undisturbed


class AnomalyDetector(OutlierMixin, BaseEstimator):
    """Tells what is unlike the normal samples that it was fitted to, as IsolationForest does: images or rows of a table.

    model: an estimator. A fitted one is taken as it is, and learns nothing more; of another a copy is fitted. None is
        VAE(latent_dim=20).
    score: "combined", "latent", "reconstruction", "elbo" or "importance_weighted": see `vaekit.evaluation.anomalies`. None is
        combined, and elbo for a model of codes.
    contamination: the share of normal samples that `predict` takes for anomalies, in (0, 0.5].
    random_state: seed of the mixture and of the model that None stands for.
    After `fit`: `model_`; `score_`, what was learned from the samples; `offset_`, the score that parts normal from anomalous.
    """

    def __init__(
        self,
        model: Estimator | None = None,
        *,
        score: str | None = None,
        contamination: float = 0.01,
        random_state: int | None = None,
    ):
        self.model, self.score, self.contamination, self.random_state = model, score, contamination, random_state

    @undisturbed
    def fit(self, X, y=None):
        """Learns what is normal from X. y: labels, where the model is conditional. Returns self."""
        if not 0 < self.contamination <= 0.5:
            raise ValueError(f"contamination must be in (0, 0.5], got {self.contamination!r}")
        model = VAE(latent_dim=20, random_state=self.random_state) if self.model is None else self.model
        self.model_ = model if model.__sklearn_is_fitted__() else cast(Estimator, clone(model)).fit(X, y)
        self.score_ = AnomalyScore(self.model_.fitted_, self.score)
        scores = self.score_.fit(self.model_.fitted_, X, y, seed=self.random_state or 0)
        self.offset_ = float(np.quantile(scores, self.contamination))
        return self

    @undisturbed
    def score_samples(self, X, y=None) -> np.ndarray:
        """(N,) scores, the higher the more normal."""
        if not hasattr(self, "offset_"):
            raise NotFittedError("this AnomalyDetector is not fitted yet: call fit first")
        return self.score_(self.model_.fitted_, X, y)

    def decision_function(self, X) -> np.ndarray:
        """(N,) `score_samples` above `offset_`; below 0 is an anomaly."""
        return self.score_samples(X) - self.offset_

    def predict(self, X) -> np.ndarray:
        """(N,) 1 for what is normal, -1 for an anomaly."""
        return np.where(self.decision_function(X) < 0, -1, 1)
