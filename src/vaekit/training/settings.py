"""The settings of a fitted prior: at once keywords of `fit_prior` and flags of `vaekit fit-prior`, read without torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class PriorSettings:
    """What kind of prior, and how it is trained. A field that is None is filled in for the model and the data."""

    prior: str | None = None
    """gmm, vamp, flow (couplings) or matching (flow matching) for Gaussian latents; pixelcnn or transformer for codes. By
    default gmm, matching for a grid, and pixelcnn."""
    components: int | None = None
    """Of a gmm or vamp, for each class; by default as many as the data can tell: 20 images per number in a component, at
    most 100 (20 with classes), and one for a class with fewer images than that gives; 200 (50 with classes) for vamp, whose
    components are narrow."""
    layers: int | None = None
    """Depth: by default 8 of a flow, 2 for each resolution of a matching's field, 6 of a pixelcnn and 4 of a transformer (4 and
    3 below 5,000 images). The report's PixelCNN has 15."""
    channels: int | None = None
    """Width: by default 64 of a flow, a matching (a vector's field has 4 times as many, a grid's twice at half its sides) and a
    pixelcnn, 128 of a transformer. The report's PixelCNN has 128."""
    dropout: float | None = None
    """Of a pixelcnn or transformer; by default 0, or 0.5 below 30,000 images (transformer: 5,000)."""
    epochs: int | None = None
    """Passes over the images; by default about 7,000 steps, at most 20 epochs (pixelcnn by muon: 3,000, 20; flow: 4,000,
    100; matching: 1,200, 100; vamp: 400, 20)."""
    batch_size: int | None = None
    """Images per step; by default 64 for codes and grids, 128 for latents."""
    accumulate: int = 1
    """Rounds in which the images of a step are looked at, which takes as many times less memory."""
    optimizer: str | None = None
    """adam or muon; by default muon for a matching of a grid and a pixelcnn of 64 places or more, else adam."""
    learning_rate: float | None = None
    """Peak learning rate, cosine to zero; by default 0.003 (pixelcnn; 0.005 by muon), 0.001 (matching; 0.005 by
    muon), 0.002 (transformer, flow) or 0.01 (vamp)."""
    validation_fraction: float = 0.05
    """Share of the images held out, of each class alike, whose rate chooses the epoch that is kept and is reported. With 0, or
    one image of each class, those trained on stand for them."""
    precision: str | None = None
    """float32 or bfloat16; by default bfloat16 for codes of 5,000 images or more where the processor has it in hardware."""
    compile: bool | None = None
    """Compile the training step, which changes results by rounding alone; by default for a pixelcnn from 4,500 steps on."""
    random_state: int | None = None
    """Seed of everything random; by default the model's own."""
