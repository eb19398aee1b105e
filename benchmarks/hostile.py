"""Malformed inputs: pictures, arrays, tables, run folders and what else a command reads, damaged or crafted, each gets an answer
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
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as format_safetensors

from benchmarks.harness import Findings, progress
from vaekit.cli import main
from vaekit.data.readers import MAX_PIXELS
from vaekit.files import load
from vaekit.hub import write_repository
from vaekit.training.checkpoint import digest

MEMORY = 1_500  # MB that one input may take
PATIENCE = 10.0  # seconds that one input may take
KILLED_AFTER = 60.0  # seconds after which a worker is given up
TINY = ["--architecture", "mlp", "--latent-dim", "2", "--epochs", "1", "--batch-size", "8", "--random-state", "0"]
EXTREMES = (0, 1, 2, 127, 128, 255, 2**15 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)


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
        progress(f"{outcome.kind} {outcome.index} ({outcome.mutation}): {outcome.verdict}")
    failures = "; ".join(f"{o.kind} {o.index} ({o.mutation}): {o.verdict[:200]}" for o in bad[:20])
    text = (
        f"{len(outcomes):,} inputs, {len(bad)} failures{f': {failures}' if bad else ''}. The claim {'does not hold' if bad else 'holds'}. "
        "Accepted means that what came of it was looked at: pixels and samples in their range, codes below their number, weights "
        f"finite. A failure is any other exit than by a message of one line that names the file, more than {PATIENCE:.0f} s, or "
        f"more than {MEMORY:,} MB beyond what the process had. Pictures of more than {MAX_PIXELS // 10**6} million pixels are "
        "refused before they are decoded. The inputs with index -1 of each kind, not counted, are intact and were accepted."
    )
    columns = ["input", "inputs", "refused", "accepted", "failures", "slowest [s]", "most memory [MB]"]
    return Findings(columns, rows, text)


def failed(outcome: Outcome) -> bool:
    return (
        outcome.verdict not in ("refused", "accepted") or outcome.seconds > PATIENCE or outcome.megabytes > MEMORY
    )


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

    def spoil(data: bytes, crafted: dict[str, Callable]) -> bytes:
        if index < 0:
            return data
        words, data = spoilt(data, rng, crafted)
        said.append(words)
        return data

    case = KINDS[kind][1](seeds, folder, rng, spoil)
    reset_peak()
    before, start = memory("VmRSS"), time.perf_counter()
    try:
        with captured() as read:
            code, error = exit_of(case.act)
        out, err = read()
    finally:
        seconds, megabytes = time.perf_counter() - start, max(0.0, memory("VmHWM") - before)
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
            "rotated": (Image.fromarray(colour), {"exif": _exif()}),
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
    (seeds / "idx").mkdir()
    for name, array in {"images": x, "labels": y.astype(np.uint8), "floats": arrays["float32"].astype(">f4")}.items():
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
    (seeds / "pictures").mkdir()
    for i in range(6):
        Image.fromarray(np.roll(colour, i, 0)).save(seeds / "pictures" / f"{i}.png")
    np.save(seeds / "x.npy", x)
    np.savez(seeds / "xy.npz", x=x, y=y)
    np.save(seeds / "table.npy", arrays["table"])
    _prepare_runs(seeds)


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
    # A run that was stopped after one of its two steps.
    stopped = shutil.copytree(seeds / "runs" / "vae", seeds / "runs" / "stopped")
    tensors = {f"state.module.{name}": tensor for name, tensor in parse_safetensors((stopped / WEIGHTS).read_bytes()).items()}
    (stopped / WEIGHTS).unlink()
    (stopped / "evaluation.json").unlink()
    (stopped / "log.jsonl").write_text("")
    (stopped / CHECKPOINT).write_bytes(safetensors_of(tensors, {"step": 1, "history": [], "seconds_total": 1.0}))
    say(*_sweep(x, f"{seeds}/sweep"))


QUICK = ["--epochs", "1", "--batch-size", "8", "--random-state", "0"]
WEIGHTS, CHECKPOINT = "weights.safetensors", "checkpoint.safetensors"


def _sweep(data: str, out: str) -> list[str]:
    settings = ["--epochs", "1", "--architecture", "mlp", "--random-state", "0", "--jobs", "1"]
    return ["sweep", "--data", data, "--out", out, "--latent-dim", "1,2", "--beta", "1", *settings]


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: a quarter of a turn
    return exif


def _interlaced(grey: np.ndarray) -> bytes:
    """An Adam7 PNG of an image (H, W) of 8 bits, which Pillow does not write."""
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    rows = b"".join(b"\0" + row.tobytes() for top, left, down, right in passes for row in grey[top::down, left::right])
    head = struct.pack(">IIBBBBB", *grey.shape[::-1], 8, 0, 0, 0, 1)
    return png_of([(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")])


def npy_of(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npz_of(arrays: dict[str, np.ndarray], *, packed: bool) -> bytes:
    return zip_of({f"{name}.npy": npy_of(array) for name, array in arrays.items()}, packed=packed)


def zip_of(members: dict[str, bytes], *, packed: bool = True) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def idx_of(array: np.ndarray) -> bytes:
    code = {"u1": 0x08, "f4": 0x0D}[array.dtype.str[1:]]
    return struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape) + array.tobytes()


def safetensors_of(tensors: dict[str, torch.Tensor], state) -> bytes:
    """As `write_tensors` writes them, with the checksum that is right for them."""
    plain = {name: tensor.contiguous() for name, tensor in tensors.items()}
    metadata = {"state": json.dumps(state)}
    return format_safetensors(plain, {**metadata, "sha256": digest(plain, metadata)})


# Damage that knows nothing of formats


def spoilt(data: bytes, rng: np.random.Generator, crafted: dict[str, Callable]) -> tuple[str, bytes]:
    """`data` damaged at random, or by one of the ways in `crafted`, and in words how."""
    if crafted and rng.random() < 0.5:
        name = str(rng.choice(list(crafted)))
        return name, crafted[name](data, rng)
    names = [str(rng.choice(list(DAMAGE))) for _ in range(rng.integers(1, 4))]
    for name in names:
        data = DAMAGE[name](data, rng) if len(data) > 1 else data
    return ", ".join(names), data


def _some(data: bytes, rng: np.random.Generator) -> tuple[int, int]:
    """Where a piece of the data begins and ends; often it is near the beginning, where headers are."""
    start = int(rng.integers(min(len(data), 64) if rng.random() < 0.4 else len(data)))
    return start, min(len(data), start + int(2 ** rng.uniform(0, 8)))


def _flip(data, rng):
    changed = bytearray(data)
    for _ in range(int(2 ** rng.uniform(0, 5))):
        changed[_some(data, rng)[0]] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _fill(data, rng):
    start, end = _some(data, rng)
    kind = rng.integers(3)
    filling = rng.bytes(end - start) if kind == 2 else bytes([255 * int(kind)]) * (end - start)
    return data[:start] + filling + data[end:]


def _cut(data, rng):
    return data[: int(rng.integers(len(data)))]


def _remove(data, rng):
    start, end = _some(data, rng)
    return data[:start] + data[end:]


def _insert(data, rng):
    start, end = _some(data, rng)
    return data[:start] + rng.bytes(end - start) + data[start:]


def _double(data, rng):
    start, end = _some(data, rng)
    return data[:end] + data[start:end] * int(rng.integers(1, 50)) + data[end:]


def _swap(data, rng):
    (a, b), (c, d) = sorted((_some(data, rng), _some(data, rng)))
    b = min(b, c)
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def _extreme(data, rng):
    """A number of 1, 2, 4 or 8 bytes set to one that few expect."""
    return _set(data, _some(data, rng)[0], int(rng.choice([1, 2, 4, 8])), rng)


def _set(data: bytes, start: int, size: int, rng: np.random.Generator) -> bytes:
    number = EXTREMES[rng.integers(len(EXTREMES))] % 256**size
    return data[:start] + number.to_bytes(size, "big" if rng.random() < 0.5 else "little") + data[start + size :]


DAMAGE = {
    "bits flipped": _flip,
    "bytes overwritten": _fill,
    "cut short": _cut,
    "bytes removed": _remove,
    "bytes inserted": _insert,
    "bytes repeated": _double,
    "pieces swapped": _swap,
    "a number set to an extreme": _extreme,
    "empty": lambda data, rng: b"",
    "noise": lambda data, rng: rng.bytes(len(data)),
}


def fields(places: dict[str, tuple[int, int]]) -> dict[str, Callable]:
    """Ways to set the numbers at known places (offset, bytes) to extremes."""
    return {name: lambda data, rng, at=at: _set(data, *at, rng) for name, at in places.items()}


# Damage by format: pictures


def png_parts(data: bytes) -> list[tuple[bytes, bytes]]:
    parts, at = [], 8
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        parts.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += size + 12
    return parts


def png_of(parts: list[tuple[bytes, bytes]]) -> bytes:
    """A PNG with the right checksums."""
    body = b"".join(
        len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big") for name, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + body


def png_sized(data: bytes, width: int, height: int) -> bytes:
    (name, head), *rest = png_parts(data)
    return png_of([(name, struct.pack(">II", width, height) + head[8:]), *rest])


@functools.cache
def zeros(megabytes: int) -> bytes:
    """So many MB of zeros, compressed."""
    packer = zlib.compressobj(9)
    return b"".join([packer.compress(bytes(2**20)) for _ in range(megabytes)]) + packer.flush()


def _png_head(data, rng):
    (name, head), *rest = png_parts(data)
    at = int(rng.integers(8, 13))
    return png_of([(name, head[:at] + rng.bytes(1) + head[at + 1 :]), *rest])


def _png_part(data, rng):
    parts = png_parts(data)
    i = int(rng.integers(len(parts) - 1))
    parts[i] = parts[i][0], spoilt(parts[i][1], rng, {})[1]
    return png_of(parts)


def _png_order(data, rng):
    parts = png_parts(data)
    return png_of([parts[i] for i in rng.integers(len(parts), size=rng.integers(1, 8))])


def _png_with(name: bytes, make: Callable):
    def forged(data, rng):
        parts = [part for part in png_parts(data) if part[0] != name]
        return png_of([parts[0], (name, make(rng)), *parts[1:]])

    return forged


def _side(rng) -> int:
    return int(rng.choice([0, 1, 7, 9_000, 65_535, 100_000, 2**31 - 1]))


PNG = {
    "size in IHDR": lambda data, rng: png_sized(data, _side(rng), _side(rng)),
    "100,000 x 100,000 pixels": lambda data, rng: png_sized(data, 100_000, 100_000),
    "IHDR": _png_head,
    "a chunk, its checksum right": _png_part,
    "chunks drawn at random": _png_order,
    "zTXt that is a bomb": _png_with(b"zTXt", lambda rng: b"Title\0\0" + zeros(64)),
    "iCCP that is a bomb": _png_with(b"iCCP", lambda rng: b"name\0\0" + zeros(64)),
    "IDAT that is a bomb": _png_with(b"IDAT", lambda rng: zeros(64)),
    "PLTE": _png_with(b"PLTE", lambda rng: rng.bytes(int(rng.integers(800)))),
    "tRNS": _png_with(b"tRNS", lambda rng: rng.bytes(int(rng.integers(300)))),
    "eXIf": _png_with(b"eXIf", lambda rng: spoilt(_exif().tobytes(), rng, {})[1]),
}


def jpeg_parts(data: bytes) -> list[bytes]:
    """The segments up to the scan, and the rest."""
    parts, at = [], 2
    while data[at + 1] != 0xDA:
        size = 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        parts.append(data[at : at + size])
        at += size
    return [*parts, data[at:]]


def _jpeg_size(data, rng):
    return b"\xff\xd8" + b"".join(
        part[:5] + struct.pack(">HH", _side(rng) % 65536, _side(rng) % 65536) + part[9:]
        if part[1] in (0xC0, 0xC2)
        else part
        for part in jpeg_parts(data)
    )


def _jpeg_order(data, rng):
    parts = jpeg_parts(data)
    return b"\xff\xd8" + b"".join(parts[i] for i in rng.integers(len(parts), size=rng.integers(1, 12)))


def _jpeg_length(data, rng):
    parts = jpeg_parts(data)
    i = int(rng.integers(len(parts)))
    parts[i] = _set(parts[i], 2, 2, rng)
    return b"\xff\xd8" + b"".join(parts)


def _jpeg_part(data, rng):
    parts = jpeg_parts(data)
    i = int(rng.integers(len(parts)))
    parts[i] = parts[i][:4] + spoilt(parts[i][4:], rng, {})[1]
    return b"\xff\xd8" + b"".join(parts)


def _tiff_entry(data, rng):
    """The type, the count or the value of an entry of the directory, set to an extreme."""
    start = int.from_bytes(data[4:8], "little")
    entry = start + 2 + 12 * int(rng.integers(int.from_bytes(data[start : start + 2], "little")))
    offset, size = ((2, 2), (4, 4), (8, 4))[rng.integers(3)]
    return _set(data, entry + offset, size, rng)


def _tiff_value(tag: int):
    def forged(data, rng):
        start = int.from_bytes(data[4:8], "little")
        for entry in range(start + 2, start + 2 + 12 * int.from_bytes(data[start : start + 2], "little"), 12):
            if int.from_bytes(data[entry : entry + 2], "little") == tag:
                forged = struct.pack("<HII", 4, 1, int(rng.choice([0, 1, 100_000, 2**31 - 1, 2**32 - 1])))
                data = data[: entry + 2] + forged + data[entry + 12 :]
        return data

    return forged


def _tiff_loop(data, rng):
    """A directory that is its own successor."""
    start = int.from_bytes(data[4:8], "little")
    end = start + 2 + 12 * int.from_bytes(data[start : start + 2], "little")
    return data[:end] + start.to_bytes(4, "little") + data[end + 4 :]


FORMATS = {
    "png": PNG,
    "jpeg": {
        "size": _jpeg_size,
        "segments drawn at random": _jpeg_order,
        "length of a segment": _jpeg_length,
        "a segment": _jpeg_part,
    },
    "gif": fields(
        {"width": (6, 2), "height": (8, 2), "flags": (10, 1), "background": (11, 1), "after the palette": (109, 2)}
    ),
    "bmp": fields(
        {
            "size of the file": (2, 4),
            "offset": (10, 4),
            "size of the header": (14, 4),
            "width": (18, 4),
            "height": (22, 4),
            "planes": (26, 2),
            "bits": (28, 2),
            "compression": (30, 4),
            "size of the pixels": (34, 4),
            "colours": (46, 4),
        }
    ),
    "tiff": {
        "an entry": _tiff_entry,
        "width": _tiff_value(256),
        "height": _tiff_value(257),
        "strips": _tiff_value(273),
        "rows per strip": _tiff_value(278),
        "bytes of a strip": _tiff_value(279),
        "samples": _tiff_value(277),
        "compression": _tiff_value(259),
        "a loop of directories": _tiff_loop,
    },
    "webp": fields({"length": (4, 4), "length of a chunk": (16, 4), "size": (24, 4), "frame": (20, 4)}),
}

# Damage by format: arrays

SHAPES = (
    *("(24, 8, 8)", "()", "(0,)", "(0, 8, 8)", "(24, 0, 8)", "(10**12,)", "(1000000000000,)", "(1000000, 1000, 1000)"),
    *("(-1,)", "(-24, 8, 8)", "(24, -8, -8)", "(2**63, 8, 8)", f"({2**63},)", f"({2**64}, 1)", "(24.0, 8, 8)", "(True, 8, 8)"),
    *("((24, 8), 8)", "[24, 8, 8]", "24", "None", "'24'", "(24, 8, 8" + ", 1" * 40 + ")", "(" * 150 + ")" * 150),
    *("(4294967296, 4294967296)", "(1, 1, 1, 1, 1)", "(1536,)", "(1536, 1)", "(1, 1536)", "(24, 8, 8, 1)", "(24, 64)"),
)
TYPES = (
    *("'|u1'", "'<f4'", "'<f8'", "'<f2'", "'>i8'", "'<c16'", "'|O'", "'|b1'", "'|S5'", "'<U3'", "'<M8[s]'", "'<m8[D]'", "'|V7'"),
    *("'<U0'", "'|S0'", "'|V0'", "'|S2147483647'", "[('a', '<f4'), ('b', '|O')]", "[('a', '<f4', (1000000,))]", "'x'", "3"),
    *("None", "''", "'<f16'", "'<f3'", "[]", "[('', '|u1')]", "[('a', [('b', [('c', '|u1')])])]", "('|u1', (3,))", "'|u1,' * 9"),
    *("{'names': ['a'], 'formats': ['<f4'], 'offsets': [2147483647]}", "'\\ud800'", "'\\x00'"),
)
HEADERS = (
    b"",
    b"{}",
    b"\n",
    b"[1, 2]",
    b"{'descr': '|u1'}",
    b"__import__('os').system('true')",
    b"{'descr': '|u1', 'fortran_order': False, 'shape': (24, 8, 8), 'more': 1}",
    b"{'descr': '|u1', 'fortran_order': 3, 'shape': (24, 8, 8)}",
    b"{'descr': '|u1', 'fortran_order': False, 'shape': (24L, 8L, 8L)}",
    b"{" * 5000,
    b"-" * 9000 + b"1",
    b"{'descr': '|u1', 'fortran_order': False, 'shape': " + b"(" * 3000 + b")" * 3000 + b"}",
    b"\xff\xfe\x00",
    b"{'descr': '|u1', 'fortran_order': False, 'shape': (24, 8, 8)}\0",
    b"{'descr': '|u1', 'fortran_order': False, 'shape': (24, 8, 8)" + b" " * 20_000 + b"}",
    b"'''",
    b"(1,)*10**9",
    b"9" * 5000,
)


def npy_with(header: bytes, body: bytes, version: tuple[int, int] = (1, 0)) -> bytes:
    length = struct.pack("<H" if version[0] == 1 else "<I", len(header) % (2**16 if version[0] == 1 else 2**32))
    return b"\x93NUMPY" + bytes(version) + length + header + body


def _npy_header(data, rng):
    shape, kind = (str(rng.choice(found)) for found in (SHAPES, TYPES))
    if rng.random() < 0.6:  # only one of them is odd
        shape, kind = (shape, "'|u1'") if rng.random() < 0.5 else ("(24, 8, 8)", kind)
    header = f"{{'descr': {kind}, 'fortran_order': {rng.random() < 0.3}, 'shape': {shape}}}"
    return npy_with(header.encode() + b"\n", rng.bytes(int(rng.choice([0, 7, 1536, 12288]))))


def _npy_text(data, rng):
    version = ((1, 0), (2, 0), (3, 0), (9, 9), (0, 0))[rng.choice(5, p=[0.5, 0.2, 0.2, 0.05, 0.05])]
    return npy_with(HEADERS[rng.integers(len(HEADERS))], rng.bytes(1536), version)


NPY = {"header": _npy_header, "text of the header": _npy_text, **fields({"version": (6, 2), "length of the header": (8, 2)})}


def odd_array(rng: np.random.Generator) -> bytes:
    """A .npy file of some kind that is no array of pixels."""
    arrays = (
        np.zeros(24, "V3"),
        np.zeros((24, 8, 8), complex),
        np.full(24, np.nan),
        np.full((24, 8, 8), np.inf),
        np.full((24, 8, 8), 300),
        np.full((24, 8, 8), -1.5),
        np.full((24, 8, 8), 1e300),
        np.full((24, 3), 1e300),
        np.full((24, 3), 1e-320),
        np.zeros((24, 8, 8), "M8[s]"),
        np.array(["", "\0", "x" * 9999] * 8),
        np.array([b"\xff", b"\xfe"] * 12),
        np.array([f"{'a/../' * i}b" for i in range(24)]),
        np.array(["\ud800"] * 24) if rng.random() < 0.5 else np.array(["[red]x[/]"] * 24),
        np.zeros(24, [("a", "<f4"), ("b", "<i2")]),
        np.arange(24) * 2**58,
        np.arange(24, dtype=np.uint64) + np.uint64(2**63),
        np.linspace(0, 1, 24),
        np.full(24, 1e300),
        np.array(5),
        np.zeros((0,)),
        np.zeros((24, 0)),
        np.zeros((1, 2, 2), np.uint8),
        np.zeros((24, 8, 8, 5), np.uint8),
        np.zeros((24, 1, 1), np.uint8),
        np.zeros((24, 2**17), np.float16),
        np.full((24, 8, 8), 2.0, np.longdouble),
        np.zeros((2, 3, 4, 5, 6)),
    )
    return npy_of(arrays[rng.integers(len(arrays))])


def _zip_field(data, rng):
    """A number in the records of a zip file, set to an extreme."""
    found = [
        (match.start() + at, size)
        for mark, places in (
            (b"PK\3\4", ((4, 2), (6, 2), (8, 2), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2))),
            (b"PK\1\2", ((6, 2), (8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (32, 2), (42, 4))),
            (b"PK\5\6", ((4, 2), (8, 2), (10, 2), (12, 4), (16, 4), (20, 2))),
        )
        for match in re.finditer(re.escape(mark), data)
        for at, size in places
    ]
    for _ in range(rng.integers(1, 3)):
        data = _set(data, *found[rng.integers(len(found))], rng)
    return data


def members_of(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _zip_member(data, rng):
    members = members_of(data)
    name = str(rng.choice(list(members)))
    return zip_of({**members, name: spoilt(members[name], rng, NPY)[1]}, packed=bool(rng.integers(2)))


def _zip_array(data, rng):
    members = members_of(data)
    return zip_of({**members, str(rng.choice(list(members))): odd_array(rng)})


def _zip_names(data, rng):
    odd = ("", "x", "y", "../x.npy", "/x.npy", "x.npy.npy", ".npy", "\udcff.npy".encode("utf-8", "replace").decode(), "x" * 9999)
    return zip_of({str(rng.choice(odd)) if rng.random() < 0.5 else name: d for name, d in members_of(data).items()})


def _zip_twice(data, rng):
    members, file = members_of(data), io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w") as archive:
        warnings.simplefilter("ignore")
        for name in (*members, *members):
            archive.writestr(name, spoilt(members[name], rng, {})[1] if rng.random() < 0.5 else members[name])
    return file.getvalue()


def _zip_method(data, rng):
    """Compressed in a way that numpy does not write."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", int(rng.choice([zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]))) as archive:
        for name, member in members_of(data).items():
            archive.writestr(name, member)
    return spoilt(file.getvalue(), rng, {})[1] if rng.random() < 0.5 else file.getvalue()


