"""A compiled head turns as the reference's does."""

from __future__ import annotations

import numpy as np
import pytest
from running import compiled, floats

from laplm.model.engine.kernels.rope import make_rotate, table_width
from laplm.model.families.rope import rope
from laplm.native import lower
from laplm.native.isa import Isa

pytest_plugins = ("running",)


@pytest.mark.parametrize(("head_dim", "rotary_dim"), [(64, 64), (24, 24), (64, 16), (80, 40)])
def test_the_first_components_turn_and_the_others_stay(
    isa: Isa, head_dim: int, rotary_dim: int
) -> None:
    rotate = make_rotate(rotary_dim)

    @lower.kernel
    def engine(row: int, table: int, a: int, b: int) -> int:
        rotate(row, table)
        return 0

    rng = np.random.default_rng(0)
    half, padded = rotary_dim // 2, table_width(rotary_dim) // 2
    x = rng.standard_normal(head_dim).astype(np.float32)
    angles = rng.uniform(0, 7, half).astype(np.float32)
    table = np.zeros((2, padded), np.float32)
    table[0, :half], table[1, :half] = np.cos(angles), np.sin(angles)
    row, tables = floats(x), floats(table)
    run = compiled(isa, f"rotate {rotary_dim}", engine)
    run(row.ctypes.data, tables.ctypes.data, 0, 0)
    want = rope(x[None, None], np.cos(angles)[None], np.sin(angles)[None])[0, 0]
    np.testing.assert_array_equal(row[:head_dim], want)
    assert not np.array_equal(want[:rotary_dim], x[:rotary_dim])
