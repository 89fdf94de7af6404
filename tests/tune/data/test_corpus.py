from __future__ import annotations

import math

import pytest

from laplm.tune.data.corpus import perplexity, shuffled_ids


def test_samples_of_a_run_are_whole_epochs_one_after_the_other() -> None:
    n = 5
    run = shuffled_ids(n, 3, 0, 4 * n).tolist()
    epochs = [run[i : i + n] for i in range(0, len(run), n)]
    assert all(sorted(epoch) == list(range(n)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    for first in range(2 * n):
        for count in (1, 3, 2 * n):
            assert shuffled_ids(n, 3, first, count).tolist() == run[first : first + count]
    assert shuffled_ids(n, 4, 0, 4 * n).tolist() != run


def test_a_perplexity_is_the_exponential_of_a_loss() -> None:
    assert perplexity(math.log(17)) == pytest.approx(17)
    assert perplexity(1e9) == math.inf
