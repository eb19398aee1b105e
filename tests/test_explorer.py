"""The explorer's server as its page, and as hostile strangers, meet it: pictures that follow what is asked, and refusals."""

import base64
import http.client
import io
import json
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
import zlib
from urllib.parse import urlsplit

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from starlette.testclient import TestClient

from vaekit import CVAE, VAE, VQVAE
from vaekit.cli import main
from vaekit.data import Images, open_data
from vaekit.explorer.explored import Explored, find_plane, read_picture, run_names, some
from vaekit.explorer.server import HEADERS, MOST_JSON, MOST_UPLOAD, is_loopback, listen, make_app
from vaekit.report.doctor import examine

RUNS = ("vae", "cvae", "vqvae", "plain vqvae", "flat")
VAE_RUN, CVAE_RUN, VQ_RUN, PLAIN_RUN, FLAT_RUN = range(5)


@pytest.fixture(scope="module")
def images() -> Images:
    return some(open_data("digits", "test"), 60)


@pytest.fixture(scope="module")
def models(digits):
    x, y = digits[0][:256], digits[1][:256]
    quick = {"epochs": 2, "random_state": 0, "architecture": "mlp"}
    vqvae = VQVAE(n_codes=8, code_dim=3, epochs=2, random_state=0).fit(x)
    plain = VQVAE(n_codes=8, code_dim=3, epochs=1, random_state=0).fit(x)
    vqvae.fit_prior(x, y, epochs=1, layers=2, channels=8)
    return [
        VAE(latent_dim=4, **quick).fit(x),
        CVAE(latent_dim=2, **quick).fit(x, y),
        vqvae,
        plain,
        VAE(latent_dim=1, **quick).fit(x),
    ]


@pytest.fixture(scope="module")
def runs(models, images):
    return [Explored(model.fitted_, images, name) for model, name in zip(models, RUNS, strict=True)]


@pytest.fixture(scope="module")
def client(runs, images):
    return TestClient(make_app(runs, images), base_url="http://127.0.0.1:7860", raise_server_exceptions=False)


@pytest.fixture(scope="module")
def start(client):
    return client.get("/api/start").json()


def ask(client, run, action, **fields) -> dict:
    answer = client.post(f"/api/runs/{run}/{action}", json=fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(answer, status, *words) -> str:
    """The one message, in which every word is, of an answer with this status."""
    assert answer.status_code == status, answer.text
    message = answer.json()["error"]
    for word in words:
        assert word in message, message
    return message


def pixels(url: str) -> np.ndarray:
    assert url.startswith("data:image/png;base64,")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))))


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


# ---- what the page shows -----------------------------------------------------------------------------------------


def test_the_doctor_is_heard_where_the_training_images_are_known(models, images):
    train = open_data("digits", "train")
    diagnoses = examine(models[VAE_RUN].fitted_, train, images, folder="runs/vae", data="digits")
    facts = Explored(models[VAE_RUN].fitted_, images, "vae", diagnoses).facts()
    assert facts["doctor"] == json.loads(json.dumps(facts["doctor"])) == [found._asdict() for found in diagnoses]
    assert {"name", "wrong", "words", "evidence", "cure"} == set(facts["doctor"][0])
    assert Explored(models[VAE_RUN].fitted_, images, "vae").facts()["doctor"] == []


def test_the_page_is_served_whole_and_asks_nobody_else(client):
    for path, kind in (("/", "text/html"), ("/page.js", "text/javascript"), ("/page.css", "text/css")):
        answer = client.get(path)
        assert answer.status_code == 200 and answer.headers["content-type"].startswith(kind)
        assert not {"http://", "https://"} & set(answer.text.replace("http://www.w3.org/2000/svg", "").split('"'))
        for name, value in HEADERS.items():
            assert answer.headers[name] == value
    page = client.get("/").text
    assert "<style" not in page and "style=" not in page and "onclick" not in page  # the security policy forbids these


