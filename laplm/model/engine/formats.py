"""How the numbers of a matrix are stored for the kernels.

The names are llama.cpp's where it has the same (ggml-common.h). A group is 32 inputs of a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from laplm.model.engine.kernel_args import GROUP, TILE

SUPER = 8  # groups whose scales and minimums are whole numbers times two numbers of their own


@dataclass(frozen=True)
class Format:
    """A weight is ``scale * whole``, or ``scale * whole + minimum``, or a float as it is.

    Attributes:
        name: of ``FORMATS``.
        bits: of a weight; 32 and 16 are floats.
        scales: what has a scale of its own: nothing, a row, a group ("fp16"), or a group whose
            scale is 6 bits times the "super" group's in fp16.
        minimum: whether a group has a minimum beside its scale.
    """

    name: str
    bits: Literal[32, 16, 8, 4]
    scales: Literal["none", "row", "group", "super"] = "none"
    minimum: bool = False

    @property
    def is_float(self) -> bool:
        """Whether inputs are multiplied as floats; else they are rounded to bytes."""
        return self.bits >= 16

    @property
    def offset(self) -> int:
        """What is added to whole numbers to store them unsigned."""
        return {8: 128, 4: 0 if self.minimum else 8}.get(self.bits, 0)

    @property
    def group_bytes(self) -> int:
        """Bytes of a tile's weights for one group of inputs."""
        return self.bits * TILE * GROUP // 8

    def scale_bytes(self, n_groups: int) -> int:
        """Bytes of a tile's scales: a row's in fp32, a group's in fp16, each with its minimum."""
        if self.scales == "group":
            return n_groups * TILE * 2 * (1 + self.minimum)
        if self.scales == "super":
            return -(-n_groups // SUPER) * SUPER_BYTES
        return TILE * 4 if self.scales == "row" else 0


SUPER_BYTES = 2 * TILE * 2 + SUPER * 2 * TILE  # fp16 scale and minimum, then bytes of each group

_ALL = (
    Format("fp32", 32),
    Format("fp16", 16),
    Format("bf16", 16),
    Format("int8", 8, "row"),
    Format("int4", 4, "group"),  # llama.cpp's q4_0
    Format("q8_0", 8, "group"),
    Format("q8_1", 8, "group", minimum=True),  # q5_1 fits in it
    Format("q8_k", 8, "super", minimum=True),  # q5_k fits in it
    Format("q4_1", 4, "group", minimum=True),
    Format("q4_k", 4, "super", minimum=True),
)
FORMATS = {each.name: each for each in _ALL}
CODES = {name: code for code, name in enumerate(FORMATS)}
"""By which a compiled forward pass tells the formats of one model apart."""
