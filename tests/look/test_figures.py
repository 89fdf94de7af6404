"""What is written into pictures: cut short where there is no room, never a cut number."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from matplotlib.patches import Rectangle

from laplm.errors import InputError
from laplm.look import figures


@pytest.fixture
def magnified() -> Iterator[None]:
    figures.magnify(1.5)
    yield
    figures.magnify(1)


def cells(values: np.ndarray, texts: list[list[str]]) -> list[str]:
    rows, columns = values.shape
    labels = [str(i) for i in range(max(rows, columns))]
    figure = figures.heatmap(values, labels[:rows], labels[:columns], "a title", texts=texts)
    return [text.get_text() for text in figure.axes[0].texts]


def test_words_are_in_their_cells_and_long_ones_are_cut_with_a_mark() -> None:
    texts = [["·a", "·an"], ["", "·extraordinary"]]
    assert cells(np.ones((2, 2)), texts) == ["·a", "·an", "·extraordi…"]


def test_words_of_a_wide_picture_are_cut_but_never_to_look_like_whole_ones() -> None:
    texts = [["·there", "·the"] * 40]
    shown = cells(np.ones((1, 80)), texts)
    assert len(shown) == 80
    assert set(shown[1::2]) == {"·the"}
    assert all(text == "·there" or text.endswith("…") for text in shown[::2])


def test_numbers_that_do_not_fit_are_left_out() -> None:
    values = np.full((1, 100), 1234.5)
    assert cells(values, [["1234.5"] * 100]) == []
    assert cells(values[:, :5], [["1234.5"] * 5]) == ["1234.5"] * 5


def test_what_a_mask_hides_has_no_text() -> None:
    values = np.array([[1.0, np.nan], [2.0, 3.0]])
    assert cells(values, [["a", "b"], ["c", "d"]]) == ["a", "c", "d"]


def test_marked_cells_have_a_frame() -> None:
    figure = figures.heatmap(np.eye(3), list("abc"), list("xyz"), "a title", marked=[(0, 2)])
    frames = [p for p in figure.axes[0].patches if isinstance(p, Rectangle)]
    centres = [(f.get_x() + f.get_width() / 2, f.get_y() + f.get_height() / 2) for f in frames]
    np.testing.assert_allclose(centres, [(2, 0)])


def test_lines_over_whole_numbers_have_whole_ticks() -> None:
    figure = figures.lines([0, 1, 2], {"one": [1, 2, 3]}, "a title")
    figure.draw_without_rendering()
    assert all(float(tick).is_integer() for tick in figure.axes[0].get_xticks())


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
    large = figures.bars(["a", "b"], [1, 2], "a title")
    figures.magnify(1)
    usual = figures.bars(["a", "b"], [1, 2], "a title")
    # As many dots, fewer inches; letters are counted in inches.
    np.testing.assert_allclose(
        large.get_size_inches() * large.dpi, usual.get_size_inches() * usual.dpi
    )
    assert large.get_size_inches()[0] < usual.get_size_inches()[0] / 1.3


def test_of_magnified_names_those_that_would_cover_others_are_left_out(magnified: None) -> None:
    points = np.array([[x, 0] for x in range(40)], np.float64)
    names = [f"a long name {i}" for i in range(40)]
    figure = figures.scatter(points, names, ["one"] * 40, "a title")
    figure.draw_without_rendering()
    boxes = [t.get_window_extent() for t in figure.axes[0].texts if t.get_text() in names]
    assert 3 < len(boxes) < 40
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])
    figures.magnify(1)
    everyone = figures.scatter(points, names, ["one"] * 40, "a title")
    assert {t.get_text() for t in everyone.axes[0].texts} >= set(names)


def test_the_picture_of_a_title_is_as_wide_as_it(magnified: None) -> None:
    title = "where its one hundred and twenty-four million parameters are"
    figure = figures.bars(["queries, keys, values"], [1], title)
    figure.draw_without_rendering()
    assert figure.axes[0]._left_title.get_window_extent().x1 <= figure.bbox.x1


@pytest.mark.parametrize("letters", [0, 0.4, 3.1, float("nan"), True, "large"])
def test_letters_of_no_sensible_size_are_refused(letters: object) -> None:
    with pytest.raises(InputError, match=r"but it must be from 0\.5 to 3"):
        figures.magnify(letters)  # type: ignore[arg-type]
