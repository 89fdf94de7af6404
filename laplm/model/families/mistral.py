"""Mistral: Jiang et al. 2023, "Mistral 7B", section 2: Llama, with a window in every layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from laplm.model.config import ModelConfig
from laplm.model.families.hf import read_window, write_windows
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

HF_ARCHITECTURE = "MistralForCausalLM"
_DEFAULTS = {
    "vocab_size": 32000, "intermediate_size": 14336, "num_key_value_heads": 8,
    "max_position_embeddings": 131072, "sliding_window": 4096,
}  # fmt: skip


def config_from_hf(
    values: Mapping[str, Any], generation: Mapping[str, Any] | None = None
) -> ModelConfig:
    """See ``families.config_from_hf``."""
    config = read_config("mistral", values, generation, _DEFAULTS)
    window = read_window(_DEFAULTS | dict(values))  # null: none
    return dataclasses.replace(config, window=(window,) * config.n_layer)


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """See ``families.config_to_hf``."""
    window = write_windows(config)["sliding_window"]
    return write_config(config, HF_ARCHITECTURE) | {"sliding_window": window}
