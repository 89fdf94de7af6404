"""Bars: as long as their values, in their order."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.colors import to_hex

from laplm.look import figures


def drawn(axes: Axes) -> list[tuple[float, float, str]]:
    """Height, length and colour of each bar."""
    rectangles = [bar for group in axes.containers for bar in group]
    return [
        (r.get_y() + r.get_height() / 2, r.get_width(), to_hex(r.get_facecolor()).upper())
        for r in rectangles
    ]


def test_bars_stand_in_their_order_from_the_top_and_a_negative_one_has_a_colour_of_its_own() -> (
    None
):
    blue, red = figures.OKABE_ITO[:2]
    (axes,) = figures.bar_chart(["a", "b", "c"], [3, -1, 2], "a title", signed=True).axes
    assert [(round(y), x, colour) for y, x, colour in drawn(axes)] == [
        (0, 3, blue), (1, -1, red), (2, 2, blue),
    ]  # fmt: skip
    bottom, top = axes.get_ylim()
    assert bottom > top
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "c"]


def test_bars_of_series_stand_side_by_side() -> None:
    series = {"before": [1, 2], "after": [3, 4]}
    (axes,) = figures.grouped_bars(["a", "b"], series, "a title", value_label="").axes
    found = drawn(axes)
    assert [x for _, x, _ in sorted(found)] == [1, 3, 2, 4]
    legend = axes.get_legend()
    assert legend is not None and [text.get_text() for text in legend.get_texts()] == list(series)
