"""The doctor: what is wrong with a trained run, in plain words, with the evidence and a command that would mend it.

One disease is named once: what another finding explains is told, and has no command of its own (`EXPLAINS`).
Each check is a function of the run and returns a `Diagnosis`, or None where it has no meaning for the model. Thresholds stand
beside their checks; tests hold each against a run that has the fault, one that hasn't, and one that the command mended.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import NamedTuple

import numpy as np

from vaekit.data.images import Images, binarized
from vaekit.data.opening import opening_flags
from vaekit.evaluation.likelihood import evaluate
from vaekit.fitted import Fitted
from vaekit.messages import filled, in_rows
from vaekit.registry import MODELS, key_of
from vaekit.report.measure import classes_shown, pick, standard_normal
from vaekit.state import undisturbed

LOOKED_AT = 2000  # images of each part, at most
PER_CLASS = 50  # samples of each class that are looked at


class Diagnosis(NamedTuple):
    """name: of the check. wrong: whether something is to be done. words: what is the matter, or that all is well.
    evidence: the numbers behind it, with their units. cure: a command that would mend it, None where nothing is to be done, or
    where it comes of another finding that is mended first, or no field of the model would.
    """

    name: str
    wrong: bool
    words: str
    evidence: str
    cure: str | None = None


class Patient(NamedTuple):
    """A run and what was measured of it: `known` and `new` are what `evaluate` finds on training images and on new ones.
    data: the flags of a command that opens the data as it was opened for the training.
    """

    estimator: Fitted
    train: Images
    test: Images
    known: dict
    new: dict
    folder: str
    data: list[str]

    @property
    def settings(self) -> dict:
        return self.estimator.fields

    @property
    def name(self) -> str:
        """The model's name on the command line."""
        return key_of(self.estimator.name)

    @property
    def model(self) -> type:
        """The estimator's class, which knows what is usual."""
        return MODELS[self.name].estimator()

    @property
    def used(self) -> int:
        """Latents that are of use."""
        return sum(kl > USED for kl in self.new["kl_per_latent"])

    def command(self, **changes) -> str:
        """`vaekit train` with this run's settings but for `changes`, into a folder beside it."""
        words = ["vaekit", "train", self.name, *self.data, "--out", f"{self.folder.rstrip('/')}-mended"]
        values = self.estimator.record.fields | changes
        for field in fields(self.model):
            value = values[field.name]
            if value == field.default or field.name == "verbose":
                continue
            flag = field.name.replace("_", "-")
            if isinstance(value, bool):
                words.append(f"--{flag if value else f'no-{flag}'}")
            else:
                words += [f"--{flag}", f"{_rounded(value) if isinstance(value, float) else value}"]
        return shlex.join(words)


def _rounded(value: float) -> float:
    """A number that a person can type: three significant digits."""
    return float(f"{value:.3g}")


@undisturbed
def examine(
    estimator: Fitted,
    train: Images,
    test: Images,
    *,
    folder: str = "RUN",
    data: str | None = None,
    how: Mapping | None = None,
) -> list[Diagnosis]:
    """Every check that has a meaning for the fitted `estimator`, what is wrong first. At most 2,000 images of `train` and of
    `test` are looked at.

    folder, data: as they stand in commands; None is the data's own name. how: keywords of `open_data` that the run doesn't
    know, such as labels.

    Raises ValueError for a model that is not entered in `vaekit.registry.MODELS`: no command would train it.
    """
    _check_entered(estimator)
    train = binarized(train) if train.binarize == "dynamic" else train
    train, test = (part.take(pick(len(part), LOOKED_AT)) for part in (train, test))
    plain = estimator.with_prior("plain")  # a fitted prior has a check of its own
    known, new = (evaluate(plain, estimator.data(part)) for part in (train, test))
    facts = estimator.facts["data"]
    opened = {**(facts["decoding"] or {}), "binarize": facts["binarize"], "split_seed": facts["split_seed"] or 0}
    if train.is_table:
        header = filled(estimator.format.columns).header
        opened |= {"labels": header.label, **({"drop": ",".join(header.dropped)} if header.dropped else {})}
    opened |= {name: facts[name] for name in ("labels", "skip_bad") if facts.get(name)}
    flags = ["--data", data or train.name, *opening_flags({**(how or {}), **opened})]
    patient = Patient(estimator, train, test, known, new, folder, flags)
    found = list(named_once({check: diagnosis for check in CHECKS if (diagnosis := check(patient))}).values())
    if test.is_table:
        found = [each._replace(words=in_rows(each.words), evidence=in_rows(each.evidence)) for each in found]
    return sorted(found, key=lambda diagnosis: not diagnosis.wrong)


