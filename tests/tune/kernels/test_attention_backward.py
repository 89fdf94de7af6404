"""Parts of attention's backward pass, beside torch's lines; whole passes: test_attention.py."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from kernel_calls import DIM, FORMATS, block_of, call, needs_kernels, spec_of

from laplm.native import lower
from laplm.native.simd import get_i64, set_f32
from laplm.tune.kernels.attention import BLOCK
from laplm.tune.kernels.attention_backward import make_delta, make_score_grads, make_store_rows

pytestmark = needs_kernels


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_delta_is_the_sum_of_output_times_its_gradient(dtype: torch.dtype) -> None:
    spec = spec_of(dtype)

    def build() -> Any:
        delta_of, row_bytes = make_delta(spec), spec.row_bytes

        @lower.kernel
        def engine(a: int, _b: int, _c: int, _d: int) -> int:
            for row in range(5):
                set_f32(get_i64(a, 2), row, delta_of(get_i64(a, 0), row_bytes, get_i64(a, 1), row))
            return 0

        return engine

    out, d_out, delta = block_of(5, dtype), block_of(5, dtype, seed=1), torch.empty(5)
    call("delta", spec, build, out, d_out, delta)
    expected = (out.double() * d_out.double()).sum(-1)
    torch.testing.assert_close(delta.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_two_rows_of_scores_become_pattern_and_gradients(dtype: torch.dtype) -> None:
    spec = spec_of(dtype)
    row = 6
    keys = ((3, 40), (0, 64))  # that the two queries may look at

    def build() -> Any:
        score_grads = make_score_grads(spec)

        @lower.kernel
        def engine(a: int, _b: int, _c: int, _d: int) -> int:
            score_grads(
                get_i64(a, 0), get_i64(a, 1), get_i64(a, 2), get_i64(a, 3), get_i64(a, 4),
                row, get_i64(a, 5), get_i64(a, 6), 3, 40, 0, 64, get_i64(a, 7),
            )  # fmt: skip
            return 0

        return engine

    generator = torch.Generator().manual_seed(0)
    scores, d_pattern = (torch.randn(BLOCK, BLOCK, generator=generator) for _ in range(2))
    scale, log2_e = 0.4, math.log2(math.e)
    delta, largest, inverse = torch.tensor([0.3, -0.2]), torch.tensor([1.0, 1.5]), 0.05
    stats = torch.tensor([[float(top) * log2_e, inverse] for top in largest])
    pattern, d_scores, across = (torch.zeros(BLOCK, BLOCK, dtype=dtype) for _ in range(3))
    call(
        "score_grads", spec, build, scores, d_pattern, pattern, d_scores, across, stats, delta,
        torch.tensor([scale * log2_e, scale]),
    )  # fmt: skip

    both = slice(row, row + 2)
    p = torch.exp(scale * scores[both].double() - largest[:, None]) * inverse
    seen = torch.zeros(2, BLOCK)
    for query, (low, high) in enumerate(keys):
        seen[query, low:high] = 1
    p = p * seen
    d = p * (d_pattern[both].double() - delta[:, None]) * scale
    tolerance = 8e-3 if dtype == torch.bfloat16 else 2e-6

    def rows(x: torch.Tensor) -> torch.Tensor:
        """Across, neighbours share words in bfloat16."""
        if dtype == torch.float32:
            return x[both].double()
        words = x.view(-1)[row * BLOCK : (row + 2) * BLOCK]
        return words.view(BLOCK, 2).T.double()

    torch.testing.assert_close(rows(pattern), p, rtol=tolerance, atol=1e-6)
    torch.testing.assert_close(rows(across), d, rtol=tolerance, atol=1e-6)
    torch.testing.assert_close(d_scores[both].double(), d, rtol=tolerance, atol=1e-6)
    assert not d_scores[:row].any() and not d_scores[row + 2 :].any()


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_rows_of_sums_are_rounded_to_their_place(dtype: torch.dtype) -> None:
    spec = spec_of(dtype)

    def build() -> Any:
        store_rows, row_bytes = make_store_rows(spec), spec.row_bytes

        @lower.kernel
        def engine(a: int, _b: int, _c: int, _d: int) -> int:
            store_rows(get_i64(a, 0), 3, get_i64(a, 1), 2 * row_bytes)
            return 0

        return engine

    sums, to = block_of(3, torch.float32), torch.zeros(3, 2 * DIM, dtype=dtype)
    call("store_rows", spec, build, sums, to)
    assert torch.equal(to[:, :DIM], sums.to(dtype)) and not to[:, DIM:].any()
