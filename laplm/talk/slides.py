"""Slides of the notebooks: run, drawn with reveal.js, and shown without a network.

A cell that is marked as a slide in JupyterLab begins one; what follows it belongs to it. Cells
marked "skip" are run and not shown, "notes" are for the speaker. reveal.js comes from the package
pyreveal, whose copy of it is copied beside the page.
"""

from __future__ import annotations

import base64
import html
import importlib.util
import re
import struct
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from laplm.errors import InputError, MissingExtraError, WriteError
from laplm.files import reason_of, write_file
from laplm.talk.notebooks import environment

Progress = Callable[[str, int, int], None]

WIDTH, HEIGHT = 1280, 720
_SECONDS = 1800  # for one cell, at most: tuning GPT-2 on a slow machine
_WIDE = 3  # times as wide as high: such a picture goes below the words, not beside them
_MANY_ROWS = 8  # the same for a table
# What reveal.js needs of its own, and where that lies in its distribution.
_REVEAL = ("reset.css", "reveal.css", "reveal.js", "plugin/notes.js")


@dataclass
class Slide:
    """One slide, its parts as HTML.

    Attributes:
        title: its heading, as text.
        notebook: the file it comes from.
        part: of the talk: the notebook's own title.
        words: what is said on it.
        code: the code that is shown.
        outputs: what the code gave.
        tall: one of the outputs wants the height of the slide, and stands beside the words: a
            picture that is not much wider than high, or a long table.
        notes: what the speaker says.
    """

    title: str
    notebook: str
    part: str
    words: list[str] = field(default_factory=list)
    code: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    tall: bool = False
    notes: list[str] = field(default_factory=list)


def run(path: Path, model: str) -> Any:
    """A notebook with its outputs; the file stays as it is.

    Raises:
        InputError: it is no notebook, or one of its cells fails.
        MissingExtraError: what runs notebooks is not installed.
    """
    require()
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    try:
        notebook = nbformat.read(path, as_version=4)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise InputError(f"{path} is not a notebook that can be read ({error})") from None
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        startup_timeout=_SECONDS,
        timeout=_SECONDS,
        resources={"metadata": {"path": str(path.parent)}},
    )
    try:
        # What its process has to say besides is nothing that a speaker could use.
        client.execute(env=environment(model), stderr=subprocess.DEVNULL)
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
    return notebook


def _failed(notebook: Any) -> str:
    """The first line of the cell that ended a run."""
    for cell in notebook.cells:
        if any(output.output_type == "error" for output in cell.get("outputs", ())):
            return str(cell.source).strip().partition("\n")[0]
    return ""


def slides_of(notebook: Any, name: str) -> list[Slide]:
    """The slides of a notebook that was run. ``name`` is its file's."""
    from nbconvert.filters import Highlight2HTML, markdown2html

    highlight = Highlight2HTML(pygments_lexer="ipython3")
    found: list[Slide] = []
    titles = (re.match(r"# (.*)", c.source) for c in notebook.cells if c.cell_type == "markdown")
    part = next((title[1].strip() for title in titles if title), Path(name).stem)
    for cell in notebook.cells:
        kind = cell.metadata.get("slideshow", {}).get("slide_type", "-")
        if kind == "skip":
            continue
        if kind in ("slide", "subslide"):
            heading = re.search(r"^#+ (.*)$", cell.source, re.MULTILINE)
            found.append(Slide(heading[1].strip() if heading else "", name, part))
        if not found:
            continue
        slide = found[-1]
        if kind == "notes":
            slide.notes.append(markdown2html(cell.source))
        elif cell.cell_type == "markdown":
            slide.words.append(markdown2html(re.sub(r"^#+ .*\n?", "", cell.source, count=1)))
        elif cell.cell_type == "code":
            slide.code.append(highlight(cell.source))
            for text, tall in _shown(cell.outputs):
                slide.outputs.append(text)
                slide.tall |= tall
    return found


