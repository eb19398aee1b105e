"""The Hugging Face Hub: what is pushed can be read back, says what the model is, and tells nothing of the machine it left.

The client is the real one; the server is `FakeHub`, on this machine, which answers as the Hub's HTTP API does.
"""

import base64
import contextlib
import copy
import hashlib
import io
import json
import re
import shutil
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from PIL import Image
from safetensors.numpy import load_file

from vaekit import CVAE, VAE, VQVAE, load, open_data
from vaekit.cli import main
from vaekit.hub import check_repo_id, download, model_card, parse_address, public_name, write_repository
from vaekit.owned import MARK
from vaekit.report.measure import measure_run

huggingface_hub = pytest.importorskip("huggingface_hub")

TOKEN = "hf_secret"
RUN = {"run.json", "log.jsonl", "weights.safetensors"}


class FakeHub(ThreadingHTTPServer):
    """Repositories in memory. commits: name -> [(commit id, {path: bytes})], the newest last; asked: "METHOD path" of all
    requests. Writing, and reading what is private, needs TOKEN.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answers)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.commits: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
        self.private: set[str] = set()
        self.gated: set[str] = set()
        self.blobs: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.broken = False

    def commit(self, name: str, files: dict[str, bytes]) -> str:
        sha = hashlib.sha1(repr((name, len(self.commits.get(name, ())), sorted(files))).encode()).hexdigest()
        self.commits.setdefault(name, []).append((sha, files))
        return sha

    def files(self, name: str) -> dict[str, bytes]:
        return self.commits[name][-1][1]


class Answers(BaseHTTPRequestHandler):
    server: FakeHub  # type: ignore[assignment]
    protocol_version = "HTTP/1.1"

    def log_message(self, format, *args):
        pass

    def send(self, status: int, body=None, **headers) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def answer(self) -> None:
        path = unquote(self.path.split("?")[0])
        self.server.asked.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        writes = path == "/api/repos/create" or "/commit/" in path or "/preupload/" in path
        if self.server.broken:
            return self.send(404)
        if writes and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.send(401, {"error": "Invalid credentials"})
        if path == "/api/validate-yaml":
            return self.check_card(json.loads(body)["content"])
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        if found := re.fullmatch(r"/lfs/(\w+)", path):
            self.server.blobs[found[1]] = body
            return self.send(200)
        if found := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            objects = [
                {**wanted, "actions": {"upload": {"href": f"{self.server.url}/lfs/{wanted['oid']}"}}}
                for wanted in json.loads(body)["objects"]
            ]
            return self.send(200, {"transfer": "basic", "objects": objects})
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree|preupload|commit)/(.+))?", path):
            return self.repository(found[1], found[2], found[3], body)
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self.repository(found[1], "resolve", found[2], body, file=found[3])
        return self.send(404)

    do_GET = do_HEAD = do_POST = do_PUT = answer

    def check_card(self, card: str) -> None:
        head = yaml.safe_load(card.split("---\n")[1])
        wrong = [] if head["license"] != "no-such-licence" else [{"message": '"license" must be one of a list'}]
        self.send(400 if wrong else 200, {"errors": wrong, "warnings": []})

    def create(self, wanted: dict) -> None:
        name = f"{wanted['organization']}/{wanted['name']}"
        if name in self.server.commits:
            return self.send(409, {"url": f"{self.server.url}/{name}"})
        if wanted.get("private") or wanted.get("visibility") == "private":
            self.server.private.add(name)
        self.server.commit(name, {".gitattributes": b""})
        return self.send(200, {"url": f"{self.server.url}/{name}"})

    def repository(self, name: str, what: str | None, revision: str | None, body: bytes, file: str = "") -> None:
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if name not in self.server.commits or (name in self.server.private and not known):
            return self.send(404 if known else 401, X_Error_Code="RepoNotFound")
        if name in self.server.gated:
            return self.send(403, X_Error_Code="GatedRepo")
        commits = dict(self.server.commits[name])
        newest = self.server.commits[name][-1][0]
        sha = newest if revision in (None, "main") else revision
        if sha not in commits:
            return self.send(404, X_Error_Code="RevisionNotFound")
        files = commits[sha]
        if what in (None, "revision"):
            siblings = [{"rfilename": path} for path in files]
            return self.send(
                200, {"id": name, "sha": sha, "private": name in self.server.private, "siblings": siblings}
            )
        if what == "tree":
            oid = {path: hashlib.sha1(content).hexdigest() for path, content in files.items()}
            return self.send(
                200, [{"type": "file", "path": p, "size": len(c), "oid": oid[p]} for p, c in files.items()]
            )
        if what == "preupload":
            modes = [
                {
                    "path": wanted["path"],
                    "uploadMode": "lfs" if wanted["path"].endswith((".safetensors", ".png")) else "regular",
                    "shouldIgnore": False,
                }
                for wanted in json.loads(body)["files"]
            ]
            return self.send(200, {"files": modes})
        if what == "commit":
            return self.take(name, dict(self.server.files(name)), [json.loads(line) for line in body.splitlines()])
        if file not in files:
            return self.send(404, X_Error_Code="EntryNotFound")
        tag = hashlib.sha1(files[file]).hexdigest()
        return self.send(200, files[file], ETag=f'"{tag}"', X_Repo_Commit=sha)

    def take(self, name: str, files: dict[str, bytes], operations: list[dict]) -> None:
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self.server.blobs[value["oid"]]
            elif operation["key"] == "deletedFile":
                del files[value["path"]]
        sha = self.server.commit(name, files)
        self.send(200, {"commitUrl": f"{self.server.url}/{name}/commit/{sha}", "commitOid": sha})


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub of its own for a test, an empty cache, and a user who is logged in."""
    from huggingface_hub import constants

    server = FakeHub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "home" / "token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def some():
    """300 of the digits to train on."""
    return open_data("digits").take(np.arange(300))


