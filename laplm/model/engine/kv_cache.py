"""Keys and values of the positions already seen, in pages that samples can share.

A page holds 32 positions of every layer and head; D is padded to 16. Beside fp32 weights keys and
values are fp32. Else they are signed bytes: keys with a scale for each position, head and group of
32 components, since softmax is sensitive to them, and values with one for each position and head.
``cache_tiles.py`` says how they lie, so that attention reads the same of many positions at once.

Copy-on-write: a fork shares all pages with its parent, and whoever writes to a shared page takes a
copy first (only the last page is ever written).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from laplm.errors import InputError
from laplm.model.config import ModelConfig
from laplm.model.engine.kernel_args import GROUP, PAGE, SMALLEST, TILE, page_part
from laplm.native.memory import aligned

Array = NDArray[np.float32]

# A long sequence's pages are made side by side, in bytes up to so many: NumPy asks the system to
# map what is larger than 4 MB in large pages, which takes fewer steps to look up.
MOST_AT_ONCE = 16 << 20


def to_bytes(x: Array) -> tuple[Array, Array]:
    """Whole numbers -127…127, and a scale for each run of the last axis: ``x ~ whole * scale``."""
    largest = np.abs(x).max(axis=-1, initial=0)
    inverse = np.zeros_like(largest)
    np.divide(np.float32(127), largest, out=inverse, where=largest >= np.float32(SMALLEST))
    return np.rint(x * inverse[..., None]), largest * np.float32(1 / 127)


def _in_groups(k: Array) -> Array:
    """(H, D) to (H, groups, 32), with zeros in what is left of the last group."""
    groups = -(-k.shape[1] // GROUP)
    return np.pad(k, ((0, 0), (0, groups * GROUP - k.shape[1]))).reshape(len(k), groups, GROUP)


def bytes_per_position(config: ModelConfig, kv: str) -> int:
    """Memory that a position takes in a cache of the form ``kv``."""
    return config.n_layer * config.n_kv_head * sum(page_part(kv, config.head_dim)) // PAGE


class KVCache:
    """The past of one sequence. Made by ``GPT.new_cache``.

    Attributes:
        ids: The token ids held, one a position.
        length: How many positions are held.
        context: How many it may hold.
    """

    def __init__(self, config: ModelConfig, kv: str, context: int | None = None) -> None:
        """An empty cache, which takes no memory yet.

        Args:
            config: the model's sizes.
            kv: "fp32", or "int8" for the smaller form.
            context: how many positions it may hold; None is as many as the model.
        """
        self.ids: list[int] = []
        self.length = 0
        self.context = config.n_ctx if context is None else context
        self._config = config
        self._kv = kv
        self._keys_bytes, self._values_bytes = page_part(kv, config.head_dim)
        self._dim = -(-config.head_dim // 16) * 16
        self._page_bytes = bytes_per_position(config, kv) * PAGE
        self._pages: list[NDArray[Any]] = []
        self._unused: list[NDArray[Any]] = []  # made beside others, for positions to come
        self._first_private_page = 0  # pages before this one may be shared with another cache
        self._table = np.zeros(-(-self.context // PAGE), dtype=np.int64)
        self.table_address = self._table.ctypes.data

    @property
    def bytes_per_position(self) -> int:
        """Memory that one more position takes."""
        return self._page_bytes // PAGE

    def reserve(self, count: int) -> None:
        """Make room for ``count`` more positions, in pages that nobody else reads.

        Raises:
            InputError: that would be more than the context.
        """
        if self.length + count > self.context:
            raise InputError(
                f"{self.length} positions held and {count} more do not fit in the model's context "
                f"of {self.context}"
            )
        first = self.length // PAGE
        if first < len(self._pages) and first < self._first_private_page:
            copy = aligned(self._page_bytes, np.uint8)
            copy[:] = self._pages[first]
            self._put(first, copy)
        self._first_private_page = min(self._first_private_page, first)
        while (missing := -(-(self.length + count) // PAGE) - len(self._pages)) > 0:
            if not self._unused:
                most = max(1, MOST_AT_ONCE // self._page_bytes)
                self._unused = self._new_pages(min(most, max(missing, len(self._pages))))
            self._pages.append(np.zeros(0))
            self._put(len(self._pages) - 1, self._unused.pop())

    def _new_pages(self, count: int) -> list[NDArray[Any]]:
        """Memory for some pages side by side, the first one last."""
        together = aligned(count * self._page_bytes, np.uint8).reshape(count, -1)
        return list(together)[::-1]

    def _put(self, i: int, page: NDArray[Any]) -> None:
        self._pages[i] = page
        self._table[i] = page.ctypes.data

    def append_ids(self, ids: list[int]) -> None:
        """Count positions whose keys and values have been written."""
        self.ids.extend(ids)
        self.length += len(ids)

    def fork(self, count: int) -> list[KVCache]:
        """``count`` caches with the same past that go their own ways; memory is shared."""
        self._first_private_page = len(self._pages)
        return [self._copy() for _ in range(count)]

    def _copy(self) -> KVCache:
        other = KVCache(self._config, self._kv, self.context)
        other.ids, other.length = list(self.ids), self.length
        other._pages, other._first_private_page = list(self._pages), len(self._pages)
        count = len(self._pages)
        other._table[:count] = self._table[:count]
        return other

    def trim(self, length: int) -> None:
        """Forget all positions from ``length`` on."""
        if not 0 <= length <= self.length:
            raise InputError(f"cannot trim {self.length} positions to {length}")
        del self.ids[length:]
        self.length = length
        del self._pages[-(-length // PAGE) :]
        self._unused.clear()
        self._first_private_page = min(self._first_private_page, len(self._pages))

    def reset(self) -> None:
        """Forget everything."""
        self.trim(0)

    # --- plain arrays in and out, for the tapped path (``weights.PastKV``) ---

    def _views(self, page: NDArray[Any], layer: int) -> tuple[NDArray[Any], ...]:
        """A layer's keys and values in a page, as they lie there, then the scales of both."""
        config, dim = self._config, self._dim
        part = page.reshape(config.n_layer, config.n_kv_head, -1)[layer]
        keys, values = part[:, : self._keys_bytes], part[:, self._keys_bytes :]
        heads, numbers = config.n_kv_head, dim * PAGE
        if self._kv == "fp32":
            keys, values = keys.view(np.float32), values.view(np.float32)
            return keys.reshape(heads, dim, PAGE), values.reshape(heads, PAGE, dim)
        return (
            keys[:, :numbers].view(np.int8).reshape(heads, PAGE // TILE, dim // 4, TILE, 4),
            values[:, :numbers].view(np.int8).reshape(heads, dim // TILE, PAGE // 4, TILE, 4),
            keys[:, numbers:].view(np.float32).reshape(heads, PAGE // TILE, -1, TILE),
            values[:, numbers:].view(np.float32),
        )

    def _write(self, slot: int, views: tuple[NDArray[Any], ...], k: Array, v: Array) -> None:
        """One position's keys and values (H, D padded) to its place in a page."""
        if self._kv == "fp32":
            views[0][:, :, slot], views[1][:, slot] = k, v
            return
        keys, values, key_scales, value_scales = views
        half, lane = divmod(slot, TILE)
        whole, key_scales[:, half, :, lane] = to_bytes(_in_groups(k))
        keys[:, half, :, lane] = whole.reshape(len(k), -1, 4)[:, : self._dim // 4]
        whole, value_scales[:, slot] = to_bytes(v)
        values[:, :, slot // 4, :, slot % 4] = whole.reshape(len(v), -1, TILE)

    def _read(self, views: tuple[NDArray[Any], ...]) -> tuple[Array, Array]:
        """All keys and values in a page, (PAGE, H, D padded) each."""
        if self._kv == "fp32":
            return views[0].transpose(2, 0, 1), views[1].transpose(1, 0, 2)
        keys, values, key_scales, value_scales = views
        shape = PAGE, len(keys), self._dim
        k = keys.transpose(1, 3, 0, 2, 4).reshape(shape).astype(np.float32)
        v = values.transpose(2, 4, 0, 1, 3).reshape(shape).astype(np.float32)
        of_groups = key_scales.transpose(1, 3, 0, 2).reshape(PAGE, len(keys), -1)
        k *= np.repeat(of_groups, GROUP, axis=-1)[..., : self._dim]
        v *= value_scales.T[..., None]
        return k, v

    def extend(self, layer: int, k: Array, v: Array) -> tuple[Array, Array]:
        """Add (T, H, D) keys and values to a layer; return all of them as the cache holds them."""
        self.reserve(len(k))
        dim = self._config.head_dim
        k, v = (np.pad(x, ((0, 0), (0, 0), (0, self._dim - dim))) for x in (k, v))
        views = [self._views(page, layer) for page in self._pages]
        for t in range(len(k)):
            page, slot = divmod(self.length + t, PAGE)
            self._write(slot, views[page], k[t], v[t])
        pages = [self._read(each) for each in views]
        end = self.length + len(k)
        all_k, all_v = (np.concatenate(parts)[:end, :, :dim] for parts in zip(*pages, strict=True))
        return all_k, all_v

    def append(self, count: int) -> None:
        """Part of ``weights.PastKV``; ``GPT.forward`` counts with ``append_ids``."""