def _check_entered(estimator: Fitted) -> None:
    if estimator.name not in {model.name for model in MODELS.values()}:
        raise ValueError(
            f"{estimator.name} is none of the models that `vaekit train` knows, so that no command would mend it: enter it in "
            "vaekit.registry.MODELS"
        )


def named_once(found: Mapping[Callable, Diagnosis]) -> dict[Callable, Diagnosis]:
    """What checks found, but nothing wrong any more with what another finding explains."""
    named = dict(found)
    for cause, symptoms in EXPLAINS.items():
        for check in symptoms:
            if all(one in named and named[one].wrong for one in (cause, check)):
                words = f"{named[check].words}; mend the {named[cause].name} first, which may be all that it is"
                named[check] = named[check]._replace(wrong=False, words=words, cure=None)
    return named


USED = 0.1  # nats of a latent's KL, above which it is of use; Burda's criterion is met by latents of 0.02 nats


def posterior_collapse(patient: Patient) -> Diagnosis | None:
    """Latents whose posterior is the prior, whatever the image: all of them, or most under a weight that silences them."""
    if "kl_per_latent" not in patient.new:
        return None
    used, width, settings = patient.used, patient.estimator.fields["latent_dim"], patient.settings
    weight = patient.model.rate_weight if settings.get("epsilon") is None else None
    beta, usual = (1.0, 1.0) if weight is None else (settings[weight], _default(patient, weight))
    evidence = (
        f"{used} of {width} latents hold more than {USED} nats; rate {patient.new['rate']:.2f} nats per image"
        + ("" if weight is None else f"; {weight} {beta:g}")
    )
    if used > width / 2 or (used and beta <= usual):
        return Diagnosis("posterior collapse", False, "the latents carry what the image is", evidence)
    words = "the latents carry nothing" if used == 0 else f"{weight} silences most of the latents"
    if weight is not None and beta > 1:
        cure = patient.command(**{weight: None if beta > usual else max(1.0, beta / 4)})
    elif settings.get("epsilon") is not None:
        cure = patient.command(epsilon=max(10.0, 2 * settings["epsilon"]))
    elif not patient.model.warms_rate:
        cure = patient.command(epochs=2 * settings["epochs"])
    else:
        cure = patient.command(rate_warmup_epochs=float(math.ceil(settings["epochs"] / 2)))
    return Diagnosis("posterior collapse", True, words, evidence, cure)


DEAD = 0.5  # of the codebook in use, below which codes are wasted


def dead_codes(patient: Patient) -> Diagnosis | None:
    """Codes that no image uses."""
    if "n_codes" not in patient.new:
        return None
    k, used, perplexity = patient.known["n_codes"], patient.known["codes_used"], patient.known["perplexity"]
    evidence = f"{used} of {k} codes in use over {patient.known['images']} training images, perplexity {perplexity:.1f}"
    if used >= DEAD * k:
        return Diagnosis("dead codes", False, "the codebook is in use", evidence)
    settings, usual = patient.settings, {"ema": None, "revive": None, "codebook_init": None}
    lively = settings.get("ema", True) and settings.get("revive", True)
    if not lively or settings.get("codebook_init", "kmeans") != "kmeans":
        cure = patient.command(**usual)
    elif "n_codes" in settings:
        cure = patient.command(n_codes=max(2, 2 ** math.floor(math.log2(used))))
    else:
        cure = None  # a codebook that is not one of its fields
    words = "most of the codebook is dead: its codes are nearest to no image's vectors"
    return Diagnosis("dead codes", True, words, evidence, cure)


OVERFIT = 1.0  # standard deviations of the ELBO over images between those seen and new ones


