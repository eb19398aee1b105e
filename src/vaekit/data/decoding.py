"""Image files as pixels of one size and one number of channels: what can be said of it, and `decode`, which does it."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vaekit.data.kinds import formats
from vaekit.data.pixels import COLOURS, LUMA, WHOLE
from vaekit.messages import check_number

if TYPE_CHECKING:
    from PIL import Image

FITS = ("crop", "pad")
MAX_PIXELS = 64_000_000  # per image; more is refused before it is decoded


class Decoding(NamedTuple):
    """How image files become pixels of one size and one number of channels.

    resize: side in pixels, or None to leave them. fit: "crop" (the shorter side is scaled to `resize`, and the centre cut) or
    "pad" (the longer side is, and the rest filled with the background). background: what shows through transparent pixels, a
    colour that Pillow knows ("white", "#ff8800"), or "keep": alpha becomes the fourth channel. colour: "grey", "rgb", "rgba",
    or None for the least that holds what all files hold. white: the value of white in integer pixels, or None to find it (see
    `find_white`); WHOLE is the largest value that a file's bits can hold, and of 8 bits none is larger than 255.
    """

    resize: int | None = None
    fit: str = "crop"
    background: str = "white"
    colour: str | None = None
    white: int | None = None


class ImageFiles(NamedTuple):
    """What image files were before they became an array.

    sizes: "640x480" (width first) -> how many; modes: Pillow's names, "RGB", "L", "RGBA", ... -> how many; unreadable: name and
    reason of each file that was left out; decoding: how the others were brought to one shape; skip_bad: whether files that
    can't be read may be left out; labels: the path of the table that has the labels.
    """

    sizes: dict[str, int]
    modes: dict[str, int]
    unreadable: tuple[str, ...]
    decoding: Decoding
    skip_bad: bool = False
    labels: str | None = None


class SizesDiffer(ValueError):
    """Image files of several sizes. found: which; side: what they could be brought to; first: a file of another size."""

    def __init__(self, found: str, first: str, side: int = 64):
        super().__init__(found, first, side)
        self.found, self.first, self.side = found, first, side

    def __str__(self) -> str:
        return f"{self.found}; bring them to one with --resize {self.side} (the first of another size is {self.first})"


def check_decoding(decoding: Decoding) -> None:
    """Raises ValueError for a fit, a background, a colour or a white that is not known, or a size too small."""
    from PIL import ImageColor

    if decoding.resize is not None and decoding.resize < 2:
        raise ValueError(f"resize must be at least 2 pixels, got {decoding.resize}")
    if decoding.fit not in FITS:
        raise ValueError(f"fit must be one of {', '.join(FITS)}, got {decoding.fit!r}")
    if decoding.colour is not None and decoding.colour not in COLOURS:
        raise ValueError(f"colour must be one of {', '.join(COLOURS)}, got {decoding.colour!r}")
    check_number("white", decoding.white, whole=True, above=0)
    if decoding.white is not None and decoding.white > WHOLE:
        raise ValueError(f"white must be at most {WHOLE}, the largest value of 16 bits, got {decoding.white}")
    if decoding.background == "keep":
        return
    try:
        ImageColor.getrgb(decoding.background)
    except ValueError:
        raise ValueError(
            f"background must be keep, or a colour such as white, black or #ff8800, got {decoding.background!r}"
        ) from None


class Seen(NamedTuple):
    """What `decode` saw of an image file beside its pixels.

    wide: the largest value of a file with more than 8 bits whose white isn't known by its format, else None. narrow: that of
    another where `white` is to be found. cut: whether values above white were cut to it. lost: whether colours were made grey.
    pages: whether there are more pictures in the file. deep: whether its colours have 16 bits, of which Pillow reads 8.
    """

    wide: int | None = None
    narrow: int = 255
    cut: bool = False
    lost: bool = False
    pages: bool = False
    deep: bool = False


def decode(source: str | Path | bytes, decoding: Decoding) -> tuple[np.ndarray, str, str, Seen]:
    """An image file, or its bytes -> pixels (H, W, C) uint8, its size as it came ("640x480"), its mode, and more of it.

    C is 1 for grey, 3 for colour, 4 for colour with alpha that is kept, or what `decoding` says. Rotation by EXIF is applied,
    grey of more than 8 bits scaled to 8, and of an animation the first picture taken. Raises whatever a decoder raises on
    hostile bytes.
    """
    from PIL import Image

    image, (pages, deep, known, lossless) = _opened(source)
    size, mode, seen = f"{image.width}x{image.height}", image.mode, Seen(pages=pages, deep=deep)
    white = decoding.white or WHOLE
    if image.mode == "F":
        raise ValueError("floating-point pixels, whose scale is not known; save such images as a .npy array")
    if image.mode.startswith("I"):  # I;16, or I where the format has no narrower name for 16 bits
        image, high = _to_8_bits(image, WHOLE if known else white)
        seen = seen._replace(wide=None if known else high, cut=not known and high > white)
    clear = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
    padded = decoding.resize is not None and decoding.fit == "pad" and image.width != image.height
    colours, ground, keep = _colours(image.mode, decoding, shown=clear or padded)
    if clear:
        image = image.convert({"RGBa": "RGBA", "La": "LA"}.get(image.mode, image.mode)).convert("RGBA")
    elif image.mode not in ("L", "RGB"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    if white < 255 and seen.wide is None and not known and mode != "1":
        image, cut = _stretched(image, white)
        seen = seen._replace(cut=cut)
    if clear and not keep:
        image = Image.alpha_composite(Image.new("RGBA", image.size, (*ground, 255)), image)
    if colours == "L" and image.mode != "L":
        grey = image.convert("L")
        seen = seen._replace(lost=decoding.colour is not None and _coloured(image))
        image, ground = grey, (round(float(np.dot(ground[:3], LUMA))),)
    whole = image if image.mode == colours else image.convert(colours)
    image = _resized(whole, decoding, ground)
    pixels = np.asarray(image)
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    if decoding.white is None and seen.wide is None and lossless:
        high = 0 if padded else int(pixels[..., :3].max())  # far faster than a look at all of a large image
        seen = seen._replace(narrow=high if high > 1 else _brightest(whole))
    return pixels, size, mode, seen


class _Kind(NamedTuple):
    """What a file's format says. pages, deep: as of `Seen`. known: whether white is known by the format. lossless: whether the
    pixels are those that were saved.
    """

    pages: bool
    deep: bool
    known: bool
    lossless: bool


def _opened(source: str | Path | bytes) -> tuple[Image.Image, _Kind]:
    """The first picture of a file, turned as its EXIF says, and what its format says of it."""
    from PIL import Image, ImageOps

    if not isinstance(source, bytes) and not os.path.isfile(source):
        raise ValueError("no file")  # a pipe would be waited for
    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=formats()) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width}x{image.height} pixels; at most {MAX_PIXELS // 10**6} megapixels are read")
        # The layers of a PSD are in its picture, and further pictures of an MPO are a camera's own.
        pages = image.format not in ("MPO", "PSD") and getattr(image, "is_animated", False)
        deep = image.mode in ("RGB", "RGBA", "LA") and any(";16" in str(tile[3]) for tile in image.tile)
        # Pillow has brought these to 16 bits by the largest value that the file says it could have.
        known = image.format == "JPEG2000" or (image.format == "PPM" and image.tile[0][0] != "raw")
        lossless = image.format not in ("JPEG", "MPO")  # others may be masks of 0 and 1
        image.load()
        image = ImageOps.exif_transpose(image)
    return image, _Kind(pages, deep, known, lossless)


def _colours(mode: str, decoding: Decoding, *, shown: bool) -> tuple[str, tuple[int, ...], bool]:
    """What an image of `mode` is made: "L", "RGB" or "RGBA"; the colour behind it, and whether its alpha is kept. shown:
    whether anything of the background is.
    """
    from PIL import ImageColor

    keep = (decoding.colour or {"keep": "rgba"}.get(decoding.background)) == "rgba"
    ground = (0, 0, 0, 0) if keep else ImageColor.getrgb(decoding.background.replace("keep", "white"))[:3]
    if decoding.colour is not None:
        colours = COLOURS[decoding.colour]
    elif shown and keep:
        colours = "RGBA"
    elif shown and len(set(ground)) > 1:
        colours = "RGB"
    else:
        colours = "L" if mode in ("1", "L", "LA", "La") else "RGB"
    return colours, ground, keep


def _resized(image: Image.Image, decoding: Decoding, ground: tuple[int, ...]) -> Image.Image:
    """The image at the size that `decoding` asks for. ground: the colour around a padded one, as its mode has colours."""
    from PIL import Image, ImageOps

    if decoding.resize is None:
        return image
    side = decoding.resize
    if decoding.fit == "crop":
        return ImageOps.fit(image, (side, side), Image.Resampling.LANCZOS)
    scale = side / max(image.size)
    inner = image.resize([max(1, round(scale * length)) for length in image.size], Image.Resampling.LANCZOS)
    image = Image.new(image.mode, (side, side), ground[0] if image.mode == "L" else tuple(ground))
    image.paste(inner, ((side - inner.width) // 2, (side - inner.height) // 2))
    return image


def _coloured(image: Image.Image) -> bool:
    """Whether an image RGB or RGBA has colours that aren't grey."""
    pixels = np.asarray(image)
    return bool((pixels[..., :1] != pixels[..., 1:3]).any())


def _to_8_bits(image: Image.Image, white: int) -> tuple[Image.Image, int]:
    """A grey image of more than 8 bits as one of 8, in which `white` is 255, and its largest value as it came."""
    from PIL import Image

    values = np.array(image, dtype=np.int32)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > WHOLE:
        raise ValueError(f"pixels from {low} to {high}; grey images have 8 or 16 bits")
    np.minimum(values, white, out=values)
    values *= 255  # in place, since this may be 64 million pixels
    values += white // 2
    values //= white
    return Image.fromarray(values.astype(np.uint8)), high


def _stretched(image: Image.Image, white: int) -> tuple[Image.Image, bool]:
    """An image L, RGB or RGBA in which `white` has become 255, alpha aside; and whether there were larger values."""
    bands = len(image.getbands())
    scale = [min(255, (value * 255 + white // 2) // white) for value in range(256)]
    table = scale * min(3, bands) + list(range(256)) * (bands == 4)
    return image.point(table), _brightest(image) > white


def _brightest(image: Image.Image) -> int:
    """The largest value of an image L, RGB or RGBA, alpha aside."""
    return int(np.max([image.getchannel(band).getextrema() for band in image.getbands()[:3]]))
