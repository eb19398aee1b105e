"""`vaekit data`: what is in a data set."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from vaekit.messages import check_number
from vaekit.owned import check_file
from vaekit.registry import MODELS

if TYPE_CHECKING:
    from vaekit.data import Images

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
    times: bool = True
    """Try a few steps of each model, and say how long it takes here."""
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
        how = {"labels": self.labels, "split_seed": self.split_seed, **({"drop": self.drop} if self.drop else {})}
        opening = opening_flags({**decoding._asdict(), **how})
        for suggestion in facts["suggestions"]:
            suggestion["commands"] = _commands(suggestion, self.data, opening, whole.is_table)
        if self.picture is not None:
            output.write_contact_sheet(self.picture, whole)
        n = facts["parts"]["train"]["count"] if parts else len(whole)
        if self.json:
            if self.times:
                facts["seconds"] = dict(_times(facts["suggestions"], whole, n))
            print(json.dumps(facts, indent=1))
            return
        suggestions = facts.pop("suggestions")
        _print_facts(self.data, facts)
        if self.picture is not None:
            print(f"the contact sheet: {self.picture}")
        if self.times:
            _print_times(_times(suggestions, whole, n))
        for suggestion in suggestions:
            print(f"{suggestion['goal']}:")
            print("\n".join(f"  {command}" for command in suggestion["commands"]))


def _commands(suggestion: dict, data: str, opening: list[str], table: bool) -> list[str]:
    """What to type for a suggestion, from the training to the samples."""
    run = suggestion["run"]
    commands = [["train", suggestion["model"], "--data", data, *suggestion["flags"], *opening, "--out", run]]
    if suggestion["prior"]:
        commands.append(["fit-prior", run, "--data", data])
    how_many = ["-n", "1000"] if table else ["--per-class", "-n", "8"] if suggestion["by_class"] else []
    commands.append(["sample", run, *how_many, "--out", f"{run}.{'csv' if table else 'png'}"])
    return [shlex.join(["vaekit", *words]) for words in commands]


def _times(suggestions: list[dict], whole: Images, n: int) -> Iterator[tuple[str, dict]]:
    """The name of each model, and the seconds that it takes on `n` such samples, of the size that is suggested."""
    from vaekit.report.times import of_side, times

    quick, best = suggestions
    if "--resize" in (opening := quick["opening"]):
        whole = of_side(whole, int(opening[opening.index("--resize") + 1]))
    asked = {name: (name, quick["fields"]) for name in MODELS}
    if best["fields"].get("grid"):
        asked[f"{best['model']} --grid"] = (best["model"], best["fields"])
    for words, (name, fields) in asked.items():
        with suppress(ValueError):  # what can't be trained on them
            yield words, times(name, whole, n, fields)._asdict()


def _print_facts(data: str, facts: dict) -> None:
    from vaekit.cli import output

    problems = facts.pop("problems")
    for part, found in facts.pop("parts", {}).items():
        facts[f"{part} part"] = {"count": found["count"], **found.get("classes", {})}
    for name, words in list(facts.pop("columns", {}).items())[:MOST_COLUMNS]:
        facts[f"column {name}"] = words
    output.print_table(f"data {data}", output.worded(facts))
    print("\n".join(f"! {problem}" for problem in problems) or "nothing wrong was found")


def _print_times(found: Iterator[tuple[str, dict]]) -> None:
    """As they are found, which takes a little."""
    from vaekit.training.progress import roughly

    print("training takes here, about:", flush=True)
    for name, seconds in found:
        prior = f", and {roughly(seconds['prior'])} its prior" if seconds["prior"] else ""
        print(f"  {name:<11} {roughly(seconds['training'])}{prior}", flush=True)
