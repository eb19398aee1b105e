"""What users give -> one plain NumPy array, or a sentence on how to make one of it. Nothing is imported for it: a tensor or a
data frame comes from a library that is loaded already.
"""

from __future__ import annotations

import os
import sys

import numpy as np


def as_array(X, name: str = "X") -> np.ndarray:
    """`X` as a NumPy array: nested lists, tensors on the CPU, data frames and the like, masked arrays without a masked value.

    Raises ValueError for masked values, tensors elsewhere, data sets and loaders of torch, and what is of no one shape.
    """
    if type(X) is np.ndarray:
        return X
    if isinstance(X, (list, tuple)) and any(isinstance(part, np.ma.MaskedArray) for part in X):
        X = np.ma.stack(X)
    if isinstance(X, np.ma.MaskedArray):
        return _unmasked(X, name)
    if type(X).__name__ == "LazyFrame":
        raise ValueError(f"{name} is a lazy frame; pass what it collects: {name}.collect()")
    if hasattr(X, "toarray"):
        raise ValueError(f"{name} is a sparse matrix; pass a dense array: {name}.toarray()")
    if (torch := sys.modules.get("torch")) is not None:
        if isinstance(X, (list, tuple)) and X and all(isinstance(part, torch.Tensor) for part in X):
            if len({part.shape for part in X}) > 1:
                raise ValueError(f"{name} must be one array of numbers; its tensors differ in size")
            X = torch.stack([part.detach() for part in X])
        if isinstance(X, torch.Tensor):
            return _from_tensor(X, name, torch)
        _refuse_loaders(X, name, torch)
    try:
        return np.asarray(X)
    except ValueError:
        raise ValueError(f"{name} must be one array of numbers; its samples differ in size") from None


def _unmasked(X: np.ma.MaskedArray, name: str) -> np.ndarray:
    masked = int(np.ma.getmaskarray(X).sum())
    if masked == 0:
        return np.asarray(X.data)
    drop = f"drop such samples with {name}[~{name}.mask.reshape(len({name}), -1).any(1)].data"
    fill = f", or say with {name}.filled(0) what stands there" if X.ndim > 1 else ""
    raise ValueError(f"{name} has {masked} masked values, which are no data; {drop}{fill}")


def _from_tensor(X, name: str, torch) -> np.ndarray:
    first = X.ndim == 4 and X.shape[3] > 4 and 1 <= X.shape[1] <= 4
    remedy = (".permute(0, 2, 3, 1)" if first else "") + ("" if X.device.type == "cpu" else ".cpu()")
    if X.device.type != "cpu":
        raise ValueError(f"{name} is a tensor on {X.device}; vaekit takes arrays in memory: pass {name}{remedy}")
    if first:
        raise ValueError(
            f"{name} has {X.shape[3]} channels; images are (N, H, W, C), the channels last: {name}{remedy}"
        )
    X = X.detach()
    X = X if X.layout == torch.strided else X.to_dense()
    return (X.float() if X.dtype == torch.bfloat16 else X).numpy()


def _refuse_loaders(X, name: str, torch) -> None:
    """Raises ValueError for what gives samples one by one."""
    data = torch.utils.data
    if isinstance(X, data.DataLoader):
        raise ValueError(
            f"{name} is a DataLoader; pass the images in one array: torch.cat([x for x, *_ in {name}]), with the channels last"
        )
    if isinstance(X, data.TensorDataset):
        raise ValueError(f"{name} is a TensorDataset; pass its tensors: {name}.tensors[0], and as y {name}.tensors[1]")
    if isinstance(X, data.Dataset):
        raise ValueError(
            f"{name} is a Dataset of torch; pass the images in one array: "
            f"np.stack([np.asarray(image) for image, *_ in {name}]), with the channels last"
        )


def as_whole(values: np.ndarray) -> np.ndarray | None:
    """Numbers as int64 that are the same, or None where some are fractions, not finite, or beyond 64 bits."""
    if values.dtype.kind in "biu":
        return values.astype(np.int64) if not values.size or values.max() <= np.iinfo(np.int64).max else None
    if not ((values == np.floor(values)) & (np.abs(values) < 2.0**63)).all():
        return None
    return values.astype(np.int64)


def refuse_unread(X, name: str) -> None:
    """Raises ValueError where `X` is not images but names or wraps them: paths, Pillow's pictures, iterators."""
    some = X if isinstance(X, (list, tuple)) else [X]
    first = some[0] if some else None
    if isinstance(first, (str, os.PathLike)):
        raise ValueError(
            f"{name} must hold numbers, got text, such as {str(first)!r:.80}: to read files, pass open_data(FOLDER, 'all').x"
        )
    if hasattr(first, "getbands") and hasattr(first, "convert"):
        if some is not X:
            raise ValueError(f"{name} is one picture of Pillow; pass a batch: np.asarray({name}.convert('RGB'))[None]")
        raise ValueError(
            f"{name} is a list of Pillow's pictures; pass an array: np.stack([np.asarray(p.convert('RGB')) for p in {name}]), "
            "or 'L' for grey ones, all of one size"
        )
    if hasattr(X, "__next__"):
        raise ValueError(f"{name} is an iterator; pass an array: np.stack(list({name}))")