def _shown(outputs: Iterable[Any]) -> list[tuple[str, bool]]:
    """Each output as HTML, and whether it is tall; text that came in pieces is joined."""
    from nbconvert.filters import ansi2html

    found: list[tuple[str, bool]] = []
    printed = ""
    for output in [*outputs, None]:
        if output is not None and output.output_type == "stream":
            if output.name == "stdout":
                printed += output.text
            continue
        if printed.strip():
            found.append((f"<pre>{ansi2html(printed.rstrip())}</pre>", False))
        printed = ""
        if output is None or output.output_type not in ("execute_result", "display_data"):
            continue
        data = output.data
        if "image/png" in data:
            png = base64.b64decode(data["image/png"])
            # The header's width and height, https://www.w3.org/TR/png-3/#11IHDR
            width, height = struct.unpack(">II", png[16:24])
            picture = base64.b64encode(png).decode()
            tall = bool(width < _WIDE * height)
            found.append((f'<img alt="" src="data:image/png;base64,{picture}">', tall))
        elif "text/html" in data:
            table = re.sub(r"<style.*?</style>", "", data["text/html"], flags=re.DOTALL)
            numbered = re.findall(r"<tbody>.*?</tbody>", table, re.DOTALL)
            rows = re.findall(r"<th>(.*?)</th>", "".join(numbered))
            if rows == [str(i) for i in range(len(rows))]:  # pandas counts rows; nobody asked it to
                table = table.replace('class="dataframe"', 'class="dataframe unnamed"')
            found.append((table, len(rows) > _MANY_ROWS))
        elif "text/plain" in data:
            found.append((f"<pre>{ansi2html(data['text/plain'])}</pre>", False))
    return found


def page(slides: Sequence[Slide]) -> str:
    """All slides as one HTML document that loads only what lies beside it."""
    from pygments.formatters import HtmlFormatter

    colours = HtmlFormatter(style="default").get_style_defs(".highlight")
    own = files("laplm.talk").joinpath("slides.css").read_text(encoding="utf-8")
    title = html.escape(slides[0].title if slides else "laplm")
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="reveal/reset.css"><link rel="stylesheet" href="reveal/reveal.css">
<style>
{colours}
{own}
</style></head>
<body><div class="reveal"><div class="slides">
{"".join(map(_section, slides))}
</div></div>
<script src="reveal/reveal.js"></script><script src="reveal/plugin/notes.js"></script>
<script>
Reveal.initialize({{
  width: {WIDTH}, height: {HEIGHT}, margin: 0, center: false, hash: true, slideNumber: "c/t",
  transition: "none", controlsTutorial: false, plugins: [RevealNotes],
}});
</script></body></html>
"""


def _section(slide: Slide) -> str:
    words, code, outputs, notes = map(
        "\n".join, (slide.words, slide.code, slide.outputs, slide.notes)
    )
    side = "beside" if slide.tall else "below"
    return f"""<section class="{side}" data-notebook="{html.escape(slide.notebook, quote=True)}">
<h2>{html.escape(slide.title)}</h2>
<div class="words">{words}{f'<div class="code">{code}</div>' if code else ""}</div>
{f'<div class="shown">{outputs}</div>' if outputs else ""}
<div class="part">{html.escape(slide.part)}</div>
<aside class="notes">{notes}</aside>
</section>
"""


def build_slides(
    notebooks: Sequence[Path], out: Path, model: str, progress: Progress | None = None
) -> Path:
    """Run notebooks and write their slides into a directory; gives the page.

    Args:
        notebooks: in the order of the talk.
        out: the directory, made when missing.
        model: what the notebooks run on: a name, or a directory's whole path.
        progress: called with ("notebooks", done, in all).

    Raises:
        InputError: a notebook cannot be read or run, or ``out`` cannot be written.
        MissingExtraError: the "talk" extra is not installed.
    """
    reveal = _reveal_js()
    slides: list[Slide] = []
    for done, path in enumerate(notebooks):
        if progress:
            progress("notebooks", done, len(notebooks))
        slides += slides_of(run(path, model), path.name)
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


def require() -> None:
    """See that everything is installed that slides are made with.

    Raises:
        MissingExtraError: something is not.
    """
    _reveal_js()
    if not all(map(importlib.util.find_spec, ("ipykernel", "nbclient", "nbconvert", "nbformat"))):
        raise MissingExtraError("Running notebooks", "talk")
