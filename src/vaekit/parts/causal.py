"""Causal networks over a grid of discrete values in raster order: p(code) as a product of p(code_i | code_1 ... code_i-1).

A grid (h, w) holds values in [0, K): the codes of a VQ-VAE, or pixels (K=2 for binary, K=256 for 8-bit ones; colour
images as a grid (h, w * C)). Both networks hand out logits for all positions at once (`forward`), for training and for
scoring, and position by position from a cache (`start`, then `step`), for sampling: each position then costs its own work
only.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaekit.parts.networks import Condition


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
        self.n_values, self.grid, self.n_classes = n_values, tuple(grid), n_classes
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

    def start(self, n: int, y: Tensor | None = None) -> PixelCNNCache:
        """The cache of `n` grids of which no position is known yet."""
        return PixelCNNCache(self, n, y)

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
        self.dropout = nn.Dropout2d(dropout)
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

    Columns come first, (w, N, channels), so that a convolution over a row is a matrix product.
    """

    def __init__(self, network: GatedPixelCNN, n: int, y: Tensor | None):
        self.network, self.n = network, n
        width, reach = network.grid[1], network.layers[0].reach
        channels = network.embedding.embedding_dim
        self.place = network.place_of(y).permute(2, 3, 0, 1).expand(-1, -1, n, -1)  # (h, w, N, channels)
        self.layers = [_CachedLayer(layer, y) for layer in network.layers]
        # Rows above the grid are zero and are left out; the columns beside it are zeros in front of each row.
        self.above: list[list[Tensor]] = [[] for _ in self.layers]
        self.row = [network.place.new_zeros(n, width + reach, channels) for _ in self.layers]
        self.given: list[Tensor] = []

    def begin_row(self, row: int, codes: Tensor) -> None:
        """The vertical stack's next row, for all columns at once."""
        width = self.network.grid[1]
        vertical = self.place[row]  # (w, N, channels)
        if row:
            vertical = vertical + self.network.embedding(codes[:, row - 1]).transpose(0, 1)
        self.given = []
        for layer, rows in zip(self.layers, self.above, strict=True):
            rows.append(layer.unfold(vertical))
            del rows[: -layer.reach - 1]
            below = layer.below(rows, self.n)
            self.given.append(torch.addmm(layer.link_bias, below, layer.link).view(width, self.n, -1))
            vertical = vertical + gate(below).view_as(vertical)

    def logits(self, row: int, column: int, codes: Tensor) -> Tensor:
        """(N, K) logits of the next position of the row."""
        network = self.network
        h = self.place[row, column]
        if column:
            h = h + network.embedding(codes[:, row, column - 1])
        for layer, seen, given in zip(self.layers, self.row, self.given, strict=True):
            seen[:, column + layer.reach] = h
            h = h + layer.beside(seen[:, column : column + layer.reach + 1], given[column])
        h = F.silu(F.linear(F.silu(h), network.hidden.weight[:, :, 0, 0], network.hidden.bias))
        return F.linear(h, network.logits.weight[:, :, 0, 0], network.logits.bias)


class _CachedLayer:
    """A layer's convolutions as matrices (channels in, channels out), and its conditions looked up for the labels `y`."""

    def __init__(self, layer: _GatedLayer, y: Tensor | None):
        self.reach = layer.reach
        # (reach + 1) of (kernel * channels, 2 * channels), and ((reach + 1) * channels, 2 * channels)
        self.down = layer.down.weight.permute(2, 3, 1, 0).flatten(1, 2).contiguous()
        self.right = layer.right.weight[:, :, 0].permute(2, 1, 0).flatten(0, 1).contiguous()
        self.link = layer.link.weight[:, :, 0, 0].T.contiguous()
        self.out = layer.out.weight[:, :, 0, 0].T.contiguous()
        self.down_bias, self.out_bias = layer.down.bias, layer.out.bias
        self.link_bias = layer.link.bias + layer.right.bias
        self.condition_down, self.condition_right = layer.condition_down.factors(y), layer.condition_right.factors(y)

    def unfold(self, row: Tensor) -> Tensor:
        """A row (w, N, channels) -> (w * N, kernel * channels), each column with its neighbours."""
        padded = F.pad(row, (0, 0, 0, 0, self.reach, self.reach))
        shifts = range(2 * self.reach + 1)
        return torch.cat([padded[shift : shift + len(row)] for shift in shifts], dim=-1).flatten(0, 1)

    def below(self, rows: list[Tensor], n: int) -> Tensor:
        """The newest of these unfolded rows of the vertical stack, mixed with those above: (w * N, 2 * channels)."""
        mixed = torch.addmm(self.down_bias, rows[-1], self.down[-1])
        for age, row in enumerate(rows[:-1][::-1], start=2):
            mixed.addmm_(row, self.down[-age])
        return _conditioned(mixed.view(-1, n, mixed.shape[1]), self.condition_down).flatten(0, 1)

    def beside(self, window: Tensor, given: Tensor) -> Tensor:
        """The last columns (N, reach + 1, channels) of the horizontal stack and the vertical one's part: (N, channels)."""
        mixed = torch.addmm(given, window.flatten(1), self.right)
        return torch.addmm(self.out_bias, gate(_conditioned(mixed, self.condition_right)), self.out)


def _conditioned(h: Tensor, factors: tuple[Tensor, Tensor] | None) -> Tensor:
    return h if factors is None else torch.addcmul(factors[1], h, factors[0])


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
        self.n_values, self.grid, self.n_classes = n_values, tuple(grid), n_classes
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
            network.place.new_zeros(2, n, layer.heads, positions, channels // layer.heads) for layer in network.layers
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
        self.dropout = nn.Dropout(dropout)
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
def start_alike(network: nn.Module, vectors: Tensor) -> None:
    """Starts the network's values, at its input and at its output, at random linear maps of their `vectors` (K, D), such as
    a codebook's: values with like vectors then begin alike, and what is learned of one holds for its neighbours.
    """
    vectors = (vectors - vectors.mean(0)) / vectors.std(0).clamp(min=1e-8)
    for weight in (network.embedding.weight, network.logits.weight):
        flat = weight.flatten(1)
        mapped = vectors @ torch.randn(vectors.shape[1], flat.shape[1]).to(vectors) / vectors.shape[1] ** 0.5
        flat.copy_(flat.std() * mapped)


def log_prob(network: nn.Module, codes: Tensor, y: Tensor | None = None) -> Tensor:
    """Codes (N, h, w) -> (N,) nats, the sum over positions of log p(code_i | the codes before it)."""
    return -F.cross_entropy(network(codes, y).float(), codes, reduction="none").flatten(1).sum(1)


@torch.no_grad()
def generate(
    network: nn.Module,
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
    noise = torch.rand(height * width, n, device=device)
    codes = torch.zeros(n, height, width, dtype=torch.int64, device=device)
    if given is not None:
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
            codes[:, row, column] = _draw(logits.float() / temperature, noise[position], top_k, top_p)
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
