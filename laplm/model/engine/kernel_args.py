"""The arguments of the compiled engine: an array of 64-bit integers, addresses and sizes.

``model.py`` fills it in and ``kernels/`` reads it; the constants say what stands at which index.
(They are apart from the kernels so that a start with compiled kernels on disk need not import the
compiler.)
"""

from __future__ import annotations

from dataclasses import dataclass

GROUP = 32  # inputs of a linear layer that share a scale
PAGE = 32  # positions in a page of the key/value cache
CHUNK = 512  # positions that attention takes at a time (``attention.py``): sixteen pages
TILE = 16  # lanes: rows of weights, positions of int8 keys, components of int8 values side by side
SMALLEST = 1e-30  # a group whose largest number is smaller is quantised to zeros
STORE, ADD = 0, 1  # what a linear layer does with its result: write it, or add it to what is there

# What stands at which index. Buffers are float32 [token][width]; widths are padded.
(
    N_THREADS, N_LAYER, N_EMBD, N_HEAD, N_KV_HEAD, N_INNER, ACTIVATION,
    EPSILON,                                   # address of one float32
    WIDTH, QKV_WIDTH, Z_WIDTH, GATE_UP_WIDTH, INNER_WIDTH, OUT_WIDTH,  # floats a token
    LAYERS, FINAL_NORM_GAIN, FINAL_NORM_BIAS, HEAD,  # addresses; the head is a matrix
    ATTENTION_SCALES,                          # address of one float32 a layer
    N_TOKENS, N_QUERY_BLOCKS, QUERY_BLOCKS,
    DECODE_ONLY,                               # whether all are the next token of their sequence
    SPLIT_CHUNKS, PARTIALS,                    # see ``attention.py``
    N_LOGIT_ROWS, LOGIT_ROWS,                  # the tokens whose logits are asked for
    X, QKV, Z, GATE_UP, INNER, SUBLAYER, LOGITS,
    ACT, ACT_SCALE, ACT_SUM,                   # inputs of a linear layer, many tokens
    SCRATCH, SCRATCH_STRIDE,                   # of each thread; in it, as byte offsets:
    SCRATCH_ROW, SCRATCH_ACT, SCRATCH_ACT_SCALE, SCRATCH_ACT_SUM, SCRATCH_PARTIALS, SCRATCH_SCORES,
    COUNTERS, BARRIER, BARRIER_START,
    ARGS_SIZE,
) = range(49)  # fmt: skip

# One matrix: addresses, sizes, and the weights that are multiplied with after it.
(
    WEIGHTS, SCALES, BIAS, FORMAT, N_IN, N_OUT, COLUMN, NEXT_WEIGHTS, NEXT_BYTES, MATRIX_SIZE,
) = range(10)  # fmt: skip

# One layer: norms and settings, then its matrices in the order of the forward pass. Queries, keys
# and values are one matrix, or up to three where they are stored in different formats.
(
    NORM1_GAIN, NORM1_BIAS, Q_NORM, K_NORM, POST_NORM1, NORM2_GAIN, NORM2_BIAS, POST_NORM2,
    WINDOW,                                    # positions that a query looks back at; 0 is all
    ROPE,                                      # address of [token][cosines, sines]; 0 is none
    N_QKV,
    MATRICES,
) = range(12)  # fmt: skip
QKV_PARTS = 3
(MATRIX_QKV, MATRIX_ATTN_OUT, MATRIX_UP, MATRIX_DOWN, N_MATRICES) = (0, 3, 4, 5, 6)
LAYER_SIZE = MATRICES + N_MATRICES * MATRIX_SIZE

# One query block: consecutive tokens of one sequence, at most ``queries_together``.
FIRST, COUNT, TABLE, POSITION, QUERY_BLOCK_SIZE = range(5)

PREFETCH_BYTES = 32768  # of the next weights, for each thread, before it waits
MOST_PREFETCHED = 262144  # while it waits: what a core's own cache holds beside the rest
MAX_REDUNDANT_ROWS = 4  # up to so many, each thread makes its own inputs: cheaper than a barrier
PHASES_PER_LAYER = 18
NO_ACTIVATION = -1  # of linear layers that have none; the feed-forward has one of these:
(
    IDENTITY, GELU_TANH, GELU_ERF, GELU_CLIPPED, QUICK_GELU, RELU, RELU_SQUARED, RELU6,
    LEAKY_RELU, SILU, MISH, HARDSWISH, TANH, SIGMOID, LAPLACE,
) = range(15)  # fmt: skip


@dataclass(frozen=True)
class Spec:
    """What a compiled forward pass is specialised for.

    Attributes:
        formats: of all matrices of the model, sorted: names of ``formats.FORMATS``.
        kv: of the key/value cache: "fp32", or "int8" (signed bytes with scales).
        head_dim: D.
        norm: "layer" or "rms".
        rotary_dim: how many components of a head turn with the position; 0 is none.
        gated: whether the feed-forward has a gate.
        qk_norm: whether queries and keys are normalised.
        post_norms: whether what a sublayer adds is normalised.
        parallel_residual: whether both sublayers read the layer's input.
        windowed: whether a layer looks back at some positions only.
    """

    formats: tuple[str, ...]
    kv: str
    head_dim: int
    norm: str = "layer"
    rotary_dim: int = 0
    gated: bool = False
    qk_norm: bool = False
    post_norms: bool = False
    parallel_residual: bool = False
    windowed: bool = False


def queries_together(kv: str, registers: int) -> int:
    """How many tokens of a sequence attention takes at a time, by the CPU's vector registers.

    Those of a page in bytes are taken sixteen positions at a time, which leaves room for more.
    """
    return 4 if kv == "int8" or registers >= 32 else 2


def partial_bytes(head_dim: int) -> int:
    """Bytes of what one query makes of some chunks (``attention.py``): 2 x 16 floats, then D."""
    return (2 + -(-head_dim // 16)) * 64


def page_part(kv: str, head_dim: int) -> tuple[int, int]:
    """Bytes of one layer and head's keys, and of its values, in a page (``cache_tiles.py``)."""
    numbers = -(-head_dim // 16) * 16 * PAGE
    if kv == "fp32":
        return numbers * 4, numbers * 4
    return numbers + -(-head_dim // GROUP) * PAGE * 4, numbers + PAGE * 4
