"""Laws that every model obeys, whatever its parts: one parametrised file. A new model joins by a line in MODELS."""

import copy
import functools
import itertools
import math
import signal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.base import clone
from sklearn.datasets import load_digits
from torch import nn

from tests.marks import quick
from vaekit import CVAE, IWAE, VAE, VQVAE, BetaTCVAE, BetaVAE
from vaekit.data.batches import Data, to_input
from vaekit.parts import (
    BernoulliLikelihood,
    DiscretizedLogisticLikelihood,
    GaussianLatent,
    GaussianLikelihood,
    StandardNormalPrior,
    UniformPrior,
)
from vaekit.tensors import total
from vaekit.training.checkpoint import RunFolder
from vaekit.training.loop import train
from vaekit.training.plan import Plan

LAMBDA = 0.098  # the report's variance of x|z
MODELS = {
    "vae": VAE(),
    "bvae": BetaVAE(beta=1.5),
    "bvae-epsilon": BetaVAE(epsilon=3.0),
    "cvae": CVAE(),
    "iwae": IWAE(k=3),
    "btcvae": BetaTCVAE(),
    "vqvae-ema": VQVAE(n_codes=6, code_dim=3, ema=0.9),
    "vqvae-gradient": VQVAE(n_codes=6, code_dim=3, ema=0.0),
}
ARCHITECTURES = ("conv", "resnet", "mlp", "wang2023")
GAUSSIAN = [name for name, model in MODELS.items() if not isinstance(model, VQVAE)]
QUANTISED = [name for name, model in MODELS.items() if isinstance(model, VQVAE)]
CASES = [
    *itertools.product(MODELS, ARCHITECTURES, [None]),
    ("vae", "conv", "discretized_logistic"),
    ("cvae", "mlp", "bernoulli"),
    ("vqvae-ema", "conv", "discretized_logistic"),
]

every_model = pytest.mark.parametrize("name", MODELS)
every_case = pytest.mark.parametrize(
    ("name", "architecture", "likelihood"), CASES, ids=["-".join(filter(None, case)) for case in CASES]
)


@functools.cache
def digits(side: int, n: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Images of digits (n, side, side, 1) uint8, side 8 or 28, and their labels: all ten classes."""
    x, y = load_digits(return_X_y=True)
    x = np.rint(x[:n] / 16 * 255).astype(np.uint8).reshape(-1, 8, 8, 1)
    if side == 28:
        x = np.pad(x.repeat(3, axis=1).repeat(3, axis=2), ((0, 0), (2, 2), (2, 2), (0, 0)))
    return x, y[:n]


@functools.cache
def fitted(name: str, architecture: str, likelihood: str | None):
    """The estimator after two steps; shared, so a test that changes its module takes a copy."""
    model = clone(MODELS[name]).set_params(
        architecture=architecture, likelihood=likelihood, epochs=1, batch_size=12, random_state=0, device="cpu"
    )
    x, y = digits(28 if architecture == "wang2023" else 8)
    return model.fit((x > 127) if likelihood == "bernoulli" else x, y)


def take(name: str, architecture: str = "conv", likelihood: str | None = None, n: int = 8):
    """A module and an objective of one's own, and n images (n, C, H, W) with labels where the model wants them."""
    model = fitted(name, architecture, likelihood)
    x, y = digits(28 if architecture == "wang2023" else 8)
    x = torch.from_numpy((x > 127).astype(np.uint8) * 255 if likelihood == "bernoulli" else x)
    labels = torch.from_numpy(y[:n]) if model.conditional else None
    objective = copy.deepcopy(model.filled_in().make_objective(1))
    return copy.deepcopy(model.model_), objective, to_input(x[:n]), labels


def seeded_trace(module, x, y, samples: int = 1, seed: int = 0):
    torch.manual_seed(seed)
    return module(x, y, samples)


def leaves(trace) -> dict[str, tuple[torch.Tensor, int]]:
    """Every tensor of a Trace by name, with the axis that counts images."""
    found = {"nll": (trace.nll, 1)}
    found |= {f"rate {name}": (value, 1) for name, value in trace.rates.items()}
    found |= {f"kl {name}": (value, 0) for name, value in trace.kls.items()}
    for draw in trace.draws:
        found |= {"z": (draw.z, 1), "code": (draw.code, 1), "mode": (draw.mode, 0), "log_q": (draw.log_q, 1)}
        found |= {f"moment {i}": (value, 0) for i, value in enumerate(draw.moments or ())}
        found |= {f"draw's {name}": (term.value, 0) for name, term in draw.penalties.items()}
    found |= {f"penalty {name}": (term.value, 0) for name, term in trace.penalties.items()}
    return found


def gradients(loss, module) -> dict[str, torch.Tensor]:
    """Of every parameter; zero where the loss does not depend on it."""
    names, parameters = zip(*module.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    pairs = zip(names, parameters, found, strict=True)
    return {name: torch.zeros_like(p) if gradient is None else gradient for name, p, gradient in pairs}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], factor: float = 1.0):
    """Equal to float32's precision at the scale of the largest gradient, and not all zero."""
    scale = factor * max(value.abs().max().item() for value in expected.values())
    assert scale > 0
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], factor * expected[name], rtol=1e-3, atol=1e-5 * scale, msg=name)


