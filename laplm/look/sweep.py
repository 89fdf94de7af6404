"""Many runs that diverge from one run at a single sublayer each: only what follows is computed.

An ablation of every head, or a patch at every position, is hundreds of forward passes that are
nearly the same. Here a run starts at the sublayer where it diverges from the original, with the
residual stream it has there; the runs go on together, so every matrix is read once for many of
them; and in the last layer only the last position is worked out, whose logits are asked for.
The tests bind this path to single passes with a ``tap``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from laplm.model.config import ModelConfig
from laplm.model.families import family_of
from laplm.model.weights import Weights
from laplm.progress import Progress

Array = NDArray[np.float32]

ROWS = 512
"""Positions, of all runs together, that go through a layer at once: few enough for the caches."""


@dataclass(frozen=True)
class Branch:
    """Runs that diverge from the original at the same sublayer.

    Attributes:
        step: how many sublayers they share with it: ``2 * layer`` is before the layer's attention,
            ``2 * layer + 1`` before its feed-forward, ``2 * n_layer`` after all. Where both read
            the layer's input (``parallel_residual``), they are one step, and nothing lies between:
            ``2 * layer + 1`` is after them.
        count: how many runs.
        streams: the residual streams of some of them at that place: a slice of ``range(count)``
            to (runs, T, C), or (runs, 1, C) of the last position from ``2 * n_layer - 1`` on.
    """

    step: int
    count: int
    streams: Callable[[slice], Array]


class Finished(NamedTuple):
    """Runs that have come to their end: the first and what their logits (runs, V) are."""

    start: int
    logits: Array


def sweep(
    branches: Sequence[Branch],
    weights: Weights,
    config: ModelConfig,
    n_positions: int,
    progress: Progress | None = None,
) -> Iterator[Finished]:
    """Bring every run to its end.

    Args:
        branches: in the order of their steps. Their runs are numbered in this order from 0.
        weights: the model's weights.
        config: the model's sizes.
        n_positions: T, the length of the prompt.
        progress: called with ("runs", sublayers done, of so many).

    Yields:
        Some runs at a time, in order, with the logits after the last position.
    """
    assert [branch.step for branch in branches] == sorted(branch.step for branch in branches)
    end = 2 * config.n_layer
    total = sum(branch.count * (end + 1 - branch.step) for branch in branches)
    done = start = 0
    for group in _groups(branches, max(1, ROWS // n_positions)):
        x = np.empty((0, n_positions, config.n_embd), np.float32)
        for step in range(group[0][0].step, end + 1):
            if step >= end - 1:
                x = x[:, -1:]
            joining = [branch.streams(some) for branch, some in group if branch.step == step]
            x = np.concatenate([x, *(new[:, -x.shape[1] :] for new in joining)])
            if step < end:
                x = _next_sublayer(x, step, weights, config)
            done += len(x)
            if progress is not None:
                progress("runs", done, total)
        yield Finished(start, family_of(config).unembed(x[:, -1], weights, config))
        start += len(x)


def _next_sublayer(x: Array, step: int, weights: Weights, config: ModelConfig) -> Array:
    """One sublayer more for all runs; of the last layer only what the last position needs."""
    family = family_of(config)
    layer, past_attention = divmod(step, 2)
    if past_attention:
        if config.parallel_residual:
            return x
        return x + family.feed_forward(x, layer, weights, config)
    last = layer == config.n_layer - 1
    added = family.attention(x, layer, weights, config, last_only=last)
    x = x[:, -added.shape[1] :]
    if config.parallel_residual:
        added = added + family.feed_forward(x, layer, weights, config)
    return x + added


def _groups(branches: Sequence[Branch], size: int) -> Iterator[list[tuple[Branch, slice]]]:
    """Runs in order, so many at a time."""
    group: list[tuple[Branch, slice]] = []
    room = size
    for branch in branches:
        start = 0
        while start < branch.count:
            some = slice(start, min(branch.count, start + room))
            group.append((branch, some))
            room -= some.stop - start
            start = some.stop
            if room == 0:
                yield group
                group, room = [], size
    if group:
        yield group
