"""The forward pass in plain NumPy: the specification, and the slow truth for tests.

What a layer does is in ``families/``, a file for each kind of model; here is the loop that all of
them share. The same code is the looking-in path of the engine: ``forward`` calls
``tap(name, layer, array)`` at every named activation. A tap that returns None only watches; a tap
that returns an array of the same shape replaces it (ablation, patching, steering).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from laplm.model.config import ModelConfig
from laplm.model.families import family_of, has, tensor_spec
from laplm.model.tensors import Part
from laplm.model.weights import Array, Ids, PastKV, Tap, Weights


def forward(
    ids: Ids,
    weights: Weights,
    config: ModelConfig,
    past: PastKV | None = None,
    tap: Tap | None = None,
    last_only: bool = False,
) -> Array:
    """Token ids (T,) to logits (T, V), or (1, V) of the last position when ``last_only``.

    ``past`` is read and grows by T positions. The caller checks that ids are in the vocabulary
    and that P + T <= n_ctx.
    """
    family = family_of(config)
    n_past = 0 if past is None else past.length

    def hook(name: str, layer: int | None, x: Array) -> Array:
        replaced = None if tap is None else tap(name, layer, x)
        return x if replaced is None else replaced

    positions = np.arange(n_past, n_past + len(ids))
    x = family.embed(ids, positions, weights, config, hook)  # (T, C)
    for layer in range(config.n_layer):
        # Attention: move information between positions.
        x = before = hook("resid_pre", layer, x)  # (T, C)
        x = x + hook("attn_out", layer, family.attention(x, layer, weights, config, past, hook))
        # Feed-forward: think about each position by itself.
        if not config.parallel_residual:
            x = before = hook("resid_mid", layer, x)  # (T, C)
        x = x + hook("mlp_out", layer, family.feed_forward(before, layer, weights, config, hook))
        x = hook("resid_post", layer, x)  # (T, C)
    if past is not None:
        past.append(len(ids))
    return family.unembed(x[-1:] if last_only else x, weights, config, hook)  # (T, V)


class DenseWeights:
    """fp32 tensors by their names in the checkpoint."""

    def __init__(self, tensors: Mapping[str, Array], config: ModelConfig) -> None:
        self.tensors, self._config = tensors, config

    def of(self, role: str, layer: int | None = None, part: Part = "weight") -> Array:
        """A tensor as it is stored.

        Raises:
            KeyError: the model has none of this role.
        """
        return self.tensors[tensor_spec(self._config, role, layer, part).name]

    def matrix(self, role: str, layer: int | None = None) -> Array:
        """A matrix with a row for each output: (out, in).

        Raises:
            KeyError: the model has none of this role.
        """
        found = tensor_spec(self._config, role, layer)
        stored = self.tensors[found.name]
        return stored.T if found.layout == "in_out" else stored

    def vector(self, role: str, layer: int | None = None, part: Part = "weight") -> Array:
        """See ``Weights``."""
        return self.of(role, layer, part)

    def rows(self, role: str, numbers: Ids) -> Array:
        """See ``Weights``."""
        out: Array = self.of(role)[numbers]
        return out

    def linear(self, role: str, layer: int, x: Array) -> Array:
        """See ``Weights``."""
        flat = x.reshape(-1, x.shape[-1])
        out: Array = flat @ self.matrix(role, layer).T
        if has(self._config, role, layer, "bias"):
            out = out + self.of(role, layer, "bias")
        return out.reshape(*x.shape[:-1], -1)

    def unembed(self, x: Array) -> Array:
        """See ``Weights``."""
        matrix = self.of("embed" if self._config.tied else "unembed")
        out: Array = x.reshape(-1, x.shape[-1]) @ matrix.T
        return out.reshape(*x.shape[:-1], -1)
