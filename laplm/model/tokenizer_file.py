"""The files of a tokenizer, and what beside them names its special tokens.

``tokenizer.json``, or ``vocab.json`` with ``merges.txt``; ``tokenizer_config.json``,
``special_tokens_map.json`` and ``added_tokens.json``. They are read as transformers reads them. At
some files the Rust library panics, which no handler of errors sees, or even aborts the process;
what is known to do that is refused before.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors

from laplm.errors import TokenizerError

END_OF_TEXT = "<|endoftext|>"

# In the order in which transformers adds those that the vocabulary lacks.
NAMED_TOKENS = (
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token",
)  # fmt: skip
# Classes of transformers whose special tokens have a default. A GPT-2 model without a class has the
# first one; every other class (PreTrainedTokenizerFast) has none.
_GPT2_DEFAULTS = dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT)
_CLASS_DEFAULTS: dict[str, dict[str, str]] = {
    "GPT2Tokenizer": _GPT2_DEFAULTS,
    "CodeGenTokenizer": _GPT2_DEFAULTS,
    "GPTNeoXTokenizer": _GPT2_DEFAULTS | {"pad_token": "<|padding|>"},
    "Qwen2Tokenizer": dict.fromkeys(("eos_token", "unk_token", "pad_token"), END_OF_TEXT),
}
# The library keeps tables by id; no vocabulary is nearly as large, and a larger one aborts it.
_MAX_ID = 1 << 24
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")

# Patterns that are known to be sound, by the models that they came with.
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_FRONT, _CASED_REST = r"[^\r\n\p{L}\p{N}]?", r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
QWEN2_PATTERN, LLAMA3_PATTERN, _GPT4_PATTERN = (
    rf"{_CONTRACTIONS}|{_FRONT}\p{{L}}+|{digits}|{_REST}"
    for digits in (r"\p{N}", r"\p{N}{1,3}", r"\p{N}{1,2}")
)
GPT4O_PATTERN = (
    rf"{_FRONT}{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|{_FRONT}{_UPPER}+{_LOWER}*{_CONTRACTIONS}?"
    rf"|\p{{N}}{{1,3}}|{_CASED_REST}"
)
TEKKEN_PATTERN = (  # of Mistral Nemo
    rf"{_FRONT}{_UPPER}*{_LOWER}+|{_FRONT}{_UPPER}+{_LOWER}*|\p{{N}}|{_CASED_REST}"
)
_SOUND_PATTERNS = frozenset(
    [GPT2_PATTERN, QWEN2_PATTERN, LLAMA3_PATTERN, _GPT4_PATTERN, GPT4O_PATTERN, TEKKEN_PATTERN]
)
_USUAL = frozenset(
    ["ByteLevel", "Digits", "Lowercase", "Metaspace", "NFC", "NFD", "NFKC", "NFKD", "Prepend",
     "Replace", "Sequence", "Split"]
)  # fmt: skip
_HOLDING = threading.RLock()

T = TypeVar("T")


@dataclass(frozen=True)
class TokenizerFiles:
    """What the files of a directory say.

    Attributes:
        backend: the tokenizer, with every added token.
        special_tokens: its named special tokens, such as ``eos_token``, as chat templates see them.
    """

    backend: tokenizers.Tokenizer
    special_tokens: Mapping[str, str]


def read_tokenizer_files(directory: Path) -> TokenizerFiles:
    """The tokenizer of a model directory, or of a GGUF file.

    Raises:
        TokenizerError: there is none, it is damaged, or it is neither a byte-level BPE nor
            SentencePiece's with byte fallback.
    """
    if directory.is_file():
        from laplm.model.files.gguf_reader import read_gguf
        from laplm.model.files.gguf_tokenizer import read_gguf_tokenizer

        return read_gguf_tokenizer(read_gguf(directory).metadata, str(directory))
    settings = read_settings(directory / "tokenizer_config.json")
    file = directory / "tokenizer.json"
    if file.is_file():
        backend = _from_json(file)
        return _with_special_tokens(backend, directory, settings, backend.token_to_id)
    for vocab, merges in (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")):
        if (directory / vocab).is_file() and (directory / merges).is_file():
            prefix_space = bool(settings.get("add_prefix_space"))
            backend = from_vocab_and_merges(directory / vocab, directory / merges, prefix_space)
            files = _with_special_tokens(backend, directory, settings, lambda token: 0)
            _set_post_processor(files, settings)
            return files
    raise TokenizerError(
        f"{directory}: no tokenizer (looked for tokenizer.json, and for vocab.json with "
        "merges.txt); copy the model's own tokenizer files into this directory"
    )


def from_vocab_and_merges(
    vocab: Path, merges: Path, prefix_space: bool = False
) -> tokenizers.Tokenizer:
    """A byte-level BPE with GPT-2's rules.

    Raises:
        TokenizerError: a file is missing or damaged.
    """
    for file in (vocab, merges):
        if not file.is_file():
            raise TokenizerError(f"{file}: no such file; it is half of the tokenizer")
    _check_vocab(vocab, _json(vocab))
    model = guarded(f"{vocab} with {merges}", lambda: models.BPE.from_file(str(vocab), str(merges)))
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    backend.decoder = decoders.ByteLevel()
    return backend


def read_settings(path: Path) -> dict[str, Any]:
    """``tokenizer_config.json`` or a file like it, which a tokenizer may do without.

    Raises:
        TokenizerError: it is damaged.
    """
    if not path.is_file():
        return {}
    values = _json(path)
    return values if isinstance(values, dict) else {}


def guarded(what: str, call: Callable[[], T]) -> T:
    """What the Rust library gives, or one line that says why not.

    A panic of the library is no ``Exception``, and writes lines of its own to standard error.

    Raises:
        TokenizerError: it fails.
    """
    with _standard_error_held() as drop:
        try:
            return call()
        except BaseException as error:
            if is_panic(error):
                drop()
            elif not isinstance(error, Exception):
                raise
            raise TokenizerError(_damaged(what, error)) from None


def is_panic(error: BaseException) -> bool:
    """Whether this is what the Rust library raises when it panics."""
    return type(error).__name__ == "PanicException"


@contextlib.contextmanager
def _standard_error_held() -> Iterator[Callable[[], None]]:
    """Hold back what is written to standard error meanwhile; gives what drops it."""
    dropped = False

    def drop() -> None:
        nonlocal dropped
        dropped = True

    with _HOLDING, contextlib.ExitStack() as stack:
        try:
            own = os.dup(2)
            held = stack.enter_context(tempfile.TemporaryFile())
            os.dup2(held.fileno(), 2)
        except OSError:  # it is closed, or there is no place for a file
            yield drop
            return
        try:
            yield drop
        finally:
            os.dup2(own, 2)
            os.close(own)
            held.seek(0)
            if not dropped and (text := held.read()):
                os.write(2, text)


def _damaged(what: str, error: BaseException) -> str:
    cause = " ".join(str(error).split())
    return f"{what}: not readable as a tokenizer ({cause}); fetch or copy it again"


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise TokenizerError(_damaged(str(path), error)) from None


def byte_token(byte: int) -> str:
    """SentencePiece's token of a byte that is not covered by any other."""
    return f"<0x{byte:02X}>"


