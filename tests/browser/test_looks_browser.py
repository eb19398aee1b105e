"""How the report looks on a dark ground, on paper and on a phone: in a real browser, from pictures made here."""

import io

import numpy as np
import pytest
from PIL import Image

from vaekit.pictures import sheets
from vaekit.pictures.style import DARK, on_dark, save
from vaekit.report.page import Picture, write_page

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    """A page of a table, and a wide grid of white images."""
    folder = tmp_path_factory.mktemp("looks")
    figure = sheets.sample_sheets({f"model {i}": np.ones((32, 8, 8, 1)) for i in range(4)})
    file = save(figure, folder / "samples.png")
    numbers = {"likelihood": "Bernoulli", "parameters": 1000, "seconds": 1.0, "images_per_second": 1.0, "mse": 0.1,
               "distortion": 1.0, "rate": 1.0, "elbo": -2.0, "nll": 2.0, "bits_per_dim": 0.1}  # fmt: skip
    results = {
        "data": {"name": "some", "fingerprint": "f", "train": 9, "test": 9, "image_shape": [8, 8, 1], "classes": [],
                 "split_seed": 0},
        "protocol": {"command": "vaekit compare", "seeds": 1, "notes": [], "models": {}},
        "models": [{"name": name, "label": name, "seed": 0, **numbers} for name in ("one", "two")],
    }  # fmt: skip
    pictures = [Picture(file, "Samples", "words of the caption", "samples", on_dark(figure, file))]
    return write_page(folder / "index.html", results, pictures)


@pytest.fixture
def opened(browser, page_file):
    contexts = []

    def open_page(width=1600, **options):
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, **options))
        page = contexts[-1].new_page()
        page.goto(page_file.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()


def seen(locator) -> np.ndarray:
    """(H, W, 3): what a reader sees of an element."""
    with Image.open(io.BytesIO(locator.screenshot())) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_on_a_dark_page_the_figure_is_dark_and_its_images_are_as_they_are(opened):
    light, dark = (seen(opened(color_scheme=scheme).locator(".picture")) for scheme in ("light", "dark"))
    assert light.shape == dark.shape and light[8, 8].tolist() == [255] * 3
    ground = [int(DARK[0][i : i + 2], 16) for i in (1, 3, 5)]
    assert dark[8, 8].tolist() == ground
    middle = np.argwhere((dark == 255).all(-1))  # white images
    assert len(middle) > 0.4 * dark[..., 0].size and (light[tuple(middle.T)] == 255).all()
    title = dark[10:30, 10:140]
    assert title.max() > 200 and title.min() <= min(ground), "light letters on the dark ground"


def test_paper_is_light_whatever_the_screen_is(opened):
    page = opened(color_scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert not page.locator(".picture .dark").is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert seen(page.locator(".picture"))[8, 8].tolist() == [255] * 3


FADES = """(box) => {
  const style = getComputedStyle(box);
  return ["--left", "--right"].map((name) => parseFloat(style.getPropertyValue(name)));
}"""


@pytest.mark.parametrize("selector", [".frame", ".scroll"])
def test_what_scrolls_on_a_phone_shows_where_there_is_more(opened, selector):
    page = opened(width=375)
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    box = page.locator(selector).first
    assert box.evaluate("(it) => it.scrollWidth > it.clientWidth + 20")
    left, right = box.evaluate(FADES)
    assert left == 0 and right > 20
    box.evaluate(
        "(it) => new Promise((done) => { it.scrollLeft = 1e6; requestAnimationFrame(() => requestAnimationFrame(done)); })"
    )
    left, right = box.evaluate(FADES)
    assert left > 20 and right == 0
    assert page.locator("figcaption").first.evaluate("(it) => !it.closest('.frame')"), "words never fade"
    wide = opened(width=1600).locator(selector).first
    assert wide.evaluate(FADES) == [0, 0]
