"""What the explorer knows of one trained model, and what its page may ask: JSON-able values in, JSON-able values out. Nothing
here changes the model, and what comes in is not to be trusted.
"""

from __future__ import annotations

import base64
import io
import math
import threading
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from vaekit.data.decoding import MAX_PIXELS, Decoding, decode
from vaekit.data.images import Images
from vaekit.data.splits import evenly, spread
from vaekit.evaluation.likelihood import ACTIVE, evaluate, posterior
from vaekit.fitted import Fitted
from vaekit.registry import MODELS, key_of
from vaekit.report.doctor import Diagnosis
from vaekit.state import undisturbed
from vaekit.world import seeded

POINTS = 2000  # images on the map
KL_IMAGES = 500  # of them, those that the KL of each latent is measured on
REACH = 3  # a slider's ends, in standard deviations of the aggregate posterior
FRAMES = 9  # from one image to the other
CHOICES = 15  # codes offered for a cell
HOTTEST = 10  # temperature
LARGEST = 1e4  # magnitude of a latent; beyond it float32 gives no picture
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's names, by channels
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF")


class Explored:
    """A trained model with the map of its latent space. Codes are what `encode` gives for an image: (d,) floats, or an
    (h, w) grid of integers of a VQ-VAE. One thread at a time is at the model.

    images: held-out ones, whose encodings are the points of the map. diagnoses: what the doctor says of the run.
    Raises ValueError for a model of tables and for images that don't fit.
    """

    @undisturbed
    def __init__(self, model: Fitted, images: Images, name: str, diagnoses: Sequence[Diagnosis] = ()):
        check_explorable(model, images, name)
        self.model, self.name, self.lock = model, name, threading.Lock()
        self.diagnoses = diagnoses
        plain = model.with_prior("plain")
        self.grid = model.code_shape if model.discrete else None
        classes = model.sampling_classes()
        self.classes = None if classes is None else [str(name) for name in classes]
        if self.grid is None:
            means, draws = posterior(plain, model.data(images))
            vectors, draws = means.numpy().astype(np.float64), draws.numpy().astype(np.float64)
            few = model.data(images.take(spread(images, KL_IMAGES)))
            self.kl = np.asarray(evaluate(plain, few, draws=1)["kl_per_latent"])
            self.active = vectors.var(0) > ACTIVE
            self.middle, self.spread = draws.mean(0), np.maximum(draws.std(0), 1e-6)
        else:
            vectors = model.transform(images.x).astype(np.float64)
        self.centre, self.axes, self.shares = find_plane(vectors)
        self.points = self._project(vectors)

    # ---- what the page shows from the start ----------------------------------------------------------------------

    @undisturbed
    def facts(self) -> dict:
        """What the page needs to draw itself; the sliders' latents come in the order of their KL, the largest first."""
        label = MODELS[key_of(self.model.name)].label
        facts: dict = {
            "name": self.name,
            "model": label,
            "architecture": self.model.fields["architecture"],
            "parameters": self.model.module.n_parameters,
            "conditional": self.model.conditional,
            "classes": self.classes,
            "points": np.round(self.points, 5).tolist(),
            "axes": self._axis_names(),
            "grid": None if self.grid is None else list(self.grid),
            "no_samples": self._why_no_samples(),
            "doctor": [diagnosis._asdict() for diagnosis in self.diagnoses],
        }
        if self.grid is None:
            facts["latents"] = [
                {
                    "index": int(i),
                    "kl": float(self.kl[i]),
                    "active": bool(self.active[i]),
                    "low": float(self.middle[i] - REACH * self.spread[i]),
                    "high": float(self.middle[i] + REACH * self.spread[i]),
                }
                for i in np.argsort(-self.kl, kind="stable")
            ]
        else:
            facts["n_codes"] = self.model.module.latent.n_codes
            facts["tints"] = self._tints()
        return facts

    def _axis_names(self) -> list[str]:
        if self.grid is None and math.prod(self.model.code_shape) <= 2:
            return ["z1", "z2"][: math.prod(self.model.code_shape)]
        return [f"principal component {i} ({share:.0%})" for i, share in enumerate(self.shares, 1)]

    def _why_no_samples(self) -> str | None:
        if not self.model.can_sample:
            label = MODELS[key_of(self.model.name)].label
            return f"This {label} has no prior of its codes yet: fit one with vaekit fit-prior RUN --data DATA."
        return None

    def _tints(self) -> list[float]:
        """Per code, its place in 0..1 along the codebook's first principal component: like codes get like colours."""
        vectors = self._codebook()
        order = np.argsort(np.argsort(vectors @ find_plane(vectors)[1][0]))
        return np.round(order / max(1, len(order) - 1), 3).tolist()

    def _codebook(self) -> np.ndarray:
        """(K, D) vector of each code."""
        return self.model.module.latent.vectors().detach().cpu().double().numpy()

    # ---- what the page asks --------------------------------------------------------------------------------------

    @undisturbed
    def decode(self, *, code=None, point=None, label=None) -> dict:
        """A code, or a place on the map, decoded -> {code, point, image}; the rest of the latent space is at the average
        there, and a VQ-VAE takes the nearest codes.
        """
        with self.lock:
            if point is None:
                return self._shown(self._as_code(code), label)
            vector = self.centre + _numbers("point", point, (2,)) @ self.axes
            return self._shown(self._nearest(vector), label)

    @undisturbed
    def encode(self, *, picture: np.ndarray, label=None) -> dict:
        """A picture (H, W, C) uint8 encoded -> {code, point, image: its reconstruction, label, mse}. The class of a conditional
        model is inferred where none is given.
        """
        with self.lock:
            x = picture[None]
            if self.model.conditional and label is None:
                label = str(self.model.predict(x)[0])  # type: ignore[attr-defined]
            code = self.model.encode(x, self._checked(label))[0]
            rebuilt = self._decoded(code, label)
            error = float(np.square(rebuilt / 255 - picture / 255).mean())
            return {**self._placed(code, rebuilt), "label": label, "mse": error, "input": data_url(picture)}

    @undisturbed
    def between(self, *, a=None, b=None, label=None) -> dict:
        """Two codes -> {frames: [{code, image}, ...]}, along the line between them. Vectors of a VQ-VAE are decoded without
        snapping; the code of a frame is then the nearest one.
        """
        with self.lock:
            ends = [self._vector(self._as_code(end)) for end in (a, b)]
            steps = np.linspace(0, 1, FRAMES)[:, None]
            vectors = (1 - steps) * ends[0] + steps * ends[1]
            images = self.model.inverse_transform(vectors, self._checked(label))
            return {
                "frames": [
                    {"code": self._nearest(vector).tolist(), "image": data_url(as_picture(image))}
                    for vector, image in zip(vectors, images, strict=True)
                ]
            }

    @undisturbed
    def sample(self, *, code=None, start=0, label=None, temperature=1.0, seed=0) -> dict:
        """A draw from the prior -> {code, point, image}. Given a code grid, cells before `start` (in reading order) stay and
        those from there on are drawn, each knowing all before it.
        """
        with self.lock:
            if self._why_no_samples():
                raise ValueError(self._why_no_samples())
            if not _is_number(temperature) or not 0 < temperature <= HOTTEST:
                raise ValueError(f"temperature must be a number above 0 and at most {HOTTEST}")
            if not isinstance(seed, int) or not 0 <= seed < 2**63:
                raise ValueError("seed must be a whole number in 0..2^63 - 1")
            choices = {}
            if code is not None:
                if "given" not in self.model.module.prior.choices:
                    raise ValueError(
                        f"drawing from a cell on needs a prior over a grid of codes, which {self.name} does not have"
                    )
                given = torch.from_numpy(self._as_code(code))[None].to(self.model.device)
                start, grid = self._cell("start", start), self.model.code_shape
                known = (torch.arange(math.prod(grid)) < start).view(grid).to(self.model.device)
                choices = {"given": given, "known": known}
            y = self._prior_label(label)
            with seeded(seed), torch.inference_mode():
                drawn = self.model.module.prior.sample(1, y, temperature, **choices)
            return self._shown(drawn[0].cpu().numpy(), label)

    @undisturbed
    def choices(self, *, code=None, cell=None, label=None) -> dict:
        """Other codes for a cell -> {choices: [{value, probability, code, image}, ...]}: under the prior the likeliest given
        the cells before it, or, where it tells none, those nearest in the codebook, with probability None. The present one is
        among them, first.
        """
        with self.lock:
            grid = self._as_code(code)
            if self.grid is None:
                raise ValueError(f"{self.name} has no grid of codes: it is a {self.model.name}")
            cell = self._cell("cell", cell)
            present = int(grid.flat[cell])
            shares = self._shares(grid, cell, self._prior_label(label))
            if shares is not None:
                order = np.argsort(-shares, kind="stable")
            else:
                vectors = self._codebook()
                order = np.argsort(np.square(vectors - vectors[present]).sum(1), kind="stable")
            values = [present, *(int(value) for value in order if value != present)][:CHOICES]
            codes = np.repeat(grid[None], len(values), 0)
            codes.reshape(len(values), -1)[:, cell] = values
            images = self.model.decode(codes, self._checked(label))
            return {
                "choices": [
                    {
                        "value": value,
                        "probability": None if shares is None else float(shares[value]),
                        "image": data_url(as_picture(image)),
                    }
                    for value, image in zip(values, images, strict=True)
                ]
            }

    # ---- inside --------------------------------------------------------------------------------------------------

    def _shown(self, code: np.ndarray, label) -> dict:
        return self._placed(code, self._decoded(code, label))

    def _decoded(self, code: np.ndarray, label) -> np.ndarray:
        """A code -> its picture (H, W, C) uint8."""
        return as_picture(self.model.decode(code[None], self._checked(label))[0])

    def _placed(self, code: np.ndarray, picture: np.ndarray) -> dict:
        point = self._project(self._vector(code)[None])[0]
        return {"code": code.tolist(), "point": point.tolist(), "image": data_url(picture)}

    def _project(self, vectors: np.ndarray) -> np.ndarray:
        """(N, D) latent vectors -> (N, 2) places on the map."""
        return (vectors - self.centre) @ self.axes.T

    def _vector(self, code: np.ndarray) -> np.ndarray:
        """A code -> its latent vector as `transform` gives it, (D,)."""
        if self.grid is None:
            return code.astype(np.float64)
        with torch.inference_mode():
            vectors = self.model.module.latent.embed(torch.from_numpy(code)[None].to(self.model.device))
        return vectors.movedim(1, -1).flatten().cpu().double().numpy()

    def _nearest(self, vector: np.ndarray) -> np.ndarray:
        """A latent vector (D,) -> the code nearest to it: itself, or a grid of codes."""
        if self.grid is None:
            return vector
        vectors = torch.from_numpy(vector.astype(np.float32)).view(*self.grid, -1).movedim(-1, 0)[None]
        with torch.inference_mode():
            return self.model.module.latent.nearest(vectors.to(self.model.device))[0].cpu().numpy()

    def _as_code(self, code) -> np.ndarray:
        if self.grid is None:
            return _numbers("code", code, self.model.code_shape)
        codes = _numbers("code", code, self.grid)
        k = self.model.module.latent.n_codes
        if not (codes == np.floor(codes)).all() or codes.min() < 0 or codes.max() >= k:
            raise ValueError(f"codes must be whole numbers in 0..{k - 1}, got {codes.min():g}..{codes.max():g}")
        return codes.astype(np.int64)

    def _cell(self, name: str, cell) -> int:
        last = math.prod(self.grid or ()) - 1
        if isinstance(cell, bool) or not isinstance(cell, int) or not 0 <= cell <= last:
            raise ValueError(f"{name} must be a cell in 0..{last}, got {str(cell)[:40]}")
        return cell

    def _checked(self, label) -> str | None:
        """The label for the model itself."""
        if not self.model.conditional:
            return None
        self._label_index(label)
        return label

    def _label_index(self, label) -> int:
        assert self.classes is not None
        if label not in self.classes:
            raise ValueError(f"label must be one of {', '.join(self.classes)}, got {str(label)[:40]!r}")
        return self.classes.index(label)

    def _prior_label(self, label) -> torch.Tensor | None:
        """The label for the prior; None stands for any class."""
        if self.classes is None or label is None:
            return None
        return torch.tensor([self._label_index(label)], device=self.model.device)

    def _shares(self, grid: np.ndarray, cell: int, y: torch.Tensor | None) -> np.ndarray | None:
        """(K,) what the prior's `shares` are, None where it does not tell."""
        with torch.inference_mode():
            shares = self.model.module.prior.shares(torch.from_numpy(grid).to(self.model.device), cell, y)
        return None if shares is None else shares.cpu().numpy()


