"""Everything `vaekit evaluate` finds out about one run, and what a line of the comparison's table is made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vaekit.data.batches import to_input
from vaekit.data.images import Images, binarized
from vaekit.evaluation.augmentation import classification_accuracy_score
from vaekit.evaluation.disentanglement import disentanglement
from vaekit.evaluation.generation import (
    FEWEST,
    Judge,
    class_consistency,
    copy_check,
    measure_samples,
    pick_features,
)
from vaekit.evaluation.likelihood import evaluate, importance_nll, posterior
from vaekit.evaluation.measures import LABEL_GIVEN
from vaekit.evaluation.representation import (
    can_probe,
    class_independence,
    measure_representation,
    reconstruction_quality,
)
from vaekit.fitted import SCORE_SEED, Fitted
from vaekit.messages import filled
from vaekit.owned import write_atomically
from vaekit.pictures.sheets import neighbours
from vaekit.pictures.style import save
from vaekit.state import undisturbed
from vaekit.training.checkpoint import RunFolder

PER_CLASS = 100  # samples per class that the judge sees
SAMPLES = 10_000  # that are compared with real images, at most
NLL_IMAGES, NLL_DRAWS = 2000, 50
FULL_NLL_DRAWS = 500
SIDE, COMPONENTS = 32, 50  # of images, and of those their principal components, in which classes are told apart


@undisturbed
def measure_run(
    estimator: Fitted,
    train: Images,
    test: Images,
    folder: Path | None = None,
    *,
    judge: Judge | None = None,
    judge_accuracy: float | None = None,
    full: bool = False,
    baselines: dict | None = None,
) -> dict:
    """One line of the table, as a flat dictionary; kept in folder/evaluation.json.

    Cost; likelihood (`evaluation.likelihood`) on `test`, the NLL of 50 draws on at most 2,000 of its images; reconstructions
    and representation (`evaluation.representation`), probes learnt on at most 10,000 images of `train`, disentanglement where
    the images' factors are known; with a judge, samples (`evaluation.generation`), at most 10,000 and not fewer than 6, and the
    class consistency of `PER_CLASS` samples per class where samples can be asked for by class. Which parts there are depends on
    the data and the model: see `vaekit.report.page` for their units.
    full: also the NLL of 500 draws on all of `test`, the copy check with its picture in folder/neighbours.png, whether the
    latent is independent of the class, and the classification accuracy score.
    baselines: of the images, for the next model on them: see `measure_representation`.

    Rate and ELBO are under the prior in use, which `prior` names; `rate_plain` is under the one of the training.
    """
    check_history(estimator, folder)
    seconds = sum(record["seconds"] for record in estimator.history)
    images = sum(record["seconds"] * record["images_per_second"] for record in estimator.history)
    entry = {
        "parameters": estimator.module.n_parameters,
        "seconds": seconds,
        "seconds_total": estimator.history[-1].get("seconds_total", seconds),
        "images_per_second": images / seconds,
        "latent_dim": estimator.fields["latent_dim"],
        **_likelihood(estimator, test, full=full),
        "prior": estimator.prior_name,
        "test_fingerprint": test.fingerprint,
        "split": test.split,
    }
    if estimator.has_prior:
        plain = _plain_rate(estimator, test, entry)
        entry |= {"rate_plain": plain, "elbo_plain": -(entry["distortion"] + plain)}
    if estimator.conditional:
        entry["likelihood"] += LABEL_GIVEN
    if test.is_table:
        entry["mse"] = float(np.square(estimator.reconstruct(test, label_names(estimator, test)) - test.x).mean())
    if "n_codes" in entry:
        entry["codes_used_share"] = entry["codes_used"] / entry["n_codes"]
        entry["latent_dim"] = None
    train = binarized(train) if train.binarize == "dynamic" else train
    entry |= _representation(estimator, train, test, baselines, full=full)
    if not test.is_table and judge is not None and estimator.can_sample:
        entry |= _generation(estimator, train, test, judge)
        if full:
            entry |= _generation_in_full(estimator, train, test, folder)
        entry["judge_accuracy"] = judge_accuracy
    if folder is not None:
        write_atomically(RunFolder(folder).path / "evaluation.json", json.dumps(entry, indent=1) + "\n")
    return entry


def check_history(estimator: Fitted, folder: str | Path | None) -> None:
    if not estimator.history:
        raise ValueError(f"{folder} has no log.jsonl, which says what its training took; train it anew")


def label_names(estimator: Fitted, images: Images) -> np.ndarray | None:
    """The images' labels as their names, where the model wants them."""
    return np.asarray(images.classes)[images.y] if estimator.conditional else None


