"""A tokenizer as llama.cpp reads it from a GGUF file.

llama.cpp knows ways to cut a text into words by names, and what else a tokenizer does by switches.
A tokenizer that it cannot follow is refused: the file would open, and give other ids.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import numpy as np

from laplm.errors import InputError, warn
from laplm.model.config import ModelConfig
from laplm.model.files.gguf_tokenizer import (
    KEPT_BY_PHI3,
    PRE_TOKENIZERS,
    Step,
    implied_merges,
    is_named_phi3,
)
from laplm.model.pretrained_settings import PretrainedSettings
from laplm.model.tokenizer import SPACE, Tokenizer
from laplm.model.tokenizer_file import byte_token


def add_tokenizer(
    writer: Any,
    gguf: Any,
    tokenizer: Tokenizer,
    config: ModelConfig,
    settings: PretrainedSettings,
    name: str,
) -> None:
    """Put a tokenizer, its chat templates and the model's name into a GGUF file.

    Args:
        writer: a ``gguf.GGUFWriter``.
        gguf: the gguf package.
        tokenizer: the model's.
        config: its sizes and its tokens that begin and end texts.
        settings: with its chat templates.
        name: the model's.

    Raises:
        InputError: llama.cpp would read texts as other tokens than this tokenizer.
    """
    stored = json.loads(tokenizer.to_json())
    writer.add_name(_checked_name(name, strips_as_phi3(stored)))
    is_sentencepiece = bool(stored["model"].get("byte_fallback"))
    bos, adds_bos, adds_eos = _around_a_text(tokenizer, config)
    tokens, types = _tokens(gguf, stored, config)
    if is_sentencepiece:
        in_front = space_in_front(stored)
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_scores(_scores(stored, config))
        unknown = stored["model"]["vocab"].get(stored["model"].get("unk_token"))
        if unknown is not None:
            writer.add_unk_token_id(unknown)
    else:
        in_front = False
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre_tokenizer_name(stored))
        writer.add_token_merges([" ".join(pair) for pair in _merges(stored)])
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    keys = (writer.add_eos_token_id, writer.add_eot_token_id, writer.add_eom_token_id)
    for add, token in zip(keys, end_tokens(tokenizer, config), strict=False):
        add(token)
    writer.add_bos_token_id(bos)
    pad = tokenizer.pad_token_id if config.pad_token_id is None else config.pad_token_id
    if pad is not None and pad < config.vocab_size:
        writer.add_pad_token_id(pad)
    writer.add_add_bos_token(adds_bos)
    writer.add_add_eos_token(adds_eos)
    writer.add_add_space_prefix(in_front)
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
    for each in _parts(stored.get("normalizer"), "normalizers"):
        kind = each["type"]
        if kind != "NFC":
            _refuse(f"the tokenizer changes texts before reading them ({kind}), llama.cpp does not")
        warn(
            "llama.cpp does not put letters and accents together that are written apart, as this "
            "tokenizer does (NFC): such texts have other ids there"
        )
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


def strips_as_phi3(stored: Mapping[str, Any]) -> bool:
    """Whether white space behind added tokens is dropped, as Phi-3's tokenizer does.

    Raises:
        InputError: white space around them is dropped otherwise, or words are asked for.
    """
    added, vocab = stored["added_tokens"], stored["model"]["vocab"]
    strips = {token["content"] for token in added if token["rstrip"]}
    known = {token["content"] for token in added}
    is_phi3 = bool(strips) and strips == known.difference(KEPT_BY_PHI3)
    is_phi3 = is_phi3 and {*known, *vocab}.issuperset((*KEPT_BY_PHI3, "</s>"))
    for token in added:
        for flag in ("lstrip", "single_word") if is_phi3 else ("lstrip", "rstrip", "single_word"):
            if token[flag]:
                _refuse(f"the token {token['content']!r:.40} has {flag}, which llama.cpp lacks")
    return is_phi3


def _checked_name(name: str, strips: bool) -> str:
    """A model's name, by which llama.cpp tells whether the tokenizer is Phi-3's."""
    if strips == is_named_phi3(name):
        return name
    return f"{name} (Phi-3)" if strips else re.sub("(?i)(phi)-?3", r"\1 3", name)


def _parts(part: Mapping[str, Any] | None, within: str) -> Iterator[Mapping[str, Any]]:
    """A normalizer's or pre-tokenizer's steps in order."""
    if part is not None and part["type"] == "Sequence":
        for each in part[within]:
            yield from _parts(each, within)
    elif part is not None:
        yield part


def _steps(pre_tokenizer: Mapping[str, Any] | None) -> Iterator[Step]:
    """A pre-tokenizer's steps in order, without what does not change the words."""
    for part in _parts(pre_tokenizer, "pretokenizers"):
        kind = part["type"]
        if kind == "ByteLevel":
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


