"""The compiled linear layer multiplies with what was packed, whatever is computed together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from random_weights import random_rows
from running import compiled, floats

from laplm.model.engine import kernel_args as k
from laplm.model.engine.formats import FORMATS, Format
from laplm.model.engine.kernels.linear import make_linear_rows, quantize_row
from laplm.model.engine.kv_cache import to_bytes
from laplm.model.engine.packing import pack_rows, unpack
from laplm.native import lower
from laplm.native.isa import Isa
from laplm.native.memory import aligned
from laplm.native.simd import get_i64

pytest_plugins = ("running",)


def make_engine(isa: Isa, form: Format) -> Any:
    rows = make_linear_rows(isa, form)

    @lower.kernel
    def engine(a: int, start: int, end: int, store_mode: int) -> int:
        rows(get_i64(a, 0), get_i64(a, 1), get_i64(a, 2), get_i64(a, 3), get_i64(a, 4),
             get_i64(a, 5), get_i64(a, 6), get_i64(a, 7), start, end, get_i64(a, 8),
             get_i64(a, 9), get_i64(a, 10), store_mode)  # fmt: skip
        return 0

    return engine


@lower.kernel
def quantize_engine(row: int, groups: int, out: int, parts: int) -> int:
    quantize_row(row, groups, out, get_i64(parts, 0), get_i64(parts, 1))
    return 0


@pytest.mark.parametrize("form", FORMATS.values(), ids=lambda form: form.name)
def test_rows_are_products_with_the_packed_matrix_plus_the_bias(isa: Isa, form: Format) -> None:
    n_out, n_in = 80, 9 * 32  # more groups than a super group has
    rng = np.random.default_rng(0)
    bias = floats(rng.random(n_out))
    packed, scales = pack_rows(form, random_rows(rng, form, n_out, n_in))
    exact = unpack(packed, scales, form, n_out, n_in)
    run = compiled(isa, f"rows {form.name}", make_engine(isa, form))
    results = []
    for tokens in (1, 2, 7, 19):
        x = rng.standard_normal((tokens, n_in)).astype(np.float32)
        x[0] = np.arange(n_in) / n_in
        whole, x_scales = to_bytes(x.reshape(tokens, -1, k.GROUP))
        sums = whole.sum(axis=-1).astype(np.int32)
        inputs = np.ascontiguousarray(x if form.is_float else whole.astype(np.int8))
        seen = x if form.is_float else (whole * x_scales[..., None]).reshape(x.shape)
        out = aligned(tokens * n_out, np.float32).reshape(tokens, n_out)
        arrays = (packed, scales, bias)
        numbers = [
            *(array.ctypes.data for array in arrays), n_in, inputs.ctypes.data,
            n_in * (4 if form.is_float else 1), x_scales.ctypes.data, sums.ctypes.data,
            tokens, out.ctypes.data, n_out * 4,
        ]  # fmt: skip
        block = np.array(numbers, np.int64)
        run(block.ctypes.data, 0, 2, k.STORE)
        run(block.ctypes.data, 2, n_out // k.TILE, k.STORE)
        want = seen @ exact.T + bias[:n_out]
        np.testing.assert_allclose(out, want, rtol=1e-4, atol=2e-3)
        results.append(out[0].copy())
        run(block.ctypes.data, 0, n_out // k.TILE, k.ADD)
        np.testing.assert_allclose(out, 2 * want, rtol=1e-4, atol=4e-3)
    for other in results[1:]:  # the same bits, however many tokens there are
        np.testing.assert_array_equal(other, results[0])


def test_inputs_are_rounded_as_the_tapped_path_rounds_them(isa: Isa) -> None:
    x = (np.random.default_rng(1).standard_normal(96) * 7).astype(np.float32)
    x[32:64] = 0
    out, scale, total = np.zeros(96, np.int8), np.zeros(3, np.float32), np.zeros(3, np.int32)
    parts = np.array([scale.ctypes.data, total.ctypes.data], np.int64)
    run = compiled(isa, "quantize", quantize_engine)
    run(floats(x).ctypes.data, 3, out.ctypes.data, parts.ctypes.data)
    whole, scales = to_bytes(x.reshape(3, 32))
    np.testing.assert_array_equal(out, whole.ravel())
    np.testing.assert_array_equal(scale, scales)
    np.testing.assert_array_equal(total, whole.sum(axis=-1))
