"""`VectorQuantizer` in a loop of your own: images of digits as 4 x 4 codes out of 32.

python examples/parts/quantizer.py
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

from vaekit.parts import UniformPrior, VectorQuantizer


def train(steps: int = 400) -> list[float]:
    """The squared error per image, step by step."""
    torch.manual_seed(0)
    data, _ = load_digits(return_X_y=True)
    x = torch.tensor(data, dtype=torch.float32).view(-1, 1, 8, 8) / 16  # (1797, 1, 8, 8) in [0, 1]
    encoder = nn.Sequential(nn.Conv2d(1, 32, 4, 2, 1), nn.SiLU(), nn.Conv2d(32, 8, 1))
    decoder = nn.Sequential(nn.Conv2d(8, 32, 3, 1, 1), nn.SiLU(), nn.ConvTranspose2d(32, 1, 4, 2, 1))
    quantizer = VectorQuantizer(n_codes=32, code_dim=8, ema=0.95)
    quantizer.prime(encoder(x))  # the codebook starts at k-means of the encoder's outputs
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=2e-3)

    errors = []
    for _ in range(steps):
        batch = x[torch.randint(len(x), (128,))]
        draw = quantizer(encoder(batch))
        error = (decoder(draw.z[0]) - batch).square().flatten(1).sum(1).mean()
        commitment = draw.penalties["commitment"]
        loss = error + commitment.weight * commitment.value.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(error.item())

    quantizer.eval()
    codes = quantizer(encoder(x)).mode  # (1797, 4, 4) int64
    print(
        f"squared error {errors[0]:.2f} -> {errors[-1]:.2f}; {len(codes.unique())} of 32 codes in use; the first image:"
    )
    print(codes[0])
    rate = -UniformPrior(n_codes=32, grid=(4, 4)).log_prob(codes)
    print(f"{rate[0]:.1f} nats an image, before a prior is fitted to the codes")
    print(f"its codes as vectors: {tuple(quantizer.embed(codes[:1]).shape)}")
    return errors


if __name__ == "__main__":
    train()
