"""Run folders come from anybody: a crafted one gives an error that names the file, runs nothing and takes no memory."""

import ast
import copy
import functools
import gzip
import json
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save as format_safetensors

from tests.marks import quick
from vaekit import CVAE, VAE, VQVAE, load
from vaekit.cli import main
from vaekit.training.checkpoint import RunFolder, digest, read_tensors, write_tensors

SOURCE = Path(__file__).parents[1] / "src" / "vaekit"
WRITTEN_BY_0_1 = Path(__file__).parent / "data" / "run-0.1"
QUICK = {"epochs": 1, "batch_size": 16, "random_state": 0, "device": "cpu"}
PLAIN_PRIOR = {"layers": 1, "channels": 8, "epochs": 1}
FINISHED = tempfile.TemporaryDirectory(prefix="vaekit-safe-")  # until the process ends


def probe(columns: int | None = None) -> np.ndarray:
    """Inputs: images, or a table."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(24, columns)) if columns else rng.integers(0, 256, (24, 8, 8, 1), dtype=np.uint8)


@functools.cache
def run_of(kind: str) -> Path:
    """A finished run, trained once; not to be changed."""
    path = Path(FINISHED.name) / kind
    x, y = probe(), np.arange(24) % 3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "vae":
            VAE(latent_dim=2, architecture="conv", **QUICK).fit(x).save(path)
        elif kind == "cvae":
            CVAE(latent_dim=2, architecture="conv", **QUICK).fit(x, y).save(path)
        elif kind == "table":
            VAE(latent_dim=2, **QUICK).fit(probe(3)).save(path)
        elif kind == "flow":
            model = VAE(latent_dim=2, architecture="conv", **QUICK).fit(x)
            model.fit_prior(x, prior="flow", **PLAIN_PRIOR).save(path)
        else:
            model = VQVAE(n_codes=4, code_dim=2, architecture="conv", **QUICK).fit(x)
            model.fit_prior(x, y, **PLAIN_PRIOR).save(path)
    return path


@pytest.fixture
def run(tmp_path):
    """run("vqvae"): a copy of that run, to be spoilt."""

    def copied(kind: str) -> Path:
        return shutil.copytree(run_of(kind), tmp_path / kind)

    return copied


def assert_refused(path: Path, match: str) -> None:
    """`load` raises a ValueError that names the folder or a file in it, at once."""
    start = time.monotonic()
    with pytest.raises(ValueError, match=match) as caught:
        load(path)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700
    assert time.monotonic() - start < 5


def rewrite(file: Path, change) -> None:
    """`change(tensors, state)` in place, the file then written anew: its checksum is right."""
    tensors, state = read_tensors(file)
    change(tensors, state)
    write_tensors(file, tensors, state)


def edit_config(path: Path, change) -> None:
    config = json.loads((path / "run.json").read_text())
    change(config)
    (path / "run.json").write_text(json.dumps(config))


# Tensor files


def split(data: bytes) -> tuple[dict, bytes]:
    """A safetensors file as its header and its data."""
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def joined(header, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def with_header(change):
    def forged(data: bytes) -> bytes:
        header, body = split(data)
        return joined(change(header) or header, body)

    return forged


def first(header: dict) -> dict:
    return next(entry for name, entry in sorted(header.items()) if name != "__metadata__" and entry["shape"])


def overlapping(header: dict) -> None:
    entries = [entry for name, entry in header.items() if name != "__metadata__"]
    entries[0]["data_offsets"] = entries[1]["data_offsets"]


def out_of_range(header: dict) -> None:
    first(header)["data_offsets"] = [0, 2**62]


def negative(header: dict) -> None:
    first(header)["data_offsets"] = [-8, 8]


def a_larger_shape(header: dict) -> None:
    first(header)["shape"] = [2**40, 2**40]


def another_type(header: dict) -> None:
    first(header)["dtype"] = "F8_E4M3"


def another_state(text: str):
    def change(header: dict) -> None:
        header["__metadata__"] = {"state": text}
        header["__metadata__"]["sha256"] = "0" * 64

    return change


def deep(header: dict) -> bytes:
    return b'{"__metadata__":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001


def twice(header: dict) -> bytes:
    """The first tensor's name a second time, with the offsets of another."""
    names = [name for name in header if name != "__metadata__"]
    again = json.dumps({names[0]: header[names[1]]})
    return (json.dumps(header)[:-1] + "," + again[1:]).encode()


