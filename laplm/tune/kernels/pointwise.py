"""GELU, and cross-entropy with its gradient: one pass over memory where torch makes several.

Torch's GELU of bfloat16 numbers takes ten times as long as memory would, and softmax with its
gradient goes through the logits six times. They are a tenth of a step between them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from laplm.errors import MissingExtraError
from laplm.progress import Progress
from laplm.tune.kernels.runtime import has_kernel, load_kernel, parallel_for

try:
    import torch
    from torch import Tensor
    from torch.nn import functional
except ModuleNotFoundError as error:
    raise MissingExtraError("Training a model", "tune") from error

LANES = 16
MIN_PARALLEL_WORK = 1 << 18  # numbers that one thread is done with before another would have begun

GELU, GELU_GRAD, CROSS_ENTROPY_GRAD, CROSS_ENTROPY = range(4)

# Places in the arguments of a call, an array of int64; arrays are given by their addresses.
(
    X,  # GELU's input, or logits (N, V), which their gradient replaces
    D_OUT,  # gradient of GELU's output
    OUT,  # GELU's output, or the gradient of its input
    N_VOCAB,  # V
    TARGETS,  # (N,) int64
    STATS,  # (N, 3) float: largest logit, sum of exponentials less that, logit of the target
    SCALE,  # one float that the gradient is multiplied by
    N_ARGS,
) = range(8)

LOGITS_IN_FP32 = 1 << 22
"""Logits that torch has in fp32 at one time, so that all steps to a gradient stay in cache."""


@dataclass(frozen=True)
class Spec:
    """What the kernels are compiled for."""

    bfloat16: bool

    @property
    def bytes_per_number(self) -> int:
        """Bytes of a number in memory."""
        return 2 if self.bfloat16 else 4


def gelu(x: Tensor) -> Tensor:
    """GPT-2's activation, 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x**3))), of any shape.

    Source: Hendrycks and Gimpel 2016, arXiv:1606.08415, section 2.
    """
    if _has_kernel_for(x) and x.numel() % LANES == 0 and x.numel():
        out: Tensor = _Gelu.apply(x)  # type: ignore[no-untyped-call]
        return out
    return functional.gelu(x, approximate="tanh")


class _Gelu(torch.autograd.Function):
    """``gelu`` by the kernels."""

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
        d_out, d_x = grad_outputs[0].contiguous(), torch.empty_like(x)
        _run(GELU_GRAD, x, x.numel() // LANES, {X: x, D_OUT: d_out, OUT: d_x})
        return d_x


def cross_entropy_grad_(
    logits: Tensor, targets: Tensor, scale: float, *, with_grad: bool
) -> Tensor:
    """The cross-entropy of ``targets``, and in place of the logits its gradient by them.

    Args:
        logits: (N, V), contiguous; the gradient (softmax - one-hot) * scale takes their place, if
            it is wanted.
        targets: (N,).
        scale: multiplies the loss and the gradient.
        with_grad: whether the gradient is wanted.

    Returns:
        The sum of all losses times ``scale``, in fp32.
    """
    if not _has_kernel_for(logits) or logits.shape[1] < LANES:
        return cross_entropy_grad_torch_(logits, targets, scale, with_grad=with_grad)
    n, n_vocab = logits.shape
    stats = torch.empty(n, 3)
    scales = np.array([scale], np.float32)
    what = CROSS_ENTROPY_GRAD if with_grad else CROSS_ENTROPY
    arrays = {X: logits, TARGETS: targets.contiguous(), STATS: stats}
    _run(what, logits, n, arrays, {N_VOCAB: n_vocab, SCALE: scales.ctypes.data})
    largest, total, target = stats.unbind(1)
    return (total.log() + (largest - target)).sum() * scale


def cross_entropy_grad_torch_(
    logits: Tensor, targets: Tensor, scale: float, *, with_grad: bool
) -> Tensor:
    """``cross_entropy_grad_`` in torch, on any device."""
    total = torch.zeros((), dtype=torch.float32, device=logits.device)
    rows = max(1, LOGITS_IN_FP32 // logits.shape[1])
    for begin in range(0, len(logits), rows):
        part = logits[begin : begin + rows]
        wanted = targets[begin : begin + rows].unsqueeze(1)
        log_probs = torch.log_softmax(part.float(), dim=1)
        total -= log_probs.gather(1, wanted).sum() * scale
        if with_grad:
            grad = log_probs.exp_()
            grad.scatter_add_(1, wanted, torch.full_like(wanted, -1, dtype=grad.dtype))
            part.copy_(grad.mul_(scale))
    return total


def cross_entropy_grad_bytes(like: Tensor) -> int:
    """Memory that ``cross_entropy_grad_`` takes at most, beside logits like these."""
    return 0 if _has_kernel_for(like) else 3 * 4 * LOGITS_IN_FP32


def _has_kernel_for(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and has_kernel(tensor.dtype)


def precompile(dtype: torch.dtype, progress: Progress | None = None) -> None:
    """Compile now, so that the time and the memory it takes are not a step's."""
    if has_kernel(dtype):
        load_kernel("pointwise_kernel", Spec(dtype == torch.bfloat16), progress)


def _run(
    what: int,
    like: Tensor,
    count: int,
    arrays: dict[int, Tensor],
    numbers: dict[int, int] | None = None,
) -> None:
    """Divide ``count`` vectors or rows among threads."""
    engine = load_kernel("pointwise_kernel", Spec(like.dtype == torch.bfloat16))
    args = np.zeros(N_ARGS, np.int64)
    for place, value in (numbers or {}).items():
        args[place] = value
    for place, tensor in arrays.items():
        args[place] = tensor.data_ptr()
    threads = min(torch.get_num_threads(), 1 + like.numel() // MIN_PARALLEL_WORK)

    def work(i: int) -> None:
        engine(what, args.ctypes.data, count * i // threads, count * (i + 1) // threads)

    parallel_for(work, threads)
