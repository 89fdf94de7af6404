"""Causal attention's gradient, one head at a time: what autograd makes of the torch line.

Tiles of 64 x 64 scores are made again from two numbers a query, and a tile gives what it has to the
gradients of its queries, keys and values while it is in the nearest cache (Dao 2023,
arXiv:2307.08691, algorithm 2):

    pattern  = exp(scale * q @ k.T - largest) / sum     d_v += pattern.T @ d_out
    d_scores = scale * pattern * (d_out @ v.T - delta)  d_k += d_scores.T @ q
    delta    = (out * d_out).sum(-1)                    d_q += d_scores @ k
"""

from __future__ import annotations

import functools
from typing import Any

from laplm.native import lower
from laplm.native.isa import Isa
from laplm.native.simd import (
    fma,
    get_f32,
    get_i64,
    keep_between,
    load,
    set_f32,
    splat,
    sum_lanes,
)
from laplm.tune.kernels import attention as args
from laplm.tune.kernels import numbers
from laplm.tune.kernels.attention import BLOCK, Spec
from laplm.tune.kernels.attention_tiles import (
    clear,
    make_head_args,
    make_pack_row_pairs,
    make_pack_rows,
    make_pack_transposed,
    make_product,
    make_store_row_pair,
)
from laplm.tune.kernels.numbers import exp2

_BLOCK_ROW = BLOCK * 4


@functools.cache
def make_query_scratch(spec: Spec) -> Any:
    """``query_scratch(scratch, padded)``: where the queries' side of a head is kept.

    Addresses of: queries natural and across; d_out natural and across; d_q in fp32; delta; the
    softmax statistics; and of what comes after all these.
    """
    row_bytes, word_row_bytes = spec.row_bytes, spec.word_row_bytes

    @lower.kernel
    def query_scratch(scratch: int, padded: int) -> tuple[int, int, int, int, int, int, int, int]:
        query_across = scratch + padded * row_bytes
        d_out = query_across + padded * row_bytes
        d_out_across = d_out + padded * row_bytes
        d_query = d_out_across + padded * row_bytes
        delta = d_query + padded * word_row_bytes
        stats = delta + padded * 4
        return (
            scratch, query_across, d_out, d_out_across, d_query, delta, stats, stats + padded * 8
        )  # fmt: skip

    return query_scratch


@functools.cache
def make_block_scratch(spec: Spec) -> Any:
    """``block_scratch(begin)``: where a block of keys and values, and a tile, are kept.

    Addresses of: keys and values transposed, keys across, a natural block; scores and d_pattern in
    fp32; the pattern across; d_scores natural and across; d_k and d_v in fp32.
    """
    block, tile = BLOCK * spec.row_bytes, BLOCK * BLOCK
    size, word_row_bytes = spec.bytes_per_number, spec.word_row_bytes

    @lower.kernel
    def block_scratch(
        begin: int,
    ) -> tuple[int, int, int, int, int, int, int, int, int, int, int]:
        scores = begin + 4 * block
        d_pattern = scores + tile * 4
        pattern = d_pattern + tile * 4
        d_scores = pattern + tile * size
        d_scores_across = d_scores + tile * size
        d_key = d_scores_across + tile * size
        return (
            begin, begin + block, begin + 2 * block, begin + 3 * block, scores, d_pattern, pattern,
            d_scores, d_scores_across, d_key, d_key + BLOCK * word_row_bytes,
        )  # fmt: skip

    return block_scratch


def make_delta(spec: Spec) -> Any:
    """``delta_of(out, out_row, d_out, row)``: ``(out * d_out).sum(-1)`` of one query."""
    dim, size, row_bytes = spec.head_dim, spec.bytes_per_number, spec.row_bytes
    load_numbers = numbers.make_load(bfloat16=spec.bfloat16)

    @lower.kernel
    def delta_of(out: int, out_row: int, d_out: int, row: int) -> float:
        total = splat(0.0)
        for d in range(0, dim, 16):
            at = d * size
            total = fma(
                load_numbers(out + row * out_row + at),
                load_numbers(d_out + row * row_bytes + at),
                total,
            )
        return sum_lanes(total)

    return delta_of


