"""Samples as augmentation: the fixed classifier, the arms and their records, intervals against scipy, classical augmentation
against scikit-image, a mixture prior of few images, and the claim that goes on after an interruption."""

import functools
import itertools
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import augmentation as claim
from benchmarks import harness
from vaekit import CVAE, VAE
from vaekit.data import open_data
from vaekit.data.images import Images
from vaekit.evaluation.augmentation import (
    REAL,
    augmentation_gain,
    classification_accuracy_score,
    classifier_accuracy,
    shift_rotate_scale,
    summarise,
)
from vaekit.parts.priors import MixturePrior
from vaekit.pictures import charts
from vaekit.training.mixture import fit_gmm
from vaekit.training.rates import Codes

QUICK = 250  # steps of the classifier: enough for 8x8 digits


@pytest.fixture(scope="module")
def parts(digits) -> tuple[Images, Images, Images]:
    """The digits in three random parts: to draw labelled images from, to be perfect samples, and to test on."""
    x, y = digits
    order = np.random.default_rng(0).permutation(len(x))
    whole = Images(x, y, tuple("0123456789"), "digits")
    return whole.take(order[:600]), whole.take(order[600:1200]), whole.take(order[1200:])


@pytest.fixture(scope="module")
def records(parts) -> list[dict]:
    """Of a perfect sampler, which gives other real images, and of one that gives noise."""
    train, others, test = parts
    samplers = {"perfect": lambda x, y, seed: (others.x, others.y), "noise": noise}
    return list(augmentation_gain(samplers, train, test, per_class=(2, 5), draws=1, steps=150))


def noise(x, y, seed):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (300, *x.shape[1:]), dtype=np.uint8), np.arange(300) % 10


def without_seconds(records) -> list[dict]:
    return [{key: value for key, value in record.items() if key != "seconds"} for record in records]


# The arms


@pytest.mark.slow
def test_real_images_as_samples_help_and_noise_does_not(records):
    gains = {(gain.arm, gain.per_class): gain for gain in summarise(records)}
    for number in (2, 5):
        assert gains["real + perfect", number].gain > 0.06
        assert gains["perfect alone", number].gain > 0.06
        assert gains["real + noise", number].gain < 0.02
        assert gains["noise alone", number].accuracy < 0.4
        assert gains[REAL, number].gain == 0
    assert gains[REAL, 5].accuracy > gains[REAL, 2].accuracy


@pytest.mark.slow
def test_there_is_a_record_for_each_arm_size_and_draw(records):
    arms = [REAL, "real, augmented"]
    arms += [form.format(name) for name in ("perfect", "noise") for form in ARMS_OF_A_MODEL]
    expected = list(itertools.product((0,), (2, 5), arms))
    assert [(r["draw"], r["per_class"], r["arm"]) for r in records] == expected
    for record in records:
        assert 0 <= record["accuracy"] <= 1 and record["seconds"] > 0
        assert record["samples"] == (600 if "perfect" in record["arm"] else 300 if "noise" in record["arm"] else 0)


ARMS_OF_A_MODEL = ("real + {}", "real + {}, augmented", "{} alone")


def test_an_arm_trains_on_what_it_is_named_after(parts, monkeypatch):
    train, _, test = parts
    made = noise(train.x, train.y, 0)
    trainings = []

    def watch(labelled, test, *, samples, augment, seed, steps):
        trainings.append((labelled[0] is made[0], samples is made, augment is shift_rotate_scale))
        return 0.5

    monkeypatch.setattr("vaekit.evaluation.augmentation.classifier_accuracy", watch)
    records = list(augmentation_gain({"model": lambda x, y, seed: made}, train, test, per_class=(1,), draws=1))
    assert {record["arm"]: training for record, training in zip(records, trainings, strict=True)} == {
        REAL: (False, False, False),
        "real, augmented": (False, False, True),
        "real + model": (False, True, False),
        "real + model, augmented": (False, True, True),
        "model alone": (True, False, False),
    }


def test_a_model_sees_the_labelled_images_and_smaller_sets_lie_in_larger_ones(parts):
    train, _, test = parts
    seen = []

    def look(x, y, seed):
        seen.append((x, y, seed))
        return x, y

    list(augmentation_gain({"look": look}, train, test, per_class=(1, 3), draws=2, steps=1))
    assert len(seen) == 4 and len({seed for _, _, seed in seen}) == 4
    known = {image.tobytes(): label for image, label in zip(train.x, train.y, strict=True)}
    sets = [{image.tobytes() for image in x} for x, _, _ in seen]
    for (x, y, _), number in zip(seen, (1, 3, 1, 3), strict=True):
        assert np.bincount(y).tolist() == [number] * 10
        assert [known[image.tobytes()] for image in x] == y.tolist()
    assert sets[0] < sets[1] and sets[2] < sets[3] and sets[1] != sets[3]