def test_the_start_says_what_each_run_is(start, models, images):
    assert [run["name"] for run in start["runs"]] == list(RUNS)
    assert [run["model"] for run in start["runs"]] == ["VAE", "CVAE", "VQ-VAE", "VQ-VAE", "VAE"]
    assert start["background"] == 0 and start["shape"] == [8, 8, 1]
    assert start["labels"] == images.y.tolist()
    assert start["runs"][VQ_RUN]["grid"] == list(models[VQ_RUN].encode(images.x).shape[1:])
    assert [run["no_samples"] is None for run in start["runs"]] == [True, True, True, False, True]
    assert start["runs"][CVAE_RUN]["classes"] == list("0123456789") and start["runs"][VAE_RUN]["classes"] is None


def test_latents_come_by_their_kl_and_sliders_span_the_encodings(start, models, images):
    latents = start["runs"][VAE_RUN]["latents"]
    assert sorted(latent["index"] for latent in latents) == [0, 1, 2, 3]
    assert [latent["kl"] for latent in latents] == sorted((latent["kl"] for latent in latents), reverse=True)
    means = models[VAE_RUN].transform(images.x)
    for latent in latents:
        of_this = means[:, latent["index"]]
        assert latent["low"] < of_this.mean() < latent["high"]
        # the aggregate posterior is wider than its means
        assert latent["high"] - latent["low"] > 5.9 * of_this.std()
        assert latent["active"] == (of_this.var() > 0.01)


def test_the_map_is_the_pca_of_the_encodings(start, models, images):
    from sklearn.decomposition import PCA

    for run in (VAE_RUN, VQ_RUN):
        vectors = models[run].transform(images.x).astype(np.float64)
        centred = vectors - vectors.mean(0)
        _, _, axes = np.linalg.svd(centred, full_matrices=False)
        expected = centred @ axes[:2].T
        found = np.array(start["runs"][run]["points"])
        signs = np.sign((found * expected).sum(0))
        np.testing.assert_allclose(found * signs, expected, atol=1e-4)
        shares = PCA(2).fit(vectors).explained_variance_ratio_
        assert f"{shares[0]:.0%}" in start["runs"][run]["axes"][0]


def test_two_latents_are_the_map_and_one_is_a_line(start, models, images):
    means = models[CVAE_RUN].transform(images.x, images.y)
    np.testing.assert_allclose(start["runs"][CVAE_RUN]["points"], means, atol=1e-4)
    assert start["runs"][CVAE_RUN]["axes"] == ["z1", "z2"]
    flat = np.array(start["runs"][FLAT_RUN]["points"])
    assert (flat[:, 1] == 0).all() and flat[:, 0].std() > 0
    assert start["runs"][FLAT_RUN]["axes"] == ["z1"]


# ---- what the page asks ------------------------------------------------------------------------------------------


def test_a_code_decodes_to_what_the_model_decodes(client, models, images):
    z = models[VAE_RUN].encode(images.x[:2])
    for code in z:
        shown = ask(client, VAE_RUN, "decode", code=code.tolist())
        np.testing.assert_array_equal(pixels(shown["image"]), models[VAE_RUN].decode(code[None])[0, ..., 0])
    first, second = (ask(client, VAE_RUN, "decode", code=code.tolist()) for code in z)
    assert first["image"] != second["image"] and first["point"] != second["point"]


def test_a_click_on_an_images_place_gives_its_place_back(client, start):
    for run in (VAE_RUN, CVAE_RUN, FLAT_RUN):
        point = start["runs"][run]["points"][7]
        shown = ask(client, run, "decode", point=point, label="3")
        np.testing.assert_allclose(shown["point"], point, atol=1e-4)
        again = ask(client, run, "decode", code=shown["code"], label="3")
        assert again["image"] == shown["image"]


