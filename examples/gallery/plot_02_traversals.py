"""
Latents, one at a time
======================

What does a latent stand for? Take one image, move one latent and hold the others. Rows are ordered by how much each latent
tells, its KL in nats: the last rows, which tell nothing, change nothing.
"""

from vaekit import VAE, BetaVAE, open_data
from vaekit.evaluation.likelihood import evaluate
from vaekit.pictures.sheets import traversals
from vaekit.report.living import traverse

train, test = open_data("digits"), open_data("digits", "test")
models = {
    "VAE": VAE(architecture="mlp", random_state=0).fit_images(train).fitted_,
    "beta-VAE, beta 4": BetaVAE(beta=4.0, architecture="mlp", random_state=0).fit_images(train).fitted_,
}
kl = {name: evaluate(model.module, model.data(test))["kl_per_latent"] for name, model in models.items()}
rows = traversals({name: traverse(model, test, kl[name], 9) for name, model in models.items()})
