"""The record of a training, and what run.json says of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

import torch

from vaekit import __version__
from vaekit.data.decoding import Decoding, check_decoding
from vaekit.data.format import Format
from vaekit.data.images import BINARIZE
from vaekit.messages import check_number
from vaekit.models.autoencoder import Autoencoder
from vaekit.ranks import size
from vaekit.training.plan import Plan, read_plan

# What a training ended by: its plan, patience, its time budget, being told to; "checkpoint" is of one that has not.
ENDINGS = ("plan", "patience", "budget", "finish", "checkpoint")

# What runs of earlier versions don't say of their data.
DATA_DEFAULTS = {"binarize": "none", "decoding": None, "skip_bad": False, "labels": None}

FACTS = ("seed", "device", "threads", "processes", "processor", "torch", "data", "plan", "earlier_plans", "ended")


@dataclass(frozen=True)
class Record:
    """How a model came to be. model: the name of its estimator's class. fields: as they were asked for. resolved: those that
    were None, filled in. facts: what run.json says of the training besides. history: a record per epoch. objective: what the
    objective has learned. unfinished: how far the run is that this was loaded from, where that is not finished.
    """

    model: str
    fields: dict
    resolved: dict
    facts: dict
    history: list[dict]
    objective: dict = field(default_factory=dict)
    unfinished: str | None = None


def config_of(record: Record, format: Format, module: Autoencoder) -> dict:
    """run.json of a training, which may not have come to its end."""
    return {
        "class": record.model,
        "fields": record.fields,
        "resolved": record.resolved,
        "version": __version__,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        **format.to_json(),
        "parameters": module.n_parameters,
        **record.facts,
    }


def facts_of(opened: dict, seed: int, device: torch.device, plan: Plan) -> dict:
    """What run.json says of a training beside the fields; opened: what it says of the data, as `Images.opened` has it."""
    return {
        "seed": seed,
        "device": str(device),
        "threads": plan.threads or torch.get_num_threads(),
        "processes": size(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "data": opened,
        "plan": asdict(plan),
        "earlier_plans": [],
    }


def read_facts(config: dict) -> dict:
    """`facts_of` as run.json has them. Raises ValueError, or another error of a wrong type, for what it does not write."""
    check_opened(config["data"])
    check_ended(config)
    facts = {key: config[key] for key in FACTS if key in config}
    # In the order of the file; runs of earlier versions have not all entries.
    missing = {name: value for name, value in DATA_DEFAULTS.items() if name not in config["data"]}
    facts["data"] = config["data"] | missing
    return facts


def check_opened(data: dict) -> None:
    """Raises ValueError where what run.json says of how its data was opened, as `Images.opened` does, is not what `open_data`
    takes.
    """
    if data.get("binarize", "none") not in BINARIZE:
        raise ValueError(f"binarize must be one of {', '.join(BINARIZE)}, got {data['binarize']!r:.80}")
    check_number("split_seed", data["split_seed"], whole=True)
    if type(data.get("skip_bad", False)) is not bool or type(data.get("labels")) not in (str, type(None)):
        raise ValueError("skip_bad must be true or false, and labels the name of a file")
    decoding = data.get("decoding")
    if decoding is not None:
        check_number("resize", Decoding(**decoding).resize, whole=True, above=0)
        check_decoding(Decoding(**decoding))


def check_ended(config: dict) -> None:
    """Raises ValueError where what run.json says of the end of a training, and of plans before the last, is no such thing. Runs
    that have not ended, and those of earlier versions, say nothing.
    """
    plans = config.get("earlier_plans", [])
    if type(plans) is not list:
        raise ValueError(f"earlier_plans must be a list, got {plans!r:.80}")
    for plan in plans:
        read_plan(plan)
    ended = config.get("ended")
    if ended is not None and (type(ended["step"]) is not int or ended["because"] not in ENDINGS):
        raise ValueError(f"ended must say at which step, and one of {', '.join(ENDINGS)}, got {ended!r:.80}")
