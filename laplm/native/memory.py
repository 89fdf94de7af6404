"""Memory that compiled code is given the addresses of, and memory that is given back."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import sys
from pathlib import Path
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


def release_code_pages(library: str) -> None:
    """Take a library's machine code out of this process's memory until it runs again.

    On Linux. It comes back from the system's file cache when it is called.

    Args:
        library: the file's name, or how it begins.
    """
    if sys.platform != "linux":
        return
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    with contextlib.suppress(OSError):  # a system without /proc
        for line in Path("/proc/self/maps").read_text().splitlines():
            where, access, _, _, _, *path = line.split(maxsplit=5)
            # Code alone: what is written to, such as a table of addresses, would be lost.
            if access == "r-xp" and path and Path(path[0]).name.startswith(library):
                start, end = (int(address, 16) for address in where.split("-"))
                madvise(start, end - start, mmap.MADV_DONTNEED)
