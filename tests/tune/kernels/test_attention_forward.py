"""The softmax of attention's forward pass, beside torch's line; whole passes: test_attention.py."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from kernel_calls import FORMATS, call, needs_kernels, spec_of

from laplm.native import lower
from laplm.native.simd import get_i64
from laplm.tune.kernels.attention_forward import make_softmax_row

pytestmark = needs_kernels


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 64), (5, 40), (17, 33), (48, 49)])
@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_a_row_is_torchs_softmax_between_two_keys(dtype: torch.dtype, low: int, high: int) -> None:
    spec = spec_of(dtype)

    def build() -> Any:
        softmax_row = make_softmax_row(spec)

        @lower.kernel
        def engine(a: int, _b: int, _c: int, _d: int) -> int:
            softmax_row(
                get_i64(a, 0), 64, get_i64(a, 1), get_i64(a, 2), get_i64(a, 3), get_i64(a, 4),
                get_i64(a, 5),
            )  # fmt: skip
            return 0

        return engine

    scores = torch.randn(64, generator=torch.Generator().manual_seed(high)) * 5
    out, stats = torch.full((64,), 7.0, dtype=dtype), torch.empty(2)
    scale = 0.3
    scales = torch.tensor([scale * math.log2(math.e), scale])
    call("softmax_row", spec, build, scores, low, high, out, stats, scales)
    seen = scores[low:high].double() * scale
    expected = torch.zeros(64, dtype=torch.float64)
    expected[low:high] = torch.exp(seen - seen.max())
    tolerance = 4e-3 if dtype == torch.bfloat16 else 1e-6
    torch.testing.assert_close(out.double(), expected, rtol=tolerance, atol=1e-7)
    assert float(stats[0]) == pytest.approx(float(seen.max()) * math.log2(math.e), rel=1e-5)
    assert float(stats[1]) == pytest.approx(1 / float(expected.sum()), rel=1e-5)
