"""Names of the package, and where they stand: what the report's pages show beside a formula."""

from __future__ import annotations

import importlib
import inspect
import textwrap
from pathlib import Path


def found(name: str):
    """The function, class or method of this full name."""
    module, rest = name, []
    while True:
        try:
            thing = importlib.import_module(module)
            break
        except ModuleNotFoundError:
            module, _, last = module.rpartition(".")
            rest.insert(0, last)
            if not module:
                raise ValueError(f"there is no {name}") from None
    for part in rest:
        if not hasattr(thing, part):
            raise ValueError(f"there is no {name}: {thing.__name__} has no {part}")
        thing = getattr(thing, part)
    return inspect.unwrap(thing) if callable(thing) else thing


def file_of(name: str) -> Path:
    """The file it is written in."""
    return Path(inspect.getsourcefile(found(name)) or "")


def lines_of(name: str, wanted: list[str]) -> tuple[str, int]:
    """Lines of the source of `name`, dedented, and the number of the first in its file: from the first line that holds the
    text wanted[0] to the first after it that holds wanted[-1]; all of them where nothing is wanted.
    """
    source, first = inspect.getsourcelines(found(name))
    wanted = [line.strip() for line in wanted if line.strip()]
    if not wanted:
        return textwrap.dedent("".join(source)).rstrip(), first
    start = _line_with(source, wanted[0], 0, name)
    stop = _line_with(source, wanted[-1], start, name)
    return textwrap.dedent("".join(source[start : stop + 1])).rstrip(), first + start


def _line_with(source: list[str], text: str, start: int, name: str) -> int:
    for index, line in enumerate(source[start:], start):
        if text in line:
            return index
    raise ValueError(f"the source of {name} has no line with {text!r}")


def documented(name: str) -> str:
    """The name under which the reference has it: of a part or an objective the one that it is imported by."""
    for package in ("vaekit.parts", "vaekit.models"):
        if name.startswith(f"{package}."):
            public = importlib.import_module(package).__all__
            inside = [part for part in name.split(".") if part in public]
            if inside:
                return f"{package}.{inside[0]}"
    return name
