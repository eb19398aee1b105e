"""How long trainings take here and now, by a few steps of each, which are thrown away."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from vaekit.data.batches import Data
from vaekit.data.format import Format
from vaekit.data.images import Images
from vaekit.data.splits import spread
from vaekit.messages import filled
from vaekit.models.autoencoder import Autoencoder
from vaekit.registry import MODELS
from vaekit.state import undisturbed, unwarned
from vaekit.training.kinds import KINDS, Stage, make_prior, places_of, resolve_settings
from vaekit.training.plan import steps_per_epoch
from vaekit.training.prior import plan_of
from vaekit.training.rates import Codes, encode
from vaekit.training.settings import PriorSettings
from vaekit.training.step import estimate
from vaekit.world import pick_device, seeded

LOOKED_AT = 512  # images that steps are tried on


class Times(NamedTuple):
    """Seconds of a training and of the fit of its default prior, 0 where that is a mixture, which takes few."""

    training: float
    prior: float


def of_side(images: Images, side: int) -> Images:
    """Images of noise, squares of `side`, with labels of `images`: steps on them take as long as on these at that size."""
    some = spread(images, LOOKED_AT)
    shape = (len(some), side, side, images.image_shape[2])
    x = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return Images(x=x, y=None if images.y is None else images.y[some], classes=images.classes, name=images.name)


@undisturbed
def times(name: str, images: Images, n: int, fields: Mapping[str, Any] | None = None) -> Times:
    """Of the model called `name`, with `fields` that are not as by default, on `n` such images.

    Raises ValueError for a model that can't be trained on them.
    """
    some = images.take(spread(images, LOOKED_AT))
    estimator = MODELS[name].estimator()(**(fields or {}))
    estimator.check(some)
    format = Format.of(some, some, scaling=estimator.scaling, conditional=estimator.conditional)
    ready = estimator.filled_in(estimator.resolve(format, n))
    device = pick_device(ready.device)
    with unwarned():
        module = ready.make_module(format, 0).to(device)
    per_epoch = steps_per_epoch(n, filled(ready.batch_size))
    objective = ready.make_objective(per_epoch)
    if isinstance(objective, nn.Module):
        objective.to(device)
    plan = ready.make_plan(filled(ready.epochs) * per_epoch, 0, per_epoch)
    data = format.data(some, device, name)
    with seeded(0):
        return Times(estimate(module, objective, data, plan), _of_prior(module, data, some, n))


def _of_prior(module: Autoencoder, data: Data, some: Images, n: int) -> float:
    """Seconds that the default prior takes, by class where there are labels; an untrained model's codes take as long."""
    codes, device = module.latent.discrete, data.x.device
    labels, classes = (None, 0) if some.y is None else (torch.from_numpy(some.y).to(device), len(some.classes))
    settings = resolve_settings(
        PriorSettings(),
        codes=codes,
        n=n,
        latent_dim=0 if codes else module.latent.width,
        n_classes=classes,
        device=device,
        places=places_of(module),
    )
    kind = KINDS[filled(settings.prior)]
    if kind.fit:
        return 0.0
    stage = Stage(module, data, labels, torch.arange(len(data), device=device), settings, 0)
    rate = kind.rate(make_prior(settings, module, classes).to(device), stage)
    steps = filled(settings.epochs) * steps_per_epoch(n, filled(settings.batch_size))
    return estimate(rate, kind.term, Codes(encode(module, data), labels), plan_of(settings, steps, steps, 0))
