"""How GGUF files store numbers: the types of ggml, and their numbers as fp32.

A quantised type cuts each row into blocks of 32 or 256 numbers that share a scale, and in some a
minimum. Here each is one packed record (as in ggml-common.h), and one function that gives its
numbers, exactly as ggml does. Shapes: N blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


class GGMLType(NamedTuple):
    """One type of numbers.

    Attributes:
        name: ggml's, such as "Q4_K".
        block_size: numbers in a block.
        n_bytes: of a block.
    """

    name: str
    block_size: int
    n_bytes: int


class Parts(NamedTuple):
    """N blocks taken apart: a number is ``scale * whole``, or that plus a minimum.

    Attributes:
        whole: (N, numbers of a block): whole numbers.
        scale: (N,) fp16.
        minimum: (N,) fp16, or None.
        group_scales: (N, 8): the scale of each 32 numbers in steps of ``scale``; None: 1.
        group_minimums: (N, 8): the same of ``minimum``.
    """

    whole: NDArray[Any]
    scale: NDArray[np.float16]
    minimum: NDArray[np.float16] | None = None
    group_scales: NDArray[np.uint8] | None = None
    group_minimums: NDArray[np.uint8] | None = None


GGML_TYPES: dict[int, GGMLType] = {
    code: GGMLType(*each)
    for code, each in {
        0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20),
        6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40),
        10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144),
        13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
        16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98),
        19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110),
        22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2),
        26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8), 29: ("IQ1_M", 256, 56),
        30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
        40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18),
    }.items()
}  # fmt: skip
"""By the codes that files have."""

FLOATS: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}  # BF16: its bits

_HALF = "<f2"
_BLOCKS = {
    name: np.dtype(fields)
    for name, fields in {
        "Q4_0": [("d", _HALF), ("qs", "u1", 16)],
        "Q4_1": [("d", _HALF), ("m", _HALF), ("qs", "u1", 16)],
        "Q5_0": [("d", _HALF), ("qh", "u1", 4), ("qs", "u1", 16)],
        "Q5_1": [("d", _HALF), ("m", _HALF), ("qh", "u1", 4), ("qs", "u1", 16)],
        "Q8_0": [("d", _HALF), ("qs", "i1", 32)],
        "Q2_K": [("scales", "u1", 16), ("qs", "u1", 64), ("d", _HALF), ("dmin", _HALF)],
        "Q3_K": [("hmask", "u1", 32), ("qs", "u1", 64), ("scales", "u1", 12), ("d", _HALF)],
        "Q4_K": [("d", _HALF), ("dmin", _HALF), ("scales", "u1", 12), ("qs", "u1", 128)],
        "Q5_K": [("d", _HALF), ("dmin", _HALF), ("scales", "u1", 12), ("qh", "u1", 32),
                 ("qs", "u1", 128)],
        "Q6_K": [("ql", "u1", 128), ("qh", "u1", 64), ("scales", "i1", 16), ("d", _HALF)],
        "IQ4_NL": [("d", _HALF), ("qs", "u1", 16)],
        "IQ4_XS": [("d", _HALF), ("scales_h", "<u2"), ("scales_l", "u1", 4), ("qs", "u1", 128)],
    }.items()
}  # fmt: skip
QUANTISED: tuple[str, ...] = tuple(_BLOCKS)
"""The quantised types whose numbers are known here."""

_AT_ONCE = 1 << 14  # blocks that are widened together, so that what is in between stays small


def as_records(rows: NDArray[np.uint8], ggml_type: str) -> NDArray[Any]:
    """Quantised rows (..., bytes of a row) as records of ``ggml_type``: (..., blocks of a row)."""
    return np.ascontiguousarray(rows).view(_BLOCKS[ggml_type])


def dequantise(records: NDArray[Any], ggml_type: str) -> Array:
    """The numbers of quantised rows as fp32.

    Args:
        records: (..., blocks of a row), as ``as_records`` gives them.
        ggml_type: of ``QUANTISED``.

    Returns:
        (..., numbers of a row).
    """
    flat = records.reshape(-1)
    size = 256 if ggml_type.endswith(("_K", "_XS")) else 32
    shape = (*records.shape[:-1], records.shape[-1] * size)
    if len(flat) <= _AT_ONCE:  # such as one token's embedding, which each step of decoding reads
        return _numbers(flat, ggml_type).reshape(shape)
    out = np.empty((len(flat), size), np.float32)
    for i in range(0, len(flat), _AT_ONCE):
        part = flat[i : i + _AT_ONCE]
        out[i : i + _AT_ONCE] = _numbers(part, ggml_type).reshape(len(part), size)
    return out.reshape(shape)


def parts_of(rows: NDArray[np.uint8], ggml_type: str) -> Parts:
    """The whole numbers of rows (n, bytes of a row) and what they are multiplied with.

    Raises:
        KeyError: it is not of ``PARTED``: its numbers are not whole ones times a scale of 32.
    """
    return _PARTS[ggml_type](as_records(rows, ggml_type).reshape(-1))


def _numbers(block: NDArray[Any], ggml_type: str) -> Array:
    """The numbers of N blocks as fp32, in any shape."""
    if ggml_type not in _PARTS:
        return _NUMBERS[ggml_type](block)
    parts = _PARTS[ggml_type](block)
    scale, minimum = _column(parts.scale), None
    if parts.minimum is not None:
        minimum = _column(parts.minimum)
    if parts.group_scales is not None and minimum is not None:
        scale = scale * _wide(parts.group_scales)  # (N, 8)
        minimum = minimum * _wide(_known(parts.group_minimums))
    # Bytes times fp32 are fp32 at once, and exact.
    out: Array = scale[..., None] * parts.whole.reshape(len(block), scale.shape[1], 32)
    return out if minimum is None else out + minimum[..., None]


def _known(values: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    assert values is not None
    return values


def _wide(values: NDArray[Any]) -> Array:
    return values.astype(np.float32)


def _column(values: NDArray[Any]) -> Array:
    """One number of each block, beside those of the block: (N,) -> (N, 1)."""
    return _wide(values)[:, None]


def _shifted(values: NDArray[np.uint8], shifts: list[int], width: int) -> NDArray[np.uint8]:
    """Runs of ``width`` bytes, each once for every shift: (N, B) -> (N, B / width, shifts, width).

    So are the bits of numbers laid out: the low ones of a run of bytes belong to one run of
    numbers, the higher ones to those that follow.
    """
    out: NDArray[np.uint8] = values.reshape(len(values), -1, 1, width) >> np.array(
        shifts, np.uint8
    ).reshape(1, 1, -1, 1)
    return out


def _nibbles(values: NDArray[np.uint8], width: int = 16) -> NDArray[np.uint8]:
    """4-bit numbers: (N, B) -> (N, 2 B)."""
    out: NDArray[np.uint8] = (_shifted(values, [0, 4], width) & np.uint8(15)).reshape(
        len(values), -1
    )
    return out


def _five_bits(block: NDArray[Any]) -> NDArray[np.uint8]:
    """5-bit numbers of a block of 32, whose highest bits are kept apart: (N, 32)."""
    high = np.unpackbits(block["qh"], axis=-1, bitorder="little")
    out: NDArray[np.uint8] = _nibbles(block["qs"]) | high << np.uint8(4)
    return out


def _super_parts(block: NDArray[Any], whole: NDArray[Any]) -> Parts:
    """Of Q4_K and Q5_K: eight scales and minima, 6 bits each, in 12 bytes."""
    scale, minimum, rest = np.moveaxis(block["scales"].reshape(-1, 3, 4), 1, 0)  # (N, 4) each
    scales = np.concatenate([scale & 63, rest & 15 | scale >> 2 & 48], axis=-1)
    mins = np.concatenate([minimum & 63, rest >> 4 | minimum >> 2 & 48], axis=-1)
    # The minimum of these types is taken off.
    return Parts(whole, block["d"], -block["dmin"], scales, mins)


def _q5_k(block: NDArray[Any]) -> Parts:
    high = (_shifted(block["qh"], list(range(8)), 32) & 1).reshape(-1, 256)
    return _super_parts(block, _nibbles(block["qs"], 32) | high << 4)


_PARTS: dict[str, Callable[[NDArray[Any]], Parts]] = {
    "Q4_0": lambda block: Parts(_nibbles(block["qs"]).astype(np.int8) - np.int8(8), block["d"]),
    "Q4_1": lambda block: Parts(_nibbles(block["qs"]), block["d"], block["m"]),
    "Q5_0": lambda block: Parts(_five_bits(block).astype(np.int8) - np.int8(16), block["d"]),
    "Q5_1": lambda block: Parts(_five_bits(block), block["d"], block["m"]),
    "Q8_0": lambda block: Parts(block["qs"], block["d"]),
    "Q4_K": lambda block: _super_parts(block, _nibbles(block["qs"], 32)),
    "Q5_K": _q5_k,
}
PARTED: tuple[str, ...] = tuple(_PARTS)
"""The types whose numbers are whole ones times a scale of 32 of them, perhaps plus a minimum."""


def _q2_k(block: NDArray[Any]) -> Array:
    scales = _column(block["d"]) * _wide(block["scales"] & 15)  # (N, 16), of 16 numbers each
    mins = _column(block["dmin"]) * _wide(block["scales"] >> 4)
    q = _wide(_shifted(block["qs"], [0, 2, 4, 6], 32) & 3).reshape(-1, 16, 16)
    out: Array = scales[..., None] * q - mins[..., None]
    return out


def _q3_k(block: NDArray[Any]) -> Array:
    # 6-bit scales: the low 4 bits of two in a byte, the high 2 bits of four in another.
    low = _shifted(block["scales"][:, :8], [0, 4], 8) & 15
    high = _shifted(block["scales"][:, 8:], [0, 2, 4, 6], 4) & 3
    packed = low.reshape(-1, 16) | high.reshape(-1, 16) << 4
    scales = _column(block["d"]) * _wide(packed.astype(np.int8) - np.int8(32))  # (N, 16)
    low = (_shifted(block["qs"], [0, 2, 4, 6], 32) & 3).reshape(-1, 16, 16)
    # A bit of the mask that is set means that nothing is taken away.
    unset = (_shifted(block["hmask"], list(range(8)), 32) & 1 ^ 1).reshape(-1, 16, 16)
    out: Array = scales[..., None] * _wide(low.astype(np.int8) - (unset << 2).astype(np.int8))
    return out


def _q6_k(block: NDArray[Any]) -> Array:
    scales = _column(block["d"]) * _wide(block["scales"])  # (N, 16)
    low = _nibbles(block["ql"], 64).reshape(-1, 16, 16)
    high = (_shifted(block["qh"], [0, 2, 4, 6], 32) & 3).reshape(-1, 16, 16)
    out: Array = scales[..., None] * _wide((low | high << 4).astype(np.int8) - np.int8(32))
    return out


_IQ4 = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32
)


def _iq4_nl(block: NDArray[Any]) -> Array:
    return _column(block["d"]) * _IQ4[_nibbles(block["qs"])]


def _iq4_xs(block: NDArray[Any]) -> Array:
    low = (block["scales_l"][:, :, None] >> np.array([0, 4], np.uint8) & 15).reshape(-1, 8)
    high = block["scales_h"][:, None] >> np.arange(0, 16, 2, dtype=np.uint16) & 3
    packed = low | high.astype(np.uint8) << 4
    scales = _column(block["d"]) * _wide(packed.astype(np.int8) - np.int8(32))  # (N, 8)
    out: Array = scales[..., None] * _IQ4[_nibbles(block["qs"])].reshape(-1, 8, 32)
    return out


_NUMBERS: dict[str, Callable[[NDArray[Any]], Array]] = {
    "Q2_K": _q2_k, "Q3_K": _q3_k, "Q6_K": _q6_k, "IQ4_NL": _iq4_nl, "IQ4_XS": _iq4_xs,
}  # fmt: skip
