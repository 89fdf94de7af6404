"""Which parts bring a token, and how they reach each other: a circuit, found by path patching.

How its edges are found is in ``circuit_search.py``; here is what is told and drawn of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from laplm.errors import InputError
from laplm.look import figures, passes
from laplm.look import target as targets
from laplm.look import view as shown
from laplm.look.circuit_search import CircuitSearch
from laplm.look.path_patching import Corruption, Node, PathPatching
from laplm.look.target import Target, logit_diff_name
from laplm.look.view import Column, Model, Network, PagePart, Part, Table, View, model_label
from laplm.look.words import percent, quoted
from laplm.progress import Progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure

How = Literal["zero", "mean"]

KEPT = 0.9
"""The share of the logit difference that a circuit keeps, when nothing else is asked for."""


@dataclass(frozen=True)
class CircuitNode:
    """A part of a circuit at a position.

    Attributes:
        kind: "embedding", "head", "attention" (all heads, where a norm follows them),
            "feed-forward" or "logits".
        layer: its layer; -1 for the embedding, n_layer for the logits.
        head: its head, or None.
        position: where, from 0.
        looks_at: the position that a head attends to most from there, or None.
        share: of its attention.
    """

    kind: str
    layer: int
    head: int | None
    position: int
    looks_at: int | None = None
    share: float | None = None

    @property
    def part(self) -> str:
        """What it is called: "head 4.6", "feed-forward 5", "embedding"."""
        if self.head is not None:
            return f"head {self.layer}.{self.head}"
        return self.kind if self.kind in ("embedding", "logits") else f"{self.kind} {self.layer}"


@dataclass(frozen=True)
class CircuitEdge:
    """An edge: sender and reader by their place among ``Circuit.nodes``, and its effect.

    Attributes:
        sender: index of the node that adds something.
        reader: index of the node that reads it.
        effect: by how much the logit difference is greater with it than with it alone patched.
    """

    sender: int
    reader: int
    effect: float


@dataclass(frozen=True, eq=False)
class Circuit(View):
    """The edges that keep a share of a logit difference, when all others are patched.

    Attributes:
        model: the model's name.
        tokens: the prompt, token by token, white space made visible.
        corrupted: the corrupted prompt, or None.
        how: what patched nodes are set to: "corrupted", "mean" (of each over the prompt's
            positions) or "zero".
        target: the token whose logit is followed.
        contrast: the token that it is compared with, or None.
        logit_diff: the target's logit (less the contrast's) after the prompt.
        patched_logit_diff: the same with every edge patched.
        circuit_logit_diff: the same with every edge outside of the circuit patched, in one run.
        asked: the share that was to be kept.
        n_edges: how many edges the model has over this prompt.
        n_patched: how many were patched by themselves.
        n_opened: into how many nodes these lead.
        probability: of the target after the prompt.
        circuit_probability: of the target in the circuit's run.
        nodes: of the circuit, from the embedding up.
        edges: of the circuit, strongest first.
    """

    model: str
    tokens: list[str]
    corrupted: list[str] | None
    how: str
    target: str
    contrast: str | None
    logit_diff: float
    patched_logit_diff: float
    circuit_logit_diff: float
    asked: float
    n_edges: int
    n_patched: int
    n_opened: int
    probability: float
    circuit_probability: float
    nodes: list[CircuitNode]
    edges: list[CircuitEdge]

    @property
    def kept(self) -> float:
        """The share of the logit difference that the circuit keeps.

        0 is as with all edges patched, 1 as the model has it.
        """
        whole = self.logit_diff - self.patched_logit_diff
        return (self.circuit_logit_diff - self.patched_logit_diff) / whole

    def parts(self) -> list[Part]:
        """See ``View``: the edges, strongest first, and the nodes from the logits down."""
        edges = Table(
            title=f"{self.model}: the circuit of the {self._measure}, edge by edge",
            columns=[
                Column("from"), Column("at"), Column("to"), Column("at "),
                Column("effect", 2, signed=True), Column("of the whole", 2),
            ],
            rows=[
                [
                    self.nodes[e.sender].part, self._at(e.sender), self.nodes[e.reader].part,
                    self._at(e.reader), e.effect,
                    e.effect / (self.logit_diff - self.patched_logit_diff),
                ]
                for e in self.edges
            ],
            note=f"effect: by how much the {self._measure} falls when this edge alone is patched: "
            f"its reader gets {self._instead}, and what it then adds goes through the rest of the "
            f"model. {self._cut()}",
        )  # fmt: skip
        reads = [sum(e.reader == i for e in self.edges) for i in range(len(self.nodes))]
        read = [sum(e.sender == i for e in self.edges) for i in range(len(self.nodes))]
        nodes = Table(
            title="its parts, from the logits down",
            columns=[
                Column("part"), Column("at"), Column("looks at"), Column("share", 2, bar=True),
                Column("reads"), Column("is read by"),
            ],
            rows=[
                [
                    node.part, self._at(i),
                    "" if node.looks_at is None else self.tokens[node.looks_at], node.share,
                    reads[i], read[i],
                ]
                for i, node in reversed(list(enumerate(self.nodes)))
            ],
        )  # fmt: skip
        return [edges, nodes]

    def page_parts(self) -> list[PagePart]:
        """See ``View``: the circuit as a network, and the tables."""
        return [self._network(), *self.parts()]

    def plot(self) -> Figure:
        """See ``View``: the circuit over the words."""
        return figures.network(
            self._network(),
            self.sentence(),
            value_label=f"what the {self._measure} loses without it",
            subtitle=f"after “{figures.shorten_start(''.join(self.tokens))}”; solid: for it, "
            f"dashed: against it; {self.model}",
        )

    def sentence(self) -> str:
        """See ``View``: how few edges keep how much, and the strongest way through them."""
        heads = {(n.layer, n.head) for n in self.nodes if n.head is not None}
        blocks = {n.layer for n in self.nodes if n.kind == "feed-forward"}
        whole = {n.layer for n in self.nodes if n.kind == "attention"}
        kinds = [
            f"{len(found)} {name}{'s' if len(found) != 1 else ''}"
            for found, name in ((heads, "head"), (whole, "attention"), (blocks, "feed-forward"))
            if found
        ]
        said = (
            f"{len(self.edges)} of {self.n_edges:,} edges"
            + f" ({' and '.join(kinds)})" * bool(kinds)
            + f" keep {percent(self.kept, 0)} of the {self._measure} ({self.logit_diff:+.1f}; "
            f"{self.patched_logit_diff:+.1f} with all patched by {self._by})"
        )
        if self.kept < self.asked:
            said += f", less than the {percent(self.asked, 0)} that were asked for"
        path = self._strongest_path()
        if path:
            said += f"; the strongest way goes {self._path_in_words(path)}"
        return f"{said}."

    # --- words --------------------------------------------------------------------------------

    @property
    def _measure(self) -> str:
        return logit_diff_name(self.target, self.contrast)

    @property
    def _by(self) -> str:
        if self.corrupted is not None:
            return f"those of “{''.join(self.corrupted).replace('·', ' ').strip()}”"
        return "zero" if self.how == "zero" else "their means over the prompt"

    @property
    def _instead(self) -> str:
        return {
            "corrupted": "what its sender adds after the corrupted prompt",
            "mean": "its sender's mean over the prompt's positions",
            "zero": "nothing of its sender",
        }[self.how]

    def _cut(self) -> str:
        return (
            f"{self.n_patched:,} edges were patched by themselves: of those into the "
            f"{self.n_opened} parts that matter most, the ones that move them most. All others "
            "stay outside."
        )

    def _at(self, index: int) -> str:
        position = self.nodes[index].position
        return f"{position} {self.tokens[position]}"

    def _path_in_words(self, path: Sequence[int]) -> str:
        words = []
        for i in path:
            node = self.nodes[i]
            word = quoted(self.tokens[node.position])
            if node.kind == "embedding":
                words.append(f"from {word}")
            elif node.kind == "logits":
                words.append("to the logits")
            elif node.looks_at is not None and node.share is not None:
                looks = quoted(self.tokens[node.looks_at])
                words.append(f"by {node.part} (at {word}, looking at {looks} with "
                             f"{percent(node.share, 0)})")  # fmt: skip
            else:
                words.append(f"by {node.part} (at {word})")
        return ", ".join(words)

    def _strongest_path(self) -> list[int]:
        """From an embedding to the logits by edges whose weakest is as strong as can be."""
        if not self.edges:
            return []
        end = len(self.nodes) - 1
        best: dict[int, tuple[float, list[int]]] = {end: (float("inf"), [end])}
        for i in range(len(self.nodes) - 1, -1, -1):
            if i not in best:
                continue
            for edge in self.edges:
                if edge.reader != i or edge.effect <= 0:
                    continue
                strength = min(best[i][0], edge.effect)
                if edge.sender not in best or strength > best[edge.sender][0]:
                    best[edge.sender] = (strength, [edge.sender, *best[i][1]])
        ends = [best[i] for i, node in enumerate(self.nodes)
                if node.kind == "embedding" and i in best]  # fmt: skip
        return max(ends, key=lambda end: end[0])[1] if ends else []

    # --- where nodes stand --------------------------------------------------------------------

    def _network(self) -> Network:
        """Positions from left to right, layers from below to above, without empty ones."""
        rows = sorted({self._row(node) for node in self.nodes})
        height = {row: float(y) for y, row in enumerate(rows)}
        cells: dict[tuple[int, tuple[int, int]], list[int]] = {}
        for i, node in enumerate(self.nodes):
            cells.setdefault((node.position, self._row(node)), []).append(i)
        used = sorted({node.position for node in self.nodes})
        # Heads have columns of their own beside the feed-forwards, so that no line goes behind.
        left = 0.0
        lane: dict[int, float] = {}
        for position in used:
            heads = [len(found) for (at, row), found in cells.items()
                     if at == position and not self._in_lane(found[0])]  # fmt: skip
            lane[position] = left
            left += max(heads, default=0) + 1.6
        nodes: list[shown.Node | None] = [None] * len(self.nodes)
        for (position, row), found in cells.items():
            for k, i in enumerate(found):
                x = lane[position] + (0 if self._in_lane(i) else k + 1)
                nodes[i] = self._drawn(i, x, height[row])
        embedded = {node.position for node in self.nodes if node.kind == "embedding"}
        levels = [(height[row], self._level(row)) for row in rows]
        edges = [
            shown.Edge(e.sender, e.reader, e.effect,
                       f"{self._name(e.sender)} to {self._name(e.reader)}: {e.effect:+.3f}")
            for e in self.edges
        ]  # fmt: skip
        return Network(
            title=f"{self.model}: the circuit of the {self._measure}",
            nodes=[node for node in nodes if node is not None],
            edges=edges,
            levels=levels,
            columns=[(lane[p], self.tokens[p]) for p in used if p not in embedded],
            note=f"Numbers are what the {self._measure} loses when the edge alone is patched. "
            f"{self._cut()}",
        )

    def _in_lane(self, index: int) -> bool:
        return self.nodes[index].kind not in ("head", "attention")

    @staticmethod
    def _row(node: CircuitNode) -> tuple[int, int]:
        return node.layer, int(node.kind == "feed-forward")

    def _level(self, row: tuple[int, int]) -> str:
        layer, is_block = row
        last = max(node.layer for node in self.nodes)
        if layer < 0 or layer == last:
            return ""
        return f"{layer} {'feed-fwd' if is_block else 'attention'}"

    def _name(self, index: int) -> str:
        node = self.nodes[index]
        if node.kind == "logits":
            return "the logits"
        return f"{node.part} at {quoted(self.tokens[node.position])}"

    def _drawn(self, index: int, x: float, y: float) -> shown.Node:
        node = self.nodes[index]
        label = {
            "embedding": self.tokens[node.position], "logits": self.target,
            "head": f"{node.layer}.{node.head}", "attention": f"all {node.layer}",
            "feed-forward": f"ff {node.layer}",
        }[node.kind]  # fmt: skip
        tip = self._name(index)
        if node.looks_at is not None and node.share is not None:
            tip += f", looks at {quoted(self.tokens[node.looks_at])} {percent(node.share, 0)}"
        kind = "head" if node.kind == "attention" else node.kind
        return shown.Node(kind, figures.shorten(label), self._name(index), tip, x, y)


def circuit(
    model: Model,
    text: passes.Text,
    *,
    corrupted: passes.Text | None = None,
    target: str | None = None,
    contrast: str | None = None,
    how: How = "mean",
    keep: float = KEPT,
    progress: Progress | None = None,
) -> Circuit:
    """Find the edges between heads and feed-forwards that keep most of a logit difference.

    Args:
        model: the model.
        text: the prompt.
        corrupted: a prompt of as many tokens that leads to another answer; patched edges carry
            what it gives. None sets them by ``how``.
        target: the token whose logit is followed, with its space; None means the likeliest.
        contrast: a token whose logit is taken off it; None means the likeliest after the corrupted
            prompt, when there is one and that is another, or else nothing.
        how: what a patched edge carries when there is no corrupted prompt: "mean" (its sender's
            over the prompt's positions) or "zero".
        keep: the share of the logit difference that the circuit is to keep, over 0 and up to 1.
        progress: called with (what, done, total).

    Raises:
        ContextLengthError: a prompt has more tokens than the model has positions.
        InputError: a text is empty, the prompts differ in length or not at all, a target is not
            one token, a setting is out of its range, or patching all edges changes nothing.
    """
    if how not in ("zero", "mean"):
        raise InputError(f"how is {how!r}, but it must be one of zero, mean")
    if isinstance(keep, bool) or not isinstance(keep, int | float) or not 0 < keep <= 1:
        raise InputError(f"keep is {keep!r}, but it must be a share over 0 and up to 1")
    ids, other = _ids(model, text, corrupted)
    corruption: Sequence[int] | Corruption = how if other is None else other
    patching = PathPatching(model, ids, corruption)
    nothing = patching.run_circuit([])
    chosen = targets.choose(model, patching.logits, target, contrast)
    if contrast is None and other is not None:
        best = targets.best(model, nothing)
        if best != chosen.token_id:
            label = passes.token_labels(model, [best])[0]
            chosen = Target(chosen.token_id, chosen.token, best, label)
    whole, least = (float(chosen.logit_diff(logits)) for logits in (patching.logits, nothing))
    if abs(whole - least) < 1e-3:
        name = logit_diff_name(chosen.token, chosen.contrast)
        raise InputError(
            f"the {name} is the same ({whole:.3f}) with every edge patched: there is nothing to "
            "find; choose another target or a corrupted prompt, or how zero"
        )
    found = CircuitSearch(patching, chosen, whole, least, keep, progress)
    effects = found.effects()
    kept = found.prune(effects)
    logits = patching.run_circuit(kept)
    order = sorted(kept, key=lambda edge: (-abs(effects[edge]), edge))
    nodes = sorted({patching.logits_node, *(node for edge in kept for node in edge)})
    return Circuit(
        model=model_label(model),
        tokens=passes.token_labels(model, ids),
        corrupted=None if other is None else passes.token_labels(model, other),
        how=how if other is None else "corrupted",
        target=chosen.token,
        contrast=chosen.contrast,
        logit_diff=whole,
        patched_logit_diff=least,
        circuit_logit_diff=float(chosen.logit_diff(logits)),
        asked=float(keep),
        n_edges=patching.n_edges(),
        n_patched=found.n_patched,
        n_opened=found.n_opened,
        probability=float(targets.probabilities(patching.logits)[chosen.token_id]),
        circuit_probability=float(targets.probabilities(logits)[chosen.token_id]),
        nodes=[_described(patching, node) for node in nodes],
        edges=[
            CircuitEdge(nodes.index(edge.sender), nodes.index(edge.reader), effects[edge])
            for edge in order
        ],
    )


def _ids(
    model: Model, text: passes.Text, corrupted: passes.Text | None
) -> tuple[list[int], list[int] | None]:
    if corrupted is None:
        return passes.encode(model, text), None
    return passes.encode_pair(model, text, corrupted)


def _described(patching: PathPatching, node: Node) -> CircuitNode:
    kind, layer, head = patching.component(node.sender)
    looks_at = share = None
    if head is not None:
        row = patching.pattern[layer][head, node.position]
        looks_at, share = int(row.argmax()), float(row.max())
    return CircuitNode(kind, layer, head, node.position, looks_at, share)
