"""What the files of families that descend from Llama have alike: settings and names of tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from laplm.model.config import ModelConfig
from laplm.model.families.hf import (
    Names,
    read_settings,
    special_token_ids,
    with_defaults,
    write_token_ids,
)
from laplm.model.families.hf_rope import read_rope, rope_parameters, write_rope
from laplm.model.tensors import TensorSpec

SETTINGS = {
    "vocab_size": ("vocab_size",), "n_embd": ("hidden_size",), "n_inner": ("intermediate_size",),
    "n_layer": ("num_hidden_layers",), "n_head": ("num_attention_heads",),
    "n_kv_head": ("num_key_value_heads",), "head_dim": ("head_dim",),
    "n_ctx": ("max_position_embeddings",), "norm_eps": ("rms_norm_eps",),
    "activation": ("hidden_act",), "tied": ("tie_word_embeddings",),
}  # fmt: skip
# What transformers takes where a file is silent.
DEFAULTS = {
    "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "rms_norm_eps": 1e-6,
    "hidden_act": "silu", "tie_word_embeddings": False, "attention_bias": False,
    "mlp_bias": False,
}  # fmt: skip
NORMS = {"norm1": "input_layernorm", "norm2": "post_attention_layernorm"}
LinearLayers = Sequence[tuple[str, tuple[int, int], str, bool]]
"""Of each its name, shape and role, and whether it has a bias."""


def read_config(
    family: str,
    values: Mapping[str, Any],
    generation: Mapping[str, Any] | None,
    defaults: Mapping[str, Any],
    settings: Names = SETTINGS,
    theta: float = 10_000.0,
    **fields: Any,
) -> ModelConfig:
    """The config of one of these families.

    Args:
        family: its ``model_type``.
        values: contents of ``config.json``.
        generation: those of ``generation_config.json``.
        defaults: its own, beside ``DEFAULTS``.
        settings: the names in the file of what it says.
        theta: base of the rotary wavelengths where it says none.
        fields: what it does not say.

    Raises:
        ModelFormatError: a setting is impossible.
    """
    values = with_defaults(values, DEFAULTS | dict(defaults))
    always = {"family": family, "norm": "rms", "positions": "rope", "gated": True}
    fields = always | {"attn_bias": False, "attn_out_bias": False, "mlp_bias": False} | fields
    fields = {name: value for name, value in fields.items() if name not in settings}
    config = read_settings(values, settings, **fields)
    original = values.get("original_max_position_embeddings")
    fields |= read_rope(rope_parameters(values, theta), config, original)
    fields |= special_token_ids(values, generation, config)
    return read_settings(values, settings, **fields)


def write_config(
    config: ModelConfig, architecture: str, settings: Names = SETTINGS
) -> dict[str, Any]:
    """What ``read_config`` reads."""
    return {
        "architectures": [architecture],
        "model_type": config.family,
        **{names[0]: getattr(config, field) for field, names in settings.items()},
        **write_rope(config),
        **write_token_ids(config),
    }


def linear_layers(config: ModelConfig) -> LinearLayers:
    """Those of each layer; matrices are (outputs, inputs)."""
    c, inner, heads = config.n_embd, config.n_inner, config.n_head * config.head_dim
    kv_heads = config.n_kv_head * config.head_dim
    return [
        ("self_attn.q_proj", (heads, c), "q", config.attn_bias),
        ("self_attn.k_proj", (kv_heads, c), "k", config.attn_bias),
        ("self_attn.v_proj", (kv_heads, c), "v", config.attn_bias),
        ("self_attn.o_proj", (c, heads), "attn_out", config.attn_out_bias),
        ("mlp.gate_proj", (inner, c), "gate", config.mlp_bias),
        ("mlp.up_proj", (inner, c), "up", config.mlp_bias),
        ("mlp.down_proj", (c, inner), "down", config.mlp_bias),
    ]


def list_tensors(
    config: ModelConfig, linear: LinearLayers, norms: Mapping[str, str] = NORMS
) -> Iterator[TensorSpec]:
    """Every tensor in the order of the checkpoint.

    Args:
        config: the sizes.
        linear: the linear layers of each layer.
        norms: names of its norms by role.
    """
    c = config.n_embd
    yield TensorSpec("embed_tokens.weight", (config.vocab_size, c), "embed")
    for i in range(config.n_layer):
        for name, shape, role, has_bias in linear:
            yield TensorSpec(f"layers.{i}.{name}.weight", shape, role, i)
            if has_bias:
                yield TensorSpec(f"layers.{i}.{name}.bias", shape[:1], role, i, part="bias")
        for role in ("q_norm", "k_norm") if config.qk_norm else ():
            yield TensorSpec(f"layers.{i}.self_attn.{role}.weight", (config.head_dim,), role, i)
        for role, name in norms.items():
            yield TensorSpec(f"layers.{i}.{name}.weight", (c,), role, i)
    yield TensorSpec("norm.weight", (c,), "final_norm")
    if not config.tied:
        yield TensorSpec("lm_head.weight", (config.vocab_size, c), "unembed", hf_prefix=False)
