"""Probes of codes that are known to tell a class or not, against scikit-learn's own pipelines; PSNR and SSIM against closed
forms, a loop over windows, scikit-image and torchmetrics."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import structural_similarity
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks import independence
from vaekit import CVAE, VAE, open_data
from vaekit.data.batches import to_input
from vaekit.evaluation import representation
from vaekit.evaluation.likelihood import posterior
from vaekit.evaluation.representation import class_independence, measure_representation, reconstruction_quality

TRAIN, TEST = slice(1200), slice(1200, None)


@pytest.fixture(scope="module")
def measure(digits):
    """codes (1797, D) of the digits -> what is measured, learnt from the first 1,200."""
    x, y = digits
    limit, shared = representation.LIMIT, {}

    def measured(codes, labels=y, images=x, seed=0) -> dict:
        usual = labels is y and images is x and seed == 0 and limit == representation.LIMIT
        given = (codes[TRAIN], labels[TRAIN], codes[TEST], labels[TEST])
        known = {"baselines": shared} if usual else {}
        return measure_representation(*given, train_x=images[TRAIN], x=images[TEST], seed=seed, **known)

    return measured


def separable(y: np.ndarray, seed: int = 0) -> np.ndarray:
    """(N, 10) a corner for each class, and a little noise."""
    return 5 * np.eye(10)[y] + np.random.default_rng(seed).normal(0, 0.3, (len(y), 10))


# Representation


def test_separable_codes_are_told_apart_wholly(digits, measure):
    found = measure(separable(digits[1]))
    for name in ("probe_accuracy", "knn_accuracy", "kmeans_ari", "kmeans_nmi"):
        assert found[name] == pytest.approx(1), name
    assert found["probe_accuracy_se"] == found["knn_accuracy_se"] == 0
    assert (found["probe_train"], found["probe_test"], found["pca_width"]) == (1200, 597, 10)
    assert found["probe_converged"] is True
    assert json.loads(json.dumps(found)) == found


def test_noise_is_at_chance(digits, measure):
    found = measure(np.random.default_rng(1).normal(size=(1797, 10)))
    error = (0.1 * 0.9 / 597) ** 0.5
    assert found["chance"] == pytest.approx(0.1, abs=0.02)
    assert found["probe_accuracy"] == pytest.approx(0.1, abs=3 * error)
    assert found["knn_accuracy"] == pytest.approx(0.1, abs=3 * error)
    assert found["probe_accuracy_se"] == pytest.approx(error, rel=0.3)
    assert abs(found["kmeans_ari"]) < 0.02 and found["kmeans_nmi"] < 0.06


def test_pca_and_pixels_are_what_scikit_learn_finds(digits, measure):
    x, y = digits
    found = measure(np.random.default_rng(1).normal(size=(1797, 6)))
    pixels = x.reshape(len(x), -1) / 255
    for suffix, steps in (("_pca", [PCA(6, svd_solver="full")]), ("_pixels", [])):
        probe = LogisticRegression(C=found[f"probe_c{suffix}"], max_iter=5000, tol=1e-6)
        probe = make_pipeline(*steps, StandardScaler(), probe).fit(pixels[TRAIN], y[TRAIN])
        # One image of 597 may be so near a border that rounding decides.
        assert found[f"probe_accuracy{suffix}"] == pytest.approx(probe.score(pixels[TEST], y[TEST]), abs=0.002)
        near = make_pipeline(*steps, KNeighborsClassifier(5)).fit(pixels[TRAIN], y[TRAIN])
        assert found[f"knn_accuracy{suffix}"] == pytest.approx(near.score(pixels[TEST], y[TEST]), abs=0.002)
    z = PCA(6, svd_solver="full").fit(pixels[TRAIN]).transform(pixels[TEST])
    clusters = KMeans(10, n_init=50, random_state=0).fit_predict(z)
    assert found["kmeans_ari_pca"] == pytest.approx(adjusted_rand_score(y[TEST], clusters), abs=0.03)
    assert found["kmeans_nmi_pca"] == pytest.approx(normalized_mutual_info_score(y[TEST], clusters), abs=0.03)
    assert found["probe_accuracy_pca_se"] == pytest.approx(
        (found["probe_accuracy_pca"] * (1 - found["probe_accuracy_pca"]) / 597) ** 0.5
    )


@pytest.mark.slow
def test_baselines_are_found_once_for_all_models_on_the_same_images(digits, monkeypatch):
    x, y = digits
    fits, kept, probe = [], {}, representation._probe
    monkeypatch.setattr(representation, "_probe", lambda *given: fits.append(1) or probe(*given))
    for width, expected in ((2, 3), (2, 1), (3, 2)):
        codes = x.reshape(-1, 64)[:, 20 : 20 + width].astype(np.float32)
        given = (codes[:300], y[:300], codes[300:400], y[300:400])
        fits.clear()
        found = measure_representation(*given, train_x=x[:300], x=x[300:400], baselines=kept)
        assert len(fits) == expected, "latents, and what is new of the images"
        assert found == measure_representation(*given, train_x=x[:300], x=x[300:400])
        assert found["pca_width"] == width


def test_the_penalty_is_chosen_by_what_it_gives(digits, measure):
    """Weak signals among 200 features of noise, which a weak one would learn by heart, need a strong one, and clean features
    that differ in the mean a weak one.
    """
    y = digits[1]
    rng = np.random.default_rng(0)
    signal = np.eye(10)[y] + rng.normal(0, 0.7, (1797, 10))
    noisy = np.concatenate([signal, rng.normal(size=(1797, 200))], axis=1)
    found = measure(noisy)
    weak = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=2000)).fit(noisy[TRAIN], y[TRAIN])
    assert found["probe_c"] <= 0.01
    assert found["probe_accuracy"] > weak.score(noisy[TEST], y[TEST]) + 0.02
    assert found["pca_width"] == 64
    few = measure(PCA(10).fit_transform(digits[0].reshape(1797, -1) / 255))
    assert few["probe_c"] >= 0.1


@pytest.mark.slow
def test_the_order_of_latents_of_test_images_and_the_names_of_classes_do_not_matter(digits, measure):
    x, y = digits
    codes = PCA(5).fit_transform(x.reshape(len(x), -1) / 255)
    found, turned = measure(codes), measure(codes[:, ::-1])
    probed = [name for name in found if name.startswith(("probe", "knn"))]
    assert all(found[name] == pytest.approx(turned[name], abs=0.002) for name in found)
    names = np.array([f"digit {label}" for label in y])
    assert measure(codes, names) == found
    mixed = np.random.default_rng(0).permutation(597) + 1200
    again = measure_representation(
        codes[TRAIN], y[TRAIN], codes[mixed], y[mixed], train_x=x[TRAIN], x=x[mixed].astype(np.float32) / 255
    )
    assert [again[name] for name in probed] == [found[name] for name in probed]


def test_the_scale_of_a_latent_matters_to_neighbours_and_not_to_the_probe(digits, measure):
    codes = separable(digits[1]) @ np.random.default_rng(3).normal(size=(10, 4))
    scaled = codes * [1, 100, 0.01, 1] + [0, 0, 0, 50]
    one, other = measure(codes), measure(scaled)
    assert one["probe_accuracy"] == pytest.approx(other["probe_accuracy"], abs=0.002)
    assert one["knn_accuracy"] > other["knn_accuracy"] + 0.1


@pytest.mark.slow
def test_the_seed_decides(digits, measure, monkeypatch):
    codes = np.random.default_rng(4).normal(size=(1797, 3))
    assert measure(codes) == measure(codes)
    assert measure(codes)["kmeans_ari"] != measure(codes, seed=1)["kmeans_ari"]
    monkeypatch.setattr(representation, "LIMIT", 500)
    one, again, other = measure(codes), measure(codes), measure(codes, seed=1)
    assert one["probe_train"] == one["probe_test"] == 500
    assert one == again and one["knn_accuracy_pixels"] != other["knn_accuracy_pixels"]


def test_a_random_part_of_many_keeps_codes_images_and_labels_together(digits, measure, monkeypatch):
    monkeypatch.setattr(representation, "LIMIT", 400)
    found = measure(separable(digits[1]))
    assert found["probe_accuracy"] == found["knn_accuracy"] == 1
    assert found["probe_accuracy_pixels"] > 0.85 and found["knn_accuracy_pixels"] > 0.85


@pytest.mark.filterwarnings("error")
def test_a_collapsed_latent_is_chance_and_no_warning(digits, measure):
    for codes in (np.full((1797, 4), 0.1), np.full((1797, 4), 3e8)):
        found = measure(codes)
        assert found["probe_accuracy"] == found["chance"]
        assert found["kmeans_ari"] == found["kmeans_nmi"] == 0
    blank = measure(separable(digits[1]), images=np.zeros((1797, 8, 8, 1), np.uint8))
    assert blank["probe_accuracy_pca"] == blank["probe_accuracy_pixels"] == blank["chance"]


def test_rounding_errors_are_no_features(digits, measure):
    """In float32 a constant may come out of a network with noise in its last digits."""
    y = digits[1]
    wide = np.concatenate([separable(y), 1e-7 * np.random.default_rng(0).normal(size=(1797, 500))], axis=1)
    assert measure(wide)["probe_accuracy"] == 1
    tiny = np.concatenate([np.zeros((1797, 1)), 1e-7 * separable(y)], axis=1)
    assert measure(tiny)["probe_accuracy"] == 1  # small, but all there is


def test_tables_are_standardised(digits, measure):
    y = digits[1]
    table = separable(y, seed=3)
    found = measure(separable(y), images=table * [1e4, *[1] * 9] + 7)
    assert found["knn_accuracy_pixels"] == found["probe_accuracy_pixels"] == 1
    assert found["pca_width"] == 10 and found["kmeans_ari_pca"] > 0.9
    narrow = measure(separable(y), images=table[:, :2])
    assert narrow["pca_width"] == 2


def test_a_class_without_training_images_counts_as_wrong(digits, measure):
    y = digits[1]
    labels = y.copy()
    labels[np.flatnonzero(y == 3)[np.flatnonzero(y == 3) >= 1200]] = 77
    found = measure(separable(y), labels)
    assert found["probe_accuracy"] == found["knn_accuracy"] == pytest.approx(1 - (labels == 77).sum() / 597)


def test_what_does_not_fit_is_refused(digits):
    x, y = digits
    codes = separable(y)
    fits = {"train_codes": codes, "train_y": y, "codes": codes, "y": y, "train_x": x, "x": x}
    for changed, message in (
        ({"train_y": None}, "train_y must be labels, one per image, got None"),
        ({"y": None}, "^y must be labels, one per image, got None"),
        ({"y": y[1:]}, "^y has 1796 labels for 1797 images"),
        ({"train_y": y[:, None] + [0, 1]}, r"train_y must be one label per image, of shape \(1797,\)"),
        ({"y": np.where(y == 1, np.nan, y)}, "train_y or y holds NaN"),
        ({"train_codes": codes[0]}, r"train_codes must be numbers of shape \(N, D\), got float64 of shape \(10,\)"),
        ({"codes": codes[:, :9]}, "train_codes and codes must be of one width, got 10 and 9"),
        ({"codes": np.where(codes > 5, np.inf, codes)}, "^codes must be finite"),
        ({"x": x[1:]}, "^x has 1796 images for 1797 codes"),
        ({"train_x": x[1:]}, "train_x has 1796 images for 1797 codes"),
        ({"train_x": x[:, :4]}, r"one shape, got \(4, 8, 1\) and \(8, 8, 1\)"),
        (
            {"train_y": np.where(np.arange(1797) < 4, 1, 0)},
            "at least two classes of 5 images or more, got classes of 1793, 4",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            measure_representation(**(fits | changed))


@pytest.mark.slow
def test_latents_of_a_vae_tell_the_digit_better_than_as_many_random_pixels(digits, measure):
    """Four latents of a short training; four random projections of the images, the baseline, tell about half of the digits."""
    x = digits[0]
    model = VAE(latent_dim=4, epochs=15, random_state=0).fit(x[TRAIN])
    found = measure(model.transform(x))
    projected = measure(x.reshape(len(x), -1) / 255 @ np.random.default_rng(0).normal(size=(64, 4)))
    assert found["probe_accuracy"] > 0.65 > projected["probe_accuracy"] + 0.05
    assert found["knn_accuracy"] > 0.8
    assert found["kmeans_ari"] > projected["kmeans_ari"] + 0.1
    quality = reconstruction_quality(x[TEST], model.reconstruct(x[TEST]))
    assert quality["psnr"] > 14 and quality["ssim"] > 0.6


# Independence of the class


def test_codes_that_say_nothing_of_the_class_are_at_chance(digits):
    y = digits[1]
    found = class_independence(np.random.default_rng(0).normal(size=(1797, 8)), y)
    assert found["chance"] == pytest.approx(np.bincount(y).max() / 1797)
    assert (found["samples"], found["folds"]) == (1797, 5)
    for probe in ("linear", "nonlinear"):
        assert found[f"{probe}_above_chance"] <= 2 * found[f"{probe}_above_chance_se"]
        assert found[f"{probe}_accuracy"] > 0.06
    assert json.loads(json.dumps(found)) == found


@pytest.mark.slow
def test_a_linear_and_a_nonlinear_trace_of_the_class_are_found():
    """Means apart: both probes are as good as can be. Variances or correlations apart: the linear one misses most of it."""
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=4000)
    noise = rng.normal(size=(4000, 3))
    apart = class_independence(noise + np.outer(y, [2, 0, 0]), y)
    assert apart["linear_accuracy"] == pytest.approx(0.841, abs=0.02)  # the normal distribution function at 1
    assert apart["nonlinear_accuracy"] == pytest.approx(0.841, abs=0.02)
    turned = noise.copy()
    turned[:, 1] = np.where(y == 1, 1, -1) * noise[:, 0] + 0.3 * noise[:, 1]
    for codes in (noise * np.where(y == 1, 3, 1)[:, None], turned):
        found = class_independence(codes, y)
        assert found["nonlinear_accuracy"] > 0.8 > 0.6 > found["linear_accuracy"]
        assert found["nonlinear_above_chance"] > 20 * found["nonlinear_above_chance_se"]


def test_wide_codes_have_their_squares_probed():
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=1000)
    found = class_independence(rng.normal(size=(1000, 50)) * np.where(y == 1, 1.5, 1)[:, None], y)
    assert found["nonlinear_accuracy"] > 0.85 > found["linear_accuracy"] + 0.2


def test_chance_is_the_most_frequent_class_and_its_errors_are_of_the_same_images():
    rng = np.random.default_rng(0)
    y = (rng.random(2000) < 0.9).astype(int)
    found = class_independence(rng.normal(size=(2000, 2)), y)
    assert found["chance"] == y.mean() == found["linear_accuracy"]
    assert found["linear_above_chance"] == found["linear_above_chance_se"] == 0
    assert found["linear_accuracy_se"] == pytest.approx((y.mean() * (1 - y.mean()) / 2000) ** 0.5)
    told = class_independence(separable(y), y)
    assert told["linear_accuracy"] == 1 and told["linear_accuracy_se"] == 0
    assert told["linear_above_chance"] == pytest.approx(1 - y.mean())
    assert told["linear_above_chance_se"] == pytest.approx((y.mean() * (1 - y.mean()) / 2000) ** 0.5)


def test_no_image_is_judged_by_a_probe_that_saw_it():
    """More features than images: a probe of its own training images would be right always."""
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=200)
    found = class_independence(rng.normal(size=(200, 400)), y)
    assert found["linear_accuracy"] < 0.65 and found["nonlinear_accuracy"] < 0.65


@pytest.mark.slow
def test_independence_is_a_function_of_the_seed(digits):
    codes, y = np.random.default_rng(0).normal(size=(600, 4)), digits[1][:600]
    found = class_independence(codes, y)
    assert found == class_independence(codes, y)
    assert found == class_independence(torch.from_numpy(codes), y.astype(str))
    assert found != class_independence(codes, y, seed=1)


@pytest.mark.parametrize(
    ("codes", "y", "message"),
    [
        (np.zeros((10, 2)), None, "y must be labels, one per image, got None"),
        (np.zeros((10, 2)), np.arange(9), "y has 9 labels for 10 images"),
        (np.zeros((10, 2)), np.arange(10), "y must have at least two classes of 5 images or more"),
        (
            np.zeros((10, 2, 2)),
            np.arange(10),
            r"codes must be numbers of shape \(N, D\), got float64 of shape \(10, 2, 2\)",
        ),
        (np.full((10, 2), np.nan), np.arange(10), "codes must be finite"),
    ],
)
def test_independence_refuses_what_does_not_fit(codes, y, message):
    with pytest.raises(ValueError, match=message):
        class_independence(codes, y)


def test_rare_classes_are_dealt_out_without_failing():
    y = np.array([0] * 5 + [1] * 5 + [2])
    found = class_independence(separable(y), y)
    assert found["samples"] == 11 and found["linear_accuracy"] >= 10 / 11 - 1e-9


# Reconstructions


@pytest.fixture(scope="module")
def colour() -> tuple[np.ndarray, np.ndarray]:
    """(5, 32, 32, 3) smooth float images, and the same with noise."""
    rng = np.random.default_rng(0)
    coarse = rng.random((5, 8, 8, 3)).repeat(4, 1).repeat(4, 2)
    return coarse, np.clip(coarse + rng.normal(0, 0.1, coarse.shape), 0, 1)


def reference(x, other, **more) -> float:
    """scikit-image's mean SSIM over images (N, H, W, C), as in the paper."""
    return np.mean(
        [
            structural_similarity(
                a,
                b,
                channel_axis=-1,
                data_range=1,
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
                **more,
            )
            for a, b in zip(x, other, strict=True)
        ]
    )


