"""Packing is undone exactly by unpacking, in every format and for any size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from random_weights import random_rows

from laplm.model.engine.formats import FORMATS, SUPER, Format
from laplm.model.engine.packing import Rows, pack_rows, shapes, unpack
from laplm.model.engine.quantize import pack

FORMS = pytest.mark.parametrize("form", FORMATS.values(), ids=lambda form: form.name)
NUMPY = {"F32": np.float32, "F16": np.float16, "U16": np.uint16, "U8": np.uint8}


def weights_of(form: Format, rows: Rows, n_in: int) -> np.ndarray:
    """What the rows stand for, number by number: scale * whole + minimum."""
    if form.is_float:
        if form.name == "fp32":
            return rows.whole
        if form.name == "fp16":
            return rows.whole.view(np.float16).astype(np.float32)
        return (rows.whole.astype(np.uint32) << 16).view(np.float32)
    out = np.zeros(rows.whole.shape, np.float32)
    for i in range(len(out)):
        for j in range(out.shape[1]):
            group, at = j // 32, j // 32 // SUPER
            if form.scales == "row":
                scale, minimum = rows.scales[i], 0
            elif form.scales == "group":
                scale = np.float32(rows.scales[i, group])
                minimum = np.float32(rows.minimums[i, group]) if form.minimum else 0
            else:
                scale = np.float32(rows.scales[i, at]) * rows.group_scales[i, group]
                minimum = np.float32(rows.minimums[i, at]) * rows.group_minimums[i, group]
            out[i, j] = scale * rows.whole[i, j] + minimum
    return out[:, :n_in]


@FORMS
@pytest.mark.parametrize("size", [(1, 32), (16, 64), (37, 40), (18, 300)])
def test_tiles_hold_the_weights_of_the_rows(form: Format, size: tuple[int, int]) -> None:
    rows = random_rows(np.random.default_rng(0), form, *size)
    packed, scales = pack_rows(form, rows)
    (code, shape), (scale_code, scale_shape) = shapes(form, *size)
    assert (packed.dtype, packed.shape) == (NUMPY[code], shape)
    assert (scales.dtype, scales.shape) == (NUMPY[scale_code], scale_shape)
    np.testing.assert_array_equal(
        unpack(packed, scales, form, *size), weights_of(form, rows, size[1])
    )


@FORMS
def test_the_sizes_of_tiles_and_scales_are_what_the_kernels_step_by(form: Format) -> None:
    n_out, n_in = 48, 9 * 32
    packed, scales = pack_rows(form, random_rows(np.random.default_rng(1), form, n_out, n_in))
    assert packed.nbytes == 3 * 9 * form.group_bytes
    assert scales.nbytes == 3 * form.scale_bytes(9)


@settings(deadline=None)
@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 40), st.integers(1, 70)),
        elements=st.floats(width=16, allow_nan=False),
    ),
    st.sampled_from(["fp32", "fp16"]),
)
def test_floats_are_packed_exactly(rows: np.ndarray, name: str) -> None:
    got = unpack(*pack(rows, name), FORMATS[name], *rows.shape)
    np.testing.assert_array_equal(got, rows)


def test_bf16_is_packed_exactly() -> None:
    bits = np.arange(0x7F80, dtype=np.uint32).reshape(-1, 32)  # all that are finite
    rows = (bits << 16).view(np.float32)
    np.testing.assert_array_equal(unpack(*pack(rows, "bf16"), FORMATS["bf16"], *rows.shape), rows)
