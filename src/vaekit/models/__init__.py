"""Models as compositions of parts, and the objectives they are trained with."""

from vaekit.models.autoencoder import Autoencoder
from vaekit.models.objectives import BetaTc, ConstrainedElbo, Elbo, Iwae

__all__ = ["Autoencoder", "BetaTc", "ConstrainedElbo", "Elbo", "Iwae"]
