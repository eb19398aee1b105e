"""The graphs of a model: one a file, each with what it has to agree with."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor

from vaekit.data.batches import to_input
from vaekit.export.modules import Decoder, Encoder, Lookup
from vaekit.fitted import Fitted
from vaekit.parts.graphs import Graph, code_input, label_input

TOLERANCE = 1e-4  # of the largest value of an output, or of 1 where that is larger


class Frozen:
    """A fitted model on the CPU and in eval mode: what its files have to agree with, in the layout of `export_onnx`, and
    random inputs that are valid.
    """

    def __init__(self, model: Fitted):
        self.model = model
        self.module = copy.deepcopy(model.module).cpu().eval().requires_grad_(False)
        self.is_table, self.quantised = len(model.format.shape) == 1, model.discrete
        self.table = model.format.columns if self.is_table else None
        self.units = "in the units of the data" if self.is_table else "in [0, 1], which is 8-bit values / 255"

    def samples(self, n: int, rng: np.random.Generator) -> Tensor:
        shape = (n, *self.model.format.shape)
        if self.table is not None:
            return torch.from_numpy(self.table.restore(rng.standard_normal(shape)))
        return torch.from_numpy(rng.random(shape, dtype=np.float32))

    def scale(self) -> np.ndarray | float:
        """What 1 in the module's units is in the samples' own."""
        if self.table is None:
            return 1.0
        zero, one = self.table.restore(np.array([[0.0], [1.0]]) + np.zeros(self.model.format.shape))
        return one - zero

    def codes(self, n: int, rng: np.random.Generator) -> Tensor:
        """z (n, D) from N(0, I), or uniform code indices (n, h, w)."""
        shape = (n, *self.module.prior.code_shape)
        if self.quantised:
            return torch.from_numpy(rng.integers(self.module.latent.n_codes, size=shape))
        return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))

    def encode(self, x: Tensor, *y: Tensor, found: np.ndarray | None = None) -> tuple[Tensor, ...]:
        """The encoder's outputs. `found`: codes, taken where they are as near as the nearest ones."""
        h = self.module.encoder(to_input(self.model.format.stored(x.numpy())), *y)
        latent = self.module.latent
        draw = latent(h)
        if not self.quantised:
            return draw.moments or (draw.mode,)
        codes = draw.mode
        if found is not None:
            codes = torch.from_numpy(found)
            codes = torch.where(latent.as_near(h, codes, draw.mode, TOLERANCE), codes, draw.mode)
        return codes, *self.look_up(codes)

    def look_up(self, codes: Tensor) -> tuple[Tensor]:
        return (self.module.latent.embed(codes).movedim(1, -1),)

    def decode(self, code: Tensor, *y: Tensor) -> tuple[Tensor]:
        out = self.module.decode(code, *y)
        if self.table is None:
            return (out.permute(0, 2, 3, 1),)
        rows = self.model.format.values(out)
        return (torch.from_numpy(np.where(self.table.constant, self.table.mean, rows)),)


VECTORS = {"z": "codebook vectors, position by position"}


def graphs_of(model: Fitted) -> list[Graph]:
    """Those of the files of `model`, the prior's last. Raises ValueError for a prior that can't be exported."""
    frozen = Frozen(model)
    prior = frozen.module.prior.graph()
    graphs = [_encoder(frozen), _decoder(frozen), *([_lookup(frozen)] if frozen.quantised else [])]
    return graphs if prior is None else [*graphs, prior]


def _encoder(frozen: Frozen) -> Graph:
    labels, label = label_input(frozen.module.n_classes)

    def draw(n: int, rng: np.random.Generator) -> list[tuple[Tensor, ...]]:
        """Random values, and what the model itself takes for data."""
        x, y = frozen.samples(n, rng), label(n, rng)
        return [(x, *y), (frozen.decode(frozen.codes(n, rng), *y)[0].to(x.dtype), *y)]

    return Graph(
        "encoder",
        "samples to codes and their vectors" if frozen.quantised else "samples to the moments of their latents",
        f"{_kind(frozen.module.encoder)} and {_kind(frozen.module.latent)}",
        Encoder(frozen.module, frozen.table),
        {"x": f"samples, {frozen.units}", **labels},
        _encoded(frozen),
        draw,
        frozen.encode,
        settled=frozen.encode if frozen.quantised else None,
    )


def _encoded(frozen: Frozen) -> dict[str, str]:
    """The encoder's outputs and their meaning."""
    latent = frozen.module.latent
    if frozen.quantised:
        return code_input(latent.n_codes) | VECTORS
    y = torch.zeros(1, dtype=torch.int64)
    if len(frozen.encode(frozen.samples(1, np.random.default_rng(0)), *([y] if frozen.module.n_classes else []))) == 1:
        return {"z": "mode of q(z|x)"}
    return {"mean": "mean of q(z|x)", "log_var": "natural logarithm of the variance of q(z|x)"}


def _decoder(frozen: Frozen) -> Graph:
    labels, label = label_input(frozen.module.n_classes)

    def draw(n: int, rng: np.random.Generator) -> list[tuple[Tensor, ...]]:
        y = label(n, rng)
        return [(frozen.codes(n, rng), *y), (frozen.encode(frozen.samples(n, rng), *y)[0], *y)]

    latents = {"z": "latents; N(0, I) under the plain prior"}
    return Graph(
        "decoder",
        "codes to samples" if frozen.quantised else "latents to samples",
        f"{_kind(frozen.module.decoder)} and {_kind(frozen.module.likelihood)}",
        Decoder(frozen.module, frozen.table),
        {**(code_input(frozen.module.latent.n_codes) if frozen.quantised else latents), **labels},
        {"x": f"mean of p(x|z), {frozen.units}"},
        draw,
        frozen.decode,
        scale=frozen.scale(),
    )


def _lookup(frozen: Frozen) -> Graph:
    latent = frozen.module.latent
    return Graph(
        "codebook",
        "codes to their vectors",
        _kind(latent),
        Lookup(latent),
        code_input(latent.n_codes),
        VECTORS,
        lambda n, rng: [(frozen.codes(n, rng),)],
        frozen.look_up,
    )


def _kind(part) -> str:
    return type(part).__name__
