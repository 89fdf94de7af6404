"""Slides of the talk: all of them, whole, and with nothing from outside."""

from __future__ import annotations

import base64
import html
import io
import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import pandas
import pytest
from PIL import Image

from laplm.errors import InputError, MissingExtraError
from laplm.talk import slides
from laplm.talk.dark import DARK_PNG

nbformat = slides.load_nbformat()
pytestmark = [
    pytest.mark.timeout(1800),  # one process makes the deck, the others wait for it
    pytest.mark.usefixtures("kernels_start_one_at_a_time"),
]
pytest_plugins = ("made_deck",)  # its fixture; a second conftest would hide the first one

ROOT = Path(__file__).parents[2]


class Row(NamedTuple):
    """A line of the list in docs/talk.md."""

    number: int
    title: str
    notebook: str
    cell: str
    command: str

    def __str__(self) -> str:
        return f"{self.number}"


SLIDES = [
    Row(int(number), *rest)
    for number, *rest in re.findall(
        r"^\| (\d+) \| (.*?) \| `(.*?)` \| `(.*?)` \| (?:`(.*)` )?\|$",
        (ROOT / "docs/talk.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
]
LISTED = [row for row in SLIDES if row.command]  # those that open and close parts have none


def notebook_of(*cells: tuple[str, ...]) -> Any:
    """A notebook of (kind of cell, kind of slide, source, tags …)."""
    made = []
    for kind, slide, source, *tags in cells:
        new = nbformat.v4.new_code_cell if kind == "code" else nbformat.v4.new_markdown_cell
        made.append(new(source, metadata={"slideshow": {"slide_type": slide}, "tags": tags}))
    return nbformat.v4.new_notebook(cells=made)


def given(**data: str) -> Any:
    """An output, by the last part of its kinds: ``markdown="..."``."""
    kinds = {"plain": "text/plain", "html": "text/html", "markdown": "text/markdown"}
    return nbformat.v4.new_output("display_data", {kinds[k]: text for k, text in data.items()})


def test_the_talk_has_the_slides_that_its_page_lists(deck) -> None:
    text = deck.index.read_text(encoding="utf-8")
    sections = re.findall(r'data-notebook="(.*?)">\s*<h2>(.*?)</h2>', text)
    assert [row.number for row in SLIDES] == list(range(1, len(SLIDES) + 1))
    assert [(row.notebook, row.title) for row in SLIDES] == [
        (name, html.unescape(title)) for name, title in sections
    ]


def test_the_page_counts_the_slides_and_the_short_talk_is_half_of_them() -> None:
    page = " ".join((ROOT / "docs/talk.md").read_text(encoding="utf-8").split())
    assert f"these {len(SLIDES)} slides" in page
    (listed,) = re.findall(r"leave out slides ([\d–, and]+)\.", page)
    ends = [(int(a), int(b or a)) for a, b in re.findall(r"(\d+)(?:–(\d+))?", listed)]
    out = [number for first, last in ends for number in range(first, last + 1)]
    assert out == sorted(set(out)) and out[-1] <= len(SLIDES)
    left = [row.title for row in SLIDES if row.number not in out]
    assert abs(len(left) - len(SLIDES) / 2) < 2
    assert {"Core concepts", "Running inference", "Fine-tuning", "Conclusion"} < set(left)
    assert {"The telling head", "Full fine-tuning or LoRA", "The loss curve"} < set(left)


def test_the_listed_cells_are_those_that_show_something(deck) -> None:
    for row in SLIDES:
        cells = deck.ran[row.notebook].cells
        at = next(i for i, cell in enumerate(cells) if cell.id == row.cell)
        assert cells[at].metadata["slideshow"]["slide_type"] in ("slide", "-", "fragment"), row
        assert cells[at].cell_type == "markdown" or cells[at].outputs, row
        kinds = [cell.metadata["slideshow"]["slide_type"] for cell in cells[: at + 1]]
        begins = cells[max(i for i, kind in enumerate(kinds) if kind == "slide")]
        given = [output.data.get("text/markdown", "") for output in begins.get("outputs", ())]
        words = "".join(given or [begins.source]) + "\n"
        assert words.startswith(f"## {row.title}\n"), row


@pytest.mark.parametrize("row", [row for row in LISTED if "laplm look" in row.command], ids=str)
def test_the_listed_looks_can_be_had_from_the_command_line(row: Row, laplm_) -> None:
    words = shlex.split(row.command)
    assert words[:2] == ["laplm", "look"]
    if words[2] == "compare":  # of a model that was tuned
        words[4] = "pocket"
    result = laplm_(*words[1:], "-m", "pocket") if words[2] != "compare" else laplm_(*words[1:])
    assert result.code == 0, result.err
    assert len(result.out) > 100


@pytest.mark.parametrize("row", [row for row in LISTED if "laplm look" not in row.command], ids=str)
def test_the_other_listed_commands_have_these_options(row: Row, laplm_) -> None:
    program, verb, *options = shlex.split(row.command)
    assert program == "laplm"
    usage = laplm_(verb, "--help").out
    for option in (word for word in options if word.startswith("-") and word != "--"):
        assert re.search(rf"(^|[\s\[,]){option}\b", usage), option
    if verb == "run":
        result = laplm_(verb, *options, "-m", "pocket")
        assert result.code == 0 and result.out, result.err


def test_every_slide_shows_something_and_has_notes(deck) -> None:
    found = [s for name, nb in deck.ran.items() for s in slides.slides_of(nb, name)]
    for slide in found:
        assert slide.title and (slide.words or slide.outputs), slide.title
        assert len("".join(slide.notes)) > 100, slide.title


def test_cells_become_slides_as_they_are_marked() -> None:
    notebook = notebook_of(
        ("markdown", "skip", "# 7 · A part\n\nbefore the first slide"),
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
    assert one.part == two.part == "7 · A part"
    assert one.words == ["<p>Some <em>words</em>.</p>\n"]
    assert one.outputs == ["<pre class=large>True &lt;b&gt;</pre>"]
    assert "said, not shown" in one.notes[0]
    page = slides.page([one, two])
    assert "hidden = 1" not in page and "a warning" not in page and "before the first" not in page
    assert "<h2>One &amp; only</h2>" in page


def test_fragments_come_one_after_the_other_and_code_with_what_it_gave() -> None:
    notebook = notebook_of(
        ("markdown", "slide", "## One\n\nAt once."),
        ("markdown", "-", "- a\n- b", "steps"),
        ("markdown", "fragment", "Then."),
        ("code", "-", "it"),
        ("code", "fragment", "last"),
        ("markdown", "slide", "## Two\n\nAt once."),
        ("markdown", "-", "And this."),
    )
    for cell in (notebook.cells[3], notebook.cells[4]):
        cell.outputs = [given(plain=f"from {cell.source}")]
    one, two = slides.slides_of(notebook, "x.ipynb")

    def index(text: str, among: list[str]) -> list[str]:
        (part,) = [part for part in among if text in part]
        return re.findall(r'data-fragment-index="(\d)"', part)

    assert index("At once", one.words) == [] and index("<li", one.words) == ["0", "1"]
    assert index("Then.", one.words) == index("from it", one.outputs) == ["2"]
    assert index("from last", one.outputs) == index("last", one.code) == ["3"]
    assert not any("fragment" in part for part in two.words)


def test_words_that_a_cell_gives_are_words_and_its_code_is_not_shown() -> None:
    notebook = notebook_of(
        ("code", "slide", "say('## About it')", "words"), ("code", "-", "more()", "words", "steps")
    )
    notebook.cells[0].outputs = [given(markdown="## About it & us\n\nIt is $x^2$.", plain="<M>")]
    notebook.cells[1].outputs = [given(markdown="- **one**")]
    (slide,) = slides.slides_of(notebook, "x.ipynb")
    assert slide.title == "About it & us"
    assert "<msup>" in slide.words[0] and "About it" not in slide.words[0]
    assert "<strong>one</strong>" in slide.words[1] and 'class="fragment"' in slide.words[1]
    assert not slide.outputs and "say(" not in slides.page([slide])


def test_code_is_folded_unless_a_cell_opens_it() -> None:
    notebook = notebook_of(
        ("markdown", "slide", "## One"),
        ("code", "-", "folded"),
        ("code", "-", "shown", "open-code"),
    )
    (slide,) = slides.slides_of(notebook, "x.ipynb")
    page = slides.page([slide])
    folded, words = (
        re.search(pattern, page, re.DOTALL)[0]  # type: ignore[index]
        for pattern in (r"<details.*?</details>", r'<div class="words">.*?</section>')
    )
    assert "folded" in folded and "shown" not in folded
    assert "shown" in words.partition("<details")[0]


@pytest.mark.parametrize("layout", ["title", "section", "closing"])
def test_slides_that_open_and_close_a_part_have_a_layout_of_their_own(layout: str) -> None:
    notebook = notebook_of(("markdown", "slide", "## One", layout), ("markdown", "slide", "## Two"))
    page = slides.page(slides.slides_of(notebook, "x.ipynb"))
    assert re.findall(r'<section class="(.*?)"', page) == [layout, "below only-words"]


def test_what_is_printed_is_large_where_it_is_short_and_narrow() -> None:
    notebook = notebook_of(("markdown", "slide", "## One"), ("code", "-", "it"))
    shown = []
    for text in ("a\n" * 8, "a\n" * 9, "a" * 76, "a" * 77):
        notebook.cells[1].outputs = [nbformat.v4.new_output("stream", name="stdout", text=text)]
        shown += slides.slides_of(notebook, "x.ipynb")[0].outputs
    assert ["class=large" in text for text in shown] == [True, False, True, False]


def test_markdown_that_a_cell_gives_is_drawn_and_widgets_are_not() -> None:
    notebook = notebook_of(("markdown", "slide", "## One"), ("code", "-", "it"))
    widget = given(plain="FloatSlider()")
    widget.data["application/vnd.jupyter.widget-view+json"] = {}
    notebook.cells[1].outputs = [widget, given(markdown="*so*", plain="<Markdown>")]
    (slide,) = slides.slides_of(notebook, "x.ipynb")
    assert len(slide.outputs) == 1 and "<em>so</em>" in slide.outputs[0]


def picture(width: int, height: int) -> Any:
    """An output with a PNG of that size."""
    file = io.BytesIO()
    Image.new("1", (width, height)).save(file, "PNG")
    data = {"image/png": base64.b64encode(file.getvalue()).decode(), "text/plain": "<Figure>"}
    return nbformat.v4.new_output("display_data", data)


def table(rows: int) -> Any:
    """An output with a pandas table."""
    frame = pandas.DataFrame({"a": range(rows)})
    return nbformat.v4.new_output("execute_result", {"text/html": frame.to_html()})


@pytest.mark.parametrize(
    ("output", "side"),
    [
        (picture(40, 30), "beside"), (picture(400, 80), "below"),
        (table(5), "below"), (table(11), "beside"),
    ],
)  # fmt: skip
def test_what_is_tall_stands_beside_the_words_and_what_is_wide_below(
    output: Any, side: str
) -> None:
    notebook = notebook_of(("markdown", "slide", "## One\n\nWords."), ("code", "-", "it"))
    notebook.cells[1].outputs = [output]
    assert f'<section class="{side}"' in slides.page(slides.slides_of(notebook, "x.ipynb"))


@pytest.mark.parametrize("side", ["beside", "below"])
def test_a_slide_may_say_where_its_pictures_are(side: str) -> None:
    notebook = notebook_of(("markdown", "slide", "## One", side), ("code", "-", "it"))
    for output in (picture(40, 30), picture(400, 80)):
        notebook.cells[1].outputs = [output]
        assert f'<section class="{side}"' in slides.page(slides.slides_of(notebook, "x.ipynb"))


def test_a_small_table_is_large() -> None:
    notebook = notebook_of(("markdown", "slide", "## One"), ("code", "-", "it"))
    shown = []
    for frame in (pandas.DataFrame({"a": ["b" * n] * m}) for n, m in ((30, 3), (60, 3), (9, 7))):
        notebook.cells[1].outputs = [given(html=frame.to_html())]
        shown += slides.slides_of(notebook, "x.ipynb")[0].outputs
    assert ["large" in text.partition(">")[0] for text in shown] == [True, False, False]


def test_rows_that_pandas_has_counted_are_not_shown_as_numbered() -> None:
    named = pandas.DataFrame({"a": [1, 2]}, index=["before", "after"])
    shown = []
    for output in (
        table(2), nbformat.v4.new_output("execute_result", {"text/html": named.to_html()}),
    ):  # fmt: skip
        notebook = notebook_of(("markdown", "slide", "## One"), ("code", "-", "it"))
        notebook.cells[1].outputs = [output]
        shown += slides.slides_of(notebook, "x.ipynb")[0].outputs
    assert ["unnamed" in text for text in shown] == [True, False]


def test_each_deck_has_its_picture(browser: Any, tmp_path: Path) -> None:
    notebook = notebook_of(("markdown", "slide", "## One"), ("code", "-", "it"))
    output = picture(40, 30)
    output.data[DARK_PNG] = picture(40, 30).data["image/png"]
    output.metadata = {DARK_PNG: {"title": 'What "it" is', "letters": 20.5}}
    notebook.cells[1].outputs = [output]
    (slide,) = slides.slides_of(notebook, "x.ipynb")
    assert slide.outputs[0].count('alt="What &quot;it&quot; is" data-letters="20.5"') == 2
    deck = tmp_path / "index.html"
    deck.write_text(slides.page([slide]), encoding="utf-8")
    for name, content in slides._reveal_js().items():
        (tmp_path / "reveal" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "reveal" / name).write_bytes(content)
    for scheme, other in (("light", "dark"), ("dark", "light")):
        context = browser.new_context(color_scheme=scheme)
        tab = context.new_page()
        tab.goto(deck.as_uri())
        tab.wait_for_function("window.Reveal && Reveal.isReady()")
        for theme in (scheme, other):  # as the system is, until D is pressed
            shown = {t: tab.locator(f"img.on-{t}").is_visible() for t in ("light", "dark")}
            assert shown == {theme: True, ({"light", "dark"} - {theme}).pop(): False}
            tab.keyboard.press("d")
        assert not tab.locator("details.code > div").is_visible()
        tab.keyboard.press("c")
        assert tab.locator("details.code > div").is_visible()
        context.close()


def test_a_cell_that_fails_is_named_with_its_error(tmp_path: Path) -> None:
    path = tmp_path / "broken.ipynb"
    nbformat.write(notebook_of(("code", "-", "a = 1"), ("code", "-", "\na / 0\nb = 2")), path)
    with pytest.raises(
        InputError, match=r"broken\.ipynb: .*'a / 0' ends with ZeroDivisionError: division by zero;"
    ):
        slides.run(path, "pocket")
    nbformat.write(notebook_of(("code", "-", "assert False")), path)
    with pytest.raises(InputError, match=r"'assert False' ends with AssertionError; open broken"):
        slides.run(path, "pocket")
    path.write_text("no notebook", encoding="utf-8")
    with pytest.raises(InputError, match=r"broken\.ipynb is not a notebook"):
        slides.run(path, "pocket")


def test_without_reveal_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slides.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r'pip install "laplm\[talk\]"'):
        slides.build_slides([], tmp_path / "slides", "pocket")
    assert not list(tmp_path.iterdir())


# Every visible part of the current slide that reaches beyond the slide, or beyond its own box.
CUT_OFF = """() => {
  const slide = Reveal.getCurrentSlide(), edge = slide.getBoundingClientRect(), found = [];
  if (slide.scrollWidth > slide.clientWidth + 1 || slide.scrollHeight > slide.clientHeight + 1)
    found.push("the slide");
  for (const part of slide.querySelectorAll("h2, p, pre, img, table, li")) {
    if (part.closest("aside") || !part.getClientRects().length) continue;
    const box = part.getBoundingClientRect();
    const room = (part.closest(".shown, .words") || slide).getBoundingClientRect();
    const right = Math.min(edge.right, innerWidth, room.right + 1.5);
    const bottom = Math.min(edge.bottom, innerHeight, room.bottom + 1.5);
    if (box.right > right || box.bottom > bottom) found.push(part.tagName);
    if (part.tagName === "IMG" && (box.width < 200 || box.height < 60)) found.push("tiny");
    if (parseFloat(getComputedStyle(part).fontSize) < 18) found.push("small letters");
    if (part.tagName === "IMG") {
      const scale = Math.min(box.width / part.naturalWidth, box.height / part.naturalHeight);
      const letters = part.dataset.letters * scale;
      if (letters < 18) found.push(`letters of ${letters.toFixed(1)} in a picture`);
    }
    const foot = slide.querySelector(".part").getBoundingClientRect();
    if (foot.height && box.bottom > foot.top) found.push("over the foot");
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
    assert tab.evaluate("Reveal.getTotalSlides()") == len(SLIDES)
    wrong: dict[str, list[str]] = {}
    assert tab.evaluate("Reveal.hasPlugin('notes')")
    for number in range(len(SLIDES)):
        tab.evaluate(f"Reveal.slide({number}, 0, 99)")  # with all its fragments
        title, found = tab.evaluate(CUT_OFF)
        wrong |= {title: found} if found else {}
        assert tab.evaluate("Reveal.getSlideNotes()"), title
    tab.close()
    assert wrong == {}
    beside = deck.index.parent.as_uri()
    assert asked and all(url.startswith((beside, "data:")) for url in asked)
    assert not complaints


def test_the_speaker_sees_notes_and_a_row_of_slides(deck, browser: Any) -> None:
    context = browser.new_context(viewport={"width": slides.WIDTH, "height": slides.HEIGHT})
    tab = context.new_page()
    tab.goto(deck.index.as_uri())
    tab.wait_for_function("window.Reveal && Reveal.isReady()")
    with context.expect_page() as opened:
        tab.keyboard.press("s")
    notes = opened.value.locator(".speaker-controls-notes .value")
    notes.get_by_text("Welcome.").wait_for()
    tab.bring_to_front()
    tab.keyboard.press("ArrowRight")
    notes.get_by_text("Six parts.").wait_for()
    tab.keyboard.press("o")
    neighbours = tab.locator(".slides > section > h2")
    for place in (0, 1, 2):
        neighbours.nth(place).wait_for(state="visible")
    context.close()
