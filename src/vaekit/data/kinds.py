"""What kind of file something is: a picture that Pillow decodes, told by suffix or content, or else a word on what it is."""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import warnings
from collections import Counter
from pathlib import Path

# Taken for pictures without a look at them.
USUAL = (
    ".png",
    ".jpg",
    ".jpeg",
    ".bmp",
    ".gif",
    ".webp",
    ".tif",
    ".tiff",
    ".jfif",
    ".jp2",
    ".pbm",
    ".pgm",
    ".pnm",
    ".ppm",
)
FIRST = ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF", "PPM")  # asked first whether a file is theirs
# EPS and WMF are drawn by other programs, which a file could make do anything; of the others Pillow has no decoder.
LEFT_TO_OTHERS = {"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"}
VAGUE = {"DIB", "GBR"}  # a few bytes that many files begin with: taken where the suffix says so, too
CODECS = {"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}  # that a Pillow may have been built without
HEAD = 512  # bytes that tell what a file is

_HEIC = "HEIC: `pip install pillow-heif` reads it"
_AVIF = "AVIF: `pip install -U pillow` reads it"
_JXL = "JPEG XL: `pip install pillow-jxl-plugin` reads it"
_RASTER = "not a raster"
_VIDEO = "a video"
_ARCHIVE = "an archive: unpack it"
_RAW = "a camera's raw data: save it as TIFF or PNG"
_ARRAY = "an array: give the file itself"
_WORDS = {
    ".heic .heif .hif": _HEIC,
    ".avif .avifs": _AVIF,
    ".jxl": _JXL,
    ".svg .svgz .eps .ps .pdf .ai .wmf .emf": _RASTER,
    ".mp4 .m4v .mov .avi .mkv .webm .mpg .mpeg .wmv .flv .3gp": _VIDEO,
    ".zip .tar .tgz .gz .bz2 .xz .7z .rar": _ARCHIVE,
    ".dng .nef .arw .cr2 .cr3 .crw .orf .rw2 .raf .srw .pef": _RAW,
    ".npy .npz .parquet": _ARRAY,
    ".dcm .nii": "a medical image: save it as PNG or .npy",
}
SUFFIX_WORDS = {suffix: words for suffixes, words in _WORDS.items() for suffix in suffixes.split()}
# Raw data begins as a TIFF does, and Pillow would take the thumbnail in it for the picture.
NEVER_LOOKED_AT = {suffix for suffix, words in SUFFIX_WORDS.items() if words is _RAW}


@functools.cache
def formats() -> tuple[str, ...]:
    """Pillow's names of the formats that are read, with those of pillow-heif and its like where they are installed."""
    from PIL import Image, features

    Image.init()
    for module, register in (("pillow_heif", "register_heif_opener"), ("pillow_avif", None), ("pillow_jxl", None)):
        with contextlib.suppress(ImportError):
            plugin = importlib.import_module(module)
            if register is not None:
                getattr(plugin, register)()
    known = [
        name
        for name in Image.ID
        if name in Image.OPEN
        and name not in LEFT_TO_OTHERS
        and (name not in CODECS or features.check(CODECS[name]) or Image.OPEN[name][0].__module__[:4] != "PIL.")
    ]
    return tuple(sorted(dict.fromkeys(known), key=lambda name: name not in FIRST))


@functools.cache
def _told_by_content() -> tuple[str, ...]:
    from PIL import Image

    return tuple(name for name in formats() if Image.OPEN[name][1] is not None and name not in VAGUE)


def is_picture(path: str) -> bool:
    """Whether the file is a picture that can be read: by its suffix where that is a usual one, else by its first bytes."""
    suffix = os.path.splitext(path)[1].lower()
    if suffix in USUAL:
        return True
    if suffix in NEVER_LOOKED_AT or not os.path.isfile(path):
        return False
    from PIL import Image

    named = Image.EXTENSION.get(suffix) if formats() else None
    asked = _told_by_content() if named not in formats() else (named, *_told_by_content())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            Image.open(path, formats=asked).close()
    except Image.DecompressionBombError:
        return True
    except Exception:  # whatever a decoder raises on other people's bytes: it is not for it
        return False
    return True


def words_for(name: str, head: bytes) -> str:
    """What a file is that isn't read as a picture, by its content, else by its suffix; "" where nothing can be said."""
    if not head:
        return "empty"
    if head[4:8] == b"ftyp":
        brands = head[8:32]
        if any(brand in brands for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")):
            return _AVIF if brands[:3] == b"avi" else _HEIC
        return _AVIF if brands[:3] == b"avi" else _VIDEO
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    starts = {
        b"%pdf": _RASTER,
        b"%!ps": _RASTER,
        b"\xc5\xd0\xd3\xc6": _RASTER,
        b"<svg": _RASTER,
        b"<!doctype svg": _RASTER,
        b"<!doctype html": "a web page",
        b"<html": "a web page",
        b"version https://git-lfs": "a pointer of Git LFS: `git lfs pull` fetches the file",
        b"pk\3\4": _ARCHIVE,
        b"\x1f\x8b": _ARCHIVE,
        b"\x93numpy": _ARRAY,
        b"\xff\x0a": _JXL,
        b"\0\0\0\x0cjxl": _JXL,
    }
    found = next((words for start, words in starts.items() if text.startswith(start) or head.startswith(start)), "")
    if not found and text.startswith(b"<?xml") and b"<svg" in text:
        found = _RASTER
    return found or SUFFIX_WORDS.get(os.path.splitext(name)[1].lower(), "")


def list_images(folder: Path) -> tuple[list[str], Counter[str]]:
    """The image files below `folder` by their paths in it (a/b.png), sorted, and of the other files how many there are of each
    kind (".txt", "hidden"). Links to folders are followed, each folder once.
    """
    names, passed, visited = [], Counter(), set()
    for base, folders, files in os.walk(folder, followlinks=True):
        visited.add(os.path.realpath(base))
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and name != "__MACOSX" and os.path.realpath(f"{base}/{name}") not in visited
        )
        below = Path(base).relative_to(folder).as_posix()
        for name in sorted(files):
            if name.startswith("."):
                passed["hidden"] += 1
            elif is_picture(f"{base}/{name}"):
                names.append(name if below == "." else f"{below}/{name}")
            else:
                passed[kind_of(f"{base}/{name}")] += 1
    return names, passed


def kind_of(path: str) -> str:
    """A file that isn't read as a picture, by its suffix and what can be said of it: ".svg (not a raster)"."""
    words, suffix = words_for(path, head_of(path)), os.path.splitext(path)[1].lower()[:20] or "without a suffix"
    return f"{suffix} ({words})" if words else suffix


def head_of(path: str) -> bytes:
    """The first bytes of a file; of what is no file, or can't be opened, one that says nothing."""
    if os.path.isfile(path):
        with contextlib.suppress(OSError), open(path, "rb") as file:
            return file.read(HEAD)
    return b"?"


def passed_over(kinds: Counter[str]) -> str:
    """ "3 .txt, 1 .svg (not a raster)": how many files of each kind there are, the most frequent first."""
    found = kinds.most_common(8)
    more = kinds.total() - sum(count for _, count in found)
    return ", ".join([f"{count} {kind}" for kind, count in found] + ([f"{more} others"] if more else []))
