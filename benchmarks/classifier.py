"""A CVAE is a classifier too: `predict_proba` from the ELBOs of the classes, beside a CNN with a softmax of like size.

The CNN is the CVAE's own encoder without the condition, its head a class each, trained on the same images by the same loop for
as many epochs at the same learning rate. Accuracy, log loss (nats) and expected calibration error (15 bins) of test images.
"""

import argparse
import statistics
import time

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import log_loss
from torch import nn

from benchmarks.harness import Findings, mean_std, progress, trained
from vaekit.data import open_data
from vaekit.data.batches import to_input
from vaekit.parts.networks import make_networks
from vaekit.tensors import Term
from vaekit.training.loop import train
from vaekit.training.plan import Plan
from vaekit.world import derive_seed, seeded

BATCH = 1000


class Classifier(nn.Module):
    """The default encoder with a logit per class in place of a latent; `forward` is the cross-entropy (B,) in nats."""

    def __init__(self, shape: tuple[int, int, int], n_classes: int):
        super().__init__()
        self.encoder = make_networks("conv", shape, features=n_classes, latent_dim=1, out_channels=shape[0]).encoder

    def forward(self, x, y):
        return F.cross_entropy(self.encoder(x), y, reduction="none")

    @torch.inference_mode()
    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        """(N, H, W, C) uint8 -> (N, n_classes)."""
        logits = [self.encoder(to_input(part)) for part in torch.from_numpy(x).split(BATCH)]
        return torch.cat(logits).double().softmax(1).numpy()


def train_cnn(images, cvae, seed: int) -> Classifier:
    """A CNN for `images` by the plan that `cvae` was trained by."""
    plan = Plan(**{**cvae.facts_["plan"], "betas": tuple(cvae.facts_["plan"]["betas"]), "seed": seed})
    height, width, channels = images.image_shape
    with seeded(derive_seed(seed, "weights")):
        cnn = Classifier((channels, height, width), len(images.classes))
    data = cvae.fitted_.data(images)
    train(cnn, lambda nats, step: {"cross_entropy": Term(nats)}, data, plan, title=f"CNN seed {seed}", verbose=True)
    return cnn.eval()


def calibration_error(proba: np.ndarray, y: np.ndarray, bins: int = 15) -> float:
    """Mean over images of |accuracy - confidence| in their bin, of `bins` equal ones of confidence (Guo et al. 2017)."""
    confidence, right = proba.max(1), proba.argmax(1) == y
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(place, right, bins) - np.bincount(place, confidence, bins)
    return float(np.abs(gaps).sum() / len(y))


def measure(predict_proba, test, parameters: int) -> dict:
    """What the table says of one trained classifier."""
    started = time.perf_counter()
    proba = predict_proba(test.x)
    return {
        "parameters": parameters,
        "accuracy": 100 * float((proba.argmax(1) == test.y).mean()),
        "log_loss": float(log_loss(test.y, proba, labels=np.arange(len(test.classes)))),
        "ece": 100 * calibration_error(proba, test.y),
        "ms": 1000 * (time.perf_counter() - started) / len(test),
    }


def run(argv):
    parser = argparse.ArgumentParser(prog="python -m benchmarks classifier")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=11)
    parser.add_argument("--data", default="mnist")
    asked = parser.parse_args(argv)
    train_images, test = open_data(asked.data, "train"), open_data(asked.data, "test")
    # The CVAEs of the claim `conditional` are these, and are taken up where they are there.
    known = (asked.data, asked.epochs) == ("mnist", 11)
    folder = "conditional/cvae" if known else f"classifier/{asked.data}-{asked.epochs}/cvae"
    found = {"CVAE, class ELBOs": [], "CNN, softmax": []}
    for seed in range(asked.seeds):
        cvae = trained(f"{folder}-seed{seed}", "cvae", train_images, random_state=seed, epochs=asked.epochs)
        found["CVAE, class ELBOs"].append(measure(cvae.predict_proba, test, cvae.n_parameters_))
        cnn = train_cnn(train_images, cvae, seed)
        found["CNN, softmax"].append(measure(cnn.predict_proba, test, sum(p.numel() for p in cnn.parameters())))
        progress(f"seed {seed}: {found['CVAE, class ELBOs'][-1]}, {found['CNN, softmax'][-1]}")

    def mean(label, key):
        return statistics.fmean(result[key] for result in found[label])

    rows = [
        [
            label,
            results[0]["parameters"],
            *(mean_std([result[key] for result in results], form) for key, form in FORMS.items()),
        ]
        for label, results in found.items()
    ]
    ours, theirs = found
    text = (
        f"{len(test):,} test images of {asked.data}, {asked.epochs} epochs, {asked.seeds} seeds; the CVAE is the default one, "
        "with 4 draws for each class, and its parameters are those of encoder and decoder. It is "
        f"{mean(ours, 'accuracy'):.2f} % right, the CNN {mean(theirs, 'accuracy'):.2f} %. ELBOs of classes lie many nats "
        f"apart, so that a wrong class is wrong with confidence: the log loss is {mean(ours, 'log_loss'):.3f} against "
        f"{mean(theirs, 'log_loss'):.3f} nats. Milliseconds per image are of this machine: a CVAE encodes and decodes an image "
        "once for each class and draw."
    )
    columns = ["model", "parameters", "accuracy, %", "log loss, nats", "calibration error, %", "ms per image"]
    return Findings(columns, rows, text)


FORMS = {"accuracy": ".2f", "log_loss": ".4f", "ece": ".2f", "ms": ".2f"}
