"""Several trainings on the same data: a report that compares models, and a grid of latent_dim and beta."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from vaekit.cli.source import Source
from vaekit.messages import check_number, in_rows, nearest
from vaekit.owned import check_folder
from vaekit.registry import MODELS


@dataclass(kw_only=True)
class Trainings(Source):
    """Several trainings on the same data."""

    out: str
    seeds: int = 1
    """Seeds per model, or per point of the grid; several give means and standard deviations."""
    random_state: int = 0
    """The first seed."""
    epochs: int | None = None
    """Of each training; by default the model chooses."""
    architecture: str | None = None
    """Of every model: conv, resnet, mlp or wang2023; by default conv for images and mlp for tables."""
    device: str = "auto"
    """auto, cpu, cuda."""
    time_budget: float | None = None
    """Seconds the whole command may take: what is still to be trained shares them, and is made shorter where they are few."""
    cluster: str | None = None
    """Train on a Ray cluster: its address, or auto for one of this machine's cores. Its machines need vaekit, and the same
    files at the same places."""
    jobs: int | None = None
    """Trainings at once, which share the cores; by default compare does one after another, and sweep one a core, at most 8, and
    one on a GPU."""

    def shared(self) -> dict:
        """Keywords of both `compare` and `sweep`."""
        check_number("seeds", self.seeds, whole=True, above=0)
        check_number("jobs", self.jobs, whole=True, above=0)
        return {
            "seeds": self.seeds,
            "random_state": self.random_state,
            "epochs": self.epochs,
            "architecture": self.architecture,
            "device": self.device,
            "time_budget": self.time_budget,
            "say": lambda text: print(text, flush=True),
            **self.how(),
        }


@dataclass(kw_only=True)
class Compare(Trainings):
    """Train several models on the same data and write the report that compares them."""

    out: str
    """The report's folder: index.html, results.json, figures/ and runs/."""
    models: str = "vae,bvae,cvae,vqvae"
    """Which models, separated by commas."""
    sweeps: bool = False
    """Also the loss against the latent dimension and against beta: one seed, a quarter of the epochs."""
    priors: bool = True
    """Also fit a prior to the latents or codes of each model."""

    def run(self) -> None:
        from vaekit.cli import output
        from vaekit.report.compare import compare

        check_folder(self.out, "report", inputs=self.inputs())
        from vaekit.jobs.cluster import cluster

        names = list(dict.fromkeys(name.strip() for name in self.models.split(",") if name.strip()))
        for name in names:
            if name not in MODELS:
                raise ValueError(f"unknown model {name!r}{nearest(name, MODELS)}; models are {', '.join(MODELS)}")
        if not names:
            raise ValueError(f"compare needs at least one model, got {self.models!r}")
        shared = self.shared()
        with cluster(self.cluster, self.device) as executor:
            results = compare(
                self.data,
                self.out,
                models=names,
                sweeps=self.sweeps,
                priors=self.priors,
                executor=executor,
                jobs=self.jobs or (executor and executor.at_once),
                command=shlex.join(["vaekit", *sys.argv[1:]]),
                **shared,
            )
        output.print_comparison(results["models"])
        print(f"the report: {Path(self.out) / 'index.html'}")


@dataclass(kw_only=True)
class Sweep(Trainings):
    """Train a beta-VAE for each of a grid of latent_dim and beta, and say which to take and why, or why none can be advised."""

    out: str
    """The sweep's folder: sweep.json, sweep.png and runs/."""
    latent_dim: str = "2,4,8,16,32"
    """Widths of the latent vector, separated by commas."""
    beta: str = "0.5,1,2,4"
    """Weights of the rate, separated by commas."""
    likelihood: str | None = None
    """gaussian, gaussian_fixed, bernoulli or discretized_logistic; by default gaussian."""

    def run(self) -> None:
        from vaekit.cli import output
        from vaekit.jobs.cluster import cluster
        from vaekit.report.sweep import sweep

        check_folder(self.out, "sweep", inputs=self.inputs())
        latent_dims = _numbers("--latent-dim", self.latent_dim, int)
        betas = _numbers("--beta", self.beta, float)
        shared = self.shared()
        with cluster(self.cluster, self.device) as executor:
            jobs = self.jobs or (executor and executor.at_once)
            results = sweep(
                self.data,
                self.out,
                latent_dims=latent_dims,
                betas=betas,
                likelihood=self.likelihood,
                jobs=jobs,
                executor=executor,
                **shared,
            )
        held = results["data"]["held_out"]
        title = in_rows(f"{held:,} held-out images, nats per image", results["data"]["table"])
        output.print_points(f"{self.data}, {title}", results["points"])
        for advice in results["advice"]:
            advised = "nothing can be recommended"
            if advice["latent_dim"] is not None:
                advised = f"--latent-dim {advice['latent_dim']} --beta {advice['beta']:g}"
            print(f"to {advice['purpose']}: {advised}")
            print(f"  {advice['reason']}")
        print(f"the picture: {Path(self.out) / 'sweep.png'}")


def _numbers(flag: str, text: str, kind: type) -> list:
    """Numbers between commas."""
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        what = "whole numbers" if kind is int else "numbers"
        raise ValueError(f"{flag} must be {what} separated by commas, got {text!r}") from None
