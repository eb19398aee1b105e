"""Estimators as a user of scikit-learn meets them: what goes in, what comes back, and that they learn on real data."""

import contextlib
import functools
import json
import math
import pickle
import re
import warnings

import numpy as np
import pytest
import torch
from scipy.special import logsumexp, softmax
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from tests.marks import quick
from vaekit import CVAE, IWAE, VAE, VQVAE, BetaTCVAE, BetaVAE, load, open_data
from vaekit.data.batches import Data
from vaekit.data.format import Format
from vaekit.data.images import Images
from vaekit.evaluation.likelihood import evaluate
from vaekit.models.objectives import distortion_and_rate
from vaekit.owned import MARK
from vaekit.parts.latents import independent_noise
from vaekit.world import samples_at_once, seeded

TRAIN, TEST = 1400, 397
NAMES = np.array(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])
MODELS = {
    "vae": VAE(latent_dim=10, epochs=12),
    "bvae": BetaVAE(latent_dim=10, epochs=4, beta=2.0),
    "cvae": CVAE(latent_dim=8, epochs=6),
    "vqvae": VQVAE(n_codes=32, code_dim=4, epochs=15),
}
every_model = pytest.mark.parametrize("name", MODELS)
every_class = pytest.mark.parametrize("cls", [VAE, BetaVAE, CVAE, VQVAE], ids=lambda cls: cls.__name__)


@functools.cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    """The digits, shuffled: x (1797, 8, 8, 1) uint8, and their names."""
    images = open_data("digits", "all")
    order = np.random.default_rng(0).permutation(len(images))
    return images.x[order], NAMES[images.y[order]]


def held_out(n: int = TEST) -> tuple[np.ndarray, np.ndarray]:
    x, y = digits()
    return x[TRAIN:][:n], y[TRAIN:][:n]


@functools.cache
def fitted(name: str):
    """A short but real training on the digits; shared, so not to be changed."""
    x, y = digits()
    model = clone(MODELS[name]).set_params(architecture="mlp", random_state=0, device="cpu")
    return model.fit(x[:TRAIN], y[:TRAIN])


def numbers(n: int = 60) -> np.ndarray:
    """A table (n, 3) of dependent columns in different units."""
    z = np.random.default_rng(0).normal(size=(n, 2))
    return np.stack([5 + 0.1 * z[:, 0], 300 * (z[:, 0] + 0.1 * z[:, 1]), z[:, 1]], axis=1)


def tiny(cls=VAE, **fields):
    """An estimator that trains in a blink."""
    own = {"n_codes": 8, "code_dim": 2} if cls is VQVAE else {"latent_dim": 2}
    return cls(**{**own, "epochs": 2, "batch_size": 16, "random_state": 0, "device": "cpu", **fields})


def labels_for(X) -> np.ndarray:
    return np.arange(len(X)) % 3


def assert_same_weights(a, b, same: bool = True):
    pairs = zip(a.model_.state_dict().values(), b.model_.state_dict().values(), strict=True)
    assert all(torch.equal(x, y) for x, y in pairs) == same


# scikit-learn's contract


@parametrize_with_checks(
    [VAE(epochs=2, latent_dim=2), CVAE(epochs=2, latent_dim=2), VQVAE(epochs=2, n_codes=8, code_dim=2)]
)
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks([kind(epochs=2, latent_dim=2) for kind in (BetaVAE, IWAE, BetaTCVAE)])
def test_scikit_learns_checks_of_the_vaes_kin(estimator, check):
    check(estimator)


@every_class
def test_clone_get_params_and_set_params(cls):
    model = tiny(cls, likelihood="gaussian_fixed", likelihood_variance=0.5)
    model.set_params(epochs=7)
    copy = clone(model)
    assert type(copy) is cls
    assert copy.get_params() == model.get_params()
    assert (copy.epochs, copy.likelihood, copy.likelihood_variance) == (7, "gaussian_fixed", 0.5)
    assert repr(copy).startswith(f"{cls.__name__}(")
    assert "epochs=7" in repr(copy)
    with pytest.raises(ValueError, match="magic"):
        model.set_params(magic=1)
    with pytest.raises(TypeError):
        cls(10)


def test_fit_fills_in_no_field():
    """None stays None, so that a clone chooses anew for other data; what was chosen is in `resolved_`."""
    x, y = digits()
    model = tiny(VQVAE, n_codes=None, batch_size=None)
    before = model.get_params()
    model.fit(x[:40])
    assert model.get_params() == before
    assert model.resolved_["architecture"] == "conv"
    assert model.resolved_["batch_size"] == 64
    assert model.filled_in().n_codes == 256
    assert model.fit(numbers(), y).resolved_["architecture"] == "mlp"


def test_a_pipeline_around_tables():
    x = numbers()
    y = x[:, 0] > 5
    pipeline = make_pipeline(StandardScaler(), tiny(epochs=40), LogisticRegression())
    assert pipeline.fit(x, y).score(x, y) > 0.8
    assert pipeline[:-1].transform(x).shape == (60, 2)
    with_labels = make_pipeline(StandardScaler(), tiny(CVAE)).fit(x, y)
    assert set(with_labels.predict(x)) <= {False, True}


def test_a_pipeline_from_images_to_classes():
    x, y = digits()
    pipeline = make_pipeline(tiny(latent_dim=10, epochs=8), LogisticRegression(max_iter=300))
    assert pipeline.fit(x[:500], y[:500]).score(*held_out()) > 0.5


@pytest.mark.slow
def test_a_grid_search_takes_the_better_elbo():
    search = GridSearchCV(tiny(batch_size=20), {"latent_dim": [1, 2], "epochs": [1, 40]}, cv=2).fit(numbers(90))
    assert search.best_params_["epochs"] == 40
    assert search.best_score_ == search.cv_results_["mean_test_score"].max()
    assert search.best_estimator_.score(numbers(90)) > search.cv_results_["mean_test_score"].min()
    assert search.transform(numbers(5)).shape == (5, search.best_params_["latent_dim"])


# What goes in comes back the same way


def as_given(images: np.ndarray, layout: str, dtype: str) -> np.ndarray:
    """(N, 8, 8, 1) uint8 -> the same images in another layout and dtype."""
    images = {"NHW": images[..., 0], "NHW1": images, "NHW3": images.repeat(3, axis=3)}[layout]
    if dtype == "bool":
        return images > 127
    return images if dtype == "uint8" else (images / 255).astype(dtype)


