"""Pages that are made, not written: of the models, of the commands, of the numbers, and the drawing of data's way. Each is made
of the code or of a record, so that it can't say anything else. `write` makes them before Sphinx reads the site.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import tomllib
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from vaekit.cli import COMMANDS, main
from vaekit.cli.flags import _words as described
from vaekit.registry import MODELS

DOCS = Path(__file__).parents[1]
RECORDS = DOCS.parent / "benchmarks" / "results"
TEMPLATES = Environment(
    loader=FileSystemLoader(DOCS / "_templates"),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def record(name: str) -> dict:
    """What the benchmark `name` found, and where."""
    path = RECORDS / f"{name}.json"
    if not path.is_file():
        raise ValueError(f"there is no record {name!r} in {RECORDS.name}/")
    return json.loads(path.read_text(encoding="utf-8"))


def shown(value) -> str:
    """A number of a record as it is printed."""
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def figure(path: str) -> str:
    """One number of a record: "record :: row :: column". The row is named by a value that stands in it, or by two, "a & b", and
    by none where the record has one row.
    """
    if path.count("::") != 2:
        raise ValueError(f"a number of a record is named by record :: row :: column, not {path!r}")
    name, row, column = (part.strip() for part in path.split("::"))
    wanted = {part.strip() for part in row.split("&") if part.strip()}
    rows = [found for found in record(name)["figures"] if wanted <= {shown(value) for value in found.values()}]
    if len(rows) != 1 or column not in rows[0]:
        raise ValueError(f"{path!r} names {len(rows)} rows of the record, or no column of it")
    return shown(rows[0][column])


def table(rows: list[dict]) -> str:
    """Rows of one record as a table in Markdown."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *[[shown(value) for value in row.values()] for row in rows]]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def provenance(found: dict) -> str:
    """Where a record is from, in one line."""
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return f"`{found['command']}`, {found['date'][:10]}, commit {found['commit']}, {found['machine']}, {versions}"


README_ROWS = (
    (
        "time until a VAE is as good as pythae's after 50 epochs of the report's network",
        "{} times less",
        ["quality :: :: times faster"],
    ),
    ("the same of a VQ-VAE, after 20 epochs", "{} times less", ["quality_codes :: :: times faster"]),
    (
        "negative log-likelihood of binarised digits, 50 latents and layers of 200, after five minutes of a VAE",
        "{} nats, published after 3,280 passes: {}; after ten minutes of an IWAE, k=5: {}, published: {}",
        [
            "nll :: VAE & 5 :: NLL, test",
            "nll :: VAE & 5 :: published NLL",
            "nll :: IWAE, k=5 & 10 :: NLL, test",
            "nll :: IWAE, k=5 & 10 :: published NLL",
        ],
    ),
    (
        "accuracy of a classifier from ten labels of each digit",
        "{} %; classical augmentation alone: {} %",
        [
            "few_labels :: mnist & 10 & FewLabelsClassifier :: accuracy, %",
            "few_labels :: mnist & 10 & classical augmentation :: accuracy, %",
        ],
    ),
    (
        "images of a CVAE that are the digit asked for",
        "{} %; the report's network: {} %",
        ["conditional :: default CVAE :: all", "conditional :: wang2023 CVAE (scalar condition) :: all"],
    ),
    (
        "Frechet distance of new icons by class, from a grid of latents with flow matching",
        "{}; from one vector with a mixture: {}; pythae's best sampler in as many minutes: {}; reconstructions: {}",
        [
            "pictures :: VAE, a grid :: guidance 2",
            "pictures :: VAE, a vector :: samples",
            "pictures_pythae :: mixture :: samples",
            "pictures :: VAE, a grid :: reconstructions",
        ],
    ),
    (
        "area under the ROC curve, one of scikit-learn's digits held out among the other nine",
        "{}; five Gaussian mixtures of pixels: {}; one: {}; an isolation forest: {}",
        [
            "anomalies :: VAE, combined :: mean AUC",
            "anomalies :: Gaussian mixture of pixels, five :: mean AUC",
            "anomalies :: Gaussian mixture of pixels :: mean AUC",
            "anomalies :: isolation forest :: mean AUC",
        ],
    ),
)


def readme_numbers() -> str:
    """The README's table of numbers."""
    rows = []
    for what, words, paths in README_ROWS:
        name = paths[0].split("::")[0].strip()
        found = words.format(*map(figure, paths))
        rows.append({"measured": what, "found": found, "record": f"[`{name}`](benchmarks/results/{name}.json)"})
    return table(rows)


def record_page(name: str) -> str:
    """The page of one record."""
    found = record(name)
    text = found["text"].replace("](results/", "](../../benchmarks/results/")
    return f"# {name}\n\n{found['claim']}\n\n{table(found['figures'])}\n\n{text}\n\n{provenance(found)}\n"


