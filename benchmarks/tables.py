"""A VAE with its defaults works on plain tables of numbers: scikit-learn's bundled ones, against three methods of its.

At the same number of latents k: what is explained of new rows (R2 of the reconstruction, columns standardised), what a linear
model reads off the latents of new rows (accuracy, for diabetes R2), and their log-likelihood in nats per row in the columns'
own units, for the VAE importance-weighted by 500 draws, a lower bound. By default it learns a sigma for each column, as factor
analysis does; beside it one sigma for all, as in probabilistic PCA. PCA's likelihood is that of probabilistic PCA; a kernel
PCA (rbf, its inverse learned by ridge regression) has none. A fifth of the rows is new, in each of five splits.
"""

import argparse
import warnings

import numpy as np
from sklearn import datasets
from sklearn.decomposition import PCA, FactorAnalysis, KernelPCA
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.harness import Findings, mean_std, progress
from vaekit import VAE
from vaekit.data.arrays import given_images
from vaekit.evaluation.likelihood import importance_nll

TABLES = {"iris": 2, "wine": 3, "diabetes": 4, "breast_cancer": 5, "digits": 10}  # name: k
LIKELIHOOD = {"VAE": None, "VAE, one sigma": "gaussian"}  # None is the default, a sigma for each column
METHODS = ("VAE", "VAE, one sigma", "PCA", "FactorAnalysis", "KernelPCA")


def open_table(name: str) -> tuple[np.ndarray, np.ndarray]:
    """x (N, D) without the columns that never change, y (N,)."""
    bunch = getattr(datasets, f"load_{name}")()
    return bunch.data[:, bunch.data.std(0) > 0], bunch.target


def fit(method: str, k: int, x: np.ndarray, seed: int):
    """A fitted pipeline; the methods beside the VAE need a scaler before them."""
    if method in LIKELIHOOD:
        return VAE(latent_dim=k, likelihood=LIKELIHOOD[method], random_state=seed).fit(x)
    if method == "PCA":
        model = PCA(k)
    elif method == "FactorAnalysis":
        model = FactorAnalysis(k)
    else:
        model = KernelPCA(k, kernel="rbf", fit_inverse_transform=True)
    return make_pipeline(StandardScaler(), model).fit(x)


def reconstruct(model, x: np.ndarray) -> np.ndarray:
    """x from its latents, in its units."""
    latents = model.transform(x)
    if isinstance(model, VAE) or hasattr(model[-1], "inverse_transform"):
        return model.inverse_transform(latents)
    scaler, factors = model
    return scaler.inverse_transform(latents @ factors.components_ + factors.mean_)


def log_likelihood(model, x: np.ndarray) -> float:
    """Mean nats per row in the columns' own units; NaN where the method has none."""
    if isinstance(model, VAE):
        return -importance_nll(model.model_, model.fitted_.data(given_images(x)), k=500)["nll"]
    scaler, method = model
    return model.score(x) - np.log(scaler.scale_).sum() if hasattr(method, "score") else np.nan


def measure(name: str, method: str, seed: int) -> tuple[float, float, float]:
    """R2 of the reconstruction, score of a linear model on the latents, and log-likelihood, of one split's new rows."""
    x, y = open_table(name)
    numeric = name == "diabetes"
    x, new, y, new_y = train_test_split(x, y, test_size=0.2, random_state=seed, stratify=None if numeric else y)
    model = fit(method, TABLES[name], x, seed)
    scaler = StandardScaler().fit(x)
    truth = scaler.transform(new)
    error = np.square(scaler.transform(reconstruct(model, new)) - truth).sum()
    linear = RidgeCV(np.logspace(-3, 3, 13)) if numeric else LogisticRegression(max_iter=2000)
    probe = make_pipeline(StandardScaler(), linear).fit(model.transform(x), y)
    return 1 - error / np.square(truth).sum(), probe.score(model.transform(new), new_y), log_likelihood(model, new)


def run(argv):
    parser = argparse.ArgumentParser(prog="python -m benchmarks tables")
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    asked = parser.parse_args(argv)
    rows, means = [], {}
    for name in asked.tables:
        for method in METHODS:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a solver's last digits
                found = np.array([measure(name, method, seed) for seed in range(asked.splits)])
            means[name, method] = found.mean(0)
            figures = [
                mean_std(column.tolist(), form) if np.isfinite(column).all() else "none"
                for column, form in zip(found.T, FORMS, strict=True)
            ]
            rows.append([f"{name}, k={TABLES[name]}", method, *figures])
            progress(" | ".join(rows[-1]))

    def wins(place: int, other: str, ours: str = "VAE") -> str:
        better = [name for name in asked.tables if means[name, ours][place] > means[name, other][place]]
        return f"{len(better)} of {len(asked.tables)}"

    text = (
        f"Means over {asked.splits} splits, ± one standard deviation. The VAE explains more of new rows than PCA on "
        f"{wins(0, 'PCA')} tables, than factor analysis on {wins(0, 'FactorAnalysis')} and than kernel PCA on "
        f"{wins(0, 'KernelPCA')}; its log-likelihood is above probabilistic PCA's on {wins(2, 'PCA')} and above factor "
        f"analysis's on {wins(2, 'FactorAnalysis')}; a linear model reads more off its latents than off PCA's on "
        f"{wins(1, 'PCA')}. With one sigma it explains more than PCA on {wins(0, 'PCA', 'VAE, one sigma')}, and its "
        f"log-likelihood is above factor analysis's on {wins(2, 'FactorAnalysis', 'VAE, one sigma')}: R2 counts all columns "
        "alike, and a sigma for each attends to those that the latents can tell, as in factor analysis, whose R2 is below "
        "PCA's. Columns that hardly ever change (digits' corners) get a variance of almost nothing from factor analysis, and a "
        "new row that differs there then costs it any number of nats."
    )
    return Findings(["table", "method", "R2", "linear model on latents", "log-likelihood, nats"], rows, text)


FORMS = (".3f", ".3f", ".2f")
