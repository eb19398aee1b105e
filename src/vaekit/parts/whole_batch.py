"""Layers that make an image's output depend on the batch, or draw for it: torch's own, which take a batch that is divided among
ranks, or looked at in rounds, for the one batch that it is.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaekit.messages import filled
from vaekit.ranks import size, summed_with_gradient
from vaekit.tensors import widened
from vaekit.world import drawn, piece


class BatchNorm2d(nn.BatchNorm2d):
    """torch's, by the mean and variance of the images on all ranks; of several rounds each is by itself."""

    asks_ranks = True  # within a pass, which then can't be compiled

    def forward(self, input: Tensor) -> Tensor:
        part = piece()
        if not self.training or size() == 1 or part is None:
            return super().forward(input)
        channels = widened(input).movedim(1, 0).flatten(1)  # (C, N*H*W)
        count = channels.shape[1] // len(input) * sum(part.beside)
        mean = summed_with_gradient(channels.sum(1)) / count
        variance = summed_with_gradient((channels - mean[:, None]).square().sum(1)) / count
        with torch.no_grad():
            filled(self.num_batches_tracked).add_(1)
            filled(self.running_mean).lerp_(mean, filled(self.momentum))
            filled(self.running_var).lerp_(variance * (count / (count - 1)), filled(self.momentum))
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (input - mean.view(1, -1, 1, 1)) * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)


class Dropout(nn.Dropout):
    """torch's, whose zeros don't depend on how the batch is divided."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or not self.p or piece() is None:
            return super().forward(input)
        return input * drawn(lambda n: F.dropout(input.new_ones(n, *input.shape[1:]), self.p), len(input))


class Dropout2d(nn.Dropout2d):
    """torch's, whose zeros don't depend on how the batch is divided."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or not self.p or piece() is None:
            return super().forward(input)
        images, channels = input.shape[:2]
        return input * drawn(lambda n: F.dropout2d(input.new_ones(n, channels, 1, 1), self.p), images)
