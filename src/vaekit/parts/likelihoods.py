"""Likelihoods p(x|z): what the decoder's output means. `log_prob` is in nats per image, summed over its pixels.

Densities of different likelihoods do not compare: a Gaussian's is relative to intensities in [0, 1], a discretised
logistic's is a probability of 8-bit values.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaekit.tensors import gaussian_log_prob
from vaekit.world import current_part


class Likelihood(nn.Module):
    """p(x|z). A kind says `start`, `log_prob`, `mean` and `describe`, and the rest where it is otherwise.

    discrete: a probability of 8-bit values and no density, so that bits per dimension are defined.
    reals: its x may be any real numbers, such as a table's. binary: a probability for pixels of 0 and 1 only.
    """

    discrete = False
    reals = False
    binary = False

    def channels(self, c: int) -> int:
        """Channels the decoder must emit for images of `c` channels."""
        return c

    def of(self, shape: tuple[int, int, int]) -> Likelihood:
        """This, of x of `shape` (C, H, W), told once before it is used."""
        return self

    def prime(self, x: Tensor) -> None:
        """Data-dependent initialisation from images x (N, C, H, W), before the first step."""

    def start(self, x: Tensor) -> Tensor:
        """Images x (N, C, H, W) -> (channels,), the decoder output whose mean is that of each channel."""
        raise NotImplementedError

    def log_prob(self, out: Tensor, x: Tensor) -> Tensor:
        """Decoder output (N, channels, H, W) and images (N, C, H, W) -> (N,) nats."""
        raise NotImplementedError

    def mean(self, out: Tensor) -> Tensor:
        """Decoder output (N, channels, H, W) -> the mean of x, (N, C, H, W)."""
        raise NotImplementedError

    def penalty_scale(self) -> float | Tensor:
        """What squared latent distances are multiplied with; 1 weighs them as they are."""
        return 1.0

    def unsettled(self) -> list[Tensor]:
        """What is to be added up over ranks, in place, before `settle`."""
        return []

    def settle(self) -> None:
        """Takes in what a batch came to that was looked at in parts, once all of them have been: see `vaekit.ranks.Part`."""

    def usage(self) -> dict[str, float]:
        """What is worth a line in the log at the end of an epoch."""
        return {}

    @property
    def fixed_variance(self) -> float | None:
        """The variance of a pixel where that is given beforehand."""
        return None

    def describe(self) -> str:
        """In a table's words. Numbers of models compare where these are the same."""
        raise NotImplementedError


def _logit(mean: Tensor) -> Tensor:
    return torch.logit(mean, eps=0.01)


# Of a column's variance, what is the mean of all columns'. A column that is the same in almost all rows that were seen would
# else be taken to be the same in all others.
SHARED = 0.02


