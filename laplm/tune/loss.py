"""The cross-entropy loss, without ever holding all logits at once.

GPT-2's vocabulary makes (tokens, V) logits the largest array of training by far: 1024 tokens are
206 MB in fp32, and the softmax and its gradient as much again. Here a chunk of tokens at a time
goes all the way from hidden state to gradient, so only (chunk, V) numbers exist.

Shapes: N tokens (B * T), C = n_embd, V vocabulary.
"""

from __future__ import annotations

from typing import Any

from laplm.errors import MissingExtraError

try:
    import torch
    from torch import Tensor
except ModuleNotFoundError as error:
    raise MissingExtraError("Training a model", "tune") from error

IGNORE = -100
"""The target of a position that is not learned (torch's own convention)."""


def chunked_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, chunk_size: int = 1024
) -> Tensor:
    """Mean loss, in nats a token, of predicting ``targets`` from ``hidden``.

    Args:
        hidden: (..., C) output of the last layer norm.
        weight: (V, C) output matrix.
        targets: (...) token ids; ``IGNORE`` marks positions that do not count.
        chunk_size: tokens whose logits exist at one time.

    Returns:
        A scalar; 0 when every position is ignored.
    """
    flat = hidden.reshape(-1, hidden.shape[-1])
    chosen = targets.reshape(-1)
    total: Tensor = _ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        flat, weight, chosen, chunk_size, torch.is_grad_enabled()
    )
    return total / (chosen != IGNORE).sum().clamp(min=1)


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Summed loss; gradients are computed in the forward pass, while a chunk's logits exist."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,  # (N, C)
        weight: Tensor,  # (V, C)
        targets: Tensor,  # (N,)
        chunk_size: int,
        with_gradients: bool,
    ) -> Tensor:
        device = hidden.device.type
        autocast = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if autocast else hidden.dtype
        matrix = weight.to(dtype)
        hidden_grad = torch.empty_like(hidden) if with_gradients else None
        weight_grad = torch.zeros_like(weight, dtype=torch.float32) if with_gradients else None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for begin in range(0, len(hidden), chunk_size):
            part = slice(begin, begin + chunk_size)
            inputs = hidden[part].to(dtype)
            counted = targets[part] != IGNORE
            rows = targets[part].clamp(min=0).unsqueeze(1)
            log_probs = torch.log_softmax((inputs @ matrix.t()).float(), dim=1)
            total -= (log_probs.gather(1, rows).squeeze(1) * counted).sum()
            if hidden_grad is None or weight_grad is None:
                continue
            # d loss / d logits = softmax - one-hot
            slope = log_probs.exp_()
            slope.scatter_add_(1, rows, torch.full_like(rows, -1, dtype=slope.dtype))
            slope *= counted.unsqueeze(1)
            slope = slope.to(dtype)
            hidden_grad[part] = slope @ matrix
            weight_grad += slope.t() @ inputs
        if hidden_grad is not None and weight_grad is not None:
            ctx.save_for_backward(hidden_grad, weight_grad.to(weight.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        hidden_grad, weight_grad = ctx.saved_tensors
        (upstream,) = grad_outputs
        return hidden_grad * upstream, weight_grad * upstream, None, None, None