@pytest.mark.slow
def test_records_are_functions_of_the_seed(parts):
    train, _, test = parts
    make = functools.partial(augmentation_gain, {"noise": noise}, train, test, per_class=(2,), draws=1, steps=20)
    one, again, other = (without_seconds(make(seed=seed)) for seed in (0, 0, 1))
    assert one == again and one != other


@pytest.mark.parametrize("stop", [1, 3, 5, 7])
def test_what_is_done_is_not_made_again(parts, stop):
    train, _, test = parts
    calls = []

    def counted(x, y, seed):
        calls.append(seed)
        return noise(x, y, seed)

    make = functools.partial(augmentation_gain, {"noise": counted}, train, test, per_class=(1,), draws=2, steps=2)
    whole = list(make())
    assert len(calls) == 2
    calls.clear()
    rest = list(make(done=whole[:stop]))
    assert without_seconds(whole[:stop] + rest) == without_seconds(whole)
    assert len(calls) == (1 if stop >= 5 else 2)


# The classifier


def test_half_of_each_batch_is_real_and_all_kinds_of_data_get_the_same_steps(parts):
    test = parts[2]
    black, white = (np.full((40, 8, 8), value, dtype=np.uint8) for value in (0, 255))
    shares, y = [], np.arange(40) % 10

    def watch(x):
        shares.append((x.mean((1, 2, 3)) > 0.5).float().mean().item())
        return x

    run = functools.partial(classifier_accuracy, test=(test.x, test.y), augment=watch, steps=7)
    run((black, y), samples=(white, y))
    assert shares == [0.5] * 7
    run((black, y), samples=(np.repeat(white, 100, 0), np.repeat(y, 100)))
    assert shares[7:] == [0.5] * 7
    run((white, y))
    assert shares[14:] == [1.0] * 7


@pytest.mark.slow
def test_the_score_of_samples_is_a_training_on_them_alone(parts):
    _, others, test = parts
    pair = (test.x, test.y)
    score = classification_accuracy_score((others.x, others.y), pair, seed=3, steps=QUICK)
    assert score == classifier_accuracy((others.x, others.y), pair, seed=3, steps=QUICK)
    assert score > 0.8
    shuffled = np.random.default_rng(0).permutation(others.y)
    assert classification_accuracy_score((others.x, shuffled), pair, steps=QUICK) < 0.3
    assert score != classification_accuracy_score((others.x, others.y), pair, seed=4, steps=QUICK)


def test_stored_forms_are_one_and_the_callers_random_numbers_go_on(parts):
    train, _, test = parts
    run = functools.partial(classifier_accuracy, test=(test.x, test.y), steps=20)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    accuracy = run((train.x, train.y))
    assert torch.equal(torch.get_rng_state(), before)
    assert run(((train.x / 255).astype(np.float32), train.y)) == pytest.approx(accuracy, abs=0.005)
    assert run((train.x[..., 0], train.y.astype(np.uint8)[:, None])) == accuracy


