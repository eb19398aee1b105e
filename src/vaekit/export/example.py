"""The script beside a model's files that shows how to use them."""

from __future__ import annotations

from vaekit.fitted import Fitted
from vaekit.parts.graphs import Graph
from vaekit.parts.matching import STEPS

SHOWN = 16  # samples that it draws


def example(model: Fitted, graphs: list[Graph]) -> str:
    """A script for this model that samples, encodes and decodes with numpy and onnxruntime."""
    inputs = {graph.name: list(graph.inputs) for graph in graphs if graph.name != "codebook"}
    code = "drawn" if model.discrete else "z"
    shape = ", ".join(map(str, model.format.shape))
    outputs = ["codes", "vectors"] if model.discrete else list(graphs[0].outputs)
    found = ", ".join(outputs) if len(outputs) > 1 else f"({outputs[0]},)"
    taken = inputs["decoder"][0]
    lines = [
        f'"""Samples, encodes and decodes with this {model.name}; needs numpy and onnxruntime only."""',
        "",
        "from pathlib import Path",
        "",
        "import numpy as np",
        "from onnxruntime import InferenceSession",
        "",
        "",
        "def session(name):",
        "    path = Path(__file__).with_name(name + '.onnx')",
        "    return InferenceSession(str(path), providers=['CPUExecutionProvider'])",
        "",
        "",
        f"{', '.join(inputs)} = {', '.join(f'session({name!r})' for name in inputs)}",
        "rng = np.random.default_rng(0)",
        *_draw(model, inputs, code),
        f"(samples,) = {_run('decoder', inputs, **{taken: code})}",
        f"x = samples  # or rows of your own, (N, {shape})"
        if model.format.is_table
        else f"x = samples  # or images of your own, (N, {shape}) float32 in [0, 1]: 8-bit values / np.float32(255)",
        f"{found} = {_run('encoder', inputs, x='x')}",
        f"(reconstructed,) = {_run('decoder', inputs, **{taken: outputs[0]})}",
        "print('samples', samples.shape, 'reconstructed to a mean squared error of', np.square(x - reconstructed).mean())",
    ]
    return "\n".join(lines) + "\n"


def _draw(model: Fitted, inputs: dict[str, list[str]], code: str) -> list[str]:
    """Lines that draw labels, where there are any, and `code`, by the prior's file where there is one."""
    classes, (*_, prior) = model.sampling_classes(), inputs
    labels = (
        []
        if classes is None
        else [f"y = rng.integers({len(classes)}, size={SHOWN})  # indices of `classes` in export.json"]
    )
    grid = ", ".join(map(str, model.code_shape))
    if prior == "prior_step" and model.discrete:
        return [
            *labels,
            f"drawn = np.zeros(({SHOWN}, {grid}), dtype=np.int64)",
            f"for row, column in np.ndindex({grid}):",
            f"    logits = {_run('prior_step', inputs, codes='drawn')}[0][:, row, column]",
            "    drawn[:, row, column] = (logits + rng.gumbel(size=logits.shape)).argmax(1)  # a draw from their softmax",
        ]
    normal = f"rng.standard_normal(({SHOWN}, {grid}), dtype=np.float32)"
    if prior == "prior_step":
        step = _run("prior_step", inputs, x="moved", t=f"np.full({SHOWN}, t)")
        return [
            *labels,
            f"moved = {normal}",
            f"for t in np.arange({STEPS}, dtype=np.float32) / {STEPS}:",
            f"    moved, z = {step}",
        ]
    if prior == "prior":
        uniform = {
            name: f"rng.random({SHOWN}, dtype=np.float32)" for name in inputs["prior"] if name not in ("noise", "y")
        }
        return [*labels, f"noise = {normal}", f"({code},) = {_run('prior', inputs, noise='noise', **uniform)}"]
    if model.discrete:
        n_codes = model.module.latent.n_codes
        return [*labels, f"drawn = rng.integers({n_codes}, size=({SHOWN}, {grid}))  # noise: no prior is fitted"]
    return [*labels, f"z = {normal}"]


def _run(name: str, inputs: dict[str, list[str]], **values: str) -> str:
    """The call of a session, with its `values`, and with the labels where it wants any."""
    labels = {"y": "y"} if "y" in inputs[name] else {}
    return f"{name}.run(None, {{{', '.join(f'{key!r}: {value}' for key, value in {**values, **labels}.items())}}})"
