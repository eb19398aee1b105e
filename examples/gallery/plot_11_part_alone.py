"""
A part alone, in a loop of your own
===================================

Every part is an `nn.Module` and works without the rest. Here a vector quantizer stands between two small networks in a plain
PyTorch loop, with the networks, the loss and the optimizer your own.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn

from vaekit.parts import VectorQuantizer
from vaekit.tensors import total

torch.manual_seed(0)
x = torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 16  # (1797, 1, 8, 8)
quantizer = VectorQuantizer(n_codes=32, code_dim=4, ema=0.95)
encoder = nn.Sequential(nn.Conv2d(1, 32, 3, 2, 1), nn.SiLU(), nn.Conv2d(32, quantizer.features, 3, padding=1))
decoder = nn.Sequential(nn.ConvTranspose2d(4, 32, 4, 2, 1), nn.SiLU(), nn.Conv2d(32, 1, 3, padding=1))
optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=3e-3)
quantizer.prime(encoder(x).detach())  # codes start at k-means of encoder outputs

losses = []
for _ in range(400):
    batch = x[torch.randint(len(x), (128,))]
    draw = quantizer(encoder(batch))
    loss = (decoder(draw.z[0]) - batch).square().flatten(1).sum(1).mean() + total(draw.penalties)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
left.plot(losses)
left.set(xlabel="step", ylabel="squared error and commitment", yscale="log")
index = quantizer.eval()(encoder(x)).mode
right.bar(range(32), torch.bincount(index.flatten(), minlength=32).sort(descending=True).values)
right.set(xlabel="code, most used first", ylabel="times used")
plt.show()
