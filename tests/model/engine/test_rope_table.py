"""The kernels turn heads by the angles of the reference, at any position."""

from __future__ import annotations

import ctypes

import numpy as np

from laplm.model.config import ModelConfig
from laplm.model.engine.rope_table import RopeTable
from laplm.model.families.rope import rope_cos_sin

CONFIG = ModelConfig(
    positions="rope", n_ctx=4096, n_embd=48, n_head=2, rope_theta=500.0, n_layer=3,
    rope_local_theta=70.0, window=(None, 8, None),
)  # fmt: skip


def test_each_token_gets_the_row_of_its_position() -> None:
    table = RopeTable(CONFIG, 0)
    address = table.grow(4)
    for positions in ([0, 1, 2, 3], [255, 256, 257], [7], [4000, 3, 4000]):
        table.look_up(np.array(positions))
        found = np.ctypeslib.as_array((ctypes.c_float * (4 * 32)).from_address(address))
        rows = found.reshape(4, 2, 16)[: len(positions)]
        cos, sin = rope_cos_sin(CONFIG, 0, np.array(positions))
        np.testing.assert_array_equal(rows[:, 0, :12], cos)
        np.testing.assert_array_equal(rows[:, 1, :12], sin)


def test_layers_that_turn_alike_share_a_table_and_others_do_not() -> None:
    keys = [RopeTable(CONFIG, layer).key for layer in range(3)]
    assert keys[0] == keys[2] != keys[1]
