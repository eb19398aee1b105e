"""The comparison from data to page, how it goes on after an interruption, and the judge of samples."""

import base64
import contextlib
import hashlib
import io
import json
import math
import re
import shutil
import warnings
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.marks import quick
from vaekit.cli import main
from vaekit.data import open_data
from vaekit.evaluation.generation import class_consistency, get_judge
from vaekit.files import load
from vaekit.pictures.style import as_pixels
from vaekit.registry import MODELS
from vaekit.report.compare import compare
from vaekit.report.living import sprite, traverse
from vaekit.report.page import embeddable
from vaekit.training.checkpoint import read_tensors

pytestmark = pytest.mark.usefixtures("brief_priors")

NAMES = ["vae", "bvae", "cvae", "vqvae"]  # what `vaekit compare` compares where it isn't told
COMPARED = [MODELS[name].label for name in NAMES]

QUICK = ("--epochs", "1", "--architecture", "mlp")
LATENT_DIMS, BETAS = (2, 3), (1.0, 2.0)
FIGURES = ("overview", "training", "rate_distortion", "latent_dim", "beta", "samples", "latent_space", "manifold",
           "traversals", "by_class", "reconstructions", "codes", "priors", "by_class_vqvae", "temperature")  # fmt: skip
MEASURED = (
    "parameters",
    "seconds",
    "seconds_total",
    "images_per_second",
    "mse",
    "distortion",
    "rate",
    "elbo",
    "rate_plain",
    "elbo_plain",
)


class Report(NamedTuple):
    path: Path
    code: int
    out: str
    err: str

    @property
    def results(self) -> dict:
        return json.loads((self.path / "results.json").read_text())

    @property
    def names(self) -> list[str]:
        return [entry["name"] for entry in self.results["models"]]

    @property
    def figures(self) -> set[str]:
        return {path.name for path in (self.path / "figures").iterdir()}

    @property
    def page(self) -> str:
        return (self.path / "index.html").read_text()


def run(data, out: Path, *arguments) -> Report:
    """`vaekit compare`; an exception other than SystemExit would be a user's traceback, and fails."""
    printed, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            main(["compare", "--data", str(data), "--out", str(out), *map(str, arguments)])
        except SystemExit as end:
            code = end.code if end.code is not None else 0
    return Report(out, code, printed.getvalue(), err.getvalue())


def assert_refused(report: Report, *words: str) -> None:
    """Exit code 2 and one line on standard error that says what is wrong."""
    assert report.code == 2 and report.err.startswith("vaekit: ") and report.err.count("\n") == 1, report
    for word in words:
        assert word in report.err


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file below a folder, its bytes and when it was written."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def no_training(*_, **__):
    raise AssertionError("something was trained")


@pytest.fixture
def untrained(monkeypatch):
    """From here on, neither a model nor a judge can be trained."""
    monkeypatch.setattr("vaekit.training.course.train", no_training)
    monkeypatch.setattr("vaekit.evaluation.generation.train", no_training)


