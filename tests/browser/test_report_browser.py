"""The living report as its reader meets it: a file, opened in a real browser, with pointer, keyboard, paper and no scripts."""

import base64
import contextlib
import io
import json
import re
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from vaekit.data import open_data
from vaekit.files import load
from vaekit.pictures.style import as_pixels
from vaekit.report.compare import compare

EVIL = '</script><script>window.evil = "by script"</script>'
NAMES = ["0 <b>bold</b>", f"1 {EVIL}", '2 "quoted" & \'more\'', "3 \u2028 \N{SNOWMAN}", "4 <img src=x onerror='window.evil=1'>",
         "5 {{ 5 }}", "6 <!--", "7 \\u003c", "8", "9"]  # fmt: skip


class Report(NamedTuple):
    path: Path
    data: Path

    @property
    def url(self) -> str:
        return (self.path / "index.html").as_uri()

    @property
    def entries(self) -> list[dict]:
        return json.loads((self.path / "results.json").read_text())["models"]

    def run(self, name: str):
        return load(self.path / "runs" / name)

    @property
    def test(self):
        return open_data(self.data, "test")


@pytest.fixture(scope="module")
def report(digits, tmp_path_factory) -> Report:
    """Three models, two seeds, and class names that would like to be more than names."""
    folder = tmp_path_factory.mktemp("living")
    np.savez(folder / "digits.npz", x=digits[0][:300], y=np.array(NAMES)[digits[1][:300]])
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compare(
            str(folder / "digits.npz"), str(folder / "report"), models=("vae", "cvae", "vqvae"), seeds=2, epochs=40,
            architecture="mlp", priors=False, verbose=False, say=lambda line: None,
        )  # fmt: skip
    return Report(folder / "report", folder / "digits.npz")


