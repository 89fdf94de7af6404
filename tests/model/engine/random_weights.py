"""Random rows in any format of the kernels."""

from __future__ import annotations

import numpy as np

from laplm.model.engine.formats import SUPER, Format
from laplm.model.engine.kernel_args import GROUP
from laplm.model.engine.packing import Rows
from laplm.model.engine.quantize import quantize


def random_rows(rng: np.random.Generator, form: Format, n_out: int, n_in: int) -> Rows:
    """Rows whose weights are about as large as a standard normal's."""
    if not form.minimum:
        return quantize(rng.standard_normal((n_out, n_in)).astype(np.float32), form)
    groups = -(-n_in // GROUP)
    most = 15 if form.bits == 4 else 31  # q5_1 and q5_k
    whole = rng.integers(0, most + 1, (n_out, groups * GROUP)).astype(np.int16)
    scale = rng.uniform(1, 5, (n_out, groups)) / most
    minimum = -rng.uniform(0.3, 0.7, (n_out, groups)) * scale * most
    if form.scales == "group":
        return Rows(whole, scale.astype(np.float16), minimum.astype(np.float16))
    supers = -(-groups // SUPER)
    steps = [rng.integers(0, 64, (n_out, groups)).astype(np.uint8) for _ in range(2)]
    return Rows(
        whole,
        (scale[:, :supers] / 32).astype(np.float16),
        (minimum[:, :supers] / 32).astype(np.float16),
        *steps,
    )
