"""The run folder: what a training run leaves on disk, and what it can be resumed from. JSON and safetensors only.

    run.json                         class, fields, version, seed, data fingerprint: written first
    log.jsonl                        one record per epoch
    checkpoint.safetensors           while training, and `checkpoint.previous.safetensors`, the one before it
    weights.safetensors              at the end; then the checkpoints are gone, until the run is gone on with beyond it
    prior.safetensors                once a prior is fitted; `prior/` is that training's folder while it lasts
    .vaekit, .vaekit.lock            whose folder it is, and who writes there: see `vaekit.owned`
    tensorboard/                     the log once more, where it was asked for: see `vaekit.training.events`

Every file is written to a temporary name and renamed. Tensor files carry a checksum of their contents.

A run folder may come from anybody. A checksum finds damage but no intent, so what is read is held against what this vaekit
would have written before it is used: `RunFolder.model_config`, `vaekit.training.rebuilt`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as format_safetensors
from torch import Tensor

from vaekit.messages import first_line, nearest_path
from vaekit.owned import check_folder, claim, discard, locked, write_atomically
from vaekit.ranks import from_first, is_first, size
from vaekit.training.events import Events

FORMAT = 1  # of a run folder; raised when an older vaekit could not read what this one writes
NAMES = (  # of the files in a run folder
    "run.json",
    "log.jsonl",
    "checkpoint.safetensors",
    "checkpoint.previous.safetensors",
    "checkpoint.new.safetensors",
    "weights.safetensors",
    "prior.safetensors",
    "evaluation.json",
    "neighbours.png",
)
MOST_JSON = 2**26  # bytes of run.json that are read
ENTRIES = {  # of a model's run.json, and their types
    "class": (str,),
    "fields": (dict,),
    "resolved": (dict,),
    "image_shape": (list,),
    "layout": (dict,),
    "table": (dict, type(None)),
    "seed": (int,),
    "device": (str,),
    "threads": (int,),
    "torch": (str,),
    "data": (dict,),
    "plan": (dict,),
}
MADE_OF_WEIGHTS = ("evaluation.json", "neighbours.png")  # of a run, besides the prior
RECORD = {  # what every epoch's record has, besides the terms of its model
    "epoch": (int,),
    "step": (int,),
    "objective": (int, float),
    "seconds": (int, float),
    "images_per_second": (int, float),
}
CLOCK = ("seconds", "seconds_total", "images_per_second")  # what is not alike in the records of two equal trainings
DATA_ENTRIES = {
    "name": (str,),
    "fingerprint": (str,),
    "split": (str,),
    "split_seed": (int, type(None)),
    "binarize": (str,),
}

ONCE = {"optimizer": "adam", "weight_decay": 0.0}  # what runs from before a field had in its place


def digest(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    """SHA-256 of tensors on the CPU, by name, and of metadata."""
    sha = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def write_tensors(path: Path, tensors: dict[str, Tensor], state: dict | None = None) -> None:
    """Writes tensors and a JSON-able `state` to a safetensors file, atomically and with a checksum of both. What is equal gives
    files that are equal, byte for byte.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"state": json.dumps(state or {})}
    data = format_safetensors(plain, {**metadata, "sha256": digest(plain, metadata)})
    write_atomically(path, _in_order(data))


