"""
The other half of an image
==========================

A VQ-VAE's prior draws codes one after the other, each knowing those before it. Given the codes of the upper half of an
image it draws the lower half anew, as often as you like.
"""

import numpy as np
from sklearn.datasets import load_digits

from vaekit import VQVAE
from vaekit.pictures.sheets import labelled_rows

digits = load_digits()
x, y = digits.images[:-100] / 16, digits.target[:-100]
model = VQVAE(n_codes=64, epochs=20, random_state=0).fit(x)
model.fit_prior(x, y, epochs=10)  # a PixelCNN over the codes, by class

shown, classes = digits.images[-10:] / 16, digits.target[-10:]
known = np.zeros((8, 8), dtype=bool)
known[:4] = True  # the upper half is given
drawn = {f"completed, {turn}": model.complete(shown, known, classes, random_state=turn) for turn in (1, 2, 3)}
rows = {"image": shown, "given": np.where(known, shown, 0.6), **drawn}
halves = labelled_rows({name: images[..., None] for name, images in rows.items()})
