"""Commands whose output may be shards in a folder, for data that fits no memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vaekit.messages import check_number

if TYPE_CHECKING:
    from vaekit.shards import Work


@dataclass(kw_only=True)
class Sharded:
    """A command that writes one file, or many."""

    out: str
    shards: Literal["parquet", "npy"] | None = None
    """Write shards of this kind into the folder --out, for data that fits no memory: Parquet, or .npy with a .csv of what each
    row is. Each is whole or not there, and the same command goes on with the missing ones."""
    shard_size: int | None = None
    """Samples in a shard; by default what 64 MiB hold, 10,000 at most."""
    jobs: int | None = None
    """Processes that make shards; by default one a core, at most 8, and one on a GPU."""
    cluster: str | None = None
    """Make shards on a Ray cluster: its address, or auto for one of this machine's cores. Its machines need vaekit, and the
    same files at the same places."""

    def wants_shards(self) -> bool:
        """Whether shards are asked for. Raises ValueError for what is only for them where they aren't."""
        from vaekit.data.tables import TABLE_SUFFIXES

        for name in ("shard_size", "jobs"):
            check_number(name, getattr(self, name), whole=True, above=0)
        for name in ("shard_size", "jobs", "cluster"):
            if self.shards is None and getattr(self, name) is not None:
                raise ValueError(f"--{name.replace('_', '-')} is for shards: say which with --shards parquet, or npy")
        if self.shards is not None and self.out.endswith((".png", ".npy", ".npz", *TABLE_SUFFIXES)):
            raise ValueError(f"--out must be a folder for shards, got {self.out!r}")
        return self.shards is not None

    def write_shards(self, work: Work, inputs: list[str]) -> None:
        """Writes what `work` makes into the folder --out, and says so."""
        from vaekit.jobs.cluster import cluster
        from vaekit.shards import write_shards

        with cluster(self.cluster) as found:
            layout = write_shards(
                self.out,
                work,
                form=self.shards or "parquet",
                rows=self.shard_size,
                jobs=self.jobs,
                cluster=found,
                inputs=inputs,
            )
        print(f"{layout.n:,} samples are in {layout.count:,} {'shards' if layout.count > 1 else 'shard'} in {self.out}")
