"""The figures of the report, each entered once in a list.

A figure of your own joins them by an entry, in which no model has to be named:
`FIGURES.append(Entry("mine", "Mine", draw_mine, wants=gaussian))`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from vaekit.completion import complete
from vaekit.data import Images
from vaekit.data.splits import evenly
from vaekit.evaluation.measures import LABEL_GIVEN
from vaekit.fitted import Fitted
from vaekit.messages import filled
from vaekit.pictures import charts, planes, sheets
from vaekit.pictures.fonts import shortened
from vaekit.pictures.style import on_dark, save
from vaekit.report.entry import (
    SHOWN,
    Compared,
    Drawn,
    Entry,
    asked_by_label,
    asked_by_prior,
    completes,
    discrete,
    fitted,
    fitted_to_codes,
    gaussian,
    label_of,
)
from vaekit.report.living import MOST_CLASSES, TRAVERSED, traverse
from vaekit.report.measure import label_names, pick
from vaekit.report.page import Picture, joined

COLUMNS = 20  # classes in a picture of samples by class
TEMPERATURES = (0.25, 0.5, 0.75, 1.0, 1.25)


# ---- of all models -----------------------------------------------------------------------------------------------------


def draw_overview(compared: Compared, models: Mapping[str, Fitted]) -> Drawn:
    """The inputs' classes are asked for where every model can be asked."""
    shown, labels = compared.shown, [label_of(name) for name in models]
    names = None if shown.y is None else np.asarray(shown.classes)[shown.y]
    asked = names is not None and all(model.sampling_classes("fitted") is not None for model in models.values())
    if asked:
        samples = {label_of(name): compared.draws(model, len(shown), names) for name, model in models.items()}
    else:
        samples = {label: compared.samples[label][: len(shown)] for label in labels}
    return Drawn(
        sheets.overview(
            shown.x,
            {label: (compared.rebuilt[label], samples[label]) for label in labels},
            names=compared.shown_names,
            asked=asked,
        ),
        "Test images and what each model makes of them; beside these, new images"
        f"{' of the classes above them' if asked else ''}.{_without_prior(compared)}{_noise(compared.unfitted_noise)}",
        f"Test images, their reconstructions by {compared.labels}, and samples of each.",
    )


def draw_training(compared: Compared, models: Mapping[str, Fitted]) -> Drawn:
    return Drawn(
        charts.training_curves({label_of(name): model.history for name, model in models.items()}),
        "Each term of each objective over the epochs, the first steep fall cut off: look for curves that have come to rest, "
        "and for a rate that neither vanishes (posterior collapse) nor still climbs.",
        f"Training curves of {compared.labels}, one panel per term.",
    )


def draw_rates(compared: Compared, models: Mapping[str, Fitted]) -> Drawn:
    """Under one likelihood, the first model's; one of a conditional model, which is given the label, is shown beside it."""
    base = compared.entries[0]["likelihood"].removesuffix(LABEL_GIVEN)
    points: dict[str, list[tuple[float, float]]] = {}
    for entry in compared.entries:
        if entry["likelihood"].removesuffix(LABEL_GIVEN) == base:
            points.setdefault(f"{entry['label']}, {entry['prior']}", []).append((entry["rate"], entry["distortion"]))
    return Drawn(
        charts.rate_distortion(points),
        f"What each model pays in the latent (rate) for what it explains of the image (distortion), likelihood {base}: further "
        "down and to the left is better, and points on one dashed line have the same ELBO.",
        "Distortion against rate, a point per run, with lines of equal ELBO.",
    )


def of_sweep(field: str, xlabel: str, title: str, look: str) -> Entry:
    """The loss against one field."""

    def draw_sweep(compared: Compared, models: Mapping[str, Fitted]) -> Drawn | None:
        if field not in compared.sweeps:
            return None
        points = compared.sweeps[field]
        ys = {
            "-ELBO": [-point["elbo"] for point in points],
            "distortion": [point["distortion"] for point in points],
            "rate": [point["rate"] for point in points],
        }
        return Drawn(
            charts.curve(
                [point["value"] for point in points], ys, xlabel=xlabel, ylabel="nats per image (test)", title=title
            ),
            f"One seed, {compared.sweeps['epochs']} epochs a point: {look}.",
            f"-ELBO, distortion and rate on the test images against {xlabel}.",
        )

    return Entry(field, title, draw_sweep)


