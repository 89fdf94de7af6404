"""Loops found out about and loaded anew, for tests that choose a variant."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from laplm.tune import attention, loops


def _forget() -> None:
    for cached in (attention.is_supported, loops.has_loops, loops.compiled):
        cached.cache_clear()


@pytest.fixture
def forgotten_loops() -> Iterator[None]:
    _forget()
    yield
    _forget()
