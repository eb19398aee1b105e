"""The conditional VAE: labels in, labels out."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from vaekit.data.images import Images
from vaekit.estimators.base import Estimator
from vaekit.estimators.fields import CVAEFields
from vaekit.messages import check_number, filled
from vaekit.state import undisturbed


class CVAE(CVAEFields, Estimator):
    """Conditional VAE (Sohn, Lee & Yan 2015), p(z|c) = p(z): labels enter every block of encoder and decoder.

    Without y, a fitted model infers it: `transform` and `reconstruct` use the class with the highest ELBO,
    `score_samples` sums over classes, `predict` and `predict_proba` give the class posterior. After `fit`: `classes_`.
    """

    conditional: ClassVar[bool] = True

    def _defaults(self, *, wang2023: bool) -> dict:
        return {"beta": 1.0 if wang2023 else self._balanced_beta()}

    def _make_objective(self, steps_per_epoch: int):
        return self._elbo_objective(filled(self.beta), steps_per_epoch)

    def check(self, images: Images) -> None:
        super().check(images)
        check_number("beta", self.beta)

    @undisturbed
    def predict(self, X) -> np.ndarray:
        """(N,) the most probable class of each image under p(y|x), by the ELBOs of the classes."""
        self._check_fitted()
        return self.classes_[self.predict_proba(X).argmax(1)]

    @undisturbed
    def predict_proba(self, X, n_draws: int = 4) -> np.ndarray:
        """(N, n_classes) p(y|x) from p(y) exp(ELBO(x|y)), normalised."""
        self._check_fitted()
        joint = self._class_elbos(X, n_draws) + np.log(np.maximum(self.class_frequencies_, 1e-300))
        joint -= joint.max(1, keepdims=True)
        probabilities = np.exp(joint)
        return probabilities / probabilities.sum(1, keepdims=True)

    def _class_elbos(self, X, n_draws: int) -> np.ndarray:
        """(N, n_classes) ELBO of log p(x|y) in nats for each class y."""
        return np.stack([self._elbo(X, label, n_draws) for label in self.classes_], axis=1)

    def _labels_or_inferred(self, X, y):
        return self.predict(X) if y is None else y

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags
