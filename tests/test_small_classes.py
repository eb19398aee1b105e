"""Classes of one image or a few: every one is trained on, has a prior and samples, for every seed."""

import copy
import functools
import itertools
import math
import subprocess
import sys
import threading
import time
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from filelock import FileLock, Timeout
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from tests.marks import quick
from vaekit import CVAE, VAE, VQVAE, BetaVAE, TrainingFailed
from vaekit.data import open_data
from vaekit.data.splits import hold_out
from vaekit.estimators import fitting
from vaekit.estimators.base import Estimator
from vaekit.evaluation import generation
from vaekit.parts.priors import MixturePrior
from vaekit.report.compare import compare
from vaekit.second_stage import fit_prior_to
from vaekit.training.loop import train
from vaekit.training.mixture import fit_gmm
from vaekit.training.rates import Codes

TINY = {"architecture": "mlp", "epochs": 2, "random_state": 0, "device": "cpu", "verbose": False}
QUICK = {
    "gmm": {},
    "vamp": {"epochs": 1, "batch_size": 32},
    "flow": {"epochs": 1, "layers": 2, "channels": 8},
    "matching": {"epochs": 1, "layers": 1, "channels": 8},
    "pixelcnn": {"epochs": 1, "layers": 1, "channels": 8},
    "transformer": {"epochs": 1, "layers": 1, "channels": 8},
}
KINDS = {"gmm": "vae", "vamp": "vae", "flow": "vae", "matching": "vae", "pixelcnn": "vqvae", "transformer": "vqvae"}


@functools.cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    x, y = load_digits(return_X_y=True)
    return (x.reshape(-1, 8, 8) / 16 * 255).astype(np.uint8), y


@functools.cache
def fitted(kind: str):
    """A model of 200 digits, which tests copy before they change it."""
    x, _ = digits()
    model = VAE(latent_dim=3, **TINY) if kind == "vae" else VQVAE(n_codes=8, **TINY)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(x[:200])


def labels(sizes) -> np.ndarray:
    """Labels of classes of `sizes` images, mixed."""
    return np.random.default_rng(5).permutation(np.repeat(np.arange(len(sizes)), sizes))


SETS = {
    "one of one image": [1, 20, 20, 20],
    "all of one image": [1] * 7,
    "two images in all": [1, 1],
    "two images of one class": [2],
    "one class": [30],
    "one image": [1],
    "of two images": [2] * 9,
    "one large and many small": [60, 1, 2, 3, 1],
}


@pytest.mark.parametrize(
    ("prior", "which"),
    quick(
        itertools.product(QUICK, SETS),
        *(("gmm", which) for which in SETS),
        *((prior, "one large and many small") for prior in QUICK if prior != "gmm"),
    ),
)
def test_every_class_with_an_image_has_a_prior(prior, which):
    sizes = SETS[which]
    y = labels(sizes)
    model = copy.deepcopy(fitted(KINDS[prior])).fit_prior(digits()[0][: len(y)], y, prior=prior, **QUICK[prior])
    held = model.prior_facts_["validation_images"]
    assert held == (min(max(1, round(0.05 * len(y))), len(y) - len(sizes)) or len(y))
    assert math.isfinite(model.prior_facts_["validation_rate"])
    assert model.prior_classes_.tolist() == list(range(len(sizes)))
    shares = model.with_prior("fitted").prior.class_shares.numpy()
    assert (shares > 0).all() and shares.sum() == pytest.approx(1)
    samples = model.sample(2 * len(sizes), np.repeat(np.arange(len(sizes)), 2), random_state=0)
    assert len(samples) == 2 * len(sizes) and np.isfinite(samples).all()
    assert np.isfinite(model.score_samples(digits()[0][: len(y)])).all()


@pytest.mark.parametrize("prior", ["gmm", "vamp", "flow"])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_images_without_labels_have_a_prior(prior, n):
    model = copy.deepcopy(fitted("vae")).fit_prior(digits()[0][:n], prior=prior, **QUICK[prior])
    assert math.isfinite(model.prior_facts_["validation_rate"])
    assert model.prior_facts_["validation_rate"] < 1000 and np.isfinite(model.sample(3)).all()


