"""A tokenizer as llama.cpp reads it from a GGUF file.

llama.cpp knows ways to cut a text into words by names, and what else a tokenizer does by switches.
A tokenizer that it cannot follow is refused: the file would open, and give other ids.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from laplm.errors import InputError
from laplm.model.config import ModelConfig
from laplm.model.files.gguf_tokenizer import PRE_TOKENIZERS, Step
from laplm.model.pretrained_settings import PretrainedSettings
from laplm.model.tokenizer import Tokenizer


def add_tokenizer(
    writer: Any, gguf: Any, tokenizer: Tokenizer, config: ModelConfig, settings: PretrainedSettings
) -> None:
    """Put a tokenizer and its chat templates into a GGUF file.

    Args:
        writer: a ``gguf.GGUFWriter``.
        gguf: the gguf package.
        tokenizer: the model's.
        config: its sizes and its tokens that begin and end texts.
        settings: with its chat templates.

    Raises:
        InputError: llama.cpp would read texts as other tokens than this tokenizer.
    """
    stored = json.loads(tokenizer.to_json())
    pre = pre_tokenizer_name(stored)
    bos, adds_bos, adds_eos = _around_a_text(tokenizer, config)
    tokens, types = _tokens(gguf, stored, config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    merges = stored["model"]["merges"]
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    keys = (writer.add_eos_token_id, writer.add_eot_token_id, writer.add_eom_token_id)
    for add, token in zip(keys, end_tokens(tokenizer, config), strict=False):
        add(token)
    writer.add_bos_token_id(bos)
    pad = tokenizer.pad_token_id if config.pad_token_id is None else config.pad_token_id
    if pad is not None and pad < config.vocab_size:
        writer.add_pad_token_id(pad)
    writer.add_add_bos_token(adds_bos)
    writer.add_add_eos_token(adds_eos)
    writer.add_add_space_prefix(False)
    if settings.chat_templates:
        writer.add_chat_template(settings.listed_templates())


def end_tokens(tokenizer: Tokenizer, config: ModelConfig) -> tuple[int, ...]:
    """The tokens that end a text, at most three: for more a GGUF file has no place.

    The tokenizer's own comes first, since llama.cpp gives chat templates the first one's text.

    Raises:
        InputError: there are none, or more.
    """
    named = dict.fromkeys((tokenizer.eos_token_id, *config.eos_token_ids))
    ends = tuple(token for token in named if token is not None and token < config.vocab_size)
    if not ends:
        # llama.cpp would take token 11, whatever it is.
        _refuse(
            "the model has no token that ends a text, and llama.cpp must have one; name it as "
            "eos_token_id in config.json"
        )
    if len(ends) > 3:
        _refuse(f"the model has {len(ends)} tokens that end a text, and a GGUF file has 3 at most")
    return ends


def pre_tokenizer_name(stored: Mapping[str, Any]) -> str:
    """llama.cpp's name of how a ``tokenizer.json`` cuts texts into words.

    Raises:
        InputError: llama.cpp has no such way, or would do something else than it says.
    """
    if stored.get("normalizer") not in (None, {"type": "Sequence", "normalizers": []}):
        kind = stored["normalizer"].get("type")
        _refuse(f"the tokenizer changes texts before reading them ({kind}), llama.cpp does not")
    for token in stored["added_tokens"]:
        for flag in ("lstrip", "rstrip", "single_word"):
            if token[flag]:
                _refuse(f"the token {token['content']!r:.40} has {flag}, which llama.cpp lacks")
    steps = tuple(_steps(stored.get("pre_tokenizer")))
    if any(step[:2] == ("ByteLevel", True) for step in steps):
        _refuse("the tokenizer puts a space before texts (add_prefix_space), llama.cpp does not")
    whole_words = bool(stored["model"].get("ignore_merges"))
    names = PRE_TOKENIZERS.get((steps, whole_words))
    if names is None:
        cuts = " then ".join(str(step[0]) for step in steps) or "no pre-tokenizer"
        _refuse(f"the tokenizer cuts texts into words in a way that llama.cpp has not ({cuts})")
    return names[0]


def _refuse(cause: str) -> NoReturn:
    raise InputError(f"{cause}; a directory for transformers keeps it all: --to hf")


def _steps(part: Mapping[str, Any] | None) -> Iterator[Step]:
    """A pre-tokenizer's steps in order, without what does not change the words."""
    if part is None:
        return
    kind = part["type"]
    if kind == "Sequence":
        for each in part["pretokenizers"]:
            yield from _steps(each)
    elif kind == "ByteLevel":
        yield kind, part["add_prefix_space"], part.get("use_regex", True)
    elif kind == "Digits":
        yield kind, part["individual_digits"]
    elif kind == "Split" and (part["behavior"], part["invert"]) in (
        ("Isolated", False), ("Removed", True),
    ):  # fmt: skip
        # Alike, since the patterns of the table leave nothing between two words.
        yield kind, part["pattern"].get("Regex")
    else:
        yield kind, json.dumps(part)


def _around_a_text(tokenizer: Tokenizer, config: ModelConfig) -> tuple[int, bool, bool]:
    """The token that begins texts; whether the tokenizer puts it there, and that of the end."""
    mark = -1
    ids = tokenizer.build_inputs_with_special_tokens([mark])
    before, after = ids[: ids.index(mark)], ids[ids.index(mark) + 1 :]
    ends = end_tokens(tokenizer, config)
    if len(before) > 1 or after not in ([], [ends[0]]):
        _refuse("the tokenizer puts more around a text than a token to begin and one to end it")
    named = (*before, tokenizer.bos_token_id, config.bos_token_id, ends[0])
    bos = next(token for token in named if token is not None and token < config.vocab_size)
    return bos, bool(before), bool(after)


def _tokens(gguf: Any, stored: Mapping[str, Any], count: int) -> tuple[list[str], list[int]]:
    """Every row's token, and what llama.cpp takes it for.

    Control tokens are read only where control tokens are asked for, and written as nothing; other
    added tokens are text, in both.
    """
    types = gguf.TokenType
    found = {id_: (token, types.NORMAL) for token, id_ in stored["model"]["vocab"].items()}
    for token in stored["added_tokens"]:
        kind = types.CONTROL if token["special"] else types.USER_DEFINED
        found[token["id"]] = (token["content"], kind)
    taken = {token for token, _ in found.values()}
    tokens, kinds = [], []
    for i in range(count):
        # A vocabulary may be padded: rows of the embedding that no token has.
        token, kind = found.get(i, (f"[PAD{i}]", types.UNUSED))
        while i not in found and token in taken:
            token = f"[{token}]"
        tokens.append(token)
        kinds.append(kind)
    return tokens, kinds
