"""Attention over the pages of the key/value cache, a head and some queries at a time.

A query block is some consecutive tokens of one sequence: each reads the keys up to its own
position. ``tiles.py`` has the inner loops over a page.
"""

from __future__ import annotations

from typing import Any

from laplm.model.engine import kernel_args as k
from laplm.model.engine import tiles
from laplm.model.engine.kernels.activation import exp
from laplm.model.engine.kernels.threads import claim_chunk
from laplm.native import lower
from laplm.native.isa import Isa
from laplm.native.simd import (
    get_f32,
    get_i64,
    keep_between,
    load,
    max_lanes,
    maximum,
    set_f32,
    splat,
    store,
    sum_lanes,
)


@lower.inlined
def softmax_numerators(row: int, length: int, padded: int) -> float:
    """Scores to e**(score - largest), zero from ``length`` on; returns their sum."""
    largest = splat(-3.0e38)
    for i in range(0, padded, 16):
        largest = maximum(largest, keep_between(load(row, i), 0, length - i, -3.0e38))
    largest = splat(max_lanes(largest))
    total = splat(0.0)
    for i in range(0, padded, 16):
        e = keep_between(exp(load(row, i) - largest), 0, length - i, 0.0)
        store(row, i, e)
        total = total + e
    return sum_lanes(total)


def make_store_kv(isa: Isa, spec: k.Spec) -> Any:
    """``store_kv(args, layer, head, token, table, position)``: one head's key and value."""
    keys_bytes, values_bytes = k.page_part(spec.kv, spec.head_dim)
    head_dim = spec.head_dim
    store_row = tiles.make_store_kv(isa, spec.kv, head_dim)

    @lower.kernel
    def store_kv(args: int, layer: int, head: int, token: int, table: int, position: int) -> None:
        c = get_i64(args, k.N_EMBD)
        qkv = get_i64(args, k.QKV) + (token * get_i64(args, k.QKV_WIDTH) + head * head_dim) * 4
        part = get_i64(table, position // k.PAGE) + (layer * get_i64(args, k.N_HEAD) + head) * (
            keys_bytes + values_bytes
        )
        store_row(qkv + c * 4, qkv + 2 * c * 4, part, part + keys_bytes, position % k.PAGE)

    return store_kv


