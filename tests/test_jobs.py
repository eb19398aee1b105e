"""Many jobs: on processes, on anybody's executor and on a Ray cluster; lost workers, failures, and the same numbers."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import types
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from vaekit.cli import main
from vaekit.files import load
from vaekit.jobs.cluster import cluster
from vaekit.jobs.executors import TRIES, Failed, run_jobs, workers
from vaekit.report.compare import compare
from vaekit.report.sweep import sweep
from vaekit.training.checkpoint import RunFolder
from vaekit.training.guard import TrainingFailed

GRID = {"latent_dims": (2, 4), "betas": (1.0,), "architecture": "mlp", "epochs": 2, "device": "cpu"}
REPORT = {"models": ("vae", "vqvae"), "architecture": "mlp", "epochs": 2, "verbose": False, "device": "cpu"}


@pytest.fixture(scope="module")
def ray_of_two():
    """A Ray cluster of two workers, which the command line's own then joins."""
    ray = pytest.importorskip("ray")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # which its workers can't import
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    file = tmp_path_factory.mktemp("data") / "some.npy"
    np.save(file, np.rint(load_digits().images[:200] * 15).astype(np.uint8))
    return str(file)


@pytest.fixture(scope="module")
def swept(tmp_path_factory, data):
    out = tmp_path_factory.mktemp("local") / "out"
    return sweep(data, str(out), say=lambda _: None, jobs=1, **GRID)["points"]


def check_same(found: list[dict], local: list[dict]) -> None:
    """But for what depends on where and when a training was."""
    for mine, theirs in zip(found, local, strict=True):
        assert mine.keys() == theirs.keys()
        for name, value in mine.items():
            if isinstance(value, (int, float)) and not any(word in name for word in ("second", "throughput", "memory")):
                assert value == pytest.approx(theirs[name], rel=1e-4), name


class Elsewhere:
    """What submitit and Dask have: `submit`, whose futures are not those of `concurrent.futures`."""

    class Handle:
        def __init__(self, future: Future):
            self.future = future

        def done(self):
            return self.future.done()

        def result(self):
            return self.future.result()

        def cancel(self):
            self.future.cancel()

    def __init__(self, pool):
        self.pool, self.submitted = pool, 0

    def submit(self, function, *args):
        self.submitted += 1
        return self.Handle(self.pool.submit(function, *args))


def add(a, b):
    if b == 13:
        raise ValueError("13 brings bad luck")
    if b == 14:
        raise TrainingFailed("no luck with 14")
    if b == 15:
        raise ZeroDivisionError("nobody thought of 15")
    return a + b


