"""Memory that compiled code is given the addresses of."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def aligned(count: int, dtype: Any) -> NDArray[Any]:
    """Zeros that start at a cache line, (count,)."""
    size = count * np.dtype(dtype).itemsize
    raw = np.zeros(size + 64, dtype=np.uint8)
    start = -raw.ctypes.data % 64
    out: NDArray[Any] = raw[start : start + size].view(dtype)
    return out