def test_a_click_on_the_map_of_codes_gives_codes(client, start, models):
    shown = ask(client, VQ_RUN, "decode", point=start["runs"][VQ_RUN]["points"][0])
    codes = np.array(shown["code"])
    np.testing.assert_array_equal(pixels(shown["image"]), models[VQ_RUN].decode(codes[None])[0, ..., 0])


def test_a_class_changes_the_picture_of_a_conditional_model(client):
    pictures = {ask(client, CVAE_RUN, "decode", code=[0.0, 0.0], label=label)["image"] for label in "0123456789"}
    assert len(pictures) == 10
    answer = client.post(f"/api/runs/{CVAE_RUN}/decode", json={"code": [0.0, 0.0]})
    refused(answer, 400, "label must be one of 0, 1, 2")


def test_an_uploaded_image_is_encoded_and_rebuilt(client, models, images):
    for run in (VAE_RUN, VQ_RUN, CVAE_RUN):
        x = images.x[3]
        answer = client.post(f"/api/runs/{run}/encode", content=png(x[..., 0])).json()
        model = models[run]
        label = model.predict(x[None]) if run == CVAE_RUN else None
        np.testing.assert_allclose(answer["code"], model.encode(x[None], label)[0], atol=1e-6)
        rebuilt = model.reconstruct(x[None], label)[0]
        np.testing.assert_array_equal(pixels(answer["image"]), rebuilt[..., 0])
        np.testing.assert_array_equal(pixels(answer["input"]), x[..., 0])
        assert answer["mse"] == pytest.approx(np.square(rebuilt / 255 - x / 255).mean())
        assert answer["label"] == (None if label is None else str(label[0]))