def _likelihood(estimator: Fitted, test: Images, *, full: bool) -> dict:
    data = estimator.data(test)
    if not estimator.module.prior.exact:
        return evaluate(estimator.module, data, draws=1)  # each of which is many looks at a field, and has no weight
    found = evaluate(estimator.module, data)
    if "n_codes" in found:
        return found  # a quantizer's q is certain: its NLL is bounded by -ELBO alone
    if full:
        return found | importance_nll(estimator.module, data, k=FULL_NLL_DRAWS)
    part = test.take(pick(len(test), NLL_IMAGES))
    return found | importance_nll(estimator.module, estimator.data(part), k=NLL_DRAWS)


def _plain_rate(estimator: Fitted, test: Images, entry: dict) -> float:
    """Nats per image under the prior of the training: what `evaluate` has found already where that is N(0, I), and of uniform
    codes a constant.
    """
    prior = estimator.plain_prior
    if "kl_per_latent" in entry and standard_normal(estimator):
        return sum(entry["kl_per_latent"])
    if not prior.gives_images:
        return -prior.log_prob(torch.zeros(1, *prior.code_shape)).item()
    return evaluate(estimator.with_prior("plain"), estimator.data(test))["rate"]


def standard_normal(estimator: Fitted) -> bool:
    """Whether the prior of the training is N(0, I): then, and only then, that posterior is no distance away from it."""
    zeros = torch.zeros(1, *estimator.code_shape, device=estimator.device)
    kl = estimator.plain_prior.kl(zeros, zeros)
    return kl is not None and not kl.any()


def _representation(estimator: Fitted, train: Images, test: Images, baselines: dict | None, *, full: bool) -> dict:
    """Reconstruction quality, and where there are labels what a probe reads from the latents."""
    found = {}
    if not test.is_table:
        rebuilt = estimator.reconstruct(test.x, label_names(estimator, test))
        found |= _without(reconstruction_quality(test.x, rebuilt.reshape(test.x.shape)), "images")
    if test.factors is not None and not estimator.discrete:
        codes = estimator.transform(test.x, label_names(estimator, test))
        scores = disentanglement(codes, test.factors, seed=SCORE_SEED)
        found |= {**_without(scores, "samples"), "disentanglement_samples": scores["samples"]}
    some = train.take(pick(len(train), SAMPLES))
    if test.y is None or some.y is None or not can_probe(some.y):
        return found
    codes, known = (estimator.transform(part, label_names(estimator, part)) for part in (test, some))
    images = {"train_x": some.x, "x": test.x}
    found |= measure_representation(known, some.y, codes, test.y, **images, seed=SCORE_SEED, baselines=baselines)
    if full and estimator.conditional and can_probe(test.y):
        # Draws, not means: a latent that is all but unused may tell in its mean what no draw does.
        _, draws = posterior(estimator.module, estimator.data(test), seed=SCORE_SEED)
        independence = class_independence(draws.numpy(), test.y, seed=SCORE_SEED)
        found |= {f"independence_{name}": value for name, value in independence.items()}
    return found


def _generation(estimator: Fitted, train: Images, test: Images, judge: Judge) -> dict:
    n = min(SAMPLES, len(train), len(test))
    found = {}
    if n >= FEWEST:
        embed, features = pick_features(judge)
        reference = train.x[pick(len(train), n)]
        found |= measure_samples(embed, _samples(estimator, n), test.x, reference, seed=SCORE_SEED)
        found["features"] = features
    if judged := judge_as_asked(estimator, test, judge, PER_CLASS):
        found |= {"class_consistency": judged[0], "samples_per_class": PER_CLASS}
    return found


