"""What the doctor, the second stage and the sweep say where there is nothing to be said: no label blamed for blur, no disease
named twice, no prior used that is worse than none, no point recommended that measures can't tell from others.
"""

import json
import re
import shlex
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vaekit.cli import main
from vaekit.data import open_data
from vaekit.files import load
from vaekit.messages import filled
from vaekit.pictures import charts
from vaekit.report import doctor
from vaekit.report.advice import Advice, advise
from vaekit.report.doctor import Diagnosis, examine
from vaekit.report.measure import classes_shown


def trained(folder, words: str, data: str = "digits"):
    main(
        [
            "train",
            *shlex.split(words),
            "--data",
            data,
            "--architecture",
            "mlp",
            "--out",
            str(folder),
            "--random-state",
            "0",
        ]
    )
    return load(folder)


@pytest.fixture(scope="module")
def blurred(tmp_path_factory):
    """A CVAE of a few steps: its samples are blurs of the class asked for."""
    return trained(tmp_path_factory.mktemp("blurred") / "run", "cvae --epochs 8 --width 128 --beta 3.123456789")


def findings(model, split: str = "train") -> dict[str, Diagnosis]:
    return {
        found.name: found for found in examine(model.fitted_, open_data("digits", split), open_data("digits", "test"))
    }


# ---- the doctor ----------------------------------------------------------------------------------------------------


def test_blur_is_not_taken_for_a_label_that_is_ignored(blurred):
    shown = classes_shown(blurred.fitted_, open_data("digits"), open_data("digits", "test"), 20)
    assert shown is not None
    assert shown.asked > 0.9 and shown.own > 0.9 and (shown.chance, shown.samples) == (0.1, 200)
    found = findings(blurred)
    assert [name for name, one in found.items() if one.wrong] == ["underfitting"]
    assert found["conditioning"].words == "the label decides the class"


def test_a_label_that_is_ignored_is_found_whatever_the_blur(blurred, monkeypatch):
    real = blurred.fitted_.sample

    def sample(n, y, random_state):
        return real(n, np.random.default_rng(0).permutation(y), random_state=random_state)

    monkeypatch.setattr(blurred.fitted_, "sample", sample, raising=False)
    shown = classes_shown(blurred.fitted_, open_data("digits"), open_data("digits", "test"), 20)
    assert shown is not None
    assert shown.asked == pytest.approx(0.1, abs=0.08) and shown.own > 0.9
    monkeypatch.setattr(doctor, "FEW", 0)  # were it trained long enough
    monkeypatch.setattr(doctor, "FALLING", 1.0)
    found = findings(blurred)["conditioning"]
    assert found.wrong and found.words == "z tells the class, and the label little beside it"
    assert "--beta 6.25 " in f"{found.cure} "


def test_a_label_is_not_blamed_for_samples_from_where_no_latents_are(blurred, monkeypatch):
    """Then a prior is what is missing, unless the rate weighs less than is usual."""
    real = blurred.fitted_.sample

    def sample(n, y, random_state):
        return real(n, np.random.default_rng(0).permutation(y), random_state=random_state)

    away = Diagnosis("prior", True, "samples are drawn where no image's latents are", "", "vaekit fit-prior")
    monkeypatch.setattr(blurred.fitted_, "sample", sample, raising=False)
    monkeypatch.setattr(doctor, "plain_prior", lambda patient: away)
    found = findings(blurred)["conditioning"]
    assert not found.wrong and found.cure is None
    assert "can't be told: samples are drawn where no image's latents are" in found.words
    monkeypatch.setitem(blurred.fitted_.record.fields, "beta", 2.0)
    monkeypatch.setattr(doctor, "FEW", 0)
    monkeypatch.setattr(doctor, "FALLING", 1.0)
    found = findings(blurred)["conditioning"]
    assert found.wrong and "--beta" not in found.cure


