"""The compiled layer norm is the reference's."""

from __future__ import annotations

import numpy as np
import pytest
from running import Arguments, compiled, floats

from laplm.model.engine.kernels.norm import layer_norm
from laplm.model.families import ops
from laplm.native import lower
from laplm.native.isa import Isa
from laplm.native.simd import get_i64

pytest_plugins = ("running",)


@lower.kernel
def engine(args: int, row: int, vectors: int, out: int) -> int:
    layer_norm(args, row, get_i64(vectors, 0), get_i64(vectors, 1), out)
    return 0


@pytest.mark.parametrize("width", [16, 48, 50, 96])
def test_a_row_is_normalised_as_in_the_reference_and_its_padding_stays_zero(
    isa: Isa, width: int
) -> None:
    rng = np.random.default_rng(width)
    x, gain, bias = (rng.standard_normal(width).astype(np.float32) for _ in range(3))
    x = x * 3 + 5
    row, gains, biases, out = floats(x), floats(gain), floats(bias), floats(np.zeros(width))
    args = Arguments(N_EMBD=width, WIDTH=len(row), EPSILON=np.array([1e-5], np.float32))
    vectors = np.array([gains.ctypes.data, biases.ctypes.data], np.int64)
    run = compiled(isa, "layer norm", engine)
    run(args.address, row.ctypes.data, vectors.ctypes.data, out.ctypes.data)
    want = ops.layer_norm(x, gain, bias, 1e-5, "ln1", 0, ops.identity)
    np.testing.assert_allclose(out[:width], want, rtol=1e-5, atol=1e-5)
    # The mean is taken off the padding too, but its gain is zero.
    assert not out[width:].any()
