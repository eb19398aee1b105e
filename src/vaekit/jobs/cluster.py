"""Ray as an executor: a cluster that runs already, or one of this machine for as long as it is needed."""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

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

    def map(self, kind: type, given: tuple, items: list) -> Iterator[Any]:
        """kind(*given)(item) for each of `items`, as they come, by Ray Data: an actor of `kind` a core, or a GPU, is made once
        and works off item after item. What a lost one was at is done again by another.
        """
        import ray.data

        ray.data.DataContext.get_current().enable_progress_bars = False
        found = ray.data.from_items([{"item": item} for item in items], override_num_blocks=len(items)).map_batches(
            _Each,
            fn_constructor_args=(kind, given),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(self.at_once, len(items))),
            **self.needs,
        )
        for row in found.iter_rows():
            yield row["found"]


class _Each:
    """A `kind` as Ray Data calls it: on batches of one."""

    def __init__(self, kind: type, given: tuple):
        self.made = kind(*given)

    def __call__(self, batch: dict) -> dict:
        return {"found": [self.made(item) for item in batch["item"]]}


def _check_reachable(address: str) -> None:
    """Raises ConnectionError where nobody listens at HOST:PORT: Ray would ask for many minutes."""
    place = re.fullmatch(r"(?:ray://)?\[?(?P<host>[^/]+?)\]?:(?P<port>\d+)", address)
    if place:
        try:
            socket.create_connection((place["host"], int(place["port"])), REACHED_IN).close()
        except (OSError, OverflowError) as error:
            raise ConnectionError(f"no Ray cluster answers at {address}: {str(error).lower()}") from None


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
            ray.init(place, include_dashboard=dashboard, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
            line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ConnectionError(f"no Ray cluster answers at {address}: {line:.200}") from None
    try:
        yield Cluster(ray, device)
    finally:
        if not joined:
            ray.shutdown()
