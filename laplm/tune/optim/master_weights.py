"""Split bf16 master weights: a weight in fp32 as bfloat16 to compute with, and ``master_low``.

Small steps would be lost if they were added to bfloat16 alone (Micikevicius et al. 2018,
arXiv:1710.03740, section 3.1). The master copy in fp32 that keeps them is here the bfloat16 weight
and the 16 bits that rounding took from it, so no bit is held twice.
"""

from __future__ import annotations

from laplm.errors import MissingExtraError

try:
    import torch
    from torch import Tensor
except ModuleNotFoundError as error:
    raise MissingExtraError("Training a model", "tune") from error


def split_master(values: Tensor) -> tuple[Tensor, Tensor]:
    """Weights in fp32 as the nearest in bfloat16, and ``master_low`` (int16), the rest."""
    bits = values.detach().to(torch.float32).contiguous().view(torch.int32)
    # Halves go up, so that what is left fits in 16 bits with its sign.
    upper = (bits + 0x8000) >> 16
    low = (bits - (upper << 16)).to(torch.int16)
    return upper.to(torch.int16).view(torch.bfloat16), low


def join_master(weight: Tensor, master_low: Tensor) -> Tensor:
    """What ``split_master`` was given, to the last bit."""
    bits = weight.detach().contiguous().view(torch.int16).to(torch.int32) << 16
    return (bits + master_low.to(torch.int32)).view(torch.float32)