@pytest.mark.parametrize("at_once", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_jobs_come_back_with_what_they_came_to_and_failures_in_words(at_once, capfd):
    asked = []

    def job(n, left):
        asked.append(left)
        return add, 1, n

    with workers(at_once) as hands:
        found = dict(run_jobs(hands, [1, 13, 14, 15, 2], job, at_once))
    assert (found[1], found[2]) == (2, 3)
    assert found[13] == Failed("13 brings bad luck", wrong=True)
    assert found[14] == Failed("no luck with 14", wrong=False)
    assert found[15] == Failed("ZeroDivisionError: nobody thought of 15", wrong=False)
    assert "Traceback" in capfd.readouterr().err, "what we did not foresee is to be found"
    assert asked == [5, 4, 3, 2, 1]


def test_jobs_that_end_at_once_are_told_of_in_the_order_in_which_they_began():
    with workers(1) as hands:
        assert [name for name, _ in run_jobs(hands, range(20), lambda name, left: (abs, name), 20)] == list(range(20))


def test_a_lost_worker_is_tried_again_and_then_named():
    class Losing:
        def __init__(self):
            self.times = []

        def submit(self, function, *args):
            self.times.append(args[-1])
            future = Future()
            if args[-1] == "dead" or (args[-1] == "ill" and self.times.count("ill") < TRIES):
                future.set_exception(RuntimeError("the node went away\nand did not come back"))
            else:
                future.set_result(args[-1].upper())
            return future

    losing = Losing()
    found = dict(run_jobs(losing, ["well", "ill", "dead"], lambda name, left: (str.upper, name), 2))
    assert found == {
        "well": "WELL",
        "ill": "ILL",
        "dead": Failed(f"RuntimeError: the node went away, {TRIES} times", wrong=False),
    }
    assert losing.times.count("dead") == losing.times.count("ill") == TRIES


def test_a_pool_that_is_broken_says_what_to_do():
    class Broken:
        def submit(self, function, *args):
            future = Future()
            future.set_exception(BrokenExecutor("a child process terminated abruptly"))
            return future

    with pytest.raises(TrainingFailed, match="a process was killed, perhaps because memory is too small for 2 at once"):
        list(run_jobs(Broken(), [1, 2, 3], lambda name, left: (abs, name), 2))


def test_what_is_not_done_is_cancelled_when_the_caller_stops():
    handed = []

    class Slow:
        def submit(self, function, *args):
            handed.append(Future())
            if len(handed) == 1:
                handed[0].set_result(0)
            return handed[-1]

    jobs = run_jobs(Slow(), list(range(5)), lambda name, left: (abs, name), 3)
    assert next(jobs) == (0, 0)
    jobs.close()
    assert [future.cancelled() for future in handed] == [False, True, True]


def test_any_executor_gives_the_numbers_of_the_local_sweep(data, swept, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = []
    with ThreadPoolExecutor(1) as pool:
        executor = Elsewhere(pool)
        found = sweep(data, "out", executor=executor, say=said.append, **GRID)
    assert executor.submitted == 2
    assert said[0] == "2 of 2 trainings to go, 2 at a time"
    check_same(found["points"], swept)
    assert load(tmp_path / "out" / "runs" / "latent2-beta1-seed0").latent_dim == 2


def test_failed_points_are_named_and_the_others_kept(data, tmp_path, monkeypatch):
    import vaekit.report.sweep as module

    real, said = module._train_and_measure, []

    def some(grid, point, *more):
        if point.latent_dim == 4:
            raise TrainingFailed("it diverged")
        return real(grid, point, *more)

    monkeypatch.setattr(module, "_train_and_measure", some)
    with pytest.raises(TrainingFailed, match=r"1 of 2 trainings failed: latent4-beta1-seed0 \(it diverged\)"):
        sweep(data, str(tmp_path / "out"), say=said.append, jobs=1, **GRID)
    assert "latent4-beta1-seed0 failed: it diverged" in said
    assert len(json.loads((tmp_path / "out" / "sweep.json").read_text())["points"]) == 1
    monkeypatch.undo()
    assert len(sweep(data, str(tmp_path / "out"), say=said.append, jobs=1, **GRID)["points"]) == 2


@pytest.fixture(scope="module")
def compared(tmp_path_factory, data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vaekit.report.compare.draw", lambda *_, **__: [])
        return compare(data, str(tmp_path_factory.mktemp("local") / "out"), say=lambda _: None, **REPORT)


@pytest.mark.slow
def test_a_comparison_on_an_executor_is_that_of_one_process(data, compared, undrawn, tmp_path):
    said = []
    with ThreadPoolExecutor(1) as pool:
        found = compare(data, str(tmp_path / "out"), executor=Elsewhere(pool), jobs=1, say=said.append, **REPORT)
    assert [text for text in said if "is trained" in text] == [
        "vqvae-seed0 is trained, 1 of 3",
        "vae-seed0 is trained, 2 of 3",
        "vae-d2 is trained, 3 of 3",
    ]
    check_same(found["models"], compared["models"])
    for run in ("vae-seed0", "vqvae-seed0", "vae-d2"):
        assert RunFolder(tmp_path / "out" / "runs" / run).finished
    assert (tmp_path / "out" / "index.html").exists()


def test_a_training_that_fails_on_an_executor_is_left_out_and_said(data, undrawn, tmp_path, monkeypatch):
    import vaekit.report.trainings as module

    real, said = module._train_apart, []

    def some(data, how, folder, training, *more):
        if training.folder == "vqvae-seed0":
            raise TrainingFailed("it diverged")
        return real(data, how, folder, training, *more)

    monkeypatch.setattr(module, "_train_apart", some)
    with ThreadPoolExecutor(1) as pool:
        found = compare(data, str(tmp_path / "out"), executor=pool, jobs=1, say=said.append, **REPORT)
    assert "left out: vqvae-seed0 (it diverged)" in said
    assert [entry["name"] for entry in found["models"]] == ["vae"]
    assert any("vqvae-seed0 (it diverged)" in note for note in found["protocol"]["notes"])


@pytest.mark.slow
def test_so_many_trainings_at_once_as_were_asked_for_the_longest_first(data, compared, undrawn, tmp_path, monkeypatch):
    asked, said = [], []

    @contextmanager
    def here(at_once):
        asked.append(at_once)
        with workers(1) as hands:
            yield hands

    monkeypatch.setattr("vaekit.report.compare.workers", here)
    found = compare(data, str(tmp_path / "out"), jobs=2, say=said.append, **REPORT)
    assert asked == [2]
    done = ["vqvae-seed0 is trained, 1 of 3", "vae-seed0 is trained, 2 of 3", "vae-d2 is trained, 3 of 3"]
    assert said[:4] == ["3 trainings to go, 2 at a time", *done]
    check_same(found["models"], compared["models"])
    said.clear()
    compare(data, str(tmp_path / "out"), jobs=2, say=said.append, **REPORT)
    assert not any("to go" in text for text in said)


def test_a_time_budget_needs_to_know_how_many_there_are_at_once(data, tmp_path):
    with ThreadPoolExecutor(1) as pool:
        for job in (sweep, compare):
            with pytest.raises(ValueError, match="a time budget with an executor needs jobs"):
                job(data, str(tmp_path / "out"), executor=pool, time_budget=10.0)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_budget_is_shared_by_trainings_at_once(data, undrawn, tmp_path):
    said = []
    with ThreadPoolExecutor(1) as pool:
        budgeted = REPORT | {"epochs": 4000, "models": ("vae",), "priors": False}
        started = time.monotonic()
        compare(data, str(tmp_path / "out"), executor=pool, jobs=1, time_budget=6.0, say=said.append, **budgeted)
    assert sum("ended by the time budget" in text for text in said) == 2
    assert time.monotonic() - started < 60


@pytest.mark.slow
def test_ray_gives_the_numbers_of_the_local_ones(ray_of_two, data, swept, compared, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main([
        "sweep", "--data", data, "--out", "swept", "--latent-dim", "2,4", "--beta", "1", "--architecture", "mlp",
        "--epochs", "2", "--device", "cpu", "--cluster", "auto",
    ])  # fmt: skip
    assert "2 of 2 trainings to go, 2 at a time" in capsys.readouterr().out
    found = json.loads((tmp_path / "swept" / "sweep.json").read_text())["points"]
    check_same(found, swept)
    main([
        "compare", "--data", data, "--out", "compared", "--models", "vae,vqvae", "--architecture", "mlp",
        "--epochs", "2", "--device", "cpu", "--cluster", "auto",
    ])  # fmt: skip
    assert "vae-seed0 is trained" in capsys.readouterr().out
    found = json.loads((tmp_path / "compared" / "results.json").read_text())["models"]
    check_same(found, compared["models"])
    assert ray_of_two.is_initialized(), "a cluster that was joined before is left as it is"


def die_once(mark: str) -> str:
    if not Path(mark).exists():
        Path(mark).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


@pytest.mark.slow
def test_a_worker_of_ray_that_is_killed_is_replaced(ray_of_two, tmp_path):
    with cluster("auto") as executor:
        found = dict(run_jobs(executor, ["a"], lambda name, left: (die_once, str(tmp_path / name)), 1))
    assert found == {"a": "done"}


@pytest.mark.slow
def test_a_cluster_of_its_own_ends_with_the_command(data, tmp_path):
    command = ["sweep", "--data", data, "--out", str(tmp_path / "out"), "--latent-dim", "2", "--beta", "1"]
    command += ["--architecture", "mlp", "--epochs", "1", "--cluster", "auto"]
    ended = subprocess.run([sys.executable, "-m", "vaekit", *command], capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert "1 of 1 trainings to go, 1 at a time" in ended.stdout
    assert not ended.stderr, "Ray's own words are not for the command's user"


@pytest.mark.slow
def test_no_cluster_at_an_address_is_said(data, tmp_path):
    command = ["sweep", "--data", data, "--out", str(tmp_path / "out"), "--cluster", "localhost:1"]
    ended = subprocess.run([sys.executable, "-m", "vaekit", *command], capture_output=True, text=True, timeout=300)
    assert ended.returncode == 1
    assert "no Ray cluster answers at localhost:1" in ended.stderr and "Traceback" not in ended.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("token", "mode"), [(True, "token"), (False, None)])
def test_a_cluster_that_runs_is_shown_the_token_there_is(token, mode, monkeypatch, tmp_path):
    seen, fake = [], types.ModuleType("ray")
    fake.is_initialized = lambda: False
    fake.init = lambda address, **how: seen.append((address, os.environ.get("RAY_AUTH_MODE")))
    fake.cluster_resources = lambda: {"CPU": 3.0, "GPU": 2.0}
    fake.shutdown = lambda: seen.append("shutdown")
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    if token:
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text("secret")
    with socket.create_server(("localhost", 0)) as server:
        place = f"localhost:{server.getsockname()[1]}"
        with cluster(place) as found:
            assert (found.at_once, found.needs) == (2, {"num_gpus": 1})
        with cluster(place, "cpu") as found:
            assert (found.at_once, found.needs) == (3, {"num_cpus": 1})
    assert seen == [(place, mode), "shutdown"] * 2
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)


def test_without_ray_the_extra_is_named(data, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SystemExit) as stop:
        main(["sweep", "--data", data, "--out", str(tmp_path / "out"), "--cluster", "auto"])
    assert stop.value.code == 2
    assert "pip install 'vaekit[cluster]'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_process_pool_serves_as_it_is(data, swept, tmp_path):
    import multiprocessing

    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        found = sweep(data, str(tmp_path / "out"), executor=pool, say=lambda _: None, **GRID)
    check_same(found["points"], swept)
