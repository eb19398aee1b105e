"""
Samples of a class
==================

A conditional VAE is asked for a class and draws new images of it: a column a class, no two alike.
"""

import numpy as np
from sklearn.datasets import load_digits

from vaekit import CVAE
from vaekit.pictures.sheets import by_class

digits = load_digits()
model = CVAE(architecture="mlp", random_state=0).fit(digits.images / 16, digits.target)
model.fit_prior(digits.images / 16, digits.target)  # samples follow the latents that images have

asked = np.tile(digits.target_names, 8)
new = model.sample(len(asked), asked, random_state=0)
eights = model.sample(64, 8, random_state=0)
sheet = by_class(
    new.reshape(8, 10, 8, 8, 1),
    [str(name) for name in digits.target_names],
    title="a column a class",
    chosen=eights.reshape(64, 8, 8, 1),
    chosen_title="64 times an 8",
)
