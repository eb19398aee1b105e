"""`make_networks` and `Condition` in a loop of your own: an autoencoder that is told the class and keeps the style.

python examples/parts/networks.py
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

from vaekit.parts import Condition, make_networks


def train(steps: int = 200) -> list[float]:
    """The squared error per image, step by step."""
    torch.manual_seed(0)
    data, labels = load_digits(return_X_y=True)
    x = torch.tensor(data, dtype=torch.float32).view(-1, 1, 8, 8) / 16  # (1797, 1, 8, 8) in [0, 1]
    y = torch.tensor(labels)
    encoder, decoder, _ = make_networks("conv", (1, 8, 8), features=4, latent_dim=4, out_channels=1, n_classes=10)
    refine = Condition(n_classes=10, channels=1)  # a contrast and a brightness for each class
    optimizer = torch.optim.Adam(nn.ModuleList([encoder, decoder, refine]).parameters(), lr=2e-3)

    errors = []
    for _ in range(steps):
        index = torch.randint(len(x), (64,))
        batch, told = x[index], y[index]
        rebuilt = refine(decoder(encoder(batch, told), told), told)
        error = (rebuilt - batch).square().flatten(1).sum(1).mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())

    with torch.no_grad():  # the style of the first digit, as every class
        style = encoder(x[:1], y[:1]).expand(10, -1)
        classes = torch.arange(10)
        images = refine(decoder(style, classes), classes)
    print(f"squared error {errors[0]:.2f} -> {errors[-1]:.2f}; one style in ten classes: {tuple(images.shape)}")
    return errors


if __name__ == "__main__":
    train()