def _in_order(data: bytes) -> bytes:
    """A safetensors file with the entries of its header in order: the library writes those of the metadata in a random one. The
    header is 8 bytes that hold its length, and JSON that is filled up with spaces to a multiple of 8.
    """
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return b"".join([len(header).to_bytes(8, "little"), header, memoryview(data)[end:]])


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict]:
    """What `write_tensors` wrote. Raises ValueError for a file that is damaged, truncated or not one of ours."""
    if not path.is_file():
        raise ValueError(f"{path} is missing, or is no file")
    try:
        data = path.read_bytes()
        tensors = parse_safetensors(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        metadata = header["__metadata__"]
        expected = metadata.pop("sha256")
        state = json.loads(metadata["state"])
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged or truncated ({error})") from None
    except RecursionError:
        raise ValueError(f"{path} is damaged: its header is nested too deeply") from None
    except FileNotFoundError:  # renamed or removed by the process that trains this run
        raise ValueError(f"{path} is missing") from None
    if digest(tensors, metadata) != expected:
        raise ValueError(f"{path} is damaged: its contents do not match its checksum")
    if not isinstance(state, dict):
        raise ValueError(f"{path} is damaged: its state is no JSON object")
    return tensors, state


def _finite(number: str) -> float:
    """A number of JSON that has to be one: neither NaN, nor Infinity, nor 1e999."""
    if not math.isfinite(value := float(number)):
        raise ValueError(f"{number} is not finite")
    return value


def _all_numbers(values: Iterable) -> bool:
    return all(type(value) in (int, float) for value in values)


def is_record(record) -> bool:
    """Whether `record` is one of an epoch, as the training writes it: finite numbers, and none lacks."""
    return (
        isinstance(record, dict)
        and _all_numbers(record.values())
        and all(type(record.get(name)) in kinds and -1e300 < record[name] < 1e300 for name, kinds in RECORD.items())
    )


def _check_entries(found: dict, entries: dict[str, tuple[type, ...]]) -> None:
    for name, kinds in entries.items():
        if name not in found:
            raise ValueError(f"{name} is missing")
        if type(found[name]) not in kinds:
            raise ValueError(f"{name} must be {' or '.join(kind.__name__ for kind in kinds)}, got {found[name]!r:.80}")


class RunFolder:
    """One run on disk. Nothing is created before `start`. events: what the log is copied to, besides. kind: "run", or "prior"
    for the folder of a second stage.
    """

    def __init__(self, path, events: Events | None = None, kind: str = "run"):
        self.path = Path(path)
        self.kind = kind
        self.events = events
        self.config_file = self.path / "run.json"
        self.log_file = self.path / "log.jsonl"
        self.weights_file = self.path / "weights.safetensors"
        self.checkpoint_file = self.path / "checkpoint.safetensors"
        self.prior_file = self.path / "prior.safetensors"
        self.previous_file = self.path / "checkpoint.previous.safetensors"

    @property
    def started(self) -> bool:
        """Whether there is a run.json: a folder becomes a run by it."""
        return self.config_file.is_file()

    @property
    def finished(self) -> bool:
        """Whether the training has come to its end."""
        return self.started and self.weights_file.is_file()

    def check(self, **how) -> None:
        """Raises ValueError where the folder is somebody else's: see `owned.check_folder`."""
        check_folder(self.path, self.kind, **how)

    def locked(self) -> AbstractContextManager[None]:
        """Keeps other processes from writing this run meanwhile: see `owned.locked`."""
        return locked(self.path, self.kind)

    def discard(self) -> None:
        """Removes the run, but what somebody else has put into its folder."""
        discard(self.path, NAMES)

    def start(self, config: dict) -> None:
        """Creates the folder with run.json, or writes run.json anew."""
        claim(self.path, self.kind)
        write_atomically(self.config_file, json.dumps({"format": FORMAT, **config}, indent=1) + "\n")

    def tidy(self) -> None:
        """Removes the checkpoints that a killed run left behind: a new one not yet in place, and all of a finished run."""
        leftovers = [self.path / "checkpoint.new.safetensors"]
        if self.finished:
            leftovers += [self.checkpoint_file, self.previous_file]
        for file in leftovers:
            file.unlink(missing_ok=True)

    def config(self) -> dict:
        """run.json. Raises ValueError where there is none, it can't be read, or a newer vaekit wrote it."""
        if not self.path.exists():
            raise FileNotFoundError(f"no run folder at {self.path}{nearest_path(self.path)}")
        if not self.started:
            raise ValueError(f"{self.path} is not a run folder: it has no run.json")
        if self.config_file.stat().st_size > MOST_JSON:
            raise ValueError(f"{self.config_file} is damaged: it is larger than {MOST_JSON // 2**20} MB")
        try:
            text = self.config_file.read_text(encoding="utf-8")
            config = json.loads(text, parse_constant=_finite, parse_float=_finite)
            written = config["format"]
            if type(written) is not int:
                raise TypeError
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ValueError(f"{self.config_file} is damaged: it is not a run's JSON") from None
        if written > FORMAT:
            raise ValueError(
                f"{self.path} was written by a newer vaekit ({config.get('version', 'unknown version')}, folder format "
                f"{written}; this one reads up to {FORMAT}): upgrade vaekit"
            )
        return config

    def model_config(self) -> dict:
        """`config` of a model's run. Raises ValueError where an entry is missing or is not of the type that is written."""
        config = self.config()
        try:
            _check_entries(config, ENTRIES)
            _check_entries({"binarize": "none", **config["data"]}, DATA_ENTRIES)
        except ValueError as error:
            raise ValueError(f"{self.config_file} is damaged: {error}") from None
        config["resolved"] |= {
            name: value for name, value in ONCE.items() if name not in config["fields"] | config["resolved"]
        }
        return config

    def write(self, config: dict, records: list[dict], tensors: dict[str, Tensor], state: dict) -> None:
        """A finished run at once, as `finish` has it; run.json, which makes a folder a run, comes last."""
        claim(self.path, self.kind)
        write_atomically(self.log_file, "".join(json.dumps(record) + "\n" for record in records))
        write_tensors(self.weights_file, tensors, state)
        self.start(config)

    def append(self, record: dict) -> None:
        try:
            with open(self.log_file, "a") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.log_file)) from None
        if self.events:
            self.events.write(record)

    def log(self) -> list[dict]:
        """The records of log.jsonl, oldest first, up to a line that is none: a crash cuts the last one short."""
        if not self.log_file.is_file():
            return []
        records = []
        for line in self.log_file.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                break
            if not (isinstance(record, dict) and type(record.get("step")) is int and _all_numbers(record.values())):
                break
            records.append(record)
        return records

    def history(self) -> list[dict]:
        """The records of the log that are of epochs, up to one that is not."""
        return list(itertools.takewhile(is_record, self.log()))

    def write_log(self, records: list[dict]) -> None:
        """Makes these the records of log.jsonl: a run that goes on writes the later ones again, and a machine that crashed may
        have lost the last ones, which were not forced to disk as its checkpoint was.
        """
        if records or self.log_file.exists() or self.log_file.is_symlink():  # a link is replaced, not followed
            write_atomically(self.log_file, "".join(json.dumps(record) + "\n" for record in records))
        if self.events:
            self.events.start(records)

    def close(self) -> None:
        """The end of a session, however it came: the log is on disk already, events have a file open."""
        if self.events:
            self.events.close()

    def save_checkpoint(self, tensors: dict[str, Tensor], state: dict) -> None:
        """Writes the newest checkpoint; the one before it is kept."""
        fresh = self.path / "checkpoint.new.safetensors"
        try:
            write_tensors(fresh, tensors, state)
            if self.checkpoint_file.exists():
                self.checkpoint_file.replace(self.previous_file)
            fresh.replace(self.checkpoint_file)
        finally:
            fresh.unlink(missing_ok=True)

    def load_checkpoint(self) -> tuple[dict[str, Tensor], dict] | None:
        """The newest checkpoint that is whole; None where there has been none yet."""
        damage = []
        for file in (self.checkpoint_file, self.previous_file):
            if file.exists():
                try:
                    return read_tensors(file)
                except ValueError as error:
                    damage.append(str(error))
        if damage:
            raise ValueError("no checkpoint can be read: " + "; ".join(damage) + "; start again in a new folder")
        return None

    def checkpoint_step(self, most: int) -> int:
        """How many steps the newest checkpoint has done of so many at `most`; 0 where there is none yet."""
        saved = self.load_checkpoint()
        step = saved[1].get("step") if saved else 0
        if type(step) is not int or not 0 <= step <= most:
            raise ValueError(
                f"the checkpoint is of another model, or damaged (step is {step!r:.40}); start again in a new folder"
            )
        return step

    def finish(self, tensors: dict[str, Tensor], state: dict | None = None) -> None:
        """Writes the final weights, with a JSON-able `state` of the objective, and removes the checkpoints."""
        write_tensors(self.weights_file, tensors, state)
        self.checkpoint_file.unlink(missing_ok=True)
        self.previous_file.unlink(missing_ok=True)

    def reopen(self, objective: dict[str, Tensor], history: list[dict], best: dict | None) -> list[str]:
        """Makes the finished run, whose records are `history`, one that can be gone on with: its weights become a checkpoint
        without an optimizer's moments. Removes what was made of them before, and returns the names of that.

        objective: the state of the objective as it is built, for a run that kept none. best: the record of the epoch that the
        weights are of, where the best ones were kept.
        """
        weights, state = read_tensors(self.weights_file)
        kept = state.get("objective", {})
        try:
            objective = {
                name: torch.tensor(kept.get(name, tensor.tolist()), dtype=tensor.dtype).reshape(tensor.shape)
                for name, tensor in objective.items()
            }
        except (AttributeError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{self.weights_file} is damaged: its state is none ({first_line(error)})") from None
        tensors = {f"state.model.{name}": tensor for name, tensor in weights.items()}
        tensors |= {f"state.objective.{name}": tensor for name, tensor in objective.items()}
        last = history[-1]
        notes = {"step": last["step"], "history": history, "rollbacks": last.get("rollbacks", 0)}
        notes["seconds_total"] = last.get("seconds_total", 0.0)
        if best:
            tensors |= {f"best.{name}": tensor.clone() for name, tensor in weights.items()}
            notes |= {"best_epoch": best["epoch"], "best_value": best["validation_objective"]}
        write_tensors(self.checkpoint_file, tensors, notes)
        removed = [file for file in (self.prior_file, *map(self.path.joinpath, MADE_OF_WEIGHTS)) if file.is_file()]
        for file in (*removed, self.weights_file):
            file.unlink()
        return [file.name for file in removed]

    def weights(self) -> tuple[dict[str, Tensor], dict, dict | None]:
        """The weights as they stand: the final ones, or those of the newest checkpoint (the best ones that it holds, where the
        best are kept); the objective's state, as `finish` takes it; and the checkpoint's notes, None of a finished run.

        Writes nothing; a process that trains the run meanwhile is not disturbed, and does not disturb.
        Raises ValueError where there is no checkpoint yet, or a file is damaged.
        """
        saved = None
        for again in (True, False):  # a checkpoint may give way to the final weights while one looks, or these to it
            try:
                if self.weights_file.is_file():
                    return *read_tensors(self.weights_file), None
                saved = self.load_checkpoint()
                break
            except ValueError:
                if not again:
                    raise
        if saved is None:
            raise ValueError(
                f"{self.path} is not finished: it has no weights yet, and no checkpoint; go on with `vaekit train ... --resume`"
            )
        tensors, notes = saved

        def part(prefix: str) -> dict[str, Tensor]:
            return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}

        return part("best.") or part("state.model."), objective_state(part("state.objective.")), notes


