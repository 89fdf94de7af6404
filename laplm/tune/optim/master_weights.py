"""A weight in fp32 as two halves of 16 bits: bfloat16 to compute with, and what that leaves over.

Small updates would be lost if they were added to bfloat16 alone (Micikevicius et al. 2018,
arXiv:1710.03740, section 3.1). The copy in fp32 that remembers them is here the two halves
together, so no bit is held twice.
"""

from __future__ import annotations

from laplm.errors import MissingExtraError

try:
    import torch
    from torch import Tensor
except ModuleNotFoundError as error:
    raise MissingExtraError("Training a model", "tune") from error


def split(values: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers in fp32 as the nearest in bfloat16, and what ``join`` needs besides (int16)."""
    bits = values.detach().to(torch.float32).contiguous().view(torch.int32)
    # Halves go up, so that what is left fits in 16 bits with its sign.
    upper = (bits + 0x8000) >> 16
    low = (bits - (upper << 16)).to(torch.int16)
    return upper.to(torch.int16).view(torch.bfloat16), low


def join(weight: Tensor, low: Tensor) -> Tensor:
    """What ``split`` was given, to the last bit."""
    bits = weight.detach().contiguous().view(torch.int16).to(torch.int32) << 16
    return (bits + low.to(torch.int32)).view(torch.float32)
