"""Parts against independent oracles: torch.distributions, sums in more digits, and a codebook worked out by hand."""

import decimal
import itertools
import math
from decimal import Decimal

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.distributions import Bernoulli, Normal, kl_divergence

from tests.marks import quick
from vaekit.models import Autoencoder, ConstrainedElbo, Elbo
from vaekit.models.objectives import distortion_and_rate
from vaekit.parts import (
    BernoulliLikelihood,
    Condition,
    DiscretizedLogisticLikelihood,
    GaussianLatent,
    GaussianLikelihood,
    StandardNormalPrior,
    Trace,
    UniformPrior,
    VectorQuantizer,
    make_networks,
)
from vaekit.parts.likelihoods import SHARED, make_likelihood
from vaekit.parts.networks import MLP, ResidualBlock
from vaekit.parts.quantizers import CHUNK, kmeans, nearest_code, usage
from vaekit.ranks import Part
from vaekit.tensors import (
    Term,
    bits_per_dim,
    gaussian_kl,
    gaussian_log_prob,
    log_mean_exp,
    straight_through,
    total,
)
from vaekit.world import drawing

close = torch.testing.assert_close


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


# Formulas


def test_gaussian_kl_is_that_of_torch_distributions():
    mean, log_var = torch.randn(50, 3, dtype=torch.float64) * 3, torch.randn(50, 3, dtype=torch.float64) * 4
    oracle = kl_divergence(Normal(mean, (0.5 * log_var).exp()), Normal(0.0, 1.0))
    close(gaussian_kl(mean, log_var), oracle)
    assert gaussian_kl(torch.zeros(1), torch.zeros(1)).item() == 0


def test_gaussian_log_prob_is_that_of_torch_distributions():
    x, mean, log_var = torch.randn(4, 5, 3), torch.randn(5, 3) * 2, torch.randn(3) * 3
    close(gaussian_log_prob(x, mean, log_var), Normal(mean, (0.5 * log_var).exp()).log_prob(x))
    close(gaussian_log_prob(x), Normal(0.0, 1.0).log_prob(x))
    close(gaussian_log_prob(x, 1.0, math.log(4.0)), Normal(1.0, 2.0).log_prob(x))


def test_log_mean_exp_is_what_it_says_without_overflow():
    x = torch.randn(6, 4, dtype=torch.float64)
    close(log_mean_exp(x), x.exp().mean(0).log())
    close(log_mean_exp(x, dim=1), x.exp().mean(1).log())
    close(log_mean_exp(torch.tensor([2000.0, 2000.0])), torch.tensor(2000.0))
    close(log_mean_exp(torch.tensor([-2000.0, -2000.0])), torch.tensor(-2000.0))


def test_total_is_the_weighted_sum_of_batch_means():
    terms = {"a": Term(torch.tensor([1.0, 3.0])), "b": Term(torch.tensor([10.0, 20.0]), torch.tensor(0.5), "sq")}
    assert total(terms).item() == 2.0 + 0.5 * 15.0


def test_straight_through_has_the_value_of_one_and_the_gradient_of_the_other():
    z, quantised = torch.tensor([0.2, 0.9], requires_grad=True), torch.tensor([0.0, 1.0], requires_grad=True)
    out = straight_through(z, quantised)
    assert out.tolist() == [0.0, 1.0]
    (out * torch.tensor([2.0, -3.0])).sum().backward()
    assert z.grad.tolist() == [2.0, -3.0]
    assert quantised.grad is None


def test_bits_per_dim_of_a_uniform_8_bit_image_is_8():
    assert bits_per_dim(784 * math.log(256), 784) == pytest.approx(8)


# Likelihoods


def images(*shape: int) -> torch.Tensor:
    return torch.randint(256, shape).double() / 255


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_the_bernoulli_is_that_of_torch_distributions(scale):
    logits = (torch.randn(6, 2, 3, 3, dtype=torch.float64) * scale).requires_grad_()
    x = torch.randint(2, (6, 2, 3, 3)).double()
    log_prob = BernoulliLikelihood().log_prob(logits, x)
    close(log_prob, Bernoulli(logits=logits).log_prob(x).sum((1, 2, 3)))
    close(BernoulliLikelihood().mean(logits), Bernoulli(logits=logits).mean)
    log_prob.sum().backward()
    close(logits.grad, (x - Bernoulli(logits=logits).mean).detach())


def test_the_bernoulli_of_grey_pixels_is_a_cross_entropy():
    logits, x = torch.randn(4, 1, 3, 3).double(), images(4, 1, 3, 3)
    oracle = F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum((1, 2, 3))
    close(BernoulliLikelihood().log_prob(logits, x), -oracle)


def sigmoid(t: Decimal) -> Decimal:
    return 1 / (1 + (-t).exp())


def discretised_logistic(location: float, log_scale: float, value: int) -> float:
    """log of the difference of two sigmoids at the bin's edges, in 60 digits; the outermost bins take the tails."""
    with decimal.localcontext() as context:
        context.prec = 60
        centre, scale = sigmoid(Decimal(location)), Decimal(log_scale).exp()
        lower = (Decimal(value) - Decimal("0.5")) / 255
        upper = (Decimal(value) + Decimal("0.5")) / 255
        if lower > centre:  # the same mass seen from the other side, where few digits cancel
            lower, upper, centre = -upper, -lower, -centre
            value = 255 - value
        above = sigmoid((upper - centre) / scale) if value < 255 else Decimal(1)
        below = sigmoid((lower - centre) / scale) if value > 0 else Decimal(0)
        return float((above - below).ln())


