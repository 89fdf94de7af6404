"""GPT-NeoX: Black et al. 2022, "GPT-NeoX-20B", section 2; and Pythia (Biderman et al. 2023).

GPT-2, with rotary positions of a first part of each head (section 2.1.1), and a feed-forward that
reads what attention reads (section 2.1.2). Shapes as in ``ops.py``; V = vocab_size, I = n_inner.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from laplm.model.config import ModelConfig
from laplm.model.families import llama
from laplm.model.families.gpt2 import feed_forward, norm, unembed
from laplm.model.families.hf import with_defaults
from laplm.model.families.hf_rope import read_rotary_dim, rope_parameters, rotary_share
from laplm.model.families.llama import embed
from laplm.model.families.llama_like import read_config, write_config
from laplm.model.families.ops import Array, Hook, identity
from laplm.model.tensors import TensorSpec
from laplm.model.weights import PastKV, Weights

__all__ = ["embed", "feed_forward", "unembed"]

HF_ARCHITECTURE = "GPTNeoXForCausalLM"
HF_PREFIX = "gpt_neox."
# Causal masks and frequencies, which older versions of transformers saved with the weights.
NO_WEIGHT = re.compile(r"\.attention\.(?:bias|masked_bias|rotary_emb\.inv_freq)$")
_SETTINGS = {
    "vocab_size": ("vocab_size",), "n_embd": ("hidden_size",), "n_inner": ("intermediate_size",),
    "n_layer": ("num_hidden_layers",), "n_head": ("num_attention_heads",),
    "n_ctx": ("max_position_embeddings",), "norm_eps": ("layer_norm_eps",),
    "activation": ("hidden_act",), "tied": ("tie_word_embeddings",),
    "attn_bias": ("attention_bias",), "parallel_residual": ("use_parallel_residual",),
}  # fmt: skip
_DEFAULTS = {
    "vocab_size": 50432, "hidden_size": 6144, "intermediate_size": 24576, "num_hidden_layers": 44,
    "num_attention_heads": 64, "max_position_embeddings": 2048, "layer_norm_eps": 1e-5,
    "hidden_act": "gelu", "attention_bias": True, "use_parallel_residual": True,
    "rotary_pct": 0.25, "rotary_emb_base": 10_000.0,
}  # fmt: skip


def config_from_hf(
    values: Mapping[str, Any], generation: Mapping[str, Any] | None = None
) -> ModelConfig:
    """See ``families.config_from_hf``."""
    values = with_defaults(values, _DEFAULTS)
    values |= {
        "rope_theta": values["rotary_emb_base"], "partial_rotary_factor": values["rotary_pct"],
    }  # fmt: skip
    config = read_config(
        "gpt_neox", values, generation, _DEFAULTS, _SETTINGS,
        norm="layer", gated=False, mlp_bias=True,
    )  # fmt: skip
    rotary_dim = read_rotary_dim(rope_parameters(values), config)
    return dataclasses.replace(config, rotary_dim=rotary_dim, attn_out_bias=config.attn_bias)


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """See ``families.config_to_hf``."""
    values, share = write_config(config, HF_ARCHITECTURE, _SETTINGS), rotary_share(config)
    values["rope_parameters"]["partial_rotary_factor"] = share
    return values | {"rotary_pct": share, "rotary_emb_base": config.rope_theta}


def tensors(config: ModelConfig) -> Iterator[TensorSpec]:
    """Every tensor in the order of the checkpoint; matrices are (outputs, inputs)."""
    c, inner, attn_bias = config.n_embd, config.n_inner, config.attn_bias
    yield TensorSpec("embed_in.weight", (config.vocab_size, c), "embed")
    for i in range(config.n_layer):
        for name, shape, role, has_bias in (
            ("input_layernorm", (c,), "norm1", True),
            ("post_attention_layernorm", (c,), "norm2", True),
            ("attention.query_key_value", (3 * c, c), "qkv", attn_bias),
            ("attention.dense", (c, c), "attn_out", attn_bias),
            ("mlp.dense_h_to_4h", (inner, c), "up", True),
            ("mlp.dense_4h_to_h", (c, inner), "down", True),
        ):
            stem, per_head = f"layers.{i}.{name}", role == "qkv"
            yield TensorSpec(f"{stem}.weight", shape, role, i, per_head=per_head)
            if has_bias:
                bias = f"{stem}.bias"
                yield TensorSpec(bias, shape[:1], role, i, part="bias", per_head=per_head)
    yield TensorSpec("final_layer_norm.weight", (c,), "final_norm")
    yield TensorSpec("final_layer_norm.bias", (c,), "final_norm", part="bias")
    if not config.tied:
        yield TensorSpec("embed_out.weight", (config.vocab_size, c), "unembed", hf_prefix=False)


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
    qkv = weights.linear("qkv", layer, h)  # (..., T, 3C)
    heads = qkv.reshape(*qkv.shape[:-1], config.n_head, 3, config.head_dim)
    q, k, v = np.moveaxis(heads, -2, 0)  # (..., T, H, D) each
    return llama.attend(q, k, v, layer, weights, config, past, hook, last_only)
