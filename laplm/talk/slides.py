"""Slides of the notebooks: run, drawn with reveal.js, and shown without a network.

A cell that is marked as a slide in JupyterLab begins one; what follows it belongs to it. Cells
marked "skip" are run and not shown, "notes" are for the speaker, "fragment" is shown with the next
press of a key. Tags of cells:

- "title", "section", "closing" on the first cell of a slide: large and centred.
- "below", "beside" there: where pictures and tables are, if not where their shape puts them.
- "steps": each item of the lists in it is a fragment.
- "words": what a code cell gives as Markdown is text of the slide, and its code is not shown.
- "open-code": the code is on the slide; other code is folded behind a word at its foot.
- "skip-execution": not run (nbclient's own tag): sliders, since nobody is there to move them, and
  nbclient now and then waits for ever for what a widget has to say.

reveal.js comes from the package pyreveal, whose copy of it is copied beside the page.
"""

from __future__ import annotations

import base64
import contextlib
import html
import importlib.util
import re
import struct
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from laplm.errors import InputError, MissingExtraError, WriteError
from laplm.files import reason_of, write_file
from laplm.talk.dark import DARK_PNG
from laplm.talk.formulas import markdown_html
from laplm.talk.notebooks import environment

Progress = Callable[[str, int, int], None]

WIDTH, HEIGHT = 1280, 720
_SECONDS = 1800  # for one cell, at most: tuning GPT-2 on a slow machine
_WIDE = 3  # times as wide as high: such a picture goes below the words, not beside them
_MANY_ROWS = 8  # the same for a table
_FEW_ROWS, _NARROW_ROW = 6, 36  # rows, and letters in a row, of a table that is drawn large
_FEW_LINES, _NARROW = 8, 76  # lines and letters in a line that are printed large
_LAYOUTS = ("title", "section", "closing", "below", "beside")
# What reveal.js needs of its own, and where that lies in its distribution.
_REVEAL = ("reset.css", "reveal.css", "reveal.js", "plugin/notes.js")
# Run before a notebook's first cell: JupyterLab needs no figures for a dark slide.
_BEFORE = "from laplm.talk import dark; dark.draw_both()"


@dataclass
class Slide:
    """One slide, its parts as HTML.

    Attributes:
        title: its heading, as text.
        notebook: the file it comes from.
        part: of the talk: the notebook's own title.
        layout: "title", "section" or "closing" for a slide that is large and centred; "below" or
            "beside" (the words) for where its outputs are; "" where their shape decides.
        words: what is said on it.
        code: the code that is folded.
        open_code: the code that is shown.
        outputs: what the code gave.
        tall: one of the outputs wants the height of the slide, and stands beside the words: a
            picture that is not much wider than high, or a long table.
        notes: what the speaker says.
        fragments: how many parts come one after the other.
    """

    title: str
    notebook: str
    part: str
    layout: str = ""
    words: list[str] = field(default_factory=list)
    code: list[str] = field(default_factory=list)
    open_code: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    tall: bool = False
    notes: list[str] = field(default_factory=list)
    fragments: int = 0

    def next_fragment(self) -> str:
        """The attributes of what comes next on this slide."""
        self.fragments += 1
        return f'class="fragment" data-fragment-index="{self.fragments - 1}"'


