"""Encoders and decoders. An encoder maps images (B, C, H, W) in [0, 1] to features, a decoder maps latents back.

Every network comes as a pair: `make_networks` builds one for an image shape, sized for a Gaussian latent (a vector) or
for a quantizer (a grid of vectors). Labels y (B,) int64 enter each block through `Condition`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaekit.messages import filled
from vaekit.parts.strided import block, suits
from vaekit.parts.whole_batch import BatchNorm2d
from vaekit.ranks import size

ARCHITECTURES = ("conv", "resnet", "mlp", "wang2023")
SMALLEST_SIDE = 8
SMALL = 16  # pixels of the shorter side, from which the first step of a convolutional network is one of 4x4
PICTURE = 32  # pixels of the shorter side, from which an image is a picture: what is below is a digit or a sign
DENSE = 208  # width of the one dense layer between a convolutional stack and a vector of latents


class Condition(nn.Module):
    """Scales and shifts the channels of h (N, C, ...) by label: h * (1 + scale[y]) + shift[y].

    It stands in every block of encoder and decoder, so that no layer has to carry the label through. With n_classes=0
    it is the identity and owns no parameters.
    """

    def __init__(self, *, n_classes: int, channels: int):
        super().__init__()
        self.n_classes = n_classes
        if n_classes:
            self.table = nn.Embedding(n_classes, 2 * channels)
            nn.init.normal_(self.table.weight, std=0.1)

    def forward(self, h: Tensor, y: Tensor | None) -> Tensor:
        """h (N, C, ...), y (N,) -> h, scaled and shifted; as it is without classes."""
        factors = self.factors(y)
        if factors is None:
            return h
        scale, shift = (factor.view(len(h), -1, *[1] * (h.dim() - 2)) for factor in factors)
        return torch.addcmul(shift, h, scale)

    def factors(self, y: Tensor | None) -> tuple[Tensor, Tensor] | None:
        """1 + scale[y] and shift[y], each (N, channels); None without classes."""
        if not self.n_classes:
            return None
        scale, shift = self.table(y).chunk(2, dim=1)
        return 1 + scale, shift


class MLP(nn.Module):
    """Linear layers with SiLU and conditioning between them: (N, in_features) -> (N, out_features)."""

    def __init__(self, *, in_features: int, hidden: tuple[int, ...], out_features: int, n_classes: int = 0):
        super().__init__()
        widths = (in_features, *hidden)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths, hidden, strict=False))
        self.conditions = nn.ModuleList(Condition(n_classes=n_classes, channels=width) for width in hidden)
        self.head = nn.Linear(widths[-1], out_features)

    def forward(self, h: Tensor, y: Tensor | None = None) -> Tensor:
        for layer, condition in zip(self.layers, self.conditions, strict=True):
            h = F.silu(condition(layer(h), y))
        return self.head(h)


class MLPEncoder(nn.Module):
    """Flattens images and maps them to (B, features), or to `cells` vectors as a grid (B, features, 1, cells)."""

    keeps_places = False  # a cell of its grid is of the whole image

    def __init__(self, *, shape, features, hidden, cells: int | None, n_classes: int):
        super().__init__()
        self.features, self.cells = features, cells
        self.net = MLP(
            in_features=math.prod(shape), hidden=hidden, out_features=features * (cells or 1), n_classes=n_classes
        )

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        h = self.net(x.flatten(1), y)
        return h if self.cells is None else h.view(len(h), self.features, 1, self.cells)


class MLPDecoder(nn.Module):
    """Maps latents (N, D) or (N, D, 1, cells) to images (N, C, H, W)."""

    def __init__(self, *, latent_features: int, hidden, out_shape, n_classes: int):
        super().__init__()
        self.out_shape = tuple(out_shape)
        self.net = MLP(
            in_features=latent_features, hidden=hidden, out_features=math.prod(out_shape), n_classes=n_classes
        )

    def prime(self, out: Tensor) -> None:
        """Starts the decoder at `out` (C,) for every pixel, before the first step."""
        self.net.head.bias.data.copy_(out.repeat_interleave(math.prod(self.out_shape[1:])))

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return self.net(z.flatten(1), y).view(len(z), *self.out_shape)


class ResidualBlock(nn.Module):
    """h + conv(act(condition(conv(act(norm(h)))))), 3x3 convolutions; norm (GroupNorm) is optional."""

    def __init__(self, *, channels: int, n_classes: int, norm: bool, branches: int):
        super().__init__()
        self.norm = nn.GroupNorm(math.gcd(8, channels), channels) if norm else nn.Identity()
        self.spread = nn.Conv2d(channels, channels, 3, padding=1)
        self.condition = Condition(n_classes=n_classes, channels=channels)
        self.gather = nn.Conv2d(channels, channels, 3, padding=1)
        # The residual stream keeps its scale at the start, however many blocks add to it.
        with torch.no_grad():
            self.gather.weight.mul_(branches**-0.5)

    def forward(self, h: Tensor, y: Tensor | None = None) -> Tensor:
        return h + self.gather(F.silu(self.condition(self.spread(F.silu(self.norm(h))), y)))


class Down(nn.Module):
    """Space to depth: each patch of `factor` x `factor` pixels becomes one cell; borders are padded with zeros."""

    def __init__(self, in_channels: int, out_channels: int, factor: int):
        super().__init__()
        self.factor = factor
        self.mix = nn.Conv2d(in_channels * factor**2, out_channels, 1)

    def forward(self, h: Tensor) -> Tensor:
        below, right = -h.shape[2] % self.factor, -h.shape[3] % self.factor
        if below or right:
            h = F.pad(h, (0, right, 0, below))
        return self.mix(F.pixel_unshuffle(h, self.factor))


class Up(nn.Module):
    """Depth to space: each cell becomes `factor` x `factor` pixels, cropped to `size`. The mirror of `Down`.

    seamless: a cell's pixels come of the cells around it, too, and start alike (Aitken et al. 2017), so that no grid of cells
    shows in the image.
    """

    def __init__(
        self, in_channels: int, out_channels: int, factor: int, size: tuple[int, int], *, seamless: bool = False
    ):
        super().__init__()
        self.factor, self.size = factor, size
        self.mix = nn.Conv2d(in_channels, out_channels * factor**2, 3 if seamless else 1, padding=int(seamless))
        if seamless:
            with torch.no_grad():
                for values in (self.mix.weight, filled(self.mix.bias)):
                    values.copy_(values[:: factor**2].repeat_interleave(factor**2, dim=0))

    def forward(self, h: Tensor) -> Tensor:
        h = F.pixel_shuffle(self.mix(h), self.factor)
        return h[:, :, : self.size[0], : self.size[1]]


class Stage(NamedTuple):
    """One resolution of a convolutional network: `factor` down from the stage before, then `depth` blocks."""

    factor: int
    channels: int
    depth: int


def _sizes(size: tuple[int, int], stages: tuple[Stage, ...]) -> list[tuple[int, int]]:
    """The spatial size before the first stage and after each."""
    sizes = [size]
    for stage in stages:
        sizes.append((-(-sizes[-1][0] // stage.factor), -(-sizes[-1][1] // stage.factor)))
    return sizes


class ConvEncoder(nn.Module):
    """Stages of residual blocks, then a linear map to (B, features), or a 1x1 one to a grid (B, features, h, w)."""

    def __init__(
        self, *, shape, stages: tuple[Stage, ...], dense: int, features: int, spatial: bool, n_classes: int, norm: bool
    ):
        super().__init__()
        channels, *size = shape
        depth = sum(stage.depth for stage in stages)
        layers: list[nn.Module] = []
        for stage in stages:
            layers.append(Down(channels, stage.channels, stage.factor))
            channels = stage.channels
            layers += [
                ResidualBlock(channels=channels, n_classes=n_classes, norm=norm, branches=depth)
                for _ in range(stage.depth)
            ]
        self.layers = nn.ModuleList(layers)
        height, width = _sizes(tuple(size), stages)[-1]
        self.spatial = spatial
        if spatial:
            self.head: nn.Module = nn.Conv2d(channels, features, 1)
        else:
            self.head = MLP(
                in_features=channels * height * width,
                hidden=(dense,) if dense else (),
                out_features=features,
                n_classes=n_classes,
            )

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        h = x
        for layer in self.layers:
            h = layer(h, y) if isinstance(layer, ResidualBlock) else layer(h)
        h = F.silu(h)
        return self.head(h) if self.spatial else self.head(h.flatten(1), y)


class ConvDecoder(nn.Module):
    """The encoder's stages in reverse, from latents (N, D) or grids (N, D, h, w), flat or not, to images (N, C, H, W)."""

    def __init__(
        self,
        *,
        out_shape,
        stages: tuple[Stage, ...],
        dense: int,
        latent_dim: int,
        spatial: bool,
        n_classes: int,
        norm: bool,
        seamless: bool,
    ):
        super().__init__()
        out_channels, *size = out_shape
        sizes = _sizes(tuple(size), stages)
        top, depth = stages[-1].channels, sum(stage.depth for stage in stages)
        self.spatial, self.start = spatial, (top, *sizes[-1])
        if spatial:
            self.stem: nn.Module = nn.Conv2d(latent_dim, top, 1)
        else:
            self.stem = MLP(
                in_features=latent_dim,
                hidden=(dense,) if dense else (),
                out_features=math.prod(self.start),
                n_classes=n_classes,
            )
        layers: list[nn.Module] = []
        below = [out_channels, *(stage.channels for stage in stages[:-1])]
        for stage, channels, target in reversed(list(zip(stages, below, sizes, strict=False))):
            layers += [
                ResidualBlock(channels=stage.channels, n_classes=n_classes, norm=norm, branches=depth)
                for _ in range(stage.depth)
            ]
            last = seamless and target == sizes[0]
            layers += [nn.SiLU(), Up(stage.channels, channels, stage.factor, target, seamless=last)]
        self.layers = nn.ModuleList(layers)

    def prime(self, out: Tensor) -> None:
        """Starts the decoder at `out` (C,) for every pixel, before the first step."""
        last = self.layers[-1]
        assert isinstance(last, Up) and last.mix.bias is not None
        last.mix.bias.data.copy_(out.repeat_interleave(last.factor**2))

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        if self.spatial:
            h = self.stem(z.view(len(z), -1, *self.start[1:]))  # a grid of Gaussians comes as a vector
        else:
            h = self.stem(z, y).view(-1, *self.start)
        h = h.contiguous(memory_format=torch.channels_last)
        for layer in self.layers:
            h = layer(h, y) if isinstance(layer, ResidualBlock) else layer(h)
        return h


