"""The cross-entropy loss, without ever holding all logits at once.

GPT-2's vocabulary makes (tokens, V) logits the largest array of training by far: 1024 tokens are
206 MB in fp32, and the softmax and its gradient as much again. Here a chunk of tokens at a time
goes all the way from hidden state to gradient, so only (chunk, V) numbers exist.

Shapes: N tokens (B * T), C = n_embd, V vocabulary.
"""

from __future__ import annotations

from typing import Any

from laplm.errors import MissingExtraError
from laplm.tune.data.corpus import IGNORE
from laplm.tune.kernels.pointwise import cross_entropy_grad_

try:
    import torch
    from torch import Tensor
except ModuleNotFoundError as error:
    raise MissingExtraError("Training a model", "tune") from error


def chunked_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    chunk_size: int = 1024,
    count: int | None = None,
) -> Tensor:
    """Mean loss, in nats a token, of predicting ``targets`` from ``hidden``.

    Args:
        hidden: (..., C) output of the last layer norm.
        weight: (V, C) output matrix.
        targets: (...) token ids; ``IGNORE`` marks positions that do not count, and cost nothing.
        chunk_size: tokens whose logits exist at one time.
        count: divide the sum by this instead of the number of positions that count: by that of
            a whole batch, when this is one part of it.

    Returns:
        A scalar; 0 when every position is ignored.
    """
    flat = hidden.reshape(-1, hidden.shape[-1])
    chosen = targets.reshape(-1)
    counted = chosen != IGNORE
    if not bool(counted.all()):
        flat, chosen = flat[counted], chosen[counted]
    count = max(1, len(chosen) if count is None else count)
    loss: Tensor = _ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        flat, weight, chosen, chunk_size, count, torch.is_grad_enabled()
    )
    return loss


class _ChunkedCrossEntropy(torch.autograd.Function):
    """The loss; gradients are computed in the forward pass, while a chunk's logits exist."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,  # (N, C)
        weight: Tensor,  # (V, C)
        targets: Tensor,  # (N,)
        chunk_size: int,
        count: int,
        with_gradients: bool,
    ) -> Tensor:
        device = hidden.device.type
        autocast = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if autocast else hidden.dtype
        matrix = weight.to(dtype)
        # Of a frozen output matrix no gradient is wanted, which is a third of the work here.
        wanted = [with_gradients and needed for needed in ctx.needs_input_grad[:2]]
        hidden_grad = torch.empty_like(hidden) if wanted[0] else None
        weight_grad: Tensor | None = None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for begin in range(0, len(hidden), chunk_size):
            part = slice(begin, begin + chunk_size)
            inputs = hidden[part].to(dtype)
            logits = inputs @ matrix.t()
            total += cross_entropy_grad_(logits, targets[part], 1 / count, with_grad=any(wanted))
            if hidden_grad is not None:
                hidden_grad[part] = logits @ matrix
            if wanted[1]:
                product = logits.t() @ inputs
                # Chunks are summed in fp32; one chunk needs no sum, and no memory for it.
                if weight_grad is not None:
                    weight_grad += product
                elif len(hidden) > chunk_size:
                    weight_grad = product.to(torch.float32)
                else:
                    weight_grad = product
        if wanted[1] and weight_grad is None:  # no token counts
            weight_grad = torch.zeros_like(weight)
        if weight_grad is not None:
            weight_grad = weight_grad.to(weight.dtype)
        ctx.save_for_backward(hidden_grad, weight_grad)
        return total

    @staticmethod
    def backward(
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None, None, None, None]:
        (upstream,) = grad_outputs
        hidden_grad, weight_grad = ctx.saved_tensors
        if float(upstream) != 1:  # a copy of the largest gradient there is, where it is not needed
            hidden_grad, weight_grad = (
                None if grad is None else grad * upstream for grad in (hidden_grad, weight_grad)
            )
        return hidden_grad, weight_grad, None, None, None, None
