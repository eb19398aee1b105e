"""Scores of anomalies: what each of them sees, closed forms, scikit-learn's face, and what is refused."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import roc_auc_score
from torch.distributions import MultivariateNormal

from vaekit import CVAE, VAE, VQVAE, AnomalyDetector
from vaekit.data.arrays import given_images
from vaekit.evaluation.anomalies import SCORES, AnomalyScore
from vaekit.evaluation.likelihood import importance_nll


@pytest.fixture(scope="module")
def plane():
    """Rows near a plane in five dimensions, in two clusters, a VAE of them, and two kinds of strange rows: between clusters,
    and beside the plane.
    """
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(5, 5)))[0]

    def rows(z, beside=0.0):
        return z @ basis[:2] * 3 + beside * basis[2] + 0.05 * rng.normal(size=(len(z), 5))

    centres = np.array([[-1.0, 0], [1, 0]])[rng.integers(0, 2, 600)]
    normal = rows(centres + 0.1 * rng.normal(size=(600, 2)))
    between = rows(np.column_stack([np.zeros(40), 0.1 * rng.normal(size=40)]))
    beside = rows(np.array([[-1.0, 0], [1, 0]])[rng.integers(0, 2, 40)], beside=1.5)
    return VAE(latent_dim=2, epochs=60, random_state=0).fit(normal[:500]), normal, between, beside


def area(scores, normal, strange):
    return roc_auc_score(np.r_[np.zeros(len(normal)), np.ones(len(strange))], -np.r_[scores(normal), scores(strange)])


def test_latents_see_what_is_between_clusters_reconstruction_what_is_beside_the_plane_and_combined_both(plane):
    model, normal, between, beside = plane
    areas = {}
    for name in ("latent", "reconstruction", "combined"):
        detector = AnomalyDetector(model, score=name, random_state=0).fit(normal[:500])
        areas[name] = [area(detector.score_samples, normal[500:], strange) for strange in (between, beside)]
    assert areas["latent"][0] > 0.95 and areas["reconstruction"][1] > 0.95
    assert areas["reconstruction"][0] < 0.9
    assert min(areas["combined"]) > 0.93


def test_a_mixture_of_one_is_the_normal_density(plane):
    model, normal, *_ = plane
    some = normal[:17]  # enough for one component alone
    score = AnomalyScore(model.fitted_, "latent")
    score.fit(model.fitted_, some)
    z = model.transform(some).astype(np.float64)
    covariance = np.cov(z.T, bias=True) + 0.01 * np.eye(2)
    density = MultivariateNormal(torch.from_numpy(z.mean(0)), torch.from_numpy(covariance))
    expected = density.log_prob(torch.from_numpy(model.transform(normal).astype(np.float64)))
    np.testing.assert_allclose(score(model.fitted_, normal), expected, rtol=1e-5)


def test_combined_is_the_density_of_latents_and_error_and_that_of_the_row_itself(plane):
    model, normal, *_ = plane
    fitted, some = model.fitted_, normal[:17]
    score = AnomalyScore(fitted, "combined")
    score.fit(fitted, some)
    errors = [np.log(fitted.squared_errors(x) + 1e-8) for x in (some, normal)]
    errors = [(error - errors[0].mean()) / errors[0].std() for error in errors]
    latents = [np.column_stack([model.transform(x), error]) for x, error in zip((some, normal), errors, strict=True)]
    rows = [(x - normal[:500].mean(0)) / normal[:500].std(0) for x in (some, normal)]  # as the model is given them
    assert np.allclose(fitted.inputs(normal), rows[1], atol=1e-4)
    unit = np.sqrt(rows[0].var(axis=0, ddof=1).mean())  # of components, which are as many as columns
    expected = 0
    for own, new in (latents, [row / unit for row in rows]):
        covariance = np.cov(own.T, bias=True) + 0.01 * np.eye(own.shape[1])
        density = MultivariateNormal(torch.from_numpy(own.mean(0)), torch.from_numpy(covariance))
        expected = expected + density.log_prob(torch.from_numpy(np.asarray(new, float))).numpy()
    np.testing.assert_allclose(score(fitted, normal), expected, rtol=1e-3)


def test_mixtures_of_few_samples_are_averaged_as_densities(plane):
    model, normal, *_ = plane
    score = AnomalyScore(model.fitted_, "latent")
    score.fit(model.fitted_, normal[:300])
    z = torch.from_numpy(model.transform(normal[300:]).astype(np.float64))
    densities = []
    for mixture in score.mixtures[0]:
        of = MultivariateNormal(torch.from_numpy(mixture.means_), torch.from_numpy(mixture.covariances_))
        densities.append((of.log_prob(z[:, None]).exp() * torch.from_numpy(mixture.weights_)).sum(1))
    assert len(densities) == 5 and not torch.allclose(densities[0], densities[1], rtol=0.01)
    expected = torch.stack(densities).mean(0).log()
    np.testing.assert_allclose(score(model.fitted_, normal[300:]), expected, rtol=1e-5)


def test_scores_without_learning_are_those_of_the_model(plane):
    model, normal, *_ = plane
    x, fitted = normal[:50], model.fitted_
    scores = {name: AnomalyScore(fitted, name)(fitted, x) for name in ("elbo", "importance_weighted", "reconstruction")}
    assert np.array_equal(scores["elbo"], model.score_samples(x))
    assert (scores["importance_weighted"] >= model.score_samples(x, n_draws=50) - 1e-3).all()
    nll = importance_nll(model.model_, fitted.data(given_images(x, None)), k=50)
    assert scores["importance_weighted"].mean() == pytest.approx(-nll["nll"], abs=5 * nll["nll_se"] ** 0.5)


def test_errors_of_images_are_summed_over_pixels(digits):
    x, y = digits[0][:80], digits[1][:80]
    model = VAE(architecture="mlp", width=16, epochs=1, random_state=0).fit(x / np.float32(255))
    squares = np.square(model.reconstruct(x / np.float32(255)) - x / np.float32(255)).sum((1, 2, 3))
    np.testing.assert_allclose(model.fitted_.squared_errors(x / np.float32(255)), squares, rtol=1e-4)
    conditional = CVAE(architecture="mlp", width=16, epochs=1, random_state=0).fit(x, y)
    for name in SCORES:
        score = AnomalyScore(conditional.fitted_, name)
        assert score.fit(conditional.fitted_, x, y).shape == (80,)
        assert np.isfinite(score(conditional.fitted_, x)).all()


def test_scores_of_what_was_learned_from_are_by_mixtures_that_have_not_seen_it(plane):
    model, normal, *_ = plane
    score = AnomalyScore(model.fitted_, "combined")
    own = score.fit(model.fitted_, normal[:60])
    assert own.mean() < score(model.fitted_, normal[:60]).mean()
    again = pickle.loads(pickle.dumps(score))  # as workers get it
    assert np.array_equal(again(model.fitted_, normal), score(model.fitted_, normal))


def test_the_detector_is_one_of_scikit_learns(plane):
    model, normal, between, _ = plane
    detector = AnomalyDetector(model, contamination=0.05, random_state=0)
    assert vars(clone(detector))["contamination"] == 0.05
    with pytest.raises(NotFittedError, match="call fit first"):
        detector.predict(normal)
    before = {name: tensor.clone() for name, tensor in model.model_.state_dict().items()}
    predicted = detector.fit(normal[:500]).predict(normal[500:])
    assert detector.model_ is model and all(
        torch.equal(tensor, before[name]) for name, tensor in model.model_.state_dict().items()
    )
    assert set(predicted) <= {-1, 1} and (predicted == -1).mean() < 0.25
    assert (detector.predict(between) == -1).mean() > 0.8
    assert np.array_equal(detector.decision_function(between) < 0, detector.predict(between) == -1)
    unfitted = VAE(latent_dim=2, epochs=1, random_state=0)
    other = AnomalyDetector(unfitted, score="elbo").fit(normal)
    assert not hasattr(unfitted, "fitted_") and other.score_samples(normal).shape == (600,)


def test_what_has_no_meaning_is_refused(plane, digits):
    model, normal, *_ = plane
    with pytest.raises(ValueError, match=r"score must be one of combined, .*, got 'latents'.*did you mean 'latent'"):
        AnomalyDetector(model, score="latents").fit(normal)
    with pytest.raises(ValueError, match=r"contamination must be in \(0, 0.5\], got 0.7"):
        AnomalyDetector(model, contamination=0.7).fit(normal)
    with pytest.raises(ValueError, match="at least 3 normal samples, got 2"):
        AnomalyDetector(model).fit(normal[:2])
    assert AnomalyDetector(model).fit(normal[:3]).score_samples(normal).shape == (600,)
    codes = VQVAE(epochs=1, n_codes=4, code_dim=2, random_state=0).fit(digits[0][:64])
    assert AnomalyDetector(codes).fit(digits[0][:64]).score_.name == "elbo"
    for name in ("combined", "latent", "importance_weighted"):
        with pytest.raises(ValueError, match=f"score '{name}' is for Gaussian latents, and a VQVAE has codes"):
            AnomalyDetector(codes, score=name).fit(digits[0][:64])
