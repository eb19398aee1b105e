"""Pictures and the report page: what a reader sees of them, from arrays and a results dict made here."""

import base64
import struct
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from vaekit.pictures import charts, planes, sheets
from vaekit.pictures.style import GUTTER, as_pixels, save, text_width, tile
from vaekit.report.page import Picture, findings, summarise, used_columns, write_page

RNG = np.random.default_rng(0)


def images(*shape: int) -> np.ndarray:
    return RNG.random(shape)


def texts(figure: Figure) -> str:
    """All that is written on a figure, in its axes, titles and legends."""
    figure.draw_without_rendering()
    written = [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_visible()]
    return "\n".join(written)


def pixels(figure: Figure) -> np.ndarray:
    """(h, w, 3) uint8: what a reader sees."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3]


def history(epochs: int, **terms: float) -> list[dict]:
    return [
        {"epoch": e, "step": e, "learning_rate": 1e-3, "seconds": 1.0, **{k: v / e for k, v in terms.items()}}
        for e in range(1, epochs + 1)
    ]


def test_every_pixel_of_an_image_is_a_square_of_whole_pixels():
    image = images(1, 9, 7, 3)
    seen = pixels(sheets.image_grid(image))
    scale = round(76 / 9)  # of the longer side
    expected = tile(as_pixels(image)[None], scale)[..., :3]
    height, width = expected.shape[:2]
    places = [(i, j) for i in range(24) for j in range(24)]
    assert any(np.array_equal(seen[i : i + height, j : j + width], expected) for i, j in places)


def test_tile_puts_images_row_by_row_with_transparent_gutters():
    sheet = tile(as_pixels(np.arange(4, dtype=np.uint8).reshape(2, 2, 1, 1, 1), dims=5), scale=2)
    assert sheet.shape == (4 + GUTTER, 4 + GUTTER, 4)
    assert sheet[0, 0, 0] == 0 and sheet[0, -1, 0] == 1 and sheet[-1, 0, 0] == 2 and sheet[-1, -1, 0] == 3
    assert (sheet[2 : 2 + GUTTER, :, 3] == 0).all() and sheet[..., 3].sum() == 4 * 2 * 2 * 255


def test_transparent_pixels_are_drawn_over_white():
    assert as_pixels(np.array([0, 0, 0, 0], np.uint8).reshape(1, 1, 1, 4)).tolist() == [[[[255, 255, 255]]]]


def test_floats_are_brought_to_8_bits_and_those_outside_of_0_and_1_are_cut():
    floats = np.array([-0.5, 0.0, 0.5, 1.0, 1.7]).reshape(1, 1, 5, 1)
    assert as_pixels(floats)[0, 0, :, 0].tolist() == [0, 0, 128, 255, 255]


@pytest.mark.parametrize("count, channels", [(1, 1), (11, 3), (64, 4)])
def test_image_grid_takes_any_number_and_colour(count, channels):
    assert "sheet of" in texts(sheets.image_grid(images(count, 8, 8, channels), columns=8, title="sheet of samples"))


@pytest.mark.parametrize("bad", [images(4, 8, 8), images(0, 8, 8, 1), images(4, 8, 8, 2)])
def test_images_of_a_wrong_shape_are_refused_with_their_shape(bad):
    with pytest.raises(ValueError, match=r"images must be \(N, H, W, C\)"):
        sheets.image_grid(bad)


def test_images_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="images must be finite"):
        sheets.image_grid(np.full((1, 8, 8, 1), np.nan))


def test_training_curves_have_a_panel_per_term_and_leave_bookkeeping_out():
    vae = history(4, objective=-300.0, distortion=-320.0, rate=20.0)
    vq = history(4, objective=-600.0, distortion=-900.0, rate=300.0, commitment=0.2)
    figure = charts.training_curves({"VAE": vae, "VQ-VAE": vq})
    written = texts(figure)
    drawn = [axes for axes in figure.axes if axes.get_visible()]
    assert len(drawn) == 7 and all(len(axes.lines) == 1 for axes in drawn)
    assert "VQ-VAE" in written and "rate\n(nats)" in written and "learning" not in written
    assert drawn[0].lines[0].get_ydata()[-1] == -75


def test_training_curves_of_one_epoch_with_validation_show_both():
    figure = charts.training_curves({"VAE": history(1, objective=5.0, validation_objective=6.0)})
    assert [line.get_ydata()[0] for line in figure.axes[0].lines] == [5, 6]


def test_training_curves_without_an_epoch_are_refused():
    with pytest.raises(ValueError, match="at least one epoch"):
        charts.training_curves({"VAE": []})


def test_curve_draws_a_panel_per_series_even_of_one_constant_value():
    figure = charts.curve([2, 4], {"distortion": [1.0, 1.0], "rate": [3, 4]}, xlabel="d", ylabel="nats", title="t")
    assert len(figure.axes) == 2 and figure.axes[1].lines[0].get_ydata().tolist() == [3, 4]
    with pytest.raises(ValueError, match="'rate' must have a value per x"):
        charts.curve([2, 4], {"rate": [1]}, xlabel="", ylabel="", title="")


def test_latent_space_tells_thirty_classes_apart():
    y = np.arange(300) % 30
    figure = planes.latent_space({"VAE": (RNG.normal(size=(300, 2)), y)}, [f"kind {i}" for i in range(30)])
    legend = figure.legends[0].legend_handles
    looks = {(h.get_marker(), matplotlib.colors.to_hex(h.get_color())) for h in legend}
    assert len(legend) == len(looks) == 30


def test_latent_space_names_clusters_and_leaves_a_heap_unnamed():
    y = np.arange(4000) % 4
    corners = np.array([[0, 0], [9, 0], [0, 9], [9, 9]])
    noise = RNG.normal(size=(4000, 2))
    spaces = {"apart": (corners[y] + noise, y), "heap": (noise, y)}
    apart, heap = planes.latent_space(spaces, ["a", "b", "c", "d"]).axes
    assert [text.get_text() for text in apart.texts] == ["a", "b", "c", "d"] and not heap.texts


def test_latent_space_has_one_scale_for_both_axes_and_takes_no_labels():
    figure = planes.latent_space({"VAE": (RNG.normal(size=(50, 2)) * [1, 9], None)})
    axes = figure.axes[0]
    assert np.ptp(axes.get_xlim()) == pytest.approx(np.ptp(axes.get_ylim())) and axes.get_box_aspect() == 1
    assert not figure.legends


def test_latent_space_refuses_labels_without_a_class():
    with pytest.raises(ValueError, match="labels of 'VAE'"):
        planes.latent_space({"VAE": (images(5, 2), np.arange(5))}, ["only one"])


def test_manifold_has_high_z2_on_top_and_ticks_at_the_values():
    axes = planes.manifold(images(5, 5, 8, 8, 1), -2, 2).axes[0]
    where = dict(zip([t.get_text() for t in axes.get_yticklabels()], axes.get_yticks(), strict=True))
    assert where["2.0"] < where["0.0"] < where["\N{MINUS SIGN}2.0"]
    cell = axes.get_images()[0].get_extent()[1] / 5
    assert where["2.0"] == pytest.approx(cell / 2) and where["0.0"] == pytest.approx(2.5 * cell)


def test_manifold_of_one_image_is_drawn():
    assert "0.0" in texts(planes.manifold(images(1, 1, 8, 8, 3), -2, 2))


def test_traversals_label_rows_by_latent_and_nats():
    panel = (images(2, 5, 8, 8, 1), np.array([2.1, 0.02]), np.array([2, 0]), np.linspace(-2, 2, 5))
    written = texts(sheets.traversals({"VAE": panel, "beta-VAE": panel}))
    assert written.count("z3  2.10 nats") == 2 and "z1  0.02 nats" in written and "\N{MINUS SIGN}2.0" in written


def test_traversals_of_one_latent_are_drawn_and_wrong_counts_refused():
    one = (images(1, 3, 28, 28, 3), [1.0], [0], [-1, 0, 1])
    assert "z1  1.00 nats" in texts(sheets.traversals({"VAE": one}))
    with pytest.raises(ValueError, match="'VAE': 1 rows and 3 columns of images, but 2 KLs"):
        sheets.traversals({"VAE": (one[0], [1.0, 2.0], [0], [-1, 0, 1])})


def test_by_class_writes_whole_names_even_with_dollars():
    classes = [f"Ankle ${i}$ boot" for i in range(30)]
    figure = sheets.by_class(images(2, 30, 8, 8, 1), classes, title="all")
    pixels(figure)  # a dollar sign must not be read as mathematics
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == classes
    with pytest.raises(ValueError, match=r"a column per class \(30\), got 10"):
        sheets.by_class(images(2, 10, 8, 8, 1), classes, title="all")


def test_reconstructions_carry_the_mse_shown_and_nothing_is_cut_off():
    truth = np.zeros((3, 8, 8, 3))
    figure = sheets.reconstructions(truth, {"a model with a long name": truth + 0.2, "same": truth})
    assert "MSE 0.0400" in texts(figure) and "MSE 0.0000" in texts(figure)
    for text in figure.findobj(matplotlib.text.Text):
        box = text.get_window_extent()
        if text.get_text() and text.get_visible():
            assert box.x0 >= 0 and box.x1 <= figure.bbox.width, text.get_text()


def test_reconstructions_of_one_image_without_errors_are_drawn():
    truth = images(1, 28, 28, 1)
    assert "MSE 0.0000" in texts(sheets.reconstructions(truth, {"perfect": truth}))
    with pytest.raises(ValueError, match="of 'VAE' must be"):
        sheets.reconstructions(truth, {"VAE": images(2, 28, 28, 1)})


def heads(axes) -> list[str]:
    """What is written above the columns of a sheet."""
    return [tick.get_text() for tick in axes.get_xticklabels()]


@pytest.mark.parametrize("asked", [True, False])
def test_an_overview_has_inputs_on_top_and_a_models_samples_beside_its_reconstructions(asked):
    x, names = images(4, 6, 9, 3), ["a", "b", "c", "a long name"]
    models = {name: (images(4, 6, 9, 3), images(4, 6, 9, 3)) for name in ("VAE", "VQ-VAE")}
    figure = sheets.overview(x, models, names=names, asked=asked)
    left, right = figure.axes
    assert [tick.get_text() for tick in left.get_yticklabels()] == ["input", "VAE", "VQ-VAE"]
    assert heads(left) == names and heads(right) == (names if asked else [])
    assert ("of the same classes" in texts(figure)) == asked
    scale = round(76 / 9)
    columns = [as_pixels(np.stack([x, *(pair[0] for pair in models.values())]), dims=5)]
    columns.append(as_pixels(np.stack([pair[1] for pair in models.values()]), dims=5))
    for axes, expected in zip((left, right), columns, strict=True):
        assert np.array_equal(axes.get_images()[0].get_array(), tile(expected, scale))
    boxes = [axes.get_window_extent() for axes in (left, right)]
    assert boxes[0].y0 == pytest.approx(boxes[1].y0), "a model's rows are level"
    assert boxes[0].x1 < boxes[1].x0


def test_an_overview_of_one_model_without_names_is_drawn_and_unequal_numbers_are_refused():
    x = images(3, 8, 8, 1)
    assert "samples" in texts(sheets.overview(x, {"VAE": (x, x)}))
    with pytest.raises(ValueError, match="as many images of 'VAE' as originals, 3"):
        sheets.overview(x, {"VAE": (x, x[:2])})


def test_columns_of_labelled_rows_and_of_codes_are_named():
    x, names = images(3, 8, 8, 1), ["one", "two", "three"]
    figure = sheets.labelled_rows({"first": x, "second": x}, title="rows", names=names)
    assert [heads(axes) for axes in figure.axes] == [names, []] and "rows" in texts(figure)
    codes = sheets.codes(x, x, np.zeros((3, 2, 2), int), np.array([12, 0]), names=names)
    assert heads(codes.axes[0]) == names and not heads(codes.axes[1])


def test_codes_state_usage_and_perplexity():
    shown, maps = images(2, 8, 8, 1), np.array([[[0, 1]], [[2, 1]]])
    figure = sheets.codes(shown, shown, maps, np.array([10, 10, 10, 10, 0]))
    assert "4 of 5 codes in use (80%), perplexity 4.0" in texts(figure)
    bars = [patch.get_height() for patch in figure.axes[-1].patches]
    assert bars == pytest.approx([25, 25, 25, 25, 0])
    with pytest.raises(ValueError, match="K above the largest code"):
        sheets.codes(shown, shown, maps, np.array([1, 1]))


def test_a_callers_matplotlib_settings_stay_as_they_were():
    before = dict(matplotlib.rcParams)
    charts.curve([1], {"a": [1]}, xlabel="", ylabel="", title="")
    assert dict(matplotlib.rcParams) == before


def test_save_writes_a_png_of_the_figures_size_and_leaves_nothing_else(tmp_path):
    figure = sheets.image_grid(images(4, 8, 8, 1))
    path = save(figure, tmp_path / "deep" / "grid.png")
    assert struct.unpack(">II", path.read_bytes()[16:24]) == tuple(figure.bbox.size.astype(int))
    assert [p.name for p in path.parent.iterdir()] == ["grid.png"]


def test_longer_text_is_wider():
    assert 0 == text_width([""]) < text_width(["ab"]) < text_width(["ab", "abc\nabcd"])


# ---- the page


def entry(label: str, seed: int, elbo: float, likelihood: str = "Bernoulli", **more) -> dict:
    return {
        "name": label.lower(), "label": label, "seed": seed, "likelihood": likelihood, "parameters": 1000,
        "seconds": 10.0, "images_per_second": 500.0, "mse": 0.01,
        "distortion": -elbo - 5, "rate": 5.0, "elbo": elbo, **more,
    }  # fmt: skip


ENTRIES = [
    entry("VAE", 0, -100.0, seconds=8.0),
    entry("VAE", 1, -104.0, seconds=8.0),
    entry("VQ-VAE", 0, -90.0, mse=0.004, active_units=3),
    entry("VQ-VAE", 1, -91.0, mse=0.006),
    entry("wide", 0, -1.0, likelihood="Gaussian"),
]


def test_means_and_sample_deviations_are_right_by_hand():
    rows = {row.label: row for row in summarise(ENTRIES)["Bernoulli"]}
    assert rows["VAE"].cells["elbo"].mean == -102 and rows["VAE"].cells["elbo"].std == pytest.approx(8**0.5)
    assert rows["VAE"].cells["elbo"].text == "\N{MINUS SIGN}102.00 ± 2.83" and rows["VAE"].seeds == 2
    assert rows["VQ-VAE"].cells["active_units"].mean == 3  # a number that one seed lacks


def test_one_seed_shows_no_deviation():
    cell = summarise([entry("VAE", 0, -100.0)])["Bernoulli"][0].cells["elbo"]
    assert cell.std is None and "±" not in cell.text


def test_the_best_of_each_likelihood_is_marked_and_a_rate_never_is():
    groups = summarise(ENTRIES)
    best = {(row.label, key) for rows in groups.values() for row in rows for key, c in row.cells.items() if c.best}
    assert ("VQ-VAE", "elbo") in best and ("VAE", "seconds") in best and ("VQ-VAE", "mse") in best
    assert not any(label == "wide" or key == "rate" for label, key in best)


def test_findings_follow_the_numbers():
    said = " ".join(findings(ENTRIES))
    assert "VQ-VAE reconstructs best" in said and "50% below" in said and "VAE trained in the least time" in said
    assert "wide reconstructs best" in " ".join(findings([*ENTRIES[:4], {**ENTRIES[4], "mse": 0.001}]))


def test_columns_appear_when_there_is_a_number_for_them():
    assert "bits_per_dim" not in [c.key for c in used_columns(ENTRIES)]
    assert "bits_per_dim" in [c.key for c in used_columns([{**ENTRIES[0], "bits_per_dim": 1.2}])]


class Page(HTMLParser):
    """Collects images, visible words and tags, and fails on a tag closed out of turn."""

    def __init__(self, html: str):
        super().__init__()
        self.open, self.images, self.words, self.tags, self.links = [], [], [], set(), []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        found = dict(attributes)
        self.links += [found[key] for key in ("href", "src") if key in found]
        if tag == "img":
            self.images.append(found)
        if tag not in ("img", "meta", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture
def page(tmp_path):
    pictures = []
    for name in ("training", "samples"):
        file = save(sheets.image_grid(images(4, 8, 8, 1)), tmp_path / f"{name}.png")
        pictures.append(Picture(file, f"{name} <b>title</b>", f"look at {name}", f'"{name}" alt & more'))
    data = {
        "name": "<script>evil()</script>", "fingerprint": "f00d", "train": 1437, "test": 180,
        "image_shape": [8, 8, 1], "classes": ["<i>0"], "split_seed": 0,
    }  # fmt: skip
    protocol = {
        "command": "vaekit compare --data digits", "vaekit": "0.1.0", "torch": "2.13.0", "seeds": 2,
        "notes": ["a note"], "models": {"VAE<u>": {"latent_dim": 10, "classes": "</details>"}},
    }  # fmt: skip
    path = write_page(tmp_path / "index.html", {"data": data, "protocol": protocol, "models": ENTRIES}, pictures)
    return Page(path.read_text()), pictures


def test_the_page_holds_every_picture_with_its_alt_text_and_size(page):
    html, pictures = page
    assert [image["alt"] for image in html.images] == [picture.alt for picture in pictures]
    for image, picture in zip(html.images, pictures, strict=True):
        head, content = image["src"].split(",")
        assert head == "data:image/png;base64" and base64.b64decode(content) == picture.file.read_bytes()
        assert (int(image["width"]), int(image["height"])) == struct.unpack(">II", picture.file.read_bytes()[16:24])


def test_the_page_fetches_nothing_and_runs_nothing(page):
    html, _ = page
    assert all(link.startswith(("data:", "#")) for link in html.links)
    assert "script" not in html.tags


def test_hostile_names_are_shown_as_they_are(page):
    html, _ = page
    assert not {"b", "i", "u"} & html.tags
    words = "".join(html.words)
    assert "<script>evil()</script>" in words and "VAE<u>" in words and "training <b>title</b>" in words


def test_the_page_has_table_protocol_and_notes(page):
    words = " ".join("".join(page[0].words).split())
    for expected in ("likelihood: Bernoulli", "likelihood: Gaussian", "\N{MINUS SIGN}102.00 ± 2.83", "a note",
                     "vaekit compare --data digits", '"latent_dim": 10', "f00d"):  # fmt: skip
        assert expected in words


def test_rate_and_distortion_marks_every_run_between_lines_of_equal_elbo():
    figure = charts.rate_distortion({"VAE": [(10.0, 80.0), (11.0, 79.0)], "VQ-VAE": [(60.0, 20.0)]})
    axes = figure.axes[0]
    marks = {line.get_label(): line.get_xydata() for line in axes.lines if not line.get_label().startswith("_")}
    np.testing.assert_array_equal(marks["VAE"], [(10, 80), (11, 79)])
    np.testing.assert_array_equal(marks["VQ-VAE"], [(60, 20)])
    lines = [line.get_xydata() for line in axes.lines if line.get_label().startswith("_")]
    assert len(lines) >= 3
    for ends in lines:
        assert ends[0].sum() == pytest.approx(ends[1].sum())  # rate + distortion is -ELBO
    assert "nats" in axes.get_xlabel() and "nats" in axes.get_ylabel()
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    assert all(left < x < right and bottom < y < top for points in marks.values() for x, y in points)
