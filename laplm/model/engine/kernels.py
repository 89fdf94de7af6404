"""The whole forward pass as one compiled function that a team of threads runs together.

Every thread calls ``share(plan, me)``. A plan is an array of 64-bit integers (addresses and sizes,
``plan.py`` says where) that ``model.py`` fills in. The work of a phase is cut into pieces; threads
take them from counters, their own range first, then what is left of the others'. A spin barrier
ends each phase. Nothing here allocates, and no result depends on which thread does a piece.

``lower.py`` compiles the functions below from this source; ``tiles.py`` gives the inner loops.
"""

from __future__ import annotations

from typing import Any

from laplm.model.engine import tiles
from laplm.model.engine.kernel_args import (
    ACT,
    ACT_SCALE,
    ACT_SUM,
    ACTIVATION,
    ADD,
    AHEAD,
    ALONE,
    ATTENTION_SCALES,
    ATTN_BIAS,
    ATTN_SCALE,
    ATTN_W,
    BARRIER,
    BARRIER_START,
    COUNT,
    COUNTERS,
    EPSILON,
    FC_BIAS,
    FC_SCALE,
    FC_W,
    FEW,
    FIRST,
    GELU_CLIPPED,
    GELU_ERF,
    GELU_TANH,
    GROUP,
    GROUP_SIZE,
    GROUPS,
    HARDSWISH,
    HEAD_BIAS,
    HEAD_ROWS,
    HEAD_SCALE,
    HEAD_W,
    INNER,
    INNER_WIDTH,
    LAPLACE,
    LAYER_SIZE,
    LAYERS,
    LEAKY_RELU,
    LN_1_GAIN,
    LN_1_SHIFT,
    LN_2_GAIN,
    LN_2_SHIFT,
    LN_F_GAIN,
    LN_F_SHIFT,
    LOGITS,
    MISH,
    N_EMBD,
    N_GROUPS,
    N_HEAD,
    N_INNER,
    N_LAYER,
    N_THREADS,
    N_TOKENS,
    N_WANTED,
    NO_ACTIVATION,
    OUT_BIAS,
    OUT_SCALE,
    OUT_W,
    OUT_WIDTH,
    OWN,
    OWN_ACT,
    OWN_ACT_SCALE,
    OWN_ACT_SUM,
    OWN_MIX,
    OWN_ROW,
    OWN_SCORES,
    OWN_STRIDE,
    PAGE,
    POSITION,
    PROJ_BIAS,
    PROJ_SCALE,
    PROJ_W,
    QKV,
    QKV_WIDTH,
    QUICK_GELU,
    RELU6,
    RELU_SQUARED,
    SCORES_WIDTH,
    SIGMOID,
    SILU,
    STORE,
    TABLE,
    TANH,
    TILE,
    WANTED,
    WIDTH,
    Spec,
    X,
    Z,
    attend_together,
    page_part,
)  # fmt: skip
from laplm.native import lower, simd
from laplm.native.isa import Isa
from laplm.native.threads import (
    CURRENT_PLAN,
    GENERATION,
    LEAD,
    LOG_SUM_EXP,
    PARKED,
    RUNNING,
    SHARE,
    SPINS_BEFORE_PARKING,
    SPINS_BEFORE_YIELD,
    STATES,
)  # fmt: skip


