"""Training: the loop and the run folder. Whatever ends a run, going on with it gives the weights of an unbroken one."""

import copy
import errno
import itertools
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from vaekit import CVAE, VAE, BetaVAE, TrainingFailed, load
from vaekit.cli import main
from vaekit.data.batches import Data
from vaekit.data.images import Images, fingerprint
from vaekit.owned import LOCK, MARK, write_atomically
from vaekit.tensors import Term
from vaekit.training import loop
from vaekit.training.checkpoint import RunFolder, read_tensors, write_tensors
from vaekit.training.loop import train, validate
from vaekit.training.plan import Plan
from vaekit.training.settings import PriorSettings
from vaekit.training.step import rehearse

PLAN = Plan(steps=24, batch_size=8, learning_rate=0.05, warmup=5, seed=3)  # 20 images: epochs of 2 steps
CLOCK = ("seconds", "seconds_total", "images_per_second")
FINISHED = {"run.json", "log.jsonl", "weights.safetensors"}


class Toy(nn.Module):
    """A module the loop knows nothing of: a noisy linear map, and a buffer that counts its training batches."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.map = nn.Parameter(0.1 * torch.randn(16, 16, generator=generator))
        self.register_buffer("batches", torch.zeros(()))

    def forward(self, x, y=None):
        """x (B, 1, 4, 4) -> squared error (B,), squared weights (B,)."""
        if self.training:
            self.batches += 1
        x = x.flatten(1)
        out = (x + 0.1 * torch.randn_like(x)) @ self.map
        return (out - x).square().sum(1), self.map.square().sum().expand(len(x))


def toy_objective(trace, step):
    return {"distortion": Term(trace[0]), "size": Term(trace[1], 0.01, "sq")}


def toy_data(n: int = 20, seed: int = 1) -> Data:
    generator = torch.Generator().manual_seed(seed)
    return Data(torch.randint(0, 256, (n, 4, 4, 1), generator=generator, dtype=torch.uint8))


def started(path: Path) -> RunFolder:
    path.mkdir(parents=True, exist_ok=True)
    return RunFolder(path)


def run_toy(path: Path | None, plan: Plan = PLAN, objective=toy_objective, **options) -> tuple[dict, list[dict]]:
    """Trains a new Toy, in a run folder if there is a path -> its weights and history."""
    module = Toy()
    history = train(module, objective, toy_data(), plan, folder=path and started(path), **options)
    return module.state_dict(), history


@pytest.fixture(scope="module")
def unbroken() -> tuple[dict, list[dict]]:
    """Weights and history of the Toy in one go."""
    return run_toy(None)


@pytest.fixture
def checkpoint_every_epoch(monkeypatch):
    """Checkpoints are spaced out by the clock; here a minute passes with every epoch, and saving takes no time."""
    now, append = [0.0], RunFolder.append

    def append_later(self, record):
        now[0] += 60
        append(self, record)

    monkeypatch.setattr(RunFolder, "append", append_later)
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: now[0], perf_counter=time.perf_counter))


def assert_same_weights(found: dict, expected: dict):
    """Bit for bit."""
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


def timeless(records: list[dict]) -> list[dict]:
    """Records without the clock's readings."""
    return [{name: value for name, value in record.items() if name not in CLOCK} for record in records]


def names(path: Path) -> set[str]:
    """The files in a run folder, temporary ones too, but its mark and lock."""
    return {file.name for file in path.iterdir()} - {MARK, LOCK}


def contents(path: Path) -> dict[str, bytes]:
    return {name: (path / name).read_bytes() for name in names(path)}


def flip(path: Path, place: float = 0.5) -> None:
    """Turns one bit over, `place` of the way through the file."""
    data = bytearray(path.read_bytes())
    data[min(len(data) - 1, int(place * len(data)))] ^= 1
    path.write_bytes(data)


def table(n: int = 16, seed: int = 0) -> Images:
    x = np.random.default_rng(seed).normal(size=(n, 3))
    y = np.arange(n) % 2
    return Images(x, y, ("a", "b"), "numbers", fingerprint(x, y))


def tiny(model=VAE, **fields):
    """An estimator that trains in a blink: 4 epochs of 2 steps on `table()`."""
    return model(**{"latent_dim": 2, "epochs": 4, "batch_size": 8, "random_state": 5, "device": "cpu", **fields})


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory) -> Path:
    """The folder of a finished run; to be copied before it is changed."""
    path = tmp_path_factory.mktemp("runs") / "finished"
    tiny().fit_images(table(), folder=path)
    return path


@pytest.fixture
def finished(finished_run, tmp_path) -> Path:
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


