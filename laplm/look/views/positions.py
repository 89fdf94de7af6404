"""The position embedding, and what it is for: word order.

Attention by itself does not know where a token stands: GPT-2 adds a learned vector for each
position to the token's own. Later models turn queries and keys instead, each pair of components by
an angle that grows with the position, so that their product tells how far apart two tokens are (Su
et al. 2021, "RoFormer", section 3.2.2).
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from laplm.errors import InputError
from laplm.look import figures, passes
from laplm.look.pca import PCA, pca
from laplm.look.view import Column, Grid, Model, Part, Table, View, check_count, model_label
from laplm.look.words import counted, percent, quoted, ranges
from laplm.model.families import tensor_spec
from laplm.model.families.ops import softmax
from laplm.model.families.rope import rope_frequencies
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

    def sentence(self) -> str:
        """See ``View``: how alike positions are that lie near and far apart."""
        count = self.shape[0]
        if count == 1:
            return f"There is 1 position, with a vector {self.norms[0]:.2f} long."
        far = 1 << (min(count - 1, 64).bit_length() - 1)
        alike = f"Neighbouring positions have a cosine of {self.by_distance[1]:.2f}"
        if far > 1:
            alike += f", those {far} apart {self.by_distance[far]:.2f}"
        explained = self.projection.explained
        share = percent(float(explained.sum()))
        return (
            f"{alike} (means of {counted(count, 'position')}); {share} of what tells them apart "
            f"lies in {len(explained)} of {self.shape[1]:,} directions."
        )

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


@dataclass(frozen=True)
class Turning:
    """How the layers of one kind turn queries and keys. R = rotary_dim.

    Attributes:
        layers: which they are.
        window: how many positions a query of theirs sees; None: all up to its own.
        wavelengths: positions until each pair of components has turned once, (R / 2,).
        by_distance: mean cosine of the angles by which pairs turn in 0, 1, 2, … positions: what
            is left of the product of a vector with itself, if all pairs are as long, (S,).
    """

    layers: list[int]
    window: int | None
    wavelengths: Array
    by_distance: Array

    @property
    def name(self) -> str:
        """Which layers, in words."""
        return f"layer{'s' * (len(self.layers) > 1)} {ranges(self.layers)}"


@dataclass(frozen=True)
class RotaryPositions(View):
    """Rotary positions: wavelengths by layer, where there is no table of positions.

    Attributes:
        model: its name.
        head_dim: components of a head.
        rotary_dim: R, how many of them turn, in pairs.
        n_ctx: positions that the model was trained on.
        kinds: layers that turn alike, each kind once.
        without: layers that have no positions.
    """

    model: str
    head_dim: int
    rotary_dim: int
    n_ctx: int
    kinds: tuple[Turning, ...]
    without: list[int]

    def parts(self) -> list[Part]:
        """The wavelengths of all pairs; what is left of a product at a distance."""
        names = [kind.name for kind in self.kinds]
        pairs = self.rotary_dim // 2
        wavelengths = Table(
            title=f"{self.model}: how many tokens until a pair of components has turned once",
            columns=[
                Column("pair", label=True), Column("components", label=True),
                *(Column(name, 1) for name in names),
                *(Column(f"turns in {self.n_ctx:,}" + f", {name}" * (len(names) > 1), 2)
                  for name in names),
            ],
            rows=[
                [
                    i, f"{i}, {i + pairs}", *(float(kind.wavelengths[i]) for kind in self.kinds),
                    *(self.n_ctx / float(kind.wavelengths[i]) for kind in self.kinds),
                ]
                for i in range(pairs)
            ],
            note=f"Of {self.head_dim} components of each head {self.rotary_dim} turn, in pairs. "
            "What turns fast tells neighbours apart, what turns slowly the far from the near"
            + (f"; layers {ranges(self.without)} have no positions" if self.without else "") + ".",
        )  # fmt: skip
        seen = len(self.kinds[0].by_distance)
        far = [d for d in (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512) if d < seen]
        alike = Table(
            title="what is left of a product at a distance",
            columns=[Column("tokens apart", label=True), *(Column(name, 3) for name in names)],
            rows=[[d, *(float(kind.by_distance[d]) for kind in self.kinds)] for d in far],
            note="The mean cosine of the angles: a query and a key that are the same vector, all "
            "pairs as long, lose so much of their product.",
        )
        return [wavelengths, alike]

    def sentence(self) -> str:
        """See ``View``: the shortest and the longest wavelength of each kind of layers."""
        said = []
        for kind in self.kinds:
            least, most = float(kind.wavelengths.min()), float(kind.wavelengths.max())
            longer = int((kind.wavelengths > self.n_ctx).sum())
            sees = "" if kind.window is None else f", which see {kind.window:,} tokens back"
            said.append(
                f"{kind.name}{sees}: {len(kind.wavelengths)} pairs of components of each head turn "
                f"once in {least:,.1f} to {most:,.0f} tokens, {longer} of them in more than the "
                f"context of {self.n_ctx:,}"
            )
        text = "; ".join(said)
        if self.without:
            text += f"; {counted(len(self.without), 'layer')} without positions"
        return f"{text[0].upper()}{text[1:]}."

    def plot(self) -> Figure:
        """Wavelengths by pair, and the context beside them."""
        pairs = list(range(self.rotary_dim // 2))
        series = {kind.name: kind.wavelengths.tolist() for kind in self.kinds}
        return figures.line_chart(
            pairs,
            series | {f"the context, {self.n_ctx:,} tokens": [float(self.n_ctx)] * len(pairs)},
            f"{self.model}: how far apart tokens are when a pair has turned once",
            x_label=f"pair of components (component i and i + {len(pairs)})",
            y_label="wavelength, tokens",
            log_y=True,
            subtitle=f"rotary positions; {self.rotary_dim} of {self.head_dim} components turn",
        )


def positions(model: Model, *, samples: int = 128) -> Positions | RotaryPositions:
    """See the position embedding: which positions are alike, and along which directions they move.

    A model with rotary positions has no table of them: then the wavelengths by which its queries
    and keys turn.

    Args:
        model: the model.
        samples: at most so many positions are compared with each other, evenly spaced; of rotary
            ones distances.

    Raises:
        InputError: ``samples`` is out of its range.
    """
    if model.config.positions == "rope":
        return _rotary(model, check_count("samples", samples, 4096))
    name = tensor_spec(model.config, "pos_embed").name
    matrix = model.checkpoint.tensor(name)
    check_finite(name, matrix)
    samples = min(check_count("samples", samples, 4096), len(matrix))
    sampled = np.arange(0, len(matrix), -(-len(matrix) // samples))
    norms: Array = np.linalg.norm(matrix, axis=1)
    units = matrix / np.maximum(norms, np.float32(1e-30))[:, None]
    cosines = (units @ units.T).astype(np.float32, copy=False)
    return Positions(
        model=model_label(model),
        shape=(matrix.shape[0], matrix.shape[1]),
        norms=norms,
        sampled=sampled,
        similarity=cosines[np.ix_(sampled, sampled)],
        by_distance=np.array([np.diagonal(cosines, d).mean() for d in range(len(matrix))]),
        projection=pca(matrix, _COMPONENTS),
    )


def _rotary(model: Model, samples: int) -> RotaryPositions:
    config = model.config
    kinds: dict[tuple[bytes, int | None], Turning] = {}
    distances = np.arange(min(samples, config.n_ctx))
    for layer in range(config.n_layer):
        if not config.uses_rope(layer):
            continue
        frequencies, window = rope_frequencies(config, layer), config.layer_window(layer)
        angles = distances[:, None] * frequencies.astype(np.float64)
        new = Turning(
            layers=[],
            window=window,
            wavelengths=np.float32(2 * math.pi) / frequencies,
            by_distance=np.cos(angles).mean(axis=-1).astype(np.float32),
        )
        kinds.setdefault((frequencies.tobytes(), window), new).layers.append(layer)
    turning = [layer for kind in kinds.values() for layer in kind.layers]
    return RotaryPositions(
        model=model_label(model),
        head_dim=config.head_dim,
        rotary_dim=config.rotary_dim,
        n_ctx=config.n_ctx,
        kinds=tuple(kinds.values()),
        without=sorted(set(range(config.n_layer)) - set(turning)),
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
            model is, and when all positions get one embedding, the mean of those used; of a model
            with rotary positions when queries and keys do not turn.
        rotary: whether its positions are rotary.
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
    rotary: bool

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
        tells = "the position embedding tells"
        without_positions = "one embedding for all positions"
        if self.rotary:
            tells, without_positions = "the turning of queries and keys tells", "none of it turned"
        same = "the same tokens" if self.same_tokens else "NOT the same tokens"
        apart = Table(
            title="how far apart the two orders are",
            columns=[Column("what"), Column("value", 4)],
            rows=[
                ["tokens", same],
                ["cosine of the sums of their token embeddings", self.sum_cosine],
                ["cosine of what the first attention puts out at the end", with_positions],
                [f"the same with {without_positions}", without],
                ["cosine of what the last layer puts out at the end", self.final_cosine],
                ["next token: total variation distance", self.distance],
            ],
            note="Attention sums over what it looks at, and a sum has no order: "
            f"{tells} it. (Deeper layers could learn some of it from the mask alone, for a "
            "token sees only what is before it: Haviv et al. 2022, arXiv:2203.16634.)",
        )
        return [following, apart]

    def _names(self) -> list[str]:
        short = [t if len(t) <= 40 else f"{t[:18]} … {t[-19:]}" for t in self.texts]
        return [f"after “{text}”" for text in short]

    def sentence(self) -> str:
        """See ``View``: what comes next in either order, and how much has to be moved."""
        first, second = (
            f"{quoted(self.labels[int(row.argmax())])} with {percent(float(row.max()))}"
            for row in self.probabilities
        )
        names = self._names()
        return (
            f"{names[0][:1].upper()}{names[0][1:]} comes {first}, {names[1]} {second}: of the "
            f"next token's probability {percent(self.distance)} lies elsewhere."
        )

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
    k = check_count("k", k, model.config.vocab_size)
    other = swapped(text) if other is None else other
    if text == other:
        raise InputError("both texts are the same; give the words in another order as the second")
    texts = (text + ending, other + ending)
    ids = [passes.encode(model, t) for t in texts]
    known = min(model.tokenizer.vocab_size, model.config.vocab_size)

    rotary = model.config.positions == "rope"
    unturned: dict[str, Array] = {}

    def one_position(name: str, layer: int | None, x: Array) -> Array | None:
        if name in ("q", "k", "q_norm", "k_norm"):
            unturned[name[0]] = x
        if name in ("rot_q", "rot_k"):
            return unturned[name[-1]]
        return np.broadcast_to(x.mean(axis=0), x.shape) if name == "pos_embed" else None

    names = ["embed", "attn_out", "ln_final", "logits"]
    caches = [passes.run_with_cache(model, own, names) for own in ids]
    blind = [passes.run_with_cache(model, own, ["attn_out"], one_position) for own in ids]
    probabilities = np.stack([softmax(c["logits"][-1, :known]) for c in caches])
    best = np.argsort(-probabilities.max(axis=0), kind="stable")[:k]
    return WordOrder(
        model=model_label(model),
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
        rotary=rotary,
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
