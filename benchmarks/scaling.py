"""How much faster two processes of one thread each train than one, what they send each other, and what follows for many.

The default convolutional VAE on 6,400 MNIST images, images per second of its second epoch, in turns. What is sent is counted by
the system on the loopback device. The plot is a model: every device is given the same number of images, works on them for so
long, and then takes part in a ring all-reduce of what was counted here, 2 (N - 1) / N of it a device, with 20 microseconds for
each of its 2 (N - 1) messages; nothing of it is hidden behind the backward pass.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import numpy as np

from benchmarks._ranks import train_together
from benchmarks.harness import RECORDS, Findings, mean_std
from vaekit import load, open_data
from vaekit.pictures.style import class_colours, new_figure, save, styled

IMAGES, LATENCY = 6400, 20e-6
LINKS = {"100 Gbit/s": 100e9 / 8, "10 Gbit/s": 10e9 / 8}
WORK = {"5 ms": 0.005, "50 ms": 0.05}


def run(argv):
    parser = argparse.ArgumentParser(prog="python -m benchmarks scaling")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[128, 512, 2048])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(argv)
    rows, payload = [], 0.0
    with tempfile.TemporaryDirectory() as home:
        np.savez(Path(home) / "some.npz", x=open_data("mnist", "train").x[:IMAGES, ..., 0])
        for size in options.batch_sizes:
            found = {1: [], 2: []}
            for number in range(options.rounds):
                for count in (1, 2):
                    out = Path(home) / f"{size}-{count}-{number}"
                    before = sent()
                    flags = f"--device cpu --random-state 0 --epochs 2 --batch-size {size} --compile False".split()
                    train_together(count, out, ["vae", "--data", f"{home}/some.npz", *flags])
                    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
                    found[count].append(log[-1]["images_per_second"])
                    if count == 2:
                        payload = (sent() - before) / 2 / log[-1]["step"]
            ratio = [two / one for one, two in zip(found[1], found[2], strict=True)]
            speeds = [mean_std(found[count], ".0f") for count in (1, 2)]
            rows.append([size, *speeds, round(statistics.median(ratio), 2), round(payload / 1e6, 2)])
        parameters = load(out).n_parameters_
    draw(payload)
    columns = ["batch", "images/s, 1 process", "images/s, 2 processes", "ratio", "MB sent a process and step"]
    text = (
        f"{parameters:,} parameters of 4 bytes are {4 * parameters / 1e6:.2f} MB; two processes send each other that once a "
        "step, in one collective. Model of many devices: ![scaling](results/scaling.png)"
    )
    return Findings(columns, rows, text)


def sent() -> int:
    """Bytes that went over the loopback device so far."""
    (line,) = [line for line in Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith("lo:")]
    return int(line.split()[9])


@styled
def draw(payload: float) -> None:
    """Images per second of many devices, in parts of as many times those of one."""
    devices = [1, 2, 4, 8, 16, 32, 64]
    figure = new_figure(7.0, 3.6)
    axes = figure.add_subplot()
    for (link, bandwidth), colour in zip(LINKS.items(), class_colours(2), strict=True):
        for (work, seconds), line in zip(WORK.items(), ("--", "-"), strict=True):
            talk = [2 * (n - 1) * (payload / n / bandwidth + LATENCY) for n in devices]
            shares = [seconds / (seconds + each) for each in talk]
            axes.plot(devices, shares, line, marker="o", color=colour, label=f"{link}, {work} of work a step")
    axes.set_xscale("log", base=2)
    axes.set_xticks(devices, map(str, devices))
    axes.set_ylim(0, 1.05)
    axes.set_xlabel("devices")
    axes.set_ylabel("images per second, of N times one's")
    axes.set_title(f"Model: ring all-reduce of {payload / 1e6:.1f} MB a step, not hidden")
    axes.legend(loc="lower left")
    save(figure, RECORDS / "scaling.png")