def grid_of(architecture: str, shape: tuple[int, int, int]) -> tuple[int, int]:
    """The grid (h, w) between the `spatial` networks called "conv" or "resnet" for images of `shape` (C, H, W)."""
    return _sizes(shape[1:], _stages(architecture, *shape[1:], spatial=True))[-1]


def _stages(architecture: str, height: int, width: int, *, spatial: bool) -> tuple[Stage, ...]:
    """`conv`: one large step to a coarse grid, where the arithmetic is dense and cheap, then halvings to 4x4 cells. `resnet`:
    the same, twice as deep, and on the coarser grids of a vector twice as wide.
    """
    first, deep = 4 if min(height, width) >= SMALL else 2, 2 if architecture == "resnet" else 1
    if spatial:
        return (Stage(first, 64, 2 * deep),)
    cells = min(math.ceil(height / first), math.ceil(width / first))
    halvings = max(0, math.ceil(math.log2(cells / 4)))
    return (Stage(first, 32, deep), *[Stage(2, 64 * deep, deep)] * halvings)


class _Wang2023(nn.Module):
    """What the report's four networks share: the condition is ONE number, the label, appended to a feature vector."""

    def __init__(self, n_classes: int):
        super().__init__()
        self.n_classes = n_classes

    def _append(self, h: Tensor, y: Tensor | None) -> Tensor:
        return h if y is None or not self.n_classes else torch.cat([h, y.to(h)[:, None]], dim=1)


