"""As `pictures`, on emoji: some 1,800 colour pictures of 64x64 in nine groups, by the defaults.

Every emoji of Debian's package fonts-noto-color-emoji, without those that differ in the tone of a skin alone, of equal ones
one, as large as the font has them, in the groups of Unicode's own list (package unicode-data); `--resize 64 --fit pad`. A tenth
of them is measured.
"""

import argparse
import re
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, features

from benchmarks.harness import OUT
from benchmarks.pictures import measure
from vaekit.data import Images, open_data

FONT = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
LIST = "/usr/share/unicode/emoji/emoji-test.txt"
SIZE = 109  # the one that the font has
TONES = range(0x1F3FB, 0x1F400)


def run(argv):
    parser = argparse.ArgumentParser(prog="python -m benchmarks emoji")
    parser.add_argument("--font", default=FONT)
    parser.add_argument("--list", default=LIST, help="emoji-test.txt")
    parser.add_argument("--seeds", type=int, default=1)
    asked = parser.parse_args(argv)
    return measure("emoji", *open_emoji(asked.font, asked.list), seeds=asked.seeds)


def open_emoji(font: str, listed: str) -> tuple[Images, Images]:
    """The emoji to train on, and those held out."""
    folder = OUT / "emoji" / "data"
    if not folder.exists():
        if not features.check("raqm"):
            raise ValueError("emoji of several characters need Pillow with raqm")
        whole = folder.with_name("data.tmp")
        draw_all(font, listed, whole)
        whole.rename(folder)
    train, test = (open_data(str(folder), split, resize=64, fit="pad") for split in ("train", "test"))
    return train, test


def draw_all(font: str, listed: str, folder: Path) -> None:
    """A picture for each emoji, in a folder for its group."""
    face, group, drawn = ImageFont.truetype(font, SIZE), "", set()
    for line in Path(listed).read_text(encoding="utf-8").splitlines():
        if line.startswith("# group:"):
            group = line.partition(":")[2].strip()
        elif found := re.match(r"([0-9A-F ]+?)\s*;\s*fully-qualified", line):
            points = [int(point, 16) for point in found[1].split()]
            text = "".join(map(chr, points))
            # One that the font lacks, or has as two, is wider than a picture.
            if set(points) & set(TONES) or not 100 < face.getlength(text) < 150:
                continue
            picture = Image.new("RGBA", (136, 128))
            ImageDraw.Draw(picture).text((0, 0), text, font=face, embedded_color=True)
            if picture.getbbox() and picture.tobytes() not in drawn:
                drawn.add(picture.tobytes())
                place = folder / group / f"{found[1].replace(' ', '-')}.png"
                place.parent.mkdir(parents=True, exist_ok=True)
                picture.save(place)
