"""AdamW's step of weights in bfloat16, compiled: ``adamw_update_torch`` of ``optim/adamw.py``."""

from __future__ import annotations

from typing import Any

import torch
from llvmlite import ir

from laplm.native import lower, simd
from laplm.native.isa import Isa
from laplm.native.lower import FLOAT, I32


def build(isa: Isa, formats: tuple[torch.dtype, ...]) -> Any:
    """The function to compile, for the formats of gradient and moments.

    ``adamw_update(n, arrays, numbers, _)``: addresses of weights, ``master_low``, the gradient and
    the two moments at ``arrays``; at ``numbers`` eight floats. LLVM makes vectors of it.
    """
    get, get_f32 = simd.get_i64, simd.get_f32

    def number(b: Any, base: Any, i: Any, bits: int, kind: Any = None) -> Any:
        """Number ``i`` from an address on: of so many bits, or a float."""
        kind = kind or ir.IntType(bits)
        return b.gep(b.inttoptr(base, kind.as_pointer()), [i])

    def read(b: Any, base: Any, i: Any, dtype: torch.dtype) -> Any:
        if dtype != torch.bfloat16:
            return b.load(number(b, base, i, 32, FLOAT))
        wide = b.zext(b.load(number(b, base, i, 16)), I32)
        return b.bitcast(b.shl(wide, ir.Constant(I32, 16)), FLOAT)

    def write(b: Any, base: Any, i: Any, x: Any, dtype: torch.dtype) -> None:
        """As it is, or the nearest bfloat16."""
        if dtype != torch.bfloat16:
            b.store(x, number(b, base, i, 32, FLOAT))
            return
        bits = b.bitcast(x, I32)
        odd = b.and_(b.lshr(bits, ir.Constant(I32, 16)), ir.Constant(I32, 1))
        rounded = b.add(b.add(bits, ir.Constant(I32, 0x7FFF)), odd)
        upper = b.lshr(rounded, ir.Constant(I32, 16))
        b.store(b.trunc(upper, ir.IntType(16)), number(b, base, i, 16))

    @simd.operation(simd.void, *[simd.i64] * 6, *[simd.f32] * 8)
    def update_one(b: Any, i: Any, *values: Any) -> None:
        weight, low, gradient, first, second = values[:5]
        more1, beta2, more2, eps, scale, decay, rate, correction = values[5:]
        sixteen, half = ir.Constant(I32, 16), ir.IntType(16)
        g = b.fmul(read(b, gradient, i, formats[0]), scale)
        m, v = read(b, first, i, formats[1]), read(b, second, i, formats[2])
        m = b.fadd(m, b.fmul(b.fsub(g, m), more1))
        v = b.fadd(b.fmul(v, beta2), b.fmul(b.fmul(g, g), more2))
        upper = b.shl(b.zext(b.load(number(b, weight, i, 16)), I32), sixteen)
        bits = b.add(upper, b.sext(b.load(number(b, low, i, 16)), I32))
        size = b.fadd(b.fmul(simd.call(b, "llvm.sqrt.f32", FLOAT, [v]), correction), eps)
        step = b.fdiv(b.fmul(rate, m), size)
        new = b.bitcast(b.fsub(b.fmul(b.bitcast(bits, FLOAT), decay), step), I32)
        upper = b.ashr(b.add(new, ir.Constant(I32, 0x8000)), sixteen)
        b.store(b.trunc(upper, half), number(b, weight, i, 16))
        rest = b.sub(new, b.shl(upper, sixteen))
        b.store(b.trunc(rest, half), number(b, low, i, 16))
        write(b, first, i, m, formats[1])
        write(b, second, i, v, formats[2])

    @lower.kernel
    def adamw_update(n: int, arrays: int, numbers: int, _: int) -> int:
        weight, low, gradient = get(arrays, 0), get(arrays, 1), get(arrays, 2)
        first, second = get(arrays, 3), get(arrays, 4)
        more1, beta2, more2 = get_f32(numbers, 0), get_f32(numbers, 1), get_f32(numbers, 2)
        eps, scale, decay = get_f32(numbers, 3), get_f32(numbers, 4), get_f32(numbers, 5)
        rate, correction = get_f32(numbers, 6), get_f32(numbers, 7)
        for i in range(n):
            update_one(i, weight, low, gradient, first, second, more1, beta2, more2, eps, scale,
                       decay, rate, correction)  # fmt: skip
        return 0

    return adamw_update
