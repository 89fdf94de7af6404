"""The parts of a look, drawn in the terminal: tables, matrices as colours, coloured text.

Colours come with their own background or are dark enough for a light terminal and light enough for
a dark one. Where there are none (a pipe, ``NO_COLOR``), numbers and shades stand in for them.
"""

from __future__ import annotations

import functools
import io
import itertools
import math
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from laplm.cli.output import is_terminal, printable, write

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    from laplm.look.view import Array, Column, Grid, Maps, Part, Passage, Table

ROWS = 24
"""How many rows of tables and matrices are shown, together, when nothing else is asked for."""

_BAR = 10  # cells of a bar that is full
_BAR_COLOUR = "#0072b2"  # Okabe and Ito's blue: readable on black and on white
_EIGHTHS = " ▏▎▍▌▋▊▉"
_SHADES = " ░▒▓█"
_PIPE_WIDTH = 100_000  # nothing is cut short for a file
_NOTE_WIDTH = 100
_LABEL = 18
_WRAPPED = 24  # longer text may go on in further lines
_PIXELS = 16  # of a small map, across and down
_MAPS_WIDTH = 200  # also in a file
_TOKEN = 14  # a token's label beside a map
_GAP = 3  # cells between two columns
_FEW = 6  # columns of a table that has one key; others have two
# viridis and PuOr at even steps (matplotlib's, as in the pictures), to be blended between.
_VIRIDIS = (
    "440154", "481f70", "443983", "3b528b", "31688e", "287c8e", "21918c", "20a486",
    "35b779", "5ec962", "90d743", "c8e020", "fde725",
)  # fmt: skip
_PURPLE_ORANGE = (
    "7f3b08", "b25706", "e08214", "fcb761", "fee0b6", "f6f6f7", "d8daeb", "b1aad1",
    "8073ac", "532687", "2d004b",
)  # fmt: skip
_UNLIKELY, _LIKELY = "fdb863", "8cbeeb"


def print_parts(
    parts: Sequence[Part],
    rows: int | None = None,
    sentence: str = "",
    everything: str = "--all",
) -> None:
    """Print a sentence and parts to standard output, one below the other.

    By default the first table is cut after ``ROWS`` rows, and a table or matrix that comes after
    it is shown if its rows still have room. A line tells what is left out.

    Args:
        parts: as ``View.parts`` gives them.
        rows: rows of each table that are shown at most; 0 shows all.
        sentence: what comes first.
        everything: the option that shows all.
    """
    console = _console()
    if sentence:
        _write_drawn(console, lambda: _draw_sentence(console, sentence))
    left, hidden = ROWS, 0
    for i, part in enumerate(parts):
        count = _rows_of(part)
        if rows is None and count > left < ROWS:
            hidden += 1
            continue
        most = left if rows is None else rows
        draw = functools.partial(_draw, console, part, most, everything, apart=i > 0)
        _write_drawn(console, draw)
        left -= min(count, left)
    if hidden:
        more = f"… {hidden} more table{'s' if hidden > 1 else ''}: {everything} shows all"
        _write_drawn(console, lambda: console.print(_line(more, "dim")))


def _rows_of(part: Part) -> int:
    """How many rows tables, matrices and text have; labelled maps are not counted."""
    from laplm.look.view import Grid, Maps, Passage, Table

    if isinstance(part, Table):
        return len(part.rows)
    if isinstance(part, Maps) and not part.tokens:
        return len(part.values) * min(_PIXELS, int(part.values.shape[-1]))
    if isinstance(part, Passage):
        return sum(span.text.count("\n") for span in part.spans)
    return len(part.values) if isinstance(part, Grid) else 0


