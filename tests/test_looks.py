"""Pictures and pages whatever the names are and however many: no warnings, nothing cut off, what is left out is counted."""

import io
import logging
import warnings
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from PIL import Image

from tests.marks import quick
from vaekit import CVAE
from vaekit.cli import main, output
from vaekit.data import Images
from vaekit.data.splits import spread
from vaekit.pictures import fonts, planes, sheets
from vaekit.pictures.fonts import families, legible, shortened
from vaekit.pictures.style import CLASSES, DARK, SERIES, dark_colour, new_figure, on_dark, reduced, save
from vaekit.report.page import Picture, findings, summarise, write_page

RNG = np.random.default_rng(0)
NAMES = [
    "苹果", "さくら", "한국어", "قطة", "חתול", "हिन्दी", "แมว", "\N{CAT FACE}", "\N{WOMAN}\u200d\N{ROCKET}", "Кошка", "_hidden",
    "$x_1$ {a} %d \\ <b>&\"'", "long " * 40, "", " ", "new\nline", "tab\there", "\x00", "\ud800", "\ufe0f",
]  # fmt: skip


def images(*shape: int) -> np.ndarray:
    return RNG.random(shape)


def texts(figure) -> list:
    """What is written on a figure and seen, which ticks beyond the ends of an axis are not."""
    figure.canvas.draw()
    unseen = set()
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        ticks = [tick for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high]
        unseen |= {label for tick in ticks for label in (tick.label1, tick.label2)}
    found = figure.findobj(matplotlib.text.Text)
    return [text for text in found if text.get_text() and text.get_visible() and text not in unseen]


def words(figure) -> str:
    return "\n".join(text.get_text() for text in texts(figure))


def assert_nothing_is_cut_off(figure) -> None:
    for text in texts(figure):
        box = text.get_window_extent()
        inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= figure.bbox.width + 1 and box.y1 <= figure.bbox.height + 1
        assert inside, (text.get_text(), box, figure.bbox)


@pytest.fixture
def no_other_fonts(monkeypatch):
    """A system that has the house font alone."""
    monkeypatch.setattr(fonts, "_known", {})
    monkeypatch.setattr(fonts, "_more", [])
    monkeypatch.setattr(fonts, "_candidates", list)


# ---- names in any script


@settings(max_examples=12, deadline=None)
@given(st.text(max_size=12))
def test_any_text_is_drawn_without_a_word_from_matplotlib(name):
    logged = []
    handler = logging.Handler()
    handler.emit = logged.append
    logging.getLogger("matplotlib").addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", "names in pictures")  # our own line
            sheets.image_grid(images(1, 4, 4, 1), title=name).canvas.draw()
    finally:
        logging.getLogger("matplotlib").removeHandler(handler)
    assert not logged


@pytest.mark.slow
def test_every_figure_takes_any_names_and_cuts_none_off(tmp_path):
    n = len(NAMES)
    y = np.arange(40 * n) % n
    angle = 2 * np.pi * y / n
    z = 6 * np.stack([np.cos(angle), np.sin(angle)], 1) + 0.2 * RNG.normal(size=(len(y), 2))
    x = images(2, n, 6, 8, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "names in pictures")
        drawn = [
            sheets.by_class(x, NAMES, title=NAMES[0], chosen=x[0], chosen_title=shortened(NAMES[5])),
            sheets.labelled_rows({name: x[:, i] for i, name in enumerate(NAMES)}, title="all"),
            sheets.reconstructions(x[0], {"VAE": x[1]}, names=NAMES),
            planes.latent_space({"VAE": (z, y)}, NAMES),
        ]
        for figure in drawn:
            assert_nothing_is_cut_off(figure)


def test_names_that_the_house_font_writes_are_left_alone_and_look_for_no_font(no_other_fonts):
    for name in ("plain", "Кошка", "Ελλάδα", "été ±−…", "חתול", "قطة"):
        assert legible(name) == name
    assert legible({"a": [1, ("b", None)]}) == {"a": [1, ("b", None)]} and families() == ["DejaVu Sans"]


