"""Named points: in a plane, and by year."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from laplm.look.figures.canvas import (
    FRAME,
    OKABE_ITO,
    add_subtitle,
    font_points,
    format_numbers,
    magnification,
    style_context,
    titled_axes,
)
from laplm.look.figures.labels import boxes_overlap, place_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[Any]

_MARKS, _COLOURS = "osD", (OKABE_ITO[0], OKABE_ITO[2], OKABE_ITO[3])  # by kind, in a timeline


def scatter(
    points: Array,
    labels: Sequence[str],
    groups: Sequence[str],
    title: str,
    *,
    x_label: str = "",
    y_label: str = "",
    subtitle: str = "",
    pairs: Sequence[tuple[int, int]] = (),
) -> Figure:
    """Named points in a plane, (N, 2), coloured and marked by group; names do not overlap.

    Args:
        points: (N, 2).
        labels: a name for each point.
        groups: what kind each point is of.
        title: what the picture shows.
        x_label: what is on the horizontal axis.
        y_label: what is on the vertical axis.
        subtitle: a smaller line under the title.
        pairs: points (by index) that belong together and are joined by a line.
    """
    figure, axes = titled_axes(title, 9.0, 7.0)
    with style_context():
        names = list(dict.fromkeys(groups))
        markers = "osD^vPX*"
        for first, second in pairs:
            axes.plot(*points[[first, second]].T, color="#bbbbbb", linewidth=0.9, zorder=1)
        for i, name in enumerate(names):
            own = [j for j, group in enumerate(groups) if group == name]
            axes.scatter(
                points[own, 0], points[own, 1], s=42, color=OKABE_ITO[i % 8],
                marker=markers[i % 8], label=name, zorder=2,
            )  # fmt: skip
        axes.axhline(0, color="#dddddd", linewidth=0.8, zorder=0)
        axes.axvline(0, color="#dddddd", linewidth=0.8, zorder=0)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.margins(0.1 if magnification() <= 1 else 0.18, 0.1)
        add_subtitle(axes, subtitle)
        if len(names) > 1:  # below, where no name can lie
            figure.legend(
                frameon=False, loc="outside lower right", ncols=len(names), handletextpad=0.1,
                columnspacing=1.2,
            )  # fmt: skip
        _label_beside_points(figure, axes, points, labels, pairs)
    return figure


def _label_beside_points(
    figure: Figure,
    axes: Axes,
    points: Array,
    labels: Sequence[str],
    pairs: Sequence[tuple[int, int]] = (),
) -> None:
    """Write a name beside each point, at the first of eight places where it covers no other.

    Large names that find none go farther away, with a line to their point, or are left out.
    """
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    taken: list[Any] = []
    crowded: dict[int, Array] = {}  # points whose names found no place, and how large these are
    marks = axes.transData.transform(points)
    frame = figure.bbox
    spots = [(6, 0), (-6, 0), (0, 7), (0, -7), (6, 7), (-6, 7), (6, -7), (-6, -7)]
    if magnification() > 1:
        spots += [(0, 15), (0, -15), (6, 15), (-6, 15), (6, -15), (-6, -15), (16, 0), (-16, 0)]
    # A line to the right leaves the left side free.
    lefts = {a if marks[a][0] < marks[b][0] else b for a, b in pairs}
    for i, (point, label) in enumerate(zip(points, labels, strict=True)):
        best: tuple[int, Any, Any] | None = None
        for dx, dy in spots:
            dx = -dx if i in lefts else dx
            text = axes.annotate(
                label, point, xytext=(dx, dy), textcoords="offset points", fontsize=font_points(9),
                ha={1: "left", 0: "center", -1: "right"}[int(np.sign(dx))],
                va={1: "bottom", 0: "center", -1: "top"}[int(np.sign(dy))],
            )  # fmt: skip
            box = text.get_window_extent(renderer)
            hits = sum(box.overlaps(other) for other in taken)
            hits += sum(box.padded(3).contains(x, y) for x, y in marks)
            if box.x0 < frame.x0 or box.x1 > frame.x1 or box.y0 < frame.y0 or box.y1 > frame.y1:
                hits += len(marks)  # would be cut off
            if best is None or hits < best[0]:
                if best is not None:
                    best[1].remove()
                best = (hits, text, box)
            else:
                text.remove()
            if hits == 0:
                break
        assert best is not None
        if best[0] and magnification() > 1:
            best[1].remove()
            crowded[i] = np.array(best[2].size)
            continue
        best[1].set_in_layout(False)  # else the axes make room, and names move onto each other
        taken.append(best[2])
    if crowded:
        covered = np.array([box.extents for box in taken]).reshape(-1, 4)
        _label_with_leaders(axes, points, labels, crowded, covered)


def _label_with_leaders(
    axes: Axes, points: Array, labels: Sequence[str], sizes: dict[int, Array], covered: Array
) -> None:
    """Write the names of some points away from them, where there is room; leave out the others.

    Args:
        axes: where they are.
        points: all of them, (N, 2).
        labels: their names.
        sizes: width and height of the names that are to be written, in dots, by index.
        covered: boxes that other names take, (M, 4), in dots.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    own, marks, radius = list(sizes), axes.transData.transform(points), 0.055 * figure.dpi
    others = np.delete(marks, own, 0)
    covered = np.vstack([np.hstack([others - radius, others + radius]), covered])
    found = place_labels(
        marks[own], np.array([*sizes.values()]), np.array(axes.bbox.extents),
        np.full(len(own), radius), covered,
    )  # fmt: skip
    for i, here in zip(own, found, strict=True):
        if here.free:  # better none than one that cannot be read
            axes.annotate(
                labels[i], points[i], xytext=(here.box[:2] - marks[i]) * 72 / figure.dpi,
                textcoords="offset points", fontsize=font_points(9), ha="left", va="bottom",
                arrowprops={"arrowstyle": "-", "color": "#8a8a8a", "linewidth": 0.8, "shrinkA": 0,
                            "shrinkB": 4},
            ).set_in_layout(False)  # fmt: skip


