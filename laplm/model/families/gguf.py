"""The families in llama.cpp's words: settings and names of tensors in GGUF files.

A GGUF file has no ``config.json``: what a model is stands in settings such as
``llama.attention.head_count``, and in which tensors there are.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from laplm.errors import ModelFormatError, shown
from laplm.model.config import ModelConfig, RopeScaling
from laplm.model.tensors import TensorSpec

Shapes = Mapping[str, tuple[int, ...]]

# Names of tensors by role; those of a layer N begin with blk.N.
_STEMS = {
    "embed": "token_embd", "pos_embed": "position_embd", "norm1": "attn_norm", "q": "attn_q",
    "k": "attn_k", "v": "attn_v", "qkv": "attn_qkv", "q_norm": "attn_q_norm",
    "k_norm": "attn_k_norm", "attn_out": "attn_output", "post_norm1": "post_attention_norm",
    "norm2": "ffn_norm", "gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down",
    "post_norm2": "post_ffw_norm", "final_norm": "output_norm", "unembed": "output",
}  # fmt: skip
ROPE_FACTORS = "rope_freqs.weight"
"""By what each rotary frequency is divided: Llama 3's scaling, worked out."""

# Fields of ``ModelConfig`` by their settings, all behind the architecture's name.
_SETTINGS = {
    "n_ctx": "context_length", "n_embd": "embedding_length", "n_layer": "block_count",
    "n_head": "attention.head_count", "n_inner": "feed_forward_length",
}  # fmt: skip
_OPTIONAL = {
    "n_kv_head": "attention.head_count_kv", "head_dim": "attention.key_length",
    "rotary_dim": "rope.dimension_count", "rope_theta": "rope.freq_base",
}  # fmt: skip
_BIASED = {"attn_bias": "attn_q", "attn_out_bias": "attn_output", "mlp_bias": "ffn_up"}
_EPS = {"layer": "attention.layer_norm_epsilon", "rms": "attention.layer_norm_rms_epsilon"}

_ROPE: dict[str, Any] = {"positions": "rope", "attn_bias": False, "attn_out_bias": False,
                         "mlp_bias": False}  # fmt: skip
_LLAMA: dict[str, Any] = {**_ROPE, "norm": "rms", "gated": True, "activation": "silu"}
# What llama.cpp takes for granted of an architecture; the first is the family.
_ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {}),
    "llama": ("llama", _LLAMA),
    "qwen2": ("qwen2", {**_LLAMA, "attn_bias": True}),
    "qwen3": ("qwen3", {**_LLAMA, "qk_norm": True}),
    "smollm3": ("smollm3", _LLAMA),
    "gemma3": ("gemma3_text", {**_LLAMA, "activation": "gelu_pytorch_tanh", "qk_norm": True,
                          "post_norms": True, "norm_offset": 1.0}),
    "gptneox": ("gpt_neox", {**_ROPE, "attn_bias": True, "attn_out_bias": True, "mlp_bias": True,
                             "activation": "gelu"}),
}  # fmt: skip
# Tokens at which llama.cpp ends a text wherever they are in a vocabulary (llama-vocab.cpp).
END_TOKENS = frozenset(
    ["<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<end_of_turn>",
     "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<eos>",
     "<|end_of_text|>", "<end_of_utterance>"]
)  # fmt: skip
_NORMAL, _BYTE = 1, 6  # types of tokens that are text


def gguf_name(spec: TensorSpec) -> str:
    """What llama.cpp calls a tensor."""
    layer = "" if spec.layer is None else f"blk.{spec.layer}."
    return f"{layer}{_STEMS[spec.role]}.{spec.part}"


def architecture_of(metadata: Mapping[str, Any]) -> str:
    """The kind of model that a file holds, one of those that are run.

    Raises:
        ModelFormatError: it is another kind.
    """
    name, kind = (
        value if isinstance(value, str) else None
        for value in (metadata.get(f"general.{key}") for key in ("architecture", "type"))
    )
    if kind == "adapter":
        raise ModelFormatError(
            "holds a LoRA adapter as GGUF; laplm adds adapters as peft saves them, a directory "
            "with adapter_config.json"
        )
    if name == "clip" or kind == "mmproj":
        raise ModelFormatError(
            "holds the part of a model that sees images (mmproj), and laplm runs language models; "
            "give the GGUF file of the language model that came with it"
        )
    experts = metadata.get(f"{name}.expert_count")
    if isinstance(experts, int) and experts > 0:
        raise ModelFormatError(
            f"holds a mixture-of-experts model ({experts} experts a layer), which laplm does not "
            "run; take a dense model"
        )
    if name not in _ARCHITECTURES:
        raise ModelFormatError(
            f"its general.architecture is {shown(metadata.get('general.architecture'))}; laplm "
            f"runs {', '.join(_ARCHITECTURES)}"
        )
    return name


