"""Every part and every model goes through `torch.compile` in one graph, and computes there what it computes without."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from vaekit.estimators import MODELS
from vaekit.parts import (
    AutoregressivePrior,
    BernoulliLikelihood,
    CausalTransformer,
    Condition,
    DiscretizedLogisticLikelihood,
    FlowPrior,
    GatedPixelCNN,
    GaussianLatent,
    GaussianLikelihood,
    MixturePrior,
    StandardNormalPrior,
    UniformPrior,
    VectorQuantizer,
    make_networks,
)
from vaekit.parts.networks import ARCHITECTURES
from vaekit.tensors import total

BATCH = 6


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()


def in_one_graph(function, backend: str = "eager"):
    """`fullgraph` makes a break an error; "eager" runs what was captured as it is, "aot_eager" differentiates it first."""
    return torch.compile(function, fullgraph=True, backend=backend)


def after(function, module: nn.Module, *inputs, seed: int = 1):
    """What `function(*inputs)` returns, the gradients it gives to the module and the module's state after it."""
    torch.manual_seed(seed)
    out = function(*inputs)
    if out.requires_grad:
        out.sum().backward()
    gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    state = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    for parameter in module.parameters():
        parameter.grad = None
    return out.detach(), gradients, state


def assert_same(compiled, plain) -> None:
    torch.testing.assert_close(compiled, plain, rtol=1e-5, atol=1e-6)


def check(function, module: nn.Module, *inputs, backend: str = "eager") -> None:
    """One call each way, from the same state and noise."""
    start = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    plain = after(function, module, *inputs)
    module.load_state_dict(start)
    assert_same(after(in_one_graph(function, backend), module, *inputs), plain)


# Whole models


def training(name: str, architecture: str):
    """A module, its objective and a batch, as `fit` would have them."""
    shape = (28, 28, 1) if architecture == "wang2023" else (8, 8, 1)
    estimator = MODELS[name](architecture=architecture)
    estimator.image_shape_, estimator.classes_ = shape, np.arange(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator.resolved_ = estimator._resolve(100, table=False)
    module = estimator._make_module(0).train()
    objective, _ = estimator.filled_in()._course(10, 0, 5, torch.device("cpu"))
    torch.manual_seed(0)
    x = torch.rand(BATCH, shape[2], *shape[:2])
    return module, objective, x, torch.randint(3, (BATCH,)) if estimator.conditional else None


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", MODELS)
def test_a_training_step_is_one_graph(name, architecture):
    module, objective, x, y = training(name, architecture)
    # The gradient's own graph, too, where it is quick to make.
    backend = "aot_eager" if architecture == "mlp" else "eager"
    check(lambda x, y: total(objective(module(x, y), 3)), module, x, y, backend=backend)


@pytest.mark.parametrize("name", MODELS)
def test_using_a_model_is_one_graph(name):
    module, _, x, y = training(name, "mlp")
    module.eval()
    check(lambda x, y: module.reconstruct(x, y), module, x, y)
    check(lambda y: module.sample(BATCH, y), module, y)


def test_a_learned_beta_is_one_graph():
    module, _, x, _ = training("bvae", "mlp")
    objective = MODELS["bvae"](epsilon=5.0)._make_objective(1)
    both = nn.ModuleList([module, objective])
    before = objective.beta.clone()
    check(lambda x: total(objective(module(x), 0)), both, x, backend="aot_eager")
    assert objective.beta != before


# Parts alone


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator())


def codes(k: int = 5) -> torch.Tensor:
    return torch.randint(k, (BATCH, 2, 3), generator=generator())


def labels() -> torch.Tensor:
    return torch.arange(BATCH) % 3


QUANTIZERS = {
    "by gradient": lambda: VectorQuantizer(n_codes=5, code_dim=4),
    "by moving averages": lambda: VectorQuantizer(n_codes=5, code_dim=4, ema=0.9),
    "without revival": lambda: VectorQuantizer(n_codes=5, code_dim=4, revive=0.0),
}


@pytest.mark.parametrize("kind", QUANTIZERS)
@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_quantizers(kind, mode):
    latent = QUANTIZERS[kind]().train(mode)

    def step(h):
        draw = latent(h, 2)
        return draw.z.sum() + total(draw.penalties) + latent.embed(draw.mode).sum()

    check(step, latent, normal(BATCH, 4, 2, 3), backend="aot_eager")


