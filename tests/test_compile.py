"""Every part and every model goes through `torch.compile` in one graph, and computes there what it computes without."""

import os
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from tests.marks import quick
from vaekit import IWAE, VAE, VQVAE, load, open_data
from vaekit.data.format import Format
from vaekit.data.images import Images
from vaekit.estimators.base import Estimator
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
from vaekit.registry import MODELS
from vaekit.tensors import total
from vaekit.training.checkpoint import RunFolder
from vaekit.training.compiled import by_default
from vaekit.training.kinds import resolve_settings
from vaekit.training.settings import PriorSettings

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


def both_ways(function, module: nn.Module, *inputs, backend: str = "eager"):
    """`after` of the compiled function and of the plain one, from the same state and noise."""
    start = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    plain = after(function, module, *inputs)
    module.load_state_dict(start)
    return after(in_one_graph(function, backend), module, *inputs), plain


def check(function, module: nn.Module, *inputs, backend: str = "eager") -> None:
    assert_same(*both_ways(function, module, *inputs, backend=backend))


# Whole models


def training(name: str, architecture: str):
    """A module, its objective and a batch, as `fit` would have them."""
    shape = (28, 28, 1) if architecture == "wang2023" else (8, 8, 1)
    estimator = MODELS[name].estimator()(architecture=architecture)
    format = Format(shape, classes=np.arange(3) if estimator.conditional else None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ready = estimator.filled_in(estimator.resolve(format, 100))
    module, objective = ready.make_module(format, 0).train(), ready.make_objective(5)
    torch.manual_seed(0)
    x = torch.rand(BATCH, shape[2], *shape[:2])
    return module, objective, x, torch.randint(3, (BATCH,)) if estimator.conditional else None


# Every model with one architecture, and every architecture with a model of each kind of latent and condition.
KINDS = ("cvae", "vqvae")
STEPS = [(name, architecture) for name in KINDS for architecture in ("conv", "resnet")]
STEPS += [(name, "mlp") for name in MODELS]


@pytest.mark.parametrize(("name", "architecture"), quick(STEPS, ("vqvae", "mlp")))
def test_a_training_step_is_one_graph(name, architecture):
    module, objective, x, y = training(name, architecture)
    # The gradient's own graph, too, where it is quick to make.
    backend = "aot_eager" if architecture == "mlp" else "eager"
    check(lambda x, y: total(objective(module(x, y), 3)), module, x, y, backend=backend)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_a_training_step_of_the_report_is_one_graph(name):
    """Compiled, its blocks are matrix products (test_strided.py holds them to the layers in double precision). Here rounding
    may put an activation on the other side of a ReLU, so gradients are compared as a whole.
    """
    module, objective, x, y = training(name, "wang2023")
    compiled, plain = both_ways(lambda x, y: total(objective(module(x, y), 3)), module, x, y)
    torch.testing.assert_close(compiled[::2], plain[::2], rtol=1e-4, atol=1e-5)
    left_out = plain[1].keys() - compiled[1].keys()
    assert left_out and all(key.endswith("bias") for key in left_out)  # which BatchNorm subtracts again
    norm = torch.stack([gradient.norm() for gradient in plain[1].values()]).norm()
    away = [(plain[1][key] - compiled[1].get(key, 0.0)).norm() for key in plain[1]]
    assert torch.stack(away).norm() < 0.01 * norm


@pytest.mark.parametrize("name", quick(MODELS, "cvae", "vqvae"))
def test_using_a_model_is_one_graph(name):
    module, _, x, y = training(name, "mlp")
    module.eval()
    check(lambda x, y: module.reconstruct(x, y), module, x, y)
    check(lambda y: module.sample(BATCH, y), module, y)


@pytest.mark.slow
def test_a_learned_beta_is_one_graph():
    module, _, x, _ = training("bvae", "mlp")
    objective = MODELS["bvae"].estimator()(epsilon=5.0).make_objective(1)
    both = nn.ModuleList([module, objective])
    before = objective.beta.clone()
    check(lambda x: total(objective(module(x), 0)), both, x, backend="aot_eager")
    assert objective.beta != before


# Trainings


def rows(n: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, 6))


def table_model(kind=VAE, **fields) -> Estimator:
    return kind(latent_dim=2, width=8, epochs=3, batch_size=16, random_state=0, **fields)


def weights(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.model_.state_dict().items()}


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize("kind", quick([VAE, IWAE], VAE))
def test_a_compiled_training_is_the_plain_one_and_repeats(kind):
    """An IWAE's first half is of one draw, the second of several."""
    x = rows(100)
    plain, compiled, again = (table_model(kind, compile=way).fit(x) for way in (False, True, True))
    torch.testing.assert_close(weights(compiled), weights(plain), rtol=1e-3, atol=1e-4)
    if shutil.which("g++"):  # without a compiler both are plain
        assert any(not torch.equal(tensor, weights(plain)[name]) for name, tensor in weights(compiled).items())
    assert_equal(weights(compiled), weights(again))
    assert compiled.facts_["plan"]["compile"] is True and plain.facts_["plan"]["compile"] is False