def config_from_gguf(
    metadata: Mapping[str, Any],
    shapes: Shapes,
    rope_factors: Callable[[], NDArray[np.float32]] | None = None,
) -> ModelConfig:
    """What a model is by its file's settings and tensors.

    Args:
        metadata: the settings by their keys.
        shapes: of its tensors, by llama.cpp's names.
        rope_factors: gives the numbers of ``ROPE_FACTORS``, where there are any.

    Raises:
        ModelFormatError: it is a kind of model that is not run, a setting is missing, or is
            impossible.
    """
    name = architecture_of(metadata)
    family, values = _ARCHITECTURES[name]
    values = {**values, "family": family, "tied": "output.weight" not in shapes}
    keys = {field: f"{name}.{key}" for field, key in {**_SETTINGS, **_OPTIONAL}.items()}
    keys["norm_eps"] = f"{name}.{_EPS[values.get('norm', 'layer')]}"
    for field, key in keys.items():
        if key in metadata:
            values[field] = _number(key, metadata[key])
        elif field not in _OPTIONAL:
            raise ModelFormatError(f"the setting {key} is missing; fetch or copy the file again")
    embedding = shapes.get("token_embd.weight")
    if embedding is None or len(embedding) != 2:
        raise ModelFormatError("it has no token_embd.weight; fetch or copy the file again")
    values["vocab_size"] = embedding[0]
    if family in ("llama", "smollm3"):  # of which some models have biases
        values |= {field: f"blk.0.{tensor}.bias" in shapes for field, tensor in _BIASED.items()}
    try:
        config = ModelConfig(**values, bos_token_id=None, eos_token_ids=())
        special = _FINISHED[family](config, metadata, name) if family in _FINISHED else {}
        scaling = _rope_scaling(config, metadata, name, rope_factors)
        return dataclasses.replace(
            config, **special, **_token_ids(metadata, config.vocab_size), rope_scaling=scaling
        )
    except ModelFormatError as error:
        raise ModelFormatError(_in_files_words(str(error), keys)) from None


def _in_files_words(message: str, keys: Mapping[str, str]) -> str:
    """A message about ``ModelConfig`` with the file's names."""
    message = message.removeprefix("config.json: ")
    for field, key in keys.items():
        message = re.sub(rf"\b{field}\b", key, message)
    return message


def _number(key: str, value: Any) -> Any:
    """A setting that is one number, or as many times the same as there are layers.

    Raises:
        ModelFormatError: it is a text, or numbers that differ.
    """
    if isinstance(value, np.ndarray) and value.size and (value == value[0]).all():
        value = value[0].item()
    if isinstance(value, np.ndarray):
        raise ModelFormatError(f"{key} differs from layer to layer, which laplm does not run")
    if not isinstance(value, int | float):
        raise ModelFormatError(f"{key} is {shown(value)}, but it must be a number")
    # Files have fp32: the decimal that is meant, not all digits of the nearest one.
    return float(str(np.float32(value))) if isinstance(value, float) else value


# --- what only some families have -------------------------------------------------------------


