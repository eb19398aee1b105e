"""Training images that differ a little whenever they are looked at, so that few are not learned by heart."""

from __future__ import annotations

import torch
from torch import Tensor

from vaekit.messages import nearest
from vaekit.world import drawn

AUGMENTATIONS = ("shift", "flip", "colour")
SHIFT = 16  # a shift is at most the side over this
GAMMA = 0.3  # the logarithm of the power of a channel's values, at most


def read_augment(text: str | None) -> tuple[str, ...]:
    """The augmentations that `text` names, with commas between, in the order of AUGMENTATIONS; none of None. Raises ValueError
    for others.
    """
    names = [] if text is None else [name.strip() for name in text.split(",")]
    for name in names:
        if name not in AUGMENTATIONS:
            known = ", ".join(AUGMENTATIONS)
            raise ValueError(
                f"augment must be of {known}, with commas between, got {name!r}{nearest(name, AUGMENTATIONS)}"
            )
    return tuple(name for name in AUGMENTATIONS if name in names)


def augmented(x: Tensor, names: tuple[str, ...], *, eight_bit: bool) -> Tensor:
    """(B, C, H, W) in [0, 1] -> the same, each image in its own way, drawn from torch's random numbers.

    shift: by whole pixels, up to a sixteenth of the side in each direction, what comes in repeats the border. flip: left and
    right change places for every other image. colour: the values of each channel, but of alpha, to a power between 0.74 and
    1.35, which leaves black and white as they are. eight_bit: values are multiples of 1/255, and stay such.
    """
    for name in names:
        x = {"shift": _shifted, "flip": _flipped, "colour": _coloured}[name](x)
    return x.mul(255).round_().div_(255) if eight_bit and "colour" in names else x


def _uniform(x: Tensor, k: int) -> Tensor:
    """(B, k) in [0, 1)."""
    return drawn(lambda n: torch.rand(n, k, device=x.device), len(x))


def _shifted(x: Tensor) -> Tensor:
    for u, axis in zip(_uniform(x, 2).unbind(1), (2, 3), strict=True):
        side = x.shape[axis]
        most = max(1, side // SHIFT)
        by = (u * (2 * most + 1)).long() - most
        index = (torch.arange(side, device=x.device) - by[:, None]).clamp_(0, side - 1)
        x = x.gather(axis, index.view(len(x), 1, *((side, 1) if axis == 2 else (1, side))).expand_as(x))
    return x


def _flipped(x: Tensor) -> Tensor:
    return torch.where(_uniform(x, 1).view(-1, 1, 1, 1) < 0.5, x.flip(3), x)


def _coloured(x: Tensor) -> Tensor:
    channels = x.shape[1] - (x.shape[1] % 2 == 0)  # 2 and 4 have alpha
    power = (GAMMA * (2 * _uniform(x, channels) - 1)).exp().view(-1, channels, 1, 1)
    return torch.cat([x[:, :channels].clamp(min=0).pow(power), x[:, channels:]], dim=1)
