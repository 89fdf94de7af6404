"""One pass at a glance: everything between a text and its next token, with parts switched off.

What a page needs to draw the whole machine each time a key is pressed: the tokens as points, how
every block changes the residual stream, one block in detail, the logit lens, the next token before
and after the settings of sampling. Only the last positions and one block are given in full, so that
a model of 48 blocks and 1,200 heads stays as quick to draw as a small one.

Shapes: T positions, W of them shown in full (the last ones), L = n_layer, H heads, C = n_embd, K
next tokens, V vocabulary, D = head_dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from laplm.errors import InputError
from laplm.look import passes
from laplm.look import target as targets
from laplm.look.pca import PCA, pca
from laplm.look.view import Column, Grid, Model, Part, Table, View, check_count, model_label
from laplm.look.views.ablation import ablation_tap, parts_named
from laplm.look.views.block import ACTIVATIONS, Neuron, most_active, steps_of
from laplm.look.views.next_token import OFF, Effect, effect_of, plot_effects
from laplm.look.words import describe_change, describe_key_heads, percent, quoted
from laplm.model.activations import Key
from laplm.model.families import family_of, has
from laplm.model.families.ops import softmax
from laplm.model.weights import Tap
from laplm.run.sampler import SamplingParams

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float32]
Ids = NDArray[np.int64]

MOST_WORDS = 12
_NUMBERS = 64  # of a vector, that are shown as they are
_NEURONS, _RAISED = 6, 5
_LENS_ROWS = 256  # logits that are held at one time: 50 MB with GPT-2's vocabulary
_THROUGH = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
_OPENED = (
    "ln1_normalized", "ln1", "pattern", "z", "ln1_post_scale", "ln2_normalized", "ln2", "mlp_pre",
    "mlp_post", "ln2_post_scale",
)  # fmt: skip
_SCORED = {"q": ("q", "q_norm", "rot_q"), "k": ("k", "k_norm", "rot_k")}  # the last one there is
_OF_HEAD = (*_SCORED["q"], *_SCORED["k"], "v", "attn_scores")


@dataclass(frozen=True)
class Vector:
    """One vector on the way, at the position that is followed.

    Attributes:
        name: of the activation.
        norm: its length.
        mean: of its numbers.
        variance: of its numbers.
        numbers: the first 64 of them.
    """

    name: str
    norm: float
    mean: float
    variance: float
    numbers: Array


@dataclass(frozen=True)
class OpenHead:
    """One head of the open block: how the position that is followed comes to its pattern.

    Attributes:
        head: which.
        key_head: whose keys and values it reads; with grouped heads several share one.
        scale: factor on the products of queries and keys.
        query: at the position, as it is scored: after norms and rotations, (D,).
        keys: of the W positions shown, as they are scored, (W, D).
        values: of the W positions shown, (W, D).
        scores: scaled products of the query with each key; None where a key is masked, (W,).
        pattern: their softmax, over the positions before the W shown too, (W,).
    """

    head: int
    key_head: int
    scale: float
    query: Array
    keys: Array
    values: Array
    scores: list[float | None]
    pattern: Array


@dataclass(frozen=True)
class OpenBlock:
    """One block in detail.

    Attributes:
        layer: which.
        vectors: the residual stream, the norms' results and what is added, in the order of the
            pass, at the position that is followed.
        patterns: where each head looks, (H, W, W): rows look at columns.
        earlier: the share that goes to positions before the W shown, (H, W).
        head_norms: length of what each head adds at the position, (H,).
        attention_cosine: between the stream and what attention adds to it.
        feed_forward_cosine: between the stream and what the feed-forward adds to it.
        active: share of the neurons that give more than 0.
        neurons: the most active ones at the position.
        activation: name of the activation function.
        opened: the head that was asked for, or None.
    """

    layer: int
    vectors: tuple[Vector, ...]
    patterns: Array
    earlier: Array
    head_norms: Array
    attention_cosine: float
    feed_forward_cosine: float
    active: float
    neurons: list[Neuron]
    activation: str
    opened: OpenHead | None


@dataclass(frozen=True)
class LensTable:
    """What each layer would say comes next, at N positions: all W shown, or some.

    Attributes:
        first: the first of the N positions.
        stages: "embedding", then the layers' numbers, (L + 1,).
        tokens: the likeliest next token, (L + 1, N).
        probabilities: its probability, (L + 1, N).
    """

    first: int
    stages: list[str]
    tokens: list[list[str]]
    probabilities: Array


@dataclass(frozen=True, eq=False)
class Inside(View):
    """One pass at a glance.

    Attributes:
        model: its name.
        tokens: the text's tokens (T), white space made visible.
        ids: their ids, (T,).
        position: the token that is followed; the next token is the one after it.
        first: the first of the W positions that are shown in full.
        without: the parts that are switched off.
        sizes: n_layer, n_head, n_kv_head, n_embd, n_inner, vocab_size and n_ctx.
        embedding_norms: length of each token's embedding, (T,).
        position_norms: length of each position's vector, (T,); None with rotary positions.
        embedding: the token's vector, the position's and their sum, at the position; with rotary
            positions the token's alone.
        point_labels: the different tokens shown, then the chosen words, (N,).
        point_ids: the tokens' ids; None for a chosen word.
        points: their embeddings along two principal components, (N, 2); None below three points.
        stream_norms: length of the residual stream before each block and after the last,
            (L + 1, T).
        attention_norms: length of what each attention adds, (L, T).
        feed_forward_norms: length of what each feed-forward adds, (L, T).
        final: the stream after the last block, normalised, and with the last norm's gain and
            shift, at the position.
        block: the block that is open, or None.
        lens: the logit lens, or None.
        next_ids: the likeliest next tokens, (K,), with nothing switched off and with it.
        next_tokens: their text, white space made visible.
        next_texts: their text as it is; None for a piece of a character.
        logits: their logits, (K,).
        plain: their probabilities as the model gives them.
        drawn: the same after temperature, top-k and top-p.
        whole_plain: as ``plain``, with nothing switched off; None when nothing is.
        whole_drawn: as ``drawn``, with nothing switched off; None when nothing is.
    """

    model: str
    tokens: list[str]
    ids: list[int]
    position: int
    first: int
    without: list[str]
    sizes: dict[str, int]
    embedding_norms: Array
    position_norms: Array | None
    embedding: tuple[Vector, ...]
    point_labels: list[str]
    point_ids: list[int | None]
    points: PCA | None
    stream_norms: Array
    attention_norms: Array
    feed_forward_norms: Array
    final: tuple[Vector, ...]
    block: OpenBlock | None
    lens: LensTable | None
    next_ids: Ids
    next_tokens: list[str]
    next_texts: list[str | None]
    logits: Array
    plain: Effect
    drawn: Effect
    whole_plain: Effect | None
    whole_drawn: Effect | None

    def parts(self) -> list[Part]:
        """The next token; layer by layer; the layer that is open; the lens."""
        here = f"“{self.tokens[self.position]}” (position {self.position})"
        off = f" without {', '.join(self.without)}" if self.without else ""
        series = {"probability": self.plain, "after the settings": self.drawn}
        if self.whole_plain is not None:
            series = {"with all parts": self.whole_plain} | series
        following = Table(
            title=f"{self.model}{off}: what follows {here}",
            columns=[
                Column("id", label=True), Column("token"), Column("logit", 3),
                *(Column(name, 4, bar=True) for name in series),
            ],
            rows=[
                [
                    int(self.next_ids[i]), token, float(self.logits[i]),
                    *(float(each.probabilities[i]) for each in series.values()),
                ]
                for i, token in enumerate(self.next_tokens)
            ],
            note=f"{self.drawn.kept:,} of {self.plain.kept:,} tokens can be drawn after the "
            f"settings ({self.drawn.name}).",
        )  # fmt: skip
        at = self.position
        likeliest = (
            None if self.lens is None else [row[at - self.lens.first] for row in self.lens.tokens]
        )
        tower = Table(
            title="layer by layer",
            columns=[
                Column("layer"), Column("|X| in", 2), Column("|ΔX| attention", 2),
                Column("|ΔX| feed-forward", 2), Column("|X| out", 2), Column("logit lens"),
            ],
            rows=[
                [
                    layer, self.stream_norms[layer, at], self.attention_norms[layer, at],
                    self.feed_forward_norms[layer, at], self.stream_norms[layer + 1, at],
                    None if likeliest is None else likeliest[layer + 1],
                ]
                for layer in range(len(self.attention_norms))
            ],
            note="X: the residual stream; ΔX: what is added to it. Logit lens: likeliest token.",
        )  # fmt: skip
        parts: list[Part] = [following, tower]
        if self.block is not None:
            parts += self._block_parts(self.block, here)
        if self.lens is not None:
            shown = Grid(
                title="probability of the likeliest token after each layer",
                values=self.lens.probabilities,
                row_labels=self.lens.stages,
                column_labels=self.tokens[self.lens.first :][: len(self.lens.tokens[0])],
            )
            parts.append(shown)
        return parts

    def _block_parts(self, block: OpenBlock, here: str) -> list[Part]:
        at = self.position - self.first
        rows = []
        for head, pattern in enumerate(block.patterns[:, at]):
            most = int(pattern.argmax())
            looked = self.tokens[self.first + most]
            rows.append([head, float(block.head_norms[head]), looked, float(pattern[most])])
        heads = Table(
            title=f"the heads of layer {block.layer}, at {here}",
            columns=[
                Column("head"), Column("length added", 3), Column("attends most to"),
                Column("share", 2, bar=True),
            ],
            rows=rows,
            note=describe_key_heads(self.sizes["n_head"], self.sizes["n_kv_head"]),
        )  # fmt: skip
        neurons = Table(
            title=f"the most active neurons of layer {block.layer}, at {here}",
            columns=[
                Column("neuron"), Column(f"after {block.activation}", 3),
                Column("norm added", 3), Column("promotes"), Column("suppresses"),
            ],
            rows=[
                [n.index, n.activation, n.norm, " ".join(n.promotes), " ".join(n.suppresses)]
                for n in block.neurons
            ],
        )  # fmt: skip
        return [heads, neurons]

    def sentence(self) -> str:
        """See ``View``: the likeliest next token, and what becomes of it without the parts."""
        first = int(self.plain.probabilities.argmax())
        said = (
            f"After {quoted(self.tokens[self.position])} comes {quoted(self.next_tokens[first])} "
            f"with {percent(float(self.plain.probabilities[first]))}"
        )
        if self.drawn.params != self.plain.params:
            said += f", {percent(float(self.drawn.probabilities[first]))} with {self.drawn.name}"
        if self.whole_plain is not None:
            whole = int(self.whole_plain.probabilities.argmax())
            change = describe_change(
                float(self.whole_plain.probabilities[whole]),
                float(self.plain.probabilities[whole]),
            )
            said += (
                f"; without {', '.join(self.without)} {quoted(self.next_tokens[whole])} {change}"
            )
        return f"{said}."

    def plot(self) -> Figure:
        """The next token's probabilities: with all parts, without some, after the settings."""
        every = [self.plain, self.drawn]
        names = ["as it is", self.drawn.name]
        if self.whole_plain is not None:
            every, names = [self.whole_plain, *every], ["with all parts", "without", names[1]]
        off = f"; switched off: {', '.join(self.without)}" if self.without else ""
        return plot_effects(
            self.model, self.next_tokens, every, names, f"after “{self.tokens[self.position]}”{off}"
        )


