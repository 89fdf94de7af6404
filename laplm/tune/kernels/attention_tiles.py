"""What attention's forward and backward passes share: words of numbers, packed tiles, products.

Every product is ``out[row, column] = sum_w a[row, w] * b[w, column]`` over *words* of 32 bits: a
number in fp32, or two neighbours in bfloat16, whose two products one instruction adds up in fp32.
The right side is packed so that one load gives the same word of 16 columns; the left side is read
word by word where it lies.

Layouts: T tokens, padded with zeros to a multiple of BLOCK; D numbers a head; W numbers a word.
  natural     [T][D] numbers
  across      [T / W][D] words: W neighbouring tokens in a word; for sums over tokens
  transposed  [T / BLOCK][D / W][BLOCK] words: W neighbouring components; for sums over components
"""

from __future__ import annotations

import functools
from typing import Any

from llvmlite import ir

from laplm.native import lower, simd
from laplm.native.isa import Isa
from laplm.native.lower import F32V, FLOAT, I32, I64, Builder, Value
from laplm.native.simd import I32V, LANES, f32x16, get_i64, i64, loop, place, splat, store, void
from laplm.tune.kernels import attention as args
from laplm.tune.kernels import numbers
from laplm.tune.kernels.attention import BLOCK, Spec
from laplm.tune.kernels.numbers import I16V, rounded

UNROLLED = 8  # words for each turn of the inner loop


# --- where a head's numbers are ------------------------------------------------------------------


@functools.cache
def make_head_args(spec: Spec) -> Any:
    """``head_args(args, head)``: what both passes know of one head of one window.

    Tokens; bytes of a row of queries, keys and values, and of one of the output; where the head is
    in either array; the addresses of its softmax statistics, and of where documents start or 0.
    """
    size, row_bytes = spec.bytes_per_number, spec.row_bytes

    @lower.kernel
    def head_args(call: int, head: int) -> tuple[int, int, int, int, int, int, int]:
        n_head, tokens = get_i64(call, args.N_HEAD), get_i64(call, args.TOKENS)
        window, number = head // n_head, head % n_head
        out_row = get_i64(call, args.WIDTH) * size
        in_qkv = window * tokens * 3 * out_row + number * row_bytes
        in_out = window * tokens * out_row + number * row_bytes
        stats = get_i64(call, args.SOFTMAX_STATS) + head * tokens * 8
        doc_starts = get_i64(call, args.DOC_STARTS)
        if doc_starts:
            doc_starts += window * tokens * 8
        return tokens, 3 * out_row, out_row, in_qkv, in_out, stats, doc_starts

    return head_args


# --- operations on words -------------------------------------------------------------------------


def _write_row_pair(
    spec: Spec, b: Builder, across: Value, row_bytes: Value, x: Value, y: Value
) -> None:
    """Two rows of 16 numbers to the address of an even row, or of the row of words that has it."""
    if spec.bfloat16:
        low, high = b.zext(x, I32V), b.zext(y, I32V)
        simd.write(b, across, b.or_(low, b.shl(high, simd.constant(I32V, 16))), 4)
    else:
        simd.write(b, across, x, 4)
        simd.write(b, b.add(across, row_bytes), y, 4)


def make_store_row_pair(spec: Spec) -> Any:
    """``store_row_pair(to, row_bytes, x, y)``: two rows of 16 floats, as numbers."""

    @simd.operation(void, i64, i64, f32x16, f32x16)
    def store_row_pair(b: Builder, to: Value, row_bytes: Value, x: Value, y: Value) -> None:
        if spec.bfloat16:
            x, y = rounded(b, x), rounded(b, y)
        _write_row_pair(spec, b, to, row_bytes, x, y)

    return store_row_pair


def make_copy_row_pair(spec: Spec) -> Any:
    """``copy_row_pair(to, row_bytes, first, second)``: two rows of 16 numbers at addresses."""

    @simd.operation(void, i64, i64, i64, i64)
    def copy_row_pair(b: Builder, to: Value, row_bytes: Value, first: Value, second: Value) -> None:
        kind = I16V if spec.bfloat16 else F32V
        x, y = (simd.read(b, at, kind, 2) for at in (first, second))
        _write_row_pair(spec, b, to, row_bytes, x, y)

    return copy_row_pair


@simd.operation(void, i64, i64)
def copy_word(b: Builder, to: Value, source: Value) -> None:
    """Copy 32 bits."""
    simd.write(b, to, simd.read(b, source, I32, 2), 4)


# --- products ------------------------------------------------------------------------------------


