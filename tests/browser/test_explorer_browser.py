"""The explorer in a real Chromium, headless: `make test-browser`. What a person does there, and what it must never do: an error
in the console, or a request that leaves this machine.
"""

import io
import re
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from vaekit import CVAE, VAE, VQVAE
from vaekit.data import open_data
from vaekit.explorer.explored import Explored, some
from vaekit.explorer.server import listen, make_app
from vaekit.pictures.style import CLASSES, dark_colour

VAE_RUN, CVAE_RUN, VQ_RUN, PLAIN_RUN = range(4)


@pytest.fixture(scope="module")
def address():
    """The address of a served explorer of four small models."""
    import uvicorn

    train, images = open_data("digits", "train").take(slice(600)), some(open_data("digits", "test"), 120)
    quick = {"epochs": 10, "random_state": 0}
    vqvae = VQVAE(n_codes=16, code_dim=4, **quick).fit(train.x)
    plain = VQVAE(n_codes=16, code_dim=4, epochs=1, random_state=0).fit(train.x)
    vqvae.fit_prior(train.x, train.y, epochs=2, layers=2, channels=8)
    models = [VAE(latent_dim=6, **quick).fit(train.x), CVAE(latent_dim=2, **quick).fit(train.x, train.y), vqvae, plain]
    runs = [
        Explored(model.fitted_, images, name)
        for model, name in zip(models, ("vae", "cvae", "vq", "plain"), strict=True)
    ]
    with listen("127.0.0.1", 0) as listening:
        server = uvicorn.Server(uvicorn.Config(make_app(runs, images), log_level="error", lifespan="off", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        server.should_exit = True
        thread.join(timeout=10)


class Seen(NamedTuple):
    page: object
    problems: list[str]
    requests: list[str]


COUNT_REQUESTS = """
window.asking = 0;
{
  const plain = window.fetch;
  window.fetch = (...asked) => { window.asking += 1; return plain(...asked).finally(() => { window.asking -= 1; }); };
}
"""


@pytest.fixture
def visit(browser, address):
    """Opens the page at a size; at the end nothing may have gone wrong, and nothing may have left this machine."""
    seen: list[Seen] = []

    def opened(width=1280, height=800, **options):
        page = browser.new_page(viewport={"width": width, "height": height}, **options)
        found = Seen(page, [], [])
        seen.append(found)
        page.on("console", lambda message: found.problems.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: found.problems.append(f"page error: {error}"))
        page.on("request", lambda request: found.requests.append(request.url))
        page.add_init_script(COUNT_REQUESTS)
        page.goto(address)
        until(page, "document.querySelectorAll('.pair img').length === 8")
        return page

    yield opened
    for found in seen:
        found.page.close()
        expected = [problem for problem in found.problems if "status of 4" in problem and found.page in refused_pages]
        assert [problem for problem in found.problems if problem not in expected] == []
        assert found.requests and all(url.startswith((address, "data:")) for url in found.requests)


refused_pages: list[object] = []  # Chromium itself writes a refused request into the console


def until(page, condition: str, arg=None, seconds: float = 20) -> None:
    """Waits for a JavaScript condition. Playwright's own way would be `eval`, which the page's security policy forbids."""
    end = time.monotonic() + seconds
    while not page.evaluate(condition, arg):
        assert time.monotonic() < end, f"never: {condition}"
        page.wait_for_timeout(10)


def run(page, index):
    return page.locator(".run").nth(index)


def picture(page, index) -> str:
    return run(page, index).locator(".picture img").get_attribute("src")


def changes(page, index, action: Callable[[], object]) -> str:
    """Does `action` and waits for the run's picture to be another; gives the new one."""
    before = picture(page, index)
    action()
    until(
        page,
        "([index, before]) => document.querySelectorAll('.picture img')[index].src !== before",
        arg=[index, before],
    )
    return picture(page, index)


def settle(page) -> None:
    """Waits until nothing has been asked of the server for 0.3 s, and all has been answered."""
    page.evaluate(
        """async () => {
          const passes = () => new Promise((done) => setTimeout(done, 30));
          for (let quiet = 0; quiet < 10; quiet = window.asking ? 0 : quiet + 1) await passes();
        }"""
    )


def slide(page, slider, share: float) -> None:
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    page.mouse.click(box["x"] + share * box["width"], box["y"] + box["height"] / 2)


def test_every_slider_changes_the_picture(visit):
    page = visit()
    sliders = run(page, VAE_RUN).locator(".sliders > .slider input")
    assert sliders.count() >= 2
    for slider in sliders.all():
        changes(page, VAE_RUN, lambda slider=slider: slide(page, slider, 0.97))
    kls = [
        float(re.sub("[^0-9.]", "", text))
        for text in run(page, VAE_RUN).locator(".sliders > .slider .kl").all_inner_texts()
    ]
    assert kls == sorted(kls, reverse=True)


def test_a_slider_that_is_ahead_of_the_server_gets_its_last_picture(visit):
    page = visit()
    page.evaluate(
        """() => { const { input } = explorer.runs[0].sliders.values().next().value;
        for (let i = 0; i <= 20; i++) {
          input.value = Number(input.min) + (i / 20) * (input.max - input.min);
          input.dispatchEvent(new Event('input'));
        } }"""
    )
    settle(page)
    slider = run(page, VAE_RUN).locator(".slider input").first
    shown, value = picture(page, VAE_RUN), slider.input_value()
    assert float(value) == pytest.approx(float(slider.get_attribute("max")), abs=0.1)
    page.evaluate("explorer.runs[0].show('decode', { code: [...explorer.runs[0].code] })")
    settle(page)
    assert picture(page, VAE_RUN) == shown and slider.input_value() == value


def test_sliders_listen_to_the_keyboard(visit):
    page = visit()
    slider = page.get_by_label(re.compile("^z[0-9]+$")).first
    slider.focus()
    before = float(slider.input_value())
    changes(page, VAE_RUN, lambda: [page.keyboard.press("ArrowRight") for _ in range(30)])
    settle(page)
    assert float(slider.input_value()) > before


def test_a_click_on_the_map_decodes(visit):
    page = visit()
    for index in (VAE_RUN, CVAE_RUN, VQ_RUN):
        canvas = run(page, index).locator(".map canvas")
        first = changes(page, index, lambda canvas=canvas: canvas.click(position={"x": 60, "y": 60}))
        second = changes(page, index, lambda canvas=canvas: canvas.click(position={"x": 250, "y": 200}))
        assert first != second
    canvas.focus()
    changes(page, VQ_RUN, lambda: [page.keyboard.press("ArrowLeft") for _ in range(12)])


def test_a_point_shows_its_image_and_is_taken_by_a_double_click(visit):
    page = visit()
    canvas = run(page, CVAE_RUN).locator(".map canvas")
    canvas.scroll_into_view_if_needed()
    x, y = page.evaluate(
        "(i) => explorer.runs[i].pixel(explorer.runs[i].facts.points[33], explorer.runs[i].canvas.clientWidth)",
        CVAE_RUN,
    )
    canvas.hover(position={"x": x, "y": y})
    tip = run(page, CVAE_RUN).locator(".tip")
    tip.wait_for(state="visible")
    index = int(re.search(r"images/(\d+)", tip.locator("img").get_attribute("src"))[1])
    old = run(page, VAE_RUN).locator(".pair img").first.get_attribute("src")
    canvas.dblclick(position={"x": x, "y": y})
    until(page, "(old) => document.querySelector('.pair img').src !== old", arg=old)
    settle(page)
    taken = run(page, CVAE_RUN).locator(".pair img").first.get_attribute("src")
    expected = page.evaluate(
        """async (i) => { const image = new Image(); image.src = `/api/images/${i}.png`; await image.decode();
        const draw = (source) => { const c = document.createElement('canvas'); c.width = 8; c.height = 8;
          const pen = c.getContext('2d'); pen.drawImage(source, 0, 0); return [...pen.getImageData(0, 0, 8, 8).data].join(); };
        const other = document.querySelectorAll('.run')[1].querySelector('.pair img'); return draw(image) === draw(other); }""",
        index,
    )
    assert expected and taken


def test_classes_change_the_picture_and_single_classes_out(visit):
    page = visit()
    chooser = page.get_by_label("cvae: class")
    present = chooser.input_value()
    changes(page, CVAE_RUN, lambda: chooser.select_option("8" if present != "8" else "1"))
    button = run(page, VAE_RUN).locator(".legend button").nth(3)
    button.click()
    assert button.get_attribute("aria-pressed") == "true"


def test_a_code_edit_changes_the_image_and_undo_brings_it_back(visit):
    page = visit()
    vq = run(page, VQ_RUN)
    before = picture(page, VQ_RUN)
    vq.locator(".cells button").nth(5).click()
    vq.locator(".choices button").nth(3).wait_for()
    changes(page, VQ_RUN, lambda: vq.locator(".choices button").nth(3).click())
    settle(page)
    assert vq.locator(".choices button b").first.inner_text() == vq.locator(".cells button").nth(5).inner_text()
    vq.get_by_role("button", name="Undo").click()
    until(page, "(before) => document.querySelectorAll('.picture img')[2].src === before", arg=before)
    number = vq.get_by_label("Code", exact=True)
    value = str((int(number.input_value()) + 5) % 16)
    number.fill(value)
    number.press("Enter")
    until(page, "([cell, v]) => explorer.runs[2].code.flat()[cell] === v", arg=[5, int(value)])


def test_resampling_goes_on_from_the_cell(visit):
    page = visit()
    vq = run(page, VQ_RUN)
    cells = vq.locator(".cells button")
    before = cells.all_inner_texts()
    cells.nth(8).focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert "Row 3, column 2" in vq.locator(".edit").inner_text()
    changes(page, VQ_RUN, lambda: vq.get_by_role("button", name="Resample from here on").click())
    after = cells.all_inner_texts()
    assert after[:9] == before[:9] and after != before


def test_without_a_prior_the_buttons_are_grey_and_say_why(visit):
    page = visit()
    plain = run(page, PLAIN_RUN)
    plain.locator(".cells button").first.click()
    for name in ("New sample", "Resample from here on"):
        assert plain.get_by_role("button", name=name).is_disabled()
    assert "fit-prior" in plain.inner_text()
    assert run(page, VQ_RUN).get_by_role("button", name="New sample").is_enabled()


def test_new_samples_are_new(visit):
    page = visit()
    for index in (VAE_RUN, CVAE_RUN, VQ_RUN):
        button = run(page, index).get_by_role("button", name="New sample")
        found = {changes(page, index, button.click) for _ in range(3)}
        assert len(found) == 3


def test_a_drawing_is_encoded_by_every_run(visit):
    page = visit()
    inputs = "[...document.querySelectorAll('.pair figure:first-child img')].map((image) => image.src)"

    def wait_for_others_than(shown: list[str]) -> list[str]:
        """One input for all runs; a canvas is made a file when the browser finds the time."""
        until(
            page, f"(shown) => {inputs}.every((source, run, all) => source === all[0] && source !== shown[run])", shown
        )
        return page.evaluate(inputs)

    settle(page)
    held_out = page.evaluate(inputs)
    page.get_by_role("button", name="Clear").click()
    blank = wait_for_others_than(held_out)
    box = page.locator("#pad").bounding_box()
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.2 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.8 * box["height"], steps=15)
    page.mouse.up()
    wait_for_others_than(blank)


def test_a_file_is_opened_and_dropped(visit, tmp_path):
    page = visit()
    ramp = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (64, 1))
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    changes(page, VAE_RUN, lambda: page.set_input_files("#file", tmp_path / "ramp.png"))
    settle(page)
    assert page.evaluate(
        """() => { const pixels = (source) => { const c = document.createElement('canvas'); c.width = c.height = 8;
          const pen = c.getContext('2d'); pen.imageSmoothingEnabled = false; pen.drawImage(source, 0, 0, 8, 8);
          return pen.getImageData(0, 0, 8, 8).data.join(); };
        return pixels(document.querySelector('#pad')) === pixels(document.querySelector('.pair img')); }"""
    )
    buffer = io.BytesIO()
    Image.fromarray(ramp.T.copy()).save(buffer, "PNG")
    drop = """(bytes) => { const data = new DataTransfer();
      data.items.add(new File([new Uint8Array(bytes)], 'x.png', { type: 'image/png' }));
      document.querySelector('.pad').dispatchEvent(new DragEvent('drop', { dataTransfer: data, bubbles: true }));
    }"""
    changes(page, VAE_RUN, lambda: page.evaluate(drop, list(buffer.getvalue())))


