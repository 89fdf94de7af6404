"""The inner loops of attention over the pages of the key/value cache, emitted as LLVM.

A page holds PAGE positions of every layer and head (``kv_cache.py``); D is padded to 16 here.
``kv`` says in what form:
  "fp32"  keys as [D][PAGE] f32, so that one load gives the same component of 16 positions; values
          as [PAGE][D] f32
  "int8"  keys as [PAGE / 16][D / 4][16][4] i8, so that one load gives four components of 16
          positions, then an f32 scale for each position and group of 32 components,
          [PAGE / 16][groups][16]; values as [D / 16][PAGE / 4][16][4] i8, so that one load gives
          16 components of four positions, then an f32 scale for each position, [PAGE]

Int8 keys and values are multiplied with 16-bit integers (``simd.dot_int8_int16``): a query is
quantised to these in groups of 32 components, the attention pattern page by page. Sums of integers
are exact in any order, and cost half of what products of floats do.
"""

from __future__ import annotations

import math
from itertools import product
from typing import Any

from llvmlite import ir

from laplm.model.engine.kernel_args import CHUNK, GROUP, PAGE
from laplm.model.engine.tiles import quantize
from laplm.native import simd
from laplm.native.isa import Isa
from laplm.native.lower import F32V, FLOAT, I32, I64, Builder, Value
from laplm.native.simd import I8, I32V, LANES, emit_fma, i64, loop, place

UNROLLED = 8  # positions for each turn of a loop
LINE = 64  # bytes that are multiplied at once: a cache line


class _NextPages:
    """The pages that are read next: values after keys, the next keys after values.

    While a page is multiplied, as many bytes of one of these are prefetched.
    """

    def __init__(self, b: Builder, table: Value, n_pages: Value, offset: Value) -> None:
        self.table, self.offset = table, offset
        self.last = b.sub(n_pages, ir.Constant(I64, 1))

    def address(self, b: Builder, i: Value) -> Value:
        """The address of what is prefetched with page ``i``."""
        which = b.select(b.icmp_signed("<", i, self.last), i, self.last)
        return b.add(simd.read(b, place(b, self.table, (which, 8)), I64, 8), self.offset)


def _prefetch_lines(b: Builder, start: Value, count: int) -> None:
    for line in range(count):
        simd.emit_prefetch(b, place(b, start, (line, LINE)))


def _on_stack(b: Builder, size: int) -> Value:
    """The address of ``size`` bytes on the stack, aligned to a cache line."""
    with b.goto_entry_block():
        buffer = b.alloca(ir.ArrayType(I8, size))
        buffer.align = LINE
    return b.ptrtoint(buffer, I64)


