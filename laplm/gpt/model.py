"""GPT: token ids and a key/value cache in, logits out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from laplm.gpt import reference
from laplm.gpt.checkpoint import Checkpoint
from laplm.gpt.config import GPTConfig

Precision = Literal["fp32", "int8", "int4"]
Array = NDArray[np.float32]
Progress = Callable[[str, int, int], None]  # (what is being prepared, done, total)


class KVCache(reference.DensePast):
    def __init__(self) -> None:
        super().__init__()
        self.ids: list[int] = []

    def fork(self, count: int) -> list[KVCache]:
        out = []
        for _ in range(count):
            c = KVCache()
            c.length = self.length
            c.ids = list(self.ids)
            c._layers = dict(self._layers)
            out.append(c)
        return out

    def trim(self, length: int) -> None:
        self.length = length
        del self.ids[length:]
        self._layers = {i: (k[:length], v[:length]) for i, (k, v) in self._layers.items()}


class GPT:
    """Stand-in until the compiled engine lands: same interface, NumPy speed."""

    def __init__(self, checkpoint: Checkpoint, precision: Precision = "int8", *,
                 threads: int | None = None, progress: Progress | None = None) -> None:
        self.config: GPTConfig = checkpoint.config
        self.precision = precision
        self.threads = threads or 1
        self._weights = reference.DenseWeights({n: checkpoint.tensor(n) for n in checkpoint.names})

    def new_cache(self) -> KVCache:
        return KVCache()

    def forward(self, ids: ArrayLike, kv_cache: KVCache | None = None,
                tap: reference.Tap | None = None, *, last_only: bool = False) -> Array:
        ids = np.asarray(ids, dtype=np.int64)
        kv_cache = self.new_cache() if kv_cache is None else kv_cache
        kv_cache.ids.extend(ids.tolist())
        return reference.forward(ids, self._weights, self.config, kv_cache, tap, last_only)

    def decode(self, ids: ArrayLike, kv_caches: Sequence[KVCache]) -> Array:
        ids = np.asarray(ids, dtype=np.int64)
        return np.concatenate([self.forward(ids[i:i + 1], c) for i, c in enumerate(kv_caches)])
