"""Samples against real images: distances of features against independent libraries, the search for copies, Inception's
weights on disk, and the picture of nearest neighbours."""

import sys
import types

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from vaekit.evaluation.distances import frechet_distance, kernel_distance, precision_recall_density_coverage
from vaekit.evaluation.generation import Judge, copy_check, inception_features, measure_samples, pick_features
from vaekit.pictures import sheets


def features(n: int, width: int = 6, *, seed: int = 0, shift: float = 0.0, scale: float = 1.0) -> np.ndarray:
    """(n, width) Gaussian features with unequal variances."""
    return shift + scale * np.random.default_rng(seed).normal(size=(n, width)) * np.linspace(0.5, 2, width)


def as_floats(images: np.ndarray) -> np.ndarray:
    """An `embed` whose features are the pixels."""
    return np.asarray(images).reshape(len(images), -1) / 255


@pytest.fixture(scope="module")
def parts(digits) -> tuple[np.ndarray, np.ndarray]:
    """The digits in two random halves of 898: images to learn from, and images held out."""
    x = digits[0][np.random.default_rng(0).permutation(len(digits[0]))]
    return x[:898], x[898:1796]


# The Frechet distance


def test_frechet_distance_is_that_of_two_gaussians():
    from scipy.linalg import sqrtm

    one, other = features(500), features(400, seed=1, shift=0.3, scale=1.4)
    (a, b), (c, d) = ((part.mean(0), np.cov(part.T)) for part in (one, other))
    expected = np.square(a - c).sum() + np.trace(b + d - 2 * sqrtm(b @ d).real)
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-4)


class Identity(nn.Module):
    """A network that returns its input, as torchmetrics wants to be given one."""

    def __init__(self, width: int):
        super().__init__()
        self.num_features = width

    def forward(self, x):
        return x


@pytest.mark.parametrize("n", [20, 300], ids=["fewer images than features", "more"])
def test_frechet_distance_agrees_with_torchmetrics(n):
    from torchmetrics.image.fid import FrechetInceptionDistance

    one, other = (torch.from_numpy(features(n, 40, seed=s, shift=s, scale=1 + s)) for s in (0, 1))
    metric = FrechetInceptionDistance(feature=Identity(40)).set_dtype(torch.float64)
    metric.update(one, real=True)
    metric.update(other, real=False)
    assert frechet_distance(one, other) == pytest.approx(metric.compute().item(), rel=1e-4)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(2, 40), m=st.integers(2, 40), width=st.integers(1, 8), seed=st.integers(0, 1000))
def test_frechet_distance_is_a_distance_and_knows_no_axes(n, m, width, seed):
    one, other = features(n, width, seed=seed), features(m, width, seed=seed + 1, shift=0.5, scale=2)
    distance = frechet_distance(one, other)
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(width, width)))
    assert distance > 0
    assert frechet_distance(other, one) == pytest.approx(distance, rel=1e-6, abs=1e-6)
    assert frechet_distance(one @ rotation + 3, other @ rotation + 3) == pytest.approx(distance, rel=1e-6, abs=1e-6)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-6)
    moved = one + np.eye(width)[0] * 2  # the same covariance, a mean two away
    assert frechet_distance(one, moved) == pytest.approx(4, rel=1e-6)


# The kernel distance


def test_kernel_distance_of_all_images_agrees_with_torchmetrics():
    from torchmetrics.image.kid import KernelInceptionDistance

    one, other = (torch.from_numpy(features(300, 12, seed=s, shift=s / 2)) for s in (0, 1))
    metric = KernelInceptionDistance(feature=Identity(12), subsets=1, subset_size=300).set_dtype(torch.float64)
    metric.update(one, real=True)
    metric.update(other, real=False)
    found, error = kernel_distance(one, other, subsets=1, size=300)
    assert found == pytest.approx(metric.compute()[0].item(), rel=1e-4)
    assert np.isnan(error)
    assert kernel_distance(other, one, subsets=1, size=300)[0] == pytest.approx(found, rel=1e-9)


def test_kernel_distance_of_subsets_is_near_that_of_all_images():
    one, other = features(400, shift=0.5), features(300, seed=1)
    found, error = kernel_distance(one, other)
    whole, _ = kernel_distance(one[:300], other, subsets=1, size=300)
    assert found == pytest.approx(whole, abs=2 * error)
    assert 0 < 3 * error < found


def test_kernel_distance_knows_no_axes():
    one, other = features(200, shift=0.5), features(200, seed=1)
    rotation, _ = np.linalg.qr(features(6, seed=2))
    turned = kernel_distance(one @ rotation, other @ rotation, subsets=5)
    assert turned == pytest.approx(kernel_distance(one, other, subsets=5), rel=1e-6)


