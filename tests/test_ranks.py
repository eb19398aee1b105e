"""Several processes that train one model: they come to what one does, end together, and go on after being killed."""

import functools
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from ranks import cases
from safetensors.torch import load_file
from sklearn.datasets import load_digits

import vaekit
from benchmarks._ranks import SLOWLY, Ended, Ranks
from tests.marks import quick
from vaekit.data.arrays import given_images
from vaekit.ranks import parts_of_batch
from vaekit.training.checkpoint import read_tensors
from vaekit.training.guard import Stop
from vaekit.world import current_part, drawing, drawn, piece

LIMIT = 100  # seconds, after which what was started is ended


def run_alike(n: int, *arguments: str) -> list[Ended]:
    return Ranks(*[list(arguments)] * n).end(LIMIT)


@pytest.fixture(scope="module")
def alone() -> Callable[[str], dict]:
    """By the name of a case, what one process comes to."""
    return functools.cache(lambda name: cases.weights(name, 1))


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """The folder of what so many ranks come to in so many rounds each."""
    folders: dict[tuple[int, int], Path] = {}

    def made(ranks: int, rounds: int) -> Path:
        if (ranks, rounds) not in folders:
            folders[ranks, rounds] = tmp_path_factory.mktemp(f"{ranks}-{rounds}")
            for code, _, err in run_alike(ranks, cases.__file__, str(rounds), str(folders[ranks, rounds])):
                assert code == 0, err
        return folders[ranks, rounds]

    return made


# What only rounding moves, by as much as Adam moves anything: what a batch norm takes away again, and what all keys have alike.
IDLE = {"wang2023": r"(encoder|decoder)\.body\.\d+\.(bias|running_mean)", "transformer": r".*query_key_value\.bias"}
TOLERANCES = {"muon": 2e-4}  # of directions that have next to no gradient it makes steps as of all others


def check_close(found: dict, expected: dict, tolerance: float, idle: str = "nothing") -> None:
    assert set(found) == set(expected)
    for name, value in expected.items():
        if not re.fullmatch(idle, name):
            difference = (found[name].double() - value.double()).norm()
            # Some records are small differences of large numbers, such as the total correlation.
            within = 1e-4 if name.startswith("record.") else tolerance
            assert difference <= within * value.double().norm().clamp(min=1e-3), name


def check_same_training(name: str, found: dict, expected: dict) -> None:
    check_close(found, expected, TOLERANCES.get(name, 1e-5), IDLE.get(name, "nothing"))


ALL = (*cases.MODELS, *cases.PRIORS)
ANY_ROUNDS = [name for name in ALL if name not in cases.SEES_A_ROUND]


def check_ranks(name: str, ranks: int, folder: Path, expected: dict) -> None:
    found = [torch.load(folder / f"{name}-{rank}.pt", weights_only=True) for rank in range(ranks)]
    assert len({one["digest"] for one in found}) == 1, "all ranks have the same weights, bit for bit"
    check_same_training(name, found[0]["weights"], expected)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.slow
def test_two_ranks_come_to_what_one_process_does(name, alone, together):
    check_ranks(name, 2, together(2, 1), alone(name))


@pytest.mark.slow
def test_an_estimator_in_a_process_group_is_the_same_on_all_ranks(together):
    """Its seed is drawn, and is then the first rank's; all have the whole record, and the same of them sample alone."""
    found = [torch.load(together(2, 1) / f"fit-{rank}.pt", weights_only=True) for rank in range(2)]
    assert found[0] == found[1]
    assert found[0]["epochs"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ANY_ROUNDS)
def test_three_ranks_in_two_rounds_come_to_what_one_process_does(name, alone, together):
    check_ranks(name, 3, together(3, 2), alone(name))


@pytest.mark.parametrize("name", quick(ANY_ROUNDS, "vae", "muon", "clipped", "vqvae-ema", "flow"))
def test_rounds_of_one_process_come_to_the_same(name, alone):
    check_same_training(name, cases.weights(name, 3), alone(name))