# --- SentencePiece ------------------------------------------------------------------------------


def space_in_front(stored: Mapping[str, Any]) -> bool:
    """Whether a ``tokenizer.json`` of SentencePiece's kind puts a space before a text.

    Raises:
        InputError: it changes or cuts texts in a way that llama.cpp has not.
    """
    normal = list(_parts(stored.get("normalizer"), "normalizers"))
    pre = list(_parts(stored.get("pre_tokenizer"), "pretokenizers"))
    if pre == [_BEHIND_SPACES]:  # of which none is left, so that nothing is cut
        pre = []
    if not pre and normal == [_PREPENDED, _SPACES]:
        return True
    if not pre and normal == [_SPACES]:
        return False
    if not normal and len(pre) == 1 and pre[0]["type"] == "Metaspace" and not pre[0]["split"]:
        if pre[0]["prepend_scheme"] == "never":
            return False
        warn(
            "llama.cpp puts a space before texts that begin with one and behind control tokens, "
            "where this tokenizer puts none: such texts have other ids there"
        )
        return True
    steps = " then ".join(each["type"] for each in (*normal, *pre)) or "nothing for spaces"
    _refuse(f"the tokenizer reads spaces in a way that llama.cpp has not ({steps})")


_SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
_PREPENDED = {"type": "Prepend", "prepend": SPACE}
_BEHIND_SPACES = {
    "type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False,
}  # fmt: skip


def _merges(stored: Mapping[str, Any]) -> list[tuple[str, str]]:
    merges = stored["model"]["merges"]
    pairs = (each.split(" ", 1) if isinstance(each, str) else each for each in merges)
    return [(left, right) for left, right in pairs]


def _scores(stored: Mapping[str, Any], config: ModelConfig) -> list[float]:
    """Every row's score: llama.cpp joins the neighbours that make the token of the highest.

    Raises:
        InputError: the tokenizer's merges are not those that any scores imply.
    """
    merges, vocab = _merges(stored), stored["model"]["vocab"]
    added = {token["content"] for token in stored["added_tokens"]}  # found before all merging
    made = [left + right for left, right in merges if left + right not in added]
    ranks = {token: -float(rank) for rank, token in enumerate(dict.fromkeys(made))}
    scores = {i: ranks.get(token, -float(len(ranks))) for token, i in vocab.items()}
    pairs = implied_merges(list(vocab), np.zeros(len(vocab)))
    implied = {pair for pair in pairs if pair[0] + pair[1] not in added}
    n_runs = sum(1 for _ in itertools.groupby(made))
    if n_runs > len(ranks) or implied != {p for p in merges if p[0] + p[1] not in added}:
        _refuse(
            "the tokenizer's merges are not those that SentencePiece makes of its vocabulary, "
            "which are llama.cpp's"
        )
    in_order = [vocab[token] for token in ranks]
    if config.family == "gemma3_text" and in_order != sorted(in_order):
        _refuse("the tokenizer's merges are not in the order of its vocabulary, as Gemma's are")
    return [scores.get(i, 0.0) for i in range(config.vocab_size)]


# --- tokens -------------------------------------------------------------------------------------


def _tokens(
    gguf: Any, stored: Mapping[str, Any], config: ModelConfig
) -> tuple[list[str], list[int]]:
    """Every row's token, and what llama.cpp takes it for.

    Control tokens are read only where control tokens are asked for, and written as nothing; other
    added tokens are text, in both.
    """
    types, model = gguf.TokenType, stored["model"]
    found = {id_: (token, types.NORMAL) for token, id_ in model["vocab"].items()}
    for token in stored["added_tokens"]:
        content, kind = token["content"], types.CONTROL if token["special"] else types.USER_DEFINED
        if config.family == "gemma3_text" and not content.strip(SPACE):
            content = " " * len(content)  # a run of spaces, as llama.cpp's converter has it
        found[token["id"]] = (content, kind)
    if model.get("byte_fallback"):
        for byte in range(256):
            found[model["vocab"][byte_token(byte)]] = (byte_token(byte), types.BYTE)
        unknown = model["vocab"].get(model.get("unk_token"))
        if unknown is not None:
            found[unknown] = (model["unk_token"], types.UNKNOWN)
    taken = {token for token, _ in found.values()}
    tokens, kinds = [], []
    for i in range(config.vocab_size):
        # A vocabulary may be padded: rows of the embedding that no token has.
        token, kind = found.get(i, (f"[PAD{i}]", types.UNUSED))
        while i not in found and token in taken:
            token = f"[{token}]"
        tokens.append(token)
        kinds.append(kind)
    return tokens, kinds
