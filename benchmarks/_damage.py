"""Ways to damage files: at random, and by formats. Each makes bytes of intact bytes and a random generator."""

import copy
import functools
import gzip
import io
import json
import math
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as format_safetensors

from vaekit.training.checkpoint import digest

EXTREMES = (
    0,
    1,
    2,
    127,
    128,
    255,
    2**15 - 1,
    2**15,
    2**16 - 1,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
    2**63,
    2**64 - 1,
)


# Formats


def exif() -> Image.Exif:
    data = Image.Exif()
    data[0x0112] = 6  # orientation: a quarter of a turn
    return data


def npy_of(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npz_of(arrays: dict[str, np.ndarray], *, packed: bool) -> bytes:
    return zip_of({f"{name}.npy": npy_of(array) for name, array in arrays.items()}, packed=packed)


def zip_of(members: dict[str, bytes], *, packed: bool = True) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def idx_of(array: np.ndarray) -> bytes:
    code = {"u1": 0x08, "f4": 0x0D}[array.dtype.str[1:]]
    return struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape) + array.tobytes()


def safetensors_of(tensors: dict[str, torch.Tensor], state) -> bytes:
    """As `write_tensors` writes them, with the checksum that is right for them."""
    plain = {name: tensor.contiguous() for name, tensor in tensors.items()}
    metadata = {"state": json.dumps(state)}
    return format_safetensors(plain, {**metadata, "sha256": digest(plain, metadata)})


# Damage that knows nothing of formats


def spoilt(
    data: bytes, rng: np.random.Generator, crafted: dict[str, Callable], only: bool = False
) -> tuple[str, bytes]:
    """`data` damaged at random, or by one of the ways in `crafted` (always, with `only`), and in words how."""
    if only or (crafted and rng.random() < 0.5):
        name = str(rng.choice(list(crafted)))
        return name, crafted[name](data, rng)
    names = [str(rng.choice(list(DAMAGE))) for _ in range(rng.integers(1, 4))]
    for name in names:
        data = DAMAGE[name](data, rng) if len(data) > 1 else data
    return ", ".join(names), data


def _some(data: bytes, rng: np.random.Generator) -> tuple[int, int]:
    """Where a piece of the data begins and ends; often it is near the beginning, where headers are."""
    start = int(rng.integers(min(len(data), 64) if rng.random() < 0.4 else len(data)))
    return start, min(len(data), start + int(2 ** rng.uniform(0, 8)))


def _flip(data, rng):
    changed = bytearray(data)
    for _ in range(int(2 ** rng.uniform(0, 5))):
        changed[_some(data, rng)[0]] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _fill(data, rng):
    start, end = _some(data, rng)
    kind = rng.integers(3)
    filling = rng.bytes(end - start) if kind == 2 else bytes([255 * int(kind)]) * (end - start)
    return data[:start] + filling + data[end:]


def _cut(data, rng):
    return data[: int(rng.integers(len(data)))]


def _remove(data, rng):
    start, end = _some(data, rng)
    return data[:start] + data[end:]


def _insert(data, rng):
    start, end = _some(data, rng)
    return data[:start] + rng.bytes(end - start) + data[start:]


def _double(data, rng):
    start, end = _some(data, rng)
    return data[:end] + data[start:end] * int(rng.integers(1, 50)) + data[end:]


def _swap(data, rng):
    (a, b), (c, d) = sorted((_some(data, rng), _some(data, rng)))
    b = min(b, c)
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def _extreme(data, rng):
    """A number of 1, 2, 4 or 8 bytes set to one that few expect."""
    return _set(data, _some(data, rng)[0], int(rng.choice([1, 2, 4, 8])), rng)


def _set(data: bytes, start: int, size: int, rng: np.random.Generator) -> bytes:
    number = EXTREMES[rng.integers(len(EXTREMES))] % 256**size
    return data[:start] + number.to_bytes(size, "big" if rng.random() < 0.5 else "little") + data[start + size :]


