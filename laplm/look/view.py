"""What every look gives back: named arrays, tables to read, a picture to look at, files to keep."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from laplm import html_page
from laplm.errors import InputError, MissingExtraError, WriteError
from laplm.files import json_text, reason_of, write_file
from laplm.model.config import ModelConfig
from laplm.model.engine.model import GPT
from laplm.model.engine.quantize import Precision
from laplm.model.files.checkpoint import Checkpoint
from laplm.model.tokenizer import Tokenizer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float32]


class Model(Protocol):
    """What a look needs of a model; ``laplm.LanguageModel`` has it."""

    name: str
    precision: Precision
    checkpoint: Checkpoint
    tokenizer: Tokenizer

    @property
    def config(self) -> ModelConfig:
        """The model's sizes."""
        ...

    @property
    def gpt(self) -> GPT:
        """The engine."""
        ...


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        name: its heading.
        digits: digits after the point, for floats; None leaves values as they are.
        bar: values lie between 0 and 1 and are drawn as a bar too.
        signed: values are shown with their sign.
        label: whole numbers are names, such as ids and years: 50256, not 50,256.
    """

    name: str
    digits: int | None = None
    bar: bool = False
    signed: bool = False
    label: bool = False

    def text(self, value: Any) -> str:
        """A value as it is printed."""
        if value is None:
            return ""
        if isinstance(value, float | np.floating):
            if not math.isfinite(value):
                return str(float(value))
            number = f"{value:+,.{self.digits}f}" if self.signed else f"{value:,.{self.digits}f}"
            return number if self.digits is not None else f"{value:g}"
        if isinstance(value, int | np.integer) and not isinstance(value, bool) and not self.label:
            return f"{value:+,}" if self.signed else f"{value:,}"
        return str(value)


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows to read. ``note`` is a sentence or two below it."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]
    note: str = ""

    def records(self) -> list[dict[str, Any]]:
        """Rows by column name, in plain Python numbers and strings."""
        names = [column.name for column in self.columns]
        return [dict(zip(names, map(plain, row), strict=True)) for row in self.rows]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A matrix to see as colours: (rows, columns). NaN is left empty (a causal mask).

    Attributes:
        diverging: values have two directions from 0, such as effects; else they start at 0.
        digits: digits after the point where numbers are printed.
    """

    title: str
    values: Array
    row_labels: Sequence[str]
    column_labels: Sequence[str]
    diverging: bool = False
    digits: int = 2
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Maps:
    """Many matrices on one scale from 0 to 1, to see at a glance.

    Attributes:
        values: (rows of maps, maps in a row, rows, columns). NaN is left empty.
        row_labels: one for each row of maps.
        column_labels: one for each map in a row.
        tokens: what the rows and columns of every map are, where they are labelled.
    """

    title: str
    values: Array
    row_labels: Sequence[str]
    column_labels: Sequence[str]
    tokens: Sequence[str] = ()
    note: str = ""


@dataclass(frozen=True)
class Span:
    """A piece of text with a strength between 0 and 1 that colours it, and words for a pointer."""

    text: str
    strength: float | None = None
    tip: str = ""


@dataclass(frozen=True, kw_only=True)
class Passage:
    """Coloured running text, such as generated tokens by their probability."""

    title: str
    spans: Sequence[Span]
    note: str = ""


Part = Table | Grid | Maps | Passage


EXTENSIONS = (".png", ".svg", ".html", ".csv", ".json")


