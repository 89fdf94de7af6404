"""Causal self-attention for training: compiled where the CPU has the instructions, else torch's.

Torch's own attention is a quarter of an update at 1024 tokens on a CPU, and looks at whole windows
where several texts share one. The loops of ``attention_kernel.py`` take what the layer before
gives, without a copy, keep two numbers a query for the way back, and pass over what lies in other
texts.

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
from laplm.tune.kernels.loops import compiled, has_loops, run_together

try:
    import torch
    from torch import Tensor
    from torch.nn import functional
except ModuleNotFoundError as error:
    raise MissingExtraError("Training a model", "tune") from error


class Texts:
    """Where in its window the text of each token begins: what attention may not look beyond.

    Attributes:
        begins: position of the first token of the same text, (B, T) int64.
    """

    def __init__(self, segments: Tensor) -> None:
        """From which text each token belongs to, (B, T), equal numbers side by side."""
        places = torch.arange(segments.shape[1], device=segments.device)
        first = torch.ones_like(segments, dtype=torch.bool)
        first[:, 1:] = segments[:, 1:] != segments[:, :-1]
        self.begins = torch.where(first, places, 0).cummax(dim=1).values.contiguous()

    @property
    def places(self) -> Tensor:
        """Position of each token in its own text, (B, T)."""
        return torch.arange(self.begins.shape[1], device=self.begins.device) - self.begins

    @cached_property
    def mask(self) -> Tensor:
        """True where a token may look, (B, 1, T, T)."""
        same = self.begins[:, :, None] == self.begins[:, None, :]
        return (same & torch.ones_like(same[0]).tril()).unsqueeze(1)


def causal_attention(qkv: Tensor, n_head: int, scale: float, texts: Texts | None = None) -> Tensor:
    """What every token finds in those before it and in itself, in all heads.

    Args:
        qkv: queries, keys and values, side by side (B, T, 3 C).
        n_head: H.
        scale: multiplies the products of queries and keys.
        texts: which tokens belong together; None: every window is one text.

    Returns:
        (B, T, C).
    """
    if _can_compile(qkv, n_head):
        begins = None if texts is None else texts.begins
        out: Tensor = _Compiled.apply(qkv, begins, n_head, scale)  # type: ignore[no-untyped-call]
        return out
    return attend_plainly(qkv, n_head, scale, texts)


def attend_plainly(qkv: Tensor, n_head: int, scale: float, texts: Texts | None = None) -> Tensor:
    """``causal_attention`` in torch, on any device."""
    b, t, c = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    q, k, v = qkv.view(b, t, 3, n_head, c // n_head).permute(2, 0, 3, 1, 4)  # (B, H, T, D) each
    z = functional.scaled_dot_product_attention(
        q, k, v, attn_mask=None if texts is None else texts.mask, is_causal=texts is None,
        scale=scale,
    )  # fmt: skip
    return z.transpose(1, 2).reshape(b, t, c)


class _Compiled(torch.autograd.Function):
    """``causal_attention`` by the compiled loops."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, begins: Tensor | None, n_head: int, scale: float) -> Tensor:
        qkv = qkv.contiguous()
        b, t, c = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
        out = qkv.new_empty(b, t, c)
        stats = torch.empty(b * n_head, t, 2)
        _run(FORWARD, qkv, None, out, None, stats, begins, n_head, scale)
        ctx.save_for_backward(qkv, out, stats, begins)
        ctx.n_head, ctx.scale = n_head, scale
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:
        qkv, out, stats, begins = ctx.saved_tensors
        grad, qkv_grad = grad_outputs[0].contiguous(), torch.empty_like(qkv)
        _run(BACKWARD, qkv, qkv_grad, out, grad, stats, begins, ctx.n_head, ctx.scale)
        return qkv_grad, None, None, None


# --- the compiled loops ---------------------------------------------------------------------------

BLOCK = 64
"""Queries, and keys, of a tile: its scores and what is made of them stay in the nearest cache."""
ROWS = 32
"""Queries that meet all their keys at a time, forwards."""

