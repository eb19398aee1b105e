"""
A map of a data set
===================

With two latents, a VAE draws a map: every image gets a place, and every place on the map can be decoded. Classes were not
told to the model; the colours are added afterwards.
"""

import numpy as np
from sklearn.datasets import load_digits

from vaekit import VAE
from vaekit.pictures.planes import latent_space, manifold

digits = load_digits()
model = VAE(latent_dim=2, architecture="mlp", random_state=0).fit(digits.images / 16)

places = model.transform(digits.images / 16)  # (1797, 2)
the_map = latent_space({"VAE, d=2": (places, digits.target)}, [str(name) for name in digits.target_names])

# %%
# The other way: places on a grid, decoded.
ticks = np.linspace(-2.5, 2.5, 20)
grid = np.stack(np.meshgrid(ticks, ticks[::-1]), axis=-1).reshape(-1, 2)
decoded = model.inverse_transform(grid).reshape(20, 20, 8, 8, 1)
plane = manifold(decoded, -2.5, 2.5, title="what each place on the map decodes to")
