"""Whatever ends a command, the same command again comes to the end of an unbroken one, and leaves nothing half written.

Trainings, second stages, the decoding of image files, comparisons and sweeps, each in a process of its own, are ended by kill
-9, SIGTERM and Ctrl-C at moments drawn uniformly over an unbroken run, again and again until one comes to its end; between them
a bit of a checkpoint is sometimes turned over, or the last line of a log cut short. And they meet a disk that is full, turned
read-only, fails once, or takes no large file, from a write drawn uniformly over those of an unbroken run. What is then compared
with it: every file of the output and of the cache, weights bit for bit, pictures byte for byte, records without the clock's
readings.
"""

import argparse
import builtins
import errno
import hashlib
import io
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from benchmarks.harness import Findings, progress
from vaekit.messages import filled
from vaekit.training.checkpoint import digest, read_tensors

CLOCK = ("seconds", "seconds_total", "images_per_second", "written", "date")
SIGNALS = {signal.SIGKILL: 6, signal.SIGTERM: 2, signal.SIGINT: 2}  # and how often each is drawn
CODES = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143, signal.SIGINT: 130}
DISKS = ("full", "read-only", "fails once", "no large file")
MOST_KILLS = 5  # of one run, before it is let come to its end
DAMAGED = 0.3  # of the kills are followed by damage to a checkpoint or a log
PATIENCE = 300.0  # seconds that an attempt may take
PRELOADED = ["vaekit.cli.train", "vaekit.cli.output", "vaekit.files", "vaekit.report.compare", "vaekit.report.sweep"]
PRELOADED += ["sklearn.mixture", "sklearn.linear_model", "sklearn.decomposition", "torch._dynamo", "filelock", "tyro"]


class Job(NamedTuple):
    """A command that goes on where it was when it is run again; its output is `out`. begun: a folder that is copied to `out`
    before the first attempt.
    """

    command: list[str]
    begun: Path | None = None
    share: float = 0.2  # of the kills and the write errors


class Ended(NamedTuple):
    """How an attempt ended: its exit code (-9 of kill -9), what it said, and the seconds it took."""

    code: int
    said: str
    seconds: float


class Whole(NamedTuple):
    """An unbroken run: what is in its folder in the end, the seconds it took, and how often it changed a file."""

    state: dict[str, str]
    seconds: float
    changes: int


@dataclass
class Tally:
    """What happened to one job: counts by name, and what went wrong in words."""

    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


def run(argv):
    parser = argparse.ArgumentParser(prog="python -m benchmarks faults")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--write-errors", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    tallies: dict[str, Tally] = {}
    with tempfile.TemporaryDirectory() as temporary:
        jobs = make_jobs(Path(temporary))
        for name, job in jobs.items():
            tally = tallies[name] = Tally()
            whole = unbroken(job, Path(temporary) / name)
            progress(f"{name}: {whole.seconds:.1f} s, {whole.changes} changes to files")
            trial = 0
            while tally.counts["kills"] < round(options.kills * job.share):
                seed = f"{options.seed} {name} kills {trial}"
                kill_and_go_on(job, whole, Path(temporary) / f"{name}-{trial}", random.Random(seed), seed, tally)
                trial += 1
            for trial in range(round(options.write_errors * job.share)):
                seed = f"{options.seed} {name} errors {trial}"
                fail_a_write(job, whole, Path(temporary) / f"{name}-e{trial}", random.Random(seed), seed, tally)
            progress(f"{name}: {dict(tally.counts)}")
    columns = [
        "job",
        "kills",
        "SIGKILL",
        "SIGTERM",
        "SIGINT",
        "attempts",
        "damaged files",
        "write errors",
        "ended with 1",
    ]
    counted = columns[1:]
    columns += ["mismatches", "files left", "processes left", "other problems"]
    counted += ["mismatches", "files left", "processes left", "others"]
    rows = [[name, *(tally.counts[key] for key in counted)] for name, tally in tallies.items()]
    return Findings(columns, rows, conclude(tallies))


def conclude(tallies: dict[str, Tally]) -> str:
    counts = sum((tally.counts for tally in tallies.values()), Counter())
    problems = [problem for tally in tallies.values() for problem in tally.problems]
    text = (
        f"{counts['kills']} kills, {counts['damaged files']} damaged files and {counts['write errors']} write errors: "
        f"{len(problems)} of {counts['trials']} runs did not end as the unbroken one did"
        f"{': the claim does not hold' if problems else ': the claim holds'}. "
        f"{counts['ended with 1']} of the write errors ended the command with exit code 1 and a line that says why; the others "
        "met what is done without, such as a cache. A run takes some seconds: damage that takes hours to build up is not tried."
    )
    return " ".join([text, *problems[:10]])


