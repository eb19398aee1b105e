"""Models as compositions of parts, and the objectives they are trained with."""

from vaekit.models.autoencoder import Autoencoder
from vaekit.models.objectives import ConstrainedElbo, Elbo

__all__ = ["Autoencoder", "ConstrainedElbo", "Elbo"]
