"""The second stage: a prior fitted to the codes of a trained model, whose weights stay as they are.

The number that is minimised is the rate, E[log q(z|x) - log p(z|y)] in nats per image: for a quantizer, whose q is certain,
that is -log p(code).
"""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from vaekit.data.images import hold_out
from vaekit.messages import check_number, filled, nearest
from vaekit.models.autoencoder import Autoencoder
from vaekit.parts.causal import CausalTransformer, GatedPixelCNN, start_alike
from vaekit.parts.priors import AutoregressivePrior, FlowPrior, LearnedPrior, MixturePrior, Prior, StandardNormalPrior
from vaekit.tensors import Term, gaussian_log_prob
from vaekit.training.checkpoint import RunFolder
from vaekit.training.compiled import pays
from vaekit.training.loop import Data, affordable, train
from vaekit.training.plan import Plan, read_plan
from vaekit.training.progress import Lines
from vaekit.world import PRECISIONS, derive_seed, fast_bfloat16, seeded

FOR_CODES = ("pixelcnn", "transformer")
FOR_LATENTS = ("gmm", "vamp", "flow")
PRIORS = (*FOR_LATENTS, *FOR_CODES)
NAMES = {"gmm": "GMM", "vamp": "VampPrior", "flow": "flow", "pixelcnn": "PixelCNN", "transformer": "transformer"}
MOST_FOR_GMM = 50_000  # latents that the mixture is fitted to
LEAST_VARIANCE = 1e-3  # of a component of it, in any direction