# Objectives: what is reported is what is minimised


@every_case
def test_the_terms_sum_to_the_loss_whose_gradient_is_taken(name, architecture, likelihood):
    module, objective, x, y = take(name, architecture, likelihood)
    module.train()
    terms = objective(seeded_trace(module, x, y), 0)
    assert {"distortion", "rate"} <= terms.keys()
    assert all(term.value.shape == (len(x),) for term in terms.values()), "a term has one number per image"
    loss = total(terms)
    by_hand = sum(float(term.weight) * term.value.double().mean() for term in terms.values())
    torch.testing.assert_close(loss.double(), by_hand, rtol=1e-5, atol=0)
    parts = [(float(term.weight), gradients(term.value.mean(), module)) for term in terms.values() if differs(term)]
    summed = {n: sum(weight * part[n] for weight, part in parts) for n, _ in module.named_parameters()}
    assert_same(gradients(loss, module), summed)


def differs(term) -> bool:
    """Whether a term has a gradient: a VQ-VAE's rate is a constant."""
    return term.value.requires_grad


@every_model
def test_the_loop_minimises_the_terms_it_reports(name):
    module, objective, x, y = take(name)
    seen = {}

    def watched(trace, step):
        terms = objective(trace, step)
        if step == 1:  # the loop's rehearsal calls with step 0, on a copy of the module
            seen["gradient"] = gradients(sum(term.weight * term.value.mean() for term in terms.values()), module)
            seen["terms"] = {name: (term.value.mean().item(), float(term.weight)) for name, term in terms.items()}
        return terms

    data = Data(x.permute(0, 2, 3, 1), y)
    history = train(module, watched, data, Plan(steps=2, batch_size=8, learning_rate=1e-3))
    assert_same({n: p.grad for n, p in module.named_parameters()}, seen["gradient"])
    record = history[-1]
    for term, (value, weight) in seen["terms"].items():
        assert record[term] == pytest.approx(value, rel=1e-5)
        assert record.get(f"{term}_weight", 1.0) == pytest.approx(weight, rel=1e-5)
    assert record["objective"] == pytest.approx(sum(v * w for v, w in seen["terms"].values()), rel=1e-5)


# A model is a function of the image