class _ByFirst:
    """A run folder of several ranks: the first one reads and writes, and all know what came of it. All make the same calls, in
    the same order.
    """

    def __init__(self, folder: RunFolder):
        self._folder = folder
        self.events = folder.events if is_first() else None

    def __getattr__(self, name: str):
        kind = getattr(type(self._folder), name, None)
        if isinstance(kind, property):
            return from_first(lambda: getattr(self._folder, name))
        found = getattr(self._folder, name)
        return (lambda *given, **how: from_first(lambda: found(*given, **how))) if callable(kind) else found

    @contextmanager
    def locked(self) -> Iterator[None]:
        with ExitStack() as stack:
            from_first(lambda: stack.enter_context(self._folder.locked()))
            yield

    def close(self) -> None:
        """At the end of a session, be it that another rank is lost."""
        if is_first():
            self._folder.close()


def by_first(folder: RunFolder) -> RunFolder:
    """`folder`, for ranks that train together; itself where there is one."""
    return folder if size() == 1 else cast(RunFolder, _ByFirst(folder))


def objective_state(tensors: dict[str, Tensor]) -> dict:
    """What an objective has learned, as the JSON-able state of a file of weights; {} of one that learns nothing."""
    return {"objective": {name: tensor.tolist() for name, tensor in tensors.items()}} if tensors else {}
