"""README and site: every snippet runs on small data, every link leads somewhere, and what is made of the code is made of all
of it.

A line of a shell snippet, or a Python snippet, with a comment that begins with "needs" is only compiled: Python as such, a
command of ours as flags.
"""

import contextlib
import dataclasses
import importlib
import inspect
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sybil import Sybil
from sybil.parsers.markdown import CodeBlockParser

import vaekit
from vaekit.cli import COMMANDS, main
from vaekit.cli.flags import parse
from vaekit.estimators.base import Estimator
from vaekit.registry import MODELS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS / "_ext"))
import data_way  # noqa: E402
import pages  # noqa: E402
import sources  # noqa: E402

MADE = pages.pages()
SKIPPED = {"_build", "_ext", "_templates", "gallery"} | {place.split("/")[0] for place in MADE}
WRITTEN = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(path for path in DOCS.rglob("*.md") if not SKIPPED & set(path.relative_to(DOCS).parts)),
]
SCRIPTS = sorted((ROOT / "examples" / "gallery").glob("plot_*.py"))
TEXTS = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in WRITTEN}
TEXTS |= {f"docs/{place}": text for place, text in MADE.items()}
MOST_EPOCHS, NEEDS = 2, re.compile(r"#\s*needs\b")


# Snippets


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    """What the pages' snippets find: photos/ of two classes, new/ ones, a table of labels and one of people."""
    folder = tmp_path_factory.mktemp("workspace")
    rng = np.random.default_rng(0)
    for place, n in (("photos/square", 24), ("photos/disc", 24), ("new", 6)):
        (folder / place).mkdir(parents=True)
        for number in range(n):
            Image.fromarray(_shape(rng, disc="disc" in place)).save(folder / place / f"{number:02}.png")
    named = [f"{kind}/{number:02}.png,{kind}" for kind in ("square", "disc") for number in range(12)]
    (folder / "labels.csv").write_text("\n".join(["file,label", *named]) + "\n")
    rows = [f"{i},{rng.normal(170, 9):.1f},{rng.lognormal(4, 0.4):.2f},{i % 3}" for i in range(120)]
    (folder / "people.csv").write_text("\n".join(["id,height,weight,group", *rows]) + "\n")
    return folder


def _shape(rng: np.random.Generator, *, disc: bool) -> np.ndarray:
    """(H, W) uint8, of another size each: a bright square or disc somewhere on noise."""
    height, width = rng.integers(12, 18, 2)
    rows, columns = np.mgrid[:height, :width]
    down, across = np.abs(rows - rng.uniform(4, height - 4)), np.abs(columns - rng.uniform(4, width - 4))
    inside = np.hypot(down, across) < 4 if disc else np.maximum(down, across) < 3.5
    return (rng.integers(0, 60, (height, width)) + 180 * inside).astype(np.uint8)


@pytest.fixture
def small(monkeypatch):
    """Trainings and second stages of few epochs, whatever a snippet says, no judge that learns for long, and all of it in this
    process, where that holds.
    """
    resolve, settings = Estimator.resolve, importlib.import_module("vaekit.training.kinds").resolve_settings

    def shorter(self, format, n, *, steps=None):
        found = resolve(self, format, n, steps=steps)
        return found | {"epochs": min(MOST_EPOCHS, self.epochs or MOST_EPOCHS)}

    monkeypatch.setattr(Estimator, "resolve", shorter)
    monkeypatch.setattr(
        "vaekit.second_stage.resolve_settings",
        lambda *given, **how: dataclasses.replace(settings(*given, **how), epochs=1),
    )
    monkeypatch.setattr("vaekit.evaluation.generation.JUDGE_EPOCHS", 1)
    monkeypatch.setattr("vaekit.report.sweep.cores", lambda: 1)
    monkeypatch.setattr("vaekit.report.times.LOOKED_AT", 16)
    monkeypatch.setattr("vaekit.training.step.REHEARSAL_STEPS", 1)
    monkeypatch.setattr("vaekit.estimators.few_labels.ROUNDS", ((5, 0.9), (5, 1.0)))


