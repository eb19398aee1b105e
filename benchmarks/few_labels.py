"""Few labels that spread in a VAE's latents, then in a network's features, train a better classifier than augmentation.

MNIST and Fashion-MNIST, 10 to 100 labelled images per class and 20,000 images in all, the others without their labels; a VAE of
20 latents is fitted to all of them once. Everything is measured on all test images. The arms: the fixed small CNN of
`augmentation` on the labels alone, 600 steps, without and with random shifts, rotations and sizes; logistic regression on the
latents of the frozen encoder; encoder and a linear layer fine-tuned with these movements, 600 steps; propagation in latents,
whose labels the same CNN learns, 2,200 steps; and `FewLabelsClassifier`, as `vaekit few-labels` uses it.
"""

import argparse
import copy
import json
import math

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from benchmarks import harness
from benchmarks.harness import Findings, progress, trained
from vaekit import FewLabelsClassifier
from vaekit.data import open_data
from vaekit.data.batches import to_input
from vaekit.estimators import few_labels
from vaekit.evaluation.augmentation import InMemory, classifier_accuracy, shift_rotate_scale, train_classifier
from vaekit.evaluation.measures import interval
from vaekit.training.propagation import propagate
from vaekit.world import derive_seed

IMAGES = 20_000
PER_CLASS = (10, 20, 50, 100)
AUGMENTED, FEW = "classical augmentation", "FewLabelsClassifier"


class Case:
    """One draw of labelled images: x (N, H, W, C), labels (N,), -1 where they are hidden, a VAE of all x, and the test set."""

    def __init__(self, train, test, vae, per_class: int, draw: int):
        self.x, self.test, self.vae, self.seed, self.classes = train.x, test, vae, draw, len(train.classes)
        order = np.random.default_rng(derive_seed(draw, "labelled")).permutation(len(train))
        self.labels = np.full(len(train), -1)
        for label in range(self.classes):
            self.labels[order[train.y[order] == label][:per_class]] = label
        self.known = self.labels >= 0

    def right(self, predicted) -> float:
        return float((np.asarray(predicted) == self.test.y).mean())


def alone(case: Case, augment) -> float:
    """The small CNN on the labels alone."""
    labelled = case.x[case.known], case.labels[case.known]
    return classifier_accuracy(labelled, (case.test.x, case.test.y), augment=augment, seed=case.seed)


def frozen(case: Case) -> float:
    """Logistic regression on latents."""
    z = case.vae.transform(case.x[case.known])
    probe = LogisticRegression(max_iter=1000).fit(z, case.labels[case.known])
    return case.right(probe.predict(case.vae.transform(case.test.x)))


def tuned(case: Case) -> float:
    """The encoder, from what it is in the VAE, and a linear layer on its means."""
    torch.manual_seed(case.seed)
    encoder = copy.deepcopy(case.vae.model_.encoder)
    width = case.vae.latent_dim
    head = nn.Linear(width, case.classes)
    x, y = (torch.from_numpy(part[case.known]) for part in (case.x, case.labels))
    optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], lr=5e-4)
    for _ in range(600):
        chosen = torch.randint(len(x), (64,))
        out = head(encoder(shift_rotate_scale(to_input(x[chosen])), None)[:, :width])
        optimizer.zero_grad()
        nn.functional.cross_entropy(out, y[chosen]).backward()
        optimizer.step()
    with torch.inference_mode():
        parts = torch.from_numpy(case.test.x).split(1000)
        return case.right(torch.cat([head(encoder(to_input(p), None)[:, :width]).argmax(1) for p in parts]).numpy())


def propagated(case: Case) -> float:
    """The small CNN on labels that went over to neighbours in the latents, once."""
    taken = propagate(case.vae.transform(case.x), case.labels, case.classes).argmax(1)
    data = InMemory(torch.from_numpy(case.x), torch.from_numpy(np.where(case.known, case.labels, taken)))
    how = {"n_classes": case.classes, "augment": shift_rotate_scale, "seed": case.seed}
    steps = sum(steps for steps, _ in few_labels.ROUNDS)
    network = train_classifier(data, None, **how, steps=steps, batch_size=few_labels.BATCH_SIZE)
    return case.right(network.classify(torch.from_numpy(case.test.x)).numpy())


def few(case: Case) -> float:
    """What `vaekit few-labels` does."""
    classifier = FewLabelsClassifier(case.vae, random_state=case.seed).fit(case.x, case.labels)
    return case.right(classifier.predict(case.test.x))


ARMS = {
    "labels alone": lambda case: alone(case, None),
    AUGMENTED: lambda case: alone(case, shift_rotate_scale),
    "frozen encoder": frozen,
    "fine-tuned encoder": tuned,
    "propagation in latents": propagated,
    FEW: few,
}


def run(argv):
    parser = argparse.ArgumentParser(prog="python -m benchmarks few_labels")
    parser.add_argument("--data", nargs="+", default=("mnist", "fashion-mnist"))
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--per-class", type=int, nargs="+", default=PER_CLASS)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    asked = parser.parse_args(argv)
    kept = harness.OUT / "few_labels" / "accuracies.json"
    found = json.loads(kept.read_text()) if kept.exists() else {}
    for data in asked.data:
        whole, test = open_data(data, "train"), open_data(data, "test")
        train = whole.take(np.sort(np.random.default_rng(0).permutation(len(whole))[:IMAGES]))
        how = {"latent_dim": 20, "architecture": "mlp", "epochs": few_labels.PASSES // IMAGES, "random_state": 0}
        vae = trained(f"few_labels/{data}", "vae", train, **how)
        for draw in range(asked.draws):
            for per_class in asked.per_class:
                case = Case(train, test, vae, per_class, draw)
                for arm in asked.arms:
                    key = f"{data}, {per_class}, {arm}, {draw}"
                    if key not in found:
                        accuracy = ARMS[arm](case)
                        found = (json.loads(kept.read_text()) if kept.exists() else {}) | {
                            key: accuracy
                        }  # others add to it
                        kept.write_text(json.dumps(found, indent=1))
                        progress(f"{key}: {found[key]:.2%}")
    return _findings(asked, found)


def _findings(asked, found: dict[str, float]) -> Findings:
    rows, words = [], []
    for data in asked.data:
        for per_class in asked.per_class:
            means = {}
            for arm in asked.arms:
                values = [found[f"{data}, {per_class}, {arm}, {draw}"] for draw in range(asked.draws)]
                mean, low, high = interval(values)
                half = "" if math.isnan(low) else f" ± {50 * (high - low):.2f}"
                rows.append([data, per_class, arm, len(values), f"{100 * mean:.2f}{half}"])
                means[arm] = mean
            best = max(means, key=lambda arm: means[arm])
            words.append(f"{data} at {per_class}: {best} ({means[best]:.2%})")
    text = (
        "Accuracy in %, means over the draws of the labelled images with 95 % intervals by Student's t; those of an "
        f"interrupted run are kept. Use: {'; '.join(words)}."
    )
    return Findings(["data", "labelled per class", "what", "draws", "accuracy, %"], rows, text)