class View(ABC):
    """Base of all looks: a frozen dataclass whose fields are the result.

    Attributes:
        extensions: what the names of files may end in that it can be saved to.
    """

    extensions: ClassVar[tuple[str, ...]] = EXTENSIONS

    @abstractmethod
    def parts(self) -> list[Part]:
        """What the terminal and the HTML page show, in order; the first table is the main one."""

    def sentence(self) -> str:
        """What is seen, in one sentence with its numbers; the terminal and the page begin with it.

        A view that has nothing to say in one sentence gives "".
        """
        return ""

    @abstractmethod
    def plot(self) -> Figure:
        """The picture.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """

    def table(self) -> Any:
        """The main table: a pandas DataFrame when pandas is installed, else a list of dicts."""
        records = self._main().records()
        try:
            import pandas
        except ModuleNotFoundError:
            return records
        return pandas.DataFrame(records)

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain numbers, strings and lists."""
        assert dataclasses.is_dataclass(self)
        return {f.name: plain(getattr(self, f.name)) for f in dataclasses.fields(self)}

    def to_csv(self) -> str:
        """The main table as CSV with a heading."""
        out = io.StringIO()
        main = self._main()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow([column.name for column in main.columns])
        writer.writerows([plain(value) for value in row] for row in main.rows)
        return out.getvalue()

    def to_html(self) -> str:
        """One page with everything in it: the picture, when matplotlib is there, and the tables."""
        parts = self.parts()
        shown: list[Table | Grid | Passage]
        try:
            picture = html_page.figure(_svg(self.plot())) + "\n"
            shown = [part for part in parts if not isinstance(part, Grid | Maps)]
        except MissingExtraError:
            # Then matrices are tables, as far as they can be.
            picture, shown = "", [part for part in parts if not isinstance(part, Maps)]
        title = parts[0].title  # and not once more over the part that it belongs to
        body = (part_html(part, heading=part.title != title) for part in shown)
        return html_page.page(
            title, html_page.paragraph(self.sentence()) + picture + "\n".join(body)
        )

    def save(self, path: str | Path) -> Path:
        """Write a picture (``.png``, ``.svg``), a page (``.html``) or data (``.csv``, ``.json``).

        The file is written under a temporary name and moved into place.

        Raises:
            InputError: the extension is another, or the file cannot be written.
            MissingExtraError: a picture is asked for and matplotlib is not installed.
        """
        path = Path(path)
        check_extension(path, self.extensions)
        make = {
            ".png": lambda: _png(self.plot()),
            ".svg": lambda: _svg(self.plot()).encode(),
            ".html": lambda: self.to_html().encode(),
            ".csv": lambda: self.to_csv().encode(),
            ".json": lambda: (
                json_text(self.to_dict(), ensure_ascii=False, indent=2) + "\n"
            ).encode(),
        }
        write_out(path, make[path.suffix.lower()]())
        return path

    def _main(self) -> Table:
        return next(part for part in self.parts() if isinstance(part, Table))


def check_extension(path: Path, allowed: Sequence[str] = EXTENSIONS) -> None:
    """Refuse a file name before anything is computed for it.

    Raises:
        InputError: its extension is not one of ``allowed``, or its directory is not there.
    """
    if path.suffix.lower() not in allowed:
        raise InputError(
            f"{path} does not say what to write: end the name in {', '.join(allowed[:-1])}"
            + (f" or {allowed[-1]}" if len(allowed) > 1 else allowed[-1])
        )
    if not path.parent.is_dir():
        raise InputError(f"{path.parent} is not a directory; make it first")
    if path.is_dir():
        raise InputError(f"{path} is a directory; give a file name in it")


def check_count(name: str, value: int, most: int) -> int:
    """A whole number from 1 to ``most``, such as how many rows to show.

    Raises:
        InputError: it is not one.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 1 <= value <= most:
        raise InputError(f"{name} is {value!r}, but it must be a whole number from 1 to {most:,}")
    return int(value)


def write_out(path: Path, content: bytes) -> None:
    """Write a file whole, or not at all.

    Raises:
        InputError: it cannot be written.
    """
    try:
        write_file(path, content)
    except WriteError as error:
        raise InputError(f"{path} cannot be written ({reason_of(error)})") from None


def plain(value: Any) -> Any:
    """The same value in what JSON knows; NaN and infinities become None."""
    if isinstance(value, np.ndarray) and value.ndim and value.dtype.kind in "biuf":
        finite = np.isfinite(value)  # as a whole, which is fast
        if finite.all():
            return value.tolist()
        found = value.astype(object)
        found[~finite] = None
        return found.tolist()
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def visible(text: str) -> str:
    """Text with its white space and control characters made visible, for labels."""
    table = {" ": "·", "\n": "↵", "\t": "→", "\r": "␍"}
    return "".join(
        table.get(c, c if c.isprintable() else "\N{REPLACEMENT CHARACTER}") for c in text
    )


def _png(figure: Figure) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=160)
    return out.getvalue()


def _svg(figure: Figure) -> str:
    out = io.StringIO()
    # No date: the same look gives the same file.
    figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def part_html(part: Table | Grid | Passage, *, heading: bool = True) -> str:
    """One part as HTML, with or without its title over it."""
    title = html_page.heading(part.title) if heading else ""
    note = html_page.paragraph(part.note)
    if isinstance(part, Passage):
        return f"{title}{html_page.passage([_span_html(span) for span in part.spans])}{note}"
    if isinstance(part, Grid):
        columns = [Column(""), *(Column(label, part.digits) for label in part.column_labels)]
        rows = [
            [label, *(None if math.isnan(v) else float(v) for v in row)]
            for label, row in zip(part.row_labels, part.values, strict=True)
        ]
        part = Table(title=part.title, columns=columns, rows=rows, note=part.note)
    table = html_page.table(
        [column.name for column in part.columns],
        [
            [column.text(value) for column, value in zip(part.columns, row, strict=True)]
            for row in part.rows
        ],
        [
            any(isinstance(row[i], int | float | np.number) for row in part.rows)
            for i in range(len(part.columns))
        ],
    )
    return f"{title}{table}{note}"


def _span_html(span: Span) -> str:
    if span.strength is None:
        return html_page.span(span.text, tip=span.tip)
    # From a warm tint (unlikely) to a cool one (likely), both light enough for black text.
    from_, to = (253, 184, 99), (140, 190, 235)
    rgb = [round(a + (b - a) * span.strength) for a, b in zip(from_, to, strict=True)]
    return html_page.span(span.text, f"rgb({rgb[0]},{rgb[1]},{rgb[2]})", span.tip)
