"""What a trained model makes: new images, latents and codes, and images from them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from vaekit.cli.flags import Run
from vaekit.cli.sharded import Sharded
from vaekit.cli.source import RunSource, Split, label_names
from vaekit.messages import check_number, filled, in_rows, nearest_path
from vaekit.owned import check_file

if TYPE_CHECKING:
    import numpy as np

    from vaekit.data import Images
    from vaekit.fitted import Fitted
    from vaekit.shards import Begun

MOST_IN_A_PICTURE = 2500


@dataclass(kw_only=True)
class Sample(Sharded):
    """New images from a trained model: a picture of a grid, an array, a folder of (labelled) images, or shards."""

    run_folder: Run
    """The trained run."""
    out: str
    """grid.png, x.npy, x.npz (with labels), or a folder, with a sub-folder per class for conditional models; of a table .npy,
    .npz, .csv, .tsv (.gz, too) or .parquet; with --shards a folder for these."""
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
    guidance: float | None = None
    """How far samples lean to their class, 0 or more; for class-conditional priors by flow matching. By default 1; 2 makes them
    surer and less diverse."""
    plain_prior: bool = False
    """Sample from the prior the model was trained with, not from the fitted one. That is so already, for images of no class in
    particular, where the fitted one was found far worse on held-out images."""
    fitted_prior: bool = False
    """Sample from the fitted prior even then."""
    clip: bool = False
    """Bring the values of each column of a table into the range seen in training."""
    random_state: int | None = None
    """Seed of the draws; by default they are others each time."""

    def run(self) -> None:
        from vaekit.cli import output
        from vaekit.files import load

        check_number("n", self.n, whole=True, above=0)
        check_number("random_state", self.random_state, whole=True)
        if self.wants_shards():
            from vaekit.shards import read_index
            from vaekit.world import check_random_state

            before = read_index(self.out).get("random_state")
            seed = before if self.random_state is None and before is not None else self.random_state
            self.write_shards(replace(self, random_state=check_random_state(seed)), [])
            return
        output.check_out(self.out, *output.SAMPLE_SUFFIXES, overwrite=self.overwrite)
        model = load(self.run_folder).fitted_.in_pixels()
        prior = self._prior()
        labels, n = self._labels(model, prior)
        if self.out.endswith(".png") and n > MOST_IN_A_PICTURE:
            raise ValueError(f"{n} images are too many for one picture; choose an --out that is a folder, .npy or .npz")
        labels = None if labels is None else labels(0, n, self.random_state)
        samples = self._sample(model, prior, n, labels, self.random_state)
        output.write_samples(self.out, model, samples, labels)
        print(f"{n} samples are in {self.out}")

    def begin(self) -> Begun:
        """The work of a worker that makes shards, which have seeds of their own."""
        import numpy as np

        from vaekit.files import load
        from vaekit.shards import Made, begun_with
        from vaekit.world import derive_seed

        model = load(self.run_folder).fitted_.in_pixels()
        prior = self._prior()
        labels, n = self._labels(model, prior)

        def make(start: int, stop: int) -> Made:
            seed = derive_seed(filled(self.random_state), "shard", start)
            known = None if labels is None else labels(start, stop, seed)
            samples = self._sample(model, prior, stop - start, known, seed)
            origin = {"row": np.arange(start, stop)} | ({} if known is None else {"label": np.asarray(known)})
            return Made(*_array_and_columns(model, samples), origin)

        make(0, 1)  # what can't be sampled is said before a shard is tried
        names = ("label", "per_class", "temperature", "top_k", "top_p", "guidance", "clip", "random_state")
        asked = {name: getattr(self, name) for name in names}
        return begun_with(model, n, make, {"command": "sample", "run": self.run_folder, "prior": prior, **asked})

    def _prior(self) -> str | None:
        """Which prior is asked for."""
        if self.plain_prior and self.fitted_prior:
            raise ValueError("give --plain-prior or --fitted-prior, not both")
        return "plain" if self.plain_prior else "fitted" if self.fitted_prior else None

    def _labels(
        self, model: Fitted, prior: str | None
    ) -> tuple[Callable[[int, int, int | None], np.ndarray] | None, int]:
        """labels(start, stop, seed) of the samples start to stop, None where they have none; and how many there are to be."""
        import numpy as np

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
        if self.per_class:
            every = filled(classes)
            return lambda start, stop, seed: every[np.arange(start, stop) // self.n], len(every) * self.n
        if self.label is not None:
            return lambda start, stop, seed: np.full(stop - start, self.label), self.n
        if classes is None:
            return None, self.n
        shares = model.sampling_shares(prior)
        return lambda start, stop, seed: np.random.default_rng(seed).choice(classes, stop - start, p=shares), self.n

    def _sample(self, model: Fitted, prior: str | None, n: int, labels: np.ndarray | None, seed: int | None):
        return model.sample(
            n,
            labels,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            random_state=seed,
            prior=prior,
            clip=self.clip,
            guidance=self.guidance,
        )


@dataclass(kw_only=True)
class Encode(RunSource, Sharded):
    """Latents (posterior means) or codes of a data set: an array, or a table that tells each sample's file or row."""

    run_folder: Run
    """The trained run."""
    out: str
    """z.npy; z.npz with x the latents, y the labels, names the files (or rows), and split; .csv, .tsv (.gz, too) or .parquet
    with columns file (or row), label, split, z0, z1, ...; with --shards a folder for these."""
    overwrite: bool = False
    """Replace the file --out where it exists."""
    split: Split = "test"
    """Which part of the data."""

    def run(self) -> None:
        from vaekit.cli import output
        from vaekit.data.tables import TABLE_SUFFIXES
        from vaekit.files import load

        if self.wants_shards():
            self.write_shards(self, self.inputs())
            return
        if not self.out.endswith((".npy", ".npz", *TABLE_SUFFIXES)):
            raise ValueError(f"--out must end in .npy, .npz, {' or '.join(TABLE_SUFFIXES)}, got {self.out!r}")
        output.check_table(self.out)
        check_file(self.out, inputs=self.inputs(), overwrite=self.overwrite)
        model = load(self.run_folder).fitted_
        images = self.open_for(model, self.split)
        labels = label_names(images)
        codes = model.encode(images if images.is_table else images.x, labels)
        if self.out.endswith(TABLE_SUFFIXES):
            output.write_columns(self.out, images.origin() | _columns_of(codes))
        else:
            output.write_array(self.out, codes, labels, images.origin())
        print(f"{codes.dtype} codes of shape {codes.shape} are in {self.out}")

    def begin(self) -> Begun:
        """The work of a worker that makes shards."""
        from vaekit.files import load
        from vaekit.shards import map_images

        model = load(self.run_folder).fitted_

        def make(part: Images) -> tuple[np.ndarray, dict]:
            codes = model.encode(part if part.is_table else part.x, label_names(part))
            return codes, _columns_of(codes)

        facts = {"command": "encode", "run": self.run_folder}
        return map_images(self.open_for(model, self.split), model, make, facts)


