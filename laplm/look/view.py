"""What every look gives back: named arrays, tables to read, a picture to look at, files to keep."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from laplm.errors import InputError, WriteError
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
        texts: what stands in the cells on a page, instead of their numbers.
        tips: what a page says of each cell, instead of its number.
    """

    title: str
    values: Array
    row_labels: Sequence[str]
    column_labels: Sequence[str]
    diverging: bool = False
    digits: int = 2
    note: str = ""
    texts: Sequence[Sequence[str]] = ()
    tips: Sequence[Sequence[str]] = ()


@dataclass(frozen=True, kw_only=True)
class Maps:
    """Many matrices on one scale from 0 to 1, to see at a glance.

    Attributes:
        values: (rows of maps, maps in a row, rows, columns). NaN is left empty.
        row_labels: one for each row of maps.
        column_labels: one for each map in a row.
        tokens: what the rows and columns of every map are, where they are labelled.
        marked: (row, column) of the maps that a page shows first.
        marked_by: why these, in a few words.
    """

    title: str
    values: Array
    row_labels: Sequence[str]
    column_labels: Sequence[str]
    tokens: Sequence[str] = ()
    note: str = ""
    marked: Sequence[tuple[int, int]] = ()
    marked_by: str = ""


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


@dataclass(frozen=True)
class Node:
    """A part of a network, and where it stands: ``x`` to the right and ``y`` up, in steps.

    Attributes:
        kind: "head", "feed-forward", "embedding" or "logits".
        label: what stands in it.
        name: what it is called in a sentence.
        tip: what a page says of it.
    """

    kind: str
    label: str
    name: str
    tip: str
    x: float
    y: float


@dataclass(frozen=True)
class Edge:
    """A line between two nodes (by index), its signed strength, and what a page says of it."""

    from_: int
    to: int
    weight: float
    tip: str = ""


@dataclass(frozen=True, kw_only=True)
class Network:
    """Nodes and edges; only pages and pictures have them.

    Attributes:
        levels: labels by their height.
        columns: words of columns that have no embedding, by their place.
    """

    title: str
    nodes: Sequence[Node]
    edges: Sequence[Edge]
    levels: Sequence[tuple[float, str]]
    columns: Sequence[tuple[float, str]] = ()
    note: str = ""


@dataclass(frozen=True)
class Word:
    """A piece of a conversation.

    Attributes:
        text: the piece.
        kind: "word" (said by a person or the model), "control" (a control token), or "template"
            (what the chat template writes around messages).
        column: of the weights of a ``AnswerAttention``, or None where nothing is told of it.
        last: it is of the last question.
    """

    text: str
    kind: str
    column: int | None = None
    last: bool = False


@dataclass(frozen=True, kw_only=True)
class AnswerAttention:
    """An answer, and how much each of its tokens looked at pieces before it; only pages have it.

    Attributes:
        words: what was there before the answer, in pieces.
        answer: the answer's tokens; strength is their probability.
        weights: (answer's tokens, columns): shares of attention.
    """

    title: str
    words: Sequence[Word]
    answer: Sequence[Span]
    weights: Array
    note: str = ""


Part = Table | Grid | Maps | Passage
PagePart = Part | Network | AnswerAttention


EXTENSIONS = (".png", ".svg", ".html", ".csv", ".json")


class View(ABC):
    """Base of all looks: a frozen dataclass whose fields are the result.

    Attributes:
        extensions: what the names of files may end in that it can be saved to.
        picture_on_page: its page has the picture too, though other parts are drawn there.
    """

    extensions: ClassVar[tuple[str, ...]] = EXTENSIONS
    picture_on_page: ClassVar[bool] = False

    @abstractmethod
    def parts(self) -> list[Part]:
        """What the terminal and the HTML page show, in order; the first table is the main one."""

    @abstractmethod
    def sentence(self) -> str:
        """What is seen, in one sentence with its numbers: the terminal and the page begin so."""

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

    def page_parts(self) -> list[PagePart]:
        """What a page shows in place of ``parts``: also what only a page can show."""
        return list(self.parts())

    def to_html(self) -> str:
        """One page with everything in it, to point at and to click; it loads nothing.

        The picture is in it where nothing else on the page shows what it does.
        """
        from laplm.look import page

        return page.page_of(self)

    def _repr_html_(self) -> str:
        """What a notebook shows: the page, in a frame of its own."""
        from laplm.look import page

        return page.frame_of(self)

    def to_svg(self) -> str:
        """The picture as an SVG element.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        return _svg(self.plot())

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
            ".svg": lambda: self.to_svg().encode(),
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


def model_label(model: Model) -> str:
    """A model's name as sentences, tables and pictures have it: of a path the last part."""
    return PurePath(model.name).name or model.name


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
    import matplotlib as mpl

    out = io.StringIO()
    # No date, and ids that are not drawn: the same look gives the same file.
    with mpl.rc_context({"svg.hashsalt": "laplm"}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]