def test_where_reconstructions_do_not_show_their_class_nothing_is_said_of_labels(blurred, monkeypatch):
    grey = lambda n: np.full((n, 8, 8), 100, np.uint8)  # noqa: E731
    monkeypatch.setattr(blurred.fitted_, "reconstruct", lambda x, y: grey(len(x)), raising=False)
    monkeypatch.setattr(blurred.fitted_, "sample", lambda n, y, random_state: grey(n), raising=False)
    found = findings(blurred)["conditioning"]
    assert not found.wrong and found.cure is None
    assert "can't be told: reconstructions don't show theirs either" in found.words


def test_one_class_alone_says_nothing_of_labels(blurred):
    digits = open_data("digits")
    ones = digits.take(np.flatnonzero(digits.y == 1))
    assert classes_shown(blurred.fitted_, ones, ones, 5) is None
    assert classes_shown(blurred.fitted_, replace(digits, y=None), digits, 5) is None


def test_every_number_of_every_command_is_one_that_a_person_can_type(blurred, monkeypatch):
    monkeypatch.setattr(doctor, "ASKED", 2.0)
    found = examine(blurred.fitted_, open_data("digits"), open_data("digits", "test"), folder="runs/x")
    cures = [one.cure for one in found if one.cure]
    assert any("--beta 3.12 " in f"{cure} " for cure in cures)
    for number in re.findall(r"--[a-z-]+ ([0-9.e-]+)", " ".join(cures)):
        assert len(re.sub(r"e.*|[.-]", "", number).lstrip("0")) <= 4, cures


ALL = {check.__name__: check for check in doctor.CHECKS}


@settings(max_examples=30, deadline=None)
@given(sick=st.sets(st.sampled_from(sorted(ALL)), min_size=1))
def test_a_disease_is_named_once_and_its_cause_before_it(sick):
    """Whichever checks find something, at least one is named, none beside one that explains it, and no two have one cure."""
    found = {
        check: Diagnosis(name, name in sick, "words", "1", f"vaekit {name}" if name in sick else None)
        for name, check in ALL.items()
    }
    after = doctor.named_once(found)
    wrong = {check for check, one in after.items() if one.wrong}
    assert wrong and {check.__name__ for check in wrong} <= sick
    for cause, symptoms in doctor.EXPLAINS.items():
        assert cause not in wrong or not wrong.intersection(symptoms)
    for name in sick:
        one = after[ALL[name]]
        assert one.wrong or re.search(r"^words; mend the \w+ first", one.words), one
        assert (one.cure is not None) == one.wrong


def test_a_training_cut_off_is_one_finding_and_not_three(tmp_path):
    found = findings(trained(tmp_path / "run", "bvae --epochs 2 --width 64 --beta 20"))
    assert [name for name, one in found.items() if one.wrong] == ["underfitting"]
    assert "mend the underfitting first" in found["posterior collapse"].words


# ---- a prior that is worse than none -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def misled(tmp_path_factory, digits):
    """A run on so few images that a prior for each of ten classes is worse than none."""
    home = tmp_path_factory.mktemp("misled")
    np.savez(home / "few.npz", x=digits[0][:60], y=digits[1][:60])
    trained(home / "run", "vae --epochs 10 --latent-dim 32 --width 32", str(home / "few.npz"))
    return home


def fit_prior(home, *flags, capsys) -> str:
    capsys.readouterr()
    main(["fit-prior", str(home / "run"), "--data", str(home / "few.npz"), *flags])
    return capsys.readouterr().out


