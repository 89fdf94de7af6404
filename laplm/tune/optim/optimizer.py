"""torch's optimisers without torch's compiler, which they load as they start and do not need.

``torch.optim.Optimizer`` marks some of its methods as not to be compiled (``torch.compile``), and
the first call of one of them imports ``torch._dynamo``: 2.7 s of CPU time at each start of
``laplm tune``, which compiles nothing with it. Here the same methods are called without the mark.
"""

from __future__ import annotations

import inspect
from typing import Any

from laplm.errors import MissingExtraError

try:
    import torch
except ModuleNotFoundError as error:
    raise MissingExtraError("Training a model", "tune") from error


class Optimizer(torch.optim.Optimizer):
    """``torch.optim.Optimizer``, for those whose ``step`` is their own."""

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)


class AdamW(Optimizer, torch.optim.AdamW):
    """``torch.optim.AdamW`` in one pass over the weights (``fused=True``)."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))

    def __init__(self, params: Any, lr: float, betas: tuple[float, float]) -> None:
        super().__init__(params, lr=lr, betas=betas, fused=True)
