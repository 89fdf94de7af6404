"""The next token: how likely each is, and what the settings of sampling make of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from laplm.look import figures, passes
from laplm.look.view import Column, Model, Part, Table, View, check_count, model_label
from laplm.look.words import percent, quoted
from laplm.run.sampler import SamplingParams, probabilities

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float32]

OFF = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
"""The values at which a setting of ``SamplingParams`` changes nothing."""

EXAMPLES = {
    "temperature": 0.5, "top_k": 5, "top_p": 0.8, "min_p": 0.1, "repetition_penalty": 1.5,
}  # fmt: skip
"""The values that are shown when none is given."""

_NAMES = {
    "top_k": "top-k", "top_p": "top-p", "min_p": "min-p", "repetition_penalty": "repetition penalty"
}  # fmt: skip
_ALL = "all together"


@dataclass(frozen=True)
class Effect:
    """The distribution after some settings. K tokens are shown.

    Attributes:
        name: the settings, such as "temperature 0.5".
        params: as the sampler takes them.
        probabilities: of the tokens shown, (K,); 0 where a filter removed the token.
        kept: how many tokens of the whole vocabulary can still be drawn.
        entropy: of the distribution, in bits.
        perplexity: 2 to the power of the entropy: among how many equally likely tokens a draw
            would be as uncertain.
        likeliest: the likeliest token.
    """

    name: str
    params: SamplingParams
    probabilities: NDArray[np.float64]
    kept: int
    entropy: float
    perplexity: float
    likeliest: str


@dataclass(frozen=True)
class NextToken(View):
    """What a model expects after a text. K tokens are shown, likeliest first.

    Attributes:
        model: its name.
        text: what comes before.
        tokens: of the text, with white space made visible.
        ids: of the likeliest next tokens, (K,).
        labels: as text with white space made visible.
        logits: the model's output for each, (K,).
        before: the distribution as the model gives it.
        effects: the same distribution after each setting by itself and, when there are several,
            after all of them together.
    """

    model: str
    text: str
    tokens: tuple[str, ...]
    ids: NDArray[np.int64]
    labels: tuple[str, ...]
    logits: Array
    before: Effect
    effects: tuple[Effect, ...]

    def parts(self) -> list[Part]:
        """The likeliest tokens; before and after; how uncertain the choice is."""
        shown = float(self.before.probabilities.sum())
        likeliest = Table(
            title=f"the next token, as {self.model} sees it",
            columns=[
                Column("rank", label=True), Column("id", label=True), Column("token"),
                Column("logit", 3), Column("probability", 4, bar=True),
            ],
            rows=[
                [i + 1, int(id_), label, float(logit), float(p)]
                for i, (id_, label, logit, p) in enumerate(
                    zip(self.ids, self.labels, self.logits, self.before.probabilities, strict=True)
                )
            ],
            note=f"Together {shown:.1%}. Entropy {self.before.entropy:.2f} bits, perplexity "
            f"{self.before.perplexity:.1f}: as uncertain as a choice among so many equally likely "
            "tokens.",
        )  # fmt: skip
        every = [self.before, *self.effects]
        effects = Table(
            title="before and after",
            columns=[Column("token"), *(Column(e.name, 3, bar=True) for e in every)],
            rows=[
                [label, *(float(p) if p > 0 else None for p in (e.probabilities[i] for e in every))]
                for i, label in enumerate(self.labels)
            ],
            note=f"Each setting by itself{', then all together' * (every[-1].name == _ALL)}. "
            "Nothing where the token can no longer be drawn.",
        )  # fmt: skip
        uncertainty = Table(
            title="how uncertain the choice is",
            columns=[
                Column("setting"), Column("tokens left"), Column("entropy, bits", 2),
                Column("perplexity", 2), Column("likeliest"),
            ],
            rows=[[e.name, e.kept, e.entropy, e.perplexity, e.likeliest] for e in every],
        )  # fmt: skip
        return [likeliest, effects, uncertainty] if self.effects else [likeliest]

    def sentence(self) -> str:
        """See ``View``: the likeliest token, the next one, and what the settings make of it."""
        first, *others = zip(self.labels, self.before.probabilities, strict=True)
        said = f"{quoted(first[0])} comes next with {percent(first[1])}"
        if others:
            said += f", before {quoted(others[0][0])} with {percent(others[0][1])}"
        said += f"; as uncertain as a choice among {self.before.perplexity:,.1f} tokens"
        # One setting alone, or all together: what somebody asked for.
        if len(self.effects) == 1 or (self.effects and self.effects[-1].name == _ALL):
            after = self.effects[-1]
            said += (
                f"; with {after.name} {quoted(first[0])} has {percent(after.probabilities[0])}, "
                f"as among {after.perplexity:,.1f}"
            )
        return f"{said}."

    def plot(self) -> Figure:
        """Probabilities as bars, before and after each setting."""
        every = [self.before, *self.effects]
        names = [e.name for e in every]
        after = f"after “{figures.shorten_start(self.text)}”; outlined: before"
        return plot_effects(self.model, self.labels, every, names, after)


def next_token(
    model: Model,
    text: passes.Text,
    *,
    k: int = 10,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
) -> NextToken:
    """See what a model expects after a text, and what the settings of sampling change.

    When no setting is given, each is shown at an example value, by itself. Those that are given
    are shown alone and, when there are several, all together in the sampler's order.

    Args:
        model: the model.
        text: what comes before.
        k: how many tokens to show.
        temperature: logits are divided by it.
        top_k: only the k likeliest tokens; 0 is off.
        top_p: only the fewest likeliest tokens that hold this share of the probability.
        min_p: only tokens at least this share as likely as the likeliest one.
        repetition_penalty: makes tokens of the text less likely.

    Raises:
        ContextLengthError: the text has more tokens than the model has positions.
        InputError: the text is empty, or a setting or ``k`` is out of its range.
    """
    known = min(model.tokenizer.vocab_size, model.config.vocab_size)
    k = check_count("k", k, known)
    given: dict[str, Any] = {
        "temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p,
        "repetition_penalty": repetition_penalty,
    }  # fmt: skip
    given = {name: value for name, value in given.items() if value is not None}
    settings = [{name: value} for name, value in (given or EXAMPLES).items()]
    if len(given) > 1:
        settings.append(given)
    every = [_sampling_params(setting) for setting in settings]
    ids = passes.encode(model, text)
    logits = passes.forward(model, ids, last_only=True)[-1, :known]
    best = np.argsort(-logits, kind="stable")[:k]

    def effect(name: str, params: SamplingParams) -> Effect:
        return effect_of(model, logits, best, name, params, ids)

    names = [
        f"{_NAMES.get(name, name)} {value:g}" if len(setting) == 1 else _ALL
        for setting in settings
        for name, value in list(setting.items())[:1]
    ]
    return NextToken(
        model=model_label(model),
        text=model.tokenizer.decode(ids),
        tokens=tuple(passes.token_labels(model, ids)),
        ids=best,
        labels=tuple(passes.token_labels(model, best.tolist())),
        logits=logits[best],
        before=effect("as it is", _sampling_params({})),
        effects=tuple(effect(n, params) for n, params in zip(names, every, strict=True)),
    )


def effect_of(
    model: Model,
    logits: Array,
    shown: NDArray[np.int64],
    name: str,
    params: SamplingParams,
    previous_ids: Sequence[int] = (),
) -> Effect:
    """What settings make of logits (V,), at the tokens ``shown`` (K,)."""
    p = probabilities(logits, params, previous_ids)
    bits = entropy(p)
    return Effect(
        name=name,
        params=params,
        probabilities=p[shown],
        kept=int(np.count_nonzero(p)),
        entropy=bits,
        perplexity=2.0**bits,
        likeliest=passes.token_labels(model, [int(p.argmax())])[0],
    )


def plot_effects(
    model: str, labels: Sequence[str], every: Sequence[Effect], names: Sequence[str], subtitle: str
) -> Figure:
    """The probabilities of K tokens under each of several settings, a panel each."""
    return figures.bar_panels(
        labels,
        [each.probabilities.tolist() for each in every],
        names,
        [f"{each.kept:,} left, {each.entropy:.2f} bits" for each in every],
        f"The next token, as {model} sees it",
        value_label="probability",
        subtitle=subtitle,
    )


def entropy(p: NDArray[Any]) -> float:
    """Shannon's entropy of a distribution (V,), in bits: -sum(p log2 p).

    Source: Shannon 1948, "A Mathematical Theory of Communication", section 6.
    """
    some = p[p > 0].astype(np.float64)
    return max(0.0, float(-(some * np.log(some)).sum()) / math.log(2))


def _sampling_params(setting: dict[str, Any]) -> SamplingParams:
    """Only these settings, all others off."""
    return SamplingParams(**(OFF | setting))