def test_kernel_distance_between_draws_of_one_distribution_is_zero_on_average():
    """Unbiased for few images as for many: the mean over 200 pairs of sets is within 3 of its standard errors of 0."""
    for n in (8, 40):
        found = [
            kernel_distance(features(n, seed=2 * s), features(n, seed=2 * s + 1), subsets=4)[0] for s in range(200)
        ]
        assert abs(np.mean(found)) < 3 * np.std(found) / 200**0.5
        assert (np.array(found) < 0).mean() > 0.3


@pytest.mark.slow
def test_standard_error_of_the_kernel_distance_is_the_spread_over_new_images():
    results = [
        kernel_distance(features(100, seed=2 * s, shift=0.5), features(100, seed=2 * s + 1), subsets=40, size=size)
        for s in range(60)
        for size in (20, 70)
    ]
    for found in (results[::2], results[1::2]):
        means, errors = np.array(found).T
        assert np.sqrt(np.mean(errors**2)) == pytest.approx(means.std(ddof=1), rel=0.3)


# Precision, recall, density, coverage


@settings(max_examples=15, deadline=None)
@given(
    n=st.integers(7, 60),
    m=st.integers(7, 60),
    width=st.integers(1, 5),
    k=st.integers(1, 5),
    seed=st.integers(0, 1000),
    shift=st.sampled_from([0.0, 1.0]),
    entries=st.sampled_from([1, 100, 2**21]),
)
def test_precision_recall_density_coverage_agree_with_prdc(n, m, width, k, seed, shift, entries):
    from prdc import compute_prdc

    real, fake = features(n, width, seed=seed), features(m, width, seed=seed + 1, shift=shift)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vaekit.evaluation.distances.ENTRIES", entries)  # blocks of one row, of some, of all
        found = precision_recall_density_coverage(real, fake, k)
    expected = compute_prdc(real, fake, nearest_k=k)
    assert found._asdict() == pytest.approx(expected, rel=1e-4)


def test_precision_and_recall_tell_a_lack_of_quality_from_a_lack_of_variety():
    real = np.concatenate([features(300, shift=-10), features(300, seed=1, shift=10)])
    one_mode = precision_recall_density_coverage(real, features(600, seed=2, shift=10))
    assert one_mode.precision > 0.8 and one_mode.density > 0.8
    assert 0.4 < one_mode.recall < 0.52 and 0.4 < one_mode.coverage < 0.52
    noise = precision_recall_density_coverage(real, features(600, seed=2, scale=20))
    assert noise.precision < 0.1 and noise.density < 0.1
    assert precision_recall_density_coverage(real, real) == (1, 1, pytest.approx(1, abs=0.25), 1)


# What the distances refuse


def test_sets_that_cannot_be_compared_are_refused_with_their_numbers():
    good = features(30)
    for distance in (frechet_distance, kernel_distance, precision_recall_density_coverage):
        with pytest.raises(ValueError, match=r"\(N, F\) and \(M, F\), got \(30, 6\) and \(30, 5\)"):
            distance(good, features(30, 5))
        with pytest.raises(ValueError, match=r"got \(30, 6, 1\) and \(30, 6\)"):
            distance(good[..., None], good)
        with pytest.raises(ValueError, match="at least 2 rows of features in each set, got 30 and 1"):
            distance(good, good[:1])
        with pytest.raises(ValueError, match="features must be finite"):
            distance(good, np.where(good > 1, np.nan, good))
    with pytest.raises(ValueError, match=r"smaller set \(20\), got 100 subsets of 21"):
        kernel_distance(good, good[:20], size=21)
    with pytest.raises(ValueError, match="got 0 subsets of 10"):
        kernel_distance(good, good[:20], subsets=0)
    with pytest.raises(ValueError, match=r"got 100 subsets of 1$"):
        kernel_distance(good, good[:3])
    for k in (0, 20):
        with pytest.raises(ValueError, match=f"rows of both sets, 30 and 20, got {k}"):
            precision_recall_density_coverage(good, good[:20], k)


# Samples against real images