def _down_block(a: int, b: int) -> list[nn.Module]:
    return [nn.Conv2d(a, b, 3, stride=2, padding=1), BatchNorm2d(b), nn.ReLU()]


def _up_block(a: int, b: int, kernel: int) -> list[nn.Module]:
    return [nn.ConvTranspose2d(a, b, kernel, stride=2, padding=1, output_padding=1), BatchNorm2d(b), nn.ReLU()]


class _Blocks(nn.Sequential):
    """The report's layers in a row. In a compiled training step on the CPU those that suit it are matrix products."""

    def forward(self, input: Tensor, y: Tensor | None = None) -> Tensor:
        h = input
        if (
            not (self.training and torch.compiler.is_compiling())
            or h.device.type != "cpu"
            or torch.is_autocast_enabled("cpu")
            or size() > 1
        ):
            return super().forward(h)
        layers = list(self)
        while layers:
            layer = layers.pop(0)
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and layer.stride == (2, 2) and suits(h, layer):
                norm, _ = layers.pop(0), layers.pop(0)  # and its ReLU
                assert isinstance(norm, BatchNorm2d)
                h = block(h, layer, norm)
            else:
                h = layer(h)
        return h


class Wang2023Encoder(_Wang2023):
    """The report's VAE encoder, 1-8-32-128-256 (Wang 2023): (B, 1, 28, 28) -> (B, 2D)."""

    def __init__(self, *, features: int, n_classes: int):
        super().__init__(n_classes)
        self.body = _Blocks(
            *_down_block(1, 8), *_down_block(8, 32), *_down_block(32, 128), *_down_block(128, 256), nn.Flatten()
        )
        self.head = nn.Linear(1024 + bool(n_classes), features)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return self.head(self._append(self.body(x), y))


