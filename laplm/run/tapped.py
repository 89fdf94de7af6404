"""Generation under a tap: text that the model writes while something inside it is changed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from laplm.model.config import ModelConfig
from laplm.model.engine.kv_cache import KVCache
from laplm.model.engine.model import GPT
from laplm.model.weights import Tap

Array = NDArray[np.float32]


class TappedGPT:
    """A ``GPT`` for ``generate`` whose every pass goes through a tap, in NumPy.

    A prompt goes through in one pass; each token that is drawn goes through alone.
    """

    def __init__(self, gpt: GPT, tap: Tap) -> None:
        """``tap`` sees, and may replace, the activations of ``gpt``."""
        self._gpt = gpt
        self._tap = tap

    @property
    def config(self) -> ModelConfig:
        """The model's sizes."""
        return self._gpt.config

    @property
    def context(self) -> int:
        """As the model's."""
        return self._gpt.context

    @property
    def precision(self) -> str:
        """As the model's."""
        return self._gpt.precision

    @property
    def threads(self) -> int:
        """As the model's."""
        return self._gpt.threads

    def new_cache(self) -> KVCache:
        """An empty key/value cache; what it comes to hold has gone through the tap."""
        return self._gpt.new_cache()

    def forward(
        self, ids: ArrayLike, kv_cache: KVCache | None = None, *, last_only: bool = False
    ) -> Array:
        """See ``GPT.forward``."""
        return self._gpt.forward(ids, kv_cache, self._tap, last_only=last_only)

    def decode(self, ids: ArrayLike, kv_caches: Sequence[KVCache]) -> Array:
        """See ``GPT.decode``; one sequence after the other."""
        pairs = zip(np.asarray(ids).tolist(), kv_caches, strict=True)
        return np.concatenate([self.forward([token], cache) for token, cache in pairs])

    def logsumexp(self, logits: Array) -> float:
        """See ``GPT.logsumexp``."""
        return self._gpt.logsumexp(logits)
