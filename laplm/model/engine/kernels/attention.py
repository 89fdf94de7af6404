"""Attention over the pages of the key/value cache: ``ops.causal_attention``.

A query block is some consecutive tokens of one sequence: each reads the keys up to its own
position. ``cache_tiles.py`` has the inner loops over a page.

What a query makes of the CHUNK positions from a multiple of CHUNK on is a partial: the largest
score, the sum of e**(score - largest), and the values weighted with these. Partials are merged in
the order of their positions (FlashAttention, Dao et al. 2022, section 3.1). While tokens are
generated, the threads share out the heads, or the chunks where the heads do not come out even
(Flash-Decoding, Dao et al. 2023); the bits are the same.
"""

from __future__ import annotations

from typing import Any

from laplm.model.engine import cache_tiles
from laplm.model.engine import kernel_args as k
from laplm.model.engine.kernels.activation import exp
from laplm.model.engine.kernels.norm import make_head_norm
from laplm.model.engine.kernels.rope import make_rotate, table_width
from laplm.model.engine.kernels.threads import claim_items
from laplm.native import lower
from laplm.native.isa import Isa
from laplm.native.simd import (
    absolute,
    fma,
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
    where_less,
)

CHUNK_PAGES = k.CHUNK // k.PAGE
TOTAL, VALUES = 16, 32  # where a partial's sum and values are; its largest score is first


@lower.inlined
def query_block(args: int, i: int) -> int:
    """The address of the ``i``-th of the pass's query blocks."""
    return get_i64(args, k.QUERY_BLOCKS) + i * k.QUERY_BLOCK_SIZE * 8


@lower.inlined
def softmax_numerators(row: int, first: int, length: int, padded: int, partial: int) -> None:
    """Scores to e**(score - largest), zero before ``first`` and from ``length`` on.

    The largest and the sum go to ``partial``.
    """
    largest = splat(-3.0e38)
    for i in range(0, padded, 16):
        largest = maximum(largest, keep_between(load(row, i), first - i, length - i, -3.0e38))
    largest = splat(max_lanes(largest))
    total = splat(0.0)
    for i in range(0, padded, 16):
        e = keep_between(exp(load(row, i) - largest), first - i, length - i, 0.0)
        store(row, i, e)
        total = total + e
    store(partial, 0, largest)
    store(partial, TOTAL, splat(sum_lanes(total)))


def make_merge(head_dim: int) -> Any:
    """``merge(partial, following)``: add the partial of the chunk that follows."""

    @lower.inlined
    def merge(partial: int, following: int) -> None:
        before, after = load(partial, 0), load(following, 0)
        store(partial, 0, maximum(before, after))
        # e**(largest - largest of both): 1 for one of them.
        factor = exp(splat(0.0) - absolute(before - after))
        x = where_less(before, after, factor, splat(1.0))
        y = where_less(before, after, splat(1.0), factor)
        for i in range(TOTAL, VALUES + head_dim, 16):
            store(partial, i, fma(load(partial, i), x, load(following, i) * y))

    return merge


def make_prepare_heads(isa: Isa, spec: k.Spec) -> Any:
    """``prepare_heads(args, layer, head, token, table, position)``: a key head and its queries.

    Queries and keys are normalised and rotated (RoPE) where the model does it, in place; key and
    value go to their page.
    """
    keys_bytes, values_bytes = k.page_part(spec.kv, spec.head_dim)
    head_dim = spec.head_dim
    store_row = cache_tiles.make_store_kv(spec.kv, head_dim)
    head_norm, rotate = make_head_norm(head_dim), make_rotate(spec.rotary_dim)
    table_bytes = table_width(spec.rotary_dim) * 4

    @lower.kernel
    def norm_and_rotate(args: int, w: int, token: int, row: int, gain: int) -> None:
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
            per_kv_head = heads // kv_heads
            for query in range(head * per_kv_head, (head + 1) * per_kv_head):
                norm_and_rotate(args, w, token, row + query * head_dim * 4, get_i64(w, k.Q_NORM))
            norm_and_rotate(args, w, token, key, get_i64(w, k.K_NORM))
        part = get_i64(table, position // k.PAGE) + (layer * kv_heads + head) * (
            keys_bytes + values_bytes
        )
        value = key + kv_heads * head_dim * 4
        store_row(key, value, part, part + keys_bytes, position % k.PAGE)

    return prepare_heads


