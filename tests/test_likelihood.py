"""Objectives of several draws and the likelihood measures, against closed forms."""

import itertools
import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.distributions import MultivariateNormal

from vaekit import IWAE, VAE, VQVAE, BetaTCVAE
from vaekit.data.batches import Data
from vaekit.evaluation.likelihood import aggregate_kl_at_least, evaluate, importance_nll
from vaekit.models import Autoencoder, BetaTc, Elbo, Iwae
from vaekit.models.objectives import _stratified
from vaekit.parts import GaussianLatent, GaussianLikelihood, StandardNormalPrior
from vaekit.tensors import total

D, WIDTH, NOISE = 3, 6, 0.3


class Linear(nn.Module):
    """x (B, 1, 1, WIDTH) -> moments, or z -> means, by one matrix; labels are not looked at."""

    def __init__(self, matrix, bias, log_var=None, shape=None):
        super().__init__()
        self.matrix, self.bias, self.log_var, self.shape = matrix, bias, log_var, shape

    def forward(self, h, y=None):
        out = h.flatten(1) @ self.matrix.T + self.bias
        if self.log_var is not None:
            return torch.cat([out, self.log_var.expand_as(out)], dim=1)
        return out.view(-1, *self.shape)


@pytest.fixture(scope="module")
def linear_gaussian():
    """x = W z + b + noise, z ~ N(0, I), with a q(z|x) that is near the true posterior and not it; and log p(x) exactly."""
    g = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(WIDTH, D, generator=g), torch.randn(WIDTH, generator=g)
    precision = torch.eye(D) + weight.T @ weight / NOISE
    gain = torch.linalg.solve(precision, weight.T) / NOISE  # posterior mean is gain (x - b)
    log_var = precision.inverse().diag().log() + 0.3
    model = Autoencoder(
        encoder=Linear(0.9 * gain, -0.9 * gain @ bias, log_var=log_var),
        latent=GaussianLatent(latent_dim=D),
        decoder=Linear(weight, bias, shape=(1, 1, WIDTH)),
        prior=StandardNormalPrior(latent_dim=D),
        likelihood=GaussianLikelihood(variance=NOISE, bounded=False),
        images=False,
    )
    x = torch.randn(400, D, generator=g) @ weight.T + bias + NOISE**0.5 * torch.randn(400, WIDTH, generator=g)
    exact = MultivariateNormal(bias, weight @ weight.T + NOISE * torch.eye(WIDTH)).log_prob(x)
    return model, Data(x[:, None, :, None]), exact


def nats(model, x, samples, objective, seed=0):
    torch.manual_seed(seed)
    return objective(model.train()(x, None, samples), 0)


# Importance-weighted likelihood


def test_importance_weighted_nll_is_the_exact_likelihood_of_a_linear_gaussian_model(linear_gaussian):
    model, data, exact = linear_gaussian
    runs = [importance_nll(model, data, k=2000, seed=seed)["nll"] for seed in range(4)]
    error = np.std(runs, ddof=1) / 2 + 1e-3
    assert abs(np.mean(runs) + exact.mean().item()) < 4 * error
    assert error < 0.02


def test_the_estimate_falls_with_k_from_the_negative_elbo(linear_gaussian):
    model, data, exact = linear_gaussian
    found = importance_nll(model, data, k=100)
    ks, values = zip(*found["nll_by_k"], strict=True)
    assert ks == (1, 2, 5, 10, 20, 50, 100)
    assert all(later < earlier for earlier, later in itertools.pairwise(values))
    measured = evaluate(model, data, draws=64)
    assert abs(values[0] + measured["elbo"]) < 5 * measured["elbo_se"]
    assert values[0] - values[-1] > 0.2  # q is not the posterior, so that there is something to gain
    assert values[-1] > -exact.mean().item() - 4 * found["nll_se"]
    assert found["nll"] == values[-1] and found["nll_images"] == 400 and found["nll_k"] == 100


def test_parts_of_the_draws_change_nothing_but_the_noise(linear_gaussian, monkeypatch):
    model, data, _ = linear_gaussian
    whole = importance_nll(model, data, k=500, seed=1)["nll"]
    monkeypatch.setattr("vaekit.evaluation.likelihood.ROWS", 1400)
    first, again = (importance_nll(model, data, k=500, seed=1) for _ in range(2))
    assert first["nll"] == pytest.approx(whole, abs=0.02) and first["nll"] != whole
    assert first == again


def test_a_quantizer_has_no_importance_weighted_nll(digits):
    model = VQVAE(epochs=1, n_codes=8, random_state=0).fit(digits[0][:100])
    with pytest.raises(ValueError, match="one code for certain"):
        importance_nll(model.model_, Data(torch.from_numpy(digits[0][:10])))
    vae = VAE(epochs=1, random_state=0).fit(digits[0][:100])
    with pytest.raises(ValueError, match="k must be >= 1"):
        importance_nll(vae.model_, Data(torch.from_numpy(digits[0][:10])), k=0)


