"""vaekit among scikit-learn's own tools: frames, names, pipelines, searches, joblib, and training batch after batch."""

import copy
import functools
import json
import pickle
import re
import runpy
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import polars
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import sparse
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_digits, load_wine
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils import estimator_checks

from benchmarks import classifier, harness, tables
from tests.marks import quick
from vaekit import CVAE, IWAE, VAE, VQVAE, BetaTCVAE, BetaVAE, load
from vaekit.data.format import Format
from vaekit.pictures import style
from vaekit.world import seeded

CLASSES = [VAE, BetaVAE, CVAE, VQVAE, IWAE, BetaTCVAE]
every_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)


def tiny(cls=VAE, **fields):
    """An estimator that trains in a blink."""
    own = {"n_codes": 8, "code_dim": 2} if cls is VQVAE else {"latent_dim": 2}
    return cls(**{**own, "epochs": 2, "batch_size": 16, "random_state": 0, "device": "cpu", **fields})


@functools.cache
def wine() -> tuple[pd.DataFrame, np.ndarray]:
    """178 wines, 13 named columns in different units, 3 cultivars; shuffled."""
    x, y = load_wine(return_X_y=True, as_frame=True)
    order = np.random.default_rng(0).permutation(len(x))
    return x.iloc[order], y.to_numpy()[order]


def assert_same_weights(a, b, same: bool = True):
    pairs = zip(a.model_.state_dict().values(), b.model_.state_dict().values(), strict=True)
    assert all(torch.equal(x, y) for x, y in pairs) == same


# Frames and names

# `check_estimator` leaves these to estimators of scikit-learn itself.
CHECKS = [
    estimator_checks.check_dataframe_column_names_consistency,
    estimator_checks.check_transformer_get_feature_names_out,
    estimator_checks.check_transformer_get_feature_names_out_pandas,
    estimator_checks.check_get_feature_names_out_error,
    estimator_checks.check_set_output_transform,
    estimator_checks.check_set_output_transform_pandas,
    estimator_checks.check_set_output_transform_polars,
    estimator_checks.check_global_output_transform_pandas,
    estimator_checks.check_global_set_output_transform_polars,
]


# The other models differ from the VAE in what they are trained for alone.
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("cls", quick([VAE, CVAE, VQVAE], VAE, VQVAE), ids=lambda cls: cls.__name__)
@pytest.mark.filterwarnings("ignore:X .*feature names:UserWarning")  # the checks provoke them
def test_scikit_learns_checks_of_frames(cls, check):
    check(cls.__name__, tiny(cls))


@every_class
def test_latents_are_named_after_the_model(cls):
    frame, y = wine()
    model = tiny(cls).fit(frame, y).set_output(transform="pandas")
    latents = model.transform(frame)
    width = 16 if cls is VQVAE else 2
    assert latents.columns.tolist() == [f"{cls.__name__.lower()}{i}" for i in range(width)]
    assert (latents.index == frame.index).all()
    assert model.set_output(transform="polars").transform(frame).columns == latents.columns.tolist()
    plain = model.set_output(transform="default").transform(frame)
    assert (latents.to_numpy() == plain).all()
    model.set_output(transform="pandas")
    given = y if cls is CVAE else None
    assert np.allclose(model.inverse_transform(model.transform(frame, y), given), model.reconstruct(frame, y))


def test_latents_of_images_have_names_too():
    x = np.random.default_rng(0).random((20, 8, 8))
    assert tiny().fit(x).get_feature_names_out().tolist() == ["vae0", "vae1"]
    assert len(tiny(VQVAE).fit(x).set_output(transform="pandas").transform(x).columns) == 4 * 4 * 2
    with pytest.raises(NotFittedError):
        VAE().get_feature_names_out()


