"""Phi-3 and Phi-4: Abdin et al. 2024, "Phi-3 Technical Report", section 2.

Llama, with queries, keys and values out of one matrix, gate and up out of another, and heads of
which only a first part may turn.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from laplm.errors import ModelFormatError, shown
from laplm.model.config import ModelConfig
from laplm.model.families.hf import read_window, write_windows
from laplm.model.families.hf_rope import read_rotary_dim, rope_parameters, rotary_share
from laplm.model.families.llama import (
    HF_PREFIX,
    NO_WEIGHT,
    attend,
    embed,
    gated,
    norm,
    unembed,
)
from laplm.model.families.llama_like import list_tensors, read_config, write_config
from laplm.model.families.ops import Array, Hook, identity
from laplm.model.tensors import TensorSpec
from laplm.model.weights import PastKV, Weights

__all__ = ["HF_PREFIX", "NO_WEIGHT", "embed", "unembed"]

HF_ARCHITECTURE = "Phi3ForCausalLM"
_DEFAULTS = {
    "vocab_size": 32064, "hidden_size": 3072, "intermediate_size": 8192, "rms_norm_eps": 1e-5,
    "max_position_embeddings": 4096,
}  # fmt: skip


def config_from_hf(
    values: Mapping[str, Any], generation: Mapping[str, Any] | None = None
) -> ModelConfig:
    """See ``families.config_from_hf``."""
    parameters = rope_parameters({"partial_rotary_factor": 1.0} | dict(values))
    if parameters["rope_type"] != "default":
        raise ModelFormatError(
            f"config.json: rope_type is {shown(parameters['rope_type'])}, which laplm does not run "
            "of Phi-3; take the model with the short context (4k)"
        )
    config = read_config("phi3", values, generation, _DEFAULTS)
    window = (read_window(values),) * config.n_layer
    return dataclasses.replace(
        config, rotary_dim=read_rotary_dim(parameters, config), window=window
    )


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """See ``families.config_to_hf``."""
    window = write_windows(config)["sliding_window"]
    values = write_config(config, HF_ARCHITECTURE) | {"sliding_window": window}
    share = rotary_share(config)
    values["rope_parameters"]["partial_rotary_factor"] = share
    return values | {"partial_rotary_factor": share}


def tensors(config: ModelConfig) -> Iterator[TensorSpec]:
    """Every tensor in the order of the checkpoint; the matrices lie one below the other."""
    c, inner, heads = config.n_embd, config.n_inner, config.n_head * config.head_dim
    kv_heads = config.n_kv_head * config.head_dim
    linear = [
        ("self_attn.o_proj", (c, heads), "attn_out", False),
        ("self_attn.qkv_proj", (heads + 2 * kv_heads, c), "qkv", False),
        ("mlp.gate_up_proj", (2 * inner, c), "gate_up", False),
        ("mlp.down_proj", (c, inner), "down", False),
    ]
    return list_tensors(config, linear)


# --- the model ----------------------------------------------------------------------------------


def attention(
    x: Array,
    layer: int,
    weights: Weights,
    config: ModelConfig,
    past: PastKV | None = None,
    hook: Hook = identity,
    last_only: bool = False,
) -> Array:
    """What attention adds to the residual stream: (..., T, C) -> (..., T, C), or (..., 1, C)."""
    h = norm("norm1", x, layer, weights, config, hook)  # (..., T, C)
    qkv = weights.linear("qkv", layer, h)  # (..., T, (H + 2 H_kv) D)
    qkv = qkv.reshape(*qkv.shape[:-1], -1, config.head_dim)  # (..., T, H + 2 H_kv, D)
    last = config.n_head + config.n_kv_head
    q, k, v = np.split(qkv, (config.n_head, last), axis=-2)  # (..., T, H or H_kv, D)
    return attend(q, k, v, layer, weights, config, past, hook, last_only)


def feed_forward(
    x: Array, layer: int, weights: Weights, config: ModelConfig, hook: Hook = identity
) -> Array:
    """What the feed-forward adds to the residual stream: (..., T, C) -> (..., T, C)."""
    h = norm("norm2", x, layer, weights, config, hook)  # (..., T, C)
    gate, up = np.split(weights.linear("gate_up", layer, h), 2, axis=-1)  # (..., T, I) each
    return gated(gate, up, layer, weights, config, hook)