def build(isa: Isa, spec: Spec) -> Any:
    """The function to compile: ``engine(what, a, b, c)``, all int64; ``what`` is one of four.

    ``SHARE`` (a plan, b thread): one thread's part of one forward pass;
    ``LEAD`` (a control, b plan): announce a plan to the team and run it;
    ``FOLLOW`` (a control, b thread, c generation): what every other thread of a team runs;
    ``LOG_SUM_EXP`` (a logits, b count, c address of two floats): see ``GPT.log_normaliser``.
    """
    padded_dim = -(-spec.head_dim // 16) * 16
    head_dim = spec.head_dim
    keys_bytes, values_bytes = page_part(spec.kv, head_dim)
    together = attend_together(isa.registers)
    is_fp32 = spec.precision == "fp32"
    act_bytes = 4 if is_fp32 else 1
    bytes_a_weight = {"fp32": 4, "int8": 1, "int4": 0.5}
    weight_bytes, head_bytes = bytes_a_weight[spec.precision], bytes_a_weight[spec.head]

    inlined, compiled = lower.inlined, lower.kernel

    get, get_f32, set_f32 = simd.get_i64, simd.get_f32, simd.set_f32
    load, store = simd.load, simd.store
    fma, splat, keep_between = simd.fma, simd.splat, simd.keep_between
    sum_lanes, max_lanes, maximum, minimum = (
        simd.sum_lanes, simd.max_lanes, simd.maximum, simd.minimum,
    )  # fmt: skip
    round_even, two_to_the, absolute = simd.round_even, simd.two_to_the, simd.absolute
    copy_sign, inverse_root = simd.copy_sign, simd.inverse_root
    atomic_add, atomic_get, atomic_set = simd.atomic_add, simd.atomic_get, simd.atomic_set
    atomic_swap_if = simd.atomic_swap_if
    pause, give_way, prefetch = simd.make_pause(isa), simd.give_way, simd.prefetch
    scores_many = tiles.make_scores(isa, spec.kv, together, head_dim)
    scores_one = tiles.make_scores(isa, spec.kv, 1, head_dim)
    mix_many = tiles.make_mix(spec.kv, together, head_dim)
    mix_one = tiles.make_mix(spec.kv, 1, head_dim)
    keep = tiles.make_keep(isa, spec.kv, head_dim)
    quantise = tiles.make_quantise()

    # --- the team ---

    @compiled
    def wait_for_all(plan: int, phase: int) -> int:
        """Spin until every thread has ended phase ``phase``; give way when that takes long."""
        counter = get(plan, BARRIER)
        target = get(plan, BARRIER_START) + (phase + 1) * get(plan, N_THREADS)
        atomic_add(counter, 1)
        spins = 0
        while atomic_get(counter) < target:
            pause()
            spins += 1
            if spins == SPINS_BEFORE_YIELD:
                give_way()
                spins = 0
        return phase + 1

    @compiled
    def take(plan: int, phase: int, me: int, count: int, size: int) -> tuple[int, int]:
        """The next piece of ``range(count)``, ``size`` long or less: (start, end), or (-1, -1)."""
        threads = get(plan, N_THREADS)
        pieces = (count + size - 1) // size
        for step in range(threads):
            whose = me + step
            if whose >= threads:
                whose -= threads
            first, last = pieces * whose // threads, pieces * (whose + 1) // threads
            counter = get(plan, COUNTERS) + (phase * threads + whose) * 64
            if first + atomic_get(counter) < last:
                piece = first + atomic_add(counter, 1)
                if piece < last:
                    return piece * size, min((piece + 1) * size, count)
        return -1, -1

    @compiled
    def look_ahead(plan: int, me: int, weights: int, size: int) -> None:
        """Fetch the start of this thread's part of the next weights while others finish."""
        start = weights + size // get(plan, N_THREADS) * me
        for line in range(0, min(AHEAD, size), 64):
            prefetch(start + line)

    # --- element by element ---

    @inlined
    def exp(x: Any) -> Any:
        """e**x by Cody-Waite reduction and the Cephes polynomial, to 2 units of the last place."""
        x = minimum(maximum(x, splat(-87.3)), splat(88.0))
        n = round_even(x * splat(1.44269504))
        r = fma(n, splat(-0.693359375), x)
        r = fma(n, splat(2.12194440e-4), r)
        p = fma(splat(1.9875691500e-4), r, splat(1.3981999507e-3))
        p = fma(p, r, splat(8.3334519073e-3))
        p = fma(p, r, splat(4.1665795894e-2))
        p = fma(p, r, splat(1.6666665459e-1))
        p = fma(p, r, splat(5.0000001201e-1))
        return two_to_the(n, fma(p, r * r, r) + splat(1.0))

    @inlined
    def sigmoid_times(x: Any, u: Any) -> Any:
        """Gate ``x`` by the sigmoid of ``u``."""
        return x / (splat(1.0) + exp(splat(0.0) - u))

    @inlined
    def erf(x: Any) -> Any:
        """The error function of x / sqrt(2), by Abramowitz and Stegun 7.1.26."""
        s = absolute(x) * splat(0.7071067811865476)
        t = splat(1.0) / fma(s, splat(0.3275911), splat(1.0))
        p = fma(t, splat(1.061405429), splat(-1.453152027))
        p = fma(p, t, splat(1.421413741))
        p = fma(p, t, splat(-0.284496736))
        p = fma(p, t, splat(0.254829592)) * t
        tail = p * exp(splat(0.0) - s * s)
        return copy_sign(splat(1.0) - tail, x)

    @compiled
    def activate(kind: int, base: int, index: int) -> None:
        """Apply the feed-forward's non-linearity to sixteen numbers in place."""
        x = load(base, index)
        y = maximum(x, splat(0.0))  # RELU, and what begins with it
        if kind == GELU_TANH:  # 0.5 * (1 + tanh(u)) = 1 / (1 + e**(-2u))
            u = fma(x * x * x, splat(0.044715), x) * splat(1.5957691216057308)
            y = sigmoid_times(x, u)
        elif kind == GELU_ERF:
            y = splat(0.5) * x * (splat(1.0) + erf(x))
        elif kind == GELU_CLIPPED:  # it is nowhere below -10
            y = minimum(splat(0.5) * x * (splat(1.0) + erf(x)), splat(10.0))
        elif kind == SILU:
            y = sigmoid_times(x, x)
        elif kind == QUICK_GELU:
            y = sigmoid_times(x, x * splat(1.702))
        elif kind == RELU_SQUARED:
            y = y * y
        elif kind == RELU6:
            y = minimum(y, splat(6.0))
        elif kind == LEAKY_RELU:
            y = maximum(x, x * splat(0.01))
        elif kind == HARDSWISH:
            y = x * minimum(maximum(x + splat(3.0), splat(0.0)), splat(6.0)) / splat(6.0)
        elif kind == TANH:
            y = sigmoid_times(splat(2.0), x + x) - splat(1.0)
        elif kind == MISH:  # tanh(log(1 + e**x)) without a logarithm
            e = exp(minimum(x, splat(20.0)))
            e = e * (e + splat(2.0))
            y = x * (e / (e + splat(2.0)))
        elif kind == SIGMOID:
            y = sigmoid_times(splat(1.0), x)
        elif kind == LAPLACE:
            y = splat(0.5) * (splat(1.0) + erf((x - splat(0.707107)) / splat(0.282095)))
        store(base, index, y)

    @compiled
    def layer_norm(plan: int, row: int, gain: int, shift: int, out: int) -> None:
        """One token: (C,) floats to (C,) floats; the padding stays zero."""
        c, width, n = get(plan, N_EMBD), get(plan, WIDTH), splat(get(plan, N_EMBD))
        total = splat(0.0)
        for i in range(0, width, 16):
            total = total + load(row, i)
        mean = splat(sum_lanes(total)) / n
        total = splat(0.0)
        for i in range(0, width, 16):
            centred = keep_between(load(row, i) - mean, 0, c - i, 0.0)
            total = fma(centred, centred, total)
        variance = splat(sum_lanes(total)) / n
        inverse = inverse_root(variance + splat(get_f32(get(plan, EPSILON), 0)))
        for i in range(0, width, 16):
            store(out, i, fma((load(row, i) - mean) * inverse, load(gain, i), load(shift, i)))

    @inlined
    def softmax_part(row: int, length: int, padded: int) -> float:
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

    # --- inputs of linear layers ---

    @compiled
    def to_bytes(row: int, groups: int, act: int, scale: int, total: int) -> None:
        for g in range(groups):
            quantise(row + g * GROUP * 4, act + g * GROUP, scale + g * 4, total + g * 4)

    @compiled
    def prepare_row(
        plan: int, me: int, t: int, row: int, norm: int, gain: int, shift: int,
        inputs: int, act: int, scale: int, total: int,
    ) -> None:  # fmt: skip
        """Token ``t``'s input of a linear layer: layer norm if asked for, then bytes."""
        groups = (inputs + GROUP - 1) // GROUP
        act += t * groups * GROUP * act_bytes
        if norm:
            normed = get(plan, OWN) + me * get(plan, OWN_STRIDE) + get(plan, OWN_ROW)
            if is_fp32:
                normed = act
            layer_norm(plan, row, gain, shift, normed)
            row = normed
        if not is_fp32:
            to_bytes(row, groups, act, scale + t * groups * 4, total + t * groups * 4)

    @compiled
    def act_of(plan: int, me: int, tokens: int) -> tuple[int, int, int]:
        """Where inputs of linear layers are put: (values, scales, sums)."""
        if tokens <= FEW:
            own = get(plan, OWN) + me * get(plan, OWN_STRIDE)
            return (
                own + get(plan, OWN_ACT),
                own + get(plan, OWN_ACT_SCALE),
                own + get(plan, OWN_ACT_SUM),
            )
        return get(plan, ACT), get(plan, ACT_SCALE), get(plan, ACT_SUM)

    @compiled
    def prepare(
        plan: int, me: int, phase: int, tokens: int, rows: int, row_width: int, norm: int,
        gain: int, shift: int, inputs: int, index: int,
    ) -> int:  # fmt: skip
        """Inputs of a linear layer for all tokens; ``index`` picks rows when it is not 0."""
        act, scale, total = act_of(plan, me, tokens)
        if tokens <= FEW:
            for t in range(tokens):
                which = get(index, t) if index else t
                row = rows + which * row_width * 4
                prepare_row(plan, me, t, row, norm, gain, shift, inputs, act, scale, total)
            return phase
        start, end = take(plan, phase, me, tokens, 4)
        while start >= 0:
            for t in range(start, end):
                which = get(index, t) if index else t
                row = rows + which * row_width * 4
                prepare_row(plan, me, t, row, norm, gain, shift, inputs, act, scale, total)
            start, end = take(plan, phase, me, tokens, 4)
        return wait_for_all(plan, phase)

    # --- linear layers ---

    def make_linear(precision: str) -> Any:
        tile_input = int(TILE * bytes_a_weight[precision])
        scale_group = 32 if precision == "int4" else 0
        together = tiles.rows_together(isa, precision)
        # Several tokens multiply for longer than one tile takes to come from memory: the first of
        # them ask for the next. One token only waits for memory, which is asked already.
        most = tiles.tokens_together(isa, precision)
        first_most, tile_x2 = (
            tiles.make_tile(isa, precision, together, t, ahead=1) for t in (most, 2)
        )
        # Many take so long that memory would idle for most of it: the first calls share the asking.
        sharing = 3
        share_most = tiles.make_tile(isa, precision, together, most, ahead=sharing)
        tile_most, tile_x1 = (tiles.make_tile(isa, precision, together, t) for t in (most, 1))
        tile_1x1 = tiles.make_tile(isa, precision, 1, 1)

        @compiled
        def linear(
            w: int, scale: int, bias: int, inputs: int, x: int, x_stride: int,
            x_scale: int, x_sum: int, start: int, end: int, tokens: int, out: int,
            out_stride: int, how: int,
        ) -> None:  # fmt: skip
            """Tiles ``start`` to ``end`` of a linear layer's rows, for all tokens."""
            groups = (inputs + GROUP - 1) // GROUP
            g_stride = groups * 4
            w_stride = groups * GROUP * tile_input
            s_stride = groups * scale_group if scale_group else 64
            tile = start
            while tile < end:
                wt, st, bt, ot = (
                    w + tile * w_stride, scale + tile * s_stride, bias + tile * 64, out + tile * 64,
                )  # fmt: skip
                t = 0
                if tile + together <= end:
                    if tokens >= sharing * most:
                        for part in range(sharing):
                            share_most(wt, w_stride, st, s_stride, x + t * x_stride, x_stride,
                                       x_scale + t * g_stride, x_sum + t * g_stride, g_stride,
                                       groups, ot + t * out_stride, out_stride, bt, how,
                                       part)  # fmt: skip
                            t += most
                    elif tokens >= most:
                        first_most(wt, w_stride, st, s_stride, x, x_stride, x_scale, x_sum,
                                   g_stride, groups, ot, out_stride, bt, how, 0)  # fmt: skip
                        t = most
                    while t + most <= tokens:
                        tile_most(wt, w_stride, st, s_stride, x + t * x_stride, x_stride,
                                 x_scale + t * g_stride, x_sum + t * g_stride, g_stride, groups,
                                 ot + t * out_stride, out_stride, bt, how, 0)  # fmt: skip
                        t += most
                    while t + 2 <= tokens:
                        tile_x2(wt, w_stride, st, s_stride, x + t * x_stride, x_stride,
                                 x_scale + t * g_stride, x_sum + t * g_stride, g_stride, groups,
                                 ot + t * out_stride, out_stride, bt, how, 0)  # fmt: skip
                        t += 2
                    if t < tokens:
                        tile_x1(wt, w_stride, st, s_stride, x + t * x_stride, x_stride,
                                 x_scale + t * g_stride, x_sum + t * g_stride, g_stride, groups,
                                 ot + t * out_stride, out_stride, bt, how, 0)  # fmt: skip
                    tile += together
                else:
                    while t < tokens:
                        tile_1x1(wt, w_stride, st, s_stride, x + t * x_stride, x_stride,
                                 x_scale + t * g_stride, x_sum + t * g_stride, g_stride, groups,
                                 ot + t * out_stride, out_stride, bt, how, 0)  # fmt: skip
                        t += 1
                    tile += 1

        return linear

    block_linear = make_linear(spec.precision)
    head_linear = block_linear if spec.head == spec.precision else make_linear(spec.head)

    def make_multiply(linear: Any, together: int) -> Any:
        @compiled
        def multiply(
            plan: int, me: int, phase: int, tokens: int, x: int, x_stride: int,
            x_scale: int, x_sum: int, inputs: int, w: int, scale: int, bias: int,
            rows: int, out: int, out_width: int, how: int, activation: int, then: int,
            then_size: int,
        ) -> int:  # fmt: skip
            """A whole linear layer, its rows shared out; ``then`` are the next layer's weights."""
            count = (rows + 15) // 16
            threads = get(plan, N_THREADS)
            # Whole register blocks; long runs of memory, but enough pieces to share out evenly.
            blocks = min(16, count // (threads * 8)) // together
            size = max(1, blocks) * together
            start, end = take(plan, phase, me, count, size)
            while start >= 0:
                linear(w, scale, bias, inputs, x, x_stride, x_scale, x_sum, start, end, tokens,
                       out, out_width * 4, how)  # fmt: skip
                if activation != NO_ACTIVATION:
                    for t in range(tokens):
                        row = out + t * out_width * 4
                        for i in range(start * 16, end * 16, 16):
                            activate(activation, row, i)
                        if end * 16 > rows:  # not every function of zero is zero
                            last = end * 16 - 16
                            kept = keep_between(load(row, last), 0, rows - last, 0.0)
                            store(row, last, kept)
                start, end = take(plan, phase, me, count, size)
            look_ahead(plan, me, then, then_size)
            return wait_for_all(plan, phase)

        return multiply

    block_multiply = make_multiply(block_linear, tiles.rows_together(isa, spec.precision))
    head_multiply = (
        block_multiply
        if head_linear is block_linear
        else make_multiply(head_linear, tiles.rows_together(isa, spec.head))
    )

    # --- attention ---

    @compiled
    def remember(plan: int, layer: int, head: int, token: int, table: int, position: int) -> None:
        """Put one token's key and value of one head into its page."""
        c = get(plan, N_EMBD)
        qkv = get(plan, QKV) + (token * get(plan, QKV_WIDTH) + head * head_dim) * 4
        part = get(table, position // PAGE) + (layer * get(plan, N_HEAD) + head) * (
            keys_bytes + values_bytes
        )
        keep(qkv + c * 4, qkv + 2 * c * 4, part, part + keys_bytes, position % PAGE)

    @inlined
    def finish_token(plan: int, token: int, head: int, total: float, mixed: int) -> None:
        """Divide by the softmax's sum and put the head's output in its place in Z."""
        z = get(plan, Z) + (token * get(plan, WIDTH) + head * head_dim) * 4
        inverse = splat(1.0) / splat(total)
        if head_dim % 16 == 0:
            for i in range(0, head_dim, 16):
                store(z, i, load(mixed, i) * inverse)
        else:
            for i in range(0, padded_dim, 16):
                store(mixed, i, load(mixed, i) * inverse)
            for i in range(head_dim):
                set_f32(z, i, get_f32(mixed, i))

    @compiled
    def attend_group(plan: int, me: int, layer: int, head: int, group: int) -> None:
        first, count = get(group, FIRST), get(group, COUNT)
        table, position = get(group, TABLE), get(group, POSITION)
        own = get(plan, OWN) + me * get(plan, OWN_STRIDE)
        scores, mixed = own + get(plan, OWN_SCORES), own + get(plan, OWN_MIX)
        s_stride = get(plan, SCORES_WIDTH) * 4
        q_stride = get(plan, QKV_WIDTH) * 4
        q = get(plan, QKV) + first * q_stride + head * head_dim * 4
        keys = (layer * get(plan, N_HEAD) + head) * (keys_bytes + values_bytes)
        factor = get_f32(get(plan, ATTENTION_SCALES), layer)
        if count == together:
            pages = (position + count - 1) // PAGE + 1
            scores_many(table, pages, keys, q, q_stride, scores, s_stride, factor)
            for t in range(count):
                total = softmax_part(scores + t * s_stride, position + t + 1, pages * PAGE)
                set_f32(own + get(plan, OWN_ROW), t, total)
            mix_many(table, pages, keys + keys_bytes, scores, s_stride, mixed, padded_dim * 4)
            for t in range(count):
                total = get_f32(own + get(plan, OWN_ROW), t)
                finish_token(plan, first + t, head, total, mixed + t * padded_dim * 4)
        else:
            for t in range(count):
                pages = (position + t) // PAGE + 1
                scores_one(table, pages, keys, q + t * q_stride, q_stride, scores,
                           s_stride, factor)  # fmt: skip
                total = softmax_part(scores, position + t + 1, pages * PAGE)
                mix_one(table, pages, keys + keys_bytes, scores, s_stride, mixed, padded_dim * 4)
                finish_token(plan, first + t, head, total, mixed)

    @compiled
    def attend(plan: int, me: int, phase: int, layer: int) -> int:
        groups, count = get(plan, GROUPS), get(plan, N_GROUPS)
        heads, alone = get(plan, N_HEAD), get(plan, ALONE)
        if not alone:
            # By heads: the keys of neighbouring tokens share cache lines, which two threads would
            # pull back and forth between them.
            start, end = take(plan, phase, me, heads, 1)
            while start >= 0:
                for head in range(start, end):
                    for g in range(count):
                        group = groups + g * GROUP_SIZE * 8
                        for t in range(get(group, COUNT)):
                            remember(plan, layer, head, get(group, FIRST) + t,
                                     get(group, TABLE), get(group, POSITION) + t)  # fmt: skip
                start, end = take(plan, phase, me, heads, 1)
            phase = wait_for_all(plan, phase)
        size = max(1, min(4, heads * count // (get(plan, N_THREADS) * 4)))
        start, end = take(plan, phase, me, heads * count, size)
        while start >= 0:
            for item in range(start, end):
                head, g = item // count, item % count
                group = groups + g * GROUP_SIZE * 8
                if alone:
                    remember(plan, layer, head, get(group, FIRST), get(group, TABLE),
                             get(group, POSITION))  # fmt: skip
                attend_group(plan, me, layer, head, group)
            start, end = take(plan, phase, me, heads * count, size)
        return wait_for_all(plan, phase)

    # --- the forward pass: read it beside reference.forward ---

    @compiled
    def share(plan: int, me: int) -> int:
        """One thread's part of one forward pass."""
        tokens, c, inner = get(plan, N_TOKENS), get(plan, N_EMBD), get(plan, N_INNER)
        # Read before the last barrier: after it the caller may already write the next plan.
        wanted = get(plan, N_WANTED)
        width, inner_width = get(plan, WIDTH), get(plan, INNER_WIDTH)
        x, z, hidden = get(plan, X), get(plan, Z), get(plan, INNER)
        act, a_scale, a_sum = act_of(plan, me, tokens)
        stride, hidden_stride = width * act_bytes, inner_width * act_bytes
        # fp32 layers read their inputs as they are; the others read the bytes made of them.
        from_z = z if is_fp32 else act
        from_hidden = hidden if is_fp32 else act
        square, wide = int(c * width * weight_bytes), int(inner * width * weight_bytes)
        phase = 0
        for i in range(get(plan, N_LAYER)):
            w = get(plan, LAYERS) + i * LAYER_SIZE * 8
            then, then_size = get(w, LAYER_SIZE + ATTN_W), 3 * square
            if i == get(plan, N_LAYER) - 1:
                then, then_size = get(plan, HEAD_W), int(get(plan, HEAD_ROWS) * width * head_bytes)
            phase = prepare(plan, me, phase, tokens, x, width, True, get(w, LN_1_GAIN),
                            get(w, LN_1_SHIFT), c, 0)  # fmt: skip
            phase = block_multiply(plan, me, phase, tokens, act, stride, a_scale, a_sum, c,
                                   get(w, ATTN_W), get(w, ATTN_SCALE), get(w, ATTN_BIAS), 3 * c,
                                   get(plan, QKV), get(plan, QKV_WIDTH), STORE,
                                   NO_ACTIVATION, get(w, PROJ_W), square)  # fmt: skip
            phase = attend(plan, me, phase, i)
            if not is_fp32:
                phase = prepare(plan, me, phase, tokens, z, width, False, 0, 0, c, 0)
            phase = block_multiply(plan, me, phase, tokens, from_z, stride, a_scale, a_sum, c,
                                   get(w, PROJ_W), get(w, PROJ_SCALE), get(w, PROJ_BIAS), c,
                                   x, width, ADD, NO_ACTIVATION, get(w, FC_W),
                                   wide)  # fmt: skip
            phase = prepare(plan, me, phase, tokens, x, width, True, get(w, LN_2_GAIN),
                            get(w, LN_2_SHIFT), c, 0)  # fmt: skip
            phase = block_multiply(plan, me, phase, tokens, act, stride, a_scale, a_sum, c,
                                   get(w, FC_W), get(w, FC_SCALE), get(w, FC_BIAS), inner,
                                   hidden, inner_width, STORE, get(plan, ACTIVATION),
                                   get(w, OUT_W), wide)  # fmt: skip
            if not is_fp32:
                phase = prepare(plan, me, phase, tokens, hidden, inner_width, False, 0, 0, inner, 0)
            phase = block_multiply(plan, me, phase, tokens, from_hidden, hidden_stride, a_scale,
                                   a_sum, inner, get(w, OUT_W), get(w, OUT_SCALE),
                                   get(w, OUT_BIAS), c, x, width, ADD, NO_ACTIVATION,
                                   then, then_size)  # fmt: skip
        if wanted > 0:
            act, a_scale, a_sum = act_of(plan, me, wanted)
            phase = prepare(plan, me, phase, wanted, x, width, True, get(plan, LN_F_GAIN),
                            get(plan, LN_F_SHIFT), c, get(plan, WANTED))  # fmt: skip
            phase = head_multiply(plan, me, phase, wanted, act, stride, a_scale, a_sum, c,
                                  get(plan, HEAD_W), get(plan, HEAD_SCALE), get(plan, HEAD_BIAS),
                                  get(plan, HEAD_ROWS), get(plan, LOGITS), get(plan, OUT_WIDTH),
                                  STORE, NO_ACTIVATION, 0, 0)  # fmt: skip
        return phase

    # --- what sampling asks about logits ---

    @compiled
    def log_sum_exp(logits: int, count: int, out: int) -> None:
        """The largest of ``count`` logits, and the sum of e**(logit - largest), to ``out``."""
        whole = count // 16 * 16
        largest = splat(-3.0e38)
        for i in range(0, whole, 16):
            largest = maximum(largest, load(logits, i))
        for i in range(whole, count):
            largest = maximum(largest, splat(get_f32(logits, i)))
        largest = splat(max_lanes(largest))
        total = splat(0.0)
        for i in range(0, whole, 16):
            total = total + exp(load(logits, i) - largest)
        for i in range(whole, count):
            total = total + keep_between(exp(splat(get_f32(logits, i)) - largest), 0, 1, 0.0)
        set_f32(out, 0, max_lanes(largest))
        set_f32(out, 1, sum_lanes(total))

    # --- how a team starts on a plan ---

    @compiled
    def lead(control: int, plan: int) -> int:
        """Announce ``plan``; returns 0 after running it, else which parked threads to wake.

        When it returns a bit mask the caller wakes those threads, then runs ``share(plan, 0)``.
        """
        atomic_set(control + CURRENT_PLAN * 8, plan)
        atomic_add(control + GENERATION * 8, 1)
        parked = 0
        for thread in range(1, get(plan, N_THREADS)):
            if atomic_swap_if(control + (STATES + thread * 8) * 8, PARKED, RUNNING) == 1:
                parked |= 1 << thread
        if parked == 0:
            share(plan, 0)
        return parked

    @compiled
    def follow(control: int, me: int, generation: int) -> int:
        """Run the plans after ``generation`` as they are announced; returns the last one's number.

        Returns when none has come for a while (the thread is then marked as parked), or -1 when
        the team is dissolved (a plan of 0).
        """
        state = control + (STATES + me * 8) * 8
        while True:
            spins = 0
            while atomic_get(control + GENERATION * 8) == generation:
                pause()
                spins += 1
                if spins > SPINS_BEFORE_PARKING:
                    atomic_set(state, PARKED)
                    # A plan announced in between either finds us parked, and will wake us, or
                    # we take the mark back and run it now.
                    if atomic_get(control + GENERATION * 8) == generation:
                        return generation
                    if atomic_swap_if(state, PARKED, RUNNING) == 0:
                        return generation
            generation += 1
            plan = atomic_get(control + CURRENT_PLAN * 8)
            if plan == 0:
                return -1
            share(plan, me)

    @compiled
    def engine(what: int, a: int, b: int, c: int) -> int:
        if what == SHARE:
            return share(a, b)
        if what == LEAD:
            return lead(a, b)
        if what == LOG_SUM_EXP:
            log_sum_exp(a, b, c)
            return 0
        return follow(a, b, c)

    return engine


READ, MULTIPLY = 0, 1  # what a probe does


def build_probe(isa: Isa, precision: str) -> Any:
    """The function that ``laplm bench`` measures a machine's limits with.

    ``READ`` (a address, b bytes): read memory as fast as one thread can; returns a checksum.
    ``MULTIPLY`` (a address of 1 MiB, b inputs, c repeats): the inner loop of linear layers, on
    2 x 16 rows and 4 tokens that stay in the fastest cache; returns how many numbers it multiplied.
    """
    load, splat, sum_lanes = simd.load, simd.splat, simd.sum_lanes
    rows = tiles.rows_together(isa, precision)
    tile = tiles.make_tile(isa, precision, rows, 4)
    tile_bytes = {"fp32": 64, "int8": 16, "int4": 8}[precision]

    @lower.kernel
    def read(base: int, size: int) -> int:
        a, b, c, d = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
        for i in range(0, size // 4 - 63, 64):
            a, b = a + load(base, i), b + load(base, i + 16)
            c, d = c + load(base, i + 32), d + load(base, i + 48)
        return int(sum_lanes(a + b + (c + d)))

    @lower.kernel
    def probe(what: int, a: int, b: int, c: int) -> int:
        if what == READ:
            return read(a, b)
        weights, x, scales, out, bias = a, a + 262144, a + 393216, a + 524288, a + 655360
        for _ in range(c):
            tile(weights, b * tile_bytes, bias, 64, x, b * 4, scales, scales + 65536, 4096,
                 b // GROUP, out, 4096, bias, STORE, 0)  # fmt: skip
        return rows * 16 * 4 * b * c

    return probe
