"""How large a model is, part by part: parameters, memory, operations; and beside its time's models.

The sizes of published models are in ``model_scale.csv``, each with its source. An estimate is
marked as one: it is somebody's guess at a number that the maker has not published.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

from laplm.look import figures
from laplm.look.view import Column, Model, Part, Table, View, model_label
from laplm.look.words import describe_key_heads, percent, ranges
from laplm.model.config import ModelConfig
from laplm.model.engine.kv_cache import bytes_per_position
from laplm.model.engine.prepared import packed_bytes
from laplm.model.engine.quantize import PRECISIONS
from laplm.model.families import tensor_specs
from laplm.model.tensors import TensorSpec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BITS = {"fp32": 32, "16 bits": 16, "int8": 8, "int4": 4}
_PARTS = {  # by role
    "embed": "token embedding",
    "pos_embed": "position embedding",
    "norm1": "first norm",
    "q": "queries",
    "k": "keys",
    "v": "values",
    "qkv": "queries, keys, values",
    "q_norm": "norm of queries",
    "k_norm": "norm of keys",
    "attn_out": "output of attention",
    "post_norm1": "norm after attention",
    "norm2": "second norm",
    "gate": "feed-forward, gate",
    "up": "feed-forward, up",
    "gate_up": "feed-forward, gate and up",
    "down": "feed-forward, down",
    "post_norm2": "norm after the feed-forward",
    "final_norm": "last norm",
    "unembed": "output matrix",
}

ATTENTION = ("norm1", "q", "k", "v", "qkv", "q_norm", "k_norm", "attn_out", "post_norm1")
FEED_FORWARD = ("norm2", "gate", "up", "gate_up", "down", "post_norm2")


@dataclass(frozen=True)
class PartSize:
    """One kind of tensor, weights and biases together.

    Attributes:
        name: what it is.
        role: of ``model.tensors.ROLES``.
        tensor: its name in the checkpoint, without the layer.
        shape: of the weights: (inputs, outputs), or (rows, n_embd).
        count: how many there are: one for each block, or one.
        parameters: in all of them.
    """

    name: str
    role: str
    tensor: str
    shape: tuple[int, ...]
    count: int
    parameters: int


@dataclass(frozen=True)
class Memory:
    """What the weights take in one number format, in bytes.

    Attributes:
        precision: the number format.
        bits: of one number.
        bare_bytes: parameters times bits.
        packed_bytes: as this engine holds them, with scales and padding; None where it has no
            such form. The embeddings stay in the model's own file and are not counted.
        kv_cache_bytes: keys and values of one token in all layers; None as above.
    """

    precision: str
    bits: int
    bare_bytes: int
    packed_bytes: int | None
    kv_cache_bytes: int | None


@dataclass(frozen=True)
class Operations:
    """Floating-point operations of one part for one token, in all blocks together.

    Attributes:
        part: of the forward pass.
        first: for the first token of a text.
        last: for the last that the context holds, which looks back at all the others.
    """

    part: str
    first: int
    last: int


@dataclass(frozen=True)
class Stats(View):
    """How large a model is.

    Attributes:
        model: its name.
        config: its sizes.
        n_parameters: trained numbers in all; a tied output matrix is counted once.
        sizes: of each kind of tensor, in the order of the forward pass.
        memory: by number format.
        operations: by part of the forward pass; their sums are ``flops``.
        flops: operations for one token: (the first of a text, the last of a full context).
    """

    model: str
    config: ModelConfig
    n_parameters: int
    sizes: tuple[PartSize, ...]
    memory: tuple[Memory, ...]
    operations: tuple[Operations, ...]
    flops: tuple[int, int]

    def parts(self) -> list[Part]:
        """The tensors, the model's sizes, its memory, its operations."""
        config = self.config
        tied, shares = config.tied, config.n_kv_head != config.n_head
        tensors = Table(
            title=f"{self.model}: {self.n_parameters:,} parameters",
            columns=[
                Column("part"), Column("tensor"), Column("shape"), Column("count"),
                Column("parameters"), Column("share", 3, bar=True),
            ],
            rows=[
                [
                    size.name, size.tensor, _times(size.shape), size.count, size.parameters,
                    size.parameters / self.n_parameters,
                ]
                for size in self.sizes
            ],
            note="Weights and biases together. "
            + ("The output matrix is the token embedding once more (tied)." if tied else ""),
        )  # fmt: skip
        sizes = Table(
            title="sizes",
            note=describe_key_heads(config.n_head, config.n_kv_head),
            columns=[Column("what"), Column("value")],
            rows=[
                ["blocks", config.n_layer],
                ["heads in each block", config.n_head],
                *([["key and value heads in each block", config.n_kv_head]] * shares),
                ["width of a head", config.head_dim],
                ["embedding size", config.n_embd],
                ["feed-forward size", config.n_inner],
                ["context, in tokens", config.n_ctx],
                *(
                    [f"layer{'s' * (len(layers) > 1)} {ranges(layers)}: tokens seen back", size]
                    for size, layers in _windows(config).items()
                ),
                ["vocabulary, in tokens", config.vocab_size],
            ],
        )
        memory = Table(
            title="memory",
            columns=[
                Column("numbers in"), Column("parameters × bits, MB", 1),
                Column("weights in laplm, MB", 1), Column("key/value cache, bytes per token"),
                Column("full context, MB", 1),
            ],
            rows=[
                [
                    row.precision, row.bare_bytes / 1e6, _millions(row.packed_bytes),
                    row.kv_cache_bytes,
                    _millions(row.kv_cache_bytes and row.kv_cache_bytes * config.n_ctx),
                ]
                for row in self.memory
            ],
            note="In laplm: with scales and padding, the output matrix included; embeddings are "
            "read from the model's file as they are needed. int4 keeps its output matrix in int8. "
            "16 bits are for files only.",
        )  # fmt: skip
        operations = Table(
            title="floating-point operations per token",
            columns=[Column("part"), Column("first token"), Column(f"token {config.n_ctx:,}")],
            rows=[
                *([row.part, row.first, row.last] for row in self.operations),
                ["in all", *self.flops],
            ],
            note="A multiplication and an addition are two. Norms, softmax and the activation "
            "function are left out (one or two in a hundred).",
        )
        return [tensors, sizes, memory, operations]

    def sentence(self) -> str:
        """See ``View``: how many parameters there are and where, and what they take."""
        shares = {
            name: sum(size.parameters for size in self.sizes if size.role in roles)
            for name, roles in (("feed-forwards", FEED_FORWARD), ("attention", ATTENTION))
        }
        most, least = sorted(shares, key=lambda name: -shares[name])
        parts = [percent(shares[name] / self.n_parameters) for name in (most, least)]
        int8 = next(row for row in self.memory if row.precision == "int8")
        assert int8.packed_bytes is not None
        first, last = self.flops
        return (
            f"{self.model} has {self.n_parameters:,} parameters, {parts[0]} of them in {most} and "
            f"{parts[1]} in {least}; in int8 its weights take {int8.packed_bytes / 1e6:,.1f} MB, "
            f"and a token takes {first:,} operations at the beginning of a text and {last:,} at "
            "the end of a full context."
        )

    def plot(self) -> Figure:
        """Parameters of each part as bars."""
        return figures.bar_chart(
            [size.name for size in self.sizes],
            [size.parameters for size in self.sizes],
            f"{self.model}: where its {self.n_parameters:,} parameters are",
            value_label="parameters",
            texts=[
                f"{size.parameters:,} ({size.parameters / self.n_parameters:.1%})"
                for size in self.sizes
            ],
            subtitle=f"{self.config.n_layer} blocks, {self.config.n_embd} wide, vocabulary of "
            f"{self.config.vocab_size:,}",
        )