def make_jobs(root: Path, *, small: bool = False) -> dict[str, Job]:
    """The jobs, with their data and what they go on from in `root`; small: quicker ones."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x = np.rint(x / 16 * 255).astype(np.uint8).reshape(-1, 8, 8)
    root.mkdir(parents=True, exist_ok=True)
    np.savez(root / "digits.npz", x=x[:300], y=y[:300])
    for i in range(400):
        path = root / "photos" / str(y[i]) / f"{i:03}{'.jpg' if i % 3 == 0 else '.png'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(x[i]).resize((48, 48)).save(path)
    data = ["--data", str(root / "digits.npz")]
    alike = ["--architecture", "mlp", "--random-state", "0", "--device", "cpu"]
    trained = ["train", "vqvae", *data, "--out", "out", *alike, "--epochs", "4", "--batch-size", "32"]
    ended = attempt(root / "trained", trained)
    assert ended.code == 0, ended.said
    train = ["train", "vae", "--out", "out", *alike, "--latent-dim", "4", "--batch-size", "32", "--resume"]
    ended = attempt(root / "begun", [*train, *data, "--epochs", "4"])
    assert ended.code == 0, ended.said
    table = [",".join([*(f"p{i}" for i in range(64)), "digit"])]
    table += [",".join(map(str, [*row.reshape(-1), digit])) for row, digit in zip(x[:300], y[:300], strict=True)]
    (root / "digits.csv").write_text("\n".join(table))
    prior = ["--layers", "2", "--channels", "16", "--batch-size", "32", "--epochs", "4" if small else "16"]
    models = ["--models", "vqvae" if small else "vae,vqvae", "--epochs", "2" if small else "6"]
    grid = ["--latent-dim", "2", "--beta", "1,4", "--epochs", "3" if small else "12"]
    return {
        "train": Job([*train, *data, "--epochs", "10" if small else "60"], share=0.12),
        "go on beyond the end": Job(
            [*train, *data, "--epochs", "12" if small else "50"], begun=root / "begun" / "out", share=0.12
        ),
        "a table": Job(
            [*train, "--data", str(root / "digits.csv"), "--labels", "digit", "--epochs", "8" if small else "40"],
            share=0.08,
        ),
        "fit-prior": Job(["fit-prior", "out", *data, *prior], begun=root / "trained" / "out", share=0.16),
        "decode and train": Job([*train, "--data", str(root / "photos"), "--epochs", "4"], share=0.16),
        "compare": Job(["compare", *data, "--out", "out", *alike, *models], share=0.16),
        "sweep": Job(["sweep", *data, "--out", "out", *alike, *grid, "--jobs", "1"], share=0.14),
        "sweep, 2 at once": Job(["sweep", *data, "--out", "out", *alike, *grid, "--jobs", "2"], share=0.06),
    }


def begin(job: Job, folder: Path) -> None:
    """Makes the folder in which the job's attempts work."""
    folder.mkdir(parents=True)
    if job.begun:
        shutil.copytree(job.begun, folder / "out")


def unbroken(job: Job, folder: Path) -> Whole:
    """The job in one go; `changes` includes those that a disk would have to make for an attempt that is told of no fault."""
    begin(job, folder)
    ended = attempt(folder, job.command, disk=("counts", 0))
    assert ended.code == 0, ended.said
    return Whole(state(folder), ended.seconds, int((folder / "changes").read_text()))


def kill_and_go_on(
    job: Job, whole: Whole, folder: Path, rng: random.Random, seed: str, tally: Tally, most: int = MOST_KILLS
) -> None:
    """Runs the job again and again, ending it by signals at most `most` times, until it comes to its end, and compares."""
    begin(job, folder)
    story, kills = [], 0
    while True:
        (number,) = rng.choices(list(SIGNALS), list(SIGNALS.values()))
        after = rng.uniform(0, whole.seconds)
        ended = attempt(folder, job.command, kill=(number, after) if kills < most else None)
        tally.counts["attempts"] += 1
        if ended.code == 0:
            break
        if kills == most:
            fail(tally, "others", f"{seed}: not gone on with after {story}: {ended.code} {ended.said[-500:]}")
            break
        kills += 1
        tally.counts["kills"] += 1
        tally.counts[number.name] += 1
        story.append(f"{number.name} after {after:.2f} s")
        said = "vaekit: stopped; " in ended.said or number == signal.SIGKILL
        if ended.code != CODES[number] or not said or "Traceback" in ended.said:
            fail(tally, "others", f"{seed}: {story[-1]}: exit code {ended.code} {ended.said[-500:]}")
        if not all_ended(folder):
            fail(tally, "processes left", f"{seed}: {story[-1]}: a process went on for {PATIENCE} s")
        if rng.random() < DAMAGED and (damaged := damage(folder / "out", rng)):
            tally.counts["damaged files"] += 1
            story.append(damaged)
    compare_states(whole, folder, f"{seed}: {', '.join(story)}", tally)


