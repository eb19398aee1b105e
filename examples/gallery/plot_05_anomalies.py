"""
Anomalies, and how well they are found
======================================

A VAE that has never seen one digit finds its images improbable. Each digit in turn is left out of training, and the ELBO then tells
its images from new images of the others: the ROC curve says how well, beside two methods that need no network. The functions are
those of `examples/anomaly.py`.
"""

import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

import vaekit

try:
    here = Path(__file__).parents[1]
except NameError:  # run block by block, as the gallery does
    here = Path.cwd().parent
sys.path.insert(0, str(here))
from anomaly import anomaly_scores, draw  # noqa: E402

x, y = (np.asarray(part) for part in load_digits(return_X_y=True))
images = np.rint(x.reshape(-1, 8, 8) / 16 * 255).astype(np.uint8)
results = {digit: anomaly_scores(images, y, digit, epochs=30) for digit in (0, 1, 4, 8)}
curves = draw(results)