def run_python(example) -> None:
    """A Python snippet, in the module that its page is."""
    code = compile("\n" * (example.line + example.parsed.line_offset) + example.parsed, example.path, "exec")
    if example.namespace["runs"] and not NEEDS.search(example.parsed):
        exec(code, example.namespace["page"].__dict__)


def run_shell(example) -> None:
    """A shell snippet, line by line; a line that ends in a backslash goes on in the next."""
    for line in example.parsed.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            run_command(words, compiled=bool(NEEDS.search(line)), runs=example.namespace["runs"])


def run_command(words: list[str], *, compiled: bool, runs: bool) -> None:
    """compiled: only, since it needs something. runs: whether its page does, so that files that it makes are there."""
    program, *rest = words
    if program in ("torchrun", "srun"):
        assert compiled, f"{program} is for several processes: say what the line needs"
        words = rest[rest.index("-m") + 1 :]
        program, *rest = words
    if program == "vaekit":
        assert_parsed(rest)
        if runs and not compiled and rest[0] != "explore":  # a server
            call(rest)
    elif program == "pip":
        assert compiled and rest[0] == "install"
    elif program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert next(word for word in rest if "=" not in word) in targets
    elif program == "python":
        script = rest[1] if rest[0] == "-m" else rest[0]
        if runs:
            assert script == "benchmarks" or (ROOT / script).is_file() or Path(script).is_file(), script
        if runs and not compiled:
            path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
            subprocess.run(
                [sys.executable, *rest], check=True, capture_output=True, env={**os.environ, "PYTHONPATH": path}
            )
    else:
        assert compiled or program in ("git", "cd"), f"who runs {program}?"


def assert_parsed(words: list[str]) -> None:
    """That a command of ours has these flags."""
    command, *rest = words
    assert command in COMMANDS, command
    home = importlib.import_module(f"vaekit.cli.{COMMANDS[command].home}")
    kind = home.make_train(rest.pop(0)) if command == "train" else getattr(home, command.title().replace("-", ""))
    try:
        parse(kind, rest, f"vaekit {command}")
    except SystemExit as error:
        raise AssertionError(f"vaekit {shlex.join(words)}") from error


def call(words: list[str]) -> None:
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            main(words)
    except SystemExit as error:
        assert not error.code, f"vaekit {shlex.join(words)}: {said.getvalue()}"


PARSERS = [CodeBlockParser("python", run_python), CodeBlockParser("sh", run_shell)]


def has_snippets(text: str) -> bool:
    return "```python" in text or "```sh" in text


WITH_SNIPPETS = [name for name, text in TEXTS.items() if has_snippets(text)]
FIRST = ("README.md",)  # read by everybody


def evaluate(name: str, folder: Path, monkeypatch, *, runs: bool) -> None:
    """The snippets of a page, in their order; those that do not run are compiled."""
    file = folder / Path(name).name
    file.write_text(TEXTS[name], encoding="utf-8")
    page = types.ModuleType(f"page_{file.stem.replace('-', '_')}")
    monkeypatch.setitem(sys.modules, page.__name__, page)
    document = Sybil(PARSERS, path=str(folder)).parse(file)
    document.namespace |= {"page": page, "runs": runs}
    for example in document.examples():
        example.evaluate()


