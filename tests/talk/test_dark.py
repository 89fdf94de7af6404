"""Figures for the dark deck: the same picture in light letters, heat maps as they were."""

from __future__ import annotations

import colorsys
from typing import Any

import numpy as np
from matplotlib.colors import to_hex, to_rgb
from matplotlib.lines import Line2D
from matplotlib.text import Text

from laplm.look import figures
from laplm.talk import dark


def luminance(colour: Any) -> float:
    """As WCAG 2 has it, https://www.w3.org/TR/WCAG22/#dfn-relative-luminance."""
    channels = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return float(np.dot(channels, [0.2126, 0.7152, 0.0722]))


def contrast(colour: Any) -> float:
    """With the background of the dark deck."""
    high, low = sorted((luminance(colour), luminance(dark.BACKGROUND)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def scatter() -> Any:
    points = np.array([[0.0, 0.0], [1.0, 1.0]])
    return figures.scatter(points, ["a", "b"], ["one", "two"], "Points")


def test_letters_and_lines_can_be_read_on_the_dark_deck() -> None:
    figure = scatter()
    with dark.darkened(figure):
        assert to_hex(figure.get_facecolor()) == dark.BACKGROUND
        for text in figure.findobj(Text):
            assert contrast(text.get_color()) > 4.5, text.get_text()
        (axes,) = figure.axes
        assert contrast(axes.spines["left"].get_edgecolor()) > 3
        for points in axes.collections:
            assert contrast(points.get_facecolor()[0]) > 3


def test_hues_stay_so_that_words_about_colours_hold() -> None:
    for colour in figures.OKABE_ITO[:7]:
        hue = colorsys.rgb_to_hls(*to_rgb(colour))[0]
        turned = colorsys.rgb_to_hls(*to_rgb(dark._dark(colour)))[0]
        assert abs(hue - turned) < 0.01, colour
        assert contrast(dark._dark(colour)) > 3, colour


def test_the_light_picture_is_as_it_was_afterwards() -> None:
    figure = scatter()
    figure.axes[0].annotate("an arrow", (0, 0), (1, 0), arrowprops={"arrowstyle": "->"})
    figure.draw_without_rendering()
    figure.canvas.draw()
    before = bytes(figure.canvas.buffer_rgba())
    with dark.darkened(figure):
        figure.canvas.draw()
        assert bytes(figure.canvas.buffer_rgba()) != before
    figure.canvas.draw()
    assert bytes(figure.canvas.buffer_rgba()) == before


def test_a_heat_map_and_the_numbers_in_it_keep_their_colours() -> None:
    figure = figures.heatmap(np.eye(3), list("abc"), list("xyz"), "Map", numbers=1)
    axes = figure.axes[0]
    inside = {text: text.get_color() for text in axes.texts}
    (image,) = axes.images
    drawn = image.to_rgba(image.get_array())
    label = axes.get_yticklabels()[0]
    assert inside
    with dark.darkened(figure):
        assert {text: text.get_color() for text in axes.texts} == inside
        assert np.array_equal(image.to_rgba(image.get_array()), drawn)
        assert contrast(label.get_color()) > 4.5


def test_the_twin_says_its_title_and_how_large_its_smallest_letters_are() -> None:
    figure = scatter()
    figure.text(0, 0, "small", fontsize=3.6)
    figure.text(0, 0, " ", fontsize=1)  # nobody sees it
    data, said = dark._twin(figure)
    assert data[dark.DARK_PNG].startswith("iVBORw0KGgo")  # PNG's first bytes, in base64
    assert said == {dark.DARK_PNG: {"title": "Points", "letters": 3.6 * 2 * 100 / 72}}


def test_lines_that_take_their_markers_colour_from_themselves_go_along() -> None:
    figure = figures.new_figure(4, 3)
    (line,) = figure.add_subplot().plot([0, 1], color="black", marker="o")
    assert isinstance(line, Line2D)
    with dark.darkened(figure):
        assert contrast(line.get_color()) > 4.5 and contrast(line.get_markerfacecolor()) > 4.5
