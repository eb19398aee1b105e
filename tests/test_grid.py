"""Latents of places, the sizes that follow the picture, and the flow matching that makes samples of them."""

import copy
import functools
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_images
from torch import nn
from torch.distributions import MultivariateNormal, Normal

from vaekit import CVAE, IWAE, VAE, VQVAE, AnomalyDetector, load
from vaekit.data import Images
from vaekit.data.format import Format
from vaekit.evaluation.likelihood import importance_nll
from vaekit.parts import GaussianLatent, MatchingPrior, make_networks
from vaekit.parts.matching import STEPS, VelocityField
from vaekit.parts.networks import Up, grid_of
from vaekit.report.doctor import latent_width
from vaekit.report.measure import measure_run
from vaekit.training.kinds import resolve_settings
from vaekit.training.settings import PriorSettings

QUICK = {"layers": 1, "channels": 8, "epochs": 2}


@functools.cache
def patches(n: int = 200, side: int = 32) -> np.ndarray:
    """(n, side, side, 3) uint8, cut out of scikit-learn's two photographs."""
    rng, photos = np.random.default_rng(0), load_sample_images().images
    places = rng.integers(0, [427 - side, 640 - side], size=(n, 2))
    return np.stack([photos[i % 2][a : a + side, b : b + side] for i, (a, b) in enumerate(places)])


@functools.cache
def fitted(grid: bool = True) -> VAE:
    """A model of a moment; shared."""
    model = VAE(grid=grid, epochs=4, batch_size=20, random_state=0, device="cpu")
    return model.fit(patches())


class OfNormals(nn.Module):
    """The exact field of z ~ N(0, variance I): E[z - e | x]."""

    def __init__(self, d: int, variance: float = 1.0):
        super().__init__()
        self.shape, self.variance = (d,), variance

    def forward(self, x, t, y=None):
        t = t[:, None]
        return x * (self.variance * t - (1 - t)) / (self.variance * t**2 + (1 - t) ** 2)


def test_the_bound_is_the_density_where_the_field_is_exact():
    """The bound is tight for the field of the true distribution but for what stands between the edges and 0 and 1."""
    torch.manual_seed(0)
    for variance in (1.0, 0.25):
        prior = MatchingPrior(shape=(5,), channels=8, layers=1).eval()
        prior.field, prior.independent = OfNormals(5, variance), True
        z = math.sqrt(variance) * torch.randn(4000, 5)
        exact = Normal(0.0, math.sqrt(variance)).log_prob(z).sum(1)
        found = prior.log_prob(z)
        assert found.mean().item() == pytest.approx(exact.mean().item(), abs=0.08)
        assert (found - exact).abs().mean() < 1.5, "of one estimate, nats"


def test_samples_follow_the_field():
    torch.manual_seed(0)
    prior = MatchingPrior(shape=(3,), channels=8, layers=1).eval()
    prior.field = OfNormals(3, 0.25)
    prior.location.copy_(torch.tensor([1.0, 2.0, 3.0]))
    prior.scale.fill_(2.0)
    z = prior.sample(20_000)
    torch.testing.assert_close(z.mean(0), torch.tensor([1.0, 2.0, 3.0]), atol=0.03, rtol=0)
    torch.testing.assert_close(z.std(0), torch.full((3,), 1.0), atol=0.03, rtol=0)
    assert prior.sample(2000, temperature=0.5).std(0).mean() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("shape", [(6,), (2, 3, 5)], ids=str)
def test_a_new_field_stands_still_in_its_blocks_and_knows_time_and_label(shape):
    torch.manual_seed(0)
    field = VelocityField(shape=shape, channels=8, layers=2, n_classes=3)
    x, t, y = torch.randn(4, *shape), torch.rand(4), torch.tensor([0, 1, 2, 0])
    assert field(x, t, y).shape == x.shape
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    for other in (field(x, t, (y + 1) % 3), field(x, t), field(x, 1 - t, y)):
        assert (other - field(x, t, y)).abs().amax(tuple(range(1, x.dim()))).min() > 1e-4
    torch.testing.assert_close(field(x, t), field(x, t, torch.full((4,), 3)))  # the label of no class


def test_the_average_follows_the_field_that_learns():
    from vaekit.training.rates import MatchingRate

    torch.manual_seed(0)
    rate = MatchingRate(MatchingPrior(shape=(4,), channels=8, layers=1))
    assert all(not parameter.requires_grad for parameter in rate.prior.parameters())
    with torch.no_grad():
        for parameter in rate.field.parameters():
            parameter.fill_(1.0)
    for _ in range(200):
        rate.settle()
    for parameter in rate.prior.parameters():
        torch.testing.assert_close(parameter, torch.ones_like(parameter), atol=1e-3, rtol=0)