def test_what_no_font_has_is_written_in_words_and_said_once(no_other_fonts):
    with pytest.warns(UserWarning, match=r"2 characters .* \(Cjk\)"):
        assert legible(["苹果", {"a 苹": 1}]) == ["[U+82F9 679C]", {"a [U+82F9]": 1}]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert legible("果") == "[U+679C]"
        assert legible("a\nb\t\x00") == "a\\nb\\t\\x00" and legible("\ud800") == "\\ud800"
    with pytest.warns(UserWarning, match="Woman"):
        assert legible("\N{WOMAN}\u200d\N{ROCKET}") == "[woman]\u200d[rocket]"


def test_a_font_of_the_system_is_taken_where_the_house_font_lacks_a_letter(monkeypatch):
    from matplotlib.ft2font import FT2Font

    house = FT2Font(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf")).get_charmap()
    other = FT2Font(str(Path(matplotlib.get_data_path()) / "fonts/ttf/STIXGeneral.ttf")).get_charmap()
    letter = next(chr(code) for code in sorted(set(other) - set(house)) if chr(code).isprintable())
    monkeypatch.setattr(fonts, "_known", {})
    monkeypatch.setattr(fonts, "_more", [])
    monkeypatch.setattr(fonts, "_candidates", lambda: ["STIXGeneral"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = sheets.image_grid(images(1, 8, 8, 1), title=f"a {letter}")
        assert f"a {letter}" in words(figure) and families() == ["DejaVu Sans", "STIXGeneral"]


def test_a_long_name_keeps_its_beginning_and_end_and_an_empty_one_is_seen():
    name = shortened("the first of many " + "x" * 200 + " and the last")
    assert name.startswith("the first of many") and name.endswith("the last") and len(name) <= 33
    assert shortened("") == '""' and shortened(7) == "7" and shortened("short") == "short"


def test_names_of_clusters_lie_on_no_point_and_on_no_other_name():
    y = np.arange(2000) % 8
    angle = 2 * np.pi * y / 8
    z = 4 * np.stack([np.cos(angle), np.sin(angle)], 1) + 0.6 * RNG.normal(size=(2000, 2))
    figure = planes.latent_space({"VAE": (z, y)}, [f"class {i}" for i in range(8)])
    figure.canvas.draw()
    axes = figure.axes[0]
    boxes = [matplotlib.text.Text.get_window_extent(text) for text in axes.texts]
    places = axes.transData.transform(z)
    assert len(boxes) >= 5
    for index, box in enumerate(boxes):
        inside = (places > [box.x0, box.y0]).all(1) & (places < [box.x1, box.y1]).all(1)
        assert not inside.any(), axes.texts[index].get_text()
        assert not any(box.overlaps(other) for other in boxes[:index])


@pytest.mark.parametrize("n", quick([1, 20, 100], 1, 20))
def test_a_legend_of_any_length_is_seen_whole(n):
    y = np.arange(400) % n
    figure = planes.latent_space({"VAE": (RNG.normal(size=(400, 2)), y)}, [f"the kind of number {i}" for i in range(n)])
    figure.canvas.draw()
    box = figure.legends[0].get_window_extent()
    assert box.y0 >= 0 and box.y1 <= figure.bbox.height and box.x1 <= figure.bbox.width + 1
    assert figure.axes[0].get_window_extent().width > 300


def test_very_small_and_equal_places_fill_their_axes():
    small, equal = planes.latent_space(
        {"a": (1e-9 * RNG.normal(size=(50, 2)), None), "b": (np.ones((9, 2)), None)}
    ).axes
    assert 1e-9 < np.ptp(small.get_xlim()) < 2e-8 and equal.get_xlim() == (0, 2)


@pytest.mark.parametrize("shape", [(2, 2, 1), (512, 512, 3), (8, 200, 3), (200, 8, 1)])
def test_images_of_any_size_make_pictures_of_a_size_to_look_at(shape):
    x = images(3, *shape)
    for figure in (sheets.image_grid(x), sheets.labelled_rows({"a": x}), sheets.reconstructions(x, {"VAE": x})):
        assert max(figure.bbox.size) < 1000
        assert_nothing_is_cut_off(figure)


def test_large_images_are_reduced_by_means_of_blocks():
    pixels = np.zeros((1, 4, 6, 3), np.uint8)
    pixels[0, :2, :2] = 100
    assert reduced(pixels, 3).shape == (1, 2, 3, 3) and reduced(pixels, 3)[0, 0].max(1).tolist() == [100, 0, 0]
    assert reduced(pixels, 6) is pixels


# ---- examples over all classes, and what is left out


def labelled(counts: dict[str, int], shape=(4, 4, 1)) -> Images:
    y = np.repeat(np.arange(len(counts)), list(counts.values()))
    return Images(x=np.zeros((len(y), *shape), np.uint8), y=y, classes=tuple(counts), name="some")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=20), st.integers(1, 60))
def test_examples_are_of_all_classes_alike(counts, n):
    data = labelled({f"class {i:02}": count for i, count in enumerate(counts)})
    chosen = spread(data, n)
    assert len(chosen) == len(set(chosen)) == min(n, len(data)) and (chosen == spread(data, n)).all()
    found = np.bincount(data.y[chosen], minlength=len(counts))
    most = found.max()
    assert all(taken >= most - 1 or taken == there for taken, there in zip(found, counts, strict=True))


def test_few_examples_of_many_classes_are_from_the_first_to_the_last():
    data = labelled({f"class {i:02}": 5 for i in range(57)})
    assert data.y[spread(data, 3)].tolist() == [0, 28, 56]
    plain = Images(x=data.x, y=None, classes=(), name="plain")
    chosen = spread(plain, 20)
    assert len(set(chosen)) == 20 and (np.diff(chosen) > 0).all() and chosen.max() > 200


@pytest.mark.slow
def test_a_contact_sheet_counts_what_it_leaves_out(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("vaekit.pictures.style.save", lambda figure, path: drawn.append(figure))
    output.write_contact_sheet("sheet.png", labelled({f"class {i:03}": 2 for i in range(157)}))
    output.write_contact_sheet("sheet.png", labelled({f"class {i:02}": 2 for i in range(57)}))
    output.write_contact_sheet("sheet.png", labelled({"a": 2, "b": 30}))
    output.write_contact_sheet(
        "sheet.png", Images(x=np.zeros((1000, 4, 4, 1), np.uint8), y=None, classes=(), name="plain")
    )
    many, all_of_many, few, plain = map(words, drawn)
    assert "100 of 157 classes, 57 left out" in many and "class 000" in many and "class 156" in many
    assert "all 57 classes" in all_of_many and all(f"class {i:02}" in all_of_many for i in range(57))
    assert "all 2 classes; up to 10 images of each" in few and "64 of 1,000 images" in plain


def test_a_list_on_a_terminal_counts_what_it_leaves_out(capsys):
    output.print_table("data", {"classes": {f"c{i}": 3 for i in range(1000)}, "few": [1, 2]})
    printed = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "c0: 3" in printed and "c19: 3, and 980 more" in printed and "c20" not in printed and "1, 2" in printed


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, Path]:
    """A CVAE of three classes with names in three scripts, and its data, sorted by class."""
    folder = tmp_path_factory.mktemp("scripts")
    names = np.repeat(["plain", "苹果", "חתול"], 30)
    x = RNG.integers(0, 255, (90, 8, 8), dtype=np.uint8)
    np.savez(folder / "data.npz", x=x, y=names)
    CVAE(latent_dim=2, epochs=1, architecture="mlp", random_state=0).fit(x, names).save(folder / "run")
    return folder / "run", folder / "data.npz"


@pytest.fixture
def drawn(monkeypatch) -> list:
    figures_saved = []
    monkeypatch.setattr("vaekit.pictures.style.save", lambda figure, path: figures_saved.append(figure))
    return figures_saved


def command(*arguments) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        main([*map(str, arguments)])


def test_a_grid_of_samples_names_its_rows(run, drawn, tmp_path):
    folder, _ = run
    command("sample", folder, "--per-class", "-n", 3, "--out", tmp_path / "a.png")
    command("sample", folder, "-n", 40, "--random-state", 0, "--out", tmp_path / "b.png")
    command("sample", folder, "-n", 4, "--label", "plain", "--out", tmp_path / "c.png")
    for figure in drawn[:2]:
        assert [axes.get_yticklabels()[0].get_text() for axes in figure.axes] == legible(
            sorted(["plain", "苹果", "חתול"])
        )
    widths = {axes.get_images()[0].get_array().shape[1] for axes in drawn[0].axes}
    assert len(widths) == 1 and len(drawn[0].axes) == 3 and "class plain" in words(drawn[2])


def test_reconstructions_on_the_command_line_are_of_all_classes_and_say_which(run, drawn, tmp_path, capsys):
    folder, data = run
    command("reconstruct", folder, "--data", data, "--split", "all", "-n", 6, "--out", tmp_path / "r.png")
    headings = [tick.get_text() for tick in drawn[0].axes[0].get_xticklabels()]
    assert (
        sorted(headings) == sorted(2 * legible(["plain", "苹果", "חתול"]))
        and "6 reconstructions" in capsys.readouterr().out
    )
    command("reconstruct", folder, "--data", data, "--split", "all", "-n", 3, "--out", tmp_path / "r.npy")
    assert np.load(tmp_path / "r.npy").shape == (3, 8, 8)


# ---- on a dark page


def luminance(colour) -> float:
    channels = np.asarray(colour, float)
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4) @ [
        0.2126,
        0.7152,
        0.0722,
    ]


