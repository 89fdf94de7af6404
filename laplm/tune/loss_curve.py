"""The loss curve of a training run, drawn from its ``metrics.jsonl``."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np

from laplm.errors import InputError, MissingExtraError
from laplm.files import write_file
from laplm.metrics import read_series

# Blue and vermilion of Okabe and Ito's palette, which colour-blind readers tell apart.
_TRAIN, _HELDOUT, _GREY = "#0072B2", "#D55E00", "#666666"
_LEFT, _TOP, _ACROSS, _DOWN = 56, 12, 640, 240  # of a picture for pages, in its own units
_SMOOTHED = 0.05  # of the measurements are averaged into a point of the smooth line


def draw_loss_curve(metrics: Path, pictures: Iterable[Path], title: str) -> None:
    """Draw the run of a ``metrics.jsonl`` into each of ``pictures`` (.png, .svg).

    Raises:
        InputError: there is nothing to draw.
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtraError("A picture", "look") from error
    train_loss, heldout_bits = read_series(metrics, "train_loss", "heldout_bits_per_byte")
    figure = Figure(figsize=(8, 6), layout="constrained")
    loss, bits = figure.subplots(2, 1, sharex=True)
    figure.suptitle(title)

    steps, values = train_loss
    loss.plot(steps, values, color=_TRAIN, alpha=0.25, linewidth=1, label="each measurement")
    loss.plot(*_smooth(steps, values), color=_TRAIN, linewidth=2, label="average")
    loss.set_ylabel("training loss (nats per token)")
    loss.legend(frameon=False)

    steps, values = heldout_bits
    bits.plot(steps, values, color=_HELDOUT, linewidth=2, marker="o", markersize=3)
    if steps:
        bits.annotate(
            f"{values[-1]:.3f}", (steps[-1], values[-1]), (7, 0), textcoords="offset points",
            va="center", color=_HELDOUT,
        )  # fmt: skip
    bits.set_ylabel("held-out text (bits per byte)")
    bits.set_xlabel("step")

    for axes in (loss, bits):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color=_GREY, alpha=0.2, linewidth=0.8)
        axes.margins(x=0.08)  # room for the last value
        axes.set_xlim(left=0)
    # The first steps are far above everything that follows, and would press it flat.
    for axes, (_, values) in zip((loss, bits), (train_loss, heldout_bits), strict=True):
        if len(set(values)) >= 4:
            low, high = min(values), float(np.quantile(values, 0.95))
            axes.set_ylim(low - 0.1 * (high - low), high + 0.3 * (high - low))
    with mpl.rc_context({"svg.hashsalt": "laplm", "svg.fonttype": "none"}):
        for path in pictures:
            kind = path.suffix[1:]
            # Without a date the same run gives the same file.
            date = {"Date": None} if kind == "svg" else {}
            write_file(path, partial(figure.savefig, format=kind, dpi=150, metadata=date))


def loss_curve_svg(metrics: Path) -> str:
    """The losses of a ``metrics.jsonl`` as an SVG element for a page, light or dark.

    Its letters have the page's colour, its curves are ``.train`` and ``.heldout``. Empty where
    there is nothing to draw.
    """
    try:
        train, heldout = read_series(metrics, "train_loss", "heldout_loss")
    except (InputError, OSError):
        return ""
    steps, losses = [[*train[i], *heldout[i]] for i in (0, 1)]
    if not steps:
        return ""
    last = max(1, *steps)
    low, high = min(losses), max(losses)
    edge = 0.08 * (high - low) or 0.1
    low, high = low - edge, high + edge

    def place(step: float, loss: float) -> str:
        across, up = step / last, (loss - low) / (high - low)
        return f"{_LEFT + across * _ACROSS:.1f},{_TOP + (1 - up) * _DOWN:.1f}"

    parts = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y, value = _TOP + (1 - share) * _DOWN, low + share * (high - low)
        parts.append(f'<line x1="{_LEFT}" x2="{_LEFT + _ACROSS}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:.2f}</text>')
    parts += [
        f'<text x="{_LEFT}" y="{_TOP + _DOWN + 20}">0</text>',
        f'<text x="{_LEFT + _ACROSS}" y="{_TOP + _DOWN + 20}" text-anchor="end">{last:,} steps'
        "</text>",
    ]
    for kind, (some, values) in (("train", train), ("heldout", heldout)):
        points = [place(step, loss) for step, loss in zip(some, values, strict=True)]
        parts.append(f'<polyline class="{kind}" points="{" ".join(points)}"/>')
        if kind == "heldout":
            dots = (point.split(",") for point in points)
            parts += [f'<circle class="{kind}" cx="{x}" cy="{y}" r="4"/>' for x, y in dots]
    width, height = _LEFT + _ACROSS + 16, _TOP + _DOWN + 32
    return (
        f'<svg class="losses" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="Loss over the steps">{"".join(parts)}</svg>'
    )


def _smooth(steps: list[int], values: list[float]) -> tuple[list[int], list[float]]:
    """Means of neighbouring measurements, at the step of the middle one."""
    width = max(1, round(_SMOOTHED * len(values))) | 1
    means = np.convolve(values, np.full(width, 1 / width), mode="valid")
    half = width // 2
    return steps[half : len(steps) - half], means.tolist()
