"""SmolLM3: Bakouch et al. 2025, "SmolLM3: smol, multilingual, long-context reasoner", architecture.

Llama without positions in every fourth layer (Yang et al. 2025, "Rope to Nope and Back Again").
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from laplm.errors import ModelFormatError
from laplm.model.config import ModelConfig
from laplm.model.families.hf import read_window, read_windows, whole_number
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
from laplm.model.families.qwen2 import write_window_settings

__all__ = ["HF_PREFIX", "NO_WEIGHT", "attention", "embed", "feed_forward", "tensors", "unembed"]

HF_ARCHITECTURE = "SmolLM3ForCausalLM"
_SETTINGS = SETTINGS | {"attn_bias": ("attention_bias",), "mlp_bias": ("mlp_bias",)}
_DEFAULTS = {
    "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36,
    "num_attention_heads": 16, "num_key_value_heads": 4, "max_position_embeddings": 32768,
    "tie_word_embeddings": True,
}  # fmt: skip


def config_from_hf(
    values: Mapping[str, Any], generation: Mapping[str, Any] | None = None
) -> ModelConfig:
    """See ``families.config_from_hf``."""
    config = read_config("smollm3", values, generation, _DEFAULTS, _SETTINGS, theta=2e6)
    interval = whole_number({"no_rope_layer_interval": 4} | dict(values), "no_rope_layer_interval")
    # Despite its name, 1 is a layer that has rotary positions.
    turned = values.get("no_rope_layers")
    if turned is None:
        turned = [(layer + 1) % interval != 0 for layer in range(config.n_layer)]
    if not isinstance(turned, list) or not all(each in (0, 1) for each in turned):
        raise ModelFormatError("config.json: no_rope_layers must be a list of 0 and 1")
    if len(turned) < config.n_layer:
        raise ModelFormatError(
            f"config.json: no_rope_layers is of {len(turned)} layers, but the model has "
            f"{config.n_layer}"
        )
    turned = tuple(map(bool, turned[: config.n_layer]))
    # transformers asks for use_sliding_window only where the file has no layer_types.
    asked = bool(values.get("use_sliding_window"))
    usual = [asked and not each for each in turned]
    return dataclasses.replace(
        config,
        attn_out_bias=config.attn_bias,
        rope_layers=turned,
        window=read_windows(values, read_window(values), usual),
    )


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """See ``families.config_to_hf``."""
    turned = [int(config.uses_rope(layer)) for layer in range(config.n_layer)]
    values = write_config(config, HF_ARCHITECTURE, _SETTINGS) | write_window_settings(config)
    return values | {"no_rope_layers": turned}
