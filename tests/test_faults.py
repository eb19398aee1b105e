"""Faults, as a user meets them: commands are killed and meet failing disks, and the same command again ends as an unbroken one.
A smaller form of the campaign in `benchmarks/faults.py`, in processes of their own.
"""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import vaekit
from benchmarks import faults
from benchmarks.faults import Tally, attempt, compare_states, fail_a_write, kill_and_go_on, timeless
from vaekit import VAE, VQVAE, load, open_data
from vaekit.cli import main
from vaekit.data.images import Images, fingerprint
from vaekit.owned import claim, locked, remove_temporaries, write_atomically
from vaekit.training.checkpoint import RunFolder
from vaekit.training.settings import PriorSettings

NAMES = ["fit-prior", "decode and train", "compare", "sweep"]


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """Name -> job."""
    return faults.make_jobs(tmp_path_factory.mktemp("jobs"), small=True)


@pytest.fixture(scope="module")
def bench(tmp_path_factory, jobs):
    """What a job's name stands for: the job, its unbroken run, and the folder of that."""
    root, wholes = tmp_path_factory.mktemp("faults"), {}

    def get(name: str):
        if name not in wholes:
            wholes[name] = faults.unbroken(jobs[name], root / name)
        return jobs[name], wholes[name], root / name

    return get


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_what_is_killed_goes_on_to_the_same_end(bench, tmp_path, name):
    job, whole, _ = bench(name)
    tally = Tally()
    most = 2 if name == "fit-prior" else 1  # the quickest is killed twice
    kill_and_go_on(job, whole, tmp_path / "killed", random.Random(1), "1", tally, most=most)
    assert tally.problems == []
    assert tally.counts["trials"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_write_that_fails_is_told_and_can_be_done_again(bench, tmp_path, name):
    job, whole, _ = bench(name)
    tally = Tally()
    fail_a_write(job, whole, tmp_path / "failed", random.Random(2), "2", tally)
    assert tally.problems == []
    assert tally.counts["write errors"] == 1


@pytest.mark.slow
def test_the_campaign_sees_what_differs_and_what_is_left(bench, tmp_path):
    """A campaign that could find nothing would be worth nothing."""
    _, whole, folder = bench("fit-prior")
    shutil.copytree(folder, tmp_path / "run")
    (tmp_path / "run" / "out" / ".prior.safetensors.0123456789abcdef.tmp").touch()
    log = tmp_path / "run" / "out" / "log.jsonl"
    log.write_text(log.read_text().splitlines()[0] + "\n")
    tally = Tally()
    compare_states(whole, tmp_path / "run", "story", tally)
    assert tally.problems == [
        "story: left out/.prior.safetensors.0123456789abcdef.tmp",
        "story: differing out/log.jsonl",
    ]


# Signals


def test_sigterm_before_a_training_ends_a_command_with_143_and_says_how_to_go_on(jobs, tmp_path):
    ended = attempt(tmp_path / "run", jobs["decode and train"].command, kill=(signal.SIGTERM, 0.0))
    assert ended.code == 143
    assert "vaekit: stopped; a run in a folder goes on with --resume, and fit-prior, compare and sweep" in ended.said


def test_the_callers_handler_of_sigterm_comes_back(capsys):
    before = signal.getsignal(signal.SIGTERM)
    main(["--version"])
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="looks for processes where Linux lists them")
def test_the_processes_of_a_sweep_end_with_it_and_it_with_them(jobs, tmp_path):
    command = [*jobs["sweep"].command[:-1], "2"]

    def when_they_work(do) -> None:
        """Calls do(worker) once both workers are there."""
        until = time.monotonic() + 100
        while time.monotonic() < until:
            found = [p for p in Path("/proc").glob("[0-9]*") if faults.works_in(p, tmp_path / "run")]
            workers = [p for p in found if b"spawn_main" in _read(p / "cmdline")]
            if len(workers) == 2 and list((tmp_path / "run" / "out" / "runs").glob("*/run.json")):
                do(int(workers[0].name))
                return
            time.sleep(0.02)

    def kill_parent(worker: int) -> None:
        stat = _read(Path(f"/proc/{worker}/stat"))
        os.kill(int(stat.rsplit(b")", 1)[1].split()[1]), signal.SIGKILL)

    for do, code in ((lambda worker: os.kill(worker, signal.SIGKILL), 1), (kill_parent, -signal.SIGKILL)):
        thread = threading.Thread(target=when_they_work, args=(do,))
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        thread.start()
        ended = attempt(tmp_path / "run", command)
        thread.join()
        assert ended.code == code, ended.said
        assert "Traceback" not in ended.said
        if code == 1:
            assert "a process was killed" in ended.said and "--jobs" in ended.said
        assert faults.all_ended(tmp_path / "run"), "a worker outlived the sweep"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


