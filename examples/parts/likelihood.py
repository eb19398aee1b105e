"""The likelihoods in a loop of your own: what a small autoencoder's output means, and the nats that follow from it.

python examples/parts/likelihood.py
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

from vaekit.parts import BernoulliLikelihood, DiscretizedLogisticLikelihood, GaussianLikelihood


def train(steps: int = 300) -> dict[str, list[float]]:
    """For each likelihood -log p(x|z) in nats per image, step by step. They don't compare with one another."""
    data, _ = load_digits(return_X_y=True)
    x = torch.tensor(data, dtype=torch.float32).view(-1, 1, 8, 8) / 16  # (1797, 1, 8, 8) in [0, 1]
    learned = GaussianLikelihood()  # its variance follows the squared error of the batches
    likelihoods = {"gaussian": learned, "bernoulli": BernoulliLikelihood(), "logistic": DiscretizedLogisticLikelihood()}
    losses = {name: [] for name in likelihoods}
    for name, likelihood in likelihoods.items():
        torch.manual_seed(0)
        channels = likelihood.channels(1)  # a discretised logistic wants a mean and a scale for each pixel
        network = nn.Sequential(
            nn.Flatten(),
            nn.Linear(64, 12),
            nn.Linear(12, 128),
            nn.SiLU(),
            nn.Linear(128, 64 * channels),
            nn.Unflatten(1, (channels, 8, 8)),
        )
        optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
        for _ in range(steps):
            batch = x[torch.randint(len(x), (128,))]
            loss = -likelihood.log_prob(network(batch), batch).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[name].append(loss.item())
        error = (likelihood.mean(network(x)) - x).square().mean()
        print(f"{name}: {losses[name][0]:.1f} -> {losses[name][-1]:.1f} nats, squared error per pixel {error:.4f}")
    print(f"the gaussian's sigma, learned: {learned.variance.sqrt():.3f}")
    return losses


if __name__ == "__main__":
    train()