@pytest.mark.parametrize("log_scale", [-7.0, -4.0, -1.0, 2.0])
@pytest.mark.parametrize("location", [-30.0, -3.0, 0.0, 0.7, 5.0, 30.0])
def test_the_discretised_logistic_is_a_difference_of_sigmoids(location, log_scale):
    """Also where float64 itself has no difference left: a mean at one end of the scale, a value at the other."""
    likelihood = DiscretizedLogisticLikelihood()
    values = [0, 1, 2, 90, 127, 128, 200, 253, 254, 255]
    x = torch.tensor(values).double().view(-1, 1, 1, 1) / 255
    out = torch.tensor([location, log_scale + 2], dtype=torch.float64).view(1, 2, 1, 1).repeat(len(values), 1, 1, 1)
    oracle = torch.tensor([discretised_logistic(location, log_scale, v) for v in values], dtype=torch.float64)
    # A mean of 1 - 1e-13 keeps few of its digits in float64, and the scale divides by 1e-3.
    close(likelihood.log_prob(out, x), oracle, rtol=1e-8, atol=1e-9)
    close(likelihood.log_prob(out.float(), x.float()).double(), oracle, rtol=2e-4, atol=2e-3)


def test_the_discretised_logistic_adds_over_pixels_and_channels():
    likelihood = DiscretizedLogisticLikelihood()
    x, out = images(3, 2, 2, 2), torch.randn(3, 4, 2, 2).double()
    pixels = [
        likelihood.log_prob(
            torch.stack([out[:, c, i, j], out[:, c + 2, i, j]], 1)[..., None, None], x[:, c, i, j].view(3, 1, 1, 1)
        )
        for c in range(2)
        for i in range(2)
        for j in range(2)
    ]
    close(likelihood.log_prob(out, x), torch.stack(pixels).sum(0))
    assert likelihood.channels(2) == 4
    close(likelihood.mean(out), torch.sigmoid(out[:, :2]))


@pytest.mark.parametrize("location", [-1e4, -20.0, 0.0, 20.0, 1e4])
@pytest.mark.parametrize("log_scale", [-1e4, -5.0, 0.0, 1e4])
def test_the_discretised_logistic_has_finite_gradients_at_extremes(location, log_scale):
    x = torch.tensor([0, 1, 100, 254, 255]).view(-1, 1, 1, 1) / 255
    out = torch.tensor([location, log_scale]).view(1, 2, 1, 1).repeat(5, 1, 1, 1).requires_grad_()
    log_prob = DiscretizedLogisticLikelihood().log_prob(out, x)
    log_prob.sum().backward()
    assert log_prob.isfinite().all()
    assert (log_prob <= 0).all()
    assert out.grad.isfinite().all()


def test_the_discretised_logistic_pulls_its_mean_towards_the_image():
    x = torch.tensor([0, 60, 128, 255]).view(4, 1, 1, 1) / 255
    out = torch.zeros(4, 2, 1, 1, requires_grad=True)
    DiscretizedLogisticLikelihood().log_prob(out, x).sum().backward()
    assert out.grad[:, 0].sign().flatten().tolist() == [-1, -1, 1, 1]


@pytest.mark.parametrize("bounded", [True, False])
def test_a_fixed_gaussian_is_that_of_torch_distributions(bounded):
    likelihood = GaussianLikelihood(variance=0.098, bounded=bounded)
    out, x = torch.randn(5, 1, 4, 4), images(5, 1, 4, 4).float()
    mean = torch.sigmoid(out) if bounded else out
    close(likelihood.log_prob(out, x), Normal(mean, 0.098**0.5).log_prob(x).sum((1, 2, 3)))
    close(likelihood.mean(out), mean)
    assert float(likelihood.penalty_scale()) == pytest.approx(1 / (2 * 0.098))
    likelihood.prime(x)
    assert likelihood.variance.item() == pytest.approx(0.098)
    assert not list(likelihood.parameters()), "a fixed variance is not learned"


def test_a_learned_variance_converges_to_the_mean_squared_error():
    likelihood = GaussianLikelihood().train()
    out, x = torch.randn(8, 1, 4, 4), images(8, 1, 4, 4).float()
    error = (torch.sigmoid(out) - x).square().mean()
    for _ in range(800):
        log_prob = likelihood.log_prob(out, x)
    close(likelihood.variance, error, rtol=1e-3, atol=0)
    for factor in (0.9, 1.1):
        other = GaussianLikelihood(variance=factor * error.item()).log_prob(out, x)
        assert other.mean() < log_prob.mean(), "the mean squared error is the best variance"
    close(likelihood.penalty_scale(), 0.5 / error, rtol=1e-3, atol=0)


def test_a_learned_variance_follows_training_batches_only():
    likelihood = GaussianLikelihood().eval()
    out, x = torch.zeros(4, 1, 2, 2), torch.ones(4, 1, 2, 2)
    before = likelihood.log_prob(out, x)
    assert likelihood.variance.item() == 1
    likelihood.train().log_prob(out, x)
    assert 0.25 < likelihood.variance.item() < 1, "towards the squared error of 1/4"
    assert (likelihood.eval().log_prob(out, x) > before).all()


def test_a_learned_variance_starts_at_that_of_the_data_and_stays_above_zero():
    likelihood = GaussianLikelihood().train()
    x = images(200, 1, 4, 4).float()
    likelihood.prime(x)
    close(likelihood.variance, x.var(0, unbiased=False).mean())
    likelihood.prime(torch.ones(3, 1, 2, 2))
    assert likelihood.variance.item() == pytest.approx(1e-4), "data that never change have a variance of 0"
    for _ in range(2000):
        log_prob = likelihood.log_prob(torch.full((3, 1, 2, 2), 200.0), torch.ones(3, 1, 2, 2))
    assert likelihood.variance.item() == pytest.approx(1e-6, rel=1e-4), "and a perfect decoder an error of 0"
    assert log_prob.isfinite().all()


def by_column(columns: int) -> GaussianLikelihood:
    likelihood = GaussianLikelihood(bounded=False, by_column=True).of((1, 1, columns))
    assert isinstance(likelihood, GaussianLikelihood) and likelihood.variance.shape == (columns,)
    return likelihood.train()


