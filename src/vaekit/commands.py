"""The commands of `vaekit`, a dataclass each: its fields are the flags, `run` does the work."""

from __future__ import annotations

import json
import math
import shlex
import sys
from dataclasses import dataclass, field, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from vaekit import output
from vaekit.data import Images, describe, open_data, open_whole
from vaekit.data.decoding import Decoding, SizesDiffer
from vaekit.data.given import as_whole
from vaekit.data.images import PARTS
from vaekit.data.opening import inputs_of, opening_flags
from vaekit.data.pixels import COLOURS, WHOLE
from vaekit.data.splits import split_indices, spread
from vaekit.data.tables import TABLE_SUFFIXES, load_pyarrow, read_table
from vaekit.messages import check_number, filled, in_rows, listed, nearest, nearest_path
from vaekit.owned import check_file, check_folder
from vaekit.training.checkpoint import RunFolder
from vaekit.training.kinds import PriorSettings

ENDED_BY = {  # in the words of a line's end; of a training that came to the end of its plan there is nothing to say
    "patience": ", stopped early",
    "budget": ", ended by the time budget",
    "finish": ", ended by --finish",
}
Split = Literal["train", "validation", "test", "all"]
MOST_IN_A_PICTURE = 2500
MOST_COLUMNS = 30  # of a table, that `data` prints
MOST_REFERENCE = 10_000  # samples whose scores others are held against
SAMPLE_SUFFIXES = (".png", ".npy", ".npz", *TABLE_SUFFIXES)
Folder = Annotated[str, tyro.conf.Positional]


@dataclass(kw_only=True)
class Source:
    """Which images a command works on."""

    data: str
    """digits, mnist, fashion-mnist, sprites, a folder, a .npy, .npz, idx, .csv, .tsv or .parquet file, or a glob of images."""
    split_seed: int | None = None
    """Seed of the 80/10/10 split of data without a test part; None is the run's own, or 0."""
    resize: int | None = None
    """Side in pixels that images from files are brought to; None is the run's own, or as they are."""
    fit: Literal["crop", "pad"] | None = None
    """How they are brought to it: by cutting the longer side, or by filling up the shorter one with the background. None is
    the run's own, or crop."""
    background: str | None = None
    """What is behind transparent pixels: a colour (white, #ff8800), or keep, and alpha is a fourth channel. None is the run's
    own, or white."""
    colour: Literal["grey", "rgb", "rgba"] | None = None
    """What images are made, whatever they are; None is the run's own, or what holds all of them."""
    white: int | None = None
    """The value of white in integer pixels, such as 4095 for 12 bits; None is the run's own, or found from all of the data."""
    labels: str | None = None
    """A table (CSV) with the label of each image file, where there are no class sub-folders; for x.npy, y.npy; of a table, its
    column of labels. None is the run's own for the data it was trained on."""
    drop: str | None = None
    """Columns of a table to leave out, separated by commas."""
    skip_bad: bool = False
    """Go on without the image files that can't be read, as a run does that was trained so."""
    binarize: Literal["none", "fixed", "dynamic"] | None = None
    """Black-or-white pixels, drawn with the intensity as their probability: once, or anew in each epoch of training. None is
    the run's own, or none."""

    def how(self, trained_on: dict | None = None) -> dict:
        """Keywords of `open_data`: what the command line says, else as the data was opened that a model was `trained_on`, else
        the defaults.
        """
        as_then = trained_on or {}
        decoding = as_then.get("decoding") or {}
        at_home = self.data == as_then.get("name")
        # What a run doesn't say of white is the largest value that a file's bits hold, and 255 in arrays.
        white = None if trained_on is None else decoding.get("white", WHOLE if decoding else 255)
        return {
            "split_seed": self.split_seed or 0,
            "resize": self.resize or decoding.get("resize"),
            "fit": self.fit or decoding.get("fit", "crop"),
            "background": self.background or decoding.get("background", "white"),
            "colour": self.colour or decoding.get("colour"),
            "white": self.white or white,
            "labels": self.labels or (as_then.get("labels") if at_home else None),
            "skip_bad": self.skip_bad or as_then.get("skip_bad", False),
            "binarize": self.binarize or as_then.get("binarize", "none"),
            **({"drop": self.drop} if self.drop else {}),
        }

    def inputs(self) -> list[str]:
        """The places that are read, and so never written."""
        return inputs_of(self.data, self.labels)

    def open(self, split: str) -> Images:
        """The part `split`."""
        return open_data(self.data, split, **self.how())

    def open_for(self, model, split: str) -> Images:
        """The part `split`, as images of the shape the model was fitted on; the data it was trained on is split as it was then,
        whatever --split-seed says. What is lost on the way is said.
        """
        wanted = model.format.shape
        images = self._open_for(model, split)
        if (
            self.colour is None
            and len(wanted) == 3
            and images.image_shape[:2] == wanted[:2]
            and images.image_shape != wanted
        ):
            colour = next((colour for colour, mode in COLOURS.items() if len(mode) == wanted[2]), None)
            images = self._open_for(model, split, colour=colour)
        self.say(images)
        if images.image_shape != wanted:
            remedy = ""
            if images.files is not None and len(wanted) == 3 and wanted[0] == wanted[1] and self.resize is None:
                remedy = f"; --resize {wanted[0]} brings image files to its size"
            raise ValueError(
                f"{self.data} has samples of shape {images.image_shape}, but the model was fitted on {wanted}{remedy}"
            )
        return images

    def _open_for(self, model, split: str, **more) -> Images:
        trained_on = model.facts["data"]
        how = self.how(trained_on) | more
        if model.format.is_table:
            header = model.format.columns.header
            how |= {"labels": self.labels or header.label, "columns": header.names}
        try:
            images = open_data(self.data, split, **{**how, "split_seed": trained_on["split_seed"] or 0})
        except SizesDiffer as error:
            if len(model.format.shape) == 3 and model.format.shape[0] == model.format.shape[1]:
                error.side = model.format.shape[0]
            raise
        return images if images.fingerprint == trained_on["fingerprint"] else open_data(self.data, split, **how)

    def say(self, images: Images) -> None:
        """Prints what a person should be told of the data, on standard error, once."""
        notes = list(images.notes)
        if images.files is not None and images.files.unreadable:
            unreadable = images.files.unreadable
            notes.append(f"images that can't be read, left out: {len(unreadable)} ({listed(list(unreadable))})")
        said = self.__dict__.setdefault("_said", set())
        for note in notes:
            if note not in said:
                said.add(note)
                print(f"vaekit: {note}", file=sys.stderr)


