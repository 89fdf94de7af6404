"""GGUF files as llama.cpp's converter makes them, of small models of transformers.

Written with the gguf package alone, so that what laplm reads is not what laplm writes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers

from laplm.model.files import gguf_reader

SIZES = {
    "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 128, "initializer_range": 0.2,
    "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None,
}  # fmt: skip
GROUPED = {**SIZES, "num_key_value_heads": 2}
LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
}  # fmt: skip
# One model of each kind: transformers' class of its config, and the settings.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2Config", {
        "vocab_size": 300, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128,
        "initializer_range": 0.2, "bos_token_id": 0, "eos_token_id": 1,
    }),
    "llama": ("LlamaConfig", GROUPED),
    "llama3": ("LlamaConfig", {**GROUPED, "rope_parameters": LLAMA3_ROPE, "head_dim": 64,
                               "tie_word_embeddings": True, "attention_bias": True,
                               "mlp_bias": True}),
    "qwen2": ("Qwen2Config", GROUPED),
    "qwen3": ("Qwen3Config", {**GROUPED, "head_dim": 32}),
    "smollm3": ("SmolLM3Config", {**GROUPED, "num_hidden_layers": 4, "use_sliding_window": False}),
    "gemma3": ("Gemma3TextConfig", {
        **GROUPED, "num_hidden_layers": 7, "head_dim": 32, "sliding_window": 4,
        "query_pre_attn_scalar": 32, "tie_word_embeddings": True,
    }),
    "gpt_neox": ("GPTNeoXConfig", {**SIZES, "rotary_pct": 0.5}),
    "gpt_neox_sequential": ("GPTNeoXConfig", {**SIZES, "use_parallel_residual": False}),
}  # fmt: skip
_ARCHITECTURES = {"gpt2": "gpt2", "llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3",
                  "smollm3": "smollm3", "gemma3_text": "gemma3", "gpt_neox": "gptneox"}  # fmt: skip
Kind = Callable[[str, np.ndarray], gguf.GGMLQuantizationType]


def make_hf_model(name: str, seed: int = 0, **sizes: int) -> Any:
    """One of ``MODELS`` with random weights, biases and gains that matter."""
    config_class, settings = MODELS[name]
    settings = settings | sizes
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(
        getattr(transformers, config_class)(**settings), attn_implementation="eager"
    ).float()
    with torch.no_grad():
        for key, tensor in model.named_parameters():
            if key.endswith("bias") or "norm" in key or ".ln_" in key:
                tensor.add_(torch.randn_like(tensor) * 0.1)
    return model.eval()


def plain(name: str, array: np.ndarray) -> gguf.GGMLQuantizationType:
    """Everything in fp32."""
    return gguf.GGMLQuantizationType.F32


def matrices_as(kind: str) -> Kind:
    """Matrices in a type, vectors in fp32, as in the files that people have."""

    def choose(name: str, array: np.ndarray) -> gguf.GGMLQuantizationType:
        small = array.ndim == 1 or "position_embd" in name
        return gguf.GGMLQuantizationType["F32" if small else kind]

    return choose


def write_gguf(
    path: Path, model: Any, kind: Kind = plain, tokenizer: Mapping[str, Any] | None = None
) -> Path:
    """A model of transformers as a GGUF file; ``tokenizer`` are settings behind their prefix."""
    config = model.config
    architecture = _ARCHITECTURES[config.model_type]
    writer = gguf.GGUFWriter(str(path), architecture)
    _add_settings(writer, config, architecture)
    for key, value in (byte_tokens(config.vocab_size) if tokenizer is None else tokenizer).items():
        _add(writer, f"tokenizer.{key}", value)
    codes = {name: code for code, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(codes[architecture], config.num_hidden_layers)
    tied = config.tie_word_embeddings
    for name, value in model.state_dict().items():
        if tied and name in ("lm_head.weight", "embed_out.weight"):
            continue
        known = names.get_name(name, try_suffixes=(".weight", ".bias"))
        array = _converted(name, value.numpy(), config)
        chosen = kind(known, array)
        data = gguf.quants.quantize(np.ascontiguousarray(array), chosen)
        writer.add_tensor(known, data, raw_dtype=chosen)
    if config.model_type == "llama" and config.rope_parameters["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_factors(config))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def list_reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The paths of files whose tables are read from now on, as they are."""
    reads: list[Path] = []
    real = gguf_reader._Header.read

    def listed(header: gguf_reader._Header) -> gguf_reader.GGUFFile:
        reads.append(header._path)
        return real(header)

    monkeypatch.setattr(gguf_reader._Header, "read", listed)
    return reads


