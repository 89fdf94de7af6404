"""The whole forward pass as one compiled function that a pool of threads runs together.

Every thread calls ``forward(args, thread)``: ``reference.forward``, layer by layer. ``args`` is an
array of 64-bit integers (addresses and sizes, ``kernel_args.py`` says where) that ``model.py``
fills in. Nothing here allocates, and no result depends on which thread works out what.
"""

from __future__ import annotations

from typing import Any

from laplm.model.engine import kernel_args as k
from laplm.model.engine.kernels.attention import make_attention
from laplm.model.engine.kernels.linear import make_linear_dispatch
from laplm.model.engine.kernels.norm import make_add_sublayer
from laplm.model.engine.kernels.sampling import log_sum_exp
from laplm.model.engine.kernels.threads import make_barrier, make_pool
from laplm.native import lower
from laplm.native.isa import Isa
from laplm.native.simd import get_i64
from laplm.native.threads import FORWARD, LAUNCH, LOG_SUM_EXP


def build(isa: Isa, spec: k.Spec) -> Any:
    """The function to compile: ``engine(what, a, b, c)``, all int64; ``what`` is one of four.

    ``FORWARD`` (a args, b thread): one thread's part of one forward pass;
    ``LAUNCH`` (a control, b args): announce arguments to the pool and run them;
    ``WORKER_LOOP`` (a control, b thread, c generation): what every other thread of a pool runs;
    ``LOG_SUM_EXP`` (a logits, b count, c address of two floats): see ``GPT.logsumexp``.
    """
    forward = make_forward(isa, spec)
    launch, worker_loop = make_pool(isa, forward)

    @lower.kernel
    def engine(what: int, a: int, b: int, c: int) -> int:
        if what == FORWARD:
            return forward(a, b)
        if what == LAUNCH:
            return launch(a, b)
        if what == LOG_SUM_EXP:
            log_sum_exp(a, b, c)
            return 0
        return worker_loop(a, b, c)

    return engine


def make_forward(isa: Isa, spec: k.Spec) -> Any:
    """``forward(args, thread)``: read it beside ``reference.forward``."""
    barrier = make_barrier(isa)
    attention = make_attention(isa, spec, barrier)
    linear = make_linear_dispatch(isa, spec, barrier)
    add_sublayer = make_add_sublayer(spec, barrier)
    apart = spec.post_norms or spec.parallel_residual  # its output waits in SUBLAYER

    @lower.inlined
    def matrix(layer: int, which: int) -> int:
        return layer + (k.MATRICES + which * k.MATRIX_SIZE) * 8

    @lower.kernel
    def attention_sublayer(args: int, thread: int, phase: int, i: int, w: int) -> int:
        """Attention of layer ``i``: added to X, or written to SUBLAYER."""
        tokens, width, x = get_i64(args, k.N_TOKENS), get_i64(args, k.WIDTH), get_i64(args, k.X)
        for part in range(get_i64(w, k.N_QKV)):
            phase = linear(args, thread, phase, tokens, x, width, True, get_i64(w, k.NORM1_GAIN),
                           get_i64(w, k.NORM1_BIAS), 0, matrix(w, k.MATRIX_QKV + part),
                           get_i64(args, k.QKV), get_i64(args, k.QKV_WIDTH), k.STORE,
                           k.NO_ACTIVATION)  # fmt: skip
        phase = attention(args, thread, phase, i)
        out = get_i64(args, k.SUBLAYER) if apart else x
        return linear(args, thread, phase, tokens, get_i64(args, k.Z), get_i64(args, k.Z_WIDTH),
                      False, 0, 0, 0, matrix(w, k.MATRIX_ATTN_OUT), out, width,
                      k.STORE if apart else k.ADD, k.NO_ACTIVATION)  # fmt: skip

    @lower.kernel
    def feed_forward_sublayer(args: int, thread: int, phase: int, w: int) -> int:
        """The feed-forward of a layer: added to X, or written to SUBLAYER."""
        tokens, width, x = get_i64(args, k.N_TOKENS), get_i64(args, k.WIDTH), get_i64(args, k.X)
        inner, inner_width = get_i64(args, k.INNER), get_i64(args, k.INNER_WIDTH)
        up = get_i64(args, k.GATE_UP) if spec.gated else inner
        up_width = get_i64(args, k.GATE_UP_WIDTH) if spec.gated else inner_width
        phase = linear(args, thread, phase, tokens, x, width, True, get_i64(w, k.NORM2_GAIN),
                       get_i64(w, k.NORM2_BIAS), 0, matrix(w, k.MATRIX_UP), up, up_width, k.STORE,
                       get_i64(args, k.ACTIVATION))  # fmt: skip
        out = get_i64(args, k.SUBLAYER) if spec.post_norms else x
        return linear(args, thread, phase, tokens, inner, inner_width, False, 0, 0, 0,
                      matrix(w, k.MATRIX_DOWN), out, width, k.STORE if spec.post_norms else k.ADD,
                      k.NO_ACTIVATION)  # fmt: skip

    @lower.kernel
    def forward(args: int, thread: int) -> int:
        """One thread's part of one forward pass."""
        tokens = get_i64(args, k.N_TOKENS)
        # Read before the last barrier: after it the caller may already write the next arguments.
        logit_rows = get_i64(args, k.N_LOGIT_ROWS)
        phase = 0
        for i in range(get_i64(args, k.N_LAYER)):
            w = get_i64(args, k.LAYERS) + i * k.LAYER_SIZE * 8
            phase = attention_sublayer(args, thread, phase, i, w)
            if spec.post_norms:
                phase = add_sublayer(args, thread, phase, tokens, get_i64(w, k.POST_NORM1))
            phase = feed_forward_sublayer(args, thread, phase, w)
            if apart:
                phase = add_sublayer(args, thread, phase, tokens, get_i64(w, k.POST_NORM2))
        if logit_rows > 0:
            phase = linear(args, thread, phase, logit_rows, get_i64(args, k.X),
                           get_i64(args, k.WIDTH), True, get_i64(args, k.FINAL_NORM_GAIN),
                           get_i64(args, k.FINAL_NORM_BIAS), get_i64(args, k.LOGIT_ROWS),
                           get_i64(args, k.HEAD), get_i64(args, k.LOGITS),
                           get_i64(args, k.OUT_WIDTH), k.STORE, k.NO_ACTIVATION)  # fmt: skip
        return phase

    return forward