def fail_a_write(job: Job, whole: Whole, folder: Path, rng: random.Random, seed: str, tally: Tally) -> None:
    """Runs the job on a disk that fails, then on one that doesn't, and compares."""
    begin(job, folder)
    how = rng.choice(DISKS)
    at = rng.randrange(2**14, 2**17) if how == "no large file" else rng.randint(1, whole.changes)
    ended = attempt(folder, job.command, disk=(how, at))
    tally.counts["write errors"] += 1
    story = f"{seed}: disk {how} {at}"
    told = ended.said.splitlines()[-1:] or [""]
    tally.counts["ended with 1"] += ended.code == 1
    if (
        ended.code not in (0, 1)
        or (ended.code == 1 and not told[0].startswith("vaekit: "))
        or "Traceback" in ended.said
    ):
        fail(tally, "others", f"{story}: exit code {ended.code} {ended.said[-500:]}")
    again = attempt(folder, job.command)
    tally.counts["attempts"] += 2
    if again.code:
        fail(tally, "others", f"{story}: not gone on with: {again.code} {again.said[-500:]}")
    compare_states(whole, folder, story, tally)


def fail(tally: Tally, kind: str, problem: str) -> None:
    tally.counts[kind] += 1
    tally.problems.append(problem)
    progress(f"FAILED {problem}")


def compare_states(whole: Whole, folder: Path, story: str, tally: Tally) -> None:
    tally.counts["trials"] += 1
    found = state(folder)
    names = sorted(name for name in {*found, *whole.state} if found.get(name) != whole.state.get(name))
    left = [name for name in names if name not in whole.state]
    differing = [name for name in names if name in whole.state]
    if left:
        fail(tally, "files left", f"{story}: left {', '.join(left)}")
    if differing:
        fail(tally, "mismatches", f"{story}: differing {', '.join(differing)}")
    if not names:
        shutil.rmtree(folder)


def state(folder: Path) -> dict[str, str]:
    """File -> what is in it but the clock's readings, as text or as a digest, of `out` and of the cache. Temporary files count
    in `out`; in the cache they are left to the next day.
    """
    found = {}
    for top in ("out", "cache"):
        for path in sorted((folder / top).rglob("*")):
            name = str(path.relative_to(folder))
            if top == "cache" and ".tmp" in name:
                continue
            found[name] = "folder" if path.is_dir() else contents(path)
    return found


def contents(path: Path) -> str:
    if path.suffix == ".safetensors":
        tensors, facts = read_tensors(path)
        return f"{digest(tensors, {})} {json.dumps(timeless(facts))}"
    if path.suffix in (".json", ".jsonl"):
        lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
        return json.dumps([timeless(json.loads(line)) for line in lines])
    if path.suffix == ".html":
        return "a page"  # with seconds in its tables; its numbers are in results.json, its pictures beside it
    return hashlib.sha256(path.read_bytes()).hexdigest()


def timeless(found: Any) -> Any:
    """JSON without the entries that hold readings of the clock."""
    if isinstance(found, dict):
        return {key: timeless(value) for key, value in found.items() if key not in CLOCK}
    return [timeless(value) for value in found] if isinstance(found, list) else found


def damage(folder: Path, rng: random.Random) -> str | None:
    """Turns over a bit of a checkpoint that has another before it, or cuts a log's last line short; says which."""
    checkpoints = [p for p in folder.rglob("checkpoint.safetensors") if p.with_stem("checkpoint.previous").exists()]
    logs = [
        p for p in folder.rglob("log.jsonl") if p.stat().st_size and not p.with_name("weights.safetensors").exists()
    ]
    if not checkpoints + logs:
        return None
    path = rng.choice(sorted(checkpoints + logs))
    data = bytearray(path.read_bytes())
    if path.suffix == ".jsonl":
        data = data[: -rng.randint(2, 40)]
    else:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return f"{path.name} damaged"


