"""The token embedding: one vector for each token, and what their directions say of meaning.

Words are looked up as they stand inside a sentence, with a space before them. A word of several
tokens is the mean of their vectors, and is said to be.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from laplm.errors import InputError
from laplm.look import figures, passes
from laplm.look.pca import PCA, pca
from laplm.look.view import Column, Model, Part, Table, View, check_count, model_label
from laplm.look.words import counted, percent, quoted
from laplm.model.families import tensor_spec
from laplm.model.files.checkpoint import check_finite

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float32]

WORD_SETS: dict[str, tuple[tuple[str, ...], ...]] = {
    "family": tuple(
        (word,)
        for word in (
            "mother", "father", "sister", "brother", "daughter", "son", "aunt", "uncle",
            "grandmother", "grandfather",
        )
    ),
    "gender": (
        ("woman", "man"), ("girl", "boy"), ("queen", "king"), ("princess", "prince"),
        ("she", "he"), ("her", "his"),
    ),
    "animals": tuple(
        (word,)
        for word in (
            "dog", "cat", "bird", "fish", "horse", "cow", "rabbit", "bear", "lion", "mouse",
        )
    ),
    "cities": (
        ("Spain", "Madrid"), ("France", "Paris"), ("Italy", "Rome"), ("Germany", "Berlin"),
        ("England", "London"), ("Portugal", "Lisbon"), ("Greece", "Athens"), ("Poland", "Warsaw"),
        ("Russia", "Moscow"), ("Japan", "Tokyo"), ("China", "Beijing"), ("Egypt", "Cairo"),
    ),
}  # fmt: skip
"""Words to begin with. Two in one bracket belong together and are joined in the picture."""

_ROLES = {"cities": ("country", "capital")}


@dataclass(frozen=True)
class MatrixStats:
    """The numbers of an embedding matrix.

    Attributes:
        shape: (rows, n_embd).
        norm_mean: mean length of a row.
        norm_std: standard deviation of the lengths.
        norm_min: the shortest row, and ``norm_max`` the longest.
        norm_max: the longest row.
        cosine_mean: mean cosine between two different rows: 0 when they point everywhere alike.
    """

    shape: tuple[int, int]
    norm_mean: float
    norm_std: float
    norm_min: float
    norm_max: float
    cosine_mean: float


@dataclass(frozen=True)
class Embeddings(View):
    """Words as points. W words, C = n_embd.

    Attributes:
        model: its name.
        stats: of the whole matrix.
        words: the words, (W,).
        groups: the kind of each.
        tokens: the tokens of each, with white space made visible.
        vectors: their embeddings, (W, C); of a word of several tokens the mean.
        norms: their lengths, (W,).
        nearest: for each word the three nearest other tokens, as (text, cosine).
        projection: the words along their first two principal components.
        pairs: words (by index) that belong together.
    """

    model: str
    stats: MatrixStats
    words: tuple[str, ...]
    groups: tuple[str, ...]
    tokens: tuple[tuple[str, ...], ...]
    vectors: Array
    norms: Array
    nearest: tuple[tuple[tuple[str, float], ...], ...]
    projection: PCA
    pairs: tuple[tuple[int, int], ...]

    def parts(self) -> list[Part]:
        """The words, with their place in the picture; the matrix."""
        explained = self.projection.explained
        split = [w for w, t in zip(self.words, self.tokens, strict=True) if len(t) > 1]
        words = Table(
            title=f"words in the token embedding of {self.model}",
            columns=[
                Column("word"), Column("kind"), Column("tokens"), Column("length", 2),
                *(Column(f"component {k + 1}", 2, signed=True) for k in range(len(explained))),
                Column("nearest tokens, by cosine"),
            ],
            rows=[
                [
                    word, group, " ".join(tokens), float(norm), *map(float, at),
                    "  ".join(f"{text} {cosine:.2f}" for text, cosine in nearest),
                ]
                for word, group, tokens, norm, at, nearest in zip(
                    self.words, self.groups, self.tokens, self.norms, self.projection.scores,
                    self.nearest, strict=True,
                )
            ],
            note=f"The two components explain {float(explained.sum()):.1%} of the variance among "
            "these words. "
            + (f"Of several tokens, and so the mean of their vectors: {', '.join(split)}. "
               if split else "Each word is one token. ")
            + "A word is looked up with a space before it.",
        )  # fmt: skip
        s = self.stats
        matrix = Table(
            title="the whole matrix",
            columns=[Column("what"), Column("value", 4)],
            rows=[
                ["shape", " × ".join(f"{n:,}" for n in s.shape)],
                ["length of a row, mean", s.norm_mean],
                ["length of a row, standard deviation", s.norm_std],
                ["shortest row", s.norm_min],
                ["longest row", s.norm_max],
                ["cosine of two different rows, mean", s.cosine_mean],
            ],
            note="A mean cosine far above 0 says that all rows share a direction.",
        )
        return [words, matrix]

    def sentence(self) -> str:
        """See ``View``: which two words are nearest, and how much of all the picture shows."""
        count = counted(len(self.words), "word")
        shown = percent(float(self.projection.explained.sum()))
        picture = f"the picture holds {shown} of the variance among them"
        if len(self.words) < 2:
            return f"{count}: {quoted(self.words[0])}, a vector {self.norms[0]:.2f} long."
        units = self.vectors / np.maximum(self.norms, np.float32(1e-30))[:, None]
        cosines = units @ units.T
        cosines[np.tri(len(units), dtype=bool)] = -np.inf  # each pair once
        first, second = (int(n) for n in np.unravel_index(cosines.argmax(), cosines.shape))
        return (
            f"Of {count} {quoted(self.words[first])} and {quoted(self.words[second])} are nearest "
            f"to each other, with a cosine of {cosines[first, second]:.2f}; {picture}."
        )

    def plot(self) -> Figure:
        """The words along their two principal components."""
        split = [len(tokens) > 1 for tokens in self.tokens]
        return figures.scatter(
            self.projection.scores,
            [w + ("*" if several else "") for w, several in zip(self.words, split, strict=True)],
            self.groups,
            f"Words in the token embedding of {self.model}",
            x_label=self.projection.name(0),
            y_label=self.projection.name(1),
            subtitle="* several tokens: the mean of their vectors" if any(split) else "",
            pairs=self.pairs,
        )


def embeddings(
    model: Model,
    words: Sequence[str] = (),
    *,
    word_sets: Sequence[str] = ("family", "gender", "animals"),
) -> Embeddings:
    """See words as points of the token embedding.

    Args:
        model: the model.
        words: words to look at; none means those of ``word_sets``. To one or two words their
            nearest neighbours are added, so that there is something to compare.
        word_sets: of "family", "gender", "animals" and "cities" (countries and capitals).

    Raises:
        InputError: a word is empty, or there is no such set.
    """
    words = [words] if isinstance(words, str) else words
    asked: list[tuple[str, str]] = []
    pairs: list[tuple[int, int]] = []
    if words:
        asked = [(word.strip(), "your words") for word in words]
    else:
        names = [word_sets] if isinstance(word_sets, str) else word_sets
        for name in dict.fromkeys(names):
            if name not in WORD_SETS:
                raise InputError(f"word set {name!r} is not one of {', '.join(WORD_SETS)}")
            for together in WORD_SETS[name]:
                roles = _ROLES.get(name, (name,) * len(together))
                if len(together) == 2:
                    pairs.append((len(asked), len(asked) + 1))
                asked += zip(together, roles, strict=True)
    if not asked:
        raise InputError("there are no words to look at; give some, or name a word set")
    table = _Table(model)
    kinds = dict(asked)
    ids = {word: _ids(model, word) for word in kinds}
    if len(ids) < 3:
        for word in list(ids):
            for token, _ in table.nearest(table.mean(ids[word]), 8, leave_out=ids[word]):
                label = passes.token_labels(model, [token])[0]
                kinds.setdefault(label, f"near {word}")
                ids.setdefault(label, [token])
    vectors = np.stack([table.mean(own) for own in ids.values()])
    nearest = [
        table.nearest(vector, 3, leave_out=own)
        for vector, own in zip(vectors, ids.values(), strict=True)
    ]
    return Embeddings(
        model=model_label(model),
        stats=matrix_stats(table.rows, table.norms),
        words=tuple(kinds),
        groups=tuple(kinds.values()),
        tokens=tuple(tuple(passes.token_labels(model, own)) for own in ids.values()),
        vectors=vectors,
        norms=np.linalg.norm(vectors, axis=1),
        nearest=tuple(
            tuple((passes.token_labels(model, [i])[0], cosine) for i, cosine in each)
            for each in nearest
        ),
        projection=pca(vectors),
        pairs=tuple(pairs),
    )


def matrix_stats(matrix: Array, norms: Array | None = None) -> MatrixStats:
    """The numbers of an embedding matrix (rows, C)."""
    norms = np.linalg.norm(matrix, axis=1) if norms is None else norms
    n = len(matrix)
    # The sum of all unit vectors, squared, is the sum of all cosines, n of which are 1.
    together = (1.0 / np.maximum(norms, 1e-30)).astype(np.float32) @ matrix
    cosines = float(together.astype(np.float64) @ together) - n
    return MatrixStats(
        shape=(n, matrix.shape[1]),
        norm_mean=float(norms.mean(dtype=np.float64)),
        norm_std=float(norms.std(dtype=np.float64)),
        norm_min=float(norms.min()),
        norm_max=float(norms.max()),
        cosine_mean=cosines / (n * (n - 1)) if n > 1 else 1.0,
    )


@dataclass(frozen=True)
class Nearest(View):
    """Tokens nearest to a word, or to a sum of words.

    Attributes:
        model: its name.
        expression: what was asked for.
        terms: its words, as (sign, word, tokens).
        ids: the nearest tokens, (K,).
        labels: as text with white space made visible.
        cosines: with the sum, (K,).
    """

    model: str
    expression: str
    terms: tuple[tuple[int, str, tuple[str, ...]], ...]
    ids: NDArray[np.int64]
    labels: tuple[str, ...]
    cosines: Array

    def parts(self) -> list[Part]:
        """The nearest tokens."""
        split = [f"{word} ({' '.join(tokens)})" for _, word, tokens in self.terms if tokens[1:]]
        note = "Its own words, in any spelling, are left out."
        if split:
            note += f" Of several tokens, and so the mean of their vectors: {', '.join(split)}."
        return [
            Table(
                title=f"nearest to {self.expression} in the token embedding of {self.model}",
                columns=[
                    Column("rank", label=True), Column("id", label=True), Column("token"),
                    Column("cosine", 3, bar=True),
                ],
                rows=[
                    [i + 1, int(id_), label, float(cosine)]
                    for i, (id_, label, cosine) in enumerate(
                        zip(self.ids, self.labels, self.cosines, strict=True)
                    )
                ],
                note=note,
            )
        ]  # fmt: skip

    def sentence(self) -> str:
        """See ``View``: the nearest token and the next."""
        if not self.labels:
            return f"The vocabulary has no token beside the words of {self.expression}."
        others = ""
        if len(self.labels) > 1:
            others = f", before {quoted(self.labels[1])} with {self.cosines[1]:.2f}"
        return (
            f"{quoted(self.labels[0])} is nearest to {self.expression}, with a cosine of "
            f"{self.cosines[0]:.2f}{others}."
        )

    def plot(self) -> Figure:
        """Cosines as bars."""
        return figures.bar_chart(
            self.labels,
            self.cosines.tolist(),
            f"Nearest to {self.expression}",
            value_label="cosine",
            texts=[f"{cosine:.3f}" for cosine in self.cosines],
            signed=bool((self.cosines < 0).any()),
            subtitle=f"in the token embedding of {self.model}",
        )


def nearest_tokens(model: Model, expression: str, *, k: int = 10) -> Nearest:
    """The tokens nearest to a word, or to a sum such as "king - man + woman", by cosine.

    Words are brought to length 1 and then added. Source: Mikolov, Yih and Zweig 2013, "Linguistic
    Regularities in Continuous Space Word Representations", section 4.

    Args:
        model: the model.
        expression: words with + and - between them, each sign with a space on both sides.
        k: how many tokens.

    Raises:
        InputError: the expression cannot be read, or ``k`` is out of its range.
    """
    k = check_count("k", k, model.config.vocab_size)
    pieces = re.split(r"(?:^|\s)([+-])(?:\s|$)", expression)
    # A leading sign leaves an empty word before it.
    signed = ["+", *pieces] if pieces[0].strip() else pieces[1:]
    terms = [
        (-1 if sign == "-" else 1, word.strip())
        for sign, word in zip(signed[::2], signed[1::2], strict=True)
    ]
    if not terms or any(not word or word[:2] in ("+ ", "- ") for _, word in terms):
        raise InputError(
            f"{expression!r} is not a word, nor words with + and - between them; write it like "
            '"king - man + woman"'
        )
    table = _Table(model)
    ids = {word: _ids(model, word) for _, word in terms}
    total = np.zeros(model.config.n_embd, np.float32)
    for sign, word in terms:
        vector = table.mean(ids[word])
        total += sign * vector / max(float(np.linalg.norm(vector)), 1e-30)
    own = {word.casefold() for word in ids}
    found: list[tuple[int, str, float]] = []
    for token, cosine in table.nearest(total, k + 100):
        text = model.tokenizer.token_text(token)
        if text.strip().casefold() not in own:
            found.append((token, passes.token_labels(model, [token])[0], cosine))
    found = found[:k]
    return Nearest(
        model=model_label(model),
        expression=" ".join(expression.split()),
        terms=tuple((s, w, tuple(passes.token_labels(model, ids[w]))) for s, w in terms),
        ids=np.array([token for token, _, _ in found], np.int64),
        labels=tuple(label for _, label, _ in found),
        cosines=np.array([cosine for _, _, cosine in found], np.float32),
    )


class _Table:
    """The token embedding and what is worked out of it once."""

    def __init__(self, model: Model) -> None:
        # A model's vocabulary may be padded beyond its tokenizer's.
        known = min(model.tokenizer.vocab_size, model.config.vocab_size)
        name = tensor_spec(model.config, "embed").name
        matrix = model.checkpoint.tensor(name)
        check_finite(name, matrix)
        self.rows: Array = matrix[:known]
        self.norms: Array = np.linalg.norm(self.rows, axis=1)

    def mean(self, ids: Sequence[int]) -> Array:
        """The vector of a word, (C,)."""
        out: Array = self.rows[ids].mean(axis=0)
        return out

    def nearest(
        self, vector: Array, k: int, leave_out: Sequence[int] = ()
    ) -> list[tuple[int, float]]:
        """The k tokens of greatest cosine with a vector (C,), greatest first."""
        length = max(float(np.linalg.norm(vector)), 1e-30)
        cosines = self.rows @ vector / (np.maximum(self.norms, 1e-30) * length)
        cosines[list(leave_out)] = -np.inf
        best = np.argsort(-cosines, kind="stable")[: min(k, len(cosines) - len(leave_out))]
        return [(int(i), float(cosines[i])) for i in best]


def _ids(model: Model, word: str) -> list[int]:
    """Token ids of a word as it stands inside a sentence."""
    if not word:
        raise InputError("a word is empty; give at least one letter")
    return model.tokenizer.encode(f" {word}")