LAYOUTS = [("NHW", "uint8"), ("NHW1", "float32"), ("NHW3", "uint8"), ("NHW3", "float64"), ("NHW", "float16")]


@every_class
@pytest.mark.parametrize(("layout", "dtype"), [*LAYOUTS, ("NHW", "bool")], ids="-".join)
def test_images_come_back_in_the_layout_and_dtype_they_came_in(cls, layout, dtype):
    x = as_given(digits()[0][:24], layout, dtype)
    y = labels_for(x)
    model = tiny(cls, architecture="mlp").fit(x, y)
    given = y if cls is CVAE else None
    latents = model.transform(x, y)
    images = {
        "reconstruct": model.reconstruct(x, y),
        "inverse_transform": model.inverse_transform(latents, given),
        "decode": model.decode(model.encode(x, y), given),
        "sample": model.sample(24, random_state=0, prior="plain"),
    }
    for method, out in images.items():
        assert out.shape == x.shape, method
        assert out.dtype == (np.uint8 if dtype in ("uint8", "bool") else np.float32), method
        assert out.min() >= 0, method
        assert out.max() <= (255 if out.dtype == np.uint8 else 1), method
    assert (images["reconstruct"] == images["inverse_transform"]).all()
    assert np.allclose(images["decode"], images["reconstruct"], atol=1e-6 if out.dtype == np.float32 else 1)
    assert model.image_shape_ == (8, 8, 3 if layout == "NHW3" else 1)
    assert latents.dtype == np.float32
    if cls is VQVAE:
        codes = model.encode(x)
        assert (codes.dtype, codes.shape) == (np.int64, (24, *model.model_.prior.code_shape))
        assert latents.shape == (24, codes[0].size * 2)
    else:
        assert latents.shape == (24, 2)
    assert model.score_samples(x, y).shape == (24,)
    assert model.score(x, y) == pytest.approx(model.score_samples(x, y).mean())


@pytest.mark.parametrize("name", quick(MODELS, "cvae"))
def test_the_same_images_in_other_forms_give_the_same_latents(name):
    model, (x, y) = fitted(name), held_out(20)
    expected = model.transform(x, y)
    for form in (x[..., 0], x.astype(np.int64), x / 255, (x / 255).astype(np.float32), np.asfortranarray(x)):
        assert np.allclose(model.transform(form, y), expected, atol=1e-5)
    assert np.allclose(model.transform(x[::-1], y[::-1])[::-1], expected, atol=1e-5)
    assert np.allclose(model.transform(x.tolist(), y.tolist()), expected, atol=1e-5)


@every_class
def test_tables_come_back_in_their_units(cls):
    x, y = numbers(), labels_for(numbers())
    model = tiny(cls, epochs=30, **({"n_codes": 32} if cls is VQVAE else {})).fit(x, y)
    out = model.reconstruct(x, y)
    assert (out.shape, out.dtype) == (x.shape, np.float64)
    assert np.allclose(out.mean(0), x.mean(0), atol=0.5 * x.std(0))
    samples = model.sample(200, random_state=0, prior="plain")
    assert samples.shape == (200, 3)
    assert (np.abs(samples - x.mean(0)) < 8 * x.std(0)).all()
    assert (model.n_features_in_, model.image_shape_) == (3, (3,))


def test_read_only_input_is_left_alone_and_not_complained_about(tmp_path):
    np.save(tmp_path / "x.npy", digits()[0][:20])
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    once = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model = tiny(architecture="mlp").fit(x)
            assert model.transform(x).shape == (20, 2)
    finally:
        torch.set_warn_always(once)
    assert (x == digits()[0][:20]).all()


@every_class
def test_a_constant_column_stays_what_it_is(cls):
    x, y = numbers(), labels_for(numbers())
    x[:, 1] = 7
    model = tiny(cls, epochs=30).fit(x, y)
    assert np.isfinite(model.score_samples(x, y)).all()
    assert np.allclose(model.reconstruct(x, y)[:, 1], 7, atol=0.5)


def test_quantised_vectors_are_codebook_rows_and_inverse_transform_does_not_snap():
    model, (x, _) = fitted("vqvae"), held_out(30)
    z = model.transform(x)
    book = model.model_.latent.codebook.numpy()
    codes = model.encode(x)
    assert np.array_equal(z.reshape(*codes.shape, 4), book[codes])
    assert (model.decode(codes) == model.reconstruct(x)).all()
    between = 0.5 * (z + z[::-1])
    assert (model.inverse_transform(between) != model.inverse_transform(z)).any()


@pytest.mark.parametrize(("cls", "shape"), [(VAE, (3, 9)), (VAE, (3,)), (VQVAE, (3, 9))])
def test_latents_of_another_width_are_refused(cls, shape):
    model = fitted("vae" if cls is VAE else "vqvae")
    width = 10 if cls is VAE else 32
    with pytest.raises(ValueError, match=re.escape(f"latents must be numbers of shape (N, {width})")):
        model.inverse_transform(np.zeros(shape))


def test_codes_that_are_none_are_refused():
    model = fitted("vqvae")
    height, width = model.model_.prior.code_shape
    good = np.zeros((2, height, width), int)
    for bad, message in [
        (good + 0.5, "codes must be integers"),
        (good[:, :, :-1], rf"of shape \(N, {height}, {width}\)"),
        (good + 32, r"codes must be in 0\.\.31, got 32\.\.32"),
        (good - 1, r"codes must be in 0\.\.31, got -1"),
    ]:
        with pytest.raises(ValueError, match=message):
            model.decode(bad)


# Samples


@every_model
def test_samples_are_a_function_of_their_random_state(name):
    model = fitted(name)
    first = model.sample(6, random_state=1, prior="plain")
    torch.rand(3)
    assert (model.sample(6, random_state=1, prior="plain") == first).all()
    assert (model.sample(6, random_state=2, prior="plain") != first).any()
    assert (model.sample(6, prior="plain") != model.sample(6, prior="plain")).any(), "None draws anew"
    for kind in (np.random.RandomState, np.random.default_rng):
        stream = kind(3)
        one, two = (
            model.sample(6, random_state=stream, prior="plain"),
            model.sample(6, random_state=stream, prior="plain"),
        )
        assert (one != two).any(), "a stream goes on"
        assert (model.sample(6, random_state=kind(3), prior="plain") == one).all()
    assert model.sample(random_state=0, prior="plain").shape == (1, 8, 8, 1)


