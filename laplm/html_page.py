"""A page of HTML in one file that loads nothing: what views and reports are written with.

What is passed on as text is escaped here; what is called ``body`` is HTML already.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
figure { margin: 0; background: white; border-radius: 6px; }
svg, img { max-width: 100%; height: auto; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: 0.5rem 0; }
th, td { padding: 0.15rem 0.8rem; text-align: left; border-bottom: 1px solid #8884; }
td { white-space: pre-wrap; vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
.passage { white-space: pre-wrap; font-size: 1.1rem; line-height: 1.9; }
.passage span { border-radius: 3px; padding: 0.1rem 0; color: black; }
"""


def page(title: str, body: str) -> str:
    """A whole document: its title as the heading, then ``body``."""
    shown = html.escape(title)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{shown}</title><style>{_STYLE}</style></head>\n"
        f"<body>\n<h1>{shown}</h1>\n{body}\n</body></html>\n"
    )


def heading(text: str) -> str:
    """A heading below the title."""
    return f"<h2>{html.escape(text)}</h2>"


def paragraph(text: str) -> str:
    """A paragraph; nothing for an empty text."""
    return f"<p>{html.escape(text)}</p>" if text else ""


def bullets(items: Sequence[str]) -> str:
    """A list."""
    return "<ul>" + "".join(f"<li>{html.escape(item)}</li>" for item in items) + "</ul>"


def figure(body: str) -> str:
    """A picture: an SVG element, or ``image``."""
    return f"<figure>{body}</figure>"


def image(description: str, address: str) -> str:
    """An image; its address is a ``data:`` one, for a page loads nothing."""
    return f'<img alt="{html.escape(description, quote=True)}" src="{address}">'


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[bool] = ()
) -> str:
    """Rows of cells under a header.

    Args:
        header: a name for each column.
        rows: cells of each row, in the order of the header.
        numeric: for each column whether it holds numbers, which stand at the right; none do when
            it is left out.
    """
    kinds = [' class="number"' if number else "" for number in numeric or [False] * len(header)]
    head = _cells("th", header, kinds)
    body = "".join(f"<tr>{_cells('td', row, kinds)}</tr>\n" for row in rows)
    return f'<div class="scroll"><table><tr>{head}</tr>\n{body}</table></div>'


def _cells(tag: str, texts: Sequence[str], kinds: Sequence[str]) -> str:
    return "".join(
        f"<{tag}{kind}>{html.escape(text)}</{tag}>" for kind, text in zip(kinds, texts, strict=True)
    )


def passage(spans: Sequence[str]) -> str:
    """Running text made of ``span``s."""
    return f'<div class="passage">{"".join(spans)}</div>'


def span(text: str, colour: str | None = None, tip: str = "") -> str:
    """A piece of running text, on a ground of some colour, with words for a pointer."""
    title = f' title="{html.escape(tip, quote=True)}"' if tip else ""
    style = "color:inherit" if colour is None else f"background:{colour}"
    return f"<span{title} style='{style}'>{html.escape(text)}</span>"
