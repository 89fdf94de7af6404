"""Two models on one prompt, such as before and after tuning: what they say, and where they differ.

Shapes: T positions, C n_embd, L layers, H heads, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from laplm.errors import InputError
from laplm.look import figures, passes
from laplm.look import target as targets
from laplm.look.view import Column, Grid, Model, Part, Table, View
from laplm.look.words import percent, quoted
from laplm.model.activations import ActivationCache

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Next:
    """A model's likeliest next tokens.

    Attributes:
        tokens: white space made visible, the likeliest first.
        probabilities: of each.
        in_other: the other model's probability of each; None where it has no such token.
    """

    tokens: list[str]
    probabilities: list[float]
    in_other: list[float | None]


@dataclass(frozen=True)
class Comparison(View):
    """What two models make of one prompt.

    Attributes:
        model: the first model's name.
        other: the second model's name.
        tokens: the prompt, token by token, as the first model's tokenizer splits it.
        next: the first model's likeliest next tokens.
        other_next: the second model's.
        divergence: Kullback-Leibler divergence of the second model's next-token distribution from
            the first's, in bits; None when their tokens are not the same.
        attention: how much of each head's attention goes elsewhere in the second model: half the
            sum of absolute differences, mean of positions, between 0 and 1; (L, H). None when the
            models differ in shape or tokens.
        residual: length of the difference of the residual streams over that of the first's,
            after each layer and at first before any, (L + 1, T); None as above.
        why: what keeps the insides from being compared; empty when nothing does.
    """

    model: str
    other: str
    tokens: list[str]
    next: Next
    other_next: Next
    divergence: float | None
    attention: Array | None
    residual: Array | None
    why: str

    def parts(self) -> list[Part]:
        """See ``View``: both next-token tables as one, then where the insides moved most."""
        rows = [
            [rank, token, p, in_other, other_token, q, in_model]
            for rank, (token, p, in_other, other_token, q, in_model) in enumerate(
                zip(
                    self.next.tokens, self.next.probabilities, self.next.in_other,
                    self.other_next.tokens, self.other_next.probabilities,
                    self.other_next.in_other, strict=True,
                ), 1,
            )
        ]  # fmt: skip
        said = "" if self.divergence is None else f"Divergence {self.divergence:.4f} bits. "
        table = Table(
            title=self._title,
            columns=[
                Column("rank"),
                Column(f"{self._names[0]} says"),
                Column("p", digits=3, bar=True),
                Column(f"in {self._names[1]}", digits=3),
                Column(f"{self._names[1]} says"),
                Column("p of it", digits=3, bar=True),
                Column(f"in {self._names[0]}", digits=3),
            ],
            rows=rows,
            note=said + self.why,
        )
        if self.attention is None or self.residual is None:
            return [table]
        order = np.argsort(-self.attention, axis=None, kind="stable")
        places = [np.unravel_index(i, self.attention.shape) for i in order]
        heads = Table(
            title="Heads by how much of their attention went elsewhere",
            columns=[Column("layer"), Column("head"), Column("moved", digits=3, bar=True)],
            rows=[[int(i), int(j), float(self.attention[i, j])] for i, j in places],
        )
        grid = Grid(
            title="How far the residual stream moved, as a share of its length",
            values=self.residual,
            row_labels=self._stages,
            column_labels=self.tokens,
        )
        return [table, heads, grid]

    def sentence(self) -> str:
        """See ``View``: what either says, how far apart they are, and what moved most."""
        first, second = self._names
        ours, theirs = self.next.tokens[0], self.other_next.tokens[0]
        p, q = (percent(n.probabilities[0]) for n in (self.next, self.other_next))
        said = f"Both say {quoted(ours)} next, {first} with {p} and {second} with {q}"
        if ours != theirs:
            said = f"{first} says {quoted(ours)} next, with {p}, "
            said += f"{second} {quoted(theirs)}, with {q}"
        if self.divergence is not None:
            said += f"; they diverge by {self.divergence:.4f} bits"
        if self.attention is not None:
            at = int(self.attention.argmax())
            layer, head = divmod(at, self.attention.shape[1])
            moved = float(self.attention[layer, head])
            most = f"head {layer}.{head} moved {percent(moved)} of its attention, the most"
            said += f"; {most if moved > 0 else 'no head looks elsewhere'}"
        return f"{said}."

    def plot(self) -> Figure:
        """See ``View``: where attention and residual streams moved, or else what both say."""
        if self.attention is None or self.residual is None:
            tokens = list(dict.fromkeys([*self.next.tokens, *self.other_next.tokens]))
            series = {
                name: [
                    dict(zip(n.tokens, n.probabilities, strict=True)).get(t, 0.0) for t in tokens
                ]
                for name, n in zip(self._names, (self.next, self.other_next), strict=True)
            }
            return figures.grouped_bars(tokens, series, self._title, value_label="probability")
        layers, heads = ([str(i) for i in range(size)] for size in self.attention.shape)
        return figures.panels(
            [
                figures.Panel(
                    values=self.attention,
                    title="attention: share that went elsewhere",
                    row_labels=layers,
                    column_labels=heads,
                    x_label="head",
                    y_label="layer",
                ),
                figures.Panel(
                    values=self.residual,
                    title="residual stream: how far it moved, as a share of its length",
                    row_labels=self._stages,
                    column_labels=self.tokens,
                    y_label="after layer",
                ),
            ],
            f"{self._title}: where they differ",
            one_scale=False,
        )

    @property
    def _names(self) -> tuple[str, str]:
        """The ends of the models' names, or which is which where these are the same."""
        a, b = (PurePath(name).name or name for name in (self.model, self.other))
        return (a, b) if a != b else (f"{a} (first)", f"{b} (second)")

    @property
    def _title(self) -> str:
        return f"{self._names[0]} and {self._names[1]} on one prompt"

    @property
    def _stages(self) -> list[str]:
        assert self.residual is not None
        return ["embedding", *(str(i) for i in range(len(self.residual) - 1))]


