"""OpenAI's own release of GPT-2 (2019): ``hparams.json`` beside a TensorFlow checkpoint.

Read without TensorFlow. ``model.ckpt.index`` is a sorted table (the format of LevelDB's table
files) from tensor names to where they lie in ``model.ckpt.data-...``, whose bytes are the plain
numbers and are mapped like any other model's.

Formats: https://github.com/google/leveldb/blob/main/doc/table_format.md, and TensorFlow's
``tensor_bundle.proto``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from laplm.errors import ModelFormatError
from laplm.model.config import ModelConfig
from laplm.model.files.safetensors_file import StoredTensor, refuse

_MAGIC = 0xDB4775248B80FB57
_FOOTER = 48  # bytes: two places in the file as variable-length numbers, padding, the magic
_FLOAT = 1  # TensorFlow's number for fp32
_LAYER = re.compile(r"h(\d+)/(.+)")


def read_hparams(values: Mapping[str, Any]) -> ModelConfig:
    """The sizes in ``hparams.json``.

    Raises:
        ModelFormatError: a size is missing or impossible.
    """
    names = {"vocab_size": "n_vocab", "n_ctx": "n_ctx", "n_embd": "n_embd"}
    names |= {"n_head": "n_head", "n_layer": "n_layer"}
    missing = [name for name in names.values() if name not in values]
    if missing:
        raise ModelFormatError(f"hparams.json lacks {', '.join(missing)}")
    # <|endoftext|> is the last token of the release's vocabulary.
    sizes = {name: values[theirs] for name, theirs in names.items()}
    last = sizes["vocab_size"] - 1 if isinstance(sizes["vocab_size"], int) else None
    return ModelConfig(**sizes, bos_token_id=last, eos_token_ids=() if last is None else (last,))


def read_release(directory: Path) -> dict[str, StoredTensor]:
    """The release's tensors under the names of ``tensor_shapes``.

    Raises:
        ModelFormatError: a file is missing, cut short, or not what TensorFlow writes.
    """
    index = directory / "model.ckpt.index"
    raw = index.read_bytes()
    tensors: dict[str, StoredTensor] = {}
    shards = 1
    try:
        for key, value in _table(raw):
            fields = dict(_message(value))
            if not key:
                shards = fields.get(1, 1)
                if fields.get(2, 0) != 0:
                    refuse(index, "written on a big-endian machine, which is not supported")
                continue
            name = _plain_name(key.decode())
            if name is None:
                continue
            if fields.get(1) != _FLOAT:
                refuse(index, f"tensor {name} is not stored as fp32")
            shape = tuple(
                dict(_message(size)).get(1, 0)
                for field, size in _message(fields.get(2, b""))
                if field == 2
            )
            if len(shape) == 3 and shape[0] == 1:
                shape = shape[1:]  # linear layers are stored as convolutions of width 1
            data = directory / f"model.ckpt.data-{fields.get(3, 0):05d}-of-{shards:05d}"
            place = fields.get(4, 0), fields.get(5, 0)
            if not all(isinstance(n, int) for n in (*shape, *place)):
                raise ValueError("bytes where a number belongs")
            tensors[name] = StoredTensor(data, "F32", shape, *place)
    except (IndexError, ValueError, TypeError, AttributeError):
        refuse(index, "not a TensorFlow checkpoint's index, or damaged; fetch or copy it again")
    for name, tensor in tensors.items():
        if tensor.n_bytes != 4 * math.prod(tensor.shape):
            refuse(index, f"tensor {name}: {list(tensor.shape)} is not {tensor.n_bytes:,} bytes")
        if not tensor.path.is_file():
            refuse(tensor.path, "no such file; fetch or copy it again")
    for path in {tensor.path for tensor in tensors.values()}:
        end = max(t.offset + t.n_bytes for t in tensors.values() if t.path == path)
        size = path.stat().st_size
        if size < end:
            refuse(path, f"cut short: {size:,} bytes, but the index describes {end:,}")
    return tensors


def _plain_name(name: str) -> str | None:
    """``model/h0/part/w`` as ``h.0.part.weight``; None for what is no weight."""
    if not name.startswith("model/"):
        return None
    name = name.removeprefix("model/")
    if "/" not in name:  # an embedding
        return f"{name}.weight"
    if layer := _LAYER.fullmatch(name):
        name = f"h/{layer[1]}/{layer[2]}"
    stem, _, kind = name.replace("/", ".").rpartition(".")
    kinds = {"w": "weight", "g": "weight", "b": "bias"}
    return f"{stem}.{kinds[kind]}" if kind in kinds else None


def _table(raw: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a sorted table file."""
    if len(raw) < _FOOTER or int.from_bytes(raw[-8:], "little") != _MAGIC:
        raise ValueError("no table")
    _, at = _number(raw, len(raw) - _FOOTER)  # the first place is that of a filter: not needed
    _, at = _number(raw, at)
    for _, place in _block(raw, *_place(raw, at)):
        yield from _block(raw, *_place(place, 0))


def _place(raw: bytes, at: int) -> tuple[int, int]:
    offset, at = _number(raw, at)
    return offset, _number(raw, at)[0]


def _block(raw: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of one block; a key leaves out what it shares with the one before."""
    if raw[offset + size] != 0:
        raise ValueError("compressed")
    block = raw[offset : offset + size]
    restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 * (restarts + 1)
    if end < 0:
        raise ValueError("damaged block")
    key, at = b"", 0
    while at < end:
        shared, at = _number(block, at)
        unshared, at = _number(block, at)
        length, at = _number(block, at)
        key = key[:shared] + block[at : at + unshared]
        at += unshared
        yield key, block[at : at + length]
        at += length


def _message(raw: bytes) -> Iterator[tuple[int, Any]]:
    """Fields of a protocol buffer: numbers as int, all else as bytes."""
    at = 0
    while at < len(raw):
        tag, at = _number(raw, at)
        kind = tag & 7
        if kind == 0:
            value, at = _number(raw, at)
            yield tag >> 3, value
            continue
        if kind == 2:
            length, at = _number(raw, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError("unknown field")
        yield tag >> 3, raw[at : at + length]
        at += length


def _number(raw: bytes, at: int) -> tuple[int, int]:
    """A variable-length number and where it ends: seven bits a byte, the lowest first."""
    value = shift = 0
    while True:
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError("number too long")
