"""The Hugging Face Hub. A repository there is a run folder, with a model card and a picture of samples beside it; reading
one back runs no code from it: JSON and safetensors only, and no other file is fetched.
"""

from __future__ import annotations

import copy
import inspect
import json
import math
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from vaekit import __version__
from vaekit.data.splits import evenly
from vaekit.evaluation.measures import COLUMNS, QUALITY_COLUMNS
from vaekit.fitted import Fitted
from vaekit.messages import first_line, in_rows
from vaekit.owned import MARK, write_atomically
from vaekit.registry import MODELS, key_of
from vaekit.state import undisturbed
from vaekit.training.progress import describe_record, describe_seconds

PREFIX = "hf://"
RUN_FILES = ("run.json", "log.jsonl", "weights.safetensors", "prior.safetensors", "evaluation.json")
CARD_FILES = ("README.md", "samples.png")
LOG_IN = "log in with `hf auth login`, or set HF_TOKEN to a token of yours"
_NAME = r"\w(?:[\w.-]*\w)?"
_METRICS = [c for c in (*COLUMNS, *QUALITY_COLUMNS) if c.key not in ("parameters", "seconds", "images_per_second")]


def is_address(path) -> bool:
    """Whether `path` is that of a model on the Hub: "hf://user/name"."""
    return isinstance(path, str) and path.startswith(PREFIX)


def parse_address(address: str) -> tuple[str, str | None]:
    """ "hf://user/name@revision" -> ("user/name", "revision"), None where none is named; ValueError for anything else."""
    repo_id, at, revision = address.removeprefix(PREFIX).partition("@")
    check_repo_id(repo_id)
    if at and (not re.fullmatch(r"\w(?:[\w./-]*[\w-])?", revision, re.ASCII) or ".." in revision or "//" in revision):
        raise ValueError(f"the revision of {address!r} must be a branch, a tag or a commit, got {revision!r}")
    return repo_id, revision or None


def check_repo_id(repo_id: str) -> None:
    """Raises ValueError unless `repo_id` is "user/name" as the Hub allows it."""
    fits = re.fullmatch(f"{_NAME}/{_NAME}", repo_id, re.ASCII) and len(repo_id) <= 96
    if not fits or "--" in repo_id or ".." in repo_id or repo_id.endswith(".git"):
        raise ValueError(
            f"a model on the Hub is user/name (letters, digits, single - . and _, at most 96), got {repo_id!r}"
        )


@undisturbed
def download(address: str) -> Path:
    """The run folder "hf://user/name" or "hf://user/name@revision" in the Hub's cache on this machine; without a network, as
    it was fetched before.

    Raises ValueError for an address that can't be one or a repository that holds no run, FileNotFoundError where there is
    no such repository, PermissionError where one has to ask for access, ConnectionError where the Hub can't be reached.
    """
    repo_id, revision = parse_address(address)
    library = _library()
    with _explained(address):
        folder = library.snapshot_download(
            repo_id,
            revision=revision,
            allow_patterns=list(RUN_FILES),
            library_name="vaekit",
            library_version=__version__,
        )
    if not (Path(folder) / "run.json").exists():
        raise ValueError(f"{address} is no model of vaekit: it has no run.json")
    return Path(folder)


