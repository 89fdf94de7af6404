"""The tokenizer in a GGUF file's settings, as the tokenizers library has it.

A file has the vocabulary, and what belongs to it by names: how a text is cut into words before
anything is merged, which tokens are control tokens, and whether a token begins or ends each text.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from operator import contains
from typing import Any, NoReturn

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import (
    AddedToken,
    Regex,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from laplm.errors import TokenizerError, shown
from laplm.model.families.gguf import END_TOKENS
from laplm.model.tokenizer_file import (
    GPT4O_PATTERN,
    LLAMA3_PATTERN,
    QWEN2_PATTERN,
    TEKKEN_PATTERN,
    TokenizerFiles,
    byte_token,
    guarded,
)

Step = tuple[object, ...]

_BYTE_LEVEL: Step = ("ByteLevel", False, True)  # no space in front, GPT-2's pattern
_BYTES_ALONE: Step = ("ByteLevel", False, False)


def _split(pattern: str) -> tuple[Step, ...]:
    return (("Split", pattern), _BYTES_ALONE)


# Steps of the pre-tokenizer, whether words that are tokens are taken whole before anything is
# merged (ignore_merges), and llama.cpp's names of the two (llama-vocab.cpp). The first name is
# written: that of a model that lets spaces before punctuation stand when tokens become text.
# "default" is what files of early 2024 and before have; as transformers, GPT-2's pattern is taken.
PRE_TOKENIZERS: dict[tuple[tuple[Step, ...], bool], tuple[str, ...]] = {
    ((_BYTE_LEVEL,), False): (
        "gpt-2", "default", "olmo", "mpt", "phi-2", "jais", "trillion", "granite-docling",
        "gigachat", "mellum", "a.x-4.0", "exaone4",
    ),
    ((("Digits", True), _BYTE_LEVEL), False): (
        "smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b",
    ),
    (_split(LLAMA3_PATTERN), False): ("dbrx", "smaug-bpe", "chatglm-bpe"),
    (_split(LLAMA3_PATTERN), True): (
        "llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "midm-2.0", "glm4",
    ),
    (_split(QWEN2_PATTERN), False): (
        "qwen2", "deepseek-r1-qwen", "stablelm2", "megrez", "hunyuan", "kormo", "f2llmv2",
    ),
    (_split(TEKKEN_PATTERN), True): ("tekken",),
    (_split(GPT4O_PATTERN), False): ("gpt-4o", "llama4", "kanana2"),
}  # fmt: skip
_BY_NAME = {name: how for how, names in PRE_TOKENIZERS.items() for name in names}
# Of these llama.cpp puts the beginning before every text, unless a file says otherwise.
_ADD_BOS = ("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "midm-2.0", "tekken")
_GEMMA = ("gemma", "gemma2", "gemma3")
KEPT_BY_PHI3 = ("<unk>", "<s>", "<|endoftext|>")
"""Added tokens of Phi-3 behind which llama.cpp keeps white space; behind all others it drops it."""
_NORMAL = 1
_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4  # types of tokens that are found before anything else
_NAMED = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
# As transformers, whatever their types say, and where a file has no types. Not what pads, or is
# unknown among bytes: files name tokens of text for it ("!" is the first of many vocabularies).
_CONTROL_BY_NAME = {"gpt2": ("bos", "eos"), "llama": ("bos", "eos", "unknown")}
# Characters of a piece. SentencePiece makes them of 16, people add some of a hundred; the time that
# their merges take to find grows with the square.
_MAX_PIECE = 1 << 10
_SENTENCEPIECE_IDS = {"bos": 1, "eos": 2, "unknown": 0}  # of files that do not say


def is_named_phi3(name: object) -> bool:
    """Whether llama.cpp takes a tokenizer for Phi-3's, which it does by the model's name."""
    return isinstance(name, str) and any(mark in name.lower() for mark in ("phi-3", "phi3"))


def read_gguf_tokenizer(metadata: Mapping[str, Any], where: str) -> TokenizerFiles:
    """The tokenizer that a file's settings describe.

    Args:
        metadata: the settings by their keys.
        where: the file, as errors name it.

    Raises:
        TokenizerError: there is none, it is of a kind that is not read, or it is damaged.
    """
    return _Reader(metadata, where).read()


def chat_templates(metadata: Mapping[str, Any]) -> dict[str, str]:
    """The Jinja texts of a file by name; the name of most is "default"."""
    key = "tokenizer.chat_template"
    return {
        name.removeprefix(f"{key}.") if name != key else "default": text
        for name, text in metadata.items()
        if (name == key or name.startswith(f"{key}.")) and isinstance(text, str)
    }


class _Reader:
    """Makes a tokenizer of the settings of one file."""

    def __init__(self, metadata: Mapping[str, Any], where: str) -> None:
        self._metadata, self._where = metadata, where
        self._kind = self._text("model")
        architecture = metadata.get("general.architecture")
        self._is_gemma = isinstance(architecture, str) and architecture in _GEMMA
        self._tokens = self._checked_tokens()
        self._types = self._numbers("token_type")

    def read(self) -> TokenizerFiles:
        if self._kind == "gpt2":
            backend = self._byte_level()
        elif self._kind == "llama":
            backend = self._sentencepiece()
        else:
            self._refuse(
                f"its tokenizer is of the kind {shown(self._kind)} (tokenizer.ggml.model), and "
                "laplm reads gpt2 (byte-level BPE) and llama (SentencePiece); get the model as "
                "safetensors with tokenizer.json"
            )
        backend.add_tokens(list(self._added_tokens()))
        named = {name: self._id(key) for name, key in _NAMED.items()}
        special = {name: self._tokens[i] for name, i in named.items() if i is not None}
        self._set_post_processor(backend, special)
        return TokenizerFiles(backend, special)

    # --- settings ---

    def _refuse(self, cause: str) -> NoReturn:
        raise TokenizerError(f"{self._where}: {cause}")

    def _damaged(self, cause: str) -> NoReturn:
        self._refuse(f"{cause}; fetch or copy the file again")

    def _tokenizer_metadata(self, name: str) -> Any:
        return self._metadata.get(f"tokenizer.ggml.{name}")

    def _text(self, name: str) -> str | None:
        value = self._tokenizer_metadata(name)
        if value is not None and not isinstance(value, str):
            self._damaged(f"tokenizer.ggml.{name} is {shown(value, 40)}, which is no text")
        return value

    def _checked_tokens(self) -> list[str]:
        tokens = self._tokenizer_metadata("tokens")
        if self._kind is None or not isinstance(tokens, list) or not tokens:
            self._damaged("it has no tokenizer (tokenizer.ggml.model and tokenizer.ggml.tokens)")
        if not all(tokens):
            tokens = [token or f"[EMPTY_{i}]" for i, token in enumerate(tokens)]  # as llama.cpp
        if self._is_gemma and self._kind == "llama":
            # Runs of spaces, which SentencePiece's other tokens have as this letter.
            tokens = ["▁" * len(t) if t.isspace() and " " in t else t for t in tokens]
        if len(set(tokens)) < len(tokens):
            last = {token: i for i, token in enumerate(tokens)}
            twice = next(token for i, token in enumerate(tokens) if last[token] != i)
            self._damaged(f"the token {shown(twice, 40)} stands twice in its vocabulary")
        return tokens

    def _numbers(self, name: str) -> Any:
        """Numbers for each token; None where the file has none."""
        values = self._tokenizer_metadata(name)
        if values is None:
            return None
        if not isinstance(values, np.ndarray) or values.size < len(self._tokens):
            self._damaged(f"tokenizer.ggml.{name} is not a number for each token")
        return values[: len(self._tokens)]

    def _id(self, name: str) -> int | None:
        default = _SENTENCEPIECE_IDS.get(name) if self._kind == "llama" else None
        value = self._metadata.get(f"tokenizer.ggml.{name}_token_id", default)
        return value if type(value) is int and 0 <= value < len(self._tokens) else None

    def _flag(self, name: str, default: bool) -> bool:
        value = self._tokenizer_metadata(name)
        return value if isinstance(value, bool) else default

    # --- byte-level BPE ---

    def _byte_level(self) -> tokenizers.Tokenizer:
        name = self._text("pre") or "default"
        if name not in _BY_NAME:
            self._refuse(
                f"its texts are cut into words in the way {shown(name, 40)} (tokenizer.ggml.pre), "
                f"and laplm has {', '.join(_BY_NAME)}; get the model as safetensors with "
                "tokenizer.json"
            )
        steps, ignore_merges = _BY_NAME[name]
        merges = self._tokenizer_metadata("merges")
        if not isinstance(merges, list):
            self._damaged("its tokenizer has no tokenizer.ggml.merges")
        backend = self._bpe(split_merges(merges), ignore_merges=ignore_merges)
        backend.pre_tokenizer = _pre_tokenizer(steps)
        backend.decoder = decoders.ByteLevel()
        return backend

    def _bpe(self, merges: list[tuple[str, str]], **options: Any) -> tokenizers.Tokenizer:
        vocab = dict(zip(self._tokens, range(len(self._tokens)), strict=True))
        return guarded(
            self._where, lambda: tokenizers.Tokenizer(models.BPE(vocab, merges, **options))
        )

    # --- SentencePiece ---

    def _sentencepiece(self) -> tokenizers.Tokenizer:
        known = set(self._tokens)
        lacking = [b for b in range(256) if byte_token(b) not in known]
        if lacking:
            self._refuse(
                f"its SentencePiece vocabulary has no token for {len(lacking)} of 256 bytes "
                f"({byte_token(lacking[0])}), so texts could not be read whole; get the model as "
                "safetensors with tokenizer.json"
            )
        merges = self._merges_by_score(by_position=self._is_gemma)
        unknown = self._id("unknown")
        unk = None if unknown is None else self._tokens[unknown]
        backend = self._bpe(merges, byte_fallback=True, fuse_unk=True, unk_token=unk)
        steps: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        if self._is_gemma:
            backend.normalizer = normalizers.Replace(" ", "▁")
            backend.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
        else:
            in_front = self._flag("add_space_prefix", default=True)
            backend.pre_tokenizer = pre_tokenizers.Metaspace(
                prepend_scheme="first" if in_front else "never", split=False
            )
            steps += [decoders.Strip(" ", 1, 0)] if in_front else []
        backend.decoder = decoders.Sequence(steps)
        return backend

    def _merges_by_score(self, by_position: bool) -> list[tuple[str, str]]:
        """Gemma's merges follow the vocabulary, its scores do not."""
        merges = self._tokenizer_metadata("merges")
        if isinstance(merges, list):
            return split_merges(merges)
        scores = self._numbers("scores")
        if scores is None or by_position:
            if not by_position:
                self._damaged("its tokenizer has no tokenizer.ggml.scores")
            scores = -np.arange(len(self._tokens))
        longest = max(map(len, self._tokens))
        if longest > _MAX_PIECE:
            self._damaged(f"a token of its vocabulary has {longest:,} characters")
        return implied_merges(self._tokens, scores)

    # --- tokens that are found before anything is merged ---

    def _added_tokens(self) -> Iterator[AddedToken]:
        """Control tokens, and others that are taken whole."""
        types = np.array([_NORMAL] * len(self._tokens) if self._types is None else self._types)
        for name in _CONTROL_BY_NAME[str(self._kind)]:
            there = self._tokenizer_metadata(f"{name}_token_id") is not None
            if there and (number := self._id(name)) is not None:
                types[number] = _CONTROL
        strips = is_named_phi3(self._metadata.get("general.name")) and self._kind == "llama"
        for i in np.flatnonzero(np.isin(types, (_UNKNOWN, _CONTROL, _USER_DEFINED))):
            token = self._tokens[i]
            if self._is_gemma and not token.strip("▁"):
                continue  # a run of spaces, which no text has in this letter; merges make it
            special = types[i] != _USER_DEFINED or token in END_TOKENS
            rstrip = strips and token not in KEPT_BY_PHI3
            yield AddedToken(token, special=bool(special), normalized=False, rstrip=rstrip)

    def _set_post_processor(
        self, backend: tokenizers.Tokenizer, special: Mapping[str, str]
    ) -> None:
        default = self._kind == "llama" or self._text("pre") in _ADD_BOS
        begin = special.get("bos_token") if self._flag("add_bos_token", default) else None
        end = special.get("eos_token") if self._flag("add_eos_token", default=False) else None
        around = [token for token in (begin, end) if token is not None]
        if around:
            backend.post_processor = processors.TemplateProcessing(
                single=[piece for piece in (begin, "$A", end) if piece is not None],
                special_tokens=[(token, backend.token_to_id(token)) for token in set(around)],
            )


