"""Names beside points."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.text import Text

from laplm.look import figures
from laplm.look.figures import canvas


def label_boxes(figure: Any, names: list[str]) -> list[Any]:
    """Where the names are that were written, without the lines to their points."""
    figure.draw_without_rendering()
    texts = [text for text in figure.axes[0].texts if text.get_text() in names]
    return [Text.get_window_extent(text) for text in texts]


def test_of_magnified_names_those_that_would_cover_others_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(canvas, "_magnified", 1.5)
    points = np.array([[x, 0] for x in range(40)], np.float64)
    names = [f"a long name {i}" for i in range(40)]
    figure = figures.scatter(points, names, ["one"] * 40, "a title")
    boxes = label_boxes(figure, names)
    assert 3 < len(boxes) < 40
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])
    figures.magnify(1)
    everyone = figures.scatter(points, names, ["one"] * 40, "a title")
    assert {t.get_text() for t in everyone.axes[0].texts} >= set(names)


def test_magnified_names_in_a_crowd_go_where_there_is_room_with_a_line_to_their_points(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(canvas, "_magnified", 1.5)
    points = np.random.default_rng(0).normal(size=(26, 2))
    names = [f"a name {i}" for i in range(26)]
    figure = figures.scatter(points, names, ["one"] * 26, "a title")
    boxes = label_boxes(figure, names)
    assert len(boxes) == 26
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])
    assert any(text.arrow_patch is not None for text in figure.axes[0].texts)
