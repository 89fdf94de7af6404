"""Causal attention and its gradient, compiled: one head at a time, in tiles that stay in the cache.

Nothing of size T x T exists. Forwards, some queries at a time meet all keys that they may look at;
kept for the way back are two numbers a query, its largest score and the sum of its exponentials.
Backwards, tiles of 64 x 64 scores are made again from them, and a tile gives what it has to the
gradients of its queries, keys and values while it is in the nearest cache (Dao et al. 2022,
arXiv:2205.14135, section 3.1, and Dao 2023, arXiv:2307.08691, algorithm 2).

Every product is ``out[row, column] = sum_w a[row, w] * b[w, column]`` over *words* of 32 bits: a
number in fp32, or two neighbours in bfloat16, whose two products one instruction adds up in fp32.
The right side is packed so that one load gives the same word of 16 columns; the left side is read
word by word where it lies. What a call works on are heads, each by itself, so results do not depend
on how many threads there are.

Layouts: T tokens, padded with zeros to a multiple of BLOCK; D numbers a head; W numbers a word.
  natural     [T][D] numbers
  across      [T / W][D] words: W neighbouring tokens in a word; sums over tokens
  transposed  [T / BLOCK][D / W][BLOCK] words: W neighbouring components; sums over components
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from laplm.native import lower, simd
from laplm.native.isa import Isa
from laplm.native.lower import F32V, FLOAT, I32, I64, Builder, Value
from laplm.native.simd import I32V, LANES, loop, place
from laplm.tune.kernels import numbers
from laplm.tune.kernels.attention import (
    BEGINS,
    BLOCK,
    COUNTER,
    FORWARD,
    HEADS,
    MIXED,
    MIXED_GRAD,
    N_HEAD,
    PROJECTED,
    PROJECTED_GRAD,
    ROWS,
    SCALE,
    STATS,
    TOKENS,
    WIDTH,
    Spec,
)
from laplm.tune.kernels.numbers import I16V, rounded

UNROLLED = 8  # words for each turn of the inner loop


# --- operations on words -------------------------------------------------------------------------


def _make_across(spec: Spec) -> tuple[Any, Any]:
    """Writing two rows across: of floats, and of numbers that lie elsewhere."""
    i64, void, f32x16 = simd.i64, simd.void, simd.f32x16

    def put(b: Builder, across: Value, row_bytes: Value, x: Value, y: Value) -> None:
        """At the address of an even row, or of the row of words that has it."""
        if spec.bfloat16:
            low, high = b.zext(x, I32V), b.zext(y, I32V)
            simd.write(b, across, b.or_(low, b.shl(high, simd.constant(I32V, 16))), 4)
        else:
            simd.write(b, across, x, 4)
            simd.write(b, b.add(across, row_bytes), y, 4)

    @simd.operation(void, i64, i64, f32x16, f32x16)
    def save_across(b: Builder, across: Value, row_bytes: Value, x: Value, y: Value) -> None:
        if spec.bfloat16:
            x, y = rounded(b, x), rounded(b, y)
        put(b, across, row_bytes, x, y)

    @simd.operation(void, i64, i64, i64, i64)
    def join_across(
        b: Builder, across: Value, row_bytes: Value, first: Value, second: Value
    ) -> None:
        kind = I16V if spec.bfloat16 else F32V
        put(b, across, row_bytes, *(simd.read(b, at, kind, 2) for at in (first, second)))

    return save_across, join_across


@simd.operation(simd.void, simd.i64, simd.i64)
def copy_word(b: Builder, to: Value, source: Value) -> None:
    """Copy 32 bits."""
    simd.write(b, to, simd.read(b, source, I32, 2), 4)


def _make_tile(spec: Spec, n_rows: int, n_vectors: int, b_row: int, *, add: bool = False) -> Any:
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

    return simd.operation(simd.void, *[simd.i64] * 7)(emit)


# --- the compiled function -----------------------------------------------------------------------


def build(isa: Isa, spec: Spec) -> Any:
    """The function to compile: ``engine(what, plan, scratch, _)``, all int64.

    ``what`` is ``FORWARD`` or ``BACKWARD``; ``plan`` and ``scratch`` are addresses. Every thread
    calls it, with scratch memory of its own (``scratch_bytes``, at a multiple of 64), and takes
    heads until there are none.
    """
    dim, size = spec.head_dim, spec.number_bytes
    word_numbers = 4 // size
    dim_words, block_words = dim // word_numbers, BLOCK // word_numbers
    dim_bytes, word_row = dim * size, dim * 4  # of a natural row; of a row of words
    block_row = BLOCK * 4
    # Sums that registers hold: rows x vectors.
    tile_rows = most_vectors = 4 if isa.registers >= 32 else 2

    compiled = lower.kernel
    get, get_f32, set_f32, load, store = (
        simd.get_i64, simd.get_f32, simd.set_f32, simd.load, simd.store,
    )  # fmt: skip
    fma, splat, maximum, max_lanes, sum_lanes = (
        simd.fma, simd.splat, simd.maximum, simd.max_lanes, simd.sum_lanes,
    )  # fmt: skip
    atomic_add = simd.atomic_add
    load_numbers = numbers.make_load(bfloat16=spec.bfloat16)
    save_numbers = numbers.make_save(bfloat16=spec.bfloat16)
    save_across, join_across = _make_across(spec)
    keep_between, exp2 = simd.keep_between, numbers.exp2

    @lower.kernel
    def head_of(plan: int, unit: int) -> tuple[int, int, int, int, int, int, int]:
        """What forwards and backwards know of a head.

        Tokens; bytes of a row that goes in, and of one that comes out; where the head is in
        either; the addresses of its stats, and of where texts begin or 0.
        """
        n_head, tokens = get(plan, N_HEAD), get(plan, TOKENS)
        window, head = unit // n_head, unit % n_head
        out_row = get(plan, WIDTH) * size
        source = window * tokens * 3 * out_row + head * dim_bytes
        out = window * tokens * out_row + head * dim_bytes
        stats = get(plan, STATS) + unit * tokens * 8
        begins = get(plan, BEGINS)
        if begins:
            begins += window * tokens * 8
        return tokens, 3 * out_row, out_row, source, out, stats, begins

    # --- products ---

    def make_product(columns: int, *, add: bool = False) -> Any:
        """Rows of words by ``columns`` packed columns, as many at a time as registers hold."""
        vectors = columns // LANES
        together = max(n for n in range(1, most_vectors + 1) if vectors % n == 0)
        tile = _make_tile(spec, tile_rows, together, 4 * columns, add=add)

        @compiled
        def product(
            a: int, a_row: int, a_word: int, right: int, words: int, rows: int, out: int,
            out_row: int,
        ) -> None:  # fmt: skip
            for r in range(0, rows, tile_rows):
                for at in range(0, 4 * columns, 64 * together):
                    tile(
                        a + r * a_row, a_row, a_word, right + at, words, out + r * out_row + at,
                        out_row,
                    )  # fmt: skip

        return product

    score, mix = make_product(BLOCK), make_product(dim)
    add_mix = make_product(dim, add=True)

    # --- packing ---

    @compiled
    def clear(to: int, n_bytes: int) -> None:
        for i in range(0, n_bytes, 64):
            store(to + i, 0, splat(0.0))

    @compiled
    def pack_natural(source: int, source_row: int, present: int, rows: int, to: int) -> None:
        """The ``present`` of ``rows`` rows, and zeros."""
        for r in range(present):
            for d in range(0, dim, 16):
                at = d * size
                save_numbers(to + r * dim_bytes + at, load_numbers(source + r * source_row + at))
        for r in range(present, rows):
            for d in range(0, dim, 16):
                save_numbers(to + r * dim_bytes + d * size, splat(0.0))

    @compiled
    def pack_across(natural: int, rows: int, to: int) -> None:
        """Natural rows, an even number of them, with neighbours in a word."""
        for r in range(0, rows, 2):
            first, line = natural + r * dim_bytes, to + (r // word_numbers) * word_row
            for d in range(0, dim, 16):
                at = d * size
                join_across(line + d * 4, word_row, first + at, first + dim_bytes + at)

    @compiled
    def pack_transposed(source: int, source_row: int, present: int, to: int) -> None:
        """A block of rows with each word's column; zeros for the rows that are not present."""
        if present < BLOCK:
            clear(to, dim_words * block_row)
        for r in range(present):
            for w in range(dim_words):
                copy_word(to + w * block_row + r * 4, source + r * source_row + w * 4)

    # --- forwards ---

    @compiled
    def softmax_row(
        scores: int, width: int, low: int, high: int, out: int, stats: int, k: int
    ) -> None:
        """Exponentials of the scores from ``low`` to ``high``, less the largest, and zeros.

        ``k`` is the address of what scores are multiplied by. ``stats`` gets the largest, and one
        over the sum.
        """
        scale = splat(get_f32(k, 0))
        largest = splat(-3e38)
        for i in range(low // 16 * 16, high, 16):
            x = load(scores, i)
            if i < low or i + 16 > high:
                x = keep_between(x, low - i, high - i, -3e38)
            largest = maximum(largest, x)
        top = max_lanes(largest) * get_f32(k, 0)
        total = splat(0.0)
        for i in range(0, width, 16):
            if i + 16 <= low or i >= high:
                save_numbers(out + i * size, splat(0.0))
                continue
            e = exp2(fma(load(scores, i), scale, splat(0.0) - splat(top)))
            if i < low or i + 16 > high:
                e = keep_between(e, low - i, high - i, 0.0)
            total = total + e
            save_numbers(out + i * size, e)
        set_f32(stats, 0, top)
        set_f32(stats, 1, 1.0 / sum_lanes(total))

    @compiled
    def forward(plan: int, scratch: int, unit: int) -> None:
        """One head: what its queries find in the values."""
        tokens, source_row, out_row, source, out, stats, begins = head_of(plan, unit)
        queries = get(plan, PROJECTED) + source
        keys, values = queries + out_row, queries + 2 * out_row
        mixed = get(plan, MIXED) + out
        padded = (tokens + BLOCK - 1) // BLOCK * BLOCK

        keys_packed = scratch
        values_packed = keys_packed + padded * dim_bytes
        query = values_packed + padded * dim_bytes
        scores = query + ROWS * dim_bytes
        pattern = scores + ROWS * padded * 4
        sums = pattern + ROWS * padded * size
        block = sums + ROWS * word_row  # natural, before it is packed
        for k in range(0, padded, BLOCK):
            present = min(BLOCK, tokens - k)
            pack_transposed(keys + k * source_row, source_row, present, keys_packed + k * dim_bytes)
            pack_natural(values + k * source_row, source_row, present, BLOCK, block)
            pack_across(block, BLOCK, values_packed + k * dim_bytes)

        for q in range(0, tokens, ROWS):
            present = min(ROWS, tokens - q)
            pack_natural(queries + q * source_row, source_row, present, ROWS, query)
            first = get(begins, q) // BLOCK * BLOCK if begins else 0
            end = (q + present + BLOCK - 1) // BLOCK * BLOCK
            score_row = (end - first) * 4
            for k in range(first, end, BLOCK):
                score(
                    query, dim_bytes, 4, keys_packed + k * dim_bytes, dim_words, ROWS,
                    scores + (k - first) * 4, score_row,
                )  # fmt: skip
            pattern_row = (end - first) * size
            for r in range(present):
                low = get(begins, q + r) - first if begins else 0
                softmax_row(
                    scores + r * score_row, end - first, low, q + r + 1 - first,
                    pattern + r * pattern_row, stats + (q + r) * 8, get(plan, SCALE),
                )  # fmt: skip
            for r in range(present, ROWS):
                for i in range(0, end - first, 16):
                    save_numbers(pattern + r * pattern_row + i * size, splat(0.0))
            mix(
                pattern, pattern_row, 4, values_packed + first * dim_bytes,
                (end - first) // word_numbers, ROWS, sums, word_row,
            )  # fmt: skip
            for r in range(present):
                inverse = splat(get_f32(stats, 2 * (q + r) + 1))
                for d in range(0, dim, 16):
                    save_numbers(
                        mixed + (q + r) * out_row + d * size,
                        load(sums + r * word_row, d) * inverse,
                    )

    # --- backwards ---

    @compiled
    def slopes(
        scores: int, toward: int, pattern: int, natural: int, across: int, r: int,
        stats: int, deltas: int, low0: int, high0: int, low1: int, high1: int, k: int,
    ) -> None:  # fmt: skip
        """Two rows of a tile: scores to the pattern, and to the slope of the loss by each score.

        Keys from ``low`` to ``high`` count. ``toward`` is the slope by the pattern. Written are
        the pattern across, and the slope natural and across.
        """
        log_scale, scale = splat(get_f32(k, 0)), splat(get_f32(k, 1))
        top0, inverse0 = splat(get_f32(stats, 0)), splat(get_f32(stats, 1))
        top1, inverse1 = splat(get_f32(stats, 2)), splat(get_f32(stats, 3))
        delta0, delta1 = splat(get_f32(deltas, 0)), splat(get_f32(deltas, 1))
        zero = splat(0.0)
        line = r // word_numbers * block_row
        for i in range(0, BLOCK, 16):
            at = r * BLOCK + i
            p0 = exp2(fma(load(scores, at), log_scale, zero - top0)) * inverse0
            p1 = exp2(fma(load(scores, at + BLOCK), log_scale, zero - top1)) * inverse1
            if low0 > i or high0 < i + 16 or low1 > i or high1 < i + 16:
                p0 = keep_between(p0, low0 - i, high0 - i, 0.0)
                p1 = keep_between(p1, low1 - i, high1 - i, 0.0)
            d0 = p0 * (load(toward, at) - delta0) * scale
            d1 = p1 * (load(toward, at + BLOCK) - delta1) * scale
            save_across(pattern + line + i * 4, block_row, p0, p1)
            save_across(across + line + i * 4, block_row, d0, d1)
            save_numbers(natural + at * size, d0)
            save_numbers(natural + (at + BLOCK) * size, d1)

    @compiled
    def backward(plan: int, scratch: int, unit: int) -> None:
        """One head: the gradient of its queries, keys and values."""
        tokens, source_row, out_row, source, out, stats, begins = head_of(plan, unit)
        queries = get(plan, PROJECTED) + source
        keys, values = queries + out_row, queries + 2 * out_row
        query_grads = get(plan, PROJECTED_GRAD) + source
        mixed, mixed_grads = get(plan, MIXED) + out, get(plan, MIXED_GRAD) + out
        padded = (tokens + BLOCK - 1) // BLOCK * BLOCK

        query = scratch
        query_across = query + padded * dim_bytes
        slope = query_across + padded * dim_bytes  # of the loss by what came out
        slope_across = slope + padded * dim_bytes
        query_sums = slope_across + padded * dim_bytes
        deltas = query_sums + padded * word_row
        own_stats = deltas + padded * 4
        key_transposed = own_stats + padded * 8
        value_transposed = key_transposed + BLOCK * dim_bytes
        key_across = value_transposed + BLOCK * dim_bytes
        block = key_across + BLOCK * dim_bytes
        scores = block + BLOCK * dim_bytes
        toward = scores + BLOCK * block_row
        pattern = toward + BLOCK * block_row
        score_slope = pattern + BLOCK * BLOCK * size
        score_slope_across = score_slope + BLOCK * BLOCK * size
        key_sums = score_slope_across + BLOCK * BLOCK * size
        value_sums = key_sums + BLOCK * word_row

        pack_natural(queries, source_row, tokens, padded, query)
        pack_across(query, padded, query_across)
        pack_natural(mixed_grads, out_row, tokens, padded, slope)
        pack_across(slope, padded, slope_across)
        clear(query_sums, padded * word_row)
        for r in range(padded):
            total = splat(0.0)
            if r < tokens:
                for d in range(0, dim, 16):
                    at = d * size
                    total = fma(
                        load_numbers(mixed + r * out_row + at),
                        load_numbers(slope + r * dim_bytes + at),
                        total,
                    )
            set_f32(deltas, r, sum_lanes(total))
            set_f32(own_stats, 2 * r, get_f32(stats, 2 * r) if r < tokens else 0.0)
            set_f32(own_stats, 2 * r + 1, get_f32(stats, 2 * r + 1) if r < tokens else 0.0)

        for k in range(0, tokens, BLOCK):
            present = min(BLOCK, tokens - k)
            pack_transposed(keys + k * source_row, source_row, present, key_transposed)
            pack_transposed(values + k * source_row, source_row, present, value_transposed)
            pack_natural(keys + k * source_row, source_row, present, BLOCK, block)
            pack_across(block, BLOCK, key_across)
            clear(key_sums, BLOCK * word_row)
            clear(value_sums, BLOCK * word_row)
            for q in range(k, tokens, BLOCK):
                if begins and get(begins, q) >= k + BLOCK:
                    break  # these queries, and those after them, belong to later texts
                score(
                    query + q * dim_bytes, dim_bytes, 4, key_transposed, dim_words, BLOCK,
                    scores, block_row,
                )  # fmt: skip
                score(
                    slope + q * dim_bytes, dim_bytes, 4, value_transposed, dim_words, BLOCK,
                    toward, block_row,
                )  # fmt: skip
                for r in range(0, BLOCK, 2):
                    low0 = low1 = 0
                    if begins:
                        low0 = get(begins, min(q + r, tokens - 1)) - k
                        low1 = get(begins, min(q + r + 1, tokens - 1)) - k
                    slopes(
                        scores, toward, pattern, score_slope, score_slope_across, r,
                        own_stats + (q + r) * 8, deltas + (q + r) * 4,
                        low0, q + r + 1 - k, low1, q + r + 2 - k, get(plan, SCALE),
                    )  # fmt: skip
                add_mix(
                    pattern, 4, block_row, slope_across + q * dim_bytes, block_words, BLOCK,
                    value_sums, word_row,
                )  # fmt: skip
                add_mix(
                    score_slope_across, 4, block_row, query_across + q * dim_bytes, block_words,
                    BLOCK, key_sums, word_row,
                )  # fmt: skip
                add_mix(
                    score_slope, BLOCK * size, 4, key_across, block_words, BLOCK,
                    query_sums + q * word_row, word_row,
                )  # fmt: skip
            for r in range(present):
                to = query_grads + (k + r) * source_row + out_row
                for d in range(0, dim, 16):
                    save_numbers(to + d * size, load(key_sums + r * word_row, d))
                    save_numbers(to + out_row + d * size, load(value_sums + r * word_row, d))
        for r in range(tokens):
            for d in range(0, dim, 16):
                to = query_grads + r * source_row + d * size
                save_numbers(to, load(query_sums + r * word_row, d))

    @compiled
    def engine(what: int, plan: int, scratch: int, _: int) -> int:
        while True:
            unit = atomic_add(plan + COUNTER * 8, 1)
            if unit >= get(plan, HEADS):
                return 0
            if what == FORWARD:
                forward(plan, scratch, unit)
            else:
                backward(plan, scratch, unit)

    return engine
