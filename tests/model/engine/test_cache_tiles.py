"""The kernels write and read the pages of the key/value cache as ``KVCache`` does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from laplm.model.config import ModelConfig
from laplm.model.engine import cache_tiles
from laplm.model.engine.kernel_args import PAGE, page_part
from laplm.model.engine.kv_cache import KVCache
from laplm.native import isa as isas
from laplm.native import jit, lower
from laplm.native.isa import Isa
from laplm.native.memory import aligned
from laplm.native.simd import get_f32, get_i64

POSITIONS, QUERIES = PAGE + 21, 3
STORE, SCORES, VALUES = range(3)
ISAS = pytest.mark.parametrize("isa", isas.available(), ids=lambda isa: isa.name)
SIZES = pytest.mark.parametrize("head_dim", [16, 40, 64, 80])
FORMS = pytest.mark.parametrize("kv", ["fp32", "int8"])


def kernels(isa: Isa, kv: str, head_dim: int) -> Any:
    """``run(what, addresses of arguments)`` of the three operations."""
    store = cache_tiles.make_store_kv(kv, head_dim)
    scores = cache_tiles.make_scores(isa, kv, QUERIES, head_dim)
    values = cache_tiles.make_weighted_values(isa, kv, QUERIES, head_dim)

    @lower.kernel
    def engine(what: int, a: int, f: int, unused: int) -> int:
        if what == STORE:
            store(get_i64(a, 0), get_i64(a, 1), get_i64(a, 2), get_i64(a, 3), get_i64(a, 4))
        elif what == SCORES:
            scores(get_i64(a, 0), get_i64(a, 1), get_i64(a, 2), get_i64(a, 0), get_i64(a, 1),
                   get_i64(a, 2), get_i64(a, 3), get_i64(a, 4), get_i64(a, 5), get_i64(a, 6),
                   get_f32(f, 0))  # fmt: skip
        else:
            values(get_i64(a, 0), get_i64(a, 1), get_i64(a, 2), get_i64(a, 0), get_i64(a, 1),
                   get_i64(a, 2), get_i64(a, 3), get_i64(a, 4), get_i64(a, 5),
                   get_i64(a, 6))  # fmt: skip
        return 0

    def build() -> Any:
        return engine

    name = f"test of a page {kv} {head_dim}"
    run = jit.load(isa, name, build, sources=Path(cache_tiles.__file__).parent)

    def call(what: int, *arguments: int, factor: float = 1.0) -> None:
        array, factors = np.array(arguments, np.int64), np.array([factor], np.float32)
        run(what, array.ctypes.data, factors.ctypes.data, 0)

    return call


def config_of(head_dim: int) -> ModelConfig:
    return ModelConfig(
        vocab_size=10, n_ctx=3 * PAGE, n_embd=2 * head_dim, n_layer=2, n_head=2,
        head_dim=head_dim,
    )  # fmt: skip


def some_heads(count: int, head_dim: int, seed: int) -> NDArray[np.float32]:
    """(count, 2, D): of every size, with ties between two bytes, outliers and nothing but zeros."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, 2, head_dim)) * np.exp(rng.standard_normal((count, 2, 1)))
    x[:: count // 4, :, head_dim // 3] *= 100
    x[1], x[2, 0, 0] = rng.integers(-254, 255, (2, head_dim)) / 2, 127
    x[3] = 0
    x[4] = 1e-32  # too small for a scale
    return x.astype(np.float32)


def filled(kv: str, head_dim: int) -> tuple[KVCache, NDArray[np.float32], NDArray[np.float32]]:
    cache = KVCache(config_of(head_dim), kv)
    k, v = some_heads(POSITIONS, head_dim, 0), some_heads(POSITIONS, head_dim, 1)
    cache.extend(1, k, v)
    return cache, k, v


@ISAS
@SIZES
@FORMS
def test_a_kernel_writes_the_bytes_that_numpy_does(isa: Isa, kv: str, head_dim: int) -> None:
    cache, k, v = filled(kv, head_dim)
    keys_bytes, values_bytes = page_part(kv, head_dim)
    run = kernels(isa, kv, head_dim)
    pages = [aligned(page.nbytes, np.uint8) for page in cache._pages]
    row = aligned(2 * (head_dim + 16), np.float32)
    row[:] = 1e6  # what lies beyond a head is not the head's
    for position, head in np.ndindex(POSITIONS, 2):
        row[:head_dim], row[head_dim + 16 :][:head_dim] = k[position, head], v[position, head]
        part = pages[position // PAGE].ctypes.data + (2 + head) * (keys_bytes + values_bytes)
        address = row.ctypes.data
        run(STORE, address, address + (head_dim + 16) * 4, part, part + keys_bytes, position % PAGE)
    for got, want in zip(pages, cache._pages, strict=True):
        np.testing.assert_array_equal(got, want)


@ISAS
@SIZES
@FORMS
def test_scores_and_values_are_those_of_what_the_cache_gives_back(
    isa: Isa, kv: str, head_dim: int
) -> None:
    cache, _, _ = filled(kv, head_dim)
    none = np.zeros((0, 2, head_dim), np.float32)
    cache.length = POSITIONS
    k, v = cache.extend(1, none, none)
    run = kernels(isa, kv, head_dim)
    offset = (2 + 1) * sum(page_part(kv, head_dim))  # layer 1, head 1
    rng = np.random.default_rng(2)
    q = np.full((QUERIES, head_dim + 16), 1e6, np.float32)
    q[:, :head_dim] = rng.standard_normal((QUERIES, head_dim))
    scores = aligned(QUERIES * 2 * PAGE, np.float32).reshape(QUERIES, -1)
    run(SCORES, cache.table_address, 2, offset, q.ctypes.data, q.strides[0],
        scores.ctypes.data, scores.strides[0], factor=0.25)  # fmt: skip
    want = 0.25 * q[:, :head_dim].astype(np.float64) @ k[:, 1].astype(np.float64).T
    largest = np.abs(q[:, :head_dim]).max(axis=1)[:, None] * np.abs(k[:, 1]).sum(axis=1)
    assert (np.abs(scores[:, :POSITIONS] - want) <= 0.25 / 65_000 * largest).all()  # half a step

    pattern = np.zeros((QUERIES, 2 * PAGE), np.float32)
    pattern[:, :POSITIONS] = np.exp(3 * rng.standard_normal((QUERIES, POSITIONS)))
    pattern[1, PAGE:] = 1e-38  # too small to be divided by
    pattern[2, :PAGE] = 0  # before a window
    shares = pattern[:, :POSITIONS].astype(np.float64)
    width = -(-head_dim // 16) * 16
    out = np.ones((QUERIES, width), np.float32)
    run(VALUES, cache.table_address, 2, offset + page_part(kv, head_dim)[0], pattern.ctypes.data,
        pattern.strides[0], out.ctypes.data, out.strides[0])  # fmt: skip
    want = shares @ v[:, 1].astype(np.float64)
    assert (np.abs(out[:, :head_dim] - want) <= 1e-4 * np.abs(want).max(axis=1)[:, None]).all()
    assert not out[:, head_dim:].any()


@pytest.mark.parametrize("head_dim", [40, 64])
def test_scores_and_values_have_the_same_bits_on_all_instructions(head_dim: int) -> None:
    found = []
    cache, _, _ = filled("int8", head_dim)
    offset = 3 * sum(page_part("int8", head_dim))
    rng = np.random.default_rng(3)
    q = rng.standard_normal((QUERIES, head_dim + 16)).astype(np.float32)
    pattern = np.exp(3 * rng.standard_normal((QUERIES, 2 * PAGE))).astype(np.float32)
    for isa in isas.available():
        run = kernels(isa, "int8", head_dim)
        scores = np.zeros((QUERIES, 2 * PAGE), np.float32)
        out = np.zeros((QUERIES, -(-head_dim // 16) * 16), np.float32)
        run(SCORES, cache.table_address, 2, offset, q.ctypes.data, q.strides[0],
            scores.ctypes.data, scores.strides[0])  # fmt: skip
        run(VALUES, cache.table_address, 2, offset + page_part("int8", head_dim)[0],
            pattern.copy().ctypes.data, pattern.strides[0], out.ctypes.data,
            out.strides[0])  # fmt: skip
        found.append((scores[:, :POSITIONS], out))
    for scores, out in found[1:]:
        np.testing.assert_array_equal(scores, found[0][0])
        np.testing.assert_array_equal(out, found[0][1])
