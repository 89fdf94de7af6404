"""The safetensors format: tensors by name in one file, mapped rather than read.

A file starts with a table of what lies where. The table is checked against the file's length
before anything is believed, and each tensor is then mapped when it is asked for. It is parsed
here rather than by the safetensors library, because the library copies what it reads and NumPy
has no bf16.

Format: https://huggingface.co/docs/safetensors/index#format
"""

from __future__ import annotations

import contextlib
import json
import math
import mmap
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn, TypeGuard

import numpy as np
from numpy.typing import NDArray

from laplm.errors import ModelFormatError, WriteError, shown, shown_name
from laplm.files import ANOTHER_DIRECTORY, BLOCK, write_file

Array = NDArray[np.float32]
Entry = tuple[str, str, Sequence[int], Callable[[], NDArray[Any]]]
"""What to write: name, dtype code, shape, and a function that gives the array in its turn."""

# Bits of one number, by the format's dtype codes.
_BITS = dict.fromkeys(("F64", "I64", "U64", "C64"), 64)
_BITS |= dict.fromkeys(("F32", "I32", "U32"), 32)
_BITS |= dict.fromkeys(("F16", "BF16", "I16", "U16"), 16)
_BITS |= dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8)
_BITS |= dict.fromkeys(("F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8)
_BITS |= {"F6_E2M3": 6, "F6_E3M2": 6, "F4": 4}
# The formats of the model weights that are read, and what NumPy has for each (bf16: raw bits).
_WEIGHTS = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
# The formats that are mapped as they are.
_NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BOOL": "|b1"}
_NUMPY |= {"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "<i1"}
_NUMPY |= {"U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "<u1"}
# The safetensors library refuses longer tables too: a broken length is then not believed.
_MAX_TABLE = 100_000_000
_MAX_SIZE = 1 << 63  # the format's sizes have 64 bits
_MAX_DIMENSIONS = 64  # NumPy's own limit
_ALIGNMENT = 64  # bytes: a cache line, and the widest vector register
_PADDING = "__padding__."
_CHECKSUM = "__checksum__.xxh3_128"  # of all bytes before it; the last of a file's tensors
_CHECKSUM_SIZE = 16
_AGAIN = "the file is damaged or incomplete; fetch or copy it again"


def refuse(path: Path, cause: str) -> NoReturn:
    """Raise ``ModelFormatError`` that names the file and the cause."""
    raise ModelFormatError(f"{path}: {cause}")


@dataclass(frozen=True)
class StoredTensor:
    """One tensor as it lies in a file: ``n_bytes`` bytes from ``offset`` on."""

    path: Path
    dtype: str  # the format's code: "F32", "BF16", ...
    shape: tuple[int, ...]
    offset: int
    n_bytes: int

    @property
    def mapped(self) -> bool:
        """Whether ``array()`` is the file's own memory rather than a copy."""
        # Numbers that do not lie at a multiple of their size are slow or a trap: copied.
        return self.dtype == "F32" and self.offset % 4 == 0

    def array(self) -> Array:
        """The tensor as fp32, in its shape: mapped where it is fp32, else widened.

        Raises:
            ModelFormatError: the file changed since it was opened.
        """
        raw = self._raw()
        return raw if self.mapped else _widen(raw, self.dtype)

    def rows(self) -> Callable[[NDArray[np.int64]], Array]:
        """A function from row numbers (T,) to these rows as fp32, (T, C), read from the file.

        Raises:
            ModelFormatError: the file changed since it was opened.
        """
        raw, dtype = self._raw(), self.dtype
        return lambda numbers: _widen(raw[numbers], dtype)

    def _raw(self) -> NDArray[Any]:
        dtype = _WEIGHTS[self.dtype]
        if self.n_bytes == 0:
            return np.zeros(self.shape, dtype)
        try:
            # One mapping for each tensor: its pages leave memory when the caller lets go of it.
            raw = np.memmap(self.path, dtype, "r", self.offset, self.shape)
        except (OSError, ValueError) as error:
            refuse(self.path, f"changed while it was in use ({error}); run the command again")
        return raw.view(np.ndarray)


def _widen(raw: NDArray[Any], dtype: str) -> Array:
    return widen_bf16(raw) if dtype == "BF16" else raw.astype(np.float32)


def widen_bf16(bits: NDArray[np.uint16]) -> Array:
    """bf16 numbers, given as their raw 16 bits, as fp32 of the same shape. Exact."""
    wide = bits.astype(np.uint32)
    wide <<= np.uint32(16)
    out: Array = wide.view(np.float32)
    return out


def narrow_bf16(values: Array) -> NDArray[np.uint16]:
    """fp32 numbers rounded to the nearest bf16 (ties to even), as their raw 16 bits."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    rounded = (bits + (np.uint32(0x7FFF) + odd)) >> np.uint32(16)
    # The sum would carry a NaN with a full mantissa over to another number.
    nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    out: NDArray[np.uint16] = np.where(nan, np.uint32(0x7FC0), rounded).astype(np.uint16)
    return out


def check_finite(name: str, array: NDArray[Any]) -> None:
    """Refuse a tensor that holds NaN or infinity.

    Raises:
        ModelFormatError: names the tensor and the first bad place in it.
    """
    # A sum is finite only when every number is; only one that is not needs the closer look.
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(array.sum(dtype=np.float32)):
            return
    bad = ~np.isfinite(array)
    if bad.any():
        where = [int(i) for i in np.unravel_index(int(bad.argmax()), array.shape)]
        raise ModelFormatError(
            f"tensor {name} holds {int(bad.sum()):,} numbers that are NaN or infinite, the first "
            f"at {where}; the model was damaged in training or copying, use another copy of it"
        )


# --- reading ----------------------------------------------------------------------------------


def read_table(path: Path) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """Read and check the table of a safetensors file: tensors by name, and the metadata.

    Raises:
        ModelFormatError: the file cannot be read, is cut short, or is not what its table says.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if len(start) < 8 or length > min(_MAX_TABLE, size - 8):
                if (start + file.read(32)).startswith(b"version https://git-lfs"):
                    refuse(path, "a Git LFS pointer, not the weights; run `git lfs pull`")
                if len(start) < 8:
                    refuse(path, f"only {size} bytes long; {_AGAIN}")
                refuse(
                    path,
                    f"it announces a table of {length:,} bytes, but the file is {size:,} bytes "
                    f"long; {_AGAIN}",
                )
            raw = file.read(length)
    except OSError as error:
        refuse(path, f"cannot be read ({error.strerror})")
    try:
        table = json.loads(raw.decode("utf-8"), object_pairs_hook=_refuse_duplicates)
        if not isinstance(table, dict):
            raise ValueError("not a table of tensors by name")
    except (ValueError, RecursionError) as error:
        refuse(path, f"its table is not readable ({json_problem(error)}); {_AGAIN}")
    metadata = table.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        refuse(path, f"its __metadata__ is not a table of texts; {_AGAIN}")
    data = 8 + length
    tensors = {name: _tensor(path, data, name, entry) for name, entry in table.items()}
    end = data
    for name, tensor in sorted(tensors.items(), key=lambda kv: (kv[1].offset, kv[1].n_bytes)):
        if tensor.offset != end:
            what = "overlaps the one before it" if tensor.offset < end else "leaves a gap before it"
            where = f"tensor {shown_name(name)} {what} (byte {tensor.offset - data:,})"
            refuse(path, f"{where}; {_AGAIN}")
        end += tensor.n_bytes
    if size != end:
        cause = "cut short" if size < end else "too long"
        refuse(path, f"{cause}: {size:,} bytes, but its table describes {end:,}; {_AGAIN}")
    return tensors, metadata


def json_problem(error: Exception) -> str:
    """What is wrong with a text that ``json.loads`` does not take, in a few words."""
    if isinstance(error, RecursionError):
        return "levels within levels without end"
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start:,} is no UTF-8"
    # Python's own words on numbers of more than 4,300 digits tell how to change Python.
    return "a number of thousands of digits" if "digits" in str(error) else str(error)


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a name occurs twice")
    return values


def _tensor(path: Path, data: int, name: str, entry: Any) -> StoredTensor:
    tensor = f"tensor {shown_name(name)}"
    if not isinstance(entry, dict):
        refuse(path, f"{tensor} has no description; {_AGAIN}")
    dtype, shape, place = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in _BITS:
        refuse(path, f"{tensor} has the unknown number format {shown(dtype)}")
    if (
        not _whole(shape)
        or not _whole(place)
        or len(place) != 2
        or place[0] > place[1]
        or (len(shape) > _MAX_DIMENSIONS)
    ):
        impossible = f"an impossible shape {shown(shape)} or place {shown(place)}"
        refuse(path, f"{tensor} has {impossible}; {_AGAIN}")
    n_bytes = place[1] - place[0]
    if n_bytes * 8 != math.prod(shape) * _BITS[dtype]:
        refuse(path, f"{tensor}: {shown(shape)} in {dtype} is not {n_bytes:,} bytes; {_AGAIN}")
    return StoredTensor(path, dtype, tuple(shape), data + place[0], n_bytes)


def _whole(values: Any) -> TypeGuard[list[int]]:
    # type() rather than isinstance(): JSON's true and false are no sizes.
    return isinstance(values, list) and all(type(v) is int and 0 <= v < _MAX_SIZE for v in values)


def map_safetensors(
    path: Path, *, checksum: bool = False
) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """The arrays of a safetensors file as read-only views into one memory map, and its metadata.

    Args:
        path: The file.
        checksum: Read all of it, and compare it with the checksum that ``write_safetensors`` put
            at its end.

    Raises:
        ModelFormatError: the file is damaged, or holds a number format that NumPy does not have.
    """
    tensors, metadata = read_table(path)
    try:
        with path.open("rb") as file:
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        refuse(path, f"cannot be mapped ({error})")
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # a system without them
            memory.madvise(mmap.MADV_HUGEPAGE)  # what is read from the disk comes in large pages
    whole = np.frombuffer(memory, np.uint8)
    if checksum:
        _check(path, whole, tensors.get(_CHECKSUM))
    arrays: dict[str, NDArray[Any]] = {}
    for name, tensor in tensors.items():
        if name.startswith(_PADDING) or name == _CHECKSUM:
            continue
        if tensor.dtype not in _NUMPY:
            stored = f"tensor {shown_name(name)} is stored as {tensor.dtype}"
            refuse(path, f"{stored}, which NumPy cannot map")
        raw = whole[tensor.offset : tensor.offset + tensor.n_bytes]
        arrays[name] = raw.view(_NUMPY[tensor.dtype]).reshape(tensor.shape)
    return arrays, metadata


def _check(path: Path, whole: NDArray[np.uint8], stored: StoredTensor | None) -> None:
    import xxhash

    end = len(whole) - _CHECKSUM_SIZE
    if stored is None or (stored.offset, stored.n_bytes) != (end, _CHECKSUM_SIZE):
        refuse(path, f"has no checksum; {_AGAIN}")
    if xxhash.xxh3_128_digest(whole[:end].data) != whole[end:].tobytes():
        refuse(path, f"its contents do not match its checksum; {_AGAIN}")


# --- writing ----------------------------------------------------------------------------------


def write_safetensors(
    path: Path,
    entries: Iterable[Entry],
    metadata: Mapping[str, str],
    *,
    align: bool = True,
    checksum: bool = False,
    advice: str = ANOTHER_DIRECTORY,
    error: type[WriteError] = WriteError,
) -> None:
    """Write a safetensors file, holding one array at a time.

    The file takes its name only when it is whole and on the disk. After a failure there is what
    was there before, and nothing half-written.

    Args:
        path: The file; its directory is made when it is not there.
        entries: What to write, in this order. Arrays of "BF16" are given as raw 16 bits (uint16).
        metadata: Texts by name, kept in the file.
        align: Start every tensor at a multiple of 64 bytes, with entries of padding in between
            that ``map_safetensors`` passes over. The first one always starts there.
        checksum: Put a checksum of the whole file at its end, for ``map_safetensors`` to compare.
        advice: What to do where it cannot be written; ends the error's text.
        error: The kind of error that is raised.

    Raises:
        WriteError: the disk is full or cannot be written.
    """
    table: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    plan: list[tuple[str, str, tuple[int, ...], Callable[[], NDArray[Any]] | None]] = []
    end = 0

    def add(name: str, code: str, shape: Sequence[int]) -> None:
        nonlocal end
        begin, end = end, end + math.prod(shape) * _BITS[code] // 8
        table[name] = {"dtype": code, "shape": list(shape), "data_offsets": [begin, end]}

    for name, code, shape, make in entries:
        if name in table or name.startswith("__"):
            raise ValueError(f"tensor name {name!r} is given twice or is reserved")
        if align and end % _ALIGNMENT:
            gap = (-end % _ALIGNMENT,)
            plan.append(("", "U8", gap, None))
            add(f"{_PADDING}{len(plan)}", "U8", gap)
        plan.append((name, code, tuple(shape), make))
        add(name, code, shape)

    if checksum:
        add(_CHECKSUM, "U8", (_CHECKSUM_SIZE,))
    header = json.dumps(table, separators=(",", ":")).encode()
    header += b" " * (-(8 + len(header)) % _ALIGNMENT)

    def write_to(file: IO[bytes]) -> None:
        write, digest = _write_in_blocks(file), None
        if checksum:
            write, digest = _hashing_writer(write)
        write(len(header).to_bytes(8, "little") + header)
        for name, code, shape, maker in plan:
            if maker is None:
                write(bytes(shape[0]))
                continue
            array = maker()
            dtype = np.dtype(_NUMPY["U16" if code == "BF16" else code])
            if array.shape != shape or array.dtype != dtype:
                given = f"{array.dtype} {array.shape}"
                raise ValueError(f"{name}: announced as {dtype} {shape}, given as {given}")
            write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        if digest is not None:
            file.write(digest())

    write_file(path, write_to, advice=advice, size=8 + len(header) + end, error=error)


def _write_in_blocks(file: IO[bytes]) -> Callable[[Any], object]:
    """A function that writes to a file whose buffer is a block.

    Each block reaches the system as a whole, so that it can keep it in one large page: what is
    mapped later is then found in fewer steps.
    """

    def write(data: Any) -> None:
        rest = memoryview(data)
        while rest:
            room = BLOCK - file.tell() % BLOCK
            file.write(rest[:room])
            rest = rest[room:]

    return write


def _hashing_writer(
    write_data: Callable[[Any], object],
) -> tuple[Callable[[Any], object], Callable[[], bytes]]:
    """A function that writes with another, and one that gives the checksum of what it wrote."""
    import xxhash

    state = xxhash.xxh3_128()

    def write(data: Any) -> None:
        state.update(data)
        write_data(data)

    return write, state.digest