@functools.cache
def zip_bomb(name: str, megabytes: int, honest: bool) -> bytes:
    """An archive whose array is `megabytes` of zeros; its header says so, or that there are 24 pictures."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive, archive.open(f"{name}.npy", "w", force_zip64=True) as out:
        shape = (megabytes, 1024, 1024) if honest else (24, 8, 8)
        out.write(npy_with(f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}\n".encode(), b""))
        for _ in range(megabytes):
            out.write(bytes(2**20))
    return file.getvalue()


ZIP = {
    "a number of the archive": _zip_field,
    "an array in it": _zip_member,
    "an odd array": _zip_array,
    "names": _zip_names,
    "every array twice": _zip_twice,
    "another compression": _zip_method,
    "a bomb, as its header says": lambda data, rng: zip_bomb("x", 4096, True),
    "a bomb": lambda data, rng: zip_bomb("x", 4096, False),
    "a bomb of labels": lambda data, rng: zip_bomb("y", 4096, True),
}
IDX = {
    **fields({"type": (2, 1), "axes": (3, 1), "first axis": (4, 4), "second axis": (8, 4), "third axis": (12, 4)}),
    "axes that agree with what follows": lambda data, rng: (
        struct.pack(">HBBII", 0, 8, 2, 1, len(data)) + data if rng.random() < 0.5 else struct.pack(">HBBI", 0, 8, 1, 9) + bytes(9)
    ),
}


@functools.cache
def gzip_bomb(megabytes: int) -> bytes:
    head = struct.pack(">HBBIII", 0, 8, 3, megabytes, 1024, 1024)
    packer = zlib.compressobj(9, wbits=31)
    return packer.compress(head) + b"".join(packer.compress(bytes(2**20)) for _ in range(megabytes)) + packer.flush()


IDX_GZ = {
    "what is packed": lambda data, rng: gzip.compress(spoilt(gzip.decompress(data), rng, IDX)[1]),
    "several streams": lambda data, rng: data + spoilt(data, rng, {})[1],
    "a bomb": lambda data, rng: gzip.compress(gzip.decompress(data)[:16]) + gzip_bomb(64),
    "a bomb, as its header says": lambda data, rng: gzip_bomb(4096),
}

# Damage by format: text

ODD = (
    *(None, True, False, 0, -1, 1, 1.5, 10**9, 10**30, -(10**18), 1e308, 1e-308, math.nan, math.inf, -math.inf, 2**63, 2**31),
    *("", "x", "VAE", "../../etc/passwd", "os.system", "\0", "\ud800", "x" * 10_000, "cpu", "[red]", "a\nb"),
    *([], [1], [[1], [2, 3]], [None] * 1000, {}, {"a": 1}, {"": {"": []}}, [math.nan], list(range(10_000))),
)


def _places(value, at=()) -> list[tuple]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at] + [place for key, part in inner for place in _places(part, (*at, key))]


def odd_json(value, rng: np.random.Generator):
    """JSON with one to three of its entries replaced, removed, moved or added to."""
    holder = [json.loads(json.dumps(value))]
    for _ in range(rng.integers(1, 4)):
        places = _places(holder[0])
        *way, last = (0, *places[rng.integers(len(places))])
        part = functools.reduce(lambda part, key: part[key], way, holder)
        action = rng.integers(6)
        if action == 0 and way:
            del part[last]
        elif action == 1 and isinstance(part[last], dict):
            part[last][str(rng.choice(["x", "", "__class__", "format", "epoch"]))] = ODD[rng.integers(len(ODD))]
        elif action == 2:
            at = places[rng.integers(len(places))]
            part[last] = json.loads(json.dumps(functools.reduce(lambda part, key: part[key], (0, *at), holder)))
        elif action == 3 and isinstance(part[last], (int, float)):
            part[last] = part[last] * int(rng.choice([-1, 0, 2, 10**6, 10**15])) + float(rng.choice([0, 0.5]))
        else:
            part[last] = ODD[rng.integers(len(ODD))]
    return holder[0]


def _deep(data, rng):
    kind = rng.integers(3)
    if kind == 0:
        return b"[" * 200_000 + b"]" * 200_000
    if kind == 1:
        return b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    return data.replace(b": ", b": " + b"[" * 2000 + b"]" * 2000 + b', "x": ', 1)


def _twice(data, rng):
    """A key a second time, with another value."""
    value = json.loads(data)
    if not isinstance(value, dict):
        return data
    key = str(rng.choice(list(value)))
    return data.rstrip()[:-1] + f", {json.dumps(key)}: {json.dumps(ODD[rng.integers(len(ODD))])}}}".encode()


JSON = {
    "entries": lambda data, rng: json.dumps(odd_json(json.loads(data), rng)).encode(),
    "other entries": lambda data, rng: json.dumps(odd_json(json.loads(data), rng), indent=1).encode(),
    "nested deeply": _deep,
    "a key twice": _twice,
    "another value": lambda data, rng: json.dumps(ODD[rng.integers(len(ODD))]).encode(),
    "a long number": lambda data, rng: re.sub(rb"\d+", b"9" * int(rng.choice([400, 5000, 100_000])), data, count=1),
    "UTF-16": lambda data, rng: data.decode().encode("utf-16"),
    "a mark of bytes": lambda data, rng: b"\xef\xbb\xbf" + data,
}


def _lines(data, rng):
    """A log with some of its records odd."""
    records = [json.loads(line) for line in data.splitlines()] or [{"step": 1}]
    records = [odd_json(record, rng) if rng.random() < 0.7 else record for record in records * int(rng.integers(1, 4))]
    return "".join(json.dumps(record) + "\n" for record in records).encode()


LOG = {"records": _lines, "nested deeply": _deep, "a huge line": lambda data, rng: b'{"step": 1, "a": "' + b"x" * 2**22}


def _cells(make: Callable):
    def forged(data, rng):
        rows = [row.split(b",") for row in data.replace(b";", b",").splitlines()]
        row = rows[rng.integers(len(rows))]
        row[rng.integers(len(row))] = make(rng)
        return b"\n".join(b",".join(row) for row in rows)

    return forged


CSV = {
    "a cell": _cells(lambda rng: rng.bytes(int(rng.integers(9)))),
    "NULs": _cells(lambda rng: b"\0" * 9),
    "a quote": _cells(lambda rng: b'"' + b"x" * int(rng.choice([0, 9, 10**6]))),
    "an image twice": _cells(lambda rng: b"3.png"),
    "latin-1": _cells(lambda rng: "pâté".encode("latin-1")),
    "a long name": _cells(lambda rng: b"x" * 10**6),
    "markup": _cells(lambda rng: b"[red]\x1b[31m"),
    "one column": lambda data, rng: b"\n".join(re.split(rb"[,;]", row)[0] for row in data.splitlines()),
    "a million columns": lambda data, rng: data + b"," * 10**6,
    "a head of a million columns": lambda data, rng: b"file_name,label" + b"," * 10**6 + b"\n" + data,
    "a million rows": lambda data, rng: data + b"\n1.png,bee" * 10**5,
    "blank": lambda data, rng: b"\n \n,,\n" * int(rng.integers(1, 100)),
    "a mark of bytes": lambda data, rng: b"\xef\xbb\xbf" * int(rng.integers(1, 4)) + data,
    "UTF-16": lambda data, rng: data.decode().encode("utf-16"),
    "old line ends": lambda data, rng: data.replace(b"\n", b"\r"),
    "tabs": lambda data, rng: re.sub(rb"[,;]", b"\t", data),
    "no picture": lambda data, rng: re.sub(rb"\d", b"z", data),
}


def _st_split(data: bytes) -> tuple[dict, bytes]:
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def _st_join(header: bytes, body: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + body


def _st_header(data, rng):
    header, body = _st_split(data)
    return _st_join(spoilt(json.dumps(header).encode(), rng, JSON)[1], body)


def _st_offsets(data, rng):
    header, body = _st_split(data)
    entry = header[str(rng.choice([name for name in header if name != "__metadata__"]))]
    key = str(rng.choice(["shape", "data_offsets", "dtype"]))
    odd = [EXTREMES[i] for i in rng.integers(len(EXTREMES), size=rng.integers(0, 4))]
    entry[key] = str(rng.choice(["F64", "I8", "BOOL", "F8_E5M2", "F4", "C64", "x"])) if key == "dtype" else odd
    return _st_join(json.dumps(header).encode(), body)


def _st_tensors(data, rng):
    """Another tensor, its checksum right."""
    tensors, state = parse_safetensors(data), json.loads(_st_split(data)[0]["__metadata__"]["state"])
    name = str(rng.choice(list(tensors)))
    tensor = tensors[name]
    kind = rng.integers(8)
    if kind == 0:
        del tensors[name]
    elif kind == 1:
        types = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.float8_e4m3fn)
        tensors[name] = tensor.to(types[rng.integers(len(types))])
    elif kind == 2:
        tensors[name] = (tensor.flatten(), tensor[None], tensor[:0] if tensor.ndim else tensor[None])[rng.integers(3)]
    elif kind == 3:
        tensors[str(rng.choice(["../x", "", "prior.x", "x" * 9999]))] = torch.zeros(3)
    elif kind == 4 and tensor.is_floating_point():
        tensors[name] = tensor * float(rng.choice([0, -1, 1e3, 1e10, 1e30, 1e38]))
    elif tensor.numel() and tensor.is_floating_point():
        changed = tensor.clone().view(-1)
        changed[int(rng.integers(len(changed)))] = float(rng.choice([math.nan, math.inf, -math.inf, 3e38, -3e38, 1e20]))
        tensors[name] = changed.view(tensor.shape)
    else:
        tensors[name] = tensor + int(rng.choice([-1, 1, 10**6]))
    return safetensors_of(tensors, state)


def _st_state(data, rng):
    """Another state, its checksum right."""
    tensors, state = parse_safetensors(data), json.loads(_st_split(data)[0]["__metadata__"]["state"])
    return safetensors_of(tensors, odd_json(state, rng))


SAFETENSORS = {
    "header": _st_header,
    "place of a tensor": _st_offsets,
    "tensors, checksum right": _st_tensors,
    "state, checksum right": _st_state,
    **fields({"length of the header": (0, 8)}),
}


# What a user does with an input


def check_data(out: str) -> bool:
    """What `vaekit data --json` said can be true; whether it left out the spoilt picture."""
    facts = json.loads(out, parse_constant=_none)
    assert facts["count"] >= 1, facts["count"]
    assert all(map(math.isfinite, (*facts["range"], facts["mean"]))), facts["range"]
    if len(facts["shape"]) == 3:
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
        suffix = form if rng.random() < 0.9 else str(rng.choice(["png", "jpg", "bmp", "tif"]))
        (into / f"b.{suffix}").write_bytes(spoil(_any(seeds / form, rng).read_bytes(), FORMATS[form]))
        flags = ([], ["--resize", "8"], ["--resize", "8", "--fit", "pad", "--background", "keep"], ["--background", "keep"])
        return of_data(into, *flags[rng.integers(4)])

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
        data = (seeds / "idx" / ("images" if "images" in name else "labels")).read_bytes()
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
            ("run",),
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
        write_repository(load(path), out, **settings)
    except (ValueError, OSError) as error:
        print(f"vaekit: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def checkpoint(seeds, folder, rng, spoil):
    """A run that was stopped, to be gone on with."""
    path = shutil.copytree(seeds / "runs" / "stopped", folder / "run")
    name = CHECKPOINT if rng.random() < 0.7 else "run.json"
    (path / name).write_bytes(spoil((path / name).read_bytes(), SAFETENSORS if name == CHECKPOINT else JSON))
    act = functools.partial(main, ["train", "vae", "--data", str(seeds / "x.npy"), "--out", str(path), "--resume", *TINY])

    def check(out: str) -> None:
        state = load(path).model_.state_dict()
        assert all(tensor.isfinite().all() for tensor in state.values())

    return Case(act, ("run", "checkpoint"), check, quiet=False)


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
        "run/checkpoint.safetensors": ["train", "vae", "--data", str(seeds / "x.npy"), "--out", f"{odd}/run", "--resume", *TINY],
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
            shutil.copy(seeds / "idx" / ("images" if "images" in other else "labels"), odd / other)
    if "pictures" in name:
        shutil.copy(seeds / "pictures" / "0.png", path.with_name("a.png"))
    if spoil(b"intact", PLACES) == b"intact":
        return of_data(seeds / "x.npy")
    way = str(rng.choice(list(PLACES)))
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
    "a name of two lines": _renamed("b\nTraceback"),
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
        "many of 36 million pixels": lambda: _flat(into, 40, 6000, "RGB"),
        "a small one and many of 36 million pixels": lambda: _flat(into, 40, 6000, "RGB", first=16),
    }
    if spoil(b"intact", {}) == b"intact":
        shutil.copy(seeds / "pictures" / "0.png", into)
        return of_data(into)
    way = str(rng.choice(list(ways)))
    ways[way]()
    flags = ["--resize", "16"] if rng.random() < 0.5 and "many" not in way else []
    return of_data(into, *flags)


def _flat(folder: Path, count: int, side: int, mode: str, first: int | None = None) -> None:
    """`count` files of one colour."""
    for i in range(count):
        if i > 1:
            os.link(folder / "1.png", folder / f"{i}.png")
        else:
            shutil.copyfile(_flat_file(first if first and i == 0 else side, mode), folder / f"{i}.png")


@functools.cache
def _flat_file(side: int, mode: str) -> Path:
    path = Path(tempfile.mkdtemp(prefix="vaekit-flat-")) / "flat.png"
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
    "labels.npy": (300, data_file("labels", "y.npy", {**NPY, "an odd array": lambda data, rng: odd_array(rng)}, labels=True)),
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
