"""The report's comparison, run for real: does the VQ-VAE reconstruct best, in the least time?

`vaekit compare --data mnist --architecture wang2023 --epochs 10 --seeds 3`: its four models on MNIST, networks and losses.
The runs lie in benchmarks/out/wang2023; the seconds are of an unquiet machine, `speed` measures them in turns.
"""

import argparse

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
    table = [row for group in summarise(entries).values() for row in group]
    rows = [[row.label, *(row.cells[c.key].text if c.key in row.cells else "" for c in columns)] for row in table]
    by_label = {row.label: row.cells for row in table}
    best, fastest, smallest = (
        min(by_label, key=lambda label: by_label[label][key].mean) for key in ("mse", "seconds", "parameters")
    )
    vq = [entry for entry in entries if entry["name"] == "vqvae"]
    ratio = by_label["VQ-VAE"]["seconds"].mean / by_label["VAE"]["seconds"].mean
    text = (
        "The report finds that the VQ-VAE reconstructs best, with the fewest parameters and in the least time. Here "
        f"{best} reconstructs best, {fastest} trains in the least time and {smallest} has the fewest parameters. The VQ-VAE's "
        f"test MSE per seed is {', '.join(format(e['mse'], '.5f') for e in vq)}, with "
        f"{', '.join(str(e['codes_used']) for e in vq)} of its 10 codes in use (perplexity "
        f"{', '.join(format(e['perplexity'], '.1f') for e in vq)}), and it took {ratio:.1f} times as long as the VAE. `codes` "
        "shows what a larger codebook and moving averages bring."
    )
    return Findings(["model", *(f"{c.heading} {c.unit}".strip() for c in columns)], rows, text)