def test_a_variance_for_each_column_follows_its_own_error_and_a_little_that_of_all():
    likelihood, spread = by_column(3), torch.tensor([0.1, 1.0, 4.0])
    out, x = torch.zeros(64, 1, 1, 3), torch.randn(64, 1, 1, 3) * spread
    error = x.square().mean((0, 1, 2))
    for _ in range(800):
        log_prob = likelihood.log_prob(out, x)
    close(likelihood.variance, (1 - SHARED) * error + SHARED * error.mean(), rtol=1e-3, atol=0)
    exact = Normal(0.0, likelihood.variance.sqrt()).log_prob(x).sum((1, 2, 3))
    close(log_prob, exact, rtol=1e-3, atol=1e-3)
    assert likelihood.usage()["sigma"] == pytest.approx(error.mean().sqrt().item(), rel=1e-3)


def test_a_column_that_never_changes_is_as_uncertain_as_the_others_are_on_average():
    likelihood = by_column(3)
    x = torch.stack([torch.zeros(50), torch.randn(50), 3 * torch.randn(50)], dim=1).view(50, 1, 1, 3)
    likelihood.prime(x)
    own = x.var((0, 1, 2), unbiased=False)
    mean = own[1:].mean()
    expected = torch.stack([mean, *own[1:].lerp(mean, SHARED)])
    close(likelihood.variance, expected)
    for _ in range(800):
        likelihood.log_prob(torch.zeros_like(x), x)
    assert likelihood.variance[0] == pytest.approx(likelihood.variance[1:].mean().item(), rel=1e-5)
    likelihood.prime(torch.zeros(5, 1, 1, 3))
    assert likelihood.variance.tolist() == pytest.approx([1e-4] * 3), "where nothing changes"


def test_a_variance_for_each_column_of_a_batch_in_parts_is_that_of_the_batch():
    x, out = torch.randn(6, 1, 1, 2), torch.zeros(6, 1, 1, 2)
    whole, parts = by_column(2), by_column(2)
    whole.log_prob(out, x)
    for part in (Part(0, 2, 6, (2, 4)), Part(2, 6, 6, (2, 4))):
        with drawing(0, part):
            parts.log_prob(out[part.start : part.stop], x[part.start : part.stop])
    parts.settle()
    close(parts.variance, whole.variance)


def test_gradients_of_a_learned_variance_survive_a_second_batch():
    """The running variance is changed in place; a graph that is still alive must not notice."""
    likelihood = GaussianLikelihood().train()
    out, x = torch.zeros(2, 1, 2, 2, requires_grad=True), torch.ones(2, 1, 2, 2)
    scale, variance = likelihood.penalty_scale(), likelihood.variance.item()
    first = likelihood.log_prob(out, x)
    assert likelihood.variance.item() != variance, "it follows what it has seen"
    likelihood.log_prob(out, x)
    first.sum().backward()
    assert float(scale) == pytest.approx(0.5 / variance)
    close(out.grad, torch.full_like(out, 0.5 * 0.25 / variance))  # (x - mean) / variance, through the sigmoid


# The Gaussian latent and the priors


def test_the_gaussian_latent_draws_from_the_normal_it_reports():
    latent = GaussianLatent(latent_dim=3).train()
    assert latent.features == 6
    h = torch.randn(2, 6, requires_grad=True)
    draw = latent(h, samples=20000)
    mean, log_var = draw.moments
    assert draw.z.shape == (20000, 2, 3)
    assert torch.equal(draw.mode, mean)
    assert torch.equal(mean, h[:, :3])
    assert torch.equal(log_var, h[:, 3:])
    q = Normal(mean, (0.5 * log_var).exp())
    close(draw.log_q, q.log_prob(draw.z).sum(-1))
    assert ((draw.z.mean(0) - mean).abs() < 5 * q.scale / 20000**0.5).all()
    close(draw.z.std(0), q.scale, rtol=0.05, atol=0)
    draw.z.mean(0).sum().backward()
    close(h.grad[:, :3], torch.ones(2, 3))
    assert (h.grad[:, 3:] != 0).all(), "the noise is reparameterised: the log-variance has a gradient too"


def test_images_have_noise_of_their_own_in_training_and_share_it_in_eval_mode():
    latent, h = GaussianLatent(latent_dim=2), torch.zeros(3, 4)
    z = latent.train()(h, samples=2).z.flatten(0, 1)
    assert len(torch.unique(z, dim=0)) == 6
    z = latent.eval()(h, samples=2).z
    assert torch.equal(z, z[:, :1].expand_as(z))
    assert not torch.equal(z[0], z[1])


def test_the_gaussian_latent_stays_finite_for_wild_encoders():
    h = torch.tensor([[0.0, 1e6], [0.0, -1e6]], requires_grad=True)
    draw = GaussianLatent(latent_dim=1)(h)
    kl = gaussian_kl(*draw.moments)
    (draw.z.sum() + draw.log_q.sum() + kl.sum()).backward()
    assert all(t.isfinite().all() for t in (draw.z, draw.log_q, kl, h.grad))


def test_the_standard_normal_prior_is_that_of_torch_distributions():
    prior, z = StandardNormalPrior(latent_dim=3), torch.randn(4, 5, 3)
    close(prior.log_prob(z), Normal(0.0, 1.0).log_prob(z).sum(-1))
    close(prior.sample(20000).std(0), torch.ones(3), rtol=0.05, atol=0)
    close(prior.sample(20000, temperature=0.5).std(0), torch.full((3,), 0.5), rtol=0.05, atol=0)


def test_the_uniform_prior_counts_the_codes_of_a_grid():
    prior = UniformPrior(n_codes=512, grid=(7, 7))
    close(prior.log_prob(torch.zeros(3, 7, 7, dtype=torch.int64)), torch.full((3,), -305.67), atol=0.01, rtol=0)
    drawn = prior.sample(50)
    assert drawn.shape == (50, 7, 7)
    assert drawn.dtype == torch.int64
    assert drawn.min() >= 0 and drawn.max() < 512


