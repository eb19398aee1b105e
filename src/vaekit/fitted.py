"""What a training leaves: a module, the format of its data, a fitted prior, and the record of how it came to be. All inference
is here; a scikit-learn estimator passes calls on to it, and everything downstream takes one.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from sklearn.exceptions import NotFittedError
from torch import Tensor

from vaekit.data.batches import Data, to_input
from vaekit.data.format import Format, index_labels
from vaekit.data.frames import frame_library
from vaekit.data.given import as_array
from vaekit.data.images import Images
from vaekit.fitted_prior import FittedPrior, own_weights
from vaekit.messages import check_number, filled
from vaekit.models.autoencoder import Autoencoder
from vaekit.models.objectives import distortion_and_rate, log_weights
from vaekit.recorded import Record, config_of
from vaekit.state import undisturbed
from vaekit.tensors import log_mean_exp
from vaekit.threads import paced
from vaekit.training.checkpoint import RunFolder
from vaekit.training.plan import describe_place, steps_per_epoch
from vaekit.world import FEWEST, MOST, check_random_state, samples_at_once, seeded

SCORE_SEED = 2023  # of the fixed noise in score_samples
ROWS = 64  # a table is taken to the module in multiples of these


class Fitted:
    """A trained `module` in eval mode for data of `format`, with the prior of its training, or one that was fitted since."""

    def __init__(self, module: Autoencoder, format: Format, record: Record):
        self.module, self.format, self.record = module.eval(), format, record
        self.plain_prior = module.prior
        self.prior: FittedPrior | None = None

    # ---- what it is ------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """Of its estimator's class, such as "VAE"."""
        return self.record.model

    @property
    def fields(self) -> dict:
        """Its estimator's fields, all of them filled in."""
        return {**self.record.fields, **self.record.resolved}

    @property
    def facts(self) -> dict:
        """What run.json says of the training beside the fields: seed, device, data, plan, how it ended."""
        return self.record.facts

    @property
    def history(self) -> list[dict]:
        """A record per epoch."""
        return self.record.history

    @property
    def device(self) -> torch.device:
        """Where the module lives."""
        return next(self.module.parameters()).device

    @property
    def conditional(self) -> bool:
        """Whether the module wants labels."""
        return self.format.classes is not None

    @property
    def discrete(self) -> bool:
        """Whether its codes are indices, on a grid."""
        return self.module.latent.discrete

    @property
    def codes_have_places(self) -> bool:
        """Whether each code of a grid is of a place in the image, so that a part of an image is a part of its codes."""
        return self.discrete and getattr(self.module.encoder, "keeps_places", True)

    @property
    def code_shape(self) -> tuple[int, ...]:
        """Of a code: (D,), or (h, w)."""
        return self.module.prior.code_shape

    @property
    def z_shape(self) -> tuple[int, ...]:
        """Of a decoder input: (D,), or (D, h, w)."""
        return (self.module.latent.width, *self.code_shape) if self.discrete else self.code_shape

    @property
    def ended_by(self) -> str | None:
        """What the training ended by, one of `recorded.ENDINGS`; None of an earlier version's, which does not say."""
        return (self.facts.get("ended") or {}).get("because")

    def steps_per_epoch(self, n: int) -> int:
        """Steps in an epoch of n images."""
        return steps_per_epoch(n, self.fields["batch_size"])

    def describe_end(self) -> str:
        """How far the training came, of the epochs that were asked for: "epoch 18 of 50"."""
        per_epoch = self.steps_per_epoch(self.facts["data"]["images"])
        return describe_place(self.history[-1]["step"], self.fields["epochs"] * per_epoch, per_epoch)

    def in_pixels(self) -> Fitted:
        """This, but images that would come back as 0 and 1 come as 0 to 255, for pictures."""
        other = copy.copy(self)
        other.format = self.format.in_pixels()
        return other

    @undisturbed
    def data(self, images: Images) -> Data:
        """`images` as the module wants them, on its device: see `Format.data`."""
        return self.format.data(images, self.device, self.name)

    # ---- codes -----------------------------------------------------------------------------------------------------

    @undisturbed
    def encode(self, X, y=None) -> np.ndarray:
        """X -> the mode of q(z|x): (N, latent_dim) float, or code indices (N, h, w) int64."""
        x = self.format.check(X, self.name)
        return self._codes(x, self._labels_or_inferred(x, y))

    @undisturbed
    def transform(self, X, y=None) -> np.ndarray:
        """X -> (N, D) the decoder inputs of `encode`'s codes: posterior means, or quantised vectors, position by position."""
        x = self.format.check(X, self.name)
        return self._vectors(x, self._labels_or_inferred(x, y))

    @undisturbed
    def decode(self, codes, y=None):
        """Codes as `encode` gives them -> images, or rows of a table."""
        if not self.discrete:
            return self.inverse_transform(codes, y)
        index = self._as_codes(codes).to(self.device)
        with torch.inference_mode():
            z = self.module.latent.embed(index)
        return self.format.given(self._decode(z, y), frame=self.format.frame)

    @undisturbed
    def inverse_transform(self, Z, y=None):
        """Z as `transform` gives it -> decoded images (the mean of p(x|z)) in the layout and dtype family of fit's X; a table
        as the data frame or array that fit's X was, as `sample` says.
        """
        return self.format.given(self._decode(self._as_latents(Z), y), Z, frame=self.format.frame)

    @undisturbed
    def reconstruct(self, X, y=None):
        """inverse_transform(transform(X)): through the posterior mean, or the nearest codes. A data frame comes back as one."""
        x = self.format.check(X, self.name)
        y = self._labels_or_inferred(x, y)
        rebuilt = self._decode(self._as_latents(self._vectors(x, y)), y)
        return self.format.given(rebuilt, X, frame=frame_library(X))

    # ---- samples ---------------------------------------------------------------------------------------------------

    @undisturbed
    def sample(
        self,
        n: int = 1,
        y=None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        random_state=None,
        prior: str | None = None,
        clip: bool = False,
        guidance: float | None = None,
    ):
        """n new images: decoded draws from the prior, in the layout and dtype family of fit's X: see `Estimator.sample`."""
        if prior is None and not self.can_sample:
            raise NotFittedError(
                "a model of codes can't be sampled before it has a prior of its codes: run `vaekit fit-prior RUN --data DATA`, "
                "or call fit_prior(X, y); prior='plain' (--plain-prior) draws the codes uniformly, which gives noise"
            )
        if clip and not self.format.is_table:
            raise ValueError("clip is for tables, whose columns have a range; images are in theirs already")
        by_class = self.sampling_classes() is None and self.sampling_classes("fitted") is not None
        if prior is None and y is not None and by_class:
            prior = "fitted"
        module = self.with_prior(prior)
        choices = check_choices(module.prior, temperature, top_k, top_p, guidance)
        if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
            raise ValueError(f"n must be a whole number >= 1, got {n!r}")
        seed = check_random_state(random_state)
        if self.conditional and y is None:
            y = np.random.default_rng(seed).choice(filled(self.format.classes), size=n, p=self.format.shares)
        index = index_labels(y, n, self.sampling_classes(prior))
        with seeded(seed), torch.inference_mode():
            parts = []
            for start in paced(range(0, n, MOST)):
                stop = min(n, start + MOST)
                labels = None if index is None else index[start:stop].to(self.device)
                codes = module.prior.sample(stop - start, labels, temperature, **choices)
                for chosen, count in self._blocks(len(codes)):
                    known = labels[chosen] if labels is not None and self.conditional else None
                    parts.append(self.format.values(module.decode(codes[chosen], known)[:count].cpu()))
        return self.format.given(np.concatenate(parts), frame=self.format.frame, clip=clip)

    def sampling_classes(self, prior: str | None = None) -> np.ndarray | None:
        """The labels that `sample` can be asked for: of a conditional model, or of its class-conditional prior. prior: as in
        `sample`.
        """
        if self.conditional:
            return self.format.classes
        unused = prior == "plain" or (prior is None and self.prior_is_worse)
        return None if unused or self.prior is None else self.prior.classes

    def sampling_shares(self, prior: str | None = None) -> np.ndarray:
        """How frequent each of `sampling_classes` was in training; sums to 1."""
        if self.conditional:
            return filled(self.format.shares)
        shares = self.with_prior("fitted").prior.class_shares.cpu().double().numpy()
        return shares / shares.sum()

    # ---- densities -------------------------------------------------------------------------------------------------

    @undisturbed
    def score_samples(self, X, y=None, n_draws: int = 8, weighted: bool = False) -> np.ndarray:
        """(N,) ELBO in nats per sample: see `Estimator.score_samples`. weighted: the tighter bound of importance-weighted draws
        (Burda, Grosse & Salakhutdinov 2016).
        """
        if weighted and not self.module.prior.exact:
            raise ValueError(f"importance weights need a prior whose density is known, not {self.prior_name}'s")
        x = self.format.check(X, self.name)
        if self.conditional and y is None:
            return np.logaddexp.reduce(self._class_joint(x, n_draws, weighted), axis=1)
        return self._bound(x, y, n_draws, weighted)

    @undisturbed
    def inputs(self, X, basis: np.ndarray | None = None) -> np.ndarray:
        """(N, D) the values of each sample as the module is given them: pixels in [0, 1], or standardised columns. basis:
        (D, K); then (N, K) their products with it, without all values in memory at once.
        """
        by = None if basis is None else torch.from_numpy(basis).to(self.device, torch.float32)
        products = self._map(
            lambda x, _: x.flatten(1) if by is None else x.flatten(1) @ by, self.format.check(X, self.name), None
        )
        return products.astype(np.float64)

    @undisturbed
    def squared_errors(self, X, y=None) -> np.ndarray:
        """(N,) squared error of each reconstruction, summed over pixels in [0, 1], or over standardised columns."""
        x = self.format.check(X, self.name)

        def error(x: Tensor, labels: Tensor | None) -> Tensor:
            return (self.module.reconstruct(x, labels) - x).square().flatten(1).sum(1)

        return self._map(error, x, self._labels_or_inferred(x, y)).astype(np.float64)

    @undisturbed
    def predict_proba(self, X, n_draws: int = 4) -> np.ndarray:
        """(N, n_classes) p(y|x) of a conditional model from p(y) exp(ELBO(x|y)), normalised."""
        return self._class_shares(self.format.check(X, self.name), n_draws)

    @undisturbed
    def predict(self, X) -> np.ndarray:
        """(N,) the most probable class of each image under p(y|x), by the ELBOs of the classes."""
        return filled(self._labels_or_inferred(self.format.check(X, self.name), None))

    @undisturbed
    def prior_log_prob(self, codes, y=None) -> np.ndarray:
        """Codes as `encode` gives them -> (N,) log p(code), or log p(code|y), in nats under the fitted prior, or where there
        is none under the one of the training.
        """
        z = self._as_codes(codes) if self.discrete else self._check_latents(codes)
        index = index_labels(y, len(z), self.sampling_classes("fitted"))
        prior = self.with_prior("fitted" if self.has_prior else None).prior
        with seeded(SCORE_SEED), torch.inference_mode():
            parts = [
                prior.log_prob(
                    z[start : start + MOST].to(self.device),
                    None if index is None else index[start : start + MOST].to(self.device),
                ).cpu()
                for start in range(0, len(z), MOST)
            ]
        return torch.cat(parts).numpy()

    # ---- the prior -------------------------------------------------------------------------------------------------

    def attach(self, prior: FittedPrior) -> None:
        """Makes `prior` the fitted one, in use unless it is far worse than the plain one."""
        prior.module.to(self.device)
        self.prior = prior
        self.module.prior = self.plain_prior if self.prior_is_worse else prior.module

    @property
    def has_prior(self) -> bool:
        """Whether a prior has been fitted since `fit`."""
        return self.prior is not None

    @property
    def prior_is_worse(self) -> bool:
        """Whether the fitted prior is so much worse on held-out images than the one of the training that this one stays in use,
        and the fitted one is for who asks for it, or for one of its classes.
        """
        return self.prior is not None and self.prior.is_worse(self.plain_prior)

    @property
    def other_prior(self) -> list[str]:
        """The flags of `vaekit fit-prior` that would do better where the fitted prior is worse: one for all classes, with more
        images to learn from, or else another kind; or longer, where it is flow matching.
        """
        assert self.prior is not None
        of_all = [] if self.conditional else ["--no-per-class"]
        if of_all and self.prior.classes is not None:
            return of_all
        if self.prior.settings.prior == "matching":
            return [*of_all, "--epochs", str(2 * filled(self.prior.settings.epochs))]
        return [*of_all, "--prior", "gmm" if self.prior.settings.prior == "flow" else "flow"]

    @property
    def can_sample(self) -> bool:
        """Whether the prior in use gives samples: codes drawn uniformly give noise."""
        return self.module.prior.gives_images

    @property
    def prior_name(self) -> str:
        """The prior in use, such as "N(0, I)", "uniform" or "GMM, per class"."""
        return self.plain_prior.describe() if self.prior is None or self.prior_is_worse else self.prior.name

    @undisturbed
    def with_prior(self, prior: str | None) -> Autoencoder:
        """The module with its prior in use (None), the one of its training ("plain") or the "fitted" one; weights are shared.
        Raises ValueError where none is fitted.
        """
        if prior not in (None, "plain", "fitted"):
            raise ValueError(f"prior must be None, 'plain' or 'fitted', got {prior!r}")
        if prior is None:
            return self.module
        if prior == "fitted" and self.prior is None:
            raise ValueError("no prior is fitted yet: run `vaekit fit-prior RUN --data DATA`, or call fit_prior(X, y)")
        module = copy.copy(self.module)
        module._modules = dict(self.module._modules)
        module.prior = self.prior.module if self.prior is not None and prior == "fitted" else self.plain_prior
        return module

    # ---- run folders -----------------------------------------------------------------------------------------------

    @undisturbed
    def save(self, path) -> None:
        """Writes a run folder: run.json, log.jsonl, weights.safetensors, and prior.safetensors where a prior is fitted.
        Raises ValueError where a run is already.
        """
        run = RunFolder(path)
        if run.started:
            raise ValueError(f"{path} already holds a run; choose another folder")
        run.write(self.config(), self.history, own_weights(self.module), self.record.objective)
        if self.prior is not None:
            self.prior.write(run.prior_file, self.with_prior("plain"))

    @undisturbed
    def end(self, run: RunFolder) -> Fitted:
        """Makes the unfinished `run`, of which this was loaded, a finished one with the weights that are here."""
        facts = {**self.facts, "ended": {**self.facts["ended"], "because": "finish"}}
        self.record = replace(self.record, facts=facts, unfinished=None)
        run.write_log(self.history)
        run.start(self.config())
        run.finish(self.module.state_dict(), self.record.objective)
        return self

    def config(self) -> dict:
        """run.json: all that rebuilds this around its weights, and where they came from."""
        return config_of(self.record, self.format, self.module)

    # ---- inside ----------------------------------------------------------------------------------------------------

    def _labels_or_inferred(self, x: np.ndarray, y):
        if self.format.classes is None or y is not None:
            return y
        return self.format.classes[self._class_shares(x, 4).argmax(1)]

    def _codes(self, x: np.ndarray, y) -> np.ndarray:
        codes = self._map(self.module.encode, x, y)
        if not np.isfinite(codes).all():
            raise ValueError("latents became NaN or infinite: the weights of this model are too large; train it again")
        return codes

    def _vectors(self, x: np.ndarray, y) -> np.ndarray:
        if not self.discrete:
            return self._codes(x, y)

        def vectors(x: Tensor, labels: Tensor | None) -> Tensor:
            return self.module.latent.embed(self.module.encode(x, labels)).movedim(1, -1).flatten(1)

        return self._map(vectors, x, y)

    def _class_shares(self, x: np.ndarray, n_draws: int) -> np.ndarray:
        joint = self._class_joint(x, n_draws)
        joint -= joint.max(1, keepdims=True)
        probabilities = np.exp(joint)
        return probabilities / probabilities.sum(1, keepdims=True)

    def _class_joint(self, x: np.ndarray, n_draws: int, weighted: bool = False) -> np.ndarray:
        """(N, n_classes) the bound of log p(x, y) in nats for each class y."""
        bounds = [self._bound(x, label, n_draws, weighted) for label in filled(self.format.classes)]
        return np.stack(bounds, axis=1) + np.log(np.maximum(filled(self.format.shares), 1e-300))

    def _bound(self, x: np.ndarray, y, n_draws: int, weighted: bool) -> np.ndarray:
        model = self.module
        n_draws = 1 if self.discrete else n_draws  # of a quantizer all are the same

        def bound(x: Tensor, labels: Tensor | None) -> Tensor:
            with seeded(SCORE_SEED):
                h = model.encoder(x, labels)
                traces = (model.trace(h, x, labels) for _ in range(n_draws))
                if weighted:
                    return log_mean_exp(torch.cat([log_weights(trace) for trace in traces]))
                return -torch.stack([torch.stack(distortion_and_rate(trace)).sum(0) for trace in traces]).mean(0)

        return self._map(bound, x, y).astype(np.float64) - self.format.log_det(x)

    def _map(self, function: Callable[[Tensor, Tensor | None], Tensor], x: np.ndarray, y) -> np.ndarray:
        """function(x, y) over batches of checked samples on the device, in eval mode -> numpy, concatenated."""
        index = index_labels(y, len(x), self.format.classes)
        parts = []
        with torch.inference_mode():
            for chosen, count in self._blocks(len(x)):
                batch = to_input(self.format.stored(x[chosen]).to(self.device))
                labels = None if index is None else index[chosen].to(self.device)
                parts.append(function(batch, labels)[:count].cpu())
        return torch.cat(parts).numpy()

    def _blocks(self, n: int) -> Iterator[tuple[slice | np.ndarray, int]]:
        """Which of n samples go to the module at once, and how many of them count. A table's rows are filled up to a
        multiple of ROWS with rows that don't: a matrix product rounds a row by the shape of its batch, so that without them
        the same row gave another result in another batch (by 1e-6 or so). Images are left as they are: a single one would
        cost as much as 64.
        """
        size = MOST
        if not self.format.is_table and n > FEWEST:
            label = torch.zeros(1, dtype=torch.int64, device=self.device) if self.conditional else None
            size = samples_at_once(self.module, torch.zeros(1, *self.format.module_shape, device=self.device), label)
        for start in paced(range(0, n, size)):
            stop = min(n, start + size)
            if self.format.is_table:
                yield np.resize(np.arange(start, stop), -(-(stop - start) // ROWS) * ROWS), stop - start
            else:
                yield slice(start, stop), stop - start

    def _as_latents(self, Z) -> Tensor:
        """User's latents (N, D), flat -> decoder inputs (N, D[, h, w])."""
        flat = self._check_latents(Z)
        if not self.discrete:
            return flat
        width, *grid = self.z_shape
        return flat.view(-1, *grid, width).movedim(-1, 1)

    def _check_latents(self, Z) -> Tensor:
        """(N, D) finite numbers as a float tensor, or ValueError."""
        Z, width = as_array(Z, "latents"), math.prod(self.z_shape)
        if Z.ndim != 2 or Z.shape[1] != width or Z.dtype.kind not in "fiu":
            raise ValueError(f"latents must be numbers of shape (N, {width}), got {Z.dtype} of shape {Z.shape}")
        if not np.isfinite(Z).all():
            raise ValueError("latents must be finite, got NaN or infinity")
        return torch.from_numpy(Z.astype(np.float32))

    def _as_codes(self, codes) -> Tensor:
        grid, k = self.code_shape, self.module.latent.n_codes
        codes = as_array(codes, "codes")
        if codes.dtype.kind not in "iu" or codes.shape[1:] != grid:
            raise ValueError(
                f"codes must be integers of shape (N, {grid[0]}, {grid[1]}), got {codes.dtype} of shape {codes.shape}"
            )
        if codes.size and not (codes.min() >= 0 and codes.max() < k):
            raise ValueError(f"codes must be in 0..{k - 1}, got {codes.min()}..{codes.max()}")
        return torch.from_numpy(codes.astype(np.int64))

    def _decode(self, z: Tensor, y) -> np.ndarray:
        index = index_labels(y, len(z), self.format.classes)
        if self.conditional and index is None:
            raise ValueError(f"{self.name} is conditional: decoding needs labels y")
        parts = []
        with torch.inference_mode():
            for chosen, count in self._blocks(len(z)):
                labels = None if index is None else index[chosen].to(self.device)
                decoded = self.module.decode_embedded(z[chosen].to(self.device), labels)
                parts.append(self.format.values(decoded[:count].cpu()))
        return np.concatenate(parts)


def check_choices(prior, temperature: float, top_k, top_p, guidance=None) -> dict:
    """What `prior.sample` is given besides. Raises ValueError for what has no meaning, or none for this prior."""
    if not temperature > 0:
        raise ValueError(f"temperature must be > 0, got {temperature}")
    if guidance is not None:
        check_number("guidance", guidance)
        if "guidance" not in prior.choices or not prior.n_classes:
            raise ValueError("guidance needs a class-conditional prior by flow matching; this model's prior is none")
    if top_k is None and top_p is None:
        return {} if guidance is None else {"guidance": guidance}
    if not {"top_k", "top_p"} <= set(prior.choices):
        raise ValueError("top_k and top_p need an autoregressive prior over codes; this model's prior has none")
    check_number("top_k", top_k, whole=True, above=0)
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must be in (0, 1], got {top_p}")
    return {"top_k": top_k, "top_p": top_p}
