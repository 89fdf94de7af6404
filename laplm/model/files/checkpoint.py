"""Model directories to arrays and back: files, names, shards, number formats. Only here.

Opening a model reads its config and the tables of its files, checks that the two describe the
same model, and reads no weights; ``Checkpoint.tensor`` then maps one tensor at a time.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from laplm.errors import InputError, ModelFormatError, shown, shown_name, warn
from laplm.files import make_write_error, sync_directory, temporary_name, write_file
from laplm.model.config import ModelConfig
from laplm.model.families import (
    Family,
    config_from_hf,
    family_of,
    refuse_quantised,
    tensor_shapes,
    tensor_spec,
    tensor_specs,
)
from laplm.model.files.safetensors_file import (
    Array,
    Entry,
    check_finite,
    json_problem,
    map_safetensors,
    narrow_bf16,
    read_table,
    refuse,
    write_safetensors,
)

# The readers of GGUF, OpenAI's and torch's files are imported where such a file is opened: a start
# with safetensors does without them.
if TYPE_CHECKING:
    from laplm.model.files.gguf_reader import GGUFFile
    from laplm.model.pretrained_settings import PretrainedSettings

__all__ = [
    "Checkpoint",
    "Entry",
    "StoredDtype",
    "check_finite",
    "map_safetensors",
    "open_checkpoint",
    "read_config",
    "save_checkpoint",
    "write_safetensors",
]

StoredDtype = Literal["fp32", "fp16", "bf16"]

_READERS = "check who may read the model's directory and its files"
_DTYPES: dict[str, StoredDtype] = {"F32": "fp32", "F16": "fp16", "BF16": "bf16"}


class Tensor(Protocol):
    """One tensor of a model, wherever it lies. ``StoredTensor`` is the usual one.

    Those of GGUF files are ``GGUFTensor``, whose ``dtype`` may be a quantised type and whose
    ``blocks()`` gives the bytes that are stored.
    """

    @property
    def path(self) -> Path: ...

    @property
    def dtype(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def mapped(self) -> bool: ...

    def array(self) -> Array: ...

    def rows(self) -> Callable[[NDArray[np.int64]], Array]: ...


class Checkpoint:
    """The weights of one model directory or GGUF file, opened but not read.

    Attributes:
        path: The directory, or the GGUF file.
        config: The model's sizes. ``tied`` says what the files hold: it is off
            when there is an output matrix of its own, whatever ``config.json`` says.
        names: Every tensor, in the order and with the names of ``tensor_shapes(config)``.
        tensors: Each of them as it lies in the files.
        dtype: how most of the numbers are stored: "fp32", "fp16", "bf16", or a quantised type of
            GGUF files by its name, such as "Q4_1".
        size_bytes: Bytes of the weight files.
        fingerprint: A key that changes when a file of the model is replaced or written to; made
            of paths, sizes and modification times, not of contents.
    """

    def __init__(
        self, path: Path, config: ModelConfig, tensors: Mapping[str, Tensor], files: Sequence[Path]
    ) -> None:
        self.path = path
        self.config = config
        self.names: tuple[str, ...] = tuple(tensor_shapes(config))
        self.tensors = {name: tensors[name] for name in self.names}
        counts: dict[str, int] = {}
        for tensor in self.tensors.values():
            dtype = _DTYPES.get(tensor.dtype, tensor.dtype)
            counts[dtype] = counts.get(dtype, 0) + math.prod(tensor.shape)
        self.dtype: str = max(counts, key=lambda dtype: counts[dtype])
        weights = {tensor.path for tensor in tensors.values()}
        self.size_bytes: int = sum(file.stat().st_size for file in weights)
        stats = [(file.resolve(), file.stat()) for file in sorted({*files, *weights})]
        key = [[str(file), stat.st_size, stat.st_mtime_ns] for file, stat in stats]
        self.fingerprint: str = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]

    def __repr__(self) -> str:
        count = f"{self.config.n_parameters:,} parameters"
        return f"Checkpoint({str(self.path)!r}, {self.dtype}, {count})"

    def tensor(self, name: str) -> Array:
        """One tensor as fp32, read only, in the shape that ``tensor_shapes(config)`` gives.

        An fp32 file is mapped: nothing is copied, and the pages leave memory with the array.
        fp16 and bf16 are widened, this one tensor only.

        Raises:
            KeyError: no tensor has this name.
            ModelFormatError: the file changed since it was opened.
        """
        array = self.tensors[name].array()
        array.flags.writeable = False
        return array

    def rows(self, name: str) -> Callable[[NDArray[np.int64]], Array]:
        """A function from row numbers (T,) to those rows of a matrix as fp32, (T, C).

        The rows come from the file at each call, so a large embedding needs no memory of its own.

        Raises:
            KeyError: no tensor has this name.
            ModelFormatError: the file changed since it was opened.
        """
        return self.tensors[name].rows()

    def mapped(self, name: str) -> bool:
        """Whether ``tensor(name)`` is the file's own memory rather than a copy."""
        return self.tensors[name].mapped


