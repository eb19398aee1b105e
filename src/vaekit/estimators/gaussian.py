"""Models of one Gaussian vector a sample: the VAE and what weighs its objective otherwise."""

from __future__ import annotations

from typing import ClassVar

from vaekit.data.images import Images
from vaekit.estimators.base import Estimator, balanced_beta
from vaekit.estimators.fields import BetaTCVAEFields, BetaVAEFields, IWAEFields, VAEFields
from vaekit.messages import check_number, filled
from vaekit.models.autoencoder import Autoencoder
from vaekit.models.objectives import BetaTc, ConstrainedElbo, Iwae

# Of an IWAE's training. More saves more time, but where a draw costs little it leaves no gain over a VAE of as many epochs.
ELBO_SHARE = 0.5


class VAE(VAEFields, Estimator):
    """Variational autoencoder (Kingma & Welling 2014): Gaussian latent, standard normal prior, the ELBO."""


class BetaVAE(BetaVAEFields, Estimator):
    """beta-VAE (Higgins et al. 2017): the rate weighted by beta, or held at `epsilon` nats with beta learned."""

    rate_weight: ClassVar[str | None] = "beta"

    def defaults(self, *, wang2023: bool, shape: tuple[int, ...], epochs: float) -> dict:
        if self.epsilon is not None:
            return {"rate_warmup_epochs": 0.0}  # the multiplier finds its own way up
        return {"beta": 1.5 if wang2023 else balanced_beta(shape)}

    def make_objective(self, steps_per_epoch: int):
        if self.epsilon is not None:
            return ConstrainedElbo(epsilon=self.epsilon)
        return self.elbo(filled(self.beta), steps_per_epoch)

    def check_fields(self, images: Images) -> None:
        super().check_fields(images)
        if self.epsilon is not None and self.early_stopping:
            raise ValueError(
                "early_stopping compares the objectives of epochs, which a beta learned for epsilon changes: give one of them"
            )
        if self.epsilon is not None and self.beta is not None:
            raise ValueError(
                f"give beta or epsilon, not both: epsilon={self.epsilon} learns beta, got beta={self.beta}"
            )
        check_number("beta", self.beta)
        check_number("epsilon", self.epsilon, above=0)


class IWAE(IWAEFields, Estimator):
    """Importance-weighted autoencoder (Burda, Grosse & Salakhutdinov 2016): a VAE trained with the tighter bound of `k` draws.
    Its ELBO in tables and `score_samples` is that of one draw, as for every model; `vaekit evaluate` has the NLL of many.
    """

    warms_rate: ClassVar[bool] = False
    first_epochs: ClassVar[str] = "elbo_epochs"

    def check_fields(self, images: Images) -> None:
        super().check_fields(images)
        check_number("k", self.k, whole=True, above=0)
        check_number("elbo_epochs", self.elbo_epochs)
        if self.rate_warmup_epochs:
            raise ValueError(
                f"an IWAE has no rate_warmup_epochs, since its bound has no weight on the rate; got {self.rate_warmup_epochs}"
            )

    def build(self, shape: tuple[int, int, int], *, n_classes: int = 0, images: bool = True) -> Autoencoder:
        module = super().build(shape, n_classes=n_classes, images=images)
        module.samples = self.k
        return module

    def defaults(self, *, wang2023: bool, shape: tuple[int, ...], epochs: float) -> dict:
        return {"rate_warmup_epochs": 0.0, "elbo_epochs": 0.0 if wang2023 else ELBO_SHARE * epochs}

    def make_objective(self, steps_per_epoch: int) -> Iwae:
        return Iwae(elbo_steps=round(self.unsettled_epochs * steps_per_epoch))


class BetaTCVAE(BetaTCVAEFields, Estimator):
    """beta-TCVAE (Chen, Li, Grosse & Duvenaud 2018): of the rate, only the total correlation of the latents is weighted."""

    def check_fields(self, images: Images) -> None:
        super().check_fields(images)
        for name in ("alpha", "beta", "gamma"):
            check_number(name, getattr(self, name))

    def make_objective(self, steps_per_epoch: int) -> BetaTc:
        # Epochs leave out the last, smaller batch, and so does the number of images.
        return BetaTc(
            n=steps_per_epoch * filled(self.batch_size),
            alpha=self.alpha,
            beta=self.beta,
            gamma=self.gamma,
            warmup=round(filled(self.rate_warmup_epochs) * steps_per_epoch),
        )
