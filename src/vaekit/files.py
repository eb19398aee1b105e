"""Reading a run folder, here or on the Hub, back into an estimator. Loading runs no code from it: JSON and safetensors only."""

from __future__ import annotations

from vaekit.estimator import Estimator
from vaekit.estimators import MODELS
from vaekit.hub import download, is_address
from vaekit.state import undisturbed, warn
from vaekit.training.checkpoint import RunFolder
from vaekit.world import pick_device


@undisturbed
def load(path, device: str | None = None, prior: bool = True) -> Estimator:
    """The fitted estimator in the run folder `path`, as `save` or `vaekit train` left it, or in the Hugging Face repository
    "hf://user/name" or "hf://user/name@revision", as `push_to_hub` did: see `vaekit.hub.download`.

    device: where to put it; None is the device it was asked to train on ("auto" picks again on this machine), or, with a
        warning, whatever "auto" picks where this machine lacks that one.
    prior: False leaves a fitted prior aside, as `vaekit fit-prior` does, which replaces it.
    Raises FileNotFoundError where there is no folder, ValueError for one that is unfinished, damaged or newer.
    """
    run = RunFolder(download(path) if is_address(path) else path)
    config = run.model_config()
    classes = {cls.__name__: cls for cls in MODELS.values()}
    try:
        cls, settings = classes[config["class"]], config["fields"]
        estimator = cls(**settings)
        if not isinstance(estimator.device, str):
            raise TypeError(f"device must be a name, got {estimator.device!r:.80}")
    except (KeyError, TypeError) as error:
        raise ValueError(f"{run.config_file} is damaged, or from another vaekit: {error}") from None
    if device is not None:
        estimator.device = device
    else:
        try:
            pick_device(estimator.device)
        except ValueError:
            here = pick_device("auto")
            warn(
                f"{run.path} is of a model on device {estimator.device!r}, which this machine lacks: loaded on {str(here)!r} "
                "(load(path, device=...) chooses another)"
            )
            estimator.device = "auto"
    return estimator.restore(run, config, prior=prior)
