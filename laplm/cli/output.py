"""What is printed: text and JSON to standard output, notes and bars to standard error."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

from laplm.errors import InputError

INTERRUPTED = 130  # 128 + SIGINT, as shells have it
# What must not reach a terminal: a model may have learned escape sequences.
_CONTROL = {
    i: "\N{REPLACEMENT CHARACTER}" for i in (*range(32), *range(127, 160)) if i not in (9, 10)
}
_ONCE = {
    "weights": "preparing weights (once)",
    "kernels": "compiling for this CPU, some seconds (once)",
}


class ReaderLeftError(Exception):
    """Whoever read standard output has closed it, as ``head`` does."""


def write(text: str) -> None:
    """To standard output, now. A reader who has left ends the command quietly."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise ReaderLeftError from None
        raise InputError(f"cannot write the output ({error.strerror})") from None


def write_json(value: Any, indent: int | None = 2) -> None:
    """One JSON value to standard output."""
    import json

    write(json.dumps(value, ensure_ascii=False, indent=indent) + "\n")


def printable(text: str) -> str:
    """Text without what would control a terminal, when standard output is one."""
    return text.translate(_CONTROL) if sys.stdout.isatty() else text


def note(text: str) -> None:
    """One line for the person, on standard error."""
    with contextlib.suppress(OSError, ValueError):
        print(" ".join(text.split("\n")), file=sys.stderr, flush=True)


class Progress:
    """A bar on a terminal, a line elsewhere; neither until something does take time."""

    def __init__(self) -> None:
        self._bars: Any = None
        self._tasks: dict[str, Any] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show that so much of something is done."""
        label = _ONCE.get(what, what)
        if sys.stderr is None or not sys.stderr.isatty():
            if what in _ONCE and what not in self._tasks:
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
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.TaskProgressColumn(),
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
def progress_bars() -> Iterator[Progress]:
    """Progress that is taken away at the end, come what may."""
    progress = Progress()
    try:
        yield progress
    finally:
        progress.close()


@contextlib.contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Let the first Ctrl-C be noticed between two tokens, so that what is there is kept whole."""
    event = threading.Event()

    def handle(_signal: int, _frame: object) -> None:
        event.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second one ends at once

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)