@every_case
@pytest.mark.parametrize("samples", [1, 3])
def test_a_batch_of_8_is_two_of_4_in_eval_mode(name, architecture, likelihood, samples):
    module, _, x, y = take(name, architecture, likelihood)
    module.eval()
    with torch.no_grad():
        whole = seeded_trace(module, x, y, samples)
        halves = [
            seeded_trace(module, x[part], None if y is None else y[part], samples)
            for part in (slice(0, 4), slice(4, 8))
        ]
    parts = [leaves(half) for half in halves]
    for leaf, (value, axis) in leaves(whole).items():
        joined = torch.cat([part[leaf][0] for part in parts], axis)
        assert value.shape == joined.shape
        assert value.shape[axis] == 8
        if value.dtype == torch.int64:
            assert torch.equal(value, joined), leaf
        else:
            torch.testing.assert_close(
                value, joined, rtol=1e-4, atol=1e-4, msg=lambda text, leaf=leaf: f"{leaf}: {text}"
            )
    for penalty in whole.penalties:
        weights = [float(trace.penalties[penalty].weight) for trace in (whole, *halves)]
        assert weights == [weights[0]] * 3, "a weight can't depend on the batch in eval mode"


@every_case
def test_reconstruct_is_decode_of_encode(name, architecture, likelihood):
    module, _, x, y = take(name, architecture, likelihood)
    module.eval()
    with torch.no_grad():
        code = module.encode(x, y)
        images = module.reconstruct(x, y)
        assert torch.equal(images, module.decode(code, y))
        assert torch.equal(images, module.decode_embedded(module.latent.embed(code), y))
        assert torch.equal(code, module(x, y).draws[0].mode)
    assert images.shape == x.shape
    assert images.min() >= 0 and images.max() <= 1


@every_case
def test_samples_are_images_in_the_unit_interval(name, architecture, likelihood):
    module, _, x, _ = take(name, architecture, likelihood)
    module.eval()
    y = torch.arange(5) if module.n_classes else None
    with torch.no_grad():
        first, again, other = (torch.manual_seed(seed) and module.sample(5, y) for seed in (1, 1, 2))
    assert first.shape == (5, *x.shape[1:])
    assert first.min() >= 0 and first.max() <= 1
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", QUANTISED)
def test_codes_survive_embed_and_quantise(name, architecture):
    """embed(quantise(embed(c))) = embed(c), for a codebook of distinct vectors."""
    module, *_ = take(name, architecture)
    latent = module.eval().latent
    with torch.no_grad():
        latent.codebook.copy_(torch.randn(latent.codebook.shape, generator=torch.Generator().manual_seed(0)))
        codes = torch.randint(latent.n_codes, (5, *module.prior.code_shape))
        vectors = latent.embed(codes)
        draw = latent(vectors)
    assert torch.equal(draw.mode, codes)
    assert torch.equal(latent.embed(draw.mode), vectors)
    assert torch.equal(draw.z[0], vectors)


@pytest.mark.parametrize("method", ["forward", "encode", "decode", "decode_embedded", "reconstruct", "sample"])
@every_model
def test_labels_are_compulsory_for_a_conditional_model_and_refused_by_others(name, method):
    module, _, x, y = take(name)
    module.eval()
    labels = torch.zeros(8, dtype=torch.int64)
    with torch.no_grad():
        code = module.encode(x, y)
        argument = {"decode": code, "decode_embedded": module.latent.embed(code), "sample": 8}.get(method, x)
        call = getattr(module, method)
        if module.n_classes:
            with pytest.raises(ValueError, match="conditional: it needs labels y"):
                call(argument)
            call(argument, labels)
        else:
            with pytest.raises(ValueError, match="unconditional: it takes no labels y"):
                call(argument, labels)
            call(argument)


# Densities and rates are what they say, in nats


@pytest.mark.parametrize("log_scale", [-9.0, -3.0, 0.0, 2.0, 9.0])
@pytest.mark.parametrize("location", [-40.0, -1.0, 0.3, 40.0])
def test_the_discretised_logistic_sums_to_1_over_the_256_values(location, log_scale):
    values = (torch.arange(256, dtype=torch.float64) / 255).view(-1, 1, 1, 1)
    out = torch.tensor([location, log_scale], dtype=torch.float64).view(1, 2, 1, 1).expand(256, 2, 1, 1)
    likelihood = DiscretizedLogisticLikelihood()
    assert likelihood.log_prob(out, values).exp().sum().item() == pytest.approx(1, abs=1e-12)
    assert likelihood.log_prob(out.float(), values.float()).exp().sum().item() == pytest.approx(1, abs=1e-3)