@pytest.mark.parametrize("name", ["vae", "bvae", "cvae"])
def test_temperature_scales_the_spread_of_samples(name):
    model, y = fitted(name), "three" if name == "cvae" else None
    spread = [model.sample(200, y, temperature=t, random_state=0).astype(float).std(0).mean() for t in (0.01, 0.5, 1.0)]
    assert spread[0] < 0.2 * spread[2]
    assert spread[0] < spread[1] < spread[2]


def test_samples_of_a_class_are_of_that_class():
    model = fitted("cvae")
    assert (model.predict(model.sample(50, "zero", random_state=0)) == "zero").mean() > 0.8
    y = np.repeat(["one", "four", "six"], 20)
    assert (model.predict(model.sample(60, y, random_state=0)) == y).mean() > 0.6
    one = model.sample(5, "four", random_state=3)
    assert (model.sample(5, ["four"] * 5, random_state=3) == one).all()
    assert (model.sample(5, np.array("four"), random_state=3) == one).all()
    assert (model.sample(5, "five", random_state=3) != one).any()


def test_samples_without_a_label_have_labels_as_frequent_as_in_training():
    y = np.repeat(["dark", "light"], [90, 10])
    x = np.random.default_rng(0).integers(0, 40, (100, 8, 8)) + np.where(y == "dark", 0, 200)[:, None, None]
    model = tiny(CVAE, architecture="mlp", beta=100.0, epochs=12).fit(x, y)  # the label alone decides
    assert dict(zip(model.classes_, model.class_frequencies_, strict=True)) == {"dark": 0.9, "light": 0.1}
    light = model.sample(400, random_state=0).mean((1, 2)) > 120
    assert light.mean() == pytest.approx(0.1, abs=0.04)
    assert (model.sample(50, "light", random_state=0).mean((1, 2)) > 120).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "n must be a whole number >= 1, got 0"),
        ({"n": 2.5}, r"n must be a whole number >= 1, got 2\.5"),
        ({"n": True}, "n must be a whole number"),
        ({"temperature": 0}, "temperature must be > 0, got 0"),
        ({"temperature": float("nan")}, "temperature must be > 0, got nan"),
        ({"top_k": 3}, "top_k and top_p need an autoregressive prior"),
        ({"top_p": 0.5}, "top_k and top_p need an autoregressive prior"),
        ({"random_state": -1}, "random_state must be None, an integer >= 0 or a numpy generator, got -1"),
        ({"random_state": "a"}, "random_state must be"),
        ({"y": "eleven"}, "unknown label 'eleven'; the model knows eight, five"),
        ({"y": ["one", "two"]}, "y has 2 labels for 4 images"),
    ],
    ids=str,
)
def test_wrong_requests_for_samples_say_what_would_do(arguments, message):
    with pytest.raises(ValueError, match=message):
        fitted("cvae").sample(**{"n": 4, **arguments})


# Scores


@every_model
def test_a_score_is_a_function_of_the_image(name):
    """Its place in a batch and its neighbours have no part in it, nor when it is asked for."""
    model, (x, y) = fitted(name), held_out(60)
    given = y if name == "cvae" else None
    scores = model.score_samples(x, given)
    assert (scores.dtype, scores.shape) == (np.float64, (60,))
    torch.rand(5)
    assert (model.score_samples(x, given) == scores).all()
    order = np.random.default_rng(0).permutation(60)
    close = functools.partial(np.allclose, rtol=1e-4, atol=1e-3)
    assert close(model.score_samples(x[order], None if given is None else given[order]), scores[order])
    alone = [model.score_samples(x[i : i + 1], None if given is None else given[i]) for i in range(5)]
    assert close(np.concatenate(alone), scores[:5])
    many = model.score_samples(np.repeat(x[:1], 1003, axis=0), None if given is None else given[0])
    assert close(many, scores[0])


def test_more_draws_settle_the_score():
    model, (x, _) = fitted("vae"), held_out(50)
    one, many, more = (model.score_samples(x, n_draws=n).mean() for n in (1, 60, 120))
    assert one != many
    assert many == pytest.approx(more, abs=0.5)


@pytest.mark.parametrize("factor", [8, 10])
@every_class
def test_the_density_of_a_table_is_in_its_units(cls, factor):
    """A column in units `factor` times smaller: the inner problem is the same, the density is less by log(factor)."""
    x, y = numbers(), labels_for(numbers())
    wide = x * np.array([factor, 1, 1])
    model, scaled = tiny(cls).fit(x, y), tiny(cls).fit(wide, y)
    difference = model.score_samples(x, y) - scaled.score_samples(wide, y)
    assert difference == pytest.approx(np.full(60, math.log(factor)), abs=1e-9 if factor == 8 else 1e-3)


def test_the_elbo_of_a_table_is_a_bound_on_its_log_density():
    """Columns N(5, 0.01) and N(-3, 100): the true log density is known, the model comes near it from below."""
    generator = np.random.default_rng(0)
    x, fresh = (np.stack([generator.normal(5, 0.01, n), generator.normal(-3, 100, n)], 1) for n in (2000, 2000))
    truth = -math.log(2 * math.pi) - 1 - math.log(0.01) - math.log(100)
    elbo = tiny(latent_dim=1, epochs=5, batch_size=64).fit(x).score(fresh)
    assert truth - 0.5 < elbo < truth + 0.1


# Learning on real data


def test_a_vae_beats_the_mean_image_and_two_principal_components():
    x, _ = digits()
    train, test = x[:TRAIN].reshape(TRAIN, -1) / 255, x[TRAIN:].reshape(TEST, -1) / 255
    model = fitted("vae")
    mse = np.square(model.reconstruct(x[TRAIN:]).reshape(TEST, -1) / 255 - test).mean()
    pca = PCA(2).fit(train)
    assert mse < np.square(pca.inverse_transform(pca.transform(test)) - test).mean()
    assert mse < 0.6 * np.square(test - train.mean(0)).mean()
    variance = np.square(train - train.mean(0)).mean()
    baseline = -0.5 * (math.log(2 * math.pi * variance) + np.square(test - train.mean(0)) / variance).sum(1).mean()
    assert model.score(x[TRAIN:]) > baseline + 10
    distortions = [record["distortion"] for record in model.history_]
    assert distortions[-1] < distortions[0] - 10