def test_psnr_of_a_known_error():
    x = np.full((3, 12, 12, 1), 0.5)
    for error, decibel in ((0.1, 20), (0.01, 40)):
        found = reconstruction_quality(x, x + error)
        assert found["psnr"] == pytest.approx(decibel, abs=1e-3) and found["psnr_se"] == pytest.approx(0, abs=1e-4)
    mixed = x.copy()
    mixed[0] += 0.1
    found = reconstruction_quality(x, mixed)  # the mean over images, not of the mean error
    assert found["psnr"] == pytest.approx((20 + 100 + 100) / 3, abs=1e-3)
    assert found["psnr_se"] == pytest.approx(np.std([20, 100, 100]) / 3**0.5, abs=1e-3)


def test_images_without_error(digits):
    found = reconstruction_quality(digits[0], digits[0])
    assert (found["images"], found["ssim_window"], found["psnr"], found["psnr_se"]) == (1797, 7, 100, 0)
    assert found["ssim"] == pytest.approx(1, abs=1e-6) and found["ssim_se"] < 1e-6


def test_ssim_is_scikit_images(digits, colour):
    x = digits[0][:20].repeat(4, 1).repeat(4, 2)[:, 2:-2, 2:-2] / 255  # 28x28
    blurred = (x + np.roll(x, 1, 1) + np.roll(x, 1, 2)) / 3
    assert reconstruction_quality(x, blurred)["ssim"] == pytest.approx(reference(x, blurred), abs=1e-4)
    assert reconstruction_quality(*colour)["ssim"] == pytest.approx(reference(*colour), abs=1e-4)
    narrow, other = x[:, :, :13], blurred[:, :, :13]
    assert reconstruction_quality(narrow, other)["ssim"] == pytest.approx(reference(narrow, other), abs=1e-4)
    enlarged = digits[0][:30].repeat(2, 1).repeat(2, 2)  # 16x16, 8-bit
    other = 255 - enlarged
    assert reconstruction_quality(enlarged, other)["ssim"] == pytest.approx(
        reference(enlarged / 255, other / 255), abs=1e-4
    )


