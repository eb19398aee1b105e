"""Few labels: propagation against closed forms, the classifier beside one of the labels alone, its folder, and the command."""

import csv
import json

import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from tests.test_cli import assert_refused, run
from vaekit import VAE, FewLabelsClassifier
from vaekit.estimators import few_labels
from vaekit.evaluation.augmentation import classifier_accuracy, shift_rotate_scale
from vaekit.training import propagation
from vaekit.training.propagation import propagate


@pytest.fixture(scope="module")
def few(digits):
    """1,200 digits of which 3 of each class are labelled, and the others to be tested on."""
    order = np.random.default_rng(1).permutation(len(digits[0]))  # they come writer by writer
    x, y = (part[order] for part in digits)
    labels = np.full(1200, -1)
    for digit in range(10):
        labels[np.flatnonzero(y[:1200] == digit)[:3]] = digit
    return x[:1200], labels, x[1200:], y[1200:]


@pytest.fixture(scope="module")
def fitted(few):
    x, labels, *_ = few
    model = VAE(latent_dim=20, architecture="mlp", width=256, epochs=40, random_state=0)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(few_labels, "ROUNDS", ((200, 0.9), (400, 1.0)))
        return FewLabelsClassifier(model, random_state=0).fit(x, labels)


def test_labels_stay_in_their_cluster():
    rng = np.random.default_rng(0)
    cluster = rng.integers(0, 3, 300)
    features = rng.normal(size=(300, 2)) + 30 * np.eye(3, 2)[cluster]
    y = np.full(300, -1)
    for name in range(3):
        y[np.flatnonzero(cluster == name)[0]] = name
    shares = propagate(features, y, 3)
    np.testing.assert_allclose(shares.sum(1), 1)
    assert np.array_equal(shares.argmax(1), cluster)
    y[cluster == 2] = -1  # nothing reaches this cluster
    np.testing.assert_allclose(propagate(features, y, 3)[cluster == 2], 1 / 3)


def test_propagation_is_the_limit_that_the_paper_has_in_closed_form(monkeypatch):
    rng = np.random.default_rng(0)
    features, y = rng.normal(size=(30, 2)), np.full(30, -1)
    y[:4] = [0, 1, 0, 1]
    monkeypatch.setattr(propagation, "STEPS", 5000)
    shares = propagate(features, y, 2)
    graph = propagation._graph(
        *propagation._neighbours(propagation.torch.tensor(features, dtype=propagation.torch.float32))
    )
    given = np.zeros((30, 2))
    given[np.arange(4), y[:4]] = 1
    limit = np.linalg.solve(np.eye(30) - 0.99 * graph.toarray(), given)
    limit /= limit.sum(0)
    np.testing.assert_allclose(shares, limit / limit.sum(1, keepdims=True), rtol=1e-6)


def test_neighbours_are_the_nearest_others():
    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    indices, distances = propagation._neighbours(propagation.torch.from_numpy(x))
    table = np.square(x[:, None] - x).sum(-1) + np.diag(np.full(40, np.inf))
    assert np.array_equal(np.sort(indices), np.sort(table.argsort(1)[:, :10]))
    np.testing.assert_allclose(distances, np.take_along_axis(table, indices, 1), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_it_beats_the_same_network_on_the_labels_alone(few, fitted):
    x, labels, test_x, test_y = few
    known = labels >= 0
    alone = classifier_accuracy((x[known], labels[known]), (test_x, test_y), augment=shift_rotate_scale, steps=200)
    assert fitted.score(test_x, test_y) > alone + 0.02
    assert fitted.facts_["labelled"] == 30 and fitted.facts_["unlabelled"] == 1170
    shares = fitted.predict_proba(test_x[:5])
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-5)
    assert np.array_equal(fitted.classes_[shares.argmax(1)], fitted.predict(test_x[:5]))


@pytest.mark.slow
def test_it_comes_back_from_its_folder_and_damage_is_refused(few, fitted, tmp_path):
    _, _, test_x, _ = few
    fitted.save(tmp_path / "c")
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == [
        ".vaekit",
        "classifier.json",
        "weights.safetensors",
    ]
    again = FewLabelsClassifier.load(tmp_path / "c")
    assert np.array_equal(again.predict_proba(test_x), fitted.predict_proba(test_x))
    with pytest.raises(ValueError, match="already holds a classifier"):
        fitted.save(tmp_path / "c")
    with pytest.raises(FileNotFoundError, match=r"no classifier of vaekit at .*: it has no classifier.json"):
        FewLabelsClassifier.load(tmp_path)
    facts = tmp_path / "c" / "classifier.json"
    whole = facts.read_text()
    for damage in ("{", "[]", json.dumps({**json.loads(whole), "shape": [9, 9, 1]}), whole.replace("9", "8", 1)):
        facts.write_text(damage)
        with pytest.raises(ValueError, match=r"classifier.json is damaged, or from another vaekit"):
            FewLabelsClassifier.load(tmp_path / "c")
    facts.write_text(whole)
    weights = tmp_path / "c" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(ValueError, match="damaged"):
        FewLabelsClassifier.load(tmp_path / "c")