@dataclass(kw_only=True)
class Data:
    """What is in a data set, and what is wrong with it."""

    data: Folder
    """digits, mnist, fashion-mnist, sprites, a folder, a .npy, .npz, idx, .csv, .tsv or .parquet file, or a glob of images."""
    resize: int | None = None
    """Side in pixels that images from files are brought to."""
    fit: Literal["crop", "pad"] = "crop"
    """How they are brought to it: by cutting the longer side, or by filling up the shorter one with the background."""
    background: str = "white"
    """What is behind transparent pixels: a colour (white, #ff8800), or keep, and alpha is a fourth channel."""
    colour: Literal["grey", "rgb", "rgba"] | None = None
    """What images are made, whatever they are; None is what holds all of them."""
    white: int | None = None
    """The value of white in integer pixels, such as 4095 for 12 bits; None finds it from all of the data."""
    labels: str | None = None
    """A table (CSV) with the label of each image file, where there are no class sub-folders; for x.npy, y.npy; of a table, its
    column of labels."""
    drop: str | None = None
    """Columns of a table to leave out, separated by commas."""
    split_seed: int = 0
    """Seed of the 80/10/10 split of data without a test part."""
    picture: str | None = None
    """A contact sheet to write, such as sheet.png: images of each class."""
    overwrite: bool = False
    """Replace the file --picture where it exists."""
    json: bool = False
    """Print JSON instead of a table."""

    def run(self) -> None:
        decoding = Decoding(self.resize, self.fit, self.background, self.colour, self.white)
        check_number("split_seed", self.split_seed, whole=True)
        if self.picture is not None:
            if not self.picture.endswith(".png"):
                raise ValueError(f"--picture must end in .png, got {self.picture!r}")
            check_file(self.picture, inputs=inputs_of(self.data, self.labels), overwrite=self.overwrite)
        whole, parts = open_whole(self.data, decoding, labels=self.labels, skip_bad=True, drop=self.drop or ())
        if parts is None and len(whole) >= 10:
            parts = split_indices(whole.y, len(whole), self.split_seed)
        facts = describe(whole, parts)
        model, flags = facts.pop("suggested_model"), facts.pop("suggested_flags")
        how = {"labels": self.labels, "split_seed": self.split_seed, **({"drop": self.drop} if self.drop else {})}
        flags += opening_flags({**decoding._asdict(), **how})
        facts["suggestion"] = shlex.join(
            ["vaekit", "train", model, "--data", self.data, *flags, "--out", f"runs/{model}"]
        )
        if self.picture is not None:
            output.write_contact_sheet(self.picture, whole)
        if self.json:
            print(json.dumps(facts, indent=1))
            return
        problems, suggestion = facts.pop("problems"), facts.pop("suggestion")
        for part, found in facts.pop("parts", {}).items():
            facts[f"{part} part"] = {"count": found["count"], **found.get("classes", {})}
        for name, words in list(facts.pop("columns", {}).items())[:MOST_COLUMNS]:
            facts[f"column {name}"] = words
        output.print_table(f"data {self.data}", output.worded(facts))
        print("\n".join(f"! {problem}" for problem in problems) or "nothing wrong was found")
        print(f"to begin with: {suggestion}")
        if self.picture is not None:
            print(f"the contact sheet: {self.picture}")


