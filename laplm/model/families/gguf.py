"""The families in llama.cpp's words: settings and names of tensors in GGUF files.

A GGUF file has no ``config.json``: what a model is stands in settings such as
``llama.attention.head_count``, and in which tensors there are. The same tables serve both ways: a
model is written so that ``config_from_gguf`` reads it again, and refused where that gives another.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from laplm.errors import InputError, ModelFormatError, shown
from laplm.model.config import ModelConfig, RopeScaling
from laplm.model.families.gguf_rope import ROPE_FACTORS, number, read_scaling, write_scaling
from laplm.model.tensors import TensorSpec

__all__ = ["ROPE_FACTORS"]

Shapes = Mapping[str, tuple[int, ...]]

# Names of tensors by role; those of a layer N begin with blk.N.
_STEMS = {
    "embed": "token_embd", "pos_embed": "position_embd", "norm1": "attn_norm", "q": "attn_q",
    "k": "attn_k", "v": "attn_v", "qkv": "attn_qkv", "q_norm": "attn_q_norm",
    "k_norm": "attn_k_norm", "attn_out": "attn_output", "post_norm1": "post_attention_norm",
    "norm2": "ffn_norm", "gate": "ffn_gate", "up": "ffn_up", "gate_up": "ffn_up",
    "down": "ffn_down",
    "post_norm2": "post_ffw_norm", "final_norm": "output_norm", "unembed": "output",
}  # fmt: skip
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
    "phi3": ("phi3", _LLAMA),
}  # fmt: skip
# llama.cpp has Mistral as Llama, since what is special of it is the window alone.
_WRITTEN_AS = {family: name for name, (family, _) in _ARCHITECTURES.items()} | {"mistral": "llama"}
# Tanh's approximation of GELU is one function under two names.
_SAME_ACTIVATION = {"gelu_new": "gelu_pytorch_tanh"}
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
            values[field] = number(key, metadata[key])
        elif field not in _OPTIONAL:
            raise ModelFormatError(f"the setting {key} is missing; fetch or copy the file again")
    embedding = shapes.get("token_embd.weight")
    if embedding is None or len(embedding) != 2:
        raise ModelFormatError("it has no token_embd.weight; fetch or copy the file again")
    values["vocab_size"] = embedding[0]
    if family == "llama":  # of which some models have biases
        values |= {field: f"blk.0.{tensor}.bias" in shapes for field, tensor in _BIASED.items()}
    try:
        config = ModelConfig(**values, bos_token_id=None, eos_token_ids=())
        special = _FINISHED[family][0](config, metadata, name) if family in _FINISHED else {}
        scaling = read_scaling(config, metadata, name, rope_factors)
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


# --- writing ----------------------------------------------------------------------------------


def to_gguf_config(config: ModelConfig) -> ModelConfig:
    """A model as a GGUF file has it: the same, under what llama.cpp calls it.

    llama.cpp has windows in Gemma 3 alone; a model that has some elsewhere is one without, whose
    context is not longer than they are, and computes the same.

    Raises:
        InputError: no GGUF files of this family are written.
    """
    name = _WRITTEN_AS.get(config.family)
    if name is None:
        raise InputError(f"GGUF files are not written of {config.family}; use hf")
    changes: dict[str, Any] = {"family": _ARCHITECTURES[name][0]}
    windows = [window for window in config.window if window is not None]
    if windows and config.family != "gemma3_text":
        changes |= {"window": (), "n_ctx": min(config.n_ctx, *windows)}
    if not windows:
        changes["rope_local_theta"] = None
    scaling = config.rope_scaling
    if scaling is not None and scaling.factor == scaling.attention_factor == 1.0:
        changes["rope_scaling"] = None  # it stretches nothing, and llama.cpp reads it as none
    if config.family == "gpt_neox":
        changes["tied"] = False  # where llama.cpp wants the output matrix in any case
    return dataclasses.replace(config, **changes)


def config_to_gguf(
    config: ModelConfig, shapes: Shapes
) -> tuple[dict[str, Any], NDArray[np.float32] | None]:
    """The settings that ``config_from_gguf`` reads a model from, but for its tokens.

    Args:
        config: as ``to_gguf_config`` gives it.
        shapes: of its tensors, by llama.cpp's names.

    Returns:
        Settings by their keys, and the numbers of ``ROPE_FACTORS`` (R / 2,) where it has them.

    Raises:
        InputError: llama.cpp has no such model.
    """
    name = _WRITTEN_AS[config.family]
    fields = {**_SETTINGS, "norm_eps": _EPS[config.norm]}
    if config.positions == "rope":
        fields |= _OPTIONAL
    settings = {key: getattr(config, field) for field, key in fields.items()}
    factors = None
    if config.positions == "rope":
        settings |= {"attention.value_length": config.head_dim, "vocab_size": config.vocab_size}
        settings["rope.freq_base"] = float(config.rope_theta)
        scaling, factors = write_scaling(config)
        settings |= scaling
    if config.family in _FINISHED:
        settings |= _FINISHED[config.family][1](config)
    metadata = {"general.architecture": name} | {f"{name}.{k}": v for k, v in settings.items()}
    _check_same(config, metadata, shapes, factors)
    return metadata, factors


def _check_same(
    config: ModelConfig,
    metadata: Mapping[str, Any],
    shapes: Shapes,
    factors: NDArray[np.float32] | None,
) -> None:
    """Refuse a model that is another one in llama.cpp.

    Raises:
        InputError: it is, or llama.cpp has none with such settings.
    """
    name = metadata["general.architecture"]
    if factors is not None and name != "llama":
        raise InputError(f"llama.cpp's {name} has no rotary scaling of Llama 3's kind; use hf")
    try:
        theirs = config_from_gguf(metadata, shapes, None if factors is None else lambda: factors)
    except ModelFormatError as error:
        raise InputError(f"llama.cpp cannot hold this model: {error}; use hf") from None
    for field in dataclasses.fields(ModelConfig):
        mine, found = getattr(config, field.name), getattr(theirs, field.name)
        if not field.name.endswith(("_token_id", "_token_ids")) and not _same(mine, found):
            raise InputError(
                f"llama.cpp's {name} has {field.name} {shown(found, 60)}, and this model "
                f"{shown(mine, 60)}; use hf"
            )


def _same(mine: Any, found: Any) -> bool:
    """Whether two settings are one, as far as fp32 holds it."""
    if isinstance(mine, RopeScaling) and isinstance(found, RopeScaling):
        if mine.kind == found.kind == "llama3":
            return True  # the settings that were found give the same factors
        names = [field.name for field in dataclasses.fields(mine)]
        return all(_same(getattr(mine, name), getattr(found, name)) for name in names)
    if isinstance(mine, float) and isinstance(found, float):
        return math.isclose(mine, found, rel_tol=1e-6)
    if isinstance(mine, str):
        mine, found = (_SAME_ACTIVATION.get(each, each) for each in (mine, found))
    return bool(mine == found)


# --- what only some families have -------------------------------------------------------------


def _read_gemma3(config: ModelConfig, metadata: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Local and global layers, as ``models/gemma3.cpp`` of llama.cpp sets them."""
    if number(softcap := f"{name}.final_logit_softcapping", metadata.get(softcap, 0)):
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
    window = number(key, metadata.get(key, 0))
    if window:
        pattern = metadata.get(f"{key}_pattern", 6)
        if isinstance(pattern, np.ndarray):
            local = [bool(each) for each in pattern]
        else:
            pattern = int(number(f"{key}_pattern", pattern))
            local = [bool(pattern) and i % pattern < pattern - 1 for i in range(config.n_layer)]
        values["window"] = tuple(window if each else None for each in local)
        local_base = f"{name}.rope.freq_base_swa"
        values["rope_local_theta"] = number(local_base, metadata.get(local_base, 10_000.0))
    return values


