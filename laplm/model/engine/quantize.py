"""Weights rounded to a precision: int8 has one scale a row; int4 one a row and 32 inputs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from laplm.model.engine.formats import FORMATS, Format
from laplm.model.engine.kernel_args import GROUP, TILE
from laplm.model.engine.packing import Rows, pack_rows, round_up
from laplm.model.files.safetensors_file import narrow_bf16

Precision = Literal["fp32", "int8", "int4", "stored"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8", "int4", "stored")
Array = NDArray[np.float32]


def output_matrix_precision(precision: Precision) -> Precision:
    """How the output matrix is stored: the next token is decided there, so never below int8."""
    return "int8" if precision == "int4" else precision


def pack(rows: Array, name: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """A linear layer (out, in) rounded to a format and packed: tiles and scales."""
    form = FORMATS[name]
    return pack_rows(form, quantize(rows, form))


def quantize(rows: Array, form: Format) -> Rows:
    """Rows (n, in) rounded to a format of floats, or of whole numbers without minimums.

    Raises:
        ValueError: weights are not rounded to this format.
    """
    n_out, n_in = rows.shape
    if form.name == "fp32":
        return Rows(np.asarray(rows, np.float32))
    if form.name == "fp16":
        return Rows(rows.astype(np.float16).view(np.uint16))
    if form.name == "bf16":
        return Rows(narrow_bf16(np.ascontiguousarray(rows)))
    if form.minimum:
        raise ValueError(f"weights are not rounded to {form.name}")
    padded = np.zeros((n_out, round_up(n_in, GROUP)), dtype=np.float32)
    padded[:, :n_in] = rows
    if form.scales == "row":
        scale = np.abs(padded).max(axis=1, initial=0) / np.float32(127)
        safe = np.where(scale == 0, np.float32(1), scale)
        return Rows(np.rint(padded / safe[:, None]).astype(np.int16), scale)
    groups = padded.reshape(n_out, -1, GROUP)
    if form.bits == 4:
        steps, scales = quantize_groups(groups)
        return Rows(steps.reshape(n_out, -1).astype(np.int16), scales)
    # The scale is rounded first, so that its steps make up for it.
    scales = (np.abs(groups).max(axis=-1) / np.float32(127)).astype(np.float16)
    safe = np.where(scales == 0, np.float32(1), scales.astype(np.float32))[..., None]
    whole = np.clip(np.rint(groups / safe), -127, 127)
    return Rows(whole.reshape(n_out, -1).astype(np.int16), scales)


# Where a group's largest number may land on the grid of -8…7: all are tried.
_LANDINGS = (-8.0, -7.75, -7.5, -7.25, -7.0, -6.75, -6.5, -6.25, -6.0, -5.5, 6.0, 6.5, 7.0, 7.5)


def quantize_groups(groups: Array) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """Groups (…, 32) to whole steps -8…7 (…, 32) and a half-precision scale each (…).

    The scale is the one of a fan of candidates that leaves the least squared error.
    """
    width = groups.shape[-1]
    flat = np.ascontiguousarray(groups, dtype=np.float32).reshape(-1, width)
    largest = np.take_along_axis(flat, np.abs(flat).argmax(axis=1)[:, None], axis=1)[:, 0]
    candidates = (largest / np.array(_LANDINGS, np.float32)[:, None]).astype(np.float16)
    out = np.empty((-(-len(flat) // TILE), width + 1, TILE), np.float32)
    blocks, scales = _blocks(flat), _blocks(candidates.T)
    _group_search(width)(blocks.ctypes.data, scales.ctypes.data, out.ctypes.data, len(out))
    found = out.transpose(0, 2, 1).reshape(-1, width + 1)[: len(flat)].astype(np.int8)
    scale = candidates[found[:, width], np.arange(len(flat))]
    return found[:, :width].reshape(groups.shape), scale.reshape(groups.shape[:-1])


def _blocks(rows: NDArray[Any]) -> Array:
    """Rows (n, width) as (n / 16, width, 16): those of a block side by side, padded with zeros."""
    padded = np.zeros((round_up(len(rows), TILE), rows.shape[1]), np.float32)
    padded[: len(rows)] = rows
    return np.ascontiguousarray(padded.reshape(-1, TILE, rows.shape[1]).transpose(0, 2, 1))


@functools.cache
def _group_search(width: int) -> Callable[[int, int, int, int], int]:
    """Compiled when int4 weights are first prepared, then kept."""
    from laplm.model.engine import group_search
    from laplm.native import isa, jit

    build = functools.partial(group_search.build, width, len(_LANDINGS))
    spec = f"group search {width} {len(_LANDINGS)}"
    return jit.load(isa.choose(), spec, build, sources=Path(__file__).parent)
