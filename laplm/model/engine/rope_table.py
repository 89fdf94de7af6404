"""Cosines and sines of rotary positions, for the tokens of a pass."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from laplm.model.config import ModelConfig
from laplm.model.engine.packing import round_up
from laplm.model.families.rope import rope_cos_sin, rope_frequencies
from laplm.native.memory import aligned

Array = NDArray[np.float32]
_AT_A_TIME = 256  # positions that are worked out together


class RopeTable:
    """What the kernels turn the heads of some layers by.

    Attributes:
        key: The same for two layers that turn alike.
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        self._config, self._layer = config, layer
        self.key: bytes = rope_frequencies(config, layer).tobytes()
        self._half = config.rotary_dim // 2
        self._width = 2 * round_up(self._half, 16)
        self._known = np.zeros((0, self._width), np.float32)
        self._count = 0  # rows of it that are worked out
        self._tokens = np.zeros((0, self._width), np.float32)

    def grow(self, tokens: int) -> int:
        """Make room for so many tokens; returns the address of [token][cosines, sines]."""
        self._tokens = aligned(tokens * self._width, np.float32).reshape(tokens, -1)
        return int(self._tokens.ctypes.data)

    def look_up(self, positions: Sequence[int]) -> None:
        """Write the rows of the tokens at these positions."""
        largest = max(positions)
        while largest >= self._count:
            if self._count == len(self._known):  # twice as many, so that long texts copy them once
                more = np.zeros((max(_AT_A_TIME, self._count), self._width), np.float32)
                self._known = np.concatenate([self._known, more])
            # In blocks of one size: a row's bits shall not depend on how many are worked out.
            self._known[self._count : self._count + _AT_A_TIME] = self._rows(self._count)
            self._count += _AT_A_TIME
        if len(positions) == 1:
            self._tokens[0] = self._known[largest]
        else:  # any other mode than "clip" makes a copy first
            np.take(self._known, positions, axis=0, out=self._tokens[: len(positions)], mode="clip")

    def _rows(self, first: int) -> Array:
        rows = np.zeros((_AT_A_TIME, 2, self._width // 2), np.float32)
        at = np.arange(first, first + _AT_A_TIME)
        for part, values in enumerate(rope_cos_sin(self._config, self._layer, at)):
            rows[:, part, : self._half] = values
        return rows.reshape(_AT_A_TIME, -1)
