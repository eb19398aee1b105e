"""Which samples are taken: the parts of a split, those held out, and examples to show."""

from __future__ import annotations

import numpy as np

from vaekit.data.images import Images

FEWEST = 10  # samples that can be split


def split_indices(y: np.ndarray | None, n: int, seed: int) -> dict[str, np.ndarray]:
    """80 % train, 10 % validation, 10 % test: disjoint, covering, sorted, and stratified where there are labels.

    Images are dealt from a shuffled order, class after class, in a fixed rhythm of ten; so every class is split as
    evenly as its size allows. A class of one image goes to train, which so knows every class; where fewer than ten
    images are left beside those, labels are not looked at. ValueError for fewer than ten images.
    """
    if n < FEWEST:
        raise ValueError(
            f"{n} samples are too few to split into train, validation and test; at least {FEWEST} are needed"
        )
    order = np.random.default_rng(seed).permutation(n)
    place = np.arange(n) % 10
    if y is not None:
        alone = np.bincount(y)[y] == 1
        if n - alone.sum() >= 10:
            order = order[np.lexsort((y[order], alone[order]))]  # those alone in their class at the end
            place[n - alone.sum() :] = 0
    dealt = {"train": (place != 4) & (place != 9), "validation": place == 4, "test": place == 9}
    return {part: np.sort(order[chosen]) for part, chosen in dealt.items()}


def hold_out(n: int, fraction: float, seed: int, y: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Indices of n images that are trained on, and of those held out, a `fraction` of them and one at least; in random order.

    y: (N,) labels as indices. With them the images held out are spread over the classes, and each class keeps one; so fewer
    are held out where classes are small, and none where each has one image.
    """
    rng = np.random.default_rng(seed)
    order, held = rng.permutation(n), max(1, round(fraction * n))
    if y is None:
        held = min(held, n - 1)
        return order[held:], order[:held]
    order = order[np.argsort(y[order], kind="stable")]  # class after class, drawn within each
    free = order[1:][y[order[1:]] == y[order[:-1]]]  # all but one of each class
    held = min(held, len(free))
    start = int(rng.integers(max(1, len(free))))
    out = free[(start + np.arange(held) * len(free) // max(1, held)) % max(1, len(free))]
    return rng.permutation(np.setdiff1d(order, out)), rng.permutation(out)


def held_out(images: Images, fraction: float, *, seed: int, by_class: bool) -> tuple[Images, Images]:
    """`images` to train on, and a `fraction` of them to stop early by, each in their order; by_class: as in `hold_out`, with y.

    Raises ValueError where none are left for the one or the other.
    """
    kept, held = hold_out(len(images), fraction, seed, images.y if by_class else None)
    asked = max(1, round(fraction * len(images)))
    if asked >= len(images):
        raise ValueError(f"early stopping holds out {asked} of {len(images)} images: too few are left to train on")
    if not len(held):
        raise ValueError(
            f"early stopping holds images out, and {images.name} has one image of each class: train without it"
        )
    return images.take(np.sort(kept)), images.take(np.sort(held))


def evenly(n: int, most: int) -> np.ndarray:
    """Indices of `most` of n things, evenly spaced from the first to the last; of all where there are no more."""
    return np.unique(np.linspace(0, n - 1, min(most, n)).round().astype(int))


def spread(images: Images, n: int) -> np.ndarray:
    """Indices of n images as examples, or of all if fewer; the same every time.

    With labels: one drawn of each class, class after class, then another of each; where a round can't hold all classes, those
    in it are evenly spaced. Without labels, n drawn of all, in their order.
    """
    order = np.random.default_rng(0).permutation(len(images))
    if images.y is None:
        return np.sort(order[:n])
    order = order[np.argsort(images.y[order], kind="stable")]  # class after class, drawn within each
    y = images.y[order]
    turn = np.arange(len(y)) - np.searchsorted(y, y)  # 0 for the first drawn of each class
    chosen: list[int] = []
    for one_of_each in (order[turn == t] for t in range(turn.max() + 1)):
        if len(chosen) < n:
            chosen += one_of_each[evenly(len(one_of_each), n - len(chosen))].tolist()
    return np.array(chosen)
