"""TensorBoard beside the log: the records of log.jsonl once more, as the standard writer's scalars."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LOGS = ("tensorboard",)


class Events:
    """The event files of one run, in `folder`. Nothing is written before `start`.

    Raises ValueError at once where TensorBoard isn't installed, so that no training begins whose log can't be kept.
    """

    def __init__(self, folder: Path):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ValueError(
                "log='tensorboard' needs the extra `tensorboard`: pip install 'vaekit[tensorboard]'"
            ) from None
        self.folder, self.open = folder, SummaryWriter
        self.writer = None

    def start(self, records: list[dict]) -> None:
        """Purges all that earlier sessions wrote and writes `records`, which log.jsonl kept of them, anew: events that a
        crash lost, or that are of an unlogged session, are then there too.
        """
        self.writer = self.open(str(self.folder), purge_step=0)
        began = time.time() - max((record.get("seconds_total", 0.0) for record in records), default=0.0)
        for record in records:
            self.write(record, walltime=began + record.get("seconds_total", 0.0))

    def write(self, record: dict, walltime: float | None = None) -> None:
        """Every number of an epoch's record at its optimizer step: `train/rate`, `validation/rate`, ..."""
        assert self.writer is not None, "start comes first"
        for name, value in record.items():
            if name != "step":
                part, tag = ("validation", name[11:]) if name.startswith("validation_") else ("train", name)
                self.writer.add_scalar(f"{part}/{tag}", value, record["step"], walltime=walltime)
        self.writer.flush()

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
            self.writer = None

    def show(self, figures: Mapping[str, Any], step: int) -> None:
        """Pictures by name, at the end of a training."""
        with self.open(str(self.folder)) as writer:
            for name, figure in figures.items():
                writer.add_figure(name, figure, step)
