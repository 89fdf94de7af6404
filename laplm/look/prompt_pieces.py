"""The prompt of a conversation in pieces: words, control tokens, what the chat template writes."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from laplm.model.chat import ChatTemplate
from laplm.model.tokenizer import Tokenizer

_STAND_IN = "\U0010fff0"  # a private use character: stands for a message, so that it is found


class Piece(NamedTuple):
    """A piece of what the model was given.

    Attributes:
        text: the piece; all of them together are the text that the chat template makes.
        kind: "word" (of a message), "control" (a control token) or "template" (other text that the
            template writes).
        word: its number among the words of the question, or None.
    """

    text: str
    kind: str
    word: int | None = None


def control_token_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """The tokens that a person cannot write: special ones, and those that were added."""
    return frozenset([*tokenizer.special_token_ids, *tokenizer.added_tokens.values()])


def split_prompt(
    template: ChatTemplate,
    tokenizer: Tokenizer,
    messages: Sequence[dict[str, Any]],
    ids: Sequence[int],
) -> tuple[list[Piece], list[str], list[int | None]]:
    """What a model was given, in pieces that are told apart.

    Args:
        template: the model's.
        tokenizer: the model's.
        messages: of the conversation; the last one is the question.
        ids: the tokens that they were made into.

    Returns:
        the pieces; the question's words; and for each token which of these it is of, or None.
    """
    text = template.render(messages, add_generation_prompt=True)
    said = [_message_span(template, messages, i, text) for i in range(len(messages))]
    begin, end = said[-1]
    words = [(m.start() + begin, m.end() + begin) for m in re.finditer(r"\S+", text[begin:end])]
    places: list[int | None] = []
    marks: list[tuple[int, int]] = []  # control tokens
    control = control_token_ids(tokenizer)
    for token, (start, stop) in zip(ids, _token_spans(tokenizer, ids, text), strict=True):
        inside = any(a <= start < b for a, b in said)
        if token in control and not inside:
            marks.append((start, stop))
            places.append(None)
            continue
        # A token begins with the space before its word.
        solid = start + len(text[start:stop]) - len(text[start:stop].lstrip())
        solid = min(solid, max(start, stop - 1))
        places.append(next((w for w, (a, b) in enumerate(words) if a <= solid < b), None))
    pieces = list(_cut_at(text, said, words, marks))
    return pieces, [text[a:b] for a, b in words], places


def _cut_at(
    text: str,
    said: Sequence[tuple[int, int]],
    words: Sequence[tuple[int, int]],
    marks: Sequence[tuple[int, int]],
) -> Iterator[Piece]:
    """A text in pieces of one kind each."""
    edges = sorted({0, len(text), *(place for span in (*said, *words, *marks) for place in span)})
    for a, b in itertools.pairwise(edges):
        word = next((i for i, (start, end) in enumerate(words) if start <= a < end), None)
        kind = "word" if any(start <= a < end for start, end in said) else "template"
        if any(start <= a < end for start, end in marks):
            kind = "control"
        yield Piece(text[a:b], kind, word)


def _message_span(
    template: ChatTemplate, messages: Sequence[dict[str, Any]], index: int, text: str
) -> tuple[int, int]:
    """Where a message stands in the text that a template makes; nowhere, where that is not told."""
    others = [
        {**message, "content": _STAND_IN} if i == index else message
        for i, message in enumerate(messages)
    ]
    before, found, after = template.render(others, add_generation_prompt=True).partition(_STAND_IN)
    if found and text.startswith(before) and text.endswith(after):
        return len(before), max(len(before), len(text) - len(after))
    content = messages[index]["content"].strip()
    start = text.rfind(content)
    return (start, start + len(content)) if start >= 0 else (0, 0)


def _token_spans(tokenizer: Tokenizer, ids: Sequence[int], text: str) -> Iterator[tuple[int, int]]:
    """Where each token stands in a text, in characters, as far as its bytes are found there."""
    data = text.encode()
    # Characters that begin before each byte.
    starts = np.cumsum([(byte & 0xC0) != 0x80 for byte in data], dtype=np.int64)

    def character(at: int) -> int:
        return len(text) if at >= len(data) else int(starts[at]) - 1

    at = 0
    for token in ids:
        spelled = tokenizer.token_bytes(token)
        for wanted in (spelled, spelled.removeprefix(b" ")):  # SentencePiece puts a space in front
            if data.startswith(wanted, at):
                start, at = at, at + len(wanted)
                break
        else:
            start = at  # what the tokenizer changed or added: of no width
        yield character(start), character(at) if at > start else character(start)
