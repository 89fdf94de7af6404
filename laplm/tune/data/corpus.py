"""What a trainer asks of data: batches in an order that is a pure function of the seed.

Shapes: B batch, T positions of a window.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]

IGNORE = -100
"""The target of a position that the loss leaves out (torch's own convention)."""


class Batch(NamedTuple):
    """Token ids of one forward pass.

    Attributes:
        inputs: token ids (B, T).
        targets: the ids that come next (B, T); ``IGNORE`` where the loss mask is False.
        segments: which document of its window each token belongs to, (B, T), ascending, -1 where
            there is none; None when windows are one text each.
    """

    inputs: Ids
    targets: Ids
    segments: Ids | None = None

    def rows(self, begin: int, end: int) -> Batch:
        """Some of the windows."""
        segments = None if self.segments is None else self.segments[begin:end]
        return Batch(self.inputs[begin:end], self.targets[begin:end], segments)


class Windows(Protocol):
    """Where a trainer gets its batches, such as ``laplm.tune.data.packing.PackedWindows``."""

    @property
    def n_positions(self) -> int:
        """Tokens of a window."""
        ...

    def batch(self, number: int, batch_size: int) -> Batch:
        """Batch ``number``, the same whenever asked."""
        ...


class Corpus(Protocol):
    """Text as a trainer takes it, such as ``laplm.tune.data.packing.Documents``."""

    @property
    def largest_id(self) -> int:
        """The largest token id there is; -1 when there is none."""
        ...

    def windows(self, n_positions: int, seed: int) -> Windows:
        """Windows to train on, in an order drawn from the seed."""
        ...

    def heldout(self, n_positions: int, limit: int) -> Batch:
        """At most so many windows to measure with, always the same."""
        ...

    def bits_per_byte(self, nats_per_token: float) -> float:
        """The tokenizer-independent form of a loss."""
        ...

    def digest(self) -> str:
        """A fingerprint, to tell whether data is the same."""
        ...


def perplexity(nats_per_token: float) -> float:
    """Exp of a loss; infinite where that is more than a number can be."""
    return math.exp(nats_per_token) if nats_per_token < 700 else math.inf


def shuffled_ids(n: int, seed: int, first: int, count: int) -> Ids:
    """Samples ``first`` to ``first + count`` of a run that sees all ``n`` once an epoch.

    The order is drawn anew for every epoch, from the seed alone.
    """
    numbers = np.arange(first, first + count)
    out = np.empty(count, np.int64)
    for epoch in np.unique(numbers // n):
        order = _permutation(n, seed, int(epoch))
        here = numbers // n == epoch
        out[here] = order[numbers[here] % n]
    return out


@functools.lru_cache(maxsize=4)
def _permutation(n: int, seed: int, epoch: int) -> Ids:
    return np.random.default_rng((seed, epoch)).permutation(n)
