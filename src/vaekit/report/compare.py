"""The main job: train models on the same data, evaluate them alike, and write the report that compares them.

Each (model, seed) is a run folder under REPORT/runs, so that an interrupted comparison goes on where it was.
"""

from __future__ import annotations

import json
import platform
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from vaekit import __version__
from vaekit.completion import complete
from vaekit.data import Images, open_data
from vaekit.data.opening import inputs_of, opening_flags
from vaekit.data.splits import evenly, spread
from vaekit.evaluation.generation import get_judge
from vaekit.evaluation.likelihood import evaluate
from vaekit.fitted import Fitted
from vaekit.messages import filled, first_line
from vaekit.owned import check_folder, locked, remove_temporaries, write_atomically
from vaekit.pictures import figures
from vaekit.pictures.fonts import shortened
from vaekit.pictures.style import on_dark, save
from vaekit.registry import MODELS
from vaekit.report.doctor import examine
from vaekit.report.living import MOST_CLASSES, RUNS, living_figures, living_run, traverse
from vaekit.report.measure import PER_CLASS, label_names, measure_run, pick
from vaekit.report.page import Picture, write_page
from vaekit.second_stage import fit_prior_to, stage_of
from vaekit.state import undisturbed
from vaekit.training.checkpoint import RunFolder
from vaekit.training.guard import TrainingFailed
from vaekit.training.kinds import PriorSettings
from vaekit.training.plan import Budget, check_time_budget, start_clock
from vaekit.training.progress import describe_seconds

LATENT_DIMS = (2, 4, 6, 8, 10, 12, 14, 16)
BETAS = (1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 2.75)
SHOWN = 10  # test images in pictures of reconstructions
COLUMNS = 20  # classes in a picture of samples by class
TEMPERATURES = (0.25, 0.5, 0.75, 1.0, 1.25)

# Of a time budget: for trainings and for priors; the rest is for measuring and drawing. Epochs of the models in two dimensions,
# and of the sweeps, in parts of the others'.
TRAINING, PRIORS, PLANAR, SWEEP = 0.5, 0.15, 0.5, 0.25

Say = Callable[[str], None]


