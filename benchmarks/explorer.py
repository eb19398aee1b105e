"""From a slider to its picture the explorer takes less than 100 ms on a CPU, for models of 28x28 images.

`vaekit explore` serves a VAE and a VQ-VAE of the default networks; asked over HTTP, and by the page in headless Chromium from
the slider's event, or a code's change, to the frame after the picture is there.
"""

import argparse
import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import torch

from benchmarks.harness import Findings
from vaekit.registry import MODELS

IN_THE_PAGE = """async ([index, rounds]) => {
  const run = window.explorer.runs[index], taken = [];
  for (let round = 0; round < rounds; round++) {
    const shown = new Promise((resolve) => (run.image.onload = () => requestAnimationFrame(resolve)));
    const started = performance.now();
    if (run.sliders) {
      const { input } = [...run.sliders.values()][round % run.sliders.size];
      input.value = Number(input.min) + Math.random() * (input.max - input.min);
      input.dispatchEvent(new Event('input'));
    } else {
      run.cell = round % run.code.flat().length;
      run.setCode((run.code.flat()[run.cell] + 1 + round) % run.facts.n_codes);
    }
    await shown;
    taken.push(performance.now() - started);
    run.cell = null;
  }
  return taken;
}"""


def over_http(address: str, index: int, codes: np.ndarray) -> list[float]:
    """Milliseconds from asking for each code's picture to having it."""
    connection, taken = http.client.HTTPConnection(urlsplit(address).netloc), []
    for code in codes:
        body = json.dumps({"code": code.tolist()})
        started = time.perf_counter()
        connection.request("POST", f"/api/runs/{index}/decode", body)
        answer = connection.getresponse()
        content = answer.read()
        taken.append(1000 * (time.perf_counter() - started))
        assert answer.status == 200, content
    return taken


def in_chromium(address: str, runs: int, rounds: int) -> list[list[float]] | None:
    """Milliseconds of each change, for each run; None without a browser."""
    path = os.environ.get("VAEKIT_BROWSER") or shutil.which("chromium") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        return None
    if path is None:
        return None
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(address)
        page.locator(".pair img").nth(2 * runs - 1).wait_for()
        taken = [page.evaluate(IN_THE_PAGE, [index, rounds]) for index in range(runs)]
        browser.close()
    return taken


def run(argv):
    parser = argparse.ArgumentParser(prog="python -m benchmarks explorer")
    parser.add_argument("--rounds", type=int, default=200)
    rounds = parser.parse_args(argv).rounds
    x = np.random.default_rng(0).integers(0, 256, (2000, 28, 28), dtype=np.uint8)
    names = ("vae", "vqvae")
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/x.npy", x)
        codes = []
        for name in names:
            model = MODELS[name].estimator()(epochs=1, random_state=0, device="cpu").fit(x)
            model.save(f"{folder}/{name}")
            codes.append(model.encode(x[:rounds]))
        command = [sys.executable, "-m", "vaekit", "explore", *(f"{folder}/{name}" for name in names)]
        command += ["--data", f"{folder}/x.npy", "--port", "0", "--no-browser"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(folder)) as server:
            try:
                assert server.stdout is not None
                address = next(line.split()[2] for line in server.stdout if line.startswith("exploring at"))
                for index, of_run in enumerate(codes):
                    over_http(address, index, of_run[:10])
                asked = [over_http(address, index, of_run) for index, of_run in enumerate(codes)]
                shown = in_chromium(address, len(names), rounds)
            finally:
                server.terminate()
    rows = []
    for i, name in enumerate(names):
        row: list[str | float | int] = [MODELS[name].label]
        for taken in (asked[i], shown[i] if shown else None):
            row += [f"{np.quantile(taken, q):.1f}" for q in (0.5, 0.95)] if taken else ["", ""]
        rows.append(row)
    where = f"{rounds} changes of each, one after the other, {torch.get_num_threads()} threads."
    text = where if shown else f"{where} There was no Chromium to measure in."
    columns = ["model", "HTTP median, ms", "HTTP 95 %, ms", "page median, ms", "page 95 %, ms"]
    return Findings(columns, rows, text)