def test_a_worse_prior_is_said_and_not_used_unless_asked_for(misled, capsys, tmp_path):
    said = fit_prior(misled, capsys=capsys)
    assert "! it is far worse than the plain one" in said and "try --no-per-class" in said
    model = load(misled / "run")
    facts = model.prior_facts_
    assert facts["validation_rate"] > facts["plain_rate"] + 1
    assert (model.has_prior, model.prior_is_worse) == (True, True)
    assert (model.prior_name, model.fitted_.prior.name) == ("N(0, I)", "GMM, per class")
    plain, fitted = (model.sample(6, 3, random_state=0, prior=prior) for prior in ("plain", "fitted"))
    np.testing.assert_array_equal(model.sample(6, random_state=0), plain)
    np.testing.assert_array_equal(model.sample(6, 3, random_state=0), fitted)
    assert np.any(np.asarray(plain) != np.asarray(fitted))
    assert model.fitted_.sampling_classes() is None
    assert [str(name) for name in filled(model.fitted_.sampling_classes("fitted"))] == list("0123456789")
    x = open_data(misled / "few.npz", "test").x
    np.testing.assert_array_equal(model.score_samples(x), load(misled / "run", prior=False).score_samples(x))
    model.save(tmp_path / "again")
    np.testing.assert_array_equal(load(tmp_path / "again").sample(6, 3, random_state=0), fitted)

    found = {
        one.name: one for one in examine(model.fitted_, *(open_data(misled / "few.npz", p) for p in ("train", "test")))
    }
    assert found["prior"].wrong and f"{found['prior'].cure}".endswith("--no-per-class")
    assert f"{facts['validation_rate']:.2f} under the fitted prior" in found["prior"].evidence


def test_the_command_samples_as_the_model_does(misled, capsys, tmp_path):
    fit_prior(misled, capsys=capsys)
    model, drawn = load(misled / "run"), {}
    ways = {"x": [], "plain": ["--plain-prior"], "three": ["--label", "3"], "fitted": ["--fitted-prior"]}
    for name, flags in ways.items():
        out = tmp_path / f"{name}.npy"
        main(["sample", str(misled / "run"), "-n", "6", "--random-state", "0", "--out", str(out), *flags])
        drawn[name] = np.load(out)
    np.testing.assert_array_equal(drawn["x"], drawn["plain"])
    np.testing.assert_array_equal(drawn["three"], model.sample(6, 3, random_state=0, prior="fitted"))
    assert (drawn["fitted"] != drawn["x"]).any()
    with pytest.raises(SystemExit) as stop:
        main(["sample", str(misled / "run"), "--out", str(tmp_path / "y.npy"), "--plain-prior", "--fitted-prior"])
    assert stop.value.code == 2


def test_the_remedy_helps(misled, capsys):
    fit_prior(misled, capsys=capsys)
    remedies = []
    while (model := load(misled / "run")).prior_is_worse:
        remedies.append(model.fitted_.other_prior)
        quick = ["--layers", "2", "--channels", "8", "--epochs", "20"] if remedies[1:] else []
        said = fit_prior(misled, *model.fitted_.other_prior, *quick, capsys=capsys)
    assert remedies == [["--no-per-class"], ["--no-per-class", "--prior", "flow"]]
    assert "far worse" not in said and model.prior_name == "flow"
    np.testing.assert_array_equal(model.sample(3, random_state=0), model.sample(3, random_state=0, prior="fitted"))


def test_a_prior_is_worse_by_a_nat_and_a_tenth(misled, capsys):
    fit_prior(misled, capsys=capsys)
    model = load(misled / "run")
    for plain, fitted, worse in (
        (5.0, 5.9, False),
        (5.0, 6.1, True),
        (100.0, 109.0, False),
        (100.0, 111.0, True),
        (-0.1, 0.8, False),
    ):
        model.prior_facts_.update(plain_rate=plain, validation_rate=fitted)
        assert model.prior_is_worse == worse, (plain, fitted)
    model.prior_facts_.clear()  # of a vaekit that didn't measure it
    assert not model.prior_is_worse


def test_asking_for_a_fitted_prior_needs_one(misled):
    model = load(misled / "run", prior=False)
    with pytest.raises(ValueError, match="no prior is fitted yet"):
        model.sample(2, prior="fitted")
    with pytest.raises(ValueError, match="None, 'plain' or 'fitted'"):
        model.sample(2, prior="other")


# ---- the sweep -----------------------------------------------------------------------------------------------------


def point(latent_dim, beta, elbo, active=None, **more):
    return {
        "latent_dim": latent_dim, "beta": beta, "seed": 0, "elbo": elbo, "elbo_se": 1.0, "rate": 5.0,
        "distortion": -elbo - 5.0, "active_units": latent_dim if active is None else active,
        "aggregate_kl_at_least": 0.1, "frechet": 50.0, "frechet_floor": 10.0, "probe_accuracy": 0.8,
        "probe_accuracy_se": 0.01, "probe_accuracy_pca": 0.7, **more,
    }  # fmt: skip