def make_write_z(head_dim: int) -> Any:
    """``write_z(args, token, head, partial)``: a head's output to its place in Z."""

    @lower.inlined
    def write_z(args: int, token: int, head: int, partial: int) -> None:
        z = get_i64(args, k.Z) + (token * get_i64(args, k.Z_WIDTH) + head * head_dim) * 4
        inverse = splat(1.0) / load(partial, TOTAL)
        if head_dim % 16 == 0:
            for i in range(0, head_dim, 16):
                store(z, i, load(partial, VALUES + i) * inverse)
        else:
            for i in range(VALUES, VALUES + head_dim, 16):
                store(partial, i, load(partial, i) * inverse)
            for i in range(head_dim):
                set_f32(z, i, get_f32(partial, VALUES + i))

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


def make_seen_pages(spec: k.Spec) -> Any:
    """``seen_pages(…)``: the pages of a chunk that queries read."""
    first_seen = make_first_seen(spec)

    @lower.kernel
    def seen_pages(args: int, layer: int, chunk: int, first: int, last: int) -> tuple[int, int]:
        """Of queries at the positions ``first`` to ``last``, both included: (first page, count)."""
        start = max(chunk * CHUNK_PAGES, first_seen(args, layer, first) // k.PAGE)
        return start, min((chunk + 1) * CHUNK_PAGES, last // k.PAGE + 1) - start

    return seen_pages


def make_keys_offset(spec: k.Spec) -> Any:
    """``keys_offset(args, layer, kv_head)``: the offset of its keys in a page, in bytes."""
    part_bytes = sum(k.page_part(spec.kv, spec.head_dim))

    @lower.inlined
    def keys_offset(args: int, layer: int, kv_head: int) -> int:
        return (layer * get_i64(args, k.N_KV_HEAD) + kv_head) * part_bytes

    return keys_offset


def make_attend_chunk(isa: Isa, spec: k.Spec, count: int) -> Any:
    """``attend_chunk(…)``: the partials of ``count`` queries over a chunk, read once for all."""
    head_dim = spec.head_dim
    keys_bytes, _ = k.page_part(spec.kv, head_dim)
    scores_of = cache_tiles.make_scores(isa, spec.kv, count, head_dim)
    values_of = cache_tiles.make_weighted_values(isa, spec.kv, count, head_dim)
    first_seen, seen_pages = make_first_seen(spec), make_seen_pages(spec)
    stride = k.CHUNK * 4

    @lower.kernel
    def attend_chunk(
        args: int, thread: int, layer: int, table: int, position: int, token: int, head: int,
        token_step: int, head_step: int, keys: int, chunk: int, out: int, out_stride: int,
        next_table: int, next_pages: int, next_keys: int,
    ) -> None:  # fmt: skip
        """Written to ``out``; meanwhile the keys of the ``next_pages`` are prefetched."""
        scratch = get_i64(args, k.SCRATCH) + thread * get_i64(args, k.SCRATCH_STRIDE)
        scores = scratch + get_i64(args, k.SCRATCH_SCORES)
        q_width = get_i64(args, k.QKV_WIDTH) * 4
        q = get_i64(args, k.QKV) + token * q_width + head * head_dim * 4
        q_stride = token_step * q_width + head_step * head_dim * 4
        factor = get_f32(get_i64(args, k.ATTENTION_SCALES), layer)
        last = position + (count - 1) * token_step
        first, pages = seen_pages(args, layer, chunk, position, last)
        table += first * 8
        first *= k.PAGE
        scores_of(table, pages, keys, table, pages, keys + keys_bytes, q, q_stride, scores, stride,
                  factor)  # fmt: skip
        for i in range(count):
            seen = position + i * token_step
            softmax_numerators(scores + i * stride, first_seen(args, layer, seen) - first,
                               seen + 1 - first, pages * k.PAGE, out + i * out_stride)  # fmt: skip
        values_of(table, pages, keys + keys_bytes, next_table, next_pages, next_keys, scores,
                  stride, out + VALUES * 4, out_stride)  # fmt: skip

    return attend_chunk


def make_attend_queries(isa: Isa, spec: k.Spec) -> Any:
    """``attend_queries(count, …)``: ``attend_chunk`` for one to ``queries_together`` queries."""
    together = k.queries_together(spec.kv, isa.registers)
    attend_1, attend_2 = (make_attend_chunk(isa, spec, count) for count in (1, 2))
    if together > 2:
        attend_3, attend_4 = (make_attend_chunk(isa, spec, count) for count in (3, 4))

    @lower.kernel
    def attend_queries(
        count: int, args: int, thread: int, layer: int, table: int, position: int, token: int,
        head: int, token_step: int, head_step: int, keys: int, chunk: int, out: int,
        out_stride: int, next_table: int, next_pages: int, next_keys: int,
    ) -> None:  # fmt: skip
        if count == 1:
            attend_1(args, thread, layer, table, position, token, head, token_step, head_step,
                     keys, chunk, out, out_stride, next_table, next_pages, next_keys)  # fmt: skip
        elif count == 2:
            attend_2(args, thread, layer, table, position, token, head, token_step, head_step,
                     keys, chunk, out, out_stride, next_table, next_pages, next_keys)  # fmt: skip
        elif together > 2:
            if count == 3:
                attend_3(args, thread, layer, table, position, token, head, token_step, head_step,
                         keys, chunk, out, out_stride, next_table, next_pages,
                         next_keys)  # fmt: skip
            else:
                attend_4(args, thread, layer, table, position, token, head, token_step, head_step,
                         keys, chunk, out, out_stride, next_table, next_pages,
                         next_keys)  # fmt: skip

    return attend_queries


def make_attend(spec: k.Spec, attend_queries: Any) -> Any:
    """``attend(…)``: some queries that read one key head.

    Query i is token ``token + i * token_step`` and head ``head + i * head_step``, and reads the
    keys up to ``position + i * token_step``: one head of consecutive tokens, or the heads of one
    token that share a key head.
    """
    partial_bytes = k.partial_bytes(spec.head_dim)
    first_seen, seen_pages = make_first_seen(spec), make_seen_pages(spec)
    merge, write_z = make_merge(spec.head_dim), make_write_z(spec.head_dim)

    @lower.kernel
    def attend(
        args: int, thread: int, layer: int, table: int, position: int, token: int, head: int,
        count: int, token_step: int, head_step: int, keys: int, next_table: int, next_pages: int,
        next_keys: int,
    ) -> None:  # fmt: skip
        scratch = get_i64(args, k.SCRATCH) + thread * get_i64(args, k.SCRATCH_STRIDE)
        partials = scratch + get_i64(args, k.SCRATCH_PARTIALS)
        following = partials + count * partial_bytes
        end = position + (count - 1) * token_step
        first, last = first_seen(args, layer, position) // k.CHUNK, end // k.CHUNK
        for chunk in range(first, last + 1):
            ahead_table, ahead_pages, ahead_keys = next_table, next_pages, next_keys
            if chunk < last:
                page, ahead_pages = seen_pages(args, layer, chunk + 1, position, end)
                ahead_table, ahead_keys = table + page * 8, keys
            attend_queries(count, args, thread, layer, table, position, token, head, token_step,
                        head_step, keys, chunk, partials if chunk == first else following,
                        partial_bytes, ahead_table, ahead_pages, ahead_keys)  # fmt: skip
            if chunk > first:
                for i in range(count):
                    merge(partials + i * partial_bytes, following + i * partial_bytes)
        for i in range(count):
            write_z(args, token + i * token_step, head + i * head_step,
                    partials + i * partial_bytes)  # fmt: skip

    return attend


@lower.inlined
def items_per_claim(items: int, threads: int) -> int:
    """How many items of attention a thread claims at a time."""
    return max(1, min(4, items // (threads * 4)))


def make_prepare(prepare_heads: Any, barrier: Any) -> Any:
    """``prepare(args, thread, phase, layer)``: all tokens' queries, keys and values."""

    @lower.kernel
    def prepare(args: int, thread: int, phase: int, layer: int) -> int:
        # By heads: the keys of neighbouring tokens share cache lines, which two threads would
        # pull back and forth between them.
        kv_heads = get_i64(args, k.N_KV_HEAD)
        start, end = claim_items(args, phase, thread, kv_heads, 1)
        while start >= 0:
            for head in range(start, end):
                for i in range(get_i64(args, k.N_QUERY_BLOCKS)):
                    block = query_block(args, i)
                    for t in range(get_i64(block, k.COUNT)):
                        prepare_heads(args, layer, head, get_i64(block, k.FIRST) + t,
                                      get_i64(block, k.TABLE),
                                      get_i64(block, k.POSITION) + t)  # fmt: skip
            start, end = claim_items(args, phase, thread, kv_heads, 1)
        return barrier(args, thread, phase, 0, 0)

    return prepare


def make_attend_whole(isa: Isa, spec: k.Spec, prepare_heads: Any, attend_queries: Any) -> Any:
    """``attend_whole(args, thread, phase, layer)``: each block of each head by one thread.

    Single tokens' queries that share a key head are taken together, and prepared here.
    """
    attend, keys_offset = make_attend(spec, attend_queries), make_keys_offset(spec)
    first_seen, seen_pages = make_first_seen(spec), make_seen_pages(spec)
    together = k.queries_together(spec.kv, isa.registers)

    @lower.kernel
    def first_keys(args: int, layer: int, kv_head: int, block: int) -> tuple[int, int, int]:
        """Where the keys that a block reads first are: (table, count of pages, offset)."""
        position = get_i64(block, k.POSITION)
        chunk = first_seen(args, layer, position) // k.CHUNK
        page, pages = seen_pages(args, layer, chunk, position, position)
        return get_i64(block, k.TABLE) + page * 8, pages, keys_offset(args, layer, kv_head)

    @lower.kernel
    def attend_item(args: int, thread: int, layer: int, item: int, items: int) -> None:
        """One block's queries of one head, or of all heads that share a key head."""
        count, decode_only = get_i64(args, k.N_QUERY_BLOCKS), get_i64(args, k.DECODE_ONLY)
        per_kv_head = get_i64(args, k.N_HEAD) // get_i64(args, k.N_KV_HEAD)
        items_per_kv = 1 if decode_only else per_kv_head
        following = min(item + 1, items - 1)
        next_table, next_pages, next_keys = first_keys(
            args, layer, following // count // items_per_kv, query_block(args, following % count)
        )
        head, block = item // count, query_block(args, item % count)
        token, table = get_i64(block, k.FIRST), get_i64(block, k.TABLE)
        position, keys = get_i64(block, k.POSITION), keys_offset(args, layer, head // items_per_kv)
        if decode_only:
            prepare_heads(args, layer, head, token, table, position)
            for query in range(0, per_kv_head, together):
                attend(args, thread, layer, table, position, token, head * per_kv_head + query,
                       min(together, per_kv_head - query), 0, 1, keys, next_table, next_pages,
                       next_keys)  # fmt: skip
        else:
            attend(args, thread, layer, table, position, token, head, get_i64(block, k.COUNT), 1, 0,
                   keys, next_table, next_pages, next_keys)  # fmt: skip

    @lower.kernel
    def attend_whole(args: int, thread: int, phase: int, layer: int) -> None:
        heads = get_i64(args, k.N_HEAD)
        if get_i64(args, k.DECODE_ONLY):
            heads = get_i64(args, k.N_KV_HEAD)
        items = heads * get_i64(args, k.N_QUERY_BLOCKS)
        size = items_per_claim(items, get_i64(args, k.N_THREADS))
        start, end = claim_items(args, phase, thread, items, size)
        while start >= 0:
            for item in range(start, end):
                attend_item(args, thread, layer, item, items)
            start, end = claim_items(args, phase, thread, items, size)

    return attend_whole


def make_attend_split(isa: Isa, spec: k.Spec, attend_queries: Any) -> Any:
    """``attend_split(args, thread, phase, layer, split)``: partials of single tokens.

    Each of ``split`` chunks of each key head is worked out by one thread.
    """
    keys_offset, partial_bytes = make_keys_offset(spec), k.partial_bytes(spec.head_dim)
    first_seen, seen_pages = make_first_seen(spec), make_seen_pages(spec)
    together = k.queries_together(spec.kv, isa.registers)

    @lower.kernel
    def attend_split(args: int, thread: int, phase: int, layer: int, split: int) -> None:
        heads, kv_heads = get_i64(args, k.N_HEAD), get_i64(args, k.N_KV_HEAD)
        count, per_kv_head = get_i64(args, k.N_QUERY_BLOCKS), heads // kv_heads
        items = kv_heads * count * split
        start, _ = claim_items(args, phase, thread, items, 1)
        while start >= 0:
            chunk, i, head = start % split, start // split % count, start // split // count
            block = query_block(args, i)
            position, table = get_i64(block, k.POSITION), get_i64(block, k.TABLE)
            last = position // k.CHUNK
            if first_seen(args, layer, position) // k.CHUNK <= chunk and chunk <= last:
                keys = keys_offset(args, layer, head)
                page, next_pages = seen_pages(args, layer, min(chunk + 1, last), position, position)
                end = (head + 1) * per_kv_head
                for query in range(head * per_kv_head, end, together):
                    out = (i * heads + query) * split + chunk
                    attend_queries(min(together, end - query), args, thread, layer,
                                table, position, get_i64(block, k.FIRST), query, 0, 1, keys, chunk,
                                get_i64(args, k.PARTIALS) + out * partial_bytes,
                                split * partial_bytes, table + page * 8, next_pages,
                                keys)  # fmt: skip
            start, _ = claim_items(args, phase, thread, items, 1)

    return attend_split


def make_merge_split(spec: k.Spec) -> Any:
    """``merge_split(args, thread, phase, layer, split)``: the partials of ``attend_split``."""
    merge, write_z = make_merge(spec.head_dim), make_write_z(spec.head_dim)
    first_seen, partial_bytes = make_first_seen(spec), k.partial_bytes(spec.head_dim)

    @lower.kernel
    def merge_split(args: int, thread: int, phase: int, layer: int, split: int) -> None:
        heads = get_i64(args, k.N_HEAD)
        items = heads * get_i64(args, k.N_QUERY_BLOCKS)
        size = items_per_claim(items, get_i64(args, k.N_THREADS))
        start, end = claim_items(args, phase, thread, items, size)
        while start >= 0:
            for item in range(start, end):
                head, i = item % heads, item // heads
                block = query_block(args, i)
                position = get_i64(block, k.POSITION)
                partials = get_i64(args, k.PARTIALS) + item * split * partial_bytes
                first = first_seen(args, layer, position) // k.CHUNK
                into = partials + first * partial_bytes
                for chunk in range(first + 1, position // k.CHUNK + 1):
                    merge(into, partials + chunk * partial_bytes)
                write_z(args, get_i64(block, k.FIRST), head, into)
            start, end = claim_items(args, phase, thread, items, size)

    return merge_split


def make_attention(isa: Isa, spec: k.Spec, barrier: Any) -> Any:
    """``attention(args, thread, phase, layer)``: prepare queries and keys, then attend."""
    prepare_heads, attend_queries = make_prepare_heads(isa, spec), make_attend_queries(isa, spec)
    prepare = make_prepare(prepare_heads, barrier)
    attend_whole = make_attend_whole(isa, spec, prepare_heads, attend_queries)
    attend_split, merge_split = make_attend_split(isa, spec, attend_queries), make_merge_split(spec)

    @lower.kernel
    def attention(args: int, thread: int, phase: int, layer: int) -> int:
        split, decode_only = get_i64(args, k.SPLIT_CHUNKS), get_i64(args, k.DECODE_ONLY)
        if split > 0 or not decode_only:
            phase = prepare(args, thread, phase, layer)
        if split > 0:
            attend_split(args, thread, phase, layer, split)
            phase = barrier(args, thread, phase, 0, 0)
            merge_split(args, thread, phase, layer, split)
        else:
            attend_whole(args, thread, phase, layer)
        w = get_i64(args, k.LAYERS) + layer * k.LAYER_SIZE * 8
        before = w + (k.MATRICES + (get_i64(w, k.N_QKV) - 1) * k.MATRIX_SIZE) * 8
        return barrier(args, thread, phase, get_i64(before, k.NEXT_WEIGHTS),
                       get_i64(before, k.NEXT_BYTES))  # fmt: skip

    return attention
