"""Numbers in sentences: no share is told as nothing, and nothing falls to where it was."""

from __future__ import annotations

import pytest

from laplm.look.words import describe_change, describe_lead, percent, quoted


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
