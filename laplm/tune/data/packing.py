"""Documents packed into full windows, each of them read as if it stood alone.

A window holds several documents side by side; a token attends only to its own document, and
positions begin at 0 in each (Krell et al. 2021, arXiv:2107.02027, section 3.2). So no text is cut
to fit, little is padded, and the loss is that of the documents one by one.

Shapes: B batch, T positions of a window.
"""

from __future__ import annotations

import bisect
import functools
import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from laplm.errors import InputError
from laplm.model.chat import ControlText, encode_piece
from laplm.model.tokenizer import Tokenizer
from laplm.tune.data.corpus import IGNORE, Batch, Ids, shuffled_ids
from laplm.tune.data.read import Example

_PADDING = -1


@dataclass(frozen=True)
class EncodedDocument:
    """One document as tokens.

    Attributes:
        ids: its tokens (N,), the last of them the end of the text.
        loss_mask: whether the loss counts each token, (N,). The first is never predicted.
    """

    ids: NDArray[np.int32]
    loss_mask: NDArray[np.bool_]


@dataclass(frozen=True)
class _Segment:
    """Part of a document that is read as one: ``size`` tokens from ``begin`` on, as inputs."""

    document: int
    begin: int
    size: int


def encode_example(example: Example, tokenizer: Tokenizer, end_of_text: int) -> EncodedDocument:
    """Encode a document, piece by piece, and end it.

    Pieces are encoded apart, since a prompt is encoded alone when the model is asked. The end of
    text counts in the loss after what does, else a tuned model would never stop; a chat template
    may have written it already. What the tokenizer puts before every text (a BOS) comes before a
    document too, but a template writes that itself.
    """
    in_template = any(isinstance(text, ControlText) for text, _ in example.pieces)
    ids: list[int] = [] if in_template else [*tokenizer.prefix_ids]
    loss_mask: list[bool] = [False] * len(ids)
    for n, (text, in_loss) in enumerate(example.pieces):
        if in_template:
            piece = encode_piece(text, tokenizer, within=n > 0)
        else:
            piece = tokenizer.encode(text, within=n > 0)
        ids += piece
        loss_mask += [in_loss] * len(piece)
    if not (in_template and ids and ids[-1] in tokenizer.special_token_ids):
        ids.append(end_of_text)
        loss_mask.append(bool(example.pieces) and example.pieces[-1][1])
    return EncodedDocument(np.array(ids, np.int32), np.array(loss_mask, np.bool_))


@dataclass(frozen=True)
class Documents:
    """Encoded documents to train on, or to measure with.

    Attributes:
        documents: the documents.
        n_bytes: UTF-8 bytes of their text that the loss counts, for bits per byte.
        padding: the id that stands where no document is.

    Raises:
        InputError: the loss counts no token.
    """

    documents: Sequence[EncodedDocument]
    n_bytes: int
    padding: int

    def __post_init__(self) -> None:
        if not self.n_loss_tokens:
            raise InputError("there is nothing to learn: give text of more than one token")

    @functools.cached_property
    def n_tokens(self) -> int:
        """Tokens that are read."""
        return sum(len(d.ids) - 1 for d in self.documents)

    @functools.cached_property
    def n_loss_tokens(self) -> int:
        """Tokens that the loss counts."""
        return sum(int(d.loss_mask[1:].sum()) for d in self.documents)

    @property
    def largest_id(self) -> int:
        """The largest token id there is."""
        return max(int(d.ids.max()) for d in self.documents)

    @functools.cached_property
    def _packed(self) -> dict[int, list[list[_Segment]]]:
        return {}

    def packed(self, n_positions: int) -> list[list[_Segment]]:
        """Which parts of documents each window of so many tokens holds: packed once."""
        if n_positions not in self._packed:
            self._packed[n_positions] = _pack(
                (
                    _Segment(i, begin, min(n_positions, len(d.ids) - 1 - begin))
                    for i, d in enumerate(self.documents)
                    for begin in range(0, len(d.ids) - 1, n_positions)
                ),
                n_positions,
            )
        return self._packed[n_positions]

    def windows(self, n_positions: int, seed: int) -> PackedWindows:
        """All documents in windows of so many tokens, in an order drawn from the seed."""
        return PackedWindows(self, n_positions, seed)

    def heldout(self, n_positions: int, limit: int) -> Batch:
        """The first ``limit`` windows."""
        windows = PackedWindows(self, n_positions, seed=0)
        return windows.windows(range(min(limit, len(windows))))

    def bits_per_byte(self, nats_per_token: float) -> float:
        """The tokenizer-independent form of a loss."""
        return nats_per_token / math.log(2) * self.n_loss_tokens / max(1, self.n_bytes)

    def digest(self) -> str:
        """A fingerprint, to tell whether data is the same."""
        digest = hashlib.sha256()
        for document in self.documents:
            digest.update(len(document.ids).to_bytes(8, "little"))
            digest.update(np.ascontiguousarray(document.ids, "<i4").tobytes())
            digest.update(document.loss_mask.tobytes())
        return digest.hexdigest()