def _write_gemma3(config: ModelConfig) -> dict[str, Any]:
    if not config.window:
        return {}
    period = next((p for p in range(1, config.n_layer + 2) if _has_period(config.window, p)), 6)
    return {
        "attention.sliding_window": next(filter(None, config.window)),
        # llama.cpp's own is 6, and its converter does not write it.
        **({} if period == 6 else {"attention.sliding_window_pattern": period}),
        "rope.freq_base_swa": float(config.rope_local_theta or config.rope_theta),
    }


def _has_period(window: tuple[int | None, ...], period: int) -> bool:
    """Whether each last layer of as many is global, and all others are local."""
    return all((each is None) == (i % period == period - 1) for i, each in enumerate(window))


def _read_gpt_neox(config: ModelConfig, metadata: Mapping[str, Any], name: str) -> dict[str, Any]:
    key = f"{name}.use_parallel_residual"
    return {"parallel_residual": bool(number(key, metadata.get(key, True)))}


def _write_gpt_neox(config: ModelConfig) -> dict[str, Any]:
    return {"use_parallel_residual": config.parallel_residual}


def _read_smollm3(config: ModelConfig, metadata: Mapping[str, Any], name: str) -> dict[str, Any]:
    # As ``models/smollm3.cpp``: every fourth layer has no positions, which no setting says.
    return {"rope_layers": tuple((layer + 1) % 4 != 0 for layer in range(config.n_layer))}


def _read_phi3(config: ModelConfig, metadata: Mapping[str, Any], name: str) -> dict[str, Any]:
    # Written by llama.cpp's converter, though llama.cpp itself computes without it.
    key = f"{name}.attention.sliding_window"
    window = number(key, metadata.get(key, 0))
    return {"window": (window or None,) * config.n_layer}


def _write_phi3(config: ModelConfig) -> dict[str, Any]:
    if config.n_head * config.head_dim != config.n_embd:
        raise InputError(
            f"llama.cpp's phi3 has heads as wide as the stream, {config.n_embd}, and this model "
            f"{config.n_head} of {config.head_dim}; use hf"
        )
    return {"attention.sliding_window": 0}


def _write_nothing(config: ModelConfig) -> dict[str, Any]:
    return {}


# Of each family what it reads and writes beside what all have.
_FINISHED = {
    "smollm3": (_read_smollm3, _write_nothing),
    "gemma3_text": (_read_gemma3, _write_gemma3),
    "gpt_neox": (_read_gpt_neox, _write_gpt_neox),
    "phi3": (_read_phi3, _write_phi3),
}


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
