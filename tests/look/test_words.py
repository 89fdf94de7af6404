"""Numbers in sentences: no share is told as nothing, and nothing falls to where it was."""

from __future__ import annotations

import pytest

from laplm.look.words import (
    counted,
    describe_change,
    describe_key_heads,
    describe_lead,
    percent,
    quoted,
    ranges,
)


@pytest.mark.parametrize(
    ("share", "digits", "text"),
    [
        (0.98904, 1, "98.9%"), (1.0, 1, "100.0%"), (0.0, 1, "0.0%"), (0.976, 0, "98%"),
        (0.0004, 1, "less than 0.1%"), (0.0006, 1, "0.1%"), (0.004, 0, "less than 1%"),
    ],
)  # fmt: skip
def test_a_share_that_is_there_is_never_told_as_none(share: float, digits: int, text: str) -> None:
    assert percent(share, digits) == text


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        (0.989, 0.941, "falls from 98.9 to 94.1%"), (0.2, 0.25, "rises from 20.0 to 25.0%"),
        (0.5, 0.50001, "stays at 50.0%"), (0.5, 1e-6, "falls from 50.0 to less than 0.1%"),
        (1e-6, 0.002, "rises from less than 0.1% to 0.2%"),
    ],
)  # fmt: skip
def test_what_falls_rises_or_stays(before: float, after: float, text: str) -> None:
    assert describe_change(before, after) == text


def test_layers_are_counted_from_0_and_the_last_is_named() -> None:
    assert describe_lead(0, 6) == "leads from the embedding on"
    assert describe_lead(5, 6) == "leads from layer 4 (of 0 to 5) on"
    assert describe_lead(6, 6) == "leads from layer 5 (the last) on"
    assert describe_lead(1, 1) == "leads after the only layer"
    assert quoted("·Madrid") == "“·Madrid”"


def test_counts_and_ranges() -> None:
    assert (counted(1, "token"), counted(2048, "token")) == ("1 token", "2,048 tokens")
    assert ranges([0, 1, 2, 3, 4, 6, 8, 9]) == "0 to 4, 6, 8, 9"
    assert (ranges([7]), ranges([])) == ("7", "")


def test_which_query_heads_share_a_key_head() -> None:
    assert describe_key_heads(8, 8) == ""
    assert describe_key_heads(8, 1) == "All 8 query heads share one key head."
    assert describe_key_heads(9, 3) == (
        "Query heads 0 to 2 share key head 0, 3 to 5 key head 1 and 6 to 8 key head 2."
    )
    assert describe_key_heads(32, 8) == (
        "Query heads 0 to 3 share key head 0, 4 to 7 key head 1, and so on to 28 to 31 key head 7."
    )
