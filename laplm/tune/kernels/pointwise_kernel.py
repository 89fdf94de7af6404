"""GELU and cross-entropy with their gradients, compiled: see ``pointwise.py`` for torch's lines."""

from __future__ import annotations

from typing import Any

from laplm.native import lower
from laplm.native.isa import Isa
from laplm.native.simd import (
    fma,
    get_f32,
    get_i64,
    keep_between,
    max_lanes,
    maximum,
    set_f32,
    splat,
    sum_lanes,
)
from laplm.tune.kernels import numbers
from laplm.tune.kernels import pointwise as args
from laplm.tune.kernels.numbers import exp2
from laplm.tune.kernels.pointwise import CROSS_ENTROPY_GRAD, GELU, GELU_GRAD, Spec

LOG2_E = 1.4426950408889634


def build(isa: Isa, spec: Spec) -> Any:
    """The function to compile: ``engine(what, args, begin, end)``, all int64.

    ``what`` is one of four; ``args`` is an address; ``begin`` to ``end`` are vectors of 16 numbers,
    or rows of logits.
    """
    size = spec.bytes_per_number
    gelu, gelu_grad, cross_entropy = make_gelu(spec), make_gelu_grad(spec), make_cross_entropy(spec)

    @lower.kernel
    def engine(what: int, call: int, begin: int, end: int) -> int:
        x = get_i64(call, args.X)
        if what == GELU:
            gelu(x, get_i64(call, args.OUT), begin, end)
        elif what == GELU_GRAD:
            gelu_grad(x, get_i64(call, args.D_OUT), get_i64(call, args.OUT), begin, end)
        else:
            width = get_i64(call, args.N_VOCAB)
            for n in range(begin, end):
                cross_entropy(
                    x + n * width * size, width, get_i64(get_i64(call, args.TARGETS), n),
                    get_i64(call, args.STATS) + n * 12,
                    get_i64(call, args.SCALE) if what == CROSS_ENTROPY_GRAD else 0,
                )  # fmt: skip
        return 0

    return engine


@lower.inlined
def gelu_gate(x: Any) -> Any:
    """1 / (1 + e**(-2u)) = 0.5 (1 + tanh(u)), u = sqrt(2 / pi) (x + 0.044715 x**3)."""
    # -2 sqrt(2 / pi) log2(e) = -2.3022082, and 0.044715 times that
    power = x * fma(x * x, splat(-0.10294324), splat(-2.3022082))
    return splat(1.0) / (splat(1.0) + exp2(power))


def make_gelu(spec: Spec) -> Any:
    """``gelu(x, out, begin, end)``: torch's ``functional.gelu(x, approximate="tanh")``."""
    size = spec.bytes_per_number
    load = numbers.make_load(bfloat16=spec.bfloat16)
    store = numbers.make_store(bfloat16=spec.bfloat16)

    @lower.kernel
    def gelu(x: int, out: int, begin: int, end: int) -> None:
        for i in range(begin * 16 * size, end * 16 * size, 16 * size):
            v = load(x + i)
            store(out + i, v * gelu_gate(v))

    return gelu


def make_gelu_grad(spec: Spec) -> Any:
    """``gelu_grad(x, d_out, d_x, begin, end)``: what autograd makes of ``gelu``."""
    size = spec.bytes_per_number
    load = numbers.make_load(bfloat16=spec.bfloat16)
    store = numbers.make_store(bfloat16=spec.bfloat16)

    @lower.kernel
    def gelu_grad(x: int, d_out: int, d_x: int, begin: int, end: int) -> None:
        for i in range(begin * 16 * size, end * 16 * size, 16 * size):
            v = load(x + i)
            s = gelu_gate(v)
            # 2 du/dx = 2 sqrt(2 / pi) (1 + 3 * 0.044715 x**2)
            two_du = fma(v * v, splat(0.21406445), splat(1.5957691))
            derivative = fma(v * s * (splat(1.0) - s), two_du, s)
            store(d_x + i, load(d_out + i) * derivative)

    return gelu_grad


def make_cross_entropy(spec: Spec) -> Any:
    """``cross_entropy(row, width, target, stats, scale)``: one row of ``cross_entropy_grad_``.

    ``stats`` gets the largest logit, the sum of exponentials less that, and the target's logit.
    Where ``scale`` is an address, (softmax - one-hot) * scale takes the row's place.
    """
    size = spec.bytes_per_number
    load = numbers.make_load(bfloat16=spec.bfloat16)
    store = numbers.make_store(bfloat16=spec.bfloat16)
    get_one = numbers.make_get(bfloat16=spec.bfloat16)
    set_one = numbers.make_set(bfloat16=spec.bfloat16)

    @lower.kernel
    def cross_entropy(row: int, width: int, target: int, stats: int, scale: int) -> None:
        whole, last = width // 16 * 16, row + (width - 16) * size
        largest = load(last)
        for i in range(0, whole, 16):
            largest = maximum(largest, load(row + i * size))
        top = max_lanes(largest)
        tops, log2_e = splat(top), splat(LOG2_E)
        sums = splat(0.0)
        for first in range(0, whole, 1024):  # sums of sums: few are added to a number much larger
            part = splat(0.0)
            for i in range(first, min(first + 1024, whole), 16):
                part = part + exp2((load(row + i * size) - tops) * log2_e)
            sums = sums + part
        # The last numbers, where rows are no whole vectors: some of these 16 came before.
        rest = exp2((load(last) - tops) * log2_e)
        total = sum_lanes(sums + keep_between(rest, 16 - (width - whole), 16, 0.0))
        target_logit = get_one(row + target * size)
        set_f32(stats, 0, top)
        set_f32(stats, 1, total)
        set_f32(stats, 2, target_logit)
        if scale:
            share = get_f32(scale, 0) / total
            shares = splat(share)
            for i in range(0, whole, 16):
                at = row + i * size
                store(at, exp2((load(at) - tops) * log2_e) * shares)
            store(last, rest * shares)
            # exp2 of one number is that of 16 equal ones.
            own = max_lanes(exp2((splat(target_logit) - tops) * log2_e))
            set_one(row + target * size, own * share - get_f32(scale, 0))

    return cross_entropy
