"""ONNX files as a user of another runtime meets them: they do what the estimator does, without torch, or are not written."""

import contextlib
import copy
import dataclasses
import functools
import io
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnxruntime import InferenceSession
from scipy.special import log_softmax

from vaekit import CVAE, VAE, VQVAE, export, open_data
from vaekit.cli import main
from vaekit.export import ExportFailed, export_onnx
from vaekit.export.files import to_onnx, verify
from vaekit.export.graphs import TOLERANCE, graphs_of

NAMES = np.array(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])
TINY = {"batch_size": 32, "random_state": 0, "device": "cpu"}
EXPORTED = tempfile.TemporaryDirectory(prefix="vaekit-export-")  # until the process ends
every_case = pytest.mark.parametrize(
    "case", ["images", *(pytest.param(case, marks=pytest.mark.slow) for case in ("table", "report", "codes"))]
)


@functools.cache
def digits(n: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """n digits, shuffled: x (n, 8, 8, 1) uint8, and their names."""
    images = open_data("digits", "all")
    order = np.random.default_rng(0).permutation(len(images))[:n]
    return images.x[order], NAMES[images.y[order]]


@functools.cache
def data(case: str) -> tuple[np.ndarray, np.ndarray]:
    """What a case's model is trained on."""
    x, y = digits()
    if case == "report":  # 28x28 floats
        return np.pad(np.kron(x[..., 0], np.ones((1, 3, 3))), ((0, 0), (2, 2), (2, 2))).astype(np.float32) / 255, y
    if case == "table":  # columns in different units, one far from 0
        z = np.random.default_rng(0).normal(size=(200, 2))
        return np.stack([1e6 + z[:, 0], 300 * (z[:, 0] + z[:, 1]), 0.01 * z[:, 1]], axis=1), np.arange(200) % 2
    return (x, y) if case == "images" else (x.astype(np.float32) / 255, y)


@functools.cache
def fitted(case: str):
    x, y = data(case)
    if case == "images":
        return CVAE(latent_dim=3, epochs=1, likelihood="discretized_logistic", precision="bfloat16", **TINY).fit(x, y)
    if case == "report":
        model = CVAE(latent_dim=2, architecture="wang2023", epochs=2, **TINY).fit(x, y)
        return model.fit_prior(x, y, prior="flow", epochs=20, layers=3, channels=8)
    if case == "codes":
        model = VQVAE(n_codes=8, code_dim=2, epochs=2, **TINY).fit(x)
        return model.fit_prior(x, y, epochs=10, layers=2, channels=16, learning_rate=0.01)
    return VAE(latent_dim=3, epochs=5, **TINY).fit(x).fit_prior(x, y, components=2)


@functools.cache
def exported(case: str) -> Path:
    """The case's export. The model stands in training mode meanwhile, in which BatchNorm looks at the batch."""
    folder = Path(EXPORTED.name) / "deep" / case
    module = fitted(case).model_.train()
    try:
        export_onnx(fitted(case).fitted_, folder)
        assert module.training
    finally:
        module.eval()
    return folder


def run(case: str, file: str, **inputs: np.ndarray) -> list[np.ndarray]:
    session = InferenceSession(str(exported(case) / file), providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


@functools.cache
def alone(case: str, name: str) -> InferenceSession:
    """One graph, where a whole export would take long."""
    (graph,) = (graph for graph in graphs_of(fitted(case).fitted_) if graph.name == name)
    with torch.no_grad():
        return InferenceSession(to_onnx(graph), providers=["CPUExecutionProvider"])


def labels(case: str, n: int) -> dict[str, np.ndarray]:
    """What the encoder and decoder want beside x or z."""
    return {"y": np.arange(n) % 10} if fitted(case).conditional else {}


def as_input(case: str, x: np.ndarray) -> np.ndarray:
    """Samples as export.json says they go in."""
    x = x / np.float32(255) if x.dtype == np.uint8 else x
    return x[..., None] if case == "report" else x


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    """To 1e-4 of what is there at most in each place, or of 1."""
    assert found.shape == expected.shape
    assert (np.abs(found - expected) <= 1e-4 * np.maximum(1, np.abs(expected).max(0))).all()


def verified(graph) -> dict:
    """A single file, where a whole export would take long."""
    with torch.no_grad():
        return verify(graph, to_onnx(graph), np.random.default_rng(0))


@every_case
@pytest.mark.parametrize("n", [1, 7])
def test_encoder_and_decoder_do_what_the_estimator_does(case, n):
    model, x = fitted(case), data(case)[0][:n]
    y = labels(case, n)
    named = model.classes_[y["y"]] if y else None
    outputs = run(case, "encoder.onnx", x=as_input(case, x), **y)
    if case == "codes":
        np.testing.assert_array_equal(outputs[0], model.encode(x))
        assert_close(outputs[1].reshape(n, -1), model.transform(x))
        assert_close(run(case, "codebook.onnx", codes=outputs[0])[0].reshape(n, -1), model.transform(x))
        (decoded,) = run(case, "decoder.onnx", codes=outputs[0])
    else:
        assert_close(outputs[0], model.transform(x, named))
        (decoded,) = run(case, "decoder.onnx", z=outputs[0], **y)
    expected = model.reconstruct(x, named)
    if case == "images":  # the estimator rounds to 8 bits
        assert decoded.dtype == np.float32 and np.abs(decoded * 255 - expected).max() <= 0.51
    else:
        assert_close(decoded, as_input(case, expected))


def test_the_log_variance_is_that_of_the_posterior():
    model, x = fitted("images"), as_input("images", data("images")[0][:5])
    _, log_var = run("images", "encoder.onnx", x=x, y=np.full(5, 3))
    with torch.no_grad():
        h = model.model_.encoder(torch.from_numpy(x).permute(0, 3, 1, 2), torch.full((5,), 3))
        _, expected = model.model_.latent(h).moments
    assert_close(log_var, expected.numpy())


@pytest.mark.parametrize("case", ["images", pytest.param("report", marks=pytest.mark.slow)])
def test_labels_count(case):
    x = as_input(case, data(case)[0][:4])
    one, other = (run(case, "encoder.onnx", x=x, y=np.full(4, label))[0] for label in (1, 8))
    assert np.abs(one - other).max() > 1e-3


@pytest.mark.slow
def test_the_logits_of_a_step_are_the_priors_probabilities():
    codes = np.random.default_rng(1).integers(8, size=(9, *fitted("codes").model_.prior.code_shape))
    y = np.arange(9)
    (logits,) = alone("codes", "prior_step").run(None, {"codes": codes, "y": y})
    nats = np.take_along_axis(log_softmax(logits, axis=-1), codes[..., None], -1).sum((1, 2, 3))
    model = fitted("codes")
    np.testing.assert_allclose(nats, model.prior_log_prob(codes, model.prior_classes_[y]), rtol=1e-4)
    codes[:, -1, -1] = (codes[:, -1, -1] + 1) % 8
    codes[:, 1, 2:] = 0
    again = alone("codes", "prior_step").run(None, {"codes": codes, "y": y})[0]
    np.testing.assert_allclose(again[:, 0], logits[:, 0], atol=1e-5)
    np.testing.assert_allclose(again[:, 1, :3], logits[:, 1, :3], atol=1e-5)


@pytest.mark.slow
def test_a_mixture_has_its_components_moments():
    prior, n, rng = fitted("table").model_.prior, 40_000, np.random.default_rng(0)
    weights, means, precision = (
        t.numpy().astype(float)[1] for t in (prior.log_weights.exp(), prior.means, prior.precision_cholesky)
    )
    noise, u = rng.standard_normal((n, 3), dtype=np.float32), rng.random(n, dtype=np.float32)
    (z,) = run("table", "prior.onnx", noise=noise, u=u, y=np.ones(n, dtype=np.int64))
    for component, (low, high) in enumerate(((0, weights[0]), (weights[0], 1))):
        mine = z[(u >= low) & (u < high)]
        covariance = np.linalg.inv(precision[component] @ precision[component].T)
        spread = np.sqrt(np.diag(covariance))
        np.testing.assert_allclose((mine.mean(0) - means[component]) / spread, 0, atol=0.05)
        np.testing.assert_allclose(
            np.cov(mine.T) / np.outer(spread, spread), covariance / np.outer(spread, spread), atol=0.05
        )
    narrow = run("table", "prior.onnx", noise=0 * noise, u=u, y=np.ones(n, dtype=np.int64))[0]
    assert len(np.unique(narrow, axis=0)) == 2


@pytest.mark.slow
def test_a_flow_has_its_density():
    """log p(z) = log N(noise) - log |dz / dnoise|, the derivative by differences."""
    model, n, step = fitted("report"), 20, 1e-2
    noise, y = np.random.default_rng(0).standard_normal((n, 2)), np.arange(n) % 10

    def push(noise: np.ndarray) -> np.ndarray:
        return alone("report", "prior").run(None, {"noise": noise.astype(np.float32), "y": y})[0].astype(float)

    jacobian = np.stack([(push(noise + step * d) - push(noise - step * d)) / (2 * step) for d in np.eye(2)], axis=-1)
    expected = -0.5 * (noise**2).sum(1) - np.log(2 * np.pi) - np.log(np.abs(np.linalg.det(jacobian)))
    found = model.prior_log_prob(push(noise), model.classes_[y])
    np.testing.assert_allclose(found, expected, atol=0.02)


@every_case
def test_the_example_runs_without_torch(case, tmp_path):
    code = (
        "import runpy, sys\nimport numpy as np\n"
        "sys.modules.update(torch=None, vaekit=None)\n"
        f"found = runpy.run_path({str(exported(case) / 'example.py')!r})\n"
        f"np.savez({str(tmp_path / 'x.npz')!r}, **{{k: v for k, v in found.items() if isinstance(v, np.ndarray)}})"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("samples (16, ") and not done.stderr
    found, model = dict(np.load(tmp_path / "x.npz")), fitted(case)
    assert found["samples"].shape == (16, *model.image_shape_)
    y = {"y": model.classes_[found["y"]]} if model.conditional else {}
    shaped = found["samples"][..., 0] if case == "report" else found["samples"]
    if case == "images":
        return
    if case == "codes":
        np.testing.assert_array_equal(found["codes"], model.encode(shaped))
        # Draws from the prior are likelier than uniform codes, and more than one for a label.
        assert model.prior_log_prob(found["drawn"], model.prior_classes_[found["y"]]).mean() > -16 * np.log(8)
        assert len(np.unique(found["drawn"], axis=0)) > 10
    else:
        assert_close(found["samples"], as_input(case, model.inverse_transform(found["z"], **y)))
        assert_close(found["mean"], model.transform(shaped, **y))
    assert_close(found["reconstructed"], as_input(case, model.reconstruct(shaped, **y)))


@every_case
def test_export_json_describes_the_files(case):
    folder, model = exported(case), fitted(case)
    facts = json.loads((folder / "export.json").read_text())
    assert {*facts["files"], "export.json", "example.py"} == {path.name for path in folder.iterdir()}
    priors = {"codes": {"codebook.onnx", "prior_step.onnx"}, "table": {"prior.onnx"}, "report": {"prior.onnx"}}
    assert facts["files"].keys() == {"encoder.onnx", "decoder.onnx"} | priors.get(case, set())
    known = model.fitted_.sampling_classes()
    assert facts["classes"] == (None if known is None else known.tolist())
    assert facts["image_shape"] == list(model.image_shape_) and facts["model"] == type(model).__name__
    assert facts["data"]["fingerprint"] == model.facts_["data"]["fingerprint"]
    for name, entry in facts["files"].items():
        proto = onnx.load(folder / name)
        onnx.checker.check_model(proto, full_check=True)
        assert [(o.domain, o.version) for o in proto.opset_import] == [("", facts["opset"])]
        assert not any("Random" in node.op_type for node in proto.graph.node)
        for told, values in ((entry["inputs"], proto.graph.input), (entry["outputs"], proto.graph.output)):
            shapes = [[dim.dim_param or dim.dim_value for dim in v.type.tensor_type.shape.dim] for v in values]
            types = [str(onnx.helper.tensor_dtype_to_np_dtype(v.type.tensor_type.elem_type)) for v in values]
            assert [t["name"] for t in told] == [v.name for v in values]
            assert [t["shape"] for t in told] == shapes and all(shape[0] == "batch" for shape in shapes)
            assert [t["dtype"] for t in told] == types and all(t["meaning"] for t in told)
        assert all(0 <= difference <= 1e-4 for difference in entry["largest_differences"].values())
        bits = (folder / name).read_bytes()
        assert b"site-packages" not in bits and str(Path(export.__file__).parent).encode() not in bits


@pytest.mark.slow
def test_other_networks_and_priors_are_exported_too():
    x, _ = data("codes")
    wide = np.concatenate([x, x[:, :, ::-1], x[:, ::-1]], axis=-1)
    wide = np.concatenate([wide, wide[:, :, :3]], axis=2)  # 8 x 11 in colour
    resnet = VQVAE(n_codes=8, epochs=1, architecture="resnet", ema=0.0, **TINY).fit(wide[:64])
    assert verified(graphs_of(resnet.fitted_)[0])["largest_differences"] == {"codes": 0, "z": 0}
    grid = VQVAE(n_codes=8, code_dim=2, epochs=1, architecture="mlp", **TINY).fit(x)
    grid.fit_prior(x, prior="transformer", epochs=1, layers=1, channels=16)
    assert verified(graphs_of(grid.fitted_)[-1])["inputs"][0]["shape"] == ["batch", 1, 8]
    vamp = VAE(latent_dim=2, epochs=1, architecture="mlp", likelihood="bernoulli", **TINY).fit(x > 0.5)
    vamp.fit_prior(x > 0.5, prior="vamp", epochs=1, components=4)
    assert [entry["name"] for entry in verified(graphs_of(vamp.fitted_)[-1])["inputs"]] == ["noise", "u"]


@pytest.mark.slow
def test_flow_matching_over_a_grid_is_exported_as_a_step_that_the_example_takes(tmp_path):
    x, y = data("codes")
    grid = VAE(grid=True, epochs=1, **TINY).fit(x[:64])
    grid.fit_prior(x[:64], y[:64], epochs=1, layers=1, channels=8)
    grid.fitted_.attach(dataclasses.replace(grid.fitted_.prior, facts={}))  # in use, however bad it is
    about = export_onnx(grid.fitted_, tmp_path / "out")
    step = about["files"]["prior_step.onnx"]
    assert [entry["name"] for entry in step["inputs"]] == ["x", "t", "y"]
    assert [entry["name"] for entry in step["outputs"]] == ["moved", "z"]
    assert all(difference < 1e-4 for difference in step["largest_differences"].values())
    said = subprocess.run([sys.executable, tmp_path / "out" / "example.py"], capture_output=True, text=True, check=True)
    assert "samples (16, 8, 8, 1)" in said.stdout


# What goes wrong


def test_codes_as_near_as_the_nearest_are_no_difference():
    latent = fitted("codes").model_.latent
    latent = copy.deepcopy(latent)
    latent.codebook[5] = latent.codebook[2]
    h = latent.codebook[torch.tensor([[[2, 3]]])].movedim(-1, 1)
    nearest = torch.tensor([[[2, 3]]])
    assert latent.as_near(h, torch.tensor([[[5, 3]]]), nearest, TOLERANCE).tolist() == [[[True, True]]]
    assert latent.as_near(h, torch.tensor([[[4, 3]]]), nearest, TOLERANCE).tolist() == [[[False, True]]]


@pytest.mark.slow
@pytest.mark.parametrize("off", [1e-3, 1e-6])
def test_files_that_differ_from_pytorch_are_not_written(off, monkeypatch, tmp_path):
    """The files are those of a model whose decoder is a little off."""
    model = copy.deepcopy(fitted("table"))
    model.model_.decoder.net.head.bias.data += 4 * off  # a sigmoid's slope is 1/4 at most
    folder = exported("table")
    monkeypatch.setattr(export.writing, "to_onnx", lambda graph: (folder / f"{graph.name}.onnx").read_bytes())
    if off < 1e-4:
        assert (
            export_onnx(model.fitted_, tmp_path / "out")["files"]["decoder.onnx"]["largest_differences"]["x"] > off / 10
        )
        return
    with pytest.raises(
        ExportFailed, match=r"decoder.onnx: x of 1 samples differs from PyTorch by .* nothing was written"
    ):
        export_onnx(model.fitted_, tmp_path / "out")
    model.save(tmp_path / "run")
    code, _, err = vaekit("export", tmp_path / "run", "--out", tmp_path / "out")
    assert code == 1 and err.startswith("vaekit: decoder.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_folder_in_use_is_refused(tmp_path):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").write_text("mine")
    for target in (tmp_path / "used", tmp_path / "used" / "file"):
        with pytest.raises(ValueError, match="is not an empty folder"):
            export_onnx(fitted("images").fitted_, target)
    assert [path.name for path in tmp_path.iterdir()] == ["used"]


# The command line


def vaekit(*arguments) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command in this process."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code or 0
    return code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "vae"
    fitted("table").save(folder)
    return folder


@pytest.mark.slow
def test_export_of_a_run(run_folder, tmp_path):
    (tmp_path / "out").mkdir()  # an empty folder may be there
    state = torch.get_rng_state()
    code, out, err = vaekit("export", run_folder, "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    assert torch.equal(torch.get_rng_state(), state)
    assert "encoder.onnx: samples to the moments of their latents" in out and str(tmp_path / "out") in out
    for file in exported("table").iterdir():  # the same weights, the same bytes
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_export_refuses(run_folder, tmp_path, monkeypatch):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").write_text("mine")
    for arguments, said in (
        ((tmp_path / "none", "--out", tmp_path / "out"), "no run folder at"),
        ((run_folder, "--out", tmp_path / "used"), "is not an empty folder"),
    ):
        code, out, err = vaekit("export", *arguments)
        assert code == 2 and not out and err.startswith("vaekit: ") and err.count("\n") == 1 and said in err
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    code, _, err = vaekit("export", run_folder, "--out", tmp_path / "out")
    assert code == 2 and "the extra `export` (onnxruntime missing): pip install 'vaekit[export]'" in err
    assert not (tmp_path / "out").exists()
