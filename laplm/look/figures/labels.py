"""Names beside points: each finds a place where it covers no other name, no point and no line.

In plain numbers, dots of a picture: x to the right, y up. A box is (x0, y0, x1, y1), a leader the
thin line from a point to its name, (x0, y0, x1, y1) too. They are drawn in ``scatter_plots.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_DIRECTIONS = 24
_STEPS = 20  # how far a name may go from its point, in such parts of its height:
_PART = 0.5
_ROUNDS, _MORE = 60, 12


class LabelPlacement(NamedTuple):
    """Where a name is.

    Attributes:
        box: its rectangle, (4,).
        leader: from its point to the name, (4,); None where the name is so near that it needs none.
        free: it covers nothing.
    """

    box: Array
    leader: Array | None
    free: bool


def boxes_overlap(a: Array, b: Array) -> Array:
    """Which boxes share more than an edge: (N, 4) and (M, 4) give (N, M)."""
    a, b = a[:, None], b[None]
    return np.asarray(
        (a[..., 0] < b[..., 2]) & (b[..., 0] < a[..., 2])
        & (a[..., 1] < b[..., 3]) & (b[..., 1] < a[..., 3])
    )  # fmt: skip


def lines_cross(lines: Array, boxes: Array) -> Array:
    """Which lines go through which boxes: (N, 4) and (M, 4) give (N, M).

    Liang and Barsky's clipping: the share of a line that is within the box, on both axes.
    """
    first, last = np.zeros((len(lines), len(boxes))), np.ones((len(lines), len(boxes)))
    for axis in (0, 1):
        start = lines[:, None, axis]
        step = lines[:, None, axis + 2] - start
        step = np.where(np.abs(step) < 1e-9, 1e-9, step)
        low, high = (boxes[None, :, axis] - start) / step, (boxes[None, :, axis + 2] - start) / step
        first = np.maximum(first, np.minimum(low, high))
        last = np.minimum(last, np.maximum(low, high))
    return np.asarray(first < last)


def place_labels(
    points: Array, sizes: Array, frame: Array, radii: Array, taken: Array | None = None
) -> list[LabelPlacement]:
    """A place for the name of each point.

    The most crowded points choose first. Names that then find no place that is free, or else the
    one that is farthest from its point, choose before all others in another round; the round with
    the fewest collisions and the shortest leaders is taken.

    Args:
        points: (N, 2), their x and y.
        sizes: (N, 2), width and height of each name.
        frame: (4,), which no name leaves.
        radii: (N,), of the points' marks.
        taken: (M, 4), where no name may be, besides.
    """
    marks = np.hstack([points - radii[:, None], points + radii[:, None]])
    near = np.linalg.norm(points[:, None] - points[None], axis=-1) < 8 * sizes[:, 1].max(initial=0)
    order = list(np.argsort(-near.sum(1), kind="stable"))
    taken = np.zeros((0, 4)) if taken is None else taken
    best: tuple[int, float, list[LabelPlacement]] | None = None
    more = _MORE  # rounds after the first in which all names are free
    for _ in range(_ROUNDS):
        found = _in_order(order, points, sizes, frame, marks, taken)
        stuck = [i for i in order if not found[i].free]
        way = [0.0 if p.leader is None else math.dist(*p.leader.reshape(2, 2)) for p in found]
        if best is None or (len(stuck), sum(way)) < best[:2]:
            best = len(stuck), sum(way), found
        more -= not stuck
        if not more or not (stuck or any(way)):
            break
        first = stuck or [int(np.argmax(way))]
        order = first + [i for i in order if i not in first]
    return best[2] if best else []


def _in_order(
    order: Sequence[int], points: Array, sizes: Array, frame: Array, marks: Array, taken: Array
) -> list[LabelPlacement]:
    found: dict[int, LabelPlacement] = {}
    names = np.zeros((0, 4))
    leaders = np.zeros((0, 4))
    for i in order:
        radius = (marks[i, 2] - marks[i, 0]) / 2
        covered = np.vstack([np.delete(marks, i, 0), taken, names])
        here = _first_free(points[i], sizes[i], frame, marks[i], covered, leaders)
        found[i] = here
        names = np.vstack([names, here.box + radius / 3 * np.array([-1, -1, 1, 1])])
        if here.leader is not None:
            leaders = np.vstack([leaders, here.leader])
    return [found[i] for i in range(len(points))]


def _first_free(
    point: Array, size: Array, frame: Array, mark: Array, covered: Array, leaders: Array
) -> LabelPlacement:
    """The nearest place where a name covers nothing, or else the one where it covers the least."""
    radius = (mark[2] - mark[0]) / 2
    boxes = _around(point, size, radius)
    boxes = boxes[
        (boxes[:, :2] >= frame[:2]).all(1) & (boxes[:, 2:] <= frame[2:]).all(1)
        & ~boxes_overlap(boxes, mark[None])[:, 0]
    ]  # fmt: skip
    if not len(boxes):  # the name is wider than the frame
        return LabelPlacement(np.hstack([frame[:2], frame[:2] + size]), None, False)
    ends = np.clip(point, boxes[:, :2], boxes[:, 2:])  # of each, the point that is nearest
    lines = np.hstack([np.broadcast_to(point, ends.shape), ends])
    far = np.linalg.norm(ends - point, axis=1) > 2.5 * radius
    hits = boxes_overlap(boxes, covered).sum(1) + lines_cross(leaders, boxes).sum(0)
    hits += far * lines_cross(lines, covered).sum(1)
    i = int(np.argmin(hits))  # the first of the least
    return LabelPlacement(boxes[i], lines[i] if far[i] else None, bool(hits[i] == 0))


def _around(point: Array, size: Array, radius: float) -> Array:
    """Boxes of a size around a point, the nearest first: right and left before up and down."""
    turns = np.arange(_DIRECTIONS) * 2 * math.pi / _DIRECTIONS
    turns = turns[np.argsort(np.abs(np.sin(turns)).round(3) % 1, kind="stable")]
    away = radius * 1.3 + np.arange(_STEPS)[:, None] * size[1] * _PART
    x = point[0] + np.cos(turns) * (away + size[0] / 2)
    y = point[1] + np.sin(turns) * (away + size[1] / 2)
    middle = np.stack([x.ravel(), y.ravel()], 1)
    return np.hstack([middle - size / 2, middle + size / 2])
