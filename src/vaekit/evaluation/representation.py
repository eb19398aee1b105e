"""What latents and reconstructions are worth: how much of the class a probe reads from the latents, beside PCA and raw pixels,
whether it reads any where it should not, and how like their originals reconstructions are.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vaekit.data.checks import check_arrays, check_labels, label_column
from vaekit.state import undisturbed
from vaekit.threads import alone
from vaekit.world import derive_seed

LIMIT = 10_000  # images of a set that a representation is measured on
PENALTIES = (0.001, 0.01, 0.1, 1.0)  # C of the logistic regression, the strongest penalty first
ITERATIONS = 1000
CONSTANT = 1e-6  # share of the largest standard deviation up to which a feature is rounding error
NEIGHBOURS = 5
STARTS = 10  # of k-means
FOLDS = 5
PAIRWISE = 40  # widest latent whose products of two are probed
WINDOW, SIGMA = 11, 1.5  # of SSIM, in pixels
C1, C2 = 0.01**2, 0.03**2
LEAST_ERROR = 1e-10  # mean squared error that counts as none: 100 dB
PIXELS = 2**20  # of the images that are compared at once


@undisturbed
def measure_representation(
    train_codes, train_y, codes, y, *, train_x, x, seed: int = 0, baselines: dict | None = None
) -> dict:
    """How well classes can be told from latents, from as many principal components of the images, and from their pixels.

    train_codes, codes: latents (N, D) and (M, D), a row an image; those of a code grid flattened. train_y, y: labels (N,) and
    (M,) of any kind. train_x, x: their images (N, H, W), (N, H, W, C), or tables (N, F), which are standardised.
    Learnt from the training images, measured on the others. Of more than 10,000 images, a random 10,000 by `seed` are used.
    baselines: takes up what was found of components and pixels, and is asked for it: the next model on the same images, labels
    and seed is given the same dictionary, so that this is not found out again.

    Each figure for the latents, and with the suffix _pca and _pixels for those:
    probe_accuracy: share right of a multinomial logistic regression on standardised features, its penalty chosen among four
        (C = 0.001 to 1) by a fifth of the training images, then fitted to all; probe_c: the C chosen.
    knn_accuracy: share right of the 5 nearest training images' vote, Euclidean, features as they are.
        With ..._se after it (probe_accuracy_pca_se), their binomial standard errors: of the choice of test images alone.
    kmeans_ari, kmeans_nmi: adjusted Rand index (1 at most, 0 by chance) and normalised mutual information (in [0, 1], slightly
        above 0 by chance) of test classes and as many clusters, the best of 10 starts. None for pixels.
    And once: probe_train, probe_test: images used; probe_converged: whether every fit of a probe came to rest in 1,000 steps;
    chance: share right of always naming the commonest training class; pca_width: components, D or as many as there are. Where
    these are nearly all, the last are noise that standardising makes large: pixels are then the fairer measure of a probe.
    A test class that no training image has counts as wrong.

    Raises ValueError for missing labels, rows that don't match, codes that aren't finite numbers, and fewer than two classes
    with 5 training images.
    """
    train, test = _check_sets(train_codes, train_y, codes, y, train_x, x, seed)
    width = min(train.codes.shape[1], *train.pixels.shape)
    baselines = {} if baselines is None else baselines
    if width not in baselines:
        components = _principal_components(train.pixels, test.pixels, width, seed)
        baselines[width] = _figures("_pca", *components, train.y, test.y, seed)
    if "pixels" not in baselines:
        baselines["pixels"] = _figures("_pixels", train.pixels, test.pixels, train.y, test.y, seed)
    parts = (_figures("", train.codes, test.codes, train.y, test.y, seed), baselines[width], baselines["pixels"])
    result = {
        "probe_train": len(train.y),
        "probe_test": len(test.y),
        "pca_width": width,
        "chance": float((test.y == np.bincount(train.y).argmax()).mean()),
    }
    for figures, _ in parts:
        result |= figures
    return result | {"probe_converged": all(converged for _, converged in parts)}


def _figures(
    suffix: str, known: np.ndarray, new: np.ndarray, train_y: np.ndarray, y: np.ndarray, seed: int
) -> tuple[dict, bool]:
    """What classes features (N, D) and (M, D) tell of, and whether the probe came to rest."""
    probe = _probe(known, train_y, new, seed)
    found = {**_share(f"probe_accuracy{suffix}", probe.predicted == y), f"probe_c{suffix}": probe.c}
    found |= _share(f"knn_accuracy{suffix}", _neighbours_vote(known, train_y, new) == y)
    if suffix != "_pixels":
        found |= {f"kmeans_{name}{suffix}": value for name, value in _clusters(new, y, seed).items()}
    return found, probe.converged


@undisturbed
def class_independence(codes, y, *, seed: int = 0) -> dict:
    """Do latents (N, D) tell of the class? Accuracies of two probes by 5-fold cross-validation, against chance.

    y: labels (N,) of any kind. The linear probe is that of `measure_representation`, its penalty chosen inside each fold; the
    nonlinear one has the squares of standardised latents too, and to a width of 40 their products of two, so that it sees
    classes which differ in mean, variance or correlation. What differs in none of these, or too little for N images, both miss:
    a probe at chance is no proof of independence.

    samples, folds. chance: share of the most frequent class. linear_accuracy, nonlinear_accuracy: share right over all images,
    each by probes that did not see it; ..._accuracy_se: binomial standard errors. linear_above_chance,
    nonlinear_above_chance: accuracy - chance; ..._above_chance_se: its standard error, the two being of the same images.
    probe_converged: as in `measure_representation`.
    Features are standardised: give draws z ~ q(z|x), since means of a latent that is all but unused may tell the class where
    no draw does.

    Raises ValueError as `measure_representation` does.
    """
    codes = _check_codes(codes, "codes")
    labels, _ = check_labels(_given(y, "y"), len(codes))
    _check_classes(labels, "y")
    folds = _folds(labels, derive_seed(seed, "independence"))
    usual = labels == np.bincount(labels).argmax()
    result = {"samples": len(codes), "folds": FOLDS, "chance": float(usual.mean())}
    converged = True
    for name, expand in (("linear", _standardised), ("nonlinear", _quadratic)):
        right = np.empty(len(codes), bool)
        for fold in range(FOLDS):
            held = folds == fold
            known, new = expand(codes[~held], codes[held])
            probe = _probe(known, labels[~held], new, seed)
            right[held] = probe.predicted == labels[held]
            converged = converged and probe.converged
        above = right.astype(np.float64) - usual
        result |= _share(f"{name}_accuracy", right)
        result[f"{name}_above_chance"] = float(above.mean())
        result[f"{name}_above_chance_se"] = float(above.std() / len(above) ** 0.5)
    return result | {"probe_converged": converged}


@undisturbed
def reconstruction_quality(x, reconstructed) -> dict:
    """How like their originals reconstructions are, images (N, H, W) or (N, H, W, C), 8-bit or floats in [0, 1], of one shape.

    psnr: mean over images of 10 log10(1 / mse), in dB; an image without error, or with less than 1e-10, counts as 100 dB.
    ssim: structural similarity (Wang et al. 2004, eq. 13), 1 at most; Gaussian 11x11 window with sigma 1.5, K = (0.01, 0.03),
        data range 1, population covariances, over the places where the window lies inside; channels are averaged. Images
        smaller than that have the largest odd window that fits (7x7 for 8x8, same sigma), and figures of other windows don't
        compare: ssim_window says which it was.
    psnr_se, ssim_se: standard errors over images; images: how many.

    Raises ValueError for tables and for shapes that differ.
    """
    x, reconstructed = check_arrays(x=x, reconstructed=reconstructed)
    if x.shape != reconstructed.shape:
        raise ValueError(f"x and reconstructed must have one shape, got {x.shape} and {reconstructed.shape}")
    if x.ndim != 4:
        raise ValueError(f"reconstruction_quality is of images (N, H, W, C), got tables of shape {x.shape}")
    side = min(WINDOW, *x.shape[1:3])
    side -= side % 2 == 0
    size = max(1, PIXELS // x[0].size)
    psnr, ssim = [], []
    for start in range(0, len(x), size):
        pair = [torch.from_numpy(_unit(images[start : start + size])) for images in (x, reconstructed)]
        error = (pair[0] - pair[1]).double().square().flatten(1).mean(1)
        psnr.append(-10 * error.clamp(min=LEAST_ERROR).log10())
        first, second = (part.permute(0, 3, 1, 2) for part in pair)
        ssim.append(_structural_similarity(first, second, side))
    result = {"images": len(x), "ssim_window": side}
    for name, values in (("psnr", torch.cat(psnr)), ("ssim", torch.cat(ssim))):
        result |= {name: values.mean().item(), f"{name}_se": values.std(correction=0).item() / len(x) ** 0.5}
    return result


def _structural_similarity(x: Tensor, other: Tensor, side: int) -> Tensor:
    """(B,) mean SSIM of images (B, C, H, W) in [0, 1], the window `side` x `side`."""
    taps = torch.exp(-(torch.arange(side) - side // 2).square() / (2 * SIGMA**2))
    taps /= taps.sum()
    # One matrix for the window's places along each axis: on small images far faster than a convolution of one channel.
    down, across = (
        torch.stack([torch.nn.functional.pad(taps, (place, n - side - place)) for place in range(n - side + 1)])
        for n in x.shape[2:]
    )
    maps = torch.stack([x, other, x * x, other * other, x * other])
    mean, other_mean, square, other_square, product = down @ maps @ across.T
    variances = square - mean**2 + other_square - other_mean**2
    covariance = product - mean * other_mean
    luminance = (2 * mean * other_mean + C1) / (mean**2 + other_mean**2 + C1)
    structure = (2 * covariance + C2) / (variances + C2)
    return (luminance * structure).flatten(1).double().mean(1)


# ---- probes --------------------------------------------------------------------------------------------------------


class _Probe(NamedTuple):
    predicted: np.ndarray  # (M,) labels
    c: float
    converged: bool


def _probe(known: np.ndarray, y: np.ndarray, new: np.ndarray, seed: int) -> _Probe:
    """Logistic regression on features (N, D) and labels (N,), asked for the labels of (M, D)."""
    held = _folds(y, derive_seed(seed, "penalty")) == 0
    some, rest = _standardised(known[~held], known[held])
    candidates = [_logistic(some, y[~held], c) for c in PENALTIES]
    chosen = PENALTIES[int(np.argmax([fit.score(rest, y[held]) for fit in candidates]))]
    known, new = _standardised(known, new)
    final = _logistic(known, y, chosen)
    return _Probe(final.predict(new), chosen, all(fit.n_iter_.max() < ITERATIONS for fit in [*candidates, final]))


def _logistic(x: np.ndarray, y: np.ndarray, c: float):
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings(), alone():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the result says it
        return LogisticRegression(C=c, max_iter=ITERATIONS).fit(x, y)


def _standardised(known: np.ndarray, new: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both in units of the first one's standard deviations; features that are constant there are 0 in both."""
    origin = known[0]  # so that a constant has no rounding error to be divided by
    known, new = known - origin, new - origin
    mean, spread = known.mean(0, dtype=np.float64), known.std(0, dtype=np.float64)
    scale = np.where(spread > CONSTANT * spread.max(), spread, np.inf)
    return tuple(((part - mean) / scale).astype(np.float32) for part in (known, new))


