"""Trainings that one process, and several together, come to the same by; and one of the several.

RANK=0 WORLD_SIZE=2 MASTER_ADDR=localhost MASTER_PORT=... python tests/ranks/cases.py ROUNDS FOLDER
"""

import sys
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import Tensor, nn

import vaekit
from vaekit.data.arrays import given_images
from vaekit.data.batches import Data
from vaekit.data.format import Format
from vaekit.ranks import joined, rank
from vaekit.training.checkpoint import digest
from vaekit.training.kinds import make_prior, resolve_settings
from vaekit.training.loop import train
from vaekit.training.plan import Plan
from vaekit.training.rates import CodeRate, Codes, LatentRate, rate_term
from vaekit.training.settings import PriorSettings
from vaekit.world import seeded

STEPS, BATCH = 25, 20
TINY = {"architecture": "mlp", "width": 16, "latent_dim": 3, "batch_size": BATCH, "random_state": 0, "device": "cpu"}
CONV = {**TINY, "architecture": "conv", "width": None}
MODELS = {
    "vae": (vaekit.VAE, TINY),
    "muon": (vaekit.VAE, {**TINY, "optimizer": "muon"}),
    "clipped": (vaekit.VAE, {**TINY, "gradient_clip": 5.0}),
    "binary": (vaekit.VAE, {**TINY, "likelihood": "bernoulli"}),
    "cvae": (vaekit.CVAE, TINY),
    "epsilon": (vaekit.BetaVAE, {**TINY, "epsilon": 4.0}),
    "btcvae": (vaekit.BetaTCVAE, TINY),
    "iwae": (vaekit.IWAE, TINY),
    "vqvae-ema": (vaekit.VQVAE, {**CONV, "n_codes": 12, "code_dim": 4}),
    "vqvae-gradient": (vaekit.VQVAE, {**CONV, "n_codes": 12, "code_dim": 4, "ema": 0.0}),
    "wang2023": (vaekit.VAE, {**TINY, "architecture": "wang2023", "width": None}),
}
PRIORS = ("pixelcnn", "transformer", "flow")
SEES_A_ROUND = ("btcvae", "wang2023")  # and so comes to something else in several rounds


def images(name: str) -> tuple[np.ndarray, np.ndarray]:
    x, y = load_digits(return_X_y=True)
    x = (x[:210].reshape(-1, 8, 8) / 16).astype(np.float32)
    return np.pad(np.kron(x, np.ones((3, 3), np.float32)), ((0, 0), (2, 2), (2, 2))) if name == "wang2023" else x, y[
        :210
    ]


def format_of(name: str) -> Format:
    x, y = images(name)
    conditional = MODELS[name][0].conditional
    return Format.of(given_images(x, y if conditional else None), x, scaling="standard", conditional=conditional)


def ready(name: str, rounds: int = 1):
    """The estimator of this name, its fields filled in."""
    kind, fields = MODELS[name]
    estimator = kind(**fields, accumulate=rounds)
    return estimator.filled_in(estimator.resolve(format_of(name), 210))


def weights(name: str, rounds: int) -> dict[str, Tensor]:
    """What a training of STEPS steps comes to: weights, buffers, what the objective has learned, and validation terms."""
    return (prior_weights if name in PRIORS else model_weights)(name, rounds)


def model_weights(name: str, rounds: int) -> dict[str, Tensor]:
    x, y = images(name)
    estimator = ready(name, rounds)
    conditional = estimator.conditional
    module, objective = estimator.make_module(format_of(name), 0), estimator.make_objective(len(x) // BATCH)
    plan = replace(estimator.make_plan(STEPS, 0, len(x) // BATCH), patience=10)
    labels = torch.from_numpy(y) if conditional else None
    data = Data(torch.from_numpy(x)[..., None], labels, dynamic=name == "binary")
    held = replace(data, x=data.x[:33], y=None if labels is None else labels[:33])
    if name == "wang2023":  # Adam makes a step of what its batch norms leave of rounding, which others then follow
        module, data, held = module.double(), replace(data, x=data.x.double()), replace(held, x=held.x.double())
    return trained(module, objective, data, plan, held)


def prior_weights(name: str, rounds: int) -> dict[str, Tensor]:
    draw, discrete = torch.Generator().manual_seed(0), name != "flow"
    shape = (1, 8, 8)
    with seeded(0):
        model = (ready("vqvae-ema") if discrete else ready("vae")).build(shape)
    given = PriorSettings(prior=name, layers=2, channels=8, accumulate=rounds, dropout=0.4 if discrete else None)
    kinds = {"codes": discrete, "n": 210, "latent_dim": 3, "n_classes": 0, "device": torch.device("cpu")}
    settings = resolve_settings(given, **kinds)
    codes = torch.randint(12, (210, *model.prior.code_shape), generator=draw)
    x = codes if discrete else torch.randn(210, 6, generator=draw)
    with seeded(1):
        prior = make_prior(settings, model, 0)
    rate = (CodeRate if discrete else LatentRate)(prior)
    plan = Plan(
        steps=STEPS, batch_size=BATCH, learning_rate=0.01, accumulate=rounds, gradient_clip=10.0, patience=5, seed=0
    )
    return trained(rate, rate_term, Codes(x), plan, Codes(x[:31]))


def trained(module: nn.Module, objective, data: Data, plan: Plan, held: Data) -> dict[str, Tensor]:
    history = train(module, objective, data, plan, validation=held)
    found = dict(module.state_dict())
    if isinstance(objective, nn.Module):
        found |= {f"objective.{name}": tensor for name, tensor in objective.state_dict().items()}
    clocks = ("seconds", "seconds_total", "images_per_second")
    last = {name: torch.tensor(float(value)) for name, value in history[-1].items() if name not in clocks}
    return found | {f"record.{name}": value for name, value in last.items()}


def fitted() -> dict:
    """What an estimator comes to that is fitted in a process group, in the words of a rank."""
    np.random.seed(rank())
    model = vaekit.VAE(**{**TINY, "random_state": None, "epochs": 2}).fit(images("vae")[0])
    weights = {name: tensor.contiguous() for name, tensor in model.model_.state_dict().items()}
    drawn = {"samples": torch.from_numpy(model.sample(5, random_state=1))}
    return {"weights": digest(weights, {}), "samples": digest(drawn, {}), "epochs": len(model.history_)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    rounds, folder = int(sys.argv[1]), Path(sys.argv[2])
    with joined():
        group = weakref.ref(dist.group.WORLD)
        for name in (*MODELS, *PRIORS):
            if rounds == 1 or name not in SEES_A_ROUND:
                found = weights(name, rounds)
                own = {key: value.contiguous() for key, value in found.items() if not key.startswith("record.")}
                torch.save({"weights": found, "digest": digest(own, {})}, folder / f"{name}-{rank()}.pt")
        torch.save(fitted(), folder / f"fit-{rank()}.pt")
    assert group() is None, "its threads would outlive the interpreter"
