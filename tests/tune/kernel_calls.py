"""Kernels called one by one, with torch's tensors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import laplm.tune.kernels
from laplm.native import isa as isas
from laplm.native import jit
from laplm.tune.kernels.attention import BLOCK, Spec
from laplm.tune.kernels.runtime import has_kernel

FORMATS = [dtype for dtype in (torch.float32, torch.bfloat16) if has_kernel(dtype)]
SOURCES = Path(next(iter(laplm.tune.kernels.__path__)))
DIM = 32

needs_kernels = pytest.mark.skipif(not FORMATS, reason="torch does all of it here")


def spec_of(dtype: torch.dtype) -> Spec:
    return Spec(DIM, dtype == torch.bfloat16)


def call(name: str, spec: Spec, build: Callable[[], Any], *values: int | Tensor) -> None:
    """Run a kernel of four integers with the address of ``values``; tensors are addresses."""
    args = np.array([v.data_ptr() if isinstance(v, Tensor) else v for v in values], np.int64)
    engine = jit.load(isas.choose(), ("test", name, spec), build, sources=SOURCES)
    assert engine(args.ctypes.data, 0, 0, 0) == 0


def block_of(rows: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Some rows of a head, (rows, DIM)."""
    generator = torch.Generator().manual_seed(seed + rows)
    return torch.randn(rows, DIM, generator=generator).to(dtype)


def padded(x: Tensor) -> Tensor:
    """With rows of zeros up to a whole block."""
    return torch.cat([x, x.new_zeros(BLOCK - len(x), x.shape[1])])
