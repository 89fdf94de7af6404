"""The loss curve of a training run, drawn from its ``metrics.jsonl``."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np

from laplm.errors import MissingExtraError
from laplm.files import write_file
from laplm.metrics import read_series

# Blue and vermilion of Okabe and Ito's palette, which colour-blind readers tell apart.
_TRAIN, _HELDOUT, _GREY = "#0072B2", "#D55E00", "#666666"
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


def _smooth(steps: list[int], values: list[float]) -> tuple[list[int], list[float]]:
    """Means of neighbouring measurements, at the step of the middle one."""
    width = max(1, round(_SMOOTHED * len(values))) | 1
    means = np.convolve(values, np.full(width, 1 / width), mode="valid")
    half = width // 2
    return steps[half : len(steps) - half], means.tolist()