def _console() -> Console:
    """What draws for standard output: as wide as the terminal, or as COLUMNS says in a pipe."""
    from rich.console import Console

    console = Console(file=_LikeStdout(), highlight=False, soft_wrap=False)
    if console.is_terminal:
        return console
    columns = os.environ.get("COLUMNS", "")
    width = int(columns) if columns.isdecimal() and int(columns) else _PIPE_WIDTH
    return Console(file=_LikeStdout(), highlight=False, width=width, no_color=True)


def _write_drawn(console: Console, draw: Callable[[], None]) -> None:
    """Write what is drawn, without the spaces at the ends of its lines."""
    with console.capture() as captured:
        draw()
    write("\n".join(line.rstrip(" ") for line in captured.get().split("\n")))


def _draw_sentence(console: Console, sentence: str) -> None:
    console.print(_line(sentence), width=min(_NOTE_WIDTH, console.width))
    console.print()


def _draw(console: Console, part: Part, most: int, everything: str, *, apart: bool) -> None:
    """One part with its title and note, its table cut after ``most`` rows (0: not at all)."""
    from laplm.look.view import Grid, Maps, Passage, Table

    if apart:
        console.print()
    console.print(_line(part.title, "bold"))
    if isinstance(part, Table):
        _draw_table(console, part, most)
        if most and (cut := len(part.rows) - most) > 0:
            more = f"… {cut:,} more row{'s' if cut > 1 else ''}: {everything} shows all"
            console.print(_line(more, "dim"))
    elif isinstance(part, Grid):
        _draw_grid(console, part)
    elif isinstance(part, Maps):
        _draw_maps(console, part)
    elif isinstance(part, Passage):
        _draw_passage(console, part)
    if part.note:
        console.print(_line(part.note, "dim"), width=min(_NOTE_WIDTH, console.width))


class _LikeStdout(io.StringIO):
    """Tells rich what standard output is; what is drawn is captured, and written by ``write``."""

    def isatty(self) -> bool:
        return is_terminal(sys.stdout)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(sys.stdout, "encoding", None) or "utf-8"


def _line(text: str, style: str = "") -> Text:
    from rich.text import Text

    return Text(printable(text), style=style)


def _has_colour(console: Console) -> bool:
    return console.color_system is not None and not console.no_color


# --- tables -----------------------------------------------------------------------------------


def _draw_table(console: Console, part: Table, most: int) -> None:
    import numpy as np

    shown = part.rows if most == 0 else part.rows[:most]
    numeric = [
        any(isinstance(row[i], int | float | np.number) for row in part.rows)
        for i in range(len(part.columns))
    ]
    widths = [
        max((len(column.text(row[i])) for row in shown), default=0)
        for i, column in enumerate(part.columns)
    ]
    names = [column.name for column in part.columns]
    # Bars make way where without them all columns have room beside each other.
    bars = [
        max((1 + len(_bar(row[i], console)) for row in shown), default=0) if column.bar else 0
        for i, column in enumerate(part.columns)
    ]
    needs = [_need(name, width) for name, width in zip(names, widths, strict=True)]
    wide = [_need(name, width, bar) for name, width, bar in zip(names, widths, bars, strict=True)]
    with_bars = _total(wide) <= console.width or _total(needs) > console.width
    if with_bars:
        needs = wide
    for sheet, chosen in enumerate(_sheets(part.columns, needs, console.width)):
        if sheet:
            console.print()
        table = _new_table()
        room = console.width - _total([needs[i] for i in chosen])
        for i in chosen:
            column, text_goes_on = part.columns[i], widths[i] > _WRAPPED
            # A heading goes on in further lines where the columns have no room beside each other.
            width = min(max(len(column.name), needs[i]), needs[i] + max(0, room))
            room -= width - needs[i]
            table.add_column(
                _heading(column.name),
                justify="right" if numeric[i] and not column.bar else "left",
                no_wrap=not text_goes_on,
                overflow="fold" if text_goes_on else "ellipsis",
                width=None if text_goes_on else width,
            )
        for row in shown:
            table.add_row(
                *(_cell(console, part.columns[i], row[i], widths[i], with_bars) for i in chosen)
            )
        console.print(table)


