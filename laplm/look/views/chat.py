"""A conversation under the lens: how sure each token of an answer is, and what it looked at.

What a token looked at is the attention of the position that wrote it. Shares are the mean over all
heads of the upper half of the layers, of what goes to a word of the question (the sum over its
tokens); beside it stands the one of these heads that looks most at one word. The rest goes to the
answer itself, to other messages, and to what the chat template writes: above all to the first
token, where heads rest that find nothing.

Shapes: N tokens of the answer, W words of the question, T positions, H heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from laplm.errors import InputError
from laplm.look import figures, passes
from laplm.look.prompt_pieces import Piece, control_token_ids, split_prompt
from laplm.look.view import (
    AnswerAttention,
    Column,
    PagePart,
    Part,
    Passage,
    Span,
    Table,
    View,
    Word,
    model_label,
)
from laplm.look.views.generation import logits_drawn_from, pieces_of
from laplm.look.views.next_token import entropy
from laplm.look.words import percent, quoted
from laplm.model.families.ops import softmax
from laplm.run.chat import Conversation
from laplm.run.language_model import LanguageModel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float32]
Ids = NDArray[np.int64]

_LOOKED_AT = 3  # words that are told of a token
_PICTURED = 40  # tokens in a picture


@dataclass(frozen=True, eq=False)
class Chat(View):
    """An answer, token by token, and what each token looked at in the question.

    Attributes:
        model: the model's name.
        question: what was asked.
        answer: what was answered.
        finish_reason: "length", "eos" or "stop".
        seed: the same seed gives the same answer again.
        pieces: what the model was given, control tokens included.
        words: of the question (W).
        ids: the answer's tokens, one that ends it included (N).
        labels: as text, white space made visible.
        texts: the text that each completes; none of a control token.
        control: which of them are control tokens (N).
        probabilities: of each in the model's own distribution (N).
        entropies: of that distribution, in bits (N).
        shares: of attention to each word, the mean over the heads of ``layers`` (N, W).
        layers: the first and the last layer that are counted.
        heads: for each token the head among them that looks most at one word, (layer, head) (N, 2).
        head_words: at which word (N).
        head_shares: with which share of its attention (N).
    """

    model: str
    question: str
    answer: str
    finish_reason: str
    seed: int
    pieces: list[Piece]
    words: list[str]
    ids: Ids
    labels: list[str]
    texts: list[str]
    control: list[bool]
    probabilities: Array
    entropies: Array
    shares: Array
    layers: tuple[int, int]
    heads: Ids
    head_words: Ids
    head_shares: Array

    def parts(self) -> list[Part]:
        """See ``View``: the conversation, coloured, and the answer token by token."""
        spans = [
            Span(piece.text, None, f"{piece.kind} of the conversation") for piece in self.pieces
        ]
        spans += [
            Span(text if text or not control else label, float(p), self._tip(i))
            for i, (text, label, control, p) in enumerate(
                zip(self.texts, self.labels, self.control, self.probabilities, strict=True)
            )
        ]
        passage = Passage(
            title=f"{self.model} answers",
            spans=spans,
            note="The answer is coloured by probability, from warm (unlikely) to cool (likely).",
        )
        table = Table(
            title="the answer, token by token",
            columns=[
                Column("token"), Column("probability", 3, bar=True), Column("entropy, bits", 2),
                Column("looks at"), Column("share", 3), Column("of the question", 3),
                Column("head"), Column("its word"), Column("its share", 2),
            ],
            rows=[self._row(i) for i in range(len(self.ids))],
            note=self._note(),
        )  # fmt: skip
        return [passage, table]

    def page_parts(self) -> list[PagePart]:
        """See ``View``: the conversation, whose words answer to a token, and the table."""
        last = self.words
        words = [
            Word(piece.text, piece.kind, piece.word, piece.word is not None)
            for piece in self.pieces
        ]
        answer = [
            Span(label if control else text, float(p), self._tip(i))
            for i, (text, label, control, p) in enumerate(
                zip(self.texts, self.labels, self.control, self.probabilities, strict=True)
            )
        ]
        attended = AnswerAttention(
            title=f"{self.model} answers",
            words=words,
            answer=answer,
            weights=self.shares.reshape(len(answer), len(last)),
            note=f"Point at a token of the answer: the words of the question that it looked at. "
            f"{self._note()}",
        )
        return [attended, *(part for part in self.parts() if isinstance(part, Table))]

    def plot(self) -> Figure:
        """See ``View``: tokens of the answer × words of the question."""
        shown = slice(0, _PICTURED)
        cut = len(self.ids) - _PICTURED
        labels = [
            f"{label} {percent(float(p), 0)}"
            for label, p in zip(self.labels[shown], self.probabilities[shown], strict=True)
        ]
        return figures.heatmap(
            self.shares[shown],
            labels,
            self.words,
            self.sentence(),
            x_label="word of the question",
            y_label="token of the answer, and its probability",
            value_label=f"share of attention, mean over the heads of layers {self._between}",
            numbers=2,
            subtitle=f"“{figures.shorten_start(self.question)}”; {self.model}"
            + (f"; {cut} more tokens are left out" if cut > 0 else ""),
        )

    def sentence(self) -> str:
        """See ``View``: how sure the answer is, where it is least sure, and what it looked at."""
        said = [i for i, control in enumerate(self.control) if not control]
        if not said:
            return f"{self.model} ends its answer at once."
        least = min(said, key=lambda i: self.probabilities[i])
        mean = float(np.exp(np.log(np.maximum(self.probabilities[said], 1e-30)).mean()))
        text = (
            f"The answer's {len(said)} token{'s have' * (len(said) > 1) or ' has'} "
            f"{percent(mean)} (geometric mean); least sure is "
            f"{quoted(self.labels[least])} with {percent(float(self.probabilities[least]))} "
            f"(entropy {self.entropies[least]:.1f} bits)"
        )
        if not self.words:
            return f"{text}."
        word = int(self.shares[said].mean(axis=0).argmax())
        most = max(said, key=lambda i: self.shares[i, word])
        layer, head = (int(n) for n in self.heads[most])
        return (
            f"{text}; of the question it looks most at {quoted(self.words[word])}, most of all for "
            f"{quoted(self.labels[most])} ({percent(float(self.shares[most, word]))} of all "
            f"attention; head {layer}.{head} gives {quoted(self.words[self.head_words[most]])} "
            f"{percent(float(self.head_shares[most]), 0)})."
        )

    @property
    def _between(self) -> str:
        first, last = self.layers
        return f"{first}" if first == last else f"{first} to {last}"

    def _note(self) -> str:
        return (
            "What a token looked at: attention of the position that wrote it to each word of the "
            f"question, the mean over all heads of layers {self._between}. Control tokens and what "
            f"the template writes are no words. Seed {self.seed}."
        )

    def _looks(self, i: int) -> list[tuple[str, float]]:
        order = np.argsort(-self.shares[i], kind="stable")[:_LOOKED_AT]
        return [(self.words[j], float(self.shares[i, j])) for j in order]

    def _tip(self, i: int) -> str:
        text = (
            f"{quoted(self.labels[i])} {percent(float(self.probabilities[i]))}, entropy "
            f"{self.entropies[i]:.2f} bits"
        )
        if self.words:
            looks = ", ".join(f"{quoted(word)} {percent(share)}" for word, share in self._looks(i))
            layer, head = self.heads[i]
            text += (
                f"; looked at {looks}; head {layer}.{head} at "
                f"{quoted(self.words[self.head_words[i]])} "
                f"{percent(float(self.head_shares[i]), 0)}"
            )
        return text

    def _row(self, i: int) -> list[Any]:
        row = [self.labels[i], float(self.probabilities[i]), float(self.entropies[i])]
        if not self.words:
            return [*row, *[None] * 6]
        word, share = self._looks(i)[0]
        layer, head = self.heads[i]
        return [
            *row, word, share, float(self.shares[i].sum()), f"{layer}.{head}",
            self.words[self.head_words[i]], float(self.head_shares[i]),
        ]  # fmt: skip

    def _main(self) -> Table:
        return next(part for part in self.parts() if isinstance(part, Table))


def chat(
    model: LanguageModel,
    message: str,
    *,
    system: str | None = None,
    earlier: Sequence[str] = (),
    max_new_tokens: int = 64,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    seed: int | None = None,
) -> Chat:
    """Ask a chat model something, and see how sure it is and what it looks at in the question.

    Args:
        model: a model with a chat template.
        message: what is asked.
        system: what the model is told about all its answers.
        earlier: what was said before, by turns the person's and the model's.
        max_new_tokens: tokens of the answer, at most.
        temperature: as in ``SamplingParams``, like the four after it; None is the model's own.
        top_k: see above.
        top_p: see above.
        min_p: see above.
        repetition_penalty: see above.
        seed: the same seed gives the same answer; None draws one.

    Raises:
        ChatTemplateError: the template refuses the messages.
        ContextLengthError: the message does not fit the model's context by itself.
        InputError: the model has no chat template, a message is empty, or a setting is out of its
            range.
    """
    if not message.strip():
        raise InputError("the message is empty; ask something")
    if len(earlier) % 2:
        raise InputError(
            f"earlier holds {len(earlier)} messages, but they come in pairs: what a person said, "
            "and what was answered"
        )
    settings = {
        "temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p,
        "repetition_penalty": repetition_penalty, "seed": seed, "max_new_tokens": max_new_tokens,
    }  # fmt: skip
    conversation = Conversation(model, system=system, settings=settings)
    roles = ("user", "assistant")
    said: list[dict[str, Any]] = [
        {"role": roles[i % 2], "content": text} for i, text in enumerate(earlier)
    ]
    conversation.messages = said
    answering = conversation.say(message)
    for _ in answering:
        passes.check_cancelled()
    result = answering.close()
    before, ids = list(result.prompt_token_ids), list(result.token_ids)
    given = [*said, {"role": "user", "content": message}][conversation.forgotten :]
    if system:
        given = [{"role": "system", "content": system}, *given]
    assert model.chat_template is not None
    pieces, words, word_of = split_prompt(model.chat_template, model.tokenizer, given, before)
    probabilities, entropies = _chances(model, before, ids)
    attention = _QuestionAttention(model, before, ids, len(words), word_of)
    special = control_token_ids(model.tokenizer)
    texts = list(pieces_of(model, ids))
    return Chat(
        model=model_label(model),
        question=message,
        answer=result.text,
        finish_reason=result.finish_reason,
        seed=result.seed,
        pieces=pieces,
        words=words,
        ids=np.array(ids, np.int64),
        labels=passes.token_labels(model, ids),
        texts=texts,
        control=[i in special for i in ids],
        probabilities=probabilities,
        entropies=entropies,
        shares=attention.shares,
        layers=attention.layers,
        heads=attention.heads,
        head_words=attention.head_words,
        head_shares=attention.head_shares,
    )


def _chances(model: LanguageModel, before: list[int], ids: list[int]) -> tuple[Array, Array]:
    """The probability of each of the answer's tokens, and the entropy of its distribution."""
    known = min(model.tokenizer.vocab_size, model.config.vocab_size)
    own, bits = [], []
    for token, logits in zip(ids, logits_drawn_from(model.gpt, before, ids), strict=True):
        p = softmax(logits[:known])
        own.append(p[token])
        bits.append(entropy(p))
    return np.array(own, np.float32), np.array(bits, np.float32)


