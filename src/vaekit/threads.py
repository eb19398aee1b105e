"""How many threads a piece of work is given. More are faster only where the work is large and the machine is free: beside
another program, those that wait for each other after every layer are several times slower than one. What takes long tries it.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch

T = TypeVar("T")
ROUNDS = 3  # at most that the numbers are tried in turn, so that a noisy machine is noisy for all of them
ENOUGH = 2.0  # seconds of trying, after which there is no further round
WORTH_TRYING = 15.0  # seconds of work, below which the numbers are not told apart
GAIN = 0.9  # fewer threads are taken where they need at most this share of the time
PLAIN = 2.0  # a number of threads that takes so many times less than the others is taken at once
FEWEST = 8  # pieces of work for each number, below which none is tried


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_at_first = torch.get_num_threads()


def choices() -> list[int]:
    """The numbers worth trying, from what torch has now down to 1, by halves. It is one number where somebody has said it: by
    OMP_NUM_THREADS, or by torch.set_num_threads after vaekit was imported.
    """
    most = torch.get_num_threads()
    if "OMP_NUM_THREADS" in os.environ or most != _at_first:
        return [most]
    return [most >> halvings for halvings in range(most.bit_length())]


@contextmanager
def using(count: int | None) -> Iterator[None]:
    """A block on `count` threads, no more than there are; None leaves them as they are."""
    before = torch.get_num_threads()
    if count is None or count >= before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def alone() -> Iterator[None]:
    """A block in which scikit-learn's fits have one thread: those that iterate cut their work into pieces of microseconds, for
    which two threads wait beside another program 6 to 25 times as long as one needs.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        yield


def fastest(work: Callable[[], object], times: int) -> int | None:
    """Which of `choices` does `work`, that is to be done so many times, in the least time; the most threads in doubt. None
    where there is no choice, or all of it takes less than WORTH_TRYING.
    """
    numbers = choices()
    if len(numbers) == 1:
        return None
    seconds: dict[int, list[float]] = {count: [] for count in numbers}
    began = time.perf_counter()
    for round_ in range(1 + ROUNDS):
        if round_ > 1 and time.perf_counter() - began > ENOUGH:
            break
        for count in numbers:
            with using(count):
                started = time.perf_counter()
                work()
                if round_:  # the first one is for caches and pools
                    seconds[count].append(time.perf_counter() - started)
        if round_ == 1 and times * seconds[numbers[0]][0] < WORTH_TRYING:
            return None
    return _best(seconds)


def paced(pieces: Sequence[T]) -> Iterator[T]:
    """Each of `pieces`, of like size: what is done with the first of them is timed on each of `choices` in turn, until one is
    plainly the fastest or ROUNDS are over, and the rest is done on the fastest. A few are done as they are.
    """
    numbers = choices()
    if len(pieces) < FEWEST * len(numbers) or len(numbers) == 1:
        yield from pieces
        return
    seconds: dict[int, list[float]] = {count: [] for count in numbers}
    chosen: int | None = None
    for place, piece in enumerate(pieces):
        round_, turn = divmod(place, len(numbers))
        if chosen is None and turn == 0 and (round_ > ROUNDS or (round_ > 1 and _told_apart(seconds))):
            chosen = _best(seconds)
        count = chosen or numbers[turn]
        with using(count):
            started = time.perf_counter()
            yield piece
        if chosen is None and round_:  # the first one is for caches and pools
            seconds[count].append(time.perf_counter() - started)


def _told_apart(seconds: dict[int, list[float]]) -> bool:
    """Whether the least times are so far below all others that chance is out of the question."""
    least, second, *_ = sorted(map(statistics.fmean, seconds.values()))
    return second >= PLAIN * least


def _best(seconds: dict[int, list[float]]) -> int:
    """The number whose times are least, or the first where none is well below its own. By means, since what is to come is a
    sum: beside other programs a piece is now and then lucky.
    """
    mean = {count: statistics.fmean(found) for count, found in seconds.items()}
    first, best = next(iter(mean)), min(mean, key=lambda count: mean[count])
    return best if mean[best] <= GAIN * mean[first] else first