@dataclass(kw_only=True)
class Train(Source):
    """Train a model; what `make_train` adds is the model with its fields."""

    data: str | None = None  # type: ignore[assignment]
    """digits, mnist, fashion-mnist, sprites, a folder, a .npy, .npz, idx or .parquet file, or a glob of images (required,
    except with --finish)."""
    out: str
    """The run folder to make."""
    resume: bool = False
    """Go on with the run in --out; none there starts fresh. With other --epochs than the run's it ends after these, and a
    finished one goes on beyond its end, by a new schedule; else a finished one is left as it is."""
    finish: bool = False
    """End the unfinished run in --out where it is, with the weights of its last checkpoint: the best ones under early stopping.
    Neither data nor a model's fields are needed."""
    time_budget: float | None = None
    """Seconds the training may take, of this command where it goes on with a run. A run that would take longer is made shorter,
    and ends where it is when they are over."""
    log: Literal["tensorboard"] | None = None
    """Where to keep the log besides log.jsonl: tensorboard writes RUN/tensorboard."""

    def run(self) -> None:
        model = self.model  # type: ignore[attr-defined]
        if self.finish:
            self._finish(type(model))
            return
        if self.data is None:
            raise ValueError("train needs --data, what to train on; only --finish goes without")
        check_folder(self.out, "run", inputs=self.inputs())
        model.verbose = True
        images = self.open("train")
        # Only early stopping looks at validation images, and data with a published split has no such part.
        validation = self.open("validation") if model.early_stopping and images.split_seed is not None else None
        self.say(images)
        model.fit_images(
            images,
            validation=validation,
            folder=self.out,
            resume=self.resume,
            time_budget=self.time_budget,
            log=self.log,
        )
        self._tell(model.fitted_)

    def _finish(self, model_class: type) -> None:
        from vaekit.files import finish

        config = RunFolder(self.out).model_config()
        if config["class"] != model_class.__name__:
            raise ValueError(f"{self.out} holds a {config['class']}, not a {model_class.__name__}")
        self._tell(finish(self.out).fitted_)

    def _tell(self, model) -> None:
        """What was done, which is not always what was planned."""
        last, place = model.history[-1], model.describe_end()
        why = ENDED_BY.get(model.ended_by or "plan", "")
        chosen = ", ".join(
            f"{name} {output.plain(value)}"
            for name, value in model.record.resolved.items()
            if value is not None and name != "epochs"
        )
        print(f"{model.name}: {model.module.n_parameters:,} parameters, {last['step']} steps, {place}{why} ({chosen})")
        print(f"objective {last['objective']:.5g} in the last epoch; the run is in {self.out}")


def make_train(model_class: type) -> type:
    """`Train` for one model: its fields become flags beside Train's own."""
    flat = Annotated[model_class, tyro.conf.arg(name="")]
    made = make_dataclass("Train", [("model", flat, field(default_factory=model_class))], bases=(Train,), kw_only=True)
    made.__doc__ = model_class.__doc__
    return made


@dataclass(kw_only=True)
class FitPrior(Source):
    """Fit a prior to the latents or codes of a trained model; `sample` and `evaluate` then use it, unless held-out images show
    that it is far worse than the one of the training. A prior that the run has already is replaced, and a fit that was
    interrupted goes on where it was.
    """

    run_folder: Folder
    """The trained run; the prior is written to its prior.safetensors."""
    settings: Annotated[PriorSettings, tyro.conf.arg(name="")] = field(default_factory=PriorSettings)
    per_class: bool = True
    """A prior for each class where the data has labels, so that samples can be asked for by class."""
    time_budget: float | None = None
    """Seconds the fitting may take, of this command where it goes on with one; it ends where it is when they are over."""

    def run(self) -> None:
        from vaekit.files import load_finished
        from vaekit.hub import is_address
        from vaekit.second_stage import fit_prior_to, stage_of

        if is_address(self.run_folder):
            raise ValueError(
                f"a prior is written into a run folder: vaekit.load({self.run_folder!r}).save('FOLDER') makes one of this model"
            )
        model = load_finished(self.run_folder, "a prior", prior=False).fitted_
        stage_of(self.run_folder)  # before the data is opened, which may take its time
        images = self.open_for(model, "train")
        if not self.per_class:
            if model.conditional:
                raise ValueError(
                    f"{self.run_folder} is conditional: its prior is of each class; leave out --no-per-class"
                )
            images = replace(images, y=None)
        fit_prior_to(model, images, self.settings, folder=self.run_folder, time_budget=self.time_budget, verbose=True)
        prior = filled(model.prior)
        facts = prior.facts
        print(f"{prior.name}, in {self.run_folder}/prior.safetensors")
        rates = {
            "plain prior": facts["plain_rate"],
            "code frequencies at each position": facts.get("position_rate"),
            "fitted prior": facts["validation_rate"],
        }
        print(in_rows(f"rate of {facts['validation_images']} held-out images, nats per image:", images.is_table))
        print("\n".join(f"  {name:<34} {rate:.2f}" for name, rate in rates.items() if rate is not None))
        if model.prior_is_worse:
            by_class = prior.classes is not None and not model.conditional
            print(
                "! it is far worse than the plain one, which `sample` and `evaluate` go on with"
                f"{', unless a class is asked for' if by_class else ''} (--fitted-prior samples from it); try "
                f"{' '.join(model.other_prior)}"
            )


