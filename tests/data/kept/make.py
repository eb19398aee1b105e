"""Makes the run folders beside this file, by the vaekit that is installed: one of each model, prior and kind of data, with what
it said of them, and one that was killed. `test_kept.py` has a later vaekit say the same. They are made once, on what
VERSION.json says, and a run of a later kind is added under a name of its own. What a vaekit of today makes of the same
seeds is in WEIGHTS.json, which `weights` writes anew after a change that is meant to change it.

    python tests/data/kept/make.py [weights]
"""

import hashlib
import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.datasets import load_digits, load_iris, load_wine

import vaekit
from vaekit.data.images import Images, fingerprint
from vaekit.training import loop
from vaekit.training.checkpoint import digest, read_tensors

HERE = Path(__file__).parent
TINY = {"architecture": "mlp", "width": 8, "latent_dim": 2, "epochs": 2, "random_state": 0, "verbose": False}


def digits() -> tuple[np.ndarray, np.ndarray]:
    """100 digits, (100, 8, 8) uint8, and their labels."""
    x, y = load_digits(return_X_y=True)
    return np.rint(x[:100] / 16 * 255).astype(np.uint8).reshape(-1, 8, 8), y[:100]


def colours() -> np.ndarray:
    """(100, 8, 8, 3) floats in [0, 1]."""
    return np.stack([np.roll(digits()[0], turn, axis=1) for turn in range(3)], axis=-1) / 255.0


def iris() -> tuple[pd.DataFrame, np.ndarray]:
    frame = load_iris(as_frame=True)
    return frame.data, np.asarray(frame.target_names)[frame.target]


def data(name: str):
    """X and y of a kept run."""
    x, y = digits()
    return {
        "digits": (x, y),
        "floats": (x / 255.0, y),
        "colours": (colours(), y),
        "two": (x > 127, y),
        "iris": iris(),
        "wine": load_wine(return_X_y=True),
    }[name]


RUNS = {  # name: (class, fields, data, whether fit is given y, the prior and its settings)
    "vae": ("VAE", {}, "digits", False, {"prior": "gmm", "components": 2}),
    "vae-early": (
        "VAE",
        {"early_stopping": True, "n_iter_no_change": 1, "epochs": 3},
        "floats",
        False,
        {"prior": "flow", "layers": 1, "channels": 4, "epochs": 1},
    ),
    "bvae": (
        "BetaVAE",
        {"epsilon": 3.0},
        "floats",
        False,
        {"prior": "vamp", "components": 3, "epochs": 1, "by_class": True},
    ),
    "cvae": ("CVAE", {"likelihood": "gaussian_fixed"}, "digits", True, {"prior": "gmm", "components": 1}),
    "vqvae": (
        "VQVAE",
        {"n_codes": 8, "code_dim": 2},
        "digits",
        False,
        {"prior": "pixelcnn", "layers": 1, "channels": 4, "epochs": 1, "by_class": True},
    ),
    "vqvae-gradient": (
        "VQVAE",
        {"n_codes": 4, "code_dim": 2, "ema": 0.0, "codebook_init": "data"},
        "colours",
        False,
        {"prior": "transformer", "layers": 1, "channels": 4, "epochs": 1},
    ),
    "iwae": ("IWAE", {"k": 2, "likelihood": "discretized_logistic"}, "colours", False, None),
    "btcvae": ("BetaTCVAE", {"likelihood": "bernoulli"}, "two", False, None),
    "vae-table": ("VAE", {"likelihood": "gaussian"}, "wine", False, {"prior": "gmm", "components": 1}),
    "cvae-table": ("CVAE", {"scaling": "auto", "likelihood": "gaussian"}, "iris", True, None),
    "vqvae-table": ("VQVAE", {"likelihood": "gaussian", "n_codes": 4, "code_dim": 2}, "wine", False, None),
}


def estimator(name: str):
    kind, fields, *_ = RUNS[name]
    return getattr(vaekit, kind)(**{**TINY, **fields})


def make(name: str, folder: Path) -> None:
    _, _, source, labelled, prior = RUNS[name]
    x, y = data(source)
    model = estimator(name).fit(x, y if labelled else None)
    if prior:
        by_class = labelled or prior.get("by_class", False)
        settings = {key: value for key, value in prior.items() if key != "by_class"}
        model.fit_prior(x, y if by_class else None, **settings)
    model.save(folder)