@dataclass(frozen=True)
class TimelinePoint:
    """A point of ``timeline``.

    Attributes:
        name: beside it.
        year: whole; where in it, the order of the points says.
        value: its height.
        kind: what the legend has.
        estimate: drawn hollow.
        marked: drawn as a star, its name bold.
    """

    name: str
    year: int
    value: float
    kind: str
    estimate: bool = False
    marked: bool = False


def timeline(
    points: Sequence[TimelinePoint],
    title: str,
    *,
    y_label: str,
    subtitle: str = "",
    level: tuple[float, str],
) -> Figure:
    """Points by year on a logarithmic scale, every one named; no name covers anything.

    Args:
        points: in the order of time.
        title: what the picture shows.
        y_label: what the heights are.
        subtitle: a smaller line under the title.
        level: a height with its name, drawn as a dashed line.
    """
    figure, axes = titled_axes(title, 13.0, 5.9)
    years = sorted({point.year for point in points})
    places = []
    for year in years:
        n = sum(point.year == year for point in points)
        places += [year + (i + 0.5) / n for i in range(n)]
    kinds = list(dict.fromkeys(point.kind for point in points))
    with style_context():
        for x, point in zip(places, points, strict=True):
            kind = kinds.index(point.kind) % 3
            colour = FRAME if point.marked else _COLOURS[kind]
            axes.scatter(
                [x], [point.value], s=150 if point.marked else 40, linewidths=1.4, zorder=3,
                marker="*" if point.marked else _MARKS[kind],
                edgecolors=colour, facecolors="none" if point.estimate else colour,
            )  # fmt: skip
        axes.axhline(level[0], color=FRAME, linewidth=1.3, linestyle="--", zorder=1)
        format_numbers(axes, "y", log=True)
        axes.set_xlim(years[0], years[-1] + 1)
        heights = [level[0], *(point.value for point in points)]
        axes.set_ylim(min(heights) / 4, max(heights) * 25)
        _year_bands(axes, years[0], years[-1])
        axes.set_ylabel(y_label)
        add_subtitle(axes, subtitle)
        _kind_legend(axes, kinds, {point.kind for point in points if point.estimate})
        _label_points(figure, axes, places, points, level)
    return figure


