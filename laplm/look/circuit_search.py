"""The search for a circuit: edges by their effects, then as few of them as keep enough.

Edges are found from the logits down. The parts that matter most are opened first: every edge into
one is ranked by how far it moves what the part adds, and those that move it most are patched in
runs of their own (``path_patching``), through the rest of the model. Then the weakest edges are
left out again, as long as a run with all other edges patched keeps what was asked for. Sources:
Wang et al. 2023, "Interpretability in the Wild" (path patching, and how faithful a circuit is);
Conmy et al. 2023, "Towards Automated Circuit Discovery for Mechanistic Interpretability".
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np

from laplm.look.path_patching import Edge, Node, PathPatching
from laplm.look.target import Target
from laplm.progress import Progress

_OPENED = 48  # nodes whose edges are looked at, before it is seen whether more are needed
_ROUNDS = 4  # how often that is done, at most
_NEARLY = 0.95  # of what all edges that were tried keep, where that is less than was asked for
_WEAK = 0.005  # of the whole difference: a node that no edge from makes so much is not opened
_OPERATIONS = 6e9  # of the runs for one node: so many edges into it are patched by themselves
_RANKED = 20e9  # operations to rank the edges into one node
_FEWEST, _MOST = 12, 128  # edges
_SPARED = (32, 8, 2, 1)  # so many of the weakest edges at a time are tried to be left out


class CircuitSearch:
    """Edges by their effects, and the fewest of them that are found to keep enough."""

    def __init__(
        self, patching: PathPatching, target: Target, whole: float, least: float, keep: float,
        progress: Progress | None,
    ) -> None:  # fmt: skip
        """What is searched, and for what.

        Args:
            patching: the prompt's clean and corrupted run.
            target: what the effects of edges are measured on.
            whole: the logit difference of the clean run.
            least: that of the run with every edge patched.
            keep: the share of what lies between them that is to be kept.
            progress: called with (what, done, total).
        """
        self._patching, self._target = patching, target
        self._whole, self._least, self._keep = whole, least, keep
        self._progress = progress
        self._found: dict[Edge, float] = {}
        self._opened: set[Node] = set()
        self._importance = {patching.logits_node: float("inf")}
        self._waiting = [(-float("inf"), patching.logits_node)]

    @property
    def n_patched(self) -> int:
        """How many edges were patched by themselves."""
        return len(self._found)

    @property
    def n_opened(self) -> int:
        """Into how many nodes these lead."""
        return len(self._opened)

    def effects(self) -> dict[Edge, float]:
        """The effect of each edge that was patched, the nodes that matter most opened first."""
        for most in range(_OPENED, _ROUNDS * _OPENED + 1, _OPENED):
            self._open(most)
            if not self._waiting or self._keeps(list(self._found)):
                break
        return self._found

    def _open(self, most: int) -> None:
        """Patch edges into the nodes that matter most, until so many nodes are opened."""
        weak = _WEAK * abs(self._whole - self._least)
        while self._waiting and len(self._opened) < most:
            strength, reader = heapq.heappop(self._waiting)
            if reader in self._opened or -strength < self._importance[reader]:
                continue  # it came again, with a stronger edge
            self._tell("parts of the circuit", len(self._opened), most)
            self._opened.add(reader)
            edges = self._strongest_edges(reader)
            if not edges:
                continue
            values = self._patching.effects(edges, self._target).tolist()
            for edge, value in zip(edges, values, strict=True):
                self._found[edge] = value
                sender, effect = edge.sender, abs(value)
                if sender.sender and effect >= max(weak, self._importance.get(sender, 0.0)):
                    self._importance[sender] = effect
                    heapq.heappush(self._waiting, (-effect, sender))
        self._tell("parts of the circuit", most, most)

    def _tell(self, what: str, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress(what, done, total)

    def _strongest_edges(self, reader: Node) -> list[Edge]:
        """The edges into a node that move what it adds most, along the way all of them move it."""
        edges = self._patching.candidate_edges(reader, _RANKED)
        most = self._patching.max_edges_within(reader, _OPERATIONS)
        most = max(_FEWEST, min(_MOST, most))
        if len(edges) <= most:
            return edges
        changes = self._patching.output_changes(edges).astype(np.float64)
        way = changes.sum(axis=0)
        along = np.abs(changes @ way) / max(float(np.linalg.norm(way)), 1e-12)
        strongest = np.argsort(-along, kind="stable")[:most]
        return [edges[i] for i in sorted(strongest.tolist())]

    def prune(self, effects: dict[Edge, float]) -> list[Edge]:
        """Few edges that keep enough: the strongest so many, less those that can be spared."""
        order = sorted(effects, key=lambda edge: (-abs(effects[edge]), edge))
        low, high = 0, min(16, len(order))
        while high < len(order) and not self._keeps(order[:high]):
            low, high = high, min(2 * high, len(order))
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._keeps(order[:middle]) else (middle, high)
        kept = self._connected(order[:high])
        # Where all that were tried keep less, nearly as much as they do.
        share = self._share_kept(kept)
        enough = self._keep if share >= self._keep else _NEARLY * share
        total, done = len(_SPARED) * len(kept), 0
        for step, size in enumerate(_SPARED):
            at = len(kept)
            while at > 0:
                done = max(done, step * total // len(_SPARED) + len(kept) - at)
                self._tell("edges that can be spared", done, total)
                some = set(kept[max(0, at - size) : at])
                at -= size
                without = self._connected([edge for edge in kept if edge not in some])
                if self._share_kept(without) >= enough:
                    kept, at = without, min(at, len(without))
        self._tell("edges that can be spared", total, total)
        return kept

    def _keeps(self, edges: Sequence[Edge]) -> bool:
        return self._share_kept(self._connected(edges)) >= self._keep

    def _share_kept(self, edges: Sequence[Edge]) -> float:
        logits = self._patching.run_circuit(edges)
        diff = float(self._target.logit_diff(logits))
        return (diff - self._least) / (self._whole - self._least)

    def _connected(self, edges: Sequence[Edge]) -> list[Edge]:
        """Those that lie on a way from an embedding to the logits, in their order."""
        reached = {edge.sender for edge in edges if edge.sender.sender == 0}
        for edge in sorted(edges, key=lambda edge: edge.reader):
            if edge.sender in reached:
                reached.add(edge.reader)
        needed = {self._patching.logits_node}
        for edge in sorted(edges, key=lambda edge: edge.reader, reverse=True):
            if edge.reader in needed:
                needed.add(edge.sender)
        return [e for e in edges if e.sender in reached and e.reader in needed]
