from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laplm.errors import InputError
from recipes.pocket.token_data import TokenData, TokenWindows, consecutive_windows


def documents(lengths: list[int]) -> TokenData:
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
    n = sum(lengths)
    return TokenData(tokens=np.arange(n, dtype=np.uint16), starts=starts, n_bytes=3 * n)


lengths_lists = st.lists(st.integers(1, 40), min_size=1, max_size=20)


@settings(deadline=None)
@given(lengths=lengths_lists, n_positions=st.integers(1, 12), seed=st.integers(0, 9))
def test_an_epoch_shows_every_token_and_begins_at_documents(
    lengths: list[int], n_positions: int, seed: int
) -> None:
    data = documents(lengths)
    n = len(data.tokens)
    if n < n_positions + 1:
        with pytest.raises(InputError, match=f"{n} tokens, but one window needs"):
            TokenWindows(data, n_positions, seed)
        return
    windows = TokenWindows(data, n_positions, seed)
    begins, seen = [], set()
    for number in range(len(windows)):
        inputs, targets, _ = windows.batch(number, 1)
        assert inputs.shape == targets.shape == (1, n_positions)
        assert (targets == inputs + 1).all()  # tokens are their own index here
        begins.append(int(inputs[0, 0]))
        seen |= {*inputs[0].tolist(), *targets[0].tolist()}
    assert seen == set(range(n))
    assert len(set(begins)) == len(begins)
    last = n - n_positions - 1
    assert {int(s) for s in data.starts if s <= last} <= set(begins)


def test_order_follows_the_seed_and_not_the_calls() -> None:
    data = documents([7] * 30)
    one, two = (TokenWindows(data, 8, seed=4) for _ in range(2))
    forward = [one.batch(i, 5)[0] for i in range(20)]
    backward = [two.batch(i, 5)[0] for i in reversed(range(20))][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(forward, backward, strict=True))
    other = TokenWindows(data, 8, seed=5)
    assert not all(np.array_equal(other.batch(i, 5)[0], forward[i]) for i in range(20))


def test_each_epoch_has_its_own_order() -> None:
    windows = TokenWindows(documents([7] * 30), 8, seed=0)
    n = len(windows)
    first, second = (windows.batch(epoch, n)[0][:, 0] for epoch in (0, 1))
    assert sorted(first) == sorted(second)
    assert list(first) != list(second)


def test_saved_data_comes_back_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    data = documents([3, 9, 4])
    data.save(tmp_path / "x.npz")
    again = TokenData.load(tmp_path / "x.npz")
    assert np.array_equal(again.tokens, data.tokens)
    assert np.array_equal(again.starts, data.starts)
    assert again.n_bytes == data.n_bytes
    assert again.digest() == data.digest()
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]


def test_digest_tells_other_tokens_and_other_documents_apart() -> None:
    digests = {
        documents([3, 9, 4]).digest(), documents([9, 3, 4]).digest(), documents([3, 9, 5]).digest(),
    }  # fmt: skip
    assert len(digests) == 3


def test_bits_per_byte_of_a_uniform_guess() -> None:
    # 256 equally likely tokens of two bytes each: 8 bits a token, 4 a byte.
    data = TokenData(tokens=np.zeros(10, np.uint16), starts=np.array([0]), n_bytes=20)
    assert data.bits_per_byte(np.log(256)) == pytest.approx(4.0)


def test_consecutive_windows_lie_side_by_side() -> None:
    inputs, targets, _ = consecutive_windows(documents([22]), 5, limit=9)
    assert inputs.ravel().tolist() == list(range(20))
    assert targets.ravel().tolist() == list(range(1, 21))
    assert consecutive_windows(documents([22]), 5, limit=2)[0].shape == (2, 5)
    with pytest.raises(InputError, match="held-out text has 5 tokens"):
        consecutive_windows(documents([5]), 5, limit=2)


def test_windows_begin_at_documents_and_every_so_many_tokens_into_long_ones() -> None:
    windows = TokenWindows(documents([3, 9, 4]), 4, seed=0)
    begins = sorted(int(windows.batch(i, 1)[0][0, 0]) for i in range(len(windows)))
    # Documents begin at 0, 3 and 12; the last window that fits begins at 11.
    assert begins == [0, 3, 7, 11]
    assert windows.batch(0, 3)[0].dtype == np.int64


def test_the_largest_id_is_that_of_all_tokens() -> None:
    assert documents([3, 9]).largest_id == 11
    nothing = TokenData(tokens=np.zeros(0, np.uint16), starts=np.array([0]), n_bytes=0)
    assert nothing.largest_id == -1


def test_as_many_held_out_windows_as_there_are() -> None:
    assert len(consecutive_windows(documents([21]), 5, limit=9)[0]) == 4
    assert len(consecutive_windows(documents([20]), 5, limit=9)[0]) == 3
    assert len(documents([22]).heldout(5, 2).inputs) == 2
