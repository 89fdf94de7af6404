"""What is written into matrices: cut short where there is no room, never a cut number."""

from __future__ import annotations

import numpy as np
from matplotlib.patches import Rectangle

from laplm.look import figures


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
