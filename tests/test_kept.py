"""Runs that an earlier vaekit left say what they said then, and the same seeds give the same weights."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import vaekit

KEPT = Path(__file__).parent / "data" / "kept"
spec = importlib.util.spec_from_file_location("make_kept", KEPT / "make.py")
assert spec and spec.loader
made = importlib.util.module_from_spec(spec)
spec.loader.exec_module(made)


@pytest.fixture(scope="module")
def same() -> bool:
    """Whether this machine rounds as the one that made the runs."""
    there = json.loads((KEPT / "VERSION.json").read_text())
    here = made.machine()
    return all(there[name] == here[name] for name in here)


def check_same(found, expected, same: bool, name: str) -> None:
    found = np.asarray(found)
    assert found.shape == expected.shape and found.dtype == expected.dtype, name
    if same:
        assert (found == expected).all(), name
    elif found.dtype.kind == "f" and not name.startswith("sample"):  # a draw that falls on the other side is another
        assert np.allclose(found, expected, rtol=1e-3, atol=1e-3 * max(1.0, np.abs(expected).max())), name


@pytest.mark.parametrize("name", made.RUNS)
def test_a_run_of_before_says_what_it_said(name, same):
    expected = np.load(KEPT / f"{name}.npz")
    model = vaekit.load(KEPT / name)
    assert model.filled_in().optimizer == "adam", "before there was a choice"
    found = made.said(model, made.RUNS[name][2])
    assert set(found) == set(expected)
    for what, value in found.items():
        check_same(value, expected[what], same, what)


WEIGHTS = json.loads((KEPT / "WEIGHTS.json").read_text())


@pytest.mark.parametrize("name", made.RUNS)
def test_the_same_seed_gives_the_same_weights(name, same, tmp_path):
    made.make(name, tmp_path / "run")
    found = made.digests(tmp_path / "run")
    assert found == WEIGHTS[name] if same else found.keys() == WEIGHTS[name].keys()
    for file in found:
        here, there = load_file(tmp_path / "run" / file), load_file(KEPT / name / file)
        assert {key: (value.shape, value.dtype) for key, value in here.items()} == {
            key: (value.shape, value.dtype) for key, value in there.items()
        }


def test_a_killed_run_of_before_goes_on_to_its_end(same, tmp_path):
    made.go_on(tmp_path / "run")
    assert not same or made.digests(tmp_path / "run") == WEIGHTS["killed"]
    assert len(vaekit.load(tmp_path / "run").history_) == 4