def _finish_gemma3(config: ModelConfig, metadata: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Local and global layers, as ``models/gemma3.cpp`` of llama.cpp sets them."""
    if _number(softcap := f"{name}.final_logit_softcapping", metadata.get(softcap, 0)):
        raise ModelFormatError(
            f"{name}.final_logit_softcapping is set, which laplm does not compute; take another "
            "model of Gemma 3"
        )
    # The largest one alone scales attention by the width of the stream.
    width = config.n_embd // config.n_head if config.n_layer == 62 else config.head_dim
    values: dict[str, Any] = {
        "embed_scale": float(np.float32(math.sqrt(config.n_embd))), "attn_scale": width**-0.5,
    }  # fmt: skip
    key = f"{name}.attention.sliding_window"
    window = _number(key, metadata.get(key, 0))
    if window:
        pattern = metadata.get(f"{key}_pattern", 6)
        if isinstance(pattern, np.ndarray):
            local = [bool(each) for each in pattern]
        else:
            pattern = int(_number(f"{key}_pattern", pattern))
            local = [bool(pattern) and i % pattern < pattern - 1 for i in range(config.n_layer)]
        values["window"] = tuple(window if each else None for each in local)
        local_base = f"{name}.rope.freq_base_swa"
        values["rope_local_theta"] = _number(local_base, metadata.get(local_base, 10_000.0))
    return values


def _finish_gpt_neox(config: ModelConfig, metadata: Mapping[str, Any], name: str) -> dict[str, Any]:
    key = f"{name}.use_parallel_residual"
    return {"parallel_residual": bool(_number(key, metadata.get(key, True)))}


def _finish_smollm3(config: ModelConfig, metadata: Mapping[str, Any], name: str) -> dict[str, Any]:
    # As ``models/smollm3.cpp``: every fourth layer has no positions, which no setting says.
    return {"rope_layers": tuple((layer + 1) % 4 != 0 for layer in range(config.n_layer))}


_FINISHED = {
    "smollm3": _finish_smollm3,
    "gemma3_text": _finish_gemma3,
    "gpt_neox": _finish_gpt_neox,
}


# --- rotary positions of long texts -----------------------------------------------------------


def _rope_scaling(
    config: ModelConfig,
    metadata: Mapping[str, Any],
    name: str,
    factors: Callable[[], NDArray[np.float32]] | None,
) -> RopeScaling | None:
    if config.positions != "rope":
        return None

    def setting(key: str, usual: Any) -> Any:
        key = f"{name}.rope.{key}"
        return _number(key, metadata.get(key, usual))

    if factors is not None:
        return _llama3_scaling(config, factors())
    factor = setting("scaling.factor", 0.0) or setting("scale_linear", 0.0) or 1.0
    kind = metadata.get(f"{name}.rope.scaling.type", "linear")
    if not isinstance(kind, str) or kind not in ("none", "linear", "yarn"):
        raise ModelFormatError(
            f"{name}.rope.scaling.type is {shown(kind)}, and laplm has none, linear and yarn"
        )
    if kind == "none" or factor == 1.0:
        return None
    linear = RopeScaling(kind="linear", factor=factor)
    if kind == "yarn":
        # As llama-context.cpp: what the file says multiplies YaRN's own.
        attention = setting("scaling.attn_factor", 1.0) * (0.1 * math.log(factor) + 1.0)
        return RopeScaling(
            kind="yarn",
            factor=factor,
            original_n_ctx=setting("scaling.original_context_length", config.n_ctx),
            beta_fast=setting("scaling.yarn_beta_fast", 32.0),
            beta_slow=setting("scaling.yarn_beta_slow", 1.0),
            attention_factor=attention,
        )
    return linear


def _llama3_scaling(config: ModelConfig, factors: NDArray[np.float32]) -> RopeScaling | None:
    """The settings that ``rope_freqs.weight`` was worked out from.

    Between the frequencies that stay (factor 1) and those that are divided by all of the factor,
    1 / factor is a line over turns in the original context. That context itself is not to be
    told from the line, only its turns at both ends: where the settings of Llama 3 do not give
    these numbers, the lower end is taken for one turn.

    Raises:
        ModelFormatError: no settings give these numbers.
    """
    found = factors.astype(np.float64).ravel()
    if found.shape != (config.rotary_dim // 2,) or not (np.isfinite(found) & (found >= 1)).all():
        raise ModelFormatError(
            f"{ROPE_FACTORS} has not a factor from 1 on for each of {config.rotary_dim // 2} "
            "rotary frequencies; fetch or copy the file again"
        )
    factor = float(str(factors.max()))
    if factor == 1.0:
        return None
    turns = config.rope_theta ** (-np.arange(0, config.rotary_dim, 2) / config.rotary_dim)
    turns /= 2 * math.pi  # at each position; times the original context, in all of it
    candidates = [RopeScaling(kind="llama3", factor=factor, original_n_ctx=8192)]
    between = (found > 1.0001) & (found < factor * 0.9999)
    if between.sum() > 1:
        kept = (1 / found[between] - 1 / factor) / (1 - 1 / factor)
        slope, at_zero = np.polyfit(turns[between], kept, 1)
        if slope > 0 > at_zero:
            candidates.append(
                RopeScaling(
                    kind="llama3",
                    factor=factor,
                    original_n_ctx=round(slope / -at_zero),
                    high_freq_factor=round((1 - at_zero) / -at_zero, 4),
                )
            )
    for scaling in candidates:
        low, high = scaling.low_freq_factor, scaling.high_freq_factor
        kept = np.clip((scaling.original_n_ctx * turns - low) / (high - low), 0, 1)
        if np.allclose(1 / ((1 - kept) / factor + kept), found, rtol=1e-3):
            return scaling
    raise ModelFormatError(
        f"{ROPE_FACTORS} is no scaling of Llama 3's kind, and laplm has no other; get the model as "
        "safetensors"
    )


# --- tokens -----------------------------------------------------------------------------------


def _token_ids(metadata: Mapping[str, Any], vocab_size: int) -> dict[str, Any]:
    """The tokens that begin, end and pad texts, if the vocabulary has them."""
    tokens = metadata.get("tokenizer.ggml.tokens")
    types = metadata.get("tokenizer.ggml.token_type")
    # llama.cpp's defaults for SentencePiece, in files that do not say.
    usual = {"bos": 1, "eos": 2} if metadata.get("tokenizer.ggml.model") == "llama" else {}

    def token(name: str) -> int | None:
        value = metadata.get(f"tokenizer.ggml.{name}_token_id", usual.get(name))
        return value if isinstance(value, int) and 0 <= value < vocab_size else None

    ends = [token(name) for name in ("eos", "eot", "eom")]
    if isinstance(tokens, list) and isinstance(types, np.ndarray):
        marked = np.flatnonzero((types != _NORMAL) & (types != _BYTE))
        ends += [int(i) for i in marked if i < len(tokens) and tokens[i] in END_TOKENS]
    return {
        "bos_token_id": token("bos"),
        "eos_token_ids": tuple(dict.fromkeys(i for i in ends if i is not None and i < vocab_size)),
        "pad_token_id": token("padding"),
    }
