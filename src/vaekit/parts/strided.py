"""The report's blocks, a stride-two convolution or its transpose with BatchNorm and ReLU, as matrix products.

The same mathematics as the layers one by one, for small images on the CPU, where those spend most of their time away from
arithmetic: rows of pixels are gathered and scattered around one product a layer, and a bias that BatchNorm subtracts again is
not added. It is written for `torch.compile`, which fuses what stands between the products; without it there is little gain.

Inside this file images are (N, H, W, C), and weights are read as (out, k, k, in) or (in, k, k, out), which is how they lie in
memory. A tap is one of the k x k places of a kernel: output o and input i of a transposed convolution meet at tap
k = o - 2i + 1, so that even outputs see tap 1 of their own input, and odd ones tap 2 of their own and tap 0 of the next.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaekit.messages import filled

NARROW = 8  # output channels up to which a transposed convolution gathers its inputs; above, it scatters its outputs
GATHERED = 8192  # values per image, above which gathering costs more than the products gain (the report's VQ-VAE)
VECTOR = 128  # values side by side that a sum over rows works on at once


def suits(h: Tensor, conv: nn.Conv2d | nn.ConvTranspose2d) -> bool:
    """Whether `block` is faster than the layers themselves for h (N, C, H, W): for maps and channels that are few."""
    _, channels, height, width = h.shape
    taps = conv.kernel_size[0] * conv.kernel_size[1]
    if isinstance(conv, nn.Conv2d):
        return (height + 1) // 2 * ((width + 1) // 2) * taps * channels <= GATHERED
    return height * width * (4 * channels if _is_narrow(conv) else taps * conv.out_channels) <= GATHERED


def _is_narrow(conv: nn.ConvTranspose2d) -> bool:
    return conv.out_channels <= NARROW and conv.kernel_size == (3, 3)


def block(h: Tensor, conv: nn.Conv2d | nn.ConvTranspose2d, norm: nn.BatchNorm2d) -> Tensor:
    """relu(norm(conv(h))) in training mode, h (N, C, H, W), with the running statistics moved as `norm` itself does.

    conv: stride 2 and padding 1, with a kernel of 3; or transposed, with output_padding 1 and a kernel of 2 or 3.
    """
    x, weight, scattered = h.permute(0, 2, 3, 1), conv.weight.permute(0, 2, 3, 1), True
    if isinstance(conv, nn.Conv2d):
        out = _Down.apply(x, weight)
    elif _is_narrow(conv):
        out, scattered = _UpNarrow.apply(x, weight), False
    else:
        out = _Up.apply(x, weight)
    out, mean, variance = _NormRelu.apply(out, norm.weight, norm.bias, norm.eps)
    with torch.no_grad():
        count, momentum = out.numel() // len(mean), filled(norm.momentum)
        filled(norm.num_batches_tracked).add_(1)
        filled(norm.running_mean).lerp_(mean if conv.bias is None else mean + conv.bias, momentum)
        filled(norm.running_var).lerp_(variance * (count / (count - 1)), momentum)
    if not scattered:
        n, height, width, _ = x.shape
        out = out.view(n, height, width, 2, 2, -1).transpose(2, 3).reshape(n, 2 * height, 2 * width, -1)
    return out.permute(0, 3, 1, 2)


class _Product(torch.autograd.Function):
    """What the products below share: their gradients need the inputs, and nothing else."""

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)


class _Down(_Product):
    """x (N, H, W, C), weight (K, 3, 3, C) -> (N, ceil(H/2), ceil(W/2), K)."""

    @staticmethod
    def forward(x, weight):
        n, height, width, _ = x.shape
        size = (height + 1) // 2, (width + 1) // 2
        return (gather(x, size, 3) @ weight.flatten(1).t()).view(n, *size, -1)

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        n, height, width, _ = gradient.shape
        rows = gradient.reshape(-1, gradient.shape[-1])
        to_weight = rows.t() @ gather(x, (height, width), 3)
        to_x = None
        if ctx.needs_input_grad[0]:
            to_x = scatter((rows @ weight.flatten(1)).view(n, height, width, 3, 3, -1), x.shape[1:3])
        return to_x, to_weight.view(weight.shape)


class _Up(_Product):
    """x (N, H, W, C), weight (C, k, k, K) -> (N, 2H, 2W, K), or one row and column less for a kernel of 2."""

    @staticmethod
    def forward(x, weight):
        n, height, width, channels = x.shape
        kernel = weight.shape[1]
        taps = (x.reshape(-1, channels) @ weight.flatten(1)).view(n, height, width, kernel, kernel, -1)
        return scatter(taps, (2 * height + kernel - 3, 2 * width + kernel - 3))

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        taps = gather(gradient, x.shape[1:3], weight.shape[1])
        to_weight = x.reshape(-1, x.shape[-1]).t() @ taps
        return (taps @ weight.flatten(1).t()).view(x.shape), to_weight.view(weight.shape)


class _UpNarrow(_Product):
    """x (N, H, W, C), weight (C, 3, 3, K) -> (N*H*W, 4K), the 2x2 outputs of each input side by side: each input with its
    neighbours below and to the right, in one product with a (4C, 4K) matrix of which 9 blocks in 16 are taps.
    """

    @staticmethod
    def forward(x, weight):
        return _UpNarrow.neighbours(x) @ _UpNarrow.spread(weight)

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        n, height, width, channels = x.shape
        to_spread = _UpNarrow.neighbours(x).t() @ gradient
        place = _UpNarrow.place(weight)
        blocks = to_spread.view(2, 2, channels, 2, 2, -1)
        to_weight = torch.einsum("dip,ejq,decpqk->cijk", place, place, blocks)
        taps = F.pad((gradient @ _UpNarrow.spread(weight).t()).view(n, height, width, 2, 2, -1), (0,) * 6 + (1, 0) * 2)
        to_x = taps[:, 1:, 1:, 0, 0] + taps[:, 1:, :-1, 0, 1] + taps[:, :-1, 1:, 1, 0] + taps[:, :-1, :-1, 1, 1]
        return to_x, to_weight

    @staticmethod
    def neighbours(x: Tensor) -> Tensor:
        """(N, H, W, C) -> (N*H*W, 4C)."""
        n, height, width, channels = x.shape
        padded = F.pad(x, (0, 0, 0, 1, 0, 1))
        row = (width + 1) * channels
        pairs = padded.as_strided((n, height, width, 2, 2 * channels), ((height + 1) * row, row, channels, row, 1))
        return pairs.reshape(-1, 4 * channels)

    @staticmethod
    def place(weight: Tensor) -> Tensor:
        """(2, 3, 2): whether neighbour d meets output parity p at tap k."""
        return weight.new_tensor([[[0, 0], [1, 0], [0, 1]], [[0, 1], [0, 0], [0, 0]]])

    @staticmethod
    def spread(weight: Tensor) -> Tensor:
        """(C, 3, 3, K) -> (4C, 4K)."""
        channels, _, _, k = weight.shape
        place = _UpNarrow.place(weight)
        return torch.einsum("dip,ejq,cijk->decpqk", place, place, weight).reshape(4 * channels, 4 * k)


class _NormRelu(torch.autograd.Function):
    """x (..., g*C), of which every C-th value is of the same channel, scale and shift (C,) -> relu of x normalised over the
    batch, and the mean and the (biased) variance of each channel.
    """

    @staticmethod
    def forward(x, scale, shift, eps):
        h = _wide(x)
        mean = _sums(h, len(scale)) / (h.numel() // len(scale))
        variance = _sums((h - _tiled(mean, h)).square(), len(scale)) / (h.numel() // len(scale))
        factor = scale * torch.rsqrt(variance + eps)
        out = F.relu((h - _tiled(mean, h)) * _tiled(factor, h) + _tiled(shift, h))
        return out.view(x.shape), mean, variance

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, scale, shift, ctx.eps = inputs
        _, mean, variance = output
        ctx.mark_non_differentiable(mean, variance)
        ctx.save_for_backward(x, scale, shift, mean, variance)

    @staticmethod
    def backward(ctx, gradient, *_):
        x, scale, shift, mean, variance = ctx.saved_tensors
        h = _wide(x)
        count, inverse = h.numel() // len(scale), torch.rsqrt(variance + ctx.eps)
        normal = (h - _tiled(mean, h)) * _tiled(inverse, h)
        passed = torch.where(normal * _tiled(scale, h) + _tiled(shift, h) > 0, gradient.reshape(h.shape), 0.0)
        to_shift, to_scale = _sums(passed, len(scale)), _sums(passed * normal, len(scale))
        to_x = passed - _tiled(to_shift / count, h) - normal * _tiled(to_scale / count, h)
        return (to_x * _tiled(scale * inverse, h)).view(x.shape), to_scale, to_shift, None


def gather(x: Tensor, size: tuple[int, int], kernel: int) -> Tensor:
    """(N, H, W, C) -> (N*h*w, k*k*C): what each of h x w places of stride 2 sees, from one row and column before it on."""
    n, height, width, channels = x.shape
    high, wide = 2 * size[0] + kernel - 2, 2 * size[1] + kernel - 2
    padded = F.pad(x, (0, 0, 1, wide - 1 - width, 1, high - 1 - height))
    if kernel == 2:
        return padded.view(n, size[0], 2, size[1], 2, channels).transpose(2, 3).reshape(-1, 4 * channels)
    row = wide * channels
    # One piece for each row of the kernel, in which neighbouring pixels lie side by side.
    pieces = [
        padded.as_strided((n, *size, 3 * channels), (high * row, 2 * row, 2 * channels, 1), place * row)
        for place in range(3)
    ]
    return torch.cat(pieces, dim=-1).view(-1, 9 * channels)


def scatter(taps: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, h, w, k, k, C) -> (N, H, W, C): the transpose of `gather`."""
    n, height, width, kernel, _, channels = taps.shape
    shape = (n, 2 * height, 2 * width, channels)
    if kernel == 2:  # no two taps meet
        row = 2 * width * channels
        whole = taps.transpose(2, 3).reshape(shape)
        return whole.as_strided((n, *size, channels), (2 * height * row, row, channels, 1), row + channels)

    def right(tap: Tensor) -> Tensor:
        return F.pad(tap[:, :, 1:], (0, 0, 0, 1))

    def below(tap: Tensor) -> Tensor:
        return F.pad(tap[:, 1:], (0, 0) * (tap.dim() - 2) + (0, 1))

    def across(row: int) -> Tensor:
        """(N, h, w, 2, C): what even and odd columns get from the kernel's `row`."""
        even, odd = taps[:, :, :, row, 1], taps[:, :, :, row, 2] + right(taps[:, :, :, row, 0])
        return torch.stack([even, odd], dim=3)

    whole = torch.stack([across(1), across(2) + below(across(0))], dim=2).view(shape)
    return whole[:, : size[0], : size[1]]


def _wide(x: Tensor) -> Tensor:
    """(..., G) -> (rows, G or a multiple of it): channels are few, and vectors of the processor are long. What is cut out of
    something larger stays as it is.
    """
    if not x.is_contiguous():
        return x
    rows, values = x.numel() // x.shape[-1], x.shape[-1]
    group = math.gcd(rows, max(1, VECTOR // values))
    return x.view(rows // group, group * values)


def _sums(h: Tensor, channels: int) -> Tensor:
    """(..., g*C) -> (C,)."""
    return h.sum(tuple(range(h.dim() - 1))).view(-1, channels).sum(0)


def _tiled(values: Tensor, h: Tensor) -> Tensor:
    """(C,) -> (g*C,), beside the columns of h; in memory, since an index into (C,) could not be vectorised."""
    columns = h.shape[-1]
    if columns == len(values):
        return values
    return values.repeat(columns // len(values)).as_strided((columns,), (1,))
