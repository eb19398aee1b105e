"""The sweep: its grid, how it goes on, what it advises of made-up points and of real ones."""

import json

import numpy as np
import pytest
from PIL import Image

from vaekit.cli import main
from vaekit.files import load
from vaekit.report.advice import advise
from vaekit.report.sweep import sweep

QUICK = {"architecture": "mlp", "epochs": 8}


def point(latent_dim, beta, elbo, seed=0, **more):
    return {
        "latent_dim": latent_dim, "beta": beta, "seed": seed, "elbo": elbo, "rate": 5.0, "distortion": -elbo - 5.0,
        "active_units": latent_dim, "aggregate_kl_at_least": 0.1, **more,
    }  # fmt: skip


def test_the_elbow_is_advised_and_not_the_widest():
    points = [point(d, 1.0, elbo) for d, elbo in ((2, 10.0), (4, 50.0), (8, 99.0), (16, 100.0), (32, 98.0))]
    advice = advise(points)[0]
    assert (advice.latent_dim, advice.beta) == (8, 1.0)
    assert "-1.0 nats" in advice.reason


def test_a_grid_that_is_too_narrow_says_so():
    advice = advise([point(d, 1.0, 10.0 * d) for d in (2, 4, 8)])[0]
    assert advice.latent_dim == 8
    assert "try wider ones" in advice.reason


def test_seeds_that_disagree_by_more_than_the_gain_do_not_pay_for_width():
    points = [point(4, 1.0, elbo, seed) for seed, elbo in enumerate((80.0, 100.0))]
    points += [point(2, 1.0, 40.0, seed) for seed in (0, 1)] + [point(8, 1.0, 96.0 + seed, seed) for seed in (0, 1)]
    assert advise(points)[0].latent_dim == 4
    assert advise([p for p in points if p["seed"] == 0])[0].latent_dim == 8


def test_each_purpose_has_its_own_choice():
    measured = {"frechet_floor": 1.0, "probe_accuracy_se": 0.01, "probe_accuracy_pca": 0.9}
    points = [
        point(4, 1.0, 100.0, frechet=9.0, probe_accuracy=0.95, **measured),
        point(4, 4.0, 60.0, frechet=3.0, probe_accuracy=0.945, **measured) | {"rate": 2.0},
        point(4, 99.0, 0.0, frechet=0.5, probe_accuracy=0.1, **measured) | {"active_units": 0},
    ]
    explain, sample, tell = advise(points)
    assert explain.beta == 1.0
    assert sample.beta == 4.0, "a collapsed latent is no choice, however its samples look"
    assert tell.beta == 4.0, "within a standard error of the best probe, the lower rate"


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep") / "out"
    said = []
    results = sweep("digits", str(folder), latent_dims=(2, 8), betas=(1.0, 20.0), say=said.append, jobs=1, **QUICK)
    return folder, results, said


def test_a_sweep_trains_measures_and_draws(swept):
    folder, results, said = swept
    assert [(p["latent_dim"], p["beta"]) for p in results["points"]] == [(2, 1.0), (2, 20.0), (8, 1.0), (8, 20.0)]
    assert said[0] == "4 of 4 trainings to go, 1 at a time"
    for found in results["points"]:
        assert found["elbo"] == pytest.approx(-found["distortion"] - found["rate"])
        assert (
            load(folder / "runs" / f"latent{found['latent_dim']}-beta{found['beta']:g}-seed0").latent_dim
            == found["latent_dim"]
        )
    by_place = {(p["latent_dim"], p["beta"]): p for p in results["points"]}
    assert by_place[8, 1.0]["elbo"] > by_place[2, 1.0]["elbo"] + 5
    assert by_place[8, 20.0]["rate"] < 0.5 < by_place[8, 1.0]["rate"], "a beta of 20 silences the latents"
    assert by_place[8, 1.0]["probe_accuracy"] > by_place[2, 1.0]["probe_accuracy"]
    assert (results["advice"][0]["latent_dim"], results["advice"][0]["beta"]) == (8, 1.0)
    assert results["data"]["held_out"] == 180
    with Image.open(folder / "sweep.png") as picture:
        assert picture.width > 1000


