"""Sixteen-lane vectors: the few machine operations the kernels are written in.

``lower.py`` compiles loops; this module gives it the operations that the kernels need, each a line
or two of LLVM. Every operation means the same on every CPU, lane by lane, in a fixed order: a
kernel gives the same bits with AVX-512, AVX2, NEON or plain code. Only *how* it is done differs,
and an ``Isa`` chooses that.

Memory is addressed as a base address (int64) and an index counted in elements of the type that is
read. Nothing is bounds-checked: the callers own the buffers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir

from laplm.native.isa import Isa
from laplm.native.lower import F32V, FLOAT, I32, I64, VOID, Builder, Operation, Value

LANES = 16
I8, I16, HALF = ir.IntType(8), ir.IntType(16), ir.HalfType()
I32V = ir.VectorType(I32, LANES)
BYTES = {I8: 1, I16: 2, I32: 4, I64: 8, HALF: 2, FLOAT: 4}
f32, i64, f32x16, void = FLOAT, I64, F32V, VOID  # what operations take and give

Body = Callable[[Value, list[Value]], list[Value]]


# --- LLVM building blocks -----------------------------------------------------------------------


def call(
    b: Builder, name: str, result: Any, args: Sequence[Value], *, fast: tuple[str, ...] = ()
) -> Value:
    """Call an LLVM intrinsic (or a C function) by name; ``fast`` are LLVM's fast-math flags."""
    function = b.module.globals.get(name)
    if function is None:
        function = ir.Function(b.module, ir.FunctionType(result, [a.type for a in args]), name)
    return b.call(function, args, fastmath=fast)


def element(b: Builder, base: Value, index: Value, kind: Any) -> Value:
    """The address ``base + index * sizeof(kind)``, as an integer."""
    return b.add(base, b.mul(index, ir.Constant(I64, BYTES[kind])))


def read(b: Builder, address: Value, kind: Any, align: int = 1) -> Value:
    """Load a value of LLVM type ``kind``."""
    return b.load(b.inttoptr(address, ir.PointerType(kind)), align=align)


def write(b: Builder, address: Value, value: Value, align: int = 1) -> None:
    """Store ``value``."""
    b.store(value, b.inttoptr(address, ir.PointerType(value.type)), align=align)


def broadcast(b: Builder, scalar: Value, vector: Any) -> Value:
    """The same number in every lane."""
    one = b.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(I32, 0))
    zeros = ir.Constant(ir.VectorType(I32, vector.count), [0] * vector.count)
    return b.shuffle_vector(one, ir.Constant(vector, ir.Undefined), zeros)


def constant(vector: Any, value: float) -> Value:
    """A constant in every lane."""
    return ir.Constant(vector, [value] * vector.count)


def part(b: Builder, vector: Value, first: int, count: int) -> Value:
    """Lanes ``first`` to ``first + count`` as a shorter vector."""
    mask = ir.Constant(ir.VectorType(I32, count), list(range(first, first + count)))
    return b.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), mask)


def join(b: Builder, low: Value, high: Value) -> Value:
    """Two vectors one after the other."""
    count = low.type.count * 2
    return b.shuffle_vector(low, high, ir.Constant(ir.VectorType(I32, count), list(range(count))))


def fold(b: Builder, vector: Value, combine: Callable[[Value, Value], Value]) -> Value:
    """Combine all lanes by halves (8 + 8, 4 + 4, …): one fixed order on every CPU."""
    while vector.type.count > 1:
        half = vector.type.count // 2
        vector = combine(part(b, vector, 0, half), part(b, vector, half, half))
    return b.extract_element(vector, ir.Constant(I32, 0))


def loop(b: Builder, count: Value, carried: list[Value], body: Body) -> list[Value]:
    """Emit ``for i in range(count): carried = body(i, carried)``; ``count`` is at least 1."""
    before, inside = b.block, b.append_basic_block("loop")
    b.branch(inside)
    b.position_at_end(inside)
    i = b.phi(I64)
    values = [b.phi(value.type) for value in carried]
    results = body(i, list(values))
    following = b.add(i, ir.Constant(I64, 1))
    i.add_incoming(ir.Constant(I64, 0), before)
    i.add_incoming(following, b.block)
    for phi, start, result in zip(values, carried, results, strict=True):
        phi.add_incoming(start, before)
        phi.add_incoming(result, b.block)
    after = b.append_basic_block("loop_end")
    b.cbranch(b.icmp_signed("<", following, count), inside, after)
    b.position_at_end(after)
    return results


def place(b: Builder, base: Value, *terms: tuple[Value | int, Value | int]) -> Value:
    """The address ``base`` plus the sum of ``index * stride`` over the terms, in bytes."""
    for x, y in terms:
        x, y = (ir.Constant(I64, v) if isinstance(v, int) else v for v in (x, y))
        base = b.add(base, b.mul(x, y))
    return base


def larger(b: Builder, x: Value, y: Value) -> Value:
    """The larger of each pair of floats, none of them NaN: x86 takes three steps more for that."""
    return call(b, f"llvm.maxnum.v{x.type.count}f32", x.type, [x, y], fast=("nnan",))


def largest(b: Builder, vector: Value) -> Value:
    """The largest of the floats of a vector."""
    return fold(b, vector, lambda p, q: larger(b, p, q))


def half_to_float(b: Builder, bits: Value, isa: Isa) -> Value:
    """Sixteen half-precision numbers (as i16) to float, exact."""
    if isa.native_half:
        return b.fpext(b.bitcast(bits, ir.VectorType(HALF, LANES)), F32V)
    wide = b.zext(bits, I32V)
    magnitude = b.shl(b.and_(wide, constant(I32V, 0x7FFF)), constant(I32V, 13))
    sign = b.shl(b.and_(wide, constant(I32V, 0x8000)), constant(I32V, 16))
    # The exponent is re-biased by a multiplication, which also gets subnormals right.
    value = b.fmul(b.bitcast(magnitude, F32V), constant(F32V, 2.0**112))
    return b.bitcast(b.or_(b.bitcast(value, I32V), sign), F32V)


def dot4(b: Builder, isa: Isa, total: Value, weights: Value, x: Value) -> Value:
    """Each lane adds four products: ``total[i] += sum_j weights[4i + j] * x[j]``, exactly.

    ``total`` i32x16; ``weights`` 64 bytes, signed ones of at most 127 when ``isa.signed_dot``, else
    unsigned; ``x`` one 32-bit word of four signed bytes of at most 127.
    """
    if isa.dot == "vnni512":
        words, xs = b.bitcast(weights, I32V), broadcast(b, x, I32V)
        return call(b, "llvm.x86.avx512.vpdpbusd.512", I32V, [total, words, xs])
    if isa.dot in ("neon", "i8mm"):
        i32x4, i8x16 = ir.VectorType(I32, 4), ir.VectorType(I8, 16)
        name = f"llvm.aarch64.neon.{'sdot' if isa.signed_dot else 'usdot'}.v4i32.v16i8"
        xs, quarters = b.bitcast(broadcast(b, x, i32x4), i8x16), []
        for first in range(0, LANES, 4):
            operands = [part(b, total, first, 4), part(b, weights, 4 * first, 16), xs]
            quarters.append(call(b, name, i32x4, operands))
        return join(b, join(b, *quarters[:2]), join(b, *quarters[2:]))
    if isa.dot in ("vnni256", "avx2"):
        i32x8, i16x16, i8x32 = (ir.VectorType(t, n) for t, n in ((I32, 8), (I16, 16), (I8, 32)))
        xs, halves = broadcast(b, x, i32x8), []
        for first in (0, 8):
            w, t = part(b, weights, 4 * first, 32), part(b, total, first, 8)
            if isa.dot == "vnni256":
                operands = [t, b.bitcast(w, i32x8), xs]
                halves.append(call(b, "llvm.x86.avx512.vpdpbusd.256", i32x8, operands))
                continue
            # |w| * (x with w's sign): pmaddubsw wants one side unsigned. No pair of products is
            # over 2 * 127 * 127, so its 16 bits are enough.
            size = call(b, "llvm.abs.v32i8", i8x32, [w, ir.Constant(ir.IntType(1), 0)])
            signed = call(b, "llvm.x86.avx2.psign.b", i8x32, [b.bitcast(xs, i8x32), w])
            pairs = call(b, "llvm.x86.avx2.pmadd.ub.sw", i16x16, [size, signed])
            ones = constant(i16x16, 1)
            halves.append(b.add(t, call(b, "llvm.x86.avx2.pmadd.wd", i32x8, [pairs, ones])))
        return join(b, *halves)
    words, xs = b.bitcast(weights, I32V), broadcast(b, x, I32V)
    for j in range(4):
        w = b.and_(b.lshr(words, constant(I32V, 8 * j)), constant(I32V, 255))
        a = b.ashr(b.shl(xs, constant(I32V, 24 - 8 * j)), constant(I32V, 24))
        total = b.add(total, b.mul(w, a))
    return total


