"""Malformed inputs: pictures, arrays, tables, run folders and what else a command reads, damaged or crafted, each get an answer
in words: no traceback, no hang, no crash, no blow-up of memory.
"""

import argparse
import contextlib
import functools
import gzip
import io
import json
import math
import multiprocessing
import os
import re
import resource
import shutil
import struct
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import torch
from PIL import Image

from benchmarks._damage import (
    CSV,
    FORMATS,
    IDX,
    IDX_GZ,
    JSON,
    LOG,
    NPY,
    SAFETENSORS,
    TABLE,
    ZIP,
    exif,
    idx_of,
    npy_of,
    npz_of,
    odd_array,
    png_of,
    spoilt,
)
from benchmarks.harness import Findings, progress
from vaekit.cli import main
from vaekit.data.decoding import MAX_PIXELS
from vaekit.data.readers import MOST_TIMES, MOST_UNPACKED
from vaekit.data.tables import write_table
from vaekit.files import load
from vaekit.hub import write_repository
from vaekit.training.checkpoint import RunFolder

MEMORY = 1_500  # MB that one input may take
PATIENCE = 10.0  # seconds of the processor that one input may take, however busy the machine is
KILLED_AFTER = 60.0  # seconds by the clock after which an input is said to hang
TINY = ["--architecture", "mlp", "--latent-dim", "2", "--epochs", "1", "--batch-size", "8", "--random-state", "0"]


class Case(NamedTuple):
    """One input. act: what the user does with it. named: one of these must be in a refusal. check: raises AssertionError where
    what came of an accepted input is not sane. quiet: whether `act` says nothing on standard error when all is well.
    """

    act: Callable[[], object]
    named: tuple[str, ...]
    check: Callable[[str], object]
    quiet: bool = True


class Outcome(NamedTuple):
    """What came of an input: "refused" or "accepted", or else how it failed. mutation: how it was made."""

    kind: str
    index: int
    mutation: str
    verdict: str
    seconds: float
    megabytes: float


def run(argv):
    parser = argparse.ArgumentParser(prog="python -m benchmarks hostile")
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    outcomes = campaign(options.inputs, options.seed)
    rows, bad = [], [outcome for outcome in outcomes if failed(outcome)]
    for kind in KINDS:
        found = [outcome for outcome in outcomes if outcome.kind == kind]
        verdicts = Counter(outcome.verdict for outcome in found)
        slowest, largest = max(o.seconds for o in found), max(o.megabytes for o in found)
        counts = [verdicts["refused"], verdicts["accepted"], sum(map(failed, found))]
        rows.append([kind, len(found), *counts, round(slowest, 2), round(largest)])
    for outcome in bad:
        taken = f"{outcome.seconds:.1f} s, {outcome.megabytes:.0f} MB"
        progress(f"{outcome.kind} {outcome.index} ({outcome.mutation}): {outcome.verdict}, {taken}")
    failures = "; ".join(f"{o.kind} {o.index} ({o.mutation}): {o.verdict[:200]}" for o in bad[:20])
    text = (
        f"{len(outcomes):,} inputs, {len(bad)} failures{f': {failures}' if bad else ''}: the claim "
        f"{'does not hold' if bad else 'holds'}. What was accepted was looked at: values in their range, codes below their "
        "number, weights finite. A failure is any other end than that or one line that names the file, more than "
        f"{PATIENCE:.0f} s of the processor or {KILLED_AFTER:.0f} s by the clock, or more than {MEMORY:,} MB beyond what the "
        "process had; where weights that are finite overflow in use, the line says so instead. Limits: images of more than "
        f"{MAX_PIXELS // 10**6} million pixels are refused before they are decoded, and so are packed arrays of more than "
        f"{MOST_UNPACKED // 2**30} GB that are more than {MOST_TIMES} times their file. Before the refusal of a TIFF, libtiff "
        "may write a line of its own to standard error. An intact input of each kind was accepted, or is counted as a failure."
    )
    columns = ["input", "inputs", "refused", "accepted", "failures", "slowest [s of CPU]", "most memory [MB]"]
    return Findings(columns, rows, text)


def failed(outcome: Outcome) -> bool:
    return outcome.verdict not in ("refused", "accepted") or outcome.seconds > PATIENCE or outcome.megabytes > MEMORY


