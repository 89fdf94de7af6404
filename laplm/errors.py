"""The error tree. Every message names the cause and the next step.

``LaplmError`` and its children are the reader's to act on (exit code 2); anything else that
escapes is our fault (exit code 1). How a message is worded is here too, since every room has some.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence


class LaplmError(Exception):
    """Base of every error that a person can act on; the text is one plain line."""


class ModelNotFoundError(LaplmError):
    """No model of that name or path is on disk."""


class ModelFormatError(LaplmError):
    """The files are there but are not a model that can be read."""


class TokenizerError(LaplmError):
    """The tokenizer files are missing or unreadable, or an id is out of range."""


class InputError(LaplmError):
    """A prompt, file or setting given by the caller cannot be used.

    A text that begins "NAME is VALUE" speaks of the Python parameter NAME.

    Attributes:
        parameters: other parameters that the text speaks of by their names.
    """

    def __init__(self, message: str, *parameters: str) -> None:
        super().__init__(message)
        self.parameters = parameters

    def with_parameter_names(self, names: Mapping[str, str]) -> str:
        """The text with other names for its parameters: ``{"top_k": "--top-k"}``."""
        text = str(self)
        first = re.match(r"[a-z][a-z_ ]*?(?= is )", text)
        if first:
            name = first[0].replace(" ", "_")
            text = names.get(name, first[0]) + text[first.end() :]
        for name in self.parameters:
            text = re.sub(rf"(?<![\w-]){name}\b", names.get(name, name), text)
        return text


class ContextLengthError(InputError):
    """Prompt and request together need more positions than the model has."""


class WriteError(LaplmError):
    """A file cannot be written; what was there before is kept."""


class CacheError(WriteError):
    """The cache directory cannot be written or read."""


class CheckpointError(WriteError):
    """A training run cannot be written down; what was written before is kept."""


class DownloadError(LaplmError):
    """``laplm pull`` could not fetch the model."""


class MissingExtraError(LaplmError):
    """An optional part is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f'{what} needs the "{extra}" extra: pip install "laplm[{extra}]"')


# What a terminal would obey or show elsewhere instead of showing it: the control characters of
# ASCII and Latin-1, line separators, and marks that turn the direction of writing.
_CONTROLS = (*range(32), *range(127, 160), 0x2028, 0x2029)
_DIRECTIONS = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_ESCAPED = {
    code: f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
    for code in (*_CONTROLS, *_DIRECTIONS)
    if chr(code) not in "\t\n"
}


def visible(text: str) -> str:
    r"""Text as it may be shown in a terminal: what would control it is written out, as ``\x1b``.

    Tabs and the ends of lines stay. Names and texts of a model's files can hold anything.
    """
    return text.translate(_ESCAPED)


def warn(message: str) -> None:
    """Say something beside the result: one line on standard error, unless logging is set up."""
    import logging  # takes longer to import than most runs have anything to say

    logging.getLogger("laplm").warning("%s", visible(message))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about a name that is not known: those that look like it, or nothing."""
    import difflib

    close = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    return f". Did you mean {' or '.join(close)}?" if close else ""


def one_of(words: Sequence[str]) -> str:
    """Words as a sentence lists them: "a, b or c"."""
    return f"{', '.join(words[:-1])} or {words[-1]}"


def format_bytes(n_bytes: int) -> str:
    """A size as a person reads it: "3.4 kB", "36.1 MB", "1.2 GB"."""
    size, unit = (1e9, "GB") if n_bytes >= 1e9 else (1e6, "MB") if n_bytes >= 1e6 else (1e3, "kB")
    return f"{n_bytes / size:,.1f} {unit}"


def shown(value: object, limit: int = 80) -> str:
    """A value out of a file as it stands in a message: as Python writes it, of bounded length."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no whole numbers of more than 4,300 digits
        return "a number of thousands of digits"
    except RecursionError:
        return "a value of many levels"
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def shown_name(name: str, limit: int = 80) -> str:
    """A name out of a file as it stands in a message: plain if it is, else as ``shown``."""
    return name if name.isprintable() and 0 < len(name) <= limit else shown(name, limit)