def test_columns_are_known_by_name_after_saving_too(tmp_path):
    frame, _ = wine()
    tiny().fit(frame).save(tmp_path / "run")
    model = load(tmp_path / "run")
    assert model.feature_names_in_.tolist() == frame.columns.tolist()
    with pytest.raises(ValueError, match="feature names should match those that were passed during fit"):
        model.transform(frame[frame.columns[::-1]])
    polars_frame = polars.from_pandas(frame)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (model.transform(polars_frame) == model.transform(frame)).all()
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        model.transform(frame.to_numpy())


def test_nothing_is_left_of_an_earlier_fits_columns():
    frame, _ = wine()
    model = tiny().fit(frame)
    assert (model.n_features_in_, len(model.feature_names_in_)) == (13, 13)
    assert not hasattr(model.fit(frame.to_numpy()), "feature_names_in_")
    assert not hasattr(model.fit(np.zeros((20, 8, 8))), "n_features_in_")


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(st.integers(1, 120), st.integers(0, 2**31 - 1))
def test_a_rows_results_do_not_depend_on_its_batch(n, seed):
    """To the bit, where the machine's matrix products allow; to scikit-learn's 1e-7 anyway."""
    frame, y = wine()
    chosen = np.random.default_rng(seed).integers(0, len(frame), n)
    for model in fitted_on_wine():
        x, labels = frame.to_numpy(), y if model.conditional else None
        some = None if labels is None else labels[chosen]
        for method in (model.transform, model.score_samples, model.reconstruct):
            assert np.allclose(method(x[chosen], some), method(x, labels)[chosen], rtol=1e-7, atol=1e-7)


def test_what_networks_see_of_a_table_does_not_depend_on_its_batch():
    """Whole blocks of rows, so that a row is rounded as in any other batch, on every machine."""
    frame, _ = wine()
    seen = []
    model = copy.deepcopy(fitted_on_wine()[0])
    model.model_.encoder.register_forward_hook(lambda module, inputs, out: seen.append(len(inputs[0])))
    for n in (1, 5, 64, 65, 130):
        model.transform(frame.to_numpy()[:n])
    assert seen == [64, 64, 64, 128, 192]


@functools.cache
def fitted_on_wine():
    frame, y = wine()
    return [tiny(cls).fit(frame.to_numpy(), y) for cls in (VAE, CVAE, VQVAE)]


# Pipelines and searches


@pytest.mark.slow
def test_a_pipeline_ends_in_a_classifier():
    frame, y = wine()
    vae = tiny(latent_dim=4, epochs=150, batch_size=64)
    pipeline = Pipeline([("vae", vae), ("classifier", LogisticRegression())])
    assert cross_val_score(pipeline, frame, y, cv=3).mean() > 0.85
    assert clone(pipeline).get_params()["vae__latent_dim"] == 4


def test_a_table_of_numbers_and_categories():
    frame, y = wine()
    frame = frame.assign(cellar=np.where(y == 0, "north", "south"))
    columns = ColumnTransformer(
        [("numbers", tiny(), frame.columns[:-1].tolist()), ("cellar", OneHotEncoder(sparse_output=False), ["cellar"])],
        verbose_feature_names_out=False,
    ).set_output(transform="pandas")
    assert columns.fit_transform(frame).columns.tolist() == ["vae0", "vae1", "cellar_north", "cellar_south"]
    assert make_pipeline(columns, LogisticRegression()).fit(frame, y).score(frame, y) > 0.6


@pytest.mark.slow
def test_a_grid_over_latents_and_beta_in_two_processes():
    """`score` is the ELBO whatever beta, so that the betas compare; joblib pickles what it sends and gets."""
    frame, _ = wine()
    grid = {"latent_dim": [1, 4], "beta": [1.0, 30.0]}
    model = tiny(BetaVAE, epochs=100, batch_size=64, width=32)
    search = GridSearchCV(model, grid, cv=2, n_jobs=2).fit(frame)
    assert search.best_params_ == {"latent_dim": 4, "beta": 1.0}
    assert search.transform(frame).shape == (178, 4)
    train, test = np.arange(89, 178), np.arange(89)
    scores = [
        clone(model).set_params(**chosen).fit(frame.iloc[train]).score(frame.iloc[test])
        for chosen in search.cv_results_["params"]
    ]
    assert search.cv_results_["split0_test_score"] == pytest.approx(scores, rel=1e-4)


