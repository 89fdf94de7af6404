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
from laplm.look import target as targets
from laplm.look.view import Column, Grid, Maps, Model, PagePart, Part, Table, View, model_label
from laplm.look.views.logit_attribution import attribution_of, required_activations
from laplm.look.words import counted, describe_key_heads, percent, quoted
from laplm.model.tokenizer import begin_of_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float32]
Places = NDArray[np.bool_]

TELLING = 3
"""How many heads are shown first, of all."""

KINDS = ("previous token", "first token", "duplicate token", "induction")
_STRONGEST = 3
_SQUARES = 160  # heads that are drawn one by one in a picture


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
        n_kv_head: key heads of each layer; neighbouring query heads share one.
    """

    model: str
    length: int
    repeats: int
    seed: int
    previous: Array
    first: Array
    duplicate: Array
    induction: Array
    n_kv_head: int

    @property
    def scores(self) -> dict[str, Array]:
        """The four by the names of ``KINDS``."""
        four = (self.previous, self.first, self.duplicate, self.induction)
        return dict(zip(KINDS, four, strict=True))

    @property
    def shared(self) -> str:
        """Which query heads share a key head, as a sentence; "" where each has its own."""
        return describe_key_heads(self.first.shape[1], self.n_kv_head)

    @property
    def definition(self) -> str:
        """What the scores are, and which query heads share a key head."""
        return (
            f"Shares of attention on {self.length} random tokens that come {self.repeats} times: "
            "to the token before; to the first position (Vig and Belinkov 2019); to earlier "
            "occurrences of the same token (Wang et al. 2023); to what came after those (Olsson et "
            f"al. 2022). {self.shared}"
        ).rstrip()

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
                note=self.definition,
            )
        ]

    def sentence(self) -> str:
        """See ``View``: the head that is most of each kind, and how many rest on the first."""
        before, same, after = (
            (f"head {i // values.shape[1]}.{i % values.shape[1]}", percent(float(values.max()), 0))
            for values in (self.previous, self.duplicate, self.induction)
            for i in [int(values.argmax())]
        )
        rest = int((self.first > 0.5).sum())
        return (
            f"On random tokens that come {self.repeats} times {before[0]} gives {before[1]} of its "
            f"attention to the token before, the most of all, {same[0]} {same[1]} to the same "
            f"token earlier and {after[0]} {after[1]} to what followed that (induction); {rest} of "
            f"{counted(self.first.size, 'head')} give more than half to the first token."
        )

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
        answer: the likeliest next token, white space made visible; None where heads were named.
        adds: what each head adds to its logit (direct logit attribution), (layers, heads); None
            where heads were named.
        telling: the most telling heads as (layer, head): those that add most. None where heads
            were named.
    """

    model: str
    tokens: list[str]
    layers: list[int]
    heads: list[int]
    pattern: Array
    kinds: HeadKinds
    answer: str | None = None
    adds: Array | None = None
    telling: list[tuple[int, int]] | None = None

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
            note=self.kinds.definition,
        )  # fmt: skip
        if self._many:
            maps = Maps(
                title=self._title,
                values=_masked(self.pattern),
                row_labels=[f"layer {layer}" for layer in self.layers],
                column_labels=[f"head {head}" for head in self.heads],
                note="Rows look at columns. What is empty is hidden by the causal mask. "
                f"{self.kinds.shared}".rstrip(),
            )
            return [maps, scores] if self.telling is None else [*self._most_telling(), maps, scores]
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

    def page_parts(self) -> list[PagePart]:
        """See ``View``: all heads in one part, the most telling ones first, then the tables."""
        rows = [f"layer {layer}" for layer in self.layers]
        telling = self.telling or []
        heads = Maps(
            title=f"{self.model}: where heads look",
            values=_masked(self.pattern),
            row_labels=rows,
            column_labels=[f"head {head}" for head in self.heads],
            tokens=self.tokens,
            marked=[(self.layers.index(a), self.heads.index(b)) for a, b in telling],
            marked_by=f"the most telling, by {self._telling_by()}" if telling else "",
            note="Rows look at columns. What is empty is hidden by the causal mask. "
            f"{self.kinds.shared}".rstrip(),
        )
        return [heads, *(part for part in self.parts() if isinstance(part, Table))]

    def _telling_by(self) -> str:
        assert self.answer is not None
        return f"what they add to the logit of {quoted(self.answer)}, the next token"

    def sentence(self) -> str:
        """See ``View``: where the most telling heads look, or the one that is shown."""
        end = quoted(self.tokens[-1])
        if self.telling is not None:
            layer, head = self.telling[0]
            told = [f"{a}.{b} at {self._look(self.pattern[a, b, -1])}" for a, b in self.telling[1:]]
            first = self._look(self.pattern[layer, head, -1])
            assert self.adds is not None and self.answer is not None
            return (
                f"From {end} head {layer}.{head} looks at {first} and adds most of the heads to "
                f"the logit of {quoted(self.answer)}, {self.adds[layer, head]:+.1f}"
                f"{', then ' * bool(told)}{' and '.join(told)}."
            )
        if self._many:
            ends = self.pattern[:, :, -1]
            i, j = (int(n) for n in np.unravel_index(ends.max(axis=-1).argmax(), ends.shape[:2]))
            return (
                f"From {end} head {self.layers[i]}.{self.heads[j]} looks most at one place, "
                f"{self._look(ends[i, j])}."
            )
        looks = self._look(self.pattern[0, 0, -1])
        return f"From {end} head {self.layers[0]}.{self.heads[0]} looks most at {looks}."

    def _main(self) -> Table:
        """The kinds of heads, for data; of one head where it looks."""
        tables = [part for part in self.parts() if isinstance(part, Table)]
        return tables[-1 if self.telling is not None else 0]

    def _look(self, row: Array) -> str:
        at = int(row.argmax())
        return f"{quoted(self.tokens[at])} with {percent(float(row[at]), 0)}"

    def _most_telling(self) -> list[Part]:
        """The most telling heads as labelled maps, and every head by how telling it is."""
        assert self.telling is not None and self.adds is not None
        by = self._telling_by()
        shown = np.stack([self.pattern[place] for place in self.telling])
        maps = Maps(
            title=f"{self.model}: the {len(shown)} most telling heads, in percent",
            values=_masked(shown)[None],
            row_labels=[""],
            column_labels=[f"{layer}.{head}" for layer, head in self.telling],
            tokens=self.tokens,
            note=f"Chosen by {by}. Rows look at columns.",
        )
        order = np.argsort(-self.adds, axis=None, kind="stable")
        places = [divmod(int(i), self.adds.shape[1]) for i in order]
        rows: list[list[object]] = []
        for layer, head in places:
            row = self.pattern[layer, head, -1]
            best = np.argsort(-row, kind="stable")[:2]
            pairs = [x for i in best for x in (self.tokens[i], float(row[i]))]
            adds = float(self.adds[layer, head])
            rows.append([f"{layer}.{head}", adds, *pairs, *[None] * (4 - len(pairs))])
        every = Table(
            title=f"where heads look from {quoted(self.tokens[-1])}, by {by}",
            columns=[
                Column("head"), Column("adds", 2, signed=True),
                Column("looks at"), Column("share", 2, bar=True), Column("then"),
                Column("share of it", 2),
            ],
            rows=rows,
            note=self.kinds.shared,
        )  # fmt: skip
        return [maps, every]

    def plot(self) -> Figure:
        """See ``View``: one head as a labelled map, or all heads as small multiples.

        Of very many heads the most telling ones, and what each of all adds.
        """
        if self.adds is not None and self.adds.size > _SQUARES:
            return self._plot_telling(self.adds)
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

    def _plot_telling(self, adds: Array) -> Figure:
        """The most telling heads as labelled maps, and what every head adds."""
        assert self.telling is not None
        rows, columns = ([str(i) for i in range(size)] for size in adds.shape)
        maps = [
            figures.Panel(
                values=_masked(self.pattern[place]),
                title=f"head {place[0]}.{place[1]}: {adds[place]:+.2f}",
                row_labels=self.tokens,
                column_labels=self.tokens,
            )
            for place in self.telling
        ]
        every = figures.Panel(
            values=adds,
            title=f"what each head adds to the logit of {quoted(self.answer or '')}",
            row_labels=rows,
            column_labels=columns,
            x_label="head",
            y_label="layer",
        )
        return figures.panels(
            [*maps, every],
            f"{self.model}: the {len(maps)} heads that add most to {quoted(self.answer or '')}",
            diverging=True,
            one_scale=False,
            across=2,
            subtitle=self.kinds.shared or "rows look at columns",
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
    patterns: dict[int, Array] = {}

    def keep(name: str, at: int | None, x: Array) -> None:
        if name == "pattern" and at in layers:
            patterns[at] = np.array(x[heads], np.float32)

    tokens = passes.token_labels(model, ids)
    every = layer is None and head is None
    here = passes.last_position(model, ids, required_activations(model) if every else [], keep)
    pattern = np.stack([patterns[each] for each in layers])
    answer = adds = telling = None
    if every:
        chosen = targets.choose(model, here["logits", None])
        answer = chosen.token
        adds = attribution_of(model, tokens, len(ids) - 1, here, chosen).heads
        order = np.argsort(-adds, axis=None, kind="stable")[:TELLING]
        telling = [divmod(int(i), config.n_head) for i in order]
    return Attention(
        model=model_label(model),
        tokens=tokens,
        layers=layers,
        heads=heads,
        pattern=pattern,
        kinds=head_kinds(model),
        answer=answer,
        adds=adds,
        telling=telling,
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
        model_label(model), length, len(ids) // length, seed, previous, first, duplicate, induction,
        model.config.n_kv_head,
    )  # fmt: skip


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
