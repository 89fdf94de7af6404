"""GPT-2's forward pass in plain NumPy: the specification, and the slow truth for tests.

Read it top to bottom; it is the whole model. Shapes: T positions given now, P positions already
in the cache, C = n_embd, H heads, D = head_dim (C = H * D), V vocabulary.

The same code is the looking-in path of the engine: ``forward`` calls ``tap(name, layer, array)``
at every named stage. A tap that returns None only watches; a tap that returns an array of the
same shape replaces the stage's value (ablation, patching, steering).

Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", and the
GPT-2 checkpoint it names its tensors after.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from laplm.model.config import GPTConfig

Array = NDArray[np.float32]
Ids = NDArray[np.int64]
Tap = Callable[[str, int | None, Array], Array | None]
Hook = Callable[[str, int | None, Array], Array]
"""A tap as the stages call it: gives back what goes on."""


class Weights(Protocol):
    """What the forward pass needs of the weights; the engine gives its quantised ones."""

    def vector(self, name: str) -> Array:
        """A layer-norm gain or shift, shape (C,)."""
        ...

    def embed(self, ids: Ids) -> Array:
        """Rows of ``wte`` for token ids: (T,) -> (T, C)."""
        ...

    def position(self, positions: Ids) -> Array:
        """Rows of ``wpe``: (T,) -> (T, C)."""
        ...

    def linear(self, name: str, x: Array) -> Array:
        """``x @ weight + bias`` of the linear layer called ``name``: (T, in) -> (T, out)."""
        ...

    def unembed(self, x: Array) -> Array:
        """Logits, ``x @ wte.T`` (or ``lm_head`` when untied): (T, C) -> (T, V)."""
        ...


class Past(Protocol):
    """Keys and values of the positions already seen."""

    @property
    def length(self) -> int:
        """P, the number of positions held."""
        ...

    def extend(self, layer: int, k: Array, v: Array) -> tuple[Array, Array]:
        """Add (T, H, D) keys and values; return all of them, (P + T, H, D) each."""
        ...

    def append(self, count: int) -> None:
        """Every layer has been extended by ``count`` positions: P grows by it."""
        ...


class DenseWeights:
    """fp32 tensors by their GPT-2 names."""

    def __init__(self, tensors: Mapping[str, Array]) -> None:
        self.tensors = tensors

    def vector(self, name: str) -> Array:
        """See ``Weights``."""
        return self.tensors[name]

    def embed(self, ids: Ids) -> Array:
        """See ``Weights``."""
        return self.tensors["wte.weight"][ids]

    def position(self, positions: Ids) -> Array:
        """See ``Weights``."""
        out: Array = self.tensors["wpe.weight"][positions]
        return out

    def linear(self, name: str, x: Array) -> Array:
        """See ``Weights``."""
        out: Array = x @ self.tensors[f"{name}.weight"] + self.tensors[f"{name}.bias"]
        return out

    def unembed(self, x: Array) -> Array:
        """See ``Weights``."""
        wte = self.tensors["wte.weight"]
        out: Array = x @ self.tensors.get("lm_head.weight", wte).T
        return out


class DensePast:
    """The simplest possible key/value store: one growing array a layer."""

    def __init__(self) -> None:
        self.length = 0
        self._layers: dict[int, tuple[Array, Array]] = {}

    def extend(self, layer: int, k: Array, v: Array) -> tuple[Array, Array]:
        """See ``Past``."""
        if layer in self._layers:
            old_k, old_v = self._layers[layer]
            k = np.concatenate([old_k[: self.length], k])
            v = np.concatenate([old_v[: self.length], v])
        self._layers[layer] = (k, v)
        return k, v

    def append(self, count: int) -> None:
        """See ``Past``."""
        self.length += count


def _erf(x: Array) -> Array:
    out: Array = np.vectorize(math.erf, otypes=[np.float32])(x)
    return out


def _sigmoid(x: Array) -> Array:
    out: Array = np.float32(0.5) * (1 + np.tanh(np.float32(0.5) * x))
    return out


def _gelu_tanh(x: Array) -> Array:
    inner = np.float32(math.sqrt(2.0 / math.pi)) * (x + np.float32(0.044715) * x * x * x)
    out: Array = np.float32(0.5) * x * (1 + np.tanh(inner))
    return out


def _gelu(x: Array) -> Array:
    return np.float32(0.5) * x * (1 + _erf(x / np.float32(math.sqrt(2.0))))


def _relu(x: Array) -> Array:
    return np.maximum(x, np.float32(0))


def _laplace(x: Array) -> Array:
    centred = (x - np.float32(0.707107)) / np.float32(0.282095 * math.sqrt(2.0))
    return np.float32(0.5) * (1 + _erf(centred))


_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu_new": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "gelu": _gelu,
    "gelu_10": lambda x: np.clip(_gelu(x), np.float32(-10), np.float32(10)),
    "quick_gelu": lambda x: x * _sigmoid(np.float32(1.702) * x),
    "relu": _relu,
    "relu2": lambda x: _relu(x) ** 2,
    "relu6": lambda x: np.minimum(_relu(x), np.float32(6)),
    "leaky_relu": lambda x: np.maximum(x, np.float32(0.01) * x),
    "silu": lambda x: x * _sigmoid(x),
    "mish": lambda x: x * np.tanh(np.logaddexp(x, np.float32(0))),
    "hardswish": lambda x: x * np.minimum(_relu(x + np.float32(3)), np.float32(6)) / np.float32(6),
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
    "laplace": _laplace,
    "linear": lambda x: x,
}


def activation(name: str, x: Array) -> Array:
    """The feed-forward's non-linearity, element by element, by the names of ``ACTIVATIONS``.

    ``gelu_new`` is the tanh approximation that GPT-2 was trained with (Hendrycks and Gimpel 2016,
    "Gaussian Error Linear Units", section 2).
    """
    return _ACTIVATIONS[name](x)


def softmax(x: Array) -> Array:
    """Non-negative numbers that sum to 1 over the last axis."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    out: Array = e / e.sum(axis=-1, keepdims=True)
    return out