def test_cross_validation_without_a_scorer_gives_elbos():
    frame, _ = wine()
    scores = cross_val_score(tiny(epochs=5), frame, cv=3)
    assert scores[0] == pytest.approx(tiny(epochs=5).fit(frame.iloc[60:]).score(frame.iloc[:60]), rel=1e-6)


@every_class
def test_estimators_pickle_before_and_after_fit(cls):
    frame, y = wine()
    copy = pickle.loads(pickle.dumps(tiny(cls)))
    model = tiny(cls).partial_fit(frame, y)
    assert_same_weights(copy.partial_fit(frame, y), model)
    again = pickle.loads(pickle.dumps(model))
    assert (again.transform(frame, y) == model.transform(frame, y)).all()
    assert_same_weights(again.partial_fit(frame, y), model.partial_fit(frame, y))


@pytest.mark.parametrize("method", ["fit", "partial_fit", "transform"])
def test_sparse_input_is_refused_with_what_to_do(method):
    frame, y = wine()
    model = tiny().fit(frame.to_numpy()) if method == "transform" else tiny()
    for matrix in (sparse.csr_matrix(frame.to_numpy()), sparse.coo_array(frame.to_numpy())):
        with pytest.raises(ValueError, match=re.escape("X is a sparse matrix; pass a dense array: X.toarray()")):
            getattr(model, method)(matrix, y)


# Batch after batch


def pieces(x, n: int) -> list[np.ndarray]:
    return np.array_split(x, n)


@pytest.mark.slow
def test_passes_of_partial_fit_get_near_what_fit_gets(digits):
    x, _ = digits
    train, test = x[:1280], x[1280:]
    make = functools.partial(VAE, architecture="mlp", width=128, latent_dim=8, random_state=0, device="cpu")
    whole = make(epochs=12).fit(train)
    model = make()
    for _ in range(12):
        model.partial_fit(train)
    first = make().partial_fit(train)
    assert first.score(test) < model.score(test) - 20
    assert model.score(test) > whole.score(test) - 5
    assert [record["epoch"] for record in model.history_] == list(range(1, 13))
    assert [record["step"] for record in model.history_] == [20 * i for i in range(1, 13)]
    assert {record["learning_rate"] for record in model.history_[-3:]} == {0.002}
    times = [record["seconds_total"] for record in model.history_]
    assert times == sorted(times)
    assert_same_weights(model.set_params(epochs=1).fit(train), make(epochs=1).fit(train))
    assert model.history_[0]["epoch"] == 1


@every_class
def test_partial_fit_is_a_function_of_its_calls(cls):
    frame, y = wine()
    x = frame.to_numpy()

    def trained():
        model = tiny(cls)
        for part, labels in zip(pieces(x, 3), pieces(y, 3), strict=True):
            model.partial_fit(part, labels, classes=[0, 1, 2])
            torch.rand(3)
        return model

    model = trained()
    assert_same_weights(model, trained())
    assert_same_weights(model, tiny(cls, random_state=1).partial_fit(x, y), same=False)
    before = {name: value.clone() for name, value in model.model_.state_dict().items()}
    with seeded(0):  # whatever the caller's stream of random numbers
        model.partial_fit(x, y)
    assert any(not torch.equal(value, before[name]) for name, value in model.model_.state_dict().items())
    assert len(model.history_) == 4
    assert model.facts_["data"]["images"] == 2 * len(x)
    assert np.isfinite(model.score_samples(x, y)).all()


def test_a_pass_is_once_over_the_rows_in_even_batches():
    """40 rows at a batch_size of 16 are three batches of 13: no batch of 8 at the end, and one row is left out."""
    x = np.random.default_rng(0).normal(size=(40, 3))
    model = tiny().partial_fit(x)
    assert model.history_[-1]["step"] == 3
    assert model.facts_["plan"]["batch_size"] == 13
    assert model.partial_fit(x[:1]).history_[-1]["step"] == 4
    assert model.partial_fit(x[:17]).history_[-1]["step"] == 6