def test_the_bernoulli_sums_to_1_over_all_binary_images():
    images = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4))).view(16, 1, 2, 2)
    logits = torch.tensor([-30.0, -0.5, 0.2, 3.0]).view(1, 1, 2, 2).expand(16, 1, 2, 2)
    assert BernoulliLikelihood().log_prob(logits, images).exp().sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("bounded", [True, False])
@pytest.mark.parametrize("variance", [None, LAMBDA, 4.0])
def test_the_gaussian_integrates_to_1(variance, bounded):
    likelihood = GaussianLikelihood(variance=variance, bounded=bounded).eval()
    x = torch.linspace(-30, 30, 60001, dtype=torch.float64)
    log_prob = likelihood.log_prob(torch.tensor(0.7).view(1, 1, 1, 1).double(), x.view(-1, 1, 1, 1))
    assert torch.trapezoid(log_prob.exp(), x).item() == pytest.approx(1, abs=1e-6)


def test_the_uniform_prior_sums_to_1_over_all_codes():
    prior = UniformPrior(n_codes=2, grid=(2, 2))
    codes = torch.tensor(list(itertools.product([0, 1], repeat=4))).view(16, 2, 2)
    assert prior.log_prob(codes).exp().sum().item() == pytest.approx(1, abs=1e-6)
    torch.manual_seed(0)
    drawn = prior.sample(16000).flatten(1) @ torch.tensor([8, 4, 2, 1])
    shares = torch.bincount(drawn, minlength=16) / 16000
    assert (shares - 1 / 16).abs().max() < 5 * math.sqrt(1 / 16 * 15 / 16 / 16000)


def test_the_standard_normal_prior_integrates_to_1():
    axis = torch.linspace(-8, 8, 201)
    codes = torch.cartesian_prod(axis, axis)
    density = StandardNormalPrior(latent_dim=2).log_prob(codes).exp().view(201, 201)
    assert torch.trapezoid(torch.trapezoid(density, axis), axis).item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", GAUSSIAN)
def test_the_sampled_rate_averages_to_the_closed_form_kl(name, training):
    """E[log q(z|x) - log p(z)] = KL[q || p], within the standard error of the draws, for each image."""
    module, _, x, y = take(name, "mlp", n=4)
    module.train(training)
    with torch.no_grad():
        trace = seeded_trace(module, x, y, samples=1000)
    assert trace.rates.keys() == trace.kls.keys()
    rate, kl = trace.rates["z"], trace.kls["z"]
    assert rate.shape == (1000, 4)
    assert (kl > 0).all()
    standard_error = rate.std(0) / math.sqrt(len(rate))
    assert ((rate.mean(0) - kl).abs() < 4 * standard_error).all()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", QUANTISED)
def test_the_rate_of_a_quantised_model_is_h_w_log_k(name, architecture):
    module, objective, x, y = take(name, architecture)
    height, width = module.prior.code_shape
    nats = torch.full((8,), height * width * math.log(6))
    trace = module(x, y, samples=2)
    assert trace.draws[0].mode.shape == (8, height, width)
    torch.testing.assert_close(trace.rates["z"], nats.expand(2, 8))
    torch.testing.assert_close(objective(trace, 0)["rate"].value, nats)


# The report's losses, written out by hand: the library's gradient is theirs times one positive factor


def squared(a, b):
    return (a - b).square().flatten(1).sum(1)  # (B,)


