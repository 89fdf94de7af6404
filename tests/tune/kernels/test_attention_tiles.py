"""Packing and products, each beside torch's line."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from kernel_calls import DIM, FORMATS, block_of, call, needs_kernels, padded, spec_of

from laplm.native import isa as isas
from laplm.native import lower
from laplm.native.simd import get_i64
from laplm.tune.kernels import attention_tiles as tiles
from laplm.tune.kernels.attention import BLOCK, QUERIES

pytestmark = needs_kernels


@pytest.mark.parametrize("present", [1, 50, 64])
@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_scores_are_queries_times_transposed_keys(dtype: torch.dtype, present: int) -> None:
    spec = spec_of(dtype)

    def build() -> Any:
        pack_rows, pack_transposed = (
            tiles.make_pack_rows(spec), tiles.make_pack_transposed(spec)
        )  # fmt: skip
        score = tiles.make_product(isas.choose(), spec, BLOCK)
        row_bytes, dim_words = spec.row_bytes, spec.dim_words

        @lower.kernel
        def engine(a: int, _b: int, _c: int, _d: int) -> int:
            """At ``a``: queries, keys, present, packed queries, packed keys, scores."""
            present, query, key = get_i64(a, 2), get_i64(a, 3), get_i64(a, 4)
            pack_rows(get_i64(a, 0), row_bytes, QUERIES, QUERIES, query)
            pack_transposed(get_i64(a, 1), row_bytes, present, key)
            score(query, row_bytes, 4, key, dim_words, QUERIES, get_i64(a, 5), BLOCK * 4)
            return 0

        return engine

    q, k = block_of(QUERIES, dtype), block_of(present, dtype, seed=1)
    packed = [torch.empty(BLOCK * DIM, dtype=dtype) for _ in range(2)]
    scores = torch.empty(QUERIES, BLOCK)
    call("scores", spec, build, q, k, present, *packed, scores)
    expected = q.double() @ padded(k).double().T
    torch.testing.assert_close(scores.double(), expected, rtol=1e-5, atol=1e-5)
    assert not scores[:, present:].any()


@pytest.mark.parametrize("present", [1, 50, 64])
@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_sums_over_tokens_are_added_to_what_is_there(dtype: torch.dtype, present: int) -> None:
    spec = spec_of(dtype)

    def build() -> Any:
        pack_rows, pack_row_pairs = tiles.make_pack_rows(spec), tiles.make_pack_row_pairs(spec)
        product = tiles.make_product(isas.choose(), spec, DIM)
        add_product = tiles.make_product(isas.choose(), spec, DIM, add=True)
        size, row_bytes, word_row_bytes = spec.bytes_per_number, spec.row_bytes, spec.word_row_bytes
        words = BLOCK // spec.numbers_per_word

        @lower.kernel
        def engine(a: int, _b: int, _c: int, _d: int) -> int:
            """At ``a``: weights, values, present, natural and packed values, two sums."""
            weights, natural, across = get_i64(a, 0), get_i64(a, 3), get_i64(a, 4)
            pack_rows(get_i64(a, 1), row_bytes, get_i64(a, 2), BLOCK, natural)
            pack_row_pairs(natural, BLOCK, across)
            product(weights, BLOCK * size, 4, across, words, QUERIES, get_i64(a, 5), word_row_bytes)
            add_product(
                weights, BLOCK * size, 4, across, words, QUERIES, get_i64(a, 6), word_row_bytes
            )
            return 0

        return engine

    generator = torch.Generator().manual_seed(2)
    weights = torch.rand(QUERIES, BLOCK, generator=generator).to(dtype)
    v = block_of(present, dtype)
    packed = [torch.empty(BLOCK * DIM, dtype=dtype) for _ in range(2)]
    sums, added = torch.full((QUERIES, DIM), 9.0), torch.ones(QUERIES, DIM)
    call("sums", spec, build, weights, v, present, *packed, sums, added)
    expected = weights.double() @ padded(v).double()
    torch.testing.assert_close(sums.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(added.double(), expected + 1, rtol=1e-5, atol=1e-5)


def test_clear_writes_zeros_and_nothing_behind_them() -> None:
    spec = spec_of(torch.float32)

    def build() -> Any:
        @lower.kernel
        def engine(a: int, _b: int, _c: int, _d: int) -> int:
            tiles.clear(get_i64(a, 0), 128)
            return 0

        return engine

    x = torch.ones(48)
    call("clear", spec, build, x)
    assert x.tolist() == [0.0] * 32 + [1.0] * 16