def test_adams_moments_go_on_from_call_to_call():
    """With a rate of almost nothing weights stand still, and the moments of two calls are those of their gradients."""
    x = np.random.default_rng(0).normal(size=(32, 3))
    model = tiny(learning_rate=1e-12, warmup_steps=0).partial_fit(x).partial_fit(x).partial_fit(x)
    _, optimizer = model._trainer
    assert optimizer is not None
    assert {int(slots["step"]) for slots in optimizer.state.values()} == {6}


def test_standardisation_and_classes_are_those_of_the_first_call():
    x = np.random.default_rng(0).normal(size=(64, 3))
    model = tiny(CVAE).partial_fit(x, np.arange(64) % 2, classes=["0", "1", "2"])
    assert model.classes_.tolist() == ["0", "1", "2"]
    assert model.class_frequencies_ == pytest.approx([0.5, 0.5, 0])
    model.partial_fit(100 + 50 * x, np.full(64, 2))
    assert model.class_frequencies_ == pytest.approx([0.25, 0.25, 0.5])
    assert np.allclose(model.columns_.mean, x.mean(0))
    assert model.predict_proba(x).shape == (64, 3)
    with pytest.raises(ValueError, match="unknown label '3'; the model knows 0, 1, 2"):
        model.partial_fit(x, np.arange(64) % 4)
    with pytest.raises(ValueError, match=r"classes must be the first call's, \['0', '1', '2'\], got \['0', '1'\]"):
        model.partial_fit(x, np.arange(64) % 2, classes=["0", "1"])
    with pytest.raises(ValueError, match="it requires y"):
        model.partial_fit(x)
    with pytest.raises(ValueError, match="unknown label '2'"):
        tiny(CVAE).partial_fit(x, np.arange(64) % 3, classes=[0, 1])


def test_what_does_not_go_on_is_refused():
    frame, _ = wine()
    with pytest.raises(ValueError, match="partial_fit can't stop early"):
        tiny(early_stopping=True).partial_fit(frame)
    model = tiny().partial_fit(frame)
    with pytest.raises(ValueError, match="feature names should match"):
        model.partial_fit(frame[frame.columns[::-1]])
    with pytest.raises(ValueError, match="X has 12 features, but VAE is expecting 13"):
        tiny().partial_fit(frame.to_numpy()).partial_fit(frame.to_numpy()[:, 1:])
    images = np.random.default_rng(0).random((20, 8, 8))
    with pytest.raises(ValueError, match=re.escape("images of shape (8, 9, 1), but the model was fitted on (8, 8, 1)")):
        tiny().partial_fit(images).partial_fit(np.zeros((20, 8, 9)))
    assert len(model.history_) == 1


@pytest.mark.parametrize("cls", [VAE, VQVAE], ids=lambda cls: cls.__name__)
def test_a_fitted_prior_is_forgotten(cls):
    images = np.random.default_rng(0).random((40, 8, 8))
    model = tiny(cls, architecture="mlp").fit(images)
    plain = model.score_samples(images)
    model.fit_prior(images, epochs=1, **({"prior": "gmm"} if cls is VAE else {"layers": 1, "channels": 8}))
    assert model.has_prior and not np.allclose(model.score_samples(images), plain)
    model.partial_fit(images)
    assert not model.has_prior
    same = tiny(cls, architecture="mlp").fit(images).partial_fit(images)
    assert_same_weights(model, same)


def test_training_goes_on_from_fit_and_from_a_saved_run(tmp_path):
    frame, _ = wine()
    model = tiny(epochs=20).fit(frame)
    before = model.score(frame)
    step, epochs = model.history_[-1]["step"], len(model.history_)
    model.save(tmp_path / "run")
    loaded = load(tmp_path / "run").partial_fit(frame)
    for _ in range(30):
        model.partial_fit(frame)
    assert model.score(frame) > before
    assert (loaded.history_[-1]["step"], loaded.history_[-1]["epoch"]) == (step + 12, epochs + 1)
    loaded.save(tmp_path / "more")
    assert (load(tmp_path / "more").transform(frame) == loaded.transform(frame)).all()


