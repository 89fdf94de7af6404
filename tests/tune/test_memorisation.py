from __future__ import annotations

from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from laplm.tune import memorisation
from laplm.tune.memorisation import Span, longest_copied_spans

words = st.lists(st.sampled_from(["a", "b", "c"]), max_size=12)


def naive(text: list[str], train: list[list[str]]) -> int:
    """Every run of words against every place of every document."""
    return max(
        (
            n
            for i in range(len(text))
            for n in range(1, len(text) - i + 1)
            if any(
                text[i : i + n] == other[j : j + n] for other in train for j in range(len(other))
            )
        ),
        default=0,
    )


@given(
    texts=st.lists(words, max_size=4),
    train=st.lists(words, max_size=4),
    portion=st.sampled_from([1, 5, 1000]),
)
def test_the_longest_run_is_found_whatever_is_sorted_at_once(
    texts: list[list[str]], train: list[list[str]], portion: int
) -> None:
    with mock.patch.object(memorisation, "_PORTION", portion):
        spans = longest_copied_spans([" ".join(t) for t in texts], [" ".join(t) for t in train])
    assert [span.words for span in spans] == [naive(text, train) for text in texts]
    for span, text in zip(spans, texts, strict=True):
        assert span.text in " ".join(text)
        assert len(span.text.split()) == span.words


def test_a_span_is_shown_as_it_stands_in_the_text() -> None:
    (span,) = longest_copied_spans(
        ['Oh! "The  big dog\nran," said Tim.'], ["It was THE big, dog. Ran said Tom."]
    )
    assert span == Span(5, 'The  big dog\nran," said')
    assert span.characters == 23


def test_apostrophes_of_both_kinds_are_the_same_and_part_of_a_word() -> None:
    (span,) = longest_copied_spans(["Tim’s dog"], ["Tim's dog"])
    assert span.words == 2
    (span,) = longest_copied_spans(["Tim s dog"], ["Tim's dog"])
    assert span.words == 1


def test_runs_end_with_the_document() -> None:
    (span,) = longest_copied_spans(["one two three"], ["one two", "three one"])
    assert span.words == 2


def test_nothing_is_shared_with_other_words_or_no_words() -> None:
    assert longest_copied_spans(["one two", "...", ""], ["three four"]) == [Span(0, "")] * 3
    assert longest_copied_spans(["one"], []) == [Span(0, "")]
    assert longest_copied_spans([], ["one"]) == []
