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
def engine(row: int, length: int, padded: int, out: int) -> int:
    set_f32(out, 0, softmax_numerators(row, length, padded))
    return 0


@pytest.mark.parametrize("length", [1, 16, 31, 33, 64])
def test_numerators_over_their_sum_are_the_softmax_and_later_keys_count_nothing(
    isa: Isa, length: int
) -> None:
    scores = (np.random.default_rng(length).standard_normal(64) * 5).astype(np.float32)
    row, total = floats(scores), np.zeros(1, np.float32)
    compiled(isa, "softmax", engine)(row.ctypes.data, length, 64, total.ctypes.data)
    np.testing.assert_allclose(row[:length] / total, ops.softmax(scores[:length]), rtol=1e-5)
    assert not row[length:64].any()