def test_a_learned_beta_goes_on():
    frame, _ = wine()
    model = tiny(BetaVAE, epsilon=1.0)
    weights = [model.partial_fit(frame).history_[-1]["rate_weight"] for _ in range(4)]
    assert len(set(weights)) == 4 and weights[0] == pytest.approx(1, abs=0.9)
    objective, _ = model._trainer
    assert float(objective.beta) == pytest.approx(weights[-1], rel=0.2)
    assert model.fitted_.record.objective == {"objective": {"beta": objective.beta.tolist()}}  # which a saved run keeps
    assert not VAE().has_prior and not model.has_prior


def test_a_scaler_before_the_model_changes_nothing_but_units():
    """Tables are standardised inside."""
    frame, _ = wine()
    x = frame.to_numpy()
    inside, outside = tiny().fit(x), make_pipeline(StandardScaler(), tiny()).fit(x)
    assert np.allclose(inside.transform(x), outside.transform(x), atol=1e-4)
    assert inside.score(x) == pytest.approx(outside.score(x) - np.log(x.std(0)).sum(), abs=1e-3)


# Fields that are for tables, and what is built on the estimators


def test_the_width_of_an_mlp():
    """A few hundred rows get a narrow network; a run of before there was a choice keeps its own."""
    x = np.random.default_rng(0).normal(size=(1000, 3))
    assert tiny(epochs=1).fit(x[:999]).resolved_["width"] == 128
    assert tiny(epochs=1).fit(x).resolved_["width"] == 512
    images = np.random.default_rng(0).random((20, 8, 8))
    assert tiny(architecture="mlp").fit(images).resolved_["width"] == 512
    model = tiny(VQVAE, width=10, epochs=1).fit(x)
    assert [layer.out_features for layer in model.model_.encoder.net.layers] == [10, 5]
    with pytest.raises(
        ValueError, match=r"width=10 is that of the mlp's layers.*VQVAE has none with architecture=None"
    ):
        tiny(VQVAE, width=10).fit(images)
    with pytest.raises(ValueError, match="width must be a whole number > 0, got 0"):
        tiny(width=0).fit(x)
    with pytest.raises(ValueError, match="width must be a whole number > 0, got 0"):
        tiny(architecture="mlp", width=0).fit(images)


def test_the_width_between_convolutions_and_a_vector(tmp_path):
    """Many latents of a picture have none; a run of before there was a choice keeps its own."""
    images = np.random.default_rng(0).random((20, 8, 8))
    model = tiny(epochs=1).fit(images)
    assert model.resolved_["width"] == model.model_.encoder.head.layers[0].out_features == 208
    assert tiny(epochs=1, width=10).fit(images).model_.decoder.stem.layers[0].out_features == 10
    assert len(tiny(epochs=1, width=0).fit(images).model_.decoder.stem.layers) == 0
    for shape, latents, width in (
        ((48, 48, 3), None, 0),
        ((48, 48, 3), 63, 208),
        ((32, 32, 3), None, 0),
        ((32, 32, 1), None, 208),
        ((32, 40, 1), 64, 0),
        ((31, 40, 1), 64, 208),
    ):
        assert VAE(latent_dim=latents).resolve(Format(shape), 20)["width"] == width
        assert VAE(latent_dim=latents, architecture="resnet").resolve(Format(shape), 20)["width"] == width
    for without in (VAE(grid=True), VQVAE(), VAE(architecture="wang2023")):
        assert without.resolve(Format((32, 32, 1)), 20)["width"] is None
    with pytest.raises(ValueError, match="VAE has none with architecture=None and grid=True"):
        tiny(grid=True, width=10, epochs=1, latent_dim=None).fit(images)
    model.save(tmp_path / "run")
    file = tmp_path / "run" / "run.json"
    config = json.loads(file.read_text())
    config["resolved"]["width"] = None
    file.write_text(json.dumps(config))
    assert_same_weights(load(tmp_path / "run"), model)