def records_page() -> str:
    """The list of all records."""
    names = sorted(path.stem for path in RECORDS.glob("*.json"))
    lines = [f"- [{name}]({name}.md): {_first_sentence(record(name)['claim'])}" for name in names]
    return TEMPLATES.get_template("numbers.md.jinja").render(names=names, lines=lines)


def _first_sentence(text: str) -> str:
    return text.split(". ")[0].rstrip(".") + "."


def command_page(command: str) -> str:
    """A command's help, word for word; of `train` a model's."""
    words = command.split()
    line = COMMANDS[words[0]].line if words[0] != "train" else MODELS[words[1]].line
    return f"# vaekit {command}\n\n{line[0].upper()}{line[1:]}.\n\n```text\n{_help(*words)}\n```\n"


def commands() -> list[str]:
    """Every command, `train` once for each model."""
    return [*(f"train {model}" for model in MODELS), *(name for name in COMMANDS if name != "train")]


def _help(*words: str) -> str:
    out = io.StringIO()
    with _columns(100), contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main([*words, "--help"])
    return "\n".join(line.rstrip() for line in out.getvalue().strip().splitlines())


@contextlib.contextmanager
def _columns(width: int):
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(width)
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


def model_facts() -> dict[str, dict]:
    """What models.toml says of each model."""
    return tomllib.loads((DOCS / "models.toml").read_text(encoding="utf-8"))


def model_page(key: str) -> str:
    """The page of a model, from the template that all share."""
    entry, words = MODELS[key], described(MODELS[key].fields())
    facts = model_facts()[key]
    kept = [(name, record(name), _rows_of(name, chosen)) for name, chosen in facts.pop("numbers").items()]
    return TEMPLATES.get_template("model.md.jinja").render(
        key=key,
        entry=entry,
        own=[(field.name, _default(field), words[field.name]) for field in _own_fields(key)],
        numbers=[(name, table(rows), provenance(found)) for name, found, rows in kept],
        **facts,
    )


def _own_fields(key: str) -> list[dataclasses.Field]:
    fields = MODELS[key].fields()
    shared = {field.name for field in dataclasses.fields(fields.__mro__[1])}
    return [field for field in dataclasses.fields(fields) if field.name not in shared]


def models_page() -> str:
    """The list of all models."""
    rows = [(key, entry, ", ".join(f"`{f.name}`" for f in _own_fields(key))) for key, entry in MODELS.items()]
    return TEMPLATES.get_template("models.md.jinja").render(rows=rows)


def _default(field: dataclasses.Field) -> str:
    return "" if field.default is None else f"`{field.default}`"


def _rows_of(name: str, chosen: list[str]) -> list[dict]:
    """The rows of a record whose first value is one of those `chosen`; all where none is."""
    rows = record(name)["figures"]
    found = [row for row in rows if not chosen or next(iter(row.values())) in chosen]
    if not found:
        raise ValueError(f"the record {name!r} has no row {' or '.join(chosen)}")
    return found


def fields_page() -> str:
    """The fields that all models share."""
    fields = MODELS["vae"].fields().__mro__[1]
    words = described(fields)
    rows = [(field.name, _default(field), words[field.name]) for field in dataclasses.fields(fields)]
    return TEMPLATES.get_template("fields.md.jinja").render(rows=rows, models=MODELS)


def pages() -> dict[str, str]:
    """Every page that is made, by its place under docs/."""
    made = {f"models/{key}.md": model_page(key) for key in MODELS} | {"models/fields.md": fields_page()}
    made["models/index.md"] = models_page()
    made |= {f"command-line/{name.replace(' ', '-')}.md": command_page(name) for name in commands()}
    made["command-line/index.md"] = TEMPLATES.get_template("commands.md.jinja").render(
        rows=[(name, name.replace(" ", "-"), _line_of(name)) for name in commands()]
    )
    made |= {f"numbers/{path.stem}.md": record_page(path.stem) for path in RECORDS.glob("*.json")}
    return made | {"numbers/index.md": records_page()}


def _line_of(command: str) -> str:
    words = command.split()
    return MODELS[words[1]].line if words[0] == "train" else COMMANDS[words[0]].line


def write(docs: Path) -> None:
    """Writes what has changed of the pages that are made, and the pictures that are not there."""
    from data_way import draw_way
    from portraits import draw_portrait

    for place, text in pages().items():
        _write_changed(docs / place, text)
    _write_changed(docs / "house" / "data-way.svg", draw_way())
    for key in MODELS:
        draw_portrait(key, docs / "models" / f"{key}.png")


def _write_changed(path: Path, text: str) -> None:
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
