"""Why this token: one story out of the logit lens, attribution, attention and ablation.

What the single views show of the last position, from one pass, and what becomes of the token when
the heads and feed-forwards that add most to it are switched off: one at a time, and one after the
other, in passes of their own.

Parts are put in order by what they add to the token's logit, not to its lead over the runner-up:
a head that reads "Spain" brings "Spain" and "Madrid" alike, and would not be seen. What they add
to that lead stands beside it, and ``contrast`` puts them in its order.

Shapes: T positions, S stages (n_layer + 1), L layers, H heads, K parts that are switched off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from laplm.look import figures, passes
from laplm.look import target as targets
from laplm.look.target import Target
from laplm.look.view import (
    Column,
    Maps,
    Model,
    PagePart,
    Part,
    Table,
    View,
    check_count,
    model_label,
)
from laplm.look.views.ablation import ablation_tap
from laplm.look.views.logit_attribution import (
    Attribution,
    attribution_of,
    part_name,
    required_activations,
)
from laplm.look.views.logit_lens import Lens, lens_of, residual_streams
from laplm.look.words import (
    describe_change,
    describe_key_heads,
    describe_lead,
    percent,
    quoted,
    quoted_at,
)
from laplm.progress import Progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float32]

_STRONGEST = 8  # parts that are switched off; a model of fewer has all of them taken
_LOOKED_AT = 3  # words that are kept for a head
_MUCH = 0.05  # of its attention: what is less is not shown beside others
_RUNS = 12  # changes of the likeliest token that are shown, from the last layer down


@dataclass(frozen=True)
class SwitchedOff:
    """A head or a feed-forward that was switched off.

    Attributes:
        layer: its layer.
        head: its head, or None for the feed-forward.
        adds: to the target's logit (direct logit attribution).
        over: to its difference from the contrast's logit.
        probability: of the target without it.
        together: of the target without it and all parts before it in the list.
    """

    layer: int
    head: int | None
    adds: float
    over: float
    probability: float
    together: float

    @property
    def name(self) -> str:
        """What it is called: "head 4.6" or "feed-forward 5"."""
        return part_name("feed-forward", self.layer, self.head)


@dataclass(frozen=True, eq=False)
class Why(View):
    """How a prompt comes to its next token.

    Attributes:
        model: its name.
        tokens: the prompt's tokens (T), white space made visible.
        target: the token that is explained, white space made visible.
        probability: its probability.
        answer: the likeliest token; the target, unless another was asked for.
        answer_probability: its probability.
        contrast: the token that the target is compared with: the likeliest other one, unless
            another was asked for.
        contrast_probability: its probability.
        by_contrast: a contrast was asked for, and parts are in the order of what they add to the
            difference; else of what they add to the target's logit.
        lens: the logit lens at the last position; its ``answer_probabilities`` and
            ``answer_ranks`` are the target's.
        attribution: of the target's logit.
        contrast_attribution: of its difference from the contrast's.
        looks: what each head attends to from the last position, (L, H, T).
        strongest: the K parts that add most, each switched off.
    """

    model: str
    tokens: list[str]
    target: str
    probability: float
    answer: str
    answer_probability: float
    contrast: str
    contrast_probability: float
    by_contrast: bool
    lens: Lens
    attribution: Attribution
    contrast_attribution: Attribution
    looks: Array
    strongest: list[SwitchedOff]

    picture_on_page: ClassVar[bool] = True

    def sentence(self) -> str:
        """See ``View``: when the token leads, which head brings it, what falls without it."""
        return "; ".join([self._when(), *self._which()]) + "."

    def parts(self) -> list[Part]:
        """See ``View``: the parts that bring the token, how it comes up, and every part."""
        strongest = Table(
            title=f"{self.model}: what brings {quoted(self.target)}, strongest first",
            columns=[
                Column("part"), Column("adds", 2, signed=True),
                Column(f"over {self.contrast}", 2, signed=True), Column("looks at"),
                Column("without it", 3), Column("and those above", 3),
            ],
            rows=[
                [p.name, p.adds, p.over, self._looks_at(p.layer, p.head), p.probability, p.together]
                for p in self.strongest
            ],
            note=f"adds: to the logit of {quoted(self.target)}; over: to its lead over "
            f"{quoted(self.contrast)}. without it: the probability of {quoted(self.target)} "
            f"({self.probability:.3f} as the model is) with this part set to zero; and those "
            "above: with all parts down to it.",
        )  # fmt: skip
        return [strongest, self._stages(), self._every()]

    def page_parts(self) -> list[PagePart]:
        """See ``View``: where heads look from the last position stands with the tables."""
        layers, heads, _ = self.looks.shape
        looks = Maps(
            title=f"where heads look from {quoted(self.tokens[-1])}",
            values=self.looks[:, :, None],
            row_labels=[f"layer {layer}" for layer in range(layers)],
            column_labels=[f"head {head}" for head in range(heads)],
            tokens=self.tokens,
            marked=[(p.layer, p.head) for p in self.strongest if p.head is not None],
            marked_by="those that bring it, strongest first",
        )
        first, *rest = self.parts()
        return [first, looks, *rest]

    def plot(self) -> Figure:
        """See ``View``: the target's probability by layer; what brings it; what falls without."""
        lens = self.lens
        labels = []
        for p in self.strongest:
            where = self._looks_at(p.layer, p.head, most=1)
            labels.append(f"{p.name} → {where}" if where else p.name)
        return figures.why_panels(
            stages=lens.stages,
            leading=[row[0] for row in lens.top_tokens],
            rising=lens.answer_probabilities[:, 0].tolist(),
            parts=labels,
            adds=[p.over if self.by_contrast else p.adds for p in self.strongest],
            alone=[p.probability for p in self.strongest],
            together=[p.together for p in self.strongest],
            whole=self.probability,
            token=self.target,
            added=f"added to the logit of {quoted(self.target)}"
            + f" less that of {quoted(self.contrast)}" * self.by_contrast,
            title=self.sentence(),
            subtitle=f"after “{figures.shorten_start(''.join(self.tokens))}”; {self.model}",
        )

    # --- the sentence -----------------------------------------------------------------------

    @property
    def leads_from(self) -> int | None:
        """The stage (0: the embedding) from which on the target is first, or None: it is not."""
        return int(self.lens.settled[0]) if self.target == self.answer else None

    def _when(self) -> str:
        token, n_layer = quoted(self.target), len(self.lens.stages) - 1
        if self.leads_from is None:
            rank = int(self.lens.answer_ranks[-1, 0])
            return (
                f"{token} comes {_ordinal(rank)} with {percent(self.probability)}, behind "
                f"{quoted(self.answer)} with {percent(self.answer_probability)}"
            )
        return f"{token} {describe_lead(self.leads_from, n_layer)}"

    def _which(self) -> list[str]:
        over = f" over {quoted(self.contrast)}" if self.by_contrast else ""

        def added(part: SwitchedOff) -> str:
            return f"{part.over if self.by_contrast else part.adds:+.1f}"

        lead = next((p for p in self.strongest if p.head is not None), self.strongest[0])
        first, more = self.strongest[0], ""
        if first is not lead:
            more = f" ({first.name}: {added(first)})"
        bring = f"adds most{' of the heads' * bool(more)}, {added(lead)}{over}{more}"
        if where := self.looked_at(lead.layer, lead.head):
            position, share = where[0]
            looks = f"which looks at {quoted_at(self.tokens, position)} with {percent(share, 0)}"
            bring = f", {looks}, {bring}"
        else:
            bring = f" {bring}"
        change = describe_change(self.probability, lead.probability)
        off = f"switched off, {quoted(self.target)} {change}"
        if (count := len(self.strongest)) > 1:
            left = percent(self.strongest[-1].together)
            off += f", and without the {count} strongest parts together it has {left}"
        return [f"{lead.name}{bring}", off]

    # --- the tables -------------------------------------------------------------------------

    def looked_at(self, layer: int, head: int | None) -> list[tuple[int, float]]:
        """The positions that a head attends to most from the last one, with their shares."""
        if head is None:
            return []
        row = self.looks[layer, head]
        return [(int(i), float(row[i])) for i in np.argsort(-row, kind="stable")[:_LOOKED_AT]]

    def _looks_at(self, layer: int, head: int | None, most: int = 2) -> str:
        where = self.looked_at(layer, head)[:most]
        shown = [pair for i, pair in enumerate(where) if i == 0 or pair[1] >= _MUCH]
        return ", ".join(f"{self.tokens[i]} {percent(share, 0)}" for i, share in shown)

    def _stages(self) -> Table:
        """The likeliest token from the last layer down: stages that agree are one row."""
        top, lens, runs = self.lens.top_ids[:, 0], self.lens, []
        end = len(top) - 1
        for stage in range(len(top) - 1, -1, -1):
            if stage == 0 or top[stage - 1] != top[stage]:
                runs.append((stage, end))
                end = stage - 1
        rows = [
            [
                lens.stages[first] if first == last else f"{lens.stages[first]} to "
                f"{lens.stages[last]}",
                lens.top_tokens[last][0], float(lens.top_probabilities[last, 0]),
                float(lens.answer_probabilities[last, 0]), int(lens.answer_ranks[last, 0]),
            ]
            for first, last in runs[:_RUNS]
        ]  # fmt: skip
        earlier = f" Earlier ones: `laplm look lens`; {len(runs) - _RUNS} more." if (
            len(runs) > _RUNS
        ) else ""  # fmt: skip
        return Table(
            title="what each layer would say (logit lens), the last first",
            columns=[
                Column("after layer"), Column("likeliest"), Column("probability", 3, bar=True),
                Column(f"p({self.target})", 3, bar=True), Column("its rank"),
            ],
            rows=rows,
            note=f"Layers that agree are one row: the numbers after the last of them.{earlier}",
        )  # fmt: skip

    def _every(self) -> Table:
        found, against = self.attribution, self.contrast_attribution
        parts: list[tuple[int, int | None, float, float]] = []
        for layer, head in _places(found.heads):
            ours, theirs = _adds(found, layer, head), _adds(against, layer, head)
            parts.append((layer, head, ours, theirs))
        parts.sort(key=lambda part: -abs(part[3] if self.by_contrast else part[2]))
        return Table(
            title="every head and feed-forward, by how much it adds or takes away",
            columns=[
                Column("part"), Column("adds", 3, signed=True),
                Column(f"over {self.contrast}", 3, signed=True), Column("looks at"),
            ],
            rows=[
                [part_name("feed-forward", layer, head), adds, over, self._looks_at(layer, head)]
                for layer, head, adds, over in parts
            ],
            note=describe_key_heads(found.heads.shape[1], found.n_kv_head),
        )  # fmt: skip