_ALONE = 1 << 22  # products that one thread is done with before another would have begun

FORWARD, BACKWARD = 0, 1

# Places in the plan of a call, an array of int64; arrays are given by their addresses.
(
    COUNTER,  # the next head that nobody has taken
    HEADS,  # B * H
    N_HEAD,
    TOKENS,  # T
    WIDTH,  # C
    PROJECTED,  # queries, keys and values (B, T, 3 C)
    PROJECTED_GRAD,
    MIXED,  # what comes out (B, T, C)
    MIXED_GRAD,
    STATS,  # (B * H, T, 2) float: largest score times log2(e), and 1 / sum of the exponentials
    BEGINS,  # (B, T) int64: the first key of each query; 0: the first of the window for all
    SCALE,  # two floats: what scores are multiplied by, times log2(e) and as it is
    PLAN_SIZE,
) = range(13)


@dataclass(frozen=True)
class Spec:
    """What the loops are compiled for."""

    head_dim: int
    bfloat16: bool

    @property
    def number_bytes(self) -> int:
        """Bytes of a number in memory."""
        return 2 if self.bfloat16 else 4

    def scratch_bytes(self, tokens: int) -> int:
        """Memory that one thread works in."""
        padded = -(-tokens // BLOCK) * BLOCK
        head, block, tile = padded * self.head_dim, BLOCK * self.head_dim, BLOCK * BLOCK
        forward = self.number_bytes * (2 * head + 2 * block + ROWS * padded) + 4 * (
            ROWS * padded + block
        )
        backward = self.number_bytes * (4 * head + 4 * block + 3 * tile) + 4 * (
            head + 3 * padded + 2 * block + 2 * tile
        )
        return max(forward, backward)


def prepare(head_dim: int, dtype: torch.dtype, progress: Progress | None = None) -> None:
    """Compile now, so that the time and the memory it takes are not an update's."""
    if is_supported(head_dim, dtype):
        compiled("attention_kernel", Spec(head_dim, dtype == torch.bfloat16), progress)


def _can_compile(qkv: Tensor, n_head: int) -> bool:
    return qkv.device.type == "cpu" and is_supported(qkv.shape[2] // 3 // n_head, qkv.dtype)


@functools.cache
def is_supported(head_dim: int, dtype: torch.dtype) -> bool:
    """Whether there are compiled loops: for whole vectors, and not where torch has more.

    That is for bfloat16 on CPUs with units for whole matrices (Intel's AMX), which torch uses.
    """
    if dtype == torch.bfloat16 and "amx-bf16" in cpu_features():
        return False
    return head_dim % 16 == 0 and head_dim <= BLOCK and has_loops(dtype)


def _run(
    what: int,
    qkv: Tensor,
    qkv_grad: Tensor | None,
    out: Tensor,
    out_grad: Tensor | None,
    stats: Tensor,
    begins: Tensor | None,
    n_head: int,
    scale: float,
) -> None:
    b, t, c = out.shape
    spec = Spec(c // n_head, qkv.dtype == torch.bfloat16)
    engine = compiled("attention_kernel", spec)
    scales = np.array([scale * np.log2(np.e), scale], np.float32)
    plan = np.zeros(PLAN_SIZE, np.int64)
    plan[[HEADS, N_HEAD, TOKENS, WIDTH]] = b * n_head, n_head, t, c
    plan[SCALE] = scales.ctypes.data
    for place, tensor in (
        (PROJECTED, qkv), (PROJECTED_GRAD, qkv_grad), (MIXED, out), (MIXED_GRAD, out_grad),
        (STATS, stats), (BEGINS, begins),
    ):  # fmt: skip
        plan[place] = 0 if tensor is None else tensor.data_ptr()

    def work(_: int) -> None:
        scratch = np.empty(spec.scratch_bytes(t) + 64, np.uint8)
        address = -(-scratch.ctypes.data // 64) * 64
        engine(what, plan.ctypes.data, address, 0)

    threads = min(torch.get_num_threads(), b * n_head, 1 + b * t * t * c // _ALONE)
    run_together(work, threads)
