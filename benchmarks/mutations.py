"""At least 95 % of small errors that a person could make in the package are noticed by the tests.

Each mutation is one error: a sign, a missing floor, another axis, a swallowed condition. The tests of its file, slow ones too,
run on a copy of the tree that has it: they fail and it is caught, or they pass and it is not; it is undecided where they have
no end in five times what they take without it, a minute at least. They have to pass without it first. What is mutated is found
by its text, wherever it stands: a text that is not found exactly once in the package is an error, which names it.
"""

import argparse
import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from benchmarks.harness import Findings, progress

ROOT = Path(__file__).parents[1]
LIST = Path(__file__).with_name("mutations.txt")
COPIED = ("src", "tests", "benchmarks", "examples", "pyproject.toml")
LEAST, TIMES = 60.0, 5.0  # seconds that tests may take at least, and times what they take without a mutation
CLAIMED = 0.95
NO_TESTS = 5  # pytest's exit code where none are chosen
OUTCOMES = ("caught", "not caught", "undecided")


class Mutant(NamedTuple):
    """What is wrong, in words; the text that stands once in the package, and what stands there instead; the tests that should
    notice, as words of pytest's command line.
    """

    error: str
    old: str
    new: str
    tests: str


class Ended(NamedTuple):
    """How tests ended: pytest's exit code, None where time was over; the seconds they took, and what they said."""

    code: int | None
    seconds: float
    said: str


def run(argv):
    parser = argparse.ArgumentParser(prog="python -m benchmarks mutations")
    parser.add_argument("--jobs", type=int, choices=(1, 2), default=1, help="mutations at a time")
    parser.add_argument("--only", default="", help="those whose error, or whose tests, hold this text")
    options = parser.parse_args(argv)
    chosen = {
        area: [mutant for mutant in mutants if options.only in f"{mutant.error} {mutant.tests}"]
        for area, mutants in read(LIST).items()
    }
    everything = [mutant for mutants in chosen.values() for mutant in mutants]
    if not everything:
        raise ValueError(f"no mutation's error or tests hold {options.only!r}")
    outcomes = try_all(ROOT, everything, options.jobs)
    rows = []
    for area, mutants in chosen.items():
        found = [outcomes[mutant][0] for mutant in mutants]
        seconds = sum(outcomes[mutant][1] for mutant in mutants)
        if found:
            rows.append([area, len(found), *map(found.count, OUTCOMES), round(seconds)])
    return Findings(["part", "mutations", *OUTCOMES, "seconds"], rows, conclude(outcomes))


def read(file: Path) -> dict[str, list[Mutant]]:
    """The mutations in `file`, by the part of the package that they are in: blocks between blank lines, of which the first says
    what the others are.
    """
    found: dict[str, list[Mutant]] = {}
    area = tests = ""
    for block in file.read_text(encoding="utf-8").strip().split("\n\n")[1:]:
        first, *lines = block.split("\n")
        if first.startswith("["):
            area = first.strip("[]")
        elif first.startswith("tests/"):
            tests = first
        elif not lines or any(line[:2] not in ("- ", "+ ") for line in lines):
            raise ValueError(f"{file.name} has lines that are neither - nor +, below {first!r}")
        else:
            old, new = ("\n".join(line[2:] for line in lines if line.startswith(sign)) for sign in "-+")
            found.setdefault(area, []).append(Mutant(first, old, new, tests))
    return found


def conclude(outcomes: dict[Mutant, tuple[str, float]]) -> str:
    found = [outcome for outcome, _ in outcomes.values()]
    share = found.count("caught") / len(found)
    text = (
        f"{found.count('caught')} of {len(found)} mutations are caught, {share:.1%} (claimed: {CLAIMED:.0%}): the claim "
        f"{'holds' if share >= CLAIMED else 'does not hold'}."
    )
    for outcome in OUTCOMES[1:]:
        if errors := [mutant.error for mutant, (one, _) in outcomes.items() if one == outcome]:
            text += f" {outcome.capitalize()}: {'; '.join(errors)}."
    return text


