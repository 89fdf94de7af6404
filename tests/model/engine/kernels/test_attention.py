"""The softmax of attention and its partials, compiled; all of attention is in test_families."""

from __future__ import annotations

import numpy as np
import pytest
from running import compiled, floats

from laplm.model.engine import kernel_args as k
from laplm.model.engine.kernels.attention import (
    TOTAL,
    VALUES,
    make_merge,
    softmax_numerators,
)
from laplm.model.families import ops
from laplm.native import lower
from laplm.native.isa import Isa

pytest_plugins = ("running",)
HEAD_DIM = 40
merge = make_merge(HEAD_DIM)


@lower.kernel
def numerators(row: int, first: int, length: int, out: int) -> int:
    softmax_numerators(row, first, length, 64, out)
    return 0


@lower.kernel
def merge_two(partial: int, following: int, unused: int, unused_too: int) -> int:
    merge(partial, following)
    return 0


def partial_of(scores: np.ndarray, values: np.ndarray) -> np.ndarray:
    """As a chunk of these scores (T,) and values (T, D) leaves it."""
    out = floats(np.zeros(k.partial_bytes(HEAD_DIM) // 4, np.float32))
    largest = scores.max(initial=-3e38)
    shares = np.exp(scores - largest)
    out[:TOTAL], out[TOTAL:VALUES] = largest, shares.sum()
    out[VALUES : VALUES + HEAD_DIM] = shares @ values
    return out


@pytest.mark.parametrize(
    ("first", "length"), [(0, 1), (0, 16), (0, 31), (0, 33), (0, 64), (1, 2), (15, 17), (31, 64)]
)
def test_numerators_over_their_sum_are_the_softmax_and_other_keys_count_nothing(
    isa: Isa, first: int, length: int
) -> None:
    scores = (np.random.default_rng(length).standard_normal(64) * 5).astype(np.float32)
    row, partial = floats(scores), floats(np.zeros(VALUES, np.float32))
    compiled(isa, "softmax", numerators)(row.ctypes.data, first, length, partial.ctypes.data)
    seen = slice(first, length)
    assert (partial[:TOTAL] == scores[seen].max()).all()
    np.testing.assert_allclose(row[seen] / partial[TOTAL], ops.softmax(scores[seen]), rtol=1e-5)
    assert not row[:first].any() and not row[length:64].any()


def test_a_chunk_without_a_position_that_is_read_counts_nothing(isa: Isa) -> None:
    row, partial = floats(np.ones(64, np.float32)), floats(np.ones(VALUES, np.float32))
    compiled(isa, "softmax", numerators)(row.ctypes.data, 64, 0, partial.ctypes.data)
    assert not row.any() and not partial[TOTAL:].any()
    whole = partial_of(np.float32([1, 2]), np.ones((2, HEAD_DIM), np.float32))
    nothing = partial_of(np.float32([]), np.zeros((0, HEAD_DIM), np.float32))
    for first, second in [(whole, nothing), (nothing, whole)]:
        into = first.copy()
        compiled(isa, "merge", merge_two)(into.ctypes.data, second.ctypes.data, 0, 0)
        np.testing.assert_array_equal(into, whole)


@pytest.mark.parametrize("larger", [0, 1])
def test_merged_partials_are_the_softmax_of_both_chunks(isa: Isa, larger: int) -> None:
    rng = np.random.default_rng(larger)
    scores = (rng.standard_normal((2, 50)) * 5).astype(np.float32)
    scores[larger] += 7
    values = rng.standard_normal((2, 50, HEAD_DIM)).astype(np.float32)
    first, second = (partial_of(*each) for each in zip(scores, values, strict=True))
    compiled(isa, "merge", merge_two)(first.ctypes.data, second.ctypes.data, 0, 0)
    want = ops.softmax(scores.ravel()) @ values.reshape(100, -1)
    got = first[VALUES : VALUES + HEAD_DIM] / first[TOTAL]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)
    assert (first[:TOTAL] == scores.max()).all()
