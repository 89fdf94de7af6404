"""What ``laplm bench`` measures a machine's limits with."""

from __future__ import annotations

from typing import Any

from laplm.model.engine import kernel_args as k
from laplm.model.engine import tiles
from laplm.model.engine.formats import Format
from laplm.native import lower
from laplm.native.isa import Isa
from laplm.native.simd import load, splat, sum_lanes

READ, MULTIPLY = 0, 1  # what a probe does


def build_probe(isa: Isa, form: Format) -> Any:
    """The function to compile, which does one of two things.

    ``READ`` (a address, b bytes): read memory as fast as one thread can; returns a checksum.
    ``MULTIPLY`` (a address of 1 MiB, b inputs, c repeats): the inner loop of linear layers, on
    2 x 16 rows and 4 tokens that stay in the fastest cache; returns how many numbers it multiplied.
    """
    rows = tiles.rows_together(isa, form)
    group_bytes = form.group_bytes
    tile = tiles.make_tile(isa, form, rows, 4)

    @lower.kernel
    def read(base: int, size: int) -> int:
        a, b, c, d = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
        for i in range(0, size // 4 - 63, 64):
            a, b = a + load(base, i), b + load(base, i + 16)
            c, d = c + load(base, i + 32), d + load(base, i + 48)
        return int(sum_lanes(a + b + (c + d)))

    @lower.kernel
    def probe(what: int, a: int, b: int, c: int) -> int:
        if what == READ:
            return read(a, b)
        weights, x, scales, out, bias = a, a + 262144, a + 393216, a + 524288, a + 655360
        for _ in range(c):
            tile(weights, b // k.GROUP * group_bytes, bias, 64, x, b * 4, scales, scales + 65536,
                 4096, b // k.GROUP, out, 4096, bias, k.STORE, 0)  # fmt: skip
        return rows * 16 * 4 * b * c

    return probe
