"""Rotary position embedding: ``families.rope.rope`` for one head of one token, in place."""

from __future__ import annotations

from typing import Any

from laplm.native import lower
from laplm.native.simd import get_f32, load, set_f32, store


def table_width(rotary_dim: int) -> int:
    """Floats of a token's cosines and sines, each padded to whole vectors."""
    return 2 * (-(-(rotary_dim // 2) // 16) * 16)


def make_rotate(rotary_dim: int) -> Any:
    """``rotate(row, table)``: components i and i + rotary_dim / 2 turn together."""
    half = rotary_dim // 2
    sines = table_width(rotary_dim) // 2
    whole = half // 16 * 16  # vectors that hold components of the first half alone

    @lower.kernel
    def rotate(row: int, table: int) -> None:
        for i in range(0, whole, 16):
            first, second = load(row, i), load(row, half + i)
            cos, sin = load(table, i), load(table, sines + i)
            store(row, i, first * cos - second * sin)
            store(row, half + i, second * cos + first * sin)
        for i in range(whole, half):
            one, other = get_f32(row, i), get_f32(row, half + i)
            cosine, sine = get_f32(table, i), get_f32(table, sines + i)
            set_f32(row, i, one * cosine - other * sine)
            set_f32(row, half + i, other * cosine + one * sine)

    return rotate
