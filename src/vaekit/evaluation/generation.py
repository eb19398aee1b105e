"""Are samples what they should be? A judge, a small CNN trained once per labelled data set, gives its opinion; its features,
or Inception's, measure samples against real images; and near copies of training images are counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from vaekit.data.batches import Data, Mapped, to_input
from vaekit.data.cache import cache_dir
from vaekit.data.checks import check_arrays
from vaekit.data.images import Images
from vaekit.data.mapped import is_mapped
from vaekit.data.splits import hold_out
from vaekit.evaluation.distances import frechet_distance, kernel_distance, precision_recall_density_coverage
from vaekit.messages import check_number, filled, first_line
from vaekit.owned import claim, remove_temporaries
from vaekit.ranks import apart
from vaekit.state import undisturbed, warn
from vaekit.tensors import Term
from vaekit.training.checkpoint import read_tensors, write_tensors
from vaekit.training.loop import train
from vaekit.training.plan import Plan, steps_per_epoch
from vaekit.training.progress import Lines
from vaekit.training.step import pick_threads
from vaekit.world import derive_seed, seeded

BATCH = 1000
BLOCK = 2048  # rows and columns of a block of distances between images: 16 MiB
FEWEST = 6  # images that a set needs to be compared: five neighbours and itself
NEAR = 0.01  # of training images are nearer to another one than a near copy is to its own
JUDGE_VERSION = 2  # part of the cache's key: raised when network or training change


# Of the judge's training: passes over the images at most, those before it may stop, and those without a lower held-out loss
# after which it does; the share of images that are held out.
JUDGE_EPOCHS, JUDGE_FEWEST_EPOCHS, JUDGE_PATIENCE, JUDGE_HELD_OUT = 30, 8, 3, 0.1


class Judge(nn.Module):
    """A small classifier of images (B, C, H, W) in [0, 1]: convolutions at full, half and quarter resolution, then a
    dense layer of 128 features. `forward(x, y)` is the cross-entropy (B,) in nats that the training loop minimises.
    """

    def __init__(self, *, channels: int, n_classes: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, stride=2, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3, stride=2, padding=1),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(64 * 16, 128),
            nn.ReLU(),
        )
        self.head = nn.Linear(128, n_classes)

    def features(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 128)."""
        return self.body(x)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if self.training:
            x = _shifted(x)
        return F.cross_entropy(self.head(self.body(x)), y, reduction="none")

    @undisturbed
    @torch.inference_mode()
    def embed(self, x) -> Tensor:
        """(N, H, W, C) stored images, 8-bit or floats in [0, 1] -> (N, 128) features."""
        self.eval()
        return torch.cat([self.body(to_input(part)) for part in torch.as_tensor(x).split(BATCH)])

    @undisturbed
    @torch.inference_mode()
    def classify(self, x: Tensor) -> Tensor:
        """(N, H, W, C) stored images, 8-bit or floats in [0, 1] -> (N,) int64 class indices."""
        self.eval()
        return torch.cat([self.head(self.body(to_input(part))).argmax(1) for part in x.split(BATCH)])


def _shifted(x: Tensor) -> Tensor:
    """The batch moved by up to a tenth of its side in each direction, one move for all of its images."""
    height, width = x.shape[2:]
    margin = min(height, width) // 10
    down, right = torch.randint(2 * margin + 1, (2,)).tolist()
    padded = F.pad(x, (margin, margin, margin, margin))
    return padded[:, :, down : down + height, right : right + width]


def _cross_entropy(nats: Tensor, step: int) -> dict[str, Term]:
    return {"cross_entropy": Term(nats)}