# The aggregate posterior


def test_the_aggregate_posterior_of_the_prior_itself_is_at_no_distance():
    mean = torch.randn(200_000, 4, generator=torch.Generator().manual_seed(0)) * 0.8
    assert aggregate_kl_at_least(mean, torch.full_like(mean, 0.36)) == pytest.approx(0, abs=1e-3)


@given(shift=st.floats(-2, 2), scale=st.floats(0.3, 2))
@settings(max_examples=20, deadline=None)
def test_its_distance_is_that_of_gaussians_and_a_lower_bound_of_the_rate(shift, scale):
    mean = shift + scale * torch.randn(4000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    variance = torch.full_like(mean, 0.1)
    found = aggregate_kl_at_least(mean, variance)
    covariance = torch.cov(mean.T, correction=0) + 0.1 * torch.eye(2)
    q = MultivariateNormal(mean.mean(0), covariance)
    p = MultivariateNormal(torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64))
    assert found == pytest.approx(torch.distributions.kl_divergence(q, p).item(), abs=1e-6)
    rate = 0.5 * (mean**2 + variance - 1 - variance.log()).sum(1).mean().item()
    assert found <= rate + 1e-9


def test_collapse_is_said_in_words(linear_gaussian, digits):
    model, data, _ = linear_gaussian
    assert evaluate(model, data)["collapse"] == "none: all 3 latents carry something of the image"
    vae = VAE(epochs=2, random_state=0, latent_dim=4).fit(digits[0][:200])
    with torch.no_grad():
        last = [part for part in vae.model_.encoder.modules() if isinstance(part, nn.Linear)][-1]
        last.weight.zero_()
    found = evaluate(vae.model_, Data(torch.from_numpy(digits[0][:200])))
    assert found["active_units"] == 0 and found["collapse"].startswith("complete")


# Objectives


def test_iwae_of_one_draw_is_the_elbo(linear_gaussian):
    model, data, _ = linear_gaussian
    x, _ = data.batch(slice(None))
    one = nats(model, x, 1, Iwae())
    assert one["tightening"].value.abs().max() == 0
    torch.testing.assert_close(total(one), total(nats(model, x, 1, Elbo())))
    # The closed form of the rate is what sampling gives on average.
    elbo = total(Elbo()(model(x, None, 500), 0))
    torch.testing.assert_close(total(nats(model, x, 500, Iwae())) - elbo, torch.tensor(0.0), atol=3, rtol=0)


def test_iwae_terms_sum_to_its_bound_and_it_is_tighter_with_more_draws(linear_gaussian):
    model, data, exact = linear_gaussian
    x, _ = data.batch(slice(None))
    torch.manual_seed(0)
    trace = model(x, None, 7)
    weights = -(trace.nll + trace.rates["z"])
    expected = -(weights.logsumexp(0) - math.log(7)).mean()
    torch.testing.assert_close(total(Iwae()(trace, 0)), expected)
    bounds = [np.mean([total(nats(model, x, k, Iwae(), seed)).item() for seed in range(20)]) for k in (1, 3, 10, 50)]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[-1] > -exact.mean().item() - 0.05
    assert (Iwae()(trace, 0)["tightening"].value <= 1e-5).all()


def test_an_iwae_begins_with_the_elbo_of_one_draw_and_ends_with_its_bound(digits):
    x = digits[0][:200]
    common = {"architecture": "mlp", "width": 16, "latent_dim": 2, "epochs": 8, "batch_size": 50, "random_state": 0}
    tightening = {}
    for epochs in (None, 0.0, 2.5, 8.0):
        too_many = pytest.warns(UserWarning, match="ends at epoch 8 and elbo_epochs is 8")
        with too_many if epochs == 8.0 else nullcontext():
            iwae = IWAE(**common, elbo_epochs=epochs).fit(x)
        tightening[epochs] = [record["tightening"] for record in iwae.history_]
        assert iwae.resolved_.get("elbo_epochs", epochs) == (4.0 if epochs is None else epochs)
    assert [value < 0 for value in tightening[None]] == 4 * [False] + 4 * [True]
    assert [value < 0 for value in tightening[2.5]] == 2 * [False] + 6 * [True]
    assert max(tightening[0.0]) < 0 and tightening[8.0] == 8 * [0.0]
    early = IWAE(**common, early_stopping=True, n_iter_no_change=1).fit(x)
    assert early.facts_["plan"]["patience_from"] == 4 * 3 and len(early.history_) > 4, "not before its bound"
    assert [Iwae(elbo_steps=2).draws(step) for step in range(4)] == [1, 1, None, None]
    with pytest.raises(ValueError, match="elbo_epochs"):
        IWAE(**common, elbo_epochs=-1.0).fit(x)
    with pytest.raises(ValueError, match="elbo_steps must be"):
        Iwae(elbo_steps=-1)


