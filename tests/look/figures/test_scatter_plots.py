"""Names beside points."""

from __future__ import annotations

import numpy as np
import pytest

from laplm.look import figures
from laplm.look.figures import canvas


def test_of_magnified_names_those_that_would_cover_others_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(canvas, "_magnified", 1.5)
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
