"""Linear layers: ``ops.linear``, with the inputs rounded to bytes where the weights are.

``tiles.py`` has the inner loops.
"""

from __future__ import annotations

from typing import Any

from laplm.model.engine import kernel_args as k
from laplm.model.engine import tiles
from laplm.model.engine.formats import CODES, FORMATS, SUPER, Format
from laplm.model.engine.kernels.activation import activate
from laplm.model.engine.kernels.norm import layer_norm, rms_norm
from laplm.model.engine.kernels.threads import claim_items
from laplm.native import lower
from laplm.native.isa import Isa
from laplm.native.simd import get_i64, keep_between, load, store

quantize_group = tiles.make_quantize()


# --- inputs -------------------------------------------------------------------------------------


@lower.kernel
def quantize_row(row: int, groups: int, act: int, scale: int, total: int) -> None:
    """Floats to signed bytes, with a scale and a sum for each group of 32."""
    for g in range(groups):
        quantize_group(row + g * k.GROUP * 4, act + g * k.GROUP, scale + g * 4, total + g * 4)


@lower.kernel
def input_buffers(args: int, thread: int, tokens: int) -> tuple[int, int, int]:
    """Where the inputs of linear layers are: (values, scales, sums)."""
    if tokens <= k.MAX_REDUNDANT_ROWS:
        scratch = get_i64(args, k.SCRATCH) + thread * get_i64(args, k.SCRATCH_STRIDE)
        return (
            scratch + get_i64(args, k.SCRATCH_ACT),
            scratch + get_i64(args, k.SCRATCH_ACT_SCALE),
            scratch + get_i64(args, k.SCRATCH_ACT_SUM),
        )
    return get_i64(args, k.ACT), get_i64(args, k.ACT_SCALE), get_i64(args, k.ACT_SUM)


def make_linear_inputs(spec: k.Spec, barrier: Any, *, floats: bool) -> Any:
    """``inputs(args, thread, phase, …)``: prepare all tokens' inputs; returns the next phase."""
    act_bytes = 4 if floats else 1
    normalise = layer_norm if spec.norm == "layer" else rms_norm

    @lower.kernel
    def input_row(
        args: int, thread: int, t: int, row: int, norm: int, gain: int, bias: int,
        n_in: int, act: int, scale: int, total: int,
    ) -> None:  # fmt: skip
        """Token ``t``'s inputs: normalised if ``norm``, then quantised."""
        groups = (n_in + k.GROUP - 1) // k.GROUP
        act += t * groups * k.GROUP * act_bytes
        if norm:
            scratch = get_i64(args, k.SCRATCH) + thread * get_i64(args, k.SCRATCH_STRIDE)
            normed = scratch + get_i64(args, k.SCRATCH_ROW)
            if floats:
                normed = act
            normalise(args, row, gain, bias, normed)
            row = normed
        if not floats:
            quantize_row(row, groups, act, scale + t * groups * 4, total + t * groups * 4)

    @lower.kernel
    def inputs(
        args: int, thread: int, phase: int, tokens: int, rows: int, row_width: int, norm: int,
        gain: int, bias: int, n_in: int, index: int,
    ) -> int:  # fmt: skip
        """``index`` picks rows when it is not 0."""
        act, scale, total = input_buffers(args, thread, tokens)
        if tokens <= k.MAX_REDUNDANT_ROWS:
            for t in range(tokens):
                which = get_i64(index, t) if index else t
                row = rows + which * row_width * 4
                input_row(args, thread, t, row, norm, gain, bias, n_in, act, scale, total)
            return phase
        start, end = claim_items(args, phase, thread, tokens, 4)
        while start >= 0:
            for t in range(start, end):
                which = get_i64(index, t) if index else t
                row = rows + which * row_width * 4
                input_row(args, thread, t, row, norm, gain, bias, n_in, act, scale, total)
            start, end = claim_items(args, phase, thread, tokens, 4)
        return barrier(args, thread, phase, 0, 0)

    return inputs


# --- products -----------------------------------------------------------------------------------


def make_scale_stride(form: Format) -> Any:
    """``scale_stride(groups)``: bytes of a tile's scales, as ``Format.scale_bytes`` counts them."""
    of_super = form.scales == "super"
    fixed = form.scale_bytes(0)
    each = form.scale_bytes(SUPER if of_super else 1) - fixed

    @lower.inlined
    def scale_stride(groups: int) -> int:
        if of_super:
            return (groups + SUPER - 1) // SUPER * each
        return fixed if fixed > 0 else groups * each

    return scale_stride