# The plan: what decides the weights


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_the_learning_rate_rises_then_follows_its_schedule(schedule):
    plan = Plan(steps=100, batch_size=8, learning_rate=0.4, schedule=schedule, warmup=10)
    rates = [plan.learning_rate_at(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.04)
    fallen = 0.1 if schedule == "linear" else 0.0
    assert rates[9:11] == pytest.approx([0.4 * (1 - fallen)] * 2, rel=0.03)
    assert all(a < b for a, b in itertools.pairwise(rates[:10]))
    if schedule == "constant":
        assert set(rates[9:]) == {0.4}
    else:
        assert all(a > b > 0 for a, b in itertools.pairwise(rates[10:]))
        assert plan.learning_rate_at(50) == pytest.approx(0.2)
        last = 0.4 / 100 if schedule == "linear" else 0.2 * (1 - math.cos(math.pi / 100))
        assert rates[-1] == pytest.approx(last)
        assert plan.learning_rate_at(100) == pytest.approx(0, abs=1e-12)
    assert rates == [plan.learning_rate_at(step) for step in reversed(range(100))][::-1], (
        "the order of asking is nothing"
    )
    assert replace(plan, warmup=0).learning_rate_at(0) == 0.4


def test_a_plan_goes_through_json():
    plan = replace(PLAN, gradient_clip=2.0, patience=3)
    read = json.loads(json.dumps(asdict(plan)))
    assert Plan(**{**read, "betas": tuple(read["betas"])}) == plan


def test_the_loop_uses_the_learning_rate_of_the_step(monkeypatch):
    used, step = [], torch.optim.Adam.step

    def spy(self, *args, **options):
        used.append(self.param_groups[0]["lr"])
        return step(self, *args, **options)

    monkeypatch.setattr(loop, "rehearse", lambda *_: 0.0)
    monkeypatch.setattr(torch.optim.Adam, "step", spy)
    run_toy(None)
    assert used == [PLAN.learning_rate_at(step) for step in range(PLAN.steps)]


# What training reports


def test_records_hold_every_term_and_the_time(unbroken):
    _, history = unbroken
    assert [record["epoch"] for record in history] == list(range(1, 13))
    assert [record["step"] for record in history] == list(range(2, 25, 2))
    for record in history:
        assert record["size_weight"] == 0.01
        assert record["objective"] == pytest.approx(record["distortion"] + 0.01 * record["size"], rel=1e-5)
        assert record["learning_rate"] == PLAN.learning_rate_at(record["step"] - 1)
        assert record["seconds"] > 0
        assert record["images_per_second"] == pytest.approx(16 / record["seconds"])
    assert history[-1]["distortion"] < history[0]["distortion"] / 2
    assert json.loads(json.dumps(history)) == history


def test_a_record_has_the_means_over_the_steps_of_its_epoch():
    seen = []

    def watched(trace, step):
        seen.append(trace[0].mean().item())
        return toy_objective(trace, step)

    _, history = run_toy(None, objective=watched)
    means = [(first + second) / 2 for first, second in zip(seen[::2], seen[1::2], strict=True)]
    assert [record["distortion"] for record in history] == pytest.approx(means)


def test_a_run_may_end_within_an_epoch():
    weights, history = run_toy(None, replace(PLAN, steps=5))
    assert [(record["epoch"], record["step"]) for record in history] == [(1, 2), (2, 4), (3, 5)]
    assert history[-1]["images_per_second"] == pytest.approx(8 / history[-1]["seconds"])
    assert weights["batches"] == 5


def test_a_batch_larger_than_the_data_is_all_of_the_data():
    module = Toy()
    history = train(module, toy_objective, toy_data(5), replace(PLAN, steps=3, batch_size=128))
    assert [record["step"] for record in history] == [1, 2, 3]
    assert history[0]["images_per_second"] == pytest.approx(5 / history[0]["seconds"])
    exact = train(Toy(), toy_objective, toy_data(5), replace(PLAN, steps=3, batch_size=5))
    assert timeless(history) == timeless(exact)


def test_every_epoch_sees_every_image_once_in_an_order_of_its_own(monkeypatch):
    seen, batch = [], Data.batch

    def spy(self, index):
        seen.append(index.tolist())
        return batch(self, index)

    monkeypatch.setattr(loop, "rehearse", lambda *_: 0.0)
    monkeypatch.setattr(Data, "batch", spy)
    run_toy(None, replace(PLAN, batch_size=5, steps=8))
    epochs = [[i for batch in batches for i in batch] for batches in (seen[:4], seen[4:])]
    assert [sorted(epoch) for epoch in epochs] == [list(range(20))] * 2
    assert epochs[0] != epochs[1]


def test_every_step_has_noise_of_its_own():
    drawn = []

    class Drawing(Toy):
        def forward(self, x, y=None):
            drawn.append(torch.rand(()).item())
            return super().forward(x, y)

    train(Drawing(), toy_objective, toy_data(), PLAN)
    assert len(drawn) == len(set(drawn)) == PLAN.steps


def test_validation_weighs_terms_as_the_last_step_does():
    """So that epochs compare by the objective that was asked for, whatever a warm-up makes of it meanwhile."""

    def warming_up(trace, step):
        return {"distortion": Term(trace[0]), "size": Term(trace[1], 0.5 * min(1, (step + 1) / PLAN.steps), "sq")}

    _, history = run_toy(None, objective=warming_up, validation=toy_data(6, seed=2))
    weights = [record["size_weight"] for record in history]
    assert len(history) == 12 and weights == sorted(weights) and weights[0] < 0.1
    for record in history:
        whole = record["validation_distortion"] + 0.5 * record["validation_size"]
        assert record["validation_objective"] == pytest.approx(whole)


def test_the_callers_random_numbers_and_signal_handlers_are_left_alone(tmp_path):
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    torch.manual_seed(12)
    expected = torch.rand(3)
    torch.manual_seed(12)
    run_toy(tmp_path / "run")
    assert torch.equal(torch.rand(3), expected)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_a_rehearsal_leaves_everything_as_it_was():
    module, objective = Toy(), CountingObjective()
    before = copy.deepcopy(module.state_dict())
    assert rehearse(module, objective, toy_data(), PLAN) > 0
    assert_same_weights(module.state_dict(), before)
    assert objective.calls == 0
    assert module.map.grad is None


class CountingObjective(nn.Module):
    """An objective with a state: its calls while training."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, trace, step):
        if self.training:
            self.calls += 1
        return toy_objective(trace, step)


def test_an_objective_with_a_state_keeps_it_across_a_resume(tmp_path):
    objective = CountingObjective()
    run_toy(tmp_path / "run", objective=objective)
    assert objective.calls == PLAN.steps
    again = CountingObjective()
    RunFolder(tmp_path / "run").checkpoint_file.rename(tmp_path / "run" / "checkpoint.previous.safetensors")
    run_toy(tmp_path / "run", objective=again)
    assert again.calls == PLAN.steps


# Options of the loop


def test_gradient_clip_bounds_the_norm_of_the_whole_gradient(monkeypatch):
    norms, step = [], torch.optim.Adam.step

    def spy(self, *args, **options):
        gradients = [p.grad for group in self.param_groups for p in group["params"]]
        norms.append(torch.cat([gradient.flatten() for gradient in gradients]).norm().item())
        return step(self, *args, **options)

    monkeypatch.setattr(torch.optim.Adam, "step", spy)
    monkeypatch.setattr(loop, "rehearse", lambda *_: 0.0)
    free, _ = run_toy(None)
    assert max(norms) > 1
    norms.clear()
    clipped, history = run_toy(None, replace(PLAN, gradient_clip=0.5))
    assert len(norms) == PLAN.steps
    assert max(norms) == pytest.approx(0.5, abs=1e-4)
    assert not torch.equal(clipped["map"], free["map"])
    assert history[-1]["objective"] < history[0]["objective"]


def test_bfloat16_trains_and_keeps_weights_in_float32(unbroken):
    weights, history = run_toy(None, replace(PLAN, precision="bfloat16"))
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert timeless(history) != timeless(unbroken[1])
    assert history[-1]["objective"] == pytest.approx(unbroken[1][-1]["objective"], rel=0.1)
    model = tiny(precision="bfloat16").fit(table().x)
    assert all(math.isfinite(record["objective"]) for record in model.history_)
    assert model.transform(table().x).dtype == np.float32


def test_training_works_in_a_thread_of_its_own(tmp_path, unbroken):
    """Where signals can't be handled."""
    found = []
    thread = threading.Thread(target=lambda: found.append(run_toy(tmp_path / "run")))
    thread.start()
    thread.join()
    assert_same_weights(found[0][0], unbroken[0])
    assert timeless(RunFolder(tmp_path / "run").log()) == timeless(unbroken[1])


class Drifting(nn.Module):
    """One number that training pulls from 0 to 1 and validation wants at 0.4: it gets better, then worse."""

    def __init__(self):
        super().__init__()
        self.place = nn.Parameter(torch.zeros(()))

    def forward(self, x, y=None):
        return (self.place - x.flatten(1).mean(1)).square()


def drift(path: Path | None = None, patience: int | None = 2) -> tuple[nn.Module, list[dict], Data]:
    module, validation = Drifting(), Data(torch.full((4, 2, 2, 1), 0.4))
    plan = Plan(steps=20, batch_size=8, learning_rate=0.1, schedule="constant", patience=patience)
    data = Data(torch.ones(8, 2, 2, 1))
    history = train(
        module,
        lambda trace, step: {"distortion": Term(trace)},
        data,
        plan,
        validation=validation,
        folder=path and started(path),
    )
    return module, history, validation


def test_early_stopping_stops_and_restores_the_best_weights():
    module, history, _ = drift()
    objectives = [record["validation_objective"] for record in history]
    best = objectives.index(min(objectives))
    assert best > 0
    assert len(history) == best + 1 + 2 < 20
    assert (module.place.item() - 0.4) ** 2 == pytest.approx(min(objectives), rel=1e-4)
    patient = drift(patience=100)
    assert len(patient[1]) == 20
    assert patient[0].place.item() == module.place.item()
    late, history, _ = drift(patience=None)
    assert len(history) == 20
    assert late.place.item() > 0.8, "without patience the last weights are kept, whatever validation says"


def test_an_early_stop_survives_a_resume(tmp_path, checkpoint_every_epoch):
    module, history, _ = drift(tmp_path / "run")
    again, resumed, _ = drift(tmp_path / "run")
    assert again.place.item() == module.place.item()
    assert timeless(resumed) == timeless(history) == timeless(RunFolder(tmp_path / "run").log())


def test_early_stopping_of_an_estimator_keeps_the_best_epoch():
    held = table(8, seed=1)
    model = tiny(early_stopping=True, n_iter_no_change=3, epochs=60, learning_rate=0.01)
    model.fit_images(table(), validation=held)
    objectives = [record["validation_objective"] for record in model.history_]
    best = objectives.index(min(objectives))
    assert len(objectives) == best + 1 + 3 < 60
    plan = Plan(**model.facts_["plan"])
    data = model.fitted_.data(held)
    state, objective = nn.ModuleDict({"model": model.model_}), model.filled_in().make_objective(2)
    found = validate(state, model.model_, objective, data, plan)
    expected = {name: value for name, value in model.history_[best].items() if name.startswith("validation_")}
    assert found == expected


def test_early_stopping_is_off_by_default_and_holds_out_a_fraction_when_on():
    assert VAE().early_stopping is False
    model = tiny().fit(table(20).x)
    assert model.facts_["data"]["images"] == 20
    assert len(model.history_) == 4
    assert not any(name.startswith("validation") for name in model.history_[0])
    model = tiny(early_stopping=True, validation_fraction=0.3).fit(table(20).x)
    assert model.facts_["data"]["images"] == 14
    assert "validation_rate" in model.history_[0]


def test_epochs_of_the_rates_warm_up_are_no_candidates_for_the_best():
    """While the rate weighs nothing the objective is low, and says nothing about the model that was asked for."""
    x = np.random.default_rng(0).normal(size=(200, 6)) @ np.random.default_rng(1).normal(size=(6, 6))
    model = tiny(
        BetaVAE, beta=8.0, rate_warmup_epochs=10, early_stopping=True, n_iter_no_change=3, epochs=40, batch_size=20
    ).fit(x)
    assert len(model.history_) > 10, "the objective rises with its weight; that is no reason to stop"


def test_a_training_that_ends_before_its_own_objective_says_so():
    with pytest.warns(UserWarning, match="ends at epoch 4 and rate_warmup_epochs is 5"):
        tiny(rate_warmup_epochs=5.0).fit(table(20).x)


def test_a_time_budget_shortens_the_run(monkeypatch, tmp_path):
    monkeypatch.setattr("vaekit.training.step.rehearse", lambda *_: 0.25)
    for budget, steps in [(0.01, 1), (1.1, 3), (1.65, 5), (1000, 8)]:
        model = tiny().fit_images(table(), time_budget=budget)
        assert model.history_[-1]["step"] == steps == model.facts_["plan"]["steps"]
        assert steps * 0.25 <= max(budget, 0.25)
    assert model.history_[-1]["learning_rate"] < 0.1 * model.history_[0]["learning_rate"]
    short = tiny().fit_images(table(), folder=tmp_path / "run", time_budget=1.0)
    assert short.history_[-1]["learning_rate"] < 0.5 * max(r["learning_rate"] for r in short.history_), (
        "ends its schedule"
    )


def test_a_resumed_run_keeps_the_length_it_was_given(monkeypatch, tmp_path):
    monkeypatch.setattr("vaekit.training.step.rehearse", lambda *_: 0.25)
    whole = tiny().fit_images(table(), time_budget=1.6)
    with pytest.raises(OSError, match="lost"), monkeypatch.context() as patch:
        patch.setattr(RunFolder, "append", fails_at(RunFolder.append, 2, OSError("lost")))
        tiny().fit_images(table(), folder=tmp_path / "run", time_budget=1.6)
    monkeypatch.setattr("vaekit.training.step.rehearse", lambda *_: 0.001)
    resumed = tiny().fit_images(table(), folder=tmp_path / "run", resume=True, time_budget=0.3)
    assert resumed.history_[-1]["step"] == 5
    assert_same_weights(resumed.model_.state_dict(), whole.model_.state_dict())


def test_a_killed_run_whose_fields_are_damaged_is_not_gone_on_with(monkeypatch, tmp_path):
    run = RunFolder(tmp_path / "run")
    with pytest.raises(OSError, match="lost"), monkeypatch.context() as patch:
        patch.setattr(RunFolder, "append", fails_at(RunFolder.append, 2, OSError("lost")))
        tiny().fit_images(table(), folder=str(run.path))
    config = json.loads(run.config_file.read_text())
    for name in config["resolved"].keys() - {"width"}:
        run.config_file.write_text(json.dumps({**config, "resolved": {**config["resolved"], name: None}}))
        with pytest.raises(ValueError, match=f"run.json is damaged, or from another vaekit: {name} is not filled in"):
            tiny().fit_images(table(), folder=str(run.path), resume=True)
    run.config_file.write_text(json.dumps(config))
    assert tiny().fit_images(table(), folder=str(run.path), resume=True).history_[-1]["step"] == 8


def fails_at(function, call: int, error: BaseException):
    """`function`, but its call number `call` (from 1) raises `error` instead."""
    calls = itertools.count(1)

    def wrapped(*args, **options):
        if next(calls) == call:
            raise error
        return function(*args, **options)

    return wrapped


# Numbers that stop being finite


class Poisoned(nn.Module):
    """The toy objective, poisoned in one step: "value" makes a term infinite, "gradient" only its gradient."""

    def __init__(self, at: int, how: str):
        super().__init__()
        self.at, self.how = at, how

    def forward(self, trace, step):
        terms = toy_objective(trace, step)
        if step == self.at and self.how == "value":
            terms["size"] = terms["size"]._replace(value=terms["size"].value / 0)
        elif step == self.at:  # sqrt(0) is 0, its slope is infinite, and 0 * infinity is not a number
            terms["distortion"] = terms["distortion"]._replace(value=trace[0] + (trace[0] * 0).sqrt())
        return terms


@pytest.mark.parametrize("step", [10, 11], ids=["within an epoch", "at its end"])
def test_a_number_that_stops_being_finite_stops_training(tmp_path, checkpoint_every_epoch, step):
    with pytest.raises(TrainingFailed) as caught:
        run_toy(tmp_path / "run", objective=Poisoned(step, "value"))
    message = str(caught.value)
    assert f"size, objective became non-finite at step {step}" in message
    assert "try 0.017" in message, "a third of the learning rate"
    assert "--gradient-clip" in message
    tensors, notes = RunFolder(tmp_path / "run").load_checkpoint()
    assert notes["step"] == 10
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    assert [record["step"] for record in RunFolder(tmp_path / "run").log()] == [2, 4, 6, 8, 10]
    clean = Poisoned(-1, "value")
    assert_same_weights(run_toy(tmp_path / "run", objective=clean)[0], run_toy(None)[0])


@pytest.mark.parametrize("step", [10, 11], ids=["within an epoch", "at its end"])
def test_a_gradient_that_stops_being_finite_spoils_no_checkpoint(tmp_path, checkpoint_every_epoch, step):
    """Weights go bad one step before the objective shows it; a checkpoint may fall between the two."""
    with pytest.raises(TrainingFailed):
        run_toy(tmp_path / "run", objective=Poisoned(step, "gradient"))
    tensors, _ = RunFolder(tmp_path / "run").load_checkpoint()
    assert all(tensor.isfinite().all() for tensor in tensors.values())


def test_weights_that_are_not_finite_after_the_last_step_are_a_failure():
    with pytest.raises(TrainingFailed):
        run_toy(None, objective=Poisoned(PLAN.steps - 1, "gradient"))


def test_a_learning_rate_far_too_high_is_reported_as_such(tmp_path):
    model = tiny(learning_rate=1e30, epochs=30, schedule="constant", warmup_steps=0)
    with pytest.raises(TrainingFailed, match=r"became non-finite at step \d+.*lower learning rate \(it was 1e\+30"):
        model.fit_images(table(), folder=tmp_path / "run")
    with pytest.raises(ValueError, match="not finished"):
        load(tmp_path / "run")


class Fragile(nn.Module):
    """The toy objective under a learning rate it doesn't bear: infinite from step `at` on while that is above `bears`."""

    def __init__(self, at: int, bears: float):
        super().__init__()
        self.at, self.bears, self.asked = at, bears, []

    def forward(self, trace, step):
        self.asked.append(step)
        terms = toy_objective(trace, step)
        if step >= self.at and self.learning_rate() > self.bears:
            terms["size"] = terms["size"]._replace(value=terms["size"].value / 0)
        return terms

    def learning_rate(self) -> float:
        """The factor that training has halved so far, read off how often it came by here."""
        return 0.5 ** self.asked[:-1].count(self.at)


@pytest.mark.parametrize("times", [1, 3])
def test_training_goes_back_to_the_last_epoch_and_on_with_half_the_learning_rate(tmp_path, times):
    fragile = Fragile(at=11, bears=0.5**times)
    weights, history = run_toy(tmp_path / "run", objective=fragile)
    assert [record["step"] for record in history] == list(range(2, PLAN.steps + 1, 2)), "no epoch twice, none left out"
    assert fragile.asked.count(9) == 1, "step 10 ends an epoch: nothing before it is done again"
    assert fragile.asked.count(10) == times + 1
    before, after = history[4], history[5]
    assert "rollbacks" not in before
    assert after["rollbacks"] == history[-1]["rollbacks"] == times
    assert before["learning_rate"] == PLAN.learning_rate_at(9)
    assert after["learning_rate"] == pytest.approx(PLAN.learning_rate_at(11) * 0.5**times)
    assert timeless(RunFolder(tmp_path / "run").log()) == timeless(history)
    # As it would have been from the start of that epoch with the lower learning rate.
    slower = Halved(PLAN, 10, times)
    expected, _ = run_toy(None, plan=slower)
    assert_same_weights(weights, expected)


class Halved(Plan):
    """A plan whose learning rate is halved `times` times from step `since` on."""

    def __init__(self, plan: Plan, since: int, times: int):
        super().__init__(**asdict(plan))
        object.__setattr__(self, "since", since)
        object.__setattr__(self, "times", times)

    def learning_rate_at(self, step: int) -> float:
        return super().learning_rate_at(step) * (0.5**self.times if step >= self.since else 1.0)


def test_going_back_outlives_an_interruption(tmp_path, checkpoint_every_epoch):
    """The halved learning rate is in the checkpoint: a run stopped after it ends as one that was not."""
    expected, _ = run_toy(None, objective=Fragile(at=11, bears=0.5))
    stopping = Fragile(at=11, bears=0.5)
    inner = stopping.forward

    def interrupted(trace, step):
        if step == 17:
            raise Killed
        return inner(trace, step)

    stopping.forward = interrupted
    with pytest.raises(Killed):
        run_toy(tmp_path / "run", objective=stopping)
    assert RunFolder(tmp_path / "run").load_checkpoint()[1]["rollbacks"] == 1
    resumed, history = run_toy(tmp_path / "run")
    assert_same_weights(resumed, expected)
    assert [record.get("rollbacks", 0) for record in history] == [0] * 5 + [1] * 7


def test_training_that_never_recovers_says_how_often_it_tried():
    fragile = Fragile(at=11, bears=0.0)
    with pytest.raises(TrainingFailed, match="having gone back 3 times: size, objective became non-finite at step 11"):
        run_toy(None, objective=fragile)
    assert fragile.asked.count(11) == 4


def test_a_batch_too_large_for_the_memory_is_answered_with_one_that_fits():
    def hungry(trace, step):
        if len(trace[0]) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return toy_objective(trace, step)

    with pytest.raises(
        TrainingFailed,
        match=r"a batch of 8 does not fit into memory; it does in 4 rounds, .*--accumulate 4.*--batch-size 2",
    ):
        run_toy(None, objective=hungry)

    def insatiable(trace, step):
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(TrainingFailed, match="not even a batch of one fits"):
        run_toy(None, objective=insatiable)


# The run folder: two at once


@pytest.mark.slow
def test_two_processes_do_not_write_one_run(tmp_path, capsys):
    path = tmp_path / "run"
    other = train_digits(path)
    try:
        wait_for_an_epoch(other, path)
        assert other.poll() is None, "it was to be caught at work"
        with pytest.raises(SystemExit) as stop:
            main(["train", "vae", *FLAGS.split(), "--out", str(path), "--resume"])
        assert stop.value.code == 2
        assert f"{path} is being written by another process" in capsys.readouterr().err
    finally:
        other.kill()
        other.wait()
    main(["train", "vae", *FLAGS.split(), "--out", str(path), "--resume"])  # a killed process holds no lock
    assert names(path) == FINISHED


def test_a_prior_is_not_fitted_by_two_at_once(finished_run, tmp_path):
    shutil.copytree(finished_run, tmp_path / "run")
    model = load(tmp_path / "run")
    with RunFolder(tmp_path / "run").locked(), pytest.raises(ValueError, match="written by another process"):
        model.fit_prior_images(table(), PriorSettings(), folder=str(tmp_path / "run"))
    assert names(tmp_path / "run") == FINISHED


# The run folder: interruptions


class Killed(BaseException):
    """Stands for kill -9: after it nothing more is written."""


class Disk:
    """Every change to a file goes through here: number `fail_at` is the last, and leaves a file half written.

    how: "kill" ends the process, so that nothing after it happens, not even clean-up; "full" is a full disk: writing
    fails from there on, removing and renaming work.
    """

    def __init__(self, monkeypatch, fail_at: int | None = None, how: str = "kill"):
        self.changes, self.fail_at, self.how = 0, fail_at, how
        replace, unlink, fsync, append = os.replace, os.unlink, os.fsync, RunFolder.append

        def open_file(file, mode):
            try:
                self.change(writes=True)
            except BaseException:
                Path(file).write_bytes(b"")
                raise
            return open(file, mode)

        def do(function, *, writes):
            def wrapped(*args, **options):
                self.change(writes=writes)
                return function(*args, **options)

            return wrapped

        def append_line(folder, record):
            try:
                self.change(writes=True)
            except BaseException:
                with open(folder.log_file, "a") as file:
                    file.write(json.dumps(record)[:20])
                raise
            append(folder, record)

        monkeypatch.setattr("vaekit.world.open", open_file, raising=False)
        monkeypatch.setattr(os, "fsync", do(fsync, writes=True))
        monkeypatch.setattr(os, "replace", do(replace, writes=False))
        monkeypatch.setattr(os, "unlink", do(unlink, writes=False))
        monkeypatch.setattr(RunFolder, "append", append_line)

    def change(self, *, writes: bool) -> None:
        self.changes += 1
        if self.fail_at is None or self.changes < self.fail_at:
            return
        if self.how == "kill":
            raise Killed
        if writes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def fit_in(folder: Path, fields: dict):
    return tiny(**fields).fit_images(table(), folder=folder, resume=True)


@pytest.mark.parametrize(
    ("how", "fields"),
    [
        pytest.param("kill", {"epochs": 3}, id="kill"),
        pytest.param("full", {"epochs": 3}, marks=pytest.mark.slow, id="full disk"),
        pytest.param(
            "kill",
            {"early_stopping": True, "n_iter_no_change": 1},
            marks=pytest.mark.slow,
            id="kill with early stopping",
        ),
    ],
)
def test_a_run_cut_short_at_any_write_goes_on_to_the_same_end(
    tmp_path, monkeypatch, checkpoint_every_epoch, fields, how
):
    """Each change to a file in turn is the last one before a kill -9, or meets a full disk."""
    monkeypatch.setattr(loop, "rehearse", lambda *_: 0.0)
    with monkeypatch.context() as patch:
        disk = Disk(patch)
        whole = fit_in(tmp_path / "whole", fields)
    assert disk.changes > 20
    log, weights = RunFolder(tmp_path / "whole").log(), RunFolder(tmp_path / "whole").weights()[0]
    assert timeless(log) == timeless(whole.history_)
    checkpoints = 0
    for change in range(1, disk.changes + 1):
        folder = tmp_path / str(change)
        with monkeypatch.context() as patch:
            Disk(patch, change, how)
            try:
                fit_in(folder, fields)
            except (Killed, OSError) as error:
                assert isinstance(error, Killed) or error.errno == errno.ENOSPC
        run = RunFolder(folder)
        checkpoints += run.load_checkpoint() is not None
        if how == "full":
            left = FINISHED | {run.checkpoint_file.name, run.previous_file.name}
            assert names(folder) <= left, f"change {change} left files behind"
        resumed = fit_in(folder, fields)
        assert_same_weights(run.weights()[0], weights)
        assert timeless(resumed.history_) == timeless(log), f"change {change}"
        assert timeless(run.log()) == timeless(log), f"change {change}"
    assert checkpoints > 8


@pytest.mark.parametrize("when", ["checkpoint", "finish"])
def test_what_a_kill_left_behind_is_gone_when_the_run_is_done(tmp_path, monkeypatch, checkpoint_every_epoch, when):
    """A temporary file of another process, or the last checkpoint beside the final weights."""
    file = "weights.safetensors" if when == "finish" else "checkpoint.new.safetensors"
    with pytest.raises(Killed), monkeypatch.context() as patch:
        replace = os.replace

        def die(source, target):
            if Path(target).name == file:
                if when == "finish":
                    replace(source, target)
                patch.setattr(os, "unlink", kill)
                raise Killed
            replace(source, target)

        def kill(*_):
            raise Killed

        patch.setattr(os, "replace", die)
        fit_in(tmp_path / "run", {})
    assert names(tmp_path / "run") > {"run.json", "log.jsonl"}
    fit_in(tmp_path / "run", {})
    assert names(tmp_path / "run") == FINISHED


FLAGS = "--data digits --architecture mlp --latent-dim 4 --epochs 10 --batch-size 64 --random-state 0 --device cpu"


def train_digits(path: Path) -> subprocess.Popen:
    """A process of its own that trains on the digits, or goes on with it."""
    command = [sys.executable, "-m", "vaekit", "train", "vae", *FLAGS.split(), "--out", str(path), "--resume"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def wait_for_an_epoch(process: subprocess.Popen, path: Path) -> None:
    """Until the log has another record, or the process is done."""
    before, deadline = len(RunFolder(path).log()), time.monotonic() + 120
    while process.poll() is None and len(RunFolder(path).log()) <= before:
        assert time.monotonic() < deadline, "no epoch in two minutes"
        time.sleep(0.005)


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory) -> RunFolder:
    """The same run, never interrupted."""
    path = tmp_path_factory.mktemp("digits") / "run"
    main(["train", "vae", *FLAGS.split(), "--out", str(path)])
    return RunFolder(path)


def assert_same_run(run: RunFolder, expected: RunFolder):
    assert_same_weights(run.weights()[0], expected.weights()[0])
    assert timeless(run.log()) == timeless(expected.log())
    assert run.log()[-1]["epoch"] == 10


@pytest.mark.slow
def test_kill_9_at_random_moments_and_resume_is_one_unbroken_run(tmp_path, digits_run):
    path, delays, steps = tmp_path / "run", [], []
    for _ in range(2):
        process = train_digits(path)
        wait_for_an_epoch(process, path)
        delays.append(random.uniform(0, 0.25))
        time.sleep(delays[-1])
        process.kill()
        process.communicate()
        if process.returncode == 0:  # it was faster than the kill
            break
        assert process.returncode == -signal.SIGKILL
        saved = RunFolder(path).load_checkpoint()
        steps.append(saved[1]["step"] if saved else 0)
    assert steps, "the run was never killed"
    main(["train", "vae", *FLAGS.split(), "--out", str(path), "--resume"])
    print("killed after", delays, "with checkpoints at steps", steps)
    assert_same_run(RunFolder(path), digits_run)


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), (signal.SIGINT, 130)],
    ids=["SIGTERM", "SIGINT"],
)
@pytest.mark.slow
def test_a_signal_ends_a_run_with_a_checkpoint_and_its_exit_code(tmp_path, digits_run, number, code):
    process = train_digits(tmp_path / "run")
    wait_for_an_epoch(process, tmp_path / "run")
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    run = RunFolder(tmp_path / "run")
    assert run.started and not run.finished
    assert not [name for name in names(run.path) if ".tmp" in name or ".new." in name]
    logged = run.log()[-1]["step"]
    assert logged <= run.load_checkpoint()[1]["step"] < logged + 22, "the checkpoint is of the moment it stopped"
    main(["train", "vae", *FLAGS.split(), "--out", str(run.path), "--resume"])
    assert_same_run(run, digits_run)


