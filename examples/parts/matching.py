"""`MatchingPrior` in a loop of your own: new digits of each class, drawn in the plane of their six principal components.

python examples/parts/matching.py
"""

import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from vaekit.parts import MatchingPrior


def train(steps: int = 400) -> list[float]:
    """Squared errors of the velocity, step by step."""
    torch.manual_seed(0)
    data, labels = load_digits(return_X_y=True)
    z = torch.tensor(PCA(6, random_state=0).fit_transform(data), dtype=torch.float32)  # (1797, 6)
    y = torch.tensor(labels)
    prior = MatchingPrior(shape=(6,), channels=16, layers=1, n_classes=10)
    prior.location.copy_(z.mean(0))
    prior.scale.copy_(z.std(0))
    optimizer = torch.optim.Adam(prior.parameters(), lr=3e-3)

    losses = []
    for _ in range(steps):
        index = torch.randint(len(z), (128,))
        loss = prior.error(prior.field, z[index], y[index]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    prior.eval()
    with torch.no_grad():
        threes = prior.sample(200, torch.full((200,), 3), guidance=2.0)
        nats = prior.log_prob(z, y).mean()
    near = torch.cdist(threes, z).argmin(1)
    print(f"squared error {losses[0]:.2f} -> {losses[-1]:.2f}; log p at least {nats:.2f} nats")
    print(f"{(y[near] == 3).float().mean():.0%} of 200 new threes have a three as the nearest digit")
    return losses


if __name__ == "__main__":
    train()