@dataclass(kw_only=True)
class Sample:
    """New images from a trained model: a picture of a grid, an array, or a folder of (labelled) images."""

    run_folder: Folder
    """The trained run."""
    out: str
    """grid.png, x.npy, x.npz (with labels), or a folder, with a sub-folder per class for conditional models; of a table .npy,
    .npz, .csv, .tsv (.gz, too) or .parquet."""
    overwrite: bool = False
    """Replace the file --out where it exists."""
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 64
    """How many; of each class with --per-class."""
    label: str | None = None
    """The class to sample, for conditional models and class-conditional priors."""
    per_class: bool = False
    """-n images of every class: the augmentation workflow."""
    temperature: float = 1.0
    """Scales the spread of the prior."""
    top_k: int | None = None
    """Of each code, only the k likeliest values; for priors over codes."""
    top_p: float | None = None
    """Of each code, only the likeliest values that together have this probability; for priors over codes."""
    plain_prior: bool = False
    """Sample from the prior the model was trained with, not from the fitted one. That is so already, for images of no class in
    particular, where the fitted one was found far worse on held-out images."""
    fitted_prior: bool = False
    """Sample from the fitted prior even then."""
    clip: bool = False
    """Bring the values of each column of a table into the range seen in training."""
    random_state: int | None = None
    """Seed of the draws."""

    def run(self) -> None:
        from vaekit.files import load

        check_number("n", self.n, whole=True, above=0)
        check_number("random_state", self.random_state, whole=True)
        output.check_out(self.out, *SAMPLE_SUFFIXES, overwrite=self.overwrite)
        if self.plain_prior and self.fitted_prior:
            raise ValueError("give --plain-prior or --fitted-prior, not both")
        model = load(self.run_folder).fitted_.in_pixels()
        prior = "plain" if self.plain_prior else "fitted" if self.fitted_prior else None
        asked = self.per_class or self.label is not None
        classes = model.sampling_classes("fitted" if asked and prior is None else prior)
        for flag, used in (("--per-class", self.per_class), ("--label", self.label is not None)):
            if used and classes is None:
                raise ValueError(
                    f"{self.run_folder} holds a {model.name}, which is unconditional: {flag} needs a CVAE, or a "
                    "prior for each class from `vaekit fit-prior`"
                )
        if self.label is not None and self.per_class:
            raise ValueError("give --label or --per-class, not both")
        labels = None
        if self.per_class:
            labels = np.repeat(filled(classes), self.n)
        elif self.label is not None:
            labels = np.full(self.n, self.label)
        elif classes is not None:
            labels = np.random.default_rng(self.random_state).choice(classes, self.n, p=model.sampling_shares(prior))
        n = self.n if labels is None else len(labels)
        if self.out.endswith(".png") and n > MOST_IN_A_PICTURE:
            raise ValueError(f"{n} images are too many for one picture; choose an --out that is a folder, .npy or .npz")
        samples = model.sample(
            n,
            labels,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            random_state=self.random_state,
            prior=prior,
            clip=self.clip,
        )
        output.write_samples(self.out, model, samples, labels)
        print(f"{n} samples are in {self.out}")


@dataclass(kw_only=True)
class Encode(Source):
    """Latents (posterior means) or codes of a data set: an array, or a table that tells each sample's file or row."""

    run_folder: Folder
    """The trained run."""
    out: str
    """z.npy; z.npz with x the latents, y the labels, names the files (or rows), and split; .csv, .tsv (.gz, too) or .parquet
    with columns file (or row), label, split, z0, z1, ..."""
    overwrite: bool = False
    """Replace the file --out where it exists."""
    split: Split = "test"
    """Which part of the data."""

    def run(self) -> None:
        from vaekit.files import load

        if not self.out.endswith((".npy", ".npz", *TABLE_SUFFIXES)):
            raise ValueError(f"--out must end in .npy, .npz, {' or '.join(TABLE_SUFFIXES)}, got {self.out!r}")
        _check_table(self.out)
        check_file(self.out, inputs=self.inputs(), overwrite=self.overwrite)
        model = load(self.run_folder).fitted_
        images = self.open_for(model, self.split)
        labels = _labels(images)
        codes = model.encode(images if images.is_table else images.x, labels)
        if self.out.endswith(TABLE_SUFFIXES):
            flat = codes.reshape(len(codes), -1)
            output.write_columns(self.out, images.origin() | {f"z{i}": flat[:, i] for i in range(flat.shape[1])})
        else:
            output.write_array(self.out, codes, labels, images.origin())
        print(f"{codes.dtype} codes of shape {codes.shape} are in {self.out}")