def test_ssim_of_small_images_is_a_loop_over_windows(digits):
    """8x8 digits: 7x7 windows at four places."""
    x = digits[0][:20, :, :, 0] / 255
    other = np.roll(x, 1, axis=2)
    g = np.exp(-((np.arange(7) - 3) ** 2) / (2 * 1.5**2))
    weights = np.outer(g, g) / g.sum() ** 2
    values = []
    for a, b in zip(x, other, strict=True):
        for i in range(2):
            for j in range(2):
                p, q = a[i : i + 7, j : j + 7], b[i : i + 7, j : j + 7]
                m, n = (weights * p).sum(), (weights * q).sum()
                v, w = (weights * (p - m) ** 2).sum(), (weights * (q - n) ** 2).sum()
                c = (weights * (p - m) * (q - n)).sum()
                values.append((2 * m * n + 1e-4) * (2 * c + 9e-4) / ((m * m + n * n + 1e-4) * (v + w + 9e-4)))
    found = reconstruction_quality(x, other)
    assert found["ssim"] == pytest.approx(np.mean(values), abs=1e-5) and found["ssim_window"] == 7
    per_image = np.reshape(values, (20, 4)).mean(1)
    assert found["ssim_se"] == pytest.approx(per_image.std() / 20**0.5, abs=1e-5)


