"""Files that people have, as examples to tune a language model on.

A row (a line of .jsonl, a record of .csv, …) has one of four shapes, told by its keys:

    {"text": …}
    {"prompt": …, "completion": …}
    {"messages": [{"role": …, "content": …}, …]}
    {"instruction": …, "input": … (may be left out), "output": …}

or one of those that others give the same: ShareGPT's conversations, TRL's prompts and completions
that are lists of messages, questions and answers, Dolly's context and response (``_SHAPES``).
"""

from __future__ import annotations

import bz2
import contextlib
import csv
import dataclasses
import functools
import gzip
import io
import itertools
import json
import lzma
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from laplm.errors import InputError, one_of
from laplm.model.chat import ChatTemplate, ChatTemplateError

Pieces = tuple[tuple[str, bool], ...]

END_OF_DOCUMENT = "<|endoftext|>"
_BEGIN_OF_DOCUMENT = "<|startoftext|>"

# Taori et al. 2023, "Stanford Alpaca", as rendered in the `text` column of their data. Their
# training code leaves out the last line feed; the colon and an answer's opening quotation mark
# would then be one token.
ALPACA_PROMPT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes "
    "the request.\n\n### Instruction:\n{instruction}\n\n### Response:\n"
)
ALPACA_PROMPT_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)

# GPT-2 has no tokens for turns, so they are marked in plain text. Without white space outside
# the braces it renders alike whatever trim_blocks is; transformers sets it, others do not.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if not loop.first %}{{ '\\n\\n' }}{% endif %}"
    "{{ '### ' + message['role'] | capitalize + ':\\n' + message['content'] | trim }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '\\n\\n### Assistant:\\n' }}{% endif %}"
)

_ROLES = ("system", "user", "assistant")
# What others call them: OpenAI, and the data sets that look like ShareGPT's.
_ROLES_OF_OTHERS = {
    "developer": "system", "human": "user", "gpt": "assistant", "chatgpt": "assistant",
    "bot": "assistant", "model": "assistant",
}  # fmt: skip
_LINES = (".jsonl", ".ndjson")
_IN_DIRECTORIES = (".txt", ".md", *_LINES, ".csv", ".parquet")
_COMPRESSED: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_SAMPLE = 1 << 16  # characters of a table from which its separator is told
_FIELD_LIMIT = 2**31 - 1  # the largest that csv takes where a C long has 32 bits
_SHAPES_IN_WORDS = (
    'a row has "text", or "prompt" and "completion", or "messages", or "instruction" and "output", '
    "or a name for the one that holds the text is given (--column)"
)


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation.

    Attributes:
        role: system, user or assistant.
        content: what is said.
        in_loss: whether the loss counts it.
    """

    role: str
    content: str
    in_loss: bool


@dataclass(frozen=True, slots=True)
class Example:
    """One document.

    Attributes:
        pieces: (text, in_loss) in order; what the loss leaves out is context (a prompt).
        turns: the conversation that it is, if it is one; its pieces are those of
            ``CHAT_TEMPLATE``.
    """

    pieces: Pieces
    turns: tuple[Turn, ...] = field(default=(), compare=False)

    @property
    def text(self) -> str:
        """All pieces, joined."""
        return "".join(text for text, _ in self.pieces)

    def opening(self, words: int) -> str:
        """What a model is given to go on from: a question, a prompt, or the first words of a text.

        Args:
            words: how many, of a text that is no answer to anything.
        """
        for turn in self.turns:
            if turn.role == "user":
                return turn.content.strip()
        context = itertools.takewhile(lambda piece: not piece[1], self.pieces)
        return "".join(text for text, _ in context) or self.first_words(words)

    def first_words(self, count: int) -> str:
        """So many words of its text as they stand: verses keep their lines."""
        found = re.match(rf"\s*(?:\S+\s+){{0,{count - 1}}}\S+", self.text)
        return found[0].lstrip() if found else self.text

    @property
    def n_bytes(self) -> int:
        """Length of the text in UTF-8."""
        return sum(len(t) if t.isascii() else len(t.encode()) for t, _ in self.pieces)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Examples read from files.

    Attributes:
        examples: in the order of files and rows; each has at least one piece in the loss.
        kind: what they are, for people: documents, prompts and completions, conversations or
            instructions; of several kinds in a directory, all, parted by commas.
        files: what was read, in order; a directory of the ``datasets`` library is one.
        n_bytes: UTF-8 bytes of all texts.
        skipped: for each bad row that was left out, a line with file, place and cause.
        notes: lines for people: of each table its separator, its columns and how many rows it has,
            and what may not be as they think.
        chat_template: Jinja text for ``tokenizer_config.json`` where there are conversations.
    """

    examples: tuple[Example, ...]
    kind: str
    files: tuple[Path, ...]
    n_bytes: int
    skipped: tuple[str, ...]
    chat_template: str | None
    notes: tuple[str, ...] = ()

    def with_chat_template(self, template: ChatTemplate | None) -> Dataset:
        """The same with conversations as a model's own template renders them, where it has one.

        Raises:
            InputError: the template cannot be used with one of them.
        """
        if template is None or not any(example.turns for example in self.examples):
            return self
        examples: list[Example] = []
        for number, example in enumerate(self.examples, start=1):
            try:
                examples += _in_template(example, template)
            except ChatTemplateError as error:
                raise InputError(
                    f"{error}: conversation {number:,} of {len(self.examples):,}; take it out"
                ) from None
        return dataclasses.replace(
            self,
            examples=tuple(examples),
            n_bytes=sum(example.n_bytes for example in examples),
            chat_template=None,
        )


