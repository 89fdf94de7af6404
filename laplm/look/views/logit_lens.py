"""The logit lens: what each layer would say comes next, if it were the last.

The residual stream after a layer goes straight to the model's last norm and output matrix. Source:
nostalgebraist 2020, "interpreting GPT: the logit lens".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from laplm.look import figures, passes
from laplm.look.view import Column, Grid, Model, PagePart, Part, Table, View, model_label
from laplm.look.words import describe_lead, percent, quoted
from laplm.model.activations import Key
from laplm.model.families import family_of
from laplm.model.families.ops import softmax
from laplm.progress import Progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float32]
Ids = NDArray[np.int64]

_LOGITS = 1 << 24  # that are in memory at once, of positions of one stage or of several


@dataclass(frozen=True, eq=False)
class Lens(View):
    """What every layer would predict at every position.

    S stages: the embedding, then the residual stream after each layer; the last is the model's own
    answer. S = n_layer + 1.

    Attributes:
        model: its name.
        tokens: the text's tokens (T), white space made visible.
        stages: "embedding", then the layers' numbers, (S).
        top_ids: the likeliest next token, (S, T).
        top_tokens: its text, (S, T).
        top_probabilities: its probability, (S, T).
        answer_probabilities: probability of the token that is the model's own answer, (S, T).
        answer_ranks: place of that token in the order of probabilities, 1 is the first, (S, T).
        first: the first stage that has the answer in first place, (T).
        settled: the stage from which on the answer stays in first place, (T).
    """

    model: str
    tokens: list[str]
    stages: list[str]
    top_ids: Ids
    top_tokens: list[list[str]]
    top_probabilities: Array
    answer_probabilities: Array
    answer_ranks: Ids
    first: Ids
    settled: Ids

    def parts(self) -> list[Part]:
        """What each layer would predict at each position; the last position closely."""
        every = Table(
            title="the likeliest next token after every layer",
            columns=[
                Column("position"), Column("token"),
                *map(Column, self.stages),
                Column("probability", 3, bar=True), Column("first at"), Column("settled at"),
            ],
            rows=[
                [
                    i, token, *(row[i] for row in self.top_tokens),
                    self.top_probabilities[-1, i], self.stages[self.first[i]],
                    self.stages[self.settled[i]],
                ]
                for i, token in enumerate(self.tokens)
            ],
            note="The last layer's token is the model's answer, with its probability. First at: "
            "the first layer that has the answer in first place. Settled at: the layer from which "
            "on it stays there.",
        )  # fmt: skip
        last = Table(
            title=f"{self.model}: what follows “{self.tokens[-1]}”, from the last layer down",
            columns=[
                Column("after"), Column("likeliest"), Column("probability", 4, bar=True),
                Column("answer's probability", 4, bar=True), Column("answer's rank"),
            ],
            rows=[
                [
                    stage, self.top_tokens[i][-1], self.top_probabilities[i, -1],
                    self.answer_probabilities[i, -1], self.answer_ranks[i, -1],
                ]
                for i, stage in reversed(list(enumerate(self.stages)))
            ],
        )  # fmt: skip
        chances = Grid(
            title="probability of the model's answer",
            values=self.answer_probabilities,
            row_labels=self.stages,
            column_labels=self.tokens,
        )
        return [last, every, chances]

    def page_parts(self) -> list[PagePart]:
        """See ``View``: a map of what each layer would say, and the tables."""
        told = (self.top_tokens, self.top_probabilities, self.answer_probabilities)
        tips = [
            [
                f"{quoted(token)} {percent(float(p))}"
                + f", the model's answer {quoted(answer)} {percent(float(own))}" * (token != answer)
                for token, p, own, answer in zip(*row, self.top_tokens[-1], strict=True)
            ]
            for row in zip(*told, strict=True)
        ]
        likeliest = Grid(
            title=f"{self.model}: what each layer would say comes next",
            values=self.top_probabilities[::-1],
            row_labels=[f"after layer {stage}" if i else stage
                        for i, stage in reversed(list(enumerate(self.stages)))],
            column_labels=self.tokens,
            texts=self.top_tokens[::-1],
            tips=tips[::-1],
            note="The colour is the probability of the token in the cell. Top row: the model's "
            "answer.",
        )  # fmt: skip
        return [likeliest, *(part for part in self.parts() if isinstance(part, Table))]

    def sentence(self) -> str:
        """See ``View``: from which layer on the answer leads, and what led before."""
        stage, n_layer = int(self.settled[-1]), len(self.stages) - 1
        answer = quoted(self.top_tokens[-1][-1])
        said = f"After {quoted(self.tokens[-1])}, {answer} {describe_lead(stage, n_layer)}"
        said += f", with {percent(self.top_probabilities[-1, -1])} at the end"
        if stage:
            before = quoted(self.top_tokens[stage - 1][-1])
            led = percent(self.top_probabilities[stage - 1, -1])
            said += (
                f"; before that, {before} leads with {led} and {answer} has "
                f"{percent(self.answer_probabilities[stage - 1, -1])}"
            )
        return f"{said}."

    def _main(self) -> Table:
        """Every position, for data."""
        return next(p for p in self.parts()[1:] if isinstance(p, Table))

    def plot(self) -> Figure:
        """Layers from below to above, positions from left to right, the likeliest token in each."""
        last = len(self.stages) - 1
        return figures.heatmap(
            self.top_probabilities[::-1],
            self.stages[::-1],
            self.tokens,
            "Logit lens: what each layer would say comes next",
            x_label="the text, token by token",
            y_label="after layer",
            value_label="probability of the token in the cell",
            limit=1.0,
            texts=self.top_tokens[::-1],
            marked=[(int(last - stage), i) for i, stage in enumerate(self.first)],
            subtitle="top row: the model's answer; framed: the first layer that gives it; "
            f"{self.model}",
        )


def logit_lens(model: Model, text: passes.Text, *, progress: Progress | None = None) -> Lens:
    """Read the residual stream after every layer as a prediction.

    Args:
        model: the model.
        text: what to run: text, bytes or token ids.
        progress: called with ("layers", done, in all).

    Raises:
        ContextLengthError: the text has more tokens than the model has positions.
        InputError: the text is empty.
    """
    return lens_from(model, passes.encode(model, text), 0, progress)


def lens_from(
    model: Model, ids: Sequence[int], first: int, progress: Progress | None = None
) -> Lens:
    """The same for the positions of a text from ``first`` on: what is said behind each.

    Args:
        model: the model.
        ids: token ids of the whole text.
        first: the first position that is read.
        progress: as ``logit_lens``.

    Raises:
        ContextLengthError: the text has more tokens than the model has positions.
    """
    cache = passes.run_with_cache(model, ids, ["resid_pre", "resid_post"])
    streams = [stream[first:] for stream in residual_streams(model, cache)]
    return lens_of(model, passes.token_labels(model, ids[first:]), streams, progress=progress)


def residual_streams(model: Model, cache: Mapping[Key, Array]) -> list[Array]:
    """The residual stream before the first layer and after each, from ``resid_pre, resid_post``."""
    after = (cache["resid_post", layer] for layer in range(model.config.n_layer))
    return [cache["resid_pre", 0], *after]


def lens_of(
    model: Model,
    tokens: list[str],
    streams: Sequence[Array],
    *,
    followed: int | None = None,
    progress: Progress | None = None,
) -> Lens:
    """The same from residual streams that are there already.

    Args:
        model: the model.
        tokens: the tokens at the positions that are read, (T).
        streams: their residual streams, (T, C) for each stage.
        followed: the token whose probability and rank are told; None: the model's own answer, at
            each position.
        progress: as ``logit_lens``.
    """
    n_layer, count = model.config.n_layer, len(tokens)
    top = np.zeros((n_layer + 1, count), np.int64)
    top_probabilities = np.zeros(top.shape, np.float32)
    answer_probabilities = np.zeros(top.shape, np.float32)
    ranks = np.zeros(top.shape, np.int64)
    # From the last, whose first choice is the answer that the others are held against. Several
    # stages at once: each product with the output matrix unpacks all of it, which takes longer
    # than to multiply with a few rows.
    stages = np.repeat(np.arange(n_layer, -1, -1), count)
    positions = np.tile(np.arange(count), n_layer + 1)
    rows = np.concatenate(streams[::-1])
    at_once = max(1, _LOGITS // model.config.vocab_size)
    for start in range(0, len(rows), at_once):
        if progress is not None:
            progress("layers", start // count, n_layer + 1)
        some = slice(start, start + at_once)
        stage, position = stages[some], positions[some]
        # A vocabulary may be padded with tokens that the tokenizer does not know.
        known = _probabilities(model, rows[some])[:, : model.tokenizer.vocab_size]
        top[stage, position] = known.argmax(axis=-1)
        wanted = top[-1, position, None]
        if followed is not None:
            wanted = np.full_like(wanted, followed)
        answer = np.take_along_axis(known, wanted, axis=-1)
        answer_probabilities[stage, position] = answer[:, 0]
        top_probabilities[stage, position] = known.max(axis=-1)
        ranks[stage, position] = 1 + (known > answer).sum(axis=-1)
    if progress is not None:
        progress("layers", n_layer + 1, n_layer + 1)
    right = top == top[-1]
    return Lens(
        model=model_label(model),
        tokens=tokens,
        stages=["embedding", *map(str, range(n_layer))],
        top_ids=top,
        top_tokens=[passes.token_labels(model, row.tolist()) for row in top],
        top_probabilities=top_probabilities,
        answer_probabilities=answer_probabilities,
        answer_ranks=ranks,
        first=right.argmax(axis=0),
        settled=np.logical_and.accumulate(right[::-1])[::-1].argmax(axis=0),
    )


def _probabilities(model: Model, stream: Array) -> Array:
    """Residual streams (T, C) as probabilities of the next token (T, V)."""
    logits = family_of(model.config).unembed(stream, passes.weights(model), model.config)
    return softmax(logits)