def run(path: Path, model: str, *, speaker: str = "", date: str = "") -> Any:
    """A notebook with its outputs; the file stays as it is.

    Args:
        path: the file.
        model: what it runs on: a name, or a directory's whole path.
        speaker: who gives the talk.
        date: when, as it stands on the first slide.

    Raises:
        InputError: it is no notebook, or one of its cells fails.
        MissingExtraError: what runs notebooks is not installed.
    """
    require()
    nbformat = load_nbformat()
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    try:
        notebook = nbformat.read(path, as_version=4)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise InputError(f"{path} is not a notebook that can be read ({error})") from None
    notebook.cells.insert(0, nbformat.v4.new_code_cell(_BEFORE))
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        startup_timeout=_SECONDS,
        timeout=_SECONDS,
        resources={"metadata": {"path": str(path.parent)}},
    )
    try:
        # What its process has to say besides is nothing that a speaker could use.
        variables = environment(model, speaker, date)
        client.execute(env=variables, stderr=subprocess.DEVNULL)
    except CellExecutionError as error:
        raise InputError(
            f"{path.name}: the cell that begins with {_failed(notebook)!r} ends with "
            f"{error.ename}: {error.evalue}".rstrip(": ")
            + f"; open {path.name} with laplm talk and mend it, or delete it to get it afresh"
        ) from None
    except (CellTimeoutError, DeadKernelError) as error:
        why = "took too long" if isinstance(error, CellTimeoutError) else "ended its process"
        raise InputError(
            f"{path.name}: a cell {why}; open it with laplm talk to see which, or take a smaller "
            "model: laplm talk --slides -m pocket"
        ) from None
    del notebook.cells[0]
    return notebook


def _failed(notebook: Any) -> str:
    """The first line of the cell that ended a run."""
    for cell in notebook.cells:
        if any(output.output_type == "error" for output in cell.get("outputs", ())):
            return str(cell.source).strip().partition("\n")[0]
    return ""


def slides_of(notebook: Any, name: str) -> list[Slide]:
    """The slides of a notebook that was run. ``name`` is its file's.

    Raises:
        InputError: a formula cannot be read.
    """
    found: list[Slide] = []
    titles = (re.match(r"# (.*)", c.source) for c in notebook.cells if c.cell_type == "markdown")
    part = next((title[1].strip() for title in titles if title), Path(name).stem)
    fragment = ""  # the attributes of the one that a cell belongs to
    for cell in notebook.cells:
        kind = cell.metadata.get("slideshow", {}).get("slide_type", "-")
        if kind == "skip":
            continue
        words = _words(cell)
        if kind in ("slide", "subslide"):
            heading, words = _heading(words)
            layout = next((tag for tag in _LAYOUTS if tag in _tags(cell)), "")
            found.append(Slide(heading, name, part, layout))
        if not found:
            continue
        slide = found[-1]
        if kind == "notes":
            slide.notes.append(markdown_html(words))
            continue
        if kind != "-":
            fragment = slide.next_fragment() if kind == "fragment" else ""
        _add_words(slide, words, fragment, steps="steps" in _tags(cell))
        if cell.cell_type == "code" and "words" not in _tags(cell):
            _add_code(slide, cell, fragment)
    return found


def _tags(cell: Any) -> list[str]:
    return list(cell.metadata.get("tags", ()))


def _words(cell: Any) -> str:
    """What a cell says, in Markdown: its source, or what its code gave."""
    if cell.cell_type == "markdown":
        return str(cell.source)
    if cell.cell_type != "code" or "words" not in _tags(cell):
        return ""
    given = (output.get("data", {}).get("text/markdown", "") for output in cell.outputs)
    return "\n\n".join(filter(None, given))


def _heading(words: str) -> tuple[str, str]:
    """The heading that Markdown begins with, and the rest."""
    heading = re.match(r"\s*#+ (.*)\n?", words)
    return (heading[1].strip(), words[heading.end() :]) if heading else ("", words)


def _add_words(slide: Slide, words: str, fragment: str, *, steps: bool) -> None:
    if not words.strip():
        return
    text = markdown_html(words)
    if steps:
        text = re.sub("<li>", lambda _: f"<li {slide.next_fragment()}>", text)
    slide.words.append(_within(fragment, text))


def _add_code(slide: Slide, cell: Any, fragment: str) -> None:
    from nbconvert.filters import Highlight2HTML

    code = _within(fragment, Highlight2HTML(pygments_lexer="ipython3")(cell.source))
    (slide.open_code if "open-code" in _tags(cell) else slide.code).append(code)
    for output in _shown(cell.outputs):
        slide.outputs.append(_within(fragment, output.html))
        slide.tall |= output.tall