def _quadratic(known: np.ndarray, new: np.ndarray) -> list[np.ndarray]:
    """Standardised features, their squares, and up to a width of PAIRWISE their products of two."""
    width = known.shape[1]
    first, second = np.triu_indices(width) if width <= PAIRWISE else (np.arange(width),) * 2
    return [np.concatenate([z, z[:, first] * z[:, second]], axis=1) for z in _standardised(known, new)]


def _neighbours_vote(known: np.ndarray, y: np.ndarray, new: np.ndarray) -> np.ndarray:
    from sklearn.neighbors import KNeighborsClassifier

    return KNeighborsClassifier(NEIGHBOURS).fit(known, y).predict(new)


def _principal_components(known: np.ndarray, new: np.ndarray, width: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.decomposition import PCA

    pca = PCA(width, random_state=derive_seed(seed, "pca") % 2**31)
    with np.errstate(invalid="ignore"):  # images that are all the same have no variance to explain
        pca.fit(known)
    return pca.transform(known), pca.transform(new)


def _clusters(features: np.ndarray, y: np.ndarray, seed: int) -> dict[str, float]:
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    k_means = KMeans(
        len(np.unique(y)),
        n_init=STARTS,  # pyright: ignore[reportArgumentType]  (its type is read off the default)
        random_state=derive_seed(seed, "k-means") % 2**31,
    )
    with warnings.catch_warnings(), alone():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct points than clusters: a collapsed latent
        found = k_means.fit_predict(features)
    return {"ari": float(adjusted_rand_score(y, found)), "nmi": float(normalized_mutual_info_score(y, found))}


def _folds(y: np.ndarray, seed: int) -> np.ndarray:
    """(N,) one of FOLDS parts for each row: dealt in a random order, class after class, so that each has its share of all."""
    order = np.random.default_rng(seed).permutation(len(y))
    folds = np.empty(len(y), np.int64)
    folds[order[np.argsort(y[order], kind="stable")]] = np.arange(len(y)) % FOLDS
    return folds


def _share(name: str, right: np.ndarray) -> dict[str, float]:
    """The share that is right, and its binomial standard error."""
    share = float(right.mean())
    return {name: share, f"{name}_se": (share * (1 - share) / len(right)) ** 0.5}


# ---- what comes in -------------------------------------------------------------------------------------------------


class _Set(NamedTuple):
    codes: np.ndarray  # (N, D) float32
    pixels: np.ndarray  # (N, F) float32: in [0, 1], or a table's values standardised
    y: np.ndarray  # (N,) int64


def _check_sets(train_codes, train_y, codes, y, train_x, x, seed: int) -> tuple[_Set, _Set]:
    """Training and test set; ValueError for what doesn't fit together."""
    train_codes, codes = _check_codes(train_codes, "train_codes"), _check_codes(codes, "codes")
    if train_codes.shape[1] != codes.shape[1]:
        raise ValueError(f"train_codes and codes must be of one width, got {train_codes.shape[1]} and {codes.shape[1]}")
    train_y = label_column(_given(train_y, "train_y"), len(train_codes), "train_y")
    y = label_column(_given(y, "y"), len(codes), "y")
    labels, _ = check_labels(np.concatenate([train_y, y]), len(train_y) + len(y), "train_y or y")
    train_x, x = check_arrays(train_x=train_x, x=x)
    for name, images, rows in (("train_x", train_x, train_codes), ("x", x, codes)):
        if len(images) != len(rows):
            raise ValueError(f"{name} has {len(images)} images for {len(rows)} codes")
    if train_x.shape[1:] != x.shape[1:]:
        raise ValueError(f"train_x and x must hold images of one shape, got {train_x.shape[1:]} and {x.shape[1:]}")
    rng = np.random.default_rng(derive_seed(seed, "representation"))
    chosen, asked = (np.sort(rng.permutation(len(images))[:LIMIT]) for images in (train_x, x))
    train_pixels, pixels = (_unit(part).reshape(len(part), -1) for part in (train_x[chosen], x[asked]))
    if x.ndim == 2:
        train_pixels, pixels = _standardised(train_pixels, pixels)
    train = _Set(train_codes[chosen], train_pixels, labels[: len(train_y)][chosen])
    _check_classes(train.y, "train_y")
    return train, _Set(codes[asked], pixels, labels[len(train_y) :][asked])


def _check_codes(codes, name: str) -> np.ndarray:
    codes = np.asarray(codes)
    if codes.ndim != 2 or 0 in codes.shape or codes.dtype.kind not in "iuf":
        raise ValueError(f"{name} must be numbers of shape (N, D), got {codes.dtype} of shape {codes.shape}")
    if not np.isfinite(codes).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity")
    return codes.astype(np.float32)


def can_probe(y: np.ndarray) -> bool:
    """Whether labels (N,) as indices are enough for a probe to learn from: two classes of five images."""
    return (np.bincount(y) >= FOLDS).sum() >= 2


def _check_classes(y: np.ndarray, name: str) -> None:
    counts = np.bincount(y)
    if not can_probe(y):
        raise ValueError(
            f"{name} must have at least two classes of {FOLDS} images or more, got classes of "
            f"{', '.join(map(str, counts[counts > 0]))} images"
        )


def _given(y, name: str):
    if y is None:
        raise ValueError(f"{name} must be labels, one per image, got None")
    return y


def _unit(images: np.ndarray) -> np.ndarray:
    """8-bit values as floats in [0, 1], others as float32."""
    return images.astype(np.float32) / np.float32(255) if images.dtype == np.uint8 else images.astype(np.float32)
