"""More data than memory: decoded once into a mapped file, trained from there as from memory, safe from accidents."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.marks import quick
from vaekit import CVAE, VAE, VQVAE, open_data
from vaekit.data import cache, describe
from vaekit.data.cache import ahead
from vaekit.data.images import Images, fingerprint
from vaekit.data.mapped import Rows, is_mapped
from vaekit.owned import MARK


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def photos(tmp_path, digits) -> Path:
    """300 digits in class folders."""
    for i, (pixels, label) in enumerate(zip(*(part[:300] for part in digits), strict=True)):
        save(tmp_path / "photos" / str(label) / f"{i:03}.png", pixels[..., 0])
    return tmp_path / "photos"


@pytest.fixture
def entries(tmp_path, monkeypatch):
    """A cache of its own; what is in its folder of images."""
    monkeypatch.setenv("VAEKIT_CACHE", str(tmp_path / "cache"))
    return lambda: sorted(path for path in (tmp_path / "cache" / "decoded").iterdir() if path.name != MARK)


@pytest.fixture
def small(monkeypatch):
    """Everything counts as large: image files and .npy files are mapped, and read in pieces of a few images."""
    for module in ("cache", "readers"):
        monkeypatch.setattr(f"vaekit.data.{module}.MAPPED_FROM", 0)
    for module in ("cache", "mapped", "description"):
        monkeypatch.setattr(f"vaekit.data.{module}.CHUNK", 500)


# The entries


def test_files_are_decoded_once_and_again_when_they_or_the_options_change(photos, entries, monkeypatch):
    decoded, real = [], cache.decode
    monkeypatch.setattr(cache, "decode", lambda source, how: decoded.append(source) or real(source, how))
    first = open_data(photos, "all")
    assert len(decoded) == 300 and len(entries()) == 1
    again = open_data(photos, "all")
    assert len(decoded) == 300
    assert (again.x == first.x).all() and (again.y == first.y).all()
    assert again.fingerprint == first.fingerprint == fingerprint(first.x, first.y)
    assert again.files == first.files
    save(photos / "0" / "000.png", 255 - first.x[0, ..., 0])
    changed = open_data(photos, "all")
    assert len(decoded) == 600 and changed.fingerprint != first.fingerprint
    assert (changed.x[0] == 255 - first.x[0]).all()
    assert open_data(photos, resize=4).image_shape == (4, 4, 1) and len(decoded) == 900
    bright, status = photos / "0" / "000.png", (photos / "0" / "000.png").stat()
    Image.new("L", (8, 8), 9).save(bright)
    bright.write_bytes(bright.read_bytes().ljust(status.st_size, b"\0"))  # as large as before, and as old
    os.utime(bright, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert bright.stat().st_size == status.st_size and open_data(photos, "all").x[0].max() == 9
    (photos / "0" / "000.png").rename(photos / "1" / "000.png")
    assert open_data(photos, "all").y.sum() == first.y.sum() + 1
    assert sorted(path.name for path in entries()[0].iterdir()) == ["facts.json", "pixels"]


def test_a_damaged_entry_is_made_anew(photos, entries):
    first = open_data(photos, "all")
    pixels = entries()[0] / "pixels"
    for damage in (
        lambda: pixels.write_bytes(pixels.read_bytes()[:-1]),
        lambda: (entries()[0] / "facts.json").write_text('{"shape": '),
        lambda: pixels.unlink(),
    ):
        damage()
        assert (open_data(photos, "all").x == first.x).all()
        assert pixels.stat().st_size == first.x.size and len(entries()) == 1


def test_a_cache_that_can_not_be_written_to_is_done_without(photos, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VAEKIT_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("vaekit.data.cache.MAPPED_FROM", 0)
    images = open_data(photos, "all")
    assert len(images) == 300 and images.fingerprint == fingerprint(np.array(images.x), images.y)
    assert list((tmp_path / "temporary").iterdir()) == []


def test_what_killed_processes_left_goes_after_a_day_and_what_is_not_used_after_a_month(photos, entries):
    open_data(photos, "all")
    folder = entries()[0].parent
    fresh, stale, used, unused = f"{'0' * 16}.fresh.tmp", f"{'0' * 16}.stale.tmp", "0" * 64, "1" * 64
    for name, days in ((fresh, 0.9), (stale, 1.1), (used, 29), (unused, 31), ("mine", 99), ("mine.tmp", 99)):
        (folder / name).mkdir()
        (folder / name / "pixels").write_bytes(b"1")
        for path in (folder / name / "pixels", folder / name):
            os.utime(path, (time.time() - days * 86400,) * 2)
    open_data(photos, "all", resize=4)
    left = {path.name for path in entries()}
    assert {fresh, used, "mine", "mine.tmp"} <= left and not {stale, unused} & left
    assert len(left) == 6


OPEN = "import sys; from vaekit import open_data; print(open_data(sys.argv[1], 'all').fingerprint, flush=True)"
SLOW = (
    "import time; from vaekit.data import cache; real = cache.decode\n"
    "def slow(*given):\n    time.sleep(0.02); print('.\\n', end='', flush=True); return real(*given)\n"
    "cache.decode = slow\n"
)


def start(code: str, folder: Path) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_two_processes_at_once_and_one_that_is_killed(photos, entries):
    killed = start(SLOW + OPEN, photos)
    assert killed.stdout is not None and killed.stdout.readline().startswith(".")
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert [path.suffix for path in entries()] == [".tmp"]
    both = [start(SLOW + OPEN, photos) for _ in range(2)]
    found = {process.communicate()[0].split()[-1] for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert found == {open_data(photos, "all").fingerprint}
    assert [path.suffix for path in entries()].count("") == 1 and len(entries()) == 2


def test_of_two_that_finish_the_later_takes_what_is_there(photos, entries):
    open_data(photos, "all")
    entry = entries()[0]
    other = Path(shutil.copytree(entry, entry.parent / "other.tmp"))
    (other / "pixels").write_bytes(bytes((entry / "pixels").stat().st_size))
    found = cache._rename(other, entry)
    assert found is not None and found[0].max() > 0


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels_that_turn_up_late_are_given_to_all(tmp_path, entries, small, channels):
    x = np.random.default_rng(0).integers(0, 256, (40, 5, 6, channels), dtype=np.uint8)
    x[:33, :, :, :3] = x[:33, :, :, :1]
    if channels == 4:
        x[:37, :, :, 3] = 255
    for i, pixels in enumerate(x):
        grey, opaque = i < 33 or channels == 1, channels == 4 and i < 37
        save(tmp_path / "late" / f"{i:02}.png", pixels[..., 0] if grey else pixels[..., : 3 if opaque else channels])
    images = open_data(tmp_path / "late", "all", background="keep")
    assert is_mapped(images.x) and (images.x == x).all()


def test_a_long_decoding_says_how_far_it_is(photos, entries, monkeypatch, capsys):
    monkeypatch.setattr(cache, "SAY_EVERY", 0.0)
    open_data(photos, "all")
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "vaekit: 1 of 300 images decoded" and said[-1] == "vaekit: 300 of 300 images decoded"


# Reading ahead


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers()), st.integers(1, 4), st.integers(1, 9))
def test_reading_ahead_keeps_the_order_and_its_distance(items, workers, depth):
    taken = []

    def source():
        for item in items:
            taken.append(item)
            yield item

    for i, result in enumerate(ahead(lambda item: -item, source(), workers=workers, depth=depth)):
        assert result == -items[i]
        assert len(taken) <= i + 1 + depth
    assert taken == items


def test_reading_ahead_hands_on_errors_and_stops_when_it_is_left():
    assert list(ahead(int, [])) == []
    with pytest.raises(ValueError, match="invalid literal"):
        list(ahead(int, ["1", "x"]))
    running = threading.active_count()
    reader = ahead(int, iter("123456789" * 9), workers=2, depth=3)
    assert next(reader) == 1
    reader.close()
    assert threading.active_count() == running


# Mapped data is data


def test_parts_of_mapped_data_are_read_when_asked_for(photos, entries, small):
    whole, parts = open_data(photos, "all"), {part: open_data(photos, part) for part in ("train", "test")}
    assert is_mapped(whole.x) and not is_mapped(np.zeros(3))
    for images in parts.values():
        assert isinstance(images.x, Rows) and is_mapped(images.x)
        assert images.x.shape == (len(images), 8, 8, 1) and images.x.dtype == np.uint8
        again = images.take([5, 3]).take([1])
        assert (again.x[:] == images.x[3:4]).all() and again.y.tolist() == [images.y[3]]
        assert (np.asarray(images.x)[7] == images.x[7]).all() and (images.x - np.float32(1)).dtype == np.float32
    (photos.parent / "plain").mkdir()
    np.savez(photos.parent / "plain" / "x.npz", x=whole.x, y=np.asarray(whole.classes)[whole.y])
    plain = open_data(photos.parent / "plain" / "x.npz", "train")
    assert (np.asarray(parts["train"].x) == plain.x).all() and (parts["train"].y == plain.y).all()
    assert describe(parts["train"])["mean"] == pytest.approx(describe(plain)["mean"])


@pytest.mark.parametrize(
    ("model", "binarize", "published"),
    quick(
        [
            (model, binarize, published)
            for model, binarize in ((VAE, "none"), (CVAE, "none"), (VQVAE, "none"), (VAE, "dynamic"))
            for published in (False, True)
        ],
        (VAE, "none", False),
        (CVAE, "none", True),
        (VQVAE, "none", False),
        (VAE, "dynamic", True),
    ),
    ids=str,
)
def test_training_from_a_file_equals_training_from_memory(photos, entries, small, tmp_path, model, binarize, published):
    folder = photos
    if published:
        folder = tmp_path / "published"
        shutil.copytree(photos, folder / "train")
        shutil.copytree(photos / "3", folder / "test" / "3")
    mapped = open_data(folder, "train", binarize=binarize)
    assert is_mapped(mapped.x) and isinstance(mapped.x, Rows) != published
    memory = Images(**{**vars(mapped), "x": np.array(mapped.x)})
    assert not is_mapped(memory.x)
    settings = {"architecture": "mlp", "width": 32, "epochs": 2, "batch_size": 32, "random_state": 0}
    settings["early_stopping"] = model is CVAE
    ours, theirs = (model(**settings).fit_images(images) for images in (mapped, memory))
    for name, tensor in theirs.model_.state_dict().items():
        assert torch.equal(ours.model_.state_dict()[name], tensor), name
    y = np.asarray(mapped.classes)[mapped.y] if model is CVAE else None
    for method in ("encode", "reconstruct", "score_samples"):
        found, expected = (getattr(ours, method)(images.x, y) for images in (mapped, memory))
        np.testing.assert_array_equal(found, expected)


def test_mapped_runs_go_on_where_they_were(photos, entries, small, tmp_path, monkeypatch):
    images = open_data(photos, "train")
    settings = {"epochs": 3, "batch_size": 50, "random_state": 0, "architecture": "mlp"}
    whole = VAE(**settings).fit_images(images)
    real, steps = torch.optim.Adam.step, []

    def interrupted(self, *given, **more):
        steps.append(1)
        if len(steps) == 7:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, *given, **more)

    monkeypatch.setattr(torch.optim.Adam, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        VAE(**settings).fit_images(images, folder=str(tmp_path / "run"))
    monkeypatch.undo()
    resumed = VAE(**settings).fit_images(images, folder=str(tmp_path / "run"), resume=True)
    for name, tensor in whole.model_.state_dict().items():
        assert torch.equal(resumed.model_.state_dict()[name], tensor), name


def test_large_arrays_are_mapped_and_tables_are_not(tmp_path, small):
    x = np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "floats.npy", (x / 255).astype(np.float32))
    np.save(tmp_path / "columns.npy", np.asfortranarray(x))
    np.save(tmp_path / "table.npy", x.reshape(60, -1) / 255)
    for name, mapped in (("x", True), ("floats", True), ("columns", False), ("table", False)):
        images = open_data(tmp_path / f"{name}.npy", "all")
        assert is_mapped(images.x) == mapped
        assert np.allclose(
            np.asarray(images.x).reshape(60, -1), x.reshape(60, -1) / (255 if name in ("floats", "table") else 1)
        )
    VAE(epochs=1).fit_images(open_data(tmp_path / "floats.npy"))
    VAE(epochs=1).fit_images(open_data(tmp_path / "table.npy"))
    bad = (x / 255).astype(np.float32)
    bad[41, 2, 3] = np.nan
    np.save(tmp_path / "bad.npy", bad)
    with pytest.raises(ValueError, match="first in sample 41"):
        open_data(tmp_path / "bad.npy")
    (tmp_path / "x.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"x\.npy is truncated or damaged"):
        open_data(tmp_path / "x.npy")


def test_an_array_that_the_user_mapped_is_trained_from_where_it_lies(tmp_path, digits):
    np.save(tmp_path / "x.npy", digits[0])
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    ours, theirs = (VAE(epochs=1, architecture="mlp", random_state=0).fit(x) for x in (mapped, digits[0]))
    assert ours.history_[-1]["objective"] == theirs.history_[-1]["objective"]


MEASURE = """
import re, sys
from vaekit import VAE, open_data
def private():
    return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
kept = []
for path in sys.argv[1:]:
    kept.append(open_data(path, "train"))
    VAE(architecture="mlp", random_state=0, batch_size=512).fit_images(kept[-1], time_budget=0.5)
    print(private())
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's count of private memory")
def test_private_memory_does_not_grow_with_the_data(tmp_path):
    files = [tmp_path / f"{count}.npy" for count in (2000, 160_000)]  # the first is what torch takes for itself
    for file in files:
        np.lib.format.open_memmap(file, "w+", np.uint8, (int(file.stem), 32, 32)).flush()
    done = subprocess.run([sys.executable, "-c", MEASURE, *files], capture_output=True, text=True, check=True)
    before, after = map(float, done.stdout.split())
    # An image takes 1,024 bytes; its places in the split and in the order of an epoch a few times 8. From process to process
    # torch and the allocator differ by some 20 MB.
    assert after - before < 160_000 * 300 / 2**20, (before, after)