def test_two_images_are_interpolated(visit):
    page = visit()
    page.get_by_role("button", name="Keep as A").click()
    changes(page, VAE_RUN, lambda: run(page, VAE_RUN).get_by_role("button", name="New sample").click())
    changes(page, VQ_RUN, lambda: run(page, VQ_RUN).get_by_role("button", name="New sample").click())
    page.get_by_role("button", name="Keep as B").click()
    for index in (VAE_RUN, VQ_RUN):
        frames = run(page, index).locator(".frames img")
        frames.nth(8).wait_for()
        assert len({image.get_attribute("src") for image in frames.all()}) > 3
        assert frames.last.get_attribute("src") == picture(page, index)
    changes(page, VAE_RUN, lambda: run(page, VAE_RUN).locator(".frames button").nth(4).click())


def test_a_text_file_and_a_large_image_get_a_message(visit, tmp_path):
    page = visit()
    refused_pages.append(page)
    before = picture(page, VAE_RUN)
    (tmp_path / "notes.png").write_text("this is no picture")
    page.set_input_files("#file", tmp_path / "notes.png")
    message = page.locator("#message")
    message.wait_for(state="visible")
    assert "no image file" in message.inner_text()
    message.get_by_role("button").click()
    assert message.is_hidden()
    Image.new("1", (10_000, 10_000)).save(tmp_path / "large.png")
    page.set_input_files("#file", tmp_path / "large.png")
    message.wait_for(state="visible")
    assert "megapixels" in message.inner_text()
    assert picture(page, VAE_RUN) == before
    changes(page, VAE_RUN, lambda: run(page, VAE_RUN).get_by_role("button", name="New sample").click())
    assert message.is_hidden()