def draw_samples(compared: Compared, models: Mapping[str, Fitted]) -> Drawn:
    return Drawn(
        sheets.sample_sheets(compared.samples),
        f"64 draws per model from its {'fitted' if compared.any_fitted else 'plain'} prior: look for variety, and for images "
        f"that could be real.{_without_prior(compared)}{_noise(compared.unfitted_noise)}",
        f"Sheets of 64 samples each from {compared.labels}.",
    )


def draw_priors(compared: Compared, models: Mapping[str, Fitted]) -> Drawn:
    now = {
        f"{label_of(name)}: {model.prior.name if model.prior else model.prior_name}": compared.samples[label_of(name)]
        for name, model in compared.models.items()
    }
    return Drawn(
        sheets.rows_of_sheets({"plain prior": compared.plain, "fitted prior": now}, rows=4),
        "The same decoders, above with codes from the prior of the training, below with codes from a prior fitted "
        f"afterwards: look for fewer shapes that are no image.{_without_prior(compared)}{_noise(compared.noisy)}",
        f"Samples from {compared.labels} under the plain prior above, and under the fitted prior below.",
    )


def _without_prior(compared: Compared) -> str:
    if not (compared.any_fitted and compared.unfitted):
        return ""
    return f" {', '.join(compared.unfitted)}: without a fitted prior, so from the plain one."


def _noise(labels: Sequence[str]) -> str:
    if not labels:
        return ""
    return f" A {joined(labels)}'s codes are then drawn uniformly, which knows nothing of images."


def draw_reconstructions(compared: Compared, models: Mapping[str, Fitted]) -> Drawn:
    return Drawn(
        sheets.reconstructions(compared.shown.x, compared.rebuilt, names=compared.shown_names),
        "The same test images through every model, with the absolute error below: look for what is blurred, bent or missing.",
        f"Test images, their reconstructions by {compared.labels}, and error maps.",
    )


# ---- of latents --------------------------------------------------------------------------------------------------------


def draw_planes(compared: Compared, models: Mapping[str, Fitted]) -> Drawn | None:
    part = compared.test.take(pick(len(compared.test), 5000))
    y = part.y if len(part.classes) <= MOST_CLASSES else None  # there are no more colours and markers
    spaces = {
        f"{label_of(name)}, d=2": (model.transform(part.x, label_names(model, part)), y)
        for name, model in compared.planar.items()
    }
    codebooks, axis_names = {}, {}
    for name, model in models.items():
        if model.discrete and model.module.latent.features == model.module.latent.width:
            label = f"{label_of(name)} vectors before quantisation"
            vectors, labels, codebook, axes = _code_vectors(model, part, y)
            spaces[label], codebooks[label], axis_names[label] = (vectors, labels), codebook, axes
    if not spaces:
        return None
    looks = _looks(models, labelled=y is not None)
    return Drawn(
        planes.latent_space(spaces, part.classes, codebooks=codebooks, axis_names=axis_names),
        "Test images in two dimensions" + (f": {'; '.join(looks)}" if looks else "") + ".",
        "Scatter plots of latent vectors" + (", coloured by class." if y is not None else "."),
    )


def _looks(models: Mapping[str, Fitted], *, labelled: bool) -> list[str]:
    """What to look for in planes, of the first model of each sort."""
    sorts = (
        (gaussian, labelled, "look whether a {label} separates classes it was never told"),
        (asked_by_label, labelled, "a {label} should not, since its z carries what the label doesn't"),
        (discrete, True, "a {label}'s vectors gather around codes"),
    )
    found = []
    for is_one, can_be_seen, text in sorts:
        name = next((name for name, model in models.items() if is_one(model)), None)
        if name is not None and can_be_seen:
            found.append(text.format(label=label_of(name)))
    return found


