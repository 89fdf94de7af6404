"""Prepared weights: what a precision needs, packed for the kernels, written once, then mapped.

Embedding rows are not copied: they are looked up in the model's own file.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from laplm import home
from laplm.errors import CacheError, ModelFormatError, warn
from laplm.model.engine.kernel_args import GROUP, TILE
from laplm.model.engine.matrices import Matrix, matrices, reader
from laplm.model.engine.packing import Rows, pack_rows, round_up, shapes
from laplm.model.engine.quantize import Precision
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

FORMAT = 2  # changes when a layout does: older files are made again
_NUMPY = {"F32": np.float32, "F16": np.float16, "U16": np.uint16, "U8": np.uint8}
_AT_A_TIME = TILE * 64  # some thousand rows: little memory, whatever the model


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
    kinds = {
        name: (np.dtype(_NUMPY[code]), tuple(shape))
        for name, code, shape, _ in _entries(checkpoint, precision)
    }
    for _ in range(3):  # what is written here may be taken away by a process with newer files
        try:
            if os.path.lexists(file):
                return _map(file, made_of, kinds)
        except ModelFormatError as error:
            cause = str(error).removeprefix(f"{file}: ").partition(";")[0]
            warn(f"prepared weights {file}: {cause}; making them again")
        _remove_outdated(directory, stem, keep=file)
        home.clear_the_way(file)
        _write(checkpoint, precision, file, made_of, progress)
    raise CacheError(
        f"{file} is not read as it was written: the disk may be failing; set LAPLM_HOME to a "
        "directory on another one"
    )


def _map(
    file: Path, made_of: Mapping[str, str], kinds: Mapping[str, tuple[Any, tuple[int, ...]]]
) -> dict[str, NDArray[Any]]:
    """The arrays of a file of ours; ModelFormatError when it is not whole, or not of this model."""
    try:
        if not file.is_file():  # opening a pipe would wait for ever
            refuse(file, "not a file")
    except OSError as error:
        refuse(file, f"cannot be read ({error.strerror})")
    arrays, metadata = map_safetensors(file, checksum=True)
    if metadata != made_of:
        refuse(file, "made of another model")
    if {name: (array.dtype, array.shape) for name, array in arrays.items()} != kinds:
        refuse(file, "made by another version of laplm")
    return arrays


def _remove_outdated(directory: Path, stem: str, keep: Path) -> None:
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
    entries = _entries(checkpoint, precision)
    return sum(np.dtype(_NUMPY[code]).itemsize * math.prod(shape) for _, code, shape, _ in entries)


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


def _entries(checkpoint: Checkpoint, precision: Precision) -> Iterator[Entry]:
    # Big arrays first: each one's length is a multiple of 64 bytes, and stays aligned so.
    for matrix in matrices(checkpoint, precision):
        yield from _matrix_entries(checkpoint, matrix)
    for spec in tensor_specs(checkpoint.config).values():
        if len(spec.shape) == 1:
            yield _vector_entry(checkpoint, spec)


def _vector_entry(checkpoint: Checkpoint, spec: TensorSpec) -> Entry:
    # Padded to whole groups, so that the kernels need not stop in the middle of a vector.
    size = round_up(spec.shape[0], GROUP)

    def make() -> NDArray[Any]:
        values = checkpoint.tensor(spec.name)
        check_finite(spec.name, values)
        out = np.zeros(size, np.float32)
        out[: len(values)] = values
        return out

    return spec.name, "F32", (size,), make


def _matrix_entries(checkpoint: Checkpoint, matrix: Matrix) -> Iterator[Entry]:
    made: list[NDArray[Any]] = []  # the scales come with the weights, and are written next
    (code, shape), (scale_code, scale_shape) = shapes(matrix.form, matrix.n_out, matrix.n_in)

    def make() -> NDArray[Any]:
        packed = np.empty(shape, _NUMPY[code])
        scales = np.empty(scale_shape, _NUMPY[scale_code])
        by_tile = scales.reshape(len(packed), -1) if scales.size else scales
        for tiles, part, part_scales in _packed(checkpoint, matrix):
            packed[tiles] = part
            if scales.size:
                by_tile[tiles] = part_scales.reshape(len(part), -1)
        made.append(scales)
        return packed

    yield f"{matrix.name}.packed", code, shape, make
    yield f"{matrix.name}.scales", scale_code, scale_shape, made.pop


def _packed(
    checkpoint: Checkpoint, matrix: Matrix
) -> Iterator[tuple[slice, NDArray[Any], NDArray[Any]]]:
    """Some tiles of a matrix at a time: which, their weights and scales."""
    readers = [reader(checkpoint, source, matrix.form) for source in matrix.sources]
    counts = [len(source.rows) for source in matrix.sources]
    if matrix.alternate:
        for i, (read, count) in enumerate(zip(readers, counts, strict=True)):
            for start in range(0, count, _AT_A_TIME):
                part = pack_rows(matrix.form, read(start, min(start + _AT_A_TIME, count)))
                first = start // TILE * 2 + i
                yield slice(first, first + 2 * len(part[0]), 2), *part
        return
    ends = [sum(counts[: i + 1]) for i in range(len(counts))]
    for start in range(0, ends[-1], _AT_A_TIME):
        stop = min(start + _AT_A_TIME, ends[-1])
        some = [
            read(max(0, start - end + count), min(count, stop - end + count))
            for read, count, end in zip(readers, counts, ends, strict=True)
            if start < end and stop > end - count
        ]
        part = pack_rows(matrix.form, _joined(some))
        yield slice(start // TILE, start // TILE + len(part[0])), *part


def _joined(parts: list[Rows]) -> Rows:
    """Rows one after the other."""
    if len(parts) == 1:
        return parts[0]
    fields = {name: [getattr(part, name) for part in parts] for name in Rows.__dataclass_fields__}
    joined: dict[str, Any] = {
        name: None if each[0] is None else np.concatenate(each) for name, each in fields.items()
    }
    return Rows(**joined)
