"""Pages of views in a browser: what is pointed at is told, nothing of a text runs or loads."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import image

from laplm import html_page, look
from laplm.look import page
from laplm.look.view import (
    AnswerAttention,
    Column,
    Edge,
    Grid,
    Maps,
    Network,
    Node,
    PagePart,
    Part,
    Passage,
    Span,
    Table,
    View,
    Word,
)
from laplm.look.views.attention import Attention
from laplm.run.language_model import LanguageModel

TEXT = "The capital of Spain is"
EVIL = "</script></section><img src=x onerror=\"document.title='run'\"><script>alert(1)</script>"


@dataclass(frozen=True)
class Shown(View):
    """A view of parts that are given."""

    given: list[Any] = field(default_factory=list)

    def parts(self) -> list[Part]:
        return [part for part in self.given if not isinstance(part, Network | AnswerAttention)]

    def page_parts(self) -> list[PagePart]:
        return list(self.given)

    def sentence(self) -> str:
        return EVIL

    def plot(self) -> Any:
        raise AssertionError("the page shows what the picture would")


def every_part(text: str) -> list[Any]:
    """One part of each kind, every text of it the same."""
    nodes = [Node("embedding", text, text, text, 0, 0), Node("head", text, text, text, 1, 1)]
    words = [Word(text, "control"), Word(text, "word", 0, True)]
    return [
        Grid(title=text, values=np.ones((1, 1), np.float32), row_labels=[text],
             column_labels=[text], texts=[[text]], tips=[[text]], note=text),
        Maps(title=text, values=np.ones((1, 2, 1, 1), np.float32), row_labels=[text],
             column_labels=[text, text], tokens=[text], marked=[(0, 1)], marked_by=text),
        Network(title=text, nodes=nodes, edges=[Edge(0, 1, 0.5, text)], levels=[(0, text)]),
        AnswerAttention(title=text, words=words, answer=[Span(text, 0.5, text)],
                weights=np.ones((1, 1), np.float32)),
        Passage(title=text, spans=[Span(text, 0.5, text)]),
        Table(title=text, columns=[Column(text), Column("share", 2, bar=True)],
              rows=[[text, 0.25]], note=text),
    ]  # fmt: skip


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """``opened(html)``: a page of a file; it may neither complain nor ask for anything else."""
    complaints: list[str] = []
    asked: list[str] = []
    contexts = []

    def call(html: str, **options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        shown = context.new_page()
        shown.on("console", lambda m: complaints.append(m.text))
        shown.on("pageerror", lambda e: complaints.append(str(e)))
        shown.on("request", lambda r: asked.append(r.url))
        file = tmp_path / "page.html"
        file.write_text(html, encoding="utf-8")
        shown.goto(file.as_uri())
        return shown

    call.told = (complaints, asked)  # type: ignore[attr-defined]
    yield call
    for context in contexts:
        context.close()
    assert not complaints
    assert all(url.startswith(("file:", "about:")) for url in asked), asked


@pytest.fixture(scope="module")
def attention(pocket: LanguageModel) -> Attention:
    return look.attention(pocket, TEXT)


def test_the_head_that_is_chosen_says_where_words_look(opened: Any, attention: Attention) -> None:
    shown = opened(attention.to_html())
    said = shown.locator("section[data-kind=maps] .readout")

    def told(head: tuple[int, int], row: int) -> str:
        shares = attention.pattern[head[0], head[1], row]
        best = int(shares.argmax())
        share = 100 * shares[best]
        number = f"{share:.0f}" if share >= 10 else f"{share:.1f}"
        return (
            f"{head[0]}.{head[1]}: “{attention.tokens[row]}” looks at "
            f"“{attention.tokens[best]}” {number}%"
        )

    assert said.text_content().startswith(told((4, 6), 4))
    assert "“·Spain” 98%" in said.text_content()
    shown.get_by_role("button", name="head 3.7").click()
    assert said.text_content().startswith(told((3, 7), 4))
    assert shown.locator("h3").text_content() == "head 3.7"
    word = shown.get_by_role("button", name="where “·Spain” looks")
    word.hover()
    assert said.text_content().startswith(told((3, 7), 3))
    word.click()
    shown.mouse.move(5, 5)
    assert said.text_content().startswith(told((3, 7), 3)), "it is pinned"
    # Arrow keys go from head to head and from word to word.
    shown.get_by_role("button", name="head 3.7").focus()
    shown.keyboard.press("ArrowDown")
    shown.keyboard.press("ArrowLeft")
    shown.keyboard.press("Enter")
    assert said.text_content().startswith(told((4, 6), 3))
    word.focus()
    shown.keyboard.press("ArrowRight")
    assert said.text_content().startswith(told((4, 6), 4))


def test_the_arcs_are_as_wide_as_the_shares(opened: Any, attention: Attention) -> None:
    shown = opened(attention.to_html())
    widths = shown.locator("svg .arc path").evaluate_all(
        "paths => paths.map((path) => Number(path.getAttribute('stroke-width')))"
    )
    shares = attention.pattern[4, 6, 4]
    np.testing.assert_allclose(widths, 1 + 7 * shares[shares >= 0.005], atol=1e-3)


def test_cells_of_a_matrix_are_told_and_pinned(opened: Any, pocket: LanguageModel) -> None:
    ablation = look.ablate(pocket, TEXT)
    shown = opened(ablation.to_html())
    canvas, said = shown.locator("section[data-kind=grid] canvas").first, shown.locator(".readout")
    canvas.focus()
    for key in ["ArrowUp"] * 2 + ["ArrowRight"] * 3:  # from the last row and the first column
        shown.keyboard.press(key)
    cell = f"layer 3, 3: {ablation.effect[3, 3]:+.2f}"
    assert said.text_content() == cell
    shown.keyboard.press("Enter")
    shown.keyboard.press("ArrowUp")
    assert said.text_content() == f"layer 2, 3: {ablation.effect[2, 3]:+.2f}"
    shown.locator("h1").click()
    assert said.text_content() == f"{cell} (pinned)"
    box = canvas.bounding_box()
    shown.mouse.move(box["x"] + box["width"] - 12, box["y"] + box["height"] - 12)
    assert said.text_content() == f"layer 5, 7: {ablation.effect[5, 7]:+.2f}"


def test_the_lens_tells_what_each_layer_would_say(opened: Any, pocket: LanguageModel) -> None:
    shown = opened(look.logit_lens(pocket, TEXT).to_html())
    canvas = shown.locator("section[data-kind=grid] canvas").first
    box = canvas.bounding_box()
    shown.mouse.move(box["x"] + box["width"] - 12, box["y"] + 30)
    said = shown.locator(".readout").first.text_content()
    assert said == "after layer 5, ·is: “·Madrid” 98.9%"
    shown.mouse.move(box["x"] + box["width"] - 12, box["y"] + 52)
    said = shown.locator(".readout").first.text_content()
    assert said.startswith("after layer 4, ·is: “·called” 59.0%, the model's answer “·Madrid” 7.3%")


def test_many_heads_and_a_long_text_have_room(opened: Any) -> None:
    rng = np.random.default_rng(0)
    values = np.tril(rng.random((30, 9, 40, 40), np.float32))
    values[np.isnan(values)] = 0
    tokens = [f"·word{i}" for i in range(40)]
    part = Maps(title="heads", values=values, row_labels=[f"layer {i}" for i in range(30)],
                column_labels=[f"head {i}" for i in range(9)], tokens=tokens)  # fmt: skip
    text = Passage(title="text", spans=[Span(token, 0.5) for token in tokens])  # without a space
    for width in (390, 1280):
        shown = opened(Shown([part, text]).to_html(), viewport={"width": width, "height": 844})
        assert shown.locator(".sheet button").count() == 270
        assert shown.evaluate("document.documentElement.scrollWidth") <= width
        shown.get_by_role("button", name="head 29.8").click()
        assert shown.locator("h3").text_content() == "head 29.8"
        word = shown.get_by_role("button", name="where “·word39” looks")
        assert word.bounding_box()["x"] < width, "the word that looks is in sight"


def test_of_a_text_that_is_too_long_the_last_rows_are_kept(
    opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "_MOST_NUMBERS", 2 * 8 * 3)
    values = np.tril(np.full((1, 2, 8, 8), 0.125, np.float32))
    part = Maps(title="heads", values=values, row_labels=["layer 0"], note="Rows look.",
                column_labels=["head 0", "head 1"], tokens=list("abcdefgh"))  # fmt: skip
    shown = opened(Shown([part]).to_html())
    assert "Of 8 positions the last 3 are here." in shown.locator("body").text_content()
    assert shown.get_by_role("button", name="where").count() == 3
    assert shown.locator(".readout").text_content().startswith("0.0: “h” looks at “a” 13%")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_of_a_text_runs_or_becomes_markup(opened: Any, theme: str) -> None:
    html = Shown(every_part(EVIL)).to_html()
    shown = opened(html, color_scheme=theme)
    assert shown.title() == EVIL
    assert shown.locator("img").count() == 0
    assert shown.locator("script:not([type])").count() == 1
    assert shown.locator("section").count() == 6


def test_the_policy_lets_no_other_script_run_and_nothing_load(opened: Any) -> None:
    shown = opened(Shown(every_part("a")).to_html())
    shown.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "document.title = 'run'";
            const image = document.createElement("img");
            image.src = "http://127.0.0.1:9/x.png";
            window.refused = 0;
            addEventListener("securitypolicyviolation", () => (window.refused += 1));
            document.body.append(script, image);
        }"""
    )
    shown.wait_for_timeout(50)
    assert shown.evaluate("window.refused") == 2 and shown.title() == "a"
    for told in opened.told:  # the browser's, of these two; playwright counts what was refused
        told.clear()