@settings(max_examples=6, deadline=None)
@given(
    height=st.integers(2, 13),
    width=st.integers(2, 13),
    channels=st.integers(1, 4),
    n=st.integers(1, 70),
    samples=st.booleans(),
)
def test_any_image_has_a_classifier(height, width, channels, n, samples):
    rng = np.random.default_rng(0)
    pair = rng.random((n, height, width, channels), dtype=np.float32), np.zeros(n, dtype=int)
    accuracy = classifier_accuracy(pair, pair, samples=pair if samples else None, augment=shift_rotate_scale, steps=2)
    assert accuracy == 1  # the only class there is


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labelled": (np.zeros((4, 8, 8)), [0, 1, 2])}, "labels of labelled has 3 labels for 4 images"),
        ({"labelled": (np.zeros((2, 8, 8)), [0.5, 1])}, "labels of labelled must be whole numbers from 0, got float64"),
        (
            {"labelled": (np.zeros((2, 8, 8)), [0, -1])},
            "labels of labelled must be whole numbers from 0, got int64 from -1",
        ),
        ({"labelled": (np.zeros((2, 64)), [0, 1])}, r"labelled must be images \(N, H, W, C\), got shape \(2, 64\)"),
        ({"samples": (np.zeros((2, 9, 8)), [0, 1])}, r"samples has images of shape \(9, 8, 1\), test of \(8, 8, 1\)"),
        ({"samples": (np.full((2, 8, 8), 2.0), [0, 1])}, "samples has float pixels from 2 to 2"),
        ({"labelled": (np.zeros((2, 8, 8)), [0, 2])}, "class 1 is in test, but in no image to train on"),
        ({"steps": 0}, "steps must be a whole number > 0, got 0"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    fine = (np.zeros((2, 8, 8)), [0, 1])
    with pytest.raises(ValueError, match=message):
        classifier_accuracy(**{"labelled": fine, "test": fine, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"per_class": (2, 100)}, r"class \w has \d+ training images; per_class asks for 100"),
        ({"per_class": (0,)}, "per_class must be a whole number > 0, got 0"),
        ({"draws": 0}, "draws must be a whole number > 0, got 0"),
        ({"labels": None}, "augmentation_gain needs labels, and digits"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_at_once(parts, change, message):
    train, _, test = parts
    if "labels" in change:
        train, change = Images(train.x, None, (), "digits"), {}
    with pytest.raises(ValueError, match=message):
        augmentation_gain({}, train, test, **change)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda x, y: (x, y[:-1]), "labels of samples of bad has 9 labels for 10 images"),
        (lambda x, y: (x[:, :4], y), r"has images of shape \(4, 8, 1\), test of \(8, 8, 1\)"),
    ],
)
def test_samples_that_do_not_fit_are_refused(parts, given, message):
    train, _, test = parts
    with pytest.raises(ValueError, match=message):
        list(augmentation_gain({"bad": lambda x, y, seed: given(x, y)}, train, test, per_class=(1,), steps=1))


# Classical augmentation


@pytest.mark.parametrize("shape", [(12, 20), (20, 12), (9, 9)])
def test_images_are_moved_as_scikit_image_moves_them(shape):
    from skimage.transform import AffineTransform, warp

    x = torch.rand(6, 2, *shape)
    torch.manual_seed(7)
    moved = shift_rotate_scale(x)
    torch.manual_seed(7)
    across, down, turn, size = (2 * torch.rand(4, 6) - 1).double().numpy()
    height, width = shape
    middle = np.array([width - 1, height - 1]) / 2
    for i in range(6):
        # From a place in the result to its place in the image: about the middle, then shifted by parts of the side.
        angle, zoom = np.deg2rad(15 * turn[i]), 1 / (1 + 0.1 * size[i])
        about = AffineTransform(translation=-middle) + AffineTransform(scale=zoom, rotation=angle)
        back = about + AffineTransform(translation=middle + np.array([width * across[i], height * down[i]]) / 10)
        for channel in range(2):
            expected = warp(x[i, channel].double().numpy(), back, order=1, mode="edge")
            np.testing.assert_allclose(moved[i, channel], expected, atol=1e-4)


def test_moves_are_as_large_as_they_say_and_each_image_has_its_own():
    spot = torch.zeros(500, 1, 41, 41)
    spot[:, :, 19:22, 19:22] = 1
    torch.manual_seed(0)
    moved = shift_rotate_scale(spot)[:, 0]
    place = torch.arange(41.0) - 20
    across = (moved.sum(1) * place).sum(1) / moved.sum((1, 2))
    down = (moved.sum(2) * place).sum(1) / moved.sum((1, 2))
    most = 0.1 * 41 * 1.1 * math.cos(math.radians(15)) + 0.1 * 41 * 1.1 * math.sin(math.radians(15))
    for offsets in (across, down):
        assert offsets.abs().max() < most
        assert offsets.max() > 3 and offsets.min() < -3 and abs(offsets.mean()) < 0.4
    assert torch.allclose(shift_rotate_scale(torch.full((3, 1, 8, 6), 0.7)), torch.tensor(0.7))


# Means and intervals


def record(arm, number, draw, accuracy):
    return {"arm": arm, "per_class": number, "draw": draw, "accuracy": accuracy}


