"""``look circuit``: few edges that keep what was asked for, and how they are told and drawn.

What single edges and whole circuits do is held against transformers in ``test_path_patching``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from laplm import look
from laplm.errors import InputError
from laplm.look import circuit_search, passes
from laplm.look.path_patching import Edge, Node, PathPatching
from laplm.look.view import Network, Table
from laplm.look.views.circuit import Circuit
from laplm.run.language_model import LanguageModel

TEXT, OTHER = "The capital of Spain is", "The capital of France is"


@pytest.fixture(scope="module")
def spain(pocket: LanguageModel) -> Circuit:
    return look.circuit(pocket, TEXT, corrupted=OTHER, keep=0.7)


def edges_of(found: Circuit, patching: PathPatching) -> list[Edge]:
    """The circuit's edges as those of path patching."""

    def node(index: int) -> Node:
        wanted = found.nodes[index]
        key = (wanted.kind, wanted.layer, wanted.head)
        sender = next(s for s in range(patching.n_senders + 1) if patching.component(s) == key)
        return Node(sender, wanted.position)

    return [Edge(node(e.sender), node(e.reader)) for e in found.edges]


def test_a_run_of_the_circuit_alone_keeps_the_share_that_is_told(
    pocket: LanguageModel, hf_pocket: Any, spain: Circuit
) -> None:
    ids, other = (passes.encode(pocket, text) for text in (TEXT, OTHER))
    madrid, paris = (passes.one_token(pocket, text) for text in (" Madrid", " Paris"))
    with torch.no_grad():
        logits = hf_pocket(torch.tensor([ids, other])).logits[:, -1]
    whole, least = (logits[:, madrid] - logits[:, paris]).tolist()
    assert spain.logit_diff == pytest.approx(whole, abs=1e-3)
    assert spain.patched_logit_diff == pytest.approx(least, abs=1e-3)
    patching = PathPatching(pocket, ids, other)
    alone = patching.run_circuit(edges_of(spain, patching))
    share = (float(alone[madrid] - alone[paris]) - least) / (whole - least)
    assert spain.kept == pytest.approx(share, abs=1e-3)
    assert 0.7 <= spain.kept < 0.8


def test_no_edge_can_be_spared_and_all_lie_on_a_way_to_the_logits(
    pocket: LanguageModel, spain: Circuit
) -> None:
    patching = PathPatching(pocket, *(passes.encode(pocket, text) for text in (TEXT, OTHER)))
    edges = edges_of(spain, patching)
    assert len(edges) == len(set(edges)) < 40
    for edge in edges:
        assert edge.sender.sender == 0 or any(e.reader == edge.sender for e in edges)
        assert edge.reader == patching.logits_node or any(e.sender == edge.reader for e in edges)
    madrid, paris = (passes.one_token(pocket, text) for text in (" Madrid", " Paris"))
    whole = spain.logit_diff - spain.patched_logit_diff
    for edge in edges[-3:]:  # the weakest were tried last
        alone = patching.run_circuit([each for each in edges if each != edge])
        share = (float(alone[madrid] - alone[paris]) - spain.patched_logit_diff) / whole
        assert share < 0.7


def test_the_head_that_reads_the_country_is_in_it(spain: Circuit) -> None:
    (head,) = [n for n in spain.nodes if (n.layer, n.head) == (4, 6) and n.position == 4]
    assert head.looks_at == 3 and head.share is not None and head.share > 0.9
    assert [n.position for n in spain.nodes if n.kind == "embedding"] == [3]
    sentence = spain.sentence()
    assert sentence.startswith(f"{len(spain.edges)} of 14,024 edges (")
    assert (
        f"keep {100 * spain.kept:.0f}% of the logit of “·Madrid” less that of “·Paris”" in sentence
    )
    assert "the strongest way goes from “·Spain”" in sentence
    assert "by head 4.6 (at “·is”, looking at “·Spain” with 98%)" in sentence


def test_the_same_prompt_gives_the_same_circuit(tiny_model_dir: Path) -> None:
    model = LanguageModel(str(tiny_model_dir), "fp32")
    first, second = (look.circuit(model, "Once upon a time", keep=0.6) for _ in range(2))
    assert first.to_dict() == second.to_dict()


def test_without_a_corrupted_prompt_edges_carry_means(tiny_model_dir: Path) -> None:
    model = LanguageModel(str(tiny_model_dir), "fp32")
    found = look.circuit(model, "Once upon a time", keep=0.5)
    assert found.how == "mean" and found.corrupted is None and found.contrast is None
    assert found.kept >= 0.5 and "all patched by their means over the prompt" in found.sentence()
    zero = look.circuit(model, "Once upon a time", how="zero", keep=0.5)
    assert "all patched by zero" in zero.sentence()
    assert zero.patched_logit_diff != found.patched_logit_diff


def test_what_is_not_kept_is_said(tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuit_search, "_OPENED", 1)
    monkeypatch.setattr(circuit_search, "_ROUNDS", 1)
    monkeypatch.setattr(circuit_search, "_FEWEST", 2)
    monkeypatch.setattr(circuit_search, "_MOST", 2)
    model = LanguageModel(str(tiny_model_dir), "fp32")
    found = look.circuit(model, "Once upon a time", corrupted="Once upon a girl", keep=1.0)
    assert found.kept < 1 and "less than the 100% that were asked for" in found.sentence()
    assert found.n_opened == 1 and found.n_patched == 2
    assert "2 edges were patched by themselves" in found.parts()[0].note


def test_tables_and_the_network_hold_every_edge(spain: Circuit) -> None:
    network, edges, nodes = spain.page_parts()
    assert isinstance(network, Network) and isinstance(edges, Table) and isinstance(nodes, Table)
    assert len(edges.rows) == len(network.edges) == len(spain.edges)
    assert len(nodes.rows) == len(network.nodes) == len(spain.nodes)
    effects = [abs(row[4]) for row in edges.rows]
    assert effects == sorted(effects, reverse=True)
    places = [(node.x, node.y) for node in network.nodes]
    assert len(set(places)) == len(places), "nothing stands on anything else"
    for edge in network.edges:
        assert network.nodes[edge.from_].y < network.nodes[edge.to].y
    # Every column has its word: of an embedding, or by itself.
    used = {spain.tokens[node.position] for node in spain.nodes}
    words = {n.label for n in network.nodes if n.kind == "embedding"}
    assert words | {word for _, word in network.columns} == used == {"·Spain", "·is"}
    madrid = network.nodes[-1]
    assert madrid.label == "·Madrid" and madrid.y == max(y for _, y in places)


def test_the_picture_draws_every_edge_and_names_every_part(spain: Circuit) -> None:
    figure = spain.plot()
    (axes,) = figure.axes
    texts = {text.get_text() for text in axes.texts}
    assert {"4.6", "ff 0", "·Spain", "·Madrid", "·is"} <= texts
    assert len(axes.patches) == len(spain.edges) + len(spain.nodes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"corrupted": "The capital is"}, "they must have as many"),
        ({"corrupted": TEXT}, "the two prompts are the same"),
        ({"keep": 0.0}, "keep is 0.0, but it must be a share over 0 and up to 1"),
        ({"how": "median"}, "how is 'median', but it must be one of zero, mean"),
        ({"target": " xylophagous"}, "is not one token but"),
    ],
)
def test_what_cannot_be_is_told(
    pocket: LanguageModel, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        look.circuit(pocket, TEXT, **options)


def test_one_token_is_its_own_mean(pocket: LanguageModel) -> None:
    with pytest.raises(InputError, match=r"nothing to find.*or how zero"):
        look.circuit(pocket, "The")
