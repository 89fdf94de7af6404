"""Work stealing: each item is claimed once, whoever comes."""

from __future__ import annotations

import numpy as np
import pytest
from running import Arguments, compiled

from laplm.model.engine.kernels.threads import claim_items
from laplm.native import isa as isas
from laplm.native import lower
from laplm.native.memory import aligned


@lower.kernel
def engine(args: int, thread: int, count: int, size: int) -> int:
    start, end = claim_items(args, 0, thread, count, size)
    return start * 1000 + end


@pytest.mark.parametrize(
    ("count", "size", "threads"), [(10, 3, 2), (1, 4, 3), (7, 1, 2), (64, 16, 4)]
)
def test_every_item_is_claimed_once_and_the_own_range_first(
    count: int, size: int, threads: int
) -> None:
    counters = aligned(threads * 8, np.int64)
    args = Arguments(N_THREADS=threads, COUNTERS=counters)
    run = compiled(isas.choose(), "claims", engine)
    order = np.random.default_rng(0).integers(0, threads, 100).tolist()
    claimed = [divmod(run(args.address, thread, count, size), 1000) for thread in order]
    found = [claim for claim in claimed if claim != (-2, 999)]  # (-1, -1)
    assert sorted(found) == [(i, min(i + size, count)) for i in range(0, count, size)]
    claims = -(-count // size)
    first = claims * order[0] // threads
    if first < claims * (order[0] + 1) // threads:
        assert claimed[0][0] == first * size
