"""A view as a page of its own: what one can point at and click is drawn by ``assets/view.js``.

Everything is in the page, and its content policy lets nothing else run and loads nothing. Without
a script there are tables.
"""

from __future__ import annotations

import base64
import functools
import math
import re
from collections.abc import Sequence
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from laplm import html_page
from laplm.errors import MissingExtraError
from laplm.files import json_text
from laplm.look.view import (
    AnswerAttention,
    Array,
    Column,
    Grid,
    Maps,
    Network,
    PagePart,
    Passage,
    Span,
    Table,
    View,
)

_MOST_NUMBERS = 3_000_000  # of all heads' maps in a page: 8 MB of text
_IN_TABLES = 2_500  # cells of a matrix that is a table too, for who runs no scripts
_HEIGHTS = {Maps: 620, Network: 620, AnswerAttention: 320, Passage: 170}
_ROW = 27  # pixels
_LEAST, _MOST = 260, 760  # pixels of a frame in a notebook


def page_of(view: View) -> str:
    """The page of a view."""
    parts = view.page_parts()
    title = parts[0].title  # and not once more over the part that it belongs to
    # What is seen at a glance comes before what is read.
    parts.sort(key=lambda part: isinstance(part, Table))
    picture = ""
    drawn = any(isinstance(part, Grid | Maps | Network | AnswerAttention) for part in parts)
    if view.picture_on_page or not drawn:
        try:
            picture = html_page.figure(view.to_svg()) + "\n"
        except MissingExtraError:
            picture = ""
    body = "\n".join(_part(part, heading=part.title != title) for part in parts)
    sentence = html_page.paragraph(view.sentence(), "sentence")
    return html_page.page(
        title, f"{sentence}\n{picture}{body}", style=_asset("view.css"), script=_asset("view.js")
    )


def frame_of(view: View) -> str:
    """The page of a view in a frame, for a notebook."""
    height = 170
    for part in view.page_parts():
        rows = len(part.values) if isinstance(part, Grid) else 0
        rows = min(24, len(part.rows)) if isinstance(part, Table) else rows
        height += _HEIGHTS.get(type(part), 110 + _ROW * rows)
    return html_page.iframe(
        page_of(view), view.page_parts()[0].title, min(_MOST, max(_LEAST, height))
    )


@functools.cache
def _asset(name: str) -> str:
    return (resources.files("laplm.look") / "assets" / name).read_text(encoding="utf-8")


def _part(part: PagePart, *, heading: bool) -> str:
    """One part as HTML, with or without its title over it."""
    title = html_page.heading(part.title) if heading else ""
    note = html_page.paragraph(part.note, "note")
    if isinstance(part, Table):
        return html_page.section("table", f"{title}{_table(part)}{note}")
    if isinstance(part, Passage):
        spans = html_page.passage([_span(span) for span in part.spans])
        return html_page.section("passage", f"{title}{spans}{note}")
    if isinstance(part, Grid):
        plain = html_page.without_script(_table(_as_table(part)))
        return html_page.section("grid", f"{title}{plain}{note}", _json(_grid(part)))
    if isinstance(part, Maps):
        data, cut = _maps(part)
        note += html_page.paragraph(cut, "note")
        return html_page.section("maps", f"{title}{note}", _json(data))
    if isinstance(part, AnswerAttention):
        return html_page.section("reading", f"{title}{note}", _json(_answer_attention(part)))
    return html_page.section("network", f"{title}{note}", _json(_network(part)))


def _json(data: dict[str, Any]) -> str:
    return json_text(data, ensure_ascii=False)


# --- without a script -------------------------------------------------------------------------


def _table(part: Table) -> str:
    return html_page.table(
        [column.name for column in part.columns],
        [
            [column.text(value) for column, value in zip(part.columns, row, strict=True)]
            for row in part.rows
        ],
        [
            any(isinstance(row[i], int | float | np.number) for row in part.rows)
            for i in range(len(part.columns))
        ],
        [
            [_share(column, value) for column, value in zip(part.columns, row, strict=True)]
            for row in part.rows
        ],
    )


def _share(column: Column, value: Any) -> float | None:
    if not column.bar or value is None or not 0 <= float(value) <= 1:
        return None
    return float(value)


