"""Prepared weights: what a precision needs, packed for the kernels, written once, then mapped.

Every linear layer is cut into tiles of 16 output rows, interleaved (``tiles.py`` gives the
layouts). int8 has one scale a row; int4 has one a row and 32 inputs, chosen to make the squared
error least. Embedding rows are not copied: they are looked up in the model's own file.

Rows are padded to 16 and inputs to 32 with zeros, so that any GPT-2 shape runs.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from laplm import home
from laplm.errors import CacheError, ModelFormatError, warn
from laplm.model.engine.kernel_args import GROUP, TILE
from laplm.model.families import tensor_specs
from laplm.model.files.checkpoint import Checkpoint
from laplm.model.files.safetensors_file import (
    Entry,
    check_finite,
    map_safetensors,
    refuse,
    write_safetensors,
)
from laplm.model.tensors import TensorSpec
from laplm.progress import Progress

Precision = Literal["fp32", "int8", "int4"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8", "int4")
Array = NDArray[np.float32]

FORMAT = 2  # changes when a layout does: older files are made again
HEAD = "head"  # the name of the packed output matrix


def round_up(n: int, multiple: int) -> int:
    """``n`` or the next multiple."""
    return -(-n // multiple) * multiple


def head_precision(precision: Precision) -> Precision:
    """How the output matrix is stored: the next token is decided there, so never below int8."""
    return "int8" if precision == "int4" else precision


def pack(rows: Array, precision: Precision) -> tuple[NDArray[Any], NDArray[Any]]:
    """A linear layer (out, in) to tiles and scales.

    fp32: tiles (out / 16, in, 16) and no scales; int8: (out / 16, in / 4, 16, 4) unsigned and
    (out,) float32; int4: (out / 16, in / 32, 4, 16, 4) and (out / 16, in / 32, 16) float16. out
    and in are the padded sizes.
    """
    n_out, n_in = rows.shape
    padded = np.zeros((round_up(n_out, TILE), round_up(n_in, GROUP)), dtype=np.float32)
    padded[:n_out, :n_in] = rows
    tiles = len(padded) // TILE
    packed: NDArray[Any]
    if precision == "fp32":
        packed = padded.reshape(tiles, TILE, -1).transpose(0, 2, 1)
        return np.ascontiguousarray(packed), np.zeros(0, np.float32)
    if precision == "int8":
        scale = np.abs(padded).max(axis=1) / np.float32(127)
        safe = np.where(scale == 0, np.float32(1), scale)
        unsigned = (np.rint(padded / safe[:, None]) + 128).astype(np.uint8)
        packed = unsigned.reshape(tiles, TILE, -1, 4).transpose(0, 2, 1, 3)
        return np.ascontiguousarray(packed), scale
    steps, scales = quantize_groups(padded.reshape(len(padded), -1, GROUP))
    nibbles = (steps + 8).astype(np.uint8).reshape(tiles, TILE, -1, 2, 4, 4)
    # Inputs 0-15 of a group go to the low half of a byte, 16-31 to the high half.
    packed = (nibbles[:, :, :, 0] | (nibbles[:, :, :, 1] << 4)).transpose(0, 2, 3, 1, 4)
    return np.ascontiguousarray(packed), np.ascontiguousarray(
        scales.reshape(tiles, TILE, -1).transpose(0, 2, 1)
    )


def unpack(
    packed: NDArray[Any], scales: NDArray[Any], precision: Precision, n_out: int, n_in: int
) -> Array:
    """What the kernels compute with: the inverse of ``pack``, (out, in) float32."""
    if precision == "fp32":
        rows = packed.transpose(0, 2, 1)
    elif precision == "int8":
        signed = packed.transpose(0, 2, 1, 3).astype(np.float32) - 128
        rows = signed.reshape(-1, packed.shape[1] * 4) * scales[:, None]
    else:
        halves = np.stack([packed & 15, packed >> 4], axis=2)  # (tiles, groups, 2, 4, 16, 4)
        steps = halves.transpose(0, 4, 1, 2, 3, 5).astype(np.float32) - 8
        steps = steps.reshape(len(packed), TILE, -1, GROUP)
        rows = steps * scales.transpose(0, 2, 1).astype(np.float32)[..., None]
    out: Array = np.ascontiguousarray(rows).reshape(len(packed) * TILE, -1)[:n_out, :n_in]
    return out


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


def prepared(
    checkpoint: Checkpoint, precision: Precision, progress: Progress | None = None
) -> dict[str, NDArray[Any]]:
    """The packed weights of a model, memory-mapped; made first when they are not on disk.

    The file is read once and compared with its checksum each time, at the speed of memory when
    the system still holds it. One that is damaged, or is something else, is made again.

    Raises:
        ModelFormatError: a weight is NaN or infinite.
        CacheError: there is no room, or the cache directory cannot be read and written.
    """
    directory = home.directory("prepared")
    place = hashlib.sha256(str(checkpoint.path.resolve()).encode()).hexdigest()[:12]
    stem = f"{checkpoint.path.name[:40]}-{place}-{precision}-"
    file = directory / f"{stem}{checkpoint.fingerprint[:16]}-v{FORMAT}.safetensors"
    made_of = {"format": str(FORMAT), "precision": precision, "model": checkpoint.fingerprint}
    for _ in range(3):  # what is written here may be taken away by a process with newer files
        try:
            if os.path.lexists(file):
                return _map(file, made_of)
        except ModelFormatError as error:
            cause = str(error).removeprefix(f"{file}: ").partition(";")[0]
            warn(f"prepared weights {file}: {cause}; making them again")
        _clean(directory, stem, keep=file)
        home.clear_the_way(file)
        _write(checkpoint, precision, file, made_of, progress)
    raise CacheError(
        f"{file} is not read as it was written: the disk may be failing; set LAPLM_HOME to a "
        "directory on another one"
    )


def _map(file: Path, made_of: Mapping[str, str]) -> dict[str, NDArray[Any]]:
    """The arrays of a file of ours; ModelFormatError when it is not whole, or not of this model."""
    try:
        if not file.is_file():  # opening a pipe would wait for ever
            refuse(file, "not a file")
    except OSError as error:
        refuse(file, f"cannot be read ({error.strerror})")
    arrays, metadata = map_safetensors(file, checksum=True)
    if metadata != made_of:
        refuse(file, "made of another model")
    return arrays


def _clean(directory: Path, stem: str, keep: Path) -> None:
    """Remove what was made of older files of a model, and what a process that died left."""
    an_hour_ago = time.time() - 3600
    for stale in directory.glob(f"{_escaped(stem)}*.safetensors"):
        if stale != keep:
            with contextlib.suppress(OSError):  # in use (Windows), or no file
                stale.unlink()
    for left in directory.glob(f".{_escaped(stem)}*.tmp"):
        with contextlib.suppress(OSError):
            if left.stat().st_mtime < an_hour_ago:
                left.unlink()


def packed_bytes(checkpoint: Checkpoint, precision: Precision) -> int:
    """Memory of a model's packed weights, known before they are made."""
    sizes = {"F32": 4, "F16": 2, "U8": 1}
    entries = _entries(checkpoint, precision)
    return sum(sizes[code] * math.prod(shape) for _, code, shape, _ in entries)


