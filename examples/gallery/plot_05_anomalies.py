"""
Anomalies, and how well they are found
======================================

A VAE that has never seen one digit finds its images improbable. Some digits in turn are left out of training, and the ELBO
then tells their images from new images of the others: the ROC curve says how well. ``python examples/anomaly.py`` does it for
all of them, beside two methods that need no network.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import RocCurveDisplay
from sklearn.model_selection import train_test_split

from vaekit import VAE

digits = load_digits()
x, y = digits.images / 16, digits.target

figure, axes = plt.subplots(figsize=(5, 4.6), layout="constrained")
for left_out in (0, 1, 4, 8):
    train, normal = train_test_split(x[y != left_out], test_size=0.25, random_state=0)
    model = VAE(latent_dim=20, architecture="mlp", epochs=30, random_state=0).fit(train)
    scores = -model.score_samples(np.concatenate([normal, x[y == left_out]]))
    anomalous = np.arange(len(scores)) >= len(normal)
    RocCurveDisplay.from_predictions(anomalous, scores, name=f"{left_out} left out", ax=axes)
axes.plot([0, 1], [0, 1], color="grey", linestyle="--", linewidth=0.8)
axes.set(xlabel="share of other digits taken for it", ylabel="share found")
plt.show()
