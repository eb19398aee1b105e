"""The fields of the models: at once the constructor of an estimator, the flags of `vaekit train` and what `run.json` keeps.
They stand apart from what is done with them, so that they are read without torch.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(kw_only=True, repr=False, eq=False)
class Fields:
    """What every model shares."""

    latent_dim: int | None = None
    """Width of the latent vector z; by default 10, for pictures of 32x32 or more a 48th of their values, as a power of 2 from
    16 to 256, and 4 for each cell of a grid."""
    grid: bool = False
    """Latents of places: z is a grid of vectors, each of a part of the picture. It keeps far more of a picture than one vector,
    and has good samples only once a flow is fitted to it (`vaekit fit-prior --prior matching`)."""
    architecture: str | None = None
    """conv, resnet, mlp or wang2023 (the report's networks); by default conv for images and mlp for tables."""
    width: int | None = None
    """Width of the mlp's wider hidden layer, the other has half of it; by default 512 for images, and for tables 128, or 512
    from 1,000 rows on. Of conv and resnet that of a layer between convolutions and a vector of latents; by default 208, and 0,
    which is none, for pictures of 32x32 or more with 64 latents or more."""
    likelihood: str | None = None
    """gaussian (sigma learned), gaussian_columns (a sigma for each column of a table), gaussian_fixed, bernoulli or
    discretized_logistic; by default gaussian, for tables gaussian_columns, for wang2023 gaussian_fixed."""
    likelihood_variance: float = 0.098
    """Variance of gaussian_fixed, the report's lambda; intensities are in [0, 1]."""
    scaling: str = "standard"
    """Of a table's columns: standard (mean and standard deviation), log (first the logarithm of positive columns), robust
    (first median and quartiles, with the tails drawn in) or auto (log or robust for columns that need it)."""
    epochs: int | None = None
    """Passes over the data; by default about 6,000 steps, in 12 epochs or more, and in 50 or fewer where those are 1,000 steps
    (50 for wang2023); a third of these for a grid; where muon learns a vector of small pictures, half, and 50 where those are
    300 steps."""
    batch_size: int | None = None
    """Images per step; by default 128, or 64 below 5,000 images (100 for wang2023)."""
    accumulate: int = 1
    """Rounds in which the images of a step are looked at, which takes as many times less memory and comes to the same, but for
    a batch norm (wang2023) and a beta-TCVAE's estimate, which see a round at a time. With more than 1 nothing is compiled."""
    optimizer: str | None = None
    """adam, or muon (Jordan et al. 2024), which moves layers by whole matrices and leaves the rest to adam; by default muon for
    conv and resnet (a VQ-VAE's on 16x16 or more), else adam."""
    learning_rate: float | None = None
    """Peak learning rate; by default 0.004, 0.002 below 5,000 images and for a VQ-VAE's adam (0.005 for wang2023). With muon
    0.01."""
    schedule: str | None = None
    """linear or cosine (both fall to zero at the end) or constant; by default linear with muon, cosine with adam, constant for
    wang2023."""
    warmup_steps: int | None = None
    """Steps over which the learning rate rises to its peak; by default a fifth of all, a fiftieth with muon but for a
    VQ-VAE, at most 200 (0 for wang2023)."""
    rate_warmup_epochs: float | None = None
    """Epochs over which the weight of the rate rises from 0; by default a tenth of all, at most 500 steps (0 for wang2023)."""
    weight_decay: float | None = None
    """By how much of themselves the weights of layers shrink in a step, in parts of its learning rate (Loshchilov & Hutter
    2019); by default with muon 1, and 0.5 for a grid and a VQ-VAE, of 5,000 images or fewer, and less in proportion of more;
    else 0."""
    gradient_clip: float | None = None
    """Largest norm of the gradient; by default it is not clipped."""
    augment: str | None = None
    """What makes training images differ each time they are looked at, with commas between: shift (by up to a sixteenth of the
    side), flip (left and right) and colour (each channel brighter or darker); by default nothing. For few pictures, and only
    where an image so changed is still one of its kind: a flipped letter is none."""
    early_stopping: bool = False
    """Stop when the validation objective no longer improves, and keep the best weights."""
    n_iter_no_change: int = 10
    """Epochs without improvement before an early stop."""
    validation_fraction: float = 0.1
    """Share of the training data held out for early stopping where no validation data is given."""
    random_state: int | None = None
    """Seed of everything random; by default drawn from numpy's global state, as in scikit-learn."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    precision: str | None = None
    """float32 or bfloat16, that of products in training; by default bfloat16 for conv and resnet, where the processor
    multiplies it in hardware, on pictures of 32x32 or more and on 5,000 or more smaller ones, else float32."""
    compile: bool | None = None
    """Compile the training step, which changes results by rounding alone; by default where the run is long enough to gain by
    it: from 6,000 steps on for wang2023, 20,000 for conv, 25,000 for the mlp, never for a VQ-VAE."""
    verbose: bool = False
    """Progress on standard error."""


@dataclass(kw_only=True, repr=False, eq=False)
class VAEFields(Fields):
    """Variational autoencoder (Kingma & Welling 2014): Gaussian latent, standard normal prior, no field of its own."""


@dataclass(kw_only=True, repr=False, eq=False)
class BetaVAEFields(Fields):
    """beta-VAE (Higgins et al. 2017): the weight of the rate, fixed or learned."""

    beta: float | None = None
    """Weight of the rate, >= 0; by default sqrt(values per image) / 2.8: 2.9 for 8x8, 10 for 28x28 (1.5 for wang2023, as in
    the report)."""
    epsilon: float | None = None
    """Target of the rate in nats per image: beta becomes its Lagrange multiplier, starting at 1. By default beta is fixed."""


@dataclass(kw_only=True, repr=False, eq=False)
class CVAEFields(Fields):
    """Conditional VAE (Sohn, Lee & Yan 2015): the weight of the rate."""

    beta: float | None = None
    """Weight of the rate, >= 0; by default sqrt(values per image) / 2.8: 2.9 for 8x8, 10 for 28x28, and 1 for a grid, for
    pictures in colours of 32x32 or more, and for wang2023 as in the report. Above 1, since samples come from the prior: the
    less z tells beyond the label, the surer is a sample's class. Pictures in colours would be a fog; for these `fit-prior`
    finds where z lies."""


@dataclass(kw_only=True, repr=False, eq=False)
class IWAEFields(Fields):
    """Importance-weighted autoencoder (Burda, Grosse & Salakhutdinov 2016): the number of draws."""

    k: int = 5
    """Importance-weighted draws per image, >= 1, for which the decoder works k times. 1 is the VAE."""
    elbo_epochs: float | None = None
    """Epochs, the first ones, that go by the ELBO of one draw, in a fraction of the others' time; by default half of all
    (0 for wang2023). 0 is the paper's training: better by a little in as many epochs, which take longer."""


@dataclass(kw_only=True, repr=False, eq=False)
class BetaTCVAEFields(Fields):
    """beta-TCVAE (Chen, Li, Grosse & Duvenaud 2018): the weights of the parts of the rate."""

    alpha: float = 1.0
    """Weight of the mutual information of image and latents, >= 0."""
    beta: float = 6.0
    """Weight of the total correlation, >= 0; 6 is the paper's."""
    gamma: float = 1.0
    """Weight of the latents' own KLs from the prior, >= 0."""


@dataclass(kw_only=True, repr=False, eq=False)
class VQVAEFields(Fields):
    """VQ-VAE (van den Oord, Vinyals & Kavukcuoglu 2017): the codebook and how it is learned."""

    n_codes: int | None = None
    """K, the size of the codebook; by default 256 (10 for wang2023). Lowered to the number of training vectors."""
    code_dim: int | None = None
    """D, the width of a codebook vector; by default 16 (2 for wang2023)."""
    commitment: float = 0.25
    """beta, the weight of ||sg(z_q) - z_e||^2."""
    codebook_weight: float = 1.0
    """alpha, the weight of ||sg(z_e) - z_q||^2; has no part with EMA."""
    ema: float | None = None
    """Decay of the codebook's moving averages; 0 learns it by gradient. By default 0.99 (0 for wang2023)."""
    codebook_init: str | None = None
    """kmeans, data (random encoder outputs) or uniform; by default kmeans (uniform for wang2023)."""
    revive: float | None = None
    """Codes used less than this share of their fair part are moved to data; 0 never. By default 0.1 (0 for wang2023)."""
