"""Muon: held against its published form and PyTorch's own, and in a training that is broken off."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.marks import quick
from vaekit import VAE, VQVAE
from vaekit.data import Images, open_data
from vaekit.data.format import Format
from vaekit.estimators.base import WEIGHT_DECAY
from vaekit.training.optimizers import PASSES, QUINTIC, Muon, make_optimizer, matrices_of, orthogonalised
from vaekit.training.plan import Plan
from vaekit.training.state import State

PLAN = Plan(steps=5, batch_size=8, learning_rate=0.02, optimizer="muon")


def published(matrix: torch.Tensor) -> torch.Tensor:
    """Newton-Schulz's quintic as Jordan et al. (2024) write it, in double precision, of a wide matrix."""
    a, b, c = QUINTIC
    x = matrix.double()
    x = x / x.norm()
    for _ in range(PASSES):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x


def wide(rows, columns, n, decades):
    """Matrices with singular values over `decades` powers of ten."""
    generator = torch.Generator().manual_seed(rows * 100 + columns)
    rows, columns = sorted((rows, columns))
    return torch.randn(n, rows, columns, generator=generator) * torch.logspace(0, -decades, columns)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 3), st.integers(0, 5))
def test_the_passes_on_the_small_square_are_the_published_ones(rows, columns, n, decades):
    matrices = wide(rows, columns, n, decades)
    found = orthogonalised(matrices, half=False)
    assert found.shape == matrices.shape
    for one, matrix in zip(found, matrices, strict=True):
        torch.testing.assert_close(one.double(), published(matrix), atol=2e-3, rtol=0)


@given(st.integers(1, 60), st.integers(1, 200), st.integers(1, 3), st.integers(0, 5))
def test_passes_in_bfloat16_go_nearly_the_same_way_and_never_far(rows, columns, n, decades):
    """Where the square's rounding is not looked after, singular values of such matrices end in the hundreds."""
    matrices = wide(rows, columns, n, decades)
    found = orthogonalised(matrices, half=True)
    assert found.dtype == torch.float32
    for one, matrix in zip(found.double(), matrices, strict=True):
        assert torch.linalg.matrix_norm(one, 2) < 1.3
        assert (one * published(matrix)).sum() > 0.97 * one.norm() * published(matrix).norm()


def test_rows_that_are_nearly_parallel_stay_bounded_in_bfloat16():
    """Their square's rounding makes its small eigenvalue negative: each further pass on one square is an explosion."""
    slopes = torch.arange(1, 61) / 60
    pairs = torch.zeros(4, 60, 2, 2)
    pairs[..., 0, 0], pairs[..., 1, 0] = 1.0, slopes
    pairs[..., 1, 1] = torch.tensor([0.03, 0.04, 0.05, 0.06])[:, None]
    assert torch.linalg.matrix_norm(orthogonalised(pairs.flatten(0, 1), half=True), 2).max() < 1.3


def test_large_matrices_alone_are_multiplied_in_bfloat16(monkeypatch):
    for half in (False, True):
        asked = []
        monkeypatch.setattr(
            "vaekit.training.optimizers.orthogonalised",
            lambda x, half, asked=asked: asked.append((tuple(x.shape), half)) or orthogonalised(x, half=half),
        )
        layers = nn.Sequential(nn.Linear(64, 512), nn.Linear(512, 64), nn.Linear(64, 32))
        optimizer = make_optimizer(layers, replace(PLAN, half=half))
        optimizer = pickle.loads(pickle.dumps(optimizer))
        for parameter in (parameter for group in optimizer.param_groups for parameter in group["params"]):
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
        assert asked == [((2, 64, 512), half), ((1, 32, 64), False)], "wide and tall ones together"


def test_a_run_multiplies_as_it_began(monkeypatch, tmp_path):
    images = open_data("digits", "test")
    plans = []
    for fast, optimizer in ((True, "muon"), (True, "adam"), (False, "muon")):
        monkeypatch.setattr("vaekit.training.optimizers.gains_by_bfloat16", lambda device, fast=fast: fast)
        folder = tmp_path / f"{fast}-{optimizer}"
        settings = {"optimizer": optimizer, "architecture": "mlp", "random_state": 0}
        VAE(epochs=1, **settings).fit_images(images, folder=str(folder))
        plans.append(json.loads((folder / "run.json").read_text())["plan"]["half"])
    assert plans == [True, False, False]
    model = VAE(epochs=2, **settings).fit_images(images, folder=str(tmp_path / "True-muon"), resume=True)
    assert model.facts_["plan"]["half"], "where it is none that gains, too"
    passed = VAE(**settings).partial_fit(images.x)
    assert not passed.fitted_.record.facts["plan"]["half"]


