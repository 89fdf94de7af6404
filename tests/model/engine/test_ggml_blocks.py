"""llama.cpp's blocks are computed with as they are: the gguf package says what they stand for."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from laplm.model.engine import ggml_blocks
from laplm.model.engine.formats import FORMATS
from laplm.model.engine.packing import pack_rows, unpack

TYPES = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K"]
HALVES = {  # where a block has numbers in fp16
    "Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q4_K": [0, 2],
    "Q5_K": [0, 2],
}  # fmt: skip


def random_blocks(name: str, n_rows: int, n_in: int) -> np.ndarray:
    """Any bytes at all, but for the fp16 numbers, which are finite."""
    per_block, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (n_rows, n_in // per_block, block_bytes), dtype=np.uint8)
    for at in HALVES[name]:
        half = rng.standard_normal((*blocks.shape[:2], 1)).astype(np.float16)
        blocks[..., at : at + 2] = half.view(np.uint8)
    return blocks.reshape(n_rows, -1)


@pytest.mark.parametrize("name", TYPES)
def test_every_weight_is_what_llama_cpp_reads(name: str) -> None:
    n_rows, n_in = 21, 768
    blocks = random_blocks(name, n_rows, n_in)
    want = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[name])
    form = ggml_blocks.format_of(name)
    assert form is not None
    packed, scales = pack_rows(form, ggml_blocks.rows_of(name, blocks))
    got = unpack(packed, scales, form, n_rows, n_in)
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


def test_what_is_stored_takes_no_more_memory_in_four_bits() -> None:
    for name, form in (("Q4_0", "int4"), ("Q4_1", "q4_1"), ("Q8_0", "q8_0")):
        per_block, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
        found = FORMATS[form]
        assert ggml_blocks.format_of(name) == found
        groups = 256 // 32
        ours = (groups * found.group_bytes + found.scale_bytes(groups)) / 16
        assert ours == block_bytes * 256 / per_block


def test_a_type_without_a_format_is_told() -> None:
    assert ggml_blocks.format_of("Q6_K") is None
