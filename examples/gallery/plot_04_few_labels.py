"""
A classifier from few labels
============================

Labels are dear and images are cheap. A VAE learns from all images, without their labels; a linear classifier is then trained
on the latents of a few labelled ones. Does it pay? Beside it stand the same classifier on pixels, and on the principal
components of the same images, and on images as small as these they are no worse: look at this picture for your own data before
you believe in latents.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from vaekit import VAE

digits = load_digits()
x, x_test, y, y_test = train_test_split(
    digits.images / 16, digits.target, test_size=500, stratify=digits.target, random_state=0
)
vae = VAE(latent_dim=16, architecture="mlp", random_state=0).fit(x)
pca = PCA(16).fit(x.reshape(len(x), -1))
spaces = {
    "latents of a VAE": (vae.transform(x), vae.transform(x_test)),
    "principal components": (pca.transform(x.reshape(len(x), -1)), pca.transform(x_test.reshape(len(x_test), -1))),
    "pixels": (x.reshape(len(x), -1), x_test.reshape(len(x_test), -1)),
}


def accuracies(features: np.ndarray, test: np.ndarray, per_class: int) -> list[float]:
    """Of ten classifiers, each from other labels."""
    found = []
    for draw in range(10):
        rng = np.random.default_rng(draw)
        chosen = np.concatenate(
            [rng.choice(np.flatnonzero(y == label), per_class, replace=False) for label in range(10)]
        )
        classifier = LogisticRegression(max_iter=2000)
        found.append(classifier.fit(features[chosen], y[chosen]).score(test, y_test))
    return found


labels = [1, 2, 5, 10, 20, 50]
figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
for name, (features, test) in spaces.items():
    found = np.array([accuracies(features, test, n) for n in labels])
    axes.errorbar(labels, found.mean(1), found.std(1), marker="o", capsize=3, label=name)
axes.set(xscale="log", xlabel="labelled images per class", ylabel="accuracy on 500 test images")
axes.set_xticks(labels, [str(n) for n in labels])
axes.legend()
plt.show()
