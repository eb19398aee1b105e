"""
All figures of Wang's report
============================

Figures 1 to 16 of Yinjie Wang's report "Variational Autoencoder" (2023) and its table, drawn anew with its networks, losses
and settings: ``architecture="wang2023"``. As it stands it takes a small part of scikit-learn's digits, enlarged to 28x28,
and a few epochs, so that the pictures show what is drawn and not yet what comes out; ``python plot_13_report.py mnist 50``
is the report's own protocol. :doc:`Chapter by chapter </report/index>` says what came out of that.
"""

import sys

import numpy as np
from PIL import Image

from vaekit import CVAE, VAE, VQVAE, BetaVAE, Images, open_data
from vaekit.evaluation.likelihood import evaluate
from vaekit.pictures.charts import curve, training_curves
from vaekit.pictures.planes import latent_space
from vaekit.pictures.sheets import by_class, image_grid, reconstructions, traversals
from vaekit.report.living import traverse

name, epochs = (sys.argv[1], int(sys.argv[2])) if len(sys.argv) == 3 else ("digits", 8)
few = max(2, epochs // 5)  # for the curves of many trainings
smaller = (
    {"batch_size": 25} if name == "digits" else {}
)  # of few images, for more steps than the report's 100 would make


def enlarged(part: Images) -> Images:
    """Grey images of any size as 28x28, the first 800 of digits."""
    if part.image_shape == (28, 28, 1):
        return part
    x = [Image.fromarray(image[..., 0]).resize((28, 28), Image.Resampling.BICUBIC) for image in part.x[:800]]
    return Images(np.stack(x)[..., None], part.y[: len(x)], part.classes, part.name, split=part.split)


train, test = (enlarged(open_data(name, part)) for part in ("train", "test"))
labels = np.asarray(test.classes)[test.y]


def fitted(model, passes: int = epochs, **fields):
    """A model of the report's, trained."""
    return model(architecture="wang2023", random_state=0, epochs=passes, **smaller, **fields).fit_images(train).fitted_


def measured(model) -> dict:
    """Its numbers on test images."""
    return evaluate(model.module, model.data(test))


# %%
# Chapter 1, the VAE: the training curve, and the loss against the latent dimension.
models = {"VAE": fitted(VAE)}
figure_1 = training_curves({"VAE": models["VAE"].history})
dims = (2, 4, 6, 8, 10, 12, 14, 16)
losses = [-measured(fitted(VAE, few, latent_dim=d))["elbo"] for d in dims]
figure_2 = curve(dims, {"test loss": losses}, xlabel="latent dimension", ylabel="nats per image", title="Figure 2")

# %%
# Samples from the prior, and the plane of a model with two latents.
figure_3 = image_grid(models["VAE"].sample(64, random_state=0), title="Figure 3: 64 samples of the VAE")
plane = fitted(VAE, latent_dim=2)
figure_4 = latent_space({"Figure 4: VAE, d=2": (plane.transform(test), test.y)}, test.classes)

# %%
# Chapter 2, the beta-VAE: each latent moved by itself, beside the VAE's.
models["beta-VAE"] = fitted(BetaVAE)
both = {label: traverse(model, test, measured(model)["kl_per_latent"], 9) for label, model in models.items()}
figure_5 = traversals(both)

# %%
figure_6 = image_grid(models["beta-VAE"].sample(64, random_state=0), title="Figure 6: 64 samples of the beta-VAE")
plane = fitted(BetaVAE, latent_dim=2)
figure_7 = latent_space({"Figure 7: beta-VAE, d=2": (plane.transform(test), test.y)}, test.classes)
betas = (1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 2.75)
last = [fitted(BetaVAE, few, beta=beta).history[-1] for beta in betas]
found = {"loss": [record["distortion"] + beta * record["rate"] for beta, record in zip(betas, last, strict=True)]}
figure_8 = curve(betas, found, xlabel="beta", ylabel="nats per image", title="Figure 8")

# %%
# Chapter 3, the conditional VAE: the training curve, samples by condition 8, and of all classes.
models["CVAE"] = fitted(CVAE)
figure_9 = training_curves({"CVAE": models["CVAE"].history})
classes = np.asarray(test.classes)
figure_10 = image_grid(
    models["CVAE"].sample(64, "8", random_state=0), title="Figure 10: the CVAE's samples by condition 8"
)
sheet = models["CVAE"].sample(80, np.tile(classes, 8), random_state=0).reshape(8, 10, 28, 28, 1)
figure_11 = by_class(sheet, test.classes, title="Figure 11: a column a class")
plane = fitted(CVAE, latent_dim=2)
figure_12 = latent_space({"Figure 12: CVAE, d=2": (plane.transform(test, labels), test.y)}, test.classes)

# %%
# Chapter 4, the VQ-VAE: the training curve, vectors before they are quantised, and reconstructions.
models["VQ-VAE"] = fitted(VQVAE)
figure_13 = training_curves({"VQ-VAE": models["VQ-VAE"].history})
vectors = models["VQ-VAE"].transform(test).reshape(len(test), 7, 7, 2)
vectors = vectors[:, 2:5, 2:5].reshape(len(test), 9, 2)  # the nine places in the middle, of two numbers each
rng = np.random.default_rng(0)
spread = vectors.reshape(-1, 2) + rng.normal(
    0, 0.02 * vectors.std(), (vectors.size // 2, 2)
)  # else all lie on ten points
figure_14 = latent_space({"Figure 14: code vectors": (spread, np.repeat(test.y, vectors.shape[1]))}, test.classes)
shown = test.take(np.arange(10))
figure_15 = reconstructions(shown.x, {"VQ-VAE": models["VQ-VAE"].reconstruct(shown.x)})

# %%
# Chapter 5: the same images by all models.
named = np.asarray(test.classes)[shown.y]
rebuilt = {label: model.reconstruct(shown.x, named if model.conditional else None) for label, model in models.items()}
figure_16 = reconstructions(shown.x, rebuilt, names=list(named))

# %%
# And the table. Parameters are the report's to the last.
print(f"{'model':<10}{'seconds':>10}{'parameters':>12}{'MSE':>10}")
for label, model in models.items():
    seconds = sum(record["seconds"] for record in model.history)
    print(f"{label:<10}{seconds:>10.1f}{model.module.n_parameters:>12,}{measured(model)['mse']:>10.4f}")