def tiny(cls=VAE, **fields):
    own = {"n_codes": 8, "code_dim": 2} if cls is VQVAE else {"latent_dim": 2}
    chosen = {**own, "architecture": "mlp", "epochs": 2, "batch_size": 64, "random_state": 0, "device": "cpu"}
    return cls(**{**chosen, **fields})


@pytest.fixture(scope="module")
def models(some) -> dict:
    """One of each kind; shared, so not to be changed."""
    table = np.random.default_rng(0).normal(size=(80, 3)) * [1, 100, 5]
    vqvae = tiny(VQVAE).fit_images(some)
    return {
        "vae": tiny().fit_images(some),
        "cvae": tiny(CVAE).fit_images(some),
        "vqvae": vqvae,
        "vqvae with prior": copy.deepcopy(vqvae).fit_prior(some.x, some.y, epochs=1, layers=1, channels=8),
        "vae with prior": tiny().fit_images(some).fit_prior(some.x, prior="gmm"),
        "table": tiny().fit(table),
    }


@pytest.fixture(scope="module")
def evaluation(models, some) -> dict:
    return measure_run(models["vae"].fitted_, some, open_data("digits", "test").take(np.arange(60)))


def assert_same_model(found, expected, x) -> None:
    assert type(found) is type(expected)
    assert found.get_params() == expected.get_params()
    assert np.array_equal(found.transform(x), expected.transform(x))
    assert found.history_ == expected.history_
    assert found.facts_["data"]["fingerprint"] == expected.facts_["data"]["fingerprint"]
    if expected.has_prior:
        assert np.array_equal(found.sample(4, random_state=1), expected.sample(4, random_state=1))