def make_linear_rows(isa: Isa, form: Format) -> Any:
    """``rows(…)``: some tiles of a linear layer's output rows, for all tokens."""
    together = tiles.rows_together(isa, form)
    # Multiplying several tokens takes longer than reading a tile from memory: the call for the
    # first of them prefetches the next tile. One token's call waits for memory alone.
    most = tiles.tokens_together(isa, form)
    first_most, tile_x2 = (
        tiles.make_tile(isa, form, together, t, prefetch_parts=1) for t in (most, 2)
    )
    # With many tokens memory would idle most of the time: the first calls prefetch a part each.
    sharing = 3
    share_most = tiles.make_tile(isa, form, together, most, prefetch_parts=sharing)
    tile_most, tile_x1 = (tiles.make_tile(isa, form, together, t) for t in (most, 1))
    tile_1x1 = tiles.make_tile(isa, form, 1, 1)
    scale_stride = make_scale_stride(form)

    @lower.kernel
    def rows(
        w: int, scale: int, bias: int, n_in: int, x: int, x_stride: int,
        x_scale: int, x_sum: int, start: int, end: int, tokens: int, out: int,
        out_stride: int, store_mode: int,
    ) -> None:  # fmt: skip
        groups = (n_in + k.GROUP - 1) // k.GROUP
        g_stride = groups * 4
        w_stride = groups * form.group_bytes
        s_stride = scale_stride(groups)
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
                                   x_scale + t * g_stride, x_sum + t * g_stride, g_stride, groups,
                                   ot + t * out_stride, out_stride, bt, store_mode,
                                   part)  # fmt: skip
                        t += most
                elif tokens >= most:
                    first_most(wt, w_stride, st, s_stride, x, x_stride, x_scale, x_sum, g_stride,
                               groups, ot, out_stride, bt, store_mode, 0)  # fmt: skip
                    t = most
                while t + most <= tokens:
                    tile_most(wt, w_stride, st, s_stride, x + t * x_stride, x_stride,
                              x_scale + t * g_stride, x_sum + t * g_stride, g_stride, groups,
                              ot + t * out_stride, out_stride, bt, store_mode, 0)  # fmt: skip
                    t += most
                while t + 2 <= tokens:
                    tile_x2(wt, w_stride, st, s_stride, x + t * x_stride, x_stride,
                            x_scale + t * g_stride, x_sum + t * g_stride, g_stride, groups,
                            ot + t * out_stride, out_stride, bt, store_mode, 0)  # fmt: skip
                    t += 2
                if t < tokens:
                    tile_x1(wt, w_stride, st, s_stride, x + t * x_stride, x_stride,
                            x_scale + t * g_stride, x_sum + t * g_stride, g_stride, groups,
                            ot + t * out_stride, out_stride, bt, store_mode, 0)  # fmt: skip
                tile += together
            else:
                while t < tokens:
                    tile_1x1(wt, w_stride, st, s_stride, x + t * x_stride, x_stride,
                             x_scale + t * g_stride, x_sum + t * g_stride, g_stride, groups,
                             ot + t * out_stride, out_stride, bt, store_mode, 0)  # fmt: skip
                    t += 1
                tile += 1

    return rows