def test_a_given_class_is_encoded_as_that(client, models, images):
    x = images.x[3]
    answer = client.post(f"/api/runs/{CVAE_RUN}/encode?label=7", content=png(x[..., 0])).json()
    assert answer["label"] == "7"
    np.testing.assert_allclose(answer["code"], models[CVAE_RUN].encode(x[None], "7")[0], atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(factor=st.integers(1, 9), seed=st.integers(0, 99))
def test_a_drawing_pads_squares_come_back_as_the_pixels_they_stand_for(factor, seed):
    x = np.random.default_rng(seed).integers(0, 256, (6, 9), dtype=np.uint8)
    drawn = np.repeat(np.repeat(x, factor, 0), factor, 1)
    np.testing.assert_array_equal(read_picture(png(drawn), (6, 9, 1))[..., 0], x)


def test_pictures_of_other_shapes_and_colours_are_fitted():
    photo = np.zeros((40, 90, 3), np.uint8)
    photo[:, 30:60] = (255, 0, 0)
    found = read_picture(png(photo), (8, 8, 3))
    assert found.shape == (8, 8, 3)
    np.testing.assert_allclose(found[:, 3:5], np.broadcast_to((255, 0, 0), (8, 2, 3)), atol=2)
    assert read_picture(png(photo), (8, 8, 1)).shape == (8, 8, 1)
    assert read_picture(png(photo[..., 0]), (5, 7, 3)).shape == (5, 7, 3)
    assert read_picture(png(photo), (5, 7, 4))[..., 3].min() == 255


def test_between_two_codes_lie_frames_that_begin_and_end_at_them(client, models, images):
    for run in (VAE_RUN, VQ_RUN):
        ends = models[run].encode(images.x[:2])
        frames = ask(client, run, "between", a=ends[0].tolist(), b=ends[1].tolist())["frames"]
        assert len(frames) == 9
        for frame, end in ((frames[0], ends[0]), (frames[-1], ends[1])):
            np.testing.assert_allclose(frame["code"], end, atol=1e-6)
            np.testing.assert_array_equal(pixels(frame["image"]), models[run].decode(end[None])[0, ..., 0])
        middle = models[run].transform(images.x[:2]).mean(0, keepdims=True)
        difference = pixels(frames[4]["image"]) - models[run].inverse_transform(middle)[0, ..., 0].astype(int)
        assert np.abs(difference).max() <= 1


def test_resampling_from_a_cell_keeps_what_is_before_it(client, models, images):
    code = models[VQ_RUN].encode(images.x[:1])[0]
    last = code.size - 1
    for start in (1, last):
        drawn = {
            tuple(np.ravel(ask(client, VQ_RUN, "sample", code=code.tolist(), start=start, seed=seed)["code"]))
            for seed in range(12)
        }
        assert all(codes[:start] == tuple(code.ravel()[:start]) for codes in drawn)
        assert len(drawn) > 1
    same = [ask(client, VQ_RUN, "sample", code=code.tolist(), start=1, seed=5, label="2") for _ in range(2)]
    assert same[0] == same[1]


def test_samples_follow_the_prior_and_the_temperature(client):
    cold, hot = (
        np.array([ask(client, VAE_RUN, "sample", temperature=t, seed=seed)["code"] for seed in range(40)])
        for t in (0.1, 1.0)
    )
    np.testing.assert_allclose(10 * cold, hot, rtol=1e-4)
    assert 0.7 < hot.std() < 1.3
    message = refused(client.post(f"/api/runs/{PLAIN_RUN}/sample", json={}), 400, "fit-prior")
    assert message == client.get("/api/start").json()["runs"][PLAIN_RUN]["no_samples"]


@pytest.fixture
def vivid_prior(models):
    """A prior whose classes differ much more than a short training makes them."""
    import torch

    prior = models[VQ_RUN].model_.prior
    kept = {name: tensor.clone() for name, tensor in prior.state_dict().items()}
    with torch.no_grad():
        torch.manual_seed(0)
        for parameter in prior.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    yield prior
    prior.load_state_dict(kept)


def test_choices_of_a_cell_are_weighed_by_the_prior_given_the_cells_before(client, models, images, vivid_prior):
    import torch

    code, cell = models[VQ_RUN].encode(images.x[:1])[0], 6
    answer = ask(client, VQ_RUN, "choices", code=code.tolist(), cell=cell)
    offered = {choice["value"]: choice["probability"] for choice in answer["choices"]}
    assert len(offered) == 8 and sum(offered.values()) == pytest.approx(1, abs=1e-5)
    # By Bayes' rule, class by class: p(cells before, this one) over p(cells before).
    joint = np.zeros(8)
    with torch.inference_mode():
        for label, share in enumerate(vivid_prior.class_shares.tolist()):
            logits = vivid_prior.network(torch.from_numpy(code)[None], torch.tensor([label]))
            log_p = logits.log_softmax(1)[0].flatten(1).numpy()
            before = sum(log_p[code.flat[i], i] for i in range(cell))
            joint += share * np.exp(before + log_p[:, cell])
    for value, probability in offered.items():
        assert probability == pytest.approx(joint[value] / joint.sum(), rel=1e-3, abs=1e-6)
    assert next(iter(offered)) == code.flat[cell]
    of_one = ask(client, VQ_RUN, "choices", code=code.tolist(), cell=cell, label="3")["choices"]
    assert any(abs(choice["probability"] - offered[choice["value"]]) > 0.01 for choice in of_one)


def test_choices_show_the_picture_that_each_would_give(client, models, images):
    code = models[PLAIN_RUN].encode(images.x[:1])[0]
    for choice in ask(client, PLAIN_RUN, "choices", code=code.tolist(), cell=1)["choices"]:
        changed = code.copy()
        changed.flat[1] = choice["value"]
        np.testing.assert_array_equal(pixels(choice["image"]), models[PLAIN_RUN].decode(changed[None])[0, ..., 0])
        assert choice["probability"] is None


def test_held_out_images_are_served_as_they_are(client, images):
    answer = client.get("/api/images/5.png")
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), images.x[5, ..., 0])
    refused(client.get("/api/images/60.png"), 404, "there are 60")