DAMAGE = {
    "bits flipped": _flip,
    "bytes overwritten": _fill,
    "cut short": _cut,
    "bytes removed": _remove,
    "bytes inserted": _insert,
    "bytes repeated": _double,
    "pieces swapped": _swap,
    "a number set to an extreme": _extreme,
    "empty": lambda data, rng: b"",
    "noise": lambda data, rng: rng.bytes(len(data)),
}


def fields(places: dict[str, tuple[int, int]]) -> dict[str, Callable]:
    """Ways to set the numbers at known places (offset, bytes) to extremes."""
    return {name: lambda data, rng, at=at: _set(data, at[0], at[1], rng) for name, at in places.items()}


# Damage by format: pictures


def png_parts(data: bytes) -> list[tuple[bytes, bytes]]:
    parts, at = [], 8
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        parts.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += size + 12
    return parts


def png_of(parts: list[tuple[bytes, bytes]]) -> bytes:
    """A PNG with the right checksums."""
    body = b"".join(
        len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big") for name, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + body


def png_sized(data: bytes, width: int, height: int) -> bytes:
    (name, head), *rest = png_parts(data)
    return png_of([(name, struct.pack(">II", width, height) + head[8:]), *rest])


def deflated(head: bytes, megabytes: int) -> bytes:
    """`head` and so many MB of zeros as a raw deflate stream: one MB is compressed, and repeated."""

    def piece(data: bytes) -> bytes:
        packer = zlib.compressobj(9, wbits=-15)
        return packer.compress(data) + packer.flush(zlib.Z_FULL_FLUSH)

    return piece(head) + piece(bytes(2**20)) * megabytes + b"\3\0"


def zeros(megabytes: int) -> bytes:
    """So many MB of zeros, compressed, with the right checksum."""
    return b"\x78\xda" + deflated(b"", megabytes) + struct.pack(">HH", megabytes * 2**20 % 65521, 1)


def _png_head(data, rng):
    (name, head), *rest = png_parts(data)
    at = int(rng.integers(8, 13))
    return png_of([(name, head[:at] + rng.bytes(1) + head[at + 1 :]), *rest])


def _png_part(data, rng):
    parts = png_parts(data)
    i = int(rng.integers(len(parts) - 1))
    parts[i] = parts[i][0], spoilt(parts[i][1], rng, {})[1]
    return png_of(parts)


def _png_order(data, rng):
    parts = png_parts(data)
    return png_of([parts[i] for i in rng.integers(len(parts), size=rng.integers(1, 8))])


def _png_with(name: bytes, make: Callable):
    def forged(data, rng):
        parts = [part for part in png_parts(data) if part[0] != name]
        return png_of([parts[0], (name, make(rng)), *parts[1:]])

    return forged


def _side(rng) -> int:
    return int(rng.choice([0, 1, 7, 9_000, 65_535, 100_000, 2**31 - 1]))


PNG = {
    "size in IHDR": lambda data, rng: png_sized(data, _side(rng), _side(rng)),
    "100,000 x 100,000 pixels": lambda data, rng: png_sized(data, 100_000, 100_000),
    "IHDR": _png_head,
    "a chunk, its checksum right": _png_part,
    "chunks drawn at random": _png_order,
    "zTXt that is a bomb": _png_with(b"zTXt", lambda rng: b"Title\0\0" + zeros(64)),
    "iCCP that is a bomb": _png_with(b"iCCP", lambda rng: b"name\0\0" + zeros(64)),
    "IDAT that is a bomb": _png_with(b"IDAT", lambda rng: zeros(64)),
    "PLTE": _png_with(b"PLTE", lambda rng: rng.bytes(int(rng.integers(800)))),
    "tRNS": _png_with(b"tRNS", lambda rng: rng.bytes(int(rng.integers(300)))),
    "eXIf": _png_with(b"eXIf", lambda rng: spoilt(exif().tobytes(), rng, {})[1]),
}


def jpeg_parts(data: bytes) -> list[bytes]:
    """The segments up to the scan, and the rest."""
    parts, at = [], 2
    while data[at + 1] != 0xDA:
        size = 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        parts.append(data[at : at + size])
        at += size
    return [*parts, data[at:]]


def _jpeg_size(data, rng):
    return b"\xff\xd8" + b"".join(
        part[:5] + struct.pack(">HH", _side(rng) % 65536, _side(rng) % 65536) + part[9:]
        if part[1] in (0xC0, 0xC2)
        else part
        for part in jpeg_parts(data)
    )


def _jpeg_order(data, rng):
    parts = jpeg_parts(data)
    return b"\xff\xd8" + b"".join(parts[i] for i in rng.integers(len(parts), size=rng.integers(1, 12)))


def _jpeg_length(data, rng):
    parts = jpeg_parts(data)
    i = int(rng.integers(len(parts)))
    parts[i] = _set(parts[i], 2, 2, rng)
    return b"\xff\xd8" + b"".join(parts)


def _jpeg_part(data, rng):
    parts = jpeg_parts(data)
    i = int(rng.integers(len(parts)))
    parts[i] = parts[i][:4] + spoilt(parts[i][4:], rng, {})[1]
    return b"\xff\xd8" + b"".join(parts)


def _tiff_entry(data, rng):
    """The type, the count or the value of an entry of the directory, set to an extreme."""
    start = int.from_bytes(data[4:8], "little")
    entry = start + 2 + 12 * int(rng.integers(int.from_bytes(data[start : start + 2], "little")))
    offset, size = ((2, 2), (4, 4), (8, 4))[rng.integers(3)]
    return _set(data, entry + offset, size, rng)


def _tiff_value(tag: int):
    def forged(data, rng):
        start = int.from_bytes(data[4:8], "little")
        for entry in range(start + 2, start + 2 + 12 * int.from_bytes(data[start : start + 2], "little"), 12):
            if int.from_bytes(data[entry : entry + 2], "little") == tag:
                forged = struct.pack("<HII", 4, 1, int(rng.choice([0, 1, 100_000, 2**31 - 1, 2**32 - 1])))
                data = data[: entry + 2] + forged + data[entry + 12 :]
        return data

    return forged


def _tiff_loop(data, rng):
    """A directory that is its own successor."""
    start = int.from_bytes(data[4:8], "little")
    end = start + 2 + 12 * int.from_bytes(data[start : start + 2], "little")
    return data[:end] + start.to_bytes(4, "little") + data[end + 4 :]


FORMATS = {
    "png": PNG,
    "jpeg": {
        "size": _jpeg_size,
        "segments drawn at random": _jpeg_order,
        "length of a segment": _jpeg_length,
        "a segment": _jpeg_part,
    },
    "gif": fields(
        {"width": (6, 2), "height": (8, 2), "flags": (10, 1), "background": (11, 1), "after the palette": (109, 2)}
    ),
    "bmp": fields(
        {
            "size of the file": (2, 4),
            "offset": (10, 4),
            "size of the header": (14, 4),
            "width": (18, 4),
            "height": (22, 4),
            "planes": (26, 2),
            "bits": (28, 2),
            "compression": (30, 4),
            "size of the pixels": (34, 4),
            "colours": (46, 4),
        }
    ),
    "tiff": {
        "an entry": _tiff_entry,
        "width": _tiff_value(256),
        "height": _tiff_value(257),
        "strips": _tiff_value(273),
        "rows per strip": _tiff_value(278),
        "bytes of a strip": _tiff_value(279),
        "samples": _tiff_value(277),
        "compression": _tiff_value(259),
        "a loop of directories": _tiff_loop,
    },
    "webp": fields({"length": (4, 4), "length of a chunk": (16, 4), "size": (24, 4), "frame": (20, 4)}),
    "ppm": {
        "a huge size": lambda data, rng: data.replace(b"16 16", b"%d %d" % (_side(rng), _side(rng)), 1),
        "another white": lambda data, rng: re.sub(
            rb"\n(255|65535)\n", b"\n%d\n" % rng.integers(0, 99999), data, count=1
        ),
        "a comment": lambda data, rng: data.replace(b"\n", b"\n#" + b"x" * int(rng.integers(9)) + b"\n", 1),
    },
}

# Damage by format: arrays

SHAPES = (
    *("(24, 8, 8)", "()", "(0,)", "(0, 8, 8)", "(24, 0, 8)", "(10**12,)", "(1000000000000,)", "(1000000, 1000, 1000)"),
    *(
        "(-1,)",
        "(-24, 8, 8)",
        "(24, -8, -8)",
        "(2**63, 8, 8)",
        f"({2**63},)",
        f"({2**64}, 1)",
        "(24.0, 8, 8)",
        "(True, 8, 8)",
    ),
    *("((24, 8), 8)", "[24, 8, 8]", "24", "None", "'24'", "(24, 8, 8" + ", 1" * 40 + ")", "(" * 150 + ")" * 150),
    *("(4294967296, 4294967296)", "(1, 1, 1, 1, 1)", "(1536,)", "(1536, 1)", "(1, 1536)", "(24, 8, 8, 1)", "(24, 64)"),
)
TYPES = (
    *("'|u1'", "'<f4'", "'<f8'", "'>i8'", "'<c16'", "'|O'", "'|b1'", "'|S5'", "'<U3'", "'<M8[s]'", "'<m8[D]'", "'|V7'"),
    *(
        "'<U0'",
        "'|S0'",
        "'|V0'",
        "'|S2147483647'",
        "[('a', '<f4'), ('b', '|O')]",
        "[('a', '<f4', (1000000,))]",
        "'x'",
        "3",
    ),
    *("None", "''", "'<f16'", "'<f3'", "[]", "[('', '|u1')]", "[('a', [('b', [('c', '|u1')])])]", "('|u1', (3,))"),
    *("{'names': ['a'], 'formats': ['<f4'], 'offsets': [2147483647]}", "'\\ud800'", "'\\x00'"),
)
HEADERS = (
    b"",
    b"{}",
    b"\n",
    b"[1, 2]",
    b"{'descr': '|u1'}",
    b"__import__('os').system('true')",
    b"{'descr': '|u1', 'fortran_order': False, 'shape': (24, 8, 8), 'more': 1}",
    b"{'descr': '|u1', 'fortran_order': 3, 'shape': (24, 8, 8)}",
    b"{'descr': '|u1', 'fortran_order': False, 'shape': (24L, 8L, 8L)}",
    b"{" * 5000,
    b"-" * 9000 + b"1",
    b"{'descr': '|u1', 'fortran_order': False, 'shape': " + b"(" * 3000 + b")" * 3000 + b"}",
    b"\xff\xfe\x00",
    b"{'descr': '|u1', 'fortran_order': False, 'shape': (24, 8, 8)}\0",
    b"{'descr': '|u1', 'fortran_order': False, 'shape': (24, 8, 8)" + b" " * 20_000 + b"}",
    b"'''",
    b"(1,)*10**9",
    b"9" * 5000,
)


def npy_with(header: bytes, body: bytes, version: tuple[int, int] = (1, 0)) -> bytes:
    length = struct.pack("<H" if version[0] == 1 else "<I", len(header) % (2**16 if version[0] == 1 else 2**32))
    return b"\x93NUMPY" + bytes(version) + length + header + body


def _npy_header(data, rng):
    shape, kind = (str(rng.choice(found)) for found in (SHAPES, TYPES))
    if rng.random() < 0.6:  # only one of them is odd
        shape, kind = (shape, "'|u1'") if rng.random() < 0.5 else ("(24, 8, 8)", kind)
    header = f"{{'descr': {kind}, 'fortran_order': {rng.random() < 0.3}, 'shape': {shape}}}"
    return npy_with(header.encode() + b"\n", rng.bytes(int(rng.choice([0, 7, 1536, 12288]))))


def _npy_text(data, rng):
    version = ((1, 0), (2, 0), (3, 0), (9, 9), (0, 0))[rng.choice(5, p=[0.5, 0.2, 0.2, 0.05, 0.05])]
    return npy_with(HEADERS[rng.integers(len(HEADERS))], rng.bytes(1536), version)


NPY = {
    "header": _npy_header,
    "text of the header": _npy_text,
    **fields({"version": (6, 2), "length of the header": (8, 2)}),
}


def odd_array(rng: np.random.Generator) -> bytes:
    """A .npy file of some kind that is no array of pixels."""
    arrays = (
        np.zeros(24, "V3"),
        np.zeros((24, 8, 8), complex),
        np.full(24, np.nan),
        np.full((24, 8, 8), np.inf),
        np.full((24, 8, 8), 300),
        np.full((24, 8, 8), -1.5),
        np.full((24, 8, 8), 1e300),
        np.full((24, 3), 1e300),
        np.full((24, 3), 1e-320),
        np.zeros((24, 8, 8), "M8[s]"),
        np.array(["", "\0", "x" * 9999] * 8),
        np.array([b"\xff", b"\xfe"] * 12),
        np.array([f"{'a/../' * i}b" for i in range(24)]),
        np.array(["\ud800"] * 24) if rng.random() < 0.5 else np.array(["[red]x[/]"] * 24),
        np.zeros(24, [("a", "<f4"), ("b", "<i2")]),
        np.arange(24) * 2**58,
        np.arange(24, dtype=np.uint64) + np.uint64(2**63),
        np.linspace(0, 1, 24),
        np.full(24, 1e300),
        np.array(5),
        np.zeros((0,)),
        np.zeros((24, 0)),
        np.zeros((1, 2, 2), np.uint8),
        np.zeros((24, 8, 8, 5), np.uint8),
        np.zeros((24, 1, 1), np.uint8),
        np.zeros((24, 2**17), np.float16),
        np.full((24, 8, 8), 2.0, np.longdouble),
        np.zeros((2, 3, 4, 5, 6)),
    )
    return npy_of(arrays[rng.integers(len(arrays))])


def _zip_field(data, rng):
    """A number in the records of a zip file, set to an extreme."""
    found = [
        (match.start() + at, size)
        for mark, places in (
            (b"PK\3\4", ((4, 2), (6, 2), (8, 2), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2))),
            (b"PK\1\2", ((6, 2), (8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (32, 2), (42, 4))),
            (b"PK\5\6", ((4, 2), (8, 2), (10, 2), (12, 4), (16, 4), (20, 2))),
        )
        for match in re.finditer(re.escape(mark), data)
        for at, size in places
    ]
    for _ in range(rng.integers(1, 3)):
        at, size = found[rng.integers(len(found))]
        data = _set(data, at, size, rng)
    return data


def members_of(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _zip_member(data, rng):
    members = members_of(data)
    name = str(rng.choice(list(members)))
    return zip_of({**members, name: spoilt(members[name], rng, NPY)[1]}, packed=bool(rng.integers(2)))


def _zip_array(data, rng):
    members = members_of(data)
    return zip_of({**members, str(rng.choice(list(members))): odd_array(rng)})


def _zip_names(data, rng):
    odd = ("x", "y", "../x.npy", "/x.npy", "x.npy.npy", ".npy", "\xff.npy", "x" * 9999)
    return zip_of({str(rng.choice(odd)) if rng.random() < 0.5 else name: d for name, d in members_of(data).items()})


def _zip_twice(data, rng):
    members, file = members_of(data), io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w") as archive:
        warnings.simplefilter("ignore")
        for name in (*members, *members):
            archive.writestr(name, spoilt(members[name], rng, {})[1] if rng.random() < 0.5 else members[name])
    return file.getvalue()


def _zip_method(data, rng):
    """Compressed in a way that numpy does not write."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", int(rng.choice([zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]))) as archive:
        for name, member in members_of(data).items():
            archive.writestr(name, member)
    return spoilt(file.getvalue(), rng, {})[1] if rng.random() < 0.5 else file.getvalue()


def zip_bomb(name: str, megabytes: int, honest: bool) -> bytes:
    """An archive whose array is `megabytes` of zeros; its header says so, or that there are 24 pictures. Its checksum is
    wrong, which shows at the end of it only.
    """
    shape, file = (megabytes, 1024, 1024) if honest else (24, 8, 8), f"{name}.npy".encode()
    head = npy_with(f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}\n".encode(), b"")
    data = deflated(head, megabytes)
    facts = struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 0, 0, len(data), len(head) + megabytes * 2**20, len(file), 0)
    local = b"PK\3\4" + facts + file + data
    directory = b"PK\1\2" + struct.pack("<H", 20) + facts + struct.pack("<HHHII", 0, 0, 0, 0, 0) + file
    return local + directory + b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(directory), len(local), 0)


ZIP = {
    "a number of the archive": _zip_field,
    "an array in it": _zip_member,
    "an odd array": _zip_array,
    "names": _zip_names,
    "every array twice": _zip_twice,
    "another compression": _zip_method,
    "a bomb, as its header says": lambda data, rng: zip_bomb("x", 4000, True),
    "a bomb": lambda data, rng: zip_bomb("x", 4000, False),
    "a bomb of labels": lambda data, rng: zip_bomb("y", 4000, True),
}
IDX = {
    **fields({"type": (2, 1), "axes": (3, 1), "first axis": (4, 4), "second axis": (8, 4), "third axis": (12, 4)}),
    "a table of one row": lambda data, rng: struct.pack(">HBBII", 0, 8, 2, 1, len(data)) + data,
    "one axis": lambda data, rng: struct.pack(">HBBI", 0, 8, 1, len(data)) + data,
}


def gzip_bomb(megabytes: int) -> bytes:
    """A gzipped idx file of so many MB of zeros, as its header says; its checksum, at its end, is wrong."""
    head = struct.pack(">HBBIII", 0, 8, 3, megabytes, 1024, 1024)
    return b"\x1f\x8b\x08\0\0\0\0\0\2\xff" + deflated(head, megabytes) + bytes(8)


IDX_GZ = {
    "what is packed": lambda data, rng: gzip.compress(spoilt(gzip.decompress(data), rng, IDX)[1]),
    "several streams": lambda data, rng: data + spoilt(data, rng, {})[1],
    "a bomb": lambda data, rng: gzip.compress(gzip.decompress(data)[:16]) + gzip_bomb(64),
    "a bomb, as its header says": lambda data, rng: gzip_bomb(4000),
}

# Damage by format: text

ODD = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        1.5,
        10**9,
        10**30,
        -(10**18),
        1e308,
        1e-308,
        math.nan,
        math.inf,
        -math.inf,
        2**63,
        2**31,
    ),
    *("", "x", "VAE", "../../etc/passwd", "os.system", "\0", "\ud800", "x" * 10_000, "cpu", "[red]", "a\nb"),
    *([], [1], [[1], [2, 3]], [None] * 1000, {}, {"a": 1}, {"": {"": []}}, [math.nan], list(range(10_000))),
)


def _odd(rng: np.random.Generator):
    return copy.deepcopy(ODD[rng.integers(len(ODD))])  # which may be put into others


def _places(value, at=()) -> list[tuple]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at] + [place for key, part in inner for place in _places(part, (*at, key))]


def odd_json(value, rng: np.random.Generator):
    """JSON with one to three of its entries replaced, removed, moved or added to."""
    holder = [json.loads(json.dumps(value))]
    for _ in range(rng.integers(1, 4)):
        places = _places(holder[0])
        *way, last = (0, *places[rng.integers(len(places))])
        part = functools.reduce(lambda part, key: part[key], way, holder)
        action = rng.integers(6)
        if action == 0 and way:
            del part[last]
        elif action == 1 and isinstance(part[last], dict):
            part[last][str(rng.choice(["x", "", "__class__", "format", "epoch"]))] = _odd(rng)
        elif action == 2:
            at = places[rng.integers(len(places))]
            part[last] = json.loads(json.dumps(functools.reduce(lambda part, key: part[key], (0, *at), holder)))
        elif action == 3 and isinstance(part[last], (int, float)):
            part[last] = part[last] * int(rng.choice([-1, 0, 2, 10**6, 10**15])) + float(rng.choice([0, 0.5]))
        else:
            part[last] = _odd(rng)
    return holder[0]


def _deep(data, rng):
    kind = rng.integers(3)
    if kind == 0:
        return b"[" * 200_000 + b"]" * 200_000
    if kind == 1:
        return b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    return data.replace(b": ", b": " + b"[" * 2000 + b"]" * 2000 + b', "x": ', 1)


def _twice(data, rng):
    """A key a second time, with another value."""
    value = json.loads(data)
    if not isinstance(value, dict):
        return data
    key = str(rng.choice(list(value)))
    return data.rstrip()[:-1] + f", {json.dumps(key)}: {json.dumps(_odd(rng))}}}".encode()


JSON = {
    "entries": lambda data, rng: json.dumps(odd_json(json.loads(data), rng)).encode(),
    "other entries": lambda data, rng: json.dumps(odd_json(json.loads(data), rng), indent=1).encode(),
    "nested deeply": _deep,
    "a key twice": _twice,
    "another value": lambda data, rng: json.dumps(_odd(rng)).encode(),
    "a long number": lambda data, rng: re.sub(rb"\d+", b"9" * int(rng.choice([400, 5000, 100_000])), data, count=1),
    "UTF-16": lambda data, rng: data.decode().encode("utf-16"),
    "a mark of bytes": lambda data, rng: b"\xef\xbb\xbf" + data,
}


def _lines(data, rng):
    """A log with some of its records odd."""
    records = [json.loads(line) for line in data.splitlines()] or [{"step": 1}]
    records = [odd_json(record, rng) if rng.random() < 0.7 else record for record in records * int(rng.integers(1, 4))]
    return "".join(json.dumps(record) + "\n" for record in records).encode()


LOG = {"records": _lines, "nested deeply": _deep, "a huge line": lambda data, rng: b'{"step": 1, "a": "' + b"x" * 2**22}


def _cells(make: Callable):
    def forged(data, rng):
        rows = [row.split(b",") for row in data.replace(b";", b",").splitlines()]
        row = rows[rng.integers(len(rows))]
        row[rng.integers(len(row))] = make(rng)
        return b"\n".join(b",".join(row) for row in rows)

    return forged


CSV: dict[str, Callable] = {
    "a cell": _cells(lambda rng: rng.bytes(int(rng.integers(9)))),
    "NULs": _cells(lambda rng: b"\0" * 9),
    "a quote": _cells(lambda rng: b'"' + b"x" * int(rng.choice([0, 9, 10**6]))),
    "an image twice": _cells(lambda rng: b"3.png"),
    "latin-1": _cells(lambda rng: "pâté".encode("latin-1")),
    "a long name": _cells(lambda rng: b"x" * 10**6),
    "markup": _cells(lambda rng: b"[red]\x1b[31m"),
    "one column": lambda data, rng: b"\n".join(re.split(rb"[,;]", row)[0] for row in data.splitlines()),
    "a million columns": lambda data, rng: data + b"," * 10**6,
    "a head of a million columns": lambda data, rng: b"file_name,label" + b"," * 10**6 + b"\n" + data,
    "a million rows": lambda data, rng: data + b"\n1.png,bee" * 10**5,
    "blank": lambda data, rng: b"\n \n,,\n" * int(rng.integers(1, 100)),
    "a mark of bytes": lambda data, rng: b"\xef\xbb\xbf" * int(rng.integers(1, 4)) + data,
    "UTF-16": lambda data, rng: data.decode().encode("utf-16"),
    "old line ends": lambda data, rng: data.replace(b"\n", b"\r"),
    "tabs": lambda data, rng: re.sub(rb"[,;]", b"\t", data),
    "no picture": lambda data, rng: re.sub(rb"\d", b"z", data),
}


def _st_split(data: bytes) -> tuple[dict, bytes]:
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def _st_join(header: bytes, body: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + body


def _st_header(data, rng):
    header, body = _st_split(data)
    return _st_join(spoilt(json.dumps(header).encode(), rng, JSON)[1], body)


def _st_offsets(data, rng):
    header, body = _st_split(data)
    entry = header[str(rng.choice([name for name in header if name != "__metadata__"]))]
    key = str(rng.choice(["shape", "data_offsets", "dtype"]))
    odd = [EXTREMES[i] for i in rng.integers(len(EXTREMES), size=rng.integers(0, 4))]
    entry[key] = str(rng.choice(["F64", "I8", "BOOL", "F8_E5M2", "F4", "C64", "x"])) if key == "dtype" else odd
    return _st_join(json.dumps(header).encode(), body)


def _st_tensors(data, rng):
    """Another tensor, its checksum right."""
    tensors, state = parse_safetensors(data), json.loads(_st_split(data)[0]["__metadata__"]["state"])
    name = str(rng.choice(sorted(tensors)))
    tensor = tensors[name]
    kind = rng.integers(8)
    if kind == 0:
        del tensors[name]
    elif kind == 1:
        types = (
            torch.float64,
            torch.float16,
            torch.bfloat16,
            torch.int64,
            torch.uint8,
            torch.bool,
            torch.float8_e4m3fn,
        )
        tensors[name] = tensor.to(types[rng.integers(len(types))])
    elif kind == 2:
        tensors[name] = (tensor.flatten(), tensor[None], tensor[:0] if tensor.ndim else tensor[None])[rng.integers(3)]
    elif kind == 3:
        tensors[str(rng.choice(["../x", "", "prior.x", "x" * 9999]))] = torch.zeros(3)
    elif kind == 4 and tensor.is_floating_point():
        tensors[name] = tensor * float(rng.choice([0, -1, 1e3, 1e10, 1e30, 1e38]))
    elif tensor.numel() and tensor.is_floating_point():
        changed = tensor.clone().view(-1)
        changed[int(rng.integers(len(changed)))] = float(rng.choice([math.nan, math.inf, -math.inf, 3e38, -3e38, 1e20]))
        tensors[name] = changed.view(tensor.shape)
    else:
        tensors[name] = tensor + int(rng.choice([-1, 1, 10**6]))
    return safetensors_of(tensors, state)


def _st_state(data, rng):
    """Another state, its checksum right."""
    tensors, state = parse_safetensors(data), json.loads(_st_split(data)[0]["__metadata__"]["state"])
    return safetensors_of(tensors, odd_json(state, rng))


SAFETENSORS = {
    "header": _st_header,
    "place of a tensor": _st_offsets,
    "tensors, checksum right": _st_tensors,
    "state, checksum right": _st_state,
    **fields({"length of the header": (0, 8)}),
}

TABLE = {
    **{
        name: way
        for name, way in CSV.items()
        if name not in ("an image twice", "no picture", "a head of a million columns")
    },
    "a word": _cells(lambda rng: b"ant"),
    "nothing": _cells(lambda rng: rng.choice([b"", b"NA", b"nan", b"NULL"])),
    "a huge number": _cells(lambda rng: rng.choice([b"1e308", b"-1e308", b"1e400", b"9" * 400, b"0x1p1023", b"inf"])),
    "a date": _cells(lambda rng: b"2024-02-30"),
    "a column twice": lambda data, rng: re.sub(rb"size 1", b"size 0", data),
    "constants": lambda data, rng: re.sub(rb"-?\d\.\d+", b"0.1", data),
}
