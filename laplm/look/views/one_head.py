"""One attention head in numbers: queries, keys, scores, the mask, shares of attention, the result.

Shapes: T positions, D = head_dim.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from laplm.look import diagrams, figures, passes
from laplm.look.view import Column, Grid, Model, Part, Table, View, model_label
from laplm.look.words import percent, quoted
from laplm.model.activations import activation_names
from laplm.model.families.ops import causal_mask

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class OneHead(View):
    """One head: softmax of q kᵀ times a scale, over what the mask leaves, times v.

    Attributes:
        model: its name.
        tokens: the text's tokens, white space made visible.
        layer: the head's layer.
        head: which head of it.
        key_head: whose keys and values it reads, with other query heads where they share.
        q: queries as they are multiplied: normalised and turned, where the model does that, (T, D).
        k: keys, the same, (T, D).
        v: values, (T, D).
        scale: the factor on the products, 1 / sqrt(D) in most models.
        scores: q kᵀ times the scale, (T, T): before the mask, so the future is in it too.
        visible: what the causal mask, and a window where there is one, leaves, (T, T).
        pattern: the softmax of what is left; rows sum to 1, (T, T).
        z: pattern times v, (T, D).
    """

    model: str
    tokens: list[str]
    layer: int
    head: int
    key_head: int
    q: Array
    k: Array
    v: Array
    scale: float
    scores: Array
    visible: NDArray[np.bool_]
    pattern: Array
    z: Array

    @property
    def name(self) -> str:
        """Layer and head, such as "4.6"."""
        return f"{self.layer}.{self.head}"

    def parts(self) -> list[Part]:
        """See ``View``: the shapes; scores, and shares."""
        each = {"Q": self.q, "K": self.k, "V": self.v, "Q Kᵀ": self.scores,
                "softmax": self.pattern, "softmax × V": self.z}  # fmt: skip
        shapes = Table(
            title=f"{self.model}: head {self.name}",
            columns=[Column("what"), Column("shape")],
            rows=[[name, " × ".join(map(str, x.shape))] for name, x in each.items()],
        )
        grids = [
            Grid(title=title, values=values, row_labels=self.tokens, column_labels=self.tokens,
                 diverging=diverging)
            for title, values, diverging in (
                ("scores: queries times keys, scaled", self.scores, True),
                ("shares: softmax of what the mask leaves", self.masked(self.pattern), False),
            )
        ]  # fmt: skip
        return [shapes, *grids]

    def masked(self, x: Array) -> Array:
        """(T, T) with NaN where the mask hides the column."""
        return np.where(self.visible, x, np.float32(np.nan))

    def sentence(self) -> str:
        """See ``View``: where the last token looks."""
        row = self.pattern[-1]
        at = int(row.argmax())
        return (
            f"Head {self.name}: the query of {quoted(self.tokens[-1])} has its largest product "
            f"with the key of {quoted(self.tokens[at])} and gives it {percent(float(row[at]), 0)} "
            "of its attention."
        )

    def plot(self) -> Figure:
        """See ``View``: scores; what the mask leaves of them; what softmax makes of that."""
        panel = figures.Panel
        return diagrams.equation(
            [
                panel(values=self.scores, title="Q Kᵀ / √d: scores", row_labels=self.tokens,
                      column_labels=self.tokens),
                panel(values=self.masked(self.scores), title="the mask hides the future",
                      row_labels=self.tokens, column_labels=self.tokens),
                panel(values=self.masked(self.pattern), title="softmax: each row sums to 1",
                      row_labels=self.tokens, column_labels=self.tokens),
            ],
            ["→", "→"],
            f"{self.model}: head {self.name}, from scores to shares of attention",
            columns=True,
            shares=[2],
        )  # fmt: skip

    def plot_arcs(self) -> Figure:
        """Arcs from the last token to those that it looks at, and the whole pattern."""
        return diagrams.head(
            self.tokens, self.masked(self.pattern), f"{self.model}: head {self.name}"
        )


def one_head(model: Model, text: passes.Text, *, layer: int, head: int) -> OneHead:
    """Follow one head in numbers.

    Args:
        model: the model.
        text: what to run: text, bytes or token ids.
        layer: the head's layer.
        head: which head of it.

    Raises:
        ContextLengthError: the text has more tokens than the model has positions.
        InputError: the text is empty, or there is no such layer or head.
    """
    config = model.config
    passes.check_layer(model, layer)
    passes.check_head(model, head)
    ids = passes.encode(model, text)
    there = activation_names(config)
    # Queries and keys as they are multiplied: after their norms, and turned by their positions.
    last = ["q", "k"]
    if "q_norm" in there:
        last = ["q_norm", "k_norm"]
    if config.uses_rope(layer):
        last = ["rot_q", "rot_k"]
    cache = passes.run_with_cache(model, ids, [*last, "v", "pattern", "z"])
    key_head = config.kv_head_of(head)
    q = cache[last[0], layer][:, head]
    k, v = (cache[name, layer][:, key_head] for name in (last[1], "v"))
    scale = config.attention_scale(layer)
    return OneHead(
        model=model_label(model),
        tokens=passes.token_labels(model, ids),
        layer=layer,
        head=head,
        key_head=key_head,
        q=q,
        k=k,
        v=v,
        scale=scale,
        scores=q @ k.T * np.float32(scale),
        visible=causal_mask(len(ids), len(ids), config.layer_window(layer)),
        pattern=cache["pattern", layer][head],
        z=cache["z", layer][:, head],
    )