def test_singular_values_end_near_one_and_singular_vectors_stay():
    matrix = torch.randn(30, 50, generator=torch.Generator().manual_seed(0))
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    values = (left.T @ orthogonalised(matrix[None])[0] @ right.T).diagonal()
    assert values.min() > 0.6 and values.max() < 1.25
    assert orthogonalised(torch.zeros(1, 3, 4)).isfinite().all()


@pytest.mark.parametrize("outputs", [20, 30, 70])  # wide, square, tall
@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this PyTorch has none")
def test_linear_layers_move_as_by_pytorchs_own(outputs):
    """Which multiplies in bfloat16: a step differs from ours by that."""
    torch.manual_seed(0)
    mine, theirs = (nn.Linear(30, outputs, bias=False) for _ in range(2))
    theirs.load_state_dict(mine.state_dict())
    start, x, wanted = mine.weight.detach().clone(), torch.randn(4, 64, 30), torch.randn(4, 64, outputs)
    ours = make_optimizer(mine, PLAN)
    peer = torch.optim.Muon(theirs.parameters(), lr=0.02, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    for batch, asked in zip(x, wanted, strict=True):  # whose gradients point elsewhere each time
        for layer, optimizer in ((mine, ours), (theirs, peer)):
            optimizer.zero_grad()
            (layer(batch) - asked).square().mean().backward()
            optimizer.step()
    moved = (mine.weight - start).norm()
    assert (mine.weight - theirs.weight).norm() < 0.03 * moved
    assert moved > 0.1


@pytest.mark.parametrize(
    ("name", "peer"),
    [
        ("adam", lambda given: torch.optim.AdamW(given, lr=0.02, betas=PLAN.betas, weight_decay=3.0)),
        ("muon", lambda given: torch.optim.Muon(given, lr=0.02, weight_decay=3.0, adjust_lr_fn="match_rms_adamw")),
    ],
)
@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this PyTorch has none")
def test_weight_decay_is_pytorchs_own(name, peer):
    torch.manual_seed(0)
    mine, theirs = (nn.Linear(30, 20, bias=False) for _ in range(2))
    theirs.load_state_dict(mine.state_dict())
    start, x = mine.weight.detach().clone(), torch.randn(4, 64, 30)
    ours, peer = make_optimizer(mine, replace(PLAN, optimizer=name, weight_decay=3.0)), peer(theirs.parameters())
    for batch in x:
        for layer, optimizer in ((mine, ours), (theirs, peer)):
            optimizer.zero_grad()
            (layer(batch) - batch[:, :20].roll(1, 0)).square().mean().backward()
            optimizer.step()
    assert (mine.weight - theirs.weight).norm() < 0.03 * (mine.weight - start).norm()


def test_biases_and_scales_do_not_shrink():
    layers = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    optimizer = make_optimizer(layers, replace(PLAN, weight_decay=10.0))
    before = {name: tensor.clone() for name, tensor in layers.state_dict().items()}
    optimizer.step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in layers.state_dict().items()), "without gradients"
    for parameter in layers.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, tensor in layers.state_dict().items():
        expected = before[name] * (0.8 if name == "0.weight" else 1)
        torch.testing.assert_close(tensor, expected)