@settings(max_examples=30, deadline=None)
@given(pairs=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=12))
def test_intervals_are_those_of_scipy(pairs):
    from scipy.stats import sem, t

    real, other = np.array(pairs).T
    records = [record(REAL, 10, draw, value) for draw, value in enumerate(real)]
    records += [record("other", 10, draw, value) for draw, value in enumerate(other)][::-1]
    plain, gain = summarise(records)
    assert plain[:3] == (REAL, 10, len(real)) and plain.gain == plain.gain_low == plain.gain_high == 0
    assert gain[:3] == ("other", 10, len(real)) and gain.pairs == len(real)
    for values, (mean, low, high) in ((real, plain[3:6]), (other, gain[3:6]), (other - real, gain[7:])):
        expected = t.interval(0.95, len(values) - 1, loc=values.mean(), scale=max(sem(values), 1e-300))
        assert mean == pytest.approx(values.mean(), abs=1e-9)
        assert (low, high) == pytest.approx(expected, abs=1e-9)


def test_a_gain_is_over_the_draws_that_both_have():
    records = [record(REAL, 10, 0, 0.5), record(REAL, 10, 1, 0.6), record(REAL, 20, 0, 0.9)]
    records += [record("other", 10, draw, value) for draw, value in ((1, 0.8), (2, 0.7))]
    records += [record("other", 50, 0, 0.9)]
    found = {(gain.arm, gain.per_class): gain for gain in summarise(records)}
    gain = found["other", 10]
    assert (gain.draws, gain.pairs, gain.accuracy, gain.gain) == (2, 1, pytest.approx(0.75), pytest.approx(0.2))
    assert math.isnan(gain.gain_low) and math.isnan(gain.gain_high) and not math.isnan(gain.low)
    assert found["other", 50].pairs == 0 and math.isnan(found["other", 50].gain)
    assert {g.arm: g.gain for g in summarise(records, baseline="other") if g.per_class == 10}[REAL] == pytest.approx(
        -0.2
    )


def test_an_unknown_baseline_is_refused():
    with pytest.raises(ValueError, match="baseline must be one of real, other, got 'rael'"):
        summarise([record(REAL, 1, 0, 0.5), record("other", 1, 0, 0.5)], baseline="rael")


# A mixture of few images


