"""What sampling asks of logits, compiled."""

from __future__ import annotations

import numpy as np
import pytest
from running import compiled

from laplm.model.engine.kernels.sampling import log_sum_exp
from laplm.native import lower
from laplm.native.isa import Isa

pytest_plugins = ("running",)


@lower.kernel
def engine(logits: int, count: int, out: int, _: int) -> int:
    log_sum_exp(logits, count, out)
    return 0


@pytest.mark.parametrize("count", [1, 15, 16, 17, 50257])
def test_log_sum_exp_is_numpys(isa: Isa, count: int) -> None:
    logits = (np.random.default_rng(count).standard_normal(count) * 20).astype(np.float32)
    out = np.zeros(2, np.float32)
    compiled(isa, "log sum exp", engine)(logits.ctypes.data, count, out.ctypes.data, 0)
    assert out[0] == logits.max()
    want = np.logaddexp.reduce(logits.astype(np.float64))
    assert out[0] + np.log(out[1]) == pytest.approx(want, rel=1e-6)
