"""A picture of a training run, from its metrics."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from laplm.errors import InputError, MissingExtraError

# Blue and vermilion of Okabe and Ito's palette, which colour-blind readers tell apart.
_TRAIN, _HELDOUT, _GREY = "#0072B2", "#D55E00", "#666666"
_SMOOTHED = 0.05  # of the measurements are averaged into a point of the smooth line


def read_metrics(path: Path) -> dict[str, tuple[list[int], list[float]]]:
    """Steps and values of ``train_loss`` and ``heldout_bits_per_byte``.

    A last line that is cut short, as a killed run leaves it, is left out.

    Raises:
        InputError: the file is missing or holds no measurement of the loss.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise InputError(f"{path} is missing; train the model first") from None
    series: dict[str, tuple[list[int], list[float]]] = {
        "train_loss": ([], []), "heldout_bits_per_byte": ([], []),
    }  # fmt: skip
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except ValueError:
            if number == len(lines):
                break
            raise InputError(f"{path}, line {number}: not JSON; the file is damaged") from None
        for name, (steps, values) in series.items():
            if name in record:
                steps.append(record["step"])
                values.append(record[name])
    if not series["train_loss"][0]:
        raise InputError(f"{path} holds no measurement of the loss; train the model first")
    return series


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
    series = read_metrics(metrics)
    figure = Figure(figsize=(8, 6), layout="constrained")
    loss, bits = figure.subplots(2, 1, sharex=True)
    figure.suptitle(title)

    steps, values = series["train_loss"]
    loss.plot(steps, values, color=_TRAIN, alpha=0.25, linewidth=1, label="each measurement")
    loss.plot(*_smooth(steps, values), color=_TRAIN, linewidth=2, label="average")
    loss.set_ylabel("training loss (nats per token)")
    loss.legend(frameon=False)

    steps, values = series["heldout_bits_per_byte"]
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
    for axes, (_, values) in zip((loss, bits), series.values(), strict=True):
        if len(set(values)) >= 4:
            low, high = min(values), float(np.quantile(values, 0.95))
            axes.set_ylim(low - 0.1 * (high - low), high + 0.3 * (high - low))
    with mpl.rc_context({"svg.hashsalt": "laplm", "svg.fonttype": "none"}):
        for path in pictures:
            kind = path.suffix[1:]
            temporary = path.with_name(path.name + ".tmp")
            # Without a date the same run gives the same file.
            date = {"Date": None} if kind == "svg" else {}
            figure.savefig(temporary, format=kind, dpi=150, metadata=date)
            temporary.replace(path)


def _smooth(steps: list[int], values: list[float]) -> tuple[list[int], list[float]]:
    """Means of neighbouring measurements, at the step of the middle one."""
    width = max(1, round(_SMOOTHED * len(values))) | 1
    means = np.convolve(values, np.full(width, 1 / width), mode="valid")
    half = width // 2
    return steps[half : len(steps) - half], means.tolist()