@dataclass(kw_only=True)
class Decode:
    """Images from latents or codes, as `encode` writes them."""

    run_folder: Folder
    """The trained run."""
    codes: str
    """z.npy, z.npz (x; images keep the names in it), or a table with columns z0, z1, ..."""
    out: str
    """x.npy, grid.png or a folder; of a table as `sample` writes it."""
    overwrite: bool = False
    """Replace the file --out where it exists."""
    label: str | None = None
    """The class, for conditional models."""

    def run(self) -> None:
        from vaekit.data.readers import read_npy, read_npz, read_origin
        from vaekit.files import load

        output.check_out(self.out, *SAMPLE_SUFFIXES, inputs=[self.codes], overwrite=self.overwrite)
        model = load(self.run_folder).fitted_.in_pixels()
        if self.label is not None and not model.conditional:
            raise ValueError(f"{self.run_folder} holds a {model.name}, which is unconditional: --label needs a CVAE")
        path = Path(self.codes)
        if not path.exists():
            raise FileNotFoundError(f"no codes at {path}{nearest_path(path)}")
        if self.codes.endswith(TABLE_SUFFIXES):
            found = read_table(path, columns=[f"z{i}" for i in range(math.prod(model.code_shape))])
            codes = as_whole(found.x) if model.discrete else found.x
            if codes is None:
                raise ValueError(
                    f"{path} holds no codes: they are whole numbers, as `vaekit encode {self.run_folder}` writes them"
                )
            codes = codes.reshape(len(codes), *model.code_shape)
        else:
            codes = read_npz(path)[0] if path.suffix == ".npz" else read_npy(path)
        if model.conditional and self.label is None:
            raise ValueError(f"{self.run_folder} is conditional: say which class with --label")
        images = model.decode(codes, self.label)
        origin = read_origin(path, len(codes)) if path.suffix == ".npz" else {}
        output.write_samples(self.out, model, images, origin=origin if {"file", "row"} & set(origin) else None)
        print(f"{len(images)} {in_rows('images', model.format.is_table)} are in {self.out}")


@dataclass(kw_only=True)
class Reconstruct(Source):
    """A data set through encoder and decoder."""

    run_folder: Folder
    """The trained run."""
    out: str
    """grid.png (inputs above reconstructions), x.npy, x.npz with y the labels, names the files (or rows), and split, or a
    folder, whose files have the names of the inputs; of a table as `sample` writes it."""
    overwrite: bool = False
    """Replace the file --out where it exists."""
    split: Split = "test"
    """Which part of the data."""
    n: Annotated[int | None, tyro.conf.arg(aliases=["-n"])] = None
    """How many, drawn over all classes; None is all, or 10 in a picture."""

    def run(self) -> None:
        from vaekit.files import load

        check_number("n", self.n, whole=True, above=0)
        output.check_out(self.out, *SAMPLE_SUFFIXES, inputs=self.inputs(), overwrite=self.overwrite)
        model = load(self.run_folder).fitted_.in_pixels()
        images = self.open_for(model, self.split)
        n = self.n or (10 if self.out.endswith(".png") else len(images))
        if n < len(images):
            images = images.take(spread(images, n))
        labels = _labels(images)
        rebuilt = model.reconstruct(images if images.is_table else images.x, labels)
        if self.out.endswith(".png") and not images.is_table:
            from vaekit.pictures.figures import reconstructions
            from vaekit.pictures.style import save

            names = None if labels is None else [str(label) for label in labels]
            save(
                reconstructions(images.x, {model.name: rebuilt.reshape(images.x.shape)}, names=names),
                self.out,
            )
            print(f"{len(images)} reconstructions are in {self.out}")
        else:
            output.write_samples(self.out, model, rebuilt, labels, origin=images.origin())
            print(f"{len(images)} {in_rows('images', images.is_table)} are in {self.out}")