# The run folder: what is refused


def test_resume_of_a_finished_run_does_nothing(finished):
    before = contents(finished)
    model = fit_in(finished, {})
    assert contents(finished) == before
    assert_same_weights(model.model_.state_dict(), load(finished).model_.state_dict())
    assert timeless(model.history_) == timeless(tiny().fit_images(table()).history_)


def test_a_finished_run_holds_three_files_and_says_where_it_came_from(finished):
    assert names(finished) == FINISHED
    config = json.loads((finished / "run.json").read_text())
    assert config["class"] == "VAE"
    assert config["fields"]["latent_dim"] == 2
    assert (config["seed"], config["device"]) == (5, "cpu")
    assert config["data"]["fingerprint"] == table().fingerprint
    assert config["parameters"] == load(finished).n_parameters_
    assert {"version", "torch", "written", "plan"} <= config.keys()


def test_an_existing_run_is_refused_without_resume(finished):
    before = contents(finished)
    with pytest.raises(ValueError, match="already holds a run: add --resume"):
        tiny().fit_images(table(), folder=finished)
    assert contents(finished) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latent_dim": 3}, "latent_dim 2 -> 3"),
        ({"random_state": 6}, "random_state 5 -> 6"),
        ({"learning_rate": 0.1, "batch_size": 4}, r"batch_size 8 -> 4, learning_rate 0\.002 -> 0\.1"),
    ],
    ids=str,
)
def test_resume_with_other_settings_names_the_field(finished, change, message):
    with pytest.raises(ValueError, match=f"other settings.*{message}.*new folder"):
        fit_in(finished, change)


