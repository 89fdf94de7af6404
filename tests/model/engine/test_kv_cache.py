"""The cache holds what was put in, and forks never see each other's tokens."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from laplm.errors import InputError
from laplm.model.config import ModelConfig
from laplm.model.engine import kv_cache
from laplm.model.engine.kernel_args import GROUP, PAGE
from laplm.model.engine.kv_cache import KVCache

CONFIG = ModelConfig(vocab_size=10, n_ctx=3 * PAGE + 5, n_embd=20, n_layer=2, n_head=2)


def add(cache: KVCache, numbers: np.ndarray) -> None:
    """Keys and values that can be told apart by token, layer and kind."""
    shape = (len(numbers), CONFIG.n_head, CONFIG.head_dim)
    values = np.broadcast_to(numbers[:, None, None], shape).astype(np.float32)
    for layer in range(CONFIG.n_layer):
        cache.extend(layer, values + layer, -(values + layer))
    cache.append_ids(numbers.astype(int).tolist())


def held(cache: KVCache, layer: int) -> tuple[np.ndarray, np.ndarray]:
    none = np.zeros((0, CONFIG.n_head, CONFIG.head_dim), np.float32)
    return cache.extend(layer, none, none)


class Family(RuleBasedStateMachine):
    """Caches that grow, fork, are trimmed: each must hold its own tokens and no others'."""

    def __init__(self) -> None:
        super().__init__()
        self.caches: list[tuple[KVCache, list[int]]] = []
        self.next = 1

    @initialize()
    def begin(self) -> None:
        self.caches = [(KVCache(CONFIG, "fp32"), [])]

    @rule(which=st.integers(0, 5), count=st.integers(1, PAGE + 3))
    def grow(self, which: int, count: int) -> None:
        cache, want = self.caches[which % len(self.caches)]
        count = min(count, CONFIG.n_ctx - len(want))
        if count:
            numbers = np.arange(self.next, self.next + count)
            self.next += count
            add(cache, numbers)
            want.extend(numbers.tolist())

    @rule(which=st.integers(0, 5), count=st.integers(1, 2))
    def fork(self, which: int, count: int) -> None:
        cache, want = self.caches[which % len(self.caches)]
        if len(self.caches) < 6:
            self.caches += [(child, list(want)) for child in cache.fork(count)]

    @rule(which=st.integers(0, 5), share=st.floats(0, 1))
    def trim(self, which: int, share: float) -> None:
        cache, want = self.caches[which % len(self.caches)]
        length = int(share * len(want))
        cache.trim(length)
        del want[length:]

    @invariant()
    def each_holds_its_own(self) -> None:
        for cache, want in self.caches:
            assert cache.length == len(want)
            assert cache.ids == want
            if want:
                for layer in range(CONFIG.n_layer):
                    k, v = held(cache, layer)
                    numbers = np.array(want, np.float32) + layer
                    np.testing.assert_array_equal(
                        k, np.broadcast_to(numbers[:, None, None], k.shape)
                    )
                    np.testing.assert_array_equal(v, -k)


TestFamily = Family.TestCase
TestFamily.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)


def test_forks_share_memory_until_they_write() -> None:
    cache = KVCache(CONFIG, "int8")
    add(cache, np.arange(2 * PAGE + 3))
    a, b = cache.fork(2)
    assert a._pages[0] is b._pages[0] is cache._pages[0]
    add(a, np.arange(1))
    assert a._pages[2] is not b._pages[2]
    assert a._pages[1] is b._pages[1]


def test_a_long_sequence_has_pages_side_by_side_and_every_page_is_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache = KVCache(CONFIG, "int8", 40 * PAGE)
    page_bytes = cache.bytes_per_position * PAGE
    monkeypatch.setattr(kv_cache, "MOST_AT_ONCE", 8 * page_bytes)
    for _ in range(20):  # a page at a time, in blocks of 1, 1, 2, 4, 8 and 8
        cache.reserve(PAGE)
        cache.length += PAGE
    a, b = cache.fork(2)
    for fork in (a, b):
        fork.reserve(3 * PAGE)
    addresses = cache._table[:20].tolist() + a._table[20:23].tolist() + b._table[20:23].tolist()
    assert len(set(addresses)) == 26
    apart = np.diff(sorted(addresses))
    assert apart.min() == page_bytes  # none lies within another
    assert sum(np.diff(cache._table[:20]) == page_bytes) >= 14
    cache.trim(PAGE)
    assert not cache._unused


@pytest.mark.parametrize("kv", ["fp32", "int8"])
@pytest.mark.parametrize("writer", [0, 1, 2])
def test_whoever_of_a_family_writes_first_changes_nobody_else(kv: str, writer: int) -> None:
    """The parent too: nobody reads in between, which would take a copy of the page."""
    parent = KVCache(CONFIG, kv)
    numbers = np.arange(1, PAGE + 4)
    add(parent, numbers)
    family = [parent, *parent.fork(2)]
    add(family[writer], np.array([99, 98]))
    for member in family:
        ids = [*numbers.tolist(), *([99, 98] if member is family[writer] else [])]
        assert member.ids == ids
        if member is not family[writer]:
            add(member, np.array([7, 7]))  # over what the writer wrote, if the page were its too
            ids += [7, 7]
        k, v = held(member, 1)
        np.testing.assert_allclose(k[:, 0, 0], np.array(ids) + 1, rtol=1e-6)
        np.testing.assert_allclose(v[:, 0, 0], -(np.array(ids) + 1), rtol=1e-6)


@pytest.mark.parametrize("head_dim", [10, 40, 64])
def test_keys_as_bytes_are_within_half_a_step_of_their_group(head_dim: int) -> None:
    """Of 32 components: an outlier, as biases of keys make, costs its own group alone."""
    config = ModelConfig(
        vocab_size=10, n_ctx=99, n_embd=head_dim, n_layer=1, n_head=1, head_dim=head_dim
    )
    k = np.random.default_rng(0).standard_normal((40, 1, head_dim)).astype(np.float32)
    k[:, :, 3] = 1e9
    got, _ = KVCache(config, "int8").extend(0, k, k)
    for start in range(0, head_dim, GROUP):
        some, group = k[..., start : start + GROUP], got[..., start : start + GROUP]
        step = np.abs(some).max(axis=-1, keepdims=True) / 127
        assert (np.abs(group - some) <= 0.5001 * step).all()


def test_values_as_bytes_are_within_half_a_step() -> None:
    cache = KVCache(CONFIG, "int8")
    v = np.random.default_rng(0).standard_normal((40, CONFIG.n_head, CONFIG.head_dim))
    v = v.astype(np.float32)
    _, got = cache.extend(0, v, v)
    step = np.abs(v).max(axis=-1, keepdims=True) / 127
    assert (np.abs(got - v) <= 0.5001 * step).all()


def test_numbers_too_small_for_a_scale_are_zeros() -> None:
    """Not infinite: 127 divided by them is no fp32 number."""
    tiny = np.full((1, CONFIG.n_head, CONFIG.head_dim), 1e-39, np.float32)
    for got in KVCache(CONFIG, "int8").extend(0, tiny, tiny):
        np.testing.assert_array_equal(got, 0)


def test_trimming_to_an_impossible_length_is_refused() -> None:
    cache = KVCache(CONFIG, "fp32")
    add(cache, np.arange(5))
    for length in (-1, 6):
        with pytest.raises(InputError):
            cache.trim(length)
