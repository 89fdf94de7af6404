"""Text to token ids and back: byte-pair encoding, of bytes or with bytes to fall back on.

The merging itself is done by the ``tokenizers`` library. This module keeps GPT-2's promises
around it: every byte string has ids and comes back from them exactly, ``<|endoftext|>`` in a
text is a text like any other unless asked for, and long texts are encoded in pieces. Tokens of
SentencePiece are pieces of text, in which a space is written as "▁" (U+2581).

Sources: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.2;
Kudo and Richardson 2018, "SentencePiece".
"""

from __future__ import annotations

import codecs
import functools
import json
import operator
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, pre_tokenizers

from laplm.errors import InputError, TokenizerError
from laplm.model.config import ModelConfig
from laplm.model.tokenizer_file import (
    END_OF_TEXT,
    byte_token,
    from_vocab_and_merges,
    guarded,
    is_panic,
    is_sentencepiece,
    is_usual,
    read_tokenizer_files,
)


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
SPACE = "▁"
"""SentencePiece's letter for a space."""
_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
# Bytes that are not UTF-8, as Python's "surrogateescape" carries them through a string.
_ESCAPED = re.compile("[\udc80-\udcff]+")
# GPT-2's rule never joins a space or newline to what stands before it, so a text may be cut
# here without changing its ids.
_CUT = re.compile(r"(?<=\S)[ \n]")
_CHUNK = 1 << 14
_CHUNKS_AT_ONCE = 64
# How long patterns that come with a model may take; sound ones read a million characters a second.
_PATTERN_SECONDS = 5
_PATTERN_CHARACTERS_A_SECOND = 50_000


