"""Qwen 2 and 2.5: Yang et al. 2024, "Qwen2 Technical Report", section 2.2.1.

Llama, with biases on queries, keys and values, and windows in the later layers where a file asks
for them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from laplm.model.config import ModelConfig
from laplm.model.families.hf import read_window, read_windows, whole_number, write_windows
from laplm.model.families.llama import (
    HF_PREFIX,
    NO_WEIGHT,
    attention,
    embed,
    feed_forward,
    tensors,
    unembed,
)
from laplm.model.families.llama_like import read_config, write_config

__all__ = ["HF_PREFIX", "NO_WEIGHT", "attention", "embed", "feed_forward", "tensors", "unembed"]

HF_ARCHITECTURE = "Qwen2ForCausalLM"
DEFAULTS = {
    "vocab_size": 151936, "intermediate_size": 22016, "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
}  # fmt: skip


def config_from_hf(
    values: Mapping[str, Any], generation: Mapping[str, Any] | None = None
) -> ModelConfig:
    """See ``families.config_from_hf``."""
    config = read_config("qwen2", values, generation, DEFAULTS, attn_bias=True)
    return dataclasses.replace(config, window=layer_windows(values, config.n_layer))


def layer_windows(values: Mapping[str, Any], n_layer: int) -> tuple[int | None, ...]:
    """Of each layer: only with ``use_sliding_window``, and from ``max_window_layers`` on."""
    values = {"sliding_window": 4096, "max_window_layers": 28} | dict(values)
    first = whole_number(values, "max_window_layers", least=0)
    window = read_window(values) if values.get("use_sliding_window") else None
    return read_windows(values, window, [layer >= first for layer in range(n_layer)])


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """See ``families.config_to_hf``."""
    return write_config(config, HF_ARCHITECTURE) | write_window_settings(config)


def write_window_settings(config: ModelConfig) -> dict[str, Any]:
    """What ``layer_windows`` reads."""
    return {"use_sliding_window": bool(config.window), **write_windows(config)}
