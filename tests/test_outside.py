"""Models from outside: parts, an objective, kinds of priors and estimators that the package has never seen, entered in its
tables, go through all that its own ones go through.
"""

import copy
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

import vaekit
from vaekit.data.images import Images
from vaekit.estimators.base import Estimator
from vaekit.explorer.explored import Explored
from vaekit.export import ExportFailed, export_onnx
from vaekit.export.files import to_onnx, verify
from vaekit.export.graphs import graphs_of
from vaekit.models.autoencoder import Autoencoder
from vaekit.models.objectives import distortion_and_rate
from vaekit.parts.graphs import Graph, code_input
from vaekit.parts.latents import Draw, Latent
from vaekit.parts.likelihoods import LIKELIHOODS, Likelihood
from vaekit.parts.networks import make_networks
from vaekit.parts.priors import LearnedPrior, StandardNormalPrior, UniformPrior
from vaekit.parts.quantizers import Quantizer, count
from vaekit.registry import MODELS, Model
from vaekit.report.doctor import examine
from vaekit.report.measure import measure_run
from vaekit.tensors import Term, gaussian_log_prob, straight_through
from vaekit.training.kinds import KINDS, Kind

SMALL = {
    "latent_dim": 3,
    "architecture": "mlp",
    "width": 16,
    "epochs": 4,
    "batch_size": 32,
    "random_state": 0,
    "device": "cpu",
}


# The parts


class SharedNoise(Latent):
    """q(z|x) = N(mean, s^2 I) with the same s, learned, for all images."""

    def __init__(self, width: int):
        super().__init__()
        self.features = self.width = width
        self.log_var = nn.Parameter(torch.tensor(-1.0))

    def forward(self, h, samples=1):
        log_var = self.log_var.expand_as(h)
        noise = torch.randn(samples, len(h) if self.training or self.independent else 1, self.width)
        z = h + (0.5 * log_var).exp() * noise
        return Draw(z, z, h, gaussian_log_prob(z, h, log_var).sum(-1), (h, log_var), {})


class Levels(Quantizer):
    """Each number of a vector, drawn into (-1, 1), becomes the nearest of so many levels (Mentzer et al. 2023)."""

    def __init__(self, levels: tuple[int, ...]):
        super().__init__(n_codes=math.prod(levels), features=len(levels), width=len(levels))
        self.register_buffer("last", torch.tensor(levels) - 1)
        self.register_buffer("places", torch.tensor([math.prod(levels[:i]) for i in range(len(levels))]))

    def vectors(self):
        steps = torch.arange(self.n_codes)[:, None] // self.places % (self.last + 1)
        return 2 * steps / self.last - 1

    def forward(self, h, samples=1):
        bounded = torch.tanh(h.movedim(1, -1))
        steps = ((bounded + 1) / 2 * self.last).round()
        z = straight_through(bounded, 2 * steps / self.last - 1).movedim(-1, 1)
        code = (steps.long() * self.places).sum(-1)
        if self.training:
            self.counts += count(code.flatten(), self.n_codes)
        none = h.new_zeros(samples, len(h))
        return Draw(z.expand(samples, *z.shape), code.expand(samples, *code.shape), code, none, None, {})


class Laplace(Likelihood):
    """x ~ Laplace(sigmoid(out), 0.1) per pixel."""

    def start(self, x):
        return torch.logit(x.mean((0, 2, 3)), eps=0.01)

    def log_prob(self, out, x):
        return -((x - self.mean(out)).abs() / 0.1 + math.log(0.2)).flatten(1).sum(1)

    def mean(self, out):
        return torch.sigmoid(out)

    def describe(self):
        return "Laplace, scale 0.1"