def test_nan_in_a_slider_gets_a_message(visit):
    page = visit()
    refused_pages.append(page)
    page.evaluate("explorer.runs[0].show('decode', { code: [NaN, 0, 0, 0, 0, 0] })")
    page.locator("#message").wait_for(state="visible")
    assert "no number" in page.locator("#message").inner_text()


@pytest.mark.parametrize("width, height", [(1280, 800), (390, 844), (320, 640)])
def test_nothing_is_wider_than_the_window(visit, width, height):
    page = visit(width, height)
    run(page, VQ_RUN).locator(".cells button").first.click()
    page.get_by_role("button", name="Keep as A").click()
    page.get_by_role("button", name="Keep as B").click()
    settle(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_has_a_name_and_text_stands_out(visit, scheme):
    page = visit(color_scheme=scheme)
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('button, input, select, canvas, img')].filter((e) => {
          if (e.matches('button img, .tip img')) return e.alt !== '';
          const label = (e.labels && e.labels.length && e.labels[0].innerText) || e.ariaLabel || e.alt || e.innerText;
          return !label || !label.trim();
        }).map((e) => e.outerHTML.slice(0, 120))"""
    )
    assert nameless == []

    def luminance(colour: str) -> float:
        channels = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    page_colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    card_colour = page.evaluate("getComputedStyle(document.querySelector('#input')).backgroundColor")
    for selector in ("body", ".soft", "h3", ".kl", "summary"):
        if page.locator(selector).count():
            ink = luminance(page.evaluate("(s) => getComputedStyle(document.querySelector(s)).color", selector))
            for ground in map(luminance, (page_colour, card_colour)):
                assert (max(ink, ground) + 0.05) / (min(ink, ground) + 0.05) >= 4.5, selector


def test_the_map_follows_the_scheme_of_the_page(visit):
    page = visit(color_scheme="dark")
    fill = "document.querySelector('.legend path').getAttribute('fill')"
    assert page.evaluate("getComputedStyle(document.querySelector('.map canvas')).backgroundColor") == "rgb(20, 23, 26)"
    assert page.evaluate(fill) == dark_colour(CLASSES[0]) != CLASSES[0].lower()
    page.emulate_media(color_scheme="light")
    until(page, f"{fill} === '{CLASSES[0]}'")
    assert (
        page.evaluate("getComputedStyle(document.querySelector('.map canvas')).backgroundColor") == "rgb(255, 255, 255)"
    )


def test_a_slider_shows_its_picture_at_once(visit):
    page = visit()
    times = page.evaluate(
        """async () => { const run = explorer.runs[0]; const times = [];
        for (let i = 0; i < 20; i++) { const slider = [...run.sliders.values()][i % 3].input; const old = run.image.src;
          const start = performance.now(); slider.value = Number(slider.min) + (i / 20) * (slider.max - slider.min);
          slider.dispatchEvent(new Event('input')); while (run.image.src === old) await new Promise((r) => setTimeout(r, 1));
          await run.image.decode(); times.push(performance.now() - start); } return times; }"""
    )
    assert sorted(times)[len(times) // 2] < 1000  # a bound for any machine at work; `benchmarks explorer` measures


def test_a_stopped_server_is_reported(browser, address):
    page = browser.new_page()
    page.goto(address)
    until(page, "document.querySelectorAll('.pair img').length === 8")
    page.route("**/api/**", lambda route: route.abort())
    page.evaluate("explorer.runs[0].show('decode', { point: [0, 0] })")
    page.locator("#message").wait_for(state="visible")
    assert "vaekit explore" in page.locator("#message").inner_text()
    page.close()