@pytest.mark.slow
def test_the_default_network_learns():
    """Convolutions, with nothing set but the epochs."""
    x, _ = digits()
    model = VAE(epochs=6, random_state=0, device="cpu").fit(x[:TRAIN])
    errors = np.square(model.reconstruct(x[TRAIN:]) / 255 - x[TRAIN:] / 255)
    assert errors.mean() < 0.75 * np.square(x[TRAIN:] / 255 - x[:TRAIN].mean(0) / 255).mean()


def test_a_vqvae_beats_the_mean_image_with_many_codes_in_use():
    x, _ = digits()
    model = fitted("vqvae")
    error = np.square(model.reconstruct(x[TRAIN:]) / 255 - x[TRAIN:] / 255).mean()
    assert error < 0.85 * np.square(x[TRAIN:] / 255 - x[:TRAIN].mean(0) / 255).mean()
    assert len(np.unique(model.encode(x[TRAIN:]))) > 8
    rate = np.prod(model.model_.prior.code_shape) * math.log(32)
    assert model.history_[-1]["rate"] == pytest.approx(rate, rel=1e-5)


@pytest.mark.parametrize("cls", [BetaVAE, CVAE])
@pytest.mark.parametrize(("side", "beta"), [(2, 1.0), (8, 2.857), (28, 10.0)])
def test_the_default_beta_grows_with_the_root_of_the_number_of_pixels(cls, side, beta):
    x = np.random.default_rng(0).integers(0, 256, (20, side, side), dtype=np.uint8)
    model = tiny(cls, architecture="mlp", width=2, epochs=1, rate_warmup_epochs=0).fit(x, labels_for(x))
    assert model.resolved_["beta"] == pytest.approx(beta, rel=1e-3)
    assert model.history_[0]["rate_weight"] == model.resolved_["beta"]


@pytest.mark.parametrize(
    ("cls", "channels", "beta"), [(BetaVAE, 3, 19.79), (CVAE, 1, 11.43), (CVAE, 3, 1.0), (CVAE, 4, 1.0)]
)
def test_of_a_picture_in_colours_a_cvae_keeps_what_the_class_does_not_tell(cls, channels, beta):
    format = Format((32, 32, channels), classes=np.arange(2))
    assert cls().resolve(format, 20)["beta"] == pytest.approx(beta, rel=1e-3)


@pytest.mark.slow
def test_a_larger_beta_buys_a_lower_rate():
    x, y = digits()
    rates = {}
    for beta in (0.1, 1.0, 20.0):
        model = tiny(BetaVAE, beta=beta, architecture="mlp", epochs=6, latent_dim=6).fit(x[:500])
        rates[beta] = evaluate(model.model_, model.fitted_.data(images_of(x[TRAIN:], y[TRAIN:])))["rate"]
    assert rates[0.1] > rates[1.0] > rates[20.0]


# Labels


def test_a_conditional_model_requires_labels():
    x, _ = digits()
    with pytest.raises(ValueError, match=r"CVAE .*requires y.*but the target y is None"):
        tiny(CVAE).fit(x[:20])
    unlabelled = images_of(x[:20], None)
    with pytest.raises(ValueError, match="requires y"):
        tiny(CVAE).fit_images(unlabelled)
    with pytest.raises(ValueError, match="decoding needs labels y"):
        fitted("cvae").inverse_transform(np.zeros((2, 8)))


def test_the_class_posterior_recognises_digits():
    model, (x, y) = fitted("cvae"), held_out()
    proba = model.predict_proba(x)
    assert proba.shape == (TEST, 10)
    assert proba.min() >= 0
    assert proba.sum(1) == pytest.approx(np.ones(TEST))
    assert (model.predict(x) == model.classes_[proba.argmax(1)]).all()
    assert (model.predict(x) == y).mean() > 0.7
    assert model.classes_.tolist() == sorted(NAMES)


def test_without_labels_the_score_sums_over_the_classes():
    model, (x, y) = fitted("cvae"), held_out(40)
    joint = np.stack([model.score_samples(x, label) for label in model.classes_], axis=1)
    joint += np.log(model.class_frequencies_)
    assert model.score_samples(x) == pytest.approx(logsumexp(joint, axis=1), rel=1e-6)
    assert model.predict_proba(x, n_draws=8) == pytest.approx(softmax(joint, axis=1), abs=1e-6)
    counts = np.unique(digits()[1][:TRAIN], return_counts=True)[1]
    assert model.class_frequencies_ == pytest.approx(counts / TRAIN)
    truth = joint[np.arange(40), np.searchsorted(model.classes_, y)]
    assert (model.score_samples(x) >= truth - 1e-6).all()


def test_without_labels_the_most_probable_class_is_used():
    model, (x, _) = fitted("cvae"), held_out(40)
    best = model.predict(x)
    assert (model.transform(x) == model.transform(x, best)).all()
    assert (model.reconstruct(x) == model.reconstruct(x, best)).all()
    other = np.roll(model.classes_, 1)[np.searchsorted(model.classes_, best)]
    assert np.abs(model.transform(x, other) - model.transform(x, best)).max() > 0.01