@undisturbed
def push_to_hub(
    model: Fitted,
    repo_id: str,
    *,
    private: bool = False,
    license: str | None = None,
    evaluation: dict | str | Path | None = None,
    commit_message: str | None = None,
    token: str | None = None,
) -> str:
    """Uploads what `write_repository` makes of a fitted model, in one commit; returns its web address.

    The repository "user/name" is made where there is none; in one that exists, the files of the model before it and its
    card are replaced, and other files left alone.
    private: for your eyes only. False is what your account does by default, mostly public.
    token: None is the one that `hf auth login` or HF_TOKEN left.
    """
    check_repo_id(repo_id)
    library = _library()
    api = library.HfApi(token=token, library_name="vaekit", library_version=__version__)
    with tempfile.TemporaryDirectory(prefix="vaekit-") as temporary, _explained(repo_id):
        folder = write_repository(
            model, Path(temporary) / "model", repo_id=repo_id, license=license, evaluation=evaluation
        )
        api.create_repo(repo_id, private=private or None, exist_ok=True)
        found = api.model_info(repo_id)
        if private and not found.private:
            raise ValueError(
                f"{repo_id} is public already: nothing was uploaded; make it private on the Hub first, or choose another name"
            )
        before = {file.rfilename for file in found.siblings or ()}
        new = sorted(file.name for file in folder.iterdir() if file.name != MARK)
        # A prior or an evaluation of the model before would not fit this one.
        stale = [name for name in (*RUN_FILES, *CARD_FILES) if name in before and name not in new]
        operations = [library.CommitOperationAdd(name, str(folder / name)) for name in new]
        operations += [library.CommitOperationDelete(name) for name in stale]
        message = commit_message or f"{model.name}, from vaekit {__version__}"
        return api.create_commit(repo_id, operations, commit_message=message).commit_url


@undisturbed
def write_repository(
    model: Fitted,
    folder,
    *,
    repo_id: str | None = None,
    license: str | None = None,
    evaluation: dict | str | Path | None = None,
) -> Path:
    """Writes to a new `folder` what `push_to_hub` uploads: a run folder, README.md and, where the model has samples,
    samples.png. `vaekit.load` reads it. Of the path that the data was opened from, only the last part is written.

    license: the Hub's identifier, such as "mit" or "cc-by-4.0"; None says in the card that none is stated.
    evaluation: the run folder whose evaluation.json is to be told in the card and written, or what `measure_run` returned.
    Raises ValueError where these don't fit the model.
    """
    from vaekit.pictures.style import save

    if license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", license):
        raise ValueError(f"license must be the Hub's identifier, such as mit, cc-by-4.0 or other, got {license!r}")
    folder = Path(folder)
    found = _check_evaluation(model, evaluation)
    public = copy.copy(model)
    data = model.facts["data"]
    facts = {**model.facts, "data": {**data, "name": public_name(data["name"]), "labels": None}}
    public.record = replace(model.record, facts=facts)
    if model.prior is not None:
        facts = {**model.prior.facts, "data": public_name(model.prior.facts["data"])}
        public.prior = replace(model.prior, facts=facts)
    public.save(folder)
    if found is not None:
        write_atomically(folder / "evaluation.json", json.dumps(found, indent=1) + "\n")
    figure = draw_samples(public)
    if figure is not None:
        save(figure, folder / "samples.png")
    write_atomically(folder / "README.md", model_card(public, repo_id=repo_id, license=license, evaluation=found))
    return folder


def public_name(name: str) -> str:
    """The last part of a path, since what stands before it tells of the machine; other names as they are."""
    return re.split(r"[\\/]", name.rstrip("\\/"))[-1] or "data"


