"""The lookup of the nearest code on a CUDA GPU, as one Triton kernel; importing this file needs Triton.

Checked against the plain lookup by Triton's interpreter on a CPU. It has not been run on a GPU yet, nor timed there.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = VECTORS, CODES, DIMENSIONS = 64, 64, 32  # multiplied at once by a program


def nearest_code_by_kernel(vectors: Tensor, codebook: Tensor) -> Tensor:
    """(N, D) vectors and (K, D) codebook, float32 -> (N,) int64 index of the nearest code; of equally near ones the lowest.

    A program goes over all codes with its own few vectors and keeps the least score so far, so that what is written is N
    indices, and never N * K scores. Scores are those of `quantizers.code_scores`, about the codebook's mean too; products are
    of full float32, not of TF32.
    """
    (n, d), k = vectors.shape, len(codebook)
    index = torch.empty(n, dtype=torch.int64, device=vectors.device)
    if n == 0:
        return index
    centre = codebook.mean(0)
    codes = (codebook - centre).contiguous()
    bias = 0.5 * codes.square().sum(1)
    with torch.cuda.device_of(vectors):  # Triton launches on the current one
        launch = _nearest[(triton.cdiv(n, VECTORS),)]  # pyright: ignore[reportIndexIssue]
        launch(vectors.contiguous(), codes, centre, bias, index, n, k, d, *TILE)  # pyright: ignore[reportArgumentType]
    return index


@triton.jit
def _nearest(
    vectors,  # (n, d)
    codes,  # (k, d), less their mean
    centre,  # (d,), that mean
    bias,  # (k,)
    index,  # (n,), what is written
    n,
    k,
    d,
    VECTORS: tl.constexpr,
    CODES: tl.constexpr,
    DIMENSIONS: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * VECTORS + tl.arange(0, VECTORS)  # n * d may be more than int32 holds
    inside = rows < n
    least = tl.full((VECTORS,), float("inf"), tl.float32)
    nearest = tl.zeros((VECTORS,), tl.int32)
    for first in range(0, k, CODES):
        columns = first + tl.arange(0, CODES)
        scores = tl.zeros((VECTORS, CODES), tl.float32)
        for start in range(0, d, DIMENSIONS):
            dims = start + tl.arange(0, DIMENSIONS)
            known = dims < d
            mean = tl.load(centre + dims, mask=known, other=0.0)
            at = rows[:, None] * d + dims[None, :]
            v = tl.load(vectors + at, mask=inside[:, None] & known[None, :], other=0.0) - mean[None, :]
            at = columns[None, :] * d + dims[:, None]
            e = tl.load(codes + at, mask=known[:, None] & (columns < k)[None, :], other=0.0)
            scores = tl.dot(v, e, scores, input_precision="ieee")
        scores = (
            tl.load(bias + columns, mask=columns < k, other=float("inf"))[None, :] - scores
        )  # none of what is not there
        low, place = tl.min(scores, 1, return_indices=True, return_indices_tie_break_left=True)
        nearest = tl.where(low < least, first + place, nearest)  # not <=: an earlier code keeps what it has
        least = tl.minimum(low, least)
    tl.store(index + rows, nearest.to(tl.int64), mask=inside)
