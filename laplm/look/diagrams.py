"""Pictures of the machine itself: rows that are added, a block, a head, a layer, with its numbers.

They are made for slides: few words, large, wide rather than high. Everything else that looks draw
is in ``figures``, whose colours and letters these have.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from laplm.look import figures
from laplm.look.figures import OKABE_ITO, Panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[Any]

_INK, _SOFT = "#444444", "#666666"
_BLUE, _ORANGE, _GREY = "#cfe5f5", "#fbdcc0", "#eceff3"
_WIDE = (13.5, 4.3)  # inches, before letters are magnified: a picture below the words of a slide


def equation(
    terms: Sequence[Panel],
    signs: Sequence[str],
    title: str,
    *,
    digits: int = 2,
    columns: bool = False,
    height: float = 4.3,
    apart: Sequence[int] = (),
    shares: Sequence[int] = (),
    subtitle: str = "",
) -> Figure:
    """Matrices side by side with a sign between each two, their numbers in the cells.

    The colours mean the same in all of them, so that one can see which term is the larger; but for
    those that are named.

    Args:
        terms: as many rows in each; rows are labelled at the first one alone. NaN is left empty.
        signs: between them: one less than terms.
        title: what the picture shows.
        digits: of the numbers, after the point.
        columns: whether columns are labelled too.
        height: at most so many inches, before letters are magnified: less where formulas stand
            above it.
        apart: terms (by index) that have colours of their own.
        shares: terms whose values lie between 0 and 1, and are coloured so.
        subtitle: a smaller line under the title.
    """
    rows = terms[0].values.shape[0]
    widths = [max(1, term.values.shape[1]) for term in terms]
    figure = figures.new_figure(_WIDE[0], min(height, 1.9 + 0.55 * rows))
    together = [t for i, t in enumerate(terms) if i not in (*apart, *shares)]
    limit = _limit(together)
    with figures.style_context():
        figures.sheet_title(figure, title, subtitle)
        every = figure.subplots(1, len(terms), width_ratios=widths, squeeze=False)[0]
        for i, (axes, term) in enumerate(zip(every, terms, strict=True)):
            own = _limit([term]) if i in apart else limit
            image = (
                figures.draw_heatmap(axes, term.values, limit=1.0)
                if i in shares
                else figures.draw_heatmap(axes, term.values, diverging=True, limit=own)
            )
            # As many digits as fit a cell.
            texts = [
                [f"{x:.{digits if abs(x) < 10 else max(0, digits - 1)}f}" for x in row]
                for row in term.values
            ]
            figures.write_texts(axes, term.values, image, texts)
            names = term.column_labels if columns else []
            axes.set_xticks(range(len(names)), list(map(figures.shorten, names)))
            axes.set_yticks(
                range(rows), map(figures.shorten, term.row_labels) if i == 0 else [""] * rows
            )
            axes.tick_params(length=0)
            axes.set_title(term.title, fontsize=10.5, fontweight="normal", loc="center")
            axes.set_xlabel(term.x_label, fontsize=10.5, color=_SOFT)
            if i:
                axes.annotate(
                    signs[i - 1], (0, 0.5), xycoords="axes fraction", xytext=(-13, 0),
                    textcoords="offset points", ha="center", va="center", fontsize=20,
                    annotation_clip=False,
                )  # fmt: skip
        layout: Any = figure.get_layout_engine()
        layout.set(wspace=0.09)
    return figure


def _limit(terms: Sequence[Panel]) -> float:
    """The value of the strongest colour: a few outliers would leave all other cells white."""
    finite = np.concatenate([np.zeros(1), *(t.values[np.isfinite(t.values)] for t in terms)])
    return float(np.quantile(np.abs(finite), 0.95)) or 1.0


def word_grid(
    values: Array,
    texts: Sequence[Sequence[str]],
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    title: str,
    *,
    x_label: str = "",
    subtitle: str = "",
) -> Figure:
    """Words in cells, coloured by a share between 0 and 1.

    Args:
        values: (rows, columns).
        texts: the same.
        row_labels: one for each row.
        column_labels: one for each column.
        title: what the picture shows.
        x_label: what the columns are.
        subtitle: a smaller line under the title.
    """
    figure = figures.new_figure(*_WIDE)
    with figures.style_context():
        figures.sheet_title(figure, title, subtitle)
        axes = figure.add_subplot()
        image = figures.draw_heatmap(axes, values, limit=1.0)
        figures.write_texts(axes, values, image, texts)
        axes.set_xticks(range(len(column_labels)), list(map(figures.shorten, column_labels)))
        axes.set_yticks(range(len(row_labels)), list(map(figures.shorten, row_labels)))
        axes.tick_params(length=0)
        axes.set_xlabel(x_label)
        bar = figure.colorbar(image, ax=axes, aspect=20, ticks=[0, 0.5, 1])
        bar.set_label("probability")
        bar.outline.set_visible(False)
    return figure


def block(
    branches: Sequence[tuple[Sequence[str], str]],
    ends: tuple[str, str],
    title: str,
    *,
    between: str = "",
    parallel: bool = False,
    subtitle: str = "",
) -> Figure:
    """A transformer block from left to right: the residual stream, and what is added to it.

    Args:
        branches: of each sublayer the boxes that the stream passes on its way, and what is written
            where the result is added.
        ends: what comes in and what goes out.
        title: what the picture shows.
        between: what is written between the two sums.
        parallel: both branches leave the stream at one place.
        subtitle: a smaller line under the title.
    """
    figure = figures.new_figure(*_WIDE)
    wide, high, line = 24.0, 7.0, 1.35
    with figures.style_context():
        figures.sheet_title(figure, title, subtitle)
        axes = figure.add_subplot()
        axes.set_xlim(0, wide)
        axes.set_ylim(0, high)
        axes.axis("off")
        left, right = 3.6, wide - 3.6
        _arrow(axes, (left - 0.7, line), (right + 0.7, line), width=2.2)
        for x, text, side in ((left - 0.9, ends[0], "right"), (right + 0.9, ends[1], "left")):
            axes.text(x, line, text, ha=side, va="center", fontsize=10.5)
        step = (right - left) / len(branches)
        for i, (parts, added) in enumerate(branches):
            start, end = left + i * step, left + (i + 1) * step - 1.2
            top = 5.2
            if parallel:
                start, end, top = left, right - 1.2 - 2.6 * (1 - i), (3.5, 5.8)[i]
            axes.plot(
                [start, start, end, end], [line, top, top, line + 0.3], color=_INK, linewidth=1.2
            )
            if len(parts) > 2:
                parts = [part.replace(" norm", "\nnorm") for part in parts]
            longest = [2 + max(map(len, part.split("\n"))) for part in parts]
            x = start
            for part, letters in zip(parts, longest, strict=True):
                room = (end - start) * letters / sum(longest)
                fill = _GREY if part.endswith("norm") else (_BLUE, _ORANGE)[i % 2]
                _box(axes, x + 0.2, top - 0.8, room - 0.4, 1.6, part, fill)
                x += room
            axes.annotate(
                "", (end, line + 0.36), (end, line + 1.2),
                arrowprops={"arrowstyle": "-|>", "color": _INK, "shrinkA": 0, "shrinkB": 0},
            )  # fmt: skip
            axes.plot(end, line, "o", markersize=17, color="white", markeredgecolor=_INK, zorder=3)
            axes.text(end, line, "+", ha="center", va="center_baseline", fontsize=13, zorder=4)
            axes.text(end, line - 0.55, added, ha="center", va="top", fontsize=10.5, color=_SOFT)
        if between and not parallel:
            axes.text(
                left + step, line + 0.3, between, va="bottom", ha="left", fontsize=10.5, color=_SOFT
            )
    return figure


def _box(
    axes: Axes, left: float, bottom: float, width: float, height: float, text: str, colour: str
) -> None:
    from matplotlib.patches import FancyBboxPatch

    axes.add_patch(FancyBboxPatch(
        (left, bottom), width, height, boxstyle="round,pad=0,rounding_size=0.18",
        facecolor=colour, edgecolor="white", linewidth=1.2, zorder=2,
    ))  # fmt: skip
    axes.text(
        left + width / 2, bottom + height / 2, text, ha="center", va="center", fontsize=10.5,
        zorder=3, linespacing=1.15,
    )  # fmt: skip


def _arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], *, width: float = 1.0
) -> None:
    how = {"arrowstyle": "-|>", "color": _INK, "shrinkA": 0, "shrinkB": 0, "linewidth": width}
    axes.annotate("", end, start, arrowprops=how)


def head(tokens: Sequence[str], pattern: Array, title: str, *, subtitle: str = "") -> Figure:
    """One head: arcs from the last token to those that it looks at, and its whole pattern.

    Args:
        tokens: T labels.
        pattern: (T, T); rows look at columns, NaN where a mask hides one.
        title: what the picture shows.
        subtitle: a smaller line under the title.
    """
    from matplotlib.colors import to_rgba
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Outline

    n = len(tokens)
    figure = figures.new_figure(*_WIDE)
    hidden = np.where(np.tri(n, dtype=bool), pattern, np.nan)
    labels = [figures.shorten(token) for token in tokens]
    with figures.style_context():
        figures.sheet_title(figure, title, subtitle)
        left, right = figure.subplots(1, 2, width_ratios=(1.0, 1.0))
        row = np.nan_to_num(pattern[-1])
        for at in range(n - 1):
            share = float(row[at])
            if share < 0.01:
                continue
            height = 0.55 * (n - 1 - at) / max(1, n - 1) + 0.25
            left.add_patch(PathPatch(
                Outline(
                    [(n - 1, 0), (n - 1, height * 1.35), (at, height * 1.35), (at, 0)],
                    [Outline.MOVETO, *[Outline.CURVE4] * 3],
                ),
                facecolor="none", edgecolor=to_rgba(OKABE_ITO[0], 0.35 + 0.6 * share),
                linewidth=0.8 + 9 * share, capstyle="round",
            ))  # fmt: skip
        for at, (label, share) in enumerate(zip(labels, row, strict=True)):
            strong = at == int(row.argmax())
            left.text(at, -0.06, label, ha="right" if n > 6 else "center", va="top", fontsize=10.5,
                      rotation=40 if n > 6 else 0, rotation_mode="anchor",
                      fontweight="bold" if strong else "normal")  # fmt: skip
            if n <= 10:
                left.text(at, -0.2, f"{100 * share:.0f}%", ha="center", va="top", fontsize=10.5,
                          color=OKABE_ITO[0] if strong else _SOFT,
                          fontweight="bold" if strong else "normal")  # fmt: skip
        left.set_xlim(-0.6, n - 0.4)
        left.set_ylim(-0.34, 1.1)
        left.axis("off")
        left.set_title(
            f"from “{labels[-1]}” it looks at", fontsize=10.5, fontweight="normal", loc="center"
        )
        image = figures.draw_heatmap(right, hidden, limit=1.0)
        if n <= 10:
            figures.write_numbers(right, hidden, image, 2)
        figures.label_ticks(right, labels, labels)
        right.tick_params(axis="x", rotation=0 if n <= 6 else 40)
        right.set_title(
            "every token's row; grey: the future", fontsize=10.5, fontweight="normal", loc="center"
        )
    return figure


def all_heads(
    pattern: Array, marked: tuple[int, int] | None, title: str, *, subtitle: str = ""
) -> Figure:
    """Every head of every layer on one sheet, a square each.

    Args:
        pattern: (layers, heads, T, T); NaN is left grey.
        marked: layer and head of the one that gets a frame.
        title: what the picture shows.
        subtitle: a smaller line under the title.
    """
    from matplotlib.patches import Rectangle

    layers, heads, n, _ = pattern.shape
    lying = layers > heads  # the longer side lies
    grid = pattern.swapaxes(0, 1) if lying else pattern
    down, across = grid.shape[:2]
    cell = n + 1
    sheet = np.full((down * cell, across * cell), np.nan)
    for row, column in np.ndindex(down, across):
        top, left = row * cell, column * cell
        sheet[top : top + n, left : left + n] = grid[row, column]
    figure = figures.new_figure(*_WIDE)
    with figures.style_context():
        figures.sheet_title(figure, title, subtitle)
        axes = figure.add_subplot()
        # What the mask hides is grey; what is no part of a square stays as the page is.
        for row, column in np.ndindex(down, across):
            corner = (column * cell - 0.5, row * cell - 0.5)
            axes.add_patch(Rectangle(corner, n, n, facecolor="#e8e8e8", zorder=0))
        axes.imshow(
            np.ma.masked_invalid(sheet), cmap="viridis", vmin=0, vmax=1, aspect="auto",
            interpolation="nearest", zorder=1,
        )  # fmt: skip
        axes.patch.set_visible(False)
        for axis, count, most in ((axes.xaxis, across, 30), (axes.yaxis, down, 10)):
            step = -(-count // most)
            places = range(0, count, step)
            axis.set_ticks([place * cell + (n - 1) / 2 for place in places], list(map(str, places)))
        axes.tick_params(length=0)
        names = ("layer", "head") if lying else ("head", "layer")
        axes.set(xlabel=names[0], ylabel=names[1])
        axes.spines[:].set_visible(False)
        if marked is not None:
            row, column = (marked[1], marked[0]) if lying else marked
            axes.add_patch(Rectangle(
                (column * cell - 0.9, row * cell - 0.9), n + 0.8, n + 0.8, fill=False,
                edgecolor=figures.FRAME, linewidth=2.5, zorder=2,
            ))  # fmt: skip
    return figure


def big_numbers(numbers: Sequence[tuple[str, str]], title: str) -> Figure:
    """A few numbers, very large, one below the other, each before what it counts."""
    figure = figures.new_figure(9.0, 6.4)
    with figures.style_context():
        figures.sheet_title(figure, title)
        axes = figure.add_subplot()
        axes.axis("off")
        axes.set_xlim(0, 1)
        axes.set_ylim(len(numbers), 0)
        for i, (number, what) in enumerate(numbers):
            axes.text(0.38, i + 0.5, number, ha="right", va="center_baseline", fontsize=30,
                      fontweight="bold", color=OKABE_ITO[0])  # fmt: skip
            axes.text(0.43, i + 0.5, what, ha="left", va="center_baseline", fontsize=15)
    return figure


def feed_forward(
    width: int, inner: int, activation: str, title: str, *, gated: bool = False, subtitle: str = ""
) -> Figure:
    """The feed-forward from left to right: a row, its wide row, and the row again.

    Args:
        width: numbers of the residual stream's row.
        inner: numbers of the wide row.
        activation: what the function is called.
        title: what the picture shows.
        gated: a second matrix beside the first, whose results are multiplied.
        subtitle: a smaller line under the title.
    """
    figure = figures.new_figure(_WIDE[0], 4.0)
    with figures.style_context():
        figures.sheet_title(figure, title, subtitle)
        axes = figure.add_subplot()
        axes.set_xlim(0, 24)
        axes.set_ylim(0, 7.2)
        axes.axis("off")
        tall = 5.4
        low = max(0.7, tall * width / inner)
        middle = 3.4

        def bar(x: float, height: float, count: int, colour: str, y: float = middle) -> None:
            _box(axes, x, y - height / 2, 0.9, height, "", colour)
            axes.text(
                x + 0.45, y - height / 2 - 0.15, f"{count:,}", ha="center", va="top", fontsize=11
            )

        def funnel(
            x: float,
            to: float,
            first: float,
            last: float,
            text: str,
            y: float = middle,
            end: float = middle,
        ) -> None:
            axes.fill(
                [x, to, to, x],
                [y - first / 2, end - last / 2, end + last / 2, y + first / 2],
                color=_GREY, zorder=0,
            )  # fmt: skip
            axes.text((x + to) / 2, (y + end) / 2, text, ha="center", va="center", fontsize=10.5)

        ups = ((5.2, "gate"), (1.6, "up")) if gated else ((middle, "up"),)
        high = tall if not gated else tall / 2.1
        bar(0.4, min(low, high), width, _BLUE)
        for y, name in ups:
            funnel(1.3, 6.2, min(low, high), high, f"{name}\nmatrix" if not gated else name, end=y)
            _box(axes, 6.2, y - high / 2, 0.9, high, "", _ORANGE)
        if not gated:
            axes.text(
                6.65, middle - high / 2 - 0.15, f"{inner:,}", ha="center", va="top", fontsize=11
            )
            _arrow(axes, (7.3, middle), (8.6, middle))
            _box(axes, 8.7, middle - 0.75, 4.0, 1.5, activation, "#fff6ee")
            _arrow(axes, (12.8, middle), (14.1, middle))
        else:
            axes.text(
                7.3, 5.2 + high / 2 - 0.1, f"{inner:,} each", ha="left", va="top", fontsize=11
            )
            _arrow(axes, (7.3, 5.2), (8.5, 5.2))
            _box(axes, 8.6, 4.45, 2.9, 1.5, activation, "#fff6ee")
            axes.plot([11.5, 12.6, 12.6], [5.2, 5.2, middle + 0.4], color=_INK, linewidth=1.0)
            axes.plot([7.3, 12.6, 12.6], [1.6, 1.6, middle - 0.4], color=_INK, linewidth=1.0)
            axes.plot(12.6, middle, "o", markersize=20, color="white", markeredgecolor=_INK)
            axes.text(12.6, middle, "×", ha="center", va="center_baseline", fontsize=14)
            _arrow(axes, (13.1, middle), (14.1, middle))
            high = tall / 2.1
        bar(14.2, high, inner, _ORANGE)
        funnel(15.1, 20.0, high, min(low, high), "down\nmatrix")
        bar(20.0, min(low, high), width, _BLUE)
        axes.text(
            21.2, middle, "ΔX,\nadded to\nthe stream", va="center", fontsize=10.5, color=_SOFT
        )
    return figure


def activation_curves(
    x: Array,
    curves: Mapping[str, Array],
    inputs: Array,
    title: str,
    *,
    subtitle: str = "",
) -> Figure:
    """Activation functions, and how the inputs that a model gave to one of them are spread.

    Args:
        x: places on the horizontal axis.
        curves: by name, at these places; the first one is the model's.
        inputs: any shape.
        title: what the picture shows.
        subtitle: a smaller line under the title.
    """
    figure = figures.new_figure(8.4, 6.0)
    with figures.style_context():
        figures.sheet_title(figure, title, subtitle)
        axes = figure.add_subplot()
        under = axes.twinx()
        seen = np.clip(np.asarray(inputs, np.float64).ravel(), x[0], x[-1])
        counts, edges = np.histogram(seen, bins=60, range=(float(x[0]), float(x[-1])))
        under.stairs(counts / max(1, counts.max()), edges, fill=True, color="#d9dde3")
        under.set_ylim(0, 2.6)
        under.axis("off")
        axes.set_zorder(under.get_zorder() + 1)
        axes.patch.set_visible(False)
        for i, (name, y) in enumerate(curves.items()):
            axes.plot(
                x, y, color=(OKABE_ITO[0], OKABE_ITO[1], "#888888")[min(i, 2)], label=name,
                linewidth=3.0 if i == 0 else 1.6, linestyle="-" if i == 0 else "--",
                zorder=3 - min(i, 2),
            )  # fmt: skip
        axes.axhline(0, color="#bbbbbb", linewidth=0.8)
        axes.axvline(0, color="#bbbbbb", linewidth=0.8)
        axes.set(xlabel="x, what goes in", ylabel="what comes out")
        axes.legend(frameon=False, loc="upper left", fontsize=11)
    return figure


def ranked(
    rows: Sequence[tuple[str, str, str]], shares: Sequence[float], title: str, *, subtitle: str = ""
) -> Figure:
    """The likeliest tokens, a line each: id, text, logit, and a bar for the probability.

    Args:
        rows: (id, text, logit) of each, as they are written.
        shares: the probability of each.
        title: what the picture shows.
        subtitle: a smaller line under the title.
    """
    figure = figures.new_figure(8.4, 6.4)
    families = ["DejaVu Sans Mono", *figures.fallback_fonts()]
    with figures.style_context():
        figures.sheet_title(figure, title, subtitle)
        left, right = figure.subplots(1, 2, width_ratios=(1.1, 1.0))
        places = np.arange(len(rows))
        right.barh(places, shares, color=OKABE_ITO[0], height=0.72)
        for place, share in zip(places, shares, strict=True):
            text = f"{share:.1%}" if share >= 0.001 else f"{100 * share:.1g}%"
            right.annotate(
                text, (share, place), xytext=(4, 0), textcoords="offset points", va="center",
                fontsize=10.5,
            )  # fmt: skip
        right.set_xlim(0, max(*shares, 1e-9) * 1.35)
        right.set_xticks([])
        right.set_yticks([])
        right.spines[["bottom"]].set_visible(False)
        columns = ((0.24, "right", "id"), (0.30, "left", "token"), (1.0, "right", "logit"))
        for (x, side, name), texts in zip(columns, zip(*rows, strict=True), strict=True):
            left.text(x, -0.9, name, ha=side, va="center", fontsize=10.5, color=_SOFT)
            for place, text in zip(places, texts, strict=True):
                left.text(
                    x, place, figures.shorten(text), ha=side, va="center", fontsize=10.5,
                    family=families if name == "token" else None,
                )  # fmt: skip
        right.text(0, -0.9, "probability", va="center", fontsize=10.5, color=_SOFT)
        left.axis("off")
        left.set_xlim(0, 1.04)
        for axes in (left, right):
            axes.set_ylim(len(rows) - 0.5, -1.4)
    return figure


def wrapped(text: str, width: int) -> str:
    """A label in lines of so many letters."""
    return textwrap.fill(text, width, break_on_hyphens=False)