def _as_table(part: Grid) -> Table:
    """A matrix as a table, its last rows where it is large."""
    most = max(1, _IN_TABLES // max(1, part.values.shape[1]))
    columns = [Column(""), *(Column(label, part.digits) for label in part.column_labels)]
    rows = [
        [label, *(None if math.isnan(v) else float(v) for v in row)]
        for label, row in zip(part.row_labels, part.values, strict=True)
    ]
    return Table(title=part.title, columns=columns, rows=rows[-most:])


def _span(span: Span) -> str:
    if span.strength is None:
        return html_page.span(span.text, tip=span.tip)
    # From a warm tint (unlikely) to a cool one (likely), both light enough for black text.
    from_, to = (253, 184, 99), (140, 190, 235)
    rgb = [round(a + (b - a) * span.strength) for a, b in zip(from_, to, strict=True)]
    return html_page.span(span.text, f"rgb({rgb[0]},{rgb[1]},{rgb[2]})", span.tip)


# --- what the script draws from ---------------------------------------------------------------


def _base64(values: NDArray[Any]) -> str:
    """Numbers as text, in the order of their bytes on every machine that browsers run on."""
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()


def _grid(part: Grid) -> dict[str, Any]:
    return {
        "title": part.title,
        "values": _base64(part.values.astype("<f4")),
        "rows": list(part.row_labels),
        "columns": list(part.column_labels),
        "diverging": part.diverging,
        "digits": part.digits,
        "texts": [list(row) for row in part.texts],
        "tips": [list(row) for row in part.tips],
    }


def _maps(part: Maps) -> tuple[dict[str, Any], str]:
    """Shares in steps of a 65,534th; of a long text the last rows, and what is left out."""
    down, across, rows, columns = part.values.shape
    kept = max(1, min(rows, _MOST_NUMBERS // (down * across * columns)))
    values: Array = part.values[:, :, rows - kept :]
    steps = np.where(np.isfinite(values), np.round(np.nan_to_num(values) * 65534), 65535)
    names = [_head_name(row, column) for row in part.row_labels for column in part.column_labels]
    marked = [row * across + column for row, column in part.marked]
    data = {
        "names": names,
        "rows": list(part.row_labels),
        "shape": [down, across, kept, columns],
        "values": _base64(steps.astype("<u2")),
        "tokens": list(part.tokens) or [str(i) for i in range(columns)],
        "first": columns - kept,
        "marked": marked,
        "marked_by": part.marked_by,
        "selected": marked[0] if marked else 0,
    }
    cut = f"Of {rows:,} positions the last {kept:,} are here." if kept < rows else ""
    return data, cut


def _head_name(row: str, column: str) -> str:
    """What a map is called: that of "layer 4" and "head 6" is 4.6."""
    numbers = re.fullmatch(r"layer (\d+)\nhead (\d+)", f"{row}\n{column}")
    return ".".join(numbers.groups()) if numbers else f"{row} {column}".strip()


def _network(part: Network) -> dict[str, Any]:
    edges = [
        {"from": edge.from_, "to": edge.to, "weight": round(edge.weight, 6), "tip": edge.tip}
        for edge in part.edges
    ]
    nodes = [
        {"kind": n.kind, "label": n.label, "name": n.name, "tip": n.tip, "x": n.x, "y": n.y}
        for n in part.nodes
    ]
    return {
        "title": part.title,
        "nodes": nodes,
        "edges": edges,
        "levels": [{"y": y, "label": label} for y, label in part.levels],
        "columns": [{"x": x, "label": label} for x, label in part.columns],
        "width": 1 + max((node.x for node in part.nodes), default=0),
        "height": 1 + max((node.y for node in part.nodes), default=0),
        "rest": "Point at a part to see what it reads and who reads it; a click pins it.",
    }


def _answer_attention(part: AnswerAttention) -> dict[str, Any]:
    words = [
        {"text": w.text, "kind": w.kind, "column": w.column, "last": w.last} for w in part.words
    ]
    answer: Sequence[Span] = part.answer
    return {
        "words": words,
        "answer": [
            {"text": span.text, "probability": span.strength, "tip": span.tip} for span in answer
        ],
        "weights": _base64(part.weights.astype("<f4")),
        "columns": part.weights.shape[1],
        "selected": 0,
    }
