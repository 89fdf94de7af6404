"""GELU, and the slopes of the loss by the logits: one reading and one writing where torch has many.

Torch's GELU of bfloat16 numbers takes ten times as long as memory would, and softmax with its
gradient goes through the logits six times. They are a tenth of an update between them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from laplm.errors import MissingExtraError
from laplm.progress import Progress
from laplm.tune.kernels.loops import compiled, has_loops, run_together

try:
    import torch
    from torch import Tensor
    from torch.nn import functional
except ModuleNotFoundError as error:
    raise MissingExtraError("Training a model", "tune") from error

LANES = 16
_ALONE = 1 << 18  # numbers that one thread is done with before another would have begun

GELU, GELU_GRAD, SLOPES, LOSSES = range(4)

# Places in the plan of a call, an array of int64; arrays are given by their addresses.
(
    X,  # what goes in: numbers of GELU, or logits (N, V), whose place slopes take
    GRAD,  # slope of the loss by what came out of GELU
    OUT,  # what comes out, or the slope by what went in
    ROW,  # V
    TARGETS,  # (N,) int64
    STATS,  # (N, 3) float: largest logit, sum of exponentials less that, logit of the target
    SCALE,  # one float that slopes are multiplied by
    PLAN_SIZE,
) = range(8)

LOGITS_IN_FP32 = 1 << 22
"""Logits that torch has in fp32 at one time, so that all steps to a gradient stay in cache."""


@dataclass(frozen=True)
class Spec:
    """What the loops are compiled for."""

    bfloat16: bool


def gelu(x: Tensor) -> Tensor:
    """GPT-2's activation, 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x**3))), of any shape.

    Source: Hendrycks and Gimpel 2016, arXiv:1606.08415, section 2.
    """
    if _loops_take(x) and x.numel() % LANES == 0 and x.numel():
        out: Tensor = _Gelu.apply(x)  # type: ignore[no-untyped-call]
        return out
    return functional.gelu(x, approximate="tanh")


class _Gelu(torch.autograd.Function):
    """``gelu`` by the compiled loops."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous()
        out = torch.empty_like(x)
        _run(GELU, x, x.numel() // LANES, {X: x, OUT: out})
        ctx.save_for_backward(x)
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        grad, out = grad_outputs[0].contiguous(), torch.empty_like(x)
        _run(GELU_GRAD, x, x.numel() // LANES, {X: x, GRAD: grad, OUT: out})
        return out


def to_slopes(logits: Tensor, targets: Tensor, scale: float, *, with_slopes: bool) -> Tensor:
    """The cross-entropy of ``targets``, and in place of the logits its slopes by them.

    Args:
        logits: (N, V), contiguous; d loss / d logits = (softmax - one-hot) * scale takes their
            place, if it is wanted.
        targets: (N,).
        scale: multiplies the loss and the slopes.
        with_slopes: whether they are wanted.

    Returns:
        The sum of all losses times ``scale``, in fp32.
    """
    if not _loops_take(logits) or logits.shape[1] < LANES:
        return to_slopes_plainly(logits, targets, scale, with_slopes=with_slopes)
    n, row = logits.shape
    stats = torch.empty(n, 3)
    scales = np.array([scale], np.float32)
    what = SLOPES if with_slopes else LOSSES
    arrays = {X: logits, TARGETS: targets.contiguous(), STATS: stats}
    _run(what, logits, n, arrays, {ROW: row, SCALE: scales.ctypes.data})
    largest, total, wanted = stats.unbind(1)
    return (total.log() + (largest - wanted)).sum() * scale


def to_slopes_plainly(
    logits: Tensor, targets: Tensor, scale: float, *, with_slopes: bool
) -> Tensor:
    """``to_slopes`` in torch, on any device."""
    total = torch.zeros((), dtype=torch.float32, device=logits.device)
    rows = max(1, LOGITS_IN_FP32 // logits.shape[1])
    for begin in range(0, len(logits), rows):
        part = logits[begin : begin + rows]
        wanted = targets[begin : begin + rows].unsqueeze(1)
        log_probs = torch.log_softmax(part.float(), dim=1)
        total -= log_probs.gather(1, wanted).sum() * scale
        if with_slopes:
            slope = log_probs.exp_()
            slope.scatter_add_(1, wanted, torch.full_like(wanted, -1, dtype=slope.dtype))
            part.copy_(slope.mul_(scale))
    return total


def slopes_bytes(like: Tensor) -> int:
    """Memory that ``to_slopes`` takes at most, beside logits of the same format and device."""
    return 0 if _loops_take(like) else 3 * 4 * LOGITS_IN_FP32


def _loops_take(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and has_loops(tensor.dtype)


def prepare(dtype: torch.dtype, progress: Progress | None = None) -> None:
    """Compile now, so that the time and the memory it takes are not an update's."""
    if has_loops(dtype):
        compiled("pointwise_kernel", Spec(dtype == torch.bfloat16), progress)


def _run(
    what: int,
    like: Tensor,
    count: int,
    arrays: dict[int, Tensor],
    numbers: dict[int, int] | None = None,
) -> None:
    """Divide ``count`` vectors or rows among threads."""
    engine = compiled("pointwise_kernel", Spec(like.dtype == torch.bfloat16))
    plan = np.zeros(PLAN_SIZE, np.int64)
    for place, value in (numbers or {}).items():
        plan[place] = value
    for place, tensor in arrays.items():
        plan[place] = tensor.data_ptr()
    threads = min(torch.get_num_threads(), 1 + like.numel() // _ALONE)

    def work(i: int) -> None:
        engine(what, plan.ctypes.data, count * i // threads, count * (i + 1) // threads)

    run_together(work, threads)
