"""`GaussianLatent` in a loop of your own: a VAE in one screen, its networks and its loss plain PyTorch.

python examples/parts/latent.py
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from vaekit.parts import GaussianLatent, StandardNormalPrior


def train(steps: int = 500) -> list[float]:
    """Nats per image, step by step: reconstruction (cross-entropy) plus rate."""
    torch.manual_seed(0)
    data, _ = load_digits(return_X_y=True)
    x = torch.tensor(data, dtype=torch.float32) / 16  # (1797, 64) in [0, 1]
    latent, prior = GaussianLatent(latent_dim=6), StandardNormalPrior(latent_dim=6)
    encoder = nn.Sequential(nn.Linear(64, 128), nn.SiLU(), nn.Linear(128, latent.features))
    decoder = nn.Sequential(nn.Linear(6, 128), nn.SiLU(), nn.Linear(128, 64))
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=3e-3)

    losses = []
    for _ in range(steps):
        batch = x[torch.randint(len(x), (128,))]
        draw = latent(encoder(batch), samples=2)  # z (2, 128, 6), with log q(z|x) beside it
        logits = decoder(draw.z)
        distortion = F.binary_cross_entropy_with_logits(logits, batch.expand_as(logits), reduction="none").sum(-1)
        rate = draw.log_q - prior.log_prob(draw.code)
        loss = (distortion + rate).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    means = latent.eval()(encoder(x)).mode
    print(f"nats per image {losses[0]:.1f} -> {losses[-1]:.1f}; latents (posterior means) {tuple(means.shape)}")
    print(f"new images: {tuple(torch.sigmoid(decoder(prior.sample(4))).shape)}")
    return losses


if __name__ == "__main__":
    train()
