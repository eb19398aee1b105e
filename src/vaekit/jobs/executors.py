"""Many jobs, each a function that can be called again where it was broken off: handed to an executor, waited for, handed out
again where a worker was lost, and named where they fail. An executor is what has `submit` as in `concurrent.futures`.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ProcessPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import torch

from vaekit.messages import first_line, in_words, listed
from vaekit.threads import cores
from vaekit.training.guard import TrainingFailed

T = TypeVar("T")
TRIES = 3  # times that a job is handed out whose worker is lost
LOOK_EVERY = 0.2  # seconds between looks at futures that are not of `concurrent.futures`


class Executor(Protocol):
    """What runs jobs: has `submit`, which returns at once something that has `result()` and `done()`."""

    def submit(self, function: Callable, /, *args) -> Any: ...


class Failed(NamedTuple):
    """Why a job has failed, in words. wrong: by what it was given, and not by what befell it."""

    why: str
    wrong: bool


def run_jobs(
    executor: Executor, names: Sequence[T], make: Callable[[T, int], tuple], at_once: int
) -> Iterator[tuple[T, Any]]:
    """Each name and what its job came to, or `Failed`, in the order in which they end.

    make(name, left): the job's function and arguments, asked for when it is handed out, where `left` are to be so. At most
    `at_once` are with the executor. A job whose worker is lost is handed out up to TRIES times. Raises TrainingFailed where the
    executor is broken altogether, as a pool of processes is when one of them is killed.
    """
    waiting, begun = deque((name, 1) for name in names), {}
    try:
        while waiting or begun:
            while waiting and len(begun) < at_once:
                name, tries = waiting.popleft()
                job = make(name, len(waiting) + 1)
                begun[executor.submit(as_value, os.getcwd(), *job)] = (name, tries)
            for future in _done(begun):
                name, tries = begun.pop(future)
                try:
                    found = future.result()
                except BrokenExecutor:
                    raise
                except Exception as error:  # whatever an executor calls a lost worker
                    if tries < TRIES:
                        waiting.append((name, tries + 1))
                        continue
                    found = Failed(f"{_of_worker(error)}, {tries} times", wrong=False)
                yield name, found
    except BrokenExecutor:
        raise TrainingFailed(
            f"a process was killed, perhaps because memory is too small for {at_once} at once: run the same command again with "
            "fewer (--jobs); it goes on where it was"
        ) from None
    finally:
        for future in begun:
            future.cancel()


def failure(what: str, failed: Mapping[str, Failed], of: int) -> Exception:
    """What to raise where some of so many jobs have failed, what they are and why: ValueError where all were given something
    wrong, else TrainingFailed.
    """
    kind = ValueError if all(found.wrong for found in failed.values()) else TrainingFailed
    which = listed([f"{name} ({found.why})" for name, found in sorted(failed.items())])
    return kind(f"{len(failed)} of {of} {what} failed: {which}. The others are kept: the same command goes on")


def _of_worker(error: Exception) -> str:
    """What an executor says of a job that it could not do; where that holds a traceback, its last line."""
    words = str(error).strip()
    return words.splitlines()[-1] if "Traceback" in words else f"{type(error).__name__}: {first_line(error)}"


def as_value(where: str, function: Callable, *args) -> Any:
    """function(*args), in the folder `where`, which relative paths are of; an error is a `Failed`, so that what a future raises
    is of its worker.
    """
    try:
        if Path.cwd() != Path(where):
            os.chdir(where)
        return function(*args)
    except (ValueError, FileNotFoundError) as error:
        return Failed(str(error), wrong=True)
    except OSError as error:
        return Failed(in_words(error), wrong=False)
    except TrainingFailed as error:
        return Failed(str(error), wrong=False)
    except Exception as error:  # which we did not foresee, and is no reason to lose the other jobs
        traceback.print_exc()
        return Failed(f"{type(error).__name__}: {first_line(error)}", wrong=False)


def _done(begun: dict) -> list:
    """Those of the futures that are done, once there are any, in the order in which they were begun."""
    if all(isinstance(future, Future) for future in begun):
        wait_for(begun, return_when=FIRST_COMPLETED)
    while not (found := [future for future in begun if future.done()]):
        time.sleep(LOOK_EVERY)
    return found


class _Here:
    """An executor that does each job at once, in this process."""

    def submit(self, function: Callable, /, *args) -> Future:
        future = Future()
        future.set_result(function(*args))
        return future


class _Processes(ProcessPoolExecutor):
    def submit(self, function: Callable, /, *args) -> Future:
        return super().submit(_in_worker, function, *args)


@contextmanager
def workers(at_once: int) -> Iterator[Executor]:
    """An executor of so many processes of this machine, which share its cores; of this process alone where it is one.

    They are fresh ones, since a forked copy of a process with threads may stand still for ever.
    """
    if at_once == 1:
        yield _Here()
        return
    context = multiprocessing.get_context("spawn")
    ended, alive = context.Pipe(duplex=False)
    with _Processes(at_once, context, _begin, (max(1, cores() // at_once), ended)) as pool:
        try:
            yield pool
        except BaseException:
            alive.close()
            pool.shutdown(cancel_futures=True)
            raise


def _begin(threads: int, ended: Connection) -> None:
    """The beginning of a worker process, which ends with its parent however that ends: a worker that outlived it would keep
    its run's lock. `ended` can be read when the parent has closed its end, or is dead. What is trained goes on from its last
    checkpoint.
    """
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all processes at once; the parent's own is enough

    def follow() -> None:
        wait([ended])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow, daemon=True).start()


def _in_worker(function: Callable, *args) -> Any:
    """SIGTERM, which a training turns into SystemExit, ends the process and not just this job."""
    try:
        return function(*args)
    except SystemExit:
        os._exit(1)
