"""A held-out digit among the other nine is found with a VAE's latents and errors better than by the density of pixels alone.

scikit-learn's 8x8 digits; each class in turn is left out of training on three quarters of the others, and the area under the
ROC curve is that of its images against the other quarter. 20 latents and 60 epochs are the example's; scores and mixtures were
chosen on MNIST and Fashion-MNIST, 1,800 images each, made 8x8, the principal components on MNIST alone. The peers see the
pixels: a mixture of 20 Gaussians on 20 principal components, the mean density of five of them, the error of 10 components, and
an isolation forest by its defaults.
"""

import argparse

import numpy as np
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline

from benchmarks.harness import Findings, progress
from vaekit import VAE, AnomalyDetector
from vaekit.data import open_data
from vaekit.evaluation.anomalies import SCORES
from vaekit.evaluation.measures import interval

MIXTURE = "Gaussian mixture of pixels"
FIVE = f"{MIXTURE}, five"


def scores_of(train: np.ndarray, test: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Method -> scores of test images (M, 8, 8, 1) by what was trained on `train`: lower is more anomalous."""
    vae = VAE(latent_dim=20, architecture="mlp", epochs=60, random_state=seed).fit(train)
    found = {}
    for name in SCORES:
        found[f"VAE, {name}"] = AnomalyDetector(vae, score=name, random_state=seed).fit(train).score_samples(test)
    known, new = (np.reshape(part, (len(part), -1)) / 255 for part in (train, test))
    mixtures = [GaussianMixture(20, reg_covar=1e-3, random_state=seed + start) for start in range(5)]
    densities = [make_pipeline(PCA(20, random_state=seed), one).fit(known).score_samples(new) for one in mixtures]
    found[MIXTURE], found[FIVE] = densities[0], np.logaddexp.reduce(densities)
    pca = PCA(10, random_state=seed).fit(known)
    found["PCA, squared error"] = -np.square(pca.inverse_transform(pca.transform(new)) - new).sum(1)
    found["isolation forest"] = IsolationForest(random_state=seed).fit(known).score_samples(new)
    return found


def run(argv):
    parser = argparse.ArgumentParser(prog="python -m benchmarks anomalies")
    parser.add_argument("--seeds", type=int, default=3, help="of the split, and of everything trained")
    asked = parser.parse_args(argv)
    images = open_data("digits", "all")
    areas: dict[str, np.ndarray] = {}
    for seed in range(asked.seeds):
        for held_out in range(10):
            others = images.x[images.y != held_out]
            train, normal = map(np.asarray, train_test_split(others, test_size=0.25, random_state=seed))
            test = np.concatenate([normal, images.x[images.y == held_out]])
            anomalous = np.arange(len(test)) >= len(normal)
            for name, scores in scores_of(train, test, seed).items():
                areas.setdefault(name, np.empty((asked.seeds, 10)))[seed, held_out] = roc_auc_score(anomalous, -scores)
            progress(
                f"seed {seed}, {held_out} held out: "
                + ", ".join(f"{n} {a[seed, held_out]:.3f}" for n, a in areas.items())
            )
    rows = []
    for name, found in areas.items():
        mean, low, high = interval(found.mean(1))
        hardest = found.mean(0).argmin()
        rows.append([name, round(mean, 4), f"± {(high - low) / 2:.4f}", f"{found.mean(0).min():.3f} ({hardest})"])
    gain, even = (interval((areas["VAE, combined"] - areas[peer]).mean(1)) for peer in (MIXTURE, FIVE))
    best = max(rows, key=lambda row: row[1])
    text = (
        f"Means over ten held-out digits, of {asked.seeds} seeds, with 95 % intervals by Student's t over the seeds. The "
        f"default score, combined, is {gain[0]:+.4f} ({gain[1]:+.4f} to {gain[2]:+.4f}) from the mixture, seed by seed, and "
        f"{even[0]:+.4f} ({even[1]:+.4f} to {even[2]:+.4f}) from five of them; the best row is {best[0]!r}. The claim "
        f"{'holds' if gain[1] > 0 else 'does NOT hold'}."
    )
    return Findings(["method", "mean AUC", "interval", "hardest digit"], rows, text)
