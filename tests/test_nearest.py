"""The lookup of the nearest code: right against float64 and brute force, one operator to the compiler, one kernel to a GPU."""

import os
import subprocess
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vaekit.parts import VectorQuantizer, quantizers
from vaekit.parts.quantizers import GROUP, code_scores, count, nearest_code

ROOT = Path(__file__).parents[1]
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="needs Triton")


def whole_numbers(n: int, k: int, d: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, d) vectors and (2k, d) codes with many ties; the codes' mean is 0, so that float32 is exact."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randint(-2, 3, (n, d), generator=generator).float()
    codes = torch.randint(-2, 3, (k, d), generator=generator).float()
    return vectors, torch.cat([codes, -codes])


def nearest_in_float64(vectors: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    difference = vectors.double()[:, None] - codebook.double()
    return difference.square().sum(-1).argmin(1)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(0, 70), k=st.integers(1, 40), d=st.integers(1, 9), seed=st.integers(0, 99), held=st.integers(1, 500)
)
@example(n=70, k=GROUP, d=3, seed=0, held=32 * GROUP)
def test_of_equally_near_codes_the_first_is_found_however_many_vectors_are_held(n, k, d, seed, held):
    vectors, codebook = whole_numbers(n, k, d, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantizers, "SCORES", held)
        index = nearest_code(vectors, codebook)
    assert index.dtype == torch.int64
    assert index.tolist() == nearest_in_float64(vectors, codebook).tolist()
    assert index.tolist() == code_scores(vectors, codebook).argmin(1).tolist()


@pytest.mark.parametrize("k", [2, GROUP - 1, GROUP + 1, 300])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_a_large_offset_that_all_share_is_no_matter(k, offset):
    generator = torch.Generator().manual_seed(k)
    vectors, codebook = (
        torch.randn(3000, 8, generator=generator) + offset,
        torch.randn(k, 8, generator=generator) + offset,
    )
    right = nearest_in_float64(vectors, codebook)
    assert (nearest_code(vectors, codebook) != right).sum() <= 2
    if offset and k == 300:
        assert (torch.cdist(vectors, codebook).argmin(1) != right).sum() > 100, "PyTorch's own distances do mind"


@pytest.mark.parametrize("k", [GROUP + 1, GROUP + 4])
def test_copies_of_the_last_code_are_that_code(k):
    """They fill up the last group, and a product may round equal columns differently."""
    generator = torch.Generator().manual_seed(0)
    codebook = torch.randn(k, 64, generator=generator)
    vectors = codebook[-1] + 0.1 * torch.randn(100, 64, generator=generator)
    assert all(nearest_code(vector[None], codebook).tolist() == [k - 1] for vector in vectors)


def test_other_layouts_and_types_are_taken_as_they_are():
    vectors, codebook = torch.randn(6, 50).t(), torch.randn(6, 20).t()
    right = nearest_in_float64(vectors, codebook)
    assert torch.equal(nearest_code(vectors, codebook), right)
    assert torch.equal(nearest_code(vectors.double(), codebook.double()), right)


def test_what_is_not_finite_still_gets_an_index_of_the_codebook():
    vectors = torch.randn(9, 3)
    vectors[0], vectors[1, 0], vectors[2, 1] = float("nan"), float("inf"), -float("inf")
    codebook = torch.randn(GROUP + 3, 3)
    index = nearest_code(vectors, codebook)
    assert index[0] == 0 and index.min() >= 0 and index.max() < len(codebook)
    assert torch.equal(index[3:], nearest_in_float64(vectors[3:], codebook))
    assert nearest_code(vectors, codebook * float("nan")).tolist() == [0] * 9


def test_autocast_does_not_round_the_vectors():
    vectors, codebook = torch.randn(2000, 8), torch.randn(200, 8)
    with torch.autocast("cpu", torch.bfloat16):
        index = nearest_code(vectors, codebook)
        rounded = code_scores(vectors, codebook).argmin(1)
    assert torch.equal(index, nearest_code(vectors, codebook))
    assert not torch.equal(rounded, index)


def test_it_is_one_operator_however_many_chunks_there_are():
    sizes = []

    def backend(graph, inputs):
        sizes.append(len(graph.graph.nodes))
        return graph

    for n in (3, 3 * quantizers.CHUNK):
        torch._dynamo.reset()
        vectors, codebook = torch.randn(n, 2), torch.randn(5, 2)
        found = torch.compile(nearest_code, fullgraph=True, backend=backend)(vectors, codebook)
        assert torch.equal(found, nearest_code(vectors, codebook))
    torch.library.opcheck(torch.ops.vaekit.nearest_code.default, whole_numbers(5, 4, 3))
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("ema", [None, 0.9])
def test_a_training_step_waits_for_no_value_of_the_device(ema):
    """On the meta device there are no values: an operator that has to look at one on the host is an error."""
    latent = VectorQuantizer(n_codes=5, code_dim=4, ema=ema).to("meta")
    draw = latent(torch.empty(6, 4, 2, 3, device="meta"))
    assert draw.code.shape == (1, 6, 2, 3) and draw.code.dtype == torch.int64
    with pytest.raises(NotImplementedError):
        torch.bincount(draw.code.flatten(), minlength=5)