def make_pack_queries(spec: Spec) -> Any:
    """``pack_queries(args, scratch, head)``: fill what ``query_scratch`` names, and clear d_q."""
    word_row_bytes = spec.word_row_bytes
    head_args, query_scratch = make_head_args(spec), make_query_scratch(spec)
    pack_rows, pack_row_pairs = make_pack_rows(spec), make_pack_row_pairs(spec)
    delta_of = make_delta(spec)

    @lower.kernel
    def pack_queries(call: int, scratch: int, head: int) -> None:
        tokens, qkv_row, out_row, in_qkv, in_out, stats, _ = head_args(call, head)
        padded = (tokens + BLOCK - 1) // BLOCK * BLOCK
        query, query_across, d_out, d_out_across, d_query, delta, own_stats, _ = query_scratch(
            scratch, padded
        )
        out = get_i64(call, args.OUT) + in_out
        pack_rows(get_i64(call, args.QKV) + in_qkv, qkv_row, tokens, padded, query)
        pack_row_pairs(query, padded, query_across)
        pack_rows(get_i64(call, args.D_OUT) + in_out, out_row, tokens, padded, d_out)
        pack_row_pairs(d_out, padded, d_out_across)
        clear(d_query, padded * word_row_bytes)
        for r in range(padded):
            if r < tokens:
                set_f32(delta, r, delta_of(out, out_row, d_out, r))
                set_f32(own_stats, 2 * r, get_f32(stats, 2 * r))
                set_f32(own_stats, 2 * r + 1, get_f32(stats, 2 * r + 1))
            else:
                set_f32(delta, r, 0.0)
                set_f32(own_stats, 2 * r, 0.0)
                set_f32(own_stats, 2 * r + 1, 0.0)

    return pack_queries


def make_score_grads(spec: Spec) -> Any:
    """``score_grads``: two rows of a tile, from scores to the pattern and to d_scores.

    Keys from ``low`` to ``high`` count. Written are the pattern across, and d_scores natural and
    across.
    """
    size, numbers_per_word = spec.bytes_per_number, spec.numbers_per_word
    store_row_pair = make_store_row_pair(spec)
    store_numbers = numbers.make_store(bfloat16=spec.bfloat16)

    @lower.kernel
    def score_grads(
        scores: int, d_pattern: int, pattern: int, natural: int, across: int, r: int,
        stats: int, delta: int, low0: int, high0: int, low1: int, high1: int, scales: int,
    ) -> None:  # fmt: skip
        log_scale, scale = splat(get_f32(scales, 0)), splat(get_f32(scales, 1))
        top0, inverse0 = splat(get_f32(stats, 0)), splat(get_f32(stats, 1))
        top1, inverse1 = splat(get_f32(stats, 2)), splat(get_f32(stats, 3))
        delta0, delta1 = splat(get_f32(delta, 0)), splat(get_f32(delta, 1))
        zero = splat(0.0)
        line = r // numbers_per_word * _BLOCK_ROW
        for i in range(0, BLOCK, 16):
            at = r * BLOCK + i
            p0 = exp2(fma(load(scores, at), log_scale, zero - top0)) * inverse0
            p1 = exp2(fma(load(scores, at + BLOCK), log_scale, zero - top1)) * inverse1
            if low0 > i or high0 < i + 16 or low1 > i or high1 < i + 16:
                p0 = keep_between(p0, low0 - i, high0 - i, 0.0)
                p1 = keep_between(p1, low1 - i, high1 - i, 0.0)
            d0 = p0 * (load(d_pattern, at) - delta0) * scale
            d1 = p1 * (load(d_pattern, at + BLOCK) - delta1) * scale
            store_row_pair(pattern + line + i * 4, _BLOCK_ROW, p0, p1)
            store_row_pair(across + line + i * 4, _BLOCK_ROW, d0, d1)
            store_numbers(natural + at * size, d0)
            store_numbers(natural + (at + BLOCK) * size, d1)

    return score_grads