class Wang2023Decoder(_Wang2023):
    """The report's VAE decoder, 256-128-32-8-1 (Wang 2023): (N, D) -> (N, 1, 28, 28), BatchNorm and ReLU at the end."""

    def __init__(self, *, latent_dim: int, n_classes: int):
        super().__init__(n_classes)
        self.body = _Blocks(
            nn.Linear(latent_dim + bool(n_classes), 1024),
            nn.Unflatten(1, (256, 2, 2)),
            *_up_block(256, 128, 3),
            *_up_block(128, 32, 2),
            *_up_block(32, 8, 3),
            *_up_block(8, 1, 3),
        )

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return self.body(self._append(z, y))


def _wang2023_vq(code_dim: int) -> tuple[nn.Module, nn.Module]:
    """The report's VQ-VAE networks, 1-64-256-D and back (Wang 2023): 28x28 images and 7x7 grids."""
    encoder = _Blocks(*_down_block(1, 64), *_down_block(64, 256), nn.Conv2d(256, code_dim, 3, padding=1))
    decoder = _Blocks(
        nn.Conv2d(code_dim, 256, 3, padding=1),
        BatchNorm2d(256),
        nn.ReLU(),
        *_up_block(256, 64, 3),
        *_up_block(64, 1, 3),
    )
    return encoder, decoder


class Networks(NamedTuple):
    """An encoder, its decoder, and the code grid (h, w) between them (None for a vector)."""

    encoder: nn.Module
    decoder: nn.Module
    grid: tuple[int, int] | None


def make_networks(
    architecture: str,
    shape: tuple[int, int, int],
    *,
    features: int,
    latent_dim: int,
    out_channels: int,
    spatial: bool = False,
    n_classes: int = 0,
    hidden: tuple[int, ...] = (512, 256),
    dense: int = DENSE,
    cells: int = 8,
) -> Networks:
    """The encoder and decoder called `architecture` for images of `shape` (C, H, W).

    features: channels the encoder emits (2 * latent_dim for a Gaussian, latent_dim for a quantizer).
    latent_dim: width of a latent vector; spatial: whether there is a grid of them.
    out_channels: channels the likelihood asks of the decoder.
    n_classes: number of labels, 0 for an unconditional network.
    hidden, cells: widths of the "mlp", and the length of its 1 x cells code grid.
    dense: width of a layer between the convolutions of "conv" or "resnet" and a vector of latents; 0 is none.
    """
    _, height, width = shape
    if architecture == "mlp":
        grid = (1, cells) if spatial else None
        encoder = MLPEncoder(
            shape=shape, features=features, hidden=hidden, cells=cells if spatial else None, n_classes=n_classes
        )
        decoder = MLPDecoder(
            latent_features=latent_dim * (cells if spatial else 1),
            hidden=hidden[::-1],
            out_shape=(out_channels, height, width),
            n_classes=n_classes,
        )
        return Networks(encoder, decoder, grid)
    if architecture == "wang2023":
        return _wang2023(shape, features, latent_dim, out_channels, spatial, n_classes)
    if architecture not in ARCHITECTURES:
        raise ValueError(f"architecture must be one of {', '.join(ARCHITECTURES)}, got {architecture!r}")
    if min(height, width) < SMALLEST_SIDE:
        raise ValueError(
            f"architecture {architecture!r} needs images of at least {SMALLEST_SIDE}x{SMALLEST_SIDE}, "
            f"got {height}x{width}; use architecture='mlp'"
        )
    picture = min(height, width) >= PICTURE
    norm = picture or architecture == "resnet"
    stages = _stages(architecture, height, width, spatial=spatial)
    encoder = ConvEncoder(
        shape=shape, stages=stages, dense=dense, features=features, spatial=spatial, n_classes=n_classes, norm=norm
    )
    decoder = ConvDecoder(
        out_shape=(out_channels, height, width),
        stages=stages,
        dense=dense,
        latent_dim=latent_dim,
        spatial=spatial,
        n_classes=n_classes,
        norm=norm,
        seamless=picture,
    )
    return Networks(encoder, decoder, _sizes((height, width), stages)[-1] if spatial else None)


def _wang2023(
    shape: tuple[int, int, int], features: int, latent_dim: int, out_channels: int, spatial: bool, n_classes: int
) -> Networks:
    """The report's networks, of the one size that they have."""
    channels, height, width = shape
    if (channels, height, width) != (1, 28, 28) or out_channels != 1:
        raise ValueError(
            f"architecture 'wang2023' is the report's network for 28x28x1 images and one output per pixel, got "
            f"{height}x{width}x{channels} images and {out_channels} outputs; use architecture='conv'"
        )
    if spatial:
        if n_classes:
            raise ValueError("architecture 'wang2023' has no conditional VQ-VAE; use architecture='conv'")
        return Networks(*_wang2023_vq(latent_dim), (7, 7))
    return Networks(
        Wang2023Encoder(features=features, n_classes=n_classes),
        Wang2023Decoder(latent_dim=latent_dim, n_classes=n_classes),
        None,
    )