@undisturbed
def get_judge(train_images: Images, test_images: Images, *, verbose: bool = False) -> tuple[Judge, float]:
    """The judge of a labelled data set and its accuracy on `test_images`, from the user's cache or trained now.

    It is keyed by the data's fingerprint, so other data, or the same data changed, gets a judge of its own. Where another
    process trains the same one, it is waited for.
    """
    if train_images.y is None or test_images.y is None:
        raise ValueError(f"a judge needs labels, and {train_images.name} has none")
    with seeded(derive_seed(0, "judge")):
        judge = Judge(channels=train_images.x.shape[-1], n_classes=len(train_images.classes))
    key = f"{train_images.fingerprint[:16]}-{train_images.split_seed}-v{JUDGE_VERSION}"
    path = Path(cache_dir()) / "judges" / f"{key}.safetensors"
    lines = Lines(f"judge of {train_images.name}", 0) if verbose else None
    accuracy = _read_judge(path, judge)
    if accuracy is None:
        with _in_turn(path, lines) as kept:
            accuracy = _read_judge(path, judge)  # of the process that was waited for
            if accuracy is None:
                if lines:
                    lines.say(
                        "a small classifier of its classes, trained once for this data: it tells what samples show"
                    )
                _train_judge(judge, train_images, verbose)
                accuracy = class_consistency(judge, test_images.x, test_images.y)
                if kept:
                    facts = {"data": train_images.name, "fingerprint": train_images.fingerprint}
                    try:
                        write_tensors(path, judge.state_dict(), {**facts, "test_accuracy": accuracy})
                    except (OSError, ValueError) as error:
                        _warn_of_cache(error)
    return judge.eval(), accuracy


def _read_judge(path: Path, judge: Judge) -> float | None:
    """Fills `judge` from the cache, and gives its accuracy; None where it isn't there, or is damaged."""
    try:
        tensors, facts = read_tensors(path)
        accuracy = float(facts["test_accuracy"])
        judge.load_state_dict(tensors)
    except (OSError, ValueError, RuntimeError, LookupError, TypeError):
        return None  # a damaged entry costs a new training, nothing else
    return accuracy


