"""`GatedPixelCNN` and `CausalTransformer` in a loop of your own: digits of four grey levels, pixel by pixel, for each class.

python examples/parts/causal.py
"""

import torch
from sklearn.datasets import load_digits

from vaekit.parts import AutoregressivePrior, CausalTransformer, GatedPixelCNN


def train(steps: int = 200) -> dict[str, list[float]]:
    """For each network nats per image, step by step."""
    data, labels = load_digits(return_X_y=True)
    codes = (torch.tensor(data) / 4.25).long().view(-1, 8, 8)  # (1797, 8, 8), values 0 to 3
    y = torch.tensor(labels)
    losses: dict[str, list[float]] = {"pixelcnn": [], "transformer": []}
    for name in losses:
        torch.manual_seed(0)
        if name == "pixelcnn":
            network = GatedPixelCNN(n_values=4, grid=(8, 8), channels=24, layers=3, n_classes=10)
        else:
            network = CausalTransformer(n_values=4, grid=(8, 8), channels=48, layers=2, n_classes=10)
        prior = AutoregressivePrior(network)  # what draws from it, and takes labels or sums over them
        optimizer = torch.optim.Adam(prior.parameters(), lr=3e-3)
        for _ in range(steps):
            index = torch.randint(len(codes), (32,))
            loss = -prior.log_prob(codes[index], y[index]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[name].append(loss.item())

        prior.eval()
        (four,) = prior.sample(1, torch.tensor([4]), top_p=0.95)
        uniform = 64 * torch.tensor(4.0).log()
        print(f"{name}: {losses[name][0]:.1f} -> {losses[name][-1]:.1f} nats (uniform: {uniform:.1f}); a new 4:")
        print("\n".join("".join(" .o#"[value] for value in row) for row in four.tolist()))
    return losses


if __name__ == "__main__":
    train()
