"""One block followed in numbers, and the residual stream through all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from laplm.errors import InputError
from laplm.look import figures, passes
from laplm.look.unembedding import neuron_directions, strongest
from laplm.look.view import Column, Grid, Model, Part, Table, View, model_label
from laplm.look.words import counted, percent, quoted
from laplm.model.config import ModelConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float32]

ACTIVATIONS = {
    "gelu_new": "GELU", "gelu_pytorch_tanh": "GELU", "gelu": "GELU", "gelu_10": "GELU, at most 10",
    "quick_gelu": "quick GELU", "relu": "ReLU", "relu2": "ReLU²", "relu6": "ReLU6",
    "leaky_relu": "leaky ReLU", "silu": "SiLU", "mish": "Mish", "hardswish": "hard swish",
    "tanh": "tanh", "sigmoid": "sigmoid", "laplace": "Laplace", "linear": "no activation",
}  # fmt: skip


def steps_of(config: ModelConfig) -> dict[str, str]:
    """Every vector on the way through a block, in order, and what it is."""
    normalized, gained = (
        ("RMS norm: mean square 1", "times the norm's gain")
        if config.norm == "rms"
        else ("layer norm: mean 0, variance 1", "times the norm's gain, plus its bias")
    )
    after = ", then a norm" if config.post_norms else ""
    activation = ACTIVATIONS[config.activation]
    inner = {"mlp_pre": "feed-forward, up", "mlp_post": activation}
    if config.gated:
        inner = {
            "mlp_pre": "feed-forward, gate", "mlp_pre_linear": "feed-forward, up",
            "mlp_post": f"{activation} of the gate, times up",
        }  # fmt: skip
    between = {} if config.parallel_residual else {"resid_mid": "X + ΔX"}
    second = " of X" if config.parallel_residual else ""
    return {
        "resid_pre": "the residual stream comes in: X",
        "ln1_normalized": normalized,
        "ln1": gained,
        "attn_out": f"attention{after}: ΔX",
        **between,
        "ln2_normalized": normalized.replace(":", f"{second}:"),
        "ln2": gained,
        **inner,
        "mlp_out": f"feed-forward, down{after}: ΔX",
        "resid_post": "X and both ΔX go out" if config.parallel_residual else "X + ΔX goes out",
    }


@dataclass(frozen=True)
class Neuron:
    """One neuron of the feed-forward at one position.

    Attributes:
        index: which one.
        before: its input to the activation function; of a gated feed-forward the gate's.
        activation: what the feed-forward makes of it: the function's result, times the neuron's
            part of the up matrix where there is a gate.
        norm: length of the vector that it adds to the residual stream.
        promotes: the tokens whose logits its output weights raise most when it is on.
        suppresses: those that they lower most.
    """

    index: int
    before: float
    activation: float
    norm: float
    promotes: list[str]
    suppresses: list[str]


@dataclass(frozen=True, eq=False)
class Block(View):
    """One block in numbers. The vectors themselves are in a trace.

    Attributes:
        model: its name.
        tokens: the text's tokens, white space made visible.
        layer: which block.
        position: the token that is followed closely.
        steps: names of the activations on the way (N), as in a trace.
        what: what each of them is, in words, (N).
        widths: numbers in each of them, (N).
        norms: length of each vector, (N, T).
        means: mean of its numbers, (N, T).
        variances: variance of its numbers, (N, T).
        attention_cosine: between X and the ΔX of attention, (T).
        feed_forward_cosine: between X and the ΔX of the feed-forward, (T).
        active: share of neurons that give more than 0, (T).
        neurons: the most active ones at ``position``, the most active first.
        activation: name of the activation function.
        norm: "layer" for layer norms, "rms" for RMS norms.
    """

    model: str
    tokens: list[str]
    layer: int
    position: int
    steps: list[str]
    what: list[str]
    widths: list[int]
    norms: Array
    means: Array
    variances: Array
    attention_cosine: Array
    feed_forward_cosine: Array
    active: Array
    neurons: list[Neuron]
    activation: str
    norm: Literal["layer", "rms"]

    def parts(self) -> list[Part]:
        """The way of one token; what is added at each; the norms at each; the neurons."""
        neurons = [self._neurons_table()] if self.neurons else []
        return [self._way_table(), self._added_table(), self._norms_table(), *neurons]

    @property
    def _here(self) -> str:
        return f"“{self.tokens[self.position]}” (position {self.position})"

    def _way_table(self) -> Table:
        at = self.position
        return Table(
            title=f"{self.model}: block {self.layer}, step by step, at {self._here}",
            columns=[
                Column("step"), Column("what"), Column("numbers"), Column("norm", 3),
                Column("mean", 4), Column("variance", 4),
            ],
            rows=[
                [
                    step, self.what[i], self.widths[i],
                    self.norms[i, at], self.means[i, at], self.variances[i, at],
                ]
                for i, step in enumerate(self.steps)
            ],
            note="Norm: the length of the vector.",
        )  # fmt: skip

    def _added_table(self) -> Table:
        row = {step: i for i, step in enumerate(self.steps)}
        between = [row["resid_mid"]] if "resid_mid" in row else []
        return Table(
            title="what each sublayer adds",
            columns=[
                Column("position"), Column("token"), Column("|X| in", 2),
                Column("|ΔX| attention", 2), Column("cos attention", 3, signed=True),
                *[Column("|X| between", 2)] * len(between), Column("|ΔX| feed-forward", 2),
                Column("cos feed-forward", 3, signed=True), Column("|X| out", 2),
                Column("neurons on", 3, bar=True),
            ],
            rows=[
                [
                    i, token, self.norms[row["resid_pre"], i], self.norms[row["attn_out"], i],
                    self.attention_cosine[i], *(self.norms[at, i] for at in between),
                    self.norms[row["mlp_out"], i], self.feed_forward_cosine[i],
                    self.norms[row["resid_post"], i], self.active[i],
                ]
                for i, token in enumerate(self.tokens)
            ],
            note="Cos: the cosine between ΔX and the X that it is added to. Neurons on: those that "
            "give more than 0.",
        )  # fmt: skip

    def _norms_table(self) -> Table:
        row = {step: i for i, step in enumerate(self.steps)}
        second = "resid_mid" if "resid_mid" in row else "resid_pre"
        # What a norm brings to one value: mean and variance, or the root of the mean square.
        brought = {"mean": self.means, "variance": self.variances}
        if self.norm == "rms":
            roots = np.sqrt(np.array(self.widths, np.float32))[:, None]
            brought = {"RMS": np.asarray(self.norms / roots, np.float32)}
        return Table(
            title="what the norms do",
            columns=[
                Column("position"), Column("token"),
                *(
                    Column(f"{norm} {what} {when}", 4)
                    for norm in ("ln1", "ln2")
                    for what in brought
                    for when in ("before", "after")
                ),
            ],
            rows=[
                [
                    i, token,
                    *(
                        table[row[step], i]
                        for before, after in (("resid_pre", "ln1"), (second, "ln2"))
                        for table in brought.values()
                        for step in (before, f"{after}_normalized")
                    ),
                ]
                for i, token in enumerate(self.tokens)
            ],
            note="After: before what the norm has learned, its gain and any shift."
            + " RMS: the root of the mean square." * (self.norm == "rms"),
        )  # fmt: skip

    def _neurons_table(self) -> Table:
        return Table(
            title=f"the most active neurons at {self._here}",
            columns=[
                Column("neuron"), Column("before", 3), Column(f"after {self.activation}", 3),
                Column("norm added", 3), Column("promotes"), Column("suppresses"),
            ],
            rows=[
                [
                    n.index, n.before, n.activation, n.norm,
                    " ".join(n.promotes), " ".join(n.suppresses),
                ]
                for n in self.neurons
            ],
            note="Promotes, suppresses: logits that the neuron's output weights change directly, "
            "read through the last norm's gain and the output matrix (Geva et al. 2022, "
            "section 3).",
        )  # fmt: skip

    def sentence(self) -> str:
        """See ``View``: how long what each sublayer adds is, and the most active neuron."""
        row, at = {step: i for i, step in enumerate(self.steps)}, self.position
        stream, attention, feed_forward, end = (
            float(self.norms[row[step], at])
            for step in ("resid_pre", "attn_out", "mlp_out", "resid_post")
        )
        said = (
            f"In block {self.layer}, at {self._here}, attention adds a vector {attention:.2f} "
            f"long and the feed-forward one of {feed_forward:.2f} to a stream of {stream:.2f}, "
            f"which leaves with {end:.2f}; {percent(float(self.active[at]))} of the neurons are on"
        )
        if self.neurons:
            first = self.neurons[0]
            said += f", the most {first.index} with {first.activation:+.2f}"
            if first.promotes:
                said += f", which promotes {quoted(first.promotes[0])}"
        return f"{said}."

    def plot(self) -> Figure:
        """The length of the residual stream, and of what the two sublayers add, at every token."""
        shown = {
            "resid_pre": "|X| in", "attn_out": "|ΔX| attention", "resid_mid": "|X| between",
            "mlp_out": "|ΔX| feed-forward", "resid_post": "|X| out",
        }  # fmt: skip
        there = [step for step in shown if step in self.steps]
        values = self.norms[[self.steps.index(step) for step in there]]
        return figures.heatmap(
            values,
            [shown[step] for step in there],
            self.tokens,
            f"What block {self.layer} adds to the residual stream",
            value_label="length of the vector",
            limit=_max_without_first_token(values),
            texts=[[_short(value) for value in row] for row in values],
            subtitle=f"X: the stream, ΔX: what a sublayer adds to it; {self.model}",
        )


def block(
    model: Model,
    text: passes.Text,
    *,
    layer: int = 0,
    position: int = -1,
    neurons: int = 5,
    words: int = 6,
) -> Block:
    """Follow one block in numbers.

    Args:
        model: the model.
        text: what to run: text, bytes or token ids.
        layer: which block.
        position: the token to follow closely; negative ones count from the end.
        neurons: how many of the most active neurons to show.
        words: how many tokens to show that each of them promotes and suppresses.

    Raises:
        ContextLengthError: the text has more tokens than the model has positions.
        InputError: the text is empty, there is no such layer or position, or a count is negative.
    """
    passes.check_layer(model, layer)
    for name, count in (("neurons", neurons), ("words", words)):
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise InputError(f"{name} is {count!r}, but it must be a whole number from 0 up")
    ids = passes.encode(model, text)
    at = passes.check_position(ids, position)
    steps = steps_of(model.config)
    post = ["ln2_post_scale"] if model.config.post_norms else []
    cache = passes.run_with_cache(model, ids, [*steps, *post])
    x = {step: cache[step, layer] for step in steps}
    scale = float(cache["ln2_post_scale", layer][at, 0]) if post else 1.0
    rows = list(x.values())
    return Block(
        model=model_label(model),
        tokens=passes.token_labels(model, ids),
        layer=layer,
        position=at,
        steps=list(steps),
        what=list(steps.values()),
        widths=[row.shape[-1] for row in rows],
        norms=np.stack([np.linalg.norm(row, axis=-1) for row in rows]),
        means=np.stack([row.mean(axis=-1) for row in rows]),
        variances=np.stack([row.var(axis=-1) for row in rows]),
        attention_cosine=cosine(x["resid_pre"], x["attn_out"]),
        feed_forward_cosine=cosine(x.get("resid_mid", x["resid_pre"]), x["mlp_out"]),
        active=(x["mlp_post"] > 0).mean(axis=-1, dtype=np.float32),
        neurons=most_active(
            model, layer, x["mlp_pre"][at], x["mlp_post"][at], neurons, words, scale
        ),
        activation=ACTIVATIONS[model.config.activation],
        norm=model.config.norm,
    )


def most_active(
    model: Model,
    layer: int,
    before: Array,
    after: Array,
    count: int,
    words: int,
    scale: float = 1.0,
) -> list[Neuron]:
    """The ``count`` most active neurons at one position, and what they promote and suppress.

    Args:
        model: the model.
        layer: which block's feed-forward.
        before: inputs of the activation function, (I,).
        after: its results, (I,).
        count: how many neurons.
        words: how many tokens to name that each promotes and suppresses.
        scale: what the norm after the feed-forward divides by, where there is one.
    """
    chosen = np.argsort(-after, kind="stable")[:count]
    if not len(chosen):
        return []
    directions = neuron_directions(model, layer, chosen)
    promoted, suppressed = strongest(model, directions, words)
    norms = np.abs(after[chosen]) * np.linalg.norm(directions, axis=-1) / scale
    return [
        Neuron(int(n), float(before[n]), float(after[n]), float(norm), up, down)
        for n, norm, up, down in zip(chosen, norms, promoted, suppressed, strict=True)
    ]


@dataclass(frozen=True, eq=False)
class ResidualStream(View):
    """The residual stream through all layers: how long it is, and who adds how much to it.

    Attributes:
        model: its name.
        tokens: the text's tokens, white space made visible.
        norms: length of the stream before each layer and after the last, (n_layer + 1, T).
        attention_norms: length of what each attention adds, (n_layer, T).
        feed_forward_norms: length of what each feed-forward adds, (n_layer, T).
        attention_cosine: between what attention adds and the stream before it, (n_layer, T).
        feed_forward_cosine: the same for the feed-forward, (n_layer, T).
        to_final: cosine of the stream before each layer, and after the last, with its own end,
            (n_layer + 1, T).
    """

    model: str
    tokens: list[str]
    norms: Array
    attention_norms: Array
    feed_forward_norms: Array
    attention_cosine: Array
    feed_forward_cosine: Array
    to_final: Array

    def parts(self) -> list[Part]:
        """Medians over the tokens by layer; lengths at every token."""
        middle = [
            np.median(x, axis=-1)
            for x in (
                self.norms, self.attention_norms, self.attention_cosine, self.feed_forward_norms,
                self.feed_forward_cosine, self.norms[1:], self.to_final,
            )
        ]  # fmt: skip
        n_layer = len(self.attention_norms)
        by_layer = Table(
            title=f"{self.model}: the residual stream, layer by layer",
            columns=[
                Column("layer"), Column("|X| in", 2), Column("|ΔX| attention", 2),
                Column("cos attention", 3, signed=True), Column("|ΔX| feed-forward", 2),
                Column("cos feed-forward", 3, signed=True), Column("|X| out", 2),
                Column("cos of X in with the end", 3, signed=True),
            ],
            rows=[[i, *(column[i] for column in middle)] for i in range(n_layer)],
            note="Medians over the text's tokens. Cos: the cosine between ΔX and the X that it is "
            "added to.",
        )  # fmt: skip
        places = [*(f"before {i}" for i in range(n_layer)), "end"]
        lengths = Grid(
            title="length of the residual stream",
            values=self.norms,
            row_labels=places,
            column_labels=self.tokens,
            digits=1,
        )
        return [by_layer, lengths]

    def sentence(self) -> str:
        """See ``View``: from which length to which the stream goes, and who adds most."""
        stream, attention, feed_forward = (
            np.median(x, axis=-1)
            for x in (self.norms, self.attention_norms, self.feed_forward_norms)
        )
        start, end = f"{stream[0]:.2f}", f"{stream[-1]:.2f}"
        verb = "stays" if start == end else "grows" if stream[-1] > stream[0] else "shrinks"
        length = f"stays {end} long" if start == end else f"{verb} from {start} to {end} in length"
        layers = counted(len(attention), "layer")
        added = [(int(x.argmax()), float(x.max())) for x in (attention, feed_forward)]
        return (
            f"Through {layers} the residual stream {length} (median of "
            f"{counted(len(self.tokens), 'token')}); attention adds most in layer {added[0][0]}, "
            f"{added[0][1]:.2f}, the feed-forward in layer {added[1][0]}, {added[1][1]:.2f}."
        )

    def plot(self) -> Figure:
        """The three lengths over the layers."""
        n_layer = len(self.attention_norms)
        curves = {
            "residual stream, |X|": self.norms,
            "added by attention, |ΔX|": self.attention_norms,
            "added by the feed-forward, |ΔX|": self.feed_forward_norms,
        }
        series = {
            name: [*np.median(x, axis=-1).tolist(), *[np.nan] * (n_layer + 1 - len(x))]
            for name, x in curves.items()
        }
        return figures.line_chart(
            list(range(n_layer + 1)),
            series,
            "The residual stream, and what each layer adds to it",
            x_label=f"layer (the stream: before it; {n_layer}: after the last)",
            y_label="length of the vector",
            subtitle=f"median of {len(self.tokens)} tokens; {self.model}",
        )


def residual_stream(model: Model, text: passes.Text) -> ResidualStream:
    """Follow the residual stream through all layers.

    Args:
        model: the model.
        text: what to run: text, bytes or token ids.

    Raises:
        ContextLengthError: the text has more tokens than the model has positions.
        InputError: the text is empty.
    """
    ids = passes.encode(model, text)
    between = [] if model.config.parallel_residual else ["resid_mid"]
    cache = passes.run_with_cache(
        model, ids, ["resid_pre", "attn_out", *between, "mlp_out", "resid_post"]
    )
    pre = cache.stack("resid_pre")
    mid = cache.stack("resid_mid") if between else pre
    attention, feed_forward = cache.stack("attn_out"), cache.stack("mlp_out")
    stream = np.concatenate([pre, cache["resid_post", -1][None]])
    return ResidualStream(
        model=model_label(model),
        tokens=passes.token_labels(model, ids),
        norms=np.linalg.norm(stream, axis=-1),
        attention_norms=np.linalg.norm(attention, axis=-1),
        feed_forward_norms=np.linalg.norm(feed_forward, axis=-1),
        attention_cosine=cosine(pre, attention),
        feed_forward_cosine=cosine(mid, feed_forward),
        to_final=cosine(stream, stream[-1]),
    )


def cosine(a: Array, b: Array) -> Array:
    """Cosine of the angle between vectors, (..., C) each; 0 where one has no length."""
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    out: Array = (a * b).sum(axis=-1) / np.where(lengths > 0, lengths, 1)
    return out


def _max_without_first_token(values: Array) -> float | None:
    """The largest value, the first token's left out: GPT-2 writes very long vectors there."""
    return float(values[:, 1:].max()) if values.shape[1] > 1 else None


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"
