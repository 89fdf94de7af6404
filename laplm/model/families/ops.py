"""The operations that families are made of, in plain NumPy: one small function each.

Shapes: T positions given now, P positions before them, C = n_embd, H heads, H_kv key/value heads,
D = head_dim. ``...`` are sequences that may be stacked in front.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Hook = Callable[[str, int | None, Array], Array]
"""Sees a named activation of a layer and gives back what goes on: that one, or another."""


def identity(name: str, layer: int | None, x: Array) -> Array:
    """The hook of a pass that nobody looks into."""
    return x


def softmax(x: Array) -> Array:
    """Non-negative numbers that sum to 1 over the last axis."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    out: Array = e / e.sum(axis=-1, keepdims=True)
    return out


def layer_norm(
    x: Array, gain: Array, bias: Array, eps: float, name: str, layer: int | None, hook: Hook
) -> Array:
    """Every position to mean 0 and variance 1, then a gain and a bias: (..., C) -> (..., C).

    Source: Ba, Kiros and Hinton 2016, "Layer Normalization", section 3.
    """
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = np.mean(centred * centred, axis=-1, keepdims=True)
    scale = hook(f"{name}_scale", layer, np.sqrt(variance + np.float32(eps)))  # (..., 1)
    normalized = hook(f"{name}_normalized", layer, centred / scale)
    return hook(name, layer, normalized * gain + bias)


def rms_norm(x: Array, gain: Array, eps: float, name: str, layer: int | None, hook: Hook) -> Array:
    """Every position to a mean square of 1, then a gain: (..., C) -> (..., C).

    Source: Zhang and Sennrich 2019, "Root Mean Square Layer Normalization", equation 4.
    """
    mean_square = np.mean(x * x, axis=-1, keepdims=True)
    scale = hook(f"{name}_scale", layer, np.sqrt(mean_square + np.float32(eps)))  # (..., 1)
    normalized = hook(f"{name}_normalized", layer, x / scale)
    return hook(name, layer, normalized * gain)


def causal_mask(n_queries: int, n_keys: int, window: int | None = None) -> NDArray[np.bool_]:
    """Which keys each query sees, (n_queries, n_keys); the last query stands at the last key."""
    before = n_keys - n_queries
    visible = np.tri(n_queries, n_keys, before, dtype=bool)
    if window is not None:
        visible &= ~np.tri(n_queries, n_keys, before - window, dtype=bool)
    return visible


def causal_attention(
    q: Array, k: Array, v: Array, scale: float, layer: int, hook: Hook, window: int | None = None
) -> Array:
    """Each query looks at the keys up to its own: q (..., T, H, D) to z (..., T, H, D).

    ``k`` and ``v`` are (..., P + T, H_kv, D): H / H_kv neighbouring query heads share a key head.
    With ``window`` a query looks no further back than at that many positions, its own included.

    Source: Vaswani et al. 2017, section 3.2; Ainslie et al. 2023, "GQA", section 2.2.
    """
    if (shared := q.shape[-2] // k.shape[-2]) > 1:
        k, v = np.repeat(k, shared, axis=-2), np.repeat(v, shared, axis=-2)  # (..., P + T, H, D)
    scores = np.matmul(q.swapaxes(-3, -2), np.moveaxis(k, -3, -1))  # (..., H, T, P + T)
    scores = scores * np.float32(scale)
    n_queries, n_keys = scores.shape[-2:]
    visible = causal_mask(n_queries, n_keys, window)
    scores = hook("attn_scores", layer, np.where(visible, scores, np.float32(-np.inf)))
    pattern = hook("pattern", layer, softmax(scores))  # (..., H, T, P + T)
    z = np.matmul(pattern, v.swapaxes(-3, -2)).swapaxes(-3, -2)  # (..., T, H, D)
    return hook("z", layer, z)
