"""What a model hardly learns from as it is: a warning each, before the training."""

from __future__ import annotations

import numpy as np

from vaekit.data.columns import scaling_problem
from vaekit.data.images import Images
from vaekit.data.pixels import DARK, brightest, darkness
from vaekit.state import warn


def warn_of(images: Images, likelihood: str, *, binary: bool, scaling: str) -> None:
    """Warns of very dark images, of grey ones under the `likelihood` of black and white, which `binary` says it is, and of
    columns that the `scaling` of a table describes badly.
    """
    warn_of_greys(images, likelihood, binary=binary)
    if images.is_table:
        if scaling == "standard" and (badly := scaling_problem(images.x, images.header)):
            warn(f"{images.name} has columns that are {badly}")
    elif words := darkness(brightest(images.x, _white(images) / DARK + 1e-9), _white(images)):
        warn(f"images are {words}")


def warn_of_greys(images: Images, likelihood: str, *, binary: bool) -> None:
    """Warns of grey pixels where the `likelihood` is that of black and white."""
    if binary and images.binarize == "none" and not np.isin(images.x[:1000], (0, _white(images))).all():
        warn(
            f"likelihood {likelihood!r} is a probability for black-and-white pixels only; these are grey, so its nats are a "
            "cross-entropy and no likelihood: use 'gaussian' or 'discretized_logistic'"
        )


def _white(images: Images) -> int:
    return 255 if images.x.dtype == np.uint8 else 1
