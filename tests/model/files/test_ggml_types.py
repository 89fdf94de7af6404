"""The number types of ggml, against its own package."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from laplm.model.files.ggml_types import GGML_TYPES, QUANTISED, as_records, dequantise


def test_sizes_of_all_types_are_ggmls() -> None:
    theirs = {
        int(code): (code.name, *sizes) for code, sizes in gguf.constants.GGML_QUANT_SIZES.items()
    }
    assert {code: tuple(GGML_TYPES[code]) for code in theirs} == theirs


@pytest.mark.parametrize("name", QUANTISED)
def test_numbers_are_those_of_ggml_to_the_bit(name: str) -> None:
    code = gguf.GGMLQuantizationType[name]
    block_size, n_bytes = gguf.constants.GGML_QUANT_SIZES[code]
    rng = np.random.default_rng(len(name))
    blocks = rng.integers(0, 256, (3, 7, 5 * n_bytes), np.uint8)
    with np.errstate(all="ignore"):  # some of these scales are no numbers
        theirs = gguf.quants.dequantize(blocks, code)
        ours = dequantise(as_records(blocks, name), name)
    assert ours.shape == (3, 7, 5 * block_size)
    np.testing.assert_array_equal(ours, theirs)


def test_many_blocks_at_once() -> None:
    data = np.random.default_rng(0).normal(size=(40, 32 * 1024)).astype(np.float32)
    blocks = gguf.quants.quantize(data, gguf.GGMLQuantizationType.Q4_1)
    theirs = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType.Q4_1)
    np.testing.assert_array_equal(dequantise(as_records(blocks, "Q4_1"), "Q4_1"), theirs)
