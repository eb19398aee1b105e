"""A classifier of images of which few are labelled. A VAE of all of them gives latents, in which labels go over to neighbours
(`vaekit.training.propagation`); a small network learns from these labels, with images that are shifted, turned and scaled; and
labels go over once more, among latents and the network's own features (Iscen et al. 2019, "Label Propagation for Deep
Semi-supervised Learning"). `python -m benchmarks few_labels` holds ways to do it against each other.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.exceptions import NotFittedError

from vaekit import __version__
from vaekit.data.checks import check_array, check_labels, label_column
from vaekit.estimators.base import Estimator
from vaekit.estimators.gaussian import VAE
from vaekit.evaluation.augmentation import Classifier, InMemory, shift_rotate_scale, train_classifier
from vaekit.messages import first_line
from vaekit.owned import claim, remove_temporaries, write_atomically
from vaekit.state import undisturbed
from vaekit.training.checkpoint import read_tensors, write_tensors
from vaekit.training.propagation import propagate
from vaekit.training.rebuilt import check_finite, rebuilt
from vaekit.world import check_random_state, derive_seed

MOST = 20_000  # images that are looked at: all labelled ones, and of the others as many as are left, by chance
# Of each round, steps of the network, and the share of a class, the surest, whose labels it learns from.
ROUNDS = ((300, 0.9), (400, 0.95), (500, 0.95), (1000, 1.0))
BATCH_SIZE = 128
PASSES = 200_000  # images that the default VAE sees, in 10 to 100 epochs
KIND, FACTS, WEIGHTS = "classifier", "classifier.json", "weights.safetensors"


class FewLabelsClassifier(ClassifierMixin, BaseEstimator):
    """Classifies images, as those of scikit-learn's `semi_supervised` do: the unlabelled ones are marked by -1 in `fit`'s y.

    model: an estimator with Gaussian latents. A fitted one is taken as it is, of another a copy is fitted to all images. None
        is VAE(latent_dim=20, architecture="mlp"), of 10 to 100 epochs.
    random_state: seed of everything random.
    verbose: progress on standard error.
    After `fit`: `classes_`; `network_`, the classifier; `model_`, unless it was loaded; `facts_`, how many images there were.
    """

    def __init__(self, model: Estimator | None = None, *, random_state: int | None = None, verbose: bool = False):
        self.model, self.random_state, self.verbose = model, random_state, verbose

    @undisturbed
    def fit(self, X, y):
        """X: images (N, H, W) or (N, H, W, C), 8-bit or floats in [0, 1]. y: labels (N,), integers, or objects where they are
        strings, and -1 where there is none. Returns self.

        Raises ValueError for tables, for fewer than two classes, and for labels that don't fit.
        """
        x = check_array(X)
        if x.ndim != 4:
            raise ValueError(f"X must be images (N, H, W) or (N, H, W, C), got a table of shape {x.shape}")
        y = label_column(y, len(x))
        known = np.array([not _is_unlabelled(label) for label in y])
        index, classes = check_labels(y[known], int(known.sum()), "y")
        if len(classes) < 2:
            raise ValueError(
                f"y must hold two classes or more beside -1, which marks what is unlabelled, got {classes}"
            )
        labels = np.full(len(x), -1)
        labels[known] = index
        seed = check_random_state(self.random_state)
        chosen = _chosen(labels, derive_seed(seed, "unlabelled"))
        self._fit(x[chosen], labels[chosen], len(classes), seed)
        self.classes_, self.image_shape_ = np.asarray(classes), tuple(x.shape[1:])
        self.facts_ = {"labelled": int(known.sum()), "unlabelled": int((~known[chosen]).sum()), "seed": seed}
        return self

    def _fit(self, x: np.ndarray, labels: np.ndarray, n_classes: int, seed: int) -> None:
        """Images (N, H, W, C) and labels (N,), indices or -1."""
        if self.model is not None and self.model.__sklearn_is_fitted__():
            self.model_ = self.model
        else:
            epochs = min(100, max(10, PASSES // len(x)))
            how = {"epochs": epochs, "random_state": seed % 2**31, "verbose": self.verbose}
            default = VAE(latent_dim=20, architecture="mlp", **how)
            self.model_ = (default if self.model is None else cast(Estimator, clone(self.model))).fit(x)
        pixels, latents = torch.from_numpy(np.require(x, requirements=("C", "W"))), self.model_.transform(x)
        latents = latents / max(float(np.linalg.norm(latents, axis=1).mean()), 1e-12)
        features = latents
        for round, (steps, share) in enumerate(ROUNDS):
            taken, sure = _spread(features, labels, n_classes, share)
            self.network_ = train_classifier(
                InMemory(pixels[sure], torch.from_numpy(taken[sure])),
                None,
                n_classes=n_classes,
                augment=shift_rotate_scale,
                seed=derive_seed(seed, "round", round),
                steps=steps,
                batch_size=BATCH_SIZE,
                verbose=self.verbose,
            )
            features = np.hstack([latents, self.network_.features(pixels).numpy()])

    @undisturbed
    def predict_proba(self, X) -> np.ndarray:
        """(N, n_classes) probabilities, in the order of `classes_`."""
        if not hasattr(self, "network_"):
            raise NotFittedError("this FewLabelsClassifier is not fitted yet: call fit first")
        x = check_array(X)
        if x.shape[1:] != self.image_shape_:
            raise ValueError(
                f"X has images of shape {x.shape[1:]}, but the classifier was fitted on {self.image_shape_}"
            )
        return self.network_.probabilities(torch.from_numpy(np.require(x, requirements=("C", "W")))).double().numpy()

    @undisturbed
    def predict(self, X) -> np.ndarray:
        """(N,) the most probable class of each image."""
        shares = self.predict_proba(X)
        return self.classes_[shares.argmax(1)]

    @undisturbed
    def save(self, path) -> None:
        """Writes the classifier, without the VAE, into a folder of its own: classifier.json and weights.safetensors. Raises
        ValueError where one is already, or something else.
        """
        if not hasattr(self, "network_"):
            raise NotFittedError("this FewLabelsClassifier is not fitted yet: call fit first")
        folder = claim(path, KIND)
        if (folder / FACTS).exists():
            raise ValueError(f"{path} already holds a classifier; choose another folder")
        remove_temporaries(folder)
        facts = {
            "vaekit": __version__,
            "classes": self.classes_.tolist(),
            "shape": list(self.image_shape_),
            "facts": self.facts_,
        }
        write_tensors(folder / WEIGHTS, self.network_.state_dict(), {"classes": facts["classes"]})
        write_atomically(folder / FACTS, json.dumps(facts, indent=1) + "\n")

    @classmethod
    @undisturbed
    def load(cls, path) -> FewLabelsClassifier:
        """The classifier in the folder `path`, as `save` or `vaekit few-labels` left it. Raises FileNotFoundError where there
        is none, ValueError for one that is damaged.
        """
        folder = Path(path)
        if not (folder / FACTS).is_file():
            raise FileNotFoundError(f"no classifier of vaekit at {folder}: it has no {FACTS}")
        tensors, state = read_tensors(folder / WEIGHTS)
        try:
            facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
            classes, (height, width, channels) = np.asarray(facts["classes"]), facts["shape"]
            if classes.ndim != 1 or len(classes) < 2 or state.get("classes") != facts["classes"]:
                raise ValueError("its classes are not those of its weights")
            shape = (channels, height, width)
            network, difference = rebuilt(
                lambda: Classifier(shape=shape, n_classes=len(classes), augment=None), tensors
            )
            if difference:
                raise ValueError(difference)
        except (AttributeError, KeyError, RecursionError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"{folder / FACTS} is damaged, or from another vaekit ({first_line(error)})") from None
        check_finite(folder / WEIGHTS, tensors)
        loaded = cls()
        network.load_state_dict(tensors)
        loaded.network_ = network.eval()
        loaded.classes_, loaded.image_shape_ = classes, (height, width, channels)
        loaded.facts_ = facts.get("facts", {})
        return loaded


def _is_unlabelled(label) -> bool:
    return not isinstance(label, str) and label == -1


def _chosen(labels: np.ndarray, seed: int) -> np.ndarray:
    """Indices of all labelled images, and of others up to MOST in all, in order."""
    order = np.random.default_rng(seed).permutation(len(labels))
    order = np.concatenate([order[labels[order] >= 0], order[labels[order] < 0]])
    return np.sort(order[: max(MOST, int((labels >= 0).sum()))])


def _spread(features: np.ndarray, labels: np.ndarray, n_classes: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Labels (N,) for all images, those that are known as they are, and whether each is known or among the `share` of its class
    that is the surest.
    """
    shares = propagate(features, labels, n_classes)
    known = labels >= 0
    taken, sure = np.where(known, labels, shares.argmax(1)), known.copy()
    for name in range(n_classes):
        members = np.flatnonzero((taken == name) & ~known)
        members = members[np.argsort(-shares[members].max(1), kind="stable")]
        sure[members[: round(share * len(members))]] = True
    return taken, sure
