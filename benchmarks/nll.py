"""The field's likelihood protocol on MNIST: how near do minutes of training come to the published numbers?

Burda, Grosse & Salakhutdinov (2016), table 1 (VAE 86.76 nats; IWAE, k=5, 85.54), one stochastic layer of 50 units and two
hidden layers of 200 on each side, Bernoulli pixels. Training images are binarised anew in each epoch with the intensity as
probability, test images once, by a fixed seed; the NLL is importance-weighted with 5,000 draws per test image. They take 3,280
passes, in batches of 20, tanh, a learning rate that falls in steps from 0.001, and its best choice on nothing but the training
objective; here as many as the time is enough for, by Muon, in larger batches, SiLU, products in bfloat16 where the processor
has them, and a cosine to zero. An IWAE's first three quarters go by the ELBO of one draw; by default half of them do. A
training of half an hour or more has batches twice as large, weight decay, and a rate that falls in a straight line. Their test
set was binarised by another seed.
"""

import argparse
from dataclasses import asdict, replace
from functools import partial

import torch

from benchmarks.harness import OUT, Findings, mean_std, measured
from vaekit.data import open_data
from vaekit.data.batches import Data
from vaekit.evaluation.likelihood import evaluate, importance_nll
from vaekit.messages import filled
from vaekit.models import Autoencoder, Elbo, Iwae
from vaekit.parts import BernoulliLikelihood, GaussianLatent, StandardNormalPrior
from vaekit.parts.networks import make_networks
from vaekit.training.checkpoint import RunFolder
from vaekit.training.loop import train
from vaekit.training.plan import Plan, read_plan, start_clock
from vaekit.training.step import affordable, rehearse
from vaekit.world import fast_bfloat16, seeded

PUBLISHED = {"VAE": 86.76, "IWAE, k=5": 85.54}
LATENTS, HIDDEN = 50, (200, 200)
LONG = 30  # minutes
ELBO_SHARE = 0.75  # of an IWAE's steps


def run(argv):
    parser = argparse.ArgumentParser(prog="python -m benchmarks nll")
    parser.add_argument("--vae", type=float, nargs="*", default=[5.0], help="minutes of a VAE's training, each a row")
    parser.add_argument(
        "--iwae", type=float, nargs="*", default=[10.0], help="minutes of an IWAE's training, each a row"
    )
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--long-seeds", type=int, default=1, help=f"of trainings of {LONG} minutes or more")
    parser.add_argument("--k", type=int, default=5000, help="draws per test image")
    options = parser.parse_args(argv)
    data = Data(torch.from_numpy(open_data("mnist", "train", binarize="dynamic").x), dynamic=True)
    test = Data(torch.from_numpy(open_data("mnist", "test", binarize="dynamic").x))
    rows, text = [], []
    budgets = [("VAE", 1, minutes) for minutes in options.vae]
    budgets += [("IWAE, k=5", 5, minutes) for minutes in options.iwae]
    for label, samples, minutes in budgets:
        runs = []
        for seed in range(options.long_seeds if minutes >= LONG else options.seeds):
            one = partial(one_run, label, samples, data, test, minutes=minutes, seed=seed, k=options.k)
            runs.append(measured(f"nll/{samples}-draws-{minutes:g}-minutes-seed{seed}-k{options.k}", one))
        nll = [run["nll"] for run in runs]
        rows.append(
            [
                label,
                minutes,
                mean_std([run["-elbo"] for run in runs]),
                mean_std(nll),
                f"{runs[0]['nll_se']:.2f}",
                PUBLISHED[label],
                mean_std([run["objective, training"] for run in runs]),
                *(
                    ", ".join(str(run[key]) for run in runs)
                    for key in ("active latents", "seconds", "epochs", "threads")
                ),
            ]
        )
        by_k = ", ".join(f"{value:.2f} (k={k})" for k, value in runs[0]["nll_by_k"] if k in (1, 5, 50, 500, 5000))
        text.append(
            f"{label} in {minutes:g} minutes, {len(runs)} seed(s): NLL by draws, first seed: {by_k}; "
            f"{sum(nll) / len(nll) - PUBLISHED[label]:+.2f} nats from the published figure."
        )
    columns = [
        "model",
        "minutes",
        "-ELBO, test",
        "NLL, test",
        "its error over images",
        "published NLL",
        "objective, training",
    ]
    columns += ["active latents of 50", "training, s", "epochs", "threads"]
    return Findings(columns, rows, " ".join(text))


def one_run(label, samples, data, test, *, minutes, seed, k) -> dict:
    """A training, gone on with where it was interrupted, and what it comes to on the test images."""
    with seeded(seed):
        module = build(samples)
    long = minutes >= LONG
    precision = "bfloat16" if fast_bfloat16(torch.device("cpu")) else "float32"
    plan = Plan(
        steps=100,
        batch_size=2000 if long else 1000,
        learning_rate=0.02,
        optimizer="muon",
        half=precision == "bfloat16",
        weight_decay=0.02 if long else 0.0,
        schedule="linear" if long else "cosine",
        warmup=200,
        betas=(0.9, 0.99),
        precision=precision,
        seed=seed,
    )
    folder = RunFolder(OUT / "nll" / f"{samples}-draws-{minutes:g}-minutes-seed{seed}")
    if folder.started:
        plan = read_plan(folder.config()["plan"])
    else:
        rehearse(module, objective_of(samples, plan), data, plan)  # the first steps of a process are slow
        deadline = filled(start_clock(60 * minutes))
        plan = replace(plan, steps=affordable(module, objective_of(samples, plan), data, plan, deadline))
        folder.start({"plan": asdict(plan)})
    history = train(
        module, objective_of(samples, plan), data, plan, folder=folder, title=f"{label} seed {seed}", verbose=True
    )
    found, bound = importance_nll(module, test, k=k), evaluate(module, test)
    # The last epoch may be of a few batches.
    whole = [record for record in history if record["step"] % history[0]["step"] == 0]
    return {
        **{key: found[key] for key in ("nll", "nll_se", "nll_by_k")},
        "-elbo": -bound["elbo"],
        "objective, training": whole[-1]["objective"],
        "active latents": bound["active_units"],
        "seconds": round(history[-1]["seconds_total"]),
        "epochs": len(history),
        "threads": torch.get_num_threads(),
    }


def objective_of(samples: int, plan: Plan) -> Elbo | Iwae:
    return Elbo() if samples == 1 else Iwae(elbo_steps=round(ELBO_SHARE * plan.steps))


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
