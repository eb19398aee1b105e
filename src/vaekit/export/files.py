"""A graph as an ONNX file, run through onnxruntime and compared with PyTorch."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

import numpy as np
import torch

from vaekit import __version__
from vaekit.export.graphs import TOLERANCE
from vaekit.messages import first_line
from vaekit.parts.graphs import Graph

OPSET = 18
BATCHES = (1, 3, 17)  # sizes that every file is tried with
TRACED = 5  # the batch size that a graph is taken with; onnxruntime then takes any


class ExportFailed(RuntimeError):
    """An exported file does not do what the model does in PyTorch, or there can be none; nothing was written."""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter reports its own progress and what is missing for operators that no model has."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def to_onnx(graph: Graph) -> bytes:
    """The graph as an ONNX file whose first axes are `batch`; the same bytes for the same weights. Raises ExportFailed where
    there is none.
    """
    import onnx

    try:
        with _quiet():
            proto = _taken(graph)
        onnx.checker.check_model(proto, full_check=True)
    except (
        Exception
    ) as error:  # whatever torch and onnx raise of operations, of parts from anywhere, that they do not know
        raise ExportFailed(
            f"{graph.name}.onnx: {graph.of} can't be taken down as a graph for any number of samples ({first_line(error)}); "
            "nothing was written"
        ) from error
    return proto.SerializeToString(deterministic=True)


def _taken(graph: Graph):
    """The graph as onnx has it."""
    example = graph.draw(TRACED, np.random.default_rng(0))[0]
    batch = torch.export.Dim("batch")
    # Strict: the other way of tracing fixes what `len` returns.
    program = torch.export.export(
        graph.module.eval(), example, dynamic_shapes=tuple({0: batch} for _ in example), strict=True
    )
    exported = torch.onnx.export(
        program,
        input_names=list(graph.inputs),
        output_names=list(graph.outputs),
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    assert exported is not None  # it is only where it writes the file itself
    proto = exported.model_proto
    taken = proto.graph
    taken.name, taken.doc_string = graph.name, graph.does
    # Where each node came from in the source, with the paths of this machine.
    for item in (proto, taken, *taken.node, *taken.initializer, *taken.input, *taken.output):
        del item.metadata_props[:]
    del taken.value_info[:]
    for value in (*taken.input, *taken.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    proto.producer_name, proto.producer_version = "vaekit", __version__
    return proto


def verify(graph: Graph, data: bytes, rng: np.random.Generator) -> dict:
    """Runs the file on batches of every size, and returns its inputs, outputs and largest difference from PyTorch.

    Raises ExportFailed where one is larger than TOLERANCE, or a code is another one that is not as near.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    differences, tied, codes = dict.fromkeys(graph.outputs, 0.0), 0, 0
    for batch in [batch for n in BATCHES for batch in graph.draw(n, rng)]:
        feed = {name: values.numpy() for name, values in zip(graph.inputs, batch, strict=True)}
        found = [np.asarray(values) for values in session.run(list(graph.outputs), feed)]
        expected = graph.expected(*batch)
        if graph.settled:
            tied, codes = tied + int(np.count_nonzero(found[0] != expected[0].numpy())), codes + found[0].size
            expected = graph.settled(*batch, found=found[0])
        for name, ours, theirs in zip(graph.outputs, found, expected, strict=True):
            difference = _difference(ours, theirs.numpy(), graph.scale)
            if not difference <= TOLERANCE:
                raise ExportFailed(
                    f"{graph.name}.onnx: {name} of {len(ours)} samples differs from PyTorch by {difference:.2g} of its "
                    f"scale, and {TOLERANCE:g} is allowed; nothing was written"
                )
            differences[name] = max(differences[name], difference)
    return {
        "inputs": _describe(session.get_inputs(), graph.inputs),
        "outputs": _describe(session.get_outputs(), graph.outputs),
        "largest_differences": differences,
        **({"share_of_tied_codes": tied / codes} if graph.settled else {}),
    }


def _difference(found: np.ndarray, expected: np.ndarray, scale: np.ndarray | float) -> float:
    """The largest difference, as a share of the largest value of that place in the samples or of `scale`; infinite for codes
    that differ at all.
    """
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return float("inf")
    if expected.dtype.kind == "i":
        return 0.0 if np.array_equal(found, expected) else float("inf")
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    return float((np.abs(found - expected) / np.maximum(scale, np.abs(expected).max(0))).max())


def _describe(values, meanings: dict[str, str]) -> list[dict]:
    """Names, types, shapes (`batch` is any number) and meanings of a session's inputs or outputs."""
    types = {"tensor(float)": "float32", "tensor(double)": "float64", "tensor(int64)": "int64"}
    return [
        {"name": value.name, "dtype": types[value.type], "shape": value.shape, "meaning": meanings[value.name]}
        for value in values
    ]