def _check_evaluation(model: Fitted, evaluation) -> dict | None:
    if evaluation is None or isinstance(evaluation, dict):
        found, where = evaluation, "evaluation"
    else:
        where = Path(evaluation) / "evaluation.json"
        if not where.is_file():
            raise FileNotFoundError(f"no evaluation at {where}: `vaekit evaluate` writes it")
        try:
            found = json.loads(where.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            raise ValueError(f"{where} is damaged: it is not JSON") from None
    if found is None:
        return None
    needed = {"parameters", "split", "prior", "likelihood", "test_fingerprint"}
    if not isinstance(found, dict) or not needed <= found.keys():
        raise ValueError(f"{where} is not what `vaekit evaluate` writes: it must hold {', '.join(sorted(needed))}")
    words = ("split", "prior", "likelihood", "test_fingerprint")
    numbers = [column.key for column in _METRICS if found.get(column.key) is not None]
    for names, kinds in ((words, (str,)), (numbers, (int, float))):
        for name in names:
            if type(found[name]) not in kinds:
                raise ValueError(f"{where} is damaged: {name} is {found[name]!r:.40}")
    if found["parameters"] != model.module.n_parameters:
        raise ValueError(f"{where} is of another model: evaluate this one with `vaekit evaluate`")
    if ("rate_plain" in found) != model.has_prior:
        raise ValueError(f"{where} is older than the fitted prior: evaluate the model again with `vaekit evaluate`")
    return found


def draw_samples(model: Fitted):
    """Figure of 64 samples, or of 8 of each of up to ten classes where they can be asked for, a class a row; None for
    tables, for two channels, and for codes that no prior is fitted to.
    """
    from vaekit.pictures.sheets import image_grid, labelled_rows

    if not _has_picture(model):
        return None
    shape = model.format.shape
    classes = model.sampling_classes()
    drawn = model.in_pixels()
    if classes is None:
        return image_grid(drawn.sample(64, random_state=0).reshape(64, *shape), columns=8)
    shown = np.asarray(classes)[evenly(len(classes), 10)]
    samples = drawn.sample(8 * len(shown), np.repeat(shown, 8), random_state=0).reshape(-1, 8, *shape)
    title = f"{len(shown)} of {len(classes)} classes" if len(shown) < len(classes) else ""
    return labelled_rows(dict(zip(map(str, shown), samples, strict=True)), title=title)


def _has_picture(model: Fitted) -> bool:
    shape = model.format.shape
    return not model.format.is_table and shape[2] != 2 and model.can_sample


def model_card(
    model: Fitted, *, repo_id: str | None = None, license: str | None = None, evaluation: dict | None = None
) -> str:
    """The card, Markdown with a YAML head: what the model is, its data, training and results, how to use it and for what.

    Results are those of `evaluation`, else the last epoch's. Names that come from the data are escaped in both.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vaekit", "."),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["text"] = _escape
    # No exponents: to YAML, 1e-05 is a word.
    environment.filters["number"] = lambda value: np.format_float_positional(
        value, precision=6, fractional=False, trim="-"
    )
    environment.filters["yaml"] = lambda value: json.dumps(_printable(value), ensure_ascii=False)
    about = inspect.getdoc(MODELS[key_of(model.name)].estimator()) or ""
    data = model.facts["data"]
    table = model.format.is_table
    classes = model.sampling_classes()
    tag = "feature-extraction" if table else "image-feature-extraction"
    if not table and model.can_sample:
        tag = "unconditional-image-generation"
    return environment.get_template("card.md.j2").render(
        repo_id=repo_id,
        name=model.name,
        about=" ".join(about.split("\n\n")[0].split()),
        license=license,
        tag=tag,
        data=data,
        table=table,
        pictured=_has_picture(model),
        sampled=model.can_sample,
        conditional=model.conditional,
        classes=None if classes is None else [str(name) for name in classes],
        first=None if classes is None else repr(classes.tolist()[0]),
        shape=", ".join(["N", *map(str, model.format.shape)]),
        model=_model_facts(model),
        training=_training_facts(model),
        evaluation=evaluation,
        metrics=_metrics(evaluation or {}, table=table),
        same_data=evaluation is not None and evaluation.get("test_fingerprint") == data["fingerprint"],
        last_epoch=describe_record(model.history[-1]) if model.history else None,
        versions={"vaekit": __version__, "torch": model.facts["torch"]},
    )


def _model_facts(model: Fitted) -> dict[str, str]:
    latent = f"{math.prod(model.code_shape)} numbers, Gaussian"
    fitted_prior = "none" if model.prior is None else model.prior.name
    if model.prior_is_worse:
        fitted_prior += f", which is worse than {model.plain_prior.describe()} and not in use"
    if model.discrete:
        latent = f"{' x '.join(map(str, model.code_shape))} codes out of {model.module.latent.n_codes}"
    return {
        "class": model.name,
        "input": " x ".join(map(str, model.format.shape)),
        "networks": model.fields["architecture"],
        "latent": latent,
        "prior fitted after training": fitted_prior,
        "likelihood": model.fields["likelihood"],
        "parameters": f"{model.module.n_parameters:,}",
    }


def _training_facts(model: Fitted) -> dict[str, str]:
    facts, plan = model.facts, model.facts["plan"]
    data, per_epoch = facts["data"], model.steps_per_epoch(facts["data"]["images"])
    steps = model.history[-1]["step"] if model.history else plan["steps"]
    optimizer, warmup = model.fields["optimizer"].title(), f"{plan['warmup']} steps"
    rows = {
        "data": _escape(data["name"]),
        "images" if len(model.format.shape) > 1 else "rows": f"{data['images']:,}",
        "part": data["split"] + ("" if data["split_seed"] is None else f", of the split by seed {data['split_seed']}"),
        "fingerprint": f"{data['fingerprint'][:12]} (SHA-256 of the whole data, first 12 digits)",
    }
    if data["binarize"] != "none":
        rows["pixels"] = f"black or white, drawn by intensity ({data['binarize']})"
    rows |= {
        "length": f"{steps:,} steps of {plan['batch_size']}, {round(steps / per_epoch, 1):g} epochs",
        "optimizer": f"{optimizer}, learning rate {plan['learning_rate']:g} ({plan['schedule']}, {warmup} of warm-up)",
        "precision": plan["precision"],
        "seed": str(facts["seed"]),
    }
    if model.history:
        last = model.history[-1]
        seconds = describe_seconds(sum(record["seconds"] for record in model.history))
        rows["took"] = f"{last['step']:,} steps in {seconds} on {facts['device']}"
    return rows


def _metrics(evaluation: dict, *, table: bool) -> list[dict]:
    """What the evaluation measured: key, name, unit, the value and as text, and which way is better."""
    rows = []
    for column in _METRICS:
        value = evaluation.get(column.key)
        if value is not None and math.isfinite(value):
            unit = in_rows(column.unit, table)
            better = {"low": "lower", "high": "higher", "": ""}[column.better]
            text = format(value, column.form)
            rows.append(
                {
                    "key": column.key,
                    "name": column.heading,
                    "unit": unit,
                    "value": value,
                    "text": text,
                    "better": better,
                }
            )
    return rows


def _printable(text: str) -> str:
    """One line of printable characters, at most 200 of them."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= 200 else line[:199] + "…"


def _escape(text: str) -> str:
    """Text as Markdown that shows as it is: no mark-up, link, table or HTML can come of a name."""
    escaped = re.sub(r"([\\`*_{}\[\]()<>#!|~&$:@^])", r"\\\1", _printable(text))
    return re.sub(r"(?i)\b(www)\.", r"\1\\.", escaped)


def _library():
    try:
        import huggingface_hub
    except ImportError:
        raise ValueError("the Hugging Face Hub needs the extra `hub`: pip install 'vaekit[hub]'") from None
    return huggingface_hub


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """The library's errors as Python's own, in one line that says what to do."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError:
        raise PermissionError(f"{what} is gated: ask for access on its page on the Hub, and {LOG_IN}") from None
    except errors.RepositoryNotFoundError:
        raise FileNotFoundError(f"there is no {what} on the Hub, or it is private: then {LOG_IN}") from None
    except errors.RevisionNotFoundError:
        raise FileNotFoundError(f"{what} has no such revision on the Hub") from None
    except errors.LocalEntryNotFoundError as error:
        reason = first_line(error.__cause__ or error)
        raise ConnectionError(f"{what} is not in the cache, and the Hub can't be reached ({reason})") from None
    except (errors.HTTPError, OSError) as error:  # type: ignore[attr-defined] # of the HTTP library that it uses
        if getattr(error, "errno", None) is not None:
            raise  # this machine's, such as a full disk
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            raise PermissionError(f"the Hub refuses {what} ({first_line(error)}): {LOG_IN} that may do this") from None
        if status == 400:
            raise ValueError(f"the Hub can't take {what}: {first_line(error)}") from None
        raise ConnectionError(f"the Hub can't be reached, or failed ({first_line(error)})") from None
