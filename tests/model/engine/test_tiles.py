"""The parts of the inner loops that no model's weights would drive to their limits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from llvmlite import ir

from laplm.model.engine import tiles
from laplm.native import isa as isas
from laplm.native import jit, lower, simd
from laplm.native.lower import I32, I64, Builder, Value

AVX2 = next((isa for isa in isas.available() if isa.name == "avx2"), None)


@pytest.mark.skipif(AVX2 is None, reason="this CPU has no AVX2")
@pytest.mark.parametrize("fill", ["least", "most", "mixed", "random"])
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_a_group_of_the_largest_bytes_is_summed_exactly(precision: str, fill: str) -> None:
    """AVX2 adds products up in 16 bits, and no sum may be too large for them."""
    n, least, most = 4, *((-127, 127) if precision == "int8" else (-8, 7))
    rng = np.random.default_rng(0)
    w, x = rng.integers(least, most + 1, (16, 32)), rng.integers(-127, 128, (n, 32))
    if fill in ("least", "most"):
        w[:], x[:] = (least if fill == "least" else most), -127
        x[1::2] = 127
    elif fill == "mixed":
        w[:], x[:] = rng.choice([least, most], w.shape), rng.choice([-127, 127], x.shape)
    stored = w + (128 if precision == "int8" else 8)
    if precision == "int8":
        packed = stored.reshape(16, 8, 4).transpose(1, 0, 2)
    else:
        packed = stored.reshape(16, 2, 4, 4).transpose(2, 0, 3, 1)
        packed = packed[..., 0] | packed[..., 1] << 4
    offset = 0 if precision == "int8" else -8
    weights, inputs = packed.astype(np.uint8, order="C"), x.astype(np.int8)
    starts, out = (offset * x.sum(axis=1)).astype(np.int32), np.zeros((n, 16), np.int32)

    @simd.operation(simd.void, *[simd.i64] * 4)
    def group(b: Builder, w: Value, x: Value, starts: Value, out: Value) -> None:
        stride, bits = ir.Constant(I64, 32), 8 if precision == "int8" else 4
        sums = tiles.avx2_group(b, bits, w, x, stride, n, out)
        for t, total in enumerate(sums):
            start = simd.read(b, simd.place(b, starts, (t, 4)), I32)
            total = b.add(total, simd.broadcast(b, start, simd.I32V))
            simd.write(b, simd.place(b, out, (t, 64)), total)

    @lower.kernel
    def engine(w: int, x: int, starts: int, out: int) -> int:
        group(w, x, starts, out)
        return 0

    def build() -> Any:
        return engine

    assert AVX2 is not None
    run = jit.load(AVX2, f"test of a group {precision}", build)
    run(*(array.ctypes.data for array in (weights, inputs, starts, out)))
    np.testing.assert_array_equal(out, x @ w.T)
