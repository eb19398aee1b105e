"""Data frames of pandas and polars: in and out, their types, and what is said of columns that are no numbers."""

import datetime
import decimal
import warnings

import numpy as np
import pandas as pd
import polars
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vaekit import CVAE, VAE, VQVAE, load
from vaekit.data.frames import frame_values, table_header

N = 60


def columns() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "age": rng.integers(18, 90, N),
        "height": rng.normal(170, 10, N),
        "share": rng.random(N).astype(np.float32),
        "smokes": rng.random(N) < 0.4,
        "sex": rng.integers(0, 2, N).astype(np.uint8),
        "fixed": np.full(N, 7),
    }


def frame(library: str):
    return (pd if library == "pandas" else polars).DataFrame(columns())


def tiny(cls=VAE, **fields):
    own = {"n_codes": 8, "code_dim": 2} if cls is VQVAE else {"latent_dim": 2}
    return cls(**{**own, "epochs": 5, "batch_size": 16, "random_state": 0, "device": "cpu", **fields})


both = pytest.mark.parametrize("library", ["pandas", "polars"])


@both
@pytest.mark.parametrize("cls", [VAE, CVAE, VQVAE], ids=lambda cls: cls.__name__)
def test_a_frame_in_is_a_frame_out(library, cls, tmp_path):
    X, y = frame(library), np.arange(N) % 2
    model = tiny(cls).fit(X, y)
    model.save(tmp_path / "run")
    for each in (model, load(tmp_path / "run")):
        codes = each.transform(X, y)
        outs = [
            each.sample(80, np.arange(80) % 2 if cls is CVAE else None, random_state=0, prior="plain"),
            each.reconstruct(X, y),
            each.inverse_transform(codes, y),
            each.decode(each.encode(X, y), y),
        ]
        for out in outs:
            assert type(out) is type(X) and list(out.columns) == list(X.columns)
            assert [str(dtype) for dtype in out.dtypes] == [str(dtype) for dtype in X.dtypes]
            assert set(out["sex"].to_numpy()) <= {0, 1} and set(out["fixed"].to_numpy()) == {7}
        with pytest.warns(UserWarning, match="valid feature names"):
            array = each.reconstruct(frame_values(X), y)
        assert isinstance(array, np.ndarray) and np.allclose(array, frame_values(outs[1]))


def test_a_pandas_frame_keeps_its_index_and_the_latents_may_be_one():
    X = frame("pandas").set_index(np.arange(N) + 1000)
    model = tiny().fit(X).set_output(transform="pandas")
    assert (model.reconstruct(X).index == X.index).all()
    assert (model.inverse_transform(model.transform(X)).index == X.index).all()
    assert model.sample(3).index.tolist() == [0, 1, 2]


def test_reconstructions_are_of_the_form_of_what_is_given():
    model = tiny().fit(frame("pandas"))
    assert isinstance(model.reconstruct(frame("polars")), polars.DataFrame)
    with pytest.warns(UserWarning, match="valid feature names"):
        assert isinstance(model.reconstruct(frame_values(frame("pandas"))), np.ndarray)
    assert isinstance(tiny().fit(frame_values(frame("pandas"))).sample(2), np.ndarray)


def test_frames_without_text_for_names():
    X = pd.DataFrame(np.random.default_rng(0).normal(size=(40, 3)))
    out = tiny().fit(X).sample(2)
    assert out.columns.tolist() == [0, 1, 2]


@pytest.mark.parametrize("dtype", ["Int64", "Float32", "boolean", "int32", "Float64", "UInt8"])
def test_types_of_pandas_that_know_missing_values(dtype):
    values = [True, False] * 20 if dtype == "boolean" else [1, 2] * 20
    X = pd.DataFrame({"a": pd.array(values, dtype), "b": np.random.default_rng(0).normal(size=40)})
    out = tiny().fit(X).sample(3, random_state=0)
    assert str(out["a"].dtype) == {"boolean": "bool"}.get(dtype, dtype.lower())
    X.loc[3, "a"] = pd.NA
    with pytest.raises(ValueError, match=r"column 'a' lacks 1 of 40 values \(NaN; first in row 3\)"):
        tiny().fit(X)


def test_integers_are_whole_and_in_the_range_of_their_type():
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"count": rng.poisson(0.7, 200).astype(np.uint8), "level": rng.integers(1, 3, 200)})
    out = tiny(epochs=20).fit(X).sample(500, random_state=0, temperature=5.0)
    assert out["count"].dtype == np.uint8 and out["count"].max() < 50
    assert set(out["level"]) == {1, 2}