def try_all(root: Path, mutants: Sequence[Mutant], jobs: int = 1) -> dict[Mutant, tuple[str, float]]:
    """What came of each mutation, and the seconds its tests took. Raises ValueError where a text is not found exactly once, and
    where tests don't pass without a mutation.
    """
    places = {mutant: find(root, mutant) for mutant in mutants}
    limits, outcomes = {}, {}
    with ThreadPoolExecutor(jobs) as pool:
        try:
            unharmed = dict.fromkeys(mutant.tests for mutant in mutants)
            for tests, ended in zip(unharmed, pool.map(lambda tests: attempt(root, tests), unharmed), strict=True):
                if ended.code != 0:
                    raise ValueError(
                        f"{tests} must pass without a mutation, and ended with {ended.code}:\n{ended.said}"
                    )
                limits[tests] = max(LEAST, TIMES * ended.seconds)
                progress(f"without a mutation: {tests}, {ended.seconds:.1f} s")
            harmed = pool.map(lambda mutant: attempt(root, mutant.tests, mutant, limits[mutant.tests]), mutants)
            for mutant, ended in zip(mutants, harmed, strict=True):
                outcome = "undecided" if ended.code is None else "not caught" if ended.code == 0 else "caught"
                outcomes[mutant] = outcome, ended.seconds
                where = f"{places[mutant].name}, {mutant.error}"
                progress(f"{len(outcomes)}/{len(mutants)} {outcome}, {ended.seconds:.1f} s: {where}")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return outcomes


def find(root: Path, mutant: Mutant) -> Path:
    """The one file of the package that holds the text; ValueError where there is none, or where it stands more than once."""
    counts = {file: file.read_text(encoding="utf-8").count(mutant.old) for file in sorted(root.glob("src/**/*.py"))}
    found = [file for file, count in counts.items() for _ in range(count)]
    if len(found) != 1:
        where = f" (in {', '.join(file.name for file in found)})" if found else ""
        raise ValueError(
            f"{mutant.error!r} is of a text that stands {len(found)} times in the package{where}: {mutant.old}"
        )
    return found[0]


def attempt(root: Path, tests: str, mutant: Mutant | None = None, limit: float | None = None) -> Ended:
    """Runs `tests`, words of pytest's command line, on a copy of the tree, which has the mutation where there is one: the quick
    ones, and where those pass the slow ones. `limit`: seconds that each of the two may take.
    """
    with tempfile.TemporaryDirectory(prefix="vaekit-mutation-") as temporary:
        copy = Path(temporary) / "tree"
        for name in COPIED:
            if (root / name).is_dir():
                shutil.copytree(root / name, copy / name, ignore=shutil.ignore_patterns("out"))
            elif (root / name).exists():
                shutil.copy2(root / name, copy / name)
        if mutant:
            file = find(copy, mutant)
            file.write_text(file.read_text(encoding="utf-8").replace(mutant.old, mutant.new), encoding="utf-8")
        (copy / "tmp").mkdir()
        ended = run_tests(copy, ["-m", "not slow", *shlex.split(tests)], limit)
        if ended.code not in (0, NO_TESTS):
            return ended
        slow = run_tests(copy, ["-m", "slow", *shlex.split(tests)], limit)
        code = ended.code if slow.code == NO_TESTS else slow.code
        return Ended(code, ended.seconds + slow.seconds, slow.said)


def run_tests(copy: Path, words: list[str], limit: float | None) -> Ended:
    """pytest on a copy of the tree."""
    settings = {
        "PYTHONPATH": f"{copy / 'src'}{os.pathsep}{copy}",
        "OMP_NUM_THREADS": "1",
        "TMPDIR": str(copy / "tmp"),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # no test needs one, and they take as long as most tests do
    }
    words = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *words]
    started = time.perf_counter()
    with open(copy / "said", "w+b") as said:
        process = subprocess.Popen(
            words, cwd=copy, env={**os.environ, **settings}, stdout=said, stderr=said, start_new_session=True
        )
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with contextlib.suppress(ProcessLookupError):  # and what the tests have begun
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        seconds = time.perf_counter() - started
        said.seek(0)
        return Ended(code, seconds, said.read().decode(errors="replace")[-2000:])
