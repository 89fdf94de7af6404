"""What the model loses without a part of it: heads, layers or neurons set to zero or to their mean.

Zero-ablation puts 0 where the part's result was, mean-ablation its mean, which leaves out what the
part knew of this text but not what it always says. Source: Wang et al. 2023, "Interpretability in
the Wild: a Circuit for Indirect Object Identification in GPT-2 Small", section 2.1 (knockouts).

Shapes: T positions, C n_embd, H heads, D head_dim, I n_inner, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from laplm.errors import InputError
from laplm.look import figures, passes
from laplm.look import target as targets
from laplm.look.sweep import Branch, sweep
from laplm.look.view import Column, Grid, Model, Part, Table, View, model_label
from laplm.look.views.continuations import Continuations, continuations
from laplm.look.words import describe_change, describe_key_heads, quoted
from laplm.model.activations import ActivationCache
from laplm.model.families import sublayer_output
from laplm.model.weights import Tap
from laplm.progress import Progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float32]
Components = Literal["heads", "layers", "neurons"]
How = Literal["zero", "mean"]

_SUBLAYERS = ("attention", "feed-forward", "both")
_STAGES: dict[str, tuple[str, ...]] = {
    "heads": ("z",), "layers": ("attn_out", "mlp_out"), "neurons": ("mlp_post",),
}  # fmt: skip
_BARS = 20
# What a part is called: its argument of ``ablation_tap``, and how many numbers it has.
_KINDS = {
    "head": ("heads", 2), "attention": ("attention", 1), "feed-forward": ("feed_forward", 1),
    "neuron": ("neurons", 2),
}  # fmt: skip


@dataclass(frozen=True)
class Ablation(View):
    """The change of a token's logit for every part that was taken out, one at a time.

    Attributes:
        model: the model's name.
        tokens: the prompt, token by token.
        components: "heads", "layers" or "neurons".
        how: "zero" or "mean".
        target: the token whose logit is followed.
        contrast: the token that it is compared with, or None.
        logit_diff: the target's logit, less the contrast's when there is one, nothing taken out.
        probability: the target's probability with nothing taken out.
        layers: the layer of each row of ``effect``.
        names: what each column is: heads or neurons by number, or sublayers.
        effect: change of logit_diff, (layers, names). Negative: the part promotes the target.
        probabilities: of the target without the part, (layers, names).
        answers: the likeliest token without the part, by row and column.
        answer: the likeliest token with nothing taken out.
        n_kv_head: key heads of each layer; neighbouring query heads share one, which stays when
            one of them is taken out.
    """

    model: str
    tokens: list[str]
    components: Components
    how: How
    target: str
    contrast: str | None
    logit_diff: float
    probability: float
    layers: list[int]
    names: list[str]
    effect: Array
    probabilities: Array
    answers: list[list[str]]
    answer: str
    n_kv_head: int

    def parts(self) -> list[Part]:
        """See ``View``: the parts in order of their effect; heads and layers also as a map."""
        kind = {"heads": "head", "layers": "sublayer", "neurons": "neuron"}[self.components]
        order = np.argsort(-np.abs(self.effect), axis=None, kind="stable")
        places = [np.unravel_index(i, self.effect.shape) for i in order]
        rows = [
            [
                self.layers[i],
                self.names[j] if self.components == "layers" else int(self.names[j]),
                float(self.effect[i, j]),
                float(self.probabilities[i, j]),
                self.answers[i][j],
            ]
            for i, j in places
        ]
        lead = "" if self.contrast is None else f", {self._logit_diff_name} {self.logit_diff:.3f}"
        table = Table(
            title=self._title,
            columns=[
                Column("layer"),
                Column(kind),
                Column("change", digits=3, signed=True),
                Column(f"p({self.target})", digits=3, bar=True),
                Column("then likeliest"),
            ],
            rows=rows,
            note=f"change: of the {self._logit_diff_name}. With nothing taken out: "
            f"p({self.target}) {self.probability:.3f}, likeliest {self.answer}{lead}.",
        )
        if self.components == "neurons":
            return [table]
        shared = ""
        if self.components == "heads":
            shared = describe_key_heads(len(self.names), self.n_kv_head)
        grid = Grid(
            title=f"Change of the {self._logit_diff_name}",
            values=self.effect,
            row_labels=[f"layer {layer}" for layer in self.layers],
            column_labels=self.names,
            diverging=True,
            note=shared,
        )
        return [table, grid]

    def sentence(self) -> str:
        """See ``View``: what changes most without which part, and how often another token wins."""
        i, j = (int(n) for n in np.unravel_index(np.abs(self.effect).argmax(), self.effect.shape))
        without = "Without" if self.how == "zero" else "With the mean of"
        others = sum(answer != self.answer for row in self.answers for answer in row)
        count = f"{self.effect.size:,} {self.components}"
        wins = {0: f"none of the {count} changes", 1: f"1 of the {count} changes"}.get(
            others, f"{others:,} of the {count} change"
        )
        change = describe_change(self.probability, float(self.probabilities[i, j]))
        return (
            f"{without} {self._name(i, j)} the {self._logit_diff_name} changes most, "
            f"{self.effect[i, j]:+.1f}, and {quoted(self.target)} {change}; {wins} the likeliest "
            "token."
        )

    def _name(self, row: int, column: int) -> str:
        layer, name = self.layers[row], self.names[column]
        if self.components == "layers":
            return f"{'attention and feed-forward' if name == 'both' else name} {layer}"
        return f"{self.components[:-1]} {layer}.{name}"

    def plot(self) -> Figure:
        """See ``View``: layers × heads or sublayers as a map, the strongest neurons as bars."""
        subtitle = " ".join(self.tokens)
        if self.components == "neurons":
            order = np.argsort(-np.abs(self.effect[0]), kind="stable")[:_BARS]
            return figures.bar_chart(
                [f"neuron {self.names[i]}" for i in order],
                self.effect[0, order].tolist(),
                self._title,
                value_label=f"change of the {self._logit_diff_name}",
                texts=[f"{value:+.3f}" for value in self.effect[0, order]],
                signed=True,
                subtitle=subtitle,
            )
        return figures.heatmap(
            self.effect,
            [str(layer) for layer in self.layers],
            self.names,
            self._title,
            x_label="head" if self.components == "heads" else "",
            y_label="layer",
            value_label=f"change of the {self._logit_diff_name}",
            diverging=True,
            numbers=2,
            subtitle=subtitle,
        )

    @property
    def _logit_diff_name(self) -> str:
        return targets.logit_diff_name(self.target, self.contrast)

    @property
    def _title(self) -> str:
        part = {
            "heads": "one head", "layers": "one sublayer",
            "neurons": f"one neuron of layer {self.layers[0]}",
        }[self.components]  # fmt: skip
        word = "taken out" if self.how == "zero" else "set to its mean"
        return f"{self.model}: what changes with {part} {word}"


def ablate(
    model: Model,
    text: passes.Text,
    *,
    components: Components = "heads",
    how: How = "zero",
    target: str | None = None,
    contrast: str | None = None,
    layer: int | None = None,
    mean_of: str | Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Ablation:
    """Take out every part of a kind, one at a time, at all positions of a prompt.

    Args:
        model: the model.
        text: the prompt.
        components: "heads"; "layers" (the attention, the feed-forward, and both, of each layer);
            or "neurons" of one layer's feed-forward.
        how: "zero", or "mean".
        target: the token whose logit is followed, with its space; None means the likeliest.
        contrast: a token whose logit is taken off it, or None.
        layer: only this layer's parts. Neurons need one.
        mean_of: text or texts over whose positions the mean is taken; None means the prompt.
        progress: called with (what, done, total).

    Raises:
        ContextLengthError: a text has more tokens than the model has positions.
        InputError: a setting is not one of these, a layer is not there, a target is not one
            token, or a text is empty.
    """
    _check(components, how)
    if layer is not None:
        passes.check_layer(model, layer)
    elif components == "neurons":
        last = model.config.n_layer - 1
        raise InputError(f"say which layer's neurons to take out: one of 0 to {last}")
    ids = passes.encode(model, text)
    layers = list(range(model.config.n_layer)) if layer is None else [layer]
    names = [*_STAGES[components], "resid_pre", "attn_out", "mlp_out", "logits"]
    run = passes.run_with_cache(model, ids, names)
    means = {} if how == "zero" else _means(model, components, run, mean_of)
    last_logits = run["logits"][-1]
    chosen = targets.choose(model, last_logits, target, contrast)

    branches = [branch for at in layers for branch in _branches(model, components, run, means, at)]
    columns = sum(branch.count for branch in branches) // len(layers)
    effect = np.empty(len(layers) * columns, np.float32)
    probabilities = np.empty_like(effect)
    answers: list[str] = []
    logit_diff = float(chosen.logit_diff(last_logits))
    for start, logits in sweep(branches, passes.weights(model), model.config, len(ids), progress):
        some = slice(start, start + len(logits))
        effect[some] = chosen.logit_diff(logits) - logit_diff
        probabilities[some] = targets.probabilities(logits)[:, chosen.token_id]
        best = [targets.best(model, row) for row in logits]
        answers += passes.token_labels(model, best)
    shape = (len(layers), columns)
    return Ablation(
        model=model_label(model),
        tokens=passes.token_labels(model, ids),
        components=components,
        how=how,
        target=chosen.token,
        contrast=chosen.contrast,
        logit_diff=logit_diff,
        probability=float(targets.probabilities(last_logits)[chosen.token_id]),
        layers=layers,
        names=list(_SUBLAYERS) if components == "layers" else [str(i) for i in range(columns)],
        effect=effect.reshape(shape),
        probabilities=probabilities.reshape(shape),
        answers=[answers[i * columns : (i + 1) * columns] for i in range(len(layers))],
        answer=passes.token_labels(model, [targets.best(model, last_logits)])[0],
        n_kv_head=model.config.n_kv_head,
    )


def _branches(
    model: Model,
    components: Components,
    run: ActivationCache,
    means: dict[tuple[str, int], Array],
    layer: int,
) -> Iterator[Branch]:
    """The runs of one layer, by how many sublayers they share with the original run."""
    weights, config = passes.weights(model), model.config
    # Past the last attention only the last position matters.
    kept = slice(-1, None) if layer == config.n_layer - 1 else slice(None)

    before, attention, feed_forward = (
        run[name, layer] for name in ("resid_pre", "attn_out", "mlp_out")
    )
    # Where both read the layer's input, what the other adds is the same without a part of one.
    together = config.parallel_residual

    def without(name: str) -> Branch:
        """Each head or neuron of an activation taken out, then the matrix that follows."""
        whole = run[name, layer][kept]
        instead = means.get((name, layer), np.zeros_like(whole[0]))
        of_attention = name == "z"
        role = "attn_out" if of_attention else "down"
        stream = before if of_attention else before + attention
        if of_attention and together:
            stream = before + feed_forward

        def streams(some: slice) -> Array:
            picked = np.arange(whole.shape[1])[some]
            changed = np.repeat(whole[None], len(picked), axis=0)  # (runs, T, H, D) or (runs, T, I)
            changed[np.arange(len(picked)), :, picked] = instead[picked][:, None]
            flat = changed.reshape(*changed.shape[:2], -1)
            return stream[kept] + sublayer_output(role, flat, layer, weights, config)

        step = 2 * layer + (1 if of_attention and not together else 2)
        return Branch(step, whole.shape[1], streams)

    def alone(step: int, stream: Array) -> Branch:
        return Branch(step, 1, lambda some: stream[kept][None][some])

    if components == "heads":
        yield without("z")
    elif components == "neurons":
        yield without("mlp_post")
    else:
        zero = np.zeros(config.n_embd, np.float32)
        no_attention = means.get(("attn_out", layer), zero)
        no_feed_forward = means.get(("mlp_out", layer), zero)
        if together:
            yield alone(2 * layer + 2, before + no_attention + feed_forward)
        else:
            yield alone(2 * layer + 1, before + no_attention)
        yield alone(2 * layer + 2, before + attention + no_feed_forward)
        yield alone(2 * layer + 2, before + no_attention + no_feed_forward)


def ablation_tap(
    model: Model,
    *,
    heads: Sequence[tuple[int, int]] = (),
    attention: Sequence[int] = (),
    feed_forward: Sequence[int] = (),
    neurons: Sequence[tuple[int, int]] = (),
    how: How = "zero",
    mean_of: str | Sequence[str] | None = None,
) -> Tap:
    """A tap that takes parts out, all of them at once: to generate text without them.

    Args:
        model: the model.
        heads: (layer, head) of each.
        attention: layers without their attention.
        feed_forward: layers without their feed-forward.
        neurons: (layer, neuron) of each.
        how: "zero", or "mean".
        mean_of: text or texts over whose positions the mean is taken; "mean" needs it.

    Raises:
        ContextLengthError: a text has more tokens than the model has positions.
        InputError: a part is not there, nothing is named, or a mean has no text.
    """
    _check("heads", how)
    if how == "mean" and mean_of is None:
        raise InputError("a mean needs a text to take it over: give mean_of", "mean_of")
    places: dict[tuple[str, int], list[int]] = {}
    for layer, head in heads:
        key = ("z", passes.check_layer(model, layer))
        places.setdefault(key, []).append(passes.check_head(model, head))
    for layer, neuron in neurons:
        key = ("mlp_post", passes.check_layer(model, layer))
        places.setdefault(key, []).append(passes.check_neuron(model, neuron))
    everything = list(range(model.config.n_embd))
    places |= {("attn_out", passes.check_layer(model, layer)): everything for layer in attention}
    places |= {("mlp_out", passes.check_layer(model, layer)): everything for layer in feed_forward}
    if not places:
        raise InputError("nothing is to be taken out; name a head, a layer or a neuron")
    means: dict[tuple[str, int], Array] = {}
    if mean_of is not None:
        names = {name for name, _ in places}
        means = _mean_over(model, names, mean_of)

    def tap(name: str, layer: int | None, x: Array) -> Array | None:
        if layer is None or (name, layer) not in places:
            return None
        where = places[name, layer]
        out = x.copy()
        out[:, where] = means[name, layer][where] if means else 0
        return out

    return tap


def ablated_generation(
    model: Model,
    text: passes.Text,
    *,
    without: Sequence[str],
    how: How = "zero",
    mean_of: str | Sequence[str] | None = None,
    max_new_tokens: int = 30,
    temperature: float = 0.8,
    top_k: int = 40,
    seed: int = 1,
) -> Continuations:
    """Continue a prompt as the model is, and with parts of it ablated.

    Args:
        model: the model.
        text: the prompt.
        without: the parts, by the names of ``parts_named``.
        how: "zero", or "mean".
        mean_of: text or texts over whose positions the mean is taken; "mean" needs it.
        max_new_tokens: tokens to write for each.
        temperature: as in ``laplm run``.
        top_k: as in ``laplm run``.
        seed: as in ``laplm run``; the same for both.

    Raises:
        ContextLengthError: the prompt, or the new tokens after it, do not fit in the context.
        InputError: a part is not there, none is named, or a setting is out of range.
    """
    tap = ablation_tap(model, **parts_named(without), how=how, mean_of=mean_of)
    return continuations(
        model,
        text,
        {"nothing": None, f"without {', '.join(without)}": tap},
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        seed=seed,
    )


def parts_named(names: Sequence[str]) -> dict[str, list[Any]]:
    """Parts by name, as ``ablation_tap`` takes them.

    Args:
        names: "head:3.1" (layer 3, head 1), "attention:2", "feed-forward:2" (layer 2) or
            "neuron:4.17" (layer 4, neuron 17).

    Raises:
        InputError: a name is none of these.
    """
    found: dict[str, list[Any]] = {}
    for name in names:
        kind, _, where = name.partition(":")
        numbers = where.split(".")
        field, count = _KINDS.get(kind, ("", 0))
        if len(numbers) != count or not all(n.isascii() and n.isdigit() for n in numbers):
            raise InputError(
                f"{name!r} names no part: write head:LAYER.HEAD, attention:LAYER, "
                "feed-forward:LAYER or neuron:LAYER.NEURON, such as head:3.1"
            )
        layer, *rest = map(int, numbers)
        found.setdefault(field, []).append((layer, *rest) if rest else layer)
    return found


def _check(components: str, how: str) -> None:
    for value, what, known in (
        (components, "components", get_args(Components)), (how, "how", get_args(How)),
    ):  # fmt: skip
        if value not in known:
            raise InputError(f"{what} is {value!r}, but it must be one of {', '.join(known)}")


def _means(
    model: Model, components: Components, run: ActivationCache, mean_of: str | Sequence[str] | None
) -> dict[tuple[str, int], Array]:
    names = _STAGES[components]
    if mean_of is not None:
        return _mean_over(model, names, mean_of)
    layers = range(model.config.n_layer)
    return {(name, layer): run[name, layer].mean(axis=0) for name in names for layer in layers}


def _mean_over(
    model: Model, names: Any, mean_of: str | Sequence[str]
) -> dict[tuple[str, int], Array]:
    """The mean of activations over all positions of all texts."""
    sums: dict[tuple[str, int], Array] = {}
    count = 0
    for text in [mean_of] if isinstance(mean_of, str) else mean_of:
        ids = passes.encode(model, text)
        run = passes.run_with_cache(model, ids, names)
        count += len(ids)
        for (name, layer), array in run.items():
            assert layer is not None
            sums[name, layer] = sums.get((name, layer), 0) + array.sum(axis=0)
    if not count:
        raise InputError("a mean needs a text to take it over: give mean_of", "mean_of")
    return {key: total / np.float32(count) for key, total in sums.items()}
