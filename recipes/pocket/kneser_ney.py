"""An n-gram model over token ids, interpolated modified Kneser-Ney: a classic that is hard to beat.

Source: Chen and Goodman 1998, "An Empirical Study of Smoothing Techniques for Language Modeling"
(TR-10-98), sections 2.7 and 3.1. Shapes: T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]

# Discounts where a text is too small to tell its own: without an n-gram seen once, twice or three
# times, or where one would be 0 and tokens not seen after a context would be impossible.
_FALLBACK = (0.5, 1.0, 1.5)


@dataclass(frozen=True)
class _Level:
    """All n-grams of one length.

    An n-gram's number is its place in ``keys``; its key is the number of its first n - 1 tokens
    times the vocabulary's size, plus its last token. So keys fit 64 bits whatever the vocabulary.

    Attributes:
        keys: sorted.
        kept: by number, what is left of an n-gram's count after its discount.
        total: by number of the context, the sum of the counts.
        left: by number of the context, the share of probability left to shorter contexts.
    """

    keys: Ids
    kept: Floats
    total: Floats
    left: Floats

    def find(self, keys: Ids) -> Ids:
        """Numbers of the n-grams with these keys, -1 where there is none."""
        places = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[places] == keys, places, -1)


class KneserNey:
    """Probabilities of tokens after the ``order - 1`` tokens before them."""

    def __init__(self, tokens: Ids, vocab_size: int, order: int = 5) -> None:
        """Count the n-grams of one stream of token ids.

        Args:
            tokens: (T,), from 0 to ``vocab_size - 1``; T >= order. Texts stand one after another,
                with a token between them that no text has.
            vocab_size: number of tokens there are.
            order: length of the longest n-grams.
        """
        tokens = np.asarray(tokens, dtype=np.int64)
        self.vocab_size = vocab_size
        tables: list[tuple[Ids, Ids]] = []  # keys and counts of every length
        numbers = np.zeros(len(tokens) + 1, dtype=np.int64)  # of length 0 there is one n-gram
        for length in range(1, order + 1):
            # Numbers of n-grams one token shorter, in order of where they end in the text: each
            # but the last is the context of one of these, each but the first its ending.
            contexts, endings = numbers[:-1], numbers[1:]
            keys, first, numbers, counts = np.unique(
                contexts * vocab_size + tokens[length - 1 :],
                return_index=True, return_inverse=True, return_counts=True,
            )  # fmt: skip
            if tables:
                # A shorter n-gram counts as often as there are different tokens before it: that
                # tells more once the longer context has failed (Kneser and Ney 1995).
                shorter, _ = tables[-1]
                tables[-1] = shorter, np.bincount(endings[first], minlength=len(shorter))
            tables.append((keys, counts))
        n_contexts = [1, *(len(keys) for keys, _ in tables)]
        self._levels = [
            _level(keys, counts, keys // vocab_size, n)
            for (keys, counts), n in zip(tables, n_contexts[:-1], strict=True)
        ]

    def log_probabilities(self, tokens: Ids) -> Floats:
        """Natural log of each token's probability after those before it, (T,) for (T,).

        The first has no context, the next few a shorter one.
        """
        tokens = np.asarray(tokens, dtype=np.int64)
        probability = np.full(len(tokens), 1 / self.vocab_size)
        contexts = np.zeros(len(tokens), dtype=np.int64)  # their numbers, -1: never seen
        for level in self._levels:
            found = level.find(contexts * self.vocab_size + tokens)
            seen = np.flatnonzero((contexts >= 0) & (level.total[contexts] > 0))
            kept = np.where(found[seen] >= 0, level.kept[found[seen]], 0.0)
            context = contexts[seen]
            probability[seen] = (
                kept / level.total[context] + level.left[context] * probability[seen]
            )
            contexts = np.concatenate([[-1], found[:-1]])  # an n-gram is the next token's context
        result: Floats = np.log(probability)
        return result


def _level(keys: Ids, counts: Ids, contexts: Ids, n_contexts: int) -> _Level:
    discounts: Floats = np.array([0.0, *_discounts(counts)])[np.minimum(counts, 3)]
    total = np.bincount(contexts, counts, n_contexts).astype(np.float64)
    taken = np.bincount(contexts, discounts, n_contexts)
    left = np.divide(taken, total, out=np.ones(n_contexts), where=total > 0)
    kept: Floats = counts - discounts
    return _Level(keys, kept, total, left)


def _discounts(counts: Ids) -> tuple[float, float, float]:
    """What counts of one, of two, and of three or more lose (their equation 26)."""
    n1, n2, n3, n4 = (int(np.count_nonzero(counts == c)) for c in (1, 2, 3, 4))
    if 0 in (n1, n2, n3):
        return _FALLBACK
    y = n1 / (n1 + 2 * n2)
    d1, d2, d3 = 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3
    return (d1, d2, d3) if min(d1, d2, d3) > 0 else _FALLBACK