def contrast(one, other) -> float:
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def test_classes_stand_out_from_a_dark_ground_and_from_each_other():
    dark = [to_rgb(dark_colour(colour)) for colour in CLASSES]
    assert min(contrast(colour, to_rgb(DARK[0])) for colour in dark) >= 3
    assert min(np.abs(np.subtract(a, b)).sum() for i, a in enumerate(dark) for b in dark[:i]) > 0.2


def test_saving_keeps_every_pixel_whether_or_not_the_colours_fit_a_palette(tmp_path):
    for shape in ((3, 9, 7, 1), (3, 40, 40, 3)):
        figure = sheets.image_grid(images(*shape), title="title")
        path = save(figure, tmp_path / "a.png")
        assert np.array_equal(Image.open(path).convert("RGB"), np.asarray(figure.canvas.buffer_rgba())[..., :3])


@pytest.mark.parametrize("channels", [1, 3])
def test_on_a_dark_page_images_show_through_and_all_else_turns_dark(tmp_path, channels):
    x = images(5, 9, 7, channels)
    figure = sheets.image_grid(x, columns=2, title="title")
    path = save(figure, tmp_path / "grid.png")
    (tmp_path / "dark.png").write_bytes(on_dark(figure, path))
    light = Image.open(path).convert("RGB")
    dark = Image.open(tmp_path / "dark.png").convert("RGBA")
    opacity = np.asarray(dark)[..., 3]
    assert dark.size == light.size and set(np.unique(opacity)) == {0, 255}
    ground = np.rint(np.array(to_rgb(DARK[0])) * 255)
    assert (np.asarray(dark)[0, 0, :3] == ground).all()
    # as many pixels show through as the five images have, and the sixth place is ground
    assert (opacity == 0).sum() == 5 * 9 * 7 * round(76 / 9) ** 2
    ink = np.asarray(dark)[:34, :, :3][opacity[:34] == 255]
    assert ink.max() > 220, "the title is light"
    over = Image.alpha_composite(light.convert("RGBA"), dark).convert("RGB")
    assert np.array_equal(np.asarray(over)[opacity == 0], np.asarray(light)[opacity == 0])


