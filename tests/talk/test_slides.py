"""Slides of the talk: all of them, whole, and with nothing from outside."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from laplm.errors import InputError, MissingExtraError
from laplm.talk import slides

ROOT = Path(__file__).parents[2]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
]  # fmt: skip


def notebook_of(*cells: tuple[str, str, str]) -> Any:
    """A notebook of (kind of cell, kind of slide, source)."""
    made = []
    for kind, slide, source in cells:
        new = nbformat.v4.new_code_cell if kind == "code" else nbformat.v4.new_markdown_cell
        made.append(new(source, metadata={"slideshow": {"slide_type": slide}}))
    return nbformat.v4.new_notebook(cells=made)


def test_the_talk_has_the_slides_that_its_page_lists(deck) -> None:
    text = deck.index.read_text(encoding="utf-8")
    sections = re.findall(r'data-notebook="(.*?)">\s*<h2>(.*?)</h2>', text)
    listed = re.findall(
        r"^\| (\d+) \| (.*?) \| `(.*?)` \|", (ROOT / "docs/talk.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )  # fmt: skip
    assert [int(number) for number, _, _ in listed] == list(range(1, 35))
    assert [(notebook, title) for _, title, notebook in listed] == sections


def test_every_slide_shows_something_and_has_notes(deck) -> None:
    found = [s for name, nb in deck.ran.items() for s in slides.slides_of(nb, name)]
    for slide in found:
        assert slide.words and slide.code and slide.outputs, slide.title
        assert len("".join(slide.notes)) > 100, slide.title


def test_cells_become_slides_as_they_are_marked() -> None:
    notebook = notebook_of(
        ("markdown", "-", "before the first slide"),
        ("markdown", "slide", "## One & only\n\nSome *words*."),
        ("code", "-", "print(1 < 2)"),
        ("code", "skip", "hidden = 1"),
        ("markdown", "notes", "said, not shown"),
        ("markdown", "slide", "## Two"),
    )
    notebook.cells[2].outputs = [
        nbformat.v4.new_output("stream", name="stdout", text="Tr"),
        nbformat.v4.new_output("stream", name="stderr", text="a warning"),
        nbformat.v4.new_output("stream", name="stdout", text="ue <b>\n"),
    ]
    one, two = slides.slides_of(notebook, "x.ipynb")
    assert (one.title, two.title) == ("One & only", "Two")
    assert one.words == ["<p>Some <em>words</em>.</p>\n"]
    assert one.outputs == ["<pre>True &lt;b&gt;</pre>"]
    assert "said, not shown" in one.notes[0]
    page = slides.page([one, two])
    assert "hidden = 1" not in page and "a warning" not in page and "before the first" not in page
    assert "<h2>One &amp; only</h2>" in page


def test_a_cell_that_fails_is_named_with_its_error(tmp_path: Path) -> None:
    path = tmp_path / "broken.ipynb"
    nbformat.write(notebook_of(("code", "-", "1 / 0")), path)
    with pytest.raises(InputError, match=r"broken\.ipynb: .*ZeroDivisionError: division by zero"):
        slides.run(path, "pocket")
    path.write_text("no notebook", encoding="utf-8")
    with pytest.raises(InputError, match=r"broken\.ipynb is not a notebook"):
        slides.run(path, "pocket")


def test_without_reveal_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slides.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r'pip install "laplm\[talk\]"'):
        slides.build([], tmp_path / "slides", "pocket")
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium here")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


# Every visible part of the current slide that reaches beyond the slide, or beyond its own box.
CUT_OFF = """() => {
  const slide = Reveal.getCurrentSlide(), edge = slide.getBoundingClientRect(), found = [];
  if (slide.scrollWidth > slide.clientWidth + 1 || slide.scrollHeight > slide.clientHeight + 1)
    found.push("the slide");
  for (const part of slide.querySelectorAll("h2, p, pre, img, table, li")) {
    if (part.closest("aside")) continue;
    const box = part.getBoundingClientRect();
    const room = (part.closest(".shown, .words") || slide).getBoundingClientRect();
    const right = Math.min(edge.right, innerWidth, room.right + 1.5);
    const bottom = Math.min(edge.bottom, innerHeight, room.bottom + 1.5);
    if (box.right > right || box.bottom > bottom) found.push(part.tagName);
    if (part.tagName === "IMG" && (box.width < 200 || box.height < 60)) found.push("tiny");
  }
  return [slide.querySelector("h2").textContent, found];
}"""


def test_nothing_is_cut_off_and_nothing_is_asked_for_outside(deck, browser: Any) -> None:
    tab = browser.new_page(viewport={"width": slides.WIDTH, "height": slides.HEIGHT})
    asked: list[str] = []
    complaints: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
    tab.goto(deck.index.as_uri())
    tab.wait_for_function("window.Reveal && Reveal.isReady()")
    assert tab.evaluate("Reveal.getTotalSlides()") == 34
    assert tab.evaluate("Reveal.hasPlugin('notes')")
    for number in range(34):
        tab.evaluate(f"Reveal.slide({number})")
        title, cut_off = tab.evaluate(CUT_OFF)
        assert not cut_off, title
        assert tab.evaluate("Reveal.getSlideNotes()"), title
    tab.close()
    beside = deck.index.parent.as_uri()
    assert asked and all(url.startswith((beside, "data:")) for url in asked)
    assert not complaints