FORGERIES = {
    "empty": lambda data: b"",
    "cut in the length": lambda data: data[:5],
    "only the length": lambda data: data[:8],
    "cut after a byte of the header": lambda data: data[:9],
    "cut in the header": lambda data: data[:300],
    "cut after the header": lambda data: data[: 8 + int.from_bytes(data[:8], "little")],
    "cut in a tensor": lambda data: data[: 12 + int.from_bytes(data[:8], "little")],
    "a byte short": lambda data: data[:-1],
    "a byte long": lambda data: data + b"\0",
    "header of 2^60 bytes": lambda data: (2**60).to_bytes(8, "little") + data[8:],
    "header of 2^64 - 1 bytes": lambda data: b"\xff" * 8 + data[8:],
    "header of no bytes": lambda data: bytes(8) + data[8:],
    "header that is no JSON": lambda data: joined(b"import os", b""),
    "header that is a list": lambda data: joined(b"[]", b""),
    "header that is not UTF-8": lambda data: joined(b'{"\xff\xfe": 1}', b""),
    "header nested deeply": with_header(deep),
    "a name twice": with_header(twice),
    "overlapping tensors": with_header(overlapping),
    "a tensor beyond the end": with_header(out_of_range),
    "a negative offset": with_header(negative),
    "a huge shape": with_header(a_larger_shape),
    "another type of number": with_header(another_type),
    "no metadata": with_header(lambda header: {k: v for k, v in header.items() if k != "__metadata__"}),
    "no checksum": with_header(lambda header: header["__metadata__"].pop("sha256") and None),
    "metadata that is a number": with_header(lambda header: {**header, "__metadata__": 3}),
    "state that is no JSON": with_header(another_state("os.system('true')")),
    "state nested deeply": with_header(another_state("[" * 100_000 + "]" * 100_000)),
    "a pickle": lambda data: (
        b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94."
    ),
    "a zip archive": lambda data: b"PK\x03\x04" + data,
}


@pytest.mark.parametrize("name", ["weights.safetensors", "prior.safetensors"])
@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_tensor_file_is_refused(run, name, forgery):
    path = run("vqvae")
    data = (path / name).read_bytes()
    (path / name).write_bytes(FORGERIES[forgery](data))
    assert_refused(path, rf"{name} is damaged")


def test_a_state_that_is_no_object_is_refused_with_the_right_checksum(run):
    path = run("vqvae")
    file = path / "prior.safetensors"
    tensors, _ = read_tensors(file)
    for text in ("[1]", "null", '"x"', "NaN"):
        metadata = {"state": text}
        file.write_bytes(format_safetensors(tensors, {**metadata, "sha256": digest(tensors, metadata)}))
        assert_refused(path, "its state is no JSON object")


def set_to(number: float):
    def change(tensors: dict, _) -> None:
        name = max(tensors, key=lambda name: tensors[name].numel())
        tensors[name].view(-1)[-1] = number

    return change


def recast(dtype: torch.dtype):
    def change(tensors: dict, _) -> None:
        name = max(tensors, key=lambda name: tensors[name].numel())
        tensors[name] = tensors[name].to(dtype)

    return change


def reshaped(tensors: dict, _) -> None:
    name = max(tensors, key=lambda name: tensors[name].numel())
    tensors[name] = tensors[name].flatten()