@given(st.lists(st.integers(0, 6)))
def test_counts_are_bincounts(values):
    index = torch.tensor(values, dtype=torch.int64)
    assert count(index, 7).tolist() == torch.bincount(index, minlength=7).tolist()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere ru_maxrss is not in kilobytes")
def test_memory_does_not_grow_with_the_number_of_scores():
    """200,000 x 2,048 scores are 1.6 GB."""
    code = """
import resource, torch
from vaekit.parts.quantizers import nearest_code
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
vectors, codebook = torch.randn(200_000, 4), torch.randn(2048, 4)
nearest_code(vectors[:100], codebook[:10])
before = peak()
nearest_code(vectors, codebook)
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 50


# The kernel: there is a GPU on few machines, and an interpreter on all


@pytest.mark.slow
@needs_triton
def test_the_kernel_finds_what_the_plain_form_finds():
    """By Triton's interpreter, which an environment variable turns on before Triton is imported."""
    code = """
import torch
from tests.test_nearest import whole_numbers
from vaekit.parts.nearest import CODES, DIMENSIONS, VECTORS, nearest_code_by_kernel
from vaekit.parts.quantizers import nearest_code

torch.manual_seed(0)
shapes = [(0, 3, 2), (1, 1, 1), (VECTORS, CODES // 2, DIMENSIONS), (2 * VECTORS + 5, CODES + 1, DIMENSIONS + 3), (3, 70, 100)]
for n, k, d in shapes:
    vectors, codebook = whole_numbers(n, k, d)
    assert torch.equal(nearest_code_by_kernel(vectors, codebook), nearest_code(vectors, codebook)), ("ties", n, k, d)
    for offset in (0.0, 1000.0):
        vectors, codebook = torch.randn(n, d) + offset, torch.randn(k, d) + offset
        differ = nearest_code_by_kernel(vectors, codebook) != nearest_code(vectors, codebook)
        assert differ.sum() <= (offset > 0), (offset, n, k, d)  # where two are equally near to float32's rounding
vectors, codebook = torch.randn(6, 50).t(), torch.randn(6, 20).t()
assert torch.equal(nearest_code_by_kernel(vectors, codebook), nearest_code(vectors, codebook)), "other strides"
vectors = torch.full((3, 2), float("nan"))
assert nearest_code_by_kernel(vectors, torch.randn(5, 2)).tolist() == [0, 0, 0]
print("done")
"""
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.stdout == "done\n", done.stderr


@pytest.mark.slow
@needs_triton
def test_the_kernel_compiles_for_gpus_in_full_float32(tmp_path):
    """For compute capability 8.0, by the compiler alone. The products are fused multiply-adds, and not tensor cores' TF32."""
    code = """
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from vaekit.parts.nearest import CODES, DIMENSIONS, VECTORS, _nearest

types = dict.fromkeys(("vectors", "codes", "centre", "bias"), "*fp32") | {"index": "*i64"} | dict.fromkeys("nkd", "i32")
tile = {"VECTORS": VECTORS, "CODES": CODES, "DIMENSIONS": DIMENSIONS}
made = compile(ASTSource(_nearest, types | dict.fromkeys(tile, "constexpr"), tile), target=GPUTarget("cuda", 80, 32))
print(made.metadata.shared, "fma.rn.f32" in made.asm["ptx"], "tf32" in made.asm["ptx"])
"""
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    shared, multiplies_and_adds, tensor_cores = done.stdout.split()
    assert (multiplies_and_adds, tensor_cores) == ("True", "False")
    assert int(shared) <= 48 * 1024, "what every GPU has"


def test_nobody_gets_a_kernel_unasked(monkeypatch):
    monkeypatch.delenv("VAEKIT_TRITON", raising=False)
    monkeypatch.setattr(quantizers.importlib.util, "find_spec", lambda name: pytest.fail("it was looked for"))
    quantizers._kernel.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert quantizers._kernel(torch.device("cuda")) is None


@needs_triton
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_where_the_kernel_does_not_run_the_plain_form_does_and_it_says_so(monkeypatch):
    monkeypatch.setenv("VAEKIT_TRITON", "1")
    quantizers._kernel.cache_clear()
    with pytest.warns(UserWarning, match=r"without the Triton kernel, which fails on cuda: .+"):
        assert quantizers._kernel(torch.device("cuda")) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert quantizers._kernel(torch.device("cuda")) is None
        assert quantizers._kernel(torch.device("cpu")) is None


@needs_triton
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_the_kernel_is_used_where_it_is_asked_for_and_finds_the_same(monkeypatch):
    quantizers._kernel.cache_clear()
    assert quantizers._kernel(torch.device("cuda")) is None
    monkeypatch.setenv("VAEKIT_TRITON", "1")
    quantizers._kernel.cache_clear()
    vectors, codebook = whole_numbers(5000, 300, 64)
    assert quantizers._kernel(torch.device("cuda")) is not None
    moved = vectors.cuda(), codebook.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        index = nearest_code(*moved)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(index.cpu(), nearest_code(vectors, codebook))
