"""What a person sees while something trains: a bar with every term and the time left, or plain lines in a pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

SAY_EVERY = 10.0  # seconds between lines of a count


def describe_seconds(seconds: float) -> str:
    """A duration in a person's words: "8 s", "3 min 20 s", "1 h 5 min"."""
    seconds = round(seconds)
    if seconds < 90:
        return f"{seconds} s"
    minutes, seconds = divmod(seconds, 60)
    if minutes < 90:
        return f"{minutes} min {seconds:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def roughly(seconds: float) -> str:
    """A duration that is a guess: "8 s", "3 min", "1 h 05 min"."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def describe_record(record: dict) -> str:
    """The terms of an epoch's record in one line: "objective 92.31  distortion 78.20  rate 14.11"."""
    hidden = ("epoch", "step", "seconds", "seconds_total", "images_per_second", "learning_rate")
    terms = {
        name: value for name, value in record.items() if name not in hidden and not name.endswith(("_weight", "_unit"))
    }
    return "  ".join(
        f"{name} {value:.0f}" if name in ("codes_used",) else f"{name} {value:.4g}" for name, value in terms.items()
    )


class Lines:
    """Plain lines on standard error, one per epoch but at most some forty a run."""

    verbose = True

    def __init__(self, title: str, epochs: int):
        self.title, self.epochs = title, epochs
        self.every = max(1, epochs // 40)

    def say(self, text: str) -> None:
        print(f"{self.title}: {text}", file=sys.stderr, flush=True)

    def step(self) -> None:
        pass

    def at(self, step: int) -> None:
        """Training went back to `step`."""

    def epoch(self, record: dict) -> None:
        if record["epoch"] % self.every == 0 or record["epoch"] == self.epochs:
            self.say(f"epoch {record['epoch']}/{self.epochs}  {describe_record(record)}  ({record['seconds']:.1f} s)")


class Bar(Lines):
    """A `rich` progress bar over steps; the latest epoch's terms stand below it."""

    def __init__(self, title: str, epochs: int, progress, task):
        super().__init__(title, epochs)
        self.progress, self.task = progress, task

    def say(self, text: str) -> None:
        self.progress.console.print(f"{self.title}: {text}", highlight=False, markup=False)

    def step(self) -> None:
        self.progress.advance(self.task)

    def at(self, step: int) -> None:
        self.progress.update(self.task, completed=step)

    def epoch(self, record: dict) -> None:
        self.progress.below = f"epoch {record['epoch']}/{self.epochs}  {describe_record(record)}"


class Silent(Lines):
    """Says nothing."""

    verbose = False

    def say(self, text: str) -> None:
        pass


class Count:
    """So many of things that are done: plain lines on standard error, at most one in ten seconds, with the time left."""

    def __init__(self, title: str, what: str, done: int, total: int):
        self.title, self.what, self.done, self.total = title, what, done, total
        self.began = self.said = time.monotonic()
        self.at_first = done

    def say(self, text: str) -> None:
        print(f"{self.title}: {text}", file=sys.stderr, flush=True)

    def step(self) -> None:
        """One more is done."""
        self.done += 1
        now = time.monotonic()
        if now - self.said > SAY_EVERY and self.done < self.total:
            self.said = now
            left = (now - self.began) / (self.done - self.at_first) * (self.total - self.done)
            self.say(f"{self.done:,} of {self.total:,} {self.what}, about {describe_seconds(left)} left")


class CountBar(Count):
    """The same as a `rich` progress bar."""

    def __init__(self, title: str, what: str, done: int, total: int, progress):
        super().__init__(title, what, done, total)
        self.progress, self.task = progress, progress.add_task(f"{title}: {what}", total=total, completed=done)

    def say(self, text: str) -> None:
        self.progress.console.print(f"{self.title}: {text}", highlight=False, markup=False)

    def step(self) -> None:
        self.progress.advance(self.task)


@contextmanager
def counting(title: str, what: str, *, done: int, total: int) -> Iterator[Count]:
    """What counts `total` things called `what`, of which some are `done`: a bar on a terminal, lines in a pipe."""
    if not sys.stderr.isatty():
        yield Count(title, what, done, total)
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    with Progress(*_columns(), MofNCompleteColumn(), console=Console(stderr=True)) as progress:
        yield CountBar(title, what, done, total, progress)


def _columns() -> tuple:
    """Of a bar: what it is of, the bar, and the time it has taken and has left."""
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    title = TextColumn("{task.description}", markup=False)
    return title, BarColumn(bar_width=24), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()


@contextmanager
def reporting(title: str, *, steps: int, done: int, epochs: int, verbose: bool) -> Iterator[Lines]:
    """The reporter that fits: a bar on a terminal, lines in a pipe, silence unless `verbose`."""
    if not verbose:
        yield Silent(title, epochs)
    elif not sys.stderr.isatty():
        yield Lines(title, epochs)
    else:
        from rich.console import Console
        from rich.progress import Progress
        from rich.text import Text

        class ProgressAndTerms(Progress):
            """The bar, and a line of its own for the terms, which so leave room for the time left."""

            below = ""

            def get_renderables(self):
                yield self.make_tasks_table(self.tasks)
                yield Text(self.below)

        with ProgressAndTerms(*_columns(), console=Console(stderr=True)) as progress:
            yield Bar(title, epochs, progress, progress.add_task(title, total=steps, completed=done))
