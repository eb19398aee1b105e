"""The two stages of training: a model, and a prior that fits what it encodes."""

from __future__ import annotations

from dataclasses import dataclass, make_dataclass, replace
from typing import ClassVar, Literal

from vaekit.cli.flags import Run
from vaekit.cli.source import RunSource, Source
from vaekit.estimators.fields import Fields
from vaekit.messages import filled, in_rows
from vaekit.owned import check_folder
from vaekit.registry import MODELS, Model
from vaekit.training.settings import PriorSettings

ENDED_BY = {  # in the words of a line's end; of a training that came to the end of its plan there is nothing to say
    "patience": ", stopped early",
    "budget": ", ended by the time budget",
    "finish": ", ended by --finish",
}


@dataclass(kw_only=True)
class Train(Source):
    """Train a model; `make_train` says which."""

    entry: ClassVar[Model]
    model: Fields
    data: str | None = None  # type: ignore[assignment]
    """digits, mnist-5k, mnist, fashion-mnist, sprites, a folder, a .npy, .npz, idx or .parquet file, or a glob of images
    (required, except with --finish)."""
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
        model = self.entry.estimator()(**vars(self.model))
        if self.finish:
            self._finish(type(model))
            return
        if self.data is None:
            raise ValueError("train needs --data, what to train on; only --finish goes without")
        from vaekit.ranks import from_first, joined

        model.verbose = True
        with joined():
            from_first(lambda: check_folder(self.out, "run", inputs=self.inputs()))
            self._train(model)

    def _train(self, model) -> None:
        from vaekit.ranks import in_turn, restarted

        images = in_turn(lambda: self.open("train"))
        # Only early stopping looks at validation images, and data with a published split has no such part.
        validation = None
        if model.early_stopping and images.split_seed is not None:
            validation = in_turn(lambda: self.open("validation"))
        self.say(images)
        model.fit_images(
            images,
            validation=validation,
            folder=self.out,
            resume=self.resume or restarted(),
            time_budget=self.time_budget,
            log=self.log,
        )
        self._tell(model.fitted_)

    def _finish(self, model_class: type) -> None:
        from vaekit.files import finish
        from vaekit.training.checkpoint import RunFolder

        config = RunFolder(self.out).model_config()
        if config["class"] != model_class.__name__:
            raise ValueError(f"{self.out} holds a {config['class']}, not a {model_class.__name__}")
        self._tell(finish(self.out).fitted_)

    def _tell(self, model) -> None:
        """What was done, which is not always what was planned."""
        from vaekit.cli.output import plain

        last, place = model.history[-1], model.describe_end()
        why = ENDED_BY.get(model.ended_by or "plan", "")
        chosen = ", ".join(
            f"{name} {plain(value)}"
            for name, value in model.record.resolved.items()
            if value is not None and name != "epochs"
        )
        print(f"{model.name}: {model.module.n_parameters:,} parameters, {last['step']} steps, {place}{why} ({chosen})")
        print(f"objective {last['objective']:.5g} in the last epoch; the run is in {self.out}")


def make_train(key: str) -> type[Train]:
    """`Train` for the model of this key, whose fields become flags."""
    entry = MODELS[key]
    made = make_dataclass(
        "Train", [("model", entry.fields())], bases=(Train,), kw_only=True, namespace={"entry": entry}
    )
    made.__doc__ = entry.fields().__doc__
    return made


@dataclass(kw_only=True)
class FitPrior(RunSource):
    """Fit a prior to the latents or codes of a trained model; `sample` and `evaluate` then use it, unless held-out images show
    that it is far worse than the one of the training. A prior that the run has already is replaced, and a fit that was
    interrupted goes on where it was.
    """

    prior: PriorSettings
    run_folder: Run
    """The trained run; the prior is written to its prior.safetensors."""
    per_class: bool = True
    """A prior for each class where the data has labels, so that samples can be asked for by class."""
    time_budget: float | None = None
    """Seconds the fitting may take, of this command where it goes on with one; it ends where it is when they are over."""

    def run(self) -> None:
        from vaekit.ranks import joined

        with joined():
            self._fit()

    def _fit(self) -> None:
        from vaekit.files import load_finished
        from vaekit.hub import is_address
        from vaekit.ranks import in_turn
        from vaekit.second_stage import fit_prior_to, stage_of

        if is_address(self.run_folder):
            raise ValueError(
                f"a prior is written into a run folder: vaekit.load({self.run_folder!r}).save('FOLDER') makes one of this model"
            )
        model = load_finished(self.run_folder, "a prior", prior=False).fitted_
        stage_of(self.run_folder)  # before the data is opened, which may take its time
        images = in_turn(lambda: self.open_for(model, "train"))
        if not self.per_class:
            if model.conditional:
                raise ValueError(
                    f"{self.run_folder} is conditional: its prior is of each class; leave out --no-per-class"
                )
            images = replace(images, y=None)
        fit_prior_to(model, images, self.prior, folder=self.run_folder, time_budget=self.time_budget, verbose=True)
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