@pytest.mark.slow
def test_a_compiled_run_goes_on_compiled(tmp_path, monkeypatch):
    images = Images(rows(100), None, (), "array", "x")
    unbroken = table_model(compile=True).fit_images(images)

    def interrupt(self, record, keep=RunFolder.append):
        keep(self, record)
        if record["epoch"] == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "append", interrupt)
    with pytest.raises(KeyboardInterrupt):
        table_model(compile=True).fit_images(images, folder=tmp_path / "run")
    monkeypatch.undo()
    # The plan decides, and not what the field says now.
    resumed = table_model(compile=False).fit_images(images, folder=tmp_path / "run", resume=True)
    assert resumed.facts_["plan"]["compile"] is True
    assert_equal(weights(resumed), weights(unbroken))


def test_long_trainings_of_a_prior_are_compiled():
    def asked(n, **fields):
        settings = PriorSettings(**fields)
        how = {"n": n, "latent_dim": 0, "n_classes": 0, "device": torch.device("cpu")}
        return resolve_settings(settings, codes=True, **how).compile

    assert asked(60_000) and not asked(1000)
    assert not asked(60_000, epochs=2) and not asked(60_000, prior="transformer") and not asked(60_000, compile=False)
    with pytest.raises(ValueError, match="compile must be None, True or False, got 1"):
        asked(60_000, compile=1)


def test_long_trainings_are_compiled():
    def resolved(n: int, **fields) -> bool:
        return VAE(**fields).resolve(Format((28, 28, 1)), n)["compile"]

    assert resolved(60_000, architecture="wang2023")  # 30,000 steps
    assert not resolved(60_000, architecture="wang2023", epochs=9)
    assert not resolved(60_000)  # 5,616 steps
    assert resolved(60_000, epochs=50)
    assert not resolved(60_000, architecture="resnet", epochs=500)
    assert VQVAE(architecture="wang2023").resolve(Format((28, 28, 1)), 60_000)["compile"] is False
    model = VAE(architecture="mlp", compile=1)
    ready = model.filled_in(model.resolve(Format((4,)), 100))
    assert ready.make_plan(10, 0, 5).compile is True  # or run.json could not be resumed from
    with pytest.raises(ValueError, match="compile must be None, True or False, got 'yes'"):
        VAE(compile="yes").fit(rows(20))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_compiled_training_of_a_prior_is_the_plain_one(precision, tmp_path):
    images = open_data("digits").take(range(200))
    model = VQVAE(n_codes=8, code_dim=2, epochs=1, random_state=0).fit_images(images)
    settings = PriorSettings(epochs=1, layers=1, channels=8, dropout=0.2, precision=precision)
    found = {}
    for way in (False, True):
        model.fit_prior_images(images, replace(settings, compile=way))
        assert model.prior_settings_.compile is way
        found[way] = model.prior_facts_["validation_rate"], weights(model)
    assert found[True][0] == pytest.approx(found[False][0], rel=1e-4 if precision == "float32" else 1e-2)
    if shutil.which("g++"):
        assert any(not torch.equal(tensor, found[False][1][name]) for name, tensor in found[True][1].items())
    model.save(tmp_path / "run")
    assert load(tmp_path / "run").prior_settings_ == model.prior_settings_


@pytest.mark.slow
def test_where_nothing_compiles_training_goes_on_without(tmp_path):
    script = """
import numpy as np
from vaekit import VAE
x = np.random.default_rng(0).normal(size=(100, 6))
fits = [VAE(latent_dim=2, width=8, epochs=1, random_state=0, compile=way, verbose=way).fit(x) for way in (True, False)]
assert fits[0].history_[0]["objective"] == fits[1].history_[0]["objective"]
"""
    surroundings = {**os.environ, "CXX": str(tmp_path / "none"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=surroundings)
    assert done.returncode == 0, done.stderr
    assert "the training step can't be compiled here, and goes on without" in done.stderr


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


@pytest.mark.parametrize("kind", quick(QUANTIZERS, "by moving averages"))
@pytest.mark.parametrize("mode", quick([True, False], True), ids=["train", "eval"])
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
        GaussianLikelihood(bounded=False, by_column=True).of((2, 4, 4)),
        BernoulliLikelihood(),
        DiscretizedLogisticLikelihood(),
    ],
    ids=["learned", "fixed", "columns", "bernoulli", "logistic"],
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


@pytest.mark.parametrize("kind", quick(PRIORS, "mixture of classes"))
def test_priors(kind):
    make, code = PRIORS[kind]
    prior = make()
    check(prior.log_prob, prior, code(), labels())
    check(prior.log_prob, prior, code())
    check(lambda y: prior.sample(BATCH, y, 0.7), prior, labels())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "n_classes"),
    [("pixelcnn", 0), ("pixelcnn", 3), ("transformer", 0), ("transformer", 3)],
)
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


@pytest.mark.parametrize("spatial", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["vector", "grid"])
@pytest.mark.parametrize("architecture", quick(ARCHITECTURES, "conv", "mlp"))
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


def test_nothing_is_compiled_on_cuda_unless_that_is_asked_for(monkeypatch):
    assert by_default("conv", 20_000, "cpu") and not by_default("conv", 19_999, "cpu")
    assert not by_default("conv", 20_000, "cuda:1")
    for there in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert by_default("conv", 20_000, "auto") is not there
