"""A page of HTML in one file that loads nothing: what views and reports are written with.

What is passed on as text is escaped here; what is called ``body`` is HTML already.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Sequence

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
figure { margin: 0; background: white; border-radius: 6px; }
/* Pictures are drawn on white. On a dark page their light and dark change places, hues do not. */
@media screen and (prefers-color-scheme: dark) {
  figure { background: none; }
  figure svg { filter: invert(0.91) hue-rotate(180deg); border-radius: 6px; }
}
svg, img { max-width: 100%; height: auto; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: 0.5rem 0; }
th, td { padding: 0.15rem 0.8rem; text-align: left; border-bottom: 1px solid #8884; }
td { white-space: pre-wrap; vertical-align: top; }
.beside { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 18rem), 1fr));
  gap: 0 1.5rem; }
.beside p { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0.2rem 0 0.8rem; }
.beside h4 { margin: 0; opacity: 0.75; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
.passage { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 1.1rem; line-height: 1.9; }
.passage span { border-radius: 3px; padding: 0.1rem 0; color: black; }
"""


def page(title: str, body: str, *, style: str = "", script: str = "") -> str:
    """A whole document: its title as the heading, then ``body``.

    Args:
        title: plain text.
        body: HTML.
        style: more CSS.
        script: JavaScript that is run at the end. Its content policy lets the browser run this one
            alone, whatever ``body`` holds, and load nothing.
    """
    shown = html.escape(title)
    policy = ["default-src 'none'", "img-src data:", "style-src 'unsafe-inline'"]
    run = ""
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy.append(f"script-src 'sha256-{digest}'")
        run = f"<script>{script}</script>\n"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{"; ".join(policy)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{shown}</title><style>{_STYLE}{style}</style></head>\n"
        f"<body>\n<h1>{shown}</h1>\n{body}\n{run}</body></html>\n"
    )


def heading(text: str) -> str:
    """A heading below the title."""
    return f"<h2>{html.escape(text)}</h2>"


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph, of some class; nothing for an empty text."""
    of = f' class="{kind}"' if kind else ""
    return f"<p{of}>{html.escape(text)}</p>" if text else ""


def beside(title: str, texts: Sequence[tuple[str, str]]) -> str:
    """Texts side by side, where there is room, each under its name; their lines stay lines."""
    columns = "".join(
        f"<div><h4>{html.escape(name)}</h4><p>{html.escape(text)}</p></div>" for name, text in texts
    )
    return f'<h3>{html.escape(title)}</h3><div class="beside">{columns}</div>'


def bullets(items: Sequence[str]) -> str:
    """A list."""
    return "<ul>" + "".join(f"<li>{html.escape(item)}</li>" for item in items) + "</ul>"


def figure(body: str) -> str:
    """A picture: an SVG element, or ``image``."""
    return f"<figure>{body}</figure>"


def image(description: str, address: str) -> str:
    """An image; its address is a ``data:`` one, for a page loads nothing."""
    return f'<img alt="{html.escape(description, quote=True)}" src="{address}">'


def section(kind: str, body: str, data: str = "") -> str:
    """A part of the page that its script draws.

    Args:
        kind: what the script knows it by.
        body: HTML: what stands there without the script.
        data: JSON that the script draws from.
    """
    safe: dict[str, str | int | None] = {
        "<": "\\u003c",
        ">": "\\u003e",
        "&": "\\u0026",
        "\u2028": "\\u2028",
        "\u2029": "\\u2029",
    }
    data = data.translate(str.maketrans(safe))
    held = f'<script type="application/json">{data}</script>' if data else ""
    return f'<section data-kind="{kind}">{held}{body}</section>'


def without_script(body: str) -> str:
    """What stands there only where no script is run."""
    return f"<noscript>{body}</noscript>"


def iframe(page: str, title: str, height: int) -> str:
    """A page within another one, which neither disturbs the other: so many pixels high."""
    return (
        f'<iframe sandbox="allow-scripts" title="{html.escape(title, quote=True)}" '
        f'style="width: 100%; height: {height}px; border: 0; resize: vertical; overflow: auto" '
        f'srcdoc="{html.escape(page, quote=True)}"></iframe>'
    )


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    numeric: Sequence[bool] = (),
    bars: Sequence[Sequence[float | None]] = (),
) -> str:
    """Rows of cells under a header.

    Args:
        header: a name for each column.
        rows: cells of each row, in the order of the header.
        numeric: for each column whether it holds numbers, which stand at the right; none do when
            it is left out.
        bars: for each cell the share (0 to 1) that a bar behind it takes, or None; none have one
            when it is left out.
    """
    kinds = [' class="number"' if number else "" for number in numeric or [False] * len(header)]
    head = _cells("th", header, kinds)
    body = ""
    given: Sequence[Sequence[float | None]] = bars or [[None] * len(row) for row in rows]
    for row, shares in zip(rows, given, strict=True):
        of = [
            kind if share is None else f' class="bar" style="--share: {share:.4g}"'
            for kind, share in zip(kinds, shares, strict=True)
        ]
        body += f"<tr>{_cells('td', row, of)}</tr>\n"
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
