"""The doctor on runs that have the fault, on one that hasn't, and on what its own command makes of the run."""

import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from tests.marks import quick
from vaekit.cli import main
from vaekit.cli.flags import parse
from vaekit.cli.train import make_train
from vaekit.data import Images, open_data
from vaekit.data.images import fingerprint
from vaekit.files import load
from vaekit.hub import model_card
from vaekit.report.doctor import Diagnosis, examine


class Case(NamedTuple):
    """What a check should find: the name of the check, the training with the fault, and words of the diagnosis."""

    check: str
    arguments: str
    words: str


HEALTHY = {
    "vae": "vae --architecture mlp --epochs 25",
    "vqvae": "vqvae --architecture mlp --width 128 --n-codes 32 --epochs 25",
    "cvae": "cvae --architecture mlp --width 128",
}
NO_CARE = "--revive 0 --codebook-init uniform"
CASES = (
    Case(
        "posterior collapse", "bvae --architecture mlp --width 128 --beta 20 --epochs 25", "the latents carry nothing"
    ),
    Case("dead codes", f"vqvae --architecture mlp --epochs 25 --ema 0.9 --n-codes 512 {NO_CARE}", "dead"),
    Case("overfitting", "vae --architecture mlp --epochs 250 --data few.npz", "much better than new"),
    Case("underfitting", "vae --architecture mlp --width 128 --epochs 3", "cut off"),
    Case("learning rate", "vae --architecture mlp --width 128 --learning-rate 0.3", "too high"),
    Case("learning rate", "vae --architecture mlp --learning-rate 1e-05", "too low"),
    Case("likelihood", "vae --architecture mlp --width 128 --likelihood gaussian_fixed --epochs 25", "fixed variance"),
    Case("likelihood", "vae --architecture mlp --width 128 --likelihood bernoulli --epochs 12", "black and white"),
    Case("likelihood", "vae --architecture mlp --width 128 --epochs 6 --binarize fixed", "black or white"),
    Case("latent dimension", "vae --architecture mlp --latent-dim 2 --epochs 25", "full"),
    Case("latent dimension", "vae --architecture mlp --latent-dim 40 --epochs 25", "more latents than"),
    Case("prior", "vqvae --architecture mlp --width 128 --n-codes 32 --epochs 12", "noise"),
    Case("conditioning", "cvae --architecture mlp --width 128 --beta 0.02 --epochs 25", "beside it"),
)


@pytest.fixture(scope="module")
def clinic(tmp_path_factory, digits):
    """From the words of a training on digits, or on few.npz, to its run folder; each is trained once, when first asked for."""
    home = tmp_path_factory.mktemp("clinic")
    x, y = digits
    np.savez(home / "few.npz", x=x[:300], y=y[:300])
    runs: dict[tuple[str, ...], Path] = {}

    def run(arguments: str | list[str]) -> Path:
        words = shlex.split(arguments) if isinstance(arguments, str) else arguments
        words = [str(home / word) if word == "few.npz" else word for word in words]
        words += [] if "--data" in words else ["--data", "digits"]
        key = tuple(sorted(words))
        if key not in runs:
            runs[key] = home / f"run{len(runs)}"
            main(["train", *words, "--out", str(runs[key]), "--random-state", "0"])
        return runs[key]

    return run


def diagnoses(folder: Path) -> dict[str, Diagnosis]:
    model = load(folder)
    data = model.facts_["data"]
    train, test = (open_data(data["name"], part, binarize=data["binarize"]) for part in ("train", "test"))
    return {found.name: found for found in examine(model.fitted_, train, test, folder=str(folder))}


@pytest.mark.parametrize("name", quick(HEALTHY, "vae"))
def test_a_healthy_run_has_nothing_to_turn(name, clinic):
    found = diagnoses(clinic(HEALTHY[name]))
    wrong = {check: diagnosis.words for check, diagnosis in found.items() if diagnosis.wrong}
    # But the prior: before one is fitted, codes are drawn as noise.
    assert set(wrong) <= ({"prior"} if name == "vqvae" else set()), wrong
    assert all((diagnosis.cure is None) != diagnosis.wrong for diagnosis in found.values())
    expected = {"vae": "posterior collapse", "vqvae": "dead codes", "cvae": "conditioning"}[name]
    assert {expected, "overfitting", "underfitting", "learning rate", "likelihood", "prior"} <= set(found)


BY_NAME = {f"{case.check}: {case.words}": case for case in CASES}
# What shows itself early; the others are slow.
EARLY = [name for name in BY_NAME if name.endswith(("the latents carry nothing", "cut off", "black and white"))]


@pytest.mark.parametrize("name", quick(BY_NAME, *EARLY))
def test_a_fault_is_found_and_a_cure_is_said(name, clinic):
    case = BY_NAME[name]
    folder = clinic(case.arguments)
    found = diagnoses(folder)[case.check]
    assert found.wrong, found.evidence
    assert case.words in found.words
    assert any(character.isdigit() for character in found.evidence), "evidence is numbers"
    words = shlex.split(found.cure)
    assert words[0] == "vaekit"
    if words[1] == "train":
        assert words[words.index("--out") + 1] == f"{folder}-mended"
        assert words[words.index("--random-state") + 1] == "0"
        parse(make_train(words[2]), words[3:], "vaekit train")