INT16_LIMIT = 127 * 256  # what ``write_int16`` takes: its upper byte, rounded, is at most 127


def write_int16(b: Builder, isa: Isa, x: Value, to: Value) -> None:
    """Sixteen int32 in ±``INT16_LIMIT`` to 32 bytes, as ``dot_int8_int16`` reads them."""
    i8x16, i16x16 = ir.VectorType(I8, LANES), ir.VectorType(I16, LANES)
    if isa.dot in ("neon", "i8mm"):  # upper bytes, then what is left: -128…127
        upper = b.ashr(b.add(x, constant(I32V, 128)), constant(I32V, 8))
        write(b, to, b.trunc(upper, i8x16))
        write(
            b, place(b, to, (1, LANES)), b.trunc(b.sub(x, b.shl(upper, constant(I32V, 8))), i8x16)
        )
        return
    x = b.trunc(x, i16x16)
    if isa.dot != "generic":  # of each four the even ones, then the odd ones
        order = [4 * (i // 4) + (0, 2, 1, 3)[i % 4] for i in range(LANES)]
        undefined = ir.Constant(i16x16, ir.Undefined)
        x = b.shuffle_vector(x, undefined, ir.Constant(ir.VectorType(I32, LANES), order))
    write(b, to, x)


def dot_int8_int16(
    b: Builder, isa: Isa, at: Value, lines: int, inputs: list[Value], ahead: Value
) -> list[Value]:
    """Exact sums of products of int8 and int16, an i32x16 for each input.

    At ``at`` are ``lines`` times 64 bytes, four for each lane; ``inputs`` are addresses of
    ``4 * lines`` numbers each, as ``write_int16`` leaves them: ``total[i] = sum_line sum_j
    bytes[line][i][j] * x[4 * line + j]``. A sum of 32 products always fits in its 32 bits.
    ``lines`` is a multiple of four; as many lines from ``ahead`` on are prefetched.
    """
    arm, together = isa.dot in ("neon", "i8mm"), 4 if isa.dot in ("neon", "i8mm") else 2
    count = 4 if arm else 8 if isa.dot in ("avx2", "vnni256") else LANES
    kind = ir.VectorType(I32, count)
    totals = [constant(kind, 0)] * (LANES // count * len(inputs))

    def add(totals: list[Value], words: list[Value], x: Value, line: int, part: int) -> list[Value]:
        """One line times the inputs at ``x``."""
        if arm:
            return _add_upper_or_lower(b, totals, words, x, line, part)
        if isa.dot == "generic":
            return _add_one_by_one(b, totals, words, x, line)
        return _add_pairs(b, totals, words, x, line)

    for part in range(1 + arm):
        if part == 1:  # products with the upper bytes of the inputs are 256 times as much
            totals = [b.shl(total, constant(kind, 8)) for total in totals]

        # A loop: LLVM orders unrolled steps so that more values are live than there are registers.
        def add_lines(i: Value, totals: list[Value], part: int = part) -> list[Value]:
            for line in range(together):
                if part == 0:
                    emit_prefetch(b, place(b, ahead, (i, 64 * together), (line, 64)))
                words = [
                    read(b, place(b, at, (i, 64 * together), (line, 64), (first, 4)), kind, 4)
                    for first in range(0, LANES, count)
                ]
                n = len(words)
                for t, x in enumerate(inputs):
                    x = place(b, x, (i, 8 * together))
                    totals[n * t : n * t + n] = add(totals[n * t : n * t + n], words, x, line, part)
            return totals

        totals = loop(b, ir.Constant(I64, lines // together), totals, add_lines)
    while len(totals) > len(inputs):
        totals = [join(b, *totals[i : i + 2]) for i in range(0, len(totals), 2)]
    return totals


def _add_one_by_one(
    b: Builder, totals: list[Value], words: list[Value], x: Value, line: int
) -> list[Value]:
    """Each byte of a word times its input."""
    for j in range(4):
        one = b.sext(read(b, place(b, x, (4 * line + j, 2)), I16, 2), I32)
        numbers = b.ashr(b.shl(words[0], constant(I32V, 24 - 8 * j)), constant(I32V, 24))
        totals = [b.add(totals[0], b.mul(numbers, broadcast(b, one, I32V)))]
    return totals


def _add_pairs(
    b: Builder, totals: list[Value], words: list[Value], x: Value, line: int
) -> list[Value]:
    """Bytes as 16 bits in their places, the even and the odd ones: pairs of products at once."""
    i32s = words[0].type
    i16s = ir.VectorType(I16, 2 * i32s.count)
    name = "avx512.pmaddw.d.512" if i32s.count == LANES else "avx2.pmadd.wd"
    eight = constant(i16s, 8)
    pairs = [
        b.bitcast(broadcast(b, read(b, place(b, x, (line, 8), (odd, 4)), I32, 4), i32s), i16s)
        for odd in (0, 1)
    ]
    out = []
    for total, word in zip(totals, words, strict=True):
        word = b.bitcast(word, i16s)
        for numbers, pair in zip((b.shl(word, eight), word), pairs, strict=True):
            operands = [b.ashr(numbers, eight), pair]
            total = b.add(total, call(b, f"llvm.x86.{name}", i32s, operands))
        out.append(total)
    return out


def _add_upper_or_lower(
    b: Builder, totals: list[Value], words: list[Value], x: Value, line: int, lower: int
) -> list[Value]:
    """Bytes times the upper bytes of their inputs, or the lower ones, by ARM's ``sdot``."""
    i32x4, i8x16 = ir.VectorType(I32, 4), ir.VectorType(I8, 16)
    four = read(b, place(b, x, (lower, LANES)), i32x4, 4)
    lane = ir.Constant(i32x4, [line] * 4)
    one = b.bitcast(b.shuffle_vector(four, ir.Constant(i32x4, ir.Undefined), lane), i8x16)
    name = "llvm.aarch64.neon.sdot.v4i32.v16i8"
    return [
        call(b, name, i32x4, [total, b.bitcast(word, i8x16), one])
        for total, word in zip(totals, words, strict=True)
    ]


def two_by_two(
    b: Builder, totals: list[Value], weights: tuple[Value, Value], xs: list[tuple[Value, Value]]
) -> list[Value]:
    """``dot4`` twice for two tokens, by ARM's ``usmmla``: 2 rows x 8 inputs x 2 tokens at once.

    ``totals`` are the blocks [row][token] of two rows each, i32x4; ``weights`` two times 64
    unsigned bytes, of four inputs and of the next four; ``xs`` the same of each of two tokens, as
    32-bit words.
    """
    i32x4, i8x16 = ir.VectorType(I32, 4), ir.VectorType(I8, 16)
    inputs = ir.Constant(i32x4, ir.Undefined)
    for lane, x in enumerate(x for token in xs for x in token):
        inputs = b.insert_element(inputs, x, ir.Constant(I32, lane))
    first, second = (b.bitcast(w, I32V) for w in weights)
    blocks = []
    for i, total in enumerate(totals):
        rows = [2 * i, LANES + 2 * i, 2 * i + 1, LANES + 2 * i + 1]
        pair = b.shuffle_vector(first, second, ir.Constant(ir.VectorType(I32, 4), rows))
        operands = [total, b.bitcast(pair, i8x16), b.bitcast(inputs, i8x16)]
        blocks.append(call(b, "llvm.aarch64.neon.usmmla.v4i32.v16i8", i32x4, operands))
    return blocks


def to_blocks(b: Builder, tokens: tuple[Value, Value]) -> list[Value]:
    """Two tokens' i32x16 as the blocks that ``two_by_two`` adds to."""
    blocks = []
    for i in range(0, LANES, 2):
        lanes = ir.Constant(ir.VectorType(I32, 4), [i, LANES + i, i + 1, LANES + i + 1])
        blocks.append(b.shuffle_vector(*tokens, lanes))
    return blocks


def from_blocks(b: Builder, blocks: list[Value]) -> list[Value]:
    """The two tokens' i32x16 again."""
    while len(blocks) > 2:
        blocks = [join(b, *blocks[i : i + 2]) for i in range(0, len(blocks), 2)]
    masks = [ir.Constant(I32V, list(range(token, 2 * LANES, 2))) for token in (0, 1)]
    return [b.shuffle_vector(*blocks, mask) for mask in masks]


# --- operations for kernels ---------------------------------------------------------------------


def operation(result: Any, *arguments: Any) -> Callable[[Callable[..., Value]], Any]:
    """Make an operation for kernels of ``emit(builder, *values)``; ``void`` ones emit None."""
    return lambda emit: Operation(result, arguments, emit, emit.__name__)


def _reader(kind: Any, result: Any) -> Any:
    @operation(result, i64, i64)
    def read_one(b: Builder, base: Value, index: Value) -> Value:
        return read(b, element(b, base, index, kind), kind, BYTES[kind])

    return read_one


get_f32, get_i64 = _reader(FLOAT, f32), _reader(I64, i64)


@operation(void, i64, i64, f32)
def set_f32(b: Builder, base: Value, index: Value, value: Value) -> None:
    """Write one float to ``base[index]``."""
    write(b, element(b, base, index, FLOAT), value, BYTES[FLOAT])


@operation(f32x16, i64, i64)
def load(b: Builder, base: Value, index: Value) -> Value:
    """Sixteen floats from ``base[index]`` on."""
    return read(b, element(b, base, index, FLOAT), F32V, 4)


@operation(void, i64, i64, f32x16)
def store(b: Builder, base: Value, index: Value, value: Value) -> None:
    """Write sixteen floats to ``base[index]`` on."""
    write(b, element(b, base, index, FLOAT), value, 4)


@operation(f32x16, f32)
def splat(b: Builder, x: Value) -> Value:
    """The same float in every lane."""
    return broadcast(b, x, F32V)


def emit_fma(b: Builder, x: Value, y: Value, z: Value) -> Value:
    """``x * y + z`` with one rounding."""
    return call(b, "llvm.fma.v16f32", F32V, [x, y, z])


fma = operation(f32x16, f32x16, f32x16, f32x16)(emit_fma)


@operation(f32x16, f32x16, f32x16)
def maximum(b: Builder, x: Value, y: Value) -> Value:
    """The larger of each pair of lanes."""
    return larger(b, x, y)


@operation(f32x16, f32x16, f32x16)
def minimum(b: Builder, x: Value, y: Value) -> Value:
    """The smaller of each pair of lanes."""
    return call(b, "llvm.minnum.v16f32", F32V, [x, y], fast=("nnan",))


@operation(f32x16, f32x16, f32x16, f32x16, f32x16)
def where_less(b: Builder, x: Value, y: Value, then: Value, otherwise: Value) -> Value:
    """Lanes of ``then`` where ``x < y``, of ``otherwise`` elsewhere."""
    return b.select(b.fcmp_ordered("<", x, y), then, otherwise)


@operation(f32x16, f32x16)
def absolute(b: Builder, x: Value) -> Value:
    """Lanes without their sign."""
    return call(b, "llvm.fabs.v16f32", F32V, [x])


@operation(f32x16, f32x16)
def round_even(b: Builder, x: Value) -> Value:
    """Lanes to the nearest whole number, ties to even."""
    return call(b, "llvm.rint.v16f32", F32V, [x])


@operation(f32, f32x16)
def sum_lanes(b: Builder, x: Value) -> Value:
    """The sum of all lanes, in a fixed order."""
    return fold(b, x, b.fadd)


@operation(f32, f32x16)
def max_lanes(b: Builder, x: Value) -> Value:
    """The largest lane."""
    return largest(b, x)


@operation(f32x16, f32x16, i64, i64, f32)
def keep_between(b: Builder, x: Value, low: Value, high: Value, other: Value) -> Value:
    """Lanes ``low`` to ``high`` (exclusive) of ``x``, ``other`` in the rest."""
    lanes = ir.Constant(I32V, list(range(LANES)))
    edges = [broadcast(b, b.trunc(edge, I32), I32V) for edge in (low, high)]
    inside = b.and_(b.icmp_signed(">=", lanes, edges[0]), b.icmp_signed("<", lanes, edges[1]))
    return b.select(inside, x, broadcast(b, other, F32V))


@operation(f32x16, f32x16, f32x16)
def two_to_the(b: Builder, x: Value, scale: Value) -> Value:
    """``scale * 2**x`` for whole ``x`` in [-126, 127], through the exponent bits."""
    whole = b.fptosi(x, I32V)
    bits = b.shl(b.add(whole, constant(I32V, 127)), constant(I32V, 23))
    return b.fmul(b.bitcast(bits, F32V), scale)


@operation(f32x16, f32x16, f32x16)
def copy_sign(b: Builder, x: Value, sign: Value) -> Value:
    """``x`` with the sign of ``sign``."""
    return call(b, "llvm.copysign.v16f32", F32V, [x, sign])


@operation(f32x16, f32x16)
def inverse_root(b: Builder, x: Value) -> Value:
    """1 / sqrt(x), both steps correctly rounded."""
    return b.fdiv(constant(F32V, 1.0), call(b, "llvm.sqrt.v16f32", F32V, [x]))


@operation(i64, i64, i64)
def atomic_add(b: Builder, base: Value, amount: Value) -> Value:
    """Add to the 64-bit counter at ``base``; return its value before."""
    pointer = b.inttoptr(base, ir.PointerType(I64))
    return b.atomic_rmw("add", pointer, amount, "seq_cst")


@operation(i64, i64)
def atomic_get(b: Builder, base: Value) -> Value:
    """Read the 64-bit counter at ``base``."""
    return b.load_atomic(b.inttoptr(base, ir.PointerType(I64)), "seq_cst", 8)


@operation(void, i64, i64)
def atomic_set(b: Builder, base: Value, value: Value) -> None:
    """Write the 64-bit counter at ``base``."""
    b.store_atomic(value, b.inttoptr(base, ir.PointerType(I64)), "seq_cst", 8)


@operation(i64, i64, i64, i64)
def atomic_swap_if(b: Builder, base: Value, expected: Value, value: Value) -> Value:
    """Compare and swap: write ``value`` if the counter holds ``expected``; 1 if it did, else 0."""
    pointer = b.inttoptr(base, ir.PointerType(I64))
    pair = b.cmpxchg(pointer, expected, value, "seq_cst", "seq_cst")
    return b.zext(b.extract_value(pair, 1), I64)


def make_pause(isa: Isa) -> Any:
    """The hint to the CPU that a loop only waits."""

    @operation(void)
    def pause(b: Builder) -> None:
        if isa.family == "x86":
            call(b, "llvm.x86.sse2.pause", ir.VoidType(), [])
        elif isa.family == "arm":
            call(b, "llvm.aarch64.hint", ir.VoidType(), [ir.Constant(I32, 1)])

    return pause


def emit_prefetch(b: Builder, address: Value, *, read_once: bool = False) -> None:
    """Ask for the cache line at ``address`` before it is needed.

    What is ``read_once`` goes past the larger caches (``prefetchnta``).
    """
    pointer = b.inttoptr(address, ir.PointerType(I8))
    hints = [ir.Constant(I32, n) for n in (0, 0 if read_once else 3, 1)]  # for reading, kept, data
    call(b, "llvm.prefetch.p0", ir.VoidType(), [pointer, *hints])


prefetch = operation(void, i64)(emit_prefetch)


@operation(void)
def give_way(b: Builder) -> None:
    """Let another thread have this core for a moment, of this program or any other."""
    call(b, "SwitchToThread" if sys.platform == "win32" else "sched_yield", I32, [])
