"""The conditional VAE: labels in, labels out."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from vaekit.data.images import Images
from vaekit.estimators.base import Estimator, balanced_beta
from vaekit.estimators.fields import CVAEFields
from vaekit.messages import check_number, filled
from vaekit.parts.networks import PICTURE
from vaekit.state import undisturbed


class CVAE(CVAEFields, Estimator):
    """Conditional VAE (Sohn, Lee & Yan 2015), p(z|c) = p(z): labels enter every block of encoder and decoder.

    Without y, a fitted model infers it: `transform` and `reconstruct` use the class with the highest ELBO,
    `score_samples` sums over classes, `predict` and `predict_proba` give the class posterior. After `fit`: `classes_`.
    """

    conditional: ClassVar[bool] = True
    rate_weight: ClassVar[str | None] = "beta"

    def defaults(self, *, wang2023: bool, shape: tuple[int, ...], epochs: float) -> dict:
        # A class tells little of a picture in colours, and much of a letter: the rest has to be in z.
        colours = len(shape) == 3 and min(shape[:2]) >= PICTURE and shape[2] >= 3
        return {"beta": 1.0 if wang2023 or self.grid or colours else balanced_beta(shape)}

    def make_objective(self, steps_per_epoch: int):
        return self.elbo(filled(self.beta), steps_per_epoch)

    def check_fields(self, images: Images) -> None:
        super().check_fields(images)
        check_number("beta", self.beta)

    @undisturbed
    def predict(self, X) -> np.ndarray:
        """(N,) the most probable class of each image under p(y|x), by the ELBOs of the classes."""
        return self._asked(X).predict(X)

    @undisturbed
    def predict_proba(self, X, n_draws: int = 4) -> np.ndarray:
        """(N, n_classes) p(y|x) from p(y) exp(ELBO(x|y)), normalised."""
        return self._asked(X).predict_proba(X, n_draws)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags
