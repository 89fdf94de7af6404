"""The GGUF format: metadata and tensors by name in one file, mapped rather than read.

A file starts with a table of settings and one of what lies where. Both are checked against the
file's length before anything is believed, and each tensor is then mapped when it is asked for.
They are parsed here rather than by the gguf package, which takes seconds to walk through a
vocabulary, loops without end over counts that are damaged, and checks nothing.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import dataclasses
import math
import mmap
import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from laplm.errors import ModelFormatError, shown_name
from laplm.model.files.ggml_types import FLOATS, GGML_TYPES, Array, GGMLType, as_records, dequantise
from laplm.model.files.safetensors_file import refuse, widen_bf16

_MAGIC = b"GGUF"
_NEWEST = 3
_AGAIN = "the file is damaged or incomplete; fetch or copy it again"
_MAX_DIMENSIONS = 4  # of ggml's tensors
_MAX_ALIGNMENT = 1 << 20
_MANY = 1 << 20  # texts of a list; no vocabulary has as many
# More than any setting has. A file may announce as much as it is long, which costs nothing on the
# disk where it holds zeros alone, and many times that in memory.
_MAX_ITEMS = 1 << 24
_MAX_TEXT = 1 << 28
# Codes of the types of settings, and what NumPy has for each; texts and lists come apart.
_TEXT, _LIST = 8, 9
_NUMBERS = {
    0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8",
    11: "<i8", 12: "<f8",
}  # fmt: skip
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")


@dataclasses.dataclass(frozen=True)
class GGUFTensor:
    """One tensor as it lies in a file, perhaps with its rows in another order.

    Attributes:
        path: the file.
        ggml_type: how its numbers are stored, such as "Q4_1".
        stored_shape: (outputs, inputs), or (C,); the last dimension lies together.
        offset: the byte where it begins.
        n_bytes: its length.
        row_order: which row of the file (of a vector: which number) each one of the tensor is; None
            for the file's own order.
        transposed: whether it is read as (inputs, outputs).
        plus: added to the numbers that are read.
    """

    path: Path
    ggml_type: str
    stored_shape: tuple[int, ...]
    offset: int
    n_bytes: int
    row_order: NDArray[np.int64] | None = None
    transposed: bool = False
    plus: float = 0.0

    @property
    def dtype(self) -> str:
        """The same as ``ggml_type``: what other files call "F32", "F16" and "BF16" is so here."""
        return self.ggml_type

    @property
    def shape(self) -> tuple[int, ...]:
        """As ``array()`` has it."""
        return self.stored_shape[::-1] if self.transposed else self.stored_shape

    @property
    def mapped(self) -> bool:
        """Whether ``array()`` is the file's own memory rather than a copy."""
        as_it_is = self.row_order is None and not self.transposed and not self.plus
        return self.ggml_type == "F32" and as_it_is and self.offset % 4 == 0

    def blocks(self) -> NDArray[np.uint8]:
        """The bytes of each row as they are stored: (outputs, bytes of a row).

        A vector of plain numbers has a row for each. They are mapped where the order of the rows
        is the file's.

        Raises:
            ModelFormatError: the file changed since it was opened.
        """
        raw = self._raw()
        return raw if self.row_order is None else raw[self.row_order]

    def array(self) -> Array:
        """The tensor as fp32, in its shape: mapped where it is fp32 as it is, else widened.

        Raises:
            ModelFormatError: the file changed since it was opened.
        """
        records = _records(self.blocks(), self.ggml_type)
        array = _widen(records, self.ggml_type).reshape(self.stored_shape)
        if self.plus:
            array = array + np.float32(self.plus)
        return np.ascontiguousarray(array.T) if self.transposed else array

    def rows(self) -> Callable[[NDArray[np.int64]], Array]:
        """A function from row numbers (T,) to these rows as fp32, (T, C), read from the file.

        Raises:
            ModelFormatError: the file changed since it was opened.
        """
        if self.transposed or self.plus:
            whole = self.array()
            return lambda numbers: whole[numbers]
        order, ggml_type = self.row_order, self.ggml_type
        # Here rather than with each token's row, which costs some hundredths of a millisecond.
        records = _records(self._raw(), ggml_type)
        return lambda numbers: _widen(
            records[numbers if order is None else order[numbers]], ggml_type
        )

    def _raw(self) -> NDArray[np.uint8]:
        """The file's rows, (outputs, bytes of a row), mapped."""
        is_vector = len(self.stored_shape) == 1 and self.ggml_type in FLOATS
        n_rows = math.prod(self.stored_shape if is_vector else self.stored_shape[:-1])
        try:
            raw = np.memmap(self.path, np.uint8, "r", self.offset, (self.n_bytes,))
        except (OSError, ValueError) as error:
            refuse(self.path, f"changed while it was in use ({error}); run the command again")
        return raw.view(np.ndarray).reshape(n_rows, -1)


