"""What is printed: text and JSON to standard output, notes and bars to standard error."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TextIO

from laplm.errors import InputError, visible

if TYPE_CHECKING:
    from laplm.cli.wrapping import Wrapper

INTERRUPTED = 130  # 128 + SIGINT, as shells have it
_LONGEST = 600  # characters of a note; names in a model's files may be of any length
_NEXT_STEP = 200  # of them at the end, where a message says what to do


class OutputClosedError(Exception):
    """Whoever read standard output has closed it, as ``head`` does."""


def write(text: str) -> None:
    """To standard output, now. A reader who has left ends the command quietly.

    Raises:
        InputError: standard output is closed, or on a disk that is full.
        OutputClosedError: nobody reads it any more.
    """
    if sys.stdout is None:
        raise InputError("cannot write the output (standard output is closed)")
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        # Windows says of a pipe that nobody reads: "Invalid argument".
        broken = sys.platform == "win32" and error.errno == errno.EINVAL
        if broken or isinstance(error, BrokenPipeError):
            raise OutputClosedError from None
        raise InputError(f"cannot write the output ({error.strerror})") from None


def write_json(value: Any, indent: int | None = 2) -> None:
    """One JSON value to standard output; numbers that JSON has not become null."""
    from laplm.files import json_text

    text = json_text(value, ensure_ascii=False, indent=indent)
    if is_terminal(sys.stdout) and visible(text) != text:
        # What json leaves as it is may still control a terminal; both spellings are the same JSON.
        text = "".join(c if visible(c) == c else f"\\u{ord(c):04x}" for c in text)
    write(text + "\n")


def is_terminal(stream: TextIO | None) -> bool:
    """Whether somebody looks at what is written there."""
    return stream is not None and stream.isatty()


def printable(text: str) -> str:
    """Text without what would control a terminal, when standard output is one."""
    return visible(text) if is_terminal(sys.stdout) else text


def has_styles(stream: TextIO | None) -> bool:
    """Whether text there can be dimmed: a terminal that knows how, and nobody asked for none."""
    if not is_terminal(stream) or os.environ.get("NO_COLOR"):
        return False
    if sys.platform == "win32" and "TERM" not in os.environ:
        return "WT_SESSION" in os.environ  # the console of old does not
    return os.environ.get("TERM", "dumb") != "dumb"


def dimmed(text: str) -> str:
    """Text in a fainter colour, for a stream that ``has_styles``."""
    return f"\x1b[2m{text}\x1b[22m" if text else ""


def terminal_columns() -> int | None:
    """How wide standard output is; None where it is no terminal."""
    if not is_terminal(sys.stdout):
        return None
    import shutil

    return shutil.get_terminal_size().columns


def terminal_wrapper() -> Wrapper | None:
    """What breaks lines between words on standard output; None where that is no terminal."""
    if not is_terminal(sys.stdout):
        return None
    import shutil

    from laplm.cli.wrapping import Wrapper

    styles = has_styles(sys.stdout)
    return Wrapper(
        lambda text, dim: write(dimmed(text) if dim and styles else text),
        lambda: shutil.get_terminal_size().columns,
    )


def note(text: str, *, dim: bool = False) -> None:
    """One line for the person, on standard error: cleaned, and cut in the middle where it is long.

    Whatever was put into a message, a model's files cannot control the terminal by it.
    """
    if sys.stderr is None:
        return
    text = visible(" ".join(text.split("\n"))).replace("\t", " ")
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST - _NEXT_STEP]} … {text[-_NEXT_STEP:]}"
    with contextlib.suppress(OSError, ValueError):
        print(dimmed(text) if dim and has_styles(sys.stderr) else text, file=sys.stderr, flush=True)


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
