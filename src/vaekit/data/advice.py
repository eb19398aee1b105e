"""Which model to begin with on a data set."""

from __future__ import annotations

import math

import numpy as np

from vaekit.data.columns import scaling_problem
from vaekit.data.images import Images


def suggestion(images: Images, facts: dict) -> tuple[str, list[str]]:
    """A model to begin with, and its flags: rules of thumb, which a comparison on the data itself overrules."""
    present = [count for count in facts.get("classes", {}).values() if count]
    model = "cvae" if len(present) > 1 and min(present) >= 20 else "vae"
    if images.is_table:
        return model, ["--scaling", "auto"] if scaling_problem(np.asarray(images.x), images.header) else []
    values, flags = math.prod(images.image_shape), []
    if model == "vae" and values > 48 * 48 and min(images.image_shape[:2]) >= 16:
        model = "vqvae"  # a grid of codes keeps what one short vector blurs
    elif values > 28 * 28:
        flags += ["--latent-dim", "32"]
    if facts["binary"]:
        flags += ["--likelihood", "bernoulli"]
    if len(images) < 2000:
        flags.append("--early-stopping")
    if images.files is not None and images.files.unreadable:
        flags.append("--skip-bad")
    if images.files is not None and images.files.decoding.resize is None and min(images.image_shape[:2]) > 128:
        flags += ["--resize", "64"]
    return model, flags
