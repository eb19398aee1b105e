"""`FlowPrior` in a loop of your own: the density of six principal components of digits, for each class.

python examples/parts/flow.py
"""

import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from vaekit.parts import FlowPrior


def train(steps: int = 400) -> list[float]:
    """Nats per sample, step by step."""
    torch.manual_seed(0)
    data, labels = load_digits(return_X_y=True)
    z = torch.tensor(PCA(6, random_state=0).fit_transform(data), dtype=torch.float32)  # (1797, 6)
    y = torch.tensor(labels)
    flow = FlowPrior(latent_dim=6, layers=6, channels=32, n_classes=10)
    flow.location.copy_(z.mean(0))
    flow.scale.copy_(z.std(0))
    optimizer = torch.optim.Adam(flow.parameters(), lr=3e-3)

    losses = []
    for _ in range(steps):
        index = torch.randint(len(z), (128,))
        loss = -flow.log_prob(z[index], y[index]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    with torch.no_grad():
        threes = flow.sample(5, torch.full((5,), 3), temperature=0.8)
        per_class = torch.stack([flow.log_prob(z, torch.full_like(y, label)) for label in range(10)])
    print(f"nats {losses[0]:.2f} -> {losses[-1]:.2f}; five new threes {tuple(threes.shape)}")
    print(f"the class with the highest density is the right one for {(per_class.argmax(0) == y).float().mean():.1%}")
    return losses


if __name__ == "__main__":
    train()