def check_explorable(model: Fitted, images: Images, name: str) -> None:
    """Raises ValueError where the explorer can't show `model` on `images`."""
    if len(model.format.shape) != 3:
        raise ValueError(f"{name} was trained on a table of vectors; exploring needs a model of images")
    if model.format.shape[2] not in MODES:
        raise ValueError(
            f"exploring needs images of 1, 3 or 4 channels; those of {name} have {model.format.shape[2]} channels"
        )
    if images.x.shape[1:] != model.format.shape:
        raise ValueError(
            f"{images.name} has samples of shape {images.x.shape[1:]}, but {name} was fitted on {model.format.shape}"
        )
    if len(images) < 2:
        raise ValueError(f"{images.name} has {len(images)} held-out image; a map needs at least 2")


def some(images: Images, most: int = POINTS) -> Images:
    """At most so many of the images, evenly spread over them, in memory."""
    part = images.take(evenly(len(images), most))
    return replace(part, x=np.asarray(part.x))


def find_plane(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N, D) vectors -> centre (D,) and two axes (2, D) of the map, and the share of the variance along each: the first
    principal components, or for D <= 2 the dimensions themselves (the second axis is 0 for D = 1).
    """
    if vectors.shape[1] <= 2:
        axes = np.eye(2, vectors.shape[1])
        variances = (vectors @ axes.T).var(0)
        return np.zeros(vectors.shape[1]), axes, variances / max(variances.sum(), 1e-12)
    from sklearn.decomposition import PCA

    with np.errstate(invalid="ignore"):  # 0 / 0, where all images have the same code
        pca = PCA(n_components=2, random_state=0).fit(vectors)
    return np.asarray(pca.mean_), np.asarray(pca.components_), np.nan_to_num(pca.explained_variance_ratio_)


def read_picture(data: bytes, shape: tuple[int, ...], white: int | None = None) -> np.ndarray:
    """An image file's bytes -> (H, W, C) uint8 of `shape`, the middle cut out where the proportions differ; read as
    `open_data` reads image files. white: the run's own value of white. Raises ValueError for what is no image, damaged, or
    too large.
    """
    height, width, channels = shape
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            Image.open(io.BytesIO(data), formats=FORMATS).close()  # only these: some others start programs
            pixels, *_ = decode(data, Decoding(background="keep" if channels == 4 else "white", white=white))
    except UnidentifiedImageError:
        kinds = ", ".join(FORMATS)
        raise ValueError(f"this is no image file that can be read ({kinds}), whatever its name says") from None
    except Image.DecompressionBombError:
        raise ValueError(f"the image is too large; at most {MAX_PIXELS // 10**6} megapixels are read") from None
    except Exception as error:  # whatever a decoder raises on hostile bytes is the file's fault
        raise ValueError(f"this image can't be read ({str(error) or type(error).__name__})") from None
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).convert(MODES[channels])
    factor = max(1, image.width // width)
    if image.size == (width * factor, height * factor):
        image = image.reduce(factor)  # what the page drew: a square of pixels is their average, exactly
    else:
        image = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    return np.asarray(image).reshape(height, width, channels)


def as_picture(image: np.ndarray) -> np.ndarray:
    """An image as a model gives it, (H, W) or (H, W, C), uint8 or floats in [0, 1] -> (H, W, C) uint8."""
    image = image[..., None] if image.ndim == 2 else image
    return image if image.dtype == np.uint8 else np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def as_png(picture: np.ndarray) -> bytes:
    """(H, W, 1, 3 or 4) uint8 -> a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def data_url(picture: np.ndarray) -> str:
    """(H, W, 1, 3 or 4) uint8 -> a PNG as the address of an image."""
    return f"data:image/png;base64,{base64.b64encode(as_png(picture)).decode()}"