# What crashes leave


def table(n: int = 60) -> Images:
    x = np.random.default_rng(0).integers(0, 256, (n, 4, 4, 1), dtype=np.uint8)
    return Images(x, None, (), "noise", fingerprint(x, None))


def test_a_log_that_lost_its_end_is_made_whole_from_the_checkpoint(tmp_path, monkeypatch):
    """A machine that crashes loses what was not forced to disk; the checkpoint was."""
    fields = {"epochs": 6, "batch_size": 20, "architecture": "mlp", "random_state": 0}
    whole = VAE(**fields).fit_images(table())
    real, steps = torch.optim.Adam.step, []

    def interrupted(self, *given, **named):
        steps.append(1)
        if len(steps) == 13:  # the first step of the fifth epoch
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, *given, **named)

    out = RunFolder(tmp_path / "run")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch.optim.Adam, "step", interrupted)
        VAE(**fields).fit_images(table(), folder=str(out.path))
    lines = out.log_file.read_text().splitlines()
    assert len(lines) == 4
    out.log_file.write_text("\n".join([*lines[:1], lines[1][:20]]))
    VAE(**fields).fit_images(table(), folder=str(out.path), resume=True)
    assert timeless(out.log()) == timeless(whole.history_)


@pytest.mark.slow
def test_a_comparison_clears_away_what_a_killed_one_left(bench, tmp_path):
    job, whole, folder = bench("compare")
    shutil.copytree(folder, tmp_path / "run")
    out = tmp_path / "run" / "out"
    for name in (
        ".results.json.0123456789abcdef.tmp",
        "figures/.codes.png.0123456789abcdef.tmp",
        "runs/vqvae-seed0/.prior.safetensors.0123456789abcdef.tmp",
    ):
        (out / name).write_bytes(b"half")
    RunFolder(out / "runs" / "vqvae-seed0" / "prior", kind="prior").start({"identity": {}})
    assert attempt(tmp_path / "run", job.command).code == 0
    tally = Tally()
    compare_states(whole, tmp_path / "run", "", tally)
    assert tally.problems == []


def test_temporary_files_of_a_killed_process_go_when_its_run_is_locked_again(tmp_path):
    run = RunFolder(tmp_path / "run")
    claim(run.path, "run")
    (run.path / ".run.json.0123456789abcdef.tmp").touch()
    VAE(epochs=1, architecture="mlp").fit_images(table(), folder=str(run.path))
    names = [".vaekit", ".vaekit.lock", "log.jsonl", "run.json", "weights.safetensors"]
    assert sorted(p.name for p in run.path.iterdir()) == names


def test_a_damaged_second_stage_is_begun_anew(tmp_path):
    VQVAE(epochs=1, architecture="mlp", random_state=0).fit_images(table(), folder=str(tmp_path / "run"))
    (tmp_path / "run" / ".prior.safetensors.0123456789abcdef.tmp").touch()
    claim(tmp_path / "run" / "prior", "prior")
    (tmp_path / "run" / "prior" / "run.json").write_text('{"format": ')
    settings = PriorSettings(epochs=1, layers=1, channels=8)
    load(tmp_path / "run").fit_prior_images(table(), settings, folder=str(tmp_path / "run"))
    names = [".vaekit", ".vaekit.lock", "log.jsonl", "prior.safetensors", "run.json", "weights.safetensors"]
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == names


