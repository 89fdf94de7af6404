"""Activation functions by the names that configs use, element by element."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from laplm.model.families.ops import Array


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


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
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
    """The feed-forward's activation function.

    ``gelu_new`` is the tanh approximation that GPT-2 was trained with (Hendrycks and Gimpel 2016,
    "Gaussian Error Linear Units", section 2).
    """
    return ACTIVATIONS[name](x)
