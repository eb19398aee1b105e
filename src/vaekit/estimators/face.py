"""scikit-learn's face of a fitted model: what an estimator is asked, its `fitted_` answers."""

from __future__ import annotations

from operator import attrgetter

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import validate_data

from vaekit.data.checks import check_labels
from vaekit.data.images import Images, fingerprint
from vaekit.fitted import Fitted
from vaekit.fitted_prior import read_prior
from vaekit.hub import push_to_hub
from vaekit.second_stage import fit_prior_to
from vaekit.state import undisturbed
from vaekit.training.settings import PriorSettings


def _of_fitted(path: str) -> property:
    """An attribute of what was fitted, which is not there before."""
    return property(attrgetter(f"fitted_.{path}"))


class Face(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """After `fit`, `fitted_` is what the training left, and the attributes that end in an underscore are parts of it."""

    fitted_: Fitted
    verbose: bool

    model_ = _of_fitted("module")
    n_parameters_ = _of_fitted("module.n_parameters")
    history_ = _of_fitted("history")
    resolved_ = _of_fitted("record.resolved")
    facts_ = _of_fitted("facts")
    image_shape_ = _of_fitted("format.shape")
    device_ = _of_fitted("device")
    prior_history_ = _of_fitted("prior.history")
    prior_facts_ = _of_fitted("prior.facts")
    prior_settings_ = _of_fitted("prior.settings")
    prior_classes_ = _of_fitted("prior.classes")
    can_sample = _of_fitted("can_sample")
    prior_name = _of_fitted("prior_name")
    prior_is_worse = _of_fitted("prior_is_worse")

    @property
    def has_prior(self) -> bool:
        """Whether a prior has been fitted since `fit`."""
        return self.__sklearn_is_fitted__() and self.fitted_.has_prior

    @property
    def classes_(self) -> np.ndarray:
        """The labels of a conditional model, as they were given."""
        return self._of_format("classes")

    @property
    def class_frequencies_(self) -> np.ndarray:
        """How frequent each of `classes_` was in training."""
        return self._of_format("shares")

    @property
    def columns_(self):
        """A table's columns, with how they are scaled."""
        return self._of_format("columns")

    @property
    def n_features_in_(self) -> int:
        """Columns of a table."""
        if not self.fitted_.format.is_table:
            raise AttributeError(f"this {type(self).__name__} is of images")
        return self.fitted_.format.shape[0]

    def _of_format(self, name: str):
        if (found := getattr(self.fitted_.format, name)) is None:
            raise AttributeError(f"this {type(self).__name__} has no {name}")
        return found

    @undisturbed
    def transform(self, X, y=None) -> np.ndarray:
        """X -> (N, D) decoder inputs: posterior means (N, latent_dim), or of codes their vectors, position by position."""
        return self._asked(X).transform(X, y)

    @undisturbed
    def inverse_transform(self, Z, y=None):
        """Z as `transform` gives it -> decoded images (the mean of p(x|z)) in the layout and dtype family of fit's X; a table
        as the data frame or array that fit's X was, as `sample` says.
        """
        return self._ready().inverse_transform(Z, y)

    @undisturbed
    def reconstruct(self, X, y=None):
        """inverse_transform(transform(X)): through the posterior mean, or the nearest codes. A data frame comes back as one."""
        return self._asked(X).reconstruct(X, y)

    @undisturbed
    def encode(self, X, y=None) -> np.ndarray:
        """X -> the mode of q(z|x): (N, latent_dim) float, or code indices (N, h, w) int64 of a VQ-VAE."""
        return self._asked(X).encode(X, y)

    @undisturbed
    def decode(self, codes, y=None):
        """Codes as `encode` gives them -> images."""
        return self._ready().decode(codes, y)

    @undisturbed
    def sample(
        self,
        n: int = 1,
        y=None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        random_state=None,
        prior: str | None = None,
        clip: bool = False,
        guidance: float | None = None,
    ):
        """n new images: decoded draws from the prior, in the layout and dtype family of fit's X. A model of a table gives rows,
        in a data frame of the same library and column names where fit's X was one, else in an array. Columns of integers are
        rounded, those of 0 and 1 or booleans to one of the two, and constant ones are what they were.

        y: one label or n of them, for conditional models and class-conditional priors; None draws labels as frequent as in
            training.
        temperature: scales the spread of the prior, > 0. top_k (>= 1), top_p (in (0, 1]): for priors over codes only.
        prior: None is the fitted one where there is one; one that is far worse on held-out images than the one the model was
            trained with (`prior_is_worse`) only where y asks for its classes. "plain" and "fitted" ask for one or the other.
        clip: brings the values of each column of a table into the range seen in training.
        guidance: for a class-conditional prior by flow matching, >= 0; above 1 samples are surer of their class, less diverse.
        Raises NotFittedError for a VQ-VAE that has no fitted prior, ValueError for what doesn't fit.
        """
        return self._ready().sample(n, y, temperature, top_k, top_p, random_state, prior, clip, guidance)

    @undisturbed
    def score_samples(self, X, y=None, n_draws: int = 8) -> np.ndarray:
        """(N,) ELBO in nats per sample, a lower bound of log p(x): `n_draws` fixed noise vectors, the same for every
        image, so it is a function of the image. Conditional models without y sum over the classes: log sum_y p(y) p(x|y).
        Tables count the standardisation's Jacobian, so nats are in the original units.
        """
        return self._asked(X).score_samples(X, y, n_draws)

    @undisturbed
    def score(self, X, y=None) -> float:
        """The mean of `score_samples`: ELBO in nats per sample; higher is better."""
        return float(np.mean(self.score_samples(X, y)))

    @undisturbed
    def fit_prior(self, X, y=None, *, time_budget: float | None = None, **settings):
        """Fits a prior to the latents or codes of X, which `sample` and the ELBO then use unless it is far worse than the
        plain one (`prior_is_worse`). Returns self.

        y: labels make the prior class-conditional, p(z|y); a conditional model needs them.
        time_budget: seconds the fitting may take; it is made shorter to fit, and ends where it is when they are over.
        settings: the fields of `PriorSettings`, such as prior="flow", epochs=20, layers=15, channels=128.
        Afterwards: `prior_history_` (a record per epoch: `rate` in nats per image), `prior_facts_` (rates of held-out images
        under it and under simpler priors), `prior_settings_`, `prior_classes_`.
        """
        fitted = self._asked(X)
        x = fitted.format.check(X, fitted.name)
        labels, classes = (None, ()) if y is None else check_labels(y, len(x))
        images = Images(x, labels, classes, "array", fingerprint(x, labels))
        fit_prior_to(fitted, images, PriorSettings(**settings), time_budget=time_budget, verbose=self.verbose)
        return self

    @undisturbed
    def prior_log_prob(self, codes, y=None) -> np.ndarray:
        """Codes as `encode` gives them -> (N,) log p(code), or log p(code|y), in nats under the fitted prior, or where there
        is none under the one of the training.
        """
        return self._ready().prior_log_prob(codes, y)

    @undisturbed
    def load_prior(self, path):
        """Attaches the prior in the file `path` (a run's prior.safetensors). Returns self.

        Raises ValueError where it was fitted to the codes of another model, another codebook or latent width, or to other
        classes.
        """
        fitted = self._ready()
        fitted.attach(read_prior(path, fitted.with_prior("plain"), fitted.format.classes))
        return self

    @undisturbed
    def with_prior(self, prior: str | None) -> torch.nn.Module:
        """The module with its prior in use (None), the one of its training ("plain") or the "fitted" one; weights are shared.
        Raises ValueError where none is fitted.
        """
        return self._ready().with_prior(prior)

    @undisturbed
    def save(self, path) -> None:
        """Writes a run folder: run.json, log.jsonl, weights.safetensors, and prior.safetensors where a prior is fitted.
        Raises ValueError where a run is already.
        """
        self._ready().save(path)

    @undisturbed
    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = False,
        license: str | None = None,
        evaluation: dict | str | None = None,
        commit_message: str | None = None,
        token: str | None = None,
    ) -> str:
        """Uploads the model to `repo_id`, "user/name", on the Hugging Face Hub as a run folder with a model card, which
        `load("hf://user/name")` reads: see `vaekit.hub.push_to_hub`. Returns the web address of the commit.
        """
        return push_to_hub(
            self._ready(),
            repo_id,
            private=private,
            license=license,
            evaluation=evaluation,
            commit_message=commit_message,
            token=token,
        )

    # ---- inside ------------------------------------------------------------------------------------------------

    def __sklearn_is_fitted__(self) -> bool:
        return "fitted_" in self.__dict__

    def _ready(self) -> Fitted:
        """What was fitted. Raises NotFittedError where nothing is yet."""
        if not self.__sklearn_is_fitted__():
            raise NotFittedError(f"this {type(self).__name__} is not fitted yet: call fit first")
        return self.fitted_

    def _asked(self, X) -> Fitted:
        """`_ready` for X, whose column names are compared with fit's, as scikit-learn does. `Images` know theirs."""
        fitted = self._ready()
        if not isinstance(X, Images):
            self._take_names(X, reset=False)
        return fitted

    def _take_names(self, X, *, reset: bool = True) -> None:
        """Takes the column names of a data frame into `feature_names_in_`, or compares them."""
        validate_data(self, X, reset=reset, skip_check_array=True, ensure_2d=False)  # pyright: ignore[reportArgumentType]

    @property
    def _n_features_out(self) -> int:
        """Columns that `transform` gives, which `get_feature_names_out` names."""
        return int(np.prod(self.fitted_.z_shape))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags
