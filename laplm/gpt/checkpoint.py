"""Model files to arrays and back: names, shards, number formats. Only here.

Weights are never read as a whole. A ``model.safetensors`` file starts with a table of what lies
where; the table is checked against the model's sizes and the file's length, and each tensor is
then mapped from the file when it is asked for. The table is parsed here rather than by the
safetensors library, because the library copies what it reads and NumPy has no bf16.

Format: https://huggingface.co/docs/safetensors/index#format
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import math
import mmap
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from laplm.errors import CacheError, InputError, ModelFormatError
from laplm.gpt.config import NAMED_SIZES, GPTConfig, tensor_shapes

Array = NDArray[np.float32]
StoredDtype = Literal["fp32", "fp16", "bf16"]
Entry = tuple[str, str, Sequence[int], Callable[[], NDArray[Any]]]
"""(name, safetensors dtype code, shape, function that makes the array when its turn comes)."""

# Bits of one element, by the safetensors dtype code.
_BITS = {
    "F64": 64, "I64": 64, "U64": 64, "C64": 64, "F32": 32, "I32": 32, "U32": 32,
    "F16": 16, "BF16": 16, "I16": 16, "U16": 16, "I8": 8, "U8": 8, "BOOL": 8,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip
_WEIGHT_DTYPES: dict[str, StoredDtype] = {"F32": "fp32", "F16": "fp16", "BF16": "bf16"}
_CODES = {name: code for code, name in _WEIGHT_DTYPES.items()}
# What map_safetensors gives back. BF16 is left out: NumPy has no such type.
_NUMPY = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "<i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "<u1", "BOOL": "|b1",
}  # fmt: skip
# The safetensors library refuses longer tables too; it keeps a broken length from being believed.
_MAX_HEADER = 100_000_000
_ALIGNMENT = 64  # a cache line, and the widest vector register
_PADDING = "__padding__."
# Causal masks that older transformers versions saved with the weights.
_BUFFER = re.compile(r"(?:^|\.)attn\.(?:bias|masked_bias)$")


# --- safetensors: the table at the start of a file -------------------------------------------


@dataclass(frozen=True)
class _Stored:
    """Where one tensor lies: ``n_bytes`` bytes from ``offset`` on in ``path``."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    n_bytes: int


def _refuse(path: Path, cause: str) -> NoReturn:
    raise ModelFormatError(f"{path}: {cause}")


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a name occurs twice")
    return values


def _read_table(path: Path) -> tuple[dict[str, _Stored], dict[str, str]]:
    """Read and check the table of a safetensors file: tensors by name, and the metadata.

    Raises:
        ModelFormatError: the file cannot be read, is cut short, or its table does not describe
            it exactly.
    """
    again = "the file is damaged or incomplete; fetch or copy it again"
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < 8:
                _refuse(path, f"only {size:,} bytes long; {again}")
            length = int.from_bytes(file.read(8), "little")
            if length > min(_MAX_HEADER, size - 8):
                if file.read(40).startswith(b"//git-lfs") or size < 1024:
                    file.seek(0)
                    if file.read(40).startswith(b"version https://git-lfs"):
                        _refuse(path, "a Git LFS pointer, not the weights; run `git lfs pull`")
                _refuse(
                    path,
                    f"the first 8 bytes announce a table of {length:,} bytes, but the file is "
                    f"{size:,} bytes long; {again}",
                )
            raw = file.read(length)
    except FileNotFoundError:
        _refuse(path, "no such file; fetch or copy it again")
    except OSError as error:
        _refuse(path, f"cannot be read ({error.strerror})")
    try:
        table = json.loads(raw.decode("utf-8"), object_pairs_hook=_refuse_duplicates)
        if not isinstance(table, dict):
            raise ValueError("it is not an object")
    except (ValueError, RecursionError) as error:
        _refuse(path, f"its table is not readable ({error}); {again}")
    metadata = table.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        _refuse(path, f"its __metadata__ is not a table of texts; {again}")
    start = 8 + length
    stored = {name: _stored(path, start, name, entry) for name, entry in table.items()}
    end = start
    for name, item in sorted(stored.items(), key=lambda kv: (kv[1].offset, kv[1].n_bytes)):
        if item.offset != end:
            what = "overlaps the tensor before it" if item.offset < end else "leaves a gap"
            _refuse(
                path, f"tensor {name} {what} (byte {item.offset - start:,} of the data); {again}"
            )
        end += item.n_bytes
    if size != end:
        cause = "cut short" if size < end else "too long"
        _refuse(path, f"{cause}: {size:,} bytes, but its table describes {end:,}; {again}")
    return stored, metadata


