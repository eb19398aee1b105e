"""The report's comparison, run for real: does the VQ-VAE reconstruct best, in the least time?

`vaekit compare --data mnist --architecture wang2023 --epochs 10 --seeds 3`: its four models on MNIST, networks and losses.
The runs lie in benchmarks/out/wang2023; the seconds are of an unquiet machine, `speed` measures them in turns.
"""

import argparse
import statistics

from benchmarks.harness import OUT, Findings, progress
from vaekit.report.compare import compare
from vaekit.report.page import summarise, used_columns


def run(argv):
    parser = argparse.ArgumentParser(prog="python -m benchmarks wang2023")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--sweeps", action="store_true")
    arguments = parser.parse_args(argv)
    results = compare("mnist", OUT / "wang2023", architecture="wang2023", say=progress, **vars(arguments))
    entries = results["models"]
    columns = used_columns(entries)
    (group,) = summarise(entries).values()
    rows = [[row.label, *(row.cells[c.key].text if c.key in row.cells else "" for c in columns)] for row in group]
    by_label = {row.label: row.cells for row in group}
    mse = {label: cells["mse"].mean for label, cells in by_label.items()}
    vq = [entry for entry in entries if entry["name"] == "vqvae"]
    best = min(mse, key=mse.get)
    text = (
        f"The report finds that the VQ-VAE reconstructs best, in the least time. Here {best} reconstructs best, and the VQ-VAE "
        f"has {statistics.fmean(e['mse'] for e in vq):.5f} (per seed {', '.join(format(e['mse'], '.5f') for e in vq)}), "
        f"with {', '.join(str(e['codes_used']) for e in vq)} of its 10 codes in use (perplexity "
        f"{', '.join(format(e['perplexity'], '.1f') for e in vq)}), in more time per epoch than the VAE (see `speed`); it has "
        "the fewest parameters. Its codes did not collapse; `codes` shows what a larger codebook brings."
    )
    return Findings(["model", *(f"{c.heading} {c.unit}".strip() for c in columns)], rows, text)
