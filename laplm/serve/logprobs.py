"""``logprobs`` as OpenAI's completions and chat completions have them."""

from __future__ import annotations

import codecs
import math
from collections.abc import Sequence
from typing import Any

from laplm.errors import TokenizerError
from laplm.model.tokenizer import Tokenizer
from laplm.run.results import GenerationStep, TokenLogprob
from laplm.serve.scheduler import PromptToken

_LEAST = -9999.0  # OpenAI's word for the logarithm of nothing


def token_bytes(tokenizer: Tokenizer, token_id: int) -> bytes:
    """The bytes of a token; none for an id of a padded vocabulary that stands for nothing."""
    try:
        return tokenizer.token_bytes(token_id)
    except TokenizerError:
        return b""


def prompt_text(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """The text of a prompt's ids, as ``echo`` gives it back."""
    return b"".join(token_bytes(tokenizer, i) for i in ids).decode("utf-8", "replace")


def token_label(raw: bytes) -> str:
    r"""A token as text, or as ``bytes:\xf0\x9f`` where it is not whole characters.

    So tokens that differ are told apart: as text, every part of a character would be the same
    replacement character.
    """
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return f"bytes:{_escaped(raw)}"


def _escaped(raw: bytes) -> str:
    return repr(raw)[2:-1]


class TextOffsets:
    """Where each token begins in a text that grows, in characters.

    A token inside a character is where that character is.
    """

    def __init__(self, start: int = 0) -> None:
        """Begin after ``start`` characters."""
        self._whole = start
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, raw: bytes) -> int:
        """Where the next token begins."""
        offset = self._whole
        begun, _ = self._decoder.getstate()
        if begun and raw and not _goes_on(begun, raw[:1]):
            offset += 1  # what was begun is shown as one replacement character
        self._whole += len(self._decoder.decode(raw))
        return offset

    def end(self) -> None:
        """The text ends here, though perhaps within a character; another one follows it."""
        self._whole += len(self._decoder.decode(b"", final=True))
        self._decoder.reset()


def _goes_on(begun: bytes, byte: bytes) -> bool:
    """Whether a byte belongs to the character that other bytes begin."""
    try:
        codecs.getincrementaldecoder("utf-8")("strict").decode(begun + byte)
    except UnicodeDecodeError:
        return False
    return True


def completion_logprobs(
    tokenizer: Tokenizer,
    tokens: Sequence[GenerationStep | PromptToken],
    offsets: TextOffsets,
    *,
    count: int,
    with_ids: bool,
) -> dict[str, Any]:
    """``logprobs`` as completions have it.

    Args:
        tokenizer: the model's.
        tokens: those of the prompt, where they are scored, and then those that were drawn.
        offsets: of the choice that they belong to; they are taken further.
        count: alternatives that were asked for.
        with_ids: add ids, and texts where tokens are labelled as bytes.
    """
    out: dict[str, Any] = {
        "tokens": [], "token_logprobs": [], "top_logprobs": [] if count else None,
        "text_offset": [],
    }  # fmt: skip
    if with_ids:
        out |= {"token_texts": [], "top_token_ids": [], "top_texts": [], "top_token_logprobs": []}
    in_prompt = False
    for token in tokens:
        if in_prompt and not isinstance(token, PromptToken):
            offsets.end()
        in_prompt = isinstance(token, PromptToken)
        raw = token_bytes(tokenizer, token.token_id)
        label = token_label(raw)
        out["tokens"].append(label)
        out["token_logprobs"].append(finite(token.logprob))
        out["text_offset"].append(offsets.add(raw))
        tops = token.top_logprobs
        if count and token.logprob is None:
            out["top_logprobs"].append(None)
        elif count:  # the token itself always, as OpenAI has it
            out["top_logprobs"].append(
                {_label(tokenizer, t): finite(t.logprob) for t in reversed(tops)}
                | {label: finite(token.logprob)}
            )
        if with_ids:
            out["token_texts"].append(raw.decode("utf-8", "replace"))
            out["top_token_ids"].append([t.token_id for t in tops])
            out["top_texts"].append([t.text for t in tops])
            out["top_token_logprobs"].append([finite(t.logprob) for t in tops])
    if in_prompt:
        offsets.end()
    return out


def chat_logprobs(tokenizer: Tokenizer, steps: Sequence[GenerationStep]) -> dict[str, Any]:
    """``logprobs`` as chat completions have it."""
    return {
        "content": [
            _chat_token(tokenizer, step.token_id, step.logprob)
            | {
                "top_logprobs": [
                    _chat_token(tokenizer, t.token_id, t.logprob) for t in step.top_logprobs
                ]
            }
            for step in steps
        ],
        "refusal": None,
    }


def finite(number: float | None) -> float | None:
    """A log-probability that JSON can hold."""
    return number if number is None or math.isfinite(number) else _LEAST


def _label(tokenizer: Tokenizer, token: TokenLogprob) -> str:
    return token_label(token_bytes(tokenizer, token.token_id))


def _chat_token(tokenizer: Tokenizer, token_id: int, logprob: float) -> dict[str, Any]:
    raw = token_bytes(tokenizer, token_id)
    return {
        "token": raw.decode("utf-8", "replace"),
        "logprob": finite(logprob),
        "bytes": list(raw),
    }
