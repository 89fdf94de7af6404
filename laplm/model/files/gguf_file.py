"""GGUF files of GPT-2 models, as llama.cpp lays them out.

Linear weights are stored as (outputs, inputs), where GPT-2 keeps (inputs, outputs), and there is no
output matrix of its own where it is tied to the embedding.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from laplm.errors import InputError, MissingExtraError
from laplm.model.config import GPTConfig, tensor_shapes
from laplm.model.files.gguf_tokenizer import add_tokenizer
from laplm.model.pretrained_settings import PretrainedModel

Array = NDArray[np.float32]
_GROUP = 32  # numbers that share a scale in q8_0
_STEMS = {"wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm", "lm_head": "output"}
_PARTS = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}


def _gguf() -> Any:
    try:
        import gguf
    except ModuleNotFoundError as error:
        raise MissingExtraError("A GGUF file", "export") from error
    return gguf


def check_llama_cpp(config: GPTConfig) -> None:
    """Refuse what llama.cpp's GPT-2 does not compute."""
    standard = GPTConfig()
    for name in ("scale_attn_weights", "scale_attn_by_inverse_layer_idx"):
        if getattr(config, name) != getattr(standard, name):
            raise InputError(f"llama.cpp has no GPT-2 with {name} {getattr(config, name)}; use hf")
    if config.activation_function not in ("gelu_new", "gelu_pytorch_tanh"):
        raise InputError(
            f"llama.cpp's GPT-2 has gelu_new, and this model {config.activation_function}; use hf"
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
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    add_tokenizer(writer, gguf, model.tokenizer, config, model.settings)
    for name in model.checkpoint.names:
        array = model.checkpoint.tensor(name)
        if _is_linear(name):
            array = np.ascontiguousarray(array.T)
        kind = _kind(gguf, name, array.shape, precision)
        data = gguf.quants.quantize(np.ascontiguousarray(array), kind)
        writer.add_tensor(_gguf_name(name), data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _gguf_name(name: str) -> str:
    stem, _, leaf = name.rpartition(".")
    if stem in _STEMS:
        return f"{_STEMS[stem]}.{leaf}"
    _, layer, part = stem.split(".", 2)
    return f"blk.{layer}.{_PARTS[part]}.{leaf}"


def _is_linear(name: str) -> bool:
    """Whether GPT-2 keeps the matrix as (inputs, outputs)."""
    return name.startswith("h.") and name.endswith(".weight") and ".ln_" not in name


def _kind(gguf: Any, name: str, shape: tuple[int, ...], precision: str) -> Any:
    """How a tensor is stored. In q8_0, rows that cannot be cut into groups stay f16."""
    types = gguf.GGMLQuantizationType
    if len(shape) == 1 or name == "wpe.weight" or precision == "f32":
        return types.F32
    if precision == "f16" or shape[-1] % _GROUP:
        return types.F16
    return types.Q8_0


def read_gguf(path: Path, config: GPTConfig) -> Iterator[tuple[str, Array]]:
    """The tensors of a GGUF file by their GPT-2 names, in GPT-2's layout, fp32."""
    gguf = _gguf()
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(str(path)).tensors}
    for name, shape in tensor_shapes(config).items():
        tensor = stored[_gguf_name(name)]
        array = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        array = array.reshape(shape[::-1] if _is_linear(name) else shape)
        yield name, np.ascontiguousarray(array.T) if _is_linear(name) else array