class Box(LearnedPrior):
    """p(z|y) = N(mean, variance) of the latents of a class, dimension by dimension."""

    def __init__(self, width: int, n_classes: int):
        super().__init__(n_classes=n_classes)
        self.code_shape = (width,)
        self.register_buffer("means", torch.zeros(max(1, n_classes), width))
        self.register_buffer("log_vars", torch.zeros(max(1, n_classes), width))

    def _log_prob(self, code, y):
        group = torch.zeros(len(code), dtype=torch.int64) if y is None else y
        return gaussian_log_prob(code, self.means[group], self.log_vars[group]).sum(-1)

    def _sample(self, n, y, temperature):
        noise = torch.randn(n, *self.code_shape)
        return Stretched(self)(temperature * noise, y)

    def graph(self):
        def draw(n, rng):
            y = (torch.from_numpy(rng.integers(self.n_classes, size=n)),) if self.n_classes else ()
            return [(torch.from_numpy(rng.standard_normal((n, *self.code_shape), dtype=np.float32)), *y)]

        inputs = {"noise": "draws from N(0, I)", **({"y": "labels"} if self.n_classes else {})}
        module = Stretched(self)
        return Graph(
            "prior", "noise to latents", "Box", module, inputs, {"z": "latents"}, draw, lambda *x: (module(*x),)
        )


class Stretched(nn.Module):
    def __init__(self, prior):
        super().__init__()
        self.prior = prior

    def forward(self, noise, y=None):
        group = torch.zeros(len(noise), dtype=torch.int64) if y is None else y
        return self.prior.means[group] + (0.5 * self.prior.log_vars[group]).exp() * noise


def fit_box(prior, data, seed, deadline=None):
    means, log_vars = data.x.chunk(2, dim=1)
    for group in range(len(prior.means)):
        mine = slice(None) if data.y is None else data.y == group
        prior.means[group] = means[mine].mean(0)
        prior.log_vars[group] = (means[mine].var(0) + log_vars[mine].exp().mean(0)).log()


class Frequencies(LearnedPrior):
    """Every place of the grid for itself: p(code) = prod p_i(code_i), of all classes alike."""

    choices = ("given", "known")

    def __init__(self, n_codes: int, grid):
        super().__init__()
        self.n_codes, self.code_shape = n_codes, tuple(grid)
        self.register_buffer("log_p", torch.full((*grid, n_codes), -math.log(n_codes)))

    def _log_prob(self, code, y):
        return self.log_p.expand(len(code), *self.log_p.shape).gather(-1, code[..., None])[..., 0].sum((1, 2))

    def _sample(self, n, y, temperature, given=None, known=None):
        p = (self.log_p / temperature).softmax(-1).view(-1, self.n_codes)
        drawn = torch.multinomial(p, n, replacement=True).T.reshape(n, *self.code_shape)
        return drawn if given is None else torch.where(known, given, drawn)

    def shares(self, codes, cell, y=None):
        return self.log_p.view(-1, self.n_codes)[cell].exp()

    def graph(self):
        def draw(n, rng):
            return [(torch.from_numpy(rng.integers(self.n_codes, size=(n, *self.code_shape))),)]

        module, codes = Alike(self.log_p), code_input(self.n_codes)
        return Graph(
            "prior_step",
            "codes to logits",
            "Frequencies",
            module,
            codes,
            {"logits": "log-probabilities"},
            draw,
            lambda x: (module(x),),
        )


class Alike(nn.Module):
    def __init__(self, log_p):
        super().__init__()
        self.register_buffer("log_p", log_p)

    def forward(self, codes):
        return self.log_p + 0.0 * codes[..., None]


def fit_frequencies(prior, data, seed, deadline=None):
    counts = torch.nn.functional.one_hot(data.x, prior.n_codes).sum(0) + 1.0
    prior.log_p.copy_((counts / counts.sum(-1, keepdim=True)).log())


@dataclass(frozen=True)
class Held:
    """The distortion, and how far the rate is from `nats`."""

    nats: float

    def __call__(self, trace, step):
        distortion, rate = distortion_and_rate(trace)
        return {"distortion": Term(distortion), "rate": Term(rate, 0.0), "held": Term((rate - self.nats).abs(), 2.0)}


