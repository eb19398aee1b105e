"""Are samples what they should be? A judge, a small CNN trained once per labelled data set, gives its opinion."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaekit.data.builtin import cache_dir
from vaekit.data.images import Images
from vaekit.tensors import Term
from vaekit.training.checkpoint import read_tensors, write_tensors
from vaekit.training.loop import Data, Plan, to_input, train
from vaekit.world import derive_seed, seeded

BATCH = 1000
JUDGE_VERSION = 1  # part of the cache's key: raised when network or training change


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

    @torch.inference_mode()
    def embed(self, x: Tensor) -> Tensor:
        """(N, H, W, C) stored images, 8-bit or floats in [0, 1] -> (N, 128) features."""
        self.eval()
        return torch.cat([self.body(to_input(part)) for part in x.split(BATCH)])

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


def get_judge(train_images: Images, test_images: Images, *, verbose: bool = False) -> tuple[Judge, float]:
    """The judge of a labelled data set and its accuracy on `test_images`, from the user's cache or trained now.

    It is keyed by the data's fingerprint, so other data, or the same data changed, gets a judge of its own.
    """
    if train_images.y is None or test_images.y is None:
        raise ValueError(f"a judge needs labels, and {train_images.name} has none")
    with seeded(derive_seed(0, "judge")):
        judge = Judge(channels=train_images.x.shape[-1], n_classes=len(train_images.classes))
    key = f"{train_images.fingerprint[:16]}-{train_images.split_seed}-v{JUDGE_VERSION}"
    path = Path(cache_dir()) / "judges" / f"{key}.safetensors"
    if path.exists():
        try:
            tensors, facts = read_tensors(path)
            judge.load_state_dict(tensors)
            return judge.eval(), facts["test_accuracy"]
        except (ValueError, RuntimeError, KeyError):
            path.unlink(missing_ok=True)  # a damaged cache entry costs a new training, nothing else
    judge.to(memory_format=torch.channels_last)
    data = Data(torch.from_numpy(train_images.x), torch.from_numpy(train_images.y))
    batch_size = 128 if len(data) >= 5000 else 32
    per_epoch = max(1, len(data) // batch_size)
    steps = max(4 * per_epoch, min(30 * per_epoch, 2000))
    plan = Plan(steps=steps, batch_size=batch_size, learning_rate=2e-3, warmup=50)
    train(judge, _cross_entropy, data, plan, title=f"judge of {train_images.name}", verbose=verbose)
    accuracy = class_consistency(judge, test_images.x, test_images.y)
    facts = {"data": train_images.name, "fingerprint": train_images.fingerprint, "test_accuracy": accuracy}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(path, judge.state_dict(), facts)
    except OSError as error:
        warnings.warn(f"the judge could not be kept for the next time ({error})", stacklevel=2)
    return judge, accuracy


def frechet_distance(judge: Judge, x, other) -> float:
    """Frechet distance between two sets of images (N, H, W, C) in the judge's feature space, >= 0: of the two Gaussians with
    their features' means and covariances (Heusel et al. 2017, there with an Inception network). It falls with the number of
    images even between draws of one distribution: compare equal numbers, and say what real against real gives.
    """
    means, covariances = [], []
    for images in (x, other):
        features = judge.embed(torch.as_tensor(images)).double()
        means.append(features.mean(0))
        covariances.append(features.T.cov())
    # tr (A B)^1/2 is the sum of the roots of the eigenvalues of A^1/2 B A^1/2, which is symmetric.
    values, vectors = torch.linalg.eigh(covariances[0])
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ covariances[1] @ root).clamp(min=0).sqrt().sum()
    distance = (means[0] - means[1]).square().sum() + covariances[0].trace() + covariances[1].trace() - 2 * cross
    return max(distance.item(), 0.0)


def class_consistency(judge: Judge, x, y) -> float:
    """The share of images (N, H, W, C) that the judge takes for the class y (N,) they were asked to be."""
    judged = judge.classify(torch.as_tensor(x))
    return (judged == torch.as_tensor(y)).double().mean().item()