def test_parts_are_all_of_a_batch_and_noise_does_not_depend_on_them():
    parts = parts_of_batch(23, 4)
    assert [part.start for part in parts] == [0, *[part.stop for part in parts[:-1]]]
    assert parts[-1].stop == 23
    assert sum(part.share for part in parts) == pytest.approx(1)

    def draw(n: int) -> torch.Tensor:
        return torch.randn(2, n, 3)

    with drawing(5):
        whole = drawn(draw, 23, dim=1)
    found = []
    for part in parts:
        with drawing(5, part):
            assert current_part() == part
            found.append(drawn(draw, part.stop - part.start, dim=1))
    assert current_part() is None
    assert torch.equal(torch.cat(found, dim=1), whole)
    (only,) = parts_of_batch(23)
    with drawing(5, only):
        assert current_part() == only
        assert piece() is None, "a whole batch is no piece of one"


def test_a_training_that_has_gone_back_still_hears_a_signal():
    stop = Stop()
    assert stop.look(False, 40) == (False, False)
    stop.signal = signal.SIGTERM
    assert stop.look(True, 10) == (True, True)


def test_many_ranks_look_about_once_a_second_from_the_step_they_begin_with(monkeypatch):
    monkeypatch.setattr("vaekit.training.guard.size", lambda: 2)
    monkeypatch.setattr("vaekit.training.guard.greatest", lambda *numbers: numbers)
    clock = [0.0]
    monkeypatch.setattr("vaekit.training.guard.time.monotonic", lambda: clock[0])
    stop, looked = Stop(), []
    for step in range(1001, 1100):  # a run that goes on, whose steps take a tenth of a second
        clock[0] += 0.1
        if step >= stop.next:
            looked.append(step)
        stop.look(False, step)
    assert looked[:3] == [1001, 1002, 1013]
    assert max(after - before for before, after in itertools.pairwise(looked)) <= 11


def test_a_signal_that_comes_after_the_look_waits_for_the_next_one():
    stop = Stop()
    assert stop.look(False, 1) == (False, False)
    stop.signal = signal.SIGTERM
    stop.obey()
    assert stop.look(False, stop.next) == (True, False)
    with pytest.raises(SystemExit) as ended:
        stop.obey()
    assert ended.value.code == 143


