"""llama.cpp's blocks of quantised weights, taken apart (ggml-common.h has their layouts).

A row of a matrix is some blocks, one after the other, of 32 inputs, or of 256 in the types that
end in K: ``scale * whole``, or ``scale * whole + minimum``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from laplm.model.engine.formats import FORMATS, Format
from laplm.model.engine.packing import Rows

Bytes = NDArray[np.uint8]


def format_of(ggml_type: str) -> Format | None:
    """The format in which a type's numbers are computed with as they are; None if there is none."""
    return FORMATS[_TYPES[ggml_type][0]] if ggml_type in _TYPES else None


def rows_of(ggml_type: str, blocks: Bytes) -> Rows:
    """Rows (n, bytes) of blocks, taken apart."""
    _, block_bytes, split = _TYPES[ggml_type]
    return split(blocks.reshape(len(blocks), -1, block_bytes))


def _half(blocks: Bytes, at: int) -> NDArray[np.float16]:
    """The fp16 number at a place of each block: (n, blocks)."""
    return np.ascontiguousarray(blocks[..., at : at + 2]).view(np.float16)[..., 0]


def _nibbles(bytes_: Bytes) -> NDArray[np.int16]:
    """Low halves of all bytes, then high halves: (..., 16) -> (..., 32)."""
    return np.concatenate([bytes_ & 15, bytes_ >> 4], axis=-1).astype(np.int16)


def _flat(groups: NDArray[Any]) -> NDArray[np.int16]:
    return groups.astype(np.int16).reshape(len(groups), -1)


def _q4_0(b: Bytes) -> Rows:
    return Rows(_flat(_nibbles(b[..., 2:]) - 8), _half(b, 0))


def _q4_1(b: Bytes) -> Rows:
    return Rows(_flat(_nibbles(b[..., 4:])), _half(b, 0), _half(b, 2))


def _q8_0(b: Bytes) -> Rows:
    return Rows(_flat(b[..., 2:].view(np.int8)), _half(b, 0))


def _fifth_bits(b: Bytes) -> NDArray[np.int16]:
    """A bit for each of 32 inputs, from four bytes: (..., 4) -> (..., 32), 0 or 16."""
    bits = np.unpackbits(np.ascontiguousarray(b), axis=-1, bitorder="little")
    return bits.astype(np.int16) << 4


def _q5_0(b: Bytes) -> Rows:
    return Rows(_flat((_nibbles(b[..., 6:]) | _fifth_bits(b[..., 2:6])) - 16), _half(b, 0))


def _q5_1(b: Bytes) -> Rows:
    whole = _nibbles(b[..., 8:]) | _fifth_bits(b[..., 4:8])
    return Rows(_flat(whole), _half(b, 0), _half(b, 2))


def _six_bits(b: Bytes) -> tuple[Bytes, Bytes]:
    """The scales and minimums of eight groups from twelve bytes: (n, blocks * 8) each."""
    low, middle, high = b[..., 0:4], b[..., 4:8], b[..., 8:12]
    scales = np.concatenate([low & 63, (high & 15) | (low >> 6 << 4)], axis=-1)
    minimums = np.concatenate([middle & 63, (high >> 4) | (middle >> 6 << 4)], axis=-1)
    return scales.reshape(len(b), -1), minimums.reshape(len(b), -1)


def _super_rows(b: Bytes, whole: NDArray[Any]) -> Rows:
    scales, minimums = _six_bits(b[..., 4:16])
    # A minimum is taken off in these types.
    return Rows(_flat(whole), _half(b, 0), -_half(b, 2), scales, minimums)


def _super_nibbles(b: Bytes) -> NDArray[Any]:
    """256 inputs: of each 32 bytes the low halves are a group, the high halves the next."""
    parts = b.reshape(*b.shape[:-1], 4, 32)
    return np.stack([parts & 15, parts >> 4], axis=-2)  # (n, blocks, 4, 2, 32)


def _q4_k(b: Bytes) -> Rows:
    return _super_rows(b, _super_nibbles(b[..., 16:]))


def _q5_k(b: Bytes) -> Rows:
    bits = b[..., None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None] & 1  # (n, blocks, 8, 32)
    fifth = bits.reshape(*bits.shape[:-2], 4, 2, 32) << 4
    return _super_rows(b, _super_nibbles(b[..., 48:]) | fifth)


_TYPES: Mapping[str, tuple[str, int, Callable[[Bytes], Rows]]] = {
    "Q8_0": ("q8_0", 34, _q8_0),
    "Q4_0": ("int4", 18, _q4_0),
    "Q4_1": ("q4_1", 20, _q4_1),
    "Q5_0": ("q8_0", 22, _q5_0),
    "Q5_1": ("q8_1", 24, _q5_1),
    "Q4_K": ("q4_k", 144, _q4_k),
    "Q5_K": ("q8_k", 176, _q5_k),
}
