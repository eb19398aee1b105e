"""Tables: how columns are scaled and come back, and tables of numbers from files, through every command."""

import contextlib
import gzip
import io
import json
import math
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.stats import multivariate_normal
from sklearn.datasets import load_iris, load_wine

from vaekit import CVAE, VAE, load, open_data
from vaekit.cli import main
from vaekit.data.columns import FURTHEST, SCALINGS, Columns, advised_scalings
from vaekit.data.description import describe
from vaekit.data.frames import frame_values, table_header
from vaekit.data.images import Images
from vaekit.data.tables import read_table
from vaekit.report.measure import measure_run

FINITE = st.floats(allow_nan=False, allow_infinity=False)
TABLES = arrays.arrays(np.float64, st.tuples(st.integers(1, 12), st.integers(1, 3)), elements=FINITE)


def tiny(cls=VAE, **fields):
    return cls(**{"latent_dim": 2, "epochs": 2, "batch_size": 16, "random_state": 0, "device": "cpu", **fields})


def normal(n: int = 300, d: int = 4) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, d))


def skewed(n: int = 300) -> np.ndarray:
    """A lognormal column with one value of 1e7, and one of a normal distribution."""
    rng = np.random.default_rng(0)
    x = np.stack([rng.lognormal(size=n), rng.normal(size=n)], axis=1)
    x[17, 0] = 1e7
    return x


# In and out


@settings(max_examples=200, deadline=None)
@given(TABLES, st.sampled_from(SCALINGS))
def test_in_and_out_is_the_identity(x, scaling):
    columns = Columns.fit(x, scaling=scaling)
    z = columns.standardise(x)
    assert np.isfinite(z).all() and np.isfinite(columns.log_det(x)).all() and np.isfinite(columns.inputs(x)).all()
    there = json.loads(json.dumps(columns.to_json()))
    for back in (
        columns.restore(z),
        columns.settled(columns.restore(z)),
        Columns.from_json(there, x.shape[1]).restore(z),
    ):
        assert (np.abs(back / 2 - x / 2) <= 1e-9 * np.abs(x / 2).max(0)).all()


@settings(max_examples=50, deadline=None)
@given(TABLES, arrays.arrays(np.float64, st.tuples(st.just(5), st.just(1)), elements=FINITE), st.sampled_from(SCALINGS))
def test_whatever_comes_later_stays_finite(x, later, scaling):
    columns = Columns.fit(x, scaling=scaling)
    later = np.abs(later) + 1e-300 if "log" in columns.scalings else later
    later = np.broadcast_to(later, (5, x.shape[1]))
    z = columns.inputs(later)
    assert z.dtype == np.float32 and (np.abs(z) <= FURTHEST * 1.001).all()
    assert np.isfinite(columns.restore(z)).all()


@pytest.mark.parametrize("scale", [1e-320, 1e-300, 1e-30, 1.0, 1e30, 1e300])
def test_scales_do_not_matter_to_the_standardised_values(scale):
    x = normal()
    expected = Columns.fit(x).standardise(x)
    assert np.allclose(Columns.fit(scale * x).standardise(scale * x), expected, atol=1e-9 if scale > 1e-310 else 1e-3)
    assert np.allclose(expected.std(0), 1) and np.allclose(expected.mean(0), 0)


@pytest.mark.parametrize("offset", [1e6, 1e9, 1e12])
def test_a_huge_offset_leaves_what_float64_can_tell(offset):
    x = normal()
    z = Columns.fit(x + offset).standardise(x + offset)
    assert np.allclose(z, Columns.fit(x).standardise(x), atol=1e-15 * offset + 1e-9)


def test_ordinary_tables_are_scaled_bit_for_bit_as_ever():
    """By the mean and the standard deviation as numpy gives them, whatever the type."""
    for x in (normal(), normal().astype(np.float32), 1e6 + normal(), normal() * [1e-3, 1, 40, 1e5]):
        mean, scale = x.mean(0, dtype=np.float64), x.std(0, dtype=np.float64)
        columns = Columns.fit(x)
        assert (columns.mean == mean).all() and (columns.scale == scale).all()
        assert (columns.inputs(x) == ((x - mean) / scale).astype(np.float32)).all()
        assert columns.log_det(x) == pytest.approx(np.full(len(x), np.log(scale).sum()))


# Constant columns

ROUNDED = np.array([0.1 + 0.2, 0.3])  # which differ in their last digit


