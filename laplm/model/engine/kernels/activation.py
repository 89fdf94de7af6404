"""The feed-forward's activation function: ``ops.activation`` for sixteen numbers at a time."""

from __future__ import annotations

from typing import Any

from laplm.model.engine import kernel_args as k
from laplm.native import lower
from laplm.native.simd import (
    absolute,
    copy_sign,
    fma,
    load,
    maximum,
    minimum,
    round_even,
    splat,
    store,
    two_to_the,
)


@lower.inlined
def exp(x: Any) -> Any:
    """e**x by Cody-Waite reduction and the Cephes polynomial, to 2 units of the last place."""
    x = minimum(maximum(x, splat(-87.3)), splat(88.0))
    n = round_even(x * splat(1.44269504))
    r = fma(n, splat(-0.693359375), x)
    r = fma(n, splat(2.12194440e-4), r)
    p = fma(splat(1.9875691500e-4), r, splat(1.3981999507e-3))
    p = fma(p, r, splat(8.3334519073e-3))
    p = fma(p, r, splat(4.1665795894e-2))
    p = fma(p, r, splat(1.6666665459e-1))
    p = fma(p, r, splat(5.0000001201e-1))
    return two_to_the(n, fma(p, r * r, r) + splat(1.0))


@lower.inlined
def times_sigmoid(x: Any, u: Any) -> Any:
    """``x * sigmoid(u)``."""
    return x / (splat(1.0) + exp(splat(0.0) - u))


@lower.inlined
def erf(x: Any) -> Any:
    """The error function of x / sqrt(2), by Abramowitz and Stegun 7.1.26."""
    s = absolute(x) * splat(0.7071067811865476)
    t = splat(1.0) / fma(s, splat(0.3275911), splat(1.0))
    p = fma(t, splat(1.061405429), splat(-1.453152027))
    p = fma(p, t, splat(1.421413741))
    p = fma(p, t, splat(-0.284496736))
    p = fma(p, t, splat(0.254829592)) * t
    tail = p * exp(splat(0.0) - s * s)
    return copy_sign(splat(1.0) - tail, x)


@lower.kernel
def activate(kind: int, base: int, index: int) -> None:
    """Sixteen numbers in place; ``kind`` is one of ``kernel_args``' activation functions."""
    x = load(base, index)
    y = maximum(x, splat(0.0))  # RELU, and what begins with it
    if kind == k.GELU_TANH:  # 0.5 * (1 + tanh(u)) = 1 / (1 + e**(-2u))
        u = fma(x * x * x, splat(0.044715), x) * splat(1.5957691216057308)
        y = times_sigmoid(x, u)
    elif kind == k.GELU_ERF:
        y = splat(0.5) * x * (splat(1.0) + erf(x))
    elif kind == k.GELU_CLIPPED:  # it is nowhere below -10
        y = minimum(splat(0.5) * x * (splat(1.0) + erf(x)), splat(10.0))
    elif kind == k.SILU:
        y = times_sigmoid(x, x)
    elif kind == k.QUICK_GELU:
        y = times_sigmoid(x, x * splat(1.702))
    elif kind == k.RELU_SQUARED:
        y = y * y
    elif kind == k.RELU6:
        y = minimum(y, splat(6.0))
    elif kind == k.LEAKY_RELU:
        y = maximum(x, x * splat(0.01))
    elif kind == k.HARDSWISH:
        y = x * minimum(maximum(x + splat(3.0), splat(0.0)), splat(6.0)) / splat(6.0)
    elif kind == k.TANH:
        y = times_sigmoid(splat(2.0), x + x) - splat(1.0)
    elif kind == k.MISH:  # tanh(log(1 + e**x)) without a logarithm
        e = exp(minimum(x, splat(20.0)))
        e = e * (e + splat(2.0))
        y = x * (e / (e + splat(2.0)))
    elif kind == k.SIGMOID:
        y = times_sigmoid(splat(1.0), x)
    elif kind == k.LAPLACE:
        y = splat(0.5) * (splat(1.0) + erf((x - splat(0.707107)) / splat(0.282095)))
    elif kind == k.IDENTITY:
        y = x
    store(base, index, y)