CRAFTED = {
    "NaN": (set_to(float("nan")), "holds NaN or infinity"),
    "infinity": (set_to(float("inf")), "holds NaN or infinity"),
    "minus infinity": (set_to(float("-inf")), "holds NaN or infinity"),
    "float64": (recast(torch.float64), r"has type torch\.float64, expected torch\.float32"),
    "float16": (recast(torch.float16), "has type"),
    "8-bit floats": (recast(torch.float8_e4m3fn), "has type"),
    "integers": (recast(torch.int8), "has type"),
    "booleans": (recast(torch.bool), "has type"),
    "another shape": (reshaped, r"has shape \(\d+,\), expected"),
    "a tensor missing": (lambda tensors, _: tensors.pop(next(iter(tensors))), "is missing"),
    "a tensor more": (
        lambda tensors, _: tensors.update({"../../x": torch.zeros(2)}),
        r"\.\./\.\./x is not of this model",
    ),
    "no tensors": (lambda tensors, _: tensors.clear(), "is missing|0 tensors"),
}


@pytest.mark.parametrize("name", ["weights.safetensors", "prior.safetensors"])
@pytest.mark.parametrize("crafted", CRAFTED)
def test_crafted_tensors_with_the_right_checksum_are_refused(run, name, crafted):
    """A checksum tells damage, not intent."""
    path = run("flow")
    change, match = CRAFTED[crafted]
    rewrite(path / name, change)
    assert_refused(path, match)


# run.json

ODD = [
    None,
    True,
    0,
    -1,
    1.5,
    10**9,
    10**30,
    1e308,
    "",
    "x",
    "../../etc/passwd",
    "__import__",
    "os.system",
    [],
    [1],
    [[1], [2, 3]],
    {},
    {"a": 1},
]


