"""Attention over the pages of the key/value cache: ``ops.causal_attention``.

A query block is some consecutive tokens of one sequence: each reads the keys up to its own
position. ``cache_tiles.py`` has the inner loops over a page.
"""

from __future__ import annotations

from typing import Any

from laplm.model.engine import cache_tiles
from laplm.model.engine import kernel_args as k
from laplm.model.engine.kernels.activation import exp
from laplm.model.engine.kernels.norm import make_head_norm
from laplm.model.engine.kernels.rope import make_rotate, table_width
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
    prefetch,
    set_f32,
    splat,
    store,
    sum_lanes,
)


@lower.inlined
def softmax_numerators(row: int, first: int, length: int, padded: int) -> float:
    """Scores to e**(score - largest), zero before ``first`` and from ``length`` on; their sum."""
    largest = splat(-3.0e38)
    for i in range(0, padded, 16):
        largest = maximum(largest, keep_between(load(row, i), first - i, length - i, -3.0e38))
    largest = splat(max_lanes(largest))
    total = splat(0.0)
    for i in range(0, padded, 16):
        e = keep_between(exp(load(row, i) - largest), first - i, length - i, 0.0)
        store(row, i, e)
        total = total + e
    return sum_lanes(total)


def make_prepare_heads(isa: Isa, spec: k.Spec) -> Any:
    """``prepare_heads(args, layer, head, token, table, position)``: a key head and its queries.

    Queries and keys are normalised and turned where the model does it, in place; key and value go
    to their page.
    """
    keys_bytes, values_bytes = k.page_part(spec.kv, spec.head_dim)
    head_dim = spec.head_dim
    store_row = cache_tiles.make_store_kv(spec.kv, head_dim)
    head_norm, rotate = make_head_norm(head_dim), make_rotate(spec.rotary_dim)
    table_bytes = table_width(spec.rotary_dim) * 4

    @lower.kernel
    def turn(args: int, w: int, token: int, row: int, gain: int) -> None:
        """One head of one token."""
        if spec.qk_norm:
            head_norm(args, row, gain)
        if spec.rotary_dim > 0:
            table = get_i64(w, k.ROPE)
            if table != 0:
                rotate(row, table + token * table_bytes)

    @lower.kernel
    def prepare_heads(
        args: int, layer: int, head: int, token: int, table: int, position: int
    ) -> None:
        heads, kv_heads = get_i64(args, k.N_HEAD), get_i64(args, k.N_KV_HEAD)
        w = get_i64(args, k.LAYERS) + layer * k.LAYER_SIZE * 8
        row = get_i64(args, k.QKV) + token * get_i64(args, k.QKV_WIDTH) * 4
        key = row + (heads + head) * head_dim * 4
        if spec.qk_norm or spec.rotary_dim > 0:
            shared = heads // kv_heads
            for query in range(head * shared, (head + 1) * shared):
                turn(args, w, token, row + query * head_dim * 4, get_i64(w, k.Q_NORM))
            turn(args, w, token, key, get_i64(w, k.K_NORM))
        part = get_i64(table, position // k.PAGE) + (layer * kv_heads + head) * (
            keys_bytes + values_bytes
        )
        value = key + kv_heads * head_dim * 4
        store_row(key, value, part, part + keys_bytes, position % k.PAGE)

    return prepare_heads