def test_the_command_goes_on_with_what_python_began(swept, capsys):
    folder, results, _ = swept
    flags = [
        "--latent-dim",
        "2,8",
        "--beta",
        "1,20",
        "--architecture",
        QUICK["architecture"],
        "--epochs",
        str(QUICK["epochs"]),
    ]
    main(["sweep", "--data", "digits", "--out", str(folder), *flags])
    assert "to go" not in capsys.readouterr().out
    assert json.loads((folder / "sweep.json").read_text())["points"] == results["points"]


def test_it_goes_on_where_it_was_and_may_grow(swept):
    folder, results, _ = swept
    said = []
    again = sweep("digits", str(folder), latent_dims=(2, 8), betas=(1.0, 20.0), say=said.append, **QUICK)
    assert said == []
    assert again["points"] == results["points"]
    grown = sweep("digits", str(folder), latent_dims=(2, 4), betas=(1.0,), say=said.append, jobs=1, **QUICK)
    assert said[0] == "1 of 2 trainings to go, 1 at a time"
    assert len(grown["points"]) == 5
    assert [p for p in grown["points"] if p["latent_dim"] != 4] == results["points"]


@pytest.mark.slow
def test_a_point_lost_from_the_record_is_measured_again_and_the_same(swept, tmp_path):
    folder, *_ = swept
    held = json.loads((folder / "sweep.json").read_text())
    lost = held["points"].pop(0)
    (folder / "sweep.json").write_text(json.dumps(held))
    said = []
    again = sweep("digits", str(folder), latent_dims=(2, 8), betas=(1.0, 20.0), say=said.append, **QUICK)
    assert said[0].startswith("1 of 4 trainings to go")
    assert next(p for p in again["points"] if (p["latent_dim"], p["beta"]) == (2, 1.0)) == pytest.approx(lost)


def test_other_settings_and_damage_are_refused(swept):
    folder, *_ = swept
    with pytest.raises(ValueError, match=r"other settings \(epochs 8 -> 3\)"):
        sweep("digits", str(folder), latent_dims=(2,), betas=(1.0,), architecture="mlp", epochs=3)
    (folder / "sweep.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        sweep("digits", str(folder), latent_dims=(2,), betas=(1.0,), **QUICK)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--latent-dim", "2,x"], "--latent-dim must be whole numbers separated by commas"),
        (["--beta", "1,"], "--beta must be numbers separated by commas"),
        (["--beta", "-1"], "beta"),
        (["--latent-dim", "0"], "latent_dim"),
        (["--jobs", "0"], "jobs"),
    ],
)
def test_wrong_grids_end_with_2(flags, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["sweep", "--data", "digits", "--out", str(tmp_path / "s"), *flags])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


@pytest.mark.slow
def test_the_command_prints_points_and_advice(tmp_path, capsys):
    main(["sweep", "--data", "digits", "--out", str(tmp_path / "s"), "--latent-dim", "3", "--beta", "1,2", "--epochs", "1",
          "--architecture", "mlp", "--jobs", "1"])  # fmt: skip
    said = capsys.readouterr().out
    assert "probe accuracy" in said
    assert "--latent-dim 3 --beta" in said
    assert "sweep.png" in said


@pytest.mark.slow
def test_folders_are_read_as_their_flags_say(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for i in range(60):
        Image.fromarray(rng.integers(0, 255, (9 + i % 3, 12), np.uint8)).save(tmp_path / f"{i:02d}.png")
    (tmp_path / "bad.png").write_bytes(b"not an image")
    (tmp_path / "labels.csv").write_text("file,label\n" + "".join(f"{i:02d}.png,{'ab'[i % 2]}\n" for i in range(60)))
    flags = ["--resize", "8", "--fit", "pad", "--labels", str(tmp_path / "labels.csv"), "--skip-bad"]
    out = tmp_path.with_name(f"{tmp_path.name}-swept")
    main(["sweep", "--data", str(tmp_path), "--out", str(out), "--latent-dim", "2", "--beta", "1", "--epochs", "1",
          "--architecture", "mlp", "--jobs", "1", *flags])  # fmt: skip
    assert load(out / "runs" / "latent2-beta1-seed0").image_shape_ == (8, 8, 1)
    held = json.loads((out / "sweep.json").read_text())
    assert held["data"]["train"] + held["data"]["held_out"] == 54
    assert held["points"][0]["probe_accuracy"] >= 0