def said(model, source: str) -> dict[str, np.ndarray]:
    """What a fitted model says of its data, and what it draws."""
    x, y = data(source)
    y = y if model.conditional else None
    found = {
        "encode": model.encode(x[:20], None if y is None else y[:20]),
        "transform": model.transform(x[:20], None if y is None else y[:20]),
        "reconstruct": np.asarray(model.reconstruct(x[:20], None if y is None else y[:20])),
        "score_samples": model.score_samples(x[:20]),
        "sample": np.asarray(model.sample(7, random_state=1, prior=None if model.can_sample else "plain")),
        "prior_log_prob": model.prior_log_prob(model.encode(x[:20], None if y is None else y[:20])),
    }
    if model.has_prior:
        found["sample_fitted"] = np.asarray(model.sample(7, random_state=1, prior="fitted"))
    if model.conditional:
        found["predict_proba"] = model.predict_proba(x[:20])
    return found


def make_killed(folder: Path) -> None:
    """A run that was killed in the middle: with the checkpoint of its first epoch, and not finished."""

    class Killed(Exception):
        pass

    def kill(self, *_):
        save(self, *_)
        raise Killed

    save = loop.RunFolder.save_checkpoint
    loop.RunFolder.save_checkpoint, patience = kill, loop.CHECKPOINT_SECONDS
    loop.CHECKPOINT_SECONDS = 0.0
    try:
        killed().fit_images(killed_data(), folder=str(folder))
    except Killed:
        pass
    finally:
        loop.RunFolder.save_checkpoint, loop.CHECKPOINT_SECONDS = save, patience


def killed():
    return vaekit.VAE(**{**TINY, "epochs": 4, "early_stopping": True})


def killed_data() -> Images:
    x, y = digits()
    return Images(x[..., None], y, tuple("0123456789"), "digits-100", fingerprint(x[..., None], y))


def machine() -> dict:
    """What tells whether numbers made here can be expected there to the last bit."""
    torch.set_num_threads(1)
    draw = torch.Generator().manual_seed(0)
    x, w = torch.randn(64, 37, generator=draw), torch.randn(37, 53, generator=draw)
    images, kernel = torch.randn(8, 3, 9, 9, generator=draw), torch.randn(5, 3, 3, 3, generator=draw)
    found = [
        x @ w,
        (x @ w).exp(),
        torch.nn.functional.conv2d(images, kernel),
        x.std(1),
        x.logsumexp(0),
        x.tanh(),
        x.erf(),
    ]
    digest = hashlib.sha256(b"".join(part.contiguous().numpy().tobytes() for part in found)).hexdigest()
    return {"torch": torch.__version__, "numpy": np.__version__, "arithmetic": digest}


def digests(folder: Path) -> dict[str, str]:
    """Of the files of weights in a run folder."""
    files = [folder / name for name in ("weights.safetensors", "prior.safetensors") if (folder / name).exists()]
    return {file.name: digest(read_tensors(file)[0], {}) for file in files}


def go_on(folder: Path) -> None:
    """Goes on with a copy of the killed run, to its end."""
    shutil.copytree(HERE / "killed", folder)
    killed().fit_images(killed_data(), folder=str(folder), resume=True)


def write_weights() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name in RUNS:
            make(name, Path(folder) / name)
        go_on(Path(folder) / "killed")
        found = {name: digests(Path(folder) / name) for name in (*RUNS, "killed")}
    (HERE / "WEIGHTS.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:] == ["weights"]:
        write_weights()
        raise SystemExit
    for name in RUNS:
        folder = HERE / name
        if folder.exists():
            continue
        make(name, folder)
        (folder / ".vaekit.lock").unlink(missing_ok=True)
        np.savez_compressed(HERE / f"{name}.npz", **said(vaekit.load(folder), RUNS[name][2]))
    if not (HERE / "killed").exists():
        make_killed(HERE / "killed")
    (HERE / "VERSION.json").write_text(json.dumps({"version": vaekit.__version__, **machine()}, indent=1) + "\n")
