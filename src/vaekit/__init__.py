"""vaekit: the workbench for variational autoencoders.

Public names load on first use, so that `import vaekit` stays quick: it imports neither torch nor scikit-learn.
"""

import importlib
from typing import TYPE_CHECKING

import vaekit.forks  # noqa: F401  (what a forked process needs)
from vaekit.registry import MODELS

if TYPE_CHECKING:  # for editors and type checkers, which run nothing
    from vaekit.data import Images as Images
    from vaekit.data import open_data as open_data
    from vaekit.estimators.anomalies import AnomalyDetector as AnomalyDetector
    from vaekit.estimators.conditional import CVAE as CVAE
    from vaekit.estimators.few_labels import FewLabelsClassifier as FewLabelsClassifier
    from vaekit.estimators.gaussian import IWAE as IWAE
    from vaekit.estimators.gaussian import VAE as VAE
    from vaekit.estimators.gaussian import BetaTCVAE as BetaTCVAE
    from vaekit.estimators.gaussian import BetaVAE as BetaVAE
    from vaekit.estimators.quantized import VQVAE as VQVAE
    from vaekit.files import load as load
    from vaekit.training.guard import TrainingFailed as TrainingFailed

__version__ = "0.1.0"

_HOME = {
    **{model.name: model.home for model in MODELS.values()},
    "AnomalyDetector": "vaekit.estimators.anomalies",
    "FewLabelsClassifier": "vaekit.estimators.few_labels",
    "load": "vaekit.files",
    "open_data": "vaekit.data",
    "Images": "vaekit.data",
    "TrainingFailed": "vaekit.training.guard",
}

__all__ = [*_HOME, "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'vaekit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
