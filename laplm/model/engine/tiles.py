"""Register-blocked inner loops, emitted as LLVM and unrolled: where all the time is spent.

A tile is 16 output rows of a linear layer, interleaved so that one vector load gives the same
inputs' weights for all 16 rows; lane i of every accumulator belongs to row i, so nothing is ever
summed across lanes. A call works on R tiles x T tokens held in registers. Each (row, token) result
comes from the same operations in the same order whatever R and T are: that is why a token's logits
do not depend on what it is batched with.

Layouts (see ``packing.py``, which writes them; ``formats.py`` has their names):
  32 bits  tile[input][16] f32; 16 bits the same in f16 or bf16
  8 bits   tile[input / 4][16][4] u8 (weight + 128)
  4 bits   tile[group][4][16][4] u8, low nibbles the group's inputs 0-15, high nibbles 16-31
           (weight + 8, or as it is where there is a minimum)
  scales   of rows: f32 [16]; of groups: f16 [group][16], or [group][scale, minimum][16]; "super":
           f16 [8 groups][scale, minimum][16], then u8 [group][scale, minimum][16]
  inputs   of weights in bytes: x[token][input] i8; per token and group an f32 scale and the i32
           sum of its bytes, which takes the weights' offset of 128 or 8 out again, exactly, and
           which a group's minimum is multiplied with.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import Any

from llvmlite import ir

from laplm.model.engine.formats import SUPER, SUPER_BYTES, Format
from laplm.model.engine.kernel_args import ADD, GROUP, SMALLEST
from laplm.native import simd
from laplm.native.isa import Isa
from laplm.native.lower import F32V, FLOAT, I32, I64, Builder, Value
from laplm.native.simd import I8, I16, I32V, LANES, emit_fma, i64, loop, place

# Bytes by which one token's weights are asked for before they are multiplied, by their bits.
STREAM_AHEAD = {16: 2048, 8: 1024, 4: 1024}


def rows_together(isa: Isa, form: Format) -> int:
    """How many tiles of rows go through the registers together, by measurement."""
    if isa.registers < 32:
        return 1
    return 3 if form.is_float else 2


def tokens_together(isa: Isa, form: Format) -> int:
    """How many tokens go through the registers together, by measurement."""
    return 5 if form.name == "int8" and isa.registers >= 32 else 4


def _two_tokens_at_once(
    b: Builder,
    isa: Isa,
    totals: dict[tuple[int, int], Value],
    steps: list[tuple[list[Value], list[Value]]],
) -> list[Value]:
    """What ``dot4`` adds to the totals of all cells (tile, token), by ``usmmla`` where it can.

    ``steps`` are the weights of each tile and the inputs of each token, four inputs a step.
    """
    n_tokens = len(steps[0][1])
    for r, t in totals:
        if t % 2 == 0 and t + 1 < n_tokens:
            blocks = simd.to_blocks(b, (totals[r, t], totals[r, t + 1]))
            for (ws, xs), (next_ws, next_xs) in zip(steps[::2], steps[1::2], strict=True):
                inputs = [(xs[token], next_xs[token]) for token in (t, t + 1)]
                blocks = simd.two_by_two(b, blocks, (ws[r], next_ws[r]), inputs)
            totals[r, t], totals[r, t + 1] = simd.from_blocks(b, blocks)
        elif t % 2 == 0:  # the last one has no neighbour
            for ws, xs in steps:
                totals[r, t] = simd.dot4(b, isa, totals[r, t], ws[r], xs[t])
    return list(totals.values())


def make_tile(
    isa: Isa, form: Format, n_tiles: int, n_tokens: int, *, prefetch_parts: int = 0
) -> Any:
    """The operation for ``n_tiles`` x ``n_tokens`` outputs of one linear layer.

    With ``prefetch_parts`` a call also prefetches the weights of the rows that follow, so that they
    come from memory while these are multiplied: all when it is 1, else one of so many parts.

    Arguments (all int64, addresses or byte strides unless said otherwise): w, w_stride between
    tiles; scale, scale_stride; x, x_stride between tokens; x_scale, x_sum, group_stride between
    tokens; count of groups; out, out_stride between tokens; bias; store_mode (STORE or ADD); the
    number of the part to prefetch.
    """
    tile = _Tile(isa, form, n_tiles, n_tokens, prefetch_parts)
    return simd.operation(simd.void, *[i64] * 15)(tile.emit)


Step = Callable[[Value, list[Value]], list[Value]]


class _Tile:
    """The code of one operation; a cell is a tile of rows times a token."""

    def __init__(
        self, isa: Isa, form: Format, n_tiles: int, n_tokens: int, prefetch_parts: int
    ) -> None:
        self.isa, self.form = isa, form
        self.n_tiles, self.n_tokens = n_tiles, n_tokens
        self.cells = list(product(range(n_tiles), range(n_tokens)))
        self.group_bytes = form.group_bytes
        self.uses_avx2_group = isa.dot == "avx2" and not form.is_float  # see ``avx2_group``
        self.in_memory = self.uses_avx2_group and n_tokens > 2  # see ``loop_in_memory``
        # Cache lines prefetched with every group; the parts lie one after the other.
        self.lines = 0
        if prefetch_parts:
            self.lines = math.ceil(n_tiles * self.group_bytes / 64 / prefetch_parts)
        # One token's weights are read once; fp32's are quicker by the CPU's own prefetching.
        self.streams = n_tokens == 1 and form.bits in STREAM_AHEAD and isa.family == "x86"

    def emit(self, b: Builder, *values: Value) -> None:
        """All groups of the inputs, then the bias, then what becomes of the result."""
        a = Args(*values)
        step = self.float_step if self.form.is_float else self.byte_step
        # Tiles lie one after the other, and so do the rows that follow and their parts.
        part = (b.mul(a.part, a.n_groups), self.lines * 64)
        following = place(b, a.w, (self.n_tiles, a.w_stride), part)

        def group(g: Value, acc: list[Value]) -> list[Value]:
            for line in range(self.lines):
                simd.emit_prefetch(b, place(b, following, (g, self.lines * 64), (line, 64)))
            if self.streams:
                self.prefetch_ahead(b, g, a)
            return step(b, g, a, acc)

        zero = [simd.constant(F32V, 0.0)] * len(self.cells)
        if self.in_memory:
            acc = self.loop_in_memory(b, a, zero, group)
        else:
            acc = loop(b, a.n_groups, zero, group)
        for i, (r, _) in enumerate(self.cells):
            bias = simd.read(b, place(b, a.bias, (r, 64)), F32V, 4)
            if self.form.scales == "row":
                scale = simd.read(b, place(b, a.scale, (r, a.scale_stride)), F32V, 4)
                acc[i] = emit_fma(b, acc[i], scale, bias)
            else:
                acc[i] = b.fadd(acc[i], bias)
        add = b.icmp_signed("==", a.store_mode, ir.Constant(I64, ADD))
        with b.if_else(add) as (then, otherwise):
            with then:
                for i, (r, t) in enumerate(self.cells):
                    out = place(b, a.out, (r, 64), (t, a.out_stride))
                    simd.write(b, out, b.fadd(simd.read(b, out, F32V, 4), acc[i]), 4)
            with otherwise:
                for i, (r, t) in enumerate(self.cells):
                    simd.write(b, place(b, a.out, (r, 64), (t, a.out_stride)), acc[i], 4)

    def prefetch_ahead(self, b: Builder, g: Value, a: Args) -> None:
        """Ask for a group's weights further on, which need not stay in the larger caches."""
        for r in range(self.n_tiles):
            ahead = place(
                b, a.w, (g, self.group_bytes), (r, a.w_stride), (1, STREAM_AHEAD[self.form.bits])
            )
            for line in range(self.group_bytes // 64):
                simd.emit_prefetch(b, place(b, ahead, (line, 64)), read_once=True)

    def loop_in_memory(self, b: Builder, a: Args, acc: list[Value], group: Step) -> list[Value]:
        """``loop`` over the groups with the accumulators in memory.

        The products of three tokens and more fill all of AVX2's registers. Held in registers,
        accumulators would be copied to memory and back around each group, the sums beside them.
        """
        with b.goto_entry_block():
            buffer = b.alloca(ir.ArrayType(F32V, len(acc)))
        self.acc_at = b.ptrtoint(buffer, I64)
        places = [place(b, self.acc_at, (i, 64)) for i in range(len(acc))]
        for at, value in zip(places, acc, strict=True):
            simd.write(b, at, value, 4)

        def in_place(g: Value, _: list[Value]) -> list[Value]:
            for at, value in zip(places, group(g, places), strict=True):
                simd.write(b, at, value, 4)
            return []

        loop(b, a.n_groups, [], in_place)
        return [simd.read(b, at, F32V, 4) for at in places]

    def float_step(self, b: Builder, g: Value, a: Args, acc: list[Value]) -> list[Value]:
        """A group of inputs: each weight times its input, added to its row's accumulator."""
        step = self.group_bytes // GROUP
        for k in range(GROUP):
            ws = [
                self.float_weights(
                    b, place(b, a.w, (g, self.group_bytes), (r, a.w_stride), (k, step))
                )
                for r in range(self.n_tiles)
            ]
            xs = [
                simd.read(b, place(b, a.x, (g, GROUP * 4), (t, a.x_stride), (k, 4)), FLOAT, 4)
                for t in range(self.n_tokens)
            ]
            xs = [simd.broadcast(b, x, F32V) for x in xs]
            acc = [emit_fma(b, ws[r], xs[t], acc[i]) for i, (r, t) in enumerate(self.cells)]
        return acc

    def float_weights(self, b: Builder, address: Value) -> Value:
        """One input's weights of 16 rows, widened exactly."""
        if self.form.bits == 32:
            return simd.read(b, address, F32V, 4)
        bits = simd.read(b, address, ir.VectorType(I16, LANES), 2)
        if self.form.name == "fp16":
            return simd.half_to_float(b, bits, self.isa)
        return b.bitcast(b.shl(b.zext(bits, I32V), simd.constant(I32V, 16)), F32V)

    def byte_step(self, b: Builder, g: Value, a: Args, acc: list[Value]) -> list[Value]:
        """A group of inputs: the exact sum of products of bytes, then one scaled addition.

        ``acc`` are the accumulators, or where they are (``in_memory``).
        """
        if self.uses_avx2_group:  # nothing else is read before the products have left the registers
            w, x = place(b, a.w, (g, self.group_bytes)), place(b, a.x, (g, GROUP))
            memory = self.acc_at if self.in_memory else w
            products = avx2_group(b, self.form.bits, w, x, a.x_stride, self.n_tokens, memory)
            totals = [b.add(total, self.start(b, g, a, t)) for t, total in enumerate(products)]
            if self.in_memory:
                acc = [simd.read(b, at, F32V, 4) for at in acc]
        else:
            starts = [self.start(b, g, a, t) for t in range(self.n_tokens)]
            totals = self.exact_sums(b, g, a, [starts[t] for _, t in self.cells])
        x_scales = []
        for t in range(self.n_tokens):
            x_scale = simd.read(b, place(b, a.x_scale, (g, 4), (t, a.group_stride)), FLOAT, 4)
            x_scales.append(simd.broadcast(b, x_scale, F32V))
        sums = [b.sitofp(total, F32V) for total in totals]
        if self.form.scales == "row":
            return [
                emit_fma(b, sums[i], x_scales[t], acc[i]) for i, (_, t) in enumerate(self.cells)
            ]
        scales = [self.scales(b, g, place(b, a.scale, (r, a.scale_stride)))
                  for r in range(self.n_tiles)]  # fmt: skip
        acc = [
            emit_fma(b, sums[i], b.fmul(scales[r][0], x_scales[t]), acc[i])
            for i, (r, t) in enumerate(self.cells)
        ]
        if self.form.minimum:
            x_totals = [b.fmul(x_scales[t], self.x_sum(b, g, a, t)) for t in range(self.n_tokens)]
            acc = [
                emit_fma(b, scales[r][1], x_totals[t], acc[i])
                for i, (r, t) in enumerate(self.cells)
            ]
        return acc

    def x_sum(self, b: Builder, g: Value, a: Args, t: int) -> Value:
        """A token's sum of a group's bytes, in every lane."""
        total = simd.read(b, place(b, a.x_sum, (g, 4), (t, a.group_stride)), I32, 4)
        return simd.broadcast(b, b.sitofp(total, FLOAT), F32V)

    def scales(self, b: Builder, g: Value, tile: Value) -> list[Value]:
        """The scales of a group in 16 rows, and their minimums where there are some."""
        parts = range(1 + self.form.minimum)
        if self.form.scales == "group":
            halves = [place(b, tile, (g, 32 * len(parts)), (part, 32)) for part in parts]
            bits = [simd.read(b, at, ir.VectorType(I16, LANES), 2) for at in halves]
            return [simd.half_to_float(b, each, self.isa) for each in bits]
        block = place(b, tile, (b.lshr(g, ir.Constant(I64, 3)), SUPER_BYTES))
        inside = b.and_(g, ir.Constant(I64, SUPER - 1))
        out = []
        for part in parts:
            bits = simd.read(b, place(b, block, (part, 32)), ir.VectorType(I16, LANES), 2)
            at = place(b, block, (1, 64), (inside, 32), (part, 16))
            whole = b.uitofp(simd.read(b, at, ir.VectorType(I8, LANES)), F32V)
            out.append(b.fmul(simd.half_to_float(b, bits, self.isa), whole))
        return out

    def start(self, b: Builder, g: Value, a: Args, t: int) -> Value:
        """Where a token's sum of a group begins: less what the weights' offset puts into it."""
        # AVX2 takes signed weights of 8 bits, but those of 4 as they are stored.
        as_stored = self.isa.dot == "avx2" and self.form.bits == 4
        if self.form.offset == 0 or (self.isa.signed_dot and not as_stored):
            return simd.broadcast(b, ir.Constant(I32, 0), I32V)
        start = simd.read(b, place(b, a.x_sum, (g, 4), (t, a.group_stride)), I32, 4)
        return simd.broadcast(b, b.mul(start, ir.Constant(I32, -self.form.offset)), I32V)

    def exact_sums(self, b: Builder, g: Value, a: Args, totals: list[Value]) -> list[Value]:
        """Add a group's products of bytes to the total of each cell."""
        packed: list[Value] = []
        steps: list[tuple[list[Value], list[Value]]] = []
        for step in range(GROUP // 4):
            ws = self.weights(b, g, a, step, packed)
            xs = [
                simd.read(b, place(b, a.x, (g, GROUP), (t, a.x_stride), (step, 4)), I32, 4)
                for t in range(self.n_tokens)
            ]
            if self.isa.dot == "i8mm":
                steps.append((ws, xs))
                continue
            totals = [
                simd.dot4(b, self.isa, totals[i], ws[r], xs[t])
                for i, (r, t) in enumerate(self.cells)
            ]
        if self.isa.dot == "i8mm":
            cells = dict(zip(self.cells, totals, strict=True))
            return _two_tokens_at_once(b, self.isa, cells, steps)
        return totals

    def weights(self, b: Builder, g: Value, a: Args, step: int, packed: list[Value]) -> list[Value]:
        """Each tile's weights of four inputs, as 64 bytes; high nibbles are in ``packed``."""
        bytes64 = ir.VectorType(I8, 64)
        nibble, four = simd.constant(I32V, 0x0F0F0F0F), simd.constant(I32V, 4)
        if self.form.bits == 8 or step < 4:
            kind = bytes64 if self.form.bits == 8 else I32V
            stride = self.group_bytes
            ws = [
                simd.read(b, place(b, a.w, (g, stride), (r, a.w_stride), (step, 64)), kind)
                for r in range(self.n_tiles)
            ]
            if self.form.bits == 4:
                packed.extend(ws)
                ws = [b.bitcast(b.and_(p, nibble), bytes64) for p in ws]
        else:
            again = packed[(step - 4) * self.n_tiles : (step - 3) * self.n_tiles]
            ws = [b.bitcast(b.and_(b.lshr(p, four), nibble), bytes64) for p in again]
        if self.isa.signed_dot and self.form.offset:
            ws = [b.sub(w, simd.constant(bytes64, self.form.offset)) for w in ws]
        return ws


def avx2_group(
    b: Builder, bits: int, w: Value, x: Value, x_stride: Value, n: int, memory: Value
) -> list[Value]:
    """A group's products of bytes for one tile and ``n`` tokens, up to four: their sums (i32x16).

    In machine instructions, since LLVM puts the unrolled steps in an order that keeps more than the
    16 registers hold. ``w`` and ``x`` are addresses. LLVM has to suppose that what lies at
    ``memory`` is read: accumulators that lie there are kept there.
    """
    halves = (0, 1)
    lines: list[str] = []
    totals = [[f"${2 * t + half}" for half in halves] for t in range(n)]
    ws, others = ([f"${2 * n + 2 * i + half}" for half in halves] for i in (0, 1))
    inputs, product = f"${2 * n + 4}", f"${2 * n + 5}"
    weights, at, stride, thrice, ones, mask = (f"${2 * n + 6 + i}" for i in range(6))
    x_at = [f"({at})", f"({at},{stride})", f"({at},{stride},2)", f"({at},{thrice})"]

    def multiply(step: int, unsigned: list[str], signs: list[str] | None, *, add: bool) -> None:
        """Four inputs by 16 rows; for 8 bits pairs of products are added up to 32 bits."""
        for t in range(n):
            lines.append(f"vpbroadcastd {4 * step}{x_at[t]}, {inputs}")
            for half in halves:
                total, signed = totals[t][half], inputs
                to = product if add or signs else total
                if signs:
                    lines.append(f"vpsignb {signs[half]}, {inputs}, {product}")
                    signed = product
                lines.append(f"vpmaddubsw {signed}, {unsigned[half]}, {to}")
                if signs:
                    to = product if add else total
                    lines.append(f"vpmaddwd {ones}, {product}, {to}")
                if add:
                    kind = "vpaddd" if signs else "vpaddw"
                    lines.append(f"{kind} {product}, {total}, {total}")

    if bits == 8:
        # |w| * (x with w's sign): vpmaddubsw wants one side unsigned. No pair of products is over
        # 2 * 127 * 127, so its 16 bits are enough.
        for step in range(GROUP // 4):
            for half in halves:
                lines.append(f"vpxor {64 * step + 32 * half}({weights}), {mask}, {ws[half]}")
                lines.append(f"vpabsb {ws[half]}, {others[half]}")
            multiply(step, others, ws, add=step > 0)
    else:
        # No sum of a group's 16 products in a lane is over 16 * 15 * 127: 16 bits are enough.
        for step in range(GROUP // 8):
            for half in halves:
                lines.append(f"vmovdqu {64 * step + 32 * half}({weights}), {others[half]}")
                lines.append(f"vpand {others[half]}, {mask}, {ws[half]}")
                lines.append(f"vpsrlw $$4, {others[half]}, {others[half]}")
                lines.append(f"vpand {others[half]}, {mask}, {others[half]}")
            multiply(step, ws, None, add=step > 0)
            multiply(step + GROUP // 8, others, None, add=True)
    i32x8, i16x16 = ir.VectorType(I32, 8), ir.VectorType(I16, 16)
    kind = ir.LiteralStructType([i32x8] * (2 * n + 6))
    constants = [
        ir.Constant(i32x8, [0x00010001] * 8),
        ir.Constant(i32x8, [(0x80808080 - 2**32) if bits == 8 else 0x0F0F0F0F] * 8),
    ]
    constraints = [*["=&x"] * (2 * n + 6), *["r"] * 4, "x", "x", "r", "~{memory}"]
    arguments = [w, x, x_stride, b.mul(x_stride, ir.Constant(I64, 3)), *constants, memory]
    signature = ir.FunctionType(kind, [value.type for value in arguments])
    found = b.asm(signature, "\n".join(lines), ",".join(constraints), arguments, True)
    out = []
    for t in range(n):
        sums = [b.extract_value(found, 2 * t + half) for half in halves]
        if bits == 4:  # two 16-bit sums a row
            name, one = "llvm.x86.avx2.pmadd.wd", simd.constant(i16x16, 1)
            sums = [simd.call(b, name, i32x8, [b.bitcast(s, i16x16), one]) for s in sums]
        out.append(simd.join(b, *sums))
    return out


class Args:
    """The arguments of a tile, by name."""

    def __init__(self, *values: Value) -> None:
        (
            self.w, self.w_stride, self.scale, self.scale_stride, self.x, self.x_stride,
            self.x_scale, self.x_sum, self.group_stride, self.n_groups, self.out, self.out_stride,
            self.bias, self.store_mode, self.part,
        ) = values  # fmt: skip


# --- quantisation --------------------------------------------------------------------------------


def quantize(b: Builder, parts: list[Value], most: int) -> tuple[list[Value], Value]:
    """Vectors of floats to integers in -most…most, and the float scale that they all share.

    Where the largest is under ``SMALLEST`` they are zeros: ``most`` divided by it may be infinite.
    """
    sizes = [simd.call(b, "llvm.fabs.v16f32", F32V, [part]) for part in parts]
    while len(sizes) > 1:
        sizes = [simd.larger(b, sizes[0], sizes[1]), *sizes[2:]]
    largest = simd.largest(b, sizes[0])
    is_zero = b.fcmp_ordered("<", largest, ir.Constant(FLOAT, SMALLEST))
    inverse = b.fdiv(ir.Constant(FLOAT, float(most)), largest)
    inverse = simd.broadcast(b, b.select(is_zero, ir.Constant(FLOAT, 0.0), inverse), F32V)
    scaled = [b.fmul(part, inverse) for part in parts]
    whole = [simd.call(b, "llvm.rint.v16f32", F32V, [x]) for x in scaled]
    return [b.fptosi(x, I32V) for x in whole], b.fmul(largest, ir.Constant(FLOAT, 1 / most))


def make_quantize() -> Any:
    """Quantise one group of 32 floats to signed bytes with a scale of their own.

    Arguments: x (address of the floats); out (address of the bytes); scale, total (addresses of
    one float and one int32): ``x ~ bytes * scale``, ``total = sum(bytes)``.
    """

    def emit(b: Builder, *values: Value) -> None:
        x, out, scale, total = values
        parts = [simd.read(b, place(b, x, (half, 64)), F32V, 4) for half in (0, 1)]
        whole, shared = quantize(b, parts, 127)
        for half in (0, 1):
            small = b.trunc(whole[half], ir.VectorType(I8, LANES))
            simd.write(b, place(b, out, (half, LANES)), small)
        simd.write(b, scale, shared, 4)
        simd.write(b, total, simd.fold(b, b.add(*whole), b.add), 4)

    return simd.operation(simd.void, *[i64] * 4)(emit)
