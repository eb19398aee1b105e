"""How long a training takes here is said before it begins, by steps that change nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from tests.test_training import tiny
from vaekit import VAE
from vaekit.data import Images, describe
from vaekit.data.batches import Data
from vaekit.models import Iwae
from vaekit.report import times as module
from vaekit.report.times import Times, of_side, times
from vaekit.training import step
from vaekit.training.plan import Plan
from vaekit.training.progress import roughly


def images(labelled: bool = True) -> Images:
    y = np.arange(40) % 4 if labelled else None
    x = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), dtype=np.uint8)
    return Images(x=x, y=y, classes=tuple("abcd") if labelled else (), name="some")


def test_the_time_is_that_of_a_step_times_the_steps_of_model_and_prior(monkeypatch):
    monkeypatch.setattr(step, "rehearse", lambda *_: 0.5)
    monkeypatch.setattr(step, "pick_threads", lambda *_: None)
    fields = {"architecture": "mlp", "epochs": 3, "batch_size": 10}
    assert times("cvae", images(), 1000, fields) == Times(0.5 * 3 * 100, 0.0)
    grid = times(
        "vae",
        replace(images(), x=np.zeros((40, 16, 16, 1), np.uint8)),
        1000,
        {"epochs": 3, "batch_size": 10, "grid": True},
    )
    assert grid == Times(150.0, 0.5 * 80 * 15), "1,200 steps of flow matching, in batches of 64"
    codes = times("vqvae", images(), 1000, {**fields, "n_codes": 8})
    assert codes == Times(150.0, 0.5 * 20 * 15), "20 epochs in batches of 64"


@pytest.mark.parametrize(
    "since, seconds", [(0, (30 * 1 + 10 * 3) / 40), (20, (10 * 1 + 10 * 3) / 20), (35, 3.0), (40, 3.0)]
)
def test_steps_of_one_draw_count_for_what_they_take(monkeypatch, since, seconds):
    monkeypatch.setattr(step, "trial_step", lambda *_, at: at)
    monkeypatch.setattr(step, "_seconds", lambda at: 1.0 if at < 30 else 3.0)
    plan = Plan(steps=40, batch_size=10, learning_rate=0.1, seed=0)
    assert step.rehearse(nn.Identity(), Iwae(elbo_steps=30), Data(torch.zeros(10, 1)), plan, since) == seconds


def test_what_is_tried_is_not_kept_and_draws_no_number_of_the_callers():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    found = times("vqvae", images(), 100, {"architecture": "mlp", "n_codes": 8})
    assert min(found) > 0 and torch.equal(torch.rand(3), expected)
    assert module.LOOKED_AT >= 128, "a whole batch"


def test_large_pictures_are_tried_at_the_size_that_is_suggested():
    large = replace(images(), x=np.zeros((40, 300, 200, 1), np.uint8))
    small = of_side(large, 16)
    assert (
        small.x.shape == (40, 16, 16, 1)
        and np.bincount(small.y).tolist() == [10] * 4
        and small.classes == tuple("abcd")
    )


def test_a_model_that_the_data_is_not_for_is_refused():
    with pytest.raises(ValueError, match="conditional"):
        times("cvae", images(labelled=False), 100)


def test_a_training_says_how_long_it_takes_and_is_the_same(monkeypatch, capfd):
    x = np.random.default_rng(0).normal(size=(40, 3))
    quiet = tiny(epochs=2).fit(x)
    monkeypatch.setattr("vaekit.training.loop.rehearse", lambda *_: 60.0)
    told = tiny(epochs=2, verbose=True).fit(x)
    steps = told.history_[-1]["step"]
    assert f"{steps} steps of 8, about {steps} min here" in capfd.readouterr().err
    for mine, theirs in zip(quiet.model_.parameters(), told.model_.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    VAE(epochs=1, architecture="mlp", width=8, random_state=0).fit(x)
    assert "here" not in capfd.readouterr().err, "nobody asked"


@pytest.mark.parametrize(
    ("shape", "model", "fields"),
    [
        ((8, 8, 1), "vae", {}),
        ((28, 28, 1), "vqvae", {}),
        ((48, 40, 3), "vae", {"grid": True}),
        ((5,), "vae", {}),
    ],
)
def test_what_is_suggested_for_the_best_samples_follows_the_size(shape, model, fields):
    x = np.random.default_rng(0).integers(0, 256, (40, *shape), dtype=np.uint8)
    x = x.astype(np.float64) if len(shape) == 1 else x
    quick, best = describe(replace(images(), x=x))["suggestions"]
    few = {} if len(shape) == 1 else {"early_stopping": True}
    assert (quick["model"], quick["fields"], quick["flags"][:2]) == ("vae", few, ["--time-budget", "60"])
    assert (best["model"], best["fields"], best["prior"]) == (model, {**fields, **few}, True)
    assert best["by_class"] and not quick["by_class"], "ten images of a class are few for a conditional model"
    assert ("--grid" in best["flags"]) == ("grid" in fields)


@pytest.mark.parametrize(("seconds", "words"), [(0.2, "1 s"), (42.4, "42 s"), (200, "3 min"), (5700, "1 h 35 min")])
def test_a_guess_is_said_as_one(seconds, words):
    assert roughly(seconds) == words