# The models


@dataclass(kw_only=True, repr=False, eq=False)
class Outsider(Estimator):
    """A VAE with noise of one size and its rate held at `nats`."""

    nats: float = 5.0
    """Nats per image that the latents hold."""

    def make_objective(self, steps_per_epoch):
        return Held(self.nats)

    def build(self, shape, *, n_classes=0, images=True):
        width = self.latent_dim
        return put_together(self, shape, images, SharedNoise(width), lambda grid: StandardNormalPrior(latent_dim=width))


@dataclass(kw_only=True, repr=False, eq=False)
class OutsiderCodes(Estimator):
    """A grid of codes without a codebook that is learned."""

    def build(self, shape, *, n_classes=0, images=True):
        return put_together(self, shape, images, Levels((3, 4)), lambda grid: UniformPrior(n_codes=12, grid=grid))


def put_together(estimator, shape, images, latent, make_prior):
    likelihood = estimator.build_likelihood(images)
    networks = make_networks(
        estimator.architecture,
        shape,
        features=latent.features,
        latent_dim=latent.width,
        out_channels=likelihood.channels(shape[0]),
        spatial=latent.discrete,
        hidden=estimator.hidden,
    )
    return Autoencoder(
        encoder=networks.encoder,
        latent=latent,
        decoder=networks.decoder,
        prior=make_prior(networks.grid),
        likelihood=likelihood,
        images=images,
    )


CASES = {"outsider": (Outsider, "box"), "outsider_codes": (OutsiderCodes, "frequencies")}
every_case = pytest.mark.parametrize("case", CASES)


