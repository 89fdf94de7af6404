"""Norms: ``ops.layer_norm`` and ``ops.rms_norm`` for one token."""

from __future__ import annotations

from typing import Any

from laplm.model.engine import kernel_args as k
from laplm.model.engine.kernels.threads import claim_items
from laplm.native import lower
from laplm.native.simd import (
    fma,
    get_f32,
    get_i64,
    inverse_root,
    keep_between,
    load,
    set_f32,
    splat,
    store,
    sum_lanes,
)


@lower.kernel
def layer_norm(args: int, row: int, gain: int, bias: int, out: int) -> None:
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
        store(out, i, fma((load(row, i) - mean) * inverse, load(gain, i), load(bias, i)))


@lower.kernel
def rms_norm(args: int, row: int, gain: int, bias: int, out: int) -> None:
    """(C,) floats to (C,) floats; ``bias`` is not used: the call is that of ``layer_norm``."""
    width, n = get_i64(args, k.WIDTH), splat(get_i64(args, k.N_EMBD))
    total = splat(0.0)
    for i in range(0, width, 16):
        total = fma(load(row, i), load(row, i), total)
    mean_square = splat(sum_lanes(total)) / n
    inverse = inverse_root(mean_square + splat(get_f32(get_i64(args, k.EPSILON), 0)))
    for i in range(0, width, 16):
        store(out, i, load(row, i) * inverse * load(gain, i))


def make_head_norm(head_dim: int) -> Any:
    """``head_norm(args, row, gain)``: ``ops.rms_norm`` of one head's (D,) floats, in place."""
    whole = head_dim // 16 * 16

    @lower.kernel
    def head_norm(args: int, row: int, gain: int) -> None:
        total = splat(0.0)
        for i in range(0, whole, 16):
            total = fma(load(row, i), load(row, i), total)
        if head_dim > whole:  # beyond the head lies the next one
            last = keep_between(load(row, whole), 0, head_dim - whole, 0.0)
            total = fma(last, last, total)
        mean_square = splat(sum_lanes(total)) / splat(head_dim)
        inverse = inverse_root(mean_square + splat(get_f32(get_i64(args, k.EPSILON), 0)))
        factor = sum_lanes(keep_between(inverse, 0, 1, 0.0))
        for i in range(0, whole, 16):
            store(row, i, load(row, i) * inverse * load(gain, i))
        for i in range(whole, head_dim):
            set_f32(row, i, get_f32(row, i) * factor * get_f32(gain, i))

    return head_norm


def make_add_sublayer(spec: k.Spec, barrier: Any) -> Any:
    """``add_sublayer(args, thread, phase, tokens, gain)``: X += SUBLAYER, normalised if asked."""

    @lower.kernel
    def add_sublayer(args: int, thread: int, phase: int, tokens: int, gain: int) -> int:
        width = get_i64(args, k.WIDTH)
        start, end = claim_items(args, phase, thread, tokens, 1)
        while start >= 0:
            for t in range(start, end):
                x = get_i64(args, k.X) + t * width * 4
                added = get_i64(args, k.SUBLAYER) + t * width * 4
                if spec.post_norms:
                    rms_norm(args, added, gain, 0, added)
                for i in range(0, width, 16):
                    store(x, i, load(x, i) + load(added, i))
            start, end = claim_items(args, phase, thread, tokens, 1)
        return barrier(args, thread, phase, 0, 0)

    return add_sublayer
