"""TensorBoard: what its own reader finds in a run is what log.jsonl says, whatever interrupted the training."""

import io
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from vaekit import CVAE, VAE, VQVAE, load, open_data
from vaekit.cli import main
from vaekit.data.images import Images, fingerprint
from vaekit.training import loop
from vaekit.training.checkpoint import RunFolder

event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


@pytest.fixture(scope="module")
def some():
    """200 of the digits."""
    return open_data("digits").take(np.arange(200))


def tiny(cls=VAE, **fields):
    own = {"n_codes": 8, "code_dim": 2} if cls is VQVAE else {"latent_dim": 2}
    chosen = {**own, "architecture": "mlp", "epochs": 4, "batch_size": 50, "random_state": 0, "device": "cpu"}
    return cls(**{**chosen, **fields})


def read(folder: Path):
    """All events, by TensorBoard's own reader, which also obeys purges."""
    sizes = {event_accumulator.SCALARS: 0, event_accumulator.IMAGES: 0}
    accumulator = event_accumulator.EventAccumulator(str(folder / "tensorboard"), size_guidance=sizes)
    accumulator.Reload()
    return accumulator


def assert_events_are_the_log(folder: Path) -> list[dict]:
    """Every number of every record at its step, each once, and nothing else; returns the log."""
    events, log = read(folder), RunFolder(folder).log()
    expected: dict = {}
    for record in log:
        for name, value in record.items():
            if name == "step":
                continue
            tag = name.replace("validation_", "validation/") if name.startswith("validation_") else f"train/{name}"
            expected.setdefault(tag, []).append((record["step"], np.float32(value)))
    assert set(events.Tags()["scalars"]) == set(expected)
    for tag, points in expected.items():
        assert [(event.step, np.float32(event.value)) for event in events.Scalars(tag)] == points, tag
    return log


def test_every_term_of_training_and_validation_is_there(some, tmp_path):
    model = tiny(early_stopping=True, n_iter_no_change=9)
    model.fit_images(some, validation=some.take(np.arange(40)), folder=tmp_path, log="tensorboard")
    log = assert_events_are_the_log(tmp_path)
    tags = set(read(tmp_path).Tags()["scalars"])
    assert {"train/objective", "train/distortion", "train/rate", "train/seconds", "train/learning_rate"} <= tags
    assert {"train/images_per_second", "validation/objective", "validation/distortion", "validation/rate"} <= tags
    assert [record["epoch"] for record in log] == [1, 2, 3, 4]


class Lost(Exception):
    """Ends a training in its midst."""


def interrupt(monkeypatch, after: int, **options) -> None:
    """A training that checkpoints at every epoch but the last two, and is lost after epoch `after`."""
    now, append, save = [0.0], RunFolder.append, RunFolder.save_checkpoint

    def append_and_die(folder, record):
        append(folder, record)
        now[0] += 60
        if record["epoch"] == after:
            raise Lost

    def save_early(folder, tensors, notes):
        if notes["step"] <= 4 * (after - 2):
            save(folder, tensors, notes)

    with pytest.raises(Lost), monkeypatch.context() as patch:
        patch.setattr(RunFolder, "append", append_and_die)
        patch.setattr(RunFolder, "save_checkpoint", save_early)
        patch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: now[0], perf_counter=time.perf_counter))
        tiny(epochs=6).fit_images(**options)


@pytest.mark.parametrize("after", [2, 4], ids=["before a checkpoint", "after a checkpoint"])
def test_a_resumed_run_has_each_step_once(some, tmp_path, monkeypatch, after):
    options = {"images": some, "folder": tmp_path, "log": "tensorboard"}
    interrupt(monkeypatch, after, **options)
    assert len(assert_events_are_the_log(tmp_path)) == after
    saved = RunFolder(tmp_path).load_checkpoint()
    assert (saved[1]["step"] if saved else 0) == 4 * (after - 2), "the last epochs will be trained again"
    tiny(epochs=6).fit_images(**options, resume=True)
    log = assert_events_are_the_log(tmp_path)
    assert [record["epoch"] for record in log] == [1, 2, 3, 4, 5, 6]
    times = [event.wall_time for event in read(tmp_path).Scalars("train/rate")]
    assert times == sorted(times)


