"""A model's picture for its page, from a real run on scikit-learn's digits: test images, their reconstructions, new images."""

from pathlib import Path

import numpy as np
from matplotlib.image import imsave

from vaekit import open_data
from vaekit.pictures.style import tile_rows
from vaekit.registry import MODELS

COLUMNS, ROWS, SCALE = 12, 3, 5
MLP = {"architecture": "mlp", "epochs": 40}
FIELDS = {"vqvae": {"n_codes": 64, "epochs": 20}}  # whose codes need places, and so convolutions


def draw_portrait(key: str, picture: Path, runs: Path) -> None:
    """Writes the picture of the model of this key, unless it is there: the run is trained in runs/KEY, once."""
    if picture.is_file():
        return
    train, test = open_data("digits"), open_data("digits", "test")
    model = (
        MODELS[key]
        .estimator()(**FIELDS.get(key, MLP), random_state=0)
        .fit_images(train, folder=str(runs / key), resume=True)
    )
    labels = np.asarray(train.classes)
    if not model.has_prior:
        model.fit_prior(train.x, labels[train.y], **({"epochs": 10} if model.discrete else {}))
    shown = np.concatenate([np.flatnonzero(test.y == label)[:2] for label in range(10)])[:COLUMNS]
    rebuilt = model.reconstruct(test.x[shown], labels[test.y[shown]] if model.conditional else None)
    new = model.sample(ROWS * COLUMNS, random_state=0)
    sheets = [tile_rows(part.reshape(-1, *test.image_shape), COLUMNS, SCALE) for part in (test.x[shown], rebuilt, new)]
    space = np.full((SCALE * 3, *sheets[0].shape[1:]), 255, np.uint8)
    picture.parent.mkdir(parents=True, exist_ok=True)
    imsave(picture, np.concatenate([sheets[0], sheets[1], space, sheets[2]]))