@contextmanager
def _in_turn(path: Path, lines: Lines | None) -> Iterator[bool]:
    """Waits while another process trains the judge of `path`, which dies with its lock; whether what is trained can be kept.

    The lock's file stays, since two processes could hold one that is removed.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path.with_suffix(".lock"))
    try:
        claim(path.parent, "cache")
        remove_temporaries(path.parent, days=1)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if lines:
                lines.say("another process trains it; waiting for that")
            lock.acquire()
    except (OSError, ValueError) as error:
        _warn_of_cache(error)
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _warn_of_cache(error: Exception) -> None:
    warn(f"the judge could not be kept for the next time ({first_line(error)})")


def _train_judge(judge: Judge, images: Images, verbose: bool) -> None:
    """Until the loss on a held-out tenth of the images, spread over the classes, has come to rest."""
    judge.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  (torch declares no such form)

    def part(index: np.ndarray) -> Data:
        some = images.take(np.sort(index))
        stored = Mapped(some.x, torch.device("cpu")) if is_mapped(some.x) else torch.from_numpy(some.x)
        return Data(stored, torch.from_numpy(filled(some.y)), dynamic=images.binarize == "dynamic")

    kept, held = hold_out(len(images), JUDGE_HELD_OUT, derive_seed(0, "judge"), images.y)
    batch_size = 128 if len(kept) >= 5000 else 32
    per_epoch = steps_per_epoch(len(kept), batch_size)
    steps = max(4 * per_epoch, min(JUDGE_EPOCHS * per_epoch, 2000))
    plan = Plan(
        steps=steps,
        batch_size=batch_size,
        learning_rate=2e-3,
        warmup=50,
        patience=JUDGE_PATIENCE if len(held) else None,
        patience_from=min(JUDGE_FEWEST_EPOCHS * per_epoch, steps),
    )
    title = f"judge of {images.name}"
    data, validation = part(kept), part(held) if len(held) else None
    with apart():
        with seeded(derive_seed(0, "threads")):
            plan = replace(plan, threads=pick_threads(judge, _cross_entropy, data, plan))
        train(judge, _cross_entropy, data, plan, validation=validation, title=title, verbose=verbose)


@undisturbed
def class_consistency(judge: Judge, x, y) -> float:
    """The share of images (N, H, W, C) that the judge takes for the class y (N,) they were asked to be."""
    judged = judge.classify(torch.as_tensor(x))
    return (judged == torch.as_tensor(y)).double().mean().item()


Embed = Callable[[np.ndarray], Tensor]  # images (N, H, W, C), 8-bit or floats in [0, 1] -> features (N, F)


@undisturbed
def inception_features(path: str | Path | None = None) -> Embed | None:
    """The 2,048 features before the last layer of torchvision's Inception v3; None unless its weights are on disk and
    torchvision is installed. Nothing is downloaded.

    path: a safetensors file of that network's state dict; None is inception/inception_v3.safetensors in the cache.
    Images are brought to 299x299 bilinearly and normalised by ImageNet's statistics, grey ones as three equal channels. The
    weights are not those of the TensorFlow network that published FIDs are of, so the figures differ from published ones.
    Raises ValueError for a file that holds something else, and for a `path` that isn't there.
    """
    file = cache_dir() / "inception" / "inception_v3.safetensors" if path is None else Path(path)
    if not file.is_file():
        if path is not None:
            raise ValueError(f"path must be a safetensors file of Inception's weights; there is none at {file}")
        return None
    try:
        from torchvision.models import inception_v3
    except ImportError:
        return None
    # The published weights want inputs in [-1, 1]; transform_input takes ImageNet-normalised ones there.
    network = inception_v3(weights=None, init_weights=False, transform_input=True)
    try:
        network.load_state_dict(load_file(file))
    except (SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{file} must hold the state dict of torchvision's inception_v3: {reason}") from None
    network.fc = nn.Identity()
    network.eval()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))

    @undisturbed
    @torch.inference_mode()
    def embed(x) -> Tensor:
        features = []
        for part in torch.as_tensor(x).split(50):
            images = to_input(part).float()
            if images.shape[1] not in (1, 3):
                raise ValueError(f"Inception's features are of images with 1 or 3 channels, got {images.shape[1]}")
            large = F.interpolate(images.expand(-1, 3, -1, -1), (299, 299), mode="bilinear", antialias=True)
            features.append(network((large - mean) / std))
        return torch.cat(features)

    return embed


def pick_features(judge: Judge, path: str | Path | None = None) -> tuple[Embed, str]:
    """What to measure samples with, and what that is in words: Inception's features for images in colour where
    `inception_features` finds its weights, else the judge's.
    """
    if judge.body[0].in_channels == 3 and (embed := inception_features(path)) is not None:
        return embed, "features of Inception v3, torchvision's weights: not comparable with published FIDs"
    return judge.embed, "features of a small classifier trained on this data: comparable only under the same classifier"


@undisturbed
def measure_samples(embed: Embed, samples, real, reference, *, seed: int = 0) -> dict:
    """How near samples are to real images in the features of `embed`, and how near real images are themselves.

    samples: (N, H, W, C). real: (M, H, W, C) held-out images. reference: (N, H, W, C) training images, as many as samples:
    what they score in the samples' place stands beside each figure as `..._floor`, the best to be expected.

    frechet, kernel (with kernel_se, its standard error), precision, recall, density, coverage: see `distances`.
    samples, real: the numbers of images behind them. `seed` draws the kernel distance's subsets.
    """
    samples, real, reference = _check_alike(samples=samples, real=real, reference=reference)
    if len(samples) != len(reference):
        raise ValueError(f"samples and reference must be equally many, got {len(samples)} and {len(reference)}")
    known = embed(real)
    result: dict[str, float] = {"samples": len(samples), "real": len(real)}
    for suffix, images in (("", samples), ("_floor", reference)):
        features = embed(images)
        kernel, error = kernel_distance(features, known, seed=seed)
        result[f"frechet{suffix}"] = frechet_distance(features, known)
        result |= {f"kernel{suffix}": kernel, f"kernel{suffix}_se": error}
        neighbours = precision_recall_density_coverage(known, features)
        result |= {f"{name}{suffix}": value for name, value in neighbours._asdict().items()}
    return result


class CopyCheck(NamedTuple):
    """What `copy_check` found; distances are root mean squared differences per pixel (per feature, of features).

    share, held_out_share: of near copies among samples, and among held-out images, where it is about 1 %.
    threshold: the distance at which an image is a near copy.
    n_samples, n_held_out, n_reference: images behind the two shares and the threshold.
    index: (n_samples,) int64, the nearest training image of each sample; distance: (n_samples,) float64, how far it is.
    """

    share: float
    held_out_share: float
    threshold: float
    n_samples: int
    n_held_out: int
    n_reference: int
    index: np.ndarray
    distance: np.ndarray


@undisturbed
def copy_check(
    samples, train, held_out, *, embed: Embed | None = None, reference: int = 5000, seed: int = 0
) -> CopyCheck:
    """Are samples copies of training images? Each one's nearest training image, and the share that is a near copy.

    A near copy is no further from its nearest training image than the nearest 1 % of training images are from theirs,
    themselves left out; that is measured on `reference` of them, or all if fewer. As many held-out images as samples, or all
    if fewer, give the share without copying. Both are random subsets, by `seed`.
    samples, train, held_out: images (N, H, W, C) or (N, H, W), 8-bit or floats in [0, 1], of one shape. Pixels are compared in
    [0, 1], or features (N, F) where `embed` is given.

    Samples of a VAE are smoother than images are, and what is smooth is nearer to every image: a share in pixels above the
    held-out one is no proof of copies. A blurred copy of a sharp image, on the other hand, may be past the threshold. Look at
    the pairs with the smallest distances, and compare in features as well.
    """
    check_number("reference", reference, whole=True, above=1)
    samples, train, held_out = _check_alike(samples=samples, train=train, held_out=held_out)
    if len(train) < 2:
        raise ValueError(f"train must be at least 2 images, got {len(train)}")
    rng = np.random.default_rng(seed)
    own = np.sort(rng.permutation(len(train))[:reference])
    held_out = held_out[rng.permutation(len(held_out))[: len(samples)]]
    if embed is not None:
        samples, train, held_out = (embed(part) for part in (samples, train, held_out))
    samples, train, held_out = (torch.as_tensor(part).cpu().flatten(1) for part in (samples, train, held_out))
    own = torch.from_numpy(own)
    distance, index = _nearest(samples, train)
    among, _ = _nearest(train[own], train, own)
    threshold = among.quantile(NEAR)
    fresh, _ = _nearest(held_out, train)
    return CopyCheck(
        share=(distance <= threshold).double().mean().item(),
        held_out_share=(fresh <= threshold).double().mean().item(),
        threshold=threshold.item(),
        n_samples=len(samples),
        n_held_out=len(held_out),
        n_reference=len(own),
        index=index.numpy(),
        distance=distance.numpy(),
    )


def _check_alike(**sets) -> list[np.ndarray]:
    """Sets of images as vaekit stores them; ValueError unless each is one and their images are of one shape."""
    checked = check_arrays(**sets)
    shapes = [images.shape[1:] for images in checked]
    if len(set(shapes)) > 1:
        raise ValueError(f"{', '.join(sets)} must be images of one shape, got {', '.join(map(str, shapes))}")
    return checked


def _nearest(queries: Tensor, points: Tensor, own: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The nearest of `points` (N, D) to each query (Q, D): RMS difference per value (Q,) float64, and index (Q,).

    own: (Q,) the index of each query itself in `points`, which doesn't count.
    """
    queries = _unit(queries)
    # |p|^2 / 2 - q'p orders the points; in float32 only once both are centred, since what is common to all images is large.
    centre = queries.mean(0)
    centred = queries - centre
    block = queries.new_empty(BLOCK, BLOCK)
    best, index = torch.full((len(queries),), torch.inf), torch.zeros(len(queries), dtype=torch.int64)
    for start in range(0, len(points), BLOCK):
        part = _unit(points[start : start + BLOCK]) - centre
        half = part.square().sum(1) / 2
        for rows in (slice(first, first + BLOCK) for first in range(0, len(queries), BLOCK)):
            some = centred[rows]
            order = torch.addmm(half, some, part.T, alpha=-1, out=block[: len(some), : len(part)])
            if own is not None:
                itself = own[rows] - start
                here = (itself >= 0) & (itself < len(part))
                order[here, itself[here]] = torch.inf
            least, place = order.min(1)
            nearer = least < best[rows]
            best[rows] = torch.where(nearer, least, best[rows])
            index[rows] = torch.where(nearer, place + start, index[rows])
    differences = [
        (queries[first : first + BLOCK] - _unit(points[index[first : first + BLOCK]])).double().square().mean(1)
        for first in range(0, len(queries), BLOCK)
    ]
    return torch.cat(differences).sqrt(), index


def _unit(values: Tensor) -> Tensor:
    """8-bit values as floats in [0, 1], others as float32."""
    return values.float() / 255 if values.dtype == torch.uint8 else values.float()
