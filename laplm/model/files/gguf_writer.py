"""GGUF files of models, as llama.cpp's converter lays them out.

What the settings and tensors are called, and how each lies, is said where files are read:
``families/gguf.py`` and ``gguf_checkpoint.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from laplm.errors import MissingExtraError, warn
from laplm.model.config import ModelConfig
from laplm.model.families import tensor_specs
from laplm.model.families.gguf import ROPE_FACTORS, config_to_gguf, gguf_name, to_gguf_config
from laplm.model.files.gguf_checkpoint import layout_of
from laplm.model.files.gguf_tokenizer_writer import add_tokenizer
from laplm.model.pretrained_settings import PretrainedModel
from laplm.model.tensors import TensorSpec

_GROUP = 32  # numbers that share a scale in q8_0


def _gguf() -> Any:
    try:
        import gguf
    except ModuleNotFoundError as error:
        raise MissingExtraError("A GGUF file", "export") from error
    return gguf


def check_llama_cpp(config: ModelConfig) -> None:
    """Refuse what llama.cpp would compute otherwise, and say what a file leaves out.

    Raises:
        InputError: llama.cpp has no such model.
    """
    settings(config)
    written = to_gguf_config(config)
    if written.n_ctx < config.n_ctx:
        warn(
            f"llama.cpp has no windows in {config.family}, so the file holds {written.n_ctx:,} of "
            f"{config.n_ctx:,} positions, where they make no difference"
        )


def settings(config: ModelConfig) -> tuple[dict[str, Any], NDArray[np.float32] | None]:
    """The settings of a model's file, and its rotary factors: see ``config_to_gguf``.

    Raises:
        InputError: llama.cpp has no such model.
    """
    written = to_gguf_config(config)
    shapes = {gguf_name(spec): spec.shape for spec in tensor_specs(written).values()}
    return config_to_gguf(written, shapes)


def write_gguf(model: PretrainedModel, path: Path, precision: str) -> None:
    """Write the GGUF file alone; vectors and positions stay fp32, as llama.cpp wants them.

    Raises:
        InputError: llama.cpp has no such model, or would read texts as other tokens than the
            model's tokenizer.
        MissingExtraError: the gguf package is not installed.
        OSError: the file cannot be written.
    """
    gguf = _gguf()
    checkpoint = model.checkpoint
    config = to_gguf_config(checkpoint.config)
    metadata, factors = settings(checkpoint.config)
    writer = gguf.GGUFWriter(str(path), metadata.pop("general.architecture"))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_file_type(
        {"f32": gguf.LlamaFileType.ALL_F32, "f16": gguf.LlamaFileType.MOSTLY_F16,
         "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0}[precision]
    )  # fmt: skip
    types = {bool: gguf.GGUFValueType.BOOL, int: gguf.GGUFValueType.UINT32,
             float: gguf.GGUFValueType.FLOAT32, str: gguf.GGUFValueType.STRING}  # fmt: skip
    for key, value in metadata.items():
        writer.add_key_value(key, value, types[type(value)])
    name = Path(model.name).name
    add_tokenizer(writer, gguf, model.tokenizer, config, model.settings, name)
    if factors is not None:
        writer.add_tensor(ROPE_FACTORS, factors)
    for name, spec in tensor_specs(config).items():
        # An output matrix that is the embedding, where llama.cpp wants one of its own.
        source = name if name in checkpoint.names else _embedding(checkpoint.config)
        array = layout_of(spec, config).write(checkpoint.tensor(source))
        kind = _kind(gguf, spec, array.shape, precision)
        writer.add_tensor(gguf_name(spec), gguf.quants.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _embedding(config: ModelConfig) -> str:
    return next(name for name, spec in tensor_specs(config).items() if spec.role == "embed")


def _kind(gguf: Any, spec: TensorSpec, shape: tuple[int, ...], precision: str) -> Any:
    """How a tensor is stored. In q8_0, rows that cannot be cut into groups stay f16."""
    types = gguf.GGMLQuantizationType
    if len(shape) == 1 or spec.role == "pos_embed" or precision == "f32":
        return types.F32
    if precision == "f16" or shape[-1] % _GROUP:
        return types.F16
    return types.Q8_0
