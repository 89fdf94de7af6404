"""How models were trained: the loss of training runs, step by step, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from laplm.errors import InputError
from laplm.look import figures
from laplm.look.view import Column, Part, Table, View
from laplm.look.words import counted, quoted
from laplm.metrics import METRICS, read_series

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Run:
    """What one training run measured, in nats per token.

    Attributes:
        name: of the run.
        steps: the steps after which the training loss was kept, (S,).
        train_loss: of the windows of that step, before it, (S,).
        heldout_steps: the steps after which the held-out text was measured, (E,).
        heldout_loss: of held-out text, (E,).
    """

    name: str
    steps: tuple[int, ...]
    train_loss: tuple[float, ...]
    heldout_steps: tuple[int, ...]
    heldout_loss: tuple[float, ...]


@dataclass(frozen=True)
class Learning(View):
    """Training runs, side by side.

    Attributes:
        runs: in the order in which they were named.
    """

    runs: tuple[Run, ...]

    def parts(self) -> list[Part]:
        """The held-out loss of every run, by step; how each began and ended."""
        every = sorted({step for run in self.runs for step in run.heldout_steps})
        by_step = [dict(zip(r.heldout_steps, r.heldout_loss, strict=True)) for r in self.runs]
        heldout = Table(
            title="held-out loss, step by step",
            columns=[Column("step", label=True), *(Column(run.name, 3) for run in self.runs)],
            rows=[[step, *(found.get(step) for found in by_step)] for step in every],
            note="Nats per token, of held-out text.",
        )
        ends = Table(
            title="from the first measurement to the last",
            columns=[
                Column("run"), Column("steps"), Column("training loss, first", 3),
                Column("last", 3), Column("held-out loss, lowest", 3),
                Column("at step", label=True),
            ],
            rows=[
                [
                    run.name, run.steps[-1], run.train_loss[0], run.train_loss[-1],
                    *_lowest(run),
                ]
                for run in self.runs
            ],
        )  # fmt: skip
        return [heldout, ends]

    def sentence(self) -> str:
        """See ``View``: which run came to the lowest held-out loss, and when."""
        among = f"Of {len(self.runs)} runs " if len(self.runs) > 1 else ""
        measured = [run for run in self.runs if run.heldout_loss]
        if not measured:
            run = min(self.runs, key=lambda run: run.train_loss[-1])
            return (
                f"{among}{quoted(run.name)} ends with the lowest training loss, "
                f"{run.train_loss[-1]:.3f} after {counted(run.steps[-1], 'step')}, from "
                f"{run.train_loss[0]:.3f}; no held-out text was measured."
            )
        run = min(measured, key=lambda run: min(run.heldout_loss))
        loss, step = min(zip(run.heldout_loss, run.heldout_steps, strict=True))
        return (
            f"{among}{quoted(run.name)} comes to the lowest loss on held-out text, {loss:.3f} at "
            f"step {step:,}; it began with {run.heldout_loss[0]:.3f}."
        )

    def plot(self) -> Figure:
        """The losses over the steps, a colour for each run."""
        return figures.learning_curves(
            {run.name: (run.heldout_steps, run.heldout_loss) for run in self.runs},
            {run.name: (run.steps, run.train_loss) for run in self.runs},
            "The loss, step by step",
            x_label="step",
            y_label="loss, nats per token",
            subtitle="dots: held-out text; thin: training text",
        )


def learning(runs: Mapping[str, Path]) -> Learning:
    """Read what training runs measured.

    Args:
        runs: a name for each, and the directory that ``laplm tune`` was given.

    Raises:
        InputError: none is named, or a directory holds no measurements.
    """
    if not runs:
        raise InputError("name at least one run, with the directory that laplm tune wrote")
    return Learning(tuple(_read(name, Path(directory)) for name, directory in runs.items()))


def _read(name: str, directory: Path) -> Run:
    path = directory / METRICS
    if not path.exists():
        raise InputError(
            f"{directory} holds no measurements of a run; name a directory that laplm tune wrote"
        )
    (steps, train_loss), (heldout_steps, heldout_loss) = read_series(
        path, "train_loss", "heldout_loss"
    )
    return Run(name, tuple(steps), tuple(train_loss), tuple(heldout_steps), tuple(heldout_loss))


def _lowest(run: Run) -> tuple[float | None, int | None]:
    """The lowest held-out loss, and the step after which it was measured."""
    if not run.heldout_loss:
        return None, None
    return min(zip(run.heldout_loss, run.heldout_steps, strict=True))