def test_a_run_that_is_logged_only_from_its_resumption_on_has_all_its_epochs(some, tmp_path, monkeypatch):
    interrupt(monkeypatch, 4, images=some, folder=tmp_path)
    assert not (tmp_path / "tensorboard").exists()
    tiny(epochs=6).fit_images(some, folder=tmp_path, resume=True, log="tensorboard")
    assert len(assert_events_are_the_log(tmp_path)) == 6


def test_events_can_be_watched_while_training_goes_on(some, tmp_path, monkeypatch):
    """And so are there after a kill -9, too."""
    append, seen = RunFolder.append, []

    def append_and_look(folder, record):
        append(folder, record)
        seen.append(len(assert_events_are_the_log(folder.path)))

    monkeypatch.setattr(RunFolder, "append", append_and_look)
    tiny().fit_images(some, folder=tmp_path, log="tensorboard")
    assert seen == [1, 2, 3, 4]


def test_an_interrupted_session_leaves_no_file_open(some, tmp_path, monkeypatch):
    import threading

    before = threading.active_count()
    interrupt(monkeypatch, 3, images=some, folder=tmp_path, log="tensorboard")
    assert threading.active_count() == before, "the writer's thread has ended"


@pytest.mark.parametrize(
    ("cls", "names"),
    [
        (VAE, ["reconstructions", "samples"]),
        (CVAE, ["reconstructions", "samples"]),
        (VQVAE, ["reconstructions"]),
    ],
)
def test_pictures_stand_at_the_end(some, tmp_path, cls, names):
    model = tiny(cls, epochs=1).fit_images(some, folder=tmp_path, log="tensorboard")
    events = read(tmp_path)
    assert sorted(events.Tags()["images"]) == names
    for name in names:
        (picture,) = events.Images(name)
        assert picture.step == model.history_[-1]["step"]
        pixels = np.asarray(Image.open(io.BytesIO(picture.encoded_image_string)).convert("L"))
        assert min(pixels.shape) > 200 and pixels.std() > 10
    assert_events_are_the_log(tmp_path)


def test_a_table_has_scalars_alone(tmp_path):
    x = np.random.default_rng(0).normal(size=(100, 3))
    tiny().fit_images(Images(x, None, (), "table", fingerprint(x, None)), folder=tmp_path, log="tensorboard")
    assert_events_are_the_log(tmp_path)
    assert read(tmp_path).Tags()["images"] == []


def test_logging_changes_no_weight_and_no_log(some, tmp_path):
    plain = tiny().fit_images(some, folder=tmp_path / "plain")
    logged = tiny().fit_images(some, folder=tmp_path / "logged", log="tensorboard")
    assert not (tmp_path / "plain" / "tensorboard").exists()
    for one, other in zip(plain.model_.state_dict().values(), logged.model_.state_dict().values(), strict=True):
        assert (one == other).all()
    assert [record["rate"] for record in plain.history_] == [record["rate"] for record in logged.history_]
    assert (load(tmp_path / "logged").transform(some.x[:5]) == plain.transform(some.x[:5])).all()


def test_from_the_command_line(tmp_path):
    run = tmp_path / "run"
    flags = "--data digits --architecture mlp --epochs 2 --latent-dim 2 --random-state 0 --device cpu --log tensorboard"
    main(["train", "vae", *flags.split(), "--out", str(run)])
    assert len(assert_events_are_the_log(run)) == 2
    before = sorted((run / "tensorboard").iterdir())
    main(["train", "vae", *flags.split(), "--out", str(run), "--resume"])
    assert sorted((run / "tensorboard").iterdir()) == before, "a finished run is left as it is"


def test_what_cannot_be_logged_is_said_before_training(some, tmp_path, monkeypatch, capsys):
    with pytest.raises(ValueError, match=r"log must be None or one of tensorboard, got 'tensorbord' \(did you mean"):
        tiny().fit_images(some, folder=tmp_path / "run", log="tensorbord")
    with pytest.raises(ValueError, match="log='tensorboard' needs a run folder"):
        tiny().fit_images(some, log="tensorboard")
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(SystemExit) as end:
        main(["train", "vae", "--data", "digits", "--out", str(tmp_path / "run"), "--log", "tensorboard"])
    assert end.value.code == 2
    assert "extra `tensorboard`: pip install 'vaekit[tensorboard]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