def _generation_in_full(estimator: Fitted, train: Images, test: Images, folder: Path | None) -> dict:
    samples = _samples(estimator, min(SAMPLES, len(train), len(test)))
    check = copy_check(samples, train.x, test.x)
    if folder is not None:
        figure = neighbours(samples, train.x[check.index], check.distance)
        save(figure, RunFolder(folder).path / "neighbours.png")
    found = {
        "copies_share": check.share,
        "copies_share_held_out": check.held_out_share,
        "copies_threshold": check.threshold,
    }
    asked, numbers = _asked(estimator, test, PER_CLASS)
    if len(set(numbers)) == len(test.classes) > 1:
        times = max(1, len(samples) // len(asked))
        asked, numbers = np.tile(asked, times), np.tile(numbers, times)
        drawn = _with_channels(estimator.sample(len(asked), asked, random_state=SCORE_SEED + 1))
        score = classification_accuracy_score((drawn, numbers), (test.x, filled(test.y)), seed=SCORE_SEED)
        found |= {"classification_accuracy_score": score, "classification_accuracy_samples": len(drawn)}
    return found


@undisturbed
def judge_as_asked(estimator: Fitted, test: Images, judge: Judge, per_class: int) -> tuple[float, int] | None:
    """The share of samples that the judge takes for the class asked for, and of how many, `per_class` of each; None where no
    class is known to both the model and the data.
    """
    asked, numbers = _asked(estimator, test, per_class)
    if not len(asked):
        return None
    drawn = _with_channels(estimator.sample(len(asked), asked, random_state=SCORE_SEED))
    return class_consistency(judge, drawn, numbers), len(drawn)


class ClassesShown(NamedTuple):
    """Shares of samples that show the class `asked` for, and of held-out reconstructions that show their `own`, the mean over
    classes; `chance` is that of a guess. samples: how many.
    """

    asked: float
    own: float
    chance: float
    samples: int


@undisturbed
def classes_shown(estimator: Fitted, train: Images, test: Images, per_class: int) -> ClassesShown | None:
    """What a conditional model's images show of their label, whatever their blur: told by a classifier that has learnt from
    `train` and its reconstructions, which a judge of sharp images has not. Both, since reconstructions alone might be told
    apart by a trace that the label leaves in them, and not by what they show.

    None where there are no two classes that model and data know.
    """
    from sklearn.decomposition import PCA
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import SVC

    asked, numbers = _asked(estimator, test, per_class)
    if train.y is None or test.y is None:
        return None
    known = np.intersect1d(np.intersect1d(train.y, test.y), numbers)
    if len(known) < 2:
        return None
    estimator = estimator.in_pixels()
    train, test = (part.take(np.flatnonzero(np.isin(filled(part.y), known))) for part in (train, test))
    asked, numbers = asked[np.isin(numbers, known)], numbers[np.isin(numbers, known)]
    rebuilt, held = (estimator.reconstruct(part.x, label_names(estimator, part)) for part in (train, test))
    features = np.concatenate([_small(train.x), _small(rebuilt)])
    components = min(COMPONENTS, *features.shape)
    classifier = make_pipeline(PCA(components, random_state=SCORE_SEED), SVC(C=10, class_weight="balanced"))
    classifier.fit(features, np.tile(filled(train.y), 2))
    right = classifier.predict(_small(held)) == test.y
    drawn = estimator.sample(len(asked), asked, random_state=SCORE_SEED)
    return ClassesShown(
        asked=float((classifier.predict(_small(drawn)) == numbers).mean()),
        own=float(np.mean([right[test.y == label].mean() for label in known])),
        chance=1 / len(known),
        samples=len(asked),
    )


def _small(images) -> np.ndarray:
    """Images (N, H, W[, C]) -> (N, F) floats, brought down to 32 pixels a side."""

    def pooled(part: Tensor) -> Tensor:
        x = to_input(part)
        return F.adaptive_avg_pool2d(x, (min(SIDE, x.shape[2]), min(SIDE, x.shape[3]))).flatten(1)

    return torch.cat(
        [pooled(part) for part in torch.as_tensor(_with_channels(np.asarray(images))).split(PER_CLASS)]
    ).numpy()


def _asked(estimator: Fitted, test: Images, per_class: int) -> tuple[np.ndarray, np.ndarray]:
    """`per_class` labels of every class that the model and the data know, and what the judge calls them: it numbers its
    classes as the data does, and a model may know others besides.
    """
    classes = estimator.sampling_classes()
    known = {str(name): index for index, name in enumerate(test.classes)}
    names = [name for name in (() if classes is None else classes) if str(name) in known]
    asked = np.repeat(np.asarray(names), per_class)
    return asked, np.array([known[str(name)] for name in asked], dtype=np.int64)


def _samples(estimator: Fitted, n: int) -> np.ndarray:
    """n samples (n, H, W, C), labels as frequent as in training."""
    classes = estimator.sampling_classes()
    asked = None
    if classes is not None:
        asked = np.random.default_rng(SCORE_SEED).choice(classes, n, p=estimator.sampling_shares())
    return _with_channels(estimator.sample(n, asked, random_state=SCORE_SEED))


def _with_channels(images: np.ndarray) -> np.ndarray:
    return images if images.ndim == 4 else images[..., None]


def pick(n: int, most: int) -> np.ndarray:
    """Indices of `most` of n images, or of all if fewer; the same every time."""
    return np.sort(np.random.default_rng(SCORE_SEED).permutation(n)[:most])


def _without(found: dict, name: str) -> dict:
    return {key: value for key, value in found.items() if key != name}
