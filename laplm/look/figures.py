"""Every kind of picture that looks are drawn with: built once, for all rooms.

Colours can be told apart by colour-blind people: viridis for sizes, purple to orange (PuOr) for
two directions, Okabe and Ito's eight for kinds. matplotlib's ``Figure`` is used without pyplot, so
no window opens and nothing is left behind.
"""

from __future__ import annotations

import functools
import math
import re
import textwrap
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from laplm.errors import InputError, MissingExtraError
from laplm.look.labels import overlap, place

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from laplm.look.view import Network

Array = NDArray[Any]

OKABE_ITO = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000",
)  # fmt: skip
_FALLBACKS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Zen Hei",
    "PingFang SC", "Hiragino Sans", "Microsoft YaHei", "Malgun Gothic", "Noto Emoji", "Symbola",
    "Segoe UI Emoji",
)  # fmt: skip
_RC: Any = {
    "font.size": 10.0,
    "axes.titlesize": 12.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "laplm",  # the same picture is the same file
    "svg.fonttype": "path",
    "figure.constrained_layout.use": True,
    "text.parse_math": False,  # a dollar sign in a token is a dollar sign
}
_MAX_LABELS = 64  # beyond that they would overlap: every n-th is shown
_MAX_TEXT = 22
FRAME = "#D55E00"
_LETTER = 0.065  # inches that a letter in a cell takes
_NARROW = 5.5  # inches: magnified letters make no figure narrower
_LEAST = 10.5  # points of the smallest letters on a slide
_WIDE = (13.5, 4.0)  # inches of a picture below the words of a slide
_magnified = 1.0  # how much larger than on a page letters are, beside the rest


def magnify(letters: float) -> None:
    """From here on, draw letters so much larger beside the rest: 1 for a page, 1.5 for a slide.

    Raises:
        InputError: ``letters`` is not a number from 0.5 to 3.
    """
    global _magnified
    if isinstance(letters, bool) or not isinstance(letters, int | float) or not 0.5 <= letters <= 3:
        raise InputError(f"letters are magnified by {letters!r}, but it must be from 0.5 to 3")
    _magnified = float(letters)


def _points(size: float) -> float:
    """The size of small letters: on a slide none is smaller than these."""
    return size if _magnified <= 1 else max(size, _LEAST)


def _new(title: str, width: float, height: float) -> tuple[Figure, Axes]:
    figure = new_figure(width, height)
    with style():
        axes = figure.add_subplot()
        # It begins where the axes do; large labels beside them leave it less room.
        labels = 1.3 if _magnified > 1 else 0.0
        axes.set_title(_wrapped(title, figure.get_size_inches()[0] - labels))
    return figure, axes


def _wrapped(title: str, width: float) -> str:
    """A title in lines that fit a figure of so many inches."""
    return textwrap.fill(title, max(20, int(width * 8)), break_on_hyphens=False)


def style() -> Any:
    """The context in which every figure is made and drawn upon."""
    try:
        import matplotlib as mpl
    except ModuleNotFoundError as error:
        raise MissingExtraError("A picture", "look") from error
    # A character that no font here has is drawn as an empty box, which says enough.
    warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font", UserWarning)
    families = {"font.family": ["DejaVu Sans", *other_scripts()]}
    return mpl.rc_context(_RC | families | {"font.size": _points(_RC["font.size"])})


@functools.cache
def other_scripts() -> list[str]:
    """Fonts of this machine for what DejaVu lacks: Chinese, Japanese, Korean, emoji."""
    from matplotlib.font_manager import get_font_names

    installed = set(get_font_names())
    return [name for name in _FALLBACKS if name in installed]


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches; of fewer, with as many dots, when letters are magnified.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    with style():
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        by = min(_magnified, max(1.0, width / _NARROW)) if _magnified > 1 else _magnified
        figure = Figure(figsize=(width / by, height / by), dpi=100 * by, facecolor="white")
        FigureCanvasAgg(figure)
    return figure


def shorten(label: str) -> str:
    """A label of bounded length, so that a long token does not push the picture away."""
    return label if len(label) <= _MAX_TEXT else label[: _MAX_TEXT - 1] + "…"


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
    size = 7.0 if _magnified <= 1 else _LEAST  # points, in the cells
    letter = _LETTER * _magnified * size / 7
    cell = max(0.36, letter * (min(longest, 10) + 1))
    edges = 3.2 + 0.08 * min(_MAX_TEXT, max(map(len, row_labels), default=0))
    width = min(28.0 if words else 16.0, edges + cell * columns)
    height = min(16.0, 2.2 + 0.32 * rows + 0.05 * max(map(len, column_labels), default=0))
    figure, axes = _new(title, max(6.0, width), max(3.2, height))
    with style():
        from matplotlib.patches import Rectangle

        image = paint(axes, values, diverging=diverging, limit=limit)
        ticks(axes, row_labels, column_labels)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        bar = figure.colorbar(image, ax=axes, shrink=0.8, aspect=30)
        bar.set_label(textwrap.fill(value_label, int(figure.get_size_inches()[1] * 9)))
        bar.outline.set_visible(False)
        if subtitle:
            _subtitle(axes, subtitle)
        for row, column in marked:
            corner = (column - 0.46, row - 0.46)
            axes.add_patch(Rectangle(corner, 0.92, 0.92, fill=False, color=FRAME, linewidth=1.6))
        room = int((width - edges) / columns / letter)
        if texts is not None and room >= 3 and (words or longest <= room):
            _write(axes, values, image, texts, room, size)
    return figure


