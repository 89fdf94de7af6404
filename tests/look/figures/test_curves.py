"""Curves over whole numbers."""

from __future__ import annotations

from laplm.look import figures


def test_lines_over_whole_numbers_have_whole_ticks() -> None:
    figure = figures.line_chart([0, 1, 2], {"one": [1, 2, 3]}, "a title")
    figure.draw_without_rendering()
    assert all(float(tick).is_integer() for tick in figure.axes[0].get_xticks())
