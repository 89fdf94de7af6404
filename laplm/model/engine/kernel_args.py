"""The arguments of the compiled engine: an array of 64-bit integers, addresses and sizes.

``model.py`` fills it in and ``kernels/`` reads it; the constants say what stands at which index.
(They are apart from the kernels so that a start with compiled kernels on disk need not import the
compiler.)
"""

from __future__ import annotations

from dataclasses import dataclass

GROUP = 32  # inputs of a linear layer that share a scale
PAGE = 32  # positions in a page of the key/value cache
TILE = 16  # output rows of a linear layer that are interleaved
STORE, ADD = 0, 1  # what a linear layer does with its result: write it, or add it to what is there

# What stands at which index. Buffers are float32 [token][width]; widths are padded.
(
    N_THREADS, N_LAYER, N_EMBD, N_HEAD, N_INNER, ACTIVATION,
    EPSILON,                                   # address of one float32
    WIDTH, INNER_WIDTH, QKV_WIDTH, OUT_WIDTH,  # floats a token in the buffers
    LAYERS, LN_F_GAIN, LN_F_SHIFT, HEAD_W, HEAD_SCALE, HEAD_BIAS, HEAD_ROWS,
    ATTENTION_SCALES,                          # address of one float32 a layer
    N_TOKENS, N_QUERY_BLOCKS, QUERY_BLOCKS,
    DECODE_ONLY,                               # whether all are the next token of their sequence
    N_LOGIT_ROWS, LOGIT_ROWS,                  # the tokens whose logits are asked for
    X, QKV, Z, INNER, LOGITS,
    ACT, ACT_SCALE, ACT_SUM,                   # inputs of a linear layer, many tokens
    SCRATCH, SCRATCH_STRIDE,                   # of each thread; in it, as byte offsets:
    SCRATCH_ROW, SCRATCH_ACT, SCRATCH_ACT_SCALE, SCRATCH_ACT_SUM, SCRATCH_ATTN_OUT, SCRATCH_SCORES,
    SCORES_WIDTH,
    COUNTERS, BARRIER, BARRIER_START,
    ARGS_SIZE,
) = range(46)  # fmt: skip

# One layer: addresses in the order of the forward pass.
(
    LN_1_GAIN, LN_1_SHIFT, ATTN_W, ATTN_SCALE, ATTN_BIAS, PROJ_W, PROJ_SCALE, PROJ_BIAS,
    LN_2_GAIN, LN_2_SHIFT, FC_W, FC_SCALE, FC_BIAS, OUT_W, OUT_SCALE, OUT_BIAS,
    LAYER_SIZE,
) = range(17)  # fmt: skip

# One query block: consecutive tokens of one sequence, at most ``queries_together``.
FIRST, COUNT, TABLE, POSITION, QUERY_BLOCK_SIZE = range(5)

PREFETCH_BYTES = 32768  # of the next weights, for each thread, before it waits
MAX_REDUNDANT_ROWS = 4  # up to so many, each thread makes its own inputs: cheaper than a barrier
PHASES_PER_LAYER = 10
(
    NO_ACTIVATION, GELU_TANH, GELU_ERF, GELU_CLIPPED, QUICK_GELU, RELU, RELU_SQUARED, RELU6,
    LEAKY_RELU, SILU, MISH, HARDSWISH, TANH, SIGMOID, LAPLACE,
) = range(15)  # fmt: skip


@dataclass(frozen=True)
class Spec:
    """What a compiled forward pass is specialised for."""

    precision: str  # of the blocks' weights: "fp32" "int8" "int4"
    head: str  # of the output matrix: "fp32" "int8" "int4"
    kv: str  # of the key/value cache: "fp32", or "fp16" (keys in halves, values in bytes)
    head_dim: int


def queries_together(registers: int) -> int:
    """How many tokens of a sequence attention takes at a time, by the CPU's vector registers."""
    return 4 if registers >= 32 else 2


def page_part(kv: str, head_dim: int) -> tuple[int, int]:
    """Bytes of one layer and head's keys, and of its values, in a page (``tiles.py``)."""
    numbers = -(-head_dim // 16) * 16 * PAGE
    return (numbers * 4, numbers * 4) if kv == "fp32" else (numbers * 2, numbers + PAGE * 4)
