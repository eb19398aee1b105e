"""Objectives in a loop of your own: an `Autoencoder` put together from parts, and the beta-TCVAE's terms one by one.

python examples/parts/objective.py
"""

import torch
from sklearn.datasets import load_digits

from vaekit.models import Autoencoder, BetaTc
from vaekit.parts import GaussianLatent, GaussianLikelihood, StandardNormalPrior, make_networks
from vaekit.tensors import total


def train(steps: int = 300) -> list[float]:
    """The objective, step by step."""
    torch.manual_seed(0)
    data, _ = load_digits(return_X_y=True)
    x = torch.tensor(data, dtype=torch.float32).view(-1, 1, 8, 8) / 16  # (1797, 1, 8, 8) in [0, 1]
    latent, likelihood = GaussianLatent(latent_dim=5), GaussianLikelihood(variance=0.05)
    encoder, decoder, _ = make_networks(
        "mlp", (1, 8, 8), features=latent.features, latent_dim=5, out_channels=likelihood.channels(1), hidden=(128, 64)
    )
    model = Autoencoder(
        encoder=encoder,
        latent=latent,
        decoder=decoder,
        prior=StandardNormalPrior(latent_dim=5),
        likelihood=likelihood,
    )
    objective = BetaTc(n=len(x), beta=4.0, warmup=steps // 5)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    losses, terms = [], {}
    for step in range(steps):
        terms = objective(model(x[torch.randint(len(x), (128,))]), step)
        loss = total(terms)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    print(f"objective {losses[0]:.1f} -> {losses[-1]:.1f}")
    for name, term in terms.items():
        print(f"  {name:<18} {term.value.mean():8.2f} {term.unit}, weight {term.weight:g}")
    print(f"new images: {tuple(model.sample(4).shape)}")
    return losses


if __name__ == "__main__":
    train()