def head_of(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


@contextlib.contextmanager
def without(module: str):
    """As if `module` were not installed."""
    before = sys.modules.get(module)
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.modules[module] = before  # type: ignore[assignment]


# ---- there and back


@pytest.mark.parametrize("name", ["vae", "cvae", "vqvae", "vqvae with prior", "vae with prior", "table"])
def test_what_is_pushed_is_read_back(hub, models, some, name):
    model = models[name]
    url = model.push_to_hub("me/digits", commit_message="first")
    x = some.x[:20] if name != "table" else np.ones((4, 3))
    assert_same_model(load("hf://me/digits"), model, x)
    files = hub.files("me/digits")
    pictured = name not in ("vqvae", "table")
    prior = {"prior.safetensors"} if "prior" in name else set()
    expected = RUN | prior | {"README.md", ".gitattributes"} | ({"samples.png"} if pictured else set())
    assert set(files) == expected
    sha = hub.commits["me/digits"][-1][0]
    assert url == f"{hub.url}/me/digits/commit/{sha}"
    assert not hub.private


def test_only_a_runs_files_are_fetched_and_the_cache_serves_the_second_time(hub, models, some):
    models["vae"].push_to_hub("me/digits")
    extra = {"model.pkl": b"no", "vaekit.py": b"raise SystemExit", "sub/run.json": b"{}", "checkpoint.safetensors": b""}
    hub.commit("me/digits", {**hub.files("me/digits"), **extra})
    hub.asked.clear()
    folder = download("hf://me/digits")
    assert {path.name for path in folder.iterdir()} == RUN
    fetched = {line.split("/")[-1] for line in hub.asked if "/resolve/" in line}
    assert fetched == RUN
    hub.asked.clear()
    assert_same_model(load("hf://me/digits"), models["vae"], some.x[:5])
    assert not [line for line in hub.asked if line.startswith("GET") and "/resolve/" in line]


def test_a_revision_is_read_as_it_was(hub, models, some):
    models["vae"].push_to_hub("me/digits")
    first = hub.commits["me/digits"][-1][0]
    models["cvae"].push_to_hub("me/digits")
    assert_same_model(load(f"hf://me/digits@{first}"), models["vae"], some.x[:5])
    assert_same_model(load("hf://me/digits@main"), models["cvae"], some.x[:5])
    assert_same_model(load("hf://me/digits"), models["cvae"], some.x[:5])


def test_a_push_over_another_model_leaves_none_of_its_files(hub, models, some, evaluation):
    """Its prior and evaluation would not fit; what a person added stays."""
    models["vae with prior"].push_to_hub("me/digits")
    hub.commit("me/digits", {**hub.files("me/digits"), "evaluation.json": b"{}", "notes.md": b"mine"})
    models["vqvae"].push_to_hub("me/digits")
    assert set(hub.files("me/digits")) == RUN | {"README.md", "notes.md", ".gitattributes"}
    assert_same_model(load("hf://me/digits"), models["vqvae"], some.x[:5])
    assert len(hub.commits["me/digits"]) == 4, "a push is one commit"


def test_without_a_network_the_copy_in_the_cache_is_read(hub, models, some, monkeypatch):
    from huggingface_hub import constants

    models["vae"].push_to_hub("me/digits")
    load("hf://me/digits")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert_same_model(load("hf://me/digits"), models["vae"], some.x[:5])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert_same_model(load("hf://me/digits"), models["vae"], some.x[:5])
    with pytest.raises(ConnectionError, match="hf://me/other is not in the cache, and the Hub can't be reached"):
        load("hf://me/other")


def test_a_prior_can_be_left_aside_as_of_a_folder(hub, models):
    models["vae with prior"].push_to_hub("me/digits")
    assert load("hf://me/digits").has_prior
    assert not load("hf://me/digits", prior=False).has_prior


# ---- the repository as a folder


def test_a_repository_is_a_run_folder_with_a_card_and_a_picture(models, some, tmp_path):
    folder = write_repository(models["cvae"].fitted_, tmp_path / "model", license="mit")
    assert_same_model(load(folder), models["cvae"], some.x[:5])
    assert {path.name for path in folder.iterdir()} == RUN | {MARK, "README.md", "samples.png"}
    picture = Image.open(folder / "samples.png")
    assert picture.height > picture.width, "ten classes, a row each, eight samples a row"
    assert np.asarray(picture.convert("L")).std() > 10
    again = write_repository(models["cvae"].fitted_, tmp_path / "again", license="mit")
    for name in ("README.md", "samples.png"):
        assert (folder / name).read_bytes() == (again / name).read_bytes(), name
    with pytest.raises(ValueError, match="already holds a run"):
        write_repository(models["vae"].fitted_, folder)


@pytest.mark.slow
def test_nothing_tells_of_the_machine(hub, models, some, tmp_path, capsys):
    photos = tmp_path / "home" / "jane" / "faces"
    for index, image in enumerate(some.x[:40]):
        (photos / str(some.y[index] % 2)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(photos / str(some.y[index] % 2) / f"{index}.png")
    run = tmp_path / "runs" / "faces"
    main(["train", "vae", "--data", str(photos), "--out", str(run), "--architecture", "mlp", "--epochs", "1"])
    main(["fit-prior", str(run), "--data", str(photos), "--prior", "gmm"])
    main(["evaluate", str(run), "--data", str(photos), "--no-judge"])
    main(["push", str(run), "me/faces"])
    assert "vaekit.load('hf://me/faces')" in capsys.readouterr().out
    for name, content in hub.files("me/faces").items():
        assert b"jane" not in content and str(tmp_path).encode() not in content, name
    assert load("hf://me/faces").facts_["data"]["name"] == "faces"
    assert load(run).facts_["data"]["name"] == str(photos), "the run itself stays as it was"
    # It is still known by its fingerprint: held-out images are split off as they were.
    main(["evaluate", "hf://me/faces", "--data", str(photos), "--no-judge"])
    assert "nats per image" in capsys.readouterr().out
    assert not Path("hf:").exists()
    here = json.loads((run / "evaluation.json").read_text())
    there = json.loads(hub.files("me/faces")["evaluation.json"])
    assert there == here


@pytest.mark.parametrize(
    ("name", "public"),
    [
        ("digits", "digits"),
        ("/home/jane/faces/", "faces"),
        (r"C:\Users\jane\faces.npz", "faces.npz"),
        ("../x/*.png", "*.png"),
        ("/", "data"),
    ],
)
def test_of_a_path_only_the_last_part_is_public(name, public):
    assert public_name(name) == public


# ---- the card


def test_the_card_says_what_the_model_is(models, evaluation):
    card = model_card(models["vae"].fitted_, repo_id="me/digits", license="cc-by-4.0", evaluation=evaluation)
    head = head_of(card)
    assert head["license"] == "cc-by-4.0"
    assert head["library_name"] == "vaekit"
    assert head["pipeline_tag"] == "unconditional-image-generation"
    assert {"vaekit", "vae"} <= set(head["tags"])
    for fact in ("8 x 8 x 1", "gaussian", f"{models['vae'].n_parameters_:,}", "digits", "300", "2 epochs"):
        assert fact in card
    assert models["vae"].facts_["data"]["fingerprint"][:12] in card
    assert 'load("hf://me/digits")' in card and "![Samples](samples.png)" in card
    assert f"| ELBO | {evaluation['elbo']:,.2f} | nats/image | higher |" in card
    assert f"| test MSE | {evaluation['mse']:.5f} | per pixel | lower |" in card
    assert "test part of the same data" in card
    assert {"Use", "Model", "Training", "Results", "Intended use and limits", "Licence", "Versions"} == set(
        re.findall(r"(?m)^## (.*)", card)
    )


def test_the_hubs_own_reader_finds_the_metrics(models, evaluation):
    card = huggingface_hub.ModelCard(model_card(models["vae"].fitted_, repo_id="me/digits", evaluation=evaluation))
    results = {result.metric_type: result for result in card.data.eval_results}
    assert results["elbo"].metric_value == pytest.approx(evaluation["elbo"], rel=1e-5)
    assert results["mse"].metric_value == pytest.approx(evaluation["mse"], rel=1e-5)
    assert (results["elbo"].dataset_name, results["elbo"].dataset_split) == ("digits", "test")
    assert results["elbo"].metric_name == "ELBO, nats/image"
    tiny_mse = model_card(models["vae"].fitted_, evaluation={**evaluation, "mse": 1.25e-7, "ssim": float("nan")})
    results = {result.metric_type: result for result in huggingface_hub.ModelCard(tiny_mse).data.eval_results}
    assert results["mse"].metric_value == 1.25e-7
    assert "ssim" not in results


def test_the_card_says_what_is_not_known(models, evaluation):
    card = model_card(models["vqvae"].fitted_)
    assert head_of(card)["license"] == "unknown"
    assert head_of(card)["pipeline_tag"] == "image-feature-extraction"
    assert "model-index" not in head_of(card)
    assert "None is stated by whoever shared this model" in card
    assert "Not evaluated on held-out data" in card and "distortion" in card
    assert "no prior yet" in card and "samples.png" not in card and "model.sample" not in card
    table = model_card(models["table"].fitted_)
    assert head_of(table)["pipeline_tag"] == "feature-extraction"
    assert "nats per row" in table and "(N, 3)" in table and "samples.png" not in table
    other = model_card(models["vae"].fitted_, evaluation={**evaluation, "test_fingerprint": "f" * 64})
    assert "other data than it was trained on" in other
    assert head_of(other)["model-index"][0]["results"][0]["dataset"]["name"] == "other data"
    assert "row is a class, in the order of 0, 1, 2" in model_card(models["cvae"].fitted_)


def shape_of(card: str) -> list[tuple[str, str]]:
    """The Markdown elements of a card without its head and its text."""
    tokens = MarkdownIt("commonmark").enable("table").enable("strikethrough").parse(card.split("---\n", 2)[2])
    inner = [inline for token in tokens for inline in (token, *(token.children or ()))]
    return [(token.type, token.tag) for token in inner if not token.type.startswith("text")]


def cell_of(card: str, row: str) -> str:
    """What a reader sees in the table cell beside `row`."""
    tokens = MarkdownIt("commonmark").enable("table").parse(card.split("---\n", 2)[2])
    texts = ["".join(part.content for part in token.children) for token in tokens if token.type == "inline"]
    return texts[texts.index(row) + 1]


nasty = st.one_of(
    st.text(max_size=40),
    st.text(st.sampled_from("`*_{}[]()<>#+-.!|~&$:@\"'\n\r\t /\\xy\u2028\x85\x00"), min_size=1, max_size=30),
    st.sampled_from(["<script>alert(1)</script>", "![x](http://x.y/z.png)", "a|b|c", "---\nlicense: mit\n---", "&lt;"]),
)


@pytest.mark.slow
@given(name=nasty, classes=st.lists(nasty, min_size=2, max_size=3))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_names_from_the_data_break_neither_yaml_nor_markdown(cards, name, classes):
    make, plain = cards
    card = make(name, classes)
    assert shape_of(card) == plain[len(classes)]
    head = head_of(card)
    assert head["license"] == "mit"
    shown = " ".join("".join(c if c.isprintable() else " " for c in name).split())
    assert head["model-index"][0]["results"][0]["dataset"]["name"] == shown
    assert cell_of(card, "data") == shown


@pytest.fixture(scope="module")
def cards(models, evaluation):
    """A card by name of the data and classes; and the elements of cards with plain names, by number of classes."""

    def make(name: str, classes: list[str]) -> str:
        model = copy.copy(models["cvae"].fitted_)
        data = {**model.facts["data"], "name": name}
        model.record = replace(model.record, facts={**model.facts, "data": data})
        model.format = replace(model.format, classes=np.array(classes, dtype=object))
        known = {**evaluation, "test_fingerprint": data["fingerprint"]}
        return model_card(model, repo_id="me/digits", license="mit", evaluation=known)

    return make, {n: shape_of(make("plain", ["a", "b", "c"][:n])) for n in (2, 3)}


def test_an_evaluation_of_another_model_or_state_is_refused(models, evaluation, tmp_path):
    with pytest.raises(ValueError, match="evaluation is of another model"):
        write_repository(models["cvae"].fitted_, tmp_path / "x", evaluation=evaluation)
    with pytest.raises(ValueError, match="older than the fitted prior"):
        write_repository(models["vae with prior"].fitted_, tmp_path / "x", evaluation=evaluation)
    with pytest.raises(ValueError, match="must hold likelihood, parameters"):
        write_repository(models["vae"].fitted_, tmp_path / "x", evaluation={"elbo": 1.0})
    with pytest.raises(FileNotFoundError, match="no evaluation at"):
        write_repository(models["vae"].fitted_, tmp_path / "x", evaluation=tmp_path)
    (tmp_path / "evaluation.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        write_repository(models["vae"].fitted_, tmp_path / "x", evaluation=tmp_path)
    assert not (tmp_path / "x").exists()
    (tmp_path / "evaluation.json").write_text(json.dumps(evaluation))
    folder = write_repository(models["vae"].fitted_, tmp_path / "x", evaluation=tmp_path)
    assert json.loads((folder / "evaluation.json").read_text()) == json.loads(json.dumps(evaluation))


@pytest.mark.parametrize("license", ["MIT", "my licence", "mit\ntags: x", ""])
def test_a_licence_is_an_identifier(models, tmp_path, license):
    with pytest.raises(ValueError, match="license must be the Hub's identifier"):
        write_repository(models["vae"].fitted_, tmp_path / "x", license=license)


# ---- what is refused, and what goes wrong


@pytest.mark.parametrize(
    "repo_id",
    ["digits", "me/digits/x", "../digits", "me/..", "me/a..b", "me/a--b", "/digits", "me/", "me/ digits", "-me/x",
     "me/x.git", "me/x\n", "me/" + "x" * 100, "http://me/x", "me\\x"],
)  # fmt: skip
def test_what_can_be_no_repository_is_refused(models, repo_id):
    for refuse in (check_repo_id, models["vae"].push_to_hub, lambda name: load(f"hf://{name}")):
        with pytest.raises(ValueError, match="a model on the Hub is user/name"):
            refuse(repo_id)


@pytest.mark.parametrize("revision", ["", "../main", "a/../b", "a//b", "/etc", "x y", "x/"])
def test_what_can_be_no_revision_is_refused(revision):
    with pytest.raises(ValueError, match="must be a branch, a tag or a commit"):
        load(f"hf://me/digits@{revision}")


def test_addresses():
    assert parse_address("hf://me/digits") == ("me/digits", None)
    assert parse_address("hf://me/di_g.its-2@refs/pr/1") == ("me/di_g.its-2", "refs/pr/1")
    assert parse_address("hf://me/digits@v1.0") == ("me/digits", "v1.0")


def test_what_is_not_there_is_said(hub, models):
    with pytest.raises(FileNotFoundError, match="there is no hf://me/none on the Hub, or it is private"):
        load("hf://me/none")
    models["vae"].push_to_hub("me/digits")
    with pytest.raises(FileNotFoundError, match="hf://me/digits@v9 has no such revision"):
        load("hf://me/digits@v9")
    hub.commit("me/other", {"config.json": b"{}", "model.safetensors": b""})
    with pytest.raises(ValueError, match=r"hf://me/other is no model of vaekit: it has no run\.json"):
        load("hf://me/other")


def test_a_damaged_or_hostile_repository_is_refused(hub, models):
    models["vae"].push_to_hub("me/digits")
    good = hub.files("me/digits")
    hub.commit("me/digits", {**good, "weights.safetensors": good["weights.safetensors"][:-4]})
    with pytest.raises(ValueError, match="damaged"):
        load("hf://me/digits")
    hub.commit("me/digits", {**good, "run.json": good["run.json"].replace(b'"VAE"', b'"os.system"')})
    with pytest.raises(ValueError, match=r"os\.system"):
        load("hf://me/digits")
    hub.commit("me/digits", {**good, "prior.safetensors": b"\x80\x04}."})
    with pytest.raises(ValueError, match="damaged"):
        load("hf://me/digits")


def test_a_gated_or_forbidden_repository_says_how_to_log_in(hub, models, monkeypatch):
    hub.commit("them/gated", {"run.json": b"{}"})
    hub.gated.add("them/gated")
    with pytest.raises(PermissionError, match=r"hf://them/gated is gated: ask for access.*hf auth login"):
        load("hf://them/gated")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(PermissionError, match=r"the Hub refuses me/digits.*hf auth login"):
        models["vae"].push_to_hub("me/digits")
    assert "me/digits" not in hub.commits
    models["vae"].push_to_hub("me/digits", token=TOKEN)
    assert set(hub.files("me/digits")) > RUN


def test_what_is_private_stays_private(hub, models, monkeypatch, some):
    models["vae"].push_to_hub("me/mine", private=True)
    assert hub.private == {"me/mine"}
    models["vae"].push_to_hub("me/mine", private=True)
    assert_same_model(load("hf://me/mine"), models["vae"], some.x[:5])
    models["vae"].push_to_hub("me/open")
    before = hub.files("me/open")
    with pytest.raises(ValueError, match="me/open is public already: nothing was uploaded"):
        models["cvae"].push_to_hub("me/open", private=True)
    assert hub.files("me/open") == before
    monkeypatch.setenv("HF_TOKEN", "")
    with pytest.raises(FileNotFoundError, match="or it is private: then log in"):
        download("hf://me/mine@" + "0" * 7)


def test_a_licence_that_the_hub_does_not_know_uploads_nothing(hub, models):
    with pytest.raises(ValueError, match='"license" must be one of a list'):
        models["vae"].push_to_hub("me/digits", license="no-such-licence")
    assert set(hub.files("me/digits")) == {".gitattributes"}


def test_a_hub_that_fails_or_is_not_there_is_an_error_of_the_connection(hub, models, monkeypatch):
    from huggingface_hub import constants

    hub.broken = True
    with pytest.raises(ConnectionError, match="404"):
        models["vae"].push_to_hub("me/digits")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConnectionError, match="the Hub can't be reached, or failed"):
        models["vae"].push_to_hub("me/digits")


def test_without_the_library_the_extra_is_named(models):
    with without("huggingface_hub"):
        for use in (lambda: load("hf://me/digits"), lambda: models["vae"].push_to_hub("me/digits")):
            with pytest.raises(ValueError, match=r"extra `hub`: pip install 'vaekit\[hub\]'"):
                use()


# ---- the command


def run(*arguments) -> tuple[int, str, str]:
    """`vaekit ARGUMENTS` -> exit code, standard output, standard error."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = int(end.code or 0)
    assert "Traceback" not in err.getvalue()
    return code, out.getvalue(), err.getvalue()


@pytest.fixture
def run_folder(models, tmp_path) -> Path:
    models["vae"].save(tmp_path / "run")
    return tmp_path / "run"


def test_push_and_use_from_the_command_line(hub, run_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "")
    (tmp_path / "token").write_text(TOKEN + "\n")
    code, out, err = run(
        "push", run_folder, "me/digits", "--private", "--license", "mit", "--token-file", tmp_path / "token"
    )
    assert code == 0, err
    assert hub.commits["me/digits"][-1][0] in out and "vaekit evaluate" in err
    assert hub.private == {"me/digits"}
    assert head_of(hub.files("me/digits")["README.md"].decode())["license"] == "mit"
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for source, name in (("hf://me/digits", "there.npy"), (run_folder, "here.npy")):
        code, _, err = run("sample", source, "-n", 3, "--random-state", 0, "--out", tmp_path / name)
        assert code == 0, err
    assert np.array_equal(np.load(tmp_path / "there.npy"), np.load(tmp_path / "here.npy"))
    code, _, err = run("fit-prior", "hf://me/digits", "--data", "digits")
    assert code == 2 and "vaekit.load('hf://me/digits').save('FOLDER')" in err
    assert not Path("hf:").exists()


def test_the_commands_exit_codes(hub, run_folder, tmp_path, monkeypatch):
    from huggingface_hub import constants

    for arguments, code, words in (
        (("push", run_folder, "digits"), 2, "user/name"),
        (("push", tmp_path / "none", "me/digits"), 2, "no run folder"),
        (("push", run_folder, "me/digits", "--license", "My own"), 2, "license must be"),
        (("push", run_folder, "me/digits", "--token-file", tmp_path / "none"), 2, "no token file at"),
        (("sample", "hf://me/none", "--out", tmp_path / "x.npy"), 2, "there is no hf://me/none"),
    ):
        found, out, err = run(*arguments)
        assert (found, out) == (code, ""), arguments
        assert err.startswith("vaekit: ") and err.count("\n") == 1 and words in err
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    code, _, err = run("push", run_folder, "me/digits")
    assert code == 1 and "hf auth login" in err and err.count("\n") <= 2
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    code, _, err = run("sample", "hf://me/none", "--out", tmp_path / "x.npy")
    assert code == 1 and "can't be reached" in err


def test_the_weights_on_the_hub_are_plain_safetensors(hub, models, tmp_path):
    """Another library reads them."""
    models["vae"].push_to_hub("me/digits")
    (tmp_path / "w.safetensors").write_bytes(hub.files("me/digits")["weights.safetensors"])
    state = models["vae"].model_.state_dict()
    for name, value in load_file(tmp_path / "w.safetensors").items():
        assert np.array_equal(value, state[name].numpy())


def test_a_pushed_folder_can_be_copied_and_used_anywhere(models, some, tmp_path):
    """What a clone of the repository is: a run folder, wherever it lies."""
    write_repository(models["vae"].fitted_, tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    shutil.rmtree(tmp_path / "a")
    assert_same_model(load(tmp_path / "b"), models["vae"], some.x[:5])