def places(value, at=()) -> list[tuple]:
    """The way to every entry in JSON, containers too."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at] * bool(at) + [place for key, part in inner for place in places(part, (*at, key))]


def replaced(value, at: tuple, odd, remove: bool):
    value = copy.deepcopy(value)
    *way, last = at
    inner = functools.reduce(lambda part, key: part[key], way, value)
    if remove:
        del inner[last]
    else:
        inner[last] = odd
    return value


def assert_refused_or_sane(path: Path, x: np.ndarray) -> None:
    """A crafted folder is an error in words; where it is none, what was loaded can be used or says why not."""
    start = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model = load(path)
            assert len(model.transform(x)) == len(x)
            model.sample(2, random_state=0, y=0 if model.fitted_.sampling_classes() is not None else None)
        except ValueError as error:
            assert str(error) and "\n" not in str(error)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("kind", quick(["vae", "cvae", "table", "vqvae"], "vae", "table"))
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_entry_of_run_json_may_be_anything(kind, data):
    config = json.loads((run_of(kind) / "run.json").read_text())
    at = data.draw(st.sampled_from(places(config)))
    changed = replaced(config, at, data.draw(st.sampled_from(ODD)), data.draw(st.booleans()))
    with tempfile.TemporaryDirectory() as folder:
        path = shutil.copytree(run_of(kind), Path(folder) / kind)
        (path / "run.json").write_text(json.dumps(changed))
        assert_refused_or_sane(path, probe(3 if kind == "table" else None)[:3])


@pytest.mark.parametrize("kind", ["vae", "cvae", "table", "vqvae"])
def test_a_field_that_was_filled_in_and_is_nothing_now_is_damage(kind, tmp_path):
    path = shutil.copytree(run_of(kind), tmp_path / kind)
    config = json.loads((path / "run.json").read_text())
    filled_in = config["resolved"].keys() - {"width"}  # which networks other than the mlp have not
    assert {"likelihood", "schedule", "compile"} <= filled_in
    for name in filled_in:
        spoilt = {**config, "resolved": {**config["resolved"], name: None}}
        (path / "run.json").write_text(json.dumps(spoilt))
        with pytest.raises(ValueError, match=f"run.json is damaged, or from another vaekit: {name} is not filled in"):
            load(path)


@pytest.mark.parametrize("kind", quick(["vqvae", "flow"], "flow"))
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_entry_of_a_priors_state_may_be_anything(kind, data):
    tensors, state = read_tensors(run_of(kind) / "prior.safetensors")
    at = data.draw(st.sampled_from(places(state)))
    changed = replaced(state, at, data.draw(st.sampled_from(ODD)), data.draw(st.booleans()))
    with tempfile.TemporaryDirectory() as folder:
        path = shutil.copytree(run_of(kind), Path(folder) / kind)
        write_tensors(path / "prior.safetensors", tensors, changed)
        assert_refused_or_sane(path, probe()[:3])


CONFIGS = {
    "a class of Python's": (lambda config: config.update({"class": "os.system"}), r"run\.json is damaged.*os\.system"),
    "a dunder class": (lambda config: config.update({"class": "__import__"}), "__import__"),
    "a class in a list": (lambda config: config.update({"class": ["VAE"]}), "class must be str"),
    "unknown fields": (lambda config: config["fields"].update({"__class__": "x"}), "__class__"),
    "a method as a field": (lambda config: config["fields"].update({"fit": "x"}), "fit"),
    "an architecture by path": (
        lambda config: config["resolved"].update({"architecture": "../conv"}),
        "architecture must be",
    ),
    "a negative width": (
        lambda config: config["fields"].update({"latent_dim": -2}),
        "latent_dim must be a whole number",
    ),
    "another width": (lambda config: config["fields"].update({"latent_dim": 3}), "do not fit together"),
    "a variance of no kind": (
        lambda config: config["fields"].update({"likelihood_variance": "x"}),
        "likelihood_variance",
    ),
    "an image of no size": (lambda config: config.update({"image_shape": [0, 8, 1]}), "image_shape must be"),
    "an image of a million channels": (
        lambda config: config.update({"image_shape": [8, 8, 10**6]}),
        "far larger than its tensors",
    ),
    "an empty layout": (lambda config: config.update({"layout": {}}), "layout must say"),
    "a plan that is a list": (lambda config: config.update({"plan": []}), "plan must be dict"),
    "a device that is a number": (lambda config: config["fields"].update({"device": 3}), "device"),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_crafted_run_json_is_refused(run, kind):
    path = run("vae")
    change, match = CONFIGS[kind]
    edit_config(path, change)
    assert_refused(path, match)


@pytest.mark.parametrize(
    "text",
    [
        b"\xff\xfe{}",
        b"[" * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b"9" * 10_000,
        b"null",
        b'"run"',
        b"{'class': 'VAE'}",
        b'{"format": "1"}',
        b'{"format": 1e999}',
        b'{"format": true}',
    ],
    ids=lambda text: repr(text[:12]),
)
def test_a_run_json_that_is_none_is_refused(run, text):
    path = run("vae")
    (path / "run.json").write_bytes(text)
    assert_refused(path, r"run\.json is damaged")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none_are_refused_in_run_json(run, number):
    path = run("table")
    text = (path / "run.json").read_text()
    start = text.index('"mean": [') + len('"mean": [')
    (path / "run.json").write_text(text[:start] + number + text[text.index(",", start) :])
    assert_refused(path, r"run\.json is damaged: it is not a run's JSON")


def test_tables_and_classes_are_held_against_what_fit_writes(run):
    table, conditional = run("table"), run("cvae")
    whole = (table / "run.json").read_text(), (conditional / "run.json").read_text()
    for path, before, change, match in (
        (table, whole[0], lambda config: config["table"].update({"scale": [1.0, 0.0, 1.0]}), "scale must be positive"),
        (table, whole[0], lambda config: config["table"].update({"mean": [1.0]}), "mean must be 3 numbers"),
        (table, whole[0], lambda config: config.update({"table": None}), "damaged"),
        (conditional, whole[1], lambda config: config.update({"classes": [0, 0, 1]}), "classes must be different"),
        (conditional, whole[1], lambda config: config.update({"classes": [{}, {}, {}]}), "classes must be different"),
        (
            conditional,
            whole[1],
            lambda config: config.update({"class_frequencies": [2, -1, 0]}),
            "shares that sum to 1",
        ),
        (
            conditional,
            whole[1],
            lambda config: config.update({"classes": [0, 1]}),
            "class_frequencies must be 2 numbers",
        ),
    ):
        (path / "run.json").write_text(before)
        edit_config(path, change)
        assert_refused(path, match)


def test_reading_a_run_takes_no_compiler(run):
    """Which takes seconds to import, and was behind many functions of torch's meta device."""
    paths = [str(run(kind)) for kind in ("vae", "cvae", "vqvae", "flow", "table")]
    code = "import sys; from vaekit import load; [load(path) for path in sys.argv[1:]]; print('torch._dynamo' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, timeout=120)
    assert done.stdout == "False\n", done.stderr


