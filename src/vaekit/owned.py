"""Whose file is it: the one place that says what vaekit may replace or remove, and that writes.

A folder is ours if it is new, empty, or carries our mark; a file is ours by its exact name in such a folder. A file that a user
names is new, or replaced when they say so; what is read is never written. Everything else is refused before anything is
written. In a folder of ours:

    .vaekit            the mark: says of what kind the folder is
    .vaekit.lock       what a process holds while it writes there; it stays, since two could hold a file that one removes
    .NAME.HEX.tmp      a file NAME of ours that is being written, or that a killed process left
"""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vaekit.messages import in_words

MARK, LOCK = ".vaekit", ".vaekit.lock"
MARK_TEXT = "vaekit {kind}\nvaekit made this folder, and may replace the files in it that have names of its own.\n"
_TEMPORARY = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{16}\.tmp")
_UNMARKED = {  # what tells a folder that a vaekit without marks made, or that was copied without hidden files
    "run": ("run.json", ("format", "class", "plan")),
    "prior": ("run.json", ("format", "identity")),
    "report": ("results.json", ("data", "protocol", "models")),
    "sweep": ("sweep.json", ("vaekit", "grid", "points")),
    "set of shards": ("_index.json", ("vaekit", "command", "shards")),
    "classifier": ("classifier.json", ("vaekit", "classes", "shape")),
}
_MOST_LOOKED_AT = 2**26  # bytes of a file that may tell it


def kind_of(folder: str | os.PathLike) -> str | None:
    """Of what kind a folder of ours is ("run", "prior", "report", "sweep", "set of shards", "classifier", "cache"); None of one
    that carries no mark.
    """
    folder = Path(folder)
    with contextlib.suppress(OSError, UnicodeDecodeError):
        mark = folder / MARK
        if not mark.is_symlink() and mark.stat().st_size < 1000:
            first, _, _ = mark.read_text(encoding="utf-8").partition("\n")
            if first.startswith("vaekit "):
                return first.removeprefix("vaekit ")
    for kind, (name, entries) in _UNMARKED.items():
        with contextlib.suppress(OSError, ValueError, RecursionError):
            file = folder / name
            if file.is_file() and not file.is_symlink() and file.stat().st_size < _MOST_LOOKED_AT:
                found = json.loads(file.read_text(encoding="utf-8"))
                if isinstance(found, dict) and all(entry in found for entry in entries):
                    return kind
    return None


def check_folder(
    folder: str | os.PathLike, kind: str, *, inputs: Iterable[str | os.PathLike] = (), through_links: bool = True
) -> None:
    """Raises ValueError unless a `kind` may be written into `folder`, which then is new, empty, or one already, and is none of
    the `inputs` nor lies in one of them. Nothing is changed.

    through_links: whether `folder` may be a link, as one that a user names may, and one inside a folder of ours may not.
    """
    folder = _place_for(folder, inputs)
    if not through_links and folder.is_symlink():
        raise ValueError(f"{folder} is a link, and not vaekit's: remove it first")
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise ValueError(f"{folder} is {_what_stands_at(folder)}; a {kind} is a folder")
    found = kind_of(folder)
    if found == kind:
        return
    if found is not None:
        raise ValueError(f"{folder} holds a {found} of vaekit; choose another folder for a {kind}")
    if names := _entries(folder):
        raise ValueError(
            f"{folder} is not empty, and no {kind} of vaekit (it holds {names[0]}): choose a new or an empty folder"
        )


def check_new_folder(folder: str | os.PathLike, *, inputs: Iterable[str | os.PathLike] = ()) -> Path:
    """Raises ValueError unless `folder` is new or empty, and is none of the `inputs` nor lies in one of them; returns where it
    is, through links.
    """
    folder = _place_for(folder, inputs)
    if os.path.lexists(folder) and not folder.is_dir():
        raise ValueError(f"{folder} is not an empty folder, but {_what_stands_at(folder)}; choose another")
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder} exists and is not an empty folder; choose another")
    return Path(os.path.realpath(folder))


def check_file(file: str | os.PathLike, *, inputs: Iterable[str | os.PathLike] = (), overwrite: bool = False) -> None:
    """Raises ValueError unless a file may be written at `file`: nothing is there, or a file that the user wants replaced, and
    it is none of the `inputs` nor lies in a folder of them, through links too. Nothing is changed.
    """
    file = _place_for(file, inputs)
    if not os.path.lexists(file):
        return
    if not file.is_file():
        raise ValueError(f"{file} is {_what_stands_at(file)}; name a file that can be written")
    if not overwrite:
        raise ValueError(f"{file} exists: choose another name, or add --overwrite to replace it")