# The quantizer, by hand: three codes in the plane, two images of 1x2 vectors

CODEBOOK = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
VECTORS = torch.tensor([[[0.4, 0.1], [0.9, 0.5]], [[0.2, 1.5], [-1.0, -1.0]]])  # (B, h*w, D)
NEAREST = [[[0, 1]], [[2, 0]]]
QUANTISED = torch.tensor([[[0.0, 0.0], [1.0, 0.0]], [[0.0, 2.0], [0.0, 0.0]]])
SQUARED = [0.17 + 0.26, 0.29 + 2.0]  # squared distances, summed over an image's vectors


def as_grid(vectors: torch.Tensor) -> torch.Tensor:
    """(B, w, D) -> (B, D, 1, w)."""
    return vectors.movedim(-1, 1)[:, :, None]


def hand_made(**options) -> VectorQuantizer:
    vq = VectorQuantizer(n_codes=3, code_dim=2, **{"revive": 0.0, **options})
    vq.codebook.data.copy_(CODEBOOK)
    if vq.ema is not None:
        vq.ema_sums.copy_(CODEBOOK / 3)
    return vq


@pytest.mark.parametrize("ema", [None, 0.9])
def test_each_vector_becomes_its_nearest_code(ema):
    vq = hand_made(ema=ema).eval()
    draw = vq(as_grid(VECTORS), samples=2)
    assert vq.features == 2
    assert draw.mode.tolist() == NEAREST
    assert draw.code.tolist() == [NEAREST, NEAREST]
    close(draw.z, as_grid(QUANTISED).expand(2, 2, 2, 1, 2))
    assert draw.log_q.tolist() == [[0, 0], [0, 0]]
    assert draw.moments is None
    close(vq.embed(draw.mode), as_grid(QUANTISED))


def test_the_penalties_are_squared_distances_per_image():
    draw = hand_made(codebook_weight=0.7, commitment=0.3)(as_grid(VECTORS))
    assert draw.penalties.keys() == {"commitment", "codebook"}
    for name, weight in (("commitment", 0.3), ("codebook", 0.7)):
        term = draw.penalties[name]
        close(term.value, torch.tensor(SQUARED))
        assert (term.weight, term.unit) == (weight, "sq")
    assert hand_made(ema=0.9)(as_grid(VECTORS)).penalties.keys() == {"commitment"}


def test_the_straight_through_gradient_goes_to_the_encoder_and_not_to_the_codebook():
    vq, h = hand_made(), as_grid(VECTORS).clone().requires_grad_()
    upstream = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[-5.0, 6.0], [7.0, -8.0]]])
    (vq(h).z[0] * as_grid(upstream)).sum().backward()
    close(h.grad, as_grid(upstream))
    assert vq.codebook.grad is None or not vq.codebook.grad.any()


def test_the_commitment_moves_the_encoder_alone():
    vq, h = hand_made(), as_grid(VECTORS).clone().requires_grad_()
    vq(h).penalties["commitment"].value.sum().backward()
    expected = [[[0.8, 0.2], [-0.2, 1.0]], [[0.4, -1.0], [-2.0, -2.0]]]  # 2 (z_e - z_q)
    close(h.grad, as_grid(torch.tensor(expected)))
    assert vq.codebook.grad is None or not vq.codebook.grad.any()


def test_the_codebook_term_moves_the_codebook_alone():
    vq, h = hand_made(), as_grid(VECTORS).clone().requires_grad_()
    vq(h).penalties["codebook"].value.sum().backward()
    # 2 (z_q - z_e), summed over the vectors of each code: two for code 0, one for the others.
    close(vq.codebook.grad, torch.tensor([[1.2, 1.8], [0.2, -1.0], [-0.4, 1.0]]))
    assert h.grad is None or not h.grad.any()


def test_one_update_of_the_moving_averages():
    vq = hand_made(ema=0.9).train()
    draw = vq(as_grid(VECTORS))
    close(draw.z[0], as_grid(QUANTISED), msg="the batch is quantised before the codebook moves")
    # Of 4 vectors, codes 0, 1, 2 get 2, 1, 1. Shares: 0.9 / 3 + 0.1 (1/2, 1/4, 1/4).
    close(vq.shares, torch.tensor([0.35, 0.325, 0.325]))
    # Sums: 0.9 CODEBOOK / 3 + 0.1 (sum of the code's vectors) / 4; the codebook is sums / shares.
    sums = torch.tensor([[-0.015, -0.0225], [0.3225, 0.0125], [0.005, 0.6375]])
    close(vq.ema_sums, sums)
    expected = [[-0.0428571, -0.0642857], [0.9923077, 0.0384615], [0.0153846, 1.9615385]]
    close(vq.codebook, torch.tensor(expected), rtol=1e-5, atol=1e-6)
    assert not list(vq.parameters()), "an EMA codebook is not the optimizer's"