@dataclass(kw_only=True)
class Score(Source):
    """The ELBO of each sample of a data set in nats, which is low for what is unlike the training data, and which of them stand
    out: a table in data order, and the ten lowest on the terminal.
    """

    run_folder: Folder
    """The trained run."""
    out: str
    """scores.csv, .tsv or .parquet, with columns file (or row), label, split, elbo, tail_share and anomaly."""
    overwrite: bool = False
    """Replace the file --out where it exists."""
    split: Split | None = None
    """Which part of the data; None is the test part of what the model was trained on, and all of other data."""
    share: float = 0.01
    """tail_share is the share of the reference's scores that are as low or lower, and anomaly says whether it is below this."""
    reference: str | None = None
    """Data that is as it should be. None is what the model was trained on: its validation part where that has enough samples to
    tell --share, else its training part, whose scores are a little higher."""

    def run(self) -> None:
        from vaekit.evaluation.likelihood import tail_shares
        from vaekit.files import load
        from vaekit.report.measure import pick

        if not self.out.endswith(TABLE_SUFFIXES):
            raise ValueError(f"--out must end in {' or '.join(TABLE_SUFFIXES)}, got {self.out!r}")
        check_number("share", self.share, above=0)
        if self.share >= 1:
            raise ValueError(f"share must be below 1, got {self.share}")
        _check_table(self.out)
        model = load(self.run_folder).fitted_
        read = [*self.inputs(), *inputs_of(self.reference or model.facts["data"]["name"])]
        check_file(self.out, inputs=read, overwrite=self.overwrite)
        images = self.open_for(model, "all")
        home = self._reference(model, images)
        if self.split is not None or images.fingerprint == model.facts["data"]["fingerprint"]:
            images = self.open_for(model, self.split or "test")
        for part in (images, home):
            if part.x.shape[1:] != model.format.shape:
                raise ValueError(
                    f"{part.name} has samples of shape {part.x.shape[1:]}, but the model was fitted on {model.format.shape}"
                )
        classes = model.format.classes
        known = classes is not None and all(
            part.y is not None and set(part.classes) <= set(map(str, classes)) for part in (images, home)
        )
        found, normal = (
            model.score_samples(part.x, _labels(part) if known else None)
            for part in (images, home.take(pick(len(home), MOST_REFERENCE)))
        )
        shares = tail_shares(found, normal)
        columns = images.origin() | {"elbo": found, "tail_share": shares, "anomaly": shares < self.share}
        output.write_columns(self.out, columns)
        whose = f"{len(normal):,} of {home.name} ({home.split})"
        print(f"the lowest of {len(images):,} scores: ELBO in nats, a bound of log p({'x|label' if known else 'x'})")
        output.print_lowest(columns, "elbo")
        low = np.count_nonzero(shares < self.share)
        print(f"{low:,} are lower than all but {100 * self.share:g} % of the reference, {whose}")
        print(f"{len(images):,} scores are in {self.out}")

    def _reference(self, model, images: Images) -> Images:
        """What scores are held against."""
        trained_on = model.facts["data"]
        name = self.reference or trained_on["name"]
        if self.reference is None and images.fingerprint == trained_on["fingerprint"]:
            home, source = images, self
        elif name == "array":
            raise ValueError(
                f"{self.run_folder} was fitted on an array: say with --reference which data is as it should be"
            )
        else:
            source = replace(self, data=name, labels=None)
            try:
                home = source.open_for(model, "all")
            except (FileNotFoundError, ValueError) as error:
                if self.reference is not None:
                    raise
                raise ValueError(
                    f"what {self.run_folder} was trained on can't be opened ({error}); say with --reference which data is as "
                    "it should be"
                ) from None
        if home.fingerprint != trained_on["fingerprint"]:
            if self.reference is None:
                raise ValueError(
                    f"{name} has changed since {self.run_folder} was trained on it; say with --reference which data is as it "
                    "should be"
                )
            return home
        if trained_on["split"] == "all":
            return home
        held = np.count_nonzero(home.part_of == PARTS.index("validation"))
        return source.open_for(model, "validation" if held * self.share >= 1 else "train")


@dataclass(kw_only=True)
class Evaluate(Source):
    """A trained model's numbers on held-out data; also written to RUN/evaluation.json, unless RUN is on the Hub, or not
    finished.
    """

    run_folder: Folder
    """The trained run."""
    split: Split = "test"
    """Which part of the data."""
    judge: bool = True
    """Where there are labels: train or fetch the judge, a small CNN, and measure samples with its features."""
    full: bool = False
    """Also what takes longer: the NLL of 500 draws on all images, copies of training images, a classifier trained on samples
    alone, and whether the latent of a conditional model is independent of the class."""

    def run(self) -> None:
        from vaekit.evaluation.generation import get_judge
        from vaekit.files import load
        from vaekit.hub import is_address
        from vaekit.report.measure import check_history, measure_run

        model = load(self.run_folder).fitted_.in_pixels()
        images, train = self.open_for(model, self.split), self.open_for(model, "train")
        check_history(model, self.run_folder)
        judge, accuracy = (None, None)
        if self.judge and images.y is not None and not images.is_table:
            judge, accuracy = get_judge(train, self.open_for(model, "test"), verbose=True)
        # What is measured of weights that will change is kept by nobody.
        folder = None if is_address(self.run_folder) or model.record.unfinished else Path(self.run_folder)
        entry = measure_run(model, train, images, folder, judge=judge, judge_accuracy=accuracy, full=self.full)
        rows = images.is_table
        title = in_rows(f"{images.split}, nats per image", rows)
        output.print_table(f"{self.run_folder} on {self.data} ({title})", output.worded(entry, rows=rows))


@dataclass(kw_only=True)
class Export:
    """Encoder, decoder, code lookup (VQ-VAE) and fitted prior as ONNX files for any number of samples, each checked against
    PyTorch; export.json describes them and example.py uses them, without torch.
    """

    run_folder: Folder
    """The trained run."""
    out: str
    """The folder to make."""

    def run(self) -> None:
        from vaekit.export import check_export, export_onnx
        from vaekit.files import load

        check_export(self.out)
        facts = export_onnx(load(self.run_folder, device="cpu").fitted_, self.out)
        for name, file in facts["files"].items():
            worst = max(file["largest_differences"].values())
            print(f"{name}: {file['does']} (from PyTorch at most {worst:.1g} away)")
        print(f"the files, export.json and example.py are in {self.out}")