def _in_template(example: Example, template: ChatTemplate) -> list[Example]:
    if not example.turns:
        return [example]
    whole = all(in_loss for _, in_loss in example.pieces)
    documents = template.training_pieces(
        [{"role": turn.role, "content": turn.content} for turn in example.turns],
        [whole or turn.in_loss for turn in example.turns],
    )
    return [Example(tuple(pieces), example.turns) for pieces in documents]


class _BadRowError(Exception):
    """One row cannot be used; the place is not known here."""

    def __init__(self, cause: str, remedy: str = "correct it") -> None:
        super().__init__(cause)
        self.remedy = remedy


# The 1-based number of a line or row, and what is there.
Row = tuple[int, object]


@dataclass(frozen=True)
class _Shape:
    """What the rows of a file are, and under which names they hold it.

    Attributes:
        kind: for people.
        required: what a row must have; of each the names that it goes by, the usual one first.
        optional: what it may have.
        unread: names of what is not read here, and would change the meaning of what is.
        examples: the documents of a row. It is given the row under the usual names.
    """

    kind: str
    required: tuple[tuple[str, ...], ...]
    optional: tuple[tuple[str, ...], ...]
    unread: tuple[str, ...]
    examples: Callable[[_Fields, bool], list[Pieces] | list[Example]]


@dataclass(frozen=True)
class _Layout:
    """A shape, and what its parts are called in one file."""

    shape: _Shape
    names: dict[str, str]  # the usual name -> the one here
    unread: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """All that is looked at."""
        return (*self.names.values(), *self.unread)


class _Fields:
    """A row by the usual names of its parts; messages give the names that it has itself."""

    def __init__(self, row: dict[str, Any], names: dict[str, str]) -> None:
        self._row, self._names = row, names

    def __contains__(self, name: str) -> bool:
        """Whether it is there and not null: the datasets library gives what is missing as that."""
        return self._row.get(self._names.get(name, name)) is not None

    def __getitem__(self, name: str) -> Any:
        return self._row[self._names.get(name, name)]

    def called(self, name: str) -> str:
        """The name that it has in the file."""
        return self._names.get(name, name)


def read_examples(
    path: Path, *, column: str | None = None, train_on_prompt: bool = False, skip_bad: bool = False
) -> Dataset:
    """Examples from a file, a directory of files, or one that ``datasets`` has saved.

    - ``.txt``, ``.md``: documents parted by ``<|endoftext|>``, on a line of its own or not, or one.
    - ``.jsonl``, ``.ndjson``: a row on each line; ``.json``: a list of rows, or rows as in .jsonl.
    - ``.csv``, ``.tsv``: the first line names the columns, which are the keys of the rows. What
      separates them is found out, or said by a line ``sep=;`` before that.
    - ``.parquet``: its rows, read by ``pyarrow``.
    - each of these but parquet compressed, with .gz, .bz2 or .xz behind.
    - a directory that ``Dataset.save_to_disk`` wrote: its rows, of a dict those of ``train``.
    - another directory: every .txt, .md, .jsonl, .ndjson, .csv and .parquet below it in order of
      path; hidden ones are left out.

    Documents without text are dropped. No end-of-text mark is added to any text. A row's text may
    hold several documents with ``<|endoftext|>`` between them, as a .txt does; of an answer the
    mark is taken from the end, and elsewhere in a prompt, an answer or a message it is refused.

    Args:
        path: file or directory.
        column: the column or key that holds the text, where that is not ``text``.
        train_on_prompt: count prompts, instructions and all turns in the loss too.
        skip_bad: leave out rows that cannot be used, and list them in ``skipped``.

    Raises:
        InputError: there is nothing to read, it is not text in UTF-8, or a row cannot be used.
    """
    collector = _Collector(column, train_on_prompt, skip_bad)
    try:
        files = _files(path)
        if column is not None and path.is_file() and _is_text(path):
            raise InputError(f"{path} is plain text and has no column {column!r}; leave that out")
        for file in files:
            collector.read(file)
    except OSError as error:
        reason = error.strerror or _first_line(error)
        raise InputError(f"{error.filename or path} cannot be read ({reason})") from None
    if not collector.examples:
        if collector.skipped:
            raise InputError(
                f"{path} has no row that can be used; the first of {len(collector.skipped):,} that "
                f"cannot: {collector.skipped[0]}"
            )
        raise InputError(f"{path} has no text in it; give one with at least one document")
    kinds = list(collector.kinds)
    return Dataset(
        examples=tuple(collector.examples),
        kind=", ".join(kinds),
        files=tuple(files),
        n_bytes=collector.n_bytes,
        skipped=tuple(collector.skipped),
        chat_template=CHAT_TEMPLATE if "conversations" in kinds else None,
        notes=(*collector.tables, *_foreign_marks(collector.examples)),
    )