# --- opening ----------------------------------------------------------------------------------


def open_checkpoint(path: Path, file: GGUFFile | None = None) -> Checkpoint:
    """Open a model directory or a GGUF file; no weights are read yet.

    Of a directory it takes the Hugging Face layout, ``config.json`` with ``model.safetensors``, or
    its sharded form with ``model.safetensors.index.json``, or ``pytorch_model.bin`` where torch is
    installed; OpenAI's release of 2019, ``hparams.json`` with ``model.ckpt``; and one GGUF file,
    where there are no other weights. Names may carry the ``transformer.`` prefix; saved causal
    masks are passed over.

    Where both an output matrix and the embedding are stored, they are one matrix only if their
    numbers are equal; where only one of them is, it serves as both. transformers does the same.

    Args:
        path: the model's directory, or its GGUF file.
        file: the tables of that GGUF file, where they have been read already.

    Raises:
        ModelFormatError: names the file and what is wrong with it.
    """
    path = Path(path)
    try:
        file = file or _gguf_tables(path)
        return _open(path) if file is None else open_gguf_checkpoint(file)
    except OSError as error:
        refuse(Path(error.filename or path), f"cannot be read ({error.strerror}); {_READERS}")


def open_gguf_checkpoint(file: GGUFFile) -> Checkpoint:
    """The model in a GGUF file whose tables have been read.

    Raises:
        ModelFormatError: it is a kind of model that is not run, or its tensors are not those of
            one.
    """
    from laplm.model.files.gguf_checkpoint import find_tensors, read_gguf_config

    config = read_gguf_config(file)
    return Checkpoint(file.path, config, find_tensors(file, config), [file.path])


def _gguf_file(path: Path) -> Path | None:
    """The GGUF file that a path stands for; None for a directory with other weights, or nothing."""
    if path.is_file():
        from laplm.model.files.gguf_reader import is_gguf

        return path if is_gguf(path) else None
    if not path.is_dir() or _has_layout(path):
        return None
    from laplm.model.files.gguf_checkpoint import gguf_files

    files = gguf_files(path)
    if len(files) > 1:
        listed = _list_some([each.name for each in files])
        refuse(path, f"holds {len(files)} GGUF files ({listed}); give one of them: {files[0]}")
    return files[0] if files else None


def _gguf_tables(path: Path) -> GGUFFile | None:
    """The tables of ``_gguf_file``; None where there is none."""
    found = _gguf_file(path)
    if found is None:
        return None
    from laplm.model.files.gguf_reader import read_gguf

    return read_gguf(found)


def _has_layout(directory: Path) -> bool:
    """Whether a directory has weights of another kind, which then count."""
    weights = ("model.safetensors", "pytorch_model.bin")
    names = [*weights, *(f"{name}.index.json" for name in weights)]
    return any((directory / name).is_file() for name in names) or _is_openai_release(directory)


def _is_openai_release(directory: Path) -> bool:
    return all((directory / name).is_file() for name in ("hparams.json", "model.ckpt.index"))


def _open(directory: Path) -> Checkpoint:
    if not directory.is_dir():
        refuse(
            directory,
            "neither a directory nor a GGUF file; give the directory that holds the model's files",
        )
    tensors: dict[str, Tensor]
    if (directory / "config.json").is_file():
        files = [directory / "config.json"]
        config = read_config(directory)
        tensors = _find_tensors(directory, family_of(config))
        config = _settle_tying(tensors, config)
    elif _is_openai_release(directory):
        from laplm.model.files.openai_release import read_release

        files = [directory / "hparams.json", directory / "model.ckpt.index"]
        config = read_config(directory)
        tensors = {**read_release(directory)}
    else:
        _refuse_layout(directory)
    _check_tensors(directory, tensors, config)
    return Checkpoint(directory, config, tensors, files)


