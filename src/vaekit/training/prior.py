"""The second stage: a prior fitted to the codes of a trained model, whose weights stay as they are.

The number that is minimised is the rate, E[log q(z|x) - log p(z|y)] in nats per image.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor

from vaekit.data.batches import Data
from vaekit.data.splits import hold_out
from vaekit.messages import filled
from vaekit.models.autoencoder import Autoencoder
from vaekit.parts.latents import independent_noise
from vaekit.parts.priors import LearnedPrior
from vaekit.ranks import from_first
from vaekit.training.checkpoint import RunFolder
from vaekit.training.compiled import pays
from vaekit.training.course import Course
from vaekit.training.kinds import KINDS, Stage, make_prior
from vaekit.training.plan import Plan, read_plan, steps_per_epoch
from vaekit.training.rates import CodeRate, Codes, LatentRate, Rate, encode, mean_rate, simpler_rates
from vaekit.training.settings import PriorSettings
from vaekit.training.step import Objective
from vaekit.world import derive_seed, seeded


def parts_of(
    n: int,
    labels: Tensor | None,
    settings: PriorSettings,
    *,
    classes: Sequence,
    seed: int,
    components: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the images that a prior is trained on, and of those held out; see `PriorSettings.validation_fraction`.

    labels, settings, classes: as in `fit_prior`. components: how many were asked for, and not chosen for the data.
    Raises ValueError for a class that has no images, or fewer to train on than the `components` of a mixture.
    """
    y = filled(labels).cpu().numpy() if len(classes) else None
    counts = [n] if y is None else np.bincount(y, minlength=len(classes)).tolist()
    if not min(counts):
        raise ValueError(f"class {classes[counts.index(0)]} has no images to fit a prior to")
    seed = derive_seed(seed, "validation")
    kept, out = hold_out(n, settings.validation_fraction, seed, y)
    if settings.validation_fraction == 0 or not len(out):
        kept = out = np.random.default_rng(seed).permutation(n)
    counts = [len(kept)] if y is None else np.bincount(y[kept]).tolist()
    if components is not None and settings.prior == "gmm" and min(counts) < components:
        whose = "there are" if y is None else f"class {classes[counts.index(min(counts))]} has"
        raise ValueError(
            f"a mixture of {components} components needs {components} images to train on; {whose} {min(counts)}, besides "
            "those held out: ask for fewer components"
        )
    return kept, out


def fit_prior(
    model: Autoencoder,
    data: Data,
    labels: Tensor | None,
    settings: PriorSettings,
    *,
    classes: Sequence,
    parts: tuple[np.ndarray, np.ndarray],
    seed: int,
    folder: RunFolder | None = None,
    deadline: float | None = None,
    verbose: bool = False,
) -> tuple[LearnedPrior, list[dict], dict]:
    """A prior for the codes that `model` gives to the images of `data`; the model is not changed.

    labels: (N,) int64 indices of `classes`, which are empty for a prior without classes. settings: resolved ones. parts: what
        `parts_of` gives. folder: of this second stage, which has a run.json, to go on from. deadline: a reading of
        `time.monotonic`, see `train`.
    Returns the prior, its history (a record per epoch, `rate` in nats per image), and what else was found: the rates of the
    held-out images, `validation_rate` under it and those under simpler priors.
    """
    n_classes, kind = len(classes), KINDS[filled(settings.prior)]
    kept, out = (torch.from_numpy(index).to(data.x.device) for index in parts)
    codes = encode(model, data)

    def part(index: Tensor) -> Codes:
        return Codes(codes[index], None if labels is None or not n_classes else labels[index])

    train_part, held_part = part(kept), part(out)
    stage = Stage(model, data, labels, kept, settings, seed)
    with seeded(derive_seed(seed, "prior")):
        prior = make_prior(settings, model, n_classes).to(data.x.device)
        rate = None if kind.fit else kind.rate(prior, stage)
    if n_classes:
        counts = torch.bincount(filled(train_part.y), minlength=n_classes).float()
        prior.class_shares.copy_(counts / counts.sum())
    history = []
    if kind.fit:
        with seeded(derive_seed(seed, "draws")):
            kind.fit(prior, train_part, derive_seed(seed, "gmm") % 2**31, deadline)
        prior.load_state_dict(from_first(prior.state_dict))  # a deadline may end it elsewhere on each rank
    else:
        course = _course(filled(rate), train_part, held_part, settings, seed, folder, deadline, verbose)
        history = course.run()
        filled(rate).pack()
    prior.eval()
    with seeded(derive_seed(seed, "held out")), torch.no_grad():
        held_rate = (CodeRate(prior) if kind.of_codes else LatentRate(prior)).eval()
        with independent_noise(held_rate):
            found = {"validation_images": len(held_part), "validation_rate": mean_rate(held_rate, held_part)}
        found |= simpler_rates(model, train_part, held_part)
        if kind.fit:
            rates = {"rate": mean_rate(held_rate, train_part), "validation_rate": found["validation_rate"]}
            history = [{"epoch": 1, "step": 0, "objective": rates["rate"], **rates}]
    return prior, history, found


def plan_of(settings: PriorSettings, steps: int, whole: int, seed: int) -> Plan:
    """The plan of a second stage of `steps` steps, where all epochs of the resolved `settings` come to the `whole`."""
    return Plan(
        steps=steps,
        batch_size=filled(settings.batch_size),
        optimizer=settings.optimizer or "adam",
        learning_rate=filled(settings.learning_rate),
        accumulate=settings.accumulate,
        warmup=min(100, steps // 5),
        betas=(0.9, 0.99),
        gradient_clip=10.0,
        patience=filled(settings.epochs),  # never stops early, and keeps the best weights
        precision=filled(settings.precision),
        compile=filled(settings.compile) and (steps == whole or pays(filled(settings.prior), steps)),
        seed=seed,
    )


def _course(
    rate: Rate,
    data: Codes,
    validation: Codes,
    settings: PriorSettings,
    seed: int,
    folder: RunFolder | None,
    deadline: float | None,
    verbose: bool,
) -> Course:
    """The training of `rate`, begun, or as the one in `folder` goes on, which then records its plan."""
    name = filled(settings.prior)
    whole = filled(settings.epochs) * steps_per_epoch(len(data), filled(settings.batch_size))

    def make(steps: int) -> tuple[Objective, Plan]:
        return KINDS[name].term, plan_of(settings, steps, whole, seed)

    course = Course(
        module=rate,
        data=data,
        make=make,
        seed=seed,
        compiles=lambda steps: pays(name, steps),
        validation=validation,
        folder=folder,
        deadline=deadline,
        title=f"{KINDS[name].label} prior",
        verbose=verbose,
    )
    config = folder.config() if folder else {}
    if folder and "plan" in config:
        before = read_plan(config["plan"])
        at = folder.checkpoint_step(before.steps)
        if why := course.go_on(before, at, whole if deadline is None else before.steps):
            course.say(why)
    else:
        course.begin(whole)
    if folder and config.get("plan") != (plan := _as_json(course.plan)):
        folder.start({**config, "plan": plan})
    return course


def _as_json(plan: Plan | None) -> dict:
    """As run.json has it."""
    return json.loads(json.dumps(asdict(filled(plan))))