@undisturbed
def compare(
    data: str,
    out: str,
    *,
    models: Sequence[str] = ("vae", "bvae", "cvae", "vqvae"),
    seeds: int = 1,
    random_state: int = 0,
    epochs: int | None = None,
    architecture: str | None = None,
    sweeps: bool = False,
    priors: bool = True,
    device: str = "auto",
    time_budget: float | None = None,
    command: str = "",
    verbose: bool = True,
    say: Say = print,
    **how,
) -> dict:
    """Trains `models` with `seeds` seeds each on `data`, and writes out/index.html, results.json and figures/.

    epochs, architecture: for all models; None lets each model choose. sweeps: also the loss against the latent
    dimension and against beta (one seed, a quarter of the epochs). priors: also a prior for the latents or codes of each
    model, per class where there are labels. how: keywords of `open_data`, such as resize. Returns what results.json holds.
    time_budget: seconds for all of it. Half of them are for what is still to be trained, alike for each model, and what one
    leaves over goes to the rest; a part is for priors, and the rest for measuring and drawing, which take what they take.
    Runs that are finished under `out` are kept, unfinished ones go on; other settings there raise ValueError.
    A prior that can't be fitted and a training that fails are left out, which the output and the protocol say; it raises
    TrainingFailed where no model is left.
    """
    check_time_budget(time_budget)
    started, deadline, shortened, left_out = datetime.now(UTC), start_clock(time_budget), [], []
    folder_out = Path(out)
    check_folder(folder_out, "report", inputs=inputs_of(data, how.get("labels")))
    train, test = (open_data(data, split, **how) for split in ("train", "test"))
    if train.is_table:
        raise ValueError(
            f"{data} is a table of vectors; `vaekit compare` draws images. Train on it with `vaekit train`"
        )
    if train.image_shape[2] == 2:
        raise ValueError(f"{data} has images of 2 channels, which can't be drawn; train on it with `vaekit train`")
    if train.y is None and any(MODELS[name].estimator().conditional for name in models):
        models = [name for name in models if not MODELS[name].estimator().conditional]
        say(f"{data} has no labels: conditional models are left out")
        if not models:
            raise ValueError(f"{data} has no labels, and every model asked for is conditional")
    common = {"architecture": architecture, "device": device, "verbose": verbose}

    def make(name: str, seed: int, **settings):
        return MODELS[name].estimator()(**{**common, "epochs": epochs, **settings}, random_state=seed)

    def leave_out(what: str, error: Exception) -> None:
        left_out.append(f"{what} ({first_line(error)})")
        say(f"left out: {left_out[-1]}")

    def run(folder: str, name: str, seed: int, *, weight: float = 1.0, **settings) -> Fitted | None:
        """The model trained; None where its training failed, which then is said."""
        path, model = folder_out / "runs" / folder, make(name, seed, **settings)
        with budget.share(0.0 if RunFolder(path).finished else weight) as seconds:
            try:
                model.fit_images(train, folder=str(path), resume=True, same_epochs=True, time_budget=seconds)
            except TrainingFailed as error:
                leave_out(folder, error)
                return None
        fitted = model.fitted_
        if fitted.ended_by == "budget":
            shortened.append(f"{folder} ({fitted.describe_end()})")
            say(f"{folder}: ended by the time budget, {fitted.describe_end()}")
        return fitted

    for name in models:  # before the judge, which takes its time
        make(name, random_state).check(train)

    with locked(folder_out, "report"):
        remove_temporaries(folder_out / "figures")
        judge, judge_accuracy = get_judge(train, test, verbose=verbose) if train.y is not None else (None, None)
        seconds = 0.0 if deadline is None else max(0.0, deadline - time.monotonic())
        todo = [
            weight
            for path, weight in _trainings(models, seeds, random_state, sweeps)
            if not RunFolder(folder_out / "runs" / path).finished
        ]
        budget = Budget(TRAINING * seconds, todo, deadline)
        budget_of_priors = Budget(PRIORS * seconds, [1.0] * len(models) * seeds, deadline)
        entries, first, closer = [], {}, []
        for seed in range(random_state, random_state + seeds):
            for name in models:
                estimator = run(f"{name}-seed{seed}", name, seed)
                if estimator is None:
                    continue
                first.setdefault(name, estimator)
                folder = folder_out / "runs" / f"{name}-seed{seed}"
                stage = stage_of(folder)
                with budget_of_priors.share(1.0) as seconds:
                    if priors and not estimator.has_prior:
                        try:
                            how_long = {"time_budget": seconds, "verbose": verbose}
                            fit_prior_to(estimator, train, PriorSettings(), folder=str(folder), **how_long)
                        except (ValueError, TrainingFailed) as error:
                            leave_out(f"the prior of {folder.name}", error)
                stage.discard()  # of a process that was killed having fitted it
                entry = measure_run(estimator, train, test, folder, judge=judge, judge_accuracy=judge_accuracy)
                entries.append({"name": name, "label": MODELS[name].label, "seed": seed, **entry})
                if seed - random_state < max(1, RUNS // len(models)):
                    closer.append(living_run(estimator, entries[-1], test))
                took = describe_seconds(entry["seconds"])
                say(
                    f"{MODELS[name].label} seed {seed}: test MSE {entry['mse']:.5f}, ELBO {entry['elbo']:.2f} nats, {took}"
                )
        if not first:
            raise TrainingFailed(f"no model could be trained: {'; '.join(left_out)}")
        models = [name for name in models if name in first]

        doctor = {
            MODELS[name].label: [
                diagnosis._asdict()
                for diagnosis in examine(
                    model,
                    train,
                    test,
                    folder=str(folder_out / "runs" / f"{name}-seed{random_state}"),
                    data=data,
                    how=how,
                )
            ]
            for name, model in first.items()
        }
        planar_epochs = max(1, filled(next(iter(first.values())).fields["epochs"]) // 2)
        planar = {
            name: model
            for name in models
            if name != "vqvae"
            and (model := run(f"{name}-d2", name, random_state, weight=PLANAR, latent_dim=2, epochs=planar_epochs))
        }
        sweep_results = _sweep(run, test, first, random_state) if sweeps else {}
        say("drawing")
        pictures = draw(first, planar, sweep_results, test, folder_out / "figures", random_state, entries)
        results = {
            "data": {
                "name": train.name,
                "fingerprint": train.fingerprint,
                "train": len(train),
                "test": len(test),
                "image_shape": list(train.image_shape),
                "classes": list(train.classes),
                "split_seed": train.split_seed,
            },
            "protocol": {
                "command": command
                or _command(
                    data, out, models, seeds, random_state, epochs, architecture, sweeps, priors, time_budget, how
                ),
                "vaekit": __version__,
                "torch": torch.__version__,
                "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
                "device": next(iter(first.values())).facts["device"],
                "date": started.isoformat(timespec="seconds"),
                "seeds": seeds,
                "posterior draws": entries[0]["draws"],
                "notes": _notes(judge_accuracy, planar_epochs, sweep_results, train, shortened, left_out),
                "models": {
                    MODELS[name].label: {**first[name].record.fields, **first[name].record.resolved} for name in models
                },
                "priors": {
                    MODELS[name].label: asdict(first[name].prior.settings) for name in models if first[name].has_prior
                },
            },
            "models": entries,
            "doctor": doctor,
            "sweeps": sweep_results,
        }
        write_atomically(folder_out / "results.json", json.dumps(results, indent=1) + "\n")
        write_page(folder_out / "index.html", results, pictures, living_figures(closer, planar, test))
        return results


def _command(
    data, out, models, seeds, random_state, epochs, architecture, sweeps, priors, time_budget, how: dict
) -> str:
    """What would do the same on the command line."""
    words = ["vaekit", "compare", "--data", data, "--out", out, "--models", ",".join(models), "--seeds", seeds]
    words += ["--random-state", random_state]
    words += ["--epochs", epochs] if epochs is not None else []
    words += ["--architecture", architecture] if architecture is not None else []
    words += ["--sweeps"] if sweeps else []
    words += [] if priors else ["--no-priors"]
    words += ["--time-budget", time_budget] if time_budget is not None else []
    return shlex.join([*map(str, words), *opening_flags(how)])


def _trainings(models: Sequence[str], seeds: int, first: int, sweeps: bool) -> list[tuple[str, float]]:
    """The folders of all trainings of a comparison, and the share of each in a time budget, by its epochs."""
    found = [(f"{name}-seed{seed}", 1.0) for seed in range(first, first + seeds) for name in models]
    found += [(f"{name}-d2", PLANAR) for name in models if name != "vqvae"]
    found += [(f"sweep-latent-{d}", SWEEP) for d in LATENT_DIMS if sweeps and "vae" in models]
    return found + [(f"sweep-beta-{beta}", SWEEP) for beta in BETAS if sweeps and "bvae" in models]


def _notes(
    judge_accuracy: float | None,
    planar_epochs: int,
    sweep_results: dict,
    train: Images,
    shortened: list[str],
    left_out: list[str],
) -> list[str]:
    notes = [
        f"The 2-D latent spaces and the manifold are of models with latent_dim=2, trained for {planar_epochs} epochs."
    ]
    if judge_accuracy is not None:
        notes.append(
            f"The judge is a small CNN trained on the same training images; it labels {judge_accuracy:.2%} of the test images "
            f"right. It saw {PER_CLASS} samples per class."
        )
    if sweep_results:
        notes.append(f"The sweeps train one seed for {sweep_results['epochs']} epochs each.")
    if train.split_seed is not None:
        notes.append("The 10 % validation part was not used.")
    if shortened:
        notes.append(f"Trainings that a time budget ended before all epochs were done: {', '.join(shortened)}.")
    if left_out:
        notes.append(f"Left out, since it could not be trained: {'; '.join(left_out)}.")
    return notes


def _sweep(run, test: Images, first: dict[str, Fitted], seed: int) -> dict:
    """Loss against latent dimension (VAE) and beta (beta-VAE): the report's two sweeps, as numbers for results.json."""
    epochs = max(1, filled(next(iter(first.values())).fields["epochs"]) // 4)
    found: dict = {"epochs": epochs}

    def measure(field: str, folder: str, name: str, values: Sequence) -> None:
        if name not in first:
            return
        points = []
        for value in values:
            estimator = run(f"{folder}-{value}", name, seed, weight=SWEEP, epochs=epochs, **{field: value})
            if estimator:
                result = evaluate(estimator.module, estimator.data(test), draws=2)
                points.append({"value": value, **{key: result[key] for key in ("mse", "distortion", "rate", "elbo")}})
        if points:
            found[field] = points

    measure("latent_dim", "sweep-latent", "vae", LATENT_DIMS)
    measure("beta", "sweep-beta", "bvae", BETAS)
    return found


# ---- pictures ----------------------------------------------------------------------------------------------------------


def draw(
    models: dict[str, Fitted],
    planar: dict[str, Fitted],
    sweep_results: dict,
    test: Images,
    folder: Path,
    seed: int,
    entries: Sequence[dict],
) -> list[Picture]:
    """Every figure of the report, from fitted models, test images and what was measured of every run: saves the PNGs, returns
    them with their words.
    """
    pictures: list[Picture] = []

    def add(file: str, figure, title: str, text: str, alt: str) -> None:
        saved = save(figure, folder / file)
        pictures.append(Picture(saved, title, text, alt, on_dark(figure, saved)))

    names = ", ".join(MODELS[name].label for name in models)
    add(
        "training.png",
        figures.training_curves({MODELS[name].label: model.history for name, model in models.items()}),
        "Training",
        "Each term of each objective over the epochs, the first steep fall cut off: look for curves that have come to rest, "
        "and for a rate that neither vanishes (posterior collapse) nor still climbs.",
        f"Training curves of {names}, one panel per term.",
    )
    _draw_plane_of_rates(add, entries)
    _draw_sweeps(add, sweep_results)
    fitted = any(model.has_prior for model in models.values())
    unfitted = [MODELS[name].label for name, model in models.items() if not model.has_prior]
    plain = {MODELS[name].label: model.sample(64, random_state=seed, prior="plain") for name, model in models.items()}
    samples = {
        MODELS[n].label: model.sample(64, random_state=seed, prior="fitted")
        if model.has_prior
        else plain[MODELS[n].label]
        for n, model in models.items()
    }
    without = f" {', '.join(unfitted)}: without a fitted prior, so from the plain one." if fitted and unfitted else ""
    noise = " A VQ-VAE's codes are then drawn uniformly, which knows nothing of images." * ("vqvae" in models)
    add(
        "samples.png",
        figures.sample_sheets(samples),
        "Samples",
        f"64 draws per model from its {'fitted' if fitted else 'plain'} prior: look for variety, and for images that could be "
        f"real.{without}{noise if MODELS['vqvae'].label in unfitted else ''}",
        f"Sheets of 64 samples each from {names}.",
    )
    if fitted:
        add(
            "priors.png",
            figures.rows_of_sheets(
                {
                    "plain prior": plain,
                    "fitted prior": {
                        f"{MODELS[n].label}: {m.prior.name if m.prior else m.prior_name}": samples[MODELS[n].label]
                        for n, m in models.items()
                    },
                },
                rows=4,
            ),
            "Plain and fitted priors",
            "The same decoders, above with codes from the prior of the training, below with codes from a prior fitted "
            f"afterwards: look for fewer shapes that are no image.{without}{noise}",
            f"Samples from {names} under the plain prior above, and under the fitted prior below.",
        )
    for name in models:
        save(
            figures.image_grid(samples[MODELS[name].label], title=f"{MODELS[name].label}: 64 samples"),
            folder / f"samples_{name}.png",
        )
    _draw_planes(add, models, planar, test)
    gaussian = {name: models[name] for name in ("vae", "bvae") if name in models}
    if gaussian:
        kl = {
            entry["name"]: entry["kl_per_latent"]
            for entry in entries
            if entry["seed"] == seed and "kl_per_latent" in entry
        }
        add(
            "traversals.png",
            figures.traversals(
                {MODELS[name].label: traverse(model, test, kl[name], 11) for name, model in gaussian.items()}
            ),
            "Traversals",
            "One test image with one latent moved at a time, rows ordered by how much each latent tells (KL): look for rows "
            "that change one thing smoothly, and for rows of little KL in which nothing moves.",
            "Rows of images, each row moving one latent from -2.5 to 2.5.",
        )
    for name, file in (("cvae", "by_class.png"), ("vqvae", "by_class_vqvae.png")):
        if name in models and models[name].sampling_classes() is not None:
            _draw_classes(add, file, MODELS[name].label, models[name], seed)
    if "vqvae" in models and models["vqvae"].has_prior:
        _draw_codes_prior(add, models["vqvae"], test, seed)
    shown = test.take(spread(test, SHOWN))
    rebuilt = {
        MODELS[name].label: model.reconstruct(shown.x, label_names(model, shown)) for name, model in models.items()
    }
    names = None if shown.y is None else [str(shown.classes[label]) for label in shown.y]
    add(
        "reconstructions.png",
        figures.reconstructions(shown.x, rebuilt, names=names),
        "Reconstructions",
        "The same test images through every model, with the absolute error below: look for what is blurred, bent or missing.",
        f"Test images, their reconstructions by {names}, and error maps.",
    )
    if "vqvae" in models:
        model = models["vqvae"]
        counts = np.bincount(model.encode(test.x).ravel(), minlength=model.module.latent.n_codes)
        add(
            "codes.png",
            figures.codes(shown.x, rebuilt[MODELS["vqvae"].label], model.encode(shown.x), counts),
            "VQ-VAE codes",
            "What the decoder is given: a grid of code numbers, a colour per code; below, how evenly the codebook is used over "
            "the test images.",
            "Test images, their code maps and reconstructions, and a bar chart of codebook usage.",
        )
    return pictures


def _draw_plane_of_rates(add, entries: Sequence[dict]) -> None:
    """Under one likelihood, the first model's; a CVAE's, which is given the label, is shown beside it."""
    base = entries[0]["likelihood"].removesuffix(", label given")
    points: dict[str, list[tuple[float, float]]] = {}
    for entry in entries:
        if entry["likelihood"].removesuffix(", label given") == base:
            points.setdefault(f"{entry['label']}, {entry['prior']}", []).append((entry["rate"], entry["distortion"]))
    add(
        "rate_distortion.png",
        figures.rate_distortion(points),
        "Rate and distortion",
        f"What each model pays in the latent (rate) for what it explains of the image (distortion), likelihood {base}: further "
        "down and to the left is better, and points on one dashed line have the same ELBO.",
        "Distortion against rate, a point per run, with lines of equal ELBO.",
    )


def _draw_sweeps(add, sweep_results: dict) -> None:
    words = {
        "latent_dim": (
            "latent dimension",
            "Loss against the latent dimension",
            "where the curves flatten, more latents no longer pay",
        ),
        "beta": ("beta", "Loss against beta", "look how much distortion a lower rate costs"),
    }
    for key, (xlabel, title, look) in words.items():
        if key not in sweep_results:
            continue
        points = sweep_results[key]
        ys = {
            "-ELBO": [-point["elbo"] for point in points],
            "distortion": [point["distortion"] for point in points],
            "rate": [point["rate"] for point in points],
        }
        figure = figures.curve(
            [point["value"] for point in points], ys, xlabel=xlabel, ylabel="nats per image (test)", title=title
        )
        add(
            f"{key}.png", figure, title, f"One seed, {sweep_results['epochs']} epochs a point: {look}.",
            f"-ELBO, distortion and rate on the test images against {xlabel}.",
        )  # fmt: skip


def _draw_planes(add, models: dict[str, Fitted], planar: dict[str, Fitted], test: Images) -> None:
    part = test.take(pick(len(test), 5000))
    if len(test.classes) > MOST_CLASSES:
        part = replace(part, y=None)  # there are no more colours and markers
    spaces = {
        f"{MODELS[name].label}, d=2": (model.transform(part.x, label_names(model, part)), part.y)
        for name, model in planar.items()
    }
    looks = {
        "vae": "look whether a VAE separates classes it was never told",
        "cvae": "a CVAE should not, since its z carries what the label doesn't",
        "vqvae": "a VQ-VAE's vectors gather around codes",
    }
    looks = [text for name, text in looks.items() if name in models and (part.y is not None or name == "vqvae")]
    codebooks, axis_names = {}, {}
    if "vqvae" in models:
        label = f"{MODELS['vqvae'].label} vectors before quantisation"
        vectors, labels, codebook, axes = _code_vectors(models["vqvae"], part)
        spaces[label], codebooks[label], axis_names[label] = (vectors, labels), codebook, axes
    if not spaces:
        return
    add(
        "latent_space.png",
        figures.latent_space(spaces, test.classes, codebooks=codebooks, axis_names=axis_names),
        "Latent spaces",
        "Test images in two dimensions" + (f": {'; '.join(looks)}" if looks else "") + ".",
        "Scatter plots of latent vectors" + (", coloured by class." if part.y is not None else "."),
    )
    if "vae" in planar:
        low, high, steps = -2.5, 2.5, 20
        ticks = np.linspace(low, high, steps)
        z = np.stack(np.meshgrid(ticks, ticks[::-1]), axis=-1).reshape(-1, 2)
        images = planar["vae"].inverse_transform(z)
        add(
            "manifold.png",
            figures.manifold(
                images.reshape(steps, steps, *images.shape[1:]), low, high, title="decoded plane of the d=2 VAE"
            ),
            "The manifold",
            "The 2-D latent plane decoded point by point: look for smooth changes from one class to the next, without gaps.",
            "A 20 by 20 grid of images decoded over the latent plane from -2.5 to 2.5.",
        )


def _draw_codes_prior(add, model: Fitted, test: Images, seed: int) -> None:
    """What an autoregressive prior over codes can do besides samples: temperatures, and the rest of half an image."""
    classes = model.sampling_classes()
    labels = None if classes is None else np.resize(classes, SHOWN)
    rows = {f"temperature {t:g}": model.sample(SHOWN, labels, temperature=t, random_state=seed) for t in TEMPERATURES}
    add(
        "temperature.png",
        figures.labelled_rows(rows),
        "VQ-VAE: temperature",
        "The same random numbers at different temperatures: low ones give the likeliest, plainest images, high ones more "
        "variety and more errors.",
        "Rows of VQ-VAE samples, one row per temperature.",
    )
    if not model.discrete or model.fields["architecture"] == "mlp":
        return  # its codes have no place in the image
    shown = test.take(spread(test, SHOWN))
    known = np.zeros(test.x.shape[1:3], dtype=bool)
    known[: (len(known) + 1) // 2] = True
    # Labels as the prior knows them: the data's own classes, by index.
    given = None if classes is None or shown.y is None else np.asarray(classes)[shown.y]
    completed = {
        f"completed, {turn}": complete(model, shown.x, known, given, random_state=seed + turn) for turn in (1, 2, 3)
    }
    hidden = np.where(known[None, :, :, None], shown.x, _grey(shown.x))
    add(
        "completion.png",
        figures.labelled_rows({"image": shown.x, "given": hidden, **completed}),
        "VQ-VAE: the rest of half an image",
        "The prior is given the codes of the upper half of test images"
        + (" and their class" if given is not None else "")
        + " and draws the others three times: look whether the halves fit, and whether the lower ones differ.",
        "Test images, their upper halves, and three completions of each.",
    )


def _grey(x: np.ndarray) -> np.ndarray:
    return np.asarray(160 if x.dtype == np.uint8 else 160 / 255, dtype=x.dtype)


def _draw_classes(add, file: str, label: str, model: Fitted, seed: int) -> None:
    classes = filled(model.sampling_classes())
    shown = np.asarray(classes)[evenly(len(classes), COLUMNS)]
    some = f" ({len(shown)} of {len(classes)} classes)" if len(shown) < len(classes) else ""
    rows = 8
    sheet = model.sample(rows * len(shown), np.tile(shown, rows), random_state=seed)
    chosen = shown[min(8, len(shown) - 1)]
    add(
        file,
        figures.by_class(
            sheet.reshape(rows, len(shown), *sheet.shape[1:]),
            [str(name) for name in shown],
            title=f"{label} samples, a column a class{some}",
            chosen=model.sample(64, chosen, random_state=seed),
            chosen_title=f"64 samples of class {shortened(chosen)}",
        ),
        f"{label}: samples by class",
        f"What comes when a class is asked for{some}: every image in a column should be of that class, and no two alike.",
        f"A grid of {label} samples with one column per class, and 64 samples of one class.",
    )


def _code_vectors(model: Fitted, part: Images) -> tuple[np.ndarray, np.ndarray | None, np.ndarray, tuple[str, str]]:
    """Encoder vectors before quantisation, a random few thousand, with their image's class, and the codebook, in 2-D."""
    data = model.data(part.take(pick(len(part), 1000)))
    with torch.inference_mode():
        h = model.module.encoder(data.batch(slice(None))[0], None)
    dim, cells = h.shape[1], h[0, 0].numel()
    vectors = h.movedim(1, -1).reshape(-1, dim).cpu().numpy()
    chosen = np.random.default_rng(0).permutation(len(vectors))[:4000]
    labels = None if part.y is None else np.repeat(part.y[: len(h)], cells)[chosen]
    codebook = model.module.latent.vectors().detach().cpu().numpy()
    if dim == 2:
        return vectors[chosen], labels, codebook, ("dimension 1", "dimension 2")
    from sklearn.decomposition import PCA

    pca = PCA(2, random_state=0).fit(vectors)
    shares = pca.explained_variance_ratio_
    first, second = (f"principal component {i + 1} ({share:.0%})" for i, share in enumerate(shares))
    return pca.transform(vectors[chosen]), labels, pca.transform(codebook), (first, second)