def _within(fragment: str, text: str) -> str:
    return f"<div {fragment}>{text}</div>" if fragment else text


class Shown(NamedTuple):
    """An output as HTML, and whether it is tall."""

    html: str
    tall: bool = False


def _shown(outputs: Iterable[Any]) -> Iterator[Shown]:
    """Each output of a cell; text that came in pieces is joined."""
    printed = ""
    for output in [*outputs, None]:
        if output is not None and output.output_type == "stream":
            if output.name == "stdout":
                printed += output.text
            continue
        if printed.strip():
            yield _printed(printed.rstrip())
        printed = ""
        if output is not None and output.output_type in ("execute_result", "display_data"):
            yield from _displayed(output)


def _displayed(output: Any) -> Iterator[Shown]:
    """What a cell displayed, in the best of the forms that it is there in."""
    data = output.data
    if "application/vnd.jupyter.widget-view+json" in data:  # a slide has no process to ask
        return
    if "image/png" in data:
        yield _picture(data, output.metadata)
    elif "text/markdown" in data:
        yield Shown(f'<div class="text">{markdown_html(data["text/markdown"])}</div>')
    elif "text/html" in data:
        yield _table(data["text/html"])
    elif "text/plain" in data:
        yield _printed(data["text/plain"])


def _printed(text: str) -> Shown:
    """What was printed; large where it is short and narrow."""
    from nbconvert.filters import ansi2html

    lines = text.split("\n")
    large = len(lines) <= _FEW_LINES and max(map(len, lines)) <= _NARROW
    return Shown(f"<pre{' class=large' if large else ''}>{ansi2html(text)}</pre>")


def _picture(data: Any, metadata: Any) -> Shown:
    """A picture, for the light deck and the dark one where there are both."""
    png = base64.b64decode(data["image/png"])
    # The header's width and height, https://www.w3.org/TR/png-3/#11IHDR
    width, height = struct.unpack(">II", png[16:24])
    said = metadata.get(DARK_PNG, {})
    about = f'alt="{html.escape(said.get("title", ""))}" data-letters="{said.get("letters", 0)}"'
    pictures = {"": data["image/png"]}
    if DARK_PNG in data:
        pictures = {"on-light": data["image/png"], "on-dark": data[DARK_PNG]}
    text = "".join(
        f'<img class="{deck}" {about} src="data:image/png;base64,{"".join(picture.split())}">'
        for deck, picture in pictures.items()
    )
    return Shown(text, bool(width < _WIDE * height))


def _table(text: str) -> Shown:
    """A table of pandas, large where it is small.

    The numbers of its rows are left out where they count them and say no more.
    """
    table = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)
    bodies = re.findall(r"<tbody>.*?</tbody>", table, re.DOTALL)
    rows = re.findall(r"<th>(.*?)</th>", "".join(bodies))
    names = "dataframe"
    if rows == [str(i) for i in range(len(rows))]:
        names += " unnamed"
    wide = max((len(re.sub(r"<.*?>|\s", "", row)) for row in table.split("</tr>")), default=0)
    if len(rows) <= _FEW_ROWS and wide <= _NARROW_ROW:
        names += " large"
    table = table.replace('class="dataframe"', f'class="{names}"')
    return Shown(table, len(rows) > _MANY_ROWS)


def page(slides: Sequence[Slide]) -> str:
    """All slides as one HTML document that loads only what lies beside it."""
    from pygments.formatters import HtmlFormatter

    light = HtmlFormatter(style="default").get_style_defs(".highlight")
    dark = HtmlFormatter(style="github-dark").get_style_defs("[data-theme=dark] .highlight")
    here = files("laplm.talk")
    own, script = (
        here.joinpath(f).read_text(encoding="utf-8") for f in ("slides.css", "slides.js")
    )
    title = html.escape(slides[0].title if slides else "laplm")
    return f"""<!doctype html>
<html lang="en" class="print-pdf"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="reveal/reset.css"><link rel="stylesheet" href="reveal/reveal.css">
<style>
{light}
{dark}
{own}
</style></head>
<body><div class="reveal"><div class="slides">
{"".join(map(_section, slides))}
</div></div>
<script src="reveal/reveal.js"></script><script src="reveal/plugin/notes.js"></script>
<script>
{script.replace("WIDTH", str(WIDTH)).replace("HEIGHT", str(HEIGHT))}
</script></body></html>
"""