class GaussianLikelihood(Likelihood):
    """x ~ N(mean, variance I), with a fixed variance (the report's lambda), one learned and shared by all pixels, or one
    learned for each column of a table, as in factor analysis.

    variance: the fixed value, > 0; None learns it as the running mean squared error of the training batches, which is
        its maximum-likelihood value (Rybkin, Daniilidis & Levine 2021, "sigma-VAE"). A gradient step would need
        thousands of steps to get there; the closed form follows the decoder at once.
    by_column: a learned variance is (W,), of x (N, C, H, W), once `of` has told how many; a table's rows are (1, 1, W). That of
        a column which never changes, by `prime`, is the mean of the others': the data say nothing of it.
    bounded: a sigmoid keeps the mean in (0, 1), as images want; False leaves it free, as tables and the report do.
    """

    reals = True
    variance: Tensor
    changes: Tensor

    def __init__(
        self, *, variance: float | None = None, bounded: bool = True, momentum: float = 0.02, by_column: bool = False
    ):
        super().__init__()
        if variance is not None and not variance > 0:
            raise ValueError(f"likelihood variance must be > 0, got {variance}")
        self.learned, self.bounded, self.momentum, self.by_column = variance is None, bounded, momentum, by_column
        self.register_buffer("variance", torch.tensor(1.0 if variance is None else float(variance)))
        self.seen: Tensor | None = None  # of the mean squared error of a batch, in the parts so far

    def prime(self, x: Tensor) -> None:
        """Starts a learned variance at that of the data x (N, C, H, W), before the first step."""
        if not self.learned:
            return
        squares = (x - x.mean(0)).square()
        if self.by_column:
            self.changes.copy_(squares.amax((0, 1, 2)) > 0)
        self.variance.copy_(self._mean(squares).clamp(min=1e-4))

    def of(self, shape: tuple[int, int, int]) -> GaussianLikelihood:
        """As many variances as columns, where each has its own."""
        if self.by_column:
            self.variance = self.variance.new_ones(shape[2])
            self.register_buffer("changes", torch.ones(shape[2]))  # 1 for a column that does, else 0
        return self

    def _mean(self, squares: Tensor) -> Tensor:
        """(N, C, H, W) -> (), or (W,), each a little of all columns'."""
        if not self.by_column:
            return squares.mean()
        columns = squares.mean((0, 1, 2))
        shared = (columns * self.changes).sum() / self.changes.sum().clamp(min=1)
        return columns.lerp(shared, SHARED) * self.changes + shared * (1 - self.changes)

    def start(self, x: Tensor) -> Tensor:
        """Images x (N, C, H, W) -> (C,), the decoder output whose mean is that of each channel."""
        mean = x.mean((0, 2, 3))
        return _logit(mean) if self.bounded else mean

    def _location(self, out: Tensor) -> Tensor:
        return torch.sigmoid(out) if self.bounded else out

    def log_prob(self, out: Tensor, x: Tensor) -> Tensor:
        """(N, C, H, W) decoder output and images -> (N,) nats. In training mode a learned variance then follows x."""
        location, log_var = self._location(out), self.variance.log()
        if self.learned and self.training:
            error, part = self._mean((location.detach() - x).square()).to(self.variance.dtype), current_part()
            if part is None:  # a new tensor: a compiled backward pass reads the one before
                self.variance = self._follow(error)
            else:
                self.seen = part.share * error + (0.0 if self.seen is None else self.seen)
        return gaussian_log_prob(x, location, log_var).flatten(1).sum(1)

    def unsettled(self) -> list[Tensor]:
        return [] if self.seen is None else [self.seen]

    def settle(self) -> None:
        """What `log_prob` does at once where nobody looks at a batch in parts: by its mean squared error."""
        if self.seen is not None:
            self.variance.copy_(self._follow(self.seen))
            self.seen = None

    @torch.no_grad()
    def _follow(self, error: Tensor) -> Tensor:
        return self.variance.lerp(error.detach().clamp(min=1e-6), self.momentum)

    def mean(self, out: Tensor) -> Tensor:
        """(N, C, H, W) decoder output -> the mean of x; clamped to [0, 1] by `Autoencoder.decode` where x is an image."""
        return self._location(out)

    def penalty_scale(self) -> Tensor:
        """1 / (2 variance): puts squared latent distances on the footing of the squared error in the nats of `log_prob`."""
        return 0.5 / self.variance.mean()

    def usage(self) -> dict[str, float]:
        """`sigma`, where it is learned, the root of the mean variance."""
        return {"sigma": self.variance.mean().sqrt().item()} if self.learned else {}

    @property
    def fixed_variance(self) -> float | None:
        """`variance`, where it is not learned."""
        return None if self.learned else self.variance.item()

    def describe(self) -> str:
        """Such as "Gaussian, sigma learned"."""
        learned = "learned for each column" if self.by_column else "learned"
        return "Gaussian, sigma " + (learned if self.learned else f"{math.sqrt(self.variance):.3f}")


