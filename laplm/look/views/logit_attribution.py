"""Direct logit attribution: how much of a logit each part of the model writes itself.

The logit of a token is a sum over everything that was added to the residual stream, once the last
norm's scale is held at what it is in this pass. A norm after attention is held the same way: what a
head adds is its share of what comes out of that norm. What a part does through later layers is not
counted here: for that, take it out (``ablate``). Sources: Elhage et al. 2021, "A Mathematical
Framework for Transformer Circuits"; Wang et al. 2022, "Interpretability in the Wild", section 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from laplm.look import figures, passes
from laplm.look import target as targets
from laplm.look.target import Target, logit_diff_name
from laplm.look.unembedding import output_matrix
from laplm.look.view import Column, Grid, Model, Part, Table, View, model_label
from laplm.look.words import describe_key_heads
from laplm.model.activations import Key
from laplm.model.config import ModelConfig
from laplm.model.families import has

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float32]

_SHOWN = 12


@dataclass(frozen=True, eq=False)
class Attribution(View):
    """What each part of the model adds to a logit, or to the difference of two (contrast).

    The sum of ``embed``, ``pos_embed``, ``heads``, ``feed_forward``, ``attention_bias``,
    ``norm_shift`` and ``rounding`` is ``total``.

    Attributes:
        model: its name.
        tokens: the text's tokens, white space made visible.
        position: after which the target comes.
        target: the token whose logit it is, white space made visible.
        target_id: its id.
        contrast: the token it is compared with, or None.
        contrast_id: its id, or None.
        total: the logit, or the difference of the two.
        embed: from the token embedding.
        pos_embed: from the position embedding.
        heads: from each attention head, (n_layer, n_head).
        feed_forward: from each feed-forward, its output bias included, (n_layer).
        attention_bias: from each attention's output bias, which no head owns, (n_layer).
        norm_shift: from the last norm's shift.
        rounding: what the parts do not explain, since int8 and int4 round what they multiply; in
            fp32 about a millionth.
        n_kv_head: key heads of each layer; neighbouring query heads share one.
    """

    model: str
    tokens: list[str]
    position: int
    target: str
    target_id: int
    contrast: str | None
    contrast_id: int | None
    total: float
    embed: float
    pos_embed: float
    heads: Array
    feed_forward: Array
    attention_bias: Array
    norm_shift: float
    rounding: float
    n_kv_head: int

    def components(self) -> list[tuple[str, int | None, int | None, float]]:
        """Every part: its name, its layer and head where it has them, what it adds."""
        found: list[tuple[str, int | None, int | None, float]] = [
            ("token embedding", None, None, self.embed),
            ("position embedding", None, None, self.pos_embed),
        ]
        for layer, row in enumerate(self.heads):
            found += [("head", layer, head, float(value)) for head, value in enumerate(row)]
            found.append(("attention bias", layer, None, float(self.attention_bias[layer])))
            found.append(("feed-forward", layer, None, float(self.feed_forward[layer])))
        found.append(("last norm's shift", None, None, self.norm_shift))
        return [*found, ("rounding", None, None, self.rounding)]

    def parts(self) -> list[Part]:
        """Sums by kind; the strongest parts; the heads and feed-forwards by layer."""
        what = logit_diff_name(self.target, self.contrast)
        kinds = Table(
            title="by kind",
            columns=[Column("from"), Column("adds", 3, signed=True)],
            rows=[[name, value] for name, value in self._kinds()] + [["in all", self.total]],
            note="With the last norm's scale held. What a part does through later layers is not "
            "counted.",
        )
        ordered = sorted(self.components(), key=lambda part: -abs(part[3]))
        strongest = Table(
            title=f"{self.model}: what adds most to the {what} after "
            f"“{self.tokens[self.position]}”",
            columns=[Column("part"), Column("adds", 3, signed=True)],
            rows=[[part_name(*part[:3]), part[3]] for part in ordered[:_SHOWN]],
        )
        layers = [str(i) for i in range(len(self.heads))]
        heads = Grid(
            title="heads: layers × heads",
            values=self.heads,
            row_labels=layers,
            column_labels=[str(i) for i in range(self.heads.shape[1])],
            diverging=True,
            note=describe_key_heads(self.heads.shape[1], self.n_kv_head),
        )
        feed_forward = Grid(
            title="feed-forwards by layer",
            values=self.feed_forward[None],
            row_labels=["feed-forward"],
            column_labels=layers,
            diverging=True,
        )
        return [strongest, kinds, heads, feed_forward]

    def sentence(self) -> str:
        """See ``View``: which head and which feed-forward add most, and what speaks against."""
        head = int(self.heads.argmax())
        layer, which = divmod(head, self.heads.shape[1])
        block = int(self.feed_forward.argmax())
        least = min(self.components(), key=lambda part: part[3])
        what = logit_diff_name(self.target, self.contrast)
        said = (
            f"To the {what} ({self.total:+.1f} in all) head {layer}.{which} adds most of the "
            f"heads, {self.heads[layer, which]:+.1f}, and feed-forward {block} of the "
            f"feed-forwards, {self.feed_forward[block]:+.1f}"
        )
        against = f"; {part_name(*least[:3])} takes most away, {least[3]:+.1f}"
        return f"{said}{against if least[3] <= -0.05 else ''}."

    def plot(self) -> Figure:
        """Layers × heads, and beside them the feed-forward of each layer."""
        values = np.column_stack(
            [self.heads, np.full(len(self.heads), np.nan, np.float32), self.feed_forward]
        )
        others = (
            f"embeddings {self.embed + self.pos_embed:+.2f}, biases {self._biases():+.2f}, in all "
            f"{self.total:+.2f}"
        )
        return figures.heatmap(
            values,
            [str(i) for i in range(len(self.heads))],
            [*(str(i) for i in range(self.heads.shape[1])), "", "FF"],
            f"What adds to the {logit_diff_name(self.target, self.contrast)}",
            x_label="head (FF: the layer's feed-forward)",
            y_label="layer",
            value_label="added to the logit" + (" difference" if self.contrast else ""),
            diverging=True,
            numbers=2,
            subtitle=f"after “{self.tokens[self.position]}”; {others}",
        )

    def _biases(self) -> float:
        return float(self.attention_bias.sum()) + self.norm_shift

    def _kinds(self) -> list[tuple[str, float]]:
        kinds = [
            ("token embedding", self.embed),
            ("position embedding", self.pos_embed),
            ("attention heads", float(self.heads.sum())),
            ("feed-forwards", float(self.feed_forward.sum())),
            ("biases of attention and of the last norm", self._biases()),
        ]
        # In fp32 there is nothing to see.
        return kinds + ([("rounding", self.rounding)] if abs(self.rounding) >= 5e-4 else [])

    def _main(self) -> Table:
        """All parts, for data."""
        return Table(
            title="every part",
            columns=[Column("part"), Column("layer"), Column("head"), Column("adds")],
            rows=[list(part) for part in self.components()],
        )


def logit_attribution(
    model: Model,
    text: passes.Text,
    *,
    target: str | None = None,
    contrast: str | None = None,
    position: int = -1,
) -> Attribution:
    """Direct logit attribution: split a logit among the heads and layers whose sum it is.

    Args:
        model: the model.
        text: what to run: text, bytes or token ids.
        target: the token whose logit to split, with its space: " Madrid". None takes the model's
            own answer.
        contrast: split the target's logit less this token's instead; a logit alone says little,
            since adding one number to all of them changes nothing.
        position: after which the target comes; negative ones count from the end.

    Raises:
        ContextLengthError: the text has more tokens than the model has positions.
        InputError: the text is empty, there is no such position, a target is not a single token,
            or both are the same.
    """
    ids = passes.encode(model, text)
    at = passes.check_position(ids, position)
    cache = passes.run_with_cache(model, ids, required_activations(model))
    here = {key: array[at] for key, array in cache.items()}
    chosen = targets.choose(model, here["logits", None], target, contrast)
    return attribution_of(model, passes.token_labels(model, ids), at, here, chosen)


def required_activations(model: Model) -> list[str]:
    """The activations that ``attribution_of`` reads."""
    embeddings = [name for name in ("embed", "pos_embed") if has(model.config, name)]
    after = ["ln1_post_scale"] if model.config.post_norms else []
    return [*embeddings, "z", *after, "mlp_out", "ln_final_scale", "logits"]


def attribution_of(
    model: Model, tokens: list[str], at: int, here: Mapping[Key, Array], chosen: Target
) -> Attribution:
    """The same from activations that are there already.

    Args:
        model: the model.
        tokens: the text's tokens.
        at: the position.
        here: what ``required_activations`` names, at that position alone.
        chosen: the token whose logit is split, or the two whose difference is.
    """
    config, weights = model.config, passes.dense_weights(model)
    unembed = output_matrix(model)
    wanted = unembed[chosen.token_id].astype(np.float64)
    if chosen.contrast_id is not None:
        wanted -= unembed[chosen.contrast_id]
    direction = _before_norm(wanted, weights.vector("final_norm"), here["ln_final_scale", None],
                             config)  # fmt: skip
    heads = np.zeros((config.n_layer, config.n_head), np.float64)
    bias, feed_forward = np.zeros((2, config.n_layer), np.float64)
    for layer in range(config.n_layer):
        out = direction  # what the output of attention is worth
        if config.post_norms:
            gain = weights.vector("post_norm1", layer)
            out = _before_norm(out, gain, here["ln1_post_scale", layer], config)
        project = out @ weights.matrix("attn_out", layer)  # (H D): what z is worth
        z = here["z", layer]  # (H, D)
        heads[layer] = (z * project.reshape(z.shape)).sum(axis=-1)
        if has(config, "attn_out", layer, "bias"):
            bias[layer] = weights.vector("attn_out", layer, "bias") @ out
        feed_forward[layer] = here["mlp_out", layer] @ direction
    embed, pos_embed = (
        float(here[name, None] @ direction) if has(config, name) else 0.0
        for name in ("embed", "pos_embed")
    )
    shift = 0.0
    if has(config, "final_norm", None, "bias"):
        shift = float(weights.vector("final_norm", part="bias") @ wanted)
    total = float(chosen.logit_diff(here["logits", None]))
    explained = embed + pos_embed + heads.sum() + feed_forward.sum() + bias.sum() + shift
    return Attribution(
        model=model_label(model),
        tokens=tokens,
        position=at,
        target=chosen.token,
        target_id=chosen.token_id,
        contrast=chosen.contrast,
        contrast_id=chosen.contrast_id,
        total=total,
        embed=embed,
        pos_embed=pos_embed,
        heads=heads.astype(np.float32),
        feed_forward=feed_forward.astype(np.float32),
        attention_bias=bias.astype(np.float32),
        norm_shift=shift,
        rounding=float(total - explained),
        n_kv_head=config.n_kv_head,
    )


def _before_norm(
    direction: NDArray[np.float64], gain: Array, scale: Array, config: ModelConfig
) -> NDArray[np.float64]:
    """What a vector is worth before a norm whose scale is held: (C,) to (C,).

    Args:
        direction: what it is worth after the norm.
        gain: the norm's, as it is stored, (C,).
        scale: what the norm divides by, (1,).
        config: the sizes.
    """
    before = direction * (gain + config.norm_offset)
    if config.norm == "layer":
        # It centres a vector before it weighs it; centring the weights comes to the same.
        before -= before.mean()
    out: NDArray[np.float64] = before / scale[0]
    return out


def part_name(kind: str, layer: int | None, head: int | None) -> str:
    """What a part is called: "head 4.6", "feed-forward 5", "token embedding"."""
    if head is not None:
        return f"head {layer}.{head}"
    return kind if layer is None else f"{kind} {layer}"