def test_a_run_without_a_width_loads(tmp_path):
    model = tiny(width=512).fit(np.random.default_rng(0).normal(size=(40, 3)))
    model.save(tmp_path / "run")
    file = tmp_path / "run" / "run.json"
    config = json.loads(file.read_text())
    del config["fields"]["width"], config["table"]["columns"]
    file.write_text(json.dumps(config))
    assert_same_weights(load(tmp_path / "run"), model)


@pytest.mark.parametrize("columns", [["a", "b"], ["a", "b", 3], "abc"])
def test_damaged_column_names_are_told(tmp_path, columns):
    tiny().fit(np.random.default_rng(0).normal(size=(40, 3))).save(tmp_path / "run")
    file = tmp_path / "run" / "run.json"
    config = json.loads(file.read_text())
    config["table"]["columns"] = columns
    file.write_text(json.dumps(config))
    with pytest.raises(ValueError, match="columns must be 3 names"):
        load(tmp_path / "run")


@pytest.mark.slow
def test_a_vae_with_its_defaults_holds_its_own_on_a_table():
    """What `benchmarks/tables.py` measures, on one split of the smallest table that is not trivial."""
    explained, probed, nats = zip(*(tables.measure("wine", method, 0) for method in ("VAE", "PCA")), strict=True)
    assert explained[0] > explained[1] - 0.02
    assert nats[0] > nats[1] - 1.5
    assert probed[0] > 0.9


@pytest.mark.slow
def test_the_tables_claim_in_small():
    found = tables.run(["--splits", "1", "--tables", "iris"])
    assert [row[1] for row in found.rows] == list(tables.METHODS)
    assert {len(row) for row in found.rows} == {len(found.columns)}
    assert found.rows[-1][-1] == "none"


def test_factor_analysis_reconstructs_in_the_tables_units():
    x, _ = tables.open_table("iris")
    model = tables.fit("FactorAnalysis", 2, x, 0)
    assert np.square(tables.reconstruct(model, x) - x).mean() < 0.2 * x.var(0).mean()


@pytest.mark.slow
def test_the_classifier_claim_in_small(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "OUT", tmp_path)
    found = classifier.run(["--data", "digits", "--seeds", "1", "--epochs", "2"])
    by_name = {row[0]: dict(zip(found.columns, row, strict=True)) for row in found.rows}
    assert set(by_name) == {"CVAE, class ELBOs", "CNN, softmax"}
    assert all(10 <= float(row["accuracy, %"]) <= 100 for row in by_name.values())
    assert (tmp_path / "classifier/digits-2/cvae-seed0/weights.safetensors").exists()


def test_calibration_error_by_hand():
    y = np.array([0, 0, 1, 1])
    sure = np.array([[1.0, 0.0]] * 4)
    assert classifier.calibration_error(sure, y) == pytest.approx(0.5)
    half = np.array([[0.51, 0.49]] * 4)
    assert classifier.calibration_error(half, y) == pytest.approx(0.01)
    assert classifier.calibration_error(np.eye(2)[y], y) == 0


@pytest.mark.slow
def test_the_anomaly_example(tmp_path):
    anomaly = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "anomaly.py"))
    x, y = load_digits(return_X_y=True)
    images = np.rint(x.reshape(-1, 8, 8) / 16 * 255).astype(np.uint8)
    chosen = np.flatnonzero(y < 4)
    anomalous, scores = anomaly["anomaly_scores"](images[chosen], y[chosen], 2, epochs=15)
    assert anomalous.sum() == (y == 2).sum()
    assert {len(values) for values in scores.values()} == {len(anomalous)}
    assert roc_auc_score(anomalous, scores["VAE, ELBO"]) > 0.9
    file = style.save(anomaly["draw"]({2: (anomalous, scores), 3: (anomalous, scores)}), tmp_path / "roc.png")
    assert Image.open(file).size == (1350, 600)