@pytest.mark.parametrize(
    "y",
    [
        np.arange(24) % 3,
        (np.arange(24) % 3).astype(float),
        (np.arange(24) % 3)[:, None],
        np.arange(24) % 2 == 0,
        np.array(["a", "b", "c"] * 8),
        np.array(["a", "b", "c"] * 8, dtype=object),
        ["a", "b", "c"] * 8,
        np.arange(24).astype(np.uint8) % 3 - 1,
    ],
    ids=["int", "float", "column", "bool", "str", "object", "list", "uint8"],
)
def test_labels_that_fit_accepts_are_accepted_everywhere(y):
    x = digits()[0][:24]
    model = tiny(CVAE, architecture="mlp").fit(x, y)
    latents = model.transform(x, y)
    assert model.inverse_transform(latents, y).shape == x.shape
    assert model.reconstruct(x, y).shape == x.shape
    assert model.score_samples(x, y).shape == (24,)
    assert model.sample(24, y, random_state=0).shape == x.shape
    flat = np.asarray(y).ravel().tolist()
    assert set(model.predict(x).tolist()) <= set(flat)
    assert (model.transform(x, flat) == latents).all()


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.arange(7), "y has 7 labels for 20 images"),
        (np.zeros((20, 2)), r"y must be one label per image, of shape \(20,\), got shape \(20, 2\)"),
        (np.full(20, np.nan), "y holds NaN"),
        (np.linspace(0, 1, 20), "Unknown label type"),
        (np.array(["a"] * 19 + [None], dtype=object), "y holds None or NaN"),
        (np.array([1] * 19 + ["a"], dtype=object), "mixes labels of different types"),
    ],
    ids=["length", "shape", "nan", "fractions", "none", "mixed"],
)
def test_labels_that_do_not_fit_are_refused(y, message):
    with pytest.raises(ValueError, match=message):
        tiny(CVAE).fit(digits()[0][:20], y)


@pytest.mark.parametrize("method", ["transform", "encode", "reconstruct", "score_samples", "score"])
def test_unknown_labels_and_wrong_counts_are_refused_after_fit(method):
    model, (x, y) = fitted("cvae"), held_out(5)
    with pytest.raises(ValueError, match="unknown label 'eleven'; the model knows eight, five"):
        getattr(model, method)(x, ["eleven", *y[1:]])
    with pytest.raises(ValueError, match="y has 3 labels for 5 images"):
        getattr(model, method)(x, y[:3])


def test_an_unconditional_model_takes_no_notice_of_labels():
    x, y = digits()
    model = tiny(architecture="mlp").fit(x[:20], y[:20])
    assert_same_weights(model, tiny(architecture="mlp").fit(x[:20]))
    assert (model.transform(x[:20], y[:20]) == model.transform(x[:20])).all()
    assert (model.score_samples(x[:20], y[:3]) == model.score_samples(x[:20])).all()


# Seeds


@pytest.mark.parametrize("kind", [int, np.int64, np.random.RandomState, np.random.default_rng])
def test_the_same_seed_of_any_kind_gives_the_same_weights(kind):
    first, again, other = (tiny(random_state=kind(seed)).fit(numbers()) for seed in (3, 3, 4))
    assert_same_weights(first, again)
    assert_same_weights(first, other, same=False)
    assert first.facts_["seed"] == again.facts_["seed"]
    replay = tiny(random_state=first.facts_["seed"]).fit(numbers())
    assert_same_weights(first, replay)


def test_without_a_seed_every_fit_differs_and_says_which_seed_it_drew():
    first, second = (tiny(random_state=None).fit(numbers()) for _ in range(2))
    assert_same_weights(first, second, same=False)
    assert_same_weights(first, tiny(random_state=first.facts_["seed"]).fit(numbers()))


def test_the_callers_random_numbers_are_left_alone():
    torch.manual_seed(1)
    np.random.seed(1)
    expected = torch.rand(2).tolist(), np.random.rand(2).tolist()
    torch.manual_seed(1)
    np.random.seed(1)
    model = tiny(VQVAE, random_state=0).fit(numbers())
    model.sample(3, prior="plain", random_state=0)
    model.score(numbers())
    assert (torch.rand(2).tolist(), np.random.rand(2).tolist()) == expected


def test_a_second_fit_forgets_the_first():
    model = tiny().fit(digits()[0][:20])
    model.fit(numbers())
    assert_same_weights(model, tiny().fit(numbers()))
    assert (model.score_samples(numbers()) == tiny().fit(numbers()).score_samples(numbers())).all()


# Defaults that depend on the architecture


@pytest.mark.parametrize(
    ("cls", "own"),
    [
        (VAE, {"latent_dim": 10}),
        pytest.param(BetaVAE, {"latent_dim": 10, "beta": 1.5}, marks=pytest.mark.slow),
        (CVAE, {"latent_dim": 10}),
        (VQVAE, {"n_codes": 10, "code_dim": 2, "ema": 0, "codebook_init": "uniform", "revive": 0}),
    ],
    ids=["vae", "bvae", "cvae", "vqvae"],
)
def test_wang2023_is_the_report(cls, own):
    x, y = digits()
    x = np.pad(x[:4].repeat(3, axis=1).repeat(3, axis=2), ((0, 0), (2, 2), (2, 2), (0, 0)))
    model = cls(architecture="wang2023", random_state=0, device="cpu").fit(x, y[:4])
    chosen = {
        "likelihood": "gaussian_fixed",
        "likelihood_variance": 0.098,
        "epochs": 50,
        "batch_size": 100,
        "learning_rate": 0.005,
        "schedule": "constant",
        "warmup_steps": 0,
        **own,
    }
    filled = model.filled_in()
    assert {name: getattr(filled, name) for name in chosen} == chosen
    plan = model.facts_["plan"]
    assert (plan["steps"], plan["betas"], plan["gradient_clip"]) == (50, (0.9, 0.999), None)
    assert model.history_[0]["learning_rate"] == model.history_[-1]["learning_rate"] == 0.005
    assert model.model_.likelihood.variance.item() == pytest.approx(0.098)
    assert model.sample(2, random_state=0, prior="plain").shape == (2, 28, 28, 1)


@every_class
def test_wang2023_refuses_what_the_report_has_not(cls):
    x, y = digits()
    with pytest.raises(
        ValueError, match=r"28x28x1 images and one output per pixel, got 8x8x1.*use architecture='conv'"
    ):
        tiny(cls, architecture="wang2023").fit(x[:20], y[:20])
    with pytest.raises(ValueError, match=r"28x28x1.*got 28x28x3"):
        tiny(cls, architecture="wang2023").fit(np.zeros((20, 28, 28, 3), np.uint8), y[:20])
    with pytest.raises(ValueError, match="'wang2023' is for images; tables need 'mlp'"):
        tiny(cls, architecture="wang2023").fit(numbers(20), y[:20])
    with pytest.raises(ValueError, match="28x28x1 images and 2 outputs"):
        tiny(cls, architecture="wang2023", likelihood="discretized_logistic").fit(
            np.zeros((20, 28, 28), np.uint8), y[:20]
        )


