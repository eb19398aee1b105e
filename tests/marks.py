"""Which cases of a test `make test` runs, and which are left to `make test-slow`."""

from collections.abc import Iterable

import pytest


def quick(cases: Iterable, *chosen) -> list:
    """`cases` of `pytest.mark.parametrize`, each a value or a tuple of values; all but those `chosen` are slow."""
    given = [case if isinstance(case, tuple) else (case,) for case in cases]
    kept = [case if isinstance(case, tuple) else (case,) for case in chosen]
    assert all(case in given for case in kept), "what is chosen is a case"
    return [pytest.param(*case, marks=() if case in kept else pytest.mark.slow) for case in given]
