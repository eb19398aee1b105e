"""A fitted model as ONNX files that need neither torch nor vaekit: encoder, decoder, code lookup, fitted prior. Each file is
run through onnxruntime and compared with PyTorch before anything is written.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from vaekit import __version__
from vaekit.data.batches import to_input
from vaekit.data.columns import FURTHEST, Columns
from vaekit.fitted import Fitted
from vaekit.messages import filled
from vaekit.models.autoencoder import Autoencoder
from vaekit.owned import check_new_folder
from vaekit.parts.latents import Latent
from vaekit.parts.priors import AutoregressivePrior, FlowPrior, MixturePrior
from vaekit.parts.quantizers import code_scores
from vaekit.state import undisturbed
from vaekit.training.checkpoint import digest
from vaekit.world import seeded

OPSET = 18
TOLERANCE = 1e-4  # of the largest value of an output, or of 1 where that is larger
BATCHES = (1, 3, 17)  # sizes that every file is tried with
TRACED = 5  # the batch size that a graph is taken with; onnxruntime then takes any


class ExportFailed(RuntimeError):
    """An exported file does not do what the model does in PyTorch; nothing was written."""


@undisturbed
def export_onnx(model: Fitted, folder) -> dict:
    """Writes a fitted model to the new folder `folder` as ONNX, for any number of samples at a time.

    encoder.onnx      x -> mean, log_var of q(z|x); of a VQ-VAE: codes, z (the codes' vectors)
    decoder.onnx      z -> x; of a VQ-VAE: codes -> x
    codebook.onnx     of a VQ-VAE: codes -> z
    prior.onnx        of a fitted GMM, VampPrior or flow: noise -> z
    prior_step.onnx   of a fitted PixelCNN or transformer: codes -> logits; those of a position look at codes before it only
    export.json       inputs and outputs with shapes, types and meaning, classes, and the differences from PyTorch
    example.py        how to encode, decode and sample with numpy and onnxruntime

    Images are x (N, H, W, C) float32 in [0, 1], tables (N, D) in their own units, labels y (N,) int64 indices of the classes.
    Tables go in and come out as float64, since float32 would round columns far from 0; integers are not rounded.
    Returns what export.json holds. Raises ValueError where `folder` is not new or empty, or a library is missing,
    NotFittedError before `fit`, ExportFailed where onnxruntime and PyTorch differ by more than TOLERANCE.
    """
    folder = Path(folder)
    check_export(folder)
    parts = _parts(model)
    rng = np.random.default_rng(0)
    files, entries = {}, {}
    with torch.no_grad(), seeded(0):
        for part in parts:
            files[part.file] = _to_onnx(part)
            entries[part.file] = {"does": part.does, **_verify(part, files[part.file], rng)}
    facts = {**_facts(model), "files": entries}
    files["export.json"] = (json.dumps(facts, indent=1) + "\n").encode()
    files["example.py"] = _example(model, parts).encode()
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


# ---- the graphs: what a file computes --------------------------------------------------------------------------------


class _OfModule(nn.Module):
    """A part of the module, with the scaling of a table's columns where its samples are rows of one: `Columns`, in float64."""

    column_mean: Tensor
    column_scale: Tensor
    column_centre: Tensor
    column_width: Tensor
    column_constant: Tensor
    column_log: Tensor
    column_robust: Tensor

    def __init__(self, model: Autoencoder, table: Columns | None):
        super().__init__()
        self.model, self.is_table = model, table is not None
        if table is None:
            return
        for name in ("mean", "scale", "centre", "width", "constant"):
            self.register_buffer(f"column_{name}", torch.from_numpy(getattr(table, name)))
        for name in ("log", "robust"):
            self.register_buffer(f"column_{name}", torch.tensor([scaling == name for scaling in table.scalings]))
        self.scalings = set(table.scalings)

    def standardised(self, x: Tensor) -> Tensor:
        """`Columns.inputs`."""
        if "log" in self.scalings:
            x = torch.where(self.column_log, torch.where(self.column_log, x, 1.0).log(), x)
        if "robust" in self.scalings:
            v = (x - self.column_centre) / self.column_width
            size = v.abs()
            x = torch.where(self.column_robust, v.sign() * (size + (size.square() + 1).sqrt()).log(), x)
        return ((x - self.column_mean) / self.column_scale).clamp(-FURTHEST, FURTHEST).float()

    def restored(self, z: Tensor) -> Tensor:
        """`Columns.restore`, with constant columns as they are."""
        x = z.double() * self.column_scale + self.column_mean
        if "log" in self.scalings:
            x = torch.where(self.column_log, torch.where(self.column_log, x, 0.0).exp(), x)
        if "robust" in self.scalings:
            u = torch.where(self.column_robust, x, 0.0)
            x = torch.where(self.column_robust, self.column_centre + self.column_width * (u.exp() - (-u).exp()) / 2, x)
        return torch.where(self.column_constant, self.column_mean, x)


class _Encoder(_OfModule):
    """x (N, H, W, C) in [0, 1], or (N, D) in a table's units -> mean, log_var (N, D), or codes (N, h, w), z (N, h, w, D)."""

    def forward(self, x: Tensor, y: Tensor | None = None):
        if self.is_table:
            x = self.standardised(x)[:, None, :, None]
        h = self.model.encoder(x.permute(0, 3, 1, 2), y)
        latent = self.model.latent
        if not latent.discrete:
            return latent(h).moments
        # Not `nearest_code`, whose number of chunks would fix the batch size.
        scores = code_scores(h.movedim(1, -1).flatten(0, -2), latent.vectors())
        codes = scores.argmin(1).view(-1, *h.shape[2:])
        return codes, latent.embed(codes).movedim(1, -1)


class _Decoder(_OfModule):
    """z (N, D) or codes (N, h, w) -> x (N, H, W, C) in [0, 1], or (N, D) in a table's units."""

    def forward(self, code: Tensor, y: Tensor | None = None) -> Tensor:
        x = self.model.decode(code, y).permute(0, 2, 3, 1)
        return self.restored(x[:, 0, :, 0]) if self.is_table else x


class _Lookup(nn.Module):
    """codes (N, h, w) -> z (N, h, w, D)."""

    def __init__(self, latent: Latent):
        super().__init__()
        self.latent = latent

    def forward(self, codes: Tensor) -> Tensor:
        return self.latent.embed(codes).movedim(1, -1)


class _Step(nn.Module):
    """codes (N, h, w) -> logits (N, h, w, K)."""

    def __init__(self, prior: AutoregressivePrior):
        super().__init__()
        self.network = prior.network

    def forward(self, codes: Tensor, y: Tensor | None = None) -> Tensor:
        return self.network(codes, y).movedim(1, -1)


class _Flow(nn.Module):
    """noise (N, D) ~ N(0, I) -> z (N, D)."""

    def __init__(self, prior: FlowPrior):
        super().__init__()
        self.prior = prior

    def forward(self, noise: Tensor, y: Tensor | None = None) -> Tensor:
        return self.prior.transport(noise, y)


class _Mixture(nn.Module):
    """noise (N, D) ~ N(0, I) and u (N,) uniform in [0, 1), which picks the component -> z (N, D)."""

    means: Tensor
    factor: Tensor
    ends: Tensor

    def __init__(self, prior: MixturePrior):
        super().__init__()
        self.register_buffer("means", prior.means)
        # (G, M, D, D): the covariance's factor, P^-T of a precision P P^T.
        self.register_buffer("factor", torch.linalg.inv(prior.precision_cholesky.double()).mT.float().contiguous())
        weights = prior.log_weights.double().exp()
        # (G, M - 1): a component begins where the ones before it end.
        self.register_buffer("ends", (weights / weights.sum(1, keepdim=True)).cumsum(1)[:, :-1].float())

    def forward(self, noise: Tensor, u: Tensor, y: Tensor | None = None) -> Tensor:
        group = torch.zeros_like(u, dtype=torch.int64) if y is None else y
        component = (u[:, None] >= self.ends[group]).sum(1)
        offset = (self.factor[group, component] @ noise[:, :, None])[..., 0]
        return self.means[group, component] + offset


# ---- what is exported ------------------------------------------------------------------------------------------------


class _Frozen:
    """A fitted model on the CPU and in eval mode: what its files have to agree with, in the layout of `export_onnx`, and
    random inputs that are valid.
    """

    def __init__(self, model: Fitted):
        self.model = model
        self.module = copy.deepcopy(model.module).cpu().eval().requires_grad_(False)
        self.is_table, self.quantised = len(model.format.shape) == 1, model.discrete
        self.table = model.format.columns if self.is_table else None

    def samples(self, n: int, rng: np.random.Generator) -> Tensor:
        shape = (n, *self.model.format.shape)
        if self.table is not None:
            return torch.from_numpy(self.table.restore(rng.standard_normal(shape)))
        return torch.from_numpy(rng.random(shape, dtype=np.float32))

    def scale(self) -> np.ndarray | float:
        """What 1 in the module's units is in the samples' own."""
        if self.table is None:
            return 1.0
        zero, one = self.table.restore(np.array([[0.0], [1.0]]) + np.zeros(self.model.format.shape))
        return one - zero

    def codes(self, n: int, rng: np.random.Generator) -> Tensor:
        """z (n, D) from N(0, I), or uniform code indices (n, h, w)."""
        if self.quantised:
            return torch.from_numpy(rng.integers(self.module.latent.n_codes, size=(n, *self.module.prior.code_shape)))
        return torch.from_numpy(rng.standard_normal((n, self.module.latent.width), dtype=np.float32))

    def encode(self, x: Tensor, *y: Tensor, found: np.ndarray | None = None) -> tuple[Tensor, ...]:
        """The encoder's outputs. `found`: codes, taken where they are as near as the nearest ones."""
        h = self.module.encoder(to_input(self.model.format.stored(x.numpy())), *y)
        draw = self.module.latent(h)
        if not self.quantised:
            return draw.moments
        codes = draw.mode if found is None else _as_near(torch.from_numpy(found), draw.mode, h, self.module.latent)
        return codes, *self.look_up(codes)

    def look_up(self, codes: Tensor) -> tuple[Tensor]:
        return (self.module.latent.embed(codes).movedim(1, -1),)

    def decode(self, code: Tensor, *y: Tensor) -> tuple[Tensor]:
        out = self.module.decode(code, *y)
        if self.table is None:
            return (out.permute(0, 2, 3, 1),)
        rows = self.model.format.values(out)
        return (torch.from_numpy(np.where(self.table.constant, self.table.mean, rows)),)


def _as_near(codes: Tensor, nearest: Tensor, h: Tensor, latent: Latent) -> Tensor:
    """codes (N, h, w) where they are as near to the vectors h (N, D, h, w) as the `nearest` ones, to rounding; else those."""
    centre = latent.vectors().mean(0)
    vectors, codebook = (h.movedim(1, -1) - centre).double(), (latent.vectors() - centre).double()
    slack = TOLERANCE * (vectors.square().sum(-1) + codebook.square().sum(1).max())

    def distance(codes: Tensor) -> Tensor:
        return (vectors - codebook[codes]).square().sum(-1)

    return torch.where(distance(codes) - distance(nearest) <= slack, codes, nearest)


@dataclass(frozen=True)
class _Part:
    """One ONNX file: its graph, what goes in and comes out, and how to tell that it is right.

    inputs, outputs: name -> meaning. draw: (n, rng) -> batches of n valid inputs. expected: inputs -> outputs in PyTorch.
    scale: an output's unit, below which differences do not count as larger. settled: as `expected`, given the codes found.
    """

    file: str
    does: str
    graph: nn.Module
    inputs: dict[str, str]
    outputs: dict[str, str]
    draw: Callable[[int, np.random.Generator], list[tuple[Tensor, ...]]]
    expected: Callable[..., tuple[Tensor, ...]]
    scale: np.ndarray | float = 1.0
    settled: Callable[..., tuple[Tensor, ...]] | None = None


def _parts(model: Fitted) -> list[_Part]:
    """The files of `model`."""
    frozen = _Frozen(model)
    module, labels, label = frozen.module, *_labelled(frozen.module.n_classes)
    codes = {"codes": f"code indices, 0 to {module.latent.n_codes - 1}"} if frozen.quantised else {}
    vectors = {"z": "codebook vectors, position by position"}
    moments = {"mean": "mean of q(z|x)", "log_var": "natural logarithm of the variance of q(z|x)"}

    def for_encoder(n: int, rng: np.random.Generator) -> list[tuple[Tensor, ...]]:
        """Random values, and what the model itself takes for data."""
        x, y = frozen.samples(n, rng), label(n, rng)
        return [(x, *y), (frozen.decode(frozen.codes(n, rng), *y)[0].to(x.dtype), *y)]

    def for_decoder(n: int, rng: np.random.Generator) -> list[tuple[Tensor, ...]]:
        y = label(n, rng)
        return [(frozen.codes(n, rng), *y), (frozen.encode(frozen.samples(n, rng), *y)[0], *y)]

    values = "in the units of the data" if frozen.is_table else "in [0, 1], which is 8-bit values / 255"
    parts = [
        _Part(
            "encoder.onnx",
            "samples to codes and their vectors" if codes else "samples to the moments of their latents",
            _Encoder(module, frozen.table),
            {"x": f"samples, {values}", **labels},
            {**codes, **vectors} if codes else moments,
            for_encoder,
            frozen.encode,
            settled=frozen.encode if codes else None,
        ),
        _Part(
            "decoder.onnx",
            "codes to samples" if codes else "latents to samples",
            _Decoder(module, frozen.table),
            {**(codes or {"z": "latents; N(0, I) under the plain prior"}), **labels},
            {"x": f"mean of p(x|z), {values}"},
            for_decoder,
            frozen.decode,
            scale=frozen.scale(),
        ),
    ]
    if codes:
        parts.append(
            _Part(
                "codebook.onnx",
                "codes to their vectors",
                _Lookup(module.latent),
                codes,
                vectors,
                lambda n, rng: [(frozen.codes(n, rng),)],
                frozen.look_up,
            )
        )
    return parts + _prior_parts(frozen, codes)


def _prior_parts(frozen: _Frozen, codes: dict[str, str]) -> list[_Part]:
    """The file of a fitted prior, if there is one."""
    prior = frozen.module.prior
    labels, label = _labelled(prior.n_classes)
    if isinstance(prior, AutoregressivePrior):
        return [
            _Part(
                "prior_step.onnx",
                "one step of sampling: the codes so far to the logits of every position, each of which looks at the codes "
                "before it in raster order; draw the code at hand from its own, and go on to the next",
                _Step(prior),
                {**codes, **labels},
                {"logits": "log-probabilities of each position's codes, up to a constant"},
                lambda n, rng: [(frozen.codes(n, rng), *label(n, rng))],
                lambda codes, *y: (prior.network(codes, *y).movedim(1, -1),),
            )
        ]
    if isinstance(prior, (FlowPrior, MixturePrior)):
        mixture = isinstance(prior, MixturePrior)
        u = {"u": "uniform draws in [0, 1), which pick the component"} if mixture else {}
        return [
            _Part(
                "prior.onnx",
                "noise to latents of the fitted prior",
                _Mixture(prior) if mixture else _Flow(prior),
                {"noise": "draws from N(0, I), times a temperature where one is wanted", **u, **labels},
                {"z": "latents, for the decoder"},
                lambda n, rng: [_noise(prior, n, *label(n, rng))],
                lambda noise, *rest: (_drawn(prior, len(noise), *rest[mixture:]),),
            )
        ]
    return []


def _labelled(n_classes: int) -> tuple[dict[str, str], Callable[[int, np.random.Generator], tuple[Tensor, ...]]]:
    """The input y and its meaning, and what draws n labels; nothing where there are no classes."""
    if not n_classes:
        return {}, lambda n, rng: ()
    meaning = f"labels, indices of `classes`, 0 to {n_classes - 1}"
    return {"y": meaning}, lambda n, rng: (torch.from_numpy(rng.integers(n_classes, size=n)),)


def _drawn(prior: FlowPrior | MixturePrior, n: int, y: Tensor | None = None) -> Tensor:
    """The latents (n, D) that the prior itself samples from the seed n."""
    with seeded(n):
        return prior.sample(n, y)


def _noise(prior: FlowPrior | MixturePrior, n: int, *y: Tensor) -> tuple[Tensor, ...]:
    """The inputs of prior.onnx that stand for the draws of `_drawn`; u is in the middle of the component's interval."""
    with seeded(n):
        if isinstance(prior, FlowPrior):
            return torch.randn(n, prior.latent_dim), *y
        weights = prior.log_weights.exp()[y[0] if y else torch.zeros(n, dtype=torch.int64)]
        component = torch.multinomial(weights, 1)
        noise = torch.randn(n, prior.latent_dim)
    shares = weights.double() / weights.double().sum(1, keepdim=True)
    u = (shares.cumsum(1) - 0.5 * shares).gather(1, component)[:, 0]
    return noise, u.float(), *y


# ---- writing and checking --------------------------------------------------------------------------------------------


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


def _to_onnx(part: _Part) -> bytes:
    """The graph as an ONNX file whose first axes are `batch`; the same bytes for the same weights."""
    import onnx

    example = part.draw(TRACED, np.random.default_rng(0))[0]
    batch = torch.export.Dim("batch")
    with _quiet():
        # Strict: the other way of tracing fixes what `len` returns.
        program = torch.export.export(
            part.graph.eval(), example, dynamic_shapes=tuple({0: batch} for _ in example), strict=True
        )
        exported = torch.onnx.export(
            program,
            input_names=list(part.inputs),
            output_names=list(part.outputs),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert exported is not None  # it is only where it writes the file itself
    proto = exported.model_proto
    graph = proto.graph
    graph.name, graph.doc_string = part.file.removesuffix(".onnx"), part.does
    # Where each node came from in the source, with the paths of this machine.
    for item in (proto, graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        del item.metadata_props[:]
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    proto.producer_name, proto.producer_version = "vaekit", __version__
    onnx.checker.check_model(proto, full_check=True)
    return proto.SerializeToString(deterministic=True)


def _verify(part: _Part, data: bytes, rng: np.random.Generator) -> dict:
    """Runs the file on batches of every size, and returns its inputs, outputs and largest difference from PyTorch.

    Raises ExportFailed where one is larger than TOLERANCE, or a code is another one that is not as near.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    differences, tied, codes = dict.fromkeys(part.outputs, 0.0), 0, 0
    for batch in [batch for n in BATCHES for batch in part.draw(n, rng)]:
        feed = {name: values.numpy() for name, values in zip(part.inputs, batch, strict=True)}
        found = [np.asarray(values) for values in session.run(list(part.outputs), feed)]
        expected = part.expected(*batch)
        if part.settled:
            tied, codes = tied + int(np.count_nonzero(found[0] != expected[0].numpy())), codes + found[0].size
            expected = part.settled(*batch, found=found[0])
        for name, ours, theirs in zip(part.outputs, found, expected, strict=True):
            difference = _difference(ours, theirs.numpy(), part.scale)
            if not difference <= TOLERANCE:
                raise ExportFailed(
                    f"{part.file}: {name} of {len(ours)} samples differs from PyTorch by {difference:.2g} of its scale, and "
                    f"{TOLERANCE:g} is allowed; nothing was written"
                )
            differences[name] = max(differences[name], difference)
    return {
        "inputs": _describe(session.get_inputs(), part.inputs),
        "outputs": _describe(session.get_outputs(), part.outputs),
        "largest_differences": differences,
        **({"share_of_tied_codes": tied / codes} if part.settled else {}),
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


def _example(model: Fitted, parts: list[_Part]) -> str:
    """A script for this model that samples, encodes and decodes with numpy and onnxruntime."""
    inputs = {part.file.removesuffix(".onnx"): part.inputs for part in parts if part.file != "codebook.onnx"}
    latent, (*_, prior) = next(iter(inputs["decoder"])), inputs
    shape, is_table = ", ".join(map(str, model.format.shape)), len(model.format.shape) == 1
    module, encodes_to = model.module, "codes, vectors" if latent == "codes" else "mean, log_var"

    def run(name: str, **values: str) -> str:
        labels = {"y": "y"} if "y" in inputs[name] else {}
        return f"{name}.run(None, {{{', '.join(f'{key!r}: {value}' for key, value in {**values, **labels}.items())}}})"

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
    ]
    classes = model.sampling_classes()
    if classes is not None:
        lines.append(f"y = rng.integers({len(classes)}, size=16)  # indices of `classes` in export.json")
    if prior == "prior_step":
        height, width = module.prior.code_shape
        lines += [
            f"drawn = np.zeros((16, {height}, {width}), dtype=np.int64)",
            f"for row, column in np.ndindex({height}, {width}):",
            f"    logits = {run('prior_step', codes='drawn')}[0][:, row, column]",
            "    drawn[:, row, column] = (logits + rng.gumbel(size=logits.shape)).argmax(1)  # a draw from their softmax",
        ]
    elif prior == "prior":
        lines.append(f"noise = rng.standard_normal((16, {module.latent.width}), dtype=np.float32)")
        draws = {
            name: name if name == "noise" else "rng.random(16, dtype=np.float32)"
            for name in inputs["prior"]
            if name != "y"
        }
        lines.append(f"(z,) = {run('prior', **draws)}")
    elif latent == "codes":
        size = ", ".join(map(str, (16, *module.prior.code_shape)))
        lines.append(f"drawn = rng.integers({module.latent.n_codes}, size=({size}))  # noise: no prior is fitted")
    else:
        lines.append(f"z = rng.standard_normal((16, {module.latent.width}), dtype=np.float32)")
    lines += [
        f"(samples,) = {run('decoder', **{latent: 'drawn' if latent == 'codes' else 'z'})}",
        f"x = samples  # or rows of your own, (N, {shape})"
        if is_table
        else f"x = samples  # or images of your own, (N, {shape}) float32 in [0, 1]: 8-bit values / np.float32(255)",
        f"{encodes_to} = {run('encoder', x='x')}",
        f"(reconstructed,) = {run('decoder', **{latent: encodes_to.split(',')[0]})}",
        "print('samples', samples.shape, 'reconstructed to a mean squared error of', np.square(x - reconstructed).mean())",
    ]
    return "\n".join(lines) + "\n"
