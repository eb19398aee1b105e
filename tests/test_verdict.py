"""What an evaluation's numbers are said to mean: each held against what it is to be held against."""

import pytest

from vaekit.cli import output
from vaekit.report.verdict import verdict

VAE = {
    "parameters": 12345, "seconds": 200.0, "seconds_total": 210.0, "images_per_second": 5000.0, "latent_dim": 10,
    "images": 500, "likelihood": "Gaussian", "mse": 0.0123, "psnr": 19.1, "psnr_se": 0.1, "ssim": 0.85,
    "distortion": -500.0, "rate": 20.0, "elbo": 480.0, "elbo_se": 2.0, "prior": "N(0, I)", "nll": -483.0,
    "kl_per_latent": [2.0] * 10, "active_units": 10, "aggregate_kl_at_least": 0.5, "collapse": "none: all 10 latents carry",
    "probe_accuracy": 0.9, "probe_accuracy_se": 0.01, "probe_accuracy_pca": 0.8, "probe_accuracy_pca_se": 0.01, "chance": 0.1,
    "frechet": 40.0, "frechet_floor": 4.0, "coverage": 0.3, "coverage_floor": 0.9, "samples": 500, "real": 500,
    "class_consistency": 0.95, "judge_accuracy": 0.98,
}  # fmt: skip


def said(**changes) -> dict[str, dict[bool, str]]:
    """By group, all that is good, and all that is bad."""
    groups = verdict({key: value for key, value in {**VAE, **changes}.items() if value is not None})
    return {
        group.name: {good: "; ".join(words for well, words in group.remarks if well == good) for good in (True, False)}
        for group in groups
    }


def test_each_group_has_a_headline_and_the_numbers_with_what_stands_beside_them():
    groups = {group.name: group for group in verdict(VAE)}
    assert list(groups) == ["reconstructions", "samples", "likelihood", "latents", "cost"]
    assert groups["samples"].headline == "Frechet distance 40.00, of real images 4.00; 95.0% of the class asked for"
    assert groups["samples"].rows["frechet"] == "40.00 (4.00 of real images)"
    assert groups["likelihood"].rows["elbo"] == "480 ± 2"
    assert groups["likelihood"].rows["distortion"] == "\N{MINUS SIGN}500"
    assert groups["latents"].rows["probe accuracy"] == "90.0% ± 1.0% (80.0% of as many principal components)"


@pytest.mark.parametrize(
    ("changes", "group", "good", "words"),
    [
        ({}, "samples", False, "far from real images: 10.0 times as far"),
        ({"frechet": 6.0}, "samples", True, "near real images: 1.5 times"),
        ({}, "samples", False, "less varied than real images: near 30%"),
        ({"coverage": 0.8}, "samples", True, "as varied as real images"),
        ({"class_consistency": 0.5}, "samples", False, "the class asked for in too few"),
        ({"copies_share": 0.2, "copies_share_held_out": 0.01}, "samples", False, "learned by heart"),
        ({"copies_share": 0.02, "copies_share_held_out": 0.01}, "samples", True, "images that it never saw"),
        ({}, "latents", True, "more than from principal components"),
        ({"probe_accuracy": 0.5}, "latents", False, "less than from principal components"),
        ({"probe_accuracy": 0.81}, "latents", True, "as much as from principal components"),
        ({"collapse": "partial: 3 of 10"}, "latents", False, "collapse: partial"),
        (
            {"likelihood": "Gaussian, label given"},
            "latents",
            False,
            "though that is for the label to say (chance 10.0%)",
        ),
        (
            {"likelihood": "Gaussian, label given", "probe_accuracy": 0.2},
            "latents",
            True,
            "20.0% of images from them, little",
        ),
        ({"ssim": 0.3}, "reconstructions", False, "fine structure is lost"),
        ({"ssim": 0.95}, "reconstructions", True, "structure is kept"),
        ({"aggregate_kl_at_least": 7.0}, "likelihood", False, "fit a prior, at least 7.00 nats apart"),
        ({"prior": "GMM, per class", "rate_plain": 25.0}, "likelihood", True, "5.00 nats less"),
        ({"prior": "GMM", "rate_plain": 18.0}, "likelihood", False, "2.00 nats more"),
        ({"nll": -500.0}, "likelihood", False, "20.00 nats below log p(x)"),
    ],
)
def test_good_and_bad_are_told_apart(changes, group, good, words):
    assert words in said(**changes)[group][good]


def test_codes_without_a_prior_have_no_samples_and_are_told_to_need_one():
    codes = {"n_codes": 64, "codes_used": 16, "codes_used_share": 0.25, "perplexity": 9.5, "latent_dim": None}
    none = dict.fromkeys(("kl_per_latent", "active_units", "aggregate_kl_at_least", "collapse", "nll", "frechet"))
    none |= dict.fromkeys(("frechet_floor", "coverage", "coverage_floor", "class_consistency"))
    found = said(**none, **codes, prior="uniform")
    assert "samples" not in found and "decode to noise" in found["likelihood"][False]
    assert "25% of the codebook alone is in use" in found["latents"][False]


def test_a_table_is_spoken_of_in_rows(capsys):
    none = dict.fromkeys(("ssim", "psnr", "psnr_se", "frechet", "frechet_floor", "coverage", "coverage_floor"))
    entry = {key: value for key, value in {**VAE, **none, "class_consistency": None}.items() if value is not None}
    output.print_verdict("a table", verdict(entry), rows=True)
    printed = capsys.readouterr().out
    assert "per value" in printed and "nats per row" in printed and "image" not in printed and "pixel" not in printed
    assert "+ rows' latents lie as N(0, I) does" in printed
