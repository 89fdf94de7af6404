"""The error tree. Every message names the cause and the next step.

``LaplmError`` and its children are the reader's to act on (exit code 2); anything else that
escapes is our fault (exit code 1).
"""

from __future__ import annotations


class LaplmError(Exception):
    """Base of every error that a person can act on; the text is one plain line."""


class ModelNotFoundError(LaplmError):
    """No model of that name or path is on disk."""


class ModelFormatError(LaplmError):
    """The files are there but are not a GPT-2 model that can be read."""


class TokenizerError(LaplmError):
    """The tokenizer files are missing or unreadable, or an id is out of range."""


class InputError(LaplmError):
    """A prompt, file or setting given by the caller cannot be used."""


class ContextLengthError(InputError):
    """Prompt and request together need more positions than the model has."""


class CacheError(LaplmError):
    """The cache directory cannot be written or read."""


class CheckpointError(LaplmError):
    """A training run cannot be written down; what was written before is kept."""


class DownloadError(LaplmError):
    """``laplm pull`` could not fetch the model."""


class MissingExtraError(LaplmError):
    """An optional part is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f'{what} needs the "{extra}" extra: pip install "laplm[{extra}]"')
