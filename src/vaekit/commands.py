"""The commands of `vaekit`, a dataclass each: its fields are the flags, `run` does the work."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass, field, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from vaekit import output
from vaekit.data import Images, describe, open_data, open_whole
from vaekit.data.builtin import opening_flags
from vaekit.data.images import Decoding, split_indices, spread
from vaekit.messages import check_number, filled, nearest
from vaekit.training.prior import PriorSettings

Split = Literal["train", "validation", "test", "all"]
MOST_IN_A_PICTURE = 2500
Folder = Annotated[str, tyro.conf.Positional]


@dataclass(kw_only=True)
class Source:
    """Which images a command works on."""

    data: str
    """digits, mnist, fashion-mnist, sprites, a folder, a .npy, .npz, idx or .parquet file, or a glob of images."""
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
    labels: str | None = None
    """A table (CSV) with the label of each image file, where there are no class sub-folders; for x.npy, y.npy."""
    skip_bad: bool = False
    """Go on without the image files that can't be read."""
    binarize: Literal["none", "fixed", "dynamic"] | None = None
    """Black-or-white pixels, drawn with the intensity as their probability: once, or anew in each epoch of training. None is
    the run's own, or none."""

    def how(self, trained_on: dict | None = None) -> dict:
        """Keywords of `open_data`: what the command line says, else as the data was opened that a model was `trained_on`, else
        the defaults.
        """
        as_then = trained_on or {}
        decoding = as_then.get("decoding") or {}
        return {
            "split_seed": self.split_seed or 0,
            "resize": self.resize or decoding.get("resize"),
            "fit": self.fit or decoding.get("fit", "crop"),
            "background": self.background or decoding.get("background", "white"),
            "labels": self.labels,
            "skip_bad": self.skip_bad,
            "binarize": self.binarize or as_then.get("binarize", "none"),
        }

    def open(self, split: str) -> Images:
        """The part `split`."""
        return open_data(self.data, split, **self.how())

    def open_for(self, model, split: str) -> Images:
        """The part `split`; the data a model was trained on is split as it was then, whatever --split-seed says."""
        trained_on = model.facts_["data"]
        how = self.how(trained_on)
        as_then = open_data(self.data, split, **{**how, "split_seed": trained_on["split_seed"] or 0})
        return as_then if as_then.fingerprint == trained_on["fingerprint"] else open_data(self.data, split, **how)


@dataclass(kw_only=True)
class Data:
    """What is in a data set, and what is wrong with it."""

    data: Folder
    """digits, mnist, fashion-mnist, sprites, a folder, a .npy, .npz, idx or .parquet file, or a glob of images."""
    resize: int | None = None
    """Side in pixels that images from files are brought to."""
    fit: Literal["crop", "pad"] = "crop"
    """How they are brought to it: by cutting the longer side, or by filling up the shorter one with the background."""
    background: str = "white"
    """What is behind transparent pixels: a colour (white, #ff8800), or keep, and alpha is a fourth channel."""
    labels: str | None = None
    """A table (CSV) with the label of each image file, where there are no class sub-folders; for x.npy, y.npy."""
    split_seed: int = 0
    """Seed of the 80/10/10 split of data without a test part."""
    picture: str | None = None
    """A contact sheet to write, such as sheet.png: images of each class."""
    json: bool = False
    """Print JSON instead of a table."""

    def run(self) -> None:
        decoding = Decoding(self.resize, self.fit, self.background)
        check_number("split_seed", self.split_seed, whole=True)
        if self.picture is not None and not self.picture.endswith(".png"):
            raise ValueError(f"--picture must end in .png, got {self.picture!r}")
        whole, parts = open_whole(self.data, decoding, labels=self.labels, skip_bad=True)
        if parts is None and len(whole) >= 10:
            parts = split_indices(whole.y, len(whole), self.split_seed)
        facts = describe(whole, parts)
        model, flags = facts.pop("suggested_model"), facts.pop("suggested_flags")
        flags += opening_flags({**decoding._asdict(), "labels": self.labels, "split_seed": self.split_seed})
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
        output.print_table(f"data {self.data}", facts)
        print("\n".join(f"! {problem}" for problem in problems) or "nothing wrong was found")
        print(f"to begin with: {suggestion}")
        if self.picture is not None:
            print(f"the contact sheet: {self.picture}")


