"""The nearest of K codes is found in at most 2.5 (K = 512) or 2 (K = 4096) times the time of the matrix product alone, in less
than 200 MB, where `torch.cdist` is slower, and wrong once all vectors share an offset.

Vectors and codes of 64 dimensions, drawn from N(0, I), in float32. "Product" is vectors times codes and nothing else, its
result thrown away chunk by chunk. It and `torch.cdist` with argmin get the chunk that is fastest for them. Memory is the peak
of what is resident beyond the inputs, each form in a process of its own. vector-quantize-pytorch, where it is installed, keeps
all distances, and so is run on fewer vectors at once; it gathers the codes, too. An index is wrong where it is not that of
the least float64 distance.
"""

import argparse
import functools
import importlib.util
import multiprocessing
import statistics

import torch

from benchmarks.harness import Findings, interleave, median_ratio, progress
from benchmarks.hostile import memory, reset_peak
from vaekit.parts.quantizers import nearest_code

DIMENSIONS = 64
AT_MOST = {512: 2.5, 4096: 2.0}  # K -> times the product
CHUNKS = (128, 256, 512, 1024, 2048, 4096)
PEER = 20_000  # vectors that vector-quantize-pytorch is given at once
CHECKED = 20_000  # vectors whose indices are compared with float64's
OFFSET = 100.0


def run(argv):
    parser = argparse.ArgumentParser(prog="python -m benchmarks nearest")
    parser.add_argument("--vectors", type=int, default=2_900_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args(argv)
    rows, said = [], []
    for k in AT_MOST:
        vectors, codebook = drawn(arguments.vectors, k)
        chunks = {form: best_chunk(form, vectors[:100_000], codebook) for form in (product, cdist)}
        forms = {
            "product": functools.partial(product, chunk=chunks[product]),
            "vaekit": nearest_code,
            "torch.cdist, argmin": functools.partial(cdist, chunk=chunks[cdist]),
        }
        found = measured(forms, vectors, codebook, arguments.rounds)
        if importlib.util.find_spec("vector_quantize_pytorch"):
            fewer = {name: forms[name] for name in ("product", "vaekit")} | {"vector-quantize-pytorch": peer}
            found += measured(fewer, vectors[:PEER], codebook, arguments.rounds)
        rows += [[k, *row.values()] for row in found]
        ours, theirs = found[1], found[2]
        said.append(
            f"K = {k}: {ours['times the product']:.2f} times the product (claimed: {AT_MOST[k]}), "
            f"{ours['extra MB']} MB (claimed: 200), {theirs['s'] / ours['s']:.1f} times as fast as `torch.cdist`, which is "
            f"wrong for {theirs['wrong with an offset']:,} of {CHECKED:,} vectors that share an offset of {OFFSET:.0f} with "
            f"the codes (vaekit: {ours['wrong with an offset']:,}); chunks of {chunks[product]} and {chunks[cdist]} were best "
            "for the product and `torch.cdist`."
        )
    return Findings(["K", *found[0]], rows, f"Medians of {arguments.rounds} interleaved rounds. {' '.join(said)}")


def measured(forms, vectors, codebook, rounds):
    """A row for each form, by column; the first is the product that the others are compared with."""
    seconds = interleave({name: functools.partial(form, vectors, codebook) for name, form in forms.items()}, rounds)
    rows = []
    for name, form in forms.items():
        wrong = ["", ""]
        if name != "product":
            wrong = [wrong_of(form, vectors, codebook, offset) for offset in (0.0, OFFSET)]
        row = {
            "lookup": name,
            "vectors": len(vectors),
            "s": statistics.median(seconds[name]),
            "times the product": median_ratio(seconds[name], seconds["product"]),
            "extra MB": extra_memory(form, len(vectors), len(codebook)),
            "wrong": wrong[0],
            "wrong with an offset": wrong[1],
        }
        progress(f"K {len(codebook)}: " + ", ".join(f"{name} {value}" for name, value in row.items()))
        rows.append(row)
    return rows


def drawn(n, k):
    generator = torch.Generator().manual_seed(0)
    codebook = torch.randn(k, DIMENSIONS, generator=generator)
    return torch.randn(n, DIMENSIONS, generator=generator), codebook


# The forms: vectors (N, D) and codebook (K, D) -> (N,) indices


def product(vectors, codebook, chunk):
    """The product alone, without indices."""
    scores, transposed = torch.empty(chunk, len(codebook)), codebook.t()
    for part in vectors.split(chunk):
        torch.mm(part, transposed, out=scores[: len(part)])


def cdist(vectors, codebook, chunk):
    index = torch.empty(len(vectors), dtype=torch.int64)
    for part, found in zip(vectors.split(chunk), index.split(chunk), strict=True):
        torch.argmin(torch.cdist(part, codebook), 1, out=found)
    return index


@torch.no_grad()
def peer(vectors, codebook):
    from vector_quantize_pytorch import VectorQuantize

    quantizer = VectorQuantize(dim=DIMENSIONS, codebook_size=len(codebook)).eval()
    quantizer._codebook.embed.copy_(codebook)
    return quantizer(vectors[None])[1][0]


# What is measured


def best_chunk(form, vectors, codebook):
    """The fastest of CHUNKS."""
    seconds = interleave({chunk: functools.partial(form, vectors, codebook, chunk) for chunk in CHUNKS}, 3)
    return min(CHUNKS, key=lambda chunk: statistics.median(seconds[chunk]))


def wrong_of(form, vectors, codebook, offset):
    """How many of CHECKED vectors get another code than float64 gives them, when `offset` is added to vectors and codes."""
    vectors, codebook = vectors[:CHECKED] + offset, codebook + offset
    right = torch.cat(
        [
            torch.cdist(part.double(), codebook.double(), compute_mode="donot_use_mm_for_euclid_dist").argmin(1)
            for part in vectors.split(1000)
        ]
    )
    return int((form(vectors, codebook) != right).sum())


def extra_memory(form, n, k):
    """MB by which the peak of a new process's resident memory exceeds what it holds with the inputs made."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_extra_memory, (form, n, k, torch.get_num_threads()))


def _extra_memory(form, n, k, threads):
    torch.set_num_threads(threads)
    vectors, codebook = drawn(n, k)
    form(vectors[:100], codebook)  # what libraries set up at their first call is not the form's
    reset_peak()
    before = memory("VmRSS")
    form(vectors, codebook)
    return round(memory("VmHWM") - before)
