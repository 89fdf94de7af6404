from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.pocket.kneser_ney import KneserNey

Gram = tuple[int, ...]


class ByTheBook:
    """The formulas of Chen and Goodman's sections 2.7 and 3.1, one n-gram at a time."""

    def __init__(self, tokens: list[int], vocab_size: int, order: int) -> None:
        self.vocab_size, self.seen = vocab_size, set(tokens)
        raw = {
            n: Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
            for n in range(1, order + 1)
        }
        self.counts: dict[int, Counter[Gram]] = {order: raw[order]}
        for n in range(1, order):
            self.counts[n] = Counter(longer[1:] for longer in raw[n + 1])

    def discount(self, n: int, count: int) -> float:
        if not count:
            return 0.0
        n1, n2, n3, n4 = (list(self.counts[n].values()).count(c) for c in (1, 2, 3, 4))
        found = (0.5, 1.0, 1.5)
        if n1 and n2 and n3:
            y = n1 / (n1 + 2 * n2)
            book = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
            found = book if min(book) > 0 else found
        return found[min(count, 3) - 1]

    def probability(self, context: Gram, token: int) -> float:
        n = len(context) + 1
        shorter = self.probability(context[1:], token) if context else 1 / self.vocab_size
        after = {w: self.counts[n][(*context, w)] for w in self.seen}
        total = sum(after.values())
        if not total:
            return shorter
        left = sum(self.discount(n, c) for c in after.values()) / total
        count = after.get(token, 0)
        return (count - self.discount(n, count)) / total + left * shorter


def markov_tokens(n: int, vocab_size: int, seed: int) -> list[int]:
    """A stream in which some n-grams come often and some once."""
    rng = np.random.default_rng(seed)
    table = rng.dirichlet(np.full(vocab_size, 0.3), size=vocab_size)
    tokens = [0]
    while len(tokens) < n:
        tokens.append(int(rng.choice(vocab_size, p=table[tokens[-1]])))
    return tokens


def assert_by_the_book(ids: list[int], vocab_size: int, order: int) -> None:
    """Six ids are the vocabulary of a text; all are used in another that is scored."""
    tokens = [ids[i] for i in markov_tokens(600, 6, seed=order)]
    text = [ids[i] for i in [*markov_tokens(60, 6, seed=9), 5, 5, 5, 0, 3, 1]]
    model = KneserNey(np.array(tokens), vocab_size, order)
    book = ByTheBook(tokens, vocab_size, order)
    expected = [
        math.log(book.probability(tuple(text[max(0, i - order + 1) : i]), token))
        for i, token in enumerate(text)
    ]
    np.testing.assert_allclose(model.log_probabilities(np.array(text)), expected, rtol=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_probabilities_are_those_of_the_formulas(order: int) -> None:
    assert_by_the_book([0, 1, 2, 3, 4, 5], 6, order)


def test_large_vocabularies_do_not_overflow() -> None:
    """Five ids below 60,000 do not fit into 64 bits side by side."""
    assert_by_the_book([0, 13_107, 26_214, 40_000, 50_000, 59_999], 60_000, 5)


def test_discounts_of_these_texts_are_their_own_and_not_the_fallback() -> None:
    """Else the test above would say nothing about them."""
    book = ByTheBook(markov_tokens(600, 6, seed=3), 6, 3)
    for n in (2, 3):
        assert [book.discount(n, c) for c in (1, 2, 3)] != [0.5, 1.0, 1.5]


@settings(deadline=None, max_examples=40)
@given(
    tokens=st.lists(st.integers(0, 4), min_size=5, max_size=80),
    context=st.lists(st.integers(0, 6), max_size=6),
    order=st.integers(1, 5),
)
def test_probabilities_of_all_tokens_sum_to_one(
    tokens: list[int], context: list[int], order: int
) -> None:
    """After contexts that were seen or not, and with tokens (5, 6) that never were."""
    model = KneserNey(np.array(tokens), 7, order)
    last = [model.log_probabilities(np.array([*context, w]))[-1] for w in range(7)]
    assert np.exp(last).sum() == pytest.approx(1, abs=1e-12)
    assert min(last) > -math.inf


def test_no_token_is_impossible_where_a_discount_would_be_zero() -> None:
    """Here what two occurrences lose is 2 - 3 Y n3 / n2 = 0."""
    tokens = np.array([2, 3, 1, 1, 1, 3, 1, 2, 3, 1, 0, 1, 1, 1])
    assert KneserNey(tokens, 7, 2).log_probabilities(np.array([2, 0]))[-1] > -5


def test_a_longer_context_helps_where_the_text_repeats_itself() -> None:
    tokens = np.array([0, 1, 2, 3, 0, 2, 1, 3] * 40)
    losses = [-KneserNey(tokens, 4, n).log_probabilities(tokens).mean() for n in (1, 2, 4)]
    assert losses[0] > losses[1] > losses[2]
    assert losses[0] == pytest.approx(math.log(4), abs=0.02)
    assert losses[2] < 0.1