def _code_vectors(
    model: Fitted, part: Images, y: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray, tuple[str, str]]:
    """Encoder vectors before quantisation, a random few thousand, with their image's class in `y`, and the codebook, in 2-D."""
    data = model.data(part.take(pick(len(part), 1000)))
    with torch.inference_mode():
        h = model.module.encoder(*data.batch(slice(None)))
    dim, cells = h.shape[1], h[0, 0].numel()
    vectors = h.movedim(1, -1).reshape(-1, dim).cpu().numpy()
    chosen = np.random.default_rng(0).permutation(len(vectors))[:4000]
    labels = None if y is None else np.repeat(y[: len(h)], cells)[chosen]
    codebook = model.module.latent.vectors().detach().cpu().numpy()
    if dim == 2:
        return vectors[chosen], labels, codebook, ("dimension 1", "dimension 2")
    from sklearn.decomposition import PCA

    pca = PCA(2, random_state=0).fit(vectors)
    shares = pca.explained_variance_ratio_
    first, second = (f"principal component {i + 1} ({share:.0%})" for i, share in enumerate(shares))
    return pca.transform(vectors[chosen]), labels, pca.transform(codebook), (first, second)


def draw_manifold(compared: Compared, models: Mapping[str, Fitted]) -> Drawn | None:
    """Of the first model that there is in two dimensions."""
    name = next((name for name in models if name in compared.planar), None)
    if name is None:
        return None
    low, high, steps = -2.5, 2.5, 20
    ticks = np.linspace(low, high, steps)
    z = np.stack(np.meshgrid(ticks, ticks[::-1]), axis=-1).reshape(-1, 2)
    images = compared.planar[name].inverse_transform(z)
    return Drawn(
        planes.manifold(
            images.reshape(steps, steps, *images.shape[1:]),
            low,
            high,
            title=f"decoded plane of the d=2 {label_of(name)}",
        ),
        "The 2-D latent plane decoded point by point: look for smooth changes from one class to the next, without gaps.",
        "A 20 by 20 grid of images decoded over the latent plane from -2.5 to 2.5.",
    )


def draw_traversals(compared: Compared, models: Mapping[str, Fitted]) -> Drawn | None:
    kl: dict[str, list[float]] = {}  # of the first run of each
    for entry in compared.entries:
        if entry["name"] in models and "kl_per_latent" in entry:
            kl.setdefault(entry["name"], entry["kl_per_latent"])
    if not kl:
        return None
    most = max(map(len, kl.values()))
    return Drawn(
        sheets.traversals({label_of(name): traverse(models[name], compared.test, kl[name], 11) for name in kl}),
        "One test image with one latent moved at a time, rows ordered by how much each latent tells (KL): look for rows "
        "that change one thing smoothly, and for rows of little KL in which nothing moves"
        + (f"; of {most} latents the {TRAVERSED} that tell most." if most > TRAVERSED else "."),
        "Rows of images, each row moving one latent from -2.5 to 2.5.",
    )


# ---- of one model ------------------------------------------------------------------------------------------------------


def draw_sheet(compared: Compared, name: str, model: Fitted) -> Drawn:
    label = label_of(name)
    title = f"{label}: 64 samples"
    return Drawn(sheets.image_grid(compared.samples[label], title=title), "", "")


def draw_classes(compared: Compared, name: str, model: Fitted) -> Drawn:
    label, seed = label_of(name), compared.seed
    classes = filled(model.sampling_classes())
    shown = np.asarray(classes)[evenly(len(classes), COLUMNS)]
    some = f" ({len(shown)} of {len(classes)} classes)" if len(shown) < len(classes) else ""
    rows = 8
    sheet = model.sample(rows * len(shown), np.tile(shown, rows), random_state=seed)
    chosen = shown[min(8, len(shown) - 1)]
    return Drawn(
        sheets.by_class(
            sheet.reshape(rows, len(shown), *sheet.shape[1:]),
            [str(name) for name in shown],
            title=f"{label} samples, a column a class{some}",
            chosen=model.sample(64, chosen, random_state=seed),
            chosen_title=f"64 samples of class {shortened(chosen)}",
        ),
        f"What comes when a class is asked for{some}: every image in a column should be of that class, and no two alike.",
        f"A grid of {label} samples with one column per class, and 64 samples of one class.",
    )