@pytest.mark.slow
@pytest.mark.parametrize("name", BY_NAME)
def test_the_cure_of_a_fault_mends_it(name, clinic):
    case = BY_NAME[name]
    folder = clinic(case.arguments)
    found = diagnoses(folder)[case.check]
    words = shlex.split(found.cure)
    if words[1] == "train":
        out, seed = words.index("--out"), words.index("--random-state")
        folder = clinic([word for i, word in enumerate(words[2:], 2) if i not in (out, out + 1, seed, seed + 1)])
    else:  # a small prior, which is one that is fitted
        main([*words[1:], "--layers", "1", "--channels", "8", "--epochs", "4"])
    after = diagnoses(folder)[case.check]
    assert not after.wrong, f"{found.cure}\n{found.evidence}\n{after.evidence}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    ["cvae --beta 300", "bvae --epsilon 0.05", "iwae --k 2", "btcvae --beta 400 --gamma 400 --alpha 400"],
    ids=["cvae", "bvae", "iwae", "btcvae"],
)
def test_every_model_can_be_examined_and_its_cures_be_typed(arguments, clinic):
    """Each command is one that `vaekit train` takes; collapsed runs, since those ask most of the doctor."""
    found = diagnoses(clinic(f"{arguments} --architecture mlp --width 64 --epochs 25"))
    assert "posterior collapse" in found
    for diagnosis in found.values():
        if diagnosis.cure and diagnosis.cure.startswith("vaekit train"):
            words = shlex.split(diagnosis.cure)[2:]
            parse(make_train(words[0]), words[1:], "vaekit train")


def test_the_command_says_it_in_words_and_in_json(clinic, capsys):
    folder = clinic(CASES[0].arguments)
    capsys.readouterr()
    main(["doctor", str(folder)])
    said = capsys.readouterr().out
    assert "! posterior collapse: the latents carry nothing" in said
    assert "try: vaekit train bvae" in said
    assert said.index("! posterior collapse") < said.index("  overfitting")
    main(["doctor", str(folder), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert next(one["name"] for one in found if one["wrong"]) == "posterior collapse"
    assert set(found[0]) == {"name", "wrong", "words", "evidence", "cure"}


def test_other_data_is_refused(clinic, tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.zeros((40, 5, 5), np.uint8))
    with pytest.raises(SystemExit) as stop:
        main(["doctor", str(clinic(HEALTHY["vae"])), "--data", str(tmp_path / "x.npy")])
    assert stop.value.code == 2
    assert "fitted on (8, 8, 1)" in capsys.readouterr().err


@pytest.mark.slow
def test_classes_are_asked_for_by_name_where_the_data_has_some_of_them_only(clinic):
    model = load(clinic(HEALTHY["cvae"]))

    def late(split: str) -> Images:
        images = open_data("digits", split=split)
        images = images.take(np.flatnonzero(images.y >= 7))
        y = images.y - 7
        return replace(images, y=y, classes=images.classes[7:], fingerprint=fingerprint(images.x, y))

    train, test = late("train"), late("test")
    found = {d.name: d for d in examine(model.fitted_, train, test)}["conditioning"]
    assert not found.wrong and "of 150 samples" in found.evidence, found


def test_a_cure_opens_the_data_as_the_run_did(tmp_path, digits):
    """Images from a folder are brought to a size, laid on a background and labelled by a table: all that is said again."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for index, image in enumerate(digits[0][:60, :, :, 0]):
        Image.fromarray(image[:, : 7 + index % 2]).save(photos / f"{index:02d}.png")
    rows = [f"{index:02d}.png,{label}" for index, label in enumerate(digits[1][:60] % 2)]
    (tmp_path / "labels.csv").write_text("\n".join(["file,label", *rows]))
    opened = ["--data", str(photos), "--labels", str(tmp_path / "labels.csv"), "--resize", "9", "--fit", "pad"]
    opened += ["--background", "black", "--split-seed", "3"]
    main(["train", "cvae", *opened, "--architecture", "mlp", "--epochs", "1", "--out", str(tmp_path / "run")])
    model = load(tmp_path / "run")
    how = {"labels": str(tmp_path / "labels.csv"), "skip_bad": False}
    decoded = {"resize": 9, "fit": "pad", "background": "black", "split_seed": 3}
    train, test = (open_data(photos, part, **how, **decoded) for part in ("train", "test"))
    found = {one.name: one for one in examine(model.fitted_, train, test, folder=str(tmp_path / "run"), how=how)}
    words = shlex.split(found["underfitting"].cure)
    for flag, value in zip(opened[::2], opened[1::2], strict=True):
        assert words[words.index(flag) + 1] == value
    main([*words[1:], "--epochs", "1"])
    assert load(tmp_path / "run-mended").facts_["data"] == model.facts_["data"]


def test_what_would_be_learned_by_heart_asks_for_no_more_epochs(clinic):
    """A curve that still falls, while new images are left behind by more than that."""
    more = "vae --architecture mlp --epochs 80 --batch-size 32 --schedule constant --data few.npz"
    found = diagnoses(clinic(more))["underfitting"]
    assert not found.wrong and "would gain little by more epochs" in found.words
    assert "nats lie between the ELBO of training images and that of new ones" in found.evidence


def test_a_run_from_before_binarisation_was_written_down_is_examined_and_told(clinic, tmp_path):
    run = shutil.copytree(clinic(HEALTHY["vae"]), tmp_path / "run")
    config = json.loads((run / "run.json").read_text())
    del config["data"]["binarize"], config["data"]["decoding"]
    (run / "run.json").write_text(json.dumps(config))
    assert not diagnoses(run)["underfitting"].wrong
    assert "digits" in model_card(load(run).fitted_)
