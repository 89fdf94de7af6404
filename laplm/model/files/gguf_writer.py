"""GGUF files of GPT-2 models, as llama.cpp lays them out.

Linear weights are stored as (outputs, inputs), where GPT-2 keeps (inputs, outputs), and there is no
output matrix of its own where it is tied to the embedding.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from laplm.errors import InputError, MissingExtraError
from laplm.model.config import ModelConfig
from laplm.model.families import tensor_specs
from laplm.model.families.gguf import gguf_name
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
    """Refuse what is not written, and what llama.cpp's GPT-2 does not compute."""
    if config.family != "gpt2":
        raise InputError(
            f"a GGUF file is written of GPT-2 alone, and this is {config.family}; use hf"
        )
    standard = ModelConfig()
    for name in ("scale_attn_weights", "scale_attn_by_inverse_layer_idx"):
        if getattr(config, name) != getattr(standard, name):
            raise InputError(f"llama.cpp has no GPT-2 with {name} {getattr(config, name)}; use hf")
    if config.activation not in ("gelu_new", "gelu_pytorch_tanh"):
        raise InputError(
            f"llama.cpp's GPT-2 has gelu_new, and this model {config.activation}; use hf"
        )


def write_gguf(model: PretrainedModel, path: Path, precision: str) -> None:
    """Write the GGUF file alone; vectors and positions stay fp32, as llama.cpp wants them.

    Raises:
        InputError: llama.cpp would read texts as other tokens than the model's tokenizer.
        MissingExtraError: the gguf package is not installed.
        OSError: the file cannot be written.
    """
    gguf = _gguf()
    config = model.checkpoint.config
    writer = gguf.GGUFWriter(str(path), "gpt2")
    writer.add_name(Path(model.name).name)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_file_type(
        {"f32": gguf.LlamaFileType.ALL_F32, "f16": gguf.LlamaFileType.MOSTLY_F16,
         "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0}[precision]
    )  # fmt: skip
    writer.add_block_count(config.n_layer)
    writer.add_context_length(config.n_ctx)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(config.n_inner)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.norm_eps)
    add_tokenizer(writer, gguf, model.tokenizer, config, model.settings)
    for name, spec in tensor_specs(config).items():
        array = model.checkpoint.tensor(name)
        if _is_linear(spec):
            array = np.ascontiguousarray(array.T)
        kind = _kind(gguf, spec, array.shape, precision)
        data = gguf.quants.quantize(np.ascontiguousarray(array), kind)
        writer.add_tensor(gguf_name(spec), data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _is_linear(spec: TensorSpec) -> bool:
    """Whether the checkpoint keeps the matrix as (inputs, outputs)."""
    return spec.is_linear and spec.layout == "in_out"


def _kind(gguf: Any, spec: TensorSpec, shape: tuple[int, ...], precision: str) -> Any:
    """How a tensor is stored. In q8_0, rows that cannot be cut into groups stay f16."""
    types = gguf.GGMLQuantizationType
    if len(shape) == 1 or spec.role == "pos_embed" or precision == "f32":
        return types.F32
    if precision == "f16" or shape[-1] % _GROUP:
        return types.F16
    return types.Q8_0
