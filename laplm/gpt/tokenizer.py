"""Text to token ids and back: GPT-2's byte-level byte-pair encoding.

The merging itself is done by the ``tokenizers`` library. This module keeps GPT-2's promises
around it: every byte string has ids and comes back from them exactly, ``<|endoftext|>`` in a
text is a text like any other unless asked for, and long texts are encoded in pieces.

Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.2.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from laplm.errors import InputError, TokenizerError

_END_OF_TEXT = "<|endoftext|>"


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-in for each byte: characters to byte values.

    Bytes that are visible Latin-1 characters stand for themselves, the others for the
    characters from U+0100 on.
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [b for b in range(256) if b not in visible]
    characters = {chr(b): b for b in visible}
    return characters | {chr(0x100 + i): b for i, b in enumerate(hidden)}


_BYTE_OF = _byte_alphabet()
_CHARACTER_OF = {b: character for character, b in _BYTE_OF.items()}
# Bytes that are not UTF-8, as Python's "surrogateescape" carries them through a string.
_ESCAPED = re.compile("[\udc80-\udcff]+")
# GPT-2's rule never joins a space or newline to what stands before it, so a text may be cut
# here without changing its ids.
_CUT = re.compile(r"(?<=\S)[ \n]")
_CHUNK = 1 << 14
_CHUNKS_AT_ONCE = 64


class Tokenizer:
    """A byte-level BPE tokenizer.

    Attributes:
        vocab_size: Number of tokens, special ones included.
        eos_token_id: The id that ends a text, or None.
        special_token_ids: Ids of control tokens such as ``<|endoftext|>``.
    """

    def __init__(self, backend: tokenizers.Tokenizer, eos_token: str | None = None) -> None:
        self._backend = backend
        backend.no_truncation()
        backend.no_padding()
        # Control tokens written out in a text stay text; _special reads them as what they are.
        backend.encode_special_tokens = True
        self._special_backend: tokenizers.Tokenizer | None = None
        added = backend.get_added_tokens_decoder()
        self._added = {id_: token.content.encode() for id_, token in added.items()}
        self.special_token_ids: tuple[int, ...] = tuple(
            sorted(id_ for id_, token in added.items() if token.special)
        )
        self.vocab_size: int = backend.get_vocab_size(with_added_tokens=True)
        self.eos_token_id: int | None = backend.token_to_id(eos_token or _END_OF_TEXT)
        self._bytes: dict[int, bytes] = {}
        self._byte_ids = [backend.token_to_id(_CHARACTER_OF[b]) for b in range(256)]
        self._unknown = {b for b, id_ in enumerate(self._byte_ids) if id_ is None}
        pre = backend.pre_tokenizer
        self._can_cut = (
            backend.normalizer is None
            and type(pre) is pre_tokenizers.ByteLevel
            and pre.use_regex
            and not pre.add_prefix_space
            and all(token.special for token in added.values())
        )

    @classmethod
    def from_directory(cls, path: Path) -> Tokenizer:
        """The tokenizer of a model directory: ``tokenizer.json``, or ``vocab.json`` + ``merges.txt``.

        Raises:
            TokenizerError: neither is there, or the files are not a byte-level BPE.
        """
        path = Path(path)
        eos = _eos_token(path)
        if (path / "tokenizer.json").is_file():
            try:
                backend = tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))
            except Exception as error:
                raise TokenizerError(
                    f"{path / 'tokenizer.json'}: not readable ({error}); fetch or copy it again"
                ) from None
            if not isinstance(backend.model, models.BPE) or not _is_byte_level(backend):
                raise TokenizerError(
                    f"{path / 'tokenizer.json'}: not a byte-level BPE, which GPT-2 models use"
                )
            return cls(backend, eos)
        if (path / "vocab.json").is_file() and (path / "merges.txt").is_file():
            return cls.from_files(path / "vocab.json", path / "merges.txt", eos)
        raise TokenizerError(
            f"{path}: no tokenizer (looked for tokenizer.json, and for vocab.json with merges.txt); "
            "copy the tokenizer files of the model into this directory"
        )

    @classmethod
    def from_files(cls, vocab: Path, merges: Path, eos_token: str | None = None) -> Tokenizer:
        """A byte-level BPE from ``vocab.json`` and ``merges.txt``, with GPT-2's rules.

        Raises:
            TokenizerError: a file is missing or damaged.
        """
        try:
            model = models.BPE.from_file(str(vocab), str(merges))
        except Exception as error:
            raise TokenizerError(f"{vocab} with {merges}: not readable ({error})") from None
        backend = tokenizers.Tokenizer(model)
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        backend.add_special_tokens([eos_token or _END_OF_TEXT])
        return cls(backend, eos_token)

    def encode(self, text: str | bytes, allow_special: bool = False) -> list[int]:
        """Token ids of a text, or of bytes that need not be UTF-8.

        Args:
            text: A string, or bytes. Bytes that are not UTF-8 become single-byte tokens.
            allow_special: Read ``<|endoftext|>`` and other control tokens in the text as such.

        Raises:
            InputError: the string holds a lone surrogate, which no text has.
            TokenizerError: the vocabulary has no token for a byte of the text.
        """
        if isinstance(text, str):
            try:
                raw = text.encode()
            except UnicodeEncodeError as error:
                raise InputError(
                    f"the text holds a lone surrogate (U+{ord(text[error.start]):04X}) at character "
                    f"{error.start}, which is half of a character; pass it as bytes or remove it"
                ) from None
        else:
            raw = bytes(text)
            text = raw.decode("utf-8", errors="surrogateescape")
        if self._unknown and not self._unknown.isdisjoint(raw):
            byte = next(b for b in raw if b in self._unknown)
            raise TokenizerError(f"the tokenizer's vocabulary has no token for byte 0x{byte:02X}")
        ids: list[int] = []
        end = 0
        for match in _ESCAPED.finditer(text):
            ids += self._encode(text[end : match.start()], allow_special)
            ids += [self._byte_ids[ord(c) - 0xDC00] for c in match.group()]
            end = match.end()
        return ids + self._encode(text[end:], allow_special)

    def _encode(self, text: str, allow_special: bool) -> list[int]:
        if not text:
            return []
        backend = self._special() if allow_special else self._backend
        if allow_special or not self._can_cut or len(text) < 2 * _CHUNK:
            ids: list[int] = backend.encode(text, add_special_tokens=False).ids
            return ids
        ids = []
        chunks = list(_chunks(text))
        for i in range(0, len(chunks), _CHUNKS_AT_ONCE):
            batch = chunks[i : i + _CHUNKS_AT_ONCE]
            for encoding in backend.encode_batch_fast(batch, add_special_tokens=False):
                ids += encoding.ids
        return ids

    def _special(self) -> tokenizers.Tokenizer:
        if self._special_backend is None:
            self._special_backend = tokenizers.Tokenizer.from_str(self._backend.to_str())
            self._special_backend.encode_special_tokens = False
        return self._special_backend

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that one token stands for.

        Raises:
            TokenizerError: the vocabulary has no such id.
        """
        known = self._bytes.get(token_id)
        if known is not None:
            return known
        token_id = int(token_id)
        token = self._backend.id_to_token(token_id) if 0 <= token_id < 1 << 32 else None
        if token is None:
            raise TokenizerError(
                f"token id {token_id} is not in the vocabulary (0 to {self.vocab_size - 1})"
            )
        if token_id in self._added:
            known = self._added[token_id]
        else:
            try:
                known = bytes(_BYTE_OF[character] for character in token)
            except KeyError:
                known = token.encode()
        self._bytes[token_id] = known
        return known

    def token_text(self, token_id: int) -> str:
        """One token as text; a part of a character shows as the replacement character."""
        return self.token_bytes(token_id).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes that token ids stand for: the exact inverse of ``encode``.

        Raises:
            TokenizerError: an id is not in the vocabulary.
        """
        return b"".join(map(self.token_bytes, ids))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids; bytes that are not UTF-8 become the replacement character.

        Raises:
            TokenizerError: an id is not in the vocabulary.
        """
        return self.decode_bytes(ids).decode("utf-8", errors="replace")


class StreamDecoder:
    """Text as tokens arrive, in whole characters: a token may end in the middle of one."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token_id: int) -> str:
        """The text that is complete with this token, perhaps none.

        Raises:
            TokenizerError: the id is not in the vocabulary.
        """
        return self._decoder.decode(self._tokenizer.token_bytes(token_id))

    def flush(self) -> str:
        """What is left at the end: the replacement character for an unfinished character."""
        return self._decoder.decode(b"", final=True)


def _chunks(text: str) -> Iterator[str]:
    start = 0
    while start < len(text):
        cut = _CUT.search(text, start + _CHUNK)
        end = cut.start() if cut else len(text)
        yield text[start:end]
        start = end


def _is_byte_level(backend: tokenizers.Tokenizer) -> bool:
    return isinstance(backend.decoder, decoders.ByteLevel)


def _eos_token(directory: Path) -> str | None:
    try:
        values: Any = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    token = values.get("eos_token") if isinstance(values, dict) else None
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None