def test_matching_learns_what_a_normal_prior_cannot():
    """Latents on a ring: the bound passes the density of the best Gaussian by nats, and samples lie on the ring."""
    from vaekit.training.loop import train
    from vaekit.training.plan import Plan
    from vaekit.training.rates import Codes, MatchingRate, matching_term

    torch.manual_seed(0)
    angle = 2 * math.pi * torch.rand(4000)
    z = torch.stack([angle.cos(), angle.sin()], dim=1) + 0.05 * torch.randn(4000, 2)
    rate = MatchingRate(MatchingPrior(shape=(2,), channels=16, layers=1))
    rate.prior.scale.copy_(z.std(0))
    data = Codes(torch.cat([z, torch.full_like(z, -20.0)], dim=1))
    train(rate, matching_term, data, Plan(steps=400, batch_size=128, learning_rate=0.003, warmup=50, seed=0))
    prior = rate.prior.eval()
    gaussian = MultivariateNormal(z.mean(0), z.T.cov()).log_prob(z).mean()
    prior.independent = True
    with torch.no_grad():
        assert prior.log_prob(z).mean() > gaussian + 0.7
        radius = prior.sample(1000).norm(dim=1)
    assert (radius - 1).abs().mean() < 0.12


# ---- a grid of latents -------------------------------------------------------------------------------------------------


def test_a_grid_is_an_estimator_as_others_are(tmp_path):
    model, x = fitted(), patches()
    assert model.resolved_["latent_dim"] == 4 * 8 * 8
    z = model.transform(x[:10])
    assert z.shape == (10, 256) and model.sample(3, random_state=0).shape == (3, 32, 32, 3)
    np.testing.assert_array_equal(model.inverse_transform(z), model.reconstruct(x[:10]))
    assert np.isfinite(model.score_samples(x[:10])).all()
    model.save(tmp_path / "run")
    np.testing.assert_array_equal(load(tmp_path / "run").reconstruct(x[:10]), model.reconstruct(x[:10]))


def test_a_latent_of_a_grid_is_of_its_place():
    """A change of a cell's latents shows around it."""
    model = fitted()
    z = model.transform(patches()[:1]).reshape(1, 4, 8, 8)
    moved = z.copy()
    moved[0, :, 0, 0] += 3
    difference = np.abs(
        model.inverse_transform(moved.reshape(1, -1)).astype(float) - model.inverse_transform(z.reshape(1, -1))
    )
    near, far = difference[0, :12, :12].mean(), difference[0, 24:, 24:].mean()
    assert near > 1.3 * far  # which moves a little, by what normalises the whole map


@pytest.mark.slow
def test_a_grid_keeps_more_of_a_photograph_than_a_vector():
    x = patches()
    errors = [np.square((fitted(grid).reconstruct(x) - x.astype(float)) / 255).mean() for grid in (True, False)]
    assert errors[0] < 0.6 * errors[1], errors


@pytest.mark.parametrize("kind", [CVAE, IWAE])
def test_other_models_have_grids_too(kind):
    x, y = patches(40), np.arange(40) % 2
    model = kind(grid=True, latent_dim=64, epochs=1, batch_size=20, random_state=0, device="cpu").fit(x, y)
    assert model.encode(x[:3], y[:3] if kind is CVAE else None).shape == (3, 64)


@pytest.mark.parametrize(
    ("model", "x", "message"),
    [
        (VAE(grid=True, latent_dim=100), patches(20), r"latent_dim must be a multiple of the 64 cells .*, got 100"),
        (VAE(grid=True), np.random.default_rng(0).normal(size=(20, 5)), "grid is for pictures .* got tables"),
        (VAE(grid=True, architecture="mlp"), patches(20), "grid is for pictures .*architecture 'mlp'"),
        (VQVAE(grid=True), patches(20), "grid is for Gaussian latents"),
    ],
    ids=["multiple", "table", "mlp", "vqvae"],
)
def test_where_no_grid_is_possible_is_said(model, x, message):
    with pytest.raises(ValueError, match=message):
        model.set_params(epochs=1).fit(x)


