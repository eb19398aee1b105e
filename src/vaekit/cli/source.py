"""Which images a command works on."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    import numpy as np

    from vaekit.data import Images

Split = Literal["train", "validation", "test", "all"]


@dataclass(kw_only=True)
class Source:
    """Which images a command works on."""

    data: str
    """digits, mnist-5k, mnist, fashion-mnist, sprites, a folder, a .npy, .npz, idx, .csv, .tsv or .parquet file, shards of
    images (.parquet, .tar) here or at an address such as s3://BUCKET/*.tar, hf:OWNER/NAME, or a glob of images."""
    split_seed: int | None = None
    """Seed of the 80/10/10 split of data without a test part; by default 0."""
    resize: int | None = None
    """Side in pixels that images from files are brought to; by default they stay as they are."""
    fit: Literal["crop", "pad"] | None = None
    """How they are brought to it: crop cuts the longer side, pad fills up the shorter one with the background; by default
    crop."""
    background: str | None = None
    """What is behind transparent pixels: a colour (white, #ff8800), or keep, and alpha is a fourth channel; by default
    white."""
    colour: Literal["grey", "rgb", "rgba"] | None = None
    """What images are made, whatever they are; by default what holds all of them."""
    white: int | None = None
    """The value of white in integer pixels, such as 4095 for 12 bits; by default it is found from all of the data."""
    labels: str | None = None
    """A table (CSV) with the label of each image file, where there are no class sub-folders; for x.npy, y.npy; of a table, its
    column of labels."""
    drop: str | None = None
    """Columns of a table to leave out, separated by commas."""
    skip_bad: bool = False
    """Go on without the image files that can't be read."""
    binarize: Literal["none", "fixed", "dynamic"] | None = None
    """Black-or-white pixels, drawn with the intensity as their probability: once (fixed), or anew in each epoch of training
    (dynamic); by default none."""

    def how(self, trained_on: dict | None = None) -> dict:
        """Keywords of `open_data`: what the command line says, else as the data was opened that a model was `trained_on`, else
        the defaults.
        """
        from vaekit.data.pixels import WHOLE

        as_then = trained_on or {}
        decoding = as_then.get("decoding") or {}
        at_home = self.data == as_then.get("name")
        # What a run doesn't say of white is the largest value that a file's bits hold, and 255 in arrays.
        white = None if trained_on is None else decoding.get("white", WHOLE if decoding else 255)
        return {
            "split_seed": self.split_seed or 0,
            "resize": self.resize or decoding.get("resize"),
            "fit": self.fit or decoding.get("fit", "crop"),
            "background": self.background or decoding.get("background", "white"),
            "colour": self.colour or decoding.get("colour"),
            "white": self.white or white,
            "labels": self.labels or (as_then.get("labels") if at_home else None),
            "skip_bad": self.skip_bad or as_then.get("skip_bad", False),
            "binarize": self.binarize or as_then.get("binarize", "none"),
            **({"drop": self.drop} if self.drop else {}),
        }

    def inputs(self) -> list[str]:
        """The places that are read, and so never written."""
        from vaekit.data.opening import inputs_of

        return inputs_of(self.data, self.labels)

    def open(self, split: str) -> Images:
        """The part `split`."""
        from vaekit.data import open_data

        return open_data(self.data, split, **self.how())

    def say(self, images: Images) -> None:
        """Prints what a person should be told of the data, on standard error, once."""
        from vaekit.messages import listed

        notes = list(images.notes)
        if images.files is not None and images.files.unreadable:
            unreadable = images.files.unreadable
            notes.append(f"images that can't be read, left out: {len(unreadable)} ({listed(list(unreadable))})")
        said = self.__dict__.setdefault("_said", set())
        for note in notes:
            if note not in said:
                said.add(note)
                print(f"vaekit: {note}", file=sys.stderr)


@dataclass(kw_only=True)
class RunSource(Source):
    """Which images a command on a trained run works on."""

    notes: ClassVar[dict[str, str]] = {
        "data": "What is not given is as it was when RUN was trained, else the default. The data that RUN was trained on keeps "
        "its split, and its labels are where they were."
    }

    def open_for(self, model, split: str) -> Images:
        """The part `split`, as images of the shape the model was fitted on; the data it was trained on is split as it was then,
        whatever --split-seed says. What is lost on the way is said.
        """
        from vaekit.data.pixels import COLOURS

        wanted = model.format.shape
        images = self._open_for(model, split)
        if (
            self.colour is None
            and len(wanted) == 3
            and images.image_shape[:2] == wanted[:2]
            and images.image_shape != wanted
        ):
            colour = next((colour for colour, mode in COLOURS.items() if len(mode) == wanted[2]), None)
            images = self._open_for(model, split, colour=colour)
        self.say(images)
        if images.image_shape != wanted:
            remedy = ""
            if images.files is not None and len(wanted) == 3 and wanted[0] == wanted[1] and self.resize is None:
                remedy = f"; --resize {wanted[0]} brings image files to its size"
            raise ValueError(
                f"{self.data} has samples of shape {images.image_shape}, but the model was fitted on {wanted}{remedy}"
            )
        return images

    def _open_for(self, model, split: str, **more) -> Images:
        from vaekit.data import open_data
        from vaekit.data.decoding import SizesDiffer

        trained_on = model.facts["data"]
        how = self.how(trained_on) | more
        if model.format.is_table:
            header = model.format.columns.header
            how |= {"labels": self.labels or header.label, "columns": header.names}
        try:
            images = open_data(self.data, split, **{**how, "split_seed": trained_on["split_seed"] or 0})
        except SizesDiffer as error:
            if len(model.format.shape) == 3 and model.format.shape[0] == model.format.shape[1]:
                error.side = model.format.shape[0]
            raise
        return images if images.fingerprint == trained_on["fingerprint"] else open_data(self.data, split, **how)


def label_names(images: Images) -> np.ndarray | None:
    """The images' labels by name, which a conditional model uses and others ignore."""
    import numpy as np

    return None if images.y is None else np.asarray(images.classes)[images.y]
