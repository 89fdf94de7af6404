"""The plan of a model: its stages from text to the next token, and what each puts out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from laplm.look import figures
from laplm.look.view import Column, Model, Part, Table, View, model_label
from laplm.look.views.block import ACTIVATIONS
from laplm.look.views.stats import ATTENTION, FEED_FORWARD, stats
from laplm.look.words import counted, percent
from laplm.model.config import ModelConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Stage:
    """One stage of the forward pass; T is the number of tokens.

    Attributes:
        name: of the stage.
        does: in a few words.
        shape: of what it puts out.
        parameters: learned numbers in it, in all blocks together.
    """

    name: str
    does: str
    shape: str
    parameters: int


@dataclass(frozen=True)
class Architecture(View):
    """The stages of a model, in order.

    Attributes:
        model: its name.
        config: its sizes.
        stages: from text to the next token.
    """

    model: str
    config: ModelConfig
    stages: tuple[Stage, ...]

    def parts(self) -> list[Part]:
        """One table."""
        return [
            Table(
                title=f"{self.model}: from text to the next token",
                columns=[
                    Column("stage"), Column("does"), Column("puts out"), Column("parameters")
                ],
                rows=[[s.name, s.does, s.shape, s.parameters] for s in self.stages],
                note="T: tokens of the text. A tied output layer is the token embedding once more "
                "and is counted there.",
            )
        ]  # fmt: skip

    def sentence(self) -> str:
        """See ``View``: what a token becomes on its way, and how many parameters do it."""
        config = self.config
        total = sum(stage.parameters for stage in self.stages)
        most = max(self.stages, key=lambda stage: stage.parameters)
        return (
            f"Each token becomes {config.n_embd:,} numbers, passes "
            f"{counted(config.n_layer, 'block')} of {counted(config.n_head, 'head')} and a "
            f"feed-forward {config.n_inner:,} wide, and comes out as {config.vocab_size:,} logits; "
            f"of the {total:,} parameters the {most.name.partition(',')[0]} has most, "
            f"{percent(most.parameters / total)}."
        )

    def plot(self) -> Figure:
        """The stages as a tower, one block opened beside it."""
        config = self.config
        norm = "RMS" if config.norm == "rms" else "layer"
        after = [f"{norm} norm"] if config.post_norms else []
        wide = f"T × {config.n_embd:,}"
        return figures.block_diagram(
            [
                ("text", ""),
                ("tokenizer", "T tokens"),
                ("token embedding" if config.positions == "rope" else "token + position", wide),
                (f"{config.n_layer} blocks", wide),
                ("final norm", wide),
                ("output layer", f"T × {config.vocab_size:,} logits"),
                ("next token", ""),
            ],
            3,
            [
                [f"{norm} norm", f"attention, {config.n_head} heads", *after],
                [f"{norm} norm", f"feed-forward, {config.n_inner:,} wide", *after],
            ],
            f"{self.model}: the architecture",
            parallel=config.parallel_residual,
            subtitle="left: from text to the next token; right: what is in each block",
        )


def architecture(model: Model) -> Architecture:
    """See the stages of a model. Nothing is run and no weight is read."""
    config = model.config
    size = {part.role: part.parameters for part in stats(model).sizes}
    width, vocabulary = f"T × {config.n_embd:,}", f"T × {config.vocab_size:,}"
    activation = ACTIVATIONS[config.activation]
    turning = "" if "pos_embed" in size else " (rotary positions)"
    gate = " times a gate" if config.gated else ""
    positions = [
        Stage("position embedding", "adds a row for each position", width, size["pos_embed"])
    ] if "pos_embed" in size else []  # fmt: skip
    stages = (
        Stage("tokenizer", "cuts text into tokens", "T", 0),
        Stage("token embedding", "a row for each token", width, size["embed"]),
        *positions,
        Stage(
            f"attention, in {config.n_layer} blocks",
            f"norm, then {config.n_head} heads look back{turning}; adds what they found",
            width,
            sum(size.get(role, 0) for role in ATTENTION),
        ),
        Stage(
            f"feed-forward, in {config.n_layer} blocks",
            f"norm, to {config.n_inner:,} numbers, {activation}{gate}, and back; adds the result",
            width,
            sum(size.get(role, 0) for role in FEED_FORWARD),
        ),
        Stage("final norm", "brings every row to one size", width, size["final_norm"]),
        Stage("output layer", "a logit for each token", vocabulary, size.get("unembed", 0)),
    )
    return Architecture(model_label(model), config, stages)
