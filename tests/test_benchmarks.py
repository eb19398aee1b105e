"""The harness behind the claims: what is recorded is what a claim found, and the page of results holds all of it."""

import json
import subprocess
import sys
import types
from functools import partial
from pathlib import Path

import pytest

from benchmarks import harness
from benchmarks.__main__ import main
from vaekit.data import open_data

ROOT = Path(__file__).parents[1]


@pytest.fixture
def claim(tmp_path, monkeypatch):
    """A claim called `toy`, and records written to a folder of its own."""

    def run(argv):
        """Finds one row."""
        return harness.Findings(["model", "error", "steps"], [["VAE", 0.12345678, 12000]], f"argued {argv}")

    module = types.ModuleType("benchmarks.toy", "Toys are\nuseful.")
    module.run = run
    monkeypatch.setitem(sys.modules, "benchmarks.toy", module)
    monkeypatch.setattr(harness, "RECORDS", tmp_path / "results")
    monkeypatch.setattr(harness, "RESULTS", tmp_path / "RESULTS.md")
    return tmp_path


def test_a_record_says_what_was_found_where_and_how(claim):
    found = json.loads(harness.record("toy", ["--seeds", "2"]).read_text())
    assert found["claim"] == "Toys are useful."
    assert found["figures"] == [{"model": "VAE", "error": 0.12345678, "steps": 12000}]
    assert found["command"] == "python -m benchmarks toy --seeds 2"
    assert found["text"] == "argued ['--seeds', '2']"
    assert {"date", "commit", "machine", "versions"} <= set(found)


def test_a_kept_run_is_recorded_with_the_commit_that_trained_it(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "OUT", tmp_path)
    monkeypatch.setattr(harness, "_used", {})
    images = open_data("digits", "test")
    monkeypatch.setattr(harness, "_commit", lambda: "aaaaaaa")
    harness.trained("toy/vae", "vae", images, epochs=1, random_state=0)
    monkeypatch.setattr(harness, "_commit", lambda: "bbbbbbb")
    harness.trained("toy/vae", "vae", images, epochs=1, random_state=0)
    assert harness._used == {"toy/vae": "aaaaaaa"}
    (tmp_path / "toy" / "vae" / "weights.safetensors").unlink()
    harness.trained("toy/vae", "vae", images, epochs=1, random_state=0)
    assert harness._used == {"toy/vae": "aaaaaaa bbbbbbb"}


def test_a_claim_that_is_gone_on_with_keeps_the_runs_that_it_measured(claim, monkeypatch):
    taken = []

    def run(argv):
        def one(seed):
            taken.append(seed)
            return {"nll": 86.5 + seed, "guidance": None}

        found = [harness.measured(f"toy/vae-seed{seed}", partial(one, seed)) for seed in range(int(argv[1]))]
        return harness.Findings(["NLL"], [[values["nll"]] for values in found], "")

    def record(seeds, commit, *, go_on):
        monkeypatch.setattr(harness, "_commit", lambda: commit)
        return json.loads(harness.record("toy", ["--seeds", str(seeds)], go_on=go_on).read_text())

    sys.modules["benchmarks.toy"].run = run
    record(1, "aaaaaaa", go_on=False)
    found = record(2, "bbbbbbb", go_on=True)
    assert taken == [0, 1]
    assert found["figures"] == [{"NLL": 86.5}, {"NLL": 87.5}]
    assert found["runs"] == {"toy/vae-seed0": "aaaaaaa", "toy/vae-seed1": "bbbbbbb"}
    assert found["command"] == "python -m benchmarks toy --seeds 2", "which finds the same from nothing"
    with pytest.raises(ValueError):
        harness.record("toy", ["--seeds", "two"])
    assert len(json.loads((claim / "results" / "runs" / "toy.json").read_text())) == 2, "a wrong argument loses nothing"
    record(2, "ccccccc", go_on=False)
    assert taken == [0, 1, 0, 1], "else all is measured anew"
    harness.write_results()
    assert (claim / "RESULTS.md").read_text().count("## toy") == 1, "what a run came to is no record"


def test_results_are_made_from_the_records(claim):
    harness.record("toy")
    harness.write_results()
    page = (claim / "RESULTS.md").read_text()
    assert "## toy\n\nToys are useful.\n" in page
    assert "| model | error | steps |\n| --- | --- | --- |\n| VAE | 0.1235 | 12,000 |" in page
    assert "`python -m benchmarks toy`" in page


def test_every_claim_is_listed_with_its_sentence(capsys):
    assert main([]) == 0
    listed = capsys.readouterr().out
    for name in ("codes", "conditional", "constrained", "defaults", "speed", "wang2023"):
        assert name in listed and harness.claims()[name] in listed
    assert "harness" not in harness.claims()


def test_an_unknown_claim_gets_the_nearest_name(capsys):
    assert main(["sped"]) == 2
    assert "did you mean 'speed'?" in capsys.readouterr().err


@pytest.mark.slow
def test_the_module_runs_as_a_command():
    done = subprocess.run([sys.executable, "-m", "benchmarks", "nothing"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "unknown claim" in done.stderr


def test_interleaving_takes_turns_and_ratios_are_of_rounds():
    turns = []
    seconds = harness.interleave({"a": lambda: turns.append("a"), "b": lambda: turns.append("b")}, rounds=3)
    assert "".join(turns) == "ab" * 4
    assert {name: len(taken) for name, taken in seconds.items()} == {"a": 3, "b": 3}
    assert harness.median_ratio([1.0, 4.0, 9.0], [1.0, 2.0, 3.0]) == 2.0


def test_the_committed_page_is_what_the_records_give(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "RESULTS", tmp_path / "RESULTS.md")
    harness.write_results()
    assert (tmp_path / "RESULTS.md").read_text() == (ROOT / "benchmarks" / "RESULTS.md").read_text()
