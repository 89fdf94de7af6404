"""Text to token ids and back: GPT-2's byte-level byte-pair encoding.

The merging itself is done by the ``tokenizers`` library. This module keeps GPT-2's promises
around it: every byte string has ids and comes back from them exactly, ``<|endoftext|>`` in a
text is a text like any other unless asked for, and long texts are encoded in pieces.

Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.2.
"""

from __future__ import annotations

import codecs
import functools
import json
import operator
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
        self.eos_token_id: int | None = backend.token_to_id(eos_token or _END_OF_TEXT)
        if self.eos_token_id is not None:
            backend.add_special_tokens([eos_token or _END_OF_TEXT])
        # Control tokens written out in a text stay text; _special() reads them as what they are.
        backend.encode_special_tokens = True
        self._special_backend: tokenizers.Tokenizer | None = None
        added = backend.get_added_tokens_decoder()
        self._added = {id_: token.content.encode() for id_, token in added.items()}
        self.special_token_ids: tuple[int, ...] = tuple(
            sorted(id_ for id_, token in added.items() if token.special)
        )
        self.vocab_size: int = backend.get_vocab_size(with_added_tokens=True)
        self._bytes: dict[int, bytes] = {}
        byte_ids = {b: backend.token_to_id(_CHARACTER_OF[b]) for b in range(256)}
        self._byte_ids = {b: id_ for b, id_ in byte_ids.items() if id_ is not None}
        self._unknown = frozenset(range(256)) - self._byte_ids.keys()
        pre = backend.pre_tokenizer
        self._can_cut = (
            backend.normalizer is None
            and isinstance(pre, pre_tokenizers.ByteLevel)
            and pre.use_regex
            and not pre.add_prefix_space
            and not any(
                token.lstrip or token.rstrip or token.single_word or _CUT.search(token.content)
                for token in added.values()
            )
        )

    def __repr__(self) -> str:
        return f"Tokenizer({self.vocab_size:,} tokens)"

    @classmethod
    def from_directory(cls, path: Path) -> Tokenizer:
        """The tokenizer of a model directory.

        Read from ``tokenizer.json``, or from ``vocab.json`` with ``merges.txt`` (OpenAI's release
        calls them ``encoder.json`` and ``vocab.bpe``). ``tokenizer_config.json`` may name another
        token than ``<|endoftext|>`` as the one that ends a text.

        Raises:
            TokenizerError: neither is there, or the files are not a byte-level BPE.
        """
        path = Path(path)
        settings = _settings(path / "tokenizer_config.json")
        eos = _token(settings, "eos_token")
        file = path / "tokenizer.json"
        if file.is_file():
            try:
                backend = tokenizers.Tokenizer.from_file(str(file))
            except Exception as error:  # the library raises bare Exception
                raise TokenizerError(_damaged(str(file), error)) from None
            if not isinstance(backend.model, models.BPE) or not isinstance(
                backend.decoder, decoders.ByteLevel
            ):
                raise TokenizerError(
                    f"{file}: not a byte-level BPE, the tokenizer of the GPT-2 family; check that "
                    "it belongs to this model"
                )
            return cls(backend, eos)
        for vocab, merges in (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")):
            if (path / vocab).is_file() and (path / merges).is_file():
                backend = _from_files(
                    path / vocab, path / merges, prefix_space=settings.get("add_prefix_space")
                )
                # The order in which GPT2Tokenizer adds those that the vocabulary lacks.
                keys = ("bos_token", "eos_token", "unk_token")
                control = [_token(settings, key) or _END_OF_TEXT for key in keys]
                pad = _token(settings, "pad_token")
                backend.add_special_tokens(list(dict.fromkeys([*control, *([pad] if pad else [])])))
                return cls(backend, eos)
        raise TokenizerError(
            f"{path}: no tokenizer (looked for tokenizer.json, and for vocab.json with "
            "merges.txt); copy the model's own tokenizer files into this directory"
        )

    @classmethod
    def from_files(cls, vocab: Path, merges: Path) -> Tokenizer:
        """A byte-level BPE from ``vocab.json`` and ``merges.txt``, with GPT-2's rules.

        Raises:
            TokenizerError: a file is missing or damaged.
        """
        backend = _from_files(Path(vocab), Path(merges))
        backend.add_special_tokens([_END_OF_TEXT])
        return cls(backend)

    def to_json(self) -> str:
        """The contents of a ``tokenizer.json`` that is read back as this tokenizer."""
        return self._backend.to_str()

    def encode(self, text: str | bytes, allow_special: bool = False) -> list[int]:
        """Token ids of a text, or of bytes that need not be UTF-8.

        Args:
            text: A string, or bytes. Bytes that are not UTF-8 become single-byte tokens.
            allow_special: Read ``<|endoftext|>`` and other control tokens in the text as such.

        Raises:
            InputError: the string holds a lone surrogate, which no text has.
            TokenizerError: the vocabulary has no token for a byte of the text.
        """
        ids: list[int] = []
        for part in self._parts(text):
            ids += self._encode(part, allow_special) if isinstance(part, str) else part
        return ids

    def encode_words(self, text: str | bytes) -> list[list[int]]:
        """The ids of ``encode``, grouped by the words that a text is cut into before merging.

        No merge reaches across two words. A byte that is not UTF-8 is a word of its own.

        Raises:
            InputError: as ``encode``.
            TokenizerError: as ``encode``.
        """
        words: list[list[int]] = []
        for part in self._parts(text):
            if not isinstance(part, str):
                words += [[id_] for id_ in part]
                continue
            encoding = self._backend.encode(part, add_special_tokens=False)
            before = None
            for id_, word in zip(encoding.ids, encoding.word_ids, strict=True):
                if word is None or word != before:
                    words.append([])
                words[-1].append(id_)
                before = word
        return words

    @functools.cached_property
    def merges(self) -> dict[tuple[bytes, bytes], int]:
        """The merge table: pairs of neighbours that become one, and the rank of each, from 0."""
        model = json.loads(self._backend.to_str())["model"]
        pairs = (p.split(" ") if isinstance(p, str) else p for p in model["merges"])
        table: dict[tuple[bytes, bytes], int] = {}
        for rank, (left, right) in enumerate(pairs):
            if _BYTE_OF.keys() >= {*left, *right}:
                table[_to_bytes(left), _to_bytes(right)] = rank
        return table

    def _parts(self, text: str | bytes) -> Iterator[str | list[int]]:
        """Runs of a text that are UTF-8, and ids of the bytes between them."""
        if isinstance(text, str):
            try:
                raw = text.encode()
            except UnicodeEncodeError as error:
                raise InputError(
                    f"the text holds a lone surrogate (U+{ord(text[error.start]):04X}) at "
                    f"character {error.start}, which is half of a character; remove it, or pass "
                    "the text as bytes"
                ) from None
        else:
            raw = bytes(text)
            text = raw.decode("utf-8", errors="surrogateescape")
        if self._unknown and not self._unknown.isdisjoint(raw):
            byte = next(b for b in raw if b in self._unknown)
            raise TokenizerError(f"the tokenizer's vocabulary has no token for byte 0x{byte:02X}")
        end = 0
        for match in _ESCAPED.finditer(text):
            yield text[end : match.start()]
            yield [self._byte_ids[ord(c) - 0xDC00] for c in match.group()]
            end = match.end()
        yield text[end:]

    def _encode(self, text: str, allow_special: bool) -> list[int]:
        if not text:
            return []
        backend = self._special() if allow_special else self._backend
        if not self._can_cut or len(text) < 2 * _CHUNK:
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
        token_id = operator.index(token_id)
        token = self._backend.id_to_token(token_id) if 0 <= token_id < 1 << 32 else None
        if token is None:
            raise TokenizerError(
                f"token id {token_id} is not in the vocabulary (0 to {self.vocab_size - 1})"
            )
        if token_id in self._added:
            known = self._added[token_id]
        else:
            try:
                known = _to_bytes(token)
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


def _to_bytes(token: str) -> bytes:
    """The bytes that a token of the vocabulary stands for."""
    return bytes(_BYTE_OF[character] for character in token)


def _chunks(text: str) -> Iterator[str]:
    start = 0
    while start < len(text):
        cut = _CUT.search(text, start + _CHUNK)
        end = cut.start() if cut else len(text)
        yield text[start:end]
        start = end


def _from_files(vocab: Path, merges: Path, prefix_space: Any = False) -> tokenizers.Tokenizer:
    for file in (vocab, merges):
        if not file.is_file():
            raise TokenizerError(f"{file}: no such file; it is half of the tokenizer")
    try:
        model = models.BPE.from_file(str(vocab), str(merges))
    except Exception as error:  # the library raises bare Exception
        raise TokenizerError(_damaged(f"{vocab} with {merges}", error)) from None
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=bool(prefix_space))
    backend.decoder = decoders.ByteLevel()
    return backend


def _damaged(what: str, error: Exception) -> str:
    cause = " ".join(str(error).split())
    return f"{what}: not readable as a tokenizer ({cause}); fetch or copy it again"


def _settings(path: Path) -> dict[str, Any]:
    """``tokenizer_config.json``, which a tokenizer may do without."""
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise TokenizerError(_damaged(str(path), error)) from None
    return values if isinstance(values, dict) else {}


def _token(settings: dict[str, Any], key: str) -> str | None:
    """A control token of ``tokenizer_config.json``, which writes it as a text or an object."""
    token = settings.get(key)
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) and token else None