HUGE = """
import json, resource, sys, time
from pathlib import Path
from vaekit import load
from vaekit.training.checkpoint import read_tensors, write_tensors

def memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

vae, vqvae, flow = map(Path, sys.argv[1:])
for path in (vae, vqvae, flow):
    load(path)
before = memory()
def config(path, *changes):
    config = json.loads((path / "run.json").read_text())
    saved = json.dumps(config)
    for way, value in changes:
        part = config
        for key in way[:-1]:
            part = part[key]
        part[way[-1]] = value
    (path / "run.json").write_text(json.dumps(config))
    attempt(path, changes)
    (path / "run.json").write_text(saved)
def prior(path, **changes):
    tensors, state = read_tensors(path / "prior.safetensors")
    write_tensors(path / "prior.safetensors", tensors, {**state, "settings": {**state["settings"], **changes}})
    attempt(path, changes)
    write_tensors(path / "prior.safetensors", tensors, state)
def attempt(path, what):
    start = time.monotonic()
    try:
        load(path)
    except ValueError as error:
        assert "damaged" in str(error), error
        assert time.monotonic() - start < 5, (what, time.monotonic() - start)
    else:
        raise SystemExit(f"loaded {what}")
config(vae, (["image_shape"], [10**6, 10**6, 1]))
config(vae, (["image_shape"], [10**12, 10**12, 1]))
config(vae, (["image_shape"], [2**31, 8, 4]), (["resolved", "architecture"], "mlp"))
config(vae, (["fields", "latent_dim"], 10**9))
config(vae, (["fields", "latent_dim"], 10**18))
config(vae, (["fields", "latent_dim"], 10**100))
config(vqvae, (["fields", "n_codes"], 10**9))
config(vqvae, (["fields", "n_codes"], 10**9), (["fields", "code_dim"], 10**9))
prior(vqvae, channels=10**6)
prior(vqvae, layers=10**9)
prior(flow, layers=10**9)
prior(flow, channels=10**7)
prior(flow, prior="gmm", components=10**9)
print(memory() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere ru_maxrss is not in kilobytes")
@pytest.mark.slow
def test_what_claims_to_be_huge_is_refused_before_it_takes_memory(run):
    paths = [str(run(kind)) for kind in ("vae", "vqvae", "flow")]
    done = subprocess.run([sys.executable, "-c", HUGE, *paths], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 100  # MB


# Names that lead elsewhere


def test_links_to_good_files_load_and_those_to_none_are_refused(run, tmp_path):
    """A cache of downloads keeps a folder of links to its files."""
    path = run("vae")
    expected = load(path).transform(probe())
    weights, elsewhere = path / "weights.safetensors", tmp_path / "blob"
    weights.rename(elsewhere)
    weights.symlink_to(elsewhere)
    np.testing.assert_array_equal(load(path).transform(probe()), expected)
    for target in (
        "nowhere",
        "weights.safetensors",
        "/dev/zero",
        ".",
    ):  # a dangling one, a circle, an endless file, a folder
        weights.unlink()
        weights.symlink_to(target)
        assert_refused(path, "has no weights yet")
    (path / "run.json").unlink()
    (path / "run.json").symlink_to("/dev/zero")
    assert_refused(path, r"has no run\.json")
    (path / "run.json").unlink()
    (path / "run.json").mkdir()
    assert_refused(path, r"has no run\.json")


def test_a_prior_that_is_no_file_is_refused(run):
    path = run("vqvae")
    (path / "prior.safetensors").unlink()
    (path / "prior.safetensors").mkdir()
    assert_refused(path, r"prior\.safetensors")


def test_a_log_that_is_a_link_is_not_written_through(tmp_path):
    target = tmp_path / "precious"
    for exists in (False, True):
        folder = RunFolder(tmp_path / f"run-{exists}")
        folder.start({})
        if exists:
            target.write_text("precious\n")
        folder.log_file.symlink_to(target)
        folder.write_log([])
        folder.append({"step": 1})
        assert not folder.log_file.is_symlink()
        assert [record["step"] for record in folder.log()] == [1]
        assert target.exists() == exists
    assert target.read_text() == "precious\n"


@pytest.mark.parametrize(
    "junk", [b"\xff\xfe\x00", b"[1]\n", b"null\n", b"{}\n", b'{"step": "x"}\n', b"[" * 100_000, b"\x80\x04\x95."]
)
def test_a_log_ends_where_its_records_do(run, junk):
    path = run("vae")
    records = load(path).history_
    with open(path / "log.jsonl", "ab") as file:
        file.write(junk)
    assert load(path).history_ == records
    (path / "log.jsonl").write_bytes(junk)
    assert load(path).history_ == []


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, state: tensors.pop(next(name for name in tensors if name.startswith("state."))),
        lambda tensors, state: tensors.update({"optimizer.99.step": torch.zeros(())}),
        lambda tensors, state: tensors.update({"optimizer.../x.step": torch.zeros(())}),
        lambda tensors, state: state.pop("step"),
        lambda tensors, state: state.pop("seconds_total"),
    ],
)
def test_a_crafted_checkpoint_is_refused(tmp_path, change):
    from vaekit.data.images import Images

    images = Images(probe(), None, (), "noise", "fingerprint")
    model = VAE(latent_dim=2, architecture="conv", **QUICK)
    model.fit_images(images, folder=str(tmp_path / "run"))
    whole = RunFolder(tmp_path / "run")
    # The run as if it had been killed after its first step.
    tensors = {f"state.module.{name}": tensor for name, tensor in whole.weights()[0].items()}
    whole.weights_file.unlink()
    notes = {"step": 1, "history": [], "seconds_total": 1.0}
    change(tensors, notes)
    whole.save_checkpoint(tensors, notes)
    with pytest.raises(ValueError, match="checkpoint is of another model, or damaged"):
        VAE(latent_dim=2, architecture="conv", **QUICK).fit_images(images, folder=str(whole.path), resume=True)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: edit_config(path, lambda config: config.update({"image_shape": [10**6, 10**6, 1]})),
        lambda path: edit_config(path, lambda config: config.update({"seed": {}})),
        lambda path: edit_config(path, lambda config: config["fields"].update({"latent_dim": "x"})),
        lambda path: (path / "run.json").write_bytes(b"[" * 100_000),
        lambda path: rewrite(path / "weights.safetensors", set_to(float("nan"))),
        lambda path: (path / "weights.safetensors").write_bytes((2**60).to_bytes(8, "little")),
    ],
)
def test_the_command_line_refuses_in_one_line(run, tmp_path, capsys, spoil):
    path = run("vae")
    spoil(path)
    with pytest.raises(SystemExit) as end:
        main(["sample", str(path), "-n", "2", "--out", str(tmp_path / "x.npy")])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("vaekit: ") and said.count("\n") == 1 and "damaged" in said
    assert not (tmp_path / "x.npy").exists()


# The code base

FORBIDDEN_MODULES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "imp"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_ATTRIBUTES = {("torch", "load"), ("torch", "save"), ("torch", "hub"), ("torch", "jit"), ("np", "fromfile")}


def found_in(source: str) -> list[str]:
    """What in a module could run code from a file."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in FORBIDDEN_MODULES]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            found += [module] * (module.split(".")[0] in FORBIDDEN_MODULES)
            found += [f"{module}.{alias.name}" for alias in node.names if (module, alias.name) in FORBIDDEN_ATTRIBUTES]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN_CALLS:
            found.append(node.func.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if (node.value.id, node.attr) in FORBIDDEN_ATTRIBUTES:
                found.append(f"{node.value.id}.{node.attr}")
        elif isinstance(node, ast.keyword) and node.arg in ("allow_pickle", "trust_remote_code", "shell"):
            found += [f"{node.arg}="] * (not isinstance(node.value, ast.Constant) or node.value.value is not False)
    return found


def test_no_module_can_run_code_from_a_file():
    assert {str(path): found for path in SOURCE.rglob("*.py") if (found := found_in(path.read_text()))} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "def f():\n    from joblib.numpy_pickle import load",
        "torch.load('x')",
        "from torch import load",
        "eval('1')",
        "np.load(f, allow_pickle=True)",
    ],
)
def test_the_scan_sees_what_it_should(source):
    assert found_in(source)


