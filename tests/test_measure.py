"""What `vaekit evaluate` writes: which numbers there are for which model and data, and that they are what they say."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_iris

from vaekit import CVAE, VAE, VQVAE, Images, open_data
from vaekit.data.sprites import sprites
from vaekit.evaluation.generation import get_judge
from vaekit.evaluation.measures import QUALITY_COLUMNS
from vaekit.report.measure import PER_CLASS, measure_run
from vaekit.report.page import quality, references

SMALL = {"architecture": "mlp", "epochs": 12, "random_state": 0}


@pytest.fixture(scope="module")
def parts() -> tuple[Images, Images]:
    return open_data("digits", "train"), open_data("digits", "test")


@pytest.fixture(scope="module")
def judged(parts):
    return dict(zip(("judge", "judge_accuracy"), get_judge(*parts), strict=True))


@pytest.fixture(scope="module")
def vae(parts, judged, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vae") / "run"
    model = VAE(**SMALL).fit_images(parts[0], folder=str(folder))
    return model, folder, measure_run(model.fitted_, *parts, folder, **judged)


def test_the_entry_is_kept_and_its_numbers_agree_with_each_other(vae, parts):
    model, folder, entry = vae
    assert json.loads((folder / "evaluation.json").read_text()) == json.loads(json.dumps(entry))
    assert entry["elbo"] == pytest.approx(-entry["distortion"] - entry["rate"])
    assert entry["nll_k"] == 50 and entry["nll_images"] == len(parts[1])
    assert entry["nll"] < -entry["elbo"]
    assert sum(entry["kl_per_latent"]) == pytest.approx(entry["rate"], rel=1e-4)
    assert entry["aggregate_kl_at_least"] <= entry["rate"]
    rebuilt, x = (
        torch.from_numpy(images).permute(0, 3, 1, 2) / 255 for images in (model.reconstruct(parts[1].x), parts[1].x)
    )
    assert entry["mse"] == pytest.approx((rebuilt - x).square().mean().item(), rel=0.01)
    assert entry["samples"] == entry["real"] == len(parts[1])
    assert "class_consistency" not in entry  # a VAE can't be asked for a class
    assert 0 < entry["ssim"] <= 1 and entry["ssim_window"] == 7  # 8x8 images


def test_latents_tell_more_of_the_class_than_chance_and_samples_are_further_than_real_images(vae):
    entry = vae[2]
    assert entry["probe_accuracy"] > entry["chance"] + 20 * entry["probe_accuracy_se"]
    assert entry["knn_accuracy"] > 0.6
    assert entry["frechet"] > entry["frechet_floor"] and entry["coverage"] < entry["coverage_floor"]


def test_measuring_again_gives_the_same(vae, parts, judged):
    assert measure_run(vae[0].fitted_, *parts, **judged) == vae[2]


@pytest.mark.slow
def test_full_adds_copies_with_a_picture_independence_and_training_on_samples(parts, judged, tmp_path):
    model = CVAE(**SMALL).fit_images(parts[0], folder=str(tmp_path / "run"))
    entry = measure_run(model.fitted_, *parts, tmp_path / "run", **judged, full=True)
    assert entry["likelihood"].endswith("label given")
    assert entry["nll_k"] == 500 and entry["samples_per_class"] == PER_CLASS
    assert 0 <= entry["copies_share"] <= 1 and entry["copies_share_held_out"] < 0.1
    assert entry["classification_accuracy_score"] > 0.5  # chance is 0.1
    assert entry["independence_linear_accuracy"] < entry["probe_accuracy_pixels"] - 0.3
    assert Image.open(tmp_path / "run" / "neighbours.png").size[0] > 300


@pytest.mark.slow
def test_a_vqvae_without_a_prior_has_neither_nll_nor_samples(parts, judged):
    model = VQVAE(**SMALL).fit_images(parts[0])
    entry = measure_run(model.fitted_, *parts, **judged)
    assert "nll" not in entry and "frechet" not in entry and "active_units" not in entry
    assert entry["probe_accuracy"] > 0.5 and entry["prior"] == "uniform" and entry["latent_dim"] is None


def test_without_labels_or_with_too_few_there_is_no_probe(vae, parts):
    train, test = parts
    assert "probe_accuracy" not in measure_run(vae[0].fitted_, replace(train, y=None), replace(test, y=None))
    one = train.take(np.flatnonzero(train.y == 0))
    assert "probe_accuracy" not in measure_run(vae[0].fitted_, one, test)


@pytest.mark.slow
def test_a_table_is_measured_in_its_own_units():
    x, y = load_iris(return_X_y=True)
    images = Images(x, y.astype(np.int64), ("a", "b", "c"), "iris")
    model = VAE(latent_dim=2, epochs=100, random_state=0).fit(x)
    hundredfold = VAE(latent_dim=2, epochs=100, random_state=0).fit(100 * x)
    entry, other = (
        measure_run(model.fitted_, images, images),
        measure_run(hundredfold.fitted_, *2 * [replace(images, x=100 * x)]),
    )
    for key, sign in (("elbo", -1), ("nll", 1), ("distortion", 1)):
        assert other[key] - entry[key] == pytest.approx(sign * 4 * np.log(100), abs=0.2), key
    assert other["mse"] == pytest.approx(1e4 * entry["mse"], rel=0.05)
    assert entry["nll_by_k"][-1][1] == pytest.approx(entry["nll"])
    assert "ssim" not in entry and entry["probe_accuracy"] > 0.7


@pytest.mark.slow
def test_images_with_known_factors_are_scored_for_disentanglement():
    images, factors = sprites(700, size=16)
    np.testing.assert_array_equal(images.take(np.arange(5)).factors, factors.values[:5])
    model = VAE(**{**SMALL, "epochs": 1}).fit_images(images)
    entry = measure_run(model.fitted_, images, images)
    assert 0 <= entry["mig"] < 0.3 and entry["disentanglement_samples"]["mig"] == {"rows": 700}
    assert entry["constant_factors"] == []


@pytest.mark.slow
def test_dynamically_binarised_training_images_are_probed_as_one_fixed_draw():
    train, test = (open_data("digits", part, binarize="dynamic") for part in ("train", "test"))
    model = VAE(**SMALL, likelihood="bernoulli").fit_images(train)
    entry = measure_run(model.fitted_, train, test)
    assert entry == measure_run(model.fitted_, train, test)
    assert entry["probe_accuracy"] > 0.5 and entry["likelihood"].lower().startswith("bernoulli")


def test_the_second_table_has_a_line_for_each_model_and_says_what_to_hold_it_against(vae):
    entries = [
        {**vae[2], "label": "A", "seed": 0},
        {**vae[2], "label": "A", "seed": 1},
        {**vae[2], "label": "B", "seed": 0},
    ]
    entries[2]["frechet"] = 0.5 * entries[0]["frechet"]
    rows = quality(entries)
    assert [(row.label, row.seeds) for row in rows] == [("A", 2), ("B", 1)]
    assert rows[1].cells["frechet"].best and not rows[0].cells["frechet"].best
    assert {column.key for column in QUALITY_COLUMNS} >= {"ssim", "probe_accuracy", "frechet", "coverage"}
    text = " ".join(references(entries))
    assert f"{vae[2]['frechet_floor']:.2f}" in text and f"{vae[2]['probe_accuracy_pca']:.1%} of 10" in text
    assert "50 draws" in text
