"""Threads for the compiled loops of training, which release Python's lock while they run."""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


def run_together(work: Callable[[int], None], threads: int) -> None:
    """Call ``work`` with 0 to ``threads - 1`` at the same time, once on this thread; wait for all.

    Raises:
        Exception: what ``work`` raised.
    """
    others = [_pool(threads - 1).submit(work, i) for i in range(1, threads)]
    try:
        work(0)
    finally:  # the others may still write to what the caller would let go of
        errors = [other.exception() for other in others]
    for error in errors:
        if error is not None:
            raise error


@functools.lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="laplm-tune")
