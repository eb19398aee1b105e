"""The campaign of mutations: each is of a text that stands once in the package, and what comes of it is told as it is."""

import shlex

import pytest

from benchmarks import mutations
from benchmarks.mutations import LIST, ROOT, Ended, Mutant, attempt, conclude, find, read, try_all

CLAMP = "def clamp(x):\n    return max(0, min(1, x))\n"
TEST = """import pytest
from toy import clamp


def test_clamp():
    assert clamp(2) == 1


@pytest.mark.slow
def test_the_other_side():
    assert clamp(-1) == 0
"""
MUTANTS = [mutant for area in read(LIST).values() for mutant in area]


@pytest.fixture
def root(tmp_path):
    """A tree with a package of one function and its test."""
    for name, text in {"src/toy.py": CLAMP, "tests/test_toy.py": TEST, "pyproject.toml": ""}.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return tmp_path


def mutant(old="min(1, x)", new="min(2, x)") -> Mutant:
    return Mutant(f"{new} for {old}", old, new, "tests/test_toy.py")


def test_every_mutation_is_of_a_text_that_stands_once_in_the_package():
    assert len(MUTANTS) == len({one.error for one in MUTANTS}) >= 66
    for one in MUTANTS:
        assert find(ROOT, one).is_file()
        assert one.old != one.new and one.old.strip()
        words = shlex.split(one.tests)
        assert (ROOT / words[0]).is_file() and words[1::2] in ([], ["-k"]), one.tests


def test_tests_run_on_a_copy_that_has_the_mutation(root):
    assert attempt(root, mutant().tests).code == 0
    assert attempt(root, mutant().tests, mutant()).code == 1
    other = mutant("max(0", "max(-1")
    assert attempt(root, other.tests, other).code == 1, "slow tests are run where the quick ones pass"
    assert attempt(root, f"{other.tests} -k nothing").code == mutations.NO_TESTS
    endless = mutant("return max", "while True:\n        pass\n    return max")
    assert attempt(root, endless.tests, endless, limit=0.1).code is None
    assert (root / "src/toy.py").read_text() == CLAMP


def test_what_comes_of_mutations_is_told_as_it_is(root, monkeypatch):
    caught, unseen, endless = mutant(new="min(2, x)"), mutant(new="min(x, 1)"), mutant(new="clamp(x)")
    codes = {None: 0, caught: 1, unseen: 0, endless: None}
    monkeypatch.setattr(
        mutations, "attempt", lambda _, tests, one=None, limit=None: Ended(codes[one], 20.0, f"{limit}")
    )
    found = try_all(root, [caught, unseen, endless], jobs=2)
    assert [found[one] for one in (caught, unseen, endless)] == [("caught", 20), ("not caught", 20), ("undecided", 20)]
    text = conclude(found)
    assert "1 of 3 mutations are caught, 33.3% (claimed: 95%): the claim does not hold." in text
    assert f"Not caught: {unseen.error}. Undecided: {endless.error}." in text


def test_what_can_not_be_tried_is_named(root, monkeypatch):
    with pytest.raises(ValueError, match=r"stands 0 times in the package: sign\(x\)"):
        try_all(root, [mutant("sign(x)")])
    with pytest.raises(ValueError, match=r"stands 2 times in the package \(in toy\.py, toy\.py\): x\)"):
        try_all(root, [mutant("x)")])
    monkeypatch.setattr(mutations, "attempt", lambda *_: Ended(5, 1.0, "no tests ran"))
    with pytest.raises(ValueError, match=r"test_toy\.py must pass without a mutation, and ended with 5:\nno tests ran"):
        try_all(root, [mutant()])