def _foreign_marks(examples: Sequence[Example]) -> list[str]:
    """A word on texts that begin with the mark of gpt-2-simple, which is no token of any model."""
    count = sum(example.pieces[0][0].startswith(_BEGIN_OF_DOCUMENT) for example in examples)
    if not count:
        return []
    return [
        f"{count:,} of {len(examples):,} documents begin with {_BEGIN_OF_DOCUMENT}, which is "
        "learned as text: a prompt has to begin with it too, or take it out"
    ]


def _files(path: Path) -> list[Path]:
    """What to read one after the other."""
    if not path.exists():
        raise InputError(f"{path} is not there; give a file or a directory of texts")
    if not path.is_dir() or _is_saved_dataset(path):
        return [path]
    files = sorted(
        file
        for file in path.rglob("*")
        if _suffix(file) in _IN_DIRECTORIES
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )
    if not files:
        raise InputError(
            f"{path} has no file in it that ends in .txt, .md, .jsonl or .csv; give a directory "
            "with such files, or a file of another kind by its own name"
        )
    return files


def _suffix(path: Path) -> str:
    """What kind of file it is, compressed or not."""
    last = path.suffix.lower()
    return Path(path.stem).suffix.lower() if last in _COMPRESSED else last


def _is_text(path: Path) -> bool:
    return _suffix(path) in (".txt", ".md")


def _is_saved_dataset(path: Path) -> bool:
    # Others too call a file of theirs dataset_info.json; save_to_disk always writes both.
    return (path / "dataset_dict.json").is_file() or (
        (path / "state.json").is_file() and (path / "dataset_info.json").is_file()
    )


class _Collector:
    """Examples as they come, file by file."""

    def __init__(self, column: str | None, train_on_prompt: bool, skip_bad: bool) -> None:
        self.examples: list[Example] = []
        self.kinds: dict[str, None] = {}  # in order of appearance
        self.n_bytes = 0
        self.skipped: list[str] = []
        self.tables: list[str] = []
        self._column = column
        self._train_on_prompt = train_on_prompt
        self._skip_bad = skip_bad

    def read(self, path: Path) -> None:
        """Add what is in one file."""
        suffix = _suffix(path)
        if path.is_dir():
            self._add_rows(path, "row", _dataset_rows(path, self._column), self._column)
        elif _is_text(path):
            for text in _documents(path):
                self._add("documents", Example(((text, True),)))
        elif suffix in _LINES:
            self._add_rows(path, "line", _jsonl_rows(path), self._column)
        elif suffix == ".json":
            self._add_rows(path, "row", _json_rows(path), self._column)
        elif suffix in (".csv", ".tsv"):
            self._read_table(path)
        elif suffix == ".parquet" and path.suffix.lower() == suffix:
            layout, rows = _parquet_rows(path, self._column)
            n = self._add_rows(path, "row", rows, self._column)
            self.tables.append(f"read {path}: {_rows(n)}; taken: {_names(layout.columns)}")
        else:
            raise InputError(
                f"{path} {f'ends in {path.suffix}' if path.suffix else 'has no extension'}; give a "
                "file that ends in .txt, .md, .jsonl, .json, .csv, .tsv or .parquet, or a directory"
            )

    def _read_table(self, path: Path) -> None:
        table = _table(path, self._column)
        if table is None:  # an empty file
            return
        # Which column it is has been settled there, and is called text from there on.
        n = self._add_rows(path, "line", _csv_rows(path, table), None)
        names = table.names
        if len(names) == 1:
            said = f"one column, {_short(names[0])}, {_rows(n)}"
        else:
            by = _SEPARATORS.get(table.separator, repr(table.separator))
            said = f"columns separated by {by}: {_names(names)}; {_rows(n)}"
            if set(table.layout.columns) != set(names):
                said += f"; taken: {_names(table.layout.columns)}"
        self.tables.append(f"read {path}: {said}")

    def _add_rows(self, path: Path, unit: str, rows: Iterable[Row], column: str | None) -> int:
        """Add rows; how many were good."""
        first: _Shape | None = None
        n = 0
        for number, row in rows:
            try:
                if isinstance(row, _BadRowError):
                    raise row
                if isinstance(row, str) and column is None:
                    row = {"text": row}
                if not isinstance(row, dict):
                    raise _BadRowError(
                        f'{_type_of(row)}, where an object such as {{"text": "…"}} must be'
                    )
                layout = _layout(tuple(row), column)
                shape = _settled(layout, row)
                if first is not None and shape is not first:
                    raise _BadRowError(
                        f"one of the {shape.kind}, but the rows before it are {first.kind}",
                        "give each kind its own file",
                    )
                _check_unread(layout, row)
                fields = _Fields(row, layout.names)
                for found in shape.examples(fields, self._train_on_prompt):
                    self._add(shape.kind, found if isinstance(found, Example) else Example(found))
                first = shape
                n += 1
            except _BadRowError as error:
                message = f"{path}, {unit} {number}: {error}"
                if not self._skip_bad:
                    raise InputError(
                        f"{message}; {error.remedy}, or leave bad rows out (--skip-bad)"
                    ) from None
                self.skipped.append(message)
        return n

    def _add(self, kind: str, example: Example) -> None:
        try:
            n_bytes = example.n_bytes
        except UnicodeEncodeError as error:
            half = ord(error.object[error.start])
            raise _BadRowError(f"\\u{half:04x} without its other half is no character") from None
        if example.pieces:
            self.kinds.setdefault(kind)
            self.examples.append(example)
            self.n_bytes += n_bytes