def background(images: Images) -> int:
    """0 or 255: whether the images' borders are rather dark or bright, which is what a drawing starts from."""
    x = images.x
    border = np.concatenate([x[:, 0].ravel(), x[:, -1].ravel(), x[:, :, 0].ravel(), x[:, :, -1].ravel()])
    return 255 if border.mean() > (127 if x.dtype == np.uint8 else 0.5) else 0


def run_names(folders: Sequence[str]) -> list[str]:
    """What runs are called on the page: the folders' own names, or all of each path where two would be the same."""
    names = [Path(folder).resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


def _numbers(name: str, value, shape: tuple[int, ...]) -> np.ndarray:
    """Nested lists of plain numbers of this very shape, finite and not huge -> a float array, or ValueError."""
    wanted = f"{name} must be numbers of shape {tuple(shape)}"
    flat = value
    for depth, size in enumerate(shape):
        rows = [flat] if depth == 0 else flat
        if not all(isinstance(row, list) and len(row) == size for row in rows):
            raise ValueError(f"{wanted}, got another shape")
        flat = [item for row in rows for item in row]
    if not all(_is_number(item) for item in flat):
        raise ValueError(f"{wanted}, got something that is no number")
    if not all(abs(item) <= LARGEST for item in flat):
        raise ValueError(f"{name} must be finite and at most {LARGEST:g} in size, got NaN, infinity or more")
    return np.asarray(flat, dtype=np.float64).reshape(shape)


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
