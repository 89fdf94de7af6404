"""Causal attention and its gradient as one compiled function that threads run together.

Each thread claims heads, each of which is worked on by one thread alone, so results do not depend
on how many threads there are.
"""

from __future__ import annotations

from typing import Any

from laplm.native import lower
from laplm.native.isa import Isa
from laplm.native.simd import atomic_add, get_i64
from laplm.tune.kernels import attention as args
from laplm.tune.kernels.attention import FORWARD, Spec
from laplm.tune.kernels.attention_backward import make_backward
from laplm.tune.kernels.attention_forward import make_forward


def build(isa: Isa, spec: Spec) -> Any:
    """The function to compile: ``engine(what, args, scratch, _)``, all int64.

    ``what`` is ``FORWARD`` or ``BACKWARD``; ``args`` and ``scratch`` are addresses. Every thread
    calls it, with scratch memory of its own (``Spec.scratch_bytes``, at a multiple of 64), and
    claims heads until there are none.
    """
    forward, backward = make_forward(isa, spec), make_backward(isa, spec)

    @lower.kernel
    def engine(what: int, call: int, scratch: int, _: int) -> int:
        while True:
            head = atomic_add(call + args.NEXT_HEAD * 8, 1)
            if head >= get_i64(call, args.HEADS):
                return 0
            if what == FORWARD:
                forward(call, scratch, head)
            else:
                backward(call, scratch, head)

    return engine