def _year_bands(axes: Axes, first: int, last: int) -> None:
    """A band for each year, its number in the middle of it."""
    from matplotlib.ticker import NullFormatter

    axes.set_xticks(range(first, last + 2))
    axes.xaxis.set_major_formatter(NullFormatter())
    axes.set_xticks([year + 0.5 for year in range(first, last + 1)], minor=True)
    axes.set_xticklabels([str(year) for year in range(first, last + 1)], minor=True)
    axes.tick_params(axis="x", which="minor", length=0)
    axes.grid(axis="x", color="#e4e4e4")
    axes.set_axisbelow(True)


def _kind_legend(axes: Axes, kinds: Sequence[str], hollow: set[str]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [], [], linestyle="", marker=_MARKS[i % 3], color=_COLOURS[i % 3], label=kind,
            markerfacecolor="none" if kind in hollow else None,
        )
        for i, kind in enumerate(kinds)
    ]  # fmt: skip
    axes.legend(
        handles=handles, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.06),
        ncols=len(kinds), handletextpad=0.1, columnspacing=1.6,
    )  # fmt: skip


def _label_points(
    figure: Figure,
    axes: Axes,
    places: Sequence[float],
    points: Sequence[TimelinePoint],
    level: tuple[float, str],
) -> None:
    """Write the name of each point, and of the dashed line, where they cover nothing."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # what follows is measured in dots
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    names = [
        axes.text(
            0, 0, point.name, transform=None, fontsize=10, va="bottom", zorder=4,
            fontweight="bold" if point.marked else "normal",
        )
        for point in points
    ]  # fmt: skip
    dots = axes.transData.transform([(x, p.value) for x, p in zip(places, points, strict=True)])
    radii = np.array([0.1 if point.marked else 0.055 for point in points]) * figure.dpi
    frame = np.array(axes.bbox.extents)
    height = float(axes.transData.transform((places[0], level[0]))[1])
    line = axes.text(
        0, 0, level[1], transform=None, fontsize=10, va="bottom", fontweight="bold", color=FRAME
    )
    of_line = _on_line(_size_of(line, renderer), height, frame, dots)
    # Parts of the figure, so that a picture of more dots has them at the same places.
    whole = figure.bbox.size
    line.set(position=of_line[:2] / whole, transform=figure.transFigure)
    taken = np.array([of_line, [frame[0], height - 1, frame[2], height + 1]])
    sizes = np.array([_size_of(text, renderer) for text in names])
    found = place_labels(dots, sizes, frame, radii, taken)
    if not all(here.free for here in found):  # the line runs through a crowd: names interrupt it
        found = place_labels(dots, sizes, frame, radii, taken[:1])
    for text, here in zip(names, found, strict=True):
        text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0})
        text.set(position=here.box[:2] / whole, transform=figure.transFigure)
        if here.leader is not None:
            ends = here.leader.reshape(2, 2) / whole
            axes.add_line(_thin_line(ends, figure))


def _size_of(text: Any, renderer: Any) -> Array:
    """Width and height of a text."""
    return np.array(text.get_window_extent(renderer).size)


def _on_line(size: Array, height: float, frame: Array, dots: Array) -> Array:
    """Where the name of a level line covers the fewest points: above or below it, at any place."""
    lefts = np.linspace(frame[0] + 4, frame[2] - size[0] - 4, 12)[::-1]
    corners = [(x, y) for y in (height + 4, height - size[1] - 4) for x in lefts]
    boxes = np.array([[x, y, x + size[0], y + size[1]] for x, y in corners])
    around = np.hstack([dots - size[1], dots + size[1]])
    return np.asarray(boxes[np.argmin(boxes_overlap(boxes, around).sum(1))])


def _thin_line(ends: Array, figure: Figure) -> Any:
    from matplotlib.lines import Line2D

    return Line2D(*ends.T, transform=figure.transFigure, color="#8a8a8a", linewidth=0.8, zorder=2)
