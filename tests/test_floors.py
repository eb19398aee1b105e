"""The house has floors: a file imports only from files that stand before it in this list."""

import ast
import re
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "vaekit"
FLOORS = [
    ["forks", "registry", "messages", "owned", "state", "tensors", "ranks", "threads", "world"],
    [
        "parts.strided",
        "parts.whole_batch",
        "parts.networks",
        "parts.causal",
        "parts.likelihoods",
        "parts.graphs",
        "parts.latents",
        "parts.nearest",
        "parts.quantizers",
        "parts.priors",
        "parts.matching",
        "parts",
    ],
    ["models.autoencoder", "models.objectives", "models"],
    [
        "data.columns",
        "data.frames",
        "data.given",
        "data.kinds",
        "data.mapped",
        "data.pixels",
        "data.decoding",
        "data.images",
        "data.checks",
        "data.splits",
        "data.readers",
        "data.tables",
        "data.datasets",
        "data.augment",
        "data.cache",
        "data.sprites",
        "data.arrays",
        "data.folders",
        "data.named",
        "data.opening",
        "data.advice",
        "data.description",
        "data.doubts",
        "data.batches",
        "data.format",
        "data",
    ],
    [
        "training.events",
        "training.rebuilt",
        "training.checkpoint",
        "training.progress",
        "training.compiled",
        "training.plan",
        "training.optimizers",
        "training.step",
        "training.guard",
        "training.state",
        "training.loop",
        "training.course",
        "training.rates",
        "training.mixture",
        "training.propagation",
        "training.settings",
        "training.kinds",
        "training.prior",
        "training",
    ],
    ["jobs.executors", "jobs.cluster", "jobs"],
    ["recorded", "fitted_prior", "fitted", "completion", "second_stage"],
    [
        "evaluation.measures",
        "evaluation.likelihood",
        "evaluation.distances",
        "evaluation.generation",
        "evaluation.representation",
        "evaluation.augmentation",
        "evaluation.disentanglement",
        "evaluation.anomalies",
        "evaluation",
    ],
    ["pictures.fonts", "pictures.style", "pictures.charts", "pictures.sheets", "pictures.planes", "pictures"],
    ["hub", "export.modules", "export.graphs", "export.files", "export.example", "export.writing", "export"],
    [
        "estimators.fields",
        "estimators.resuming",
        "estimators.fitting",
        "estimators.face",
        "estimators.base",
        "estimators.gaussian",
        "estimators.anomalies",
        "estimators.few_labels",
        "estimators.conditional",
        "estimators.quantized",
        "estimators",
        "files",
        "shards",
    ],
    [
        "report.measure",
        "report.verdict",
        "report.doctor",
        "report.page",
        "report.times",
        "report.living",
        "report.entry",
        "report.figures",
        "report.trainings",
        "report.compare",
        "report.advice",
        "report.sweep",
        "report",
    ],
    ["explorer.explored", "explorer.server", "explorer"],
    [
        "cli.flags",
        "cli.sharded",
        "cli.source",
        "cli.output",
        "cli.data",
        "cli.train",
        "cli.generate",
        "cli.judge",
        "cli.few_labels",
        "cli.report",
        "cli.share",
        "cli.explore",
        "cli",
        "__main__",
    ],
]
ORDER = [name for floor in FLOORS for name in floor]


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    """The modules of ours that a file imports, anywhere in it; a name taken from a package counts as its module."""
    known, found = set(ORDER), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} line {node.lineno}: imports are written in full, from vaekit"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name.removeprefix("vaekit.") in known else node.module for name in names]
        else:
            continue
        found |= {name.removeprefix("vaekit.") for name in names if name.startswith("vaekit.")}
    return found


def test_every_file_has_a_place():
    files = {module_name(path) for path in SOURCE.rglob("*.py")} - {""}
    assert files <= set(ORDER), f"add to FLOORS: {sorted(files - set(ORDER))}"
    assert files == set(ORDER), f"FLOORS lists what is not there: {sorted(set(ORDER) - files)}"


def test_imports_go_down_the_floors():
    climbing = []
    for path in SOURCE.rglob("*.py"):
        if not (name := module_name(path)):
            continue
        for other in imports(path) - {name}:
            if ORDER.index(other) > ORDER.index(name):
                climbing.append(f"{name} imports {other}")
    assert not climbing


def test_parts_and_pictures_know_nothing_of_the_rest():
    for path in SOURCE.rglob("*.py"):
        name = module_name(path)
        if name.startswith("pictures."):
            assert all(other in ("owned", "state") or other.startswith("pictures.") for other in imports(path)), name
        if name in ("training.loop", "training.step", "training.state", "training.guard", "training.course"):
            assert not any(part in other for other in imports(path) for part in ("models", "estimators", "parts")), name


def test_what_is_downstream_takes_a_fitted_and_knows_no_estimator():
    for path in SOURCE.rglob("*.py"):
        name = module_name(path)
        if name.split(".")[0] in ("evaluation", "report", "explorer", "export", "hub", "fitted", "second_stage"):
            assert not any(other.startswith("estimators") for other in imports(path)), name


def test_parts_are_asked_and_not_told_apart():
    """No `isinstance` of a part, outside the parts and what makes them."""
    kinds = "Latent|Quantizer|Likelihood|Prior|VAE|VQVAE"
    for path in SOURCE.rglob("*.py"):
        name = module_name(path)
        if not name.startswith(("parts.", "training.kinds")):
            found = re.findall(rf"isinstance\([^)]*(?:{kinds})\b[^)]*\)", path.read_text())
            assert not found, f"{name}: {found}"


def test_heavy_libraries_load_on_first_use():
    code = (
        "import sys, contextlib, io, vaekit, vaekit.cli\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit): vaekit.cli.main(['--help'])\n"
        "print([name for name in ('torch', 'sklearn', 'matplotlib', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
