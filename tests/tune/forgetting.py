"""Loops found out about and loaded anew, for tests that choose a variant."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from laplm.tune.kernels import attention, loops


def _forget() -> None:
    attention.is_supported.cache_clear()
    loops.has_loops.cache_clear()
    loops._engines.clear()


@pytest.fixture
def forgotten_loops() -> Iterator[None]:
    _forget()
    yield
    _forget()