def overfitting(patient: Patient) -> Diagnosis:
    """The ELBO of training images against that of new ones, in standard deviations over images."""
    gap = patient.known["elbo"] - patient.new["elbo"]
    spread = patient.new["elbo_se"] * math.sqrt(patient.new["images"])
    error = math.hypot(patient.known["elbo_se"], patient.new["elbo_se"])
    evidence = (
        f"ELBO {patient.known['elbo']:.2f} on training images, {patient.new['elbo']:.2f} on new ones: {gap:.2f} ± {error:.2f} "
        f"nats apart, {gap / spread:.2f} of the standard deviation over images"
    )
    if gap <= OVERFIT * spread or gap <= 4 * error:
        words = "new images are explained like those it trained on"
    elif patient.settings["early_stopping"]:
        words = (
            "known images fare better, but training stopped where new ones began to suffer; more images would help, and "
            "weight decay may"
        )
    else:
        cure = patient.command(early_stopping=True)
        return Diagnosis("overfitting", True, "training images are explained much better than new ones", evidence, cure)
    return Diagnosis("overfitting", False, words, evidence)


# Of the objective's whole fall, still in the last fifth of the epochs and to the good of new images; steps.
FALLING, FEW = 0.05, 500


def underfitting(patient: Patient) -> Diagnosis:
    """Whether the training had come to rest when it ended, and not after too few steps to have got anywhere, nor while the
    curve still fell by more than what new images lag behind.
    """
    history, asked, usual = patient.estimator.history, patient.settings["epochs"], _default(patient, "epochs")
    steps = history[-1]["step"]
    patience = patient.estimator.ended_by in ("patience", None)
    if patient.settings["early_stopping"] and len(history) < asked and patience:
        evidence = f"stopped early, after {len(history)} of {asked} epochs"
        return Diagnosis("underfitting", False, "training went on as long as it helped with new images", evidence)
    curve = _objective(patient)
    tail = max(1, len(curve) // 5)
    fall = history[0]["objective"] - curve[-1]
    last = curve[-1 - tail] - curve[-1] if len(curve) > 1 else 0.0
    behind = max(0.0, patient.known["elbo"] - patient.new["elbo"])
    evidence = (
        f"{steps} steps; the objective fell {fall:.1f} nats, {last:.1f} in the last {tail} of {len(history)} epochs"
    )
    if steps < FEW:
        words = "training was cut off: so few steps come nowhere"
    elif last - behind > FALLING * fall > 0:
        words = "training was cut off: the objective still falls"
    else:
        words = "training had come to rest"
        if last > FALLING * fall:
            words = "the objective still falls, but new images, which lag behind, would gain little by more epochs"
            evidence += f"; {behind:.1f} nats lie between the ELBO of training images and that of new ones"
        return Diagnosis("underfitting", False, words, evidence)
    cure = patient.command(epochs=None if 2 * asked < usual else 2 * asked)
    return Diagnosis("underfitting", True, words, evidence, cure)


def _objective(patient: Patient) -> np.ndarray:
    """The objective by epoch, from where the rate has its full weight."""
    history = patient.estimator.history
    full = [
        record["objective"]
        for record in history
        if record.get("rate_weight", 1.0) >= history[-1].get("rate_weight", 1.0)
    ]
    return np.array(full)


def _default(patient: Patient, name: str):
    """What the field `name` would be, were it left to the model."""
    fresh = patient.model(**{**patient.estimator.record.fields, name: None})
    return fresh.resolve(patient.estimator.format, patient.estimator.facts["data"]["images"])[name]


ASTRAY = 0.15  # of the whole fall, that the objective climbs
CREEPING = 0.3  # of the fall in the first half of the epochs, that comes in the second


def learning_rate(patient: Patient) -> Diagnosis | None:
    """Whether the curve jumps (too high), or creeps from beginning to end (far too low; a rate a little too low leaves no such
    trace).
    """
    curve = _objective(patient)
    asked, usual = patient.settings["learning_rate"], _default(patient, "learning_rate")
    if len(curve) < 4:
        return None
    fall = patient.estimator.history[0]["objective"] - curve.min()
    climb = float((curve - np.minimum.accumulate(curve)).max())
    half = len(curve) // 2
    early, late = curve[0] - curve[half], curve[half] - curve[-1]
    evidence = (
        f"learning rate {asked:g}; the objective fell by {fall:.1f} nats and climbed by {climb:.1f}; it fell by {early:.1f} in "
        f"the first half of the epochs, by {late:.1f} in the second"
    )
    if climb > ASTRAY * fall:
        cure = patient.command(learning_rate=None if asked > usual else asked / 4)
        return Diagnosis("learning rate", True, "the learning rate is too high: the objective jumps", evidence, cure)
    if asked < usual and late > CREEPING * early > 0:
        words = "the learning rate is too low: the objective creeps down"
        return Diagnosis("learning rate", True, words, evidence, patient.command(learning_rate=None))
    return Diagnosis("learning rate", False, "the curve is smooth", evidence)


MISFIT = 2.0  # times that a fixed variance may be off the squared error


def likelihood(patient: Patient) -> Diagnosis | None:
    """Whether the pixels are what the likelihood takes them for."""
    if patient.test.is_table:
        return None
    name, x = patient.settings["likelihood"], patient.train.x
    binary = bool(np.isin(x, (0, 255 if x.dtype == np.uint8 else 1)).all())
    mse, variance = patient.known["mse"], patient.settings["likelihood_variance"]
    kind = "only black and white" if binary else f"{len(np.unique(x[:200]))} values"
    evidence = f"likelihood {name}; pixels take {kind}; mean squared error {mse:.5f} per pixel"
    fits = patient.estimator.module.likelihood
    if binary and not fits.binary:
        words = "pixels are black or white, and a density over greys has no bound there"
        return Diagnosis("likelihood", True, words, evidence, patient.command(likelihood="bernoulli"))
    if not binary and fits.binary:
        words = f"a {fits.describe()} likelihood is of black and white pixels; of greys its nats are no log-density"
        return Diagnosis("likelihood", True, words, evidence, patient.command(likelihood=None))
    if fits.fixed_variance is not None and not 1 / MISFIT < mse / variance < MISFIT:
        words = f"the fixed variance {variance:g} is {variance / mse:.1f} times the squared error that is left"
        return Diagnosis("likelihood", True, words, evidence, patient.command(likelihood="gaussian"))
    return Diagnosis("likelihood", False, "the likelihood fits the pixels", evidence)


FULL, EMPTY = 1.5, 0.5  # nats of the least used latent; share of latents that are of no use


def latent_width(patient: Patient) -> Diagnosis | None:
    """Whether more latents would be used, or fewer would do: past the elbow of rate and distortion, a latent buys nothing."""
    if "kl_per_latent" not in patient.new or patient.used == 0:
        return None
    kls, width = sorted(patient.new["kl_per_latent"]), patient.estimator.fields["latent_dim"]
    evidence = (
        f"{patient.used} of {width} latents hold more than {USED} nats; the least used {kls[0]:.2f}, most {kls[-1]:.2f}"
    )
    cells = math.prod(patient.estimator.module.latent.shape[1:])  # of a grid, which all have as many; 1 of a vector
    fewer = -(-patient.used // cells) * cells
    if width - fewer >= max(1, EMPTY * width):
        cure = patient.command(latent_dim=fewer)
        return Diagnosis("latent dimension", True, "more latents than are of use", evidence, cure)
    if kls[0] > FULL:
        cure = patient.command(latent_dim=max(2 * width, _default(patient, "latent_dim")))
        return Diagnosis("latent dimension", True, "every latent is full: more of them would be used", evidence, cure)
    return Diagnosis("latent dimension", False, "as many latents as are of use", evidence)


APART = 0.1  # of the rate, or a nat, between the aggregate posterior and the prior


def fitted_prior(patient: Patient) -> Diagnosis | None:
    """Whether the second stage has given the model a prior that is better than the one of the training; nothing where samples
    need none.
    """
    estimator, fit = patient.estimator, ["vaekit", "fit-prior", patient.folder, *patient.data]
    if estimator.has_prior:
        facts = filled(estimator.prior).facts
        evidence = (
            f"held-out rate {facts['plain_rate']:.2f} nats, {facts['validation_rate']:.2f} under the fitted prior"
        )
        if not estimator.prior_is_worse:
            return Diagnosis("prior", False, "a prior is fitted to the codes", evidence)
        words = "the fitted prior is far worse than the one of the training, which stays in use"
        return Diagnosis("prior", True, words, evidence, shlex.join([*fit, *estimator.other_prior]))
    if estimator.can_sample:
        return None
    evidence = f"{estimator.prior_name} codes: rate {patient.new['rate']:.1f} nats per image, whatever the image"
    return Diagnosis("prior", True, "codes are drawn uniformly, which gives noise", evidence, shlex.join(fit))


def plain_prior(patient: Patient) -> Diagnosis | None:
    """Whether N(0, I), where that is the prior of the training, is where the codes are, while no other is fitted."""
    if "aggregate_kl_at_least" not in patient.new or patient.estimator.has_prior:
        return None
    if not standard_normal(patient.estimator):
        return None
    apart, rate = patient.new["aggregate_kl_at_least"], patient.new["rate"]
    evidence = f"KL[q(z) || N(0, I)] is at least {apart:.2f} nats, of a rate of {rate:.2f}"
    if apart > 1 and apart > APART * rate:
        cure = shlex.join(["vaekit", "fit-prior", patient.folder, *patient.data])
        return Diagnosis("prior", True, "samples are drawn where no image's latents are", evidence, cure)
    return Diagnosis("prior", False, "in mean and covariance, images' latents lie as N(0, I) does", evidence)


ASKED = 0.8  # of the share of reconstructions that show their class: of samples, those that show the class asked for


def conditioning(patient: Patient) -> Diagnosis | None:
    """Whether a conditional model's label decides what a sample is. Whatever blurs samples blurs reconstructions too: samples
    are held against these, and where these don't show their class, nothing can be said.
    """
    if not patient.estimator.conditional or patient.test.is_table:
        return None
    if not (shown := classes_shown(patient.estimator, patient.train, patient.test, PER_CLASS)):
        return None
    evidence = (
        f"{shown.asked:.1%} of {shown.samples} samples show the class asked for, {PER_CLASS} a class, and {shown.own:.1%} of "
        "new images' reconstructions their own, to a classifier that has learnt from images and reconstructions"
    )
    if shown.own - shown.chance < 1 - shown.own:  # nearer to chance than to certainty
        words = "whether the label decides the class can't be told: reconstructions don't show theirs either"
        return Diagnosis("conditioning", False, words, evidence)
    if shown.asked >= ASKED * shown.own:
        return Diagnosis("conditioning", False, "the label decides the class", evidence)
    if patient.settings["architecture"] == "wang2023":
        return Diagnosis(
            "conditioning", True, "the label is one input among many and is all but ignored", evidence,
            patient.command(architecture=None),
        )  # fmt: skip
    words, cure = "z tells the class, and the label little beside it", None
    if (weight := patient.model.rate_weight) is not None:
        beta, usual = patient.settings[weight], _default(patient, weight)
        if beta >= usual and (away := plain_prior(patient)) is not None and away.wrong:
            words = "whether the label decides the class can't be told: samples are drawn where no image's latents are"
            return Diagnosis("conditioning", False, words, evidence)
        cure = patient.command(**{weight: None if beta < usual else 2 * beta})
    return Diagnosis("conditioning", True, words, evidence, cure)


CHECKS = (
    posterior_collapse,
    dead_codes,
    overfitting,
    underfitting,
    learning_rate,
    likelihood,
    latent_width,
    fitted_prior,
    plain_prior,
    conditioning,
)

# Causes, the first ones first, and the findings that may be nothing else: these are not named as diseases of their own, whose
# cures would repeat or undo the cause's.
EXPLAINS: dict[Callable, tuple[Callable, ...]] = {
    likelihood: (posterior_collapse, overfitting, latent_width, plain_prior),
    learning_rate: (posterior_collapse, dead_codes, underfitting, latent_width, plain_prior, conditioning),
    overfitting: (underfitting, latent_width, plain_prior),
    underfitting: (posterior_collapse, latent_width, plain_prior, conditioning),
    conditioning: (posterior_collapse, latent_width, plain_prior),
    posterior_collapse: (latent_width, plain_prior),
}