def test_of_many_images_all_labelled_ones_are_looked_at(monkeypatch):
    monkeypatch.setattr(few_labels, "MOST", 20)
    labels = np.full(100, -1)
    labels[::10] = 0
    chosen = few_labels._chosen(labels, 0)
    assert len(chosen) == 20 and set(np.flatnonzero(labels >= 0)) <= set(chosen)
    assert np.array_equal(chosen, np.sort(chosen))


def test_what_does_not_fit_is_refused(digits):
    x, y = digits[0][:40], np.full(40, -1)
    for call in (FewLabelsClassifier().predict, FewLabelsClassifier().predict_proba, FewLabelsClassifier().save):
        with pytest.raises(NotFittedError, match="call fit first"):
            call(x)
    with pytest.raises(ValueError, match="y must hold two classes or more beside -1"):
        FewLabelsClassifier().fit(x, np.where(np.arange(40) < 3, 1, -1))
    with pytest.raises(ValueError, match="X must be images"):
        FewLabelsClassifier().fit(np.zeros((40, 5)), y)
    assert vars(clone(FewLabelsClassifier(random_state=3)))["random_state"] == 3


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """8x8 files: two kinds of stripes in sub-folders, ten of each, and sixty of both without labels."""
    folder, rng = tmp_path_factory.mktemp("stripes"), np.random.default_rng(0)

    def draw(across: bool) -> Image.Image:
        pattern = np.tile(np.arange(8) // 2 % 2, (8, 1)) * 160 + rng.integers(0, 95, (8, 8))
        return Image.fromarray((pattern.T if across else pattern).astype(np.uint8))

    for name, across in (("across", True), ("down", False)):
        (folder / "labelled" / name).mkdir(parents=True)
        for index in range(10):
            draw(across).save(folder / "labelled" / name / f"{index}.png")
    (folder / "more").mkdir()
    for index in range(60):
        draw(index % 2 == 0).save(folder / "more" / f"{index:02d}.png")
    return folder


def test_the_command_learns_from_folders_and_says_what_new_files_are(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(few_labels, "ROUNDS", ((20, 0.9), (20, 1.0)))
    monkeypatch.setattr(few_labels, "VAE", lambda epochs, **how: VAE(epochs=5, width=16, **how))
    clf = tmp_path / "clf"
    done = run("few-labels", photos / "labelled", "--unlabelled", photos / "more", "--random-state", 0, "--out", clf)
    assert done.code == 0 and "2 classes" in done.out and "20 labelled images of 80" in done.out, done.err
    done = run("few-labels", photos / "more", "--classifier", clf, "--out", tmp_path / "new.csv")
    assert done.code == 0, done.err
    rows = list(csv.DictReader((tmp_path / "new.csv").open()))
    assert list(rows[0]) == ["file", "split", "predicted", "probability"] and len(rows) == 60
    assert [row["predicted"] for row in rows] == ["across", "down"] * 30
    done = run("few-labels", photos / "labelled", "--per-class", 4, "--random-state", 0, "--out", tmp_path / "trial")
    assert done.code == 0 and "8 labelled images of" in done.out and "test images" in done.out, done.err


def test_the_command_refuses_what_it_cannot_do(photos, tmp_path):
    learn = ("few-labels", photos / "labelled")
    assert_refused(run(*learn, "--per-class", 0, "--out", tmp_path / "c"), "per_class")
    assert_refused(run("few-labels", photos / "more", "--out", tmp_path / "c"), "no labelled images", "sub-folder")
    assert_refused(
        run(*learn, "--classifier", tmp_path / "none", "--out", tmp_path / "x.csv"), "no classifier of vaekit"
    )
    assert_refused(run(*learn, "--classifier", tmp_path, "--out", tmp_path / "x.txt"), "--out", ".csv")
    assert_refused(run(*learn, "--classifier", tmp_path, "--per-class", 3, "--out", tmp_path / "x.csv"), "--per-class")
    assert_refused(run(*learn, "--out", photos / "labelled" / "c"), "lies in")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    assert_refused(run(*learn, "--out", tmp_path / "mine"), "not empty")