def attention_scale(config: GPTConfig, layer: int) -> float:
    """The factor on query-key products: 1 / sqrt(D), as the config asks for it."""
    scale = 1.0 / math.sqrt(config.head_dim) if config.scale_attn_weights else 1.0
    return scale / (layer + 1) if config.scale_attn_by_inverse_layer_idx else scale


def identity(name: str, layer: int | None, x: Array) -> Array:
    """What is seen when nobody looks."""
    return x


def linear(name: str, x: Array, weights: Weights) -> Array:
    """One matrix product for all rows, however they are stacked: (..., in) -> (..., out)."""
    rows = weights.linear(name, x.reshape(-1, x.shape[-1]))
    return rows.reshape(*x.shape[:-1], -1)


def layer_norm(
    stage: str,
    layer: int | None,
    x: Array,
    weights: Weights,
    config: GPTConfig,
    hook: Hook = identity,
) -> Array:
    """Every position to mean 0 and variance 1, then a gain and a shift: (..., C) -> (..., C).

    Source: Ba, Kiros and Hinton 2016, "Layer Normalization", section 3.
    """
    name = {"ln1": f"h.{layer}.ln_1", "ln2": f"h.{layer}.ln_2", "ln_final": "ln_f"}[stage]
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = np.mean(centred * centred, axis=-1, keepdims=True)
    epsilon = np.float32(config.layer_norm_epsilon)
    scale = hook(f"{stage}_scale", layer, np.sqrt(variance + epsilon))  # (..., 1)
    normalized = hook(f"{stage}_normalized", layer, centred / scale)
    gain, shift = weights.vector(f"{name}.weight"), weights.vector(f"{name}.bias")
    return hook(stage, layer, normalized * gain + shift)