# ---- hostile input -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body, words",
    [
        (b'{"code": [0, 0, 0, NaN]}', ["finite", "NaN"]),
        (b'{"code": [0, 0, 0, -Infinity]}', ["finite", "-Infinity"]),
        (b'{"code": [0, 0, 0, 1e999]}', ["finite"]),
        (b'{"code": [0, 0, 0, 1e300]}', ["at most 10000"]),
        (b'{"code": [0, 0, 0, 1' + b"0" * 400 + b"]}", ["at most 10000"]),
        (b'{"code": [0, 0, 0, 1' + b"0" * 5000 + b"]}", ["digits"]),
        (b'{"code": [0, 0, 0, "1"]}', ["no number"]),
        (b'{"code": [0, 0, 0, true]}', ["no number"]),
        (b'{"code": [0, 0, 0]}', ["shape (4,)"]),
        (b'{"code": [[0], 0, 0, 0]}', ["no number"]),
        (b'{"code": "abcd"}', ["shape (4,)"]),
        (b'{"code": null}', ["shape (4,)"]),
        (b'{"point": [0, 0, 0]}', ["shape (2,)"]),
        (b'{"point": [0, 1e200]}', ["at most 10000"]),
        (b'{"cod": [0, 0, 0, 0]}', ["decode has no 'cod'"]),
        (b'{"self": 1}', ["decode has no 'self'"]),
        (b"[1, 2]", ["JSON object"]),
        (b"not json", ["no JSON"]),
        (b"\xff\xfe", ["no JSON"]),
        (b"", ["no JSON"]),
        (b"[" * 100_000, ["no JSON"]),
    ],
)
def test_what_is_no_code_gets_a_message(client, body, words):
    refused(client.post(f"/api/runs/{VAE_RUN}/decode", content=body), 400, *words)


def grid(last) -> list[list]:
    """4 x 4 codes, all but the last 0."""
    return [[0] * 4] * 3 + [[0, 0, 0, last]]


@pytest.mark.parametrize(
    "action, fields, words",
    [
        ("decode", {"code": grid(8)}, ["0..7", "0..8"]),
        ("decode", {"code": grid(-1)}, ["0..7"]),
        ("decode", {"code": grid(0.5)}, ["whole numbers"]),
        ("decode", {"code": [*grid(0)[1:], [0]]}, ["shape (4, 4)"]),
        ("choices", {"code": grid(0), "cell": 16}, ["cell must be a cell in 0..15"]),
        ("choices", {"code": grid(0), "cell": "0"}, ["cell must be a cell"]),
        ("sample", {"code": grid(0), "start": -1}, ["start must be a cell"]),
        ("sample", {"temperature": 0}, ["temperature must be a number above 0"]),
        ("sample", {"temperature": "hot"}, ["temperature must be a number"]),
        ("sample", {"temperature": 10**400}, ["temperature must be a number"]),
        ("sample", {"seed": -1}, ["seed must be a whole number"]),
        ("sample", {"seed": 10**400}, ["seed must be a whole number"]),
        ("sample", {"label": "cat"}, ["label must be one of", "'cat'"]),
        ("sample", {"label": {"a": 1}}, ["label must be one of"]),
        ("between", {"a": grid(0)}, ["code must be numbers"]),
    ],
)
def test_what_a_grid_of_codes_can_not_do_gets_a_message(client, action, fields, words):
    refused(client.post(f"/api/runs/{VQ_RUN}/{action}", json=fields), 400, *words)


def test_latents_have_no_cells(client):
    code = [0.0] * 4
    refused(client.post(f"/api/runs/{VAE_RUN}/choices", json={"code": code, "cell": 0}), 400, "no grid of codes")
    refused(client.post(f"/api/runs/{VAE_RUN}/sample", json={"code": code, "start": 0}), 400, "prior over a grid")