def test_the_fewer_pictures_the_more_weight_decay_by_default():
    for n, side, architecture, expected in (
        (1000, 48, None, WEIGHT_DECAY[False]),
        (1000, 48, "wang2023", 0.0),
        (5000, 48, None, WEIGHT_DECAY[False]),
        (20000, 48, None, WEIGHT_DECAY[False] / 4),
        (60000, 48, None, 0.083),
        (1000, 8, None, WEIGHT_DECAY[False]),
        (1000, 8, "mlp", 0.0),
    ):
        assert VAE(architecture=architecture).resolve(Format((side, side, 3)), n)["weight_decay"] == expected
    for model in (VAE(grid=True), VQVAE()):
        assert model.resolve(Format((48, 48, 3)), 1000)["weight_decay"] == WEIGHT_DECAY[True]
        assert model.resolve(Format((48, 48, 3)), 10000)["weight_decay"] == WEIGHT_DECAY[True] / 2
    assert "weight_decay" not in VAE(weight_decay=0.0).resolve(Format((48, 48, 3)), 1000)
    x = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 1), np.uint8)
    default, none = (VAE(epochs=2, random_state=0, weight_decay=decay).fit(x) for decay in (None, 0.0))
    assert default.facts_["plan"]["weight_decay"] == WEIGHT_DECAY[False] and none.facts_["plan"]["weight_decay"] == 0
    sizes = [sum(float(one.detach().square().sum()) for one in matrices_of(model.model_)) for model in (default, none)]
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize("decay", [100, 1e30, float("inf"), float("nan"), -1, "much"])
def test_a_decay_that_turns_weights_over_is_refused_before_anything_is_written(decay, digits, tmp_path):
    model = VAE(architecture="mlp", learning_rate=0.01, weight_decay=decay, epochs=1)
    with pytest.raises(ValueError, match="weight_decay must be"):
        model.fit_images(Images(digits[0][:40], None, (), "x"), folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_learning_rate_that_is_too_high_for_the_default_decay_is_refused():
    with pytest.raises(ValueError, match=r"weight_decay must be below 1 / learning_rate, here 0\.5, .* got 1"):
        VAE(learning_rate=2.0).resolve(Format((48, 48, 3)), 1000)
    assert VAE(learning_rate=2.0, weight_decay=0.0).resolve(Format((48, 48, 3)), 1000)["optimizer"] == "muon"


@pytest.mark.parametrize(
    ("model", "side", "n", "epochs"),
    [
        (VAE(), 28, 60_000, 12),
        (VAE(), 28, 20_000, 19),
        (VAE(), 8, 5_000, 25),
        (VAE(), 8, 1_000, 25),
        (VAE(), 8, 300, 37),
        (VAE(grid=True), 28, 1_000, 22),
        (VAE(), 32, 20_000, 38),
        (VAE(grid=True), 28, 20_000, 12),
        (VAE(optimizer="adam"), 28, 20_000, 38),
        (VAE(optimizer="muon", architecture="mlp"), 28, 20_000, 38),
        (VAE(architecture="wang2023"), 28, 20_000, 50),
        (VQVAE(), 28, 20_000, 38),
    ],
    ids=str,
)
def test_vectors_of_small_pictures_are_learned_in_half_the_passes(model, side, n, epochs):
    assert model.resolve(Format((side, side, 1)), n)["epochs"] == epochs


@pytest.mark.parametrize("gains", [True, False])
def test_pictures_are_learned_in_bfloat16_where_the_processor_has_it(gains, monkeypatch):
    monkeypatch.setattr("vaekit.estimators.base.gains_by_bfloat16", lambda device: gains)
    for model, shape, n, expected in (
        (VAE(), (28, 28, 1), 5000, gains),
        (VQVAE(), (32, 32, 3), 10, gains),
        (VAE(architecture="resnet"), (48, 48, 3), 10, gains),
        (VAE(), (48, 31, 1), 4999, False),
        (VAE(), (50,), 5000, False),
        (VAE(architecture="mlp"), (28, 28, 1), 5000, False),
        (VAE(architecture="wang2023"), (28, 28, 1), 5000, False),
    ):
        assert model.resolve(Format(shape), n)["precision"] == ("bfloat16" if expected else "float32")
    assert "precision" not in VAE(precision="float32").resolve(Format((28, 28, 1)), 5000)


def test_a_run_goes_on_in_its_precision_on_another_processor(monkeypatch, tmp_path, digits):
    """And so does one from before there was a default, which says float32 as if it had been asked for."""
    images = Images(np.tile(digits[0][:50], (100, 1, 1, 1)), None, (), "x")
    folders = {}
    for here in (True, False):
        monkeypatch.setattr("vaekit.estimators.base.gains_by_bfloat16", lambda device, here=here: here)
        folders[here] = tmp_path / str(here)
        VAE(epochs=1, random_state=0).fit_images(images, folder=folders[here])
    file = folders[False] / "run.json"
    config = json.loads(file.read_text())
    config["fields"]["precision"] = config["resolved"].pop("precision")
    file.write_text(json.dumps(config))
    for begun, folder in folders.items():
        monkeypatch.setattr("vaekit.estimators.base.gains_by_bfloat16", lambda device, begun=begun: not begun)
        model = VAE(epochs=2, random_state=0).fit_images(images, folder=folder, resume=True)
        precision = "bfloat16" if begun else "float32"
        assert model.facts_["plan"]["precision"] == model.resolved_["precision"] == precision
        other = "float32" if begun else "bfloat16"
        with pytest.raises(ValueError, match=f"precision {precision} -> {other}"):
            VAE(epochs=3, random_state=0, precision=other).fit_images(images, folder=folder, resume=True)


def test_a_run_from_before_weight_decay_goes_on_without(tmp_path, digits):
    images, made = (
        open_data("digits", "train"),
        {"architecture": "mlp", "width": 16, "optimizer": "muon", "random_state": 0},
    )
    VAE(epochs=1, weight_decay=0.0, **made).fit_images(images, folder=str(tmp_path / "run"))
    file = tmp_path / "run" / "run.json"
    config = json.loads(file.read_text())
    del config["fields"]["weight_decay"], config["plan"]["weight_decay"]
    file.write_text(json.dumps(config))
    more = VAE(epochs=2, **made).fit_images(images, folder=str(tmp_path / "run"), resume=True)
    assert more.facts_["plan"]["weight_decay"] == more.fitted_.fields["weight_decay"] == 0
    assert VAE(epochs=2, **made).fit_images(images).facts_["plan"]["weight_decay"] == WEIGHT_DECAY[False]


@pytest.mark.parametrize("layer", [nn.Conv2d(3, 6, 4), nn.ConvTranspose2d(3, 6, 4)], ids=["conv", "transposed"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_kernel_moves_as_a_matrix_of_its_first_axis(layer, memory_format):
    """Every direction by as much: 0.2 sqrt(the longer side) times the learning rate, divided among its values."""
    layer = layer.to(memory_format=memory_format)
    before, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    optimizer = make_optimizer(layer, PLAN)
    layer(torch.randn(4, 3, 9, 9, generator=torch.Generator().manual_seed(1))).square().sum().backward()
    optimizer.step()
    moved = (layer.weight - before).detach().flatten(1)
    values = torch.linalg.svdvals(moved) / (0.02 * 0.2 * max(moved.shape) ** 0.5)
    assert values.min() > 0.6 and values.max() < 1.25
    assert (layer.bias - bias).abs().max() > 0, "the rest is Adam's"
    assert set(optimizer.state[layer.weight]) == {"momentum"}
    assert set(optimizer.state[layer.bias]) == {"step", "exp_avg", "exp_avg_sq"}


def test_tables_of_codes_scales_and_frozen_layers_are_no_matrices(digits):
    model = VQVAE(architecture="resnet", n_codes=8, epochs=1, ema=0.0, random_state=0).fit(digits[0][:64]).model_
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {names[id(parameter)] for parameter in matrices_of(model)}
    assert "latent.codebook" not in found and not [name for name in found if name.endswith("bias")]
    others = names.keys() - {id(parameter) for parameter in matrices_of(model)}
    assert all(
        names[one] == "latent.codebook" or dict(model.named_parameters())[names[one]].ndim <= 1 for one in others
    )
    next(matrices_of(model)).requires_grad_(False)
    assert len(list(matrices_of(model))) == len(found) - 1


def test_what_has_no_gradient_stays():
    layers = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
    optimizer = make_optimizer(layers, PLAN)
    assert isinstance(optimizer, Muon)
    before = layers[1].weight.detach().clone()
    layers[0](torch.ones(2, 3)).sum().backward()
    optimizer.step()
    assert torch.equal(layers[1].weight, before) and layers[1].weight not in optimizer.state


def test_a_training_by_muon_learns_faster_and_says_so(digits):
    x = digits[0]
    models = [
        VAE(architecture="mlp", width=128, epochs=8, optimizer=name, random_state=0).fit(x) for name in ("adam", "muon")
    ]
    adam, muon = (model.history_[-1]["objective"] for model in models)
    assert muon < adam - 3, "nats, of which seeds change a tenth"
    assert models[1].facts_["plan"]["optimizer"] == "muon"


@pytest.mark.parametrize("name", quick(["adam", "muon"], "muon"))
def test_it_goes_on_where_it_was_broken_off(name, tmp_path, digits):
    images = open_data("digits", "train")
    made = {
        "architecture": "conv",
        "batch_size": 256,
        "optimizer": name,
        "weight_decay": 1.0,
        "random_state": 3,
    }
    whole = VAE(epochs=3, **made).fit_images(images, folder=str(tmp_path / "whole"))
    real, calls = torch.optim.Adam.step, []

    def stop(self, *args):
        calls.append(None)
        if len(calls) == 2 * 5 + 3:
            raise KeyboardInterrupt
        return real(self, *args)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch.optim.Adam, "step", stop)
        VAE(epochs=3, **made).fit_images(images, folder=str(tmp_path / "run"))
    broken = VAE(epochs=3, **made).fit_images(images, folder=str(tmp_path / "run"), resume=True)
    for key, tensor in whole.model_.state_dict().items():
        assert torch.equal(tensor, broken.model_.state_dict()[key]), key
    other = {"adam": "muon", "muon": "adam"}[name]
    for change, said in (
        ({"optimizer": other}, f"optimizer {name} -> {other}"),
        ({"weight_decay": 0.5}, "weight_decay 1.0"),
    ):
        with pytest.raises(ValueError, match=said):
            VAE(epochs=3, **made | change).fit_images(images, folder=str(tmp_path / "run"), resume=True)


@pytest.mark.parametrize(("made_by", "said"), [("adam", "muon"), ("muon", "adam")])
def test_the_checkpoint_of_another_is_refused(tmp_path, made_by, said):
    """A run.json that somebody changed. A single matrix, which both have at the same place."""
    plans = {name: replace(PLAN, optimizer=name) for name in (made_by, said)}
    states = {
        name: State(nn.Linear(3, 3, bias=False), None, plan, torch.device("cpu"), None) for name, plan in plans.items()
    }
    layer = states[made_by].module
    layer(torch.ones(2, 3)).sum().backward()
    states[made_by].optimizer.step()
    tensors, notes = states[made_by].snapshot()
    with pytest.raises(ValueError, match="the optimizer's state of parameter 0 does not fit"):
        states[said].restore((tensors, notes))


def test_it_is_pickled_between_passes(digits):
    model = VAE(architecture="mlp", width=16, optimizer="muon", random_state=0).partial_fit(digits[0])
    again = pickle.loads(pickle.dumps(model)).partial_fit(digits[0])
    assert again.history_[1]["objective"] == model.partial_fit(digits[0]).history_[1]["objective"]


def test_unknown_ones_are_refused():
    with pytest.raises(ValueError, match=r"optimizer must be one of adam, muon, got 'moun' .did you mean 'muon'"):
        VAE(optimizer="moun").fit(np.zeros((20, 4)))


@pytest.mark.parametrize(
    ("model", "shape", "fields", "expected"),
    [
        (VAE, (32, 32, 3), {}, "muon"),
        (VAE, (48, 31, 3), {}, "muon"),
        (VAE, (8, 8, 1), {}, "muon"),
        (VAE, (64, 64, 1), {"architecture": "resnet"}, "muon"),
        (VAE, (64, 64, 1), {"architecture": "mlp"}, "adam"),
        (VAE, (64, 64, 1), {"architecture": "wang2023"}, "adam"),
        (VAE, (64,), {}, "adam"),
        (VAE, (64, 64, 1), {"optimizer": "adam"}, "adam"),
        (VQVAE, (28, 28, 1), {}, "muon"),
        (VQVAE, (16, 16, 1), {}, "muon"),
        (VQVAE, (16, 15, 1), {}, "adam"),
        (VQVAE, (28, 28, 1), {"architecture": "wang2023"}, "adam"),
    ],
)
def test_convolutional_networks_are_learned_by_muon(model, shape, fields, expected):
    estimator = model(**fields)
    resolved = estimator.resolve(Format(shape), 3000)
    rates = {"muon": 0.01, "adam": 0.005 if "wang2023" in fields.values() else 0.002}
    assert resolved.get("optimizer", fields.get("optimizer")) == expected
    assert resolved["learning_rate"] == rates[expected]
    wang2023 = "wang2023" in fields.values()
    assert resolved["schedule"] == ("constant" if wang2023 else "linear" if expected == "muon" else "cosine")
