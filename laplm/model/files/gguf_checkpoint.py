"""GGUF files as models: llama.cpp's tensors under the names and in the layouts of the families.

llama.cpp keeps some weights otherwise than Hugging Face. Its Llama turns neighbouring components of
a head together, where ours turns those half a head apart, so the rows of q and k lie in another
order. Blocks of quantised numbers lie along the rows, which can be put in order as they are.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from laplm.errors import ModelFormatError, shown_name, warn
from laplm.model.config import ModelConfig
from laplm.model.families import tensor_specs
from laplm.model.families.gguf import ROPE_FACTORS, config_from_gguf, gguf_name
from laplm.model.files.ggml_types import FLOATS, QUANTISED
from laplm.model.files.gguf_reader import GGUFFile, GGUFTensor
from laplm.model.files.safetensors_file import refuse
from laplm.model.tensors import NORMS, TensorSpec

READ_TYPES = (*FLOATS, *QUANTISED)


def find_gguf(directory: Path) -> Path | None:
    """The one GGUF file of a language model in a directory; None without one, or with several.

    Raises:
        OSError: the directory cannot be read.
    """
    files = gguf_files(directory)
    return files[0] if len(files) == 1 else None


def gguf_files(directory: Path) -> list[Path]:
    """The GGUF files in a directory, without those that see images (mmproj), by name.

    Raises:
        OSError: the directory cannot be read.
    """
    return sorted(
        path
        for path in directory.iterdir()
        if path.suffix.lower() == ".gguf" and not path.name.lower().startswith("mmproj")
        and path.is_file()
    )  # fmt: skip


def read_gguf_config(file: GGUFFile) -> ModelConfig:
    """What the model in a file is.

    Raises:
        ModelFormatError: it is a kind of model that is not run, or a setting is impossible.
    """
    shapes = {name: tensor.shape for name, tensor in file.tensors.items()}
    factors = file.tensors.get(ROPE_FACTORS)
    if factors is not None:
        _check_type(ROPE_FACTORS, factors)
    try:
        return config_from_gguf(file.metadata, shapes, factors.array if factors else None)
    except ModelFormatError as error:
        raise ModelFormatError(f"{file.path}: {error}") from None


def find_tensors(file: GGUFFile, config: ModelConfig) -> dict[str, GGUFTensor]:
    """The tensors of a model by the names of its family, as the family has them.

    Raises:
        ModelFormatError: one is missing, of another shape, or of a type that is not read; or there
            are more than a model of this kind has.
    """
    specs = tensor_specs(config)
    names = {name: gguf_name(spec) for name, spec in specs.items()}
    _check_names(file, list(names.values()))
    found = {}
    for name, spec in specs.items():
        stored = file.tensors[names[name]]
        _check_type(names[name], stored)
        tensor = layout_of(spec, config).read(stored)
        if tensor.shape != spec.shape:
            refuse(
                file.path,
                f"tensor {names[name]} is {list(stored.shape)}, not "
                f"{list(spec.shape[::-1] if tensor.transposed else spec.shape)} as its settings "
                "ask for; fetch or copy the file again",
            )
        found[name] = tensor
    return found


def _check_names(file: GGUFFile, wanted: Sequence[str]) -> None:
    missing = [name for name in wanted if name not in file.tensors]
    if missing:
        refuse(
            file.path,
            f"{len(missing)} of {len(wanted)} tensors missing ({_some(missing)}); the file is "
            "incomplete, or of a newer kind than laplm knows",
        )
    unused = [name for name in file.tensors if name not in {*wanted, ROPE_FACTORS}]
    in_layers = [name for name in unused if name.startswith(("blk.", "rope_factors_"))]
    if in_layers:
        refuse(
            file.path,
            f"{len(in_layers)} tensors that no model of this kind has ({_some(in_layers)}), so "
            "laplm would compute something else; get the model as safetensors",
        )
    if unused:
        _tell_once(f"{file.path}: not used, no part of the language model: {_some(unused)}")


def _check_type(name: str, tensor: GGUFTensor) -> None:
    if tensor.ggml_type not in READ_TYPES:
        refuse(
            tensor.path,
            f"tensor {name} is stored as {tensor.ggml_type}; laplm reads {', '.join(READ_TYPES)}, "
            "so get the model in one of these",
        )


def _some(names: Sequence[str], count: int = 3) -> str:
    more = len(names) - count
    return ", ".join(map(shown_name, names[:count])) + (f" and {more} more" if more > 0 else "")


@functools.cache
def _tell_once(message: str) -> None:
    warn(message)


@dataclasses.dataclass(frozen=True)
class Layout:
    """How llama.cpp keeps a tensor, seen from the family's own layout.

    Attributes:
        row_order: which row of the file each row of the tensor is; None where they are the same.
        transposed: whether the family has (inputs, outputs).
        plus: what the file's numbers are above the family's.
    """

    row_order: NDArray[np.int64] | None
    transposed: bool
    plus: float

    def read(self, tensor: GGUFTensor) -> GGUFTensor:
        """A tensor of a file in the family's layout."""
        return dataclasses.replace(
            tensor, row_order=self.row_order, transposed=self.transposed, plus=-self.plus
        )

    def write(self, array: NDArray[np.float32]) -> NDArray[np.float32]:
        """A tensor of the family in the file's layout."""
        array = array.T if self.transposed else array
        if self.row_order is not None:
            array = array[np.argsort(self.row_order)]
        return np.ascontiguousarray(array + np.float32(self.plus) if self.plus else array)


def layout_of(spec: TensorSpec, config: ModelConfig) -> Layout:
    """How llama.cpp keeps a tensor of a model."""
    return Layout(
        row_order=_row_order(spec, config),
        transposed=spec.layout == "in_out" and len(spec.shape) == 2 and spec.is_linear,
        # Stored as what norms multiply with, where Gemma's checkpoints have how far that is from 1.
        plus=config.norm_offset if spec.role in NORMS and spec.part == "weight" else 0.0,
    )


def _row_order(spec: TensorSpec, config: ModelConfig) -> NDArray[np.int64] | None:
    """Which row of the file each row is; None where they are the same."""
    heads = {"q": config.n_head, "k": config.n_kv_head}
    if config.family in ("llama", "smollm3") and spec.role in heads:
        # (heads, D / 2, 2) in the file, (heads, 2, D / 2) here.
        n_rows, n_heads = spec.shape[0], heads[spec.role]
        if n_rows % (2 * n_heads):
            return None
        order = np.arange(n_rows).reshape(n_heads, -1, 2).swapaxes(1, 2)
    elif config.family == "gpt_neox" and spec.role == "qkv":
        # (3, heads, D) in the file, (heads, 3, D) here.
        order = np.arange(spec.shape[0]).reshape(3, config.n_head, -1).swapaxes(0, 1)
    else:
        return None
    return order.reshape(-1)