def test_more_codes_than_training_vectors_are_lowered_with_a_warning():
    with pytest.warns(UserWarning, match="n_codes lowered from 256 to 40: there are no more training vectors"):
        model = tiny(VQVAE, n_codes=None).fit(numbers(5))
    assert model.n_codes is None
    assert model.filled_in().n_codes == model.model_.latent.n_codes == model.resolved_["n_codes"] == 40
    assert model.encode(numbers(5)).shape == (5, 1, 8)
    assert model.encode(numbers(5)).max() < 40
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny(VQVAE, n_codes=40).fit(numbers(5))


# Likelihoods


def test_bernoulli_warns_on_grey_images_and_not_on_binary_ones():
    x = digits()[0][:30]
    with pytest.warns(UserWarning, match="'bernoulli' is a probability for black-and-white pixels only"):
        tiny(likelihood="bernoulli", architecture="mlp").fit(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for binary in (x > 127, (x > 127).astype(np.float32), (x > 127).astype(np.uint8) * np.uint8(255)):
            model = tiny(likelihood="bernoulli", architecture="mlp").fit(binary)
            assert model.score(binary) < 0, "a log probability"


def test_the_discretised_logistic_has_bits_per_dimension():
    x, y = digits()
    model = tiny(likelihood="discretized_logistic", architecture="mlp", epochs=6, latent_dim=8).fit(x[:500])
    found = evaluate(model.model_, model.fitted_.data(images_of(x[TRAIN:], y[TRAIN:])))
    assert found["likelihood"] == "discretised logistic"
    assert found["bits_per_dim"] == pytest.approx(-found["elbo"] / 64 / math.log(2))
    assert 0 < found["bits_per_dim"] < 8, "better than 8 bits for each 8-bit pixel"


# The evaluation's numbers


def images_of(x: np.ndarray, y: np.ndarray | None) -> Images:
    if y is None:
        return Images(x, None, (), "digits")
    classes, index = np.unique(y, return_inverse=True)
    return Images(x, index, tuple(classes.tolist()), "digits")


def held_out_data(model, n: int = TEST):
    return model.fitted_.data(images_of(*held_out(n)))


def noise_errors(model, data, draws: int) -> tuple[float, float]:
    """Standard errors that `draws` posterior draws leave on a mean ELBO over images: noise for each image, and one for all."""

    def spread(draw_all) -> np.ndarray:  # (60, N) ELBOs
        with torch.no_grad(), seeded(7), draw_all:
            passes = [
                torch.stack(distortion_and_rate(model.model_(*data.batch(slice(None))))).sum(0) for _ in range(60)
            ]
        return torch.stack(passes).double().numpy()

    own = spread(independent_noise(model.model_)).var(0, ddof=1).sum() / draws
    shared = spread(contextlib.nullcontext()).mean(1).var(ddof=1) / draws
    return float(own**0.5 / len(data)), float(shared**0.5)


@pytest.mark.parametrize("name", quick(MODELS, "vae", "vqvae"))
def test_evaluation_agrees_with_the_estimators_methods(name):
    model, (x, y) = fitted(name), held_out()
    found = evaluate(model.model_, held_out_data(model), draws=32, seed=2023)
    given = y if name == "cvae" else None
    assert found["images"] == TEST
    assert found["elbo"] == pytest.approx(-(found["distortion"] + found["rate"]), rel=1e-6)
    # `evaluate` has noise for each image, `score_samples` the same for all: with many draws they meet.
    scores = model.score_samples(x, given, n_draws=100)
    error = np.hypot(
        noise_errors(model, held_out_data(model), 32)[0], noise_errors(model, held_out_data(model), 100)[1]
    )
    assert abs(found["elbo"] - scores.mean()) < 4 * error + 1e-5 * abs(found["elbo"])
    assert found["elbo_se"] == pytest.approx(scores.std() / TEST**0.5, rel=0.1)
    floats = model.model_.reconstruct(*held_out_data(model).batch(slice(None))).detach().numpy()[:, 0]
    assert found["mse"] == pytest.approx(np.square(floats - x[..., 0] / 255).mean(), rel=1e-4)
    assert np.array_equal(np.rint(floats * 255), model.reconstruct(x, given)[..., 0])
    assert found["likelihood"] == "Gaussian, sigma learned"
    assert "bits_per_dim" not in found
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(
    ("model", "floats"),  # that the widest layer hands on
    [
        (VAE(architecture="mlp"), 28 * 28),
        (CVAE(architecture="wang2023"), 128 * 4 * 4),
        (VQVAE(architecture="wang2023"), 64 * 14 * 14),
        (VAE(architecture="resnet"), 128 * 4 * 4),
    ],
    ids=["mlp", "cvae", "vqvae", "resnet"],
)
def test_networks_are_given_as_many_images_at_once_as_caches_hold(model, floats):
    images = np.random.default_rng(0).integers(0, 256, (300, 28, 28), dtype=np.uint8)
    labels = np.arange(300) % 2 if isinstance(model, CVAE) else None
    model = clone(model).set_params(epochs=1, random_state=0)
    model.fit(images[:20], None if labels is None else labels[:20])
    random_numbers = torch.random.get_rng_state()
    label = None if labels is None else torch.zeros(1, dtype=torch.int64)
    assert samples_at_once(model.model_, torch.zeros(1, 1, 28, 28), label) == min(1000, 6 * 2**20 // (4 * floats))
    assert torch.equal(torch.random.get_rng_state(), random_numbers)
    pieces = [slice(0, 1), slice(1, 290), slice(290, 300)]
    parts = [model.reconstruct(images[piece], None if labels is None else labels[piece]) for piece in pieces]
    assert np.abs(np.concatenate(parts).astype(int) - model.reconstruct(images, labels)).max() <= 1


@every_model
def test_evaluation_does_not_depend_on_how_the_data_is_cut(name, monkeypatch):
    model = fitted(name)
    whole = evaluate(model.model_, held_out_data(model, 100))
    monkeypatch.setattr(Data, "at_once", lambda self, module: 7)
    pieces = evaluate(model.model_, held_out_data(model, 100))
    error = 2**0.5 * noise_errors(model, held_out_data(model, 100), whole["draws"])[0]
    assert pieces.keys() == whole.keys()
    for key, value in whole.items():
        if isinstance(value, str):
            assert pieces[key] == value
        elif key in ("distortion", "elbo", "elbo_se") and name != "vqvae":  # other noise
            assert pieces[key] == pytest.approx(value, abs=4 * error), key
        else:
            assert pieces[key] == pytest.approx(value, rel=1e-4, abs=1e-5), key


@pytest.mark.parametrize(("name", "width"), [("vae", 10), ("bvae", 10), ("cvae", 8)])
def test_evaluation_of_gaussian_latents(name, width):
    model, (x, y) = fitted(name), held_out()
    found = evaluate(model.model_, held_out_data(model))
    assert len(found["kl_per_latent"]) == width
    assert min(found["kl_per_latent"]) >= 0
    assert sum(found["kl_per_latent"]) == pytest.approx(found["rate"], rel=1e-4)
    variances = model.transform(x, y).var(0, ddof=1)
    assert found["active_units"] == (variances > 0.01).sum()
    assert 0 < found["active_units"] <= width


def test_evaluation_counts_codes_over_the_whole_set():
    model, (x, _) = fitted("vqvae"), held_out()
    found = evaluate(model.model_, held_out_data(model))
    counts = np.bincount(model.encode(x).ravel(), minlength=32)
    shares = counts[counts > 0] / counts.sum()
    assert found["n_codes"] == 32
    assert found["codes_used"] == (counts > 0).sum()
    assert found["perplexity"] == pytest.approx(math.exp(-(shares * np.log(shares)).sum()), rel=1e-5)
    assert found["rate"] == pytest.approx(model.encode(x)[0].size * math.log(32), rel=1e-5)
    assert "active_units" not in found


@every_model
def test_the_parameter_count_is_that_of_encoder_latent_and_decoder(name):
    model = fitted(name)
    module = model.model_
    expected = sum(p.numel() for part in (module.encoder, module.decoder) for p in part.parameters())
    assert model.n_parameters_ == expected + (32 * 4 if name == "vqvae" else 0)


# Save and load


@every_model
def test_a_saved_model_comes_back_the_same(name, tmp_path, monkeypatch):
    model, (x, y) = fitted(name), held_out(30)
    model.save(tmp_path / "run")
    assert {file.suffix for file in (tmp_path / "run").iterdir() if file.name != MARK} == {
        ".json",
        ".jsonl",
        ".safetensors",
    }
    with monkeypatch.context() as patch:
        refuse_pickle(patch)
        again = load(tmp_path / "run")
    assert type(again) is type(model)
    assert again.get_params() == model.get_params()
    assert_same_weights(again, model)
    assert (again.transform(x, y) == model.transform(x, y)).all()
    assert (again.transform(x) == model.transform(x)).all()
    assert (again.reconstruct(x) == model.reconstruct(x)).all()
    assert (again.sample(5, random_state=1, prior="plain") == model.sample(5, random_state=1, prior="plain")).all()
    assert (again.score_samples(x) == model.score_samples(x)).all()
    assert again.history_ == model.history_
    assert again.n_parameters_ == model.n_parameters_
    assert again.resolved_ == model.resolved_
    if name == "cvae":
        assert again.classes_.tolist() == model.classes_.tolist()
        assert (again.predict_proba(x) == model.predict_proba(x)).all()
    with pytest.raises(ValueError, match="already holds a run"):
        model.save(tmp_path / "run")
    again.save(tmp_path / "copy")
    assert (load(tmp_path / "copy").score_samples(x) == model.score_samples(x)).all()


def refuse_pickle(patch) -> None:
    def refuse(*_, **__):
        raise AssertionError("loading must not unpickle")

    for name in ("load", "loads", "Unpickler"):
        patch.setattr(pickle, name, refuse)
    patch.setattr(torch, "load", refuse)


@every_class
def test_a_saved_model_of_a_table_keeps_its_units(cls, tmp_path):
    x, y = numbers(), labels_for(numbers())
    model = tiny(cls).fit(x, y)
    model.save(tmp_path / "run")
    again = load(tmp_path / "run", device="cpu")
    assert (again.reconstruct(x, y) == model.reconstruct(x, y)).all()
    assert (again.score_samples(x, y) == model.score_samples(x, y)).all()
    assert (again.sample(3, random_state=0, prior="plain") == model.sample(3, random_state=0, prior="plain")).all()
    assert again.n_features_in_ == 3
    if cls is CVAE:
        assert again.predict(x).dtype == model.predict(x).dtype
        assert (again.predict(x) == model.predict(x)).all()


@pytest.mark.parametrize(
    "fields",
    [{"random_state": np.random.RandomState(0)}, {"random_state": np.int64(3)}, {"latent_dim": np.int64(3)}],
    ids=["RandomState", "numpy seed", "numpy width"],
)
def test_fields_that_json_does_not_know_are_saved_too(fields, tmp_path):
    model = tiny(**fields).fit(numbers())
    model.save(tmp_path / "run")
    again = load(tmp_path / "run")
    assert (again.transform(numbers()) == model.transform(numbers())).all()
    assert again.facts_["seed"] == model.facts_["seed"]


def test_an_unfitted_model_has_nothing_to_save(tmp_path):
    with pytest.raises(NotFittedError):
        tiny().save(tmp_path / "run")
    assert not (tmp_path / "run").exists()


# What is refused, and in which words


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.full((5, 3), np.nan), r"X holds NaN or infinity \(first in sample 0\)"),
        (np.full((5, 8, 8), np.inf), "X holds NaN or infinity"),
        (np.full((5, 8, 8), 3.5), r"float pixels from 3\.5 to 3\.5; floats must be in \[0, 1\]; divide by 255"),
        (np.full((5, 8, 8), -1), "integer pixels from -1 to -1; 8-bit images are 0 to 255"),
        (np.zeros((5, 3, 8, 8), np.uint8), "8 channels"),
        (np.zeros(5), "got 1 axes"),
        (np.zeros((0, 8, 8), np.uint8), r"0 sample\(s\)"),
        (np.zeros((5, 4, 4), np.uint8), "at least 8x8, got 4x4; use architecture='mlp'"),
    ],
    ids=["nan", "inf", "range", "negative", "channels", "axes", "empty", "small"],
)
@every_class
def test_data_that_does_not_fit_is_refused(cls, X, message):
    with pytest.raises(ValueError, match=message):
        tiny(cls).fit(X, labels_for(X))


