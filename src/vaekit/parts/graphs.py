"""What a part computes, for a runtime that knows neither torch nor vaekit."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn


class Graph(NamedTuple):
    """A computation that draws no random number, what goes in and comes out, and how to tell that it is right elsewhere.

    name: of its file. does: what it is for. of: the kinds of the parts in it. module: inputs -> outputs, for any number of
    samples.
    inputs, outputs: name -> meaning. draw: (n, rng) -> batches of n valid inputs. expected: inputs -> outputs in PyTorch.
    scale: an output's unit, below which differences do not count as larger. settled: as `expected`, given the codes found.
    """

    name: str
    does: str
    of: str
    module: nn.Module
    inputs: dict[str, str]
    outputs: dict[str, str]
    draw: Callable[[int, np.random.Generator], list[tuple[Tensor, ...]]]
    expected: Callable[..., tuple[Tensor, ...]]
    scale: np.ndarray | float = 1.0
    settled: Callable[..., tuple[Tensor, ...]] | None = None


def label_input(n_classes: int) -> tuple[dict[str, str], Callable[[int, np.random.Generator], tuple[Tensor, ...]]]:
    """The input y and its meaning, and what draws n labels; nothing where there are no classes."""
    if not n_classes:
        return {}, lambda n, rng: ()
    meaning = f"labels, indices of `classes`, 0 to {n_classes - 1}"
    return {"y": meaning}, lambda n, rng: (torch.from_numpy(rng.integers(n_classes, size=n)),)


def code_input(n_codes: int) -> dict[str, str]:
    """The input, or output, codes and its meaning."""
    return {"codes": f"code indices, 0 to {n_codes - 1}"}
