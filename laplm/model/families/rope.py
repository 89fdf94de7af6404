"""Rotary position embedding in plain NumPy, and how models trained on longer texts change it.

Shapes: T positions, H heads, D = head_dim, R = rotary_dim. ``...`` are sequences that may be
stacked in front.
"""

from __future__ import annotations

import math

import numpy as np

from laplm.model.config import ModelConfig, RopeScaling
from laplm.model.families.ops import Array
from laplm.model.weights import Ids


def rope(x: Array, cos: Array, sin: Array) -> Array:
    """Rotary position embedding: (..., T, H, D) -> (..., T, H, D).

    Component i turns together with i + R / 2, as in the models of Hugging Face, where R =
    rotary_dim; those from R on stay as they are.

    Args:
        x: queries or keys.
        cos: (T, R / 2), of ``rope_cos_sin``.
        sin: the same.

    Source: Su et al. 2021, "RoFormer", equation 34.
    """
    half = cos.shape[-1]
    cos, sin = cos[:, None], sin[:, None]  # (T, 1, R / 2)
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    turned = [first * cos - second * sin, second * cos + first * sin, rest]
    out: Array = np.concatenate(turned, axis=-1)  # (..., T, H, D)
    return out


def rope_cos_sin(config: ModelConfig, layer: int, positions: Ids) -> tuple[Array, Array]:
    """Cosines and sines of a layer's rotary angles at positions (T,): (T, R / 2) each.

    Angles are fp32, as in transformers; of these the two are exact to half a unit in the last
    place, on every machine.
    """
    frequencies = rope_frequencies(config, layer)  # (R / 2)
    angles = positions[:, None].astype(np.float32) * frequencies  # (T, R / 2)
    scaling = _layer_scaling(config, layer)
    factor = np.float32(1.0 if scaling is None else scaling.attention_factor)
    cos, sin = (f(angles.astype(np.float64)).astype(np.float32) for f in (np.cos, np.sin))
    return cos * factor, sin * factor


def rope_frequencies(config: ModelConfig, layer: int) -> Array:
    """Radians by which each pair of components turns from position to position: (R / 2,).

    Sources: Su et al. 2021, section 3.2.2; "linear": Chen et al. 2023, "Position Interpolation",
    section 2.3; "llama3": the code of Llama 3.1, ``apply_scaling``; "yarn": Peng et al. 2023,
    "YaRN", section 3.2.
    """
    rotary, local = config.rotary_dim, config.rope_local_theta
    theta = config.rope_theta if local is None or not _is_local(config, layer) else local
    exponents = np.arange(0, rotary, 2, dtype=np.float32) / np.float32(rotary)  # (R / 2)
    powers: Array = (np.float64(theta) ** exponents.astype(np.float64)).astype(np.float32)
    frequencies: Array = np.float32(1) / powers
    scaling = _layer_scaling(config, layer)
    if scaling is None:
        return frequencies
    scaled = frequencies / np.float32(scaling.factor)  # (R / 2)
    if scaling.kind == "linear":
        return scaled
    if scaling.kind == "llama3":
        kept = _llama3_share(frequencies, scaling)
    else:
        kept = _yarn_share(rotary, theta, scaling)
        scaled = np.float32(1) / (np.float32(scaling.factor) * powers)
    out: Array = (1 - kept) * scaled + kept * frequencies
    return out


def _llama3_share(frequencies: Array, scaling: RopeScaling) -> Array:
    """How much of each frequency stays as it is: all of those that turn often in pretraining."""
    turns = np.float32(scaling.original_n_ctx) / (np.float32(2 * math.pi) / frequencies)
    low, high = np.float32(scaling.low_freq_factor), np.float32(scaling.high_freq_factor)
    share: Array = np.clip((turns - low) / (high - low), 0, 1)
    return share


def _yarn_share(rotary: int, theta: float, scaling: RopeScaling) -> Array:
    """The same by components, between the two that turn so often as the betas say."""

    def component(turns: float) -> float:
        wavelength = scaling.original_n_ctx / (turns * 2 * math.pi)
        return rotary * math.log(wavelength) / (2 * math.log(theta))

    first, last = component(scaling.beta_fast), component(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, rotary - 1)
    width = np.float32(last - first if last != first else 0.001)
    ramp = (np.arange(rotary // 2, dtype=np.float32) - np.float32(first)) / width
    share: Array = 1 - np.clip(ramp, 0, 1)
    return share


def _is_local(config: ModelConfig, layer: int) -> bool:
    """Whether a layer has a window, and a base of its own for it."""
    return config.rope_local_theta is not None and config.layer_window(layer) is not None


def _layer_scaling(config: ModelConfig, layer: int) -> RopeScaling | None:
    return None if _is_local(config, layer) else config.rope_scaling
