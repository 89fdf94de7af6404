"""Lines that a person types: arrow keys, a history that lasts, messages of several lines."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from laplm.cli.output import is_terminal
from laplm.errors import InputError, LaplmError

QUOTES = '"""'
"""Begins and ends what has several lines."""

_KEPT = 1000  # lines of the history; the file is cut when it has twice as many


class LineReader:
    """Reads lines from standard input; on a terminal they can be edited and called back.

    Python's readline does that, where there is one: on Windows the console has its own.
    """

    def __init__(self, words: Sequence[str], history: Path | None = None) -> None:
        """Begin.

        Args:
            words: what the tabulator completes at the beginning of a line.
            history: a file of earlier lines, read and written by its owner alone; None keeps none.
        """
        self._words = words
        self._history = history
        self._typed = is_terminal(sys.stdin) and is_terminal(sys.stdout)
        self._last = ""
        readline = _readline() if self._typed else None
        if readline is not None:
            readline.set_completer(self._complete)
            readline.set_completer_delims(" ")
            libedit = "libedit" in (readline.__doc__ or "")
            readline.parse_and_bind("bind ^I rl_complete" if libedit else "tab: complete")
            readline.clear_history()
            for line in self._earlier():
                readline.add_history(line)

    def read(self, prompt: str) -> str:
        """The next line.

        Raises:
            EOFError: there is none.
            InputError: it is not UTF-8.
            KeyboardInterrupt: Ctrl-C was typed instead.
        """
        try:
            line = input(prompt) if self._typed else _read_plain_line(prompt)
        except UnicodeDecodeError:
            raise InputError("what was typed is not UTF-8; set the terminal to UTF-8") from None
        # What a terminal passes on that is not UTF-8 comes as lone surrogates.
        line = line.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        self._remember(line)
        return line

    def _complete(self, text: str, state: int) -> str | None:
        found = [f"{word} " for word in self._words if text and word.startswith(text)]
        return found[state] if state < len(found) else None

    def _earlier(self) -> list[str]:
        """Lines of earlier conversations, the oldest first; the file is cut where it is long."""
        path = self._history
        if path is None:
            return []
        from laplm import home
        from laplm.files import write_file

        lines: list[str] = []
        with contextlib.suppress(OSError, LaplmError):
            home.clear_the_way(path)
            written = path.read_bytes().splitlines()
            for each in written[-_KEPT:]:
                with contextlib.suppress(ValueError, RecursionError):
                    line = json.loads(each)
                    lines += [line] if isinstance(line, str) else []
            if len(written) > 2 * _KEPT:
                with _for_the_owner():
                    write_file(path, b"\n".join(written[-_KEPT:]) + b"\n")
        return lines

    def _remember(self, line: str) -> None:
        if self._history is None or not self._typed or not line.strip() or line == self._last:
            return
        from laplm.files import json_text

        self._last = line
        with contextlib.suppress(OSError):  # a conversation goes on without
            descriptor = os.open(self._history, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o600)
            with open(descriptor, "ab") as file:  # noqa: PTH123
                with contextlib.suppress(OSError):
                    self._history.chmod(0o600)
                file.write(json_text(line).encode() + b"\n")


def history_file() -> Path | None:
    """Where what is typed to models is kept; None where nothing can be."""
    from laplm import home

    try:
        return home.directory("chat") / "history"
    except LaplmError:
        return None


def read_message(reader: LineReader, prompt: str, more: str) -> tuple[str, bool]:
    '''What a person says: a line, or several between """ and """.

    Args:
        reader: gives the lines.
        prompt: stands before the first one.
        more: stands before the others.

    Returns:
        The text, and whether all of it was quoted, so that it is no command.

    Raises:
        EOFError: the input ended, within a message too.
        InputError: as ``LineReader.read``.
        KeyboardInterrupt: Ctrl-C was typed.
    '''
    line = reader.read(prompt)
    head, opened, rest = line.partition(QUOTES)
    if not opened or (head.strip() and not head.startswith("/")):
        return line, False
    while QUOTES not in rest:
        rest += "\n" + reader.read(more)
    body, _, tail = rest.partition(QUOTES)
    text = body.removeprefix("\n").removesuffix("\n") + tail.rstrip()
    return (head + text, False) if head.strip() else (text, True)


def _read_plain_line(prompt: str) -> str:
    with contextlib.suppress(AttributeError, OSError):  # standard error may be closed
        sys.stderr.write(prompt)
        sys.stderr.flush()
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.removesuffix("\n")


def _readline() -> Any:
    try:
        import readline
    except ImportError:
        return None
    return readline


@contextlib.contextmanager
def _for_the_owner() -> Iterator[None]:
    """New files are for nobody else to read."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)