def test_inputs_of_another_shape_are_refused_after_fit():
    model, table = fitted("vae"), tiny().fit(numbers())
    for method in ("transform", "encode", "reconstruct", "score_samples", "score"):
        with pytest.raises(
            ValueError, match=re.escape("images of shape (8, 9, 1), but the model was fitted on (8, 8, 1)")
        ):
            getattr(model, method)(np.zeros((3, 8, 9)))
        with pytest.raises(ValueError, match="X has 2 features, but VAE is expecting 3 features"):
            getattr(table, method)(np.zeros((3, 2)))
        with pytest.raises(ValueError, match="NaN"):
            getattr(table, method)(np.full((3, 3), np.nan))


METHODS = ("transform", "reconstruct", "encode", "score_samples", "score", "predict", "predict_proba", "decode")
UNFITTED = [(cls, method) for cls in (VAE, BetaVAE, CVAE, VQVAE) for method in METHODS if hasattr(cls, method)]


@pytest.mark.parametrize(("cls", "method"), UNFITTED, ids=[f"{cls.__name__}-{method}" for cls, method in UNFITTED])
def test_an_unfitted_model_says_so(cls, method):
    x = np.zeros((2, 1, 8), int) if method == "decode" and cls is VQVAE else np.zeros((2, 2))
    with pytest.raises(NotFittedError, match=f"this {cls.__name__} is not fitted yet: call fit first"):
        getattr(cls(latent_dim=2), method)(x)


