"""Names beside points: none covers another, a point or a line, wherever there is room."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from laplm.look.figures.labels import LabelPlacement, boxes_overlap, lines_cross, place_labels

FRAME = np.array([0.0, 0, 1000, 500])


def placed(
    points: list[tuple[float, float]],
    size: tuple[float, float],
    radius: float,
    *taken: list[float],
    frame: np.ndarray = FRAME,
) -> list[LabelPlacement]:
    """Names of one size for points of one size."""
    n = len(points)
    return place_labels(
        np.array(points, float), np.array([size] * n, float), frame, np.full(n, radius),
        np.array(taken, float).reshape(-1, 4),
    )  # fmt: skip


def collisions(
    places: list[LabelPlacement],
    points: list[tuple[float, float]],
    radius: float,
    *taken: list[float],
) -> int:
    """How often something covers something else."""
    boxes = np.array([here.box for here in places])
    marks = np.array([[x - radius, y - radius, x + radius, y + radius] for x, y in points])
    others = np.array([*marks, *taken], float)
    found = boxes_overlap(boxes, boxes).sum() - len(boxes) + boxes_overlap(boxes, others).sum()
    found += (boxes[:, :2] < FRAME[:2]).sum() + (boxes[:, 2:] > FRAME[2:]).sum()
    for i, here in enumerate(places):
        if here.leader is not None:
            rest = np.delete(np.vstack([boxes, marks]), [i, i + len(boxes)], 0)
            found += lines_cross(here.leader[None], rest).sum()
    return int(found)


def test_names_of_a_crowd_find_places_and_a_line_tells_whose_they_are() -> None:
    points = [(500 + 40 * (i % 4), 250 + 40 * (i // 4)) for i in range(12)]
    taken = [0.0, 230, 1000, 232]
    places = placed(points, (110, 18), 5, taken)
    assert all(here.free for here in places)
    assert collisions(places, points, 5, taken) == 0
    assert sum(here.leader is not None for here in places) >= 4


def test_a_name_is_beside_its_point_where_nothing_is_in_the_way() -> None:
    (here,) = placed([(500, 250)], (80, 20), 5)
    assert here.leader is None and here.free
    assert here.box[1] == 240 and 5 < here.box[0] - 500 < 10


@given(
    st.lists(
        st.tuples(st.floats(10, 990), st.floats(10, 490)), min_size=1, max_size=12,
        unique_by=lambda p: (round(p[0] / 25), round(p[1] / 25)),
    )
)  # fmt: skip
def test_a_place_that_is_called_free_covers_nothing(points: list[tuple[float, float]]) -> None:
    places = placed(points, (90, 16), 4)
    if all(here.free for here in places):
        assert collisions(places, points, 4) == 0
    for here, point in zip(places, points, strict=True):
        assert np.allclose(here.box[2:] - here.box[:2], (90, 16))
        nearest = np.clip(point, here.box[:2], here.box[2:])
        assert (here.leader is None) == (np.linalg.norm(nearest - point) <= 10)


def test_where_there_is_no_room_it_says_so() -> None:
    small = np.array([0.0, 0, 100, 20])
    places = placed([(10, 10), (11, 10), (12, 10)], (90, 16), 4, frame=small)
    assert not any(here.free for here in places)
    (wide,) = placed([(50, 10)], (200, 16), 4, frame=small)
    assert not wide.free


def test_lines_cross_boxes_and_not_those_beside_them() -> None:
    boxes = np.array([[10.0, 10, 20, 20], [10, 30, 20, 40]])
    lines = np.array([[0.0, 0, 30, 30], [0, 15, 30, 15], [15, 0, 15, 50], [0, 0, 5, 5]])
    assert lines_cross(lines, boxes).tolist() == [[1, 0], [1, 0], [1, 1], [0, 0]]
