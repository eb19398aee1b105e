"""The help of the command line: every flag has its words, stands under its topic, and is there at once."""

import contextlib
import dataclasses
import io
import json
import re
import subprocess
import sys

import pytest

from vaekit.cli import COMMANDS, main
from vaekit.cli.flags import TOPIC_OF, parse
from vaekit.cli.train import make_train
from vaekit.registry import MODELS, Model

PAGES = [(command,) for command in COMMANDS if command != "train"] + [("train", model) for model in MODELS]


def shown(*command: str) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit) as end:
        main([*command, "--help"])
    assert not end.value.code
    return out.getvalue()


def entries(page: str) -> dict[str, tuple[str, str]]:
    """Of each flag in a help, by its field's name: the title it stands under, and its words."""
    found, title, name = {}, "", ""
    for line in page.splitlines():
        if heading := re.fullmatch(" ((?:[a-z]+ )?options) *", line):
            title = heading[1].removesuffix(" options")
        elif flag := re.match("  (?:-n INT, |-h, )?--([a-z][a-z-]*)(?: [A-Z]+| {[^}]*}|, --no-[a-z-]+)?(.*)", line):
            name = flag[1].replace("-", "_")
            found[name] = (title, flag[2].strip())
        elif name and line.startswith("    "):
            found[name] = (title, f"{found[name][1]} {line.strip()}")
        else:
            name = ""
    return found


def topics(page: str) -> dict[str, str]:
    return {name: title for name, (title, _) in entries(page).items()}


@pytest.fixture(scope="module")
def pages() -> dict[tuple[str, ...], str]:
    return {page: shown(*page) for page in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=" ".join)
def test_it_says_in_words_what_happens_without_a_flag(pages, page):
    assert "None" not in pages[page]


@pytest.mark.parametrize(
    "command, usage",
    {"data": "DATA", "sample": "RUN", "evaluate": "RUN", "push": "RUN USER/NAME", "explore": "RUN ..."}.items(),
)
def test_the_usage_line_names_what_stands_without_a_flag(pages, command, usage):
    words = pages[(command,)].splitlines()[0].split()
    assert " ".join(word for word in words if (word.isupper() and word[0] != "[") or word == "...") == usage


@pytest.mark.parametrize("name", MODELS)
def test_the_flags_of_a_model_stand_under_their_topics(pages, name):
    found = topics(pages["train", name])
    assert list(dict.fromkeys(found.values())) == ["options", "data", "model", "training", "machine", "output"]
    for field in dataclasses.fields(MODELS[name].fields()):
        assert found[field.name] == TOPIC_OF.get(field.name, "model"), field.name


def test_every_command_has_its_topics(pages):
    assert topics(pages[("fit-prior",)])["components"] == topics(pages[("fit-prior",)])["prior"] == "prior"
    assert topics(pages[("sample",)])["out"] == "output"
    assert topics(pages[("sample",)])["random_state"] == "options"  # alone of its topic there
    assert topics(pages[("sweep",)])["latent_dim"] == "model"
    known = {flag for page in pages.values() for flag in topics(page)}
    assert set(TOPIC_OF) <= known


@pytest.mark.parametrize("page", PAGES, ids=" ".join)
def test_every_flag_has_words(pages, page):
    for name, (_, words) in entries(pages[page]).items():
        assert re.sub(r"\((default: .*|required)\)$", "", words).strip(), name


def test_a_run_is_told_how_its_data_is_read(pages):
    assert "as it was when RUN was trained" in " ".join(pages[("encode",)].split())
    assert "RUN was trained" not in pages["train", "vae"]


def test_what_is_given_and_what_is_not_become_the_fields():
    given = ["--out", "runs/x", "--beta", "2", "--epochs", "None", "--no-resume", "--fit", "pad"]
    made = parse(make_train("bvae"), given, "vaekit train bvae")
    assert (made.out, made.data, made.resume, made.fit) == ("runs/x", None, False, "pad")
    assert vars(made.model) == vars(MODELS["bvae"].fields()(beta=2.0))


def test_a_model_of_ones_own_has_its_flags_in_the_help(tmp_path, monkeypatch):
    (tmp_path / "of_my_own.py").write_text(
        "from dataclasses import dataclass\nfrom vaekit import VAE\n\n\n"
        "@dataclass(kw_only=True, repr=False, eq=False)\nclass Mine(VAE):\n"
        '    """A model of one\'s own."""\n\n    sharpness: float | None = None\n    """How sharp; by default it is not."""\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(MODELS, "mine", Model("Mine", "Mine", "my own", "of_my_own", "of_my_own"))
    page = shown("train", "mine")
    assert topics(page)["sharpness"] == "model" and topics(page)["epochs"] == "training"
    assert "How sharp; by default it is not." in page and "A model of one's own." in page


def test_it_is_there_without_the_heavy_libraries():
    code = (
        "import sys, contextlib, io, json, vaekit.cli\n"
        "for page in json.loads(sys.argv[1]):\n"
        "    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "        vaekit.cli.main([*page, '--help'])\n"
        "    heavy = ('torch', 'numpy', 'sklearn', 'matplotlib', 'vaekit.data')\n"
        "    print(*page, [name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, json.dumps(PAGES)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{' '.join(page)} []" for page in PAGES]
