"""Sizes of models that people keep, as their ``config.json`` has them: for timing alone."""

from __future__ import annotations

from typing import Any

from laplm.model.config import NAMED_SIZES, ModelConfig
from laplm.model.families import config_from_hf

_LLAMA3 = {
    "model_type": "llama", "vocab_size": 128256, "head_dim": 64, "rms_norm_eps": 1e-5,
    "max_position_embeddings": 131072, "tie_word_embeddings": True,
    "rope_parameters": {
        "rope_theta": 500000.0, "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
    },
}  # fmt: skip
_SMOLLM2 = {
    "model_type": "llama", "vocab_size": 49152, "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
    "rope_parameters": {"rope_theta": 100000.0, "rope_type": "default"},
}  # fmt: skip
_QWEN3 = {
    "model_type": "qwen3", "vocab_size": 151936, "head_dim": 128, "num_key_value_heads": 8,
    "max_position_embeddings": 40960, "rms_norm_eps": 1e-6, "tie_word_embeddings": True,
    "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"},
}  # fmt: skip
_GEMMA3 = {
    "model_type": "gemma3_text", "vocab_size": 262144, "head_dim": 256, "num_key_value_heads": 1,
    "num_attention_heads": 4, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6,
    "sliding_window": 512, "query_pre_attn_scalar": 256, "tie_word_embeddings": True,
    "rope_theta": 1000000.0, "rope_local_base_freq": 10000.0, "sliding_window_pattern": 6,
    "hidden_activation": "gelu_pytorch_tanh",
}  # fmt: skip


def _sizes(c: int, inner: int, layers: int, heads: int, kv_heads: int) -> dict[str, int]:
    return {
        "hidden_size": c, "intermediate_size": inner, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads,
    }  # fmt: skip


_VALUES: dict[str, dict[str, Any]] = {
    "smollm2": _SMOLLM2 | _sizes(576, 1536, 30, 9, 3),
    "smollm2-360m": _SMOLLM2 | _sizes(960, 2560, 32, 15, 5),
    "smollm2-1.7b": _SMOLLM2 | _sizes(2048, 8192, 24, 32, 32),
    "llama3.2-1b": _LLAMA3 | _sizes(2048, 8192, 16, 32, 8),
    "llama3.2-3b": _LLAMA3 | {"head_dim": 128} | _sizes(3072, 8192, 28, 24, 8),
    "qwen2.5-0.5b": {
        "model_type": "qwen2", "vocab_size": 151936, "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6, "tie_word_embeddings": True,
        "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"},
    } | _sizes(896, 4864, 24, 14, 2),
    "qwen3-0.6b": _QWEN3 | _sizes(1024, 3072, 28, 16, 8),
    "qwen3-1.7b": _QWEN3 | _sizes(2048, 6144, 28, 16, 8),
    "gemma3-270m": _GEMMA3 | _sizes(640, 2048, 18, 4, 1),
    "gemma3-1b": _GEMMA3 | _sizes(1152, 6912, 26, 4, 1),
    "pythia-160m": {
        "model_type": "gpt_neox", "vocab_size": 50304, "max_position_embeddings": 2048,
        "layer_norm_eps": 1e-5, "rotary_pct": 0.25, "tie_word_embeddings": False,
    } | _sizes(768, 3072, 12, 12, 12),
}  # fmt: skip
SHAPES: dict[str, ModelConfig] = NAMED_SIZES | {
    name: config_from_hf(values) for name, values in _VALUES.items()
}
"""By the names that ``laplm pull`` knows them by."""