def campaign(inputs: int, seed: int, kinds: tuple[str, ...] = ()) -> list[Outcome]:
    """At least `inputs` inputs in workers, which are replaced when they die or hang; `kinds` of them, or all."""
    shares = {kind: share for kind, (share, _) in KINDS.items() if not kinds or kind in kinds}
    todo = [(kind, -1) for kind in shares]
    for kind, share in shares.items():
        todo += [(kind, index) for index in range(math.ceil(inputs * share / sum(shares.values())))]
    outcomes: list[Outcome] = []
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="vaekit-hostile-") as place:
        prepare(Path(place) / "seeds")
        while todo:
            ours, theirs = context.Pipe(duplex=False)
            worker = context.Process(target=work, args=(place, seed, todo, theirs))
            worker.start()
            theirs.close()
            try:
                while todo and ours.poll(KILLED_AFTER):
                    outcomes.append(ours.recv())
                    todo = todo[1:]
                    if len(outcomes) % 1000 == 0:
                        progress(f"{len(outcomes)} inputs, {sum(map(failed, outcomes))} failures")
                verdict = "hung"
            except EOFError:
                worker.join()
                verdict = f"crashed with exit code {worker.exitcode}"
            worker.kill()
            worker.join()
            if todo:
                outcomes.append(Outcome(*todo[0], "", verdict, KILLED_AFTER * (verdict == "hung"), 0))
                todo = todo[1:]
    intact = [outcome for outcome in outcomes if outcome.index < 0 and outcome.verdict != "accepted"]
    return [outcome for outcome in outcomes if outcome.index >= 0] + [
        outcome._replace(mutation="intact", verdict=f"not accepted: {outcome.verdict}") for outcome in intact
    ]


def work(place: str, seed: int, todo: list[tuple[str, int]], pipe) -> None:
    """One worker: the inputs `todo`, in order, and what came of each sent through `pipe`."""
    torch.set_num_threads(1)
    os.environ["VAEKIT_CACHE"] = f"{place}/cache"
    seeds, warm = Path(place) / "seeds", set()
    for kind, index in todo:
        if kind not in warm:  # what is imported and kept by the first of a kind is not that input's
            attempt(kind, -1, seed, seeds, Path(place) / "case")
            warm.add(kind)
            limit_memory()
        pipe.send(attempt(kind, index, seed, seeds, Path(place) / "case"))


def attempt(kind: str, index: int, seed: int, seeds: Path, folder: Path) -> Outcome:
    """Input `index` of `kind`, made in `folder` from the intact files in `seeds`, and used; -1 is an intact one."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(os.environ["VAEKIT_CACHE"], ignore_errors=True)
    folder.mkdir()
    rng = np.random.default_rng([seed, zlib.crc32(kind.encode()), index + 1])
    said: list[str] = []

    def spoil(data: bytes, crafted: dict[str, Callable], only: bool = False) -> bytes:
        if index < 0:
            return data
        words, data = spoilt(data, rng, crafted, only=only)
        said.append(words)
        return data

    case = KINDS[kind][1](seeds, folder, rng, spoil)
    reset_peak()
    before, start = memory("VmRSS"), time.process_time()
    try:
        with captured() as read:
            code, error = exit_of(case.act)
        out, err = read()
    finally:
        seconds, megabytes = time.process_time() - start, max(0.0, memory("VmHWM") - before)
    return Outcome(kind, index, "; ".join(said), verdict(case, code, error, out, err), seconds, megabytes)


def exit_of(act: Callable[[], object]) -> tuple[int | None, str]:
    """The exit code, None where the program would have ended with a traceback, and that."""
    try:
        act()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0, ""
    except BaseException as error:
        frame = error.__traceback__
        while frame is not None and frame.tb_next is not None:
            frame = frame.tb_next
        where = f"{Path(frame.tb_frame.f_code.co_filename).name}:{frame.tb_lineno}" if frame else ""
        return None, f"{type(error).__name__} at {where}: {error}"
    return 0, ""


def verdict(case: Case, code: int | None, error: str, out: str, err: str) -> str:
    lines = err.splitlines()
    if code is None:
        return f"traceback: {error}"
    if "Traceback" in err or (case.quiet and not all(line.startswith("vaekit: ") for line in lines)):
        return f"spilled: {err!r:.400}"
    if code == 0:
        try:
            return "refused" if case.check(out) else "accepted"
        except Exception as problem:
            return f"accepted, but {type(problem).__name__}: {problem}"
    if code not in (1, 2) or not lines or (case.quiet and len(lines) > 1):
        return f"exit {code} with {err!r:.400}"
    if not any(name in lines[-1] for name in case.named):
        return f"names no file: {lines[-1]:.300}"
    return "refused"


@contextlib.contextmanager
def captured() -> Iterator[Callable[[], tuple[str, str]]]:
    """What is written to standard output and error meanwhile, by libraries in C too."""
    files = [tempfile.TemporaryFile(), tempfile.TemporaryFile()]  # noqa: SIM115
    kept = [os.dup(1), os.dup(2)]
    sys.stdout.flush()
    sys.stderr.flush()
    for number, file in enumerate(files, 1):
        os.dup2(file.fileno(), number)

    def read() -> tuple[str, str]:
        texts = []
        for file in files:
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
            file.close()
        return texts[0], texts[1]

    try:
        yield read
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, old in enumerate(kept, 1):
            os.dup2(old, number)
            os.close(old)


def memory(field: str) -> float:
    """MB of this process, by Linux's name for them."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def reset_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def limit_memory() -> None:
    """An allocation beyond what an input may take, twice over, fails, so that the machine does not have to bear it."""
    limit = int(memory("VmSize") + 2 * MEMORY) * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