@pytest.mark.parametrize(
    "name", [name if name in FIRST else pytest.param(name, marks=pytest.mark.slow) for name in WITH_SNIPPETS]
)
def test_every_snippet_of_a_page_runs(name, workspace, small, tmp_path, monkeypatch):
    shutil.copytree(workspace, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    evaluate(name, tmp_path, monkeypatch, runs=True)


@pytest.mark.parametrize("name", WITH_SNIPPETS)
def test_every_snippet_of_a_page_compiles(name, tmp_path, monkeypatch):
    evaluate(name, tmp_path, monkeypatch, runs=False)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_of_the_gallery_says_what_it_shows_and_compiles(path):
    text = path.read_text(encoding="utf-8")
    compile(text, path, "exec")
    title, line = inspect.cleandoc(re.match(r'"""(.*?)"""', text, re.DOTALL)[1]).splitlines()[:2]  # pyright: ignore[reportOptionalSubscript]
    assert title and set(line) == {"="} and len(line) == len(title)


def test_every_command_has_a_guide():
    guides = "\n".join(text for name, text in TEXTS.items() if name.startswith("docs/guides/"))
    for command in COMMANDS:
        assert re.search(rf"^vaekit {command}\b", guides, re.MULTILINE), f"no guide shows vaekit {command}"


def test_what_is_said_to_need_something_says_what():
    for name, text in TEXTS.items():
        for line in text.splitlines():
            if found := NEEDS.search(line):
                rest = line[found.end() :].strip()
                assert re.match(
                    r"(a network|a GPU|SLURM|Ray|two machines|four GPUs|them|a copy of the source)", rest
                ), (name, line)


# Links


def places() -> set[str]:
    """Every page and file that a link may lead to, from the repository's root."""
    files = {
        str(path.relative_to(ROOT)) for path in [*WRITTEN, *DOCS.glob("*.png"), ROOT / "LICENSE", ROOT / "CHANGELOG.md"]
    }
    files |= {f"benchmarks/{path.relative_to(ROOT / 'benchmarks')}" for path in (ROOT / "benchmarks").rglob("*.*")}
    files |= {f"docs/models/{key}.png" for key in MODELS} | {"docs/house/data-way.svg", "docs/gallery/index.rst"}
    return files | set(TEXTS) | {f"docs/gallery/{path.stem}.rst" for path in SCRIPTS}


def anchors(text: str) -> set[str]:
    """The headings of a page as a link names them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", TEXTS)
def test_no_link_of_a_page_is_dead(name):
    known = places()
    text = re.sub(r"^```.*?^```", "", TEXTS[name], flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        place = os.path.normpath(os.path.join(os.path.dirname(name), path)) if path else name
        assert place in known or (ROOT / place).is_dir(), f"{name} links to {target}"
        if anchor:
            assert anchor in anchors(TEXTS[place]), f"{name} links to {target}"
    for target in re.findall(r":doc:`[^`<]*<([^>]+)>`", text):
        assert f"docs{target}.md" in known, target


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_no_link_of_a_script_is_dead(path):
    for target in re.findall(r":doc:`[^`<]*<([^>]+)>`", path.read_text(encoding="utf-8")):
        assert f"docs{target}.md" in places(), target


@pytest.mark.parametrize("folder", ["docs", "docs/guides", "docs/report", "docs/api", "docs/house"])
def test_every_page_is_in_its_contents(folder):
    index = TEXTS[f"{folder}/index.md"]
    listed = set(re.search(r"```\{toctree\}\n(?::\w+:\n)*\n(.*?)```", index, re.DOTALL)[1].split("\n"))  # pyright: ignore[reportOptionalSubscript]
    there = {Path(name).stem for name in TEXTS if os.path.dirname(name) == folder} - {"index"}
    assert {name for name in listed if name and "/index" not in name} == there


# Reference


def listed(page: str) -> list[str]:
    """What a page of the reference lists."""
    text = TEXTS[f"docs/api/{page}.md"]
    return re.findall(r"^\.\. (?:auto\w+|py:data):: ([\w.]+)$", text, re.MULTILINE)


@pytest.mark.parametrize("page", ["vaekit", "parts", "models", "data", "export"])
def test_the_reference_is_what_is_public(page):
    module = importlib.import_module("vaekit" if page == "vaekit" else f"vaekit.{page}")
    assert sorted(listed(page)) == sorted(f"{module.__name__}.{name}" for name in module.__all__)


@pytest.mark.parametrize("name", [name for page in ("data", "export", "jobs", "tensors") for name in listed(page)])
def test_what_the_reference_lists_is_documented(name):
    thing = sources.found(name)
    written = (vars(thing).get("__doc__") if inspect.isclass(thing) else thing.__doc__) or ""
    assert written and not written.startswith(f"{name.rsplit('.')[-1]}("), f"{name} has no docstring"


def test_the_reference_lists_the_methods_of_an_estimator():
    named = set(re.search(r"vaekit\.VAE\n   :members: ([\w, ]+)", TEXTS["docs/api/vaekit.md"])[1].split(", "))  # pyright: ignore[reportOptionalSubscript]
    for name in named:
        assert inspect.getdoc(getattr(vaekit.VAE, name)), name
    faces = [base for base in vaekit.VAE.__mro__ if base.__name__ in ("Face",)]
    methods = {
        name for base in faces for name, found in vars(base).items() if inspect.isfunction(found) and name[0] != "_"
    }
    assert methods <= named


# What is made of code and records


@pytest.mark.parametrize("name", [name for name in TEXTS if name.startswith("docs/report/")])
def test_a_formula_stands_beside_the_line_that_is_it(name):
    for full, wanted in re.findall(r"^```\{source\} ([\w.]+)\n(.*?)^```", TEXTS[name], re.DOTALL | re.MULTILINE):
        code, line = sources.lines_of(full, wanted.splitlines())
        assert code and line > 0


@pytest.mark.parametrize("name", [name for name, text in TEXTS.items() if "{figure}" in text or "{record}" in text])
def test_every_number_is_of_a_record(name):
    for path in re.findall(r"\{figure\}`([^`]+)`", TEXTS[name]):
        if path != "record :: row :: column":
            assert pages.figure(path)
    for record, content in re.findall(r"^```\{record\} (\w+)\n(.*?)^```", TEXTS[name], re.DOTALL | re.MULTILINE):
        chosen = [line.strip() for line in content.splitlines() if line.strip() and not line.startswith(":")]
        rows = pages._rows_of(record, chosen)
        for column in re.findall(r"^:columns: (.+)$", content, re.MULTILINE):
            assert {part.strip() for part in column.split("|")} <= set(rows[0])


def test_a_number_that_no_record_has_is_refused():
    with pytest.raises(ValueError, match="names 0 rows"):
        pages.figure("nll :: nobody :: NLL, test")
    with pytest.raises(ValueError, match="no record 'none'"):
        pages.figure("none :: a :: b")


def test_the_readme_has_the_numbers_of_the_records():
    assert pages.readme_numbers() in TEXTS["README.md"]


def test_every_model_has_its_page():
    assert set(pages.model_facts()) == set(MODELS)
    for key in MODELS:
        text = MADE[f"models/{key}.md"]
        for field in dataclasses.fields(MODELS[key].fields()):
            assert f"`{field.name}`" in text + MADE["models/fields.md"]


@pytest.mark.parametrize("command", pages.commands())
def test_every_flag_has_words_and_is_on_the_page_of_its_command(command):
    text = MADE[f"command-line/{command.replace(' ', '-')}.md"]
    words = command.split()
    home = importlib.import_module(f"vaekit.cli.{COMMANDS[words[0]].home}")
    kind = home.make_train(words[1]) if words[0] == "train" else getattr(home, command.title().replace("-", ""))
    for field in dataclasses.fields(kind):
        flag = field.name.replace("_", "-")
        inner = dataclasses.is_dataclass(field.type) or field.name in ("model", "prior", "run_folder", "run_folders")
        positional = field.name in ("repo_id",) or (command in ("data", "few-labels") and field.name == "data")
        assert inner or positional or f"--{flag}" in text, f"vaekit {command} --{flag}"
        assert field.name in ("model", "prior") or pages.described(kind).get(field.name), f"--{flag} has no words"


def test_datas_way_has_no_gap():
    way = data_way.stops()
    ends = {arrow.end for arrow in data_way.arrows(way)}
    assert not [stop.name for place, stop in enumerate(way) if place and place not in ends]
    assert data_way.draw_way().count("<rect") == len(way)


def test_every_extra_that_a_page_names_is_there():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for name, text in TEXTS.items():
        for found in re.findall(r"vaekit\[([\w,]+)\]", text):
            assert set(found.split(",")) <= set(extras), (name, found)