def is_sentencepiece(backend: tokenizers.Tokenizer) -> bool:
    """Whether its tokens are pieces of text, with bytes to fall back on; else they are bytes."""
    decoder = backend.decoder
    return decoder is not None and b'"ByteFallback"' in decoder.__getstate__()


def is_usual(backend: tokenizers.Tokenizer) -> bool:
    """Whether its normalizer and pre-tokenizer are of the kinds that models have.

    Others may panic at a text, and a pattern of their own may backtrack for ever.
    """
    parts = [backend.normalizer, backend.pre_tokenizer]
    states = [json.loads(part.__getstate__()) for part in parts if part is not None]
    while states:
        state = states.pop()
        pattern = state.get("pattern", {}).get("Regex")  # texts to look for are sound
        if state.get("type") not in _USUAL or pattern not in (None, *_SOUND_PATTERNS):
            return False
        states += _dicts(state.get("normalizers")) + _dicts(state.get("pretokenizers"))
    return True


# --- tokenizer.json ---------------------------------------------------------------------------


def _from_json(path: Path) -> tokenizers.Tokenizer:
    values = _json(path)
    if isinstance(values, dict):
        _check(path, values)
        # Neither is ever applied, and chance when a text is read would be of no use.
        unwanted = [key for key in ("truncation", "padding") if values.get(key) is not None]
        model = values.get("model")
        if unwanted or (isinstance(model, dict) and model.get("dropout") is not None):
            values |= dict.fromkeys(unwanted)
            if isinstance(model, dict):
                model["dropout"] = None
            text = json.dumps(values)
            return guarded(str(path), lambda: tokenizers.Tokenizer.from_str(text))
    return guarded(str(path), lambda: tokenizers.Tokenizer.from_file(str(path)))