def test_where_others_may_be_writing_only_old_temporary_files_go(tmp_path):
    for name, days in ((".a.0123456789abcdef.tmp", 0.9), (".b.0123456789abcdef.tmp", 1.1), (".a.1.tmp", 9), (".d", 9)):
        (tmp_path / name).touch()
        then = time.time() - days * 86400
        os.utime(tmp_path / name, (then, then))
    remove_temporaries(tmp_path, days=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".a.0123456789abcdef.tmp", ".a.1.tmp", ".d"]
    remove_temporaries(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".a.1.tmp", ".d"]
    remove_temporaries(tmp_path / "nowhere")


# Two at once


@pytest.mark.parametrize("command", ["compare", "sweep"])
def test_two_processes_do_not_write_one_report(tmp_path, capsys, command):
    with locked(tmp_path / "out", command.replace("compare", "report")), pytest.raises(SystemExit) as stop:
        main([command, "--data", "digits", "--out", str(tmp_path / "out"), "--architecture", "mlp", "--epochs", "1"])
    assert stop.value.code == 2
    assert f"{tmp_path / 'out'} is being written by another process; wait for it" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".vaekit", ".vaekit.lock"]


# Disks


def broken(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_disk_that_is_full_is_told_with_the_file(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match=r"No space left on device: '.*/x\.json'") as told:
        write_atomically(tmp_path / "x.json", "{}")
    assert told.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SystemExit) as stop:
        main(["train", "vae", "--data", "digits", "--out", str(tmp_path / "run"), "--epochs", "1"])
    assert stop.value.code == 1
    assert (
        capsys.readouterr().err.splitlines()[-1] == f"vaekit: {tmp_path / 'run' / '.vaekit'}: no space left on device"
    )


def test_a_full_disk_under_the_cache_says_how_to_choose_another(jobs, tmp_path, monkeypatch):
    command = jobs["decode and train"].command
    monkeypatch.setenv("VAEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("vaekit.data.cache.os.fsync", broken)
    with pytest.raises(OSError, match=r"No space left on device; .*VAEKIT_CACHE names another folder"):
        open_data(command[command.index("--data") + 1])
    assert os.listdir(tmp_path / "cache" / "decoded") == [], "half an entry fills the disk for nothing"


def test_a_folder_that_may_not_be_written_is_told_in_a_line(tmp_path, monkeypatch, capsys):
    def denied(path, *_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(os, "mkdir", denied)
    with pytest.raises(SystemExit) as stop:
        main(["train", "vae", "--data", "digits", "--out", str(tmp_path / "run"), "--epochs", "1"])
    assert stop.value.code == 1
    assert capsys.readouterr().err.splitlines()[-1] == f"vaekit: {tmp_path / 'run'}: permission denied"


# Determinism

TRAIN = """
import sys
from vaekit.cli import main
data = ["--data", "digits", "--random-state", "3"]
common = [*data, "--device", "cpu", "--architecture", "mlp", "--epochs", "2", "--batch-size", "128"]
main(["train", "vae", *common, "--out", sys.argv[1] + "/vae"])
main(["train", "vqvae", *common, "--out", sys.argv[1] + "/vqvae"])
main(["fit-prior", sys.argv[1] + "/vqvae", *data, "--epochs", "2", "--layers", "2", "--channels", "16"])
"""


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights_in_two_processes_bit_for_bit(tmp_path, monkeypatch):
    """In this one, which has trained much before, and in a fresh one."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "1"}
    command = [sys.executable, "-c", TRAIN, str(tmp_path / "a")]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        monkeypatch.setattr(sys, "argv", ["-c", str(tmp_path / "b")])
        exec(TRAIN, {})
        _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    for name in ("vae", "vqvae"):
        ours, theirs = (RunFolder(tmp_path / part / name) for part in "ab")
        for file in ("weights_file", "prior_file") if name == "vqvae" else ("weights_file",):
            assert getattr(ours, file).read_bytes() == getattr(theirs, file).read_bytes(), f"{name} {file}"
        assert timeless(ours.log()) == timeless(theirs.log())
        assert timeless(ours.config()) == timeless(theirs.config())
    config = json.loads((tmp_path / "a" / "vae" / "run.json").read_text())
    recorded = {name: config[name] for name in ("seed", "device", "threads", "processor", "torch", "version")}
    assert recorded == {
        "seed": 3,
        "device": "cpu",
        "threads": 1,
        "processor": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "version": vaekit.__version__,
    }