def make_linear(isa: Isa, spec: k.Spec, form: Format, barrier: Any) -> Any:
    """``linear(args, thread, phase, …)``: a whole linear layer, its rows shared among threads."""
    # Tiles of gate and up rows alternate, and stay together.
    together = tiles.rows_together(isa, form) * (2 if spec.gated else 1)
    rows = make_linear_rows(isa, form)

    @lower.inlined
    def activate_rows(
        args: int, activation: int, out: int, out_width: int, n_out: int, start: int, end: int,
        tokens: int,
    ) -> None:  # fmt: skip
        """The activation function of some tiles; of pairs of them, times the up tile, to INNER."""
        for t in range(tokens):
            row = out + t * out_width * 4
            if spec.gated:
                hidden = get_i64(args, k.INNER) + t * get_i64(args, k.INNER_WIDTH) * 4
                for i in range(start * 16, end * 16, 32):
                    activate(activation, row, i)
                    store(hidden, i // 2, load(row, i) * load(row, i + 16))
            else:
                for i in range(start * 16, end * 16, 16):
                    activate(activation, row, i)
                if end * 16 > n_out:  # not every function of zero is zero
                    last = end * 16 - 16
                    store(row, last, keep_between(load(row, last), 0, n_out - last, 0.0))

    @lower.kernel
    def linear(
        args: int, thread: int, phase: int, tokens: int, x: int, x_stride: int, x_scale: int,
        x_sum: int, m: int, out: int, out_width: int, store_mode: int, activation: int,
    ) -> int:  # fmt: skip
        """``m`` is the matrix; returns the next phase."""
        n_in, n_out = get_i64(m, k.N_IN), get_i64(m, k.N_OUT)
        count = (n_out + 15) // 16
        threads = get_i64(args, k.N_THREADS)
        # Whole register blocks; long runs of memory, but enough claims to share out evenly.
        blocks = min(16, count // (threads * 8)) // together
        size = max(1, blocks) * together
        start, end = claim_items(args, phase, thread, count, size)
        while start >= 0:
            rows(get_i64(m, k.WEIGHTS), get_i64(m, k.SCALES), get_i64(m, k.BIAS), n_in, x, x_stride,
                 x_scale, x_sum, start, end, tokens, out, out_width * 4, store_mode)  # fmt: skip
            if activation != k.NO_ACTIVATION:
                activate_rows(args, activation, out, out_width, n_out, start, end, tokens)
            start, end = claim_items(args, phase, thread, count, size)
        return barrier(args, thread, phase, get_i64(m, k.NEXT_WEIGHTS), get_i64(m, k.NEXT_BYTES))

    return linear


def make_linear_dispatch(isa: Isa, spec: k.Spec, barrier: Any) -> Any:
    """``linear_dispatch(…)``: inputs, then the product with a matrix of any format.

    ``norm`` says whether the rows are normalised first, with ``gain`` and ``bias``. The result goes
    to the matrix's column of ``out``.
    """
    forms = [FORMATS[name] for name in spec.formats]
    floats, in_bytes = (make_linear_inputs(spec, barrier, floats=each) for each in (True, False))

    @lower.kernel
    def no_format(
        args: int, thread: int, phase: int, tokens: int, rows: int, row_width: int, norm: int,
        gain: int, bias: int, index: int, m: int, out: int, out_width: int, store_mode: int,
        activation: int,
    ) -> int:  # fmt: skip
        return phase

    def with_format(form: Format, otherwise: Any, last: bool) -> Any:
        code, is_float = CODES[form.name], form.is_float
        linear = make_linear(isa, spec, form, barrier)
        inputs = floats if is_float else in_bytes
        act_bytes = 4 if is_float else 1

        @lower.kernel
        def linear_dispatch(
            args: int, thread: int, phase: int, tokens: int, rows: int, row_width: int, norm: int,
            gain: int, bias: int, index: int, m: int, out: int, out_width: int, store_mode: int,
            activation: int,
        ) -> int:  # fmt: skip
            if last or get_i64(m, k.FORMAT) == code:
                n_in = get_i64(m, k.N_IN)
                to = out + get_i64(m, k.COLUMN) * 4
                act, scale, total = input_buffers(args, thread, tokens)
                if not is_float or norm:
                    phase = inputs(args, thread, phase, tokens, rows, row_width, norm, gain, bias,
                                   n_in, index)  # fmt: skip
                else:  # floats are read where they are
                    return linear(args, thread, phase, tokens, rows, row_width * 4, scale, total, m,
                                  to, out_width, store_mode, activation)  # fmt: skip
                stride = (n_in + k.GROUP - 1) // k.GROUP * k.GROUP * act_bytes
                return linear(args, thread, phase, tokens, act, stride, scale, total, m, to,
                              out_width, store_mode, activation)  # fmt: skip
            return otherwise(args, thread, phase, tokens, rows, row_width, norm, gain, bias, index,
                             m, out, out_width, store_mode, activation)  # fmt: skip

        return linear_dispatch

    chain = no_format
    for i, form in enumerate(forms):
        chain = with_format(form, chain, last=i == 0)
    return chain