def claim(folder: str | os.PathLike, kind: str) -> Path:
    """Makes `folder`, and marks it as a `kind`; ValueError where it is somebody else's."""
    folder = Path(folder)
    check_folder(folder, kind)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / MARK).is_file():
        write_atomically(folder / MARK, MARK_TEXT.format(kind=kind))
    return folder


@contextmanager
def locked(folder: str | os.PathLike, kind: str) -> Iterator[None]:
    """Claims `folder` and keeps other processes from writing it meanwhile. A process that dies lets go of it, and the files
    that it was writing are removed by the next. Raises ValueError where one is at it, or the folder is somebody else's.
    """
    from filelock import FileLock, Timeout

    folder = claim(folder, kind)
    try:
        lock = FileLock(folder / LOCK, timeout=0).acquire()
    except Timeout:
        raise ValueError(
            f"{folder} is being written by another process; wait for it, or choose another folder"
        ) from None
    with lock:
        remove_temporaries(folder)
        yield


def write_atomically(path: str | os.PathLike, data: bytes | str) -> None:
    """Writes a file so that a reader, or a crash, sees the old one or the new one whole: temporary name, fsync, rename.

    Raises OSError that names the file.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            try:
                file.write(data.encode() if isinstance(data, str) else data)
                file.flush()
                os.fsync(file.fileno())
                os.replace(temporary, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    temporary.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def remove_temporaries(folder: str | os.PathLike, names: Iterable[str] | None = None, *, days: float = 0.0) -> None:
    """Removes the files that killed processes left half written in `folder`, by their exact form: those of files `names`, or of
    any; `days` old or more, where others may be writing there.
    """
    import time

    with contextlib.suppress(OSError):
        for file in Path(folder).iterdir():
            found = _TEMPORARY.fullmatch(file.name)
            if not found or (names is not None and found["name"] not in names) or file.is_dir():
                continue
            with contextlib.suppress(OSError):
                if time.time() - file.lstat().st_mtime >= days * 86400:
                    file.unlink()


def discard(folder: str | os.PathLike, names: Iterable[str]) -> None:
    """Removes the files `names` of a folder of ours, and with its mark the folder itself, unless it holds more than that."""
    folder = Path(folder)
    if folder.is_symlink() or not folder.is_dir():
        return
    remove_temporaries(folder)
    for name in names:
        with contextlib.suppress(OSError):
            (folder / name).unlink()
    with contextlib.suppress(OSError):
        if set(os.listdir(folder)) <= {MARK, LOCK}:
            for name in os.listdir(folder):
                (folder / name).unlink()
            folder.rmdir()


def _place_for(out: str | os.PathLike, inputs: Iterable[str | os.PathLike]) -> Path:
    """`out` as a path; ValueError where nothing can be made there, or where it is, or lies in, what is read."""
    out = Path(out)
    _check_way(out)
    _check_apart(out, inputs)
    return out


def _entries(folder: Path) -> list[str]:
    """What is in a folder, sorted; a mark that a killed process was writing is nothing."""
    found = ((name, _TEMPORARY.fullmatch(name)) for name in sorted(os.listdir(folder)))
    return [name for name, temporary in found if not temporary or temporary["name"] != MARK]


def _check_way(path: Path) -> None:
    """Raises ValueError where something on the way to `path` is no folder, so that it can't be made, or no name can be."""
    try:
        os.lstat(path)
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise ValueError(f"{str(path)[:200]} can't be written: {(error.strerror or '').lower()}") from None
    for ancestor in path.absolute().parents:
        try:
            if ancestor.is_dir():
                return
            if os.path.lexists(ancestor):
                raise ValueError(f"{path} can't be written: {ancestor} is {_what_stands_at(ancestor)}, and no folder")
        except OSError as error:
            if error.errno in (errno.EACCES, errno.ELOOP):
                raise ValueError(f"{path} can't be written: {in_words(error)}") from None
            raise


def _check_apart(out: Path, inputs: Iterable[str | os.PathLike]) -> None:
    """ValueError where `out` is one of the `inputs`, or lies in a folder that is one: through links, and for patterns."""
    place = os.path.realpath(out)
    for given in inputs:
        given = os.fspath(given)
        files = glob.glob(given, recursive=True) if not os.path.exists(given) and glob.has_magic(given) else [given]
        for file in files:
            real = os.path.realpath(file)
            with contextlib.suppress(OSError):  # one of them is not there
                if place == real or os.path.samefile(out, file):
                    raise ValueError(f"{out} is what is read ({given}): it would be lost; write to another place")
        real = os.path.realpath(given)
        if os.path.isdir(real) and place.startswith(real.rstrip(os.sep) + os.sep):
            raise ValueError(f"{out} lies in {given}, and would be taken for a part of it; write to another place")


def _what_stands_at(path: Path) -> str:
    if path.is_symlink() and not path.exists():
        return "a link to nothing"
    return "a folder" if path.is_dir() else "a file" if path.is_file() else "no file and no folder"
