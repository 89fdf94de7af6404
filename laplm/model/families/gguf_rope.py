"""Rotary positions of long texts in llama.cpp's words: settings, and one tensor of Llama 3's."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from laplm.errors import ModelFormatError, shown
from laplm.model.config import ModelConfig, RopeScaling

ROPE_FACTORS = "rope_freqs.weight"
"""By what each rotary frequency is divided: Llama 3's scaling, worked out."""


def number(key: str, value: Any) -> Any:
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


def read_scaling(
    config: ModelConfig,
    metadata: Mapping[str, Any],
    name: str,
    factors: Callable[[], NDArray[np.float32]] | None,
) -> RopeScaling | None:
    """How a file stretches rotary positions; see ``gguf.config_from_gguf``.

    Raises:
        ModelFormatError: in a way that is not known, or a setting is no number.
    """
    if config.positions != "rope":
        return None

    def setting(key: str, usual: Any) -> Any:
        key = f"{name}.rope.{key}"
        return number(key, metadata.get(key, usual))

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
    linear = RopeScaling(kind="linear", factor=factor)  # or the factor is refused
    if kind == "yarn":
        attention = setting("scaling.attn_factor", 1.0) * _yarns_own(factor)
        return RopeScaling(
            kind="yarn",
            factor=factor,
            original_n_ctx=setting("scaling.original_context_length", config.n_ctx),
            beta_fast=setting("scaling.yarn_beta_fast", 32.0),
            beta_slow=setting("scaling.yarn_beta_slow", 1.0),
            attention_factor=attention,
        )
    return linear


def write_scaling(config: ModelConfig) -> tuple[dict[str, Any], NDArray[np.float32] | None]:
    """What ``read_scaling`` reads: settings without the architecture's name, and factors (R / 2,).

    There are factors of Llama 3's scaling alone, whose settings a file does not have.
    """
    scaling = config.rope_scaling
    if scaling is None:
        return {}, None
    if scaling.kind == "llama3":
        return {}, _llama3_factors(config, scaling).astype(np.float32)
    settings: dict[str, Any] = {"type": scaling.kind, "factor": float(scaling.factor)}
    if scaling.kind == "yarn":
        settings |= {
            "original_context_length": scaling.original_n_ctx,
            "attn_factor": scaling.attention_factor / _yarns_own(scaling.factor),
            "yarn_beta_fast": float(scaling.beta_fast),
            "yarn_beta_slow": float(scaling.beta_slow),
        }
    return {f"rope.scaling.{key}": value for key, value in settings.items()}, None


def _yarns_own(factor: float) -> float:
    """What llama-context.cpp takes for the factor on attention, times what the file says."""
    return 0.1 * math.log(factor) + 1.0


def _turns(config: ModelConfig) -> NDArray[np.float64]:
    """How often each rotary frequency turns from one position to the next: (R / 2,)."""
    exponents = -np.arange(0, config.rotary_dim, 2) / config.rotary_dim
    turns: NDArray[np.float64] = config.rope_theta**exponents / (2 * math.pi)
    return turns


def _llama3_factors(config: ModelConfig, scaling: RopeScaling) -> NDArray[np.float64]:
    """By what each rotary frequency is divided: (R / 2,)."""
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = np.clip((scaling.original_n_ctx * _turns(config) - low) / (high - low), 0, 1)
    factors: NDArray[np.float64] = 1 / ((1 - kept) / scaling.factor + kept)
    return factors


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
    candidates = [RopeScaling(kind="llama3", factor=factor, original_n_ctx=8192)]
    between = (found > 1.0001) & (found < factor * 0.9999)
    if between.sum() > 1:
        kept = (1 / found[between] - 1 / factor) / (1 - 1 / factor)
        slope, at_zero = np.polyfit(_turns(config)[between], kept, 1)
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
        if np.allclose(_llama3_factors(config, scaling), found, rtol=1e-3):
            return scaling
    raise ModelFormatError(
        f"{ROPE_FACTORS} is no scaling of Llama 3's kind, and laplm has no other; get the model as "
        "safetensors"
    )