@dataclass(kw_only=True)
class Train(Source):
    """Train a model; what `make_train` adds is the model with its fields."""

    out: str
    """The run folder to make."""
    resume: bool = False
    """Go on with the run in --out; a finished one is left as it is, none there starts fresh."""
    time_budget: float | None = None
    """Seconds the training may take; shortens the run to fit."""
    log: Literal["tensorboard"] | None = None
    """Where to keep the log besides log.jsonl: tensorboard writes RUN/tensorboard."""

    def run(self) -> None:
        model = self.model  # type: ignore[attr-defined]
        model.verbose = True
        images = self.open("train")
        # Only early stopping looks at validation images, and data with a published split has no such part.
        validation = self.open("validation") if model.early_stopping and images.split_seed is not None else None
        for note in images.notes:
            print(f"vaekit: {note}", file=sys.stderr)
        model.fit_images(
            images,
            validation=validation,
            folder=self.out,
            resume=self.resume,
            time_budget=self.time_budget,
            log=self.log,
        )
        last = model.history_[-1]
        chosen = ", ".join(
            f"{name} {output.plain(value)}" for name, value in model.resolved_.items() if value is not None
        )
        print(f"{type(model).__name__}: {model.n_parameters_:,} parameters, {last['step']} steps ({chosen})")
        print(f"objective {last['objective']:.5g} in the last epoch; the run is in {self.out}")


def make_train(model_class: type) -> type:
    """`Train` for one model: its fields become flags beside Train's own."""
    flat = Annotated[model_class, tyro.conf.arg(name="")]
    made = make_dataclass("Train", [("model", flat, field(default_factory=model_class))], bases=(Train,), kw_only=True)
    made.__doc__ = model_class.__doc__
    return made


@dataclass(kw_only=True)
class FitPrior(Source):
    """Fit a prior to the latents or codes of a trained model; `sample` and `evaluate` then use it. A prior that the run has
    already is replaced, and a fit that was interrupted goes on where it was.
    """

    run_folder: Folder
    """The trained run; the prior is written to its prior.safetensors."""
    settings: Annotated[PriorSettings, tyro.conf.arg(name="")] = field(default_factory=PriorSettings)
    per_class: bool = True
    """A prior for each class where the data has labels, so that samples can be asked for by class."""

    def run(self) -> None:
        from vaekit.files import load
        from vaekit.hub import is_address

        if is_address(self.run_folder):
            raise ValueError(
                f"a prior is written into a run folder: vaekit.load({self.run_folder!r}).save('FOLDER') makes one of this model"
            )
        model = load(self.run_folder, prior=False)
        images = self.open_for(model, "train")
        if not self.per_class:
            if model.conditional:
                raise ValueError(
                    f"{self.run_folder} is conditional: its prior is of each class; leave out --no-per-class"
                )
            images = replace(images, y=None)
        model.verbose = True
        model.fit_prior_images(images, self.settings, folder=self.run_folder)
        facts = model.prior_facts_
        print(f"{model.prior_name}, in {self.run_folder}/prior.safetensors")
        rates = {
            "plain prior": facts["plain_rate"],
            "code frequencies at each position": facts.get("position_rate"),
            "fitted prior": facts["validation_rate"],
        }
        print(f"rate of {facts['validation_images']} held-out images, nats per image:")
        print("\n".join(f"  {name:<34} {rate:.2f}" for name, rate in rates.items() if rate is not None))


