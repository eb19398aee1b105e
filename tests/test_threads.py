"""Numbers of threads: the fastest is taken, recorded and kept; a forked process has none to wait for."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from vaekit import VAE, threads
from vaekit.data import open_data
from vaekit.evaluation.generation import get_judge
from vaekit.evaluation.representation import measure_representation
from vaekit.training import step


@pytest.fixture
def four(monkeypatch):
    """A machine whose torch begins with four threads, of which nobody has said anything."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    monkeypatch.setattr(threads, "_at_first", 4)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    yield
    torch.set_num_threads(before)


class Clock:
    """A clock that moves when somebody works."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def busy(self) -> None:
        """Work that takes as many times longer as there are threads."""
        self.now += torch.get_num_threads()


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(threads, "time", clock)
    monkeypatch.setattr(threads, "ENOUGH", 1e6)
    return clock


def test_numbers_are_tried_by_halves(four):
    assert threads.choices() == [4, 2, 1]


def test_who_says_a_number_has_it(four, monkeypatch):
    torch.set_num_threads(3)
    assert threads.choices() == [3]
    torch.set_num_threads(4)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert threads.choices() == [4]


def test_a_block_gives_its_threads_back(four):
    with pytest.raises(KeyError), threads.using(2):
        assert torch.get_num_threads() == 2
        raise KeyError
    assert torch.get_num_threads() == 4
    for more in (None, 4, 9):
        with threads.using(more):
            assert torch.get_num_threads() == 4


def test_the_fastest_number_is_taken_and_in_doubt_the_most(four, clock):
    def takes(*seconds):  # on 4, 2 and 1 threads
        def work():
            clock.now += dict(zip((4, 2, 1), seconds, strict=True))[torch.get_num_threads()]

        return threads.fastest(work, 1000)

    assert threads.fastest(clock.busy, 1000) == 1
    assert takes(5, 3, 4) == 2
    assert takes(5, 9, 9) == 4
    assert takes(5, 4.6, 4.7) == 4


def test_little_work_is_done_on_all_threads(four, clock):
    clock.now = 0.0
    assert threads.fastest(clock.busy, 3) is None, "12 seconds of it"
    assert clock.now == 2 * (4 + 2 + 1), "and nothing is tried any further"
    assert threads.fastest(clock.busy, 4) == 1, "16 seconds"


def test_one_lucky_piece_does_not_decide(four, clock):
    seconds = iter([9, 9, 9, 1, 5, 3, 9, 5, 3, 1, 5, 3])

    def work():
        clock.now += next(seconds)

    assert threads.fastest(work, 1000) == 1


def test_a_long_rehearsal_ends_early(four, monkeypatch):
    monkeypatch.setattr(threads, "ENOUGH", 0.0)
    calls = []
    monkeypatch.setattr(threads, "WORTH_TRYING", 0.0)
    threads.fastest(lambda: calls.append(torch.get_num_threads()), 1)
    assert calls == [4, 2, 1, 4, 2, 1]


def test_pieces_come_in_order_and_the_rest_on_the_fastest_number(four, clock):
    counts = []
    for piece in threads.paced(range(40)):
        assert piece == len(counts)
        counts.append(torch.get_num_threads())
        clock.now += 10 + torch.get_num_threads()
    assert counts == [4, 2, 1] * 4 + [1] * 28
    assert torch.get_num_threads() == 4


def test_what_is_plainly_the_fastest_is_tried_no_further(four, clock):
    """Each further piece on the others would take several times as long."""
    counts = []
    for _ in threads.paced(range(40)):
        counts.append(torch.get_num_threads())
        clock.busy()
    assert counts == [4, 2, 1] * 2 + [1] * 34


def test_few_pieces_are_done_as_they_are(four):
    assert {torch.get_num_threads() for _ in threads.paced(range(20))} == {4}


def test_who_leaves_the_pieces_has_the_threads_back(four, clock):
    for piece in threads.paced(range(40)):
        if piece == 20:
            break
        clock.busy()
    assert torch.get_num_threads() == 4


def test_a_training_is_recorded_with_its_threads_and_goes_on_with_them(four, monkeypatch, tmp_path):
    monkeypatch.setattr(step, "fastest", lambda work, times: work() or 2)
    seen = []
    before = step.Step.__call__

    def watched(self, *arguments):
        seen.append(torch.get_num_threads())
        return before(self, *arguments)

    monkeypatch.setattr(step.Step, "__call__", watched)
    fields = {"architecture": "mlp", "width": 16, "random_state": 0}
    VAE(**fields, epochs=1).fit_images(open_data("digits").take(range(200)), folder=tmp_path / "run")
    config = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (config["plan"]["threads"], config["threads"]) == (2, 2)
    monkeypatch.setattr(step, "fastest", lambda work, times: 1)
    VAE(**fields, epochs=2).fit_images(open_data("digits").take(range(200)), folder=tmp_path / "run", resume=True)
    config = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (config["plan"]["threads"], config["threads"]) == (2, 2)
    assert set(seen) == {2} and torch.get_num_threads() == 4


def test_a_short_training_tells_no_numbers_apart(four, tmp_path):
    VAE(architecture="mlp", width=16, epochs=1, random_state=0).fit_images(
        open_data("digits").take(range(200)), folder=tmp_path / "run"
    )
    assert json.loads((tmp_path / "run" / "run.json").read_text())["plan"]["threads"] is None


def test_priors_and_judges_choose_as_well(four, monkeypatch, digits, tmp_path):
    monkeypatch.setenv("VAEKIT_CACHE", str(tmp_path))  # where no judge is
    model = VAE(architecture="mlp", width=16, epochs=1, latent_dim=2, random_state=0).fit(digits[0][:200])
    asked = []
    monkeypatch.setattr(step, "fastest", lambda work, times: asked.append(times) or 1)
    model.fit_prior(digits[0][:200], prior="flow", epochs=1, layers=1, channels=4)
    assert len(asked) == 1
    images = open_data("digits", "train").take(range(100))
    get_judge(images, open_data("digits", "test").take(range(50)))
    assert len(asked) == 2


def test_many_images_give_the_same_on_any_number_of_threads(four, digits):
    model = VAE(architecture="mlp", width=16, epochs=1, random_state=0).fit(digits[0][:200])
    many = np.tile(digits[0], (20, 1, 1, 1))
    torch.set_num_threads(1)
    alone = model.transform(many)
    torch.set_num_threads(4)
    np.testing.assert_allclose(model.transform(many), alone, rtol=1e-5, atol=1e-6)


FORKED = """
import multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
import numpy as np, torch
import vaekit
from sklearn.cluster import KMeans