def _new_table() -> RichTable:
    from rich import box
    from rich.table import Table as RichTable

    return RichTable(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), show_edge=False)


def _heading(name: str) -> Text:
    text = _line(name)
    text.no_wrap = False
    return text


def _need(name: str, width: int, bar: int = 0) -> int:
    """How wide a column must be: for its cells, and for the longest word of its heading."""
    return max(max(map(len, name.split()), default=0), min(width, _WRAPPED) + bar)


def _total(widths: Sequence[int]) -> int:
    """How wide columns are side by side."""
    return sum(widths) + _GAP * (len(widths) - 1)


def _sheets(columns: Sequence[Column], needs: Sequence[int], room: int) -> list[list[int]]:
    """Columns (by index) that fit side by side; the first ones come again on every sheet."""
    keys = list(range(2 if len(columns) > _FEW else 1))
    sheets = [list(keys)]
    for i in range(len(keys), len(columns)):
        if _total([needs[j] for j in (*sheets[-1], i)]) > room and len(sheets[-1]) > len(keys):
            sheets.append(list(keys))
        sheets[-1].append(i)
    return sheets


def _cell(console: Console, column: Column, value: Any, width: int, with_bar: bool) -> Text:
    from rich.text import Text

    text = column.text(value)
    if not (column.bar and with_bar) or value is None:
        return Text(printable(text))
    cell = Text(f"{text:>{width}} ")
    cell.append(_bar(float(value), console), style=_BAR_COLOUR)
    return cell


def _bar(share: float | None, console: Console) -> str:
    """A bar of eighths of cells, or of # where the terminal has no such characters."""
    if share is None or not 0 <= share <= 1:
        return ""
    if not (console.encoding or "").lower().startswith("utf"):
        return "#" * round(share * _BAR)
    eighths = round(share * _BAR * 8)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


# --- matrices ---------------------------------------------------------------------------------


def _draw_grid(console: Console, part: Grid) -> None:
    from rich.text import Text

    values = part.values
    finite = [float(v) for v in values.ravel() if math.isfinite(v)]
    digits = max((len(_number(v, part)) for v in finite), default=1)
    labels = [_short(label, _LABEL) for label in part.row_labels]
    margin = max(map(len, labels), default=0) + 1
    room = (console.width - margin) // max(1, values.shape[1])
    if room < 1:
        console.print(
            _line(f"{values.shape[1]} columns are too wide for this terminal; --out x.png", "dim")
        )
        return
    with_numbers = room > digits
    names = _names(part.column_labels)
    longest = max(map(len, names), default=0)
    width = min(room, max(digits if with_numbers else 1, min(longest, 8)) + 1)
    console.print(_header(names, width, margin))
    most = max((abs(v) for v in finite), default=1.0) or 1.0
    low = -most if part.diverging else min(0.0, min(finite, default=0.0))
    for label, row in zip(labels, values, strict=True):
        line = Text(f"{printable(label):>{margin - 1}} ")
        for value in map(float, row):
            if not math.isfinite(value):
                line.append(" " * width)
                continue
            share = (value - low) / ((most - low) or 1.0)
            text = _number(value, part) if with_numbers else ""
            if _has_colour(console):
                colour = _blend(_PURPLE_ORANGE if part.diverging else _VIRIDIS, share)
                line.append(f"{text:>{width}}", style=f"{_ink(colour)} on #{colour}")
            elif with_numbers:
                line.append(f"{text:>{width}}")
            else:
                strength = abs(value) / most if part.diverging else share
                line.append(_SHADES[min(4, int(strength * 5))] * width)
        console.print(line, no_wrap=True, overflow="crop")