@dataclass(frozen=True, kw_only=True)
class PriorSettings:
    """What kind of prior, and how it is trained. A field that is None is filled in for the model and the data."""

    prior: str | None = None
    """gmm, vamp or flow for Gaussian latents; pixelcnn or transformer for codes. None is gmm, or pixelcnn."""
    components: int | None = None
    """Of a gmm or vamp, for each class; None is as many as the data can tell: 20 images per number in a component, at most
    100 (20 with classes), and one for a class with fewer images than that gives; 200 (50 with classes) for vamp, whose
    components are narrow."""
    layers: int | None = None
    """Depth of a flow (None is 8), a pixelcnn or transformer (6 and 4; 4 and 3 below 5,000 images). The report's PixelCNN
    has 15."""
    channels: int | None = None
    """Width of a flow (None is 64), a pixelcnn (64) or a transformer (128). The report's PixelCNN has 128."""
    dropout: float | None = None
    """Of a pixelcnn or transformer; None is 0, or 0.5 below 5,000 images."""
    epochs: int | None = None
    """Passes over the images; None is about 7,000 steps, at most 20 epochs (flow: 4,000, 100; vamp: 400, 20)."""
    batch_size: int | None = None
    """Images per step; None is 64 for codes, 128 for latents."""
    learning_rate: float | None = None
    """Adam's peak learning rate, cosine to zero; None is 0.003 (pixelcnn), 0.002 (transformer, flow) or 0.01 (vamp)."""
    validation_fraction: float = 0.05
    """Share of the images held out, of each class alike, whose rate chooses the epoch that is kept and is reported. With 0, or
    one image of each class, those trained on stand for them."""
    precision: str | None = None
    """float32 or bfloat16; None is bfloat16 for codes of 5,000 images or more where the processor has it in hardware."""
    compile: bool | None = None
    """Compile the training step, which changes results by rounding alone; None does for a pixelcnn from 4,500 steps on."""
    random_state: int | None = None
    """Seed of everything random; None is the model's own."""

    def check(self) -> None:
        """Raises ValueError where a field has no meaningful value for any model or data."""
        if self.prior is not None and self.prior not in PRIORS:
            raise ValueError(
                f"prior must be one of {', '.join(PRIORS)}, got {self.prior!r}{nearest(str(self.prior), PRIORS)}"
            )
        for field in ("components", "layers", "channels", "epochs", "batch_size"):
            check_number(field, getattr(self, field), whole=True, above=0)
        check_number("learning_rate", self.learning_rate, above=0)
        for field in ("dropout", "validation_fraction"):
            value = getattr(self, field)
            if value is not None and not 0 <= value < 1:
                raise ValueError(f"{field} must be in [0, 1), got {value!r}")
        if self.precision is not None and self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        if self.compile is not None and type(self.compile) is not bool:
            raise ValueError(f"compile must be None, True or False, got {self.compile!r}")

    def resolve(self, *, codes: bool, n: int, latent_dim: int, n_classes: int, device: torch.device) -> PriorSettings:
        """These settings with every None filled in, for `n` images. Raises ValueError for what can't be."""
        self.check()
        fitting, kind = (FOR_CODES, "codes") if codes else (FOR_LATENTS, "Gaussian latents")
        name = self.prior or ("pixelcnn" if codes else "gmm")
        if name not in fitting:
            raise ValueError(f"prior {name!r} does not fit {kind}; choose {' or '.join(fitting)}")
        small = n < 5000
        batch_size = min(self.batch_size or (64 if codes else 128), n)
        per_epoch = max(1, n // batch_size)
        steps, most = {"flow": (4000, 100), "vamp": (400, 20)}.get(name, (7000, 20))
        epochs = self.epochs or (1 if name == "gmm" else max(1, min(most, steps // per_epoch)))
        per_class = n // max(1, n_classes)
        gmm_components = max(1, min(20 if n_classes else 100, per_class // (20 * (latent_dim + 1))))
        defaults = {
            "prior": name,
            "components": {"gmm": gmm_components, "vamp": min(per_class, 50 if n_classes else 200)}.get(name),
            "layers": {"flow": 8, "pixelcnn": 4 if small else 6, "transformer": 3 if small else 4}.get(name),
            "channels": {"flow": 64, "pixelcnn": 64, "transformer": 128}.get(name),
            "dropout": (0.5 if small else 0.0) if codes else None,
            "epochs": epochs,
            "batch_size": batch_size,
            "learning_rate": {"vamp": 0.01, "pixelcnn": 0.003}.get(name, 0.002),
            "precision": "bfloat16" if codes and not small and fast_bfloat16(device) else "float32",
            "compile": pays(name, epochs * per_epoch),
        }
        return replace(self, **{key: value for key, value in defaults.items() if getattr(self, key) is None})


def describe_prior(settings: PriorSettings, n_classes: int) -> str:
    """In a table's words, such as "PixelCNN, per class"."""
    return NAMES[filled(settings.prior)] + (", per class" if n_classes else "")


def make_prior(settings: PriorSettings, model: Autoencoder, n_classes: int) -> LearnedPrior:
    """The unfitted prior that resolved `settings` name, for the codes of `model`."""
    if settings.prior in FOR_CODES:
        kind = GatedPixelCNN if settings.prior == "pixelcnn" else CausalTransformer
        network = kind(
            n_values=model.latent.n_codes,
            grid=model.prior.grid,
            channels=filled(settings.channels),
            layers=filled(settings.layers),
            dropout=filled(settings.dropout),
            n_classes=n_classes,
        )
        return AutoregressivePrior(network)
    latent_dim = model.latent.latent_dim
    if settings.prior == "flow":
        layers, channels = filled(settings.layers), filled(settings.channels)
        return FlowPrior(latent_dim=latent_dim, layers=layers, channels=channels, n_classes=n_classes)
    return MixturePrior(latent_dim=latent_dim, components=filled(settings.components), n_classes=n_classes)


@dataclass(frozen=True)
class Codes(Data):
    """What a prior is trained on: codes (N, h, w) int64, or posterior moments (N, 2D), mean and log-variance."""

    x: Tensor

    def batch(self, index: Tensor | slice) -> tuple[Tensor, Tensor | None]:
        return self.x[index], None if self.y is None else self.y[index]


def parts_of(
    n: int,
    labels: Tensor | None,
    settings: PriorSettings,
    *,
    classes: Sequence,
    seed: int,
    components: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the images that a prior is trained on, and of those held out; see `PriorSettings.validation_fraction`.

    labels, settings, classes: as in `fit_prior`. components: how many were asked for, and not chosen for the data.
    Raises ValueError for a class that has no images, or fewer to train on than the `components` of a mixture.
    """
    y = filled(labels).cpu().numpy() if len(classes) else None
    counts = [n] if y is None else np.bincount(y, minlength=len(classes)).tolist()
    if not min(counts):
        raise ValueError(f"class {classes[counts.index(0)]} has no images to fit a prior to")
    seed = derive_seed(seed, "validation")
    kept, out = hold_out(n, settings.validation_fraction, seed, y)
    if settings.validation_fraction == 0 or not len(out):
        kept = out = np.random.default_rng(seed).permutation(n)
    counts = [len(kept)] if y is None else np.bincount(y[kept]).tolist()
    if components is not None and settings.prior == "gmm" and min(counts) < components:
        whose = "there are" if y is None else f"class {classes[counts.index(min(counts))]} has"
        raise ValueError(
            f"a mixture of {components} components needs {components} images to train on; {whose} {min(counts)}, besides "
            "those held out: ask for fewer components"
        )
    return kept, out


def fit_prior(
    model: Autoencoder,
    data: Data,
    labels: Tensor | None,
    settings: PriorSettings,
    *,
    classes: Sequence,
    parts: tuple[np.ndarray, np.ndarray],
    seed: int,
    folder: RunFolder | None = None,
    deadline: float | None = None,
    verbose: bool = False,
) -> tuple[LearnedPrior, list[dict], dict]:
    """A prior for the codes that `model` gives to the images of `data`; the model is not changed.

    labels: (N,) int64 indices of `classes`, which are empty for a prior without classes. settings: resolved ones. parts: what
        `parts_of` gives. folder: of this second stage, which has a run.json, to go on from. deadline: a reading of
        `time.monotonic`, see `train`.
    Returns the prior, its history (a record per epoch, `rate` in nats per image), and what else was found: the rates of the
    held-out images, `validation_rate` under it and those under simpler priors.
    """
    device, n_classes = data.x.device, len(classes)
    kept, out = (torch.from_numpy(index).to(device) for index in parts)
    codes = encode(model, data)

    def part(index: Tensor) -> Codes:
        return Codes(codes[index], None if labels is None or not n_classes else labels[index])

    train_part, held_part = part(kept), part(out)
    with seeded(derive_seed(seed, "prior")):
        prior = make_prior(settings, model, n_classes).to(device)
        if isinstance(prior, AutoregressivePrior):
            start_alike(prior.network, model.latent.codebook.detach())
    if n_classes:
        counts = torch.bincount(filled(train_part.y), minlength=n_classes).float()
        prior.class_shares.copy_(counts / counts.sum())
    fitting, history = None, []
    if settings.prior == "gmm":
        assert isinstance(prior, MixturePrior)
        with seeded(derive_seed(seed, "draws")):
            _fit_gmm(prior, train_part, derive_seed(seed, "gmm") % 2**31, deadline)
    else:
        fitting = _fitting(settings, prior, model, data, labels, kept, seed)
        per_epoch = max(1, len(train_part) // filled(settings.batch_size))
        epochs = filled(settings.epochs)
        plan = Plan(
            steps=epochs * per_epoch,
            batch_size=filled(settings.batch_size),
            learning_rate=filled(settings.learning_rate),
            warmup=min(100, epochs * per_epoch // 5),
            betas=(0.9, 0.99),
            gradient_clip=10.0,
            patience=epochs,  # never stops early, and keeps the best weights
            precision=filled(settings.precision),
            compile=filled(settings.compile),
            seed=seed,
        )
        title = f"{NAMES[filled(settings.prior)]} prior"
        plan = _plan_to_follow(
            plan, settings, fitting, train_part, folder, deadline, Lines(title, 0) if verbose else None
        )
        history = train(
            fitting,
            _rate,
            train_part,
            plan,
            validation=held_part,
            folder=folder,
            deadline=deadline,
            title=title,
            verbose=verbose,
        )
        if isinstance(fitting, _VampRate):
            fitting.pack()
    prior.eval()
    with seeded(derive_seed(seed, "held out")), torch.no_grad():
        rate = (CodeRate(prior) if settings.prior in FOR_CODES else _LatentRate(prior)).eval()
        found = {"validation_images": len(held_part), "validation_rate": _mean_rate(rate, held_part)}
        found |= _simpler_rates(model, train_part, held_part)
        if settings.prior == "gmm":
            rates = {"rate": _mean_rate(rate, train_part), "validation_rate": found["validation_rate"]}
            history = [{"epoch": 1, "step": 0, "objective": rates["rate"], **rates}]
    return prior, history, found


def _plan_to_follow(
    plan: Plan,
    settings: PriorSettings,
    fitting: nn.Module,
    data: Codes,
    folder: RunFolder | None,
    deadline: float | None,
    lines: Lines | None,
) -> Plan:
    """`plan`, or that of the training in `folder` which is gone on with, made shorter where the time is not enough. The folder
    then records it.
    """
    config = folder.config() if folder else {}
    recorded = read_plan(config["plan"]) if "plan" in config else plan
    at, goal = (
        folder.checkpoint_step(recorded.steps) if folder else 0,
        plan.steps if deadline is None else recorded.steps,
    )
    chosen = recorded if goal == recorded.steps else recorded.towards(goal, at)
    if deadline is not None and at < goal:
        with seeded(derive_seed(plan.seed, "rehearsal")):
            fits = affordable(fitting, _rate, data, chosen, deadline)
        if fits < goal - at:
            chosen = recorded.towards(at + fits, at)
            chosen = replace(chosen, compile=chosen.compile and pays(filled(settings.prior), fits))
            if lines:
                lines.say(f"the time budget is enough for {fits:,} of {goal - at:,} steps")
    if folder and ("plan" not in config or chosen != recorded):
        folder.start({**config, "plan": asdict(chosen)})
    return chosen


@torch.no_grad()
def encode(model: Autoencoder, data: Data) -> Tensor:
    """Codes (N, h, w) int64, or moments (N, 2D), of all images, the model in eval mode."""
    model.eval()
    found = []
    size = data.at_once(model)
    with seeded(0):  # a latent draws, though only its moments are wanted
        for start in range(0, len(data), size):
            x, y = data.batch(slice(start, start + size))
            draw = model.latent(model.encoder(x, y))
            found.append(draw.mode if draw.moments is None else torch.cat(draw.moments, dim=1))
    return torch.cat(found)


def _rate(nats: Tensor, step: int) -> dict[str, Term]:
    return {"rate": Term(nats)}


class CodeRate(nn.Module):
    """Codes (B, h, w) -> (B,) nats, the rate of a certain q."""

    def __init__(self, prior: LearnedPrior):
        super().__init__()
        self.prior = prior

    def forward(self, codes: Tensor, y: Tensor | None = None) -> Tensor:
        return -self.prior.log_prob(codes, y)


class _LatentRate(nn.Module):
    """Moments (B, 2D) -> (B,) nats at one draw z ~ q(z|x): log q(z|x) - log p(z|y)."""

    def __init__(self, prior: Prior):
        super().__init__()
        self.prior = prior

    def forward(self, moments: Tensor, y: Tensor | None = None) -> Tensor:
        z, log_q = _draw(moments)
        return log_q - self.prior.log_prob(z, y)


class _VampRate(nn.Module):
    """As `_LatentRate`, for a VampPrior (Tomczak & Welling 2018, equation 9): a mixture of the posteriors of pseudo-inputs,
    images that are learned while the encoder stays as it is.
    """

    def __init__(self, prior: MixturePrior, model: Autoencoder, pseudo_inputs: Tensor, labels: Tensor | None):
        super().__init__()
        self.prior, self.images = prior, model.images
        self._frozen = [copy.deepcopy(model).eval().requires_grad_(False)]  # in a list: its weights are not saved here
        self.pseudo_inputs = nn.Parameter(pseudo_inputs)  # (G * M, C, H, W)
        self.register_buffer("pseudo_labels", labels)

    def _components(self) -> tuple[Tensor, Tensor]:
        """Means and log-variances (G, M, D)."""
        model = self._frozen[0]
        x = self.pseudo_inputs.clamp(0, 1) if self.images else self.pseudo_inputs
        mean, log_var = model.latent(model.encoder(x, self.pseudo_labels if model.n_classes else None)).moments
        shape = self.prior.means.shape
        return mean.view(shape), log_var.view(shape)

    def forward(self, moments: Tensor, y: Tensor | None = None) -> Tensor:
        z, log_q = _draw(moments)
        means, log_vars = self._components()
        group = torch.zeros(len(z), dtype=torch.int64, device=z.device) if y is None else y
        log_p = gaussian_log_prob(z[:, None], means[group], log_vars[group]).sum(-1)  # (B, M)
        return log_q - log_p.logsumexp(1) + math.log(self.prior.components)

    @torch.no_grad()
    def pack(self) -> None:
        """Writes the components into the prior."""
        with seeded(0):  # as in `encode`
            means, log_vars = self._components()
        self.prior.means.copy_(means)
        self.prior.precision_cholesky.copy_(torch.diag_embed(torch.exp(-0.5 * log_vars)))


def _fitting(settings, prior, model: Autoencoder, data: Data, labels, kept: Tensor, seed: int) -> nn.Module:
    """The module that the loop trains."""
    if settings.prior in FOR_CODES:
        return CodeRate(prior)
    if settings.prior == "flow":
        moments = encode(model, replace(data, x=data.x[kept], y=None if data.y is None else data.y[kept]))
        mean, log_var = moments.chunk(2, dim=1)
        prior.location.copy_(mean.mean(0))
        prior.scale.copy_((mean.var(0, unbiased=False) + log_var.exp().mean(0)).sqrt())
        return _LatentRate(prior)
    # A VampPrior starts from images of the data, `components` of each class.
    order = kept[torch.randperm(len(kept), generator=torch.Generator().manual_seed(derive_seed(seed, "pseudo")))]
    if prior.n_classes:
        groups = [order[labels[order] == label] for label in range(prior.n_classes)]
        chosen = torch.cat([_first(group, settings.components) for group in groups])
        pseudo_labels = torch.arange(prior.n_classes, device=data.x.device).repeat_interleave(settings.components)
    else:
        chosen, pseudo_labels = _first(order, settings.components), None
    images, _ = data.batch(chosen)
    return _VampRate(prior, model, images.contiguous(), pseudo_labels)


def _first(index: Tensor, n: int) -> Tensor:
    """The first n, from the start again where there are fewer."""
    return index.repeat(-(-n // len(index)))[:n]


def _draw(moments: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 2D) -> a draw z (B, D) and log q(z|x) (B,) nats."""
    mean, log_var = moments.chunk(2, dim=1)
    z = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)
    return z, gaussian_log_prob(z, mean, log_var).sum(1)


def _fit_gmm(prior: MixturePrior, data: Codes, seed: int, deadline: float | None = None) -> None:
    """scikit-learn's mixture, full covariances, on one posterior draw per image; one mixture for each class.

    Each covariance counts D + 1 images of the pooled one, that of all components, besides its own: n images that are fewer
    than latents span n - 1 directions, and samples would stay in them. A class with too few images for a mixture is one
    Gaussian, which leans on the covariance within all classes. In no direction is what is leant on narrower than posteriors
    are, whose draws the codes are.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    z, (centres, log_vars) = _draw(data.x)[0].cpu().double().numpy(), data.x.cpu().double().chunk(2, dim=1)
    labels = np.zeros(len(z), dtype=int) if data.y is None else data.y.cpu().numpy()
    members = [np.flatnonzero(labels == label) for label in range(max(1, prior.n_classes))]
    few = np.array([len(own) < max(2, prior.components) for own in members])
    counts, scatters, within = [], [], []  # (G, M), (G, M, D, D), (G, D, D)
    for index, own in enumerate(members):
        group = z[own]
        within.append(len(group) * np.cov(group.T, bias=True).reshape(2 * z.shape[1:]))
        if few[index]:  # its mean is that of the posteriors, which a draw of one image would blur
            prior.means[index] = centres[own].mean(0)
            counts.append(np.full(prior.components, len(group) - 1.0))
            scatters.append(np.broadcast_to(within[-1], (prior.components, *within[-1].shape)))
            continue
        if len(group) > MOST_FOR_GMM:
            group = group[np.random.default_rng(seed).permutation(len(group))[:MOST_FOR_GMM]]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the held-out rate tells how good it is
            mixture = GaussianMixture(
                prior.components, covariance_type="full", reg_covar=LEAST_VARIANCE, max_iter=100, random_state=seed
            )
            _iterate(mixture, group, deadline)
        weights = np.asarray(mixture.weights_)
        prior.log_weights[index] = torch.from_numpy(np.log(np.maximum(weights, 1e-12)))
        prior.means[index] = torch.from_numpy(np.asarray(mixture.means_))
        counts.append(len(group) * weights)
        scatters.append(counts[-1][:, None, None] * mixture.covariances_)
    n, scatter, extra = np.stack(counts)[..., None, None], np.stack(scatters), prior.latent_dim + 1
    pooled = np.empty((len(members), 1, *scatter.shape[2:]))
    pooled[few] = sum(within) / max(1, len(z) - len(members))
    pooled[~few] = scatter[~few].sum((0, 1)) / max(1.0, n[~few].sum())
    if prior.n_classes or len(z) <= prior.latent_dim:
        variance = np.maximum(log_vars.exp().mean(0).numpy(), LEAST_VARIANCE)
        pooled = np.stack([[_at_least(matrix, variance) for matrix in matrices] for matrices in pooled])
    cholesky = np.linalg.cholesky((scatter + extra * pooled) / (n + extra))
    prior.precision_cholesky.copy_(torch.from_numpy(np.linalg.inv(cholesky)).mT)


def _at_least(covariance: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """`covariance` (D, D), made as wide as the diagonal one of `variance` (D,) in directions where it is narrower."""
    scale = np.sqrt(variance)
    values, vectors = np.linalg.eigh(covariance / np.outer(scale, scale))
    if values.min() >= 1:
        return covariance
    root = scale[:, None] * vectors * np.sqrt(np.maximum(values, 1))
    return root @ root.T


def _iterate(mixture, z: np.ndarray, deadline: float | None) -> None:
    """`mixture.fit(z)`, iteration by iteration where a `deadline`, a reading of `time.monotonic`, may cut it short."""
    if deadline is None:
        mixture.fit(z)
        return
    most = mixture.max_iter
    mixture.set_params(max_iter=1, warm_start=True)
    for _ in range(most):
        mixture.fit(z)
        if mixture.converged_ or time.monotonic() >= deadline:
            break


def _mean_rate(rate: nn.Module, data: Codes) -> float:
    total, size = 0.0, data.at_once(rate)
    for start in range(0, len(data), size):
        total += rate(*data.batch(slice(start, start + size))).double().sum().item()
    return total / len(data)


def _simpler_rates(model: Autoencoder, train_part: Codes, held_part: Codes) -> dict[str, float]:
    """Rates of the held-out images under what a fitted prior has to beat: `plain_rate` is that of N(0, I) or of the uniform
    prior; `position_rate` that of the frequencies of the codes at each position, counted in the training part.
    """
    if train_part.x.dtype != torch.int64:
        plain = StandardNormalPrior(latent_dim=model.latent.latent_dim).to(held_part.x.device)
        return {"plain_rate": _mean_rate(_LatentRate(plain), held_part)}
    codes, held = train_part.x.flatten(1), held_part.x.flatten(1)
    k, positions = model.latent.n_codes, codes.shape[1]
    cell = torch.arange(positions, device=codes.device) * k
    counts = torch.bincount((codes + cell).flatten(), minlength=k * positions).double().view(positions, k) + 1
    nats = -(counts / counts.sum(1, keepdim=True)).log().flatten()[held + cell].sum(1)
    return {"plain_rate": positions * math.log(k), "position_rate": nats.mean().item()}