def report_loss(module, x, y, *, beta: float):
    """1/2 ||x - decoder(z)||^2 + beta lambda/2 (tr sigma^2 + mu'mu - d - log det sigma^2), the mean over images."""
    mean, log_var = module.encoder(x, y).chunk(2, dim=1)
    torch.manual_seed(0)
    z = mean + log_var.exp().sqrt() * torch.randn(mean.shape)
    error = squared(x, module.likelihood.mean(module.decoder(z, y)))
    d = mean.shape[1]
    kl = log_var.exp().sum(1) + (mean * mean).sum(1) - d - log_var.sum(1)
    return (0.5 * error + beta * LAMBDA / 2 * kl).mean()


def quantise(module, x, y):
    """Encoder output z_e and the nearest codebook vectors z_q (B, D, h, w), and the image decoded straight through."""
    z_e = module.encoder(x, y)
    distances = (z_e[:, None] - module.latent.codebook[None, :, :, None, None]).square().sum(2)  # (B, K, h, w)
    z_q = F.embedding(distances.argmin(1), module.latent.codebook).movedim(-1, 1)
    return z_e, z_q, module.likelihood.mean(module.decoder(z_e + (z_q - z_e).detach(), y))


def report_vq_loss(module, x, y, *, alpha: float, beta: float):
    """||x - decoder(z_e + sg(z_q - z_e))||^2 + alpha ||sg(z_e) - z_q||^2 + beta ||sg(z_q) - z_e||^2."""
    z_e, z_q, image = quantise(module, x, y)
    penalties = alpha * squared(z_e.detach(), z_q) + beta * squared(z_q.detach(), z_e)
    return (squared(x, image) + penalties).mean()


def library_gradients(module, objective, x, y):
    return gradients(total(objective(seeded_trace(module, x, y), 0)), module)


@pytest.mark.parametrize("architecture", ["wang2023", "conv", "mlp"])
@pytest.mark.parametrize(("name", "beta"), [("vae", 1.0), ("bvae", 1.5), ("cvae", 1.0)])
def test_the_elbo_has_the_gradient_of_the_reports_loss_over_lambda(name, beta, architecture):
    module, objective, x, y = take(name, architecture, "gaussian_fixed")
    if name == "cvae":  # which may weigh the rate outside the report's networks
        beta = getattr(fitted(name, architecture, "gaussian_fixed").filled_in(), "beta", beta)
    twin = copy.deepcopy(module.train()).train()
    by_hand = gradients(report_loss(twin, x, y, beta=beta), twin)
    assert_same(library_gradients(module, objective, x, y), by_hand, factor=1 / LAMBDA)


@pytest.mark.parametrize(("name", "beta"), [("vae", 1.0), ("bvae", 1.5)])
def test_the_elbo_has_the_gradient_of_the_notebooks_loss(name, beta):
    """Mean squared error over pixels + 0.00025 beta KL, as the notebooks have it: lambda = 784/2 * 0.00025."""
    module, objective, x, y = take(name, "wang2023")
    twin = copy.deepcopy(module.train()).train()
    mean, log_var = twin.encoder(x).chunk(2, dim=1)
    torch.manual_seed(0)
    image = twin.decoder(mean + torch.exp(log_var / 2) * torch.randn(mean.shape))
    kl = -0.5 * (1 + log_var - mean**2 - log_var.exp()).sum(1)
    by_hand = gradients(F.mse_loss(image, x) + 0.00025 * beta * kl.mean(), twin)
    assert_same(library_gradients(module, objective, x, y), by_hand, factor=784 / 2 / LAMBDA)


@pytest.mark.parametrize("architecture", ["wang2023", "conv", "mlp"])
def test_the_vq_objective_has_the_gradient_of_the_reports_loss_over_2_lambda(architecture):
    module, objective, x, y = take("vqvae-gradient", architecture, "gaussian_fixed")
    twin = copy.deepcopy(module.train()).train()
    by_hand = gradients(report_vq_loss(twin, x, y, alpha=1.0, beta=0.25), twin)
    assert_same(library_gradients(module, objective, x, y), by_hand, factor=1 / (2 * LAMBDA))
    assert by_hand["latent.codebook"].abs().max() > 0