# Other versions, other machines


def unpacked(kind: str, into: Path) -> Path:
    """The run folder that vaekit 0.1 wrote, its tensor files unpacked (most of their weights are zeros)."""
    shutil.copytree(WRITTEN_BY_0_1 / kind, into / kind)
    for packed in (into / kind).glob("*.gz"):
        packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
        packed.unlink()
    return into / kind


@pytest.mark.parametrize("kind", ["vae", "vqvae"])
def test_a_folder_of_version_0_1_gives_the_numbers_it_gave(digits, tmp_path, kind):
    from vaekit import open_data

    x = open_data("digits", "test").x[:4]
    expected = json.loads((WRITTEN_BY_0_1 / "outputs.json").read_text())[kind]
    model = load(unpacked(kind, tmp_path))
    found = {
        "transform": model.transform(x),
        "score_samples": model.score_samples(x),
        "inverse_transform": model.model_.reconstruct(torch.from_numpy(x).permute(0, 3, 1, 2) / 255)
        .flatten(1)[:, ::9]
        .detach(),
    }
    if kind == "vqvae":
        found |= {"encode": model.encode(x), "prior_log_prob": model.prior_log_prob(model.encode(x), list("3141"))}
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=1e-5, rtol=1e-5, err_msg=name)
    assert len(found) == len(expected)
    assert len(model.history_) == model.filled_in().epochs
    assert model.reconstruct(x).dtype == np.uint8
    assert model.sample(2, random_state=0).shape == x[:2].shape


