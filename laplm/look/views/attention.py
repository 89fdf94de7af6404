"""Where heads look: the pattern of each, and how far it is of a kind that is known.

A pattern is the softmax of query-key products: row t says how position t shares its attention
among the positions up to its own. Kinds of heads, each scored by the share of its attention that
goes where that kind looks (the mean over the positions that have such a place):

- previous token: to the token before;
- first token: to the first position, where heads rest that find nothing (Vig and Belinkov 2019,
  "Analyzing the Structure of Attention in a Transformer Language Model", section 5.2);
- duplicate token: to earlier occurrences of the same token (Wang et al. 2023, "Interpretability in
  the Wild: a Circuit for Indirect Object Identification in GPT-2 Small", section 3);
- induction: to the tokens that came after those (Olsson et al. 2022, "In-context Learning and
  Induction Heads", prefix matching: random tokens repeated four times, after a token that begins
  texts).

The places are those of TransformerLens's ``head_detector``, which divides by all attention, that
of positions without such a place included.

Shapes: L layers shown, K heads shown of each, T positions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from laplm.errors import InputError
from laplm.look import figures, passes
from laplm.look.view import Column, Grid, Maps, Model, Part, Table, View
from laplm.model.tokenizer import begin_of_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float32]
Places = NDArray[np.bool_]

KINDS = ("previous token", "first token", "duplicate token", "induction")
_STRONGEST = 3


@dataclass(frozen=True)
class HeadKinds(View):
    """How far each head is of a known kind, on random tokens that are repeated.

    Attributes:
        model: the model's name.
        length: how many random tokens were repeated.
        repeats: how often they came.
        seed: which random tokens.
        previous: share of attention to the token before, (layers, heads).
        first: to the first position, (layers, heads).
        duplicate: to earlier occurrences of the same token, (layers, heads).
        induction: to what came after those, (layers, heads).
    """

    model: str
    length: int
    repeats: int
    seed: int
    previous: Array
    first: Array
    duplicate: Array
    induction: Array

    @property
    def scores(self) -> dict[str, Array]:
        """The four by the names of ``KINDS``."""
        four = (self.previous, self.first, self.duplicate, self.induction)
        return dict(zip(KINDS, four, strict=True))

    def parts(self) -> list[Part]:
        """See ``View``: every head with its scores, those most of a kind first."""
        stacked = np.stack(list(self.scores.values()))  # (kinds, layers, heads)
        order = np.argsort(-stacked.max(axis=0), axis=None, kind="stable")
        places = [np.unravel_index(i, stacked.shape[1:]) for i in order]
        return [
            Table(
                title=self._title,
                columns=[
                    Column("layer"),
                    Column("head"),
                    *(Column(kind, digits=2, bar=True) for kind in KINDS),
                ],
                rows=[
                    [int(layer), int(head), *(float(s) for s in stacked[:, layer, head])]
                    for layer, head in places
                ],
                note=_definition(self.length, self.repeats),
            )
        ]

    def plot(self) -> Figure:
        """See ``View``: a map of layers × heads for each kind."""
        layers, heads = ([str(i) for i in range(size)] for size in self.previous.shape)
        return figures.panels(
            [
                figures.Panel(
                    values=values,
                    title=kind,
                    row_labels=layers,
                    column_labels=heads,
                    x_label="head",
                    y_label="layer",
                )
                for kind, values in self.scores.items()
            ],
            self._title,
            value_label="share of attention",
            across=2,
            subtitle=f"{self.length} random tokens, {self.repeats} times",
        )

    @property
    def _title(self) -> str:
        return f"{self.model}: heads of known kinds"


@dataclass(frozen=True)
class Attention(View):
    """The patterns of one head or of many, and what kinds of heads they are.

    Attributes:
        model: the model's name.
        tokens: the text, token by token.
        layers: the layers shown.
        heads: the heads shown of each layer.
        pattern: (L, K, T, T); rows look at columns, 0 where the causal mask hides the column.
        kinds: scores of all heads of the model, on random tokens.
    """

    model: str
    tokens: list[str]
    layers: list[int]
    heads: list[int]
    pattern: Array
    kinds: HeadKinds

    def parts(self) -> list[Part]:
        """See ``View``: where each position looks most, or each head; one head also as a map."""
        scores = Table(
            title="How far they are heads of known kinds" if self._many else "What kind it is",
            columns=[
                Column("layer"), Column("head"),
                *(Column(kind, digits=2, bar=True) for kind in KINDS),
            ],
            rows=[
                [layer, head, *(float(s[layer, head]) for s in self.kinds.scores.values())]
                for layer in self.layers
                for head in self.heads
            ],
            note=_definition(self.kinds.length, self.kinds.repeats),
        )  # fmt: skip
        if self._many:
            maps = Maps(
                title=self._title,
                values=_masked(self.pattern),
                row_labels=[f"layer {layer}" for layer in self.layers],
                column_labels=[f"head {head}" for head in self.heads],
                note="Rows look at columns. What is empty is hidden by the causal mask.",
            )
            return [maps, scores]
        pattern = self.pattern[0, 0]
        rows = []
        for at, row in enumerate(pattern):
            strongest = np.argsort(-row[: at + 1], kind="stable")[:_STRONGEST]
            pairs = [x for i in strongest for x in (f"{i} {self.tokens[i]}", float(row[i]))]
            rows.append([at, self.tokens[at], *pairs, *[None] * (2 * _STRONGEST - len(pairs))])
        columns = [
            Column("position"),
            Column("token"),
            Column("looks at"),
            Column("share", 2, bar=True),
        ]
        for rank in range(2, _STRONGEST + 1):
            columns += [Column(f"then {rank}"), Column(f"share {rank}", 2)]
        looks = Table(title=self._title, columns=columns, rows=rows)
        labels = [f"{i} {token}" for i, token in enumerate(self.tokens)]
        grid = Grid(
            title="Attention of each position (row) to those up to it (column)",
            values=_masked(pattern),
            row_labels=labels,
            column_labels=labels,
            note="What is empty is hidden by the causal mask.",
        )
        return [looks, grid, scores]

    def plot(self) -> Figure:
        """See ``View``: one head as a labelled map, or all heads as small multiples."""
        if self._many:
            return figures.small_multiples(
                [_masked(pattern) for layer in self.pattern for pattern in layer],
                [str(head) for _ in self.layers for head in self.heads],
                self._title,
                columns=len(self.heads),
                row_titles=[f"layer {layer}" for layer in self.layers],
                limit=1.0,
            )
        kinds = ", ".join(
            f"{kind} {scores[self.layers[0], self.heads[0]]:.2f}"
            for kind, scores in self.kinds.scores.items()
        )
        return figures.heatmap(
            _masked(self.pattern[0, 0]),
            self.tokens,
            self.tokens,
            self._title,
            x_label="looked at",
            y_label="position that looks",
            value_label="share of its attention",
            limit=1.0,
            subtitle=f"as a head of known kinds: {kinds}",
        )

    @property
    def _many(self) -> bool:
        return self.pattern.shape[:2] != (1, 1)

    @property
    def _title(self) -> str:
        if not self._many:
            return f"{self.model}: attention of layer {self.layers[0]}, head {self.heads[0]}"
        which = f"layer {self.layers[0]}" if len(self.layers) == 1 else "every layer"
        return f"{self.model}: attention of {which}, a square for each head (yellow is all of it)"


def attention(
    model: Model, text: passes.Text, *, layer: int | None = None, head: int | None = None
) -> Attention:
    """Where heads look in a text.

    Args:
        model: the model.
        text: the text.
        layer: only this layer's heads.
        head: only this head, of the layer or of every layer.

    Raises:
        ContextLengthError: the text has more tokens than the model has positions.
        InputError: the text is empty, or the layer or the head is not there.
    """
    config = model.config
    layers = list(range(config.n_layer)) if layer is None else [passes.check_layer(model, layer)]
    heads = list(range(config.n_head)) if head is None else [passes.check_head(model, head)]
    ids = passes.encode(model, text)
    run = passes.run_with_cache(model, ids, ["pattern"])
    return Attention(
        model=model.name,
        tokens=passes.token_labels(model, ids),
        layers=layers,
        heads=heads,
        pattern=np.stack([run["pattern", each][heads] for each in layers]),
        kinds=head_kinds(model),
    )


def head_kinds(model: Model, *, length: int = 25, repeats: int = 4, seed: int = 0) -> HeadKinds:
    """Score every head of a model as the kinds that are known, on ``repeated_tokens``.

    Args:
        model: the model.
        length: how many random tokens.
        repeats: how often they come, at least twice. Less, where the context is too short for it.
        seed: which tokens.

    Raises:
        InputError: a number is too small, or two repeats do not fit in the context or vocabulary.
    """
    ids = repeated_tokens(model, length=length, repeats=repeats, seed=seed)
    patterns = passes.run_with_cache(model, ids, ["pattern"]).stack(
        "pattern"
    )  # (layers, heads, T, T)
    previous, first, duplicate, induction = (
        score(patterns, where) for where in places(ids).values()
    )
    return HeadKinds(
        model.name, length, len(ids) // length, seed, previous, first, duplicate, induction
    )


def repeated_tokens(
    model: Model, *, length: int = 25, repeats: int = 4, seed: int = 0
) -> list[int]:
    """Random tokens, all different, that come several times in the same order.

    The token that begins texts comes first, where the model has one. Nothing but the repetition
    can be predicted. Arguments and errors as ``head_kinds``.
    """
    config = model.config
    if length < 2 or repeats < 2:
        raise InputError(f"length {length} and repeats {repeats} must both be 2 or more")
    begin = begin_of_text(model.tokenizer, config)
    ids = [] if begin is None else [begin]
    # A BPE numbers its tokens about in the order of frequency; like Olsson et al., the most and
    # the least frequent are left out.
    known = min(config.vocab_size, model.tokenizer.vocab_size)
    choice = np.arange(known // 10, known - known // 10)
    repeats = min(repeats, (config.n_ctx - len(ids)) // length)
    if repeats < 2 or length > len(choice):
        most = min((config.n_ctx - len(ids)) // 2, len(choice))
        raise InputError(f"length {length} is too long for the model: choose at most {most}")
    some: list[int] = (
        np.random.default_rng(seed).choice(choice, size=length, replace=False).tolist()
    )
    return ids + some * repeats


def places(ids: Sequence[int]) -> dict[str, Places]:
    """Where each kind of head looks in a text: by the names of ``KINDS``, (T, T)."""
    tokens, n = np.asarray(ids), len(ids)
    earlier = np.tri(n, k=-1, dtype=bool)
    duplicate = (tokens[:, None] == tokens[None, :]) & earlier
    after = np.zeros_like(duplicate)
    after[:, 1:] = duplicate[:, :-1]
    first = np.zeros_like(duplicate)
    first[1:, 0] = True
    four = (np.eye(n, k=-1, dtype=bool), first, duplicate, after)
    return dict(zip(KINDS, four, strict=True))


def score(pattern: Array, where: Places) -> Array:
    """The share of attention that goes to places: (..., T, T) and (T, T) to (...).

    The mean over positions that have such a place; NaN when none has.
    """
    rows = where.any(axis=-1)
    if not rows.any():
        return np.full(pattern.shape[:-2], math.nan, np.float32)
    out: Array = (pattern * where).sum(axis=-1)[..., rows].mean(axis=-1)
    return out


def _masked(pattern: Array) -> Array:
    """A pattern (..., T, T) with NaN where the causal mask hides the column."""
    visible = np.tri(pattern.shape[-1], dtype=bool)
    return np.where(visible, pattern, np.float32(math.nan))


def _definition(length: int, repeats: int) -> str:
    return (
        f"Shares of attention on {length} random tokens that come {repeats} times: to the token "
        "before; to the first position (Vig and Belinkov 2019); to earlier occurrences of the "
        "same token (Wang et al. 2023); to what came after those (Olsson et al. 2022)."
    )
