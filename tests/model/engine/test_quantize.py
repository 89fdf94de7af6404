"""Weights are rounded as little as the formats allow."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from laplm.model.engine import quantize
from laplm.model.engine.formats import FORMATS
from laplm.model.engine.packing import unpack
from laplm.model.engine.quantize import pack, quantize_groups
from laplm.native import isa

ROUNDED = [form.name for form in FORMATS.values() if not form.minimum]
MATRICES = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 40), st.integers(1, 70)),
    elements=st.floats(-100, 100, width=32, allow_subnormal=False),
)


@settings(deadline=None)
@given(MATRICES)
def test_int8_is_within_half_a_step_of_every_weight(rows: np.ndarray) -> None:
    got = unpack(*pack(rows, "int8"), FORMATS["int8"], *rows.shape)
    step = np.abs(rows).max(axis=1, keepdims=True) / 127
    assert (np.abs(got - rows) <= step * 0.5001).all()


@settings(deadline=None)
@given(MATRICES)
def test_int4_is_no_worse_than_plain_rounding_to_sevenths(rows: np.ndarray) -> None:
    got = unpack(*pack(rows, "int4"), FORMATS["int4"], *rows.shape)
    n_out, n_in = rows.shape
    padded = np.zeros((n_out, -(-n_in // 32) * 32), np.float32)
    padded[:, :n_in] = rows
    groups = padded.reshape(n_out, -1, 32)
    scale = (np.abs(groups).max(axis=-1, keepdims=True) / 7).astype(np.float16).astype(np.float32)
    safe = np.where(scale == 0, 1, scale)
    plain = np.clip(np.rint(groups / safe), -8, 7) * scale
    plain_error = ((plain - groups) ** 2).sum()
    assert ((got - rows) ** 2).sum() <= plain_error * 1.001 + 1e-6


@settings(deadline=None)
@given(MATRICES)
def test_q8_0_is_within_half_a_step_of_every_weight(rows: np.ndarray) -> None:
    got = unpack(*pack(rows, "q8_0"), FORMATS["q8_0"], *rows.shape)
    padded = np.zeros((len(rows), -(-rows.shape[1] // 32) * 32), np.float32)
    padded[:, : rows.shape[1]] = rows
    step = np.abs(padded.reshape(len(rows), -1, 32)).max(axis=-1) / 127
    # A scale is an fp16 number: up to 1 / 2048 too small, the largest weight so much off.
    allowed = np.repeat(step * (0.5 + 127 / 2048) + 2e-5, 32, axis=1)
    assert (np.abs(got - rows) <= allowed[:, : rows.shape[1]]).all()


def test_weights_are_not_rounded_to_formats_with_minimums() -> None:
    with pytest.raises(ValueError, match="not rounded to q4_1"):
        pack(np.ones((16, 32), np.float32), "q4_1")


GROUPS = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 40), st.just(32)),
    elements=st.floats(-100, 100, width=32, allow_subnormal=False),
)


@pytest.mark.parametrize("largest", [-8, -7, -6, 6, 7])
def test_a_group_of_whole_steps_is_kept_as_it_is(largest: int) -> None:
    """The largest number of a group may land on either end of the grid, or short of it."""
    rng = np.random.default_rng(0)
    below = abs(largest) - 1
    groups = rng.integers(-below, below + 1, (20, 32)).astype(np.float32)
    groups[:, 5] = largest
    steps, scales = quantize_groups(groups * np.float32(0.25))
    assert (steps * scales[:, None].astype(np.float32) == groups * np.float32(0.25)).all()


def least_error(groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What ``quantize_groups`` says that it does, number by number."""
    steps, scales = np.zeros(groups.shape, np.int8), np.zeros(len(groups), np.float16)
    for g, group in enumerate(groups):
        largest, least = group[np.abs(group).argmax()], np.float32(np.inf)
        for landing in quantize._LANDINGS:
            scale = np.float16(largest / np.float32(landing))
            wide = np.float32(scale)
            inverse = np.float32(1) / wide if wide else np.float32(0)
            rounded = np.clip(np.rint(group * inverse), np.float32(-8), np.float32(7))
            error = np.float32(0)
            for off in rounded * wide - group:
                error += off * off
            if error < least:
                least, steps[g], scales[g] = error, rounded, scale
    return steps, scales


@pytest.mark.parametrize("isa", isa.available(), ids=lambda isa: isa.name)
def test_every_variant_chooses_the_scales_of_least_error(
    isa: isa.Isa, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAPLM_ISA", isa.name)
    quantize._group_search.cache_clear()

    @settings(deadline=None, max_examples=40)
    @given(GROUPS)
    def check(groups: np.ndarray) -> None:
        steps, scales = quantize_groups(groups)
        expected_steps, expected_scales = least_error(groups)
        np.testing.assert_array_equal(scales, expected_scales)
        np.testing.assert_array_equal(steps, expected_steps)

    check()
    quantize._group_search.cache_clear()


def test_int4_reaches_both_ends_of_its_grid() -> None:
    rng = np.random.default_rng(0)
    steps, scales = quantize_groups(rng.standard_normal((500, 32)).astype(np.float32))
    assert steps.min() == -8
    assert steps.max() == 7
    assert scales.dtype == np.float16


def test_zeros_stay_zero() -> None:
    for precision in ROUNDED:
        rows = np.zeros((5, 40), np.float32)
        np.testing.assert_array_equal(
            unpack(*pack(rows, precision), FORMATS[precision], 5, 40), rows
        )
