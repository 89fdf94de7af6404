"""Single kernels as functions: compiled for each variant that this machine has, and called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from laplm.model.engine import kernel_args as k
from laplm.native import isa as isas
from laplm.native import jit
from laplm.native.memory import aligned

Engine = Callable[[int, int, int, int], int]


@pytest.fixture(params=isas.available(), ids=lambda isa: isa.name)
def isa(request: pytest.FixtureRequest) -> isas.Isa:
    found: isas.Isa = request.param
    return found


def compiled(isa: isas.Isa, name: str, kernel: Any) -> Engine:
    """A kernel of four arguments as a Python function of four integers."""
    return jit.load(isa, f"test of {name}", lambda: kernel)


def floats(values: np.ndarray) -> np.ndarray:
    """fp32 numbers with room up to whole groups behind them."""
    out = aligned(-(-values.size // 32) * 32, np.float32)
    out[: values.size] = values.ravel()
    return out


class Arguments:
    """A block of kernel arguments for one thread."""

    def __init__(self, **values: int | np.ndarray) -> None:
        self.block = aligned(k.ARGS_SIZE, np.int64)
        self._kept = [v for v in values.values() if isinstance(v, np.ndarray)]
        for name, value in values.items():
            number = value.ctypes.data if isinstance(value, np.ndarray) else value
            self.block[getattr(k, name)] = number

    @property
    def address(self) -> int:
        return int(self.block.ctypes.data)