def read_config(directory: Path, file: GGUFFile | None = None) -> ModelConfig:
    """The sizes in ``config.json`` of a model directory, or ``hparams.json`` of OpenAI's release.

    Tokens that begin and end texts are those of ``generation_config.json`` too, where there is one.
    Of a GGUF file, or a directory with one and no other weights, its own settings.

    Args:
        directory: the model's directory, or its GGUF file.
        file: the tables of that GGUF file, where they have been read already.

    Raises:
        ModelFormatError: there is none, it is not JSON, or it is of a family that is not known.
    """
    try:
        file = file or _gguf_tables(directory)
        if file is not None:
            from laplm.model.files.gguf_checkpoint import read_gguf_config

            return read_gguf_config(file)
        openai = not (directory / "config.json").is_file() and _is_openai_release(directory)
    except OSError as error:
        refuse(directory, f"cannot be read ({error.strerror}); {_READERS}")
    values = read_json(directory / ("hparams.json" if openai else "config.json"))
    beside = directory / "generation_config.json"
    generation = read_json(beside) if not openai and beside.is_file() else None
    try:
        if openai:
            from laplm.model.files.openai_release import read_hparams

            return read_hparams(values)
        return config_from_hf(values, generation)
    except ModelFormatError as error:
        raise ModelFormatError(f"{directory}: {error}") from None


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a model's file.

    Raises:
        ModelFormatError: it cannot be read, or is no object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        refuse(path, f"cannot be read ({error.strerror}); {_READERS}")
    except (ValueError, RecursionError) as error:
        refuse(path, f"not readable as JSON ({json_problem(error)}); fetch or copy it again")
    if not isinstance(values, dict):
        refuse(path, "not a JSON object; fetch or copy it again")
    return values


def _find_tensors(directory: Path, family: Family) -> dict[str, Tensor]:
    """All tensors by their family's names; where there are several files, transformers' choice."""
    for name, read in (("model.safetensors", _safetensors), ("pytorch_model.bin", _torch_file)):
        if (directory / name).is_file():
            return _merge([(directory / name, read(directory / name))], None, family)
        index = directory / f"{name}.index.json"
        if index.is_file():
            shards, weight_map = _read_index(index)
            return _merge(((shard, read(shard)) for shard in shards), weight_map, family)
    return _refuse_layout(directory)


def _safetensors(path: Path) -> Mapping[str, Tensor]:
    return read_table(path)[0]


def _torch_file(path: Path) -> Mapping[str, Tensor]:
    from laplm.model.files.torch_file import read_torch_file

    return read_torch_file(path)


def _read_index(path: Path) -> tuple[list[Path], dict[str, str]]:
    """The shards that an index names, and which of them holds which tensor."""
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        refuse(path, "has no weight_map; fetch or copy it again")
    for name, shard in weight_map.items():
        # A shard lies beside its index. Anything else would reach out of the model's directory.
        if not _is_file_name(shard):
            where = f"places tensor {shown_name(name)} in {shown(shard)}"
            refuse(path, f"{where}, which is not a plain file name")
    shards = [path.parent / shard for shard in sorted(set(weight_map.values()))]
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        refuse(path, f"{len(missing)} of {len(shards)} files missing ({_list_some(missing)})")
    return shards, weight_map


def _is_file_name(name: Any) -> bool:
    if not isinstance(name, str) or name in ("", ".", "..") or set(name) & set("/\\:\0"):
        return False
    return len(name.encode("utf-8", "surrogatepass")) <= 255  # what file systems hold


def _merge(
    parts: Iterable[tuple[Path, Mapping[str, Tensor]]],
    weight_map: Mapping[str, str] | None,
    family: Family,
) -> dict[str, Tensor]:
    """The tensors of all files under their family's names, checked against the index."""
    merged: dict[str, Tensor] = {}
    found: set[str] = set()
    for path, tensors in parts:
        for name, tensor in tensors.items():
            if weight_map is not None and weight_map.get(name) != path.name:
                refuse(
                    path, f"holds tensor {shown_name(name)}, which the index does not place there"
                )
            found.add(name)
            if family.NO_WEIGHT.search(name):
                continue
            plain = name.removeprefix(family.HF_PREFIX)
            if plain in merged:
                twice = f"holds tensor {shown_name(plain)} twice"
                refuse(path, f"{twice}, with and without {family.HF_PREFIX} before it")
            merged[plain] = tensor
        if weight_map is not None:
            absent = [n for n, shard in weight_map.items() if shard == path.name and n not in found]
            if absent:
                refuse(
                    path,
                    f"lacks tensors that the index names: {len(absent)} ({_list_some(absent)})",
                )
    return merged