def paint(axes: Axes, values: Array, *, diverging: bool = False, limit: float | None = None) -> Any:
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


def ticks(axes: Axes, row_labels: Sequence[str], column_labels: Sequence[str]) -> None:
    """Label rows and columns; thinned out when there are too many to read."""
    for axis, labels in ((axes.yaxis, row_labels), (axes.xaxis, column_labels)):
        step = max(1, math.ceil(len(labels) / _MAX_LABELS))
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
    with style():
        sheet_title(figure, title)
        for i, (grid, name) in enumerate(zip(grids, titles, strict=True)):
            axes = figure.add_subplot(rows, columns, i + 1)
            paint(axes, grid, limit=limit, diverging=diverging)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_title(name, fontsize=_points(8), fontweight="normal", loc="center", pad=2)
            if row_titles and i % columns == 0:
                axes.set_ylabel(row_titles[i // columns], fontsize=_points(8))
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
    height = down * min(8.0, 1.1 + 0.26 * rows + 0.07 * min(names, _MAX_TEXT))
    figure = new_figure(max(6.5, width + 1.2), max(3.4, height + 0.9))
    if one_scale and limit is None:
        finite = np.concatenate([p.values[np.isfinite(p.values)] for p in panels])
        limit = float(np.abs(finite).max()) if finite.size else None
    with style():
        sheet_title(figure, title, subtitle)
        every: list[Axes] = []
        image: Any = None
        for i, panel in enumerate(panels):
            axes = figure.add_subplot(down, across, i + 1)
            image = paint(axes, panel.values, diverging=diverging, limit=limit)
            ticks(axes, panel.row_labels, panel.column_labels)
            axes.set_title(panel.title, fontsize=_points(10), fontweight="normal")
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


def bars(
    labels: Sequence[str],
    values: Sequence[float],
    title: str,
    *,
    value_label: str = "",
    texts: Sequence[str] = (),
    signed: bool = False,
    log: bool = False,
    marked: Sequence[int] = (),
    subtitle: str = "",
) -> Figure:
    """Horizontal bars, the first on top.

    Args:
        labels: what each bar is.
        values: how long it is.
        title: what the picture shows.
        value_label: what the length is.
        texts: written at the end of each bar; by default nothing.
        signed: bars go both ways from 0, in two colours.
        log: a logarithmic scale.
        marked: indices of bars in another colour.
        subtitle: a smaller line under the title.
    """
    figure, axes = _new(title, 8.0, max(2.6, 1.5 + 0.32 * len(labels)))
    with style():
        places = np.arange(len(labels))
        colours = [
            OKABE_ITO[1] if i in marked or (signed and value < 0) else OKABE_ITO[0]
            for i, value in enumerate(values)
        ]
        axes.barh(places, values, color=colours, height=0.7)
        axes.set_yticks(places, [shorten(label) for label in labels])
        axes.invert_yaxis()
        axes.set_xlabel(value_label)
        axes.tick_params(axis="y", length=0)
        _numbered(axes, "x", log=log)
        if not log:
            axes.locator_params(axis="x", nbins=int(6 / _magnified))
        if signed:
            axes.axvline(0, color="#444444", linewidth=0.8)
        for place, value, text in zip(places, values, texts, strict=False):
            left = signed and value < 0
            axes.annotate(
                text, (value, place), xytext=(-4 if left else 4, 0), textcoords="offset points",
                va="center", ha="right" if left else "left", fontsize=_points(9),
            )  # fmt: skip
        axes.margins(x=0.18)
        if not signed and not log:
            axes.set_xlim(left=0)
        if subtitle:
            _subtitle(axes, subtitle)
    return figure


def grouped_bars(
    labels: Sequence[str], series: Mapping[str, Sequence[float]], title: str, *, value_label: str
) -> Figure:
    """Horizontal bars of several series side by side, such as before and after."""
    figure, axes = _new(title, 8.0, max(3.0, 1.6 + 0.42 * len(labels)))
    with style():
        places = np.arange(len(labels))
        height = 0.8 / len(series)
        for i, (name, values) in enumerate(series.items()):
            at = places + (i - (len(series) - 1) / 2) * height
            axes.barh(at, values, height=height * 0.95, label=name, color=OKABE_ITO[i % 8])
        axes.set_yticks(places, [shorten(label) for label in labels])
        axes.invert_yaxis()
        axes.set_xlabel(value_label)
        axes.tick_params(axis="y", length=0)
        axes.legend(frameon=False)
    return figure


def bar_panels(
    labels: Sequence[str],
    series: Sequence[Sequence[float]],
    names: Sequence[str],
    notes: Sequence[str],
    title: str,
    *,
    value_label: str,
    subtitle: str = "",
) -> Figure:
    """Horizontal bars of several series, a panel each; the first one's are outlined in all."""
    many = len(series)
    large = _magnified > 1
    size = (2.2 + 1.9 * many, max(3.2, 1.9 + 0.3 * len(labels)))
    figure = new_figure(*((9.0, 6.8) if large else size))
    with style():
        sheet_title(figure, title, subtitle)
        places = np.arange(len(labels))
        every = figure.subplots(1, many, sharey=True, squeeze=False)[0]
        for i, (axes, values) in enumerate(zip(every, series, strict=True)):
            axes.barh(places, values, color=OKABE_ITO[1 if i else 0], height=0.7)
            if i:
                axes.barh(places, series[0], height=0.7, fill=False, edgecolor="#777777", lw=0.7)
            name, note = names[i], notes[i]
            if large:
                name, note = textwrap.fill(name, 11), note.replace(", ", ",\n")
            axes.set_title(f"{name}\n{note}", fontsize=_points(9), fontweight="normal")
            axes.set_xlim(0, max(*values, *series[0], 1e-9) * 1.08)
            axes.locator_params(axis="x", nbins=2 if large else 3)
            if not (large and i):  # once: there is no room for it in each
                axes.set_xlabel(value_label)
            axes.tick_params(axis="y", length=0)
        every[0].set_yticks(places, [shorten(label) for label in labels])
        every[0].invert_yaxis()
    return figure


def story(
    *,
    stages: Sequence[str],
    leading: Sequence[str],
    rising: Sequence[float],
    parts: Sequence[str],
    adds: Sequence[float],
    alone: Sequence[float],
    together: Sequence[float],
    whole: float,
    token: str,
    added: str,
    title: str,
    subtitle: str = "",
) -> Figure:
    """How a token comes up by layer, which parts add most to it, and what is left without them.

    Args:
        stages: the layers, from below.
        leading: the likeliest token after each.
        rising: the token's probability after each.
        parts: the strongest parts, strongest first.
        adds: what each adds.
        alone: the token's probability without it.
        together: its probability without it and all parts before it.
        whole: its probability with all parts.
        token: the token.
        added: what the parts add to.
        title: what the picture shows.
        subtitle: a smaller line under the title.
    """
    most = max(len(stages), 2 * len(parts))
    figure = new_figure(13.0, max(4.2, 2.4 + 0.26 * most))
    with style():
        sheet_title(figure, title, subtitle)
        first, second, third = figure.subplots(1, 3, width_ratios=(1.0, 1.15, 1.0))
        heights = np.arange(len(stages))
        ahead = [OKABE_ITO[2 if name == token else 5] for name in leading]
        first.barh(heights, rising, color=ahead, height=0.7)
        for height, name in zip(heights, leading, strict=True):
            first.annotate(
                shorten(name),
                (1.04, height),
                va="center",
                fontsize=_points(8),
                annotation_clip=False,
            )
        first.set_yticks(heights, list(stages))
        first.set_xlim(0, 1)
        first.set(xlabel=f"probability of “{token}”", ylabel="after layer")
        _panel_title(first, "How it comes up (right: the likeliest)")
        places = np.arange(len(parts))
        _signed_bars(second, parts, adds)
        second.set_xlabel(textwrap.fill(added, 44))
        _panel_title(second, "What brings it (→ where the head looks)")
        third.barh(places - 0.2, alone, height=0.36, color=OKABE_ITO[0], label="without this part")
        third.barh(
            places + 0.2, together, height=0.36, color=OKABE_ITO[1], label="without all down to it"
        )
        third.axvline(whole, color="#444444", linewidth=1.0, linestyle="--")
        third.set_yticks(places, [label.split(" →")[0] for label in parts])
        for place, one, all_ in zip(places, alone, together, strict=True):
            for beside, share in ((-0.2, one), (0.2, all_)):
                third.annotate(
                    f"{share:.1%}", (1.04, place + beside), va="center", fontsize=_points(8),
                    annotation_clip=False,
                )  # fmt: skip
        third.set_xlim(0, 1)
        third.set_xlabel(f"probability of “{token}” (dashed: {whole:.1%})")
        third.legend(
            frameon=False,
            loc="upper center",
            fontsize=_points(8),
            ncols=2,
            bbox_to_anchor=(0.5, -0.55 / figure.get_figheight()),
        )
        _panel_title(third, "What is left without them")
        for axes in (second, third):
            axes.invert_yaxis()
        for axes in (first, second, third):
            axes.tick_params(axis="y", length=0)
            axes.locator_params(axis="x", nbins=5)
    return figure


def neuron_panels(
    places: Sequence[str],
    activations: Sequence[float],
    tokens: Sequence[str],
    logits: Sequence[float],
    counts: Sequence[int],
    edges: Sequence[float],
    *,
    title: str,
    subtitle: str = "",
) -> Figure:
    """What excites a neuron, what it adds to logits, and how its activations are spread.

    Args:
        places: the tokens that excite it most, in their texts.
        activations: at each of them.
        tokens: those that it promotes, then those that it suppresses.
        logits: what an activation of 1 adds to each.
        counts: tokens by activation.
        edges: of their bins, one more.
        title: what the picture shows.
        subtitle: a smaller line under the title.
    """
    figure = new_figure(13.0, max(4.4, 2.4 + 0.28 * max(len(places), len(tokens))))
    with style():
        sheet_title(figure, title, subtitle)
        every = figure.subplots(1, 3, width_ratios=(1.0, 0.9, 0.9))
        for axes, labels, values, what in zip(
            every, (places, tokens), (activations, logits),
            ("activation", "added to the logit by an activation of 1"), strict=False,
        ):  # fmt: skip
            _signed_bars(
                axes, labels if axes is every[0] else [shorten(label) for label in labels], values
            )
            axes.axvline(0, color="#444444", linewidth=0.8)
            axes.set_xlabel(what)
            axes.invert_yaxis()
            axes.tick_params(axis="y", length=0)
            axes.locator_params(axis="x", nbins=5)
        every[2].stairs(counts, edges, fill=True, color=OKABE_ITO[5])
        _numbered(every[2], "y", log=True)
        every[2].set_ylim(bottom=0.7)
        every[2].set(xlabel="activation", ylabel="tokens")
        _panel_title(every[0], "What excites it most (the token in brackets)")
        _panel_title(every[1], "What it promotes and suppresses")
        _panel_title(every[2], "All of its activations")
    return figure


def _signed_bars(axes: Axes, labels: Sequence[str], values: Sequence[float]) -> None:
    """A bar for each value, in the colour of its sign and with its number."""
    rows = np.arange(len(labels))
    colours = [OKABE_ITO[0 if value >= 0 else 1] for value in values]
    axes.barh(rows, values, color=colours, height=0.7)
    for row, value in zip(rows, values, strict=True):
        axes.annotate(
            f"{value:+.2f}", (max(value, 0.0), row), xytext=(4, 0),
            textcoords="offset points", va="center", fontsize=_points(8),
        )  # fmt: skip
    axes.set_yticks(rows, list(labels))
    axes.margins(x=0.2)


def _panel_title(axes: Axes, text: str) -> None:
    axes.set_title(textwrap.fill(text, 46), fontsize=_points(10), fontweight="normal")


def token_columns(
    labels: Sequence[str],
    series: Mapping[str, Sequence[float]],
    title: str,
    *,
    dots: Sequence[float] = (),
    subtitle: str = "",
) -> Figure:
    """Upright bars over the tokens of a text, a row for each series; dots go with the first."""
    width = min(16.0, max(6.5, 1.6 + 0.3 * len(labels)))
    figure = new_figure(width, 1.8 + 1.6 * len(series))
    with style():
        sheet_title(figure, title, subtitle)
        places = np.arange(len(labels))
        every = figure.subplots(len(series), 1, sharex=True, squeeze=False)[:, 0]
        for i, (axes, (name, values)) in enumerate(zip(every, series.items(), strict=True)):
            axes.bar(places, values, color=OKABE_ITO[i], width=0.7)
            axes.set_ylabel(name)
        if len(dots):
            every[0].plot(places, dots, "o", color="#000000", markersize=4)
        step = max(1, math.ceil(len(labels) / _MAX_LABELS))
        every[-1].set_xticks(places[::step], [shorten(label) for label in labels[::step]])
        every[-1].tick_params(axis="x", rotation=90, length=0)
        every[-1].set_xlim(-0.6, len(labels) - 0.4)
    return figure


def ending(text: str) -> str:
    """The end of a text on one line, for a subtitle."""
    text = text.replace("\n", "↵")
    return text if len(text) <= 60 else f"…{text[-59:]}"


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
    figure, axes = _new(title, 9.0, 7.0)
    with style():
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
        axes.margins(0.1 if _magnified <= 1 else 0.18, 0.1)
        if subtitle:
            _subtitle(axes, subtitle)
        if len(names) > 1:  # below, where no name can lie
            figure.legend(
                frameon=False, loc="outside lower right", ncols=len(names), handletextpad=0.1,
                columnspacing=1.2,
            )  # fmt: skip
        _place_names(figure, axes, points, labels, pairs)
    return figure


_MARKS, _COLOURS = "osD", (OKABE_ITO[0], OKABE_ITO[2], OKABE_ITO[3])  # by kind, in a timeline


@dataclass(frozen=True)
class Dated:
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
    points: Sequence[Dated],
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
    figure, axes = _new(title, 13.0, 5.9)
    years = sorted({point.year for point in points})
    places = []
    for year in years:
        n = sum(point.year == year for point in points)
        places += [year + (i + 0.5) / n for i in range(n)]
    kinds = list(dict.fromkeys(point.kind for point in points))
    with style():
        for x, point in zip(places, points, strict=True):
            kind = kinds.index(point.kind) % 3
            colour = FRAME if point.marked else _COLOURS[kind]
            axes.scatter(
                [x], [point.value], s=150 if point.marked else 40, linewidths=1.4, zorder=3,
                marker="*" if point.marked else _MARKS[kind],
                edgecolors=colour, facecolors="none" if point.estimate else colour,
            )  # fmt: skip
        axes.axhline(level[0], color=FRAME, linewidth=1.3, linestyle="--", zorder=1)
        _numbered(axes, "y", log=True)
        axes.set_xlim(years[0], years[-1] + 1)
        heights = [level[0], *(point.value for point in points)]
        axes.set_ylim(min(heights) / 4, max(heights) * 25)
        _year_bands(axes, years[0], years[-1])
        axes.set_ylabel(y_label)
        if subtitle:
            _subtitle(axes, subtitle)
        _kind_legend(axes, kinds, {point.kind for point in points if point.estimate})
        _name_all(figure, axes, places, points, level)
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


def _name_all(
    figure: Figure,
    axes: Axes,
    places: Sequence[float],
    points: Sequence[Dated],
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
    of_line = _on_line(_dots(line, renderer), height, frame, dots)
    # Parts of the figure, so that a picture of more dots has them at the same places.
    whole = figure.bbox.size
    line.set(position=of_line[:2] / whole, transform=figure.transFigure)
    taken = np.array([of_line, [frame[0], height - 1, frame[2], height + 1]])
    sizes = np.array([_dots(text, renderer) for text in names])
    found = place(dots, sizes, frame, radii, taken)
    if not all(here.free for here in found):  # the line runs through a crowd: names interrupt it
        found = place(dots, sizes, frame, radii, taken[:1])
    for text, here in zip(names, found, strict=True):
        text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0})
        text.set(position=here.box[:2] / whole, transform=figure.transFigure)
        if here.leader is not None:
            ends = here.leader.reshape(2, 2) / whole
            axes.add_line(_thin_line(ends, figure))


def _dots(text: Any, renderer: Any) -> Array:
    """Width and height of a text."""
    return np.array(text.get_window_extent(renderer).size)


def _on_line(size: Array, height: float, frame: Array, dots: Array) -> Array:
    """Where the name of a level line covers the fewest points: above or below it, at any place."""
    lefts = np.linspace(frame[0] + 4, frame[2] - size[0] - 4, 12)[::-1]
    corners = [(x, y) for y in (height + 4, height - size[1] - 4) for x in lefts]
    boxes = np.array([[x, y, x + size[0], y + size[1]] for x, y in corners])
    around = np.hstack([dots - size[1], dots + size[1]])
    return np.asarray(boxes[np.argmin(overlap(boxes, around).sum(1))])


def _thin_line(ends: Array, figure: Figure) -> Any:
    from matplotlib.lines import Line2D

    return Line2D(*ends.T, transform=figure.transFigure, color="#8a8a8a", linewidth=0.8, zorder=2)


def boxes(labels: Sequence[str], notes: Sequence[str], title: str, *, subtitle: str = "") -> Figure:
    """Short texts in boxes that follow each other like the words of a page, a note under each."""
    # Inches: a letter of this font at 12 points, a line, a page.
    em, line, width = 0.1 * _magnified, 0.52 * _magnified, 9.0
    places: list[tuple[float, int, float]] = []
    x, row = 0.0, 0
    labels = [shorten(label) for label in labels]
    for label, note in zip(labels, notes, strict=True):
        size = em * max(1.0, _cells(label), 0.72 * len(note)) + 0.12
        if x and x + size > width:
            x, row = 0.0, row + 1
        places.append((x, row, size))
        x += size + 0.05
    figure, axes = _new(title, width + 0.3, 0.9 + line * (row + 1))
    with style():
        from matplotlib.patches import FancyBboxPatch

        tints = ("#cfe5f5", "#fbdcc0")  # Okabe and Ito's blue and vermilion, light
        families = ["DejaVu Sans Mono", *other_scripts()]
        for i, (label, note, (x, at, size)) in enumerate(zip(labels, notes, places, strict=True)):
            top = at * line
            box = FancyBboxPatch(
                (x, top), size, line * 0.56, boxstyle="round,pad=0,rounding_size=0.04",
                facecolor=tints[i % 2], edgecolor="none",
            )  # fmt: skip
            axes.add_patch(box)
            middle = x + size / 2
            axes.text(
                middle, top + line * 0.29, label, ha="center", va="center_baseline", fontsize=12,
                family=families,
            )  # fmt: skip
            axes.text(
                middle, top + line * 0.6, note, ha="center", va="top", fontsize=_points(8),
                color="#666666",
                family=families,
            )  # fmt: skip
        axes.set_xlim(0, width)
        axes.set_ylim(line * (row + 1), -0.08)
        axes.axis("off")
        if subtitle:
            _subtitle(axes, subtitle)
    return figure


def tower(
    stages: Sequence[tuple[str, str]],
    opened: int,
    branches: Sequence[Sequence[str]],
    title: str,
    *,
    parallel: bool = False,
    subtitle: str = "",
) -> Figure:
    """Stages that follow each other from the top down, and one of them opened beside them.

    Args:
        stages: name of each, and what goes on from it to the next.
        opened: index of the stage that is opened; it is drawn as a stack.
        branches: what is in it: each branch leaves a line that goes straight through, passes
            through its boxes and is added to the line again.
        title: what the picture shows.
        parallel: all branches have what comes in, not what those before them have added.
        subtitle: a smaller line under the title.
    """
    line, box = 0.86, 0.5
    height = line * len(stages)
    figure, axes = _new(title, 9.0, height + 0.9)
    with style():
        from matplotlib.patches import FancyBboxPatch

        blue, orange, grey, ink = "#cfe5f5", "#fbdcc0", "#eceff3", "#444444"

        def draw(left: float, top: float, width: float, text: str, colour: str) -> None:
            axes.add_patch(FancyBboxPatch(
                (left, top), width, box, boxstyle="round,pad=0,rounding_size=0.06",
                facecolor=colour, edgecolor="white", linewidth=1.2,
            ))  # fmt: skip
            axes.text(left + width / 2, top + box / 2, text, ha="center", va="center_baseline")

        def arrow(start: tuple[float, float], end: tuple[float, float]) -> None:
            how = {"arrowstyle": "-|>", "color": ink, "shrinkA": 0, "shrinkB": 0, "linewidth": 1.0}
            axes.annotate("", end, start, arrowprops=how)

        for i, (name, after) in enumerate(stages):
            top = i * line
            if i == opened:
                for shift in (0.14, 0.07):
                    draw(0.1 + shift, top - shift, 2.5, "", orange)
            draw(0.1, top, 2.5, name, orange if i == opened else blue if i else grey)
            if i + 1 < len(stages):
                arrow((1.35, top + box), (1.35, top + line))
                axes.text(
                    1.5, top + (box + line) / 2, after, va="center", fontsize=_points(9), color=ink
                )
        # What is opened: a frame, the line straight through it, the branches beside.
        through, first, wide = 4.55, 5.1, 2.95
        step = (height - 0.5) / len(branches)
        axes.add_patch(FancyBboxPatch(
            (3.95, -0.1), 4.95, height - 0.16, boxstyle="round,pad=0,rounding_size=0.1",
            facecolor="#fff6ee", edgecolor=FRAME, linewidth=1.0, zorder=0,
        ))  # fmt: skip
        place = opened * line + box / 2
        axes.plot([2.62, 3.95], [place, place], ":", color=FRAME, linewidth=1.4)
        arrow((through, -0.02), (through, height - 0.32))
        for i, parts in enumerate(branches):
            top = 0.12 + i * step
            inner = (step - 0.45) / len(parts)
            for k, part in enumerate(parts):
                y = top + 0.1 + k * inner
                draw(first, y, wide + 0.55, part, orange if k else grey)
                if k + 1 < len(parts):
                    middle = first + (wide + 0.55) / 2
                    arrow((middle, y + box), (middle, y + inner))
            start, end = top + 0.1 + box / 2, top + step - 0.32
            if parallel and i:
                aside = through - 0.32
                axes.plot([through, aside, aside], [0.04, 0.04, start], color=ink, linewidth=1.0)
                arrow((aside, start), (first, start))
            else:
                arrow((through, start), (first, start))
            bottom = top + 0.1 + (len(parts) - 1) * inner + box
            axes.plot([first + 0.4, first + 0.4], [bottom, end], color=ink, linewidth=1.0)
            arrow((first + 0.4, end), (through + 0.14, end))
            axes.plot(through, end, "o", markersize=15, color="white", markeredgecolor=ink)
            axes.text(through, end, "+", ha="center", va="center_baseline", fontweight="bold")
        axes.set_xlim(0, 9.0)
        axes.set_ylim(height - 0.2, -0.25)
        axes.axis("off")
        if subtitle:
            _subtitle(axes, subtitle)
    return figure


def network(drawn: Network, title: str, *, value_label: str, subtitle: str = "") -> Figure:
    """Parts over the words that they stand at, and lines between them, wide by their strength.

    Args:
        drawn: what to draw.
        title: what the picture shows.
        value_label: what the width of a line is.
        subtitle: a smaller text under the title.
    """
    right, top = (max((n[i] for n in ((m.x, m.y) for m in drawn.nodes)), default=0) for i in (0, 1))
    figure = new_figure(
        min(24.0, max(7.0, 2.2 + 0.62 * (right + 1))), min(24.0, max(4.2, 1.9 + 0.62 * (top + 1)))
    )
    with style():
        from matplotlib.patches import FancyBboxPatch, PathPatch
        from matplotlib.path import Path as Outline

        sheet_title(figure, title, subtitle)
        axes = figure.add_subplot()
        strongest = max((abs(edge.weight) for edge in drawn.edges), default=1.0) or 1.0
        for edge in sorted(drawn.edges, key=lambda edge: abs(edge.weight)):
            start, end = drawn.nodes[edge.from_], drawn.nodes[edge.to]
            bend = max(0.3, (end.y - start.y) / 2)
            # Around what stands between two parts of one column.
            between = any(n.x == start.x == end.x and start.y < n.y < end.y for n in drawn.nodes)
            aside = -0.75 if between else 0.0
            curve = [(start.x, start.y), (start.x + aside, start.y + bend),
                     (end.x + aside, end.y - bend), (end.x, end.y)]  # fmt: skip
            share = abs(edge.weight) / strongest
            axes.add_patch(PathPatch(
                Outline(curve, [Outline.MOVETO, *[Outline.CURVE4] * 3]), facecolor="none",
                edgecolor=OKABE_ITO[0 if edge.weight >= 0 else 1],
                linestyle="-" if edge.weight >= 0 else (0, (4, 2)),
                linewidth=0.6 + 4.4 * math.sqrt(share), alpha=0.3 + 0.6 * math.sqrt(share),
                zorder=1,
            ))  # fmt: skip
        fills = {"head": "#dcebf7", "feed-forward": "#fbe6d3"}
        for node in drawn.nodes:
            half = max(0.3, 0.075 * _magnified * _cells(node.label) + 0.08)
            axes.add_patch(FancyBboxPatch(
                (node.x - half, node.y - 0.2), 2 * half, 0.4, zorder=2, linewidth=0.8,
                boxstyle=f"round,pad=0,rounding_size={0.2 if node.kind == 'head' else 0.05}",
                facecolor=fills.get(node.kind, "#eceff3"), edgecolor="#555555",
            ))  # fmt: skip
            axes.text(
                node.x,
                node.y,
                node.label,
                ha="center",
                va="center_baseline",
                fontsize=_points(8),
                zorder=3,
            )
        axes.set_yticks([y for y, _ in drawn.levels], [label for _, label in drawn.levels])
        for x, word in drawn.columns:
            axes.text(x, 0, shorten(word), ha="center", va="center_baseline", color="#666666",
                      fontsize=_points(8))  # fmt: skip
        axes.set_xticks([])
        axes.tick_params(length=0)
        axes.set_xlim(-1.0, right + 0.8)
        axes.set_ylim(-0.5, top + 0.5)
        axes.set_xlabel(textwrap.fill(f"width of a line: {value_label}", 100), fontsize=_points(9))
        for spine in axes.spines.values():
            spine.set_visible(False)
    return figure


def _cells(text: str) -> int:
    """Width of a text in letters of a font in which all are equally wide."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    marks = sum(unicodedata.combining(c) > 0 for c in text)
    return len(text) + wide - marks


def lines(
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
    figure, axes = _new(title, 8.5, 4.6 * min(_magnified, 1.3))
    with style():
        from matplotlib.ticker import MaxNLocator

        for i, (name, y) in enumerate(series.items()):
            axes.plot(x, y, color=OKABE_ITO[i % 8], label=name, linewidth=1.8)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        if log_y:
            _numbered(axes, "y", log=True)
        if all(float(place).is_integer() for place in x):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
        if len(series) > 1 and _magnified > 1:  # large names would cover the curves
            axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, -0.2))
        elif len(series) > 1:
            axes.legend(frameon=False)
        if subtitle:
            _subtitle(axes, subtitle)
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
    figure, axes = _new(title, 8.5, 4.6 * min(_magnified, 1.3))
    with style():
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
        if subtitle:
            _subtitle(axes, subtitle)
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
    figure = new_figure(*((12.0, 5.2) if _magnified <= 1 else _WIDE))
    with style():
        sheet_title(figure, title)
        left, right = figure.subplots(1, 2, width_ratios=(1.0, 1.15))
        image = paint(left, values, diverging=True)
        left.set_aspect("equal")
        # About eight labels: on a map of positions more of them say nothing new.
        places = range(0, len(labels), max(1, len(labels) // int(8 / _magnified**1.5)))
        left.set_xticks(places, [labels[i] for i in places])
        left.set_yticks(places, [labels[i] for i in places])
        left.set(xlabel=label, ylabel=label)
        room = int(60 / _magnified)
        left.set_title(
            textwrap.fill(map_title, room // 2), fontsize=_points(10), fontweight="normal"
        )
        bar = figure.colorbar(image, ax=left, shrink=0.8, aspect=30)
        bar.outline.set_visible(False)
        for i, (name, y) in enumerate(series.items()):
            right.plot(y, color=OKABE_ITO[i % 8], label=name, linewidth=1.4)
        right.set_xlabel(label)
        right.grid(alpha=0.25)
        if _magnified > 1:
            right.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
        else:
            right.legend(
                frameon=False, loc="upper left", bbox_to_anchor=(0, -0.1), ncols=4, fontsize=9
            )
        right.set_title(
            textwrap.fill(lines_title, room + 10), fontsize=_points(10), fontweight="normal"
        )
    return figure


def _numbered(axes: Axes, which: Literal["x", "y"], *, log: bool) -> None:
    """Write an axis's numbers as people read them; matplotlib writes 1e6, and formulas on logs."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis = axes.xaxis if which == "x" else axes.yaxis
    if log:
        axes.set(**{f"{which}scale": "log"})
        axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter(FuncFormatter(lambda value, _: _in_words(value)))


def _in_words(value: float) -> str:
    for size, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if abs(value) >= size:
            return f"{value / size:,.4g} {word}"
    return f"{value:,.6g}"


def sheet_title(figure: Figure, title: str, subtitle: str = "") -> None:
    """A title for a sheet of several matrices, with a line below it that is no title."""
    width = figure.get_size_inches()[0]
    text = _wrapped(title, width)
    below = _lines(subtitle, width)
    figure.suptitle(text + "\n" * len(below), x=0.01, ha="left", fontweight="bold")
    if below:
        lines = text.count("\n") + 1
        figure.text(
            0.01, 1 - (0.1 + 0.2 * lines) / figure.get_size_inches()[1], "\n".join(below),
            fontsize=_points(9), color="#555555", va="top",
        )  # fmt: skip


def _subtitle(axes: Axes, text: str) -> None:
    title = axes.get_title(loc="left")
    figure = axes.get_figure(root=True)
    assert figure is not None
    lines = _lines(text, figure.get_size_inches()[0] - 1)
    axes.set_title(title + "\n" * len(lines), loc="left", pad=10.0 if _magnified > 1 else None)
    line = axes.annotate(
        "\n".join(lines), (0, 1), xycoords="axes fraction", linespacing=1.3,
        xytext=(0, 6), textcoords="offset points", fontsize=_points(9), color="#555555",
        va="bottom",
    )  # fmt: skip
    line.set_in_layout(False)  # else a long line would squeeze the picture


def _lines(text: str, width: float) -> list[str]:
    """At most three lines that fit so many inches; of a longer text the end, where it goes on."""
    lines = textwrap.wrap(text, max(20, int(width * 12)), break_on_hyphens=False)
    return lines if len(lines) <= 3 else [f"…{lines[-3][1:]}", *lines[-2:]]


def write_numbers(axes: Axes, values: Array, image: Any, digits: int) -> None:
    """The values of a painted matrix in its cells, where they are finite."""
    write_texts(axes, values, image, [[_number(v, digits) for v in row] for row in values])


def write_texts(axes: Axes, values: Array, image: Any, texts: Sequence[Sequence[str]]) -> None:
    """Texts in the cells of a painted matrix, black or white by what is behind them."""
    _write(axes, values, image, texts, 14, _LEAST)


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else ""


def _all_numbers(texts: Sequence[Sequence[str]]) -> bool:
    return all(re.fullmatch(r"[-+]?[\d.,e+-]*", text) for row in texts for text in row)


def _shown(text: str, room: int) -> str:
    return text if len(text) <= room else f"{text[: room - 1]}…"


def _write(
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
            column, row, _shown(text, room), ha="center", va="center", fontsize=size,
            color="black" if light else "white",
        )  # fmt: skip


def _place_names(
    figure: Figure,
    axes: Axes,
    points: Array,
    labels: Sequence[str],
    pairs: Sequence[tuple[int, int]] = (),
) -> None:
    """Write a name beside each point, at the first of eight places where it covers no other."""
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    taken: list[Any] = []
    marks = axes.transData.transform(points)
    frame = figure.bbox
    spots = [(6, 0), (-6, 0), (0, 7), (0, -7), (6, 7), (-6, 7), (6, -7), (-6, -7)]
    if _magnified > 1:
        spots += [(0, 15), (0, -15), (6, 15), (-6, 15), (6, -15), (-6, -15), (16, 0), (-16, 0)]
    # A line to the right leaves the left side free.
    lefts = {a if marks[a][0] < marks[b][0] else b for a, b in pairs}
    for i, (point, label) in enumerate(zip(points, labels, strict=True)):
        best: tuple[int, Any, Any] | None = None
        for dx, dy in spots:
            dx = -dx if i in lefts else dx
            text = axes.annotate(
                label, point, xytext=(dx, dy), textcoords="offset points", fontsize=_points(9),
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
        if best[0] and _magnified > 1:  # large names: better none than one that cannot be read
            best[1].remove()
            continue
        best[1].set_in_layout(False)  # else the axes make room, and names move onto each other
        taken.append(best[2])