def gaussian_codes(per_class: int, dim: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(3 * per_class, dim) draws of three Gaussians that differ in place and share a covariance, and their labels."""
    rng = np.random.default_rng(seed)
    shape = np.random.default_rng(99).normal(size=(dim, dim))
    y = np.arange(3 * per_class) % 3
    return rng.normal(size=(len(y), dim)) @ shape + 4 * y[:, None], y


def fitted_mixture(z: np.ndarray, y: np.ndarray, components: int = 1) -> MixturePrior:
    """The prior of codes that are certain."""
    moments = torch.from_numpy(np.concatenate([z, np.full_like(z, -60)], axis=1))
    prior = MixturePrior(latent_dim=z.shape[1], components=components, n_classes=3).double()
    fit_gmm(prior, Codes(moments, torch.from_numpy(y)), 0)
    return prior


@pytest.mark.parametrize("per_class", [4, 50])
def test_covariances_of_few_images_lean_on_those_of_all_classes(per_class):
    z, y = gaussian_codes(per_class, 5)
    prior = fitted_mixture(z, y)
    own = [np.cov(z[y == k].T, bias=True) + 1e-3 * np.eye(5) for k in range(3)]
    for k in range(3):
        expected = (per_class * own[k] + 6 * np.mean(own, axis=0)) / (per_class + 6)
        p = prior.precision_cholesky[k, 0].numpy()
        np.testing.assert_allclose(np.linalg.inv(p @ p.T), expected, rtol=1e-6)
        np.testing.assert_allclose(prior.means[k, 0], z[y == k].mean(0))


def test_fewer_images_than_latents_give_a_prior_of_images_not_seen():
    from sklearn.mixture import GaussianMixture

    (z, y), (other, label) = gaussian_codes(8, 10), gaussian_codes(500, 10, seed=1)
    ours = fitted_mixture(z, y).log_prob(torch.from_numpy(other), torch.from_numpy(label)).mean().item()
    alone = np.mean([GaussianMixture(1, reg_covar=1e-3).fit(z[y == k]).score(other[label == k]) for k in range(3)])
    everything = np.mean([GaussianMixture(1).fit(other[label == k]).score(other[label == k]) for k in range(3)])
    assert alone < ours - 100 and everything - 12 < ours < everything


# The picture and the claim


def test_the_picture_has_a_line_and_a_band_for_each_arm():
    arms = {
        REAL: [(50, 0.9, 0.88, 0.92), (10, 0.8, 0.75, 0.85)],
        "real + CVAE": [(10, 0.7, math.nan, math.nan), (50, 0.95, 0.94, 0.96)],
    }
    figure = charts.augmentation_gain(arms)
    figure.draw_without_rendering()
    axes = figure.axes[0]
    assert [line.get_label() for line in axes.get_lines()] == list(arms)
    np.testing.assert_allclose(axes.get_lines()[0].get_xydata(), [[10, 80], [50, 90]])
    assert axes.get_xscale() == "log" and [tick.get_text() for tick in axes.get_xticklabels()] == ["10", "50"]
    assert len(axes.collections) == 2
    low, high = axes.collections[0].get_paths()[0].get_extents().intervaly
    assert (low, high) == pytest.approx((75, 92))
    with pytest.raises(ValueError, match="at least one point of at least one arm"):
        charts.augmentation_gain({REAL: []})


@pytest.fixture
def quick_claim(tmp_path, monkeypatch):
    """The claim on small digits, with a VAE and CVAEs of one epoch, into folders of its own; returns what it found."""
    monkeypatch.setattr(harness, "OUT", tmp_path)
    monkeypatch.setattr(claim, "open_data", lambda name, split: open_data("digits", split))
    monkeypatch.setattr(claim, "CVAE", functools.partial(CVAE, architecture="mlp", epochs=1))
    monkeypatch.setattr(claim, "augmentation_gain", functools.partial(augmentation_gain, steps=3))

    def trained(folder, model, images, **fields):
        return VAE(latent_dim=4, architecture="mlp", epochs=1, random_state=0).fit_images(images)

    monkeypatch.setattr(claim, "trained", trained)

    def run(*argv):
        return claim.run(["--draws", "2", "--per-class", "2", "4", "--figure", str(tmp_path / "gain.png"), *argv])

    return tmp_path, run


@pytest.mark.slow
def test_the_claim_goes_on_where_it_was_interrupted(quick_claim):
    folder, run = quick_claim
    path = folder / "augmentation" / "records.jsonl"
    whole = run()
    lines = path.read_text().splitlines()
    assert len(lines) == 1 + 2 * 2 * 8
    path.write_text("\n".join(lines[:20]) + "\n" + lines[20][:15])  # cut off in the middle of a line
    again = run()
    assert path.read_text().splitlines()[:20] == lines[:20]
    assert without_seconds(map(json.loads, path.read_text().splitlines())) == without_seconds(map(json.loads, lines))
    assert again.rows == whole.rows and len(whole.rows) == 8 * 2
    assert (folder / "gain.png").stat().st_size > 10_000
    assert "32 of 32 trainings" in again.text and "The claim does NOT hold" in again.text
    path.write_text(lines[0].replace('"steps": 600', '"steps": 601') + "\n")
    with pytest.raises(ValueError, match="holds records of another protocol"):
        run()


@pytest.mark.slow
def test_the_claim_stops_when_its_budget_is_spent(quick_claim):
    _, run = quick_claim
    found = run("--budget-minutes", "1e-9")
    assert "8 of 32 trainings" in found.text and "nan" not in str(found)
    assert [row[1:3] for row in found.rows] == [[2, 1]] * 8  # all arms of one draw, so that they compare
    assert run("--budget-minutes", "1e-9").rows == found.rows


def test_the_claim_says_where_an_arm_helps_and_where_it_does_not():
    records = []
    for arm, number, shift in (
        (REAL, 10, 0), (REAL, 50, 0),
        ("real + CVAE", 10, -0.1), ("real + CVAE", 50, -0.002),
        ("real + semi-supervised VAE", 10, 0.1), ("real + semi-supervised VAE", 50, 0.05),
    ):  # fmt: skip
        wobble = (0.01, -0.01, 0.002) if shift else (0, 0, 0)
        records += [record(arm, number, draw, 0.6 + 0.05 * draw + shift + wobble[draw]) for draw in range(3)]
    said = claim._effects(records)
    assert "'real + CVAE' hurts at 10 (-9.93 points), makes no sure difference at 50 (-0.13 points)" in said
    assert "'real + semi-supervised VAE' helps at 10 (+10.07 points), 50 (+5.07 points)" in said
    assert "The claim holds" in claim._verdict(records)
    records[-1]["accuracy"] -= 0.1
    assert "The claim does NOT hold" in claim._verdict(records)
