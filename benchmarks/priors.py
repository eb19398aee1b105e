"""A prior fitted to the latents brings samples nearer to the data than N(0, I), for every Gaussian model.

Default networks on MNIST. Frechet distance in the judge's feature space between 10,000 samples and the 10,000 test images,
with the same distance between test images and as many training images as the floor. Under its learned prior of each class, at
least 98 % of the CVAE's samples are the digit asked for.
"""

import argparse
import statistics

import numpy as np

from benchmarks.harness import Findings, mean_std, progress, trained
from vaekit.data import open_data
from vaekit.evaluation.distances import frechet_distance
from vaekit.evaluation.generation import class_consistency, get_judge
from vaekit.registry import MODELS
from vaekit.training import kinds
from vaekit.training.settings import PriorSettings

KINDS = ("plain", "gmm", "vamp", "flow")
RUNS = {
    "vae": ("defaults/VAE-sigma-learned", {"epochs": 11}),
    "bvae": ("priors/bvae", {"epochs": 11}),
    "cvae": ("conditional/cvae", {"epochs": 11}),
}


def run(argv):
    parser = argparse.ArgumentParser(prog="python -m benchmarks priors")
    parser.add_argument("--seeds", type=int, default=3)
    seeds = range(parser.parse_args(argv).seeds)
    train, test = open_data("mnist", "train"), open_data("mnist", "test")
    judge, _ = get_judge(train, test, verbose=True)
    asked = np.repeat(np.arange(10), len(test) // 10)
    real, chosen = judge.embed(test.x), np.random.default_rng(0).permutation(len(train))[: len(test)]
    floor = frechet_distance(judge.embed(train.x[chosen]), real)
    distance, consistency, rate = {}, {}, {}
    for seed in seeds:
        for name, (folder, fields) in RUNS.items():
            model = trained(f"{folder}-seed{seed}", name, train, random_state=seed, **fields)
            for kind in KINDS:
                if kind != "plain":
                    model.fit_prior_images(train, PriorSettings(prior=kind))
                    rate.setdefault((name, kind), []).append(model.prior_facts_["validation_rate"])
                    rate.setdefault((name, "plain"), []).append(model.prior_facts_["plain_rate"])
                prior = "plain" if kind == "plain" else None
                # A prior of each class, with all classes equally often, as in the test images; and the plain prior.
                labels = None if model.fitted_.sampling_classes(prior) is None else np.asarray(train.classes)[asked]
                samples = model.sample(len(asked), labels, random_state=seed, prior=prior)
                distance.setdefault((name, kind), []).append(frechet_distance(judge.embed(samples), real))
                if labels is not None:
                    consistency.setdefault((name, kind), []).append(100 * class_consistency(judge, samples, asked))
                progress(f"{name} seed {seed} {kind}: Frechet distance {distance[name, kind][-1]:.2f}")
    rows = [
        [
            MODELS[name].label,
            "N(0, I)" if kind == "plain" else f"{kinds.KINDS[kind].label}, per class",
            mean_std(distance[name, kind]),
            mean_std(rate[name, kind]),
            mean_std(consistency[name, kind]) if (name, kind) in consistency else "",
        ]
        for name in RUNS
        for kind in KINDS
    ]
    better = all(max(distance[name, kind]) < min(distance[name, "plain"]) for name in RUNS for kind in KINDS[1:])
    text = (
        f"Means over {len(seeds)} seed(s). Real against real (training against test images): {floor:.2f}. Every learned prior "
        f"{'is' if better else 'is NOT'} nearer than N(0, I) in every seed. CVAE, as asked: "
        + ", ".join(f"{kinds.KINDS[kind].label} {min(consistency['cvae', kind]):.2f} %" for kind in KINDS[1:])
        + f" in the worst seed (claimed: 98 %), N(0, I) {statistics.fmean(consistency['cvae', 'plain']):.2f} %. The rate is of "
        "held-out training images (5 %) with their label, log q(z|x) - log p(z|y)."
    )
    return Findings(["model", "prior", "Frechet distance", "rate, nats", "as asked, %"], rows, text)