def _records(rows: NDArray[np.uint8], ggml_type: str) -> NDArray[Any]:
    """Rows of bytes, of a quantised type as its records."""
    return rows if ggml_type in FLOATS else as_records(rows, ggml_type)


def _widen(rows: NDArray[Any], ggml_type: str) -> Array:
    """Rows of bytes, or of records, as the numbers that they stand for: to (..., C)."""
    if ggml_type not in FLOATS:
        return dequantise(rows, ggml_type)
    numbers = np.ascontiguousarray(rows).view(FLOATS[ggml_type])
    return widen_bf16(numbers) if ggml_type == "BF16" else numbers.astype(np.float32, copy=False)


@dataclasses.dataclass(frozen=True)
class GGUFFile:
    """What a file says of itself, and where its tensors lie.

    Attributes:
        path: the file.
        metadata: its settings by their keys: numbers, texts, lists of texts, arrays of numbers.
        tensors: by llama.cpp's names, in the file's order.
    """

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, GGUFTensor]


def is_gguf(path: Path) -> bool:
    """Whether a file is one of these, by its first bytes, or by its name.

    Raises:
        OSError: it cannot be read.
    """
    if path.suffix.lower() == ".gguf":
        return True
    with path.open("rb") as file:
        return file.read(4) == _MAGIC