def none_for(advice: Advice) -> bool:
    assert (advice.latent_dim is None) == (advice.beta is None)
    return advice.latent_dim is None


def test_of_collapsed_points_none_is_recommended():
    points = [point(2, 1.0, 10.0), point(2, 4.0, 0.0, 0), point(8, 1.0, 0.0, 0), point(8, 4.0, 0.0, 0)]
    found = advise(points)
    assert len(found) == 3 and all(map(none_for, found))
    assert all("3 of 4 points are collapsed" in one.reason and "--epochs" in one.reason for one in found)
    assert not any(map(none_for, advise([*points[:3], point(8, 4.0, 5.0)])))
    assert len(advise([point(2, 1.0, 0.0, 0)])) == 3


def test_samples_nearer_than_real_images_mean_too_few_images():
    explain, sample, tell = advise(
        [
            point(2, 1.0, 10.0, frechet=680.74, frechet_floor=786.0),
            point(4, 1.0, 50.0, frechet=900.0, frechet_floor=786.0),
        ]
    )
    assert none_for(sample) and not none_for(explain) and not none_for(tell)
    assert "786.00" in sample.reason and "680.74" in sample.reason and "too few images" in sample.reason


def test_elbos_within_their_errors_choose_nothing():
    explain, *others = advise([point(2, 1.0, 10.0), point(4, 1.0, 10.9), point(8, 1.0, 10.3)])
    assert none_for(explain) and "within 0.9 nats" in explain.reason and "1.4" in explain.reason
    assert not any(map(none_for, others))
    assert not none_for(advise([point(2, 1.0, 10.0), point(4, 1.0, 12.0)])[0])
    assert not none_for(advise([point(2, 1.0, 10.0)])[0]), "one point has no rival"


def test_a_collapsed_point_is_advised_for_nothing():
    explain, sample, tell = advise([point(2, 1.0, 10.0), point(4, 1.0, 30.0, 0, frechet=1.0, probe_accuracy=0.99)])
    assert none_for(explain) and "collapsed" in explain.reason
    assert (sample.latent_dim, tell.latent_dim) == (2, 2)


def test_a_picture_without_advice_has_no_star():
    points = [point(2, 1.0, 10.0), point(4, 1.0, 12.0)]

    def labels(chosen) -> list[str]:
        return [
            text.get_text() for text in filled(charts.sweep(points, chosen=chosen).axes[0].get_legend()).get_texts()
        ]

    assert labels((4, 1.0)) == ["2", "4", "advised"]
    assert labels(None) == ["2", "4"]


def test_a_sweep_of_nothing_says_so(digits, tmp_path, capsys):
    np.save(tmp_path / "x.npy", digits[0][:100])
    main(["sweep", "--data", str(tmp_path / "x.npy"), "--out", str(tmp_path / "s"), "--latent-dim", "2,3", "--beta", "50",
          "--epochs", "1", "--architecture", "mlp", "--jobs", "1"])  # fmt: skip
    said = capsys.readouterr().out
    assert said.count("nothing can be recommended") == 2 and "2 of 2 points are collapsed" in said
    advice = json.loads((tmp_path / "s" / "sweep.json").read_text())["advice"]
    assert [(one["latent_dim"], one["beta"]) for one in advice] == [(None, None)] * 2
    with Image.open(tmp_path / "s" / "sweep.png") as picture:
        assert picture.width > 1000


def test_a_sweep_of_a_table_speaks_of_rows(tmp_path, capsys):
    np.save(tmp_path / "t.npy", np.random.default_rng(0).normal(size=(60, 3)))
    main(["sweep", "--data", str(tmp_path / "t.npy"), "--out", str(tmp_path / "s"), "--latent-dim", "1,2", "--beta", "1",
          "--epochs", "1", "--jobs", "1"])  # fmt: skip
    said = capsys.readouterr().out
    assert "nothing can be recommended" in said and "image" not in said
