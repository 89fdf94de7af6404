"""Rows of a matrix to tiles and back: the layouts that the kernels read (``tiles.py``).

Every linear layer is cut into tiles of 16 output rows, interleaved. Rows are padded to 16 and
inputs to 32 with zeros, so that any shape runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from laplm.model.engine.formats import SUPER, SUPER_BYTES, Format
from laplm.model.engine.kernel_args import GROUP, TILE

Array = NDArray[np.float32]


def round_up(n: int, multiple: int) -> int:
    """``n`` or the next multiple."""
    return -(-n // multiple) * multiple


@dataclass(frozen=True)
class Rows:
    """Some rows of a matrix as a format keeps them.

    Attributes:
        whole: (n, in): the numbers of a float format as they are stored, or whole numbers.
        scales: none; (n,) of rows, fp32; (n, groups) fp16; or (n, supers) fp16.
        minimums: as the scales, where the format has them.
        group_scales: (n, groups) bytes: a group's scale in steps of its super group's.
        group_minimums: the same of minimums.
    """

    whole: NDArray[Any]
    scales: NDArray[Any] | None = None
    minimums: NDArray[Any] | None = None
    group_scales: NDArray[np.uint8] | None = None
    group_minimums: NDArray[np.uint8] | None = None


def shapes(form: Format, n_out: int, n_in: int) -> tuple[tuple[str, Any], tuple[str, Any]]:
    """The safetensors dtypes and shapes of ``pack_rows``' two arrays."""
    tiles, padded_in = round_up(n_out, TILE) // TILE, round_up(n_in, GROUP)
    groups = padded_in // GROUP
    packed: tuple[str, Any] = {
        32: ("F32", (tiles, padded_in, TILE)),
        16: ("U16", (tiles, padded_in, TILE)),
        8: ("U8", (tiles, padded_in // 4, TILE, 4)),
        4: ("U8", (tiles, groups, 4, TILE, 4)),
    }[form.bits]
    scales: tuple[str, Any] = {
        "none": ("F32", (0,)),
        "row": ("F32", (tiles * TILE,)),
        "group": ("F16", (tiles, groups, *([2] * form.minimum), TILE)),
        "super": ("U8", (tiles, -(-groups // SUPER), SUPER_BYTES)),
    }[form.scales]
    return packed, scales


def pack_rows(form: Format, rows: Rows) -> tuple[NDArray[Any], NDArray[Any]]:
    """Rows (n, in) to tiles and scales of the shapes that ``shapes`` gives; n, in padded."""
    n_out, n_in = rows.whole.shape
    tiles = round_up(n_out, TILE) // TILE
    padded = np.zeros((tiles * TILE, round_up(n_in, GROUP)), rows.whole.dtype)
    padded[:n_out, :n_in] = rows.whole
    packed: NDArray[Any]
    if form.is_float:
        packed = padded.reshape(tiles, TILE, -1).transpose(0, 2, 1)
    elif form.bits == 8:
        unsigned = (padded + form.offset).astype(np.uint8)
        packed = unsigned.reshape(tiles, TILE, -1, 4).transpose(0, 2, 1, 3)
    else:
        nibbles = (padded + form.offset).astype(np.uint8).reshape(tiles, TILE, -1, 2, 4, 4)
        # Inputs 0-15 of a group go to the low half of a byte, 16-31 to the high half.
        packed = (nibbles[:, :, :, 0] | (nibbles[:, :, :, 1] << 4)).transpose(0, 2, 3, 1, 4)
    return np.ascontiguousarray(packed), _pack_scales(form, rows, tiles)


def _pack_scales(form: Format, rows: Rows, tiles: int) -> NDArray[Any]:
    def by_tile(values: NDArray[Any] | None) -> NDArray[Any]:
        """(n, each) to (tiles, each, 16)."""
        assert values is not None
        padded = np.zeros((tiles * TILE, values.shape[1]), values.dtype)
        padded[: len(values)] = values
        return padded.reshape(tiles, TILE, -1).transpose(0, 2, 1)

    if form.scales == "none":
        return np.zeros(0, np.float32)
    if form.scales == "row":
        assert rows.scales is not None
        out = np.zeros(tiles * TILE, np.float32)
        out[: len(rows.scales)] = rows.scales
        return out
    parts = [by_tile(each) for each in (rows.scales, rows.minimums)[: 1 + form.minimum]]
    scales = np.stack(parts, axis=2) if form.minimum else parts[0]  # (tiles, each, [2,] 16)
    if form.scales == "group":
        return np.ascontiguousarray(scales)
    supers = scales.shape[1]
    steps = np.stack([by_tile(each) for each in (rows.group_scales, rows.group_minimums)], axis=2)
    whole = np.zeros((tiles, supers * SUPER, 2, TILE), np.uint8)
    whole[:, : steps.shape[1]] = steps
    halves = np.ascontiguousarray(scales).view(np.uint8).reshape(tiles, supers, -1)
    return np.concatenate([halves, whole.reshape(tiles, supers, -1)], axis=2)


def unpack(
    packed: NDArray[Any], scales: NDArray[Any], form: Format, n_out: int, n_in: int
) -> Array:
    """What the kernels compute with: the inverse of ``pack_rows``, (out, in) float32."""
    tiles = len(packed)
    if form.is_float:
        rows = packed.transpose(0, 2, 1)
        if form.name == "fp16":
            rows = rows.view(np.float16).astype(np.float32)
        elif form.name == "bf16":
            rows = (rows.astype(np.uint32) << 16).view(np.float32)
        whole: Array = np.ascontiguousarray(rows).reshape(tiles * TILE, -1)
        return whole[:n_out, :n_in]
    if form.bits == 8:
        unsigned = packed.transpose(0, 2, 1, 3)
    else:
        halves = np.stack([packed & 15, packed >> 4], axis=2)  # (tiles, groups, 2, 4, 16, 4)
        unsigned = halves.transpose(0, 4, 1, 2, 3, 5)
    whole = unsigned.reshape(tiles * TILE, -1).astype(np.float32) - form.offset
    if form.scales == "row":
        whole = whole * scales.reshape(-1, 1)
        return whole[:n_out, :n_in]
    groups = whole.reshape(tiles * TILE, -1, GROUP)
    scale, minimum = _unpack_scales(form, scales, groups.shape[1])
    groups = groups * scale[..., None]
    if minimum is not None:
        groups = groups + minimum[..., None]
    return groups.reshape(tiles * TILE, -1)[:n_out, :n_in]


def _unpack_scales(form: Format, scales: NDArray[Any], n_groups: int) -> tuple[Array, Array | None]:
    """Scales and minimums (n, groups) in fp32."""

    def by_row(values: NDArray[Any]) -> Array:
        """(tiles, groups, 16) to (n, groups)."""
        rows = values.transpose(0, 2, 1).reshape(-1, values.shape[1])
        return rows[:, :n_groups].astype(np.float32)

    if form.scales == "group" and not form.minimum:
        return by_row(scales), None
    if form.scales == "group":
        return by_row(scales[:, :, 0]), by_row(scales[:, :, 1])
    tiles, supers = scales.shape[:2]
    halves = np.ascontiguousarray(scales[:, :, : 4 * TILE]).view(np.float16)
    halves = halves.reshape(tiles, supers, 1, 2, TILE).astype(np.float32)
    steps = scales[:, :, 4 * TILE :].reshape(tiles, supers, SUPER, 2, TILE).astype(np.float32)
    products = (halves * steps).reshape(tiles, supers * SUPER, 2, TILE)
    return by_row(products[:, :, 0]), by_row(products[:, :, 1])
