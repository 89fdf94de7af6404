"""Whether a text writes or copies: the longest run of words that it shares with another."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_WORD = re.compile(r"\w+(?:['’]\w+)*")
_NO_WORD = 0  # the end of a text, or a word that none of the texts examined has


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

    Runs grow by one word at a time, in all places at once: a place is followed only as long as its
    run occurs on the other side, so few are left after a few words.
    """
    numbers: dict[str, int] = {}
    matches = [list(_WORD.finditer(text)) for text in texts]
    ours = [_NO_WORD]
    begins = []
    for words in matches:
        begins.append(len(ours))
        ours += [numbers.setdefault(_fold(word.group()), len(numbers) + 1) for word in words]
        ours.append(_NO_WORD)
    end = np.array([_NO_WORD])
    theirs = [end]
    for text in train:
        found = (numbers.get(_fold(word), _NO_WORD) for word in _WORD.findall(text))
        theirs += [np.fromiter(found, np.int64), end]
    lengths = _longest_runs(np.array(ours), np.concatenate(theirs))
    spans = []
    for text, words, begin in zip(texts, matches, begins, strict=True):
        if not words:
            spans.append(Span(0, ""))
            continue
        first = int(lengths[begin : begin + len(words)].argmax())
        n = int(lengths[begin + first])
        spans.append(Span(n, text[words[first].start() : words[first + n - 1].end()] if n else ""))
    return spans


def _longest_runs(ours: NDArray[np.int64], theirs: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each place of ``ours`` the length of the longest run from there that ``theirs`` has.

    Runs end before a 0; both end with one.
    """
    base = int(ours.max()) + 1
    lengths = np.zeros(len(ours), dtype=np.int64)
    # Where a run of the present length begins that both sides have, and which run it is.
    places, runs = np.arange(len(ours)), np.zeros(len(ours), dtype=np.int64)
    their_places, their_runs = np.arange(len(theirs)), np.zeros(len(theirs), dtype=np.int64)
    length = 0
    while len(places):
        longer, keys = _longer(ours, places, runs, length, base)
        their_longer, their_keys = _longer(theirs, their_places, their_runs, length, base)
        known = np.unique(keys)
        if not len(known):
            break
        number = np.minimum(np.searchsorted(known, their_keys), len(known) - 1)
        same = known[number] == their_keys
        their_places, their_runs = their_longer[same], number[same]
        shared = np.zeros(len(known), dtype=bool)
        shared[their_runs] = True
        number = np.searchsorted(known, keys)
        places, runs = longer[shared[number]], number[shared[number]]
        length += 1
        lengths[places] = length
    return lengths


def _longer(
    words: NDArray[np.int64],
    places: NDArray[np.int64],
    runs: NDArray[np.int64],
    length: int,
    base: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The places whose run can grow by a word, and a key for each run that comes of it."""
    following = words[places + length]
    goes_on = following != _NO_WORD
    return places[goes_on], runs[goes_on] * base + following[goes_on]


def _fold(word: str) -> str:
    return word.lower().replace("’", "'")