def _settle_tying(tensors: dict[str, Tensor], config: ModelConfig) -> ModelConfig:
    """One output matrix or two: what the files hold decides, as in transformers."""
    if not config.tied:
        return config
    untied = dataclasses.replace(config, tied=False)
    names = [tensor_spec(untied, role).name for role in ("embed", "unembed")]
    embed, unembed = (tensors.get(name) for name in names)
    if embed is None and unembed is not None:
        tensors[names[0]] = tensors.pop(names[1])
    elif embed is not None and unembed is not None:
        shape = (config.vocab_size, config.n_embd)
        # Of another shape or number format, the wrong one is named by the check that follows.
        comparable = all(t.shape == shape and t.dtype in _DTYPES for t in (embed, unembed))
        if not comparable or not _equal(embed.array(), unembed.array()):
            return untied
        del tensors[names[1]]
    return config


def _equal(a: Array, b: Array) -> bool:
    """``np.array_equal`` of two matrices, at the speed of memory when the bits are the same."""
    if a.__array_interface__["data"] == b.__array_interface__["data"]:
        return True  # one storage under two names, as in pickle files
    step = max(1, (1 << 20) // a.shape[-1])
    return all(
        np.array_equal(a[i : i + step].view(np.uint32), b[i : i + step].view(np.uint32))
        or np.array_equal(a[i : i + step], b[i : i + step])
        for i in range(0, len(a), step)
    )


def _check_tensors(directory: Path, tensors: Mapping[str, Tensor], config: ModelConfig) -> None:
    wanted = tensor_shapes(config)
    _check_quantised(tensors, wanted)
    missing = [name for name in wanted if name not in tensors]
    if missing:
        refuse(
            directory,
            f"{len(missing)} of {len(wanted)} tensors missing ({_list_some(missing)}); config.json "
            "and the weights do not belong together, or the weights are incomplete",
        )
    extra = [name for name in tensors if name not in wanted]
    layers = {
        each.name.partition(".")[0] for each in tensor_specs(config).values() if each.layer == 0
    }
    inside = [name for name in extra if name.partition(".")[0] in layers]
    if inside:
        refuse(
            directory,
            f"tensors that no {config.family} of these sizes has: {len(inside)} "
            f"({_list_some(inside)}); check n_layer or num_hidden_layers in config.json, or save "
            f"the model as a {family_of(config).HF_ARCHITECTURE}",
        )
    if extra:
        _tell_once(f"{directory}: not used, no part of the language model: {_list_some(extra)}")
    wrong = [name for name, shape in wanted.items() if tensors[name].shape != shape]
    if wrong:
        name = wrong[0]
        refuse(
            directory,
            f"tensors of another shape than config.json asks for: {len(wrong)} "
            f"({_list_some(wrong)}); {name} is {list(tensors[name].shape)}, "
            f"not {list(wanted[name])}",
        )
    for name in wanted:
        if tensors[name].dtype not in _DTYPES:
            refuse(
                tensors[name].path,
                f"tensor {name} is stored as {tensors[name].dtype}; laplm reads fp32, fp16 and "
                "bf16, so save the model again in one of these",
            )


# What the tensors of programs that quantise end with, where config.json does not say it. MLX comes
# last, as others have scales too.
_QUANTISED_BY = {
    ".qweight": "GPTQ or AWQ", ".absmax": "bitsandbytes", ".SCB": "bitsandbytes",
    ".weight_packed": "compressed-tensors", ".weight_scale": "compressed-tensors",
    ".weight_scale_inv": "fp8", ".scales": "MLX",
}  # fmt: skip


def _check_quantised(tensors: Mapping[str, Tensor], wanted: Mapping[str, object]) -> None:
    unknown = [name for name in tensors if name not in wanted]
    for ending, by in _QUANTISED_BY.items():
        if name := next((each for each in unknown if each.endswith(ending)), None):
            refuse_quantised(str(tensors[name].path), f"{by}, by tensor {shown_name(name)}")


def _list_some(names: Sequence[str], count: int = 3) -> str:
    more = len(names) - count
    listed = ", ".join(map(shown_name, names[:count]))
    return listed + (f" and {more} more" if more > 0 else "")


@functools.cache
def _tell_once(message: str) -> None:
    warn(message)


# --- what cannot be opened --------------------------------------------------------------------

_OTHER_KINDS = {
    ".ggml": "llama.cpp's old format",
    ".onnx": "ONNX",
    ".h5": "TensorFlow",
    ".msgpack": "Flax",
    ".ot": "Rust",
    ".tflite": "TensorFlow Lite",
    ".mlmodel": "Core ML",
    ".ckpt": "a training checkpoint",
    ".pt": "PyTorch",
    ".pth": "PyTorch",
}


def _refuse_layout(directory: Path) -> NoReturn:
    """Say what the directory holds in place of a model that can be read."""
    names = sorted(entry.name for entry in directory.iterdir())
    needed = "config.json with model.safetensors"
    if "adapter_config.json" in names:
        refuse(directory, "holds an adapter, not a whole model; merge it into its model first")
    others = [name for name in names if Path(name).suffix in _OTHER_KINDS]
    if others:
        kinds = [f"{name} ({_OTHER_KINDS[Path(name).suffix]})" for name in others]
        refuse(
            directory,
            f"holds {_list_some(kinds)}, but laplm reads {needed}; save the model with "
            "transformers' save_pretrained, or fetch it with `laplm pull`",
        )
    if any(name.startswith("model.ckpt") for name in names):
        refuse(
            directory,
            "OpenAI's release, but not all of it: hparams.json, model.ckpt.index and "
            "model.ckpt.data-00000-of-00001 belong together; fetch the others too",
        )
    if not names:
        found = "this directory is empty"
    elif "config.json" in names:
        found = f"this directory has no weights ({_list_some(names)})"
    else:
        found = f"this directory has no config.json ({_list_some(names)})"
    refuse(directory, f"a model is {needed}, and {found}")


# --- saving -----------------------------------------------------------------------------------


def save_checkpoint(
    directory: Path,
    config: ModelConfig,
    tensors: Mapping[str, NDArray[Any]],
    dtype: StoredDtype = "fp32",
    tokenizer_json: str | None = None,
    settings: PretrainedSettings | None = None,
) -> None:
    """Write a model directory that laplm and transformers load.

    All files are written beside the directory and then moved into place, ``config.json`` last. A
    directory that is there already keeps its other files.

    Args:
        directory: Where the model goes.
        config: The sizes; ``tied`` says whether an output matrix is written.
        tensors: The weights by the names and in the shapes of ``tensor_shapes(config)``.
        dtype: How the numbers are stored.
        tokenizer_json: Contents of ``tokenizer.json``, when the model has a tokenizer.
        settings: What else the model came with; None writes GPT-2's.

    Raises:
        InputError: a tensor is missing, has another shape, or does not fit the number format.
        WriteError: the disk is full or cannot be written.
    """
    import shutil

    from laplm.model.pretrained_settings import PretrainedSettings

    directory = Path(directory)
    code = next(code for code, name in _DTYPES.items() if name == dtype)
    entries: list[Entry] = []
    for name, each in tensor_specs(config).items():
        if name not in tensors or tensors[name].shape != each.shape:
            found = list(tensors[name].shape) if name in tensors else "missing"
            raise InputError(f"cannot save {directory}: {name} is {found}, not {list(each.shape)}")
        stored = family_of(config).HF_PREFIX + name if each.hf_prefix else name
        entries.append((stored, code, each.shape, _encoder(name, tensors[name], dtype)))

    long_name = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}[dtype]
    settings = settings or PretrainedSettings()
    files = settings.files(config, long_name, tokenizer_json)
    texts = {name: json.dumps(values, indent=2) for name, values in files.items()}
    if tokenizer_json is not None:
        texts["tokenizer.json"] = tokenizer_json
    staging = temporary_name(directory)
    try:
        file = staging / "model.safetensors"
        write_safetensors(file, entries, {"format": "pt"}, align=False)
        for file_name, text in texts.items():
            write_file(staging / file_name, text.encode())
        try:
            if directory.exists():
                for path in sorted(staging.iterdir(), key=lambda path: path.name == "config.json"):
                    path.replace(directory / path.name)
            else:
                staging.rename(directory)
                sync_directory(directory.parent)
        except OSError as error:
            raise make_write_error(directory, error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _encoder(name: str, tensor: NDArray[Any], dtype: StoredDtype) -> Callable[[], NDArray[Any]]:
    def encode() -> NDArray[Any]:
        values = np.asarray(tensor, dtype=np.float32)
        if dtype == "fp32":
            return values
        if dtype == "bf16":
            return narrow_bf16(values)
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if np.isinf(half).any() and not np.isinf(values).any():
            raise InputError(
                f"tensor {name} has numbers beyond 65504, which fp16 cannot hold; save the model "
                "as bf16 or fp32"
            )
        return half

    return encode