def read_gguf(path: Path) -> GGUFFile:
    """Read and check the tables of a file; no numbers of its tensors are read.

    Raises:
        ModelFormatError: the file cannot be read, is cut short, is of another version, or is not
            what its tables say.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(64)
            _check_start(path, start, size)
            # Only the tables' pages are touched, however large the file is.
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Header(path, data, size).read()
    except OSError as error:
        refuse(path, f"cannot be read ({error.strerror})")


def _check_start(path: Path, start: bytes, size: int) -> None:
    if start[:4] != _MAGIC:
        if start.startswith(b"version https://git-lfs"):
            refuse(path, "a Git LFS pointer, not the model; run `git lfs pull`")
        if start[:4] in (b"ggml", b"ggmf", b"ggjt", b"lmgg", b"fmgg", b"tjgg"):
            refuse(path, "a GGML file, which came before GGUF in 2023; get the model as GGUF")
        refuse(path, f"not a GGUF file, although its name says so; {_AGAIN}")
    if size < 24:
        refuse(path, f"only {size} bytes long; {_AGAIN}")
    (version,) = _U32.unpack_from(start, 4)
    if version & 0xFFFF == 0 and version:
        refuse(path, "of big-endian numbers, for other machines; get the little-endian file")
    if version == 1:
        refuse(path, "GGUF version 1, of August 2023; get a newer file of the model")
    if version == 0:
        refuse(path, f"GGUF version 0, which there is not; {_AGAIN}")
    if version > _NEWEST:
        refuse(
            path,
            f"GGUF version {version}, and laplm reads up to {_NEWEST}; a newer laplm may read it, "
            "or get the model as an older file or as safetensors",
        )


class _Header:
    """The tables in front of a file's tensors, read one after the other."""

    def __init__(self, path: Path, data: mmap.mmap, size: int) -> None:
        self._path, self._data, self._size = path, data, size
        self._at = 8

    def read(self) -> GGUFFile:
        n_tensors, n_settings = self._count(), self._count()
        metadata: dict[str, Any] = {}
        for _ in range(n_settings):
            key = self._text()
            if key in metadata:
                self._refuse(f"the setting {shown_name(key)} stands there twice")
            metadata[key] = self._value(self._code())
        n_parts = metadata.get("split.count", 1)
        if isinstance(n_parts, int) and n_parts > 1:
            refuse(
                self._path,
                f"one of {n_parts} parts of a model, and laplm reads models in one file; join them "
                "with llama.cpp: llama-gguf-split --merge PART_1 WHOLE.gguf",
            )
        placed: dict[str, tuple[GGMLType, tuple[int, ...], int]] = {}
        for _ in range(n_tensors):
            name = self._text()
            if name in placed:
                self._refuse(f"tensor {shown_name(name)} stands there twice")
            placed[name] = self._place(name)
        alignment = metadata.get("general.alignment", 32)
        if (
            not isinstance(alignment, int)
            or not 0 < alignment <= _MAX_ALIGNMENT
            or alignment & (alignment - 1)
        ):
            self._refuse("its general.alignment is no power of two")
        data = -(-self._at // alignment) * alignment
        tensors = {
            name: self._tensor(name, *each, data, alignment) for name, each in placed.items()
        }
        self._check_places(tensors, data)
        return GGUFFile(self._path, metadata, tensors)

    # --- values ---

    def _refuse(self, cause: str) -> NoReturn:
        refuse(self._path, f"{cause}; {_AGAIN}")

    def _take(self, n_bytes: int) -> int:
        """Where the next bytes begin, which are then behind."""
        at = self._at
        if n_bytes > self._size - at:
            self._refuse(f"it ends within its own tables, at byte {self._size:,}")
        self._at = at + n_bytes
        return at

    def _code(self) -> int:
        (value,) = _U32.unpack_from(self._data, self._take(4))
        return int(value)

    def _count(self) -> int:
        (value,) = _U64.unpack_from(self._data, self._take(8))
        return int(value)

    def _text(self) -> str:
        length = self._count()
        if length > _MAX_TEXT and length <= self._size - self._at:
            self._refuse(f"its text at byte {self._at:,} has {length:,} bytes")
        at = self._take(length)
        try:
            return self._data[at : at + length].decode()
        except UnicodeDecodeError:
            self._refuse(f"its text at byte {at:,} is no UTF-8")

    def _value(self, code: int) -> Any:
        if code == _TEXT:
            return self._text()
        if code != _LIST:
            return self._numbers(code, 1)[0].item()
        code, length = self._code(), self._count()
        if _MAX_ITEMS < length <= self._size - self._at:
            self._refuse(
                f"a list of {length:,} before byte {self._at:,} is longer than any setting"
            )
        return self._texts(length) if code == _TEXT else self._numbers(code, length)

    def _texts(self, count: int) -> list[str]:
        """As ``_text``, many: a vocabulary has hundreds of thousands, and a start waits for it."""
        data, at, texts = self._data, self._at, []
        if count > (self._size - at) // 8:
            self._refuse(f"it ends within a list of {count:,} texts")
        short = self._short_texts(count)
        if short is not None:
            return short
        length_at = _U64.unpack_from
        try:
            for _ in range(count):
                (length,) = length_at(data, at)
                begin = at + 8
                at = begin + length
                if at > self._size:
                    raise struct.error
                texts.append(data[begin:at])
        except struct.error:
            self._refuse(f"it ends within a list of {count:,} texts")
        self._at = at
        try:
            return [text.decode() for text in texts]
        except UnicodeDecodeError as error:
            self._refuse(f"a text in a list before byte {at:,} is no UTF-8 ({error.object!r:.40})")

    def _short_texts(self, count: int) -> list[str] | None:
        """All of them at once, where each has 1 to 255 bytes and none of them is zero; else None.

        Then the only zeros are those of the lengths, seven in front of each text. None also where
        the texts are longer than 24 bytes in the mean.
        """
        if not 0 < count < _MANY:
            return None
        data = np.frombuffer(self._data[self._at : self._at + 32 * count], np.uint8)
        zeros = np.flatnonzero(data == 0)[: 7 * count]
        if len(zeros) < 7 * count:
            return None
        zeros = zeros.reshape(count, 7)
        sizes = 8 + data[zeros[:, 0] - 1].astype(np.int64)
        ends = np.cumsum(sizes)
        begins = ends - sizes
        if not np.array_equal(zeros, begins[:, None] + np.arange(1, 8)) or ends[-1] > len(data):
            return None
        kept = np.ones(ends[-1], np.bool_)  # each text, and one of the zeros in front of it
        kept[begins] = False
        kept[zeros[:, 1:]] = False
        try:
            texts = data[: ends[-1]][kept].tobytes().decode()
        except UnicodeDecodeError:
            return None
        pieces = texts[1:].split("\0")
        if len(pieces) > count:
            return None  # a zero in the last text, behind which no length follows to tell
        self._at += int(ends[-1])
        return pieces

    def _numbers(self, code: int, count: int) -> NDArray[Any]:
        if code not in _NUMBERS:
            self._refuse(f"a setting of type {code}, which there is not, before byte {self._at:,}")
        dtype = np.dtype(_NUMBERS[code])
        at = self._take(count * dtype.itemsize)
        return np.frombuffer(self._data[at : self._at], dtype)

    # --- tensors ---

    def _place(self, name: str) -> tuple[GGMLType, tuple[int, ...], int]:
        """A tensor's type, its shape as NumPy has it, and where it begins behind the tables."""
        what = f"tensor {shown_name(name)}"
        n_dimensions = self._code()
        if not 0 < n_dimensions <= _MAX_DIMENSIONS:
            self._refuse(f"{what} has {n_dimensions} dimensions")
        shape = tuple(self._count() for _ in range(n_dimensions))[::-1]
        while len(shape) > 2 and shape[0] == 1:  # these say nothing
            shape = shape[1:]
        if not 0 < math.prod(shape) < 1 << 63:
            self._refuse(f"{what} has the impossible shape {list(shape)}")
        code = self._code()
        if code not in GGML_TYPES:
            refuse(
                self._path,
                f"{what} is stored as type {code}, which laplm does not know; get the model in "
                "another precision, Q8_0 or Q4_K_M say",
            )
        return GGML_TYPES[code], shape, self._count()

    def _tensor(
        self,
        name: str,
        ggml_type: GGMLType,
        shape: tuple[int, ...],
        offset: int,
        data: int,
        alignment: int,
    ) -> GGUFTensor:
        what = f"tensor {shown_name(name)}"
        if shape[-1] % ggml_type.block_size:
            self._refuse(
                f"{what} has rows of {shape[-1]:,}, no multiple of {ggml_type.name}'s "
                f"{ggml_type.block_size}"
            )
        if offset % alignment:
            self._refuse(f"{what} begins at {offset:,}, no multiple of {alignment}")
        n_bytes = math.prod(shape) // ggml_type.block_size * ggml_type.n_bytes
        return GGUFTensor(self._path, ggml_type.name, shape, data + offset, n_bytes)

    def _check_places(self, tensors: Mapping[str, GGUFTensor], data: int) -> None:
        end = data
        for name, tensor in sorted(tensors.items(), key=lambda each: each[1].offset):
            if tensor.offset < end:
                self._refuse(
                    f"tensor {shown_name(name)} overlaps the one before it "
                    f"(byte {tensor.offset - data:,})"
                )
            end = tensor.offset + tensor.n_bytes
        if end > self._size:
            outside = [n for n, t in tensors.items() if t.offset + t.n_bytes > self._size]
            raise ModelFormatError(
                f"{self._path}: cut short: {self._size:,} bytes, but its tables describe {end:,} "
                f"({len(outside)} of {len(tensors)} tensors lie outside); {_AGAIN}"
            )
