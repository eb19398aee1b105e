"""What a trained model is worth: scores of images, numbers on held-out data, and what is wrong with a run."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from vaekit.cli.flags import Run
from vaekit.cli.sharded import Sharded
from vaekit.cli.source import RunSource, Split, label_names
from vaekit.messages import check_number, in_rows
from vaekit.owned import check_file, check_folder

if TYPE_CHECKING:
    import numpy as np

    from vaekit.data import Images
    from vaekit.evaluation.anomalies import AnomalyScore
    from vaekit.shards import Begun

MOST_REFERENCE = 10_000  # samples whose scores others are held against


@dataclass(kw_only=True)
class Score(RunSource, Sharded):
    """How like the training data each sample of a data set is, by one of several scores, all of them low for what is unlike it,
    and which samples stand out: a table in data order, and the ten lowest on the terminal.
    """

    run_folder: Run
    """The trained run."""
    out: str
    """scores.csv, .tsv or .parquet, with columns file (or row), label, split, one called as the score, tail_share and
    anomaly; with --shards a folder for these."""
    overwrite: bool = False
    """Replace the file --out where it exists."""
    split: Split | None = None
    """Which part of the data; by default the test part of what the model was trained on, and all of other data."""
    score: Literal["combined", "latent", "reconstruction", "elbo", "importance_weighted"] | None = None
    """combined (the density of latents and reconstruction error together plus that of principal components, each under a
    mixture of Gaussians), latent (that of latents alone), reconstruction (minus the squared error), elbo or
    importance_weighted (log p(x) by 50 draws), both in nats; by default combined, and elbo for a VQ-VAE."""
    share: float = 0.01
    """tail_share is the share of the reference's scores that are as low or lower, and anomaly says whether it is below this."""
    reference: str | None = None
    """Data that is as it should be; by default what the model was trained on: its validation part where that has enough
    samples to tell --share, else its training part, whose scores are a little higher."""

    def run(self) -> None:
        import numpy as np

        from vaekit.cli import output
        from vaekit.data.opening import inputs_of
        from vaekit.data.tables import TABLE_SUFFIXES
        from vaekit.evaluation.anomalies import AnomalyScore
        from vaekit.files import load

        sharded = self.wants_shards()
        if not sharded and not self.out.endswith(TABLE_SUFFIXES):
            raise ValueError(f"--out must end in {' or '.join(TABLE_SUFFIXES)}, got {self.out!r}")
        check_number("share", self.share, above=0)
        if self.share >= 1:
            raise ValueError(f"share must be below 1, got {self.share}")
        model = load(self.run_folder).fitted_
        score = AnomalyScore(model, self.score)
        read = [*self.inputs(), *inputs_of(self.reference or model.facts["data"]["name"])]
        if sharded:
            check_folder(self.out, "set of shards", inputs=read)
        else:
            output.check_table(self.out)
            check_file(self.out, inputs=read, overwrite=self.overwrite)
        images = self.open_for(model, "all")
        home, learned_from = self._reference(model, images)
        images = self._scored(model, images)
        for part in (images, home):
            if part.x.shape[1:] != model.format.shape:
                raise ValueError(
                    f"{part.name} has samples of shape {part.x.shape[1:]}, but the model was fitted on {model.format.shape}"
                )
        classes = model.format.classes
        known = classes is not None and all(
            part.y is not None and set(part.classes) <= set(map(str, classes)) for part in (images, home)
        )
        normal = _normal(score, model, home, learned_from, known)
        scoring = Scoring(self, score, normal, known)
        whose = f"{len(normal):,} of {home.name} ({home.split})"
        if sharded:
            self.write_shards(scoring, read)
            print(f"anomaly says which are lower than all but {100 * self.share:g} % of the reference, {whose}")
            return
        columns = images.origin() | scoring.columns(model, images)
        output.write_columns(self.out, columns)
        print(f"the lowest of {len(images):,} scores: {score.words}{', by label' if known else ''}")
        output.print_lowest(columns, score.name)
        low = np.count_nonzero(columns["anomaly"])
        print(f"{low:,} are lower than all but {100 * self.share:g} % of the reference, {whose}")
        print(f"{len(images):,} scores are in {self.out}")

    def _scored(self, model, whole: Images | None = None) -> Images:
        """What is scored. whole: all of it, where that is open already."""
        images = self.open_for(model, "all") if whole is None else whole
        if self.split is not None or images.fingerprint == model.facts["data"]["fingerprint"]:
            return self.open_for(model, self.split or "test")
        return images

    def _reference(self, model, images: Images) -> tuple[Images, Images | None]:
        """What scores are held against, and what a score may learn from besides, where that is something else."""
        import numpy as np

        from vaekit.data.images import PARTS

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
            return home, None
        if trained_on["split"] == "all":
            return home, None
        train = source.open_for(model, "train")
        if np.count_nonzero(home.part_of == PARTS.index("validation")) * self.share < 1:
            return train, None
        return source.open_for(model, "validation"), train


