"""How a user's arrays become inputs of a module, and come back: the one place that knows."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from vaekit.data.batches import Data, Mapped
from vaekit.data.checks import check_array, label_column, no_labels
from vaekit.data.columns import Columns, check_numbers, places_of
from vaekit.data.frames import frame_library
from vaekit.data.given import as_array, as_whole
from vaekit.data.images import Images
from vaekit.data.mapped import Rows, is_mapped
from vaekit.data.pixels import brightest, in_channels
from vaekit.messages import filled, listed
from vaekit.state import warn


@dataclass(frozen=True, eq=False)
class Format:
    """What `fit` was given: images (H, W, C), or rows of a table (D,).

    channel_axis: images came with an axis of channels. white: of integers, 255, or 1 where there are 0 and 1 alone; None of
    floats. columns: a table's, with how they are scaled. classes, shares: of a conditional model, the labels as they were given
    and how frequent each was.
    """

    shape: tuple[int, ...]
    channel_axis: bool = True
    white: int | None = None
    columns: Columns | None = None
    classes: np.ndarray | None = None
    shares: np.ndarray | None = None

    @classmethod
    def of(cls, images: Images, given, *, scaling: str, conditional: bool) -> Format:
        """The format of `images`, which were `given` as an array, a data frame or themselves; scaling: of a table."""
        x = images.x if isinstance(given, Images) else given if isinstance(given, Rows) else as_array(given)
        opened = isinstance(given, Images) and x.dtype == np.uint8 and x.ndim > 2
        return cls(
            shape=tuple(images.x.shape[1:]),
            channel_axis=x.ndim == 4,
            white=255 if opened else _white(x),
            columns=Columns.fit(images.x, images.header, scaling) if images.is_table else None,
            classes=np.asarray(images.classes) if conditional else None,
            shares=np.bincount(filled(images.y), minlength=len(images.classes)) / len(images) if conditional else None,
        )

    @property
    def is_table(self) -> bool:
        """Whether samples are rows of a table."""
        return len(self.shape) == 1

    @property
    def module_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the module's inputs; a table's rows are (1, 1, D)."""
        if self.is_table:
            return 1, 1, self.shape[0]
        height, width, channels = self.shape
        return channels, height, width

    def in_pixels(self) -> Format:
        """This, but 0 and 1 come back as 0 and 255, for pictures."""
        return self if self.white is None else replace(self, white=255)

    def counted(self, y: np.ndarray, seen: int) -> Format:
        """This, with the labels y (N,) counted among those of `seen` samples."""
        counts = seen * filled(self.shares) + np.bincount(y, minlength=len(filled(self.classes)))
        return replace(self, shares=counts / counts.sum())

    # ---- in --------------------------------------------------------------------------------------------------------

    def check(self, X, who: str) -> np.ndarray:
        """X, as a user gives it to the model `who`, as an array of this shape. Raises ValueError for what can't be, with what
        would do.
        """
        self._check_columns(X)
        if isinstance(X, Images):
            return X.x
        if getattr(X, "shape", None) in (self.shape, self.shape[:2]) and not self.is_table:
            raise ValueError(
                f"X has the shape {X.shape} of a single image, and the model takes several: of one make a batch, X[None]"
            )
        x = check_array(X, white=self.white)
        if self.white == 255 and x.ndim == 4 and x.dtype == np.uint8 and brightest(x, 2) == 1:
            warn(
                "X holds the integers 0 and 1 alone, and they are taken for 0 and 1 of 255, as the model was fitted on 8-bit "
                "images: if 1 is white, pass X * 255, or booleans"
            )
        return x if x.shape[1:] == self.shape else self._in_shape(x, who)

    def _check_columns(self, X) -> None:
        """Raises ValueError where `Images` of a table have the model's columns in another order. Of an array nothing is known,
        and the names of a data frame are scikit-learn's matter.
        """
        if self.columns is None or not isinstance(X, Images) or X.header is None:
            return
        names, known = X.header.names, self.columns.header.names
        if names is not None and known is not None and places_of(known, names, X.name) != list(range(len(names))):
            raise ValueError(f"{X.name} has the model's columns in another order: {listed(list(map(str, names)))}")

    def _in_shape(self, x: np.ndarray, who: str) -> np.ndarray:
        """x, which has another shape, with the channels of this one where nothing is lost by it."""
        shape, found = self.shape, x.shape[1:]
        same = math.prod(found) == math.prod(shape)
        if self.is_table:
            features = found[0] if x.ndim == 2 else found
            raise ValueError(
                f"X has {features} features, but {who} is expecting {shape[0]} features as input"
                + ("; pass X.reshape(len(X), -1)" if same and x.ndim > 2 else "")
            )
        remedy = ""
        if x.ndim == 2 and same:
            remedy = f"; pass X.reshape(-1, {', '.join(map(str, shape))})"
        elif x.ndim == 4 and found[:2] == shape[:2]:
            converted, lost = in_channels(x, shape[2])
            if not lost and converted.shape[1:] == shape:
                return converted
            weights = "X[..., :3] @ [0.299, 0.587, 0.114]" + (" / 255" if x.dtype == np.uint8 else "")
            remedy = {
                "colours": f", which would lose their colours: {weights} makes them grey",
                "transparency": ", which would lose their transparency: X[..., :3] leaves it out",
            }.get(lost, "")
        raise ValueError(f"X has images of shape {found}, but the model was fitted on {shape}{remedy}")

    def stored(self, x: np.ndarray) -> Tensor:
        """Checked samples as they are stored: images (N, H, W, C), or a table as standardised images (N, 1, D, 1)."""
        if self.columns is not None:
            x = self.columns.inputs(x)[:, None, :, None]
        return torch.from_numpy(np.require(x, requirements=("C", "W")))

    def data(self, images: Images, device: torch.device, who: str, augment: tuple[str, ...] = ()) -> Data:
        """`images` as a module wants them, on `device`, with labels for a conditional model, which `who` is. Images in a
        memory-mapped file stay there, and their batches are taken to the device. augment: as of `Data`, for training.
        """
        self._check_columns(images)
        labels = None
        if self.classes is not None:
            if images.y is None:
                raise ValueError(no_labels(images, who))
            labels = filled(index_labels(np.asarray(images.classes)[images.y], len(images), self.classes)).to(device)
        mapped = is_mapped(images.x) and not images.is_table
        x = Mapped(images.x, device) if mapped else self.stored(np.asarray(images.x)).to(device)
        log_det = torch.from_numpy(self.log_det(images.x)) if images.is_table else None
        return Data(x, labels, dynamic=images.binarize == "dynamic", log_det=log_det, augment=augment)

    def log_det(self, x: np.ndarray) -> np.ndarray:
        """(N,) log-determinant of a table's scaling at its rows x: what the nats of their density lose in its own units; 0 for
        images.
        """
        return np.zeros(len(x)) if self.columns is None else self.columns.log_det(x)

    # ---- out -------------------------------------------------------------------------------------------------------

    def values(self, x: Tensor) -> np.ndarray:
        """(N, C, H, W) decoded -> images as they were given; of a table (N, D) float64 in its own units."""
        out = x.permute(0, 2, 3, 1).contiguous().numpy()
        if not np.isfinite(out).all():
            raise ValueError(
                "decoded images hold NaN or infinity: the latents, or the weights of this model, are too large"
            )
        if self.columns is not None:
            return self.columns.restore(out[:, 0, :, 0])
        if not self.channel_axis:
            out = out[..., 0]
        return out if self.white is None else np.rint(out * self.white).astype(np.uint8)

    def given(self, x: np.ndarray, like=None, *, frame: str | None = None, clip: bool = False):
        """What `values` gave, as it goes to the user: images are, rows of a table take the form of their columns, in a data
        frame of the library `frame`, with the index of the frame `like`. clip: into the range seen in training.
        """
        if self.columns is None:
            return x
        index = getattr(like, "index", None) if frame_library(like) == "pandas" else None
        return self.columns.given(self.columns.settled(x, within=clip), frame, index)

    @property
    def frame(self) -> str | None:
        """The library of the data frame that fit's X was; None where that is not installed here."""
        frame = None if self.columns is None else self.columns.header.frame
        if frame is not None and importlib.util.find_spec(frame) is None:
            warn(
                f"this model was fitted on a data frame of {frame}, which is not installed here: its rows come in an array"
            )
            return None
        return frame

    # ---- run.json --------------------------------------------------------------------------------------------------

    def to_json(self) -> dict:
        """The entries of run.json that are of the format."""
        layout = {"channel_axis": self.channel_axis, "eight_bit": self.white is not None, "white": self.white}
        found = {
            "image_shape": list(self.shape),
            "layout": layout,
            "table": None if self.columns is None else self.columns.to_json(),
        }
        if self.classes is not None and self.shares is not None:
            found |= {"classes": self.classes.tolist(), "class_frequencies": self.shares.tolist()}
        return found

    @classmethod
    def from_json(cls, config: dict, *, conditional: bool) -> Format:
        """What `to_json` gave. Raises ValueError, or another error of a wrong type, for entries that it does not give."""
        shape, layout = config["image_shape"], dict(config["layout"])
        if len(shape) not in (1, 3) or not all(type(side) is int and side > 0 for side in shape):
            raise ValueError(f"image_shape must be [height, width, channels] or [columns], got {shape!r:.80}")
        layout.setdefault("white", 255 if layout.get("eight_bit") else None)  # runs of earlier versions lack it
        if (
            set(layout) != {"channel_axis", "eight_bit", "white"}
            or not all(type(layout[name]) is bool for name in ("channel_axis", "eight_bit"))
            or layout["white"] not in ((1, 255) if layout["eight_bit"] else (None,))
            or type(layout["white"]) is bool
        ):
            raise ValueError(f"layout must say channel_axis, eight_bit and white, got {layout!r:.80}")
        columns = Columns.from_json(config["table"], shape[0]) if len(shape) == 1 else None
        classes = shares = None
        if conditional:
            known = config["classes"]
            classes = np.asarray(known)
            plain = classes.ndim == 1 and classes.dtype.kind in "biufU"
            if not plain or not 0 < len(set(known)) == len(known):
                raise ValueError(f"classes must be different labels, got {known!r:.80}")
            shares = check_numbers("class_frequencies", config["class_frequencies"], len(known))
            if (shares < 0).any() or not math.isclose(shares.sum(), 1, abs_tol=1e-6):
                raise ValueError("class_frequencies must be shares that sum to 1")
        return cls(tuple(shape), layout["channel_axis"], layout["white"], columns, classes, shares)


def _white(x: np.ndarray | Rows) -> int | None:
    """What is white in the integers x: 1 where there are 0 and 1 alone, or booleans, else 255; None for floats and tables."""
    if x.dtype.kind not in "iub" or x.ndim < 3:
        return None
    return 1 if x.dtype.kind == "b" or brightest(x, 2) == 1 else 255


def index_labels(y, n: int, classes) -> Tensor | None:
    """Labels as the user gives them (one, or n) -> (n,) int64 indices of `classes`; None where there are none of either."""
    if classes is None or y is None:
        return None
    y = np.full(n, y) if np.ndim(y) == 0 else label_column(y, n)
    if y.dtype.kind == "f" and (whole := as_whole(y)) is not None:
        y = whole  # as `fit` takes them
    known = {str(label): index for index, label in enumerate(classes)}
    names = [str(label) for label in y.tolist()]
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(f"unknown label {unknown[0]!r}; the model knows {', '.join(known)}")
    return torch.tensor([known[name] for name in names], dtype=torch.int64)
