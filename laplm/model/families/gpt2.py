"""GPT-2: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners".

Read it top to bottom: what it is stored as, then the model. Only here stand the names that GPT-2's
checkpoint gives to its tensors. Shapes as in ``ops.py``; V = vocab_size, I = n_inner.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from laplm.errors import ModelFormatError
from laplm.model.config import ModelConfig
from laplm.model.families.activation import activation
from laplm.model.families.hf import read_settings, special_token_ids, write_token_ids
from laplm.model.families.ops import Array, Hook, causal_attention, identity, layer_norm
from laplm.model.tensors import TensorSpec
from laplm.model.weights import Ids, PastKV, Weights

HF_ARCHITECTURE = "GPT2LMHeadModel"
HF_PREFIX = "transformer."  # before all names but the output matrix's; some files leave it out
# Causal masks, which older versions of transformers saved with the weights.
NO_WEIGHT = re.compile(r"(?:^|\.)attn\.(?:bias|masked_bias)$")
# The names in config.json, and the one that transformers prefers where both stand.
_SETTINGS = {
    "vocab_size": ("vocab_size",), "n_embd": ("hidden_size", "n_embd"),
    "n_ctx": ("max_position_embeddings", "n_positions", "n_ctx"),
    "n_layer": ("num_hidden_layers", "n_layer"), "n_head": ("num_attention_heads", "n_head"),
    "n_inner": ("n_inner",), "activation": ("activation_function",),
    "norm_eps": ("layer_norm_epsilon",), "tied": ("tie_word_embeddings",),
    "scale_attn_weights": ("scale_attn_weights",),
    "scale_attn_by_inverse_layer_idx": ("scale_attn_by_inverse_layer_idx",),
}  # fmt: skip


def config_from_hf(
    values: Mapping[str, Any], generation: Mapping[str, Any] | None = None
) -> ModelConfig:
    """See ``families.config_from_hf``."""
    if values.get("add_cross_attention"):
        raise ModelFormatError(
            "config.json: add_cross_attention is on; laplm runs decoder-only GPT-2 models"
        )
    config = read_settings(values, _SETTINGS)
    return dataclasses.replace(
        config, **special_token_ids(values, generation, config, default=50256)
    )


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """See ``families.config_to_hf``."""
    values = {names[-1]: getattr(config, field) for field, names in _SETTINGS.items()}
    return {
        "architectures": [HF_ARCHITECTURE],
        "model_type": "gpt2",
        **values,
        "n_positions": config.n_ctx,
        **write_token_ids(config),
    }


def tensors(config: ModelConfig) -> Iterator[TensorSpec]:
    """Every tensor in the order of the checkpoint; matrices are (inputs, outputs) in the layers."""
    c, inner = config.n_embd, config.n_inner
    yield TensorSpec("wte.weight", (config.vocab_size, c), "embed")
    yield TensorSpec("wpe.weight", (config.n_ctx, c), "pos_embed")
    for i in range(config.n_layer):
        for name, shape, role in (
            ("ln_1", (c,), "norm1"),
            ("attn.c_attn", (c, 3 * c), "qkv"),
            ("attn.c_proj", (c, c), "attn_out"),
            ("ln_2", (c,), "norm2"),
            ("mlp.c_fc", (c, inner), "up"),
            ("mlp.c_proj", (inner, c), "down"),
        ):
            yield TensorSpec(f"h.{i}.{name}.weight", shape, role, i, layout="in_out")
            yield TensorSpec(f"h.{i}.{name}.bias", shape[-1:], role, i, part="bias")
    yield TensorSpec("ln_f.weight", (c,), "final_norm")
    yield TensorSpec("ln_f.bias", (c,), "final_norm", part="bias")
    if not config.tied:
        yield TensorSpec("lm_head.weight", (config.vocab_size, c), "unembed", hf_prefix=False)


# --- the model ----------------------------------------------------------------------------------


def embed(
    ids: Ids, positions: Ids, weights: Weights, config: ModelConfig, hook: Hook = identity
) -> Array:
    """Token ids (T,) at positions (T,) to the residual stream (T, C)."""
    tokens = hook("embed", None, weights.rows("embed", ids))  # (T, C)
    return tokens + hook("pos_embed", None, weights.rows("pos_embed", positions))  # (T, C)


def norm(
    role: str, x: Array, layer: int | None, weights: Weights, config: ModelConfig, hook: Hook
) -> Array:
    """Layer norm before a sublayer, or the final one: (..., C) -> (..., C)."""
    name = {"norm1": "ln1", "norm2": "ln2", "final_norm": "ln_final"}[role]
    gain, bias = (weights.vector(role, layer, part) for part in ("weight", "bias"))
    return layer_norm(x, gain, bias, config.norm_eps, name, layer, hook)


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
    qkv = weights.linear("qkv", layer, h)  # (..., T, 3C)
    heads = qkv.reshape(*qkv.shape[:-1], 3, config.n_head, config.head_dim)
    q, k, v = np.moveaxis(heads, -3, 0)  # (..., T, H, D) each
    q, k, v = hook("q", layer, q), hook("k", layer, k), hook("v", layer, v)
    if past is not None:
        k, v = past.extend(layer, k, v)  # (..., P + T, H, D) each
    if last_only:
        q = q[..., -1:, :, :]  # (..., 1, H, D)
    z = causal_attention(q, k, v, config.attention_scale(layer), layer, hook)  # (..., T, H, D)
    return weights.linear("attn_out", layer, z.reshape(*z.shape[:-2], -1))  # (..., T, C)


def feed_forward(
    x: Array, layer: int, weights: Weights, config: ModelConfig, hook: Hook = identity
) -> Array:
    """What the feed-forward adds to the residual stream: (..., T, C) -> (..., T, C)."""
    h = norm("norm2", x, layer, weights, config, hook)  # (..., T, C)
    inner = hook("mlp_pre", layer, weights.linear("up", layer, h))  # (..., T, I)
    inner = hook("mlp_post", layer, activation(config.activation, inner))  # (..., T, I)
    return weights.linear("down", layer, inner)  # (..., T, C)


def unembed(x: Array, weights: Weights, config: ModelConfig, hook: Hook = identity) -> Array:
    """The final norm and the output matrix: residual stream (..., C) to logits (..., V)."""
    x = norm("final_norm", x, None, weights, config, hook)  # (..., C)
    return hook("logits", None, weights.unembed(x))  # (..., V)