def _columns_of(codes: np.ndarray) -> dict[str, np.ndarray]:
    """Codes as columns of a table."""
    flat = codes.reshape(len(codes), -1)
    return {f"z{i}": flat[:, i] for i in range(flat.shape[1])}


@dataclass(kw_only=True)
class Decode:
    """Images from latents or codes, as `encode` writes them."""

    run_folder: Run
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
        from vaekit.cli import output
        from vaekit.data.given import as_whole
        from vaekit.data.readers import read_npy, read_npz, read_origin
        from vaekit.data.tables import TABLE_SUFFIXES, read_table
        from vaekit.files import load

        output.check_out(self.out, *output.SAMPLE_SUFFIXES, inputs=[self.codes], overwrite=self.overwrite)
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
class Reconstruct(RunSource, Sharded):
    """A data set through encoder and decoder."""

    run_folder: Run
    """The trained run."""
    out: str
    """grid.png (inputs above reconstructions), x.npy, x.npz with y the labels, names the files (or rows), and split, or a
    folder, whose files have the names of the inputs; of a table as `sample` writes it; with --shards a folder for these."""
    overwrite: bool = False
    """Replace the file --out where it exists."""
    split: Split = "test"
    """Which part of the data."""
    n: Annotated[int | None, tyro.conf.arg(aliases=["-n"])] = None
    """How many, drawn over all classes; by default all, or 10 in a picture."""

    def run(self) -> None:
        from vaekit.cli import output
        from vaekit.data.splits import spread
        from vaekit.files import load

        check_number("n", self.n, whole=True, above=0)
        if self.wants_shards():
            self.write_shards(self, self.inputs())
            return
        output.check_out(self.out, *output.SAMPLE_SUFFIXES, inputs=self.inputs(), overwrite=self.overwrite)
        model = load(self.run_folder).fitted_.in_pixels()
        images = self.open_for(model, self.split)
        n = self.n or (10 if self.out.endswith(".png") else len(images))
        if n < len(images):
            images = images.take(spread(images, n))
        labels = label_names(images)
        rebuilt = model.reconstruct(images if images.is_table else images.x, labels)
        if self.out.endswith(".png") and not images.is_table:
            from vaekit.pictures.sheets import reconstructions
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

    def begin(self) -> Begun:
        """The work of a worker that makes shards."""
        from vaekit.data.splits import spread
        from vaekit.files import load
        from vaekit.shards import map_images

        model = load(self.run_folder).fitted_.in_pixels()
        images = self.open_for(model, self.split)
        if self.n is not None and self.n < len(images):
            images = images.take(spread(images, self.n))

        def make(part: Images) -> tuple[np.ndarray, dict | None]:
            rebuilt = model.reconstruct(part if part.is_table else part.x, label_names(part))
            return _array_and_columns(model, rebuilt)

        return map_images(images, model, make, {"command": "reconstruct", "run": self.run_folder})


def _array_and_columns(model: Fitted, made) -> tuple[np.ndarray, dict | None]:
    """What a model gives as images, or rows of a table, as an array and, of a table, the columns that it is of."""
    import numpy as np

    if model.format.columns is None:
        return made, None
    rows = np.asarray(made, np.float64)
    return rows, model.format.columns.cells(rows)