def test_a_newer_folder_says_so_before_anything_else(run):
    path = run("vae")
    (path / "run.json").write_text(json.dumps({"format": 2, "version": "0.9.0", "layout": "unheard of"}))
    assert_refused(
        path, r"written by a newer vaekit \(0\.9\.0, folder format 2; this one reads up to 1\): upgrade vaekit"
    )


def test_a_folder_that_was_moved_loads(run, tmp_path):
    path = run("vqvae")
    expected = load(path).transform(probe())
    moved = shutil.move(path, tmp_path / "elsewhere" / "under another name")
    np.testing.assert_array_equal(load(moved).transform(probe()), expected)
    assert str(tmp_path) not in (moved / "run.json").read_text()


@pytest.mark.parametrize("device", ["cuda:63", "meta", "abacus"])
def test_a_folder_from_a_machine_with_another_device_loads_with_a_warning(run, device):
    path = run("vae")
    expected = load(path, device="cpu").transform(probe())
    edit_config(path, lambda config: config["fields"].update({"device": device}))
    with pytest.warns(
        UserWarning, match=rf"device '{device}', which this machine lacks: loaded on .*load\(path, device="
    ):
        model = load(path)
    np.testing.assert_allclose(model.transform(probe()), expected, atol=1e-5)
    assert model.fit(probe()).n_parameters_ > 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load(path, device="cpu").device_ == torch.device("cpu")
    with pytest.raises(ValueError, match=f"device '{device}' can't be used here"):
        load(path, device=device)
