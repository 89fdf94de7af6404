"""Causal self-attention for training: compiled where the CPU has the instructions, else torch's.

Torch's own attention is a quarter of a step at 1024 tokens on a CPU, and looks at whole windows
where several documents share one. The kernels take what the layer before gives, without a copy,
keep two numbers a query for the backward pass, and skip what lies in other documents.

Shapes: B batch, T positions, C = n_embd, H heads, D = head_dim.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from laplm.errors import MissingExtraError
from laplm.native.cpu_features import cpu_features
from laplm.progress import Progress
from laplm.tune.kernels.runtime import has_kernel, load_kernel, parallel_for

try:
    import torch
    from torch import Tensor
    from torch.nn import functional
except ModuleNotFoundError as error:
    raise MissingExtraError("Training a model", "tune") from error


class DocumentMask:
    """Which tokens of a window belong to one document: what attention may not look beyond.

    Attributes:
        doc_starts: position of the first token of the same document, (B, T) int64.
    """

    def __init__(self, segments: Tensor) -> None:
        """From the document that each token belongs to, (B, T), equal numbers side by side."""
        positions = torch.arange(segments.shape[1], device=segments.device)
        first = torch.ones_like(segments, dtype=torch.bool)
        first[:, 1:] = segments[:, 1:] != segments[:, :-1]
        self.doc_starts = torch.where(first, positions, 0).cummax(dim=1).values.contiguous()

    @property
    def position_ids(self) -> Tensor:
        """Position of each token in its own document, (B, T)."""
        positions = torch.arange(self.doc_starts.shape[1], device=self.doc_starts.device)
        return positions - self.doc_starts

    @cached_property
    def mask(self) -> Tensor:
        """True where a token may look, (B, 1, T, T)."""
        same = self.doc_starts[:, :, None] == self.doc_starts[:, None, :]
        return (same & torch.ones_like(same[0]).tril()).unsqueeze(1)


def causal_attention(
    qkv: Tensor, n_head: int, scale: float, documents: DocumentMask | None = None
) -> Tensor:
    """Causal attention in all heads: ``softmax(scale * q @ k.T) @ v``.

    Args:
        qkv: queries, keys and values, side by side (B, T, 3 C).
        n_head: H.
        scale: multiplies the products of queries and keys.
        documents: no token looks into another of them; None: every window is one document.

    Returns:
        (B, T, C).
    """
    if _can_compile(qkv, n_head):
        doc_starts = None if documents is None else documents.doc_starts
        out: Tensor = _CausalAttention.apply(qkv, doc_starts, n_head, scale)  # type: ignore[no-untyped-call]
        return out
    return causal_attention_torch(qkv, n_head, scale, documents)


def causal_attention_torch(
    qkv: Tensor, n_head: int, scale: float, documents: DocumentMask | None = None
) -> Tensor:
    """``causal_attention`` in torch, on any device."""
    b, t, c = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    q, k, v = qkv.view(b, t, 3, n_head, c // n_head).permute(2, 0, 3, 1, 4)  # (B, H, T, D) each
    mask = None if documents is None else documents.mask
    z = functional.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale
    )
    return z.transpose(1, 2).reshape(b, t, c)


def last_token_attention(qkv: Tensor, n_head: int, scale: float) -> Tensor:
    """The last row of ``causal_attention``, (B, 1, C), of ``qkv`` (B, T, 3 C)."""
    b, t, c = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    q, k, v = qkv.view(b, t, 3, n_head, c // n_head).permute(2, 0, 3, 1, 4)  # (B, H, T, D) each
    z = functional.scaled_dot_product_attention(q[:, :, -1:], k, v, scale=scale)
    return z.transpose(1, 2).reshape(b, 1, c)


class _CausalAttention(torch.autograd.Function):
    """``causal_attention`` by the kernels."""

    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, doc_starts: Tensor | None, n_head: int, scale: float
    ) -> Tensor:
        qkv = qkv.contiguous()
        b, t, c = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
        out = qkv.new_empty(b, t, c)
        stats = torch.empty(b * n_head, t, 2)
        _run(FORWARD, qkv, None, out, None, stats, doc_starts, n_head, scale)
        ctx.save_for_backward(qkv, out, stats, doc_starts)
        ctx.n_head, ctx.scale = n_head, scale
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:
        qkv, out, stats, doc_starts = ctx.saved_tensors
        d_out, d_qkv = grad_outputs[0].contiguous(), torch.empty_like(qkv)
        _run(BACKWARD, qkv, d_qkv, out, d_out, stats, doc_starts, ctx.n_head, ctx.scale)
        return d_qkv, None, None, None


# --- the kernels ---------------------------------------------------------------------------------

BLOCK = 64
"""Queries, and keys, of a tile: its scores and what is made of them stay in the nearest cache."""
QUERIES = 32
"""Queries that meet all their keys at a time, forwards."""

MIN_PARALLEL_WORK = 1 << 22  # products that one thread is done with before another would have begun

FORWARD, BACKWARD = 0, 1

# Places in the arguments of a call, an array of int64; arrays are given by their addresses.
(
    NEXT_HEAD,  # the next head that no thread has claimed
    HEADS,  # B * H
    N_HEAD,
    TOKENS,  # T
    WIDTH,  # C
    QKV,  # queries, keys and values (B, T, 3 C)
    D_QKV,
    OUT,  # (B, T, C)
    D_OUT,
    SOFTMAX_STATS,  # (B * H, T, 2) float: largest score times log2(e), and 1 / sum of exponentials
    DOC_STARTS,  # (B, T) int64: the first key of each query; 0: the first of the window for all
    SCALES,  # two floats: what scores are multiplied by, times log2(e) and as it is
    N_ARGS,
) = range(13)


@dataclass(frozen=True)
class Spec:
    """What the kernels are compiled for."""

    head_dim: int
    bfloat16: bool

    @property
    def bytes_per_number(self) -> int:
        """Bytes of a number in memory."""
        return 2 if self.bfloat16 else 4

    @property
    def numbers_per_word(self) -> int:
        """Numbers in a word of 32 bits."""
        return 4 // self.bytes_per_number

    @property
    def dim_words(self) -> int:
        """Words of a head's components."""
        return self.head_dim // self.numbers_per_word

    @property
    def row_bytes(self) -> int:
        """Bytes of a row of numbers, one a component."""
        return self.head_dim * self.bytes_per_number

    @property
    def word_row_bytes(self) -> int:
        """Bytes of a row of words or floats, one a component."""
        return self.head_dim * 4

    def scratch_bytes(self, tokens: int) -> int:
        """Memory that one thread works in."""
        padded = -(-tokens // BLOCK) * BLOCK
        head, block, tile = padded * self.head_dim, BLOCK * self.head_dim, BLOCK * BLOCK
        forward = self.bytes_per_number * (2 * head + 2 * block + QUERIES * padded) + 4 * (
            QUERIES * padded + block
        )
        backward = self.bytes_per_number * (4 * head + 4 * block + 3 * tile) + 4 * (
            head + 3 * padded + 2 * block + 2 * tile
        )
        return max(forward, backward)


def precompile(head_dim: int, dtype: torch.dtype, progress: Progress | None = None) -> None:
    """Compile now, so that the time and the memory it takes are not a step's."""
    if is_supported(head_dim, dtype):
        load_kernel("attention_kernel", Spec(head_dim, dtype == torch.bfloat16), progress)


def _can_compile(qkv: Tensor, n_head: int) -> bool:
    return qkv.device.type == "cpu" and is_supported(qkv.shape[2] // 3 // n_head, qkv.dtype)


@functools.cache
def is_supported(head_dim: int, dtype: torch.dtype) -> bool:
    """Whether there are kernels: for whole vectors, and not where torch has more.

    That is for bfloat16 on CPUs with units for whole matrices (Intel's AMX), which torch uses.
    """
    if dtype == torch.bfloat16 and "amx-bf16" in cpu_features():
        return False
    return head_dim % 16 == 0 and head_dim <= BLOCK and has_kernel(dtype)


def _run(
    what: int,
    qkv: Tensor,
    d_qkv: Tensor | None,
    out: Tensor,
    d_out: Tensor | None,
    stats: Tensor,
    doc_starts: Tensor | None,
    n_head: int,
    scale: float,
) -> None:
    b, t, c = out.shape
    spec = Spec(c // n_head, qkv.dtype == torch.bfloat16)
    engine = load_kernel("attention_kernel", spec)
    scales = np.array([scale * np.log2(np.e), scale], np.float32)
    args = np.zeros(N_ARGS, np.int64)
    args[[HEADS, N_HEAD, TOKENS, WIDTH]] = b * n_head, n_head, t, c
    args[SCALES] = scales.ctypes.data
    for place, tensor in (
        (QKV, qkv), (D_QKV, d_qkv), (OUT, out), (D_OUT, d_out), (SOFTMAX_STATS, stats),
        (DOC_STARTS, doc_starts),
    ):  # fmt: skip
        args[place] = 0 if tensor is None else tensor.data_ptr()

    def work(_: int) -> None:
        scratch = np.empty(spec.scratch_bytes(t) + 64, np.uint8)
        address = -(-scratch.ctypes.data // 64) * 64
        engine(what, args.ctypes.data, address, 0)

    threads = min(torch.get_num_threads(), b * n_head, 1 + b * t * t * c // MIN_PARALLEL_WORK)
    parallel_for(work, threads)