def all_ended(folder: Path) -> bool:
    """Whether no process works in `folder`, or none does before long: the workers of a sweep write a last checkpoint."""
    until = time.monotonic() + 60
    while any(works_in(process, folder) for process in Path("/proc").glob("[0-9]*")):
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def works_in(process: Path, folder: Path) -> bool:
    try:
        return (process / "cwd").readlink() == folder.resolve()
    except OSError:
        return False


# One attempt. Starting Python and importing torch takes longer than most jobs: a server has done so, and is forked.


def attempt(
    folder: Path,
    command: list[str],
    *,
    kill: tuple[signal.Signals, float] | None = None,
    disk: tuple[str, int] | None = None,
) -> Ended:
    """Runs a command of `vaekit` in `folder`, in a process of its own on one thread, with the cache folder/cache.

    kill: a signal, and the seconds after which it is sent. disk: one of DISKS, and from which change to a file it fails (of "no
    large file": bytes that are too many); or "counts", which fails nothing, and writes how many there were to folder/changes.
    """
    os.environ["OMP_NUM_THREADS"] = "1"  # of the server, and so of all
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    begun = context.Event()
    folder.mkdir(parents=True, exist_ok=True)
    process = context.Process(target=_run, args=(folder, command, disk, begun))
    process.start()
    assert begun.wait(PATIENCE), "no process was started"
    started = time.perf_counter()
    process.join(kill[1] if kill else PATIENCE)
    if process.exitcode is None:
        os.kill(filled(process.pid), kill[0] if kill else signal.SIGKILL)
        process.join(PATIENCE)
    seconds = time.perf_counter() - started
    said = (folder / "said").read_text(errors="replace")
    code = process.exitcode
    if code is None:
        process.kill()
        return Ended(-1, f"{said}\nstill running after {PATIENCE} s", seconds)
    return Ended(code, said, seconds)


def _run(folder: Path, command: list[str], disk: tuple[str, int] | None, begun) -> None:
    """The process of an attempt; it ends with the command, and not with Python's own tidying up."""
    import torch

    from vaekit import cli

    os.chdir(folder)
    os.environ["VAEKIT_CACHE"] = str(folder / "cache")
    sys.argv = ["vaekit", *command]
    said = os.open("said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    torch.set_num_threads(1)
    changes = fail_from(folder, *disk) if disk else None
    begin_command = cli._run

    def tell_and_begin(*words: str) -> None:
        begun.set()  # from here on a signal is the command's to answer
        begin_command(*words)

    cli._run = tell_and_begin
    try:
        cli.main(command)
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 70
    if changes and disk and disk[0] == "counts":
        Path("changes").write_text(str(changes()))
    sys.stdout.flush()
    os._exit(code)


def fail_from(folder: Path, how: str, at: int) -> Callable[[], int]:
    """Makes the disk under `folder` fail in this process, see `attempt`; returns what tells how many changes there were.

    A full disk lets files be removed and renamed; a read-only one lets nothing be done.
    """
    if how == "no large file":
        resource.setrlimit(resource.RLIMIT_FSIZE, (at, at))
    error = {"full": errno.ENOSPC, "read-only": errno.EROFS}.get(how, errno.EIO)
    done = 0

    def change(path, *, writes: bool) -> None:
        nonlocal done
        if isinstance(path, (str, os.PathLike)) and folder not in Path(os.path.abspath(path)).parents:
            return
        if not (writes or how in ("counts", "read-only", "fails once")):
            return
        done += 1
        if how in ("counts", "no large file"):
            return
        if done == at or (done > at and how != "fails once"):
            raise OSError(error, os.strerror(error), *([] if isinstance(path, int) else [str(path)]))

    def guarded(function, *, writes: bool):
        def wrapped(path, *given, **named):
            change(path, writes=writes)
            return function(path, *given, **named)

        return wrapped

    real_open, real_os_open = builtins.open, os.open

    def open_file(file, mode="r", *given, **named):
        if set(mode) & set("wax+"):
            change(file, writes=True)
        return real_open(file, mode, *given, **named)

    def os_open(path, flags, *given, **named):
        if flags & os.O_CREAT:
            change(path, writes=True)
        return real_os_open(path, flags, *given, **named)

    builtins.open = io.open = open_file
    os.open = os_open
    os.fsync, os.mkdir = guarded(os.fsync, writes=True), guarded(os.mkdir, writes=True)
    for name in ("replace", "rename", "unlink", "remove", "rmdir"):
        setattr(os, name, guarded(getattr(os, name), writes=False))
    return lambda: done