@pytest.fixture
def opened(browser, report):
    """open(**context) -> the page; at the end nothing may have been complained of or asked for, but the file itself."""
    contexts, complaints, requests = [], [], []

    def open_page(**options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(report.url)
        if options.get("java_script_enabled", True):
            settle(page)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
    assert {url for url in requests if not url.startswith("data:")} == {report.url}


def settle(page) -> None:
    """Waits until every canvas shows what it was asked to show.

    Sprites are read in the background, and a page hears of another scheme or width in its next frame.
    """
    page.evaluate(
        """async () => {
          for (let frame = 0; frame < 2; frame++) await new Promise(requestAnimationFrame);
          const waiting = () => [...document.querySelectorAll("canvas")].some((canvas) => canvas.turn);
          do await new Promise((done) => setTimeout(done, 20)); while (waiting());
        }"""
    )


def pixels(canvas) -> np.ndarray:
    """(H, W, 3) uint8 of a canvas element."""
    content = canvas.evaluate("(it) => it.toDataURL()").partition(",")[2]
    with Image.open(io.BytesIO(base64.b64decode(content))) as image:
        return np.asarray(image.convert("RGB"))


def numbers(text: str) -> list[float]:
    return [float(found) for found in re.findall(r"[-+]?\d+\.\d+", text.replace("\N{MINUS SIGN}", "-"))]


def same(shown: np.ndarray, image: np.ndarray, tolerance: int = 1) -> bool:
    return shown.shape == image.shape and np.abs(shown.astype(int) - image).max() <= tolerance


def pick(section, name: str) -> None:
    """Clicks what a reader sees of a choice."""
    section.locator(".choice label", has_text=re.compile(rf"^{re.escape(name)}$")).click()


# ---- the map


def test_hovering_over_the_map_shows_what_the_place_decodes_to(opened, report):
    page = opened()
    section = page.locator("#latent_space")
    canvas = section.locator(".map canvas")
    canvas.scroll_into_view_if_needed()
    frame = canvas.bounding_box()
    model, seen, images = report.run("vae-d2"), set(), []
    for x, y in ((0.2, 0.3), (0.7, 0.3), (0.5, 0.8)):
        page.mouse.move(frame["x"] + x * frame["width"], frame["y"] + y * frame["height"])
        settle(page)
        text = section.locator(".large figcaption").first.inner_text()
        z = numbers(text)
        shown = pixels(section.locator(".large canvas").first)
        assert same(shown, as_pixels(model.inverse_transform(np.array([z])))[0], 2), (
            text
        )  # z is written with two digits
        seen.add(tuple(z))
        images.append(shown.astype(int))
    assert len(seen) == 3 and all(np.abs(images[0] - other).max() > 20 for other in images[1:])
    (left, upper), (right, same_height), (_, lower) = sorted(seen, key=lambda z: (-z[1], z[0]))
    assert right > left and upper == same_height > lower


def test_the_map_shows_the_test_image_under_the_hand(opened, report):
    page = opened()
    section, test, model = page.locator("#latent_space"), report.test, report.run("vae-d2")
    living = json.loads(page.locator("#living-data").text_content())
    plane, z = living["maps"][0], model.transform(test.x)
    share = (z - plane["low"]) / (np.array(plane["high"]) - plane["low"])
    index = next(i for i in range(len(z)) if (share[i] > 0.1).all() and (share[i] < 0.9).all())
    canvas = section.locator(".map canvas")
    canvas.scroll_into_view_if_needed()
    frame = canvas.bounding_box()
    page.mouse.move(frame["x"] + share[index, 0] * frame["width"], frame["y"] + (1 - share[index, 1]) * frame["height"])
    settle(page)
    shown = pixels(section.locator(".large canvas").nth(1))
    nearest = np.linalg.norm(z - z[index], axis=1) < 0.02 * (plane["high"][0] - plane["low"][0])
    assert any(np.array_equal(shown, image) for image in as_pixels(test.x[nearest]))
    words = section.locator(".large figcaption").nth(1).text_content()
    assert any(words == f"Nearest test image: {test.classes[label]}" for label in test.y[nearest])


def test_arrow_keys_walk_over_the_map_cell_by_cell(opened):
    page = opened()
    section = page.locator("#latent_space")
    section.locator(".map").focus()
    living = json.loads(page.locator("#living-data").text_content())
    plane = living["maps"][0]
    cell = (plane["high"][0] - plane["low"][0]) / plane["steps"]
    where = lambda: np.array(numbers(section.locator(".large figcaption").first.inner_text()))  # noqa: E731
    before = where()
    for key, step in (("ArrowRight", (1, 0)), ("ArrowUp", (0, 1)), ("ArrowLeft", (-1, 0)), ("ArrowDown", (0, -1))):
        page.keyboard.press(key)
        after = where()
        assert after - before == pytest.approx(np.array(step) * cell, abs=0.011)
        before = after
    for _ in range(2 * plane["steps"]):
        page.keyboard.press("ArrowRight")
    assert where()[0] == pytest.approx(plane["high"][0] - cell / 2, abs=0.011)  # the edge holds


def test_a_conditional_models_plane_is_decoded_as_the_class_that_is_chosen(opened, report):
    page = opened()
    section, model = page.locator("#latent_space"), report.run("cvae-d2")
    pick(section, "CVAE")
    for label in (NAMES[0], NAMES[1], NAMES[8]):
        pick(section, label)
        settle(page)
        text = section.locator(".large figcaption").first.text_content()
        assert text.endswith(f"as class {label}")
        z = np.array([numbers(text.partition(" as class")[0])])
        assert same(pixels(section.locator(".large canvas").first), as_pixels(model.inverse_transform(z, label))[0], 2)


def test_a_class_can_be_shown_alone(opened):
    page = opened()
    section = page.locator("#latent_space")
    canvas = section.locator(".map canvas")
    whole = pixels(canvas)
    button = section.locator(".legend button").nth(3)
    button.click()
    settle(page)
    assert button.get_attribute("aria-pressed") == "true"
    alone = pixels(canvas)
    assert (alone == [0xDD, 0xCC, 0x77]).all(-1).sum() > 20  # class 3's own colour
    assert not (alone == [0x33, 0x22, 0x88]).all(-1).any() and (whole == [0x33, 0x22, 0x88]).all(-1).any()
    button.click()
    settle(page)
    assert np.array_equal(pixels(canvas), whole)


def test_the_decoded_plane_can_stand_behind_the_points(opened):
    page = opened()
    section = page.locator("#latent_space")
    before = pixels(section.locator(".map canvas")).mean()
    section.get_by_label("decoded plane behind the points").check()
    settle(page)
    assert pixels(section.locator(".map canvas")).mean() < before - 20  # digits are mostly black


# ---- traversals, runs, reconstructions


def test_dragging_along_a_row_moves_that_latent(opened, report):
    page = opened()
    section, model = page.locator("#traversals"), report.run("vae-seed0")
    kl = next(entry for entry in report.entries if entry["name"] == "vae")["kl_per_latent"]
    latent = int(np.argsort(-np.asarray(kl))[1])
    strip = section.locator(".strip").nth(1)
    strip.scroll_into_view_if_needed()
    frame = strip.bounding_box()
    base, seen = model.transform(report.test.x[:1]), []
    page.mouse.move(frame["x"] + frame["width"] / 2, frame["y"] + frame["height"] / 2)
    page.mouse.down()
    for place in (0, 4, 10, 16, 20):  # the middles of images
        page.mouse.move(frame["x"] + (place + 0.5) / 21 * frame["width"], frame["y"] + frame["height"] / 2)
        settle(page)
        text = section.locator(".large figcaption").inner_text()
        assert text.startswith(f"z{latent + 1} = ")
        (value,) = numbers(text)
        z = base.copy()
        z[0, latent] = value
        assert same(pixels(section.locator(".large canvas")), as_pixels(model.inverse_transform(z))[0])
        seen.append(value)
    page.mouse.up()
    assert seen == pytest.approx([-2.5, -1.5, 0, 1.5, 2.5])


def test_a_traversal_moves_by_keyboard_and_says_where_it_is(opened):
    page = opened()
    slider = page.locator("#traversals input[type=range]").first
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") == "0.25"
    page.keyboard.press("Home")
    assert slider.get_attribute("aria-valuetext") == "\N{MINUS SIGN}2.50"
    pick(page.locator("#traversals"), "CVAE")
    assert page.locator("#traversals input[type=range]").first.get_attribute("aria-label").startswith("latent ")
    assert "CVAE" in page.locator("#traversals input[type=range]").first.get_attribute("aria-label")


def test_model_and_seed_choose_the_run_that_is_shown(opened, report):
    page = opened()
    section = page.locator("#closer")
    for label, name in (("VQ-VAE", "vqvae"), ("CVAE", "cvae")):
        for seed in (1, 0):
            pick(section, label)
            pick(section, str(seed))
            settle(page)
            entry = next(one for one in report.entries if (one["name"], one["seed"]) == (name, seed))
            words = section.locator(".numbers").inner_text()
            assert f"{entry['elbo']:,.2f}".replace("-", "\N{MINUS SIGN}") in words and f"{entry['mse']:.5f}" in words
            samples = as_pixels(report.run(f"{name}-seed{seed}").sample(64, random_state=seed, prior="plain"))
            assert same(pixels(section.locator(".large canvas")), samples[0])
            section.locator(".sheet").focus()
            page.keyboard.press("ArrowDown")
            page.keyboard.press("ArrowRight")
            settle(page)
            assert same(pixels(section.locator(".large canvas")), samples[9])
            assert section.locator(".large figcaption").inner_text().startswith("Sample 10 of 64")


def test_an_input_is_shown_through_every_model_with_its_error(opened, report):
    page = opened()
    section, test = page.locator("#reconstructions"), report.test
    section.locator(".inputs input").first.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    pick(section, "1")
    settle(page)
    figures = section.locator(".rebuilt figure")
    given = pixels(figures.first.locator("canvas"))
    index = next(i for i, image in enumerate(as_pixels(test.x)) if np.array_equal(image, given))
    assert test.y[index] == 3 and figures.first.locator("figcaption").text_content() == f"input{NAMES[3]}"
    errors = []
    for place, name in enumerate(("vae", "cvae", "vqvae"), 1):
        model = report.run(f"{name}-seed1")
        names = np.asarray(test.classes)[test.y[[index]]] if model.conditional else None
        rebuilt = as_pixels(model.reconstruct(test.x[[index]], names))[0]
        canvases = figures.nth(place).locator("canvas")
        assert np.array_equal(pixels(canvases.first), rebuilt)
        heat = pixels(canvases.nth(1)).astype(int).sum(-1)
        gap = np.abs(rebuilt.astype(int) - given)[..., 0]
        assert heat.ravel()[gap.argmax()] == heat.max() and (heat.ravel()[gap.argmin()] == heat.min())
        (error,) = numbers(figures.nth(place).locator("figcaption").inner_text())
        assert error == pytest.approx(np.square(gap / 255).mean(), abs=6e-5)
        errors.append(error)
    assert section.locator(".rebuilt .best").inner_text() == f"MSE {min(errors):.4f} \u2605"


# ---- tables


def test_tables_sort_by_click_and_by_keyboard_and_come_back(opened, report):
    page = opened()
    table = page.locator("table").last  # one group of rows
    names = lambda: table.locator("tbody th").all_inner_texts()  # noqa: E731
    given = names()
    means = {}
    for label in given:
        means[label] = np.mean([entry["ssim"] for entry in report.entries if entry["label"] == label])
    head = table.locator("th", has_text="SSIM")
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending" and names() == sorted(given, key=lambda label: -means[label])
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending" and names() == sorted(given, key=lambda label: means[label])
    page.keyboard.press("Space")
    assert head.get_attribute("aria-sort") is None and names() == given
    frechet = table.locator("th", has_text="Frechet")
    frechet.locator("button").click()
    assert frechet.get_attribute("aria-sort") == "ascending" and table.locator("th[aria-sort]").count() == 1
    table.locator("th", has_text="active latents").locator("button").click()
    assert names()[-1] == "VQ-VAE"  # it has no number there


def test_groups_of_a_sorted_table_stay_under_their_headings(opened):
    page = opened()
    table = page.locator("table").first
    table.locator("th", has_text="test MSE").locator("button").click()
    for body in table.locator("tbody").all():
        assert body.locator("tr").first.locator("th[colspan]").count() == 1


# ---- every reader


def test_names_in_the_data_stay_names(opened):
    page = opened()
    pick(page.locator("#latent_space"), "CVAE")
    shown = page.locator("#latent_space .legend").text_content()
    assert all(name in shown for name in NAMES)
    assert page.evaluate("window.evil") is None and page.locator("img:not(figure img)").count() == 0


def test_the_page_refuses_other_scripts_and_all_connections(browser, report):
    page = browser.new_page()
    page.goto(report.url)
    answered = []
    page.on("requestfinished", lambda request: answered.append(request.url))
    refused = page.evaluate(
        """async () => {
          const refused = [];
          document.addEventListener("securitypolicyviolation", (event) => refused.push(event.effectiveDirective));
          const script = document.createElement("script");
          script.textContent = "window.evil = 1";
          document.body.append(script);
          const image = new Image();
          image.src = "https://example.org/x.png";
          await fetch("https://example.org/").catch(() => null);
          await new Promise((done) => setTimeout(done, 50));
          return refused.sort();
        }"""
    )
    assert refused == ["connect-src", "img-src", "script-src-elem"] and page.evaluate("window.evil") is None
    assert answered == []
    page.close()


@pytest.mark.parametrize("way", ["on paper", "without scripts"])
def test_still_pictures_stand_in_where_nothing_can_move(opened, way):
    page = opened(**({"java_script_enabled": False} if way == "without scripts" else {}))
    if way == "on paper":
        page.emulate_media(media="print")
    assert page.locator(".living:visible").count() == 0
    pictures = page.locator("figure img:not(.dark)")
    assert pictures.count() > 5 and all(picture.is_visible() for picture in pictures.all())


def test_the_still_picture_is_there_on_demand(opened):
    page = opened()
    section = page.locator("#traversals")
    image, button = section.locator("figure img:not(.dark)"), section.locator("button.living")
    assert not image.is_visible() and button.get_attribute("aria-expanded") == "false"
    button.click()
    assert image.is_visible() and button.get_attribute("aria-expanded") == "true"


@pytest.mark.parametrize("scripts", [True, False])
def test_a_phone_scrolls_in_one_direction(opened, scripts):
    page = opened(viewport={"width": 390, "height": 844}, java_script_enabled=scripts)
    if scripts:
        pick(page.locator("#latent_space"), "CVAE")
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_the_map_follows_the_scheme_of_the_page_and_names_run_in_their_direction(opened):
    page = opened(color_scheme="dark")
    canvas = page.locator("#latent_space .map canvas")
    assert pixels(canvas)[30, 30].tolist() == [20, 23, 26]
    page.emulate_media(color_scheme="light")
    settle(page)
    assert pixels(canvas)[30, 30].tolist() == [255, 255, 255]
    names = page.locator("#latent_space .legend bdi")
    assert sorted(names.all_text_contents()) == sorted(NAMES)


CONTRASTS = """() => {
  const channels = (text) => text.match(/[\\d.]+/g).map(Number);
  const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const light = (rgb) => [0.2126, 0.7152, 0.0722].reduce((sum, weight, i) => sum + weight * linear(rgb[i] / 255), 0);
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const colour = channels(getComputedStyle(at).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  while (walker.nextNode()) {
    const parent = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !parent.checkVisibility() || parent.closest(".hidden")) continue;
    const [a, b] = [light(channels(getComputedStyle(parent).color)), light(behind(parent))].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), walker.currentNode.data.trim().slice(0, 30)]);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out_from_what_is_behind_it(opened, scheme):
    contrasts = opened(color_scheme=scheme).evaluate(CONTRASTS)
    assert len(contrasts) > 100 and min(contrasts)[0] >= 4.5, min(contrasts)


def test_all_that_can_be_focused_has_a_name_and_shows_its_focus(opened):
    page = opened()
    page.locator("body").click(position={"x": 1, "y": 1})
    seen = set()
    for _ in range(400):
        page.keyboard.press("Tab")
        name, outline, key = page.evaluate(
            """() => {
              const it = document.activeElement;
              const shown = [it, it.nextElementSibling, it.parentElement].filter(Boolean);
              return [it.getAttribute("aria-label") || it.labels?.[0]?.textContent || it.textContent,
                shown.some((one) => getComputedStyle(one).outlineStyle !== "none"),
                [...document.querySelectorAll("*")].indexOf(it)];
            }"""
        )
        if key in seen or page.evaluate("document.activeElement === document.body"):
            break
        assert name and name.strip() and outline, page.evaluate("document.activeElement.outerHTML.slice(0, 200)")
        seen.add(key)
    assert len(seen) > 40
