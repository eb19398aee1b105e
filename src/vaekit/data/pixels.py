"""What pixels mean: which value is white, and how many channels there are."""

from __future__ import annotations

import numpy as np

from vaekit.data.mapped import Rows, chunks

WHOLE = 65535  # as `white`: the largest value of 8 or 16 bits
COLOURS = {"grey": "L", "rgb": "RGB", "rgba": "RGBA"}  # Pillow's names
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue in grey, as Pillow has it (ITU-R 601-2)
DARK = 4  # images whose brightest value is this part of white, or less, are dark


def brightest(x: np.ndarray | Rows, enough: float) -> float:
    """The largest value of x, looked for until one is `enough`, so that usual images take no time."""
    high = 0.0
    for _, part in chunks(x):
        high = max(high, float(part.max()))
        if high >= enough:
            break
    return high


def find_white(high: int) -> int:
    """The value of white in integer pixels up to `high`: 1 where they are 0 and 1 alone, else the least of 255, 511, 1023, ...
    that is no smaller.
    """
    return 1 if high == 1 else 2 ** max(8, int(high).bit_length()) - 1


def darkness(high: float, top: float) -> str:
    """What is to be said of images whose brightest value is `high`, where white is `top`; "" where that is nothing odd."""
    if high <= 0 or high * DARK > top:
        return ""
    return (
        f"very dark: no value above {high:.3g} of {top:g}; is the scale right? If {high:.3g} is white, divide by it (X / "
        f"{high:.3g}), or say so with --white {high:.3g}"
    )


def with_channels(x: np.ndarray, channels: int) -> np.ndarray:
    """x (..., 1), (..., 3) or (..., 4) with more channels: grey is repeated over three, and what has no alpha is opaque."""
    if x.shape[-1] == channels:
        return x
    colours = np.broadcast_to(x, (*x.shape[:-1], 3))
    opaque = np.full((*x.shape[:-1], channels - 3), 255 if x.dtype == np.uint8 else 1, x.dtype)
    return np.concatenate([colours, opaque], axis=-1)


def in_channels(x: np.ndarray, channels: int) -> tuple[np.ndarray, str]:
    """x (N, H, W, C) with `channels` channels, 1, 3 or 4, and what was lost by it, "" where that is nothing."""
    if x.shape[3] == channels or 2 in (x.shape[3], channels):
        return x, ""
    if x.shape[3] < channels:
        return with_channels(x, channels), ""
    lost, opaque = "", 255 if x.dtype == np.uint8 else 1
    if x.shape[3] == 4:
        lost = "" if (x[..., 3] == opaque).all() else "transparency"
        x = x[..., :3]
    if channels == 1:
        if not ((x[..., 0] == x[..., 1]) & (x[..., 0] == x[..., 2])).all():
            lost = "colours"
            grey = x @ np.array(LUMA, np.float32)
            return (np.rint(grey) if x.dtype == np.uint8 else np.clip(grey, 0, 1)).astype(x.dtype)[..., None], lost
        x = x[..., :1]
    return np.ascontiguousarray(x), lost
