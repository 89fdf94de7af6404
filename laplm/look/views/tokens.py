"""How a text becomes tokens: their ids, their bytes, and the merges that made them.

Source of the merging: Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword
Units", section 3.2; over bytes as in Radford et al. 2019, section 2.2.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from laplm.errors import InputError
from laplm.look import figures
from laplm.look.view import Column, Model, Part, Passage, Span, Table, View, model_label, visible
from laplm.look.words import counted, quoted

if TYPE_CHECKING:
    from matplotlib.figure import Figure


MAX_MERGED = 1000
"""Bytes of the longest text whose merges are recorded: every step repeats a whole word."""


@dataclass(frozen=True)
class Merge:
    """One step of byte-pair encoding within a word.

    Attributes:
        rank: the pair's place in the merge table; the least that is possible comes first.
        left: the left part, as text with white space and unfinished characters made visible.
        right: the right part.
        pieces: the word after the step.
    """

    rank: int
    left: str
    right: str
    pieces: tuple[str, ...]


@dataclass(frozen=True)
class Word:
    """A piece of the text that is merged by itself.

    Attributes:
        text: the word, as text with white space and unfinished characters made visible.
        first: position of its first token.
        pieces: its bytes, with which merging begins.
        merges: step by step; after the last one nothing in the table fits.
        merged: whether its tokens come from these merges; a token that was added to the
            vocabulary by itself is not made by merging.
    """

    text: str
    first: int
    pieces: tuple[str, ...]
    merges: tuple[Merge, ...]
    merged: bool


@dataclass(frozen=True)
class Tokens(View):
    """A text as tokens. T: how many.

    Attributes:
        model: the model whose tokenizer it is.
        text: the text.
        ids: token ids, (T,).
        labels: each token as text with white space and unfinished characters made visible.
        bytes_hex: the bytes of each token, in hexadecimal.
        words: the words that the text was cut into, when merges were asked for.
        n_ctx: the model's context, in tokens.
    """

    model: str
    text: str
    ids: NDArray[np.int64]
    labels: tuple[str, ...]
    bytes_hex: tuple[str, ...]
    words: tuple[Word, ...]
    n_ctx: int

    def parts(self) -> list[Part]:
        """The tokens; the text with its tokens told apart; the merges."""
        n_bytes = sum(len(b.split()) for b in self.bytes_hex)
        note = f"{counted(len(self.ids), 'token')} for {counted(n_bytes, 'byte')}"
        if len(self.ids) > self.n_ctx:
            note += f", more than the {self.n_ctx:,} that {self.model} can take at once"
        if any(not _is_utf8(piece) for piece in map(bytes.fromhex, self.bytes_hex)):
            note += "; \\x… is a byte of a character that no token here holds whole"
        table = Table(
            title=f"tokens of {self.model}",
            columns=[
                Column("position", label=True), Column("id", label=True), Column("text"),
                Column("bytes"),
            ],
            rows=[
                [i, int(id_), label, hexed]
                for i, (id_, label, hexed) in enumerate(
                    zip(self.ids, self.labels, self.bytes_hex, strict=True)
                )
            ],
            note=f"{note}.",
        )  # fmt: skip
        shades = itertools.cycle((0.0, 1.0))
        spans = [
            Span(label + ("\n" if "↵" in label else ""), shade, f"{id_}")
            for label, shade, id_ in zip(self.labels, shades, self.ids, strict=False)
        ]
        parts: list[Part] = [table, Passage(title="the text, token by token", spans=spans)]
        if self.words:
            parts.append(self._merges())
        return parts

    def _merges(self) -> Table:
        rows: list[list[Any]] = []
        for word in self.words:
            start = [word.text, None, "", " ".join(word.pieces)]
            if not word.merged:
                rows.append([word.text, None, "not made by merging", " ".join(word.pieces)])
                continue
            steps = [
                [None, m.rank, f"{m.left} + {m.right}", " ".join(m.pieces)] for m in word.merges
            ]
            rows += [start, *steps]
        return Table(
            title="merges, word by word",
            columns=[
                Column("word"), Column("rank", label=True), Column("merged"), Column("pieces"),
            ],
            rows=rows,
            note="Of all neighbours, the pair that stands first in the merge table becomes one, "
            "until no pair is in the table.",
        )  # fmt: skip

    def sentence(self) -> str:
        """See ``View``: how many tokens for how many bytes, and the longest."""
        sizes = [len(b.split()) for b in self.bytes_hex]
        said = f"{counted(len(sizes), 'token')} for {counted(sum(sizes), 'byte')}"
        if len(sizes) == 1:
            return f"The text is {said}."
        longest = max(sizes)
        if longest == min(sizes):
            return f"The text is {said}: each has {longest}."
        label = quoted(self.labels[sizes.index(longest)])
        which = f"the longest, {label}, has"
        if (count := sizes.count(longest)) > 1:
            which = f"the {count} longest, such as {label}, have"
        mean = sum(sizes) / len(sizes)
        return f"The text is {said}, {mean:.1f} bytes each on average; {which} {longest}."

    def plot(self) -> Figure:
        """The text in boxes, one a token, with ids; at most the first 400."""
        shown = min(len(self.ids), 400)
        title = f"{counted(len(self.ids), 'token')} of {self.model}"
        return figures.boxes(
            self.labels[:shown],
            [str(i) for i in self.ids[:shown]],
            title if shown == len(self.ids) else f"{title}, the first {shown}",
            subtitle="· is a space, ↵ a new line; under each token its id",
        )


def tokens(model: Model, text: str | bytes, *, merges: bool = False) -> Tokens:
    """See a text as the model does: as tokens.

    Args:
        model: only its tokenizer is used.
        text: any text, or bytes that need not be UTF-8; it may be longer than the context.
        merges: also record, for every word, which pairs were merged in which order.

    Raises:
        InputError: the text is empty, holds half of a character, or is too long for merges.
    """
    tokenizer = model.tokenizer
    n_bytes = len(text.encode(errors="replace") if isinstance(text, str) else text)
    if merges and n_bytes > MAX_MERGED:
        raise InputError(
            f"the text has {n_bytes:,} bytes, and merges are shown step by step for at most "
            f"{MAX_MERGED:,}: give a shorter one, or leave the merges out"
        )
    words = tokenizer.encode_words(text) if merges else []
    ids = [i for word in words for i in word] if merges else tokenizer.encode(text)
    if not ids:
        raise InputError("the text is empty; give at least one character to look at")
    pieces = [tokenizer.token_bytes(i) for i in ids]
    ends = itertools.accumulate(map(len, words))
    return Tokens(
        model=model_label(model),
        text=text if isinstance(text, str) else text.decode("utf-8", errors="backslashreplace"),
        ids=np.array(ids, np.int64),
        labels=tuple(map(shown, pieces)),
        bytes_hex=tuple(piece.hex(" ").upper() for piece in pieces),
        words=tuple(
            _word(pieces[end - len(word) : end], end - len(word), tokenizer.merges)
            for word, end in zip(words, ends, strict=True)
        ),
        n_ctx=model.config.n_ctx,
    )


def shown(piece: bytes) -> str:
    """A token's bytes as text in which white space and parts of characters can be seen."""
    return visible(piece.decode("utf-8", errors="backslashreplace"))


