"""One neuron of a feed-forward: what excites it in texts, how often, and what it then says.

The texts go through the model up to the neuron's layer; the tokens at which it gives most are shown
with what stands around them. What it writes goes straight to the logits by the output matrix.
Sources: Geva et al. 2021, "Transformer Feed-Forward Layers Are Key-Value Memories", section 3 (the
inputs that excite a neuron most); Geva et al. 2022, "Transformer Feed-Forward Layers Build
Predictions by Promoting Concepts in the Vocabulary Space", section 3 (what it promotes).

Shapes: I n_inner, C n_embd, V vocabulary, W words, B bins.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from laplm.errors import InputError
from laplm.look import figures, passes
from laplm.look.unembedding import direct_logits, greatest, neuron_directions
from laplm.look.view import (
    Column,
    Model,
    Part,
    Passage,
    Span,
    Table,
    View,
    check_count,
    model_label,
)
from laplm.look.views.block import ACTIVATIONS
from laplm.look.words import counted, percent, quoted
from laplm.progress import Progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float32]

TEXTS = (
    "The capital of Spain is Madrid, and the capital of France is Paris.",
    "Once upon a time there was a little girl who lived with her mother near the forest.",
    '"Where are you going?" asked the old man. "Home," she said, "before it gets dark."',
    "In 1969 two people walked on the Moon; the third, Michael Collins, stayed above it.",
    "Water boils at 100 degrees Celsius and freezes at 0; ice is lighter than water.",
    "def add(a, b):\n    return a + b\n\nprint(add(2, 3))  # 5",
    "She was happy on Monday, sad on Tuesday and very tired by the end of the week.",
    "The cat sat on the mat. The dog saw the cat. The cat ran away from the dog.",
    "To be, or not to be, that is the question: whether 'tis nobler in the mind to suffer.",
    "Prices rose by 3.5 percent in June, said the bank, more than anybody had expected.",
    "Mix two eggs with a cup of flour, add a little salt, and bake it for twenty minutes.",
    "The river flows from the mountains in the north to the sea, past fields and towns.",
)
"""What is read when nobody gives a text: a little of everything."""

WINDOW = 128
"""Tokens of a text that are read at once."""
MAX_TOKENS = 20_000
"""How many tokens of the texts are read when nobody says otherwise."""
_BEFORE, _AFTER = 10, 3  # tokens around one that excites it
_APART = 8  # tokens between two of one text that are both shown, where there are many
_BINS = 40


class _Reached(Exception):  # noqa: N818 - nothing went wrong
    """The layer is passed: what comes after it is not asked for."""


@dataclass(frozen=True)
class Excited:
    """One token at which a neuron gives much.

    Attributes:
        text: which text, from 0.
        position: of the token in the text, in tokens.
        tokens: the tokens around it, white space made visible.
        at: which of these it is.
        activations: of the neuron at each of these.
        before: the text of those before it, line ends made visible.
        after: the text of those after it.
    """

    text: int
    position: int
    tokens: list[str]
    at: int
    activations: list[float]
    before: str
    after: str

    @property
    def token(self) -> str:
        """The token itself."""
        return self.tokens[self.at]

    @property
    def activation(self) -> float:
        """What the neuron gives there."""
        return self.activations[self.at]


@dataclass(frozen=True, eq=False)
class NeuronView(View):
    """What one neuron does.

    Attributes:
        model: its name.
        layer: of the neuron.
        neuron: which one of the layer's feed-forward.
        function: name of the activation function.
        gated: the activation is the function of the gate times the up matrix's part, and may be
            far below 0; else it is the function's result.
        n_texts: texts that were read.
        n_tokens: tokens of them; a token that begins texts is not counted.
        n_left_out: tokens that were left out because there are more than ``max_tokens``.
        active: share of the tokens at which the function's input is above 0.
        mean: of the activation.
        deviation: its standard deviation.
        highest: the tokens at which it gives most, the most first.
        lowest: those at which it gives least, the least first.
        counts: tokens by activation, (B).
        edges: of the bins, (B + 1).
        promotes: the tokens whose logits it raises most when it gives 1, (W).
        promoted: by how much, before the last norm's scale, (W).
        suppresses: those that it lowers most, (W).
        suppressed: by how much, (W).
    """

    model: str
    layer: int
    neuron: int
    function: str
    gated: bool
    n_texts: int
    n_tokens: int
    n_left_out: int
    active: float
    mean: float
    deviation: float
    highest: list[Excited]
    lowest: list[Excited]
    counts: NDArray[np.int64]
    edges: Array
    promotes: list[str]
    promoted: Array
    suppresses: list[str]
    suppressed: Array

    def parts(self) -> list[Part]:
        """The tokens that excite it; what it promotes; the texts in colours; numbers of all."""
        excited = self._table(f"{self.model}: what excites neuron {self.name} most", self.highest)
        says = Table(
            title="what it says when it is excited",
            columns=[
                Column("promotes"), Column("by", 3, signed=True), Column("suppresses"),
                Column("by ", 3, signed=True),
            ],
            rows=[
                [up, float(by), down, float(less)]
                for up, by, down, less in zip(
                    self.promotes, self.promoted, self.suppresses, self.suppressed, strict=True
                )
            ],
            note="What an activation of 1 adds to logits directly, through the last norm's gain "
            "and the output matrix; the norms' scales are left out.",
        )  # fmt: skip
        parts: list[Part] = [excited, says, self._numbers(), self._passage()]
        if self.gated:
            parts.append(self._table("what drives it farthest below 0", self.lowest))
        return parts

    def sentence(self) -> str:
        """See ``View``: the token that excites it most, how often it is active, what it says."""
        best = self.highest[0]
        if best.activation > 0:
            said = f"is excited most by {quoted(best.token)}, {best.activation:+.2f}"
            token, count = Counter(each.token for each in self.highest).most_common(1)[0]
            if count > 1 and len(self.highest) > count:
                said += f" (of the {len(self.highest)} strongest {count} are {quoted(token)})"
            elif count > 1:
                said += f", as by all {count} strongest"
        else:
            said = f"is excited by none, at most {best.activation:+.2f} at {quoted(best.token)}"
        what = "its gate is open" if self.gated else "it is active"
        return (
            f"Neuron {self.name} {said}; {what} at {percent(self.active)} of "
            f"{counted(self.n_tokens, 'token')}; it promotes {quoted(self.promotes[0])} most and "
            f"suppresses {quoted(self.suppresses[0])}."
        )

    @property
    def name(self) -> str:
        """What it is called: "4.458", layer and neuron."""
        return f"{self.layer}.{self.neuron}"

    def plot(self) -> Figure:
        """What excites it, what it says, and how its activations are spread."""
        return figures.neuron_panels(
            [_shown(each, 18) for each in self.highest],
            [each.activation for each in self.highest],
            [*self.promotes, *self.suppresses],
            [*map(float, self.promoted), *map(float, self.suppressed)],
            self.counts.tolist(),
            self.edges.tolist(),
            title=self.sentence(),
            subtitle=f"{self.model}; {counted(self.n_texts, 'text')}; activation: {self._what}",
        )

    @property
    def _what(self) -> str:
        return f"{self.function} of the gate, times up" if self.gated else self.function

    def _table(self, title: str, found: Sequence[Excited]) -> Table:
        return Table(
            title=title,
            columns=[
                Column("activation", 2, signed=True), Column("token"), Column("in"),
                Column("text"), Column("position"),
            ],
            rows=[
                [each.activation, each.token, _shown(each), each.text, each.position]
                for each in found
            ],
        )  # fmt: skip

    def _passage(self) -> Passage:
        """The strongest tokens in their texts, coloured by activation."""
        most = max((each.activation for each in self.highest), default=0.0)
        spans: list[Span] = []
        for i, each in enumerate(self.highest):
            if i:
                spans.append(Span("\n"))
            for token, value in zip(each.tokens, each.activations, strict=True):
                share = value / most if most > 0 and value > 0 else None
                spans.append(
                    Span(token, None if share is None else min(1.0, share), f"{value:+.2f}")
                )
        return Passage(
            title="these places, coloured by activation",
            spans=spans,
            note="From warm (a little above 0) to cool (the most); not coloured: 0 or less.",
        )

    def _numbers(self) -> Table:
        left = f"; {self.n_left_out:,} more were left out" if self.n_left_out else ""
        return Table(
            title="all of its activations",
            columns=[Column("what"), Column("value", 4)],
            rows=[
                ["tokens", self.n_tokens],
                ["share above 0 before the activation function", self.active],
                ["mean", self.mean],
                ["standard deviation", self.deviation],
                ["most", self.highest[0].activation],
                ["least", self.lowest[0].activation],
            ],
            note=f"Activation: {self._what}. {counted(self.n_texts, 'text')}, read {WINDOW} tokens "
            f"at a time{left}.",
        )


def neuron(
    model: Model,
    unit: str,
    texts: str | Sequence[str] = (),
    *,
    k: int = 10,
    words: int = 8,
    max_tokens: int = MAX_TOKENS,
    progress: Progress | None = None,
) -> NeuronView:
    """Find out what a neuron of a feed-forward does.

    Args:
        model: the model.
        unit: which neuron: "4.458" is number 458 of layer 4.
        texts: what is read to find what excites it; none means ``TEXTS``, twelve short ones.
        k: how many of the tokens that excite it most.
        words: how many tokens that it promotes and suppresses.
        max_tokens: at most so many tokens of the texts are read, from the first text on.
        progress: called with ("tokens", read, of so many).

    Raises:
        InputError: there is no such neuron, the texts are empty, or a number is out of its range.
    """
    layer, number = _place(model, unit)
    k = check_count("k", k, 1000)
    known = min(model.tokenizer.vocab_size, model.config.vocab_size)
    words = check_count("words", words, known)
    max_tokens = check_count("max_tokens", max_tokens, 100_000_000)
    given = [texts] if isinstance(texts, str) else list(texts)
    encoded = [model.tokenizer.encode(text) for text in (given or TEXTS)]
    total = sum(map(len, encoded))
    if not total:
        raise InputError("the texts are empty; give at least one word to read")
    count = min(total, max_tokens)
    before = np.empty(count, np.float32)
    after = np.empty(count, np.float32)
    ids = np.empty(count, np.int64)
    places = np.empty((count, 2), np.int64)  # text and position
    done = 0
    for text, start, some in _windows(encoded, _window(model)):
        some = some[: count - done]
        if not some:
            break
        if progress is not None:
            progress("tokens", done, count)
        here = slice(done, done + len(some))
        before[here], after[here] = _activations(model, some, layer, number)
        ids[here] = some
        places[here] = np.stack([np.full(len(some), text), start + np.arange(len(some))], axis=1)
        done += len(some)
    if progress is not None:
        progress("tokens", count, count)
    few = count < 2 * _APART * k  # then neighbours are shown too
    highest, lowest = (
        [_excited(model, ids, places, after, at) for at in _strongest(sign * after, places, k, few)]
        for sign in (1, -1)
    )
    logits = direct_logits(model, neuron_directions(model, layer, np.array([number])))[0, :known]
    up, down = greatest(logits, words), greatest(-logits, words)
    counts, edges = np.histogram(after, bins=_BINS)
    return NeuronView(
        model=model_label(model),
        layer=layer,
        neuron=number,
        function=ACTIVATIONS[model.config.activation],
        gated=model.config.gated,
        n_texts=len({int(text) for text in places[:, 0]}),
        n_tokens=count,
        n_left_out=total - count,
        active=float((before > 0).mean()),
        mean=float(after.mean(dtype=np.float64)),
        deviation=float(after.std(dtype=np.float64)),
        highest=highest,
        lowest=lowest,
        counts=counts.astype(np.int64),
        edges=edges.astype(np.float32),
        promotes=passes.token_labels(model, up.tolist()),
        promoted=logits[up],
        suppresses=passes.token_labels(model, down.tolist()),
        suppressed=logits[down],
    )


def _place(model: Model, unit: str) -> tuple[int, int]:
    """Layer and number of a neuron called "4.458".

    Raises:
        InputError: it is not called so, or is not there.
    """
    numbers = unit.strip().split(".")
    if len(numbers) != 2 or not all(n.isascii() and n.isdigit() for n in numbers):
        raise InputError(
            f"{unit!r} names no neuron: write LAYER.NEURON, such as 4.17; both count from 0"
        )
    layer, number = map(int, numbers)
    return passes.check_layer(model, layer), passes.check_neuron(model, number)


def _window(model: Model) -> int:
    """How many tokens are read at once, the one that begins texts left room for."""
    return max(1, min(WINDOW, model.config.n_ctx - len(model.tokenizer.prefix_ids)))


def _windows(
    encoded: Sequence[Sequence[int]], size: int
) -> Iterator[tuple[int, int, Sequence[int]]]:
    """Pieces of the texts: which text, the position of its first token, the tokens."""
    for text, ids in enumerate(encoded):
        for start in range(0, len(ids), size):
            yield text, start, ids[start : start + size]


def _activations(model: Model, ids: Sequence[int], layer: int, number: int) -> tuple[Array, Array]:
    """A neuron before its activation function and after it, at each token: (T,) both."""
    found: dict[str, Array] = {}

    def tap(name: str, at: int | None, x: Array) -> None:
        if at == layer and name in ("mlp_pre", "mlp_post"):
            found[name] = np.array(x[:, number], np.float32)
            if name == "mlp_post":
                raise _Reached

    prefix = model.tokenizer.prefix_ids  # what the tokenizer puts before a text
    with contextlib.suppress(_Reached):
        passes.forward(model, [*prefix, *ids], tap)
    begin = len(prefix)
    return found["mlp_pre"][begin:], found["mlp_post"][begin:]


def _strongest(values: Array, places: NDArray[np.int64], k: int, few: bool) -> list[int]:
    """Where the k greatest values are, greatest first; of one stretch of a text only one."""
    chosen: list[int] = []
    for at in np.argsort(-values, kind="stable").tolist():
        near = (abs(at - other) < _APART and places[at, 0] == places[other, 0] for other in chosen)
        if few or not any(near):
            chosen.append(at)
        if len(chosen) == k:
            break
    return chosen


def _excited(
    model: Model, ids: NDArray[np.int64], places: NDArray[np.int64], values: Array, at: int
) -> Excited:
    """A token with what stands around it in its text."""
    text, position = (int(n) for n in places[at])
    first, last = max(0, at - _BEFORE), min(len(ids), at + _AFTER + 1)
    around = [i for i in range(first, last) if places[i, 0] == text]

    def text_of(some: list[int]) -> str:
        return model.tokenizer.decode(ids[some].tolist()).replace("\n", "↵") if some else ""

    return Excited(
        text=text,
        position=position,
        tokens=passes.token_labels(model, ids[around].tolist()),
        at=around.index(at),
        activations=[float(value) for value in values[around]],
        before=text_of([i for i in around if i < at]),
        after=text_of([i for i in around if i > at]),
    )


def _shown(each: Excited, most: int | None = None) -> str:
    """A token in its text, in brackets; or after at most so many characters, and none after it."""
    before = each.before if most is None else each.before[-most:]
    start = "…" if len(before) < len(each.before) or each.position > each.at else ""
    token = each.token.replace("·", " ")
    return f"{start}{before}[{token}]{each.after if most is None else ''}"
