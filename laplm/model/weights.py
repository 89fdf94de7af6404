"""What a forward pass in NumPy is given: weights by role, and keys and values of the past."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from laplm.model.tensors import Part

Array = NDArray[np.float32]
Ids = NDArray[np.int64]
Tap = Callable[[str, int | None, Array], Array | None]
"""Sees a named activation of a layer; gives back another one to go on with, or None."""


class Weights(Protocol):
    """What the families need of the weights; the engine gives its quantised ones."""

    def vector(self, role: str, layer: int | None = None, part: Part = "weight") -> Array:
        """A norm's gain ("weight") or bias: (C,)."""
        ...

    def rows(self, role: str, numbers: Ids) -> Array:
        """Rows of an embedding: (T,) -> (T, C)."""
        ...

    def linear(self, role: str, layer: int, x: Array) -> Array:
        """One matrix product for all rows, however they are stacked: (..., in) -> (..., out)."""
        ...

    def unembed(self, x: Array) -> Array:
        """Logits by the output matrix, which may be the token embedding: (..., C) -> (..., V)."""
        ...


class PastKV(Protocol):
    """Keys and values of the positions before."""

    @property
    def length(self) -> int:
        """P, the number of positions held."""
        ...

    def extend(self, layer: int, k: Array, v: Array) -> tuple[Array, Array]:
        """Add (T, H_kv, D) keys and values; return all of them, (P + T, H_kv, D) each."""
        ...

    def append(self, count: int) -> None:
        """Every layer has been extended by ``count`` positions: P grows by it."""
        ...


class DenseKVCache:
    """The simplest possible key/value store: one growing array a layer."""

    def __init__(self) -> None:
        self.length = 0
        self._layers: dict[int, tuple[Array, Array]] = {}

    def extend(self, layer: int, k: Array, v: Array) -> tuple[Array, Array]:
        """See ``PastKV``."""
        if layer in self._layers:
            old_k, old_v = self._layers[layer]
            k = np.concatenate([old_k[: self.length], k])
            v = np.concatenate([old_v[: self.length], v])
        self._layers[layer] = (k, v)
        return k, v

    def append(self, count: int) -> None:
        """See ``PastKV``."""
        self.length += count