def test_resume_of_another_model_or_other_data_is_refused(finished):
    with pytest.raises(ValueError, match="holds a VAE, not a BetaVAE"):
        tiny(BetaVAE).fit_images(table(), folder=finished, resume=True)
    with pytest.raises(ValueError, match=r"trained on other data \(numbers\)"):
        tiny().fit_images(table(seed=1), folder=finished, resume=True)
    with pytest.raises(ValueError, match="trained on other data"):
        tiny().fit_images(replace(table(), split="train"), folder=finished, resume=True)


def test_a_run_without_a_seed_resumes_with_the_one_it_drew(tmp_path, monkeypatch, checkpoint_every_epoch):
    with pytest.raises(OSError, match="lost"), monkeypatch.context() as patch:
        patch.setattr(RunFolder, "append", fails_at(RunFolder.append, 3, OSError("lost")))
        fit_in(tmp_path / "run", {"random_state": None})
    seed = RunFolder(tmp_path / "run").config()["seed"]
    resumed = fit_in(tmp_path / "run", {"random_state": None})
    whole = tiny(random_state=seed).fit_images(table())
    assert_same_weights(resumed.model_.state_dict(), whole.model_.state_dict())


def test_resume_with_no_run_there_starts_one(tmp_path):
    fit_in(tmp_path / "new" / "run", {})
    assert names(tmp_path / "new" / "run") == FINISHED


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(ValueError, match="run is a file; a run is a folder"):
        fit_in(tmp_path / "run", {})
    assert (tmp_path / "run").read_text() == "mine"