@dataclass(kw_only=True)
class Sample:
    """New images from a trained model: a picture of a grid, an array, or a folder of (labelled) images."""

    run_folder: Folder
    """The trained run."""
    out: str
    """grid.png, x.npy, x.npz (with labels), or a folder, with a sub-folder per class for conditional models."""
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
    """Sample from the prior the model was trained with, not from the fitted one."""
    random_state: int | None = None
    """Seed of the draws."""

    def run(self) -> None:
        from vaekit.files import load

        check_number("n", self.n, whole=True, above=0)
        check_number("random_state", self.random_state, whole=True)
        output.check_kind(self.out, ".png", ".npy", ".npz")
        model = load(self.run_folder)
        prior = "plain" if self.plain_prior else None
        classes = model.sampling_classes(prior)
        for flag, used in (("--per-class", self.per_class), ("--label", self.label is not None)):
            if used and classes is None:
                raise ValueError(
                    f"{self.run_folder} holds a {type(model).__name__}, which is unconditional: {flag} needs a CVAE, or a "
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
        )
        output.write_images(self.out, samples, labels)
        print(f"{n} samples are in {self.out}")


@dataclass(kw_only=True)
class Encode(Source):
    """Latents (posterior means) or codes of a data set, as .npy, or .npz with the labels."""

    run_folder: Folder
    """The trained run."""
    out: str
    """z.npy, or z.npz with x the latents and y the labels."""
    split: Split = "test"
    """Which part of the data."""

    def run(self) -> None:
        from vaekit.files import load

        if not self.out.endswith((".npy", ".npz")):
            raise ValueError(f"--out must end in .npy or .npz, got {self.out!r}")
        model = load(self.run_folder)
        images = self.open_for(model, self.split)
        labels = _labels(images)
        codes = model.encode(images.x, labels)
        output.write_array(self.out, codes, labels)
        print(f"{codes.dtype} codes of shape {codes.shape} are in {self.out}")


@dataclass(kw_only=True)
class Decode:
    """Images from latents or codes, as `encode` writes them."""

    run_folder: Folder
    """The trained run."""
    codes: str
    """z.npy or z.npz (x)."""
    out: str
    """x.npy, grid.png or a folder."""
    label: str | None = None
    """The class, for conditional models."""

    def run(self) -> None:
        from vaekit.data.readers import read_npy, read_npz
        from vaekit.files import load

        output.check_kind(self.out, ".png", ".npy", ".npz")
        model = load(self.run_folder)
        if self.label is not None and not model.conditional:
            raise ValueError(
                f"{self.run_folder} holds a {type(model).__name__}, which is unconditional: --label needs a CVAE"
            )
        path = Path(self.codes)
        if not path.exists():
            raise FileNotFoundError(f"no codes at {path}")
        codes = read_npz(path)[0] if path.suffix == ".npz" else read_npy(path)
        if model.conditional and self.label is None:
            raise ValueError(f"{self.run_folder} is conditional: say which class with --label")
        images = model.decode(codes, self.label)
        output.write_images(self.out, images)
        print(f"{len(images)} images are in {self.out}")


@dataclass(kw_only=True)
class Reconstruct(Source):
    """A data set through encoder and decoder."""

    run_folder: Folder
    """The trained run."""
    out: str
    """grid.png (inputs above reconstructions), x.npy or a folder."""
    split: Split = "test"
    """Which part of the data."""
    n: Annotated[int | None, tyro.conf.arg(aliases=["-n"])] = None
    """How many, drawn over all classes; None is all, or 10 in a picture."""

    def run(self) -> None:
        from vaekit.files import load

        check_number("n", self.n, whole=True, above=0)
        output.check_kind(self.out, ".png", ".npy", ".npz")
        model = load(self.run_folder)
        images = self.open_for(model, self.split)
        n = self.n or (10 if self.out.endswith(".png") else len(images))
        if n < len(images):
            images = images.take(spread(images, n))
        labels = _labels(images)
        rebuilt = model.reconstruct(images.x, labels)
        if self.out.endswith(".png"):
            from vaekit.pictures.figures import reconstructions
            from vaekit.pictures.style import save

            names = None if labels is None else [str(label) for label in labels]
            save(
                reconstructions(images.x, {type(model).__name__: rebuilt.reshape(images.x.shape)}, names=names),
                self.out,
            )
            print(f"{len(images)} reconstructions are in {self.out}")
        else:
            output.write_images(self.out, rebuilt)
            print(f"{len(images)} images are in {self.out}")