# Intact files


def prepare(seeds: Path) -> None:
    """Writes one or more intact files of each kind."""
    rng = np.random.default_rng(0)
    smooth = np.clip(np.add.outer(np.arange(16) * 8, np.arange(16) * 7)[..., None] + [0, 20, 40], 0, 255)
    colour = (smooth + rng.integers(0, 16, (16, 16, 3))).astype(np.uint8)
    pictures = {
        "png": {
            "rgb": (Image.fromarray(colour), {}),
            "grey": (Image.fromarray(colour[..., 0]), {}),
            "grey16": (Image.fromarray(colour[..., 0].astype(np.uint16) * 257), {}),
            "alpha": (Image.fromarray(np.dstack([colour, colour[..., 0]])), {}),
            "palette": (Image.fromarray(colour).quantize(16), {"transparency": 3}),
            "bits": (Image.fromarray(colour).convert("1"), {}),
        },
        "jpeg": {
            "baseline": (Image.fromarray(colour), {}),
            "progressive": (Image.fromarray(colour), {"progressive": True}),
            "grey": (Image.fromarray(colour[..., 0]), {}),
            "cmyk": (Image.fromarray(colour).convert("CMYK"), {}),
            "rotated": (Image.fromarray(colour), {"exif": exif()}),
        },
        "gif": {
            "still": (Image.fromarray(colour).quantize(32), {}),
            "animated": (
                Image.fromarray(colour).quantize(32),
                {"save_all": True, "append_images": [Image.fromarray(colour[::-1]).quantize(32)]},
            ),
        },
        "bmp": {
            "rgb": (Image.fromarray(colour), {}),
            "palette": (Image.fromarray(colour).quantize(16), {}),
            "bits": (Image.fromarray(colour).convert("1"), {}),
        },
        "tiff": {
            "plain": (Image.fromarray(colour), {}),
            "grey16": (Image.fromarray(colour[..., 0].astype(np.uint16) * 257), {}),
            **{
                name: (Image.fromarray(colour), {"compression": name})
                for name in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
            },
            "group4": (Image.fromarray(colour).convert("1"), {"compression": "group4"}),
        },
        "webp": {
            "lossy": (Image.fromarray(colour), {}),
            "lossless": (Image.fromarray(np.dstack([colour, colour[..., 0]])), {"lossless": True}),
        },
        "ppm": {
            "rgb": (Image.fromarray(colour), {}),
            "grey": (Image.fromarray(colour[..., 0]), {}),
            "grey16": (Image.fromarray(colour[..., 0].astype(np.uint16) * 16), {}),
            "bits": (Image.fromarray(colour).convert("1"), {}),
        },
    }
    for form, variants in pictures.items():
        (seeds / form).mkdir(parents=True)
        for name, (image, settings) in variants.items():
            image.save(seeds / form / name, form, **settings)
    png = pictures["png"]["rgb"][0]
    (seeds / "png" / "interlaced").write_bytes(_interlaced(np.asarray(png.convert("L"))))
    x = rng.integers(0, 256, (24, 8, 8), dtype=np.uint8)
    y = np.arange(24) % 3
    (seeds / "npy").mkdir()
    arrays = {
        "uint8": x,
        "float32": (x / 255).astype(np.float32),
        "float64": x / 255,
        "int64": x.astype(np.int64),
        "bool": x > 127,
        "fortran": np.asfortranarray(x),
        "colour": np.repeat(x[..., None], 3, -1),
        "table": rng.normal(size=(24, 5)),
    }
    for name, array in arrays.items():
        (seeds / "npy" / name).write_bytes(npy_of(array))
    for name, labels in {"numbers": y, "floats": y / 1.0, "words": np.array(["ant", "bee", "cat"])[y]}.items():
        (seeds / "labels").mkdir(exist_ok=True)
        (seeds / "labels" / name).write_bytes(npy_of(labels))
    (seeds / "npz").mkdir()
    for name, labels in {"plain": None, "numbers": y, "words": np.array(["ant", "bee", "cat"])[y]}.items():
        members = {"x": x} if labels is None else {"x": x, "y": labels}
        for packed in (False, True):
            (seeds / "npz" / f"{name}-{packed}").write_bytes(npz_of(members, packed=packed))
    (seeds / "dsprites").mkdir()
    factors = np.stack([np.zeros(12, np.int64), *(np.arange(12) % size for size in (3, 6, 40, 32, 32))], 1)
    members = {"imgs": rng.integers(0, 2, (12, 64, 64), dtype=np.uint8), "latents_classes": factors}
    for packed in (False, True):
        (seeds / "dsprites" / str(packed)).write_bytes(npz_of(members, packed=packed))
    (seeds / "idx-labels").write_bytes(idx_of(y.astype(np.uint8)))
    (seeds / "idx").mkdir()
    for name, array in {"images": x, "floats": arrays["float32"].astype(">f4")}.items():
        (seeds / "idx" / name).write_bytes(idx_of(array))
    rows = [f"{i}.png,{'ant' if i % 2 else 'bee'}" for i in range(6)]
    tables = {
        "head": "file_name,label\n" + "\n".join(rows) + "\n",
        "bare": "\n".join(rows),
        "semicolons": "\ufeff" + "\r\n".join(["id;size;class", *(row.replace(",", ";3;") for row in rows)]),
    }
    (seeds / "csv").mkdir()
    for name, text in tables.items():
        (seeds / "csv" / name).write_text(text, encoding="utf-8", newline="")
    _prepare_tables(seeds, arrays["table"], y)
    (seeds / "pictures").mkdir()
    for i in range(6):
        Image.fromarray(np.roll(colour, i, 0)).save(seeds / "pictures" / f"{i}.png")
    np.save(seeds / "x.npy", x)
    np.savez(seeds / "xy.npz", x=x, y=y)
    np.save(seeds / "table.npy", arrays["table"])
    _prepare_runs(seeds)


