"""Reading a run folder back into an estimator. Loading runs no code from the folder: JSON and safetensors only."""

from __future__ import annotations

from vaekit.estimator import Estimator
from vaekit.estimators import MODELS
from vaekit.training.checkpoint import RunFolder


def load(path, device: str | None = None, prior: bool = True) -> Estimator:
    """The fitted estimator in the run folder `path`, as `save` or `vaekit train` left it.

    device: where to put it; None is the device it was asked to train on ("auto" picks again on this machine).
    prior: False leaves a fitted prior aside, as `vaekit fit-prior` does, which replaces it.
    Raises FileNotFoundError where there is no folder, ValueError for one that is unfinished, damaged or newer.
    """
    run = RunFolder(path)
    config = run.config()
    classes = {cls.__name__: cls for cls in MODELS.values()}
    try:
        cls, settings = classes[config["class"]], config["fields"]
        estimator = cls(**settings)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{run.config_file} is damaged, or from another vaekit: {error}") from None
    if device is not None:
        estimator.device = device
    return estimator.restore(run, config, prior=prior)