class Tokenizer:
    """A byte-level BPE tokenizer, or SentencePiece's BPE with byte fallback.

    Attributes:
        vocab_size: Number of tokens, special ones included.
        special_tokens: Its special tokens by name, such as ``eos_token``.
        special_token_ids: Ids of control tokens such as ``<|endoftext|>``.
        added_tokens: Ids of all tokens that are found in a text before anything is merged,
            control tokens or not, by their content.
        prefix_ids: What the post-processor puts before every text: a BOS, in some models.
        suffix_ids: What it puts behind.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        special_tokens: Mapping[str, str] | None = None,
        name: str = "the tokenizer",
    ) -> None:
        """See ``from_directory``.

        Raises:
            TokenizerError: it cannot encode a text.
        """
        self._backend = backend
        self._name = name
        backend.no_truncation()
        backend.no_padding()
        if special_tokens is None:
            special_tokens = {"eos_token": END_OF_TEXT}
        self.special_tokens: Mapping[str, str] = dict(special_tokens)
        # Control tokens written out in a text stay text; _special() reads them as what they are.
        backend.encode_special_tokens = True
        self._special_backend: tokenizers.Tokenizer | None = None
        self._without_added_tokens: dict[bool, tokenizers.Tokenizer] = {}
        added = backend.get_added_tokens_decoder()
        self.added_tokens: Mapping[str, int] = {
            token.content: id_ for id_, token in sorted(added.items())
        }
        self.special_token_ids: tuple[int, ...] = tuple(
            sorted(id_ for id_, token in added.items() if token.special)
        )
        self.vocab_size: int = backend.get_vocab_size(with_added_tokens=True)
        self._bytes: dict[int, bytes] = {}
        self._is_sentencepiece = is_sentencepiece(backend)
        self._added = {
            id_: token.content.encode()
            for id_, token in added.items()
            if token.special or not self._is_sentencepiece  # Gemma has runs of spaces among others
        }
        name_of = byte_token if self._is_sentencepiece else _CHARACTER_OF.__getitem__
        byte_ids = {b: backend.token_to_id(name_of(b)) for b in range(256)}
        self._byte_ids = {b: id_ for b, id_ in byte_ids.items() if id_ is not None}
        self._unknown = frozenset(range(256)) - self._byte_ids.keys()
        self._space_in_front = _space_in_front(backend) if self._is_sentencepiece else "never"
        self._within: tokenizers.Tokenizer | None = None
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
        self._is_usual = is_usual(backend)
        self._given_up = False
        self.prefix_ids, self.suffix_ids = self._post_processor()

    @property
    def eos_token_id(self) -> int | None:
        """The id that ends a text, or None."""
        return self._id_of("eos_token")

    @property
    def bos_token_id(self) -> int | None:
        """The id that begins a text, or None."""
        return self._id_of("bos_token")

    @property
    def pad_token_id(self) -> int | None:
        """The id that fills up batches, or None."""
        return self._id_of("pad_token")

    def _id_of(self, name: str) -> int | None:
        token = self.special_tokens.get(name)
        return None if token is None else self._backend.token_to_id(token)

    def _post_processor(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What it puts before and behind every text."""
        if self._backend.post_processor is None:
            return (), ()
        text = next((chr(b) for b in b"a1." if b in self._byte_ids), None)
        if text is None:
            return (), ()
        plain = guarded(self._name, lambda: self._backend.encode(text, add_special_tokens=False))
        whole = guarded(self._name, lambda: self._backend.encode(text, add_special_tokens=True))
        for n in range(len(whole.ids)):
            if whole.ids[n : n + len(plain.ids)] == plain.ids and not any(
                whole.special_tokens_mask[n : n + len(plain.ids)]
            ):
                return tuple(whole.ids[:n]), tuple(whole.ids[n + len(plain.ids) :])
        raise TokenizerError(
            f"{self._name}: its post-processor does not keep the text; fetch or copy it again"
        )

    def __repr__(self) -> str:
        return f"Tokenizer({self.vocab_size:,} tokens)"

    @classmethod
    def from_directory(cls, path: Path) -> Tokenizer:
        """The tokenizer of a model directory, or of a GGUF file.

        Read from ``tokenizer.json``, or from ``vocab.json`` with ``merges.txt`` (OpenAI's release
        calls them ``encoder.json`` and ``vocab.bpe``). Added and special tokens of
        ``tokenizer_config.json``, ``special_tokens_map.json`` and ``added_tokens.json`` are those
        that transformers finds there.

        Raises:
            TokenizerError: neither is there, or the files are of another kind.
        """
        path = Path(path)
        files = read_tokenizer_files(path)
        return cls(files.backend, files.special_tokens, str(path))

    @classmethod
    def from_files(cls, vocab: Path, merges: Path) -> Tokenizer:
        """A byte-level BPE from ``vocab.json`` and ``merges.txt``, with GPT-2's rules.

        Raises:
            TokenizerError: a file is missing or damaged.
        """
        backend = from_vocab_and_merges(Path(vocab), Path(merges))
        backend.add_special_tokens([END_OF_TEXT])
        return cls(backend, name=str(vocab))

    def to_json(self) -> str:
        """The contents of a ``tokenizer.json`` that is read back as this tokenizer."""
        return self._backend.to_str()

    def encode(
        self, text: str | bytes, allow_special: bool = False, within: bool = False
    ) -> list[int]:
        """Token ids of a text, or of bytes that need not be UTF-8.

        Args:
            text: A string, or bytes. Bytes that are not UTF-8 become single-byte tokens.
            allow_special: Read ``<|endoftext|>`` and other control tokens in the text as such.
            within: The text goes on with one that is encoded apart: SentencePiece puts no space
                before it.

        Raises:
            InputError: the string holds a lone surrogate, which no text has.
            TokenizerError: the vocabulary has no token for a byte of the text.
        """
        ids: list[int] = []
        for part in self._parts(text):
            if isinstance(part, str):
                ids += self._encode(part, allow_special, within)
            else:
                ids += part
            within = within or bool(ids)
        return ids

    def build_inputs_with_special_tokens(self, ids: list[int]) -> list[int]:
        """The ids of a text with what the post-processor puts around every text: often a BOS.

        They are those that transformers' tokenizers give for the text, and none for most models.
        """
        return [*self.prefix_ids, *ids, *self.suffix_ids]

    def encode_without_added_tokens(self, text: str, within: bool = False) -> list[int]:
        """Token ids of a text in which not even added tokens that are no control tokens are read.

        Those that are white space alone are (runs of line ends, in Gemma's vocabulary): they say
        nothing, and a model knows them from everywhere.

        Raises:
            TokenizerError: as ``encode``.
        """
        return [
            i
            for part in self._parts(text)
            for i in (self._plain(part, within) if isinstance(part, str) else part)
        ]

    def _plain(self, text: str, within: bool) -> list[int]:
        within = within and self._space_in_front == "first"
        if within not in self._without_added_tokens:
            copy = self._copy(
                lambda token: not token.special and not token.content.strip(f" \t\r\n{SPACE}"),
                within,
            )
            self._without_added_tokens[within] = copy
        backend = self._without_added_tokens[within]
        return self._encode_batch(backend, [text])[0].ids if text else []

    def _copy(
        self, keep: Callable[[AddedToken], bool] = lambda token: True, within: bool = False
    ) -> tokenizers.Tokenizer:
        """The same tokenizer, with some of its added tokens.

        It shares the vocabulary and the merges, which are large: to make them again takes seconds.
        """
        own = self._backend
        copy = tokenizers.Tokenizer(own.model)
        for part in ("normalizer", "pre_tokenizer", "decoder"):
            if getattr(own, part) is not None:
                setattr(copy, part, getattr(own, part))
        pre = own.pre_tokenizer
        if within and isinstance(pre, pre_tokenizers.Metaspace):
            copy.pre_tokenizer = pre_tokenizers.Metaspace(pre.replacement, "never", pre.split)
        added = own.get_added_tokens_decoder()
        tokens = [token for _, token in sorted(added.items()) if keep(token)]
        guarded(self._name, lambda: copy.add_tokens(tokens))
        return copy

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
            (encoding,) = self._encode_batch(self._backend, [part])
            before = None
            for id_, word in zip(encoding.ids, encoding.word_ids, strict=True):
                if word is None or word != before:
                    words.append([])
                words[-1].append(id_)
                before = word
        return words

    @functools.cached_property
    def merges(self) -> dict[tuple[bytes, bytes], int]:
        """The merge table: pairs of neighbours that become one, and the rank of each, from 0.

        Raises:
            InputError: these are SentencePiece's, which begin with characters and not with bytes.
        """
        if self._is_sentencepiece:
            raise InputError(
                "the merges of a SentencePiece tokenizer are not shown, since they begin with "
                "characters and not with bytes; leave them out"
            )
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

    def _encode(self, text: str, allow_special: bool, within: bool) -> list[int]:
        if not text:
            return []
        backend = self._special() if allow_special else self._backend
        if within and self._space_in_front == "first":
            backend = self._continuing(allow_special)
        if not self._can_cut or len(text) < 2 * _CHUNK:
            (encoding,) = self._encode_batch(backend, [text])
            whole: list[int] = encoding.ids
            return whole
        ids = []
        chunks = list(_chunks(text))
        for i in range(0, len(chunks), _CHUNKS_AT_ONCE):
            for encoding in backend.encode_batch_fast(
                chunks[i : i + _CHUNKS_AT_ONCE], add_special_tokens=False
            ):
                ids += encoding.ids
        return ids

    def _encode_batch(
        self, backend: tokenizers.Tokenizer, texts: list[str]
    ) -> list[tokenizers.Encoding]:
        """Encode texts; with patterns that a file brings, for so long as is reasonable.

        A pattern may backtrack for ever, and nothing can stop it: the thread that it runs in is
        left behind, and nothing is encoded with it any more.
        """
        if self._is_usual:
            try:
                return [backend.encode(text, add_special_tokens=False) for text in texts]
            except BaseException as error:
                if not (isinstance(error, Exception) or is_panic(error)):
                    raise
                raise TokenizerError(f"{self._name} cannot encode this text ({error})") from None
        return guarded(self._name, lambda: self._encode_in_time(backend, texts))

    def _encode_in_time(
        self, backend: tokenizers.Tokenizer, texts: list[str]
    ) -> list[tokenizers.Encoding]:
        results: list[list[tokenizers.Encoding] | BaseException] = []

        def encode() -> None:
            try:  # unlike ``encode``, this lets other threads of Python run meanwhile
                results.append(backend.encode_batch(texts, add_special_tokens=False))
            except BaseException as error:
                results.append(error)

        if not self._given_up:
            thread = threading.Thread(target=encode, name="laplm-tokenizer", daemon=True)
            thread.start()
            thread.join(_PATTERN_SECONDS + sum(map(len, texts)) / _PATTERN_CHARACTERS_A_SECOND)
        if not results:
            self._given_up = True
            raise TimeoutError("a pattern of its pre-tokenizer does not come to an end")
        (result,) = results
        if isinstance(result, BaseException):
            raise result
        return result

    def _special(self) -> tokenizers.Tokenizer:
        if self._special_backend is None:
            self._special_backend = self._copy()
            self._special_backend.encode_special_tokens = False
        return self._special_backend

    def _continuing(self, allow_special: bool) -> tokenizers.Tokenizer:
        """One that puts no space before a text."""
        if self._within is None:
            self._within = self._copy(within=True)
        self._within.encode_special_tokens = not allow_special
        return self._within

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
        known = self._added[token_id] if token_id in self._added else self._spelled(token)
        self._bytes[token_id] = known
        return known

    def _spelled(self, token: str) -> bytes:
        if self._is_sentencepiece:
            byte = _BYTE_TOKEN.fullmatch(token)
            return bytes.fromhex(byte[1]) if byte else token.replace(SPACE, " ").encode()
        try:
            return _to_bytes(token)
        except KeyError:
            return token.encode()

    def token_text(self, token_id: int) -> str:
        """One token as text; a part of a character shows as the replacement character."""
        return self.token_bytes(token_id).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes that token ids stand for: the exact inverse of ``encode``.

        A space that SentencePiece puts before texts is taken away, as in transformers; so one that
        was there is lost.

        Raises:
            TokenizerError: an id is not in the vocabulary.
        """
        found = b"".join(map(self.token_bytes, ids))
        return found if self._space_in_front == "never" else found.removeprefix(b" ")

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids; bytes that are not UTF-8 become the replacement character.

        Raises:
            TokenizerError: an id is not in the vocabulary.
        """
        return self.decode_bytes(ids).decode("utf-8", errors="replace")