class _QuestionAttention:
    """What the positions that wrote an answer attended to in a question's words.

    Attributes:
        layers, shares, heads, head_words, head_shares: as those of ``Chat``.
    """

    def __init__(
        self,
        model: LanguageModel,
        before: list[int],
        ids: list[int],
        n_words: int,
        word_of: Sequence[int | None],
    ) -> None:
        first, last = model.config.n_layer // 2, model.config.n_layer - 1
        count, self.layers = len(ids), (first, last)
        self.shares = np.zeros((count, n_words), np.float32)
        self.heads = np.zeros((count, 2), np.int64)
        self.head_words = np.zeros(count, np.int64)
        self.head_shares = np.zeros(count, np.float32)
        if not n_words:
            return
        # (T, W): which positions are of which word; the answer's own are of none.
        of = np.zeros((len(before) + count - 1, n_words), np.float32)
        for position, word in enumerate(word_of):
            if word is not None:
                of[position, word] = 1
        rows = slice(len(before) - 1, len(before) - 1 + count)

        def record_pattern(name: str, layer: int | None, x: Array) -> None:
            if name != "pattern" or layer is None or layer < first:
                return
            shares = x[:, rows] @ of  # (H, N, W)
            self.shares += shares.mean(axis=0) / np.float32(last - first + 1)
            flat = shares.transpose(1, 0, 2).reshape(count, -1)  # (N, H W)
            best = flat.argmax(axis=1)
            most = flat[np.arange(count), best]
            more = most > self.head_shares
            self.head_shares[more] = most[more]
            self.head_words[more] = best[more] % n_words
            self.heads[more] = np.stack([np.full(count, layer), best // n_words], axis=1)[more]

        passes.forward(model, [*before, *ids[:-1]], record_pattern, last_only=True)