@pytest.mark.parametrize("fields", [{"precision": "float16"}, {"likelihood": "laplace"}, {"device": "abacus"}], ids=str)
def test_a_mistake_in_the_fields_leaves_no_run_behind(tmp_path, fields):
    """So that the same command with the mistake put right is not refused."""
    with pytest.raises(ValueError, match=next(iter(fields))):
        tiny(**fields).fit_images(table(), folder=tmp_path / "run")
    tiny().fit_images(table(), folder=tmp_path / "run")


def test_a_folder_of_a_newer_format_says_so(finished):
    config = json.loads((finished / "run.json").read_text())
    (finished / "run.json").write_text(json.dumps({**config, "format": 99, "version": "9.1.0"}))
    for use in (load, lambda path: fit_in(path, {})):
        with pytest.raises(ValueError, match=r"newer vaekit \(9\.1\.0, folder format 99.*upgrade"):
            use(finished)


def test_a_folder_of_this_format_with_fields_it_does_not_know_of_is_refused(finished):
    config = json.loads((finished / "run.json").read_text())
    (finished / "run.json").write_text(json.dumps({**config, "fields": {"magic": 1}}))
    with pytest.raises(ValueError, match="magic"):
        load(finished)
    (finished / "run.json").write_text(json.dumps({**config, "class": "os.system"}))
    with pytest.raises(ValueError, match=r"os\.system"):
        load(finished)


