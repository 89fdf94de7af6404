"""Edges between the parts of a model, patched one at a time, and runs of a circuit alone.

A node is what adds to the residual stream at one position: the embedding, an attention head, a
feed-forward. An edge goes from a node to a node that reads the stream after it, or to the logits:
into a feed-forward and the logits at the same position, into a head from its own position (the
query) and from those that it may look at (keys and values).

Patching an edge gives its reader, and nobody else, the corrupted output of its sender; what the
reader then adds goes through the rest of the model. Source: Wang et al. 2023, "Interpretability in
the Wild: a Circuit for Indirect Object Identification in GPT-2 Small", section 3.1 and appendix B
(path patching). A circuit is run with every edge outside of it patched.

Where a norm follows attention its heads do not add up, and a layer's heads are one node.

Shapes: T positions, C n_embd, H heads, D head_dim, G nodes of each attention (H, or 1), S senders
at each position (1 + L (G + 1)).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from laplm.errors import InputError
from laplm.look import passes
from laplm.look.sweep import Branch, sweep
from laplm.look.target import Target
from laplm.look.view import Model
from laplm.model.activations import MAX_BYTES, ActivationCache
from laplm.model.families import family_of, has

Array = NDArray[np.float32]
Corruption = Literal["zero", "mean"]

_FEWEST = 64  # edges into a head whose changes are worked out
_ROWS = 1024  # positions that go through an attention at once
_READ = ("resid_pre", "z", "attn_out", "mlp_out", "resid_post", "pattern", "logits")


class Node(NamedTuple):
    """What adds to the residual stream at a position.

    Attributes:
        sender: 0 is the embedding; layer by layer the G nodes of attention, then the feed-forward;
            S is the logits.
        position: where, from 0.
    """

    sender: int
    position: int


class Edge(NamedTuple):
    """A node, and one that reads it."""

    sender: Node
    reader: Node


class PathPatching:
    """A clean run, what its nodes are replaced with, and what replacing does.

    Attributes:
        clean: what each node adds, (S, T, C).
        corrupted: what it is replaced with, (S, T, C).
        logits: of the clean run's last position, (V).
        pattern: the clean run's attention, (H, T, T) of each layer.
        grouped: the nodes of an attention are its whole: no head by itself.
    """

    def __init__(
        self, model: Model, ids: Sequence[int], corruption: Sequence[int] | Corruption
    ) -> None:
        """One pass, and one more over a corrupted text.

        Args:
            model: the model.
            ids: the prompt's token ids (T).
            corruption: token ids of a corrupted prompt (T), whose nodes replace those of the clean
                one; or "mean", of each node over the prompt's positions; or "zero".

        Raises:
            InputError: what all nodes add takes too much memory.
        """
        self._model, self._config = model, model.config
        self._family, self._weights = family_of(model.config), passes.weights(model)
        self.grouped = model.config.post_norms
        self._n_groups = 1 if self.grouped else model.config.n_head
        self._n_positions = len(ids)
        # Of the clean run, of what replaces it, and the difference.
        size = 3 * 4 * self.n_senders * len(ids) * self._config.n_embd
        if size > MAX_BYTES:
            raise InputError(
                f"what all parts add at {len(ids):,} tokens takes {size / 1e6:,.0f} MB, and the "
                f"limit is {MAX_BYTES / 1e6:,.0f} MB: shorten the text"
            )
        self.clean, run = self._outputs(ids)
        self.logits: Array = run["logits"][-1]
        self.pattern = [run["pattern", layer] for layer in range(self._config.n_layer)]
        if corruption == "zero":
            self.corrupted = np.zeros_like(self.clean)
        elif corruption == "mean":
            mean = self.clean.mean(axis=1, keepdims=True)
            self.corrupted = np.broadcast_to(mean, self.clean.shape).astype(np.float32)
        else:
            self.corrupted = self._outputs([int(i) for i in corruption])[0]
        self._difference = self.clean - self.corrupted
        self._sizes: Array = np.linalg.norm(self._difference, axis=-1)  # (S, T)
        # The stream that each reader sees: of the clean run, and with every node replaced.
        self._pre: list[Array] = [run["resid_pre", i] for i in range(self._config.n_layer)]
        self._post: list[Array] = [run["resid_post", i] for i in range(self._config.n_layer)]
        self._mid = (
            self._pre
            if self._config.parallel_residual
            else [pre + run["attn_out", i] for i, pre in enumerate(self._pre)]
        )
        self._replaced: dict[int, Array] = {}  # by how many senders come before

    # --- what there is ------------------------------------------------------------------------

    @property
    def n_senders(self) -> int:
        """S."""
        return 1 + self._config.n_layer * (self._n_groups + 1)

    @property
    def logits_node(self) -> Node:
        """The logits of the last position."""
        return Node(self.n_senders, self._n_positions - 1)

    def component(self, sender: int) -> tuple[str, int, int | None]:
        """What a sender is, its layer and its head.

        It is "embedding", "head", "attention" (all heads of a layer), "feed-forward" or "logits".
        """
        if sender == 0:
            return "embedding", -1, None
        if sender == self.n_senders:
            return "logits", self._config.n_layer, None
        layer, which = divmod(sender - 1, self._n_groups + 1)
        if which == self._n_groups:
            return "feed-forward", layer, None
        return ("attention", layer, None) if self.grouped else ("head", layer, which)

    def senders_before(self, reader: int) -> int:
        """How many senders a reader reads: those of a lower number than this."""
        kind, layer, _ = self.component(reader)
        if kind == "logits":
            return reader
        first = 1 + layer * (self._n_groups + 1)
        in_turn = kind == "feed-forward" and not self._config.parallel_residual
        return first + self._n_groups * in_turn

    def edges_into(self, reader: Node) -> list[Edge]:
        """Every edge into a node, by position and sender."""
        kind, _, _ = self.component(reader.sender)
        here = range(reader.position, reader.position + 1)
        places = range(reader.position + 1) if kind in ("head", "attention") else here
        count = self.senders_before(reader.sender)
        return [Edge(Node(s, q), reader) for q in places for s in range(count)]

    def candidate_edges(self, reader: Node, operations: float) -> list[Edge]:
        """The edges into a node that change anything when they are patched.

        Where to compute what it then adds takes more multiplications and additions than so many,
        those are left out whose senders change little, or at positions that it hardly looks at.
        """
        edges = [e for e in self.edges_into(reader) if self._sizes[e.sender]]
        kind, layer, head = self.component(reader.sender)
        if kind not in ("head", "attention"):
            return edges
        config, until = self._config, reader.position + 1
        width = config.head_dim * (2 * config.n_head + 2 * config.n_kv_head)
        most = max(_FEWEST, int(operations / (2 * until * config.n_embd * width)))
        if len(edges) <= most:
            return edges
        pattern = self.pattern[layer][:, reader.position, :until]
        looks = pattern.mean(axis=0) if head is None else pattern[head].copy()
        looks[-1] = 1  # what it asks for comes from its own position
        weights = np.array([self._sizes[e.sender] * looks[e.sender.position] for e in edges])
        strongest = np.argsort(-weights, kind="stable")[:most]
        return [edges[i] for i in sorted(strongest.tolist())]

    def n_edges(self) -> int:
        """How many edges there are that lead to the logits of the last position."""
        last, count = self._n_positions - 1, self.n_senders
        for reader in range(1, self.n_senders):
            kind, layer, _ = self.component(reader)
            # In the last layer only the last position leads there.
            whole = layer < self._config.n_layer - 1
            if kind == "feed-forward":
                count += self.senders_before(reader) * (last + 1 if whole else 1)
            else:
                sources = (last + 1) * (last + 2) // 2 if whole else last + 1
                count += self.senders_before(reader) * sources
        return count

    def max_edges_within(self, reader: Node, operations: float) -> int:
        """How many edges into a node so many multiplications and additions patch, by themselves."""
        _, layer, _ = self.component(reader.sender)
        config = self._config
        layers = max(0.0, config.n_layer - layer - 0.5)
        of_one = 2 * layers * self._n_positions * config.n_multiplied / config.n_layer
        return int(operations / (of_one + 2 * config.n_embd * config.vocab_size))

    # --- one edge at a time -------------------------------------------------------------------

    def output_changes(self, edges: Sequence[Edge]) -> Array:
        """What patching each of the edges into one node changes of what it adds: (edges, C)."""
        reader = edges[0].reader
        kind, layer, _ = self.component(reader.sender)
        change: Array = -np.stack([self._difference[e.sender] for e in edges])
        if kind == "logits":
            return change
        if kind == "feed-forward":
            added = self._feed_forward(self._mid[layer][reader.position] + change, layer)
        else:
            added = self._added(self._patched_attention(edges, layer), layer, reader.sender)
        out: Array = added - self.clean[reader]
        return out

    def effects(self, edges: Sequence[Edge], target: Target) -> Array:
        """By how much each of the edges into one node raises the logit difference: (edges,).

        The clean run's, less that of a run of its own with this edge patched.
        """
        reader, config = edges[0].reader, self._config
        kind, layer, _ = self.component(reader.sender)
        change = self.output_changes(edges)
        after_attention = kind in ("head", "attention") and not config.parallel_residual
        stream, step = self._post[-1], 2 * config.n_layer
        if kind != "logits":
            stream = self._mid[layer] if after_attention else self._post[layer]
            step = 2 * layer + (1 if after_attention else 2)

        def streams(some: slice) -> Array:
            out = np.repeat(stream[None], len(change[some]), axis=0)
            out[:, reader.position] += change[some]
            return out

        branch = Branch(step, len(change), streams)
        runs = sweep([branch], self._weights, config, self._n_positions)
        patched = np.concatenate([target.logit_diff(run.logits) for run in runs])
        out: Array = target.logit_diff(self.logits) - patched
        return out

    # --- a circuit ----------------------------------------------------------------------------

    def run_circuit(self, edges: Iterable[Edge]) -> Array:
        """The last position's logits (V) of a run in which all other edges are patched."""
        into: dict[Node, list[Node]] = {}
        for edge in edges:
            into.setdefault(edge.reader, []).append(edge.sender)
        # How far each node is from its corrupted output in this run.
        found = {Node(0, q): self._difference[0, q] for q in range(self._n_positions)}
        for (kind, layer), group in itertools.groupby(sorted(into), self._sublayer):
            passes.check_cancelled()
            readers = list(group)
            x = np.stack([self._corrupted_stream(reader) for reader in readers])
            for i, reader in enumerate(readers):
                for sender in into[reader]:
                    if sender in found:
                        x[i, sender.position] += found[sender]
            if kind == "logits":
                return self._unembed(x[0, -1])
            here = (np.arange(len(readers)), [reader.position for reader in readers])
            if kind == "feed-forward":
                added = self._feed_forward(x[here], layer)
            else:
                outputs = self._attend(x, layer)[here]
                added = np.empty((len(readers), self._config.n_embd), np.float32)
                for head in {reader.sender for reader in readers}:
                    mine = [i for i, reader in enumerate(readers) if reader.sender == head]
                    added[mine] = self._added(outputs[mine], layer, head)
            for reader, value in zip(readers, added, strict=True):
                found[reader] = value - self.corrupted[reader]
        return self._unembed(self._corrupted_stream(self.logits_node)[-1])

    def _sublayer(self, node: Node) -> tuple[str, int]:
        """What is computed together: the feed-forward of a layer, or its attention."""
        kind, layer, _ = self.component(node.sender)
        return ("attention" if kind == "head" else kind), layer

    def _corrupted_stream(self, reader: Node) -> Array:
        """What a reader sees with every node before it replaced, (T, C)."""
        count = self.senders_before(reader.sender)
        if count not in self._replaced:
            # Summed, not taken off the clean stream: where all is zero, nothing must be left.
            stream: Array = self.corrupted[:count].sum(axis=0)
            for layer in range(0 if self.grouped else count // (self._n_groups + 1)):
                if has(self._config, "attn_out", layer, "bias"):  # no head's
                    stream = stream + self._weights.vector("attn_out", layer, "bias")
            self._replaced[count] = stream
        return self._replaced[count]

    # --- parts of a pass ----------------------------------------------------------------------

    def _outputs(self, ids: Sequence[int]) -> tuple[Array, ActivationCache]:
        """What each node adds (S, T, C), from one pass."""
        run = passes.run_with_cache(self._model, ids, _READ)
        parts = [run["resid_pre", 0][None]]
        for layer in range(self._config.n_layer):
            if self.grouped:
                parts.append(run["attn_out", layer][None])
            else:
                z = run["z", layer]
                groups = [self._project(z, layer, head) for head in range(self._n_groups)]
                parts.append(np.stack(groups))
            parts.append(run["mlp_out", layer][None])
        return np.concatenate(parts).astype(np.float32), run

    def _project(self, z: Array, layer: int, head: int) -> Array:
        """What a head adds: (n, H, D) to (n, C), without the output's bias, which no head has."""
        alone = np.zeros_like(z)
        alone[:, head] = z[:, head]
        both = np.concatenate([alone, np.zeros_like(z[:1])]).reshape(len(z) + 1, -1)
        added = self._weights.linear("attn_out", layer, both)
        out: Array = added[:-1] - added[-1]
        return out

    def _added(self, outputs: Array, layer: int, sender: int) -> Array:
        """What a node of an attention adds, from what ``_attend`` gives: (n, C)."""
        _, _, head = self.component(sender)
        return outputs if head is None else self._project(outputs, layer, head)

    def _attend(self, x: Array, layer: int, last_only: bool = False) -> Array:
        """What attention reads at each position: (n, t, C) to z (n, t, H, D).

        Where its heads are one node, what it adds there: (n, t, C). Of the last position alone t
        is 1.
        """
        kept: list[Array] = []

        def hook(name: str, _: int | None, value: Array) -> Array:
            if name == "z":
                kept.append(value)
            return value

        added = self._family.attention(
            x, layer, self._weights, self._config, hook=hook, last_only=last_only
        )
        return added if self.grouped else kept[0]

    def _patched_attention(self, edges: Sequence[Edge], layer: int) -> Array:
        """``_attend`` at the position of a node with each of the edges into it patched."""
        until = edges[0].reader.position + 1
        found = []
        size = max(1, _ROWS // until)
        for start in range(0, len(edges), size):
            passes.check_cancelled()
            some = edges[start : start + size]
            x = np.repeat(self._pre[layer][None, :until], len(some), axis=0)
            for i, edge in enumerate(some):
                x[i, edge.sender.position] -= self._difference[edge.sender]
            found.append(self._attend(x, layer, last_only=True)[:, 0])
        return np.concatenate(found)

    def _feed_forward(self, x: Array, layer: int) -> Array:
        """(n, C) to (n, C)."""
        added = self._family.feed_forward(x[:, None], layer, self._weights, self._config)
        out: Array = added[:, 0]
        return out

    def _unembed(self, x: Array) -> Array:
        logits: Array = self._family.unembed(x[None], self._weights, self._config)[0]
        return logits