def _escaped(text: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in text)


def _write(
    checkpoint: Checkpoint,
    precision: Precision,
    file: Path,
    made_of: Mapping[str, str],
    progress: Progress | None,
) -> None:
    entries = list(_entries(checkpoint, precision))
    total = len(entries)

    def counted() -> Iterator[Entry]:
        for i, (name, code, shape, make) in enumerate(entries):

            def array(i: int = i, make: Callable[[], NDArray[Any]] = make) -> NDArray[Any]:
                if progress:
                    progress("weights", i, total)
                return make()

            yield name, code, shape, array

    write_safetensors(
        file, list(counted()), made_of, checksum=True, advice=home.ADVICE, error=CacheError
    )
    if progress:
        progress("weights", total, total)


_CODES = {"float32": "F32", "float16": "F16", "uint8": "U8"}


def _shapes(n_out: int, n_in: int, precision: Precision) -> tuple[tuple[str, Any], tuple[str, Any]]:
    """The dtype codes and shapes of ``pack``'s two arrays."""
    tiles, padded_in = round_up(n_out, TILE) // TILE, round_up(n_in, GROUP)
    if precision == "fp32":
        return ("F32", (tiles, padded_in, TILE)), ("F32", (0,))
    if precision == "int8":
        return ("U8", (tiles, padded_in // 4, TILE, 4)), ("F32", (tiles * TILE,))
    groups = padded_in // GROUP
    return ("U8", (tiles, groups, 4, TILE, 4)), ("F16", (tiles, groups, TILE))


def _entries(checkpoint: Checkpoint, precision: Precision) -> Iterator[Entry]:
    config = checkpoint.config

    def vector(spec: TensorSpec) -> Entry:
        # Padded to whole groups, so that the kernels need not stop in the middle of a vector.
        size = round_up(spec.shape[0], GROUP)

        def make() -> NDArray[Any]:
            values = checkpoint.tensor(spec.name)
            check_finite(spec.name, values)
            out = np.zeros(size, np.float32)
            out[: len(values)] = values
            return out

        return spec.name, "F32", (size,), make

    def matrix(name: str, spec: TensorSpec, how: Precision) -> Iterator[Entry]:
        made: list[NDArray[Any]] = []  # the scales come with the weights, and are written next
        out_first = spec.layout == "out_in"
        n_out, n_in = spec.shape if out_first else spec.shape[::-1]
        (code, shape), (scale_code, scale_shape) = _shapes(n_out, n_in, how)

        def make() -> NDArray[Any]:
            values = checkpoint.tensor(spec.name)
            check_finite(spec.name, values)
            packed = np.empty(shape, {"F32": np.float32, "U8": np.uint8}[code])
            scales = np.empty(scale_shape, {"F32": np.float32, "F16": np.float16}[scale_code])
            step = TILE * 64  # some thousand rows at a time: little memory, whatever the model
            for start in range(0, n_out, step):
                some = slice(start, start + step)
                rows = values[some] if out_first else values[:, some].T
                part, part_scales = pack(rows, how)
                packed[start // TILE : start // TILE + len(part)] = part
                if how == "int8":
                    scales[start : start + len(part_scales)] = part_scales
                elif how == "int4":
                    scales[start // TILE : start // TILE + len(part)] = part_scales
            made.append(scales)
            return packed

        yield f"{name}.packed", code, shape, make
        yield f"{name}.scales", scale_code, scale_shape, made.pop

    # Big arrays first: each one's length is a multiple of 64 bytes, and stays aligned so.
    specs = tensor_specs(config)
    for spec in specs.values():
        if spec.is_linear:
            yield from matrix(spec.stem, spec, precision)
    head = next(s for s in specs.values() if s.role == ("embed" if config.tied else "unembed"))
    yield from matrix(HEAD, head, head_precision(precision))
    for spec in specs.values():
        if len(spec.shape) == 1:
            yield vector(spec)
