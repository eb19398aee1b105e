"""vaekit: the workbench for variational autoencoders.

Public names load on first use, so that `import vaekit` stays quick: it imports neither torch nor scikit-learn.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for editors and type checkers, which run nothing
    from vaekit.data import Images, open_data
    from vaekit.estimators import CVAE, IWAE, VAE, VQVAE, BetaTCVAE, BetaVAE
    from vaekit.files import load
    from vaekit.training.loop import TrainingFailed

__version__ = "0.1.0"

_HOME = {
    "VAE": "vaekit.estimators",
    "BetaVAE": "vaekit.estimators",
    "CVAE": "vaekit.estimators",
    "VQVAE": "vaekit.estimators",
    "IWAE": "vaekit.estimators",
    "BetaTCVAE": "vaekit.estimators",
    "load": "vaekit.files",
    "open_data": "vaekit.data",
    "Images": "vaekit.data",
    "TrainingFailed": "vaekit.training.loop",
}

__all__ = [
    "VAE",
    "BetaVAE",
    "CVAE",
    "VQVAE",
    "IWAE",
    "BetaTCVAE",
    "Images",
    "TrainingFailed",
    "__version__",
    "load",
    "open_data",
]


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'vaekit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
