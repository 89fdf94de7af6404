"""Progress of long work, for a person: the one bar of all commands.

A ``ProgressBars`` is a ``laplm.progress.Progress``: (what, done, total), whatever is counted.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from laplm.cli.output import is_terminal, note
from laplm.errors import visible

_FIRST_USE = {
    "weights": "preparing weights (once)",
    "kernels": "compiling for this CPU, some seconds (once)",
}


class ProgressBars:
    """A bar on a terminal, a line elsewhere; neither until something does take time."""

    def __init__(self, *, in_bytes: bool = False) -> None:
        """Begin with nothing shown; ``in_bytes``: what is counted are bytes that arrive."""
        self._in_bytes = in_bytes
        self._bars: Any = None
        self._tasks: dict[str, Any] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show that so much of something is done."""
        label = visible(_FIRST_USE.get(what, what))
        if not is_terminal(sys.stderr):
            if what in _FIRST_USE and what not in self._tasks:
                note(label)
            self._tasks[what] = None
            return
        if self._bars is None:
            from rich import progress
            from rich.console import Console
            from rich.text import Text

            class Clock(progress.TimeRemainingColumn):
                def render(self, task: progress.Task) -> Text:
                    if task.total is None:
                        return progress.TimeElapsedColumn().render(task)
                    return super().render(task)

            self._bars = progress.Progress(
                progress.SpinnerColumn(),
                progress.TextColumn("{task.description}", markup=False),
                progress.BarColumn(),
                progress.TaskProgressColumn(),
                *(
                    (progress.DownloadColumn(), progress.TransferSpeedColumn())
                    if self._in_bytes
                    else ()
                ),
                Clock(elapsed_when_finished=True),
                console=Console(stderr=True),
                transient=True,
            )
            self._bars.start()
        # Of one step alone no share is known: its bar only moves, and the clock shows time passed.
        steps = total if total > 1 or done == total else None
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(label, total=steps)
        self._bars.update(self._tasks[what], completed=done, total=steps)

    def close(self) -> None:
        """Take the bars away."""
        if self._bars is not None:
            self._bars.stop()


@contextlib.contextmanager
def progress_bars(*, in_bytes: bool = False) -> Iterator[ProgressBars]:
    """Bars that are taken away at the end, come what may."""
    progress = ProgressBars(in_bytes=in_bytes)
    try:
        yield progress
    finally:
        progress.close()