# Files: each reader gives rows, and holds no more of the file than it must.


def _lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """(line from 1, position of its first byte, its bytes); no byte order mark, LF for CRLF."""
    position = 0
    unpack = _COMPRESSED.get(path.suffix.lower(), io.open)
    with unpack(path, "rb") as file, _refuse_damaged_archive(path):
        for number, line in enumerate(file, start=1):
            begin = position
            position += len(line)
            if number == 1:
                if line.startswith((b"\xff\xfe", b"\xfe\xff")):
                    raise InputError(
                        f"{path}, line 1: UTF-16, not UTF-8; convert it: iconv -f utf-16 -t utf-8"
                    )
                if line.startswith(b"\xef\xbb\xbf"):
                    begin, line = 3, line[3:]
            yield number, begin, line[:-2] + b"\n" if line.endswith(b"\r\n") else line


@contextlib.contextmanager
def _refuse_damaged_archive(path: Path) -> Iterator[None]:
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        if path.suffix.lower() not in _COMPRESSED or getattr(error, "errno", None):
            raise
        raise InputError(
            f"{path} cannot be unpacked ({_first_line(error)}); pack or copy it again"
        ) from None


def _decode(position: int, line: bytes) -> str:
    """The text of a line that begins at a position of its file."""
    zero = line.find(b"\0")
    if zero >= 0:
        raise _BadRowError(
            f"a NUL byte (position {position + zero:,}), so it is not text", "give text in UTF-8"
        )
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise _BadRowError(
            f"not UTF-8 (byte 0x{line[error.start]:02x} at position {position + error.start:,})",
            "convert it, for instance with iconv -f latin1 -t utf-8",
        ) from None


def _text_lines(path: Path) -> Iterator[str]:
    """Lines of a file that is of no use unless all of it is text."""
    for number, position, line in _lines(path):
        try:
            yield _decode(position, line)
        except _BadRowError as error:
            raise InputError(f"{path}, line {number}: {error}; {error.remedy}") from None


def _documents(path: Path) -> Iterator[str]:
    return _split_documents(_text_lines(path))


def _split_documents(parts: Iterable[str]) -> Iterator[str]:
    """The documents of a text that comes in parts, such as lines; the mark lies within one."""
    buffer = io.StringIO()  # a list of lines would take three times the memory
    for part in parts:
        first, *others = part.split(END_OF_DOCUMENT)
        buffer.write(first)
        for other in others:
            if text := buffer.getvalue().strip():
                yield text
            buffer = io.StringIO()
            buffer.write(other)
    if text := buffer.getvalue().strip():
        yield text


def _jsonl_rows(path: Path) -> Iterator[Row]:
    for number, position, line in _lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(_decode(position, line))
        except _BadRowError as error:
            row = error
        except json.JSONDecodeError as error:
            row = _BadRowError(f"not JSON ({error.msg} at character {error.pos + 1:,})")
        except (ValueError, RecursionError) as error:
            row = _BadRowError(f"JSON that cannot be read ({_first_line(error)})")
        yield number, row


def _json_rows(path: Path) -> Iterator[Row]:
    hint = 'give a list of rows, or a file with one row a line that ends in ".jsonl"'
    text = "".join(_text_lines(path)).strip() or "[]"
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        if text[0] == "{" and error.msg == "Extra data":  # one object a line, as the hub has them
            yield from _jsonl_rows(path)
            return
        raise InputError(
            f"{path}, line {error.lineno}: not JSON ({error.msg} at character {error.colno:,}); "
            f"{hint}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is JSON that cannot be read ({_first_line(error)})") from None
    if not isinstance(rows, list):
        raise InputError(f"{path}, line 1: {_type_of(rows)}, where a list must be; {hint}")
    yield from enumerate(rows, start=1)


