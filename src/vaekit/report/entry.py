"""What a figure of the report is: an entry that says what it wants of a model and how it is drawn, from what was compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from vaekit.data import Images
from vaekit.data.splits import spread
from vaekit.fitted import Fitted
from vaekit.messages import filled
from vaekit.registry import MODELS
from vaekit.report.measure import label_names

SHOWN = 10  # test images in pictures of reconstructions


def label_of(name: str) -> str:
    """In the report's words, of a model's name on the command line."""
    return MODELS[name].label


@dataclass(frozen=True)
class Compared:
    """What figures are of: `models` by their names on the command line, and those trained anew with two latents; `sweeps` and
    `entries`, a line per run, as results.json has them; test images; the seed of what is drawn.
    """

    models: Mapping[str, Fitted]
    planar: Mapping[str, Fitted]
    sweeps: dict
    entries: Sequence[dict]
    test: Images
    seed: int

    @property
    def labels(self) -> str:
        """Of all models, in a sentence."""
        return ", ".join(label_of(name) for name in self.models)

    @property
    def unfitted(self) -> list[str]:
        """The labels of the models without a fitted prior."""
        return [label_of(name) for name, model in self.models.items() if not model.has_prior]

    @property
    def any_fitted(self) -> bool:
        """Whether a model has a fitted prior."""
        return len(self.unfitted) < len(self.models)

    @property
    def noisy(self) -> list[str]:
        """The labels of the models whose draws from the prior of their training are noise."""
        return [label_of(name) for name, model in self.models.items() if not model.plain_prior.gives_images]

    @property
    def unfitted_noise(self) -> list[str]:
        """Those of `noisy` that have no fitted prior."""
        return [label for label in self.noisy if label in self.unfitted]

    def draws(self, model: Fitted, n: int, labels: np.ndarray | None = None) -> np.ndarray:
        """`n` images of `model` from its fitted prior, or where it has none from that of its training."""
        return model.sample(n, labels, random_state=self.seed, prior="fitted" if model.has_prior else "plain")

    @cached_property
    def plain(self) -> dict[str, np.ndarray]:
        """By label, 64 draws of each model from the prior of its training."""
        return {
            label_of(name): model.sample(64, random_state=self.seed, prior="plain")
            for name, model in self.models.items()
        }

    @cached_property
    def samples(self) -> dict[str, np.ndarray]:
        """By label, 64 draws of each model from its fitted prior, or where it has none from the other."""
        return {
            label_of(name): self.draws(model, 64) if model.has_prior else self.plain[label_of(name)]
            for name, model in self.models.items()
        }

    @cached_property
    def shown(self) -> Images:
        """A few test images, the same for every figure."""
        return self.test.take(spread(self.test, SHOWN))

    @property
    def shown_names(self) -> list[str] | None:
        """The classes of `shown`, where there are any."""
        return None if self.shown.y is None else [str(self.shown.classes[label]) for label in self.shown.y]

    @cached_property
    def rebuilt(self) -> dict[str, np.ndarray]:
        """By label, the reconstructions of `shown`."""
        return {
            label_of(name): model.reconstruct(self.shown.x, label_names(model, self.shown))
            for name, model in self.models.items()
        }


class Drawn(NamedTuple):
    """A figure (of `vaekit.pictures`, or pyplot's), a sentence on what to look for, and a text for who can't see it."""

    figure: Figure
    text: str
    alt: str


def anything(model: Fitted) -> bool:
    """For figures that any model is in."""
    return True


def gaussian(model: Fitted) -> bool:
    """Whether a vector that knows no label is all that the decoder is given."""
    return not model.discrete and not model.conditional


def discrete(model: Fitted) -> bool:
    """Whether codes are indices."""
    return model.discrete


def asked_by_label(model: Fitted) -> bool:
    """Whether it has learned with labels."""
    return model.conditional


def asked_by_prior(model: Fitted) -> bool:
    """Whether a prior of its codes alone knows labels. That of a vector does its part in the figure of priors."""
    return model.discrete and not model.conditional and model.sampling_classes() is not None


def fitted(model: Fitted) -> bool:
    """Whether it has a fitted prior."""
    return model.has_prior


def fitted_to_codes(model: Fitted) -> bool:
    """Whether it has a fitted prior of codes."""
    return model.discrete and model.has_prior


def completes(model: Fitted) -> bool:
    """Whether its fitted prior draws codes one after the other, and these have their places in the image."""
    return fitted_to_codes(model) and model.codes_have_places and "top_k" in filled(model.prior).module.choices


class Entry(NamedTuple):
    """A figure of the report.

    file, title: of the PNG, and on the page, which a figure without a title is not on. draw: `draw(compared, models)` of those
    models, by name, that have what it `wants`, or None where it finds nothing to show; it is not asked where no model has it.
    each: the figure is drawn for every such model apart, by `draw(compared, name, model)`; {name} and {label} in file and title
    are the model's. A file without {name} is the first model's, and the others' have it added.
    """

    file: str
    title: str
    draw: Callable[..., Drawn | None]
    wants: Callable[[Fitted], bool] = anything
    each: bool = False

    def of(self, compared: Compared) -> Iterator[tuple[str, str, Drawn | None]]:
        """File, title and what is drawn: once, or for each model."""
        models = {name: model for name, model in compared.models.items() if self.wants(model)}
        if not self.each:
            if models:
                yield self.file, self.title, self.draw(compared, models)
            return
        for index, (name, model) in enumerate(models.items()):
            file = self.file if index == 0 or "{name}" in self.file else f"{self.file}_{{name}}"
            yield file.format(name=name), self.title.format(label=label_of(name)), self.draw(compared, name, model)
