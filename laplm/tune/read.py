"""Files that people have, as examples to tune a language model on.

A row (a line of .jsonl, a record of .csv, …) has one of four shapes, told by its keys:

    {"text": …}
    {"prompt": …, "completion": …}
    {"messages": [{"role": …, "content": …}, …]}
    {"instruction": …, "input": … (may be left out), "output": …}
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laplm.errors import InputError

Pieces = tuple[tuple[str, bool], ...]

END_OF_DOCUMENT = "<|endoftext|>"

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
_IN_DIRECTORIES = (".txt", ".md", ".jsonl", ".csv")
_FIELD_LIMIT = 2**31 - 1  # the largest that csv takes where a C long has 32 bits
_SHAPES_IN_WORDS = (
    'a row has "text", or "prompt" and "completion", or "messages", or "instruction" and "output"'
)


@dataclass(frozen=True, slots=True)
class Example:
    """One document.

    Attributes:
        pieces: (text, learned) in order; what is not learned is read only as context (a prompt).
    """

    pieces: Pieces

    @property
    def text(self) -> str:
        """All pieces, joined."""
        return "".join(text for text, _ in self.pieces)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What was found.

    Attributes:
        examples: in the order of files and rows; each has at least one learned piece.
        kind: what they are, for people: documents, prompts and completions, conversations or
            instructions; of several kinds in a directory, all, parted by commas.
        files: what was read, in order; a directory of the ``datasets`` library is one.
        n_bytes: UTF-8 bytes of all texts.
        skipped: for each bad row that was left out, a line with file, place and cause.
        chat_template: Jinja text for ``tokenizer_config.json`` where there are conversations.
    """

    examples: tuple[Example, ...]
    kind: str
    files: tuple[Path, ...]
    n_bytes: int
    skipped: tuple[str, ...]
    chat_template: str | None


class _BadRowError(Exception):
    """One row cannot be used; the place is not known here."""

    def __init__(self, cause: str, remedy: str = "correct it") -> None:
        super().__init__(cause)
        self.remedy = remedy


# The 1-based number of a line or row, and what is there.
Row = tuple[int, object]


@dataclass(frozen=True)
class _Shape:
    kind: str
    required: tuple[str, ...]
    optional: tuple[str, ...]
    pieces: Callable[[dict[str, Any], bool], Pieces]