@pytest.mark.slow
def test_a_class_of_one_image_has_a_mixture_for_every_seed():
    """And what it says of that class is what its neighbours suggest: around its image, as wide as others are."""
    y = labels([1, 20, 20, 20])
    x = digits()[0][: len(y)]
    rates = []
    for seed in range(20):
        model = copy.deepcopy(fitted("vae")).fit_prior(x, y, random_state=seed)
        rates.append(model.prior_facts_["validation_rate"])
        mean = fitted("vae").transform(x[y == 0])[0]
        np.testing.assert_allclose(model.with_prior("fitted").prior.means[0, 0], mean, rtol=1e-5, atol=1e-6)
    assert np.isfinite(rates).all() and np.max(rates) < 50


@pytest.mark.slow
def test_thirty_classes_of_four_images_have_a_mixture_for_every_seed():
    y = labels([4] * 30)
    for seed in range(5):
        model = copy.deepcopy(fitted("vae")).fit_prior(digits()[0][:120], y, random_state=seed)
        assert model.prior_facts_["validation_images"] == 6 and math.isfinite(model.prior_facts_["validation_rate"])


def test_a_conditional_model_of_classes_of_one_image_has_a_prior():
    y = labels([1, 30, 30])
    model = CVAE(latent_dim=2, **TINY).fit(digits()[0][:61], y).fit_prior(digits()[0][:61], y)
    assert math.isfinite(model.prior_facts_["validation_rate"]) and len(model.sample(3, [0, 1, 2])) == 3


@pytest.mark.parametrize(("asked", "has"), [(2, 1), (21, 20)])
def test_more_components_than_a_class_has_images_are_refused_before_the_work(asked, has, monkeypatch):
    """Of a mixture, not of a VampPrior, which takes an image several times."""
    y = labels([has, 200 - has])
    model = copy.deepcopy(fitted("vae"))
    monkeypatch.setattr("vaekit.training.prior.encode", lambda *_: pytest.fail("it began"))
    with pytest.raises(
        ValueError, match=rf"mixture of {asked} components needs {asked} images to train on; class 0 has"
    ):
        model.fit_prior(digits()[0][:200], y, components=asked)
    assert not model.has_prior


def test_a_small_class_among_large_ones_is_one_gaussian_as_wide_as_classes_are():
    """The others are mixtures of narrow components, which say nothing of how wide a class is."""
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], [1500, 1500, 1])
    z = rng.normal(size=(len(y), 2)) @ np.diag([3.0, 0.5]) + 10 * y[:, None]
    moments = torch.from_numpy(np.concatenate([z, np.full_like(z, -20)], axis=1))
    prior = MixturePrior(latent_dim=2, components=12, n_classes=3).double()
    fit_gmm(prior, Codes(moments, torch.from_numpy(y)), 0)
    drawn = prior.sample(4000, torch.full((4000,), 2)).numpy()
    np.testing.assert_allclose(drawn.mean(0), z[-1], atol=0.3)
    np.testing.assert_allclose(drawn.std(0), [3.0, 0.5], rtol=0.1)


def test_classes_of_one_image_are_as_wide_as_its_posterior():
    """Nothing else says how wide a class is."""
    mean, log_var = torch.randn(5, 3, dtype=torch.float64), torch.tensor([-1.0, 0.0, 1.0]).double().repeat(5, 1)
    prior = MixturePrior(latent_dim=3, components=1, n_classes=5).double()
    fit_gmm(prior, Codes(torch.cat([mean, log_var], 1), torch.arange(5)), 0)
    torch.testing.assert_close(prior.means[:, 0], mean)
    p = prior.precision_cholesky[:, 0]
    torch.testing.assert_close((p @ p.mT).inverse(), torch.diag_embed(log_var.exp()), rtol=1e-6, atol=1e-6)


@settings(deadline=None, max_examples=100)
@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=12),
    fraction=st.floats(0, 0.99),
    seed=st.integers(0, 2**32),
)
def test_what_is_held_out_leaves_no_class_empty(sizes, fraction, seed):
    y = labels(sizes)
    kept, held = hold_out(len(y), fraction, seed, y)
    np.testing.assert_array_equal(np.sort(np.concatenate([kept, held])), np.arange(len(y)))
    assert set(y[kept]) == set(y)
    assert len(held) == min(max(1, round(fraction * len(y))), len(y) - len(sizes))
    # Spread over the classes by what each has to give.
    if len(held):
        counts, free = np.bincount(y[held], minlength=len(sizes)), np.array(sizes) - 1
        assert (np.abs(counts - len(held) * free / free.sum()) < 1).all()