def test_with_moving_averages_the_vq_objective_has_no_codebook_term():
    module, objective, x, y = take("vqvae-ema", "conv", "gaussian_fixed")
    twin = copy.deepcopy(module.train()).train()
    assert "latent.codebook" not in dict(module.named_parameters())
    by_hand = gradients(report_vq_loss(twin, x, y, alpha=0.0, beta=0.25), twin)
    assert_same(library_gradients(module, objective, x, y), by_hand, factor=1 / (2 * LAMBDA))


def test_weights_reproduce_the_vq_papers_loss_in_mean_form():
    """mse(x, x^) / variance + mse(sg(z_e), z_q) + 0.25 mse(sg(z_q), z_e), every mean over all numbers of the batch."""
    module, objective, x, y = take("vqvae-gradient", "conv", "gaussian_fixed")
    twin = copy.deepcopy(module.train()).train()
    variance = x.var().item()
    z_e, z_q, image = quantise(twin, x, y)
    loss = F.mse_loss(image, x) / variance + F.mse_loss(z_q, z_e.detach()) + 0.25 * F.mse_loss(z_e, z_q.detach())
    ratio = variance * x[0].numel() / z_e[0].numel()
    module.latent.codebook_weight, module.latent.commitment = ratio, 0.25 * ratio
    factor = variance * x[0].numel() / (2 * LAMBDA)
    assert_same(library_gradients(module, objective, x, y), gradients(loss, twin), factor=factor)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("name", "alpha"), [("vqvae-gradient", 1.0), ("vqvae-ema", 0.0)])
def test_with_a_learned_sigma_vq_penalties_keep_their_ratio_to_the_squared_error(name, alpha, training):
    module, objective, x, y = take(name, "conv", "gaussian")
    twin = copy.deepcopy(module.train(training)).train(training)
    module.likelihood.variance.fill_(0.02)
    terms = objective(seeded_trace(module, x, y), 0)
    scale = 25.0  # of the variance that this batch was scored with
    assert (module.likelihood.variance.item() == pytest.approx(0.02)) == (not training), "then sigma follows the batch"
    expected = {"commitment": 0.25} | ({"codebook": alpha} if alpha else {})
    weights = {penalty: terms[penalty].weight for penalty in expected}
    assert {penalty: float(weight) / scale for penalty, weight in weights.items()} == pytest.approx(expected)
    assert not any(weight.requires_grad for weight in weights.values())
    by_hand = gradients(report_vq_loss(twin, x, y, alpha=alpha, beta=0.25), twin)
    assert_same(gradients(total(terms), module), by_hand, factor=scale)


@pytest.mark.parametrize(
    ("model", "parameters"),
    [(VAE, 681_367), (BetaVAE, 681_367), (CVAE, 682_411), (VQVAE, 307_225)],
    ids=["vae", "bvae", "cvae", "vqvae"],
)
def test_the_reports_networks_have_the_reports_parameter_counts(model, parameters):
    x, y = digits(28)
    fit = model(architecture="wang2023", epochs=1, random_state=0, device="cpu").fit(x, y)
    assert fit.n_parameters_ == parameters
    filled = fit.filled_in()
    assert (filled.likelihood, filled.likelihood_variance) == ("gaussian_fixed", LAMBDA)
    assert (filled.learning_rate, filled.batch_size) == (0.005, 100)
    if model is VQVAE:
        assert (filled.n_codes, filled.code_dim, filled.ema) == (10, 2, 0)
    else:
        assert filled.latent_dim == 10
    beta = 1.5 if model is BetaVAE else 1.0
    assert getattr(filled, "beta", beta) == beta


# Training is a function of its seed


class Breaking(nn.Module):
    """An objective that breaks the run in step `at`: by an error, or by Ctrl-C."""

    def __init__(self, objective, at: int | None = None, how: str = "error"):
        super().__init__()
        self.objective, self.at, self.how = objective, at, how

    def forward(self, trace, step):
        if step == self.at and self.how == "error":
            raise OSError("the machine is on fire")
        if step == self.at:
            signal.raise_signal(signal.SIGINT)
        return self.objective(trace, step)


