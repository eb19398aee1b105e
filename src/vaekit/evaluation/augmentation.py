"""Do samples help a classifier that has few labelled images? One fixed small network is trained on the labelled images alone,
with classical augmentation, with samples of a model that saw the same labels, and on the samples alone: the classification
accuracy score (Ravuri & Vinyals 2019). It knows no model: a model is a callable that fits and samples.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaekit.data.batches import Data, to_input
from vaekit.data.checks import check_array, check_arrays, label_column
from vaekit.data.images import Images
from vaekit.evaluation.measures import interval
from vaekit.messages import check_number, filled
from vaekit.ranks import apart
from vaekit.state import undisturbed
from vaekit.tensors import Term
from vaekit.training.loop import train
from vaekit.training.plan import Plan
from vaekit.world import derive_seed, seeded

STEPS, BATCH_SIZE, LEARNING_RATE = 600, 64, 2e-3
BATCH = 1000  # images at once outside training
SHIFT, ROTATION, SCALING = 0.1, 15.0, 0.1  # of the side, in degrees, of the size
REAL = "real"

Labelled = tuple[np.ndarray, np.ndarray]  # images (N, H, W, C) and their labels (N,), indices of classes
FitAndSample = Callable[[np.ndarray, np.ndarray, int], Labelled]  # labelled images and a seed -> labelled samples
Augment = Callable[[Tensor], Tensor]  # (B, C, H, W) -> the same, drawn from torch's random numbers


def shift_rotate_scale(x: Tensor) -> Tensor:
    """(B, C, H, W) -> the same, each image moved in its own way, bilinearly; what comes in repeats the border.

    Uniformly: shifts of up to a tenth of the side in each direction, rotations of up to 15 degrees, sizes of 0.9 to 1.1.
    """
    across, down, turn, size = (2 * torch.rand(4, len(x), device=x.device) - 1).unbind()
    angle, zoom = turn * math.radians(ROTATION), 1 / (1 + SCALING * size)
    cos, sin, aspect = zoom * angle.cos(), zoom * angle.sin(), x.shape[3] / x.shape[2]
    rows = [cos, -sin / aspect, 2 * SHIFT * across, sin * aspect, cos, 2 * SHIFT * down]  # in units of half a side
    grid = F.affine_grid(torch.stack(rows, dim=1).view(-1, 2, 3), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def small_network(shape: tuple[int, int, int], n_classes: int) -> nn.Sequential:
    """Images (B, C, H, W) of `shape` (C, H, W), in [0, 1] -> logits (B, n_classes): two convolutions, each at half the
    resolution before, and a dense layer of 128.

    No batch normalisation: its statistics would be those of real images and samples mixed, and the test images are real.
    """
    channels, height, width = shape
    return nn.Sequential(
        nn.Conv2d(channels, 16, 5, padding=2),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(32 * -(-height // 4) * -(-width // 4), 128),
        nn.ReLU(),
        nn.Linear(128, n_classes),
    )


class Classifier(nn.Module):
    """`small_network`; `forward(x, y)` is the cross-entropy (B,) in nats."""

    def __init__(self, *, shape: tuple[int, int, int], n_classes: int, augment: Augment | None):
        super().__init__()
        self.augment = augment
        self.body = small_network(shape, n_classes)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if self.augment is not None:
            x = self.augment(x)
        return F.cross_entropy(self.body(x), y, reduction="none")

    @torch.inference_mode()
    def classify(self, x: Tensor) -> Tensor:
        """(N, H, W, C) stored images -> (N,) int64 class indices."""
        return self.probabilities(x).argmax(1)

    @torch.inference_mode()
    def probabilities(self, x: Tensor) -> Tensor:
        """(N, H, W, C) stored images -> (N, n_classes), which sum to 1."""
        return torch.cat([self.body(to_input(part)).softmax(1) for part in x.split(BATCH)])

    @torch.inference_mode()
    def features(self, x: Tensor) -> Tensor:
        """(N, H, W, C) stored images -> (N, 128), what the logits are made of, of length 1."""
        return torch.cat([F.normalize(self.body[:-1](to_input(part)), dim=1) for part in x.split(BATCH)])


@dataclass(frozen=True)
class InMemory(Data):
    """Images on the CPU, and their labels."""

    x: Tensor


@dataclass(frozen=True)
class _Mixed(InMemory):
    """Batches of half real images, half samples, or of real images alone, each drawn with replacement.

    Its length is that of the whole training, so that all kinds of data get the same number of steps.
    """

    samples: InMemory | None = None
    length: int = STEPS * BATCH_SIZE

    def __len__(self) -> int:
        return self.length

    def batch(self, index: Tensor | slice) -> tuple[Tensor, Tensor]:
        n = BATCH_SIZE if isinstance(index, slice) else len(index)
        if self.samples is None:
            return _drawn(self, n)
        pairs = (_drawn(self, n // 2), _drawn(self.samples, n - n // 2))
        x, y = zip(*pairs, strict=True)
        return torch.cat(x), torch.cat(y)


def _drawn(data: InMemory, n: int) -> tuple[Tensor, Tensor]:
    chosen = torch.randint(len(data.x), (n,))  # the loop has seeded this step
    return to_input(data.x[chosen]), filled(data.y)[chosen]


def _cross_entropy(nats: Tensor, step: int) -> dict[str, Term]:
    return {"cross_entropy": Term(nats)}


@undisturbed
def classifier_accuracy(
    labelled: Labelled,
    test: Labelled,
    *,
    samples: Labelled | None = None,
    augment: Augment | None = None,
    seed: int = 0,
    steps: int = STEPS,
) -> float:
    """The share of `test` that the fixed classifier labels right, after a training on `labelled`.

    labelled, test, samples: images (N, H, W, C) or (N, H, W), 8-bit or floats in [0, 1], and labels (N,), whole numbers
        from 0. With samples, half of each batch is of them, however many there are.
    augment: moves the images of each training batch, samples too, such as `shift_rotate_scale`.
    Always `steps` steps of 64 images, drawn with replacement: Adam, 0.002 with a cosine to zero. Runs on the CPU.
    Raises ValueError for labels that don't fit their images, images of another shape, and classes without training images.
    """
    check_number("steps", steps, whole=True, above=0)
    pairs = {"labelled": labelled, "test": test} | ({} if samples is None else {"samples": samples})
    one_scale = check_arrays(**{name: x for name, (x, _) in pairs.items()})
    pairs = {name: _check_labelled((x, y), name) for (name, (_, y)), x in zip(pairs.items(), one_scale, strict=True)}
    for name, data in pairs.items():
        if data.x.shape[1:] != pairs["test"].x.shape[1:]:
            raise ValueError(
                f"{name} has images of shape {tuple(data.x.shape[1:])}, test of {tuple(pairs['test'].x.shape[1:])}"
            )
    known = {label for name, data in pairs.items() if name != "test" for label in filled(data.y).unique().tolist()}
    missing = sorted(set(filled(pairs["test"].y).tolist()) - known)
    if missing:
        raise ValueError(f"class {missing[0]} is in test, but in no image to train on")
    classifier = train_classifier(
        pairs["labelled"], pairs.get("samples"), n_classes=max(known) + 1, augment=augment, seed=seed, steps=steps
    )
    return (classifier.classify(pairs["test"].x) == pairs["test"].y).double().mean().item()


def train_classifier(
    labelled: InMemory,
    samples: InMemory | None,
    *,
    n_classes: int,
    augment: Augment | None,
    seed: int,
    steps: int,
    batch_size: int = BATCH_SIZE,
    verbose: bool = False,
) -> Classifier:
    """The fixed classifier, trained as `classifier_accuracy` says."""
    height, width, channels = labelled.x.shape[1:]
    with seeded(derive_seed(seed, "classifier")):
        classifier = Classifier(shape=(channels, height, width), n_classes=n_classes, augment=augment)
    classifier.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  (torch declares no such form)
    mixed = _Mixed(labelled.x, labelled.y, samples=samples, length=steps * batch_size)
    plan = Plan(steps=steps, batch_size=batch_size, learning_rate=LEARNING_RATE, warmup=min(50, steps), seed=seed)
    with apart():
        train(classifier, _cross_entropy, mixed, plan, title="classifier", verbose=verbose)
    return classifier


@undisturbed
def classification_accuracy_score(samples: Labelled, test: Labelled, *, seed: int = 0, steps: int = STEPS) -> float:
    """CAS (Ravuri & Vinyals 2019): accuracy on real test images of the fixed classifier, trained on samples alone.

    samples, test, seed, steps: as in `classifier_accuracy`.
    """
    return classifier_accuracy(samples, test, seed=seed, steps=steps)


@undisturbed
def augmentation_gain(
    fit_and_sample: Mapping[str, FitAndSample],
    train: Images,
    test: Images,
    *,
    per_class: Sequence[int] = (10, 20, 50, 100),
    draws: int = 5,
    seed: int = 0,
    steps: int = STEPS,
    done: Iterable[Mapping] = (),
) -> Iterator[dict]:
    """Yields a record per arm, number of labelled images and draw of them, as they come: draw by draw, all sizes of one first.

    fit_and_sample: name -> what fits a model to labelled images (N, H, W, C), (N,) under a seed, and gives labelled samples.
        It is called once for its three arms.
    per_class: numbers of labelled images per class, of `train`; in one draw the smaller sets lie in the larger.
    done: records of an earlier call with the same arguments, which are not made again.

    The arms: "real", "real, augmented" (by `shift_rotate_scale`), and for each name "real + NAME", "real + NAME, augmented"
    and "NAME alone" (the classification accuracy score). Within a draw all start from the same weights.
    A record: arm, per_class, draw, accuracy (share of all test images), samples (how many there were), seconds (fitting
    and sampling count for the first arm that needs them).
    Raises ValueError for data without labels, a class with too few images, and samples that don't fit.
    """
    for images in (train, test):
        if images.y is None:
            raise ValueError(f"augmentation_gain needs labels, and {images.name} ({images.split}) has none")
    check_number("draws", draws, whole=True, above=0)
    for number in per_class:
        check_number("per_class", number, whole=True, above=0)
    counts = np.bincount(filled(train.y), minlength=len(train.classes))
    if counts.min() < max(per_class):
        raise ValueError(
            f"class {train.classes[counts.argmin()]} has {counts.min()} training images; per_class asks for {max(per_class)}"
        )
    return _gains(fit_and_sample, train, test, per_class, draws, seed, steps, _keys(done))


def _keys(records: Iterable[Mapping]) -> set[tuple]:
    return {(record["arm"], record["per_class"], record["draw"]) for record in records}


def _gains(fit_and_sample, train, test, per_class, draws, seed, steps, done: Collection[tuple]) -> Iterator[dict]:
    for draw in range(draws):
        order = np.random.default_rng(derive_seed(seed, "labelled", draw)).permutation(len(train))
        of_class = [order[train.y[order] == label] for label in range(len(train.classes))]
        for number in per_class:
            chosen = np.concatenate([members[:number] for members in of_class])
            labelled = train.x[chosen], train.y[chosen]
            for name, arms in _arms(fit_and_sample).items():
                samples, clock = None, time.perf_counter()
                for arm, (alone, augmented) in arms.items():
                    if (arm, number, draw) in done:
                        continue
                    if name is not None and samples is None:
                        samples = fit_and_sample[name](*labelled, derive_seed(seed, "samples", draw, number) % 2**31)
                        _check_labelled(samples, f"samples of {name}")
                    accuracy = classifier_accuracy(
                        filled(samples) if alone else labelled,
                        (test.x, test.y),
                        samples=None if alone else samples,
                        augment=shift_rotate_scale if augmented else None,
                        seed=derive_seed(seed, "classifier", draw),
                        steps=steps,
                    )
                    before, clock = clock, time.perf_counter()
                    yield {
                        "arm": arm,
                        "per_class": number,
                        "draw": draw,
                        "accuracy": accuracy,
                        "samples": 0 if samples is None else len(samples[0]),
                        "seconds": clock - before,
                    }


def _arms(names: Iterable[str]) -> dict[str | None, dict[str, tuple[bool, bool]]]:
    """Whose samples, or None -> arm -> whether it is trained on them alone, and whether images are moved."""
    arms: dict[str | None, dict[str, tuple[bool, bool]]] = {
        None: {REAL: (False, False), f"{REAL}, augmented": (False, True)}
    }
    for name in names:
        arms[name] = {
            f"{REAL} + {name}": (False, False),
            f"{REAL} + {name}, augmented": (False, True),
            f"{name} alone": (True, False),
        }
    return arms


class Gain(NamedTuple):
    """An arm at a number of labelled images: mean accuracy over `draws` draws, and over `pairs` draws the mean difference
    from the baseline's at the same draw, each with its 95 % interval by Student's t; NaN where there are too few draws.
    """

    arm: str
    per_class: int
    draws: int
    accuracy: float
    low: float
    high: float
    pairs: int
    gain: float
    gain_low: float
    gain_high: float


def summarise(records: Iterable[Mapping], *, baseline: str = REAL) -> list[Gain]:
    """What `augmentation_gain` yielded, by arm and number of labelled images, in the order in which they first came.

    Raises ValueError where no record is of the arm `baseline`.
    """
    found: dict[tuple[str, int], dict[int, float]] = {}
    for record in records:
        found.setdefault((record["arm"], record["per_class"]), {})[record["draw"]] = record["accuracy"]
    if baseline not in {arm for arm, _ in found}:
        raise ValueError(f"baseline must be one of {', '.join({arm: None for arm, _ in found})}, got {baseline!r}")
    rows = []
    for (arm, number), accuracies in found.items():
        against = found.get((baseline, number), {})
        differences = [value - against[draw] for draw, value in accuracies.items() if draw in against]
        rows.append(
            Gain(
                arm,
                number,
                len(accuracies),
                *interval(list(accuracies.values())),
                len(differences),
                *interval(differences),
            )
        )
    return rows


def _check_labelled(pair: Labelled, name: str) -> InMemory:
    x, y = pair
    x = check_array(x, name, white=255)
    if x.ndim != 4:
        raise ValueError(f"{name} must be images (N, H, W, C), got shape {x.shape}")
    y = label_column(y, len(x), f"labels of {name}")
    if y.dtype.kind not in "iu" or y.min() < 0:
        raise ValueError(f"labels of {name} must be whole numbers from 0, got {y.dtype} from {y.min()}")
    return InMemory(torch.from_numpy(np.require(x, requirements=("C", "W"))), torch.from_numpy(y.astype(np.int64)))
