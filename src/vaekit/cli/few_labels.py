"""`vaekit few-labels`: a classifier from few labelled images and many others, and what it says of new ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import tyro

from vaekit.cli.source import Source
from vaekit.messages import check_number
from vaekit.owned import check_file, check_folder

if TYPE_CHECKING:
    import numpy as np

    from vaekit.data import Images


@dataclass(kw_only=True)
class FewLabels(Source):
    """Learns to classify images of which few are labelled, with the help of the others, and writes the classifier into a
    folder; with --classifier it is used instead: predictions for new images, in data order.
    """

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """Labelled images: a folder with a sub-folder a class, or whatever else has labels; with --classifier new images."""
    out: str
    """The classifier's folder; with --classifier predictions.csv, .tsv or .parquet, with columns file (or row), label, split,
    predicted and probability."""
    unlabelled: str | None = None
    """More images, without labels."""
    per_class: int | None = None
    """Take the labels of so many images of each class alone, by chance, and the other images as unlabelled: a trial of how many
    labels are enough, where more are known."""
    classifier: str | None = None
    """A folder that this command has written: what it says of DATA."""
    overwrite: bool = False
    """Replace the file --out where it exists."""
    random_state: int | None = None
    """Seed of everything random."""

    def run(self) -> None:
        check_number("per_class", self.per_class, whole=True, above=0)
        check_number("random_state", self.random_state, whole=True)
        if self.classifier is None:
            self._learn()
        elif self.unlabelled is None and self.per_class is None:
            self._predict(self.classifier)
        else:
            raise ValueError("--unlabelled and --per-class are for learning: leave them out, or --classifier")

    def _learn(self) -> None:
        from vaekit.data.opening import inputs_of
        from vaekit.estimators.few_labels import FewLabelsClassifier

        more = [] if self.unlabelled is None else inputs_of(self.unlabelled)
        check_folder(self.out, "classifier", inputs=[*self.inputs(), *more])
        images = self.open("all" if self.per_class is None else "train")
        self.say(images)
        if images.y is None or images.is_table:
            raise ValueError(
                f"{self.data} has no labelled images: give each class a sub-folder, or a table with --labels"
            )
        x, y = self._together(images)
        model = FewLabelsClassifier(random_state=self.random_state, verbose=True).fit(x, y)
        model.save(self.out)
        known = model.facts_["labelled"]
        print(
            f"a classifier of {len(model.classes_)} classes is in {self.out}: {known:,} labelled images of {len(y):,}"
        )
        if self.per_class is None:
            print("it was tried on no other labels: with more of them, --per-class tells how good it is")
            return
        test = self.open("test")
        right = model.predict(test.x) == _names(test)
        print(f"of {len(test):,} test images {right.mean():.2%} are right")

    def _together(self, images: Images) -> tuple[np.ndarray, np.ndarray]:
        """Images, labelled ones first, and their labels by name, -1 where there is none."""
        import numpy as np

        y = _names(images).astype(object)
        if self.per_class is not None:
            order = np.random.default_rng(self.random_state).permutation(len(y))
            ranks = {name: order[y[order] == name][: self.per_class] for name in images.classes}
            unknown = np.setdiff1d(np.arange(len(y)), np.concatenate(list(ranks.values())))
            y[unknown] = -1
        if self.unlabelled is None:
            return images.x[:], y
        others = replace(self, data=self.unlabelled, labels=None).open("all")
        if others.image_shape != images.image_shape:
            raise ValueError(
                f"{self.unlabelled} has samples of shape {others.image_shape}, and {self.data} of {images.image_shape}; "
                "--resize brings image files to one size"
            )
        return np.concatenate([images.x[:], others.x[:]]), np.concatenate([y, np.full(len(others), -1, object)])

    def _predict(self, classifier: str) -> None:
        from vaekit.cli import output
        from vaekit.data.tables import TABLE_SUFFIXES
        from vaekit.estimators.few_labels import FewLabelsClassifier

        if not self.out.endswith(TABLE_SUFFIXES):
            raise ValueError(f"--out must end in {' or '.join(TABLE_SUFFIXES)}, got {self.out!r}")
        output.check_table(self.out)
        check_file(self.out, inputs=[*self.inputs(), classifier], overwrite=self.overwrite)
        model = FewLabelsClassifier.load(classifier)
        images = self.open("all")
        self.say(images)
        shares = model.predict_proba(images.x[:])
        predicted = {"predicted": model.classes_[shares.argmax(1)], "probability": shares.max(1)}
        output.write_columns(self.out, images.origin() | predicted)
        print(f"{len(images):,} predictions are in {self.out}")


def _names(images: Images) -> np.ndarray:
    import numpy as np

    return np.asarray(images.classes)[images.y]