def test_what_is_no_run_is_refused(tmp_path, finished):
    with pytest.raises(FileNotFoundError, match="no run folder at"):
        load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"not a run folder: it has no run\.json"):
        load(tmp_path / "empty")
    for text in ("", "{", "[1]", '{"class": "VAE"}'):
        (finished / "run.json").write_text(text)
        with pytest.raises(ValueError, match=r"run\.json is damaged"):
            load(finished)


@pytest.mark.parametrize("place", [0.0, 0.001, 0.01, 0.3, 0.5, 0.9999, 1.0])
def test_one_flipped_bit_in_the_weights_is_found(finished, place):
    flip(finished / "weights.safetensors", place)
    with pytest.raises(ValueError, match=r"weights\.safetensors is damaged"):
        load(finished)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 100, 5000, -1])
def test_truncated_weights_are_found(finished, size):
    data = (finished / "weights.safetensors").read_bytes()
    (finished / "weights.safetensors").write_bytes(data[:size])
    with pytest.raises(ValueError, match=r"weights\.safetensors is damaged"):
        load(finished)


def test_weights_of_another_model_or_of_none_are_refused(finished, tmp_path):
    tiny(latent_dim=7).fit(table().x).save(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "weights.safetensors", finished)
    with pytest.raises(ValueError, match=r"or from another vaekit: run\.json and the weights do not fit"):
        load(finished)
    (finished / "weights.safetensors").unlink()
    with pytest.raises(ValueError, match=r"not finished: it has no weights yet.*--resume"):
        load(finished)


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, monkeypatch, checkpoint_every_epoch):
    whole = tiny().fit_images(table())
    run = RunFolder(tmp_path / "run")
    with pytest.raises(OSError, match="lost"), monkeypatch.context() as patch:
        patch.setattr(RunFolder, "append", fails_at(RunFolder.append, 4, OSError("lost")))
        fit_in(run.path, {})
    assert [read_tensors(file)[1]["step"] for file in (run.checkpoint_file, run.previous_file)] == [6, 4]
    flip(run.checkpoint_file)
    assert run.load_checkpoint()[1]["step"] == 4
    twice = shutil.copytree(run.path, tmp_path / "twice")
    resumed = fit_in(run.path, {})
    assert_same_weights(resumed.model_.state_dict(), whole.model_.state_dict())
    assert timeless(run.log()) == timeless(whole.history_)
    data = RunFolder(twice).previous_file.read_bytes()
    RunFolder(twice).previous_file.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"no checkpoint can be read: .*previous.*start again in a new folder"):
        fit_in(twice, {})


