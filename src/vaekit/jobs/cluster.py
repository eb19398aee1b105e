"""Ray as an executor: a cluster that runs already, or one of this machine for as long as it is needed."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vaekit.jobs.executors import Failed, as_value
from vaekit.messages import first_line
from vaekit.training.guard import TrainingFailed

REACHED_IN = 10.0  # seconds
LOCAL = "auto"  # the address of a cluster that is made for the occasion, of this machine's cores


class Cluster:
    """A Ray cluster as an executor. A job gets one core, or one GPU where the cluster has any and `device` is not "cpu".

    at_once: how many jobs that makes at a time.
    """

    def __init__(self, ray, device: str):
        self.ray = ray
        resources = ray.cluster_resources()
        gpus = 0 if device == "cpu" else int(resources.get("GPU", 0))
        self.needs: dict[str, Any] = {"num_gpus": 1} if gpus else {"num_cpus": 1}
        self.at_once = gpus or max(1, int(resources.get("CPU", 1)))

    def submit(self, function: Callable, /, *args) -> Future:
        """A job on one of the cluster's machines, which hands it out again itself only when asked to: see `run_jobs`."""
        return self.ray.remote(function).options(**self.needs, max_retries=0).remote(*args).future()

    def map(self, function: Callable, given: tuple, numbers: list[int], at_once: int) -> Iterator[tuple[int, Any]]:
        """Each of `numbers` and function(*given, number), or `Failed`, as they end, by Ray Data: `at_once` actors, a core or a
        GPU each, that take number after number. What a lost one was at is done again by another.
        """
        import ray.data

        logging.getLogger("ray.data").setLevel(logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False
        dataset = ray.data.from_items([{"number": n} for n in numbers], override_num_blocks=len(numbers)).map_batches(
            _Actor,
            fn_constructor_args=(os.getcwd(), function, given),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=at_once),
            **self.needs,
        )
        try:
            for row in dataset.iter_rows():
                found = json.loads(row["found"])
                yield row["number"], Failed(*found["failed"]) if "failed" in found else found["value"]
        except self.ray.exceptions.RayError as error:
            raise TrainingFailed(f"the Ray cluster gave up: {first_line(error)}; the same command goes on") from None


class _Actor:
    """A function of a number as Ray Data calls it: on batches of one, and what it comes to in JSON."""

    def __init__(self, where: str, function: Callable, given: tuple):
        self.where, self.function, self.given = where, function, given

    def __call__(self, batch: dict) -> dict:
        (number,) = batch["number"]
        found = as_value(self.where, self.function, *self.given, int(number))
        kind = "failed" if isinstance(found, Failed) else "value"
        return {"number": [number], "found": [json.dumps({kind: found})]}


def _check_reachable(address: str) -> None:
    """Raises ConnectionError where nobody listens at HOST:PORT: Ray would ask for many minutes."""
    place = re.fullmatch(r"(?:ray://)?\[?(?P<host>[^/]+?)\]?:(?P<port>\d+)", address)
    if place:
        try:
            socket.create_connection((place["host"], int(place["port"])), REACHED_IN).close()
        except (OSError, OverflowError) as error:
            raise ConnectionError(f"no Ray cluster answers at {address}: {str(error).lower()}") from None


def _has_token() -> bool:
    """Whether there is a token by which Ray's clusters know their users."""
    given = any(name in os.environ for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    return given or (Path.home() / ".ray" / "auth_token").exists()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what Ray's own libraries write on standard error, past Python, from the user: it raises what matters."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextmanager
def cluster(address: str | None, device: str = "auto") -> Iterator[Cluster | None]:
    """The Ray cluster at `address` for the block: "auto" is one of this machine, which then ends; None is none. One that this
    process has joined already stays as it is.

    Raises ValueError without Ray, and ConnectionError where no cluster answers.
    """
    if address is None:
        yield None
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody was asked
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what goes wrong is said by us
    if address != LOCAL and _has_token():
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # as `ray start` does where it finds one, and ray.init does not
    try:
        import ray
    except ModuleNotFoundError:
        raise ValueError("--cluster needs the extra `cluster`: pip install 'vaekit[cluster]'") from None
    joined = ray.is_initialized()
    if not joined:
        _check_reachable(address)
        # Ray reads `auto` as a cluster that runs on this machine already.
        place, dashboard = ("local", False) if address == LOCAL else (address, None)
        try:
            with _quiet():
                ray.init(place, include_dashboard=dashboard, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
            line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ConnectionError(f"no Ray cluster answers at {address}: {line:.200}") from None
    try:
        yield Cluster(ray, device)
    finally:
        if not joined:
            ray.shutdown()