def inside(
    model: Model,
    text: passes.Text,
    *,
    without: Sequence[str] = (),
    position: int = -1,
    layer: int | None = None,
    head: int | None = None,
    words: Sequence[str] = (),
    window: int = 24,
    lens: bool = True,
    lens_positions: int | None = None,
    k: int = 15,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> Inside:
    """See one pass at a glance.

    Args:
        model: the model.
        text: what to run: text, bytes or token ids.
        without: parts that are switched off: "head:3.1" (layer 3, head 1), "attention:2",
            "feed-forward:0" or "neuron:4.17".
        position: the token to follow, and after which the next one is asked for; negative ones
            count from the end. What comes after it is shown, but changes nothing before it.
        layer: the block that is open; None opens none.
        head: of the open block, the head whose query, keys and values are shown; None shows none.
        words: up to 12 words that are shown among the tokens' embeddings.
        window: how many positions are shown in full: the last ones, or those around the one that is
            followed.
        lens: read every layer as a prediction.
        lens_positions: at how many of the positions shown, those up to the one that is followed;
            None is all. Each takes as long as the model's own output, once a layer.
        k: how many next tokens.
        temperature: logits are divided by it.
        top_k: only the k likeliest tokens; 0 is off.
        top_p: only the fewest likeliest tokens that hold this share of the probability.

    Raises:
        ContextLengthError: the text has more tokens than the model has positions.
        InputError: the text or a word is empty, a part, layer, head or position is not there, or
            a setting is out of its range.
    """
    config = model.config
    known = min(model.tokenizer.vocab_size, config.vocab_size)
    k = check_count("k", k, known)
    window = check_count("window", window, config.n_ctx)
    params = SamplingParams(**OFF | {"temperature": temperature, "top_k": top_k, "top_p": top_p})  # type: ignore[arg-type]
    names = [without] if isinstance(without, str) else list(dict.fromkeys(without))
    change = ablation_tap(model, **parts_named(names), how="zero") if names else None
    _check_opened(model, layer, head, lens_positions)
    ids = passes.encode(model, text)
    at = passes.check_position(ids, position)
    # The position that is followed is always shown, most of the others before it: there it looks.
    first = max(0, min(len(ids) - window, at - 2 * window // 3))
    shown = slice(first, first + window)
    run = _record(model, ids, layer, change, of_head=head is not None)
    end = run["resid_post", config.n_layer - 1]
    stream = np.stack([*(run["resid_pre", i] for i in range(config.n_layer)), end])
    final, logits = _unembed(model, stream[-1, at], known)
    whole = None
    if change is not None:
        unchanged = _record(model, ids, None, None)["resid_post", config.n_layer - 1]
        whole = _logits(model, unchanged[at][None])[0, :known]
    best = _likeliest_of_any([logits] if whole is None else [logits, whole], k)
    plain, drawn = _effects(model, logits, best, params)
    whole_plain, whole_drawn = (
        (None, None) if whole is None else _effects(model, whole, best, params)
    )
    point_labels, point_ids, points = _points(model, ids[shown], words)
    read = shown if lens_positions is None else slice(max(first, at + 1 - lens_positions), at + 1)
    return Inside(
        model=model_label(model),
        tokens=passes.token_labels(model, ids),
        ids=ids,
        position=at,
        first=first,
        without=names,
        sizes={
            "n_layer": config.n_layer, "n_head": config.n_head, "n_kv_head": config.n_kv_head,
            "n_embd": config.n_embd, "n_inner": config.n_inner,
            "vocab_size": config.vocab_size, "n_ctx": config.n_ctx,
        },
        embedding_norms=np.linalg.norm(run["embed", None], axis=-1),
        position_norms=(
            np.linalg.norm(run["pos_embed", None], axis=-1) if has(config, "pos_embed") else None
        ),
        embedding=_embedding(run, at),
        point_labels=point_labels,
        point_ids=point_ids,
        points=points,
        stream_norms=np.linalg.norm(stream, axis=-1),
        attention_norms=_norms(run, "attn_out", config.n_layer),
        feed_forward_norms=_norms(run, "mlp_out", config.n_layer),
        final=tuple(_vector(name, x) for name, x in final.items() if x.size > 1),
        block=None if layer is None else _block(model, run, layer, at, shown, head),
        lens=_lens(model, stream[:, read], read.start) if lens else None,
        next_ids=best,
        next_tokens=passes.token_labels(model, best.tolist()),
        next_texts=[_whole_text(model, i) for i in best.tolist()],
        logits=logits[best],
        plain=plain,
        drawn=drawn,
        whole_plain=whole_plain,
        whole_drawn=whole_drawn,
    )  # fmt: skip


def _check_opened(
    model: Model, layer: int | None, head: int | None, lens_positions: int | None
) -> None:
    if layer is not None:
        passes.check_layer(model, layer)
    if head is not None:
        passes.check_head(model, head)
    if lens_positions is not None:
        check_count("lens_positions", lens_positions, model.config.n_ctx)


def _unembed(model: Model, x: Array, known: int) -> tuple[dict[str, Array], Array]:
    """The last residual stream (C,) through the final norm, step by step, and its logits."""
    steps: dict[str, Array] = {"resid_post": x}

    def hook(name: str, _: int | None, y: Array) -> Array:
        if name != "logits":
            steps[name] = y[0]
        return y

    config = model.config
    logits = family_of(config).unembed(x[None], passes.weights(model), config, hook)
    return steps, logits[0, :known]


def _effects(
    model: Model, logits: Array, best: NDArray[np.int64], params: SamplingParams
) -> tuple[Effect, Effect]:
    """The next token as the model has it, and under the settings of sampling."""
    off = SamplingParams(**OFF)  # type: ignore[arg-type]
    plain = effect_of(model, logits, best, "as it is", off)
    return plain, effect_of(model, logits, best, _settings(params), params)


def _whole_text(model: Model, token_id: int) -> str | None:
    """A token's text as it is, or None for a piece of a character."""
    try:
        return model.tokenizer.token_bytes(token_id).decode("utf-8")
    except UnicodeDecodeError:
        return None


def _record(
    model: Model,
    ids: Sequence[int],
    layer: int | None,
    change: Tap | None,
    of_head: bool = False,
) -> dict[Key, Array]:
    """One pass; what goes through all blocks, the inside of one, and what its heads compare."""
    kept: dict[Key, Array] = {}
    inner = {*_OPENED, *(_OF_HEAD if of_head else ())}

    def tap(name: str, at: int | None, x: Array) -> Array | None:
        changed = change(name, at, x) if change is not None else None
        opened = name in inner and at == layer and at is not None
        if opened or name in _THROUGH or name in ("embed", "pos_embed"):
            kept[name, at] = np.array(x if changed is None else changed, np.float32)
        return changed

    passes.forward(model, ids, tap, last_only=True)
    return kept


def _logits(model: Model, stream: Array) -> Array:
    """Residual streams (..., C) to logits (..., V)."""
    return family_of(model.config).unembed(stream, passes.weights(model), model.config)


def _likeliest_of_any(every: Sequence[Array], k: int) -> Ids:
    """The k ids of greatest probability in any of several logits (V,), greatest first."""
    return targets.likeliest(np.stack([softmax(logits) for logits in every]), k)


def _embedding(run: dict[Key, Array], at: int) -> tuple[Vector, ...]:
    """A token's vector, its position's and their sum; the first alone with rotary positions."""
    token = _vector("embed", run["embed", None][at])
    if ("pos_embed", None) not in run:
        return (token,)
    position = _vector("pos_embed", run["pos_embed", None][at])
    return token, position, _vector("resid_pre", run["resid_pre", 0][at])


def _settings(params: SamplingParams) -> str:
    """The settings that change something, in words."""
    words = {"temperature": "temperature", "top_k": "top-k", "top_p": "top-p"}
    said = [
        f"{word} {getattr(params, name):g}"
        for name, word in words.items()
        if getattr(params, name) != OFF[name]
    ]
    return ", ".join(said) or "as it is"


def _norms(run: dict[Key, Array], name: str, n_layer: int) -> Array:
    out: Array = np.linalg.norm(np.stack([run[name, i] for i in range(n_layer)]), axis=-1)
    return out


def _vector(name: str, x: Array) -> Vector:
    return Vector(
        name=name,
        norm=float(np.linalg.norm(x)),
        mean=float(x.mean()),
        variance=float(x.var()),
        numbers=x[:_NUMBERS],
    )


def _points(
    model: Model, ids: Sequence[int], words: Sequence[str]
) -> tuple[list[str], list[int | None], PCA | None]:
    """The different tokens and the words as points of the token embedding."""
    words = [words] if isinstance(words, str) else list(dict.fromkeys(w.strip() for w in words))
    if len(words) > MOST_WORDS:
        raise InputError(f"there are {len(words)} words; at most {MOST_WORDS} can be shown")
    if not all(words):
        raise InputError("a word is empty; give at least one letter")
    different = list(dict.fromkeys(ids))
    weights = passes.weights(model)
    vectors = [*weights.rows("embed", np.array(different, np.int64))]
    for word in words:  # as it stands inside a sentence; of several tokens their mean
        pieces = np.array(model.tokenizer.encode(f" {word}"), np.int64)
        vectors.append(weights.rows("embed", pieces).mean(axis=0))
    labels = passes.token_labels(model, different) + words
    points = pca(np.stack(vectors)) if len(vectors) > 2 else None
    return labels, [*different, *(None for _ in words)], points


def _block(
    model: Model, run: dict[Key, Array], layer: int, at: int, shown: slice, head: int | None
) -> OpenBlock:
    config = model.config
    patterns = run["pattern", layer]  # (H, T, T)
    weights = passes.dense_weights(model)
    out = weights.matrix("attn_out", layer).T.reshape(config.n_head, config.head_dim, -1)
    added = np.matmul(run["z", layer][at][:, None], out)[:, 0]  # (H, C)
    scale = 1.0
    if config.post_norms:
        gain = weights.vector("post_norm1", layer) + np.float32(config.norm_offset)
        added = added * gain / run["ln1_post_scale", layer][at]
        scale = float(run["ln2_post_scale", layer][at, 0])
    steps = [step for step in steps_of(config) if not step.startswith("mlp_p")]
    x = {step: run[step, layer][at] for step in steps}
    after = run["mlp_post", layer][at]
    return OpenBlock(
        layer=layer,
        vectors=tuple(_vector(step, x[step]) for step in steps),
        patterns=patterns[:, shown, shown],
        earlier=patterns[:, shown, : shown.start].sum(axis=-1),
        head_norms=np.linalg.norm(added, axis=-1),
        attention_cosine=_cosine(x["resid_pre"], x["attn_out"]),
        # Where both read the layer's input, both are added to it.
        feed_forward_cosine=_cosine(x.get("resid_mid", x["resid_pre"]), x["mlp_out"]),
        active=float((after > 0).mean()),
        neurons=most_active(
            model, layer, run["mlp_pre", layer][at], after, _NEURONS, _RAISED, scale
        ),
        activation=ACTIVATIONS[config.activation],
        opened=None if head is None else _head(model, run, layer, head, at, shown),
    )


def _head(
    model: Model, run: dict[Key, Array], layer: int, head: int, at: int, shown: slice
) -> OpenHead:
    """One head at one position: its query, the keys it is compared with, and their values."""
    config = model.config
    key_head = config.kv_head_of(head)
    q, k = (next(run[n, layer] for n in reversed(_SCORED[x]) if (n, layer) in run) for x in "qk")
    scores = run["attn_scores", layer][head, at, shown]
    return OpenHead(
        head=head,
        key_head=key_head,
        scale=config.attention_scale(layer),
        query=q[at, head],
        keys=k[shown, key_head],
        values=run["v", layer][shown, key_head],
        scores=[float(score) if np.isfinite(score) else None for score in scores],
        pattern=run["pattern", layer][head, at, shown],
    )


def _cosine(a: Array, b: Array) -> float:
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / lengths if lengths > 0 else 0.0


def _lens(model: Model, streams: Array, first: int) -> LensTable:
    """Residual streams (L + 1, N, C), each read as if it were the last."""
    known = min(model.tokenizer.vocab_size, model.config.vocab_size)
    rows = streams.reshape(-1, streams.shape[-1])
    best: list[int] = []
    chances: list[float] = []
    # Many rows share each reading of the output matrix, which is what takes the time.
    for start in range(0, len(rows), _LENS_ROWS):
        logits = _logits(model, rows[start : start + _LENS_ROWS])[:, :known]
        highest = logits.max(axis=-1, keepdims=True)
        best += logits.argmax(axis=-1).tolist()
        chances += (1 / np.exp(logits - highest).sum(axis=-1)).tolist()
    labels = np.array(passes.token_labels(model, best), object).reshape(streams.shape[:-1])
    stages = ["embedding", *map(str, range(len(streams) - 1))]
    probabilities = np.array(chances, np.float32).reshape(streams.shape[:-1])
    return LensTable(first, stages, labels.tolist(), probabilities)