def weights_of(*modules) -> list[tuple[str, torch.Tensor]]:
    return [(name, value) for module in modules for name, value in module.state_dict().items()]


def assert_bit_for_bit(found, expected):
    assert [name for name, _ in found] == [name for name, _ in expected]
    different = [name for (name, a), (_, b) in zip(found, expected, strict=True) if not torch.equal(a, b)]
    assert not different


def timeless(history: list[dict]) -> list[dict]:
    """Records without the clock's readings."""
    clock = ("seconds", "seconds_total", "images_per_second")
    return [{k: v for k, v in record.items() if k not in clock} for record in history]


RESUMES = [
    *itertools.product(MODELS, ["conv"], ["error", "ctrl-c"]),
    ("vae", "wang2023", "error"),  # BatchNorm's running statistics are state too
    ("cvae", "mlp", "ctrl-c"),
    ("vqvae-ema", "resnet", "error"),
]


@pytest.mark.parametrize(
    ("name", "architecture", "how"),
    quick(RESUMES, *(case for case in RESUMES if case[1:] != ("conv", "ctrl-c")), ("vae", "conv", "ctrl-c")),
)
def test_ten_steps_are_five_and_five_more_after_a_resume(name, architecture, how, tmp_path):
    """Bit for bit, from the checkpoint at the end of an epoch (error) and from one within an epoch (Ctrl-C)."""
    start, objective, x, y = take(name, architecture, n=20)
    data = Data(x.permute(0, 2, 3, 1), y)
    batch_size, at, broken_by = (4, 6, OSError) if how == "error" else (6, 4, KeyboardInterrupt)
    plan = Plan(steps=10, batch_size=batch_size, learning_rate=2e-3, warmup=3, seed=7)

    def run(folder: str, at: int | None = None):
        module, breaking = copy.deepcopy(start), Breaking(copy.deepcopy(objective), at, how)
        run = RunFolder(tmp_path / folder)
        run.path.mkdir(exist_ok=True)
        history = train(module, breaking, data, plan, folder=run)
        return weights_of(module, breaking), history, run.log()

    weights, history, log = run("whole")
    with pytest.raises(broken_by):
        run("broken", at)
    broken = RunFolder(tmp_path / "broken")
    assert broken.load_checkpoint()[1]["step"] == 5
    broken.append({"epoch": 2, "step": 9})  # the log may be ahead of the checkpoint: it is cut back
    resumed, resumed_history, resumed_log = run("broken")
    assert_bit_for_bit(resumed, weights)
    assert timeless(resumed_history) == timeless(history)
    assert timeless(resumed_log) == timeless(log) == timeless(history)
    assert history[-1]["step"] == 10
    moved = [
        key for (key, a), (_, b) in zip(weights, weights_of(start, Breaking(objective)), strict=True) if (a != b).any()
    ]
    assert {key for key, _ in start.named_parameters()} <= set(moved), "ten steps move every parameter"


@every_model
def test_the_same_seed_gives_the_same_weights_twice(name):
    x, y = digits(8)
    model = clone(MODELS[name]).set_params(epochs=2, batch_size=10, random_state=3, device="cpu")
    first = model.fit(x, y)
    torch.manual_seed(99)  # the caller's random numbers have no part in it
    again, other = clone(model).fit(x, y), clone(model).set_params(random_state=4).fit(x, y)
    assert_bit_for_bit(weights_of(again.model_), weights_of(first.model_))
    assert timeless(again.history_) == timeless(first.history_)
    assert not torch.equal(next(other.model_.parameters()), next(first.model_.parameters()))


def test_gaussian_models_have_a_gaussian_latent_and_the_others_a_grid():
    """The two lists that laws are stated over hold what their names say."""
    assert all(isinstance(take(name)[0].latent, GaussianLatent) for name in GAUSSIAN)
    assert all(len(take(name)[0].prior.code_shape) == 2 for name in QUANTISED)
