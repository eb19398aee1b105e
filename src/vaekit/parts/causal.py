"""Causal networks over a grid of discrete values in raster order: p(code) as a product of p(code_i | code_1 ... code_i-1).

A grid (h, w) holds values in [0, K): the codes of a VQ-VAE, or pixels (K=2 for binary, K=256 for 8-bit ones; colour
images as a grid (h, w * C)). Both networks hand out logits for all positions at once (`forward`), for training and for
scoring, and position by position from a cache (`start`, then `step`), for sampling: each position then costs its own work
only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaekit.parts.networks import Condition
from vaekit.parts.whole_batch import Dropout, Dropout2d
from vaekit.tensors import widened


class CausalNetwork(Protocol):
    """What `log_prob`, `generate` and `AutoregressivePrior` ask of a network over grids; both networks below have it."""

    n_values: int
    grid: tuple[int, int]
    n_classes: int

    @property
    def embedding(self) -> nn.Embedding: ...
    @property
    def logits(self) -> nn.Conv2d | nn.Linear: ...
    def __call__(self, codes: Tensor, y: Tensor | None = None) -> Tensor: ...
    def start(self, n: int, y: Tensor | None = None) -> Any: ...
    def step(self, cache: Any, position: int, codes: Tensor) -> Tensor: ...
    def parameters(self) -> Iterator[nn.Parameter]: ...


class GatedPixelCNN(nn.Module):
    """Gated PixelCNN (van den Oord et al. 2016, "Conditional image generation with PixelCNN decoders", section 2).

    A vertical stack sees the rows above, a horizontal one the row to the left and the vertical one: no blind spot. The input
    is shifted once, by a row for the one and by a column for the other, so that no layer needs a mask. Labels enter every
    layer (the paper's equation 4) as scale and shift.

    n_values: K. grid: (h, w). channels, layers: width and depth; the report's network is 128 and 15.
    kernel: odd; how far a layer sees to each side is kernel // 2. n_classes: number of labels, 0 for none.
    hidden: width of the 1x1 layer before the logits.
    dropout: of the gates' output, in training mode.
    """

    def __init__(
        self,
        *,
        n_values: int,
        grid: tuple[int, int],
        channels: int = 64,
        layers: int = 6,
        kernel: int = 3,
        n_classes: int = 0,
        hidden: int = 128,
        dropout: float = 0.0,
    ):
        super().__init__()
        _check_sizes(n_values, grid, channels, layers)
        if kernel < 3 or kernel % 2 == 0:
            raise ValueError(f"kernel must be an odd number >= 3, got {kernel}")
        self.n_values, self.grid, self.n_classes = n_values, (grid[0], grid[1]), n_classes
        self.embedding = nn.Embedding(n_values, channels)
        # What stands where: a bias for each position, and of each class where there are classes (the paper's equation 5).
        self.place = nn.Parameter(0.02 * torch.randn(max(1, n_classes), channels, *self.grid))
        self.layers = nn.ModuleList(
            _GatedLayer(channels=channels, kernel=kernel, n_classes=n_classes, dropout=dropout, depth=layers)
            for _ in range(layers)
        )
        self.hidden = nn.Conv2d(channels, hidden, 1)
        self.logits = nn.Conv2d(hidden, n_values, 1)

    def forward(self, codes: Tensor, y: Tensor | None = None) -> Tensor:
        """codes (N, h, w) int64, y (N,) -> logits (N, K, h, w); those of a position do not depend on it or later ones."""
        embedded = self.embedding(codes).movedim(-1, 1)
        place = self.place_of(y)
        vertical = F.pad(embedded, (0, 0, 1, 0))[:, :, :-1] + place  # row i sees rows < i
        horizontal = F.pad(embedded, (1, 0))[..., :-1] + place  # column j sees columns < j
        for layer in self.layers:
            vertical, horizontal = layer(vertical, horizontal, y)
        return self.logits(F.silu(self.hidden(F.silu(horizontal))))

    def place_of(self, y: Tensor | None) -> Tensor:
        """The positions' biases for labels y: (N, channels, h, w), or (1, channels, h, w) without classes."""
        return self.place[y] if self.n_classes else self.place

    @torch.no_grad()
    def start(self, n: int, y: Tensor | None = None) -> PixelCNNCache:
        """The cache of `n` grids of which no position is known yet."""
        return PixelCNNCache(self, n, y)

    @torch.no_grad()
    def step(self, cache: PixelCNNCache, position: int, codes: Tensor) -> Tensor:
        """Logits (N, K) of `position` (0 to h*w - 1), given codes (N, h, w) before it; positions are asked for in order."""
        row, column = divmod(position, self.grid[1])
        if column == 0:
            cache.begin_row(row, codes)
        return cache.logits(row, column, codes)


class _GatedLayer(nn.Module):
    """One layer of both stacks (figure 2 of the paper), residual in both, and 1/sqrt(depth) on the way out of each gate."""

    def __init__(self, *, channels: int, kernel: int, n_classes: int, dropout: float, depth: int):
        super().__init__()
        self.reach = kernel // 2
        self.down = nn.Conv2d(channels, 2 * channels, (self.reach + 1, kernel))
        self.right = nn.Conv2d(channels, 2 * channels, (1, self.reach + 1))
        self.link = nn.Conv2d(2 * channels, 2 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        self.condition_down = Condition(n_classes=n_classes, channels=2 * channels)
        self.condition_right = Condition(n_classes=n_classes, channels=2 * channels)
        self.dropout = Dropout2d(dropout)
        with torch.no_grad():
            self.out.weight.mul_(depth**-0.5)

    def forward(self, vertical: Tensor, horizontal: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        reach = self.reach
        below = self.condition_down(self.down(F.pad(vertical, (reach, reach, reach, 0))), y)
        beside = self.condition_right(self.right(F.pad(horizontal, (reach, 0))) + self.link(below), y)
        return vertical + gate(below), horizontal + self.out(self.dropout(gate(beside)))


def gate(h: Tensor) -> Tensor:
    """(N, 2 * channels, ...) -> (N, channels, ...): tanh(a) * sigmoid(b) of the two halves (the paper's equation 2)."""
    a, b = h.chunk(2, dim=1)
    return torch.tanh(a) * torch.sigmoid(b)


class PixelCNNCache:
    """What a PixelCNN has worked out for the positions so far: each layer's last rows of the vertical stack, what these
    give to the row at hand, and the row's own activations of the horizontal stack.

    Columns come first, (w, N, channels), so that a convolution is a sum of matrix products of neighbouring columns.
    """

    def __init__(self, network: GatedPixelCNN, n: int, y: Tensor | None, layers: list[_CachedLayer] | None = None):
        self.network, self.n, self.y = network, n, y
        self.layers = layers or [
            _CachedLayer(layer)  # pyright: ignore[reportArgumentType]  (a ModuleList does not tell what it holds)
            for layer in network.layers
        ]
        self.conditions = [layer.conditions(y) for layer in self.layers]
        place = network.place.permute(2, 3, 0, 1)
        self.place = place.expand(-1, -1, n, -1) if y is None else place[:, :, y]  # (h, w, N, channels)
        self.above: list[list[Tensor]] = [[] for _ in self.layers]
        self.row = [network.place.new_zeros(n, network.grid[1], network.place.shape[1]) for _ in self.layers]
        self.given: list[Tensor] = []

    def begin_row(self, row: int, codes: Tensor) -> None:
        """The vertical stack's next row, for all columns at once."""
        if row == 0 and self._begin_alike(codes):
            return
        vertical = self.place[row].clone()  # (w, N, channels)
        if row:
            vertical += self.network.embedding(codes[:, row - 1]).transpose(0, 1)
        self.given = []
        for layer, (condition, _), rows in zip(self.layers, self.conditions, self.above, strict=True):
            rows.append(vertical)
            del rows[: -layer.reach - 1]
            below = _scale_and_shift(layer.below(rows), *condition)
            self.given.append(below @ layer.link)
            vertical = vertical + _gate_in_place(below)

    def _begin_alike(self, codes: Tensor) -> bool:
        """Row 0, which knows no code and is the same for all grids of a label, worked out once for each label."""
        if self.y is None:
            labels, which = None, torch.zeros(self.n, dtype=torch.int64, device=codes.device)
        else:
            labels, which = self.y.unique(return_inverse=True)
        n = 1 if labels is None else len(labels)
        if n == self.n:
            return False
        few = PixelCNNCache(self.network, n, labels, self.layers)
        few.begin_row(0, codes)
        self.above = [[row[:, which] for row in rows] for rows in few.above]
        self.given = [given[:, which] for given in few.given]
        return True

    def logits(self, row: int, column: int, codes: Tensor) -> Tensor:
        """(N, K) logits of the next position of the row."""
        network = self.network
        h = self.place[row, column].clone()
        if column:
            h += network.embedding(codes[:, row, column - 1])
        for layer, (_, condition), seen, given in zip(self.layers, self.conditions, self.row, self.given, strict=True):
            seen[:, column] = h
            beside = layer.beside(seen[:, max(0, column - layer.reach) : column + 1], given[column])
            h.addmm_(_gate_in_place(_scale_and_shift(beside, *condition)), layer.out).add_(layer.out_bias)
        h = F.silu(F.linear(F.silu(h), network.hidden.weight[:, :, 0, 0], network.hidden.bias))
        return F.linear(h, network.logits.weight[:, :, 0, 0], network.logits.bias)


class _CachedLayer:
    """A layer's convolutions as matrices (channels in, channels out). What lies outside the grid is zero and is left out."""

    def __init__(self, layer: _GatedLayer):
        self.layer, self.reach = layer, layer.reach
        self.down = layer.down.weight.permute(2, 3, 1, 0).contiguous()  # (reach + 1, kernel, channels, 2 * channels)
        # ((reach + 1) * channels, 2 * channels)
        self.right = layer.right.weight[:, :, 0].permute(2, 1, 0).flatten(0, 1).contiguous()
        self.link = layer.link.weight[:, :, 0, 0].T.contiguous()
        self.out, self.out_bias = layer.out.weight[:, :, 0, 0].T.contiguous(), _bias(layer.out)

    def conditions(self, y: Tensor | None) -> tuple[tuple[Tensor | None, Tensor], tuple[Tensor | None, Tensor]]:
        """What scales and shifts the sums of `below` and of `beside`: the conditions of labels `y`, with the biases in them."""
        layer = self.layer
        return (
            _with_bias(layer.condition_down.factors(y), _bias(layer.down)),
            _with_bias(layer.condition_right.factors(y), _bias(layer.link) + _bias(layer.right)),
        )

    def below(self, rows: list[Tensor]) -> Tensor:
        """The newest of these rows (w, N, channels) of the vertical stack mixed with those above: (w, N, 2 * channels)."""
        width, n = rows[-1].shape[:2]
        mixed = rows[-1].flatten(0, 1) @ self.down[-1, self.reach]
        for age, row in enumerate(reversed(rows)):
            row = row.flatten(0, 1)
            for shift in range(-self.reach, self.reach + 1):
                if (age or shift) and abs(shift) < width:
                    into, out_of = (max(0, -shift) * n, max(0, shift) * n)
                    length = (width - abs(shift)) * n
                    matrix = self.down[-1 - age, self.reach + shift]
                    mixed[into : into + length].addmm_(row[out_of : out_of + length], matrix)
        return mixed.view(width, n, -1)

    def beside(self, window: Tensor, given: Tensor) -> Tensor:
        """Adds the mix of the last columns (N, up to reach + 1, channels) of the horizontal stack to what is `given` by the
        vertical one, (N, 2 * channels), in place.
        """
        window = window.flatten(1)
        return given.addmm_(window, self.right[-window.shape[1] :])


def _bias(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None
    return layer.bias


def _with_bias(factors: tuple[Tensor, Tensor] | None, bias: Tensor) -> tuple[Tensor | None, Tensor]:
    """Scale and shift such that h * scale + shift is what the condition makes of h + bias."""
    return (None, bias) if factors is None else (factors[0], torch.addcmul(factors[1], factors[0], bias))


def _scale_and_shift(h: Tensor, scale: Tensor | None, shift: Tensor) -> Tensor:
    """In place."""
    return h.add_(shift) if scale is None else torch.addcmul(shift, h, scale, out=h)


def _gate_in_place(h: Tensor) -> Tensor:
    """`gate` of the last dimension, whose input is lost."""
    a, b = h.chunk(2, dim=-1)
    return a.tanh_() * b.sigmoid_()


class CausalTransformer(nn.Module):
    """A decoder-only transformer over the raster order (Chen et al. 2020, "Generative pretraining from pixels"): pre-norm
    blocks, learned places, a start token, and labels in every block as scale and shift after the norms.

    n_values: K. grid: (h, w). channels, layers, heads: width, depth, attention heads. dropout: in training mode.
    """

    def __init__(
        self,
        *,
        n_values: int,
        grid: tuple[int, int],
        channels: int = 128,
        layers: int = 4,
        heads: int = 4,
        n_classes: int = 0,
        dropout: float = 0.0,
    ):
        super().__init__()
        _check_sizes(n_values, grid, channels, layers)
        if channels % heads:
            raise ValueError(f"channels must be a multiple of heads, got {channels} and {heads}")
        self.n_values, self.grid, self.n_classes = n_values, (grid[0], grid[1]), n_classes
        self.heads = heads
        self.start_token = nn.Parameter(0.02 * torch.randn(channels))
        self.embedding = nn.Embedding(n_values, channels)
        self.place = nn.Parameter(0.02 * torch.randn(math.prod(self.grid), channels))
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.layers = nn.ModuleList(
            _Block(channels=channels, heads=heads, n_classes=n_classes, dropout=dropout, depth=layers)
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(channels)
        self.logits = nn.Linear(channels, n_values)

    def forward(self, codes: Tensor, y: Tensor | None = None) -> Tensor:
        """codes (N, h, w) int64, y (N,) -> logits (N, K, h, w); those of a position do not depend on it or later ones."""
        tokens = self.embedding(codes.flatten(1))[:, :-1]
        h = torch.cat([self.start_token.expand(len(codes), 1, -1), tokens], dim=1) + self.place
        for layer in self.layers:
            h = layer(h, y)
        return self.logits(self.norm(h)).movedim(-1, 1).unflatten(2, self.grid)

    def start(self, n: int, y: Tensor | None = None) -> TransformerCache:
        """The cache of `n` grids of which no position is known yet."""
        return TransformerCache(self, n, y)

    def step(self, cache: TransformerCache, position: int, codes: Tensor) -> Tensor:
        """Logits (N, K) of `position` (0 to h*w - 1), given codes (N, h, w) before it; positions are asked for in order."""
        before = codes.flatten(1)[:, position - 1] if position else None
        h = self.start_token.expand(cache.n, -1) if before is None else self.embedding(before)
        h = (h + self.place[position])[:, None]
        for layer, keys_values in zip(self.layers, cache.keys_values, strict=True):
            h = layer(h, cache.y, keys_values, position)
        return self.logits(self.norm(h[:, 0]))


class TransformerCache:
    """Keys and values of the positions so far: per layer a pair (N, heads, h*w, channels / heads)."""

    def __init__(self, network: CausalTransformer, n: int, y: Tensor | None):
        positions, channels = network.place.shape
        self.n, self.y = n, y
        self.keys_values = [
            network.place.new_zeros(2, n, network.heads, positions, channels // network.heads) for _ in network.layers
        ]


class _Block(nn.Module):
    """Causal self-attention, then a two-layer perceptron, each on a residual branch."""

    def __init__(self, *, channels: int, heads: int, n_classes: int, dropout: float, depth: int):
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_mlp = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.condition_attention = Condition(n_classes=n_classes, channels=channels)
        self.condition_mlp = Condition(n_classes=n_classes, channels=channels)
        self.query_key_value = nn.Linear(channels, 3 * channels)
        self.gather = nn.Linear(channels, channels)
        self.widen, self.narrow = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self.dropout = Dropout(dropout)
        with torch.no_grad():
            for layer in (self.gather, self.narrow):
                layer.weight.mul_((2 * depth) ** -0.5)

    def forward(self, h: Tensor, y: Tensor | None, keys_values: Tensor | None = None, position: int = 0) -> Tensor:
        """h (N, T, channels); with `keys_values`, T is 1 and h stands at `position`, whose key and value are kept there."""
        normed = self.condition_attention(self.norm_attention(h).movedim(-1, 1), y).movedim(1, -1)
        q, k, v = self.query_key_value(normed).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if keys_values is not None:
            keys_values[0, :, :, position], keys_values[1, :, :, position] = k[:, :, 0], v[:, :, 0]
            k, v = keys_values[:, :, :, : position + 1]
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=keys_values is None)
        h = h + self.dropout(self.gather(attended.transpose(1, 2).flatten(2)))
        normed = self.condition_mlp(self.norm_mlp(h).movedim(-1, 1), y).movedim(1, -1)
        return h + self.dropout(self.narrow(F.gelu(self.widen(normed))))


@torch.no_grad()
def start_alike(network: CausalNetwork, vectors: Tensor) -> None:
    """Starts the network's values, at its input and at its output, at random linear maps of their `vectors` (K, D), such as
    a codebook's: values with like vectors then begin alike, and what is learned of one holds for its neighbours.
    """
    vectors = (vectors - vectors.mean(0)) / vectors.std(0).clamp(min=1e-8)
    for weight in (network.embedding.weight, network.logits.weight):
        flat = weight.flatten(1)
        mapped = vectors @ torch.randn(vectors.shape[1], flat.shape[1]).to(vectors) / vectors.shape[1] ** 0.5
        flat.copy_(flat.std() * mapped)


def log_prob(network: CausalNetwork, codes: Tensor, y: Tensor | None = None) -> Tensor:
    """Codes (N, h, w) -> (N,) nats, the sum over positions of log p(code_i | the codes before it)."""
    return -F.cross_entropy(widened(network(codes, y)), codes, reduction="none").flatten(1).sum(1)


@torch.no_grad()
def generate(
    network: CausalNetwork,
    n: int,
    y: Tensor | None = None,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    given: Tensor | None = None,
    known: Tensor | None = None,
    cached: bool = True,
) -> Tensor:
    """(n, h, w) int64 codes drawn position by position; the same for one seed of torch, cached or not.

    y: (n,) labels. temperature: > 0, divides the logits. top_k: only the k likeliest values of a position; top_p: only the
    likeliest values that together hold this probability (Holtzman et al. 2020).
    given, known: (n, h, w) codes and (h, w) booleans; codes where `known` holds are kept and the rest is drawn. A position
    is drawn knowing those before it in raster order, given ones included.
    cached: False runs the whole network for every position, as a check.
    """
    height, width = network.grid
    device = next(network.parameters()).device
    noise = torch.rand(height * width, n, device=device, dtype=torch.float32)
    codes = torch.zeros(n, height, width, dtype=torch.int64, device=device)
    if given is not None:
        if known is None:
            raise ValueError("codes are given, but not which of them are known")
        codes = torch.where(known, given, codes)
    cache = network.start(n, y) if cached else None
    for position in range(height * width):
        row, column = divmod(position, width)
        keep = known is not None and bool(known[row, column])
        if keep and not cached:
            continue
        if cached:
            logits = network.step(cache, position, codes)
        else:
            logits = network(codes, y)[:, :, row, column]
        if not keep:
            codes[:, row, column] = _draw(widened(logits) / temperature, noise[position], top_k, top_p)
    return codes


def _draw(logits: Tensor, noise: Tensor, top_k: int | None, top_p: float | None) -> Tensor:
    """(N, K) logits and (N,) uniform noise -> (N,) values, by inverting the cumulative distribution."""
    if top_k is not None and top_k < logits.shape[1]:
        kept, values = logits.topk(top_k)
        logits = torch.full_like(logits, -math.inf).scatter(1, values, kept)
    if top_p is not None and top_p < 1:
        shares, order = logits.softmax(1).sort(descending=True)
        beyond = shares.cumsum(1) - shares >= top_p  # the value that crosses the line stays in
        logits = logits.masked_fill(beyond.gather(1, order.argsort(1)), -math.inf)
    cumulative = logits.softmax(1).cumsum(1)
    # Of the last value with any probability, whatever rounding does to the sum.
    target = (noise * cumulative[:, -1])[:, None]
    return torch.searchsorted(cumulative, target, right=True)[:, 0].clamp(max=logits.shape[1] - 1)


def _check_sizes(n_values: int, grid: tuple[int, int], channels: int, layers: int) -> None:
    if n_values < 2 or min(*grid, channels, layers) < 1:
        raise ValueError(
            f"n_values must be >= 2, grid, channels and layers >= 1, got {n_values}, {tuple(grid)}, {channels} and {layers}"
        )