def test_a_flow_is_what_a_grid_gets_and_labels_guide_it(tmp_path):
    x, y = patches(), np.arange(200) % 2
    model = copy.deepcopy(fitted()).fit_prior(x, y, **QUICK)
    assert model.prior_facts_["validation_rate"] > 0 and model.fitted_.prior.settings.prior == "matching"
    plain, same, more = (model.sample(6, y=1, random_state=0, guidance=g, prior="fitted") for g in (None, 1.0, 4.0))
    np.testing.assert_array_equal(plain, same)
    assert plain.shape == (6, 32, 32, 3) and (plain != more).any()
    model.save(tmp_path / "run")
    other = load(tmp_path / "run")
    np.testing.assert_array_equal(
        other.sample(2, y=0, random_state=3, guidance=2), model.sample(2, y=0, random_state=3, guidance=2)
    )


@pytest.mark.slow
def test_a_bound_makes_no_importance_weights():
    model = copy.deepcopy(fitted()).fit_prior(patches(), **QUICK)
    better = {"plain_rate": 2.0, "validation_rate": 1.0}  # so that it is in use
    model.fitted_.attach(replace(model.fitted_.prior, facts=better))
    assert not model.prior_is_worse
    assert model.fitted_.other_prior == ["--no-per-class", "--epochs", "4"], "longer, where it is worse"
    with pytest.raises(ValueError, match="importance weights need a prior whose density is known, not flow matching's"):
        model.fitted_.score_samples(patches()[:3], weighted=True)
    with pytest.raises(ValueError, match="noisy estimates, which can't be importance weights"):
        importance_nll(model.model_, model.fitted_.data(Images(patches()[:3], None, (), "array")))
    with pytest.raises(ValueError, match="score 'importance_weighted' needs a prior whose density is known"):
        AnomalyDetector(model, score="importance_weighted").fit(patches())
    entry = measure_run(model.fitted_, *[Images(patches(), None, (), "array")] * 2, None)
    assert entry["draws"] == 1 and "nll" not in entry and entry["prior"] == "flow matching"


@pytest.mark.parametrize(("used", "cure"), [(3, 16), (16, 16), (17, None)])
def test_the_doctor_advises_as_many_latents_in_each_cell(used, cure):
    """Of a grid of 16 cells with 2 latents each: half of them, or none is left out."""
    said = []
    latent = SimpleNamespace(shape=(2, 4, 4))
    estimator = SimpleNamespace(fields={"latent_dim": 32}, module=SimpleNamespace(latent=latent))
    kls = {"kl_per_latent": [0.0] * (32 - used) + [1.0] * used}
    patient = SimpleNamespace(new=kls, used=used, estimator=estimator, command=lambda **changes: said.append(changes))
    assert latent_width(patient).wrong == (cure is not None)
    assert said == ([{"latent_dim": cure}] if cure else [])


def test_a_step_of_the_way_is_what_samples_take():
    torch.manual_seed(0)
    prior = MatchingPrior(shape=(3,), channels=8, layers=1, n_classes=2).eval()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    prior.location.fill_(2.0)
    step, y = prior.graph().module, torch.tensor([0, 1, 1, 0])
    with torch.no_grad():
        torch.manual_seed(1)
        expected = prior.sample(4, y)
        torch.manual_seed(1)
        moved = torch.randn(4, 3)
        for number in range(STEPS):
            moved, z = step(moved, torch.full((4,), number / STEPS), y)
    torch.testing.assert_close(z, expected)


def test_guidance_is_refused_where_there_is_none():
    model = copy.deepcopy(fitted()).fit_prior(patches(), **QUICK)
    with pytest.raises(ValueError, match="guidance needs a class-conditional prior by flow matching"):
        model.sample(2, guidance=2.0, prior="fitted")
    with pytest.raises(ValueError, match="guidance"):
        fitted().sample(2, guidance=2.0)
    labelled = copy.deepcopy(fitted()).fit_prior(patches(), np.arange(200) % 2, **QUICK)
    with pytest.raises(ValueError, match="guidance must be"):
        labelled.sample(2, 0, guidance=-1.0)


