"""A fitted model as a folder of ONNX files, with what describes and what uses them."""

from __future__ import annotations

import importlib.util
import json
import tempfile
from pathlib import Path

import numpy as np
import torch

from vaekit import __version__
from vaekit.export.example import example
from vaekit.export.files import OPSET, to_onnx, verify
from vaekit.export.graphs import TOLERANCE, graphs_of
from vaekit.fitted import Fitted
from vaekit.messages import filled
from vaekit.owned import check_new_folder
from vaekit.state import undisturbed
from vaekit.training.checkpoint import digest
from vaekit.world import seeded


@undisturbed
def export_onnx(model: Fitted, folder) -> dict:
    """Writes a fitted model to the new folder `folder` as ONNX, for any number of samples at a time.

    encoder.onnx      x -> mean, log_var of q(z|x); of a VQ-VAE: codes, z (the codes' vectors)
    decoder.onnx      z -> x; of a VQ-VAE: codes -> x
    codebook.onnx     of a VQ-VAE: codes -> z
    prior.onnx        of a fitted GMM, VampPrior or flow: noise -> z
    prior_step.onnx   of a fitted PixelCNN or transformer: codes -> logits; those of a position look at codes before it only;
                      of flow matching: x, t -> x one step later, and that as z
    export.json       inputs and outputs with shapes, types and meaning, classes, and the differences from PyTorch
    example.py        how to encode, decode and sample with numpy and onnxruntime

    Images are x (N, H, W, C) float32 in [0, 1], tables (N, D) in their own units, labels y (N,) int64 indices of the classes.
    Tables go in and come out as float64, since float32 would round columns far from 0; integers are not rounded.
    Returns what export.json holds. Raises ValueError where `folder` is not new or empty, a library is missing or the prior has
    no graph, ExportFailed where a part makes no graph, or onnxruntime and PyTorch differ by more than TOLERANCE.
    """
    folder = Path(folder)
    check_export(folder)
    rng = np.random.default_rng(0)
    files, entries = {}, {}
    with torch.no_grad(), seeded(0):
        graphs = graphs_of(model)
        for graph in graphs:
            file = f"{graph.name}.onnx"
            files[file] = to_onnx(graph)
            entries[file] = {"does": graph.does, **verify(graph, files[file], rng)}
    facts = {**_facts(model), "files": entries}
    files["export.json"] = (json.dumps(facts, indent=1) + "\n").encode()
    files["example.py"] = example(model, graphs).encode()
    folder = check_new_folder(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent) as temporary:
        whole = Path(temporary) / "export"
        whole.mkdir()
        for name, data in files.items():
            (whole / name).write_bytes(data)
        whole.replace(folder)
    return facts


def check_export(folder) -> None:
    """Raises ValueError where `folder` is there and not empty, or the libraries are missing: known before a model is loaded."""
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"ONNX needs the extra `export` ({', '.join(missing)} missing): pip install 'vaekit[export]'")
    check_new_folder(folder)


def _facts(model: Fitted) -> dict:
    """What export.json tells of the model beside its files."""
    classes, data = model.sampling_classes(), model.facts["data"]
    weights = {name: tensor.cpu().contiguous() for name, tensor in model.module.state_dict().items()}
    prior = model.prior_name if model.can_sample else "uniform codes; fit one with `vaekit fit-prior` to sample"
    return {
        "vaekit": __version__,
        "model": model.name,
        "fingerprint": digest(weights, {}),
        "data": {**data, "name": Path(data["name"]).name},  # where it lay is nobody's concern
        "image_shape": list(model.format.shape),
        "classes": None if classes is None else classes.tolist(),
        "class_shares": None if classes is None else filled(model.sampling_shares()).tolist(),
        "prior": prior,
        "opset": OPSET,
        "tolerance": TOLERANCE,
    }