def stats(model: Model) -> Stats:
    """Count a model's parameters, bytes and operations. Nothing is run and no weight is read."""
    config = model.config
    sizes = _part_sizes(config)
    memory = []
    for precision, bits in _BITS.items():
        known = next((p for p in PRECISIONS if p == precision), None)
        kv = "fp32" if precision == "fp32" else "int8"
        memory.append(
            Memory(
                precision=precision,
                bits=bits,
                bare_bytes=math.ceil(config.n_parameters * bits / 8),
                packed_bytes=packed_bytes(model.checkpoint, known) if known else None,
                kv_cache_bytes=bytes_per_position(config, kv) if known else None,
            )
        )
    operations = _operations(config)
    return Stats(
        model=model_label(model),
        config=config,
        n_parameters=config.n_parameters,
        sizes=sizes,
        memory=tuple(memory),
        operations=operations,
        flops=(sum(row.first for row in operations), sum(row.last for row in operations)),
    )


def _part_sizes(config: ModelConfig) -> tuple[PartSize, ...]:
    found: dict[str, list[TensorSpec]] = {role: [] for role in _PARTS}
    for spec in tensor_specs(config).values():
        found[spec.role].append(spec)
    return tuple(
        PartSize(
            name=_PARTS[role],
            role=role,
            tensor=specs[0].kind,
            shape=specs[0].shape,
            count=sum(spec.part == "weight" for spec in specs),
            parameters=sum(math.prod(spec.shape) for spec in specs),
        )
        for role, specs in found.items()
        if specs
    )


