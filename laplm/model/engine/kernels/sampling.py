"""What sampling asks about logits."""

from __future__ import annotations

from laplm.model.engine.kernels.activation import exp
from laplm.native import lower
from laplm.native.simd import (
    get_f32,
    keep_between,
    load,
    max_lanes,
    maximum,
    set_f32,
    splat,
    sum_lanes,
)


@lower.kernel
def log_sum_exp(logits: int, count: int, out: int) -> None:
    """The largest of ``count`` logits, and the sum of e**(logit - largest), to ``out``."""
    whole = count // 16 * 16
    largest = splat(-3.0e38)
    for i in range(0, whole, 16):
        largest = maximum(largest, load(logits, i))
    for i in range(whole, count):
        largest = maximum(largest, splat(get_f32(logits, i)))
    largest = splat(max_lanes(largest))
    total = splat(0.0)
    for i in range(0, whole, 16):
        total = total + exp(load(logits, i) - largest)
    for i in range(whole, count):
        total = total + keep_between(exp(splat(get_f32(logits, i)) - largest), 0, 1, 0.0)
    set_f32(out, 0, max_lanes(largest))
    set_f32(out, 1, sum_lanes(total))
