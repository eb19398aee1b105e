"""The parts a model is composed of; each is an `nn.Module` that also works alone in a training loop of your own."""

from vaekit.parts.latents import Draw, GaussianLatent, Trace
from vaekit.parts.likelihoods import BernoulliLikelihood, DiscretizedLogisticLikelihood, GaussianLikelihood
from vaekit.parts.networks import Condition, make_networks
from vaekit.parts.priors import StandardNormalPrior, UniformPrior
from vaekit.parts.quantizers import VectorQuantizer

__all__ = [
    "BernoulliLikelihood",
    "Condition",
    "DiscretizedLogisticLikelihood",
    "Draw",
    "GaussianLatent",
    "GaussianLikelihood",
    "StandardNormalPrior",
    "Trace",
    "UniformPrior",
    "VectorQuantizer",
    "make_networks",
]