def test_torchmetrics_agrees(colour):
    functional = pytest.importorskip("torchmetrics.functional.image")
    x, other = (to_input(torch.from_numpy(part.astype(np.float32))) for part in colour)
    found = reconstruction_quality(*colour)
    psnr = functional.peak_signal_noise_ratio(other, x, data_range=1.0, reduction="elementwise_mean", dim=(1, 2, 3))
    assert found["psnr"] == pytest.approx(psnr.item(), abs=1e-3)
    _, maps = functional.structural_similarity_index_measure(other, x, data_range=1.0, return_full_image=True)
    assert found["ssim"] == pytest.approx(maps[:, :, 5:-5, 5:-5].mean().item(), abs=1e-4)


def test_images_are_compared_in_parts(colour, monkeypatch):
    whole = reconstruction_quality(*colour)
    monkeypatch.setattr(representation, "PIXELS", 2 * 32 * 32 * 3)
    assert reconstruction_quality(*colour) == pytest.approx(whole)


few = settings(max_examples=25, deadline=None)


@few
@given(st.integers(2, 15), st.integers(2, 15), st.integers(1, 4), st.integers(0, 10**6))
def test_quality_of_any_shape(height, width, channels, seed):
    rng = np.random.default_rng(seed)
    x, other = rng.integers(0, 256, (2, 3, height, width, channels), dtype=np.uint8)
    found = reconstruction_quality(x, other)
    assert found["ssim_window"] % 2 == 1 and found["ssim_window"] + 2 > min(11, height, width) >= found["ssim_window"]
    assert -1 <= found["ssim"] <= 1 and 0 <= found["psnr"] <= 100
    swapped = reconstruction_quality(other, x / 255)
    assert swapped == pytest.approx(found, abs=1e-5)
    turned = reconstruction_quality(x.swapaxes(1, 2), other.swapaxes(1, 2))
    assert turned == pytest.approx(found, abs=1e-5)


