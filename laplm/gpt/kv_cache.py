"""Keys and values of the positions already seen, in pages that samples can share.

A page holds 32 positions of every layer and head: keys as (D, 32), because attention reads one
component of many positions at once, and values as (32, D). A fork shares all pages with its
parent; whoever writes to a shared page first takes a copy (only the last page is ever written).
D is padded to 16.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from laplm.errors import InputError
from laplm.gpt.config import GPTConfig
from laplm.gpt.plan import PAGE

Array = NDArray[np.float32]
HALF_MAX = np.float32(65504)


def aligned(count: int, dtype: Any) -> NDArray[Any]:
    """Zeros that start at a cache line, (count,)."""
    size = count * np.dtype(dtype).itemsize
    raw = np.zeros(size + 64, dtype=np.uint8)
    start = -raw.ctypes.data % 64
    out: NDArray[Any] = raw[start : start + size].view(dtype)
    return out


class KVCache:
    """The past of one sequence. Made by ``GPT.new_cache``.

    Attributes:
        ids: The token ids held, one a position.
        length: How many positions are held.
    """

    def __init__(self, config: GPTConfig, dtype: type[np.float32] | type[np.float16]) -> None:
        self.ids: list[int] = []
        self.length = 0
        self._config = config
        self._dtype = dtype
        self._dim = -(-config.head_dim // 16) * 16
        self._pages: list[NDArray[Any]] = []
        self._ours_from = 0  # pages before this one may be shared with another cache
        self._table = np.zeros(-(-config.n_ctx // PAGE), dtype=np.int64)
        self.table_address = self._table.ctypes.data

    @property
    def bytes_per_position(self) -> int:
        """Memory that one more position takes."""
        config = self._config
        return config.n_layer * config.n_head * 2 * self._dim * np.dtype(self._dtype).itemsize

    def reserve(self, count: int) -> None:
        """Make room for ``count`` more positions, in pages that nobody else reads.

        Raises:
            InputError: that would be more than the model's context.
        """
        if self.length + count > self._config.n_ctx:
            raise InputError(
                f"{self.length} positions held and {count} more do not fit in the model's context "
                f"of {self._config.n_ctx}"
            )
        first = self.length // PAGE
        if first < len(self._pages) and first < self._ours_from:
            copy = aligned(len(self._pages[first]), self._dtype)
            copy[:] = self._pages[first]
            self._put(first, copy)
        self._ours_from = min(self._ours_from, first)
        while len(self._pages) * PAGE < self.length + count:
            self._pages.append(np.zeros(0))
            numbers = self.bytes_per_position // np.dtype(self._dtype).itemsize * PAGE
            self._put(len(self._pages) - 1, aligned(numbers, self._dtype))

    def _put(self, i: int, page: NDArray[Any]) -> None:
        self._pages[i] = page
        self._table[i] = page.ctypes.data

    def hold(self, ids: list[int]) -> None:
        """Count positions whose keys and values have been written."""
        self.ids.extend(ids)
        self.length += len(ids)

    def fork(self, count: int) -> list[KVCache]:
        """``count`` caches with the same past that go their own ways; memory is shared."""
        self._ours_from = len(self._pages)
        return [self._copy() for _ in range(count)]

    def _copy(self) -> KVCache:
        other = KVCache(self._config, self._dtype)
        other.ids, other.length = list(self.ids), self.length
        other._pages, other._ours_from = list(self._pages), len(self._pages)
        other._table[:] = self._table
        return other

    def trim(self, length: int) -> None:
        """Forget all positions from ``length`` on."""
        if not 0 <= length <= self.length:
            raise InputError(f"cannot trim {self.length} positions to {length}")
        del self.ids[length:]
        self.length = length
        del self._pages[-(-length // PAGE) :]
        self._ours_from = min(self._ours_from, len(self._pages))

    def reset(self) -> None:
        """Forget everything."""
        self.trim(0)

    # --- plain arrays in and out, for the tapped path (``reference.Past``) ---

    def _views(self, page: NDArray[Any], layer: int) -> tuple[NDArray[Any], NDArray[Any]]:
        config = self._config
        both = page.reshape(config.n_layer, config.n_head, 2, -1)[layer]
        keys = both[:, 0].reshape(config.n_head, self._dim, PAGE)
        return keys, both[:, 1].reshape(config.n_head, PAGE, self._dim)

    def extend(self, layer: int, k: Array, v: Array) -> tuple[Array, Array]:
        """Add (T, H, D) keys and values to a layer; return all of them as the cache holds them."""
        self.reserve(len(k))
        dim = self._config.head_dim
        if self._dtype is np.float16:
            k, v = (np.clip(x, -HALF_MAX, HALF_MAX) for x in (k, v))
        for t in range(len(k)):
            page, slot = divmod(self.length + t, PAGE)
            keys, values = self._views(self._pages[page], layer)
            keys[:, :dim, slot], values[:, slot, :dim] = k[t], v[t]
        views = [self._views(page, layer) for page in self._pages]
        all_k = np.concatenate([keys.transpose(2, 0, 1) for keys, _ in views])
        all_v = np.concatenate([values.transpose(1, 0, 2) for _, values in views])
        end = self.length + len(k)
        return (
            all_k[:end, :, :dim].astype(np.float32),
            all_v[:end, :, :dim].astype(np.float32),
        )

    def advance(self, count: int) -> None:
        """Part of ``reference.Past``; ``GPT.forward`` counts with ``hold``."""