def read_examples(
    path: Path, *, column: str | None = None, train_on_prompt: bool = False, skip_bad: bool = False
) -> Reading:
    """Examples from a file, a directory of files, or one that ``datasets`` has saved.

    - ``.txt``, ``.md``: documents parted by ``<|endoftext|>``, on a line of its own or not, or one.
    - ``.jsonl``: a row on each line; ``.json``: a list of rows.
    - ``.csv``, ``.tsv``: the first line names the columns, which are the keys of the rows.
    - a directory that ``Dataset.save_to_disk`` wrote: its rows, of a dict those of ``train``.
    - another directory: every .txt, .md, .jsonl and .csv below it in order of path; hidden ones
      are left out.

    Documents without text are dropped. No end-of-text mark is added to any text.

    Args:
        path: file or directory.
        column: the column or key that holds the text, where that is not ``text``.
        train_on_prompt: learn prompts, instructions and all turns too, and not the answers alone.
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
        raise InputError(f"{error.filename or path} cannot be read ({error.strerror})") from None
    if not collector.examples:
        if collector.skipped:
            raise InputError(
                f"{path} has no row that can be used; the first of {len(collector.skipped):,} that "
                f"cannot: {collector.skipped[0]}"
            )
        raise InputError(f"{path} has no text in it; give one with at least one document")
    kinds = list(collector.kinds)
    return Reading(
        examples=tuple(collector.examples),
        kind=", ".join(kinds),
        files=tuple(files),
        n_bytes=collector.n_bytes,
        skipped=tuple(collector.skipped),
        chat_template=CHAT_TEMPLATE if "conversations" in kinds else None,
    )


def _files(path: Path) -> list[Path]:
    """What to read one after the other."""
    if not path.exists():
        raise InputError(f"{path} is not there; give a file or a directory of texts")
    if not path.is_dir() or _is_saved_dataset(path):
        return [path]
    files = sorted(
        file
        for file in path.rglob("*")
        if file.suffix.lower() in _IN_DIRECTORIES
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )
    if not files:
        raise InputError(
            f"{path} has no file in it that ends in .txt, .md, .jsonl or .csv; give a directory "
            "with such files, or a file of another kind by its own name"
        )
    return files


def _is_text(path: Path) -> bool:
    return path.suffix.lower() in (".txt", ".md")


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
        self._column = column
        self._train_on_prompt = train_on_prompt
        self._skip_bad = skip_bad

    def read(self, path: Path) -> None:
        """Add what is in one file."""
        suffix = path.suffix.lower()
        if path.is_dir():
            self._add_rows(path, "row", _dataset_rows(path, self._column), self._column)
        elif _is_text(path):
            for text in _documents(path):
                self._add("documents", ((text, True),))
        elif suffix == ".jsonl":
            self._add_rows(path, "line", _jsonl_rows(path), self._column)
        elif suffix == ".json":
            self._add_rows(path, "row", _json_rows(path), self._column)
        elif suffix in (".csv", ".tsv"):
            delimiter = "," if suffix == ".csv" else "\t"
            # Which column it is has been settled there, and is called text from there on.
            self._add_rows(path, "line", _csv_rows(path, delimiter, self._column), None)
        else:
            raise InputError(
                f"{path} {f'ends in {path.suffix}' if path.suffix else 'has no extension'}; give a "
                "file that ends in .txt, .md, .jsonl, .json, .csv or .tsv, or a directory"
            )

    def _add_rows(self, path: Path, unit: str, rows: Iterable[Row], column: str | None) -> None:
        first: _Shape | None = None
        for number, row in rows:
            try:
                if isinstance(row, _BadRowError):
                    raise row
                if not isinstance(row, dict):
                    raise _BadRowError(
                        f'{_type_of(row)}, where an object such as {{"text": "…"}} must be'
                    )
                shape = _shape_of(row, column)
                if first is not None and shape is not first:
                    raise _BadRowError(
                        f"one of the {shape.kind}, but the rows before it are {first.kind}",
                        "give each kind its own file",
                    )
                named = row if column is None else {"text": _string(row, column)}
                self._add(shape.kind, shape.pieces(named, self._train_on_prompt))
                first = shape
            except _BadRowError as error:
                message = f"{path}, {unit} {number}: {error}"
                if not self._skip_bad:
                    raise InputError(
                        f"{message}; {error.remedy}, or leave bad rows out (--skip-bad)"
                    ) from None
                self.skipped.append(message)

    def _add(self, kind: str, pieces: Pieces) -> None:
        try:
            n_bytes = sum(len(text) if text.isascii() else len(text.encode()) for text, _ in pieces)
        except UnicodeEncodeError as error:
            half = ord(error.object[error.start])
            raise _BadRowError(f"\\u{half:04x} without its other half is no character") from None
        if pieces:
            self.kinds.setdefault(kind)
            self.examples.append(Example(pieces))
            self.n_bytes += n_bytes


# Files: each reader gives rows, and holds no more of the file than it must.


def _lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """(line from 1, position of its first byte, its bytes); no byte order mark, LF for CRLF."""
    position = 0
    with path.open("rb") as file:
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
    buffer = io.StringIO()  # a list of lines would take three times the memory
    for line in _text_lines(path):
        first, *others = line.split(END_OF_DOCUMENT)
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
    try:
        rows = json.loads("".join(_text_lines(path)).strip() or "[]")
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}, line {error.lineno}: not JSON ({error.msg} at character {error.colno:,}); "
            f"{hint}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is JSON that cannot be read ({_first_line(error)})") from None
    if not isinstance(rows, list):
        raise InputError(f"{path}, line 1: {_type_of(rows)}, where a list must be; {hint}")
    yield from enumerate(rows, start=1)


def _csv_rows(path: Path, delimiter: str, column: str | None) -> Iterator[Row]:
    """Rows by column; a column that was asked for, or is the only one, is called ``text``."""
    records = _csv_records(path, delimiter)
    number, header = next(records, (0, []))
    if isinstance(header, _BadRowError):
        raise InputError(f"{path}, line {number}: {header}; {header.remedy}")
    names = [name.strip() for name in header]
    if any(name and names.count(name) > 1 for name in names):  # spreadsheets leave empty ones
        raise InputError(
            f"{path}, line {number}: two columns have one name ({_names(names)}); rename one"
        )
    if column is None and len(names) == 1:
        column = names[0]
    elif column is None and names:
        try:
            _shape_of(names, None)
        except _BadRowError:
            raise InputError(
                f"{path}, line {number}: the columns are {_names(names)}; name the one that holds "
                "the text (--column)"
            ) from None
    elif names and column not in names:
        raise InputError(
            f"{path}, line {number}: there is no column {column!r}; the columns are {_names(names)}"
        )
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
        elif column is not None:
            yield number, {"text": fields[names.index(column)]}
        else:
            yield number, dict(zip(names, fields, strict=True))


def _csv_records(path: Path, delimiter: str) -> Iterator[tuple[int, list[str] | _BadRowError]]:
    """(line where it begins, fields) of every record that is not empty."""
    limit = csv.field_size_limit(_FIELD_LIMIT)
    try:
        # Not strict, a quotation mark that is never closed would swallow the rest of the file.
        reader = csv.reader(_text_lines(path), delimiter=delimiter, strict=True)
        while True:
            number = reader.line_num + 1
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
    finally:
        csv.field_size_limit(limit)


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
        shape = _shape_of(data.column_names, column)
        wanted = (*shape.required, *shape.optional) if column is None else (column,)
        # Pictures or sounds in other columns would be decoded too. A format that was saved
        # along would give tensors.
        data = data.select_columns([n for n in data.column_names if n in wanted])
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


def _document(row: dict[str, Any], train_on_prompt: bool) -> Pieces:
    text = _string(row, "text")
    return ((text, True),) if text.strip() else ()


def _completion(row: dict[str, Any], train_on_prompt: bool) -> Pieces:
    prompt, completion = _string(row, "prompt"), _filled(row, "completion")
    if not prompt:
        return ((completion, True),)
    # GPT-2's tokens carry the space before a word, so it belongs to what is learned.
    if not prompt[-1].isspace() and not completion[0].isspace():
        completion = " " + completion
    return (prompt, train_on_prompt), (completion, True)


def _conversation(row: dict[str, Any], train_on_prompt: bool) -> Pieces:
    messages = row["messages"]
    if not isinstance(messages, list):
        raise _BadRowError(f'"messages" is {_type_of(messages)}, but it must be a list')
    pieces = []
    context = ""
    for number, message in enumerate(messages, start=1):
        try:
            if not isinstance(message, dict):
                raise _BadRowError(f"{_type_of(message)}, where an object must be")
            for key in ("role", "content"):
                if key not in message:
                    raise _BadRowError(f'no "{key}"')
            role = _string(message, "role")
            if role not in _ROLES:
                raise _BadRowError(f"the role is {_short(role)}, but must be {_either(_ROLES)}")
            learned = role == "assistant"
            content = _filled(message, "content") if learned else _string(message, "content")
        except _BadRowError as error:
            raise _BadRowError(f"message {number}: {error}") from None
        context += ("\n\n" if number > 1 else "") + f"### {role.capitalize()}:\n"
        if learned:
            pieces += [(context, train_on_prompt), (content.strip(), True)]
            context = ""
        else:
            context += content.strip()
    if not pieces:
        raise _BadRowError("no message has the role assistant, so there is nothing to learn")
    if context:
        pieces.append((context, train_on_prompt))
    return tuple(pieces)


def _instruction(row: dict[str, Any], train_on_prompt: bool) -> Pieces:
    instruction, output = _string(row, "instruction"), _filled(row, "output")
    # Without an input the datasets library says null, and CSV an empty field.
    more = "" if row.get("input") is None else _string(row, "input")
    template = ALPACA_PROMPT_WITH_INPUT if more.strip() else ALPACA_PROMPT
    prompt = template.format(instruction=instruction, input=more)
    return (prompt, train_on_prompt), (output, True)


_DOCUMENT = _Shape("documents", ("text",), (), _document)
# The one that says most comes first: Stanford's own data have a "text" beside the instruction.
_SHAPES = (
    _Shape("conversations", ("messages",), (), _conversation),
    _Shape("prompts and completions", ("prompt", "completion"), (), _completion),
    _Shape("instructions", ("instruction", "output"), ("input",), _instruction),
    _DOCUMENT,
)


def _shape_of(keys: Iterable[str], column: str | None) -> _Shape:
    keys = list(keys)
    if column is not None:
        if column in keys:
            return _DOCUMENT
        raise _BadRowError(f"there is no {column!r}; the keys are {_names(keys)}")
    for shape in _SHAPES:
        if all(key in keys for key in shape.required):
            return shape
    raise _BadRowError(f"the keys are {_names(keys)}, but {_SHAPES_IN_WORDS}")


def _string(row: dict[str, Any], key: str) -> str:
    value = row[key]
    if not isinstance(value, str):
        raise _BadRowError(f'"{key}" is {_type_of(value)}, but it must be a string')
    return value


def _filled(row: dict[str, Any], key: str) -> str:
    value = _string(row, key)
    if not value.strip():
        raise _BadRowError(f'"{key}" is empty, so there is nothing to learn')
    return value


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


def _either(words: tuple[str, ...]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
