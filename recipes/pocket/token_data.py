"""Token files: documents as one stream of tokens, in windows that run on from one to the next.

Shapes: B batch, T positions of a window.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from laplm.errors import InputError
from laplm.files import write_file
from laplm.tune.data.corpus import Batch, Windows, shuffled_ids


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
        """Write to one ``.npz`` file.

        Raises:
            WriteError: the disk is full or cannot be written.
        """
        arrays: dict[str, Any] = {
            "tokens": self.tokens, "starts": self.starts, "n_bytes": self.n_bytes,
        }  # fmt: skip
        write_file(path, lambda file: np.savez(file, **arrays))

    @classmethod
    def load(cls, path: Path) -> TokenData:
        """Read what ``save`` wrote."""
        with np.load(path) as data:
            return cls(tokens=data["tokens"], starts=data["starts"], n_bytes=int(data["n_bytes"]))


class TokenWindows:
    """Windows of T + 1 tokens: T inputs and, one further on, T targets.

    A window begins at a document's first token, as a prompt does, or every T tokens further into
    a document longer than a window; it runs on into the documents that follow. So the model
    is trained to begin a text at position 0, and no token is left out.

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
        chosen = shuffled_ids(len(self), self.seed, number * batch_size, batch_size)
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


@dataclass(frozen=True)
class ShortFirst:
    """Token files whose first batches have short windows, in as many more of them.

    Attention to long windows costs most when there is least to find in them (Li et al. 2022,
    arXiv:2108.06084).

    Attributes:
        data: the documents.
        short_positions: tokens of a short window; the usual length is a multiple of it.
        batches: how many batches have them.
    """

    data: TokenData
    short_positions: int
    batches: int

    @property
    def largest_id(self) -> int:
        """See ``Corpus``."""
        return self.data.largest_id

    def windows(self, n_positions: int, seed: int) -> Windows:
        """See ``Corpus``.

        Raises:
            InputError: the usual length is no multiple of the short one.
        """
        if n_positions % self.short_positions:
            raise InputError(
                f"short_positions is {self.short_positions}, but n_positions, {n_positions}, "
                "must be a multiple of it"
            )
        long = self.data.windows(n_positions, seed)
        return _ShortFirstWindows(long, self.data.windows(self.short_positions, seed), self.batches)

    def heldout(self, n_positions: int, limit: int) -> Batch:
        """See ``Corpus``."""
        return self.data.heldout(n_positions, limit)

    def bits_per_byte(self, nats_per_token: float) -> float:
        """See ``Corpus``."""
        return self.data.bits_per_byte(nats_per_token)

    def digest(self) -> str:
        """See ``Corpus``: of the documents, however they are cut."""
        return self.data.digest()


@dataclass(frozen=True)
class _ShortFirstWindows:
    long: Windows
    short: Windows
    batches: int

    @property
    def n_positions(self) -> int:
        return self.long.n_positions

    def batch(self, number: int, batch_size: int) -> Batch:
        if number < self.batches:
            more = self.long.n_positions // self.short.n_positions
            return self.short.batch(number, batch_size * more)
        return self.long.batch(number, batch_size)
