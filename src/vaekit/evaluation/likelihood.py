"""How well a model explains images: distortion, rate and ELBO in nats per image, and what its latents are used for."""

from __future__ import annotations

import torch

from vaekit.models.autoencoder import Autoencoder
from vaekit.models.objectives import distortion_and_rate
from vaekit.parts.latents import independent_noise
from vaekit.parts.likelihoods import DiscretizedLogisticLikelihood, describe_likelihood
from vaekit.parts.quantizers import VectorQuantizer, usage
from vaekit.tensors import bits_per_dim, gaussian_kl
from vaekit.training.loop import Data
from vaekit.world import derive_seed, seeded

BATCH = 1000
ACTIVE = 0.01  # variance of the posterior mean above which a latent is active (Burda, Grosse & Salakhutdinov 2016)


@torch.inference_mode()
def evaluate(model: Autoencoder, data: Data, *, draws: int = 8, seed: int = 0) -> dict:
    """Averages over all images of `data`, the model in eval mode.

    mse: squared error per pixel of the reconstruction from the posterior mean (or the nearest codes).
    distortion, rate, elbo: nats per image, `draws` independent posterior draws per image (1 of a quantizer, where all are
    the same); elbo = -(distortion + rate). The rate is under the model's prior, fitted or plain.
    Of a conditional model they are of log p(x|y), the label given.
    elbo_se: standard error of the ELBO over images and draws. bits_per_dim: for a discretised likelihood only.
    kl_per_latent (D nats), active_units: for a Gaussian latent. codes_used, perplexity: for a quantizer, over the set.
    """
    model.eval()
    draws = 1 if isinstance(model.latent, VectorQuantizer) else draws
    squared = distortion = rate = elbo_sum = elbo_squares = 0.0
    latents, kls, counts = [], 0.0, 0
    for start in range(0, len(data), BATCH):
        x, y = data.batch(slice(start, start + BATCH))
        squared += (model.reconstruct(x, y) - x).square().flatten(1).sum(1).cpu().double().sum().item()
        with seeded(derive_seed(seed, start)), independent_noise(model):
            passes = []
            for _ in range(draws):
                trace = model(x, y, samples=1)
                passes.append(torch.stack(distortion_and_rate(trace)))
        terms = torch.stack(passes).mean(0).cpu().double()  # (2, B)
        distortion, rate = distortion + terms[0].sum().item(), rate + terms[1].sum().item()
        elbo_sum, elbo_squares = elbo_sum - terms.sum().item(), elbo_squares + terms.sum(0).square().sum().item()
        draw = trace.draws[0]
        if draw.moments is not None:
            latents.append(draw.moments[0])
            kls = kls + gaussian_kl(*draw.moments).sum(0)
        elif isinstance(model.latent, VectorQuantizer):
            counts = counts + torch.bincount(draw.mode.flatten(), minlength=model.latent.n_codes)
    n, pixels = len(data), data.x[0].numel()
    mean = elbo_sum / n
    result = {
        "images": n,
        "draws": draws,
        "likelihood": describe_likelihood(model.likelihood),
        "mse": squared / (n * pixels),
        "distortion": distortion / n,
        "rate": rate / n,
        "elbo": mean,
        "elbo_se": (max(elbo_squares / n - mean**2, 0.0) / n) ** 0.5,
    }
    if isinstance(model.likelihood, DiscretizedLogisticLikelihood):
        result["bits_per_dim"] = bits_per_dim(-mean, pixels)
    if latents:
        result["kl_per_latent"] = (kls / n).tolist()
        result["active_units"] = int((torch.cat(latents).var(0) > ACTIVE).sum())
    if isinstance(model.latent, VectorQuantizer):
        result |= {"n_codes": model.latent.n_codes, **usage(counts)}
    return result
