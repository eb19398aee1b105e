"""`vaekit data`: what is in a data set."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from vaekit.messages import check_number
from vaekit.owned import check_file

MOST_COLUMNS = 30  # of a table, that are printed


@dataclass(kw_only=True)
class Data:
    """What is in a data set, and what is wrong with it."""

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """digits, mnist-5k, mnist, fashion-mnist, sprites, a folder, a .npy, .npz, idx, .csv, .tsv or .parquet file, or a
    glob of images."""
    resize: int | None = None
    """Side in pixels that images from files are brought to."""
    fit: Literal["crop", "pad"] = "crop"
    """How they are brought to it: crop cuts the longer side, pad fills up the shorter one with the background."""
    background: str = "white"
    """What is behind transparent pixels: a colour (white, #ff8800), or keep, and alpha is a fourth channel."""
    colour: Literal["grey", "rgb", "rgba"] | None = None
    """What images are made, whatever they are; by default what holds all of them."""
    white: int | None = None
    """The value of white in integer pixels, such as 4095 for 12 bits; by default it is found from all of the data."""
    labels: str | None = None
    """A table (CSV) with the label of each image file, where there are no class sub-folders; for x.npy, y.npy; of a table, its
    column of labels."""
    drop: str | None = None
    """Columns of a table to leave out, separated by commas."""
    split_seed: int = 0
    """Seed of the 80/10/10 split of data without a test part."""
    picture: str | None = None
    """A contact sheet to write, such as sheet.png: images of each class."""
    overwrite: bool = False
    """Replace the file --picture where it exists."""
    json: bool = False
    """Print JSON instead of a table."""

    def run(self) -> None:
        from vaekit.cli import output
        from vaekit.data import describe, open_whole
        from vaekit.data.decoding import Decoding
        from vaekit.data.opening import inputs_of, opening_flags
        from vaekit.data.splits import split_indices

        decoding = Decoding(self.resize, self.fit, self.background, self.colour, self.white)
        check_number("split_seed", self.split_seed, whole=True)
        if self.picture is not None:
            if not self.picture.endswith(".png"):
                raise ValueError(f"--picture must end in .png, got {self.picture!r}")
            check_file(self.picture, inputs=inputs_of(self.data, self.labels), overwrite=self.overwrite)
        whole, parts = open_whole(self.data, decoding, labels=self.labels, skip_bad=True, drop=self.drop or ())
        if parts is None and len(whole) >= 10:
            parts = split_indices(whole.y, len(whole), self.split_seed)
        facts = describe(whole, parts)
        model, flags = facts.pop("suggested_model"), facts.pop("suggested_flags")
        how = {"labels": self.labels, "split_seed": self.split_seed, **({"drop": self.drop} if self.drop else {})}
        flags += opening_flags({**decoding._asdict(), **how})
        facts["suggestion"] = shlex.join(
            ["vaekit", "train", model, "--data", self.data, *flags, "--out", f"runs/{model}"]
        )
        if self.picture is not None:
            output.write_contact_sheet(self.picture, whole)
        if self.json:
            print(json.dumps(facts, indent=1))
            return
        problems, suggestion = facts.pop("problems"), facts.pop("suggestion")
        for part, found in facts.pop("parts", {}).items():
            facts[f"{part} part"] = {"count": found["count"], **found.get("classes", {})}
        for name, words in list(facts.pop("columns", {}).items())[:MOST_COLUMNS]:
            facts[f"column {name}"] = words
        output.print_table(f"data {self.data}", output.worded(facts))
        print("\n".join(f"! {problem}" for problem in problems) or "nothing wrong was found")
        print(f"to begin with: {suggestion}")
        if self.picture is not None:
            print(f"the contact sheet: {self.picture}")
