"""A beta above 1 raises disentanglement on sprites: beta-VAEs with beta 4 and 8 score above the VAE, by every published score.

Sprites of 32x32 pixels, 20,000 to train on; default networks, Bernoulli likelihood, 10 latents, 2,496 steps of 128. Scores are
of the posterior means of 10,000 other images, beside those of the factors themselves and of noise.
"""

import argparse
import statistics

import numpy as np

from benchmarks.harness import Findings, mean_std, progress, trained
from vaekit.data.sprites import sprites
from vaekit.evaluation.disentanglement import disentanglement
from vaekit.evaluation.likelihood import evaluate

SIZE, TRAIN, TEST = 32, 20_000, 10_000
LATENTS = 10
BETAS = (1, 4, 8)
SCORES = {
    "mig": "MIG",
    "dci_disentanglement": "DCI disentanglement",
    "dci_completeness": "DCI completeness",
    "dci_informativeness": "DCI informativeness",
    "sap": "SAP",
    "factorvae_score": "FactorVAE score",
    "betavae_score": "beta-VAE score",
}
TERMS = {"distortion": "distortion, nats", "rate": "rate, nats", "elbo": "ELBO", "active_units": "active units"}


def run(argv):
    parser = argparse.ArgumentParser(prog="python -m benchmarks disentanglement")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=16)
    arguments = parser.parse_args(argv)
    images, factors = sprites(TRAIN + TEST, size=SIZE)
    train, test = images.take(slice(TRAIN)), images.take(slice(TRAIN, None))
    known = factors.take(slice(TRAIN, None)).values
    scores, terms = {}, {}
    for seed in range(arguments.seeds):
        for beta in BETAS:
            model = trained(
                f"disentanglement/beta-{beta}-seed{seed}",
                "vae" if beta == 1 else "bvae",
                train,
                random_state=seed,
                epochs=arguments.epochs,
                latent_dim=LATENTS,
                likelihood="bernoulli",
                **({} if beta == 1 else {"beta": float(beta)}),
            )
            scores.setdefault(beta, []).append(disentanglement(model.transform(test.x), known, seed=seed))
            terms.setdefault(beta, []).append(evaluate(model.model_, model.fitted_.data(test), draws=1, seed=seed))
            progress(f"beta {beta} seed {seed}: MIG {scores[beta][-1]['mig']:.3f}, ELBO {terms[beta][-1]['elbo']:.2f}")
    noise = np.random.default_rng(0).normal(size=(TEST, LATENTS))
    bounds = {"the factors": disentanglement(known, known), "noise": disentanglement(noise, known)}
    rows = [
        [
            "VAE" if beta == 1 else f"beta-VAE, beta {beta}",
            *(mean_std([found[name] for found in scores[beta]], ".3f") for name in SCORES),
            *(mean_std([found[name] for found in terms[beta]], ".1f") for name in TERMS),
        ]
        for beta in BETAS
    ]
    rows += [
        [label, *(f"{found[name]:.3f}" for name in SCORES), *("" for _ in TERMS)] for label, found in bounds.items()
    ]
    compared = {beta: {name: _compared(scores, name, beta) for name in SCORES} for beta in BETAS[1:]}
    higher = {beta: sum(above for _, above in found.values()) for beta, found in compared.items()}
    best = max(BETAS, key=lambda beta: statistics.fmean(found["elbo"] for found in terms[beta]))
    listed = (
        f"beta {beta}: " + ", ".join(f"{SCORES[name]} {margin}" for name, (margin, _) in found.items())
        for beta, found in compared.items()
    )
    text = (
        f"{arguments.seeds} seed(s), {arguments.epochs} epoch(s), scores of {TEST:,} held-out images. The claim "
        f"{'holds' if min(higher.values()) == len(SCORES) else 'does NOT hold'}: the worst seed is above the VAE's best in "
        + " and ".join(f"{count} of {len(SCORES)} scores for beta {beta}" for beta, count in higher.items())
        + ". Differences of means from the VAE's, and in brackets the larger of the two standard deviations over seeds: "
        + f"{'; '.join(listed)}. The best mean ELBO is that of beta {best}. Squares repeat each quarter of a turn and ellipses "
        "each half, so that no code of the images reaches the scores of the factors themselves."
    )
    return Findings(["model", *SCORES.values(), *TERMS.values()], rows, text)


def _compared(scores, name, beta):
    """By how much a score's mean at `beta` is above that at 1, with the spread, and whether all its seeds are above all."""
    ours, plain = ([found[name] for found in scores[which]] for which in (beta, 1))
    margin = f"{statistics.fmean(ours) - statistics.fmean(plain):+.3f}"
    spread = f" ({max(map(statistics.stdev, (ours, plain))):.3f})" if len(ours) > 1 else ""
    return margin + spread, min(ours) > max(plain)
