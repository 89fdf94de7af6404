"""GELU and softmax with their gradients, number by number, compiled: see ``pointwise.py``."""

from __future__ import annotations

from typing import Any

from laplm.native import lower, simd
from laplm.native.isa import Isa
from laplm.tune.kernels import numbers
from laplm.tune.kernels.pointwise import (
    GELU,
    GELU_GRAD,
    GRAD,
    OUT,
    ROW,
    SCALE,
    SLOPES,
    STATS,
    TARGETS,
    Spec,
    X,
)

LOG2_E = 1.4426950408889634


def build(isa: Isa, spec: Spec) -> Any:
    """The function to compile: ``engine(what, plan, begin, end)``, all int64.

    ``what`` is one of four; ``plan`` is an address; ``begin`` to ``end`` are vectors of 16 numbers,
    or rows of logits.
    """
    size = 2 if spec.bfloat16 else 4
    inlined, compiled = lower.inlined, lower.kernel
    get, get_f32, set_f32 = simd.get_i64, simd.get_f32, simd.set_f32
    fma, splat, maximum = simd.fma, simd.splat, simd.maximum
    max_lanes, sum_lanes = simd.max_lanes, simd.sum_lanes
    load = numbers.make_load(bfloat16=spec.bfloat16)
    save = numbers.make_save(bfloat16=spec.bfloat16)
    get_one = numbers.make_get(bfloat16=spec.bfloat16)
    set_one = numbers.make_set(bfloat16=spec.bfloat16)
    keep_between, exp2 = simd.keep_between, numbers.exp2

    @inlined
    def gate(x: Any) -> Any:
        """1 / (1 + e**(-2u)) = 0.5 (1 + tanh(u)), u = sqrt(2 / pi) (x + 0.044715 x**3)."""
        # -2 sqrt(2 / pi) log2(e) = -2.3022082, and 0.044715 times that
        power = x * fma(x * x, splat(-0.10294324), splat(-2.3022082))
        return splat(1.0) / (splat(1.0) + exp2(power))

    @compiled
    def gelu(x: int, out: int, begin: int, end: int) -> None:
        for i in range(begin * 16 * size, end * 16 * size, 16 * size):
            v = load(x + i)
            save(out + i, v * gate(v))

    @compiled
    def gelu_grad(x: int, grad: int, out: int, begin: int, end: int) -> None:
        for i in range(begin * 16 * size, end * 16 * size, 16 * size):
            v = load(x + i)
            s = gate(v)
            # 2 du/dx = 2 sqrt(2 / pi) (1 + 3 * 0.044715 x**2)
            steep = fma(v * v, splat(0.21406445), splat(1.5957691))
            slope = fma(v * s * (splat(1.0) - s), steep, s)
            save(out + i, load(grad + i) * slope)

    @compiled
    def softmax(row: int, width: int, target: int, stats: int, scale: int) -> None:
        """One row of logits: its numbers for the loss, and slopes where ``scale`` is an address."""
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
        wanted = get_one(row + target * size)
        set_f32(stats, 0, top)
        set_f32(stats, 1, total)
        set_f32(stats, 2, wanted)
        if scale:
            share = get_f32(scale, 0) / total
            shares = splat(share)
            for i in range(0, whole, 16):
                at = row + i * size
                save(at, exp2((load(at) - tops) * log2_e) * shares)
            save(last, rest * shares)
            # exp2 of one number is that of 16 equal ones.
            own = max_lanes(exp2((splat(wanted) - tops) * log2_e))
            set_one(row + target * size, own * share - get_f32(scale, 0))

    @compiled
    def engine(what: int, plan: int, begin: int, end: int) -> int:
        x = get(plan, X)
        if what == GELU:
            gelu(x, get(plan, OUT), begin, end)
        elif what == GELU_GRAD:
            gelu_grad(x, get(plan, GRAD), get(plan, OUT), begin, end)
        else:
            width = get(plan, ROW)
            for n in range(begin, end):
                softmax(
                    x + n * width * size, width, get(get(plan, TARGETS), n),
                    get(plan, STATS) + n * 12, get(plan, SCALE) if what == SLOPES else 0,
                )  # fmt: skip
        return 0

    return engine
