"""Boxes with words in them, and the lines between them."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from laplm.look.figures.canvas import (
    FRAME,
    OKABE_ITO,
    add_subtitle,
    display_width,
    fallback_fonts,
    font_points,
    magnification,
    new_figure,
    sheet_title,
    shorten,
    style_context,
    titled_axes,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from laplm.look.view import Network


def boxes(labels: Sequence[str], notes: Sequence[str], title: str, *, subtitle: str = "") -> Figure:
    """Short texts in boxes that follow each other like the words of a page, a note under each."""
    # Inches: a letter of this font at 12 points, a line, a page.
    em, line, width = 0.1 * magnification(), 0.52 * magnification(), 9.0
    small = 0.72 if magnification() <= 1 else 0.8  # a letter of a note, beside one of a label
    places: list[tuple[float, int, float]] = []
    x, row = 0.0, 0
    labels = [shorten(label) for label in labels]
    for label, note in zip(labels, notes, strict=True):
        size = em * max(1.0, display_width(label), small * len(note)) + 0.12
        if x and x + size > width:
            x, row = 0.0, row + 1
        places.append((x, row, size))
        x += size + 0.05
    figure, axes = titled_axes(title, width + 0.3, 0.9 + line * (row + 1))
    wide, high = figure.get_size_inches()
    figure.set_size_inches(wide, high + 0.24 * axes.get_title(loc="left").count("\n"))
    with style_context():
        from matplotlib.patches import FancyBboxPatch

        tints = ("#cfe5f5", "#fbdcc0")  # Okabe and Ito's blue and vermilion, light
        families = ["DejaVu Sans Mono", *fallback_fonts()]
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
                middle, top + line * 0.6, note, ha="center", va="top", fontsize=font_points(8),
                color="#666666",
                family=families,
            )  # fmt: skip
        axes.set_xlim(0, width)
        axes.set_ylim(line * (row + 1), -0.08)
        axes.axis("off")
        add_subtitle(axes, subtitle)
    return figure


def block_diagram(
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
    figure, axes = titled_axes(title, 9.0, height + 0.9)
    with style_context():
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
                    1.5,
                    top + (box + line) / 2,
                    after,
                    va="center",
                    fontsize=font_points(9),
                    color=ink,
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
        add_subtitle(axes, subtitle)
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
    with style_context():
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
            half = max(0.3, 0.075 * magnification() * display_width(node.label) + 0.08)
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
                fontsize=font_points(8),
                zorder=3,
            )
        axes.set_yticks([y for y, _ in drawn.levels], [label for _, label in drawn.levels])
        for x, word in drawn.columns:
            axes.text(x, 0, shorten(word), ha="center", va="center_baseline", color="#666666",
                      fontsize=font_points(8))  # fmt: skip
        axes.set_xticks([])
        axes.tick_params(length=0)
        axes.set_xlim(-1.0, right + 0.8)
        axes.set_ylim(-0.5, top + 0.5)
        axes.set_xlabel(
            textwrap.fill(f"width of a line: {value_label}", 100), fontsize=font_points(9)
        )
        for spine in axes.spines.values():
            spine.set_visible(False)
    return figure