def test_a_plot_on_a_dark_page_has_no_hole_and_keeps_its_hues(tmp_path):
    figure = planes.latent_space({"VAE": (RNG.normal(size=(300, 2)), None)})
    path = save(figure, tmp_path / "plot.png")
    (tmp_path / "dark.png").write_bytes(on_dark(figure, path))
    dark = np.asarray(Image.open(tmp_path / "dark.png").convert("RGBA")).astype(int)
    assert (dark[..., 3] == 255).all() and np.median(dark[..., :3]) < 40
    blue = dark[..., 2] - dark[..., 0]
    assert blue.max() > 80 and blue.min() > -40


# ---- what the tables and sentences claim


def entry(label: str, seed: int, **more) -> dict:
    return {
        "name": label.lower(), "label": label, "seed": seed, "likelihood": "Bernoulli", "parameters": 1000, "seconds": 10.0,
        "images_per_second": 500.0, "mse": 0.01, "distortion": 95.0, "rate": 5.0, "elbo": -100.0, **more,
    }  # fmt: skip


def stars(entries: list[dict]) -> set[tuple[str, str]]:
    (rows,) = summarise(entries).values()
    return {(row.label, key) for row in rows for key, cell in row.cells.items() if cell.best}


def test_what_is_printed_alike_gets_no_star():
    alike = [entry("A", 0, mse=0.012341), entry("B", 0, mse=0.012343), entry("C", 0, mse=0.02)]
    assert not {label for label, key in stars(alike) if key == "mse"}
    assert ("A", "mse") in stars([*alike[:1], entry("B", 0, mse=0.01240), alike[2]])