def test_rows_beyond_the_first_are_shown_when_asked_for(opened: Any) -> None:
    rows = [[i, i / 60] for i in range(60)]
    table = Table(title="rows", columns=[Column("i"), Column("p", 2, bar=True)], rows=rows)
    shown = opened(Shown([table, *every_part("x")[:1]]).to_html())
    visible = shown.locator("table tr:visible")
    assert visible.count() == 1 + 24
    shown.get_by_role("button", name="show all 60 rows").click()
    assert visible.count() == 1 + 60
    bar = shown.locator("td.bar").nth(30)
    assert bar.get_attribute("style") == "--share: 0.5"


def test_a_network_tells_what_a_node_reads(opened: Any) -> None:
    nodes = [Node("embedding", "a", "“a”", "“a” tip", 0, 0),
             Node("head", "0.1", "head 0.1", "head 0.1 tip", 1, 1),
             Node("logits", "out", "the logits", "out tip", 1, 2)]  # fmt: skip
    edges = [Edge(0, 1, 0.5, "a to 0.1"), Edge(1, 2, -0.25, "0.1 to out")]
    shown = opened(
        Shown([Network(title="n", nodes=nodes, edges=edges, levels=[(0, "embedding")])]).to_html()
    )
    said = shown.locator(".readout")
    node = shown.get_by_role("button", name="head 0.1 tip")
    node.hover()
    assert said.text_content() == "head 0.1 tip; reads “a” +0.50"
    node.click()
    shown.mouse.move(2, 2)
    assert said.text_content() == "head 0.1 tip; reads “a” +0.50"
    node.focus()
    shown.keyboard.press("ArrowRight")
    assert said.text_content() == "out tip; reads head 0.1 -0.25"
    assert shown.locator("path.against").count() == 1