def _check(path: Path, values: dict[str, Any]) -> None:
    """Refuse what is no byte-level BPE, and what the library cannot be given."""
    model, decoder = values.get("model"), values.get("decoder")
    if isinstance(model, dict):
        of_bytes = not isinstance(decoder, dict) or decoder.get("type") == "ByteLevel"
        if model.get("type", "BPE") != "BPE" or not (of_bytes or _has_byte_fallback(model)):
            _refuse(
                path,
                "neither a byte-level BPE nor SentencePiece's BPE with byte fallback; check that "
                "it belongs to this model",
            )
        for key in ("continuing_subword_prefix", "end_of_word_suffix"):
            if model.get(key):
                _refuse(path, f"{key} is {model[key]!r}, but GPT-2's tokens have none")
        _check_vocab(path, model.get("vocab"))
    for token in _dicts(values.get("added_tokens")):
        _check_id(path, token.get("content"), token.get("id"))
    for part in _parts(values):
        if part.get("type") == "Precompiled":
            _refuse(path, "its normalizer is a table of SentencePiece's, which laplm does not read")


def _has_byte_fallback(model: Mapping[str, Any]) -> bool:
    vocab = model.get("vocab")
    return (
        model.get("byte_fallback") is True
        and isinstance(vocab, dict)
        and all(byte_token(b) in vocab for b in range(256))
    )


def _check_vocab(path: Path, vocab: object) -> None:
    if isinstance(vocab, dict):
        numbers = vocab.values()
        if not all(type(i) is int for i in numbers) or (
            numbers and not 0 <= min(numbers) <= max(numbers) < _MAX_ID
        ):
            for token, number in vocab.items():
                _check_id(path, token, number)


def _check_id(path: Path, token: object, number: object) -> None:
    if type(number) is not int or not 0 <= number < _MAX_ID:
        _refuse(path, f"the token {token!r:.60} has the id {number!r:.30}, which no model has")