@pytest.fixture
def own_cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("VAEKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def trainings(monkeypatch) -> list[str]:
    """The judges trained from here on, none of them for long."""
    from vaekit.training.loop import train

    titles = []

    def two_steps(judge, objective, data, plan, *, title, **options):
        titles.append(title)
        return train(judge, objective, data, replace(plan, steps=2), title=title, **options)

    monkeypatch.setattr("vaekit.evaluation.generation.train", two_steps)
    return titles


@pytest.fixture(scope="module")
def npz(digits, tmp_path_factory) -> Path:
    """200 digits with their labels."""
    path = tmp_path_factory.mktemp("data") / "digits.npz"
    np.savez(path, x=digits[0][:200], y=digits[1][:200])
    return path


@pytest.fixture(scope="module")
def colours(tmp_path_factory) -> Path:
    """60 smooth colour images, 12 rows by 10 columns, without labels."""
    rng = np.random.default_rng(0)
    corners = rng.random((60, 2, 2, 3))
    down, across = np.linspace(0, 1, 12), np.linspace(0, 1, 10)
    rows = np.einsum("kh,nkwc->nhwc", np.stack([1 - down, down]), corners)
    x = np.einsum("kw,nhkc->nhwc", np.stack([1 - across, across]), rows)
    path = tmp_path_factory.mktemp("data") / "colours.npy"
    np.save(path, x.astype(np.float32))
    return path


@pytest.fixture(scope="module")
def report(npz, tmp_path_factory) -> Report:
    """The whole comparison with its sweeps, as a user runs it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vaekit.report.compare.LATENT_DIMS", LATENT_DIMS)
        patch.setattr("vaekit.report.compare.BETAS", BETAS)
        return run(npz, tmp_path_factory.mktemp("report") / "report", *QUICK, "--sweeps")


@pytest.fixture(scope="module")
def colour_report(colours, tmp_path_factory) -> Report:
    return run(colours, tmp_path_factory.mktemp("report") / "report", "--epochs", 1)


# ---- what a comparison leaves behind


def test_a_comparison_ends_well_and_says_where_its_report_is(report):
    assert report.code == 0, report.err
    assert str(report.path / "index.html") in report.out
    assert all(label in report.out for label in COMPARED)


def test_results_have_every_number_of_every_model(report):
    entries = report.results["models"]
    assert report.names == NAMES and {entry["seed"] for entry in entries} == {0}
    for entry in entries:
        assert all(math.isfinite(entry[key]) for key in MEASURED), entry
        assert entry["elbo"] == pytest.approx(-(entry["distortion"] + entry["rate"]), rel=1e-9)
        assert 0 < entry["seconds"] <= entry["seconds_total"] and entry["images_per_second"] > 0
        assert 0 < entry["mse"] < 1 and entry["rate"] > 0 and entry["likelihood"]
    judged = {entry["name"]: entry["class_consistency"] for entry in entries if "class_consistency" in entry}
    assert list(judged) == NAMES and all(0 <= share <= 1 for share in judged.values())
    assert {entry["name"]: entry["prior"] for entry in entries} == {
        **dict.fromkeys(("vae", "bvae", "cvae"), "GMM, per class"), "vqvae": "PixelCNN, per class",
    }  # fmt: skip


@pytest.mark.slow
def test_codes_with_a_place_in_the_image_complete_it(npz, tmp_path):
    report = run(npz, tmp_path / "report", "--epochs", 1, "--models", "vqvae", "--architecture", "conv")
    assert_chosen(report, ["vqvae"])
    assert "completion.png" in report.figures
    with Image.open(report.path / "figures" / "completion.png") as image:
        assert len(image.convert("L").getcolors()) > 20
    assert "the rest of half an image" in report.page


@pytest.mark.slow
def test_a_comparison_without_priors_keeps_the_plain_ones(npz, tmp_path):
    report = run(npz, tmp_path / "report", "--epochs", 1, "--models", " vae , vqvae ", "--no-priors")
    assert_chosen(report, ["vae", "vqvae"])
    entries = report.results["models"]
    assert [entry["prior"] for entry in entries] == ["N(0, I)", "uniform"]
    assert not any("rate_plain" in entry for entry in entries)
    assert not {"priors.png", "temperature.png", "completion.png"} & report.figures


def test_results_say_which_data_and_which_protocol(report, npz):
    data, protocol = report.results["data"], report.results["protocol"]
    whole = open_data(npz, "all")
    assert data["fingerprint"] == whole.fingerprint and data["image_shape"] == [8, 8, 1]
    assert (data["train"], data["test"]) == (160, 20) and data["classes"] == list("0123456789")
    assert protocol["seeds"] == 1 and protocol["device"] and protocol["torch"] == torch.__version__
    assert set(protocol["models"]) == set(COMPARED)


def test_numbers_are_those_of_the_runs_in_the_report_on_test_images(report, npz):
    test = open_data(npz, "test")
    for entry in report.results["models"]:
        folder = report.path / "runs" / f"{entry['name']}-seed0"
        model = load(folder)
        kept = json.loads((folder / "evaluation.json").read_text())
        assert kept.items() <= entry.items() and entry["parameters"] == model.n_parameters_
        names = np.asarray(test.classes)[test.y] if model.conditional else None
        rebuilt = model.reconstruct(test.x, names).astype(float)
        assert entry["mse"] == pytest.approx(np.square((rebuilt - test.x) / 255).mean(), rel=2e-3)  # 8-bit


def test_sweeps_have_a_point_per_value(report):
    sweeps = report.results["sweeps"]
    assert [point["value"] for point in sweeps["latent_dim"]] == list(LATENT_DIMS)
    assert [point["value"] for point in sweeps["beta"]] == list(BETAS)
    for point in (*sweeps["latent_dim"], *sweeps["beta"]):
        assert point["elbo"] == pytest.approx(-(point["distortion"] + point["rate"]), rel=1e-9)


def test_every_figure_is_there_and_shows_something(report):
    expected = {f"{name}.png" for name in FIGURES} | {f"samples_{name}.png" for name in NAMES}
    assert report.figures == expected  # and no temporary file
    for name in sorted(expected):
        with Image.open(report.path / "figures" / name) as image:
            assert min(image.size) > 50 and len(image.convert("RGB").getcolors(2**24)) > 8, name


class Page(HTMLParser):
    """The tags of a page with their attributes."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.feed(re.sub(r"(base64,[\w+/]{40})[\w+/=]*", r"\1", html))  # the parser is slow on pictures

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def attributes(self, name: str) -> list[str]:
        return [found[name] for _, found in self.tags if name in found]

    def __getitem__(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.mark.parametrize("which", quick(["report", "colour_report"], "report"))
def test_the_page_begins_with_its_contents_then_pictures_then_findings_then_tables(which, request):
    html = request.getfixturevalue(which).page
    marks = ("<h1>", "<nav", 'id="overview"', "<img ", 'id="findings"', 'id="numbers"', "<table>", 'id="doctor"',
             'id="training"', 'id="protocol"')  # fmt: skip
    places = [html.index(mark) for mark in marks]
    assert places == sorted(places)
    contents = re.findall(r'href="#([\w-]+)"', html[places[1] : html.index("</nav>")])
    sections = re.findall(r'<section id="([\w-]+)"', html)
    assert contents == sections and len(set(sections)) == len(sections), "all of it, in its order"


@pytest.mark.parametrize("which", quick(["report", "colour_report"], "report"))
def test_the_page_needs_nothing_but_itself(which, request):
    report = request.getfixturevalue(which)
    page = Page(report.page)
    assert page.attributes("src") and all(
        source.startswith("data:image/png;base64,") for source in page.attributes("src")
    )
    anchors = page.attributes("id")
    assert all(link[0] == "#" and link[1:] in anchors for link in page.attributes("href"))
    assert not {tag for tag, _ in page.tags} & {"link", "iframe", "object", "embed", "base"}
    assert "url(" not in report.page and "@import" not in report.page
    assert not [name for _, found in page.tags for name in found if name.startswith("on")]


def test_the_page_allows_its_own_script_and_no_other(report):
    html = report.page
    (policy,) = (tag["content"] for tag in Page(html)["meta"] if tag.get("http-equiv") == "Content-Security-Policy")
    allowed = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    assert allowed["default-src"] == "'none'" and allowed["img-src"] == "data:" and len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert allowed["script-src"] == f"'sha256-{digest}'"
    assert html.index("Content-Security-Policy") < html.index("<style>") < html.index("<script>")


@pytest.mark.parametrize("which", quick(["report", "colour_report"], "report"))
def test_every_picture_of_the_page_has_words_for_who_can_not_see_it(which, request):
    images = [image for image in Page(request.getfixturevalue(which).page)["img"] if image.get("class") != "dark"]
    assert images and all(len(image["alt"].split()) >= 3 for image in images)


def test_the_page_shows_every_figure_and_every_model(report):
    html = report.page
    for name in FIGURES:
        assert base64.b64encode((report.path / "figures" / f"{name}.png").read_bytes()).decode() in html, name
    images = [image for image in Page(html)["img"] if image.get("class") != "dark"]  # which lies over the one before
    assert len(images) == len(FIGURES)
    for label in COMPARED:
        assert label in html
    for entry in report.results["models"]:
        assert f"{entry['parameters']:,}" in html


def test_the_doctor_is_heard_on_every_model(report, npz):
    """What the page says is what the doctor says of the first run, its commands for that folder and this data."""
    found = report.results["doctor"]
    assert list(found) == COMPARED
    html = (report.path / "index.html").read_text()
    for name, label in zip(NAMES, COMPARED, strict=True):
        checks = {check["name"]: check for check in found[label]}
        assert checks["underfitting"]["wrong"], "one epoch was trained"
        assert checks["underfitting"]["cure"].startswith(
            f"vaekit train {name} --data {npz} --out {report.path}/runs/{name}-"
        )
        assert not checks["prior"]["wrong"], "a prior is fitted"
    assert html.count(", underfitting: ") == len(NAMES)
    assert "conditioning" in {check["name"] for check in found[MODELS["cvae"].label]}


@pytest.mark.slow
def test_colour_images_without_labels_are_compared(colour_report, colours):
    report = colour_report
    assert report.code == 0, report.err
    assert report.results["data"]["image_shape"] == [12, 10, 3] and report.results["data"]["classes"] == []
    with Image.open(report.path / "figures" / "reconstructions.png") as image:
        drawn = {colour for _, colour in image.convert("RGB").getcolors(2**24)}
    shown = np.rint(open_data(colours, "test").x * 255).astype(int).reshape(-1, 3)
    assert {tuple(colour) for colour in shown.tolist()} <= drawn


@pytest.mark.slow
def test_without_labels_conditional_models_are_left_out_and_it_says_so(colour_report):
    assert colour_report.names == ["vae", "bvae", "vqvae"]
    assert "no labels" in colour_report.out + colour_report.err
    assert not {"by_class.png", "samples_cvae.png"} & colour_report.figures
    assert not (colour_report.path / "runs" / "cvae-seed0").exists()


@pytest.mark.slow
def test_a_conditional_model_alone_is_compared(npz, tmp_path):
    assert_chosen(run(npz, tmp_path / "report", *QUICK, "--models", "cvae"), ["cvae"])


def assert_chosen(report: Report, models: list[str]) -> None:
    """It compares and shows `models` and no other."""
    assert report.code == 0, report.err
    assert report.names == models
    assert [name for name in NAMES if f"samples_{name}.png" in report.figures] == models
    assert ("by_class.png" in report.figures) == ("cvae" in models)
    assert ("codes.png" in report.figures) == ("vqvae" in models)
    assert {"manifold.png", "traversals.png"} <= report.figures or "vae" not in models


@pytest.mark.slow
def test_seeds_become_means_and_deviations(npz, tmp_path, undrawn, monkeypatch):
    monkeypatch.setattr("vaekit.report.compare.RUNS", 3)  # whole seeds only
    report = run(npz, tmp_path / "report", *QUICK, "--models", "vae,bvae", "--seeds", 2, "--random-state", 5)
    assert report.code == 0, report.err
    entries = report.results["models"]
    assert sorted((entry["name"], entry["seed"]) for entry in entries) == [
        ("bvae", 5), ("bvae", 6), ("vae", 5), ("vae", 6)
    ]  # fmt: skip
    elbos = [entry["elbo"] for entry in entries if entry["name"] == "vae"]
    assert elbos[0] != elbos[1]
    assert [(run["label"], run["seed"]) for run in living(report)["runs"]] == [("VAE", 5), ("beta-VAE", 5)]
    assert "Only the first 2 of 4 runs are here" in report.page
    mean, std = np.mean(elbos), np.std(elbos, ddof=1)
    words = f"{mean:,.2f} ± {std:,.2f}".replace("-", "\N{MINUS SIGN}")
    assert words in report.page and words in report.out


def test_an_architecture_and_epochs_are_for_all_models(report):
    for entry in report.results["models"]:
        model = load(report.path / "runs" / f"{entry['name']}-seed0")
        assert model.architecture == "mlp" and model.epochs == 1


# ---- the living figures


def living(report: Report) -> dict:
    """What the page's script reads."""
    (found,) = re.findall(r'<script type="application/json" id="living-data">(.*?)</script>', report.page, re.DOTALL)
    return json.loads(found)


def images_of(found: dict) -> np.ndarray:
    """A sprite -> (N, H, W, 3) uint8."""
    kind, content = found["src"].split(",", 1)
    assert kind == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as image:
        sheet = np.asarray(image.convert("RGB"))
    height, width, columns = found["height"], found["width"], found["columns"]
    cells = sheet.reshape(-1, height, columns, width, 3).swapaxes(1, 2).reshape(-1, height, width, 3)
    return cells[: found["count"]]


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_a_sprite_holds_its_images_pixel_by_pixel(data):
    shape = [data.draw(st.integers(1, most)) for most in (30, 12, 12)]
    x = np.random.default_rng(0).integers(0, 256, (*shape, data.draw(st.sampled_from([1, 3, 4]))), dtype=np.uint8)
    assert np.array_equal(images_of(sprite(x)), as_pixels(x))
    assert np.array_equal(images_of(sprite((x / 255).astype(np.float32))), as_pixels((x / 255).astype(np.float32)))


def test_large_images_are_brought_below_the_side_by_means_of_whole_blocks():
    x = np.random.default_rng(0).integers(0, 256, (3, 100, 130, 3), dtype=np.uint8)
    found = images_of(sprite(x, 64))
    assert found.shape == (3, 34, 44, 3)  # 130 / 64 is above 2
    assert np.array_equal(found[1, 3, 5], np.rint(x[1, 9:12, 15:18].mean((0, 1))))
    assert sprite(x[:, :64, :64], 64)["width"] == 64


@given(st.recursive(st.text() | st.integers() | st.booleans() | st.none(), lambda inner: st.lists(inner, max_size=4)))
def test_json_in_the_page_is_read_as_it_was_and_ends_no_script(value):
    text = embeddable([value, "</script><script>", "<!--", "\u2028"])
    assert json.loads(text) == [value, "</script><script>", "<!--", "\u2028"]
    assert text.isascii() and not set("<>&") & set(text)


def test_a_run_up_close_has_the_numbers_and_images_of_that_run(report, npz):
    test, found = open_data(npz, "test"), living(report)
    shown = images_of(found["inputs"]["sprite"])
    places = [np.flatnonzero((as_pixels(test.x) == image).all((1, 2, 3)))[0] for image in shown]
    assert found["inputs"]["names"] == [test.classes[label] for label in test.y[places]]
    for run, entry in zip(found["runs"], report.results["models"], strict=True):
        assert (run["label"], run["seed"]) == (entry["label"], entry["seed"])
        model = load(report.path / "runs" / f"{entry['name']}-seed0")
        names = np.asarray(test.classes)[test.y[places]] if model.conditional else None
        rebuilt = model.reconstruct(test.x[places], names)
        assert np.array_equal(images_of(run["rebuilt"]), as_pixels(rebuilt))
        assert run["errors"] == pytest.approx(
            np.square((rebuilt - test.x[places].astype(float)) / 255).mean((1, 2, 3)), abs=1e-6
        )
        assert np.array_equal(images_of(run["samples"]), as_pixels(model.sample(64, random_state=0)))
        assert ["parameters", f"{entry['parameters']:,}", ""] in run["numbers"]
        assert run["terms"]["distortion"] == pytest.approx(
            [record["distortion"] for record in model.history_], rel=1e-4
        )


def test_a_traversal_moves_one_latent_of_the_first_test_image(report, npz):
    test = open_data(npz, "test")
    for run, entry in zip(living(report)["runs"], report.results["models"], strict=True):
        if entry["name"] == "vqvae":
            assert run["traversal"] is None
            continue
        model = load(report.path / "runs" / f"{entry['name']}-seed0")
        found, kl = run["traversal"], np.asarray(entry["kl_per_latent"])
        assert found["latents"] == [latent + 1 for latent in np.argsort(-kl)]
        assert found["nats"] == pytest.approx(kl[np.argsort(-kl)], abs=1e-3)
        name = np.asarray(test.classes)[test.y[:1]] if model.conditional else None
        z = model.transform(test.x[:1], name)
        z[0, found["latents"][1] - 1] = found["values"][4]
        steps = len(found["values"])
        assert (
            np.abs(
                images_of(found["sprite"])[steps + 4] - as_pixels(model.inverse_transform(z, name)).astype(int)
            ).max()
            <= 1
        )
        still, *_ = traverse(model.fitted_, test, kl, 11)  # the still picture's images are among those
        living_ones = images_of(found["sprite"]).reshape(-1, steps, 8, 8, 3)[:, ::2]
        assert np.abs(as_pixels(still, dims=5).astype(int) - living_ones).max() <= 1


def test_a_map_has_the_test_images_where_they_lie_and_what_each_cell_decodes_to(report, npz):
    test, found = open_data(npz, "test"), living(report)
    assert (
        np.array_equal(images_of(found["points"]["sprite"]), as_pixels(test.x))
        and found["points"]["y"] == test.y.tolist()
    )
    for name, plane in zip(("vae", "bvae", "cvae"), found["maps"], strict=True):
        model = load(report.path / "runs" / f"{name}-d2")
        names = np.asarray(test.classes)[test.y] if model.conditional else None
        assert plane["z"] == pytest.approx(model.transform(test.x, names), abs=1e-3)
        (left, bottom), (right, top) = plane["low"], plane["high"]
        assert right - left == pytest.approx(top - bottom, abs=1e-3)
        inside = (plane["z"] >= np.array(plane["low"])).all(1) & (plane["z"] <= np.array(plane["high"])).all(1)
        assert inside.mean() > 0.9
        steps, row, column = plane["steps"], 2, 5
        z = [[left + (column + 0.5) / steps * (right - left), top - (row + 0.5) / steps * (top - bottom)]]
        assert plane["labels"] == (list("0123456789") if name == "cvae" else None)
        for label, decoded in zip(plane["labels"] or [None], plane["sprites"], strict=True):
            expected = as_pixels(model.inverse_transform(np.array(z), label))[0]
            assert np.abs(images_of(decoded)[row * steps + column] - expected.astype(int)).max() <= 1


@pytest.mark.slow
def test_colour_images_without_labels_have_living_figures_too(colour_report, colours):
    found = living(colour_report)
    assert found["inputs"]["names"] is None and found["points"]["y"] is None and len(found["classes"]) == 1
    assert [run["label"] for run in found["runs"]] == ["VAE", "beta-VAE", "VQ-VAE"]
    shown = images_of(found["points"]["sprite"])
    assert np.array_equal(shown, as_pixels(open_data(colours, "test").x)) and shown.shape[1:] == (12, 10, 3)


def test_a_table_can_be_sorted_by_its_numbers(report):
    cells = [tag for tag in Page(report.page)["td"] if "data-value" in tag]
    values = [float(cell["data-value"]) for cell in cells]
    assert all(entry["mse"] in values and entry["elbo"] in values for entry in report.results["models"])
    heads = {tag["data-better"] for tag in Page(report.page)["th"] if "data-better" in tag}
    assert heads == {"low", "high", ""}


# ---- going on, and what is refused


@pytest.mark.slow
def test_a_second_comparison_trains_nothing_and_finds_the_same_numbers(
    report, npz, tmp_path, untrained, undrawn, monkeypatch
):
    monkeypatch.setattr("vaekit.report.compare.LATENT_DIMS", LATENT_DIMS)
    monkeypatch.setattr("vaekit.report.compare.BETAS", BETAS)
    again = run(npz, shutil.copytree(report.path, tmp_path / "report"), *QUICK, "--sweeps")
    assert again.code == 0, again.err
    for part in ("models", "sweeps", "data"):
        assert again.results[part] == report.results[part]


@pytest.mark.slow
def test_an_interrupted_comparison_goes_on_where_it_was(report, npz, tmp_path, undrawn, monkeypatch):
    from vaekit.training.loop import train

    trained = []

    def interrupt_the_second(*arguments, title, **options):
        trained.append(title)
        if len(trained) == 2:
            raise KeyboardInterrupt
        return train(*arguments, title=title, **options)

    arguments = (npz, tmp_path / "report", *QUICK, "--models", "vae,bvae")
    with monkeypatch.context() as patch:
        patch.setattr("vaekit.training.course.train", interrupt_the_second)
        broken = run(*arguments)
    assert broken.code == 130 and "Traceback" not in broken.err
    assert not (broken.path / "index.html").exists() and not (broken.path / "results.json").exists()
    finished = broken.path / "runs" / "vae-seed0"
    before = {name: kept for name, kept in snapshot(finished).items() if name != "evaluation.json"}
    assert "weights.safetensors" in before

    whole = run(*arguments)
    assert whole.code == 0, whole.err
    assert {name: kept for name, kept in snapshot(finished).items() if name != "evaluation.json"} == before
    for mine, unbroken in zip(whole.results["models"], report.results["models"], strict=False):
        assert mine["name"] == unbroken["name"]
        assert [mine[key] for key in ("mse", "distortion", "rate")] == [
            unbroken[key] for key in ("mse", "distortion", "rate")
        ]


@pytest.mark.parametrize("change", [("--epochs", 2), ("--architecture", "conv")])
def test_other_settings_in_a_report_are_refused_and_nothing_is_lost(report, npz, untrained, change):
    before = snapshot(report.path)
    assert_refused(run(npz, report.path, *QUICK, *change), str(report.path / "runs"), "settings")
    assert snapshot(report.path) == before


def test_another_split_in_a_report_is_refused_since_its_models_saw_those_test_images(
    report, npz, tmp_path, own_cache, trainings, undrawn
):
    folder = shutil.copytree(report.path, tmp_path / "report")
    before = snapshot(folder)
    again = run(npz, folder, *QUICK, "--split-seed", 1)
    assert again.code == 2 and again.err.splitlines()[-1].startswith("vaekit: "), again
    assert snapshot(folder) == before


def test_other_data_in_a_report_is_refused_and_nothing_is_lost(report, colours):
    before = snapshot(report.path)
    assert_refused(run(colours, report.path, *QUICK), "other data")
    assert snapshot(report.path) == before


def test_a_table_is_refused(tmp_path):
    np.save(tmp_path / "table.npy", np.random.default_rng(0).normal(size=(50, 4)))
    assert_refused(run(tmp_path / "table.npy", tmp_path / "report", *QUICK), "table", "vaekit train")
    assert not (tmp_path / "report").exists()


def test_an_unknown_model_gets_the_nearest_name(npz, tmp_path):
    assert_refused(run(npz, tmp_path / "report", *QUICK, "--models", "vae,vqave"), "'vqave'", "did you mean 'vqvae'")
    assert not (tmp_path / "report").exists()


def test_only_conditional_models_without_labels_are_refused(colours, tmp_path):
    assert_refused(run(colours, tmp_path / "report", *QUICK, "--models", "cvae"), "labels")


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--models", "", "at least one model"),
        ("--models", ",", "at least one model"),
        ("--seeds", 0, "seeds must be a whole number > 0"),
        ("--seeds", -1, "seeds must be a whole number > 0"),
    ],
)
def test_a_comparison_of_nothing_is_refused(npz, tmp_path, flag, value, message):
    assert_refused(run(npz, tmp_path / "report", *QUICK, flag, value), message)
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize("arguments", [("--epochs", 0), ("--architecture", "nlp"), ("--random-state", -1)])
def test_values_that_make_no_sense_are_refused_before_anything_is_trained(
    npz, tmp_path, untrained, monkeypatch, arguments
):
    monkeypatch.setenv("VAEKIT_CACHE", str(tmp_path / "cache"))  # no judge yet
    report = run(npz, tmp_path / "report", *QUICK, *arguments)
    assert_refused(report, arguments[0].strip("-").replace("-", "_"))


