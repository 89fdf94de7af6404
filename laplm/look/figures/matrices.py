"""Matrices as colours: one, some with labels, many small ones."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from laplm.look.figures.canvas import (
    FRAME,
    MAX_LABEL_LENGTH,
    MAX_TICK_LABELS,
    SMALLEST_POINTS,
    add_subtitle,
    font_points,
    magnification,
    new_figure,
    sheet_title,
    shorten,
    style_context,
    titled_axes,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[Any]

_LETTER = 0.065  # inches that a letter in a cell takes


def heatmap(
    values: Array,
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    title: str,
    *,
    x_label: str = "",
    y_label: str = "",
    value_label: str = "",
    diverging: bool = False,
    limit: float | None = None,
    numbers: int | None = None,
    texts: Sequence[Sequence[str]] | None = None,
    marked: Sequence[tuple[int, int]] = (),
    subtitle: str = "",
) -> Figure:
    """A matrix as colours, NaN as grey (what a mask hides).

    Args:
        values: (rows, columns).
        row_labels: one for each row.
        column_labels: one for each column.
        title: what the picture shows.
        x_label: what the columns are.
        y_label: what the rows are.
        value_label: what the colour is.
        diverging: two directions from 0, else from the least to the greatest value.
        limit: the value of the strongest colour; by default the largest there is.
        numbers: print values with this many digits in the cells, when they fit.
        texts: print these in the cells instead, (rows, columns). Words are cut short to fit;
            numbers are left out when they do not.
        marked: cells (row, column) that get a frame.
        subtitle: a smaller line under the title.
    """
    rows, columns = values.shape
    if texts is None and numbers is not None and rows * columns <= 400:
        texts = [[_number(value, numbers) for value in row] for row in values]
    longest = max((len(text) for row in texts or () for text in row), default=0)
    words = texts is not None and not _all_numbers(texts)
    size = 7.0 if magnification() <= 1 else SMALLEST_POINTS  # points, in the cells
    letter = _LETTER * magnification() * size / 7
    cell = max(0.36, letter * (min(longest, 10) + 1))
    edges = 3.2 + 0.08 * min(MAX_LABEL_LENGTH, max(map(len, row_labels), default=0))
    width = min(28.0 if words else 16.0, edges + cell * columns)
    height = min(16.0, 2.2 + 0.32 * rows + 0.05 * max(map(len, column_labels), default=0))
    figure, axes = titled_axes(title, max(6.0, width), max(3.2, height))
    with style_context():
        from matplotlib.patches import Rectangle

        image = draw_heatmap(axes, values, diverging=diverging, limit=limit)
        label_ticks(axes, row_labels, column_labels)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        bar = figure.colorbar(image, ax=axes, shrink=0.8, aspect=30)
        bar.set_label(textwrap.fill(value_label, int(figure.get_size_inches()[1] * 9)))
        bar.outline.set_visible(False)
        add_subtitle(axes, subtitle)
        for row, column in marked:
            corner = (column - 0.46, row - 0.46)
            axes.add_patch(Rectangle(corner, 0.92, 0.92, fill=False, color=FRAME, linewidth=1.6))
        room = int((width - edges) / columns / letter)
        if texts is not None and room >= 3 and (words or longest <= room):
            _write_in_cells(axes, values, image, texts, room, size)
    return figure


def draw_heatmap(
    axes: Axes, values: Array, *, diverging: bool = False, limit: float | None = None
) -> Any:
    """Draw a matrix into ``axes``; returns the image, for a colour bar."""
    finite = values[np.isfinite(values)]
    most = float(np.abs(finite).max()) if finite.size else 1.0
    if diverging:
        bound = (limit if limit is not None else most) or 1.0
        low, high, colours = -bound, bound, "PuOr"
    else:
        low = min(0.0, float(finite.min())) if finite.size else 0.0
        high = limit if limit is not None else (float(finite.max()) if finite.size else 1.0)
        high, colours = (high if high > low else low + 1.0), "viridis"
    axes.set_facecolor("#e8e8e8")
    image = axes.imshow(
        np.ma.masked_invalid(values), cmap=colours, vmin=low, vmax=high, aspect="auto",
        interpolation="nearest",
    )  # fmt: skip
    for spine in axes.spines.values():
        spine.set_visible(False)
    return image


def label_ticks(axes: Axes, row_labels: Sequence[str], column_labels: Sequence[str]) -> None:
    """Label rows and columns; thinned out when there are too many to read."""
    for axis, labels in ((axes.yaxis, row_labels), (axes.xaxis, column_labels)):
        step = max(1, math.ceil(len(labels) / MAX_TICK_LABELS))
        places = list(range(0, len(labels), step))
        axis.set_ticks(places, [shorten(labels[i]) for i in places])
    if max(map(len, column_labels), default=0) > 3:
        axes.tick_params(axis="x", rotation=90)
    axes.tick_params(length=0)


def small_multiples(
    grids: Sequence[Array],
    titles: Sequence[str],
    title: str,
    *,
    columns: int,
    row_titles: Sequence[str] = (),
    limit: float | None = None,
    diverging: bool = False,
) -> Figure:
    """Many small matrices on one sheet, on one scale, ``columns`` to a row."""
    rows = math.ceil(len(grids) / columns)
    figure = new_figure(max(6.0, 1.15 * columns + 1), max(3.0, 1.25 * rows + 0.8))
    with style_context():
        sheet_title(figure, title)
        for i, (grid, name) in enumerate(zip(grids, titles, strict=True)):
            axes = figure.add_subplot(rows, columns, i + 1)
            draw_heatmap(axes, grid, limit=limit, diverging=diverging)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_title(name, fontsize=font_points(8), fontweight="normal", loc="center", pad=2)
            if row_titles and i % columns == 0:
                axes.set_ylabel(row_titles[i // columns], fontsize=font_points(8))
    return figure


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One of several labelled matrices on a sheet."""

    values: Array
    title: str
    row_labels: Sequence[str]
    column_labels: Sequence[str]
    x_label: str = ""
    y_label: str = ""