@every_class
def test_an_unfitted_model_has_no_samples(cls):
    with pytest.raises(NotFittedError, match=f"this {cls.__name__} is not fitted yet"):
        cls().sample(3)


MISTAKES = [
    (VAE, "epochs", 0),
    (VAE, "epochs", -1),
    (VAE, "epochs", 2.5),
    (VAE, "epochs", True),
    (VAE, "batch_size", 0),
    (VAE, "learning_rate", 0),
    (VAE, "learning_rate", -0.1),
    (VAE, "learning_rate", float("nan")),
    (VAE, "learning_rate", "fast"),
    (VAE, "latent_dim", 0),
    (VAE, "latent_dim", 1.5),
    (VAE, "gradient_clip", 0),
    (VAE, "likelihood_variance", 0.0),
    (VAE, "schedule", "triangle"),
    (VAE, "likelihood", "laplace"),
    (VAE, "architecture", "cnn"),
    (VAE, "precision", "float16"),
    (VAE, "device", "abacus"),
    (VAE, "random_state", -1),
    (VAE, "random_state", "lucky"),
    (VAE, "validation_fraction", 0.0),
    (VAE, "validation_fraction", 1.0),
    (VAE, "warmup_steps", -1),
    (VAE, "rate_warmup_epochs", -1.0),
    (VAE, "n_iter_no_change", 0),
    (BetaVAE, "beta", -1.0),
    (BetaVAE, "beta", float("nan")),
    (BetaVAE, "epsilon", 0.0),
    (VQVAE, "n_codes", 1),
    (VQVAE, "code_dim", 0),
    (VQVAE, "ema", 1.0),
    (VQVAE, "codebook_init", "zeros"),
    (VQVAE, "commitment", -1.0),
    (VQVAE, "codebook_weight", -1.0),
    (VQVAE, "revive", -0.1),
]
WORDS = {"codebook_init": "codebook init", "likelihood_variance": "likelihood.variance"}


@pytest.mark.parametrize(("cls", "field", "value"), MISTAKES, ids=[f"{field}={value}" for _, field, value in MISTAKES])
def test_a_wrong_field_is_named_with_its_value(cls, field, value):
    with pytest.raises(ValueError, match=f"{WORDS.get(field, field)}.*{re.escape(str(value))}"):
        tiny(cls, **{field: value}).fit(digits()[0][:20])


def test_fields_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match="give beta or epsilon, not both"):
        tiny(BetaVAE, beta=2.0, epsilon=3.0).fit(numbers())
    with pytest.raises(ValueError, match="'conv' is for images; tables need 'mlp'"):
        tiny(architecture="conv").fit(numbers())
    with pytest.raises(ValueError, match="'bernoulli' is for images; tables need 'gaussian'"):
        tiny(likelihood="bernoulli").fit(numbers())
    with pytest.raises(ValueError, match="holds out 1 of 1 images: too few are left"):
        tiny(early_stopping=True).fit(numbers(1))


def test_the_noise_of_an_evaluation_shrinks_with_the_number_of_images():
    """Each image has noise of its own: ELBOs under other seeds differ by far less than with one noise for all."""
    model, data = fitted("vae"), held_out_data(fitted("vae"))
    elbos = [evaluate(model.model_, data, draws=1, seed=seed)["elbo"] for seed in range(12)]
    x, _ = held_out()
    shared = model.score_samples(x, n_draws=1).std() / TEST**0.5
    assert 0 < np.std(elbos) < shared
    assert not any(getattr(part, "independent", False) for part in model.model_.modules())


@pytest.mark.parametrize("architecture", ["conv", "resnet", "mlp"])
@pytest.mark.parametrize("likelihood", ["gaussian", "gaussian_fixed", "bernoulli", "discretized_logistic"])
def test_a_decoder_starts_at_the_average_of_each_channel(architecture, likelihood):
    """A decoder that starts at grey can be driven to black at once, and a saturated sigmoid then keeps it there."""
    x = np.random.default_rng(0).uniform(0, 1, (64, 9, 10, 3)).astype(np.float32) * np.float32([0.1, 0.4, 0.9])
    images = torch.from_numpy(x).permute(0, 3, 1, 2)
    model = VAE(architecture=architecture, likelihood=likelihood, random_state=0).build((3, 9, 10))
    with torch.no_grad():
        model.prime(images)
        started = model.sample(64).mean((0, 2, 3))
    assert started.tolist() == pytest.approx(images.mean((0, 2, 3)).tolist(), abs=0.03)