def big_png(width: int, height: int, rows: int | None = None) -> bytes:
    """A PNG of black pixels, small however many they are; with `rows` it promises more of them than it holds."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    body = b"".join([packer.compress(bytes(1 + width)) for _ in range(rows or height)]) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "data, words",
    [
        (b"just some text, in a file that is named picture.png\n", ["no image file", "whatever its name"]),
        (b"", ["no image file"]),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n", ["no image file"]),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", ["no image file"]),
        (png(np.random.default_rng(0).integers(0, 256, (30, 30), dtype=np.uint8))[:500], ["can't be read"]),
        (big_png(10_000, 10_000), ["10000x10000 pixels", "at most 64 megapixels"]),
        (big_png(60_000, 60_000, rows=5), ["at most 64 megapixels"]),
    ],
    ids=["text", "empty", "postscript", "svg", "truncated", "100 megapixels", "3.6 gigapixels"],
)
def test_hostile_uploads_get_a_message(client, data, words):
    message = refused(client.post(f"/api/runs/{VAE_RUN}/encode", content=data), 400, *words)
    assert "object at" not in message and "\n" not in message
    assert client.get("/api/images/0.png").status_code == 200


def test_bodies_are_limited_before_and_while_they_are_read(client):
    code = {"code": [0.0] * 4, "label": "x" * MOST_JSON}
    refused(client.post(f"/api/runs/{VAE_RUN}/decode", json=code), 413, "at most 1 MB")
    refused(client.post(f"/api/runs/{VAE_RUN}/encode", content=bytes(MOST_UPLOAD + 1)), 413, "at most 16 MB")
    sent = []

    def stream():  # without a length that could be looked at first
        for _ in range(64):
            sent.append(1)
            yield bytes(2**20)

    refused(client.post(f"/api/runs/{VAE_RUN}/encode", content=stream()), 413, "at most 16 MB")


@pytest.mark.parametrize(
    "path",
    [
        "/../pyproject.toml",
        "/..%2f..%2fexplored.py",
        "/%2e%2e/explored.py",
        "/page/../server.py",
        "/explored.py",
        "/api/images/../../server.py",
        "/api/images/-1.png",
        "/api/images/..%2f0.png",
        "/api/runs",
        "/favicon.ico",
    ],
)
def test_paths_outside_the_page_are_not_there(client, path):
    answer = client.get(path)
    assert answer.status_code == 404 and "error" in answer.json()


def test_unknown_runs_and_actions_are_not_there(client):
    refused(client.post("/api/runs/5/decode", json={}), 404, "no run 5")
    refused(client.post("/api/runs/99999999999999999999/encode", content=b""), 404, "no run")
    refused(client.post("/api/runs/0/__init__", json={}), 404, "a run can't __init__")
    refused(client.post("/api/runs/0/facts", json={}), 404, "a run can't facts")
    assert client.get("/api/runs/0/decode").status_code == 405
    assert client.post("/api/runs/..%2f0/decode", json={}).status_code == 404


def test_other_sites_can_neither_read_nor_post(client):
    code = {"code": [0.0] * 4}
    own = {"origin": "http://127.0.0.1:7860", "sec-fetch-site": "same-origin"}
    assert client.post("/api/runs/0/decode", json=code, headers=own).status_code == 200
    for origin in ("http://evil.example", "null", "http://127.0.0.1:7861", "https://127.0.0.1:7860.evil.example"):
        refused(client.post("/api/runs/0/decode", json=code, headers={"origin": origin}), 403, "another site")
    refused(client.post("/api/runs/0/decode", json=code, headers={"sec-fetch-site": "cross-site"}), 403, "another site")
    for host in (
        "evil.example",
        "evil.example:7860",
        "127.0.0.1.evil.example",
        "10.0.0.1:7860",
        "",
        "[",
        "@127.0.0.1:1@x",
    ):
        refused(client.get("/api/start", headers={"host": host}), 403, "this machine alone")
    for host in ("localhost:7860", "127.0.0.1", "[::1]:7860"):
        assert client.get("/", headers={"host": host}).status_code == 200


def test_elsewhere_a_token_is_asked_for(runs, images):
    def visitor():
        return TestClient(
            make_app(runs, images, token="right"), base_url="http://192.0.2.7:7860", follow_redirects=False
        )

    for path in ("/", "/page.js", "/api/start", "/?token=wrong", "/?token=", "/?token=r%C3%AFght"):
        refused(visitor().get(path), 403, "token")
    refused(visitor().post("/api/runs/0/decode", json={"code": [0.0] * 4}), 403, "token")
    known = visitor()
    answer = known.get("/?token=right")
    assert answer.status_code == 303 and answer.headers["location"] == "/"
    assert (
        "httponly" in answer.headers["set-cookie"].lower() and "samesite=strict" in answer.headers["set-cookie"].lower()
    )
    assert known.get("/").status_code == 200
    assert known.post("/api/runs/0/decode", json={"code": [0.0] * 4}).status_code == 200
    evil = {"origin": "http://evil.example"}
    refused(known.post("/api/runs/0/decode", json={"code": [0.0] * 4}, headers=evil), 403, "another site")


def test_a_fault_of_ours_is_a_message_too(runs, images, monkeypatch):
    monkeypatch.setattr(runs[0], "decode", lambda **_: 1 / 0)
    client = TestClient(make_app(runs, images), base_url="http://localhost", raise_server_exceptions=False)
    refused(client.post("/api/runs/0/decode", json={}), 500, "ZeroDivisionError")


# ---- what can be explored ----------------------------------------------------------------------------------------


def test_what_can_not_be_shown_is_said(models, images):
    table = VAE(latent_dim=2, epochs=1, random_state=0).fit(np.random.default_rng(0).normal(size=(64, 5)))
    with pytest.raises(ValueError, match="table of vectors"):
        Explored(table.fitted_, images, "table")
    other = Images(np.zeros((4, 9, 9, 1), np.uint8), None, (), "others")
    with pytest.raises(ValueError, match=r"others has samples of shape \(9, 9, 1\), but vae was fitted on \(8, 8, 1\)"):
        Explored(models[VAE_RUN].fitted_, other, "vae")
    with pytest.raises(ValueError, match="at least 2"):
        Explored(models[VAE_RUN].fitted_, images.take(slice(1)), "vae")


def test_a_model_fitted_on_float_arrays_in_colour_is_explored():
    x = np.random.default_rng(0).random((40, 6, 6, 3), dtype=np.float32)
    model = VAE(latent_dim=3, epochs=1, random_state=0, architecture="mlp").fit(x)
    run = Explored(model.fitted_, Images(x, None, (), "noise"), "noise")
    shown = run.decode(code=[0.0, 0.0, 0.0])
    expected = model.decode(np.zeros((1, 3)))[0]
    np.testing.assert_array_equal(pixels(shown["image"]), np.rint(255 * expected).astype(np.uint8))
    assert run.encode(picture=(255 * x[0]).astype(np.uint8))["mse"] > 0


def test_some_images_are_spread_over_all_of_them():
    x = np.arange(1000, dtype=np.uint8)[:, None, None, None].repeat(4, 1).repeat(4, 2)
    images = Images(x, np.arange(1000), tuple(map(str, range(1000))), "counted")
    assert np.asarray(some(images, 5).y).tolist() == [0, 250, 500, 749, 999]
    assert len(some(images, 2000)) == 1000


def test_the_plane_is_orthonormal_and_the_same_each_time():
    vectors = np.random.default_rng(0).normal(size=(50, 7)) * np.arange(1, 8)
    centre, axes, shares = find_plane(vectors)
    np.testing.assert_allclose(axes @ axes.T, np.eye(2), atol=1e-12)
    np.testing.assert_array_equal(axes, find_plane(vectors)[1])
    assert 1 > shares[0] > shares[1] > 0 and centre.shape == (7,)


def test_runs_are_named_so_that_they_are_told_apart(tmp_path):
    assert run_names(["a/vae", "b/vqvae/"]) == ["vae", "vqvae"]
    assert run_names(["a/vae", "b/vae"]) == ["a/vae", "b/vae"]


# ---- the command -------------------------------------------------------------------------------------------------


def test_ports_that_are_taken_are_passed_over():
    with listen("127.0.0.1", 0) as first:
        taken = first.getsockname()[1]
        with listen("127.0.0.1", taken) as second:
            assert taken < second.getsockname()[1] < taken + 20
    with pytest.raises(ValueError, match="port must be in"):
        listen("127.0.0.1", 70000)
    with pytest.raises(ValueError, match="can't listen on 192"):
        listen("192.0.2.1", 0)


def test_answers_are_sent_at_once(runs, images):
    import uvicorn

    with listen("127.0.0.1", 0) as listening:
        app = make_app(runs, images)
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        connection, seconds = http.client.HTTPConnection("127.0.0.1", listening.getsockname()[1]), []
        for _ in range(30):
            started = time.perf_counter()
            connection.request("GET", "/icon.svg")
            connection.getresponse().read()
            seconds.append(time.perf_counter() - started)
        connection.close()
        server.should_exit = True
        thread.join(timeout=10)
    assert min(seconds) < 0.03  # without TCP_NODELAY each takes 40 ms


def test_only_this_machine_is_loopback():
    assert all(map(is_loopback, ("127.0.0.1", "127.8.8.8", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.1.2", "example.org", "", "localhost.example.org")))


def command_fails(capsys, *arguments) -> str:
    with pytest.raises(SystemExit) as end:
        main(["explore", *map(str, arguments)])
    assert end.value.code == 2
    return capsys.readouterr().err


def test_the_command_says_what_it_lacks(tmp_path, models, capsys):
    assert "needs a trained run" in command_fails(capsys)
    assert "nowhere" in command_fails(capsys, tmp_path / "nowhere")
    models[VAE_RUN].save(tmp_path / "vae")
    assert "say with --data" in command_fails(capsys, tmp_path / "vae")
    x = np.zeros((30, 5, 5), np.uint8)
    np.save(tmp_path / "x.npy", x)
    message = command_fails(capsys, tmp_path / "vae", "--data", tmp_path / "x.npy")
    assert "(5, 5, 1)" in message and "(8, 8, 1)" in message


def test_without_the_extra_it_says_so(tmp_path, models, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "vaekit.explorer.server", raising=False)
    monkeypatch.delitem(sys.modules, "vaekit.explorer", raising=False)
    message = command_fails(capsys, tmp_path)
    assert "pip install 'vaekit[explore]'" in message


@pytest.mark.slow
def test_the_command_serves_until_ctrl_c(tmp_path, models):
    models[VAE_RUN].save(tmp_path / "vae")
    with socket.create_server(("127.0.0.1", 0)) as taken:  # the port it is told is not to be had
        port = taken.getsockname()[1]
        arguments = ["explore", tmp_path / "vae", "--data", "digits", "--no-browser", "--port", port]
        process = subprocess.Popen(
            [sys.executable, "-m", "vaekit", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            assert "179 held-out images of digits" in process.stdout.readline()
            address = process.stdout.readline().split()[2]
            assert address.startswith("http://127.0.0.1:") and not address.startswith(f"http://127.0.0.1:{port}/")
            with urllib.request.urlopen(f"{address}api/start", timeout=30) as answer:
                assert json.load(answer)["runs"][0]["name"] == "vae"
            for path in ("encode", "decode"):  # a page that is closed while it sends
                with socket.create_connection(("127.0.0.1", urlsplit(address).port)) as leaving:
                    head = f"POST /api/runs/0/{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n"
                    leaving.sendall(head.encode() + b'{"half')
                    time.sleep(0.2)
            with urllib.request.urlopen(f"{address}api/start", timeout=30) as answer:
                assert answer.status == 200
            started = time.monotonic()
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0, err
    assert "Traceback" not in err and "rror" not in err and time.monotonic() - started < 20