def test_without_labels_what_is_held_out_is_a_random_part():
    order = np.random.default_rng(3).permutation(50)
    kept, held = hold_out(50, 0.1, 3)
    np.testing.assert_array_equal(kept, order[5:])
    np.testing.assert_array_equal(held, order[:5])


# Early stopping


def test_early_stopping_leaves_a_conditional_model_every_class():
    held_out = fitting.held_out
    y = labels([1, 1, 1, 40, 40])
    for seed in range(8):
        model = CVAE(latent_dim=2, early_stopping=True, **{**TINY, "epochs": 1, "random_state": seed})
        seen = {}

        def take(*given, seen=seen, **how):
            seen["parts"] = held_out(*given, **how)
            return seen["parts"]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fitting, "held_out", take)
            model.fit(digits()[0][: len(y)], y)
        kept, held = seen["parts"]
        assert set(kept.y) == {0, 1, 2, 3, 4} and set(held.y) == {3, 4}
        assert len(kept) + len(held) == len(y)


def test_early_stopping_of_classes_of_one_image_says_what_to_do():
    model = CVAE(latent_dim=2, early_stopping=True, **TINY)
    with pytest.raises(ValueError, match="one image of each class: train without it"):
        model.fit(digits()[0][:5], np.arange(5))


# The judge


@pytest.fixture
def parts(tmp_path, monkeypatch):
    monkeypatch.setenv("VAEKIT_CACHE", str(tmp_path / "cache"))
    x, y = digits()
    np.savez(tmp_path / "digits.npz", x=x[:300], y=y[:300])
    return tuple(open_data(str(tmp_path / "digits.npz"), part) for part in ("train", "test"))


def judge_files(tmp_path, suffix: str):
    return sorted((tmp_path / "cache" / "judges").glob(f"*.{suffix}"))


@pytest.mark.slow
def test_the_judge_stops_when_its_held_out_loss_rests(parts, monkeypatch):
    histories = []

    def kept(*arguments, **options):
        histories.append(train(*arguments, **options))
        return histories[-1]

    monkeypatch.setattr(generation, "train", kept)
    monkeypatch.setattr(generation, "JUDGE_EPOCHS", 200)
    images = parts[0].take(np.arange(64))
    generation.get_judge(images, parts[1])
    losses = [record["validation_cross_entropy"] for record in histories[0]]
    counted = losses[generation.JUDGE_FEWEST_EPOCHS - 1 :]
    assert len(losses) < 200 and int(np.argmin(counted)) == len(counted) - 1 - generation.JUDGE_PATIENCE


@pytest.mark.parametrize("sizes", [[1, 1, 1, 5, 9], [1] * 10], ids=str)
def test_classes_of_one_image_have_a_judge(parts, sizes):
    y = labels(sizes)
    images = replace(parts[0].take(np.arange(len(y))), y=y, classes=tuple(map(str, range(len(sizes)))))
    judge, accuracy = generation.get_judge(images, images)
    assert judge.classify(torch.from_numpy(images.x)).shape == (len(y),) and 0 <= accuracy <= 1


@pytest.mark.slow
def test_a_judge_that_another_process_trains_is_waited_for(parts, tmp_path, monkeypatch, capsys):
    code = (
        "import sys; from vaekit.data import open_data; from vaekit.evaluation.generation import get_judge;"
        "print(get_judge(*(open_data(sys.argv[1], part) for part in ('train', 'test')))[1])"
    )
    trainer = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "digits.npz")], stdout=subprocess.PIPE, text=True
    )
    monkeypatch.setattr(generation, "train", lambda *_, **__: pytest.fail("it was trained twice"))
    while not held_by_another(judge_files(tmp_path, "lock")):
        assert trainer.poll() is None
        time.sleep(0.01)
    _, accuracy = generation.get_judge(*parts, verbose=True)
    assert float(trainer.communicate()[0]) == accuracy and trainer.returncode == 0
    assert "another process trains it; waiting" in capsys.readouterr().err
    assert len(judge_files(tmp_path, "safetensors")) == len(judge_files(tmp_path, "lock")) == 1


