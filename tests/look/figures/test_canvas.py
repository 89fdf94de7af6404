"""Titles, lines under them, and letters that are magnified."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from laplm.errors import InputError
from laplm.look import figures


@pytest.fixture
def magnified() -> Iterator[None]:
    figures.magnify(1.5)
    yield
    figures.magnify(1)


def test_a_long_line_under_the_title_goes_on_in_further_lines_and_of_a_text_the_end_stays() -> None:
    words = "a head of known kinds: previous token 0.15, first token 0.06, induction 0.00, the end"
    for text, starts in ((words, "a head"), (f"{words} " * 9 + "now", "…")):
        figure = figures.heatmap(np.ones((2, 2)), ["a", "b"], ["a", "b"], "t", subtitle=text)
        shown = figure.axes[0].texts[0].get_text()
        lines = shown.split("\n")
        assert 1 < len(lines) <= 3
        assert shown.startswith(starts)
        assert text.endswith(lines[-1])
        figure.draw_without_rendering()
        for line in lines:
            assert len(line) <= 12 * figure.get_size_inches()[0]


def test_magnified_letters_are_larger_beside_the_same_picture(magnified: None) -> None:
    large = figures.bar_chart(["a", "b"], [1, 2], "a title")
    figures.magnify(1)
    usual = figures.bar_chart(["a", "b"], [1, 2], "a title")
    # As many dots, fewer inches; letters are counted in inches.
    np.testing.assert_allclose(
        large.get_size_inches() * large.dpi, usual.get_size_inches() * usual.dpi
    )
    assert large.get_size_inches()[0] < usual.get_size_inches()[0] / 1.3


def test_the_picture_of_a_title_is_as_wide_as_it(magnified: None) -> None:
    title = "where its one hundred and twenty-four million parameters are"
    figure = figures.bar_chart(["queries, keys, values"], [1], title)
    figure.draw_without_rendering()
    assert figure.axes[0]._left_title.get_window_extent().x1 <= figure.bbox.x1


@pytest.mark.parametrize("letters", [0, 0.4, 3.1, float("nan"), True, "large"])
def test_letters_of_no_sensible_size_are_refused(letters: object) -> None:
    with pytest.raises(InputError, match=r"but it must be from 0\.5 to 3"):
        figures.magnify(letters)  # type: ignore[arg-type]
