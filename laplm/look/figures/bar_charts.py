"""Bars: one row of them, series side by side, and sheets that are made of them."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from laplm.look.figures.canvas import (
    MAX_TICK_LABELS,
    OKABE_ITO,
    add_subtitle,
    font_points,
    format_numbers,
    magnification,
    new_figure,
    panel_title,
    sheet_title,
    shorten,
    style_context,
    titled_axes,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def bar_chart(
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
    figure, axes = titled_axes(title, 8.0, max(2.6, 1.5 + 0.32 * len(labels)))
    with style_context():
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
        format_numbers(axes, "x", log=log)
        if not log:
            axes.locator_params(axis="x", nbins=int(6 / magnification()))
        if signed:
            axes.axvline(0, color="#444444", linewidth=0.8)
        for place, value, text in zip(places, values, texts, strict=False):
            left = signed and value < 0
            axes.annotate(
                text, (value, place), xytext=(-4 if left else 4, 0), textcoords="offset points",
                va="center", ha="right" if left else "left", fontsize=font_points(9),
            )  # fmt: skip
        axes.margins(x=0.18)
        if not signed and not log:
            axes.set_xlim(left=0)
        add_subtitle(axes, subtitle)
    return figure


def grouped_bars(
    labels: Sequence[str], series: Mapping[str, Sequence[float]], title: str, *, value_label: str
) -> Figure:
    """Horizontal bars of several series side by side, such as before and after."""
    figure, axes = titled_axes(title, 8.0, max(3.0, 1.6 + 0.42 * len(labels)))
    with style_context():
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
    large = magnification() > 1
    size = (2.2 + 1.9 * many, max(3.2, 1.9 + 0.3 * len(labels)))
    figure = new_figure(*((9.0, 6.8) if large else size))
    with style_context():
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
            axes.set_title(f"{name}\n{note}", fontsize=font_points(9), fontweight="normal")
            axes.set_xlim(0, max(*values, *series[0], 1e-9) * 1.08)
            axes.locator_params(axis="x", nbins=2 if large else 3)
            if not (large and i):  # once: there is no room for it in each
                axes.set_xlabel(value_label)
            axes.tick_params(axis="y", length=0)
        every[0].set_yticks(places, [shorten(label) for label in labels])
        every[0].invert_yaxis()
    return figure


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
    with style_context():
        sheet_title(figure, title, subtitle)
        places = np.arange(len(labels))
        every = figure.subplots(len(series), 1, sharex=True, squeeze=False)[:, 0]
        for i, (axes, (name, values)) in enumerate(zip(every, series.items(), strict=True)):
            axes.bar(places, values, color=OKABE_ITO[i], width=0.7)
            axes.set_ylabel(name)
        if len(dots):
            every[0].plot(places, dots, "o", color="#000000", markersize=4)
        step = max(1, math.ceil(len(labels) / MAX_TICK_LABELS))
        every[-1].set_xticks(places[::step], [shorten(label) for label in labels[::step]])
        every[-1].tick_params(axis="x", rotation=90, length=0)
        every[-1].set_xlim(-0.6, len(labels) - 0.4)
    return figure


def why_panels(
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
    with style_context():
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
                fontsize=font_points(8),
                annotation_clip=False,
            )
        first.set_yticks(heights, list(stages))
        first.set_xlim(0, 1)
        first.set(xlabel=f"probability of “{token}”", ylabel="after layer")
        panel_title(first, "How it comes up (right: the likeliest)")
        places = np.arange(len(parts))
        _signed_bars(second, parts, adds)
        second.set_xlabel(textwrap.fill(added, 44))
        panel_title(second, "What brings it (→ where the head looks)")
        third.barh(places - 0.2, alone, height=0.36, color=OKABE_ITO[0], label="without this part")
        third.barh(
            places + 0.2, together, height=0.36, color=OKABE_ITO[1], label="without all down to it"
        )
        third.axvline(whole, color="#444444", linewidth=1.0, linestyle="--")
        third.set_yticks(places, [label.split(" →")[0] for label in parts])
        for place, one, all_ in zip(places, alone, together, strict=True):
            for beside, share in ((-0.2, one), (0.2, all_)):
                third.annotate(
                    f"{share:.1%}", (1.04, place + beside), va="center", fontsize=font_points(8),
                    annotation_clip=False,
                )  # fmt: skip
        third.set_xlim(0, 1)
        third.set_xlabel(f"probability of “{token}” (dashed: {whole:.1%})")
        third.legend(
            frameon=False,
            loc="upper center",
            fontsize=font_points(8),
            ncols=2,
            bbox_to_anchor=(0.5, -0.55 / figure.get_figheight()),
        )
        panel_title(third, "What is left without them")
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
    with style_context():
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
        format_numbers(every[2], "y", log=True)
        every[2].set_ylim(bottom=0.7)
        every[2].set(xlabel="activation", ylabel="tokens")
        panel_title(every[0], "What excites it most (the token in brackets)")
        panel_title(every[1], "What it promotes and suppresses")
        panel_title(every[2], "All of its activations")
    return figure


def _signed_bars(axes: Axes, labels: Sequence[str], values: Sequence[float]) -> None:
    """A bar for each value, in the colour of its sign and with its number."""
    rows = np.arange(len(labels))
    colours = [OKABE_ITO[0 if value >= 0 else 1] for value in values]
    axes.barh(rows, values, color=colours, height=0.7)
    for row, value in zip(rows, values, strict=True):
        axes.annotate(
            f"{value:+.2f}", (max(value, 0.0), row), xytext=(4, 0),
            textcoords="offset points", va="center", fontsize=font_points(8),
        )  # fmt: skip
    axes.set_yticks(rows, list(labels))
    axes.margins(x=0.2)