def test_moving_averages_arrive_at_the_mean_of_each_codes_vectors():
    vq = hand_made(ema=0.8).train()
    vectors = torch.tensor([[[0.4, 0.1], [0.9, 0.5]], [[0.2, 1.5], [-0.4, -0.3]]])
    for _ in range(100):
        draw = vq(as_grid(vectors))
    assert draw.mode.tolist() == NEAREST
    close(vq.codebook, torch.tensor([[0.0, -0.1], [0.9, 0.5], [0.2, 1.5]]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ema", [None, 0.9])
def test_eval_mode_leaves_codebook_and_counts_alone(ema):
    vq = hand_made(ema=ema, revive=0.5).eval()
    before = {name: value.clone() for name, value in vq.state_dict().items()}
    vq(as_grid(VECTORS))
    assert all(torch.equal(value, before[name]) for name, value in vq.state_dict().items())


@pytest.mark.parametrize("ema", [None, 0.9])
def test_a_dead_code_moves_to_a_vector_of_the_batch(ema):
    vectors = torch.tensor([[[0.1, 0.1], [0.2, -0.1], [0.9, 0.1], [1.1, 0.2]]])  # none near code 2
    vq = hand_made(ema=ema, revive=0.1).train()
    for _ in range(300):
        previous = vq.codebook.detach().clone()
        vq(as_grid(vectors))
        if not torch.equal(vq.codebook[2], previous[2]) and (vq.codebook[2] - CODEBOOK[2]).norm() > 0.5:
            break
    else:
        pytest.fail("code 2 was never revived")
    distance, index = (vectors[0] - vq.codebook[2]).norm(dim=1).min(0)
    assert distance < 1e-5, "it stands on a vector of the batch"
    assert vq.shares[2].item() == pytest.approx(1 / 3), "and has a fair share to begin with"
    for code in (0, 1):  # those in use were left where they were, but for their moving averages
        assert (vq.codebook[code] - previous[code]).norm() < 0.05
    draw = vq(as_grid(vectors))
    assert draw.mode[0, 0, index] == 2, "and is used at once"


@pytest.mark.parametrize("ema", [None, 0.9])
def test_without_revival_a_dead_code_stays_dead(ema):
    vectors = torch.tensor([[[0.1, 0.1], [0.9, 0.1]]])
    vq = hand_made(ema=ema, revive=0.0).train()
    for _ in range(100):
        draw = vq(as_grid(vectors))
    close(vq.codebook[2], CODEBOOK[2], rtol=1e-4, atol=1e-4)
    assert draw.mode.tolist() == [[[0, 1]]]
    assert vq.codebook.isfinite().all()


def test_usage_counts_codes_and_their_perplexity():
    vq = hand_made().train()
    for _ in range(2):
        vq(as_grid(VECTORS))
    assert vq.counts.tolist() == [4, 2, 2]
    # Shares 1/2, 1/4, 1/4 have an entropy of 1.5 bits.
    assert usage(vq.counts) == {"codes_used": 3, "perplexity": pytest.approx(2**1.5)}
    assert usage(torch.tensor([5.0, 5.0, 5.0, 5.0])) == {"codes_used": 4, "perplexity": pytest.approx(4)}
    assert usage(torch.tensor([0.0, 9.0])) == {"codes_used": 1, "perplexity": pytest.approx(1)}
    assert usage(torch.zeros(3))["codes_used"] == 0


def test_a_model_reports_usage_since_it_was_last_asked():
    shape = (1, 8, 8)
    networks = make_networks("conv", shape, features=2, latent_dim=2, out_channels=1, spatial=True)
    vq = VectorQuantizer(n_codes=3, code_dim=2)
    prior = UniformPrior(n_codes=3, grid=networks.grid)
    model = Autoencoder(
        encoder=networks.encoder, latent=vq, decoder=networks.decoder, prior=prior, likelihood=GaussianLikelihood()
    )
    model.train()(torch.rand(4, *shape))
    assert vq.counts.sum() == 4 * 4 * 4
    measures = model.measures()
    assert measures["codes_used"] in (1, 2, 3)
    assert 1 <= measures["perplexity"] <= 3
    assert 0 < measures["sigma"] <= 1
    assert vq.counts.sum() == 0


def clusters(k: int = 4, each: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    """Tight clusters far apart, as encoder outputs (N, 2, 1, k), and their means (k, 2)."""
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])[:k]
    points = centres + 0.1 * torch.randn(each, k, 2)
    return as_grid(points), points.mean(0)


@pytest.mark.parametrize("ema", [None, 0.9])
def test_a_uniform_start_does_not_look_at_the_data(ema):
    vq = VectorQuantizer(n_codes=5, code_dim=3, ema=ema, init="uniform")
    before = vq.codebook.clone()
    vq.prime(torch.randn(4, 3, 2, 2))
    assert torch.equal(vq.codebook, before)
    assert before.abs().max() <= 1 / 5
    assert before.std() > 0.05


@pytest.mark.parametrize("ema", [None, 0.9])
def test_a_data_start_puts_each_code_on_an_encoder_output_of_its_own(ema):
    h = torch.randn(6, 3, 2, 2)
    vq = VectorQuantizer(n_codes=8, code_dim=3, ema=ema, init="data")
    vq.prime(h)
    distances = torch.cdist(vq.codebook.detach(), h.movedim(1, -1).reshape(-1, 3))
    assert distances.min(1).values.max() < 1e-5
    assert len(distances.argmin(1).unique()) == 8


@pytest.mark.parametrize("ema", [None, 0.9])
def test_a_kmeans_start_finds_clusters(ema):
    h, means = clusters()
    vq = VectorQuantizer(n_codes=4, code_dim=2, ema=ema, init="kmeans")
    vq.prime(h)
    found = vq.codebook.detach().clone()
    close(found[torch.cdist(means, found).argmin(1)], means, rtol=1e-4, atol=1e-4)
    if ema:
        vq.revive = 0.0
        vq.train()(h)
        close(vq.codebook, found, rtol=1e-4, atol=1e-4, msg="the averages start at the codebook: nothing jumps")


def test_kmeans_quantises_better_than_its_random_start():
    vectors = torch.randn(500, 4)
    torch.manual_seed(1)
    centres = kmeans(vectors, 12)
    torch.manual_seed(1)
    start = kmeans(vectors, 12, iterations=0)
    assert centres.shape == (12, 4)
    error, at_start = (torch.cdist(vectors, c).min(1).values.square().mean() for c in (centres, start))
    assert error < 0.9 * at_start


@pytest.mark.parametrize("init", ["data", "kmeans"])
def test_a_start_from_fewer_vectors_than_codes_still_has_distinct_codes(init):
    vq = VectorQuantizer(n_codes=10, code_dim=2, init=init)
    vq.prime(torch.randn(1, 2, 1, 3))
    assert vq.codebook.isfinite().all()
    assert len(vq.codebook.unique(dim=0)) == 10


@pytest.mark.parametrize(("n", "k", "d"), [(1, 2, 1), (7, 3, 2), (CHUNK, 16, 4), (2 * CHUNK + 5, 50, 8)])
def test_nearest_code_is_the_nearest_of_all_by_brute_force(n, k, d):
    vectors, codebook = torch.randn(n, d) * 2 + 1, torch.randn(k, d)
    distances = torch.cdist(vectors.double(), codebook.double(), compute_mode="donot_use_mm_for_euclid_dist")
    index = nearest_code(vectors, codebook)
    assert index.shape == (n,)
    assert index.dtype == torch.int64
    # Float32 may decide a tie otherwise, and nothing else.
    chosen = distances.gather(1, index[:, None])[:, 0]
    assert (chosen - distances.min(1).values).max() < 1e-5
    assert (index == distances.argmin(1)).double().mean() > 0.999


# Networks

LATENT = 3
network_shapes = st.fixed_dictionaries(
    {
        "architecture": st.sampled_from(["conv", "resnet"]),
        "size": st.tuples(st.integers(8, 128), st.integers(8, 128)),
        "channels": st.integers(1, 4),
        "spatial": st.booleans(),
        "conditional": st.booleans(),
    }
)


def build(architecture, shape, *, spatial=False, n_classes=0, out_channels=None):
    return make_networks(
        architecture,
        shape,
        features=LATENT,
        latent_dim=LATENT,
        out_channels=out_channels or shape[0],
        spatial=spatial,
        n_classes=n_classes,
    )


def check_shapes_and_gradients(architecture, size, channels, spatial, conditional, out_channels=None):
    networks = build(
        architecture, (channels, *size), spatial=spatial, n_classes=2 * conditional, out_channels=out_channels
    )
    y = torch.tensor([1, 0]) if conditional else None
    z = networks.encoder(torch.rand(2, channels, *size), y)
    assert z.shape == ((2, LATENT, *networks.grid) if spatial else (2, LATENT))
    assert (networks.grid is not None) == spatial
    images = networks.decoder(z, y)
    assert images.shape == (2, out_channels or channels, *size)
    (images * torch.randn_like(images)).mean().backward()
    for part in (networks.encoder, networks.decoder):
        unreached = [name for name, p in part.named_parameters() if p.grad is None or not p.grad.any()]
        assert not unreached
        assert all(p.grad.isfinite().all() for p in part.parameters())


@pytest.mark.parametrize("spatial", [False, True])
@pytest.mark.parametrize(
    ("architecture", "size"),
    quick(
        itertools.product(["conv", "resnet"], [(8, 8), (9, 13), (28, 28), (64, 48), (128, 128)]),
        *itertools.product(["conv", "resnet"], [(8, 8), (9, 13), (28, 28)]),
        ("conv", (64, 48)),
    ),
)
def test_a_decoder_gives_images_of_the_size_it_was_built_for(architecture, size, spatial):
    check_shapes_and_gradients(architecture, size, 1, spatial, conditional=size == (28, 28))


@settings(max_examples=6, deadline=None)
@given(network_shapes)
def test_convolutional_networks_take_any_size_from_8_to_128(case):
    check_shapes_and_gradients(**case)


@settings(max_examples=12, deadline=None)
@given(st.tuples(st.integers(1, 20), st.integers(1, 20)), st.integers(1, 4), st.booleans(), st.booleans())
@example(size=(1, 1), channels=1, spatial=True, conditional=True)
def test_the_mlp_takes_any_size(size, channels, spatial, conditional):
    check_shapes_and_gradients("mlp", size, channels, spatial, conditional)


@pytest.mark.parametrize("architecture", ["conv", "resnet", "mlp"])
def test_a_likelihood_may_ask_for_more_channels_than_the_image_has(architecture):
    check_shapes_and_gradients(architecture, (9, 11), 3, False, False, out_channels=6)


@pytest.mark.parametrize(("spatial", "conditional"), [(False, False), (False, True), (True, False)])
def test_the_reports_networks_take_28x28(spatial, conditional):
    """Not every gradient here: a bias before BatchNorm has none."""
    networks = build("wang2023", (1, 28, 28), spatial=spatial, n_classes=10 * conditional)
    y = torch.tensor([3, 9]) if conditional else None
    z = networks.encoder(torch.rand(2, 1, 28, 28), y)
    assert z.shape == ((2, LATENT, 7, 7) if spatial else (2, LATENT))
    assert networks.grid == ((7, 7) if spatial else None)
    images = networks.decoder(z, y)
    assert images.shape == (2, 1, 28, 28)
    images.square().sum().backward()
    weights = [p for part in networks[:2] for name, p in part.named_parameters() if name.endswith("weight")]
    assert all(p.grad.any() for p in weights)


@pytest.mark.parametrize("size", [(7, 28), (28, 7), (1, 1)])
@pytest.mark.parametrize("architecture", ["conv", "resnet"])
def test_convolutional_networks_refuse_sides_below_8(architecture, size):
    message = f"architecture '{architecture}' needs images of at least 8x8, got {size[0]}x{size[1]}; use .*'mlp'"
    with pytest.raises(ValueError, match=message):
        build(architecture, (1, *size))


@pytest.mark.parametrize("shape", [(1, 32, 32), (1, 28, 27), (3, 28, 28), (1, 8, 8)])
def test_the_reports_networks_refuse_other_shapes(shape):
    channels, height, width = shape
    with pytest.raises(ValueError, match=f"28x28x1 .*got {height}x{width}x{channels} images.*use architecture='conv'"):
        build("wang2023", shape)


def test_the_reports_networks_refuse_what_the_report_has_not():
    with pytest.raises(ValueError, match=r"one output per pixel, got 28x28x1 images and 2 outputs"):
        build("wang2023", (1, 28, 28), out_channels=2)
    with pytest.raises(ValueError, match="no conditional VQ-VAE"):
        build("wang2023", (1, 28, 28), spatial=True, n_classes=10)


def test_an_unknown_architecture_is_named_with_those_there_are():
    with pytest.raises(ValueError, match=r"must be one of conv, resnet, mlp, wang2023, got 'transformer'"):
        build("transformer", (1, 28, 28))


# Labels reach every block


def test_condition_scales_and_shifts_channels_by_label():
    condition = Condition(n_classes=2, channels=2)
    condition.table.weight.data.copy_(torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, -0.5, 10.0, 20.0]]))
    h = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert condition(h, torch.tensor([0, 1])).tolist() == [[1.0, 2.0], [16.0, 22.0]]
    grid = h[:, :, None, None].expand(2, 2, 3, 5)
    assert torch.equal(
        condition(grid, torch.tensor([0, 1])), condition(h, torch.tensor([0, 1]))[..., None, None].expand_as(grid)
    )
    unconditional = Condition(n_classes=0, channels=2)
    assert torch.equal(unconditional(h, None), h)
    assert not list(unconditional.parameters())