def _prepare_tables(seeds: Path, values: np.ndarray, y: np.ndarray) -> None:
    """Tables of numbers as text and as Parquet, with and without names and labels."""
    head = [f"size {i}" for i in range(values.shape[1])]
    rows = [[f"{value:.9g}" for value in row] for row in values]
    texts = {
        "commas": "\n".join([",".join(head), *map(",".join, rows)]),
        "semicolons": "\ufeff" + "\r\n".join([";".join(head), *(";".join(row).replace(".", ",") for row in rows)]),
        "bare": "\n".join(map(",".join, rows)),
        "labelled": "\n".join(
            [",".join([*head, "label"]), *(",".join([*row, "abc"[i % 3]]) for i, row in enumerate(rows))]
        ),
    }
    for kind in ("table", "table.gz", "parquet"):
        (seeds / kind).mkdir()
    for name, text in texts.items():
        (seeds / "table" / name).write_text(text, encoding="utf-8", newline="")
        (seeds / "table.gz" / name).write_bytes(gzip.compress(text.encode(), mtime=0))
    columns: dict[str | int, np.ndarray] = dict(zip(head, values.T, strict=True))
    kinds = {"plain": columns, "labelled": {**columns, "label": y}, "narrow": {"a": values[:, 0].astype(np.float32)}}
    for name, found in kinds.items():
        (seeds / "parquet" / name).write_bytes(write_table(Path("x.parquet"), found))


def _prepare_runs(seeds: Path) -> None:
    """Finished runs, one that was stopped, and a sweep."""
    x, xy, table = (str(seeds / name) for name in ("x.npy", "xy.npz", "table.npy"))

    def say(*words: str) -> None:
        with captured():
            main(list(words))

    say("train", "vae", "--data", x, "--out", f"{seeds}/runs/vae", *TINY)
    say("train", "cvae", "--data", xy, "--out", f"{seeds}/runs/cvae", *TINY)
    say("train", "vae", "--data", table, "--out", f"{seeds}/runs/table", *TINY)
    say("train", "vqvae", "--data", xy, "--out", f"{seeds}/runs/vqvae", "--n-codes", "8", "--code-dim", "2", *QUICK)
    prior = ["--layers", "1", "--channels", "8", "--epochs", "1"]
    say("fit-prior", f"{seeds}/runs/vqvae", "--data", xy, *prior)
    shutil.copytree(seeds / "runs" / "vae", seeds / "runs" / "flow")
    say("fit-prior", f"{seeds}/runs/flow", "--data", x, "--prior", "flow", *prior)
    for kind in ("vae", "vqvae", "flow"):
        say("evaluate", f"{seeds}/runs/{kind}", "--data", x if kind != "vqvae" else xy, "--no-judge")
    say("encode", f"{seeds}/runs/vae", "--data", x, "--split", "all", "--out", f"{seeds}/latents.npy")
    say("encode", f"{seeds}/runs/vqvae", "--data", xy, "--split", "all", "--out", f"{seeds}/codes.npy")
    kept = RunFolder.save_checkpoint

    def stop(run: RunFolder, *content) -> None:
        kept(run, *content)
        raise KeyboardInterrupt

    with mock.patch.object(RunFolder, "save_checkpoint", stop), contextlib.suppress(SystemExit):
        say(*_resume(seeds, seeds / "runs" / "stopped"))
    say(*_sweep(x, f"{seeds}/sweep"))


