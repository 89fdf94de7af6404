"""The kinds of models, a file for each: what it is stored as, and its forward pass in NumPy.

A family is a module with what ``Family`` lists; nothing else of laplm has to know its names.
"""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn, Protocol, cast

import numpy as np

from laplm.errors import ModelFormatError, shown
from laplm.model.config import ModelConfig
from laplm.model.families.ops import Array, Hook, identity, rms_norm
from laplm.model.tensors import Part, TensorSpec
from laplm.model.weights import Ids, PastKV, Weights


class Family(Protocol):
    """What a module of this folder has."""

    HF_ARCHITECTURE: str
    HF_PREFIX: str
    NO_WEIGHT: re.Pattern[str]

    def config_from_hf(
        self, values: Mapping[str, Any], generation: Mapping[str, Any] | None = None
    ) -> ModelConfig:
        """See ``config_from_hf``."""
        ...

    def config_to_hf(self, config: ModelConfig) -> dict[str, Any]:
        """See ``config_to_hf``."""
        ...

    def tensors(self, config: ModelConfig) -> Iterator[TensorSpec]:
        """See ``tensor_specs``."""
        ...

    def embed(
        self, ids: Ids, positions: Ids, weights: Weights, config: ModelConfig, hook: Hook = ...
    ) -> Array:
        """Token ids (T,) at positions (T,) to the residual stream (T, C)."""
        ...

    def attention(
        self,
        x: Array,
        layer: int,
        weights: Weights,
        config: ModelConfig,
        past: PastKV | None = None,
        hook: Hook = ...,
        last_only: bool = False,
    ) -> Array:
        """What attention adds to the residual stream: (..., T, C) to itself, or (..., 1, C)."""
        ...

    def feed_forward(
        self, x: Array, layer: int, weights: Weights, config: ModelConfig, hook: Hook = ...
    ) -> Array:
        """What the feed-forward adds to the residual stream: (..., T, C) -> (..., T, C)."""
        ...

    def unembed(self, x: Array, weights: Weights, config: ModelConfig, hook: Hook = ...) -> Array:
        """The final norm and the output matrix: residual stream (..., C) to logits (..., V)."""
        ...


FAMILIES = {
    "gpt2": "laplm.model.families.gpt2",
    "llama": "laplm.model.families.llama",
    "mistral": "laplm.model.families.mistral",
    "qwen2": "laplm.model.families.qwen2",
    "qwen3": "laplm.model.families.qwen3",
    "gemma3_text": "laplm.model.families.gemma3",
    "gpt_neox": "laplm.model.families.gpt_neox",
    "smollm3": "laplm.model.families.smollm3",
    "phi3": "laplm.model.families.phi3",
}
"""The modules by ``model_type`` of config.json; imported when a model of the family is opened."""
# By which a mixture of experts is known.
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


def family_named(model_type: str) -> Family:
    """The module of a ``model_type``.

    Raises:
        KeyError: there is none.
    """
    return cast(Family, importlib.import_module(FAMILIES[model_type]))


def family_of(config: ModelConfig) -> Family:
    """The module that a model's config belongs to."""
    return family_named(config.family)


def sublayer_output(
    role: str, x: Array, layer: int, weights: Weights, config: ModelConfig
) -> Array:
    """The end of a sublayer: its output matrix, and the norm after it where there is one.

    Args:
        role: "attn_out", of attention's z as (..., H D); or "down", of the feed-forward's inner
            activations (..., I).
        x: those.
        layer: which.
        weights: the model's.
        config: its sizes.

    Returns:
        What is added to the residual stream, (..., C).
    """
    out = weights.linear(role, layer, x)
    if not config.post_norms:
        return out
    assert config.norm == "rms", "no family has layer norms after its sublayers"
    gain_role = {"attn_out": "post_norm1", "down": "post_norm2"}[role]
    gain = np.float32(config.norm_offset) + weights.vector(gain_role, layer)
    return rms_norm(out, gain, config.norm_eps, gain_role, layer, identity)