@pytest.mark.parametrize("spatial", [False, True])
@pytest.mark.parametrize("architecture", ["conv", "resnet", "mlp"])
def test_labels_change_the_output_of_every_block(architecture, spatial):
    """Each block alone: the same input and another label give another output, in every image of the batch."""
    networks = build(architecture, (1, 16, 16), spatial=spatial, n_classes=3)
    y, other = torch.tensor([0, 1, 2]), torch.tensor([1, 2, 0])
    seen: list[tuple[nn.Module, torch.Tensor]] = []
    blocks = [m for part in networks[:2] for m in part.modules() if isinstance(m, (ResidualBlock, MLP))]
    for block in blocks:
        block.register_forward_hook(lambda module, arguments, out: seen.append((module, arguments[0].detach())))
    with torch.no_grad():
        networks.decoder(networks.encoder(torch.rand(3, 1, 16, 16), y), y)
        calls = list(seen)
        assert {id(module) for module, _ in calls} == {id(block) for block in blocks}
        assert len(calls) >= 2
        for block, h in calls:
            change = (block(h, y) - block(h, other)).flatten(1).abs().amax(1)
            assert (change > 1e-6).all(), type(block).__name__


@pytest.mark.parametrize("spatial", [False, True])
@pytest.mark.parametrize("architecture", ["conv", "resnet", "mlp"])
def test_every_condition_learns_every_label_in_the_batch_and_no_other(architecture, spatial):
    networks = build(architecture, (1, 16, 16), spatial=spatial, n_classes=4)
    conditions = [m for part in networks[:2] for m in part.modules() if isinstance(m, Condition)]
    blocks = [m for part in networks[:2] for m in part.modules() if isinstance(m, ResidualBlock)]
    assert len(conditions) >= max(2, len(blocks))
    y = torch.tensor([0, 1, 3])
    networks.decoder(networks.encoder(torch.rand(3, 1, 16, 16), y), y).square().mean().backward()
    for condition in conditions:
        assert condition.table.weight.grad.abs().amax(1).ne(0).tolist() == [True, True, False, True]


