"""Gemma 3, its language part: Gemma Team 2025, "Gemma 3 Technical Report", section 2.

Llama, with token embeddings scaled by sqrt(C), norms after each sublayer too and on each head's
queries and keys, their gains stored less 1, and five local layers, which see a window and have a
rotary base of their own, to each global one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from laplm.errors import ModelFormatError, shown
from laplm.model.config import ModelConfig
from laplm.model.families import hf, llama
from laplm.model.families.hf_rope import rope_parameters
from laplm.model.families.llama import HF_PREFIX, NO_WEIGHT, norm, unembed
from laplm.model.families.llama_like import (
    SETTINGS,
    linear_layers,
    list_tensors,
    read_config,
    write_config,
)
from laplm.model.families.ops import Array, Hook, identity
from laplm.model.tensors import TensorSpec
from laplm.model.weights import Ids, PastKV, Weights

__all__ = ["HF_PREFIX", "NO_WEIGHT", "unembed"]

HF_ARCHITECTURE = "Gemma3ForCausalLM"
_SETTINGS = SETTINGS | {
    "activation": ("hidden_activation",), "attn_bias": ("attention_bias",),
}  # fmt: skip
_DEFAULTS = {
    "vocab_size": 262208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "rms_norm_eps": 1e-6,
    "max_position_embeddings": 131072, "hidden_activation": "gelu_pytorch_tanh",
    "tie_word_embeddings": True, "query_pre_attn_scalar": 256, "sliding_window": 4096,
    "sliding_window_pattern": 6,
}  # fmt: skip
_NORMS = {
    "norm1": "input_layernorm", "post_norm1": "post_attention_layernorm",
    "norm2": "pre_feedforward_layernorm", "post_norm2": "post_feedforward_layernorm",
}  # fmt: skip
# What no published Gemma 3 asks for.
_OFF = ("attn_logit_softcapping", "final_logit_softcapping", "use_bidirectional_attention")
_GLOBAL, _LOCAL = "full_attention", "sliding_attention"


def config_from_hf(
    values: Mapping[str, Any], generation: Mapping[str, Any] | None = None
) -> ModelConfig:
    """See ``families.config_from_hf``."""
    for name in _OFF:
        if values.get(name):
            raise ModelFormatError(
                f"config.json: {name} is {shown(values[name])}, which laplm does not run; take a "
                "Gemma 3 as Google publishes it"
            )
    values = hf.with_defaults(values, _DEFAULTS)
    parameters = values.get("rope_parameters") or {}  # of both kinds of layers since transformers 5
    by_kind = isinstance(parameters, Mapping) and not {_GLOBAL, _LOCAL}.isdisjoint(parameters)
    if by_kind:
        values["rope_parameters"] = parameters.get(_GLOBAL)
    local = rope_parameters(
        {
            "rope_theta": values.get("rope_local_base_freq"),
            "rope_parameters": parameters.get(_LOCAL) if by_kind else None,
        }
    )
    if local["rope_type"] != "default":
        raise ModelFormatError(
            f"config.json: rope_type of {_LOCAL} is {shown(local['rope_type'])}; laplm scales "
            f"rotary positions in {_GLOBAL} alone, as Google's models do"
        )
    scalar = hf.whole_number(values, "query_pre_attn_scalar")
    config = read_config(
        "gemma3_text", values, generation, _DEFAULTS, _SETTINGS, theta=1e6,
        norm_offset=1.0, post_norms=True, qk_norm=True, attn_scale=scalar**-0.5,
        rope_local_theta=local["rope_theta"],
    )  # fmt: skip
    every = hf.whole_number(values, "sliding_window_pattern")
    usual = [(layer + 1) % every != 0 for layer in range(config.n_layer)]
    return dataclasses.replace(
        config,
        attn_out_bias=config.attn_bias,
        embed_scale=float(np.float32(math.sqrt(config.n_embd))),
        window=hf.read_windows(values, hf.read_window(values), usual),
    )


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """See ``families.config_to_hf``."""
    values = write_config(config, HF_ARCHITECTURE, _SETTINGS) | hf.write_windows(config)
    local = {"rope_theta": config.rope_local_theta, "rope_type": "default"}
    return values | {
        "query_pre_attn_scalar": round(config.attention_scale(0) ** -2),
        "rope_local_base_freq": config.rope_local_theta,
        "rope_parameters": {_GLOBAL: values["rope_parameters"], _LOCAL: local},
        "sliding_window": values["sliding_window"] or config.n_ctx,  # transformers wants one
    }


def tensors(config: ModelConfig) -> Iterator[TensorSpec]:
    """Every tensor in the order of the checkpoint."""
    return list_tensors(config, linear_layers(config), _NORMS)


# --- the model ----------------------------------------------------------------------------------


def embed(
    ids: Ids, positions: Ids, weights: Weights, config: ModelConfig, hook: Hook = identity
) -> Array:
    """Token ids (T,) to the residual stream (T, C)."""
    tokens = weights.rows("embed", ids) * np.float32(config.embed_scale)  # (T, C)
    return hook("embed", None, tokens)


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
    out = llama.attention(x, layer, weights, config, past, hook, last_only)  # (..., T, C)
    return norm("post_norm1", out, layer, weights, config, hook)


def feed_forward(
    x: Array, layer: int, weights: Weights, config: ModelConfig, hook: Hook = identity
) -> Array:
    """What the feed-forward adds to the residual stream: (..., T, C) -> (..., T, C)."""
    out = llama.feed_forward(x, layer, weights, config, hook)  # (..., T, C)
    return norm("post_norm2", out, layer, weights, config, hook)