def _parts(values: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Normalizers, pre-tokenizers and post-processors, those within others too."""
    waiting = [values.get(key) for key in ("normalizer", "pre_tokenizer", "post_processor")]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            yield part
            for key in ("normalizers", "pretokenizers", "processors"):
                waiting += _dicts(part.get(key))


def _dicts(values: object) -> list[dict[str, Any]]:
    return [v for v in values if isinstance(v, dict)] if isinstance(values, list) else []


def _refuse(path: Path, cause: str) -> NoReturn:
    raise TokenizerError(f"{path}: {cause}; fetch or copy it again")


# --- added and special tokens -----------------------------------------------------------------


def _with_special_tokens(
    backend: tokenizers.Tokenizer,
    directory: Path,
    settings: dict[str, Any],
    in_vocabulary: Callable[[str], int | None],
) -> TokenizerFiles:
    """Add what the other files say, as transformers does (``_from_pretrained``)."""
    source = directory / "tokenizer_config.json"
    declared = settings.get("added_tokens_decoder")
    added: dict[int, AddedToken] = {}
    if declared is not None:
        if not isinstance(declared, dict):
            _refuse(source, "added_tokens_decoder must be an object of tokens by their ids")
        for key, value in declared.items():
            token = _token(source, f"the added token {key!r:.30}", value)
            if not key.isdecimal() or token is None or isinstance(value, str):
                _refuse(source, f"added_tokens_decoder has {key!r:.30}: {value!r:.60}, no token")
            added[int(key)] = token
    else:
        file = directory / "special_tokens_map.json"
        for key, value in read_settings(file).items():
            if _is_named(key) or key in ("additional_special_tokens", "extra_special_tokens"):
                settings = settings | {key: value}
    named, extra = _named(source, settings)
    if declared is None:
        special = {str(token) for token in (*named.values(), *extra)}
        file = directory / "added_tokens.json"
        for content, number in read_settings(file).items():
            _check_id(file, content, number)
            _check_text(file, f"the added token {number}", content)
            added[number] = AddedToken(
                content, normalized=content not in special, special=content in special
            )
    by_content = {str(token): token for token in added.values()}
    named = {key: by_content.get(str(token), token) for key, token in named.items()}
    for key, content in _defaults(settings).items():
        # One that the files do not name and the vocabulary does not have is not made up.
        if key not in named and key not in settings and in_vocabulary(content) is not None:
            named[key] = by_content.get(content, AddedToken(content, special=True))
    ordered = {key: named[key] for key in (*NAMED_TOKENS, *named) if key in named}
    tokens = [token for _, token in sorted(added.items())]
    there = {token.content for token in backend.get_added_tokens_decoder().values()}
    there |= {str(token) for token in tokens}
    for token in (*ordered.values(), *extra):
        if str(token) not in there:
            token.special = True
            tokens.append(token)
            there.add(str(token))
    names = {str(token) for token in ordered.values()}
    for token in tokens:
        token.special = token.special or str(token) in names
    guarded(str(directory), lambda: backend.add_tokens(tokens))
    return TokenizerFiles(backend, {key: str(token) for key, token in ordered.items()})


def _is_named(key: str) -> bool:
    return key in NAMED_TOKENS or key.endswith("_token")


def _named(
    path: Path, settings: Mapping[str, Any]
) -> tuple[dict[str, AddedToken], list[AddedToken]]:
    """Named special tokens, and those that have no name."""
    named = {}
    for key, value in settings.items():
        # Of names of a model's own, others may be no token: add_bos_token is a switch.
        if key in NAMED_TOKENS or (key.endswith("_token") and isinstance(value, str | dict)):
            token = _token(path, key, value)
            if token is not None:
                named[key] = token
    extra = settings.get("extra_special_tokens") or settings.get("additional_special_tokens") or []
    if isinstance(extra, dict):
        more = {key: _token(path, key, value) for key, value in extra.items()}
        return named | {key: token for key, token in more.items() if token is not None}, []
    if not isinstance(extra, list):
        _refuse(path, "extra_special_tokens must be a list of tokens")
    unnamed = (_token(path, "a special token", value) for value in extra)
    return named, [token for token in unnamed if token is not None]


def _defaults(settings: Mapping[str, Any]) -> dict[str, str]:
    name = settings.get("tokenizer_class")
    if not isinstance(name, str) or not name:
        return _GPT2_DEFAULTS
    return _CLASS_DEFAULTS.get(name.removesuffix("Fast"), {})


def _token(path: Path, name: str, value: object) -> AddedToken | None:
    """A token that is written as a text or an object; None for none."""
    flags: dict[str, Any] = {"special": True}
    content = value
    if isinstance(value, dict):
        flags = {key: value[key] for key in _FLAGS if value.get(key) is not None}
        content = value.get("content")
        if any(not isinstance(flag, bool) for flag in flags.values()):
            _refuse(path, f"{name} is {value!r:.80}, in which a switch is neither true nor false")
        flags.setdefault("special", name in NAMED_TOKENS)
    if content is None or content == "":
        return None
    if not isinstance(content, str):
        _refuse(path, f"{name} is {value!r:.60}, which is no token")
    _check_text(path, name, content)
    return AddedToken(content, **flags)


def _check_text(path: Path, name: str, content: str) -> None:
    try:
        content.encode()
    except UnicodeEncodeError as error:
        half = ord(content[error.start])
        _refuse(path, f"{name} holds U+{half:04X}, half of a character, which no text has")


def _set_post_processor(files: TokenizerFiles, settings: Mapping[str, Any]) -> None:
    """What ``add_bos_token`` and ``add_eos_token`` ask for.

    Where there is a tokenizer.json they say nothing: its own post-processor does.
    """
    wanted = [key for key in ("bos_token", "eos_token") if settings.get(f"add_{key}")]
    tokens = {key: files.special_tokens[key] for key in wanted if key in files.special_tokens}
    if not tokens:
        return
    template = [tokens.get("bos_token"), "$A", tokens.get("eos_token")]
    files.backend.post_processor = processors.TemplateProcessing(
        single=[piece for piece in template if piece is not None],
        special_tokens=[(token, files.backend.token_to_id(token)) for token in tokens.values()],
    )
