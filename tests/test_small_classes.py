"""Classes of one image or a few: every one is trained on, has a prior and samples, for every seed."""

import copy
import functools
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from vaekit import CVAE, VAE, VQVAE
from vaekit.data.images import hold_out
from vaekit.parts.priors import MixturePrior
from vaekit.training.prior import Codes, _fit_gmm

TINY = {"architecture": "mlp", "epochs": 2, "random_state": 0, "device": "cpu", "verbose": False}
QUICK = {
    "gmm": {},
    "vamp": {"epochs": 1, "batch_size": 32},
    "flow": {"epochs": 1, "layers": 2, "channels": 8},
    "pixelcnn": {"epochs": 1, "layers": 1, "channels": 8},
    "transformer": {"epochs": 1, "layers": 1, "channels": 8},
}
KINDS = {"gmm": "vae", "vamp": "vae", "flow": "vae", "pixelcnn": "vqvae", "transformer": "vqvae"}


@functools.cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    x, y = load_digits(return_X_y=True)
    return (x.reshape(-1, 8, 8) / 16 * 255).astype(np.uint8), y


@functools.cache
def fitted(kind: str):
    """A model of 200 digits, which tests copy before they change it."""
    x, _ = digits()
    model = VAE(latent_dim=3, **TINY) if kind == "vae" else VQVAE(n_codes=8, **TINY)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(x[:200])


def labels(sizes) -> np.ndarray:
    """Labels of classes of `sizes` images, mixed."""
    return np.random.default_rng(5).permutation(np.repeat(np.arange(len(sizes)), sizes))


SETS = {
    "one of one image": [1, 20, 20, 20],
    "all of one image": [1] * 7,
    "two images in all": [1, 1],
    "two images of one class": [2],
    "one class": [30],
    "one image": [1],
    "of two images": [2] * 9,
    "one large and many small": [60, 1, 2, 3, 1],
}


@pytest.mark.parametrize("sizes", SETS.values(), ids=SETS)
@pytest.mark.parametrize("prior", QUICK)
def test_every_class_with_an_image_has_a_prior(prior, sizes):
    y = labels(sizes)
    model = copy.deepcopy(fitted(KINDS[prior])).fit_prior(digits()[0][: len(y)], y, prior=prior, **QUICK[prior])
    held = model.prior_facts_["validation_images"]
    assert held == (min(max(1, round(0.05 * len(y))), len(y) - len(sizes)) or len(y))
    assert math.isfinite(model.prior_facts_["validation_rate"])
    assert model.prior_classes_.tolist() == list(range(len(sizes)))
    shares = model.with_prior("fitted").prior.class_shares.numpy()
    assert (shares > 0).all() and shares.sum() == pytest.approx(1)
    samples = model.sample(2 * len(sizes), np.repeat(np.arange(len(sizes)), 2), random_state=0)
    assert len(samples) == 2 * len(sizes) and np.isfinite(samples).all()
    assert np.isfinite(model.score_samples(digits()[0][: len(y)])).all()


@pytest.mark.parametrize("prior", ["gmm", "vamp", "flow"])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_images_without_labels_have_a_prior(prior, n):
    model = copy.deepcopy(fitted("vae")).fit_prior(digits()[0][:n], prior=prior, **QUICK[prior])
    assert math.isfinite(model.prior_facts_["validation_rate"])
    assert model.prior_facts_["validation_rate"] < 1000 and np.isfinite(model.sample(3)).all()


def test_a_class_of_one_image_has_a_mixture_for_every_seed():
    """And what it says of that class is what its neighbours suggest: around its image, as wide as others are."""
    y = labels([1, 20, 20, 20])
    x = digits()[0][: len(y)]
    rates = []
    for seed in range(40):
        model = copy.deepcopy(fitted("vae")).fit_prior(x, y, random_state=seed)
        rates.append(model.prior_facts_["validation_rate"])
        mean = fitted("vae").transform(x[y == 0])[0]
        np.testing.assert_allclose(model.with_prior("fitted").prior.means[0, 0], mean, rtol=1e-5, atol=1e-6)
    assert np.isfinite(rates).all() and np.max(rates) < 50


def test_thirty_classes_of_four_images_have_a_mixture_for_every_seed():
    y = labels([4] * 30)
    for seed in range(8):
        model = copy.deepcopy(fitted("vae")).fit_prior(digits()[0][:120], y, random_state=seed)
        assert model.prior_facts_["validation_images"] == 6 and math.isfinite(model.prior_facts_["validation_rate"])