def _is_utf8(piece: bytes) -> bool:
    try:
        piece.decode()
    except UnicodeDecodeError:
        return False
    return True


def merge_steps(
    word: bytes, ranks: Mapping[tuple[bytes, bytes], int]
) -> list[tuple[tuple[bytes, bytes], list[bytes]]]:
    """Byte-pair encoding of one word, step by step: (the pair that was merged, the pieces then).

    Of all pairs of neighbours the one of least rank is merged, the leftmost first.
    """
    pieces = [word[i : i + 1] for i in range(len(word))]
    steps: list[tuple[tuple[bytes, bytes], list[bytes]]] = []
    while True:
        pairs = list(itertools.pairwise(pieces))
        at = min(range(len(pairs)), key=lambda i: ranks.get(pairs[i], len(ranks)), default=None)
        if at is None or pairs[at] not in ranks:
            return steps
        pieces = [*pieces[:at], pieces[at] + pieces[at + 1], *pieces[at + 2 :]]
        steps.append((pairs[at], pieces))


def _word(pieces: Sequence[bytes], first: int, ranks: Mapping[tuple[bytes, bytes], int]) -> Word:
    whole = b"".join(pieces)
    steps = merge_steps(whole, ranks)
    merged = (steps[-1][1] if steps else [whole[i : i + 1] for i in range(len(whole))]) == pieces
    return Word(
        text=shown(whole),
        first=first,
        pieces=tuple(shown(whole[i : i + 1]) for i in range(len(whole))) if merged
        else tuple(map(shown, pieces)),
        merges=tuple(
            Merge(ranks[pair], shown(pair[0]), shown(pair[1]), tuple(map(shown, after)))
            for pair, after in steps
        ) if merged else (),
        merged=merged,
    )  # fmt: skip