@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_gaussian_latents(mode):
    latent = GaussianLatent(latent_dim=3).train(mode)
    check(lambda h: latent(h, 2).log_q, latent, normal(BATCH, 6), backend="aot_eager")


@pytest.mark.parametrize(
    "likelihood",
    [
        GaussianLikelihood(),
        GaussianLikelihood(variance=0.1, bounded=False),
        BernoulliLikelihood(),
        DiscretizedLogisticLikelihood(),
    ],
    ids=["learned", "fixed", "bernoulli", "logistic"],
)
def test_likelihoods(likelihood):
    x = torch.rand(BATCH, 2, 4, 4, generator=generator())
    out = normal(BATCH, likelihood.channels(2), 4, 4)
    check(lambda out, x: likelihood.log_prob(out, x) * likelihood.penalty_scale(), likelihood, out, x)
    check(likelihood.mean, likelihood, out)


def mixture(n_classes: int) -> MixturePrior:
    prior = MixturePrior(latent_dim=3, components=2, n_classes=n_classes)
    prior.means.copy_(normal(*prior.means.shape))
    return prior


PRIORS = {
    "standard normal": (lambda: StandardNormalPrior(latent_dim=3), lambda: normal(BATCH, 3)),
    "uniform": (lambda: UniformPrior(n_codes=5, grid=(2, 3)), codes),
    "mixture": (lambda: mixture(0), lambda: normal(BATCH, 3)),
    "mixture of classes": (lambda: mixture(3), lambda: normal(BATCH, 3)),
    "flow": (lambda: FlowPrior(latent_dim=3, layers=2, channels=8), lambda: normal(BATCH, 3)),
    "flow of classes": (lambda: FlowPrior(latent_dim=3, layers=2, channels=8, n_classes=3), lambda: normal(BATCH, 3)),
}
NETWORKS = {"pixelcnn": GatedPixelCNN, "transformer": CausalTransformer}


@pytest.mark.parametrize("kind", PRIORS)
def test_priors(kind):
    make, code = PRIORS[kind]
    prior = make()
    check(prior.log_prob, prior, code(), labels())
    check(prior.log_prob, prior, code())
    check(lambda y: prior.sample(BATCH, y, 0.7), prior, labels())


@pytest.mark.parametrize("n_classes", [0, 3])
@pytest.mark.parametrize("network", NETWORKS)
def test_causal_networks_and_their_prior(network, n_classes):
    """Densities; drawing goes position by position, with what is known already kept from one to the next."""
    net = NETWORKS[network](n_values=5, grid=(2, 3), channels=8, layers=2, n_classes=n_classes, dropout=0.1)
    check(net, net, codes(), labels() if n_classes else None)
    prior = AutoregressivePrior(net)
    for mode in (True, False):
        check(prior.train(mode).log_prob, prior, codes(), labels())
    check(prior.log_prob, prior, codes())


def test_conditions():
    for n_classes in (0, 3):
        condition = Condition(n_classes=n_classes, channels=4)
        check(condition, condition, normal(BATCH, 4, 2, 3), labels() if n_classes else None)


@pytest.mark.parametrize("spatial", [False, True], ids=["vector", "grid"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_networks(architecture, spatial):
    shape = (1, 28, 28) if architecture == "wang2023" else (2, 9, 10)
    n_classes = 0 if architecture == "wang2023" and spatial else 3
    made = make_networks(
        architecture, shape, features=4, latent_dim=4, out_channels=shape[0], spatial=spatial, n_classes=n_classes
    )
    encoder, decoder = made.encoder.eval(), made.decoder.eval()
    y = labels() if n_classes else None
    check(encoder, encoder, torch.rand(BATCH, *shape, generator=generator()), y)
    check(decoder, decoder, normal(BATCH, 4, *(made.grid or ())), y)


def test_a_break_would_be_seen():
    """The check itself: a value that has to leave the device breaks the graph."""
    layer = nn.Linear(2, 2)
    with pytest.raises(Exception, match=r"(?i)unsupported|graph break|data.dependent"):
        check(lambda x: layer(x) if x.sum().item() > 0 else -layer(x), layer, torch.ones(1, 2))
