"""The position embedding, and what it is for: word order.

Attention by itself does not know where a token stands: GPT-2 adds a learned vector for each
position to the token's own.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from laplm.errors import InputError
from laplm.look import figures, passes
from laplm.look.pca import PCA, pca
from laplm.look.view import Column, Grid, Model, Part, Table, View, check_count
from laplm.model.families import tensor_spec
from laplm.model.families.ops import softmax
from laplm.model.files.checkpoint import check_finite

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float32]
_COMPONENTS = 6
_DRAWN = 3  # components in the picture
_ROWS = 16  # positions in a table


@dataclass(frozen=True)
class Positions(View):
    """The position embedding. P = n_ctx positions, S of them compared, C = n_embd.

    Attributes:
        model: its name.
        shape: (P, C).
        norms: length of each position's vector, (P,).
        sampled: the positions that are compared, (S,): all of them, or every second, third, ….
        similarity: their cosines, (S, S).
        by_distance: mean cosine of positions 0, 1, 2, … apart, (P,).
        projection: all positions along their first principal components, (P, 6).
    """

    model: str
    shape: tuple[int, int]
    norms: Array
    sampled: NDArray[np.int64]
    similarity: Array
    by_distance: Array
    projection: PCA

    def parts(self) -> list[Part]:
        """Some positions; cosines between them; the matrix."""
        rows = _spread(self.shape[0], _ROWS)
        explained = self.projection.explained
        scores = self.projection.scores
        some = Table(
            title=f"the position embedding of {self.model}",
            columns=[
                Column("position", label=True), Column("length", 2),
                *(Column(f"component {k + 1}", 2, signed=True) for k in range(scores.shape[1])),
            ],
            rows=[[int(p), float(self.norms[p]), *map(float, scores[p])] for p in rows],
            note="Share of the variance: "
            + ", ".join(f"component {k + 1} {share:.1%}" for k, share in enumerate(explained))
            + f"; in all {float(explained.sum()):.1%} of what there is in {self.shape[1]:,} "
            "dimensions.",
        )  # fmt: skip
        near = _spread(len(self.sampled), _ROWS)
        labels = [str(self.sampled[i]) for i in near]
        grid = Grid(
            title="cosine between positions",
            values=self.similarity[np.ix_(near, near)],
            row_labels=labels,
            column_labels=labels,
            diverging=True,
            note="Where neighbours are alike, a model can tell what stands close together.",
        )
        far = [d for d in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512) if d < self.shape[0]]
        matrix = Table(
            title="the whole matrix",
            columns=[Column("what"), Column("value", 3)],
            rows=[
                ["shape", " × ".join(f"{n:,}" for n in self.shape)],
                ["length of a row, mean", float(self.norms.mean())],
                ["shortest row", float(self.norms.min())],
                ["longest row", float(self.norms.max())],
                *(
                    [f"cosine of positions {d} apart, mean", float(self.by_distance[d])]
                    for d in far
                ),
            ],
        )
        return [some, grid, matrix]

    def plot(self) -> Figure:
        """Cosines between positions, and the first components over position."""
        drawn = min(_DRAWN, self.projection.scores.shape[1])
        return figures.map_and_lines(
            self.similarity,
            [str(p) for p in self.sampled],
            {
                f"component {k + 1}: {self.projection.explained[k]:.1%}":
                self.projection.scores[:, k] for k in range(drawn)
            },
            f"The position embedding of {self.model}",
            map_title="cosine between positions",
            lines_title="principal components over position, with their share of the variance",
            label="position",
        )  # fmt: skip


def positions(model: Model, *, samples: int = 128) -> Positions:
    """See the position embedding: which positions are alike, and along which directions they move.

    Args:
        model: the model.
        samples: at most so many positions are compared with each other, evenly spaced.

    Raises:
        InputError: ``samples`` is out of its range.
    """
    passes.check_position_embedding(model)
    name = tensor_spec(model.config, "pos_embed").name
    matrix = model.checkpoint.tensor(name)
    check_finite(name, matrix)
    samples = min(check_count("samples", samples, 4096), len(matrix))
    sampled = np.arange(0, len(matrix), -(-len(matrix) // samples))
    norms: Array = np.linalg.norm(matrix, axis=1)
    units = matrix / np.maximum(norms, np.float32(1e-30))[:, None]
    cosines = (units @ units.T).astype(np.float32, copy=False)
    return Positions(
        model=model.name,
        shape=(matrix.shape[0], matrix.shape[1]),
        norms=norms,
        sampled=sampled,
        similarity=cosines[np.ix_(sampled, sampled)],
        by_distance=np.array([np.diagonal(cosines, d).mean() for d in range(len(matrix))]),
        projection=pca(matrix, _COMPONENTS),
    )


def _spread(count: int, n: int) -> NDArray[np.int64]:
    """At most n whole numbers from 0 to count - 1, evenly spaced, both ends included."""
    return np.unique(np.linspace(0, count - 1, min(n, count)).round().astype(np.int64))


@dataclass(frozen=True)
class WordOrder(View):
    """The same words in two orders. K tokens of the vocabulary.

    Attributes:
        model: its name.
        texts: the two texts, the ending included.
        tokens: of each text, with white space made visible.
        same_tokens: whether they are the same tokens in another order.
        ids: the likeliest next tokens after either, (K,).
        labels: as text with white space made visible.
        probabilities: of each after the first text and after the second, (2, K).
        sum_cosine: between the sums of the token embeddings of the two texts: what a model
            without order would see.
        final_cosine: between the last position's outputs of the last layer.
        distance: total variation distance of the two next-token distributions, 0 to 1: the
            probability that would have to be moved.
        attention_cosine: between the outputs of the first block's attention at the end, as the
            model is, and when all positions get one embedding, the mean of those used.
    """

    model: str
    texts: tuple[str, str]
    tokens: tuple[tuple[str, ...], tuple[str, ...]]
    same_tokens: bool
    ids: NDArray[np.int64]
    labels: tuple[str, ...]
    probabilities: Array
    sum_cosine: float
    final_cosine: float
    distance: float
    attention_cosine: tuple[float, float]

    def parts(self) -> list[Part]:
        """What follows each text; how far apart the two are."""
        first, second = self.probabilities
        following = Table(
            title=f"what {self.model} expects next",
            columns=[
                Column("token"), *(Column(name, 3, bar=True) for name in self._names()),
                Column("change", 3, signed=True),
            ],
            rows=[
                [label, float(a), float(b), float(b - a)]
                for label, a, b in zip(self.labels, first, second, strict=True)
            ],
        )  # fmt: skip
        with_positions, without = self.attention_cosine
        same = "the same tokens" if self.same_tokens else "NOT the same tokens"
        apart = Table(
            title="how far apart the two orders are",
            columns=[Column("what"), Column("value", 4)],
            rows=[
                ["tokens", same],
                ["cosine of the sums of their token embeddings", self.sum_cosine],
                ["cosine of what the first attention puts out at the end", with_positions],
                ["the same with one embedding for all positions", without],
                ["cosine of what the last layer puts out at the end", self.final_cosine],
                ["next token: total variation distance", self.distance],
            ],
            note="Attention sums over what it looks at, and a sum has no order: the position "
            "embedding tells it. (Deeper layers could learn some of it from the mask alone, for a "
            "token sees only what is before it: Haviv et al. 2022, arXiv:2203.16634.)",
        )
        return [following, apart]

    def _names(self) -> list[str]:
        short = [t if len(t) <= 40 else f"{t[:18]} … {t[-19:]}" for t in self.texts]
        return [f"after “{text}”" for text in short]

    def plot(self) -> Figure:
        """The two distributions side by side."""
        return figures.grouped_bars(
            self.labels,
            dict(zip(self._names(), self.probabilities.tolist(), strict=True)),
            "The same words in another order, another next word",
            value_label=f"probability in {self.model}",
        )  # fmt: skip


def word_order(
    model: Model,
    text: str = "the cat chased the mouse",
    other: str | None = None,
    *,
    ending: str = ". The",
    k: int = 10,
) -> WordOrder:
    """Show that the order of words changes what comes next.

    Args:
        model: the model.
        text: some words.
        other: the same words in another order. By default two words change places: the first and
            the last of those that occur once.
        ending: put after both, so that both end in the same token.
        k: how many next tokens.

    Raises:
        ContextLengthError: a text has more tokens than the model has positions.
        InputError: a text is empty, both are the same, or ``k`` is out of its range.
    """
    passes.check_position_embedding(model)
    k = check_count("k", k, model.config.vocab_size)
    other = swapped(text) if other is None else other
    if text == other:
        raise InputError("both texts are the same; give the words in another order as the second")
    texts = (text + ending, other + ending)
    ids = [passes.encode(model, t) for t in texts]
    known = min(model.tokenizer.vocab_size, model.config.vocab_size)

    def one_position(name: str, layer: int | None, x: Array) -> Array | None:
        return np.broadcast_to(x.mean(axis=0), x.shape) if name == "pos_embed" else None

    names = ["embed", "attn_out", "ln_final", "logits"]
    caches = [passes.run_with_cache(model, own, names) for own in ids]
    blind = [passes.run_with_cache(model, own, ["attn_out"], one_position) for own in ids]
    probabilities = np.stack([softmax(c["logits"][-1, :known]) for c in caches])
    best = np.argsort(-probabilities.max(axis=0), kind="stable")[:k]
    return WordOrder(
        model=model.name,
        texts=texts,
        tokens=(
            tuple(passes.token_labels(model, ids[0])), tuple(passes.token_labels(model, ids[1])),
        ),
        same_tokens=Counter(ids[0]) == Counter(ids[1]),
        ids=best,
        labels=tuple(passes.token_labels(model, best.tolist())),
        probabilities=probabilities[:, best],
        sum_cosine=_cosine(*(c["embed"].sum(axis=0) for c in caches)),
        final_cosine=_cosine(*(c["ln_final"][-1] for c in caches)),
        distance=_total_variation(probabilities[0], probabilities[1]),
        attention_cosine=(
            _cosine(*(c["attn_out", 0][-1] for c in caches)),
            _cosine(*(c["attn_out", 0][-1] for c in blind)),
        ),
    )  # fmt: skip


def swapped(text: str) -> str:
    """A text with two words in each other's place: the first and last of those that occur once.

    Raises:
        InputError: there are no two such words.
    """
    words = text.split()
    once = [i for i, word in enumerate(words) if words.count(word) == 1]
    if len(once) < 2:
        raise InputError(
            f"{text!r} has no two words to swap; give the words in another order as the second text"
        )
    first, last = once[0], once[-1]
    words[first], words[last] = words[last], words[first]
    return " ".join(words)


def _cosine(a: Array, b: Array) -> float:
    return float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-30))


def _total_variation(p: Array, q: Array) -> float:
    return float(np.abs(p.astype(np.float64) - q).sum() / 2)