def _read_head(b: Builder, address: Value, head_dim: int) -> list[Value]:
    """A head's floats, sixteen at a time, with zeros after its end."""
    slices = -(-head_dim // LANES)
    parts = [simd.read(b, place(b, address, (s, 64)), F32V, 4) for s in range(slices)]
    if head_dim % LANES:  # beyond the head lies the next one
        inside = [int(lane < head_dim % LANES) for lane in range(LANES)]
        mask = ir.Constant(ir.VectorType(ir.IntType(1), LANES), inside)
        parts[-1] = b.select(mask, parts[-1], simd.constant(F32V, 0.0))
    return parts


# --- scores --------------------------------------------------------------------------------------


def make_scores(isa: Isa, kv: str, n_queries: int, head_dim: int) -> Any:
    """Scaled query-key products of ``n_queries`` queries with every position of some pages.

    Arguments: table of page addresses, count of pages, offset of this layer and head's keys in a
    page (bytes); the same three of the values that are read next; q, q_stride between queries
    (bytes; a query is readable up to the next multiple of 16 floats); out, out_stride between
    queries (bytes); scale (float). Writes PAGE floats a page for every query.
    """
    if kv == "fp32":
        return _make_float_scores(n_queries, head_dim)
    return _make_byte_scores(isa, n_queries, head_dim)


def _make_float_scores(n_queries: int, head_dim: int) -> Any:
    unrolled = math.gcd(head_dim, 8)

    def emit(b: Builder, *values: Value) -> None:
        table, n_pages, offset, *following, q, q_stride, out, out_stride, scale = values
        next_pages = _NextPages(b, *following)
        scales = simd.broadcast(b, scale, F32V)

        def page(i: Value, _: list[Value]) -> list[Value]:
            keys = b.add(simd.read(b, place(b, table, (i, 8)), I64, 8), offset)
            next_page = next_pages.address(b, i)

            def components(step: Value, acc: list[Value]) -> list[Value]:
                row = place(b, keys, (step, unrolled * PAGE * 4))
                row_next = place(b, next_page, (step, unrolled * PAGE * 4))
                first_x = place(b, q, (step, unrolled * 4))
                for d in range(unrolled):
                    for line in range(0, PAGE * 4, LINE):
                        simd.emit_prefetch(b, place(b, row_next, (d, PAGE * 4), (line, 1)))
                    k = [
                        simd.read(b, place(b, row, (d, PAGE * 4), (half, 64)), F32V, 4)
                        for half in (0, 1)
                    ]
                    for t in range(n_queries):
                        x = simd.read(b, place(b, first_x, (t, q_stride), (d, 4)), FLOAT, 4)
                        x = simd.broadcast(b, x, F32V)
                        for half in (0, 1):
                            acc[2 * t + half] = emit_fma(b, k[half], x, acc[2 * t + half])
                return acc

            zeros = [simd.constant(F32V, 0.0)] * (2 * n_queries)
            acc = loop(b, ir.Constant(I64, head_dim // unrolled), zeros, components)
            for t in range(n_queries):
                for half in (0, 1):
                    to = place(b, out, (t, out_stride), (i, PAGE * 4), (half, 64))
                    simd.write(b, to, b.fmul(acc[2 * t + half], scales), 4)
            return []

        loop(b, n_pages, [], page)

    return simd.operation(simd.void, *[i64] * 10, simd.f32)(emit)


def _make_byte_scores(isa: Isa, n_queries: int, head_dim: int) -> Any:
    slices = -(-head_dim // LANES)
    groups, per_group = -(-slices * LANES // GROUP), GROUP // LANES
    tile_bytes, group_bytes = slices * LANES * LANES, GROUP * LANES
    queries = range(n_queries)

    def emit(b: Builder, *values: Value) -> None:
        table, n_pages, offset, *following, q, q_stride, out, out_stride, scale = values
        next_pages = _NextPages(b, *following)
        whole = _on_stack(b, n_queries * slices * LANES * 2)
        whole = [place(b, whole, (t, slices * LANES * 2)) for t in queries]
        scales_at = _on_stack(b, n_queries * groups * 4)
        scales_at = [place(b, scales_at, (t, groups * 4)) for t in queries]
        for t in queries:
            parts = _read_head(b, place(b, q, (t, q_stride)), head_dim)
            for g in range(groups):
                some = parts[g * per_group : (g + 1) * per_group]
                numbers, step = quantize(b, some, simd.INT16_LIMIT)
                simd.write(b, place(b, scales_at[t], (g, 4)), b.fmul(step, scale), 4)
                for s, x in enumerate(numbers):
                    at = place(b, whole[t], (g * per_group + s, LANES * 2))
                    simd.write_int16(b, isa, x, at)

        def page(i: Value, _: list[Value]) -> list[Value]:
            keys = b.add(simd.read(b, place(b, table, (i, 8)), I64, 8), offset)
            next_page = next_pages.address(b, i)
            _prefetch_lines(b, place(b, next_page, (PAGE, slices * LANES)), PAGE * 4 // LINE)

            def half_page(half: Value, _: list[Value]) -> list[Value]:
                def add_group(g: Value, totals: list[Value], n_slices: int) -> list[Value]:
                    lines = ((half, tile_bytes), (g, group_bytes))
                    key_scales = ((PAGE, slices * LANES), (half, groups * 64), (g, 64))
                    inputs = [place(b, at, (g, GROUP * 2)) for at in whole]
                    at, next_lines = place(b, keys, *lines), place(b, next_page, *lines)
                    sums = simd.dot_int8_int16(
                        b, isa, at, n_slices * LANES // 4, inputs, next_lines
                    )
                    steps = simd.read(b, place(b, keys, *key_scales), F32V, 4)
                    for t in queries:
                        step = simd.read(b, place(b, scales_at[t], (g, 4)), FLOAT, 4)
                        factor = b.fmul(steps, simd.broadcast(b, step, F32V))
                        totals[t] = emit_fma(b, b.sitofp(sums[t], F32V), factor, totals[t])
                    return totals

                totals = [simd.constant(F32V, 0.0)] * n_queries
                if slices >= per_group:
                    totals = loop(
                        b, ir.Constant(I64, slices // per_group), totals,
                        lambda g, totals: add_group(g, totals, per_group),
                    )  # fmt: skip
                if slices % per_group:
                    totals = add_group(ir.Constant(I64, groups - 1), totals, slices % per_group)
                for t in queries:
                    to = place(b, out, (t, out_stride), (i, PAGE * 4), (half, 64))
                    simd.write(b, to, totals[t], 4)
                return []

            return loop(b, ir.Constant(I64, PAGE // LANES), [], half_page)

        loop(b, n_pages, [], page)

    return simd.operation(simd.void, *[i64] * 10, simd.f32)(emit)


# --- values --------------------------------------------------------------------------------------


def make_weighted_values(isa: Isa, kv: str, n_queries: int, head_dim: int) -> Any:
    """Values of every position of some pages, weighted by the attention pattern and summed.

    Arguments: table, count of pages (at most CHUNK / PAGE), offset of this layer and head's values
    in a page (bytes); the same three of the keys that are read next; pattern, pattern_stride
    between queries (bytes); out, out_stride between queries (bytes). Writes ``head_dim`` floats for
    every query, rounded up to a multiple of 16.
    """
    if kv == "fp32":
        return _make_float_values(isa, n_queries, head_dim)
    return _make_byte_values(isa, n_queries, head_dim)


def _make_float_values(isa: Isa, n_queries: int, head_dim: int) -> Any:
    slices = -(-head_dim // LANES)
    row_bytes = slices * LANES * 4
    # As many components of the head at a time as leave registers for what is added to them.
    together = min(slices, max(1, isa.registers // 2 // n_queries))

    def emit(b: Builder, *values: Value) -> None:
        table, n_pages, offset, *following, pattern, pattern_stride, out, out_stride = values
        next_pages = _NextPages(b, *following)

        def sum_slices(some: range) -> list[Value]:
            """Some slices of the head, summed over all pages for each query.

            The call with the first slices prefetches.
            """
            is_first = some.start == 0

            def page(i: Value, acc: list[Value]) -> list[Value]:
                rows = b.add(simd.read(b, place(b, table, (i, 8)), I64, 8), offset)
                if is_first:
                    next_page = next_pages.address(b, i)

                def positions(step: Value, acc: list[Value]) -> list[Value]:
                    row = place(b, rows, (step, UNROLLED * row_bytes))
                    weights = place(b, pattern, (i, PAGE * 4), (step, UNROLLED * 4))
                    if is_first:
                        row_next = place(b, next_page, (step, UNROLLED * row_bytes))
                        for line in range(0, UNROLLED * row_bytes, LINE):
                            simd.emit_prefetch(b, place(b, row_next, (line, 1)))
                    for j in range(UNROLLED):
                        at = [j * row_bytes + s * LANES * 4 for s in some]
                        v = [simd.read(b, place(b, row, (x, 1)), F32V, 4) for x in at]
                        for t in range(n_queries):
                            where = place(b, weights, (t, pattern_stride), (j, 4))
                            p = simd.broadcast(b, simd.read(b, where, FLOAT, 4), F32V)
                            for s in range(len(some)):
                                cell = t * len(some) + s
                                acc[cell] = emit_fma(b, v[s], p, acc[cell])
                    return acc

                return loop(b, ir.Constant(I64, PAGE // UNROLLED), acc, positions)

            return loop(b, n_pages, [simd.constant(F32V, 0.0)] * (n_queries * len(some)), page)

        for start in range(0, slices, together):
            some = range(start, min(start + together, slices))
            sums = iter(sum_slices(some))
            for t, s in product(range(n_queries), some):
                simd.write(b, place(b, out, (t, out_stride), (s, 64)), next(sums), 4)

    return simd.operation(simd.void, *[i64] * 10)(emit)


def _make_byte_values(isa: Isa, n_queries: int, head_dim: int) -> Any:
    slices = -(-head_dim // LANES)
    groups, tile_bytes, queries = -(-head_dim // GROUP), PAGE * LANES, range(n_queries)

    def emit(b: Builder, *values: Value) -> None:
        table, n_pages, offset, *following, pattern, pattern_stride, out, out_stride = values
        next_pages = _NextPages(b, *following)
        for t, s in product(queries, range(slices)):
            to = place(b, out, (t, out_stride), (s, 64))
            simd.write(b, to, simd.constant(F32V, 0.0), 4)
        # The pattern is quantised on all pages before any page is multiplied: to find a page's
        # largest weight takes long, but the CPU can do it for several pages at a time.
        wholes = _on_stack(b, CHUNK // PAGE * n_queries * PAGE * 2)
        steps = _on_stack(b, CHUNK // PAGE * n_queries * 4)

        def quantize_pattern(i: Value, _: list[Value]) -> list[Value]:
            rows = b.add(simd.read(b, place(b, table, (i, 8)), I64, 8), offset)
            scales_at = place(b, rows, (PAGE, slices * LANES))
            value_scales = [
                simd.read(b, place(b, scales_at, (half, 64)), F32V, 4) for half in (0, 1)
            ]
            for t in queries:
                weights = []
                for half in (0, 1):
                    at = place(b, pattern, (t, pattern_stride), (i, PAGE * 4), (half, 64))
                    weights.append(b.fmul(simd.read(b, at, F32V, 4), value_scales[half]))
                numbers, step = quantize(b, weights, simd.INT16_LIMIT)
                whole = place(b, wholes, (i, n_queries * PAGE * 2), (t, PAGE * 2))
                for half in (0, 1):
                    simd.write_int16(b, isa, numbers[half], place(b, whole, (half, LANES * 2)))
                simd.write(b, place(b, steps, (i, n_queries * 4), (t, 4)), step, 4)
            return []

        def page(i: Value, _: list[Value]) -> list[Value]:
            rows = b.add(simd.read(b, place(b, table, (i, 8)), I64, 8), offset)
            next_page = next_pages.address(b, i)
            _prefetch_lines(
                b, place(b, next_page, (PAGE, slices * LANES)), groups * PAGE * 4 // LINE
            )
            whole = [place(b, wholes, (i, n_queries * PAGE * 2), (t, PAGE * 2)) for t in queries]
            factors = [
                simd.broadcast(
                    b, simd.read(b, place(b, steps, (i, n_queries * 4), (t, 4)), FLOAT, 4), F32V
                )
                for t in queries
            ]

            def components(s: Value, _: list[Value]) -> list[Value]:
                at, next_lines = (place(b, page, (s, tile_bytes)) for page in (rows, next_page))
                sums = simd.dot_int8_int16(b, isa, at, PAGE // 4, whole, next_lines)
                for t in queries:
                    to = place(b, out, (t, out_stride), (s, 64))
                    total = simd.read(b, to, F32V, 4)
                    total = emit_fma(b, b.sitofp(sums[t], F32V), factors[t], total)
                    simd.write(b, to, total, 4)
                return []

            return loop(b, ir.Constant(I64, slices), [], components)

        loop(b, n_pages, [], quantize_pattern)
        loop(b, n_pages, [], page)

    return simd.operation(simd.void, *[i64] * 10)(emit)


# --- writing -------------------------------------------------------------------------------------


def make_store_kv(kv: str, head_dim: int) -> Any:
    """Write one position's key and value of one head into its page.

    Arguments: k, v (addresses of ``head_dim`` floats, readable up to the next multiple of 16);
    keys, values (addresses of this layer and head's part of the page); slot in the page.
    """
    store_key, store_value = (
        (_store_float_key, _store_float_value) if kv == "fp32" else (_store_key, _store_value)
    )

    def emit(b: Builder, *values: Value) -> None:
        k, v, keys, rows, slot = values
        store_key(b, _read_head(b, k, head_dim), keys, slot)
        store_value(b, _read_head(b, v, head_dim), rows, slot)

    return simd.operation(simd.void, *[i64] * 5)(emit)


def _store_float_key(b: Builder, parts: list[Value], keys: Value, slot: Value) -> None:
    for s, lane in product(range(len(parts)), range(LANES)):
        to = place(b, keys, (s * LANES + lane, PAGE * 4), (slot, 4))
        simd.write(b, to, b.extract_element(parts[s], ir.Constant(I32, lane)), 4)


def _store_float_value(b: Builder, parts: list[Value], rows: Value, slot: Value) -> None:
    for s, part in enumerate(parts):
        simd.write(b, place(b, rows, (slot, len(parts) * LANES * 4), (s, 64)), part, 4)


def _store_key(b: Builder, parts: list[Value], keys: Value, slot: Value) -> None:
    """Bytes in groups of 32 components, four to a word, and the scales of the groups."""
    words, per_group = ir.VectorType(I32, 4), GROUP // LANES
    groups = -(-len(parts) // per_group)
    half, lane = b.lshr(slot, ir.Constant(I64, 4)), b.and_(slot, ir.Constant(I64, LANES - 1))
    tile = place(b, keys, (half, len(parts) * LANES * LANES), (lane, 4))
    scales = place(b, keys, (PAGE, len(parts) * LANES), (half, groups * 64), (lane, 4))
    for g in range(groups):
        whole, scale = quantize(b, parts[g * per_group : (g + 1) * per_group], 127)
        simd.write(b, place(b, scales, (g, 64)), scale, 4)
        for s, x in enumerate(whole):
            four = b.bitcast(b.trunc(x, ir.VectorType(I8, LANES)), words)
            for i in range(4):
                to = place(b, tile, (((g * per_group) + s) * 4 + i, 64))
                simd.write(b, to, b.extract_element(four, ir.Constant(I32, i)), 4)


def _store_value(b: Builder, parts: list[Value], rows: Value, slot: Value) -> None:
    """Bytes beside those of three neighbours, and the scale that all of them share."""
    whole, scale = quantize(b, parts, 127)
    simd.write(b, place(b, rows, (PAGE, len(parts) * LANES), (slot, 4)), scale, 4)
    word = b.lshr(slot, ir.Constant(I64, 2))
    shift = b.shl(b.and_(b.trunc(slot, I32), ir.Constant(I32, 3)), ir.Constant(I32, 3))
    shift = simd.broadcast(b, shift, I32V)
    others = b.not_(b.shl(simd.constant(I32V, 255), shift))
    for s, x in enumerate(whole):
        at = place(b, rows, (s, PAGE * LANES), (word, LINE))
        x = b.shl(b.and_(x, simd.constant(I32V, 255)), shift)
        simd.write(b, at, b.or_(b.and_(simd.read(b, at, I32V, 4), others), x), 4)
