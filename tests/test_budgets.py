"""Budgets of time: planned by a rehearsal, held by the clock, shared out where several trainings have one."""

import json
import math
import shutil
import time
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
import torch._dynamo  # the first optimizer of a process imports it, for seconds
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.mixture import GaussianMixture

from tests.test_training import fails_at, table, timeless, tiny
from tests.test_unfinished import assert_equal, weights
from vaekit import load
from vaekit.cli import main
from vaekit.estimators.base import Estimator
from vaekit.owned import LOCK, MARK
from vaekit.report.compare import _trainings, compare
from vaekit.report.sweep import sweep
from vaekit.training.checkpoint import RunFolder
from vaekit.training.mixture import iterate
from vaekit.training.plan import Budget, Plan, describe_place, read_plan
from vaekit.training.settings import PriorSettings

# The plan


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_plan_that_ends_elsewhere_goes_on_from_the_rate_it_has_and_falls_to_the_new_end(data):
    steps = data.draw(st.integers(10, 5000))
    warmup = data.draw(st.integers(0, steps // 5))
    at = data.draw(st.integers(warmup, steps))
    end = data.draw(st.integers(at + 1, 2 * steps + 1))
    anew = data.draw(st.none() | st.integers(0, 300))
    schedule = data.draw(st.sampled_from(["cosine", "linear"]))
    plan = Plan(steps=steps, batch_size=8, learning_rate=0.01, warmup=warmup, schedule=schedule)
    new = plan.towards(end, at, anew=anew)
    assert (new.steps, new.turn) == (end, at)
    assert read_plan(json.loads(json.dumps(asdict(new)))) == new
    rates = [new.learning_rate_at(step) for step in range(at, end)]
    assert min(rates) > 0 and max(rates) <= 0.01
    fallen = rates[new.warmup :]
    assert fallen == sorted(fallen, reverse=True)
    assert new.learning_rate_at(end) < 1e-9
    if not new.warmup:
        unbroken = Plan(steps=end, batch_size=8, learning_rate=0.01, schedule=schedule).learning_rate_at(at)
        assert rates[0] == pytest.approx(max(0.0 if at == steps else plan.learning_rate_at(at), unbroken))
    assert new.warmup <= (end - at) // 5


def test_a_plan_that_has_only_begun_to_rise_keeps_its_rise():
    plan = Plan(steps=1000, batch_size=8, learning_rate=0.01, warmup=100)
    new = plan.towards(500, 40)
    assert [new.learning_rate_at(step) for step in (40, 80)] == pytest.approx(
        [replace(plan, steps=500).learning_rate_at(step) for step in (40, 80)]
    )
    short = plan.towards(20, 10)
    assert (short.warmup, short.turn) == (12, 0)


def test_a_constant_rate_stays_constant():
    plan = Plan(steps=100, batch_size=8, learning_rate=0.01, schedule="constant").towards(30, 20)
    assert {plan.learning_rate_at(step) for step in range(30)} == {0.01}


def test_a_place_is_said_in_epochs():
    assert describe_place(396, 1100, 22) == "epoch 18 of 50"
    assert describe_place(407, 1099, 22) == "epoch 18.5 of 50"


def test_seconds_are_shared_out_by_weight_and_what_is_left_over_goes_to_the_rest(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    budget = Budget(80.0, [1, 1, 2], deadline=170.0)
    with budget.share(1) as seconds:
        assert seconds == 20
        now[0] += 5
    with budget.share(1) as seconds:
        assert seconds == 25
        now[0] += 25
    with budget.share(2) as seconds:
        assert seconds == pytest.approx(40), "no more than there is until the deadline"
        now[0] += 60
    late = Budget(10.0, [1], deadline=170.0)
    with late.share(1) as seconds:
        assert 0 < seconds < 0.01, "each is trained a little, and none is left out"
    with Budget(0.0, [1], None).share(1) as seconds:
        assert seconds is None
    with budget.share(0) as seconds:
        assert seconds is None, "a finished training takes no part"


# The clock


@pytest.fixture
def slow(monkeypatch):
    """Each step takes 50 ms, and the rehearsal promised that it would take none."""
    real = torch.optim.Adam.step

    def step(self, *given, **named):
        time.sleep(0.05)
        return real(self, *given, **named)

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    monkeypatch.setattr("vaekit.training.step.rehearse", lambda *_: 1e-6)


@pytest.mark.parametrize("early_stopping", [False, True])
def test_the_clock_ends_a_training_that_is_slower_than_rehearsed(tmp_path, slow, early_stopping, capfd):
    fields = {"epochs": 100, "early_stopping": early_stopping, "verbose": True}
    began = time.monotonic()
    model = tiny(**fields).fit_images(table(), folder=str(tmp_path / "run"), time_budget=0.6)
    assert time.monotonic() - began < 5, "of 10 seconds that all steps would take"
    run = RunFolder(tmp_path / "run")
    done = model.history_[-1]["step"]
    assert 1 <= done <= 13
    assert run.config()["ended"] == {"step": done, "because": "budget"}
    assert model.history_ == run.history()
    assert "the time budget is over: it ends at epoch" in capfd.readouterr().err
    assert {file.name for file in run.path.iterdir()} == {MARK, LOCK, "run.json", "log.jsonl", "weights.safetensors"}
    assert_equal(weights(load(run.path)), weights(model))
    assert np.isfinite(model.score_samples(table().x)).all()
    # The same command leaves it as it is; other epochs go on with it, and so do these without a budget.
    again = tiny(**fields).fit_images(table(), folder=str(run.path), resume=True, time_budget=0.6)
    assert again.history_ == model.history_


def test_what_a_budget_ended_goes_on_to_all_its_epochs_without_one(tmp_path, slow, monkeypatch):
    run = RunFolder(tmp_path / "run")
    done = tiny(epochs=8).fit_images(table(), folder=str(run.path), time_budget=0.3).history_[-1]["step"]
    assert done < 16
    monkeypatch.undo()
    kept = tiny(epochs=None).fit_images(table(), folder=str(run.path), resume=True)
    assert kept.history_[-1]["step"] == done, "no number of epochs is asked for"
    more = tiny(epochs=8).fit_images(table(), folder=str(run.path), resume=True)
    assert more.history_[-1]["step"] == 16
    assert run.config()["ended"] == {"step": 16, "because": "plan"}
    assert run.config()["plan"]["turn"] == done


def interrupted(path, epochs, at, monkeypatch, **options):
    with pytest.raises(OSError, match="lost"), monkeypatch.context() as patch:
        patch.setattr(RunFolder, "append", fails_at(RunFolder.append, at, OSError("lost")))
        tiny(epochs=epochs).fit_images(table(), folder=str(path), **options)


def test_a_budget_holds_when_a_run_is_gone_on_with(tmp_path, monkeypatch, capfd):
    """Of 100 steps, 2 are done; in 2.5 seconds there are 9 of a quarter second each."""
    interrupted(tmp_path / "a", 50, 2, monkeypatch)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    looked = []
    monkeypatch.setattr("vaekit.training.step.rehearse", lambda *given: looked.append(given[-1]) or 0.25)
    whole = tiny(epochs=50, verbose=True).fit_images(table(), folder=str(tmp_path / "a"), resume=True, time_budget=2.6)
    said = capfd.readouterr().err
    assert (
        "a new schedule from epoch 1 on, to its end at epoch 5.5: the time budget is enough for 9 of 98 steps" in said
    )
    assert looked == [2], "what is still to be done is rehearsed"
    config = RunFolder(tmp_path / "a").config()
    assert whole.history_[-1]["step"] == config["plan"]["steps"] == 11
    assert [plan["steps"] for plan in config["earlier_plans"]] == [100]
    assert config["ended"] == {"step": 11, "because": "budget"}
    assert whole.history_[-1]["learning_rate"] < 0.2 * max(r["learning_rate"] for r in whole.history_)
    assert config["resolved"]["rate_warmup_epochs"] == pytest.approx(0.1 * 11 / 2), "a tenth, of what there is"
    # Interrupted once more, it comes to the same end: the plan is recorded.
    interrupted(tmp_path / "b", 50, 2, monkeypatch, resume=True, time_budget=2.6)
    monkeypatch.setattr("vaekit.training.step.rehearse", lambda *_: 1e-6)
    resumed = tiny(epochs=50).fit_images(table(), folder=str(tmp_path / "b"), resume=True, time_budget=60)
    assert_equal(weights(resumed), weights(whole))
    assert timeless(resumed.history_) == timeless(whole.history_)
    files = [(tmp_path / name / "weights.safetensors").read_bytes() for name in "ab"]
    assert files[0] == files[1]


def test_a_budget_that_is_large_enough_changes_nothing(tmp_path):
    plain = tiny().fit_images(table())
    assert_equal(weights(tiny().fit_images(table(), time_budget=600)), weights(plain))


@pytest.mark.parametrize("budget", [0, -1, math.nan, math.inf])
def test_what_is_no_time_is_refused_before_anything_is_written(tmp_path, budget):
    with pytest.raises(ValueError, match="time_budget must be a number of seconds > 0"):
        tiny().fit_images(table(), folder=str(tmp_path / "run"), time_budget=budget)
    with pytest.raises(ValueError, match="time_budget must be a number of seconds > 0"):
        tiny().fit(table().x).fit_prior(table().x, time_budget=budget)
    with pytest.raises(ValueError, match="time_budget must be a number of seconds > 0"):
        sweep("digits", str(tmp_path / "sweep"), time_budget=budget)
    with pytest.raises(ValueError, match="time_budget must be a number of seconds > 0"):
        compare("digits", str(tmp_path / "compare"), time_budget=budget)
    assert list(tmp_path.iterdir()) == []


def test_the_end_line_tells_what_was_done(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("vaekit.training.step.rehearse", lambda *_: 0.02)
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(100, 3)))
    command = ["train", "vae", "--data", str(tmp_path / "x.npy"), "--out", str(tmp_path / "run"), "--epochs", "40"]
    main([*command, "--batch-size", "10", "--time-budget", "2.3"])
    out = capsys.readouterr().out
    steps = RunFolder(tmp_path / "run").history()[-1]["step"]
    assert 20 < steps < 105
    assert f"{steps} steps, epoch {round(steps / 8, 1):g} of 40, ended by the time budget (" in out
    assert "epochs" not in out.splitlines()[0].replace("rate_warmup_epochs", "")


# The second stage


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    path = tmp_path_factory.mktemp("stage") / "run"
    tiny(epochs=1).fit_images(table(64), folder=str(path))
    return path


FLOW = PriorSettings(prior="flow", epochs=30, layers=2, channels=8, batch_size=8)


def test_a_prior_holds_its_budget_by_plan_and_goes_on_with_it(fitted, tmp_path, monkeypatch):
    """8 steps an epoch; 0.25 s a step: 8 of 240 steps in 2.3 s."""
    runs = [shutil.copytree(fitted, tmp_path / name) for name in "ab"]
    monkeypatch.setattr("vaekit.training.step.rehearse", lambda *_: 0.25)
    whole = load(runs[0]).fit_prior_images(table(64), FLOW, folder=str(runs[0]), time_budget=2.8)
    steps = whole.prior_history_[-1]["step"]
    assert 5 <= steps <= 10
    with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch:
        patch.setattr(RunFolder, "append", fails_at(RunFolder.append, 1, KeyboardInterrupt()))
        load(runs[1]).fit_prior_images(table(64), FLOW, folder=str(runs[1]), time_budget=2.8)
    plan = RunFolder(runs[1] / "prior").config()["plan"]
    assert plan["steps"] <= 10
    monkeypatch.setattr("vaekit.training.step.rehearse", lambda *_: 1e-6)
    again = load(runs[1]).fit_prior_images(table(64), FLOW, folder=str(runs[1]), time_budget=60)
    assert again.prior_history_[-1]["step"] == plan["steps"]
    if plan["steps"] == steps:
        assert_equal(again.with_prior("fitted").prior.state_dict(), whole.with_prior("fitted").prior.state_dict())


def test_a_prior_holds_its_budget_by_the_clock(fitted, slow):
    model = load(fitted)
    began = time.monotonic()
    model.fit_prior(table(64).x, prior="flow", epochs=30, layers=2, channels=8, batch_size=8, time_budget=0.4)
    assert time.monotonic() - began < 6, "of 12 seconds"
    assert model.prior_history_[-1]["step"] <= 10
    assert np.isfinite(model.sample(5, random_state=0)).all()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_mixture_is_fitted_iteration_by_iteration_to_the_same_end(monkeypatch):
    z = np.random.default_rng(0).normal(size=(300, 2)) * [1, 3]
    make = lambda: GaussianMixture(4, reg_covar=1e-3, max_iter=100, random_state=0)  # noqa: E731
    whole, cut, short = make().fit(z), make(), make()
    iterate(cut, z, time.monotonic() + 60)
    np.testing.assert_allclose(cut.means_, whole.means_, atol=1e-2)
    iterate(short, z, time.monotonic() - 1)
    assert np.isfinite(short.means_).all()


# Several trainings


@pytest.fixture
def shares(monkeypatch):
    """What each training is given: (folder, seconds)."""
    seen, real = [], Estimator.fit_images

    def fit_images(self, images, **options):
        seen.append((options["folder"].rsplit("/", 1)[1], options["time_budget"]))
        return real(self, images, **options)

    monkeypatch.setattr(Estimator, "fit_images", fit_images)
    return seen


@pytest.mark.slow
def test_a_sweep_shares_its_budget_out_evenly(tmp_path, shares, monkeypatch):
    x = np.random.default_rng(0).normal(size=(60, 3))
    np.save(tmp_path / "x.npy", x)
    said = []
    monkeypatch.setattr("vaekit.training.step.rehearse", lambda *_: 0.5)
    results = sweep(
        str(tmp_path / "x.npy"),
        str(tmp_path / "sweep"),
        latent_dims=[1, 2],
        betas=[1.0, 2.0],
        epochs=40,
        jobs=1,
        device="cpu",
        time_budget=32.0,
        say=said.append,
    )
    assert len(results["points"]) == 4 == len(shares), "none is left out"
    given = [seconds for _, seconds in shares]
    assert given[0] == pytest.approx(0.75 * 32 / 4, abs=0.5)
    assert max(given) - given[0] < 0.01 and min(given) > 0.8 * given[0], "alike, so that the points compare"
    assert sum("ended by the time budget, epoch" in line for line in said) == 4
    for folder, seconds in shares:
        steps = RunFolder(tmp_path / "sweep" / "runs" / folder).history()[-1]["step"]
        assert steps == pytest.approx(0.9 * seconds / 0.5, abs=1.01)
    # What is there is kept, whatever the budget.
    sweep(
        str(tmp_path / "x.npy"), str(tmp_path / "sweep"), latent_dims=[1, 2], betas=[1.0, 2.0], epochs=40, jobs=1,
        device="cpu", say=said.append,
    )  # fmt: skip
    assert len(shares) == 4


def test_the_trainings_of_a_comparison_are_those_that_share_its_budget():
    found = _trainings(["vae", "vqvae"], 2, 3, sweeps=False)
    assert [(training.folder, training.share) for training in found] == [
        ("vae-seed3", 1.0),
        ("vqvae-seed3", 1.0),
        ("vae-seed4", 1.0),
        ("vqvae-seed4", 1.0),
        ("vae-d2", 0.5),
    ]
    assert len(_trainings(["vae", "bvae"], 1, 0, sweeps=True)) == 2 + 2 + 8


@pytest.mark.slow
def test_a_comparison_shares_its_budget_out(tmp_path, shares, monkeypatch):
    x = np.random.default_rng(0).integers(0, 256, (50, 4, 4, 1), dtype=np.uint8)
    np.save(tmp_path / "x.npy", x)
    monkeypatch.setattr("vaekit.training.step.rehearse", lambda *_: 0.5)
    options = {"models": ["vae", "vqvae"], "architecture": "mlp", "epochs": 200, "priors": False, "device": "cpu"}
    said = []
    for name in ("draw", "living_figures", "write_page"):
        monkeypatch.setattr(f"vaekit.report.compare.{name}", lambda *_: [])
    results = compare(
        str(tmp_path / "x.npy"), str(tmp_path / "report"), time_budget=60.0, verbose=False, say=said.append, **options
    )
    folders, given = zip(*shares, strict=True)
    assert folders == ("vae-seed0", "vqvae-seed0", "vae-d2")
    assert given[0] == pytest.approx(0.5 * 60 / 2.5, abs=0.5)
    assert given[1] >= given[0] - 0.5 and given[2] >= 0.5 * given[0] - 0.5
    (note,) = [note for note in results["protocol"]["notes"] if "time budget" in note]
    assert all(f"{folder} (epoch " in note for folder in folders)
    assert "--time-budget 60.0" in results["protocol"]["command"]
    assert [model["name"] for model in results["models"]] == ["vae", "vqvae"]