def test_the_reports_condition_is_one_number_into_encoder_and_decoder():
    networks = build("wang2023", (1, 28, 28), n_classes=10)
    networks.encoder.eval()
    x, zeros, nines = torch.rand(2, 1, 28, 28), torch.tensor([0, 0]), torch.tensor([9, 9])
    with torch.no_grad():
        change = networks.encoder(x, nines) - networks.encoder(x, zeros)
        close(change, 9 * networks.encoder.head.weight[:, -1].expand(2, -1), rtol=1e-3, atol=1e-5)
        z = torch.randn(2, LATENT)
        mixed, swapped = torch.tensor([0, 9]), torch.tensor([9, 0])
        assert not torch.equal(networks.decoder(z, mixed), networks.decoder(z, swapped))


# Objectives


def trace(rate=(4.0, 8.0), nll=((10.0, 20.0), (30.0, 40.0)), closed_form=True, requires_grad=False) -> Trace:
    """Two draws of two images; the sampled rate is 1 more than the closed form."""
    kl = torch.tensor(rate, requires_grad=requires_grad)
    return Trace(
        nll=torch.tensor(nll),
        rates={"z": torch.stack([kl, kl + 2])},
        kls={"z": kl} if closed_form else {},
        draws=(),
        penalties={"commitment": Term(torch.tensor([1.0, 2.0]), 0.25, "sq")},
    )


def test_distortion_and_rate_are_averages_over_draws():
    distortion, rate = distortion_and_rate(trace())
    assert distortion.tolist() == [20, 30]
    assert rate.tolist() == [4, 8], "the closed form where it is known"
    assert distortion_and_rate(trace(closed_form=False))[1].tolist() == [5, 9], "else the mean of the draws"
    two = trace()._replace(
        rates={"a": torch.ones(2, 2), "b": torch.ones(2, 2) * 3}, kls={"b": torch.tensor([5.0, 6.0])}
    )
    assert distortion_and_rate(two)[1].tolist() == [6, 7], "groups add up"


def test_the_elbo_weighs_the_rate_by_beta_and_keeps_penalties():
    terms = Elbo(beta=4.0)(trace(), 0)
    assert terms.keys() == {"distortion", "rate", "commitment"}
    assert (terms["distortion"].weight, terms["rate"].weight) == (1, 4)
    assert terms["commitment"].weight == 0.25
    assert total(terms).item() == 25 + 4 * 6 + 0.25 * 1.5


def test_the_elbo_warms_up_linearly_as_a_function_of_the_step():
    objective = Elbo(beta=2.0, warmup=4)
    steps = [0, 1, 2, 3, 4, 100]
    assert [objective(trace(), step)["rate"].weight for step in steps] == pytest.approx([0.5, 1, 1.5, 2, 2, 2])
    assert objective(trace(), 0)["rate"].weight == pytest.approx(0.5), "it has no memory"
    assert objective(trace(), 0)["rate"].value.tolist() == [4, 8], "what is reported is not weighted"
    assert Elbo(beta=2.0)(trace(), 0)["rate"].weight == 2


