"""The package's docstrings for Sphinx. They are written to be read in an editor: plain sentences, and paragraphs that begin
with `name: what it is`. Here each becomes reStructuredText in which nothing but backticks means anything.
"""

import re

from sphinx.application import Sphinx

ARGUMENT = re.compile(r"^((?:[\w.]+)(?:, [\w.]+)*): (.+)$")


def escaped(text: str) -> str:
    """Text in which nothing is markup but what stands in backticks, which is code."""
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(f"`{part}`" if part.startswith("`") else re.sub(r"([*|_\\`<>])", r"\\\1", part) for part in parts)


def as_rst(lines: list[str]) -> list[str]:
    """The lines of a docstring, converted. A line that says `name: ...` begins an entry of a list; what follows it further to
    the right belongs to it.
    """
    made, entry = [], False
    for line in lines:
        words, inset = line.strip(), len(line) - len(line.lstrip())
        if not words:
            made.append("")
            entry = False
        elif (found := ARGUMENT.match(words)) and inset == 0 and (entry or not made or not made[-1].strip()):
            made += [f":{escaped(found[1])}: {escaped(found[2])}"]
            entry = True
        else:
            made.append(f"    {escaped(words)}" if entry else escaped(words))
    return [*made, ""]


def convert(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Replaces the lines of ours; those that are inherited from elsewhere are reStructuredText already."""
    if name.startswith("vaekit"):
        lines[:] = as_rst(lines)


def setup(app: Sphinx) -> dict:
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-docstring", convert)
    return {"parallel_read_safe": True}
