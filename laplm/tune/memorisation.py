"""Whether a text writes or copies: the longest run of words that it shares with another."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from laplm.errors import MissingExtraError

try:
    from pydivsufsort import divsufsort, kasai
except ModuleNotFoundError as error:
    raise MissingExtraError("Finding what a model copied", "tune") from error

_WORD = re.compile(r"\w+(?:['’]\w+)*")
_NO_WORD = 0  # the end of a text, or a word that none of the texts examined has
_PORTION = 1 << 22  # words sorted at once: 0.3 GB at the peak


@dataclass(frozen=True)
class Span:
    """A run of words.

    Attributes:
        words: how many there are.
        text: the words as they stand in the text examined.
    """

    words: int
    text: str

    @property
    def characters(self) -> int:
        """From the first word's first letter to the last word's last."""
        return len(self.text)


def longest_copied_spans(texts: Sequence[str], train: Iterable[str]) -> list[Span]:
    """The longest run of words of each text that occurs in one of the training documents.

    Case, punctuation and white space make no difference: "No, Tim!" is a copy of "no tim".

    Words are numbered and sorted with all that follows them (a suffix array); the longest run that
    begins at a word is shared with one of its neighbours there.
    """
    numbers: dict[str, int] = {}
    matches = [list(_WORD.finditer(text)) for text in texts]
    ours = [_NO_WORD]
    begins = []
    for words in matches:
        begins.append(len(ours))
        ours += [numbers.setdefault(_fold(word.group()), len(numbers) + 1) for word in words]
        ours.append(_NO_WORD)
    places = np.array(ours)
    lengths = np.zeros(len(places), dtype=np.int64)
    for theirs in _portions(train, numbers):
        lengths = np.maximum(lengths, _longest_runs(places, theirs))
    spans = []
    for text, words, begin in zip(texts, matches, begins, strict=True):
        if not words:
            spans.append(Span(0, ""))
            continue
        first = int(lengths[begin : begin + len(words)].argmax())
        n = int(lengths[begin + first])
        spans.append(Span(n, text[words[first].start() : words[first + n - 1].end()] if n else ""))
    return spans


def _portions(train: Iterable[str], numbers: Mapping[str, int]) -> Iterator[NDArray[np.int64]]:
    """The documents as numbers, each followed by a 0, so many at a time that memory is bounded."""
    portion: list[NDArray[np.int64]] = []
    held = 0
    for text in train:
        words = _WORD.findall(text)
        found = (numbers.get(_fold(word), _NO_WORD) for word in words)
        portion += [np.fromiter(found, np.int64, len(words)), np.array([_NO_WORD])]
        held += len(words)
        if held >= _PORTION:
            yield np.concatenate(portion)
            portion, held = [], 0
    if portion:
        yield np.concatenate(portion)


def _longest_runs(ours: NDArray[np.int64], theirs: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each place of ``ours`` the length of the longest run from there that ``theirs`` has.

    Runs end before a 0; both end with one.
    """
    both = np.concatenate([ours, theirs])
    order: NDArray[np.int32] = divsufsort(both)
    # Words that each suffix has in common with the next one in order.
    common: NDArray[np.int32] = kasai(both, order)
    is_theirs = order >= len(ours)
    # The nearest of their suffixes before and after each place in order; -1 and len: none.
    ranks = np.arange(len(order))
    before = np.maximum.accumulate(np.where(is_theirs, ranks, -1))
    after = np.minimum.accumulate(np.where(is_theirs, ranks, len(order))[::-1])[::-1]
    mine = np.flatnonzero(~is_theirs)
    lengths = np.zeros(len(ours), dtype=np.int64)
    lengths[order[mine]] = np.maximum(
        _least(common, before[mine], mine), _least(common, mine, after[mine])
    )
    # What two suffixes share may go on through the end of a text, where a run ends.
    ends = np.flatnonzero(ours == _NO_WORD)
    to_end = ends[np.searchsorted(ends, np.arange(len(ours)))] - np.arange(len(ours))
    runs: NDArray[np.int64] = np.minimum(lengths, to_end)
    return runs


def _least(
    common: NDArray[np.int32], first: NDArray[np.int64], last: NDArray[np.int64]
) -> NDArray[np.int64]:
    """What the suffixes at the ranks ``first`` and ``last`` share; 0 where one is no rank."""
    shared = np.zeros(len(first), dtype=np.int64)
    real = (first >= 0) & (last < len(common))
    # reduceat also takes what lies between one pair and the next: every second value is dropped.
    pairs = np.column_stack([first[real], last[real]]).ravel()
    if len(pairs):
        shared[real] = np.minimum.reduceat(common, pairs)[::2]
    return shared


def _fold(word: str) -> str:
    return word.lower().replace("’", "'")
