"""The report's list of figures: what a model can do says which it is in, and a figure or a model from outside joins them."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from vaekit import IWAE, VQVAE
from vaekit.data import open_data
from vaekit.evaluation.likelihood import evaluate
from vaekit.pictures.charts import curve
from vaekit.registry import MODELS, Model
from vaekit.report import figures
from vaekit.report.compare import _trainings
from vaekit.report.doctor import examine
from vaekit.report.entry import Compared, Drawn, Entry, discrete

QUICK = {"epochs": 1, "architecture": "mlp", "width": 16, "random_state": 0}


class Mine(IWAE):
    """A model from outside."""


class Tokens(VQVAE):
    """Another, of codes."""


class Stranger(IWAE):
    """A third, which is not entered in the list of models."""


@pytest.fixture(scope="module")
def parts(digits, tmp_path_factory):
    """Training and test images."""
    path = tmp_path_factory.mktemp("data") / "digits.npz"
    np.savez(path, x=digits[0][:100], y=digits[1][:100])
    return open_data(path, "train"), open_data(path, "test")


@pytest.fixture(scope="module")
def compared(parts):
    """What a comparison of two models from outside with two of ours would have drawn."""
    train, test = parts
    with pytest.MonkeyPatch.context() as patch:
        for kind in (Mine, Tokens):
            entry = Model(kind.__name__, kind.__name__, "from outside", __name__, __name__)
            patch.setitem(MODELS, kind.__name__.lower(), entry)
        small = {"n_codes": 8, "code_dim": 3, **QUICK}
        asked = {"mine": Mine(latent_dim=3, **QUICK), "vqvae": VQVAE(**small), "tokens": Tokens(**small)}
        models = {name: model.fit_images(train).fitted_ for name, model in asked.items()}
        planar = {"mine": Mine(latent_dim=2, **QUICK).fit_images(train).fitted_}
        measured = {
            name: {"prior": model.prior_name, **evaluate(model.module, model.data(test))}
            for name, model in models.items()
        }
        entries = [{"name": name, "label": MODELS[name].label, "seed": 0, **found} for name, found in measured.items()]
        yield Compared(models, planar, {}, entries, test, 0)


def drawn(compared: Compared) -> dict[str, tuple[str, Drawn]]:
    """By file, title and figure of all that the list has for `compared`."""
    found = [one for entry in figures.FIGURES for one in entry.of(compared)]
    return {file: (title, figure) for file, title, figure in found if figure is not None}


def words_in(drawn: Drawn) -> str:
    """All that is written in a figure."""
    return "\n".join(text.get_text() for text in drawn.figure.findobj(Text))


def test_a_gaussian_model_from_outside_has_a_plane_a_manifold_and_traversals(compared):
    found = drawn(compared)
    assert "look whether a Mine separates classes it was never told" in found["latent_space"][1].text
    assert found["manifold"][0] == "The manifold" and "d=2 Mine" in words_in(found["manifold"][1])
    assert {"traversals", "samples_mine", "reconstructions"} <= set(found)
    trainings = _trainings(["mine", "tokens"], 1, 0, sweeps=False)
    assert ("mine-d2", "mine", 0, 0.5, {"latent_dim": 2}) in trainings
    assert all(MODELS[name].estimator().discrete == model.discrete for name, model in compared.models.items())
    assert not any(training.folder == "tokens-d2" for training in trainings)


def test_the_first_figure_shows_each_class_and_what_each_model_makes_of_it(compared, monkeypatch):
    """The names of the inputs' classes stand above them, and above samples only where all models were asked for these."""
    shown, (title, figure) = compared.shown, drawn(compared)["overview"]
    assert figures.FIGURES[0].file == "overview" and title == "At a glance"
    assert sorted(shown.y) == list(range(10)), "one of each class"
    left, right = figure.figure.axes
    assert [tick.get_text() for tick in left.get_xticklabels()] == compared.shown_names and not right.get_xticklabels()
    assert "A VQ-VAE and Tokens's codes are then drawn uniformly" in figure.text
    asked = []

    def draws(self, model, n, labels=None):
        asked.append((n, labels))
        return np.zeros((n, 8, 8, 1), np.uint8)

    monkeypatch.setattr(Compared, "draws", draws)
    monkeypatch.setattr("vaekit.fitted.Fitted.sampling_classes", lambda self, prior=None: np.array(list("0123456789")))
    _, right = figures.draw_overview(compared, compared.models).figure.axes
    assert [tick.get_text() for tick in right.get_xticklabels()] == compared.shown_names
    assert all(n == 10 and labels.tolist() == compared.shown_names for n, labels in asked) and len(asked) == 3


def test_models_of_codes_have_a_figure_each_and_share_no_file(compared):
    found = drawn(compared)
    assert [(file, title) for file, (title, _) in found.items() if file.startswith("codes")] == [
        ("codes", "VQ-VAE codes"), ("codes_tokens", "Tokens codes")
    ]  # fmt: skip
    assert "A VQ-VAE and Tokens's codes are then drawn uniformly" in found["samples"][1].text
    assert all(name in words_in(found["latent_space"][1]) for name in ("Mine, d=2", "VQ-VAE vec", "Tokens vec"))


def test_a_figure_that_no_model_has_what_it_wants_for_is_not_drawn(compared):
    only = replace(compared, models={"mine": compared.models["mine"]})
    assert not {"codes", "temperature", "completion", "by_class", "priors"} & set(drawn(only))
    codes = replace(compared, models={"tokens": compared.models["tokens"]}, planar={})
    assert not {"manifold", "traversals"} & set(drawn(codes)) and "latent_space" in drawn(codes)


def test_a_figure_from_outside_is_saved_and_shown_in_its_place(compared, tmp_path, monkeypatch):
    def draw_mine(compared, models):
        figure = curve([1, 2], {"KL": [1.0, 0.5]}, xlabel="latent", ylabel="nats", title="mine")
        return Drawn(figure, f"look at {len(models)}", "a curve")

    monkeypatch.setattr(figures, "FIGURES", [Entry("mine", "Mine", draw_mine, wants=discrete)])
    (picture,) = figures.draw(compared, tmp_path)
    assert (picture.title, picture.text, picture.file.name) == ("Mine", "look at 2", "mine.png")
    with Image.open(picture.file) as image:
        assert min(image.size) > 50


def test_the_doctor_says_which_model_it_does_not_know(parts):
    with pytest.raises(ValueError, match=r"Stranger is none of the models .* enter it in vaekit.registry.MODELS"):
        examine(Stranger(**QUICK).fit_images(parts[0]).fitted_, *parts)
