"""A run that is not finished: looked at as it stands, ended where it is, gone on with beyond its end. And equal files."""

import contextlib
import json
import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.test_training import Disk, Killed, fails_at, table, timeless, tiny
from vaekit import VAE, VQVAE, BetaVAE, load
from vaekit.cli import main
from vaekit.files import finish
from vaekit.owned import LOCK, MARK
from vaekit.training import checkpoint, loop
from vaekit.training.checkpoint import RunFolder, read_tensors, write_tensors
from vaekit.training.settings import PriorSettings

STEPS = 2  # of an epoch of `tiny` on `table()`


def interrupt(run: Path, model, epochs: int, monkeypatch) -> RunFolder:
    """Trains until the log has `epochs` records, a checkpoint after each, and then loses the disk."""
    save, clock = RunFolder.save_checkpoint, [0.0]

    def later(self, record):
        clock[0] += 1e6
        append(self, record)

    append = RunFolder.append
    with monkeypatch.context() as patch, pytest.raises(OSError, match="lost"):
        patch.setattr(loop.time, "monotonic", lambda: clock[0])
        patch.setattr(RunFolder, "append", fails_at(later, epochs + 1, OSError("lost")))
        patch.setattr(RunFolder, "save_checkpoint", save)
        model.fit_images(table(), folder=str(run), resume=True)
    return RunFolder(run)


