"""The field's likelihood protocol on MNIST: how near do 100 passes over the data come to the published 86.76 nats (VAE) and
85.54 nats (IWAE, k=5)?

Burda, Grosse & Salakhutdinov (2016), table 1, one stochastic layer of 50 units and two hidden layers of 200 on each side,
Bernoulli pixels. Training images are binarised anew in each epoch with the intensity as probability, test images once, by a
fixed seed; the NLL is importance-weighted with 5,000 draws per test image. They take 3,280 passes, in batches of 20, tanh, a
learning rate that falls in steps from 0.001, and its best choice on nothing but the training objective; here passes are
fewer, in batches of 100, SiLU, and a cosine to zero. Their test set was binarised by another seed.
"""

import argparse

import torch

from benchmarks.harness import OUT, Findings, mean_std
from vaekit.data import open_data
from vaekit.data.batches import Data
from vaekit.evaluation.likelihood import evaluate, importance_nll
from vaekit.models import Autoencoder, Elbo, Iwae
from vaekit.parts import BernoulliLikelihood, GaussianLatent, StandardNormalPrior
from vaekit.parts.networks import make_networks
from vaekit.training.checkpoint import RunFolder
from vaekit.training.loop import train
from vaekit.training.plan import Plan
from vaekit.world import seeded

PUBLISHED = {"VAE": 86.76, "IWAE, k=5": 85.54}
LATENTS, HIDDEN, BATCH = 50, (200, 200), 100


def run(argv):
    parser = argparse.ArgumentParser(prog="python -m benchmarks nll")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--k", type=int, default=5000, help="draws per test image")
    options = parser.parse_args(argv)
    data = Data(torch.from_numpy(open_data("mnist", "train", binarize="dynamic").x), dynamic=True)
    test = Data(torch.from_numpy(open_data("mnist", "test", binarize="dynamic").x))
    rows, text = [], []
    for label, objective, samples in (("VAE", Elbo(), 1), ("IWAE, k=5", Iwae(), 5)):
        runs = [one_run(label, objective, samples, data, test, seed, options) for seed in range(options.seeds)]
        nll = [found["nll"] for _, found, _ in runs]
        history = runs[0][0]
        marks = sorted({epoch for epoch in (1, 3, 10, 30, 100, 300, 1000) if epoch < len(history)} | {len(history)})
        bounds = ", ".join(f"{history[epoch - 1]['validation_objective']:.2f}" for epoch in marks)
        rows.append(
            [
                label,
                mean_std([-measured["elbo"] for _, _, measured in runs]),
                f"{mean_std(nll)} (se over images {runs[0][1]['nll_se']:.2f})",
                PUBLISHED[label],
                runs[0][2]["active_units"],
                round(sum(record["seconds"] for record in history)),
            ]
        )
        by_k = ", ".join(f"{value:.2f} (k={k})" for k, value in runs[0][1]["nll_by_k"] if k in (1, 5, 50, 500, 5000))
        text.append(
            f"{label}: bound on the test set after {', '.join(map(str, marks))} epochs: {bounds} nats; NLL by draws: {by_k}; "
            f"{sum(nll) / len(nll) - PUBLISHED[label]:+.2f} nats from the published figure."
        )
    columns = ["model", "-ELBO, test", "NLL, test", "published NLL", "active latents of 50", "training, s"]
    return Findings(columns, rows, f"{options.epochs} epochs. " + " ".join(text))


def one_run(label, objective, samples, data, test, seed, options):
    """A training, gone on with where it was interrupted: its history, its NLL and its ELBO on the test images."""
    with seeded(seed):
        module = build(samples)
    steps = options.epochs * (len(data) // BATCH)
    plan = Plan(steps=steps, batch_size=BATCH, learning_rate=2e-3, warmup=200, betas=(0.9, 0.99), seed=seed)
    folder = RunFolder(OUT / "nll" / f"{samples}-draws-{options.epochs}-epochs-seed{seed}")
    folder.start({"plan": str(plan)})
    history = train(
        module, objective, data, plan, validation=test, folder=folder, title=f"{label} seed {seed}", verbose=True
    )
    return history, importance_nll(module, test, k=options.k), evaluate(module, test)


def build(samples: int) -> Autoencoder:
    likelihood = BernoulliLikelihood()
    latent = GaussianLatent(latent_dim=LATENTS)
    networks = make_networks(
        "mlp",
        (1, 28, 28),
        features=latent.features,
        latent_dim=LATENTS,
        out_channels=likelihood.channels(1),
        hidden=HIDDEN,
    )
    return Autoencoder(
        encoder=networks.encoder,
        latent=latent,
        decoder=networks.decoder,
        prior=StandardNormalPrior(latent_dim=LATENTS),
        likelihood=likelihood,
        samples=samples,
    )
