"""Anomalies: a VAE that has never seen one digit finds its images less probable. `python examples/anomaly.py`

Each digit in turn is left out of training; a detector then tells its images from new images of the other nine, by the density
of latents and reconstruction error together. Beside it the ELBO, and two that need no network: a Gaussian mixture's
log-likelihood, and how much of an image PCA loses. `python -m benchmarks anomalies` has more scores, seeds and methods.
"""

import sys

import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline

from vaekit import VAE, AnomalyDetector
from vaekit.pictures import style


def anomaly_scores(images: np.ndarray, y: np.ndarray, held_out: int, epochs: int = 60) -> tuple[np.ndarray, dict]:
    """Trains on images (N, 8, 8) uint8 of the other classes -> whether each test image is of the class that was held out, and
    each method's scores for them: higher is more anomalous.
    """
    train, normal = train_test_split(images[y != held_out], test_size=0.25, random_state=0)
    test = np.concatenate([normal, images[y == held_out]])
    flat_train, flat_test = (np.reshape(part, (len(part), -1)) / 255 for part in (train, test))

    vae = VAE(latent_dim=20, architecture="mlp", epochs=epochs, random_state=0).fit(train)
    detector = AnomalyDetector(vae, random_state=0).fit(train)
    mixture = make_pipeline(PCA(20), GaussianMixture(20, reg_covar=1e-3, random_state=0)).fit(flat_train)
    pca = PCA(10).fit(flat_train)
    scores = {
        "VAE, combined": -detector.score_samples(test),
        "VAE, ELBO": -vae.score_samples(test),
        "Gaussian mixture": -mixture.score_samples(flat_test),
        "PCA, squared error": np.square(pca.inverse_transform(pca.transform(flat_test)) - flat_test).sum(1),
    }
    return np.arange(len(test)) >= len(normal), scores


@style.styled
def draw(results: dict[int, tuple[np.ndarray, dict]]):
    """held-out class -> what `anomaly_scores` gave, as ROC curves (the VAE's) and areas under them (all methods')."""
    figure = style.new_figure(9, 4)
    left, right = figure.subplots(1, 2)
    for colour, (held_out, (anomalous, scores)) in zip(style.class_colours(len(results)), results.items(), strict=True):
        false, true, _ = roc_curve(anomalous, scores["VAE, combined"])
        left.plot(false, true, color=colour, label=str(held_out))
    left.plot([0, 1], [0, 1], color="#888888", linewidth=0.8, linestyle="--")
    left.set(
        title="ROC of the VAE's combined score", xlabel="share of the other digits taken for it", ylabel="share found"
    )
    left.legend(title="held out", ncols=2, loc="lower right")
    for method, marker, colour in zip(next(iter(results.values()))[1], style.MARKERS, style.SERIES, strict=False):
        areas = [roc_auc_score(anomalous, scores[method]) for anomalous, scores in results.values()]
        right.plot(range(len(results)), areas, marker, color=colour, label=f"{method}: {np.mean(areas):.3f}")
    right.set(title="Area under the curve", xlabel="held-out digit", ylim=(None, 1.01))
    right.set_xticks(range(len(results)), [str(held_out) for held_out in results])
    right.legend(title="mean area")
    return figure


if __name__ == "__main__":
    x, y = (np.asarray(part) for part in load_digits(return_X_y=True))
    images = np.rint(x.reshape(-1, 8, 8) / 16 * 255).astype(np.uint8)
    results = {}
    for digit in range(10):
        results[digit] = anomaly_scores(images, y, digit)
        anomalous, scores = results[digit]
        areas = ", ".join(f"{method} {roc_auc_score(anomalous, score):.3f}" for method, score in scores.items())
        print(f"{digit} held out: area under the ROC curve {areas}", flush=True)
    print(style.save(draw(results), sys.argv[1] if len(sys.argv) > 1 else "anomaly.png"))
