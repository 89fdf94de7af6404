"""The compiled norms are the reference's."""

from __future__ import annotations

import numpy as np
import pytest
from running import Arguments, compiled, floats

from laplm.model.engine import kernel_args as k
from laplm.model.engine.kernels.norm import (
    layer_norm,
    make_add_sublayer,
    make_head_norm,
    rms_norm,
)
from laplm.model.engine.kernels.threads import make_barrier
from laplm.model.families import ops
from laplm.native import lower
from laplm.native.isa import Isa
from laplm.native.simd import get_i64

pytest_plugins = ("running",)


@lower.kernel
def layer_norm_engine(args: int, row: int, vectors: int, out: int) -> int:
    layer_norm(args, row, get_i64(vectors, 0), get_i64(vectors, 1), out)
    return 0


@lower.kernel
def rms_norm_engine(args: int, row: int, vectors: int, out: int) -> int:
    rms_norm(args, row, get_i64(vectors, 0), 0, out)
    return 0


@pytest.mark.parametrize("width", [16, 48, 50, 96])
@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_a_row_is_normalised_as_in_the_reference_and_its_padding_stays_zero(
    isa: Isa, width: int, kind: str
) -> None:
    rng = np.random.default_rng(width)
    x, gain, bias = (rng.standard_normal(width).astype(np.float32) for _ in range(3))
    x = x * 3 + 5
    row, gains, biases, out = floats(x), floats(gain), floats(bias), floats(np.zeros(width))
    args = Arguments(N_EMBD=width, WIDTH=len(row), EPSILON=np.array([1e-2], np.float32))
    vectors = np.array([gains.ctypes.data, biases.ctypes.data], np.int64)
    run = compiled(isa, f"{kind} norm", layer_norm_engine if kind == "layer" else rms_norm_engine)
    run(args.address, row.ctypes.data, vectors.ctypes.data, out.ctypes.data)
    if kind == "layer":
        want = ops.layer_norm(x, gain, bias, 1e-2, "ln1", 0, ops.identity)
    else:
        want = ops.rms_norm(x, gain, 1e-2, "ln1", 0, ops.identity)
    np.testing.assert_allclose(out[:width], want, rtol=1e-5, atol=1e-5)
    # The mean is taken off the padding too, but its gain is zero.
    assert not out[width:].any()


@pytest.mark.parametrize("head_dim", [8, 16, 24, 64])
def test_a_head_is_normalised_in_place_and_its_neighbour_left_alone(
    isa: Isa, head_dim: int
) -> None:
    head_norm = make_head_norm(head_dim)

    @lower.kernel
    def engine(args: int, row: int, gain: int, out: int) -> int:
        head_norm(args, row, gain)
        return 0

    rng = np.random.default_rng(head_dim)
    heads = rng.standard_normal((2, head_dim)).astype(np.float32) * 4
    gain = rng.standard_normal(head_dim).astype(np.float32)
    row, gains = floats(heads), floats(gain)
    args = Arguments(EPSILON=np.array([1e-2], np.float32))
    run = compiled(isa, f"head norm {head_dim}", engine)
    run(args.address, row.ctypes.data, gains.ctypes.data, 0)
    want = ops.rms_norm(heads[0], gain, 1e-2, "q", 0, ops.identity)
    np.testing.assert_allclose(row[:head_dim], want, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(row[head_dim : 2 * head_dim], heads[1])


@pytest.mark.parametrize("post_norms", [False, True])
def test_what_a_sublayer_adds_is_added_normalised_where_the_model_does_it(
    isa: Isa, post_norms: bool
) -> None:
    spec = k.Spec(("fp32",), "fp32", 16, norm="rms", post_norms=post_norms)
    add_sublayer = make_add_sublayer(spec, make_barrier(isa))

    @lower.kernel
    def engine(args: int, tokens: int, gain: int, out: int) -> int:
        return add_sublayer(args, 0, 0, tokens, gain)

    rng = np.random.default_rng(0)
    x, added = (rng.standard_normal((5, 48)).astype(np.float32) for _ in range(2))
    gain = rng.standard_normal(48).astype(np.float32)
    rows, buffer, gains = floats(np.pad(x, ((0, 0), (0, 16)))), None, floats(gain)
    buffer = floats(np.pad(added, ((0, 0), (0, 16))))
    args = Arguments(
        N_EMBD=48, WIDTH=64, N_THREADS=1, X=rows, SUBLAYER=buffer, BARRIER_START=0,
        EPSILON=np.array([1e-2], np.float32), COUNTERS=np.zeros(64, np.int64),
        BARRIER=np.zeros(8, np.int64),
    )  # fmt: skip
    assert compiled(isa, f"add sublayer {post_norms}", engine)(
        args.address, 5, gains.ctypes.data, 0
    ) == 1  # fmt: skip
    want = x + (ops.rms_norm(added, gain, 1e-2, "p", 0, ops.identity) if post_norms else added)
    got = rows.reshape(5, 64)
    np.testing.assert_allclose(got[:, :48], want, rtol=1e-5, atol=1e-5)
    assert not got[:, 48:].any()