def test_an_answer_tells_what_its_tokens_looked_at(opened: Any) -> None:
    words = [Word("<|s|>", "control"), Word("Who", "word", 0, True), Word("?", "word", 1, True)]
    answer = [Span("She", 0.5, "She 50%"), Span(".", 0.9, ". 90%")]
    weights = np.array([[0.75, 0.125], [0.0, 0.5]], np.float32)
    part = AnswerAttention(title="chat", words=words, answer=answer, weights=weights)
    shown = opened(Shown([part]).to_html())
    shares = shown.locator(".piece small")
    assert shares.all_text_contents() == ["75%", "13%"]
    assert shown.locator(".readout").text_content() == "She 50%"
    shown.get_by_role("button", name=". 90%").focus()
    assert shares.all_text_contents() == ["", "50%"]
    assert shown.locator(".piece.control").text_content() == "<|s|>"


def test_notebooks_show_it_in_a_frame_that_shares_nothing(
    opened: Any, attention: Attention
) -> None:
    both = attention._repr_html_() + Shown(every_part(EVIL))._repr_html_()
    shown = opened(f"<!doctype html><title>notebook</title><p id=x>x</p>{both}")
    first, second = shown.frames[1:]
    first.get_by_role("button", name="head 0.0").click()
    assert first.locator("h3").text_content() == "head 0.0"
    assert second.locator("h1").text_content() == EVIL
    # A frame sees neither the notebook nor the other one.
    seen = "(() => { try { return parent.document.title } catch { return null } })()"
    assert first.evaluate(seen) is None
    assert shown.title() == "notebook"
    heights = re.findall(r"width: 100%; height: (\d+)px", both)
    assert all(260 <= int(height) <= 760 for height in heights)


def test_without_scripts_there_are_tables(opened: Any, pocket: LanguageModel) -> None:
    ablation = look.ablate(pocket, TEXT)
    shown = opened(ablation.to_html(), java_script_enabled=False)
    cells = shown.locator("noscript td").all_text_contents()
    want = [f"{value:.2f}" for value in ablation.effect[0]]
    assert cells[:9] == ["layer 0", *want]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_serious_barrier(opened: Any, attention: Attention, theme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    for view in (attention, Shown(every_part("a word"))):
        # The page's own policy would refuse axe.
        html = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", view.to_html())
        found = Axe().run(opened(html, color_scheme=theme)).response["violations"]
        grave = [each for each in found if each["impact"] in ("serious", "critical")]
        assert not grave, [(each["id"], each["nodes"][0]["html"]) for each in grave]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_picture_is_as_light_or_dark_as_its_page(opened: Any, scheme: str) -> None:
    # As matplotlib draws: on white.
    drawn = '<svg width="300" height="200"><path d="M0 0H300V200H0z" style="fill: #ffffff"/></svg>'
    shown = opened(html_page.page("A", html_page.figure(drawn)), color_scheme=scheme)
    picture = image.imread(io.BytesIO(shown.locator("figure svg").screenshot()))
    light = float(picture[100, 150, :3].mean())
    assert light == 1 if scheme == "light" else 0.05 < light < 0.15