# Files that are whole or not there


def test_tensors_and_state_come_back_as_they_were(tmp_path):
    tensors = {
        "a": torch.randn(3, 4).to(memory_format=torch.contiguous_format).t(),
        "half": torch.tensor([1.5], dtype=torch.bfloat16),
        "empty": torch.zeros(0, 2),
        "scalar": torch.tensor(7),
    }
    write_tensors(tmp_path / "x.safetensors", tensors, {"step": 3, "best": [0.1, None]})
    read, state = read_tensors(tmp_path / "x.safetensors")
    assert state == {"step": 3, "best": [0.1, None]}
    assert {name: (t.dtype, t.tolist()) for name, t in read.items()} == {
        name: (t.dtype, t.tolist()) for name, t in tensors.items()
    }
    with pytest.raises(ValueError, match="is missing"):
        read_tensors(tmp_path / "y.safetensors")


def test_a_write_replaces_the_file_and_leaves_nothing_else(tmp_path):
    file = tmp_path / "a.txt"
    for content in ("first", b"second", "dritt\u00e9"):
        write_atomically(file, content)
        assert file.read_bytes() == (content if isinstance(content, bytes) else content.encode())
        assert names(tmp_path) == {"a.txt"}


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_whole(tmp_path, monkeypatch, call):
    write_atomically(tmp_path / "a.txt", "old")
    monkeypatch.setattr(os, call, fails_at(getattr(os, call), 1, OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "a.txt", "new")
    assert contents(tmp_path) == {"a.txt": b"old"}


def test_a_conditional_run_resumes_with_its_labels(tmp_path, monkeypatch, checkpoint_every_epoch):
    whole = tiny(CVAE).fit_images(table())
    with pytest.raises(OSError, match="lost"), monkeypatch.context() as patch:
        patch.setattr(RunFolder, "append", fails_at(RunFolder.append, 3, OSError("lost")))
        tiny(CVAE).fit_images(table(), folder=tmp_path / "run")
    resumed = tiny(CVAE).fit_images(table(), folder=tmp_path / "run", resume=True)
    assert_same_weights(resumed.model_.state_dict(), whole.model_.state_dict())
    assert load(tmp_path / "run").classes_.tolist() == ["a", "b"]
