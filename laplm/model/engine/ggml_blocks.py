"""llama.cpp's blocks of quantised weights as rows that the kernels compute with as they are."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from laplm.model.engine.formats import FORMATS, Format
from laplm.model.engine.packing import Rows
from laplm.model.files.ggml_types import parts_of

_FORMATS = {
    "Q8_0": "q8_0", "Q4_0": "int4", "Q4_1": "q4_1", "Q5_0": "q8_0", "Q5_1": "q8_1",
    "Q4_K": "q4_k", "Q5_K": "q8_k",
}  # fmt: skip


def format_of(ggml_type: str) -> Format | None:
    """The format in which a type's numbers are computed with as they are; None if there is none."""
    return FORMATS[_FORMATS[ggml_type]] if ggml_type in _FORMATS else None


def rows_of(ggml_type: str, blocks: NDArray[np.uint8]) -> Rows:
    """Rows (n, bytes) of blocks, taken apart."""
    n, parts = len(blocks), parts_of(blocks, ggml_type)
    of_scales: list[Any] = [part if part is None else part.reshape(n, -1) for part in parts[1:]]
    return Rows(parts.whole.reshape(n, -1).astype(np.int16), *of_scales)
