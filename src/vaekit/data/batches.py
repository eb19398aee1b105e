"""What the loop is given: a data set on a device, or in a file from which its batches come there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from vaekit.data.augment import augmented
from vaekit.data.cache import ahead
from vaekit.data.mapped import Rows
from vaekit.world import drawn, piece, samples_at_once, seeded


class Mapped:
    """Memory-mapped images (N, H, W, C) for `Data`: what is asked for is read from the file and taken to the device."""

    def __init__(self, rows: np.ndarray | Rows, device: torch.device):
        self.rows, self.device, self.shape = rows, device, rows.shape

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Tensor | slice | int) -> Tensor:
        return torch.tensor(self.rows[index.cpu().numpy() if isinstance(index, Tensor) else index], device=self.device)


@dataclass(frozen=True)
class Data:
    """A data set on the device: x (N, H, W, C) uint8 or float, y (N,) int64 or None; or x in a file, from which batches are
    taken to the device. dynamic: pixels are probabilities of white, and drawn anew whenever they are looked at. augment: how
    else images are made anew each time, see `augmented`. log_det: (N,) float64 on the CPU, nats that a density loses where x
    stands for values in other units, such as a table's.
    """

    x: Tensor | Mapped
    y: Tensor | None = None
    dynamic: bool = field(default=False, kw_only=True)
    augment: tuple[str, ...] = field(default=(), kw_only=True)
    log_det: Tensor | None = field(default=None, kw_only=True)

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, index: Tensor | slice) -> tuple[Tensor, Tensor | None]:
        """Images (B, C, H, W) as floats in [0, 1] and their labels (B,)."""
        return self._finished(self.x[index], index)

    def at_once(self, module: nn.Module) -> int:
        """How many of them go through `module`, in eval mode, together; see `samples_at_once`."""
        with seeded(0):
            return samples_at_once(module, *self.batch(slice(0, 1)))

    def batches(self, indices: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor | None]]:
        """`batch` of each of `indices`; images in a file are read a few batches ahead, by a thread of their own."""
        if not isinstance(self.x, Mapped):
            yield from map(self.batch, indices)
            return
        read = ahead(self.x.__getitem__, indices, workers=1, depth=4)
        for x, index in zip(read, indices, strict=True):
            yield self._finished(x, index)

    def _finished(self, x: Tensor, index: Tensor | slice) -> tuple[Tensor, Tensor | None]:
        eight_bit, x = x.dtype == torch.uint8, to_input(x)
        if self.augment:
            x = augmented(x, self.augment, eight_bit=eight_bit)
        return _binarised(x) if self.dynamic else x, None if self.y is None else self.y[index]


def _binarised(x: Tensor) -> Tensor:
    """(B, C, H, W) probabilities of white -> black and white."""

    def draw(n: int) -> Tensor:  # for those of other parts of the batch, which are not here, as for black ones
        rows = piece()
        if rows is None:
            return torch.bernoulli(x)
        probabilities = x.new_zeros(n, *x.shape[2:], x.shape[1]).permute(0, 3, 1, 2)
        probabilities[rows.start : rows.stop] = x
        return torch.bernoulli(probabilities)

    return drawn(draw, len(x))


def to_input(x: Tensor) -> Tensor:
    """(B, H, W, C) stored images -> (B, C, H, W) floats; 8-bit values are scaled to [0, 1]. No copy but the scaling."""
    x = x.permute(0, 3, 1, 2)
    return x.float().div_(255) if x.dtype == torch.uint8 else x
