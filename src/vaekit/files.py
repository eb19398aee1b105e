"""Reading a run folder, here or on the Hub, back into an estimator. Loading runs no code from it: JSON and safetensors only."""

from __future__ import annotations

from vaekit.estimators.base import Estimator
from vaekit.hub import download, is_address
from vaekit.registry import MODELS, key_of
from vaekit.state import undisturbed, warn
from vaekit.training.checkpoint import RunFolder
from vaekit.world import pick_device


@undisturbed
def load(path, device: str | None = None, prior: bool = True) -> Estimator:
    """The fitted estimator in the run folder `path`, as `save` or `vaekit train` left it, or in the Hugging Face repository
    "hf://user/name" or "hf://user/name@revision", as `push_to_hub` did: see `vaekit.hub.download`. A run that is not finished
    is loaded as of its last checkpoint, with a warning that says how far it is; nothing is written, and a process that trains
    it is not disturbed.

    device: where to put it; None is the device it was asked to train on ("auto" picks again on this machine), or, with a
        warning, whatever "auto" picks where this machine lacks that one.
    prior: False leaves a fitted prior aside, as `vaekit fit-prior` does, which replaces it.
    Raises FileNotFoundError where there is no folder, ValueError for one that has no checkpoint yet, is damaged or newer.
    """
    model = _load(path, device, prior)
    if unfinished := model.fitted_.record.unfinished:
        warn(f"{path} is not finished: {unfinished}, as of its last checkpoint")
    return model


def load_finished(path, doing: str, prior: bool = True) -> Estimator:
    """`load` for what needs weights that stay as they are. Raises ValueError, which names what one is `doing`, for others."""
    model = _load(path, None, prior)
    if unfinished := model.fitted_.record.unfinished:
        raise ValueError(
            f"{path} is not finished ({unfinished}), and {doing} needs weights that stay as they are: go on with "
            "`vaekit train ... --resume`, or end it where it is with `vaekit train ... --finish`"
        )
    return model


def finish(path) -> Estimator:
    """Ends the run in the folder `path` where it is: its weights are those of the last checkpoint, the best ones under early
    stopping. A finished one is left as it is. Returns it as `load` does.

    Raises ValueError where there is no checkpoint yet, or another process trains the run.
    """
    run = RunFolder(path)
    run.model_config()
    with run.locked():
        model = _load(path, None, True)
        if model.fitted_.record.unfinished and not model.fitted_.history:
            raise ValueError(f"{path} has no record of its first epoch yet; go on with `vaekit train ... --resume`")
        if model.fitted_.record.unfinished:
            model.fitted_.end(run)
    return model


def _load(path, device: str | None, prior: bool) -> Estimator:
    run = RunFolder(download(path) if is_address(path) else path)
    config = run.model_config()
    try:
        estimator = MODELS[key_of(config["class"])].estimator()(**config["fields"])
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
