"""Boxes and the lines between them."""

from __future__ import annotations

import itertools

from matplotlib.patches import FancyBboxPatch, PathPatch

from laplm.look import figures
from laplm.look.view import Edge, Network, Node


def test_boxes_follow_each_other_and_go_on_in_another_line_before_the_edge() -> None:
    (axes,) = figures.boxes(["·word"] * 40, ["1"] * 40, "a title").axes
    found = [box for box in axes.patches if isinstance(box, FancyBboxPatch)]
    lines = sorted({box.get_y() for box in found})
    assert len(found) == 40 and len(lines) > 1
    for line in lines:
        row = [box for box in found if box.get_y() == line]
        assert all(a.get_x() + a.get_width() < b.get_x() for a, b in itertools.pairwise(row))
        assert row[-1].get_x() + row[-1].get_width() <= axes.get_xlim()[1]


def test_lines_of_a_network_are_as_wide_as_they_are_strong_and_dashed_where_they_are_against() -> (
    None
):
    nodes = [Node("head", str(i), str(i), "", float(i), float(i)) for i in range(3)]
    edges = [Edge(0, 1, 4.0), Edge(0, 2, -1.0), Edge(1, 2, 2.0)]
    drawn = Network(title="", nodes=nodes, edges=edges, levels=[(0.0, "0")])
    (axes,) = figures.network(drawn, "a title", value_label="").axes
    found = [line for line in axes.patches if isinstance(line, PathPatch)]
    weak, middle, strong = sorted(found, key=lambda line: line.get_linewidth())
    assert weak.get_linestyle() != "-" and middle.get_linestyle() == strong.get_linestyle() == "-"
    ends = [tuple(line.get_path().vertices[-1]) for line in (weak, middle, strong)]
    assert ends == [(2, 2), (2, 2), (1, 1)]
    assert [text.get_text() for text in axes.texts] == ["0", "1", "2"]


def test_a_stage_that_is_opened_shows_what_is_in_it() -> None:
    stages = [("embed", "x"), ("block", "x"), ("logits", "")]
    branches = [["norm", "attention"], ["norm", "feed-forward"]]
    (axes,) = figures.block_diagram(stages, 1, branches, "a title").axes
    texts = [text.get_text() for text in axes.texts if text.get_text()]
    for word in ("embed", "block", "logits", "attention", "feed-forward"):
        assert texts.count(word) == 1
    assert texts.count("norm") == texts.count("+") == 2
