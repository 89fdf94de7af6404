"""Vectors of bfloat16 or fp32 numbers in memory, as the kernels of training read and write them.

They compute in fp32, with the operations of ``native/simd.py``.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from laplm.native import lower, simd
from laplm.native.lower import F32V, FLOAT, I32, Builder, Value
from laplm.native.simd import I16, I32V, LANES

I16V = ir.VectorType(I16, LANES)


def rounded(b: Builder, x: Value) -> Value:
    """Sixteen floats to bfloat16, to nearest even: the upper halves of their bits, as i16."""
    return simd.call(b, "llvm.x86.avx512bf16.cvtneps2bf16.512", I16V, [x])


def make_load(*, bfloat16: bool) -> Any:
    """Sixteen numbers from an address on, as floats."""

    @simd.operation(simd.f32x16, simd.i64)
    def load_numbers(b: Builder, address: Value) -> Value:
        if not bfloat16:
            return simd.read(b, address, F32V, 4)
        bits = b.zext(simd.read(b, address, I16V, 2), I32V)
        return b.bitcast(b.shl(bits, simd.constant(I32V, 16)), F32V)

    return load_numbers


def make_store(*, bfloat16: bool) -> Any:
    """Write sixteen floats as numbers, from an address on."""

    @simd.operation(simd.void, simd.i64, simd.f32x16)
    def store_numbers(b: Builder, address: Value, x: Value) -> None:
        simd.write(b, address, rounded(b, x) if bfloat16 else x, 2 if bfloat16 else 4)

    return store_numbers


def make_get(*, bfloat16: bool) -> Any:
    """One number at an address, as a float."""

    @simd.operation(simd.f32, simd.i64)
    def get_number(b: Builder, address: Value) -> Value:
        if not bfloat16:
            return simd.read(b, address, FLOAT, 4)
        bits = b.zext(simd.read(b, address, I16, 2), I32)
        return b.bitcast(b.shl(bits, ir.Constant(I32, 16)), FLOAT)

    return get_number


def make_set(*, bfloat16: bool) -> Any:
    """Write one float as a number to an address."""

    @simd.operation(simd.void, simd.i64, simd.f32)
    def set_number(b: Builder, address: Value, x: Value) -> None:
        if bfloat16:
            sixteen = rounded(b, simd.broadcast(b, x, F32V))
            x = b.extract_element(sixteen, ir.Constant(I32, 0))
        simd.write(b, address, x, 2 if bfloat16 else 4)

    return set_number


@simd.operation(simd.f32x16, simd.f32x16, simd.f32, simd.f32)
def clamp(b: Builder, x: Value, low: Value, high: Value) -> Value:
    """``x`` between two numbers; what is not a number stays so."""
    for edge, beyond in ((low, ">"), (high, "<")):
        edges = simd.broadcast(b, edge, F32V)
        x = b.select(b.fcmp_ordered(beyond, edges, x), edges, x)
    return x


fma, splat, round_even, two_to_the = simd.fma, simd.splat, simd.round_even, simd.two_to_the


@lower.inlined
def exp2(x: Any) -> Any:
    """2**x, from 2**-126 to 2**126, by the Cephes polynomial."""
    x = clamp(x, -126.0, 126.0)
    n = round_even(x)
    f = x - n
    p = fma(splat(1.535336188319500e-4), f, splat(1.339887440266574e-3))
    p = fma(p, f, splat(9.618437357674640e-3))
    p = fma(p, f, splat(5.550332471162809e-2))
    p = fma(p, f, splat(2.402264791363012e-1))
    p = fma(p, f, splat(6.931472028550421e-1))
    return two_to_the(n, fma(p, f, splat(1.0)))
