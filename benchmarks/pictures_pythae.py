"""pythae on the icons of `pictures`, in about the same minutes: its VAE and VQ-VAE, and the best of their samplers.

pythae has no networks for 48x48 and no classes: its models are given vaekit's default networks for these pictures, without what
vaekit does around them, and are trained by its trainer with Adam, a learning rate of 0.001 and batches of 128. The VAE is its
BetaVAE with beta = 0.01, about its squared error on the training icons, which is what its likelihood has most of. Half of the
VQ-VAE's minutes are its PixelCNN's. All other settings are pythae's own. Its IAF draws too slowly to be here: nothing in 20
minutes. Frechet distances and seams are those of `pictures`, by the same judge where it is the same machine's.
"""

import argparse
import contextlib
import io
import math
import time

import numpy as np
import torch
from torch import Tensor

from benchmarks._peers import Pythae, as_floats, untrained
from benchmarks.harness import Findings, progress
from benchmarks.icons import PLACE, open_icons
from benchmarks.pictures import seams
from vaekit.evaluation.distances import frechet_distance
from vaekit.evaluation.generation import get_judge

BETA, BATCH, LEARNING_RATE = 0.01, 128, 0.001
FLOW_EPOCHS = 100


def run(argv):
    parser = argparse.ArgumentParser(prog="python -m benchmarks pictures_pythae")
    parser.add_argument("--icons", default=PLACE, help="the package's folder of sizes")
    parser.add_argument("--minutes", type=float, default=20.0, help="of each model")
    asked = parser.parse_args(argv)
    train, test = open_icons(asked.icons)
    judge, _ = get_judge(train, test, verbose=True)
    x, held = as_floats(train), as_floats(test)
    embedded, rows = judge.embed(test.x), []
    for label, name, share in (("VAE", "vae", 1.0), ("VQ-VAE", "vqvae", 0.5)):
        seconds = 60 * asked.minutes
        torch.manual_seed(0)
        peer = Pythae(name, untrained(name, train, 0, "conv"), x, beta=BETA, batch=BATCH, learning_rate=LEARNING_RATE)
        epochs = train_for(peer, len(x), share * seconds)
        rebuilt = rebuild(peer, held)
        error = (rebuilt - held).square().mean().item()
        own = f"{frechet_distance(judge.embed(as_bytes(rebuilt)), embedded):.1f}"
        samplers = vae_samplers(peer) if name == "vae" else {"PixelCNN": pixelcnn(peer, x, (1 - share) * seconds)}
        for sampler, (made, told) in samplers.items():
            started = time.perf_counter()
            with quietly():
                made.fit(x, **told)
                drawn = made.sample(len(held), batch_size=100, return_gen=True)
            distance = frechet_distance(judge.embed(as_bytes(drawn)), embedded)
            took = time.perf_counter() - started
            progress(f"{label}, {sampler}: {distance:.1f}")
            rows.append(
                [
                    label,
                    epochs,
                    f"{error:.5f}",
                    f"{seams(as_bytes(rebuilt), test.x):.3f}",
                    own,
                    sampler,
                    f"{took:,.0f}",
                    f"{distance:.1f}",
                ]
            )
    columns = ["model", "epochs", "MSE", "seams", "reconstructions", "sampler", "sampler, s", "samples"]
    text = f"{asked.minutes:g} minutes of each model; the time of a VAE's sampler is not in them."
    return Findings(columns, rows, text)


def train_for(peer: Pythae, n: int, seconds: float) -> int:
    """Epochs until so many seconds are over."""
    started, epoch = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        peer.epoch(torch.randperm(n, generator=torch.Generator().manual_seed(epoch)))
        epoch += 1
    peer.model.eval()
    return epoch


@torch.no_grad()
def rebuild(peer: Pythae, x: Tensor) -> Tensor:
    """The reconstructions of x: of posterior means, or of codes."""
    parts = []
    for part in x.split(100):
        if peer.model.model_name == "VQVAE":
            parts.append(peer.model({"data": part}).recon_x)
        else:
            parts.append(peer.model.decoder(peer.model.encoder(part).embedding).reconstruction)
    return torch.cat(parts)


def as_bytes(x: Tensor) -> np.ndarray:
    """(N, C, H, W) in [0, 1] -> the 8-bit pictures (N, H, W, C)."""
    return x.clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).numpy()


def vae_samplers(peer: Pythae) -> dict:
    """pythae's samplers for a VAE by label, each with what its fit is told."""
    from pythae.samplers import GaussianMixtureSampler, MAFSampler, NormalSampler, TwoStageVAESampler

    flows = {"training_config": settings(FLOW_EPOCHS, peer.folder.name)}
    return {
        "normal": (NormalSampler(peer.model), {}),
        "mixture": (GaussianMixtureSampler(peer.model), {}),
        "MAF": (MAFSampler(peer.model), flows),
        "two-stage": (TwoStageVAESampler(peer.model), flows),
    }


def pixelcnn(peer: Pythae, x: Tensor, seconds: float):
    """pythae's PixelCNN over codes, and as many epochs as the seconds are enough for."""
    from pythae.samplers import PixelCNNSampler

    started = time.perf_counter()
    with quietly():
        PixelCNNSampler(peer.model).fit(x, training_config=settings(1, peer.folder.name))
    epochs = max(1, math.floor(seconds / (time.perf_counter() - started)))
    return PixelCNNSampler(peer.model), {"training_config": settings(epochs, peer.folder.name)}


def settings(epochs: int, folder: str):
    """Of a sampler's training."""
    from pythae.trainers import BaseTrainerConfig

    return BaseTrainerConfig(
        output_dir=folder,
        num_epochs=epochs,
        per_device_train_batch_size=BATCH,
        learning_rate=LEARNING_RATE,
        no_cuda=True,
    )


@contextlib.contextmanager
def quietly():
    """Without pythae's bars."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        yield
