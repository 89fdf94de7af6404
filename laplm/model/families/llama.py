"""Llama: Touvron et al. 2023, "LLaMA: Open and Efficient Foundation Language Models", section 2.2.

Llama 2 and 3 (Grattafiori et al. 2024, "The Llama 3 Herd of Models", section 3.2), SmolLM2 and
TinyLlama are this architecture. Later families change a little of it: their files say what, and
have the rest from here. Read it beside ``gpt2.py``. Shapes as in ``ops.py``; V = vocab_size,
I = n_inner, R = rotary_dim.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from laplm.model.config import ModelConfig
from laplm.model.families import ops
from laplm.model.families.activation import activation
from laplm.model.families.llama_like import (
    SETTINGS,
    linear_layers,
    list_tensors,
    read_config,
    write_config,
)
from laplm.model.families.ops import Array, Hook, identity
from laplm.model.families.rope import rope, rope_cos_sin
from laplm.model.tensors import TensorSpec
from laplm.model.weights import Ids, PastKV, Weights

HF_ARCHITECTURE = "LlamaForCausalLM"
HF_PREFIX = "model."
NO_WEIGHT = re.compile(r"(?:^|\.)rotary_emb\.inv_freq$")  # saved by older versions of transformers
_SETTINGS = SETTINGS | {"attn_bias": ("attention_bias",), "mlp_bias": ("mlp_bias",)}
_DEFAULTS = {"vocab_size": 32000, "intermediate_size": 11008, "max_position_embeddings": 2048}


def config_from_hf(
    values: Mapping[str, Any], generation: Mapping[str, Any] | None = None
) -> ModelConfig:
    """See ``families.config_from_hf``."""
    config = read_config("llama", values, generation, _DEFAULTS, _SETTINGS)
    return dataclasses.replace(config, attn_out_bias=config.attn_bias)


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """See ``families.config_to_hf``."""
    return write_config(config, HF_ARCHITECTURE, _SETTINGS)


def tensors(config: ModelConfig) -> Iterator[TensorSpec]:
    """Every tensor in the order of the checkpoint."""
    return list_tensors(config, linear_layers(config))


# --- the model ----------------------------------------------------------------------------------


def embed(
    ids: Ids, positions: Ids, weights: Weights, config: ModelConfig, hook: Hook = identity
) -> Array:
    """Token ids (T,) to the residual stream (T, C); positions come in by rotation."""
    return hook("embed", None, weights.rows("embed", ids))  # (T, C)


def norm(
    role: str, x: Array, layer: int | None, weights: Weights, config: ModelConfig, hook: Hook
) -> Array:
    """RMS norm of the residual stream, or of each head: (..., C) -> (..., C)."""
    name = {
        "norm1": "ln1", "post_norm1": "ln1_post", "norm2": "ln2", "post_norm2": "ln2_post",
        "final_norm": "ln_final",
    }.get(role, role)  # fmt: skip
    gain = np.float32(config.norm_offset) + weights.vector(role, layer)  # (C)
    return ops.rms_norm(x, gain, config.norm_eps, name, layer, hook)


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
    q, k, v = (weights.linear(role, layer, h) for role in ("q", "k", "v"))
    q, k, v = (m.reshape(*m.shape[:-1], -1, config.head_dim) for m in (q, k, v))
    return attend(q, k, v, layer, weights, config, past, hook, last_only)


def attend(
    q: Array,
    k: Array,
    v: Array,
    layer: int,
    weights: Weights,
    config: ModelConfig,
    past: PastKV | None,
    hook: Hook,
    last_only: bool,
) -> Array:
    """Queries (..., T, H, D), keys and values (..., T, H_kv, D) to what attention adds."""
    q, k, v = hook("q", layer, q), hook("k", layer, k), hook("v", layer, v)
    if config.qk_norm:
        q = norm("q_norm", q, layer, weights, config, hook)  # (..., T, H, D)
        k = norm("k_norm", k, layer, weights, config, hook)  # (..., T, H_kv, D)
    if config.uses_rope(layer):
        positions = np.arange(q.shape[-3]) + (0 if past is None else past.length)
        cos, sin = rope_cos_sin(config, layer, positions)  # (T, R / 2) each
        q, k = rope(q, cos, sin), rope(k, cos, sin)
    q, k = hook("rot_q", layer, q), hook("rot_k", layer, k)
    if past is not None:
        k, v = past.extend(layer, k, v)  # (..., P + T, H_kv, D) each
    if last_only:
        q = q[..., -1:, :, :]  # (..., 1, H, D)
    scale, window = config.attention_scale(layer), config.layer_window(layer)
    z = ops.causal_attention(q, k, v, scale, layer, hook, window)  # (..., T, H, D)
    return weights.linear("attn_out", layer, z.reshape(*z.shape[:-2], -1))  # (..., T, C)


def feed_forward(
    x: Array, layer: int, weights: Weights, config: ModelConfig, hook: Hook = identity
) -> Array:
    """What the feed-forward adds to the residual stream: (..., T, C) -> (..., T, C).

    Source: Shazeer 2020, "GLU Variants Improve Transformer", section 2.
    """
    h = norm("norm2", x, layer, weights, config, hook)  # (..., T, C)
    gate, up = (weights.linear(role, layer, h) for role in ("gate", "up"))  # (..., T, I) each
    return gated(gate, up, layer, weights, config, hook)


def gated(
    gate: Array, up: Array, layer: int, weights: Weights, config: ModelConfig, hook: Hook
) -> Array:
    """The gate's and the up matrix's outputs (..., T, I) to what the feed-forward adds."""
    gate, up = hook("mlp_pre", layer, gate), hook("mlp_pre_linear", layer, up)
    inner = hook("mlp_post", layer, activation(config.activation, gate) * up)  # (..., T, I)
    return weights.linear("down", layer, inner)  # (..., T, C)


def unembed(x: Array, weights: Weights, config: ModelConfig, hook: Hook = identity) -> Array:
    """The final norm and the output matrix: residual stream (..., C) to logits (..., V)."""
    x = norm("final_norm", x, None, weights, config, hook)  # (..., C)
    return hook("logits", None, weights.unembed(x))  # (..., V)
