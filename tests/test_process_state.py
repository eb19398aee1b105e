"""vaekit in somebody else's process: it does the same under any settings there, and leaves them as they were."""

import contextlib
import copy
import inspect
import multiprocessing
import pickle
import random
import threading
import warnings
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import sklearn
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import vaekit
from tests.marks import quick
from vaekit import CVAE, VAE, VQVAE, BetaVAE, state
from vaekit.data.opening import open_data
from vaekit.estimators.base import Estimator
from vaekit.estimators.face import Face
from vaekit.evaluation import augmentation, disentanglement, generation, likelihood, representation
from vaekit.files import load
from vaekit.fitted import Fitted
from vaekit.registry import MODELS
from vaekit.world import drawing

SOURCE = Path(vaekit.__file__).parent


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def default_device(name):
    torch.set_default_device(name)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextlib.contextmanager
def grad_off():
    torch.set_grad_enabled(False)
    try:
        yield
    finally:
        torch.set_grad_enabled(True)


@contextlib.contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextlib.contextmanager
def matmul(precision):
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")


@contextlib.contextmanager
def by_backend(owner, precision):
    owner.fp32_precision = precision
    try:
        yield
    finally:
        owner.fp32_precision = "none"  # what it was may have been its parent's, which it would then no longer follow


@contextlib.contextmanager
def errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


STATES = {
    "float64": lambda: default_dtype(torch.float64),
    "float16": lambda: default_dtype(torch.float16),
    "meta": lambda: default_device("meta"),
    "device block": lambda: torch.device("meta"),
    "no_grad": torch.no_grad,
    "grad off": grad_off,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "deterministic": deterministic,
    "anomaly": lambda: torch.autograd.set_detect_anomaly(True, check_nan=False),
    "medium": lambda: matmul("medium"),
    "warnings": errors,
    "numpy": lambda: np.errstate(all="raise"),
    "data frames": lambda: sklearn.config_context(transform_output="pandas"),
}
if hasattr(torch.backends, "fp32_precision"):
    STATES["bf16 products"] = lambda: by_backend(torch.backends.mkldnn.matmul, "bf16")
    STATES["bf16 everywhere"] = lambda: by_backend(torch.backends, "bf16")
    STATES["bf16 convolutions"] = lambda: by_backend(torch.backends.mkldnn.conv, "bf16")