torch.set_num_threads(2)
x = np.random.default_rng(0).integers(0, 256, (256, 8, 8, 1), dtype=np.uint8)

def work():
    vaekit.VAE(architecture="mlp", width=32, epochs=1, random_state=0).fit(x)
    KMeans(4, n_init=1, random_state=0).fit(x.reshape(256, -1).astype(float))
    return torch.get_num_threads()

if sys.argv[1] == "fitted":
    work()
else:
    a = torch.randn(1000, 1000) @ torch.randn(1000, 1000)
    (a + a).sum()
with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
    print(pool.submit(work).result())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
@pytest.mark.parametrize("before", ["fitted", "torch alone"])
@pytest.mark.slow
def test_a_process_forked_from_one_that_used_threads_ends(before):
    found = subprocess.run(
        [sys.executable, "-c", FORKED, before], capture_output=True, text=True, timeout=120, check=True
    )
    assert found.stdout.split() == ["1"]


def test_fits_of_scikit_learn_that_iterate_have_one_thread(four, digits, monkeypatch):
    """Beside another program two threads take k-means and a probe some twenty times as long as one."""
    from sklearn.cluster import KMeans
    from sklearn.linear_model import LogisticRegression
    from sklearn.mixture import GaussianMixture
    from threadpoolctl import threadpool_info

    def threads_now() -> set[int]:
        return {pool["num_threads"] for pool in threadpool_info()}

    seen = {}
    for kind in (KMeans, LogisticRegression, GaussianMixture):

        def fit(self, *given, plain=kind.fit, name=kind.__name__, **how):
            seen.setdefault(name, set()).update(threads_now())
            return plain(self, *given, **how)

        monkeypatch.setattr(kind, "fit", fit)
    before = threads_now()
    assert max(before) > 1
    x, y = digits[0][:200], digits[1][:200]
    model = VAE(architecture="mlp", width=16, latent_dim=2, epochs=1, random_state=0).fit(x).fit_prior(x)
    measure_representation(model.transform(x), y, model.transform(x), y, train_x=x, x=x)
    assert seen == {name: {1} for name in ("KMeans", "LogisticRegression", "GaussianMixture")}
    assert threads_now() == before