@pytest.mark.parametrize(("ratio", "direction"), [(3.0, 1), (1.2, 1), (0.8, -1), (0.0, -1)])
@pytest.mark.parametrize("epsilon", [0.5, 20.0])
def test_beta_rises_above_epsilon_and_falls_below(epsilon, ratio, direction):
    objective = ConstrainedElbo(epsilon=epsilon).train()
    start = objective.beta.item()
    for step in range(30):
        objective(trace(rate=(ratio * epsilon, ratio * epsilon)), step)
    assert (objective.beta.item() - start) * direction > 0


def test_beta_is_never_negative_and_comes_back():
    objective = ConstrainedElbo(epsilon=2.0).train()
    betas = []
    for step in range(1000):
        betas.append(float(objective(trace(rate=(0.0, 0.0)), step)["rate"].weight))
    assert min(betas) >= 0
    assert betas[-1] < 0.1
    for step in range(1000, 2000):
        objective(trace(rate=(20.0, 20.0)), step)
    assert objective.beta.item() > 1


@pytest.mark.parametrize("beta", [0.0, 1.0, 9.0])
def test_a_step_of_beta_grows_with_beta(beta):
    """beta + ascent (1 + beta) (KL / epsilon - 1), the KL being the batch's mean: here 7 nats, where 4 are asked for."""
    objective = ConstrainedElbo(epsilon=4.0, ascent=0.1, beta=beta).train()
    assert float(objective(trace(rate=(6.0, 8.0)), 0)["rate"].weight) == beta
    assert objective.beta.item() == pytest.approx(beta + 0.1 * (1 + beta) * 0.75)


def test_beta_is_a_constant_in_eval_mode():
    objective = ConstrainedElbo(epsilon=2.0)
    for step in range(5):
        objective.train()(trace(rate=(9.0, 9.0)), step)
    objective.eval()
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    terms = objective(trace(rate=(50.0, 50.0)), 5)
    assert all(torch.equal(value, before[name]) for name, value in objective.state_dict().items())
    assert float(terms["rate"].weight) == objective.beta.item()


def test_the_multiplier_is_detached_and_a_number_of_its_own_step():
    objective = ConstrainedElbo(epsilon=2.0).train()
    first = trace(rate=(9.0, 9.0), requires_grad=True)
    terms = objective(first, 0)
    weight = terms["rate"].weight
    used = float(weight)
    for step in range(1, 30):
        objective(trace(rate=(9.0, 9.0)), step)
    assert objective.beta.item() != used
    assert float(weight) == used, "later steps don't change a weight that was handed out"
    assert not weight.requires_grad
    assert not list(objective.parameters())
    total(terms).backward()
    close(first.kls["z"].grad, torch.full((2,), used / 2))
    assert terms.keys() == {"distortion", "rate", "commitment"}
    assert terms["commitment"].weight == 0.25


def test_the_multiplier_is_saved_with_the_objective():
    objective, other = ConstrainedElbo(epsilon=2.0).train(), ConstrainedElbo(epsilon=2.0).train()
    for step in range(20):
        objective(trace(rate=(9.0, 9.0)), step)
    other.load_state_dict(objective.state_dict())
    for step in range(20, 23):
        weights = [float(each(trace(rate=(9.0, 9.0)), step)["rate"].weight) for each in (objective, other)]
        assert weights[0] == weights[1]


# What is refused, and in which words


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianLatent(latent_dim=0), "latent_dim must be >= 1, got 0"),
        (lambda: VectorQuantizer(n_codes=1, code_dim=2), "n_codes must be >= 2 .*got 1 and 2"),
        (lambda: VectorQuantizer(n_codes=4, code_dim=0), "code_dim >= 1, got 4 and 0"),
        (lambda: VectorQuantizer(n_codes=4, code_dim=2, ema=1.0), r"ema must be None or in \(0, 1\), got 1.0"),
        (lambda: VectorQuantizer(n_codes=4, code_dim=2, ema=-0.5), r"ema must be None or in \(0, 1\), got -0.5"),
        (
            lambda: VectorQuantizer(n_codes=4, code_dim=2, init="zeros"),
            "init must be uniform, data or kmeans, got 'zeros'",
        ),
        (lambda: GaussianLikelihood(variance=0.0), "variance must be > 0, got 0.0"),
        (lambda: GaussianLikelihood(variance=-1.0), "variance must be > 0, got -1.0"),
        (lambda: GaussianLikelihood(variance=math.nan), "variance must be > 0, got nan"),
        (
            lambda: make_likelihood("poisson"),
            "likelihood must be one of gaussian, gaussian_columns, gaussian_fixed, bernoulli, discretized_logistic, "
            "got 'poisson'",
        ),
        (lambda: Elbo(beta=-1.0), "beta must be a number >= 0, got -1.0"),
        (lambda: Elbo(beta=math.nan), "beta must be a number >= 0, got nan"),
        (lambda: ConstrainedElbo(epsilon=0.0), "epsilon must be > 0 nats, got 0.0"),
        (lambda: ConstrainedElbo(epsilon=-3.0), "epsilon must be > 0 nats, got -3.0"),
    ],
)
def test_a_constructor_names_the_parameter_and_the_value(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("name", "kind", "channels"),
    [
        ("gaussian", GaussianLikelihood, 3),
        ("gaussian_fixed", GaussianLikelihood, 3),
        ("bernoulli", BernoulliLikelihood, 3),
        ("discretized_logistic", DiscretizedLogisticLikelihood, 6),
    ],
)
def test_a_likelihood_goes_by_its_name(name, kind, channels):
    likelihood = make_likelihood(name)
    assert type(likelihood) is kind
    assert likelihood.channels(3) == channels
    assert getattr(likelihood, "learned", None) == {"gaussian": True, "gaussian_fixed": False}.get(name)