def make_tile_grads(isa: Isa, spec: Spec) -> Any:
    """``tile_grads(args, scratch, begin, q, k, tokens, padded, doc_starts)``: one tile's part.

    Adds to d_q of the queries from ``q`` on, and to d_k and d_v of the keys from ``k`` on.
    """
    dim, size, row_bytes = spec.head_dim, spec.bytes_per_number, spec.row_bytes
    word_row_bytes, dim_words, block_words = (
        spec.word_row_bytes,
        spec.dim_words,
        BLOCK // spec.numbers_per_word,
    )
    query_scratch, block_scratch = make_query_scratch(spec), make_block_scratch(spec)
    score, add_product = make_product(isa, spec, BLOCK), make_product(isa, spec, dim, add=True)
    score_grads = make_score_grads(spec)

    @lower.kernel
    def tile_grads(
        call: int, scratch: int, q: int, k: int, tokens: int, padded: int, doc_starts: int
    ) -> None:
        query, query_across, d_out, d_out_across, d_query, delta, stats, begin = query_scratch(
            scratch, padded
        )
        (
            key_transposed, value_transposed, key_across, _, scores, d_pattern, pattern, d_scores,
            d_scores_across, d_key, d_value,
        ) = block_scratch(begin)  # fmt: skip
        score(
            query + q * row_bytes, row_bytes, 4, key_transposed, dim_words, BLOCK, scores,
            _BLOCK_ROW,
        )  # fmt: skip
        score(
            d_out + q * row_bytes, row_bytes, 4, value_transposed, dim_words, BLOCK, d_pattern,
            _BLOCK_ROW,
        )  # fmt: skip
        for r in range(0, BLOCK, 2):
            low0 = low1 = 0
            if doc_starts:
                low0 = get_i64(doc_starts, min(q + r, tokens - 1)) - k
                low1 = get_i64(doc_starts, min(q + r + 1, tokens - 1)) - k
            score_grads(
                scores, d_pattern, pattern, d_scores, d_scores_across, r,
                stats + (q + r) * 8, delta + (q + r) * 4,
                low0, q + r + 1 - k, low1, q + r + 2 - k, get_i64(call, args.SCALES),
            )  # fmt: skip
        add_product(
            pattern, 4, _BLOCK_ROW, d_out_across + q * row_bytes, block_words, BLOCK, d_value,
            word_row_bytes,
        )  # fmt: skip
        add_product(
            d_scores_across, 4, _BLOCK_ROW, query_across + q * row_bytes, block_words, BLOCK,
            d_key, word_row_bytes,
        )  # fmt: skip
        add_product(
            d_scores, BLOCK * size, 4, key_across, block_words, BLOCK, d_query + q * word_row_bytes,
            word_row_bytes,
        )  # fmt: skip

    return tile_grads


def make_store_rows(spec: Spec) -> Any:
    """``store_rows(sums, rows, to, to_row)``: rows of sums in fp32, as numbers."""
    dim, size, word_row_bytes = spec.head_dim, spec.bytes_per_number, spec.word_row_bytes
    store_numbers = numbers.make_store(bfloat16=spec.bfloat16)

    @lower.kernel
    def store_rows(sums: int, rows: int, to: int, to_row: int) -> None:
        for r in range(rows):
            for d in range(0, dim, 16):
                store_numbers(to + r * to_row + d * size, load(sums + r * word_row_bytes, d))

    return store_rows


def make_backward(isa: Isa, spec: Spec) -> Any:
    """``backward(args, scratch, head)``: the gradient of one head's queries, keys and values."""
    word_row_bytes = spec.word_row_bytes
    head_args, pack_queries = make_head_args(spec), make_pack_queries(spec)
    query_scratch, block_scratch = make_query_scratch(spec), make_block_scratch(spec)
    pack_rows, pack_row_pairs = make_pack_rows(spec), make_pack_row_pairs(spec)
    pack_transposed = make_pack_transposed(spec)
    tile_grads, store_rows = make_tile_grads(isa, spec), make_store_rows(spec)

    @lower.kernel
    def backward(call: int, scratch: int, head: int) -> None:
        tokens, row, out_row, in_qkv, _, _, doc_starts = head_args(call, head)
        keys = get_i64(call, args.QKV) + in_qkv + out_row
        values = keys + out_row
        d_queries = get_i64(call, args.D_QKV) + in_qkv
        padded = (tokens + BLOCK - 1) // BLOCK * BLOCK
        pack_queries(call, scratch, head)
        _, _, _, _, d_query, _, _, begin = query_scratch(scratch, padded)
        (
            key_transposed, value_transposed, key_across, block, _, _, _, _, _, d_key, d_value,
        ) = block_scratch(begin)  # fmt: skip

        for k in range(0, tokens, BLOCK):
            present = min(BLOCK, tokens - k)
            pack_transposed(keys + k * row, row, present, key_transposed)
            pack_transposed(values + k * row, row, present, value_transposed)
            pack_rows(keys + k * row, row, present, BLOCK, block)
            pack_row_pairs(block, BLOCK, key_across)
            clear(d_key, BLOCK * word_row_bytes)
            clear(d_value, BLOCK * word_row_bytes)
            for q in range(k, tokens, BLOCK):
                if doc_starts and get_i64(doc_starts, q) >= k + BLOCK:
                    break  # these queries, and those after them, belong to later documents
                tile_grads(call, scratch, q, k, tokens, padded, doc_starts)
            store_rows(d_key, present, d_queries + k * row + out_row, row)
            store_rows(d_value, present, d_queries + k * row + 2 * out_row, row)
        store_rows(d_query, tokens, d_queries, row)

    return backward