def why(
    model: Model,
    text: passes.Text,
    *,
    target: str | None = None,
    contrast: str | None = None,
    k: int = _STRONGEST,
    progress: Progress | None = None,
) -> Why:
    """Find out how a prompt comes to its next token.

    Args:
        model: the model.
        text: the prompt.
        target: the token to explain, with its space: " Madrid"; None means the likeliest.
        contrast: put parts in the order of what they add to the target's lead over this token;
            None puts them in the order of what they add to the target's own logit.
        k: how many of the strongest heads and feed-forwards are switched off.
        progress: called with ("parts switched off", done, of so many).

    Raises:
        ContextLengthError: the text has more tokens than the model has positions.
        InputError: the text is empty, a target is not a single token, both are the same, or ``k``
            is out of range.
    """
    config = model.config
    count = config.n_layer * (config.n_head + 1)
    k = min(check_count("k", k, max(_STRONGEST, count)), count)
    ids = passes.encode(model, text)
    names = [*required_activations(model), "pattern", "resid_pre", "resid_post"]
    here = passes.last_position(model, ids, names)
    logits = here["logits", None]
    chosen = targets.choose(model, logits, target, contrast)
    other = Target(chosen.token_id, chosen.token, *_contrast(model, logits, chosen))
    tokens = passes.token_labels(model, ids)
    at = len(ids) - 1
    alone = attribution_of(model, tokens, at, here, Target(chosen.token_id, chosen.token))
    over = attribution_of(model, tokens, at, here, other)
    streams = residual_streams(
        model, {key: x[None] for key, x in here.items() if "resid" in key[0]}
    )
    lens = lens_of(model, tokens[-1:], streams, followed=chosen.token_id)
    probabilities = targets.probabilities(logits)
    best = targets.best(model, logits)
    leading = over if contrast is not None else alone
    strongest = _strongest(leading, k)
    assert other.contrast is not None and other.contrast_id is not None
    return Why(
        model=model_label(model),
        tokens=tokens,
        target=chosen.token,
        probability=float(probabilities[chosen.token_id]),
        answer=passes.token_labels(model, [best])[0],
        answer_probability=float(probabilities[best]),
        contrast=other.contrast,
        contrast_probability=float(probabilities[other.contrast_id]),
        by_contrast=contrast is not None,
        lens=lens,
        attribution=alone,
        contrast_attribution=over,
        looks=np.stack([here["pattern", layer] for layer in range(config.n_layer)]),
        strongest=_switched_off(model, ids, chosen.token_id, alone, over, strongest, progress),
    )