def config_from_hf(
    values: Mapping[str, Any], generation: Mapping[str, Any] | None = None
) -> ModelConfig:
    """Read the contents of a Hugging Face ``config.json``.

    Args:
        values: the contents.
        generation: those of the ``generation_config.json`` beside it.

    Raises:
        ModelFormatError: it describes a kind of model that is not known, or its sizes are
            impossible.
    """
    model_type = values.get("model_type", "gpt2")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        _refuse_kind(model_type, values)
    if (by := _quantised_by(values)) is not None:
        refuse_quantised("config.json", by)
    return family_named(model_type).config_from_hf(values, generation)


def _refuse_kind(model_type: object, values: Mapping[str, Any]) -> NoReturn:
    """Say what a model is that laplm does not run, and what to do."""
    kind, known = shown(model_type), ", ".join(FAMILIES)
    if model_type == "gemma3":
        raise ModelFormatError(
            f"config.json: model_type is {kind}, which sees pictures too; take a Gemma 3 of text "
            "alone (270M, 1B), or a GGUF file, which has the language part by itself"
        )
    if "vision_config" in values or "audio_config" in values:
        raise ModelFormatError(
            f"config.json: model_type is {kind}, which sees or hears too; take a model of text "
            f"alone: {known}"
        )
    if any(values.get(name) for name in _EXPERTS) or "moe" in str(model_type):
        raise ModelFormatError(
            f"config.json: model_type is {kind}, a mixture of experts; take one where every weight "
            f"is used for each token: {known}"
        )
    raise ModelFormatError(f"config.json: model_type is {kind}; laplm runs {known}")


def refuse_quantised(where: str, by: str) -> NoReturn:
    """Refuse weights that another program has rounded.

    Raises:
        ModelFormatError: always; names the file, and what is known of the program.
    """
    raise ModelFormatError(
        f"{where}: the weights are quantised ({by}); laplm rounds weights itself, so give it the "
        "model in fp32, fp16 or bf16, or as a GGUF file"
    )


def _quantised_by(values: Mapping[str, Any]) -> str | None:
    how = values.get("quantization_config")
    if values.get("quantization"):  # beside which MLX writes the same as quantization_config
        return "MLX"
    if not isinstance(how, Mapping):
        return None
    if (method := how.get("quant_method")) is not None:
        return shown(method)
    if how.get("load_in_8bit") or how.get("load_in_4bit"):  # as it was written at first
        return "bitsandbytes"
    return "by no method that it names"


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """The Hugging Face ``config.json`` of a model."""
    return family_of(config).config_to_hf(config)


@functools.lru_cache(maxsize=64)
def tensor_specs(config: ModelConfig) -> Mapping[str, TensorSpec]:
    """Every tensor of a model by its name in the checkpoint, in the checkpoint's order.

    The output matrix is listed only where it is not the token embedding.
    """
    return {spec.name: spec for spec in family_of(config).tensors(config)}


@functools.lru_cache(maxsize=64)
def _by_role(config: ModelConfig) -> Mapping[tuple[str, int | None, str], TensorSpec]:
    return {(s.role, s.layer, s.part): s for s in tensor_specs(config).values()}


def tensor_spec(
    config: ModelConfig, role: str, layer: int | None = None, part: Part = "weight"
) -> TensorSpec:
    """The tensor of a role.

    Raises:
        KeyError: the model has none.
    """
    return _by_role(config)[role, layer, part]


def has(config: ModelConfig, role: str, layer: int | None = None, part: Part = "weight") -> bool:
    """Whether a model has a tensor of a role."""
    return (role, layer, part) in _by_role(config)


def tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor by its name in the checkpoint: see ``tensor_specs``."""
    return {name: spec.shape for name, spec in tensor_specs(config).items()}
