"""Qwen 3: Yang et al. 2025, "Qwen3 Technical Report", section 2.

Qwen 2 without its biases, and with an RMS norm on each head's queries and keys.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from laplm.model.config import ModelConfig
from laplm.model.families import qwen2
from laplm.model.families.llama import (
    HF_PREFIX,
    NO_WEIGHT,
    attention,
    embed,
    feed_forward,
    tensors,
    unembed,
)
from laplm.model.families.llama_like import SETTINGS, read_config, write_config

__all__ = ["HF_PREFIX", "NO_WEIGHT", "attention", "embed", "feed_forward", "tensors", "unembed"]

HF_ARCHITECTURE = "Qwen3ForCausalLM"
_SETTINGS = SETTINGS | {"attn_bias": ("attention_bias",)}
_DEFAULTS = qwen2.DEFAULTS | {"head_dim": 128}


def config_from_hf(
    values: Mapping[str, Any], generation: Mapping[str, Any] | None = None
) -> ModelConfig:
    """See ``families.config_from_hf``."""
    config = read_config("qwen3", values, generation, _DEFAULTS, _SETTINGS, qk_norm=True)
    window = qwen2.layer_windows(values, config.n_layer)
    return dataclasses.replace(config, window=window, attn_out_bias=config.attn_bias)


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """See ``families.config_to_hf``."""
    values = write_config(config, HF_ARCHITECTURE, _SETTINGS)
    return values | qwen2.write_window_settings(config)