def _stored(path: Path, start: int, name: str, entry: object) -> _Stored:
    def whole(values: object) -> bool:
        return isinstance(values, list) and all(type(v) is int and v >= 0 for v in values)

    if not isinstance(entry, dict):
        _refuse(path, f"tensor {name} has no description")
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in _BITS:
        _refuse(path, f"tensor {name} has the unknown number format {dtype!r}")
    if not whole(shape) or not whole(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        _refuse(path, f"tensor {name} has an impossible shape {shape!r} or place {offsets!r}")
    n_bytes = offsets[1] - offsets[0]
    if n_bytes * 8 != math.prod(shape) * _BITS[dtype]:
        _refuse(path, f"tensor {name} of shape {shape} in {dtype} cannot be {n_bytes:,} bytes")
    return _Stored(path, dtype, tuple(shape), start + offsets[0], n_bytes)


# --- a model directory ------------------------------------------------------------------------


def widen_bf16(bits: NDArray[np.uint16]) -> Array:
    """bf16 numbers, given as their raw 16 bits, as fp32 of the same shape. Exact."""
    wide: Array = (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return wide


def narrow_bf16(values: Array) -> NDArray[np.uint16]:
    """fp32 numbers rounded to the nearest bf16 (ties to even), as raw 16 bits."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = (bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) >> 16
    # The addition above would carry a NaN with a full mantissa over to infinity or zero.
    nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    out: NDArray[np.uint16] = np.where(nan, np.uint32(0x7FC0), rounded).astype(np.uint16)
    return out


def check_finite(name: str, array: NDArray[Any]) -> None:
    """Refuse a tensor that holds NaN or infinity.

    Raises:
        ModelFormatError: names the tensor and the first bad place.
    """
    # A sum is finite only when every number is; only a sum that is not needs the closer look.
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(array.sum(dtype=np.float32)):
            return
    bad = ~np.isfinite(array)
    if bad.any():
        where = tuple(int(i) for i in np.unravel_index(int(bad.argmax()), array.shape))
        raise ModelFormatError(
            f"tensor {name} holds {int(bad.sum()):,} numbers that are NaN or infinite, the first at "
            f"{list(where)}; the model was damaged in training or in copying, use another copy"
        )


class Checkpoint:
    """The weights of one model directory, opened but not read.

    Attributes:
        path: The directory.
        config: The model's sizes. ``tie_word_embeddings`` says what the weights really are: it is
            off when the files hold an output matrix of its own.
        names: Every tensor, in the order and with the names of ``tensor_shapes(config)``.
        dtype: "fp32", "fp16" or "bf16": how most of the numbers are stored.
        size_bytes: Bytes of the weight files.
        fingerprint: A key that changes when a file of the model is replaced or written to. Made
            of paths, sizes and modification times, not of the contents.
    """

    def __init__(self, path: Path, config: GPTConfig, source: _Source, files: list[Path]) -> None:
        self.path = path
        self.config = config
        self._source = source
        self.names: tuple[str, ...] = tuple(tensor_shapes(config))
        sizes: dict[StoredDtype, int] = {}
        for name in self.names:
            dtype = source.dtype(name)
            sizes[dtype] = sizes.get(dtype, 0) + math.prod(source.shapes[name])
        self.dtype: StoredDtype = max(sizes, key=lambda dtype: sizes[dtype])
        stats = [(file.resolve(), file.stat()) for file in [path / "config.json", *files]]
        self.size_bytes: int = sum(stat.st_size for _, stat in stats[1:])
        key = [[str(file), stat.st_size, stat.st_mtime_ns] for file, stat in stats]
        self.fingerprint: str = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]

    def __repr__(self) -> str:
        return (
            f"Checkpoint({str(self.path)!r}, {self.dtype}, {self.config.n_parameters:,} parameters)"
        )

    def tensor(self, name: str) -> Array:
        """One tensor as fp32, read only, in the shape that ``tensor_shapes(config)`` gives.

        An fp32 file is mapped, so nothing is copied and the pages leave memory with the array;
        fp16 and bf16 are widened, this one tensor at a time.

        Raises:
            KeyError: no tensor has this name.
            ModelFormatError: the file changed since it was opened.
        """
        array = self._source.tensor(name)
        array.flags.writeable = False
        return array

    def rows(self, name: str) -> Callable[[NDArray[np.int64]], Array]:
        """A function that reads rows of a matrix as fp32, (T,) indices to (T, width).

        Only the rows asked for are read from the file: for looking up embeddings.
        """
        return self._source.rows(name)

    def mapped(self, name: str) -> bool:
        """Whether ``tensor(name)`` is the file's own memory rather than a copy."""
        return self._source.mapped(name)


class _Source:
    """Where the tensors come from, by the names of ``tensor_shapes``."""

    shapes: dict[str, tuple[int, ...]]

    def dtype(self, name: str) -> StoredDtype:
        raise NotImplementedError

    def mapped(self, name: str) -> bool:
        raise NotImplementedError

    def tensor(self, name: str) -> Array:
        raise NotImplementedError

    def rows(self, name: str) -> Callable[[NDArray[np.int64]], Array]:
        raise NotImplementedError

    def tie(self, target: str, source: str) -> None:
        """Let ``target`` be the same tensor as ``source``."""
        raise NotImplementedError

    def same(self, a: str, b: str) -> bool:
        """Whether two tensors hold the same numbers."""
        return np.array_equal(self.tensor(a), self.tensor(b))


class _SafetensorsSource(_Source):
    def __init__(self, tensors: dict[str, _Stored]) -> None:
        self.tensors = tensors
        self.shapes = {name: item.shape for name, item in tensors.items()}

    def dtype(self, name: str) -> StoredDtype:
        item = self.tensors[name]
        if item.dtype not in _WEIGHT_DTYPES:
            _refuse(
                item.path,
                f"tensor {name} is stored as {item.dtype}; laplm reads fp32, fp16 and bf16, so save "
                "the model again in one of these",
            )
        return _WEIGHT_DTYPES[item.dtype]

    def mapped(self, name: str) -> bool:
        item = self.tensors[name]
        # Numbers that do not lie at a multiple of their size would be slow or trap: copied.
        return item.dtype == "F32" and item.offset % 4 == 0

    def _raw(self, name: str) -> NDArray[Any]:
        item = self.tensors[name]
        kind = "<f4" if item.dtype == "F32" else "<f2" if item.dtype == "F16" else "<u2"
        if item.n_bytes == 0:
            return np.zeros(item.shape, kind)
        try:
            # One mapping a tensor: when the caller lets go of it, its pages are given back.
            return np.memmap(item.path, kind, "r", item.offset, item.shape).view(np.ndarray)
        except (OSError, ValueError) as error:
            _refuse(item.path, f"changed while it was in use ({error}); run the command again")

    def tensor(self, name: str) -> Array:
        raw = self._raw(name)
        if self.tensors[name].dtype == "BF16":
            return widen_bf16(raw)
        return raw if self.mapped(name) else np.array(raw, dtype=np.float32)

    def rows(self, name: str) -> Callable[[NDArray[np.int64]], Array]:
        raw = self._raw(name)
        if self.tensors[name].dtype == "BF16":
            return lambda ids: widen_bf16(raw[ids])
        return lambda ids: raw[ids].astype(np.float32, copy=False)

    def tie(self, target: str, source: str) -> None:
        self.tensors[target] = self.tensors[source]
        self.shapes[target] = self.shapes[source]


class _TorchSource(_Source):
    """Tensors that torch's restricted unpickler gave, mapped from the file by torch."""

    def __init__(self, tensors: dict[str, Any], path: Path) -> None:
        self.tensors = tensors
        self.path = path
        self.shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}

    def dtype(self, name: str) -> StoredDtype:
        stored = str(self.tensors[name].dtype).removeprefix("torch.")
        kinds: dict[str, StoredDtype] = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
        if stored not in kinds:
            _refuse(
                self.path,
                f"tensor {name} is stored as {stored}; laplm reads fp32, fp16 and bf16, so save the "
                "model again in one of these",
            )
        return kinds[stored]

    def mapped(self, name: str) -> bool:
        return self.dtype(name) == "fp32" and bool(self.tensors[name].is_contiguous())

    def tensor(self, name: str) -> Array:
        array: Array = self.tensors[name].detach().float().contiguous().numpy()
        return array.view()

    def rows(self, name: str) -> Callable[[NDArray[np.int64]], Array]:
        import torch

        tensor = self.tensors[name]
        return lambda ids: tensor[torch.from_numpy(ids)].float().numpy()

    def tie(self, target: str, source: str) -> None:
        self.tensors[target] = self.tensors[source]
        self.shapes[target] = self.shapes[source]


def read_config(directory: Path) -> GPTConfig:
    """The sizes in ``config.json`` of a model directory.

    Raises:
        ModelFormatError: there is none, it is not JSON, or it is not a GPT-2 model's.
    """
    values = _read_json(directory / "config.json")
    try:
        return GPTConfig.from_dict(values)
    except ModelFormatError as error:
        raise ModelFormatError(f"{directory}: {error}") from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        _refuse(path, f"cannot be read ({error.strerror})")
    except (ValueError, RecursionError) as error:
        _refuse(path, f"not readable as JSON ({error}); fetch or copy it again")
    if not isinstance(values, dict):
        _refuse(path, "not a JSON object; fetch or copy it again")
    return values


def open_checkpoint(directory: Path) -> Checkpoint:
    """Open a model directory in the Hugging Face GPT-2 layout; no weights are read yet.

    Takes ``config.json`` with ``model.safetensors``, its sharded form with
    ``model.safetensors.index.json``, or ``pytorch_model.bin`` where torch is installed. Names may
    carry the ``transformer.`` prefix; saved causal masks are passed over.

    When both ``lm_head.weight`` and ``wte.weight`` are there, they are taken as one matrix only
    when their numbers are equal; with only one of them, it serves as both. This is what
    transformers does.

    Raises:
        ModelFormatError: names the file and what is wrong with it.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise ModelFormatError(f"{directory}: not a directory; give the directory of a model")
    if not (directory / "config.json").is_file():
        _refuse_layout(directory)
    config = read_config(directory)
    files: list[Path]
    source: _Source
    if (directory / "model.safetensors").is_file():
        files = [directory / "model.safetensors"]
        source = _open_safetensors(files, None)
    elif (directory / "model.safetensors.index.json").is_file():
        files, index = _read_index(directory / "model.safetensors.index.json")
        source = _open_safetensors(files, index)
    elif (directory / "pytorch_model.bin").is_file():
        files = [directory / "pytorch_model.bin"]
        source = _open_torch(files, None)
    elif (directory / "pytorch_model.bin.index.json").is_file():
        files, index = _read_index(directory / "pytorch_model.bin.index.json")
        source = _open_torch(files, index)
    else:
        _refuse_layout(directory)
    config = _settle_tying(source, config)
    _check_tensors(directory, source, config)
    return Checkpoint(directory, config, source, files)


def _canonical(name: str) -> str | None:
    """The GPT-2 name without prefix; None for a saved mask, which is not a weight."""
    name = name.removeprefix("transformer.")
    return None if _BUFFER.search(name) else name


def _read_index(path: Path) -> tuple[list[Path], dict[str, str]]:
    """The shard files of an index, and which of them holds which tensor."""
    weight_map = _read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        _refuse(path, "has no weight_map; fetch or copy it again")
    for name, shard in weight_map.items():
        # A shard is a file beside the index. Anything else would reach outside the model.
        if (
            not isinstance(shard, str)
            or shard in ("", ".", "..")
            or any(c in shard for c in "/\\:\0")
        ):
            _refuse(path, f"tensor {name} is said to lie in {shard!r}, which is no plain file name")
    shards = [path.parent / shard for shard in sorted(set(weight_map.values()))]
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        _refuse(path, f"of {len(shards)} files, {_some(missing)} are missing; fetch them again")
    return shards, weight_map


def _merge(
    parts: Iterable[tuple[Path, Mapping[str, Any]]], index: Mapping[str, str] | None
) -> dict[str, Any]:
    """Tensors of all files under their GPT-2 names, checked against the index."""
    merged: dict[str, Any] = {}
    found: set[str] = set()
    for path, tensors in parts:
        for name, item in tensors.items():
            if index is not None and index.get(name) != path.name:
                _refuse(path, f"holds tensor {name}, which the index does not place there")
            found.add(name)
            canonical = _canonical(name)
            if canonical is None:
                continue
            if canonical in merged:
                _refuse(path, f"tensor {canonical} occurs twice, with and without prefix")
            merged[canonical] = item
    absent = [name for name in index or () if name not in found]
    if index is not None and absent:
        first = absent[0]
        _refuse(
            path.parent / index[first],
            f"does not hold {_some(absent)}, which the index places there; fetch it again",
        )
    return merged


def _open_safetensors(files: list[Path], index: dict[str, str] | None) -> _SafetensorsSource:
    return _SafetensorsSource(_merge(((file, _read_table(file)[0]) for file in files), index))


def _open_torch(files: list[Path], index: dict[str, str] | None) -> _TorchSource:
    try:
        import torch
    except ImportError:
        _refuse(
            files[0],
            "a pickle file, which laplm reads only through torch's safe loader. Either "
            '`pip install "laplm[tune]"`, or convert it where transformers is installed: '
            'python -c "from transformers import GPT2LMHeadModel as M; '
            f"M.from_pretrained({str(files[0].parent)!r}).save_pretrained('converted')\"",
        )
    import pickle

    def load(path: Path) -> dict[str, Any]:
        try:
            try:
                tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            except RuntimeError as error:
                # Files from before torch 1.6 cannot be mapped; the restricted loader reads them.
                if "mmap can only be used" not in str(error):
                    raise
                tensors = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            _refuse(
                path,
                "holds more than tensors, so torch's safe loader refuses it; get the model as "
                "model.safetensors",
            )
        except Exception as error:
            cause = str(error).splitlines()[0] if str(error) else type(error).__name__
            _refuse(path, f"torch cannot read it ({cause}); fetch or copy it again")
        if not isinstance(tensors, dict) or not all(
            isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in tensors.items()
        ):
            _refuse(path, "not a table of tensors by name, as a saved model is")
        return tensors

    return _TorchSource(_merge(((file, load(file)) for file in files), index), files[0])


def _settle_tying(source: _Source, config: GPTConfig) -> GPTConfig:
    """One output matrix or two: what the files hold decides, as in transformers."""
    if not config.tie_word_embeddings:
        return config
    shape = (config.vocab_size, config.n_embd)
    wte, lm_head = source.shapes.get("wte.weight"), source.shapes.get("lm_head.weight")
    if wte is None and lm_head is not None:
        source.tie("wte.weight", "lm_head.weight")
    elif wte == lm_head == shape and not source.same("wte.weight", "lm_head.weight"):
        return dataclasses.replace(config, tie_word_embeddings=False)
    return config


def _check_tensors(directory: Path, source: _Source, config: GPTConfig) -> None:
    wanted = tensor_shapes(config)
    missing = [name for name in wanted if name not in source.shapes]
    if missing:
        raise ModelFormatError(
            f"{directory}: {len(missing)} of {len(wanted)} tensors are missing ({_some(missing)}); "
            "config.json and the weights do not belong together, or the files are incomplete"
        )
    extra = [name for name in source.shapes if name not in wanted and name != "lm_head.weight"]
    if extra:
        raise ModelFormatError(
            f"{directory}: {len(extra)} tensors do not belong to a GPT-2 of these sizes "
            f"({_some(extra)}); check n_layer in config.json, or save the model as GPT2LMHeadModel"
        )
    wrong = [name for name, shape in wanted.items() if source.shapes[name] != shape]
    if wrong:
        name = wrong[0]
        raise ModelFormatError(
            f"{directory}: {len(wrong)} tensors have another shape than config.json asks for "
            f"({_some(wrong)}); {name} is {list(source.shapes[name])}, not {list(wanted[name])}"
        )
    for name in wanted:
        source.dtype(name)


def _some(names: Sequence[str], count: int = 3) -> str:
    more = len(names) - count
    return ", ".join(names[:count]) + (f" and {more} more" if more > 0 else "")


def _refuse_layout(directory: Path) -> NoReturn:
    """Say what the directory is instead of a model that can be read."""
    names = sorted(entry.name for entry in directory.iterdir())
    if "model.ckpt.index" in names or ("checkpoint" in names and "hparams.json" in names):
        _refuse_openai(directory)
    if "adapter_config.json" in names:
        _refuse(directory, "holds an adapter, not a whole model; merge it into its model first")
    kinds = {
        ".gguf": "GGUF (llama.cpp)",
        ".onnx": "ONNX",
        ".h5": "TensorFlow",
        ".msgpack": "Flax",
        ".ot": "Rust",
        ".mlmodel": "Core ML",
        ".tflite": "TensorFlow Lite",
        ".ckpt": "PyTorch Lightning",
        ".pt": "PyTorch",
        ".pth": "PyTorch",
    }
    others = [
        f"{name} ({kinds[Path(name).suffix]})" for name in names if Path(name).suffix in kinds
    ]
    needed = "config.json with model.safetensors"
    if others:
        _refuse(
            directory,
            f"only {_some(others)} was found, and laplm reads {needed}; save the model with "
            "transformers (save_pretrained) or `laplm pull` it",
        )
    weights = [n for n in names if n.endswith((".safetensors", ".bin", ".index.json"))]
    if "config.json" in names:
        found = f"config.json but no weights ({_some(names)})"
    elif weights:
        found = f"{_some(weights)} but no config.json"
    elif names:
        found = f"{len(names)} other files ({_some(names)})"
    else:
        found = "nothing"
    _refuse(directory, f"a model needs {needed}; this directory holds {found}")


def _refuse_openai(directory: Path) -> NoReturn:
    """OpenAI's release of 2019: the same weights are on the hub, and there is a converter."""
    same = ""
    with contextlib.suppress(ModelFormatError):
        n_layer = _read_json(directory / "hparams.json").get("n_layer")
        for name, config in NAMED_SIZES.items():
            if config.n_layer == n_layer and name != "distilgpt2":
                same = f" The same weights come with `laplm pull {name}`."
    _refuse(
        directory,
        "OpenAI's TensorFlow release, which laplm does not read." + same + " To convert it: "
        'pip install "transformers<5" torch tensorflow && python -m '
        "transformers.models.gpt2.convert_gpt2_original_tf_checkpoint_to_pytorch "
        f"--gpt2_checkpoint_path {directory} --pytorch_dump_folder_path converted",
    )


# --- writing ----------------------------------------------------------------------------------


def write_safetensors(
    path: Path,
    entries: Iterable[Entry],
    metadata: Mapping[str, str],
    *,
    align: bool = True,
    advice: str = "free some space, or set LAPLM_HOME to a directory on another disk",
) -> None:
    """Write a safetensors file, holding one array at a time.

    The file appears under its name only when it is whole and on the disk; until then, and after
    any failure, there is none (or the one that was there before).

    Args:
        path: The file; its directory is made when it is not there.
        entries: (name, dtype code such as "F32" or "I8", shape, function giving the array).
        metadata: Texts by name, stored in the file.
        align: Start every tensor at a multiple of 64 bytes, by entries of padding between them.
            The data as a whole always does.
        advice: What to do when the disk is full or cannot be written to; ends the message.

    Raises:
        CacheError: the disk is full or cannot be written to.
    """
    table: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    plan: list[tuple[str, str, tuple[int, ...], Callable[[], NDArray[Any]] | None]] = []
    end = 0
    for name, code, shape, make in entries:
        gap = -end % _ALIGNMENT if align else 0
        if gap:
            table[f"{_PADDING}{len(plan)}"] = _table_entry("U8", (gap,), end, end + gap)
            plan.append(("", "U8", (gap,), None))
            end += gap
        if name in table or name.startswith(_PADDING) or name == "__metadata__":
            raise ValueError(f"tensor name {name!r} is used twice or reserved")
        n_bytes = math.prod(shape) * _BITS[code] // 8
        table[name] = _table_entry(code, shape, end, end + n_bytes)
        plan.append((name, code, tuple(shape), make))
        end += n_bytes
    header = json.dumps(table, separators=(",", ":")).encode()
    header += b" " * (-(8 + len(header)) % _ALIGNMENT)
    needed = 8 + len(header) + end
    with _atomic(path, needed, advice) as file:
        file.write(len(header).to_bytes(8, "little"))
        file.write(header)
        for name, code, shape, make in plan:
            if make is None:
                file.write(bytes(shape[0]))
                continue
            array = make()
            # BF16 travels as its raw 16 bits: NumPy has no such type.
            dtype = np.dtype(_NUMPY["U16" if code == "BF16" else code])
            if array.shape != shape or array.dtype != dtype:
                raise ValueError(
                    f"{name}: expected {dtype} {shape}, was given {array.dtype} {array.shape}"
                )
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def _table_entry(code: str, shape: Sequence[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": code, "shape": list(shape), "data_offsets": [begin, end]}


@contextlib.contextmanager
def _atomic(path: Path, needed: int, advice: str) -> Iterator[Any]:
    """A file that takes its name when the block ends well, and leaves nothing when it does not."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path.parent).free
        if free < needed:
            raise OSError(errno.ENOSPC, "No space left on device")
        try:
            with temporary.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(path.parent).free
            cause = f"no space left ({megabytes(needed)} needed, {megabytes(free)} free)"
        else:
            cause = error.strerror or str(error)
        raise CacheError(f"cannot write {path}: {cause}; {advice}") from error


def megabytes(n_bytes: int) -> str:
    """A size for people: ``"548.1 MB"``."""
    return f"{n_bytes / 1e6:,.1f} MB"


def map_safetensors(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """The arrays of a safetensors file as read-only views into one memory map, and its metadata.

    Raises:
        ModelFormatError: the file is damaged, or holds a number format that NumPy does not have.
    """
    stored, metadata = _read_table(path)
    arrays: dict[str, NDArray[Any]] = {}
    with path.open("rb") as file:
        whole = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    for name, item in stored.items():
        if name.startswith(_PADDING):
            continue
        if item.dtype not in _NUMPY:
            _refuse(path, f"tensor {name} is stored as {item.dtype}, which NumPy cannot map")
        raw = whole[item.offset : item.offset + item.n_bytes]
        arrays[name] = raw.view(_NUMPY[item.dtype]).reshape(item.shape)
    return arrays, metadata


def save_checkpoint(
    directory: Path,
    config: GPTConfig,
    tensors: Mapping[str, NDArray[Any]],
    dtype: StoredDtype = "fp32",
    tokenizer_json: str | None = None,
) -> None:
    """Write a model directory that transformers and laplm load.

    Everything is written beside the directory first and then moved into place; a directory that
    is there already keeps its other files.

    Args:
        directory: Where the model goes.
        config: The sizes; ``tie_word_embeddings`` decides whether ``lm_head.weight`` is written.
        tensors: fp32 arrays by the names of ``tensor_shapes(config)``.
        dtype: How the numbers are stored.
        tokenizer_json: Contents of ``tokenizer.json``, when the model has a tokenizer.

    Raises:
        InputError: a tensor is missing, has another shape, or does not fit the number format.
        CacheError: the disk is full or cannot be written to.
    """
    directory = Path(directory)
    code = _CODES[dtype]

    def entry(name: str, shape: tuple[int, ...]) -> Entry:
        if name not in tensors:
            raise InputError(f"cannot save {directory}: tensor {name} is missing")
        if tensors[name].shape != shape:
            raise InputError(
                f"cannot save {directory}: tensor {name} is {list(tensors[name].shape)}, "
                f"not {list(shape)}"
            )
        return (
            f"transformer.{name}".replace("transformer.lm_head", "lm_head"),
            code,
            shape,
            make(name),
        )

    def make(name: str) -> Callable[[], NDArray[Any]]:
        def array() -> NDArray[Any]:
            values = np.asarray(tensors[name], dtype=np.float32)
            if dtype == "bf16":
                return narrow_bf16(values)
            if dtype == "fp32":
                return values
            with np.errstate(over="ignore"):
                half = values.astype(np.float16)
            if not np.isfinite(half).all() and np.isfinite(values).all():
                raise InputError(
                    f"cannot save {directory} as fp16: tensor {name} has numbers beyond 65504; "
                    "save it as bf16 or fp32"
                )
            return half

        return array

    entries = [entry(name, shape) for name, shape in tensor_shapes(config).items()]
    full = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}[dtype]
    texts = {"config.json": json.dumps({**config.to_dict(), "torch_dtype": full}, indent=2) + "\n"}
    if tokenizer_json is not None:
        texts["tokenizer.json"] = tokenizer_json
        texts["tokenizer_config.json"] = _tokenizer_config(config, tokenizer_json)
    advice = "free some space, or choose another directory"
    staging = directory.with_name(f".{directory.name}.{secrets.token_hex(6)}.tmp")
    try:
        write_safetensors(
            staging / "model.safetensors", entries, {"format": "pt"}, align=False, advice=advice
        )
        for name, text in texts.items():
            data = text.encode()
            with _atomic(staging / name, len(data), advice) as file:
                file.write(data)
        try:
            if directory.exists():
                # config.json last: with it, the directory is a model.
                for file_name in sorted(os.listdir(staging), key="config.json".__eq__):
                    (staging / file_name).replace(directory / file_name)
            else:
                staging.rename(directory)
        except OSError as error:
            raise CacheError(f"cannot write {directory}: {error.strerror}; {advice}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _tokenizer_config(config: GPTConfig, tokenizer_json: str) -> str:
    values: dict[str, Any] = {
        "tokenizer_class": "GPT2Tokenizer",
        "model_max_length": config.n_ctx,
        "add_prefix_space": False,
    }
    for token in json.loads(tokenizer_json).get("added_tokens", []):
        if token["id"] == config.eos_token_id:
            values |= {key: token["content"] for key in ("bos_token", "eos_token", "unk_token")}
    return json.dumps(values, indent=2) + "\n"