def byte_tokens(count: int) -> dict[str, Any]:
    """A byte-level vocabulary of two control tokens, all bytes, and pairs of letters."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = [*bytes_to_unicode().values()]
    merges = [f"{a} {b}" for a in "etaoin" for b in "shrdluc "[:7]][: count - 258]
    tokens = ["<|begin|>", "<|end|>", *letters, *(m.replace(" ", "") for m in merges)]
    tokens += [f"[PAD{i}]" for i in range(len(tokens), count)]
    kinds = [3, 3] + [1] * (256 + len(merges)) + [5] * (count - 258 - len(merges))
    return {
        "ggml.model": "gpt2", "ggml.pre": "gpt-2", "ggml.tokens": tokens, "ggml.merges": merges,
        "ggml.token_type": kinds, "ggml.bos_token_id": 0, "ggml.eos_token_id": 1,
    }  # fmt: skip


def sentencepiece_tokens(**more: Any) -> dict[str, Any]:
    """A vocabulary of SentencePiece, trained on the spot."""
    import io

    import sentencepiece
    from conftest import TEXT

    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter((TEXT + "\nIt's they'LL 12 345. naïve café").split("\n") * 3),
        model_writer=trained, model_type="bpe", vocab_size=560, byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, character_coverage=1.0,
        split_digits=True, user_defined_symbols=["<think>"], minloglevel=2,
        add_dummy_prefix=more.get("ggml.add_space_prefix", True),
    )  # fmt: skip
    model = sentencepiece.SentencePieceProcessor(model_proto=trained.getvalue())
    count = model.vocab_size()
    kinds = [
        2 if model.is_unknown(i) else 3 if model.is_control(i) else 6 if model.is_byte(i)
        else 4 if model.id_to_piece(i) == "<think>" else 1
        for i in range(count)
    ]  # fmt: skip
    sentencepiece_tokens.model = model  # type: ignore[attr-defined]
    return {
        "ggml.model": "llama", "ggml.tokens": [model.id_to_piece(i) for i in range(count)],
        "ggml.scores": [float(model.get_score(i)) for i in range(count)],
        "ggml.token_type": kinds, "ggml.bos_token_id": 1, "ggml.eos_token_id": 2,
        "ggml.unknown_token_id": 0, **more,
    }  # fmt: skip


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def _add_settings(writer: gguf.GGUFWriter, config: Any, architecture: str) -> None:
    """As the converter's ``set_gguf_parameters``."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_head_count(config.num_attention_heads)
    if architecture == "gpt2":
        writer.add_feed_forward_length(4 * config.hidden_size)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    writer.add_feed_forward_length(config.intermediate_size)
    if architecture == "gptneox":
        writer.add_layer_norm_eps(config.layer_norm_eps)
        writer.add_parallel_residual(config.use_parallel_residual)
        rotary = config.rope_parameters["partial_rotary_factor"] * head_dim
        writer.add_rope_dimension_count(int(rotary))
        return
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    rope = config.rope_parameters
    writer.add_rope_freq_base(float(rope.get("full_attention", rope)["rope_theta"]))
    if architecture == "llama":
        writer.add_vocab_size(config.vocab_size)
        writer.add_rope_dimension_count(head_dim)
    if head_dim * config.num_attention_heads != config.hidden_size:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    if architecture == "gemma3":
        writer.add_sliding_window(config.sliding_window)


def _converted(name: str, array: np.ndarray, config: Any) -> np.ndarray:
    """As the converter's ``modify_tensors``."""
    kind = config.model_type
    if kind == "gpt2" and name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
        return array.T
    if kind in ("llama", "smollm3") and ("q_proj" in name or "k_proj" in name):
        heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
        halves = array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:])
        return halves.swapaxes(1, 2).reshape(array.shape)
    if kind == "gemma3_text" and name.endswith("norm.weight"):
        return array + 1
    if kind == "gpt_neox" and "query_key_value" in name:
        parts = array.reshape(config.num_attention_heads, 3, -1, *array.shape[1:])
        return parts.swapaxes(0, 1).reshape(array.shape)
    return array


def llama3_factors(config: Any) -> np.ndarray:
    """As the converter's ``generate_extra_tensors``."""
    rope = config.rope_parameters
    dim = config.head_dim
    context = rope["original_max_position_embeddings"]
    factors = []
    for i in range(0, dim, 2):
        wavelength = 2 * math.pi * rope["rope_theta"] ** (i / dim)
        if wavelength < context / rope["high_freq_factor"]:
            factors.append(1.0)
        elif wavelength > context / rope["low_freq_factor"]:
            factors.append(rope["factor"])
        else:
            low, high = rope["low_freq_factor"], rope["high_freq_factor"]
            smooth = (context / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(factors, np.float32)