def test_a_model_named_twice_is_compared_once(colours, tmp_path, undrawn):
    report = run(colours, tmp_path / "report", *QUICK, "--models", "vae,vae")
    assert report.code == 0 and report.names == ["vae"]


def test_from_python_it_returns_what_results_json_holds(report, npz, tmp_path, untrained, undrawn):
    said = []
    folder = shutil.copytree(report.path, tmp_path / "report")
    found = compare(
        str(npz), str(folder), models=["vae", "vqvae"], epochs=1, architecture="mlp", verbose=False, say=said.append
    )
    assert json.loads((folder / "results.json").read_text()) == json.loads(json.dumps(found))
    assert [entry["name"] for entry in found["models"]] == ["vae", "vqvae"]
    assert any("VQ-VAE" in line for line in said)


# ---- the judge


@pytest.fixture(scope="module")
def parts():
    """Training and test images of the digits."""
    return open_data("digits", "train"), open_data("digits", "test")


@pytest.fixture(scope="module")
def judged(parts, tmp_path_factory):
    """The digits' judge, its accuracy, and the cache that it was put into."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VAEKIT_CACHE", str(cache))
        return *get_judge(*parts), cache


@pytest.fixture
def small_parts(npz):
    return open_data(npz, "train"), open_data(npz, "test")


def files(cache: Path) -> list[Path]:
    """The judges in a cache, without its mark and locks."""
    return list(cache.rglob("*.safetensors"))


def test_the_judge_of_the_digits_is_right_about_95_of_100(judged, parts):
    judge, accuracy, _ = judged
    assert accuracy >= 0.95
    assert class_consistency(judge, parts[1].x, parts[1].y) == accuracy


def test_the_judge_sees_floats_and_bytes_alike(judged, parts):
    judge, accuracy, _ = judged
    assert class_consistency(judge, (parts[1].x / 255).astype(np.float32), parts[1].y) == accuracy


def test_shuffled_labels_are_judged_near_chance(judged, parts):
    shuffled = np.random.default_rng(0).permutation(parts[1].y)
    assert class_consistency(judged[0], parts[1].x, shuffled) == pytest.approx(0.1, abs=0.1)


def test_a_judge_is_trained_once(judged, parts, untrained, monkeypatch):
    judge, accuracy, cache = judged
    monkeypatch.setenv("VAEKIT_CACHE", str(cache))
    again, same = get_judge(*parts)
    images = torch.from_numpy(parts[1].x)
    assert same == accuracy and torch.equal(again.classify(images), judge.classify(images))


def test_other_data_and_other_splits_have_judges_of_their_own(small_parts, npz, own_cache, trainings, digits, tmp_path):
    get_judge(*small_parts)
    np.savez(tmp_path / "other.npz", x=255 - digits[0][:200], y=digits[1][:200])
    get_judge(open_data(tmp_path / "other.npz", "train"), open_data(tmp_path / "other.npz", "test"))
    # A judge that saw the test images in its training could not judge them.
    get_judge(open_data(npz, "train", split_seed=1), open_data(npz, "test", split_seed=1))
    assert len(trainings) == 3 and len(files(own_cache)) == 3
    get_judge(*small_parts)
    assert len(trainings) == 3


@pytest.mark.parametrize("damage", [lambda content: content[:100], lambda content: b"", lambda content: b"x" * 1000])
def test_a_damaged_judge_is_replaced(small_parts, own_cache, trainings, damage):
    _, accuracy = get_judge(*small_parts)
    (file,) = files(own_cache)
    whole, facts = read_tensors(file)
    file.write_bytes(damage(file.read_bytes()))
    assert get_judge(*small_parts)[1] == accuracy and len(trainings) == 2
    again, same = read_tensors(file)
    assert all(torch.equal(again[name], whole[name]) for name in whole) and same == facts and files(own_cache) == [file]
    assert get_judge(*small_parts)[1] == accuracy and len(trainings) == 2


def test_a_judge_does_not_disturb_the_callers_random_numbers(small_parts, own_cache, trainings):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    get_judge(*small_parts)
    get_judge(*small_parts)
    assert torch.equal(torch.rand(3), expected)


def test_a_judge_needs_labels(colours):
    with pytest.raises(ValueError, match="labels"):
        get_judge(open_data(colours, "train"), open_data(colours, "test"))


class TakesBrightForOne:
    """A judge by hand: bright images are of class 1, dark ones of class 0."""

    def classify(self, x: torch.Tensor) -> torch.Tensor:
        return (x.float().mean((1, 2, 3)) > 0.5).long()


@pytest.mark.parametrize("asked, share", [([0, 1, 1, 0], 1.0), ([0, 1, 0, 0], 0.75), ([1, 0, 0, 1], 0.0)])
def test_class_consistency_is_the_share_that_is_what_was_asked_for(asked, share):
    x = np.array([0.1, 0.9, 0.8, 0.2], np.float32).reshape(4, 1, 1, 1) * np.ones((4, 2, 2, 1), np.float32)
    assert class_consistency(TakesBrightForOne(), x, np.array(asked)) == share
    assert class_consistency(TakesBrightForOne(), torch.from_numpy(x), torch.tensor(asked)) == share
