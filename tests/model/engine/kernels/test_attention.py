"""The softmax of attention, compiled, is the reference's; all of attention is in test_model."""

from __future__ import annotations

import numpy as np
import pytest
from running import compiled, floats

from laplm.model.engine.kernels.attention import softmax_numerators
from laplm.model.families import ops
from laplm.native import lower
from laplm.native.isa import Isa
from laplm.native.simd import set_f32

pytest_plugins = ("running",)


@lower.kernel
def engine(row: int, first: int, length: int, out: int) -> int:
    set_f32(out, 0, softmax_numerators(row, first, length, 64))
    return 0


@pytest.mark.parametrize(
    ("first", "length"), [(0, 1), (0, 16), (0, 31), (0, 33), (0, 64), (1, 2), (15, 17), (31, 64)]
)
def test_numerators_over_their_sum_are_the_softmax_and_other_keys_count_nothing(
    isa: Isa, first: int, length: int
) -> None:
    scores = (np.random.default_rng(length).standard_normal(64) * 5).astype(np.float32)
    row, total = floats(scores), np.zeros(1, np.float32)
    compiled(isa, "softmax", engine)(row.ctypes.data, first, length, total.ctypes.data)
    seen = slice(first, length)
    np.testing.assert_allclose(row[seen] / total, ops.softmax(scores[seen]), rtol=1e-5)
    assert not row[:first].any() and not row[length:64].any()