def test_a_conditional_model_of_classes_of_one_image_has_a_prior():
    y = labels([1, 30, 30])
    model = CVAE(latent_dim=2, **TINY).fit(digits()[0][:61], y).fit_prior(digits()[0][:61], y)
    assert math.isfinite(model.prior_facts_["validation_rate"]) and len(model.sample(3, [0, 1, 2])) == 3


@pytest.mark.parametrize("prior", ["gmm", "vamp"])
@pytest.mark.parametrize(("asked", "has"), [(2, 1), (21, 20)])
def test_more_components_than_a_class_has_images_are_refused_before_the_work(prior, asked, has, monkeypatch):
    y = labels([has, 200 - has])
    model = copy.deepcopy(fitted("vae"))
    monkeypatch.setattr("vaekit.training.prior.encode", lambda *_: pytest.fail("it began"))
    with pytest.raises(
        ValueError, match=rf"mixture of {asked} components needs {asked} images to train on; class 0 has"
    ):
        model.fit_prior(digits()[0][:200], y, prior=prior, components=asked)
    assert not model.has_prior


def test_a_small_class_among_large_ones_is_one_gaussian_as_wide_as_classes_are():
    """The others are mixtures of narrow components, which say nothing of how wide a class is."""
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], [1500, 1500, 1])
    z = rng.normal(size=(len(y), 2)) @ np.diag([3.0, 0.5]) + 10 * y[:, None]
    moments = torch.from_numpy(np.concatenate([z, np.full_like(z, -20)], axis=1))
    prior = MixturePrior(latent_dim=2, components=12, n_classes=3).double()
    _fit_gmm(prior, Codes(moments, torch.from_numpy(y)), 0)
    drawn = prior.sample(4000, torch.full((4000,), 2)).numpy()
    np.testing.assert_allclose(drawn.mean(0), z[-1], atol=0.3)
    np.testing.assert_allclose(drawn.std(0), [3.0, 0.5], rtol=0.1)


def test_classes_of_one_image_are_as_wide_as_its_posterior():
    """Nothing else says how wide a class is."""
    mean, log_var = torch.randn(5, 3, dtype=torch.float64), torch.tensor([-1.0, 0.0, 1.0]).double().repeat(5, 1)
    prior = MixturePrior(latent_dim=3, components=1, n_classes=5).double()
    _fit_gmm(prior, Codes(torch.cat([mean, log_var], 1), torch.arange(5)), 0)
    torch.testing.assert_close(prior.means[:, 0], mean)
    p = prior.precision_cholesky[:, 0]
    torch.testing.assert_close((p @ p.mT).inverse(), torch.diag_embed(log_var.exp()), rtol=1e-6, atol=1e-6)


@settings(deadline=None, max_examples=200)
@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=12),
    fraction=st.floats(0, 0.99),
    seed=st.integers(0, 2**32),
)
def test_what_is_held_out_leaves_no_class_empty(sizes, fraction, seed):
    y = labels(sizes)
    kept, held = hold_out(len(y), fraction, seed, y)
    np.testing.assert_array_equal(np.sort(np.concatenate([kept, held])), np.arange(len(y)))
    assert set(y[kept]) == set(y)
    assert len(held) == min(max(1, round(fraction * len(y))), len(y) - len(sizes))
    # Spread over the classes by what each has to give.
    if len(held):
        counts, free = np.bincount(y[held], minlength=len(sizes)), np.array(sizes) - 1
        assert (np.abs(counts - len(held) * free / free.sum()) < 1).all()


def test_without_labels_what_is_held_out_is_a_random_part():
    order = np.random.default_rng(3).permutation(50)
    kept, held = hold_out(50, 0.1, 3)
    np.testing.assert_array_equal(kept, order[5:])
    np.testing.assert_array_equal(held, order[:5])


# Early stopping


def test_early_stopping_leaves_a_conditional_model_every_class():
    y = labels([1, 1, 1, 40, 40])
    for seed in range(20):
        model = CVAE(latent_dim=2, early_stopping=True, **{**TINY, "epochs": 1, "random_state": seed})
        seen = {}

        def take(images, validation, at, model=model, seen=seen):
            seen["parts"] = type(model)._hold_out(model, images, validation, at)
            return seen["parts"]

        model._hold_out = take
        model.fit(digits()[0][: len(y)], y)
        kept, held = seen["parts"]
        assert set(kept.y) == {0, 1, 2, 3, 4} and set(held.y) == {3, 4}
        assert len(kept) + len(held) == len(y)


def test_early_stopping_of_classes_of_one_image_says_what_to_do():
    model = CVAE(latent_dim=2, early_stopping=True, **TINY)
    with pytest.raises(ValueError, match="one image of each class: train without it"):
        model.fit(digits()[0][:5], np.arange(5))
