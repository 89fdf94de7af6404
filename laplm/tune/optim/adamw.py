"""AdamW for weights in bfloat16: what rounding takes from a weight is kept beside it.

The model works with weights in bfloat16; the optimiser keeps what was rounded off
(``master_weights.py``). Moments are bfloat16 too (DeepSeek-AI 2024, arXiv:2412.19437, section
3.3.3), as long as what a step adds to them is not lost in the rounding. So a weight takes 10 bytes
in all, gradient included, where fp32 takes 16.

On a CPU one kernel does all of it, while a weight's numbers are in the cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from laplm.errors import MissingExtraError
from laplm.progress import Progress
from laplm.tune.kernels.runtime import load_kernel, parallel_for
from laplm.tune.optim.master_weights import join_master, split_master
from laplm.tune.optim.optimizer import Optimizer
from laplm.tune.processes import local_shard

try:
    import torch
    from torch import Tensor
except ModuleNotFoundError as error:
    raise MissingExtraError("Training a model", "tune") from error

_STEPS_OF_BF16 = 64
"""A moment in bfloat16 has 256 steps between powers of two: a step must move it by some."""


class SplitAdamW(Optimizer):
    """AdamW (Loshchilov and Hutter 2019, algorithm 2) over weights in bfloat16.

    Its state holds ``master_low``, the lower half of each weight, and the two moments. ``scale``
    of a group multiplies gradients before they are used, which is how they are clipped.

    Attributes:
        grad_sums: gradients of several batches, added up in fp32 by ``accumulate``.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(
            params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0, "scale": 1.0}
        )
        self.grad_sums: dict[Tensor, Tensor] = {}
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                state["step"] = 0
                state["master_low"] = torch.zeros_like(parameter, dtype=torch.int16)
                for name, beta in zip(("exp_avg", "exp_avg_sq"), betas, strict=True):
                    fine = (1 - beta) * _STEPS_OF_BF16 < 1
                    state[name] = torch.zeros_like(
                        parameter, dtype=torch.float32 if fine else torch.bfloat16
                    )

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step of every weight that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                gradient = self.gradient(parameter)
                if gradient is not None:
                    _update(parameter, gradient, self.state[parameter], group)

    @torch.no_grad()
    def accumulate(self) -> None:
        """Take gradients away from the weights and add them to ``grad_sums``."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if parameter in self.grad_sums:
                    self.grad_sums[parameter] += parameter.grad
                else:
                    self.grad_sums[parameter] = parameter.grad.to(torch.float32)
                parameter.grad = None

    def gradient(self, parameter: Tensor) -> Tensor | None:
        """The gradient of the next step."""
        return self.grad_sums.get(parameter, parameter.grad)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients."""
        super().zero_grad(set_to_none)
        self.grad_sums.clear()


def _update(weight: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    state["step"] += 1
    beta1, beta2 = group["betas"]
    numbers = (
        beta1,
        beta2,
        group["eps"],
        group["scale"],
        1 - group["lr"] * group["weight_decay"],
        group["lr"] / (1 - beta1 ** state["step"]),
        1 / math.sqrt(1 - beta2 ** state["step"]),
    )
    arrays = tuple(
        local_shard(array)
        for array in (weight, state["master_low"], gradient, state["exp_avg"], state["exp_avg_sq"])
    )
    if weight.device.type == "cpu" and all(array.is_contiguous() for array in arrays):
        _update_on_cpu(arrays, numbers)
    else:
        adamw_update_torch(*arrays, *numbers)  # type: ignore[call-arg]


def adamw_update_torch(
    weight: Tensor,
    master_low: Tensor,
    gradient: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    beta1: float,
    beta2: float,
    eps: float,
    scale: float,
    decay: float,
    rate: float,
    correction: float,
) -> None:
    """The step, readable, on any device: what the kernel does.

    Args:
        weight: bfloat16, changed in place, as are the others.
        master_low: int16, what was rounded off.
        gradient: bfloat16 or fp32; only read.
        exp_avg: the first moment.
        exp_avg_sq: the second moment.
        beta1: how much of the first moment stays.
        beta2: how much of the second moment stays.
        eps: keeps the division finite.
        scale: multiplies the gradient.
        decay: multiplies the weight.
        rate: learning rate over 1 - beta1 ** step.
        correction: 1 over the square root of 1 - beta2 ** step.
    """
    g = gradient.to(torch.float32) * scale
    m = exp_avg.to(torch.float32)
    m = m + (g - m) * (1 - beta1)
    v = exp_avg_sq.to(torch.float32) * beta2 + g * g * (1 - beta2)
    exact = join_master(weight, master_low) * decay - rate * m / (v.sqrt() * correction + eps)
    upper, rest = split_master(exact)
    weight.copy_(upper)
    master_low.copy_(rest)
    exp_avg.copy_(m)
    exp_avg_sq.copy_(v)


# --- on a CPU -----------------------------------------------------------------------------------

MIN_PARALLEL_WORK = 1 << 16  # numbers that are not worth waking other threads for


def precompile(progress: Progress | None = None) -> None:
    """Compile now, so that the time and the memory it takes are not a step's."""
    load_kernel("adamw_kernel", (torch.bfloat16,) * 3, progress)


def _update_on_cpu(arrays: tuple[Tensor, ...], numbers: tuple[float, ...]) -> None:
    adamw_update = load_kernel("adamw_kernel", tuple(array.dtype for array in arrays[2:]))
    n, threads = arrays[0].numel(), torch.get_num_threads()
    beta1, beta2, *rest = numbers
    floats = np.array([1 - beta1, beta2, 1 - beta2, *rest], np.float32)

    def part(begin: int, end: int) -> None:
        addresses = np.array([a.data_ptr() + begin * a.element_size() for a in arrays], np.int64)
        adamw_update(end - begin, addresses.ctypes.data, floats.ctypes.data, 0)

    if n <= MIN_PARALLEL_WORK:
        part(0, n)
        return
    parallel_for(lambda i: part(n * i // threads, n * (i + 1) // threads), threads)
