"""What the files of a model compute, but for its prior's, which says that by itself: `vaekit.parts.priors.Prior.graph`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vaekit.data.columns import FURTHEST, Columns
from vaekit.models.autoencoder import Autoencoder
from vaekit.parts.latents import Latent


class OfModule(nn.Module):
    """A part of the module, with the scaling of a table's columns where its samples are rows of one: `Columns`, in float64."""

    column_mean: Tensor
    column_scale: Tensor
    column_centre: Tensor
    column_width: Tensor
    column_constant: Tensor
    column_log: Tensor
    column_robust: Tensor

    def __init__(self, model: Autoencoder, table: Columns | None):
        super().__init__()
        self.model, self.is_table = model, table is not None
        if table is None:
            return
        for name in ("mean", "scale", "centre", "width", "constant"):
            self.register_buffer(f"column_{name}", torch.from_numpy(getattr(table, name)))
        for name in ("log", "robust"):
            self.register_buffer(f"column_{name}", torch.tensor([scaling == name for scaling in table.scalings]))
        self.scalings = set(table.scalings)

    def standardised(self, x: Tensor) -> Tensor:
        """`Columns.inputs`."""
        if "log" in self.scalings:
            x = torch.where(self.column_log, torch.where(self.column_log, x, 1.0).log(), x)
        if "robust" in self.scalings:
            v = (x - self.column_centre) / self.column_width
            size = v.abs()
            x = torch.where(self.column_robust, v.sign() * (size + (size.square() + 1).sqrt()).log(), x)
        return ((x - self.column_mean) / self.column_scale).clamp(-FURTHEST, FURTHEST).float()

    def restored(self, z: Tensor) -> Tensor:
        """`Columns.restore`, with constant columns as they are."""
        x = z.double() * self.column_scale + self.column_mean
        if "log" in self.scalings:
            x = torch.where(self.column_log, torch.where(self.column_log, x, 0.0).exp(), x)
        if "robust" in self.scalings:
            u = torch.where(self.column_robust, x, 0.0)
            x = torch.where(self.column_robust, self.column_centre + self.column_width * (u.exp() - (-u).exp()) / 2, x)
        return torch.where(self.column_constant, self.column_mean, x)


class Encoder(OfModule):
    """x (N, H, W, C) in [0, 1], or (N, D) in a table's units -> mean, log_var (N, D), or codes (N, h, w), z (N, h, w, D); of a
    latent with neither, the mode of q(z|x).
    """

    def forward(self, x: Tensor, y: Tensor | None = None):
        if self.is_table:
            x = self.standardised(x)[:, None, :, None]
        h = self.model.encoder(x.permute(0, 3, 1, 2), y)
        latent = self.model.latent
        if not latent.discrete:
            return latent(h).moments or (latent.traced(h),)
        codes = latent.traced(h)
        return codes, latent.embed(codes).movedim(1, -1)


class Decoder(OfModule):
    """z (N, D) or codes (N, h, w) -> x (N, H, W, C) in [0, 1], or (N, D) in a table's units."""

    def forward(self, code: Tensor, y: Tensor | None = None) -> Tensor:
        x = self.model.decode(code, y).permute(0, 2, 3, 1)
        return self.restored(x[:, 0, :, 0]) if self.is_table else x


class Lookup(nn.Module):
    """codes (N, h, w) -> z (N, h, w, D)."""

    def __init__(self, latent: Latent):
        super().__init__()
        self.latent = latent

    def forward(self, codes: Tensor) -> Tensor:
        return self.latent.embed(codes).movedim(1, -1)