def _draw_maps(console: Console, part: Maps) -> None:
    """Small maps side by side, two of their rows in a line where there are colours."""
    from rich.text import Text

    if part.tokens:
        _draw_labelled_maps(console, part)
        return
    in_a_row = part.values.shape[1]
    margin = max(map(len, part.row_labels), default=0) + 1
    most = min(_PIXELS, (min(console.width, _MAPS_WIDTH) - margin) // in_a_row - 1)
    if most < 1:
        console.print(_line("these maps are too wide for this terminal; --out x.png", "dim"))
        return
    width = max(min(most, part.values.shape[-1]), max(map(len, part.column_labels)))
    colour = _has_colour(console)
    heading = "".join(f"{_short(name, width):<{width + 1}}" for name in part.column_labels)
    console.print(Text(" " * margin + heading, style="dim"), no_wrap=True, overflow="crop")
    for place, (label, row) in enumerate(zip(part.row_labels, part.values, strict=True)):
        if place:
            console.print()
        maps = [_pool_cells(values, most) for values in row]
        height, step = len(maps[0]), 2 if colour else 1
        for top in range(0, height, step):
            line = Text(f"{label if top == 0 else '':<{margin}}")
            for values in maps:
                for column in range(values.shape[1]):
                    pair = [float(v) for v in values[top : top + step, column]]
                    line.append_text(_pixel(pair, colour))
                line.append(" " * (width - values.shape[1] + 1))
            console.print(line, no_wrap=True, overflow="crop")


def _draw_labelled_maps(console: Console, part: Maps) -> None:
    """Maps side by side whose rows are tokens, in percent where there is room for numbers.

    Of a long text the last rows are shown, and columns stand for several tokens.
    """
    from rich.text import Text

    names = [_short(f"{i} {token}", _TOKEN) for i, token in enumerate(part.tokens)]
    margin, count = max(map(len, names)) + 1, len(names)
    in_a_row, first = part.values.shape[1], max(0, count - _PIXELS)
    room = (min(console.width, _MAPS_WIDTH) - margin) // in_a_row - 2
    if room < 1:
        console.print(_line("these maps are too wide for this terminal; --out x.png", "dim"))
        return
    cell = max(1, min(4, room // count))
    for row in part.values:
        maps = [_pool_columns(values[first:], min(count, room)) for values in row]
        width = cell * maps[0].shape[1]
        heading = "".join(f"{_short(name, width):<{width + 2}}" for name in part.column_labels)
        console.print(Text(" " * margin + heading, style="dim"), no_wrap=True, overflow="crop")
        if cell > 1:
            step = 1 if cell > len(f"{count - 1}") else 2  # numbers must not touch
            numbers = "".join(" " * cell if i % step else f"{i:>{cell}}" for i in range(count))
            numbers += "  "
            line = Text(" " * margin + numbers * in_a_row, style="dim")
            console.print(line, no_wrap=True, overflow="crop")
        for i, name in enumerate(names[first:]):
            line = Text(f"{printable(name):>{margin - 1}} ")
            for values in maps:
                for share in map(float, values[i]):
                    line.append_text(_heat_cell(console, share, cell))
                line.append("  ")
            console.print(line, no_wrap=True, overflow="crop")


def _heat_cell(console: Console, share: float, width: int) -> Text:
    """A share of 1 as a cell: in percent on its colour, or as a shade."""
    from rich.text import Text

    if not math.isfinite(share):
        return Text(" " * width)
    text = f"{100 * share:>{width}.0f}" if width > 2 else ""
    if _has_colour(console):
        colour = _blend(_VIRIDIS, share)
        return Text(f"{text:>{width}}", style=f"{_ink(colour)} on #{colour}")
    return Text(text or _SHADES[min(4, int(share * 5))] * width)


def _pool_columns(values: Array, most: int) -> Array:
    """A matrix of at most so many columns: each the greatest of those that it stands for."""
    import numpy as np

    size = min(most, values.shape[1])
    edges = np.linspace(0, values.shape[1], size + 1).astype(int)
    filled = np.where(np.isfinite(values), values, -1)
    out = np.stack([filled[:, a:b].max(axis=1) for a, b in itertools.pairwise(edges)], 1)
    return np.where(out < 0, np.nan, out).astype(np.float32)


def _pool_cells(values: Array, most: int) -> Array:
    """A matrix of at most so many rows and columns: each the greatest of what it stands for."""
    import numpy as np

    size = min(most, len(values))
    edges = np.linspace(0, len(values), size + 1).astype(int)
    out = np.full((size, size), np.nan, np.float32)
    for i in range(size):
        for j in range(size):
            block = values[edges[i] : edges[i + 1], edges[j] : edges[j + 1]]
            if np.isfinite(block).any():
                out[i, j] = np.nanmax(block)
    return out


def _pixel(pair: Sequence[float], colour: bool) -> Text:
    """One or two numbers from 0 to 1, one above the other, in one cell."""
    from rich.text import Text

    if not colour:
        share = pair[0]
        return Text(_SHADES[min(4, int(share * 5))] if math.isfinite(share) else " ")
    upper, lower = (
        f"#{_blend(_VIRIDIS, share)}" if math.isfinite(share) else ""
        for share in (*pair, math.nan)[:2]
    )
    if upper and lower:
        return Text("▀", style=f"{upper} on {lower}")
    if upper or lower:
        return Text("▀" if upper else "▄", style=upper or lower)
    return Text(" ")


def _names(labels: Sequence[str]) -> list[str]:
    """Column labels, or only their numbers where they are numbered: "3 the" is 3."""
    heads = [label.split(" ")[0] for label in labels]
    return heads if heads == [str(i) for i in range(len(labels))] else list(labels)


def _header(names: Sequence[str], width: int, margin: int) -> Text:
    """Column names over cells of ``width``; only every n-th number where they would touch."""
    from rich.text import Text

    line = Text(" " * margin)
    numbered = all(name.isdigit() for name in names)
    longest = max(map(len, names), default=0)
    step = max(1, math.ceil((longest + 1) / width)) if numbered else 1
    for i in range(0, len(names), step):
        room = width * min(step, len(names) - i)
        line.append(f"{_short(names[i], max(1, room - 1)):>{room if step == 1 else width}}"[:room])
        line.append(" " * (room - width) if step > 1 else "")
    line.stylize("dim")
    return line


def _number(value: float, part: Grid) -> str:
    return f"{value:+.{part.digits}f}" if part.diverging else f"{value:.{part.digits}f}"


def _short(text: str, most: int) -> str:
    text = printable(text)
    return text if len(text) <= most else text[: most - 1] + "…"


def _blend(colours: Sequence[str], share: float) -> str:
    """The colour at ``share`` (0 to 1) of a row of colours at even steps, as six hex digits."""
    at = min(max(share, 0.0), 1.0) * (len(colours) - 1)
    i = min(int(at), len(colours) - 2)
    pair = [[int(colour[j : j + 2], 16) for j in (0, 2, 4)] for colour in colours[i : i + 2]]
    mixed = (round(a + (b - a) * (at - i)) for a, b in zip(*pair, strict=True))
    return "".join(f"{value:02x}" for value in mixed)


def _ink(colour: str) -> str:
    """Black or white, whichever is easier to read on a colour (W3C's relative luminance)."""
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in (int(colour[j : j + 2], 16) / 255 for j in (0, 2, 4))
    ]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "black" if luminance > 0.179 else "white"


# --- text -------------------------------------------------------------------------------------


def _draw_passage(console: Console, part: Passage) -> None:
    from rich.text import Text

    line = Text()
    for span in part.spans:
        text = printable(span.text)
        if span.strength is None or not _has_colour(console):
            line.append(text)
            continue
        colour = _blend((_UNLIKELY, _LIKELY), span.strength)
        line.append(text, style=f"black on #{colour}")
    console.print(line)