def held_by_another(files) -> bool:
    try:
        for file in files:
            FileLock(file, timeout=0).acquire().lock.release()
    except Timeout:
        return True
    return False


def test_a_killed_trainer_does_not_block_the_next(parts, tmp_path, monkeypatch):
    monkeypatch.setattr(generation, "JUDGE_EPOCHS", 1)
    generation.get_judge(*parts)
    (kept,), (file,) = judge_files(tmp_path, "safetensors"), judge_files(tmp_path, "lock")
    kept.unlink()
    code = (
        "import sys, time, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire();"
        "print(flush=True); time.sleep(600)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(file)], stdout=subprocess.PIPE, text=True)
    holder.stdout.readline()
    assert held_by_another([file])
    timer = threading.Timer(0.3, holder.kill)
    timer.start()
    generation.get_judge(*parts)
    assert holder.wait() != 0 and kept.exists()
    holder.stdout.close()


def test_a_folder_of_somebody_else_is_not_written_and_the_judge_is_trained(parts, tmp_path, monkeypatch):
    monkeypatch.setattr(generation, "JUDGE_EPOCHS", 1)
    folder = tmp_path / "cache" / "judges"
    folder.mkdir(parents=True)
    (folder / "mine.txt").write_text("mine")
    with pytest.warns(UserWarning, match="could not be kept"):
        generation.get_judge(*parts)
    assert [file.name for file in folder.iterdir()] == ["mine.txt"]


# The comparison


@pytest.mark.slow
def test_compare_goes_on_without_what_can_not_be_trained(tmp_path, parts, monkeypatch):
    """The VAE's prior diverges, the beta-VAE's training does; the VQ-VAE has both."""
    fit_images = Estimator.fit_images

    def failing(self, *arguments, **options):
        if type(self) is BetaVAE:
            raise TrainingFailed("rate became non-finite at step 3")
        return fit_images(self, *arguments, **options)

    def unfit(fitted, *arguments, **options):
        if fitted.name == "VAE":
            raise ValueError("no prior fits")
        fit_prior_to(fitted, *arguments, **options)

    monkeypatch.setattr(Estimator, "fit_images", failing)
    monkeypatch.setattr("vaekit.report.trainings.fit_prior_to", unfit)
    monkeypatch.setattr(generation, "JUDGE_EPOCHS", 1)
    said = []
    how = {"epochs": 1, "architecture": "mlp", "verbose": False, "device": "cpu", "say": said.append}
    results = compare(str(tmp_path / "digits.npz"), str(tmp_path / "out"), models=("bvae", "vae", "vqvae"), **how)
    assert [entry["name"] for entry in results["models"]] == ["vae", "vqvae"]
    assert [entry["prior"] for entry in results["models"]] == ["N(0, I)", "PixelCNN, per class"]
    words = ["bvae-seed0 (rate became non-finite at step 3)", "the prior of vae-seed0 (no prior fits)"]
    assert [line for line in said if line.startswith("left out")] == [f"left out: {word}" for word in words]
    (note,) = [note for note in results["protocol"]["notes"] if note.startswith("Left out")]
    assert all(word in note for word in words)
    page = (tmp_path / "out" / "index.html").read_text()
    assert note.replace("'", "&#39;") in page and "VAE: without a fitted prior, so from the plain one." in page
    with pytest.raises(TrainingFailed, match="no model could be trained: bvae-seed0"):
        compare(str(tmp_path / "digits.npz"), str(tmp_path / "none"), models=("bvae",), **how)


@pytest.mark.slow
def test_a_set_whose_test_part_has_fewer_than_six_images_is_compared(tmp_path, parts):
    y = labels([1, 1, 10, 12, 16])
    np.savez(tmp_path / "few.npz", x=digits()[0][: len(y)], y=y)
    how = {"epochs": 1, "architecture": "mlp", "verbose": False, "device": "cpu", "say": lambda _: None}
    results = compare(str(tmp_path / "few.npz"), str(tmp_path / "out"), models=("cvae",), **how)
    assert results["data"]["test"] < 6
    (entry,) = results["models"]
    assert entry["prior"] == "GMM, per class" and "frechet" not in entry and 0 <= entry["class_consistency"] <= 1