@pytest.mark.parametrize(
    ("x", "other", "message"),
    [
        (np.zeros((3, 8, 8)), np.zeros((2, 8, 8)), r"one shape, got \(3, 8, 8, 1\) and \(2, 8, 8, 1\)"),
        (np.zeros((3, 8, 8)), np.zeros((3, 8, 8, 3)), r"one shape, got \(3, 8, 8, 1\) and \(3, 8, 8, 3\)"),
        (np.zeros((3, 8)), np.zeros((3, 8)), r"images \(N, H, W, C\), got tables of shape \(3, 8\)"),
        (np.zeros((3, 8, 8)), np.full((3, 8, 8), 2.0), "reconstructed has float pixels from 2 to 2"),
    ],
)
def test_quality_refuses_what_does_not_fit(x, other, message):
    with pytest.raises(ValueError, match=message):
        reconstruction_quality(x, other)


# The claim


@pytest.mark.slow
def test_the_claim_measures_means_and_draws_under_the_given_labels():
    """A VAE and a CVAE of the digits; 40 batches of training leave the class in a VAE's latent."""
    train, test = open_data("digits", "train"), open_data("digits", "test")
    found = {}
    for label, model in (("CVAE", CVAE), ("VAE", VAE)):
        fitted = model(epochs=2, random_state=0).fit_images(train)
        data = fitted.fitted_.data(test)
        means, draws = posterior(fitted.model_, data, seed=0)
        assert means.numpy() == pytest.approx(fitted.transform(test.x, test.y), abs=1e-5)
        again = posterior(fitted.model_, data, seed=0)
        assert (draws == again[1]).all() and (draws != posterior(fitted.model_, data, seed=1)[1]).any()
        up = (draws > means).float().mean(0)
        assert (up > 0.3).all() and (up < 0.7).all()  # each image has noise of its own
        assert not np.allclose(means.numpy(), fitted.transform(test.x, np.roll(test.y, 1)), atol=1e-3) or label == "VAE"
        found[label] = [independence.measure(fitted, test, seed=0)] * 2
    assert found["VAE"][0]["means"]["linear_accuracy"] > 0.3
    said = independence.report(found)
    assert [row[0] for row in said.rows] == ["CVAE", "VAE"] and all(len(row) == len(said.columns) for row in said.rows)


def test_the_claim_says_which_latents_are_at_chance():
    def run(above):
        figures = {"chance": 0.1, "samples": 1000}
        for probe in ("linear", "nonlinear"):
            figures |= {
                f"{probe}_accuracy": 0.1 + above,
                f"{probe}_above_chance": above,
                f"{probe}_above_chance_se": 0.01,
            }
        return {"means": figures, "draws": figures}

    said = independence.report(
        {"CVAE, a": [run(0.019), run(0)], "CVAE, b": [run(0.0), run(0.2)], "VAE": [run(0.9)] * 2}
    )
    assert "Neither probe tells the class from draws of CVAE, a, in any seed" in said.text
    assert "NOT independent of the class" in said.text and "30.0 % of draws of the CVAE, b" in said.text
    assert "VAE." not in said.text.replace("CVAE", "")
    assert said.rows[2][1:] == ["100.0 ± 0.0"] * 4 + ["10.0"]
    assert "NOT" not in independence.report({"CVAE": [run(0.0)]}).text
