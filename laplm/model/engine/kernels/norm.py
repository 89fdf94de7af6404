"""Layer norm: ``ops.layer_norm`` for one token."""

from __future__ import annotations

from laplm.model.engine import kernel_args as k
from laplm.native import lower
from laplm.native.simd import (
    fma,
    get_f32,
    get_i64,
    inverse_root,
    keep_between,
    load,
    splat,
    store,
    sum_lanes,
)


@lower.kernel
def layer_norm(args: int, row: int, gain: int, shift: int, out: int) -> None:
    """(C,) floats to (C,) floats; the padding stays zero."""
    c, width, n = get_i64(args, k.N_EMBD), get_i64(args, k.WIDTH), splat(get_i64(args, k.N_EMBD))
    total = splat(0.0)
    for i in range(0, width, 16):
        total = total + load(row, i)
    mean = splat(sum_lanes(total)) / n
    total = splat(0.0)
    for i in range(0, width, 16):
        centred = keep_between(load(row, i) - mean, 0, c - i, 0.0)
        total = fma(centred, centred, total)
    variance = splat(sum_lanes(total)) / n
    inverse = inverse_root(variance + splat(get_f32(get_i64(args, k.EPSILON), 0)))
    for i in range(0, width, 16):
        store(out, i, fma((load(row, i) - mean) * inverse, load(gain, i), load(shift, i)))
