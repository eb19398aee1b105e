"""As `pictures`, on letters: digits, capitals and hiragana of the fonts that are installed, grey, of 32x32, a class a letter.

Fonts that have all of an alphabet's letters, at most 300 of them, evenly spaced in the order of their paths; each letter as
large as fits, so that its place and size say nothing, and of equal pictures one. A tenth is measured, of the same fonts. `as
asked` is what this is about: at least 95 % of the samples are to be judged the letter that was asked for. `glyphs.txt` names
Debian's packages of fonts that were installed for the record.
"""

import argparse
from pathlib import Path

from fontTools.ttLib import TTCollection, TTFont
from PIL import Image, ImageDraw, ImageFont, ImageOps

from benchmarks.harness import OUT, progress
from benchmarks.pictures import measure
from vaekit.data import Images, open_data
from vaekit.data.splits import evenly

FONTS = "/usr/share/fonts"
ALPHABETS = (
    "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "あいうえおかきくけこさしすせそたちつてとなにぬねのはひふへほまみむめもやゆよらりるれろわをん",
)
MOST = 300
SIDE, MARGIN = 32, 2


def run(argv):
    parser = argparse.ArgumentParser(prog="python -m benchmarks glyphs")
    parser.add_argument("--fonts", default=FONTS, help="a folder of fonts")
    parser.add_argument("--seeds", type=int, default=1)
    asked = parser.parse_args(argv)
    return measure("glyphs", *open_glyphs(asked.fonts), seeds=asked.seeds)


def open_glyphs(fonts: str) -> tuple[Images, Images]:
    """The letters to train on, and those held out."""
    folder = OUT / "glyphs" / "data"
    if not folder.exists():
        whole = folder.with_name("data.tmp")
        draw_all(Path(fonts), whole)
        whole.rename(folder)
    train, test = (open_data(str(folder), split) for split in ("train", "test"))
    return train, test


def draw_all(fonts: Path, folder: Path) -> None:
    """A picture of each letter by each font that has its alphabet, in a folder for the letter."""
    files = sorted(file for file in fonts.rglob("*") if file.suffix in (".ttf", ".otf", ".ttc"))
    if not files:
        raise ValueError(f"--fonts {fonts} holds no .ttf, .otf or .ttc: install some fonts, or say where they are")
    known, drawn = {file: letters_of(file) for file in files}, set()
    for alphabet in ALPHABETS:
        having = [file for file in files if known[file] >= set(map(ord, alphabet))]
        progress(f"{len(having)} fonts have {alphabet[:5]}...")
        for place in evenly(len(having), MOST):
            font = ImageFont.truetype(str(having[place]), 64)
            for letter in alphabet:
                picture = draw(letter, font)
                if picture is not None and (letter, picture.tobytes()) not in drawn:
                    drawn.add((letter, picture.tobytes()))
                    file = folder / letter / f"{place:04d}-{having[place].stem}.png"
                    file.parent.mkdir(parents=True, exist_ok=True)
                    picture.save(file)


def letters_of(file: Path) -> set[int]:
    """The characters that the first font of a file has."""
    with TTCollection(str(file)) if file.suffix == ".ttc" else TTFont(str(file)) as font:
        return set((font.fonts[0] if isinstance(font, TTCollection) else font).getBestCmap() or ())


def draw(letter: str, font: ImageFont.FreeTypeFont) -> Image.Image | None:
    """A letter, white on black, in the middle, as large as fits; None where the font has none that can be seen."""
    picture = Image.new("L", (192, 192))
    try:
        ImageDraw.Draw(picture).text((64, 48), letter, font=font, fill=255)
    except OSError:  # some fonts' programs are wrong
        return None
    if (box := picture.getbbox()) is None:
        return None
    inside = SIDE - 2 * MARGIN
    letter_alone = ImageOps.contain(picture.crop(box), (inside, inside), Image.Resampling.LANCZOS)
    whole = Image.new("L", (SIDE, SIDE))
    whole.paste(letter_alone, ((SIDE - letter_alone.width) // 2, (SIDE - letter_alone.height) // 2))
    return whole