@dataclass(frozen=True)
class _Table:
    """How a table is written, and what its columns are.

    Attributes:
        separator: of its columns.
        skip_spaces: whether spaces behind separators mean nothing.
        skip_lines: lines before the one that names the columns.
        names: of the columns.
        layout: which of them are read.
    """

    separator: str
    skip_spaces: bool
    skip_lines: int
    names: tuple[str, ...]
    layout: _Layout


def _table(path: Path, column: str | None) -> _Table | None:
    """What a table is: told by its beginning. None of an empty one.

    Raises:
        InputError: its first line does not say which column holds the text.
    """
    lines = list(_first_lines(path))
    skip_lines = 0
    # Spreadsheets read this line, and write it.
    named = re.fullmatch(r'"?sep=([^"\w\s]|\t)"?\n?', lines[0], re.IGNORECASE) if lines else None
    if named:
        skip_lines, lines = 1, lines[1:]
        separator = named[1]
    else:
        separator = _separator(lines, "\t" if _suffix(path) == ".tsv" else ",", column)
    skip_spaces = _all_followed_by_spaces(next(iter(filter(str.strip, lines)), ""), separator)
    number, header = next(_csv_records(path, separator, skip_spaces, skip_lines), (0, []))
    if isinstance(header, _BadRowError):
        raise InputError(f"{path}, line {number}: {header}; {header.remedy}")
    names = tuple(name.strip() for name in header)
    if not names:
        return None
    if any(name and names.count(name) > 1 for name in names):  # spreadsheets leave empty ones
        raise InputError(
            f"{path}, line {number}: two columns have one name ({_names(names)}); rename one"
        )
    if column is None and len(names) == 1:
        other = re.fullmatch(r"\w+([^\w\s])\w+(?:\1\w+)*", names[0])
        if other and _has_known_columns(names[0].split(other[1]), None):
            raise InputError(
                f"{path}, line {number}: the columns {_names(names[0].split(other[1]))} are "
                f"separated by {other[1]!r}; put a line sep={other[1]} before them, or separate "
                "them by commas"
            )
        layout = _Layout(_DOCUMENT, {"text": names[0]})
    elif column is not None and column not in names:
        raise InputError(
            f"{path}, line {number}: there is no column {column!r}; the columns are {_names(names)}"
        )
    else:
        try:
            layout = _layout(names, column)
        except _BadRowError:
            raise InputError(
                f"{path}, line {number}: the columns are {_names(names)}; name the one that holds "
                "the text (--column)"
            ) from None
    return _Table(separator, skip_spaces, skip_lines, names, layout)


def _first_lines(path: Path) -> Iterator[str]:
    """The first lines of a text file."""
    size = 0
    for line in _text_lines(path):
        yield line
        size += len(line)
        if size >= _SAMPLE:
            return


def _separator(lines: Sequence[str], usual: str, column: str | None) -> str:
    """What separates the columns of a table that begins with these lines.

    The first line decides, where it has names that are known under one separator alone; else rows
    that have as many fields as it has; else Python's sniffer. Not that alone: it takes letters of
    prose for separators.
    """
    candidates = [usual, *(s for s in _SEPARATORS if s != usual)]
    records = {s: _records(lines, s) for s in candidates}
    several = [s for s in candidates if records[s] and len(records[s][0]) > 1]
    if not several:  # one column: the text of rows must not be cut
        whole = (s for s in candidates if all(len(fields) == 1 for fields in records[s]))
        return next(whole, usual)
    known = [s for s in several if _has_known_columns([n.strip() for n in records[s][0]], column)]
    several = known or several

    def share(separator: str) -> float:
        header, *rows = records[separator]
        return sum(len(fields) == len(header) for fields in rows) / max(1, len(rows))

    best = max(map(share, several))
    several = [s for s in several if share(s) == best]
    if len(several) > 1:
        with contextlib.suppress(csv.Error):
            return csv.Sniffer().sniff("".join(lines), "".join(several)).delimiter
    return several[0]


def _records(lines: Sequence[str], separator: str) -> list[list[str]]:
    """The records of a table's beginning, the last of which may be cut off and is left out."""
    found: list[list[str]] = []
    with _long_fields(), contextlib.suppress(csv.Error):
        found += (fields for fields in csv.reader(lines, delimiter=separator) if fields)
    return found[:-1] if len(found) > 2 else found


def _has_known_columns(names: Sequence[str], column: str | None) -> bool:
    try:
        _layout(tuple(names), column)
    except _BadRowError:
        return False
    return True


def _all_followed_by_spaces(header: str, separator: str) -> bool:
    """Whether whoever wrote the table puts a space behind each separator, as people do."""
    return 0 < header.count(separator) == header.count(f"{separator} ")