def attention(
    x: Array,
    layer: int,
    weights: Weights,
    config: GPTConfig,
    past: Past | None = None,
    hook: Hook = identity,
    last_only: bool = False,
) -> Array:
    """What the attention of a layer adds to the residual stream: (..., T, C) -> (..., T, C).

    Sequences of one length may be stacked in front. With ``last_only`` only the last position
    looks back, and the result is (..., 1, C).
    """
    h = layer_norm("ln1", layer, x, weights, config, hook)  # (..., T, C)
    qkv = linear(f"h.{layer}.attn.c_attn", h, weights)  # (..., T, 3C)
    heads = qkv.reshape(*qkv.shape[:-1], 3, config.n_head, config.head_dim)
    q, k, v = np.moveaxis(heads, -3, 0)  # (..., T, H, D) each
    q, k, v = hook("q", layer, q), hook("k", layer, k), hook("v", layer, v)
    if past is not None:
        k, v = past.extend(layer, k, v)  # (..., P + T, H, D) each
    if last_only:
        q = q[..., -1:, :, :]
    scores = np.matmul(q.swapaxes(-3, -2), np.moveaxis(k, -3, -1))  # (..., H, T, P + T)
    scores = scores * np.float32(attention_scale(config, layer))
    # A position sees itself and what came before it.
    n_asking, n_asked = scores.shape[-2:]
    visible = np.tri(n_asking, n_asked, n_asked - n_asking, dtype=bool)
    scores = hook("attn_scores", layer, np.where(visible, scores, np.float32(-np.inf)))
    pattern = hook("pattern", layer, softmax(scores))  # (..., H, T, P + T)
    z = np.matmul(pattern, v.swapaxes(-3, -2)).swapaxes(-3, -2)  # (..., T, H, D)
    z = hook("z", layer, z)
    flat = z.reshape(*z.shape[:-2], -1)  # (..., T, C)
    return linear(f"h.{layer}.attn.c_proj", flat, weights)


def feed_forward(
    x: Array, layer: int, weights: Weights, config: GPTConfig, hook: Hook = identity
) -> Array:
    """What the feed-forward of a layer adds to the residual stream: (..., T, C) -> (..., T, C)."""
    h = layer_norm("ln2", layer, x, weights, config, hook)  # (..., T, C)
    inner = hook("mlp_pre", layer, linear(f"h.{layer}.mlp.c_fc", h, weights))  # (..., T, 4C)
    inner = hook("mlp_post", layer, activation(config.activation_function, inner))
    return linear(f"h.{layer}.mlp.c_proj", inner, weights)


def unembed(x: Array, weights: Weights, config: GPTConfig, hook: Hook = identity) -> Array:
    """The last layer norm and the output matrix: residual stream (..., C) to logits (..., V)."""
    x = layer_norm("ln_final", None, x, weights, config, hook)
    logits = weights.unembed(x.reshape(-1, x.shape[-1]))
    return hook("logits", None, logits.reshape(*x.shape[:-1], -1))


def forward(
    ids: Ids,
    weights: Weights,
    config: GPTConfig,
    past: Past | None = None,
    tap: Tap | None = None,
    last_only: bool = False,
) -> Array:
    """Token ids (T,) to logits (T, V), or (1, V) of the last position when ``last_only``.

    ``past`` is read and grows by T positions. The caller checks that ids are in the vocabulary
    and that P + T <= n_ctx.
    """
    n_past = 0 if past is None else past.length

    def hook(name: str, layer: int | None, x: Array) -> Array:
        replaced = None if tap is None else tap(name, layer, x)
        return x if replaced is None else replaced

    embed = hook("embed", None, weights.embed(ids))  # (T, C)
    positions = np.arange(n_past, n_past + len(ids))
    x = embed + hook("pos_embed", None, weights.position(positions))  # (T, C)

    for layer in range(config.n_layer):
        # Attention: move information between positions.
        x = hook("resid_pre", layer, x)  # (T, C)
        x = x + hook("attn_out", layer, attention(x, layer, weights, config, past, hook))
        # Feed-forward: think about each position by itself.
        x = hook("resid_mid", layer, x)  # (T, C)
        x = x + hook("mlp_out", layer, feed_forward(x, layer, weights, config, hook))
        x = hook("resid_post", layer, x)  # (T, C)

    if past is not None:
        past.append(len(ids))
    return unembed(x[-1:] if last_only else x, weights, config, hook)  # (T, V)