def make_write_z(head_dim: int) -> Any:
    """``write_z(args, token, head, total, attn_out)``: a head's output to its place in Z."""
    padded_dim = -(-head_dim // 16) * 16

    @lower.inlined
    def write_z(args: int, token: int, head: int, total: float, attn_out: int) -> None:
        """Divided by ``total``, the softmax's denominator."""
        z = get_i64(args, k.Z) + (token * get_i64(args, k.Z_WIDTH) + head * head_dim) * 4
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


def make_first_seen(spec: k.Spec) -> Any:
    """``first_seen(args, layer, position)``: the first position that a query there reads."""
    windowed = spec.windowed

    @lower.inlined
    def first_seen(args: int, layer: int, position: int) -> int:
        if windowed:
            w = get_i64(args, k.LAYERS) + layer * k.LAYER_SIZE * 8
            window = get_i64(w, k.WINDOW)
            return max(0, position + 1 - window) if window > 0 else 0
        return 0

    return first_seen


def make_prefetch_pages(spec: k.Spec) -> Any:
    """``prefetch_pages(args, layer, head, table, position)``: for one query at ``position``.

    A key head's first pages, which no earlier page's turn has asked for.
    """
    first_seen = make_first_seen(spec)
    part_bytes = sum(k.page_part(spec.kv, spec.head_dim))

    @lower.kernel
    def prefetch_pages(args: int, layer: int, head: int, table: int, position: int) -> None:
        part = (layer * get_i64(args, k.N_KV_HEAD) + head) * part_bytes
        first = first_seen(args, layer, position) // k.PAGE
        last = min(position // k.PAGE + 1, first + cache_tiles.PREFETCH_PAGES)
        for page in range(first, last):
            at = get_i64(table, page) + part
            for line in range(0, part_bytes, 64):
                prefetch(at + line)

    return prefetch_pages


def make_attend_together(isa: Isa, spec: k.Spec, count: int) -> Any:
    """``attend_together(…)``: ``attend`` for just ``count`` queries, which read a page at once."""
    head_dim = spec.head_dim
    row_bytes = -(-head_dim // 16) * 64
    keys_bytes, values_bytes = k.page_part(spec.kv, head_dim)
    scores_of = cache_tiles.make_scores(isa, spec.kv, count, head_dim)
    values_of = cache_tiles.make_weighted_values(isa, spec.kv, count, head_dim)
    write_z, first_seen = make_write_z(head_dim), make_first_seen(spec)

    @lower.kernel
    def attend_together(
        args: int, thread: int, layer: int, table: int, position: int, token: int, head: int,
        token_step: int, head_step: int,
    ) -> None:  # fmt: skip
        scratch = get_i64(args, k.SCRATCH) + thread * get_i64(args, k.SCRATCH_STRIDE)
        scores = scratch + get_i64(args, k.SCRATCH_SCORES)
        attn_out = scratch + get_i64(args, k.SCRATCH_ATTN_OUT)
        totals = scratch + get_i64(args, k.SCRATCH_ROW)
        s_stride = get_i64(args, k.SCORES_WIDTH) * 4
        q_width = get_i64(args, k.QKV_WIDTH) * 4
        q = get_i64(args, k.QKV) + token * q_width + head * head_dim * 4
        q_stride = token_step * q_width + head_step * head_dim * 4
        heads, kv_heads = get_i64(args, k.N_HEAD), get_i64(args, k.N_KV_HEAD)
        keys = (layer * kv_heads + head // (heads // kv_heads)) * (keys_bytes + values_bytes)
        factor = get_f32(get_i64(args, k.ATTENTION_SCALES), layer)
        start = first_seen(args, layer, position) // k.PAGE
        pages = (position + (count - 1) * token_step) // k.PAGE + 1 - start
        scores_of(table + start * 8, pages, keys, q, q_stride, scores, s_stride, factor)
        for i in range(count):
            seen = position + i * token_step
            total = softmax_numerators(
                scores + i * s_stride, first_seen(args, layer, seen) - start * k.PAGE,
                seen + 1 - start * k.PAGE, pages * k.PAGE,
            )  # fmt: skip
            set_f32(totals, i, total)
        values_of(table + start * 8, pages, keys + keys_bytes, scores, s_stride, attn_out,
                  row_bytes)  # fmt: skip
        for i in range(count):
            write_z(args, token + i * token_step, head + i * head_step, get_f32(totals, i),
                    attn_out + i * row_bytes)  # fmt: skip

    return attend_together


def make_attend(isa: Isa, spec: k.Spec) -> Any:
    """``attend(…)``: some queries that read one key head.

    Query i is token ``token + i * token_step`` and head ``head + i * head_step``, and reads the
    keys up to ``position + i * token_step``: one head of consecutive tokens, or the heads of one
    token that share a key head.
    """
    most = k.queries_together(spec.kv, isa.registers)
    attend_1, attend_2 = (make_attend_together(isa, spec, count) for count in (1, 2))
    attend_3, attend_4 = (make_attend_together(isa, spec, min(count, most)) for count in (3, 4))

    @lower.kernel
    def attend(
        args: int, thread: int, layer: int, table: int, position: int, token: int, head: int,
        count: int, token_step: int, head_step: int,
    ) -> None:  # fmt: skip
        if count == 1:
            attend_1(args, thread, layer, table, position, token, head, token_step, head_step)
        elif count == 2:
            attend_2(args, thread, layer, table, position, token, head, token_step, head_step)
        elif most > 2:
            if count == 3:
                attend_3(args, thread, layer, table, position, token, head, token_step, head_step)
            else:
                attend_4(args, thread, layer, table, position, token, head, token_step, head_step)

    return attend


def make_attention(isa: Isa, spec: k.Spec, barrier: Any) -> Any:
    """``attention(args, thread, phase, layer)``: prepare queries and keys, then attend."""
    prepare_heads, attend = make_prepare_heads(isa, spec), make_attend(isa, spec)
    prefetch_pages = make_prefetch_pages(spec)
    together = k.queries_together(spec.kv, isa.registers)

    @lower.kernel
    def prepare(args: int, thread: int, phase: int, layer: int) -> int:
        """All tokens' queries, keys and values."""
        # By heads: the keys of neighbouring tokens share cache lines, which two threads would
        # pull back and forth between them.
        kv_heads = get_i64(args, k.N_KV_HEAD)
        start, end = claim_chunk(args, phase, thread, kv_heads, 1)
        while start >= 0:
            for head in range(start, end):
                for i in range(get_i64(args, k.N_QUERY_BLOCKS)):
                    block = get_i64(args, k.QUERY_BLOCKS) + i * k.QUERY_BLOCK_SIZE * 8
                    for t in range(get_i64(block, k.COUNT)):
                        prepare_heads(args, layer, head, get_i64(block, k.FIRST) + t,
                                      get_i64(block, k.TABLE),
                                      get_i64(block, k.POSITION) + t)  # fmt: skip
            start, end = claim_chunk(args, phase, thread, kv_heads, 1)
        return barrier(args, thread, phase, 0, 0)

    @lower.kernel
    def attend_heads(args: int, thread: int, layer: int, head: int, block: int) -> None:
        """The one token of a block: all heads that share a key head."""
        shared = get_i64(args, k.N_HEAD) // get_i64(args, k.N_KV_HEAD)
        token, table = get_i64(block, k.FIRST), get_i64(block, k.TABLE)
        position = get_i64(block, k.POSITION)
        prefetch_pages(args, layer, head, table, position)
        prepare_heads(args, layer, head, token, table, position)
        for query in range(0, shared, together):
            attend(args, thread, layer, table, position, token, head * shared + query,
                   min(together, shared - query), 0, 1)  # fmt: skip

    @lower.kernel
    def attention(args: int, thread: int, phase: int, layer: int) -> int:
        blocks, count = get_i64(args, k.QUERY_BLOCKS), get_i64(args, k.N_QUERY_BLOCKS)
        heads, decode_only = get_i64(args, k.N_HEAD), get_i64(args, k.DECODE_ONLY)
        if decode_only:
            heads = get_i64(args, k.N_KV_HEAD)
        else:
            phase = prepare(args, thread, phase, layer)
        size = max(1, min(4, heads * count // (get_i64(args, k.N_THREADS) * 4)))
        start, end = claim_chunk(args, phase, thread, heads * count, size)
        while start >= 0:
            for item in range(start, end):
                head, i = item // count, item % count
                block = blocks + i * k.QUERY_BLOCK_SIZE * 8
                if decode_only:
                    attend_heads(args, thread, layer, head, block)
                else:
                    attend(args, thread, layer, get_i64(block, k.TABLE),
                           get_i64(block, k.POSITION), get_i64(block, k.FIRST), head,
                           get_i64(block, k.COUNT), 1, 0)  # fmt: skip
            start, end = claim_chunk(args, phase, thread, heads * count, size)
        w = get_i64(args, k.LAYERS) + layer * k.LAYER_SIZE * 8
        before = w + (k.MATRICES + (get_i64(w, k.N_QKV) - 1) * k.MATRIX_SIZE) * 8
        return barrier(args, thread, phase, get_i64(before, k.NEXT_WEIGHTS),
                       get_i64(before, k.NEXT_BYTES))  # fmt: skip

    return attention
