"""How well a model explains images: distortion, rate and ELBO in nats per image, and what its latents are used for."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from vaekit.data.batches import Data
from vaekit.models.autoencoder import Autoencoder
from vaekit.models.objectives import distortion_and_rate, log_weights
from vaekit.parts.latents import independent_noise
from vaekit.parts.quantizers import usage
from vaekit.state import undisturbed
from vaekit.tensors import bits_per_dim, gaussian_kl
from vaekit.threads import paced
from vaekit.world import derive_seed, seeded

ROWS = 2000  # images times draws that are decoded at once
ACTIVE = 0.01  # variance of the posterior mean above which a latent is active (Burda, Grosse & Salakhutdinov 2016)


@undisturbed
@torch.inference_mode()
def evaluate(model: Autoencoder, data: Data, *, draws: int = 8, seed: int = 0) -> dict:
    """Averages over all images of `data`, the model in eval mode.

    Densities are in the units of the data's `log_det`, where it has one.
    mse: squared error per pixel of the reconstruction from the posterior mean (or the nearest codes).
    distortion, rate, elbo: nats per image, `draws` independent posterior draws per image (1 of a quantizer, where all are
    the same); elbo = -(distortion + rate). The rate is under the model's prior, fitted or plain.
    Of a conditional model they are of log p(x|y), the label given.
    elbo_se: standard error of the ELBO over images and draws. bits_per_dim: for a discretised likelihood only.
    kl_per_latent (D nats), active_units, aggregate_kl_at_least, collapse: for a Gaussian latent; see `aggregate_kl_at_least`,
    and `collapse` is a sentence. codes_used, perplexity: for a quantizer, over the set.
    """
    model.eval()
    draws = 1 if model.latent.discrete else draws
    squared = distortion = rate = elbo_sum = elbo_squares = 0.0
    means, variances, kls, counts = [], [], torch.zeros(()), torch.zeros((), dtype=torch.int64)
    size = data.at_once(model)
    for start in paced(range(0, len(data), size)):
        x, y = data.batch(slice(start, start + size))
        squared += (model.reconstruct(x, y) - x).square().flatten(1).sum(1).cpu().double().sum().item()
        with seeded(derive_seed(seed, start)), independent_noise(model):
            passes, h = [], model.encoder(x, y)
            for _ in range(draws):
                trace = model.trace(h, x, y)
                passes.append(torch.stack(distortion_and_rate(trace)))
        terms = torch.stack(passes).mean(0).cpu().double()  # (2, B)
        if data.log_det is not None:
            terms[0] += data.log_det[start : start + size]
        distortion, rate = distortion + terms[0].sum().item(), rate + terms[1].sum().item()
        elbo_sum, elbo_squares = elbo_sum - terms.sum().item(), elbo_squares + terms.sum(0).square().sum().item()
        draw = trace.draws[0]
        if draw.moments is not None:
            means.append(draw.moments[0])
            variances.append(draw.moments[1].exp())
            kls = kls + gaussian_kl(*draw.moments).sum(0)
        elif model.latent.discrete:
            counts = counts + torch.bincount(draw.mode.flatten(), minlength=model.latent.n_codes)
    n, pixels = len(data), data.x[0].numel()
    mean = elbo_sum / n
    result = {
        "images": n,
        "draws": draws,
        "likelihood": model.likelihood.describe(),
        "mse": squared / (n * pixels),
        "distortion": distortion / n,
        "rate": rate / n,
        "elbo": mean,
        "elbo_se": (max(elbo_squares / n - mean**2, 0.0) / n) ** 0.5,
    }
    if model.likelihood.discrete:
        result["bits_per_dim"] = bits_per_dim(-mean, pixels)
    if means:
        result |= {"kl_per_latent": (kls / n).tolist(), **_use_of_latents(torch.cat(means), torch.cat(variances))}
    if model.latent.discrete:
        result |= {"n_codes": model.latent.n_codes, **usage(counts)}
    return result


def _use_of_latents(mean: Tensor, variance: Tensor) -> dict:
    """What posteriors of moments (N, D) say of the latents."""
    active = int((mean.var(0) > ACTIVE).sum())
    return {
        "active_units": active,
        "aggregate_kl_at_least": aggregate_kl_at_least(mean, variance),
        "collapse": _collapse(active, mean.shape[1]),
    }


def _collapse(active: int, latents: int) -> str:
    """Posterior collapse in plain words, by the criterion of `ACTIVE`."""
    if active == latents:
        return f"none: all {latents} latents carry something of the image"
    if active == 0:
        return f"complete: none of the {latents} latents carries anything of the image"
    return f"partial: {latents - active} of {latents} latents carry nothing of the image"


@undisturbed
def tail_shares(scores, reference) -> np.ndarray:
    """(N,) for each of `scores` (N,), the share of `reference` (M,) that is as low or lower; of NaN it is 0."""
    scores = np.nan_to_num(np.asarray(scores, np.float64), nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    return np.searchsorted(np.sort(reference), scores, side="right") / len(reference)


@undisturbed
def aggregate_kl_at_least(mean: Tensor, variance: Tensor) -> float:
    """What KL[q(z) || N(0, I)] is at least, in nats, for the aggregate posterior q(z) = 1/N sum_n q(z|x_n) of moments
    (N, D): how far the codes that the decoder was trained on lie from those that it is sampled with.

    It is the KL of the Gaussian with q(z)'s mean and covariance; the rest of it, how far q(z) is from a Gaussian, has no
    closed form. The mutual information of image and latent is therefore at most the rate less this.
    """
    mean, variance = mean.double().cpu(), variance.double().cpu()
    centre = mean.mean(0)
    centred = mean - centre
    covariance = centred.T @ centred / len(mean) + torch.diag(variance.mean(0))
    return 0.5 * (covariance.trace() + centre.square().sum() - len(centre) - torch.logdet(covariance)).item()


@undisturbed
@torch.inference_mode()
def importance_nll(model: Autoencoder, data: Data, *, k: int = 50, seed: int = 0) -> dict:
    """-log p(x) in nats per image by importance sampling from q(z|x): -log 1/k sum_i p(x, z_i) / q(z_i|x) (Burda et al. 2016,
    equation 8). In expectation it is an upper bound that falls with k, to the NLL itself; its prior is the one in use.

    Draws come in parts, so that memory does not grow with k. Of a conditional model it is -log p(x|y), the label given.
    nll, nll_se (standard error over images), nll_k, nll_images; nll_by_k: (draws, NLL by the first so many of them) pairs.
    bits_per_dim_nll: for a discretised likelihood only.
    Raises ValueError for a quantizer, whose q holds one code: there the ELBO is all that can be had this way; and for a prior
    that is not `exact`, whose noise would be taken for weight.
    """
    if model.latent.discrete:
        raise ValueError("a quantizer gives every image one code for certain: other codes can't be weighed from it")
    if not model.prior.exact:
        raise ValueError(
            "the prior's density is known as a bound, by noisy estimates, which can't be importance weights"
        )
    if k < 1:
        raise ValueError(f"k must be >= 1 draw, got {k}")
    model.eval()
    looks = sorted({1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, k} & set(range(k + 1)))
    batch = max(1, min(100, ROWS // min(k, 20), len(data)))
    found = []
    for start in paced(range(0, len(data), batch)):
        x, y = data.batch(slice(start, start + batch))
        with seeded(derive_seed(seed, "nll", start)), independent_noise(model):
            log_sum, at = torch.full((len(x),), -torch.inf, dtype=torch.float64, device=x.device), []
            h = model.encoder(x, y)
            for before, until in zip([0, *looks], looks, strict=False):
                for first in range(before, until, ROWS // batch):
                    trace = model.trace(h, x, y, samples=min(until - first, ROWS // batch))
                    log_sum = torch.logaddexp(log_sum, log_weights(trace).double().logsumexp(0))
                at.append(math.log(until) - log_sum)
        found.append(torch.stack(at, 1).cpu())
    nats = torch.cat(found)  # (N, looks)
    if data.log_det is not None:
        nats += data.log_det[:, None]
    n, nll = len(nats), nats[:, -1].mean().item()
    result = {
        "nll": nll,
        "nll_se": (nats[:, -1].std().item() if n > 1 else 0.0) / n**0.5,
        "nll_k": k,
        "nll_images": n,
        "nll_by_k": [[draws, value] for draws, value in zip(looks, nats.mean(0).tolist(), strict=True)],
    }
    if model.likelihood.discrete:
        result["bits_per_dim_nll"] = bits_per_dim(nll, data.x[0].numel())
    return result


@undisturbed
@torch.inference_mode()
def posterior(model: Autoencoder, data: Data, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Mean (N, D) of q(z|x), or of q(z|x, y) for a conditional model, and a draw (N, D) from it, for each image; on the CPU."""
    model.eval()
    means, draws = [], []
    size = data.at_once(model)
    for start in paced(range(0, len(data), size)):
        x, y = data.batch(slice(start, start + size))
        with seeded(derive_seed(seed, "posterior", start)), independent_noise(model):
            draw = model.latent(model.encoder(x, y))
        means.append(draw.moments[0].cpu())
        draws.append(draw.z[0].cpu())
    return torch.cat(means), torch.cat(draws)