@dataclass(kw_only=True)
class Push:
    """Upload a trained model to the Hugging Face Hub, with a model card. RUN/evaluation.json is told in it where it is there;
    of the data's path only the last part leaves this machine.
    """

    run_folder: Folder
    """The trained run."""
    repo_id: Folder
    """Where to: user/name; made where there is none, a model that is there already is replaced."""
    private: bool = False
    """Only you see it; an error where it is public already."""
    license: str | None = None
    """The Hub's identifier of the licence you give it, such as mit or cc-by-4.0; None says that none is stated."""
    message: str | None = None
    """Of the commit."""
    token_file: str | None = None
    """A file with an access token; None is the one that `hf auth login` or HF_TOKEN left."""

    def run(self) -> None:
        from vaekit.files import load_finished
        from vaekit.hub import check_repo_id, push_to_hub

        check_repo_id(self.repo_id)
        token = None
        if self.token_file is not None:
            if not Path(self.token_file).is_file():
                raise FileNotFoundError(f"no token file at {self.token_file}")
            token = Path(self.token_file).read_text().strip()
        model = load_finished(self.run_folder, "a model that others load").fitted_
        evaluated = (Path(self.run_folder) / "evaluation.json").exists()
        url = push_to_hub(
            model,
            self.repo_id,
            private=self.private,
            license=self.license,
            evaluation=self.run_folder if evaluated else None,
            commit_message=self.message,
            token=token,
        )
        if not evaluated:
            print("vaekit: the card has no held-out results; `vaekit evaluate` finds them", file=sys.stderr)
        print(f"{url}\nread it with vaekit.load('hf://{self.repo_id}')")


@dataclass(kw_only=True)
class Trainings(Source):
    """Several trainings on the same data."""

    out: str
    seeds: int = 1
    """Seeds per model, or per point of the grid; several give means and standard deviations."""
    random_state: int = 0
    """The first seed."""
    epochs: int | None = None
    """Of each training; None lets the model choose."""
    architecture: str | None = None
    """Of every model: conv, resnet, mlp or wang2023."""
    device: str = "auto"
    """auto, cpu, cuda."""
    time_budget: float | None = None
    """Seconds the whole command may take: what is still to be trained shares them, and is made shorter where they are few."""

    def shared(self) -> dict:
        """Keywords of both `compare` and `sweep`."""
        check_number("seeds", self.seeds, whole=True, above=0)
        return {
            "seeds": self.seeds,
            "random_state": self.random_state,
            "epochs": self.epochs,
            "architecture": self.architecture,
            "device": self.device,
            "time_budget": self.time_budget,
            "say": lambda text: print(text, flush=True),
            **self.how(),
        }


@dataclass(kw_only=True)
class Compare(Trainings):
    """Train several models on the same data and write the report that compares them."""

    out: str
    """The report's folder: index.html, results.json, figures/ and runs/."""
    models: str = "vae,bvae,cvae,vqvae"
    """Which models, separated by commas."""
    sweeps: bool = False
    """Also the loss against the latent dimension and against beta: one seed, a quarter of the epochs."""
    priors: bool = True
    """Also fit a prior to the latents or codes of each model."""

    def run(self) -> None:
        from vaekit.registry import MODELS
        from vaekit.report.compare import compare

        check_folder(self.out, "report", inputs=self.inputs())
        names = list(dict.fromkeys(name.strip() for name in self.models.split(",") if name.strip()))
        for name in names:
            if name not in MODELS:
                raise ValueError(f"unknown model {name!r}{nearest(name, MODELS)}; models are {', '.join(MODELS)}")
        if not names:
            raise ValueError(f"compare needs at least one model, got {self.models!r}")
        results = compare(
            self.data,
            self.out,
            models=names,
            sweeps=self.sweeps,
            priors=self.priors,
            command=shlex.join(["vaekit", *sys.argv[1:]]),
            **self.shared(),
        )
        output.print_comparison(results["models"])
        print(f"the report: {Path(self.out) / 'index.html'}")


@dataclass(kw_only=True)
class Sweep(Trainings):
    """Train a beta-VAE for each of a grid of latent_dim and beta, and say which to take and why, or why none can be advised."""

    out: str
    """The sweep's folder: sweep.json, sweep.png and runs/."""
    latent_dim: str = "2,4,8,16,32"
    """Widths of the latent vector, separated by commas."""
    beta: str = "0.5,1,2,4"
    """Weights of the rate, separated by commas."""
    likelihood: str | None = None
    """gaussian, gaussian_fixed, bernoulli or discretized_logistic."""
    jobs: int | None = None
    """Trainings at once; None is one a core, at most 8, and one on a GPU."""

    def run(self) -> None:
        from vaekit.report.sweep import sweep

        check_folder(self.out, "sweep", inputs=self.inputs())
        check_number("jobs", self.jobs, whole=True, above=0)
        results = sweep(
            self.data,
            self.out,
            **self.shared(),
            latent_dims=_numbers("--latent-dim", self.latent_dim, int),
            betas=_numbers("--beta", self.beta, float),
            likelihood=self.likelihood,
            jobs=self.jobs,
        )
        held = results["data"]["held_out"]
        title = in_rows(f"{held:,} held-out images, nats per image", results["data"]["table"])
        output.print_points(f"{self.data}, {title}", results["points"])
        for advice in results["advice"]:
            advised = "nothing can be recommended"
            if advice["latent_dim"] is not None:
                advised = f"--latent-dim {advice['latent_dim']} --beta {advice['beta']:g}"
            print(f"to {advice['purpose']}: {advised}")
            print(f"  {advice['reason']}")
        print(f"the picture: {Path(self.out) / 'sweep.png'}")