def end_tokens(tokenizer: Tokenizer, config: ModelConfig) -> frozenset[int]:
    """The ids of which each ends a text: those of the model's config, and its tokenizer's."""
    own = {tokenizer.eos_token_id} - {None}
    return frozenset(
        i for i in {*config.eos_token_ids, *own} if i is not None and i < config.vocab_size
    )


def begin_of_text(tokenizer: Tokenizer, config: ModelConfig) -> int | None:
    """The id that a text of which nothing is given begins with; None without one.

    That of the model's config, or else its tokenizer's; a model without one is given the token
    that ends its texts, after which another one begins.
    """
    named = (
        config.bos_token_id,
        tokenizer.bos_token_id,
        *config.eos_token_ids,
        tokenizer.eos_token_id,
    )
    return next((i for i in named if i is not None and 0 <= i < config.vocab_size), None)


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


def _space_in_front(backend: tokenizers.Tokenizer) -> str:
    """Where SentencePiece puts a space that is not there: "never", "first" of a text, "always"."""
    states = [
        json.loads(part.__getstate__())
        for part in (backend.normalizer, backend.pre_tokenizer)
        if part is not None
    ]
    while states:
        state = states.pop()
        if state["type"] == "Metaspace":
            return str(state["prepend_scheme"])
        if state["type"] == "Prepend":
            return "always"
        states += [*state.get("normalizers", []), *state.get("pretokenizers", [])]
    return "never"


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