def test_more_rounds_than_images_are_refused_before_anything_is_written(tmp_path):
    model = vaekit.VAE(batch_size=4, accumulate=5, epochs=1)
    with pytest.raises(ValueError, match="a batch of 4 images is too few for 5 parts"):
        model.fit_images(given_images(np.zeros((20, 8, 8), np.uint8), None), folder=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


# Ends, kills and restarts


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    file = tmp_path_factory.mktemp("data") / "some.npz"
    x, y = load_digits(return_X_y=True)
    np.savez(file, x=np.rint(x[:600] / 16 * 255).astype(np.uint8).reshape(-1, 8, 8), y=y[:600])
    return str(file)


def training(data: str, out: Path, *more: str, pause: float = 0.0) -> list[str]:
    fields = ["--architecture", "mlp", "--width", "16", "--epochs", "4", "--batch-size", "32", "--random-state", "0"]
    command = ["train", "vqvae", "--data", data, "--out", str(out), "--n-codes", "8", *fields, "--device", "cpu", *more]
    return ["-c", SLOWLY, str(pause), *command]


@pytest.fixture(scope="module")
def unbroken(data, tmp_path_factory) -> dict[str, torch.Tensor]:
    """The weights of two ranks that nothing disturbs."""
    out = tmp_path_factory.mktemp("unbroken") / "run"
    (code, said, _), (other, silent, _) = run_alike(2, *training(data, out))
    assert (code, other) == (0, 0)
    assert "60 steps" in said
    assert not silent, "one rank is heard"
    assert json.loads((out / "run.json").read_text())["processes"] == 2
    return load_file(out / "weights.safetensors")


def wait_for_checkpoint(out: Path) -> None:
    deadline = time.monotonic() + LIMIT
    while not (out / "checkpoint.safetensors").exists():
        assert time.monotonic() < deadline, "no checkpoint is written"
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("whom", [0, 1], ids=["first", "other"])
def test_a_rank_that_is_killed_ends_the_others_and_the_run_goes_on_as_if_nothing_had_been(
    whom, data, unbroken, tmp_path
):
    out = tmp_path / "run"
    ranks = Ranks(*[training(data, out, pause=0.1)] * 2)
    wait_for_checkpoint(out)
    os.kill(ranks.processes[whom].pid, signal.SIGKILL)
    found = ranks.end(LIMIT)
    assert found[whom][0] == -signal.SIGKILL
    code, _, err = found[1 - whom]
    assert code == 1
    assert f"rank {1 - whom} of 2 has lost another one" in err
    assert "Traceback" not in err
    assert all(code == 0 for code, *_ in run_alike(2, *training(data, out, "--resume")))
    for name, value in load_file(out / "weights.safetensors").items():
        assert torch.equal(value, unbroken[name]), name
    assert not list(out.glob("checkpoint*"))


@pytest.mark.parametrize("when", ["look", "_Training.end"], ids=["between two looks", "after the last step"])
@pytest.mark.slow
def test_a_signal_to_one_rank_when_no_rank_looks_ends_all(when, data, tmp_path):
    out = tmp_path / "run"
    given = training(data, out)
    late = "import os, signal\nfrom vaekit.training import guard, loop\n"
    late += f"holder = guard.Stop if '{when}' == 'look' else loop._Training\nname = '{when}'.split('.')[-1]\n"
    late += "real = getattr(holder, name)\ndef then(self, *given):\n    found = real(self, *given)\n"
    late += "    if os.environ['RANK'] == '1' and (name == 'end' or given[1] >= 5):\n"
    late += "        signal.raise_signal(signal.SIGTERM)\n    return found\nsetattr(holder, name, then)\n"
    given[1] = late + given[1]
    found = Ranks(given, given).end(LIMIT)
    assert [code for code, *_ in found] == [143, 143], found
    assert sum("go" in err and "--resume" in err for *_, err in found) == 1, "said once"
    assert all(code == 0 for code, *_ in run_alike(2, *training(data, out, "--resume")))


@pytest.mark.slow
def test_a_signal_to_one_rank_ends_all_with_one_checkpoint_and_other_numbers_of_ranks_go_on(data, unbroken, tmp_path):
    out = tmp_path / "run"
    ranks = Ranks(*[training(data, out, pause=0.1)] * 2)
    wait_for_checkpoint(out)
    os.kill(ranks.processes[1].pid, signal.SIGTERM)
    found = ranks.end(LIMIT)
    assert [code for code, *_ in found] == [143, 143], found
    assert sum("go" in err and "--resume" in err for *_, err in found) == 1, "said once"
    assert (out / "checkpoint.safetensors").exists()
    with pytest.warns(UserWarning, match="not finished"):
        assert 0 < vaekit.load(out).history_[-1]["step"] < 60
    shutil.copytree(out, tmp_path / "three")
    assert all(code == 0 for code, *_ in run_alike(3, *training(data, tmp_path / "three", "--resume")))
    assert all(code == 0 for code, *_ in run_alike(1, *training(data, out, "--resume")))
    for folder in (out, tmp_path / "three"):
        model = vaekit.load(folder)
        assert [record["step"] for record in model.history_] == [15, 30, 45, 60]
        check_close(load_file(folder / "weights.safetensors"), unbroken, 1e-3)


def step_of(out: Path) -> int:
    """Of the checkpoint there is; 0 where there is none."""
    file = out / "checkpoint.safetensors"
    return read_tensors(file)[1]["step"] if file.exists() else 0


@pytest.mark.slow
def test_a_run_goes_from_one_process_to_two_to_three_and_back(data, unbroken, tmp_path):
    out, before = tmp_path / "run", 0
    for count in (1, 2, 3):
        more = ["--resume"] if before else []
        ranks = Ranks(*[training(data, out, *more, pause=0.1)] * count)
        deadline = time.monotonic() + LIMIT
        while step_of(out) <= before:
            assert time.monotonic() < deadline, "it does not go on"
            time.sleep(0.05)
        os.kill(ranks.processes[-1].pid, signal.SIGTERM)
        assert [ended.code for ended in ranks.end(LIMIT)] == [143] * count
        assert before < step_of(out) < 60
        before = step_of(out)
    assert all(code == 0 for code, *_ in run_alike(1, *training(data, out, "--resume")))
    assert [record["step"] for record in vaekit.load(out).history_] == [15, 30, 45, 60]
    check_close(load_file(out / "weights.safetensors"), unbroken, 1e-3)


@pytest.mark.parametrize("what", ["commitment (0.5) than rank 0 (0.25)", "data"])
@pytest.mark.slow
def test_ranks_with_other_fields_or_data_are_told_so_at_once(what, data, tmp_path):
    other = tmp_path / "other.npz"
    np.savez(other, x=np.zeros((50, 8, 8), np.uint8))
    second = training(str(other), tmp_path / "run")
    if what != "data":
        second = training(data, tmp_path / "run", "--commitment", "0.5")
    found = Ranks(training(data, tmp_path / "run"), second).end(LIMIT)
    assert [code for code, *_ in found] == [2, 2]
    said = "".join(err for *_, err in found)
    assert said.count("rank 1 of 2 has another") == 1
    assert what in said
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_one_rank_decodes_images_and_the_others_map_what_it_made(tmp_path):
    for number, image in enumerate(load_digits().images[:64]):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(np.rint(image * 15).astype(np.uint8)).save(tmp_path / "photos" / f"{number:02}.png")
    given = training(str(tmp_path / "photos"), tmp_path / "run")
    counting = "import os, vaekit.data.cache as cache\nattempts = cache._attempts\ndef counted(*given):\n"
    counting += f"    open(f'{tmp_path}/decoded-by-' + os.environ['RANK'], 'w').close()\n    return attempts(*given)\n"
    given[1] = counting + "cache._attempts = counted\n" + given[1]
    for code, _, err in run_alike(2, *given):
        assert code == 0, err
    assert [file.name for file in tmp_path.glob("decoded-by-*")] == ["decoded-by-0"]


@pytest.mark.slow
def test_a_rank_that_meets_no_other_says_where_it_waited(data, tmp_path):
    first, second = training(data, tmp_path / "run"), ["-c", "pass"]
    first[1] = "import vaekit.ranks; vaekit.ranks.RENDEZVOUS_SECONDS = 3\n" + first[1]
    code, _, err = Ranks(first, second).end(LIMIT)[0]
    assert code == 1
    assert re.search(r"rank 0 of 2 has not met the others at localhost:\d+", err), err


@pytest.mark.slow
def test_a_prior_is_fitted_by_ranks_together_and_other_commands_work_alone(data, tmp_path):
    out = tmp_path / "run"
    vaekit.VQVAE(architecture="mlp", width=16, n_codes=8, epochs=1, random_state=0, device="cpu").fit(
        np.load(data)["x"]
    ).save(out)
    flags = ["--layers", "1", "--channels", "8", "--epochs", "2", "--data", data]
    shutil.copytree(out, tmp_path / "two")
    command = ["-m", "vaekit", "fit-prior"]
    assert run_alike(1, *command, str(out), *flags)[0][0] == 0
    (code, said, _), (other, silent, _) = run_alike(2, *command, str(tmp_path / "two"), *flags)
    assert (code, other, silent) == (0, 0, "")
    assert "rate of" in said
    check_close(*(load_file(folder / "prior.safetensors") for folder in (tmp_path / "two", out)), 1e-4)
    for code, _, err in run_alike(2, "-m", "vaekit", "evaluate", str(out), "--data", data):
        assert code == 2
        assert "evaluate works in one process" in err


@pytest.mark.slow
def test_torchrun_starts_a_run_again_where_its_last_checkpoint_is(data, unbroken, tmp_path):
    out = tmp_path / "run"
    given = training(data, out, pause=0.1)
    script = tmp_path / "slowly.py"
    script.write_text(given[1])
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "2"]
    ranks = subprocess.Popen(
        [*command, "--monitor-interval", "0.5", str(script), *given[2:]], start_new_session=True, stderr=subprocess.PIPE
    )
    wait_for_checkpoint(out)
    children = subprocess.run(
        ["pgrep", "-P", str(ranks.pid), "-f", "slowly"], capture_output=True, text=True, check=True
    )
    os.kill(int(children.stdout.split()[1]), signal.SIGKILL)
    try:
        ranks.communicate(timeout=LIMIT)
    finally:
        if ranks.poll() is None:
            os.killpg(ranks.pid, signal.SIGKILL)
    assert ranks.returncode == 0
    for name, value in load_file(out / "weights.safetensors").items():
        assert torch.equal(value, unbroken[name]), name
