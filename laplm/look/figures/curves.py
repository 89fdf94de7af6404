"""Curves over a common axis."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from laplm.look.figures.canvas import (
    OKABE_ITO,
    add_subtitle,
    font_points,
    format_numbers,
    magnification,
    new_figure,
    sheet_title,
    style_context,
    titled_axes,
)
from laplm.look.figures.matrices import draw_heatmap

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[Any]

_WIDE = (13.5, 4.0)  # inches of a picture below the words of a slide


def line_chart(
    x: Sequence[float],
    series: Mapping[str, Sequence[float]],
    title: str,
    *,
    x_label: str = "",
    y_label: str = "",
    log_y: bool = False,
    subtitle: str = "",
) -> Figure:
    """Curves over a common axis, each with its name at its end when there is more than one."""
    figure, axes = titled_axes(title, 8.5, 4.6 * min(magnification(), 1.3))
    with style_context():
        from matplotlib.ticker import MaxNLocator

        for i, (name, y) in enumerate(series.items()):
            axes.plot(x, y, color=OKABE_ITO[i % 8], label=name, linewidth=1.8)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        if log_y:
            format_numbers(axes, "y", log=True)
        if all(float(place).is_integer() for place in x):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
        if len(series) > 1 and magnification() > 1:  # large names would cover the curves
            axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, -0.2))
        elif len(series) > 1:
            axes.legend(frameon=False)
        add_subtitle(axes, subtitle)
    return figure


def learning_curves(
    measured: Mapping[str, tuple[Sequence[int], Sequence[float]]],
    noisy: Mapping[str, tuple[Sequence[int], Sequence[float]]],
    title: str,
    *,
    x_label: str,
    y_label: str,
    subtitle: str = "",
) -> Figure:
    """Curves of training runs, a colour each: what was measured, and faintly what goes up and down.

    Args:
        measured: steps and values of each run, drawn with dots, the last one named.
        noisy: the same runs' other series, drawn thin.
        title: what the picture shows.
        x_label: what a step is.
        y_label: what the values are.
        subtitle: a smaller line under the title.
    """
    figure, axes = titled_axes(title, 8.5, 4.6 * min(magnification(), 1.3))
    with style_context():
        from matplotlib.ticker import MaxNLocator

        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        for i, (name, (steps, values)) in enumerate(measured.items()):
            axes.plot(*noisy[name], color=OKABE_ITO[i % 8], alpha=0.35, linewidth=1.4)
            label = f"{name}: {values[-1]:.2f} at the end" if values else name
            axes.plot(steps, values, "o-", color=OKABE_ITO[i % 8], label=label, markersize=4)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.margins(x=0.1)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
        add_subtitle(axes, subtitle)
    return figure


def map_and_lines(
    values: Array,
    labels: Sequence[str],
    series: Mapping[str, Sequence[float] | Array],
    title: str,
    *,
    map_title: str,
    lines_title: str,
    label: str,
) -> Figure:
    """A square map of a quantity, and curves over the same quantity beside it.

    Args:
        values: (N, N), in two directions from 0.
        labels: of its rows and columns.
        series: curves by name.
        title: what the picture shows.
        map_title: what the map shows.
        lines_title: what the curves show.
        label: what the axes are.
    """
    figure = new_figure(*((12.0, 5.2) if magnification() <= 1 else _WIDE))
    with style_context():
        sheet_title(figure, title)
        left, right = figure.subplots(1, 2, width_ratios=(1.0, 1.15))
        image = draw_heatmap(left, values, diverging=True)
        left.set_aspect("equal")
        # About eight labels: on a map of positions more of them say nothing new.
        places = range(0, len(labels), max(1, len(labels) // int(8 / magnification() ** 1.5)))
        left.set_xticks(places, [labels[i] for i in places])
        left.set_yticks(places, [labels[i] for i in places])
        left.set(xlabel=label, ylabel=label)
        room = int(60 / magnification())
        left.set_title(
            textwrap.fill(map_title, room // 2), fontsize=font_points(10), fontweight="normal"
        )
        bar = figure.colorbar(image, ax=left, shrink=0.8, aspect=30)
        bar.outline.set_visible(False)
        for i, (name, y) in enumerate(series.items()):
            right.plot(y, color=OKABE_ITO[i % 8], label=name, linewidth=1.4)
        right.set_xlabel(label)
        right.grid(alpha=0.25)
        if magnification() > 1:
            right.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
        else:
            right.legend(
                frameon=False, loc="upper left", bbox_to_anchor=(0, -0.1), ncols=4, fontsize=9
            )
        right.set_title(
            textwrap.fill(lines_title, room + 10), fontsize=font_points(10), fontweight="normal"
        )
    return figure