def process_state() -> tuple:
    """All that a call could leave changed, comparable."""
    numpy_state = np.random.get_state()
    try:
        precision = torch.get_float32_matmul_precision()
    except RuntimeError:
        precision = None
    backends = (torch.backends, torch.backends.cuda.matmul, torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv)
    return (
        torch.get_default_dtype(),
        torch.tensor(0.0).device,
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_autocast_dtype("cpu"),
        torch.is_autocast_cache_enabled(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.is_anomaly_enabled(),
        torch.is_anomaly_check_nan_enabled(),
        precision,
        [getattr(owner, "fp32_precision", None) for owner in backends],
        torch.backends.cudnn.benchmark,
        torch.get_num_threads(),
        torch.get_num_interop_threads(),
        torch.get_rng_state().tolist(),
        (numpy_state[0], numpy_state[1].tolist(), *numpy_state[2:]),
        random.getstate(),
        np.geterr(),
        list(warnings.filters),
        warnings.showwarning,
        sklearn.get_config(),
        dict(matplotlib.rcParams),
    )


def work(images, tables, folder) -> dict:
    """Everything that an estimator does, little of each."""
    x, y = images
    model = CVAE(architecture="mlp", width=16, latent_dim=2, epochs=1, random_state=0).fit(x, y)
    found = {
        "fit": torch.cat([p.detach().flatten() for p in model.model_.parameters()]).numpy(),
        "transform": model.transform(x[:9], y[:9]),
        "score": model.score_samples(x[:9]),
        "predict": model.predict_proba(x[:9]),
        "reconstruct": model.reconstruct(x[:9]),
        "sample": model.sample(3, random_state=1),
        "partial": model.partial_fit(x[:64], y[:64]).transform(x[:2], y[:2]),
        "prior": model.fit_prior(x, y, prior="flow", layers=2, channels=8, epochs=1).sample(2, random_state=2),
    }
    model.save(folder / "cvae")
    again = load(folder / "cvae")
    found["loaded"] = again.sample(2, random_state=2)
    data = again.fitted_.data(open_data("digits", "test").take(slice(40)))
    found["evaluate"] = likelihood.evaluate(again.model_, data)["elbo"]
    found["nll"] = likelihood.importance_nll(again.model_, data, k=5)["nll"]
    table = BetaVAE(latent_dim=2, epochs=1, random_state=0).fit(tables)
    found["table"] = table.score_samples(tables[:5])
    found["table sample"] = table.sample(2, random_state=0)
    quantizer = VQVAE(n_codes=8, code_dim=2, epochs=1, random_state=0, early_stopping=True).fit(x)
    found["codes"] = quantizer.encode(x[:9])
    quantizer.fit_prior(x[:64], layers=1, channels=8, epochs=1)
    found["complete"] = quantizer.complete(x[:2], np.arange(64).reshape(8, 8) < 32, random_state=0)
    found["rate"] = quantizer.prior_log_prob(quantizer.encode(x[:3]))
    return found


@pytest.fixture(scope="module")
def data(digits):
    x, y = digits
    return (x[:200], y[:200]), np.random.default_rng(0).normal(size=(128, 3))


@pytest.fixture(scope="module")
def plain(data, tmp_path_factory):
    return work(*data, tmp_path_factory.mktemp("plain"))


def assert_alike(found: dict, expected: dict) -> None:
    for name, value in expected.items():
        np.testing.assert_array_equal(np.asarray(found[name]), np.asarray(value), err_msg=name)
        assert np.asarray(found[name]).dtype == np.asarray(value).dtype, name


@pytest.mark.parametrize(
    "name", quick(STATES, "float64", "meta", "inference_mode", "autocast", "deterministic", "warnings", "data frames")
)
def test_an_estimator_does_the_same_under_any_setting_and_leaves_it(name, data, plain, tmp_path):
    with STATES[name]():
        before = process_state()
        found = work(*data, tmp_path)
        assert process_state() == before
    assert_alike(found, plain)


@given(st.lists(st.sampled_from(sorted(STATES)), unique=True, min_size=2))
@example(sorted(STATES))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_settings_together(data, names):
    (x, y), _ = data

    def short() -> dict:
        model = VAE(architecture="mlp", width=8, latent_dim=2, epochs=1, batch_size=100, random_state=3).fit(x, y)
        return {
            "z": np.asarray(model.transform(x[:5])),
            "nats": model.score_samples(x[:5]),
            "new": model.sample(2, random_state=0),
        }

    expected = short()
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(STATES[name]())
        before = process_state()
        found = short()
        assert process_state() == before
    assert_alike(found, expected)


@pytest.mark.slow
def test_evaluation_does_the_same_under_all_settings_together(digits):
    x, y = digits
    rng = np.random.default_rng(0)
    codes, factors = rng.normal(size=(600, 3)), rng.integers(4, size=(600, 2))
    with generation.seeded(0):
        judge = generation.Judge(channels=1, n_classes=10)

    def measure() -> dict:
        samples = generation.measure_samples(judge.embed, x[:60], x[60:120], x[120:180])
        copies = generation.copy_check(x[:20], x[20:80], x[80:100])._asdict()
        return {
            **samples,
            **copies,
            **representation.measure_representation(
                codes[:300], y[:300], codes[300:], y[300:600], train_x=x[:300], x=x[300:600]
            ),
            **representation.class_independence(codes, y[:600]),
            **representation.reconstruction_quality(x[:9], x[9:18]),
            **disentanglement.disentanglement(codes, factors),
            "consistency": generation.class_consistency(judge, x[:50], y[:50]),
            "accuracy": augmentation.classification_accuracy_score((x[:64], y[:64]), (x[64:128], y[64:128]), steps=3),
        }

    expected = measure()
    with contextlib.ExitStack() as stack:
        for enter in STATES.values():
            stack.enter_context(enter())
        before = process_state()
        found = measure()
        assert process_state() == before
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


# ---- which functions ---------------------------------------------------------------------------------------------

PURE = {
    "attach",
    "config",
    "describe_end",
    "in_pixels",
    "steps_per_epoch",
    "filled_in",
    "settings",
    "sampling_classes",
    "sampling_shares",
}
FOR_AUTHORS = {
    "build",
    "build_likelihood",
    "defaults",
    "elbo",
    "make_module",
    "make_objective",
    "make_plan",
    "optimizer_for",
    "resolve",
}


def undecorated(owner) -> set[str]:
    functions = {name: member for name, member in vars(owner).items() if inspect.isfunction(member)}
    return {
        name
        for name, member in functions.items()
        if not name.startswith("_") and member.__module__.startswith("vaekit") and not hasattr(member, "__wrapped__")
    }


@pytest.mark.parametrize(
    "owner",
    [Face, Estimator, Fitted, *(model.estimator() for model in MODELS.values())],
    ids=lambda owner: owner.__name__,
)
def test_every_public_method_is_undisturbed(owner):
    assert undecorated(owner) <= PURE | FOR_AUTHORS | {"check_fields"}


def test_decorated_methods_look_as_they_are_written():
    assert list(inspect.signature(VAE.fit).parameters) == ["self", "X", "y"]
    assert list(inspect.signature(VAE.sample).parameters)[1:4] == ["n", "y", "temperature"]
    assert VAE.fit.__doc__.startswith("Trains on X") and VAE.fit.__name__ == "fit"


def test_warnings_of_ours_go_through_one_function():
    """Others would be shown where the caller has made errors of warnings."""
    users = [path for path in SOURCE.rglob("*.py") if "warnings.warn(" in path.read_text()]
    assert users == [SOURCE / "state.py"]


# ---- warnings ----------------------------------------------------------------------------------------------------


@state.undisturbed
def noisy() -> str:
    warnings.warn("somebody else's", DeprecationWarning, stacklevel=1)
    return "done"


def test_warnings_of_others_are_shown_where_they_would_be_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.warns(DeprecationWarning, match="somebody else's"):
            warnings.simplefilter("error")
            assert noisy() == "done"
        with pytest.raises(DeprecationWarning):
            warnings.warn("mine", DeprecationWarning, stacklevel=1)


def test_warnings_of_ours_are_what_the_caller_makes_of_them(digits):
    x, _ = digits
    grey = VAE(architecture="mlp", width=8, epochs=1, likelihood="bernoulli", random_state=0)
    with pytest.warns(UserWarning, match="black-and-white") as record:
        grey.fit(x[:100])
    assert [warning.filename for warning in record] == [__file__]  # the line that called us
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = list(warnings.filters)
        with pytest.raises(UserWarning, match="black-and-white"):
            grey.fit(x[:100])
        assert list(warnings.filters) == before
        with pytest.raises(UserWarning, match="n_codes lowered"):
            VQVAE(architecture="mlp", n_codes=5000, epochs=1).fit(x[:20])
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("ignore")
        grey.fit(x[:100])
    assert not record


# ---- threads, processes, copies ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted(digits) -> VAE:
    return VAE(architecture="mlp", width=8, latent_dim=2, epochs=1, random_state=0).fit(digits[0][:100])


def test_threads_at_the_same_time_leave_what_they_share(fitted, digits):
    """The last one out puts back what the first one in found, however they overlap."""
    x, found, ready = digits[0][:10], [], threading.Barrier(4)
    expected = fitted.score_samples(x)

    def use() -> None:
        ready.wait()
        for _ in range(5):
            found.append(fitted.score_samples(x))

    with default_dtype(torch.float64), errors():
        before = process_state()
        threads = [threading.Thread(target=use) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert process_state() == before
    assert len(found) == 20
    for scores in found:
        np.testing.assert_array_equal(scores, expected)


def test_threads_that_train_and_draw_at_the_same_time_get_what_they_would_get_alone(digits):
    """Torch has one stream of random numbers for all of them."""
    x, found, ready = digits[0][:200], {}, threading.Barrier(3)

    def train(seed: int) -> np.ndarray:
        return (
            VAE(architecture="mlp", width=8, epochs=4, early_stopping=True, random_state=seed)
            .fit(x)
            .score_samples(x[:9])
        )

    expected = {seed: train(seed) for seed in range(3)}

    def use(seed: int) -> None:
        ready.wait()
        found[seed] = train(seed)

    before = process_state()
    threads = [threading.Thread(target=use, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert process_state() == before
    assert_alike(found, expected)


def _scores_in_child(model, x, connection) -> None:
    scores = model.score_samples(x)
    connection.send((scores, str(torch.get_default_dtype())))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
def test_a_process_forked_while_another_thread_is_at_it_is_the_callers_again(fitted, digits):
    x = digits[0][:10]
    expected = fitted.score_samples(x)
    inside, over = threading.Event(), threading.Event()

    @state.undisturbed
    def long() -> None:
        inside.set()
        over.wait(60)

    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    with default_dtype(torch.float64):
        thread = threading.Thread(target=long)
        thread.start()
        inside.wait(60)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # newer Pythons warn of forks with threads
            child = context.Process(target=_scores_in_child, args=(fitted, x, sender))
            child.start()
        assert receiver.poll(60)
        scores, dtype = receiver.recv()
        child.join(60)
        over.set()
        thread.join(60)
        assert torch.get_default_dtype() == torch.float64
    np.testing.assert_array_equal(scores, expected)
    assert dtype == "torch.float64"


@pytest.mark.parametrize(
    "way", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["deepcopy", "pickle"]
)
def test_a_fitted_estimator_can_be_copied(way, digits):
    x, y = digits
    model = CVAE(architecture="mlp", width=8, latent_dim=2, epochs=1, random_state=0).fit(x[:100], y[:100])
    model.partial_fit(x[:50], y[:50]).fit_prior(x[:100], y[:100], prior="flow", layers=2, channels=8, epochs=1)
    other = way(model)
    np.testing.assert_array_equal(other.score_samples(x[:5]), model.score_samples(x[:5]))
    np.testing.assert_array_equal(other.sample(3, random_state=0), model.sample(3, random_state=0))
    assert other.history_ == model.history_
    alike = [one.partial_fit(x[:50], y[:50]).transform(x[:5], y[:5]) for one in (other, model)]
    np.testing.assert_array_equal(*alike)


# ---- random_state=None -------------------------------------------------------------------------------------------


def drawn_once() -> tuple:
    np.random.seed(7)
    np.random.randint(2**31 - 1)
    return np.random.get_state()[2], np.random.get_state()[1].tolist()


DRAWS = {
    "fit": lambda model, x: VAE(architecture="mlp", width=8, epochs=1).fit(x).transform(x[:3]),
    "partial_fit": lambda model, x: VAE(architecture="mlp", width=8, epochs=1).partial_fit(x).transform(x[:3]),
    "early stopping": lambda model, x: (
        VAE(architecture="mlp", width=8, epochs=1, early_stopping=True).fit(x).transform(x)
    ),
    "sample": lambda model, x: model.sample(3),
    "labels": lambda model, x: model.sample(9, prior="plain"),
    "complete": lambda model, x: model.complete(x[:2], np.zeros((8, 8), bool)),
}


@pytest.fixture(scope="module")
def with_prior(digits) -> VQVAE:
    x = digits[0][:64]
    model = VQVAE(n_codes=8, code_dim=2, epochs=1, random_state=0).fit(x)
    return model.fit_prior(x, layers=1, channels=8, epochs=1)


@pytest.mark.parametrize("name", DRAWS)
def test_without_a_random_state_the_seed_comes_from_numpys_global_state_once(name, with_prior, digits):
    x, found = digits[0][:64], []
    for seed in (7, 7, 8):
        np.random.seed(seed)
        found.append(DRAWS[name](with_prior, x))
        if seed == 7:
            assert (np.random.get_state()[2], np.random.get_state()[1].tolist()) == drawn_once()
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


def test_a_prior_has_the_models_seed_and_leaves_numpys_state(with_prior, digits):
    np.random.seed(7)
    before = process_state()
    with_prior.fit_prior(digits[0][:64], layers=1, channels=8, epochs=1)
    assert process_state() == before and with_prior.prior_facts_["seed"] == 0


def test_the_drawn_seed_is_recorded_and_gives_the_same_run(digits):
    x = digits[0][:64]
    np.random.seed(7)
    drawn = VAE(architecture="mlp", width=8, epochs=1).fit(x)
    again = VAE(architecture="mlp", width=8, epochs=1, random_state=drawn.facts_["seed"]).fit(x)
    np.testing.assert_array_equal(drawn.transform(x), again.transform(x))


# ---- parts in somebody's own loop --------------------------------------------------------------------------------


@contextlib.contextmanager
def as_default():
    with default_dtype(torch.float64):
        yield lambda module: module


@contextlib.contextmanager
def as_made():
    yield lambda module: module.double()


@pytest.mark.parametrize("way", [as_default, as_made])
@pytest.mark.parametrize("cls", [VAE, BetaVAE, CVAE, VQVAE], ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("architecture", ["mlp", "conv", "resnet"])
def test_parts_follow_a_float64_of_the_users(cls, architecture, way):
    from vaekit.models import Elbo
    from vaekit.tensors import total

    with way() as made:
        estimator = cls(
            architecture=architecture,
            likelihood="gaussian",
            **(
                {"n_codes": 8, "code_dim": 2, "codebook_init": "kmeans", "ema": 0.9, "revive": 0.1}
                if cls is VQVAE
                else {}
            ),
        )
        module = made(estimator.build((1, 8, 8), n_classes=3 if cls is CVAE else 0))
        x = torch.rand(12, 1, 8, 8, dtype=torch.float64)
        y = torch.arange(12) % 3 if cls is CVAE else None
        module.train()
        module.prime(x, y)
        loss = total(Elbo()(module(x, y), 0))
        loss.backward()
        assert loss.dtype == torch.float64
        assert {p.grad.dtype for p in module.parameters() if p.grad is not None} == {torch.float64}
        module.eval()
        assert module.reconstruct(x, y).dtype == torch.float64
        assert module.sample(4, None if y is None else y[:4]).dtype == torch.float64


@pytest.mark.parametrize("way", [as_default, as_made])
@pytest.mark.parametrize("kind", ["mixture", "flow", "pixelcnn", "transformer", "uniform", "normal"])
def test_priors_follow_a_float64_of_the_users(kind, way):
    from vaekit import parts

    with way() as made:
        prior = {
            "mixture": lambda: parts.MixturePrior(latent_dim=2, components=3, n_classes=2),
            "flow": lambda: parts.FlowPrior(latent_dim=2, layers=2, channels=4),
            "pixelcnn": lambda: parts.AutoregressivePrior(
                parts.GatedPixelCNN(n_values=4, grid=(2, 2), channels=4, layers=1)
            ),
            "transformer": lambda: parts.AutoregressivePrior(
                parts.CausalTransformer(n_values=4, grid=(2, 2), channels=32, layers=1)
            ),
            "uniform": lambda: parts.UniformPrior(n_codes=4, grid=(2, 2)),
            "normal": lambda: parts.StandardNormalPrior(latent_dim=2),
        }[kind]()
        prior = made(prior)
        drawn = prior.sample(5)
        assert drawn.dtype == (torch.float64 if kind in ("mixture", "flow", "normal") else torch.int64)
        nats = prior.log_prob(drawn)
        assert nats.dtype == torch.float64 and nats.isfinite().all()


def test_a_device_that_is_not_in_use_is_not_seeded(monkeypatch):
    """Torch would write the stack down for it at every step, and keep the seed for when it comes to be used."""
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.xpu, "is_initialized", lambda: False)
    seeded_with = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded_with.append)
    monkeypatch.setattr(torch.xpu, "manual_seed_all", seeded_with.append)
    x = np.random.default_rng(0).normal(size=(40, 5))
    VAE(latent_dim=2, width=8, epochs=1, random_state=0, device="cpu").fit(x).sample(3)
    assert seeded_with == []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with drawing(7):
        drawn = torch.rand(3)
    assert seeded_with == [7]
    torch.testing.assert_close(drawn, torch.rand(3, generator=torch.Generator().manual_seed(7)), rtol=0, atol=0)