def implied_merges(tokens: list[str], scores: NDArray[Any]) -> list[tuple[str, str]]:
    """The merges that a vocabulary with scores implies, in their order.

    SentencePiece always joins the two neighbours that make the token of the highest score; BPE
    joins by the rank of the pair. As transformers: by falling score, then by the lengths of the
    two, the longer first one first.
    """
    known, numbers = set(tokens), scores.astype(np.float64)
    merges: list[tuple[str, str]] = []
    order = np.argsort(-numbers, kind="stable").tolist()
    for _, alike in itertools.groupby(order, key=numbers.tolist().__getitem__):
        begin, count = len(merges), 0
        for i in alike:
            token, count = tokens[i], count + 1
            for at in range(len(token) - 1, 0, -1):
                if (left := token[:at]) in known and (right := token[at:]) in known:
                    merges.append((left, right))
        if count > 1:
            by_lengths = sorted(merges[begin:], key=lambda p: (len(p[0]), len(p[1])), reverse=True)
            merges[begin:] = by_lengths
    return merges


def split_merges(merges: list[str]) -> list[tuple[str, str]]:
    """The two tokens of each merge; the space between them is the first but at the beginning."""
    # There may be hundreds of thousands, and this is four times as quick as looking at each.
    halves = " ".join(merges).split(" ")
    if (
        len(halves) == 2 * len(merges)
        and all(halves)
        and all(map(contains, merges, itertools.repeat(" ")))
    ):
        return list(zip(halves[::2], halves[1::2], strict=True))
    return [_pair(merge) for merge in merges]


def _pair(merge: str) -> tuple[str, str]:
    at = merge.find(" ", 1)
    return (merge[:at], merge[at + 1 :]) if at > 0 else (merge, "")


_STEPS: dict[object, Callable[..., Any]] = {
    "ByteLevel": lambda prefix, regex: pre_tokenizers.ByteLevel(prefix, use_regex=regex),
    "Digits": lambda individual: pre_tokenizers.Digits(individual),
    "Split": lambda pattern: pre_tokenizers.Split(Regex(pattern), "isolated"),
}


def _pre_tokenizer(steps: tuple[Step, ...]) -> Any:
    parts = [_STEPS[kind](*settings) for kind, *settings in steps]
    return parts[0] if len(parts) == 1 else pre_tokenizers.Sequence(parts)