def _operations(config: ModelConfig) -> tuple[Operations, ...]:
    """Multiplications and additions of each part.

    Two for each weight of a linear layer; in attention four for each position that is looked at
    and each number of the width: two for its attention score, two for the weighted value.

    Source: Hoffmann et al. 2022, "Training Compute-Optimal Large Language Models", appendix F.
    """
    c, layers = config.n_embd, config.n_layer
    heads = config.n_head * config.head_dim
    qkv = heads + 2 * config.n_kv_head * config.head_dim
    # How many positions the last token of a full context looks back at, in all layers together.
    seen = sum(min(size or config.n_ctx, config.n_ctx) for size in config.window or [None] * layers)

    def same(part: str, weights: int) -> Operations:
        return Operations(part, 2 * weights, 2 * weights)

    return (
        same("queries, keys, values", layers * c * qkv),
        Operations("scores and weighted values", layers * 4 * heads, 4 * heads * seen),
        same("output of attention", layers * c * heads),
        same("feed-forward", layers * (3 if config.gated else 2) * c * config.n_inner),
        same("output matrix", c * config.vocab_size),
    )


def _windows(config: ModelConfig) -> dict[int, list[int]]:
    """The layers that see a window, by how many positions."""
    found: dict[int, list[int]] = {}
    for layer in range(config.n_layer):
        if (size := config.layer_window(layer)) is not None:
            found.setdefault(size, []).append(layer)
    return found


def _times(shape: tuple[int, ...]) -> str:
    return " × ".join(f"{n:,}" for n in shape)


def _millions(count: int | None) -> float | None:
    return None if count is None else count / 1e6


@dataclass(frozen=True)
class PublishedModel:
    """One line of ``model_scale.csv``.

    Attributes:
        name: of the model.
        year: of the source.
        parameters: in all.
        active: those that work on one token, where its experts take turns and it is published.
        kind: "dense" or "mixture of experts".
        estimate: the maker has not published it; the source is somebody's estimate.
        source: where the figure stands.
    """

    name: str
    year: int
    parameters: int
    active: int | None
    kind: str
    estimate: bool
    source: str


@dataclass(frozen=True)
class ModelScale(View):
    """Sizes of language models by year.

    Attributes:
        models: as published, by year.
        model: the name of the model they are compared with.
        n_parameters: its size.
    """

    models: tuple[PublishedModel, ...]
    model: str
    n_parameters: int

    def parts(self) -> list[Part]:
        """One table, with sources."""
        return [
            Table(
                title="language models by year",
                columns=[
                    Column("model"), Column("year", label=True), Column("parameters"),
                    Column("active"), Column("kind"), Column(f"times {self.model}", 1),
                    Column("source"),
                ],
                rows=[
                    [
                        m.name, m.year, m.parameters, m.active,
                        m.kind + (", ESTIMATE" if m.estimate else ""),
                        m.parameters / self.n_parameters, m.source,
                    ]
                    for m in self.models
                ],
                note=f"{self.model} has {self.n_parameters:,} parameters. Active: those that work "
                "on one token. An estimate is not the maker's figure.",
            )
        ]  # fmt: skip

    def sentence(self) -> str:
        """See ``View``: how many times larger the nearest in size is, and the largest."""
        published = [m for m in self.models if not m.estimate]
        ours = self.n_parameters
        nearest = min(published, key=lambda m: abs(math.log(m.parameters / ours)))
        largest = max(published, key=lambda m: m.parameters)

        def times(m: PublishedModel) -> str:
            ratio = m.parameters / ours
            return f"{ratio:,.0f} times" if ratio >= 10 else f"{ratio:,.2g} times"

        return (
            f"{self.model} has {ours:,} parameters; {nearest.name} ({nearest.year}), the nearest "
            f"of these in size, has {times(nearest)} as many, and {largest.name} "
            f"({largest.year}), the largest whose size is published, {times(largest)}."
        )

    def plot(self) -> Figure:
        """Parameters over years on a logarithmic scale; GPT-2 small and this model are marked."""
        points = [
            figures.TimelinePoint(
                f"{m.name} ≈ {_short(m.parameters)}" if m.estimate else m.name,
                m.year, m.parameters, "estimate by others" if m.estimate else m.kind,
                m.estimate, m.name == "GPT-2 small",
            )
            for m in self.models
        ]  # fmt: skip
        return figures.timeline(
            points, "The size of language models by year", y_label="parameters",
            subtitle="hollow: its maker has published no size; of a mixture of experts all "
            "parameters are counted; sources: laplm/look/model_scale.csv",
            level=(self.n_parameters, f"{self.model}: {self.n_parameters:,}"),
        )  # fmt: skip


def _short(count: int) -> str:
    """A size as it is said: 1.8T, 175B."""
    return f"{count / 1e12:.3g}T" if count >= 1e12 else f"{count / 1e9:.3g}B"


def model_scale(model: Model) -> ModelScale:
    """Sizes of published language models by year, beside this one."""
    text = files("laplm.look").joinpath("model_scale.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines())
    models = [
        PublishedModel(
            name=row["name"],
            year=int(row["year"]),
            parameters=int(row["parameters"]),
            active=int(row["active"]) if row["active"] else None,
            kind=row["kind"],
            estimate=row["estimate"] == "yes",
            source=row["source"],
        )
        for row in rows
    ]
    return ModelScale(tuple(models), model_label(model), model.config.n_parameters)
