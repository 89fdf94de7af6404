"""Kernels found out about and loaded anew, for tests that choose a variant."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from laplm.tune.kernels import attention, runtime


def _forget() -> None:
    attention.is_supported.cache_clear()
    runtime.has_kernel.cache_clear()
    runtime._loaded.clear()


@pytest.fixture
def forgotten_kernels() -> Iterator[None]:
    _forget()
    yield
    _forget()