# ---- sizes and seams ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "latent_dim"),
    [
        *(((8, 8, 1), 10), ((28, 28, 1), 10), ((31, 64, 3), 10), ((7,), 10), ((32, 32, 1), 16), ((32, 32, 3), 64)),
        *(((48, 48, 3), 128), ((64, 64, 3), 256), ((128, 128, 3), 256)),
    ],
    ids=str,
)
def test_the_latent_follows_the_picture(shape, latent_dim):
    assert VAE().resolve(Format(shape), 5000)["latent_dim"] == latent_dim
    assert "latent_dim" not in VAE(latent_dim=3).resolve(Format(shape), 5000)
    if len(shape) == 3:
        height, width = grid_of("conv", (shape[2], *shape[:2]))
        assert VAE(grid=True).resolve(Format(shape), 5000)["latent_dim"] == 4 * height * width
        assert CVAE(grid=True).resolve(Format(shape), 5000)["beta"] == 1


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 33, 47), (3, 48, 48), (1, 64, 32)], ids=str)
@pytest.mark.parametrize("architecture", ["conv", "resnet"])
def test_the_grid_is_that_of_the_networks(architecture, shape):
    networks = make_networks(architecture, shape, features=6, latent_dim=3, out_channels=shape[0], spatial=True)
    assert networks.grid == grid_of(architecture, shape)
    h = networks.encoder(torch.rand(2, *shape))
    assert h.shape == (2, 6, *networks.grid)
    draw = GaussianLatent(latent_dim=3 * math.prod(networks.grid), grid=networks.grid)(h)
    torch.testing.assert_close(draw.mode.view(2, 3, *networks.grid), h[:, :3])
    flat = networks.decoder(draw.mode)
    assert flat.shape == (2, *shape)
    torch.testing.assert_close(flat, networks.decoder(draw.mode.view(2, 3, *networks.grid)))


def test_a_seamless_layer_starts_without_a_grid():
    """Its pixels of a cell begin alike, so that a smooth map gives smooth steps across cells and inside of them."""
    torch.manual_seed(0)
    ramp = torch.linspace(0, 1, 12).expand(1, 5, 12, 12)
    h = Up(5, 3, 4, (48, 48), seamless=True)(ramp)
    assert (h[..., :4] - h[..., :1]).abs().max() < 1e-6
    rough = Up(5, 3, 4, (48, 48))(ramp)
    assert (rough[..., 1:4] - rough[..., :1]).abs().max() > 0.01


def test_a_prior_is_learned_by_muon_where_that_is_asked_for():
    adam, muon, again = (
        copy.deepcopy(fitted()).fit_prior(patches(), prior="flow", optimizer=optimizer, **QUICK)
        for optimizer in (None, "muon", "muon")
    )
    weights = [model.with_prior("fitted").prior.couplings[0].head.weight for model in (adam, muon, again)]
    assert not torch.equal(weights[0], weights[1]) and torch.equal(weights[1], weights[2])
    with pytest.raises(ValueError, match="optimizer must be one of adam, muon, got 'sgd'"):
        fitted().fit_prior(patches(), optimizer="sgd")


@pytest.mark.parametrize(
    ("codes", "places", "given", "optimizer", "rate"),
    [
        (False, 16, {}, "muon", 0.005),
        (False, 16, {"prior": "matching"}, "muon", 0.005),
        (False, 16, {"optimizer": "adam"}, "adam", 0.001),
        (False, 16, {"learning_rate": 0.5}, "muon", 0.5),
        (False, 16, {"prior": "flow"}, "adam", 0.002),
        (False, 1, {"prior": "matching"}, "adam", 0.001),
        (False, 1, {"prior": "matching", "optimizer": "muon"}, "muon", 0.005),
        (True, 64, {}, "muon", 0.005),
        (True, 64, {"optimizer": "adam"}, "adam", 0.003),
        (True, 49, {}, "adam", 0.003),
        (True, 49, {"optimizer": "muon"}, "muon", 0.005),
        (True, 256, {"prior": "transformer"}, "adam", 0.002),
    ],
)
def test_what_is_learned_of_a_grid_of_places_is_learned_by_muon(codes, places, given, optimizer, rate):
    how = {"codes": codes, "n": 1000, "latent_dim": 16, "n_classes": 0, "device": torch.device("cpu"), "places": places}
    resolved = resolve_settings(PriorSettings(**given), **how)
    assert (resolved.optimizer, resolved.learning_rate) == (optimizer, rate)


@pytest.mark.parametrize(
    ("prior", "n", "dropout"),
    [("pixelcnn", 20_000, 0.5), ("pixelcnn", 60_000, 0.0), ("transformer", 1000, 0.5), ("transformer", 20_000, 0.0)],
)
def test_codes_of_few_images_are_learned_with_dropout(prior, n, dropout):
    how = {"codes": True, "n": n, "latent_dim": 0, "n_classes": 0, "device": torch.device("cpu"), "places": 64}
    assert resolve_settings(PriorSettings(prior=prior), **how).dropout == dropout
    assert resolve_settings(PriorSettings(prior=prior, dropout=0.1), **how).dropout == 0.1