OBJECTS = {
    "text": (["m", "f"], r"column 'c' holds text \('m' in row 0\): encode it as columns of 0 and 1 \(one-hot\)"),
    "numbers as text": (
        ["1.5", "2"],
        r"column 'c' holds numbers written as text \('1.5' in row 0\): make numbers of it",
    ),
    "dates": ([datetime.date(2020, 1, 1), datetime.date(2021, 1, 1)], "column 'c' holds dates"),
    "times": ([datetime.datetime(2020, 1, 1)] * 2, "column 'c' holds dates"),
    "lists": ([[1], [2, 3]], "column 'c' holds values of type"),
    "nothing": ([None, None], "column 'c' has no values at all: leave it out"),
    "gaps": ([1.0, None], r"column 'c' lacks 20 of 40 values \(NaN; first in row 1\): fill them in"),
    "infinity": ([1.0, np.inf], r"column 'c' holds infinity 20 times \(first in row 1\)"),
}


@both
@pytest.mark.parametrize("name", OBJECTS)
def test_a_column_that_is_no_number_is_named_with_what_to_do(library, name):
    values, message = OBJECTS[name]
    X = {"b": np.random.default_rng(0).normal(size=40), "c": values * 20}
    X = pd.DataFrame(X) if library == "pandas" else polars.DataFrame(X)
    with pytest.raises(ValueError, match=message):
        tiny().fit(X)
    model = tiny(epochs=1).fit(type(X)({"c": np.random.default_rng(0).normal(size=40)}))
    for method in ("transform", "reconstruct", "score_samples"):
        with pytest.raises(ValueError, match=message):
            getattr(model, method)(X[["c"]])


@both
def test_categories_are_refused_by_name(library):
    values = ["m", "f"] * 20
    column = pd.Categorical(values) if library == "pandas" else polars.Series(values, dtype=polars.Categorical)
    X = (pd if library == "pandas" else polars).DataFrame({"b": np.arange(40.0), "sex": column})
    with pytest.raises(ValueError, match=r"column 'sex' holds categories \('m' in row 0\): encode it"):
        tiny().fit(X)
    X = (pd if library == "pandas" else polars).DataFrame({"b": np.arange(40.0), "n": [1, 2] * 20})
    X = X.astype({"n": "category"}) if library == "pandas" else X
    if library == "pandas":
        with pytest.raises(ValueError, match="column 'n' holds categories"):
            tiny().fit(X)


def test_numbers_of_other_kinds_are_numbers():
    X = pd.DataFrame({"a": [decimal.Decimal("1.5"), 2, 3.5, True] * 10})
    assert frame_values(X)[:4, 0].tolist() == [1.5, 2, 3.5, 1]
    polar = polars.DataFrame({"a": [decimal.Decimal("1.5"), decimal.Decimal("2.5")] * 10})
    assert frame_values(polar)[:2, 0].tolist() == [1.5, 2.5]


def test_lazy_frames_and_doubled_names():
    with pytest.raises(ValueError, match=r"X is a lazy frame; pass what it collects: X.collect\(\)"):
        tiny().fit(frame("polars").lazy())
    with pytest.raises(ValueError, match="X has more than one column 'a'"):
        tiny().fit(pd.DataFrame(np.zeros((20, 2)), columns=["a", "a"]))


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.sampled_from(["float64", "float32", "int64", "uint8", "bool"]), min_size=1, max_size=5),
    st.integers(0, 99),
)
def test_the_header_and_the_values_are_those_of_the_frame(kinds, seed):
    values = 100 * np.random.default_rng(seed).random((9, len(kinds)))
    cells = {f"c{i}": values[:, i].astype(kind) for i, kind in enumerate(kinds)}
    for X in (pd.DataFrame(cells), polars.DataFrame(cells)):
        header = table_header(X)
        assert header.names == tuple(cells) and header.kinds == tuple(kinds)
        x = frame_values(X)
        assert (x == np.stack([column.astype(float) for column in cells.values()], axis=1)).all()
        assert x.dtype == (np.float32 if set(kinds) == {"float32"} else np.float64)


def test_no_frame_is_warned_of_in_ordinary_use():
    X = frame("pandas")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = tiny().fit(X)
        model.transform(X), model.score(X), model.sample(2), model.reconstruct(X)


def test_where_the_library_is_missing_rows_come_in_an_array(monkeypatch):
    model = tiny(epochs=1).fit(frame("polars"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.warns(UserWarning, match="a data frame of polars, which is not installed here"):
        assert isinstance(model.sample(2), np.ndarray)