def make_write_z(head_dim: int) -> Any:
    """``write_z(args, token, head, total, attn_out)``: a head's output to its place in Z."""
    padded_dim = -(-head_dim // 16) * 16

    @lower.inlined
    def write_z(args: int, token: int, head: int, total: float, attn_out: int) -> None:
        """Divided by ``total``, the softmax's denominator."""
        z = get_i64(args, k.Z) + (token * get_i64(args, k.WIDTH) + head * head_dim) * 4
        inverse = splat(1.0) / splat(total)
        if head_dim % 16 == 0:
            for i in range(0, head_dim, 16):
                store(z, i, load(attn_out, i) * inverse)
        else:
            for i in range(0, padded_dim, 16):
                store(attn_out, i, load(attn_out, i) * inverse)
            for i in range(head_dim):
                set_f32(z, i, get_f32(attn_out, i))

    return write_z


def make_attend_block(isa: Isa, spec: k.Spec) -> Any:
    """``attend_block(args, thread, layer, head, block)``: a query block's attention."""
    head_dim = spec.head_dim
    row_bytes = -(-head_dim // 16) * 64
    keys_bytes, values_bytes = k.page_part(spec.kv, head_dim)
    together = k.queries_together(isa.registers)
    scores_many = tiles.make_scores(isa, spec.kv, together, head_dim)
    scores_one = tiles.make_scores(isa, spec.kv, 1, head_dim)
    values_many = tiles.make_weighted_values(spec.kv, together, head_dim)
    values_one = tiles.make_weighted_values(spec.kv, 1, head_dim)
    write_z = make_write_z(head_dim)

    @lower.kernel
    def attend_block(args: int, thread: int, layer: int, head: int, block: int) -> None:
        first, count = get_i64(block, k.FIRST), get_i64(block, k.COUNT)
        table, position = get_i64(block, k.TABLE), get_i64(block, k.POSITION)
        scratch = get_i64(args, k.SCRATCH) + thread * get_i64(args, k.SCRATCH_STRIDE)
        scores = scratch + get_i64(args, k.SCRATCH_SCORES)
        attn_out = scratch + get_i64(args, k.SCRATCH_ATTN_OUT)
        s_stride = get_i64(args, k.SCORES_WIDTH) * 4
        q_stride = get_i64(args, k.QKV_WIDTH) * 4
        q = get_i64(args, k.QKV) + first * q_stride + head * head_dim * 4
        keys = (layer * get_i64(args, k.N_HEAD) + head) * (keys_bytes + values_bytes)
        factor = get_f32(get_i64(args, k.ATTENTION_SCALES), layer)
        if count == together:
            pages = (position + count - 1) // k.PAGE + 1
            scores_many(table, pages, keys, q, q_stride, scores, s_stride, factor)
            for t in range(count):
                row = scores + t * s_stride
                total = softmax_numerators(row, position + t + 1, pages * k.PAGE)
                set_f32(scratch + get_i64(args, k.SCRATCH_ROW), t, total)
            values_many(table, pages, keys + keys_bytes, scores, s_stride, attn_out, row_bytes)
            for t in range(count):
                total = get_f32(scratch + get_i64(args, k.SCRATCH_ROW), t)
                write_z(args, first + t, head, total, attn_out + t * row_bytes)
        else:
            for t in range(count):
                pages = (position + t) // k.PAGE + 1
                scores_one(table, pages, keys, q + t * q_stride, q_stride, scores,
                           s_stride, factor)  # fmt: skip
                total = softmax_numerators(scores, position + t + 1, pages * k.PAGE)
                values_one(table, pages, keys + keys_bytes, scores, s_stride, attn_out, row_bytes)
                write_z(args, first + t, head, total, attn_out)

    return attend_block


def make_attention(isa: Isa, spec: k.Spec, barrier: Any) -> Any:
    """``attention(args, thread, phase, layer)``: store keys and values, then attend."""
    store_kv, attend_block = make_store_kv(isa, spec), make_attend_block(isa, spec)

    @lower.kernel
    def attention(args: int, thread: int, phase: int, layer: int) -> int:
        blocks, count = get_i64(args, k.QUERY_BLOCKS), get_i64(args, k.N_QUERY_BLOCKS)
        heads, decode_only = get_i64(args, k.N_HEAD), get_i64(args, k.DECODE_ONLY)
        if not decode_only:
            # By heads: the keys of neighbouring tokens share cache lines, which two threads would
            # pull back and forth between them.
            start, end = claim_chunk(args, phase, thread, heads, 1)
            while start >= 0:
                for head in range(start, end):
                    for i in range(count):
                        block = blocks + i * k.QUERY_BLOCK_SIZE * 8
                        for t in range(get_i64(block, k.COUNT)):
                            store_kv(args, layer, head, get_i64(block, k.FIRST) + t,
                                     get_i64(block, k.TABLE),
                                     get_i64(block, k.POSITION) + t)  # fmt: skip
                start, end = claim_chunk(args, phase, thread, heads, 1)
            phase = barrier(args, phase)
        size = max(1, min(4, heads * count // (get_i64(args, k.N_THREADS) * 4)))
        start, end = claim_chunk(args, phase, thread, heads * count, size)
        while start >= 0:
            for item in range(start, end):
                head, i = item // count, item % count
                block = blocks + i * k.QUERY_BLOCK_SIZE * 8
                if decode_only:
                    store_kv(args, layer, head, get_i64(block, k.FIRST), get_i64(block, k.TABLE),
                             get_i64(block, k.POSITION))  # fmt: skip
                attend_block(args, thread, layer, head, block)
            start, end = claim_chunk(args, phase, thread, heads * count, size)
        return barrier(args, phase)

    return attention