@given(batch=st.integers(1, 40), more=st.integers(0, 5000))
@settings(max_examples=50, deadline=None)
def test_stratified_shares_stand_for_the_whole_data_set(batch, more):
    shares = _stratified(batch + more, batch)
    torch.testing.assert_close(shares.sum(1), torch.ones(batch))
    assert (shares > 0).all()
    if batch > 1:
        torch.testing.assert_close(shares.diag(), torch.full((batch,), 1 / (batch + more)))


def test_betatc_of_weights_one_is_the_elbo_and_its_parts_are_the_rate(linear_gaussian):
    model, data, _ = linear_gaussian
    x, _ = data.batch(slice(0, 64))
    torch.manual_seed(0)
    trace = model.train()(x, None, 3)
    terms = BetaTc(n=1000, beta=1.0)(trace, 0)
    torch.testing.assert_close(total(terms), total(Elbo()(trace, 0)))
    parts = terms["mutual_information"].value + terms["total_correlation"].value + terms["dimension_kl"].value
    torch.testing.assert_close(parts, trace.rates["z"].mean(0), rtol=1e-4, atol=1e-4)
    heavier = BetaTc(n=1000, beta=4.0)(trace, 0)
    torch.testing.assert_close(total(heavier) - total(terms), 3 * terms["total_correlation"].value.mean())


@pytest.mark.slow
def test_total_correlation_of_the_whole_data_is_near_that_of_a_gaussian():
    """Codes of a correlated Gaussian: its total correlation is known, -1/2 log det of the correlations."""
    n, rho = 4000, 0.8
    g = torch.Generator().manual_seed(0)
    covariance = torch.tensor([[1.0, rho], [rho, 1.0]])
    mean = torch.randn(n, 2, generator=g) @ torch.linalg.cholesky(covariance).T * 0.9
    identity = Linear(torch.eye(2), torch.zeros(2), log_var=torch.full((2,), math.log(0.19)))
    model = Autoencoder(
        encoder=identity,
        latent=GaussianLatent(latent_dim=2),
        decoder=Linear(torch.eye(2), torch.zeros(2), shape=(1, 1, 2)),
        prior=StandardNormalPrior(latent_dim=2),
        likelihood=GaussianLikelihood(variance=1.0, bounded=False),
        images=False,
    )
    torch.manual_seed(1)
    terms = BetaTc(n=n)(model.train()(mean[:, None, None], None, 1), 0)
    total_covariance = 0.81 * covariance + 0.19 * torch.eye(2)
    expected = 0.5 * (total_covariance.diag().log().sum() - torch.logdet(total_covariance))
    assert terms["total_correlation"].value.mean().item() == pytest.approx(expected.item(), abs=0.05)


def test_weights_out_of_range_are_refused(digits):
    with pytest.raises(ValueError, match="beta must be a number >= 0"):
        BetaTc(n=10, beta=-1.0)
    with pytest.raises(ValueError, match="n must be >= 1"):
        BetaTc(n=0)
    with pytest.raises(ValueError, match="k must be"):
        IWAE(k=0).fit(digits[0][:20])
    with pytest.raises(ValueError, match="no rate_warmup_epochs"):
        IWAE(rate_warmup_epochs=1.0).fit(digits[0][:20])
    with pytest.raises(ValueError, match="gamma must be"):
        BetaTCVAE(gamma=-1.0).fit(digits[0][:20])


@pytest.mark.slow
def test_iwae_learns_a_tighter_likelihood_and_betatc_less_total_correlation(digits):
    """Trained on black-and-white digits: IWAE's NLL is below the VAE's, beta-TCVAE's total correlation too."""
    x = (digits[0] > 100).astype(np.uint8) * 255
    train, test = x[:1400], x[1400:]
    common = {"architecture": "mlp", "likelihood": "bernoulli", "epochs": 20, "random_state": 0, "latent_dim": 8}
    common |= {"width": 128, "learning_rate": 0.004}
    vae, iwae, tc = (model(**common).fit(train) for model in (VAE, IWAE, BetaTCVAE))
    held = Data(torch.from_numpy(test))
    scores = {model: importance_nll(model.model_, held, k=200)["nll"] for model in (vae, iwae)}
    mean_image = train.mean(0, keepdims=True) / 255
    p = np.clip(mean_image, 0.01, 0.99)
    baseline = -(test / 255 * np.log(p) + (1 - test / 255) * np.log(1 - p)).sum((1, 2, 3)).mean()
    assert scores[iwae] < scores[vae] < baseline - 5
    trained = Data(torch.from_numpy(train))
    correlation = {}
    for model in (vae, tc):
        torch.manual_seed(0)
        trace = model.model_.train()(*trained.batch(slice(0, 1400)), 1)
        correlation[model] = BetaTc(n=1400)(trace, 0)["total_correlation"].value.mean().item()
    assert correlation[tc] < 0.5 * correlation[vae]