@dataclass(kw_only=True)
class Evaluate(Source):
    """A trained model's numbers on held-out data; also written to RUN/evaluation.json, unless RUN is on the Hub."""

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

        model = load(self.run_folder)
        images, train = self.open_for(model, self.split), self.open_for(model, "train")
        if images.x.shape[1:] != model.image_shape_:
            raise ValueError(
                f"{self.data} has samples of shape {images.x.shape[1:]}, but the model was fitted on {model.image_shape_}"
            )
        check_history(model, self.run_folder)
        judge, accuracy = (None, None)
        if self.judge and images.y is not None and not images.is_table:
            judge, accuracy = get_judge(train, self.open_for(model, "test"), verbose=True)
        folder = None if is_address(self.run_folder) else Path(self.run_folder)
        entry = measure_run(model, train, images, folder, judge=judge, judge_accuracy=accuracy, full=self.full)
        output.print_table(f"{self.run_folder} on {self.data} ({images.split}, nats per image)", entry)


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
        facts = export_onnx(load(self.run_folder, device="cpu"), self.out)
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
        from vaekit.files import load
        from vaekit.hub import check_repo_id

        check_repo_id(self.repo_id)
        token = None
        if self.token_file is not None:
            if not Path(self.token_file).is_file():
                raise FileNotFoundError(f"no token file at {self.token_file}")
            token = Path(self.token_file).read_text().strip()
        model = load(self.run_folder)
        evaluated = (Path(self.run_folder) / "evaluation.json").exists()
        url = model.push_to_hub(
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

    def shared(self) -> dict:
        """Keywords of both `compare` and `sweep`."""
        check_number("seeds", self.seeds, whole=True, above=0)
        return {
            "seeds": self.seeds,
            "random_state": self.random_state,
            "epochs": self.epochs,
            "architecture": self.architecture,
            "device": self.device,
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
        from vaekit.estimators import MODELS
        from vaekit.report.compare import compare

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
    """Train a beta-VAE for each of a grid of latent_dim and beta, and say which to take, and why."""

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
        output.print_points(f"{self.data}, {held:,} held-out images, nats per image", results["points"])
        for advice in results["advice"]:
            print(f"to {advice['purpose']}: --latent-dim {advice['latent_dim']} --beta {advice['beta']:g}")
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
        from vaekit.evaluation.generation import get_judge
        from vaekit.files import load
        from vaekit.report.doctor import examine
        from vaekit.report.measure import check_history

        model = load(self.run_folder)
        source = replace(self, data=self.data or model.facts_["data"]["name"])
        train, test = source.open_for(model, "train"), source.open_for(model, "test")
        if train.x.shape[1:] != model.image_shape_:
            raise ValueError(
                f"{source.data} has samples of shape {train.x.shape[1:]}, but the model was fitted on {model.image_shape_}"
            )
        check_history(model, self.run_folder)
        judged = model.conditional and train.y is not None and not train.is_table
        judge = get_judge(train, test, verbose=True)[0] if judged else None
        found = examine(model, train, test, judge=judge, folder=self.run_folder, data=source.data, how=self.how())
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
        models = [load(folder) for folder in self.run_folders]
        name = self.data or models[0].facts_["data"]["name"]
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
            at_home = model.facts_["data"]["fingerprint"] == train.fingerprint  # else its training images are not known
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


def _labels(images: Images) -> np.ndarray | None:
    """The images' labels by name, which a conditional model uses and others ignore."""
    return None if images.y is None else np.asarray(images.classes)[images.y]
