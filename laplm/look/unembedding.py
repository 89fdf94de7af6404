"""A vector of the residual stream, read as what it adds to every logit.

The last layer norm is all that keeps a logit from being a sum over the parts of the residual
stream; with its scale held, it is one. Source: Elhage et al. 2021, "A Mathematical Framework for
Transformer Circuits", section "Logit attribution".
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from laplm.look import passes
from laplm.look.view import Model

Array = NDArray[np.float32]


def output_matrix(model: Model) -> Array:
    """The matrix that makes logits, (V, C): of its own, or the token embedding when tied."""
    return passes.dense_weights(model).of("embed" if model.config.tied else "unembed")


def through_last_norm(model: Model, vectors: Array) -> Array:
    """Vectors (..., C) times the last norm's gain, centred where it centres: no scale, no shift."""
    gain = passes.dense_weights(model).vector("final_norm") + np.float32(model.config.norm_offset)
    if model.config.norm == "layer":
        vectors = vectors - vectors.mean(axis=-1, keepdims=True)
    out: Array = vectors * gain
    return out


def direct_logits(model: Model, vectors: Array) -> Array:
    """What vectors (..., C) add to the logits (..., V), times the last norm's scale."""
    out: Array = through_last_norm(model, vectors) @ output_matrix(model).T
    return out


def neuron_directions(model: Model, layer: int, neurons: NDArray[np.int64]) -> Array:
    """What neurons (N,) of a feed-forward write when they give 1: (N, C).

    Where a norm follows the feed-forward, its gain is in it, and its scale left out.
    """
    weights, config = passes.dense_weights(model), model.config
    directions = weights.matrix("down", layer).T[neurons]
    if config.post_norms:
        gain = weights.vector("post_norm2", layer) + np.float32(config.norm_offset)
        directions = directions * gain
    return directions


def strongest(model: Model, vectors: Array, count: int) -> tuple[list[list[str]], list[list[str]]]:
    """The tokens that each of the vectors (N, C) promotes most, and suppresses most."""
    known = min(model.tokenizer.vocab_size, model.config.vocab_size)
    logits = direct_logits(model, vectors)[:, :known]
    promoted = [passes.token_labels(model, greatest(row, count).tolist()) for row in logits]
    suppressed = [passes.token_labels(model, greatest(-row, count).tolist()) for row in logits]
    return promoted, suppressed


def greatest(values: NDArray[Any], count: int) -> NDArray[np.int64]:
    """Where the greatest of many values (V,) are, greatest first; of equal ones the first first."""
    count = min(count, len(values))
    some = np.flatnonzero(values >= np.partition(values, -count)[-count])
    out: NDArray[np.int64] = some[np.argsort(-values[some], kind="stable")][:count]
    return out