def _make_tile(spec: Spec, n_rows: int, n_vectors: int, b_row: int, *, add: bool) -> Any:
    """The inner loop: ``n_rows`` times ``16 n_vectors`` results, held in registers.

    Arguments: a, bytes between its rows, bytes between its words; b, whose rows of words are
    ``b_row`` bytes; count of words, a multiple of UNROLLED; out, bytes between its rows. With
    ``add`` the results are added to what is there.
    """

    def step(b: Builder, total: Value, left: Value, right: Value) -> Value:
        if not spec.bfloat16:
            return simd.emit_fma(b, left, right, total)
        name = "llvm.x86.avx512bf16.dpbf16ps.512"
        return simd.call(b, name, F32V, [total, left, right])

    def emit(b: Builder, *values: Value) -> None:
        a, a_row, a_word, right, count, out, out_row = values
        cells = [(r, v) for r in range(n_rows) for v in range(n_vectors)]
        outs = [place(b, out, (r, out_row), (v, 64)) for r, v in cells]
        if add:
            start = [simd.read(b, to, F32V, 4) for to in outs]
        else:
            start = [simd.constant(F32V, 0.0)] * len(cells)
        vector, kind = (I32V, I32) if spec.bfloat16 else (F32V, FLOAT)
        rows = [place(b, a, (r, a_row)) for r in range(n_rows)]

        def words(i: Value, totals: list[Value]) -> list[Value]:
            first = b.mul(i, ir.Constant(I64, UNROLLED))
            for u in range(UNROLLED):
                word = b.add(first, ir.Constant(I64, u))
                rights = [
                    simd.read(b, place(b, right, (word, b_row), (v, 64)), vector, 4)
                    for v in range(n_vectors)
                ]
                lefts = [
                    simd.broadcast(b, simd.read(b, place(b, row, (word, a_word)), kind, 2), vector)
                    for row in rows
                ]
                totals = [
                    step(b, total, lefts[r], rights[v])
                    for total, (r, v) in zip(totals, cells, strict=True)
                ]
            return totals

        totals = loop(b, b.sdiv(count, ir.Constant(I64, UNROLLED)), start, words)
        for to, total in zip(outs, totals, strict=True):
            simd.write(b, to, total, 4)

    return simd.operation(void, *[i64] * 7)(emit)


@functools.cache
def make_product(isa: Isa, spec: Spec, columns: int, *, add: bool = False) -> Any:
    """``product(a, a_row, a_word, b, words, rows, out, out_row)``: torch's ``out = a @ b``.

    ``a`` has ``rows`` rows of words, and b ``columns`` packed columns; as many of both are done at
    a time as registers hold. With ``add`` it is ``out += a @ b``.
    """
    tile_rows = most_vectors = 4 if isa.registers >= 32 else 2
    vectors = columns // LANES
    together = max(n for n in range(1, most_vectors + 1) if vectors % n == 0)
    tile = _make_tile(spec, tile_rows, together, 4 * columns, add=add)

    @lower.kernel
    def product(
        a: int, a_row: int, a_word: int, right: int, words: int, rows: int, out: int, out_row: int
    ) -> None:
        for r in range(0, rows, tile_rows):
            for at in range(0, 4 * columns, 64 * together):
                tile(
                    a + r * a_row, a_row, a_word, right + at, words, out + r * out_row + at,
                    out_row,
                )  # fmt: skip

    return product


# --- packing -------------------------------------------------------------------------------------


@lower.kernel
def clear(to: int, n_bytes: int) -> None:
    """Zeros; a multiple of 64 bytes."""
    for i in range(0, n_bytes, 64):
        store(to + i, 0, splat(0.0))


@functools.cache
def make_pack_rows(spec: Spec) -> Any:
    """``pack_rows(source, source_row, present, rows, to)``: ``present`` rows, then zeros."""
    dim, size, row_bytes = spec.head_dim, spec.bytes_per_number, spec.row_bytes
    load_numbers = numbers.make_load(bfloat16=spec.bfloat16)
    store_numbers = numbers.make_store(bfloat16=spec.bfloat16)

    @lower.kernel
    def pack_rows(source: int, source_row: int, present: int, rows: int, to: int) -> None:
        for r in range(present):
            for d in range(0, dim, 16):
                at = d * size
                store_numbers(to + r * row_bytes + at, load_numbers(source + r * source_row + at))
        for r in range(present, rows):
            for d in range(0, dim, 16):
                store_numbers(to + r * row_bytes + d * size, splat(0.0))

    return pack_rows


@functools.cache
def make_pack_row_pairs(spec: Spec) -> Any:
    """``pack_row_pairs(natural, rows, to)``: packed rows, an even number; neighbours in a word."""
    dim, size, row_bytes = spec.head_dim, spec.bytes_per_number, spec.row_bytes
    numbers_per_word, word_row_bytes = spec.numbers_per_word, spec.word_row_bytes
    copy_row_pair = make_copy_row_pair(spec)

    @lower.kernel
    def pack_row_pairs(natural: int, rows: int, to: int) -> None:
        for r in range(0, rows, 2):
            first, line = natural + r * row_bytes, to + (r // numbers_per_word) * word_row_bytes
            for d in range(0, dim, 16):
                at = d * size
                copy_row_pair(line + d * 4, word_row_bytes, first + at, first + row_bytes + at)

    return pack_row_pairs


@functools.cache
def make_pack_transposed(spec: Spec) -> Any:
    """``pack_transposed(source, source_row, present, to)``: a block, a row of words a component.

    Rows that are not present are zeros.
    """
    dim_words = spec.dim_words

    @lower.kernel
    def pack_transposed(source: int, source_row: int, present: int, to: int) -> None:
        if present < BLOCK:
            clear(to, dim_words * BLOCK * 4)
        for r in range(present):
            for w in range(dim_words):
                copy_word(to + w * BLOCK * 4 + r * 4, source + r * source_row + w * 4)

    return pack_transposed