@dataclass(kw_only=True)
class Doctor(Source):
    """What is wrong with a trained run, and what to turn: every finding with its evidence and a command that would mend it."""

    run_folder: Folder
    """The trained run."""
    data: str | None = None
    """What it was trained on; None is that by its name, or path."""
    json: bool = False
    """Print JSON instead of sentences."""

    def run(self) -> None:
        from vaekit.files import load
        from vaekit.report.doctor import examine
        from vaekit.report.measure import check_history

        model = load(self.run_folder).fitted_.in_pixels()
        source = replace(self, data=self.data or model.facts["data"]["name"])
        train, test = source.open_for(model, "train"), source.open_for(model, "test")
        check_history(model, self.run_folder)
        found = examine(model, train, test, folder=self.run_folder, data=source.data, how=self.how())
        if self.json:
            print(json.dumps([diagnosis._asdict() for diagnosis in found], indent=1))
            return
        for diagnosis in found:
            print(f"{'!' if diagnosis.wrong else ' '} {diagnosis.name}: {diagnosis.words}")
            print(f"    {diagnosis.evidence}")
            if diagnosis.cure:
                print(f"    try: {diagnosis.cure}")
        wrong = sum(diagnosis.wrong for diagnosis in found)
        print(f"{wrong} of {len(found)} checks found something" if wrong else f"{len(found)} checks, nothing wrong")


@dataclass(kw_only=True)
class Explore(Source):
    """The latent space of trained models in the browser, side by side: a map of held-out images, sliders, codes, a pad to draw
    on. Ctrl-C ends it.
    """

    run_folders: Annotated[list[str], tyro.conf.Positional]
    """One trained run or several of the same image size."""
    data: str | None = None  # type: ignore[assignment]
    """Whose held-out images are shown; None is the data the first run was trained on, by name."""
    port: int = 7860
    """Where to serve the page; the next free one where it is taken."""
    host: str = "127.0.0.1"
    """The address to serve the page at. Any other than this machine's own asks for a token, which the printed address has."""
    browser: bool = True
    """Open the page in the browser."""

    def run(self) -> None:
        from vaekit.files import load

        try:
            from vaekit.explorer.explored import Explored, check_explorable, run_names, some
            from vaekit.explorer.server import serve
            from vaekit.report.doctor import examine
        except ModuleNotFoundError as error:
            if error.name not in ("starlette", "uvicorn"):
                raise
            raise ValueError("vaekit explore needs the extra `explore`: pip install 'vaekit[explore]'") from None
        if not self.run_folders:
            raise ValueError("explore needs a trained run: vaekit explore RUN")
        models = [load(folder).fitted_.in_pixels() for folder in self.run_folders]
        name = self.data or models[0].facts["data"]["name"]
        if name == "array":
            raise ValueError(f"{self.run_folders[0]} was fitted on an array: say with --data whose images to show")
        source = replace(self, data=name)
        images = some(source.open_for(models[0], "test"))
        names = run_names(self.run_folders)
        for model, folder in zip(models, names, strict=True):
            check_explorable(model, images, folder)
        print(f"encoding {len(images)} held-out images of {images.name}", flush=True)
        train = source.open_for(models[0], "train")
        runs = []
        for model, name, folder in zip(models, names, self.run_folders, strict=True):
            at_home = model.facts["data"]["fingerprint"] == train.fingerprint  # else its training images are not known
            diagnoses = (
                examine(model, train, images, folder=folder, data=source.data, how=self.how()) if at_home else []
            )
            runs.append(Explored(model, images, name, diagnoses))
        serve(
            runs, images, host=self.host, port=self.port, browser=self.browser, say=lambda text: print(text, flush=True)
        )


def _numbers(flag: str, text: str, kind: type) -> list:
    """Numbers between commas."""
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        what = "whole numbers" if kind is int else "numbers"
        raise ValueError(f"{flag} must be {what} separated by commas, got {text!r}") from None


def _check_table(out: str) -> None:
    """Before the work that a missing library would make useless."""
    if out.endswith(".parquet"):
        load_pyarrow(out)


def _labels(images: Images) -> np.ndarray | None:
    """The images' labels by name, which a conditional model uses and others ignore."""
    return None if images.y is None else np.asarray(images.classes)[images.y]
