"""Token windows to train on, in an order that is a pure function of the seed.

Shapes: B batch, T positions of a window.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from laplm.errors import InputError

Ids = NDArray[np.int64]


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
        self._epoch = -1
        self._order: Ids = np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._begins)

    def batch(self, number: int, batch_size: int) -> tuple[Ids, Ids]:
        """Inputs and targets, (B, T) each, of batch ``number``; the same whenever asked."""
        first = number * batch_size
        begins = np.array([self._begin(first + i) for i in range(batch_size)])
        grid = begins[:, None] + np.arange(self.n_positions + 1)
        window = self.data.tokens[grid].astype(np.int64)
        return window[:, :-1], window[:, 1:]

    def _begin(self, sample: int) -> int:
        """Where sample number ``sample`` begins: every window once an epoch, shuffled anew."""
        epoch, index = divmod(sample, len(self._begins))
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng((self.seed, epoch)).permutation(len(self._begins))
        return int(self._begins[self._order[index]])


def consecutive_windows(data: TokenData, n_positions: int, limit: int) -> tuple[Ids, Ids]:
    """The first ``limit`` windows of the stream, side by side: inputs and targets, (B, T) each.

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
    return inputs, targets