@pytest.fixture(scope="module", autouse=True)
def entered():
    """All of it in the package's tables, and out again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(LIKELIHOODS, "laplace", lambda variance, bounded: Laplace())
        patch.setitem(MODELS, "outsider", Model("Outsider", "Outsider", "from outside", __name__, __name__))
        patch.setitem(MODELS, "codes", Model("OutsiderCodes", "Outsider of codes", "too", __name__, __name__))
        patch.setitem(
            KINDS,
            "box",
            Kind("box", False, lambda settings, model, n: Box(model.latent.width, n), fit=fit_box, epochs=1),
        )
        patch.setitem(
            KINDS,
            "frequencies",
            Kind(
                "frequencies",
                True,
                lambda settings, model, n: Frequencies(model.latent.n_codes, model.prior.code_shape),
                fit=fit_frequencies,
                epochs=1,
            ),
        )
        yield


@pytest.fixture(scope="module")
def parts(digits) -> tuple[Images, Images]:
    x, y = digits
    names = tuple(map(str, range(10)))
    return (
        Images(x[:160], y[:160], names, "digits", "train"),
        Images(x[160:220], y[160:220], names, "digits", "test", split="test"),
    )


@pytest.fixture(scope="module")
def runs(parts, tmp_path_factory):
    """Each model, trained in a run folder and with a prior from outside."""
    found = {}
    for case, (make, prior) in CASES.items():
        folder = tmp_path_factory.mktemp("outside") / case
        model = make(likelihood="laplace", **SMALL).fit_images(parts[0], folder=str(folder))
        assert not model.has_prior
        model.fit_prior(parts[0].x, parts[0].y if case == "outsider" else None, prior=prior)
        found[case] = model
    return found


@every_case
def test_it_learns_and_is_used(case, runs, parts):
    model, x = runs[case], parts[1].x
    terms = {"held"} if case == "outsider" else set()
    assert terms <= set(model.history_[0]) and model.history_[-1]["objective"] < model.history_[0]["objective"]
    assert model.reconstruct(x).shape == model.sample(len(x), random_state=0).shape == x.shape
    assert np.isfinite(model.score_samples(x)).all()
    codes = model.encode(x)
    np.testing.assert_array_equal(model.decode(codes), model.reconstruct(x))
    assert model.prior_log_prob(codes).shape == (len(x),)
    facts = model.fitted_.prior.facts
    assert facts["validation_rate"] < facts["plain_rate"] + 1


@every_case
def test_it_is_loaded_as_it_was_saved(case, runs, parts, tmp_path):
    runs[case].save(tmp_path / "run")
    again = vaekit.load(tmp_path / "run")
    assert type(again) is type(runs[case])
    np.testing.assert_array_equal(again.sample(3, random_state=1), runs[case].sample(3, random_state=1))
    np.testing.assert_array_equal(again.transform(parts[1].x), runs[case].transform(parts[1].x))


@every_case
def test_it_is_measured_and_examined(case, runs, parts):
    fitted = runs[case].fitted_
    found = measure_run(fitted, *parts)
    assert found["likelihood"] == "Laplace, scale 0.1" and np.isfinite(found["elbo"])
    assert found["rate"] != found["rate_plain"]
    diagnoses = examine(fitted, *parts)
    assert diagnoses and all(each.words and each.evidence for each in diagnoses)


@every_case
def test_it_is_explored(case, runs, parts):
    model = Explored(runs[case].fitted_, parts[1], case)
    assert model.facts()["no_samples"] is None
    code = model.encode(picture=parts[1].x[0])["code"]
    assert len(model.between(a=code, b=model.decode(point=[0.0, 0.0])["code"])["frames"]) > 2
    drawn = model.sample(seed=1)["code"]
    if case == "outsider_codes":
        kept = model.sample(code=code, start=5, seed=1)["code"]
        assert np.ravel(kept)[:5].tolist() == np.ravel(code)[:5].tolist()
        shares = [choice["probability"] for choice in model.choices(code=drawn, cell=0)["choices"]]
        assert len(shares) == 12 and sum(shares) == pytest.approx(1, abs=1e-4)
    else:
        assert np.shape(drawn) == (3,)
        with pytest.raises(ValueError, match="needs a prior over a grid of codes"):
            model.sample(code=drawn)


@pytest.mark.slow
def test_codes_are_exported(runs, parts, tmp_path):
    from onnxruntime import InferenceSession

    model, x = runs["outsider_codes"], parts[1].x[:7]
    export_onnx(model.fitted_, tmp_path / "out")
    compile((tmp_path / "out" / "example.py").read_text(), "example.py", "exec")
    assert {path.stem for path in (tmp_path / "out").glob("*.onnx")} == {"encoder", "decoder", "codebook", "prior_step"}
    session = InferenceSession(str(tmp_path / "out" / "encoder.onnx"), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {"x": x / np.float32(255)})[0], model.encode(x))


@pytest.mark.slow
def test_latents_and_their_prior_are_exported(runs):
    encoder, _, prior = graphs_of(runs["outsider"].fitted_)
    with torch.no_grad():
        told = [verify(graph, to_onnx(graph), np.random.default_rng(0)) for graph in (encoder, prior)]
    assert [[values["name"] for values in each["outputs"]] for each in told] == [["mean", "log_var"], ["z"]]


# What can't be exported says so


class Silent(Box):
    graph = LearnedPrior.graph


class Looking(Laplace):
    def mean(self, out):
        return torch.sigmoid(out) if float(out.sum()) > 0 else out.clamp(0, 1)


def test_what_has_no_export_is_named(runs, tmp_path):
    fitted = copy.deepcopy(runs["outsider"].fitted_)
    fitted.module.prior = Silent(3, 0)
    with pytest.raises(ValueError, match=r"a Silent can't be exported: it has no `graph`"):
        export_onnx(fitted, tmp_path / "out")
    fitted.module.prior, fitted.module.likelihood = fitted.plain_prior, Looking()
    with pytest.raises(ExportFailed, match=r"decoder.onnx: .* and Looking can't be taken down .*; nothing was written"):
        to_onnx(graphs_of(fitted)[1])
    assert not list(tmp_path.iterdir())