@pytest.mark.parametrize(
    ("column", "constant"),
    [
        (np.full(300, 0.1), True),
        (np.zeros(300), True),
        (np.full(300, 1e300), True),
        (np.full(300, -1e-300), True),
        (np.resize(ROUNDED, 300), True),
        (1e9 * np.resize(ROUNDED, 300), True),
        (np.full(300, 0.1, np.float32), True),
        (np.resize([1.0, 1.0 + 1e-7], 300).astype(np.float32), True),
        (1 + 1e-12 * normal()[:, 0], False),
        (1e12 + normal()[:, 0], False),
        (1e-300 * normal()[:, 0], False),
        (np.where(np.arange(300) == 5, 1.0, 0.0), False),
    ],
)
def test_constant_up_to_rounding_is_constant(column, constant):
    columns = Columns.fit(column[:, None])
    assert columns.constant.tolist() == [constant]
    if constant:
        assert columns.log_det(column[:3, None]).tolist() == [0, 0, 0]
        assert (np.abs(columns.standardise(column[:, None])) < 1e-5).all()


def test_neighbouring_large_integers_are_no_rounding():
    frame = pd.DataFrame({"id": 2**52 + np.arange(3)})
    assert not Columns.fit(frame_values(frame), table_header(frame)).constant.any()


@pytest.mark.parametrize("value", [0.1, 0.0, -1e6 - 0.1, 1e300, 1e-300])
def test_a_constant_column_does_not_matter_to_the_score_and_another_value_is_a_modest_anomaly(value):
    x = normal(100, 3)
    x[:, 2] = 1.0
    other = x.copy()
    other[:, 2] = value
    plain, model = tiny(epochs=4).fit(x), tiny(epochs=4).fit(other)
    scores = model.score_samples(other)
    assert scores == pytest.approx(plain.score_samples(x), abs=1e-6)
    odd = other[:50].copy()
    odd[:, 2] = 3 * value if value else 2.0
    fall = scores[:50] - model.score_samples(odd)
    assert 0.5 < np.median(fall) < 100
    assert (model.sample(5, random_state=0)[:, 2] == value).all()
    assert (model.reconstruct(other)[:, 2] == value).all()


NOISE = np.array([0.1, 0.1, 1.0, 1.0])  # of each column