def test_measuring_samples_puts_a_floor_beside_every_figure(parts):
    train, held_out = parts
    reference, others = train[:400], train[400:800]
    found = measure_samples(as_floats, 255 - others, held_out, reference)
    assert (found["samples"], found["real"]) == (400, 898)
    assert found["frechet"] > 10 * found["frechet_floor"] > 0
    assert found["kernel"] > 10 * abs(found["kernel_floor"]) and found["kernel"] > 10 * found["kernel_se"] > 0
    for name in ("precision", "recall", "density", "coverage"):
        assert found[name] < 0.1 < 0.5 < found[f"{name}_floor"]
    real = measure_samples(as_floats, others, held_out, reference)
    assert {name: real[name] for name in real if "floor" in name} == {n: found[n] for n in found if "floor" in n}
    assert real["frechet"] == pytest.approx(real["frechet_floor"], rel=0.2)
    assert abs(real["kernel"]) < 3 * real["kernel_se"]
    for name in ("precision", "recall", "density", "coverage"):
        assert real[name] == pytest.approx(real[f"{name}_floor"], abs=0.08)


def test_measured_figures_are_those_of_the_distances(parts):
    train, held_out = parts
    found = measure_samples(as_floats, train[:50], held_out, held_out[:50], seed=3)
    one, real = as_floats(train[:50]), as_floats(held_out)
    assert found["frechet"] == frechet_distance(one, real)
    assert (found["kernel"], found["kernel_se"]) == kernel_distance(one, real, seed=3)
    expected = precision_recall_density_coverage(real, one)
    assert (found["precision"], found["recall"], found["density"], found["coverage"]) == expected


def test_measuring_is_repeatable_and_only_the_subsets_are_random(parts):
    train, held_out = parts
    sets = (train[:100], held_out[:100], held_out[100:200])
    first, again, other = (measure_samples(as_floats, *sets, seed=seed) for seed in (0, 0, 1))
    assert first == again
    changed = {name for name in first if first[name] != other[name]}
    assert changed == {"kernel", "kernel_se", "kernel_floor", "kernel_floor_se"}


def test_a_judge_measures_images_of_both_dtypes_alike(parts):
    torch.manual_seed(0)
    judge = Judge(channels=1, n_classes=10)
    train, held_out = (part[:60] for part in parts)
    found = measure_samples(judge.embed, train, held_out, train)
    halves = [(part / np.float32(255)) for part in (train, held_out)]
    assert measure_samples(judge.embed, *halves, halves[0]) == pytest.approx(found, rel=1e-3, abs=1e-6)
    assert found["frechet"] == found["frechet_floor"] > 0


def test_samples_that_cannot_be_measured_are_refused(parts):
    train, held_out = parts
    with pytest.raises(ValueError, match="equally many, got 10 and 11"):
        measure_samples(as_floats, train[:10], held_out, train[:11])
    with pytest.raises(ValueError, match=r"one shape, got \(8, 8, 1\), \(8, 8, 1\), \(7, 8, 1\)"):
        measure_samples(as_floats, train[:10], held_out, train[:10, 1:])
    with pytest.raises(ValueError, match="samples has float pixels"):
        measure_samples(as_floats, 2.0 * train[:10], held_out, train[:10])


# Inception's features


def file_of(folder, tensors) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "inception_v3.safetensors"
    save_file(tensors, path)
    return str(path)


class Miniature(nn.Module):
    """What stands in for Inception v3: its features are the means of the channels."""

    def __init__(self, weights="none given", init_weights=None, transform_input=False):
        super().__init__()
        assert weights is None and init_weights is False and transform_input
        self.gain = nn.Parameter(torch.zeros(1))
        self.fc = nn.Linear(3, 2)
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        assert x.shape[1:] == (3, 299, 299) and not torch.is_grad_enabled()
        return self.fc(self.drop(self.gain * x.mean((2, 3))))


@pytest.fixture
def torchvision(monkeypatch, tmp_path):
    """A torchvision that has but the miniature, and an empty cache."""
    monkeypatch.setenv("VAEKIT_CACHE", str(tmp_path))
    models = types.ModuleType("torchvision.models")
    models.inception_v3 = Miniature
    package = types.ModuleType("torchvision")
    package.models = models
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    return tmp_path


WEIGHTS = {"gain": torch.full((1,), 2.0), "fc.weight": torch.zeros(2, 3), "fc.bias": torch.zeros(2)}


def test_without_weights_on_disk_or_torchvision_there_are_no_inception_features(torchvision, monkeypatch):
    assert inception_features() is None
    path = file_of(torchvision / "inception", WEIGHTS)
    assert inception_features() is not None
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    assert inception_features() is None
    assert inception_features(path) is None
    with pytest.raises(ValueError, match=r"there is none at .*elsewhere"):
        inception_features(torchvision / "elsewhere")