def _section(slide: Slide) -> str:
    words, code, open_code, outputs, notes = map(
        "\n".join, (slide.words, slide.code, slide.open_code, slide.outputs, slide.notes)
    )
    layout = slide.layout or ("beside" if slide.tall else "below")
    if layout == "below" and not outputs and not open_code:
        layout = "below only-words"
    folded = f'<details class="code"><summary>code</summary><div>{code}</div></details>'
    return f"""<section class="{layout}" data-notebook="{html.escape(slide.notebook, quote=True)}">
<h2>{html.escape(slide.title)}</h2>
<div class="words">{words}{f'<div class="code">{open_code}</div>' if open_code else ""}</div>
{f'<div class="shown">{outputs}</div>' if outputs else ""}
<div class="part">{html.escape(slide.part)}</div>
{folded if code else ""}
<aside class="notes">{notes}</aside>
</section>
"""


def build_slides(
    notebooks: Sequence[Path],
    out: Path,
    model: str,
    progress: Progress | None = None,
    *,
    speaker: str = "",
    date: str = "",
) -> Path:
    """Run notebooks and write their slides into a directory; gives the page.

    Args:
        notebooks: in the order of the talk.
        out: the directory, made when missing.
        model: what the notebooks run on: a name, or a directory's whole path.
        progress: called with ("notebooks", done, in all).
        speaker: who gives the talk.
        date: when, as it stands on the first slide.

    Raises:
        InputError: a notebook cannot be read or run, or ``out`` cannot be written.
        MissingExtraError: the "talk" extra is not installed.
    """
    reveal = _reveal_js()
    slides: list[Slide] = []
    for done, path in enumerate(notebooks):
        if progress:
            progress("notebooks", done, len(notebooks))
        slides += slides_of(run(path, model, speaker=speaker, date=date), path.name)
    if progress:
        progress("notebooks", len(notebooks), len(notebooks))
    index = out / "index.html"
    try:
        for name, content in reveal.items():
            (out / "reveal" / name).parent.mkdir(parents=True, exist_ok=True)
            write_file(out / "reveal" / name, content)
        write_file(index, page(slides).encode())
    except (OSError, WriteError) as error:
        raise InputError(
            f"{out} cannot be written ({reason_of(error)}); name another directory"
        ) from None
    return index


def _reveal_js() -> dict[str, bytes]:
    """The files of reveal.js, by the names that the page has for them."""
    # Found, not imported: only the files that it brings are wanted.
    spec = importlib.util.find_spec("pyreveal")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        directory = Path(place) / "revealjs" / "dist"
        if all((directory / name).is_file() for name in _REVEAL):
            return {name: (directory / name).read_bytes() for name in _REVEAL}
    raise MissingExtraError("A page of slides", "talk")


def load_nbformat() -> Any:
    """The module ``nbformat``, 2.6 s sooner than by a plain import.

    jsonschema, which it validates notebooks with, builds the grammar of addresses in all alphabets
    (RFC 3987) wherever ``rfc3987_syntax`` is installed, as it is with JupyterLab. No notebook needs
    it.
    """
    with contextlib.ExitStack() as afterwards:
        if "rfc3987_syntax" not in sys.modules:
            sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment] # as if it were missing
            afterwards.callback(sys.modules.pop, "rfc3987_syntax")
        import nbformat
    return nbformat


def require() -> None:
    """See that everything is installed that slides are made with.

    Raises:
        MissingExtraError: something is not.
    """
    _reveal_js()
    if not all(map(importlib.util.find_spec, ("ipykernel", "nbclient", "nbconvert", "nbformat"))):
        raise MissingExtraError("Running notebooks", "talk")
