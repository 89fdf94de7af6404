"""The scale of each int4 group, compiled: the candidate that leaves the least squared error.

Sixteen groups are searched at once, one a lane, and a group's errors are added one after the
other: every CPU chooses the same.
"""

from __future__ import annotations

from typing import Any

from laplm.native import lower, simd

INFINITY = float("inf")


def build(width: int, n_candidates: int) -> Any:
    """The function to compile: ``engine(groups, candidates, out, n_blocks)``, all int64.

    ``groups`` is the address of float32 (n_blocks, width, 16), ``candidates`` that of the scales to
    try, (n_blocks, n_candidates, 16), and ``out`` that of (n_blocks, width + 1, 16): the numbers as
    whole steps -8…7 of the scale, then which candidate that is.
    """
    load, store, splat, where_less = simd.load, simd.store, simd.splat, simd.where_less
    absolute, round_even = simd.absolute, simd.round_even
    minimum, maximum = simd.minimum, simd.maximum

    @lower.inlined
    def inverse_of(scale: Any) -> Any:
        """1 / scale, or 0 where the scale is 0."""
        return where_less(splat(0.0), absolute(scale), splat(1.0) / scale, splat(0.0))

    @lower.inlined
    def steps_of(x: Any, inverse: Any) -> Any:
        return minimum(maximum(round_even(x * inverse), splat(-8.0)), splat(7.0))

    @lower.kernel
    def search(groups: int, candidates: int, out: int) -> None:
        least, best = splat(INFINITY), load(candidates, 0)
        chosen, number = splat(0.0), splat(0.0)
        for c in range(n_candidates):
            scale = load(candidates, c * 16)
            inverse = inverse_of(scale)
            error = splat(0.0)
            for i in range(width):
                x = load(groups, i * 16)
                off = steps_of(x, inverse) * scale - x
                error = error + off * off
            best = where_less(error, least, scale, best)
            chosen = where_less(error, least, number, chosen)
            least = where_less(error, least, error, least)
            number = number + splat(1.0)
        inverse = inverse_of(best)
        for i in range(width):
            store(out, i * 16, steps_of(load(groups, i * 16), inverse))
        store(out, width * 16, chosen)

    @lower.kernel
    def engine(groups: int, candidates: int, out: int, n_blocks: int) -> int:
        for n in range(n_blocks):
            search(
                groups + n * width * 64, candidates + n * n_candidates * 64,
                out + n * (width + 1) * 64,
            )  # fmt: skip
        return 0

    return engine