def test_inception_features_are_of_normalised_images(torchvision):
    embed = inception_features(file_of(torchvision, WEIGHTS))
    images = np.full((53, 4, 4, 3), 255, np.uint8)  # more than a batch
    images[..., 1:] = 0
    expected = 2 * torch.tensor([(1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225])
    torch.testing.assert_close(embed(images), expected.expand(53, -1), rtol=1e-4, atol=0)
    torch.testing.assert_close(embed(torch.from_numpy(images / 255.0)), embed(images))
    grey = embed(np.ones((2, 4, 4, 1), np.float32))
    torch.testing.assert_close(
        grey[0], 2 * (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    )
    with pytest.raises(ValueError, match="1 or 3 channels, got 4"):
        embed(np.zeros((2, 4, 4, 4), np.uint8))


def test_a_file_of_something_else_is_refused(torchvision):
    with pytest.raises(ValueError, match=r"inception_v3.safetensors must hold .*Missing key.*gain"):
        inception_features(file_of(torchvision, {"fc.weight": torch.zeros(2, 3)}))
    (torchvision / "pickled").write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(ValueError, match="pickled must hold the state dict"):
        inception_features(torchvision / "pickled")


def test_the_features_that_are_used_are_told_in_words(torchvision):
    colour, grey = (Judge(channels=channels, n_classes=2) for channels in (3, 1))
    assert pick_features(colour) == (colour.embed, pick_features(grey)[1])
    assert "classifier trained on this data" in pick_features(colour)[1]
    file_of(torchvision / "inception", WEIGHTS)
    embed, words = pick_features(colour)
    assert embed(np.zeros((2, 4, 4, 3), np.uint8)).shape == (2, 3)
    assert "Inception" in words and "not comparable with published" in words
    assert pick_features(grey)[0] == grey.embed


# Copies of training images


def test_memorised_samples_are_copies_and_held_out_images_are_not(parts):
    train, held_out = parts
    chosen = np.random.default_rng(1).permutation(len(train))[:300]
    found = copy_check(train[chosen], train, held_out)
    assert found.share == 1
    assert found.held_out_share == pytest.approx(0.01, abs=0.015)
    assert (found.n_samples, found.n_held_out, found.n_reference) == (300, 300, 898)
    np.testing.assert_array_equal(found.index, chosen)
    assert (found.distance == 0).all()
    fresh = copy_check(held_out, train, held_out)
    assert fresh.share == fresh.held_out_share == pytest.approx(0.01, abs=0.015)
    noise = np.random.default_rng(0).integers(0, 8, held_out.shape)
    assert copy_check(np.maximum(held_out, 255 - 32 * noise), train, held_out).share == 0


def test_slightly_changed_copies_are_near_copies(parts):
    train, held_out = parts
    changed = np.clip(train[:200] + np.random.default_rng(0).integers(-9, 10, train[:200].shape), 0, 255)
    found = copy_check(changed, train, held_out)
    assert found.share == 1
    assert 0 < found.distance.max() < 10 / 255


def test_an_exact_copy_is_a_near_copy_also_where_training_images_are_double(parts):
    train, held_out = parts
    found = copy_check(train[:10], np.concatenate([train, train]), held_out)
    assert (found.threshold, found.share, found.held_out_share) == (0, 1, 0)


@pytest.mark.parametrize("kind", ["8-bit", "floats", "features"])
@pytest.mark.parametrize("block", [7, 2048])
def test_nearest_training_images_are_those_of_scikit_learn(parts, kind, block, monkeypatch):
    from sklearn.neighbors import NearestNeighbors

    monkeypatch.setattr("vaekit.evaluation.generation.BLOCK", block)
    train, held_out = (part[:150] if kind == "8-bit" else part[:150] / 255 for part in parts)
    turn = features(64, 5)
    embed = (lambda images: torch.from_numpy(as_floats(255 * images) @ turn)) if kind == "features" else None
    samples, reference = held_out[:100], 150
    found = copy_check(samples, train, held_out, embed=embed, reference=reference)
    flat = [as_floats(part if kind == "8-bit" else 255 * part) for part in (samples, train, held_out)]
    if embed is not None:
        flat = [part @ turn for part in flat]
    width = flat[0].shape[1]
    search = NearestNeighbors(algorithm="brute").fit(flat[1])
    distance, index = search.kneighbors(flat[0], 1)
    np.testing.assert_array_equal(found.index, index[:, 0])
    np.testing.assert_allclose(found.distance, distance[:, 0] / width**0.5, rtol=1e-5)
    among = search.kneighbors(n_neighbors=1)[0][:, 0] / width**0.5
    assert found.threshold == pytest.approx(np.quantile(among, 0.01), rel=1e-5)
    assert found.share == (found.distance <= found.threshold).mean()


def test_distances_of_nearly_equal_images_are_not_lost_to_rounding():
    """Bright images that differ in the fifth decimal: in float32, only differences from what is common can order them."""
    rng = np.random.default_rng(0)
    train, samples = (0.9 + 1e-5 * rng.normal(size=(n, 28, 28, 1)) for n in (300, 50))
    found = copy_check(samples, train, samples)
    exact = np.square(as_floats(255 * samples.astype(np.float32))[:, None] - as_floats(255 * train.astype(np.float32)))
    exact = np.sqrt(exact.mean(2))
    np.testing.assert_array_equal(found.index, exact.argmin(1))
    np.testing.assert_allclose(found.distance, exact.min(1), rtol=1e-4)


def test_one_in_a_hundred_training_images_is_at_the_threshold_also_on_a_subset(parts):
    train, held_out = parts
    whole, some = (copy_check(held_out[:50], train, held_out, reference=count) for count in (5000, 400))
    assert (whole.n_reference, some.n_reference) == (898, 400)
    assert some.threshold == pytest.approx(whole.threshold, rel=0.2) and some.threshold != whole.threshold
    np.testing.assert_array_equal(some.index, whole.index)


def test_the_search_for_copies_is_repeatable(parts):
    train, held_out = parts
    first, again, other = (copy_check(train[:20], train, held_out, reference=100, seed=seed) for seed in (0, 0, 1))
    assert first.threshold == again.threshold != other.threshold
    assert first.held_out_share == again.held_out_share


def test_more_samples_than_held_out_images_are_compared_with_all_of_these(parts):
    train, held_out = parts
    found = copy_check(train, train, held_out[:30])
    assert (found.n_samples, found.n_held_out) == (898, 30)


def test_what_cannot_be_searched_for_copies_is_refused(parts):
    train, held_out = parts
    with pytest.raises(
        ValueError, match=r"samples, train, held_out must be .* got \(8, 7, 1\), \(8, 8, 1\), \(8, 8, 1\)"
    ):
        copy_check(train[:, :, 1:], train, held_out)
    with pytest.raises(ValueError, match="train must be at least 2 images, got 1"):
        copy_check(train, train[:1], held_out)
    with pytest.raises(ValueError, match="reference must be a whole number > 1, got 1"):
        copy_check(train, train, held_out, reference=1)
    with pytest.raises(ValueError, match=r"0 sample\(s\) in held_out"):
        copy_check(train, train, held_out[:0])


# The picture


def texts(figure) -> list[str]:
    figure.draw_without_rendering()
    found = figure.findobj(matplotlib.text.Text)
    return [text.get_text() for text in found if text.get_visible() and text.get_text()]


@pytest.mark.parametrize("count", [1, 11, 40])
def test_neighbours_shows_the_nearest_pairs_first(count):
    rng = np.random.default_rng(count)
    samples, nearest = (rng.integers(256, size=(count, 8, 8, 1), dtype=np.uint8) for _ in range(2))
    distances = rng.random(count)
    figure = sheets.neighbours(samples, nearest, distances)
    shown = min(count, 16)
    expected = [f"{value:.3f}" for value in np.sort(distances)[:shown]]
    assert [text for text in texts(figure) if text in set(expected)] == expected
    figure.canvas.draw()
    seen = np.asarray(figure.canvas.buffer_rgba())[..., :3]
    order, scale = np.argsort(distances), round(76 / 8)
    axes = figure.axes[-1].get_window_extent()
    top, left, cell = round(len(seen) - axes.y1), round(axes.x0), 8 * scale + 5
    for place in range(8 * (len(figure.axes) - 1), shown):
        for row, images in enumerate((samples, nearest)):
            across = left + place % 8 * cell
            corner = seen[top + row * cell : top + (row + 1) * cell - 5, across : across + cell - 5]
            np.testing.assert_array_equal(corner[::scale, ::scale, 0], images[order[place], ..., 0])
    frame = figure.bbox
    for text in figure.findobj(matplotlib.text.Text):
        if text.get_visible() and text.get_text():
            box = text.get_window_extent()
            assert frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1


def test_neighbours_refuses_what_are_no_pairs():
    images = np.zeros((3, 8, 8, 1), np.uint8)
    with pytest.raises(ValueError, match="got 3 samples, 2 training images and 3 distances"):
        sheets.neighbours(images, images[:2], [1, 2, 3])
    with pytest.raises(ValueError, match=r"one shape, got \(8, 8\) and \(7, 8\)"):
        sheets.neighbours(images, images[:, 1:], [1, 2, 3])
    with pytest.raises(ValueError, match="samples must be"):
        sheets.neighbours(images[:0], images[:0], [])
