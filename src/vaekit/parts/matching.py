"""Flow matching: a velocity field that carries noise to latents along straight lines (Lipman et al. 2023; Liu et al. 2023).

At time t a latent z and noise e ~ N(0, I) meet at x = t z + (1 - t) e, which moves on by z - e. The field learns the mean of
that velocity at each x and t; followed from noise at time 0 to time 1 it draws new latents.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaekit.parts.graphs import Graph, label_input
from vaekit.parts.networks import Down, Up
from vaekit.parts.priors import LearnedPrior
from vaekit.tensors import LOG_2PI
from vaekit.world import drawn

FREQUENCIES = 32  # of the time, as sines and cosines
WIDER = 4  # times as many channels as a grid's field has that of a vector
DROPPED = 0.1  # of the labels in training, so that the field knows what is common to all classes (Ho & Salimans 2021)
EDGE = 6.0  # log(t / (1 - t)) of the last time that the bound looks at, and of the first one, its negative
LOOKS = (32, 8)  # at the field of a vector and of a grid, for the bound
STEPS = 16  # of Heun's method, each of two looks at the field
AT_ONCE = 256  # latents that go through the field together outside training


class VelocityField(nn.Module):
    """x (N, *shape), t (N,), y (N,) -> velocities (N, *shape): a U-Net of two resolutions for a grid (C, h, w), residual layers
    for a vector (D,). Time and label scale and shift the channels of each block. The label `n_classes` is that of no class.
    """

    def __init__(self, *, shape: tuple[int, ...], channels: int, layers: int, n_classes: int = 0):
        super().__init__()
        self.shape, self.n_classes = tuple(shape), n_classes
        about = WIDER * channels
        self.time = nn.Sequential(nn.Linear(2 * FREQUENCIES, about), nn.SiLU(), nn.Linear(about, about))
        self.label = nn.Embedding(n_classes + 1, about) if n_classes else None
        body = _Layers if len(shape) == 1 else _UNet
        self.body = body(self.shape, channels, layers, about)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        phases = (
            1000 * t[:, None] * torch.exp(-math.log(10000) / FREQUENCIES * torch.arange(FREQUENCIES, device=t.device))
        )
        about = self.time(torch.cat([phases.sin(), phases.cos()], dim=1))
        if self.label is not None:
            about = about + self.label(torch.full_like(t, self.n_classes, dtype=torch.int64) if y is None else y)
        return self.body(x, F.silu(about))


class _Block(nn.Module):
    """A residual block of two maps, whose channels are scaled and shifted by what `about` (N, A) tells; it starts as none."""

    def __init__(self, make: Callable[[int, int], nn.Linear | nn.Conv2d], channels: int, out: int, about: int):
        super().__init__()
        self.before, self.between = _norm(channels), _norm(out)
        self.spread, self.gather, self.about = make(channels, out), make(out, out), nn.Linear(about, 2 * out)
        self.skip = nn.Identity() if channels == out else nn.Conv2d(channels, out, 1)
        with torch.no_grad():
            for values in self.gather.parameters():
                values.zero_()

    def forward(self, h: Tensor, about: Tensor) -> Tensor:
        inside = self.between(self.spread(F.silu(self.before(h))))
        scale, shift = self.about(about).view(len(h), -1, *[1] * (h.dim() - 2)).chunk(2, dim=1)
        return self.skip(h) + self.gather(F.silu(torch.addcmul(shift, inside, 1 + scale)))


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(8, channels), channels)


class _Layers(nn.Module):
    """Residual layers over vectors (N, D)."""

    def __init__(self, shape: tuple[int, ...], channels: int, layers: int, about: int):
        super().__init__()
        width = WIDER * channels
        self.enter, self.leave = nn.Linear(shape[0], width), nn.Linear(width, shape[0])
        self.blocks = nn.ModuleList(_Block(nn.Linear, width, width, about) for _ in range(2 * layers))

    def forward(self, x: Tensor, about: Tensor) -> Tensor:
        h = self.enter(x)
        for block in self.blocks:
            h = block(h, about)
        return self.leave(F.silu(h))


class _UNet(nn.Module):
    """Blocks over a grid (N, C, h, w), over one of half its sides, and over the first again, which then knows both."""

    def __init__(self, shape: tuple[int, ...], channels: int, layers: int, about: int):
        super().__init__()
        latents, height, width = shape

        def make(a: int, b: int) -> nn.Conv2d:
            return nn.Conv2d(a, b, 3, padding=1)

        def blocks(first: int, out: int, count: int) -> nn.ModuleList:
            return nn.ModuleList(_Block(make, first if i == 0 else out, out, about) for i in range(count))

        self.enter, self.leave = make(latents, channels), make(channels, latents)
        self.place = nn.Parameter(0.02 * torch.randn(channels, height, width))
        self.fine = blocks(channels, channels, layers)
        self.down, self.up = Down(channels, 2 * channels, 2), Up(2 * channels, channels, 2, (height, width))
        self.coarse = blocks(2 * channels, 2 * channels, 2 * layers)
        self.again = blocks(2 * channels, channels, layers)

    def forward(self, x: Tensor, about: Tensor) -> Tensor:
        h = self.enter(x.contiguous(memory_format=torch.channels_last)) + self.place
        for block in self.fine:
            h = block(h, about)
        low = self.down(h)
        for block in self.coarse:
            low = block(low, about)
        h = torch.cat([h, self.up(low)], dim=1)
        for block in self.again:
            h = block(h, about)
        return self.leave(F.silu(h))


class MatchingPrior(LearnedPrior):
    """p(z|y) over latents (N, D) by a velocity field on standardised z.

    shape: of a latent, (D,), or (C, h, w) of a grid that is made flat, D = C h w. channels, layers: width and depth of the
    field, see `VelocityField`. n_classes: number of labels, 0 for none.
    location, scale (D,): what z is standardised by, to be set before training.
    """

    choices = ("guidance",)
    exact = False
    location: Tensor
    scale: Tensor
    independent = False  # whether each latent has noise of its own in `log_prob`: see `latents.independent_noise`

    def __init__(self, *, shape: tuple[int, ...], channels: int = 64, layers: int = 2, n_classes: int = 0):
        super().__init__(n_classes=n_classes)
        self.latent_dim = math.prod(shape)
        self.code_shape = (self.latent_dim,)
        self.register_buffer("location", torch.zeros(self.latent_dim))
        self.register_buffer("scale", torch.ones(self.latent_dim))
        self.field = VelocityField(shape=shape, channels=channels, layers=layers, n_classes=n_classes)

    def error(self, field: VelocityField, z: Tensor, y: Tensor | None = None) -> Tensor:
        """What the training minimises: the squared error (N,) of the velocity that `field` says of z (N, D) at times drawn from
        [0, 1], a mean over the latents (Lipman et al. 2023, equation 9). In training mode labels are left out now and then.
        """

        def uniform(n: int) -> Tensor:
            return torch.rand(n, device=z.device)

        t = drawn(uniform, len(z))
        e = drawn(lambda n: torch.randn(n, self.latent_dim, device=z.device), len(z))
        if self.training and y is not None:
            y = torch.where(drawn(uniform, len(z)) >= DROPPED, y, self.n_classes)
        return self._error(field, (z - self.location) / self.scale, e, t, y) / self.latent_dim

    def _error(self, field: VelocityField, z: Tensor, e: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        """The squared error (N,) at times t (N,), of standardised z, summed over the latents."""
        x = torch.lerp(e, z, t[:, None])
        found = field(x.view(len(x), *field.shape), t, y).flatten(1)
        return (z - e - found).square().sum(1)

    def log_prob(self, code: Tensor, y: Tensor | None = None) -> Tensor:
        """(N, D), y (N,) or None -> (N,) nats: an estimate, by a few looks at the field, of a lower bound of log p(code|y), or
        without y of log p(code) under the field that knows no class. It is a diffusion's variational bound (Kingma et al.
        2021, equation 13), whose signal-to-noise ratio is here (t / (1 - t))^2.
        """
        parts = code.split(AT_ONCE)
        labels = [None] * len(parts) if y is None or not self.n_classes else y.split(AT_ONCE)
        return torch.cat([self._bound(*part) for part in zip(parts, labels, strict=True)])

    def _bound(self, code: Tensor, y: Tensor | None) -> Tensor:
        z = (code - self.location) / self.scale
        first = 0.5 * math.exp(-2 * EDGE) * z.square().sum(1)  # what the first x still tells of z
        last = self.latent_dim * (0.5 * (LOG_2PI + 1) - EDGE)  # of z given the last x
        looks = LOOKS[len(self.field.shape) > 1]
        between, width = torch.zeros_like(first), 2 * EDGE / looks
        for look in range(looks):
            n = len(z) if self.independent else 1
            ratio = -EDGE + width * (look + torch.rand(n, device=z.device))
            t, e = torch.sigmoid(ratio).expand(len(z)), torch.randn(n, self.latent_dim, device=z.device).expand_as(z)
            # Most of the noise in the error is in that of N(0, I)'s own field, too, whose expectation is known; what is odd in
            # the noise cancels between e and -e.
            back = 1 - t
            slope = (t - back) / (t.square() + back.square())
            known = (1 - slope * t).square() * z.square().sum(1) + (1 + slope * back).square() * self.latent_dim
            for noise in (e, -e):
                plain = (z - noise - slope[:, None] * torch.lerp(noise, z, t[:, None])).square().sum(1)
                found = self._error(self.field, z, noise, t, y)
                between += 0.5 * width * t.square() * (found - plain + known)
        return -(first + between + last) - self.scale.log().sum()

    def _sample(self, n: int, y: Tensor | None, temperature: float, guidance: float | None = None) -> Tensor:
        """temperature scales the noise at the start; guidance >= 0: how far the velocity goes from that of no class (0) to that
        of the class (1, the default) and beyond it, which makes samples surer and less diverse (Ho & Salimans 2021).
        """
        noise = temperature * torch.randn(n, self.latent_dim, device=self.scale.device)
        labels = [None] * len(noise.split(AT_ONCE)) if y is None else y.split(AT_ONCE)
        parts = zip(noise.split(AT_ONCE), labels, strict=True)
        return torch.cat([self._carried(x, label, 1.0 if guidance is None else guidance) for x, label in parts])

    def _carried(self, x: Tensor, y: Tensor | None, guidance: float) -> Tensor:
        """Noise x (N, D) at time 0 -> latents z (N, D)."""
        for step in range(STEPS):
            x = self.moved(x, torch.full((len(x),), step / STEPS, device=x.device), y, guidance)
        return self.location + self.scale * x

    def moved(self, x: Tensor, t: Tensor, y: Tensor | None = None, guidance: float = 1.0) -> Tensor:
        """x (N, D) at times t (N,) -> where it is 1 / STEPS later, by a step of Heun's method. y, guidance: as of `sample`."""

        def velocity(x: Tensor, t: Tensor) -> Tensor:
            grid = x.view(len(x), *self.field.shape)
            found = self.field(grid, t, y)
            if y is not None and guidance != 1:
                plain = self.field(grid, t)
                found = plain + guidance * (found - plain)
            return found.flatten(1)

        before = velocity(x, t)
        after = velocity(x + before / STEPS, t + 1 / STEPS)
        return x + 0.5 * (before + after) / STEPS

    def graph(self) -> Graph:
        """x (N, D), t (N,) -> x one step later, and that as latents z (N, D): noise at time 0 is latents after STEPS steps."""
        labels, label = label_input(self.n_classes)
        module = _StepGraph(self)

        def draw(n: int, rng: np.random.Generator) -> list[tuple[Tensor, ...]]:
            x, t = rng.standard_normal((n, self.latent_dim)), rng.integers(STEPS, size=n) / STEPS
            return [(torch.from_numpy(x).float(), torch.from_numpy(t).float(), *label(n, rng))]

        return Graph(
            "prior_step",
            f"one of {STEPS} steps from noise to latents, which begins at x from N(0, I) and t = 0",
            type(self).__name__,
            module,
            {"x": "where the samples are", "t": f"the time, from 0 in steps of 1 / {STEPS}", **labels},
            {"moved": f"where they are 1 / {STEPS} later", "z": "that as latents, for the decoder after the last step"},
            draw,
            module,
        )


class _StepGraph(nn.Module):
    """x (N, D), t (N,) -> x one step later, and that in the latents' units."""

    def __init__(self, prior: MatchingPrior):
        super().__init__()
        self.prior = prior

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        moved = self.prior.moved(x, t, y)
        return moved, self.prior.location + self.prior.scale * moved