class BernoulliLikelihood(Likelihood):
    """x ~ Bernoulli(sigmoid(out)) per pixel. A probability for binary pixels; for grey ones only a cross-entropy."""

    binary = True

    def start(self, x: Tensor) -> Tensor:
        """Images x (N, C, H, W) -> (C,), the decoder output whose mean is that of each channel."""
        return _logit(x.mean((0, 2, 3)))

    def log_prob(self, out: Tensor, x: Tensor) -> Tensor:
        """(N, C, H, W) logits and images in [0, 1] -> (N,) nats."""
        return (x * out - F.softplus(out)).flatten(1).sum(1)

    def mean(self, out: Tensor) -> Tensor:
        """(N, C, H, W) logits -> the mean of x, in [0, 1]."""
        return torch.sigmoid(out)

    def describe(self) -> str:
        """ "Bernoulli"."""
        return "Bernoulli"


class DiscretizedLogisticLikelihood(Likelihood):
    """A logistic distribution per pixel, integrated over the 256 bins of 8-bit data (Salimans et al. 2017, section 2.1).

    A true likelihood of 8-bit images, so bits per dimension is defined. The decoder emits a mean and a log-scale per
    pixel; the two outermost bins take the tails, so that the 256 probabilities sum to one.
    """

    discrete = True
    half_bin = 0.5 / 255
    log_scale_range = (-7.0, 2.0)

    def channels(self, c: int) -> int:
        """Channels the decoder must emit for images of `c` channels: a mean and a log-scale for each."""
        return 2 * c

    def start(self, x: Tensor) -> Tensor:
        """Images x (N, C, H, W) -> (2C,), the decoder output whose mean is that of each channel."""
        location = _logit(x.mean((0, 2, 3)))
        return torch.cat([location, torch.zeros_like(location)])

    def _split(self, out: Tensor) -> tuple[Tensor, Tensor]:
        location, log_scale = out.chunk(2, dim=1)
        return torch.sigmoid(location), (log_scale - 2.0).clamp(*self.log_scale_range)

    def log_prob(self, out: Tensor, x: Tensor) -> Tensor:
        """(N, 2C, H, W) decoder output and images (N, C, H, W) in [0, 1], rounded to 8 bits -> (N,) nats."""
        location, log_scale = self._split(out)
        x = (x * 255).round() / 255
        inverse_scale = torch.exp(-log_scale)
        upper = (x + self.half_bin - location) * inverse_scale
        lower = (x - self.half_bin - location) * inverse_scale
        # log(sigmoid(upper) - sigmoid(lower)), stable in both tails: the three factors of the difference of sigmoids.
        inside = -F.softplus(-upper) - F.softplus(lower) + torch.log(-torch.expm1(lower - upper))
        bins = torch.where(
            x < self.half_bin, F.logsigmoid(upper), torch.where(x > 1 - self.half_bin, -F.softplus(lower), inside)
        )
        return bins.flatten(1).sum(1)

    def mean(self, out: Tensor) -> Tensor:
        """(N, 2C, H, W) decoder output -> (N, C, H, W), the centre of each pixel's distribution, in [0, 1]."""
        return self._split(out)[0]

    def describe(self) -> str:
        """ "discretised logistic"."""
        return "discretised logistic"


# By name: what makes one of a fixed variance and of whether the mean of x is in [0, 1], for those that ask for it.
LIKELIHOODS: dict[str, Callable[[float, bool], Likelihood]] = {
    "gaussian": lambda variance, bounded: GaussianLikelihood(bounded=bounded),
    "gaussian_columns": lambda variance, bounded: GaussianLikelihood(bounded=bounded, by_column=True),
    "gaussian_fixed": lambda variance, bounded: GaussianLikelihood(variance=variance, bounded=bounded),
    "bernoulli": lambda variance, bounded: BernoulliLikelihood(),
    "discretized_logistic": lambda variance, bounded: DiscretizedLogisticLikelihood(),
}


def make_likelihood(name: str, *, variance: float = 0.098, bounded: bool = True) -> Likelihood:
    """The likelihood called `name`; `variance` serves "gaussian_fixed", `bounded` the Gaussians."""
    if name not in LIKELIHOODS:
        raise ValueError(f"likelihood must be one of {', '.join(LIKELIHOODS)}, got {name!r}")
    return LIKELIHOODS[name](variance, bounded)