def one_factor() -> np.ndarray:
    """(3000, 4): what all columns have in common, and each its own noise."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(3000, 1)) + NOISE * rng.normal(size=(3000, 4))


@pytest.mark.slow
def test_columns_of_little_noise_have_a_small_sigma():
    x, how = one_factor(), {"epochs": 20, "latent_dim": 1, "batch_size": 50, "learning_rate": 0.01}
    ours, one = (tiny(**how, likelihood=name).fit(x[:500]) for name in (None, "gaussian"))
    assert ours.filled_in().likelihood == "gaussian_columns"
    sigma = ours.fitted_.module.likelihood.variance.sqrt().numpy()
    assert sigma.shape == (4,) and 1.5 * sigma[:2].max() < sigma[2:].min()
    assert ours.score(x[500:]) > one.score(x[500:]) + 0.1


@pytest.mark.slow
def test_a_table_learns_the_sigma_of_each_column():
    x = one_factor()
    ours, one = (tiny(epochs=40, latent_dim=1, likelihood=name).fit(x[:500]) for name in (None, "gaussian"))
    sigma = ours.fitted_.module.likelihood.variance.sqrt().numpy()
    assert sigma == pytest.approx(NOISE / np.sqrt(1 + NOISE**2), abs=0.15)  # of standardised columns
    exact = multivariate_normal(np.zeros(4), 1.0 + np.diag(NOISE**2)).logpdf(x[500:]).mean()
    scores = [model.score_samples(x[500:], n_draws=32).mean() for model in (one, ours)]
    assert scores[0] < exact - 0.8 and exact - 0.4 < scores[1] < exact


def test_images_have_no_columns_of_their_own(digits):
    with pytest.raises(ValueError, match="'gaussian_columns' is for tables; images need 'gaussian'"):
        tiny(likelihood="gaussian_columns").fit(digits[0][:50])


def test_values_out_of_all_bounds_have_finite_scores():
    x = normal(100, 2)
    model = tiny().fit(x)
    far = np.array([[1e300, 0], [-1e308, 1e308], [1e20, 1]])
    assert np.isfinite(model.score_samples(far)).all() and (model.score_samples(far) < -1e20).all()
    assert np.isfinite(model.transform(far)).all() and np.isfinite(model.reconstruct(far)).all()
    huge = tiny().fit(1.7e308 * np.clip(x / 4, -1, 1))
    assert (
        np.isfinite(huge.score(1.7e308 * np.clip(x / 4, -1, 1))) and np.isfinite(huge.sample(50, random_state=0)).all()
    )


# The type of what comes back


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint8, np.int16, bool])
def test_arrays_come_back_in_their_type(dtype, tmp_path):
    x = (50 + 10 * normal(60, 3)).astype(dtype) if dtype is not bool else normal(60, 3) > 0
    model = tiny(epochs=5).fit(x)
    model.save(tmp_path / "run")
    for each in (model, load(tmp_path / "run")):
        for out in (each.sample(40, random_state=0), each.reconstruct(x), each.inverse_transform(each.transform(x))):
            assert out.dtype == dtype
            assert isinstance(out, np.ndarray)


def test_float64_is_not_rounded_to_float32():
    x = 1e9 + normal(100, 2)
    out = tiny(epochs=5).fit(x).reconstruct(x)
    assert len(np.unique(out - 1e9)) > 150 and np.abs(out - 1e9).max() < 5  # float32 knows but multiples of 64 there


def test_a_run_folder_of_before_knows_mean_scale_and_names_only(tmp_path):
    x = normal(60, 3).astype(np.float32)
    model = tiny().fit(x)
    model.save(tmp_path / "run")
    file = tmp_path / "run" / "run.json"
    config = json.loads(file.read_text())
    config["table"] = {name: config["table"][name] for name in ("mean", "scale", "columns")}
    del config["fields"]["scaling"]
    file.write_text(json.dumps(config))
    old = load(tmp_path / "run")
    assert (old.score_samples(x) == model.score_samples(x)).all()
    assert (old.sample(9, random_state=0) == model.sample(9, random_state=0)).all()
    assert old.sample(1).dtype == np.float32
    with pytest.raises(ValueError, match="the range of the columns is not known: this run is of an earlier vaekit"):
        old.sample(2, clip=True)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("scale", [1.0, -1.0, 1.0], "scale must be positive"),
        ("mean", [0.0, None, 1.0], "mean must be 3 numbers"),
        ("constant", [0, 1, 0], "constant must be 3 truth values"),
        ("kinds", ["float64", "object", "int64"], "kinds must be 3 of bool, int8"),
        ("scalings", ["log", "auto", "log"], "scalings must be 3 of standard, log, robust"),
        ("frame", "os", "frame and label must be names, got 'os'"),
        ("low", [9e9, 9e9, 9e9], "low must be at most high"),
        ("columns", ["a", "b", "a"], "columns must differ"),
        ("dropped", [1], "dropped must be 1 names"),
    ],
)
def test_what_a_stranger_wrote_into_run_json_is_checked(name, value, message, tmp_path):
    tiny(epochs=1).fit(normal(40, 3)).save(tmp_path / "run")
    file = tmp_path / "run" / "run.json"
    config = json.loads(file.read_text())
    config["table"][name] = value
    file.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "run")


# Skewed columns


def test_which_scaling_suits_a_column():
    rng = np.random.default_rng(0)
    columns = {
        "standard": [
            rng.normal(size=900),
            rng.uniform(size=900),
            rng.random(900) < 0.02,
            5 + rng.exponential(size=900),
        ],
        "log": [rng.lognormal(size=900), rng.lognormal(3, 2, 900), skewed(900)[:, 0]],
        "robust": [
            np.append(rng.normal(size=899), -1e4),
            np.where(rng.random(900) < 0.3, 0, rng.lognormal(sigma=3, size=900)),
        ],
    }
    for expected, found in columns.items():
        assert set(advised_scalings(np.stack(found, axis=1).astype(float))) == {expected}


def test_a_skewed_column_is_told_by_name_in_data_and_at_fit(tmp_path):
    frame = pd.DataFrame(skewed(), columns=["income", "height"])
    with pytest.warns(
        UserWarning, match=r"array has columns that are skewed.*'income' \(.* to 1e\+07.*; log\).*scaling='auto'"
    ):
        tiny(epochs=1).fit(frame)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny(epochs=1, scaling="auto").fit(frame)
        tiny(epochs=1).fit(frame[["height"]])
    frame.to_csv(tmp_path / "t.csv", index=False)
    facts = describe(open_data(tmp_path / "t.csv", "all"))
    assert any(
        "skewed" in problem and "'income'" in problem and "'height'" not in problem for problem in facts["problems"]
    )
    assert [found["flags"] for found in facts["suggestions"]] == [
        ["--time-budget", "60", "--scaling", "auto"],
        ["--scaling", "auto"],
    ]


def test_one_outlier_makes_half_of_the_samples_negative_unless_the_logarithm_is_taken():
    x = skewed()
    with pytest.warns(UserWarning, match="skewed"):
        plain = tiny(epochs=20, batch_size=64).fit(x).sample(400, random_state=0)[:, 0]
    assert (plain < 0).mean() > 0.1
    for scaling in ("log", "auto"):
        model = tiny(scaling=scaling).fit(x)
        assert model.columns_.scalings == ("log", "standard")
        samples = model.sample(400, random_state=0)[:, 0]
        assert (samples > 0).all() and 0.5 < np.median(samples) < 2
    robust = tiny(scaling="robust").fit(x).sample(400, random_state=0)[:, 0]
    assert 0.5 < np.median(robust) < 2


@pytest.mark.parametrize("scaling", SCALINGS)
def test_samples_stay_in_the_range_seen_where_that_is_asked(scaling):
    x = skewed()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = tiny(epochs=3, scaling=scaling).fit(x)
    samples = model.sample(500, random_state=0, clip=True, temperature=50.0)
    assert (samples >= x.min(0)).all() and (samples <= x.max(0)).all()
    with pytest.raises(ValueError, match="clip is for tables"):
        tiny(architecture="mlp").fit(np.zeros((20, 8, 8))).sample(2, clip=True)


@pytest.mark.parametrize("scaling", ["log", "robust"])
def test_densities_stay_exact_in_the_tables_own_units(scaling):
    """The log-determinant is that of the numerical derivative of the way out, and `score_samples` counts it."""
    x = np.stack([np.random.default_rng(0).lognormal(size=200), normal(200)[:, 0] ** 3 + 9], axis=1)
    columns = Columns.fit(x, scaling=scaling)
    z, step = columns.standardise(x), 1e-5
    steps = np.log(np.abs(columns.restore(z + step) - columns.restore(z - step)) / (2 * step)).sum(1)
    assert columns.log_det(x) == pytest.approx(steps, abs=1e-6)
    model = tiny(scaling=scaling).fit(x)
    inside = tiny().fit(model.columns_.standardise(x))
    assert model.score_samples(x) == pytest.approx(inside.score_samples(z) - steps, abs=1e-3)


@pytest.mark.slow
def test_the_elbo_of_a_lognormal_table_is_a_bound_on_its_density():
    rng = np.random.default_rng(0)
    x, fresh = (np.exp(rng.normal([1, -2], [0.5, 1.5], (2000, 2))) for _ in range(2))
    truth = -(np.log(fresh).sum(1).mean() + math.log(2 * math.pi) + 1 + math.log(0.5 * 1.5))
    model = tiny(latent_dim=1, epochs=5, batch_size=64, scaling="log").fit(x)
    assert truth - 0.5 < model.score(fresh) < truth + 0.1
    images = Images(fresh, None, (), "fresh")
    entry = measure_run(model.fitted_, images, images)
    assert entry["elbo"] == pytest.approx(model.score(fresh), abs=0.05)
    assert truth - 0.5 < -entry["nll"] < truth + 0.1


def test_a_value_without_a_logarithm_is_told_by_its_column():
    frame = pd.DataFrame({"income": np.random.default_rng(0).lognormal(size=50)})
    model = tiny(epochs=1, scaling="log").fit(frame)
    with pytest.raises(ValueError, match=r"'income' holds -1 in row 3: the model was trained on its logarithm"):
        model.score(frame.assign(income=np.where(np.arange(50) == 3, -1, 2.0)))


def test_scalings_are_checked():
    with pytest.raises(
        ValueError, match=r"scaling must be one of standard, log, robust, auto, got 'logs' \(did you mean 'log'"
    ):
        tiny(scaling="logs").fit(normal())
    with pytest.raises(ValueError, match="scaling 'log' is for the columns of tables; images need 'standard'"):
        tiny(scaling="log").fit(np.zeros((20, 8, 8)))


# Files


def write(path: Path, text: str) -> Path:
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


ROWS = [(i, i / 4, "ab"[i % 2]) for i in range(12)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", "a,b,label\n" + "\n".join(f"{a},{b},{c}" for a, b, c in ROWS)),
        ("t.csv", "\ufeffa;b;label\r\n" + "\r\n".join(f"{a};{b};{c}" for a, b, c in ROWS) + "\r\n"),
        ("t.csv", "a;b;label\n" + "\n".join(f"{a};{str(b).replace('.', ',')};{c}" for a, b, c in ROWS)),
        ("t.tsv", "a\tb\tlabel\n" + "\n".join(f"{a}\t{b}\t{c}" for a, b, c in ROWS)),
        ("t.csv.gz", 'a,b,"label"\n' + "\n".join(f' {a} ,"{b}",{c}' for a, b, c in ROWS) + "\n\n"),
        ("t.tsv.gz", ",a\tb\tlabel\n".replace(",", "") + "\n".join(f"{a}\t{b}\t{c}" for a, b, c in ROWS)),
        ("t.csv", ",a,b,label\n" + "\n".join(f"{i},{a},{b},{c}" for i, (a, b, c) in enumerate(ROWS))),
    ],
    ids=["commas", "semicolons", "decimal commas", "tabs", "gzipped and quoted", "tabs gzipped", "an index"],
)
def test_tables_come_in_many_forms(name, text, tmp_path):
    table = open_data(write(tmp_path / name, text), "all")
    assert table.header.names == ("a", "b") and table.header.kinds == ("int64", "float64")
    assert table.x.tolist() == [[a, b] for a, b, _ in ROWS]
    assert table.classes == ("a", "b") and table.y.tolist() == [i % 2 for i in range(12)]
    assert any("labels are taken from column 'label'" in note for note in table.notes)


def test_a_first_row_of_numbers_is_a_row(tmp_path):
    table = open_data(write(tmp_path / "t.csv", "\n".join(f"{i}.5,{i * i}" for i in range(12))), "all")
    assert table.x.shape == (12, 2) and table.header == (None, ("float64", "int64"), None, None, ())
    pd.DataFrame(normal(20, 3)).to_csv(tmp_path / "p.csv", index=False)  # whose first row is 0,1,2
    table = open_data(tmp_path / "p.csv", "all")
    assert table.x.shape == (20, 3) and table.header.names == ("0", "1", "2")
    assert "is taken for the names of its columns" in table.notes[0]


def test_parquet_of_numbers(tmp_path):
    frame = pd.DataFrame(
        {
            "whole": pd.array([1, 2, 3] * 4, "int16"),
            "single": np.linspace(0, 1, 12, dtype=np.float32),
            "truth": [True, False] * 6,
            "class": list("xyz") * 4,
        }
    )
    frame.to_parquet(tmp_path / "t.parquet")
    table = open_data(tmp_path / "t.parquet", "all")
    assert table.header[:2] == (("whole", "single", "truth"), ("int16", "float32", "bool"))
    assert (table.x == frame.iloc[:, :3].to_numpy(float)).all() and table.classes == ("x", "y", "z")
    frame.assign(when=pd.Timestamp("2020-01-01"), gap=[None, *range(11)]).to_parquet(tmp_path / "bad.parquet")
    with pytest.raises(
        ValueError, match=r"column 'when' holds dates .*; column 'gap' lacks 1 of 12 values \(NaN; first in row 0\)"
    ):
        open_data(tmp_path / "bad.parquet")


@pytest.mark.parametrize(
    ("columns", "labels", "expected"),
    [
        ({"target": [0, 1] * 6}, None, "target"),
        ({"Class": list("ab") * 6}, None, "Class"),
        ({"target": np.linspace(0, 1, 12)}, None, None),  # of a regression
        ({"y": np.arange(12) % 3, "x": np.arange(12)}, None, None),  # coordinates
        ({"y": np.arange(12) % 3}, None, "y"),
        ({"label": [0, 1] * 6, "class": [0, 1] * 6}, None, None),  # which of them?
        ({"species": list("ab") * 6}, "species", "species"),
        ({"grade": [1.0, 2.0] * 6}, "grade", "grade"),
    ],
)
def test_labels_by_column(columns, labels, expected, tmp_path):
    pd.DataFrame({"v": np.linspace(0, 1, 12), **columns}).to_csv(tmp_path / "t.csv", index=False)
    table = open_data(tmp_path / "t.csv", "all", labels=labels)
    assert table.header.label == expected and (table.y is None) == (expected is None)
    assert len(table.header.names) == 1 + len(columns) - (expected is not None)
    assert any("labels are taken" in note for note in table.notes) == (expected is not None and labels is None)


BAD = {
    "sex": (list("mf") * 6, r"column 'sex' holds text \('m' in row 0\): encode it as columns of 0 and 1"),
    "born": (["2001-02-03"] * 12, r"column 'born' holds dates \('2001-02-03' in row 0\): turn it into a number"),
    "when": (["03.02.2001"] * 12, "column 'when' holds dates"),
    "price": (["1.5", "$1,234"] * 6, r"column 'price' holds '\$1,234' \(in row 1\): write plain numbers"),
    "gap": (["1", "", "NA"] * 4, r"column 'gap' lacks 8 of 12 values \(NaN; first in row 1\): fill them in"),
    "none": ([""] * 12, "column 'none' has no values at all: leave it out"),
    "far": (["1", "inf"] * 6, r"column 'far' holds infinity 6 times \(first in row 1\)"),
    "farther": (["inf"] * 12, r"column 'farther' holds infinity 12 times"),
    "both": (["inf", "nan"] * 6, r"column 'both' lacks 6 of 12 values"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_number_is_told_by_column_with_what_to_do(name, tmp_path):
    cells, message = BAD[name]
    pd.DataFrame({"v": np.linspace(0, 1, 12), name: cells}).to_csv(tmp_path / "t.csv", index=False)
    with warnings.catch_warnings(), pytest.raises(ValueError, match=message):
        warnings.simplefilter("error")  # one sentence, and nothing of the arithmetic
        open_data(tmp_path / "t.csv")
    assert open_data(tmp_path / "t.csv", "all", drop=name).header.names == ("v",)
    assert open_data(tmp_path / "t.csv", "all", drop=[name]).header.dropped == (name,)


@pytest.mark.parametrize(
    ("text", "how", "message"),
    [
        ("", {}, "t.csv is empty"),
        ("a,b\n", {}, "has no rows of numbers"),
        ("a,b\n1,2\n3\n", {}, "has 1 cells in one row and 2 in its first"),
        ("a,a\n1,2\n", {}, "has more than one column 'a'"),
        ("a,b\n1,\xff\n", {}, None),
        ("a,b\n1,2\n", {"labels": "c"}, r"has no column 'c'.*; it has a; b"),
        ("apple,b\n1,2\n", {"drop": "aple"}, r"has no column 'aple' \(did you mean 'apple'\?\)"),
        ("1,2\n3,4\n", {"drop": "a"}, "names no columns in its first row"),
        ("label\n1\n0\n", {}, "has no columns of numbers left"),
        ("a,label\n1,x\n2,\n", {}, r"column 'label', the labels, is empty in 1 rows \(first in row 1\)"),
    ],
)
def test_tables_that_can_not_be_used(text, how, message, tmp_path):
    file = tmp_path / "t.csv"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=message or "is no table in UTF-8"):
        read_table(file, **how)


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["1e300", "2e300"], ("1e+300", "2e+300")),
        ([str(2**63 + 2048), str(2**64)], (str(2.0**63 + 2048), str(2.0**64))),
        (["1", "2"], ("1", "2")),
    ],
)
def test_labels_beyond_64_bits_stay_apart(labels, classes, tmp_path):
    pd.DataFrame({"v": np.linspace(0, 1, 12), "label": labels * 6}).to_csv(tmp_path / "t.csv", index=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = open_data(tmp_path / "t.csv", "all", labels="label")
    assert table.classes == classes and (table.y == [0, 1] * 6).all()


def test_columns_to_drop_need_a_table():
    with pytest.raises(ValueError, match="digits is no table with columns to drop"):
        open_data("digits", drop="a")


def test_an_array_says_which_of_its_columns_lack_what():
    x = normal(20, 3)
    x[:, 1], x[4, 2] = np.nan, np.nan
    with pytest.raises(
        ValueError, match=r"first in sample 0\): column 1 has no values at all: leave it out; column 2 lacks 1 of 20"
    ):
        tiny().fit(x)


# The command line


def vaekit(*arguments) -> tuple[int, str]:
    """Exit code, and standard output and error together."""
    out, code = io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code or 0
    return code, out.getvalue()


def done(*arguments) -> str:
    code, said = vaekit(*arguments)
    assert code == 0, said
    return said


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """iris.csv with its species, wine.tsv.gz, and a run of each."""
    folder = tmp_path_factory.mktemp("tables")
    iris = load_iris(as_frame=True)
    frame = iris.frame.drop(columns="target").assign(species=iris.target_names[iris.target])
    frame.to_csv(folder / "iris.csv", index=False)
    wine = load_wine(as_frame=True).frame
    wine.to_csv(folder / "wine.tsv.gz", index=False, sep="\t")
    quick = ("--epochs", 2, "--random-state", 0)
    done("train", "cvae", "--data", folder / "iris.csv", "--labels", "species", "--out", folder / "cvae", *quick)
    done("train", "vqvae", "--data", folder / "wine.tsv.gz", "--out", folder / "vqvae", *quick)
    return folder


def test_names_and_labels_reach_the_run(files):
    model = load(files / "cvae")
    assert model.feature_names_in_.tolist() == pd.read_csv(files / "iris.csv").columns.tolist()[:4]
    assert model.classes_.tolist() == ["setosa", "versicolor", "virginica"] and model.n_features_in_ == 4
    assert json.loads((files / "cvae" / "run.json").read_text())["table"]["label"] == "species"
    frame = pd.read_csv(files / "iris.csv")[model.feature_names_in_]
    with pytest.raises(ValueError, match="feature names should match"):
        model.transform(frame.iloc[:, ::-1])
    assert isinstance(model.reconstruct(frame), pd.DataFrame)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".csv.gz", ".parquet"])
def test_samples_and_reconstructions_are_tables_with_their_names(files, suffix, tmp_path):
    read = (
        pd.read_parquet
        if suffix == ".parquet"
        else lambda file: pd.read_csv(file, sep="\t" if "tsv" in suffix else ",")
    )
    done("sample", files / "cvae", "-n", 2, "--per-class", "--out", tmp_path / f"s{suffix}", "--random-state", 0)
    samples, names = read(tmp_path / f"s{suffix}"), pd.read_csv(files / "iris.csv").columns.tolist()
    assert samples.columns.tolist() == names
    assert samples["species"].tolist() == np.repeat(["setosa", "versicolor", "virginica"], 2).tolist()
    model = load(files / "cvae")
    assert (samples.iloc[:, :4].to_numpy() == model.sample(6, samples["species"].to_numpy(), random_state=0)).all()
    assert open_data(tmp_path / f"s{suffix}", "all", labels="species").x.shape == (6, 4)
    done(
        "reconstruct", files / "cvae", "--data", files / "iris.csv", "--split", "all", "--out", tmp_path / f"r{suffix}"
    )
    rebuilt = read(tmp_path / f"r{suffix}")
    assert rebuilt.columns.tolist() == names and len(rebuilt) == 150
    assert rebuilt["species"].tolist() == pd.read_csv(files / "iris.csv")["species"].tolist()


def test_latents_and_codes_go_out_and_in_as_tables(files, tmp_path):
    for run, data, width in (("cvae", "iris.csv", 10), ("vqvae", "wine.tsv.gz", 8)):
        done("encode", files / run, "--data", files / data, "--overwrite", "--out", tmp_path / "z.csv")
        done("encode", files / run, "--data", files / data, "--overwrite", "--out", tmp_path / "z.npy")
        codes = pd.read_csv(tmp_path / "z.csv")
        assert codes.columns.tolist() == ["row", "label", "split", *(f"z{i}" for i in range(width))]
        saved = np.load(tmp_path / "z.npy")
        assert (codes.iloc[:, 3:].to_numpy().astype(saved.dtype) == saved.reshape(len(codes), -1)).all()
        label = ("--label", "setosa") if run == "cvae" else ()
        for name in ("z.csv", "z.npy"):
            done(
                "decode",
                files / run,
                "--codes",
                tmp_path / name,
                "--overwrite",
                "--out",
                tmp_path / f"{name}.x.csv",
                *label,
            )
        one, other = (pd.read_csv(tmp_path / f"{name}.x.csv") for name in ("z.csv", "z.npy"))
        assert (one == other).all(axis=None) and one.shape[1] == len(load(files / run).feature_names_in_)
    codes.assign(z0=0.5).to_csv(tmp_path / "z.csv", index=False)
    code, said = vaekit("decode", files / "vqvae", "--codes", tmp_path / "z.csv", "--out", tmp_path / "x.csv")
    assert code == 2 and "z.csv holds no codes: they are whole numbers" in said


def test_another_file_is_taken_by_the_names_of_its_columns(files, tmp_path):
    frame = pd.read_csv(files / "iris.csv")
    frame.iloc[:, ::-1].assign(note="x").to_csv(tmp_path / "turned.csv", index=False)
    said = done(
        "encode", files / "cvae", "--data", tmp_path / "turned.csv", "--split", "all", "--out", tmp_path / "a.npy"
    )
    assert "columns of" in said and "left out: note" in said and "in another order; they are taken by name" in said
    done("encode", files / "cvae", "--data", files / "iris.csv", "--split", "all", "--out", tmp_path / "b.npy")
    assert (np.load(tmp_path / "a.npy") == np.load(tmp_path / "b.npy")).all()
    frame.rename(columns={"petal width (cm)": "petal with (cm)"}).to_csv(tmp_path / "short.csv", index=False)
    code, said = vaekit("encode", files / "cvae", "--data", tmp_path / "short.csv", "--out", tmp_path / "c.npy")
    assert (
        code == 2 and "short.csv lacks column 'petal width (cm)' of the model (did you mean 'petal with (cm)'?)" in said
    )
    with pytest.raises(ValueError, match="has the model's columns in another order"):
        load(files / "cvae").transform(open_data(tmp_path / "turned.csv", "all", labels="species", drop="note"))


@pytest.mark.slow
def test_commands_speak_of_rows_and_values(files, tmp_path):
    said = [
        done("data", files / "wine.tsv.gz"),
        done("evaluate", files / "vqvae", "--data", files / "wine.tsv.gz"),
        done("evaluate", files / "cvae", "--data", files / "iris.csv"),
        done("doctor", files / "cvae"),
        done("doctor", files / "vqvae"),
        done("fit-prior", files / "vqvae", "--data", files / "wine.tsv.gz", "--epochs", 1),
        done("reconstruct", files / "cvae", "--data", files / "iris.csv", "--out", tmp_path / "x.csv"),
        done("sweep", "--data", files / "wine.tsv.gz", "--latent-dim", "1,2", "--beta", "1", "--epochs", 1, "--jobs", 1,
             "--out", tmp_path / "sweep"),
        (tmp_path / "sweep" / "sweep.json").read_text().split('"advice"')[1],
    ]  # fmt: skip
    for text in said:
        for word in ("pixel", "image", "blur", "picture "):
            assert word not in text.lower().replace("pixelcnn", "").replace("picture: ", ""), text
    assert "nats per row" in " ".join(said[1].split()) and "alcohol" in said[0]
    assert f"--data {files / 'iris.csv'} --labels species" in said[3]


def test_what_the_commands_refuse(files, tmp_path, own_digits):
    for arguments, message in (
        (("sample", files / "cvae", "--out", tmp_path / "x.png"), "rows of a table are no images"),
        (("sample", files / "cvae", "--out", tmp_path / "folder/"), "rows of a table are no images"),
        (("sample", own_digits, "--out", tmp_path / "x.csv"), "images are no rows of a table"),
        (("sample", own_digits, "--out", tmp_path / "x.npy", "--clip"), "clip is for tables"),
        (("train", "vae", "--data", files / "iris.csv", "--out", tmp_path / "r"), "column 'species' holds text"),
        (("data", files / "iris.csv", "--labels", "specie"), "has no column 'specie' (did you mean 'species'?)"),
        (("data", files / "none.csv"), "there is no such file or folder"),
    ):
        code, said = vaekit(*arguments)
        assert code == 2 and message in said and said.count("\n") == 1, said
    assert not list(tmp_path.iterdir())


@pytest.fixture
def own_digits(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("digits") / "run"
    tiny(architecture="mlp", epochs=1).fit(np.random.default_rng(0).random((30, 8, 8))).save(folder)
    return folder


def test_sampling_within_the_range_and_dropping_columns(tmp_path):
    frame = pd.DataFrame(skewed(), columns=["income", "height"]).assign(name="x", count=np.arange(300) % 5)
    frame.to_csv(tmp_path / "t.csv", index=False)
    said = done(
        "train", "vae", "--data", tmp_path / "t.csv", "--drop", "name", "--epochs", 1, "--out", tmp_path / "run"
    )
    assert "'income'" in said and "--scaling auto" in said
    done("sample", tmp_path / "run", "--clip", "--out", tmp_path / "s.csv", "--random-state", 0)
    samples = pd.read_csv(tmp_path / "s.csv")
    assert samples.columns.tolist() == ["income", "height", "count"] and samples["count"].dtype == np.int64
    assert samples["income"].min() >= frame["income"].min()
    assert "--drop name" in done("doctor", tmp_path / "run")
    images = open_data(tmp_path / "t.csv", "all", labels="count", drop="name,income")
    assert tiny(CVAE, epochs=1).fit_images(images).classes_.tolist() == list("01234")
