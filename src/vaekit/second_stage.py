"""The second stage of a model: a prior fitted to its latents or codes, kept beside its weights."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from vaekit.data.images import Images
from vaekit.fitted import Fitted
from vaekit.fitted_prior import FittedPrior, identity
from vaekit.models.autoencoder import Autoencoder
from vaekit.ranks import check_alike, from_first
from vaekit.training.checkpoint import RunFolder, by_first
from vaekit.training.kinds import places_of, resolve_settings
from vaekit.training.plan import check_time_budget, start_clock
from vaekit.training.prior import fit_prior, parts_of
from vaekit.training.settings import PriorSettings
from vaekit.world import check_random_state


def fit_prior_to(
    fitted: Fitted,
    images: Images,
    settings: PriorSettings,
    *,
    folder: str | None = None,
    time_budget: float | None = None,
    verbose: bool = False,
) -> None:
    """Fits a prior to the codes that `fitted` gives to `images`, by class where these have labels, and attaches it.

    folder: the model's run folder; the prior is written there, a prior before it replaced, and a training that was
    interrupted gone on with.
    time_budget: seconds, of this call.
    """
    check_alike({"data": images.fingerprint, **asdict(settings)})
    check_time_budget(time_budget)
    deadline = start_clock(time_budget)
    _check(fitted, images, folder)
    data, plain = fitted.data(images), fitted.with_prior("plain")
    labels, classes = data.y, fitted.format.classes
    if not fitted.conditional and images.y is not None:
        labels, classes = torch.from_numpy(images.y).to(fitted.device), np.asarray(images.classes)
    named = () if classes is None else list(classes)
    seed = fitted.facts["seed"]
    if settings.random_state is not None:
        seed = from_first(lambda: check_random_state(settings.random_state))
    resolved = resolve_settings(
        settings,
        codes=fitted.discrete,
        n=len(images),
        latent_dim=0 if fitted.discrete else plain.latent.width,
        n_classes=len(named),
        device=fitted.device,
        places=places_of(plain),
    )
    parts = parts_of(len(images), labels, resolved, classes=named, seed=seed, components=settings.components)
    how = {"classes": named, "parts": parts, "seed": seed, "deadline": deadline, "verbose": verbose}
    with by_first(RunFolder(folder)).locked() if folder else nullcontext():
        stage = _stage(folder, _common(images, plain, resolved, classes, seed)) if folder else None
        try:
            learned, history, found = fit_prior(plain, data, labels, resolved, folder=stage, **how)
        except ValueError:
            if stage:
                stage.discard()
            raise
        facts = {
            **found,
            "images": len(images),
            "data": images.name,
            "fingerprint": images.fingerprint,
            "seed": seed,
        }
        fitted.attach(FittedPrior(learned, resolved, classes, history, facts))
        if stage and (made := fitted.prior):
            from_first(lambda: made.write(RunFolder(folder).prior_file, plain))
            stage.discard()


def _check(fitted: Fitted, images: Images, folder: str | None) -> None:
    """Raises ValueError for the folder of a training that is not at its end, and for samples of another shape."""
    if folder and not by_first(RunFolder(folder)).finished:
        raise ValueError(
            f"{folder} holds no finished run, and a prior is fitted to weights that stay as they are: train the run to its "
            "end, or end it where it is with `vaekit train ... --finish`"
        )
    if images.x.shape[1:] != fitted.format.shape:
        raise ValueError(
            f"{images.name} has samples of shape {images.x.shape[1:]}, but the model was fitted on {fitted.format.shape}"
        )


def _common(images: Images, plain: Autoencoder, settings: PriorSettings, classes: np.ndarray | None, seed: int) -> dict:
    """What a half-trained prior must have in common with this one to be gone on with."""
    return {
        "settings": asdict(settings),
        "seed": seed,
        "data": images.fingerprint,
        "images": len(images),
        **identity(plain, classes),
    }


def stage_of(folder: str | Path) -> RunFolder:
    """The folder of a second stage of the run in `folder`, while it lasts; ValueError where something else stands there."""
    stage = RunFolder(Path(folder) / "prior", kind="prior")
    stage.check(through_links=False)
    return stage


def _stage(folder: str, common: dict) -> RunFolder:
    """The folder of the second stage that has this in `common` with one that is gone on with, or a new one."""
    stage = by_first(from_first(lambda: stage_of(folder)))
    if from_first(stage.path.exists) and not _is_of(stage, common):
        stage.discard()
    if not stage.started:
        stage.start({"identity": common})
    return stage


def _is_of(stage: RunFolder, common: dict) -> bool:
    """Whether the folder of a second stage is of this one; a damaged one is of none."""
    try:
        return stage.config().get("identity") == common
    except ValueError:
        return False
