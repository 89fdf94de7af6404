"""Every compiled activation function is the reference's."""

from __future__ import annotations

import numpy as np
import pytest
from running import compiled

from laplm.model.engine.kernels.activation import activate
from laplm.model.engine.model import _ACTIVATIONS
from laplm.model.families.activation import ACTIVATIONS, activation
from laplm.native import lower
from laplm.native.isa import Isa
from laplm.native.memory import aligned

pytest_plugins = ("running",)


@lower.kernel
def engine(kind: int, base: int, count: int, _: int) -> int:
    for i in range(0, count, 16):
        activate(kind, base, i)
    return 0


@pytest.mark.parametrize("name", sorted({*ACTIVATIONS} - {"linear"}))
def test_an_activation_function_is_the_references(isa: Isa, name: str) -> None:
    x = np.concatenate([np.linspace(-12, 12, 317), [-100, 100, 0]]).astype(np.float32)
    out = aligned(len(x), np.float32)
    out[:] = x
    compiled(isa, "activations", engine)(_ACTIVATIONS[name], out.ctypes.data, len(x), 0)
    np.testing.assert_allclose(out, activation(name, x), rtol=2e-5, atol=2e-6)
