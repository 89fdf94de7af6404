"""A family that laplm does not have: RMS norm, rotary positions, shared key heads, a gate."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from laplm.model.config import ModelConfig
from laplm.model.families.activation import activation
from laplm.model.families.hf import read_settings, special_token_ids
from laplm.model.families.ops import Array, Hook, causal_attention, identity, rms_norm
from laplm.model.families.rope import rope, rope_cos_sin
from laplm.model.tensors import TensorSpec
from laplm.model.weights import Ids, PastKV, Weights

HF_ARCHITECTURE = "ToyForCausalLM"
HF_PREFIX = "model."
NO_WEIGHT = re.compile(r"rotary_emb\.inv_freq$")
_SETTINGS = {
    "vocab_size": ("vocab_size",), "n_embd": ("hidden_size",), "n_inner": ("intermediate_size",),
    "n_ctx": ("max_position_embeddings",), "n_layer": ("num_hidden_layers",),
    "n_head": ("num_attention_heads",), "n_kv_head": ("num_key_value_heads",),
    "norm_eps": ("rms_norm_eps",), "rope_theta": ("rope_theta",), "activation": ("hidden_act",),
    "tied": ("tie_word_embeddings",),
}  # fmt: skip
_ALWAYS = {
    "family": "toy", "norm": "rms", "positions": "rope", "gated": True, "attn_bias": False,
    "mlp_bias": False,
}  # fmt: skip


def config_from_hf(
    values: Mapping[str, Any], generation: Mapping[str, Any] | None = None
) -> ModelConfig:
    names = _SETTINGS | {name: (name,) for name in _ALWAYS}
    config = read_settings({"hidden_act": "silu"} | dict(values) | _ALWAYS, names)
    return ModelConfig(**vars(config) | special_token_ids(values, generation, config, default=0))


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    values = {names[0]: getattr(config, field) for field, names in _SETTINGS.items()}
    return values | {"model_type": "toy", "eos_token_id": config.eos_token_id}


def tensors(config: ModelConfig) -> Iterator[TensorSpec]:
    c, inner, d = config.n_embd, config.n_inner, config.head_dim
    yield TensorSpec("embed_tokens.weight", (config.vocab_size, c), "embed")
    for i in range(config.n_layer):
        for name, shape, role in (
            ("input_layernorm", (c,), "norm1"),
            ("self_attn.q_proj", (config.n_head * d, c), "q"),
            ("self_attn.k_proj", (config.n_kv_head * d, c), "k"),
            ("self_attn.v_proj", (config.n_kv_head * d, c), "v"),
            ("self_attn.o_proj", (c, config.n_head * d), "attn_out"),
            ("post_attention_layernorm", (c,), "norm2"),
            ("mlp.gate_proj", (inner, c), "gate"),
            ("mlp.up_proj", (inner, c), "up"),
            ("mlp.down_proj", (c, inner), "down"),
        ):
            yield TensorSpec(f"layers.{i}.{name}.weight", shape, role, i)
    yield TensorSpec("norm.weight", (c,), "final_norm")
    if not config.tied:
        yield TensorSpec("lm_head.weight", (config.vocab_size, c), "unembed", hf_prefix=False)


def embed(
    ids: Ids, positions: Ids, weights: Weights, config: ModelConfig, hook: Hook = identity
) -> Array:
    return hook("embed", None, weights.rows("embed", ids))  # (T, C)


def attention(
    x: Array, layer: int, weights: Weights, config: ModelConfig, past: PastKV | None = None,
    hook: Hook = identity, last_only: bool = False,
) -> Array:  # fmt: skip
    h = rms_norm(x, weights.vector("norm1", layer), config.norm_eps, "ln1", layer, hook)
    q, k, v = (
        hook(role, layer, heads.reshape(*heads.shape[:-1], -1, config.head_dim))
        for role in ("q", "k", "v")
        for heads in [weights.linear(role, layer, h)]
    )  # (..., T, H, D), and (..., T, H_kv, D) twice
    positions = np.arange(x.shape[-2]) + (0 if past is None else past.length)
    cos, sin = rope_cos_sin(config, layer, positions)  # (T, D / 2) each
    q = hook("rot_q", layer, rope(q, cos, sin))  # (..., T, H, D)
    k = hook("rot_k", layer, rope(k, cos, sin))  # (..., T, H_kv, D)
    if past is not None:
        k, v = past.extend(layer, k, v)  # (..., P + T, H_kv, D)
    q = q[..., -1:, :, :] if last_only else q
    z = causal_attention(q, k, v, config.head_dim**-0.5, layer, hook)  # (..., T, H, D)
    return weights.linear("attn_out", layer, z.reshape(*z.shape[:-2], -1))  # (..., T, C)


def feed_forward(
    x: Array, layer: int, weights: Weights, config: ModelConfig, hook: Hook = identity
) -> Array:
    h = rms_norm(x, weights.vector("norm2", layer), config.norm_eps, "ln2", layer, hook)
    gate = activation(config.activation, hook("mlp_pre", layer, weights.linear("gate", layer, h)))
    up = hook("mlp_pre_linear", layer, weights.linear("up", layer, h))  # (..., T, I)
    return weights.linear("down", layer, hook("mlp_post", layer, gate * up))  # (..., T, C)


def unembed(x: Array, weights: Weights, config: ModelConfig, hook: Hook = identity) -> Array:
    gain = weights.vector("final_norm")
    x = rms_norm(x, gain, config.norm_eps, "ln_final", None, hook)  # (..., C)
    return hook("logits", None, weights.unembed(x))  # (..., V)
