"""The engine's weights for ``reference.forward``: the tapped path, in NumPy.

It computes with the numbers that the kernels compute with: the same packed weights, and inputs
rounded to bytes as the kernels do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from laplm.model.config import ModelConfig
from laplm.model.engine import kernel_args as k
from laplm.model.engine.kv_cache import to_bytes
from laplm.model.engine.matrices import HEAD, Matrix
from laplm.model.engine.packing import round_up, unpack
from laplm.model.families import has, tensor_spec
from laplm.model.tensors import Part

Array = NDArray[np.float32]
Ids = NDArray[np.int64]


class PackedWeights:
    """See ``weights.Weights``."""

    def __init__(
        self,
        config: ModelConfig,
        matrices: Sequence[Matrix],
        packed: Mapping[str, NDArray[Any]],
        rows: Mapping[str, Callable[[Ids], Array]],
    ) -> None:
        self._config, self._packed, self._rows = config, packed, rows
        self._matrices = {
            (source.spec.role, source.spec.layer): matrix
            for matrix in matrices
            for source in matrix.sources
        }
        self._head = next(matrix for matrix in matrices if matrix.name == HEAD)

    def vector(self, role: str, layer: int | None = None, part: Part = "weight") -> Array:
        """See ``weights.Weights``."""
        spec = tensor_spec(self._config, role, layer, part)
        out: Array = self._packed[spec.name][: spec.shape[0]]
        return out

    def rows(self, role: str, numbers: Ids) -> Array:
        """See ``weights.Weights``."""
        return self._rows[role](numbers)

    def linear(self, role: str, layer: int, x: Array) -> Array:
        """See ``weights.Weights``."""
        out = self._product(self._matrices[role, layer], role, x.reshape(-1, x.shape[-1]))
        if has(self._config, role, layer, "bias"):
            out = out + self.vector(role, layer, "bias")
        return out.reshape(*x.shape[:-1], -1)

    def unembed(self, x: Array) -> Array:
        """See ``weights.Weights``."""
        role = self._head.sources[0].spec.role
        out = self._product(self._head, role, x.reshape(-1, x.shape[-1]))
        return out.reshape(*x.shape[:-1], -1)

    def _product(self, matrix: Matrix, role: str, x: Array) -> Array:
        """Products with the rows of one tensor, in the tensor's order: (n, in) -> (n, out)."""
        packed, scales = (self._packed[f"{matrix.name}.{part}"] for part in ("packed", "scales"))
        if matrix.form.scales == "row":
            scales = scales.reshape(-1, k.TILE)
        if not matrix.form.is_float:
            x = round_to_int8(x)
        sources = [source for source in matrix.sources if source.spec.role == role]
        out = np.empty((len(x), sum(len(source.rows) for source in sources)), np.float32)
        start = 0
        for i, source in enumerate(matrix.sources):
            count = len(source.rows)
            if source in sources:
                which = slice(i, None, 2) if matrix.alternate else slice(None)
                tiles = packed[which], scales[which]
                out[:, source.rows] = _rows_product(tiles, matrix, x, start, start + count)
            start += 0 if matrix.alternate else count
        return out


def _rows_product(
    tiles: tuple[NDArray[Any], NDArray[Any]], matrix: Matrix, x: Array, start: int, stop: int
) -> Array:
    """Products with some rows of a matrix: (n, in) -> (n, stop - start)."""
    parts = []
    first, last = start // k.TILE, -(-stop // k.TILE)
    for tile in range(first, last, 128):  # a few megabytes of weights at a time
        packed, scales = (array[tile : min(tile + 128, last)] for array in tiles)
        rows = unpack(packed, scales, matrix.form, 128 * k.TILE, matrix.n_in)
        parts.append(x @ rows.T)
    at = start - first * k.TILE
    out: Array = np.concatenate(parts, axis=1)[:, at : at + stop - start]
    return out


def round_to_int8(x: Array) -> Array:
    """Inputs as the kernels see them: signed bytes with a scale for each group of 32."""
    n, width = x.shape
    padded = np.zeros((n, round_up(width, k.GROUP)), np.float32)
    padded[:, :width] = x
    whole, scales = to_bytes(padded.reshape(n, -1, k.GROUP))
    rounded = whole * scales[..., None]
    out: Array = rounded.reshape(n, -1)[:, :width]
    return out
