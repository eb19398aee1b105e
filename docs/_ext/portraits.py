"""A model's picture for its page, from a real run on scikit-learn's digits: test images, their reconstructions, new images."""

from pathlib import Path

import numpy as np

from vaekit import open_data
from vaekit.pictures.sheets import labelled_rows
from vaekit.pictures.style import save
from vaekit.registry import MODELS
from vaekit.training.settings import PriorSettings

COLUMNS, ROWS = 12, 3
MLP = {"architecture": "mlp", "epochs": 40}
FIELDS = {"vqvae": {"n_codes": 64, "epochs": 20}}  # whose codes need places, and so convolutions


def draw_portrait(key: str, picture: Path) -> None:
    """Writes the picture of the model of this key, unless it is there."""
    if picture.is_file():
        return
    train, test = open_data("digits"), open_data("digits", "test")
    model = MODELS[key].estimator()(**FIELDS.get(key, MLP), random_state=0).fit_images(train)
    model.fit_prior_images(train, PriorSettings(epochs=10))
    some = test.take(np.concatenate([np.flatnonzero(test.y == label)[:2] for label in range(10)])[:COLUMNS])
    names = np.asarray(test.classes)[some.y] if model.conditional else None
    rows = {
        "test images": some.x,
        MODELS[key].label: model.reconstruct(some.x, names),
    }
    new = model.sample(ROWS * COLUMNS, random_state=0)
    rows |= {f"new images, {row + 1}": new[row::ROWS] for row in range(ROWS)}
    save(labelled_rows(rows), picture)
