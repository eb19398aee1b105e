"""The models there are, each entered once: the command line, `import vaekit`, reports and documents list what stands here.

A model of your own joins them by an entry: `MODELS["mine"] = Model("Mine", "Mine", "what it is", "my_module", "my_module")`.
"""

from __future__ import annotations

import importlib
from typing import NamedTuple


class Model(NamedTuple):
    """An estimator, named without importing it. name: of its class, which is in the module `home`; its fields, a dataclass,
    are `name` + "Fields" in the module `fields_home`, or the class itself where that is `home`. label: in reports. line: what
    it is.
    """

    name: str
    label: str
    line: str
    home: str
    fields_home: str = "vaekit.estimators.fields"

    def estimator(self) -> type:
        """The estimator's class, with all that it imports."""
        return getattr(importlib.import_module(self.home), self.name)

    def fields(self) -> type:
        """The dataclass of its fields, which is light to import."""
        if self.fields_home == self.home:
            return self.estimator()
        return getattr(importlib.import_module(self.fields_home), f"{self.name}Fields")


MODELS = {
    "vae": Model("VAE", "VAE", "variational autoencoder", "vaekit.estimators.gaussian"),
    "bvae": Model(
        "BetaVAE",
        "beta-VAE",
        "beta-VAE: fixed --beta, or the rate held at --epsilon nats",
        "vaekit.estimators.gaussian",
    ),
    "cvae": Model("CVAE", "CVAE", "conditional VAE: needs labels", "vaekit.estimators.conditional"),
    "vqvae": Model("VQVAE", "VQ-VAE", "VQ-VAE: a grid of discrete codes", "vaekit.estimators.quantized"),
    "iwae": Model(
        "IWAE",
        "IWAE",
        "importance-weighted autoencoder: the bound of --k draws",
        "vaekit.estimators.gaussian",
    ),
    "btcvae": Model(
        "BetaTCVAE",
        "beta-TCVAE",
        "beta-TCVAE: the total correlation of the latents weighted by --beta",
        "vaekit.estimators.gaussian",
    ),
}


def key_of(name: str) -> str:
    """The key of the estimator class called `name`. Raises KeyError for one that is not entered."""
    return {model.name: key for key, model in MODELS.items()}[name]