def _csv_rows(path: Path, table: _Table) -> Iterator[Row]:
    """Rows by column; of documents, the column that holds them is called ``text``."""
    records = _csv_records(path, table.separator, table.skip_spaces, table.skip_lines)
    next(records)
    names = table.names
    text = table.layout.names.get("text") if table.layout.shape is _DOCUMENT else None
    for number, fields in records:
        if isinstance(fields, _BadRowError):
            yield number, fields
        elif len(fields) != len(names):
            yield (
                number,
                _BadRowError(
                    f"{len(fields)} field{'s' if len(fields) != 1 else ''}, but the first line "
                    f"names {len(names)}",
                    "put quotation marks around a field that holds the separator",
                ),
            )
        elif text is not None:
            yield number, {"text": fields[names.index(text)]}
        else:
            yield number, dict(zip(names, fields, strict=True))


def _csv_records(
    path: Path, separator: str, skip_spaces: bool, skip_lines: int
) -> Iterator[tuple[int, list[str] | _BadRowError]]:
    """(line where it begins, fields) of every record that is not empty."""
    with _long_fields():
        lines = itertools.islice(_text_lines(path), skip_lines, None)
        # Not strict, a quotation mark that is never closed would swallow the rest of the file.
        reader = csv.reader(lines, delimiter=separator, skipinitialspace=skip_spaces, strict=True)
        while True:
            number = skip_lines + reader.line_num + 1
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield (
                    number,
                    _BadRowError(
                        f"not a record of fields ({error})",
                        "close quotation marks, and write one inside a field twice",
                    ),
                )
            else:
                if fields:
                    yield number, fields


@contextlib.contextmanager
def _long_fields() -> Iterator[None]:
    """Fields as long as a book; csv has one limit for the whole process."""
    limit = csv.field_size_limit(_FIELD_LIMIT)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def _parquet_rows(path: Path, column: str | None) -> tuple[_Layout, Iterator[Row]]:
    try:
        from pyarrow import parquet  # type: ignore[import-untyped]
    except ImportError:
        raise InputError(
            f"{path} is read by pyarrow, which is not installed: pip install pyarrow"
        ) from None
    try:
        file = parquet.ParquetFile(path)
        layout = _layout(tuple(file.schema_arrow.names), column)
    except _BadRowError as error:
        raise InputError(f"{path}: {error}") from None
    except Exception as error:  # what it raises for a damaged file depends on the damage
        raise _damaged_parquet(path, error) from None

    def rows() -> Iterator[Row]:
        try:
            # Pictures or sounds in other columns are not read.
            batches = file.iter_batches(batch_size=1024, columns=list(layout.columns))
            yield from enumerate((row for b in batches for row in b.to_pylist()), start=1)
        except (InputError, GeneratorExit):
            raise
        except Exception as error:
            raise _damaged_parquet(path, error) from None

    return layout, rows()


def _damaged_parquet(path: Path, error: Exception) -> InputError:
    return InputError(
        f"{path} is no parquet file that can be read ({_first_line(error)}); copy it again"
    )


def _dataset_rows(path: Path, column: str | None) -> Iterator[Row]:
    try:
        import datasets  # type: ignore[import-untyped]
    except ImportError:
        raise InputError(
            f"{path} was saved by the datasets library, which is not installed: "
            "pip install datasets"
        ) from None
    try:
        data = datasets.load_from_disk(path)
        if isinstance(data, dict):
            if "train" not in data:
                raise InputError(
                    f"{path} has no split train, but {_names(data)}; give the directory of one"
                )
            data = data["train"]
        # Pictures or sounds in other columns would be decoded too. A format that was saved
        # along would give tensors.
        data = data.select_columns(list(_layout(tuple(data.column_names), column).columns))
        yield from enumerate(data.with_format(None), start=1)
    except InputError:
        raise
    except _BadRowError as error:
        raise InputError(f"{path}: {error}") from None
    except Exception as error:  # what it raises for a damaged file depends on the damage
        raise InputError(
            f"{path} was saved by the datasets library, but cannot be read "
            f"({_first_line(error)}); save it again"
        ) from None


# Rows: what the shapes become.


def _document(row: _Fields, train_on_prompt: bool) -> list[Pieces]:
    text = _string(row, "text")
    if END_OF_DOCUMENT in text:
        return [((part, True),) for part in _split_documents([text])]
    return [((text, True),)] if text.strip() else []


def _completion(row: _Fields, train_on_prompt: bool) -> list[Pieces]:
    prompt, completion = (
        _read_prompt_field(row, "prompt"),
        _read_completion_field(row, "completion"),
    )
    if not prompt:
        return [((completion, True),)]
    # GPT-2's tokens carry the space before a word, so it belongs to the completion.
    if not prompt[-1].isspace() and not completion[0].isspace():
        completion = " " + completion
    return [((prompt, train_on_prompt), (completion, True))]


