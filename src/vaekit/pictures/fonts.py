"""Fonts for names in any script. Matplotlib takes each character from the first of its fonts that has it; which of the
system's fonts those must be is found out when a name needs one, and never for a name that the house font can write.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import unicodedata
from collections.abc import Mapping
from typing import Any

from matplotlib import font_manager

from vaekit.state import warn

HOUSE = "DejaVu Sans"  # comes with matplotlib
LONGEST = 32  # characters of a name in a picture
_more: list[str] = []  # families that the names so far have needed besides
_known: dict[str, bool] = {}  # character -> whether one of all these has it


def families() -> list[str]:
    """The house font, and those that the names drawn so far have needed besides."""
    return [HOUSE, *_more]


def legible(value: Any) -> Any:
    """`value` with every text in it, keys of mappings too, as it can be drawn; fonts that this takes join `families`.

    What no font has is written as [U+0939 093F], symbols by their names, such as [rocket]; a warning says so, once for a
    script. Line breaks and other controls are written as in Python, \\n.
    """
    absent = _find({character for text in _texts(value) for character in text if not _known.get(character)})
    if absent:
        scripts = sorted({unicodedata.name(c, "unnamed").split()[0].capitalize() for c in absent})
        warn(
            f"names in pictures hold {len(absent)} characters that no font here can draw ({', '.join(scripts)}); such are "
            "written in brackets, [U+0939] or [rocket]. A font that has them helps, such as one of Noto Sans; colours of "
            "emoji can't be drawn"
        )
    return _replaced(value)


def shortened(name: object) -> str:
    """A name for a place with little room: beginning and end of a long one, quotation marks for none at all."""
    text = str(name)
    if len(text) > LONGEST:
        text = f"{text[: LONGEST * 2 // 3].rstrip()}…{text[-LONGEST // 3 + 1 :].lstrip()}"
    return text if text.strip() else f'"{text}"'


def _texts(value: Any):
    if isinstance(value, str):
        if not (value.isascii() and value.isprintable()):
            yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(key)
            yield from _texts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)


def _replaced(value: Any) -> Any:
    if isinstance(value, str):
        return value if value.isascii() and value.isprintable() else _drawable(value)
    if isinstance(value, Mapping):
        return {_replaced(key): _replaced(item) for key, item in value.items()}
    return type(value)(map(_replaced, value)) if type(value) in (list, tuple) else value


def _drawable(text: str) -> str:
    return "".join(
        "".join(part) if drawn else _stand_in(list(part)) for drawn, part in itertools.groupby(text, _known.__getitem__)
    )


def _stand_in(characters: list[str]) -> str:
    shown, codes = [], []
    for character in characters:
        kind = unicodedata.category(character)
        if kind[0] == "S":
            shown.append(f"[{unicodedata.name(character, f'U+{ord(character):04X}').lower()}]")
        elif kind in ("Cc", "Cs", "Zl", "Zp"):
            shown.append(repr(character)[1:-1])
        elif kind != "Cf" and not unicodedata.name(character, "").startswith(
            "VARIATION"
        ):  # those show nothing themselves
            codes.append(f"{ord(character):04X}")
    return "".join(shown) + (f"[U+{' '.join(codes)}]" if codes else "")


@contextlib.contextmanager
def quiet():
    """Without matplotlib's remarks on families that have no bold face."""
    log = logging.getLogger("matplotlib.font_manager")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


@quiet()
def _find(wanted: set[str]) -> set[str]:
    """Notes in `_known` which of the characters can be drawn; the letters and symbols that can't, if this is news."""
    news = {character for character in wanted if character not in _known}
    if not news:
        return set()
    left = {character for character in news if unicodedata.category(character) not in ("Cc", "Cs", "Zl", "Zp")}
    for family in families():
        left -= _covered(family, left)
    for family in _candidates() if left else ():
        found = _covered(family, left)
        if any(unicodedata.category(character)[0] != "C" for character in found):
            _more.append(family)
            left -= found
            if not left:
                break
    _known.update({character: character not in left for character in news})
    _known.update(
        {character: False for character in news if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")}
    )
    return {character for character in left if unicodedata.category(character)[0] in "LMNPS"}


def _candidates() -> list[str]:
    """The system's other families, plain sans-serif ones first; those installed since matplotlib last looked are among them."""
    manager = font_manager.fontManager
    seen = {entry.fname for entry in manager.ttflist}
    for path in font_manager.findSystemFonts():
        if path not in seen:
            try:
                manager.addfont(path)
            except Exception:  # damaged, or of a kind that can't be drawn, such as emoji in colours
                continue
    # The last resort has a box for every character.
    names = {entry.name for entry in manager.ttflist if not entry.name.startswith("Last Resort")} - set(families())
    return sorted(names, key=lambda name: ("Sans" not in name, "Mono" in name, "Serif" in name, len(name), name))


def _covered(family: str, characters: set[str]) -> set[str]:
    """Those of the characters that the family has, in its regular and its bold face."""
    for weight in ("normal", "bold"):
        if characters:
            try:
                properties = font_manager.FontProperties(family=[family], weight=weight)
                font = font_manager.get_font(font_manager.findfont(properties, fallback_to_default=False))
            except (ValueError, OSError, RuntimeError):
                return set()
            characters = {character for character in characters if font.get_char_index(ord(character))}
    return characters