def _contrast(model: Model, logits: Array, chosen: Target) -> tuple[int, str]:
    """The token that was asked for, or else the likeliest that is not the target."""
    if chosen.contrast_id is not None and chosen.contrast is not None:
        return chosen.contrast_id, chosen.contrast
    others = logits.copy()
    others[chosen.token_id] = -np.inf
    runner_up = targets.best(model, others)
    return runner_up, passes.token_labels(model, [runner_up])[0]


def _places(heads: Array) -> list[tuple[int, int | None]]:
    """Every head and feed-forward as (layer, head or None)."""
    layers, count = heads.shape
    return [(layer, head) for layer in range(layers) for head in (*range(count), None)]


def _adds(found: Attribution, layer: int, head: int | None) -> float:
    return float(found.feed_forward[layer] if head is None else found.heads[layer, head])


def _strongest(found: Attribution, k: int) -> list[tuple[int, int | None]]:
    """The k parts that add most, the head that does among them."""
    order = sorted(_places(found.heads), key=lambda place: -_adds(found, *place))
    chosen = order[:k]
    if all(head is None for _, head in chosen):
        chosen[-1] = next(place for place in order if place[1] is not None)
    return chosen


def _switched_off(
    model: Model,
    ids: Sequence[int],
    token_id: int,
    alone: Attribution,
    over: Attribution,
    places: Sequence[tuple[int, int | None]],
    progress: Progress | None,
) -> list[SwitchedOff]:
    """Parts set to zero: each by itself, and with all before it."""
    found: list[SwitchedOff] = []
    for i, (layer, head) in enumerate(places):
        if progress is not None:
            progress("parts switched off", i, len(places))
        probability = _probability_without(model, ids, token_id, [(layer, head)])
        together = probability
        if i:
            together = _probability_without(model, ids, token_id, places[: i + 1])
        adds, more = _adds(alone, layer, head), _adds(over, layer, head)
        found.append(SwitchedOff(layer, head, adds, more, probability, together))
    if progress is not None:
        progress("parts switched off", len(places), len(places))
    return found


def _probability_without(
    model: Model, ids: Sequence[int], token_id: int, places: Sequence[tuple[int, int | None]]
) -> float:
    """The probability of a token after a pass with some parts set to zero."""
    tap = ablation_tap(
        model,
        heads=[(layer, head) for layer, head in places if head is not None],
        feed_forward=[layer for layer, head in places if head is None],
    )
    logits = passes.forward(model, ids, tap, last_only=True)[-1]
    return float(targets.probabilities(logits)[token_id])


def _ordinal(rank: int) -> str:
    words = {2: "second", 3: "third"}
    return words.get(rank, f"in place {rank:,}")
