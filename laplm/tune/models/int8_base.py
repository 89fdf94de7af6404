"""A frozen linear layer in int8, for adapters on models that would not fit otherwise.

One scale for each output, the largest of its weights; a whole number up to 127 is exact in
bfloat16, so only the rounding of the weights themselves is lost (as QLoRA does with 4 bits;
Dettmers et al. 2023, arXiv:2305.14314, section 3). Weights are dequantized for the product they
are in, forwards and again backwards, and no longer.
"""

from __future__ import annotations

from typing import Any

from laplm.errors import MissingExtraError

try:
    import torch
    from torch import Tensor, nn
except ModuleNotFoundError as error:
    raise MissingExtraError("Training a model", "tune") from error


class Int8Conv1D(nn.Module):
    """``x @ weight + bias`` with a weight (inputs, outputs) in int8; it cannot be trained."""

    weight: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        """Round a weight (inputs, outputs) in fp32."""
        super().__init__()
        scale = weight.abs().amax(dim=0) / 127
        scale = torch.where(scale > 0, scale, 1.0)  # a column of zeros
        self.register_buffer("weight", (weight / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("bias", bias.clone())

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, inputs) -> (B, T, outputs)."""
        product: Tensor = _Product.apply(x, self.weight, self.scale)  # type: ignore[no-untyped-call]
        return product + self.bias.to(x.dtype)

    def dequantized(self) -> Tensor:
        """The weight that it computes with, in fp32."""
        return self.weight * self.scale


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(weight, scale)
        out: Tensor = (x @ weight.to(x.dtype)).mul_(scale.to(x.dtype))
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (grad,) = grad_outputs
        weight, scale = ctx.saved_tensors
        return (grad * scale.to(grad.dtype)) @ weight.to(grad.dtype).t(), None, None
