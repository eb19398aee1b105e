"""The parts a model is composed of; each is an `nn.Module` that also works alone in a training loop of your own."""

from vaekit.parts.causal import CausalTransformer, GatedPixelCNN
from vaekit.parts.latents import Draw, GaussianLatent, Trace
from vaekit.parts.likelihoods import BernoulliLikelihood, DiscretizedLogisticLikelihood, GaussianLikelihood
from vaekit.parts.matching import MatchingPrior
from vaekit.parts.networks import Condition, make_networks
from vaekit.parts.priors import AutoregressivePrior, FlowPrior, MixturePrior, StandardNormalPrior, UniformPrior
from vaekit.parts.quantizers import VectorQuantizer

__all__ = [
    "AutoregressivePrior",
    "BernoulliLikelihood",
    "CausalTransformer",
    "Condition",
    "DiscretizedLogisticLikelihood",
    "Draw",
    "FlowPrior",
    "GatedPixelCNN",
    "GaussianLatent",
    "GaussianLikelihood",
    "MatchingPrior",
    "MixturePrior",
    "StandardNormalPrior",
    "Trace",
    "UniformPrior",
    "VectorQuantizer",
    "make_networks",
]
