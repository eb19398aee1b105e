"""
Codes, edited
=============

A VQ-VAE's image is a grid of code numbers. Change one of them and decode: the image changes where the code stands, and a
little around it.
"""

import numpy as np
from sklearn.datasets import load_digits

from vaekit import VQVAE
from vaekit.pictures.sheets import codes, labelled_rows

digits = load_digits()
x = digits.images / 16
model = VQVAE(n_codes=64, epochs=20, random_state=0).fit(x)

numbers = model.encode(x)  # (1797, h, w), each from 0 to 63
usage = np.bincount(numbers.ravel(), minlength=64)
overview = codes(x[:10, ..., None], model.reconstruct(x[:10])[..., None], numbers[:10], usage)

# %%
# The code in the middle of one image, replaced by each of the ten that are used most.
edited = np.repeat(numbers[:1], 10, axis=0)
edited[:, edited.shape[1] // 2, edited.shape[2] // 2] = np.argsort(-usage)[:10]
changed = model.decode(edited)
difference = np.abs(changed - model.decode(numbers[:1]))
rows = labelled_rows({"one code changed": changed[..., None], "where it differs": difference[..., None].clip(0, 1)})