def test_the_time_of_a_single_run_is_no_finding_and_gets_no_star():
    single = [entry("A", 0, seconds=1.0, images_per_second=9e3), entry("B", 0, seconds=60.0)]
    assert not {key for _, key in stars(single)} & {"seconds", "images_per_second"}
    assert "least time" not in " ".join(findings(single))
    several = [
        entry("A", 0, seconds=1.0),
        entry("A", 1, seconds=1.1),
        entry("B", 0, seconds=60.0),
        entry("B", 1, seconds=61.0),
    ]
    assert ("A", "seconds") in stars(several) and "A trained in the least time" in " ".join(findings(several))
    close = [
        entry("A", 0, seconds=50.0),
        entry("A", 1, seconds=70.0),
        entry("B", 0, seconds=55.0),
        entry("B", 1, seconds=71.0),
    ]
    assert "least time" not in " ".join(findings(close))


def test_findings_of_one_seed_say_so_and_ties_share_the_first_place():
    said = findings([entry("A", 0, elbo=-90.0), entry("B", 0)])
    assert said[0].startswith("One seed is one draw") and "A and B reconstruct best, level: test MSE" in said[1]
    assert any("Highest ELBO under Bernoulli: A, \N{MINUS SIGN}90.00" in sentence for sentence in said)
    spread_out = [
        entry("A", 0, elbo=-90.0),
        entry("A", 1, elbo=-94.0),
        entry("B", 0, elbo=-91.0),
        entry("B", 1, elbo=-96.0),
    ]
    said = " ".join(findings(spread_out))
    assert "One seed" not in said and "A and B, level within the spread of the seeds" in said
    three = findings([entry(label, 0, parameters=1000 + (label == "D")) for label in "ABCD"])
    assert any("Fewest parameters: A, B and C (1,000)" in sentence for sentence in three)
    assert not any("Fewest parameters" in sentence for sentence in findings([entry("A", 0), entry("B", 0)]))


def test_latents_of_a_model_that_is_given_the_class_are_not_praised_for_telling_it():
    told = entry("C", 0, probe_accuracy=1.0, likelihood="Bernoulli, label given")
    said = " ".join(findings([entry("A", 0, probe_accuracy=0.8), entry("B", 0, probe_accuracy=0.7), told]))
    assert "best from the latents of A: 80.0%" in said


def test_the_page_holds_what_lies_over_a_figure_in_the_dark(tmp_path):
    figure = sheets.image_grid(images(4, 8, 8, 1))
    file = save(figure, tmp_path / "a.png")
    data = {
        "name": "d",
        "fingerprint": "f",
        "train": 9,
        "test": 9,
        "image_shape": [8, 8, 1],
        "classes": [],
        "split_seed": 0,
    }
    protocol = {"command": "vaekit compare", "seeds": 1, "notes": [], "models": {}}
    results = {"data": data, "protocol": protocol, "models": [entry("A", 0)]}
    page = write_page(
        tmp_path / "index.html", results, [Picture(file, "t", "x", "words", on_dark(figure, file))]
    ).read_text()
    assert page.count('<img class="dark"') == 1 and 'alt="" aria-hidden="true"' in page
    assert page.count("<img ") == 2 and page.count('alt="words"') == 1


def test_every_colour_of_the_palettes_is_seen_on_a_dark_ground(tmp_path):
    """A contrast of 3 to 1 at least, as WCAG 2 asks of marks (success criterion 1.4.11)."""
    colours = [*SERIES, *CLASSES]
    figure = new_figure(4, 1, layout=None)
    width = 1 / len(colours)
    for place, colour in enumerate(colours):
        figure.add_artist(Rectangle((place * width, 0), width, 1, color=colour))
    over = Image.open(io.BytesIO(on_dark(figure, save(figure, tmp_path / "x.png")))).convert("RGB")

    def luminance(rgb) -> float:
        parts = np.asarray(rgb) / 255
        parts = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(parts @ [0.2126, 0.7152, 0.0722])

    ground = luminance(np.array(to_rgb(DARK[0])) * 255)
    for place, colour in enumerate(colours):
        seen = over.getpixel((round((place + 0.5) * width * over.width), over.height // 2))
        assert (luminance(seen) + 0.05) / (ground + 0.05) > 3, colour
