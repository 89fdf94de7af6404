"""AdamW for weights in bfloat16: what rounding takes from a weight is kept beside it.

The model works with weights in bfloat16; the optimiser keeps what was rounded off (``halves.py``).
Moments are bfloat16 too (DeepSeek-AI 2024, arXiv:2412.19437, section 3.3.3), as long as what an
update adds to them is not lost in the rounding. So a weight takes 10 bytes in all, gradient
included, where fp32 takes 16.

On a CPU one compiled loop does all of it, while a weight's numbers are in the cache.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from laplm.errors import MissingExtraError
from laplm.gpt.cpu_features import tell_numba
from laplm.gpt.isa import Isa
from laplm.gpt.quantize import Progress
from laplm.tune.halves import join, split
from laplm.tune.loops import compiled, run_together
from laplm.tune.processes import local

try:
    import torch
    from torch import Tensor
except ModuleNotFoundError as error:
    raise MissingExtraError("Training a model", "tune") from error

_STEPS_OF_BF16 = 64
"""A moment in bfloat16 has 256 steps between powers of two: an update must move it by some."""


class SplitAdamW(torch.optim.Optimizer):
    """AdamW (Loshchilov and Hutter 2019, algorithm 2) over weights in bfloat16.

    Its state holds ``low``, the lower half of each weight, and the two moments. ``scale`` of a
    group multiplies gradients before they are used, which is how they are clipped.

    Attributes:
        sums: gradients of several batches, added up in fp32 by ``collect``.
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
        self.sums: dict[Tensor, Tensor] = {}
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                state["step"] = 0
                state["low"] = torch.zeros_like(parameter, dtype=torch.int16)
                for name, beta in zip(("exp_avg", "exp_avg_sq"), betas, strict=True):
                    fine = (1 - beta) * _STEPS_OF_BF16 < 1
                    state[name] = torch.zeros_like(
                        parameter, dtype=torch.float32 if fine else torch.bfloat16
                    )

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every weight that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                gradient = self.gradient(parameter)
                if gradient is not None:
                    _update(parameter, gradient, self.state[parameter], group)

    @torch.no_grad()
    def collect(self) -> None:
        """Take gradients away from the weights and add them to ``sums``."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if parameter in self.sums:
                    self.sums[parameter] += parameter.grad
                else:
                    self.sums[parameter] = parameter.grad.to(torch.float32)
                parameter.grad = None

    def gradient(self, parameter: Tensor) -> Tensor | None:
        """What the next update goes by."""
        return self.sums.get(parameter, parameter.grad)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients."""
        super().zero_grad(set_to_none)
        self.sums.clear()


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
        local(array)
        for array in (weight, state["low"], gradient, state["exp_avg"], state["exp_avg_sq"])
    )
    if weight.device.type == "cpu" and all(array.is_contiguous() for array in arrays):
        _update_on_cpu(arrays, numbers)
    else:
        update_plainly(*arrays, *numbers)  # type: ignore[call-arg]