def _instruction(row: _Fields, train_on_prompt: bool) -> list[Pieces]:
    instruction, output = (
        _read_prompt_field(row, "instruction"),
        _read_completion_field(row, "output"),
    )
    # Without an input the datasets library says null, and CSV an empty field.
    more = _unmarked(_string(row, "input"), row.called("input")) if "input" in row else ""
    template = ALPACA_PROMPT_WITH_INPUT if more.strip() else ALPACA_PROMPT
    prompt = template.format(instruction=instruction, input=more)
    return [((prompt, train_on_prompt), (output, True))]


def _conversation(row: _Fields, train_on_prompt: bool) -> list[Example]:
    return [_render_turns(_messages(row, "messages"), train_on_prompt)]


def _prompt_conversation(row: _Fields, train_on_prompt: bool) -> list[Example]:
    """TRL's: of two lists of messages only the second is in the loss."""
    context, answer = _messages(row, "prompt"), _messages(row, "completion")
    context = [Turn(m.role, m.content, False) for m in context]
    return [_render_turns([*context, *answer], train_on_prompt)]


def _system_conversation(row: _Fields, train_on_prompt: bool) -> list[Example]:
    """OpenOrca's: a question and its answer, under instructions for all of them."""
    messages = [
        Turn("user", _read_prompt_field(row, "prompt"), False),
        Turn("assistant", _read_completion_field(row, "completion"), True),
    ]
    if "system" in row and (system := _read_prompt_field(row, "system")).strip():
        messages.insert(0, Turn("system", system, False))
    return [_render_turns(messages, train_on_prompt)]


def _messages(row: _Fields, name: str) -> list[Turn]:
    messages = row[name]
    if not isinstance(messages, list):
        raise _BadRowError(f'"{row.called(name)}" is {_type_of(messages)}, but it must be a list')
    found = []
    for number, message in enumerate(messages, start=1):
        try:
            found.append(_message(message))
        except _BadRowError as error:
            raise _BadRowError(f"message {number}: {error}") from None
    return found


def _message(message: object) -> Turn:
    """A turn as OpenAI writes it (role, content), or ShareGPT (from, value)."""
    if not isinstance(message, dict):
        raise _BadRowError(f"{_type_of(message)}, where an object must be")
    sharegpt = "role" not in message and "from" in message
    keys = ("from", "value") if sharegpt else ("role", "content")
    for key in keys:
        if key not in message:
            raise _BadRowError(f'no "{key}"')
    fields = _Fields(message, dict(zip(("role", "content"), keys, strict=True)))
    role = _string(fields, "role")
    role = _ROLES_OF_OTHERS.get(role, role)
    if role not in _ROLES:
        raise _BadRowError(f"the role is {_short(role)}, but must be {one_of(_ROLES)}")
    content = fields["content"]
    if isinstance(content, list) and content and all(map(_is_text_part, content)):
        fields = _Fields({"content": "".join(part["text"] for part in content)}, {})
    if role != "assistant":
        return Turn(role, _read_prompt_field(fields, "content"), False)
    # OpenAI's mark for answers that are only context.
    weight = message.get("weight")
    if weight not in (None, 0, 1):
        raise _BadRowError('"weight" must be 0 or 1')
    return Turn(role, _read_completion_field(fields, "content"), weight != 0)


def _is_text_part(part: object) -> bool:
    return (
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
    )


def _render_turns(messages: Sequence[Turn], train_on_prompt: bool) -> Example:
    """A conversation as ``CHAT_TEMPLATE`` renders it."""
    pieces = []
    context = ""
    for number, message in enumerate(messages, start=1):
        context += ("\n\n" if number > 1 else "") + f"### {message.role.capitalize()}:\n"
        if message.in_loss:
            pieces += [(context, train_on_prompt), (message.content.strip(), True)]
            context = ""
        else:
            context += message.content.strip()
    if not pieces:
        raise _BadRowError("no message has the role assistant, so there is nothing to learn")
    if context:
        pieces.append((context, train_on_prompt))
    return Example(tuple(pieces), tuple(messages))


