"""Token windows to train on, in an order that is a pure function of the seed.

Shapes: B batch, T positions of a window.
"""

from __future__ import annotations

import functools
import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from laplm.errors import InputError

Ids = NDArray[np.int64]

IGNORE = -100
"""The target of a position that is not learned (torch's own convention)."""


class Batch(NamedTuple):
    """What one forward pass learns from.

    Attributes:
        inputs: token ids (B, T).
        targets: the ids that come next (B, T); ``IGNORE`` where nothing is to be learned.
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
    """Where a trainer gets its batches: ``TokenWindows``, or ``PackedWindows``."""

    @property
    def n_positions(self) -> int:
        """Tokens of a window."""
        ...

    def batch(self, number: int, batch_size: int) -> Batch:
        """Batch ``number``, the same whenever asked."""
        ...


class Corpus(Protocol):
    """Text as a trainer takes it: ``TokenData``, or ``laplm.tune.data.packing.Documents``."""

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


def shuffled(n: int, seed: int, first: int, count: int) -> Ids:
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


@dataclass(frozen=True, kw_only=True)
class TokenData:
    """Documents as one stream of token ids.

    Attributes:
        tokens: every document's ids, one after another, each ended by ``<|endoftext|>``.
        starts: index into ``tokens`` of each document's first token.
        n_bytes: UTF-8 bytes of the text behind ``tokens``, end marks not counted.
    """

    tokens: NDArray[np.uint16]
    starts: NDArray[np.int64]
    n_bytes: int

    @property
    def bytes_per_token(self) -> float:
        """What turns nats a token into bits a byte."""
        return self.n_bytes / len(self.tokens)

    @property
    def largest_id(self) -> int:
        """The largest token id there is; -1 when there is none."""
        return int(self.tokens.max()) if len(self.tokens) else -1

    def windows(self, n_positions: int, seed: int) -> TokenWindows:
        """See ``Corpus``."""
        return TokenWindows(self, n_positions, seed)

    def heldout(self, n_positions: int, limit: int) -> Batch:
        """See ``Corpus``."""
        return consecutive_windows(self, n_positions, limit)

    def bits_per_byte(self, nats_per_token: float) -> float:
        """The tokenizer-independent form of a loss."""
        return nats_per_token / math.log(2) / self.bytes_per_token

    def digest(self) -> str:
        """A fingerprint of tokens and document starts, to tell whether data is the same."""
        digest = hashlib.sha256(np.ascontiguousarray(self.tokens, dtype="<u2").tobytes())
        digest.update(np.ascontiguousarray(self.starts, dtype="<i8").tobytes())
        return digest.hexdigest()

    def save(self, path: Path) -> None:
        """Write to one ``.npz`` file, under a temporary name until it is whole."""
        temporary = path.with_name(path.name + ".tmp")
        with temporary.open("wb") as file:
            np.savez(file, tokens=self.tokens, starts=self.starts, n_bytes=self.n_bytes)
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> TokenData:
        """Read what ``save`` wrote."""
        with np.load(path) as data:
            return cls(tokens=data["tokens"], starts=data["starts"], n_bytes=int(data["n_bytes"]))


class TokenWindows:
    """Windows of T + 1 tokens: T inputs and, one further on, T targets.

    A window begins at a document's first token, as a prompt does, or every T tokens further into
    a document longer than a window; it runs on into the documents that follow. So the model
    learns to begin a text at position 0, and no token is left out.

    Raises:
        InputError: there are not even T + 1 tokens.
    """

    def __init__(self, data: TokenData, n_positions: int, seed: int) -> None:
        last = len(data.tokens) - (n_positions + 1)
        if last < 0:
            raise InputError(
                f"the training text has {len(data.tokens)} tokens, but one window needs "
                f"{n_positions + 1}; add text or use a shorter window"
            )
        self.data = data
        self.n_positions = n_positions
        self.seed = seed
        ends = np.append(data.starts[1:], len(data.tokens))
        begins = [
            np.arange(start, end, n_positions) for start, end in zip(data.starts, ends, strict=True)
        ]
        self._begins = np.unique(np.minimum(np.concatenate(begins), last))

    def __len__(self) -> int:
        return len(self._begins)

    def batch(self, number: int, batch_size: int) -> Batch:
        """Batch ``number``, the same whenever asked."""
        chosen = shuffled(len(self), self.seed, number * batch_size, batch_size)
        begins = self._begins[chosen]
        grid = begins[:, None] + np.arange(self.n_positions + 1)
        window = self.data.tokens[grid].astype(np.int64)
        return Batch(window[:, :-1], window[:, 1:])


def consecutive_windows(data: TokenData, n_positions: int, limit: int) -> Batch:
    """The first ``limit`` windows of the stream, side by side.

    Raises:
        InputError: there are not even T + 1 tokens.
    """
    count = min(limit, (len(data.tokens) - 1) // n_positions)
    if count < 1:
        raise InputError(
            f"the held-out text has {len(data.tokens)} tokens, but one window needs "
            f"{n_positions + 1}; hold out more text or use a shorter window"
        )
    n = count * n_positions
    inputs = data.tokens[:n].astype(np.int64).reshape(count, n_positions)
    targets = data.tokens[1 : n + 1].astype(np.int64).reshape(count, n_positions)
    return Batch(inputs, targets)
