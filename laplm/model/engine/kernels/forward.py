"""The whole forward pass as one compiled function that a pool of threads runs together.

Every thread calls ``forward(args, thread)``: ``reference.forward``, layer by layer. ``args`` is an
array of 64-bit integers (addresses and sizes, ``kernel_args.py`` says where) that ``model.py``
fills in. Nothing here allocates, and no result depends on which thread does a chunk.
"""

from __future__ import annotations

from typing import Any

from laplm.model.engine import kernel_args as k
from laplm.model.engine.kernels.attention import make_attention
from laplm.model.engine.kernels.linear import WEIGHT_BYTES, act_of, make_inputs, make_linear
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
    is_fp32 = spec.precision == "fp32"
    act_bytes = 4 if is_fp32 else 1
    weight_bytes, head_bytes = WEIGHT_BYTES[spec.precision], WEIGHT_BYTES[spec.head]
    barrier = make_barrier(isa)
    inputs = make_inputs(spec.precision, barrier)
    attention = make_attention(isa, spec, barrier)
    linear = make_linear(isa, spec.precision, barrier)
    unembed = linear if spec.head == spec.precision else make_linear(isa, spec.head, barrier)

    @lower.kernel
    def forward(args: int, thread: int) -> int:
        """One thread's part of one forward pass."""
        tokens, c, inner = (
            get_i64(args, k.N_TOKENS), get_i64(args, k.N_EMBD), get_i64(args, k.N_INNER),
        )  # fmt: skip
        # Read before the last barrier: after it the caller may already write the next arguments.
        logit_rows = get_i64(args, k.N_LOGIT_ROWS)
        width, inner_width = get_i64(args, k.WIDTH), get_i64(args, k.INNER_WIDTH)
        x, z, hidden = get_i64(args, k.X), get_i64(args, k.Z), get_i64(args, k.INNER)
        act, a_scale, a_sum = act_of(args, thread, tokens)
        stride, hidden_stride = width * act_bytes, inner_width * act_bytes
        # fp32 layers read their inputs as they are; the others read the bytes made of them.
        from_z = z if is_fp32 else act
        from_hidden = hidden if is_fp32 else act
        square, wide = int(c * width * weight_bytes), int(inner * width * weight_bytes)
        phase = 0
        for i in range(get_i64(args, k.N_LAYER)):
            w = get_i64(args, k.LAYERS) + i * k.LAYER_SIZE * 8
            following, following_bytes = get_i64(w, k.LAYER_SIZE + k.ATTN_W), 3 * square
            if i == get_i64(args, k.N_LAYER) - 1:
                following = get_i64(args, k.HEAD_W)
                following_bytes = int(get_i64(args, k.HEAD_ROWS) * width * head_bytes)
            phase = inputs(args, thread, phase, tokens, x, width, True, get_i64(w, k.LN_1_GAIN),
                           get_i64(w, k.LN_1_SHIFT), c, 0)  # fmt: skip
            phase = linear(args, thread, phase, tokens, act, stride, a_scale, a_sum, c,
                           get_i64(w, k.ATTN_W), get_i64(w, k.ATTN_SCALE), get_i64(w, k.ATTN_BIAS),
                           3 * c, get_i64(args, k.QKV), get_i64(args, k.QKV_WIDTH), k.STORE,
                           k.NO_ACTIVATION, get_i64(w, k.PROJ_W), square)  # fmt: skip
            phase = attention(args, thread, phase, i)
            if not is_fp32:
                phase = inputs(args, thread, phase, tokens, z, width, False, 0, 0, c, 0)
            phase = linear(args, thread, phase, tokens, from_z, stride, a_scale, a_sum, c,
                           get_i64(w, k.PROJ_W), get_i64(w, k.PROJ_SCALE), get_i64(w, k.PROJ_BIAS),
                           c, x, width, k.ADD, k.NO_ACTIVATION, get_i64(w, k.FC_W),
                           wide)  # fmt: skip
            phase = inputs(args, thread, phase, tokens, x, width, True, get_i64(w, k.LN_2_GAIN),
                           get_i64(w, k.LN_2_SHIFT), c, 0)  # fmt: skip
            phase = linear(args, thread, phase, tokens, act, stride, a_scale, a_sum, c,
                           get_i64(w, k.FC_W), get_i64(w, k.FC_SCALE), get_i64(w, k.FC_BIAS), inner,
                           hidden, inner_width, k.STORE, get_i64(args, k.ACTIVATION),
                           get_i64(w, k.OUT_W), wide)  # fmt: skip
            if not is_fp32:
                phase = inputs(args, thread, phase, tokens, hidden, inner_width, False, 0, 0, inner,
                               0)  # fmt: skip
            phase = linear(args, thread, phase, tokens, from_hidden, hidden_stride, a_scale, a_sum,
                           inner, get_i64(w, k.OUT_W), get_i64(w, k.OUT_SCALE),
                           get_i64(w, k.OUT_BIAS), c, x, width, k.ADD, k.NO_ACTIVATION, following,
                           following_bytes)  # fmt: skip
        if logit_rows > 0:
            act, a_scale, a_sum = act_of(args, thread, logit_rows)
            phase = inputs(args, thread, phase, logit_rows, x, width, True,
                           get_i64(args, k.LN_F_GAIN), get_i64(args, k.LN_F_SHIFT), c,
                           get_i64(args, k.LOGIT_ROWS))  # fmt: skip
            phase = unembed(args, thread, phase, logit_rows, act, stride, a_scale, a_sum, c,
                            get_i64(args, k.HEAD_W), get_i64(args, k.HEAD_SCALE),
                            get_i64(args, k.HEAD_BIAS), get_i64(args, k.HEAD_ROWS),
                            get_i64(args, k.LOGITS), get_i64(args, k.OUT_WIDTH), k.STORE,
                            k.NO_ACTIVATION, 0, 0)  # fmt: skip
        return phase

    return forward