def panels(
    panels: Sequence[Panel],
    title: str,
    *,
    across: int = 1,
    value_label: str = "",
    diverging: bool = False,
    limit: float | None = None,
    one_scale: bool = True,
    subtitle: str = "",
) -> Figure:
    """Some labelled matrices on one sheet, NaN as grey.

    Args:
        panels: what to draw.
        title: what the picture shows.
        across: how many stand side by side.
        value_label: what the colours are.
        diverging: two directions from 0, else from the least to the greatest value.
        limit: the value of the strongest colour; by default the largest there is.
        one_scale: the same colours mean the same values in all of them.
        subtitle: a smaller text under the title.
    """
    rows, columns = (max(p.values.shape[axis] for p in panels) for axis in (0, 1))
    down = math.ceil(len(panels) / across)
    names = max((len(label) for p in panels for label in p.column_labels), default=0)
    width = across * min(11.0, 1.4 + 0.34 * columns)
    height = down * min(8.0, 1.1 + 0.26 * rows + 0.07 * min(names, MAX_LABEL_LENGTH))
    figure = new_figure(max(6.5, width + 1.2), max(3.4, height + 0.9))
    if one_scale and limit is None:
        finite = np.concatenate([p.values[np.isfinite(p.values)] for p in panels])
        limit = float(np.abs(finite).max()) if finite.size else None
    with style_context():
        sheet_title(figure, title, subtitle)
        every: list[Axes] = []
        image: Any = None
        for i, panel in enumerate(panels):
            axes = figure.add_subplot(down, across, i + 1)
            image = draw_heatmap(axes, panel.values, diverging=diverging, limit=limit)
            label_ticks(axes, panel.row_labels, panel.column_labels)
            axes.set_title(panel.title, fontsize=font_points(10), fontweight="normal")
            axes.set_xlabel(panel.x_label)
            axes.set_ylabel(panel.y_label)
            every.append(axes)
            if not one_scale:
                figure.colorbar(image, ax=axes, aspect=30).outline.set_visible(False)
        if one_scale:
            bar = figure.colorbar(image, ax=every, shrink=0.8, aspect=30)
            bar.set_label(value_label)
            bar.outline.set_visible(False)
    return figure


def write_numbers(axes: Axes, values: Array, image: Any, digits: int) -> None:
    """The values of a painted matrix in its cells, where they are finite."""
    write_texts(axes, values, image, [[_number(v, digits) for v in row] for row in values])


def write_texts(axes: Axes, values: Array, image: Any, texts: Sequence[Sequence[str]]) -> None:
    """Texts in the cells of a painted matrix, black or white by what is behind them."""
    _write_in_cells(axes, values, image, texts, 14, SMALLEST_POINTS)


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else ""


def _all_numbers(texts: Sequence[Sequence[str]]) -> bool:
    return all(re.fullmatch(r"[-+]?[\d.,e+-]*", text) for row in texts for text in row)


def _cut_to(text: str, room: int) -> str:
    return text if len(text) <= room else f"{text[: room - 1]}…"


def _write_in_cells(
    axes: Axes, values: Array, image: Any, texts: Sequence[Sequence[str]], room: int, size: float
) -> None:
    """A text in each cell, of at most ``room`` letters, black or white by what is behind it."""
    for (row, column), value in np.ndenumerate(values):
        text = texts[row][column]
        if not math.isfinite(value) or not text:
            continue
        red, green, blue, _ = image.cmap(image.norm(value))
        light = 0.299 * red + 0.587 * green + 0.114 * blue > 0.5
        axes.text(
            column, row, _cut_to(text, room), ha="center", va="center", fontsize=size,
            color="black" if light else "white",
        )  # fmt: skip
