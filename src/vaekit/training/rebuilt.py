"""A module as a file describes it, which may come from anybody, held against the tensors that are in the file."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vaekit.world import seeded

MAKING = (
    torch.empty,
    torch.zeros,
    torch.ones,
    torch.full,
    torch.rand,
    torch.randn,
    torch.eye,
    torch.arange,
    torch.randperm,
    Tensor.repeat,
)
SPARE_TIMES, SPARE = 8, 2**22  # values that are made on the way to a module, at most: of its own, and besides

M = TypeVar("M", bound=nn.Module)


class _AtMost(TorchFunctionMode):
    """In the block tensors of at most so many `values` together are made; what is larger is refused before it has memory."""

    def __init__(self, values: int):
        self.left = values

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in MAKING:
            first, sizes = (args[0].numel(), args[1:]) if func is Tensor.repeat else (1, args)
            sizes = kwargs.get("size", sizes[0] if sizes and isinstance(sizes[0], tuple | list) else sizes)
            sizes = [size for size in sizes if isinstance(size, int)]
            asked = first * max([1, math.prod(sizes), *sizes])  # a range's end is one of two sizes
            self.left -= asked**2 if func is torch.eye else asked
            if self.left < 0:
                raise ValueError("what it says of itself would be far larger than its tensors are")
        return func(*args, **kwargs)


def rebuilt(make: Callable[[], M], tensors: dict[str, Tensor]) -> tuple[M, str | None]:
    """The module of `make`, as a file describes it, and what keeps `tensors`, the file's, from being its state: see `mismatch`.
    Raises ValueError where it would take far more memory than `tensors`, whatever the file says. On torch's meta device it
    would take none at all, but seconds, since many of its functions import the compiler.
    """
    values = sum(tensor.numel() for tensor in tensors.values())
    with seeded(0), _AtMost(SPARE_TIMES * values + SPARE):  # what is drawn is replaced
        module = make()
    return module, mismatch(tensors, module)


def mismatch(tensors: dict[str, Tensor], module: nn.Module) -> str | None:
    """What keeps `tensors` from being the state of `module`: the first difference of name, shape or type, in words."""
    state = module.state_dict()
    for name in sorted({*state, *tensors}):
        if name not in tensors or name not in state:
            return f"{name} is {'missing' if name in state else 'not of this model'}"
        for what, found, expected in (
            ("shape", tuple(tensors[name].shape), tuple(state[name].shape)),
            ("type", tensors[name].dtype, state[name].dtype),
        ):
            if found != expected:
                return f"{name} has {what} {found}, expected {expected}"
    return None


def check_finite(path: Path, tensors: dict[str, Tensor]) -> None:
    """Raises ValueError where a number of `tensors`, read from `path`, is NaN or infinite."""
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise ValueError(f"{path} is damaged: {name} holds NaN or infinity; train this model again")
