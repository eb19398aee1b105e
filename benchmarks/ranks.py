"""What several processes train is as good as what one trains: the same test ELBO within the spread of the seeds.

scikit-learn's digits, by default fields but for the network (mlp, 64 wide) and the epochs, one thread each. The noise is the
same whatever the number of processes, so that a difference is rounding, which a training makes larger.
"""

import argparse
import statistics

import torch

from benchmarks._ranks import train_together
from benchmarks.harness import OUT, Findings, mean_std
from vaekit import load, open_data
from vaekit.evaluation.likelihood import evaluate

MODELS = {"vae": [], "cvae": [], "iwae": [], "btcvae": [], "vqvae": ["--n-codes", "32"]}
COUNTS = (1, 2)


def run(argv):
    parser = argparse.ArgumentParser(prog="python -m benchmarks ranks")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args(argv)
    test, rows, worst = open_data("digits", "test"), [], 0.0
    for name, more in MODELS.items():
        elbos = {count: [] for count in COUNTS}
        for seed in range(options.seeds):
            for count in COUNTS:
                out = OUT / "ranks" / f"{name}-{count}-seed{seed}-epochs{options.epochs}"
                flags = f"--architecture mlp --width 64 --device cpu --random-state {seed} --epochs {options.epochs}".split()
                if not (out / "weights.safetensors").exists():
                    train_together(count, out, [name, "--data", "digits", "--resume", *flags, *more])
                fitted = load(out).fitted_
                with torch.random.fork_rng():
                    torch.manual_seed(0)
                    elbos[count].append(evaluate(fitted.module, fitted.data(test), draws=8)["elbo"])
        differences = [two - one for one, two in zip(elbos[1], elbos[2], strict=True)]
        spread = statistics.stdev(elbos[1])
        worst = max(worst, abs(statistics.fmean(differences)) / spread)
        rows.append([name, mean_std(elbos[1]), mean_std(elbos[2]), mean_std(differences, ".4f"), f"{spread:.2f}"])
    columns = [
        "model",
        "test ELBO, 1 process",
        "test ELBO, 2 processes",
        "difference, same seed",
        "spread of the seeds",
    ]
    text = (
        f"The mean difference is at most {worst:.3f} of the spread of the {options.seeds} seeds; 8 draws a test image."
    )
    return Findings(columns, rows, text)
