"""The parts in somebody's own loop: each has a runnable example in examples/parts, and says what it is."""

import functools
import importlib.util
import inspect
import re
from pathlib import Path

import numpy as np
import pytest

import vaekit
import vaekit.models
import vaekit.parts
from tests.marks import quick
from vaekit.estimators.base import Estimator
from vaekit.registry import MODELS

EXAMPLES = Path(__file__).parents[1] / "examples" / "parts"
SCRIPTS = sorted(path.stem for path in EXAMPLES.glob("*.py"))
NO_EXAMPLE = {"Draw", "Trace"}  # what parts return


def run_example(path: Path, steps: int):
    """`train(steps)` of an example file."""
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.train(steps)


LONG = ("causal", "matching")  # of a second each and more


@pytest.mark.parametrize("name", quick(SCRIPTS, *(name for name in SCRIPTS if name not in LONG)))
def test_an_example_learns(name, capsys):
    losses = run_example(EXAMPLES / f"{name}.py", 40)
    for curve in losses.values() if isinstance(losses, dict) else [losses]:
        assert len(curve) == 40 and np.isfinite(curve).all()
        assert np.mean(curve[-5:]) < np.mean(curve[:5])
    assert capsys.readouterr().out


@pytest.mark.parametrize("name", sorted(set(vaekit.parts.__all__) - NO_EXAMPLE))
def test_every_part_is_in_an_example(name):
    users = [path for path in EXAMPLES.glob("*.py") if re.search(rf"\b{name}\(", path.read_text())]
    assert users, f"no example in {EXAMPLES} uses {name}"


def test_examples_use_vaekit_by_its_public_names_only():
    for path in EXAMPLES.glob("*.py"):
        modules = set(re.findall(r"from (vaekit[\w.]*) import", path.read_text()))
        assert modules <= {"vaekit.parts", "vaekit.models", "vaekit.tensors"}, path.name


# Documentation


source = functools.cache(inspect.getsource)


def undocumented(owner, prefix: str) -> list[str]:
    """The public functions, methods and properties that `owner` defines and that have no docstring, its own or inherited."""
    found = []
    for name, member in vars(owner).items():
        if name.startswith("_") or not (inspect.isfunction(member) or isinstance(member, (property, classmethod))):
            continue
        if not inspect.getdoc(getattr(owner, name)):
            found.append(f"{prefix}.{name}")
    return found


@pytest.mark.parametrize("module", [vaekit, vaekit.parts, vaekit.models], ids=lambda module: module.__name__)
def test_every_public_name_is_documented(module):
    assert module.__doc__
    for name in module.__all__:
        thing = getattr(module, name)
        if isinstance(thing, str):
            continue
        # Of its own; a dataclass or NamedTuple without one is given its signature.
        written = (vars(thing).get("__doc__") if inspect.isclass(thing) else thing.__doc__) or ""
        assert written and not written.startswith(f"{name}("), f"{module.__name__}.{name} has no docstring"
        if inspect.isclass(thing):
            assert not undocumented(thing, f"{module.__name__}.{name}")


@pytest.mark.parametrize(
    "cls", [Estimator, *(model.estimator() for model in MODELS.values())], ids=lambda cls: cls.__name__
)
def test_every_public_method_and_field_of_an_estimator_is_documented(cls):
    for base in (base for base in cls.__mro__ if base.__module__.startswith("vaekit")):
        assert not undocumented(base, base.__name__)
    for name in inspect.signature(cls).parameters:
        owner = next(base for base in cls.__mro__ if name in vars(base).get("__annotations__", {}))
        assert re.search(rf'^    {name}: .*\n    """', source(owner), re.MULTILINE), f"{cls.__name__}.{name}"


def test_the_package_says_that_it_is_typed():
    assert (Path(vaekit.__file__).parent / "py.typed").is_file()