def state(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Contents and time stamps of all files of a folder."""
    return {
        str(f.relative_to(folder)): (f.read_bytes(), f.stat().st_mtime_ns) for f in folder.rglob("*") if f.is_file()
    }


def weights(model) -> dict[str, torch.Tensor]:
    return model.model_.state_dict()


def assert_equal(ours: dict, theirs: dict) -> None:
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def load_quietly(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load(path)


@pytest.fixture
def unfinished(tmp_path, monkeypatch) -> RunFolder:
    """Epoch 3 of 6."""
    return interrupt(tmp_path / "run", tiny(epochs=6), 3, monkeypatch)


@pytest.fixture
def finished(tmp_path) -> RunFolder:
    """Four epochs, all done."""
    tiny().fit_images(table(), folder=str(tmp_path / "done"))
    return RunFolder(tmp_path / "done")


# As it stands


def test_an_unfinished_run_is_loaded_as_of_its_last_checkpoint(unfinished):
    before = state(unfinished.path)
    with pytest.warns(
        UserWarning, match=rf"{unfinished.path} is not finished: epoch 3 of 6, as of its last checkpoint$"
    ):
        model = load(unfinished.path)
    saved, notes = read_tensors(unfinished.checkpoint_file)
    assert notes["step"] == 3 * STEPS
    assert_equal(
        weights(model), {n.removeprefix("state.model."): t for n, t in saved.items() if n.startswith("state.")}
    )
    assert model.fitted_.record.unfinished == "epoch 3 of 6"
    assert model.history_ == notes["history"] and len(model.history_) == 3
    assert model.sample(3, random_state=0).shape == (3, 3)
    assert np.isfinite(model.score_samples(table().x)).all()
    assert state(unfinished.path) == before


def test_what_is_loaded_halfway_is_what_half_of_the_training_gave(unfinished, monkeypatch, tmp_path):
    seen = []
    real = RunFolder.append
    monkeypatch.setattr(RunFolder, "append", lambda self, record: (seen.append(record), real(self, record)))
    tiny(epochs=6).fit_images(table(), folder=str(tmp_path / "whole"))
    assert timeless(load_quietly(unfinished.path).history_) == timeless(seen[:3])


def test_an_unfinished_run_under_early_stopping_gives_its_best_weights(tmp_path, monkeypatch):
    run = interrupt(tmp_path / "run", tiny(epochs=9, early_stopping=True), 5, monkeypatch)
    saved, _ = read_tensors(run.checkpoint_file)
    best = {name.removeprefix("best."): tensor for name, tensor in saved.items() if name.startswith("best.")}
    assert best
    assert_equal(weights(load_quietly(run.path)), best)
    model = finish(run.path)
    assert_equal(weights(model), best)
    assert_equal(weights(load(run.path)), best)


def test_a_run_that_was_stopped_within_its_first_epoch_has_a_record_of_it(tmp_path, monkeypatch):
    real, calls = torch.optim.Adam.step, []

    def stop(self, *given, **named):
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), 2)
        return real(self, *given, **named)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch.optim.Adam, "step", stop)
        tiny(batch_size=2).fit_images(table(), folder=str(tmp_path / "run"))
    model = load_quietly(tmp_path / "run")
    assert model.fitted_.record.unfinished == "epoch 0.4 of 4"
    (record,) = model.history_
    assert (record["epoch"], record["step"]) == (1, 3)
    assert finish(tmp_path / "run").facts_["ended"] == {"step": 3, "because": "finish"}
    assert RunFolder(tmp_path / "run").history() == [record]
    resumed = tiny(batch_size=2, epochs=2).fit_images(table(), folder=str(tmp_path / "run"), resume=True)
    assert [(r["epoch"], r["step"]) for r in resumed.history_] == [(1, 3), (1, 8), (2, 16)]


def test_no_checkpoint_yet_is_said(tmp_path, monkeypatch):
    with pytest.raises(Killed), monkeypatch.context() as patch:
        patch.setattr("vaekit.training.course.train", lambda *_, **__: (_ for _ in ()).throw(Killed))
        tiny().fit_images(table(), folder=str(tmp_path / "run"))
    for use in (load, finish):
        with pytest.raises(ValueError, match="is not finished: it has no weights yet, and no checkpoint; go on with"):
            use(tmp_path / "run")


@pytest.mark.parametrize("moment", ["before it is looked for", "before it is read"])
def test_a_checkpoint_that_is_replaced_meanwhile_gives_way_to_the_one_before(unfinished, monkeypatch, moment):
    """The process that trains renames the newest to the previous one, and has not put the next one in its place yet."""
    step = read_tensors(unfinished.checkpoint_file)[1]["step"]
    if moment == "before it is looked for":
        unfinished.checkpoint_file.replace(unfinished.previous_file)
    else:
        real = Path.read_bytes

        def renamed(path):
            if path == unfinished.checkpoint_file and path.exists():
                path.replace(unfinished.previous_file)
            return real(path)

        monkeypatch.setattr(Path, "read_bytes", renamed)
    assert unfinished.weights()[2]["step"] == step


def test_a_run_that_comes_to_its_end_meanwhile_is_the_finished_one(unfinished, monkeypatch):
    tensors = {"x": torch.arange(3.0)}
    real = RunFolder.load_checkpoint

    def too_late(self):
        if not self.weights_file.exists():
            self.finish(tensors)
            raise ValueError("no checkpoint can be read: it is missing")
        return real(self)

    monkeypatch.setattr(RunFolder, "load_checkpoint", too_late)
    found, _, notes = unfinished.weights()
    assert notes is None and torch.equal(found["x"], tensors["x"])


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory) -> Path:
    """A VAE of the digits, epoch 1 of 3."""
    run = tmp_path_factory.mktemp("digits") / "run"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(OSError, match="lost"):
        patch.setattr(RunFolder, "append", fails_at(RunFolder.append, 2, OSError("lost")))
        from vaekit import open_data

        fields = {"architecture": "mlp", "latent_dim": 2, "epochs": 3, "random_state": 0, "device": "cpu"}
        VAE(**fields).fit_images(open_data("digits"), folder=str(run))
    return run


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("sample", ["-n", "4", "--out", "OUT.npy"]),
        ("encode", ["--data", "digits", "--out", "OUT.npy"]),
        ("reconstruct", ["--data", "digits", "-n", "4", "--out", "OUT.npy"]),
        ("evaluate", ["--data", "digits", "--no-judge"]),
        ("doctor", []),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_command_takes_an_unfinished_run_and_says_so(digits_run, tmp_path, capsys, command, options):
    before = state(digits_run)
    main([command, str(digits_run), *(option.replace("OUT", str(tmp_path / "out")) for option in options)])
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if "not finished" in line] == [
        f"vaekit: {digits_run} is not finished: epoch 1 of 3, as of its last checkpoint"
    ]
    assert state(digits_run) == before


def test_what_needs_weights_that_stay_refuses_with_the_remedy(digits_run, capsys):
    before = state(digits_run)
    for command in (["fit-prior", "RUN", "--data", "digits"], ["push", "RUN", "user/name"]):
        with pytest.raises(SystemExit) as stop:
            main([word.replace("RUN", str(digits_run)) for word in command])
        assert stop.value.code == 2
        said = capsys.readouterr().err
        assert "is not finished (epoch 1 of 3)" in said and "--resume" in said and "--finish" in said
    with pytest.raises(ValueError, match="holds no finished run"):
        load_quietly(digits_run).fit_prior_images(table(), PriorSettings(), folder=str(digits_run))
    assert state(digits_run) == before


# Ended where it is


def test_finish_ends_a_run_where_it_is(digits_run, tmp_path, capsys):
    run = Path(shutil.copytree(digits_run, tmp_path / "run"))
    there = load_quietly(run)
    with pytest.raises(SystemExit) as stop:
        main(["train", "bvae", "--finish", "--out", str(run)])
    assert stop.value.code == 2
    assert "holds a VAE, not a BetaVAE" in capsys.readouterr().err
    main(["train", "vae", "--finish", "--out", str(run)])
    out = capsys.readouterr().out
    assert "22 steps, epoch 1 of 3, ended by --finish" in out
    assert {file.name for file in run.iterdir()} == {MARK, LOCK, "log.jsonl", "run.json", "weights.safetensors"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ended = load(run)
    assert_equal(weights(ended), weights(there))
    assert ended.history_ == there.history_
    before = state(run)
    main(["train", "vae", "--finish", "--resume", "--out", str(run)])
    assert state(run) == before, "a finished run is left as it is"


def test_finish_waits_for_nobody(unfinished):
    with unfinished.locked(), pytest.raises(ValueError, match="being written by another process"):
        finish(unfinished.path)


def test_train_without_data_says_what_is_missing(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "vae", "--out", str(tmp_path / "run")])
    assert stop.value.code == 2
    assert "--data" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


# Gone on with


def test_going_on_says_from_where(unfinished, capfd):
    tiny(epochs=6, verbose=True).fit_images(table(), folder=str(unfinished.path), resume=True)
    assert "VAE seed 5: Going on from epoch 3 of 6\n" in capfd.readouterr().err


@pytest.mark.parametrize(("epochs", "done"), [(3, 3), (4, 4), (6, 6), (8, 8), (None, 6)])
def test_an_unfinished_run_ends_after_the_epochs_that_are_asked_for(unfinished, epochs, done):
    first = unfinished.load_checkpoint()[1]["history"]
    model = tiny(epochs=epochs).fit_images(table(), folder=str(unfinished.path), resume=True)
    assert [record["epoch"] for record in model.history_] == list(range(1, done + 1))
    assert model.history_[:3] == first
    config = unfinished.config()
    assert config["ended"] == {"step": done * STEPS, "because": "plan"}
    assert config["plan"]["steps"] == done * STEPS
    assert {**config["fields"], **config["resolved"]}["epochs"] == done
    assert [plan["steps"] for plan in config["earlier_plans"]] == ([] if done == 6 else [12])
    if done != 3:  # the rate falls to the end, wherever that is
        rates = [record["learning_rate"] for record in model.history_]
        assert rates[-1] < 0.6 * max(rates) and rates[3:] == sorted(rates[3:], reverse=True)
    again = tiny(epochs=epochs).fit_images(table(), folder=str(unfinished.path), resume=True)
    assert_equal(weights(again), weights(model))


@pytest.mark.parametrize("fixture", ["unfinished", "finished"])
def test_fewer_epochs_than_are_done_are_refused(fixture, request):
    run = request.getfixturevalue(fixture)
    before = state(run.path)
    with pytest.raises(ValueError, match=r"has done [34] epochs already, got epochs=2"):
        tiny(epochs=2).fit_images(table(), folder=str(run.path), resume=True)
    assert state(run.path) == before


def test_a_finished_run_goes_on_beyond_its_end(finished, capfd):
    model = load(finished.path)
    model.fit_prior_images(table(), PriorSettings(prior="flow", epochs=1), folder=str(finished.path))
    (finished.path / "evaluation.json").write_text("{}")
    (finished.path / "mine.txt").write_text("mine")
    old = model.history_
    more = tiny(epochs=7, verbose=True).fit_images(table(), folder=str(finished.path), resume=True)
    said = capfd.readouterr().err
    assert "a new schedule from epoch 4 on, to its end at epoch 7" in said
    assert (
        "moments of its optimizer, which begin anew; removed, since its weights change: prior.safetensors, evaluation.json"
        in said
    )
    assert "Going on from epoch 4 of 7" in said
    assert more.history_[:4] == old and [record["step"] for record in more.history_] == [2, 4, 6, 8, 10, 12, 14]
    assert not more.has_prior
    names = {file.name for file in finished.path.iterdir()}
    assert names == {MARK, LOCK, "run.json", "log.jsonl", "weights.safetensors", "mine.txt"}
    plan = finished.config()["plan"]
    assert (plan["steps"], plan["turn"]) == (14, 8)
    assert plan["height"] == pytest.approx(0.5 * (1 + np.cos(np.pi * 8 / 14)))
    assert_equal(weights(load(finished.path)), weights(more))
    assert not torch.equal(*(next(iter(weights(m).values())) for m in (model, more)))


def test_other_epochs_are_refused_where_runs_have_to_be_alike(finished):
    """As in a comparison, or a sweep."""
    before = state(finished.path)
    with pytest.raises(ValueError, match=r"other settings \(epochs 4 -> 7\)"):
        tiny(epochs=7).fit_images(table(), folder=str(finished.path), resume=True, same_epochs=True)
    assert state(finished.path) == before


@pytest.mark.parametrize(
    ("how", "every", "fields"),
    [("kill", 2, {}), ("full", 5, {}), ("kill", 5, {"early_stopping": True, "n_iter_no_change": 9})],
    ids=["kill", "full disk", "kill with early stopping"],
)
def test_going_on_beyond_the_end_cut_short_at_any_write_comes_to_the_same_end(
    tmp_path, monkeypatch, how, every, fields
):
    monkeypatch.setattr(loop, "rehearse", lambda *_: 0.0)
    tiny(epochs=1, **fields).fit_images(table(), folder=str(tmp_path / "begun"))
    RunFolder(tmp_path / "begun").path.joinpath("evaluation.json").write_text("{}")

    def go_on(folder):
        return tiny(epochs=3, **fields).fit_images(table(), folder=str(folder), resume=True)

    shutil.copytree(tmp_path / "begun", tmp_path / "whole")
    with monkeypatch.context() as patch:
        disk = Disk(patch)
        go_on(tmp_path / "whole")
    expected = (tmp_path / "whole" / "weights.safetensors").read_bytes()
    log = timeless(RunFolder(tmp_path / "whole").log())
    assert disk.changes > 15
    for change in range(1, disk.changes + 1, every):
        folder = shutil.copytree(tmp_path / "begun", tmp_path / str(change))
        with monkeypatch.context() as patch:
            Disk(patch, change, how)
            with contextlib.suppress(Killed, OSError):
                go_on(folder)
        tiny(epochs=None if b'"turn": 2,' in (folder / "run.json").read_bytes() else 3, **fields).fit_images(
            table(), folder=str(folder), resume=True
        )
        assert (folder / "weights.safetensors").read_bytes() == expected, f"change {change}"
        assert timeless(RunFolder(folder).log()) == log
        assert {file.name for file in folder.iterdir()} == {MARK, LOCK, "run.json", "log.jsonl", "weights.safetensors"}
        assert RunFolder(folder).config()["earlier_plans"] == RunFolder(tmp_path / "whole").config()["earlier_plans"]


def test_an_early_stop_stays_one_until_more_epochs_are_asked_for(tmp_path):
    fields = {"early_stopping": True, "n_iter_no_change": 1, "validation_fraction": 0.3, "rate_warmup_epochs": 0.0}
    fields["learning_rate"] = 0.3  # so that it soon gets worse
    run = RunFolder(tmp_path / "run")
    model = tiny(epochs=40, **fields).fit_images(table(), folder=str(run.path))
    done = len(model.history_)
    assert done < 40 and run.config()["ended"]["because"] == "patience"
    before = state(run.path)
    tiny(epochs=40, **fields).fit_images(table(), folder=str(run.path), resume=True)
    assert state(run.path) == before
    more = tiny(epochs=60, **fields).fit_images(table(), folder=str(run.path), resume=True)
    assert done < len(more.history_) <= 60
    best = min(more.history_, key=lambda record: record["validation_objective"])
    assert more.history_[-1]["epoch"] - max(best["epoch"], done) == 1, "patience is counted anew"
    if best["epoch"] <= done:
        assert_equal(weights(more), weights(model))


def test_a_learned_beta_goes_on_from_what_it_was(tmp_path):
    run = RunFolder(tmp_path / "run")
    fields = {"epsilon": 0.01}
    tiny(BetaVAE, **fields).fit_images(table(), folder=str(run.path))
    _, kept, _ = run.weights()
    assert kept["objective"]["beta"] > 1.05
    more = tiny(BetaVAE, epochs=5, **fields).fit_images(table(), folder=str(run.path), resume=True)
    first = more.history_[4]["rate_weight"]
    assert kept["objective"]["beta"] < first < 1.2 * kept["objective"]["beta"]


def test_a_run_of_an_earlier_version_goes_on(finished):
    """Without the entries that are new, in run.json and in its files of tensors."""
    config = finished.config()
    for name in ("ended", "earlier_plans"):
        del config[name]
    for name in ("turn", "height"):
        del config["plan"][name]
    finished.config_file.write_text(json.dumps(config))
    tensors, _, _ = finished.weights()
    write_tensors(finished.weights_file, tensors)
    assert_equal(weights(load(finished.path)), tensors)
    tiny().fit_images(table(), folder=str(finished.path), resume=True)
    more = tiny(epochs=5).fit_images(table(), folder=str(finished.path), resume=True)
    assert len(more.history_) == 5


def test_a_run_without_its_log_does_not_go_on(finished):
    finished.log_file.unlink()
    tiny().fit_images(table(), folder=str(finished.path), resume=True)
    before = state(finished.path)
    with pytest.raises(ValueError, match=r"has no log\.jsonl, which says what its training did"):
        tiny(epochs=6).fit_images(table(), folder=str(finished.path), resume=True)
    assert state(finished.path) == before


@pytest.mark.parametrize(
    "change",
    [
        {"ended": {"step": "x", "because": "plan"}},
        {"ended": {"step": 8, "because": "magic"}},
        {"ended": []},
        {"ended": 3},
        {"earlier_plans": [1]},
        {"earlier_plans": 1},
    ],
    ids=str,
)
def test_crafted_entries_are_refused(finished, change):
    finished.config_file.write_text(json.dumps({**finished.config(), **change}))
    with pytest.raises(ValueError, match="damaged"):
        load(finished.path)


@pytest.mark.parametrize(("name", "value"), [("turn", -1), ("height", "x"), ("height", -0.5), ("turn", None)])
def test_a_crafted_plan_is_refused(finished, name, value):
    config = finished.config()
    config["plan"][name] = value
    finished.config_file.write_text(json.dumps(config))
    with pytest.raises(ValueError, match="its plan is none"):
        tiny().fit_images(table(), folder=str(finished.path), resume=True)


@pytest.mark.parametrize(
    "state", [{"objective": 3}, {"objective": {"beta": "x"}}, {"objective": {"beta": [1, 2]}}], ids=str
)
def test_a_crafted_state_of_the_objective_is_refused(tmp_path, state):
    run = RunFolder(tmp_path / "run")
    tiny(BetaVAE, epsilon=1.0).fit_images(table(), folder=str(run.path))
    write_tensors(run.weights_file, run.weights()[0], state)
    with pytest.raises(ValueError, match="damaged"):
        tiny(BetaVAE, epochs=5, epsilon=1.0).fit_images(table(), folder=str(run.path), resume=True)


# Equal files


def test_equal_contents_are_equal_files(tmp_path):
    """The library writes the metadata in an order that it draws anew for each file."""
    tensors = {"b": torch.arange(3), "a": torch.ones(2, 2), "c": torch.zeros(5, dtype=torch.bool)}
    written = set()
    for _ in range(20):
        write_tensors(tmp_path / "x", dict(sorted(tensors.items(), key=lambda _: np.random.random())), {"step": 3})
        written.add((tmp_path / "x").read_bytes())
    (data,) = written
    assert int.from_bytes(data[:8], "little") % 8 == 0
    found, kept = read_tensors(tmp_path / "x")
    assert kept == {"step": 3}
    assert_equal(found, tensors)
    from safetensors.torch import load_file

    assert_equal(load_file(tmp_path / "x"), tensors)


def test_equal_runs_are_equal_files_priors_among_them(tmp_path):
    for name in "ab":
        model = VQVAE(architecture="mlp", epochs=1, random_state=0, device="cpu", n_codes=4)
        images = table(40)
        model.fit_images(images, folder=str(tmp_path / name))
        settings = PriorSettings(epochs=1, layers=1, channels=8)
        model.fit_prior_images(images, settings, folder=str(tmp_path / name))
        load(tmp_path / name).save(tmp_path / f"copy-{name}")
    for file in ("weights.safetensors", "prior.safetensors"):
        (content,) = {(tmp_path / name / file).read_bytes() for name in ("a", "b", "copy-a", "copy-b")}
        assert content
    assert checkpoint.CLOCK[0] not in str(load(tmp_path / "a").prior_history_)