def draw_temperatures(compared: Compared, name: str, model: Fitted) -> Drawn:
    classes = model.sampling_classes()
    labels = None if classes is None else np.resize(np.asarray(classes)[evenly(len(classes), SHOWN)], SHOWN)
    rows = {
        f"temperature {t:g}": model.sample(SHOWN, labels, temperature=t, random_state=compared.seed)
        for t in TEMPERATURES
    }
    return Drawn(
        sheets.labelled_rows(rows, names=None if labels is None else [str(label) for label in labels]),
        "The same random numbers at different temperatures: low ones give the likeliest, plainest images, high ones more "
        "variety and more errors.",
        f"Rows of {label_of(name)} samples, one row per temperature.",
    )


def draw_completions(compared: Compared, name: str, model: Fitted) -> Drawn:
    shown, classes = compared.shown, model.sampling_classes()
    known = np.zeros(shown.x.shape[1:3], dtype=bool)
    known[: (len(known) + 1) // 2] = True
    # Labels as the prior knows them: the data's own classes, by index.
    given = None if classes is None or shown.y is None else np.asarray(classes)[shown.y]
    completed = {
        f"completed, {turn}": complete(model, shown.x, known, given, random_state=compared.seed + turn)
        for turn in (1, 2, 3)
    }
    hidden = np.where(known[None, :, :, None], shown.x, _grey(shown.x))
    return Drawn(
        sheets.labelled_rows({"image": shown.x, "given": hidden, **completed}, names=compared.shown_names),
        "The prior is given the codes of the upper half of test images"
        + (" and their class" if given is not None else "")
        + " and draws the others three times: look whether the halves fit, and whether the lower ones differ.",
        "Test images, their upper halves, and three completions of each.",
    )


def _grey(x: np.ndarray) -> np.ndarray:
    return np.asarray(160 if x.dtype == np.uint8 else 160 / 255, dtype=x.dtype)


def draw_codes(compared: Compared, name: str, model: Fitted) -> Drawn:
    shown = compared.shown
    counts = np.bincount(model.encode(compared.test.x).ravel(), minlength=model.module.latent.n_codes)
    return Drawn(
        sheets.codes(
            shown.x, compared.rebuilt[label_of(name)], model.encode(shown.x), counts, names=compared.shown_names
        ),
        "What the decoder is given: a grid of code numbers, a colour per code; below, how evenly the codebook is used over "
        "the test images.",
        "Test images, their code maps and reconstructions, and a bar chart of codebook usage.",
    )


FIGURES = [
    Entry("overview", "At a glance", draw_overview),
    Entry("training", "Training", draw_training),
    Entry("rate_distortion", "Rate and distortion", draw_rates),
    of_sweep(
        "latent_dim",
        "latent dimension",
        "Loss against the latent dimension",
        "where the curves flatten, more latents no longer pay",
    ),
    of_sweep("beta", "beta", "Loss against beta", "look how much distortion a lower rate costs"),
    Entry("samples", "Samples", draw_samples),
    Entry("priors", "Plain and fitted priors", draw_priors, wants=fitted),
    Entry("samples_{name}", "", draw_sheet, each=True),
    Entry("latent_space", "Latent spaces", draw_planes),
    Entry("manifold", "The manifold", draw_manifold, wants=gaussian),
    Entry("traversals", "Traversals", draw_traversals, wants=gaussian),
    Entry("by_class", "{label}: samples by class", draw_classes, wants=asked_by_label, each=True),
    Entry("by_class_{name}", "{label}: samples by class", draw_classes, wants=asked_by_prior, each=True),
    Entry("temperature", "{label}: temperature", draw_temperatures, wants=fitted_to_codes, each=True),
    Entry("completion", "{label}: the rest of half an image", draw_completions, wants=completes, each=True),
    Entry("reconstructions", "Reconstructions", draw_reconstructions),
    Entry("codes", "{label} codes", draw_codes, wants=discrete, each=True),
]
"""In the order in which the page shows them, the first above all numbers."""


def draw(compared: Compared, folder: Path) -> list[Picture]:
    """Every figure of the list for what was `compared`: saves the PNGs, returns those of the page with their words."""
    pictures: list[Picture] = []
    for entry in FIGURES:
        for file, title, drawn in entry.of(compared):
            if drawn is None:
                continue
            saved = save(drawn.figure, folder / f"{file}.png")
            if title:
                pictures.append(Picture(saved, title, drawn.text, drawn.alt, on_dark(drawn.figure, saved)))
    return pictures
