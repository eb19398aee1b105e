"""What every test shares: a cache of its own, real data where the machine has it, one thread a worker."""

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

# The same examples at every run: what fails for one fails for all. `--hypothesis-profile explore` looks for new ones.
settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None, print_blob=True)
settings.load_profile("same")

# Before vaekit is imported: its cache and its data are looked up when they are needed.
SHARED = Path(__file__).parents[2] / "shared" / "data"
# A worker's cache is that of the process which began it, so that a judge is trained once.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _cache = tempfile.TemporaryDirectory(prefix="vaekit-tests-", ignore_cleanup_errors=True)  # until the process ends
    os.environ["VAEKIT_CACHE"] = _cache.name
if SHARED.is_dir():
    os.environ.setdefault("VAEKIT_DATA", str(SHARED))


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """The worker processes share the cores; small networks are fastest on one thread each."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's digits as images: x (1797, 8, 8, 1) uint8, y (1797,) int64."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return np.rint(x / 16 * 255).astype(np.uint8).reshape(-1, 8, 8, 1), y.astype(np.int64)


@pytest.fixture(scope="module")
def brief_priors():
    """Second stages of codes are small and short, for files that look at what is made of them and not at how good they are."""
    from vaekit.training.kinds import KINDS

    with pytest.MonkeyPatch.context() as patch:
        for name in ("pixelcnn", "transformer"):
            patch.setitem(KINDS, name, KINDS[name]._replace(epochs=2, layers=(1, 1), channels=16))
        yield


@pytest.fixture
def undrawn(monkeypatch):
    """A report's page without pictures: drawing takes longer than all the rest of a small comparison."""
    monkeypatch.setattr("vaekit.report.compare.draw", lambda *_, **__: [])
