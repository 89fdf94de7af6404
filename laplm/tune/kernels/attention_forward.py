"""Causal attention, forwards, one head at a time: ``causal_attention_torch`` in tiles.

Nothing of size T x T exists: some queries at a time meet all keys that they may look at. Kept for
the way back are two numbers a query, its largest score and the sum of its exponentials (Dao et al.
2022, arXiv:2205.14135, section 3.1).
"""

from __future__ import annotations

from typing import Any

from laplm.native import lower
from laplm.native.isa import Isa
from laplm.native.simd import (
    fma,
    get_f32,
    get_i64,
    keep_between,
    load,
    max_lanes,
    maximum,
    set_f32,
    splat,
    sum_lanes,
)
from laplm.tune.kernels import attention as args
from laplm.tune.kernels import numbers
from laplm.tune.kernels.attention import BLOCK, QUERIES, Spec
from laplm.tune.kernels.attention_tiles import (
    make_head_args,
    make_pack_row_pairs,
    make_pack_rows,
    make_pack_transposed,
    make_product,
)
from laplm.tune.kernels.numbers import exp2


def make_softmax_row(spec: Spec) -> Any:
    """``softmax_row(scores, width, low, high, out, stats, scales)``: numerators of one query.

    In torch ``out = exp(scale * (scores - scores.max()))`` over the keys from ``low`` to ``high``,
    and zeros elsewhere. ``stats`` gets the largest score times log2(e), and 1 / the sum.
    """
    size = spec.bytes_per_number
    store_numbers = numbers.make_store(bfloat16=spec.bfloat16)

    @lower.kernel
    def softmax_row(
        scores: int, width: int, low: int, high: int, out: int, stats: int, scales: int
    ) -> None:
        scale = splat(get_f32(scales, 0))
        largest = splat(-3e38)
        for i in range(low // 16 * 16, high, 16):
            x = load(scores, i)
            if i < low or i + 16 > high:
                x = keep_between(x, low - i, high - i, -3e38)
            largest = maximum(largest, x)
        top = max_lanes(largest) * get_f32(scales, 0)
        total = splat(0.0)
        for i in range(0, width, 16):
            if i + 16 <= low or i >= high:
                store_numbers(out + i * size, splat(0.0))
                continue
            e = exp2(fma(load(scores, i), scale, splat(0.0) - splat(top)))
            if i < low or i + 16 > high:
                e = keep_between(e, low - i, high - i, 0.0)
            total = total + e
            store_numbers(out + i * size, e)
        set_f32(stats, 0, top)
        set_f32(stats, 1, 1.0 / sum_lanes(total))

    return softmax_row


def make_pack_keys_values(spec: Spec) -> Any:
    """``pack_keys_values(keys, row, tokens, keys_packed, values_packed, block)``: a whole head.

    Keys transposed, for scores; values across, for their weighted sums.
    """
    row_bytes = spec.row_bytes
    pack_rows, pack_row_pairs = make_pack_rows(spec), make_pack_row_pairs(spec)
    pack_transposed = make_pack_transposed(spec)

    @lower.kernel
    def pack_keys_values(
        keys: int, values: int, row: int, tokens: int, keys_packed: int, values_packed: int,
        block: int,
    ) -> None:  # fmt: skip
        for k in range(0, tokens, BLOCK):
            present = min(BLOCK, tokens - k)
            pack_transposed(keys + k * row, row, present, keys_packed + k * row_bytes)
            pack_rows(values + k * row, row, present, BLOCK, block)
            pack_row_pairs(block, BLOCK, values_packed + k * row_bytes)

    return pack_keys_values


def make_attention_pattern(spec: Spec) -> Any:
    """``pattern_of(…)``: scores of some queries to softmax numerators, row by row.

    Queries that are not present get zeros.
    """
    size = spec.bytes_per_number
    softmax_row = make_softmax_row(spec)
    store_numbers = numbers.make_store(bfloat16=spec.bfloat16)

    @lower.kernel
    def pattern_of(
        call: int, scores: int, q: int, present: int, first: int, end: int, pattern: int,
        stats: int, doc_starts: int,
    ) -> None:  # fmt: skip
        width = end - first
        for r in range(present):
            low = get_i64(doc_starts, q + r) - first if doc_starts else 0
            softmax_row(
                scores + r * width * 4, width, low, q + r + 1 - first,
                pattern + r * width * size, stats + (q + r) * 8, get_i64(call, args.SCALES),
            )  # fmt: skip
        for r in range(present, QUERIES):
            for i in range(0, width, 16):
                store_numbers(pattern + (r * width + i) * size, splat(0.0))

    return pattern_of


def make_forward(isa: Isa, spec: Spec) -> Any:
    """``forward(args, scratch, head)``: one head's ``softmax(scale * q @ k.T) @ v``."""
    dim, size, row_bytes, word_row_bytes = (
        spec.head_dim,
        spec.bytes_per_number,
        spec.row_bytes,
        spec.word_row_bytes,
    )
    numbers_per_word, dim_words = spec.numbers_per_word, spec.dim_words
    head_args = make_head_args(spec)
    pack_rows, pack_keys_values = make_pack_rows(spec), make_pack_keys_values(spec)
    score, weighted_values = make_product(isa, spec, BLOCK), make_product(isa, spec, dim)
    pattern_of = make_attention_pattern(spec)
    store_numbers = numbers.make_store(bfloat16=spec.bfloat16)

    @lower.kernel
    def forward(call: int, scratch: int, head: int) -> None:
        tokens, qkv_row, out_row, in_qkv, in_out, stats, doc_starts = head_args(call, head)
        queries = get_i64(call, args.QKV) + in_qkv
        out = get_i64(call, args.OUT) + in_out
        padded = (tokens + BLOCK - 1) // BLOCK * BLOCK

        keys_packed = scratch
        values_packed = keys_packed + padded * row_bytes
        query = values_packed + padded * row_bytes
        scores = query + QUERIES * row_bytes
        pattern = scores + QUERIES * padded * 4
        sums = pattern + QUERIES * padded * size
        block = sums + QUERIES * word_row_bytes  # natural, before it is packed
        pack_keys_values(
            queries + out_row, queries + 2 * out_row, qkv_row, tokens, keys_packed, values_packed,
            block,
        )  # fmt: skip

        for q in range(0, tokens, QUERIES):
            present = min(QUERIES, tokens - q)
            pack_rows(queries + q * qkv_row, qkv_row, present, QUERIES, query)
            # The keys that some of these queries may look at.
            first = get_i64(doc_starts, q) // BLOCK * BLOCK if doc_starts else 0
            end = (q + present + BLOCK - 1) // BLOCK * BLOCK
            for k in range(first, end, BLOCK):
                score(
                    query, row_bytes, 4, keys_packed + k * row_bytes, dim_words, QUERIES,
                    scores + (k - first) * 4, (end - first) * 4,
                )  # fmt: skip
            pattern_of(call, scores, q, present, first, end, pattern, stats, doc_starts)
            weighted_values(
                pattern, (end - first) * size, 4, values_packed + first * row_bytes,
                (end - first) // numbers_per_word, QUERIES, sums, word_row_bytes,
            )  # fmt: skip
            for r in range(present):
                inverse = splat(get_f32(stats, 2 * (q + r) + 1))
                for d in range(0, dim, 16):
                    store_numbers(
                        out + (q + r) * out_row + d * size,
                        load(sums + r * word_row_bytes, d) * inverse,
                    )

    return forward
