"""Which model to begin with on a data set, by what one is after."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vaekit.data.columns import scaling_problem
from vaekit.data.images import Images

MINUTE = 60  # seconds
SMALL, LARGE = 16, 32  # pixels of a picture's shorter side, from which there is room for a grid


class Suggestion(NamedTuple):
    """A model for a goal, and the name of its run. fields: of it, that are not as by default. opening: flags of the commands
    that open the data. by_class: whether samples can be asked for by class. prior: whether a prior is to be fitted first.
    time_budget: seconds that the training may take, None for its own time.
    """

    goal: str
    model: str
    run: str
    fields: dict
    opening: list[str]
    by_class: bool
    prior: bool
    time_budget: int | None = None

    @property
    def flags(self) -> list[str]:
        """Of `vaekit train`."""
        flags = [] if self.time_budget is None else ["--time-budget", str(self.time_budget)]
        for name, value in self.fields.items():
            flag = f"--{name.replace('_', '-')}"
            flags += [flag] if value is True else [flag, str(value)]
        return [*flags, *self.opening]


def suggestions(images: Images, facts: dict) -> list[Suggestion]:
    """What shows something soon, and what has the best samples: rules of thumb, which a comparison on the data itself
    overrules.
    """
    present = [count for count in facts.get("classes", {}).values() if count]
    labelled, enough = len(present) > 1, len(present) > 1 and min(present) >= 20
    first, thing = "cvae" if enough else "vae", "rows" if images.is_table else "images"
    fields, opening = _fields(images, facts), _opening(images)
    best, more = first, {}
    # A vector is quickly learned. Places of their own keep what it blurs: codes of a small picture, latents of a larger one.
    if not images.is_table and (side := min(images.image_shape[:2])) >= SMALL:
        best, more = ("vae", {"grid": True}) if side >= LARGE else ("vqvae", {})
    return [
        Suggestion(f"to see new {thing} in a minute", first, "runs/quick", fields, opening, enough, False, MINUTE),
        Suggestion(f"for the best new {thing}", best, "runs/best", {**more, **fields}, opening, labelled, True),
    ]


def _fields(images: Images, facts: dict) -> dict:
    if images.is_table:
        return {"scaling": "auto"} if scaling_problem(np.asarray(images.x), images.header) else {}
    fields: dict = {"likelihood": "bernoulli"} if facts["binary"] else {}
    if len(images) < 2000:
        fields["early_stopping"] = True
    return fields


def _opening(images: Images) -> list[str]:
    if images.files is None:
        return []
    large = images.files.decoding.resize is None and min(images.image_shape[:2]) > 128
    return (["--skip-bad"] if images.files.unreadable else []) + (["--resize", "64"] if large else [])