def compare(model: Model, other: Model, text: passes.Text, *, k: int = 10) -> Comparison:
    """Run two models on one prompt and say where they differ.

    The insides are compared when both split the prompt into the same tokens and have the same
    sizes, as a model has before and after tuning.

    Args:
        model: the first model.
        other: the second model.
        text: the prompt.
        k: how many next tokens to show of each.

    Raises:
        ContextLengthError: the prompt has more tokens than one of the models has positions.
        InputError: the prompt is empty, or ``k`` is not possible.
    """
    both = (model, other)
    vocabularies = [_vocabulary(m) for m in both]
    most = min(map(len, vocabularies))
    if not 1 <= k <= most:
        raise InputError(f"k is {k}, but it must be between 1 and {most}")
    ids, other_ids = (passes.encode(m, text) for m in both)
    why = _why_not(model, other, ids, other_ids)
    names = ["pattern", "resid_pre", "resid_post"] if not why else []
    runs, logits = [], []
    for m, own in ((model, ids), (other, other_ids)):
        run = passes.run_with_cache(m, own, [*names, "logits"])
        runs.append(run)
        logits.append(run["logits"][-1][: m.tokenizer.vocab_size].astype(np.float64))
    p, q = map(targets.probabilities, logits)
    labels = [m.name for m in both]
    if labels[0] == labels[1] and model.precision != other.precision:
        labels = [f"{m.name} ({m.precision})" for m in both]
    return Comparison(
        model=labels[0],
        other=labels[1],
        tokens=passes.token_labels(model, ids),
        next=_next(model, p, q, vocabularies[1], k),
        other_next=_next(other, q, p, vocabularies[0], k),
        divergence=_divergence(q, p) if vocabularies[0] == vocabularies[1] else None,
        attention=None if why else _attention_moved(*runs),
        residual=None if why else _residual_moved(*runs),
        why=why,
    )


def _why_not(model: Model, other: Model, ids: list[int], other_ids: list[int]) -> str:
    """What keeps the insides of two models from being compared; empty when nothing does."""
    pieces = [
        [m.tokenizer.token_bytes(i) for i in own] for m, own in ((model, ids), (other, other_ids))
    ]
    if pieces[0] != pieces[1]:
        return (
            f"The insides are not compared: the models split the prompt into {len(ids)} and "
            f"{len(other_ids)} different tokens."
        )
    sizes = [(m.config.n_layer, m.config.n_head, m.config.n_embd) for m in (model, other)]
    if sizes[0] != sizes[1]:
        words = ["{} layers of {} heads, {} wide".format(*size) for size in sizes]
        return f"The insides are not compared: the models have {words[0]}, and {words[1]}."
    return ""


def _vocabulary(model: Model) -> dict[bytes, int]:
    """Every token that the model knows by what it stands for."""
    count = min(model.config.vocab_size, model.tokenizer.vocab_size)
    return {model.tokenizer.token_bytes(i): i for i in range(count)}


def _next(model: Model, p: Array, q: Array, others: dict[bytes, int], k: int) -> Next:
    best = np.argsort(-p, kind="stable")[:k].tolist()
    same = [others.get(model.tokenizer.token_bytes(i)) for i in best]
    return Next(
        tokens=passes.token_labels(model, best),
        probabilities=[float(p[i]) for i in best],
        in_other=[None if i is None else float(q[i]) for i in same],
    )


def _divergence(p: Array, q: Array) -> float:
    """Sum of p log2(p / q), in bits."""
    some = p > 0
    return float(np.sum(p[some] * np.log2(p[some] / q[some])))


def _attention_moved(run: ActivationCache, other: ActivationCache) -> Array:
    difference = np.abs(run.stack("pattern") - other.stack("pattern"))  # (L, H, T, T)
    out: Array = difference.sum(axis=-1).mean(axis=-1) / 2
    return out


def _residual_moved(run: ActivationCache, other: ActivationCache) -> Array:
    first, second = (
        np.concatenate([each["resid_pre", 0][None], each.stack("resid_post")])
        for each in (run, other)
    )  # (L + 1, T, C)
    out: Array = np.linalg.norm(second - first, axis=-1) / np.linalg.norm(first, axis=-1)
    return out