def update_plainly(
    weight: Tensor,
    low: Tensor,
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
    """The update, readable, on any device: what the compiled loop does.

    Args:
        weight: bfloat16, changed in place, as are the others.
        low: int16, what was rounded off.
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
    exact = join(weight, low) * decay - rate * m / (v.sqrt() * correction + eps)
    upper, rest = split(exact)
    weight.copy_(upper)
    low.copy_(rest)
    exp_avg.copy_(m)
    exp_avg_sq.copy_(v)


# --- on a CPU -----------------------------------------------------------------------------------

_ALONE = 1 << 16  # numbers that are not worth waking other threads for


def prepare(progress: Progress | None = None) -> None:
    """Compile now, so that the time and the memory it takes are not an update's."""
    compiled("adamw", (torch.bfloat16,) * 3, progress)


def _update_on_cpu(arrays: tuple[Tensor, ...], numbers: tuple[float, ...]) -> None:
    update = compiled("adamw", tuple(array.dtype for array in arrays[2:]))
    n, threads = arrays[0].numel(), torch.get_num_threads()
    beta1, beta2, *rest = numbers
    floats = np.array([1 - beta1, beta2, 1 - beta2, *rest], np.float32)

    def part(begin: int, end: int) -> None:
        places = np.array([a.data_ptr() + begin * a.element_size() for a in arrays], np.int64)
        update(end - begin, places.ctypes.data, floats.ctypes.data, 0)

    if n <= _ALONE:
        part(0, n)
        return
    run_together(lambda i: part(n * i // threads, n * (i + 1) // threads), threads)


def build(isa: Isa, formats: tuple[torch.dtype, ...]) -> Callable[[int, int, int, int], int]:
    """The loop to compile, for the formats of gradient and moments."""
    import numba
    from numba.core import types
    from numba.core.extending import intrinsic

    tell_numba()

    def memory(kind: Any) -> tuple[Any, Any]:
        """Reading and writing number ``i`` of those of a kind that lie from an address on."""

        def place(context: Any, b: Any, base: Any, i: Any) -> Any:
            pointer = b.inttoptr(base, context.get_value_type(kind).as_pointer())
            return b.gep(pointer, [i])

        @intrinsic
        def get(_: Any, base: Any, i: Any) -> Any:
            def emit(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
                return b.load(place(context, b, *arguments))

            return kind(types.int64, types.int64), emit

        @intrinsic
        def put(_: Any, base: Any, i: Any, value: Any) -> Any:
            def emit(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
                b.store(arguments[2], place(context, b, *arguments[:2]))
                return context.get_dummy_value()

            return types.void(types.int64, types.int64, kind), emit

        return get, put

    def stored(dtype: torch.dtype) -> Any:
        # Numba knows no bfloat16: it gets the bits.
        return types.uint16 if dtype == torch.bfloat16 else types.float32

    get_int, get_float = memory(types.int64)[0], memory(types.float32)[0]
    get_weight, put_weight = memory(types.uint16)
    get_low, put_low = memory(types.int16)
    get_gradient, _ = memory(stored(formats[0]))
    get_first, put_first = memory(stored(formats[1]))
    get_second, put_second = memory(stored(formats[2]))
    inline = functools.partial(numba.njit, error_model="numpy", inline="always", _nrt=False)

    @inline
    def as_float(number: Any) -> Any:
        """A number, or the bits of one in bfloat16."""
        if isinstance(number, np.uint16):
            return np.uint32(np.uint32(number) << np.uint32(16)).view(np.float32)
        return np.float32(number)

    @inline
    def as_stored(number: Any, like: Any) -> Any:
        """A number in the format of ``like``: the nearest bfloat16, or as it is."""
        if isinstance(like, np.uint16):
            bits = np.float32(number).view(np.uint32)
            odd = (bits >> np.uint32(16)) & np.uint32(1)
            return np.uint16((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16))
        return np.float32(number)

    def update(n: int, places: int, numbers: int, _: int) -> int:
        weight, low, gradient = get_int(places, 0), get_int(places, 1), get_int(places, 2)
        first, second = get_int(places, 3), get_int(places, 4)
        more1, beta2, more2 = get_float(numbers, 0), get_float(numbers, 1), get_float(numbers, 2)
        eps, scale, decay = get_float(numbers, 3), get_float(numbers, 4), get_float(numbers, 5)
        rate, correction = get_float(numbers, 6), get_float(numbers, 7)
        for i in range(n):
            g = as_float(get_gradient(gradient, i)) * scale
            old_first, old_second = get_first(first, i), get_second(second, i)
            m = as_float(old_first)
            m = m + (g - m) * more1
            v = as_float(old_second) * beta2 + g * g * more2
            bits = (np.int32(get_weight(weight, i)) << np.int32(16)) + np.int32(get_low(low, i))
            exact = np.int32(bits).view(np.float32)
            exact = exact * decay - rate * m / (np.sqrt(v) * correction + eps)
            new = np.float32(exact).view(np.int32)
            upper = np.int32(new + np.int32(0x8000)) >> np.int32(16)
            put_weight(weight, i, np.uint16(upper))
            put_low(low, i, np.int16(new - (np.int32(upper) << np.int32(16))))
            put_first(first, i, as_stored(m, old_first))
            put_second(second, i, as_stored(v, old_second))
        return 0

    return update