class PackedWindows:
    """Windows of T inputs and T targets, filled with whole documents.

    A document longer than a window is read in parts of T tokens, each of which begins anew at
    position 0: nothing of it is left out, but a part does not see the one before it.

    Attributes:
        n_positions: T.
        n_split: documents that are longer than a window.
    """

    def __init__(self, data: Documents, n_positions: int, seed: int) -> None:
        """Windows of packed documents.

        Args:
            data: the documents.
            n_positions: T.
            seed: the order of windows, anew in every epoch.
        """
        self._data = data
        self.n_positions = n_positions
        self.seed = seed
        self.n_split = sum(len(d.ids) - 1 > n_positions for d in data.documents)
        self._windows = data.packed(n_positions)

    def __len__(self) -> int:
        return len(self._windows)

    @property
    def filled(self) -> float:
        """The share of positions that hold a token of a document."""
        return self._data.n_tokens / (len(self) * self.n_positions)

    def batch(self, number: int, batch_size: int) -> Batch:
        """Batch ``number`` of a run, the same whenever it is asked for."""
        chosen = shuffled_ids(len(self), self.seed, number * batch_size, batch_size)
        return self.windows([int(i) for i in chosen])

    def windows(self, numbers: Sequence[int]) -> Batch:
        """Windows by their number: inputs, targets and segments, (B, T) each."""
        shape = (len(numbers), self.n_positions)
        inputs: Ids = np.full(shape, self._data.padding, np.int64)
        targets: Ids = np.full(shape, IGNORE, np.int64)
        segments: Ids = np.full(shape, _PADDING, np.int64)
        for row, number in enumerate(numbers):
            at = 0
            for order, segment in enumerate(self._windows[number]):
                document = self._data.documents[segment.document]
                here = slice(at, at + segment.size)
                part = slice(segment.begin, segment.begin + segment.size)
                after = slice(part.start + 1, part.stop + 1)
                inputs[row, here] = document.ids[part]
                targets[row, here] = np.where(
                    document.loss_mask[after], document.ids[after], IGNORE
                )
                segments[row, here] = order
                at += segment.size
        # One document a window is the usual causal mask, which is cheaper.
        alone = not (segments[:, :1] != segments).any()
        return Batch(inputs, targets, None if alone else segments)


def _pack(segments: Iterable[_Segment], room: int) -> list[list[_Segment]]:
    """Best fit, the longest first: each into the fullest window that still has room for it."""
    windows: list[list[_Segment]] = []
    free: list[tuple[int, int]] = []  # (room left, window), sorted
    for segment in sorted(segments, key=lambda s: (-s.size, s.document, s.begin)):
        at = bisect.bisect_left(free, (segment.size, -1))
        if at == len(free):
            left, window = room, len(windows)
            windows.append([])
        else:
            left, window = free.pop(at)
        windows[window].append(segment)
        if left > segment.size:
            bisect.insort(free, (left - segment.size, window))
    return windows