QUICK = ["--epochs", "1", "--batch-size", "8", "--random-state", "0"]
WEIGHTS, CHECKPOINT = "weights.safetensors", "checkpoint.safetensors"


def _sweep(data: str, out: str) -> list[str]:
    settings = ["--epochs", "1", "--architecture", "mlp", "--random-state", "0", "--jobs", "1"]
    return ["sweep", "--data", data, "--out", out, "--latent-dim", "1,2", "--beta", "1", *settings]


def _interlaced(grey: np.ndarray) -> bytes:
    """An Adam7 PNG of an image (H, W) of 8 bits, which Pillow does not write."""
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    rows = b"".join(b"\0" + row.tobytes() for top, left, down, right in passes for row in grey[top::down, left::right])
    head = struct.pack(">IIBBBBB", *grey.shape[::-1], 8, 0, 0, 0, 1)
    return png_of([(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")])


# What a user does with an input


def check_data(out: str) -> bool:
    """What `vaekit data --json` said can be true; whether it left out the spoilt picture."""
    facts = json.loads(out, parse_constant=_none)
    assert facts["count"] >= 1, facts["count"]
    if len(facts["shape"]) == 1:
        assert facts["shape"][0] >= 1 and facts["columns"], facts["shape"]
    if len(facts["shape"]) == 3:
        assert all(map(math.isfinite, (*facts["range"], facts["mean"]))), facts["range"]
        height, width, channels = facts["shape"]
        assert height * width <= MAX_PIXELS and 1 <= channels <= 4, facts["shape"]
        assert 0 <= facts["range"][0] <= facts["range"][1] <= 255, facts["range"]
    return bool(facts.get("unreadable"))


def _none(number: str):
    raise ValueError(f"{number} in JSON")


def check_array_in(file: Path, low: float = -math.inf, high: float = math.inf) -> Callable[[str], None]:
    def check(out: str) -> None:
        array = np.load(file, allow_pickle=False)
        assert array.size and array.dtype.kind in "iuf", array.dtype
        assert np.isfinite(array).all() and low <= array.min() <= array.max() <= high, (array.min(), array.max())

    return check


def of_data(path: Path, *flags: str) -> Case:
    return Case(functools.partial(main, ["data", str(path), "--json", *flags]), (path.name,), check_data)


def pictures(form: str):
    """A folder of two pictures, one of which is spoilt."""

    def make(seeds, folder, rng, spoil):
        into = folder / "pictures"
        into.mkdir()
        shutil.copy(seeds / "pictures" / "0.png", into / "a.png")
        suffix = (
            f".{form}" if rng.random() < 0.8 else str(rng.choice([".png", ".jpg", ".bmp", ".tif", ".pgm", "", ".odd"]))
        )
        (into / f"b{suffix}").write_bytes(spoil(_any(seeds / form, rng).read_bytes(), FORMATS[form]))
        flags = (
            [],
            ["--resize", "8"],
            ["--resize", "8", "--fit", "pad", "--background", "keep"],
            ["--background", "keep"],
        )
        # libtiff itself tells standard error what it thinks of a file.
        return of_data(into, *flags[rng.integers(4)])._replace(named=("pictures", f"b{suffix}"), quiet=form != "tiff")

    return make


def _any(folder: Path, rng: np.random.Generator) -> Path:
    files = sorted(folder.iterdir())
    return files[rng.integers(len(files))]


def data_file(kind: str, name: str, crafted: dict[str, Callable], *, labels: bool = False):
    """A file that is a data set, or the labels of one."""

    def make(seeds, folder, rng, spoil):
        path = folder / name
        path.write_bytes(spoil(_any(seeds / kind, rng).read_bytes(), crafted))
        if not labels:
            return of_data(path)
        return of_data(seeds / "x.npy", "--labels", str(path))._replace(named=(name, "x.npy"))

    return make


def packed_idx(seeds, folder, rng, spoil):
    path = folder / "x-idx3-ubyte.gz"
    path.write_bytes(spoil(gzip.compress(_any(seeds / "idx", rng).read_bytes()), IDX_GZ))
    return of_data(path)


def idx_folder(seeds, folder, rng, spoil):
    """The four files of a published set, one of which is spoilt."""
    names = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
    bad = rng.integers(4)
    (folder / "set").mkdir()
    for i, name in enumerate(names):
        data = (seeds / ("idx/images" if "images" in name else "idx-labels")).read_bytes()
        (folder / "set" / name).write_bytes(spoil(data, IDX) if i == bad else data)
    return of_data(folder / "set")


def table(seeds, folder, rng, spoil):
    path = folder / "labels.csv"
    path.write_bytes(spoil(_any(seeds / "csv", rng).read_bytes(), CSV))
    return of_data(seeds / "pictures", "--labels", str(path))._replace(named=("labels.csv",))


def run_file(name: str, runs: tuple[str, ...], crafted: dict[str, Callable]):
    """A run folder with one file spoilt, used to sample, encode or decode."""

    def make(seeds, folder, rng, spoil):
        kind = str(rng.choice(runs))
        path = shutil.copytree(seeds / "runs" / kind, folder / "run")
        (path / name).write_bytes(spoil((path / name).read_bytes(), crafted))
        data = {"vqvae": "xy.npz", "cvae": "xy.npz", "table": "table.npy"}.get(kind, "x.npy")
        out = folder / "out.npy"
        table = kind == "table"
        top = 7 if kind == "vqvae" else math.inf
        actions = {
            "sample": (["-n", "2", "--random-state", "0"], (-math.inf, math.inf) if table else (0, 255)),
            "encode": (["--data", str(seeds / data)], (0 if kind == "vqvae" else -math.inf, top)),
            "reconstruct": (["--data", str(seeds / data)], (-math.inf, math.inf) if table else (0, 255)),
        }
        action = str(rng.choice(list(actions)))
        flags, bounds = actions[action]
        return Case(
            functools.partial(main, [action, str(path), "--out", str(out), *flags]),
            ("run", "weights of this model"),
            check_array_in(out, *bounds),
        )

    return make


def log_file(seeds, folder, rng, spoil):
    """A run whose log is spoilt, for the commands that read it."""
    path = shutil.copytree(seeds / "runs" / "vae", folder / "run")
    (path / "log.jsonl").write_bytes(spoil((path / "log.jsonl").read_bytes(), LOG))
    command = str(rng.choice(["evaluate", "doctor", "card"]))
    if command == "card":
        return Case(lambda: _card(path, folder / "card"), ("run",), lambda out: None)
    flags = ["--no-judge"] if command == "evaluate" else ["--json"]
    act = functools.partial(main, [command, str(path), "--data", str(seeds / "x.npy"), *flags])
    return Case(act, ("run",), lambda out: None)


def evaluation(seeds, folder, rng, spoil):
    """An evaluation that the model card tells of."""
    path = shutil.copytree(seeds / "runs" / str(rng.choice(["vae", "vqvae"])), folder / "run")
    (path / "evaluation.json").write_bytes(spoil((path / "evaluation.json").read_bytes(), JSON))
    return Case(lambda: _card(path, folder / "card", evaluation=path), ("evaluation.json",), lambda out: None)


def _card(path: Path, out: Path, **settings) -> None:
    """What `vaekit push` does before it uploads, and the exit it would make of an error."""
    try:
        write_repository(load(path).fitted_, out, **settings)
    except (ValueError, OSError) as error:
        print(f"vaekit: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def checkpoint(seeds, folder, rng, spoil):
    """A run that was stopped, to be gone on with."""
    path = shutil.copytree(seeds / "runs" / "stopped", folder / "run")
    name = CHECKPOINT if rng.random() < 0.7 else "run.json"
    (path / name).write_bytes(spoil((path / name).read_bytes(), SAFETENSORS if name == CHECKPOINT else JSON))
    act = functools.partial(main, _resume(seeds, path))

    def check(out: str) -> None:
        state = load(path).model_.state_dict()
        assert all(tensor.isfinite().all() for tensor in state.values())

    # Huge weights are as good as any, until the training has become non-finite for good.
    return Case(act, ("run", "checkpoint", "training stopped"), check, quiet=False)


def _resume(seeds: Path, run: Path) -> list[str]:
    return ["train", "vae", "--data", str(seeds / "x.npy"), "--out", str(run), "--resume", *TINY, "--epochs", "3"]


def sweep(seeds, folder, rng, spoil):
    """A sweep that is gone on with."""
    path = shutil.copytree(seeds / "sweep", folder / "sweep")
    (path / "sweep.json").write_bytes(spoil((path / "sweep.json").read_bytes(), JSON))

    def check(out: str) -> None:
        json.loads((path / "sweep.json").read_text(), parse_constant=_none)

    return Case(functools.partial(main, _sweep(str(seeds / "x.npy"), str(path))), ("sweep",), check, quiet=False)


def codes(seeds, folder, rng, spoil):
    """Latents or codes to decode."""
    kind, name = (("vae", "latents.npy"), ("vqvae", "codes.npy"))[rng.integers(2)]
    data = (seeds / name).read_bytes()
    packed = rng.random() < 0.3
    path = folder / ("z.npz" if packed else "z.npy")
    crafted = ZIP if packed else {**NPY, "an odd array": lambda data, rng: odd_array(rng), "numbers": _odd_codes}
    path.write_bytes(spoil(npz_of({"x": np.load(io.BytesIO(data))}, packed=True) if packed else data, crafted))
    act = functools.partial(
        main, ["decode", str(seeds / "runs" / kind), "--codes", str(path), "--out", str(folder / "out.npy")]
    )
    return Case(act, (path.name, "latents", "codes"), check_array_in(folder / "out.npy", 0, 255))


def _odd_codes(data, rng):
    array = np.load(io.BytesIO(data)).copy()
    odd = (-1, 8, 2**31, -(2**63)) if array.dtype.kind in "iu" else (math.nan, math.inf, 1e38, -1e38)
    array.flat[rng.integers(array.size)] = odd[rng.integers(4)]
    return npy_of(array)


def cache(seeds, folder, rng, spoil):
    """The cache of decoded pictures, as a crash or a full disk might leave it."""
    into = shutil.copytree(seeds / "pictures", folder / "pictures")
    with captured():
        main(["data", str(into), "--json"])
    for file in sorted(Path(os.environ["VAEKIT_CACHE"]).rglob("facts.json" if rng.random() < 0.7 else "pixels")):
        file.write_bytes(spoil(file.read_bytes(), JSON if file.name == "facts.json" else {}))
    return of_data(into)


def places(seeds, folder, rng, spoil):
    """Things that are no files, and names that are no text, where a file is expected."""
    odd = folder / "odd"
    targets = {
        "x.npy": ["data", f"{odd}/x.npy"],
        "x.npz": ["data", f"{odd}/x.npz"],
        "x-idx3-ubyte": ["data", f"{odd}/x-idx3-ubyte"],
        "t10k-labels-idx1-ubyte": ["data", f"{odd}"],
        "pictures/b.png": ["data", f"{odd}/pictures"],
        "pictures/c/b.png": ["data", f"{odd}/pictures/*/*.png"],
        "labels.csv": ["data", str(seeds / "pictures"), "--labels", f"{odd}/labels.csv"],
        "y.npy": ["data", str(seeds / "x.npy"), "--labels", f"{odd}/y.npy"],
        "z.npy": ["decode", str(seeds / "runs" / "vae"), "--codes", f"{odd}/z.npy", "--out", f"{odd}/out.npy"],
        "run/run.json": ["sample", f"{odd}/run", "--out", f"{odd}/out.npy"],
        "run/weights.safetensors": ["sample", f"{odd}/run", "--out", f"{odd}/out.npy"],
        "run/prior.safetensors": ["sample", f"{odd}/run", "--out", f"{odd}/out.npy"],
        "run/log.jsonl": ["evaluate", f"{odd}/run", "--data", str(seeds / "x.npy"), "--no-judge"],
        "run/checkpoint.safetensors": _resume(seeds, odd / "run"),
        "sweep/sweep.json": _sweep(str(seeds / "x.npy"), f"{odd}/sweep"),
    }
    name = str(rng.choice(list(targets)))
    path, argv = odd / name, targets[name]
    path.parent.mkdir(parents=True)
    if name.startswith("run/"):
        kind = {"checkpoint": "stopped", "prior": "flow"}.get(path.name.split(".")[0], "vae")
        shutil.copytree(seeds / "runs" / kind, path.parent, dirs_exist_ok=True)
    elif name.startswith("sweep/"):
        shutil.copytree(seeds / "sweep", path.parent, dirs_exist_ok=True)
    elif name.startswith("t10k"):
        for other in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte"):
            shutil.copy(seeds / ("idx/images" if "images" in other else "idx-labels"), odd / other)
    if "pictures" in name:
        shutil.copy(seeds / "pictures" / "0.png", path.with_name("a.png"))
    way = spoil(b"", {way: lambda data, rng, way=way: way.encode() for way in PLACES}, True).decode()
    if not way:
        return of_data(seeds / "x.npy")
    path.unlink(missing_ok=True)
    argv = PLACES[way](path, argv) or argv
    named = (path.name, "odd", *(("checkpoint",) if "checkpoint" in name else ()))
    return Case(functools.partial(main, argv), named, lambda out: None, quiet=argv[0] not in ("train", "sweep"))


def _renamed(name: str):
    """The file, or its folder, under another name, holding nothing of use."""

    def make(path: Path, argv: list[str]) -> list[str]:
        path.write_bytes(b"x")
        other = path.with_name(name + path.suffix)
        os.rename(path, other)
        return [word.replace(str(path), str(other)) for word in argv]

    return make


def _renamed_folder(name: str):
    def make(path: Path, argv: list[str]) -> list[str]:
        path.write_bytes(b"x")
        folder = next(folder for folder in path.parents if folder.name == "odd")
        other = folder.with_name(name)
        os.rename(folder, other)
        return [word.replace(str(folder), str(other)) for word in argv]

    return make


PLACES: dict[str, Callable] = {
    "a folder": lambda path, argv: path.mkdir(),
    "a pipe": lambda path, argv: os.mkfifo(path),
    "a link to nowhere": lambda path, argv: path.symlink_to("nowhere"),
    "a link to itself": lambda path, argv: path.symlink_to(path.name),
    "a link to its folder": lambda path, argv: path.symlink_to("."),
    "an endless device": lambda path, argv: path.symlink_to("/dev/zero"),
    "an empty device": lambda path, argv: path.symlink_to("/dev/null"),
    "nothing": lambda path, argv: None,
    "empty": lambda path, argv: path.write_bytes(b"") and None,
    "a name that is no text": _renamed("b\udcff\udc80"),
    "a name of two lines": _renamed("b\nc"),
    "a name of control characters": _renamed("b\x1b[31m\x07"),
    "a folder that is no text": _renamed_folder("odd\udcff"),
    "a folder of two lines": _renamed_folder("odd\nc"),
}


def bombs(seeds, folder, rng, spoil):
    """Small files that are large pictures, or many."""
    into = folder / "pictures"
    into.mkdir()
    ways = {
        "one of 49 million pixels": lambda: _flat(into, 1, 7000, "RGB"),
        "one of 64 million pixels with alpha": lambda: _flat(into, 1, 8000, "RGBA"),
        "one of 64 million pixels of 16 bits": lambda: _flat(into, 1, 8000, "I;16"),
        "one of 65 million pixels": lambda: _flat(into, 1, 8064, "L"),
        "many of 36 million pixels": lambda: _flat(into, 6, 6000, "RGB"),
        "a small one and many of 36 million pixels": lambda: _flat(into, 6, 6000, "RGB", first=16),
    }
    way = spoil(b"", {way: lambda data, rng, way=way: way.encode() for way in ways}, True).decode()
    ways[way]() if way else shutil.copy(seeds / "pictures" / "0.png", into)
    flags = ["--resize", "16"] if rng.random() < 0.5 else []
    return of_data(into, *flags)._replace(named=("pictures", ".png"), quiet=False)  # it says how far it is


def _flat(folder: Path, count: int, side: int, mode: str, first: int | None = None) -> None:
    """`count` files of one colour."""
    for i in range(count):
        if i > 1:
            os.link(folder / "1.png", folder / f"{i}.png")
        else:
            shutil.copyfile(_flat_file(first if first and i == 0 else side, mode), folder / f"{i}.png")


_flat_files = tempfile.TemporaryDirectory(prefix="vaekit-flat-")  # until the process ends


@functools.cache
def _flat_file(side: int, mode: str) -> Path:
    path = Path(_flat_files.name) / f"{side}-{mode}.png"
    Image.new(mode, (side, side)).save(path)
    return path


KINDS: dict[str, tuple[int, Callable]] = {
    **{form: (700, pictures(form)) for form in FORMATS},
    "bombs": (12, bombs),
    "npy": (900, data_file("npy", "x.npy", {**NPY, "an odd array": lambda data, rng: odd_array(rng)})),
    "npz": (900, data_file("npz", "x.npz", ZIP)),
    "dsprites": (500, data_file("dsprites", "sprites.npz", ZIP)),
    "idx": (400, data_file("idx", "x-idx3-ubyte", IDX)),
    "idx.gz": (300, packed_idx),
    "idx folder": (300, idx_folder),
    "csv": (700, table),
    "table": (700, data_file("table", "t.csv", TABLE)),
    "table.gz": (200, data_file("table.gz", "t.csv.gz", IDX_GZ)),
    "parquet": (400, data_file("parquet", "t.parquet", {})),
    "unfinished": (150, run_file(CHECKPOINT, ("stopped",), SAFETENSORS)),
    "labels.npy": (
        300,
        data_file("labels", "y.npy", {**NPY, "an odd array": lambda data, rng: odd_array(rng)}, labels=True),
    ),
    "run.json": (900, run_file("run.json", ("vae", "cvae", "table", "vqvae"), JSON)),
    "weights": (500, run_file(WEIGHTS, ("vae", "cvae", "table", "vqvae"), SAFETENSORS)),
    "prior": (500, run_file("prior.safetensors", ("vqvae", "flow"), SAFETENSORS)),
    "log.jsonl": (200, log_file),
    "checkpoint": (300, checkpoint),
    "evaluation.json": (200, evaluation),
    "sweep.json": (150, sweep),
    "codes": (400, codes),
    "cache": (200, cache),
    "places": (300, places),
}
