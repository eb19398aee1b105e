"""
A film from one image to another
================================

Between the latents of two images there is a way, and every place on it decodes to an image. Here it goes through ten digits
and back to the first, as an animated GIF.
"""

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from vaekit import VAE
from vaekit.pictures.sheets import image_grid

digits = load_digits()
model = VAE(architecture="mlp", random_state=0).fit(digits.images / 16)

stops = model.transform(np.stack([digits.images[digits.target == label][3] for label in range(10)]) / 16)
way = []
for here, there in zip(stops, np.roll(stops, -1, axis=0), strict=True):
    way += [here + share * (there - here) for share in np.linspace(0, 1, 8, endpoint=False)]
pictures = np.rint(model.inverse_transform(np.stack(way)) * 255).astype(np.uint8)
stills = image_grid(pictures[::4, :, :, None], columns=10)

# %%
# The same, moving.
frames = [Image.fromarray(picture).resize((240, 240), Image.Resampling.BICUBIC) for picture in pictures]
film = Path(tempfile.mkdtemp()) / "film.gif"
frames[0].save(film, save_all=True, append_images=frames[1:], duration=90, loop=0)
