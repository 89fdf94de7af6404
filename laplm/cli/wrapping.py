"""Text that comes piece by piece, broken between words at the edge of a terminal."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

_PIECES = re.compile(r"\n|[ \t]+|[^ \t\n]+")
_JOINER = "\u200d"  # makes one emoji of several
_CLOSING = "、。，．・：；？！）］｝」』】〉》〕…"  # do not begin a line
_TAB = 8


class Wrapper:
    """Writes text word by word; a word that does not fit begins the next line.

    A word is held back until it is known to have ended, so nothing that was written is ever taken
    back: it works on any terminal. Between wide characters, as Chinese and Japanese have them,
    a line may break too.
    """

    def __init__(self, write: Callable[[str, bool], None], columns: Callable[[], int]) -> None:
        """Begin at the left edge.

        Args:
            write: is given text, and whether it is dim.
            columns: how wide the terminal is now.
        """
        self._write = write
        self._columns = columns
        self._column = 0
        self._gap: list[tuple[str, bool]] = []  # white space before the word
        self._word: list[tuple[str, bool]] = []

    def feed(self, text: str, *, dim: bool = False) -> None:
        """Take more text. What ends in the middle of a word is written when the word has ended."""
        for piece in _PIECES.findall(text):
            if piece == "\n":
                self.flush()
                self._write(piece, dim)
                self._column = 0
            elif piece[0] in " \t":
                self._place()
                self._gap.append((piece, dim))
            else:
                self._add(piece, dim)

    def flush(self) -> None:
        """Write what is held back."""
        self._place()
        self._gap = []

    def _add(self, piece: str, dim: bool) -> None:
        if piece.isascii() and not self._ends_wide():
            self._word.append((piece, dim))
            return
        for character in piece:
            if self._may_break_before(character):
                self._place()
            self._word.append((character, dim))

    def _ends_wide(self) -> bool:
        return bool(self._word) and not self._word[-1][0].isascii()

    def _may_break_before(self, character: str) -> bool:
        if not self._word or character in _CLOSING or not _width(character):
            return False
        last = next((c for text, _ in self._word[::-1] for c in text[::-1] if _width(c)), "")
        joined = self._word[-1][0].endswith(_JOINER)
        return not joined and (_is_wide(character) or (bool(last) and _is_wide(last)))

    def _place(self) -> None:
        """Write the word, on the next line where this one has no room for it."""
        if not self._word:
            return
        gap = "".join(text for text, _ in self._gap)
        width = _width("".join(text for text, _ in self._word))
        end = self._after(gap) + width
        if end > self._columns() and self._column:
            self._write("\n", False)
            self._column = 0
        else:
            for text, dim in self._gap:
                self._write(text, dim)
            self._column = end - width
        for text, dim in self._word:
            self._write_broken(text, dim)
        self._gap, self._word = [], []

    def _after(self, gap: str) -> int:
        """The column after white space."""
        column = self._column
        for character in gap:
            column += _TAB - column % _TAB if character == "\t" else 1
        return column

    def _write_broken(self, text: str, dim: bool) -> None:
        """Write a part of a word, which may be longer than a line."""
        line = ""
        for character in text:
            width = _width(character)
            if self._column + width > self._columns() and self._column:
                self._write(f"{line}\n", dim)
                line, self._column = "", 0
            line += character
            self._column += width
        self._write(line, dim)


def _width(text: str) -> int:
    """Cells of a terminal that text takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len  # for what is not ASCII alone: it takes long to import

    return cell_len(text)


def _is_wide(character: str) -> bool:
    return unicodedata.east_asian_width(character) in "WF"