_TEXT = ("text",)
_PROMPT = ("prompt", "question", "query", "input")
_COMPLETION = ("completion", "response", "answer", "output")
_OUTPUT = ("output", "response", "completion", "answer")
_SYSTEM = ("system", "system_prompt")
# Without these a row means something else: earlier turns, what a question is about, whether an
# answer is wanted.
_MEANING = ("history", "context", "passage", "rejected", "label")
_DOCUMENT = _Shape("documents", (_TEXT,), (), (), _document)
_PROMPT_CONVERSATION = _Shape(
    "conversations", (("prompt",), ("completion",)), (), _MEANING, _prompt_conversation
)
# The one that says most comes first: Stanford's own data have a "text" beside the instruction.
_SHAPES = (
    _Shape(
        "conversations", (("messages", "conversations", "conversation"),), (),
        (*_SYSTEM, *_MEANING), _conversation,
    ),
    _Shape(
        "conversations", (_SYSTEM, _PROMPT, _COMPLETION), (),
        ("instruction", *_MEANING), _system_conversation,
    ),
    _Shape(
        "prompts and completions", (("prompt",), ("completion",)), (), _MEANING, _completion
    ),
    _Shape(
        "instructions", (("instruction",), _OUTPUT), (("input", "context"),),
        (*_SYSTEM, *_MEANING), _instruction,
    ),
    _Shape("prompts and completions", (_PROMPT, _COMPLETION), (), _MEANING, _completion),
    _DOCUMENT,
)  # fmt: skip


@functools.lru_cache(maxsize=256)  # rows of a file have the same keys
def _layout(keys: tuple[str, ...], column: str | None) -> _Layout:
    """Which shape rows of these keys have."""
    if column is not None:
        if column in keys:
            return _Layout(_DOCUMENT, {"text": column})
        raise _BadRowError(f"there is no {column!r}; the keys are {_names(keys)}")
    by_name: dict[str, str] = {}
    for key in keys:  # "Prompt" in a spreadsheet; where both are there, the plain one
        if by_name.setdefault(key.lower(), key) != key and key == key.lower():
            by_name[key] = key
    for shape in _SHAPES:
        found = {
            names[0]: next((by_name[name] for name in names if name in by_name), None)
            for names in (*shape.required, *shape.optional)
        }
        if all(found[names[0]] is not None for names in shape.required):
            names = {name: key for name, key in found.items() if key is not None}
            used = names.values()
            unread = (by_name[n] for n in shape.unread if n in by_name and by_name[n] not in used)
            return _Layout(shape, names, tuple(unread))
    raise _BadRowError(f"the keys are {_names(keys)}, but {_SHAPES_IN_WORDS}")


def _settled(layout: _Layout, row: dict[str, Any]) -> _Shape:
    """The shape of one row: prompts and completions may be strings, or lists of messages."""
    if layout.shape.examples is not _completion:
        return layout.shape
    lists = all(isinstance(row[layout.names[name]], list) for name in ("prompt", "completion"))
    return _PROMPT_CONVERSATION if lists else layout.shape


def _check_unread(layout: _Layout, row: dict[str, Any]) -> None:
    """Refuse a row that means something else with what would be left out of it."""
    for key in layout.unread:
        value = row[key]
        if key.lower() == "label":  # of preferences; in a table it may be anything
            if value is False:
                raise _BadRowError(
                    f'"{key}" is false: an answer that is not wanted is not learned',
                    "take such rows out",
                )
        elif value is not None and value not in ([], {}) and str(value).strip():
            raise _BadRowError(
                f'"{key}" would be left out', "put it into the prompt, or take it away"
            )


def _string(row: _Fields, name: str) -> str:
    value = row[name]
    if not isinstance(value, str):
        raise _BadRowError(f'"{row.called(name)}" is {_type_of(value)}, but it must be a string')
    return value


def _read_prompt_field(row: _Fields, name: str) -> str:
    """What is only context: an end of text may stand before it, as some models begin with one."""
    text = _string(row, name)
    while text.startswith(END_OF_DOCUMENT):
        text = text[len(END_OF_DOCUMENT) :]
    return _unmarked(text, row.called(name))


def _read_completion_field(row: _Fields, name: str) -> str:
    """What the loss counts: the end of text that may stand behind it comes in any case."""
    text = value = _string(row, name)
    while (bare := text.rstrip()).endswith(END_OF_DOCUMENT):
        text = bare[: -len(END_OF_DOCUMENT)]
    if not text.strip():
        raise _BadRowError(f'"{row.called(name)}" is empty, so there is nothing to learn')
    return _unmarked(value if text == value else text.rstrip(), row.called(name))


def _unmarked(text: str, name: str) -> str:
    """The text, which must not hold the mark that parts documents."""
    if END_OF_DOCUMENT in text:
        raise _BadRowError(
            f'"{name}" holds {END_OF_DOCUMENT}, which ends a document', "take it out"
        )
    return text


# Words for messages, which stay one line whatever is in the data.


def _type_of(value: object) -> str:
    if value is None:
        return "null"
    kinds = ((str, "a string"), (bool, "true or false"), (dict, "an object"), (list, "a list"))
    return next((name for kind, name in kinds if isinstance(value, kind)), "a number")


def _short(text: str) -> str:
    return repr(text if len(text) <= 30 else text[:29] + "…")


def _names(names: Iterable[str]) -> str:
    shown = [_short(name) for name in names]
    return ", ".join(shown[:12] + ["…"] * (len(shown) > 12)) or "none"


def _rows(n: int) -> str:
    return f"{n:,} row{'s' if n != 1 else ''}"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