def _normal(score: AnomalyScore, model, home: Images, learned_from: Images | None, known: bool) -> np.ndarray:
    """The scores of normal samples, `home`, none of which `score` has learned from. known: by their labels."""
    from vaekit.report.measure import pick

    def some(images: Images) -> tuple:
        images = images.take(pick(len(images), MOST_REFERENCE))
        return images.x, label_names(images) if known else None

    if learned_from is None or not score.learns:
        return score.fit(model, *some(home))
    score.learn(model, *some(learned_from))
    return score(model, *some(home))


class Scoring(NamedTuple):
    """What `vaekit score` asks of a sample: its score, held against the `normal` ones. known: whether by its label."""

    asked: Score
    score: AnomalyScore
    normal: np.ndarray
    known: bool

    def columns(self, model, part: Images) -> dict:
        """Columns of some samples."""
        from vaekit.evaluation.likelihood import tail_shares

        found = self.score(model, part.x, label_names(part) if self.known else None)
        shares = tail_shares(found, self.normal)
        return {self.score.name: found, "tail_share": shares, "anomaly": shares < self.asked.share}

    def begin(self) -> Begun:
        """The work of a worker that makes shards."""
        from vaekit.files import load
        from vaekit.shards import fingerprints, map_images

        model = load(self.asked.run_folder).fitted_

        def make(part: Images) -> tuple[np.ndarray, dict]:
            columns = self.columns(model, part)
            return columns[self.score.name], columns

        (reference,) = fingerprints(self.normal[None])
        facts = {"command": "score", "run": self.asked.run_folder, "score": self.score.name}
        facts |= {"share": self.asked.share, "reference": reference}
        return map_images(self.asked._scored(model), model, make, facts)


@dataclass(kw_only=True)
class Evaluate(RunSource):
    """A trained model's numbers on held-out data, and what is good or bad about them; all are written to RUN/evaluation.json,
    unless RUN is on the Hub, or not finished.
    """

    run_folder: Run
    """The trained run."""
    split: Split = "test"
    """Which part of the data."""
    judge: bool = True
    """Where there are labels: train or fetch the judge, a small CNN, and measure samples with its features."""
    full: bool = False
    """Also what takes longer: the NLL of 500 draws on all images, copies of training images, a classifier trained on samples
    alone, and whether the latent of a conditional model is independent of the class."""

    def run(self) -> None:
        from vaekit.cli import output
        from vaekit.evaluation.generation import get_judge
        from vaekit.files import load
        from vaekit.hub import is_address
        from vaekit.report.measure import check_history, measure_run
        from vaekit.report.verdict import verdict

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
        title = in_rows(
            f"{self.run_folder} on {len(images):,} {images.split} images of {self.data}, in nats per image", rows
        )
        output.print_verdict(title, verdict(entry), rows=rows)
        if folder is not None:
            print(f"all numbers are in {folder / 'evaluation.json'}")


@dataclass(kw_only=True)
class Doctor(RunSource):
    """What is wrong with a trained run, and what to turn: every finding with its evidence and a command that would mend it."""

    run_folder: Run
    """The trained run."""
    data: str | None = None
    """What it was trained on; by default found by its name, or path."""
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
